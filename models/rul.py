"""RUL's network (Zhang, Wang & Deng, NeurIPS 2021): features, and how uncertain they are."""
import math
from typing import Annotated

from torch import nn

from cli import Between, Fraction
from models import NumClasses
from models.resnet import ResNetModel

FEATURES = 64
EPS = 2e-5  # of the heads' BatchNorms, as in the authors' code
LARGEST = 10  # of |log variance|: exp stays finite in bfloat16


class RUL(ResNetModel):
    """Two heads of one form on the feature map: mu, and log_var, which weighs the mixing in training alone."""

    def __init__(self, num_classes: NumClasses, image_size: Annotated[int, Between(16, 2048)],
                 dropout: Fraction = 0.4):  # 2048: the heads grow with the area of the image, up to a gigabyte
        super().__init__(num_classes, image_size, dropout=dropout)
        inputs = 512 * math.ceil(image_size / 32) ** 2

        def head():
            return nn.Sequential(nn.BatchNorm2d(512, eps=EPS, affine=False), nn.Dropout(dropout), nn.Flatten(),
                                 nn.Linear(inputs, FEATURES), nn.BatchNorm1d(FEATURES, eps=EPS))
        self.mu, self.log_var = head(), head()
        self.classifier = nn.Linear(FEATURES, num_classes)

    def forward(self, image, other=None):
        """image: uint8 (N, 3, S, S); other: int64 (N,), the image that each is mixed with, in training alone.
        Returns logits (N, K)."""
        x = self.feature_map(image)
        mu = self.mu(x)
        return self.classifier(mix(mu, self.log_var(x), other) if self.training else mu)


def mix(mu, log_var, other):
    """Features of pairs of images, each weighted by its share of the pair's uncertainty (section 3.2 of the paper).

    mu, log_var: (N, D); other: int64 (N,). sigma is the mean of exp(log_var) over D; an image that is more uncertain
    than its partner weighs more: to tell both labels from one feature the network has to learn what is uncertain.
    """
    sigma = log_var.float().clamp(-LARGEST, LARGEST).exp().mean(1, keepdim=True)
    share = sigma / (sigma + sigma[other])
    return share * mu + (1 - share) * mu[other]
