"""Run many commands in their order, several at a time: the published grid that `run.sh` writes, one line a job.

  bash run.sh ferplus                       the usual way: run.sh writes the lines and starts this script
  python sweep.py --jobs 2 < jobs.tsv       any list of jobs
  python sweep.py --folder-of train_SCN.py --dataset ferplus --calib      the run folder that this command has begun

A line of standard input is `id <TAB> ids it comes after <TAB> command`:
- id: letters, digits and any of ``._+/-``; it appears once.
- ids it comes after: separated by commas, or empty. A job starts when all of them are done; if one of them fails, the
  job is left out. `*` means "after all other jobs, whatever became of them" (the report).
- command: words as a shell reads them, but no shell runs them: nothing is expanded. The word `{run:ID}` becomes the
  folder of the run that the training with this id trains.

All lines are read before the first job starts. What is finished is skipped: a training whose run is finished
(`train_*.py`), a scoring whose scores are there (`evaluate.py`), a build whose manifest is there (`make_fer_c.py`). A
build runs alone, since it uses every core. With `--jobs N` every other job gets its part of the cores
(OMP_NUM_THREADS) and one of the GPUs (CUDA_VISIBLE_DEVICES), and writes to a file of its own in `--logs`.
Exit code: 0, 1 where a job failed, 2 where the lines are wrong, 130 where it was stopped.
"""
from support import start

if __name__ == "__main__":  # before the imports that may be interrupted, or fail outside the environment
    start.guard()

import graphlib
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, NamedTuple

import tyro

import cli
from cli import UserError
from support import run_folder

ROOT = Path(__file__).resolve().parent
EVERYTHING = "*"  # in the second column: after all other jobs
RUN_OF = re.compile(r"\{run:(.*)\}")  # a word of a command
PAUSE = 0.1  # seconds between two looks at the processes
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass
class Args:
    jobs: Annotated[int, cli.Between(1)] = 1
    """jobs that run at the same time; GPUs and cores are dealt out among them"""
    logs: Path = Path("runs/logs")
    """folder for the output of the jobs, used with --jobs 2 and more"""
    list: bool = False
    """run nothing: print the builds that are missing to standard error, and to standard output a shell command for each
    run that is not finished (train and score), for the arrays of a cluster"""
    caller: Path = Path(".")
    """folder in which the printed commands will be started (default: this one)"""
    folder_of: bool = False
    """run nothing: print the folder of the run that the rest of the line, a training command, has begun"""
    words: tyro.conf.Positional[tuple[str, ...]] = ()
    """the training command of --folder-of"""


@dataclass(frozen=True)
class Job:
    """One line: its id, the ids it comes after, its command in words."""

    id: str
    after: tuple[str, ...]
    words: tuple[str, ...]

    @property
    def script(self) -> str:
        """The Python file that the command runs, "" where it is another program."""
        return next((Path(word).name for word in self.words[:2] if word.endswith(".py")), "")

    @property
    def is_training(self) -> bool:
        return self.script.startswith("train_")

    @property
    def is_scoring(self) -> bool:
        return self.script == "evaluate.py"

    @property
    def is_build(self) -> bool:
        return self.script == "make_fer_c.py"

    @property
    def is_last(self) -> bool:
        """Whether it comes after all other jobs, also after those that fail."""
        return EVERYTHING in self.after

    @property
    def runs_alone(self) -> bool:
        """Whether nothing else may run beside it."""
        return self.is_build or self.is_last


def main(args: Args) -> int:
    cli.check_values(args)
    if args.folder_of:
        print(begun_folder(args.words))
        return 0
    if args.words:
        raise UserError(f"sweep.py reads its jobs from standard input and takes no {args.words[0]!r}; see --help")
    if sys.stdin is None or sys.stdin.isatty():
        raise UserError("sweep.py reads its jobs from standard input; the published grid: bash run.sh --help")
    jobs = read_jobs(sys.stdin.buffer.read())
    for job in jobs.values():
        if job.is_build:
            refuse_other_set(job)
    if args.list:
        print_commands(jobs, args.caller)
        return 0
    return Sweep(jobs, args.jobs, args.logs).run()


# --- the lines ---


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
    """Raises UserError where a job comes after one that is not there, after itself by a detour or after one that comes
    after everything, or names the folder of a run that it does not come after."""
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
    """Every job after those that it comes after. Raises graphlib.CycleError."""
    order = graphlib.TopologicalSorter({job.id: set(job.after) - {EVERYTHING} for job in jobs.values()})
    return [jobs[name] for name in order.static_order()]


# --- what is finished ---


def option(words: tuple[str, ...], name: str) -> str | None:
    """The value of an option in a command, None where it is not given."""
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word == name:
            return following
        if word.startswith(f"{name}="):
            return word.partition("=")[2]
    return None


def is_finished(job: Job, jobs: dict[str, Job]) -> bool:
    """Whether what a job makes is there already."""
    if job.is_build:
        out = option(job.words, "--out")
        return out is not None and (Path(out) / "manifest.json").is_file()
    if job.is_training:
        folder = folder_of(job.words)
        return folder is not None and run_folder.is_finished(folder)
    if job.is_scoring:
        trainings = [jobs[name] for name in job.after if name in jobs and jobs[name].is_training]
        if not trainings or not all(is_finished(training, jobs) for training in trainings):
            return False
        built_set = option(job.words, "--set")
        folders = [folder_of(training.words) for training in trainings]
        return built_set is not None and all(run_folder.is_scored(folder, Path(built_set)) for folder in folders)
    return False


def refuse_other_set(job: Job) -> None:
    """Raises UserError where the set that a build would make is there with another image size or protocol: everything
    would be trained before the scoring refuses it."""
    from datasets import RECIPES  # takes half a second

    out = Path(option(job.words, "--out") or "")
    if not (out / "manifest.json").is_file():
        return
    made = cli.read_json(out / "manifest.json").get("made_with")
    if not isinstance(made, dict):
        raise cli.DamagedFile(f"{out}/manifest.json is damaged (no made_with)")
    recipe = RECIPES.get(option(job.words, "--dataset") or "", {})
    size = option(job.words, "--image-size") or str(recipe.get("image_size", 224))
    protocol = option(job.words, "--protocol") or "paper"
    if (str(made.get("size")), made.get("protocol")) != (size, protocol):
        raise UserError(f"{out} has {made.get('size')} px and protocol {made.get('protocol')}; asked for are {size} px "
                        f"and {protocol}. Move the folder away, or ask for what is there (--image-size, --protocol)")


# --- the folder of a training command ---


def begun_folder(words: tuple[str, ...]) -> Path:
    """The folder of the run that a training command has begun. Raises UserError where there is none."""
    folder = folder_of(words)
    if folder is None:
        raise UserError(f"no run of this command has begun; start it: {shlex.join(words)}")
    return folder


def folder_of(words: tuple[str, ...]) -> Path | None:
    """The folder of the run that a training command has begun, None where it has not."""
    asked, script = read_options(words)
    runs = Path(asked.pop("runs", run_folder.default_runs()))
    if not runs.is_dir():
        return None
    import settings  # with the data sets' tables, half a second

    if "dataset" not in asked:
        raise UserError(f"the command names no --dataset: {shlex.join(words)}")
    run = settings.Run(asked.pop("dataset"), loss=asked.pop("loss", "ce"), calib=asked.pop("calib", "") == "True")
    constants = settings.Loss()
    if "maxent_multiplier" in asked:
        constants.maxent_multiplier = asked["maxent_multiplier"]
    multiplier = constants.maxent_multiplier
    settings.name_loss(run, constants)
    if constants.maxent_multiplier != multiplier:  # the loss's name says it
        asked["maxent_multiplier"] = constants.maxent_multiplier
    try:
        noise, seed = float(asked.pop("noise", "0")), int(asked.pop("seed", "0"))
    except ValueError:
        raise UserError(f"--noise or --seed is no number: {shlex.join(words)}") from None
    for name in set(asked) & other_settings():
        del asked[name]
    return run_folder.find(runs, run.dataset, script, run.loss, noise, seed, asked)


def other_settings() -> set[str]:
    """The shared settings that do not change the result of a run: speed and places."""
    import settings

    @dataclass
    class Shared:
        run: settings.Run
        loss: settings.Loss
        machine: settings.Machine

    return {name for name, effect in settings.affects(Shared).items() if effect.what != "result"}


def read_options(words: tuple[str, ...]) -> tuple[dict[str, str], str]:
    """({setting: text}, script name after train_) of a training command. Several values are joined by blanks, `--x`
    alone is True, `--no-x` is False. Raises UserError where the command runs no train_*.py."""
    places = [i for i, word in enumerate(words) if re.fullmatch(r"train_\w+\.py", Path(word).name)]
    if not places:
        raise UserError(f"this is no command that runs a train_*.py: {shlex.join(words)}")
    asked: dict[str, list[str]] = {}
    name = ""
    for word in words[places[0] + 1:]:
        if re.match("--[A-Za-z]", word):
            name, equals, value = word.removeprefix("--").partition("=")
            name = name.replace("-", "_")
            if name != "data":  # the option that may be given several times; of others the last one counts
                asked[name] = []
            asked.setdefault(name, []).extend([value] if equals else [])
        elif name:
            asked[name].append(word)
        else:
            raise UserError(f"{word!r} is no option: {shlex.join(words)}")
    texts = {name: " ".join(values) for name, values in asked.items() if values}
    for flag in asked.keys() - texts.keys():
        if flag.startswith("no_"):
            texts[flag.removeprefix("no_")] = "False"
        else:
            texts[flag] = "True"
    return texts, Path(words[places[0]]).stem.removeprefix("train_")


# --- as commands to be run elsewhere ---


def print_commands(jobs: dict[str, Job], caller: Path) -> None:
    """The missing builds to standard error; one shell command for each run that is not trained and scored to standard
    output. Jobs that come after everything (the report) are left out."""
    start_at = "" if caller.resolve() == ROOT else f"cd {shlex.quote(str(ROOT))} && "
    unfinished = [job for job in jobs.values() if not job.is_last and not is_finished(job, jobs)]
    scored = {name for job in unfinished if job.is_scoring for name in job.after}
    for job in unfinished:
        if job.is_build:
            print(start_at + shlex.join(job.words), file=sys.stderr)
        elif job.id not in scored:
            print(start_at + with_trainings(job, unfinished, jobs))


def with_trainings(job: Job, unfinished: list[Job], jobs: dict[str, Job]) -> str:
    """A job as a shell command, after the trainings that it comes after and that are not finished."""
    steps, words = [], []
    for training in (jobs[name] for name in job.after if jobs[name].is_training):
        if training in unfinished:
            steps.append(shlex.join(training.words))
    for word in job.words:
        match = RUN_OF.fullmatch(word)
        if match is None:
            words.append(shlex.quote(word))
        elif jobs[match[1]] not in unfinished:
            words.append(shlex.quote(str(folder_of(jobs[match[1]].words))))
        else:
            training = jobs[match[1]].words
            steps.append(f'run="$({shlex.join([training[0], "sweep.py", "--folder-of", *training[1:]])})"')
            words.append('"$run"')
    return " && ".join([*steps, " ".join(words)])


# --- running them ---


class Running(NamedTuple):
    """A job that has been started."""

    job: Job
    process: subprocess.Popen
    began: float
    log: IO[bytes] | None


class Sweep:
    """Jobs on a number of slots. A slot has its GPU; its job runs in a process group of its own."""

    def __init__(self, jobs: dict[str, Job], slots: int, logs: Path) -> None:
        self.jobs = jobs
        self.slots = slots
        self.logs = logs
        self.waiting = dict(jobs)  # id -> job that has not ended and is not running, in the order of the lines
        self.running: dict[int, Running] = {}  # slot -> its job
        self.slot_of: dict[str, int] = {}  # id -> slot that ran it
        self.done: set[str] = set()
        self.failed: dict[str, str] = {}  # id -> its command and log, for the list at the end
        self.left_out: list[str] = []  # ids that come after a failure
        self.seconds: dict[str, list[float]] = {}  # script -> how long its jobs took
        self.stop_requests = 0
        self.gpus = visible_gpus() if slots > 1 else []

    def run(self) -> int:
        """Run everything. Returns the exit code."""
        if self.slots > 1:
            self.make_logs()
        self.skip_finished()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored on entry, it would hide how jobs end
        before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
        for number in STOP_SIGNALS:
            if number != signal.SIGHUP or before[number] != signal.SIG_IGN:  # nohup: go on without the terminal
                signal.signal(number, self.request_stop)
        try:
            while (self.waiting or self.running) and not self.stop_requests:
                self.collect()
                self.start_ready()
                if self.running:
                    time.sleep(PAUSE)
        finally:  # also after an error of this script, as when nobody reads its output any more
            self.end_all()
            for number, handler in before.items():
                signal.signal(number, handler)
        if self.stop_requests:
            print("stopped; the same command goes on from here", file=sys.stderr)
            return 130
        return self.summarise()

    def skip_finished(self) -> None:
        """Take out what is there already, unless something that it comes after has yet to run."""
        for job in in_order(self.jobs):
            if not job.is_last and self.is_ready(job) and is_finished(job, self.jobs):
                del self.waiting[job.id]
                self.done.add(job.id)
        slots = "one at a time" if self.slots == 1 else f"{self.slots} at a time, output in {self.logs}"
        print(f"{len(self.jobs)} jobs, {len(self.done)} of them finished before; {slots}", flush=True)

    def make_logs(self) -> None:
        """The folder of the logs. Raises UserError where two ids would share a file."""
        self.logs.mkdir(parents=True, exist_ok=True)
        names: dict[Path, str] = {}
        for job in self.jobs.values():
            other = names.setdefault(self.log_of(job), job.id)
            if other != job.id:
                raise UserError(f"the jobs {other} and {job.id} would write to the same log")

    def log_of(self, job: Job) -> Path:
        return self.logs / f"{job.id.replace('/', '-')}.log"

    def request_stop(self, number: int, frame: object) -> None:
        self.stop_requests += 1

    def collect(self) -> None:
        """Book the jobs that have ended."""
        for slot, running in list(self.running.items()):
            if has_ended(running.process):
                code = end_group(running.process)
                if running.log:
                    running.log.close()
                del self.running[slot]
                self.book(running, code)

    def book(self, running: Running, code: int) -> None:
        """A job's end: count it, and say how it went."""
        job, seconds = running.job, time.monotonic() - running.began
        if code == 0:
            self.done.add(job.id)
            self.seconds.setdefault(job.script, []).append(seconds)
            result = f"done in {duration(seconds)}"
        else:
            self.failed[job.id] = shlex.join(running.process.args)
            result = f"FAILED ({reason(code)})"
            if running.log:
                log = self.log_of(job)
                self.failed[job.id] += f"\n    its output: {log}"
                print(last_line(log), flush=True)
        if job.is_last and code == 0:
            return  # its own output ends the sweep
        self.say(job, result)

    def say(self, job: Job, result: str) -> None:
        ended = len(self.jobs) - len(self.waiting) - len(self.running)
        left = self.seconds_left()
        print(f"=== [{ended}/{len(self.jobs)}] {job.id} {result}" + (f"; about {duration(left)} left" if left else ""),
              flush=True)

    def seconds_left(self) -> float:
        """An estimate from the jobs that have ended: those of the same script, else of all. 0 where none has."""
        everything = [seconds for some in self.seconds.values() for seconds in some]
        if not everything:
            return 0
        left = 0.0
        for job in [*self.waiting.values(), *(running.job for running in self.running.values())]:
            known = self.seconds.get(job.script, everything)
            left += sum(known) / len(known)
        for running in self.running.values():
            left -= min(time.monotonic() - running.began, left)
        return left / self.slots

    def start_ready(self) -> None:
        """Start what can start, in the order of the lines, as long as there are slots."""
        for job in list(self.waiting.values()):
            if len(self.running) >= self.slots or any(running.job.runs_alone for running in self.running.values()):
                return
            if self.comes_after_failure(job):
                del self.waiting[job.id]
                self.left_out.append(job.id)
            elif self.is_ready(job):
                if job.runs_alone and self.running:
                    return
                del self.waiting[job.id]
                if is_finished(job, self.jobs):
                    self.done.add(job.id)
                else:
                    self.start(job)

    def comes_after_failure(self, job: Job) -> bool:
        return not job.is_last and any(name in self.failed or name in self.left_out for name in job.after)

    def is_ready(self, job: Job) -> bool:
        if job.is_last:
            return not self.running and all(other.is_last for other in self.waiting.values())
        return all(name in self.done for name in job.after)

    def start(self, job: Job) -> None:
        """Start a job on a slot, if it can be, on the one that ran what it comes after."""
        free = [slot for slot in range(self.slots) if slot not in self.running]
        preferred = [self.slot_of[name] for name in job.after if self.slot_of.get(name) in free]
        slot = [*preferred, *free][0]
        self.slot_of[job.id] = slot
        beside_others = self.slots > 1 and not job.runs_alone
        print(f"=== {job.id}", flush=True)
        log, began = None, time.monotonic()
        try:
            words = [self.fill_in(word) for word in job.words]
            if beside_others:
                log = open(self.log_of(job), "ab")
                log.write(f"=== {time.strftime('%Y-%m-%d %H:%M:%S')} {shlex.join(words)}\n".encode())
                log.flush()
            process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT if log else None, process_group=0,
                env=self.environment(slot) if beside_others else None)
        except (OSError, UserError) as error:
            if log:
                log.close()
            self.failed[job.id] = shlex.join(job.words)
            self.say(job, f"FAILED ({getattr(error, 'strerror', None) or error})")
            return
        self.running[slot] = Running(job, process, began, log)

    def fill_in(self, word: str) -> str:
        """A word of a command, with `{run:ID}` replaced by the folder of that run."""
        match = RUN_OF.fullmatch(word)
        return str(begun_folder(self.jobs[match[1]].words)) if match else word

    def environment(self, slot: int) -> dict[str, str]:
        """The environment of a job beside others: its part of the cores and its GPU."""
        cores = max(1, len(os.sched_getaffinity(0)) // self.slots)
        changes = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or str(cores)}
        if len(self.gpus) > 1:
            changes["CUDA_VISIBLE_DEVICES"] = self.gpus[slot % len(self.gpus)]
        return os.environ | changes

    def end_all(self) -> None:
        """Ask every running job to stop (a training saves its state), and wait for all of them. Asked to stop a second
        time, kill them."""
        if self.running:
            print(f"stopping {len(self.running)} running jobs; Ctrl-C again kills them", file=sys.stderr, flush=True)
        asked = self.stop_requests
        for running in self.running.values():
            signal_group(running.process, signal.SIGTERM)
        while self.running:
            for slot, running in list(self.running.items()):
                if self.stop_requests > asked:
                    signal_group(running.process, signal.SIGKILL)
                if has_ended(running.process):
                    end_group(running.process)
                    if running.log:
                        running.log.close()
                    del self.running[slot]
            time.sleep(PAUSE / 2)

    def summarise(self) -> int:
        """Name what failed and what was left out because of that. Returns the exit code."""
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


def has_ended(process: subprocess.Popen) -> bool:
    """Whether a process is over. Its id stays taken until `end_group`."""
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def end_group(process: subprocess.Popen) -> int:
    """Kill what a process that is over left in its group, while the group's id is still its own. Returns its exit
    code."""
    signal_group(process, signal.SIGKILL)
    return process.wait()


def signal_group(process: subprocess.Popen, number: int) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        pass


def visible_gpus() -> list[str]:
    """The GPUs that jobs may use, as CUDA_VISIBLE_DEVICES names them."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name for name in chosen.split(",") if name]
    try:
        asked = subprocess.run(["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"], capture_output=True,
                               text=True, timeout=30, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return asked.stdout.split() if asked.returncode == 0 else []


def reason(code: int) -> str:
    """Why a process ended, in words."""
    if code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    return f"{name}; out of memory?" if name == "SIGKILL" else name


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def last_line(log: Path) -> str:
    """The last line of a log that is not empty."""
    lines = [line for line in re.split("[\r\n]", log.read_text("utf-8", "replace")) if line.strip()]
    return lines[-1] if lines else ""


if __name__ == "__main__":
    if sys.argv[1:2] == ["--folder-of"]:
        sys.argv.insert(2, "--")  # what follows is the command line of another script
    cli.run(main, Args)
