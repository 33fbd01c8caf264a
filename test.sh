#!/usr/bin/env bash
# The tests: bash test.sh [--slow] [options of pytest]. Makes .venv first where it is absent (6.5 GB; see run.sh --setup).
#   --slow     also the tests that take long or need a tool that not everybody has
#   -k NAME    only tests whose name holds NAME; of pytest, like every other option (-n 0: one process)
set -uo pipefail
case " $* " in
  *" -h "* | *" --help "*) sed -n '2,4s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit ;;
esac
cd "$(dirname "${BASH_SOURCE[0]}")" || exit 1
bash run.sh --setup || exit
python=${FERC_PYTHON:-.venv/bin/python}
marks=(-m "not slow")
arguments=()
for argument in "$@"; do
  if [ "$argument" = --slow ]; then marks=(); else arguments+=("$argument"); fi
done
"$python" -m ruff check --quiet . || exit
export OMP_NUM_THREADS=1  # one process per core, a file's tests on one of them
exec "$python" -m pytest -n auto --dist loadfile "${marks[@]}" "${arguments[@]}"
