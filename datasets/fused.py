"""The parts of an image's label before softening: a distribution, and the weight of the given label beside it.

The callers fuse the parts: building/plan.py for a set, training/run.py for the targets of a training.

FER-C (arXiv:2312.11542) describes the ambiguity of a face by a label distribution over the K classes, in three steps:

eq. 5  A Gaussian mixture with one component per class is fitted to the valence and arousal of the training images.
eq. 6  g (K,) is the probability of each class at the valence and arousal of an image: expressions that lie near it get
       a part of the probability.
eq. 7  t = beta * y + (1 - beta) * g is the fused label, where y (K,) is the given label as a one-hot vector.

`soft_labels.py` has the mathematics. For each image of a `Split` this module gives g and beta, as `distribution` and
`label_weight` of `LabelParts`. The data determine beta for some images, as 0 or 1; for all others --beta is taken.
A build calls `label_parts` for its test images. A training with `--targets fused` calls
`training_label_parts` for its training images. Both fuse the parts themselves.
"""
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

import soft_labels
from datasets import GMM_FROM, default_set, load_split
from datasets.split import Split, expression_name
from support.errors import UserError


class LabelParts(NamedTuple):
    """What eq. 7 needs besides y, the one-hot given label: t = label_weight * y + (1 - label_weight) * distribution."""

    distribution: np.ndarray
    """float64 (N, K), rows sum to 1: that of the split where it has one, else the posterior of the mixture, and one-hot
    for an image without valence and arousal"""
    label_weight: np.ndarray
    """float64 (N,), the weight of the given label: 0 in a split with distributions, which are its labels then; else 1
    for an image without valence and arousal, and NaN for the others, for which the caller chooses it (--beta)"""
    gmm: soft_labels.GMM | None
    """the mixture that the distributions come from, None where no mixture is needed"""
    notes: dict[str, Any]
    """where the labels come from, for the manifest of a set or args.json of a run"""


def label_parts(name: str, split: Split, root: Path, options: Mapping[str, Any],
                gmm_file: Path | None = None) -> LabelParts:
    """The parts of the fused labels of a split.

    name, root, options: of the data set, as for `load_split`; the mixture is fitted on its training split. gmm_file:
    gmm.json of a built set, whose mixture is taken instead. Raises UserError where no mixture can be had.
    """
    expression = split.frame["expression"].to_numpy()
    if split.distribution is not None:
        # Manifests of built sets hold this text, so it stays, although the distributions may be one-hot: those of
        # RAF-DB basic without basic_labels=votes, and those of FER+ with labels=majority.
        return LabelParts(split.distribution, np.zeros(len(expression)), None,
                          {"labels": "the annotators' distribution"})
    va = split.frame[["valence", "arousal"]].to_numpy()
    is_known = np.isfinite(va).all(1)
    distribution = np.eye(len(split.classes))[expression]
    label_weight = np.where(is_known, np.nan, 1.0)
    if not is_known.any():
        return LabelParts(distribution, label_weight, None,
                          {"labels": "one-hot: the set has neither distributions nor valence and arousal"})
    if gmm_file:
        gmm = read_gmm(gmm_file, split.classes)
        origin = f"given, sha256 {hashlib.sha256(gmm_file.read_bytes()).hexdigest()}"
    else:
        gmm = fit_training_gmm(name, load_split(name, root, "train", **options).frame, split.classes)
        origin = "fitted on the training split"
        if name in GMM_FROM:
            origin += f", although FER-C takes that of {GMM_FROM[name]}"
            _warn_of_own_mixture(name)
    distribution[is_known] = gmm.posterior(va[is_known])
    return LabelParts(distribution, label_weight, gmm, {
        "one-hot for want of valence and arousal": int((~is_known).sum()), "mixture": origin,
        "labels": "given label and mixture fused"})


def _warn_of_own_mixture(name: str) -> None:
    source = GMM_FROM[name]
    print(f"warning: FER-C labels {name} with the mixture of {source}; without --gmm "
          f"{default_set(source)}/gmm.json this set is labelled with its own", file=sys.stderr)


def training_label_parts(name: str, train: Split, root: Path, options: Mapping[str, Any], gmm_file: Path | None,
                         beta: float, noise: float) -> LabelParts:
    """As `label_parts`, for a training split: `label_weight` has `beta` in place of NaN, and the notes have a SHA-256
    of the two arrays.

    noise: the fraction of training labels that are made wrong on purpose. Raises UserError where that could not reach
    the targets, because the distributions of the data set take the place of all labels.
    """
    parts = label_parts(name, train, root, options, gmm_file)
    if noise and not parts.label_weight.any():
        raise UserError(f"the distributions of the data set take the place of the labels of {name}: --noise would "
                        f"change nothing under --targets fused")
    label_weight = np.nan_to_num(parts.label_weight, nan=beta)
    digest = hashlib.sha256(parts.distribution.tobytes() + label_weight.tobytes()).hexdigest()
    return parts._replace(label_weight=label_weight, notes=parts.notes | {"sha256": digest})


def fit_training_gmm(name: str, train: pd.DataFrame, classes: Sequence[str]) -> soft_labels.GMM:
    """The mixture fitted to the frame of a training split (eq. 5). Raises UserError naming the class whose images do
    not suffice."""
    va = train[["valence", "arousal"]].to_numpy()
    labels = train["expression"].to_numpy()
    try:
        return soft_labels.fit_gmm(va, labels, len(classes))
    except ValueError as error:
        legend = ", ".join(f"{label} is {title}" for label, title in enumerate(classes))
        raise UserError(f"{name}: no mixture over valence and arousal can be fitted: {error} ({legend})") from None


def read_gmm(file: Path, classes: Sequence[str]) -> soft_labels.GMM:
    """The mixture in gmm.json of a built set, reduced to `classes` and in their order, weights renormalised.

    Classes are matched by name (`expression_name`). Raises UserError where the file cannot be read, holds no mixture,
    or lacks one of the classes.
    """
    problem = f"--gmm {file}: no mixture of the classes {', '.join(classes)}"
    if file.exists() and not file.is_file():
        raise UserError(f"--gmm {file} is no regular file; give the gmm.json of a built set")
    try:
        text = file.read_bytes()
        gmm = soft_labels.GMM.from_json(text)
        names = json.loads(text).get("classes")
    except OSError as error:
        raise UserError(f"--gmm {file}: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{problem} ({error})") from None
    if not _names_each_component(names, gmm):
        raise UserError(f"{problem} (its classes are not named)")
    index_by_name = {expression_name(name): index for index, name in enumerate(names)}
    missing = [name for name in classes if expression_name(name) not in index_by_name]
    if missing:
        raise UserError(f"{problem} (it has no {', '.join(missing)}; its classes: {', '.join(names)})")
    if len(index_by_name) != len(names):
        raise UserError(f"{problem} (two of its classes have the same name; its classes: {', '.join(names)})")
    return gmm.take([index_by_name[expression_name(name)] for name in classes])


def _names_each_component(names: Any, gmm: soft_labels.GMM) -> bool:
    """Whether the names in a JSON file are a list of texts, one for each component of the mixture."""
    if not isinstance(names, list) or len(names) != len(gmm.weights):
        return False
    return all(isinstance(name, str) for name in names)
