#!/usr/bin/env bash
# The tests: bash test.sh [--slow] [pytest's own options]. Makes .venv first where it is absent.
set -u
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
