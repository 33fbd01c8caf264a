"""Reads a folder of runs: the settings and scores of each, and what of them is damaged.

A *run* is one training: a folder with args.json (support/run_folder.py describes its layout), and scores.csv once it
was evaluated. `read_runs` finds every run below a folder, however deep, and checks what it reads, since other people
may have written it: one damaged run never stops a report. What is left out is returned as notes. The numbers go on to
scores.py, the rows to tables.py and gaps.py.
"""
import json
import os
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from corruptions import cells_of
from datasets import DATASETS, default_set
from evaluation.scores import COLUMNS, FIRST_RELEASE_COLUMNS, LATER_COLUMNS, METHOD, SUMMARIES
from evaluation.scores_file import PLACES_OF_SEQUENCES
from metrics import LARGEST_SCORE
from reporting.cells import corruptions_of_scores
from reporting.notes import READ_ERRORS, Note, check_regular, plain
from reporting.rows import Block, Row, Setup
from reporting.settings import OPTION_OF_PRECISION, assign_rows
from support import run_folder
from support.errors import DamagedFile, UserError
from support.files import read_json

KEYS = {  # entries of args.json that every run must have: {name: type}
    "script": str, "dataset": str, "loss": str, "protocol": str, "seed": int, "image_size": int, "noise": float | int}
FLIP_PROBABILITY = "flip_probability"  # metric that only the scores of sets of perturbation sequences have
# Metrics of sets of sequences whose row `mean` is no mean over perturbations, and those that a perturbation may lack.
NOT_AVERAGED = {"flip_probability_se", "distinct_predictions", "n"}
MAY_LACK_PERTURBATIONS = {"total_variation_unflipped"}
NOT_SEARCHED = {run_folder.PREDICTIONS_FOLDER, run_folder.TRACKER_FOLDER, "report"}  # folders that hold no runs


@dataclass(frozen=True, eq=False)
class Run:
    """One training, as a report knows it."""

    folder: Path
    args: dict[str, Any]
    """args.json"""
    scores: pd.DataFrame | None
    """scores.csv with the number of images in a column `n`, and whether they are of a set of perturbation sequences in
    a column `sequences`; None where there is none or none that can be used"""
    problems: list[str]
    """what is wrong with its scores; scoring the run again mends it"""
    row: Row
    varied: dict[str, Any]
    """{setting: value in args.json} of the settings that separate its row from others"""

    @property
    def setup(self) -> Setup:
        """What it was trained on."""
        return Setup(self.args["dataset"], self.args["protocol"], self.args["image_size"])

    @property
    def seed(self) -> int:
        return self.args["seed"]

    def scoring_command(self, sets: Iterable[Path | None] = ()) -> str:
        """The command that scores this run on built sets; None stands for the set that evaluate.py takes by itself."""
        dataset = self.args["dataset"]
        usual = default_set(dataset).resolve() if dataset in DATASETS else None
        words = ["python", "evaluate.py", str(self.folder)]
        others = [folder for folder in dict.fromkeys(sets) if folder is not None and folder.resolve() != usual]
        if others:
            words += ["--set", *map(str, others)]
        return shlex.join(words)

    def unusable_predictions(self, block: Block, error: Exception, built: Path | None) -> Note:
        """A note that its predictions for a block cannot be read or do not fit. built: folder of the built set, None
        where it is not known."""
        reason = f"predictions on {block.name} unusable"
        return Note(str(self.folder), reason, plain(error), self.scoring_command([built]))


# --- all runs ---


def read_runs(folder: Path, may_be_empty: bool = False) -> tuple[list[Run], list[Note]]:
    """Every run below a folder, and what could not be read. Raises UserError where there is no run, unless
    `may_be_empty`."""
    if not folder.is_dir() and may_be_empty:
        return [], []
    if not folder.is_dir():
        raise UserError(f"no folder {folder}; train something first, for example with `bash run.sh --demo`")
    paths, notes = find_runs(folder)
    settings = []  # (folder of the run, its args.json)
    for path in paths:
        try:
            settings.append((path.parent, read_args(path)))
        except READ_ERRORS as error:
            problem = str(error) if isinstance(error, DamagedFile) else f"{path} is damaged ({error})"
            advice = f"restore it, or move the folder {path.parent} away and train the run again"
            notes.append(Note("", f"{plain(problem)}: {plain(advice)}"))
    if not settings and may_be_empty:
        return [], notes
    if not settings:
        reason = str(notes[0]) if notes else "neither it nor any folder below holds an args.json"
        raise UserError(f"no run in {folder}: {reason}. `bash run.sh --demo` makes some")
    runs = []
    rows = assign_rows([args for _, args in settings])
    for (run, args), (row, varied) in zip(settings, rows, strict=True):
        scores, problems = read_scores_of_run(run)
        runs.append(Run(run, args, scores, problems, row, varied))
    return runs, notes


def find_runs(folder: Path) -> tuple[list[Path], list[Note]]:
    """Every args.json below a folder, sorted, and what could not be looked at. Links are not followed."""
    paths: list[Path] = []
    notes: list[Note] = []

    def note_error(error: OSError) -> None:
        notes.append(Note("", f"{error.filename} cannot be read ({error.strerror}): runs in it are left out"))

    for parent, folders, files in os.walk(folder, onerror=note_error):
        if run_folder.MODEL_FILE in files and Path(parent).parent.name == run_folder.MODELS_FOLDER:
            folders.clear()  # the folder of a model that is no run, which has cards
            continue
        if run_folder.ARGS_FILE in files and run_folder.is_open_set_run(Path(parent)):
            folders.clear()  # reporting/open_set.py reads it
            continue
        if run_folder.ARGS_FILE in files or run_folder.ARGS_FILE in folders:
            paths.append(Path(parent) / run_folder.ARGS_FILE)
        elif run_folder.SCORES_FILE in files or run_folder.METRICS_FILE in files:
            notes.append(Note("", f"{parent} holds a run's results but no {run_folder.ARGS_FILE}: it is left out"))
        folders[:] = [name for name in folders if name not in NOT_SEARCHED]  # os.walk goes into what is left
    return sorted(paths), notes


# --- args.json ---


def read_args(path: Path) -> dict[str, Any]:
    """The settings of a run. Raises ValueError or OSError where the file is damaged or lacks what identifies a run."""
    args = read_json(path)
    for key, kind in KEYS.items():
        value = args.get(key)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ValueError(f"no usable {key!r} in it")
        if isinstance(value, str) and not (value and is_text(value)):
            raise ValueError(f"no usable {key!r} in it")
    if not 0 <= args["noise"] <= 1:
        raise ValueError(f"noise {args['noise']:.6g} in it")
    if not 0 <= args["seed"] < 2**63 or not 1 <= args["image_size"] < 2**16:
        raise ValueError("no usable 'seed' or 'image_size' in it")
    for key in ("recipe", "contents", "differs"):
        if key in args and not isinstance(args[key], dict):
            raise ValueError(f"no usable {key!r} in it")
    if not all(isinstance(value, str) for value in args.get("contents", {}).values()):
        raise ValueError("no usable 'contents' in it")
    json.dumps(args)  # raises RecursionError where it is nested too deep to be compared
    return args


def is_text(text: str) -> bool:
    """Whether a string can be written as UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


# --- scores.csv ---


def read_scores_of_run(folder: Path) -> tuple[pd.DataFrame | None, list[str]]:
    """The scores of a run as `read_scores` returns them, with the precision of each; (None, reasons) where there are
    none that can be used."""
    file = folder / run_folder.SCORES_FILE
    if not file.exists():
        return None, ["not evaluated"]
    try:
        scores, problems = read_scores(file)
        if scores is not None:
            scores["precision"] = recorded_precision(scores, folder)
    except READ_ERRORS as error:
        return None, [f"scores.csv is damaged ({plain(error)})"]
    return scores, problems


def read_scores(path: Path) -> tuple[pd.DataFrame | None, list[str]]:
    """`scores.csv` with the columns `n`, the number of images, and `sequences`, whether the set is one of perturbation
    sequences (None where no score is left), and what is wrong with it.

    Rows without a number, or of an unknown corruption or severity, are left out, and with them the means over all cells
    of the same metric. Raises an error of `READ_ERRORS` where the file is damaged."""
    scores = read_score_table(path)
    parts, problems_of_sets, unusable = [], [], 0
    for (name, version, _), part in scores.groupby(["set", "set_version", "precision"]):
        is_of_sequences = bool((part["metric"] == FLIP_PROBABILITY).any())
        usable = has_known_place(part, is_of_sequences) & part["value"].abs().le(LARGEST_SCORE)
        if is_of_sequences:
            usable &= part["value"].ge(0)
        unusable += int((~usable).sum())
        if usable.any():
            part, problems = check_scores_of_set(part[usable], f"{name} {version[:8]}", is_of_sequences)
            problems_of_sets += problems
            parts.append(part)
    problems = [f"{unusable} rows of its scores.csv hold no usable score and are left out"] if unusable else []
    problems += problems_of_sets
    if not parts:
        return None, [*problems, "no usable score in its scores.csv"]
    return pd.concat(parts), problems


def read_score_table(path: Path) -> pd.DataFrame:
    """The columns of scores.csv as text, severity and value as float64 (NaN where empty). Raises ValueError where
    columns are missing, a score is there twice, or a set has no proper name."""
    check_regular(path)
    text_columns = dict.fromkeys([*FIRST_RELEASE_COLUMNS[:4], "metric", *LATER_COLUMNS], str)
    scores = pd.read_csv(path, dtype=text_columns, keep_default_na=False, na_values={"severity": [""], "value": [""]})
    columns = list(COLUMNS)
    if set(FIRST_RELEASE_COLUMNS) <= set(scores):
        scores = scores.reindex(columns=columns, fill_value="")
    scores = scores[columns].fillna(dict.fromkeys(LATER_COLUMNS, ""))
    scores = scores.astype({"severity": float, "value": float}).reset_index(drop=True)
    if scores.duplicated([*FIRST_RELEASE_COLUMNS[:-1], "precision"]).any():
        raise ValueError("rows appear twice")
    for name in scores["set"].unique():
        if not name or Path(name).name != name:
            raise ValueError(f"{plain(name)!r} is no name of a set")
    return scores


def has_known_place(part: pd.DataFrame, is_of_sequences: bool) -> np.ndarray:
    """Whether each row of scores.csv, all of one set, is of the clean images, a cell or perturbation, or a summary over
    these: bool (rows,)."""
    known = set(places_of(corruptions_of_scores(part)))
    if is_of_sequences:
        known = {(name, 0) for name, _ in PLACES_OF_SEQUENCES}
    places = zip(part["corruption"], part["severity"].fillna(0), strict=True)
    return np.array([place in known for place in places], dtype=bool)


def places_of(corruptions: Iterable[str]) -> list[tuple[str, int]]:
    """(corruption, severity) of the rows that scores.csv can have of a set with these corruptions, in its order: of the
    clean images, of the cells, and of the summaries over these. A severity that is empty in the file is 0 here."""
    return [("clean", 0), *cells_of(tuple(corruptions)), *((name, 0) for name in SUMMARIES)]


def check_scores_of_set(part: pd.DataFrame, name: str, is_of_sequences: bool) -> tuple[pd.DataFrame, list[str]]:
    """The scores of one set with the columns `n` and `sequences`, and what they lack. The mean over all cells of a
    metric that lacks a cell is left out. name: of the set, for messages. Raises ValueError where the number of images
    is missing."""
    images = part.loc[(part["metric"] == "n") & (part["corruption"] == "clean"), "value"]
    if images.empty:
        raise ValueError(f"the clean images of {plain(name)} have no row `n`, the number of images")
    n = float(images.iloc[0])
    if n < 1 or n != int(n):
        raise ValueError(f"the row `n` of the clean images of {plain(name)} says {n:.6g} images")
    part = part.assign(n=int(n), sequences=is_of_sequences)
    if is_of_sequences:
        return check_scores_of_sequences(part, plain(name))
    corruptions = corruptions_of_scores(part)
    all_cells = len(cells_of(corruptions))
    cells = part[(part["method"] == METHOD) & part["corruption"].isin(corruptions)]
    cells_of_metric = cells["metric"].value_counts()
    incomplete = [metric for metric in part["metric"].unique() if cells_of_metric.get(metric, 0) < all_cells]
    problems = []
    scored = cells_of_metric.get("ece", 0)
    if scored < all_cells:
        problems.append(f"{scored} of {all_cells} corrupted cells of {plain(name)} scored")
    mean_of_a_part = part["corruption"].isin(SUMMARIES) & part["metric"].isin(incomplete)
    return part[~mean_of_a_part], problems


def check_scores_of_sequences(part: pd.DataFrame, name: str) -> tuple[pd.DataFrame, list[str]]:
    """The scores of a set of sequences, and what they lack. Left out are means that are not over all perturbations of
    the set. name: of the set, for messages."""
    perturbations = [place for place in part["corruption"].unique() if place not in ("clean", *SUMMARIES)]
    metrics_by_problem: dict[str, list[str]] = {}
    lost = set()
    for (method, metric), scores in part.groupby(["method", "metric"], sort=False):
        values = scores.set_index("corruption")["value"]
        problem = problem_of_mean(metric, values, perturbations)
        if problem:
            metrics_by_problem.setdefault(problem, []).append(metric)
            lost.add((method, metric))
    keys = pd.Series(list(zip(part["method"], part["metric"], strict=True)), index=part.index)
    is_lost_mean = part["corruption"].isin(SUMMARIES) & keys.isin(lost)
    problems = [f"{name} {problem}: {', '.join(map(plain, dict.fromkeys(metrics)))}"
                for problem, metrics in metrics_by_problem.items()]
    return part[~is_lost_mean], problems


def problem_of_mean(metric: str, values: pd.Series, perturbations: list[str]) -> str:
    """Why a metric of a set of sequences has no usable mean over the perturbations, in words; empty where it has one,
    or is none of which there is a mean.

    values: of one method, by the place of their rows. perturbations: that the set has. Where a perturbation has lost
    all of its rows, the mean shows it: it is not that of the perturbations that are left."""
    if metric in NOT_AVERAGED or not set(values.index) - {"clean"}:
        return ""
    known = [place for place in perturbations if place in values.index]
    if len(known) < len(perturbations) and metric not in MAY_LACK_PERTURBATIONS:
        return "lacks scores of single perturbations"
    if "mean" not in values.index:
        return "lacks means"
    is_their_mean = np.isclose(values["mean"], values[known].mean(), rtol=1e-6, atol=1e-9)
    return "" if is_their_mean else "has means of other perturbations than are there"


def recorded_precision(scores: pd.DataFrame, folder: Path) -> pd.Series:
    """The precision of every score. Scores of the first release of this project do not hold it; the set.json of their
    predictions does, and where that is gone they count as float32."""
    if (scores["precision"] != "").all():
        return scores["precision"]
    precision_of_set = {}
    for name in scores.loc[scores["precision"] == "", "set"].unique():
        try:
            info = read_json(folder / run_folder.PREDICTIONS_FOLDER / name / "set.json")
            precision_of_set[name] = OPTION_OF_PRECISION.get(info["precision"], "32")
        except READ_ERRORS:
            precision_of_set[name] = "32"
    return scores["precision"].where(scores["precision"] != "", scores["set"].map(precision_of_set))
