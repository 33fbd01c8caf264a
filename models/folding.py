"""A ResNet-18 for inference: BatchNorm becomes a part of the convolutions, and on a GPU in bfloat16 so does ReLU.

In inference BatchNorm multiplies and shifts every channel by constants. They are multiplied into the weights of the
convolution before it (Jacob et al., CVPR 2018, arXiv:1712.05877, section 3.2). On a GPU in bfloat16, cuDNN adds the
bias and the other branch of a block and takes ReLU while it writes the result of a convolution, so the maps are written
once instead of three times.
"""
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_weights

FUSED = True  # whether cuDNN's operations with ReLU are used; set it to False to measure what they gain


def fold(backbone: nn.Module, dtype: torch.dtype) -> None:
    """Change torchvision's ResNet-18 into one for inference, in place. dtype: of the weights of its convolutions,
    float32 or, for autocast in that type, bfloat16. A ResNet of other blocks stays as it is."""
    from torchvision.models.resnet import BasicBlock

    stages = (backbone.layer1, backbone.layer2, backbone.layer3, backbone.layer4)
    if not all(isinstance(block, BasicBlock) for stage in stages for block in stage):
        return
    for stage in stages:
        for name, block in stage.named_children():
            setattr(stage, name, FoldedBlock(block, dtype))
    has_relu = isinstance(backbone.relu, nn.ReLU)
    backbone.conv1 = FoldedConv(backbone.conv1, backbone.bn1, has_relu, dtype)
    backbone.bn1, backbone.relu = nn.Identity(), nn.Identity()


class FoldedConv(nn.Module):
    """A convolution and the BatchNorm after it, and then a sum with other maps and ReLU."""

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d, has_relu: bool, dtype: torch.dtype) -> None:
        """conv: without bias; it gets the new weights. norm: its running statistics are used. The weights are
        multiplied in float64 and then rounded to `dtype`."""
        super().__init__()
        values = (conv.weight, norm.running_mean, norm.running_var, norm.weight, norm.bias)
        weight, mean, variance, scale, shift = (value.detach().double() for value in values)
        weight, bias = fuse_conv_bn_weights(weight, None, mean, variance, norm.eps, scale, shift)
        conv.weight = nn.Parameter(weight.to(dtype), requires_grad=False)
        conv.bias = nn.Parameter(bias.to(dtype), requires_grad=False)
        self.conv = conv
        self.has_relu = has_relu
        self.is_fused = dtype == torch.bfloat16  # in float32 cuDNN has these operations with TensorFloat-32 only

    def forward(self, x: torch.Tensor, other: torch.Tensor | None = None) -> torch.Tensor:
        """x: maps (N, C, H, W). other: maps of the result's shape that are added before ReLU, or None."""
        if FUSED and self.is_fused and self.has_relu and x.is_cuda and not torch.compiler.is_compiling():
            try:
                return self.fused(x.to(self.conv.weight.dtype), other)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError:  # this version of cuDNN lacks the operation for this shape
                self.is_fused = False
        x = self.conv(x)
        if other is not None:
            x += other
        return F.relu_(x) if self.has_relu else x

    def fused(self, x: torch.Tensor, other: torch.Tensor | None) -> torch.Tensor:
        """`forward` with ReLU, in one operation of cuDNN."""
        conv = self.conv
        rest = (conv.stride, conv.padding, conv.dilation, conv.groups)
        if other is None:
            return torch.cudnn_convolution_relu(x, conv.weight, conv.bias, *rest)
        return torch.cudnn_convolution_add_relu(x, conv.weight, other, 1.0, conv.bias, *rest)


class FoldedBlock(nn.Module):
    """torchvision's `BasicBlock` for inference."""

    def __init__(self, block: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.conv1 = FoldedConv(block.conv1, block.bn1, True, dtype)
        self.conv2 = FoldedConv(block.conv2, block.bn2, True, dtype)
        down = block.downsample
        self.downsample = nn.Identity() if down is None else FoldedConv(down[0], down[1], False, dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) -> (N, C', H', W')."""
        return self.conv2(self.conv1(x), self.downsample(x))
