"""From pictures to what a network takes, and from what it gives to logits.

`PreparedNetwork` is a network with both around it: uint8 (N, 3, S, S), RGB -> logits (N, K), as scoring needs it.
"""
from collections.abc import Callable
from typing import Any, Self

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from evaluation.input_format import InputFormat
from evaluation.model_facts import FLOOR

LUMA = (0.299, 0.587, 0.114)  # grey is these fractions of red, green and blue (ITU-R BT.601), as in Pillow and OpenCV


class PreparedNetwork(nn.Module):
    """A network of any source, with its preprocessing before it and the logarithm of probabilities behind it."""

    def __init__(self, network: nn.Module, format: InputFormat, output: str) -> None:
        """network: takes what `format` describes and gives logits or probabilities (N, K), as `output` says."""
        super().__init__()
        self.network = network
        self.format = format
        self.output = output
        # With several processes, DistributedDataParallel refuses a module that has no parameters.
        self.marker = nn.Parameter(torch.zeros(()))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits float32 (N, K) of images uint8 (N, 3, S, S), RGB."""
        outputs = self.outputs(images).float()
        return outputs.clamp_min(FLOOR).log() if self.output == "probabilities" else outputs

    def outputs(self, images: torch.Tensor) -> Any:
        """What the network itself gives for images uint8 (N, 3, S, S), RGB."""
        return self.network(to_input(images, self.format))

    def for_inference(self, dtype: torch.dtype) -> Self:
        """The network as it is: of a network of somebody else no other form is known. dtype: not used."""
        return self


class ArrayNetwork(nn.Module):
    """A function of NumPy arrays as a module: what computes outside torch, in another library or process."""

    def __init__(self, function: Callable[[np.ndarray], np.ndarray], batch: int | None = None) -> None:
        """function: from the arrays that the network takes to its outputs. batch: the number of images that it takes
        at once, no more and no fewer; None: any."""
        super().__init__()
        self.function = function
        self.batch = batch

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """inputs: (N, channels, S, S) or (N, S, S, channels), float32 or uint8, as the function takes them. Returns its
        outputs, of a usable model (N, K), on the device of the inputs."""
        array = inputs.detach().cpu().numpy()
        if self.batch is None:
            outputs = self.function(array)
        else:
            outputs = np.concatenate(in_batches(self.function, array, self.batch))
        return torch.from_numpy(np.ascontiguousarray(outputs)).to(inputs.device)


class BatchesOf(nn.Module):
    """A torch network that takes a fixed number of images at once, for any number of them."""

    def __init__(self, network: nn.Module, batch: int) -> None:
        super().__init__()
        self.network = network
        self.batch = batch

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """The network's outputs (N, K) of inputs (N, ...)."""
        return torch.cat(in_batches(self.network, inputs, self.batch))


def in_batches(function: Callable[[Any], Any], inputs: Any, batch: int) -> list[Any]:
    """The outputs of a function that takes exactly `batch` images at once: a list of arrays, or tensors, of at most
    `batch` rows each. inputs: array or tensor (N, ...), N at least 1. The first image of the last batch fills it."""
    outputs = []
    for start in range(0, len(inputs), batch):
        stop = min(start + batch, len(inputs))
        rows = [*range(start, stop), *[start] * (start + batch - stop)]
        outputs.append(function(inputs[rows])[:stop - start])
    return outputs


def to_input(images: torch.Tensor, format: InputFormat) -> torch.Tensor:
    """What the network takes, from uint8 (N, 3, S, S), RGB.

    In this order: colours, crop, size (rounded to whole grey levels, as image libraries do), range, layout. Returns
    float32 or uint8, (N, channels, size, size) or (N, size, size, channels). The device is that of the images."""
    values = _coloured(images, format.colour)
    values = _resized(values, format)
    if format.dtype == "uint8":
        values = values.to(torch.uint8)
    else:
        values = _scaled(values.float(), format)
    return values.permute(0, 2, 3, 1).contiguous() if format.layout == "nhwc" else values.contiguous()


def _coloured(images: torch.Tensor, colour: str) -> torch.Tensor:
    """The images in their order of colours: uint8 as they came, or grey levels as float32 whole numbers."""
    if colour == "rgb":
        return images
    if colour == "bgr":
        return images.flip(1)
    red, green, blue = images.float().unbind(1)
    grey = (LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue).round()[:, None]
    return grey if colour == "grey" else grey.expand(-1, 3, -1, -1)


def _resized(values: torch.Tensor, format: InputFormat) -> torch.Tensor:
    """The centre of the images, at the network's size, in whole grey levels."""
    side = values.shape[-1]
    kept = max(1, round(side * format.crop))
    if kept < side:
        first = (side - kept) // 2
        values = values[:, :, first:first + kept, first:first + kept]
    size = format.size or side
    if size == kept:
        return values
    smooth = format.resize in ("bilinear", "bicubic")
    values = F.interpolate(values.float(), (size, size), mode=format.resize, antialias=smooth,
                           align_corners=False if smooth else None)
    return values.round().clamp(0, 255)


def _scaled(values: torch.Tensor, format: InputFormat) -> torch.Tensor:
    """Float32 grey levels 0..255 in the network's range."""
    if format.range == "0..255":
        return values
    if format.range == "-1..1":
        return values / 127.5 - 1
    if format.range == "0..1":
        return values / 255
    mean, std = (torch.tensor(numbers, dtype=values.dtype, device=values.device).view(1, -1, 1, 1)
                 for numbers in (format.mean, format.std))
    return (values / 255 - mean) / std
