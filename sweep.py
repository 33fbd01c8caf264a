"""Run many commands in their order, several at a time, as `run.sh` does with the grid of the paper.

  bash run.sh ferplus                   the usual way: run.sh writes the jobs and starts this script
  python sweep.py --jobs 2 < jobs.tsv   any other list of jobs
  python sweep.py --folder-of train_SCN.py --dataset ferplus --calib   the folder of the run that this command has begun

A job is a line of standard input with three columns, `id <TAB> ids it comes after <TAB> command`.

- id: letters, digits and any of `._+/-`. No two jobs have the same id.
- ids it comes after: separated by commas, or empty. A job starts when all of these jobs are done. If one of them fails,
  the job is left out. `*` means "after all other jobs, also after those that failed" (the report).
- command: words, quoted as for a shell. No shell runs them, so nothing is expanded. The word `{run:ID}` becomes the
  folder of the run that the training with this id trains.

All lines are read before the first job starts. A job is skipped if its result exists and no job that it comes after has
to run; a finished training that is started for that reason ends at once. The result exists:

- a training (`train_*.py`): if its run is finished. With `--open`: if it also has the open scores that are asked for.
- a scoring (`evaluate.py`) with `--set`: if it comes after its training and the run has scores of all images of that
  set in the `--precision` of the command (default: 32). Without `--set` it is always started.
- a build (`make_fer_c.py`, `make_fer_p.py`) with `--out`: if that folder has a manifest. Without `--out` it
  is always started.

A build and a job with `*` run alone: they get every core and write to this terminal. With `--jobs N` (N > 1) each of
the other jobs gets an equal part of the cores (OMP_NUM_THREADS) and one of the GPUs (CUDA_VISIBLE_DEVICES), and writes
to a file of its own in `--logs`.

Exit code: 0; 1 if a job failed; 2 if a line is wrong; 130 if the sweep was stopped.
"""
from support import start

if __name__ == "__main__":  # before the imports that may be interrupted, or fail outside the environment
    start.explain_failed_imports()

import re
import shlex
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from support import cli
from support.errors import UserError
from sweeping.begun_runs import required_run_folder
from sweeping.durations import Durations, duration
from sweeping.jobs import RUN_OF, Job, in_order, read_jobs
from sweeping.results import is_finished, refuse_set_of_other_settings
from sweeping.shell_commands import print_commands
from sweeping.slots import Slots
from sweeping.stop_requests import StopRequests

PAUSE = 0.1  # seconds between two checks whether jobs have ended
USAGE = ("[options] < JOBS", "--folder-of COMMAND")  # for the help page, see support/cli.py


@dataclass
class Args:
    jobs: Annotated[int, cli.Between(1)] = 1
    """number of jobs that run at the same time; each gets its part of the GPUs and cores"""
    logs: Path = Path("runs/logs")
    """folder for the output of the jobs, used with --jobs 2 and more"""
    list: bool = False
    """run nothing: print the missing builds to standard error, and to standard output one shell command for each run
    that is not trained and scored, for an array of jobs on a cluster"""
    caller: Path = Path(".")
    """folder in which the commands that --list prints will be started"""
    folder_of: bool = False
    """run nothing: print the folder of the run that COMMAND, a training command, has begun"""
    command: tyro.conf.Positional[tuple[str, ...]] = ()
    """only after --folder-of: the training command"""


def main(args: Args) -> int:
    """Run the jobs, or print what the options ask for. Returns the exit code."""
    cli.check_values(args)
    if args.folder_of:
        print(required_run_folder(args.command))
        return 0
    if args.command:
        raise UserError(f"sweep.py reads its jobs from standard input and takes no {args.command[0]!r}; see --help")
    if sys.stdin is None or sys.stdin.isatty():
        raise UserError("sweep.py reads its jobs from standard input; the published grid: bash run.sh --help")
    jobs = read_jobs(sys.stdin.buffer.read())
    for job in jobs.values():
        if job.is_build:
            refuse_set_of_other_settings(job)
    if args.list:
        print_commands(jobs, args.caller)
        return 0
    return Sweep(jobs, args.jobs, args.logs).run()


class Sweep:
    """Runs the jobs in their order, on a number of slots. Each slot runs one job at a time."""

    def __init__(self, jobs: dict[str, Job], slots: int, logs: Path) -> None:
        self.jobs = jobs
        self.slots = Slots(slots, logs)
        self.waiting = dict(jobs)  # id -> job that has neither been started nor left out, in the order of the lines
        self.done: set[str] = set()
        self.failed: dict[str, str] = {}  # id -> its command and where its output is, for the list at the end
        self.left_out: list[str] = []  # ids of jobs that come after one that failed
        self.durations = Durations()

    def run(self) -> int:
        """Run everything. Returns the exit code."""
        self.slots.make_logs(list(self.jobs.values()))
        self.skip_finished()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # if it is ignored, the exit codes of jobs are lost
        with StopRequests() as stop_requests:
            try:
                while (self.waiting or self.slots.running) and not stop_requests.count:
                    self.collect_ended()
                    self.start_ready()
                    if self.slots.running:
                        time.sleep(PAUSE)
            finally:  # also after an error of this script, such as a closed standard output
                self.slots.stop_all(stop_requests)
        if stop_requests.count:
            print("stopped; the same command goes on from here", file=sys.stderr)
            return 130
        return self.summarise()

    def skip_finished(self) -> None:
        """Mark the jobs whose results exist as done, unless a job that they come after has yet to run."""
        for job in in_order(self.jobs):
            if not job.is_last and self.is_ready(job) and is_finished(job, self.jobs):
                del self.waiting[job.id]
                self.done.add(job.id)
        print(f"{len(self.jobs)} jobs, {len(self.done)} of them finished before; {self.slots}", flush=True)

    def collect_ended(self) -> None:
        """Record the jobs that have ended, and print how they ended."""
        for running, code in self.slots.take_ended():
            job, seconds = running.job, time.monotonic() - running.start_time
            if code == 0:
                self.done.add(job.id)
                self.durations.add(job, seconds)
                if not job.is_last:  # what the report prints shall be the last output of the sweep
                    self.print_result(job, f"done in {duration(seconds)}")
                continue
            self.failed[job.id] = shlex.join(running.process.args)
            if running.log:
                log = self.slots.log_of(job)
                self.failed[job.id] += f"\n    its output: {log}"
                print(last_line(log), flush=True)
            self.print_result(job, f"FAILED ({reason(code)})")

    def start_ready(self) -> None:
        """Start the jobs that can start, in the order of the lines, as long as slots are free."""
        for job in list(self.waiting.values()):
            if self.slots.are_taken:
                return
            if self.comes_after_failure(job):
                del self.waiting[job.id]
                self.left_out.append(job.id)
            elif self.is_ready(job):
                if job.runs_alone and self.slots.running:
                    return
                del self.waiting[job.id]
                if is_finished(job, self.jobs):
                    self.done.add(job.id)
                else:
                    self.start(job)

    def comes_after_failure(self, job: Job) -> bool:
        return not job.is_last and any(name in self.failed or name in self.left_out for name in job.after)

    def is_ready(self, job: Job) -> bool:
        """Whether a job may start: all jobs that it comes after are done. For a job with `*`: all others have ended or
        are left out."""
        if job.is_last:
            return not self.slots.running and all(other.is_last for other in self.waiting.values())
        return all(name in self.done for name in job.after)

    def start(self, job: Job) -> None:
        """Start a job; one that cannot be started has failed."""
        print(f"=== {job.id}", flush=True)
        try:
            self.slots.start(job, [self.fill_in(word) for word in job.words])
        except (OSError, UserError) as error:
            self.failed[job.id] = shlex.join(job.words)
            self.print_result(job, f"FAILED ({getattr(error, 'strerror', None) or error})")

    def fill_in(self, word: str) -> str:
        """A word of a command, with `{run:ID}` replaced by the folder of that run."""
        match = RUN_OF.fullmatch(word)
        return str(required_run_folder(self.jobs[match[1]].words)) if match else word

    def print_result(self, job: Job, result: str) -> None:
        """Print how a job ended, how many have ended, and about how long the rest will take."""
        ended = len(self.jobs) - len(self.waiting) - len(self.slots.running)
        line = f"=== [{ended}/{len(self.jobs)}] {job.id} {result}"
        left = self.durations.seconds_left(list(self.waiting.values()), list(self.slots.running.values()))
        if left:
            line += f"; about {duration(left / self.slots.number)} left"
        print(line, flush=True)

    def summarise(self) -> int:
        """Print the jobs that failed and those that were left out because of that. Returns the exit code."""
        if not self.failed:
            return 0
        print(f"failed ({len(self.failed)}):", file=sys.stderr)
        for name, command in self.failed.items():
            print(f"  {name}: {command}", file=sys.stderr)
        if self.left_out:
            print(f"left out, because they come after one that failed ({len(self.left_out)}):", file=sys.stderr)
            for name in self.left_out:
                print(f"  {name}", file=sys.stderr)
        return 1


def reason(code: int) -> str:
    """Why a process ended, in words."""
    if code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    return f"{name}; out of memory?" if name == "SIGKILL" else name


def last_line(log: Path) -> str:
    """The last line of a log that is not empty."""
    lines = [line for line in re.split("[\r\n]", log.read_text("utf-8", "replace")) if line.strip()]
    return lines[-1] if lines else ""


if __name__ == "__main__":
    if sys.argv[1:2] == ["--folder-of"]:
        sys.argv.insert(2, "--")  # what follows is the command line of another script
    cli.run(main, Args)
