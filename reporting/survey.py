"""A survey's labels: what people said about corrupted images, for figure 8.

A CSV file in UTF-8 with a header: `id,corruption,severity` and a column for every class of the set, by its name. A row
is an image of the set in one of its 85 forms; the classes' columns hold votes or shares, from 0 on and not all 0:

    id,corruption,severity,Neutral,Happy,Sad
    test-00003,contrast,5,4,0,1
"""
import csv
from typing import NamedTuple

import numpy as np

from cli import UserError, first_line
from corruptions import CORRUPTIONS
from reporting.runs import CELLS, plain

KEYS = ("id", "corruption", "severity")


class Survey(NamedTuple):
    """labels: {(id, corruption, severity): float64 (K,), sums to 1, in the order of `classes`}."""

    file: str
    classes: tuple
    labels: dict


def read_survey(path):
    """Raises UserError with the line that is wrong."""
    try:
        if path.exists() and not path.is_file():
            raise ValueError("no regular file")
        with open(path, newline="", encoding="utf-8-sig") as file:
            lines = [(reader.line_num, row) for reader in [csv.reader(file, strict=True)] for row in reader if row]
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"--survey {path}: {getattr(error, 'strerror', None) or first_line(error)}") from None

    def wrong(number, what):
        return UserError(f"--survey {path}, line {number}: {plain(what)}")

    number, header = lines[0] if lines else (1, [])
    names = [name.strip() for name in header]
    classes = tuple(name for name in names if name not in KEYS)
    if not set(KEYS) <= set(names) or len(classes) < 2 or len(set(names)) < len(names) or "" in names:
        raise wrong(number, f"the header has to name id, corruption, severity and every class once, not {names}")
    labels = {}
    for number, row in lines[1:]:
        if len(row) != len(names):
            raise wrong(number, f"{len(row)} fields under {len(names)} columns")
        fields = dict(zip(names, map(str.strip, row), strict=True))
        cell = fields["corruption"], fields["severity"]
        if cell not in [(name, str(severity)) for name, severity in CELLS]:
            raise wrong(number, f"no form of an image: {', '.join(cell)}; known: {', '.join(CORRUPTIONS)}, each 1 to 5")
        try:
            votes = np.array([float(fields[name]) for name in classes])
        except ValueError as error:
            raise wrong(number, f"votes: {first_line(error)}") from None
        if not (np.isfinite(votes).all() and votes.min() >= 0 and votes.max() > 0):
            raise wrong(number, "votes have to be numbers from 0 on, and not all of them 0")
        key = fields["id"], cell[0], int(cell[1])
        if key in labels:
            raise wrong(number, f"{', '.join(map(str, key))} once more")
        votes = votes / votes.max()  # so that their sum is no overflow
        labels[key] = np.abs(votes / votes.sum())  # no negative nought
    if not labels:
        raise wrong(number, "no row below the header")
    return Survey(str(path), classes, labels)


def surveyed(survey, built):
    """[(row of the set, corruption, severity, label (K,) in the set's order)], as the file has them. Raises UserError
    where it is about other images or classes."""
    if set(survey.classes) != set(built.classes):
        raise UserError(f"--survey {survey.file} has the classes {', '.join(survey.classes)}; {built.folder} has "
                        f"{', '.join(built.classes)}")
    order = [survey.classes.index(name) for name in built.classes]
    rows = {name: row for row, name in enumerate(built.frame["id"])}
    absent = [key[0] for key in survey.labels if key[0] not in rows]
    if absent:
        raise UserError(f"--survey {survey.file}: {built.folder} has no image {absent[0]!r} ({len(absent)} such rows)")
    return [(rows[name], *cell, label[order]) for (name, *cell), label in survey.labels.items()]
