"""What a trained run says about its model, in a form that scoring can rely on.

Given the folder of a run, `read_trained_run` reads its args.json and checks every setting that scoring needs. The
result goes to matching.py (does a built set fit the model?), to sources.py (which network is it?) and to scoring.py.
Nothing here imports torch, so that a wrong folder is refused at once.
"""
import itertools
import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import metrics
from support import run_folder
from support.cli import value_words
from support.errors import DamagedFile, UserError
from support.files import read_json

NEEDED_SETTINGS = {"dataset": str, "protocol": str, "image_size": int, "classes": list, "model": dict, "nll_batch": int}
TYPE_NAMES = {str: "text", int: "a whole number", list: "a list", dict: "an object"}
LARGEST_IMAGE_SIZE = 4096  # side in pixels, as models.ImageSize has it
RESTORE_OR_TRAIN = "restore it, or train this run again"

# How far `runs_below` looks: somebody may have named a whole disk.
FOLDERS_VISITED = 5000
RUNS_COUNTED = 100


@dataclass(frozen=True)
class TrainedRun:
    """The settings of a run that scoring needs; all but `settings` are checked."""

    folder: Path
    dataset: str
    """name of the data set that the run was trained on"""
    protocol: str
    image_size: int
    """side of the network's input in pixels"""
    classes: list[str]
    """names of the classes, in the order of the network's outputs"""
    network: dict[str, Any]
    """class and arguments of the network, as `models.build_model` takes them"""
    nll_batch: int
    """images in a batch of `metrics.nll_released`; 256 for runs of the first release of this project, which do not
    record it"""
    settings: dict[str, Any]
    """all of args.json, unchecked; for commands in messages"""

    @property
    def settings_file(self) -> Path:
        return self.folder / run_folder.ARGS_FILE


def read_trained_run(folder: Path) -> TrainedRun:
    """The run in `folder`. Raises UserError where the folder holds no run, and DamagedFile where a setting that scoring
    needs is missing or makes no sense."""
    path = folder / run_folder.ARGS_FILE
    if not path.exists():
        raise UserError(missing_run_message(folder))
    try:
        settings = read_json(path)
    except DamagedFile as error:
        raise DamagedFile(f"{error}; {RESTORE_OR_TRAIN}") from None
    # Runs of the first release of this project have no nll_batch.
    needed = {"nll_batch": metrics.RELEASED_BATCH} | settings
    problem = problem_of_settings(needed)
    if problem:
        raise DamagedFile(f"{path} is damaged ({problem}); {RESTORE_OR_TRAIN}")
    return TrainedRun(folder, needed["dataset"], needed["protocol"], needed["image_size"], needed["classes"],
                      needed["model"], needed["nll_batch"], settings)


def problem_of_settings(settings: dict[str, Any]) -> str:
    """What is wrong with the settings in `NEEDED_SETTINGS`, "" where nothing is."""
    for name, kind in NEEDED_SETTINGS.items():
        if name not in settings:
            return f"it lacks {name!r}"
        value = settings[name]
        if not isinstance(value, kind) or isinstance(value, bool):
            return f"{name!r} is not {TYPE_NAMES[kind]}"
    classes = settings["classes"]
    all_text = all(isinstance(name, str) for name in classes)
    if len(classes) < 2 or not all_text or len(set(classes)) < len(classes):
        return "'classes' is not a list of different names"
    if settings["nll_batch"] < 1 or not 1 <= settings["image_size"] <= LARGEST_IMAGE_SIZE:
        return "'nll_batch' or 'image_size' out of range"
    return ""


def missing_run_message(folder: Path) -> str:
    """The message for a folder that is not a run's. It names the runs that the user may have meant."""
    start = f"{folder / run_folder.ARGS_FILE} is missing: {folder} is no run folder"
    other_settings = runs_with_other_settings(folder)
    if other_settings:
        listed = "; ".join(name_with_settings(run) for run in other_settings[:5])
        return f"{start}. Runs of this name with other settings: {listed}"
    runs = runs_below(folder)
    if runs:
        listed = ", ".join(map(str, runs[:3]))
        more = f" and {len(runs) - 3} more" if len(runs) > 3 else ""
        return f"{start}, but it holds runs. Name one of them: {listed}{more}"
    return f"{start}, or its training has not begun"


def runs_with_other_settings(folder: Path) -> list[Path]:
    """Runs next to `folder` whose names continue its name, as in seed0-1a2b3c4d: the same seed, other settings."""
    if not folder.name or not folder.parent.is_dir():
        return []
    neighbours = [path for path in folder.parent.iterdir() if path.name.startswith(f"{folder.name}-")]
    return sorted(path for path in neighbours if (path / run_folder.ARGS_FILE).is_file())


def runs_below(folder: Path) -> list[Path]:
    """Runs in a folder of runs, at any depth; at most `RUNS_COUNTED` of them."""
    runs: list[Path] = []
    for parent, subfolders, files in itertools.islice(os.walk(folder), FOLDERS_VISITED):
        subfolders.sort()
        if run_folder.ARGS_FILE in files:
            runs.append(Path(parent))
            subfolders.clear()  # a run holds no other run
        if len(runs) == RUNS_COUNTED:
            break
    return runs


def name_with_settings(run: Path) -> str:
    """A run's folder, followed by the settings in which it differs from its recipe."""
    try:
        differing = read_json(run / run_folder.ARGS_FILE).get("differs")
    except (OSError, UserError):
        differing = None
    if not isinstance(differing, dict) or not differing:
        return str(run)
    listed = ", ".join(f"{name} {value}" for name, value in differing.items())
    return f"{run} ({listed})"


def training_command(run: TrainedRun, fresh: bool) -> str:
    """The command that trains a run, for messages. fresh: start from the beginning.

    Runs of the first release of this project do not record their command: for them the answer is a sentence."""
    settings = run.settings
    differing = settings.get("differs")
    if not isinstance(differing, dict) or not isinstance(settings.get("script"), str):
        return "the command that trained it" + (", and --fresh" if fresh else "")
    words = ["python", f"train_{settings['script']}.py"]
    for name in ("dataset", "loss", "seed", "noise", "root", *sorted(differing), "runs"):
        words += setting_words(name, settings.get(name))
    if fresh:
        words.append("--fresh")
    return f"`{shlex.join(words)}`"


def setting_words(name: str, value: Any) -> list[str]:
    """A setting of args.json as words of a command line; none where the setting is null."""
    if name == "precision":  # stored under Fabric's name
        words_by_stored_name = {stored: word for word, stored in run_folder.PRECISIONS.items()}
        value = words_by_stored_name.get(value)
    if value is None:
        return []
    words = []
    for entry in value if isinstance(value, list) else [value]:  # a list is an option that is repeated
        words += value_words(name, entry)
    return words
