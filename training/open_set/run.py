"""An open-set run after its closed training: pools with pseudo labels, and the scores of detectors.

`open_set_run` reads the data and computes what the closed model gives for them; the methods of `OpenSetRun` are called
by train_openset.py in the order of its stages. What is stored already is read instead of computed.
"""
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from building.built_set import BuiltSet
from compute.batches import Images
from compute.devices import connect
from datasets.open_classes import HALVES, make_pool, pseudo_labels
from models.detector import Together, WithFeatures
from open_set import ClosedModel, FittedBaselines
from support import run_folder
from support.errors import UserError
from support.files import write_text
from training.image_caches import attach_caches
from training.open_set import files, scores
from training.open_set.files import PARTS, TRAINED, WHOLE, column_of
from training.open_set.inference import (
    CellImages,
    Inference,
    Protocol,
    cell_scores,
    check_set,
    closed_network,
    closed_outputs,
    detector_scores,
    fitted_baselines,
    load_protocol,
    rows_of_pool,
    votes_column,
)
from training.open_set.stages import load_snapshot, trained_detector
from training.processes import Processes

CORRUPTED_POOL = "test"  # the pool whose images are scored under corruption: those that a built set has


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

    def rows(self, part: str) -> np.ndarray:
        """int64: the images of a part."""
        return np.flatnonzero((self.frame["half"] == part) | (part == WHOLE))


def open_set_run(args: Any, folder: Path, sets: dict[str, BuiltSet]) -> "OpenSetRun":
    """The run in `folder`, whose closed model is trained. args: of train_openset.py. sets: {name: built set} whose
    corrupted images are scored."""
    data = load_protocol(args.options, args.open_set.open)
    inference = Inference(connect(run_folder.PRECISIONS["32"]), args.options.batch_size, args.machine.workers)
    outputs = closed_outputs(folder, data, args.options, inference)
    fitted = fitted_baselines(data, outputs, args.open_set.neighbours)
    return OpenSetRun(args, folder, sets, data, inference, outputs, fitted)


@dataclass(frozen=True)
class OpenSetRun:
    """An open-set run after its closed training."""

    args: Any
    """of train_openset.py"""
    folder: Path
    sets: dict[str, BuiltSet]
    data: Protocol
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
        images = Images(self.data.root, frame, self.args.options.image_size)
        return Pool(name, frame, labels, images, self.data.division.closed_names)

    def check_halves(self, name: str, frame: pd.DataFrame) -> None:
        """Raises UserError where a half of a pool has no open image or no closed one."""
        if "inductive" in self.args.open_set.scorings:
            for half in HALVES:
                if not scores.has_both(frame.loc[frame["half"] == half, "is_open"].to_numpy()):
                    raise UserError(f"the pool {name} has {frame['is_open'].sum()} open images: too few for two "
                                    f"halves. --scorings transductive does not divide it")

    def detector_folder(self, pool: Pool, part: str) -> Path:
        """The folder of a detector."""
        return files.detector_folder(self.folder, pool.name, part)

    # --- detectors ---

    def missing_parts(self, pool: Pool) -> list[str]:
        """The parts of a pool whose detectors have to be trained or scored."""
        missing = []
        for scoring in self.args.open_set.scorings:
            for part in PARTS[scoring]:
                place = self.detector_folder(pool, part)
                is_needed_for_sets = scoring == "inductive" and self.unscored_sets(pool)
                is_trained = bool(trained_detector(place, self.args.detector))
                is_scored = files.has_detector_scores(place)
                if is_scored and is_needed_for_sets and not is_trained:
                    print(f"{place}: trained again for --set, since its weights were removed (--keep-snapshots keeps "
                          f"them). Scores of other built sets are removed: give them with --set, too", flush=True)
                if not is_scored or is_needed_for_sets and not is_trained:
                    missing.append(part)
        if missing:
            attach_caches((pool.images,), self.args.machine, self.args.options.runs, Processes(self.inference.fabric))
        return missing

    def load_detector(self, pool: Pool, part: str) -> list[torch.nn.Module]:
        """All snapshots of a detector, in eval mode."""
        detector, size = self.args.detector, self.args.options.image_size
        place = self.detector_folder(pool, part)
        snapshots = trained_detector(place, detector)
        if not snapshots:
            raise UserError(f"{place}: a snapshot is missing; start the same command again, which trains this detector")
        return [load_snapshot(file, self.data.num_closed, size, detector.networks) for file in snapshots]

    def score_detector(self, pool: Pool, part: str) -> None:
        """Compute and store a detector's open scores of all images of its pool and of the closed validation images."""
        place = self.detector_folder(pool, part)
        if files.has_detector_scores(place):
            return
        together = Together(self.load_detector(pool, part), self.args.open_set.mirror)
        rows = self.data.closed_rows("val")
        validation = Images(self.data.root, self.data.splits["val"].frame.iloc[rows], self.args.options.image_size)
        predicted = self.outputs["val"].logits[rows].argmax(1)
        for name, images, labels in (("validation_scores", validation, predicted),
                                     ("pool_scores", pool.images, pool.labels)):
            logits = self.inference.predict(together, images)
            files.write_array(place / f"{name}.npy", detector_scores(logits, labels, self.data.num_closed))

    # --- built sets ---

    def unscored_sets(self, pool: Pool) -> dict[str, BuiltSet]:
        """The built sets that have no scores yet in all of their cells."""
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
                "cells": [["clean", 0], *(list(cell) for cell in built.cells)],
                "closed_classes": list(self.data.division.closed_names)}

    def score_sets(self, pool: Pool) -> None:
        """Compute and store the open scores in all cells of the built sets. Cells of an interrupted scoring stay."""
        for name, built in self.unscored_sets(pool).items():
            self.score_set(pool, name, built)

    def score_set(self, pool: Pool, name: str, built: BuiltSet) -> None:
        """Score one built set. set.json is written last: it says that all cells are there. The version of the set is in
        the folder's file begun.txt, so that cells of another version are not kept."""
        rows = check_set(built, self.data, pool.frame, self.args.options.image_size)
        place, facts = self.cells_folder(name), self.set_facts(built, pool)
        begun = place / "begun.txt"
        if not begun.exists() or begun.read_text() != facts["set_version"]:
            for old in (place / "set.json", *place.glob("*.npy")):  # set.json first: it says that all cells are there
                old.unlink(missing_ok=True)
            write_text(begun, facts["set_version"])
        mirror = self.args.open_set.mirror
        detectors = [network for half in HALVES for network in self.load_detector(pool, half)]
        together = Together([WithFeatures(closed_network(self.folder)), *detectors], mirror)
        features = self.fitted.means.shape[1]
        for corruption, severity in tqdm(facts["cells"], desc=name, unit="cell", disable=None):
            file = files.cell_file(place, corruption, severity)
            if not file.exists():
                cell = None if corruption == "clean" else (corruption, severity)
                values = self.inference.predict(together, CellImages(built, rows, cell))
                files.write_array(file, cell_scores(values, pool.frame, self.data.num_closed, features, self.fitted,
                                                    1 + mirror))
        files.write_set_facts(place, facts)

    # --- what is written at the end ---

    def write_scores(self, pool: Pool) -> None:
        """Write open_scores/<pool>.csv and <pool>-validation.csv from all detectors that are scored, and remove the
        snapshots of its detectors."""
        names, division, frame = self.data.division.closed_names, self.data.division, pool.frame
        model = rows_of_pool(frame, self.outputs)
        columns: dict[str, Any] = {
            "split": frame["split"], "id": frame["id"],
            "expression": [division.classes[k] for k in frame["expression"]],
            "group": frame["group"], "is_open": frame["is_open"].astype(int), "half": frame["half"],
            "predicted": [names[k] for k in model.logits.argmax(1)], "pseudo": [names[k] for k in pool.labels],
            "votes": votes_column(self.data, frame)}
        rows = self.data.closed_rows("val")
        of_val: dict[str, Any] = {"id": self.data.splits["val"].frame["id"].iloc[rows].tolist()}
        for scoring in PARTS:
            trained = self.trained_columns(pool, scoring, len(rows))
            if trained is not None:
                columns |= {column_of(TRAINED, scoring): trained[0]}
                of_val |= trained[1]
        validation = ClosedModel(self.outputs["val"].logits[rows], self.outputs["val"].features[rows])
        files.write_scores(files.validation_file(self.folder, pool.name), of_val | self.fitted.scores(validation))
        files.write_scores(files.scores_file(self.folder, pool.name), columns | self.fitted.scores(model))
        for part in (WHOLE, *HALVES):
            place = self.detector_folder(pool, part)
            if not self.args.options.keep_last:  # of a process that was killed before it could remove it
                (place / run_folder.LAST_CHECKPOINT).unlink(missing_ok=True)
            if not self.args.open_set.keep_snapshots:
                for file in place.glob("snapshot*.pt"):
                    file.unlink()

    def trained_columns(self, pool: Pool, scoring: str,
                        validation: int) -> tuple[np.ndarray, dict[str, np.ndarray]] | None:
        """The open scores of the trained detector, float64 (N,), and those of the closed validation images by column;
        None where a detector is not scored. Half a is scored by the detector that was trained on half b, and the other
        way round. validation: number of closed validation images."""
        places = [self.detector_folder(pool, part) for part in PARTS[scoring]]
        if not all(files.has_detector_scores(place) for place in places):
            return None
        of_pool = [files.read_array(place / "pool_scores.npy", (len(pool.frame),), np.float64) for place in places]
        of_val = [files.read_array(place / "validation_scores.npy", (validation,), np.float64) for place in places]
        column = column_of(TRAINED, scoring)
        if scoring == "transductive":
            return of_pool[0], {column: of_val[0]}
        in_first = (pool.frame["half"] == HALVES[0]).to_numpy()
        return (np.where(in_first, of_pool[1], of_pool[0]),
                {f"{column}_{HALVES[0]}": of_val[1], f"{column}_{HALVES[1]}": of_val[0]})

    def finish(self) -> None:
        """Write open_scores.csv."""
        scores.write_open_scores(self.folder, self.note_on_weights())

    def note_on_weights(self) -> str:
        """A warning where the weights that a network started from may have been trained on the open classes; "" for
        random weights and those of ImageNet."""
        given = {self.args.options.weights, self.args.detector.detector_weights or self.args.options.weights}
        names = sorted(Path(name).name for name in given - {"none", "imagenet"})
        return f"started from {', '.join(names)}: may have been trained on the open classes" if names else ""
