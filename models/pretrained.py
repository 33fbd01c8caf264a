"""Weights to start from: `imagenet` (fetched once), `none`, or a local file. Never a silent fallback.

Files of the face-recognition and FER projects differ in wrapping, prefixes and names. These are understood: the state
dict bare or under one of `WRAPPERS`; keys with any of `PREFIXES` before them; a ResNet kept as `nn.Sequential` of its
parts (as in the FER-C release); an EfficientNet under the names of EfficientNet-PyTorch. Classifiers and other parts
that the backbone does not have are skipped and named.

A file is for another network, and refused, if one of these holds:
- fewer than half of the backbone's convolution and linear weights are in it (BatchNorms of equal width are in many
  networks and do not count);
- a weight, bias or statistic of a layer is in it with another shape. Allowed are another number of input channels of
  the first convolution and another number of classes of the classifier: these tensors keep their initial values, as
  do position embeddings (of transformers);
- it has a convolution or linear weight in a part of the backbone (layer1, ...) where the backbone has none: the
  network is deeper, or has other blocks.
"""
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models import Model, checkpoints, efficientnet_names, weight_files
from support.errors import UserError, first_line

WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "backbone")
PREFIXES = ("module.", "model.", "backbone.", "base.", "encoder.", "features.", "feat_net.", "resnet.",
            "net.")
SEQUENTIAL = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}  # of a ResNet
LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
VALUES = ("weight", "bias", "running_mean", "running_var")  # last part of the names of a layer's tensors
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def load(model: Model, weights: str) -> dict[str, Any]:
    """Load `weights` into `model.backbone`, then call the model's `after_loading`.

    weights: "none", "imagenet" (what `model.imagenet_weights()` gives) or a path. Returns the report for the run's
    records: name, sha256 of the file or of the tensors, `loaded` (keys), `skipped` (key of the file -> why),
    `initialised` (keys of the backbone that keep their initial values). Raises UserError when weights cannot be had,
    are not plain tensors of finite numbers, or are for another network (the rule is at the top of this file).
    """
    if weights == "none":
        return {"name": "none"}
    state, source = _imagenet(model) if weights == "imagenet" else _from_file(Path(weights))
    where = weights if weights == "imagenet" else f"--weights {weights}"
    own = model.backbone.state_dict()
    state = _renamed(state, own)
    matching, skipped = _match(state, own, where)
    _refuse_other_network(model.backbone, state, matching, skipped, where)
    loaded = {key: _converted(name, state[name], own[key], where) for key, name in matching.items()}
    model.backbone.load_state_dict(own | loaded)
    model.after_loading()
    return source | {"loaded": sorted(loaded), "skipped": skipped, "initialised": sorted(set(own) - set(loaded))}


def load_whole(network: nn.Module, path: Path, option: str) -> None:
    """Load a file of weights into a network that was built for it, its classifier included. The file is read as `load`
    reads one: safely, with the wrappers and prefixes that are understood.

    option: the one that names the file, for messages. Raises UserError where a tensor of the network is missing, one of
    the file has no place in the network, or a shape differs. (BatchNorm's counters of batches may be missing.)"""
    state, _ = _from_file(path, option)
    where = f"{option} {path}"
    own = network.state_dict()
    state = _renamed(state, own)
    matching, skipped = _match(state, own, where)
    missing = [key for key in own if key not in matching and not key.endswith("num_batches_tracked")]
    if missing or skipped:
        example = f"{missing[0]} is not in the file" if missing else ""
        for name, reason in list(skipped.items())[:1]:
            example = f"{_shown(name)}: {reason.replace('the backbone', 'the network')}"
        raise UserError(f"{where} is for another network or another number of classes: of {len(own)} tensors "
                        f"{len(missing)} are missing, and {len(skipped)} of the file do not fit ({example})")
    network.load_state_dict(own | {key: _converted(name, state[name], own[key], where)
                                   for key, name in matching.items()})


def summary(report: dict[str, Any]) -> str:
    """The report of `load` in one line for the terminal."""
    if report["name"] == "none":
        return "from scratch"
    rest = len(report["initialised"])
    return (f"starting from {report['name']}: {len(report['loaded'])} tensors loaded, {len(report['skipped'])} "
            f"skipped, {rest} of the backbone left as initialised (which and why: environment.json)")


def _imagenet(model: Model) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Two results: the state dict of the ImageNet weights; and, for the report, its name and a hash."""
    try:
        name, state = model.imagenet_weights()
    except UserError:
        raise
    except Exception as error:  # every hub has its own ways of being out of reach
        raise UserError(f"the ImageNet weights cannot be fetched ({first_line(error)}). Use --weights none to train "
                        f"from scratch, or fetch them elsewhere and give --weights PATH.") from None
    digest = hashlib.sha256()
    for key, value in state.items():
        digest.update(key.encode() + value.cpu().numpy().tobytes())
    return state, {"name": name, "sha256_of_tensors": digest.hexdigest()}


def _from_file(path: Path, option: str = "--weights") -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Two results: the state dict in a file; and, for the report, its name, its hash, and where in the file it lies.
    option: the one that names the file, for messages."""
    try:
        kind = weight_files.foreign_kind(path)
    except FileNotFoundError:
        advice = "use imagenet, none, or the path of a checkpoint" if option == "--weights" else "give a checkpoint"
        raise UserError(f"{option} {path}: no such file; {advice}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise UserError(f"{option} {path} cannot be read ({reason})") from None
    if kind:
        raise UserError(f"{option} {path} is {kind}")
    try:
        content = checkpoints.read(path)
        with open(path, "rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except Exception as error:  # what is damaged can fail in any way
        raise UserError(f"{option} {path} is {_reason(path, error)}") from None
    state, keys = _unwrapped(content)
    if not isinstance(state, dict):
        raise UserError(f"{option} {path} holds no state dict, but a {type(state).__name__}")
    tensors = {key: value for key, value in state.items() if isinstance(key, str) and isinstance(value, torch.Tensor)}
    if not tensors:
        raise UserError(f"{option} {path} {_no_tensors(path, state, keys)}")
    return tensors, {"name": path.name, "sha256": sha256} | ({"inside": ".".join(keys)} if keys else {})


def _unwrapped(content: Any) -> tuple[Any, list[str]]:
    """(the state dict in what a checkpoint holds, the keys that lead to it)."""
    keys = []
    for key in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            keys.append(key)
    return content, keys


def _no_tensors(path: Path, state: dict, keys: list[str]) -> str:
    """What to say of a file without tensors where they are looked for."""
    names = [str(key) for key in state]
    shown = ", ".join(map(_shown, names[:8])) + (", ..." if len(names) > 8 else "")
    place = f"under {keys[-1]!r}" if keys else "at its top"
    text = f"holds no tensors {place}, only {shown or 'nothing'}"
    inner = _key_of_tensors(state)
    if inner is None:
        return text
    suffix = "".join(f"[{key!r}]" for key in [*keys, inner])
    lines = weight_files.lines_of_advice(path, "torch.load", suffix, ", weights_only=True")
    return f"{text}. Save the state dict under {inner!r} once, in Python, and give the new file:\n{lines}"


class _Inert:
    """Stands in for an object of a class that is not loaded: takes everything and does nothing."""

    def __init__(self, *values: Any, **more: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def _reason(path: Path, error: Exception) -> str:
    """Why a file of torch.save could not be read: the rest of a sentence that begins with "FILE is "."""
    names, has_tensors, protocol = weight_files.pickled_names(path)
    if protocol > 2 and has_tensors and not names:
        expression = _expression_of_state(path, names)
        lines = weight_files.lines_of_advice(path, "torch.load", expression, ", weights_only=False")
        return (f"written with protocol {protocol} of pickle, which cannot be loaded safely. If you trust its source, "
                f"save its state dict once, in Python, and give the new file:\n{lines}")
    if not names:
        return f"not a file of plain tensors, or damaged ({type(error).__name__} on reading it)"
    if any(map(weight_files.is_dangerous, names)):
        return weight_files.warning(names)
    if not has_tensors:
        return f"not a file of plain tensors: it holds {', '.join(names[:3])}, and no tensors"
    return weight_files.holds_objects(path, names, _expression_of_state(path, names))


def _expression_of_state(path: Path, names: list[str]) -> str:
    """The expression that takes the state dict out of what torch.load gives. Objects of the classes `names` are
    replaced by inert ones, so nothing of the file is run."""
    is_module = any(name.startswith("torch.nn.") for name in names)
    try:
        with torch.serialization.safe_globals([(type("Inert", (_Inert,), {}), name) for name in names]):
            content = checkpoints.read(path)
    except Exception:  # the file may be damaged besides
        return ".state_dict()" if is_module else "['state_dict']"
    suffix = ""
    for key in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(key), (dict, _Inert)):
            content = content[key]
            suffix += f"[{key!r}]"
    if isinstance(content, _Inert):
        return suffix + ".state_dict()"
    if not suffix and isinstance(content, dict):
        inner = _key_of_tensors(content)
        suffix = "" if inner is None else f"[{inner!r}]"
    return suffix


def _key_of_tensors(content: dict) -> str | None:
    """The first key under which a dict with tensors lies."""
    for key, value in content.items():
        if isinstance(value, dict) and any(isinstance(tensor, torch.Tensor) for tensor in value.values()):
            return key if isinstance(key, str) and len(key) < 100 else None
    return None


def _shown(name: str) -> str:
    """A name from a file for a message: in one line, of bounded length."""
    return repr(name) if len(name) <= 80 else f"{name[:77]!r}..."


def _spellings(key: str) -> Iterator[str]:
    """The names that a tensor of a file may have in the backbone: as it is, without its prefixes one after the other,
    and the name of the part that a number of an `nn.Sequential` stands for."""
    name = key
    prefix = ""
    while prefix is not None:
        name = name.removeprefix(prefix)
        yield name
        prefix = next((candidate for candidate in PREFIXES if name.startswith(candidate)), None)
    numbered = re.sub(r"^\d+", lambda number: SEQUENTIAL.get(number[0], number[0]), name)
    if numbered != name:
        yield numbered


def _renamed(state: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """The tensors of a file, an EfficientNet's of EfficientNet-PyTorch under the names of timm's network. own: the
    tensors of the network."""
    if not any("_conv_stem." in name for name in state):
        return state
    renamed = {}
    for name, value in state.items():
        names = [efficientnet_names.timm_name(spelling, own) for spelling in _spellings(name)]
        renamed[next(filter(None, names), name)] = value
    return renamed


def _match(state: dict, own: dict, where: str) -> tuple[dict[str, str], dict[str, str]]:
    """({name in the backbone: name in the file} where the shapes agree, {name in the file: why it is skipped}).
    Raises UserError where two tensors of the file fit one of the backbone."""
    matching, skipped = {}, {}
    for name, value in state.items():
        key = next((spelling for spelling in _spellings(name) if spelling in own), None)
        if key is None:
            skipped[name] = "the backbone has no such tensor"
        elif value.shape != own[key].shape:
            skipped[name] = f"shape {tuple(value.shape)}, the backbone's is {tuple(own[key].shape)}"
        elif key in matching:
            raise UserError(f"{where} holds two tensors for {key} of the backbone, {_shown(matching[key])} "
                            f"and {_shown(name)}; "
                            f"save the network that you want in a file of its own")
        else:
            matching[key] = name
    return matching, skipped


def _refuse_other_network(backbone: nn.Module, state: dict, matching: dict, skipped: dict, where: str) -> None:
    """Raises UserError where the file is for another network; the rule is at the top of this file."""
    layers = _layer_weights(backbone)
    matched = sum(layer in matching for layer in layers)
    differing = _first_other_shape(backbone, state, matching, skipped)
    surplus = _first_surplus_layer(backbone, state, skipped)
    advice = "Use --weights imagenet, none, or a matching file."
    if 2 * matched < len(layers):
        reason = f" ({differing})" if differing else ""
        raise UserError(f"{where}: only {matched} of the backbone's {len(layers)} tensors of convolutions and linear "
                        f"layers are in it{reason}; it is for another network. {advice}")
    if differing or surplus:
        raise UserError(f"{where} is for another network: {differing or surplus}. {advice}")


def _layer_weights(backbone: nn.Module) -> list[str]:
    """The names of the weights of convolutions and linear layers, in the order of the network."""
    return [f"{name}.weight" for name, part in backbone.named_modules() if isinstance(part, LAYERS)]


def _first_other_shape(backbone: nn.Module, state: dict, matching: dict, skipped: dict) -> str:
    """The first tensor of the file that is in the backbone with another shape where that is not allowed, as a part of a
    sentence; an empty text where there is none."""
    own = backbone.state_dict()
    parts = dict(backbone.named_modules())
    first_layer = next(iter(_layer_weights(backbone)), None)
    for name in skipped:
        key = next((spelling for spelling in _spellings(name) if spelling in own), None)
        if key is None or key in matching:
            continue
        part, _, last = key.rpartition(".")
        if last not in VALUES or isinstance(parts[part], nn.Embedding) or part in _classifier_parts(backbone):
            continue
        if key == first_layer and _differ_in_input_channels(state[name].shape, own[key].shape):
            continue
        return f"{_shown(name)} has {skipped[name]}"
    return ""


def _first_surplus_layer(backbone: nn.Module, state: dict, skipped: dict) -> str:
    """The first convolution or linear layer of the file in a part of the backbone that has no such layer, as a part of
    a sentence; an empty text where there is none."""
    own = backbone.state_dict()
    for name in skipped:
        spellings = list(_spellings(name))
        is_known = any(spelling in own for spelling in spellings)
        if is_known or not name.endswith(".weight") or state[name].ndim < 2:
            continue
        inside = [spelling for spelling in spellings if _lies_in(spelling, own)]
        if inside and inside[0].rpartition(".")[0] not in _classifier_parts(backbone):
            return f"it has {_shown(name)}, the backbone has no such layer"
    return ""


def _classifier_parts(backbone: nn.Module) -> tuple[str, ...]:
    """The names of the classifiers of a network of timm; their number of classes may differ."""
    names = getattr(backbone, "pretrained_cfg", {}).get("classifier") or ()
    return (names,) if isinstance(names, str) else tuple(names)


def _differ_in_input_channels(one: torch.Size, other: torch.Size) -> bool:
    """Whether two shapes of a convolution's weight, (outputs, inputs, height, width), differ in the inputs alone."""
    return len(one) == len(other) and one[:1] + one[2:] == other[:1] + other[2:]


def _lies_in(name: str, own: dict) -> bool:
    """Whether a tensor's name begins with a part of the backbone that has tensors."""
    part = name.partition(".")[0]
    return any(key.startswith(f"{part}.") for key in own)


def _converted(name: str, value: torch.Tensor, own: torch.Tensor, where: str) -> torch.Tensor:
    """The file's tensor in the type of the backbone's tensor `own`. Raises UserError where the file's tensor is not
    dense, holds another kind of numbers, holds values that are not finite, or a negative variance."""
    if not checkpoints.is_plain_tensor(value):
        raise UserError(f"{where}: {_shown(name)} is sparse, quantized or without values; only dense tensors can be "
                        f"loaded")
    if value.is_complex() or own.is_floating_point() and value.dtype not in FLOATS:
        theirs, ours = (str(tensor.dtype).removeprefix("torch.") for tensor in (value, own))
        raise UserError(f"{where}: {_shown(name)} holds numbers of the type {theirs}, the backbone's are {ours}; save "
                        f"it in that type")
    value = value.detach().to(own.dtype)
    if not torch.isfinite(value).all():
        raise UserError(f"{where}: {_shown(name)} holds values that are not finite; the file is damaged, or its "
                        f"training diverged")
    if name.endswith("running_var") and (value < 0).any():
        raise UserError(f"{where}: {_shown(name)} holds negative variances; the file is damaged")
    return value
