"""The tables of open-set runs as grids (reporting/tables.py): by open class, under corruption, and differences.

A line of a table is a set of open classes: the mean over its seeds, and below it each seed. The line `MEAN` is the mean
over the lines with one open class, and is printed where there are several. The published numbers of Zhang et al. (AAAI
2024) are in published_open_set.csv.
"""
import csv
from collections.abc import Iterable, Mapping, Sequence
from math import nan
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

import open_set
from corruptions import CORRUPTIONS
from datasets.open_classes import PAPER
from reporting.notes import Note, plain
from reporting.open_set_bootstrap import LEVEL, Difference
from reporting.open_set_runs import ScoredRun, Setup, by_setup, one_class_lines, scores_of
from reporting.rows import COMPARED_LOSSES
from reporting.tables import Entry, Grid, GridLine, Section
from support import run_folder
from training.open_set.files import DETECTORS, TRAINED, TRANSDUCTIVE
from training.open_set.scores import ALL, CLEAN, MEAN as OVER_CELLS, OPEN_GROUPS
from training.options import LossOptions, effects

NAME = "open_set"
ACCURACY = "accuracy"  # the column of the closed model's accuracy
PUBLISHED = Path(__file__).with_name("published_open_set.csv")
LABELS = {TRAINED: "trained", "maximum_softmax": "max softmax", "maximum_logit": "max logit", "energy": "energy",
          "entropy": "entropy", "mahalanobis": "Mahalanobis", "nearest_neighbours": "k-NN"}
SOURCES = dict.fromkeys(LABELS, "logits") | {TRAINED: "detector", "mahalanobis": "features",
                                             "nearest_neighbours": "features"}  # what a detector is computed from
PUBLISHED_METHODS = {TRAINED: "Ours", "maximum_logit": "Baseline"}  # detector -> its name in the published table
METRICS = {metric.name: metric for metric in open_set.METRICS}
SHOWN = ("auroc", "fpr95", "fpr95_ood_metrics", "aupr_closed", "aupr_open", "oscr")  # of the group all
IN_TERMINAL = ("auroc", "fpr95", "oscr")  # of these; the files hold all
OF_GROUPS = SHOWN[:1]  # of the other groups of images
POSITIVE = {"aupr_closed": "closed", "aupr_open": "open"}  # metric -> the class whose recall is meant
MEAN = "mean of one-class runs"
MOST_NAMED = 8  # lines whose numbers of images a caption lists
PERCENT = f"{100 * open_set.TPR:g} %"
NOTE_ON_PUBLISHED = """Published: Zhang et al., AAAI 2024, on the pool paper, transductive. These numbers could not be
validated: the released code assigns the pseudo labels of open training images to the wrong images (docs/openset.md).
They are no target."""


class Grids(NamedTuple):
    """The tables of a section."""

    all: list[Grid]
    terminal: list[Grid]
    """those that are also printed in a terminal"""
    notes: list[Note]


def arrange(runs: Sequence[ScoredRun], differences: Sequence[Difference]) -> Grids:
    """All grids of open-set runs, setup by setup; at the end what calibrated training changes."""
    grids = Grids([], [], [])
    for setup, lines in by_setup(runs).items():
        scores = scores_of(run for of_line in lines.values() for run in of_line)
        add_class_grids(grids, setup, scores[scores["set"] == ""])
        add_difference_grids(grids, setup, [value for value in differences if value.setup == setup])
        corrupted = scores[scores["set"] != ""]
        versions = corrupted.groupby("set")["set_version"].nunique()
        for (set_name, version), rows in corrupted.groupby(["set", "set_version"], sort=False):
            name = plain(set_name) if versions[set_name] == 1 else f"{plain(set_name)} {plain(version)[:8]}"
            add(grids, corruption_grids(setup, name, rows))
    add_calibration_grids(grids, runs)
    return grids


def add(grids: Grids, more: Iterable[Grid], in_terminal: bool = True) -> None:
    """Add grids. in_terminal: whether they are also printed there."""
    more = list(more)
    grids.all.extend(more)
    if in_terminal:
        grids.terminal.extend(more)


# ---- by open class

def add_class_grids(grids: Grids, setup: Setup, clean: pd.DataFrame) -> None:
    """One grid for each pool, way of scoring, group of images and metric. clean: the scores without a built set, as
    `scores_of` gives them."""
    published = read_published()
    for (pool, scoring, group), rows in clean.groupby(["pool", "scoring", "group"], sort=False):
        for name in SHOWN if group == ALL else OF_GROUPS:
            is_comparable = (pool, scoring, group) == (PAPER, TRANSDUCTIVE, ALL)
            values = published.get((setup.dataset, name), {}) if is_comparable else {}
            grid = class_grid(setup, f"pool {pool}, {scoring}, {images_of(group)}", rows, METRICS[name], values)
            add(grids, [grid], group == ALL and name in IN_TERMINAL)


def images_of(group: str) -> str:
    """A group of images in a title. The groups of open images are compared with the closed ones."""
    return f"against {group} images" if group in OPEN_GROUPS else f"images: {group}"


def table_of(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The values of a metric: lines (open_classes, seed), a column for each detector, and the closed accuracy. rows: of
    one pool, way of scoring and group."""
    values = rows[rows["metric"] == metric].pivot_table(index=["open_classes", "seed"], columns="detector",
                                                        values="value", sort=False)
    accuracy = rows[(rows["metric"] == "closed_accuracy") & (rows["detector"] == TRAINED)]
    column = accuracy.set_index(["open_classes", "seed"])["value"].rename(ACCURACY)
    return values.reindex(columns=list(DETECTORS)).join(column)


def class_grid(setup: Setup, where: str, rows: pd.DataFrame, metric: open_set.Metric,
               published: Mapping[tuple[str, str], float]) -> Grid:
    """One metric: a line for each set of open classes, with every seed below it, and the mean of the one-class lines.
    where: the pool, the way of scoring and the group. published: {(open class, method): value}."""
    values = table_of(rows, metric.name)
    better = "higher" if metric.higher_is_better else "lower"
    captions = [f"{metric.label}, {better} is better; {setup.title}; {where}. {images_text(rows, metric.name)}"]
    captions += sorted({plain(note) for note in rows["notes"] if note})
    if published:
        captions.append(" ".join(NOTE_ON_PUBLISHED.split()))
    return Grid(NAME, f"Open-set: {metric.label}, {where}", [*columns_of(DETECTORS), ("closed", "accuracy")],
                [Section("open class", lines_of(values, metric, published))], [], captions, {},
                published_is_unsure=True)


def lines_of(values: pd.DataFrame, metric: open_set.Metric,
             published: Mapping[tuple[str, str], float]) -> list[GridLine]:
    """The lines of `class_grid`. values: as `table_of` gives them."""
    lines = []
    means = values.groupby("open_classes", sort=False).mean()
    counts = values.groupby("open_classes", sort=False).size()
    most = int(counts.max())  # seeds of a full line; lines with fewer are marked
    for open_classes, mean in means.iterrows():
        spread = values.loc[open_classes].std(ddof=1)
        seeds = int(counts[open_classes])
        printed = {name: published.get((str(open_classes), method), nan) for name, method in PUBLISHED_METHODS.items()}
        lines.append(GridLine(str(open_classes), entries_of(mean, spread, seeds, metric, printed)))
        if seeds > 1:
            for seed, row in values.loc[open_classes].iterrows():
                # It counts as a full line, so that it is not marked.
                lines.append(GridLine(f"  seed {seed}", entries_of(row, None, most, None, {})))
    single = means.loc[[name for name in means.index if "+" not in str(name)]]
    if len(single) > 1:
        printed = {name: mean_published(published, [str(name) for name in single.index], method)
                   for name, method in PUBLISHED_METHODS.items()}
        lines.append(GridLine(MEAN, entries_of(single.mean(), None, most, metric, printed)))
    return lines


def images_text(rows: pd.DataFrame, metric: str) -> str:
    """A sentence with the numbers of closed and open images of every line, and, for AUPR, what a score without
    information gives. rows: of one pool, way of scoring and group."""
    trained = rows[rows["detector"] == TRAINED]
    values = trained.pivot_table(index="open_classes", columns="metric", values="value", sort=False)
    chance = values["prevalence_open"] if POSITIVE.get(metric) == "open" else 1 - values["prevalence_open"]
    texts = {}
    for name, row in values.iterrows():
        texts[name] = f"{row['n_closed']:,.0f} closed and {row['n_open']:,.0f} open images"
        if metric in POSITIVE:
            texts[name] += f" (prevalence of {POSITIVE[metric]} ones {100 * chance[name]:.1f} %)"
    end = ", which a score without information reaches" if metric in POSITIVE else ""
    if len(set(texts.values())) == 1:
        return f"{next(iter(texts.values()))}{end}."
    if len(texts) <= MOST_NAMED:
        return f"{'; '.join(f'{name}: {text}' for name, text in texts.items())}{end}."
    spans = [f"{values[name].min():,.0f} to {values[name].max():,.0f}" for name in ("n_closed", "n_open")]
    text = f"{spans[0]} closed and {spans[1]} open images"
    if metric in POSITIVE:
        text += f" (prevalence of {POSITIVE[metric]} ones {100 * chance.min():.1f} to {100 * chance.max():.1f} %)"
    return f"{text}{end}; of each line: {NAME}.csv."


def columns_of(detectors: Iterable[str]) -> list[tuple[str, ...]]:
    """The headings of the columns of detectors: what each is computed from, and its name."""
    return [(SOURCES[name], LABELS[name]) for name in detectors]


def entries_of(values: pd.Series, spread: pd.Series | None, seeds: int, metric: open_set.Metric | None,
               published: Mapping[str, float]) -> list[Entry]:
    """The entries of a line, in percent. The best detector is marked where a metric is given. published: {detector:
    value}."""
    best = nan
    if metric is not None:
        of_detectors = values[list(DETECTORS)]
        best = of_detectors.max() if metric.higher_is_better else of_detectors.min()
    entries = []
    for name, value in values.items():
        sd = nan if spread is None or seeds < 2 else 100 * float(spread[name])
        is_best = name in DETECTORS and value == best
        entries.append(Entry(100 * float(value), sd, seeds, best=is_best,
                             published=100 * published.get(str(name), nan)))
    return entries


def mean_published(published: Mapping[tuple[str, str], float], open_classes: Sequence[str], method: str) -> float:
    """The mean of the published values of these open classes; NaN unless there is one for each."""
    return float(np.mean([published.get((name, method), nan) for name in open_classes]))


def read_published() -> dict[tuple[str, str], dict[tuple[str, str], float]]:
    """{(data set, metric): {(open class, method): value, a fraction}}"""
    values: dict[tuple[str, str], dict[tuple[str, str], float]] = {}
    with PUBLISHED.open(newline="", encoding="utf-8") as file:
        for line in csv.DictReader(file):
            of_metric = values.setdefault((line["dataset"], line["metric"]), {})
            of_metric[line["open"], line["method"]] = float(line["value"])
    return values


# ---- corrupted images

def corruption_grids(setup: Setup, set_name: str, rows: pd.DataFrame) -> list[Grid]:
    """AUROC of every detector by corruption, and what the thresholds of clean validation images accept. Means over
    severities, then over seeds, then over the one-class lines, so that every open class counts the same. rows: of one
    version of a built set."""
    lines_with_one_class = one_class_lines(dict.fromkeys(rows["open_classes"]))
    rows = rows[rows["open_classes"].isin(lines_with_one_class)]
    runs = len(rows[["open_classes", "seed"]].drop_duplicates())
    known = (CLEAN, *CORRUPTIONS, OVER_CELLS)
    present = set(rows["corruption"])
    names = [name for name in known if name in present] + sorted(present - {*known})
    grids = []
    for metric in ("auroc", "closed_accepted", "open_accepted"):
        label = METRICS[metric].label
        of_seeds = rows[rows["metric"] == metric].groupby(["corruption", "detector", "open_classes", "seed"])
        of_lines = of_seeds["value"].mean().groupby(["corruption", "detector", "open_classes"]).mean()
        values = of_lines.groupby(["corruption", "detector"]).mean().unstack()
        lines = [GridLine(plain(name), [Entry(100 * float(values.loc[name].get(detector, nan)), seeds=1)
                                        for detector in DETECTORS]) for name in names]
        captions = [f"{label}, {setup.title}; {set_name}, inductive; mean over severities, seeds and open classes "
                    f"({', '.join(lines_with_one_class)}; runs: {runs}). {images_text(rows, metric)}"]
        if metric != "auroc":
            captions.append(f"Each detector's threshold accepts {PERCENT} of the clean closed validation images.")
        grids.append(Grid(NAME, f"Open-set under corruption: {label}, {set_name}", columns_of(DETECTORS),
                          [Section("corruption", lines)], [], captions, {}))
    return grids


# ---- the trained detector minus baselines

def add_difference_grids(grids: Grids, setup: Setup, differences: Sequence[Difference]) -> None:
    """One grid for each pool, way of scoring and group of images. differences: of this setup."""
    for key in dict.fromkeys((value.pool, value.scoring, value.group) for value in differences):
        chosen = [value for value in differences if (value.pool, value.scoring, value.group) == key]
        add(grids, [difference_grid(setup, *key, chosen)], key[2] == ALL)


def difference_grid(setup: Setup, pool: str, scoring: str, group: str, differences: Sequence[Difference]) -> Grid:
    """AUROC of the trained detector minus that of each baseline, a line for each set of open classes."""
    lines = []
    for open_classes in dict.fromkeys(value.open_classes for value in differences):
        entries = []
        for value in (value for value in differences if value.open_classes == open_classes):
            interval = None if np.isnan(value.low) else (100 * value.low, 100 * value.high)
            is_sure = interval is not None and (interval[0] > 0 or interval[1] < 0)
            entries.append(Entry(100 * value.value, seeds=value.seeds, best=is_sure, interval=interval, signed=True))
        lines.append(GridLine(open_classes, entries))
    where = f"pool {pool}, {scoring}" + ("" if group == ALL else f", {images_of(group)}")
    captions = [f"AUROC of the trained detector minus that of each baseline, {setup.title}; {where}.",
                f"In brackets a {LEVEL} % interval: a paired bootstrap over images, stratified by closed and open, "
                "given the trained detector. It does not cover another training. Marked: 0 is outside."]
    return Grid(NAME, f"Open-set: trained detector against baselines, {where}", columns_of(DETECTORS[1:]),
                [Section("open class", lines)], [], captions, {})


# ---- calibrated minus uncalibrated training

def add_calibration_grids(grids: Grids, runs: Sequence[ScoredRun]) -> None:
    """What calibrated training of the closed model changes: a grid for each two setups that differ in the loss alone,
    from the runs with the same open classes and seed."""
    plain_loss, calibrated_loss = COMPARED_LOSSES
    setups = by_setup(runs)
    for setup, lines in setups.items():
        other = setups.get(setup._replace(loss=calibrated_loss))
        if setup.loss != plain_loss or other is None:
            continue
        pairs = paired_runs(lines, other)
        if not pairs:
            continue
        varying = varying_between(pairs)
        if varying:
            grids.notes.append(Note(f"{setup.title} and loss {calibrated_loss}", "not compared",
                                    f"they differ in {plain(', '.join(varying))}"))
            continue
        add(grids, [calibration_grid(setup, calibrated_loss, pairs)])


def paired_runs(lines: Mapping[str, Sequence[ScoredRun]],
                other: Mapping[str, Sequence[ScoredRun]]) -> list[tuple[ScoredRun, ScoredRun]]:
    """The runs of two setups with the same open classes and seed."""
    return [(run, partner) for open_classes, of_line in lines.items() for run in of_line
            for partner in other.get(open_classes, ()) if partner.seed == run.seed]


def varying_between(pairs: Sequence[tuple[ScoredRun, ScoredRun]]) -> list[str]:
    """The settings besides the loss and its constants in which two runs of a pair differ."""
    constants = effects(LossOptions)
    names = {name for run, partner in pairs for name in run_folder.varying_settings([run.args, partner.args])}
    return sorted(names - constants.keys())


def calibration_grid(setup: Setup, calibrated_loss: str, pairs: Sequence[tuple[ScoredRun, ScoredRun]]) -> Grid:
    """AUROC of every detector with the calibrated loss minus that with cross-entropy: a section for clean images of
    each pool and way of scoring, and one for each built set. setup: of the runs with cross-entropy."""
    before, after = (scores_of(runs) for runs in zip(*pairs, strict=True))
    keys = ["pool", "scoring", "set", "set_version"]
    sections = []
    for key, _ in before.groupby(keys, sort=False):
        is_clean = key[2] == ""
        heading = f"clean, pool {key[0]}, {key[1]}" if is_clean else f"{plain(key[2])}, mean over its cells"
        chosen = [table[(table[keys] == list(key)).all(axis=1) & (table["group"] == ALL)
                        & (table["corruption"] == ("" if is_clean else OVER_CELLS))] for table in (before, after)]
        old, new = (table_of(rows_of_loss, "auroc") for rows_of_loss in chosen)
        values = (new.reindex(old.index) - old).dropna(how="all")  # of the runs that both losses have
        if len(values):
            sections.append(Section(heading, calibration_lines(values)))
    captions = [f"AUROC with loss {calibrated_loss} minus AUROC with loss {setup.loss}, {setup.title}; mean and "
                f"standard deviation over the seeds that both losses have.",
                "Above 0: calibrated training of the closed model helps. The last column is its accuracy on closed "
                "images."]
    return Grid(NAME, f"Open-set: calibrated training minus {setup.loss}, AUROC", [*columns_of(DETECTORS), (
        "closed", "accuracy")], sections, [], captions, {})


def calibration_lines(values: pd.DataFrame) -> list[GridLine]:
    """A line for each set of open classes, and the mean of the one-class lines. values: differences, laid out as
    `table_of` lays out values."""
    lines = []
    means = values.groupby("open_classes", sort=False).mean()
    for open_classes, mean in means.iterrows():
        of_seeds = values.loc[open_classes]
        spread = of_seeds.std(ddof=1)
        entries = [Entry(100 * float(mean[name]), 100 * float(spread[name]), len(of_seeds), signed=True)
                   for name in mean.index]
        lines.append(GridLine(str(open_classes), entries))
    single = means.loc[[name for name in means.index if "+" not in str(name)]]
    if len(single) > 1:
        seeds = int(values.groupby("open_classes").size().max())
        lines.append(GridLine(MEAN, [Entry(100 * float(value), seeds=seeds, signed=True) for value in single.mean()]))
    return lines
