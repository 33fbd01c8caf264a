"""From open scores to open_scores.csv: one row for each pool, way of scoring, detector, group and metric.

  pool         one of `datasets.open_classes.POOLS`
  scoring      transductive: the detector was trained on the images that it scores. inductive: it was trained on the
               other half of the pool; a metric is the mean over both halves. Baselines are not trained: with
               `transductive` their metric is of the whole pool, with `inductive` the mean over the same halves.
  detector     trained, or one of `open_set.BASELINES`
  group        the images: all; open-test (closed images and open test images); open-train (closed images and open
               images of the other splits); votes (`reduced by votes`, see below)
  set, set_version, corruption, severity      empty without a built set; corruption "clean", a corruption, or "mean"
  metric, value                               `open_set.METRICS`
  notes        why a number has to be read with care

votes: closed images without a vote for an open class, and open images with more than half of their votes for open
classes, where the data set has votes.

`closed_accepted` and `open_accepted` are fractions of images that are accepted by the threshold that accepts 95 % of
the closed validation images (clean ones, also for corrupted images), as the same detector scores them. For a detector
of a half, that is the detector of this half.

Nothing here imports torch. Used by train_openset.py and reporting/open_set.py.
"""
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import open_set
from datasets.open_classes import HALVES, POOLS
from support import run_folder
from support.errors import DamagedFile
from support.files import write_rows
from training.open_set.files import (
    CELL_COLUMNS,
    DETECTORS,
    PARTS,
    TRAINED,
    cell_file,
    cells_folder,
    column_of,
    read_array,
    read_scores,
    read_set_facts,
    read_table,
    scores_file,
    validation_file,
)

COLUMNS = ("pool", "scoring", "detector", "group", "set", "set_version", "corruption", "severity", "metric", "value",
           "notes")
COUNTS = ("n_closed", "n_open")  # added up over halves; of other metrics the mean is taken
ALL = "all"
GROUPS_OF_SCORES = (ALL, "open-test", "open-train", "votes")


@dataclass(frozen=True)
class PoolScores:
    """The stored open scores of a pool."""

    images: pd.DataFrame
    """open_scores/<pool>.csv"""
    validation: pd.DataFrame
    """open_scores/<pool>-validation.csv"""

    @property
    def is_open(self) -> np.ndarray:
        """bool (N,)."""
        return (self.images["is_open"] == "1").to_numpy()

    @property
    def is_correct(self) -> np.ndarray:
        """bool (N,): whether the closed model predicts the class of the image; False for open images."""
        return (self.images["predicted"] == self.images["expression"]).to_numpy()

    def scorings(self) -> list[str]:
        """The ways of scoring that there are scores for."""
        return [scoring for scoring in PARTS if column_of(TRAINED, scoring) in self.images]

    def groups(self) -> dict[str, np.ndarray]:
        """{group: bool (N,)}, the images of each group; groups without open images are left out."""
        group = self.images["group"]
        masks = {ALL: np.ones(len(group), bool)}
        if (group == "open-train").any():
            for name in ("open-test", "open-train"):
                masks[name] = group.isin(("closed", name)).to_numpy()
        if (self.images["votes"] != "").any():
            masks["votes"] = (self.images["votes"] == "1").to_numpy()
        return {name: mask for name, mask in masks.items() if has_both(self.is_open[mask])}

    def threshold(self, detector: str, scoring: str, half: str) -> float:
        """The threshold for the images of a half ("" for all). A detector that scores half a was trained on b."""
        column = column_of(detector, scoring)
        if detector == TRAINED and half:
            column += f"_{half}"
        return open_set.acceptance_threshold(self.validation[column].to_numpy(float))


def has_both(is_open: np.ndarray) -> bool:
    """Whether there are closed and open images."""
    return bool(is_open.any() and not is_open.all())


def read_pool(folder: Path, pool: str) -> PoolScores:
    """The open scores of a pool. folder: of the run. Raises FileNotFoundError and DamagedFile."""
    return PoolScores(read_scores(scores_file(folder, pool)), read_scores(validation_file(folder, pool)))


def pool_rows(pool: str, scores: PoolScores, notes: str) -> Iterator[dict[str, Any]]:
    """The rows of open_scores.csv about a pool without a built set."""
    for scoring in scores.scorings():
        for detector in DETECTORS:
            column = scores.images[column_of(detector, scoring)].to_numpy(float)
            for group, mask in scores.groups().items():
                values = measured(scores, detector, scoring, mask, column, scores.is_correct)
                yield from rows_of(values, pool=pool, scoring=scoring, detector=detector, group=group, notes=notes)


def measured(scores: PoolScores, detector: str, scoring: str, mask: np.ndarray, column: np.ndarray,
             is_correct: np.ndarray) -> dict[str, float]:
    """The metrics of a detector on the images of a group; {} where a half has no closed or no open image of it.

    mask: bool (N,), the group. column: float (N,), open scores. is_correct: bool (N,)."""
    values = []
    half = scores.images["half"].to_numpy()
    for name in HALVES if scoring == "inductive" else ("",):
        rows = mask & (half == name) if name else mask
        if not has_both(scores.is_open[rows]):
            return {}
        threshold = scores.threshold(detector, scoring, name)
        values.append(open_set.separation(column[rows], scores.is_open[rows], is_correct[rows])
                      | open_set.acceptance(column[rows], scores.is_open[rows], threshold))
    return {name: float(sum(part[name] for part in values)) / (1 if name in COUNTS else len(values))
            for name in values[0]}


def rows_of(values: Mapping[str, float], **entries: Any) -> Iterator[dict[str, Any]]:
    """Rows of open_scores.csv, one for each metric. entries: of the other columns; those that are missing are empty."""
    for name, value in values.items():
        yield dict.fromkeys(COLUMNS, "") | entries | {"metric": name, "value": repr(value)}


# ---- corrupted images

def cell_rows(folder: Path, pool: str, set_name: str, scores: PoolScores, notes: str) -> Iterator[dict[str, Any]]:
    """The rows of open_scores.csv about the cells of a built set, with the means over all cells: clean images first.

    Only inductive: the detector of a half, trained on clean images, scores the corrupted images of the other half.
    Closed and open images are in the same cell."""
    place = cells_folder(folder, pool, set_name)
    facts = read_set_facts(place)
    if facts is None:
        return
    means: dict[str, list[dict[str, float]]] = {detector: [] for detector in DETECTORS}
    expression = scores.images["expression"].to_numpy()
    everything = np.ones(len(expression), bool)
    entries = dict(pool=pool, scoring="inductive", group=ALL, set=set_name, set_version=facts["set_version"],
                   notes=notes)
    for corruption, severity in facts["cells"]:
        cell = read_array(cell_file(place, corruption, severity), (len(expression), len(CELL_COLUMNS)), np.float64)
        names = np.array(facts["closed_classes"])[cell[:, -1].astype(int)]
        for number, detector in enumerate(DETECTORS):
            values = measured(scores, detector, "inductive", everything, cell[:, number], names == expression)
            if corruption != "clean":
                means[detector].append(values)
            shown = severity if corruption != "clean" else ""
            yield from rows_of(values, **entries, detector=detector, corruption=corruption, severity=shown)
    for detector, cells in means.items():
        if cells:
            mean = {name: float(np.mean([values[name] for values in cells])) for name in cells[0]}
            yield from rows_of(mean, **entries, detector=detector, corruption="mean")


# ---- the file

def write_open_scores(folder: Path, notes: str) -> None:
    """Write open_scores.csv from all open scores that the run has. folder: of the run. notes: for the column notes."""
    rows: list[dict[str, Any]] = []
    for pool in POOLS:
        if not scores_file(folder, pool).exists():
            continue
        scores = read_pool(folder, pool)
        rows += pool_rows(pool, scores, notes)
        for place in sorted(scores_file(folder, pool).with_suffix("").glob("*/set.json")):
            rows += cell_rows(folder, pool, place.parent.name, scores, notes)
    write_rows(folder / run_folder.OPEN_SCORES_FILE, rows)


def read_open_scores(folder: Path) -> pd.DataFrame:
    """open_scores.csv with value as float64. Raises FileNotFoundError, and DamagedFile where it is damaged."""
    path = folder / run_folder.OPEN_SCORES_FILE
    table = read_table(path, COLUMNS)
    table["value"] = pd.to_numeric(table["value"], errors="coerce")
    known = {"metric": {metric.name for metric in open_set.METRICS}, "detector": set(DETECTORS), "pool": set(POOLS),
             "scoring": set(PARTS), "group": set(GROUPS_OF_SCORES)}
    is_known = all(set(table[column]) <= values for column, values in known.items())
    if not is_known or not np.isfinite(table["value"]).all():
        raise DamagedFile(f"{path} is damaged; remove it and start the same training command again, which writes it")
    return table


def holds(folder: Path, pools: Sequence[str], scorings: Sequence[str], sets: Mapping[str, str]) -> bool:
    """Whether open_scores.csv has everything that is asked for. sets: {name of a built set: its version}."""
    try:
        table = read_open_scores(folder)
    except (OSError, DamagedFile):
        return False
    trained = table[table["detector"] == TRAINED]
    clean = {(row.pool, row.scoring) for row in trained[trained["set"] == ""].itertuples()}
    scored = {(row.set, row.set_version) for row in trained[trained["corruption"] == "mean"].itertuples()}
    return {(pool, scoring) for pool in pools for scoring in scorings} <= clean and set(sets.items()) <= scored


# ---- what is printed

def summary_lines(folder: Path) -> list[str]:
    """AUROC and FPR@TPR95 of every detector, in percent: a line for each pool, way of scoring and detector."""
    table = read_open_scores(folder)
    table = table[(table["set"] == "") & (table["group"] == ALL)]
    lines = []
    for (pool, scoring), part in table.groupby(["pool", "scoring"], sort=False):
        counts = part[part["detector"] == TRAINED].set_index("metric")["value"]
        lines.append(f"{pool}, {scoring}: {counts['n_closed']:.0f} closed and {counts['n_open']:.0f} open images, "
                     f"accuracy on closed ones {100 * counts['closed_accuracy']:.1f} percent")
        for detector in DETECTORS:
            values = part[part["detector"] == detector].set_index("metric")["value"]
            lines.append(f"  {detector:<20} AUROC {100 * values['auroc']:5.1f}   "
                         f"FPR@TPR95 {100 * values['fpr95']:5.1f}")
    return lines
