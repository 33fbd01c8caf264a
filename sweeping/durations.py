"""How long jobs take: an estimate of the rest, and seconds as text."""
import time
from dataclasses import dataclass, field

from sweeping.jobs import Job
from sweeping.slots import Running


@dataclass
class Durations:
    """How long the jobs took that have ended, to estimate the rest."""

    seconds: dict[str, list[float]] = field(default_factory=dict)  # script -> one number for each of its jobs

    def add(self, job: Job, seconds: float) -> None:
        self.seconds.setdefault(job.script, []).append(seconds)

    def seconds_left(self, waiting: list[Job], running: list[Running]) -> float:
        """An estimate of the seconds that these jobs still take, one after another; 0 where no job has ended yet. A
        job takes the mean of the jobs with its script, or of all jobs where none of those has ended."""
        of_all_jobs = [number for numbers in self.seconds.values() for number in numbers]
        if not of_all_jobs:
            return 0
        left = 0.0
        for job in [*waiting, *(one.job for one in running)]:
            numbers = self.seconds.get(job.script, of_all_jobs)
            left += sum(numbers) / len(numbers)
        for one in running:
            left -= min(time.monotonic() - one.start_time, left)
        return left


def duration(seconds: float) -> str:
    """Seconds as text, in the unit that suits: 42 s, 7 min, 3 h 5 min."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
