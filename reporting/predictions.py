"""What the predictions of a block's runs show, beyond their scores: reliability, confusions, and the floor of ECE.

`summarise_predictions` reads the store of logits (evaluation/predictions.py, which alone knows its layout) and the soft
labels of the built set, and returns a `PredictionSummary`. Figures, tables and the page draw from it. A block is what
the numbers that are compared have in common, a row what is averaged over seeds (rows.py). A cell is a corruption at a
severity (corruptions.py); here `None` stands for the clean images.
"""
import functools
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

import metrics
from corruptions import SEVERITIES, cells_of
from evaluation.predictions import predictions_file, read_array
from reporting.cells import FER_C, corruptions_of_predictions, corruptions_of_scores
from reporting.notes import READ_ERRORS, Note, check_regular, different_contents, plain, unique_notes
from reporting.rows import COMPARED_LOSSES, Block, named_pairs, Row
from reporting.runs import Run
from reporting.scores import DOMAINS, in_block
from reporting.settings import OPTION_OF_PRECISION
from support.errors import DamagedFile, first_line
from support.files import read_json
from support.run_folder import predictions_folder as store_folder

Cell = tuple[str, int] | None
CACHED_BYTES = 2**15  # larger files are read again each time, so that memory does not grow with the set
CACHED_FILES = 12000  # those of 139 runs with 86 files each, read for figures, bootstrap and page: 375 MiB at most
# Five cells that stand for all in the simulated floor: a noise, two blurs and two digital corruptions, one at each
# severity. In a set that lacks one of them, another digital corruption takes its place.
FLOOR_CELLS = (
    ("gaussian_noise", 1), ("motion_blur", 2), ("gaussian_blur", 3), ("elastic_transform", 4), ("saturate", 5))
OTHER_FLOOR_CELLS = {4: "pixelate", 5: "jpeg_compression"}


@dataclass(frozen=True)
class PredictionSummary:
    """What the predictions of one block show."""

    bins: dict[tuple[str, str, str], np.ndarray]
    """reliability bins by (name of a variant, loss, domain): float64 (3, 15) as `read_bins` returns them, summed over
    seeds"""
    floors: dict[str, list[float]]
    """by domain, the simulated ECE floor of every row (a fraction)"""
    demo: bool
    """whether the images are drawn faces"""
    notes: list[Note]
    """what could not be used"""
    confusions: dict[Row, np.ndarray] = field(default_factory=dict)
    """int64 (6, K, K) as `read_confusions` returns them, summed over seeds"""
    classes: tuple[str, ...] = ()
    """names of the classes in the order of the logits"""
    folder: Path | None = None
    """folder of the built set; None where no usable predictions name it"""
    corruptions: tuple[str, ...] = FER_C
    """of the set, in its order"""


def summarise_predictions(block: Block, runs: Sequence[Run], scores: pd.DataFrame,
                          sets: Iterable[Path] = ()) -> PredictionSummary:
    """Read the predictions of a block's runs.

    scores: of `scores.scores_as_table`, which say the runs of the block; sets: folders of built sets to prefer to those
    that the predictions name. Damaged or missing predictions are named in `notes`, and the others are still used."""
    sets = list(sets)
    of_block = in_block(scores, block)
    collector = _Collector(block, sets, corruptions_of_scores(of_block))
    problems = []
    indices = sorted(set(of_block["run"]))
    for index in tqdm(indices, desc=f"predictions on {plain(block.name)}", unit=" runs", disable=None):
        try:
            collector.add(runs[index])
        except READ_ERRORS as error:
            problems.append((runs[index], error))
    # The commands that mend predictions name the set, which only usable predictions say: hence after the loop.
    notes = collector.notes
    reason = different_contents(collector.contents, "run")
    if reason:
        notes.append(Note(block.name, reason))
    for run, error in problems:
        notes.append(run.unusable_predictions(block, error, collector.set_folder))
    for folder in sets:
        if not (folder / "manifest.json").is_file():
            notes.append(Note(f"--set {folder}", "no built set there"))
    return PredictionSummary(
        bins=collector.named_bins(), floors=collector.floors, demo=collector.demo, notes=unique_notes(notes),
        confusions=collector.confusions, classes=collector.classes, folder=collector.set_folder,
        corruptions=collector.corruptions)


class _Collector:
    """Adds up what the runs of a block show, one run after the other."""

    def __init__(self, block: Block, sets: Sequence[Path], corruptions: tuple[str, ...]) -> None:
        """corruptions: of the block's set, by its scores."""
        self.block = block
        self.corruptions = corruptions
        self.sets = sets
        self.bins: dict[tuple[Row, str], np.ndarray] = {}
        self.floors: dict[str, list[float]] = {domain: [] for domain in DOMAINS}
        self.demo = block.dataset == "demo"
        self.notes: list[Note] = []
        self.confusions: dict[Row, np.ndarray] = {}
        self.classes: tuple[str, ...] = ()
        self.set_folder: Path | None = None
        self.rows_with_floor: set[Row] = set()
        self.contents: list[object] = []  # of the set that each run was scored on; predictions of old have none

    def add(self, run: Run) -> None:
        """Add one run. Raises one of `READ_ERRORS` where its predictions cannot be used."""
        folder, info, labels = open_predictions(run, self.block)
        if corruptions_of_predictions(info) != self.corruptions:
            raise ValueError("predictions of other corruptions than the scores")
        confusions = read_confusions(folder, labels, len(info["classes"]), self.corruptions)
        if self.classes and tuple(info["classes"]) != self.classes:
            raise ValueError("the classes are not those of the other runs")
        self.classes = tuple(info["classes"])
        self.contents.append(info.get("content"))
        self.set_folder = find_set(self.block, self.sets) or Path(info["folder"])
        self.demo |= info.get("demo") is True
        if run.row not in self.rows_with_floor:  # the first seed stands for its row
            for domain, floor in ece_floors(folder, self.block.n, self.corruptions).items():
                self.floors[domain].append(floor)
            self.rows_with_floor.add(run.row)
        self.confusions[run.row] = self.confusions.get(run.row, 0) + confusions
        if run.row.loss in COMPARED_LOSSES and not run.row.noise:
            self.add_bins(run.row, folder, info, labels)

    def add_bins(self, row: Row, folder: Path, info: dict[str, Any], labels: np.ndarray) -> None:
        """Add a run's reliability bins. Without the set's soft labels there are only those of the clean images."""
        bins = {"clean": read_bins(folder, labels)}
        try:
            soft = open_soft_labels(self.set_folder, self.block, info["limit"], self.corruptions)
        except READ_ERRORS as error:
            reason = f"no reliability diagram of the corrupted images: {plain(error)}"
            self.notes.append(Note(self.block.name, reason))
        else:
            bins["corrupted"] = read_bins(folder, labels, soft, self.corruptions)
        for domain, counted in bins.items():
            self.bins[row, domain] = self.bins.get((row, domain), 0) + counted

    def named_bins(self) -> dict[tuple[str, str, str], np.ndarray]:
        """The bins by (name of a variant, loss, domain)."""
        named = {}
        for (name, loss), row in named_pairs(row for row, _ in self.bins).items():
            for domain in DOMAINS:
                if (row, domain) in self.bins:
                    named[name, loss, domain] = self.bins[row, domain]
        return named


def find_set(block: Block, sets: Iterable[Path]) -> Path | None:
    """The first of these folders that holds the set that the block's scores are of; None where none does."""
    for folder in sets:
        try:
            if read_json(folder / "manifest.json")["set_version"] == block.set_version:
                return folder
        except READ_ERRORS:
            continue
    return None


# --- one run's predictions ---


def folder_of_predictions(run: Run, block: Block) -> Path:
    """Where a run's predictions for a block lie. The first release of this project kept those of any precision
    in one folder."""
    own = store_folder(run.folder, block.set, block.precision)
    return own if block.precision == "32" or own.exists() else store_folder(run.folder, block.set, "32")


def open_predictions(run: Run, block: Block) -> tuple[Path, dict[str, Any], np.ndarray]:
    """The folder of a run's predictions for a block, what its set.json holds, and the labels, int64 (N,).

    Raises OSError where they are missing, ValueError where they are damaged or belong to other scores."""
    folder = folder_of_predictions(run, block)
    info = read_json(folder / "set.json")
    labels_file = folder / "labels.npy"
    check_regular(labels_file)
    labels = read_array(labels_file, None, np.int64)
    classes = info.get("classes")
    if not isinstance(classes, list) or len(classes) < 2 or not all(isinstance(name, str) for name in classes):
        raise DamagedFile(f"{folder / 'set.json'} is damaged (no list of classes)")
    if not isinstance(info.get("folder"), str) or not isinstance(info.get("limit"), int | None):
        raise DamagedFile(f"{folder / 'set.json'} is damaged (no folder of the set, or no limit)")
    if info.get("set_version") != block.set_version or labels.shape != (block.n,):
        raise ValueError("predictions of another version or number of images than the scores")
    if OPTION_OF_PRECISION.get(info.get("precision"), block.precision) != block.precision:
        raise ValueError(f"predictions in another precision than the scores, {info['precision']}")
    if labels.min() < 0 or labels.max() >= len(classes):
        raise DamagedFile(f"{labels_file} is damaged (it holds no labels of {len(classes)} classes)")
    return folder, info, labels


def read_logits(folder: Path, cell: Cell, shape: tuple[int, int] | None = None) -> np.ndarray:
    """The logits of one cell (None: of the clean images), float32 (N, K), read-only.

    shape: (N, K) where it is known. Raises FileNotFoundError, or DamagedFile naming the file."""
    path = predictions_file(folder, cell)
    check_regular(path)
    state = path.stat()
    if state.st_size > CACHED_BYTES:
        logits = read_array(path)
    else:
        logits = _cached_array(path, state.st_mtime_ns, state.st_size, state.st_ino)
    if shape is not None and logits.shape != shape:
        raise DamagedFile(f"{path} is damaged (its shape is {logits.shape}, not {shape})")
    return logits


@functools.lru_cache(maxsize=CACHED_FILES)
def _cached_array(path: Path, *state: int) -> np.ndarray:
    """A small array of logits. state: what changes when the file does (time, size, inode)."""
    logits = read_array(path)
    logits.flags.writeable = False
    return logits


def read_probs(folder: Path, *cell: str | int) -> np.ndarray:
    """The probabilities of one cell, float64 (N, K): ("clean",) or (corruption, severity)."""
    return metrics.softmax(read_logits(folder, None if cell == ("clean",) else cell))


def ece_floors(folder: Path, n: int, corruptions: Sequence[str] = FER_C) -> dict[str, float]:
    """The ECE (a fraction) that a perfectly calibrated model with these confidences scores at N images, simulated.

    Of the clean images; and of corrupted images, as the mean over `FLOOR_CELLS`. corruptions: of the set."""
    of_set = [(name if name in corruptions else OTHER_FLOOR_CELLS[severity], severity)
              for name, severity in FLOOR_CELLS]
    cells = [metrics.ece_floor(read_probs(folder, *cell).max(1), n, repeats=50) for cell in of_set]
    clean = metrics.ece_floor(read_probs(folder, "clean").max(1), n)
    return {"clean": clean, "corrupted": float(np.mean(cells))}


def read_bins(folder: Path, labels: np.ndarray, soft_labels: np.ndarray | None = None,
              corruptions: Sequence[str] = FER_C) -> np.ndarray:
    """Reliability in 15 bins of confidence, float64 (3, 15): images, summed confidence, summed accuracy.

    labels: int64 (N,). Without soft labels, of the clean images. With soft_labels, float (C, 5, N, K), of all cells of
    the set's corruptions, added up one by one, because the cells of a large set do not fit into memory."""
    if soft_labels is None:
        return _count_bins(metrics.softmax(read_logits(folder, None)), labels, None)
    total = np.zeros((3, metrics.BINS))
    for number, cell in enumerate(cells_of(corruptions)):
        target = soft_labels[divmod(number, len(SEVERITIES))]
        total += _count_bins(metrics.softmax(read_logits(folder, cell)), labels, target)
    return total


def _count_bins(probs: np.ndarray, labels: np.ndarray, soft_labels: np.ndarray | None) -> np.ndarray:
    count, confidence, accuracy = metrics.reliability(probs, labels, soft_labels)
    return np.stack([count, count * np.nan_to_num(confidence), count * np.nan_to_num(accuracy)])


def read_confusions(folder: Path, labels: np.ndarray, num_classes: int,
                    corruptions: Sequence[str] = FER_C) -> np.ndarray:
    """Images by true and predicted class, int64 (6, K, K).

    The first matrix is of the clean images; the others pool the set's corruptions at severity 1 to 5."""
    counts = np.zeros((1 + len(SEVERITIES), num_classes * num_classes), np.int64)
    for cell in (None, *cells_of(corruptions)):
        severity = 0 if cell is None else cell[1]
        predicted = read_logits(folder, cell, (len(labels), num_classes)).argmax(1)
        counts[severity] += np.bincount(labels * num_classes + predicted, minlength=num_classes * num_classes)
    return counts.reshape(-1, num_classes, num_classes)


# --- the built set ---


def open_soft_labels(folder: Path, block: Block, limit: int | None,
                     corruptions: Sequence[str] = FER_C) -> np.ndarray:
    """The soft labels of the block's built set, float32 (C, 5, N, K), of its corruptions, mapped from disk.

    limit: how many images were scored, None for all. Raises ValueError where the folder holds another set."""
    path = folder / "soft_labels.npy"
    if not path.exists():
        raise ValueError(f"no {path}: build or copy the set there (make_fer_c.py), or say --set DIR")
    if read_json(folder / "manifest.json").get("set_version") != block.set_version:
        raise ValueError(f"{folder} now holds another version of the set than the one that was scored; give the "
                         "folder of that one with --set DIR")
    check_table(path)
    soft = map_array(path)
    fits = soft.ndim == 4 and soft.shape[:2] == (len(corruptions), len(SEVERITIES)) and soft.shape[2] >= block.n
    if not fits or (limit is None and soft.shape[2] != block.n):
        raise ValueError(f"{path} does not fit the predictions: its shape is {soft.shape}")
    return soft[:, :, :block.n]


def map_array(path: Path) -> np.ndarray:
    """A .npy file of numbers, mapped from disk; its values are not checked. Raises OSError or DamagedFile."""
    check_regular(path)
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError:
        raise
    except Exception as error:  # a damaged header can fail in any way
        raise DamagedFile(f"{path} is damaged ({first_line(error)})") from None
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "iuf":
        raise DamagedFile(f"{path} is damaged (it holds no array of numbers)")
    return values


def check_table(path: Path) -> None:
    """Raises DamagedFile where a table of a built set differs from the file that was built (checksums.sha256)."""
    sums = path.with_name("checksums.sha256")
    if sums.is_file():
        states = [(file.stat().st_mtime_ns, file.stat().st_size) for file in (path, sums)]
        if not is_as_built(path, sums, *states):
            raise DamagedFile(f"{path} is not the file that was built (its hash differs from {sums.name})")


@functools.lru_cache(maxsize=64)
def is_as_built(path: Path, sums: Path, *states: tuple[int, int]) -> bool:
    """Whether a file has the hash that a list of checksums gives it. states: of both, so that a change is noticed."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    with sums.open(encoding="utf-8") as lines:
        return f"{digest}  {path.name}" in (line.rstrip("\n") for line in lines)
