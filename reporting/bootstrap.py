"""Does calibrated training change the scores by more than chance? A paired bootstrap over the images of a set.

For two runs that differ in the loss only, macro-F1 and ECE are computed again on resamples of the set, the same ones
for both runs, and their difference gets a 95 % interval: the percentiles of the resampled differences, shifted by their
mean distance from the difference itself. Without the shift (Efron and Tibshirani 1993, chapter 13) an interval need not
even contain the difference, because a resample holds images twice, which raises an ECE near its floor most. The
interval is about the difference to be expected at this N; in tests with known models it contains that difference for 9
of 10 samples (tests/test_tables.py).

What is drawn are *clusters*: an image, clean and in all its forms; or an identity with all its images, where the set
knows the identity of every image and has fewer identities than images (AffWild, demo). With several seeds the value of
a resample is the mean over them, so an interval says how much the difference would vary with other test images, and
says nothing about other seeds.

A resample is a vector of weights, one for each cluster. Multiplied with a matrix of sums for each cluster (gaps of
ECE's bins, correct and predicted labels of every class) it gives the sums that all metrics are made of, so no resample
ever touches an image.
"""
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from tqdm import tqdm

import metrics
from corruptions import cells_of
from evaluation.error_bootstrap import clusters_of_frame, draw_weights
from metrics import METRICS
from reporting import captions, csv_tables
from reporting.cells import FER_C, corruptions_of_predictions
from reporting.notes import READ_ERRORS, Note, check_regular, plain, unique_notes
from reporting.predictions import PredictionSummary, check_table, open_predictions, open_soft_labels, read_probs
from reporting.rows import COMPARED_LOSSES, Block, Row, join_names, variants
from reporting.runs import Run
from reporting.scores import DOMAINS, runs_in_block
from reporting.tables import Entry, Grid, GridLine, Section, blocks_of_tables, name_blocks

RESAMPLED = ("macro_f1", "ece")  # metrics
RESAMPLED_COLUMNS = tuple((domain, metric) for domain in DOMAINS for metric in RESAMPLED)  # those of `replicates`
LEVEL = 95  # percent, of the intervals
TITLE = "Calibrated minus uncalibrated, with 95 % intervals (bootstrap)"
LEGEND = """Bootstrap: calibrated minus uncalibrated in percent, the mean over the seeds that both have, with its 95 %
interval from resampled images (or identities with all their images). An interval is about the difference at this N;
bold: 0 lies outside. The intervals say nothing about other seeds and are not corrected for multiple comparisons."""
PLURAL = {"image": "images", "identity": "identities"}


class Difference(NamedTuple):
    """Calibrated minus uncalibrated, for one metric and domain; fractions, from the seeds that both have."""

    block: Block
    algorithm: str
    settings: str
    """in words, what separates the pair from others of this algorithm"""
    noise: float
    domain: str
    metric: str
    uncalibrated: float
    calibrated: float
    difference: float
    low: float
    """lower end of the interval"""
    high: float
    bias: float
    """mean of the resamples minus the difference; added to low and high it gives the unshifted percentiles"""
    seeds: int
    clusters: int
    cluster: str
    """what was drawn: image or identity"""
    resamples: int

    @property
    def name(self) -> str:
        """The algorithm, with the settings that separate its rows."""
        return join_names(self.algorithm, self.settings)


class Interval(NamedTuple):
    """The numbers of a `Difference`, described there."""

    uncalibrated: float
    calibrated: float
    difference: float
    low: float
    high: float
    bias: float


class Replicates(NamedTuple):
    """What one run scores on every resample."""

    values: np.ndarray
    """float64 (resamples + 1, 4): columns as in `RESAMPLED_COLUMNS`; the first row is of the set as it is"""
    cluster: str
    """what was drawn: image or identity"""
    clusters: int


class Resampler:
    """Scores the runs of one block on resamples of its images, and notes what cannot be read."""

    def __init__(self, block: Block, built: Path | None, resamples: int) -> None:
        """built: folder of the block's set, None for the one that the predictions name."""
        self.block = block
        self.built = built
        self.resamples = resamples
        self.weights: dict[int, np.ndarray] = {}  # {number of clusters: of `draw_weights`}
        self.notes: list[Note] = []

    def score(self, run: Run) -> Replicates | None:
        """What a run scores on every resample; None where its predictions or its set cannot be read."""
        try:
            folder, info, labels = open_predictions(run, self.block)
        except READ_ERRORS as error:
            self.notes.append(run.unusable_predictions(self.block, error, self.built))
            return None
        set_folder = self.built or Path(info["folder"])
        try:
            corruptions = corruptions_of_predictions(info)
            soft_labels = open_soft_labels(set_folder, self.block, info["limit"], corruptions)
            kind, cluster_of_image = clusters_of(set_folder, self.block.n)
        except READ_ERRORS as error:
            self.notes.append(Note(self.block.name, f"not in the bootstrap: {plain(error)}"))
            return None
        clusters = int(cluster_of_image.max()) + 1
        if clusters not in self.weights:
            self.weights[clusters] = draw_weights(clusters, self.resamples, self.block.set_version)
        try:
            values = replicates(folder, labels, soft_labels, cluster_of_image, self.weights[clusters], corruptions)
        except READ_ERRORS as error:
            self.notes.append(run.unusable_predictions(self.block, error, self.built))
            return None
        return Replicates(values, kind, clusters)

    def compare(self, pairs: Iterable[tuple[Run, Run]], variant: Row) -> list[Difference]:
        """The differences between the runs of one variant. pairs: (uncalibrated, calibrated), one a seed; those that
        cannot be read are left out. Empty where none is left."""
        scored = []
        for uncalibrated, calibrated in pairs:
            before, after = self.score(uncalibrated), self.score(calibrated)
            if before is not None and after is not None:
                scored.append((before, after))
        if not scored:
            return []
        before_values = np.mean([before.values for before, _ in scored], axis=0)
        after_values = np.mean([after.values for _, after in scored], axis=0)
        first = scored[0][0]
        differences = []
        for (domain, metric), interval in zip(RESAMPLED_COLUMNS, summarise(before_values, after_values), strict=True):
            differences.append(Difference(
                self.block, variant.algorithm, variant.all_settings, variant.noise, domain, metric,
                **interval._asdict(), seeds=len(scored), clusters=first.clusters, cluster=first.cluster,
                resamples=self.resamples))
        return differences


def compare(block: Block, built: Path | None, runs: list[Run], scores: pd.DataFrame,
            resamples: int) -> tuple[list[Difference], list[Note]]:
    """The differences of all variants of a block that have a calibrated and an uncalibrated run with the same seed, and
    what could not be read. built: folder of the block's set, None for the one that the predictions name."""
    counted = {(runs[index].row, runs[index].seed): runs[index] for index in runs_in_block(scores, block)}
    seeds = sorted({seed for _, seed in counted})
    resampler = Resampler(block, built, resamples)
    differences: list[Difference] = []
    members = variants(row for row, _ in counted)
    progress = tqdm(members.items(), desc=f"bootstrap on {plain(block.name)}", unit=" variants", disable=None)
    for variant, row_of_loss in progress:
        pairs = []
        for seed in seeds:
            uncalibrated, calibrated = (counted.get((row_of_loss.get(loss), seed)) for loss in COMPARED_LOSSES)
            if uncalibrated is not None and calibrated is not None:
                pairs.append((uncalibrated, calibrated))
        differences += resampler.compare(pairs, variant)
    return differences, unique_notes(resampler.notes)


def summarise(uncalibrated: np.ndarray, calibrated: np.ndarray) -> list[Interval]:
    """The difference of every metric with its interval.

    uncalibrated, calibrated: float64 (resamples + 1, metrics), the first row of the set as it is."""
    difference = calibrated - uncalibrated
    bias = difference[1:].mean(0) - difference[0]
    ends = np.percentile(difference[1:], [50 - LEVEL / 2, 50 + LEVEL / 2], axis=0) - bias
    columns = np.stack([uncalibrated[0], calibrated[0], difference[0], *ends, bias], axis=1)
    return [Interval(*numbers) for numbers in columns.tolist()]


def interval_of(values: np.ndarray) -> tuple[float, float] | None:
    """The 95 % interval of the mean over several cases, for example corruptions or perturbations. values: float64
    (resamples, cases); resamples in which one of them is not defined are left out. None where less than half of the
    resamples are left."""
    if not values.shape[1]:
        return None
    means = values.mean(1)
    means = means[np.isfinite(means)]
    if len(means) < len(values) / 2 or not len(means):
        return None
    low, high = np.percentile(means, [50 - LEVEL / 2, 50 + LEVEL / 2])
    return float(low), float(high)


def clusters_of(folder: Path, n: int) -> tuple[str, np.ndarray]:
    """What is drawn (image or identity), and the cluster of each of the first n images, int64 (n,) counted from 0; from
    the labels.csv of a built set. Raises ValueError where that holds fewer images, DamagedFile where it is damaged."""
    check_regular(folder / "labels.csv")
    check_table(folder / "labels.csv")
    frame = pd.read_csv(folder / "labels.csv", dtype=str, keep_default_na=False, na_values=[""],
                        usecols=lambda name: name in ("id", "identity"))[:n]
    if len(frame) < n:
        raise ValueError(f"{folder / 'labels.csv'} has {len(frame)} images of {n}")
    return clusters_of_frame(frame, n)


# --- resamples ---


def replicates(folder: Path, labels: np.ndarray, soft_labels: np.ndarray, cluster_of_image: np.ndarray,
               weights: np.ndarray, corruptions: Sequence[str] = FER_C) -> np.ndarray:
    """The columns of `RESAMPLED_COLUMNS` on every resample, float64 (resamples + 1, 4): on clean images, and as means
    over the cells.

    folder: of predictions. labels: int64 (N,). soft_labels: (corruptions, severities, N, K). cluster_of_image: int64
    (N,). weights: of `draw_weights`. corruptions: of the set, in its order."""
    num_classes, severities = soft_labels.shape[-1], soft_labels.shape[1]
    class_sizes = weights @ sum_by_cluster(cluster_of_image, labels, weights.shape[1], num_classes)

    def score(probs: np.ndarray, target: np.ndarray) -> np.ndarray:
        return score_resamples(probs, labels, target, cluster_of_image, weights, class_sizes)

    clean = score(read_probs(folder, "clean"), np.eye(num_classes)[labels])
    total = 0
    cells = cells_of(corruptions)
    for number, cell in enumerate(cells):
        target = np.asarray(soft_labels[divmod(number, severities)], np.float64)
        total = total + score(read_probs(folder, *cell), target)
    return np.concatenate([clean, total / len(cells)], axis=1)


def score_resamples(probs: np.ndarray, labels: np.ndarray, target: np.ndarray, cluster_of_image: np.ndarray,
                    weights: np.ndarray, class_sizes: np.ndarray) -> np.ndarray:
    """Macro-F1 and ECE on every resample, float64 (resamples + 1, 2).

    probs, target: (N, K). labels, cluster_of_image: (N,). weights: (resamples + 1, clusters). class_sizes: images of
    every class in each resample, (resamples + 1, K). Raises ValueError where probs and target differ in shape."""
    if probs.shape != target.shape:
        raise ValueError(f"predictions of shape {probs.shape} for labels of shape {target.shape}")
    clusters, num_classes, bins = weights.shape[1], probs.shape[1], metrics.BINS
    prediction, confidence = probs.argmax(1), probs.max(1)
    gap = metrics.expected_correctness(target, prediction) - confidence
    sums = weights @ np.concatenate([
        sum_by_cluster(cluster_of_image, metrics.bin_of(confidence, bins), clusters, bins, gap),
        sum_by_cluster(cluster_of_image, labels, clusters, num_classes, prediction == labels),
        sum_by_cluster(cluster_of_image, prediction, clusters, num_classes)], axis=1)
    gaps, hits, predicted = np.split(sums, [bins, bins + num_classes], axis=1)
    f1 = 2 * hits / np.maximum(class_sizes + predicted, 1)  # 0 for a class that is not there, as in metrics.macro_f1
    ece = np.abs(gaps).sum(1) / class_sizes.sum(1)
    return np.stack([f1.mean(1), ece], axis=1)


def sum_by_cluster(cluster_of_image: np.ndarray, column_of_image: np.ndarray, clusters: int, columns: int,
                   values: np.ndarray | None = None) -> np.ndarray:
    """(clusters, columns): the sum of the values of the images in each cluster and column; without values, how many
    there are. column_of_image: the image's bin or class, int64 (N,)."""
    index = cluster_of_image * columns + column_of_image
    return np.bincount(index, values, clusters * columns).reshape(clusters, columns)


# --- as files and as a table ---


def write_csv(path: Path, differences: Iterable[Difference]) -> None:
    """Write the differences, a line each, as fractions; only the header where there are none."""
    lines = []
    for difference in differences:
        line = difference.block._asdict() | difference._asdict()
        del line["block"]
        lines.append(line)
    csv_tables.write_frame(path, lines, [*Block._fields, *Difference._fields[1:]])


def arrange(differences: list[Difference], predictions: Mapping[Block, PredictionSummary]) -> list[Grid]:
    """Grids as those of tables.py, one for each protocol and image size: algorithms below each other, in a section for
    every set and rate of label noise, since intervals are wide. predictions: {block: what its predictions show}."""
    columns: list[tuple[str, ...]] = [(domain, METRICS[metric].label) for domain, metric in RESAMPLED_COLUMNS]
    grids = []
    for blocks in blocks_of_tables({difference.block for difference in differences}):
        names = name_blocks(blocks)
        sections, texts = [], []
        for block in blocks:
            of_block = [difference for difference in differences if difference.block == block]
            sections += sections_of(of_block, names[block])
            first = of_block[0]
            drawn = f"{first.resamples} resamples of {first.clusters} {PLURAL[first.cluster]}."
            texts.append(f"{captions.of_block(block, names[block], predictions[block])} {drawn}")
        seeds = [entry.seeds for section in sections for line in section.lines for entry in line.entries]
        texts.insert(0, captions.of_grid(blocks[0].setup, seeds))
        grids.append(Grid("calibration", TITLE, columns, sections, [], texts, {}))
    return grids


def sections_of(differences: list[Difference], name: str) -> list[Section]:
    """The differences of one block, a section for each rate of label noise. name: heading of the block."""
    sections = []
    for noise in sorted({difference.noise for difference in differences}):
        entries: dict[str, dict[tuple[str, str], Entry]] = {}
        for difference in differences:
            if difference.noise == noise:
                of_algorithm = entries.setdefault(difference.name, {})
                of_algorithm[difference.domain, difference.metric] = entry_of(difference)
        lines = [GridLine(title, [by_column[column] for column in RESAMPLED_COLUMNS])
                 for title, by_column in entries.items()]
        heading = f"{name}, label noise {100 * noise:g} %" if noise else name
        sections.append(Section(heading, lines))
    return sections


def entry_of(difference: Difference) -> Entry:
    """A difference in percent, marked where its interval leaves 0 out."""
    low, high = 100 * difference.low, 100 * difference.high
    return Entry(100 * difference.difference, seeds=difference.seeds, interval=(low, high), best=low > 0 or high < 0)
