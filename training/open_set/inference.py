"""What trained networks say about images: the closed model on all splits, detectors on pools, both on a built set.

Everything is computed on clean views in float32, whatever the precision of the training, so that scores do not depend
on chance. What is stored already is read instead. Used by train_openset.py.
"""
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.utils.data import Dataset

from building.built_set import BuiltSet
from compute.batches import Images, Item
from compute.devices import exact_float32
from compute.predict import predict
from datasets import default_root, load_splits, parse_options
from datasets.open_classes import HALVES, ClosedAndOpen, has_votes_for
from datasets.split import Split
from models import build_model, checkpoints
from models.detector import WithFeatures
from open_set import ClosedModel, FittedBaselines, cross_entropies
from support import run_folder
from support.errors import UserError
from support.files import read_json
from training.open_set import files


@dataclass(frozen=True)
class Protocol:
    """The data of an open-set run."""

    root: Path
    splits: dict[str, Split]
    """train, val and test with all classes"""
    division: ClosedAndOpen

    @property
    def num_closed(self) -> int:
        """C, the number of closed classes."""
        return len(self.division.closed)

    def closed_rows(self, split: str) -> np.ndarray:
        """int64: the rows of the closed images of a split."""
        return np.flatnonzero(~self.division.is_open(self.splits[split].frame["expression"]))


def load_protocol(options: Any, open_classes: str) -> Protocol:
    """Read all splits. options: `TrainingOptions`. open_classes: as `open_name` gives them. Unlike every other
    training, open-set training opens the test split: detectors are trained on pseudo labels of its images."""
    root = options.root or default_root(options.dataset)
    names = ("train", "val", "test")
    splits = dict(zip(names, load_splits(options.dataset, root, names, **parse_options(options.data)), strict=True))
    for split in names[1:]:
        if splits[split].classes != splits["train"].classes:
            raise UserError(f"{root}: its splits have different classes (train {', '.join(splits['train'].classes)}; "
                            f"{split} {', '.join(splits[split].classes)}); correct the label files")
    return Protocol(root, splits, ClosedAndOpen.of(open_classes, splits["train"].classes))


@dataclass(frozen=True)
class Inference:
    """How images are predicted."""

    fabric: Any
    batch_size: int
    workers: int

    def predict(self, network: torch.nn.Module, images: Any) -> np.ndarray:
        """What a network gives for all images, float32 (N, ...)."""
        with exact_float32():
            return predict(self.fabric, network.to(self.fabric.device), images, self.batch_size, self.workers)


# ---- the closed model

def closed_network(folder: Path) -> torch.nn.Module:
    """The closed model of a run, in eval mode, on the CPU. Raises UserError where its files are damaged."""
    args = read_json(folder / run_folder.ARGS_FILE)
    try:
        network = build_model(args.get("model", {}))
    except UserError as error:
        raise UserError(f"{folder / run_folder.ARGS_FILE}: {error}") from None
    best = folder / run_folder.BEST_CHECKPOINT
    try:
        network.load_state_dict(checkpoints.read_fields(best, checkpoints.BEST_FIELDS)["model"])
    except RuntimeError:
        raise UserError(f"{best} holds another network than {run_folder.ARGS_FILE} names; start over with --fresh"
                        ) from None
    return network.eval()


def closed_outputs(folder: Path, protocol: Protocol, options: Any, inference: Inference) -> dict[str, ClosedModel]:
    """Logits and features of the closed model for every image of every split, {split: `ClosedModel`}. What is missing
    is computed and stored. folder: of the run."""
    outputs: dict[str, ClosedModel] = {}
    network = None
    for name, split in protocol.splits.items():
        model = files.read_closed_model(folder, name, split.frame, protocol.num_closed)
        if model is None:
            network = network or WithFeatures(closed_network(folder))
            images = Images(protocol.root, split.frame, options.image_size)
            model = divided(inference.predict(network, images), protocol.num_closed)
            files.write_closed_model(folder, name, split.frame, model)
        outputs[name] = model
    return outputs


def divided(values: np.ndarray, classes: int) -> ClosedModel:
    """The output of `WithFeatures`, (N, C + D), as logits and features. Raises UserError where it is not finite."""
    if not np.isfinite(values).all():
        raise UserError("the outputs of the closed model are not finite: its training has diverged. Try a lower --lr, "
                        "with --fresh.")
    return ClosedModel(np.ascontiguousarray(values[:, :classes]), np.ascontiguousarray(values[:, classes:]))


def rows_of_pool(pool: pd.DataFrame, outputs: Mapping[str, ClosedModel]) -> ClosedModel:
    """Logits and features of the images of a pool, in its order."""
    logits = np.stack([outputs[split].logits[row] for split, row in zip(pool["split"], pool["row"], strict=True)])
    features = np.stack([outputs[split].features[row] for split, row in zip(pool["split"], pool["row"], strict=True)])
    return ClosedModel(logits, features)


def fitted_baselines(protocol: Protocol, outputs: Mapping[str, ClosedModel], neighbours: int) -> FittedBaselines:
    """The baselines, fitted to the closed training images."""
    rows = protocol.closed_rows("train")
    labels = protocol.splits["train"].frame["expression"].to_numpy()[rows]
    return FittedBaselines(outputs["train"].features[rows], labels, neighbours)


# ---- detectors

def detector_scores(logits: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Open scores float64 (N,): the mean cross-entropy over all networks, snapshots and views. logits: (N, networks x
    C). labels: int (N,), the classes that the closed model predicts. Raises UserError where logits are not finite."""
    if not np.isfinite(logits).all():
        raise UserError("the outputs of a detector are not finite: its training has diverged. Try a lower "
                        "--detector-lr, with --fresh.")
    by_network = logits.reshape(len(logits), -1, classes)
    losses = [cross_entropies(by_network[:, number], labels) for number in range(by_network.shape[1])]
    return np.mean(losses, axis=0)


def votes_column(protocol: Protocol, pool: pd.DataFrame) -> list[str]:
    """For every image whether it is in the group votes, "1" or "0": it is closed and has no vote for an open class, or
    it is open and most of its votes are for open classes. "" for all where the data set has no votes."""
    distributions = [protocol.splits[split].distribution for split in sorted(set(pool["split"]))]
    if any(values is None or (values.max(1) == 1).all() for values in distributions):
        return [""] * len(pool)
    rows = [protocol.splits[split].distribution[row]  # type: ignore[index]  # every split of the pool has one
            for split, row in zip(pool["split"], pool["row"], strict=True)]
    has_vote, has_most = has_votes_for(protocol.division, np.stack(rows))
    return [str(int(value)) for value in np.where(pool["is_open"], has_most, ~has_vote)]


# ---- corrupted images

class CellImages(Dataset):
    """Images of a built set in one cell, for `compute.batches.load_batches`: item i is (uint8 (3, S, S), i)."""

    cached = None

    def __init__(self, built: BuiltSet, rows: Sequence[int], cell: tuple[str, int] | None) -> None:
        """rows: of the set's table. cell: None for the clean images."""
        self.built, self.rows, self.cell = built, list(rows), cell

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> Item:
        try:
            pixels = next(iter(self.built.pixels_of_cells(self.rows[i], [self.cell])))
        except UserError as error:
            return UserError(str(error)), i
        return torch.from_numpy(pixels).permute(2, 0, 1), i


def check_kind_and_size(built: BuiltSet, image_size: int) -> None:
    """The part of `check_set` that needs no data of the run: raises UserError for a set of sequences or another size.
    """
    if built.has_sequences:
        raise UserError(f"{built.folder} is a set of sequences; --set takes a set of corrupted images")
    if built.made_with["size"] != image_size:
        raise UserError(f"{built.folder} has images of {built.made_with['size']} pixels, this run of {image_size}; "
                        f"give --image-size {built.made_with['size']}, or another set")


def check_set(built: BuiltSet, protocol: Protocol, pool: pd.DataFrame, image_size: int) -> list[int]:
    """The rows of a built set that hold the images of the pool `test`, in its order. Raises UserError where the set
    has other images, classes or another size."""
    check_kind_and_size(built, image_size)
    if built.classes != protocol.division.classes:
        raise UserError(f"{built.folder} has other classes ({', '.join(built.classes)}) than the data set of this run; "
                        f"rebuild it from this data set")
    row_of_id = {name: row for row, name in enumerate(built.frame["id"])}
    missing = [name for name in pool["id"] if name not in row_of_id]
    if missing:
        raise UserError(f"{built.folder} lacks {len(missing)} of {len(pool)} test images, for example {missing[0]}; it "
                        f"was built from other data")
    rows = [row_of_id[name] for name in pool["id"]]
    if built.frame["expression"].to_numpy()[rows].tolist() != pool["expression"].tolist():
        raise UserError(f"{built.folder} has other labels than the data set of this run; rebuild it from this data set")
    return rows


def cell_scores(values: np.ndarray, pool: pd.DataFrame, classes: int, features: int, fitted: FittedBaselines,
                views: int) -> np.ndarray:
    """float64 (N, len(CELL_COLUMNS)) from what `Together` gives for the closed model, the detector of half a and that
    of half b. classes: C. features: D. views: 2 with mirror images."""
    model = divided(values[:, :classes + features], classes)  # of the first view
    predicted = model.logits.argmax(1)
    by_view = values.reshape(len(values), views, -1)[:, :, classes + features:]
    by_half = np.array_split(by_view, 2, axis=2)
    first, second = (detector_scores(part.reshape(len(values), -1), predicted, classes) for part in by_half)
    trained = np.where(pool["half"] == HALVES[0], second, first)
    return np.stack([trained, *fitted.scores(model).values(), predicted.astype(np.float64)], 1)
