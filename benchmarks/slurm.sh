#!/usr/bin/env bash
# Builds Demo-C as a Slurm job array of three shards and a merge, as docs/scaling.md shows it, on a cluster of this one
# machine (real slurmctld, slurmd and munged in a temporary folder), and compares the checksums with those of one build.
# Then trains and scores a small sweep as a second job array on the same cluster.
#   apt-get install slurmctld slurmd slurm-client munge    then, as root: bash benchmarks/slurm.sh [images, default 24]
# Stops nothing but what it started. FERC_PYTHON: which Python (default .venv/bin/python).
set -eu
cd "$(dirname "${BASH_SOURCE[0]}")/.."
for tool in slurmctld slurmd sbatch munged; do
  command -v "$tool" > /dev/null || { echo "error: $tool is not installed (see the head of this file)" >&2; exit 2; }
done
[ "$(id -u)" = 0 ] || { echo "error: slurmctld, slurmd and munged are started as root" >&2; exit 2; }
images=${1:-24} python=${FERC_PYTHON:-.venv/bin/python} host=$(hostname -s) here=$(mktemp -d /tmp/ferc-slurm.XXXXXX)
started=()
clean_up() {
  for pid in "${started[@]}"; do kill "$pid" 2> /dev/null && wait "$pid" 2> /dev/null || true; done
  rm -rf "$here"
}
trap clean_up EXIT

chmod 755 "$here"
mkdir -m 755 "$here/munge"
mkdir -p "$here/state" "$here/spool"
(umask 077; head -c 1024 /dev/urandom > "$here/munge/key")
cat > "$here/slurm.conf" << CONF
ClusterName=ferc
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
SlurmctldPort=26817
SlurmdPort=26818
AuthType=auth/munge
AuthInfo=socket=$here/munge/socket
CredType=cred/munge
StateSaveLocation=$here/state
SlurmdSpoolDir=$here/spool
SlurmctldPidFile=$here/slurmctld.pid
SlurmdPidFile=$here/slurmd.pid
SlurmctldLogFile=$here/slurmctld.log
SlurmdLogFile=$here/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
SchedulerParameters=bf_interval=5,sched_interval=5
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc) State=UNKNOWN
PartitionName=all Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF
export SLURM_CONF=$here/slurm.conf
munged --foreground --force --socket="$here/munge/socket" --key-file="$here/munge/key" --pid-file="$here/munge/pid" \
  --log-file="$here/munge/log" --seed-file="$here/munge/seed" > "$here/munged.out" 2>&1 &
started+=($!)
for _ in $(seq 50); do [ -S "$here/munge/socket" ] && break; sleep 0.1; done
slurmctld -D > "$here/slurmctld.out" 2>&1 &
started+=($!)
slurmd -D > "$here/slurmd.out" 2>&1 &
started+=($!)
for _ in $(seq 60); do sinfo -h -o %T 2> /dev/null | grep -q idle && break; sleep 0.5; done
sinfo || { cat "$here"/*.out "$here"/*.log >&2; exit 1; }

build="$python make_fer_c.py --dataset demo --root $here/demo --limit $images"
$build --out "$here/one" --workers 1 | head -1  # also draws the faces
echo "array of 3 shards, then the merge:"
job=$(sbatch --parsable --array=1-3 --output="$here/shard-%a.txt" \
  --wrap "$build --out $here/Demo-C --workers 1"' --shard $SLURM_ARRAY_TASK_ID/3')
merge=$(sbatch --parsable --dependency=afterok:"$job" --kill-on-invalid-dep=yes --output="$here/merge.txt" \
  --wrap "$build --out $here/Demo-C --merge")
for _ in $(seq 600); do [ -n "$(squeue -h -j "$job,$merge" 2> /dev/null)" ] || break; sleep 1; done
grep -h "^built\|^error" "$here"/shard-*.txt "$here/merge.txt" | sed "s#$here/##"
$build --out "$here/Demo-C" --verify | sed "s#$here/##"
cmp "$here/one/checksums.sha256" "$here/Demo-C/checksums.sha256" && echo "the same checksums as one build"

echo "array of a sweep, one epoch each:"
FERC_PYTHON=$python FERC_DATA=$here FERC_RUNS=$here/runs \
  bash run.sh demo --seeds 0 --only baseline --list -- --epochs 1 > "$here/jobs.txt"
sweep=$(sbatch --parsable --array=1-$(wc -l < "$here/jobs.txt") --output="$here/run-%a.txt" \
  --wrap "eval \"\$(sed -n \${SLURM_ARRAY_TASK_ID}p $here/jobs.txt)\"")
for _ in $(seq 600); do [ -n "$(squeue -h -j "$sweep" 2> /dev/null)" ] || break; sleep 1; done
grep -h "^scores\|^error" "$here"/run-*.txt | sed "s#$here/##"
[ "$(find "$here/runs" -name scores.csv | wc -l)" = "$(wc -l < "$here/jobs.txt")" ] && echo "all of them scored"
