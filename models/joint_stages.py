"""Copies of ResNet's last stage that read the same maps, computed together: fewer and larger operations on a GPU.

A GPU takes longer to start the operations of eight small stages than to compute them. Here the first convolutions of
all stages are one convolution with the output channels of all, and BatchNorm, ReLU and the sums are one operation for
all stages. The results, and the buffers of BatchNorm, are up to rounding those of a call of one stage after the other.
"""
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

GROUPED = False
"""Whether the convolutions that read different maps in each stage are computed as one grouped convolution; if not, one
for each stage. cuDNN has fast kernels for the latter at any size, but not always for the gradients of the former."""


def run_stages(stages: Sequence[nn.Sequential], x: torch.Tensor) -> torch.Tensor:
    """The maps that all stages give for x, in training mode: (B, C, H, W) -> (B, S * C', H', W') for S stages, where
    the channels of a stage lie side by side. The running statistics of every BatchNorm move as they do in a call of it.

    stages: of equal form, each a sequence of torchvision's `BasicBlock`; the first block of each changes the number of
    channels or the size, so it has a `downsample`.
    """
    is_shared = True  # whether all stages read the same maps
    for blocks in zip(*stages, strict=True):
        identity = x
        if blocks[0].downsample is not None:
            identity = convolution([block.downsample[0] for block in blocks], x, is_shared)
            identity = batch_norm([block.downsample[1] for block in blocks], identity)
        x = convolution([block.conv1 for block in blocks], x, is_shared)
        x = F.relu_(batch_norm([block.bn1 for block in blocks], x))
        x = convolution([block.conv2 for block in blocks], x, False)
        x = F.relu_(batch_norm([block.bn2 for block in blocks], x).add_(identity))
        is_shared = False
    return x


def has_basic_blocks(stage: nn.Module) -> bool:
    """Whether `run_stages` can compute this stage. Stages of other blocks are called one after the other."""
    return all(hasattr(block, "downsample") and hasattr(block, "bn2") for block in stage.children())


def convolution(layers: Sequence[nn.Conv2d], x: torch.Tensor, is_shared: bool) -> torch.Tensor:
    """Convolutions without bias of equal form, side by side: (B, S * C', H', W').

    x: maps (B, C, H, W) that all layers read if `is_shared`, else (B, S * C, H, W), C channels for each layer. All
    weights are rounded to the type of x in one operation; under autocast each layer would take one of its own.
    """
    weight = torch.cat([layer.weight for layer in layers]).to(x.dtype)
    stride, padding = layers[0].stride, layers[0].padding
    if is_shared or GROUPED:
        return F.conv2d(x, weight, None, stride, padding, groups=1 if is_shared else len(layers))
    # (S, B, H, W, C): in this order the maps of a layer lie together, channels last.
    parts = x.permute(0, 2, 3, 1).unflatten(3, (len(layers), -1)).permute(3, 0, 1, 2, 4).contiguous()
    pairs = zip(parts.unbind(), weight.chunk(len(layers)), strict=True)
    return torch.cat([F.conv2d(part.permute(0, 3, 1, 2), own, None, stride, padding) for part, own in pairs], 1)


def batch_norm(layers: Sequence[nn.BatchNorm2d], x: torch.Tensor) -> torch.Tensor:
    """BatchNorms of equal form with the statistics of the batch, side by side, (B, S * C, H, W)."""
    means, variances = [layer.running_mean for layer in layers], [layer.running_var for layer in layers]
    mean, variance = torch.cat(means), torch.cat(variances)
    weight, bias = torch.cat([layer.weight for layer in layers]), torch.cat([layer.bias for layer in layers])
    out = F.batch_norm(x, mean, variance, weight, bias, True, layers[0].momentum, layers[0].eps)
    with torch.no_grad():
        torch._foreach_copy_(means + variances, [*mean.chunk(len(layers)), *variance.chunk(len(layers))])
        torch._foreach_add_([layer.num_batches_tracked for layer in layers], 1)
    return out
