"""The device and its precision: Lightning Fabric, channels last, torch.compile, seeds, deterministic algorithms, fast
or exact float32.

Of the floors (0 to 5), only this module imports Fabric. It does so on the first call of `connect`, since the import
takes seconds that a script's --help should not wait for.
"""
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from support.random_streams import keyed_rng
from support.run_folder import PRECISIONS

CUBLAS_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"  # environment variable: the workspace of cuBLAS, a part of CUDA


@contextmanager
def absent_package(package: str) -> Iterator[None]:
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
    environment; with its own defaults Fabric would start independent runs there. Fabric prints nothing: its notes are
    about processes, precision and matrix products, which this project sets, or says, itself.
    """
    with absent_package("torchmetrics"):
        import lightning_fabric

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    devices = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    processes = int(os.environ.get("WORLD_SIZE", 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        fabric = lightning_fabric.Fabric(devices=devices, num_nodes=processes // devices, precision=precision,
                                         strategy="ddp" if processes > 1 else "auto")
        fabric.launch()
    return fabric


@contextmanager
def fast_arithmetic(device: torch.device) -> Iterator[None]:
    """Inside, a GPU multiplies float32 as TensorFloat-32 (its mantissa has 10 bits). Training uses this; scoring does
    not, see `exact_float32`. The caller's setting comes back at the end. Nothing changes on other devices.

    cuDNN's benchmark mode tries algorithms on each new shape and keeps the fastest. It is not turned on here: on an
    H100 it gained at most 1 % over cuDNN's own choice, and sometimes chose algorithms with which the whole step took
    1.15 to 1.27 times as long (docs/benchmarks.md).
    """
    if device.type != "cuda":
        yield
        return
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)


def machine_facts(fabric: Any, machine: Any) -> dict[str, Any]:
    """What may change the last digits of a result: device, processes, threads, torch.compile, deterministic
    algorithms, {name: value}. It is written to environment.json. machine: `training.options.MachineOptions`."""
    device = torch.cuda.get_device_name() if fabric.device.type == "cuda" else "cpu"
    return {"device": device, "processes": fabric.world_size, "threads": torch.get_num_threads(),
            "compile": machine.compile, "deterministic": machine.deterministic}


def optimised(model: torch.nn.Module, machine: Any) -> Any:
    """The network in the form in which it runs fastest: channels last, and compiled if `machine.compile` is true.
    machine: `training.options.MachineOptions` or `evaluation.inference.InferenceOptions`."""
    model = model.to(memory_format=torch.channels_last)
    return torch.compile(model) if machine.compile else model


def for_inference(model: Any, fabric: Any, machine: Any) -> Any:
    """A network in the form in which inference runs fastest, set up by Fabric. On a GPU that is the network that
    `Model.for_inference` gives: of a ResNet-18 it is a copy with other weights, whose logits differ by rounding. On
    CPUs the logits stay the same bytes. model: `models.Model`. machine: as for `optimised`."""
    if fabric.device.type == "cuda":
        bfloat16 = fabric.strategy.precision.precision == PRECISIONS["bf16"]
        model = model.for_inference(torch.bfloat16 if bfloat16 else torch.float32)
    return fabric.setup_module(optimised(model, machine))


def seed_torch(*key: Any) -> None:
    """Seed torch's generators of all devices by a key, such as ("step", seed, rank, epoch, step)."""
    torch.manual_seed(int(keyed_rng(*key).integers(2**63)))


@contextmanager
def deterministic_algorithms(is_wanted: bool) -> Iterator[None]:
    """Inside, torch uses only algorithms that give the same bytes each time, if `is_wanted`. The caller's settings come
    back at the end.

    It has to begin before CUDA starts, because cuBLAS reads the size of its workspace when CUDA starts. torch demands
    the size that is set here. Operations that have no such algorithm raise RuntimeError; the training scripts use none
    of them.
    """
    if not is_wanted:
        yield
        return
    cudnn, filling = torch.backends.cudnn, torch.utils.deterministic
    workspace = os.environ.get(CUBLAS_WORKSPACE)
    mode = torch.get_deterministic_debug_mode()
    before = cudnn.deterministic, cudnn.benchmark, filling.fill_uninitialized_memory
    try:
        os.environ[CUBLAS_WORKSPACE] = ":4096:8"
        torch.use_deterministic_algorithms(True)
        cudnn.deterministic, cudnn.benchmark = True, False
        filling.fill_uninitialized_memory = False  # it only helps to find faults in a program, and takes time
        yield
    finally:
        torch.set_deterministic_debug_mode(mode)
        cudnn.deterministic, cudnn.benchmark, filling.fill_uninitialized_memory = before
        if workspace is None:
            del os.environ[CUBLAS_WORKSPACE]
        else:
            os.environ[CUBLAS_WORKSPACE] = workspace


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
