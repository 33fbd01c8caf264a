"""SCN's network (Wang et al., CVPR 2020, arXiv:2002.10392): ResNet-18 whose logits are multiplied by an attention
weight."""
import torch
from torch import nn

from models import ImageSize, NumClasses
from models.resnet import ResNetModel


class SCN(ResNetModel):
    """Logits z = a (W f + b) from features f, with one attention weight a = sigmoid(v . f + c), in (0, 1), for each
    image (sections 3.2, 3.3 of the paper)."""

    def __init__(self, num_classes: NumClasses, image_size: ImageSize) -> None:
        super().__init__(num_classes, image_size)
        self.attention = nn.Linear(512, 1)
        self.classifier = nn.Linear(512, num_classes)

    def forward(self, image: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """image: uint8 (N, 3, S, S). Returns logits (N, K); in training (logits, attention weights (N,))."""
        features = self.features(image)
        attention = self.attention(features).sigmoid()
        logits = attention * self.classifier(features)
        return (logits, attention.flatten()) if self.training else logits
