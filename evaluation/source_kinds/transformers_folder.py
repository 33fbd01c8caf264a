"""hf:FOLDER, a network for image classification that the library transformers has saved, with safetensors.

The network and the names of its classes come from config.json, the preprocessing from preprocessor_config.json: size,
crop, interpolation, scale, mean and standard deviation. Nothing is fetched and no code of the folder is run. Before
memory is taken, the names and shapes in the safetensors files are compared with those of the network.
"""
import json
import re
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from building.integrity import sha256_of_file
from evaluation.model_options import ModelOptions, check_class_names
from evaluation.source_kinds.source import Source, parameters_of, sha256_of_all
from models.timm_names import no_warnings
from support.errors import UserError, first_line
from support.optional_packages import require_packages

CONFIG, PREPROCESSOR, INDEX = "config.json", "preprocessor_config.json", "model.safetensors.index.json"
LARGEST_JSON = 20_000_000  # bytes
LARGEST_NUMBER = 1_000_000  # in config.json, where an honest one has widths, heads and layers
LARGEST_DEPTH = 1000  # layers
NOT_DESCRIBED = ("rescale_offset", "do_flip_channel_order", "do_pad")  # what InputFormat has no words for
OPTIONAL_TENSORS = ("num_batches_tracked", "position_ids")  # which files of older versions may lack
RESIZES = {0: "nearest", 1: "bicubic", 2: "bilinear", 3: "bicubic", 4: "area", 5: "bilinear"}  # of Pillow


class LogitsOf(torch.nn.Module):
    """A network of transformers that gives its logits alone."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Logits (N, K)."""
        return self.network(pixel_values=inputs).logits


def load(options: ModelOptions) -> Source:
    """The network with its weights. Raises UserError where the folder is no such network, or is damaged."""
    folder = Path(str(options.model).removeprefix("hf:"))
    if not folder.is_dir():
        raise UserError(f"--model hf:{folder}: there is no such folder. Nothing is fetched: download it first")
    config = json_of(folder / CONFIG)
    check_numbers(config, folder / CONFIG)
    require_packages(f"hf:{folder}", "transformers", "safetensors")
    files = weight_files(folder)
    network = load_network(folder, files)
    usual = fields_of_preprocessor(folder)
    channels = config.get("num_channels", 3)
    if channels not in (1, 3):
        raise UserError(f"{folder / CONFIG}: the network takes {str(channels)[:20]} channels, not 1 or 3")
    hashes = [sha256_of_file(file) for file in (folder / CONFIG, *files)]
    return Source(LogitsOf(network), sha256_of_all(hashes), usual=usual, channels=channels, output="logits",
                  classes=class_names_of(config, folder), parameters=parameters_of(network))


def json_of(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object. Raises UserError where it is none."""
    if not path.is_file():
        raise UserError(f"{path} is missing: hf:FOLDER takes a folder that save_pretrained of transformers has written")
    if path.stat().st_size > LARGEST_JSON:
        raise UserError(f"{path} is larger than 20 MB, so it is no configuration")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        raise UserError(f"{path} is no JSON file, or damaged") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no object of JSON")
    return content


def check_numbers(value: Any, path: Path, name: str = "") -> None:
    """Raises UserError where a configuration has a number with which a network would fill the memory."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key not in ("id2label", "label2id"):
                check_numbers(item, path, str(key))
    elif isinstance(value, list):
        for item in value:
            check_numbers(item, path, name)
    elif isinstance(value, int) and not isinstance(value, bool):
        limit = LARGEST_DEPTH if re.search("layers|depth|blocks", name) else LARGEST_NUMBER
        if value > limit:
            raise UserError(f"{path}: {name[:40]} is {value}, and no network has that many")


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of the folder. Raises UserError where there are none, or one lies outside."""
    single = folder / "model.safetensors"
    if single.is_file():
        return [single]
    if not (folder / INDEX).is_file():
        raise UserError(f"{single} is missing: only weights in the format safetensors are read (in Python: "
                        f"model.save_pretrained(FOLDER))")
    names = json_of(folder / INDEX).get("weight_map")
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise UserError(f"{folder / INDEX} is damaged")
    files = []
    for name in sorted(set(names.values())):
        if Path(name).name != name or not name.endswith(".safetensors") or not (folder / name).is_file():
            raise UserError(f"{folder / INDEX} names {name[:100]!r}, which is no safetensors file of this folder")
        files.append(folder / name)
    return files


def shapes_of(path: Path) -> dict[str, tuple[int, ...]]:
    """{name: shape} of the tensors in a safetensors file, from its header. Raises UserError where it is damaged."""
    try:
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > LARGEST_JSON:
                raise ValueError
            header = json.loads(file.read(length))
        return {name: tuple(map(int, entry["shape"])) for name, entry in header.items() if name != "__metadata__"}
    except (ValueError, KeyError, TypeError, AttributeError, struct.error, RecursionError):
        raise UserError(f"{path} is no safetensors file, or damaged; fetch it again") from None


def load_network(folder: Path, files: list[Path]) -> torch.nn.Module:
    """The network in eval mode, in float32. Raises UserError where transformers does not have it, or the tensors of
    the files are not exactly its own."""
    import transformers

    stored: dict[str, tuple[int, ...]] = {}
    for file in files:
        stored |= shapes_of(file)
    auto_model = transformers.AutoModelForImageClassification
    verbosity = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        with no_warnings():
            config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            with torch.device("meta"):
                outline = auto_model.from_config(config, trust_remote_code=False)
            check_shapes(outline, stored, folder)
            network, report = auto_model.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, dtype=torch.float32, trust_remote_code=False,
                output_loading_info=True)
        refuse_missing(report["missing_keys"], folder)
    except UserError:
        raise
    except Exception as error:  # of many kinds
        raise UserError(f"hf:{folder}: transformers cannot load it as a network for image classification "
                        f"({first_line(error)[:300]})") from None
    finally:
        transformers.utils.logging.set_verbosity(verbosity)
    return network.eval()


def refuse_missing(names: Iterable[str], folder: Path) -> None:
    """Raises UserError where tensors of a network are not in its files. transformers would leave them as they were
    drawn at random: a classifier, for example, where the folder holds a network without one."""
    missing = sorted(name for name in names if not name.endswith(OPTIONAL_TENSORS))
    if missing:
        raise UserError(f"hf:{folder}: {len(missing)} tensors of the network are not in its files, for example "
                        f"{missing[0]}; fetch the folder again")


def check_shapes(outline: torch.nn.Module, stored: dict[str, tuple[int, ...]], folder: Path) -> None:
    """Raises UserError where a parameter of the network is not stored, or with another shape, before memory is taken
    for it. Where as many unknown tensors are stored as are missing, a newer version of transformers may have changed
    their names: it knows which, and `refuse_missing` asks it."""
    own = {name: tuple(tensor.shape) for name, tensor in outline.state_dict().items()}
    wrong = [name for name, shape in own.items() if name in stored and stored[name] != shape]
    missing = [name for name in own if name not in stored and not name.endswith(OPTIONAL_TENSORS)]
    unknown = [name for name in stored if name not in own]
    if wrong:
        raise UserError(f"hf:{folder}: {wrong[0]} has shape {stored[wrong[0]]} in the file and {own[wrong[0]]} in the "
                        f"network of {CONFIG}; the two belong to different models")
    if len(unknown) < len(missing):
        refuse_missing(missing, folder)
    sizes = sum(int(torch.Size(shape).numel()) for shape in own.values())
    in_files = sum(int(torch.Size(shape).numel()) for shape in stored.values())
    if sizes > 2 * in_files:
        raise UserError(f"hf:{folder}: {CONFIG} describes a network of {sizes} numbers, and the files hold {in_files}")


def class_names_of(config: dict[str, Any], folder: Path) -> list[str] | None:
    """The names of the classes in config.json; None where they are LABEL_0, LABEL_1, ..., which say nothing. Raises
    UserError where they are damaged."""
    labels = config.get("id2label")
    if not isinstance(labels, dict) or not labels:
        return None
    names = [labels.get(str(number)) for number in range(len(labels))]
    if not all(isinstance(name, str) for name in names):
        raise UserError(f"{folder / CONFIG}: id2label does not name the outputs 0 to {len(labels) - 1}")
    texts = [str(name).strip() for name in names]
    if all(re.fullmatch(r"LABEL_\d+|\d+", text) for text in texts):
        return None
    check_class_names(texts, str(folder / CONFIG))
    return texts


def fields_of_preprocessor(folder: Path) -> dict[str, Any]:
    """{field of InputFormat: value} of preprocessor_config.json; empty where the folder has none. Raises UserError for
    a preprocessing that InputFormat cannot describe."""
    path = folder / PREPROCESSOR
    if not path.is_file():
        return {}
    entries = json_of(path)
    usual: dict[str, Any] = {}
    try:
        if any(entries.get(key) for key in NOT_DESCRIBED) or divides_twice(entries):
            raise ValueError
        size, crop = side_and_crop(entries)
        if size:
            usual |= {"size": size, "crop": crop}
        usual["resize"] = RESIZES.get(entries.get("resample", 2), "bilinear")
        factor = float(entries.get("rescale_factor", 1 / 255)) if entries.get("do_rescale", True) else 1.0
        if entries.get("do_normalize", True):
            mean, std = (tuple(float(value) / (255 * factor) for value in numbers) for numbers in (
                entries["image_mean"], entries["image_std"]))
            usual |= {"range": "standardised", "mean": mean, "std": std}
        elif abs(factor * 255 - 1) < 1e-3:
            usual["range"] = "0..1"
        elif factor == 1:
            usual["range"] = "0..255"
        else:
            raise ValueError
    except (KeyError, TypeError, ValueError, ZeroDivisionError, OverflowError):
        raise UserError(f"{path}: this preprocessing is not understood; state all of it: --input size=...,range=... or "
                        f"mean=...,std=..., and move the file away") from None
    return usual


def divides_twice(entries: dict[str, Any]) -> bool:
    """Whether a preprocessor divides by the standard deviation a second time, as EfficientNet's does by default."""
    names = (str(entries.get(key, "")) for key in ("image_processor_type", "feature_extractor_type"))
    return bool(entries.get("include_top", any(name.startswith("EfficientNet") for name in names)))


def side_and_crop(entries: dict[str, Any]) -> tuple[int | None, float]:
    """(side of the network's pictures, fraction of the side that is kept before) of a preprocessor; (None, 1) where it
    does not resize."""
    size: Any = entries.get("size")
    side: int | None = None
    if entries.get("do_resize", True) and size is not None:
        length = size
        if isinstance(size, dict):
            length = size.get("shortest_edge", size.get("height"))
            if size.get("width", length) != length or size.get("height", length) != length:
                raise ValueError
        side = int(length)
    if "crop_pct" in entries and side is not None and entries["crop_pct"] and side < 384:  # as ConvNeXt's does
        return side, float(entries["crop_pct"])
    if not entries.get("do_center_crop", False):
        return side, 1.0
    crop: Any = entries.get("crop_size", side)
    kept = int(crop["height"] if isinstance(crop, dict) else crop)
    return kept, min(1.0, kept / side) if side else 1.0
