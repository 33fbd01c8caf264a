"""What trained networks say about images: the closed model on all splits, detectors on pools, both on a built set.

Images are not augmented, and everything is computed in float32, whatever the precision of the training, so that scores
do not depend on chance. What is stored already is read instead.
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
from datasets import default_root, parse_options
from datasets.kept_splits import load_kept_splits
from datasets.open_classes import HALVES, ClosedAndOpen
from datasets.split import Split
from models import build_model, checkpoints
from models.detector import LogitsAndFeatures
from open_set import ClosedModel, FittedBaselines, cross_entropies
from support import run_folder
from support.errors import UserError
from support.files import read_json
from training.image_caches import attach_caches
from training.open_set import files
from training.options import MachineOptions
from training.processes import Processes


@dataclass(frozen=True)
class OpenSetData:
    """The data of an open-set run."""

    splits: dict[str, Split]
    """train, val and test with all classes"""
    images: dict[str, Images]
    """all images of each split"""
    division: ClosedAndOpen

    @property
    def num_closed(self) -> int:
        """C, the number of closed classes."""
        return len(self.division.closed)

    def closed_rows(self, split: str) -> np.ndarray:
        """int64: the rows of the closed images of a split."""
        return self.division.closed_rows(self.splits[split])

    def images_of_pool(self, pool: pd.DataFrame) -> Images:
        """The images of a pool, in its order. pool: as `make_pool` gives it."""
        number_of = {name: number for number, name in enumerate(self.images)}
        return Images.of_rows(list(self.images.values()), np.stack([pool["split"].map(number_of), pool["row"]], 1))


def load_open_set_data(options: Any, open_classes: str, cache: Path | None = None) -> OpenSetData:
    """Read all splits. Unlike every other training, open-set training opens the test split: detectors are trained on
    pseudo labels of its images.

    options: `TrainingOptions`. open_classes: as `open_name` gives them. cache: the folder in which the splits of a
    large data set are kept, so that the next start need not parse it; None: nowhere."""
    root = options.root or default_root(options.dataset)
    names = ("train", "val", "test")
    loaded = load_kept_splits(cache, options.dataset, root, names, **parse_options(options.data))
    splits = dict(zip(names, loaded, strict=True))
    for split in names[1:]:
        if splits[split].classes != splits["train"].classes:
            raise UserError(f"{root}: its splits have different classes (train {', '.join(splits['train'].classes)}; "
                            f"{split} {', '.join(splits[split].classes)}); correct the label files")
    images = {name: Images(root, split.frame, options.image_size) for name, split in splits.items()}
    return OpenSetData(splits, images, ClosedAndOpen.of(open_classes, splits["train"].classes))


@dataclass(frozen=True)
class Inference:
    """How images are predicted."""

    fabric: Any
    batch_size: int
    machine: MachineOptions
    runs: Path
    """the folder of all runs, in which the caches of decoded images lie"""

    def predict(self, network: torch.nn.Module, images: Any, rows: np.ndarray | None = None) -> np.ndarray:
        """What a network gives for all images, float32 (N, ...). rows: int64 (N,), the images to predict, ascending;
        None: all."""
        with exact_float32():
            return predict(self.fabric, network.to(self.fabric.device), images, self.batch_size, self.machine.workers,
                           None if rows is None else rows.tolist())

    def keep_decoded(self, images: Images, to_device: bool = False) -> None:
        """Give images a cache, if they have none and the options allow one."""
        if images.cached is None:
            attach_caches((images,), self.machine, self.runs, Processes(self.fabric), to_device)


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


def closed_outputs(folder: Path, data: OpenSetData, inference: Inference) -> dict[str, ClosedModel]:
    """Logits and features of the closed model for every image of every split, {split: `ClosedModel`}. What is missing
    is computed and stored. folder: of the run."""
    outputs: dict[str, ClosedModel] = {}
    network = None
    for name, split in data.splits.items():
        model = files.read_closed_model(folder, name, split.frame, data.num_closed)
        if model is None:
            network = network or LogitsAndFeatures(closed_network(folder))
            inference.keep_decoded(data.images[name])
            model = split_output(inference.predict(network, data.images[name]), data.num_closed)
            files.write_closed_model(folder, name, split.frame, model)
        outputs[name] = model
    return outputs


def split_output(values: np.ndarray, classes: int) -> ClosedModel:
    """The output of `LogitsAndFeatures`, (N, C + D), as logits and features. Raises UserError where it is not
    finite."""
    if not np.isfinite(values).all():
        raise UserError("the outputs of the closed model are not finite: its training has diverged. Try a lower --lr, "
                        "with --fresh.")
    return ClosedModel(np.ascontiguousarray(values[:, :classes]), np.ascontiguousarray(values[:, classes:]))


def rows_of_pool(pool: pd.DataFrame, outputs: Mapping[str, ClosedModel]) -> ClosedModel:
    """Logits and features of the images of a pool, in its order."""
    logits = np.stack([outputs[split].logits[row] for split, row in zip(pool["split"], pool["row"], strict=True)])
    features = np.stack([outputs[split].features[row] for split, row in zip(pool["split"], pool["row"], strict=True)])
    return ClosedModel(logits, features)


def fitted_baselines(data: OpenSetData, outputs: Mapping[str, ClosedModel], neighbours: int) -> FittedBaselines:
    """The baselines, fitted to the closed training images."""
    rows = data.closed_rows("train")
    labels = data.splits["train"].frame["expression"].to_numpy()[rows]
    return FittedBaselines(outputs["train"].features[rows], labels, neighbours)


# ---- detectors

def detector_scores(logits: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Open scores float64 (N,): the mean cross-entropy over all networks, snapshots and views. logits: (N, networks x
    C). labels: int (N,), the pseudo labels, or the classes that the closed model predicts. Raises UserError where
    logits are not finite."""
    if not np.isfinite(logits).all():
        raise UserError("the outputs of a detector are not finite: its training has diverged. Try a lower "
                        "--detector-lr, with --fresh.")
    by_network = logits.reshape(len(logits), -1, classes)
    losses = [cross_entropies(by_network[:, number], labels) for number in range(by_network.shape[1])]
    return np.mean(losses, axis=0)


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


def check_set(built: BuiltSet, data: OpenSetData, pool: pd.DataFrame, image_size: int) -> list[int]:
    """The rows of a built set that hold the images of the pool `test`, in its order. Raises UserError where the set
    has other images, classes or another size."""
    check_kind_and_size(built, image_size)
    if built.classes != data.division.classes:
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
    """What is stored of a cell, float64 (N, len(CELL_COLUMNS)).

    values: float32 (N, V * (C + D + 2 * S * C)), what `SideBySide` gives. For each of V views, one after the other, it
    holds C logits and D features of the closed model, then S * C logits of the detector that was trained on half a,
    then as many of that of half b; S is the number of a detector's snapshots times that of its networks.
    pool: with the column `half`. classes: C. features: D. views: V, 2 with mirror images.
    """
    count, of_closed_model = len(values), slice(0, classes + features)
    by_view = values.reshape(count, views, -1)
    model = split_output(by_view[:, 0, of_closed_model], classes)  # the class is that of the image as it is
    predicted = model.logits.argmax(1)
    logits_of_a, logits_of_b = np.array_split(by_view[:, :, of_closed_model.stop:], 2, axis=2)
    by_a = detector_scores(logits_of_a.reshape(count, -1), predicted, classes)
    by_b = detector_scores(logits_of_b.reshape(count, -1), predicted, classes)
    trained = np.where(pool["half"] == HALVES[0], by_b, by_a)
    return np.stack([trained, *fitted.scores(model).values(), predicted.astype(np.float64)], 1)
