"""The scores of all runs in one table, and what tables print of them: means and standard deviations over seeds.

`scores_as_table` joins the scores.csv of all runs to one frame with a row per score; `aggregate` averages them over
seeds. A *domain* is what a number of a table is about: clean images, or corrupted ones (the mean over all cells).
"""
from collections.abc import Iterable
from typing import NamedTuple

import pandas as pd

from evaluation.scores import COLUMNS, METHOD
from evaluation.sequence_scores import METHODS
from reporting.notes import plain
from reporting.rows import Block, Row
from reporting.runs import Run

RAW = METHOD  # `method` of the scores of raw probabilities
DOMAINS = {"clean": "clean", "corrupted": "mean"}  # domain of a table -> `corruption` of its rows in scores.csv


class Key(NamedTuple):
    """What one number of a table is of."""

    block: Block
    row: Row
    domain: str
    metric: str


class Statistic(NamedTuple):
    """One number of a table: a metric over the seeds of a row, as a fraction or in nats."""

    mean: float
    sd: float
    """standard deviation with n - 1 in the denominator; NaN for a single seed"""
    seeds: int
    """how many runs were averaged"""
    notes: str
    """on how the runs were scored: phrases joined by "; ", usually empty"""


def scores_as_table(runs: list[Run]) -> pd.DataFrame:
    """One row per score on a set of corruptions, in the order of the runs: the columns of scores.csv, `n` (number of
    images), those of `Block` and `Row`, `seed`, and `run` (index of the run). Of runs that agree in block, row and seed
    only the first counts."""
    return join_scores(runs, of_sequences=False)


def sequences_as_table(runs: list[Run]) -> pd.DataFrame:
    """The scores on sets of perturbation sequences, of raw probabilities (method softmax) and after a temperature, as
    `scores_as_table` gives those on sets of corruptions."""
    return join_scores(runs, of_sequences=True)


def join_scores(runs: list[Run], of_sequences: bool) -> pd.DataFrame:
    """The scores of all runs on one kind of sets, as `scores_as_table` describes it."""
    methods = METHODS if of_sequences else METHODS[:1]
    parts = []
    counted: set[tuple[Block, Row, int]] = set()
    for index, run in enumerate(runs):
        if run.scores is None:
            continue
        is_wanted = run.scores["method"].isin(methods) & (run.scores["sequences"] == of_sequences)
        scores = run.scores[is_wanted].drop(columns="sequences")
        for (name, version, n, precision), part in scores.groupby(["set", "set_version", "n", "precision"], sort=False):
            block = Block(*run.setup, name, version, int(n), precision)
            if (block, run.row, run.seed) in counted:
                continue
            counted.add((block, run.row, run.seed))
            columns = run.setup._asdict() | {"seed": run.seed} | run.row._asdict() | {"run": index}
            parts.append(part.assign(**columns))
    if not parts:
        columns = dict.fromkeys([*COLUMNS, *Block._fields, *Row._fields, "seed", "run"])
        return pd.DataFrame(columns=list(columns))
    return pd.concat(parts).reset_index(drop=True)


def aggregate(scores: pd.DataFrame, metrics: Iterable[str]) -> pd.DataFrame:
    """Mean, standard deviation (n - 1) and number of seeds of the named metrics, as fractions or nats: one row for each
    block, row, domain and metric, with the columns of these, `mean`, `sd`, `seeds`, and `notes` (those of the scores,
    joined)."""
    scores = scores[scores["metric"].isin(list(metrics)) & scores["corruption"].isin(DOMAINS.values())]
    domain_of_word = {word: domain for domain, word in DOMAINS.items()}
    scores = scores.assign(domain=scores["corruption"].map(domain_of_word))
    groups = scores.groupby([*Block._fields, *Row._fields, "domain", "metric"])
    statistics = groups.agg(mean=("value", "mean"), sd=("value", "std"), seeds=("value", "count"),
                            notes=("notes", join_notes))
    return statistics.reset_index()


def by_key(statistics: pd.DataFrame) -> dict[Key, Statistic]:
    """The numbers of a frame of `aggregate` by what they are of, in its order."""
    end_of_block = len(Block._fields)
    end_of_row = end_of_block + len(Row._fields)
    numbers = {}
    for line in statistics.itertuples(index=False):
        key = Key(Block(*line[:end_of_block]), Row(*line[end_of_block:end_of_row]), line.domain, line.metric)
        numbers[key] = Statistic(line.mean, line.sd, line.seeds, line.notes)
    return numbers


def join_notes(notes: Iterable[str]) -> str:
    """Every phrase of these notes once, in their order; phrases are joined by "; "."""
    phrases = []
    for note in dict.fromkeys(notes):
        phrases += [plain(phrase) for phrase in note.split("; ")]
    return "; ".join(dict.fromkeys(filter(None, phrases)))


def blocks_of(scores: pd.DataFrame) -> list[Block]:
    """The blocks that have scores, sorted."""
    keys = scores[list(Block._fields)].drop_duplicates()
    return sorted(Block(*key) for key in keys.itertuples(index=False, name=None))


def in_block(frame: pd.DataFrame, block: Block) -> pd.DataFrame:
    """The rows of a frame of `scores_as_table` or `aggregate` that belong to a block."""
    for name, value in block._asdict().items():
        frame = frame[frame[name] == value]
    return frame


def runs_in_block(scores: pd.DataFrame, block: Block) -> list[int]:
    """The indices of the runs that have scores in a block, sorted."""
    return sorted(set(in_block(scores, block)["run"]))
