#!/usr/bin/env bash
# The published grid: seeds x data sets x algorithms x {uncalibrated, calibrated}. Builds missing FER-C sets first.
#   bash run.sh [SET ...]   affectnet affwild rafdb, those that are in data/; or the named ones (ferplus, demo, ...)
#   bash run.sh --demo      a small grid on faces drawn on the spot: no data, no GPU, ten minutes, 5 GB of disk
#     --noise               also with 10, 20 and 30 % wrong training labels
#     --ablation            also the losses focal and maxent (published for rafdb), and the other multipliers of MaxEnt
#     --only REGEX          only runs whose set/algorithm/loss/noise<percent>/seed<n> matches
#     --seeds "0 1 2"       these seeds (--demo: 0)
#     --protocol released   as the FER-C release behaves: sets <Title>-C-released, runs in runs/released/
#     --image-size N        of the sets built and of training
#     --jobs N              N runs at a time, GPUs and cores dealt out, output in runs/logs/ (--demo: 2)
#     --list                run nothing; print what is missing: builds to standard error, to standard output a line a run
#     --setup               only make .venv with the pinned packages (6.5 GB)
#     -- OPTION ...         the rest goes to the training scripts
# Finished runs are skipped; started again it goes on. Environment: FERC_DATA (data), FERC_RUNS (runs): the folders;
# FERC_PYTHON=python uses that Python as it is, without .venv.
set -uf -o pipefail  # -f: no word here is ever a pattern of file names

fail() { echo "error: $*" >&2; exit 2; }

repeated() {  # words: the first one that was there before
  local word before=" "
  for word; do
    case "$before" in *" $word "*) echo "$word"; return ;; esac
    before="$before$word "
  done
}

# --- the command line ---

demo= list= noise= ablation= setup= only=. jobs= seeds= protocol=paper sets=() size=() options=()
while [ $# -gt 0 ]; do
  argument=$1; shift
  case "$argument" in
    --demo) demo=1 ;;
    --list) list=1 ;;
    --noise) noise=1 ;;
    --ablation) ablation=1 ;;
    --setup) setup=1 ;;
    --only | --seeds | --jobs | --image-size | --protocol)
      [[ "${1:-}" && "$1" != -* ]] || fail "$argument takes a value; see bash run.sh --help"
      case "$argument" in
        --only) only=$1 ;;
        --seeds) seeds=$1 ;;
        --jobs) jobs=$1 ;;
        --protocol) protocol=$1 ;;
        --image-size) size=(--image-size "$1") ;;
      esac
      shift ;;
    -h | --help) sed -n '2,16s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit ;;
    --) options=("$@"); break ;;
    -*) fail "unknown option $argument; see bash run.sh --help" ;;
    *) sets+=("$argument") ;;
  esac
done
[[ "$jobs" =~ ^([1-9][0-9]{0,3})?$ ]] || fail "--jobs takes a number from 1 on, not $jobs"
[[ "$protocol" =~ ^(paper|released)$ ]] || fail "--protocol is paper or released, not $protocol"
[[ "${size[1]:-224}" =~ ^[1-9][0-9]{1,3}$ ]] || fail "--image-size takes a number of pixels, not ${size[1]}"
[[ "$seeds" =~ ^((0|[1-9][0-9]{0,8})( +|$))*$ ]] || fail "--seeds takes whole numbers, as in \"0 1 2\", not $seeds"
[ -z "$(repeated $seeds)" ] || fail "--seeds names $(repeated $seeds) twice: $seeds"
[[ x =~ $only ]] 2>/dev/null
[ $? -le 1 ] || fail "--only is no regular expression (of the kind of grep -E): $only"
[ -z "$demo" ] || [ ${#sets[@]} -eq 0 ] || fail "--demo takes no data set; without --demo: bash run.sh ${sets[*]}"
for option in "${options[@]}"; do
  case "${option%%=*}" in
    --dataset | --root | --loss | --calib | --noise | --seed | --runs | --protocol | --image-size)
      fail "${option%%=*} is set by the grid and cannot stand after --; see bash run.sh --help" ;;
    -h | --help) fail "for the options of a training script: ${FERC_PYTHON:-.venv/bin/python} train_baseline.py --help" ;;
  esac
done

# Folders in the environment are the caller's, whatever folder he is in.
absolute() { [[ "$1" = /* ]] && echo "$1" || echo "$PWD/$1"; }
[ -z "${FERC_DATA:-}" ] && unset FERC_DATA || export FERC_DATA="$(absolute "$FERC_DATA")"
[ -z "${FERC_RUNS:-}" ] && unset FERC_RUNS || export FERC_RUNS="$(absolute "$FERC_RUNS")"
[[ "${FERC_PYTHON:-}" != */* ]] || FERC_PYTHON=$(absolute "$FERC_PYTHON")
caller=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")" || exit 1
data=${FERC_DATA:-data}
runs=${FERC_RUNS:-runs}
[[ "$data$runs" != *[$'\t\n']* ]] || fail "a folder's name holds a tab or a line break: $data, $runs"

# --- set-up ---

find_python() {  # base: a Python to make .venv with
  for base in python3 python3.11 python3.12 python3.13; do
    "$base" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && return
  done
  fail "Python 3.11 or newer is needed and none was found (python3: $(python3 -V 2>/dev/null || echo absent))"
}

need_room() {  # folder, GB, what for
  local folder=$1 free
  until [ -d "$folder" ]; do folder=$(dirname "$folder"); done
  free=$(df -Pk "$folder" | awk 'NR == 2 {print int($4 / 1000000)}')
  [ "$free" -ge "$2" ] || fail "$3 $2 GB of disk, and $(cd "$folder" && pwd) has $free GB free"
}

set_up() {
  [ -z "${FERC_PYTHON:-}" ] || return 0
  local want have
  want=$(cksum <requirements.txt)
  have=$(cat .venv/installed 2>/dev/null)
  [ "$have" = "$want" ] && [ -x "$python" ] && return
  find_python
  "$base" -c 'import venv, ensurepip' 2>/dev/null || fail "$base has no venv module (on Debian: apt install python3-venv)"
  [ -x "$python" ] || need_room . 7 "the packages take"
  echo "installing the pinned packages into .venv: three to five minutes, 6.5 GB" >&2
  "$python" -m pip --version >/dev/null 2>&1 || "$base" -m venv .venv || fail "$base -m venv .venv failed"
  if ! "$python" -m pip install -q --disable-pip-version-check -r requirements.txt >.venv/install.log 2>&1; then
    fail "installing failed: $(grep -iE 'error|no space' .venv/install.log | tail -n 1) (all of it: .venv/install.log)"
  fi
  echo "$want" >.venv/installed
}

python=${FERC_PYTHON:-.venv/bin/python}
if [ -n "$setup" ]; then set_up; exit; fi

# --- the data sets ---

base=$python
[ -x "$(command -v "$python")" ] || { [ -z "${FERC_PYTHON:-}" ] || fail "FERC_PYTHON=$FERC_PYTHON cannot be run"; find_python; }
tables=$("$base" support/sets.py) || fail "$base support/sets.py failed: FERC_PYTHON has to be a Python"
declare -A title mixture  # of each data set: its name in print, and the set whose mixture labels it
while IFS=$'\t' read -r name named labelled_by; do
  title[$name]=$named mixture[$name]=$labelled_by
done <<<"$tables"
for name in "${sets[@]}"; do
  [ -n "${title[$name]:-}" ] || fail "unknown data set $name; known: $(cut -f 1 <<<"$tables" | xargs)"
done
[ -z "$(repeated "${sets[@]}")" ] || fail "the data set $(repeated "${sets[@]}") is named twice"

variant= protocol_option=() below=$runs
[ "$protocol" = paper ] || { variant=-$protocol protocol_option=(--protocol "$protocol") below=$runs/$protocol; }
shown=$below  # what the report is about
if [ -n "$demo" ]; then
  sets=(demo) seeds=${seeds:-0} jobs=${jobs:-2} shown=$below/demo options=(--cache "$data/demo/decoded" "${options[@]}")
elif [ ${#sets[@]} -eq 0 ]; then
  for name in affectnet affwild rafdb; do
    [ ! -d "$data/$name" ] || sets+=("$name")
  done
  [ ${#sets[@]} -gt 0 ] || fail "no data set found; looked for $data/affectnet $data/affwild $data/rafdb." \
    "Put one there, set FERC_DATA, or try: bash run.sh --demo"
fi
jobs=${jobs:-1} seeds=${seeds:-0 1 2}

# --- the jobs: lines `id <TAB> ids it comes after <TAB> command` for sweep.py ---

job() {  # id, ids it comes after, command ...
  printf '%s\t%s\t' "$1" "$2"
  shift 2
  printf "'%s' " "${@//\'/\'\\\'\'}"
  echo
}

train() {  # data set, algorithm, loss, percent of wrong labels, seed, more options ...: training and scoring of a run
  local run=$1/$2/$3/noise$4/seed$5 wrong=()
  [[ "$run" =~ $only ]] || return 0
  [ "$4" = 0 ] || wrong=(--noise "0.$4")
  job "$run" "build/$1" "$python" "train_$2.py" --dataset "$1" --root "$data/$1" --loss "$3" --seed "$5" \
    --runs "$below" "${wrong[@]}" "${size[@]}" "${protocol_option[@]}" "${@:6}" "${options[@]}"
  job "$run/score" "build/$1,$run" "$python" evaluate.py "{run:$run}" --set "$data/${title[$1]}-C$variant"
}

build() {  # data set
  local set=$data/${title[$1]}-C$variant other=${mixture[$1]} gmm=() after=
  if [ -n "$other" ]; then
    local file=$data/${title[$other]}-C$variant/gmm.json
    [[ " ${sets[*]} " != *" $other "* ]] || after=build/$other
    [[ -z "$after" && ! -f "$file" ]] || gmm=(--gmm "$file")
  fi
  job "build/$1" "$after" "$python" make_fer_c.py --dataset "$1" --root "$data/$1" --out "$set" "${gmm[@]}" \
    "${size[@]}" "${protocol_option[@]}"
}

algorithms="baseline SCN DMUE RUL swinv2"

grid() {
  for seed in $seeds; do for set in "${sets[@]}"; do for algorithm in $algorithms; do for loss in ce maxent+mbls; do
    train "$set" "$algorithm" "$loss" 0 "$seed"
  done; done; done; done
  [ -z "$noise" ] || for percent in 10 20 30; do
    for seed in $seeds; do for set in "${sets[@]}"; do for algorithm in $algorithms; do for loss in ce maxent+mbls; do
      train "$set" "$algorithm" "$loss" "$percent" "$seed"
    done; done; done; done
  done
  [ -z "$ablation" ] || for seed in $seeds; do for set in "${sets[@]}"; do for algorithm in $algorithms; do
    for loss in focal maxent maxent-constant+mbls maxent-aaai+mbls; do
      train "$set" "$algorithm" "$loss" 0 "$seed"
    done
    train "$set" "$algorithm" maxent-gibbs+mbls 0 "$seed" --maxent-prior data  # with the uniform one it is focal+mbls
  done; done; done
}

trainings=$(grid)
[ -n "$trainings" ] || fail "no run matches --only $only; names are like ${sets[0]}/SCN/maxent+mbls/noise0/seed0"
lines=$(
  for set in "${sets[@]}"; do build "$set"; done
  echo "$trainings"
  job report '*' "$python" report.py "$shown" --html "$shown/report/report.html" --brief
)

# --- run them ---

if [ -n "$list" ]; then
  exec "$base" sweep.py --list --caller "$caller" <<<"$lines"
fi
if [[ "$demo" && ! -d "$shown" ]]; then  # two checkpoints of DMUE at a time are most of it; a quarter of it stays
  [ -x "$(command -v "$python")" ] || need_room . 12 "the packages and the demo take"
  need_room "$runs" 5 "the demo takes"
fi
set_up
exec "$python" sweep.py --jobs "$jobs" --logs "$shown/logs" <<<"$lines"  # exec: signals to this process reach sweep.py
