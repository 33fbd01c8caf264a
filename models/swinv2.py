"""SwinV2-T (Liu et al., CVPR 2022, arXiv:2111.09883) and any other backbone of timm."""
import difflib
import re
import warnings
from contextlib import contextmanager
from typing import Literal

import timm
import torch
from timm.models import get_deprecated_models
from timm.optim import param_groups_weight_decay
from torch import nn
from torch.nn import functional as F

from cli import Fraction, UserError, first_line
from models import ImageSize, Model, Normalize, NumClasses

CANONICAL = 224  # side of the benchmark's images; networks of a fixed size see them resized inside the model


class TimmModel(Model):
    """A timm network and a linear classifier on its pooled features.

    backbone: timm's name, with or without the tag of its weights; names that timm has given up stand for today's.
    drop_path: stochastic depth, None for timm's default. head: "features", or "imagenet_logits"
    (as in the FER-C release), which keeps the ImageNet classifier and puts the new one on its 1,000 logits.
    Networks of a fixed size (transformers) are built for the image size times their own over 224, rounded to a multiple
    of 32, and images are resized to it bilinearly: every network sees the same pixels.
    Raises UserError for a network that timm does not have or cannot build at this size.
    """

    def __init__(self, num_classes: NumClasses, image_size: ImageSize, backbone: str, drop_path: Fraction | None = None,
                 head: Literal["features", "imagenet_logits"] = "features"):
        backbone = current_name(backbone)
        super().__init__(num_classes, image_size, backbone=backbone, drop_path=drop_path, head=head)
        config = timm.get_pretrained_cfg(backbone)
        if config.input_size[0] != 3:
            raise UserError(f"timm's network {backbone} takes images of {config.input_size[0]} channels, not 3")
        options = {} if drop_path is None else {"drop_path_rate": drop_path}
        self.size = image_size
        if config.fixed_input_size:
            native = config.input_size[-1]
            self.size = native if image_size == CANONICAL else max(32, round(image_size * native / CANONICAL / 32) * 32)
            options["img_size"] = self.size
        self.normalize = Normalize(config.mean, config.std)
        try:
            with no_warnings():
                self.backbone = timm.create_model(
                    backbone, num_classes=1000 if head == "imagenet_logits" else 0, **options)
                with torch.no_grad():
                    features = self.backbone.eval()(torch.zeros(1, 3, self.size, self.size))
        except Exception as error:  # networks have their own ways of not being built
            hint = "Choose another --image-size or --backbone"
            if "drop_path_rate" in str(error):
                hint = f"It has no stochastic depth: train_baseline.py --backbone {backbone} builds it without"
            raise UserError(f"timm cannot build {backbone} for {self.size} pixels ({first_line(error)}). "
                            f"{hint}.") from None
        if not isinstance(features, torch.Tensor) or features.ndim != 2:
            raise UserError(f"timm's network {backbone} gives no single vector of features for an image; "
                            f"choose another --backbone")
        self.train()
        self.classifier = nn.Linear(features.shape[1], num_classes)

    def forward(self, image):
        """image: uint8 (N, 3, S, S). Returns logits (N, K)."""
        x = self.normalize(image)
        if self.size != image.shape[-1]:
            x = F.interpolate(x, size=(self.size, self.size), mode="bilinear", antialias=self.size < image.shape[-1])
        return self.classifier(self.backbone(x))

    def imagenet_weights(self) -> tuple[str, dict[str, torch.Tensor]]:
        """(name, state dict) of timm's weights, from its cache or the network. Raises UserError where timm has none."""
        config = self.backbone.pretrained_cfg
        kind = {"num_classes": 1000 if self.arguments["head"] == "imagenet_logits" else 0}
        if config["fixed_input_size"]:
            kind["img_size"] = self.size
        name = self.arguments["backbone"]
        if not any(config.get(source) for source in ("url", "file", "hf_hub_id")):
            raise UserError(f"timm has no weights for {name}. Use --weights none to train from scratch, or give "
                            f"--weights PATH.")
        architecture = name.partition(".")[0]
        full_name = f"{architecture}.{config['tag']}" if config.get("tag") else architecture
        with no_warnings():
            return full_name, timm.create_model(name, pretrained=True, **kind).state_dict()

    def groups(self, weight_decay):
        """Parameter groups that leave norms, biases and what the network itself exempts without weight decay."""
        exempt = {f"backbone.{name}" for name in getattr(self.backbone, "no_weight_decay", set)()}
        return param_groups_weight_decay(self, weight_decay, no_weight_decay_list=exempt)


@contextmanager
def no_warnings():
    """Keep what libraries tell their programmers from the terminal."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def current_name(name: str) -> str:
    """timm's name of today for a network. Raises UserError, with the names that are near, for one that timm has not."""
    if not isinstance(name, str) or re.search(r"[:/\\]", name):
        raise UserError(f"{name!r} is no name of timm's own networks; those of a hub or a folder are not built. "
                        f"--weights PATH takes weights from a file")
    deprecated = get_deprecated_models()
    if name in deprecated:
        if deprecated[name] is None:
            raise UserError(f"timm has no network {name!r} any more, and none in its place")
        name = deprecated[name]
    architecture, dot, tag = name.partition(".")
    if not timm.is_model(architecture) or architecture in deprecated:
        close = timm.list_models(f"*{architecture.lower()}*")[:5] if re.fullmatch(r"\w+", architecture) else []
        close = close or difflib.get_close_matches(architecture.lower(), timm.list_models(), 5)
        raise UserError(f"timm has no network {name[:100]!r} ({', '.join(close) or 'timm.list_models() knows all'})")
    if dot and name not in timm.list_models(architecture, include_tags=True):
        tags = ", ".join(timm.list_models(f"{architecture}.*", include_tags=True)) or "it has none"
        raise UserError(f"timm has no weights {tag[:100]!r} for its network {architecture} ({tags})")
    return name
