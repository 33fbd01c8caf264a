"""mCE: the errors of models under corruption, relative to those of one named baseline (docs/method.md).

With --baseline, `compare_errors` divides the errors of every candidate of a group by those of the baseline on the same
images: CE of each corruption, their mean mCE, and the same for what corruption adds to the clean error (relative mCE).
A corruption is undefined for every model where the baseline's sum is below twice its bootstrap standard error, since a
ratio to a number that may be 0 says nothing; the means are over the others. Without a baseline there are the mean error
and the error relative to the model's own on clean images, which need none. Intervals resample model and baseline
together; both need stored predictions.
"""
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import nan
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.cards import Card
from evaluation.error_bootstrap import RESAMPLES, draw_weights, resampled_errors, standard_errors
from evaluation.image_scores import ImageScores
from metrics import LEAST_STANDARD_ERRORS, corruption_error, relative_corruption_error, self_relative_error
from reporting.baselines import digest_of_card, digest_of_run, locate_baseline
from reporting.bootstrap import interval_of
from reporting.candidates import CLEAN, Candidate, Group, candidate_of_card, candidate_of_row
from reporting.cells import FER_C
from reporting.notes import plain
from reporting.rank_stability import Images
from reporting.ranking import Ranking
from reporting.rows import Row
from reporting.runs import Run
from reporting.scores import blocks_of, in_block
from reporting.stored_images import SetImages, StoredImages
from reporting.tables import Entry, Grid, GridLine, Section

TITLE = "Errors under corruption on {set}"
LEGEND = """Errors: 1 - accuracy, in percent. mCE: mean over corruptions of the error divided by the baseline's (100: as
good as the baseline). Relative mCE: the same for the error that corruption adds. Mean error: not divided.
Self-relative: divided by the model's own error on clean images."""


@dataclass(frozen=True, eq=False)
class Baseline:
    """What errors are divided by, on one group."""

    name: str
    digest: str
    """of its weights or of its file, as text: the kind and 16 digits"""
    errors: np.ndarray
    """float64 (C, 5), of the set's corruptions"""
    clean: float
    """error on clean images"""
    standard_errors: Mapping[str, Mapping[str, float]] | None
    """as error_bootstrap.standard_errors gives them; None: not known"""
    images: ImageScores | None = None
    """None: its predictions are not stored"""
    corruptions: tuple[str, ...] = FER_C
    """of the set, in its order"""

    @property
    def defined(self) -> np.ndarray:
        """Which corruptions have a CE: bool (C,)."""
        return self._reaches(self.errors.sum(1), "error")

    @property
    def defined_relative(self) -> np.ndarray:
        """Which corruptions have a relative CE: bool (C,)."""
        return self._reaches((self.errors - self.clean).sum(1), "increase")

    def _reaches(self, sums: np.ndarray, kind: str) -> np.ndarray:
        least = np.zeros(len(sums))
        if self.standard_errors is not None:
            least = np.array([LEAST_STANDARD_ERRORS * self.standard_errors[name][kind] for name in self.corruptions])
        return (sums > 0) & (sums >= least)


@dataclass(frozen=True, eq=False)
class ErrorsOfModel:
    """The errors of one candidate, NaN where a number is not defined. `mean_error` is a fraction of images.
    `self_relative` is divided by the error on clean images, the others by the baseline's: there 1 is as good as the
    baseline."""

    candidate: Candidate
    mean_error: float
    self_relative: float
    ce: np.ndarray
    """float64 (C,), of the set's corruptions"""
    relative_ce: np.ndarray
    """float64 (C,)"""
    mean_ce: float
    mean_relative_ce: float
    mean_ce_interval: tuple[float, float] | None = None
    relative_interval: tuple[float, float] | None = None


@dataclass(frozen=True, eq=False)
class ErrorsOfGroup:
    """The errors of all candidates of a group."""

    ranking: Ranking
    group: Group
    baseline: Baseline | None
    models: list[ErrorsOfModel] = field(default_factory=list)


# --- the baseline ---


def find_baseline(path: Path, runs: Sequence[Run], scores: Any, stored: StoredImages) -> dict[Group, Baseline]:
    """The baseline of --baseline, by the groups that it was scored in. scores: of `scores.scores_as_table`. Raises
    UserError as `locate_baseline` does."""
    located = locate_baseline(path, runs)
    if isinstance(located, int):
        return baselines_of_run(located, runs[located], scores, stored)
    return baselines_of_cards(located, stored)


def baselines_of_cards(cards: Iterable[Card], stored: StoredImages) -> dict[Group, Baseline]:
    """The baselines that cards describe."""
    baselines = {}
    for card in cards:
        stored_card = next((one for one in stored.of_cards if one.data == card.data), card)
        candidate = candidate_of_card(card)
        baseline = baseline_of(candidate, candidate.name, digest_of_card(card), stored.of_cards.get(stored_card),
                               stored, card.data["standard_errors"])
        if baseline is not None:
            baselines[candidate.group] = baseline
    return baselines


def baselines_of_run(index: int, run: Run, scores: Any, stored: StoredImages) -> dict[Group, Baseline]:
    """The baselines that one run is, for every block that it was scored in. index: its position in the report."""
    baselines = {}
    blocks = blocks_of(scores)
    for block in blocks:
        part = in_block(scores, block)
        part = part[part["run"] == index]
        if part.empty:
            continue
        images = stored.of_runs.get((block, index))
        row = Row(*part[list(Row._fields)].iloc[0])
        candidate = candidate_of_row(block, blocks, row, part, {} if images is None else {(block, index): images})
        name = f"{candidate.name}, seed {run.seed}"
        baseline = baseline_of(candidate, name, digest_of_run(run, block.set, block.precision), images, stored, None)
        if baseline is not None:
            baselines[candidate.group] = baseline
    return baselines


def baseline_of(candidate: Candidate, name: str, digest: str, images: ImageScores | None, stored: StoredImages,
                errors_of_card: Mapping[str, Mapping[str, float]] | None) -> Baseline | None:
    """A candidate as a baseline; None where its errors are not known. errors_of_card: its standard errors, where a card
    has them; stored predictions go before them."""
    if candidate.errors is None or (CLEAN, "accuracy") not in candidate.scores:
        return None
    built = stored.sets.get(candidate.group.set_version)
    if images is not None and built is not None:
        errors_of_card = standard_errors(*errors_on_resamples(images, built, RESAMPLES), candidate.corruptions)
    return Baseline(name, digest, candidate.errors, 1 - candidate.scores[CLEAN, "accuracy"], errors_of_card, images,
                    candidate.corruptions)


def errors_on_resamples(images: ImageScores, built: SetImages, resamples: int) -> tuple[np.ndarray, np.ndarray]:
    """`resampled_errors` of a model: on clean images (resamples + 1,), and in all cells (resamples + 1, C, 5)."""
    weights = draw_weights(int(built.cluster_of_image.max()) + 1, resamples, built.set_version)
    return resampled_errors(images.errors, built.cluster_of_image[images.kept], weights)


# --- the errors of models ---


def compare_errors(ranking: Ranking, group: Group, baseline: Baseline | None, images: Images, built: SetImages | None,
                   resamples: int) -> ErrorsOfGroup:
    """The errors of all candidates of a group whose errors are known, best first. images: of the candidates whose
    predictions are stored. built: the set, None where it is not there. resamples: 0 for no intervals."""
    of_group = ErrorsOfGroup(ranking, group, baseline)
    of_baseline = None
    if baseline is not None and baseline.images is not None and built is not None and resamples:
        of_baseline = errors_on_resamples(baseline.images, built, resamples)
    for candidate in ranking.members(group):
        if candidate.errors is None or (CLEAN, "accuracy") not in candidate.scores:
            continue
        resampled = None
        if of_baseline is not None and built is not None and images.get(candidate):
            of_runs = [errors_on_resamples(scores, built, resamples) for scores in images[candidate]]
            resampled = (np.mean([clean for clean, _ in of_runs], axis=0),
                         np.mean([cells for _, cells in of_runs], axis=0))
        fits = baseline is not None and baseline.corruptions == candidate.corruptions
        of_group.models.append(errors_of_model(candidate, baseline if fits else None, resampled, of_baseline))
    of_group.models.sort(key=order_of_errors)
    return of_group


def order_of_errors(model: ErrorsOfModel) -> tuple[float, str]:
    """Sorts the models of a group: by mCE, by the mean error where that is not defined, then by name."""
    return model.mean_error if np.isnan(model.mean_ce) else model.mean_ce, model.candidate.name


def errors_of_model(candidate: Candidate, baseline: Baseline | None,
                    resampled: tuple[np.ndarray, np.ndarray] | None,
                    of_baseline: tuple[np.ndarray, np.ndarray] | None) -> ErrorsOfModel:
    """The errors of one candidate. resampled, of_baseline: as `errors_on_resamples` gives them; None: no intervals."""
    assert candidate.errors is not None
    clean = 1 - candidate.scores[CLEAN, "accuracy"]
    mean_error = float(candidate.errors.mean())
    self_relative = float(self_relative_error(candidate.errors, np.array(clean)).mean())
    absent = np.full(len(candidate.errors), nan)
    if baseline is None:
        return ErrorsOfModel(candidate, mean_error, self_relative, absent, absent, nan, nan)
    defined, defined_relative = baseline.defined, baseline.defined_relative
    ce = corruption_error(candidate.errors, baseline.errors)
    relative = relative_corruption_error(candidate.errors, np.array(clean), baseline.errors, np.array(baseline.clean))
    ce, relative = np.where(defined, ce, nan), np.where(defined_relative, relative, nan)
    interval, relative_interval = None, None
    if resampled is not None and of_baseline is not None:
        (clean_resampled, cells), (baseline_clean, baseline_cells) = resampled, of_baseline
        interval = interval_of(corruption_error(cells, baseline_cells)[1:, defined])
        relative_interval = interval_of(relative_corruption_error(
            cells, clean_resampled, baseline_cells, baseline_clean)[1:, defined_relative])
    return ErrorsOfModel(candidate, mean_error, self_relative, ce, relative, mean_of(ce), mean_of(relative), interval,
                         relative_interval)


def mean_of(values: np.ndarray) -> float:
    """The mean of the numbers that are defined; NaN where none is."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else nan


# --- as grids and as lines of CSV ---


def arrange(groups: Iterable[ErrorsOfGroup]) -> list[Grid]:
    """A grid for each ranking, with a section for each of its groups."""
    by_ranking: dict[Ranking, list[ErrorsOfGroup]] = {}
    for of_group in groups:
        if of_group.models:
            by_ranking.setdefault(of_group.ranking, []).append(of_group)
    grids = []
    columns: list[tuple[str, ...]] = [("against the baseline", "mCE"), ("against the baseline", "relative mCE"),
                                      ("by itself", "mean error"), ("by itself", "self-relative")]
    for ranking, of_ranking in by_ranking.items():
        with_baseline = any(one.baseline for one in of_ranking)
        kept = columns if with_baseline else columns[2:]
        sections, sentences = [], []
        for of_group in of_ranking:
            heading = ranking.heading_of(of_group.group)
            lines = [GridLine(ranking.names[model.candidate], entries_of(model)[-len(kept):])
                     for model in of_group.models]
            sections.append(Section(heading, lines))
            sentences += sentences_of(of_group, "" if ranking.is_main(of_group.group) else heading)
        grids.append(Grid("errors", TITLE.format(set=ranking.set_name), kept, sections, [], sentences, {}))
    return grids


def entries_of(model: ErrorsOfModel) -> list[Entry]:
    """The entries of one line."""
    def entry(value: float, interval: tuple[float, float] | None = None) -> Entry:
        scaled = None if interval is None else (100 * interval[0], 100 * interval[1])
        return Entry(100 * value, interval=scaled, signed=False)

    return [entry(model.mean_ce, model.mean_ce_interval), entry(model.mean_relative_ce, model.relative_interval),
            entry(model.mean_error), entry(model.self_relative)]


def sentences_of(of_group: ErrorsOfGroup, heading: str) -> list[str]:
    """The baseline, and the corruptions for which CE is undefined."""
    start = f"{heading}: " if heading else ""
    baseline = of_group.baseline
    if baseline is None:
        return [] if heading else ["There is no baseline on these images: --baseline CARD or RUN adds mCE."]
    sentences = [f"{start}the baseline is {baseline.name} ({baseline.digest})."]
    for kind, defined in (("mCE", baseline.defined), ("relative mCE", baseline.defined_relative)):
        undefined = [name for name, known in zip(baseline.corruptions, defined, strict=True) if not known]
        if undefined:
            sentences.append(f"{start}{kind} is over {int(defined.sum())} of {len(defined)} corruptions for every "
                             f"model: the baseline's error is below twice its standard error, or not above 0, in "
                             f"{', '.join(undefined)}.")
    if baseline.standard_errors is None:
        sentences.append(f"{start}the standard errors of the baseline are not known, so that only denominators of 0 "
                         f"and below are left out; its predictions, or a card of it, would tell.")
    return [plain(sentence) for sentence in sentences]


CSV_COLUMNS = ["set", "set_version", "images", "precision", "missing_classes", "model", "kind", "corruption", "ce",
               "relative_ce", "error", "ce_low", "ce_high", "relative_low", "relative_high", "baseline",
               "baseline_digest"]


def csv_lines(groups: Iterable[ErrorsOfGroup]) -> list[dict[str, Any]]:
    """A line for each candidate and corruption, with the names of `CSV_COLUMNS`, and lines with the corruption "mean"
    (mCE, relative mCE, mean error) and "self-relative"; fractions."""
    lines = []
    for of_group in groups:
        group, baseline = of_group.group, of_group.baseline
        for model in of_group.models:
            common = {"set": of_group.ranking.set_name, "set_version": group.set_version,
                      "images": group.images, "precision": group.precision,
                      "missing_classes": "; ".join(group.missing),
                      "model": of_group.ranking.names[model.candidate], "kind": model.candidate.kind,
                      "baseline": baseline.name if baseline else None,
                      "baseline_digest": baseline.digest if baseline else None}
            assert model.candidate.errors is not None
            for place, name in enumerate(model.candidate.corruptions):
                lines.append(common | {"corruption": name, "ce": model.ce[place],
                                       "relative_ce": model.relative_ce[place],
                                       "error": model.candidate.errors[place].mean()})
            low, high = model.mean_ce_interval or (None, None)
            relative_low, relative_high = model.relative_interval or (None, None)
            lines.append(common | {"corruption": "mean", "ce": model.mean_ce, "relative_ce": model.mean_relative_ce,
                                   "error": model.mean_error, "ce_low": low, "ce_high": high,
                                   "relative_low": relative_low, "relative_high": relative_high})
            lines.append(common | {"corruption": "self-relative", "error": model.self_relative})
    return lines
