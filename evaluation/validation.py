"""The logits of a run for the validation images of its own data set, and the temperature that fits them.

Sets of perturbation sequences are scored twice, with the logits as they are and divided by one temperature
(sequence_scores.py), so that models can be compared that differ in how sure they are. The temperature is fitted on the
validation split that the run was trained with, never on test images: the same images, crops and size as in training.

The folder predictions/ of the run holds, beside the predictions of the sets:

  validation.npy          float32 (M, K), logits of M images, classes in the order of the network's outputs
  validation_labels.npy   int64 (M,), the labels, as indices of the run's classes
  validation.json         what they are of: hash of the weights, precision, image size and classes of the run, and the
                          digests of both arrays

or, with --precision bf16, validation.bf16.npy and so on. While these fit the run, the data set is not needed again.
A run folder may come from anybody. Of its args.json, this file uses the name of the data set, the folder of the data
set, the options of its parser and the digest of the data. Options that are paths, or that would write files, are
refused.
"""
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import metrics
from compute.batches import Images
from compute.predict import predict
from datasets import DATASETS, check_read_only, default_root, load_splits, parse_options
from datasets.split import Split, expression_name, fingerprint, printable
from evaluation.inference import InferenceOptions, prepare_network
from evaluation.predictions import digest, read_array, write_array
from evaluation.sequence_scores import Temperature
from evaluation.sources import LoadedModel
from evaluation.trained_run import TrainedRun
from support import run_folder
from support.errors import DamagedFile, UserError, first_line
from support.files import os_errors_as_user_errors, read_json, write_text

MOST_IMAGES = 10**7  # of a validation split; a file that claims more is not read
NO_RUN = Temperature(None, "the model is no run, so that its validation images are not known")

# Why there is no temperature, for the notes of scores.csv; what is printed says more.
NOT_READ = "the validation split of the run's data set cannot be read"
OTHER_DATA = "the data set is not the one that the run was trained with"
NOT_FINITE = "the logits of the validation images are not finite"


@dataclass(frozen=True)
class OneProcess:
    """Stands for Fabric in `compute.predict`, which divides the images among all processes: here only process 0 calls
    it, so that it has to take all of them."""

    device: torch.device
    global_rank: int = 0
    world_size: int = 1


class NoValidation(Exception):
    """There are no validation logits. Its text is the reason for the notes of scores.csv."""


def temperature_of_run(run: TrainedRun, model: LoadedModel, network: torch.nn.Module, fabric: Any,
                       options: InferenceOptions) -> Temperature:
    """The temperature of a run. Process 0 reads the stored logits, or computes and stores them, and prints why there is
    no temperature; all processes call this, and all return the same.

    network: the model's module, set up by Fabric. Raises UserError in all processes where files cannot be written:
    without the broadcast, the others would wait for process 0 until their connection times out."""
    prepare_network(fabric, network, run.image_size)
    result: Temperature | UserError | None = None
    if fabric.global_rank == 0:
        try:
            result = fitted_temperature(run, model, network, fabric.device, options)
        except UserError as error:
            result = error
    fabric.barrier()
    result = fabric.broadcast(result)
    if isinstance(result, UserError):
        raise result
    assert result is not None
    return result


def fitted_temperature(run: TrainedRun, model: LoadedModel, network: torch.nn.Module, device: torch.device,
                       options: InferenceOptions) -> Temperature:
    """As `temperature_of_run`, in one process."""
    wanted = {"weights": model.weights_sha256, "precision": run_folder.PRECISIONS[options.precision],
              "image_size": run.image_size, "classes": list(run.classes)}
    files = ValidationFiles(run.folder / run_folder.PREDICTIONS_FOLDER, options.precision)
    try:
        stored = files.read(wanted)
        if stored is None:
            stored = logits_and_labels(run, network, device, options)
            files.write(wanted, *stored)
        return Temperature(metrics.fit_temperature(*stored))
    except (NoValidation, metrics.NoTemperature) as error:
        return Temperature(None, str(error))


def logits_and_labels(run: TrainedRun, network: torch.nn.Module, device: torch.device,
                      options: InferenceOptions) -> tuple[np.ndarray, np.ndarray]:
    """The logits of the validation images, float32 (M, K), and their labels, int64 (M,). Raises NoValidation, after the
    cause was printed."""
    try:
        root, split = validation_split(run)
        images = Images(root, split.frame, run.image_size)
        logits = predict(OneProcess(device), network, images, options.batch_size, options.workers)
    except (UserError, OSError, ValueError) as error:  # a ValueError comes from options that no command wrote
        print(f"{run.folder}: {NOT_READ} ({printable(first_line(error))}); so there are no scores after temperature "
              f"scaling")
        raise NoValidation(NOT_READ) from None
    if not np.isfinite(logits).all():
        raise NoValidation(NOT_FINITE)
    return logits, split.frame["expression"].to_numpy(np.int64)


def validation_split(run: TrainedRun) -> tuple[Path, Split]:
    """The folder of a run's data set, and its validation split. Raises NoValidation where its ids, labels or classes
    are not those of the training, and UserError, OSError or ValueError where it cannot be read."""
    settings = run.settings
    if run.dataset not in DATASETS:
        raise UserError(f"unknown data set {run.dataset[:40]!r}")
    root = Path(settings["root"]) if isinstance(settings.get("root"), str) else default_root(run.dataset)
    if not root.is_dir():
        raise UserError(f"{root} is not there")
    pairs = settings.get("data")
    pairs = pairs if isinstance(pairs, list) else []
    options = parse_options([pair for pair in pairs if isinstance(pair, str)])
    for split in ("train", "val"):
        check_read_only(run.dataset, root, split, options)
    train, val = load_splits(run.dataset, root, ("train", "val"), **options)
    # Runs of the first release of this project do not record the data.
    same_data = settings.get("data_sha256") in (None, fingerprint(train.frame, val.frame))
    if not same_data or list(map(expression_name, val.classes)) != list(map(expression_name, run.classes)):
        print(f"{run.folder}: {printable(str(root))}: {OTHER_DATA}; so there are no scores after temperature scaling")
        raise NoValidation(OTHER_DATA)
    return root, val


@dataclass(frozen=True)
class ValidationFiles:
    """The three files of a precision."""

    folder: Path
    """predictions/ of the run"""
    precision: str

    def path(self, name: str) -> Path:
        """The path of validation.npy, validation_labels.npy or validation.json."""
        stem, suffix = name.split(".")
        return self.folder / (name if self.precision == "32" else f"{stem}.{self.precision}.{suffix}")

    def read(self, wanted: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray] | None:
        """The stored logits and labels; None where there are none of this run, with its present weights. Damaged ones
        are computed again, with a line that says so. wanted: the entries that validation.json has to have."""
        try:
            info = read_json(self.path("validation.json"))
            if any(name not in info or info[name] != value for name, value in wanted.items()):
                return None
            count = info.get("images")
            if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= MOST_IMAGES:
                raise DamagedFile(f"{self.path('validation.json')} is damaged (`images` makes no sense)")
            logits = read_array(self.path("validation.npy"), (count, len(wanted["classes"])))
            labels = read_array(self.path("validation_labels.npy"), (count,), np.int64)
            if [digest(logits), digest(labels)] != info.get("digests"):
                raise DamagedFile(f"{self.path('validation.npy')} is damaged (its values are not those that were "
                                  f"written)")
            if not ((labels >= 0) & (labels < logits.shape[1])).all():
                raise DamagedFile(f"{self.path('validation_labels.npy')} is damaged (it holds labels of no class)")
            return logits, labels
        except (FileNotFoundError, NotADirectoryError):
            return None
        except DamagedFile as error:
            print(f"{error}: made again")
            return None

    def write(self, wanted: Mapping[str, Any], logits: np.ndarray, labels: np.ndarray) -> None:
        """Store logits and labels. validation.json comes last: without it, or where it does not fit them, the arrays
        are not used. Raises UserError where a file cannot be written."""
        info = dict(wanted) | {"images": len(labels), "digests": [digest(logits), digest(labels)]}
        path = self.path("validation.json")
        with os_errors_as_user_errors(path):
            path.unlink(missing_ok=True)
            write_array(self.path("validation.npy"), logits)
            write_array(self.path("validation_labels.npy"), labels)
            write_text(path, json.dumps(info))
