#!/usr/bin/env bash
# The published grid: every seed x data set x {uncalibrated, calibrated} x algorithm; builds missing FER-C sets first.
#   bash run.sh          the data sets that are in data/ (or $FERC_DATA)
#   bash run.sh --demo   a small grid on faces drawn on the spot: no data, no GPU, some minutes
#   bash run.sh --list   print the commands, one a line, and run nothing
#   bash run.sh --setup  only make .venv with the pinned packages
# Finished runs are skipped, started again it goes on. FERC_PYTHON=python uses that Python as it is, without .venv.
set -u
cd "$(dirname "${BASH_SOURCE[0]}")" || exit 1

fail() { echo "error: $*" >&2; exit 2; }

setup() {
  if [ -n "${FERC_PYTHON:-}" ]; then python="$FERC_PYTHON"; return; fi
  python=.venv/bin/python
  local want have free base
  want=$(cksum <requirements.txt)
  have=$(cat .venv/installed 2>/dev/null)
  [ "$have" = "$want" ] && [ -x "$python" ] && return
  for base in python3 python3.11 python3.12 python3.13; do
    "$base" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break
    base=
  done
  [ -n "$base" ] || fail "Python 3.11 or newer is needed and none was found (python3: $(python3 -V 2>/dev/null || echo absent))"
  "$base" -c 'import venv, ensurepip' 2>/dev/null || fail "$base has no venv module (on Debian: apt install python3-venv)"
  free=$(df -Pk . | awk 'NR == 2 {print int($4 / 1048576)}')
  [ -x "$python" ] || [ "$free" -ge 8 ] || fail "the packages take 6.4 GB, here are $free GB free"
  echo "installing the pinned packages into .venv: two to three minutes, 6.4 GB" >&2
  "$python" -m pip --version >/dev/null 2>&1 || "$base" -m venv .venv || fail "$base -m venv .venv failed"
  if ! "$python" -m pip install -q --disable-pip-version-check -r requirements.txt >.venv/install.log 2>&1; then
    fail "installing failed: $(grep -iE 'error|no space' .venv/install.log | tail -n 1) (all of it: .venv/install.log)"
  fi
  echo "$want" >.venv/installed
}

demo= list=
for argument in "$@"; do
  case "$argument" in
    --demo) demo=1 ;;
    --list) list=1 ;;
    --setup) setup; exit ;;
    -h | --help) sed -n '2,7s/^# \{0,1\}//p' "$0"; exit ;;
    *) fail "unknown option $argument; see bash run.sh --help" ;;
  esac
done

data=${FERC_DATA:-data}
runs=${FERC_RUNS:-runs}
options=()
seeds="0 1 2" sets="affectnet affwild rafdb ferplus" losses="ce maxent+mbls" algorithms="baseline SCN DMUE RUL swinv2"
declare -A title=([affectnet]=AffectNet [affwild]=AffWild [rafdb]=RAF-DB [ferplus]=FERPlus [demo]=Demo)
if [ -n "$demo" ]; then
  seeds=0 sets=demo options=(--cache "$data/decoded")
else
  found= looked=
  for name in $sets; do
    [ -f "datasets/$name.py" ] || continue
    looked="$looked $data/$name"
    [ -d "$data/$name" ] && found="$found $name"
  done
  [ -n "$found" ] || fail "no data set found; looked for$looked. Put one there, set FERC_DATA, or try: bash run.sh --demo"
  sets=$found
fi

failed=()
do_one() {  # name, command ...: run it, or print it as it can be typed
  local name=$1; shift
  if [ -n "$list" ]; then printf '%q ' "$@"; echo; return; fi
  echo "=== $name: $*"
  "$@" && return
  failed+=("$name: $*")
  return 1
}

scored() {  # run, set: all of this set is scored, with the weights that are there
  local version images
  version=$(sed -n 's/^ "set_version": "\([0-9a-f]*\)".*/\1/p' "$2/manifest.json" 2>/dev/null)
  images=$(sed -n 's/^  "images": \([0-9]*\).*/\1/p' "$2/manifest.json" 2>/dev/null)
  [ "$1/scores.csv" -nt "$1/best.pt" ] && grep -qx "${2##*/},$version,softmax,pooled,,n,$images" "$1/scores.csv"
}

trap 'echo "stopped; the same command goes on from here" >&2; exit 130' INT TERM
python=${FERC_PYTHON:-.venv/bin/python}
[ -n "$list" ] || setup
for name in $sets; do
  [ -f "$data/${title[$name]}-C/manifest.json" ] ||
    do_one "build ${title[$name]}-C" "$python" make_fer_c.py --dataset "$name" --root "$data/$name" --out "$data/${title[$name]}-C"
  for seed in $seeds; do for algorithm in $algorithms; do for loss in $losses; do
    [ -f "train_$algorithm.py" ] || continue
    folder=$runs/$name/$algorithm/$loss/noise0/seed$seed
    scored "$folder" "$data/${title[$name]}-C" && continue
    do_one "train $folder" "$python" "train_$algorithm.py" --dataset "$name" --root "$data/$name" --loss "$loss" --seed "$seed" --runs "$runs" "${options[@]}" || continue
    do_one "score $folder" "$python" evaluate.py "$folder" --set "$data/${title[$name]}-C"
  done; done; done
done
[ -n "$list" ] && exit
"$python" report.py "$runs" || failed+=("report")
if [ ${#failed[@]} -gt 0 ]; then
  echo "failed (${#failed[@]}):" >&2
  printf '  %s\n' "${failed[@]}" >&2
  exit 1
fi
