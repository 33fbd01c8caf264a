"""The folder of a run: where it lies, which settings separate two runs in tables, and what is finished or scored.

Here are the names of everything in the folder. How predictions/ is laid out inside is in evaluation/predictions.py.
Training writes the folder, evaluation adds predictions and scores to it, reporting reads it, and sweep.py asks whether
it is finished. This file imports nothing heavy.

A run lies in `<runs>/<dataset>/<script>/<loss>/noise<percent>/seed<s>`. A run of train_openset.py has one folder more,
`open-<classes>` after the loss. If settings that change the result differ from the recipe, the last part is
`seed<s>-<8 hex digits>`, a hash of these settings. The words of this file:

  script      the name of the training script without train_; tables call it the algorithm
  setting     an option of a training script as args.json stores it; and `script`
  recipe      the usual value of every setting that changes the result and is not in the path (`PATH_SETTINGS`): what
              the script uses for this data set and protocol if no option is given. Two of them are special. With
              `--protocol released`, the recipe holds the released values, but "paper" as its `protocol`, so that such a
              run differs from its recipe in this one setting. `precision` is what the option's default gives on the
              machine of the run: bf16 where the hardware computes in it natively, else float32
  model       the class and the arguments of the network (`Model.description`); it is no setting
  differs     the settings of one run whose value is not that of its recipe
  row settings
              of one run: the digest of ids and labels of the data, and the settings that change the result, except
              those that the path states (`PATH_SETTINGS`). Runs that a row of a table averages have equal row settings,
              and equal `PATH_SETTINGS` except the seed. `Block` in reporting/rows.py says which rows are compared
  varying     settings of several runs: the row settings that do not have the same value in all of these runs
  asked       the settings that a command line gives, as text

`args.json` holds every setting, the network (`model`), the batch size of the metric nll_released (`nll_batch`), facts
about the data (training/data.py), and three entries more. Runs of the first release of this project have neither
`nll_batch` nor these three:

  recipe    {setting: value}, see above
  differs   {setting: value}, see above; the hash in the folder's name is that of this entry
  contents  {setting: "sha256 <16 hex digits>"}: for a setting that names a file, the beginning of the file's hash
"""
import csv
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from support.errors import UserError
from support.files import read_json, read_rows

ARGS_FILE = "args.json"  # every setting, see above
ENVIRONMENT_FILE = "environment.json"  # versions of the software, the device
METRICS_FILE = "metrics.csv"  # one row for each epoch
TIMING_FILE = "timing.csv"  # seconds of each epoch
LAST_CHECKPOINT = "last.pt"  # the state that training goes on from
BEST_CHECKPOINT = "best.pt"  # the weights of the best epoch; of train_openset.py those of the last epoch
SCORES_FILE = "scores.csv"  # the scores that evaluate.py computed
PREDICTIONS_FOLDER = "predictions"  # the folder of the logits
PREDICTIONS_ORIGIN = "set.json"  # in the folder of a set's predictions: what they were made from
ORIGIN_FILES = (PREDICTIONS_ORIGIN, "validation.json", "validation.bf16.json")  # all such files below it
LOCK_FILE = ".lock"  # held by the process that trains or scores the run
MODELS_FOLDER = "models"  # in the folder of all runs: a folder for each model that is no run
MODEL_FILE = "model.json"  # in the folder of such a model: what it is
CARDS_FOLDER = "cards"  # in the folder of such a model: a card for each set and precision
# Of train_openset.py. What is inside these folders is in training/open_set/files.py.
OPEN_SCORES_FILE = "open_scores.csv"  # how well open and closed images are told apart
OPEN_SCORES_FOLDER = "open_scores"  # the open scores of every image
PSEUDO_LABELS_FOLDER = "pseudo_labels"  # the classes that the closed model predicts, a file for each pool
CLOSED_FOLDER = "closed_model"  # logits and features of the closed model
DETECTORS_FOLDER = "detectors"  # a folder for each detector that is trained
EVENT_FILES = "events.out.tfevents.*"  # of TensorBoard
TRACKER_FOLDER = "wandb"  # the folder of Weights & Biases
WRITTEN = (ARGS_FILE, ENVIRONMENT_FILE, METRICS_FILE, TIMING_FILE, LAST_CHECKPOINT, BEST_CHECKPOINT, SCORES_FILE,
           PREDICTIONS_FOLDER, OPEN_SCORES_FILE, OPEN_SCORES_FOLDER, PSEUDO_LABELS_FOLDER, CLOSED_FOLDER,
           DETECTORS_FOLDER, EVENT_FILES, TRACKER_FOLDER, ".*.tmp")
POOLS = ("test", "paper", "paper-permuted", "paper-random")  # lists of images that open scores are computed for
SCORINGS = ("transductive", "inductive")  # ways of computing them; both are described in docs/openset.md
# Names of the files inside folders in which a user may have put other files. Folders that are not listed are removed
# whole.
WRITTEN_INSIDE = {
    PREDICTIONS_FOLDER: ("*.npy", *ORIGIN_FILES, "*.tmp"),
    OPEN_SCORES_FOLDER: (*(f"{pool}{ending}.csv" for pool in POOLS for ending in ("", "-validation")), "set.json",
                         "begun.txt", "*.npy", "*.tmp"),
    PSEUDO_LABELS_FOLDER: (*(f"{pool}.csv" for pool in POOLS), "*.tmp"),
    CLOSED_FOLDER: ("train.csv", "val.csv", "test.csv", "*.npy", "*.tmp"),
    DETECTORS_FOLDER: (ARGS_FILE, ENVIRONMENT_FILE, METRICS_FILE, TIMING_FILE, "*.pt", "*.npy", EVENT_FILES, "*.tmp"),
}

JOBS_ON_A_DEVICE = "FERC_JOBS_ON_A_DEVICE"  # in the environment: how many jobs of a sweep use the same device at once

# The settings that the path states; only runs of train_openset.py have `open`.
PATH_SETTINGS = ("dataset", "script", "loss", "open", "noise", "seed")
# Entries of args.json in the first release of this project that do not change the result, or that are no settings.
NOT_COMPARED_IN_FIRST_RELEASE = {
    "root", "runs", "fresh", "track", "calib", "workers", "cache", "compile", "model", "classes", "train_images",
    "val_images", "data_sha256", "noise_realised", "fused"}
# Options of train_openset.py that change no score, with their defaults: what is scored, and whether snapshots are kept.
# A pool that two commands name has the same scores with both.
OPEN_SET_EXTRAS: dict[str, Any] = {"pools": ("test",), "scorings": SCORINGS, "set": (), "keep_snapshots": False}
PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed"}  # an option's value -> Fabric's name for it, which files hold
METHOD = "softmax"  # in scores.csv: how probabilities are computed from logits; sets of sequences have one more
DATA = "training data"  # compared like a setting: a digest of the ids and labels of training and validation images


# ---- where a run lies


def place(runs: Path, dataset: str, script: str, loss: str, noise: float, seed: int,
          differs: Mapping[str, Any], open_classes: str | None = None) -> Path:
    """The folder of a run.

    runs: the folder of all runs. script: the name of the training script after train_. noise: the fraction of wrong
    training labels. differs: as in args.json. open_classes: as `datasets.open_classes.open_name` gives them, of a run
    of train_openset.py."""
    name = f"seed{seed}"
    if differs:
        name += f"-{short_hash(differs)}"
    of_loss = Path(runs) / dataset / script / loss
    if open_classes:
        of_loss /= f"open-{open_classes}"
    return of_loss / f"noise{100 * noise:g}" / name


def default_runs() -> Path:
    """The folder of all runs where no option names one: $FERC_RUNS or runs."""
    return Path(os.environ.get("FERC_RUNS") or "runs")


def default_cache(runs: Path) -> Path:
    """The folder of decoded images where no option names one: $FERC_CACHE, else `cache` in the folder of runs."""
    return Path(os.environ.get("FERC_CACHE") or runs / "cache")


def short_hash(differs: Mapping[str, Any]) -> str:
    """The first eight hexadecimal digits of the SHA-256 of settings; their order does not matter."""
    return hashlib.sha256(json.dumps(differs, sort_keys=True).encode()).hexdigest()[:8]


def settings_that_differ(values: Mapping[str, Any], recipe: Mapping[str, Any],
                         contents: Mapping[str, str]) -> dict[str, Any]:
    """The `differs` of a run. values: all of its settings. A setting that names a file gets its digest in `contents` as
    its value."""
    differs = {}
    for name, usual in recipe.items():
        if values[name] != usual:
            differs[name] = contents.get(name, values[name])
    return differs


# ---- which runs a row averages

def row_settings(args: Mapping[str, Any], by_content: bool = True) -> dict[str, Any]:
    """{setting: value} of the row settings of a run. A row of a table averages two runs only if these are equal;
    `varying_settings` compares them and also knows which of them older runs do not record. Older runs also record
    constants that their loss does not have; tables leave them out (reporting/settings.py).

    args: its args.json. by_content: a setting that names a file has the digest of the file as its value if args.json
    holds it, otherwise the name of the file."""
    recipe = args.get("recipe")
    contents = args.get("contents") if by_content else None
    if not isinstance(contents, Mapping):
        contents = {}
    if isinstance(recipe, Mapping):
        names = recipe.keys() - set(PATH_SETTINGS)
    else:
        names = args.keys() - NOT_COMPARED_IN_FIRST_RELEASE - set(PATH_SETTINGS)
    values = {name: contents.get(name, args.get(name)) for name in sorted(names)}
    if "data_sha256" in args:
        values[DATA] = args["data_sha256"]
    return values


def varying_settings(runs: Iterable[Mapping[str, Any]]) -> list[str]:
    """The names of the varying settings of these runs, in alphabetical order.

    runs: their args.json. A run that is older than an option does not record it and counts as having its usual value.
    Training data are compared only if every run records them, and so are the contents of files."""
    runs = list(runs)
    if not runs:
        return []
    usual = merged_recipes(runs)
    by_content = all("contents" in args for args in runs)
    settings = [usual | row_settings(args, by_content) for args in runs]
    names = set().union(*settings)
    if usual:  # runs of the first release also hold constants that their loss does not have; no recipe names them
        names &= usual.keys() | {DATA}
    if not all(DATA in values for values in settings):
        names.discard(DATA)
    return [name for name in sorted(names) if len({as_text(values.get(name)) for values in settings}) > 1]


def as_text(value: Any) -> str:
    """A setting as text, equal for equal values."""
    return json.dumps(value, sort_keys=True, default=str)


def merged_recipes(runs: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The usual value of every setting, from the recipes of those runs that hold one. runs: their args.json."""
    values: dict[str, Any] = {}
    for args in runs:
        if isinstance(args.get("recipe"), Mapping):
            values |= args["recipe"]
    return values


def same_settings(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two runs, given by their args.json, agree in every setting that changes the result, the seed included."""
    return not varying_settings([one, other]) and all(one.get(name) == other.get(name) for name in PATH_SETTINGS)


def is_open_set_run(folder: Path) -> bool:
    """Whether a folder holds a run of train_openset.py, whose model knows the closed classes only: such runs have
    tables of their own."""
    try:
        return bool(read_json(folder / ARGS_FILE).get("open"))
    except (OSError, UserError):
        return False


# ---- finding the run of a command line

def digest_of_file(path: Path) -> str:
    """What `contents` of args.json says of a file: "sha256 " and the first 16 hexadecimal digits."""
    with open(path, "rb") as file:
        return f"sha256 {hashlib.file_digest(file, 'sha256').hexdigest()[:16]}"


def find(runs: Path, dataset: str, script: str, loss: str, noise: float, seed: int,
         asked: Mapping[str, str], open_classes: str | None = None) -> Path | None:
    """The folder of the run that a command line starts, or None if no such run has begun.

    asked: {setting: text} of the command line, without the settings that are arguments of this function and those that
    do not change the result. open_classes: as for `place`. Runs of the first release of this project
    have no `differs`: they are found only after their training script was started again, which adds it to their
    args.json."""
    plain = place(runs, dataset, script, loss, noise, seed, {}, open_classes)
    if not plain.parent.is_dir():
        return None
    for folder in [plain, *sorted(plain.parent.glob(f"seed{seed}-*"))]:
        try:
            args = read_json(folder / ARGS_FILE)
        except (OSError, UserError):
            continue
        if is_run_of(args, asked):
            return folder
    return None


def is_run_of(args: Mapping[str, Any], asked: Mapping[str, str]) -> bool:
    """Whether a run, given by its args.json, has the value that a command line gives to each setting, and for every
    other setting the value that was usual when the run began (`differs` names the settings that had another one).

    The text "auto" (of --precision) fits a run that does not differ from its recipe in this setting. A file fits by its
    content, whatever its name, where the run knows the content. asked: as for `find`."""
    differs = args.get("differs")
    if not isinstance(differs, Mapping) or not set(differs) <= asked.keys():
        return False
    contents = args.get("contents")
    digests = contents if isinstance(contents, Mapping) else {}
    for name, text in asked.items():
        if name in digests and Path(text).is_file():
            if digest_of_file(Path(text)) != digests[name]:
                return False
            continue
        is_left_to_the_recipe = text == "auto" and name not in differs
        if not is_left_to_the_recipe and not as_asked(args.get(name), text):
            return False
    return True


def as_asked(value: Any, text: str) -> bool:
    """Whether a value in args.json is what a command line writes as `text`: 0.0001 may be written 1e-4, true is True,
    and "32-true", Fabric's name of a precision, is 32."""
    if value in PRECISIONS.values():
        return PRECISIONS.get(text) == value
    if isinstance(value, list):
        return " ".join(map(str, value)) == text
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value) == text
    try:
        return float(text) == value
    except ValueError:
        return False


# ---- what has been written into the folder

def clear(folder: Path) -> None:
    """Delete what the project wrote into a run's folder, and no other file."""
    for pattern in WRITTEN:
        for path in folder.glob(pattern):
            if path.name in WRITTEN_INSIDE and path.is_dir() and not path.is_symlink():
                _clear_inside(path, WRITTEN_INSIDE[path.name])
            elif path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


def _clear_inside(folder: Path, patterns: tuple[str, ...]) -> None:
    """Delete files whose names fit one of the patterns, at any depth, and then the folders that are empty."""
    inner = sorted(folder.rglob("*"), key=lambda path: len(path.parts), reverse=True)  # the content before its folder
    for path in [*inner, folder]:
        if path.is_dir() and not path.is_symlink():
            if not any(path.iterdir()):
                path.rmdir()
        elif any(fnmatchcase(path.name, pattern) for pattern in patterns):
            path.unlink()


def is_finished(folder: Path) -> bool:
    """Whether a run has trained all of its epochs: as many rows in metrics.csv as args.json asks for, and best.pt."""
    try:
        epochs = read_json(folder / ARGS_FILE)["epochs"]
        return isinstance(epochs, int) and (folder / BEST_CHECKPOINT).is_file() and trained_epochs(folder) >= epochs
    except (OSError, UserError, KeyError):
        return False


def trained_epochs(folder: Path) -> int:
    """The number of epochs that a run has trained: the rows of metrics.csv, 0 if it cannot be read."""
    try:
        return len(read_rows(folder / METRICS_FILE))
    except (OSError, ValueError, csv.Error):
        return 0


def predictions_folder(run: Path | str, set_name: str, precision: str) -> Path:
    """Where the predictions of a set lie. precision: "32" or "bf16"."""
    return Path(run) / PREDICTIONS_FOLDER / name_of_predictions(set_name, precision)


def name_of_predictions(set_name: str, precision: str) -> str:
    """The name of the folder of a set's predictions; a card of the set has it, too."""
    return set_name if precision == "32" else f"{set_name}.{precision}"


def is_scored(folder: Path, built_set: Path, precision: str = "32") -> bool:
    """Whether scores.csv holds scores of all images of a built set, in its present version, that are not older than
    the weights. They count only if the stored predictions, where there are some, were made from the same image files.
    A metric that was added to the project later is not noticed. precision: "32" or "bf16"; the scores have to be
    computed in it."""
    try:
        manifest = read_json(built_set / "manifest.json")
        if (folder / SCORES_FILE).stat().st_mtime_ns < (folder / BEST_CHECKPOINT).stat().st_mtime_ns:
            return False
        origin = predictions_folder(folder, built_set.resolve().name, precision) / PREDICTIONS_ORIGIN
        if origin.is_file() and read_json(origin).get("content") not in (None, manifest["content"]):
            return False
        images, set_version = manifest["made_with"]["images"], manifest["set_version"]
        places = ("pooled", "mean")  # a set of perturbation sequences has no pooled scores; its last rows are the means
        for row in read_rows(folder / SCORES_FILE):
            of_this_set = row["set"] == built_set.resolve().name and row["set_version"] == set_version
            is_image_count = (row["method"], row["metric"]) == (METHOD, "n") and row["corruption"] in places
            if of_this_set and is_image_count and float(row["value"]) == images and has_precision(row, precision):
                return True
    except (OSError, ValueError, TypeError, KeyError, csv.Error, UserError):
        pass  # damaged scores are computed again
    return False


def has_precision(row: Mapping[str, str], precision: str) -> bool:
    """Whether a row of scores.csv was computed in a precision. Rows of the first release of this project do not state
    their precision and count as computed in the one that is asked for."""
    return row.get("precision", "") in (precision, "")
