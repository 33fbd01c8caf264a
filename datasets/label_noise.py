"""Wrong labels on purpose, to see how training bears them. Pure: labels in, labels out."""
import random

import numpy as np

from datasets import keyed_rng

RULES = ("exact", "released")


def add_noise(labels, ratio, num_classes, seed, rule="exact"):
    """Flip a share of the labels.

    labels: int (N,) in 0..K-1; ratio: share in [0, 1]. `exact`: round(ratio N) distinct labels each become another
    class, uniformly (symmetric noise), drawn from a generator keyed by `seed`. `released`: the FER-C release's rule:
    indices drawn with replacement, new labels over all classes including the old one, Python's `random` seeded with
    `seed` (always 0 there); truly flips about (1 - exp(-ratio)) (K - 1) / K.
    Returns a new int64 array; the realised rate is `(new != labels).mean()`. Raises ValueError on a bad ratio or rule.
    """
    labels = np.asarray(labels, np.int64)
    if not 0 <= ratio <= 1:
        raise ValueError(f"noise is a share between 0 and 1, not {ratio}")
    noisy = labels.copy()
    if rule == "exact":
        rng = keyed_rng("label noise", seed)
        chosen = rng.permutation(len(labels))[: round(ratio * len(labels))]
        noisy[chosen] = (labels[chosen] + rng.integers(1, num_classes, len(chosen))) % num_classes
    elif rule == "released":
        draw, count = random.Random(seed), int(ratio * len(labels))
        chosen = draw.choices(range(len(labels)), k=count)
        noisy[chosen] = draw.choices(range(num_classes), k=count)  # of a double draw the last one stays
    else:
        raise ValueError(f"unknown noise rule {rule!r}; known: {', '.join(RULES)}")
    return noisy
