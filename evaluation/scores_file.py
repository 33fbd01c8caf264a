"""scores.csv in a run's folder: reading it, and keeping the rows that were scored with the present weights.

scores.csv is a table with one score a line, for all sets that a run was scored on; its columns are `scores.COLUMNS`.
scoring.py reads it before it scores, and writes it after each set. Files of the first release of this project, which
have fewer columns, are read as well. Nothing here imports torch.
"""
import csv
import math
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from corruptions import PRESETS, cells_of, corruptions_of
from evaluation.predictions import ORIGIN, set_aside
from evaluation.scores import COLUMNS, FIRST_RELEASE_COLUMNS, SUMMARIES
from evaluation.sequence_scores import METHODS
from perturbations import ALL
from support import run_folder
from support.errors import DamagedFile, first_line
from support.files import read_json, read_rows

# Every pair of a corruption and a severity, as text, that a row can have, by the kind of its set; a perturbation and a
# summary have an empty severity.
PLACES_OF_CORRUPTIONS = {
    ("clean", ""), *((name, "") for name in SUMMARIES),
    *((name, str(severity)) for preset in PRESETS for name, severity in cells_of(corruptions_of(preset)))}
PLACES_OF_SEQUENCES = {("clean", ""), ("mean", ""), *((name, "") for name in ALL)}


def earlier_scores(run: Path, weights_sha256: str, sets_scored_now: Collection[str] = ()) -> list[dict[str, Any]]:
    """The rows of scores.csv that were scored with the present weights of the run, with all `COLUMNS`.

    weights_sha256: that of the file best.pt. Rows of earlier weights, as set.json of their predictions tells, are left
    out; a line says so unless the set is in `sets_scored_now`. A damaged file is set aside, and a line says so. Rows of
    the first release of this project have no precision; where set.json records bf16, they get it."""
    path = run / run_folder.SCORES_FILE
    try:
        rows = read_scores(path)
    except DamagedFile as error:
        print(f"{error}: kept as {set_aside(path)}. Sets that are not scored now have to be scored again")
        return []
    origins: dict[tuple[str, str, str], dict[str, Any]] = {}
    current_rows = []
    outdated_sets = set()
    for row in rows:
        key = row["set"], row["set_version"], row["precision"]
        if key not in origins:
            origins[key] = origin_of_scores(run, *key)
        origin = origins[key]
        if origin.get("weights", weights_sha256) != weights_sha256:
            outdated_sets.add(row["set"])
            continue
        if not row["precision"] and origin.get("precision") == run_folder.PRECISIONS["bf16"]:
            row = row | {"precision": "bf16"}
        current_rows.append(row)
    for name in sorted(outdated_sets.difference(sets_scored_now)):
        print(f"{path}: the scores of {name} are of earlier weights of this run and are left out")
    return current_rows


def origin_of_scores(run: Path, set_name: str, set_version: str, precision: str) -> dict[str, Any]:
    """set.json of the predictions behind a row of scores, {} where it is gone, damaged, or of another version of the
    set."""
    if Path(set_name).name != set_name:  # a file of a hostile run must not lead out of its folder
        return {}
    try:
        origin = read_json(run_folder.predictions_folder(run, set_name, precision or "32") / ORIGIN)
    except (OSError, DamagedFile):  # reported when the set is scored
        return {}
    return origin if origin.get("set_version") == set_version else {}


def read_scores(path: Path) -> list[dict[str, Any]]:
    """The rows of scores.csv as dicts of text with all `COLUMNS`, [] where there is no file. Raises DamagedFile."""
    if not os.path.lexists(path):
        return []
    if not path.is_file():
        raise DamagedFile(f"{path} is no regular file")
    try:
        rows = [dict.fromkeys(COLUMNS, "") | row for row in checked_columns(read_rows(path))]
        for number, row in enumerate(rows, 2):  # line 1 is the header
            if not is_score(row):
                raise ValueError(f"line {number} is no score")
    except DamagedFile:
        raise
    except (ValueError, csv.Error) as error:
        raise DamagedFile(f"{path} is damaged ({first_line(error)})") from None
    places: dict[tuple[str, ...], set[tuple[str, str]]] = {}
    for row in rows:
        places.setdefault((row["set"], row["set_version"]), set()).add((row["corruption"], row["severity"]))
    for (name, _), places_of_set in places.items():
        if not (places_of_set <= PLACES_OF_CORRUPTIONS or places_of_set <= PLACES_OF_SEQUENCES):
            raise DamagedFile(f"{path} is damaged ({name} has corruptions and perturbations)")
    keys = {tuple(value for name, value in row.items() if name not in ("value", "notes")) for row in rows}
    if len(keys) < len(rows):
        raise DamagedFile(f"{path} is damaged (a score is there twice)")
    return rows


def checked_columns(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """The same rows. Raises ValueError unless there are some and their columns are those of scores.csv."""
    header = tuple(rows[0]) if rows else ()
    if header not in (COLUMNS, FIRST_RELEASE_COLUMNS):
        raise ValueError("its columns are not those of scores")
    return rows


def is_score(row: dict[str, str]) -> bool:
    """Whether a row of scores.csv, as text, could have been written by `scores.score`. Raises ValueError where its
    value is no number."""
    if row.keys() != set(COLUMNS) or None in row.values():
        return False
    has_place = (row["corruption"], row["severity"]) in PLACES_OF_CORRUPTIONS | PLACES_OF_SEQUENCES
    has_precision = row["precision"] in ("", *run_folder.PRECISIONS)
    has_names = all(row[name] for name in ("set", "set_version", "method", "metric"))
    printable = all(text.isprintable() for text in row.values())
    return math.isfinite(float(row["value"])) and has_place and has_precision and has_names and printable


def with_rows_of_set(rows: list[dict[str, Any]], new_rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with those of one set replaced by `new_rows`, which come last.

    Replaced are the rows of the same set, version and precision of the methods that this project scores; rows of the
    first release of this project, which have no precision, count as float32."""
    keys = {scoring_key(new_rows[0] | {"method": method}) for method in METHODS}
    return [row for row in rows if scoring_key(row) not in keys] + new_rows


def scoring_key(row: dict[str, Any]) -> tuple[str, str, str, str]:
    """What all rows of one scoring have in common: set, version of the set, method and precision."""
    return row["set"], row["set_version"], row["method"], row["precision"] or "32"
