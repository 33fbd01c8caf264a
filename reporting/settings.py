"""Which settings separate the rows of a report, and how a table spells them.

Given the args.json of all runs, `assign_rows` says to which `Row` (rows.py) each belongs. What counts as a setting that
changes the result is known to support/run_folder.py; which constants a loss has, to training/options.py.
"""
import json
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from reporting.notes import plain
from reporting.rows import Row
from support import run_folder
from training.options import CONSTANTS, LossOptions

LOSS_CONSTANTS = {option.name for option in fields(LossOptions)}
Value = TypeVar("Value", bound=Hashable)
# Fabric's name of a precision -> the value of --precision, such as "32-true" -> "32".
OPTION_OF_PRECISION = {fabric: option for option, fabric in run_folder.PRECISIONS.items()}


def loss_has_constant(loss: str, name: str) -> bool:
    """Whether a setting is a constant of this loss, so that it can separate rows. A loss that `CONSTANTS` does not list
    may have any constant. The multiplier of MaxEnt never separates rows: the name of the loss states it."""
    if name not in LOSS_CONSTANTS or name == "maxent_multiplier":
        return False
    if loss not in CONSTANTS:
        return True
    return name in CONSTANTS[loss]


# --- rows ---


def assign_rows(runs: Sequence[Mapping[str, Any]]) -> list[tuple[Row, dict[str, Any]]]:
    """For every run, given by its args.json, its row and the settings that separate this row from others: [(row,
    {setting: value})], in the order of the runs.

    Settings are compared among the runs of one algorithm, data set, protocol and image size."""
    keys = [(run["dataset"], run["protocol"], run["image_size"], run["script"]) for run in runs]
    assigned: dict[int, tuple[Row, dict[str, Any]]] = {}
    for indices in positions(keys).values():
        rows = assign_rows_of_algorithm([runs[index] for index in indices])
        assigned.update(zip(indices, rows, strict=True))
    return [assigned[index] for index in range(len(runs))]


def assign_rows_of_algorithm(runs: Sequence[Mapping[str, Any]]) -> list[tuple[Row, dict[str, Any]]]:
    """The same for runs of one algorithm and setup. Constants of a loss are compared only among the runs with it."""
    names = [name for name in run_folder.varying_settings(runs) if name not in LOSS_CONSTANTS]
    settings = spell_settings(runs, names)
    varied = [{name: run.get(name) for name in names} for run in runs]
    constants = [""] * len(runs)
    losses: list[str] = [run["loss"] for run in runs]
    for loss, indices in positions(losses).items():
        with_loss = [runs[index] for index in indices]
        own_names = [name for name in run_folder.varying_settings(with_loss) if loss_has_constant(loss, name)]
        for index, text in zip(indices, spell_settings(with_loss, own_names), strict=True):
            constants[index] = text
            varied[index] |= {name: runs[index].get(name) for name in own_names}
    rows = []
    for index, run in enumerate(runs):
        rows.append(Row(run["script"], run["loss"], float(run["noise"]), settings[index], constants[index]))
    return list(zip(rows, varied, strict=True))


def positions(keys: Iterable[Value]) -> dict[Value, list[int]]:
    """{key: the positions at which it stands}"""
    indices: dict[Value, list[int]] = {}
    for index, key in enumerate(keys):
        indices.setdefault(key, []).append(index)
    return indices


# --- in words ---


def spell_settings(runs: Sequence[Mapping[str, Any]], names: Iterable[str]) -> list[str]:
    """For every run, given by its args.json, the named settings in words. Different values have different words; a
    value that is the recipe's has none, where the recipe is recorded."""
    usual = run_folder.merged_recipes(runs)
    by_content = all("contents" in run for run in runs)
    settings = [usual | run_folder.row_settings(run, by_content) for run in runs]
    words: list[list[str]] = [[] for _ in runs]
    for name in names:
        values = [of_run.get(name) for of_run in settings]
        texts = spell_values(name, values, runs)
        for own_words, text, value in zip(words, texts, values, strict=True):
            if name not in usual or value != usual[name]:
                own_words.append(f"{plain(name).replace('_', ' ')} {text}")
    return [", ".join(own_words) for own_words in words]


def spell_values(name: str, values: Sequence[Any], runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The values of one setting as texts. Where two values would have the same text, such as 1 and "1", a hash tells
    them apart."""
    texts = [spell_value(name, value, run) for value, run in zip(values, runs, strict=True)]
    keys = [json.dumps(value, sort_keys=True) for value in values]
    if len(set(texts)) >= len(set(keys)):
        return texts
    return [f"{text} ({run_folder.short_hash({name: key})})" for text, key in zip(texts, keys, strict=True)]


def spell_value(name: str, value: Any, run: Mapping[str, Any]) -> str:
    """A value of a setting as a table shows it. A file is shown by its name and the start of its hash."""
    if name == run_folder.DATA:
        return plain(value)[:8]
    contents = run.get("contents", {})
    if name in contents and value == contents[name]:
        file = Path(str(run.get(name)))
        return f"{plain(file.name)} ({plain(value)[:8]})"
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return plain(" ".join(map(str, value)))[:60]
    return OPTION_OF_PRECISION.get(str(value), plain(value)[:60])
