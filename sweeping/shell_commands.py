"""The unfinished jobs of a sweep as commands for a shell, to be run elsewhere: `sweep.py --list`."""
import shlex
import sys
from pathlib import Path

from sweeping.begun_runs import find_run_folder
from sweeping.jobs import RUN_OF, Job
from sweeping.results import is_finished

ROOT = Path(__file__).resolve().parent.parent


def print_commands(jobs: dict[str, Job], caller: Path) -> None:
    """Print the missing builds to standard error, and to standard output one shell command for each run that is not
    trained and scored. Jobs that come after everything (the report) are left out."""
    start_at = "" if caller.resolve() == ROOT else f"cd {shlex.quote(str(ROOT))} && "
    unfinished = [job for job in jobs.values() if not job.is_last and not is_finished(job, jobs)]
    # Jobs that the command of an unfinished scoring runs first (trainings), or that come before it anyway (builds).
    in_a_scoring = {name for job in unfinished if job.is_scoring for name in job.after}
    for job in unfinished:
        if job.is_build:
            print(start_at + shlex.join(job.words), file=sys.stderr)
        elif job.id not in in_a_scoring:
            print(start_at + with_trainings(job, unfinished, jobs))


def with_trainings(job: Job, unfinished: list[Job], jobs: dict[str, Job]) -> str:
    """A job as a shell command that first runs the unfinished trainings that it comes after."""
    steps = []
    for name in job.after:
        if jobs[name].is_training and jobs[name] in unfinished:
            steps.append(shlex.join(jobs[name].words))
    words = []
    for word in job.words:
        match = RUN_OF.fullmatch(word)
        if match is None:
            words.append(shlex.quote(word))
        elif jobs[match[1]] not in unfinished:
            words.append(shlex.quote(str(find_run_folder(jobs[match[1]].words))))
        else:
            training = jobs[match[1]].words
            steps.append(f'run="$({shlex.join([training[0], "sweep.py", "--folder-of", *training[1:]])})"')
            words.append('"$run"')
    return " && ".join([*steps, " ".join(words)])
