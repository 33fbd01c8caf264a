"""timm:NAME, a network of timm with the weights of --checkpoint.

Size, mean, standard deviation, crop and interpolation are those of timm's configuration of NAME (its tag included:
timm:vit_base_patch16_224.augreg_in1k). A network of a fixed size is
built for N pixels where `--input size=N` is given. The classes
are those of --classes. The checkpoint is read as models/pretrained.py reads weights: a state dict or safetensors, bare
or wrapped, with or without prefixes. Every tensor has to fit. timm's own weights are for the classes of ImageNet, so
none are fetched.
"""
import hashlib
from typing import Any

import timm
import torch
from timm.data import resolve_data_config

from building.integrity import sha256_of_file
from evaluation.input_format import stated_fields
from evaluation.model_options import ModelOptions, class_names
from evaluation.source_kinds.source import Source, parameters_of, sha256_of_all
from models import pretrained
from models.timm_names import current_name, no_warnings
from support.errors import UserError, first_line

RESIZES = {"bilinear": "bilinear", "bicubic": "bicubic", "nearest": "nearest", "box": "area", "hamming": "bilinear",
           "lanczos": "bicubic", "random": "bilinear"}  # of timm -> of InputFormat


def load(options: ModelOptions) -> Source:
    """The network with its weights. Raises UserError where timm lacks it or where the checkpoint does not fit."""
    spec = str(options.model)
    name = current_name(spec.removeprefix("timm:"))
    classes = class_names(str(options.classes))
    if options.checkpoint is None:
        raise UserError(f"--model {spec} has no weights for facial expressions: add --checkpoint FILE. (A network that "
                        f"starts from timm's own weights is trained with train_baseline.py --backbone {name})")
    if options.num_classes not in (None, len(classes)):
        raise UserError(f"--num-classes {options.num_classes} and --classes differ: it has {len(classes)} names")
    stated = stated_fields(options.input) if options.input else {}
    network = timm_model(name, len(classes), stated)
    pretrained.load_whole(network, options.checkpoint, "--checkpoint")
    config = resolve_data_config({}, model=network)
    channels, *sides = config["input_size"]
    usual: dict[str, Any] = {"size": sides[0], "range": "standardised", "mean": tuple(config["mean"]),
                             "std": tuple(config["std"]), "crop": float(config["crop_pct"]),
                             "resize": RESIZES.get(config["interpolation"], "bicubic")}
    if channels == 1:
        usual |= {"colour": "grey", "mean": usual["mean"][:1], "std": usual["std"][:1]}
    if "size" in stated:
        usual["size"] = stated["size"]
    # Networks of several names have the same tensors and other outputs, so the name belongs to the hash.
    hashes = [hashlib.sha256(name.encode()).hexdigest(), sha256_of_file(options.checkpoint)]
    return Source(network, sha256_of_all(hashes), usual=usual, channels=channels, output="logits",
                  parameters=parameters_of(network))


def timm_model(name: str, num_classes: int, stated: dict[str, Any]) -> torch.nn.Module:
    """The network of timm in eval mode, for the size and the channels of --input where it states them. Raises
    UserError where timm cannot build it."""
    options: dict[str, Any] = {}
    config = timm.get_pretrained_cfg(name)
    if config.fixed_input_size and "size" in stated:
        options["img_size"] = stated["size"]
    if stated.get("colour") == "grey":
        options["in_chans"] = 1
    try:
        with no_warnings():
            network = timm.create_model(name, pretrained=False, num_classes=num_classes, **options)
    except Exception as error:  # networks have their own ways of not being built
        raise UserError(f"timm cannot build {name} ({first_line(error)})") from None
    return network.eval()
