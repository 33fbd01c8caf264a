"""Wrong labels on purpose, to measure how robust training is to them (`--noise`). Pure: labels in, labels out.

Symmetric noise: a fraction of the training labels is replaced by labels of other classes, each equally likely. With
the rule of the FER-C release, a label may also be replaced by itself.
"""
import random

import numpy as np

from support.random_streams import keyed_rng

RULES = ("exact", "released")


def add_noise(labels: np.ndarray, ratio: float, num_classes: int, seed: int, rule: str = "exact") -> np.ndarray:
    """The labels with a fraction of them replaced.

    labels: int (N,) in 0..K-1; ratio: fraction in [0, 1]; num_classes: K; seed: of the draw; rule:
    exact     round(ratio N) different rows are drawn, and each gets one of the other classes, all equally likely.
    released  as in the code released with FER-C: rows are drawn with replacement, and each gets one of all classes, its
              own included. `seed` seeds Python's `random` (always 0 in the release). About
              (1 - exp(-ratio)) (K - 1) / K of the labels change.

    Returns a new int64 array (N,); the fraction that changed is `(new != labels).mean()`. Raises ValueError on a ratio
    out of range and on an unknown rule.
    """
    labels = np.asarray(labels, np.int64)
    if not 0 <= ratio <= 1:
        raise ValueError(f"noise is a fraction between 0 and 1, not {ratio}")
    noisy = labels.copy()
    if rule == "exact":
        rng = keyed_rng("label noise", seed)
        rows = rng.permutation(len(labels))[: round(ratio * len(labels))]
        noisy[rows] = (labels[rows] + rng.integers(1, num_classes, len(rows))) % num_classes
    elif rule == "released":
        rng_released = random.Random(seed)
        count = int(ratio * len(labels))
        drawn_rows = rng_released.choices(range(len(labels)), k=count)
        noisy[drawn_rows] = rng_released.choices(range(num_classes), k=count)  # of a row drawn twice the last one stays
    else:
        raise ValueError(f"unknown noise rule {rule!r}; known: {', '.join(RULES)}")
    return noisy
