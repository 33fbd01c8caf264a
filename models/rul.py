"""RUL's network (Zhang, Wang & Deng, NeurIPS 2021): ResNet-18 with one head for features and one for uncertainty."""
import math
from typing import Annotated

import torch
from torch import nn

from models import NumClasses
from models.resnet import ResNetModel
from support.cli import Between, Fraction

FEATURES = 64  # features of a head, as in the RUL release
EPS = 2e-5  # of the heads' BatchNorms, as in the RUL release
TOGETHER_ON = ("cuda",)  # types of devices on which both heads share one first BatchNorm; tests add the CPU
LARGEST = 10  # log variances are cut off at -LARGEST and LARGEST, so that exp stays finite and the weights are no NaN


class RUL(ResNetModel):
    """Two equal heads on the feature map: `mu` gives the features, `log_var` the logarithm of their variances, which
    weights the mixing of two images in training. The heads grow with the area of the image, up to a gigabyte at 2048
    pixels."""

    def __init__(self, num_classes: NumClasses, image_size: Annotated[int, Between(16, 2048)],
                 dropout: Fraction = 0.4) -> None:
        super().__init__(num_classes, image_size, dropout=dropout)
        inputs = 512 * math.ceil(image_size / 32) ** 2
        self.mu = make_head(inputs, dropout)
        self.log_var = make_head(inputs, dropout)
        self.classifier = nn.Linear(FEATURES, num_classes)

    def step_inputs(self, count: int) -> tuple[torch.Tensor, ...] | None:
        return (*super().step_inputs(count), torch.zeros(count, dtype=torch.int64))

    def forward(self, image: torch.Tensor, partner: torch.Tensor | None = None) -> torch.Tensor:
        """image: uint8 (N, 3, S, S). partner: int64 (N,), the image that each is mixed with; in training only. Returns
        logits (N, K)."""
        x = self.feature_map(image)
        if not self.training:
            return self.classifier(self.mu(x))
        heads = self.run_together(x) if x.device.type in TOGETHER_ON else (self.mu(x), self.log_var(x))
        return self.classifier(mix(*heads, partner))

    def run_together(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What both heads give for a feature map, (N, FEATURES) each, in training. Their first BatchNorms have no
        weights and get the same maps in every step, so one of them is computed, and the other copies its statistics."""
        first, second = self.mu[0], self.log_var[0]
        flat = first(x).flatten(1)
        torch._foreach_copy_(list(second.buffers()), list(first.buffers()))
        features, log_var = (norm(linear(dropout(flat))) for _, dropout, _, linear, norm in (self.mu, self.log_var))
        return features, log_var


def make_head(inputs: int, dropout: float) -> nn.Sequential:
    """A head on a feature map (N, 512, H, W) of `inputs` values: (N, FEATURES)."""
    return nn.Sequential(nn.BatchNorm2d(512, eps=EPS, affine=False), nn.Dropout(dropout), nn.Flatten(),
                         nn.Linear(inputs, FEATURES), nn.BatchNorm1d(FEATURES, eps=EPS))


def mix(mu: torch.Tensor, log_var: torch.Tensor, partner: torch.Tensor) -> torch.Tensor:
    """Features of pairs of images (N, D), each image weighted by its fraction of the pair's uncertainty (section 3.2 of
    the paper).

    mu, log_var: (N, D). partner: int64 (N,). The uncertainty sigma of an image is the mean of exp(log_var) over D. An
    image that is more uncertain than its partner gets more weight: to recognise both labels in a mixture the network
    has to learn which images are uncertain.
    """
    sigma = log_var.float().clamp(-LARGEST, LARGEST).exp().mean(1, keepdim=True)
    # The gradient of `index_select` is one operation on a GPU, that of indexing with [] sorts first.
    weight = sigma / (sigma + sigma.index_select(0, partner))
    return weight * mu + (1 - weight) * mu.index_select(0, partner)
