#!/usr/bin/env bash
# The published grid: seeds x data sets x {uncalibrated, calibrated} x algorithms; builds missing FER-C sets first.
#   bash run.sh [SET ...]   affectnet affwild rafdb, those that are in data/; or the named ones (ferplus, demo)
#   bash run.sh --demo      a small grid on faces drawn on the spot: no data, no GPU, some minutes
#     --noise               also with 10, 20 and 30 % wrong training labels
#     --ablation            also the losses focal and maxent (published for rafdb), and the other multipliers of MaxEnt
#     --only REGEX          only runs whose set/algorithm/loss/noise<percent>/seed<n> matches
#     --seeds "0 1 2"       these seeds
#     --protocol released   as the FER-C release behaves: sets <Title>-C-released, runs in runs/released/
#     --image-size N        of the sets built and of training
#     --jobs N              N runs at a time, GPUs and cores dealt out, output in runs/logs/ (--demo: 2)
#     --list                print the commands, one a line, and run nothing
#     --setup               only make .venv with the pinned packages
#     -- OPTION ...         the rest goes to the training scripts
# Finished runs are skipped; started again it goes on. Environment: FERC_DATA (data), FERC_RUNS (runs): the folders;
# FERC_PYTHON=python uses that Python as it is, without .venv.
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
  echo "installing the pinned packages into .venv: three to five minutes, 6.4 GB" >&2
  "$python" -m pip --version >/dev/null 2>&1 || "$base" -m venv .venv || fail "$base -m venv .venv failed"
  if ! "$python" -m pip install -q --disable-pip-version-check -r requirements.txt >.venv/install.log 2>&1; then
    fail "installing failed: $(grep -iE 'error|no space' .venv/install.log | tail -n 1) (all of it: .venv/install.log)"
  fi
  echo "$want" >.venv/installed
}

demo= list= noise= ablation= only=. jobs= sets= seeds="0 1 2" protocol=paper size=() options=()
while [ $# -gt 0 ]; do
  argument=$1; shift
  case "$argument" in
    --demo) demo=1 ;;
    --list) list=1 ;;
    --noise) noise=1 ;;
    --ablation) ablation=1 ;;
    --only | --seeds | --jobs | --image-size | --protocol)
      [ $# -gt 0 ] || fail "$argument takes a value; see bash run.sh --help"
      case "$argument" in
        --only) only=$1 ;; --seeds) seeds=$1 ;; --jobs) jobs=$1 ;; --protocol) protocol=$1 ;;
        *) size=(--image-size "$1") ;;
      esac
      shift ;;
    --setup) setup; exit ;;
    -h | --help) sed -n '2,18s/^# \{0,1\}//p' "$0"; exit ;;
    --) options=("$@"); break ;;
    -*) fail "unknown option $argument; see bash run.sh --help" ;;
    *) [ -f "datasets/$argument.py" ] || fail "unknown data set $argument; see bash run.sh --help"; sets="$sets $argument" ;;
  esac
done
[[ "$jobs" =~ ^([1-9][0-9]*)?$ ]] || fail "--jobs takes a number from 1 on, not $jobs"
[[ "$protocol" =~ ^(paper|released)$ ]] || fail "--protocol is paper or released, not $protocol"

data=${FERC_DATA:-data}
runs=${FERC_RUNS:-runs}
variant= way=()
[ "$protocol" = paper ] || { variant=-$protocol way=(--protocol "$protocol") runs=$runs/$protocol; }
algorithms="baseline SCN DMUE RUL swinv2"
declare -A mixture=([affwild]=AffectNet)  # labelled with the mixture of another set, where that is at hand
declare -A title=([affectnet]=AffectNet [affwild]=AffWild [rafdb]=RAF-DB [ferplus]=FERPlus [demo]=Demo)
if [ -n "$demo" ]; then
  sets=demo seeds=0 jobs=${jobs:-2} options=(--cache "$data/decoded" "${options[@]}")
elif [ -z "$sets" ]; then
  looked=
  for name in affectnet affwild rafdb; do
    looked="$looked $data/$name"
    [ -d "$data/$name" ] && sets="$sets $name"
  done
  [ -n "$sets" ] || fail "no data set found; looked for$looked. Put one there, set FERC_DATA, or try: bash run.sh --demo"
fi
jobs=${jobs:-1}

scored() {  # run, set: all of this set is scored, with the weights that are there
  local version images
  version=$(sed -n 's/^ "set_version": "\([0-9a-f]*\)".*/\1/p' "$2/manifest.json" 2>/dev/null)
  images=$(sed -n 's/^  "images": \([0-9]*\).*/\1/p' "$2/manifest.json" 2>/dev/null)
  [ "$1/scores.csv" -nt "$1/best.pt" ] && grep -qx "${2##*/},$version,softmax,pooled,,n,$images" "$1/scores.csv"
}

quoted() { printf '%q ' "$@"; }

python=${FERC_PYTHON:-.venv/bin/python}
[ -n "$list" ] || setup
builds=() names=() commands=()
for name in $sets; do
  root=$data/$name set=$data/${title[$name]}-C$variant
  other=${mixture[$name]:-} gmm=()
  if [ -n "$other" ] && [[ -f "$data/$other-C$variant/gmm.json" || " $sets " == *" ${other,,} "* ]]; then
    gmm=(--gmm "$data/$other-C$variant/gmm.json")
  fi
  [ -f "$set/manifest.json" ] ||
    builds+=("$(quoted "$python" make_fer_c.py --dataset "$name" --root "$root" --out "$set" "${gmm[@]}" "${size[@]}" "${way[@]}")")
  losses="ce maxent+mbls" levels=0
  [ -z "$ablation" ] || losses="ce focal maxent maxent+mbls maxent-constant+mbls maxent-aaai+mbls maxent-gibbs+mbls"
  [ -z "$noise" ] || levels="0 10 20 30"
  for level in $levels; do for seed in $seeds; do for algorithm in $algorithms; do for loss in $losses; do
    run=$name/$algorithm/$loss/noise$level/seed$seed
    [[ "$run" =~ $only ]] || continue
    [[ "$level" = 0 || "$loss" = ce || "$loss" = maxent+mbls ]] || continue
    scored "$runs/$run" "$set" && continue
    wrong=()
    [ "$level" = 0 ] || wrong=(--noise "0.$level")
    names+=("$run")
    commands+=("$(quoted "$python" "train_$algorithm.py" --dataset "$name" --root "$root" --loss "$loss" --seed "$seed" \
      --runs "$runs" "${wrong[@]}" "${size[@]}" "${way[@]}" "${options[@]}")&& $(quoted "$python" evaluate.py "$runs/$run" --set "$set")")
  done; done; done; done
done
if [ -n "$list" ]; then
  [ ${#builds[@]} -eq 0 ] || printf '%s\n' "${builds[@]}"
  [ ${#commands[@]} -eq 0 ] || printf '%s\n' "${commands[@]}"
  exit
fi

state=$(mktemp -d) || exit 1
trap 'rm -rf "$state"' EXIT
touch "$state/done" "$state/failed"
stop() {
  trap - INT TERM
  local group
  for group in $(jobs -p); do kill -TERM -- "-$group" 2>/dev/null; done
  { wait; } 2>/dev/null
  echo "stopped; the same command goes on from here" >&2
  exit 130
}
trap stop INT TERM
set -m  # every job is a process group of its own: stopping reaches all of it, and only it

one_run() {  # name, command, slot: train and score, then one line about it
  local log=$runs/logs/${1//\//-}.log result=done count left
  echo "=== $1"
  if [ "$jobs" = 1 ]; then
    eval "$2" </dev/null
  else
    mkdir -p "$runs/logs"
    [ ${#gpus[@]} -lt 2 ] || export CUDA_VISIBLE_DEVICES=${gpus[$3 % ${#gpus[@]}]}
    eval "$2" </dev/null >"$log" 2>&1
  fi || { result=FAILED; echo "$1: $2" >>"$state/failed"; [ "$jobs" = 1 ] || tail -n 1 "$log"; }
  echo "$1" >>"$state/done"
  count=$(wc -l <"$state/done")
  left=$(((SECONDS - began) * (${#names[@]} - count) / count))
  echo "=== [$count/${#names[@]}] $1 $result; about $(((left + 59) / 60)) min left"
}

for build in "${builds[@]}"; do
  echo "=== $build"
  eval "$build" </dev/null &
  wait $! || echo "$build" >>"$state/failed"
done
if [ "$jobs" -gt 1 ]; then
  IFS=, read -ra gpus <<<"${CUDA_VISIBLE_DEVICES:-$(nvidia-smi --query-gpu=index --format=csv,noheader 2>/dev/null |
    paste -sd,)}"
  share=$(($(nproc) / jobs))
  export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((share > 0 ? share : 1))}
fi
began=$SECONDS slots=()
for index in "${!names[@]}"; do
  slot=
  while [ -z "$slot" ]; do
    for ((i = 0; i < jobs; i++)); do
      [ -n "${slots[i]:-}" ] && kill -0 "${slots[i]}" 2>/dev/null || { slot=$i; break; }
    done
    [ -n "$slot" ] || sleep 0.2
  done
  one_run "${names[$index]}" "${commands[$index]}" "$slot" &
  slots[slot]=$!
done
wait
"$python" report.py "$runs" --html "$runs/report/report.html" || echo "report" >>"$state/failed"
if [ -s "$state/failed" ]; then
  echo "failed ($(wc -l <"$state/failed")):" >&2
  sed 's/^/  /' "$state/failed" >&2
  exit 1
fi
