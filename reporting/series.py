"""What figures draw from the scores of a block (scores.scores_as_table): a metric by severity, by cell, and by seed.

A cell is one of the 85 pairs of a corruption and a severity (corruptions.py). A `Row` is what is averaged over seeds
(rows.py).
"""
import numpy as np
import pandas as pd

from corruptions import CORRUPTIONS, SEVERITIES
from reporting.rows import COMPARED_LOSSES, named_pairs, Row
from reporting.scores import DOMAINS

STEPS = 1 + len(SEVERITIES)  # clean, then the severities


def by_severity(scores: pd.DataFrame) -> dict[tuple[str, str], dict[str, np.ndarray]]:
    """Accuracy and ECE by severity, of the rows without label noise.

    Returns {(name of a variant, loss): {metric: float (seeds, 6)}}: the clean images, then the mean over the 17
    corruptions of each severity; NaN where one of them is missing."""
    wanted = (scores["noise"] == 0) & scores["loss"].isin(COMPARED_LOSSES) & scores["metric"].isin(["accuracy", "ece"])
    cells = scores[wanted & scores["corruption"].isin(["clean", *CORRUPTIONS])].fillna({"severity": 0})
    complete = [1] + [len(CORRUPTIONS)] * len(SEVERITIES)
    curves: dict[Row, dict[str, np.ndarray]] = {}
    for (*row, metric), part in cells.groupby([*Row._fields, "metric"]):
        table = part.pivot_table(index="seed", columns="severity", values="value", aggfunc=["mean", "count"])
        mean = table["mean"].reindex(columns=range(STEPS))
        count = table["count"].reindex(columns=range(STEPS))
        curves.setdefault(Row(*row), {})[metric] = mean.where(count == complete).to_numpy()
    return {key: curves[row] for key, row in named_pairs(curves).items()}


def by_cell(scores: pd.DataFrame, metric: str) -> dict[Row, np.ndarray]:
    """A metric in every cell, {row: float (17, 5)}: the mean over the row's seeds, NaN where a seed lacks the cell."""
    cells = scores[(scores["metric"] == metric) & scores["corruption"].isin(CORRUPTIONS)]
    tables = {}
    for row, part in cells.groupby(list(Row._fields)):
        table = part.pivot_table(index="corruption", columns="severity", values="value", aggfunc=["mean", "count"])
        mean = table["mean"].reindex(index=list(CORRUPTIONS), columns=SEVERITIES)
        count = table["count"].reindex(index=list(CORRUPTIONS), columns=SEVERITIES)
        tables[Row(*row)] = mean.where(count == part["seed"].nunique()).to_numpy()
    return tables


def by_seed(scores: pd.DataFrame, metric: str) -> dict[tuple[Row, str], np.ndarray]:
    """The values of a metric, one a seed: {(row, domain): float (seeds,)}. Corrupted: the means over the 85 cells."""
    domains = {corruption: domain for domain, corruption in DOMAINS.items()}
    wanted = (scores["metric"] == metric) & scores["corruption"].isin(domains)
    values = {}
    for (*row, corruption), part in scores[wanted].sort_values("seed").groupby([*Row._fields, "corruption"]):
        values[Row(*row), domains[corruption]] = part["value"].to_numpy()
    return values
