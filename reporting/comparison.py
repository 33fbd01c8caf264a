"""The comparison of models in a report: rankings, how stable they are, and mCE; as grids, files and data of the page.

`compare_models` gathers the candidates, which are rows of runs and cards, and has ranking.py, rank_stability.py and
corruption_errors.py compare them. report.py prints the grids with the other tables, and page.py shows the data.
"""
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from evaluation.cards import Card
from evaluation.image_scores import ImageScores
from metrics import METRICS
from reporting import corruption_errors, csv_tables, rank_stability, ranking
from reporting.baselines import check_baseline
from reporting.cells import FER_C, cells_left, words_left_out
from reporting.candidates import Candidate, Group, candidate_of_card, candidates_of_runs
from reporting.corruption_errors import ErrorsOfGroup, find_baseline
from reporting.notes import Note, different_contents, plain
from reporting.options import ReportOptions
from reporting.rank_stability import Stability
from reporting.ranking import COLUMNS, Ranking, RankingSection, make_rankings, value_of
from reporting.references import REFERENCES, references_of_group
from reporting.rows import Block
from reporting.runs import Run
from reporting.stored_images import StoredImages, read_image_scores
from reporting.tables import Grid
from support.errors import UserError

TABLES = {"ranking": ranking, "ranks": rank_stability, "errors": corruption_errors}  # name of the files -> module


UNKNOWN_SET = ("Runs have no rank here: it is not known which data set this set was built from, so they may have been "
               "trained on its images. Name its folder with --set DIR.")


@dataclass(frozen=True, eq=False)
class Comparison:
    """What a report says about the order of models."""

    rankings: list[Ranking] = field(default_factory=list)
    stabilities: list[Stability] = field(default_factory=list)
    errors: list[ErrorsOfGroup] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)

    @property
    def has_baseline(self) -> bool:
        """Whether --baseline was scored on the images of one of the groups."""
        return any(of_group.baseline is not None for of_group in self.errors)

    @property
    def grids(self) -> dict[str, list[Grid]]:
        """The grids of every table of `TABLES`."""
        return {"ranking": ranking.arrange(self.rankings), "ranks": rank_stability.arrange(self.stabilities),
                "errors": corruption_errors.arrange(self.errors)}

    def write_csv(self, folder: Path) -> None:
        """Write the CSV file of every table that has lines."""
        lines = {"ranking": ranking.csv_lines(self.rankings), "ranks": rank_stability.csv_lines(self.stabilities),
                 "errors": corruption_errors.csv_lines(self.errors)}
        for name, module in TABLES.items():
            if lines[name]:
                csv_tables.write_frame(folder / f"{name}.csv", lines[name], module.CSV_COLUMNS)


def compare_models(options: ReportOptions, runs: Sequence[Run], scores: pd.DataFrame, cards: Sequence[Card],
                   set_folders: Mapping[Block, Path | None], demo_blocks: Iterable[Block]) -> Comparison:
    """Compare all rows of runs and all cards. scores: of `scores.scores_as_table`; set_folders: folder of each block's
    set, None where it is not known; demo_blocks: those of drawn faces. Raises UserError where --baseline is none."""
    stored = read_image_scores(runs, scores, cards, set_folders, options.set)
    made_with = {version: built.made_with for version, built in stored.sets.items()}
    candidates = candidates_of_runs(scores, stored.of_runs, runs, made_with)
    for card in cards:
        if is_of_run(card, stored):
            stored.notes.append(Note("", f"{card.file} is the card of a run of this report, which is ranked as a run"))
        else:
            candidates.append(candidate_of_card(card, stored.of_cards.get(card)))
    references: dict[Group, list[Candidate]] = {}
    sentences: dict[Group, list[str]] = {}
    images = images_of_candidates(candidates, stored)
    groups = sorted({candidate.group for candidate in candidates})
    for group in groups:
        built = stored.sets.get(group.set_version)
        if built is None:
            reason = stored.problems[group.set_version]
            sentences[group] = [f"References {', '.join(REFERENCES)}: not available ({reason})."]
            continue
        of_group, sentences[group] = references_of_group(group, built, runs)
        references[group] = [candidate for candidate, _ in of_group]
        images |= {candidate: [of_images] for candidate, of_images in of_group}
    for candidate in candidates:
        if candidate.kind == "run" and not made_with.get(candidate.group.set_version, {}).get("dataset"):
            sentences[candidate.group] = [*sentences[candidate.group], UNKNOWN_SET]
    for group in groups:
        reason = different_contents(contents_of_group(group, candidates, stored), "model")
        if reason:
            sentences[group] = [*sentences[group], f"{reason[0].upper()}{reason[1:]}."]
    demo_versions = {block.set_version for block in demo_blocks}
    demo_versions |= {card.data["set"]["set_version"] for card in cards if card.data["set"]["demo"]}
    rankings = make_rankings(candidates, references, sentences, options.rank_by, demo_versions)
    return compare_groups(options, runs, scores, stored, rankings, images)


def contents_of_group(group: Group, candidates: Iterable[Candidate], stored: StoredImages) -> list[object]:
    """For each card and each run of a group: the hash of the files of the set it was scored on, if it is known."""
    contents: list[object] = []
    for candidate in candidates:
        if candidate.group != group:
            continue
        if candidate.card is not None:
            contents.append(candidate.card.data["set"]["content"])
        elif candidate.block is not None:
            contents += [stored.content_of_runs.get((candidate.block, run)) for run in candidate.runs]
    return contents


def is_of_run(card: Card, stored: StoredImages) -> bool:
    """Whether a card is of a run of this report."""
    model = card.data["model"]
    key = card.data["set"]["set_version"], card.data["precision"], model["weights_sha256"]
    return model["kind"] == "run" and key in stored.weights_of_runs


def compare_groups(options: ReportOptions, runs: Sequence[Run], scores: pd.DataFrame, stored: StoredImages,
                   rankings: list[Ranking], images: Mapping[Candidate, Sequence[ImageScores]]) -> Comparison:
    """The stability of the ranks and the errors of every group of these rankings. images: of the candidates whose
    predictions are stored."""
    baselines = {}
    if options.baseline is not None:
        baselines = find_baseline(options.baseline, runs, scores, stored)
    stabilities, errors = [], []
    for one in rankings:
        for group in one.groups:
            built = stored.sets.get(group.set_version)
            stability = rank_stability.stability_of(one, group, images, built, options.resamples)
            if stability is not None:
                stabilities.append(stability)
            errors.append(corruption_errors.compare_errors(one, group, baselines.get(group), images, built,
                                                           options.resamples))
    return Comparison(rankings, stabilities, errors, list(stored.notes))


def images_of_candidates(candidates: Iterable[Candidate], stored: StoredImages
                         ) -> dict[Candidate, Sequence[ImageScores]]:
    """{candidate: the scores of images of each of its runs}, of the candidates that have them for all runs."""
    images: dict[Candidate, Sequence[ImageScores]] = {}
    for candidate in candidates:
        if candidate.card is not None:
            of_card = stored.of_cards.get(candidate.card)
            of_candidate = [of_card] if of_card is not None else []
        else:
            assert candidate.block is not None
            of_candidate = [stored.of_runs[candidate.block, run] for run in candidate.runs
                            if (candidate.block, run) in stored.of_runs]
        if of_candidate and len(of_candidate) == max(len(candidate.runs), 1):
            images[candidate] = of_candidate
    return images


def check_comparison(options: ReportOptions) -> None:
    """Raises UserError where --rank-by names no metric that ranks, or --baseline no card and no folder."""
    if options.baseline is not None:
        check_baseline(options.baseline)
    if options.rank_by not in ranking.RANKED_BY:
        raise UserError(f"--rank-by {options.rank_by}: known are {', '.join(ranking.RANKED_BY)}")


# --- for the page ---


def page_data(comparison: Comparison) -> list[dict[str, Any]]:
    """The rankings for the page, ready for JSON: numbers are fractions and nats, None where there is none."""
    stability_of = {(one.ranking, one.group): one for one in comparison.stabilities}
    errors_of = {}
    for of_group in comparison.errors:
        for model in of_group.models:
            errors_of[of_group.ranking, model.candidate] = model
    data = []
    for one in comparison.rankings:
        lines: list[dict[str, Any]] = []
        for section in one.sections:
            stability = stability_of.get((one, section.group))
            for candidate in section.candidates:
                line = page_line(one, section, candidate)
                if stability is not None:
                    for variant in rank_stability.VARIANT_NAMES:
                        line[f"rank_{variant}"] = stability.ranks.get(variant, {}).get(candidate)
                    line["interval"] = stability.intervals.get(candidate)
                model = errors_of.get((one, candidate))
                for name in ("mean_ce", "mean_relative_ce", "mean_error", "self_relative"):
                    value = getattr(model, name) if model is not None else None
                    line[name] = value if value is not None and np.isfinite(value) else None
                lines.append(line)
        sentences = [sentence for kind in (comparison.stabilities, comparison.errors)
                     for sentence in sentences_of_groups([of_group for of_group in kind if of_group.ranking is one])]
        data.append({"set": one.set_name, "demo": one.is_demo, "metric": one.metric,
                     "label": METRICS[one.metric].label, "sentences": one.sentences, "stability": sentences,
                     "sections": [section.heading for section in one.sections], "lines": lines} | cells_left_of(one))
    return data


def cells_left_of(one: Ranking) -> dict[str, Any]:
    """How many cells are left without the corruptions whose soft labels contradict what can be seen, and what these
    change, where it is not as in FER-C."""
    return {} if one.corruptions == FER_C else {
        "left": [cells_left(one.corruptions), words_left_out(one.corruptions)]}


def sentences_of_groups(of_groups: Sequence[Stability] | Sequence[ErrorsOfGroup]) -> list[str]:
    """What the page says about the ranks or the errors of all groups of a ranking; it names the group where there are
    several."""
    sentences = []
    for of_group in of_groups:
        heading = of_group.ranking.heading_of(of_group.group) if len(of_groups) > 1 else ""
        if isinstance(of_group, Stability):
            sentences += rank_stability.sentences_of(of_group, heading)
        elif of_group.baseline is not None:
            sentences += corruption_errors.sentences_of(of_group, heading)
    return sentences


def page_line(one: Ranking, section: RankingSection, candidate: Candidate) -> dict[str, Any]:
    """One candidate for the page."""
    model = candidate.card.data["model"] if candidate.card is not None else {}
    facts = [f"{name.replace('_', ' ')}: {plain(model[name])}" for name in ("training_data", "licence", "source")
             if model.get(name)]
    if model.get("weights_sha256"):
        facts.append(f"weights {model['weights_sha256'][:8]}")
    line = {"section": one.sections.index(section), "rank": section.ranks.get(candidate), "model": one.names[candidate],
            "kind": candidate.kind, "seeds": candidate.seeds, "alarms": len(candidate.alarms),
            "notes": "; ".join([*candidate.remarks, *facts]), "link": model.get("link")}
    return line | {column.name: value_of(candidate, column, one.metric) for column in COLUMNS}
