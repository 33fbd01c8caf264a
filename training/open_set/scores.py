"""From open scores to open_scores.csv: one row for each pool, way of scoring, detector, group and metric.

  pool         one of `datasets.open_classes.POOLS`
  scoring      transductive: the detector was trained on the images that it scores. inductive: it was trained on the
               other half of the pool; a metric is the mean over both halves. Baselines are not trained: with
               `transductive` their metric is of the whole pool, with `inductive` the mean over the same halves.
  detector     trained, or one of `open_set.BASELINES`
  group        the images: all; open-test (closed images against open test images); open-train (closed images against
               open images of the other splits); votes (see below). In open_scores/<pool>.csv the group of an image is
               closed, open-test or open-train: there open-test is the open test images alone.
  set, set_version, corruption, severity      empty without a built set; corruption "clean", a corruption, or "mean"
  metric, value                               `open_set.METRICS`
  notes        why a number has to be read with care

votes: closed images without a vote for an open class, and open images with more than half of their votes for open
classes, where the data set has votes.

`closed_accepted` and `open_accepted` are fractions of images that are accepted by the threshold that accepts the
fraction `open_set.TPR` of the closed validation images (clean ones, also for corrupted images), as the same detector
scores them.
Images of half a are scored by the detector trained on half b; their threshold comes from the same detector's scores of
validation images.

Nothing here imports torch.
"""
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import open_set
from corruptions import OPERATIONS, SEVERITIES
from datasets.open_classes import GROUPS, HALVES, POOLS
from open_set import BASELINES
from support import run_folder
from support.errors import DamagedFile
from support.files import write_rows
from training.open_set.files import (
    CELL_COLUMNS,
    DETECTORS,
    IMAGE_COLUMNS,
    INDUCTIVE,
    SET_FACTS,
    SUBSETS,
    TRAINED,
    cell_file,
    cells_folder,
    column_of,
    read_array,
    read_scores,
    read_set_facts,
    read_table,
    scored_sets,
    scores_file,
    validation_file,
)

COLUMNS = ("pool", "scoring", "detector", "group", "set", "set_version", "corruption", "severity", "metric", "value",
           "notes")
COUNTS = ("n_closed", "n_open")  # added up over halves; of other metrics the mean is taken
ALL, VOTES = "all", "votes"
CLOSED, *OPEN_GROUPS = GROUPS
GROUPS_OF_SCORES = (ALL, *OPEN_GROUPS, VOTES)
CLEAN, MEAN = "clean", "mean"  # in the column corruption, besides corruptions
MOST_IMAGES = 2**21  # of a pool; the largest data set has a quarter of that


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
        return [scoring for scoring in SUBSETS if column_of(TRAINED, scoring) in self.images]

    def groups(self) -> dict[str, np.ndarray]:
        """{group: bool (N,)}, the images of each group; groups without open images are left out."""
        group = self.images["group"]
        masks = {ALL: np.ones(len(group), bool)}
        if (group == OPEN_GROUPS[1]).any():
            for name in OPEN_GROUPS:
                masks[name] = group.isin((CLOSED, name)).to_numpy()
        if (self.images["votes"] != "").any():
            masks[VOTES] = (self.images["votes"] == "1").to_numpy()
        return {name: mask for name, mask in masks.items() if has_both(self.is_open[mask])}

    def rows_by_half(self, scoring: str, mask: np.ndarray) -> dict[str, np.ndarray]:
        """{half: bool (N,)}, the images of a group that are scored together, over which the mean of a metric is taken:
        those of each half, or with transductive scoring {"": all}. mask: bool (N,), the group."""
        if scoring != INDUCTIVE:
            return {"": mask}
        half = self.images["half"].to_numpy()
        return {name: mask & (half == name) for name in HALVES}

    def threshold(self, detector: str, scoring: str, half: str) -> float:
        """The threshold for the images of a scored half ("" for all)."""
        column = column_of(detector, scoring, half)
        return open_set.acceptance_threshold(self.validation[column].to_numpy(float))


def has_both(is_open: np.ndarray) -> bool:
    """Whether there are closed and open images."""
    return bool(is_open.any() and not is_open.all())


def read_pool(folder: Path, pool: str) -> PoolScores:
    """The open scores of a pool. folder: of the run. Raises FileNotFoundError and DamagedFile."""
    path, validation_path = scores_file(folder, pool), validation_file(folder, pool)
    scores = PoolScores(read_scores(path, IMAGE_COLUMNS), read_scores(validation_path))
    if len(scores.images) > MOST_IMAGES:
        raise DamagedFile(f"{path} has {len(scores.images)} images; no pool has more than {MOST_IMAGES}")
    for name, known in (("is_open", ("0", "1")), ("half", HALVES), ("group", GROUPS), ("votes", ("", "0", "1"))):
        if not set(scores.images[name]) <= {*known}:
            raise DamagedFile(f"{path}: its column {name} holds something else than {', '.join(filter(None, known))}; "
                              f"start the same training command again with --fresh")
    for scoring in scores.scorings():
        of_validation = [column_of(TRAINED, scoring, half) for half in (HALVES if scoring == INDUCTIVE else ("",))]
        for of_file, table, columns in ((path, scores.images, BASELINES),
                                        (validation_path, scores.validation, (*of_validation, *BASELINES))):
            missing = [name for name in columns if name not in table]
            if missing or not len(table):
                raise DamagedFile(f"{of_file} has no open scores ({', '.join(missing) or 'no image'}); start the same "
                                  f"training command again with --fresh")
    return scores


def pool_rows(pool: str, scores: PoolScores, notes: str) -> Iterator[dict[str, Any]]:
    """The rows of open_scores.csv about a pool without a built set."""
    for scoring in scores.scorings():
        for detector in DETECTORS:
            column = scores.images[column_of(detector, scoring)].to_numpy(float)
            for group, mask in scores.groups().items():
                values = group_metrics(scores, detector, scoring, mask, column, scores.is_correct)
                yield from rows_of(values, pool=pool, scoring=scoring, detector=detector, group=group, notes=notes)


def group_metrics(scores: PoolScores, detector: str, scoring: str, mask: np.ndarray, column: np.ndarray,
                  is_correct: np.ndarray) -> dict[str, float]:
    """The metrics of a detector on the images of a group; {} where a half has no closed or no open image of it.

    mask: bool (N,), the group. column: float (N,), open scores. is_correct: bool (N,)."""
    values = []
    for half, rows in scores.rows_by_half(scoring, mask).items():
        if not has_both(scores.is_open[rows]):
            return {}
        threshold = scores.threshold(detector, scoring, half)
        values.append(open_set.separation(column[rows], scores.is_open[rows], is_correct[rows])
                      | open_set.acceptance(column[rows], scores.is_open[rows], threshold))
    return {name: float(sum(of_half[name] for of_half in values)) / (1 if name in COUNTS else len(values))
            for name in values[0]}


def rows_of(values: Mapping[str, float], **entries: Any) -> Iterator[dict[str, Any]]:
    """Rows of open_scores.csv, one for each metric. entries: of the other columns; those that are missing are empty."""
    for name, value in values.items():
        yield dict.fromkeys(COLUMNS, "") | entries | {"metric": name, "value": repr(value)}


# ---- corrupted images

def cell_rows(folder: Path, pool: str, set_name: str, scores: PoolScores, notes: str) -> Iterator[dict[str, Any]]:
    """The rows of open_scores.csv about a built set: of its clean images, of each corrupted cell, and the means over
    the corrupted cells.

    Only inductive: the detector of a half, trained on clean images, scores the corrupted images of the other half.
    Closed and open images are in the same cell."""
    place = cells_folder(folder, pool, set_name)
    facts = read_set_facts(place)
    if facts is None:
        return
    check_facts(place, facts)
    means: dict[str, list[dict[str, float]]] = {detector: [] for detector in DETECTORS}
    expression = scores.images["expression"].to_numpy()
    everything = np.ones(len(expression), bool)
    entries = dict(pool=pool, scoring=INDUCTIVE, group=ALL, set=set_name, set_version=facts["set_version"],
                   notes=notes)
    for corruption, severity in facts["cells"]:
        cell = read_array(cell_file(place, corruption, severity), (len(expression), len(CELL_COLUMNS)), np.float64)
        names = np.array(facts["closed_classes"])[predicted_numbers(cell[:, -1], len(facts["closed_classes"]), place)]
        for number, detector in enumerate(DETECTORS):
            values = group_metrics(scores, detector, INDUCTIVE, everything, cell[:, number], names == expression)
            if corruption != CLEAN:
                means[detector].append(values)
            shown = severity if corruption != CLEAN else ""
            yield from rows_of(values, **entries, detector=detector, corruption=corruption, severity=shown)
    for detector, cells in means.items():
        if cells:
            mean = {name: float(np.mean([values[name] for values in cells])) for name in cells[0]}
            yield from rows_of(mean, **entries, detector=detector, corruption=MEAN)


def check_facts(place: Path, facts: Mapping[str, Any]) -> None:
    """Check what set.json says, since the names of cells become names of files. place: its folder. Raises DamagedFile
    where it names something else than clean images and corruptions at severities, or lacks an entry."""
    names, cells = facts.get("closed_classes"), facts.get("cells")
    is_right = isinstance(facts.get("set_version"), str) and isinstance(names, list) and isinstance(cells, list)
    is_right = is_right and bool(names) and all(isinstance(name, str) for name in names) and all(map(is_cell, cells))
    if not is_right:
        raise DamagedFile(f"{place / SET_FACTS} is damaged; remove it, and start the same training command with --set "
                          f"again")


def is_cell(cell: Any) -> bool:
    """Whether an entry of set.json is ["clean", 0], or a corruption with a severity from 1 to 5."""
    if not isinstance(cell, list) or len(cell) != 2 or type(cell[1]) is not int or not isinstance(cell[0], str):
        return False
    return cell == [CLEAN, 0] or cell[0] in OPERATIONS and cell[1] in SEVERITIES


def predicted_numbers(values: np.ndarray, classes: int, place: Path) -> np.ndarray:
    """The column `predicted` of a cell as int (N,). classes: number C of closed classes. place: folder of the cell.
    Raises DamagedFile where a value is no number of a class."""
    if ((values < 0) | (values >= classes) | (values != np.floor(values))).any():
        raise DamagedFile(f"{place}: a cell holds a class that does not exist; remove this folder, and start the same "
                          f"training command with --set again")
    return values.astype(int)


# ---- the file

def write_open_scores(folder: Path, notes: str) -> None:
    """Write open_scores.csv from all open scores that the run has. folder: of the run. notes: for the column notes."""
    rows: list[dict[str, Any]] = []
    for pool in POOLS:
        if not scores_file(folder, pool).exists():
            continue
        scores = read_pool(folder, pool)
        rows += pool_rows(pool, scores, notes)
        for set_name in scored_sets(folder, pool):
            rows += cell_rows(folder, pool, set_name, scores, notes)
    write_rows(folder / run_folder.OPEN_SCORES_FILE, rows)


def read_open_scores(folder: Path) -> pd.DataFrame:
    """open_scores.csv with value as float64. Raises FileNotFoundError, and DamagedFile where it is damaged."""
    path = folder / run_folder.OPEN_SCORES_FILE
    table = read_table(path, COLUMNS)
    table["value"] = pd.to_numeric(table["value"], errors="coerce")
    known = {"metric": {metric.name for metric in open_set.METRICS}, "detector": set(DETECTORS), "pool": set(POOLS),
             "scoring": set(SUBSETS), "group": set(GROUPS_OF_SCORES)}
    is_known = all(set(table[column]) <= values for column, values in known.items())
    if not is_known or not np.isfinite(table["value"]).all():
        raise DamagedFile(f"{path} is damaged; remove it and start the same training command again, which writes it")
    return table


def has_scores(folder: Path, pools: Sequence[str], scorings: Sequence[str], sets: Mapping[str, str]) -> bool:
    """Whether open_scores.csv has everything that is asked for. sets: {name of a built set: its version}."""
    try:
        table = read_open_scores(folder)
    except (OSError, DamagedFile):
        return False
    trained = table[table["detector"] == TRAINED]
    clean = {(row.pool, row.scoring) for row in trained[trained["set"] == ""].itertuples()}
    scored = {(row.set, row.set_version) for row in trained[trained["corruption"] == MEAN].itertuples()}
    return {(pool, scoring) for pool in pools for scoring in scorings} <= clean and set(sets.items()) <= scored


# ---- what is printed

def summary_lines(folder: Path) -> list[str]:
    """AUROC and FPR@TPR95 of every detector, in percent: a line for each pool, way of scoring and detector."""
    table = read_open_scores(folder)
    table = table[(table["set"] == "") & (table["group"] == ALL)]
    lines = []
    for (pool, scoring), rows in table.groupby(["pool", "scoring"], sort=False):
        counts = rows[rows["detector"] == TRAINED].set_index("metric")["value"]
        lines.append(f"{pool}, {scoring}: {counts['n_closed']:.0f} closed and {counts['n_open']:.0f} open images, "
                     f"accuracy on closed ones {100 * counts['closed_accuracy']:.1f} percent")
        for detector in DETECTORS:
            values = rows[rows["detector"] == detector].set_index("metric")["value"]
            lines.append(f"  {detector:<20} AUROC {100 * values['auroc']:5.1f}   "
                         f"FPR@TPR95 {100 * values['fpr95']:5.1f}")
    return lines
