"""An image's label before any softening: what its annotators said, or the given label fused with a mixture."""
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import soft_labels
from cli import UserError
from datasets import GMM_FROM, default_set, expression_name, load_split


def neighbours(name, split, root, options, file=None):
    """What stands beside the given labels (FER-C, eqs. 5 to 7): label = share * one-hot + (1 - share) * other.

    name, root, options: of the data set, whose training split the mixture is fitted on; split: `datasets.Split`;
    file: a built set's gmm.json to take the mixture from instead.
    Returns (other float64 (N, K), fixed share float64 (N,): 0 where annotators' distributions take the label's place,
    1 where there is neither distribution nor valence and arousal, NaN where it is free (beta), the `GMM` or None,
    notes). Raises UserError where no mixture can be had.
    """
    expression, va = split.frame["expression"].to_numpy(), split.frame[["valence", "arousal"]].to_numpy()
    if split.distribution is not None:
        return split.distribution, np.zeros(len(expression)), None, {"labels": "the annotators' distribution"}
    known = np.isfinite(va).all(1)
    other, share = np.eye(len(split.classes))[expression], np.where(known, np.nan, 1.0)
    if not known.any():
        return other, share, None, {"labels": "one-hot: the set has neither distributions nor valence and arousal"}
    notes = {"one-hot for want of valence and arousal": int((~known).sum())}
    if file:
        gmm = read_gmm(file, split.classes)
        notes["mixture"] = f"given, sha256 {hashlib.sha256(file.read_bytes()).hexdigest()}"
    else:
        gmm = fit_gmm(name, load_split(name, root, "train", **options).frame, split.classes)
        notes["mixture"] = "fitted on the training split"
        if name in GMM_FROM:
            source = GMM_FROM[name]
            notes["mixture"] += f", although FER-C takes that of {source}"
            print(f"warning: FER-C labels {name} with the mixture of {source}; without --gmm "
                  f"{default_set(source)}/gmm.json this set is labelled with its own", file=sys.stderr)
    other[known] = gmm.posterior(va[known])
    return other, share, gmm, notes | {"labels": "given label and mixture fused"}


def training_neighbours(run, train, root, options):
    """`neighbours` of a training split for `--targets fused`, run: `settings.Run`. Returns (other (N, K), share (N,),
    notes). Raises UserError where label noise could not reach the targets."""
    other, share, _, notes = neighbours(run.dataset, train, root, options, run.gmm)
    if run.noise and not share.any():
        raise UserError(f"the annotators' distributions take the place of the labels of {run.dataset}: --noise would "
                        f"change nothing under --targets fused")
    share = np.nan_to_num(share, nan=run.beta)
    return other, share, notes | {"sha256": hashlib.sha256(other.tobytes() + share.tobytes()).hexdigest()}


def fit_gmm(name, train, classes):
    """The mixture of a training split's frame. Raises UserError naming the class that it fails on."""
    va, labels = train[["valence", "arousal"]].to_numpy(), train["expression"].to_numpy()
    try:
        return soft_labels.fit_gmm(va, labels, len(classes))
    except ValueError as error:
        named = ", ".join(f"{k} is {title}" for k, title in enumerate(classes))
        raise UserError(f"{name}: no mixture over valence and arousal can be fitted: {error} ({named})") from None


def read_gmm(file: Path, classes: Sequence[str]) -> soft_labels.GMM:
    """The mixture in a built set's gmm.json, its classes matched by name and the weights renormalised. Raises UserError
    where the file holds no mixture that is a distribution over `classes`."""
    if file.exists() and not file.is_file():
        raise UserError(f"--gmm {file} is no regular file; give the gmm.json of a built set")
    try:
        text = file.read_bytes()
        gmm = soft_labels.GMM.from_json(text)
        names = json.loads(text).get("classes")
    except OSError as error:
        raise UserError(f"--gmm {file}: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"--gmm {file}: no mixture of the classes {', '.join(classes)} ({error})") from None
    if not isinstance(names, list) or len(names) != len(gmm.weights) or not all(isinstance(n, str) for n in names):
        raise UserError(f"--gmm {file}: no mixture of the classes {', '.join(classes)} (its classes are not named)")
    by_name = {expression_name(name): k for k, name in enumerate(names)}
    missing = [name for name in classes if expression_name(name) not in by_name]
    if missing or len(by_name) != len(names):
        reason = f"it has no {', '.join(missing)}" if missing else "two of its classes have the same name"
        raise UserError(f"--gmm {file}: no mixture of the classes {', '.join(classes)} ({reason}; its classes: "
                        f"{', '.join(names)})")
    return gmm.take([by_name[expression_name(name)] for name in classes])
