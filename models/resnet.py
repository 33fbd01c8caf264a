"""ResNet-18 (He et al., CVPR 2016, arXiv:1512.03385): the baseline's network and the trunk of others."""
import socket

from torch import nn
from torchvision.models import ResNet18_Weights, resnet18

from models import Model, Normalize

FETCH_TIMEOUT = 20  # seconds without an answer


class ResNetModel(Model):
    """A model on torchvision's ResNet-18 without its classifier, `backbone`: uint8 (N, 3, S, S) -> (N, 512)."""

    def __init__(self, num_classes, image_size, **options):
        super().__init__(num_classes, image_size, **options)
        self.normalize = Normalize()
        self.backbone = resnet18(weights=None)
        self.backbone.fc = nn.Identity()

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


class ResNet18(ResNetModel):
    """A linear classifier on the pooled 512 features."""

    def __init__(self, num_classes, image_size):
        super().__init__(num_classes, image_size)
        self.classifier = nn.Linear(512, num_classes)

    def forward(self, image):
        """image: uint8 (N, 3, S, S). Returns logits (N, K)."""
        return self.classifier(self.backbone(self.normalize(image)))
