"""What is in a folder of runs: the runs, their tidy scores, the tables' rows and blocks, and what is missing.

A *row* is what a table averages over seeds: runs that agree in everything that changes the result, except the seed
(support/run_folder.py says what that is). A *block* is what one column of a table stands for: one set, scored in one
precision, by runs trained on one data set.
"""
import csv
import json
import os
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

import cli
import settings
from cli import UserError
from corruptions import CORRUPTIONS
from datasets import DATASETS, default_set
from support import run_folder

ORDER = ("baseline", "SCN", "DMUE", "RUL", "swinv2")  # of the paper's tables; other algorithms follow by name
LOSSES = {"ce": "uncalibrated", "maxent+mbls": "calibrated"}  # every algorithm gets both; other losses where run
ABLATION = ("ce", "focal", "maxent", "maxent+mbls")  # all of them once one beyond `LOSSES` was begun
DOMAINS = {"clean": "clean", "corrupted": "mean"}  # domain of a table -> `corruption` of its rows in scores.csv
KEYS = {  # of args.json: what a run is
    "script": str, "dataset": str, "loss": str, "protocol": str, "seed": int, "image_size": int, "noise": float | int}
COLUMNS = ["set", "set_version", "method", "corruption", "severity", "metric", "value"]
LATER = ["precision", "notes"]  # columns that scores of the first release do not have
SEVERITIES = range(1, 6)
CELLS = [(corruption, severity) for corruption in CORRUPTIONS for severity in SEVERITIES]
PLACES = {("clean", 0), *CELLS, *((name, 0) for name in ("mean", "pooled_by_severity", "pooled"))}  # rows of scores.csv
MEANS = ("mean", "pooled_by_severity", "pooled")  # over all cells
LARGEST = 1e6  # no score and no number of nats is larger
PRECISIONS = {"32-true": "32", "bf16-mixed": "bf16"}  # what set.json calls a precision -> what scores.csv calls it
BROKEN = (  # what reading a damaged file raises
    OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, EOFError, MemoryError,
    RecursionError, csv.Error, UserError)
NOT_SEARCHED = {run_folder.PREDICTIONS, run_folder.TRACKER, "report"}  # folders that hold no runs
# The losses that have a constant, as far as their names say: a constant that a loss does not have changes nothing.
# What multiplier MaxEnt has stands in the loss's name.
LOSS_CONSTANTS = {entry.name for entry in fields(settings.Loss)}
FOCAL = ("focal", "invfocal", "soft-avuc")
KNOWN_LOSSES = {"ce", "poly", "avuc", "cpc", "mbls", *FOCAL}


class Row(NamedTuple):
    """What one row of a table averages over seeds.

    settings: what else separates its runs from others of this algorithm, in words, such as "backbone resnet50"; empty
    where there is nothing, or where they have the recipe's values. constants: the same of the loss's own constants."""

    algorithm: str
    loss: str
    noise: float
    settings: str = ""
    constants: str = ""

    @property
    def name(self) -> str:
        """The algorithm with the settings that separate its rows."""
        return ", ".join(filter(None, (self.algorithm, self.settings)))

    @property
    def loss_name(self) -> str:
        """The loss with those of its constants that separate its rows."""
        return ", ".join(filter(None, (self.loss, self.constants)))

    @property
    def more(self) -> str:
        """Settings and constants together."""
        return ", ".join(filter(None, (self.settings, self.constants)))


class Block(NamedTuple):
    """What one column of a table stands for: only runs that agree in all of this are compared."""

    dataset: str
    protocol: str
    image_size: int
    set: str
    set_version: str
    n: int
    precision: str = "32"

    @property
    def name(self):
        return f"{self.set} {self.set_version[:8]}" + ("" if self.precision == "32" else f" in {self.precision}")

    @property
    def slug(self):
        parts = (self.dataset, self.set, self.set_version[:8], self.protocol, f"{self.image_size}px", f"n{self.n}",
                 *(() if self.precision == "32" else (self.precision,)))
        return "_".join(re.sub(r"[^A-Za-z0-9.-]+", "-", part)[:40] for part in parts)


@dataclass(frozen=True, eq=False)
class Run:
    """One training: its folder, `args.json`, `scores.csv` (None where unusable), what its evaluation lacks, and its
    row. varied: the settings that separate its row from others, as in args.json."""

    folder: Path
    args: dict
    scores: pd.DataFrame | None
    lacks: list
    row: Row | None = None
    varied: dict = field(default_factory=dict)

    @property
    def trained(self):
        """What it was trained on: the first three fields of the `Block`s that it can be in."""
        return self.args["dataset"], self.args["protocol"], self.args["image_size"]

    @property
    def seed(self):
        return self.args["seed"]

    def scoring_command(self, sets: Iterable[Path | None] = ()) -> str:
        """The command that scores this run on some built sets; None: on that which evaluate.py takes by itself."""
        dataset = self.args["dataset"]
        usual = default_set(dataset).resolve() if dataset in DATASETS else None
        others = [str(folder) for folder in dict.fromkeys(sets) if folder is not None and folder.resolve() != usual]
        more = ["--set", *others] if others else []
        return f"`{shlex.join(['python', 'evaluate.py', str(self.folder), *more])}`"


# --- reading ---


def read_args(path: Path) -> dict:
    """The settings of a run, checked for the keys that its identity rests on. Raises ValueError or OSError."""
    args = cli.read_json(path)
    for key, kind in KEYS.items():
        if not isinstance(args.get(key), kind) or isinstance(args[key], bool):
            raise ValueError(f"no usable {key!r} in it")
        if kind is str and (not args[key] or not is_text(args[key])):
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
    json.dumps(args)  # nested so deep that it cannot be written again
    return args


def is_text(text: str) -> bool:
    """Whether a string can be written as UTF-8."""
    try:
        text.encode()
        return True
    except UnicodeEncodeError:
        return False


def check_regular(path: Path) -> None:
    """Raises FileNotFoundError, or ValueError for what is no regular file: opening a FIFO would wait forever."""
    if not path.is_file():
        if path.exists():
            raise ValueError(f"{path} is no regular file")
        raise FileNotFoundError(2, "it does not exist", str(path))


def read_scores(path: Path) -> tuple[pd.DataFrame | None, list[str]]:
    """`scores.csv` with the number of images as column `n`, and what it lacks, a line each.

    What is no number, or belongs to no cell, is left out, and with it the means over all cells of that metric."""
    check_regular(path)
    text_columns = dict.fromkeys([*COLUMNS[:4], "metric", *LATER], str)
    scores = pd.read_csv(path, dtype=text_columns, keep_default_na=False, na_values={"severity": [""], "value": [""]})
    scores = scores.reindex(columns=[*COLUMNS, *LATER], fill_value="") if set(COLUMNS) <= set(scores) else scores
    scores = scores[[*COLUMNS, *LATER]].fillna({name: "" for name in LATER})
    scores = scores.astype({"severity": float, "value": float}).reset_index(drop=True)
    if scores.duplicated([*COLUMNS[:-1], "precision"]).any():
        raise ValueError("rows appear twice")
    for name in scores["set"].unique():
        if not name or Path(name).name != name:
            raise ValueError(f"{plain(name)!r} is no name of a set")
    severity = scores["severity"].fillna(0)
    places = pd.Series(list(zip(scores["corruption"], severity, strict=True)), index=scores.index, dtype=object)
    usable = places.isin(PLACES) & scores["value"].abs().le(LARGEST)
    lacks, parts = [], []
    if not usable.all():
        lacks.append(f"{(~usable).sum()} rows of its scores.csv hold no usable score and are left out")
    scores = scores[usable]
    for (name, version, _), part in scores.groupby(["set", "set_version", "precision"]):
        part, more = check_part(part, f"{name} {version[:8]}")
        lacks += more
        parts.append(part)
    return (pd.concat(parts), lacks) if parts else (None, [*lacks, "nothing in its scores.csv"])


def check_part(part: pd.DataFrame, name: str) -> tuple[pd.DataFrame, list[str]]:
    """The scores of one set with the column `n`, without means over a part of the cells; and what they lack."""
    images = part.loc[(part["metric"] == "n") & (part["corruption"] == "clean"), "value"]
    if images.empty:
        raise ValueError(f"no number of images for the clean {plain(name)}")
    n = float(images.iloc[0])
    if n < 1 or n != int(n):
        raise ValueError(f"{n:.6g} images for the clean {plain(name)}")
    cells = part[(part["method"] == "softmax") & part["corruption"].isin(CORRUPTIONS)]
    counts = cells["metric"].value_counts()
    partial = [metric for metric in part["metric"].unique() if counts.get(metric, 0) < len(CELLS)]
    lacks = []
    if counts.get("ece", 0) < len(CELLS):
        lacks.append(f"{counts.get('ece', 0)} of {len(CELLS)} corrupted cells of {plain(name)} scored")
    return part[~(part["corruption"].isin(MEANS) & part["metric"].isin(partial))].assign(n=int(n)), lacks


def recorded_precision(scores: pd.DataFrame, folder: Path) -> pd.Series:
    """The precision of every score. Scores of the first release do not hold it; their predictions' set.json does, and
    where that is gone they count as float32."""
    known = {}
    for name in scores.loc[scores["precision"] == "", "set"].unique():
        try:
            info = cli.read_json(folder / run_folder.PREDICTIONS / name / "set.json")
            known[name] = PRECISIONS.get(info.get("precision"), "32")
        except BROKEN:
            known[name] = "32"
    return scores["precision"].where(scores["precision"] != "", scores["set"].map(known))


def find_runs(folder: Path) -> tuple[list[Path], list[str]]:
    """Every args.json below a folder, sorted, and what could not be looked at, a line each. Links are not followed."""
    paths, problems = [], []

    def name_problem(error):
        problems.append(f"{error.filename} cannot be read ({error.strerror}): runs in it are left out")

    for parent, folders, files in os.walk(folder, onerror=name_problem):
        if run_folder.ARGS in files or run_folder.ARGS in folders:
            paths.append(Path(parent) / run_folder.ARGS)
        elif {run_folder.SCORES, run_folder.METRICS} & set(files):
            problems.append(f"{parent} holds a run's results but no {run_folder.ARGS}: it is left out")
        folders[:] = [name for name in folders if name not in NOT_SEARCHED]
    return sorted(paths), problems


def read_runs(folder: Path) -> tuple[list[Run], list[str]]:
    """Every run below `folder`, and what cannot be read: one damaged run never stops a report."""
    if not folder.is_dir():
        raise UserError(f"no folder {folder}; train something first, for example with `bash run.sh --demo`")
    paths, damaged = find_runs(folder)
    runs = []
    for path in paths:
        try:
            args = read_args(path)
        except BROKEN as error:
            problem = str(error) if isinstance(error, cli.DamagedFile) else f"{path} is damaged ({error})"
            damaged.append(f"{plain(problem)}: restore it, or move this folder away and train the run again")
            continue
        file, scores, lacks = path.with_name(run_folder.SCORES), None, ["not evaluated"]
        if file.exists():
            try:
                scores, lacks = read_scores(file)
                if scores is not None:
                    scores["precision"] = recorded_precision(scores, path.parent)
            except BROKEN as error:
                scores, lacks = None, [f"scores.csv is damaged ({plain(error)})"]
        runs.append(Run(path.parent, args, scores, lacks))
    if not runs:
        reason = damaged[0] if damaged else "neither it nor any folder below holds an args.json"
        raise UserError(f"no run in {folder}: {reason}. `bash run.sh --demo` makes some")
    return find_rows(runs), damaged


# --- rows ---


def find_rows(runs: list[Run]) -> list[Run]:
    """The runs with the row that each belongs to.

    Settings are compared among the runs of one algorithm, data set, protocol and image size; constants of a loss only
    among those of that loss. A setting that is as in the recipe is not spelt out where the recipe is recorded."""
    groups: dict[tuple, list[int]] = {}
    for index, run in enumerate(runs):
        groups.setdefault((run.trained, run.args["script"]), []).append(index)
    done = list(runs)
    for group in groups.values():
        some = [runs[index].args for index in group]
        names = [name for name in run_folder.varying(some) if name not in LOSS_CONSTANTS]
        settings_of = spell_settings(some, names)
        constants_of: dict[int, str] = {}
        varied = {index: {name: runs[index].args.get(name) for name in names} for index in group}
        for loss in {args["loss"] for args in some}:
            same = [index for index in group if runs[index].args["loss"] == loss]
            its_args = [runs[index].args for index in same]
            its_names = [name for name in run_folder.varying(its_args) if has_constant(loss, name)]
            constants_of |= dict(zip(same, spell_settings(its_args, its_names), strict=True))
            for index in same:
                varied[index] |= {name: runs[index].args.get(name) for name in its_names}
        for index, words in zip(group, settings_of, strict=True):
            args = runs[index].args
            row = Row(args["script"], args["loss"], float(args["noise"]), words, constants_of[index])
            done[index] = replace(runs[index], row=row, varied=varied[index])
    return done


def has_constant(loss: str, name: str) -> bool:
    """Whether a setting is a constant of this loss; of a loss that is not known here every constant may be."""
    if name not in LOSS_CONSTANTS or name == "maxent_multiplier":  # that one stands in the loss's name
        return False
    maxent, mbls = loss.startswith("maxent"), loss.endswith("mbls")
    if loss not in KNOWN_LOSSES and not maxent:
        return True
    if name == "gamma":
        return maxent or loss in FOCAL
    return mbls if name == "margin" or name.startswith("mbls") else maxent


def spell_settings(runs: list[Mapping[str, Any]], names: list[str]) -> list[str]:
    """For every run, given by its args.json, the named settings in words: different words for different settings."""
    usual, by_content = run_folder.usual_values(runs), all("contents" in args for args in runs)
    words: list[list[str]] = [[] for _ in runs]
    for name in names:
        values = [(usual | run_folder.comparable(args, by_content)).get(name) for args in runs]
        keys = [json.dumps(value, sort_keys=True) for value in values]
        texts = [spell_value(name, value, args) for value, args in zip(values, runs, strict=True)]
        if len(set(texts)) < len(set(keys)):  # as 1 and "1"
            texts = [f"{text} ({run_folder.short_hash({name: key})})" for text, key in zip(texts, keys, strict=True)]
        for own, text, value in zip(words, texts, values, strict=True):
            if name not in usual or value != usual[name]:
                own.append(f"{plain(name).replace('_', ' ')} {text}")
    return [", ".join(own) for own in words]


def spell_value(name: str, value: Any, args: Mapping[str, Any]) -> str:
    """A value of a setting as a table shows it: a file by its name and the start of its hash."""
    if name == run_folder.DATA:
        return plain(value)[:8]
    if name in args.get("contents", {}) and value == args["contents"][name]:
        return f"{plain(Path(str(args.get(name))).name)} ({plain(value)[:8]})"
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    if isinstance(value, list):
        return plain(" ".join(map(str, value)))[:60]
    return PRECISIONS.get(str(value), plain(value)[:60])


def plain(text):
    """One line of printable text, whatever is in it: it comes from files of others."""
    return "".join(c if c.isprintable() else " " for c in " ".join(str(text).split()))


def tidy(runs):
    """A row per score: the columns of scores.csv, n, and the run's identity and index. A repeated seed counts once."""
    frames = [run.scores.assign(**{key: run.args[key] for key in ("dataset", "protocol", "image_size", "seed")},
                                **run.row._asdict(), run=index)
              for index, run in enumerate(runs) if run.scores is not None]
    columns = dict.fromkeys([*COLUMNS, *LATER, *Block._fields, *Row._fields, "seed", "run"])
    scores = pd.concat(frames) if frames else pd.DataFrame(columns=list(columns))
    scores = scores[scores["method"] == "softmax"]
    first = scores.groupby([*Block._fields, *Row._fields, "seed"])["run"].transform("min")
    return scores[scores["run"] == first].reset_index(drop=True)


# --- numbers ---


def aggregate(scores, names):
    """Mean, standard deviation (n - 1) and number of seeds of the named metrics: tidy, as fractions. notes: those of
    its runs' scores, joined."""
    scores = scores[scores["metric"].isin(names) & scores["corruption"].isin(DOMAINS.values())]
    domain = scores["corruption"].map({word: domain for domain, word in DOMAINS.items()})
    groups = scores.assign(domain=domain).groupby([*Block._fields, *Row._fields, "domain", "metric"])
    return groups.agg(mean=("value", "mean"), sd=("value", "std"), seeds=("value", "count"),
                      notes=("notes", join_notes)).reset_index()


def join_notes(notes: Iterable[str]) -> str:
    """Every phrase of some notes once, in the order they come in; phrases are joined by "; "."""
    phrases = [plain(phrase) for note in notes for phrase in note.split("; ")]
    return "; ".join(dict.fromkeys(filter(None, phrases)))


def blocks_of(scores):
    keys = scores[list(Block._fields)].drop_duplicates()
    return sorted(Block(*key) for key in keys.itertuples(index=False, name=None))


def in_block(frame, block):
    return frame[(frame[list(Block._fields)] == list(block)).all(axis=1)]


def rank(row):
    """Sorts rows: the paper's algorithms first; uncalibrated, calibrated, other losses."""
    loss = list(LOSSES).index(row.loss) if row.loss in LOSSES else len(LOSSES)
    return *rank_of_name(row.algorithm), row.noise, row.settings, loss, row.loss, row.constants


def rank_of_name(name: str) -> tuple[int, str]:
    """Sorts algorithms, also by `Row.name`: the paper's order, others behind them by name."""
    algorithm = name.partition(", ")[0]
    return ORDER.index(algorithm) if algorithm in ORDER else len(ORDER), name


def variants(rows: Iterable[Row]) -> dict[Row, dict[str, Row]]:
    """What is compared loss by loss: {a row without a loss: {loss: its row}}, sorted.

    The rows of one variant agree in everything but the loss. A loss none of whose constants was varied belongs to the
    variants of every other loss's constants: there is nothing that it could have differed in."""
    rows = sorted(set(rows), key=rank)
    done: dict[Row, dict[str, Row]] = {}
    for key in dict.fromkeys(row._replace(loss="", constants="") for row in rows):
        same = [row for row in rows if row._replace(loss="", constants="") == key]
        varied = {row.loss for row in same if row.constants}  # losses of which there are several
        choices = sorted({row.constants for row in same if row.loss in varied}) or [""]
        for constants in choices:
            done[key._replace(constants=constants)] = {
                row.loss: row for row in same if row.loss not in varied or row.constants == constants}
    return done


def variant_name(variant: Row) -> str:
    """A variant in words: the algorithm and what separates it from others of that algorithm."""
    return ", ".join(filter(None, (variant.algorithm, variant.settings, variant.constants)))


def named_pairs(rows: Iterable[Row]) -> dict[tuple[str, str], Row]:
    """{(name of a variant, loss of `LOSSES`): its row} of the rows without label noise."""
    rows = [row for row in rows if row.loss in LOSSES and not row.noise]
    return {(variant_name(variant), loss): row
            for variant, members in variants(rows).items() for loss, row in members.items()}


def losses_of(runs):
    """The losses that these runs compare: both of `LOSSES`, what else was run, `ABLATION` once that was begun."""
    there = {run.row.loss for run in runs}
    begun = ABLATION if there & set(ABLATION) - LOSSES.keys() else ()
    return [*dict.fromkeys([*begun, *LOSSES, *sorted(there)])]


# --- what is missing ---


def wanted_rows(runs):
    """{(Run.trained, Row)}: what the tables compare, there or not. Runs of one protocol and image size share tables: an
    algorithm begun on one data set is wanted on all of these; label noise and further losses only where begun."""
    wanted, ways = {(run.trained, run.row) for run in runs}, {run.trained[1:] for run in runs}
    for alike in ([run for run in runs if run.trained[1:] == way] for way in ways):
        for part in ([run for run in alike if not run.row.noise], [run for run in alike if run.row.noise]):
            for trained in {run.trained for run in part}:
                rows = {run.row for run in part if run.trained == trained}
                begun = {(row.algorithm, row.noise) for row in rows}
                elsewhere = {(run.row.algorithm, run.row.noise) for run in part} - begun
                wanted |= {(trained, Row(algorithm, loss, noise)) for algorithm, noise in elsewhere for loss in LOSSES}
                wanted |= {(trained, absent) for absent in absent_losses(rows, LOSSES)}
        more = [run for run in alike if run.row.loss not in LOSSES and not run.row.noise]
        for trained in {run.trained for run in more}:
            its = [run for run in more if run.trained == trained]
            wanted |= {(trained, absent) for absent in absent_losses(
                {run.row for run in alike if run.trained == trained and not run.row.noise
                 and run.row._replace(loss="", constants="") in {
                     other.row._replace(loss="", constants="") for other in its}}, losses_of(its))}
    return wanted


def absent_losses(rows: set[Row], losses: Iterable[str]) -> set[Row]:
    """The rows that some rows lack so that each has a partner for every one of these losses."""
    there = {(row._replace(loss="", constants=""), row.loss) for row in rows}
    return {key._replace(loss=loss) for key, _ in there for loss in losses if (key, loss) not in there}


def name_missing(runs: list[Run], scores: pd.DataFrame, sets: Mapping[Block, Path | None] = {}) -> list[str]:
    """What would fill the gaps, a line each: runs to evaluate, runs left out, runs to train. sets: where the built sets
    of the blocks lie, as far as that is known."""
    lines = []
    for run in runs:
        its_sets = [folder for block, folder in sets.items() if block[:3] == run.trained]
        lines += [f"{run.folder}: {reason}: {run.scoring_command(its_sets)}" for reason in run.lacks]
    scored = {}  # (run, what it was scored on, whatever the precision)
    for block in blocks_of(scores):
        scored.setdefault(block._replace(precision=""), set()).update(in_block(scores, block)["run"])
    for block in blocks_of(scores):
        used = {(runs[i].row, runs[i].seed): runs[i] for i in set(in_block(scores, block)["run"])}
        for index, run in enumerate(runs):
            twin = used.get((run.row, run.seed))
            if run.trained != block[:3] or run.scores is None or run is twin:
                continue
            if twin:
                lines.append(f"{run.folder}: left out of {block.name}: the same settings and seed as {twin.folder}")
            elif index not in scored[block._replace(precision="")]:
                command = run.scoring_command([sets.get(block)])
                lines.append(f"{run.folder}: no scores on {block.name} with N = {block.n}: {command}")
    for trained, row in sorted(wanted_rows(runs), key=lambda one: (one[0], one[1].noise, rank(one[1]))):
        alike = [run for run in runs if run.trained == trained]
        seeds = {run.seed for run in alike if run.row.noise == row.noise} or {run.seed for run in alike}
        there = {run.seed for run in alike if run.row == row}
        lines += [f"not trained: {train_command(trained, row, seed, runs)}" for seed in sorted(seeds - there)]
    return [plain(line) for line in dict.fromkeys(lines + name_unfinished(runs))]


def name_unfinished(runs):
    """Runs whose training stopped early; what they score so far is in the tables."""
    lines = []
    for run in runs:
        path, wanted = run.folder / run_folder.METRICS, run.args.get("epochs")
        try:
            if path.exists():
                check_regular(path)
            done = len(cli.read_rows(path))
        except BROKEN as error:
            lines.append(f"{path} is damaged ({plain(error)}); the scores do not depend on it")
            continue
        if isinstance(wanted, int) and done < wanted:
            lines.append(f"{run.folder}: trained for {done} of {wanted} epochs: start it again")
    return lines


def train_command(trained: tuple, row: Row, seed: int, runs: list[Run]) -> str:
    """The command that trains a row with a seed: all its options, as runs of that row or of the nearest one have them.

    The nearest run agrees in algorithm and settings, if there is one on this data set, and else in the data set."""
    def distance(run):
        return (run.trained != trained, run.row.algorithm != row.algorithm, run.row.settings != row.settings,
                run.row.loss != row.loss, run.row.constants != row.constants, run.row.noise != row.noise)

    near = min(runs, key=distance)
    dataset, protocol, image_size = trained
    words = ["python", f"train_{row.algorithm}.py", "--dataset", dataset, "--loss", row.loss, "--seed", seed,
             "--protocol", protocol, "--image-size", image_size, *(["--noise", row.noise] if row.noise else [])]
    if (near.row.algorithm, near.row.settings) == (row.algorithm, row.settings):
        words += options_of(near, row)
    if near.trained[0] == dataset and isinstance(near.args.get("root"), str):
        words += ["--root", near.args["root"]]
    folder = near.args.get("runs")
    if isinstance(folder, str) and folder not in ("runs", str(run_folder.default_runs())):
        words += ["--runs", folder]
    return f"`{shlex.join(map(str, words))}`"


def options_of(run: Run, row: Row) -> list[str]:
    """The settings of a run that are not the recipe's, as options for a run of `row`: without constants of another
    loss, and without what the command names anyway."""
    differs = run.args.get("differs")
    chosen = {name: run.args.get(name) for name in differs} if isinstance(differs, Mapping) else run.varied
    words = []
    for name, value in sorted(chosen.items()):
        if name in LOSS_CONSTANTS and (run.row.loss != row.loss or not has_constant(row.loss, name)):
            continue
        if name in (*KEYS, run_folder.DATA, "root", "runs") or not re.fullmatch("[a-z][a-z0-9_]*", name):
            continue
        option = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            words.append(option if value else f"--no-{option[2:]}")
        elif isinstance(value, list):
            words += [word for one in value for word in (option, str(one))]
        elif isinstance(value, str | int | float):
            words += [option, PRECISIONS.get(str(value), str(value)) if name == "precision" else str(value)]
    return words
