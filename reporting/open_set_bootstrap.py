"""Is the trained detector better than a baseline by more than chance? A paired bootstrap over the images of a pool.

`compare` gives the differences with their intervals. They say how much a difference varies with the images, given the
trained detectors; they do not cover another training.
"""
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nan

import numpy as np

import open_set
from reporting.notes import READ_ERRORS, Note
from reporting.open_set_runs import ScoredRun, Setup, by_setup
from support.random_streams import keyed_rng
from training.open_set.files import DETECTORS, TRAINED, column_of
from training.open_set.scores import PoolScores, has_both, read_pool

LEVEL = 95  # percent, of intervals
LARGEST_BLOCK = 2**22  # numbers of images times resamples that are drawn at once: 32 MB, and a few copies


@dataclass(frozen=True)
class Difference:
    """AUROC of the trained detector minus that of a baseline, for one set of open classes: the mean over seeds."""

    setup: Setup
    open_classes: str
    pool: str
    scoring: str
    group: str
    """the images, one of `training.open_set.scores.GROUPS_OF_SCORES`"""
    baseline: str
    seeds: int
    value: float
    low: float
    high: float


def compare(runs: Sequence[ScoredRun], resamples: int) -> tuple[list[Difference], list[Note]]:
    """The trained detector against every baseline, and what could not be compared. The same resample is drawn for all
    detectors and seeds, stratified by closed and open and, for inductive scores, by half."""
    differences: list[Difference] = []
    notes: list[Note] = []
    for setup, lines in by_setup(runs).items():
        for open_classes, of_line in lines.items():
            for pool in dict.fromkeys(pool for run in of_line for pool in run.scores["pool"]):
                with_pool = [run for run in of_line if (run.scores["pool"] == pool).any()]
                try:
                    differences += compare_pool(setup, open_classes, pool, with_pool, resamples)
                except READ_ERRORS as error:
                    notes.append(Note(str(of_line[0].folder), f"no bootstrap for the pool {pool}", str(error)))
    return differences, notes


def compare_pool(setup: Setup, open_classes: str, pool: str, runs: Sequence[ScoredRun],
                 resamples: int) -> list[Difference]:
    """`compare` for one pool. Raises ValueError where the seeds have other images."""
    stored = [read_pool(run.folder, pool) for run in runs]
    first = stored[0]
    keys = ["split", "id", "is_open", "half", "group", "votes"]
    if not all(scores.images[keys].equals(first.images[keys]) for scores in stored):
        raise ValueError("its seeds have scored other images")
    differences = []
    for scoring in first.scorings():
        if not all(scoring in scores.scorings() for scores in stored):
            continue
        for group, mask in first.groups().items():
            halves = list(first.rows_by_half(scoring, mask).values())
            if not all(has_both(first.is_open[rows]) for rows in halves):
                continue
            by_seed = resampled_aurocs(stored, scoring, halves, resamples)
            for baseline in DETECTORS[1:]:
                gaps = np.mean([aurocs[TRAINED] - aurocs[baseline] for aurocs in by_seed], axis=0)
                low, high = np.percentile(gaps[1:], [50 - LEVEL / 2, 50 + LEVEL / 2]) if resamples else (nan, nan)
                differences.append(Difference(setup, open_classes, pool, scoring, group, baseline, len(runs),
                                              float(gaps[0]), float(low), float(high)))
    return differences


def resampled_aurocs(stored: Sequence[PoolScores], scoring: str, halves: Sequence[np.ndarray],
                     resamples: int) -> list[dict[str, np.ndarray]]:
    """For every seed the AUROC of each detector, {detector: float64 (1 + resamples,)}: of the images themselves first,
    then of each resample; the mean over halves.

    stored: of every seed, of the same N images. halves: bool (N,) each, the images that are scored together. Resamples
    are drawn in blocks; each has a random stream of its own, so the result does not depend on the size of a block."""
    is_open = stored[0].is_open
    values: list[dict[str, list[np.ndarray]]] = [{detector: [] for detector in DETECTORS} for _ in stored]
    for number, rows in enumerate(halves):
        flags = is_open[rows]
        columns = [{detector: scores.images[column_of(detector, scoring)].to_numpy(float)[rows]
                    for detector in DETECTORS} for scores in stored]
        blocks: list[list[dict[str, np.ndarray]]] = [
            [{detector: np.array([open_set.auroc(of_seed[detector], flags)]) for detector in DETECTORS}
             for of_seed in columns]]
        at_once = max(1, LARGEST_BLOCK // len(flags))
        for start in range(0, resamples, at_once):
            rngs = [keyed_rng("open-set bootstrap", len(flags), int(flags.sum()), scoring, number, resample)
                    for resample in range(start, min(start + at_once, resamples))]
            weights = open_set.resampling_weights(flags, rngs)
            blocks.append([{detector: open_set.weighted_aurocs(of_seed[detector], flags, weights)
                            for detector in DETECTORS} for of_seed in columns])
        for seed in range(len(stored)):
            for detector in DETECTORS:
                values[seed][detector].append(np.concatenate([block[seed][detector] for block in blocks]))
    return [mean_over_halves(of_seed) for of_seed in values]


def mean_over_halves(of_seed: Mapping[str, Sequence[np.ndarray]]) -> dict[str, np.ndarray]:
    """{detector: mean of its arrays, one for each half}."""
    return {detector: np.mean(arrays, axis=0) for detector, arrays in of_seed.items()}
