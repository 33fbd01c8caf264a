"""The networks. Each is a class built as Model(num_classes, image_size, **options); in eval mode model(uint8 NCHW)
returns logits and nothing else. Normalisation is its first layer, so that nobody can forget or double it."""
import torch
from torch import nn

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Model(nn.Module):
    """Base class: remembers what it was built with, so that a run can be rebuilt from its args.json."""

    def __init__(self, num_classes, image_size, **options):
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
