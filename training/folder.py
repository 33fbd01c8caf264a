"""The folder of a run, from the side of training: it is found, locked, compared with what was asked for, and its
args.json and environment.json are written. (How a run's folder is laid out: support/run_folder.py.)

What is changed here in a folder that holds a run: timing.csv gets a row after each epoch, environment.json gets the
machine on which a run goes on, args.json of a run of the first release of this project gets the recipe that it lacks,
and last.pt is removed when a training ends with all epochs trained (unless --keep-last). Weights, metrics and scores
are never changed here.
"""
import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from datasets import default_set
from support import run_folder
from support.errors import DamagedFile, UserError
from support.files import lock, read_json, read_rows, write_rows, write_text
from support.software import versions
from training.options import TrainingOptions
from training.processes import Processes

RESTORE_OR_FRESH = "Restore the missing file, or start over with --fresh."


@dataclass
class OpenRun:
    """A run's folder that is locked for this training."""

    folder: Path
    held: IO[str] | None
    """the lock, on the first process only; closing it unlocks the folder"""
    earlier: dict[str, Any] | None
    """args.json of the run that the folder held before, None where it held none or --fresh was asked for"""
    finished: bool
    """whether all epochs that were asked for are trained"""

    def close(self) -> None:
        if self.held is not None:
            self.held.close()


def open_run(processes: Processes, options: TrainingOptions, settings: dict[str, Any]) -> OpenRun:
    """Find the folder of the run with these settings, lock it, and read how far the run has come. The first process
    does this and tells the others.

    settings: what args.json will hold. Raises UserError, on all processes, where another process works in the folder,
    where it holds a run with other settings, or where the files are missing from which the run would go on.
    """
    opened = processes.run_on_first(lambda: lock_and_inspect(processes, options, settings))
    known = (opened.folder, opened.earlier, opened.finished) if opened else None
    folder, earlier, finished = processes.fabric.broadcast(known)
    return OpenRun(folder, opened.held if opened else None, earlier, finished)


def lock_and_inspect(processes: Processes, options: TrainingOptions, settings: dict[str, Any]) -> OpenRun:
    """What `open_run` does on the first process."""
    folder = folder_of_run(options, settings)
    opened = OpenRun(folder, lock(folder, "working in"), earlier=None, finished=False)
    if options.fresh:
        return opened
    try:
        opened.earlier = read_earlier(folder)
        if opened.earlier is None and (folder / run_folder.LAST_CHECKPOINT).exists():
            raise UserError(f"{folder} has a last.pt and no args.json: what this run was trained with is lost. Restore "
                            f"it, or start over with --fresh")
        if opened.earlier is not None:
            refuse_other_settings(folder, opened.earlier, settings)
            opened.earlier = with_recipe(folder, opened.earlier, settings)
            opened.finished = finished_epochs(folder, options.epochs, processes) >= options.epochs
    except BaseException:
        opened.close()
        raise
    return opened


def folder_of_run(options: TrainingOptions, settings: dict[str, Any]) -> Path:
    """The folder of the run with these settings. A run of the first release of this project keeps its folder,
    whose name has the seed but no hash of the settings."""
    identity = (options.runs, options.dataset, settings["script"], options.loss, options.noise, options.seed)
    folder = run_folder.place(*identity, settings["differs"], settings.get("open"))
    plain = run_folder.place(*identity, {}, settings.get("open"))
    if not (folder / run_folder.ARGS_FILE).exists() and (plain / run_folder.ARGS_FILE).exists():
        if run_folder.same_settings(read_earlier(plain), settings):
            return plain
    return folder


def read_earlier(folder: Path) -> dict[str, Any] | None:
    """args.json of the run that `folder` holds, None where there is none. Raises UserError where it is damaged."""
    try:
        return read_json(folder / run_folder.ARGS_FILE)
    except FileNotFoundError:
        return None
    except DamagedFile as error:
        raise UserError(f"{error}: what this run was trained with is lost. Restore it, or start over with "
                        f"--fresh") from None


def with_recipe(folder: Path, earlier: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """args.json with the recipe, written to the folder where a run of the first release of this project lacks it:
    tables and the sweep know a run by its recipe."""
    if isinstance(earlier.get("recipe"), dict):
        return earlier
    completed = earlier | {name: settings[name] for name in ("recipe", "contents", "differs")}
    write_text(folder / run_folder.ARGS_FILE, json.dumps(completed, indent=1))
    return completed


def finished_epochs(folder: Path, epochs: int, processes: Processes) -> int:
    """The number of finished epochs of the run in `folder`, by its metrics.csv; epochs: how many were asked for.

    Raises UserError where the run has begun but the file is missing from which it would go on: starting from nothing
    would write over the weights and scores that the folder holds.
    """
    last, best = folder / run_folder.LAST_CHECKPOINT, folder / run_folder.BEST_CHECKPOINT
    table = folder / run_folder.METRICS_FILE
    try:
        trained = len(read_rows(table))
    except DamagedFile as error:
        if not last.exists():
            raise UserError(f"{error}, and without {run_folder.LAST_CHECKPOINT} it cannot be written again. "
                            f"{RESTORE_OR_FRESH}") from None
        processes.print_once(f"{error}; it is written again from {run_folder.LAST_CHECKPOINT}")
        return 0
    if trained >= epochs and not best.exists():
        raise UserError(f"{folder} has trained all of its epochs, but its weights, {run_folder.BEST_CHECKPOINT}, are "
                        f"missing. {RESTORE_OR_FRESH}")
    if trained >= epochs or last.exists():
        return trained
    if trained:
        raise UserError(f"{folder} has trained {trained} of {epochs} epochs, but {run_folder.LAST_CHECKPOINT}, from "
                        f"which it would go on, is missing. {RESTORE_OR_FRESH}")
    if holds_results(folder):
        raise UserError(f"{folder} holds weights or scores of a trained run, but neither {run_folder.METRICS_FILE} nor "
                        f"{run_folder.LAST_CHECKPOINT}. {RESTORE_OR_FRESH}")
    return 0


def holds_results(folder: Path) -> bool:
    """Whether a folder holds weights, scores or predictions of a run."""
    names = (run_folder.BEST_CHECKPOINT, run_folder.SCORES_FILE, run_folder.PREDICTIONS_FOLDER)
    return any((folder / name).exists() for name in names)


def refuse_other_settings(folder: Path, earlier: dict[str, Any], settings: dict[str, Any]) -> None:
    """Raises UserError naming the settings in which the run in `folder`, given by its args.json, differs from those
    that were asked for."""
    names = run_folder.varying_settings([earlier, settings])
    names += [name for name in run_folder.PATH_SETTINGS if earlier.get(name) != settings.get(name)]
    if not names:
        return
    differences = []
    for name in names:
        before, now = value_as_text(earlier.get(name)), value_as_text(settings.get(name))
        differences.append(f"{name.replace('_', ' ')}: {before} there, {now} now")
    raise UserError(f"{folder} holds a run with other settings ({'; '.join(differences)}). Use another --runs folder, "
                    f"or --fresh to start over.")


def value_as_text(value: Any) -> str:
    """The value of a setting in a message."""
    if isinstance(value, list):
        return " ".join(map(str, value)) or "none"
    if value is None:
        return "none"
    return str(value)


def refuse_other_data(folder: Path, earlier: dict[str, Any] | None, settings: dict[str, Any]) -> None:
    """Raises UserError where the data have changed since the run in `folder` began: ids or labels of training and
    validation images, or the fused targets. Pixels are not compared. earlier, settings: args.json then and now; earlier
    is None where the run begins."""
    if earlier is None:
        return
    if any(earlier.get(name) != settings.get(name) for name in ("data_sha256", "fused")):
        raise UserError(f"{folder}: image ids, labels or targets of {settings['dataset']} have changed since this run "
                        f"began ({earlier.get('train_images')} training images then, {settings['train_images']} now). "
                        f"Restore them, or start over with --fresh.")


def write_settings(folder: Path, settings: dict[str, Any], environment: dict[str, Any]) -> None:
    """Write args.json and environment.json of a run that begins. environment: machine and weights; the versions of the
    packages are added."""
    packages = versions("torch", "torchvision", "lightning-fabric", "timm", "numpy")
    write_text(folder / run_folder.ENVIRONMENT_FILE, json.dumps(environment | {"versions": packages}, indent=1))
    write_text(folder / run_folder.ARGS_FILE, json.dumps(settings, indent=1))


def record_resumption(folder: Path, machine: dict[str, Any]) -> str:
    """Add the machine to environment.json where a run goes on with another device, another number of processes or
    threads, another --compile or another --deterministic. Returns a remark about it for the user, in brackets, or an
    empty text."""
    path = folder / run_folder.ENVIRONMENT_FILE
    try:
        environment = read_json(path)
        resumptions = environment.get("resumed", [])
        latest = resumptions[-1] if resumptions else environment
        before = {key: latest.get(key) for key in machine}
    except (FileNotFoundError, DamagedFile, TypeError, AttributeError, LookupError):
        write_text(path, json.dumps(machine, indent=1))
        return (f" ({path.name} was missing or damaged and is written anew: it is not known on which machine the run "
                f"began)")
    if before == machine:
        return ""
    write_text(path, json.dumps(environment | {"resumed": [*resumptions, machine]}, indent=1))
    changes = []
    for key, value in machine.items():
        if before[key] is not None and before[key] != value:
            changes.append(f"{key}: {before[key]} there, {value} now")
    return f" ({'; '.join(changes)}; the result will not be the same bit for bit)" if changes else ""


def finish_run(folder: Path, options: TrainingOptions, best: float) -> str:
    """Remove last.pt, unless --keep-last. Returns a message for the user: where the run is, and which command comes
    next. best: the validation macro-F1 of best.pt, as a fraction."""
    if not options.keep_last:
        (folder / run_folder.LAST_CHECKPOINT).unlink(missing_ok=True)
    command = shlex.join(["python", "evaluate.py", str(folder)])
    if options.protocol != "paper":  # the set that evaluate.py takes without --set is usually of the other protocol
        command += f" --set DIR   (DIR: a set built by make_fer_c.py --protocol {options.protocol})"
    elif not (default_set(options.dataset) / "manifest.json").exists():
        command += " --set DIR   (DIR: a set built by make_fer_c.py)"
    return f"{folder}: finished, best validation macro-F1 {100 * best:.1f} percent\nnext: {command}"


def record_time(folder: Path, epoch: int, seconds: float) -> None:
    """Add the row of an epoch to timing.csv. Times are not a result, so a damaged file is replaced by a new one."""
    path = folder / run_folder.TIMING_FILE
    try:
        rows = read_rows(path)[:epoch]
    except DamagedFile:
        rows = []
    rows = [row for row in rows if row.keys() == {"epoch", "seconds"}]
    write_rows(path, [*rows, {"epoch": epoch, "seconds": f"{seconds:.2f}"}])
