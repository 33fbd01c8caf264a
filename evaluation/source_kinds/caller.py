"""caller:READ,WRITE, a model in the process that has called `benchmark` (benchmark.py), which has started this process.

The two numbers are those of the pipes. The model gets uint8 images (N, 3, S, S), RGB, of the set's size, or what the
keyword `input` describes. It is identified by the hash of its weights, where they are known, and by its outputs for a
few pictures.
"""
import contextlib
import os
from typing import Any

import numpy as np

from evaluation import benchmark
from evaluation.model_options import ModelOptions
from evaluation.network_input import ArrayNetwork
from evaluation.source_kinds.factory import BYTES
from evaluation.source_kinds.source import Source
from support.errors import UserError

ENDED = "the process that called benchmark() has ended"


def load(options: ModelOptions) -> Source:
    """The model of the caller. Raises UserError where the pipes lead nowhere."""
    numbers = str(options.model).removeprefix("caller:").split(",")
    try:
        read, write = map(int, numbers)
        source, target = os.fdopen(read, "rb"), os.fdopen(write, "wb")
    except (ValueError, OSError):
        raise UserError("--model caller:... is what benchmark() gives to evaluate.py; it is not typed") from None
    benchmark.end_with_parent(os.getppid())
    message = benchmark.receive(source)
    if message is None or message[0]["kind"] != "model":
        raise UserError(ENDED)
    facts = message[0]

    def outputs(images: np.ndarray) -> np.ndarray:
        try:
            return benchmark.ask(source, target, images)
        except EOFError:
            raise UserError(ENDED) from None

    def deliver(rows: list[dict[str, Any]]) -> None:
        try:
            benchmark.send(target, {"kind": "scores", "rows": rows})
        except BrokenPipeError:
            raise UserError(ENDED) from None

    def close() -> None:
        source.close()
        with contextlib.suppress(BrokenPipeError):
            target.close()

    return Source(ArrayNetwork(outputs), str(facts.get("sha256") or ""), usual={} if options.input else BYTES,
                  parameters=facts.get("parameters"), close=close, deliver=deliver)
