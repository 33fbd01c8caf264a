"""Sample images of a built set for the page's corruption explorer: pictures, soft labels, and what every run predicts.

An image is shown clean and in its forms (building/forms.py), 85 in FER-C. A *view* is one of these, given by its cell;
`None` stands for the clean image.
"""
import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pandas as pd

import metrics
from building.built_set import BuiltSet, open_built_set
from building.forms import encode
from reporting.predictions import Cell, open_predictions, read_logits
from reporting.notes import READ_ERRORS, Note, plain
from reporting.rows import Block
from reporting.runs import Run
from reporting.scores import in_block
from support.errors import DamagedFile, UserError

SAMPLES = 8  # images of a set at most, one of each class
SIDE = 112  # pixels of a picture at most
QUALITY = 80  # of WebP
LICENCE_NOTE = ("no pictures in the page: most licences of face data sets do not allow passing their images on; "
                "--with-images shows them, for your own eyes")


class Samples(NamedTuple):
    """What the explorer of one block shows."""

    explorer: dict[str, Any] | None
    """ready for JSON; None where the set or all predictions are missing"""
    notes: list[Note]
    """what is missing"""


class _NoExplorer(Exception):
    """The set of the block cannot be shown. The message says why."""


def sample(block: Block, set_folder: Path | None, runs: Sequence[Run], scores: pd.DataFrame,
           with_images: bool) -> Samples:
    """An image of each class in all views, its soft labels, and what the block's runs predict.

    Pictures of the demo are always shown, those of other sets only `with_images`. Probabilities are in thousandths."""
    notes: list[Note] = []
    built, rows, predictions = None, [], {}
    for index in sorted(set(in_block(scores, block)["run"])):
        run = runs[index]
        try:
            folder = open_predictions(run, block)[0]
            if built is None:
                built, rows = open_samples(set_folder, block)
            shape = block.n, len(built.classes)
            predictions[index] = [probabilities(folder, view, shape, rows) for view in views_of(built)]
        except _NoExplorer as error:
            return Samples(None, [Note(block.name, f"no explorer: {error}")])
        except READ_ERRORS as error:
            notes.append(run.unusable_predictions(block, error, set_folder))
    if built is None:
        return Samples(None, notes)
    pictures: list[list[str | None]] = [[None] * len(views_of(built))] * len(rows)
    if built.made_with["dataset"] != "demo" and not with_images:
        notes.append(Note(block.name, LICENCE_NOTE))
    else:
        try:
            pictures = read_pictures(built, rows)
        except (*READ_ERRORS, UserError) as error:
            notes.append(Note(block.name, f"no pictures in the page: {plain(error)}"))
    frame = built.frame.iloc[rows]
    targets = [built.labels_before_softening[rows]] + [built.soft_labels_of(*cell)[rows] for cell in built.cells]
    explorer = {
        "classes": built.classes,
        "ids": list(frame["id"]),
        "labels": [int(k) for k in frame["expression"]],
        "side": min(SIDE, built.made_with["size"]),
        "targets": [thousandths(target) for target in targets],
        "predictions": predictions,
        "pictures": pictures,
    }
    return Samples(explorer, notes)


def open_samples(folder: Path | None, block: Block) -> tuple[BuiltSet, list[int]]:
    """The block's built set and the rows of the samples. Raises _NoExplorer where the set cannot be used."""
    if folder is None:
        raise _NoExplorer("no usable predictions name their built set")
    try:
        built = open_built_set(folder)
        if built.manifest["set_version"] != block.set_version:
            raise UserError(f"{folder} now holds another version of the set than the one that was scored; give the "
                            "folder of that one with --set DIR")
        return built, choose_rows(built.frame.iloc[:block.n])
    except (UserError, DamagedFile) as error:
        raise _NoExplorer(plain(error)) from None


def views_of(built: BuiltSet) -> tuple[Cell, ...]:
    """All views of an image, in the page's order."""
    return (None, *built.cells)


def choose_rows(frame: pd.DataFrame) -> list[int]:
    """For each class the row of one image: the first one that shows a person whom no earlier class has shown, or the
    first of all where there is none."""
    rows: list[int] = []
    persons: set[Any] = set()
    for expression in sorted(set(frame["expression"]))[:SAMPLES]:
        candidates = frame[frame["expression"] == expression]
        of_new_persons = candidates[~candidates["identity"].isin(persons)]
        chosen = candidates if of_new_persons.empty else of_new_persons
        rows.append(int(chosen.index[0]))
        persons.add(chosen["identity"].iloc[0])
    return rows


def probabilities(folder: Path, view: Cell, shape: tuple[int, int], rows: list[int]) -> list[list[int]]:
    """What a run predicts for the samples in one view. Raises DamagedFile where the file has another shape."""
    return thousandths(metrics.softmax(read_logits(folder, view, shape)[rows]))


def thousandths(probs: np.ndarray) -> list[list[int]]:
    """Probabilities as whole thousandths: three digits are enough for bars, and short in JSON."""
    return np.rint(1000 * np.asarray(probs, np.float64)).astype(int).tolist()


def read_pictures(built: BuiltSet, rows: list[int]) -> list[list[str | None]]:
    """The samples' pictures in all views, as data URLs."""
    pictures: list[list[str | None]] = [[picture(built, row, view) for view in views_of(built)]
                                           for row in rows]
    if not built.has_images:
        built.check_forms_made_here()
    return pictures


def picture(built: BuiltSet, row: int, view: Cell) -> str:
    """A small WebP of one view as a data URL: from its file, or made in memory in a set without images."""
    image = built.pixels(row) if view is None else built.pixels(row, *view)
    if len(image) > SIDE:
        image = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    return "data:image/webp;base64," + base64.b64encode(encode(image, "webp", QUALITY)).decode()
