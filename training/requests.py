"""Requests to the training loop: to write a checkpoint every five minutes, and to stop after Ctrl-C or SIGTERM.

The loop asks for the current request at the end of every step.
"""
import signal
import threading
import time
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from training.processes import Processes

SAVE_EVERY = 300  # seconds between checkpoints inside an epoch
AGREE_EVERY = 10  # steps between agreements of several processes
NO_SIGNAL = 0  # signals have the numbers from 1 on


class Request(Enum):
    """What the loop has to do at the end of a step."""

    NONE = "go on"
    SAVE = "write last.pt, and go on"
    STOP = "write last.pt, and stop as `Requests.stop_signal` demands"


@dataclass
class Requests:
    """The requests to the loop of one process, as a context manager.

    From the call of `watch_signals` to the end of its block, Ctrl-C and SIGTERM only set `stop_signal`. At the end of
    the block the earlier handlers of these signals are set again.
    """

    processes: Processes
    stop_signal: int = NO_SIGNAL
    """number of the signal to stop for"""
    saved_at: float = field(default_factory=time.monotonic)
    """when the last checkpoint was written (seconds of `time.monotonic`)"""
    handlers: dict[int, Any] = field(default_factory=dict)
    """signal -> its handler before `watch_signals`"""

    def watch_signals(self) -> None:
        """From now on Ctrl-C and SIGTERM set `stop_signal`. Does nothing outside the main thread, where Python does not
        allow it."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self.handlers[number] = signal.signal(number, self.receive)

    def receive(self, number: int, frame: Any) -> None:
        """The handler of signals."""
        self.stop_signal = number

    def common_request(self, steps: int) -> Request:
        """The request to all processes, the same on each of them at the same step. A signal to any of them stops all,
        and is then the `stop_signal` of all.

        steps: finished steps of all epochs. Since processes wait for each other to agree, they do it only every
        `AGREE_EVERY` steps; in between there is no request.
        """
        if self.processes.count > 1 and steps % AGREE_EVERY:
            return Request.NONE
        stop_signal = self.processes.largest(self.stop_signal)
        if stop_signal != NO_SIGNAL:
            self.stop_signal = stop_signal
            return Request.STOP
        is_due = time.monotonic() - self.saved_at > SAVE_EVERY
        if self.processes.largest(int(is_due)):
            return Request.SAVE
        return Request.NONE

    def __enter__(self) -> "Requests":
        return self

    def __exit__(self, *problem: object) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
        self.handlers.clear()
