"""DMUE's network (She et al., CVPR 2021, arXiv:2104.00232): ResNet-18, for each class an expert on all the others, and
a confidence read off how an image's features agree with those of every class in the batch.

In training all K + 1 last stages run; a test takes the trunk, the main one and its classifier: a plain ResNet-18.
"""
import copy
from typing import Annotated, Literal, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from cli import Between, Fraction, UserError
from models import IMAGENET_MEAN, IMAGENET_STD, ImageSize, Normalize
from models.resnet import ResNetModel

NORMALIZATION = {"imagenet": (IMAGENET_MEAN, IMAGENET_STD), "half": ((0.5,) * 3, (0.5,) * 3)}


class Output(NamedTuple):
    """What a training pass gives for a batch of B images."""

    logits: torch.Tensor  # (B, K) of the main branch
    confidence: torch.Tensor  # (B,) in (0, 1)
    features: torch.Tensor  # (B, 512) of the main branch
    expert_features: torch.Tensor  # (K, B, 512), expert c's rows for images that are not of class c
    expert_logits: torch.Tensor  # (K, B, K - 1), likewise, over the classes other than c
    latent: torch.Tensor  # (B, K - 1), logits that the expert on the image's own class gives, without gradient


class DMUE(ResNetModel):
    """stem: "dmue" is that of the release's face weights: no ReLU before a 2x2 pooling. normalize: "half": to -1..1.
    experts: "joint" runs each expert once on the whole batch; "split" as the release does, on the images of other
    classes, then on those of its own; "eval" the second of these with running BatchNorm statistics.
    missing: a class that the batch lacks is masked out of the confidence ("mask") or has similarity 0 ("zero").
    test_scale: multiply test logits by the running mean of the training confidences, since training sees scaled ones.
    neck: a BatchNorm without bias, one for all branches, on the pooled features. dropout: before every classifier.
    """

    def __init__(self, num_classes: Annotated[int, Between(2, 100)],  # each with an expert of 34 MB
                 image_size: ImageSize, stem: Literal["standard", "dmue"] = "standard",
                 normalize: Literal["imagenet", "half"] = "imagenet",
                 experts: Literal["joint", "split", "eval"] = "joint", missing: Literal["mask", "zero"] = "mask",
                 test_scale: bool = False, neck: bool = False, dropout: Fraction = 0.0):
        super().__init__(num_classes, image_size, stem=stem, normalize=normalize, experts=experts, missing=missing,
                         test_scale=test_scale, neck=neck, dropout=dropout)
        self.pass_kind, self.missing, self.test_scale = experts, missing, test_scale
        self.normalize = Normalize(*NORMALIZATION[normalize])
        if stem == "dmue":
            self.backbone.relu, self.backbone.maxpool = nn.Identity(), nn.MaxPool2d(2)
        self.neck, self.dropout = nn.BatchNorm1d(512) if neck else nn.Identity(), nn.Dropout(dropout)
        if neck:
            self.neck.bias.requires_grad_(False)
        self.experts = nn.ModuleList(copy.deepcopy(self.backbone.layer4) for _ in range(num_classes))
        self.expert_classifiers = nn.ModuleList(nn.Linear(512, num_classes - 1, bias=False) for _ in self.experts)
        self.classifier = nn.Linear(512, num_classes, bias=False)
        for layer in (*self.expert_classifiers, self.classifier):
            nn.init.normal_(layer.weight, std=0.001)
        self.confidence = nn.Sequential(nn.Linear(2 * num_classes, num_classes), nn.PReLU(), nn.Linear(num_classes, 1))
        self.register_buffer("mean_confidence", torch.ones(()))

    def after_loading(self):
        """Every expert starts from the weights of the main branch."""
        for expert in self.experts:
            expert.load_state_dict(self.backbone.layer4.state_dict())

    def imagenet_weights(self):
        """As for any ResNet-18. Raises UserError for the stem of other weights."""
        if self.arguments["stem"] == "dmue":
            raise UserError("--stem dmue belongs to the release's MS-Celeb weights: give their file as --weights PATH, "
                            "or use --stem standard")
        return super().imagenet_weights()

    def forward(self, image, labels=None):
        """image: uint8 (B, 3, S, S). In training labels, int64 (B,), and an `Output`; else logits (B, K)."""
        x = self.feature_map(image, stages=3)
        features = self.neck(pool(self.backbone.layer4(x)))
        logits = self.classifier(self.dropout(features))
        if not self.training:
            return logits * self.mean_confidence if self.test_scale else logits
        expert_features, latent = (self.run_joint if self.pass_kind == "joint" else self.run_split)(x, labels)
        expert_logits = torch.stack([layer(self.dropout(one)) for layer, one in
                                     zip(self.expert_classifiers, expert_features, strict=True)])
        if latent is None:
            latent = expert_logits.detach()[labels, torch.arange(len(labels), device=labels.device)]
        with torch.autocast(image.device.type, enabled=False):
            agreement = class_agreement(features.float(), labels, len(self.experts), self.missing)
            onehot = F.one_hot(labels, len(self.experts)).float()
            confidence = self.confidence(torch.cat([agreement, onehot], 1)).sigmoid()[:, 0]
        if self.test_scale:
            self.mean_confidence.lerp_(confidence.detach().mean(), 0.01)
        return Output(logits, confidence, features, expert_features, expert_logits, latent)

    def run_joint(self, x, labels):
        return torch.stack([self.neck(pool(expert(x))) for expert in self.experts]), None

    def run_split(self, x, labels):
        order, counts = labels.argsort(stable=True), labels.bincount(minlength=len(self.experts)).tolist()
        sets = order.split(counts)
        features, latent = [], None
        for c, (expert, classifier) in enumerate(zip(self.experts, self.expert_classifiers, strict=True)):
            others = torch.cat(sets[:c] + sets[c + 1:])
            rows = self.run_expert(expert, x[others])
            features.append(rows.new_zeros(len(x), rows.shape[1]).index_copy(0, others, rows))
            with torch.no_grad():
                latent = rows.new_zeros(len(x), classifier.out_features) if latent is None else latent
                own = self.run_expert(expert, x[sets[c]], self.pass_kind == "split")
                latent.index_copy_(0, sets[c], classifier(self.dropout(own)).to(latent.dtype))
        return torch.stack(features), latent

    def run_expert(self, expert, x, batch_statistics=True):
        """Features, (N, 512), where BatchNorm takes the statistics of x, or the running ones: where asked to, and where
        a single image leaves one value a channel. No image at all still involves every parameter, as DDP needs."""
        if not len(x):
            return x.new_zeros(0, self.classifier.in_features) + 0 * sum(p.sum() for p in expert.parameters())
        expert.train(batch_statistics and (len(x) > 1 or x.shape[-1] > 2))
        self.neck.train(batch_statistics and len(x) > 1)
        features = self.neck(pool(expert(x)))
        expert.train()
        self.neck.train()
        return features


def pool(x):
    """Global average pooling: (N, C, H, W) -> (N, C)."""
    return x.mean((2, 3))


def class_agreement(features, labels, num_classes, missing="mask", eps=1e-8):
    """Mean cosine of each image with the images of every class, itself included, scaled to 0..1 along each row.

    features: (B, D); labels: int64 (B,). Returns (B, K); classes that the batch lacks give 0.
    """
    unit = F.normalize(features, dim=1)
    member = F.one_hot(labels, num_classes).to(features.dtype)
    count = member.sum(0)
    mean = unit @ unit.T @ member / count.clamp_min(1)
    counted = (count > 0) | (missing == "zero")
    low = torch.where(counted, mean, torch.inf).amin(1, keepdim=True)
    high = torch.where(counted, mean, -torch.inf).amax(1, keepdim=True)
    return torch.where(counted, (mean - low) / (high - low).clamp_min(eps), 0)
