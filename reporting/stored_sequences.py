"""The stored logits of runs on sets of perturbation sequences, and what report.py computes from them.

`open_sequences` finds the predictions of a run for a block. `values_of_sequences` gives the scores of every single
sequence, which a bootstrap resamples, and `flips_by_distance` how often predictions differ that are some frames apart.
A sequence is an image in all frames of one perturbation.
"""
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

import metrics
from evaluation.predictions import stored_sequences
from evaluation.sequence_scores import TEMPERATURE, decisions_by_sequence, moves_by_sequence
from perturbations import ALL, is_noise
from reporting.notes import READ_ERRORS, Note, different_contents, plain
from reporting.candidates import CLEAN
from reporting.predictions import find_set, open_predictions, read_logits
from reporting.rows import COMPARED_LOSSES, Block, Row, named_pairs
from reporting.runs import Run
from reporting.scores import RAW, in_block, runs_in_block
from support.errors import DamagedFile

MEASURED = (
    (RAW, "accuracy"), (RAW, "flip_probability"), (RAW, "top2_distance"), (RAW, "total_variation"),
    (TEMPERATURE, "total_variation"), (RAW, "total_variation_unflipped"), (TEMPERATURE, "total_variation_unflipped"),
    (RAW, "confidence_change"), (TEMPERATURE, "confidence_change"))
"""(method, metric) of the columns of `values_of_sequences`"""


@dataclass(frozen=True)
class StoredSequences:
    """The stored predictions of one run for one block."""

    folder: Path
    info: Mapping[str, Any]
    """set.json"""
    labels: np.ndarray
    """int64 (N,)"""
    frame_counts: Mapping[str, int]
    """{perturbation: number of frames}, in the order of the tables"""
    difficulty: int
    """of the set"""
    temperature: float | None
    """by which logits are divided for the method `temperature`; None where it is not known"""

    def logits(self, name: str) -> np.ndarray:
        """The logits of all frames of a perturbation, float32 (N, frames, K). Raises DamagedFile where a file has
        another shape."""
        shape = len(self.labels), len(self.info["classes"])
        return np.stack([read_logits(self.folder, (name, frame), shape)
                         for frame in range(self.frame_counts[name])], axis=1)

    def values(self, name: str) -> np.ndarray:
        """The scores of the sequences of a perturbation, as `values_of_sequences` gives them."""
        return values_of_sequences(self.logits(name), self.labels, name, self.difficulty, self.temperature)


def open_sequences(run: Run, block: Block, temperature: float | None) -> StoredSequences:
    """The predictions of a run for a block. Raises one of `READ_ERRORS` where they are missing or damaged."""
    folder, info, labels = open_predictions(run, block)
    try:
        sequences = stored_sequences(info)
        if sequences is None:
            raise ValueError("it names no perturbations")
        frame_counts = {name: sequences.frames[name] for name in sorted(sequences.frames, key=ALL.index)}
    except ValueError as error:
        raise DamagedFile(f"{folder / 'set.json'} is damaged ({error})") from None
    return StoredSequences(folder, info, labels, frame_counts, sequences.difficulty, temperature)


def temperatures_of(scores: pd.DataFrame, block: Block) -> dict[int, float]:
    """{position of a run: its temperature} of a block, as far as scores.csv has it. scores: of
    `scores.sequences_as_table`."""
    rows = in_block(scores, block)
    rows = rows[(rows["corruption"] == CLEAN) & (rows["metric"] == TEMPERATURE) & (rows["value"] > 0)]
    return dict(zip(rows["run"], rows["value"], strict=True))


def values_of_sequences(logits: np.ndarray, labels: np.ndarray, name: str, difficulty: int,
                        temperature: float | None) -> np.ndarray:
    """The scores of every sequence of a perturbation, float64 (N, columns), with the columns `MEASURED`.

    logits: float32 (N, frames, K). labels: int64 (N,). difficulty: of the set. temperature: None where it is not known;
    then columns of this method are NaN. `total_variation_unflipped` is NaN where every frame has flipped."""
    columns: dict[tuple[str, str], np.ndarray] = {}
    for method, divisor in ((RAW, 1.0), (TEMPERATURE, temperature)):
        if divisor is None:
            continue
        scaled = logits.reshape(-1, logits.shape[-1]).astype(np.float64) / divisor
        probs = metrics.softmax(scaled).reshape(logits.shape)
        scores = moves_by_sequence(probs, name, difficulty)
        if method == RAW:
            predictions = probs.argmax(-1)
            scores["accuracy"] = (predictions == labels[:, None]).mean(1)
            scores |= decisions_by_sequence(predictions, logits, name, difficulty)
        columns |= {(method, metric): values for metric, values in scores.items()}
    absent = np.full(len(logits), np.nan)
    return np.stack([columns.get(column, absent) for column in MEASURED], axis=1)


# --- flips by distance, for the figure ---


def flips_by_distance(predictions: np.ndarray, against_first: bool) -> np.ndarray:
    """The fraction of pairs of frames with different predictions, float64 (frames - 1,): of all pairs that are 1, 2,
    ... frames apart, or, against_first, of each frame and the first one. predictions: int (N, frames)."""
    distances = range(1, predictions.shape[1])
    if against_first:
        return np.array([(predictions[:, d] != predictions[:, 0]).mean() for d in distances])
    return np.array([(predictions[:, d:] != predictions[:, :-d]).mean() for d in distances])


@dataclass
class BlockSequences:
    """What the stored predictions of a block's runs show."""

    folder: Path | None = None
    """of the built set; None where no usable predictions name it"""
    is_demo: bool = False
    stored: dict[int, StoredSequences] = field(default_factory=dict)
    """by position of the run"""
    curves: dict[tuple[str, str], dict[str, np.ndarray]] = field(default_factory=dict)
    """{(name of a variant, loss): {perturbation: float64 (seeds, frames - 1)}}, of `flips_by_distance`"""
    notes: list[Note] = field(default_factory=list)


def read_block(block: Block, runs: Sequence[Run], scores: pd.DataFrame, sets: Iterable[Path],
               constant: set[int]) -> BlockSequences:
    """Read the predictions of a block's runs. scores: of `scores.sequences_as_table`; sets: folders of built sets to
    prefer to those that the predictions name; constant: positions of runs that predict one class, which have no
    curve."""
    result = BlockSequences(is_demo=block.dataset == "demo")
    temperatures = temperatures_of(scores, block)
    problems = []
    curves_of_row: dict[Row, list[dict[str, np.ndarray]]] = {}
    for index in tqdm(runs_in_block(scores, block), desc=f"sequences of {plain(block.name)}", unit=" runs",
                      disable=None):
        try:
            stored = open_sequences(runs[index], block, temperatures.get(index))
            curves = dict(curves_of_run(stored))
        except READ_ERRORS as error:
            problems.append((runs[index], error))
            continue
        result.folder = find_set(block, sets) or Path(stored.info["folder"])
        result.is_demo |= stored.info.get("demo") is True
        result.stored[index] = stored
        if index not in constant:
            curves_of_row.setdefault(runs[index].row, []).append(curves)
    reason = different_contents([stored.info.get("content") for stored in result.stored.values()], "run")
    if reason:
        result.notes.append(Note(block.name, reason))
    result.notes += [run.unusable_predictions(block, error, result.folder) for run, error in problems]
    compared_rows = [row for row in curves_of_row if row.loss in COMPARED_LOSSES]
    for key, row in named_pairs(compared_rows).items():
        result.curves[key] = curves_of_seeds(curves_of_row[row])
    return result


def curves_of_seeds(curves: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """{perturbation: float64 (seeds, frames - 1)} from the curves of every seed. A perturbation that one seed lacks, or
    has with another number of frames, has no curve."""
    stacked = {}
    for name in curves[0]:
        values = [curves_of_seed[name] for curves_of_seed in curves if name in curves_of_seed]
        if len(values) == len(curves) and len(set(map(len, values))) == 1:
            stacked[name] = np.stack(values)
    return stacked


def curves_of_run(stored: StoredSequences) -> Iterator[tuple[str, np.ndarray]]:
    """(perturbation, of `flips_by_distance`) of one run."""
    for name in stored.frame_counts:
        yield name, flips_by_distance(stored.logits(name).argmax(-1), is_noise(name))
