"""ResNet-18 (He et al., CVPR 2016, arXiv:1512.03385): the baseline's network and the trunk of others."""
from torch import nn
from torchvision.models import resnet18

from models import Model, Normalize


class ResNet18(Model):
    """torchvision's ResNet-18 with a new linear classifier on the pooled 512 features."""

    imagenet = "ResNet18_Weights.IMAGENET1K_V1"

    def __init__(self, num_classes, image_size):
        super().__init__(num_classes, image_size)
        self.normalize = Normalize()
        self.backbone = resnet18(weights=None)
        self.backbone.fc = nn.Identity()
        self.classifier = nn.Linear(512, num_classes)

    def forward(self, image):
        """image: uint8 (N, 3, H, W). Returns logits (N, K)."""
        return self.classifier(self.backbone(self.normalize(image)))
