#!/usr/bin/env bash
# The checks: ruff, mypy and the tests. Makes .venv (6.5 GB) first where it is absent or older than the requirements.
#   bash test.sh [--slow] [options of pytest]
#     --slow     also the tests that take long or need a tool that not everybody has
#     -k NAME    only tests whose name holds NAME (an option of pytest)
#     -n 0       all tests in one process, for a debugger (an option of pytest)
set -uo pipefail
case " $* " in
  *" -h "* | *" --help "*) sed -n '2,6s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit ;;
esac
cd "$(dirname "${BASH_SOURCE[0]}")" || exit 1
bash run.sh --setup-tests || exit
python=${FERC_PYTHON:-.venv/bin/python}
marks=(-m "not slow")
arguments=()
for argument in "$@"; do
  if [ "$argument" = --slow ]; then marks=(); else arguments+=("$argument"); fi
done
"$python" -m ruff check --quiet . || exit
"$python" -m mypy --no-error-summary || exit  # the folders that pyproject.toml names
export OMP_NUM_THREADS=1  # one process per core, a file's tests on one of them
exec "$python" -m pytest -n auto --dist loadfile "${marks[@]}" "${arguments[@]}"
