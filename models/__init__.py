"""Floor 3: the networks, and the files of their weights.

  resnet.py         ResNet-18, the network of the baseline; folding.py computes it faster in inference
  scn.py, dmue.py,
  rul.py            the networks of these algorithms, built on a ResNet-18
  joint_stages.py   the last stages of dmue.py's experts, computed together
  swinv2.py         SwinV2-T, or any other network of timm; window_attention.py computes its attention faster on a GPU
  timm_names.py     the names of timm's networks
  detector.py       the networks of open-set FER
  pretrained.py     loads weights to start from
  efficientnet_names.py
                    the names of EfficientNet's tensors in other people's files
  weight_files.py   tells what kind of file these weights are in
  checkpoints.py    best.pt and last.pt as files
  augment.py        augmentation of batches

A network is a subclass of `Model`, built as `Class(num_classes, image_size, **options)`.

In eval mode model(image) takes uint8 (N, 3, S, S) in 0..255 and returns logits (N, K) and nothing else; what it takes
and returns in training mode is up to the algorithm. Normalisation is the first layer, so that nobody can forget or
double it.

This file holds the base class `Model`, the layer `Normalize`, and `build_model`, which builds a network from a run's
args.json. The annotations of a class's arguments say which values `build_model` accepts for them: a type, `Literal`
choices, a range (`Between`).
"""
import importlib
import inspect
import math
import pkgutil
import re
from collections.abc import Sequence
from types import NoneType
from typing import Annotated, Any, Literal, Self, get_args, get_origin, get_type_hints

import torch
from torch import nn

from support.cli import Between, ranges_of
from support.errors import UserError, first_line

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # red, green, blue, in 0..1
IMAGENET_STD = (0.229, 0.224, 0.225)
NumClasses = Annotated[int, Between(2, 1000)]
ImageSize = Annotated[int, Between(16, 4096)]  # side in pixels


class Model(nn.Module):
    """The base class of networks. It keeps the arguments that it was built with, so that the network can be built
    again from a run's args.json. A network's `backbone` is the part that weights to start from are loaded into."""

    backbone: nn.Module

    def __init__(self, num_classes: NumClasses, image_size: ImageSize, **options: Any) -> None:
        super().__init__()
        self.arguments = {"num_classes": num_classes, "image_size": image_size, **options}

    @property
    def description(self) -> dict[str, Any]:
        """What args.json stores, so that `build_model` can build the network again."""
        kind = type(self)
        return {"class": f"{kind.__module__}.{kind.__qualname__}", "arguments": self.arguments}

    def for_inference(self, dtype: torch.dtype) -> Self:
        """A network with the same logits up to rounding, in the form that is fastest for inference on a GPU. dtype: the
        type in which it computes, float32 or bfloat16. This one stays as it is."""
        return self

    def step_inputs(self, count: int) -> tuple[torch.Tensor, ...] | None:
        """Zeros of the shapes and types that `forward` takes in a training step of `count` images; None where a step
        has to wait for the device, or where recordings of its passes (compute/graphs.py) gain nothing."""
        return None

    def after_loading(self) -> None:
        """Called after weights have been loaded into `self.backbone`."""

    def imagenet_weights(self) -> tuple[str, dict[str, torch.Tensor]]:
        """(name, state dict) of the backbone's ImageNet weights, from a cache or the internet."""
        raise NotImplementedError


class Normalize(nn.Module):
    """uint8 (N, 3, H, W) in 0..255 -> float32 (N, 3, H, W), (x / 255 - mean) / std per channel, channels last.

    feeds_convolution: whether a convolution reads the result as it is. On a GPU under autocast the result then has
    autocast's type at once."""

    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(self, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD,
                 feeds_convolution: bool = True) -> None:
        super().__init__()
        self.feeds_convolution = feeds_convolution
        self.register_buffer("scale", 1 / (255 * torch.tensor(std).view(1, 3, 1, 1)), persistent=False)
        self.register_buffer("shift", torch.tensor(mean).view(1, 3, 1, 1) / torch.tensor(std).view(1, 3, 1, 1),
                             persistent=False)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        if image.is_cuda and not torch.compiler.is_compiling():
            rounds = self.feeds_convolution and torch.is_autocast_enabled("cuda")
            return self.in_one_operation(image, torch.get_autocast_dtype("cuda") if rounds else self.scale.dtype)
        image = image.to(self.scale.dtype, memory_format=torch.channels_last)
        return image * self.scale - self.shift

    def in_one_operation(self, image: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """`forward`, rounded to `dtype`. The images are read and written once: on a GPU this takes a quarter of the
        time."""
        image = image.contiguous(memory_format=torch.channels_last)
        out = torch.empty_like(image, dtype=dtype)
        return torch.addcmul(-self.shift, image, self.scale, out=out)


def build_model(description: dict[str, Any]) -> Model:
    """Build the network that `Model.description` describes, with initial weights.

    description: {"class": "models.<file>.<class>", "arguments": {name: plain value}}, as args.json holds it under
    "model". Whoever wrote that file must not decide what is called: nothing but a whole network of this package is
    built, from values that its class declares, and all of this is checked before anything is called. Raises UserError
    in one line; the caller puts the name of the file before it.
    """
    if not isinstance(description, dict) or not isinstance(description.get("arguments"), dict):
        raise UserError('its entry "model" has to hold "class" and "arguments"')
    kind, arguments = _find_class(description.get("class")), description["arguments"]
    name = f"{kind.__module__}.{kind.__qualname__}"
    declared = {key: entry for key, entry in inspect.signature(kind).parameters.items()
                if entry.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD}
    unknown = [str(key) for key in arguments if key not in declared]
    if unknown:
        raise UserError(f"{name} has no argument {', '.join(map(_shortened, unknown[:3]))}")
    missing = [key for key, entry in declared.items() if entry.default is entry.empty and key not in arguments]
    if missing:
        raise UserError(f"its entry \"model\" lacks {', '.join(missing)} among the arguments of {name}")
    types = get_type_hints(kind.__init__, include_extras=True)
    for key, value in arguments.items():
        if not _is_allowed(value, types[key]):
            raise UserError(f"{name} takes {_expected(types[key])} for {key}, not {_shortened(value)}")
    try:
        return kind(**arguments)
    except UserError:
        raise
    except Exception as error:  # networks have their own ways of not being built
        raise UserError(f"{name} cannot be built: {first_line(error)}") from None


def _find_class(path: Any) -> type[Model]:
    """The network that a path of the form models.<file>.<class> names. Raises UserError for everything else."""
    refusal = UserError(f"{_shortened(path)} is no network of models/; only those are built")
    match = re.fullmatch(r"models\.([a-z]\w*)\.([A-Za-z]\w*)", path, re.ASCII) if isinstance(path, str) else None
    if match is None or match[1] not in {module.name for module in pkgutil.iter_modules(__path__)}:
        raise refusal
    try:
        module = importlib.import_module(f"models.{match[1]}")
    except ImportError as error:
        raise UserError(f"models.{match[1]} cannot be imported ({first_line(error)})") from None
    kind = vars(module).get(match[2])
    is_network = isinstance(kind, type) and issubclass(kind, Model) and kind.__module__ == module.__name__
    if not is_network or "forward" not in vars(kind):  # a base class of networks is no network itself
        raise refusal
    return kind


def _is_allowed(value: Any, annotation: Any) -> bool:
    """Whether a value read from JSON is of the annotated type, one of its choices, and within its range."""
    if get_origin(annotation) is Annotated:
        if type(value) not in (int, float):
            return False
        is_inside = all(limit.holds(value) for limit in ranges_of(annotation))
        return is_inside and _is_allowed(value, get_args(annotation)[0])
    if get_origin(annotation) is Literal:
        return isinstance(value, str) and value in get_args(annotation)
    if get_args(annotation):  # one of several types
        return any(_is_allowed(value, choice) for choice in get_args(annotation))
    if annotation is float:
        return type(value) in (int, float) and math.isfinite(value)
    return type(value) is annotation


def _expected(annotation: Any) -> str:
    """In words, what an annotation allows."""
    if get_origin(annotation) is Annotated:
        kind = "a whole number" if get_args(annotation)[0] is int else "a number"
        return f"{kind} {' and '.join(map(str, ranges_of(annotation)))}"
    if get_args(annotation):
        choices = []
        for choice in get_args(annotation):
            choices.append(repr(choice) if isinstance(choice, str) else _expected(choice))
        return " or ".join(choices)
    words = {bool: "true or false", str: "a text", int: "a whole number", float: "a number", NoneType: "null"}
    return words[annotation]


def _shortened(value: Any) -> str:
    """A value for a message, in one line of bounded length."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
