"""Stability in a report: how often models change their mind over perturbation sequences, as grids, files and a figure.

    stability       every model: means over the perturbations, of raw probabilities and after a temperature; with
                    --baseline the mean flip rate (mFR)
    perturbations   flip probability and flip rate (FR) for each perturbation
    flicker         calibrated beside uncalibrated runs, with the differences and their intervals

`study_sequences` gathers the models (sequence_models.py), reads the stored logits (stored_sequences.py) and resamples
them (sequence_bootstrap.py). Sets of perturbation sequences have these tables in the place of all others.
"""
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isnan, nan
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from evaluation.cards import Card
from evaluation.sequence_scores import TEMPERATURE
from evaluation.summary import DEMO
from reporting import captions, csv_tables, sequence_bootstrap
from reporting.candidates import CLEAN, Group
from reporting.notes import Note, plain, unique_notes
from reporting.options import ReportOptions
from reporting.ranking import MAIN_GROUP
from reporting.rows import COMPARED_LOSSES, Block, join_names
from reporting.runs import FLIP_PROBABILITY, Run
from reporting.scores import RAW, blocks_of, in_block
from reporting.sequence_bootstrap import (
    Resampled, SequenceDifference, interval_of_flip_rate, interval_of_flips, resample_block)
from reporting.sequence_models import (
    DISTINCT_PREDICTIONS, MEAN, MEASURES, SHOWN, Number, SequenceBaseline, SequenceModel, SequenceSection, SequenceSet,
    common_fields, find_sequence_baseline, measure_of, models_of_cards, models_of_runs, number_of, rate_of,
    sets_of_models)
from reporting.stored_sequences import MEASURED, BlockSequences, read_block
from reporting.tables import Entry, Grid, GridLine, Section, name_blocks
from reporting.terminal import shorten

TABLES = ("stability", "perturbations", "flicker")  # names of the files
TITLES = {"stability": "Stability on {set}: how often predictions change from frame to frame",
          "perturbations": "Stability on {set} by perturbation",
          "flicker": "Does calibrated training flicker less? {set}"}
METHOD_LABELS = {RAW: "raw", TEMPERATURE: "temp."}
RATE = "flip_rate"  # in the column `metric` of the CSV files
NUMBERS = """Percent; mean ± standard deviation (n - 1) over seeds; bold (underlined in LaTeX): best of its column
within a section. —: missing, see the end of tables.md. Settings stand behind an algorithm or a loss where its runs
differ in them; runs with the usual settings of the data set have none."""
LEGEND = """Stability: over sequences of frames in which a picture changes little by little. acc.: of all frames. Flips:
frames with another prediction than their reference, which is the frame before (in a set of difficulty 2 or 3 the one 2
or 3 frames before; of noise the first frame, which is clean). FR: flips divided by those of the baseline (100: as
often); mFR: their mean. top-2: how far the ranking of classes moves among its first two places. TV: total variation
distance of the probabilities to those of the reference; no flip: over frames without a flip. Confidence: how far the
confidence in the reference's prediction moves. Raw: probabilities as they are; temp.: after one temperature for each
model, fitted to its clean validation images, since low confidence alone lowers TV."""
CONSTANT_HEADING = "apart, constant: predicts one class only"
BRIEF_WIDTH = 36  # characters of a name with --brief
TOP_DIGITS = 2  # after the decimal point, of distances in places of a ranking


@dataclass(frozen=True, eq=False)
class SequenceReport:
    """What a report says about sets of sequences."""

    sets: list[SequenceSet] = field(default_factory=list)
    baselines: Mapping[Group, SequenceBaseline] = field(default_factory=dict)
    resampled: Mapping[Block, Resampled] = field(default_factory=dict)
    differences: list[SequenceDifference] = field(default_factory=list)
    predictions: Mapping[Block, BlockSequences] = field(default_factory=dict)
    notes: list[Note] = field(default_factory=list)

    @property
    def set_folders(self) -> dict[Block, Path | None]:
        """The folder of each block's set; None where it is not known."""
        return {block: predictions.folder for block, predictions in self.predictions.items()}

    @property
    def has_baseline(self) -> bool:
        """Whether --baseline was scored on the images of one of the groups."""
        return any(section.group in self.baselines for sequence_set in self.sets
                   for section in sequence_set.sections)

    @property
    def grids(self) -> dict[str, list[Grid]]:
        """The grids of every table of `TABLES`."""
        with_usual_models = [sequence_set for sequence_set in self.sets if usual_models(sequence_set)]
        return {"stability": [grid_of_set(self, sequence_set) for sequence_set in self.sets],
                "perturbations": [grid_of_perturbations(self, sequence_set) for sequence_set in with_usual_models],
                "flicker": arrange_differences(self.differences)}

    def write_csv(self, folder: Path) -> None:
        """Write the CSV file of every table that has lines."""
        means, by_perturbation = csv_lines(self)
        for name, lines, columns in (("stability", means, CSV_COLUMNS), ("perturbations", by_perturbation, CSV_COLUMNS),
                                     ("flicker", sequence_bootstrap.csv_lines(self.differences),
                                      sequence_bootstrap.CSV_COLUMNS)):
            if lines:
                csv_tables.write_frame(folder / f"{name}.csv", lines, columns)


def study_sequences(options: ReportOptions, runs: Sequence[Run], scores: pd.DataFrame,
                    cards: Sequence[Card]) -> SequenceReport:
    """All that a report says about sets of sequences. scores: of `scores.sequences_as_table`. Raises UserError where
    --baseline is neither card nor run."""
    predictions: dict[Block, BlockSequences] = {}
    resampled: dict[Block, Resampled] = {}
    differences: list[SequenceDifference] = []
    notes: list[Note] = []
    for block in blocks_of(scores):
        constant = constant_runs(scores, block)
        predictions[block] = read_block(block, runs, scores, options.set, constant)
        resampled[block] = resample_block(block, predictions[block], runs, options.resamples)
        differences_of_block, notes_of_block = sequence_bootstrap.compare(resampled[block], runs, scores, constant)
        differences += differences_of_block
        notes += [*predictions[block].notes, *resampled[block].notes, *notes_of_block]
    other_cards, notes_of_cards = cards_of_other_models(cards, predictions)
    models = [*models_of_runs(scores), *models_of_cards(other_cards)]
    demo_versions = {block.set_version for block in predictions if predictions[block].is_demo}
    demo_versions |= {card.data["set"]["set_version"] for card in other_cards if card.data["set"]["demo"]}
    baselines = {}
    if options.baseline is not None and models:
        baselines = find_sequence_baseline(options.baseline, runs, scores)
    return SequenceReport(sets_of_models(models, demo_versions), baselines, resampled, differences, predictions,
                          unique_notes([*notes, *notes_of_cards]))


class Scored(NamedTuple):
    """What tells whether a card and a run are of the same scoring."""

    set_version: str
    precision: str
    weights: str | None
    """hash of the model's weights; None: the card has none"""


def cards_of_other_models(cards: Iterable[Card],
                          predictions: Mapping[Block, BlockSequences]) -> tuple[list[Card], list[Note]]:
    """The cards of sets of sequences without those of runs of the report, and a note on each of these. predictions: of
    all blocks of the report."""
    scored = {Scored(block.set_version, block.precision, str(stored.info.get("weights")))  # set.json may hold anything
              for block, block_predictions in predictions.items() for stored in block_predictions.stored.values()}
    others, notes = [], []
    for card in cards:
        if not card.has_sequences:
            continue
        model = card.data["model"]
        of_card = Scored(card.data["set"]["set_version"], card.data["precision"], model["weights_sha256"])
        if model["kind"] == "run" and of_card in scored:
            notes.append(Note("", f"{card.file} is the card of a run of this report, which is listed as a run"))
        else:
            others.append(card)
    return others, notes


def constant_runs(scores: pd.DataFrame, block: Block) -> set[int]:
    """The positions of the runs of a block that predict one class for every image and frame."""
    rows = in_block(scores, block)
    rows = rows[(rows["metric"] == DISTINCT_PREDICTIONS) & (rows["method"] == RAW) & (rows["corruption"] == MEAN)]
    return set(rows.loc[rows["value"] == 1, "run"])


def usual_models(sequence_set: SequenceSet) -> list[SequenceModel]:
    """The models of a set that are not constant."""
    return [model for model in sequence_set.models if not model.is_constant]


# --- the tables of all models ---


def grid_of_set(report: SequenceReport, sequence_set: SequenceSet) -> Grid:
    """The table `stability` of one set."""
    with_rate = any(section.group in report.baselines for section in sequence_set.sections)
    columns: list[tuple[str, ...]] = [heading_of(method, metric) for method, metric in sequence_set.columns]
    higher = [measure_of(metric).higher_is_better for _, metric in sequence_set.columns]
    if with_rate:
        columns.insert(place_of_rate(sequence_set), ("predictions", "mFR"))
        higher.insert(place_of_rate(sequence_set), False)
    sections = []
    for section in sequence_set.sections:
        usual = [model for model in section.models if not model.is_constant]
        constant = [model for model in section.models if model.is_constant]
        heading = section.heading or MAIN_GROUP
        if usual:
            lines = [line_of(report, sequence_set, section, model, with_rate) for model in usual]
            sections.append(Section(heading, mark_best(lines, higher)))
        if constant:
            lines = [line_of(report, sequence_set, section, model, with_rate) for model in constant]
            sections.append(Section(join_names(section.heading, CONSTANT_HEADING), lines))
    title = TITLES["stability"].format(set=sequence_set.name)
    return Grid("stability", title, columns, sections, [], sentences_of(report, sequence_set), {})


def place_of_rate(sequence_set: SequenceSet) -> int:
    """The position of the column mFR: behind the other columns that a temperature does not change."""
    return sum(not measure_of(metric).by_temperature for _, metric in sequence_set.columns)


def heading_of(method: str, metric: str) -> tuple[str, str]:
    """The headings of a column, the widest first."""
    measure = measure_of(metric)
    return (measure.label, METHOD_LABELS[method]) if measure.by_temperature else ("predictions", measure.label)


def line_of(report: SequenceReport, sequence_set: SequenceSet, section: SequenceSection, model: SequenceModel,
            with_rate: bool) -> GridLine:
    """The line of a model in the table `stability`."""
    entries = [entry_of(number_of(model, method, MEAN, metric), metric) for method, metric in sequence_set.columns]
    if with_rate:
        rate = rate_of(model, report.baselines.get(section.group), MEAN)
        entries.insert(place_of_rate(sequence_set), entry_of(rate, RATE))
    return GridLine(sequence_set.names[model], entries)


def entry_of(number: Number | None, metric: str) -> Entry:
    """A number as it is printed, in percent where its measure is a fraction."""
    percent = metric == RATE or measure_of(metric).percent
    scale, digits = (100, 1) if percent else (1, TOP_DIGITS)
    if number is None:
        return Entry(digits=digits)
    return Entry(scale * number.mean, scale * number.sd, len(number.values), digits)


def mark_best(lines: Sequence[GridLine], higher_is_better: Sequence[bool]) -> list[GridLine]:
    """The lines with the best number of every column marked, where there are two numbers or more. higher_is_better: of
    every column."""
    best = []
    for number, choose_highest in enumerate(higher_is_better):
        values = [round(line.entries[number].value, line.entries[number].digits) for line in lines
                  if not isnan(line.entries[number].value)]
        choose = max if choose_highest else min
        best.append(choose(values) if len(values) > 1 else nan)
    return [GridLine(line.title, [entry._replace(best=round(entry.value, entry.digits) == value)
                                  for entry, value in zip(line.entries, best, strict=True)]) for line in lines]


def grid_of_perturbations(report: SequenceReport, sequence_set: SequenceSet) -> Grid:
    """The table `perturbations` of one set: a section for each perturbation. Constant models are left out."""
    with_rate = any(section.group in report.baselines for section in sequence_set.sections)
    metrics_of_columns = ("accuracy", FLIP_PROBABILITY)
    columns: list[tuple[str, ...]] = [heading_of(RAW, metric) for metric in metrics_of_columns]
    higher = [measure_of(metric).higher_is_better for metric in metrics_of_columns]
    if with_rate:
        columns.append(("predictions", "FR"))
        higher.append(False)
    sections = []
    for name in sequence_set.perturbations:
        for section in sequence_set.sections:
            lines = []
            for model in section.models:
                if model.is_constant or name not in model.perturbations:
                    continue
                entries = [entry_of(number_of(model, RAW, name, metric), metric) for metric in metrics_of_columns]
                if with_rate:
                    entries.append(entry_of(rate_of(model, report.baselines.get(section.group), name), RATE))
                lines.append(GridLine(sequence_set.names[model], entries))
            if lines:
                heading = join_names(name.replace("_", " "), section.heading)
                sections.append(Section(heading, mark_best(lines, higher)))
    sentences = sentences_of(report, sequence_set)
    if len(usual_models(sequence_set)) < len(sequence_set.models):
        sentences.append("Constant models are left out; the table of their means has them.")
    title = TITLES["perturbations"].format(set=sequence_set.name)
    return Grid("perturbations", title, columns, sections, [], sentences, {})


# --- what a reader has to know ---


def sentences_of(report: SequenceReport, sequence_set: SequenceSet, with_seeds: bool = True) -> list[str]:
    """The sentences of a set, on all that its numbers do not show; the first says what was scored. with_seeds: and with
    how many seeds, as the entries of a table mark it."""
    sentences = [sentence_on_set(sequence_set, with_seeds)]
    for section in sequence_set.sections:
        sentences += sentences_on_baseline(report.baselines.get(section.group), section.heading)
    if not report.has_baseline:
        sentences.append("There is no baseline on these images: --baseline CARD or RUN adds flip rates.")
    for model in sequence_set.models:
        sentences += sentences_on_model(model, sequence_set)
    without = [sequence_set.names[model] for model in sequence_set.models if lacks_temperature(model)]
    if without:
        sentences.append(f"No temperature is known of {', '.join(without)}.")
    return [plain(sentence) for sentence in dict.fromkeys(sentences)]


def sentence_on_set(sequence_set: SequenceSet, with_seeds: bool) -> str:
    """What was scored: perturbations, version, images, precision and, with_seeds, the number of seeds."""
    main = sequence_set.sections[0].group
    precision = "float32" if main.precision == "32" else main.precision
    count = len(sequence_set.perturbations)
    parts = [f"{count} perturbation{'s' * (count > 1)}; set_version {main.set_version[:8]}, N = {main.images} images, "
             f"{precision}"]
    if with_seeds:
        parts.append(captions.of_seeds(len(model.seeds) for model in sequence_set.models))
    return ", ".join(parts) + (f"; {DEMO}." if sequence_set.is_demo else ".")


def sentences_on_model(model: SequenceModel, sequence_set: SequenceSet) -> list[str]:
    """Constant seeds, missing perturbations, remarks on the scoring, and an overlap with the test images."""
    name = sequence_set.names[model]
    sentences = []
    if model.is_constant and model.seeds:
        seeds = [str(seed) for seed, is_constant in zip(model.seeds, model.constant_seeds, strict=True) if is_constant]
        if len(seeds) < len(model.seeds):
            verb, word = ("predicts", "seed") if len(seeds) == 1 else ("predict", "seeds")
            sentences.append(f"{name}: {len(seeds)} of {len(model.seeds)} seeds {verb} one class everywhere ({word} "
                             f"{', '.join(seeds)}); the numbers are means over all seeds.")
    if set(model.perturbations) != set(sequence_set.perturbations):
        sentences.append(f"{name}: scored on {', '.join(model.perturbations)} only.")
    if model.candidate.remarks:
        sentences.append(f"{name}: {'; '.join(model.candidate.remarks)}.")
    if model.candidate.kind == "card" and model.candidate.overlap != "none":
        sentences.append(f"{name}: overlap with the test images {model.candidate.overlap}.")
    return sentences


def lacks_temperature(model: SequenceModel) -> bool:
    """Whether a model has no scores after a temperature, and none of its remarks says why."""
    is_known = any(method == TEMPERATURE for method, *_ in model.values)
    return not is_known and not any("no temperature" in remark for remark in model.candidate.remarks)


def sentences_on_baseline(baseline: SequenceBaseline | None, heading: str) -> list[str]:
    """The baseline of a group, and for which perturbations the flip rate is undefined."""
    if baseline is None:
        return []
    start = f"{heading}: " if heading else ""
    sentences = [f"{start}The baseline is {baseline.name} ({baseline.digest})."]
    undefined = [name for name, is_undefined in zip(baseline.perturbations, baseline.undefined, strict=True)
                 if is_undefined]
    if undefined:
        count = len(baseline.perturbations)
        sentences.append(f"{start}mFR is over {count - len(undefined)} of {count} perturbations for every model: the "
                         f"baseline's flip probability is 0, or below twice its standard error, in "
                         f"{', '.join(undefined)}.")
    if baseline.standard_errors is None:
        sentences.append(f"{start}The standard errors of the baseline are not known, so that only perturbations "
                         f"without any flip are left out.")
    return sentences


# --- calibrated against uncalibrated ---


def arrange_differences(differences: Sequence[SequenceDifference]) -> list[Grid]:
    """A grid for each block, with a section for each algorithm: uncalibrated, calibrated, and their difference."""
    grids = []
    columns: list[tuple[str, ...]] = [heading_of(method, metric) for method, metric in SHOWN]
    places = [MEASURED.index(column) for column in SHOWN]
    blocks = list(dict.fromkeys(difference.block for difference in differences))
    names = name_blocks(blocks)
    for block in blocks:
        block_differences = [difference for difference in differences if difference.block == block]
        sections = []
        for difference in block_differences:
            lines = []
            for loss, values in zip(COMPARED_LOSSES.values(), difference.values, strict=True):
                numbers = [Number(values[:, place]) for place in places]
                lines.append(GridLine(loss, [entry_of(None if isnan(number.mean) else number, metric)
                                             for number, (_, metric) in zip(numbers, SHOWN, strict=True)]))
            lines.append(GridLine("difference", [entry_of_difference(difference, place) for place in places]))
            sections.append(Section(difference.name, lines))
        first = block_differences[0]
        drawn = f"{first.clusters} {'identities' if first.cluster == 'identity' else 'images'}"
        sentence = (f"Trained on {block.dataset}, {block.protocol}, {block.image_size} px. Difference: calibrated "
                    f"minus uncalibrated, the mean over the seeds that both have, with its 95 % interval from "
                    f"{first.resamples} resamples of {drawn} with all their sequences; bold: 0 lies outside.")
        title = TITLES["flicker"].format(set=names[block])
        grids.append(Grid("flicker", title, columns, sections, [], [plain(sentence)], {}))
    return grids


def entry_of_difference(difference: SequenceDifference, place: int) -> Entry:
    """A difference, marked where its interval leaves 0 out. place: position in `MEASURED`."""
    interval, metric = difference.intervals[place], MEASURED[place][1]
    scale, digits = (100, 1) if MEASURES[metric].percent else (1, TOP_DIGITS)
    if interval is None:
        return Entry(digits=digits)
    low, high = scale * interval.low, scale * interval.high
    return Entry(scale * interval.difference, seeds=len(difference.seeds), digits=digits, interval=(low, high),
                 best=low > 0 or high < 0)


# --- lines of CSV ---

CSV_COLUMNS = ["set", "set_version", "images", "precision", "missing_classes", "model", "kind", "constant", "method",
               "perturbation", "metric", "mean", "sd", "seeds", "by_seed", "low", "high", "baseline", "baseline_digest"]


def csv_lines(report: SequenceReport) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Every score of every model, as fractions: the lines of the clean images and of the means, and those of the
    perturbations. by_seed: the values in the order of the seeds. low, high: the 95 % interval, of mean flip
    probabilities and mean flip rates of runs."""
    means: list[dict[str, Any]] = []
    by_perturbation: list[dict[str, Any]] = []
    for sequence_set in report.sets:
        for section in sequence_set.sections:
            for model in section.models:
                common = common_fields(sequence_set, section.group, sequence_set.names[model], model.candidate.kind)
                for place in (CLEAN, MEAN, *model.perturbations):
                    lines = by_perturbation if place in model.perturbations else means
                    lines += [common | {"constant": model.is_constant} | line
                              for line in lines_of_place(report, section, model, place)]
    return means, by_perturbation


def lines_of_place(report: SequenceReport, section: SequenceSection, model: SequenceModel,
                   place: str) -> list[dict[str, Any]]:
    """The lines of one model on clean images, for a perturbation, or of the mean over perturbations."""
    lines = []
    for (method, place_of_value, metric), values in model.values.items():
        if place_of_value == place:
            interval = None
            if (method, place, metric) == (RAW, MEAN, FLIP_PROBABILITY) and model.candidate.block in report.resampled:
                interval = interval_of_flips(report.resampled[model.candidate.block], model.candidate.runs)
            lines.append(csv_line(method, place, metric, Number(values), model, interval))
    baseline = report.baselines.get(section.group)
    rate = rate_of(model, baseline, place) if place != CLEAN else None
    if baseline is not None and rate is not None:
        interval = interval_of_rate(report, model, baseline) if place == MEAN else None
        lines.append(csv_line(RAW, place, RATE, rate, model, interval)
                     | {"baseline": baseline.name, "baseline_digest": baseline.digest})
    return lines


def interval_of_rate(report: SequenceReport, model: SequenceModel,
                     baseline: SequenceBaseline) -> tuple[float, float] | None:
    """The 95 % interval of a model's mean flip rate; None where the model or the baseline is a card, and where the
    predictions of a run are not there."""
    block = model.candidate.block
    if block is None or block not in report.resampled or baseline.run is None:
        return None
    defined = dict(zip(baseline.perturbations, (~baseline.undefined).tolist(), strict=True))
    return interval_of_flip_rate(report.resampled[block], model.candidate.runs, baseline.run, defined)


def csv_line(method: str, place: str, metric: str, number: Number, model: SequenceModel,
             interval: tuple[float, float] | None) -> dict[str, Any]:
    """One score, with the names of `CSV_COLUMNS`."""
    low, high = interval or (None, None)
    return {"method": method, "perturbation": place, "metric": metric, "mean": number.mean,
            "sd": None if np.isnan(number.sd) else number.sd, "seeds": len(model.seeds) or None,
            "by_seed": " ".join(f"{value:.6g}" for value in number.values), "low": low, "high": high}


# --- in brief ---


def brief_lines(report: SequenceReport, most: int) -> list[str]:
    """At most `most` lines of at most 80 characters on the first set: accuracy, flips and total variation of models."""
    first_set = report.sets[0]
    title = f"{first_set.name[:30]}: %, means over {len(first_set.perturbations)} perturbations"
    lines = [title + (f"; {DEMO}" if first_set.is_demo else ""),
             f"{'model':{BRIEF_WIDTH}}{'acc.':>8}{'flips':>8}{'TV':>8}{'TV temp.':>10}"]
    columns = ((RAW, "accuracy", 8), (RAW, FLIP_PROBABILITY, 8), (RAW, "total_variation", 8),
               (TEMPERATURE, "total_variation", 10))
    models = first_set.models
    printed_models = models if len(lines) + len(models) <= most else models[:max(most - len(lines) - 1, 0)]
    for model in printed_models:
        texts = []
        for method, metric, width in columns:
            number = number_of(model, method, MEAN, metric)
            texts.append(("-" if number is None else f"{100 * number.mean:.1f}").rjust(width))
        name = shorten(first_set.names[model], BRIEF_WIDTH).ljust(BRIEF_WIDTH)
        lines.append(name + "".join(texts) + (" constant" if model.is_constant else ""))
    if len(printed_models) < len(models):
        lines.append(f"and {len(models) - len(printed_models)} more lines, in the tables")
    return lines
