"""`evaluate.py RUN --export-onnx FILE`: a run's network as an ONNX file, for onnxruntime on any machine.

The file takes uint8 images (N, 3, S, S), RGB, of the run's size, any number of them, and gives logits (N, K): the
preprocessing is in it, and what is for training only is not. The network is the one for inference
(`Model.for_inference`, float32), whose logits differ from those of the run by rounding. The metadata say the classes
and the versions of the sets that the run was scored on (onnx_metadata.py), so that `--model FILE.onnx` needs no further
option. The finished file is run once beside the network, and it is written whole or not at all.
"""
import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evaluation.input_format import InputFormat
from evaluation.onnx_metadata import OnnxMetadata
from evaluation.scores_file import earlier_scores
from evaluation.sources import load_model, picture
from evaluation.trained_run import TrainedRun
from support.errors import UserError, first_line
from support.files import os_errors_as_user_errors, write_whole
from support.optional_packages import is_installed, pinned, require_packages

OPSET = 20
LARGEST = 2**31 - 2**20  # bytes of a file that protobuf can hold
TOLERANCE = 1e-3  # by which logits may differ from those of the network


def export(run: TrainedRun, path: Path) -> str:
    """Write the network of a run to an ONNX file, and return what is printed about it. Raises UserError where the run
    has no weights, its network cannot be exported, or the file cannot be written."""
    if path.suffix != ".onnx":
        raise UserError(f"--export-onnx {path}: give the name of a file that ends in .onnx")
    require_packages("--export-onnx", "onnx", "onnxscript")
    model = load_model(run)
    network = model.module.eval().for_inference(torch.float32).eval()  # type: ignore[operator]
    sets = {row["set"]: row["set_version"] for row in earlier_scores(run.folder, model.weights_sha256)}
    metadata = OnnxMetadata(InputFormat(size=run.image_size, dtype="uint8"), "logits", run.classes, sets)
    data = serialised(network, run.image_size, metadata, model.name)
    checked = compare(network, data, run.image_size, model.name)
    with os_errors_as_user_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, lambda file: file.write(data))
    return (f"{path}: {len(data) / 1e6:.1f} MB, opset {OPSET}, uint8 (N, 3, {run.image_size}, {run.image_size}) RGB -> "
            f"logits (N, {len(run.classes)}){checked}\nscore it: python evaluate.py --model {path} --set DIR")


def serialised(network: torch.nn.Module, size: int, metadata: OnnxMetadata, name: str) -> bytes:
    """The bytes of the ONNX file. Raises UserError where torch cannot export the network."""
    images = torch.cat([picture(size, 0), picture(size, 1)])
    try:
        with silence(), torch.no_grad():
            program: Any = torch.onnx.export(
                network, (images,), dynamo=True, opset_version=OPSET, input_names=["images"], output_names=["logits"],
                dynamic_shapes=({0: torch.export.Dim("N")},), external_data=False, verbose=False)
    except Exception as error:  # of many kinds
        raise UserError(f"{name}: torch cannot export this network to ONNX ({first_line(error)[:300]})") from None
    content = program.model_proto
    for key, value in metadata.as_dict().items():
        entry = content.metadata_props.add()
        entry.key, entry.value = key, value
    if content.ByteSize() > LARGEST:
        raise UserError(f"{name} has more than 2 GB of weights, more than one ONNX file can hold")
    return content.SerializeToString(deterministic=True)


def compare(network: torch.nn.Module, data: bytes, size: int, name: str) -> str:
    """Run the ONNX file and the network on three pictures. Returns a note for the user. Raises UserError where their
    logits differ by more than `TOLERANCE`."""
    if not is_installed("onnxruntime"):
        return f" (not compared with the run: pip install {pinned('onnxruntime')})"
    import onnxruntime

    images = torch.cat([picture(size, number) for number in range(3)])
    with torch.no_grad():
        expected = network(images).numpy()
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4
    session = onnxruntime.InferenceSession(data, settings, providers=["CPUExecutionProvider"])
    logits = session.run(None, {"images": images.numpy()})[0]
    difference = float(np.abs(logits - expected).max()) if logits.shape == expected.shape else np.inf
    if not difference <= TOLERANCE:
        raise UserError(f"{name}: the logits of the ONNX file differ from the network's by {difference:.2g}, more than "
                        f"{TOLERANCE:g}; it was not written")
    return f"; its logits differ from the run's by at most {max(difference, 1e-7):.0e}"


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Keep what the exporter prints and warns from the terminal: it is for the authors of networks."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "torch.export")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
