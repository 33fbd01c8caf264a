"""What scores do not hold, from the predictions of a block's runs: reliability bins, confusions, the floor of ECE."""
import functools
import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

import cli
import metrics
from corruptions import CORRUPTIONS
from reporting.runs import (
    BROKEN, CELLS, DOMAINS, LOSSES, PRECISIONS, SEVERITIES, Block, Row, Run, check_regular, in_block, named_pairs,
    plain)
from support import run_folder


class Seen(NamedTuple):
    """What a block's predictions show: bins by (name of a variant, loss, domain), floors by domain, and what is
    missing; confusions (6, K, K) by `Row`, the classes' names, and the folder of the built set."""

    bins: dict
    floors: dict
    demo: bool
    notes: list
    confusions: dict = {}
    classes: tuple = ()
    folder: Path | None = None


def examine(block, runs, scores, sets=()):
    """Read the predictions of a block's runs; `sets`: built sets to look at before those that predictions name. What
    cannot be used is named in `notes`, and the rest goes on."""
    bins, floors, notes, demo, floored = {}, {domain: [] for domain in DOMAINS}, [], block.dataset == "demo", set()
    confusions, classes, built, problems = {}, (), None, []
    some = [runs[index] for index in sorted(set(in_block(scores, block)["run"]))]
    for run in tqdm(some, desc=f"predictions on {plain(block.name)}", unit=" runs", disable=None):
        try:
            folder, info, labels = open_predictions(run, block)
            counts = read_confusions(folder, labels, len(info["classes"]))
            if classes and tuple(info["classes"]) != classes:
                raise ValueError("the classes are not those of the other runs")
            classes, built = tuple(info["classes"]), find_set(block, sets) or Path(info["folder"])
            demo |= info.get("demo") is True
            if run.row not in floored:  # the first seed stands for its row
                for domain, floor in ece_floors(folder, block.n).items():
                    floors[domain].append(floor)
                floored.add(run.row)
            confusions[run.row] = confusions.get(run.row, 0) + counts
            if run.row.loss not in LOSSES or run.row.noise:
                continue
            pairs = [("clean", None)]
            try:
                soft = open_soft_labels(built, block, info["limit"])
                pairs.append(("corrupted", soft))
            except BROKEN as error:
                notes.append(f"{block.name}: no reliability diagram of the corrupted images: {plain(error)}")
            own = {domain: read_bins(folder, labels, target) for domain, target in pairs}
            for domain, counted in own.items():
                bins[run.row, domain] = bins.get((run.row, domain), 0) + counted
        except BROKEN as error:
            problems.append((run, error))
    notes += [unusable(run, block, error, built) for run, error in problems]  # some run says where the set is
    pairs = named_pairs(row for row, _ in bins)
    named = {(*key, domain): bins[row, domain] for key, row in pairs.items() for domain in DOMAINS
             if (row, domain) in bins}
    notes += [f"--set {folder}: no built set there" for folder in sets if not (folder / "manifest.json").is_file()]
    return Seen(named, floors, demo, list(dict.fromkeys(notes)), confusions, classes, built)


def find_set(block, sets):
    """The first of these folders that is the set the block's scores are of, or None."""
    for folder in sets:
        try:
            if cli.read_json(folder / "manifest.json")["set_version"] == block.set_version:
                return folder
        except BROKEN:
            continue
    return None


CACHED = 2**15  # bytes: larger files are read again each time, so that memory does not grow with the set


def read_array(path: Path, shape: tuple | None = None, mmap: bool = False) -> np.ndarray:
    """A .npy file of ours: numbers, all finite, of this shape where one is given; read-only. mmap: leave it on disk,
    its values unchecked. Raises OSError, or DamagedFile naming the file."""
    check_regular(path)
    state = path.stat()
    load = load_array if state.st_size <= CACHED else load_array.__wrapped__
    values = load(path, mmap, state.st_mtime_ns, state.st_size, state.st_ino)
    if shape is not None and values.shape != shape:
        raise cli.DamagedFile(f"{path} is damaged (its shape is {values.shape}, not {shape})")
    return values


@functools.lru_cache(maxsize=128)  # more than the files of one run, which are looked at several times
def load_array(path: Path, mmap: bool, *state: int) -> np.ndarray:
    """`read_array` without a shape. state: of the file, so that a change is noticed."""
    try:
        values = np.load(path, mmap_mode="r" if mmap else None, allow_pickle=False)
    except OSError:
        raise
    except Exception as error:  # a damaged header can fail in any way
        raise cli.DamagedFile(f"{path} is damaged ({cli.first_line(error)})") from None
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "iuf":
        raise cli.DamagedFile(f"{path} is damaged (it holds no array of numbers)")
    if not mmap and not np.isfinite(values).all():
        raise cli.DamagedFile(f"{path} is damaged (it holds NaN or infinity)")
    values.flags.writeable = False
    return values


def cell_file(folder: Path, *cell: str | int) -> Path:
    """The logits of one cell, ("clean",) or (corruption, severity), in a folder of predictions."""
    return folder.joinpath(*map(str, cell)).with_suffix(".npy")


def predictions_folder(run: Run, block: Block) -> Path:
    """Where a run's predictions for a block lie: those in another precision than float32 in a folder of their own,
    unless they are of the first release, which had one folder."""
    folder = run.folder / run_folder.PREDICTIONS
    own = folder / f"{block.set}.{block.precision}"
    return folder / block.set if block.precision == "32" or not own.exists() else own


def open_predictions(run: Run, block: Block) -> tuple[Path, dict, np.ndarray]:
    """(folder, set.json, labels int64 (N,)) of a run's predictions in a block; ValueError where they belong elsewhere
    or are damaged, OSError where they are missing."""
    folder = predictions_folder(run, block)
    info, labels = cli.read_json(folder / "set.json"), read_array(folder / "labels.npy")
    classes = info.get("classes")
    if not isinstance(classes, list) or len(classes) < 2 or not all(isinstance(name, str) for name in classes):
        raise cli.DamagedFile(f"{folder / 'set.json'} is damaged (no list of classes)")
    if not isinstance(info.get("folder"), str) or not isinstance(info.get("limit"), int | None):
        raise cli.DamagedFile(f"{folder / 'set.json'} is damaged (no folder of the set, or no limit)")
    if info.get("set_version") != block.set_version or labels.shape != (block.n,):
        raise ValueError("predictions of another version or number of images than the scores")
    if PRECISIONS.get(info.get("precision"), block.precision) != block.precision:
        raise ValueError(f"predictions in another precision than the scores, {info['precision']}")
    if labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= len(classes):
        raise cli.DamagedFile(f"{folder / 'labels.npy'} is damaged (it holds no labels of {len(classes)} classes)")
    return folder, info, labels.astype(np.int64)


def unusable(run: Run, block: Block, error: Exception, built: Path | None) -> str:
    """What is wrong with a run's predictions, and the command that mends it. built: the folder of their set."""
    return f"{run.folder}: predictions on {block.name} unusable ({plain(error)}): {run.scoring_command([built])}"


def read_probs(folder, *cell):
    return metrics.softmax(read_array(cell_file(folder, *cell)))


def ece_floors(folder, n):
    """Simulated floor on the clean images, and the mean over five cells: other corruption families, every severity."""
    some = [(list(CORRUPTIONS)[4 * i % len(CORRUPTIONS)], severity) for i, severity in enumerate(SEVERITIES)]
    cells = [metrics.ece_floor(read_probs(folder, *cell).max(1), n, repeats=50) for cell in some]
    return {"clean": metrics.ece_floor(read_probs(folder, "clean").max(1), n), "corrupted": float(np.mean(cells))}


def check_table(path: Path) -> None:
    """Raises DamagedFile where a table of a built set is not the file that was built, by the set's checksums.sha256."""
    sums = path.with_name("checksums.sha256")
    if sums.is_file():
        stats = [(file.stat().st_mtime_ns, file.stat().st_size) for file in (path, sums)]
        if not is_as_built(path, sums, *stats):
            raise cli.DamagedFile(f"{path} is not the file that was built (its hash differs from {sums.name})")


@functools.lru_cache(maxsize=64)
def is_as_built(path: Path, sums: Path, *stats: tuple[int, int]) -> bool:
    """Whether a file has the hash that a list of checksums gives it. stats: of both, so that a change is noticed."""
    with path.open("rb") as file:
        value = hashlib.file_digest(file, "sha256").hexdigest()
    with sums.open(encoding="utf-8") as lines:
        return f"{value}  {path.name}" in (line.rstrip("\n") for line in lines)


def open_soft_labels(folder, block, limit):
    """The soft labels (17, 5, N, K) of the set these predictions belong to; ValueError where others lie there."""
    path = folder / "soft_labels.npy"
    if not path.exists():
        raise ValueError(f"no {path}: build or copy the set there (make_fer_c.py), or say --set DIR")
    if cli.read_json(folder / "manifest.json").get("set_version") != block.set_version:
        raise ValueError(f"{folder} is another version by now")
    check_table(path)
    soft = read_array(path, mmap=True)
    if soft.ndim != 4 or soft.shape[:2] != (len(CORRUPTIONS), len(SEVERITIES)) or soft.shape[2] < block.n or (
            limit is None and soft.shape[2] != block.n):
        raise ValueError(f"{path} does not fit the predictions: its shape is {soft.shape}")
    return soft[:, :, :block.n]


def read_bins(folder, labels, soft=None):
    """Images, summed confidence, summed accuracy in 15 bins: of the clean images, or of all cells by soft labels."""
    total = 0
    for cell in [("clean",)] if soft is None else CELLS:  # one by one: a large set's cells do not fit into memory
        target = None if soft is None else soft[place(cell)]
        count, *parts = metrics.reliability(read_probs(folder, *cell), labels, target)
        total = total + np.stack([count, *(count * np.nan_to_num(part) for part in parts)])
    return total


def place(cell):
    """Where a cell lies in an array (17, 5, ...)."""
    return list(CORRUPTIONS).index(cell[0]), cell[1] - 1


def read_confusions(folder, labels, classes):
    """int64 (6, K, K): images by true and predicted class; clean, then the 17 corruptions of each severity pooled."""
    counts = np.zeros((6, classes * classes), np.int64)
    for severity, *cell in [(0, "clean"), *((severity, name, severity) for name, severity in CELLS)]:
        logits = read_array(cell_file(folder, *cell), (len(labels), classes))
        counts[severity] += np.bincount(labels * classes + logits.argmax(1), minlength=classes * classes)
    return counts.reshape(6, classes, classes)


def by_severity(scores):
    """(name of a variant, loss) -> metric -> (seeds, 6): clean, then the mean over the 17 corruptions at each
    severity."""
    curves = {}
    scores = scores[(scores["noise"] == 0) & scores["loss"].isin(LOSSES) & scores["metric"].isin(["accuracy", "ece"])]
    cells = scores[scores["corruption"].isin(["clean", *CORRUPTIONS])].fillna({"severity": 0})
    for (*row, metric), part in cells.groupby([*Row._fields, "metric"]):
        table = part.pivot_table(index="seed", columns="severity", values="value", aggfunc=["mean", "count"])
        mean, count = (table[name].reindex(columns=range(6)) for name in ("mean", "count"))
        whole = count == [1] + [len(CORRUPTIONS)] * 5
        curves.setdefault(Row(*row), {})[metric] = mean.where(whole).to_numpy()
    return {key: curves[row] for key, row in named_pairs(curves).items()}


def by_cell(scores, metric):
    """Row -> (17, 5): a metric in every cell, the mean over the row's seeds; NaN where a seed lacks it."""
    scores, tables = scores[(scores["metric"] == metric)], {}
    cells = scores[scores["corruption"].isin(CORRUPTIONS)]
    for row, part in cells.groupby(list(Row._fields)):
        table = part.pivot_table(index="corruption", columns="severity", values="value", aggfunc=["mean", "count"])
        mean, count = (table[name].reindex(index=list(CORRUPTIONS), columns=SEVERITIES) for name in ("mean", "count"))
        tables[Row(*row)] = mean.where(count == part["seed"].nunique()).to_numpy()
    return tables


def by_seed(scores, metric):
    """(Row, domain) -> the values of a metric, one a seed."""
    words = {word: domain for domain, word in DOMAINS.items()}
    scores = scores[(scores["metric"] == metric) & scores["corruption"].isin(words)].sort_values("seed")
    groups = scores.groupby([*Row._fields, "corruption"])["value"]
    return {(Row(*key[:-1]), words[key[-1]]): part.to_numpy() for key, part in groups}
