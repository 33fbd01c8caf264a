"""DMUE's network (She et al., CVPR 2021, arXiv:2104.00232): ResNet-18, for each class an expert that knows all other
classes, and a confidence that is computed from how an image's features agree with those of each class in the batch.

The main branch is a plain ResNet-18: the trunk (stem and three stages), the last stage and a classifier. An expert is a
copy of the last stage with a classifier of its own. In training all K + 1 last stages run; inference uses the main
branch only.
"""
import copy
from typing import Annotated, Literal, NamedTuple, Self

import torch
from torch import nn
from torch.nn import functional as F

from models import IMAGENET_MEAN, IMAGENET_STD, ImageSize, Normalize
from models.joint_stages import has_basic_blocks, run_stages
from models.resnet import ResNetModel
from support.cli import Between, Fraction
from support.errors import UserError

NORMALIZATION = {"imagenet": (IMAGENET_MEAN, IMAGENET_STD), "half": ((0.5,) * 3, (0.5,) * 3)}  # mean, std
FEATURES = 512  # of the last stage
TOGETHER_ON = ("cuda",)  # types of devices on which "joint" computes all last stages together; tests add the CPU


class Output(NamedTuple):
    """What the network returns in training for a batch of B images."""

    logits: torch.Tensor  # (B, K), of the main branch
    confidence: torch.Tensor  # (B,), in (0, 1)
    features: torch.Tensor  # (B, 512), of the main branch
    expert_features: torch.Tensor  # (K, B, 512); what expert c gives for images of class c does not count
    expert_logits: torch.Tensor  # (K, B, K - 1), likewise; of expert c over the classes other than c
    latent: torch.Tensor  # (B, K - 1), logits of the expert of the image's own class, without gradient


class DMUE(ResNetModel):
    """The main branch, the experts, and the confidence.

    stem: "dmue" is that of the FER-C release's face weights, without ReLU and with 2x2 pooling. normalize: "half"
    scales pixels to -1..1.
    experts: how the experts are run. "joint" runs each expert once, on the whole batch. "split" runs it twice, on the
    images of other classes and then on those of its own class, as the releases of DMUE and of FER-C do. "eval" is
    "split" with running BatchNorm statistics in the second pass.
    missing: a class that the batch lacks is left out of the confidence ("mask") or has similarity 0 ("zero").
    test_scale: multiply logits at inference by the running mean of the training confidences, since training sees
    multiplied logits. neck: a BatchNorm without bias, one for all branches, on the pooled features. dropout: before
    every classifier.
    """

    def __init__(self, num_classes: Annotated[int, Between(2, 100)],  # each class has an expert of 34 MB
                 image_size: ImageSize, stem: Literal["standard", "dmue"] = "standard",
                 normalize: Literal["imagenet", "half"] = "imagenet",
                 experts: Literal["joint", "split", "eval"] = "joint", missing: Literal["mask", "zero"] = "mask",
                 test_scale: bool = False, neck: bool = False, dropout: Fraction = 0.0) -> None:
        super().__init__(num_classes, image_size, stem=stem, normalize=normalize, experts=experts, missing=missing,
                         test_scale=test_scale, neck=neck, dropout=dropout)
        self.pass_kind = experts
        self.missing = missing
        self.test_scale = test_scale
        self.normalize = Normalize(*NORMALIZATION[normalize])
        if stem == "dmue":
            self.backbone.relu = nn.Identity()
            self.backbone.maxpool = nn.MaxPool2d(2)
        self.neck = nn.BatchNorm1d(FEATURES) if neck else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        if neck:
            self.neck.bias.requires_grad_(False)
        self.experts = nn.ModuleList(copy.deepcopy(self.backbone.layer4) for _ in range(num_classes))
        self.expert_classifiers = nn.ModuleList(nn.Linear(FEATURES, num_classes - 1, bias=False) for _ in self.experts)
        self.classifier = nn.Linear(FEATURES, num_classes, bias=False)
        for layer in (*self.expert_classifiers, self.classifier):
            nn.init.normal_(layer.weight, std=0.001)
        self.confidence = nn.Sequential(nn.Linear(2 * num_classes, num_classes), nn.PReLU(), nn.Linear(num_classes, 1))
        self.register_buffer("mean_confidence", torch.ones(()))

    def after_loading(self) -> None:
        """Every expert starts from the weights of the main branch."""
        for expert in self.experts:
            expert.load_state_dict(self.backbone.layer4.state_dict())

    def for_inference(self, dtype: torch.dtype) -> Self:
        """As for any ResNet-18, without the experts, which have no part in inference."""
        model = super().for_inference(dtype)
        model.experts, model.expert_classifiers = nn.ModuleList(), nn.ModuleList()
        return model

    def step_inputs(self, count: int) -> tuple[torch.Tensor, ...] | None:
        """As for any ResNet-18, and labels. "split" and "eval" wait for the number of images of every class."""
        if self.pass_kind != "joint":
            return None
        return (*super().step_inputs(count), torch.zeros(count, dtype=torch.int64))

    def imagenet_weights(self) -> tuple[str, dict[str, torch.Tensor]]:
        """As for any ResNet-18. Raises UserError for the stem "dmue", which no ImageNet weights fit."""
        if self.arguments["stem"] == "dmue":
            raise UserError("--stem dmue belongs to the FER-C release's MS-Celeb weights: give their file as "
                            "--weights PATH, or use --stem standard")
        return super().imagenet_weights()

    def forward(self, image: torch.Tensor, labels: torch.Tensor | None = None) -> Output | torch.Tensor:
        """image: uint8 (B, 3, S, S). labels: int64 (B,), in training only. Returns an `Output` in training, else logits
        (B, K)."""
        x = self.feature_map(image, stages=3)
        joint = self.training and self.pass_kind == "joint"
        if joint and x.device.type in TOGETHER_ON and has_basic_blocks(self.backbone.layer4):
            return self.run_together(x, labels)
        features = self.neck(pool(self.backbone.layer4(x)))
        logits = self.classifier(self.dropout(features))
        if not self.training:
            return logits * self.mean_confidence if self.test_scale else logits
        if self.pass_kind == "joint":
            expert_features = torch.stack([self.neck(pool(expert(x))) for expert in self.experts])
            expert_logits = self.classify(expert_features)
            latent = own_logits(expert_logits, labels)
        else:
            expert_features, latent = run_split(self, x, labels)
            expert_logits = self.classify(expert_features)
        return self.output(logits, features, expert_features, expert_logits, latent, labels)

    def run_together(self, x: torch.Tensor, labels: torch.Tensor) -> Output:
        """What `forward` returns in training for experts that run jointly: all last stages and all classifiers of the
        experts are computed together. x: feature maps of the trunk, (B, C, H, W). labels: int64 (B,)."""
        pooled = pool(run_stages([self.backbone.layer4, *self.experts], x))
        # The neck is called for one branch after the other, since each call moves its running statistics.
        features, *expert_features = [self.neck(own) for own in pooled.split(FEATURES, 1)]
        stacked = torch.stack(expert_features)
        weight = torch.stack([classifier.weight for classifier in self.expert_classifiers])
        expert_logits = self.dropout(stacked) @ weight.mT
        logits = self.classifier(self.dropout(features))
        return self.output(logits, features, stacked, expert_logits, own_logits(expert_logits, labels), labels)

    def output(self, logits: torch.Tensor, features: torch.Tensor, expert_features: torch.Tensor,
               expert_logits: torch.Tensor, latent: torch.Tensor, labels: torch.Tensor) -> Output:
        """The output of a step in training, with the confidence of its images. labels: int64 (B,)."""
        confidence = self.confidence_of(features, labels)
        if self.test_scale:
            self.mean_confidence.lerp_(confidence.detach().mean(), 0.01)
        return Output(logits, confidence, features, expert_features, expert_logits, latent)

    def classify(self, expert_features: torch.Tensor) -> torch.Tensor:
        """Logits (K, B, K - 1) of the experts from their features (K, B, 512)."""
        pairs = zip(self.expert_classifiers, expert_features, strict=True)
        return torch.stack([classifier(self.dropout(features)) for classifier, features in pairs])

    def confidence_of(self, features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Confidence (B,) of the images, in (0, 1), in float32. features: (B, 512). labels: int64 (B,)."""
        num_classes = len(self.experts)
        with torch.autocast(features.device.type, enabled=False):
            agreement = class_agreement(features.float(), labels, num_classes, self.missing)
            onehot = F.one_hot(labels, num_classes).float()
            return self.confidence(torch.cat([agreement, onehot], 1)).sigmoid()[:, 0]


def own_logits(expert_logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """(B, K - 1): for each image what the expert of its own class gives, without gradient. expert_logits: (K, B,
    K - 1). labels: int64 (B,)."""
    return expert_logits.detach()[labels, torch.arange(len(labels), device=labels.device)]


def run_split(model: DMUE, x: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Run each expert on the images of other classes, and then, without gradient, on those of its own class.

    x: feature maps of the trunk, (B, C, H, W). labels: int64 (B,). Returns (features (K, B, 512) of the first passes,
    0 for images of the expert's own class; logits (B, K - 1) of the second ones).
    """
    order = labels.argsort(stable=True)
    counts = labels.bincount(minlength=len(model.experts)).tolist()
    images_of_class = order.split(counts)
    features, latent = [], None
    for c, (expert, classifier) in enumerate(zip(model.experts, model.expert_classifiers, strict=True)):
        others = torch.cat(images_of_class[:c] + images_of_class[c + 1:])
        rows = run_expert(model, expert, x[others])
        features.append(rows.new_zeros(len(x), rows.shape[1]).index_copy(0, others, rows))
        with torch.no_grad():
            if latent is None:
                latent = rows.new_zeros(len(x), classifier.out_features)
            own = images_of_class[c]
            own_rows = run_expert(model, expert, x[own], batch_statistics=model.pass_kind == "split")
            latent.index_copy_(0, own, classifier(model.dropout(own_rows)).to(latent.dtype))
    return torch.stack(features), latent


def run_expert(model: DMUE, expert: nn.Module, x: torch.Tensor, batch_statistics: bool = True) -> torch.Tensor:
    """Features (N, 512) of an expert for feature maps x, (N, C, H, W), where N may be 0.

    batch_statistics: let BatchNorm use the statistics of x; else, and where a single image leaves one value for a
    channel, it uses the running ones. A pass of no images still involves every parameter, as distributed training
    needs.
    """
    if not len(x):
        return x.new_zeros(0, model.classifier.in_features) + 0 * sum(p.sum() for p in expert.parameters())
    expert.train(batch_statistics and (len(x) > 1 or x.shape[-1] > 2))
    model.neck.train(batch_statistics and len(x) > 1)
    features = model.neck(pool(expert(x)))
    expert.train()
    model.neck.train()
    return features


def pool(x: torch.Tensor) -> torch.Tensor:
    """Global average pooling: (N, C, H, W) -> (N, C)."""
    return x.mean((2, 3))


def class_agreement(features: torch.Tensor, labels: torch.Tensor, num_classes: int, missing: str = "mask",
                    eps: float = 1e-8) -> torch.Tensor:
    """Mean cosine of each image with the images of every class, itself included, scaled to 0..1 along each row.

    features: (B, D). labels: int64 (B,). missing: as in `DMUE`. Returns (B, K). Classes that the batch lacks give 0
    with "mask"; with "zero" their mean cosine counts as 0 and is scaled like the others.
    """
    unit = F.normalize(features, dim=1)
    member = F.one_hot(labels, num_classes).to(features.dtype)
    count = member.sum(0)
    mean = unit @ unit.T @ member / count.clamp_min(1)
    counted = (count > 0) | (missing == "zero")
    # `torch.where` with a number would wait for the device, `masked_fill` does not.
    low = mean.masked_fill(~counted, torch.inf).amin(1, keepdim=True)
    high = mean.masked_fill(~counted, -torch.inf).amax(1, keepdim=True)
    return ((mean - low) / (high - low).clamp_min(eps)).masked_fill(~counted, 0)
