"""Where a model comes from: a network with trained weights, ready to be scored.

Given a run that trained_run.py has read, `load_model` builds the network and loads the weights of best.pt. The result,
a `LoadedModel`, goes to scoring.py.
"""
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import models
from evaluation.trained_run import RESTORE_OR_TRAIN, TrainedRun, training_command
from models import checkpoints
from support import run_folder
from support.errors import DamagedFile, UserError, first_line


@dataclass(frozen=True)
class LoadedModel:
    """A model that can be scored."""

    name: str
    """what messages call it: the run's folder"""
    module: torch.nn.Module
    """takes images, uint8 (N, 3, S, S), RGB, and returns logits (N, K); its first layer normalises the images"""
    classes: list[str]
    """names of the classes, in the order of the module's outputs"""
    weights_sha256: str
    """sha256 of the file best.pt, as hexadecimal digits: predictions of other weights are not used"""


def load_model(run: TrainedRun) -> LoadedModel:
    """The network of a run with its best weights. Raises UserError where the weights are missing, and DamagedFile where
    they are damaged or belong to another network than args.json describes."""
    try:
        network = models.build_model(run.network)
    except UserError as error:
        raise DamagedFile(f"{run.settings_file}: {error}; {RESTORE_OR_TRAIN}") from None
    path = run.folder / run_folder.BEST_CHECKPOINT
    if not path.exists():
        raise UserError(missing_weights_message(run, path))
    try:
        state = checkpoints.read_fields(path, {"model": checkpoints.Weights})["model"]
    except DamagedFile as error:
        raise DamagedFile(f"{error}. Restore it, or train again with {training_command(run, fresh=True)}") from None
    with open(path, "rb") as file:
        weights_sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    load_weights(network, state, path)
    return LoadedModel(str(run.folder), network, run.classes, weights_sha256)


def missing_weights_message(run: TrainedRun, path: Path) -> str:
    """The message for a run without best.pt: it was removed, or the first epoch has not ended."""
    if run_folder.trained_epochs(run.folder):
        return f"{path} was removed. Restore it, or train again with {training_command(run, fresh=True)}"
    command = training_command(run, fresh=False)
    return f"{path} is not there, the training has not finished an epoch yet. Go on with {command}"


def load_weights(network: torch.nn.Module, state: Any, path: Path) -> None:
    """Load the tensors `state`, read from best.pt at `path`, into the network. Raises DamagedFile where names, shapes
    or types of the tensors are not exactly the network's."""
    expected = network.state_dict()
    stored = state if isinstance(state, dict) else {}
    names = [*expected, *(name for name in stored if name not in expected)]
    wrong = [name for name in names if not same_layout(stored.get(name), expected.get(name))]
    if wrong:
        raise DamagedFile(f"{path} does not hold the weights of {type(network).__name__} as args.json describes it: "
                          f"{len(wrong)} tensors are missing, unknown or of another shape, for example {wrong[0]}. "
                          f"Restore the two files of one run")
    network.load_state_dict(stored)


def same_layout(stored: Any, expected: Any) -> bool:
    """Whether both values are tensors of the same shape, type and memory layout."""
    if not isinstance(stored, torch.Tensor) or not isinstance(expected, torch.Tensor):
        return False
    return (stored.shape, stored.dtype, stored.layout) == (expected.shape, expected.dtype, expected.layout)


def check_image_size(model: LoadedModel, size: int) -> None:
    """Run the network on one black image of `size` pixels, before hours are spent. Raises UserError where the network
    does not take images of this size, and DamagedFile where its outputs are not one number for each class."""
    model.module.eval()
    try:
        with torch.no_grad():
            outputs = model.module(torch.zeros(1, 3, size, size, dtype=torch.uint8))
    except Exception as error:  # networks refuse a size in many ways
        raise UserError(f"{model.name}: its network cannot take images of {size} pixels ({first_line(error)})"
                        ) from None
    if not isinstance(outputs, torch.Tensor):
        outcome: Any = type(outputs).__name__
    else:
        outcome = tuple(outputs.shape)
    if outcome != (1, len(model.classes)):
        raise DamagedFile(f"{model.name}: its {run_folder.ARGS_FILE} is damaged: it names {len(model.classes)} "
                          f"classes, and the network gives {outcome} for one image; {RESTORE_OR_TRAIN}")
