"""The processes of the jobs, several at a time.

A slot runs one job after the other. Each job is a process group of its own, so that all processes that it starts can be
stopped.
"""
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from support.errors import UserError
from support.run_folder import JOBS_ON_A_DEVICE
from sweeping.jobs import Job
from sweeping.stop_requests import StopRequests

PAUSE = 0.05  # seconds between two checks whether the stopped processes have ended


@dataclass
class Running:
    """A job that has been started."""

    job: Job
    process: subprocess.Popen
    start_time: float  # of time.monotonic()
    log: IO[bytes] | None  # the open file that takes its output; None: it goes where this process prints

    def close_log(self) -> None:
        """Close the log if there is one."""
        if self.log:
            self.log.close()


class Slots:
    """The processes of the jobs, at most `number` at a time. If that is more than 1, a job gets an equal part of the
    cores, the GPU of its slot and a log file. A job that runs alone gets every core and GPU and has no log file."""

    def __init__(self, number: int, logs: Path) -> None:
        self.number = number
        self.logs = logs
        self.gpus = visible_gpus() if number > 1 else []
        self.running: dict[int, Running] = {}  # slot -> the job that it runs
        self.slot_of: dict[str, int] = {}  # id -> the slot that the job ran on

    def __str__(self) -> str:
        if self.number == 1:
            return "one at a time"
        return f"{self.number} at a time, output in {self.logs}"

    @property
    def are_taken(self) -> bool:
        """Whether no further job may start now."""
        return len(self.running) >= self.number or any(one.job.runs_alone for one in self.running.values())

    def make_logs(self, jobs: list[Job]) -> None:
        """Make the folder of the logs, if there are any. Raises UserError where two jobs would write to one file."""
        if self.number == 1:
            return
        self.logs.mkdir(parents=True, exist_ok=True)
        names: dict[Path, str] = {}
        for job in jobs:
            other = names.setdefault(self.log_of(job), job.id)
            if other != job.id:
                raise UserError(f"the jobs {other} and {job.id} would write to the same log")

    def log_of(self, job: Job) -> Path:
        """The file that takes a job's output."""
        return self.logs / f"{job.id.replace('/', '-')}.log"

    def start(self, job: Job, words: list[str]) -> None:
        """Start a job, with these words as its command. Raises OSError where the program cannot be started."""
        slot = self.choose_slot(job)
        self.slot_of[job.id] = slot
        start_time = time.monotonic()
        options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "process_group": 0}
        log = None
        try:
            if self.number > 1 and not job.runs_alone:
                log = open(self.log_of(job), "ab")
                log.write(f"=== {time.strftime('%Y-%m-%d %H:%M:%S')} {shlex.join(words)}\n".encode())
                log.flush()
                options |= {"stdout": log, "stderr": subprocess.STDOUT, "env": self.environment(slot)}
            process = subprocess.Popen(words, **options)
        except OSError:
            if log:
                log.close()
            raise
        self.running[slot] = Running(job, process, start_time, log)

    def choose_slot(self, job: Job) -> int:
        """A free slot: if possible, the one that ran a job that this one comes after."""
        free = [slot for slot in range(self.number) if slot not in self.running]
        for name in job.after:
            if self.slot_of.get(name) in free:
                return self.slot_of[name]
        return free[0]

    def environment(self, slot: int) -> dict[str, str]:
        """The environment of a job that runs at the same time as others: its part of the cores and its GPU."""
        cores = max(1, len(os.sched_getaffinity(0)) // self.number)
        changes = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or str(cores)}
        if self.gpus:
            changes[JOBS_ON_A_DEVICE] = str(-(-self.number // len(self.gpus)))
        if len(self.gpus) > 1:
            changes["CUDA_VISIBLE_DEVICES"] = self.gpus[slot % len(self.gpus)]
        return os.environ | changes

    def take_ended(self) -> list[tuple[Running, int]]:
        """The jobs that have ended since the last call, with their exit codes. Their slots are free now."""
        ended = []
        for slot, running in list(self.running.items()):
            if has_ended(running.process):
                code = end_group(running.process)
                running.close_log()
                del self.running[slot]
                ended.append((running, code))
        return ended

    def stop_all(self, stop_requests: StopRequests) -> None:
        """Ask every running job to stop (a training saves its state), and wait for all of them. A further request to
        stop kills them."""
        if not self.running:
            return
        print(f"stopping {len(self.running)} running job(s); Ctrl-C again kills them", file=sys.stderr, flush=True)
        first_requests = stop_requests.count
        for running in self.running.values():
            signal_group(running.process, signal.SIGTERM)
        while self.running:
            if stop_requests.count > first_requests:
                for running in self.running.values():
                    signal_group(running.process, signal.SIGKILL)
            self.take_ended()
            time.sleep(PAUSE)


def has_ended(process: subprocess.Popen) -> bool:
    """Whether a process has ended. The system keeps its id until `end_group`."""
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def end_group(process: subprocess.Popen) -> int:
    """Kill what a process that has ended left in its group, while no other process can have the id of the group.
    Returns the exit code of the process."""
    signal_group(process, signal.SIGKILL)
    return process.wait()


def signal_group(process: subprocess.Popen, number: int) -> None:
    """Send a signal to every process of a group that still exists."""
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        pass


def visible_gpus() -> list[str]:
    """The GPUs that jobs may use, as CUDA_VISIBLE_DEVICES names them; [] on a machine without any."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name for name in chosen.split(",") if name]
    try:
        listing = subprocess.run(["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"], capture_output=True,
                                 text=True, timeout=30, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return listing.stdout.split() if listing.returncode == 0 else []
