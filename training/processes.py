"""What the processes of one training do together: one process trains on each device, and all run the same script.

With a single process nothing here communicates or waits.
"""
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from support.errors import UserError, spell_os_error


@dataclass(frozen=True)
class Processes:
    """The processes that train one run; each of them has one such object. The first one writes files and prints."""

    fabric: Any  # lightning_fabric.Fabric

    @property
    def is_first(self) -> bool:
        return self.fabric.global_rank == 0

    @property
    def count(self) -> int:
        return self.fabric.world_size

    def print_once(self, text: str) -> None:
        """Print a line on the first process."""
        if self.is_first:
            print(text, flush=True)

    def run_on_first(self, action: Callable[[], Any]) -> Any:
        """Call `action` on the first process. Returns its result there and None on the others. If it raises UserError
        or OSError, every process raises UserError with its message."""
        problem, result = None, None
        if self.is_first:
            try:
                result = action()
            except UserError as error:
                problem = str(error)
            except OSError as error:
                problem = spell_os_error(error)
        problem = self.fabric.broadcast(problem)
        if problem:
            raise UserError(problem)
        return result

    def largest(self, number: int) -> int:
        """The largest of the numbers that the processes call this with."""
        if self.count == 1:
            return number
        value = torch.tensor(number, device=self.fabric.device)
        torch.distributed.all_reduce(value, torch.distributed.ReduceOp.MAX)
        return int(value)

    def merged_labels(self, labels: torch.Tensor, next_labels: torch.Tensor) -> torch.Tensor:
        """The next labels, int64 (N,), with the changes that any process has made. Each image is in the batches of one
        process, so no two of them change the same label. labels: int64 (N,), those of the current epoch."""
        if self.count == 1:
            return next_labels
        changed = torch.where(next_labels == labels, -1, next_labels)
        torch.distributed.all_reduce(changed, torch.distributed.ReduceOp.MAX)
        return torch.where(changed < 0, labels, changed)

    def use_first_buffers(self, network: torch.nn.Module) -> None:
        """Give every process the buffers of the first one: each has BatchNorm statistics of its own images."""
        if self.count > 1:
            for buffer in network.buffers():
                torch.distributed.broadcast(buffer, 0)
