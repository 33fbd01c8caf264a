"""What a ranking compares: rows of runs, cards, and references, each with its scores.

A *candidate* is one line of a ranking: the runs of a row (the mean over seeds), a card, or a reference that looks at no
image. A *group* is what candidates must have in common to be ranked together: the version of the set, the images and
classes that were scored, and the precision. Runs of different blocks (rows.py) that differ only in what they were
trained on are in one group. ranking.py ranks candidates.

A candidate's scores are by (variant, metric): variants as in evaluation/image_scores.py, and "clean".
"""
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from corruptions import SEVERITIES, cells_of
from datasets.split import expression_name
from evaluation.cards import Card, overlap_of_run
from evaluation.image_scores import MEASURES, SOFT, VARIANTS, WITHOUT, ImageScores
from evaluation.scores import is_contradicted, score_places
from reporting.cells import FER_C, corruptions_of_names, corruptions_of_scores
from reporting.notes import plain
from reporting.rows import Block, Row, join_names
from reporting.runs import Run
from reporting.scores import blocks_of, in_block, join_notes
from reporting.tables import spell_loss

CLEAN = "clean"
SCORED = (*MEASURES, "ece")  # metrics of a candidate
Scores = dict[tuple[str, str], float]


class Group(NamedTuple):
    """What candidates that are ranked together have in common."""

    set_version: str
    images: int
    """number of images that were scored"""
    precision: str
    missing: tuple[str, ...] = ()
    """classes of the set that the model lacks, as `expression_name` spells them, sorted"""
    rule: str = ""
    """what became of the images of these classes: drop or keep; empty where none is missing"""


@dataclass(frozen=True, eq=False)
class Candidate:
    """One line of a ranking."""

    name: str
    kind: str
    """"run", "card" or "reference" """
    group: Group
    set_name: str
    """of the built set, as it was called when it was scored"""
    scores: Scores
    """by (variant or "clean", metric), fractions and nats; a score that is not known is not there"""
    errors: np.ndarray | None = None
    """float64 (C, 5), of the set's corruptions: 1 - accuracy in every cell; None where it is not known"""
    seeds: int = 0
    """how many runs were averaged; 0 for cards and references"""
    overlap: str = "none"
    """with the test images: none, some, all or unknown"""
    notes: tuple[str, ...] = ()
    """on how it was scored"""
    alarms: tuple[str, ...] = ()
    """of the check of the input"""
    changed: Mapping[str, str] = field(default_factory=dict)
    """options by which its user changed what the model's source says"""
    card: Card | None = None
    runs: tuple[int, ...] = ()
    """positions of its runs in the report"""
    block: Block | None = None
    """of its runs"""
    corruptions: tuple[str, ...] = FER_C
    """of the set, in its order"""

    @property
    def remarks(self) -> list[str]:
        """What a reader has to know about it, each a phrase: alarms first."""
        changed = [f"{name} changed by its user: {text}" for name, text in self.changed.items()]
        return [*(f"ALARM: {alarm}" for alarm in self.alarms), *changed, *self.notes]

    def change(self, metric: str) -> float | None:
        """The score on corrupted images minus that on clean ones; None where one of them is not known."""
        clean, corrupted = self.scores.get((CLEAN, metric)), self.scores.get((SOFT, metric))
        return None if clean is None or corrupted is None else corrupted - clean


# --- runs ---


def candidates_of_runs(scores: pd.DataFrame, image_scores: Mapping[tuple[Block, int], ImageScores],
                       runs: Sequence[Run], made_with: Mapping[str, Mapping[str, Any]]) -> list[Candidate]:
    """A candidate for each row of each block. scores: of `scores.scores_as_table`. image_scores: {(block, position of a
    run): from its stored predictions}, as far as they can be read. runs: all runs of the report. made_with:
    {set_version: settings of the set}, as far as they are known: without them the overlap is not known either."""
    candidates = []
    blocks = blocks_of(scores)
    for block in blocks:
        of_block = in_block(scores, block)
        for key, part in of_block.groupby(list(Row._fields), sort=False):
            candidate = candidate_of_row(block, blocks, Row(*key), part, image_scores)
            of_set = made_with.get(block.set_version, {})
            overlaps = {overlap_of_run(block.dataset, runs[run].args.get("data"), of_set) for run in candidate.runs}
            candidates.append(replace(candidate, overlap="none" if overlaps == {"none"} else "unknown"))
    return candidates


def candidate_of_row(block: Block, blocks: Sequence[Block], row: Row, part: pd.DataFrame,
                     image_scores: Mapping[tuple[Block, int], ImageScores]) -> Candidate:
    """The candidate of one row. part: the scores of its runs in the block."""
    runs = tuple(sorted(set(part["run"])))
    corruptions = corruptions_of_scores(part)
    of_runs = [scores_of_run(part[part["run"] == run], image_scores.get((block, run)), corruptions) for run in runs]
    shared = set.intersection(*(set(values) for values, _ in of_runs))
    scores = {key: float(np.mean([values[key] for values, _ in of_runs])) for key in sorted(shared)}
    errors = [cells for _, cells in of_runs if cells is not None]
    noise = f"label noise {100 * row.noise:g} %" if row.noise else ""
    others = {other.dataset for other in blocks if other.set_version == block.set_version}
    trained = f"trained on {block.dataset}" if len(others) > 1 else ""
    setups = {other.setup[1:] for other in blocks if other.set_version == block.set_version}
    setup = f"{block.protocol}, {block.image_size} px" if len(setups) > 1 else ""
    name = join_names(row.algorithm, spell_loss(row.loss), row.all_settings, noise, trained, setup)
    group = Group(block.set_version, block.n, block.precision)
    notes = tuple(note for note in join_notes(part["notes"]).split("; ") if note)
    return Candidate(plain(name), "run", group, block.set, scores,
                     np.mean(errors, axis=0) if len(errors) == len(runs) else None, len(runs), notes=notes, runs=runs,
                     block=block, corruptions=corruptions)


def scores_of_run(part: pd.DataFrame, image_scores: ImageScores | None,
                  corruptions: Sequence[str]) -> tuple[Scores, np.ndarray | None]:
    """The scores of one run, and its errors in every cell, float64 (C, 5), None where a cell is missing. corruptions:
    of the set."""
    cells = cells_of(corruptions)
    places = {(name, 0 if np.isnan(severity) else int(severity), metric): value for name, severity, metric, value in
              zip(part["corruption"], part["severity"], part["metric"], part["value"], strict=True)}
    scores = scores_of_images(image_scores) if image_scores is not None else {}
    for metric in SCORED:
        for variant, (place, name) in score_places(metric).items():
            if (place, 0, name) in places:
                scores[variant, metric] = places[place, 0, name]
        add_without(scores, metric, [(cell, places.get((*cell, metric))) for cell in cells])
    accuracies = [places.get((name, severity, "accuracy")) for name, severity in cells]
    return scores, errors_of(accuracies)


def add_without(scores: Scores, metric: str, cells: Iterable[tuple[tuple[str, int], float | None]]) -> None:
    """Add the mean over the cells of the variant `without` where `scores` lacks it and all of these cells are known.
    cells: ((corruption, severity), score) of all cells of the set, None where a score is not known."""
    values = [value for (name, _), value in cells if not is_contradicted(name)]
    known = [value for value in values if value is not None]
    if (WITHOUT, metric) not in scores and len(known) == len(values):
        scores[WITHOUT, metric] = float(np.mean(known))


def errors_of(accuracies: Sequence[float | None]) -> np.ndarray | None:
    """Errors (C, 5) from the accuracies of all cells in the set's order; None where one is missing."""
    known = [value for value in accuracies if value is not None]
    return 1 - np.array(known).reshape(-1, len(SEVERITIES)) if len(known) == len(accuracies) else None


def scores_of_images(scores: ImageScores) -> Scores:
    """The scores that stored predictions give, without what is not finite."""
    values: Scores = {(CLEAN, metric): scores.clean[metric] for metric in SCORED}
    for variant in VARIANTS:
        for metric in SCORED:
            value = scores.mean(variant, metric)
            if value is not None:
                values[variant, metric] = value
    return {key: value for key, value in values.items() if np.isfinite(value)}


# --- cards ---


def candidate_of_card(card: Card, image_scores: ImageScores | None = None) -> Candidate:
    """The candidate of a card. image_scores: from the predictions beside the card, where there are any."""
    data = card.data
    model, set_ = data["model"], data["set"]
    scores = scores_of_images(image_scores) if image_scores is not None else {}
    corruptions = corruptions_of_names(name for of_metric in data["scores"]["cells"].values() for name in of_metric)
    all_cells = cells_of(corruptions)
    for variant, values in (data["variants"] or {}).items():
        scores |= {(variant, metric): value for metric, value in values.items()}
    for metric in SCORED:
        for variant, (place, name) in score_places(metric).items():
            value = card.score(place, name)
            if value is not None:
                scores[variant, metric] = value
        cells = card.cells(metric)
        add_without(scores, metric, [(cell, cells.get(cell)) for cell in all_cells])
    names = [expression_name(name) for name in set_["classes"] if name not in set_["scored_classes"]]
    group = Group(set_["set_version"], set_["images_scored"], data["precision"], tuple(sorted(names)),
                  set_["missing_classes"] or "")
    accuracies = card.cells("accuracy")
    check = data["check"]
    alarms = tuple(plain(alarm["text"] if alarm["option"] in alarm["text"] else f"{alarm['text']} {alarm['option']}")
                   for alarm in (check["alarms"] if check else ()))
    return Candidate(
        plain(card.name), "card", group, plain(set_["name"]), scores,
        errors_of([accuracies.get(cell) for cell in all_cells]), overlap=model["overlap"], notes=notes_of_card(data),
        alarms=alarms, changed={plain(name): plain(text) for name, text in data["changed"].items()}, card=card,
        corruptions=corruptions)


def notes_of_card(data: Mapping) -> tuple[str, ...]:
    """What a reader of a card's scores has to know, besides alarms and changed options."""
    notes = [plain(note) for note in data["notes"]]
    removed = data["removed"]
    if removed and not any("the set lacks" in note for note in notes):  # scoring says it in its notes
        notes.append(f"classes that the set lacks were removed ({plain(', '.join(removed['names']))}): "
                     f"{100 * removed['mass']:.1f} % of its probability, {100 * removed['first_choices']:.1f} % of its "
                     f"first choices on clean images")
    if data["check"] is None and data["model"]["kind"] not in ("run", "logits"):
        notes.append("input not checked")
    return tuple(dict.fromkeys(notes))


def name_apart(candidates: list[Candidate]) -> dict[Candidate, str]:
    """{candidate: name}. A card whose name another candidate has, too, gets the beginning of its weights' hash, or the
    word "card" where it has no hash. Names that are still equal get a number, except the first. References keep their
    names: each group has its own."""
    names: dict[Candidate, str] = {}
    for candidate in candidates:
        name = candidate.name
        if candidate.kind == "reference":
            names[candidate] = name
            continue
        if sum(other.name == name for other in candidates) > 1 and candidate.card is not None:
            digest = candidate.card.data["model"]["weights_sha256"]
            name = f"{name} ({digest[:8]})" if digest else f"{name} (card)"
        number, plain_name = 1, name
        while name in names.values():
            number += 1
            name = f"{plain_name} [{number}]"
        names[candidate] = name
    return names

