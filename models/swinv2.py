"""SwinV2-T (Liu et al., CVPR 2022, arXiv:2111.09883) and any other backbone of timm."""
import timm
import torch
from timm.optim import param_groups_weight_decay
from torch import nn
from torch.nn import functional as F

from cli import UserError
from models import Model, Normalize

CANONICAL = 224  # side of the benchmark's images; networks of a fixed size see them resized inside the model


class TimmModel(Model):
    """A timm network and a linear classifier on its pooled features.

    backbone: timm's name. drop_path: stochastic depth, None for timm's default. head: "features", or "imagenet_logits"
    (as in the FER-C release), which keeps the ImageNet classifier and puts the new one on its 1,000 logits.
    Networks of a fixed size (transformers) are built for the image size times their own over 224, rounded to a multiple
    of 32, and images are resized to it bilinearly: every network sees the same pixels.
    Raises UserError for a network that timm does not have or cannot build at this size.
    """

    def __init__(self, num_classes, image_size, backbone, drop_path=None, head="features"):
        super().__init__(num_classes, image_size, backbone=backbone, drop_path=drop_path, head=head)
        config = timm.get_pretrained_cfg(backbone) if timm.is_model(backbone) else None
        if config is None:
            close = ", ".join(timm.list_models(f"*{backbone}*")[:5]) or "timm.list_models() knows all"
            raise UserError(f"timm has no network {backbone!r} ({close})")
        options = {} if drop_path is None else {"drop_path_rate": drop_path}
        self.size = image_size
        if config.fixed_input_size:
            native = config.input_size[-1]
            self.size = native if image_size == CANONICAL else max(32, round(image_size * native / CANONICAL / 32) * 32)
            options["img_size"] = self.size
        self.normalize = Normalize(config.mean, config.std)
        try:
            self.backbone = timm.create_model(backbone, num_classes=1000 if head == "imagenet_logits" else 0, **options)
            with torch.no_grad():
                features = self.backbone.eval()(torch.zeros(1, 3, self.size, self.size)).shape[1]
        except (AssertionError, TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"timm cannot build {backbone} for {self.size} pixels: {error}") from None
        self.train()
        self.classifier = nn.Linear(features, num_classes)

    def forward(self, image):
        """image: uint8 (N, 3, S, S). Returns logits (N, K)."""
        x = self.normalize(image)
        if self.size != image.shape[-1]:
            x = F.interpolate(x, size=(self.size, self.size), mode="bilinear", antialias=self.size < image.shape[-1])
        return self.classifier(self.backbone(x))

    def imagenet_weights(self):
        """(name, state dict) of timm's weights, from its cache or the network."""
        config = self.backbone.pretrained_cfg
        kind = {"num_classes": 1000 if self.arguments["head"] == "imagenet_logits" else 0}
        if config["fixed_input_size"]:
            kind["img_size"] = self.size
        name = self.arguments["backbone"]
        return f"{name}.{config['tag']}", timm.create_model(name, pretrained=True, **kind).state_dict()

    def groups(self, weight_decay):
        """Parameter groups that leave norms, biases and what the network itself exempts without weight decay."""
        exempt = {f"backbone.{name}" for name in getattr(self.backbone, "no_weight_decay", set)()}
        return param_groups_weight_decay(self, weight_decay, no_weight_decay_list=exempt)
