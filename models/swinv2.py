"""SwinV2-T (Liu et al., CVPR 2022, arXiv:2111.09883), or any other network of timm, with a classifier.

timm is imported when a network is built, since the import takes seconds that a script's --help should not wait for.
"""
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional as F

from models import ImageSize, Model, Normalize, NumClasses
from models.timm_names import current_name, no_warnings
from support.cli import Fraction
from support.errors import UserError, first_line

CANONICAL = 224  # side of the benchmark's images, in pixels
GRID = 32  # networks of a fixed size are built for a multiple of this many pixels
IMAGENET_CLASSES = 1000


class TimmModel(Model):
    """A timm network and a linear classifier on its pooled features.

    Networks of a fixed size (transformers) are built for their own size times image_size / 224, rounded to a multiple
    of 32, and the network resizes its images to that, bilinearly: every network is given the same images of image_size
    pixels.
    """

    def __init__(self, num_classes: NumClasses, image_size: ImageSize, backbone: str, drop_path: Fraction | None = None,
                 head: Literal["features", "imagenet_logits"] = "features") -> None:
        """backbone: timm's name, with or without the tag of its weights; a name that timm has given up stands for
        today's. drop_path: stochastic depth, None for timm's default. head: "imagenet_logits", as in the FER-C release,
        keeps the ImageNet classifier and puts the new one on its 1,000 logits.

        Raises UserError for a network that timm does not have or cannot build for this size.
        """
        import timm

        from models.window_attention import use_fused_attention

        backbone = current_name(backbone)
        super().__init__(num_classes, image_size, backbone=backbone, drop_path=drop_path, head=head)
        config = timm.get_pretrained_cfg(backbone)
        if config.input_size[0] != 3:
            raise UserError(f"timm's network {backbone} takes images of {config.input_size[0]} channels, not 3")
        options = {} if drop_path is None else {"drop_path_rate": drop_path}
        self.size = image_size
        if config.fixed_input_size:
            self.size = size_of_network(image_size, config.input_size[-1])
            options["img_size"] = self.size
        self.normalize = Normalize(config.mean, config.std, feeds_convolution=False)
        classes = IMAGENET_CLASSES if head == "imagenet_logits" else 0
        self.backbone, features = create_backbone(backbone, self.size, num_classes=classes, **options)
        use_fused_attention(self.backbone)
        self.train()
        self.classifier = nn.Linear(features, num_classes)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """image: uint8 (N, 3, S, S). Returns logits (N, K)."""
        return self.classifier(self.backbone(self.resized(image)))

    def resized(self, image: torch.Tensor) -> torch.Tensor:
        """uint8 (N, 3, S, S), normalised and in the size of the network."""
        x = self.normalize(image)
        if self.size != image.shape[-1]:
            x = F.interpolate(x, size=(self.size, self.size), mode="bilinear", antialias=self.size < image.shape[-1])
        return x

    def imagenet_weights(self) -> tuple[str, dict[str, torch.Tensor]]:
        """(name, state dict) of timm's weights, from its cache or the internet. Raises UserError where it has none."""
        import timm

        config = self.backbone.pretrained_cfg
        options = {"num_classes": IMAGENET_CLASSES if self.arguments["head"] == "imagenet_logits" else 0}
        if config["fixed_input_size"]:
            options["img_size"] = self.size
        name = self.arguments["backbone"]
        if not any(config.get(source) for source in ("url", "file", "hf_hub_id")):
            raise UserError(f"timm has no weights for {name}. Use --weights none to train from scratch, or give "
                            f"--weights PATH.")
        with no_warnings():
            state = timm.create_model(name, pretrained=True, **options).state_dict()
        return with_tag(name, config.get("tag")), state

    def groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Parameter groups for an optimizer: without weight decay for norms, biases and what the network exempts."""
        from timm.optim import param_groups_weight_decay

        exempt = {f"backbone.{name}" for name in getattr(self.backbone, "no_weight_decay", set)()}
        return param_groups_weight_decay(self, weight_decay, no_weight_decay_list=exempt)


def size_of_network(image_size: int, native_size: int) -> int:
    """The side, in pixels, for which a network of a fixed size is built: its own size at the benchmark's image size, in
    proportion at others."""
    if image_size == CANONICAL:
        return native_size
    return max(GRID, round(image_size * native_size / CANONICAL / GRID) * GRID)


def with_tag(name: str, tag: str | None) -> str:
    """The full name of a network's weights: that of its architecture, a dot, and their tag if they have one."""
    architecture = name.partition(".")[0]
    return f"{architecture}.{tag}" if tag else architecture


def create_backbone(name: str, size: int, **options: Any) -> tuple[nn.Module, int]:
    """(a timm network for images of this size, in eval mode; the number of its features, from a pass of one image).
    Raises UserError where timm cannot build it or where it gives no single vector for an image."""
    import timm

    try:
        with no_warnings():
            backbone = timm.create_model(name, **options)
            with torch.no_grad():
                features = backbone.eval()(torch.zeros(1, 3, size, size))
    except Exception as error:  # networks have their own ways of not being built
        advice = "Choose another --image-size or --backbone"
        if "drop_path_rate" in str(error):
            advice = f"It has no stochastic depth: train_baseline.py --backbone {name} builds it without"
        raise UserError(f"timm cannot build {name} for {size} pixels ({first_line(error)}). {advice}.") from None
    if not isinstance(features, torch.Tensor) or features.ndim != 2:
        raise UserError(f"timm's network {name} gives no single vector of features for an image; choose another "
                        f"--backbone")
    return backbone, features.shape[1]
