"""Labels from a survey: the expressions that people saw in corrupted images, for figure 8.

A survey is a CSV file in UTF-8 with a header: `id,corruption,severity` and a column for every class of the set, by its
name. A row is one corrupted version of an image of the set; the columns of the classes hold votes or fractions, from 0
on and not all 0:

    id,corruption,severity,Neutral,Happy,Sad
    test-00003,contrast,5,4,0,1
"""
from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from corruptions import OPERATIONS, cells_of
from reporting.notes import plain
from support.errors import UserError, first_line

if TYPE_CHECKING:
    from building.built_set import BuiltSet

KEYS = ("id", "corruption", "severity")
# Of all sets; `surveyed` looks which of them a set has.
CELLS_AS_TEXT = {(corruption, str(severity)) for corruption, severity in cells_of(tuple(OPERATIONS))}


class Survey(NamedTuple):
    """A survey that was read."""

    file: str
    classes: tuple[str, ...]
    """names of the classes in the order of the file"""
    labels: dict[tuple[str, str, int], np.ndarray]
    """{(id, corruption, severity): float64 (K,), sums to 1, in the order of `classes`}"""


def read_survey(path: Path) -> Survey:
    """Read a survey. Raises UserError naming the line that is wrong."""
    lines = read_lines(path)
    number, header = lines[0] if lines else (1, [])
    names = [name.strip() for name in header]
    classes = tuple(name for name in names if name not in KEYS)
    if not set(KEYS) <= set(names) or len(classes) < 2 or len(set(names)) < len(names) or "" in names:
        raise wrong_line(path, number,
                         f"the header has to name id, corruption, severity and every class once, not {names}")
    labels: dict[tuple[str, str, int], np.ndarray] = {}
    for number, row in lines[1:]:
        try:
            key, votes = parse_row(row, names, classes)
            if key in labels:
                raise ValueError(f"{', '.join(map(str, key))} appears twice")
        except ValueError as error:
            raise wrong_line(path, number, str(error)) from None
        labels[key] = fractions_of(votes)
    if not labels:
        raise wrong_line(path, number, "no row below the header")
    return Survey(str(path), classes, labels)


def read_lines(path: Path) -> list[tuple[int, list[str]]]:
    """(number of the line, its fields) of every line that is not empty. Raises UserError where it is no CSV file."""
    try:
        if path.exists() and not path.is_file():
            raise ValueError("no regular file")
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            return [(reader.line_num, row) for row in reader if row]
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"--survey {path}: {getattr(error, 'strerror', None) or first_line(error)}") from None


def wrong_line(path: Path, number: int, problem: str) -> UserError:
    return UserError(f"--survey {path}, line {number}: {plain(problem)}")


def parse_row(row: list[str], names: list[str], classes: tuple[str, ...]) -> tuple[tuple[str, str, int], np.ndarray]:
    """The key (id, corruption, severity) of a row and its votes, float64 (K,). Raises ValueError saying what is
    wrong."""
    if len(row) != len(names):
        raise ValueError(f"{len(row)} fields under {len(names)} columns")
    fields = dict(zip(names, map(str.strip, row), strict=True))
    cell = fields["corruption"], fields["severity"]
    if cell not in CELLS_AS_TEXT:
        raise ValueError(f"no form of an image: {', '.join(cell)}; known: {', '.join(OPERATIONS)}, each 1 to 5")
    try:
        votes = np.array([float(fields[name]) for name in classes])
    except ValueError as error:
        raise ValueError(f"votes: {first_line(error)}") from None
    if not (np.isfinite(votes).all() and votes.min() >= 0 and votes.max() > 0):
        raise ValueError("votes have to be numbers from 0 on, and not all of them 0")
    return (fields["id"], cell[0], int(cell[1])), votes


def fractions_of(votes: np.ndarray) -> np.ndarray:
    """Votes (K,) as fractions that sum to 1."""
    votes = votes / votes.max()  # the sum of very large votes would be infinite
    return np.abs(votes / votes.sum())  # -0.0 becomes 0.0


def surveyed(survey: Survey, built: BuiltSet) -> list[tuple[int, str, int, np.ndarray]]:
    """The survey's labels for a set: (row of the set, corruption, severity, label (K,) in the set's order of classes).

    Raises UserError where the survey is about other classes or images."""
    if set(survey.classes) != set(built.classes):
        raise UserError(f"--survey {survey.file} has the classes {', '.join(survey.classes)}; {built.folder} has "
                        f"{', '.join(built.classes)}")
    order = [survey.classes.index(name) for name in built.classes]
    rows = {name: row for row, name in enumerate(built.frame["id"])}
    absent = [name for name, _, _ in survey.labels if name not in rows]
    if absent:
        raise UserError(f"--survey {survey.file}: {built.folder} has no image {absent[0]!r} ({len(absent)} such rows)")
    others = {corruption for _, corruption, _ in survey.labels} - set(built.corruptions)
    if others:
        raise UserError(f"--survey {survey.file}: {built.folder} has no {', '.join(sorted(others))}")
    return [(rows[name], corruption, severity, label[order])
            for (name, corruption, severity), label in survey.labels.items()]
