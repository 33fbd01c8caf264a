"""The networks. Each is a class built as Model(num_classes, image_size, **options); in eval mode model(uint8 NCHW)
returns logits and nothing else. Normalisation is its first layer, so that nobody can forget or double it.

The annotations of a class's arguments say what `build_model` accepts for them: a type, `Literal` choices, a `Between`.
"""
import importlib
import inspect
import math
import pkgutil
import re
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import torch
from torch import nn

from cli import Between, UserError, first_line, ranges_of

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NumClasses = Annotated[int, Between(2, 1000)]
ImageSize = Annotated[int, Between(16, 4096)]  # side in pixels


class Model(nn.Module):
    """Base class: remembers what it was built with, so that a run can be rebuilt from its args.json."""

    def __init__(self, num_classes: NumClasses, image_size: ImageSize, **options: Any):
        super().__init__()
        self.arguments = {"num_classes": num_classes, "image_size": image_size, **options}

    @property
    def recipe(self):
        """What args.json stores to build it again."""
        kind = type(self)
        return {"class": f"{kind.__module__}.{kind.__qualname__}", "arguments": self.arguments}

    def after_loading(self):
        """Called when weights have been loaded into `self.backbone`."""


class Normalize(nn.Module):
    """uint8 (N, 3, H, W) in 0..255 -> float32, (x / 255 - mean) / std per channel, channels last."""

    def __init__(self, mean=IMAGENET_MEAN, std=IMAGENET_STD):
        super().__init__()
        self.register_buffer("scale", 1 / (255 * torch.tensor(std).view(1, 3, 1, 1)), persistent=False)
        self.register_buffer("shift", torch.tensor(mean).view(1, 3, 1, 1) / torch.tensor(std).view(1, 3, 1, 1),
                             persistent=False)

    def forward(self, image):
        image = image.to(self.scale.dtype, memory_format=torch.channels_last)
        return image * self.scale - self.shift


def build_model(recipe: dict[str, Any]) -> Model:
    """Build the network that `Model.recipe` described, with initial weights.

    recipe: {"class": "models.<file>.<class>", "arguments": {name: plain value}}, as args.json holds it under "model".
    Whoever wrote that file must not decide what is called: nothing but a whole network of this package is built, from
    values that its class declares, and all of this is checked before anything is called. Raises UserError in one line.
    """
    if not isinstance(recipe, dict) or not isinstance(recipe.get("arguments"), dict):
        raise UserError("the network's recipe has to hold \"class\" and \"arguments\"")
    kind, arguments = _find_class(recipe.get("class")), recipe["arguments"]
    name = f"{kind.__module__}.{kind.__qualname__}"
    declared = {key: entry for key, entry in inspect.signature(kind).parameters.items()
                if entry.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD}
    unknown = [str(key) for key in arguments if key not in declared]
    if unknown:
        raise UserError(f"{name} has no argument {', '.join(map(_shortened, unknown[:3]))}")
    missing = [key for key, entry in declared.items() if entry.default is entry.empty and key not in arguments]
    if missing:
        raise UserError(f"the recipe of {name} lacks {', '.join(missing)}")
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
    if not is_network or "forward" not in vars(kind):  # a base class of networks is none itself
        raise refusal
    return kind


def _is_allowed(value: Any, annotation: Any) -> bool:
    """Whether a value read from JSON is of the annotated type, one of its choices, and within its range."""
    if get_origin(annotation) is Annotated:
        inside = all(limit.low <= value <= limit.high and not (limit.above and value == limit.low)
                     for limit in ranges_of(annotation)) if type(value) in (int, float) else False
        return inside and _is_allowed(value, get_args(annotation)[0])
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
        return " or ".join(repr(choice) if isinstance(choice, str) else _expected(choice)
                           for choice in get_args(annotation))
    words = {bool: "true or false", str: "a text", int: "a whole number", float: "a number", NoneType: "null"}
    return words[annotation]


def _shortened(value: Any) -> str:
    """A value for a message, in one line of bounded length."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
