"""ResNet-18 (He et al., CVPR 2016, arXiv:1512.03385): the baseline's network, and a part of other networks."""
import copy
import socket
from typing import Any, Self

import torch
from torch import nn
from torch.nn import functional as F

from models import ImageSize, Model, Normalize, NumClasses
from models.folding import fold

FETCH_TIMEOUT = 20  # seconds without an answer until fetching weights is given up
SMALL = 4  # side of maps, in pixels, up to which `SmallMapConv` is the faster convolution


def resnet18() -> nn.Module:
    """torchvision's ResNet-18 with initial weights. The import takes as long as that of torch, and a script's --help
    should not wait for it."""
    import torchvision
    return torchvision.models.resnet18(weights=None)


class ResNetModel(Model):
    """The base class of networks on a ResNet-18. `backbone` is torchvision's, without its classifier: normalised images
    (N, 3, S, S) -> features (N, 512)."""

    def __init__(self, num_classes: NumClasses, image_size: ImageSize, **options: Any) -> None:
        super().__init__(num_classes, image_size, **options)
        self.normalize = Normalize()
        self.backbone = resnet18()
        self.backbone.fc = nn.Identity()
        for stage, stride in ((self.backbone.layer3, 16), (self.backbone.layer4, 32)):
            if image_size <= SMALL * stride:
                use_small_map_convolutions(stage)

    def imagenet_weights(self) -> tuple[str, dict[str, torch.Tensor]]:
        """(name, state dict) of torchvision's weights, from its cache or the internet."""
        from torchvision.models import ResNet18_Weights

        weights = ResNet18_Weights.IMAGENET1K_V1
        timeout = socket.getdefaulttimeout()
        socket.setdefaulttimeout(FETCH_TIMEOUT)
        try:
            state = weights.get_state_dict(progress=True, check_hash=True, weights_only=True)
            return "ResNet18_Weights.IMAGENET1K_V1", state
        finally:
            socket.setdefaulttimeout(timeout)

    def for_inference(self, dtype: torch.dtype) -> Self:
        """A copy of which BatchNorm is a part of the convolutions; logits differ by rounding."""
        model = copy.deepcopy(self).eval()
        fold(model.backbone, dtype)
        return model

    def step_inputs(self, count: int) -> tuple[torch.Tensor, ...] | None:
        size = self.arguments["image_size"]
        return (torch.zeros(count, size, size, 3, dtype=torch.uint8).permute(0, 3, 1, 2),)

    def features(self, image: torch.Tensor) -> torch.Tensor:
        """The pooled features: uint8 (N, 3, S, S) -> (N, 512)."""
        return self.backbone.avgpool(self.feature_map(image)).flatten(1)

    def feature_map(self, image: torch.Tensor, stages: int = 4) -> torch.Tensor:
        """The map after the stem and the first `stages` of the four stages: uint8 (N, 3, S, S) -> (N, 512, S/32, S/32)
        after all four.

        The stem takes the maximum of each window before ReLU, torchvision's forward after it. Values and gradients are
        the same, and ReLU has a quarter of the work.
        """
        net = self.backbone
        x = net.relu(net.maxpool(net.bn1(net.conv1(self.normalize(image)))))
        for stage in (net.layer1, net.layer2, net.layer3, net.layer4)[:stages]:
            x = stage(x)
        return x


def use_small_map_convolutions(stage: nn.Module) -> None:
    """Replace every 3x3 convolution of a stage by a `SmallMapConv` with the same weights."""
    for block in stage.modules():
        for name, part in block.named_children():
            if isinstance(part, nn.Conv2d) and part.kernel_size == (3, 3):
                setattr(block, name, SmallMapConv.of(part))


class SmallMapConv(nn.Conv2d):
    """A 3x3 convolution with padding 1, computed on CPUs as one matrix product of its windows.

    On maps of a few pixels this takes a quarter to two thirds of the time of torch's convolution (forward and backward,
    32 x 512 x 2 x 2: 20 ms instead of 82 ms)."""

    @classmethod
    def of(cls, conv: nn.Conv2d) -> "SmallMapConv":
        """The same convolution, with the same tensor of weights."""
        same = cls(conv.in_channels, conv.out_channels, 3, conv.stride, padding=1, bias=False, device="meta")
        same.weight = conv.weight
        return same

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) -> (N, C', H', W')."""
        if x.is_cuda:
            return super().forward(x)
        count, channels, height, width = x.shape
        pixels = F.pad(x.permute(0, 2, 3, 1).flatten(1, 2), (0, 0, 0, 1))  # the last pixel is zero: it is the padding
        at = F.pad(torch.arange(height * width).view(height, width), (1, 1, 1, 1), value=height * width)
        at = at.unfold(0, 3, self.stride[0]).unfold(1, 3, self.stride[1])  # (H', W', 3, 3)
        windows = pixels.index_select(1, at.flatten()).view(count, *at.shape[:2], 9 * channels)
        return F.linear(windows, self.weight.permute(0, 2, 3, 1).flatten(1), self.bias).permute(0, 3, 1, 2)


class ResNet18(ResNetModel):
    """ResNet-18 with a linear classifier on its 512 pooled features."""

    def __init__(self, num_classes: NumClasses, image_size: ImageSize) -> None:
        super().__init__(num_classes, image_size)
        self.classifier = nn.Linear(512, num_classes)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """image: uint8 (N, 3, S, S). Returns logits (N, K)."""
        return self.classifier(self.features(image))
