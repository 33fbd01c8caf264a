"""What lies in the folder of an open-set run besides the closed training, and how it is written and read.

  pseudo_labels/<pool>.csv                   split, id, path, true class, pseudo label, whether it is open; by split, id
  closed_model/<split>.csv                   ids and classes of the images of a split
  closed_model/<split>_logits.npy            float32 (N, C), in that order
  closed_model/<split>_features.npy          float32 (N, D)
  detectors/<pool>/<subset>/snapshot<cycle>.pt         the networks at the end of each cycle; removed when scores are
                                             computed, unless --keep-snapshots
  detectors/<pool>/<subset>/pool_scores.npy  float64 (N,), open scores of all images of the pool, in its order
  detectors/<pool>/<subset>/validation_scores.npy      float64 (V,), of the closed validation images
  open_scores/<pool>.csv                     every image of the pool with its open scores, a column for each detector
  open_scores/<pool>-validation.csv          the same for the closed validation images
  open_scores/<pool>/<set>/begun.txt         the version of the built set whose cells are being scored
  open_scores/<pool>/<set>/set.json          which built set was scored: its version, number of images, cells and
                                             closed classes; written last
  open_scores/<pool>/<set>/<corruption>-<severity>.npy           float64 (N, detectors + 1), the columns `CELL_COLUMNS`
  open_scores.csv                            the metrics (training/open_set/scores.py)

A pool is one of `datasets.open_classes.POOLS`; a subset is all, or a half of the pool. Besides this file only
`WRITTEN_INSIDE` of support/run_folder.py names what lies below these folders, so that --fresh removes it: a new name
goes there, too. Nothing here imports torch.
"""
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from datasets.open_classes import HALVES, ClosedAndOpen
from open_set import BASELINES, ClosedModel
from support import run_folder
from support.errors import DamagedFile, UserError
from support.files import read_json, write_rows, write_text, write_whole

WHOLE = "all"  # the subset that is the whole pool
TRANSDUCTIVE, INDUCTIVE = run_folder.SCORINGS
SUBSETS = {TRANSDUCTIVE: (WHOLE,), INDUCTIVE: HALVES}  # a way of scoring -> the subsets that detectors are trained on
TRAINED = "trained"  # the detector that is trained with pseudo labels
DETECTORS = (TRAINED, *BASELINES)
POOL_SCORES, VALIDATION_SCORES = "pool_scores.npy", "validation_scores.npy"  # in a detector's folder
SNAPSHOTS = "snapshot*.pt"  # there
SET_FACTS, BEGUN = "set.json", "begun.txt"  # in the folder of cells
CLOSED_FILES = ("{}.csv", "{}_features.npy", "{}_logits.npy")  # of a split; the last one is written last
CELL_COLUMNS = (*DETECTORS, "predicted")  # predicted: the closed model's class, a new number
LARGEST_ARRAY = 2**33  # bytes; no array of a run comes near
LARGEST_TABLE = 2**28  # bytes; the same for tables
IMAGE_COLUMNS = ("split", "id", "expression", "group", "is_open", "half", "predicted", "pseudo", "votes")


# ---- arrays

def write_array(path: Path, values: np.ndarray) -> None:
    """Write an array, whole or not at all."""
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=False)
    write_whole(path, lambda file: file.write(buffer.getvalue()))


def read_array(path: Path, shape: tuple[int | None, ...], dtype: Any) -> np.ndarray:
    """An array that `write_array` wrote. shape: None for any length. Raises FileNotFoundError, and DamagedFile where it
    is another one or holds NaN or infinity."""
    if path.exists() and (not path.is_file() or path.stat().st_size > LARGEST_ARRAY):
        raise DamagedFile(f"{path} is no array of such a run; remove it, and it is computed again")
    try:
        values = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise
    except (ValueError, OSError, EOFError, MemoryError):
        raise DamagedFile(f"{path} is damaged; remove it, and it is computed again") from None
    fits = isinstance(values, np.ndarray) and values.ndim == len(shape) and values.dtype == dtype
    fits = fits and all(wanted in (None, length) for wanted, length in zip(shape, values.shape, strict=True))
    if not fits or not np.isfinite(values).all():
        raise DamagedFile(f"{path} does not fit the images of this run; remove it, and it is computed again")
    return values


# ---- closed model

def write_closed_model(folder: Path, split: str, frame: pd.DataFrame, model: ClosedModel) -> None:
    """Store what the closed model computes for a split. folder: of the run. frame: of the split."""
    table, features, logits = closed_files(folder, split)
    rows = [{"id": name, "expression": label} for name, label in zip(frame["id"], frame["expression"], strict=True)]
    write_rows(table, rows)
    write_array(features, model.features)
    write_array(logits, model.logits)


def read_closed_model(folder: Path, split: str, frame: pd.DataFrame, classes: int) -> ClosedModel | None:
    """What `write_closed_model` stored, None where one of the files is missing. classes: number C of closed classes.
    Raises UserError where the split has other images or classes now, DamagedFile where a file is damaged."""
    table, features, logits = closed_files(folder, split)
    if not all(path.exists() for path in (table, features, logits)):
        return None
    stored = read_table(table, ("id", "expression"))
    if stored["id"].tolist() != frame["id"].tolist() or (
            stored["expression"].tolist() != frame["expression"].astype(str).tolist()):
        raise UserError(f"{folder}: ids or labels of the {split} split have changed since this run began. Restore "
                        f"them, or start over with --fresh.")
    return ClosedModel(read_array(logits, (len(frame), classes), np.float32),
                       read_array(features, (len(frame), None), np.float32))


def closed_files(folder: Path, split: str) -> list[Path]:
    """The table, the features and the logits of a split. folder: of the run."""
    return [folder / run_folder.CLOSED_FOLDER / name.format(split) for name in CLOSED_FILES]


def read_table(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """A CSV file of an open-set run, all cells as text. Raises FileNotFoundError, and DamagedFile where it is no such
    table or lacks a column."""
    if path.exists() and (not path.is_file() or path.stat().st_size > LARGEST_TABLE):
        raise DamagedFile(f"{path} is no table of such a run; remove it, and it is written again")
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except FileNotFoundError:
        raise
    except (ValueError, OSError, pd.errors.ParserError):
        raise DamagedFile(f"{path} is damaged; remove it, and it is written again") from None
    missing = [name for name in columns if name not in table]
    if missing:
        raise DamagedFile(f"{path} lacks the column {missing[0]}; remove it, and it is written again")
    return table


# ---- pseudo labels

def write_pseudo_labels(folder: Path, name: str, pool: pd.DataFrame, labels: np.ndarray,
                        division: ClosedAndOpen) -> None:
    """Write the pseudo labels of a pool, in the pool's order: by split and id.

    folder: of the run. name: of the pool. labels: int (N,), new numbers of closed classes."""
    rows = []
    for number, image in enumerate(pool.itertuples()):
        rows.append({"split": image.split, "id": image.id, "path": image.path,
                     "true": division.classes[int(image.expression)],  # type: ignore[call-overload, arg-type]
                     "pseudo": division.closed_names[labels[number]], "is_open": int(bool(image.is_open))})
    write_rows(folder / run_folder.PSEUDO_LABELS_FOLDER / f"{name}.csv", rows)


def read_pseudo_labels(folder: Path, name: str, pool: pd.DataFrame, division: ClosedAndOpen) -> np.ndarray | None:
    """What `write_pseudo_labels` wrote, int64 (N,), new numbers; None where there is no file. Raises UserError where
    the pool has other images now, DamagedFile where the file is damaged."""
    path = folder / run_folder.PSEUDO_LABELS_FOLDER / f"{name}.csv"
    try:
        table = read_table(path, ("split", "id", "true", "pseudo", "is_open"))
    except FileNotFoundError:
        return None
    true = [division.classes[int(number)] for number in pool["expression"]]
    for column, values in (("split", pool["split"].tolist()), ("id", pool["id"].tolist()), ("true", true)):
        if table[column].tolist() != values:
            raise UserError(f"{path} was written for other images or classes ({column}). Restore the data, or start "
                            f"over with --fresh.")
    numbers = {text: number for number, text in enumerate(division.closed_names)}
    if not set(table["pseudo"]) <= numbers.keys():
        raise DamagedFile(f"{path} holds a pseudo label that is no closed class; start over with --fresh")
    return np.array([numbers[name] for name in table["pseudo"]], np.int64)


# ---- detectors and open scores

def detector_folder(folder: Path, pool: str, subset: str) -> Path:
    """The folder of a detector. folder: of the run."""
    return folder / run_folder.DETECTORS_FOLDER / pool / subset


def has_detector_scores(folder: Path) -> bool:
    """Whether a detector has scored its pool and the validation images. folder: as `detector_folder` gives it."""
    return (folder / POOL_SCORES).exists() and (folder / VALIDATION_SCORES).exists()


def snapshot_file(folder: Path, cycle: int) -> Path:
    """The file of a snapshot. folder: of the detector. cycle: from 1 on."""
    return folder / f"snapshot{cycle}.pt"


def trained_detector(folder: Path, epochs: int, cycles: int) -> list[Path]:
    """The snapshots of a detector, one for each cycle; [] where fewer epochs are trained or one is missing. folder: of
    the detector."""
    paths = [snapshot_file(folder, cycle) for cycle in range(1, cycles + 1)]
    is_trained = run_folder.trained_epochs(folder) >= epochs and all(path.is_file() for path in paths)
    return paths if is_trained else []


def remove_snapshots(folder: Path) -> None:
    """Remove the snapshots of a detector. folder: of the detector."""
    for path in folder.glob(SNAPSHOTS):
        path.unlink()


def scores_file(folder: Path, pool: str) -> Path:
    """The open scores of the images of a pool. folder: of the run."""
    return folder / run_folder.OPEN_SCORES_FOLDER / f"{pool}.csv"


def validation_file(folder: Path, pool: str) -> Path:
    """The open scores of the closed validation images, for the thresholds of a pool."""
    return folder / run_folder.OPEN_SCORES_FOLDER / f"{pool}-validation.csv"


def cells_folder(folder: Path, pool: str, set_name: str) -> Path:
    """The open scores of a pool in the cells of a built set."""
    return folder / run_folder.OPEN_SCORES_FOLDER / pool / set_name


def cell_file(folder: Path, corruption: str, severity: int) -> Path:
    """folder: as `cells_folder` gives it."""
    return folder / f"{corruption}-{severity}.npy"


def remove_cells(folder: Path, pool: str) -> None:
    """Remove the open scores of a pool in the cells of all built sets. folder: of the run."""
    for place in (folder / run_folder.OPEN_SCORES_FOLDER / pool).glob("*"):
        if place.is_dir() and not place.is_symlink():
            remove_cells_of_set(place)


def remove_cells_of_set(folder: Path) -> None:
    """The same for one built set. folder: as `cells_folder` gives it."""
    for path in (folder / SET_FACTS, *folder.glob("*.npy")):  # first the file that says that all cells are there
        path.unlink(missing_ok=True)


def begin_cells(folder: Path, set_version: str) -> None:
    """Note which version of a built set is being scored; cells of another one are removed. folder: as `cells_folder`
    gives it."""
    begun = folder / BEGUN
    if not begun.exists() or begun.read_text() != set_version:
        remove_cells_of_set(folder)
        write_text(begun, set_version)


def scored_sets(folder: Path, pool: str) -> list[str]:
    """The names of the built sets whose cells are all scored, sorted. folder: of the run."""
    return sorted(path.parent.name for path in (folder / run_folder.OPEN_SCORES_FOLDER / pool).glob(f"*/{SET_FACTS}"))


def write_scores(path: Path, columns: Mapping[str, Sequence[Any] | np.ndarray]) -> None:
    """Write open scores by image: one row for each image, floats in full precision. columns: {name: (N,)}, texts or
    numbers."""
    table = pd.DataFrame(dict(columns))
    write_text(path, table.to_csv(index=False, lineterminator="\n"))


def read_scores(path: Path, columns: Sequence[str] = ("id",)) -> pd.DataFrame:
    """What `write_scores` wrote: the columns of detectors as float64, the others as text. columns: those that have to
    be there. Raises FileNotFoundError, and DamagedFile where a column is missing or a score is no finite number."""
    table = read_table(path, columns)
    for name in table.columns:
        if name not in IMAGE_COLUMNS:
            table[name] = pd.to_numeric(table[name], errors="coerce")
            if not np.isfinite(table[name]).all():
                raise DamagedFile(f"{path}: its column {name[:40]} holds something that is no number")
    return table


def column_of(detector: str, scoring: str, half: str = "") -> str:
    """The column of a detector in open_scores/<pool>.csv and, with a half, in <pool>-validation.csv.

    half: of the pool, with inductive scoring: the half that is scored. Its detector was trained on the other half, so
    `trained_inductive_a` holds what detectors/<pool>/b gives. Baselines have no training: their column is the same for
    every way of scoring."""
    if detector != TRAINED:
        return detector
    return f"{TRAINED}_{scoring}_{half}" if half else f"{TRAINED}_{scoring}"


def write_set_facts(folder: Path, facts: Mapping[str, Any]) -> None:
    """Store which built set was scored. folder: as `cells_folder` gives it."""
    write_text(folder / SET_FACTS, json.dumps(dict(facts), indent=1))


def read_set_facts(folder: Path) -> dict[str, Any] | None:
    """What `write_set_facts` stored, None where there is nothing."""
    try:
        return read_json(folder / SET_FACTS)
    except FileNotFoundError:
        return None
