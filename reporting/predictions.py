"""What scores do not hold: reliability bins and the simulated floor of ECE, from the predictions of a block's runs."""
from pathlib import Path
from typing import NamedTuple

import numpy as np

import metrics
from corruptions import CORRUPTIONS
from reporting.runs import BROKEN, CELLS, DOMAINS, LOSSES, SEVERITIES, in_block, plain, read_json


class Seen(NamedTuple):
    """What a block's predictions show: bins by (algorithm, loss, domain), floors by domain, and what is missing."""

    bins: dict
    floors: dict
    demo: bool
    notes: list


def examine(block, runs, scores):
    """Read the predictions of a block's runs. What cannot be used is named in `notes`, and the rest goes on."""
    bins, floors, notes, demo, floored = {}, {domain: [] for domain in DOMAINS}, [], block.dataset == "demo", set()
    for run in (runs[index] for index in sorted(set(in_block(scores, block)["run"]))):
        try:
            folder, info, labels = open_predictions(run, block)
            demo |= info.get("demo") is True
            if run.row not in floored:  # the first seed stands for its row
                for domain, floor in ece_floors(folder, block.n).items():
                    floors[domain].append(floor)
                floored.add(run.row)
            if run.row.loss not in LOSSES or run.row.noise:
                continue
            pairs = [("clean", None)]
            try:
                soft = open_soft_labels(Path(info["folder"]), block, info["limit"])
                pairs.append(("corrupted", soft))
            except BROKEN as error:
                notes.append(f"{block.name}: no reliability diagram of the corrupted images: {plain(error)}")
            for domain, soft in pairs:
                key = (run.row.algorithm, run.row.loss, domain)
                bins[key] = bins.get(key, 0) + read_bins(folder, labels, soft)
        except BROKEN as error:
            notes.append(unusable(run, block, error))
    return Seen(bins, floors, demo, list(dict.fromkeys(notes)))


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
        raise ValueError(f"no {path}: build or copy the set there (make_fer_c.py)")
    if read_json(folder / "manifest.json")["set_version"] != block.set_version:
        raise ValueError(f"{folder} is another version by now")
    soft = np.load(path, mmap_mode="r")
    if soft.shape[:2] != (len(CORRUPTIONS), len(SEVERITIES)) or soft.shape[2] < block.n or (
            limit is None and soft.shape[2] != block.n):
        raise ValueError(f"{path} does not fit the predictions: its shape is {soft.shape}")
    return soft[:, :, :block.n]


def read_bins(folder, labels, soft=None):
    """Images, summed confidence, summed accuracy in 15 bins: of the clean images, or of all cells by soft labels."""
    if soft is None:
        bins = metrics.reliability(read_probs(folder, "clean"), labels)
    else:
        probs = np.concatenate([read_probs(folder, *cell) for cell in CELLS])
        bins = metrics.reliability(probs, np.tile(labels, len(CELLS)), soft.reshape(len(probs), -1))
    return np.stack([bins[0], *(bins[0] * np.nan_to_num(part) for part in bins[1:])])


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
