"""Scoring of one model on built sets, from images to scores.csv.

Given a run and the sets that matching.py found to fit it, `score_run` computes the logits that are missing in the run's
folder, scores all logits, and writes scores.csv. evaluate.py calls it. It works in all processes that torchrun has
started: each takes a part of the images of a set and writes their logits; process 0 does everything else.
"""
import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from building.built_set import BuiltSet
from compute import devices
from evaluation.inference import InferenceOptions, predict_blocks
from evaluation.matching import MatchedSet
from evaluation.predictions import Blocks, finish_predictions, predictions_folder, prepare_predictions
from evaluation.scores import score
from evaluation.scores_file import earlier_scores, with_rows_of_set
from evaluation.sources import LoadedModel, check_image_size, load_model
from evaluation.summary import preview_text, summary_line
from evaluation.trained_run import TrainedRun
from support.files import lock, os_errors_as_user_errors, write_rows
from support.run_folder import LOCK_FILE, PRECISIONS, SCORES_FILE

# Whether images behind predictions are verified, as `prepare_predictions` answers -> notes for scores.csv.
NOTES_ON_VERIFICATION: dict[bool | None, list[str]] = {
    True: [],
    False: ["not verified"],
    # The first release of this project is meant. Files hold this text, so it stays as it is.
    None: ["predictions of the first release: images not verified"],
}


def score_run(run: TrainedRun, matched_sets: Sequence[MatchedSet], options: InferenceOptions, limit: int | None = None,
              verify: bool = True) -> None:
    """Score a run on these sets, one after the other; scores.csv is written after each of them.

    limit: only the first images of a set, this many: scores are printed, and nothing is written; None, or as many as
    the set has: all of them. verify: whether images are compared with their checksums; the sets have to be opened so.
    Raises UserError where anything is wrong with the run, the sets or the machine."""
    with devices.exact_float32():
        fabric = devices.connect(PRECISIONS[options.precision])
        all_previews = all(is_preview(limit, matched.built) for matched in matched_sets)
        writes = fabric.global_rank == 0 and not all_previews
        with locked(run.folder) if writes else contextlib.nullcontext():
            model = load_model(run)
            for size in sorted({matched.built.made_with["size"] for matched in matched_sets}):
                check_image_size(model, size)
            network = devices.for_inference(model.module, fabric, options)
            scorer = SetScorer(fabric, network, model, options, verify, run.nll_batch)
            file_rows: list[dict[str, Any]] = []
            if writes:
                names = {matched.built.folder.resolve().name for matched in matched_sets}
                file_rows = earlier_scores(run.folder, model.weights_sha256, names)
            for matched in matched_sets:
                if limit is not None and is_preview(limit, matched.built):
                    preview_set(scorer, matched, limit)
                else:
                    file_rows = score_whole_set(scorer, matched, run.folder, file_rows)


@dataclass(frozen=True)
class SetScorer:
    """A model on its device, and how it is scored; the same for all sets."""

    fabric: Any
    network: torch.nn.Module
    """the model's module, set up by Fabric"""
    model: LoadedModel
    options: InferenceOptions
    verify: bool
    """whether images are compared with their checksums"""
    nll_batch: int
    """images in a batch of `metrics.nll_released`"""

    def rows(self, matched: MatchedSet, parent: Path, limit: int | None) -> list[dict[str, Any]]:
        """The rows of scores.csv for one set; [] in other processes than process 0.

        parent: the run's folder, or a temporary one; the missing logits are computed and stored in its subfolder
        predictions/. limit: only the first images of the set, this many, for a preview; None: all."""
        built, precision = matched.built, self.options.precision
        folder = predictions_folder(parent, built.folder.resolve().name, precision)
        prepared: tuple[Blocks, list[str]] | None = None
        if self.is_first_process:
            prepared = self.prepare(matched, folder, limit)
        blocks, notes = self.fabric.broadcast(prepared)
        # A preview is not divided: it is small, and its temporary folder lies on the machine of process 0.
        if blocks.missing:
            predict_blocks(self.fabric, self.network, self.model.name, matched, blocks, self.options,
                           divided=limit is None)
        if not self.is_first_process:
            return []
        finish_predictions(blocks, built)
        return score(built, folder, limit, precision, notes, self.nll_batch)

    def prepare(self, matched: MatchedSet, folder: Path, limit: int | None) -> tuple[Blocks, list[str]]:
        """Print what a reader has to know about the set, and make its folder of predictions ready. Returns the blocks
        whose logits are to be computed, and the notes for scores.csv. Called in process 0 only."""
        for note in matched.notes:
            print(f"{matched.built.folder}: {note}")
        options = self.options.that_change_digits(self.fabric.device.type)
        blocks, verified = prepare_predictions(folder, matched.built, limit, self.model.weights_sha256,
                                               PRECISIONS[self.options.precision], matched.order, self.verify, options)
        return blocks, [*matched.notes, *NOTES_ON_VERIFICATION[verified]]

    @property
    def is_first_process(self) -> bool:
        """Whether this is process 0, which reads and writes files and prints."""
        return self.fabric.global_rank == 0


def score_whole_set(scorer: SetScorer, matched: MatchedSet, folder: Path,
                    file_rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Score all images of a set, write scores.csv in the run's folder, and print a summary.

    file_rows: the rows of scores.csv so far. Returns them with those of this set put in place, as they were written."""
    rows = scorer.rows(matched, folder, None)
    if not scorer.is_first_process:
        return []
    path = folder / SCORES_FILE
    file_rows = with_rows_of_set(file_rows, rows)
    print(summary_line(matched.built, rows))
    with os_errors_as_user_errors(path):
        write_rows(path, file_rows)
    print(f"scores: {path}")
    return file_rows


def preview_set(scorer: SetScorer, matched: MatchedSet, count: int) -> None:
    """Score the first `count` images of a set and print the scores. Logits are kept in a temporary folder meanwhile."""
    with tempfile.TemporaryDirectory(prefix="fer-c-preview-") as temporary:
        rows = scorer.rows(matched, Path(temporary), count)
    if scorer.is_first_process:
        print(preview_text(matched.built, rows, count))


def is_preview(limit: int | None, built: BuiltSet) -> bool:
    """Whether only the first images of the set are asked for. Their scores are printed, and nothing is written."""
    return limit is not None and limit < len(built.frame)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the run's folder for this process. Raises UserError where another process holds it."""
    with os_errors_as_user_errors(folder / LOCK_FILE):
        held = lock(folder, "working in")
    with held:
        yield
