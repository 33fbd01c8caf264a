"""The device and its precision: Lightning Fabric, channels last, torch.compile, seeds, exact float32.

Used by training/run.py, evaluation/scoring.py and the speed benchmarks in benchmarks/. Of the floors (0 to 5), only
this module imports Fabric. It does so on the first call of `connect`, since the import takes seconds that a script's
--help should not wait for.
"""
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from support.random_streams import keyed_rng
from support.run_folder import PRECISIONS


@contextmanager
def hidden(package: str) -> Iterator[None]:
    """Make an installed package look absent to the modules that are imported inside.

    Fabric tries to import torchmetrics, only to move metrics between devices; the project has none of them, and the
    import takes seconds. Python raises ImportError for a module whose entry in `sys.modules` is None.
    """
    was_imported = package in sys.modules
    sys.modules.setdefault(package, None)  # type: ignore[arg-type]
    try:
        yield
    finally:
        if not was_imported:
            del sys.modules[package]


def precision_name(precision: str) -> str:
    """Fabric's name of a value of --precision: 32-true or bf16-mixed. `auto` is bf16-mixed if the hardware computes
    in bfloat16 natively, else 32-true."""
    if precision != "auto":
        return PRECISIONS[precision]
    if torch.cuda.is_available():
        has_bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        has_bfloat16 = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return PRECISIONS["bf16" if has_bfloat16 else "32"]


def connect(precision: str) -> Any:
    """The launched `lightning_fabric.Fabric`: on a single device, or on all that torchrun has started processes for.

    precision: Fabric's name, as `precision_name` gives it. The numbers of devices and nodes come from torchrun's
    environment; with its own defaults Fabric would start independent runs there.
    """
    with hidden("torchmetrics"):
        import lightning_fabric

    devices = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    processes = int(os.environ.get("WORLD_SIZE", 1))
    fabric = lightning_fabric.Fabric(devices=devices, num_nodes=processes // devices, precision=precision,
                                     strategy="ddp" if processes > 1 else "auto")
    fabric.launch()
    return fabric


def machine_facts(fabric: Any, is_compiled: bool) -> dict[str, Any]:
    """What may change the last digits of a result: device, processes, threads, torch.compile, {name: value}. It is
    written to environment.json."""
    device = torch.cuda.get_device_name() if fabric.device.type == "cuda" else "cpu"
    return {"device": device, "processes": fabric.world_size, "threads": torch.get_num_threads(),
            "compile": is_compiled}


def optimised(model: torch.nn.Module, machine: Any) -> Any:
    """The network in the form in which it runs fastest: channels last, and compiled if `machine.compile` is true.
    machine: `training.options.MachineOptions` or `evaluation.inference.InferenceOptions`."""
    model = model.to(memory_format=torch.channels_last)
    return torch.compile(model) if machine.compile else model


def seed_torch(*key: Any) -> None:
    """Seed torch's generators of all devices by a key, such as ("step", seed, rank, epoch, step)."""
    torch.manual_seed(int(keyed_rng(*key).integers(2**63)))


@contextmanager
def exact_float32() -> Iterator[None]:
    """Multiply float32 as float32 inside: no TensorFloat-32 or bfloat16 in matrix products and convolutions. The
    caller's settings come back at the end.

    torch has newer switches (`fp32_precision` of every backend) and older ones that libraries still read. It demands
    that both agree, so both are set.
    """
    backends = [torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn,
                torch.backends.mkldnn.matmul, torch.backends.mkldnn.conv, torch.backends.mkldnn.rnn]
    before = [backend.fp32_precision for backend in backends]
    try:
        older_before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    except RuntimeError:  # torch's way to say that the caller has set the newer switches only
        older_before = None
    try:
        torch.set_float32_matmul_precision("highest")
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        for backend in backends:
            backend.fp32_precision = "ieee"
        yield
    finally:
        if older_before:
            torch.set_float32_matmul_precision(older_before[0])
            torch.backends.cudnn.allow_tf32 = older_before[1]
        for backend, value in zip(backends, before, strict=True):
            backend.fp32_precision = value
