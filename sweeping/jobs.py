"""The jobs of a sweep: the lines of its input, and the order that they ask for.

A job is one command, with an id and the ids of the jobs that it comes after. The docstring of sweep.py describes the
lines.
"""
import graphlib
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from support.errors import UserError

EVERYTHING = "*"  # in the second column: after all other jobs
RUN_OF = re.compile(r"\{run:(.*)\}")  # the word {run:ID} of a command


@dataclass(frozen=True)
class Job:
    """One line of the input."""

    id: str
    after: tuple[str, ...]  # the ids of the jobs that it comes after
    words: tuple[str, ...]  # its command

    @property
    def script(self) -> str:
        """The name of the Python file that the command runs, "" where it is another program."""
        for word in self.words[:2]:
            if word.endswith(".py"):
                return Path(word).name
        return ""

    @property
    def is_training(self) -> bool:
        return self.script.startswith("train_")

    @property
    def is_scoring(self) -> bool:
        return self.script == "evaluate.py"

    @property
    def is_build(self) -> bool:
        return self.script in ("make_fer_c.py", "make_fer_p.py")

    @property
    def is_last(self) -> bool:
        """Whether it comes after all other jobs, also after those that fail."""
        return EVERYTHING in self.after

    @property
    def runs_alone(self) -> bool:
        """Whether no other job may run at the same time."""
        return self.is_build or self.is_last


def read_jobs(data: bytes) -> dict[str, Job]:
    """id -> job, in the order of the lines. Raises UserError naming the line that is wrong."""
    try:
        lines = data.decode().split("\n")
    except UnicodeDecodeError:
        raise UserError("the jobs on standard input are not text in UTF-8") from None
    jobs: dict[str, Job] = {}
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        job = read_job(line, f"line {number} of the jobs")
        if job.id in jobs:
            raise UserError(f"line {number} of the jobs: the id {job.id} appears a second time")
        jobs[job.id] = job
    if not jobs:
        raise UserError("there is no job on standard input")
    check_order(jobs)
    return jobs


def read_job(line: str, where: str) -> Job:
    """One line as a job; where: what an error calls it."""
    columns = line.split("\t")
    if len(columns) != 3:
        raise UserError(f"{where} has {len(columns)} columns and not 3: id, tab, ids it comes after, tab, command")
    name, after, command = columns
    if not re.fullmatch(r"[A-Za-z0-9._+/-]+", name):
        raise UserError(f"{where}: {name!r} is no id; letters, digits and any of ._+/- make one")
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise UserError(f"{where}: the command cannot be read ({str(error).lower()})") from None
    if not words:
        raise UserError(f"{where}: the command of {name} is empty")
    return Job(name, tuple(other for other in after.split(",") if other), tuple(words))


def check_order(jobs: dict[str, Job]) -> None:
    """Raises UserError where jobs cannot be brought into an order: a job comes after one that is not among the jobs,
    after one that comes after everything, or (through others) after itself, or it names the folder of a run that it
    does not come after."""
    for job in jobs.values():
        if job.is_last and len(job.after) > 1:
            raise UserError(f"the job {job.id} comes after {EVERYTHING}, which is everything, and after others")
        for other in set(job.after) - {EVERYTHING}:
            if other not in jobs:
                raise UserError(f"the job {job.id} comes after {other}, which is not among the jobs")
            if jobs[other].is_last:
                raise UserError(f"the job {job.id} comes after {other}, which comes after everything")
        for word in job.words:
            match = RUN_OF.fullmatch(word)
            if match and (match[1] not in job.after or not jobs[match[1]].is_training):
                raise UserError(f"the job {job.id} uses {word}, and {match[1]} is no training that it comes after")
    try:
        in_order(jobs)
    except graphlib.CycleError as error:
        raise UserError(f"these jobs wait for each other: {', '.join(error.args[1][1:])}") from None


def in_order(jobs: dict[str, Job]) -> list[Job]:
    """The jobs, each after those that it comes after. Raises graphlib.CycleError."""
    order = graphlib.TopologicalSorter({job.id: set(job.after) - {EVERYTHING} for job in jobs.values()})
    return [jobs[name] for name in order.static_order()]
