"""FILE.onnx, run by onnxruntime.

Size, channels and layout come from the input's shape, the type of its numbers too; open sizes take the set's. A file
that `evaluate.py --export-onnx` wrote says everything else in its metadata (onnx_metadata.py). Of other files --input
has to say the range of a float input, and --classes the names. Where the last operation is Softmax, the outputs are
probabilities. External data of the weights have to lie in the folder of the file; they belong to its hash.
"""
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from building.integrity import sha256_of_file
from evaluation import onnx_metadata
from evaluation.model_options import ModelOptions
from evaluation.network_input import ArrayNetwork, in_batches
from evaluation.source_kinds.source import Source, cpu_threads, fields_of_shape, sha256_of_all
from support.errors import UserError, first_line
from support.optional_packages import require_packages

LARGEST = 1 << 31  # bytes: protobuf reads no larger file
TYPES = {"tensor(float)": "float32", "tensor(uint8)": "uint8", "tensor(float16)": "float16",
         "tensor(double)": "float64"}


def load(options: ModelOptions) -> Source:
    """The network in a session of onnxruntime. Raises UserError where the file is damaged or takes no pictures."""
    path = Path(str(options.model))
    require_packages(str(path), "onnxruntime", "onnx")
    graph = read_graph(path)
    data_files = external_files(graph, path)
    session = new_session(path, options.device)
    inputs, outputs = session.get_inputs(), session.get_outputs()
    for names, kind in ((inputs, "inputs"), (outputs, "outputs")):
        if len(names) != 1:
            listed = ", ".join(entry.name[:40] for entry in names[:5])
            raise UserError(f"{path} has {len(names)} {kind} ({listed}); a model with one input, the pictures, and one "
                            f"output (N, classes) is needed")
    if inputs[0].type not in TYPES:
        raise UserError(f"{path} takes {inputs[0].type}, not pictures of float or uint8 numbers")
    dtype = TYPES[inputs[0].type]
    shape = [length if isinstance(length, int) and length > 0 else None for length in inputs[0].shape]
    fixed, channels = fields_of_shape(shape, str(path))
    fixed["dtype"] = "uint8" if dtype == "uint8" else "float32"
    ours = onnx_metadata.read({entry.key: entry.value for entry in graph.metadata_props}, path)

    def function(array: np.ndarray) -> np.ndarray:
        """(N, C, H, W) or (N, H, W, C), float32 or uint8, as the file takes it -> (N, K) of the file's type."""
        return session.run([outputs[0].name], {inputs[0].name: array.astype(dtype, copy=False)})[0]

    network = ArrayNetwork(function, shape[0]) if shape[0] is not None else ArrayNetwork(OneByOneIfRefused(function))
    hashes = [sha256_of_file(file) for file in (path, *data_files)]
    return Source(network, sha256_of_all(hashes), fixed=fixed,
                  usual=ours.input.stated() if ours else {}, channels=channels,
                  output=ours.output if ours else output_of(graph), classes=ours.classes if ours else None,
                  parameters=parameters_of_graph(graph))


class OneByOneIfRefused:
    """A function of N images that gets one image after the other from the first time on that it refuses several.

    Exporters write an input of any number of images although an operation behind it names a batch of one: the function
    fails then, or gives another number of rows."""

    def __init__(self, function: Callable[[np.ndarray], np.ndarray]) -> None:
        self.function = function
        self.takes_batches = True

    def __call__(self, array: np.ndarray) -> np.ndarray:
        """array: (N, ...). Returns the outputs (N, ...). Raises what the function raises for a single image."""
        if self.takes_batches or len(array) == 1:
            try:
                outputs = self.function(array)
                if outputs.ndim and len(outputs) == len(array) or len(array) == 1:
                    return outputs
            except Exception:  # onnxruntime has many
                if len(array) == 1:
                    raise
        outputs = np.concatenate(in_batches(self.function, array, 1))
        self.takes_batches = False
        return outputs


def read_graph(path: Path) -> Any:
    """The file as `onnx.ModelProto`, without external data. Raises UserError where it is none."""
    import onnx

    if path.stat().st_size >= LARGEST:
        raise UserError(f"{path} is larger than 2 GB; store its weights as external data")
    try:
        graph = onnx.load(path, load_external_data=False)
    except Exception as error:  # what is damaged can fail in any way
        raise UserError(f"{path} is no ONNX file, or damaged ({first_line(error)[:200]})") from None
    if not graph.graph.output:
        raise UserError(f"{path} is no ONNX file, or damaged (it has no outputs)")
    return graph


def tensors_of(message: Any) -> Iterator[Any]:
    """All tensors (`onnx.TensorProto`) in a message of protobuf, at any depth."""
    import onnx

    for field, value in message.ListFields():
        if field.type != field.TYPE_MESSAGE:
            continue
        for entry in value if field.is_repeated else [value]:
            if isinstance(entry, onnx.TensorProto):
                yield entry
            else:
                yield from tensors_of(entry)


def parameters_of_graph(graph: Any) -> int:
    """Number of parameters: numbers in the tensors of types that weights have, not in the integers of shapes."""
    from onnx import TensorProto

    types = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE, TensorProto.INT8,
             TensorProto.UINT8)
    return sum(math.prod(tensor.dims) for tensor in tensors_of(graph) if tensor.data_type in types)


def external_files(graph: Any, path: Path) -> list[Path]:
    """The files of the weights that lie beside the file: of all tensors, also of those in attributes, subgraphs and
    functions. Raises UserError where one is missing or leaves the folder."""
    names = set()
    for tensor in tensors_of(graph):
        for entry in tensor.external_data:
            if entry.key == "location":
                names.add(entry.value)
    files = []
    root = path.resolve().parent
    for name in sorted(names):
        file = (root / name).resolve()
        if not file.is_relative_to(root) or os.path.isabs(name):
            raise UserError(f"{path} keeps weights outside its folder ({name[:100]!r}); they have to lie beside it")
        if not file.is_file():
            raise UserError(f"{path} keeps its weights in {name[:100]!r}, which is missing; fetch both files")
        files.append(file)
    return files


def output_of(graph: Any) -> str | None:
    """What the outputs are, from the operation that gives them: Softmax gives probabilities. None: not known."""
    name = graph.graph.output[0].name
    for node in graph.graph.node:
        if name in node.output:
            return {"Softmax": "probabilities", "Gemm": "logits", "MatMul": "logits", "LogSoftmax": "logits"}.get(
                node.op_type)
    return None


def new_session(path: Path, device: str) -> Any:
    """A session of onnxruntime. Raises UserError where it cannot run the file, or not on that device."""
    import onnxruntime

    providers = ["CPUExecutionProvider"]
    has_cuda = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    if device == "cuda" and not has_cuda:
        raise UserError("--device cuda: this onnxruntime computes on the CPU only; install onnxruntime-gpu, or leave "
                        "the option out")
    if device != "cpu" and has_cuda:
        providers.insert(0, "CUDAExecutionProvider")
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4  # fatal only: everything else arrives as an exception
    settings.intra_op_num_threads = cpu_threads()
    try:
        return onnxruntime.InferenceSession(str(path), settings, providers=providers)
    except Exception as error:  # of many kinds
        raise UserError(f"{path}: onnxruntime cannot run it ({first_line(error)[:300]})") from None
