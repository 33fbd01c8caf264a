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
exec "$python" -m pytest "${marks[@]}" "${arguments[@]}"
