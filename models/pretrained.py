"""Weights to start from: `imagenet` (torchvision's, fetched once), `none`, or a local file. Never a silent fallback."""
import hashlib
import socket
from pathlib import Path

import torch
from torchvision.models import get_weight

from cli import UserError, first_line


def load(model, weights):
    """Load `weights` into `model.backbone`. Returns what was done, for the run's records.

    weights: "none", "imagenet" or the path of a state dict (bare, or under `state_dict` or `model`; `module.` prefixes
    are stripped). Raises UserError when they cannot be had, are no plain tensors or fit less than half of the backbone.
    """
    if weights == "none":
        return {"name": "none"}
    state, source = (_imagenet(model.imagenet) if weights == "imagenet" else _from_file(Path(weights)))
    own = model.backbone.state_dict()
    matching = {key: value for key, value in state.items() if key in own and value.shape == own[key].shape}
    if len(matching) < len(own) / 2:
        raise UserError(f"{weights}: only {len(matching)} of the backbone's {len(own)} tensors are in it; it is for "
                        f"another network. Use --weights imagenet, none, or a matching file.")
    model.backbone.load_state_dict(own | matching)
    return source | {"loaded": len(matching), "skipped": sorted(set(state) - set(matching)),
                     "left as initialised": sorted(set(own) - set(matching))}


def _imagenet(name):
    weight = get_weight(name)
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(20)
    try:
        state = weight.get_state_dict(progress=True, check_hash=True, weights_only=True)
    except (OSError, RuntimeError) as error:
        raise UserError(f"the ImageNet weights cannot be fetched ({error}). Use --weights none to train from scratch, "
                        f"or fetch {weight.url} elsewhere and give --weights PATH.") from None
    finally:
        socket.setdefaulttimeout(timeout)
    return state, {"name": name}


def _from_file(path):
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    except FileNotFoundError:
        raise UserError(f"--weights {path}: no such file; use imagenet, none, or the path of a checkpoint") from None
    except Exception as error:  # what is damaged can fail in any way
        raise UserError(f"--weights {path}: not a file of plain tensors that can be loaded safely "
                        f"({first_line(error)})") from None
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict):
        raise UserError(f"--weights {path}: holds no state dict")
    state = {key.removeprefix("module.").removeprefix("backbone."): value for key, value in state.items()
             if isinstance(value, torch.Tensor)}
    return state, {"name": path.name, "sha256": sha256}
