"""Does calibrated training flicker less by more than chance? A paired bootstrap over the sequences of a set.

For two runs that differ in the loss only, the scores of every sequence are averaged again on resamples of the set, the
same ones for both, and their difference gets a 95 % interval as in bootstrap.py. What is drawn are clusters: an image
with all its sequences, or an identity with all its images, where the set knows the identity of every image. With
several seeds the value of a resample is the mean over them, so an interval says how much the difference would vary with
other images, and says nothing about other seeds.

Lower confidence alone makes probabilities move less. So those scores that depend on confidence are compared twice: of
the probabilities as they are, and after the temperature that fits each model best to its validation images.
"""
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from tqdm import tqdm

import metrics
from evaluation.error_bootstrap import draw_weights, resampled_means
from reporting import bootstrap
from reporting.bootstrap import Interval, clusters_of, interval_of
from reporting.notes import READ_ERRORS, Note, plain, unique_notes
from reporting.rows import COMPARED_LOSSES, Block, Row, join_names, variants
from reporting.runs import FLIP_PROBABILITY, Run
from reporting.scores import RAW, runs_in_block
from reporting.stored_sequences import MEASURED, BlockSequences, StoredSequences

FLIPS = MEASURED.index((RAW, FLIP_PROBABILITY))


class SequenceDifference(NamedTuple):
    """Calibrated minus uncalibrated, for all scores of one pair of rows; fractions, from the seeds that both have."""

    block: Block
    algorithm: str
    settings: str
    """in words, what separates the pair from others of this algorithm"""
    noise: float
    seeds: tuple[int, ...]
    values: np.ndarray
    """float64 (2, seeds, columns): uncalibrated and calibrated, the means over perturbations; columns as `MEASURED`"""
    intervals: list[Interval | None]
    """of every column; None where it is not known of both"""
    cluster: str
    """what was drawn: image or identity"""
    clusters: int
    resamples: int

    @property
    def name(self) -> str:
        """The algorithm, with what separates the pair from others, and the label noise."""
        noise = f"label noise {100 * self.noise:g} %" if self.noise else ""
        return join_names(self.algorithm, self.settings, noise)


@dataclass
class Resampled:
    """The runs of one block on resamples of its sequences."""

    block: Block
    values: dict[int, np.ndarray] = field(default_factory=dict)
    """by position of the run: float64 (resamples + 1, P, columns), columns as `MEASURED`, NaN where not known; the
    first row is of the set as it is"""
    perturbations: dict[int, tuple[str, ...]] = field(default_factory=dict)
    cluster: str = "image"
    clusters: int = 0
    resamples: int = 0
    notes: list[Note] = field(default_factory=list)


def resample_block(block: Block, predictions: BlockSequences, runs: Sequence[Run], resamples: int) -> Resampled:
    """The scores of all runs of a block on resamples. predictions: of `stored_sequences.read_block`."""
    result = Resampled(block, resamples=resamples)
    if not resamples or predictions.folder is None:
        return result
    try:
        result.cluster, cluster_of_image = clusters_of(predictions.folder, block.n)
    except READ_ERRORS as error:
        result.notes.append(Note(block.name, f"no intervals of sequences: {plain(error)}"))
        return result
    result.clusters = int(cluster_of_image.max()) + 1
    weights = draw_weights(result.clusters, resamples, block.set_version)
    for index, stored in tqdm(predictions.stored.items(), desc=f"bootstrap on {plain(block.name)}", unit=" runs",
                              disable=None):
        try:
            result.values[index] = replicates(stored, cluster_of_image, weights)
        except READ_ERRORS as error:
            result.notes.append(runs[index].unusable_predictions(block, error, predictions.folder))
            continue
        result.perturbations[index] = tuple(stored.frame_counts)
    return result


def replicates(stored: StoredSequences, cluster_of_image: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The scores of a run on every resample, float64 (resamples + 1, P, columns). cluster_of_image: int64 (N,).
    weights: of `error_bootstrap.draw_weights`. A sequence without a value, because each of its frames has flipped, is
    left out of its mean; where no sequence has one, it is NaN."""
    values_by_perturbation = []
    for name in stored.frame_counts:
        values = stored.values(name)
        is_known = ~np.isnan(values)
        sums = resampled_means(np.where(is_known, values, 0), cluster_of_image, weights)
        counts = resampled_means(is_known, cluster_of_image, weights)
        values_by_perturbation.append(np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0))
    return np.stack(values_by_perturbation, axis=1)


def compare(resampled: Resampled, runs: Sequence[Run], sequences: pd.DataFrame,
            constant: set[int]) -> tuple[list[SequenceDifference], list[Note]]:
    """The differences of all variants of a block that have a calibrated and an uncalibrated run with the same seed.
    sequences: of `scores.sequences_as_table`. constant: positions of runs that predict one class; their pairs are left
    out, and a note says so."""
    block = resampled.block
    counted = {(runs[index].row, runs[index].seed): index for index in runs_in_block(sequences, block)}
    differences, notes = [], []
    for variant, row_of_loss in variants(row for row, _ in counted).items():
        pairs = {}
        for seed in sorted({seed for _, seed in counted}):
            pair = [counted.get((row_of_loss.get(loss), seed)) for loss in COMPARED_LOSSES]
            if any(index not in resampled.values for index in pair):
                continue
            if constant & set(pair):
                notes.append(Note(block.name, f"{plain(variant.variant_name)}, seed {seed}: not among the differences "
                                              f"in stability, because a model predicts one class only"))
                continue
            if len({resampled.perturbations[index] for index in pair}) == 1:
                pairs[seed] = pair
        if pairs:
            differences.append(difference_of(resampled, variant, pairs))
    return differences, unique_notes(notes)


def difference_of(resampled: Resampled, variant: Row, pairs: Mapping[int, Sequence[int]]) -> SequenceDifference:
    """The differences of one variant. pairs: {seed: positions of the uncalibrated and of the calibrated run}."""
    # (seeds, 2, resamples + 1, columns): means over the perturbations that have a value
    means = np.array([[metrics.mean_of_known(resampled.values[index], 1) for index in pair] for pair in pairs.values()])
    before, after = means.mean(0)  # (resamples + 1, columns) each
    intervals = [interval if np.isfinite(interval).all() else None
                 for interval in bootstrap.summarise(before, after)]
    return SequenceDifference(
        resampled.block, variant.algorithm, variant.all_settings, variant.noise, tuple(pairs),
        means[:, :, 0].transpose(1, 0, 2), intervals, resampled.cluster, resampled.clusters, resampled.resamples)


# --- intervals of single models ---


def interval_of_flips(resampled: Resampled, runs: Iterable[int]) -> tuple[float, float] | None:
    """The 95 % interval of the mean flip probability of some runs; None where a run has no stored predictions, and
    where they are not of the same perturbations."""
    flips = mean_flips(resampled, list(runs))
    return None if flips is None else interval_of(flips[1:])


def interval_of_flip_rate(resampled: Resampled, runs: Iterable[int], baseline_run: int,
                          defined: Mapping[str, bool]) -> tuple[float, float] | None:
    """The 95 % interval of the mean flip rate of some runs. baseline_run: position of the baseline's run. defined:
    {perturbation: whether it has a flip rate}, of all perturbations of the baseline.

    None where a run has no stored predictions, where no rate is defined, and where the predictions and the baseline's
    scores are not of the same perturbations."""
    indices = list(runs)
    flips, divisors = mean_flips(resampled, indices), mean_flips(resampled, [baseline_run])
    if flips is None or divisors is None or not any(defined.values()):
        return None
    if {resampled.perturbations[index] for index in [*indices, baseline_run]} != {tuple(defined)}:
        return None
    with np.errstate(invalid="ignore", divide="ignore"):
        return interval_of((flips / divisors)[1:, list(defined.values())])


def mean_flips(resampled: Resampled, indices: Sequence[int]) -> np.ndarray | None:
    """The flip probabilities on every resample, means over some runs, float64 (resamples + 1, P); None where there is
    no run, where one has no stored predictions, and where they are not of the same perturbations."""
    if not indices or any(index not in resampled.values for index in indices):
        return None
    if len({resampled.perturbations[index] for index in indices}) > 1:
        return None
    return np.mean([resampled.values[index][:, :, FLIPS] for index in indices], axis=0)


def csv_lines(differences: Iterable[SequenceDifference]) -> list[dict[str, Any]]:
    """A line for each difference and score, with the names of `CSV_COLUMNS`; fractions."""
    lines = []
    for difference in differences:
        for column, ((method, metric), interval) in enumerate(zip(MEASURED, difference.intervals, strict=True)):
            if interval is None:
                continue
            values = {f"{side}_by_seed": " ".join(f"{value:.6g}" for value in values_of_side[:, column])
                      for side, values_of_side in zip(COMPARED_LOSSES.values(), difference.values, strict=True)}
            lines.append(difference.block._asdict() | {
                "algorithm": difference.algorithm, "settings": difference.settings, "noise": difference.noise,
                "method": method, "metric": metric, **interval._asdict(), **values,
                "seeds": " ".join(map(str, difference.seeds)), "clusters": difference.clusters,
                "cluster": difference.cluster, "resamples": difference.resamples})
    return lines


CSV_COLUMNS = [*Block._fields, "algorithm", "settings", "noise", "method", "metric", *Interval._fields,
               *(f"{side}_by_seed" for side in COMPARED_LOSSES.values()), "seeds", "clusters", "cluster", "resamples"]
