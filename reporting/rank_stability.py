"""How stable a ranking is: under other labels and other cells, and with other test images.

`stability_of` ranks the ranked candidates of one group again by each variant of labels and cells (image_scores.py):
soft labels, hard labels, votes, and without brightness, contrast and snow. Kendall's tau compares each pair of these
orders: 1 is the same order, -1 the reverse. Rank intervals come from a bootstrap over the images of the set, in which
all models are ranked on the same resamples. They need stored predictions, so a model that is known by its card alone
has none. They say nothing about other seeds.
"""
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import nan
from typing import Any

import numpy as np
from scipy.stats import kendalltau, rankdata

import metrics
from evaluation.error_bootstrap import draw_weights, resampled_means
from evaluation.image_scores import HARD, SOFT, VOTES, WITHOUT, ImageScores
from metrics import METRICS
from reporting.candidates import Candidate, Group
from reporting.cells import cells_left, words_left_out
from reporting.notes import plain
from reporting.ranking import Ranking, ranks_by
from reporting.stored_images import SetImages
from reporting.tables import Entry, Grid, GridLine, Section

LEVEL = 95  # percent, of the intervals
VARIANT_NAMES = {SOFT: "soft labels", HARD: "hard labels", VOTES: "votes", WITHOUT: "without {words}"}
HEADINGS = {SOFT: "soft", HARD: "hard", VOTES: "votes", WITHOUT: "{count} cells"}
TITLE = "Rank stability on {set}: {metric} on corrupted images"
# Placeholders: see `for_sets` of cells.py.
LEGEND = """Ranks: places by soft labels, hard labels, votes (the labels before softening, where these are no single
classes) and soft labels in [cells_left|the 70 cells without brightness, contrast and snow]. From, to: 95 %
interval of the place from resampled images; where some models have no stored predictions and therefore no interval, it
is the place among the others ("stored")."""
Images = Mapping[Candidate, Sequence[ImageScores]]  # of every run of a candidate


@dataclass(frozen=True, eq=False)
class Stability:
    """The ranks of the candidates of one group under all variants."""

    ranking: Ranking
    group: Group
    ranks: dict[str, dict[Candidate, int]]
    """by variant; only candidates that have a score in all of these"""
    left_out: dict[str, list[Candidate]]
    """by variant that not all candidates have: those that lack it"""
    taus: dict[tuple[str, str], float]
    """Kendall's tau of two variants"""
    intervals: dict[Candidate, tuple[int, int]]
    """by soft labels"""
    resampled_ranks: dict[Candidate, int]
    """rank among the candidates that have an interval"""
    resamples: int
    cluster: str
    """what was drawn: image or identity"""


def stability_of(ranking: Ranking, group: Group, images: Images, built: SetImages | None,
                 resamples: int) -> Stability | None:
    """The stability of the ranks of one group; None where fewer than two candidates are ranked. images: of the
    candidates whose predictions are stored. built: the set, None where it is not there; resamples: 0 for no
    intervals."""
    candidates = ranking.ranked(group)
    if len(candidates) < 2:
        return None
    metric = ranking.metric
    ranks, left_out = {}, {}
    for variant in VARIANT_NAMES:
        lacking = [one for one in candidates if (variant, metric) not in one.scores]
        if not lacking:
            ranks[variant] = ranks_by(metric, candidates, variant)
        elif len(lacking) < len(candidates):
            left_out[variant] = lacking
    taus = {}
    variants = list(ranks)
    for place, one in enumerate(variants):
        for other in variants[place + 1:]:
            taus[one, other] = kendall_tau([ranks[one][c] for c in candidates], [ranks[other][c] for c in candidates])
    stored = [one for one in candidates if images.get(one)]
    intervals: dict[Candidate, tuple[int, int]] = {}
    resampled_ranks: dict[Candidate, int] = {}
    if built is not None and resamples and len(stored) > 1:
        intervals = rank_intervals(metric, {one: images[one] for one in stored}, built, resamples)
        resampled_ranks = ranks_by(metric, stored)
    return Stability(ranking, group, ranks, left_out, taus, intervals, resampled_ranks, resamples,
                     built.cluster if built is not None else "image")


def kendall_tau(one: Sequence[int], other: Sequence[int]) -> float:
    """Kendall's tau-b of two orders; NaN where one of them has only equal ranks."""
    return float(kendalltau(one, other).statistic)


# --- intervals ---


def rank_intervals(metric: str, images: Images, built: SetImages, resamples: int) -> dict[Candidate, tuple[int, int]]:
    """The 95 % intervals of the ranks, by soft labels, among these candidates, on resamples of their set."""
    weights = draw_weights(int(built.cluster_of_image.max()) + 1, resamples, built.set_version)
    sign = -1 if METRICS[metric].higher_is_better else 1
    columns = []
    for of_runs in images.values():
        values = [resampled_score(metric, scores, built.cluster_of_image[scores.kept], weights) for scores in of_runs]
        columns.append(sign * np.mean(values, axis=0))
    table = np.stack(columns, axis=1)[1:]
    table = table[np.isfinite(table).all(1)]  # a resample may hold no image of a small set that is scored
    if not len(table):
        return {}
    ranks = rankdata(table, method="min", axis=1)
    ends = np.percentile(ranks, [50 - LEVEL / 2, 50 + LEVEL / 2], axis=0, method="closest_observation")
    return {one: (int(low), int(high)) for one, low, high in zip(images, *ends, strict=True)}


def resampled_score(metric: str, scores: ImageScores, cluster_of_image: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """A score by soft labels on every resample, float64 (resamples + 1,)."""
    if metric != "ece":
        return resampled_means(scores.means[SOFT, metric][:, None], cluster_of_image, weights)[:, 0]
    clusters = weights.shape[1]
    sizes = weights @ np.bincount(cluster_of_image, minlength=clusters)
    total = np.zeros(len(weights))
    for cell in range(len(scores.bins)):
        index = cluster_of_image * metrics.BINS + scores.bins[cell]
        sums = np.bincount(index, scores.gaps[SOFT][cell], clusters * metrics.BINS).reshape(clusters, metrics.BINS)
        used = sums.any(0)
        total += np.abs(weights @ sums[:, used]).sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return total / len(scores.bins) / sizes


# --- as grids and as lines of CSV ---


def arrange(stabilities: Iterable[Stability]) -> list[Grid]:
    """A grid for each ranking, with a section for each of its groups."""
    by_ranking: dict[Ranking, list[Stability]] = {}
    for stability in stabilities:
        by_ranking.setdefault(stability.ranking, []).append(stability)
    grids = []
    for ranking, of_ranking in by_ranking.items():
        variants = [variant for variant in VARIANT_NAMES if any(variant in one.ranks for one in of_ranking)]
        all_stored = all(len(one.intervals) in (0, len(one.ranks[SOFT])) for one in of_ranking)
        top = "95 %" if all_stored else "stored"
        of_interval = ["from", "to"] if all_stored else ["rank", "from", "to"]
        columns: list[tuple[str, ...]] = [("rank", HEADINGS[variant].format(count=cells_left(ranking.corruptions)))
                                          for variant in variants]
        columns += [(top, name) for name in of_interval]
        sections, sentences = [], []
        for stability in of_ranking:
            heading = ranking.heading_of(stability.group)
            lines = [GridLine(ranking.names[one], entries_of(stability, one, variants, not all_stored))
                     for one in stability.ranks[SOFT]]
            sections.append(Section(heading, lines))
            sentences += sentences_of(stability, heading if len(of_ranking) > 1 else "")
        title = TITLE.format(set=ranking.set_name, metric=METRICS[ranking.metric].label)
        grids.append(Grid("ranks", title, columns, sections, [], sentences, {}))
    return grids


def entries_of(stability: Stability, candidate: Candidate, variants: Iterable[str], among: bool) -> list[Entry]:
    """The ranks of one candidate. among: also the rank among the models with stored predictions, which the interval is
    of."""
    values = [stability.ranks.get(variant, {}).get(candidate, nan) for variant in variants]
    if among:
        values.append(stability.resampled_ranks.get(candidate, nan))
    values += stability.intervals.get(candidate, (nan, nan))
    return [Entry(value, digits=0) for value in values]


def sentences_of(stability: Stability, heading: str) -> list[str]:
    """Kendall's tau of the pairs with soft labels and of the others, and what has no interval or no rank."""
    variant_names = {variant: name.format(words=words_left_out(stability.ranking.corruptions))
                     for variant, name in VARIANT_NAMES.items()}
    taus = [f"{variant_names[one]} and {variant_names[other]} {spell_tau(tau)}"
            for (one, other), tau in stability.taus.items()]
    start = f"{heading}: " if heading else ""
    sentences = [f"{start}Kendall's tau of the orders by {'; '.join(taus)}."] if taus else []
    names = stability.ranking.names
    for variant, lacking in stability.left_out.items():
        sentences.append(f"{start}no order by {variant_names[variant]}: not known of "
                         f"{', '.join(names[one] for one in lacking)}.")
    without = [names[one] for one in stability.ranks[SOFT] if one not in stability.intervals]
    if stability.intervals:
        drawn = f"{start}95 % from {stability.resamples} resamples ({stability.cluster} by {stability.cluster})"
        if without:
            drawn += (f", among the {len(stability.intervals)} models with stored predictions; none for "
                      f"{', '.join(without)}, known by card or scores alone")
        sentences.append(f"{drawn}.")
    else:
        sentences.append(f"{start}no intervals: they need --resamples above 0, the built set, and the stored "
                         f"predictions of two models.")
    return [plain(sentence) for sentence in sentences]


def spell_tau(tau: float) -> str:
    """A Kendall's tau with two digits and a true minus."""
    return "undefined" if np.isnan(tau) else f"{tau:.2f}".replace("-", "−")


CSV_COLUMNS = ["set", "set_version", "images", "precision", "missing_classes", "metric", "model", "kind", "rank_soft",
               "rank_hard", "rank_votes", "rank_without", "rank_with_predictions", "low", "high", "resamples",
               "tau_soft_hard", "tau_soft_votes", "tau_soft_without"]


def csv_lines(stabilities: Iterable[Stability]) -> list[dict[str, Any]]:
    """A line for each candidate, with the names of `CSV_COLUMNS`. low, high: of `rank_with_predictions`, the rank among
    the models with stored predictions."""
    lines = []
    for stability in stabilities:
        group = stability.group
        for one in stability.ranks[SOFT]:
            low, high = stability.intervals.get(one, (None, None))
            line = {"set": stability.ranking.set_name, "set_version": group.set_version,
                    "images": group.images, "precision": group.precision,
                    "missing_classes": "; ".join(group.missing), "metric": stability.ranking.metric,
                    "model": stability.ranking.names[one], "kind": one.kind,
                    "rank_with_predictions": stability.resampled_ranks.get(one), "low": low, "high": high,
                    "resamples": stability.resamples if one in stability.intervals else None}
            for variant in VARIANT_NAMES:
                line[f"rank_{variant}"] = stability.ranks.get(variant, {}).get(one)
                line[f"tau_soft_{variant}"] = stability.taus.get((SOFT, variant))
            lines.append(line)
    return lines
