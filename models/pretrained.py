"""Weights to start from: `imagenet` (fetched once), `none`, or a local file. Never a silent fallback.

Files of the face-recognition and FER projects differ in wrapping, prefixes and names; what is understood: the state
dict bare or under one of `WRAPPERS`; keys with any of `PREFIXES` before them; a ResNet kept as `nn.Sequential` of its
parts (as in the FER-C release). Classifiers and other parts that the backbone does not have are skipped and named.
"""
import hashlib
import re
from pathlib import Path

import torch

from cli import UserError, first_line
from models import checkpoints

WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "backbone")
PREFIXES = ("module.", "model.", "backbone.", "base.", "encoder.", "features.", "feat_net.", "resnet.",
            "net.")
SEQUENTIAL = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}  # of a ResNet


def load(model, weights):
    """Load `weights` into `model.backbone`, then tell the model by its `after_loading`.

    weights: "none", "imagenet" (what `model.imagenet_weights()` gives) or a path. Returns the report for the run's
    records: name, sha256 of the file or of the tensors, `loaded` (keys), `skipped` (key of the file -> why),
    `initialised` (keys of the backbone that keep their initial values). Raises UserError when weights cannot be had,
    are not plain tensors, or hold fewer than half of the backbone's tensors.
    """
    if weights == "none":
        return {"name": "none"}
    own = model.backbone.state_dict()
    state, source = _imagenet(model) if weights == "imagenet" else _from_file(Path(weights), own)
    loaded, skipped = {}, {}
    for key, value in state.items():
        if key not in own:
            skipped[key] = "the backbone has no such tensor"
        elif value.shape != own[key].shape:
            skipped[key] = f"shape {tuple(value.shape)}, the backbone's is {tuple(own[key].shape)}"
        else:
            loaded[key] = value
    if len(loaded) < len(own) / 2:
        raise UserError(f"{weights}: only {len(loaded)} of the backbone's {len(own)} tensors are in it; it is for "
                        f"another network. Use --weights imagenet, none, or a matching file.")
    model.backbone.load_state_dict(own | loaded)
    model.after_loading()
    return source | {"loaded": sorted(loaded), "skipped": skipped, "initialised": sorted(set(own) - set(loaded))}


def summary(report):
    """One line for the terminal."""
    if report["name"] == "none":
        return "from scratch"
    rest = len(report["initialised"])
    return (f"starting from {report['name']}: {len(report['loaded'])} tensors loaded, {len(report['skipped'])} "
            f"skipped, {rest} of the backbone left as initialised (which and why: environment.json)")


def _imagenet(model):
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


def _from_file(path, own):
    try:
        state = checkpoints.read(path)
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"--weights {path}: no such file; use imagenet, none, or the path of a checkpoint") from None
    except Exception as error:  # what is damaged can fail in any way
        raise UserError(f"--weights {path}: not a file of plain tensors that can be loaded safely "
                        f"({first_line(error)})") from None
    for key in WRAPPERS:
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict):
        raise UserError(f"--weights {path}: holds no state dict")
    state = {_renamed(key, own): value for key, value in state.items() if isinstance(value, torch.Tensor)}
    return state, {"name": path.name, "sha256": sha256}


def _renamed(key, own):
    """The key without the prefixes that keep it from being one of the backbone's; as it is where none helps."""
    bare = key
    while bare not in own and (prefix := next((p for p in PREFIXES if bare.startswith(p)), None)):
        bare = bare.removeprefix(prefix)
    if bare not in own:
        bare = re.sub(r"^\d+", lambda number: SEQUENTIAL.get(number[0], number[0]), bare)
    return bare if bare in own else key
