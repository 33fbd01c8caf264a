"""Scoring of a model that is no run: classes are matched, the input is checked, the sets are scored, cards are written.

`score_model` takes a `LoadedModel` that sources.py has made of somebody's file, or the `StoredLogits` of predictions
made elsewhere. It works in the model's own folder (model_folder.py), in the same way as scoring.py works in a run's:
stored logits are used again, an interrupted scoring goes on by block, and one process at a time holds the folder.
"""
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from building.built_set import BuiltSet
from compute import devices
from evaluation import cards
from evaluation.input_check_images import images_for_input_check, rows_of_set
from evaluation.error_bootstrap import extras_of_predictions
from evaluation.inference import InferenceOptions
from evaluation.input_check import (
    SUBJECTS, CheckedImages, CheckedModel, CheckResult, Predict, Reading, check_model, check_outputs, readings_of,
)
from evaluation.input_format import InputFormat
from evaluation.logits_source import StoredLogits
from evaluation.matching import MatchedSet, match_model
from evaluation.model_facts import NOTE_ON_PROBABILITIES
from evaluation.model_folder import StoredModel, place_of_model, write_model
from evaluation.scores import summary_values
from evaluation.scoring import LogitsOfSets, NetworkSource, OnScored, SetScorer, holding, is_preview, score_sets
from evaluation.scoring_options import CheckOptions, ClassOptions
from evaluation.sources import OWN_PROCESS, LoadedModel
from evaluation.trained_run import TrainedRun
from support.errors import UserError
from support.run_folder import CARDS_FOLDER, PRECISIONS, default_runs

# What an alarm advises where evaluate.py takes no such option.
ADVICE_FOR_RUNS = dict.fromkeys(SUBJECTS, "A run states its input and its classes itself: do its args.json, its "
                                          "best.pt and the set belong together?")
ADVICE_FOR_LOGITS = {"range": "Look at the program that has made them: it may not load the weights, or read the "
                              "pictures in another range"}
ADVICE_FOR_COLUMNS = {"classes": "If the outputs stand for these classes, rename the columns of the CSV files"}
NOTE_ON_LOGITS = "predictions made elsewhere"  # in the scores of stored logits



@dataclass(frozen=True)
class ModelScoring:
    """How a model that is no run is scored; most fields are options of evaluate.py."""

    inference: InferenceOptions
    classes: ClassOptions = field(default_factory=ClassOptions)
    check: CheckOptions = field(default_factory=CheckOptions)
    limit: int | None = None
    verify: bool = True
    runs: Path | None = None
    """the folder of all runs, in which the model gets a folder; None: the usual one"""
    card: Path | None = None
    """where a copy of the card is written, besides the one in the model's folder"""
    top_k: int | None = None
    """as for `scoring.SetScorer`"""


def score_model(model: LoadedModel | StoredLogits, built_sets: Sequence[BuiltSet], scoring: ModelScoring) -> Path:
    """Score a model on these sets, and return its folder. A preview (`limit`) writes nothing.

    Raises UserError where anything is wrong with the model, the sets or the machine."""
    check_card(scoring.card, built_sets, scoring.limit)
    rule = scoring.classes.missing_classes
    matched_sets = [with_notes(match_model(model.name, model.classes, built, rule), model) for built in built_sets]
    stored_model = StoredModel(model.name, model.facts, list(model.classes), model.weights_sha256, rule)
    folder = place_of_model(scoring.runs or default_runs(), stored_model)
    precision = "32" if isinstance(model, StoredLogits) else scoring.inference.precision
    with devices.exact_float32():
        fabric = devices.connect(PRECISIONS[precision])
        checks: dict[str, CheckResult] = {}
        if scoring.check.check is not False and fabric.global_rank == 0:
            checks = checks_of_sets(model, matched_sets, scoring.inference, fabric.device)
        scorer = SetScorer(fabric, source_of(model, fabric, scoring.inference), precision, scoring.verify,
                           top_k=scoring.top_k)
        with holding(fabric, folder, matched_sets, scoring.limit) as holds:
            if holds:
                write_model(folder, stored_model)
            on_scored = card_writer(model, folder, checks, scoring)
            rows = score_sets(scorer, folder, matched_sets, scoring.limit, on_scored)
    if rows and isinstance(model, LoadedModel) and model.deliver is not None:
        model.deliver(rows)
    return folder


def check_card(card: Path | None, built_sets: Sequence[BuiltSet], limit: int | None) -> None:
    """Raises UserError where a card is asked for that cannot be written: it is of one set, and of all its images."""
    if card is None:
        return
    if len(built_sets) > 1:
        raise UserError("--card is the card of one set, and --set names several: score them one after the other")
    if any(is_preview(limit, built) for built in built_sets):
        raise UserError("--card is the card of all images of a set, and --limit names fewer: leave out one of the two")
    cards.refuse_other_file(card)


def with_notes(matched: MatchedSet, model: LoadedModel | StoredLogits) -> MatchedSet:
    """The match with what a reader of the scores has to know about the model."""
    notes = list(matched.notes)
    if model.facts.output == "probabilities":
        notes.append(NOTE_ON_PROBABILITIES)
    if isinstance(model, StoredLogits):
        notes.append(NOTE_ON_LOGITS)
    return replace(matched, notes=notes)


def source_of(model: LoadedModel | StoredLogits, fabric: Any, options: InferenceOptions) -> LogitsOfSets:
    """Where the model's logits come from."""
    if isinstance(model, StoredLogits):
        return model
    return NetworkSource(fabric, devices.for_inference(model.module, fabric, options), model, options)


# ---- the check

def checks_of_sets(model: LoadedModel | StoredLogits, matched_sets: Sequence[MatchedSet], options: InferenceOptions,
                   device: torch.device) -> dict[str, CheckResult]:
    """Check the model on each set, and print what was found: {folder of the set: result}. Called in process 0."""
    results = {}
    for matched in matched_sets:
        if isinstance(model, StoredLogits):
            result = check_of_logits(model, matched)
        else:
            result = check_of_network(model, matched, options, device)
        results[str(matched.built.folder)] = result
        print("\n".join(result.lines(model.name)))
    return results


def checked_model(model: LoadedModel | StoredLogits, matched: MatchedSet) -> CheckedModel:
    """What a check has to know about the model."""
    advice = ADVICE_FOR_RUNS if model.facts.kind == "run" else {}
    if isinstance(model, StoredLogits):
        advice = ADVICE_FOR_LOGITS | (ADVICE_FOR_COLUMNS if model.are_columns_named else {})
    return CheckedModel(model.name, model.classes, matched.built.classes, matched.classes, model.facts.output, advice)


def check_of_network(model: LoadedModel, matched: MatchedSet, options: InferenceOptions,
                     device: torch.device) -> CheckResult:
    """The check of a model that can be run."""
    images = images_for_input_check(matched.built, matched.classes)
    # A function of somebody else may end its process where it is given pictures of another size.
    takes_others = model.facts.kind not in OWN_PROCESS and not model.has_fixed_size
    size = matched.built.made_with["size"] if takes_others else None

    def reader(format: InputFormat) -> Predict:
        assert model.reading is not None
        return predict_with(model.reading(format), device, options.batch_size)

    def readings() -> list[Reading]:
        if model.reading is None or model.facts.input is None:
            return []
        return readings_of(model.facts.input, size, images.are_grey, reader)

    predict = predict_with(model.module, device, options.batch_size)
    return check_model(checked_model(model, matched), predict, readings, images)


def check_of_logits(model: StoredLogits, matched: MatchedSet) -> CheckResult:
    """The check of predictions made elsewhere: what they are, and the order of classes, on the set's clean images."""
    rows, labels = rows_of_set(matched.built, matched.classes)
    images = CheckedImages(np.zeros((0, 1, 1, 3), np.uint8), labels, "clean test images of the set")
    clean_logits = model.logits[None]  # of the cell None, the clean images
    result = check_outputs(checked_model(model, matched), clean_logits[rows].astype(np.float64), list, images)
    return replace(result, remarks=("predictions made elsewhere: colours, range and size cannot be checked",))


def predict_with(module: torch.nn.Module, device: torch.device, batch_size: int) -> Predict:
    """A module as a function from images, uint8 (N, S, S, 3), to its outputs, float32 (N, outputs)."""
    module = module.to(device).eval()

    def predict(images: np.ndarray) -> np.ndarray:
        outputs = []
        with torch.no_grad():
            for start in range(0, len(images), batch_size):
                batch = torch.from_numpy(np.ascontiguousarray(images[start:start + batch_size])).to(device)
                outputs.append(module(batch.permute(0, 3, 1, 2)).float().cpu())
        return torch.cat(outputs).numpy()

    return predict


# ---- the card

def card_writer(model: LoadedModel | StoredLogits, folder: Path, checks: dict[str, CheckResult],
                scoring: ModelScoring) -> OnScored:
    """What is done after each set: its card is written into the model's folder, and to --card."""

    def write(matched: MatchedSet, predictions: Path, rows: list[dict[str, Any]]) -> None:
        card = card_of_scoring(model, matched, predictions, rows, checks.get(str(matched.built.folder)))
        name = matched.built.folder.resolve().name
        paths = [cards.card_file(folder / CARDS_FOLDER, name, rows[0]["precision"])]
        paths += [scoring.card] if scoring.card is not None else []
        for path in paths:
            cards.write_card(path, card)
            print(f"card: {path}")

    return write


def card_of_scoring(model: LoadedModel | StoredLogits, matched: MatchedSet, predictions: Path,
                    rows: list[dict[str, Any]], check: CheckResult | None) -> cards.Card:
    """The card of one scoring of a model that is no run; arguments as for `entries_of_scoring`."""
    of_set, extras = entries_of_scoring(matched, predictions, rows, check)
    of_model = cards.ModelOfCard(model.name, model.classes, model.weights_sha256, model.facts)
    return cards.make_card(of_model, of_set, rows, extras)


def entries_of_scoring(matched: MatchedSet, predictions: Path, rows: list[dict[str, Any]],
                       check: CheckResult | None) -> tuple[cards.SetOfCard, cards.Extras]:
    """What a card says about the set and about how it was scored. predictions: the folder of the set's logits. rows:
    those of scores.csv for the set. check: of the input; None where there was none."""
    classes, built = matched.classes, matched.built
    values = summary_values(rows)
    removed = None
    if classes.removed:
        removed = cards.RemovedClasses(classes.removed, values["clean", "removed_mass"],
                                       values["clean", "removed_first"])
    checked = None if check is None else cards.CheckOfCard(check.images, check.alarms)
    of_set = cards.SetOfCard(built, int(values["clean", "n"]), [built.classes[k] for k in classes.known],
                             "keep" if classes.keeps_missing else "drop")
    errors, variants = None, None  # sequences have other standard errors, among their scores
    if not built.has_sequences:
        errors, variants = extras_of_predictions(built, predictions, classes.known, classes.keeps_missing)
    return of_set, cards.Extras(checked, removed, errors, variants)


# ---- runs of this project, where a check or a card is asked for

@dataclass(frozen=True)
class RunExtras:
    """The check and the card of a run. A `scoring.OnLoaded`: `score_run` calls it with the network that it scores."""

    run: TrainedRun
    matched_sets: Sequence[MatchedSet]
    inference: InferenceOptions
    check: bool
    """whether --check was given; the input of a run is known, so that it is not checked otherwise"""
    card: Path | None
    """of --card"""
    stated: dict[str, str]
    """what the user states for the card"""

    def __call__(self, model: LoadedModel, fabric: Any) -> OnScored | None:
        """Check the run's input; returns what is done after each of its sets is scored, None where no card is asked
        for."""
        checks: dict[str, CheckResult] = {}
        if self.check and fabric.global_rank == 0:
            checks = checks_of_sets(model, self.matched_sets, self.inference, fabric.device)
        card = self.card
        if card is None:
            return None

        def write(matched: MatchedSet, predictions: Path, rows: list[dict[str, Any]]) -> None:
            of_set, extras = entries_of_scoring(matched, predictions, rows, checks.get(str(matched.built.folder)))
            content = cards.card_of_run(self.run, model.weights_sha256, model.facts.parameters, of_set, rows, extras,
                                        self.stated)
            cards.write_card(card, content)
            print(f"card: {card}")

        return write
