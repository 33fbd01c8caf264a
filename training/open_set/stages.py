"""The trainings of open-set FER: of the closed model, and of detectors. Both are a `training.run.Training`.

The closed model is trained on closed images only, and its last epoch counts: no image of any kind chooses it. A
detector is trained on the images of a pool (or a half of it) with pseudo labels. It consists of one or two networks
(`models.detector.DetectorNetworks`), which are trained one after the other in every epoch, each on the images that the
other one has chosen. At the end of each cycle of learning rates the networks are stored: a snapshot.

A detector's folder, `<run>/detectors/<pool>/<subset>/`, holds args.json, environment.json, metrics.csv, timing.csv and
last.pt as a run's folder does, and besides what training/open_set/files.py lists.
"""
import dataclasses
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compute.batches import Images
from compute.devices import connect, fast_arithmetic, precision_name, seed_torch
from compute.predict import predict
from datasets.open_classes import HALVES, ClosedAndOpen
from datasets.split import Split
from models import checkpoints, pretrained
from models.detector import DetectorNetworks
from open_set import cross_entropies
from support import run_folder
from support.errors import DamagedFile
from support.files import write_rows
from training import folder as training_folder
from training.data import TrainingData, load_data, plan_batches
from training.folder import OpenRun
from training.open_set import files
from training.image_caches import folder_to_keep_in
from training.log import divergence
from training.processes import Processes
from training.requests import Requests
from training.run import Training
from training.state import State


class ClosedTraining(Training):
    """The training of the closed model: without the open classes in training, validation and class weights, and with
    the weights of the last epoch."""

    def load_data(self) -> TrainingData:
        """The closed images of both splits, their classes numbered anew."""
        division: list[ClosedAndOpen] = []

        def restrict(split: Split) -> tuple[Split, np.ndarray]:
            division[:] = [ClosedAndOpen.of(self.settings["open"], split.classes)]
            return division[0].closed_part(split), division[0].closed_rows(split)

        cache = folder_to_keep_in(self.args.machine, self.options.runs)
        data = load_data(self.options, self.processes, restrict, cache)
        data.facts |= {"all_classes": list(division[0].classes), "open_classes": list(division[0].open)}
        return data

    def is_best(self, rows: list[dict[str, Any]]) -> bool:
        """The last epoch counts: to choose one by validation images would be a choice by closed images only, and no
        epoch may be chosen by open ones."""
        return True

    def finish(self) -> None:
        if not self.options.keep_last:
            (self.folder / run_folder.LAST_CHECKPOINT).unlink(missing_ok=True)
        print(f"{self.folder}: the closed model is trained (last epoch)", flush=True)


@dataclass
class DetectorTraining(Training):
    """The training of a detector. Indices of images are those of its pool."""

    rows: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    """int64 (n,): the images of the pool that are trained on, ascending"""
    weights: str = "none"
    """weights to start from, as `pretrained.load` takes them"""
    cycles: int = 1
    """number of cycles of the learning rate"""
    plans: list[list[int]] = field(default_factory=list)
    """the batches of this epoch: those of the first network, then those of the second"""
    numbers: list[int] = field(default_factory=list)
    """the network of each batch"""

    @property
    def networks(self) -> DetectorNetworks:
        """The networks without Fabric's wrapper."""
        assert isinstance(self.network, DetectorNetworks)
        return self.network

    @property
    def pseudo_labels(self) -> np.ndarray:
        """int64 (n,): of the images that are trained on."""
        return self.labels.cpu().numpy()[self.rows]

    def load_weights(self, model: Any) -> dict[str, Any]:
        """With weights from a file or of ImageNet all networks start from the same backbone, and only their
        classifiers differ. With `none` everything differs."""
        reports = [pretrained.load(network, self.weights) for network in model.networks]
        return reports[0]

    def set_learning_rate(self, rate: float) -> None:
        """Set the learning rate of both networks for this epoch."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def losses(self) -> np.ndarray:
        """float64 (M, n): the cross-entropy of every image that is trained on, under each network after the
        previous epoch (0 in the first one)."""
        return self.networks.losses.double().cpu().numpy()[:, self.rows]

    def choose(self, kept: np.ndarray) -> None:
        """Set the images of this epoch. kept: bool (M, n), for each network the images that it is trained on."""
        epoch, options = self.state.epoch, self.options
        self.plans, self.numbers = [], []
        for number, keep in enumerate(kept):
            rows = self.rows[keep]
            plan = plan_batches(len(rows), options.batch_size, f"{options.seed} network {number}", epoch, 0, 1)
            self.plans += [rows[batch].tolist() for batch in plan]
            self.numbers += [number] * len(plan)

    def plan(self, epoch: int) -> list[list[int]]:
        return self.plans

    def batches_of_networks(self, epoch: int) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
        """(number of a network, images uint8 (B, 3, S, S), indices int64 (B,)) of this epoch, from the current step
        on."""
        numbers = self.numbers[self.state.step:]
        for number, (image, index) in zip(numbers, self.batches(epoch), strict=True):
            yield number, image, index

    def measure(self, networks: torch.nn.Module) -> None:
        """Compute the losses of the images on clean views, for the choice of the next epoch. At the end of a cycle,
        write the snapshot."""
        self.check_terms()
        rows, machine = self.rows, self.args.machine
        logits = predict(self.fabric, networks, self.data.images, self.options.batch_size, machine.workers,
                         rows.tolist())
        if not np.isfinite(logits).all():
            raise divergence(self.folder, f"the outputs of a network after epoch {self.state.epoch + 1} are not finite")
        labels = self.pseudo_labels
        losses = np.stack([cross_entropies(logits[:, number], labels) for number in range(logits.shape[1])])
        columns = torch.from_numpy(rows).to(self.networks.losses.device)
        self.networks.losses[:, columns] = torch.from_numpy(losses).float().to(columns.device)
        length = self.options.epochs // self.cycles
        if (self.state.epoch + 1) % length == 0:
            checkpoints.write(files.snapshot_file(self.folder, (self.state.epoch + 1) // length),
                              {"networks": self.networks.networks.state_dict()})

    def end_detector_epoch(self, kept: np.ndarray) -> None:
        """Write the files of the finished epoch, print it, and go to the next one. kept: as for `choose`."""
        self.exchange_state()
        means = self.state.means()
        row: dict[str, Any] = {"epoch": self.state.epoch, **{f"train_{name}": value for name, value in means.items()}}
        row |= {f"kept_{number}": int(keep.sum()) for number, keep in enumerate(kept)}
        self.state.begin_next_epoch(row, self.state.best)
        seconds = time.monotonic() - self.epoch_began
        self.save()
        training_folder.record_time(self.folder, row["epoch"], seconds)
        write_rows(self.folder / run_folder.METRICS_FILE, self.state.history)
        terms = "  ".join(f"{name} {value:.4f}" for name, value in means.items())
        counts = " and ".join(str(int(keep.sum())) for keep in kept)
        print(f"epoch {self.state.epoch}/{self.options.epochs}  {terms}  trained on {counts} images  {seconds:.0f} s",
              flush=True)

    def is_best(self, rows: list[dict[str, Any]]) -> bool:
        """A detector has snapshots, and no best.pt."""
        return False

    def finish(self) -> None:
        if not self.options.keep_last:
            (self.folder / run_folder.LAST_CHECKPOINT).unlink(missing_ok=True)


def load_snapshot(file: Path, num_classes: int, image_size: int, count: int,
                  backbone: str = "resnet18") -> DetectorNetworks:
    """The networks of a snapshot, in eval mode. Arguments as for `DetectorNetworks`. Raises DamagedFile where it is not
    one of such networks."""
    networks = DetectorNetworks(num_classes, image_size, count, 0, backbone)
    state = checkpoints.read_fields(file, {"networks": checkpoints.Weights})["networks"]
    try:
        networks.networks.load_state_dict(state)
    except RuntimeError:
        raise DamagedFile(f"{file} holds other networks; remove {file.parent}: it is trained again") from None
    return networks.eval()


@contextmanager
def start_detector(args: Any, folder: Path, images: Images, labels: np.ndarray, rows: np.ndarray,
                   classes: tuple[str, ...]) -> Iterator[DetectorTraining]:
    """The training of a detector, to begin or to go on. At the end of the block its last.pt is removed, if all epochs
    are trained (unless --keep-last).

    args: the script's `Args`. folder: of the detector. images: all N of the pool.
    labels: int64 (N,), pseudo labels. rows: int (n,), the images of the pool that are trained on. classes: names of the
    closed classes.
    """
    options = args.detector
    own = dataclasses.replace(
        args.options, epochs=options.detector_epochs, batch_size=options.detector_batch_size, augment="none",
        fresh=False, track=False, lr=options.detector_lr, weight_decay=options.detector_weight_decay)
    with ExitStack() as resources:
        processes = Processes(connect(precision_name(args.machine.precision)))
        prepare_folder(folder, options)
        settings = {"script": "openset", "part": "/".join(folder.parts[-2:]),
                    "precision": precision_name(args.machine.precision), "images": len(rows)}
        training = DetectorTraining(
            dataclasses.replace(args, options=own), processes,
            OpenRun(folder, held=None, earlier=None, finished=False), settings, Requests(processes),
            rows=np.asarray(rows), weights=options.detector_weights or args.options.weights, cycles=options.cycles)
        resources.callback(training.log.close)
        resources.callback(training.stop_loading)
        training.data = TrainingData(
            classes=classes, images=images, labels=labels, class_weights=None, fused=None, val_images=images,
            val_labels=labels, facts={})
        on_device = torch.from_numpy(labels).to(processes.fabric.device)
        training.state = State(labels=on_device, next_labels=on_device.clone())
        # At most: a network that leaves images out has fewer steps.
        training.steps = options.networks * (len(rows) // own.batch_size + 1)
        seed_torch("detector", folder.parts[-2], folder.parts[-1], own.seed)
        resources.enter_context(fast_arithmetic(processes.fabric.device))
        with training.requests:
            yield training
        if training.state.epoch >= own.epochs:
            training.finish()


def prepare_folder(folder: Path, options: Any) -> None:
    """Empty the folder of a detector that cannot go on: last.pt is missing, or all epochs are trained but a snapshot is
    missing. It starts again. Its scores are removed, too, and those of built sets for its pool: the new detector may
    differ in the last bits (on a GPU, or with another number of threads), and all scores have to be of one detector."""
    is_complete = run_folder.trained_epochs(folder) >= options.detector_epochs
    if (folder / run_folder.LAST_CHECKPOINT).is_file() and not is_complete:
        return
    for pattern in (*run_folder.WRITTEN, files.SNAPSHOTS, files.POOL_SCORES, files.VALIDATION_SCORES):
        for path in folder.glob(pattern):
            if path.is_file():
                path.unlink()
    if folder.name in HALVES:  # cells are scored by the detectors of halves
        files.remove_cells(folder.parents[2], folder.parent.name)
