"""The data of a report's page, ready for JSON: scores by row and by run, reliability, settings, tables.

`gather` makes one dictionary, which page.js reads under the same names. A row is what a table averages over seeds, a
block what the numbers that are compared have in common (rows.py). A place is what a line of scores.csv is about: the
clean images, a cell, or a summary over cells.
"""
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from evaluation.summary import DEMO
from metrics import METRICS
from reporting.comparison import Comparison
from reporting.comparison import page_data as comparison_data
from reporting.cells import FER_C
from reporting.notes import Note, unique_notes
from reporting.page_samples import Samples
from reporting.predictions import PredictionSummary
from reporting.gaps import wanted_rows
from reporting.rows import COMPARED_LOSSES, Block, rank, rank_of_name, Row
from reporting.runs import Run, places_of
from reporting.stability import SequenceReport
from reporting.stability_page import page_data as data_of_sequences
from reporting.scores import DOMAINS, aggregate, blocks_of, in_block, join_notes

SHOWN_METRICS = ("nll", "ece", "accuracy", "macro_f1", "brier", "adaece", "mce", "cece", "kse")
RANKED_BY = "nll"  # a proper score: unlike ECE it cannot be lowered by underconfidence alone


def gather(runs: Sequence[Run], scores: pd.DataFrame, summaries: Mapping[Block, PredictionSummary],
           missing: Sequence[Note], tables: Iterable[Path], samples: Mapping[Block, Samples],
           comparison: Comparison, of_sequences: SequenceReport) -> dict[str, Any]:
    """All that the page shows.

    scores: of `scores.scores_as_table`; summaries and samples: of every block; missing: what the report names as
    missing; tables: CSV files that the page hands on; comparison: the rankings; of_sequences: the models on sets of
    perturbation sequences."""
    blocks = blocks_of(scores)
    stats = aggregate(scores, SHOWN_METRICS)
    order = sorted(range(len(runs)), key=lambda index: order_of_run(runs[index]))
    rows: list[dict] = []
    scores_of_runs: list[dict] = []
    notes = list(missing)
    for index, block in enumerate(blocks):
        rows += rows_of(index, block, runs, stats)
        scores_of_runs += scores_of(index, block, scores, summaries[block].corruptions)
        notes += samples[block].notes
    position = {run: number for number, run in enumerate(order)}
    return {
        "demo": DEMO,
        "metrics": {name: METRICS[name].__dict__ for name in SHOWN_METRICS},
        "ranked_by": RANKED_BY,
        "losses": COMPARED_LOSSES,
        # Corruptions and places are those of FER-C; a block of another set has both of its own.
        "corruptions": list(FER_C),
        "places": places_of(FER_C),
        "blocks": [data_of_block(block, blocks, summaries[block], samples[block]) for block in blocks],
        "rankings": comparison_data(comparison),
        "missing": [str(note) for note in unique_notes(notes)],
        "rows": rows,
        "runs": [data_of_run(run) for run in runs],
        "scores": sorted(scores_of_runs, key=lambda entry: position[entry["run"]]),
        "order": order,
        "tables": {path.name: path.read_text(encoding="utf-8", errors="replace") for path in tables},
    } | ({"sequences": data_of_sequences(of_sequences)} if of_sequences.sets else {})


def order_of_run(run: Run) -> tuple:
    """Sorts runs: by data set, then as in the tables, then by seed."""
    return run.args["dataset"], *rank(run.row), run.seed


def data_of_block(block: Block, blocks: Sequence[Block], summary: PredictionSummary,
                  samples: Samples) -> dict[str, Any]:
    """A block: its fields, its name, its explorer, its reliability diagrams, and the range of its ECE floors."""
    bins = sorted(summary.bins.items(), key=lambda item: rank_of_name(item[0][0]))
    return block._asdict() | {
        "name": name_of(block, blocks),
        "demo": summary.demo,
        "explorer": samples.explorer,
        "reliability": [diagram(*key, counted) for key, counted in bins],
        "floors": {domain: [min(values), max(values)] for domain, values in summary.floors.items() if values},
    } | cells_of_block(summary.corruptions)


def cells_of_block(corruptions: tuple[str, ...]) -> dict[str, Any]:
    """The corruptions of a block's set and its places, where these are not FER-C's."""
    return {} if corruptions == FER_C else {"corruptions": corruptions, "places": places_of(corruptions)}


def name_of(block: Block, blocks: Sequence[Block]) -> str:
    """A block's name: short where no other block is of that set."""
    if sum(other.set == block.set for other in blocks) == 1:
        return block.set if block.precision == "32" else block.name
    return f"{block.name}, {block.dataset}, {block.protocol}, {block.image_size} px, N = {block.n}"


def data_of_run(run: Run) -> dict[str, Any]:
    """A run: what it is, what its evaluation lacks, and its settings as texts.

    separating_settings: the settings that separate its row from others, in words."""
    settings = {key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
                for key, value in run.args.items()}
    return {
        "folder": str(run.folder),
        "dataset": run.args["dataset"],
        "algorithm": run.row.algorithm,
        "separating_settings": run.row.all_settings,
        "loss": run.row.loss,
        "noise": run.row.noise,
        "seed": run.seed,
        "pairs_with": run.row.settings,
        "lacks": run.problems,
        "settings": settings,
    }


def fields_of_row(row: Row) -> dict[str, Any]:
    """A row: the settings and the constants of the loss that separate it from others are one text."""
    return {"algorithm": row.algorithm, "loss": row.loss, "noise": row.noise, "settings": row.all_settings}


def rows_of(index: int, block: Block, runs: Sequence[Run], stats: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """The rows of a block, also those that are missing.

    Each has for every metric and domain, under "<metric>_<domain>", [mean, standard deviation]; the deviation is None
    with one seed, the pair is None where there is none. stats: as `scores.aggregate` returns them."""
    stats_by_key = {}
    for stat in in_block(stats, block).itertuples():
        row = Row(stat.algorithm, stat.loss, stat.noise, stat.settings, stat.constants)
        stats_by_key[row, stat.domain, stat.metric] = stat
    rows = {row for setup, row in wanted_rows(runs) if setup == block.setup}
    for row in sorted(rows, key=rank):
        scores: dict[str, list | None] = {}
        notes = []
        seeds = 0
        for metric in SHOWN_METRICS:
            for domain in DOMAINS:
                stat = stats_by_key.get((row, domain, metric))
                if stat is None:
                    scores[f"{metric}_{domain}"] = None
                    continue
                scores[f"{metric}_{domain}"] = [stat.mean, stat.sd if stat.seeds > 1 else None]
                notes.append(stat.notes)
                seeds = max(seeds, stat.seeds)
        yield {"block": index, **fields_of_row(row), "notes": join_notes(notes), "seeds": seeds, **scores}


def scores_of(index: int, block: Block, scores: pd.DataFrame,
              corruptions: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """Every score of every run of a block, under `values`: {metric: values in the order of `places_of`, None where
    there is none}. corruptions: of the set."""
    places = places_of(corruptions)
    for run, part in in_block(scores, block).fillna({"severity": 0}).groupby("run"):
        table = part.pivot(index=["corruption", "severity"], columns="metric", values="value").reindex(places)
        yield {"run": run, "block": index, "values": {metric: finite(table[metric]) for metric in table}}


def finite(values: Iterable[float]) -> list[float | None]:
    """Numbers for JSON, which has no NaN: None in its place."""
    return [float(value) if np.isfinite(value) else None for value in values]


def diagram(algorithm: str, loss: str, domain: str, bins: np.ndarray) -> dict[str, Any]:
    """A reliability diagram. bins: (3, 15) as `predictions.read_bins` returns them; means are None in empty bins."""
    count, confidence, accuracy = bins
    with np.errstate(invalid="ignore"):  # 0 / 0 in empty bins
        mean_confidence, mean_accuracy = finite(confidence / count), finite(accuracy / count)
    return {
        "algorithm": algorithm,
        "loss": loss,
        "domain": domain,
        "count": [int(n) for n in count],
        "confidence": mean_confidence,
        "accuracy": mean_accuracy,
        "ece": float(np.abs(confidence - accuracy).sum() / count.sum()),
    }
