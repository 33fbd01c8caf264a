"""Requests to stop a sweep: Ctrl-C, and the signals TERM and HUP."""
import signal
from types import FrameType
from typing import Any

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopRequests:
    """Inside `with StopRequests() as requests`, Ctrl-C and the other requests to stop do not end this process:
    `requests.count` counts them. SIGHUP stays ignored where it was (nohup: go on without the terminal)."""

    def __init__(self) -> None:
        self.count = 0
        self.earlier_handlers: dict[int, Any] = {}

    def __enter__(self) -> "StopRequests":
        for number in STOP_SIGNALS:
            self.earlier_handlers[number] = signal.getsignal(number)
            if number != signal.SIGHUP or self.earlier_handlers[number] != signal.SIG_IGN:
                signal.signal(number, self.add)
        return self

    def add(self, number: int, frame: FrameType | None) -> None:
        """Count a request. Python calls this when one of the signals comes; the arguments are not used."""
        self.count += 1

    def __exit__(self, *exception: object) -> None:
        for number, handler in self.earlier_handlers.items():
            signal.signal(number, handler)
