"""The options that name a model which is no run, and what they mean: its kind, its classes, its name.

evaluate.py composes them. Nothing here imports torch.
"""
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from datasets.text_files import read_text
from support import run_folder
from support.cli import Between, Rare
from support.errors import UserError

LARGEST_CLASSES_FILE = 1_000_000  # bytes
LONGEST_NAME = 100  # characters, of a class or of a model
MOST_CLASSES = 1000
SUFFIXES = {".onnx": "onnx", ".tflite": "tflite", ".pt2": "pt2", ".torchscript": "torchscript", ".ts": "torchscript",
            ".pt": "torchscript"}
PREFIXES = {"timm:": "timm", "hf:": "hf", "logits:": "logits", "caller:": "python"}
RUN_CODE = ("pt2", "torchscript", "factory")  # kinds that need --trust-code
CHOOSE_DEVICE = ("onnx", "factory")  # kinds that --device is for; for the others Fabric chooses
OUTSIDE_TORCH = ("onnx", "tflite", "factory", "python", "logits")  # kinds that compute in another library or process
FORMS = "a run's folder, timm:NAME, FILE.onnx, FILE.tflite, hf:FOLDER, FILE.pt2, FILE.torchscript, MODULE:FUNCTION, " \
        "FILE.py:FUNCTION or logits:PATH"


@dataclass
class ModelOptions:
    """A model that is no run (docs/evaluating.md shows every kind)"""

    model: str | None = None
    """what is scored in place of a run: timm:NAME, FILE.onnx, FILE.tflite, hf:FOLDER (transformers), FILE.pt2,
    FILE.torchscript, MODULE:FUNCTION, FILE.py:FUNCTION, logits:PATH, or the folder of a run"""
    checkpoint: Path | None = None
    """file of weights, for timm:NAME and for functions that take a checkpoint"""
    classes: str | None = None
    """names of the model's classes, in the order of its outputs, with commas between them; or a file with one name a
    line"""
    input: str | None = None
    """what the network takes, for example size=64,colour=grey,range=-1..1 or mean=0.5,0.5,0.5,std=0.5,0.5,0.5"""
    output: Literal["logits", "probabilities"] | None = None
    """what the network gives (default: what its file says; else logits, unless they look like probabilities)"""
    trust_code: bool = False
    """run code of the model's author, which can do anything on this machine"""
    num_classes: Annotated[int | None, Between(2, MOST_CLASSES), Rare] = None
    """number of outputs, for timm:NAME (default: as many as --classes names)"""
    folder: Annotated[Path | None, Rare] = None
    """folder of the code of MODULE:FUNCTION or FILE.py:FUNCTION: its process works in it and imports from it first
    (default: the current folder, or that of FILE.py)"""
    name: Annotated[str | None, Rare] = None
    """what tables call the model (default: made from --model)"""
    device: Annotated[Literal["auto", "cpu", "cuda"], Rare] = "auto"
    """where a function or an ONNX file computes; all others compute on the GPU where there is one"""

    def stated(self) -> list[str]:
        """The options that were given besides --model, as they are typed."""
        names = ("checkpoint", "classes", "input", "output", "num_classes", "folder", "name")
        flags = [f"--{name.replace('_', '-')}" for name in names if getattr(self, name) is not None]
        return flags + ["--trust-code"] * self.trust_code + ["--device"] * (self.device != "auto")


def kind_of(spec: str) -> str:
    """The kind of a model (model_facts.KINDS), from the text of --model. Raises UserError where it is none."""
    for prefix, kind in PREFIXES.items():
        if spec.startswith(prefix):
            return kind
    path = Path(spec)
    if path.is_dir() and path.suffix.lower() in SUFFIXES and not (path / run_folder.ARGS_FILE).exists():
        raise UserError(f"--model {spec} is a folder, and its name is that of a model's file")
    if path.is_dir():
        if (path / run_folder.ARGS_FILE).exists() or not (path / "config.json").exists():
            return "run"
        raise UserError(f"--model {spec} is a folder of transformers: write --model hf:{spec}")
    suffix = path.suffix.lower()
    if suffix in SUFFIXES and ".py:" not in spec:
        if not path.is_file():
            raise UserError(f"--model {spec}: no such file")
        return SUFFIXES[suffix]
    if suffix in (".pth", ".safetensors", ".ckpt", ".bin"):
        raise UserError(f"--model {spec} is a file of weights, which do not say to which network they belong. Name the "
                        f"network: --model timm:NAME --checkpoint {spec}, or --model FILE.py:FUNCTION")
    if suffix in (".h5", ".hdf5", ".keras", ".pb"):
        raise UserError(f"--model {spec} is a file of Keras or TensorFlow: convert it to .tflite, or load it in a "
                        f"function of yours and give --model FILE.py:FUNCTION")
    if ":" in spec:
        return "factory"
    if path.exists():
        raise UserError(f"--model {spec} is none of {FORMS}")
    raise UserError(f"--model {spec}: there is no such file or folder, and it is none of {FORMS}")


def check_options(kind: str, options: ModelOptions) -> None:
    """Raises UserError where an option is missing that the kind needs, or is given that it does not take."""
    if kind in RUN_CODE and not options.trust_code:
        raise UserError(f"--model {options.model} runs code of its author, which can do anything on this machine. If "
                        f"you trust it, add --trust-code")
    if kind == "run" and options.stated():
        raise UserError(f"{', '.join(options.stated())}: a run of this project needs none of them, it knows its own")
    if options.checkpoint is not None and kind not in ("timm", "factory"):
        raise UserError(f"--checkpoint is for timm:NAME and for functions; --model {options.model} holds its weights")
    if options.num_classes is not None and kind != "timm":
        raise UserError("--num-classes is for timm:NAME; for other models --classes names what they give")
    if options.folder is not None and kind != "factory":
        raise UserError("--folder is for MODULE:FUNCTION and FILE.py:FUNCTION")
    if options.device != "auto" and kind not in CHOOSE_DEVICE:
        raise UserError("--device is for ONNX files and functions; other models compute on the GPU where there is one "
                        "(CUDA_VISIBLE_DEVICES= hides it)")
    if kind == "logits" and options.input is not None:
        raise UserError("--input says how a network takes pictures; for logits:PATH there is none")


def check_machine(kind: str, precision: str, compile: bool) -> None:
    """Raises UserError for options of the machine that would have no effect on a model of this kind."""
    if kind in OUTSIDE_TORCH and precision != "32":
        raise UserError(f"--precision {precision} has no effect on a model outside this process: it computes in a "
                        f"format of its own. Leave the option out")
    if kind in OUTSIDE_TORCH and compile:
        raise UserError("--compile has no effect on a model outside this process. Leave the option out")


def class_names(text: str) -> list[str]:
    """The names that a text of --classes states: with commas between them, or in a file, one a line.

    Raises UserError where there are fewer than two, two are equal, or one is empty or too long."""
    if "," in text:
        names = [name.strip() for name in text.split(",")]
    else:
        path = Path(text)
        if not path.is_file():
            raise UserError(f"--classes {text}: one name is not enough, and there is no such file; write the names "
                            f"with commas between them, or one a line in a file")
        if path.stat().st_size > LARGEST_CLASSES_FILE:
            raise UserError(f"--classes {text}: the file is larger than 1 MB; it has one name a line")
        names = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    check_class_names(names, "--classes")
    return names


def check_class_names(names: list[str], owner: str) -> None:
    """Raises UserError where these are no names of classes. owner: where they stand, as the message begins."""
    if not 2 <= len(names) <= MOST_CLASSES:
        raise UserError(f"{owner} names {len(names)} classes; a model has 2 to {MOST_CLASSES}")
    for number, name in enumerate(names, 1):
        if not name or len(name) > LONGEST_NAME or not name.isprintable():
            raise UserError(f"{owner}: name {number} is empty, longer than {LONGEST_NAME} characters, or not printable")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"{owner} names {twice[0]} twice")


def model_name(kind: str, options: ModelOptions) -> str:
    """What messages and tables call the model: --name, or else made from --model. Raises UserError."""
    if options.name is not None:
        name = options.name.strip()
        if not name or len(name) > LONGEST_NAME or not name.isprintable():
            raise UserError(f"--name is a text of 1 to {LONGEST_NAME} printable characters")
        return name
    source = short_source(options.model or "")
    if kind == "timm" and options.checkpoint is not None:
        return f"{source.removeprefix('timm:')} {options.checkpoint.stem}"
    if kind in SUFFIXES.values():
        return Path(source).stem
    if kind == "logits":
        return Path(source.removeprefix("logits:")).stem
    return source.removeprefix("hf:")


def short_source(spec: str) -> str:
    """The text of --model without the folders above its file, which are nobody else's business."""
    for prefix in ("hf:", "logits:"):
        if spec.startswith(prefix):
            return prefix + (Path(spec.removeprefix(prefix)).resolve().name or "folder")
    if spec.startswith("timm:"):
        return spec
    path, colon, function = spec.rpartition(":")
    if colon and path.endswith(".py"):
        return f"{Path(path).name}:{function}"
    return spec if colon and not Path(spec).exists() else Path(spec).name
