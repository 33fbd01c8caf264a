"""Is calibrated training better than chance? A paired bootstrap over the images of a set.

For two runs that differ in the loss only, macro-F1 and ECE are computed again on resamples of the set, the same ones
for both, and their difference gets a 95 % interval: the percentiles of the resamples, shifted by their mean distance
from the difference. Unshifted ones (Efron and Tibshirani 1993, chapter 13) need not even hold the difference, because a
resample holds images twice, which raises an ECE near its floor most. The interval is about the difference to be
expected at this N; with samples drawn from known models it holds that in 9 of 10 cases (tests/test_tables.py).

What is drawn are clusters: an image, clean and in all 85 forms; or an identity with all its images, where the set
knows the identity of every image and has fewer of them than images (AffWild, demo). With several seeds a resample's
value is the mean over them, so an interval says what other images would change, not what other seeds would.

A resample is a vector of weights; times a matrix of sums per cluster (gaps of ECE's bins, right and predicted labels of
every class) it gives the sums of all metrics, so no resample ever touches an image.
"""
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from tqdm import tqdm

import cli
import metrics
from datasets import keyed_rng
from reporting.predictions import check_table, open_predictions, open_soft_labels, read_probs, unusable
from reporting.runs import BROKEN, CELLS, DOMAINS, LOSSES, Block, check_regular, in_block, plain, variants
from reporting.tables import HEADINGS, Cell, Grid, about_all, about_block, name_blocks, together

METRICS = ("macro_f1", "ece")
WHAT = tuple((domain, metric) for domain in DOMAINS for metric in METRICS)  # what `replicates` has in its columns
LEVEL = 95  # percent, of the intervals
TITLE = "Calibrated minus uncalibrated, with 95 % intervals (bootstrap)"
PLURAL = {"image": "images", "identity": "identities"}


class Difference(NamedTuple):
    """Calibrated minus uncalibrated, as fractions, from the seeds that both have."""

    block: Block
    algorithm: str
    settings: str  # what separates the pair from others of this algorithm
    noise: float
    domain: str
    metric: str
    uncalibrated: float
    calibrated: float
    difference: float
    low: float
    high: float
    bias: float  # mean of the resamples minus the difference: added to low and high it gives plain percentiles
    seeds: int
    clusters: int
    cluster: str
    resamples: int

    @property
    def name(self) -> str:
        """The algorithm with the settings that separate its rows."""
        return ", ".join(filter(None, (self.algorithm, self.settings)))


def compare(block, built, runs, scores, resamples):
    """The differences of every pair of runs of a block, and what could not be compared, a line each. built: its set's
    folder, None for the one that the predictions name."""
    used = {(run.row, run.seed): run for run in (runs[index] for index in sorted(set(in_block(scores, block)["run"])))}
    done, notes, weight = [], [], {}

    def replicate(run):
        try:
            folder, info, labels = open_predictions(run, block)
        except BROKEN as error:
            notes.append(unusable(run, block, error, built))
            return None
        try:
            where = built or Path(info["folder"])
            soft = open_soft_labels(where, block, info["limit"])
            kind, cluster = clusters_of(where, block.n)
        except BROKEN as error:
            notes.append(f"{block.name}: not in the bootstrap: {plain(error)}")
            return None
        clusters = int(cluster.max()) + 1
        if clusters not in weight:
            weight[clusters] = draw(clusters, resamples, block.set_version)
        try:
            return replicates(folder, labels, soft, cluster, weight[clusters]), kind, clusters
        except BROKEN as error:
            notes.append(unusable(run, block, error, built))
            return None

    pairs_of_rows = {variant: [members.get(loss) for loss in LOSSES]
                     for variant, members in variants(row for row, _ in used).items()}
    seeds = sorted({seed for _, seed in used})
    for variant, rows in tqdm(pairs_of_rows.items(), desc=f"bootstrap on {plain(block.name)}", unit=" pairs",
                              disable=None):
        pairs = [[used.get((row, seed)) for row in rows] for seed in seeds]
        found = [[replicate(run) for run in pair] for pair in pairs if None not in pair]
        found = [pair for pair in found if None not in pair]
        if found:
            values = np.mean([[one for one, _, _ in pair] for pair in found], axis=0)
            _, kind, clusters = found[0][0]
            done += [Difference(block, variant.algorithm, variant.more, variant.noise, *which, *numbers, len(found),
                                clusters, kind, resamples)
                     for which, numbers in zip(WHAT, summarise(*values), strict=True)]
    return done, list(dict.fromkeys(notes))


def summarise(uncalibrated, calibrated):
    """(resamples + 1, metrics) each -> for every metric: both values, their difference, its interval, its bias."""
    difference = calibrated - uncalibrated
    bias = difference[1:].mean(0) - difference[0]
    ends = np.percentile(difference[1:], [50 - LEVEL / 2, 50 + LEVEL / 2], axis=0) - bias
    return np.stack([uncalibrated[0], calibrated[0], difference[0], *ends, bias], axis=1).tolist()


def clusters_of(folder, n):
    """(image or identity, cluster of each of the first n images as 0, 1, ...), from the labels of a built set."""
    check_regular(folder / "labels.csv")
    check_table(folder / "labels.csv")
    frame = pd.read_csv(folder / "labels.csv", dtype=str, keep_default_na=False, na_values=[""],
                        usecols=lambda name: name in ("id", "identity"))[:n]
    if len(frame) < n:
        raise ValueError(f"{folder / 'labels.csv'} has {len(frame)} images of {n}")
    if "identity" in frame and frame["identity"].notna().all():
        cluster, known = pd.factorize(frame["identity"])
        if len(known) < n:
            return "identity", cluster
    return "image", np.arange(n)


def draw(clusters, resamples, version):
    """How often each resample holds each cluster, (resamples + 1, clusters); the first row is the set as it is."""
    rng = keyed_rng("bootstrap", version, clusters)
    drawn = rng.multinomial(clusters, np.full(clusters, 1 / clusters), resamples)
    return np.concatenate([np.ones((1, clusters)), drawn])


def replicates(folder, labels, soft, cluster, weight):
    """The metrics of `WHAT` on every resample, (resamples + 1, 4): on clean images, and as means over the cells."""
    labelled = weight @ count(cluster, labels, weight.shape[1], soft.shape[-1])
    clean = resample(read_probs(folder, "clean"), labels, np.eye(soft.shape[-1])[labels], cluster, weight, labelled)
    cells = sum(resample(read_probs(folder, *cell), labels, np.asarray(soft[divmod(i, soft.shape[1])], np.float64),
                         cluster, weight, labelled) for i, cell in enumerate(CELLS))
    return np.concatenate([clean, cells / len(CELLS)], axis=1)


def resample(probs, labels, target, cluster, weight, labelled):
    """Macro-F1 and ECE on every resample, (resamples + 1, 2).

    probs, target: (N, K); labels, cluster: (N,); weight: (resamples + 1, clusters); labelled: weighted images of every
    class, (resamples + 1, K).
    """
    if probs.shape != target.shape:
        raise ValueError(f"predictions of shape {probs.shape} for labels of shape {target.shape}")
    clusters, classes, bins = weight.shape[1], probs.shape[1], metrics.BINS
    prediction, confidence = probs.argmax(1), probs.max(1)
    gap = metrics.expected_accuracy(target, prediction) - confidence
    sums = weight @ np.concatenate([
        count(cluster, metrics._bin(confidence, bins), clusters, bins, gap),
        count(cluster, labels, clusters, classes, prediction == labels),
        count(cluster, prediction, clusters, classes)], axis=1)
    gaps, hits, predicted = np.split(sums, [bins, bins + classes], axis=1)
    f1 = 2 * hits / np.maximum(labelled + predicted, 1)  # as metrics.macro_f1: 0 for what is not there at all
    return np.stack([f1.mean(1), np.abs(gaps).sum(1) / labelled.sum(1)], axis=1)


def count(cluster, column, clusters, columns, weights=None):
    """Sums (clusters, columns) of the weights, or numbers, of the images of each cluster in each column."""
    return np.bincount(cluster * columns + column, weights, clusters * columns).reshape(clusters, columns)


def write_csv(path, differences):
    lines = [one.block._asdict() | {key: value for key, value in one._asdict().items() if key != "block"}
             for one in differences]
    columns = [*Block._fields, *Difference._fields[1:]]
    cli.write_text(path, pd.DataFrame(lines, columns=columns).to_csv(index=False, lineterminator="\n"))


# --- as a table ---

LEGEND = """Bootstrap: calibrated minus uncalibrated in percent, mean over the seeds that both have, with the 95 %
interval from resampled images (or identities with all their images), about the difference at this N; bold: 0 lies
outside. The intervals know nothing of other seeds and are not corrected for their number."""


def arrange(differences, seen):
    """Grids as those of tables.py, one for each protocol and image size: an algorithm a row, the sets one below the
    other, since intervals are wide."""
    grids = []
    for way, blocks in together({one.block for one in differences}):
        names, sections, about = name_blocks(blocks), [], []
        for block in blocks:
            here = [one for one in differences if one.block == block]
            about.append(f"{about_block(block, names[block], seen[block])} {here[0].resamples} resamples of "
                         f"{here[0].clusters} {PLURAL[here[0].cluster]}.")
            for noise in sorted({one.noise for one in here}):
                found = {(one.name, one.domain, one.metric): one for one in here if one.noise == noise}
                titles = dict.fromkeys(name for name, _, _ in found)
                rows = [(name, [cell_of(found[name, *which]) for which in WHAT]) for name in titles]
                sections.append((names[block] + (f", label noise {100 * noise:g} %" if noise else ""), rows))
        headings = [(domain, HEADINGS[metric]) for domain, metric in WHAT]
        grids.append(Grid("calibration", TITLE, headings, sections, [], [about_all(way, sections), *about], {}))
    return grids


def cell_of(one):
    """In percent; marked where the interval leaves 0 out."""
    ends = 100 * one.low, 100 * one.high
    return Cell(100 * one.difference, seeds=one.seeds, interval=ends, best=ends[0] > 0 or ends[1] < 0)
