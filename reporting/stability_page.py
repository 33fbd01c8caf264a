"""The data of the page's section on stability, ready for JSON: models on sets of perturbation sequences.

page.js reads it under the same names. Numbers are fractions, as [mean, standard deviation]; the deviation is None for a
single value, the pair is None where there is none. A place is a perturbation or the mean over them.
"""
from typing import Any

from reporting.ranking import MAIN_GROUP
from reporting.rows import COMPARED_LOSSES, join_names
from reporting.sequence_models import (
    MEAN, Number, SequenceModel, SequenceSection, SequenceSet, measure_of, number_of, rate_of)
from reporting.sequence_bootstrap import SequenceDifference
from reporting.stability import CONSTANT_HEADING, METHOD_LABELS, RATE, SequenceReport, sentences_of
from reporting.stored_sequences import MEASURED


def page_data(report: SequenceReport) -> list[dict[str, Any]]:
    """Every set with its models and the differences between calibrated and uncalibrated runs."""
    return [data_of_set(report, sequence_set) for sequence_set in report.sets]


def data_of_set(report: SequenceReport, sequence_set: SequenceSet) -> dict[str, Any]:
    """One set. sections: the headings that the lines point to."""
    sections: list[str] = []
    lines = []
    for section in sequence_set.sections:
        for constant in (False, True):
            models = [model for model in section.models if model.is_constant == constant]
            if models:
                heading = section.heading or MAIN_GROUP
                sections.append(join_names(section.heading, CONSTANT_HEADING) if constant else heading)
                lines += [{"section": len(sections) - 1} | line_of(report, sequence_set, section, model)
                          for model in models]
    versions = {section.group.set_version for section in sequence_set.sections}
    differences = [difference for difference in report.differences if difference.block.set_version in versions]
    blocks = len({difference.block for difference in differences})
    return {
        "set": sequence_set.name, "demo": sequence_set.is_demo,
        "sentences": sentences_of(report, sequence_set, with_seeds=False),
        "perturbations": [MEAN, *sequence_set.perturbations], "sections": sections, "lines": lines,
        "measures": [{"key": key_of(method, metric), "method": method, "by_temperature": measure.by_temperature,
                      "label": measure.label, "percent": measure.percent,
                      "higher_is_better": measure.higher_is_better}
                     for method, metric in sequence_set.columns for measure in [measure_of(metric)]],
        "methods": METHOD_LABELS,
        "has_rates": any(section.group in report.baselines for section in sequence_set.sections),
        "differences": [data_of_difference(difference, blocks > 1) for difference in differences]}


def key_of(method: str, metric: str) -> str:
    """The key of a column: the metric, and the method where a temperature changes it."""
    return f"{metric}_{method}" if measure_of(metric).by_temperature else metric


def line_of(report: SequenceReport, sequence_set: SequenceSet, section: SequenceSection,
            model: SequenceModel) -> dict[str, Any]:
    """One model. values: {place: {key of a column: [mean, standard deviation]}}"""
    values: dict[str, dict[str, list | None]] = {}
    for place in (MEAN, *model.perturbations):
        numbers = {key_of(method, metric): pair_of(number_of(model, method, place, metric))
                   for method, metric in sequence_set.columns}
        numbers[RATE] = pair_of(rate_of(model, report.baselines.get(section.group), place))
        values[place] = numbers
    return {"model": sequence_set.names[model], "kind": model.candidate.kind, "seeds": len(model.seeds),
            "constant": model.is_constant, "notes": "; ".join(model.candidate.remarks), "values": values}


def pair_of(number: Number | None) -> list | None:
    """A number for JSON."""
    if number is None:
        return None
    return [number.mean, number.sd if len(number.values) > 1 else None]


def data_of_difference(difference: SequenceDifference, with_block: bool) -> dict[str, Any]:
    """The differences of one pair of rows: [difference, low, high] by the key of a column. with_block: name the
    block."""
    numbers = {}
    for (method, metric), interval in zip(MEASURED, difference.intervals, strict=True):
        numbers[key_of(method, metric)] = None if interval is None else [
            interval.difference, interval.low, interval.high]
    block = difference.block
    setup = f"{block.dataset}, {block.protocol}, {block.image_size} px, {block.precision}"
    return {"name": difference.name, "block": setup if with_block else "", "seeds": len(difference.seeds),
            "numbers": numbers, "losses": list(COMPARED_LOSSES.values())}
