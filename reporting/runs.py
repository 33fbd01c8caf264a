"""What is in a folder of runs: the runs, their tidy scores, the tables' rows and blocks, and what is missing."""
import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

import cli
import settings
from cli import UserError
from corruptions import CORRUPTIONS

ORDER = ("baseline", "SCN", "DMUE", "RUL", "swinv2")  # of the paper's tables; other algorithms follow by name
LOSSES = {"ce": "uncalibrated", "maxent+mbls": "calibrated"}  # every algorithm gets both; other losses where run
ABLATION = ("ce", "focal", "maxent", "maxent+mbls")  # all of them once one beyond `LOSSES` was begun
DOMAINS = {"clean": "clean", "corrupted": "mean"}  # domain of a table -> `corruption` of its rows in scores.csv
KEYS = {  # of args.json: what a run is
    "script": str, "dataset": str, "loss": str, "protocol": str, "seed": int, "image_size": int, "noise": float | int}
COLUMNS = ["set", "set_version", "method", "corruption", "severity", "metric", "value"]
SEVERITIES = range(1, 6)
CELLS = [(corruption, severity) for corruption in CORRUPTIONS for severity in SEVERITIES]
BROKEN = (OSError, ValueError, KeyError, TypeError, IndexError, EOFError)  # what reading a damaged file raises


class Row(NamedTuple):
    """What one row of a table averages over seeds."""

    algorithm: str
    loss: str
    noise: float


class Block(NamedTuple):
    """What one table stands for: only runs that agree in all of this are compared."""

    dataset: str
    protocol: str
    image_size: int
    set: str
    set_version: str
    n: int

    @property
    def name(self):
        return f"{self.set} {self.set_version[:8]}"

    @property
    def slug(self):
        parts = (self.dataset, self.set, self.set_version[:8], self.protocol, f"{self.image_size}px", f"n{self.n}")
        return "_".join(re.sub(r"[^A-Za-z0-9.-]+", "-", part)[:40] for part in parts)


@dataclass(frozen=True, eq=False)
class Run:
    """One training: its folder, `args.json`, `scores.csv` (None where unusable) and what its evaluation lacks."""

    folder: Path
    args: dict
    scores: pd.DataFrame | None
    lacks: list

    @property
    def trained(self):
        """What it was trained on: the first three fields of the `Block`s that it can be in."""
        return self.args["dataset"], self.args["protocol"], self.args["image_size"]

    @property
    def row(self):
        return Row(self.args["script"], self.args["loss"], float(self.args["noise"]))

    @property
    def seed(self):
        return self.args["seed"]

    @property
    def again(self):
        return f"`{shlex.join(['python', 'evaluate.py', str(self.folder)])}`"


# --- reading ---


def read_json(path):
    value = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(value, dict):
        raise ValueError("it holds no JSON object")
    return value


def read_args(path):
    """The settings of a run, checked for the keys that its identity rests on."""
    args = read_json(path)
    for key, kind in KEYS.items():
        if not isinstance(args.get(key), kind) or isinstance(args[key], bool):
            raise ValueError(f"no usable {key!r} in it")
    if not 0 <= args["noise"] <= 1:
        raise ValueError(f"noise {args['noise']} in it")
    return args


def read_scores(path):
    """`scores.csv` with the number of images as column `n`, and what it lacks; a mean over a part is left out."""
    scores = pd.read_csv(path, dtype=dict.fromkeys(COLUMNS[:4], str), keep_default_na=False, na_values=[""])
    scores = scores[COLUMNS].astype({"severity": float, "value": float})
    if scores.duplicated(COLUMNS[:-1]).any():
        raise ValueError("rows appear twice")
    lacks, parts = [], []
    for (name, version), part in scores[np.isfinite(scores["value"])].groupby(["set", "set_version"]):
        images = part.loc[(part["metric"] == "n") & (part["corruption"] == "clean"), "value"]
        if images.empty:
            raise ValueError(f"no number of images for the clean {name}")
        scored = part[(part["metric"] == "ece") & (part["method"] == "softmax")]
        scored = len(set(scored[["corruption", "severity"]].itertuples(index=False, name=None)) & set(CELLS))
        if scored < len(CELLS):
            lacks.append(f"{scored} of {len(CELLS)} corrupted cells of {name} {version[:8]} scored")
            part = part[part["corruption"] != "mean"]
        parts.append(part.assign(n=int(images.iloc[0])))
    return (pd.concat(parts), lacks) if parts else (None, ["nothing in its scores.csv"])


def read_runs(folder):
    """Every run below `folder`, and what cannot be read: one damaged run never stops a report."""
    if not folder.is_dir():
        raise UserError(f"no folder {folder}; train something first, for example with `bash run.sh --demo`")
    runs, damaged = [], []
    for path in sorted(folder.rglob("args.json")):
        try:
            args = read_args(path)
        except BROKEN as error:
            damaged.append(f"{path} is damaged ({plain(error)}): train this run again, or delete its folder")
            continue
        file, scores, lacks = path.with_name("scores.csv"), None, ["not evaluated"]
        if file.exists():
            try:
                scores, lacks = read_scores(file)
            except BROKEN as error:
                lacks = [f"scores.csv is damaged ({plain(error)})"]
        runs.append(Run(path.parent, args, scores, lacks))
    if not runs:
        found = damaged[0] if damaged else "neither it nor any folder below holds an args.json"
        raise UserError(f"no run in {folder}: {found}. `bash run.sh --demo` makes some")
    return runs, damaged


def plain(text):
    """One line of printable text, whatever is in it: it comes from files of others."""
    return "".join(c if c.isprintable() else " " for c in " ".join(str(text).split()))


def tidy(runs):
    """A row per score: the columns of scores.csv, n, and the run's identity and index. A repeated seed counts once."""
    frames = [run.scores.assign(**{key: run.args[key] for key in KEYS}, run=index)
              for index, run in enumerate(runs) if run.scores is not None]
    scores = pd.concat(frames) if frames else pd.DataFrame(columns=[*COLUMNS, "n", *KEYS, "run"])
    scores = scores[scores["method"] == "softmax"].rename(columns={"script": "algorithm"})
    first = scores.groupby([*Block._fields, *Row._fields, "seed"])["run"].transform("min")
    return scores[scores["run"] == first].reset_index(drop=True)


# --- numbers ---


def aggregate(scores, names):
    """Mean, standard deviation (n - 1) and number of seeds of the named metrics: tidy, as fractions."""
    scores = scores[scores["metric"].isin(names) & scores["corruption"].isin(DOMAINS.values())]
    domain = scores["corruption"].map({word: domain for domain, word in DOMAINS.items()})
    values = scores.assign(domain=domain).groupby([*Block._fields, *Row._fields, "domain", "metric"])["value"]
    return values.agg(mean="mean", sd="std", seeds="count").reset_index()


def blocks_of(scores):
    keys = scores[list(Block._fields)].drop_duplicates()
    return sorted(Block(*key) for key in keys.itertuples(index=False, name=None))


def in_block(frame, block):
    return frame[(frame[list(Block._fields)] == list(block)).all(axis=1)]


def rank(row):
    """Sorts rows: the paper's algorithms first; uncalibrated, calibrated, other losses."""
    algorithm = ORDER.index(row.algorithm) if row.algorithm in ORDER else len(ORDER)
    loss = list(LOSSES).index(row.loss) if row.loss in LOSSES else len(LOSSES)
    return algorithm, row.algorithm, row.noise, loss, row.loss


def losses_of(runs):
    """The losses that these runs compare: both of `LOSSES`, what else was run, `ABLATION` once that was begun."""
    there = {run.row.loss for run in runs}
    begun = ABLATION if there & set(ABLATION) - LOSSES.keys() else ()
    return [*dict.fromkeys([*begun, *LOSSES, *sorted(there)])]


def wanted_rows(runs):
    """{(Run.trained, Row)}: what the tables compare, there or not. Runs of one protocol and image size share tables: an
    algorithm begun on one data set is wanted on all of these; label noise and further losses only where begun."""
    wanted, ways = {(run.trained, run.row) for run in runs}, {run.trained[1:] for run in runs}
    for alike in ([run for run in runs if run.trained[1:] == way] for way in ways):
        for part in ([run for run in alike if not run.row.noise], [run for run in alike if run.row.noise]):
            wanted |= {(trained, run.row._replace(loss=loss)) for trained in {run.trained for run in part}
                       for run in part for loss in LOSSES}
        more = [run for run in alike if run.row.loss not in LOSSES and not run.row.noise]
        wanted |= {(run.trained, run.row._replace(loss=loss)) for run in more
                   for loss in losses_of([other for other in more if other.trained == run.trained])}
    return wanted


def name_missing(runs, scores):
    """What would fill the gaps, a line each: runs to evaluate, runs left out, runs to train."""
    lines = [f"{run.folder}: {what}: {run.again}" for run in runs for what in run.lacks]
    for block in blocks_of(scores):
        used = {(runs[i].row, runs[i].seed): runs[i] for i in set(in_block(scores, block)["run"])}
        for run in runs:
            twin = used.get((run.row, run.seed))
            if run.trained != block[:3] or run.scores is None or run is twin:
                continue
            if twin:
                lines.append(f"{run.folder}: left out of {block.name}: the same settings and seed as {twin.folder}")
            else:
                lines.append(f"{run.folder}: no scores on {block.name} with N = {block.n}: {run.again}")
    for trained, row in sorted(wanted_rows(runs), key=lambda one: (one[0], one[1].noise, rank(one[1]))):
        alike = [run for run in runs if run.trained == trained]
        seeds = {run.seed for run in alike if run.row.noise == row.noise} or {run.seed for run in alike}
        there = {run.seed for run in alike if run.row == row}
        folder = alike[0].args.get("runs", "runs")
        lines += [f"not trained: {train_command(trained, row, seed, folder)}" for seed in sorted(seeds - there)]
    return [plain(line) for line in lines + name_unfinished(runs) + name_unlike(runs)]


def name_unfinished(runs):
    """Runs whose training stopped early; what they score so far is in the tables."""
    lines = []
    for run in runs:
        wanted, done = run.args.get("epochs", 0), len(cli.read_rows(run.folder / "metrics.csv"))
        if done < wanted:
            lines.append(f"{run.folder}: trained for {done} of {wanted} epochs: start it again")
    return lines


def name_unlike(runs):
    """Runs that are averaged although they were trained with different settings, such as epochs."""
    first, lines = {}, []
    for run in runs:
        one = first.setdefault((run.trained, run.row), run)
        unlike = settings.differences(one.args | {"seed": 0}, run.args | {"seed": 0})
        if unlike:
            lines.append(f"other settings than {one.folder}, though one row: {run.folder} ({unlike})")
    return lines


def train_command(trained, row, seed, folder):
    dataset, protocol, image_size = trained
    words = ["python", f"train_{row.algorithm}.py", "--dataset", dataset, "--loss", row.loss, "--seed", seed,
             "--protocol", protocol, "--image-size", image_size, *(["--noise", row.noise] if row.noise else []),
             *(["--runs", folder] if folder != "runs" else [])]
    return f"`{shlex.join(map(str, words))}`"
