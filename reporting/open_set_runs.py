"""Open-set runs (train_openset.py) in a folder: which there are, and which of them are seeds of one line.

Words. Runs of one setup have equal settings but for open classes and seed. A line of a table is a set of open classes:
the mean over its seeds. A one-class line has one open class.
"""
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from reporting.notes import READ_ERRORS, Note, plain
from reporting.runs import NOT_SEARCHED, read_args
from support import run_folder
from training.open_set.scores import read_open_scores


class Setup(NamedTuple):
    """What runs of one table have in common. `comparable_runs` says how it is made."""

    dataset: str
    loss: str
    noise: float
    image_size: int
    settings: str
    """those that differ from the recipe, and those that differ between runs which are otherwise alike, as text; "" for
    none"""

    @property
    def title(self) -> str:
        """The setup in a heading."""
        texts = [self.dataset, f"loss {self.loss}"]
        if self.noise:
            texts.append(f"{100 * self.noise:g} % label noise")
        texts.append(f"{self.image_size} px")
        return ", ".join(texts + ([self.settings] if self.settings else []))


@dataclass(frozen=True, eq=False)
class ScoredRun:
    """A run of train_openset.py that has scores."""

    folder: Path
    setup: Setup
    open_classes: str
    """joined by +"""
    seed: int
    scores: pd.DataFrame
    """open_scores.csv"""
    args: Mapping[str, Any]
    """args.json"""


def read_scored_runs(folder: Path) -> tuple[list[ScoredRun], list[Note]]:
    """The open-set runs in a folder, sorted by setup, open classes and seed, and what could not be read or is left out.
    Links are not followed."""
    runs: list[ScoredRun] = []
    notes: list[Note] = []
    for path in open_set_folders(folder):
        try:
            args = read_args(path / run_folder.ARGS_FILE)
            settings = ", ".join(f"{name} {value}" for name, value in sorted(args.get("differs", {}).items()))
            setup = Setup(plain(args["dataset"]), plain(args["loss"]), float(args["noise"]), int(args["image_size"]),
                          plain(settings))
            runs.append(ScoredRun(path, setup, plain(args["open"]), int(args["seed"]), read_open_scores(path), args))
        except FileNotFoundError:
            notes.append(Note(str(path), "its open scores are missing: start its training command again"))
        except READ_ERRORS as error:
            notes.append(Note(str(path), "left out", str(error)))
    runs = comparable_runs(runs)
    runs.sort(key=lambda run: (run.setup, run.open_classes.count("+"), run.open_classes, run.seed))
    runs, copies = without_copies(runs)
    return runs, notes + copies


def open_set_folders(folder: Path) -> list[Path]:
    """The folders of open-set runs below a folder, sorted."""
    folders_of_runs = []
    for parent, folders, names in os.walk(folder):
        if run_folder.ARGS_FILE in names:
            if run_folder.is_open_set_run(Path(parent)):
                folders_of_runs.append(Path(parent))
            folders.clear()
        folders[:] = [name for name in folders if name not in NOT_SEARCHED]
    return sorted(folders_of_runs)


def comparable_runs(runs: Sequence[ScoredRun]) -> list[ScoredRun]:
    """The runs with setups that say every setting in which runs of one setup differ, so that only runs with equal
    settings are averaged. Training data are compared between runs with the same open classes: other ones are trained on
    other images."""
    named = []
    for lines in by_setup(runs).values():
        varying = [name for name in run_folder.varying_settings(run.args for of_line in lines.values()
                                                                for run in of_line) if name != run_folder.DATA]
        for of_line in lines.values():
            data = [name for name in run_folder.varying_settings(run.args for run in of_line)
                    if name == run_folder.DATA]
            for run in of_line:
                values = run_folder.row_settings(run.args)
                texts = [f"{name} {str(values.get(name, 'usual'))[:16]}" for name in (*varying, *data)]
                settings = ", ".join(filter(None, (run.setup.settings, plain(", ".join(texts)))))
                named.append(replace(run, setup=run.setup._replace(settings=settings)))
    return named


def without_copies(runs: Iterable[ScoredRun]) -> tuple[list[ScoredRun], list[Note]]:
    """One run of each setup, set of open classes and seed, the first one, and a note on each of the others."""
    kept: dict[tuple[Setup, str, int], ScoredRun] = {}
    notes = []
    for run in runs:
        first = kept.setdefault((run.setup, run.open_classes, run.seed), run)
        if first is not run:
            reason = f"it has the settings and the seed of {first.folder}"
            notes.append(Note(str(run.folder), "left out", reason))
    return list(kept.values()), notes


def by_setup(runs: Iterable[ScoredRun]) -> dict[Setup, dict[str, list[ScoredRun]]]:
    """{setup: {open classes: its runs, by seed}}, in the order of the runs."""
    grouped: dict[Setup, dict[str, list[ScoredRun]]] = {}
    for run in runs:
        grouped.setdefault(run.setup, {}).setdefault(run.open_classes, []).append(run)
    return grouped


def scores_of(runs: Iterable[ScoredRun]) -> pd.DataFrame:
    """The scores of some runs in one table: the columns of open_scores.csv, and `open_classes` and `seed`."""
    return pd.concat([run.scores.assign(open_classes=run.open_classes, seed=run.seed) for run in runs])


def one_class_lines(names: Iterable[str]) -> list[str]:
    """Those of some sets of open classes that have one class; all of them where none has."""
    names = list(names)
    return [name for name in names if "+" not in name] or names
