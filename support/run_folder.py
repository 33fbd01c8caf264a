"""The folder of a run: how it is laid out, which settings separate two runs, and what is finished or scored.

A run lies in `<runs>/<dataset>/<script>/<loss>/noise<percent>/seed<s>`. Where settings that change the result differ
from those of the recipe (the values for this script, data set and protocol), the last part is `seed<s>-<8 hex digits>`,
a hash of the settings that differ. `args.json` holds every setting, and beside them

  recipe    {setting: value}: what each setting that changes the result would be without being asked for
  differs   {setting: value}: those that are not as in the recipe; the hash is of these
  contents  {setting: sha256}: of the files that a setting names

Runs of the first release have none of the three.

`predictions/<set>/` holds logits computed in float32, `predictions/<set>.bf16/` those in bfloat16: clean.npy and
<corruption>/<severity>.npy (float32, N x K, in the set's order of classes), labels.npy, and set.json (origin, order of
classes, whether images were verified, a digest for each file of logits).

Everything here reads files only; nothing imports torch.
"""
import csv
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import cli

ARGS, ENVIRONMENT, METRICS, TIMING = "args.json", "environment.json", "metrics.csv", "timing.csv"
LAST, BEST, SCORES, PREDICTIONS = "last.pt", "best.pt", "scores.csv", "predictions"
LOCK, EVENTS, TRACKER = ".lock", "events.out.tfevents.*", "wandb"  # TensorBoard's files; Weights & Biases' folder
WRITTEN = (ARGS, ENVIRONMENT, METRICS, TIMING, LAST, BEST, SCORES, PREDICTIONS, EVENTS, TRACKER, ".*.tmp")

PATH_SETTINGS = ("dataset", "script", "loss", "noise", "seed")  # what the path itself says
# What args.json of the first release holds besides the settings that change the result.
FIRST_RELEASE_OTHERS = {
    "root", "runs", "fresh", "track", "calib", "workers", "cache", "compile", "model", "classes", "train_images",
    "val_images", "data_sha256", "noise_realised", "fused"}
PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed"}  # an option's value -> Fabric's name for it, which files hold
DATA = "training data"  # not an option: the ids and labels trained and validated on


def place(runs: Path, dataset: str, script: str, loss: str, noise: float, seed: int,
          differs: Mapping[str, Any]) -> Path:
    """The folder of a run; differs: its settings that are not as in the recipe, as in args.json."""
    last = f"seed{seed}" + (f"-{short_hash(differs)}" if differs else "")
    return Path(runs) / dataset / script / loss / f"noise{100 * noise:g}" / last


def short_hash(differs: Mapping[str, Any]) -> str:
    """Eight hexadecimal digits of a set of settings, whatever their order."""
    return hashlib.sha256(json.dumps(differs, sort_keys=True).encode()).hexdigest()[:8]


def settings_that_differ(values: Mapping[str, Any], recipe: Mapping[str, Any],
                         contents: Mapping[str, str]) -> dict[str, Any]:
    """The settings of `recipe` whose value in `values` is another one; a file's value is what is in it."""
    return {name: contents.get(name, values[name]) for name, usual in recipe.items() if values[name] != usual}


def comparable(args: Mapping[str, Any], by_content: bool = True) -> dict[str, Any]:
    """Everything in a run's args.json that changes its result, except the seed and what its path says.

    by_content: a file counts by its content where that was recorded, else by its name. Two runs are seeds of one row
    only if these agree (see `varying`, which also knows what a run of the first release leaves out)."""
    recipe = args.get("recipe")
    contents = args.get("contents") if by_content else None
    contents = contents if isinstance(contents, Mapping) else {}
    if isinstance(recipe, Mapping):
        names = recipe.keys() - set(PATH_SETTINGS)
    else:
        names = args.keys() - FIRST_RELEASE_OTHERS - set(PATH_SETTINGS)
    values = {name: contents.get(name, args.get(name)) for name in sorted(names)}
    return values | ({DATA: args["data_sha256"]} if "data_sha256" in args else {})


def varying(runs: Iterable[Mapping[str, Any]]) -> list[str]:
    """The settings in which these runs, given by their args.json, are not all alike, in alphabetical order.

    A setting that one run does not record, because it is older than the option, counts as the recipe's value. Training
    data count only where every run says which they were, contents of files likewise."""
    runs = list(runs)
    usual, by_content = usual_values(runs), all("contents" in args for args in runs)
    filled = [usual | comparable(args, by_content) for args in runs]
    names = sorted(set().union(*filled)) if filled else []
    if not all(DATA in values for values in filled):
        names = [name for name in names if name != DATA]
    texts = [{name: json.dumps(values.get(name), sort_keys=True, default=str) for name in names} for values in filled]
    return [name for name in names if len({text[name] for text in texts}) > 1]


def usual_values(runs: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The recipe's value of every setting, from those of the runs that recorded it."""
    values: dict[str, Any] = {}
    for args in runs:
        if isinstance(args.get("recipe"), Mapping):
            values |= args["recipe"]
    return values


def same_settings(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two runs, given by their args.json, differ in nothing that changes the result, the seed included."""
    return not varying([one, other]) and all(one.get(name) == other.get(name) for name in PATH_SETTINGS)


def find(runs: Path, dataset: str, script: str, loss: str, noise: float, seed: int,
         asked: Mapping[str, str]) -> Path | None:
    """The folder of the run that a command line starts, or None where no such run is begun.

    asked: what the command line sets besides the other arguments, option name with underscores -> its text, without
    those that do not change the result. A run fits if every setting that was asked for has that value and no other one
    differs from its recipe. Runs of the first release do not say what differs: they are found once their training
    script was started again, which adds it to their args.json."""
    plain = place(runs, dataset, script, loss, noise, seed, {})
    candidates = [plain, *sorted(plain.parent.glob(f"seed{seed}-*"))] if plain.parent.is_dir() else []
    for folder in candidates:
        try:
            args = cli.read_json(folder / ARGS)
        except (OSError, cli.UserError):
            continue
        differs = args.get("differs")
        if isinstance(differs, Mapping) and set(differs) <= asked.keys() and all(
                as_asked(args.get(name), text) or (text == "auto" and name not in differs)
                for name, text in asked.items()):
            return folder
    return None


def as_asked(value: Any, text: str) -> bool:
    """Whether a setting of args.json is what a command line writes as `text`: 0.0001 is 1e-4, true is True, and
    32-true, as Fabric calls that precision, is 32."""
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


def default_runs() -> Path:
    """Where runs lie without being told: $FERC_RUNS or runs."""
    return Path(os.environ.get("FERC_RUNS") or "runs")


def clear(folder: Path) -> None:
    """Delete what the project wrote into a run's folder, and nothing else."""
    for pattern in WRITTEN:
        for path in folder.glob(pattern):
            if path.name == PREDICTIONS:
                _clear_predictions(path)
            elif path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


def _clear_predictions(folder: Path) -> None:
    """Logits, their labels and notes; folders that are empty after that."""
    inner = sorted(folder.rglob("*"), key=lambda path: len(path.parts), reverse=True)  # what is inside comes first
    for path in [*inner, folder]:
        if path.is_dir() and not path.is_symlink():
            if not any(path.iterdir()):
                path.rmdir()
        elif path.suffix == ".npy" or path.name == "set.json" or path.name.endswith(".tmp"):
            path.unlink()


def is_finished(folder: Path) -> bool:
    """Whether a run has trained all of its epochs: as many rows in metrics.csv as args.json asks for, and best.pt."""
    try:
        epochs = cli.read_json(folder / ARGS)["epochs"]
        return isinstance(epochs, int) and (folder / BEST).is_file() and trained_epochs(folder) >= epochs
    except (OSError, cli.UserError, KeyError):
        return False


def trained_epochs(folder: Path) -> int:
    """Rows of metrics.csv, 0 where there is none or it cannot be read."""
    try:
        return len(cli.read_rows(folder / METRICS))
    except (OSError, ValueError, csv.Error):
        return 0


def is_scored(folder: Path, built_set: Path, precision: str = "32") -> bool:
    """Whether scores.csv holds all of this built set, of this version, made after the weights that are there.

    Scores of the first release have no column `precision`: they count."""
    try:
        manifest = cli.read_json(built_set / "manifest.json")
        if (folder / SCORES).stat().st_mtime_ns < (folder / BEST).stat().st_mtime_ns:
            return False
        return any(row["set"] == built_set.resolve().name and row["set_version"] == manifest["set_version"]
                   and row["method"] == "softmax" and row["corruption"] == "pooled" and row["metric"] == "n"
                   and float(row["value"]) == manifest["made_with"]["images"]
                   and row.get("precision", precision) in (precision, "")
                   for row in cli.read_rows(folder / SCORES))
    except (OSError, ValueError, TypeError, KeyError, csv.Error, cli.UserError):
        return False
