"""ResNet-18 (He et al., CVPR 2016, arXiv:1512.03385): the baseline's network and the trunk of others."""
import socket
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models import ResNet18_Weights, resnet18

from models import ImageSize, Model, Normalize, NumClasses

FETCH_TIMEOUT = 20  # seconds without an answer
SMALL = 4  # side of maps up to which `SmallMapConv` is the faster convolution


class ResNetModel(Model):
    """A model on torchvision's ResNet-18 without its classifier, `backbone`: uint8 (N, 3, S, S) -> (N, 512)."""

    def __init__(self, num_classes: NumClasses, image_size: ImageSize, **options: Any):
        super().__init__(num_classes, image_size, **options)
        self.normalize = Normalize()
        self.backbone = resnet18(weights=None)
        self.backbone.fc = nn.Identity()
        for stage, stride in ((self.backbone.layer3, 16), (self.backbone.layer4, 32)):
            for block in stage.modules() if image_size <= SMALL * stride else ():
                for name, part in block.named_children():
                    if isinstance(part, nn.Conv2d) and part.kernel_size == (3, 3):
                        setattr(block, name, SmallMapConv.of(part))

    @staticmethod
    def imagenet_weights():
        """(name, state dict) of torchvision's weights, from its cache or the network."""
        timeout = socket.getdefaulttimeout()
        socket.setdefaulttimeout(FETCH_TIMEOUT)
        try:
            return "ResNet18_Weights.IMAGENET1K_V1", ResNet18_Weights.IMAGENET1K_V1.get_state_dict(
                progress=True, check_hash=True, weights_only=True)
        finally:
            socket.setdefaulttimeout(timeout)

    def feature_map(self, image, stages=4):
        """The map after the stem and some of the four stages: uint8 (N, 3, S, S) -> (N, 512, S/32, S/32) after all."""
        net = self.backbone
        x = net.maxpool(net.relu(net.bn1(net.conv1(self.normalize(image)))))
        for stage in (net.layer1, net.layer2, net.layer3, net.layer4)[:stages]:
            x = stage(x)
        return x


class SmallMapConv(nn.Conv2d):
    """A 3x3 convolution with padding 1 as one matrix product of its windows. On maps of a few pixels CPUs take a
    quarter to two thirds of the time of their convolutions (forward and backward, 32 x 512 x 2 x 2: 20 ms, not 82)."""

    @classmethod
    def of(cls, conv):
        same = cls(conv.in_channels, conv.out_channels, 3, conv.stride, padding=1, bias=False, device="meta")
        same.weight = conv.weight
        return same

    def forward(self, x):
        if x.is_cuda:
            return super().forward(x)
        count, channels, height, width = x.shape
        pixels = F.pad(x.permute(0, 2, 3, 1).flatten(1, 2), (0, 0, 0, 1))  # and one of zeros, which pads
        at = F.pad(torch.arange(height * width).view(height, width), (1, 1, 1, 1), value=height * width)
        at = at.unfold(0, 3, self.stride[0]).unfold(1, 3, self.stride[1])  # (H', W', 3, 3)
        windows = pixels.index_select(1, at.flatten()).view(count, *at.shape[:2], 9 * channels)
        return F.linear(windows, self.weight.permute(0, 2, 3, 1).flatten(1)).permute(0, 3, 1, 2)


class ResNet18(ResNetModel):
    """A linear classifier on the pooled 512 features."""

    def __init__(self, num_classes: NumClasses, image_size: ImageSize):
        super().__init__(num_classes, image_size)
        self.classifier = nn.Linear(512, num_classes)

    def forward(self, image):
        """image: uint8 (N, 3, S, S). Returns logits (N, K)."""
        return self.classifier(self.backbone(self.normalize(image)))
