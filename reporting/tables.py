"""The paper's tables as grids: which numbers stand in which line and column, with the best of each column marked.

A *grid* is one table for one protocol and image size; runs that differ in these have different grids. Its columns are
the losses and metrics of blocks (rows.py) side by side, and its lines are algorithms. Table 3 is turned: its columns
are algorithms, its lines are losses, and each block is a section. Each number in a grid is an *entry*. A *row* is
something else: the runs that are averaged for one number (rows.py). `arrange` makes the grids from the numbers of
scores.py. markdown.py, latex.py and terminal.py print them; csv_tables.py writes the numbers
that stand in them.
"""
import re
from collections.abc import Iterable, Mapping, Sequence
from math import isnan, nan
from typing import NamedTuple

import numpy as np

from datasets import DATASETS
from metrics import METRICS
from reporting import captions, published
from reporting.notes import plain
from reporting.predictions import PredictionSummary
from reporting.rows import (
    COMPARED_LOSSES, Block, Row, join_names, losses_to_compare, rank, rank_of_loss, rank_of_name, variants)
from reporting.runs import Run
from reporting.scores import DOMAINS, Key, Statistic, join_notes

LOSS_LABELS = {"ce": "CE", "focal": "Focal", "maxent": "MaxEnt", "mbls": "MbLS"}  # parts of a loss's name, as printed


class PaperTable(NamedTuple):
    """What a table of the paper shows."""

    title: str
    runs: str
    """which runs: noiseless (without label noise), noise (with it), or losses (further losses, without label noise)"""
    domains: tuple[str, ...]
    metrics: tuple[str, ...]


PAPER = {  # name of the table's files -> the table
    "table1": PaperTable("Table 1: clean and corrupted images", "noiseless", tuple(DOMAINS), ("macro_f1", "ece")),
    "table2": PaperTable("Table 2: label noise in training, corrupted images", "noise", ("corrupted",),
                         ("accuracy", "ece")),
    "table3": PaperTable("Table 3: ECE by loss, corrupted images", "losses", ("corrupted",), ("ece",)),
    "table4": PaperTable("Table 4: classwise ECE", "noiseless", tuple(DOMAINS), ("cece", "cece_sum")),
    "table5": PaperTable("Table 5: likelihood and adaptive ECE", "noiseless", tuple(DOMAINS), ("nll", "adaece")),
    "table6": PaperTable("Table 6: label noise in training, clean images", "noise", ("clean",), ("accuracy", "ece")),
}
SHOWN = tuple(dict.fromkeys(metric for table in PAPER.values() for metric in table.metrics))  # metrics of all tables


class Entry(NamedTuple):
    """A number of a grid as it is printed (percent or nats), NaN where there is none."""

    value: float = nan
    sd: float = nan
    """standard deviation over seeds, NaN for a single seed"""
    seeds: int = 0
    digits: int = 1
    """after the decimal point"""
    best: bool = False
    """whether it is marked: as the best of its column and section, where there are several numbers; or, of a
    difference, because 0 lies outside its interval"""
    interval: tuple[float, float] | None = None
    """95 % interval"""
    published: float = nan
    """the paper's value, NaN where there is none to compare with"""
    notes: str = ""
    """on how it was scored: phrases joined by "; ", usually empty"""
    signed: bool | None = None
    """whether it is printed with its sign; None: signed exactly where there is an interval"""


class GridLine(NamedTuple):
    """One line of a grid: its heading and an entry for every column."""

    title: str
    entries: list[Entry]


class Section(NamedTuple):
    """Lines of a grid that belong together: the best of a column is marked among these."""

    heading: str
    lines: list[GridLine]


class Grid(NamedTuple):
    """One table for one protocol and image size."""

    name: str
    """of its files, such as table1"""
    title: str
    columns: list[tuple[str, ...]]
    """headings of every column, the widest first: (set, loss, metric)"""
    sections: list[Section]
    keys: list[Key]
    """the keys of all numbers in it; a mean of several numbers (Overall of table 3) has none"""
    captions: list[str]
    """what the numbers stand for: a sentence on the whole grid, then one for every block"""
    published: dict[Key, float]
    """the paper's values that are printed below the numbers, in percent or nats"""
    published_is_unsure: bool = False
    """whether these values could not be validated, so that no difference to them is printed"""

    @property
    def entries(self) -> list[Entry]:
        """All entries, line by line."""
        return [entry for section in self.sections for line in section.lines for entry in line.entries]

    @property
    def seeds(self) -> int:
        """The largest number of seeds of an entry. Entries with fewer say so."""
        return max(entry.seeds for entry in self.entries)

    @property
    def footnotes(self) -> dict[str, str]:
        """{notes of an entry: its mark}, in the order of the entries."""
        texts = [text for text in dict.fromkeys(entry.notes for entry in self.entries) if text]
        return {text: f" [{number}]" for number, text in enumerate(texts, 1)}


class GridPlan(NamedTuple):
    """Which numbers stand where in a grid, before they are filled in."""

    columns: list[tuple[str, ...]]
    """headings of every column"""
    metrics: list[str]
    """metric of every column"""
    sections: list[tuple[str, list[tuple[str, list[list[Key]]]]]]
    """(heading, [(heading of a line, for every column the keys of its number)]): several keys for the mean of several
    numbers, none for a column that the line has nothing to do with"""


# --- grids ---


def arrange(runs: list[Run], numbers: Mapping[Key, Statistic], predictions: Mapping[Block, PredictionSummary],
            published_values: Mapping[tuple, float] | None = None) -> list[Grid]:
    """All tables of the paper that these runs have something for, in the paper's order.

    numbers: of `scores.by_key`. predictions: {block: what its predictions show}. published_values: of
    `published.read`, to be printed below the numbers, or None."""
    grids = []
    for name, table in PAPER.items():
        for blocks in blocks_of_tables(predictions):
            runs_of_table = choose_runs(table, runs, blocks[0])
            trained = {run.setup for run in runs_of_table}
            blocks_with_runs = [block for block in blocks if block.setup in trained]
            if blocks_with_runs:
                grids.append(arrange_one(name, runs_of_table, blocks_with_runs, numbers, predictions,
                                         published_values))
    return grids


def choose_runs(table: PaperTable, runs: list[Run], block: Block) -> list[Run]:
    """The runs that a table is about, of those with the protocol and image size of a block."""
    chosen = []
    for run in runs:
        has_noise = bool(run.row.noise)
        wants_noise = table.runs == "noise"
        has_loss = table.runs != "losses" or run.row.loss not in COMPARED_LOSSES
        if run.setup[1:] == block.setup[1:] and has_noise == wants_noise and has_loss:
            chosen.append(run)
    return chosen


def arrange_one(name: str, runs: list[Run], blocks: list[Block], numbers: Mapping[Key, Statistic],
                predictions: Mapping[Block, PredictionSummary], published_values: Mapping[tuple, float] | None) -> Grid:
    """One table of the paper, by its name in `PAPER`, of these runs and blocks; arguments as those of `arrange`."""
    table = PAPER[name]
    block_names = name_blocks(blocks)
    plan_table = plan_by_loss if table.runs == "losses" else plan_by_algorithm
    plan = plan_table(table, runs, blocks, block_names)
    keys = single_keys(plan)
    reasons: dict[Block, str | None] = {}
    printed: dict[Key, float] = {}
    if published_values is not None:
        reasons = {block: published.reason_without_values(block, runs, predictions[block].corruptions)
                   for block in blocks}
        printed = find_published(name, keys, reasons, published_values)
    sections = []
    for heading, planned_lines in plan.sections:
        lines = [GridLine(title, [make_entry(entry_keys, numbers, printed) for entry_keys in line_keys])
                 for title, line_keys in planned_lines]
        sections.append(Section(heading, mark_best(lines, plan.metrics)))
    texts = [captions.of_grid(blocks[0].setup, [entry.seeds for section in sections for line in section.lines
                                                for entry in line.entries])]
    for block in blocks:
        text = captions.of_block(block, block_names[block], predictions[block])
        if reasons.get(block):
            text += f" Not compared with the paper: {reasons[block]}."
        texts.append(text)
    return Grid(name, table.title, plan.columns, sections, keys, texts, printed)


def blocks_of_tables(blocks: Iterable[Block]) -> list[list[Block]]:
    """The blocks that stand side by side in tables, those of one protocol and image size; the data sets in the order of
    the paper."""
    order_of_datasets = list(DATASETS)

    def order(block: Block) -> tuple:
        known = block.dataset in order_of_datasets
        place = order_of_datasets.index(block.dataset) if known else len(order_of_datasets)
        return *block.setup[1:], place, block

    tables: dict[tuple, list[Block]] = {}
    for block in sorted(blocks, key=order):
        tables.setdefault(block.setup[1:], []).append(block)
    return list(tables.values())


def name_blocks(blocks: Sequence[Block]) -> dict[Block, str]:
    """{block: heading}: the name of its set, and whatever separates it from other blocks with a set of that name."""
    names = {}
    for block in blocks:
        namesakes = [other for other in blocks if other.set == block.set]
        words = [block.set]
        if len({other.dataset for other in namesakes}) > 1:
            words.append(f"trained on {block.dataset}")
        if len({other.set_version for other in namesakes}) > 1:
            words.append(block.set_version[:8])
        if len({other.n for other in namesakes}) > 1:
            words.append(f"N = {block.n}")
        if len({other.precision for other in namesakes}) > 1:
            words.append(f"scored in {block.precision}")
        names[block] = plain(", ".join(words))
    return names


# --- which number stands where ---


def plan_by_algorithm(table: PaperTable, runs: list[Run], blocks: list[Block], names: Mapping[Block, str]) -> GridPlan:
    """Algorithms below each other, in a section for every domain and rate of label noise; sets, losses and metrics side
    by side."""
    losses = losses_to_compare(run.row.loss for run in runs if table.runs == "noise" or run.row.loss in COMPARED_LOSSES)
    columns = [(block, loss, metric) for block in blocks for loss in losses for metric in table.metrics]
    sections = []
    for domain in table.domains:
        for noise in sorted({run.row.noise for run in runs}):
            runs_of_section = [run for run in runs if run.row.noise == noise]
            lines = []
            for variant, row_of_loss in variants_to_print(runs_of_section, losses).items():
                line_keys = []
                for block, loss, metric in columns:
                    row = row_of_loss.get(loss, variant._replace(loss=loss, constants=""))
                    line_keys.append([Key(block, row, domain, metric)])
                lines.append((variant.variant_name, line_keys))
            heading = domain if table.runs == "noiseless" else captions.of_noise(runs_of_section)
            sections.append((heading, lines))
    headings: list[tuple[str, ...]] = []
    for block, loss, metric in columns:
        headings.append((names[block], spell_loss(loss), METRICS[metric].label))
    return GridPlan(headings, [metric for _, _, metric in columns], sections)


def variants_to_print(runs: list[Run], losses: Iterable[str]) -> dict[Row, dict[str, Row]]:
    """The variants of these runs, sorted, each with its rows by loss. An algorithm that was run only with losses
    outside the columns has a line too: it shows that the losses of the columns are missing. losses: those
    of the columns."""
    members = variants(run.row for run in runs if run.row.loss in losses)
    begun = {variant.without_loss_and_constants() for variant in members}
    for run in runs:
        if run.row.without_loss_and_constants() not in begun:
            members[run.row.without_loss_and_constants()] = {}
    return {variant: members[variant] for variant in sorted(members, key=rank)}


def plan_by_loss(table: PaperTable, runs: list[Run], blocks: list[Block], names: Mapping[Block, str]) -> GridPlan:
    """Losses below each other, in a section for every set; algorithms side by side, and their mean last.

    runs: those with further losses than `COMPARED_LOSSES`; the algorithms that were run with any have a column."""
    (domain,) = table.domains
    (metric,) = table.metrics
    columns = algorithms_of(runs)
    sections = []
    for block in blocks:
        runs_of_block = [run for run in runs if run.setup == block.setup]
        columns_of_block = algorithms_of(runs_of_block)
        lines = []
        for loss, constants in losses_with_constants(runs_of_block):
            line_keys, all_keys = [], []
            for algorithm, settings in columns:
                keys = []
                if (algorithm, settings) in columns_of_block:
                    keys = [Key(block, Row(algorithm, loss, 0.0, settings, constants), domain, metric)]
                line_keys.append(keys)
                all_keys += keys
            lines.append((join_names(spell_loss(loss), constants), [*line_keys, all_keys]))
        sections.append((names[block], lines))
    headings: list[tuple[str, ...]] = [(plain(join_names(algorithm, settings)),) for algorithm, settings in columns]
    headings.append(("Overall",))
    return GridPlan(headings, [metric] * len(headings), sections)


def algorithms_of(runs: Iterable[Run]) -> list[tuple[str, str]]:
    """(algorithm, settings) of these runs, in the order of the tables."""
    pairs = {(run.row.algorithm, run.row.settings) for run in runs}
    return sorted(pairs, key=lambda pair: (rank_of_name(pair[0]), pair[1]))


def losses_with_constants(runs: Iterable[Run]) -> list[tuple[str, str]]:
    """(loss, constants) that a table by loss has a line for, in order: the losses that runs like these are compared by,
    each with every choice of constants that was run, or without constants where it was not."""
    rows = sorted({run.row for run in runs}, key=rank_of_loss)
    pairs = []
    for loss in losses_to_compare(row.loss for row in rows):
        choices = list(dict.fromkeys(row.constants for row in rows if row.loss == loss))
        pairs += [(loss, constants) for constants in choices or [""]]
    return pairs


def spell_loss(loss: str) -> str:
    """The name of a loss as printed: maxent-aaai+mbls is MaxEnt (aaai)+MbLS."""
    labels = []
    for part in loss.split("+"):
        spelt = re.sub("^maxent-(.+)", r"MaxEnt (\1)", part)
        labels.append(LOSS_LABELS.get(part, spelt))
    return plain("+".join(labels))


def single_keys(plan: GridPlan) -> list[Key]:
    """The keys of all entries of a plan that are one number, line by line."""
    keys = []
    for _, lines in plan.sections:
        for _, line_keys in lines:
            keys += [entry_keys[0] for entry_keys in line_keys if len(entry_keys) == 1]
    return keys


def find_published(name: str, keys: Iterable[Key], reasons: Mapping[Block, str | None],
                   published_values: Mapping[tuple, float]) -> dict[Key, float]:
    """The paper's values for the numbers of a table. Only rows with the usual settings have one, and only blocks
    without a reason against it (of `published.reason_without_values`)."""
    values = {}
    for key in keys:
        if reasons[key.block] is not None or key.row.all_settings:
            continue
        place = (name, key.block.dataset, key.domain, key.row.noise, key.row.algorithm, key.row.loss, key.metric)
        if place in published_values:
            values[key] = published_values[place]
    return values


# --- entries ---


def make_entry(keys: list[Key], numbers: Mapping[Key, Statistic], printed: Mapping[Key, float]) -> Entry:
    """The entry of a number, or of the mean of several, which is there only when all of them are. printed: published
    values."""
    if not keys:
        return Entry()
    percent = METRICS[keys[0].metric].percent
    scale, digits = (100, 1) if percent else (1, 2)
    published_value = float(np.mean([printed.get(key, nan) for key in keys]))
    if any(key not in numbers for key in keys):
        return Entry(digits=digits, published=published_value)
    statistics = [numbers[key] for key in keys]
    notes = join_notes(statistic.notes for statistic in statistics)
    if len(statistics) > 1:
        mean = scale * float(np.mean([statistic.mean for statistic in statistics]))
        return Entry(mean, digits=digits, published=published_value, notes=notes)
    (number,) = statistics
    return Entry(scale * number.mean, scale * number.sd, number.seeds, digits, published=published_value, notes=notes)


def mark_best(lines: Sequence[GridLine], metrics: Sequence[str]) -> list[GridLine]:
    """The lines with the best entry of every column marked, and all that print the same as it. A column with fewer than
    two numbers has no best. metrics: of the columns."""
    best_values = [best_value([entries[column] for _, entries in lines], metric)
                   for column, metric in enumerate(metrics)]
    marked = []
    for title, entries in lines:
        marked_entries = []
        for entry, best in zip(entries, best_values, strict=True):
            is_best = not isnan(entry.value) and round(entry.value, entry.digits) == best
            marked_entries.append(entry._replace(best=is_best))
        marked.append(GridLine(title, marked_entries))
    return marked


def best_value(entries: Iterable[Entry], metric: str) -> float | None:
    """The best number of a column as it is printed, None where there are fewer than two to compare."""
    values = [round(entry.value, entry.digits) for entry in entries if not isnan(entry.value)]
    if len(values) < 2:
        return None
    return max(values) if METRICS[metric].higher_is_better else min(values)
