"""The corruptions of a set, as far as a report has to know and name them.

FER-C has 17 corruptions, preset mivia has 18. A report takes them from the set: where its folder is there, from its
manifest; where there are predictions, from their set.json; else from scores.csv or from a card, whose names tell
(`corruptions.suite_of`). Here are the functions for that, and the words for the numbers of cells.
"""
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import pandas as pd

from corruptions import CORRUPTIONS, OPERATIONS, PRESETS, SEVERITIES, cells_of, corruptions_of, suite_of
from evaluation.predictions import stored_cells, stored_sequences
from evaluation.scores import CONTRADICTED_WORDS, is_contradicted

FER_C = tuple(CORRUPTIONS)


def corruptions_of_names(names: Iterable[object]) -> tuple[str, ...]:
    """The corruptions of the set that has these, in its order; FER-C's where there is no corruption among the names, or
    where no set has all of them."""
    try:
        return suite_of(str(name) for name in names if name in OPERATIONS)
    except ValueError:
        return FER_C


def corruptions_of_scores(scores: pd.DataFrame) -> tuple[str, ...]:
    """The corruptions of the set that scores are of, as `corruptions_of_names` gives them. scores: columns of
    scores.csv, all of one set."""
    return corruptions_of_names(scores["corruption"].unique())


def corruptions_of_manifest(manifest: Mapping[str, Any]) -> tuple[str, ...]:
    """The corruptions of a set by its manifest, unchecked; FER-C's where it does not say."""
    made_with = manifest.get("made_with")
    preset = made_with.get("preset") if isinstance(made_with, dict) else None
    return corruptions_of(preset) if isinstance(preset, str) and preset in PRESETS else FER_C


def corruptions_of_predictions(info: Mapping[str, Any]) -> tuple[str, ...]:
    """The corruptions of the set that predictions are of. info: their set.json. Raises ValueError where it makes no
    sense, or where the set has perturbation sequences."""
    names = tuple(dict.fromkeys(name for name, _ in stored_cells(info)))
    if stored_sequences(info) is not None:
        raise ValueError("predictions of perturbation sequences, and scores of corruptions")
    return names


# --- in words ---


def all_cells(suites: Collection[tuple[str, ...]]) -> str:
    """What a mean over all cells is over: "the 85 cells (17 corruptions at 5 severities)"; of sets with different
    numbers of them, "all cells (each corruption at 5 severities)". suites: the corruptions of each set."""
    counts = {len(corruptions) for corruptions in suites} or {len(FER_C)}
    if len(counts) > 1:
        return "all cells (each corruption at 5 severities)"
    (count,) = counts
    return f"the {len(SEVERITIES) * count} cells ({count} corruptions at 5 severities)"


PLACEHOLDER = re.compile(r"\[(\w+)\|([^]]*)\]")  # [name|words on sets of FER-C] in a text for `for_sets`


def for_sets(text: str, suites: Collection[tuple[str, ...]]) -> str:
    """A text with the words for its placeholders. suites: the corruptions of each set; where these are FER-C's, or
    none, the words are those that stand in the placeholder."""
    if set(suites) <= {FER_C}:
        return PLACEHOLDER.sub(lambda match: match[2], text)
    words = {"all_cells": all_cells(suites), "cells_left": left_in_words(suites)}
    return PLACEHOLDER.sub(lambda match: words[match[1]], text)


def left_in_words(suites: Collection[tuple[str, ...]]) -> str:
    """What is left without the corruptions whose soft labels contradict what can be seen: "the 45 cells without
    brightness and contrast"; of several sets without the number, and with the words of all of them."""
    counts = {cells_left(corruptions) for corruptions in suites}
    words = words_left_out(name for corruptions in suites for name in corruptions)
    if not words:
        return all_cells(suites)
    return f"the cells without {words}" if len(counts) > 1 else f"the {counts.pop()} cells without {words}"


def cells_left(corruptions: Iterable[str]) -> int:
    """The number of cells without the corruptions whose soft labels contradict what can still be seen: 70 in FER-C."""
    return len(cells_of([name for name in corruptions if not is_contradicted(name)]))


def words_left_out(corruptions: Iterable[str]) -> str:
    """Which of `CONTRADICTED_WORDS` these corruptions have in their names: "brightness, contrast and snow" in FER-C;
    empty where they have none."""
    parts = {part for name in corruptions for part in name.split("_")}
    words = [word for word in CONTRADICTED_WORDS if word in parts]
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))
