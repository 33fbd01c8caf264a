"""What a network takes: size, order of colours, range of values and layout.

`--input` of evaluate.py states it, a model's file may state it, and a card records it. The text is a list of words
KEY=VALUE with commas between them, for example

  size=64,colour=grey,range=-1..1
  size=224,mean=0.485,0.456,0.406,std=0.229,0.224,0.225,crop=0.875,resize=bicubic

network_input.py makes such inputs of pictures. Nothing here imports torch: options and cards need it.
"""
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from support.errors import UserError

COLOURS = {"rgb": 3, "bgr": 3, "grey": 1, "grey3": 3}  # order of colours -> number of channels
LIMITS = {"0..255": (0, 255), "0..1": (0, 1), "-1..1": (-1, 1)}  # the values of black and white
RANGES = (*LIMITS, "standardised")
LAYOUTS = ("nchw", "nhwc")
DTYPES = ("float32", "uint8")
RESIZES = ("bilinear", "bicubic", "area", "nearest")
CHOICES = {"colour": tuple(COLOURS), "range": RANGES, "layout": LAYOUTS, "dtype": DTYPES, "resize": RESIZES}
OTHER_SPELLINGS = {"color": "colour", "colours": "colour", "interpolation": "resize", "gray": "grey", "gray3": "grey3",
                   "standardized": "standardised"}
LARGEST_SIZE = 4096  # pixels; more is a slip of the pen, and would fill the memory


@dataclass(frozen=True)
class InputFormat:
    """What a network takes. Raises UserError where the fields contradict each other."""

    size: int | None = None
    """side of the square picture in pixels; None: any, so the set's pictures keep their size"""
    colour: str = "rgb"
    """"rgb", "bgr", "grey" (one channel) or "grey3" (grey, repeated in three channels)"""
    range: str = "0..255"
    """"0..255", "0..1", "-1..1" or "standardised": (v - mean) / std of values v in 0..1"""
    mean: tuple[float, ...] = ()
    """for "standardised": one for each channel, in the network's order of channels"""
    std: tuple[float, ...] = ()
    """for "standardised": one for each channel, in the network's order of channels"""
    layout: str = "nchw"
    """"nchw" or "nhwc": order of batch, channels, height, width"""
    dtype: str = "float32"
    """"float32" or "uint8"; uint8 has the range 0..255"""
    crop: float = 1.0
    """fraction of the side that is kept around the centre, before the picture gets its size (timm's crop_pct)"""
    resize: str = "bilinear"
    """how pictures get to `size`: "bilinear", "bicubic" (both smooth before they shrink, as Pillow does), "area" or
    "nearest" """

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise UserError(f"--input: {name} is {', '.join(choices[:-1])} or {choices[-1]}, not "
                                f"{str(getattr(self, name))[:40]!r}")
        if self.size is not None and not 1 <= self.size <= LARGEST_SIZE:
            raise UserError(f"--input: size is a number of pixels from 1 to {LARGEST_SIZE}, not {self.size}")
        if not 0 < self.crop <= 1:
            raise UserError(f"--input: crop is a fraction above 0 and up to 1, not {self.crop}")
        if self.dtype == "uint8" and self.range != "0..255":
            raise UserError(f"--input: dtype=uint8 has range=0..255, not {self.range}")
        self._check_mean_and_std()

    def _check_mean_and_std(self) -> None:
        """Raises UserError where mean and standard deviation do not belong to the range or to the channels."""
        if self.range != "standardised":
            if self.mean or self.std:
                raise UserError(f"--input: range={self.range} has no mean and std; leave out range, or both of them")
            return
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != self.channels:
                example = "0.5" if self.channels == 1 else "0.5,0.5,0.5"
                raise UserError(f"--input: {name} has {len(values)} number{'s' * (len(values) != 1)}, and "
                                f"colour={self.colour} needs {self.channels}, one for each channel; write for example "
                                f"{name}={example}")
            if not all(math.isfinite(value) for value in values):
                raise UserError(f"--input: {name} is not finite")
        if min(self.std) <= 0:
            raise UserError("--input: std has to be above 0")
        if max(map(abs, self.mean)) > 1.5 or max(self.std) > 5:
            raise UserError("--input: mean and std are those of values in 0..1; divide numbers of 0..255 by 255")

    @property
    def channels(self) -> int:
        """Number of channels, 1 or 3."""
        return COLOURS[self.colour]

    @classmethod
    def parse(cls, text: str, base: "InputFormat | None" = None) -> "InputFormat":
        """The format that a text of `--input` states; what the text leaves out is as in `base`.

        Without a base the text has to state the range of a float32 input: it cannot be guessed. Raises UserError."""
        return complete_format({} if base is None else base.stated(), stated_fields(text))

    def stated(self) -> dict[str, Any]:
        """{field: value} of all fields."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def description(self) -> str:
        """One line, as `--input` takes it: `parse` gives the same format again."""
        words = [] if self.size is None else [f"size={self.size}"]
        words.append(f"colour={self.colour}")
        if self.range == "standardised":
            words += [f"mean={','.join(map(repr, self.mean))}", f"std={','.join(map(repr, self.std))}"]
        else:
            words.append(f"range={self.range}")
        words += [f"layout={self.layout}"] if self.layout != "nchw" else []
        words += [f"dtype={self.dtype}"] if self.dtype != "float32" else []
        words += [f"crop={self.crop!r}"] if self.crop != 1 else []
        words += [f"resize={self.resize}"] if self.resize != "bilinear" else []
        return ",".join(words)

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON holds them, for a card or model.json."""
        return asdict(self) | {"mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "InputFormat":
        """The format that `as_dict` wrote. Raises UserError where the values are none; they may come from anybody."""
        wrong = UserError("the input format is damaged: its fields are those of evaluation/input_format.py")
        if not isinstance(values, Mapping) or not set(values) <= {field.name for field in fields(cls)}:
            raise wrong
        given: dict[str, Any] = dict(values)
        for name, value in given.items():
            if name in ("mean", "std"):
                if not isinstance(value, list | tuple) or not all(map(_is_number, value)):
                    raise wrong
                given[name] = tuple(map(float, value))
            elif name == "size":
                if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
                    raise wrong
            elif name == "crop":
                if not _is_number(value):
                    raise wrong
                given[name] = float(value)
            elif not isinstance(value, str):
                raise wrong
        return cls(**given)


def complete_format(known_fields: Mapping[str, Any], stated: Mapping[str, Any]) -> InputFormat:
    """The format of a model whose source says the fields `known_fields`; what the user states, `stated`, counts more.

    Raises UserError where neither says the range of a float32 input, which cannot be guessed, and where the fields
    contradict each other."""
    merged = {**known_fields, **stated}
    if "range" not in stated and ("mean" in stated or "std" in stated):
        merged["range"] = "standardised"
    elif "range" not in merged and merged.get("dtype") == "uint8":
        merged["range"] = "0..255"
    if "range" not in merged:
        raise UserError("the range of the values is not known; add one of --input range=0..255, --input range=0..1, "
                        "--input range=-1..1, --input mean=0.5,std=0.5 (one number for each channel)")
    if merged["range"] != "standardised":
        for name in ("mean", "std"):
            if name not in stated:
                merged.pop(name, None)
    if merged["range"] != "0..255" and "dtype" not in stated:
        merged["dtype"] = "float32"
    return InputFormat(**merged)


def _is_number(value: Any) -> bool:
    """Whether a value of a JSON file is a number."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def stated_fields(text: str) -> dict[str, Any]:
    """{field of InputFormat: value} of a text of `--input`. Raises UserError where the text is none."""
    names = [field.name for field in fields(InputFormat)]
    words: dict[str, list[str]] = {}
    key = ""
    for word in text.split(","):
        before, equals, after = word.partition("=")
        if equals:
            key = before.strip().lower()
            key = OTHER_SPELLINGS.get(key, key)
            if key not in names:
                raise UserError(f"--input: {before.strip()[:40]!r} is not one of {', '.join(names)}")
            if key in words:
                raise UserError(f"--input states {key} twice")
            words[key] = [after.strip()]
        elif key in ("mean", "std"):
            words[key].append(word.strip())  # mean=0.5,0.5,0.5
        else:
            raise UserError(f"--input: {word.strip()[:40]!r} is not KEY=VALUE; write for example "
                            f"--input size=64,colour=grey,range=0..1")
    return {key: _value_of(key, values) for key, values in words.items()}


def _value_of(key: str, words: list[str]) -> Any:
    """The value of a field, from its words. Raises UserError where it is not of the field's type."""
    try:
        if key in ("mean", "std"):
            return tuple(float(word) for word in words)
        if key == "size":
            return int(words[0])
        if key == "crop":
            return float(words[0])
    except ValueError:
        kind = {"size": "a whole number of pixels", "crop": "a number"}.get(key, "numbers with commas between them")
        raise UserError(f"--input: {key} is {kind}, not {','.join(words)[:40]!r}") from None
    word = words[0].lower()
    return OTHER_SPELLINGS.get(word, word)
