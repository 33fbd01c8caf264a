"""The section of a report about open-set runs (train_openset.py): tables, differences, corrupted images, the page.

`read_open_set(folder)` reads the runs, and `write_section` writes what it finds:

  open_set.md, open_set.tex    the tables; also in the terminal
  open_set.csv                 every metric of every run: each seed by itself, fractions in full precision
  open_set_differences.csv     AUROC of the trained detector minus that of each baseline, with bootstrap intervals

Words. Runs of one setup have equal settings but for open class and seed. A line of a table is a set of open classes:
the mean over its seeds, and below it each seed. The line `MEAN` is the mean over the lines with one open class, and is
printed where there are several. The published numbers of Zhang et al. (AAAI 2024) are in published_open_set.csv.
"""
import csv
import html
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import nan
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

import open_set
from corruptions import CORRUPTIONS
from reporting import latex, markdown, terminal
from reporting.csv_tables import write_frame
from reporting.notes import READ_ERRORS, Note, plain
from reporting.printing import spell_entry
from reporting.runs import NOT_SEARCHED, read_args
from reporting.tables import Entry, Grid, GridLine, Section
from support import run_folder
from support.files import write_text
from support.random_streams import keyed_rng
from training.open_set.files import DETECTORS, TRAINED, column_of
from training.open_set.scores import GROUPS_OF_SCORES, PoolScores, read_open_scores, read_pool

NAME = "open_set"
ACCURACY = "accuracy"  # the column of the closed model's accuracy
PUBLISHED = Path(__file__).with_name("published_open_set.csv")
LABELS = {TRAINED: "trained", "maximum_softmax": "max softmax", "maximum_logit": "max logit", "energy": "energy",
          "entropy": "entropy", "mahalanobis": "Mahalanobis", "nearest_neighbours": "k-NN"}
SOURCES = dict.fromkeys(LABELS, "logits") | {TRAINED: "detector", "mahalanobis": "features",
                                             "nearest_neighbours": "features"}  # what a detector is computed from
PUBLISHED_METHODS = {TRAINED: "Ours", "maximum_logit": "Baseline"}  # detector -> its name in the published table
SHOWN = ("auroc", "fpr95", "oscr")  # of the group all; of the other groups the first
LEVEL = 95  # percent, of intervals
MEAN = "mean of one-class runs"
LEGEND = """Open-set runs: numbers in percent. AUROC: probability that an open image has a higher open score than a
closed one. FPR@TPR95: open images that are accepted where 95 % of the closed ones are. OSCR: area under the curve of
closed images that are accepted and right over open images that are accepted. trained: the detector that was trained
with pseudo labels; the others are computed from the closed model alone. transductive: trained on the images that it
scores; inductive: on the other half of them (mean over both halves)."""
NOTE_ON_PUBLISHED = """Published: Zhang et al., AAAI 2024, on the pool paper, transductive. These numbers could not be
validated: the released code assigns the pseudo labels of open training images to the wrong images (docs/openset.md).
They are no target."""


class Setup(NamedTuple):
    """What runs of one table have in common. `comparable_runs` says how it is made."""

    dataset: str
    loss: str
    noise: float
    image_size: int
    settings: str
    """those that differ from the recipe, and those that differ between runs which are otherwise alike, as text; "" for
    none"""


@dataclass(frozen=True, eq=False)
class OpenSetRun:
    """A run of train_openset.py that has scores."""

    folder: Path
    setup: Setup
    opened: str
    """its open classes, joined by +"""
    seed: int
    scores: pd.DataFrame
    """open_scores.csv"""


@dataclass(frozen=True)
class Difference:
    """AUROC of the trained detector minus that of a baseline, for one set of open classes."""

    setup: Setup
    opened: str
    pool: str
    scoring: str
    baseline: str
    seeds: int
    value: float
    low: float
    high: float


@dataclass
class OpenSetSection:
    """What a report says about open-set runs."""

    runs: list[OpenSetRun] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    grids: list[Grid] = field(default_factory=list)
    figures: list[Path] = field(default_factory=list)
    """PNG files"""


# ---- reading

def read_open_set(folder: Path) -> OpenSetSection:
    """The open-set runs in a folder, with what could not be read. Links are not followed."""
    section = OpenSetSection()
    args_of: dict[Path, Mapping[str, Any]] = {}
    for path in open_set_folders(folder):
        try:
            args = read_args(path / run_folder.ARGS_FILE)
            opened = plain(args["open"])
            args_of[path] = args
            settings = ", ".join(f"{name} {value}" for name, value in sorted(args.get("differs", {}).items()))
            setup = Setup(plain(args["dataset"]), plain(args["loss"]), float(args["noise"]), int(args["image_size"]),
                          plain(settings))
            section.runs.append(OpenSetRun(path, setup, opened, int(args["seed"]), read_open_scores(path)))
        except FileNotFoundError:
            section.notes.append(Note(str(path), "its open scores are missing: start its training command again"))
        except READ_ERRORS as error:
            section.notes.append(Note(str(path), "left out", str(error)))
    section.runs = comparable_runs(section.runs, args_of)
    section.runs.sort(key=lambda run: (run.setup, run.opened.count("+"), run.opened, run.seed))
    leave_out_copies(section)
    return section


def comparable_runs(runs: Sequence[OpenSetRun], args_of: Mapping[Path, Mapping[str, Any]]) -> list[OpenSetRun]:
    """The runs with setups that say every setting in which runs of one setup differ, so that only runs with equal
    settings are averaged. Training data are compared between runs with the same open classes: other ones are trained on
    other images. args_of: {folder of a run: its args.json}."""
    divided = []
    for by_open in by_setup(runs).values():
        of_setup = [args_of[run.folder] for of_class in by_open.values() for run in of_class]
        varying = [name for name in run_folder.varying_settings(of_setup) if name != run_folder.DATA]
        for of_class in by_open.values():
            data = [run_folder.DATA] if run_folder.DATA in run_folder.varying_settings(
                [args_of[run.folder] for run in of_class]) else []
            for run in of_class:
                values = run_folder.comparable_settings(args_of[run.folder])
                texts = [f"{name} {str(values.get(name, 'usual'))[:16]}" for name in (*varying, *data)]
                settings = ", ".join(filter(None, (run.setup.settings, plain(", ".join(texts)))))
                divided.append(replace(run, setup=run.setup._replace(settings=settings)))
    return divided


def leave_out_copies(section: OpenSetSection) -> None:
    """Keep one run of each setup, set of open classes and seed, the first by folder, and note the others."""
    kept: dict[tuple[Setup, str, int], OpenSetRun] = {}
    for run in section.runs:
        first = kept.setdefault((run.setup, run.opened, run.seed), run)
        if first is not run:
            reason = f"it has the settings and the seed of {first.folder}"
            section.notes.append(Note(str(run.folder), "left out", reason))
    section.runs = list(kept.values())


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


def by_setup(runs: Iterable[OpenSetRun]) -> dict[Setup, dict[str, list[OpenSetRun]]]:
    """{setup: {open classes: its runs, by seed}}."""
    grouped: dict[Setup, dict[str, list[OpenSetRun]]] = {}
    for run in runs:
        grouped.setdefault(run.setup, {}).setdefault(run.opened, []).append(run)
    return grouped


def title_of(setup: Setup) -> str:
    """A setup in a heading."""
    parts = [setup.dataset, f"loss {setup.loss}"]
    if setup.noise:
        parts.append(f"{100 * setup.noise:g} % label noise")
    parts.append(f"{setup.image_size} px")
    return ", ".join(parts + ([setup.settings] if setup.settings else []))


# ---- tables

def arrange(section: OpenSetSection, differences: Sequence[Difference]) -> list[Grid]:
    """All grids of the section."""
    grids = []
    published = read_published()
    for setup, by_open in by_setup(section.runs).items():
        scores = pd.concat([run.scores.assign(opened=run.opened, seed=run.seed)
                            for runs in by_open.values() for run in runs])
        clean = scores[scores["set"] == ""]
        for (pool, scoring, group), part in clean.groupby(["pool", "scoring", "group"], sort=False):
            for metric in SHOWN if group == "all" else SHOWN[:1]:
                is_comparable = (pool, scoring, group) == ("paper", "transductive", "all")
                values = published.get((setup.dataset, metric), {}) if is_comparable else {}
                grids.append(class_grid(setup, f"pool {pool}, {scoring}, images: {group}", part, metric, values))
        of_setup = [one for one in differences if one.setup == setup]
        for pool, scoring in dict.fromkeys((one.pool, one.scoring) for one in of_setup):
            chosen = [one for one in of_setup if (one.pool, one.scoring) == (pool, scoring)]
            grids.append(difference_grid(setup, pool, scoring, chosen))
        corrupted = scores[scores["set"] != ""]
        versions = corrupted.groupby("set")["set_version"].nunique()
        for (set_name, version), part in corrupted.groupby(["set", "set_version"], sort=False):
            name = plain(set_name) if versions[set_name] == 1 else f"{plain(set_name)} {plain(version)[:8]}"
            grids += corruption_grids(setup, name, part)
    return grids


def table_of(part: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The values of a metric: rows (opened, seed), a column for each detector, and the closed accuracy."""
    values = part[part["metric"] == metric].pivot_table(index=["opened", "seed"], columns="detector", values="value",
                                                        sort=False)
    accuracy = part[(part["metric"] == "closed_accuracy") & (part["detector"] == TRAINED)]
    column = accuracy.set_index(["opened", "seed"])["value"].rename(ACCURACY)
    return values.reindex(columns=list(DETECTORS)).join(column)


def class_grid(setup: Setup, place: str, part: pd.DataFrame, metric: str,
               published: Mapping[tuple[str, str], float]) -> Grid:
    """One metric: a line for each set of open classes, with every seed below it, and the mean of the one-class lines.
    published: {(open class, method): value}."""
    described = next(one for one in open_set.METRICS if one.name == metric)
    values = table_of(part, metric)
    lines = []
    means = values.groupby("opened", sort=False).mean()
    counts = values.groupby("opened", sort=False).size()
    most = int(counts.max())  # seeds; fewer are marked
    for opened, mean in means.iterrows():
        spread = values.loc[opened].std(ddof=1)
        seeds = int(counts[opened])
        printed = {name: published.get((str(opened), method), nan) for name, method in PUBLISHED_METHODS.items()}
        lines.append(GridLine(str(opened), entries_of(mean, spread, seeds, described, printed)))
        if seeds > 1:
            for seed, row in values.loc[opened].iterrows():
                lines.append(GridLine(f"  seed {seed}", entries_of(row, None, most, None, {})))
    single = means[["+" not in str(name) for name in means.index]]
    if len(single) > 1:
        printed = {name: mean_published(published, [str(name) for name in single.index], method)
                   for name, method in PUBLISHED_METHODS.items()}
        lines.append(GridLine(MEAN, entries_of(single.mean(), None, most, described, printed)))
    columns = [*columns_of(DETECTORS), ("closed", "accuracy")]
    captions = [f"{described.label}, {'higher' if described.higher_is_better else 'lower'} is better; "
                f"{title_of(setup)}; {place}."]
    captions += sorted({plain(note) for note in part["notes"] if note})
    if published:
        captions.append(" ".join(NOTE_ON_PUBLISHED.split()))
    title = f"Open-set: {described.label}, {place}"
    return Grid(NAME, title, columns, [Section("open class", lines)], [], captions, {}, published_is_unsure=True)


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


def mean_published(published: Mapping[tuple[str, str], float], opened: Sequence[str], method: str) -> float:
    """The mean of the published values of these open classes; NaN unless there is one for each."""
    return float(np.mean([published.get((name, method), nan) for name in opened]))


def read_published() -> dict[tuple[str, str], dict[tuple[str, str], float]]:
    """{(data set, metric): {(open class, method): value, a fraction}}"""
    values: dict[tuple[str, str], dict[tuple[str, str], float]] = {}
    with PUBLISHED.open(newline="", encoding="utf-8") as file:
        for line in csv.DictReader(file):
            of_metric = values.setdefault((line["dataset"], line["metric"]), {})
            of_metric[line["open"], line["method"]] = float(line["value"])
    return values


# ---- corrupted images

def corruption_grids(setup: Setup, set_name: str, part: pd.DataFrame) -> list[Grid]:
    """AUROC of every detector by corruption (mean over severities), and what the thresholds of clean validation images
    accept; means over all open classes and seeds."""
    runs = part[["opened", "seed"]].drop_duplicates()
    opened = ", ".join(dict.fromkeys(runs["opened"]))
    names = [name for name in ("clean", *CORRUPTIONS, "mean") if name in set(part["corruption"])]
    names += sorted(set(part["corruption"]) - {*names})
    grids = []
    for metric, label in (("auroc", "AUROC"), ("closed_accepted", "closed images accepted"),
                          ("open_accepted", "open images accepted")):
        values = part[part["metric"] == metric].groupby(["corruption", "detector"])["value"].mean().unstack()
        lines = [GridLine(plain(name), [Entry(100 * float(values.loc[name].get(detector, nan)), seeds=1)
                                        for detector in DETECTORS]) for name in names]
        captions = [f"{label}, {title_of(setup)}; {set_name}, inductive; mean over severities and {len(runs)} runs "
                    f"(open: {opened})."]
        if metric != "auroc":
            captions.append("Each detector's threshold accepts 95 % of the clean closed validation images.")
        columns = columns_of(DETECTORS)
        grids.append(Grid(NAME, f"Open-set under corruption: {label}, {set_name}", columns,
                          [Section("corruption", lines)], [], captions, {}))
    return grids


# ---- differences

def compare(section: OpenSetSection, resamples: int) -> list[Difference]:
    """The trained detector against every baseline, by a paired bootstrap over images: the same resample for all
    detectors and seeds, stratified by closed and open and, for inductive scores, by half. It says how much the
    difference varies with the images, given the trained detectors; it does not cover another training."""
    differences: list[Difference] = []
    for setup, by_open in by_setup(section.runs).items():
        for opened, runs in by_open.items():
            pools = dict.fromkeys(pool for run in runs for pool in run.scores["pool"])
            for pool in pools:
                with_pool = [run for run in runs if (run.scores["pool"] == pool).any()]
                try:
                    differences += compare_pool(setup, opened, pool, with_pool, resamples)
                except READ_ERRORS as error:
                    section.notes.append(Note(str(runs[0].folder), f"no bootstrap for the pool {pool}", str(error)))
    return differences


def compare_pool(setup: Setup, opened: str, pool: str, runs: Sequence[OpenSetRun],
                 resamples: int) -> list[Difference]:
    """`compare` for one pool. Raises ValueError where the seeds have other images."""
    stored = [read_pool(run.folder, pool) for run in runs]
    keys = ["split", "id", "is_open", "half"]
    if not all(one.images[keys].equals(stored[0].images[keys]) for one in stored):
        raise ValueError("its seeds have scored other images")
    differences = []
    for scoring in stored[0].scorings():
        if not all(scoring in one.scorings() for one in stored):
            continue
        drawn = resampled(stored, scoring, resamples)
        for baseline in DETECTORS[1:]:
            gaps = np.mean([one[TRAINED] - one[baseline] for one in drawn], axis=0)
            low, high = np.percentile(gaps[1:], [50 - LEVEL / 2, 50 + LEVEL / 2]) if resamples else (nan, nan)
            differences.append(Difference(setup, opened, pool, scoring, baseline, len(runs), float(gaps[0]), float(low),
                                          float(high)))
    return differences


def resampled(stored: Sequence[PoolScores], scoring: str, resamples: int) -> list[dict[str, np.ndarray]]:
    """For every seed the AUROC of each detector, {detector: float64 (1 + resamples,)}: of the images themselves first,
    then of each resample."""
    is_open = stored[0].is_open
    half = stored[0].images["half"].to_numpy()
    parts = [half == name for name in ("a", "b")] if scoring == "inductive" else [np.ones(len(half), bool)]
    weights = []
    for number, rows in enumerate(parts):
        rng = keyed_rng("open-set bootstrap", len(half), int(is_open.sum()), scoring, number)
        drawn = open_set.resampling_weights(is_open[rows], resamples, rng)
        weights.append(np.concatenate([np.ones((1, int(rows.sum())), np.int64), drawn]))
    values = []
    for one in stored:
        of_seed = {}
        for detector in DETECTORS:
            scores = one.images[column_of(detector, scoring)].to_numpy(float)
            of_seed[detector] = np.mean([open_set.weighted_aurocs(scores[rows], is_open[rows], part)
                                         for rows, part in zip(parts, weights, strict=True)], axis=0)
        values.append(of_seed)
    return values


def difference_grid(setup: Setup, pool: str, scoring: str, differences: Sequence[Difference]) -> Grid:
    """AUROC of the trained detector minus that of each baseline, a line for each set of open classes."""
    lines = []
    for opened in dict.fromkeys(one.opened for one in differences):
        entries = []
        for one in (one for one in differences if one.opened == opened):
            interval = None if np.isnan(one.low) else (100 * one.low, 100 * one.high)
            is_sure = interval is not None and (interval[0] > 0 or interval[1] < 0)
            entries.append(Entry(100 * one.value, seeds=one.seeds, best=is_sure, interval=interval, signed=True))
        lines.append(GridLine(opened, entries))
    columns = columns_of(DETECTORS[1:])
    captions = [f"AUROC of the trained detector minus that of each baseline, {title_of(setup)}; pool {pool}, "
                f"{scoring}.",
                "In brackets a 95 % interval: a paired bootstrap over images, stratified by closed and open, given the "
                "trained detector. It does not cover another training. Marked: 0 is outside."]
    return Grid(NAME, f"Open-set: trained detector against baselines, pool {pool}, {scoring}", columns,
                [Section("open class", lines)], [], captions, {})


# ---- files

def write_section(section: OpenSetSection, folder: Path, resamples: int) -> None:
    """Write the files of the section into a report's folder, and fill in its grids. Files of an earlier report are
    removed where there is no open-set run any more."""
    names = [f"{NAME}.md", f"{NAME}.tex", f"{NAME}.csv", f"{NAME}_differences.csv"]
    if not section.runs:
        for name in names:
            (folder / name).unlink(missing_ok=True)
        return
    differences = compare(section, resamples)
    section.grids = arrange(section, differences)
    legend = " ".join(LEGEND.split())
    notes = [f"- {note}" for note in section.notes]
    missing = ["", "Missing:", "", *notes] if notes else []
    write_text(folder / names[0], "\n".join([*map(markdown.render, section.grids), legend, *missing, ""]))
    write_text(folder / names[1], "\n".join(latex.render(grid, number) for number, grid in enumerate(section.grids)))
    lines: list[dict[str, Any]] = []
    for run in section.runs:
        lines += run.scores.assign(**run.setup._asdict(), open=run.opened, seed=run.seed).to_dict("records")
    columns = [*Setup._fields, "open", "seed", *section.runs[0].scores.columns]
    write_frame(folder / names[2], lines, columns)
    rows = [one.setup._asdict() | {name: value for name, value in vars(one).items() if name != "setup"}
            for one in differences]
    columns = [*Setup._fields, "opened", "pool", "scoring", "baseline", "seeds", "value", "low", "high"]
    write_frame(folder / names[3], rows, columns)


def terminal_lines(section: OpenSetSection, colour: bool) -> list[str]:
    """The tables of the section for a terminal, without those of single groups of images, which the files have."""
    lines: list[str] = []
    for grid in section.grids:
        if not any(f"images: {group}" in grid.title for group in GROUPS_OF_SCORES[1:]):
            lines += [*terminal.render(grid, colour), ""]
    return lines + (terminal.wrap(" ".join(LEGEND.split())) + [""] if lines else [])


def brief_lines(section: OpenSetSection, folder: Path) -> list[str]:
    """A line for each setup and pool with the mean inductive AUROC of every detector, and where the tables are."""
    lines: list[str] = []
    for setup, by_open in by_setup(section.runs).items():
        scores = pd.concat([run.scores for runs in by_open.values() for run in runs])
        chosen = scores[(scores["set"] == "") & (scores["group"] == "all") & (scores["scoring"] == "inductive")
                        & (scores["metric"] == "auroc")]
        for pool, part in chosen.groupby("pool", sort=False):
            means = part.groupby("detector")["value"].mean()
            texts = [f"{LABELS[name]} {100 * means[name]:.1f}" for name in DETECTORS if name in means]
            lines += terminal.wrap(f"open-set, {setup.dataset}, loss {setup.loss}, pool {pool}: inductive AUROC, mean "
                                   f"of {len(by_open)} sets of open classes: {', '.join(texts)}")
    return [*lines, f"open-set tables: {plain(folder / NAME)}.md"] if lines else []


# ---- the page

def page_section(section: OpenSetSection, images: Mapping[str, str]) -> str:
    """The section of the page as HTML, "" without open-set runs. images: {title: data URI of a figure}. Every text is
    escaped."""
    if not section.grids:
        return ""
    parts = ['<section id="open-set" aria-labelledby="open-set-title">',
             '  <h2 id="open-set-title">Open-set</h2>',
             f'  <p class="note">{html.escape(" ".join(LEGEND.split()))}</p>']
    for title, uri in images.items():
        parts.append(f'  <figure><img src="{html.escape(uri)}" alt="{html.escape(title)}" style="max-width:100%">'
                     f'<figcaption class="note">{html.escape(title)}</figcaption></figure>')
    for grid in section.grids:
        parts.append(f"  <details><summary>{html.escape(plain(grid.title))}</summary>")
        parts += [f'  <p class="note">{html.escape(plain(text))}</p>' for text in grid.captions]
        parts += ['  <div class="scroll" tabindex="0" role="region"><table>', page_row("th", ["", *(
            " ".join(column) for column in grid.columns)])]
        for of_grid in grid.sections:
            for line in of_grid.lines:
                texts = [spell_entry(entry) for entry in line.entries]
                parts.append(page_row("td", [line.title.strip(), *texts], [entry.best for entry in line.entries]))
        parts.append("  </table></div></details>")
    return "\n".join([*parts, "</section>"])


def page_row(kind: str, texts: Sequence[str], best: Sequence[bool] = ()) -> str:
    """A row of a table. kind: th or td. best: whether each text but the first is marked."""
    cells = []
    for number, text in enumerate(texts):
        escaped = html.escape(plain(text))
        is_best = number > 0 and number <= len(best) and best[number - 1]
        cells.append(f"<{kind}>{f'<b>{escaped}</b>' if is_best else escaped}</{kind}>")
    return f"    <tr>{''.join(cells)}</tr>"
