"""Models in another process: `benchmark(model, sets)` for Python, and the process of MODULE:FUNCTION.

The code of a user may have modules named models, datasets, metrics or evaluate, as this project has. So the two never
share a process. Images and outputs pass between them through two pipes: a header in JSON with its length before it, and
then the bytes of an array. Nothing is pickled, and each side checks sizes and types.

- `benchmark` starts evaluate.py in a process of its own and serves the caller's model to it: the model stays in the
  caller's process.
- evaluate.py starts this file, `python -P evaluation/benchmark.py --serve ...`, for --model MODULE:FUNCTION. That
  process imports the user's code, with the user's folder first on its path and this project absent.

This file imports nothing of this project, so it also runs alone:

    benchmark = runpy.run_path("PATH/TO/FER-C/evaluation/benchmark.py")["benchmark"]

What a model is given, images as evaluate.py's --input describes them (else uint8 (N, 3, S, S), RGB):
- a torch module gets torch tensors on the device of its parameters, in eval mode and without gradients;
- an object of Keras, TensorFlow or JAX gets NumPy arrays;
- any other callable gets torch tensors where torch has been imported in its process, and NumPy arrays where it has not,
  or where the first call with a tensor raises TypeError or AttributeError.
It returns (N, K): a tensor, an array or a nested list.
"""
import contextlib
import ctypes
import hashlib
import importlib
import importlib.util
import inspect
import json
import os
import re
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
MAGIC = b"FERC"
LARGEST_HEADER = 1 << 28  # bytes: the scores of many sets are one header
LARGEST_ARRAY = 1 << 32  # bytes
DTYPES = ("uint8", "float32", "int64")
OF_ARRAYS = ("keras", "tensorflow", "tf_keras", "jax", "flax", "sklearn")  # packages whose objects take NumPy arrays
PR_SET_PDEATHSIG = 1  # of prctl(2)
# The command that support/start.py advises, which nobody types here; its second group is the interpreter.
ADVICE = re.compile(r"(use the project's|then): '?((?<=')[^']+|[^' ]+)'? .*--model=caller:.*")


# What `benchmark` takes, as evaluate.py does; a test compares the words.
WORDS = {"output": ("logits", "probabilities"), "missing_classes": ("drop", "keep"),
         "overlap": ("none", "some", "all", "unknown")}
FLAGS = ("on_the_fly", "verify", "no_check")


def is_whole_number(value: Any) -> bool:
    """Whether a value is a whole number of Python or NumPy."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def is_path(value: Any) -> bool:
    """Whether a value names a file or a folder."""
    if not isinstance(value, str | os.PathLike):
        return False
    path = os.fspath(value)
    return isinstance(path, str) and path != "" and "\0" not in path


# keyword of `benchmark` -> (what it is, whether a value is that)
KEYWORDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    **dict.fromkeys(("output", "name", "missing_classes", "training_data", "overlap", "licence", "link"),
                    ("a text", lambda value: isinstance(value, str))),
    "input": ("a text such as 'size=64,colour=grey,range=-1..1'", lambda value: isinstance(value, str)),
    **dict.fromkeys(("limit", "batch_size", "workers", "top_k"), ("a whole number", is_whole_number)),
    **dict.fromkeys(FLAGS, ("True or False", lambda value: isinstance(value, bool | np.bool_))),
    **dict.fromkeys(("card", "python"), ("the path of a file", is_path)),
    "out": ("the path of a folder", is_path),
}


class BenchmarkError(Exception):
    """What is wrong with a model, a set or an option, and what to do: the line that evaluate.py prints."""


class WrongOutput(TypeError):
    """A model returns something that is no array of outputs."""


# ---- messages

def send(target: BinaryIO, header: dict[str, Any], array: np.ndarray | None = None) -> None:
    """Write a message. array: of one of `DTYPES`. Raises BrokenPipeError where the other side has ended."""
    if array is not None:
        header = header | {"shape": list(array.shape), "dtype": str(array.dtype)}
    data = json.dumps(header).encode()
    target.write(MAGIC + struct.pack("<Q", len(data)) + data)
    if array is not None and array.size:
        target.write(memoryview(np.ascontiguousarray(array).reshape(-1)).cast("B"))
    target.flush()


def receive(source: BinaryIO) -> tuple[dict[str, Any], np.ndarray | None] | None:
    """(header, array) of the next message; None where the other side has ended. Raises ValueError for anything that
    `send` does not write."""
    start = source.read(len(MAGIC) + 8)
    if not start:
        return None
    if len(start) < len(MAGIC) + 8 or start[:4] != MAGIC:
        raise ValueError("what came through the pipe is no message")
    (length,) = struct.unpack("<Q", start[4:])
    if length > LARGEST_HEADER:
        raise ValueError("the header of a message is too long")
    data = source.read(length)
    if len(data) < length:
        return None
    header = json.loads(data)
    if not isinstance(header, dict) or not isinstance(header.get("kind"), str):
        raise ValueError("a message has no kind")
    if "shape" not in header:
        return header, None
    shape, dtype = header["shape"], header.get("dtype")
    is_shape = isinstance(shape, list) and len(shape) <= 8 and all(
        isinstance(side, int) and 0 <= side < 1 << 32 for side in shape)
    if not is_shape or dtype not in DTYPES:
        raise ValueError("a message describes no array")
    size = int(np.prod(shape, dtype=object)) * np.dtype(dtype).itemsize
    if size > LARGEST_ARRAY:
        raise ValueError("the array of a message is too large")
    content = source.read(size) if size else b""
    if len(content) < size:
        return None
    return header, np.frombuffer(bytearray(content), dtype).reshape(shape)


def ask(source: BinaryIO, target: BinaryIO, images: np.ndarray) -> np.ndarray:
    """The outputs of the model on the other side of the pipes: of the images, float32 or int64, (N, ...).

    Raises EOFError where the other side has ended, and BenchmarkError with its words where its model failed."""
    try:
        send(target, {"kind": "images"}, images)
    except BrokenPipeError:
        pass  # the other side may have said why
    message = receive(source)
    if message is None:
        raise EOFError
    header, outputs = message
    if header["kind"] == "error":
        raise BenchmarkError(str(header.get("text", ""))[:2000])
    if header["kind"] != "outputs" or outputs is None or outputs.shape[:1] != images.shape[:1]:
        raise ValueError("the answer of the model's process does not belong to its images")
    return outputs


def serve(predict: Callable[[np.ndarray], np.ndarray], source: BinaryIO, target: BinaryIO) -> dict[str, Any] | None:
    """Answer with the outputs of `predict` to each array of images, until another message comes, whose header is
    returned, or until the other side ends: None. Exceptions of `predict` are not caught."""
    while True:
        message = receive(source)
        if message is None:
            return None
        header, images = message
        if header["kind"] != "images" or images is None:
            return header
        outputs = predict(images)
        try:
            send(target, {"kind": "outputs"}, outputs)
        except BrokenPipeError:
            return None


# ---- any model as a function of arrays

class Predictor:
    """A model as a function from an array of images to an array of outputs."""

    def __init__(self, model: Any, device: str | None = None) -> None:
        """device: of a torch module and its images; None: that of its parameters."""
        if not callable(model):
            advice = "; evaluate.py --model takes names and files" if isinstance(model, str | os.PathLike) else ""
            raise WrongOutput(f"the model is of type {type(model).__name__}, which cannot be called with images"
                              f"{advice}")
        if inspect.isclass(model):
            raise WrongOutput(f"the model is the class {model.__name__}, not an object of it")
        self.model = model
        self.torch = sys.modules.get("torch")
        self.is_module = self.torch is not None and isinstance(model, self.torch.nn.Module)
        package = type(model).__module__.partition(".")[0]
        self.takes_tensors: bool | None = None  # not known before the first call
        if self.is_module:
            self.takes_tensors = True
            if device is not None:
                model.to(device)
        elif self.torch is None or package in OF_ARRAYS:
            self.takes_tensors = False
        self.device = device

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """The outputs of the model for images, float32 or int64 (N, ...). Raises what the model raises, and WrongOutput
        where it returns no array."""
        if self.takes_tensors is None:
            outputs = self.first_outputs(images)
        else:
            outputs = self.outputs_of(images, self.takes_tensors)
        return as_outputs(outputs, len(images))

    def first_outputs(self, images: np.ndarray) -> Any:
        """What the model returns for its first images: tensors are tried, and then arrays. Raises the error of the
        first attempt where both fail."""
        try:
            outputs = self.outputs_of(images, True)
            self.takes_tensors = True
            return outputs
        except (TypeError, AttributeError) as error:
            first = error
        try:
            outputs = self.outputs_of(images, False)
        except (TypeError, AttributeError):
            raise first from None
        self.takes_tensors = False
        return outputs

    def outputs_of(self, images: np.ndarray, as_tensor: bool) -> Any:
        """What the model returns for the images as a tensor or as an array."""
        if not as_tensor:
            return self.model(images)
        assert self.torch is not None
        with self.torch.no_grad():
            return self.model(self.torch.from_numpy(images).to(self.device_of_module()))

    def device_of_module(self) -> Any:
        """The device of the images: as stated, else that of the module's first parameter or buffer, else the CPU."""
        if self.device is not None:
            return self.device
        if self.is_module:
            for tensors in (self.model.parameters(), self.model.buffers()):
                for tensor in tensors:
                    return tensor.device
        return "cpu"

    def facts(self) -> dict[str, Any]:
        """{"sha256": hash of the weights, "parameters": their number}; None where they are not known."""
        state = None
        if self.is_module:
            with contextlib.suppress(Exception):  # modules may keep what is no plain tensor
                state = {name: bytes_of(value) for name, value in self.model.state_dict().items()}
            count = sum(parameter.numel() for parameter in self.model.parameters())
            return {"sha256": hash_of(state) if state else None, "parameters": count}
        if callable(getattr(self.model, "get_weights", None)):  # Keras
            with contextlib.suppress(Exception):
                arrays = [np.asarray(array) for array in self.model.get_weights()]
                state = {str(number): array.tobytes() for number, array in enumerate(arrays)}
                return {"sha256": hash_of(state) if state else None, "parameters": sum(map(np.size, arrays))}
        return {"sha256": None, "parameters": None}


def bytes_of(tensor: Any) -> bytes:
    """The bytes of a torch tensor."""
    torch = sys.modules["torch"]
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def hash_of(state: dict[str, bytes]) -> str:
    """sha256 of names and bytes, as hexadecimal digits."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(f"{name}\0{len(state[name])}\0".encode() + state[name])
    return digest.hexdigest()


def as_outputs(outputs: Any, count: int) -> np.ndarray:
    """What a model has returned for `count` images as an array, float32 or int64. Raises WrongOutput for all else."""
    array = array_of(outputs)
    if array.dtype.kind not in "fiub":
        raise WrongOutput(f"the model returns {type(outputs).__name__} of {array.dtype}, not one array of outputs "
                          f"(N, classes)")
    if array.ndim == 0 or len(array) != count:
        raise WrongOutput(f"the model returns an array of shape {array.shape} for {count} images; (N, classes) is "
                          f"needed")
    if array.dtype.kind != "f":
        return array.astype(np.int64, copy=False)
    with np.errstate(over="ignore"):
        values = array.astype(np.float32, copy=False)
    if values is not array and (np.isinf(values) & np.isfinite(array)).any():
        raise WrongOutput(f"the model returns numbers up to {np.abs(array[np.isfinite(array)]).max():.3g}, which are "
                          f"too large for float32")
    return values


def array_of(outputs: Any) -> np.ndarray:
    """What a model has returned, as an array of its own type. Raises WrongOutput where it is no single array."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(outputs, torch.Tensor):
        outputs = outputs.detach().cpu()
        if outputs.dtype == torch.bfloat16:  # which NumPy has not
            outputs = outputs.float()
        return outputs.numpy()
    if isinstance(outputs, dict | tuple | str | bytes) or outputs is None:
        length = f" of {len(outputs)}" if isinstance(outputs, dict | tuple) else ""
        kind = "nothing (None)" if outputs is None else f"a {type(outputs).__name__}{length}"
        raise WrongOutput(f"the model returns {kind}, not one array of outputs (N, classes); let it return the logits "
                          f"alone")
    try:
        return np.asarray(outputs)
    except ValueError as error:
        raise WrongOutput(f"what the model returns is no array of outputs (N, classes): {error}") from None


# ---- from Python: evaluate.py in a process of its own, the model in this one

def benchmark(model: Any, sets: Any, *, input: str | None = None, output: str | None = None,
              classes: Sequence[str] | str | None = None, name: str | None = None, limit: int | None = None,
              on_the_fly: bool = False, verify: bool = True, batch_size: int | None = None, workers: int | None = None,
              missing_classes: str | None = None, top_k: int | None = None, no_check: bool = False, card: Any = None,
              out: Any = None,
              training_data: str | None = None, overlap: str | None = None, licence: str | None = None,
              link: str | None = None, python: str | None = None) -> Any:
    """Score a model on built sets, as evaluate.py does. Returns the rows of scores.csv as a pandas.DataFrame.

    model: from images to logits or probabilities (N, K); the top of this file says what it is given. sets: the folder
    of a built set, or several. The keywords from `input` to `link`, except `out`, are options of evaluate.py, which
    `python evaluate.py --help-all` explains; classes may be a list of names. Nothing is stored unless `out`, a folder
    for the model's predictions and scores, or `card`, a file, is given. python: the interpreter that has the packages
    of this project (default: that of its .venv, else the one that runs this).

    Raises BenchmarkError where a keyword makes no sense, and where something is wrong with a set or an option, with
    the error that evaluate.py printed. An exception of the model arrives as it is."""
    options = {"input": input, "output": output, "name": name, "limit": limit, "batch_size": batch_size,
               "workers": workers, "missing_classes": missing_classes, "top_k": top_k, "card": card,
               "training_data": training_data, "overlap": overlap, "licence": licence, "link": link}
    flags = {"on_the_fly": on_the_fly, "verify": verify, "no_check": no_check}
    check_keywords(options | flags | {"out": out, "python": python})
    if out is not None and os.path.exists(out) and not os.path.isdir(out):
        raise BenchmarkError(f"out is the path of a folder, and {os.fspath(out)} is none")
    stated = options | {"classes": as_text(classes), "name": name or name_of(model)}
    words = ["--set", *folders_of(sets)]
    for option, value in stated.items():
        if value is not None:
            words.append(f"--{option.replace('_', '-')}={os.fspath(value) if option == 'card' else value}")
    words += ["--on-the-fly"] * on_the_fly + ["--no-verify"] * (not verify) + ["--no-check"] * no_check
    try:
        predictor = Predictor(model)
        with tempfile.TemporaryDirectory(prefix="fer-c-benchmark-") as temporary, in_eval_mode(model):
            environment = os.environ | {"TMPDIR": temporary, "FERC_RUNS": os.path.abspath(os.fspath(out or temporary))}
            environment.pop("PYTHONSAFEPATH", None)  # the folder of evaluate.py has to be on the path of its process
            interpreter = own_python() if python is None else os.fspath(python)
            return frame_of(rows_of(predictor, words, interpreter, environment, is_kept=out is not None))
    except Exception as error:
        hide_own_frames(error)
        raise


def hide_own_frames(error: Exception) -> None:
    """Take the frames of this file, but for the first, out of the traceback of an error that `benchmark` catches: they
    say nothing to the user of a model. An error of this file keeps them, unless its words are meant for the user."""
    first = error.__traceback__
    assert first is not None
    ours = (benchmark.__code__.co_filename, contextlib.__file__)
    frames = first.tb_next
    while frames is not None and frames.tb_frame.f_code.co_filename in ours:
        frames = frames.tb_next
    if frames is not None or isinstance(error, BenchmarkError | WrongOutput):
        first.tb_next = frames


def check_keywords(values: dict[str, Any]) -> None:
    """Raises BenchmarkError where a keyword of `benchmark` has a value of another type, or none of its words."""
    for name, value in values.items():
        kind, is_one = KEYWORDS[name]
        if value is None and name not in FLAGS:
            continue
        if not is_one(value):
            raise BenchmarkError(f"{name} is {kind}, not {shown(value)}")
        if isinstance(value, str) and "\0" in value:
            raise BenchmarkError(f"{name} holds the character of number 0")
        if name in WORDS and value not in WORDS[name]:
            raise BenchmarkError(f"{name} is {' or '.join(map(repr, WORDS[name]))}, not {shown(value)}")


def shown(value: Any) -> str:
    """A value for a message: itself where it is short, else its type."""
    is_plain = value is None or isinstance(value, str | int | float | bytes) and len(repr(value)) <= 60
    return repr(value) if is_plain else f"an object of type {type(value).__name__}"


def folders_of(sets: Any) -> list[str]:
    """The folders of built sets, from one folder or several. Raises BenchmarkError where these are none."""
    if isinstance(sets, str | os.PathLike):
        folders = [sets]
    elif isinstance(sets, list | tuple):
        folders = list(sets)
    else:
        raise BenchmarkError(f"sets is the folder of a built set, or a list of several, not {shown(sets)}")
    if not folders:
        raise BenchmarkError("sets is an empty list: name the folder of a built set, for example data/FERPlus-C")
    for folder in folders:
        if not is_path(folder):
            raise BenchmarkError(f"sets: a folder of a built set is named by a text or a path, not by {shown(folder)}")
    return [os.fspath(folder) for folder in folders]


def as_text(classes: Any) -> str | None:
    """Names of classes as --classes takes them. Raises BenchmarkError where they are no names in an order."""
    if classes is None or isinstance(classes, str):
        return classes
    if isinstance(classes, dict | set | frozenset | bytes) or not hasattr(classes, "__iter__"):
        raise BenchmarkError(f"classes is a list of names in the order of the model's outputs, not {shown(classes)}")
    names = list(classes)
    for name in names:
        if not isinstance(name, str) or "\0" in name:
            raise BenchmarkError(f"classes: the name of a class is a text, not {shown(name)}")
        if "," in name:
            raise BenchmarkError(f"a name of a class holds a comma: {name!r}")
    return ",".join(names)


def name_of(model: Any) -> str:
    """What a model is called where its user does not say: the name of a function, else that of its class."""
    name = getattr(model, "__name__", None)
    return name if isinstance(name, str) and name.isidentifier() else type(model).__name__


def own_python() -> str:
    """The interpreter of the project's environment where there is one, else the one that runs this."""
    path = os.path.join(ROOT, ".venv", "bin", "python")
    return path if os.path.exists(path) else sys.executable


@contextlib.contextmanager
def in_eval_mode(model: Any) -> Iterator[None]:
    """A torch module is in eval mode inside; its parts get their own modes back at the end."""
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(model, torch.nn.Module):
        yield
        return
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def rows_of(predictor: Predictor, words: list[str], python: str, environment: dict[str, str],
            is_kept: bool) -> list[dict[str, Any]]:
    """The rows of scores.csv: evaluate.py runs with these options and asks `predictor` for outputs. is_kept: whether
    its files stay, so that their paths are printed. Raises as `benchmark` does."""
    from_child, to_parent = os.pipe()
    from_parent, to_child = os.pipe()
    command = [python, os.path.join(ROOT, "evaluate.py"), f"--model=caller:{from_parent},{to_parent}", *words]
    with open(from_child, "rb") as source, opened_for_writing(to_child) as target:
        try:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                       stderr=subprocess.STDOUT, env=environment, start_new_session=True,
                                       pass_fds=(from_parent, to_parent), text=True, errors="replace")
        except OSError as error:
            raise BenchmarkError(f"the interpreter {python} cannot be started ({error.strerror})") from None
        finally:
            os.close(from_parent)
            os.close(to_parent)
        printed: list[str] = []
        printer = threading.Thread(target=relay, args=(process.stdout, printed, is_kept), daemon=True)
        printer.start()
        try:
            with contextlib.suppress(BrokenPipeError):
                send(target, {"kind": "model"} | predictor.facts())
            header = serve(predictor, source, target)
            process.wait()
        finally:
            end(process)
            printer.join()
            assert process.stdout is not None
            process.stdout.close()
    if header is not None and header["kind"] == "scores" and process.returncode == 0:
        return header["rows"]
    raise BenchmarkError(message_of(printed, process.returncode, python))


@contextlib.contextmanager
def opened_for_writing(descriptor: int) -> Iterator[BinaryIO]:
    """A pipe as a file. What has not been written when the other side ends is nobody's any more."""
    file = open(descriptor, "wb")
    try:
        yield file
    finally:
        with contextlib.suppress(BrokenPipeError):
            file.close()


def relay(stream: Any, printed: list[str], is_kept: bool) -> None:
    """Print what evaluate.py prints, but for its error, and collect all of it. is_kept: as for `rows_of`."""
    in_error = False
    for line in stream:
        printed.append(line.rstrip("\n"))
        in_error = in_error or line.startswith(("error: ", "Traceback "))
        if not in_error and (is_kept or not line.startswith("scores: ")):
            print(line, end="", flush=True)


def message_of(printed: list[str], code: int, python: str) -> str:
    """The error of evaluate.py, from what it has printed. python: the interpreter that has run it."""
    for number, line in enumerate(printed):
        if line.startswith("error: "):
            return "\n".join([ADVICE.sub(r"\1: benchmark(..., python='\2')", line.removeprefix("error: ")),
                              *printed[number + 1:]])
    reason = f"by signal {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
    if not printed:
        reason += f", and {python} has printed nothing: does it have the packages of this project?"
    return "\n".join([f"evaluate.py ended {reason}", *printed[-20:]])


def frame_of(rows: list[dict[str, Any]]) -> Any:
    """The rows of scores.csv as a pandas.DataFrame; the severity of clean and summary rows is missing."""
    import pandas

    frame = pandas.DataFrame(rows)
    frame["severity"] = pandas.to_numeric(frame["severity"], errors="coerce").astype("Int64")
    frame["value"] = frame["value"].astype(float)
    return frame


def end(process: subprocess.Popen) -> None:
    """End a process that was started in a session of its own, with all that it has started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


# ---- the process of MODULE:FUNCTION

def main(words: Sequence[str]) -> int:
    """`--serve JSON`: import the user's function, call it, and serve the model that it returns. The keys of the JSON:
    spec, folder, checkpoint, device, parent."""
    if len(words) != 2 or words[0] != "--serve":
        print("evaluate.py starts this file; in Python call benchmark(model, sets)", file=sys.stderr)
        return 2
    request = json.loads(words[1])
    end_with_parent(request["parent"])
    source, target = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)  # what the user's code prints goes to standard error: the pipe carries messages only
    try:
        predictor = user_predictor(request)
        send(target, {"kind": "model", "file": file_of(request["spec"])} | predictor.facts())
        serve(predictor, source, target)
    except WrongOutput as error:
        return refuse(target, error)
    except BaseException as error:  # also SystemExit
        traceback.print_exc()
        text = str(error).strip() or "no message"
        return refuse(target, f"{type(error).__name__}: {text}; its traceback stands above")
    return 0


def refuse(target: BinaryIO, text: Any) -> int:
    """Send an error in place of an answer. Returns the exit code of this process."""
    with contextlib.suppress(BrokenPipeError):
        send(target, {"kind": "error", "text": str(text)})
    return 1


def end_with_parent(parent: int) -> None:
    """Let the kernel kill this process when its parent ends, however that ends (Linux)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def user_predictor(request: dict[str, Any]) -> Predictor:
    """The model that the user's function returns. The folder of the user is the first on the path, and this project is
    not on it. Raises what the user's code raises, and WrongOutput where it returns no model."""
    folder = request["folder"]
    kept = [path for path in sys.path if not is_ours(path)]
    sys.path[:] = [folder, *(path for path in kept if path != folder)]
    os.chdir(folder)
    factory = user_object(request["spec"])
    model = factory
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(factory, torch.nn.Module):
        if not callable(factory):
            raise WrongOutput(f"it is of type {type(factory).__name__}, not a function that returns a model")
        model = call_factory(factory, request["checkpoint"])
    elif request["checkpoint"] is not None:
        raise WrongOutput("it is a module, not a function with an argument checkpoint; leave --checkpoint out")
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(model, torch.nn.Module):
        return Predictor(model)
    model.eval()
    return Predictor(model, device_of(request["device"], torch))


def is_ours(path: str) -> bool:
    """Whether an entry of the path is the folder of this project or lies in it; the environment of packages does not
    count."""
    real = os.path.realpath(path or os.getcwd())
    environment = os.path.realpath(sys.prefix)
    inside = real == ROOT or real.startswith(os.path.realpath(ROOT) + os.sep)
    return inside and not real.startswith(environment + os.sep)


def user_object(spec: str) -> Any:
    """What MODULE:FUNCTION or FILE.py:FUNCTION names. Raises WrongOutput where the module has no such name."""
    place, _, name = spec.rpartition(":")
    if place.endswith(".py"):
        title = os.path.splitext(os.path.basename(place))[0]
        description = importlib.util.spec_from_file_location(title, place)
        assert description is not None and description.loader is not None
        module = importlib.util.module_from_spec(description)
        sys.modules[title] = module
        description.loader.exec_module(module)
    else:
        try:
            module = importlib.import_module(place)
        except ModuleNotFoundError as error:
            if error.name is None or not (place + ".").startswith(error.name + "."):
                raise
            raise WrongOutput(f"there is no module {error.name}; imports look into {os.getcwd()} first (--folder names "
                              f"another one)") from None
    value: Any = module
    for attribute in name.split("."):
        if not hasattr(value, attribute):
            names = [key for key in vars(module) if not key.startswith("_") and callable(getattr(module, key))]
            raise WrongOutput(f"{place} has no {name}; it has {', '.join(names[:10]) or 'no functions'}")
        value = getattr(value, attribute)
    return value


def call_factory(factory: Any, checkpoint: str | None) -> Any:
    """What the user's function returns, called without arguments or with checkpoint=PATH. Raises WrongOutput where it
    takes other arguments."""
    arguments = {} if checkpoint is None else {"checkpoint": checkpoint}
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):
        return factory(**arguments)
    try:
        signature.bind(**arguments)
    except TypeError as error:
        advice = "a function without arguments, or with an argument checkpoint, is needed"
        if checkpoint is None and "checkpoint" in signature.parameters:
            advice = "give --checkpoint"
        raise WrongOutput(f"it cannot be called so ({error}); {advice}") from None
    return factory(**arguments)


def device_of(device: str, torch: Any) -> str:
    """The device of a torch module. Raises WrongOutput where there is no GPU and one was asked for."""
    has_cuda = torch.cuda.is_available()
    if device == "cuda" and not has_cuda:
        raise WrongOutput("--device cuda: torch sees no GPU in this process")
    number = os.environ.get("LOCAL_RANK", "0")
    return f"cuda:{number}" if has_cuda and device != "cpu" else "cpu"


def file_of(spec: str) -> str | None:
    """The file of the user's module, None where it has none."""
    place = spec.rpartition(":")[0]
    if place.endswith(".py"):
        return os.path.abspath(place)
    file = getattr(sys.modules.get(place), "__file__", None)
    return os.path.abspath(file) if file else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
