"""What a kind of model gives to sources.py, and what the kinds share."""
import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from support.errors import UserError


@dataclass(frozen=True)
class Source:
    """A model as its source describes it."""

    network: torch.nn.Module
    """takes what the input format describes, and gives (N, K)"""
    weights_sha256: str
    """of what decides its outputs, as hexadecimal digits; "": not known, so a hash of outputs takes its place"""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """{field of InputFormat: value} that the network cannot do without: its size, its layout"""
    usual: Mapping[str, Any] = field(default_factory=dict)
    """{field of InputFormat: value} that the source says besides and --input may change"""
    channels: int | None = None
    """number of channels that the network takes; None: not known"""
    output: str | None = None
    """"logits" or "probabilities"; None: the source does not say"""
    classes: list[str] | None = None
    """names of the classes in the order of the outputs; None: the source does not say"""
    parameters: int | None = None
    """number of parameters; None: not known"""
    close: Callable[[], None] | None = None
    """ends the process that the model runs in; None: there is none"""
    deliver: Callable[[list[dict[str, Any]]], None] | None = None
    """gives rows of scores.csv to the process that has asked for them; None: nobody has"""


def sha256_of_all(hashes: list[str]) -> str:
    """One hash of several; a single one stays as it is."""
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def fields_of_shape(shape: list[int | None], owner: str) -> tuple[dict[str, Any], int | None]:
    """({field of InputFormat: value}, number of channels) that the shape of an input says, (N, C, H, W) or
    (N, H, W, C); None stands for a dimension of any length. Raises UserError where these are no square pictures."""
    shown = tuple("any" if length is None else length for length in shape)
    text = f"({', '.join(map(str, shown))})"
    if len(shape) != 4:
        raise UserError(f"{owner} takes an input of shape {text}; pictures are (N, C, H, W) or (N, H, W, C)")
    first, last = shape[1] in (1, 3), shape[3] in (1, 3)
    if not first and not last:
        if shape[1] is not None and shape[3] is not None:
            raise UserError(f"{owner} takes an input of shape {text}, in which neither C of (N, C, H, W) nor C of "
                            f"(N, H, W, C) is 1 or 3")
        return {}, None  # every dimension is open: --input layout=... decides
    is_last = last and not (first and shape[1] == shape[2])
    layout, channels = ("nhwc", shape[3]) if is_last else ("nchw", shape[1])
    height, width = shape[1:3] if is_last else shape[2:]
    fields: dict[str, Any] = {"layout": layout}
    sides = {side for side in (height, width) if side is not None}
    if len(sides) > 1:
        raise UserError(f"{owner} takes pictures of {height} x {width} pixels; those of a set are square")
    return (fields | {"size": sides.pop()} if sides else fields), channels


def cpu_threads() -> int:
    """Number of threads for a library that computes on the CPU: the first number of OMP_NUM_THREADS ("4" or "4,2").
    Without it, one for each core that this process may use."""
    first = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(first) if first.isdecimal() and int(first) > 0 else len(os.sched_getaffinity(0))


def parameters_of(network: torch.nn.Module | torch.export.ExportedProgram) -> int:
    """Number of parameters of a torch network or of an exported program."""
    return sum(parameter.numel() for parameter in network.parameters())
