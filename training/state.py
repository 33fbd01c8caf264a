"""What last.pt holds: the state of a training, from which it goes on after it was stopped or killed, and ends with the
same bytes as if it had never stopped (on GPUs: with --deterministic). The settings are in args.json, the weights of the
best epoch so far in best.pt.

`State` is what changes while the script's loop runs. `Checkpoint` adds network and optimizer: its fields
are exactly the entries of last.pt, under the same names and in the same order. The state of random generators is not
among them, because every step seeds torch from (seed, rank, epoch, step).
"""
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, get_type_hints

import torch

from models import checkpoints
from support.errors import DamagedFile, UserError, first_line

FRESH = "--fresh starts over"


@dataclass(kw_only=True)
class State:
    """How far a training has come."""

    epoch: int = 0
    """finished epochs, which is also the number of the current epoch, counted from 0"""
    step: int = 0
    """finished steps of the current epoch"""
    labels: torch.Tensor
    """int64 (N,): the labels trained on, addressed by the index of a training image (of a detector: of an image of its
    pool, whose labels are pseudo labels)"""
    next_labels: torch.Tensor
    """int64 (N,): the labels of the next epoch; an algorithm relabels by writing here"""
    sums: dict[str, torch.Tensor] = field(default_factory=dict)
    """term of the loss -> float64 (2,): its sum over the steps of this epoch, and the number of steps that had it. With
    several processes, last.pt holds the means of both over the processes"""
    history: list[dict[str, Any]] = field(default_factory=list)
    """one row of metrics.csv for each finished epoch"""
    best: float = -1.0
    """validation macro-F1 of the epoch that best.pt holds, as a fraction; -1 before the first epoch that counts"""

    def add_terms(self, terms: Mapping[str, torch.Tensor]) -> None:
        """Count a step and add its terms, float64 scalars by name, to the sums. A term may be absent from some
        steps."""
        for name, value in terms.items():
            self.sums[name] = self.sums.get(name, 0) + torch.stack([value, torch.ones_like(value)])
        self.step += 1

    def means(self) -> dict[str, float]:
        """The mean of every term over the steps of this epoch that had it."""
        return {name: float(total / count) for name, (total, count) in self.sums.items()}

    def row(self, means: Mapping[str, float], scores: Mapping[str, float]) -> dict[str, Any]:
        """The row of metrics.csv for this epoch. means: of the terms. scores: of the validation images."""
        row: dict[str, Any] = {"epoch": self.epoch}
        row.update({f"train_{name}": value for name, value in means.items()})
        row["relabelled"] = int((self.next_labels != self.labels).sum())
        row.update({f"val_{name}": value for name, value in scores.items()})
        return row

    def begin_next_epoch(self, row: dict[str, Any], best: float) -> None:
        """Go to the beginning of the next epoch. row: of this epoch. best: the best score, this epoch included."""
        self.history.append(row)
        self.best = best
        self.epoch += 1
        self.step = 0
        self.sums = {}
        self.labels = self.next_labels.clone()


@dataclass(kw_only=True)
class Checkpoint(State):
    """The entries of last.pt: the state, the network and the optimizer."""

    model: dict[str, torch.Tensor]
    """state_dict() of the network"""
    optimizer: dict[str, Any]
    """state_dict() of the optimizer"""


def save(path: Path, state: State, network: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Write last.pt, whole or not at all. Raises OSError with the name of the file."""
    progress = {entry.name: getattr(state, entry.name) for entry in fields(State)}
    checkpoint = Checkpoint(**progress, model=network.state_dict(), optimizer=optimizer.state_dict())
    checkpoints.write(path, {entry.name: getattr(checkpoint, entry.name) for entry in fields(Checkpoint)})


def restore(path: Path, begun: State, network: torch.nn.Module, optimizer: torch.optim.Optimizer, *, num_classes: int,
            epochs: int, steps: int, device: torch.device) -> State:
    """Read last.pt, load network and optimizer from it, and return its state, with tensors on `device`.

    begun: the state at the start of this training; the file's labels have to be of the same number of images.
    num_classes, epochs, steps: of this training; steps: in an epoch. Raises UserError where the file is damaged or of
    another training.
    """
    try:
        checkpoint = Checkpoint(**checkpoints.read_fields(path, get_type_hints(Checkpoint), device))
    except DamagedFile as error:
        raise UserError(f"{error}; {FRESH}") from None
    try:
        check_progress(checkpoint, epochs, steps)
        check_labels("labels", checkpoint.labels, len(begun.labels), num_classes)
        check_labels("next_labels", checkpoint.next_labels, len(begun.labels), num_classes)
        network.load_state_dict(checkpoint.model)
        optimizer.load_state_dict(checkpoint.optimizer)
    except Exception as error:  # what is damaged can fail in any way
        raise UserError(f"{path} is damaged ({first_line(error)}); {FRESH}") from None
    return State(**{entry.name: getattr(checkpoint, entry.name) for entry in fields(State)})


def save_best(path: Path, network: torch.nn.Module, epoch: int, scores: Mapping[str, float]) -> None:
    """Write best.pt, whole or not at all. epoch: its number, from 0. scores: of the validation images."""
    checkpoints.write_best(path, checkpoints.BestWeights(network.state_dict(), epoch, scores))


def restore_best(path: Path, state: State, network: torch.nn.Module) -> None:
    """Write best.pt from a last.pt that was written at the end of the best epoch. state, network: as `restore` has read
    them."""
    row = state.history[-1]
    scores = {name.removeprefix("val_"): value for name, value in row.items() if name.startswith("val_")}
    save_best(path, network, row["epoch"], scores)


def check_progress(state: State, epochs: int, steps: int) -> None:
    """Raises ValueError where epoch, step, history or best score cannot be those of a training of so many epochs, with
    so many steps each."""
    if not 0 <= state.epoch <= epochs:
        raise ValueError(f"epoch {state.epoch} of {epochs}")
    if not 0 <= state.step <= steps:
        raise ValueError(f"step {state.step} of {steps}")
    if len(state.history) != state.epoch or not all(isinstance(row, dict) for row in state.history):
        raise ValueError(f"its history is not one of {state.epoch} epochs")
    if not isinstance(state.best, float) or not math.isfinite(state.best):
        raise ValueError(f"best score {state.best}")
    # A detector has no validation scores, and so no best one.
    if state.best >= 0 and not all(isinstance(row.get("val_macro_f1"), float) for row in state.history):
        raise ValueError("an epoch in its history has no validation macro-F1")


def check_labels(name: str, labels: torch.Tensor, count: int, num_classes: int) -> None:
    """Raises ValueError where labels of a checkpoint are not int64 (count,), within 0..num_classes-1."""
    if labels.shape != (count,) or labels.dtype != torch.int64:
        raise ValueError(f"{name} are not those of {count} images")
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(f"{name} are not all within 0..{num_classes - 1}")
