"""The log of a training: the terms of its steps, the event file of TensorBoard, and Weights & Biases.

Terms stay on the device until they are checked, since reading them waits for the device.
"""
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from support import run_folder
from support.errors import UserError, first_line


@dataclass
class Log:
    """The log of one training."""

    pending: list[dict[str, torch.Tensor]] = field(default_factory=list)
    """the terms of the steps since the last check, one dict (term -> scalar tensor) for each step"""
    writer: Any = None
    """TensorBoard's SummaryWriter, on the first process only"""

    def open(self, folder: Path, purge_step: int) -> None:
        """Open the event file in a run's folder. purge_step: TensorBoard hides what a killed process
        has logged from this step on."""
        from torch.utils.tensorboard import SummaryWriter  # slow to import
        self.writer = SummaryWriter(folder, purge_step=purge_step)

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()

    def add_scalar(self, name: str, value: float, step: int) -> None:
        """Log a number where TensorBoard's file is open. step: counted over all epochs."""
        if self.writer is not None:
            self.writer.add_scalar(name, value, step)

    def check_pending(self, folder: Path, epoch: int, step: int, steps: int) -> None:
        """Log the terms of the steps since the last check. Raises UserError at the first that is not finite.

        folder: of the run. epoch: number of finished epochs. step: number of finished steps of the current epoch.
        steps: number of steps in an epoch.
        """
        for number, name, value in self.take_pending(step):
            if not math.isfinite(value):
                raise divergence(folder, f"the term {name!r} is {value} at epoch {epoch + 1}, step {number + 1}")
            self.add_scalar(f"step/{name}", value, epoch * steps + number)

    def take_pending(self, step: int) -> list[tuple[int, str, float]]:
        """(step, term, value) of everything pending, which is empty after that. step: finished steps of this epoch."""
        entries = []
        for number, terms in enumerate(self.pending, step - len(self.pending)):
            for name, value in terms.items():
                entries.append((number, name, value))
        self.pending = []
        if not entries:
            return []
        values = torch.stack([value for _, _, value in entries]).tolist()  # one transfer from the device for all
        return [(number, name, value) for (number, name, _), value in zip(entries, values, strict=True)]


def divergence(folder: Path, problem: str) -> UserError:
    """The error for a training in which a number is not finite. problem: which number, and at which step or epoch."""
    last = folder / run_folder.LAST_CHECKPOINT
    checkpoint = f"the last good checkpoint is {last}" if last.exists() else "no checkpoint was written yet"
    return UserError(f"{problem}; {checkpoint}. Try a lower --lr or --precision 32, with --fresh.")


def start_tracking(folder: Path, settings: dict[str, Any]) -> None:
    """Mirror what TensorBoard gets to Weights & Biases. Raises UserError where wandb is not installed, not set up, or
    cannot reach its server."""
    try:
        import wandb
        wandb.init(project="fer-c", name=str(folder), config=settings, dir=folder, sync_tensorboard=True, resume="auto")
    except Exception as error:  # not installed, not configured, out of reach
        raise UserError(f"--track needs wandb (pip install -r requirements-optional.txt), set up by `wandb login` or "
                        f"WANDB_MODE=offline: {first_line(error)}") from None
