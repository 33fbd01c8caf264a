"""Score a trained run on the clean images of a FER-C set and on its 85 corrupted forms.

  python evaluate.py runs/ferplus/baseline/ce/noise0/seed0                       the set of the run's own data set
  python evaluate.py runs/ferplus/baseline/ce/noise0/seed0 --set data/FERPlus-C data/Demo-C
  python evaluate.py runs/ferplus/baseline/ce/noise0/seed0 --limit 8             a quick look: prints, writes nothing

A cell is the clean images (None), or one corruption at one severity (name, severity). Logits go to predictions/<set>/
in the run's folder (predictions/<set>.bf16/ for --precision bf16), one file a cell: interrupted, scoring goes on by
cell. scores.csv is always computed from these files. Trains nothing. Images come from the set: the data set is not
needed. With --on-the-fly only the set's clean images are read, and the corrupted ones made in memory.
"""
from support import start

if __name__ == "__main__":  # before the imports that may be interrupted, or fail outside the environment
    start.guard()

import csv
import hashlib
import io
import itertools
import json
import math
import os
import shlex
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import torch
import tyro
from tqdm import tqdm

import cli
import harness
import metrics
import models
from cli import Between, DamagedFile, UserError
from corruptions import CORRUPTIONS
from datasets import DATASETS, default_set, expression_name
from datasets.fer_c import CELLS, SEVERITIES, BuiltSet, open_set
from models import checkpoints
from support import run_folder

AT_ONCE = 8192  # images, whole cells of them, between two starts of the worker processes
METHOD = "softmax"  # how probabilities come from logits; post-hoc calibration would add its own rows
COLUMNS = ("set", "set_version", "method", "corruption", "severity", "metric", "value", "precision", "notes")
FIRST_COLUMNS = COLUMNS[:7]  # what scores.csv of the first release holds
NAMED_PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed"}  # --precision -> Fabric's name, which set.json holds
ALL_CELLS = (None, *CELLS)
MEANS = ("mean", "pooled_by_severity", "pooled")  # over the 85 cells; see `score`
PLACES = {("clean", ""), *((name, "") for name in MEANS), *((name, str(severity)) for name, severity in CELLS)}
MANY_TIES = 0.001  # of the predictions: from here on scores.csv says that classes tie at the top


@dataclass
class Machine:
    """Where it runs."""

    precision: Literal["32", "bf16"] = "32"
    """32: float32 throughout, without TensorFloat-32. bf16: faster on some hardware; its scores are kept apart"""
    workers: Annotated[int, Between(0)] = min(4, len(os.sched_getaffinity(0)))
    """processes that read images; 0: none"""
    compile: bool = False
    """torch.compile: slow to start, then faster"""


@dataclass
class Args:
    run: Annotated[Path, tyro.conf.Positional]
    """folder of a trained run"""
    set: tuple[Path, ...] = ()
    """built sets (default: data/<Title>-C of the run's data set)"""
    limit: Annotated[int | None, Between(1)] = None
    """only the first images of the set: a quick look, which prints its scores and writes nothing"""
    on_the_fly: bool = False
    """make the corrupted images in memory, bit by bit those of the files: for sets built with --no-images"""
    verify: bool = True
    """--no-verify: do not compare the set's files with their checksums; the scores say so"""
    batch_size: Annotated[int, Between(1)] = 128
    """images at once"""
    force: bool = False
    """score although the run and the set differ in protocol or image size; the scores say so"""
    machine: Machine = field(default_factory=Machine)


def main(args: Args) -> None:
    cli.check_values(args)
    if args.machine.precision not in NAMED_PRECISIONS:
        raise UserError(f"--precision of scoring is {' or '.join(NAMED_PRECISIONS)}, not {args.machine.precision}")
    settings = read_settings(args.run)
    sets = [(built, *match(args.run, settings, built, args.force)) for built in open_sets(args, settings)]
    with exact_float32():
        fabric = harness.connect(NAMED_PRECISIONS[args.machine.precision])
        writes = fabric.global_rank == 0 and not all(is_look(args.limit, built) for built, _, _ in sets)
        with locked(args.run) if writes else nullcontext():
            score_sets(fabric, args, settings, sets)


def score_sets(fabric, args: Args, settings: dict[str, Any], sets: list[tuple[BuiltSet, list[int], list[str]]]) -> None:
    """Predict what is missing, then score, one set after the other; scores.csv is written after each of them."""
    model, weights = load_model(args.run, settings)
    for size in sorted({built.made_with["size"] for built, _, _ in sets}):
        try_out(args.run, model, size, len(settings["classes"]))
    model = fabric.setup_module(harness.optimised(model, args.machine))
    lead, precision, path = fabric.global_rank == 0, args.machine.precision, args.run / run_folder.SCORES
    rows = None
    for built, order, notes in sets:
        look = is_look(args.limit, built)
        if lead and not look and rows is None:
            rows = earlier_scores(args.run, weights, {built.folder.resolve().name for built, _, _ in sets})
        count = args.limit if look else len(built.frame)
        with tempfile.TemporaryDirectory(prefix="fer-c-look-") if look else nullcontext() as temporary:
            folder = predictions_folder(temporary or args.run, built.folder.resolve().name, precision)
            missing, verified = [], None
            if lead:
                for note in notes:
                    print(f"{built.folder}: {note}")
                missing, verified = open_predictions(folder, built, count if look else None, weights,
                                                     NAMED_PRECISIONS[precision], order, args.verify)
            missing = fabric.broadcast(missing)
            predict_cells(fabric, model, built, folder, args, missing, count, order)
            if not lead:
                continue
            said = {True: [], False: ["not verified"], None: ["predictions of the first release: images not verified"]}
            scores = score(built, folder, count if look else None, precision, [*notes, *said[verified]],
                           settings["nll_batch"])
        print(look_text(built, scores, count) if look else summary_line(built, scores))
        if not look:
            rows = without(rows, scores[0]) + scores
            with named(path):
                cli.write_rows(path, rows)
            print(f"scores: {path}")


def is_look(limit: int | None, built: BuiltSet) -> bool:
    """Whether only a part of the set is asked for."""
    return limit is not None and limit < len(built.frame)


@contextmanager
def exact_float32() -> Iterator[None]:
    """Multiply float32 as float32: no TensorFloat-32 or bfloat16 in matrix products and convolutions; afterwards as it
    was before. The older switches are set too, since libraries read them and torch demands that both agree."""
    parts = [torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn,
             torch.backends.mkldnn.matmul, torch.backends.mkldnn.conv, torch.backends.mkldnn.rnn]
    before = [part.fp32_precision for part in parts]
    try:
        older = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    except RuntimeError:  # torch's way to say that the caller has set the newer switches only
        older = None
    try:
        torch.set_float32_matmul_precision("highest")
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        for part in parts:
            part.fp32_precision = "ieee"
        yield
    finally:
        if older:
            torch.set_float32_matmul_precision(older[0])
            torch.backends.cudnn.allow_tf32 = older[1]
        for part, value in zip(parts, before, strict=True):
            part.fp32_precision = value


@contextmanager
def named(path: Path) -> Iterator[None]:
    """An error of the file system becomes one line that names `path`."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror or cli.first_line(error)}); once that is mended, "
                        f"the same command goes on from here") from None


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Hold the run's folder for this process."""
    with named(run / run_folder.LOCK):
        held = cli.lock(run, "working in")
    with held:
        yield


# ---- the run

SETTINGS = {"dataset": str, "protocol": str, "image_size": int, "classes": list, "model": dict}  # needed of args.json
KINDS = {str: "text", int: "a whole number", list: "a list", dict: "an object"}


def read_settings(run: Path) -> dict[str, Any]:
    """args.json of a run, with the keys of `SETTINGS` and "nll_batch", the batch of `metrics.nll_released`.

    Raises UserError where `run` is no run, DamagedFile where a setting that scoring needs is missing or senseless."""
    path = run / run_folder.ARGS
    if not path.exists():
        raise UserError(no_run(run))
    restore = "restore it, or train this run again"
    try:
        settings = cli.read_json(path)
    except DamagedFile as error:
        raise DamagedFile(f"{error}; {restore}") from None
    settings.setdefault("nll_batch", metrics.RELEASED_BATCH)  # runs of the first release do not say
    for key, kind in (SETTINGS | {"nll_batch": int}).items():
        if not isinstance(settings.get(key), kind) or isinstance(settings[key], bool):
            problem = f"{key!r} is not {KINDS[kind]}" if key in settings else f"it lacks {key!r}"
            raise DamagedFile(f"{path} is damaged ({problem}); {restore}")
    classes = settings["classes"]
    if len(classes) < 2 or not all(isinstance(name, str) for name in classes) or len(set(classes)) < len(classes):
        raise DamagedFile(f"{path} is damaged ('classes' is not a list of different names); {restore}")
    if settings["nll_batch"] < 1 or not 1 <= settings["image_size"] <= 4096:
        raise DamagedFile(f"{path} is damaged ('nll_batch' or 'image_size' out of range); {restore}")
    return settings


def no_run(folder: Path) -> str:
    """Why a folder is no run, and which runs its user may have meant."""
    start = f"{folder / run_folder.ARGS} is missing: {folder} is no run folder"
    beside = [path for path in siblings(folder) if (path / run_folder.ARGS).is_file()]
    if beside:
        return f"{start}. Runs of this name with other settings: {'; '.join(map(described, beside[:5]))}"
    below = runs_below(folder)
    if below:
        more = f" and {len(below) - 3} more" if len(below) > 3 else ""
        return f"{start}, but it holds runs. Name one of them: {', '.join(map(str, below[:3]))}{more}"
    return f"{start}, or its training has not begun"


def siblings(folder: Path) -> list[Path]:
    """Folders beside a run's whose names continue its name: the same seed with other settings."""
    if not folder.name or not folder.parent.is_dir():
        return []
    return sorted(path for path in folder.parent.iterdir() if path.name.startswith(f"{folder.name}-"))


def runs_below(folder: Path, enough: int = 100) -> list[Path]:
    """The runs in a folder of runs, as many as are worth counting; somebody may have named a whole disk."""
    found: list[Path] = []
    for parent, folders, files in itertools.islice(os.walk(folder), 5000):
        folders.sort()
        if run_folder.ARGS in files:
            found.append(Path(parent))
            folders.clear()  # nothing of interest lies below a run
        if len(found) == enough:
            break
    return found


def described(run: Path) -> str:
    """A run's folder and the settings in which it differs from its recipe."""
    try:
        differs = cli.read_json(run / run_folder.ARGS).get("differs")
    except (OSError, UserError):
        differs = None
    if not isinstance(differs, dict) or not differs:
        return str(run)
    return f"{run} ({', '.join(f'{name} {value}' for name, value in differs.items())})"


def load_model(run: Path, settings: dict[str, Any]) -> tuple[models.Model, str]:
    """The model with its best weights, and the sha256 of best.pt. Raises UserError where they are missing, damaged, or
    of another network than args.json describes."""
    try:
        model = models.build_model(settings["model"])
    except UserError as error:
        raise DamagedFile(f"{run / run_folder.ARGS}: {error}; restore it, or train this run again") from None
    path = run / run_folder.BEST
    if not path.exists():
        trained = run_folder.trained_epochs(run)
        reason = "was removed" if trained else "is not there, the training has not finished an epoch yet"
        again = training_command(run, settings, fresh=trained > 0)
        raise UserError(f"{path} {reason}. {'Restore it, or train again' if trained else 'Go on'} with {again}")
    try:
        state = checkpoints.read_fields(path, ["model"])["model"]
    except DamagedFile as error:
        raise DamagedFile(f"{error}. Restore it, or train again with {training_command(run, settings, fresh=True)}"
                          ) from None
    with open(path, "rb") as file:
        weights = hashlib.file_digest(file, "sha256").hexdigest()
    load_weights(model, state, path)
    return model, weights


def load_weights(model: torch.nn.Module, state: Any, path: Path) -> None:
    """Put the tensors of best.pt into the model. Raises DamagedFile where they are not exactly the model's."""
    def form(value):
        return (value.shape, value.dtype, value.layout) if isinstance(value, torch.Tensor) else None

    wanted = model.state_dict()
    state = state if isinstance(state, dict) else {}
    wrong = [name for name in [*wanted, *(name for name in state if name not in wanted)]
             if name not in state or name not in wanted or form(state[name]) != form(wanted[name])]
    if wrong:
        raise DamagedFile(f"{path} does not hold the weights of {type(model).__name__} as args.json describes it: "
                          f"{len(wrong)} tensors are missing, unknown or of another shape, for example {wrong[0]}. "
                          f"Restore the two files of one run")
    model.load_state_dict(state)


def training_command(run: Path, settings: dict[str, Any], fresh: bool) -> str:
    """The command that trains a run, for messages. Runs of the first release do not say what it was."""
    differs, end = settings.get("differs"), ["--fresh"] if fresh else []
    if not isinstance(differs, dict) or not isinstance(settings.get("script"), str):
        return "the command that trained it" + (", and --fresh" if fresh else "")
    words = ["python", f"train_{settings['script']}.py"]
    for name in ("dataset", "loss", "seed", "noise", "root", *sorted(differs), "runs"):
        value, option = settings.get(name), f"--{name.replace('_', '-')}"
        if name == "precision":  # stored under Fabric's name
            value = {fabric_name: word for word, fabric_name in NAMED_PRECISIONS.items()}.get(value)
        if isinstance(value, bool):
            words.append(option if value else f"--no-{option[2:]}")
        elif isinstance(value, list):
            words += [word for entry in value for word in (option, str(entry))]
        elif value is not None:
            words += [option, str(value)]
    return f"`{shlex.join([*words, *end])}`"


def try_out(run: Path, model: torch.nn.Module, size: int, classes: int) -> None:
    """One black image, before hours are spent. Raises UserError where the network cannot take images of `size` pixels
    or has another number of outputs than args.json has classes."""
    model.eval()
    try:
        with torch.no_grad():
            outputs = model(torch.zeros(1, 3, size, size, dtype=torch.uint8))
    except Exception as error:  # networks refuse a size in many ways
        raise UserError(f"{run}: its network cannot take images of {size} pixels ({cli.first_line(error)})") from None
    if not isinstance(outputs, torch.Tensor) or outputs.shape != (1, classes):
        shape = tuple(outputs.shape) if isinstance(outputs, torch.Tensor) else type(outputs).__name__
        raise DamagedFile(f"{run / run_folder.ARGS} is damaged: it names {classes} classes, and the network gives "
                          f"{shape} for one image; restore it, or train this run again")


# ---- the sets

def open_sets(args: Args, settings: dict[str, Any]) -> list[BuiltSet]:
    """The sets to score. Raises UserError where one is none, or where two would share a name in the run's folder."""
    folders = args.set or (own_set(args.run, settings),)
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise UserError(f"--set names one set twice: {', '.join(map(str, folders))}")
    names = [folder.resolve().name for folder in folders]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"two sets are called {name}, and predictions/ and scores.csv go by this name: rename one "
                            f"of the folders, or score them from two copies of the run")
        if name.endswith(".bf16"):
            raise UserError(f"{name}: predictions/ uses names that end in .bf16 for scores in that precision; rename "
                            f"the set's folder")
    opened = []
    for folder in folders:
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{folder} is a file; --set takes the folder of a set that make_fer_c.py has built")
        built = open_set(folder, verify=args.verify)
        if args.on_the_fly:
            built.check_images()
        elif not built.has_images:
            raise UserError(f"{folder} was built with --no-images: add --on-the-fly")
        opened.append(built)
    return opened


def own_set(run: Path, settings: dict[str, Any]) -> Path:
    """The corrupted form of the data set that a run was trained on, where it is built without being told."""
    if settings["dataset"] not in DATASETS:
        raise DamagedFile(f"{run / run_folder.ARGS} is damaged (unknown data set {settings['dataset']!r}); restore it, "
                          f"or name a set with --set")
    folder = default_set(settings["dataset"])
    if not folder.exists() and not folder.with_name(f"{folder.name}.partial").exists():
        command = build_command(settings["dataset"], settings, folder)
        raise UserError(f"{folder} is not there. Name a set with --set, or build it: {command}")
    return folder


def build_command(dataset: str, settings: dict[str, Any], folder: Path) -> str:
    """The command that builds a set which fits a run; with the run's options of the data set where it is the run's."""
    words = ["python", "make_fer_c.py", "--dataset", dataset, "--protocol", settings["protocol"],
             "--image-size", str(settings["image_size"])]
    if dataset == settings["dataset"]:
        words += ["--root", str(settings["root"])] if settings.get("root") else []
        options = settings.get("data")
        words += [word for option in (options if isinstance(options, list) else []) for word in ("--data", str(option))]
    return f"`{shlex.join([*words, '--out', str(folder)])}`"


def match(run: Path, settings: dict[str, Any], built: BuiltSet, force: bool) -> tuple[list[int], list[str]]:
    """(the model's output that stands for each class of the set, in the set's order; notes for the scores).

    Classes are matched by name, whatever `force` says. Raises UserError where the scores would not mean what they seem
    to: other classes, another protocol or image size."""
    order, notes = match_classes(run, settings["classes"], built), []
    if order != list(range(len(order))):
        notes.append("classes reordered by name")
    made = built.made_with
    for subject, own, other, note in (
            ("protocol", settings["protocol"], made["protocol"], "forced: protocol {} scored on a set of protocol {}"),
            ("image size", settings["image_size"], made["size"], "forced: image size {}, set {}")):
        if own == other:
            continue
        if not force:
            fitting = built.folder.with_name(f"{built.folder.resolve().name}-{settings['protocol']}-"
                                             f"{settings['image_size']}")
            raise UserError(f"{run} has {subject} {own}, {built.folder} has {other}: the scores would not be "
                            f"comparable. Add --force, or build a set that fits: "
                            f"{build_command(made['dataset'], settings, fitting)}")
        notes.append(note.format(own, other))
    return order, notes


def match_classes(run: Path, own: list[str], built: BuiltSet) -> list[int]:
    """For each class of the set, its place among the run's classes `own`, by `expression_name`."""
    names = {f"{run}": list(own), f"{built.folder}": list(built.classes)}
    plain = {}
    for holder, classes in names.items():
        plain[holder] = [expression_name(name) for name in classes]
        if len(set(plain[holder])) < len(classes):
            raise UserError(f"{holder} has two classes of one meaning: {', '.join(classes)}")
    ours, theirs = plain[f"{run}"], plain[f"{built.folder}"]
    if set(ours) == set(theirs):
        return [ours.index(name) for name in theirs]
    only_run = [name for name in ours if name not in theirs]
    only_set = [name for name in theirs if name not in ours]
    raise UserError(f"{run} and {built.folder} do not have the same classes: only the run has "
                    f"{', '.join(only_run) or 'none'}, only the set has {', '.join(only_set) or 'none'} "
                    f"(run: {', '.join(own)}; set: {', '.join(built.classes)})")


# ---- predictions

def predictions_folder(run: Path | str, set_name: str, precision: str) -> Path:
    """Where the predictions of a set in a precision ("32" or "bf16") lie."""
    suffix = "" if precision == "32" else f".{precision}"
    return Path(run) / run_folder.PREDICTIONS / f"{set_name}{suffix}"


def predictions_file(folder: Path, cell: tuple[str, int] | None) -> Path:
    return folder / "clean.npy" if cell is None else folder / cell[0] / f"{cell[1]}.npy"


def open_predictions(folder: Path, built: BuiltSet, limit: int | None, weights: str, precision: str,
                     order: list[int] | None = None, verify: bool = True) -> tuple[list, bool | None]:
    """Make a folder of predictions ready. Those of other weights, another set, order or number of images are deleted.

    limit: only so many images; weights: sha256 of best.pt; precision: Fabric's name; order: as `match` gives it;
    verify: whether images will be compared with their checksums. Returns the cells to predict, missing or damaged ones,
    and whether the images of all cells are verified (None: predictions of the first release, which did not)."""
    same_order = list(range(len(built.classes)))
    made_by = {"weights": weights, "set_version": built.manifest["set_version"], "content": built.manifest["content"],
               "classes": list(built.classes), "order": order or same_order, "limit": limit, "precision": precision,
               "demo": built.made_with["dataset"] == "demo"}
    keep_apart(folder)
    make_way(folder.parent, folder, *(folder / name for name in CORRUPTIONS))
    note = folder / "set.json"
    known = {"order": same_order} | read_note(note)  # the first release knew no other order, and did not note it
    verified, digests = known.get("verified"), known.get("digests", {})
    usable = known | made_by == known and isinstance(digests, dict) and (verified is None or isinstance(verified, bool))
    if not usable or (verify and verified is False):
        discard(folder)
        verified, digests = verify, {}
    labels = built.frame["expression"].to_numpy(np.int64)[:limit]
    shape = (len(labels), len(built.classes))
    missing = [cell for cell in ALL_CELLS
               if not is_sound(predictions_file(folder, cell), shape, np.float32, digests.get(cell_name(cell)))]
    if missing and not verify:
        verified = False
    if not is_sound(folder / "labels.npy", labels.shape, np.int64, digest(labels)):
        write_array(folder / "labels.npy", labels)
    with named(note):
        cli.write_text(note, json.dumps(made_by | {"verified": verified, "digests": digests,
                                                   "folder": str(built.folder.resolve())}))
    return missing, verified


def keep_apart(folder: Path) -> None:
    """Predictions of the first release lie under the set's plain name in any precision: give those in bf16 theirs."""
    name = folder.name.removesuffix(".bf16")
    plain, own = folder.with_name(name), folder.with_name(f"{name}.bf16")
    try:
        precision = cli.read_json(plain / "set.json").get("precision")
    except (OSError, DamagedFile):  # said when the set's predictions are opened
        return
    if plain != own and precision == NAMED_PRECISIONS["bf16"] and not os.path.lexists(own):
        with named(own):
            plain.rename(own)


def read_note(path: Path) -> dict[str, Any]:
    """set.json of a folder of predictions, {} where there is none; where it is damaged, that is said."""
    try:
        return cli.read_json(path)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except DamagedFile as error:
        print(f"{error}: not known what these predictions are of; they are made again")
        make_way_for_file(path)
        return {}


def make_way(*folders: Path) -> None:
    """Set aside what is no folder where predictions need one."""
    for folder in folders:
        if os.path.lexists(folder) and not folder.is_dir():
            print(f"{folder} is no folder: kept as {set_aside(folder)}")


def make_way_for_file(path: Path) -> None:
    """Set aside a folder or the like where a file of ours belongs. A damaged file is written over."""
    if os.path.lexists(path) and (path.is_dir() or not (path.is_file() or path.is_symlink())):
        print(f"{path} is no file: kept as {set_aside(path)}")


def set_aside(path: Path) -> Path:
    """Rename what is damaged, so that nothing is lost. Returns its new name, the first free one."""
    target, number = path.with_name(f"{path.name}.damaged"), 2
    while os.path.lexists(target):
        target, number = path.with_name(f"{path.name}.damaged-{number}"), number + 1
    with named(target):
        path.rename(target)
    return target


def discard(folder: Path) -> None:
    """Delete the predictions in a folder, and nothing else that may lie there."""
    with named(folder):
        arrays = [predictions_file(folder, cell) for cell in ALL_CELLS]
        for path in [*arrays, folder / "labels.npy", folder / "set.json"]:
            make_way_for_file(path)
            path.unlink(missing_ok=True)
        for parent in (*(folder / name for name in CORRUPTIONS), folder):
            if parent.is_dir() and not parent.is_symlink() and not any(parent.iterdir()):
                parent.rmdir()


def cell_name(cell: tuple[str, int] | None) -> str:
    """A cell in set.json."""
    return "clean" if cell is None else f"{cell[0]}/{cell[1]}"


def digest(array: np.ndarray) -> str:
    """What an array's values are told by: 16 hexadecimal digits."""
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]


def is_sound(path: Path, shape: tuple[int, ...], dtype: type, expected: str | None) -> bool:
    """Whether an array of ours is there as it has to be; expected: its `digest`, None where it was not noted. Damage is
    said."""
    if not os.path.lexists(path):
        return False
    try:
        stored = read_array(path, shape, dtype)
        if expected is not None and digest(stored) != expected:
            raise DamagedFile(f"{path} is damaged (its values are not those that were written)")
    except DamagedFile as error:
        print(f"{error}: made again")
        make_way_for_file(path)
        return False
    return True


def read_array(path: Path, shape: tuple[int, ...], dtype: type = np.float32) -> np.ndarray:
    """An array of ours from a .npy file. Raises DamagedFile where it is not of this shape and type, or not finite."""
    if not path.is_file():
        raise DamagedFile(f"{path} is no regular file")
    try:
        stored = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # what is damaged can fail in any way
        raise DamagedFile(f"{path} is damaged ({cli.first_line(error)})") from None
    if not isinstance(stored, np.ndarray) or stored.shape != shape or stored.dtype != dtype:
        form = f"{stored.shape} of {stored.dtype}" if isinstance(stored, np.ndarray) else "an archive"
        raise DamagedFile(f"{path} is damaged (it holds {form}, not {shape} of {np.dtype(dtype)})")
    array = np.array(stored)
    if not np.isfinite(array).all():
        raise DamagedFile(f"{path} is damaged (it holds NaN or infinity)")
    return array


def write_array(path: Path, array: np.ndarray) -> None:
    """A .npy file, whole or not at all. Raises UserError naming it where it cannot be written."""
    data = io.BytesIO()
    np.save(data, array)
    with named(path):
        cli.write_whole(path, lambda file: file.write(data.getbuffer()))


class Cells(torch.utils.data.Dataset):
    """All images of some cells, one cell after the other, as harness.Images gives them; from files or made here."""

    cached = None

    def __init__(self, built: BuiltSet, cells: list, count: int, on_the_fly: bool):
        self.built, self.cells, self.count, self.on_the_fly = built, cells, count, on_the_fly

    def __len__(self) -> int:
        return self.count * len(self.cells)

    def __getitem__(self, i: int) -> tuple[torch.Tensor | UserError, int]:
        """(uint8 (3, S, S), i), or (what is wrong with the image, i)."""
        which = i % self.count, *(self.cells[i // self.count] or ())
        try:
            pixels = self.built.pixels(*which, in_memory=self.on_the_fly)
        except UserError as error:  # raised in a worker process it would arrive as a page of text
            return UserError(str(error)), i
        except OSError as error:
            return UserError(f"{error.filename or self.built.folder}: {error.strerror or error}"), i
        return torch.from_numpy(pixels).permute(2, 0, 1), i


def predict_cells(fabric, model, built: BuiltSet, folder: Path, args: Args, cells: list, count: int,
                  order: list[int]) -> None:
    """Predict the first `count` images of these cells; each file is renamed into place when its cell is done. Logits
    are stored in the set's order of classes: `order` says which output stands for each."""
    with tqdm(total=len(ALL_CELLS) * count, initial=(len(ALL_CELLS) - len(cells)) * count, unit=" images",
              desc=built.folder.name, disable=None if fabric.global_rank == 0 else True) as bar:
        group = max(1, AT_ONCE // count)
        for start in range(0, len(cells), group):
            batch = cells[start:start + group]
            images = Cells(built, batch, count, args.on_the_fly)
            logits = predict(fabric, model, images, args).reshape(len(batch), count, -1)[:, :, order]
            for cell, values in zip(batch, logits, strict=True):
                broken = count - np.isfinite(values).all(1).sum()
                if broken:
                    raise UserError(f"{args.run}: the network's outputs are not finite for {broken} of {count} images "
                                    f"({'clean' if cell is None else f'{cell[0]} {cell[1]}'}): its training has "
                                    f"diverged, or --precision {args.machine.precision} is too coarse for it")
            if fabric.global_rank == 0:
                write_cells(folder, dict(zip(batch, logits, strict=True)))
            bar.update(len(batch) * count)
        fabric.barrier()


def write_cells(folder: Path, logits: dict[Any, np.ndarray]) -> None:
    """Write the predictions of some cells: their digests first, so that no file is without one."""
    note = folder / "set.json"
    known = cli.read_json(note)
    known["digests"] = known["digests"] | {cell_name(cell): digest(values) for cell, values in logits.items()}
    with named(note):
        cli.write_text(note, json.dumps(known))
    for cell, values in logits.items():
        write_array(predictions_file(folder, cell), np.ascontiguousarray(values))


def predict(fabric, model, images: Cells, args: Args) -> np.ndarray:
    """Logits of these images, float32 (N, K), in the model's order of classes. Raises UserError where memory ends."""
    try:
        return harness.predict(fabric, model, images, args.batch_size, args.machine.workers)
    except torch.OutOfMemoryError:
        raise UserError(f"--batch-size {args.batch_size} does not fit into the device's memory; try "
                        f"--batch-size {max(1, args.batch_size // 2)}") from None
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise UserError(f"a process that reads images has died ({cli.first_line(error)}), for lack of memory, perhaps; "
                        f"try --workers 0") from None


# ---- scores

def score(built: BuiltSet, folder: Path, limit: int | None, precision: str = "32", notes: tuple | list = (),
          released_batch: int = metrics.RELEASED_BATCH) -> list[dict[str, Any]]:
    """Tidy scores of one set, a dict of `COLUMNS` each: clean, 85 cells, and three means (see the spec: ECE is not
    linear, they differ). folder: of its predictions; released_batch: of `metrics.nll_released`."""
    labels = built.frame["expression"].to_numpy(np.int64)[:limit]
    shape, ties = (len(labels), len(built.classes)), 0

    def read(cell):
        nonlocal ties
        logits = read_array(predictions_file(folder, cell), shape)
        ties += int(((logits == logits.max(1, keepdims=True)).sum(1) > 1).sum())
        return logits, metrics.softmax(logits)

    def summarise(pool):
        logits, probs, soft = (np.concatenate(part) for part in zip(*pool, strict=True))
        scores = metrics.summary(probs, np.tile(labels, len(pool)), soft, logits, released_batch=released_batch)
        return scores | {"n": len(labels)}

    logits, probs = read(None)
    clean = metrics.summary(probs, labels, logits=logits, released_batch=released_batch) | {"n": len(labels)}
    cells, pools = {}, {severity: [] for severity in SEVERITIES}
    for name, severity in CELLS:
        soft = np.asarray(built.targets(name, severity)[:limit], np.float64)
        cell = (*read((name, severity)), soft)
        cells[name, severity] = summarise([cell])
        pools[severity].append(cell)
    by_severity = [summarise(pool) for pool in pools.values()]
    pooled = summarise([cell for pool in pools.values() for cell in pool])
    rows = [("clean", "", clean)]
    rows += [(name, severity, values) for (name, severity), values in cells.items()]
    rows += [(name, "", values) for name, values in
             zip(MEANS, (mean_of(cells.values()), mean_of(by_severity), pooled), strict=True)]
    tied = ties / (len(labels) * len(ALL_CELLS))
    notes = [*notes, *([f"{100 * tied:.1f} % of predictions tie, the class listed first counts"]
                       if tied >= MANY_TIES else [])]
    name, version, said = built.folder.resolve().name, built.manifest["set_version"], "; ".join(notes)
    scores = [dict(zip(COLUMNS, (name, version, METHOD, corruption, severity, metric, value, precision, said),
                       strict=True))
              for corruption, severity, values in rows for metric, value in values.items()]
    broken = [row for row in scores if not np.isfinite(row["value"])]
    if broken:
        raise AssertionError(f"{broken[0]} is no score")  # metrics.summary refuses what could lead here
    return scores


def mean_of(summaries) -> dict[str, float]:
    return {metric: float(value) for metric, value in pd.DataFrame(list(summaries)).mean().items()}


def earlier_scores(run: Path, weights: str, scored_now: frozenset | set = frozenset()) -> list[dict[str, Any]]:
    """The rows of scores.csv that stay true of the run's weights (their sha256), with all `COLUMNS`.

    A damaged file is set aside and said. Rows of earlier weights, as set.json of their predictions tells, are left out
    and said. Rows of the first release have no precision; where set.json says bf16, they get it."""
    path = run / run_folder.SCORES
    try:
        rows = read_scores(path)
    except DamagedFile as error:
        print(f"{error}: kept as {set_aside(path)}. Sets that are not scored now have to be scored again")
        return []
    origins: dict[tuple[str, str, str], dict[str, Any]] = {}
    kept, stale = [], set()
    for row in rows:
        key = row["set"], row["set_version"], row["precision"]
        if key not in origins:
            origins[key] = origin(run, *key)
        known = origins[key]
        if known.get("weights", weights) != weights:
            stale.add(row["set"])
            continue
        old_bf16 = not row["precision"] and known.get("precision") == NAMED_PRECISIONS["bf16"]
        kept.append(row | {"precision": "bf16"} if old_bf16 else row)
    for name in sorted(stale - scored_now):
        print(f"{path}: the scores of {name} are of earlier weights of this run and are left out")
    return kept


def origin(run: Path, set_name: str, set_version: str, precision: str) -> dict[str, Any]:
    """set.json of the predictions that scores come from, {} where it is gone or of another version of the set."""
    if Path(set_name).name != set_name:  # a file of a hostile run must not lead out of it
        return {}
    try:
        known = cli.read_json(predictions_folder(run, set_name, precision or "32") / "set.json")
    except (OSError, DamagedFile):  # said when the set is scored
        return {}
    return known if known.get("set_version") == set_version else {}


def read_scores(path: Path) -> list[dict[str, Any]]:
    """The rows of scores.csv as dicts of text with all `COLUMNS`, [] where there is none. Raises DamagedFile."""
    if not os.path.lexists(path):
        return []
    if not path.is_file():
        raise DamagedFile(f"{path} is no regular file")
    try:
        rows = cli.read_rows(path)
        header = tuple(rows[0]) if rows else ()
        if header not in (COLUMNS, FIRST_COLUMNS):
            raise ValueError("its columns are not those of scores")
        rows = [dict.fromkeys(COLUMNS, "") | row for row in rows]
        for number, row in enumerate(rows, 2):
            if not is_score(row):
                raise ValueError(f"line {number} is no score")
        keys = {tuple(value for name, value in row.items() if name not in ("value", "notes")) for row in rows}
        if len(keys) < len(rows):
            raise ValueError("a score is there twice")
    except DamagedFile:
        raise
    except (ValueError, csv.Error) as error:
        raise DamagedFile(f"{path} is damaged ({cli.first_line(error)})") from None
    return rows


def is_score(row: dict[Any, Any]) -> bool:
    """Whether a row of scores.csv, as text, is one that `score` could have written."""
    if row.keys() != set(COLUMNS) or None in row.values():
        return False
    place = row["corruption"], row["severity"]
    return (math.isfinite(float(row["value"])) and place in PLACES and row["precision"] in ("", *NAMED_PRECISIONS)
            and all(text.isprintable() for text in row.values())
            and all(row[name] for name in ("set", "set_version", "method", "metric")))


def without(rows: list[dict[str, Any]], new: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows that those like `new` do not replace: of another set, version, method or precision. Rows of the first
    release that do not say their precision are replaced by float32."""
    def group(row):
        return row["set"], row["set_version"], row["method"], row["precision"] or "32"

    return [row for row in rows if group(row) != group(new)]


def values_of(rows: list[dict[str, Any]]) -> dict[tuple[str, str], float]:
    return {(row["corruption"], row["metric"]): row["value"] for row in rows if row["severity"] == ""}


def summary_line(built: BuiltSet, rows: list[dict[str, Any]]) -> str:
    value = values_of(rows)
    means = ", ".join(f"{where} macro-F1 {100 * value[where, 'macro_f1']:.1f} ECE {100 * value[where, 'ece']:.1f}"
                      for where in ("clean", "mean"))
    demo = " (demo data: shows function, not findings)" if built.made_with["dataset"] == "demo" else ""
    notes = f"\n  note: {rows[0]['notes']}" if rows[0]["notes"] else ""
    return f"{built.folder.name}{demo}: {means} percent, {int(value['clean', 'n'])} images{notes}"


def look_text(built: BuiltSet, rows: list[dict[str, Any]], count: int) -> str:
    """What a quick look prints: a narrow table of the clean images and the mean over the 85 cells."""
    value = values_of(rows)
    names = ("accuracy", "macro_f1", "ece", "kse")
    lines = [f"{built.folder.name}: a look at {count} of {len(built.frame)} images, no benchmark score; nothing is "
             f"written",
             "  percent     accuracy  macro-F1     ECE     KSE       NLL (nats)"]
    for word, where in (("clean", "clean"), ("corrupted", "mean")):
        numbers = [100 * value[where, name] for name in names]
        lines.append("  {:<10}{:10.1f}{:10.1f}{:8.1f}{:8.1f}{:17.3f}".format(word, *numbers, value[where, "nll"]))
    if rows[0]["notes"]:
        lines.append(f"  note: {rows[0]['notes']}")
    return "\n".join(lines)


if __name__ == "__main__":
    cli.run(main, Args)
