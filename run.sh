#!/usr/bin/env bash
# The grid of the paper: seeds x data sets x algorithms x {cross-entropy, calibrated}. Builds missing sets first.
#   bash run.sh [DATASET ...]   affectnet affwild rafdb, those that are in data/; or the named ones (ferplus, demo, ...)
#   bash run.sh --demo          a small grid on faces drawn on the spot: no data, no GPU, ten minutes, 5 GB of disk
#     --noise               also with 10, 20 and 30 % wrong training labels
#     --ablation            also the losses focal and maxent (published for rafdb), and the other multipliers of MaxEnt
#     --open-set            instead of the grid: open-set runs, one for each class that is open (docs/openset.md); with
#                           --demo only without calibration
#     --open-pairs          as --open-set, and one for each pair of open classes
#     --only REGEX          only runs whose dataset/algorithm/loss/noise<percent>/seed<n> matches (missing sets of all the
#                           data sets are built all the same)
#     --seeds "0 1 2"       these seeds (--demo: 0)
#     --protocol released   as the FER-C release behaves; built sets are <Title>-C-released, runs are in runs/released/
#     --image-size N        side of the images in pixels, in the sets that are built and in training
#     --jobs N              N jobs at a time (--demo: 2); each gets a GPU, an equal part of the cores, and a log file in
#                           runs/logs/ (--demo: runs/demo/logs/; released: runs/released/logs/)
#     --list                run nothing; print what is missing: builds to standard error, runs to standard output
#     --setup               only make .venv with the pinned packages (6.5 GB); --setup-tests: also those of the tests
#     -- OPTION ...         options for the training scripts
# Finished runs are skipped, so the same command goes on after an interruption. Environment: FERC_DATA, FERC_RUNS and
# FERC_CACHE are the folders of data, runs and decoded images (default: data, runs, runs/cache); FERC_PYTHON=python uses
# that Python as it is, without .venv.
set -uf -o pipefail  # -f: no word here is ever a pattern of file names

fail() { echo "error: $*" >&2; exit 2; }

repeated() {  # prints the first of its words that appears twice
  local word earlier=" "
  for word; do
    case "$earlier" in *" $word "*) echo "$word"; return ;; esac
    earlier="$earlier$word "
  done
}

absolute() {  # prints a path as an absolute one
  if [[ "$1" = /* ]]; then echo "$1"; else echo "$PWD/$1"; fi
}

# --- the command line ---

demo= list= noise= ablation= open_set= open_pairs=  # flags: empty or 1
setup=() only=. jobs= seeds= protocol=paper
sets=() size=() options=()    # size: --image-size N as two words, for commands
while [ $# -gt 0 ]; do
  argument=$1; shift
  case "$argument" in
    --demo) demo=1 ;;
    --list) list=1 ;;
    --noise) noise=1 ;;
    --ablation) ablation=1 ;;
    --open-set) open_set=1 ;;
    --open-pairs) open_set=1 open_pairs=1 ;;
    --setup) setup=(requirements.txt) ;;
    --setup-tests) setup=(requirements.txt requirements-dev.txt) ;;
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
    -h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit ;;
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
[[ x =~ $only ]] 2>/dev/null  # status 0: matches, 1: does not match, 2: $only is no regular expression
[ $? -le 1 ] || fail "--only is no regular expression (of the kind of grep -E): $only"
[ -z "$demo" ] || [ ${#sets[@]} -eq 0 ] || fail "--demo takes no data set; without --demo: bash run.sh ${sets[*]}"
[[ -z "$open_set" || -z "$noise$ablation" ]] || fail "--open-set goes with neither --noise nor --ablation"
for option in "${options[@]}"; do
  case "${option%%=*}" in
    --open | --dataset | --root | --loss | --calib | --noise | --seed | --runs | --protocol | --image-size)
      fail "${option%%=*} is set by the grid and cannot stand after --; see bash run.sh --help" ;;
    -h | --help) fail "for the options of a training script: ${FERC_PYTHON:-.venv/bin/python} train_baseline.py --help" ;;
  esac
done

# Paths in the environment are relative to the folder of the caller; from here on everything happens in this one.
for variable in FERC_DATA FERC_RUNS FERC_CACHE; do
  if [ -n "${!variable:-}" ]; then export "$variable=$(absolute "${!variable}")"; else unset "$variable"; fi
done
if [[ "${FERC_PYTHON:-}" = */* ]]; then FERC_PYTHON=$(absolute "$FERC_PYTHON"); fi
caller=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")" || exit 1
data=${FERC_DATA:-data}
runs=${FERC_RUNS:-runs}
export FERC_CACHE=${FERC_CACHE:-$runs/cache}  # of decoded images: one for all runs, also for those of --protocol released
[[ "$data$runs" != *[$'\t\n']* ]] || fail "a folder's name holds a tab or a line break: $data, $runs"

# --- set-up ---

find_python() {  # sets `base` to a Python that can make .venv
  for base in python3 python3.11 python3.12 python3.13; do
    "$base" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && return
  done
  fail "Python 3.11 or newer is needed and none was found (python3: $(python3 -V 2>/dev/null || echo absent))"
}

need_room() {  # folder, GB, "the packages take": fails where the disk of the folder has less room
  local folder=$1 free
  until [ -d "$folder" ]; do folder=$(dirname "$folder"); done
  free=$(df -Pk "$folder" | awk 'NR == 2 {print int($4 / 1000000)}')
  [ "$free" -ge "$2" ] || fail "$3 $2 GB of disk, and $(cd "$folder" && pwd) has $free GB free"
}

set_up() {  # requirement files: installs them into .venv, unless .venv/installed holds the checksums of all of them
  [ -z "${FERC_PYTHON:-}" ] || return 0
  local file files=() missing=
  for file; do
    files+=(-r "$file")
    grep -qxF "$(cksum <"$file") $file" .venv/installed 2>/dev/null || missing=1
  done
  if [ -z "$missing" ] && [ -x "$python" ]; then return; fi
  find_python
  "$base" -c 'import venv, ensurepip' 2>/dev/null || fail "$base has no venv module (on Debian: apt install python3-venv)"
  [ -x "$python" ] || need_room . 7 "the packages take"
  echo "installing the pinned packages into .venv: three to five minutes, 6.5 GB" >&2
  "$python" -m pip --version >/dev/null 2>&1 || "$base" -m venv .venv || fail "$base -m venv .venv failed"
  if ! "$python" -m pip install -q --disable-pip-version-check "${files[@]}" >.venv/install.log 2>&1; then
    fail "installing failed: $(grep -iE 'error|no space' .venv/install.log | tail -n 1) (all of it: .venv/install.log)"
  fi
  for file; do echo "$(cksum <"$file") $file"; done >.venv/installed
}

python=${FERC_PYTHON:-.venv/bin/python}
if [ ${#setup[@]} -gt 0 ]; then set_up "${setup[@]}"; exit; fi

# --- the data sets ---

base=$python  # what needs no packages also runs before there is a .venv, and so do commands that say what is missing
if [ ! -x "$(command -v "$python")" ]; then
  [ -z "${FERC_PYTHON:-}" ] || fail "FERC_PYTHON=$FERC_PYTHON cannot be run"
  find_python
fi
reader=support/data_set_tables.py
tables=$("$base" $reader) || fail "$base $reader failed: FERC_PYTHON has to be a Python"
declare -A title mixture  # of each data set: its name in print, and the data set whose mixture labels it
while IFS=$'\t' read -r name named labelled_by; do
  title[$name]=$named mixture[$name]=$labelled_by
done <<<"$tables"
for name in "${sets[@]}"; do
  [ -n "${title[$name]:-}" ] || fail "unknown data set $name; known: $(cut -f 1 <<<"$tables" | xargs)"
done
[ -z "$(repeated "${sets[@]}")" ] || fail "the data set $(repeated "${sets[@]}") is named twice"

variant= protocol_option=() grid_folder=$runs  # variant: the end of the name of a built set
if [ "$protocol" != paper ]; then
  variant=-$protocol protocol_option=(--protocol "$protocol") grid_folder=$runs/$protocol
fi
report_folder=$grid_folder
if [ -n "$demo" ]; then
  sets=(demo) seeds=${seeds:-0} jobs=${jobs:-2} report_folder=$grid_folder/demo
elif [ ${#sets[@]} -eq 0 ]; then
  for name in affectnet affwild rafdb; do
    [ ! -d "$data/$name" ] || sets+=("$name")
  done
  [ ${#sets[@]} -gt 0 ] || fail "no data set found; looked for $data/affectnet $data/affwild $data/rafdb." \
    "Put one there, set FERC_DATA, or try: bash run.sh --demo"
fi
jobs=${jobs:-1} seeds=${seeds:-0 1 2}

# --- the jobs: lines `id <TAB> ids it comes after <TAB> command` for sweep.py ---

job() {  # id, ids it comes after, command ...: prints the line of a job
  printf '%s\t%s\t' "$1" "$2"
  shift 2
  printf "'%s' " "${@//\'/\'\\\'\'}"
  echo
}

train() {  # data set, algorithm, loss, percent of wrong labels, seed, more options ...: a run's training and its scoring
  local set=$1 algorithm=$2 loss=$3 percent=$4 seed=$5 noise_option=()
  local run=$set/$algorithm/$loss/noise$percent/seed$seed
  [[ "$run" =~ $only ]] || return 0
  [ "$percent" = 0 ] || noise_option=(--noise "0.$percent")  # percent has two digits: 10, 20 or 30
  job "$run" "build/$set" "$python" "train_$algorithm.py" --dataset "$set" --root "$data/$set" --loss "$loss" \
    --seed "$seed" --runs "$grid_folder" "${noise_option[@]}" "${size[@]}" "${protocol_option[@]}" "${@:6}" "${options[@]}"
  job "$run/score" "build/$set,$run" "$python" evaluate.py "{run:$run}" --set "$data/${title[$set]}-C$variant"
}

build() {  # data set: builds the set of its test split, after that of the data set whose mixture labels it
  local set=$1 other=${mixture[$1]} gmm=() after=
  if [ -n "$other" ]; then
    local file=$data/${title[$other]}-C$variant/gmm.json
    [[ " ${sets[*]} " != *" $other "* ]] || after=build/$other
    # with the other set's mixture, where that set is built in this sweep or was built before
    if [[ -n "$after" || -f "$file" ]]; then gmm=(--gmm "$file"); fi
  fi
  job "build/$set" "$after" "$python" make_fer_c.py --dataset "$set" --root "$data/$set" \
    --out "$data/${title[$set]}-C$variant" "${gmm[@]}" "${size[@]}" "${protocol_option[@]}"
}

algorithms="baseline SCN DMUE RUL swinv2"

grid() {
  for seed in $seeds; do for set in "${sets[@]}"; do for algorithm in $algorithms; do for loss in ce maxent+mbls; do
    train "$set" "$algorithm" "$loss" 0 "$seed"
  done; done; done; done
  if [ -n "$noise" ]; then
    for percent in 10 20 30; do
      for seed in $seeds; do for set in "${sets[@]}"; do for algorithm in $algorithms; do for loss in ce maxent+mbls; do
        train "$set" "$algorithm" "$loss" "$percent" "$seed"
      done; done; done; done
    done
  fi
  if [ -n "$ablation" ]; then
    for seed in $seeds; do for set in "${sets[@]}"; do for algorithm in $algorithms; do
      for loss in focal maxent maxent-constant+mbls maxent-aaai+mbls; do
        train "$set" "$algorithm" "$loss" 0 "$seed"
      done
      train "$set" "$algorithm" maxent-gibbs+mbls 0 "$seed" --maxent-prior data  # with a uniform prior MaxEnt's term is 0
    done; done; done
  fi
}

classes_of() {  # data set: the names of its classes, as --open takes them, with the options --data of the command line
  local set=$1 data_options=() previous= word
  for word in "${options[@]}"; do
    if [ "$previous" = --data ]; then data_options+=(--data "$word"); fi
    case "$word" in --data=*) data_options+=(--data "${word#--data=}") ;; esac
    previous=$word
  done
  "$python" -m datasets.class_list --dataset "$set" --root "$data/$set" "${data_options[@]}"
}

open_set_run() {  # data set, loss, seed, open classes: an open-set run, which trains and scores
  local set=$1 loss=$2 seed=$3 open=$4
  local run=$set/openset/$loss/open-$open/noise0/seed$seed
  [[ "$run" =~ $only ]] || return 0
  job "$run" "" "$python" train_openset.py --dataset "$set" --root "$data/$set" --loss "$loss" --open "$open" \
    --seed "$seed" --runs "$grid_folder" "${size[@]}" "${protocol_option[@]}" "${options[@]}"
}

open_set_grid() {
  local losses="ce maxent+mbls" name other
  local -A names_of  # of each data set: its classes
  [ -z "$demo" ] || losses=ce
  for set in "${sets[@]}"; do
    names_of[$set]=$(classes_of "$set") || fail "the classes of $set cannot be listed (see above)"
  done
  for seed in $seeds; do for set in "${sets[@]}"; do for loss in $losses; do
    for name in ${names_of[$set]}; do open_set_run "$set" "$loss" "$seed" "$name"; done
    if [ -n "$open_pairs" ]; then
      for name in ${names_of[$set]}; do for other in ${names_of[$set]}; do
        [[ ! "$name" < "$other" ]] || open_set_run "$set" "$loss" "$seed" "$name+$other"
      done; done
    fi
  done; done; done
}

if [ -n "$open_set" ]; then
  if [ -n "$list" ]; then
    [ -x "$(command -v "$python")" ] || fail "the classes of a data set are read with the packages: bash run.sh --setup"
  else
    set_up requirements.txt
  fi
  trainings=$(open_set_grid) || exit 2
else
  trainings=$(grid)
fi
[ -n "$trainings" ] || fail "no run matches --only $only; names are like ${sets[0]}/SCN/maxent+mbls/noise0/seed0 or" \
  "${sets[0]}/openset/ce/open-fear/noise0/seed0"
lines=$(
  [ -n "$open_set" ] || for set in "${sets[@]}"; do build "$set"; done
  echo "$trainings"
  job report '*' "$python" report.py "$report_folder" --html "$report_folder/report/report.html" --brief
)

# --- run them ---

if [ -n "$list" ]; then
  exec "$base" sweep.py --list --caller "$caller" <<<"$lines"
fi
if [[ "$demo" && ! -d "$report_folder" ]]; then
  # While it runs, the demo takes up to 5 GB, mostly checkpoints of two trainings of DMUE; a quarter of that stays.
  [ -x "$(command -v "$python")" ] || need_room . 12 "the packages and the demo take"
  need_room "$runs" 5 "the demo takes"
fi
set_up requirements.txt
exec "$python" sweep.py --jobs "$jobs" --logs "$report_folder/logs" <<<"$lines"  # exec: sweep.py gets the signals
