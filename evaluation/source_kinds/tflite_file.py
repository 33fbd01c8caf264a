"""FILE.tflite, run by ai-edge-litert (TensorFlow Lite's interpreter).

Size, channels and layout come from the input's shape. Quantised inputs and outputs are converted by their scale and
zero point; where the scale of a quantised input says the range of the values, it is not asked for. Of others --input
has to say the range, and --classes the names. A batch is tried with `resize_tensor_input`; networks that refuse it get
one picture after the other.
"""
from pathlib import Path
from typing import Any

import numpy as np

from building.integrity import sha256_of_file
from evaluation.input_format import LIMITS
from evaluation.model_options import ModelOptions
from evaluation.network_input import ArrayNetwork, in_batches
from evaluation.source_kinds.source import Source, cpu_threads, fields_of_shape
from support.errors import UserError, first_line
from support.optional_packages import require_packages

LARGEST = 1 << 31  # bytes: the format has no larger files
TOLERANCE = 0.02  # by which the range of a quantised input may differ, as a fraction of its width


def load(options: ModelOptions) -> Source:
    """The network in an interpreter. Raises UserError where the file is damaged or takes no pictures."""
    path = Path(str(options.model))
    require_packages(str(path), "ai-edge-litert")
    interpreter = new_interpreter(path)
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    for entries, kind in ((inputs, "inputs"), (outputs, "outputs")):
        if len(entries) != 1:
            raise UserError(f"{path} has {len(entries)} {kind}; a model with one input, the pictures, and one output "
                            f"(N, classes) is needed")
    signature = [length if length > 0 else None for length in inputs[0]["shape_signature"].tolist()]
    shape = [int(length) for length in inputs[0]["shape"]]
    if len(signature) != 4:
        signature = list(shape)
    fixed, channels = fields_of_shape([None, *signature[1:]], str(path))
    runner = Runner(interpreter, str(path))
    usual: dict[str, Any] = {}
    if runner.takes_bytes:
        fixed["dtype"] = "uint8"
    elif inputs[0]["dtype"] not in (np.float32, np.uint8, np.int8):
        raise UserError(f"{path} takes {inputs[0]['dtype'].__name__}, not pictures of float, uint8 or int8 numbers")
    elif inputs[0]["dtype"] == np.int8 and not runner.scale:
        raise UserError(f"{path} takes int8 numbers and does not say their scale, so nobody knows what they mean; "
                        f"convert the network again, with a scale or with a float input")
    elif runner.scale:
        values = range_of_quantised(runner)
        usual = {"range": values} if values else {}
    return Source(ArrayNetwork(runner), sha256_of_file(path), fixed=fixed, usual=usual, channels=channels)


def new_interpreter(path: Path) -> Any:
    """An interpreter that has read the file. Raises UserError where it is no file of TensorFlow Lite."""
    from ai_edge_litert.interpreter import Interpreter

    with open(path, "rb") as file:
        head = file.read(8)
    if head[4:] != b"TFL3" or path.stat().st_size >= LARGEST:
        raise UserError(f"{path} is no file of TensorFlow Lite")
    threads = cpu_threads()
    try:
        interpreter = Interpreter(model_path=str(path), num_threads=threads)
        interpreter.allocate_tensors()
    except Exception as error:  # of many kinds
        raise UserError(f"{path}: TensorFlow Lite cannot run it ({first_line(error)[:300]})") from None
    return interpreter


class Runner:
    """A function from the arrays that InputFormat describes to outputs, float32 (N, K)."""

    def __init__(self, interpreter: Any, owner: str) -> None:
        """owner: the file, for messages."""
        self.interpreter = interpreter
        self.owner = owner
        self.dtype = interpreter.get_input_details()[0]["dtype"]
        self.scale, self.zero = interpreter.get_input_details()[0]["quantization"]
        self.shape = tuple(map(int, interpreter.get_input_details()[0]["shape"]))  # that the interpreter is ready for
        self.takes_batches = True  # until it has refused one

    @property
    def takes_bytes(self) -> bool:
        """Whether the input is uint8 grey levels as they are: without a scale, or with scale 1."""
        return self.dtype == np.uint8 and (not self.scale or self.scale == 1 and self.zero == 0)

    def __call__(self, array: np.ndarray) -> np.ndarray:
        """array: (N, H, W, C) or (N, C, H, W), of the type that the input format says. Returns float32 (N, K). Raises
        ValueError where the network does not take pictures of this size."""
        values = self.quantised(array)
        if values.shape[1:] != self.shape[1:]:
            first = np.repeat(values[:1], self.shape[0], 0)
            if self.resized_run(first) is None:
                raise ValueError(f"{self.owner} takes pictures of shape {self.shape[1:]}, not {values.shape[1:]}")
        if self.takes_batches and len(values) != self.shape[0]:
            outputs = self.resized_run(values)
            if outputs is not None:
                return outputs
            self.takes_batches = False
        return np.concatenate(in_batches(self.run, values, self.shape[0]))

    def resized_run(self, values: np.ndarray) -> np.ndarray | None:
        """The outputs (N, K) of the interpreter for an input of another shape, which it keeps. None where the network
        does not take it; then the interpreter has the shape that it had before.

        Networks whose operations name a batch of one, or a size, refuse, or give another number of rows."""
        try:
            self.resize(values.shape)
            outputs = self.run(values)
            if len(outputs) == len(values):
                self.shape = values.shape
                return outputs
        except (ValueError, RuntimeError):
            pass
        self.resize(self.shape)
        return None

    def resize(self, shape: tuple[int, ...]) -> None:
        """Let the interpreter take an input of this shape. Raises ValueError or RuntimeError where it refuses."""
        self.interpreter.resize_tensor_input(self.interpreter.get_input_details()[0]["index"], shape, strict=False)
        self.interpreter.allocate_tensors()

    def quantised(self, array: np.ndarray) -> np.ndarray:
        """The array as the network stores its input: (N, H, W, C) or (N, C, H, W) -> the same shape, in the network's
        type."""
        if self.dtype == np.float32 or self.takes_bytes or not self.scale:
            return array.astype(self.dtype, copy=False)
        limits = np.iinfo(self.dtype)
        return np.clip(np.round(array / self.scale + self.zero), limits.min, limits.max).astype(self.dtype)

    def run(self, values: np.ndarray) -> np.ndarray:
        """The outputs for an input of the shape that the interpreter is ready for: float32 (N, K)."""
        self.interpreter.set_tensor(self.interpreter.get_input_details()[0]["index"], values)
        self.interpreter.invoke()
        output = self.interpreter.get_output_details()[0]
        outputs = self.interpreter.get_tensor(output["index"])
        scale, zero = output["quantization"]
        if scale and outputs.dtype != np.float32:
            return ((outputs.astype(np.float32) - zero) * scale).astype(np.float32)
        return outputs.copy()


def range_of_quantised(runner: Runner) -> str | None:
    """The range that scale and zero point of a quantised input say; None where it is none of `LIMITS`."""
    limits = np.iinfo(runner.dtype)
    low, high = ((limit - runner.zero) * runner.scale for limit in (limits.min, limits.max))
    for name, (first, last) in LIMITS.items():
        if max(abs(low - first), abs(high - last)) <= TOLERANCE * (last - first):
            return name
    return None
