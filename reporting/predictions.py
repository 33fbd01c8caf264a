"""What scores do not hold, from the predictions of a block's runs: reliability bins, confusions, the floor of ECE."""
from pathlib import Path
from typing import NamedTuple

import numpy as np

import metrics
from corruptions import CORRUPTIONS
from reporting.runs import BROKEN, CELLS, DOMAINS, LOSSES, SEVERITIES, Row, in_block, plain, read_json


class Seen(NamedTuple):
    """What a block's predictions show: bins by (algorithm, loss, domain), floors by domain, and what is missing;
    confusions (6, K, K) by `Row`, the classes' names, and the folder of the built set."""

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
    confusions, classes, built = {}, (), None
    for run in (runs[index] for index in sorted(set(in_block(scores, block)["run"]))):
        try:
            folder, info, labels = open_predictions(run, block)
            demo |= info.get("demo") is True
            counts = read_confusions(folder, labels, len(info["classes"]))
            confusions[run.row] = confusions.get(run.row, 0) + counts
            classes, built = tuple(info["classes"]), find_set(block, sets) or Path(info["folder"])
            if run.row not in floored:  # the first seed stands for its row
                for domain, floor in ece_floors(folder, block.n).items():
                    floors[domain].append(floor)
                floored.add(run.row)
            if run.row.loss not in LOSSES or run.row.noise:
                continue
            pairs = [("clean", None)]
            try:
                soft = open_soft_labels(built, block, info["limit"])
                pairs.append(("corrupted", soft))
            except BROKEN as error:
                notes.append(f"{block.name}: no reliability diagram of the corrupted images: {plain(error)}")
            for domain, soft in pairs:
                key = (run.row.algorithm, run.row.loss, domain)
                bins[key] = bins.get(key, 0) + read_bins(folder, labels, soft)
        except BROKEN as error:
            notes.append(unusable(run, block, error))
    return Seen(bins, floors, demo, list(dict.fromkeys(notes)), confusions, classes, built)


def find_set(block, sets):
    """The first of these folders that is the set the block's scores are of, or None."""
    for folder in sets:
        try:
            if read_json(folder / "manifest.json")["set_version"] == block.set_version:
                return folder
        except BROKEN:
            continue


def open_predictions(run, block):
    """(folder, set.json, labels (N,)) of a run's predictions in a block; ValueError where they belong elsewhere."""
    folder = run.folder / "predictions" / block.set
    info, labels = read_json(folder / "set.json"), np.load(folder / "labels.npy")
    if info["set_version"] != block.set_version or len(labels) != block.n:
        raise ValueError("predictions of another version or number of images than the scores")
    return folder, info, labels


def unusable(run, block, error):
    return f"{run.folder}: predictions on {block.name} unusable ({plain(error)}): {run.again}"


def read_probs(folder, *cell):
    return metrics.softmax(np.load(folder.joinpath(*map(str, cell)).with_suffix(".npy")))


def ece_floors(folder, n):
    """Simulated floor on the clean images, and the mean over five cells: other corruption families, every severity."""
    some = [(list(CORRUPTIONS)[4 * i % len(CORRUPTIONS)], severity) for i, severity in enumerate(SEVERITIES)]
    cells = [metrics.ece_floor(read_probs(folder, *cell).max(1), n, repeats=50) for cell in some]
    return {"clean": metrics.ece_floor(read_probs(folder, "clean").max(1), n), "corrupted": float(np.mean(cells))}


def open_soft_labels(folder, block, limit):
    """The soft labels (17, 5, N, K) of the set these predictions belong to; ValueError where others lie there."""
    path = folder / "soft_labels.npy"
    if not path.exists():
        raise ValueError(f"no {path}: build or copy the set there (make_fer_c.py), or say --set DIR")
    if read_json(folder / "manifest.json")["set_version"] != block.set_version:
        raise ValueError(f"{folder} is another version by now")
    soft = np.load(path, mmap_mode="r")
    if soft.shape[:2] != (len(CORRUPTIONS), len(SEVERITIES)) or soft.shape[2] < block.n or (
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
        logits = np.load(folder.joinpath(*map(str, cell)).with_suffix(".npy"), mmap_mode="r", allow_pickle=False)
        if logits.shape != (len(labels), classes):
            raise ValueError(f"{'/'.join(map(str, cell))}.npy: shape {logits.shape} for {len(labels)} images")
        counts[severity] += np.bincount(labels * classes + logits.argmax(1), minlength=classes * classes)
    return counts.reshape(6, classes, classes)


def by_severity(scores):
    """(algorithm, loss) -> metric -> (seeds, 6): clean, then the mean over the 17 corruptions at each severity."""
    curves = {}
    scores = scores[(scores["noise"] == 0) & scores["loss"].isin(LOSSES) & scores["metric"].isin(["accuracy", "ece"])]
    cells = scores[scores["corruption"].isin(["clean", *CORRUPTIONS])].fillna({"severity": 0})
    for (algorithm, loss, metric), part in cells.groupby(["algorithm", "loss", "metric"]):
        table = part.pivot_table(index="seed", columns="severity", values="value", aggfunc=["mean", "count"])
        mean, count = (table[name].reindex(columns=range(6)) for name in ("mean", "count"))
        whole = count == [1] + [len(CORRUPTIONS)] * 5
        curves.setdefault((algorithm, loss), {})[metric] = mean.where(whole).to_numpy()
    return curves


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
