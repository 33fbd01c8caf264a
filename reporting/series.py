"""What figures draw from the scores of a block (scores.scores_as_table): a metric by severity, by cell, and by seed.

A cell is a pair of a corruption of the set and a severity (corruptions.py). A `Row` is what is averaged over seeds
(rows.py).
"""
import numpy as np
import pandas as pd

from corruptions import SEVERITIES, cells_of
from reporting.cells import corruptions_of_scores
from reporting.rows import COMPARED_LOSSES, named_pairs, Row
from reporting.scores import DOMAINS

STEPS = 1 + len(SEVERITIES)  # clean, then the severities


def by_severity(scores: pd.DataFrame) -> dict[tuple[str, str], dict[str, np.ndarray]]:
    """Accuracy and ECE by severity, of the rows without label noise.

    Returns {(name of a variant, loss): {metric: float (seeds, 6)}}: the clean images, then the mean over the
    corruptions of each severity; NaN where one of them is missing."""
    corruptions = corruptions_of_scores(scores)
    is_wanted = (scores["noise"] == 0) & scores["loss"].isin(COMPARED_LOSSES)
    is_shown = scores["metric"].isin(["accuracy", "ece"]) & scores["corruption"].isin(["clean", *corruptions])
    cells = scores[is_wanted & is_shown].fillna({"severity": 0})
    cells = cells[cells["severity"].isin(range(STEPS))]
    statistics = cells.groupby([*Row._fields, "metric", "seed", "severity"])["value"].agg(["mean", "count"])
    curves: dict[Row, dict[str, np.ndarray]] = {}
    for (*row, metric), part in statistics.groupby(level=[*Row._fields, "metric"]):
        seeds = part.index.get_level_values("seed")
        positions = seeds.unique().get_indexer(seeds)
        steps = part.index.get_level_values("severity").astype(int)
        complete = np.where(steps == 0, 1, len(corruptions))
        curve = np.full((seeds.nunique(), STEPS), np.nan)
        curve[positions, steps] = part["mean"].where(part["count"] == complete)
        curves.setdefault(Row(*row), {})[metric] = curve
    return {key: curves[row] for key, row in named_pairs(curves).items()}


def by_cell(scores: pd.DataFrame, metric: str) -> dict[Row, np.ndarray]:
    """A metric in every cell, {row: float (C, 5)}: the mean over the row's seeds, NaN where a seed lacks the cell."""
    corruptions = corruptions_of_scores(scores)
    place_of_cell = {cell: place for place, cell in enumerate(cells_of(corruptions))}
    is_cell = scores["corruption"].isin(corruptions) & scores["severity"].isin(SEVERITIES)
    cells = scores[is_cell & (scores["metric"] == metric)]
    fields = list(Row._fields)
    seeds = cells.groupby(fields)["seed"].nunique()
    statistics = cells.groupby([*fields, "corruption", "severity"])["value"].agg(["mean", "count"])
    tables: dict[Row, np.ndarray] = {}
    for (*row, corruption, severity), mean, count in statistics.itertuples():
        table = tables.setdefault(Row(*row), np.full((len(corruptions), len(SEVERITIES)), np.nan))
        if count == seeds[tuple(row)]:
            table.ravel()[place_of_cell[corruption, int(severity)]] = mean
    return tables


def by_seed(scores: pd.DataFrame, metric: str) -> dict[tuple[Row, str], np.ndarray]:
    """The values of a metric, one a seed: {(row, domain): float (seeds,)}. Corrupted: the means over all cells."""
    domains = {corruption: domain for domain, corruption in DOMAINS.items()}
    wanted = (scores["metric"] == metric) & scores["corruption"].isin(domains)
    values = {}
    for (*row, corruption), part in scores[wanted].sort_values("seed").groupby([*Row._fields, "corruption"]):
        values[Row(*row), domains[corruption]] = part["value"].to_numpy()
    return values
