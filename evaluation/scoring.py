"""Scoring of one model on built sets, from images to scores.csv.

Given a run and the sets that matching.py found to fit it, `score_run` computes the logits that are missing in the run's
folder, scores all logits, and writes scores.csv. evaluate.py calls it. It works in all processes that torchrun has
started: each takes a part of the images of a set and writes their logits; process 0 does everything else.

`score_sets` does the same for any model: it takes a `SetScorer`, which knows where logits come from, and the folder in
which predictions and scores are stored. model_scoring.py calls it for models that are no runs.
"""
import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

import metrics
from building.built_set import BuiltSet
from compute import devices
from evaluation.inference import InferenceOptions, predict_blocks
from evaluation.matching import MatchedSet
from evaluation.predictions import Blocks, finish_predictions, prepare_predictions
from evaluation.scores import score
from evaluation.scores_file import earlier_scores, with_rows_of_set
from evaluation.sequence_scores import Temperature, check_top_k, score_sequences
from evaluation.sources import LoadedModel, check_image_size, load_model
from evaluation.summary import preview_text, summary_line
from evaluation.trained_run import TrainedRun
from evaluation.validation import NO_RUN, temperature_of_run
from support.files import lock, os_errors_as_user_errors, write_rows
from support.run_folder import LOCK_FILE, PRECISIONS, SCORES_FILE, predictions_folder

# Called in process 0 after a whole set was scored and scores.csv was written: the set, the folder of its predictions,
# and its rows of scores.csv.
OnScored = Callable[[MatchedSet, Path, list[dict[str, Any]]], None]
# Called in every process once a run's network is loaded, with the Fabric: what is done after each set, or None.
OnLoaded = Callable[[LoadedModel, Any], OnScored | None]

# Whether images behind predictions are verified, as `prepare_predictions` answers -> notes for scores.csv.
NOTES_ON_VERIFICATION: dict[bool | None, list[str]] = {
    True: [],
    False: ["not verified"],
    # The first release of this project is meant. Files hold this text, so it stays as it is.
    None: ["predictions of the first release: images not verified"],
}


def score_run(run: TrainedRun, matched_sets: Sequence[MatchedSet], options: InferenceOptions, limit: int | None = None,
              verify: bool = True, on_loaded: OnLoaded | None = None, top_k: int | None = None) -> None:
    """Score a run on these sets, one after the other; scores.csv is written after each of them.

    limit: only the first images of a set, this many: scores are printed, and nothing is written; None, or as many as
    the set has: all of them. verify: whether images are compared with their checksums; the sets have to be opened so.
    on_loaded: what looks at the loaded network before it is scored. top_k: as for `SetScorer`. Raises UserError where
    anything is wrong with the run, the sets or the machine."""
    with devices.exact_float32():
        fabric = devices.connect(PRECISIONS[options.precision])
        with holding(fabric, run.folder, matched_sets, limit):
            model = load_model(run)
            for size in sorted({matched.built.made_with["size"] for matched in matched_sets}):
                check_image_size(model, size)
            on_scored = on_loaded(model, fabric) if on_loaded is not None else None
            network = devices.for_inference(model.module, fabric, options)
            source = NetworkSource(fabric, network, model, options)
            temperature = NO_RUN
            if any(matched.built.has_sequences and not is_preview(limit, matched.built) for matched in matched_sets):
                temperature = temperature_of_run(run, model, network, fabric, options)
            scorer = SetScorer(fabric, source, options.precision, verify, run.nll_batch, temperature, top_k)
            score_sets(scorer, run.folder, matched_sets, limit, on_scored)


class LogitsOfSets(Protocol):
    """Where the logits of a set come from."""

    @property
    def weights_sha256(self) -> str:
        """What identifies the model: stored logits of another one are not used."""

    def options(self) -> dict[str, Any]:
        """What changes the last digits of logits, besides the precision."""

    def store(self, matched: MatchedSet, blocks: Blocks, divided: bool) -> None:
        """Store the logits of the missing blocks, each with `predictions.write_block`. All processes call this, and no
        block is used before all have returned. divided: among all processes; else process 0 takes all."""


@dataclass(frozen=True)
class NetworkSource:
    """Logits are computed by a network. A `LogitsOfSets`."""

    fabric: Any
    network: torch.nn.Module
    """the model's module, set up by Fabric"""
    model: LoadedModel
    inference: InferenceOptions

    @property
    def weights_sha256(self) -> str:
        return self.model.weights_sha256

    def options(self) -> dict[str, Any]:
        return self.inference.that_change_digits(self.fabric.device.type)

    def store(self, matched: MatchedSet, blocks: Blocks, divided: bool) -> None:
        predict_blocks(self.fabric, self.network, self.model.name, matched, blocks, self.inference, divided)


@dataclass(frozen=True)
class SetScorer:
    """A model, and how it is scored; the same for all sets."""

    fabric: Any
    source: LogitsOfSets
    precision: str
    """"32" or "bf16" """
    verify: bool
    """whether images are compared with their checksums"""
    nll_batch: int = metrics.RELEASED_BATCH
    """images in a batch of `metrics.nll_released`"""
    temperature: Temperature = NO_RUN
    """of the model, for sets of sequences"""
    top_k: int | None = None
    """of sets of sequences: first places of a ranking for one more distance; None: there is only that of two places"""

    def rows(self, matched: MatchedSet, parent: Path, limit: int | None) -> list[dict[str, Any]]:
        """The rows of scores.csv for one set; [] in other processes than process 0.

        parent: the folder of the run or model, or a temporary one; the missing logits are stored in its subfolder
        predictions/. limit: only the first images of the set, this many, for a preview; None: all."""
        built = matched.built
        folder = self.folder(matched, parent)
        prepared: tuple[Blocks, list[str]] | None = None
        if self.is_first_process:
            prepared = self.prepare(matched, folder, limit)
        blocks, notes = self.fabric.broadcast(prepared)
        # A preview is not divided: it is small, and its temporary folder lies on the machine of process 0.
        if blocks.missing_blocks:
            self.source.store(matched, blocks, divided=limit is None)
            self.fabric.barrier()
        if not self.is_first_process:
            return []
        finish_predictions(blocks, built)
        if built.has_sequences:
            temperature = self.temperature if limit is None else None
            return score_sequences(built, folder, limit, self.precision, notes, self.nll_batch, matched.classes,
                                   temperature, self.top_k)
        return score(built, folder, limit, self.precision, notes, self.nll_batch, matched.classes)

    def folder(self, matched: MatchedSet, parent: Path) -> Path:
        """Where the predictions of a set lie. parent: as for `rows`."""
        return predictions_folder(parent, matched.built.folder.resolve().name, self.precision)

    def prepare(self, matched: MatchedSet, folder: Path, limit: int | None) -> tuple[Blocks, list[str]]:
        """Print what a reader has to know about the set, and make its folder of predictions ready. Returns the blocks
        whose logits are to be computed, and the notes for scores.csv. Called in process 0 only."""
        for note in matched.notes:
            print(f"{matched.built.folder}: {note}")
        blocks, verified = prepare_predictions(folder, matched.built, limit, self.source.weights_sha256,
                                               PRECISIONS[self.precision], matched.classes, self.verify,
                                               self.source.options())
        return blocks, [*matched.notes, *NOTES_ON_VERIFICATION[verified]]

    @property
    def is_first_process(self) -> bool:
        """Whether this is process 0, which reads and writes files and prints."""
        return self.fabric.global_rank == 0


def score_sets(scorer: SetScorer, folder: Path, matched_sets: Sequence[MatchedSet], limit: int | None,
               on_scored: OnScored | None = None) -> list[dict[str, Any]]:
    """Score a model on these sets, one after the other. Returns the rows of scores.csv of these sets, those of previews
    included; [] in other processes than process 0.

    folder: of the run or model; process 0 has to hold its lock unless all sets are previews. limit: as for
    `score_run`."""
    for matched in matched_sets:  # before anything is computed
        check_top_k(scorer.top_k, matched.built, matched.classes)
    file_rows: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    if scorer.is_first_process and not all_previews(matched_sets, limit):
        names = {matched.built.folder.resolve().name for matched in matched_sets}
        file_rows = earlier_scores(folder, scorer.source.weights_sha256, names)
    for matched in matched_sets:
        if limit is not None and is_preview(limit, matched.built):
            rows += preview_set(scorer, matched, limit)
        else:
            new_rows = score_whole_set(scorer, matched, folder, file_rows, on_scored)
            file_rows = with_rows_of_set(file_rows, new_rows) if new_rows else file_rows
            rows += new_rows
    return rows


def score_whole_set(scorer: SetScorer, matched: MatchedSet, folder: Path, file_rows: list[dict[str, Any]],
                    on_scored: OnScored | None) -> list[dict[str, Any]]:
    """Score all images of a set, write scores.csv in the folder of the run or model, and print a summary.

    file_rows: the rows of scores.csv so far; those of this set are put in their place. Returns the rows of this set."""
    rows = scorer.rows(matched, folder, None)
    if not scorer.is_first_process:
        return []
    path = folder / SCORES_FILE
    print(summary_line(matched.built, rows))
    with os_errors_as_user_errors(path):
        write_rows(path, with_rows_of_set(file_rows, rows))
    print(f"scores: {path}")
    if on_scored is not None:
        on_scored(matched, scorer.folder(matched, folder), rows)
    return rows


def preview_set(scorer: SetScorer, matched: MatchedSet, count: int) -> list[dict[str, Any]]:
    """Score the first `count` images of a set and print the scores. Logits are kept in a temporary folder meanwhile.
    Returns the rows of scores.csv that would be written."""
    with tempfile.TemporaryDirectory(prefix="fer-c-preview-") as temporary:
        rows = scorer.rows(matched, Path(temporary), count)
    if scorer.is_first_process:
        print(preview_text(matched.built, rows, count))
    return rows


def is_preview(limit: int | None, built: BuiltSet) -> bool:
    """Whether only the first images of the set are asked for. Their scores are printed, and nothing is written."""
    return limit is not None and limit < len(built.frame)


def all_previews(matched_sets: Sequence[MatchedSet], limit: int | None) -> bool:
    """Whether nothing will be written."""
    return all(is_preview(limit, matched.built) for matched in matched_sets)


@contextlib.contextmanager
def holding(fabric: Any, folder: Path, matched_sets: Sequence[MatchedSet], limit: int | None) -> Iterator[bool]:
    """Hold the folder of a run or model where this process will write into it; says whether it will. Raises UserError
    where another process holds the folder."""
    writes = fabric.global_rank == 0 and not all_previews(matched_sets, limit)
    with locked(folder) if writes else contextlib.nullcontext():
        yield writes


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder for this process. Raises UserError where another process holds it."""
    with os_errors_as_user_errors(folder / LOCK_FILE):
        handle = lock(folder, "working in")
    with handle:
        yield
