"""Networks of open-set FER: those of a detector, with attention maps, and wrappers of trained networks for inference.

The wrappers give logits with features, or the logits of several networks at once.
"""
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from losses import attention_maps
from models import Model
from models.resnet import ResNetModel
from models.swinv2 import TimmModel
from support.errors import UserError


class AttentionResNet(ResNetModel):
    """ResNet-18 with a linear classifier, whose attention maps can be had in training."""

    def __init__(self, num_classes: int, image_size: int) -> None:
        super().__init__(num_classes, image_size)
        self.classifier = nn.Linear(512, num_classes)

    def forward(self, image: torch.Tensor) -> Any:
        """image: uint8 (N, 3, S, S). In training (logits (N, C), attention maps (N, C, S/32, S/32)); in eval mode the
        logits alone."""
        if not self.training:
            return self.classifier(self.features(image))
        features = self.feature_map(image)
        logits = self.classifier(features.mean((2, 3)))
        return logits, attention_maps(features, self.classifier.weight)


class AttentionTimmModel(TimmModel):
    """A network of timm with a linear classifier, whose attention maps can be had in training."""

    def forward(self, image: torch.Tensor) -> Any:
        """As `AttentionResNet.forward`."""
        if not self.training:
            return super().forward(image)
        features = self.backbone.forward_features(self.resized(image))
        return self.classifier(features.mean((2, 3))), attention_maps(features, self.classifier.weight)


def attention_network(name: str, num_classes: int, image_size: int) -> Model:
    """A network with attention maps. name: resnet18, or a name of timm. Raises UserError where timm does not have it,
    or it has no map whose mean are its features."""
    if name == "resnet18":
        return AttentionResNet(num_classes, image_size)
    network = AttentionTimmModel(num_classes, image_size, name)
    refuse_without_map(network, name, image_size)
    return network


def refuse_without_map(network: Any, name: str, image_size: int) -> None:
    """Raises UserError where the features of a timm network are not the mean of a map (N, D, H, W): its class attention
    maps would then not be those of its logits. name: of the network."""
    values = torch.arange(3 * image_size * image_size) % 251  # any picture that is not of one colour
    image = network.resized(values.to(torch.uint8).view(1, 3, image_size, image_size))
    network.eval()
    with torch.no_grad():
        features, pooled = network.backbone.forward_features(image), network.backbone(image)
    network.train()
    if features.ndim != 4 or features.shape[:2] != pooled.shape or not torch.allclose(
            features.mean((2, 3)), pooled, rtol=1e-3, atol=1e-5):
        raise UserError(f"--detector-backbone {name}: its features are not the mean of a map, so it has no class "
                        f"attention maps; take a ResNet, for example resnet50")


class DetectorNetworks(nn.Module):
    """The networks of one detector, which teach each other, and the losses by which they choose images."""

    losses: torch.Tensor

    def __init__(self, num_classes: int, image_size: int, count: int, images: int,
                 backbone: str = "resnet18") -> None:
        """count: number M of networks. images: number N of images in the pool. backbone: as `attention_network` takes
        it."""
        super().__init__()
        self.networks = nn.ModuleList(attention_network(backbone, num_classes, image_size) for _ in range(count))
        # The cross-entropy of every image under each network after the previous epoch, float32 (M, N). It is a part of
        # the state, so that a training that goes on in the middle of an epoch chooses the same images again.
        self.register_buffer("losses", torch.zeros(count, images))
        self.arguments = {"num_classes": num_classes, "image_size": image_size, "count": count, "images": images,
                          "backbone": backbone}

    @property
    def description(self) -> dict[str, Any]:
        """What args.json stores about the networks."""
        return {"class": f"{type(self).__module__}.{type(self).__qualname__}", "arguments": self.arguments}

    def step_inputs(self, count: int) -> None:
        """Steps are not recorded: each is of one network of several."""

    def forward(self, image: torch.Tensor, number: int = 0) -> Any:
        """image: uint8 (N, 3, S, S). In training what network `number` gives; in eval mode the logits of all networks,
        (N, M, C)."""
        if self.training:
            return self.networks[number](image)
        return torch.stack([network(image) for network in self.networks], 1)


class LogitsAndFeatures(nn.Module):
    """A network whose classifier is a linear layer, for inference: logits and features in one tensor (N, C + D)."""

    def __init__(self, network: Any) -> None:
        """network: with the parts `backbone`, which gives features (N, D), and `classifier`."""
        super().__init__()
        self.network = network
        self.captured: list[torch.Tensor] = []
        network.classifier.register_forward_pre_hook(lambda layer, inputs: self.captured.append(inputs[0]))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.captured.clear()
        logits = self.network(image)
        return torch.cat([logits.float(), self.captured.pop().float()], 1)


class SideBySide(nn.Module):
    """Several networks on the same images, for inference: what each gives, flattened, one after the other (N, sum).

    mirrored: whether each also sees the mirror images; those results follow in the same order."""

    def __init__(self, networks: Sequence[nn.Module], mirrored: bool = False) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.mirrored = mirrored

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        views = (image, image.flip(-1)) if self.mirrored else (image,)
        return torch.cat([network(view).flatten(1).float() for view in views for network in self.networks], 1)
