"""How much errors would vary with other test images: a bootstrap over the images of a set, or over its identities.

The standard errors go into a card, because mCE of other models divides by the errors of this one (docs/method.md):
where such a denominator is small against its standard error, the ratio says nothing.

A *cluster* is what is drawn: an image, clean and in all its forms; or an identity with all its images, where the set
knows the identity of every image and has fewer identities than images. Equal sets are resampled equally, for all
models. Nothing here imports torch.
"""
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from building.built_set import BuiltSet
from corruptions import CORRUPTIONS, SEVERITIES
from evaluation.image_scores import HARD, MEASURES, VOTES, ImageScores, Labels, image_scores, votes_of
from evaluation.predictions import predictions_file, read_array
from support.random_streams import keyed_rng

RESAMPLES = 1000


def clusters_of_frame(frame: pd.DataFrame, count: int) -> tuple[str, np.ndarray]:
    """What is drawn ("image" or "identity"), and the cluster of each of the first `count` images, int64 (count,)
    counted from 0. frame: labels.csv of a set, missing identities as NaN."""
    if "identity" in frame and frame["identity"][:count].notna().all():
        cluster_of_image, identities = pd.factorize(frame["identity"][:count])
        if len(identities) < count:
            return "identity", cluster_of_image
    return "image", np.arange(count)


def draw_weights(clusters: int, resamples: int, set_version: str) -> np.ndarray:
    """How often each resample holds each cluster, float64 (resamples + 1, clusters); the first row is the set as it is.
    The same for all models on one version of a set."""
    rng = keyed_rng("bootstrap", set_version, clusters)
    drawn = rng.multinomial(clusters, np.full(clusters, 1 / clusters), resamples)
    return np.concatenate([np.ones((1, clusters)), drawn])


def resampled_means(values: np.ndarray, cluster_of_image: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The mean over images on every resample, float64 (resamples + 1, columns).

    values: (M, columns). cluster_of_image: int64 (M,). weights: of `draw_weights`. A resample without any of these
    images gives NaN."""
    clusters = weights.shape[1]
    order = np.argsort(cluster_of_image, kind="stable")
    present, starts = np.unique(cluster_of_image[order], return_index=True)
    sums = np.add.reduceat(np.asarray(values, np.float64)[order], starts, axis=0)
    sizes = np.bincount(cluster_of_image, minlength=clusters)
    with np.errstate(invalid="ignore"):
        return weights[:, present] @ sums / (weights @ sizes)[:, None]


def resampled_errors(errors: np.ndarray, cluster_of_image: np.ndarray, weights: np.ndarray
                     ) -> tuple[np.ndarray, np.ndarray]:
    """The error on clean images, float64 (resamples + 1,), and in all cells, (resamples + 1, corruptions, 5), on every
    resample. errors: bool (1 + cells, M), as `ImageScores.errors`; the other arguments as in `resampled_means`."""
    means = resampled_means(errors.T, cluster_of_image, weights)
    return means[:, 0], means[:, 1:].reshape(len(means), -1, len(SEVERITIES))


def standard_errors(clean: np.ndarray, cells: np.ndarray,
                    corruptions: Sequence[str] = tuple(CORRUPTIONS)) -> dict[str, dict[str, float]]:
    """{corruption: {"error", "increase"}}: the standard deviations over resamples of the sum of the error over
    severities, and of the sum of the error minus the error on clean images. clean, cells: as `resampled_errors` returns
    them. corruptions: those of the set, in its order."""
    error = np.nanstd(cells[1:].sum(2), axis=0, ddof=1)
    increase = np.nanstd((cells[1:] - clean[1:, None, None]).sum(2), axis=0, ddof=1)
    return {name: {"error": float(error[place]), "increase": float(increase[place])}
            for place, name in enumerate(corruptions)}


def extras_of_predictions(built: BuiltSet, folder: Path, known: Sequence[int] | None = None,
                          keeps_missing: bool = False
                          ) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, float]]]:
    """What a card holds of the stored logits of a model: (standard_errors, variants), as `cards.Extras` names them.

    folder: of the predictions of all images of the set. known, keeps_missing: as for `image_scores`. Raises DamagedFile
    where logits are missing or damaged."""
    hard = built.frame["expression"].to_numpy(np.int64)
    labels = Labels(hard, built.soft_labels, votes_of(built.labels_before_softening))
    scores = image_scores(lambda cell: read_array(predictions_file(folder, cell)), labels, known, keeps_missing,
                          built.corruptions)
    _, cluster_of_image = clusters_of_frame(built.frame, len(hard))
    weights = draw_weights(int(cluster_of_image.max()) + 1, RESAMPLES, built.manifest["set_version"])
    errors = resampled_errors(scores.errors, cluster_of_image[scores.kept], weights)
    return standard_errors(*errors, built.corruptions), variants_of(scores)


def variants_of(scores: ImageScores) -> dict[str, dict[str, float]]:
    """The means over all cells against hard labels and votes, {variant: {metric: value}}, without what is not
    finite."""
    variants: dict[str, dict[str, float]] = {}
    for variant in (HARD, VOTES):
        values = {measure: scores.mean(variant, measure) for measure in (*MEASURES, "ece")}
        finite = {measure: value for measure, value in values.items() if value is not None and np.isfinite(value)}
        if finite:
            variants[variant] = finite
    return variants
