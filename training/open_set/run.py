"""An open-set run after its closed training: pools with pseudo labels, and the scores of detectors.

`open_set_run` reads the data and computes what the closed model gives for them; the methods of `OpenSetRun` are called
by train_openset.py in the order of its stages. What is stored already is read instead of computed.
"""
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from building.built_set import BuiltSet
from compute.batches import Images
from compute.devices import connect
from datasets.open_classes import HALVES, TEST, make_pool, pseudo_labels, votes_column
from models.detector import LogitsAndFeatures, SideBySide
from open_set import ClosedModel, FittedBaselines
from support import run_folder
from support.errors import UserError
from training.image_caches import folder_to_keep_in
from training.open_set import files, scores
from training.open_set.files import IMAGE_COLUMNS, INDUCTIVE, SUBSETS, TRAINED, TRANSDUCTIVE, WHOLE, column_of
from training.open_set.inference import (
    CellImages,
    Inference,
    OpenSetData,
    cell_scores,
    check_set,
    closed_network,
    closed_outputs,
    detector_scores,
    fitted_baselines,
    load_open_set_data,
    rows_of_pool,
)
from training.open_set.stages import load_snapshot

CORRUPTED_POOL = TEST  # the pool whose images are scored under corruption: those that a built set has


@dataclass(frozen=True)
class Pool:
    """The images of a pool."""

    name: str
    frame: pd.DataFrame
    """N rows, see `datasets.open_classes.make_pool`"""
    labels: np.ndarray
    """int64 (N,), pseudo labels"""
    images: Images
    classes: tuple[str, ...]
    """names of the closed classes"""

    def rows(self, subset: str) -> np.ndarray:
        """int64: the images of a half, or all."""
        return np.flatnonzero((self.frame["half"] == subset) | (subset == WHOLE))


class TrainedColumns(NamedTuple):
    """Open scores of the trained detector, with one way of scoring."""

    pool: np.ndarray
    """float64 (N,), of the images of a pool"""
    validation: dict[str, np.ndarray]
    """{column of open_scores/<pool>-validation.csv: float64 (V,)}, of the closed validation images: one column, or one
    for each half"""


def open_set_run(args: Any, folder: Path, sets: dict[str, BuiltSet]) -> "OpenSetRun":
    """The run in `folder`, whose closed model is trained. args: of train_openset.py. sets: {name: built set} whose
    corrupted images are scored."""
    cache = folder_to_keep_in(args.machine, args.options.runs)
    data = load_open_set_data(args.options, args.open_set.open, cache)
    fabric = connect(run_folder.PRECISIONS["32"])
    inference = Inference(fabric, args.options.batch_size, args.machine, args.options.runs)
    outputs = closed_outputs(folder, data, inference)
    fitted = fitted_baselines(data, outputs, args.open_set.neighbours)
    return OpenSetRun(args, folder, sets, data, inference, outputs, fitted)


@dataclass(frozen=True)
class OpenSetRun:
    """An open-set run after its closed training."""

    args: Any
    """of train_openset.py"""
    folder: Path
    sets: dict[str, BuiltSet]
    data: OpenSetData
    inference: Inference
    outputs: dict[str, ClosedModel]
    """{split: what the closed model gives for its images}"""
    fitted: FittedBaselines

    def pool(self, name: str) -> Pool:
        """A pool with its pseudo labels, which are written if they are not yet."""
        frame = make_pool(name, self.data.division, self.data.splits)
        self.check_halves(name, frame)
        if name == CORRUPTED_POOL:
            for built in self.sets.values():  # before hours of training, which a wrong set would waste
                check_set(built, self.data, frame, self.args.options.image_size)
        labels = files.read_pseudo_labels(self.folder, name, frame, self.data.division)
        if labels is None:
            predictions = {split: model.logits.argmax(1) for split, model in self.outputs.items()}
            labels = pseudo_labels(name, frame, predictions, self.data.num_closed, self.args.options.seed)
            files.write_pseudo_labels(self.folder, name, frame, labels, self.data.division)
        return Pool(name, frame, labels, self.data.images_of_pool(frame), self.data.division.closed_names)

    def check_halves(self, name: str, frame: pd.DataFrame) -> None:
        """Raises UserError where a half of a pool has no open image or no closed one."""
        if INDUCTIVE in self.args.open_set.scorings:
            for kind, is_kind in (("open", frame["is_open"]), ("closed", ~frame["is_open"])):
                if frame.loc[is_kind, "half"].nunique() < len(HALVES):
                    raise UserError(f"the pool {name} has {is_kind.sum()} {kind} images: too few for two halves. "
                                    f"--scorings transductive does not divide it")

    def detector_folder(self, pool: Pool, subset: str) -> Path:
        """The folder of a detector."""
        return files.detector_folder(self.folder, pool.name, subset)

    # --- detectors ---

    def snapshots(self, pool: Pool, subset: str) -> list[Path]:
        """The snapshots of a detector, [] where it is not trained."""
        detector = self.args.detector
        return files.trained_detector(self.detector_folder(pool, subset), detector.detector_epochs, detector.cycles)

    def is_trained(self, pool: Pool, subset: str) -> bool:
        """Whether a detector is trained and its weights are there."""
        return bool(self.snapshots(pool, subset))

    def missing_subsets(self, pool: Pool) -> list[str]:
        """The subsets of a pool whose detectors have to be trained or scored."""
        missing = []
        for scoring in self.args.open_set.scorings:
            for subset in SUBSETS[scoring]:
                place = self.detector_folder(pool, subset)
                lacks_weights_for_sets = scoring == INDUCTIVE and bool(self.unscored_sets(pool)) and (
                    not self.is_trained(pool, subset))
                is_scored = files.has_detector_scores(place)
                if is_scored and lacks_weights_for_sets:
                    print(f"{place}: trained again for --set, since its weights were removed (--keep-snapshots keeps "
                          f"them). Scores of other built sets are removed: give them with --set, too", flush=True)
                if not is_scored or lacks_weights_for_sets:
                    missing.append(subset)
        if missing:
            self.inference.keep_decoded(pool.images, to_device=True)
        return missing

    def load_detector(self, pool: Pool, subset: str) -> list[torch.nn.Module]:
        """All snapshots of a detector, in eval mode."""
        detector, size = self.args.detector, self.args.options.image_size
        snapshots = self.snapshots(pool, subset)
        if not snapshots:
            raise UserError(f"{self.detector_folder(pool, subset)}: a snapshot is missing; start the same command "
                            f"again, which trains this detector")
        return [load_snapshot(file, self.data.num_closed, size, detector.networks, detector.detector_backbone)
                for file in snapshots]

    def score_detector(self, pool: Pool, subset: str) -> None:
        """Compute and store a detector's open scores of all images of its pool and of the closed validation images."""
        place = self.detector_folder(pool, subset)
        if files.has_detector_scores(place):
            return
        networks = SideBySide(self.load_detector(pool, subset), self.args.open_set.mirror)
        rows, validation = self.data.closed_rows("val"), self.data.images["val"]
        self.inference.keep_decoded(validation)
        predicted = self.outputs["val"].logits[rows].argmax(1)
        for name, logits, labels in (
                (files.VALIDATION_SCORES, self.inference.predict(networks, validation, rows), predicted),
                (files.POOL_SCORES, self.inference.predict(networks, pool.images), pool.labels)):
            files.write_array(place / name, detector_scores(logits, labels, self.data.num_closed))

    # --- built sets ---

    def unscored_sets(self, pool: Pool) -> dict[str, BuiltSet]:
        """The built sets that lack scores in one of their cells, or whose scores are of another version."""
        if pool.name != CORRUPTED_POOL:
            return {}
        return {name: built for name, built in self.sets.items() if not self.is_scored(pool, name, built)}

    def is_scored(self, pool: Pool, name: str, built: BuiltSet) -> bool:
        """Whether all cells of a built set have scores."""
        place, facts = self.cells_folder(name), self.set_facts(built, pool)
        return files.read_set_facts(place) == facts and all(
            files.cell_file(place, corruption, severity).is_file() for corruption, severity in facts["cells"])

    def cells_folder(self, set_name: str) -> Path:
        return files.cells_folder(self.folder, CORRUPTED_POOL, set_name)

    def set_facts(self, built: BuiltSet, pool: Pool) -> dict[str, Any]:
        """What set.json says about scores of a built set."""
        return {"set_version": built.manifest["set_version"], "images": len(pool.frame),
                "cells": [[scores.CLEAN, 0], *(list(cell) for cell in built.cells)],
                "closed_classes": list(self.data.division.closed_names)}

    def score_sets(self, pool: Pool) -> None:
        """Compute and store the open scores in all cells of the built sets. Cells of an interrupted scoring stay."""
        for name, built in self.unscored_sets(pool).items():
            self.score_set(pool, name, built)

    def score_set(self, pool: Pool, name: str, built: BuiltSet) -> None:
        """Score one built set. Cells of another version of the set are not kept. What says that all cells are there is
        written last."""
        rows = check_set(built, self.data, pool.frame, self.args.options.image_size)
        place, facts = self.cells_folder(name), self.set_facts(built, pool)
        files.begin_cells(place, facts["set_version"])
        mirror = self.args.open_set.mirror
        detectors = [network for half in HALVES for network in self.load_detector(pool, half)]
        networks = SideBySide([LogitsAndFeatures(closed_network(self.folder)), *detectors], mirror)
        features = self.fitted.means.shape[1]
        for corruption, severity in tqdm(facts["cells"], desc=name, unit="cell", disable=None):
            file = files.cell_file(place, corruption, severity)
            if not file.exists():
                cell = None if corruption == scores.CLEAN else (corruption, severity)
                values = self.inference.predict(networks, CellImages(built, rows, cell))
                files.write_array(file, cell_scores(values, pool.frame, self.data.num_closed, features, self.fitted,
                                                    1 + mirror))
        files.write_set_facts(place, facts)

    # --- what is written at the end ---

    def write_scores(self, pool: Pool) -> None:
        """Write open_scores/<pool>.csv and <pool>-validation.csv from all detectors that are scored, and remove the
        snapshots of its detectors."""
        model = rows_of_pool(pool.frame, self.outputs)
        columns = self.image_columns(pool, model)
        rows = self.data.closed_rows("val")
        validation_columns: dict[str, Any] = {"id": self.data.splits["val"].frame["id"].iloc[rows].tolist()}
        for scoring in SUBSETS:
            trained = self.trained_columns(pool, scoring, len(rows))
            if trained is not None:
                columns |= {column_of(TRAINED, scoring): trained.pool}
                validation_columns |= trained.validation
        validation = ClosedModel(self.outputs["val"].logits[rows], self.outputs["val"].features[rows])
        files.write_scores(files.validation_file(self.folder, pool.name),
                           validation_columns | self.fitted.scores(validation))
        files.write_scores(files.scores_file(self.folder, pool.name), columns | self.fitted.scores(model))
        for subset in (WHOLE, *HALVES):
            place = self.detector_folder(pool, subset)
            if not self.args.options.keep_last:  # of a process that was killed before it could remove it
                (place / run_folder.LAST_CHECKPOINT).unlink(missing_ok=True)
            if not self.args.open_set.keep_snapshots:
                files.remove_snapshots(place)

    def image_columns(self, pool: Pool, model: ClosedModel) -> dict[str, Any]:
        """The columns `IMAGE_COLUMNS` of open_scores/<pool>.csv. model: what the closed model gives for the pool."""
        frame, division = pool.frame, self.data.division
        names = division.closed_names
        values = (frame["split"], frame["id"], [division.classes[number] for number in frame["expression"]],
                  frame["group"], frame["is_open"].astype(int), frame["half"],
                  [names[number] for number in model.logits.argmax(1)], [names[number] for number in pool.labels],
                  votes_column(division, self.data.splits, frame))
        return dict(zip(IMAGE_COLUMNS, values, strict=True))

    def trained_columns(self, pool: Pool, scoring: str, validation: int) -> TrainedColumns | None:
        """The open scores of the trained detector; None where a detector is not scored. Half a is scored by the
        detector that was trained on half b, and the other way round. validation: number V of closed validation images.
        """
        places = [self.detector_folder(pool, subset) for subset in SUBSETS[scoring]]
        if not all(files.has_detector_scores(place) for place in places):
            return None
        of_pool = [files.read_array(place / files.POOL_SCORES, (len(pool.frame),), np.float64) for place in places]
        on_validation = [files.read_array(place / files.VALIDATION_SCORES, (validation,), np.float64)
                         for place in places]
        column = column_of(TRAINED, scoring)
        if scoring == TRANSDUCTIVE:
            return TrainedColumns(of_pool[0], {column: on_validation[0]})
        in_first = (pool.frame["half"] == HALVES[0]).to_numpy()
        return TrainedColumns(np.where(in_first, of_pool[1], of_pool[0]),
                              {column_of(TRAINED, scoring, HALVES[0]): on_validation[1],
                               column_of(TRAINED, scoring, HALVES[1]): on_validation[0]})

    def finish(self) -> None:
        """Write open_scores.csv."""
        scores.write_open_scores(self.folder, self.note_on_weights())

    def note_on_weights(self) -> str:
        """A warning where the weights that a network started from may have been trained on the open classes; "" for
        random weights and those of ImageNet."""
        weights = {self.args.options.weights, self.args.detector.detector_weights or self.args.options.weights}
        names = sorted(Path(name).name for name in weights - {"none", "imagenet"})
        return f"started from {', '.join(names)}: may have been trained on the open classes" if names else ""
