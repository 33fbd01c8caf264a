"""The models that a report compares on sets of perturbation sequences: their scores, and what they are divided by.

A set of sequences (make_fer_p.py) shows every image in the frames of several perturbations. Its scores say how often a
model changes its mind from frame to frame, not how good it is on a corrupted image; docs/method.md defines them. A
*model* here is a row of runs, with one value a seed, or a card. Groups and names are those of the rankings
(candidates.py). stability.py makes tables of the models, sequence_bootstrap.py compares calibrated with uncalibrated
runs.

A model is *constant* if it predicts one class for every image and frame of the set, in one of its seeds at least: there
it never changes its mind, which means nothing. Tables list it apart and never mark it as the best.

A *place* is what a score is of: the clean images, a perturbation, or the mean over perturbations.
"""
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

import metrics
from evaluation.cards import Card
from evaluation.sequence_scores import METHODS, TEMPERATURE, TOP, distance_metric, top_k_of_metric
from perturbations import ALL
from reporting.baselines import digest_of_card, digest_of_run, locate_baseline
from reporting.candidates import Candidate, Group, candidate_of_card, candidate_of_row, name_apart
from reporting.notes import plain
from reporting.ranking import names_of_versions, order_of_group, reason_against_group
from reporting.rows import Block, Row, rank
from reporting.runs import FLIP_PROBABILITY, Run
from reporting.scores import RAW, blocks_of, in_block

MEAN = "mean"
DISTINCT_PREDICTIONS = "distinct_predictions"  # metric: classes among predictions; at `MEAN`, of all images and frames
STANDARD_ERROR = "flip_probability_se"  # metric: of the flip probability, by a bootstrap over images or identities


class Measure(NamedTuple):
    """How tables and the page print a score of sequences."""

    name: str
    """in the column `metric` of scores.csv"""
    label: str
    percent: bool
    higher_is_better: bool = False
    by_temperature: bool = False
    """whether a temperature changes it: it changes probabilities, and no prediction"""


MEASURES = {measure.name: measure for measure in (
    Measure("accuracy", "acc.", percent=True, higher_is_better=True),
    Measure("flip_probability", "flips", percent=True),
    Measure("top2_distance", "top-2", percent=False),
    Measure("total_variation", "TV", percent=True, by_temperature=True),
    Measure("total_variation_unflipped", "TV, no flip", percent=True, by_temperature=True),
    Measure("confidence_change", "confidence", percent=True, by_temperature=True),
)}
SHOWN = [(RAW, name) for name, measure in MEASURES.items() if not measure.by_temperature]
SHOWN += [(method, name) for name, measure in MEASURES.items() if measure.by_temperature
          for method in (RAW, TEMPERATURE)]  # (method, metric) in the order of the tables


def measure_of(metric: str) -> Measure:
    """How a score is printed: one of `MEASURES`, or the distance of rankings of another length, which `evaluate.py
    --top-k` asks for."""
    if metric in MEASURES:
        return MEASURES[metric]
    return Measure(metric, f"top-{top_k_of_metric(metric)}", percent=False)


@dataclass(frozen=True, eq=False)
class SequenceModel:
    """The scores of one model on one set of sequences."""

    candidate: Candidate
    """its name, group, runs and notes; its scores as a candidate are not used"""
    perturbations: tuple[str, ...]
    """that were scored, in the order of the tables"""
    values: Mapping[tuple[str, str, str], np.ndarray]
    """{(method, place, metric): float64 (seeds,)}, in the order of the seeds; of a card one value each"""
    seeds: tuple[int, ...] = ()
    """of its runs, sorted; empty for a card"""
    row: Row | None = None
    """of its runs; None for a card"""

    @property
    def is_constant(self) -> bool:
        """Whether one of its runs predicts one class for every image and frame of the set."""
        return bool(self.constant_seeds.any())

    @property
    def constant_seeds(self) -> np.ndarray:
        """Which of its runs are constant, bool (seeds,)."""
        distinct = self.values.get((RAW, MEAN, DISTINCT_PREDICTIONS))
        return np.zeros(max(len(self.seeds), 1), bool) if distinct is None else distinct == 1

    def values_by_perturbation(self, metric: str, method: str = RAW) -> np.ndarray | None:
        """A metric of all perturbations, float64 (P, seeds); None where one of them lacks it."""
        values = [self.values.get((method, name, metric)) for name in self.perturbations]
        known = [of_seeds for of_seeds in values if of_seeds is not None]
        return np.stack(known) if known and len(known) == len(values) else None


# --- models ---


def models_of_runs(sequences: pd.DataFrame) -> list[SequenceModel]:
    """The models of all rows of runs, in the order of the tables. sequences: of `scores.sequences_as_table`."""
    models = []
    blocks = blocks_of(sequences)
    for block in blocks:
        parts = {Row(*key): part for key, part in in_block(sequences, block).groupby(list(Row._fields))}
        for row in sorted(parts, key=rank):
            part, raw = parts[row], parts[row][parts[row]["method"] == RAW]
            if not raw.empty:
                seeds = tuple(sorted(set(part["seed"])))
                models.append(SequenceModel(candidate_of_row(block, blocks, row, raw, {}),
                                            perturbations_of(raw["corruption"]), values_of_runs(part), seeds, row))
    return models


def values_of_runs(part: pd.DataFrame) -> dict[tuple[str, str, str], np.ndarray]:
    """The values of one row of runs, as `SequenceModel.values`. What a run lacks is left out for all."""
    seeds = part["seed"].nunique()
    values = {}
    for key, scores in part.sort_values("seed").groupby(["method", "corruption", "metric"]):
        if len(scores) == seeds:
            values[key] = scores["value"].to_numpy(np.float64)
    return values


def models_of_cards(cards: Iterable[Card]) -> list[SequenceModel]:
    """The models of cards of sets of sequences."""
    models = []
    for card in cards:
        values = {(method, place, metric): np.array([value], np.float64) for method in METHODS
                  for place, scores in card.sequence_scores(method).items() for metric, value in scores.items()}
        perturbations = perturbations_of(card.sequence_scores(RAW))
        models.append(SequenceModel(candidate_of_card(card), perturbations, values))
    return models


def perturbations_of(places: Iterable[str]) -> tuple[str, ...]:
    """The perturbations among some places, in the order of the tables."""
    return tuple(sorted(set(places) & set(ALL), key=ALL.index))


# --- which models stand together ---


@dataclass(frozen=True, eq=False)
class SequenceSection:
    """The models of one group: they were scored on the same images, in one precision."""

    group: Group
    heading: str
    """why the group stands apart from the main one; empty for the main one"""
    models: list[SequenceModel]


@dataclass(frozen=True, eq=False)
class SequenceSet:
    """All models on one set of sequences."""

    name: str
    is_demo: bool
    sections: list[SequenceSection]
    names: Mapping[SequenceModel, str]
    """what tables call the models: each name once"""
    perturbations: tuple[str, ...]
    """of all models"""

    @property
    def columns(self) -> list[tuple[str, str]]:
        """(method, metric) of the columns of tables: `SHOWN`, and behind `top2_distance` the distances of rankings of
        other lengths that a model has."""
        metrics_of_models = {metric for model in self.models for _, place, metric in model.values if place == MEAN}
        further = sorted(filter(top_k_of_metric, metrics_of_models - MEASURES.keys()),
                         key=lambda metric: top_k_of_metric(metric) or 0)
        position = SHOWN.index((RAW, distance_metric(TOP))) + 1
        return [*SHOWN[:position], *((RAW, metric) for metric in further), *SHOWN[position:]]

    @property
    def models(self) -> list[SequenceModel]:
        """The models of all sections."""
        return [model for section in self.sections for model in section.models]


def sets_of_models(models: Sequence[SequenceModel], demo_versions: Iterable[str]) -> list[SequenceSet]:
    """The sets that these models were scored on, by name. demo_versions: versions of sets of drawn faces."""
    versions = names_of_versions([model.candidate for model in models])
    demo_versions = set(demo_versions)
    sets = []
    for name in sorted(set(versions.values())):
        sequence_set = [model for model in models if versions[model.candidate.group.set_version] == name]
        candidates = [model.candidate for model in sequence_set]
        groups = sorted({candidate.group for candidate in candidates},
                        key=lambda group: order_of_group(group, candidates))
        sections = []
        for group in groups:
            in_group = [model for model in sequence_set if model.candidate.group == group]
            reason = reason_against_group(group, groups[0], [model.candidate for model in in_group])
            sections.append(SequenceSection(group, f"apart: {reason}" if reason else "", in_group))
        name_of = name_apart(candidates)
        sets.append(SequenceSet(
            plain(name), any(group.set_version in demo_versions for group in groups), sections,
            {model: name_of[model.candidate] for model in sequence_set},
            perturbations_of(place for model in sequence_set for place in model.perturbations)))
    return sets


# --- the baseline ---


@dataclass(frozen=True, eq=False)
class SequenceBaseline:
    """What flip probabilities are divided by, on one group."""

    name: str
    digest: str
    """of its weights or of its file, as text: the kind and 16 digits"""
    perturbations: tuple[str, ...]
    flips: np.ndarray
    """float64 (P,): flip probabilities of the perturbations"""
    standard_errors: np.ndarray | None
    """float64 (P,): of a bootstrap over images or identities; None: not known"""
    run: int | None = None
    """its position in the report; None for a card"""

    @property
    def undefined(self) -> np.ndarray:
        """Which perturbations have no flip rate, for every model: bool (P,)."""
        errors = np.zeros(len(self.flips)) if self.standard_errors is None else self.standard_errors
        return metrics.undefined_rates(self.flips, errors)

    def rates(self, model: SequenceModel) -> np.ndarray | None:
        """The flip rates of a model, float64 (P, seeds), 1: as often as the baseline; NaN where it is undefined. None
        where the model was not scored on the same perturbations."""
        flips = model.values_by_perturbation(FLIP_PROBABILITY)
        if flips is None or model.perturbations != self.perturbations:
            return None
        rates = [metrics.flip_rates(flips_of_seed, self.flips, self.undefined) for flips_of_seed in flips.T]
        return np.stack(rates, axis=1)


def find_sequence_baseline(path: Path, runs: Sequence[Run], sequences: pd.DataFrame) -> dict[Group, SequenceBaseline]:
    """The baseline of --baseline, by the groups that it was scored in; empty where it has no scores of sequences.
    sequences: of `scores.sequences_as_table`. Raises UserError as `locate_baseline` does."""
    located = locate_baseline(path, runs)
    if isinstance(located, int):
        return baselines_of_run(located, runs[located], sequences)
    models = models_of_cards(card for card in located if card.has_sequences)
    return by_group((model, baseline_of(model, model.candidate.name, digest_of_card(card_of(model)), None))
                    for model in models)


def card_of(model: SequenceModel) -> Card:
    """The card of a model of `models_of_cards`."""
    assert model.candidate.card is not None
    return model.candidate.card


def baselines_of_run(index: int, run: Run, sequences: pd.DataFrame) -> dict[Group, SequenceBaseline]:
    """The baselines that one run is, for every group that it was scored in. index: its position in the report."""
    pairs = []
    for model in models_of_runs(sequences[sequences["run"] == index]):
        block = block_of(model)
        digest = digest_of_run(run, block.set, block.precision)
        pairs.append((model, baseline_of(model, f"{model.candidate.name}, seed {run.seed}", digest, index)))
    return by_group(pairs)


def block_of(model: SequenceModel) -> Block:
    """The block of a model of runs."""
    assert model.candidate.block is not None
    return model.candidate.block


def baseline_of(model: SequenceModel, name: str, digest: str, run: int | None) -> SequenceBaseline | None:
    """A model with one seed as a baseline; None where the flip probability of a perturbation is not known. digest: as
    in `SequenceBaseline`. run: the position of its run; None for a card."""
    flips = model.values_by_perturbation(FLIP_PROBABILITY)
    if flips is None:
        return None
    errors = model.values_by_perturbation(STANDARD_ERROR)
    return SequenceBaseline(name, digest, model.perturbations, flips[:, 0], None if errors is None else errors[:, 0],
                            run)


def by_group(baselines: Iterable[tuple[SequenceModel, SequenceBaseline | None]]) -> dict[Group, SequenceBaseline]:
    """The baselines that are known, by the group of their model."""
    return {model.candidate.group: baseline for model, baseline in baselines if baseline is not None}


# --- numbers ---


class Number(NamedTuple):
    """A score of a model: the values of its seeds, as fractions."""

    values: np.ndarray
    """float64 (seeds,)"""

    @property
    def mean(self) -> float:
        return float(self.values.mean())

    @property
    def sd(self) -> float:
        """Standard deviation over seeds with n - 1 in the denominator; NaN for a single one."""
        return float(self.values.std(ddof=1)) if len(self.values) > 1 else float("nan")


def number_of(model: SequenceModel, method: str, place: str, metric: str) -> Number | None:
    """A score of a model; None where it is not known."""
    values = model.values.get((method, place, metric))
    return None if values is None else Number(values)


def rate_of(model: SequenceModel, baseline: SequenceBaseline | None, place: str) -> Number | None:
    """The flip rate of a model for a perturbation, or for `MEAN` the mean over those that have one (mFR); None where it
    is undefined or there is no baseline."""
    rates = None if baseline is None else baseline.rates(model)
    if rates is None:
        return None
    values = rates[model.perturbations.index(place)] if place != MEAN else metrics.mean_of_defined(rates)
    return None if np.isnan(values).any() else Number(values)


def common_fields(sequence_set: SequenceSet, group: Group, name: str, kind: str) -> dict[str, Any]:
    """The first columns of every CSV file about sequences."""
    return {"set": sequence_set.name, "set_version": group.set_version, "images": group.images,
            "precision": group.precision, "missing_classes": "; ".join(group.missing), "model": name, "kind": kind}

