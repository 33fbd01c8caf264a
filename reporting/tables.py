"""The paper's tables in its own arrangement: data sets side by side, Markdown to read, CSV to go on with.

A `Grid` is one table for one protocol and image size; runs that differ in these never share one. Sets that differ in
anything else (`Block`) are columns of their own. latex.py prints the same grids.
"""
import re
from collections.abc import Iterable
from itertools import groupby, product
from math import isnan, nan
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

import cli
from datasets import DATASETS
from reporting import published
from reporting.runs import (
    DOMAINS, LOSSES, Block, Row, Run, join_notes, losses_of, plain, rank, rank_of_name, variant_name, variants)

DEMO = "demo data: shows function, not findings"
NAMES = {"ce": "CE", "focal": "Focal", "maxent": "MaxEnt", "mbls": "MbLS"}
HEADINGS = {"accuracy": "accuracy", "macro_f1": "F1", "ece": "ECE", "cece": "CECE", "cece_sum": "CECE sum",
            "nll": "NLL", "adaece": "AdaECE"}
RAISED = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
HIGHER = {"accuracy", "macro_f1"}  # is better
LEGEND = """Percent, NLL in nats; mean ± standard deviation (n - 1) over seeds; bold (underlined in LaTeX): best of its
column among the rows that belong together. F1: macro. Corrupted: mean over the 17 x 5 cells, accuracy and F1 by hard
labels, all else by soft labels (the reliability diagrams pool all cells, and ECE of the pool is another number).
CECE: mean over classes; CECE sum: their sum. —: missing, see the end of tables.md.
Settings stand behind an algorithm or a loss where its runs differ in them; runs with the recipe's settings have none.
The ECE floor is what a perfectly calibrated model with the same confidences scores by chance at this N (simulated;
lowest to highest of the runs). For corrupted images it is an upper bound, because soft labels have less noise than
drawn hard labels."""


class Paper(NamedTuple):
    """What a table of the paper shows. runs: clean (trained on right labels), noise, or losses (every loss run)."""

    title: str
    runs: str
    domains: tuple
    metrics: tuple


PAPER = {
    "table1": Paper("Table 1: clean and corrupted images", "clean", tuple(DOMAINS), ("macro_f1", "ece")),
    "table2": Paper("Table 2: label noise in training, corrupted images", "noise", ("corrupted",), ("accuracy", "ece")),
    "table3": Paper("Table 3: ECE by loss, corrupted images", "losses", ("corrupted",), ("ece",)),
    "table4": Paper("Table 4: classwise ECE", "clean", tuple(DOMAINS), ("cece", "cece_sum")),
    "table5": Paper("Table 5: likelihood and adaptive ECE", "clean", tuple(DOMAINS), ("nll", "adaece")),
    "table6": Paper("Table 6: label noise in training, clean images", "noise", ("clean",), ("accuracy", "ece")),
}
SHOWN = tuple(dict.fromkeys(metric for paper in PAPER.values() for metric in paper.metrics))


class Key(NamedTuple):
    """What a number is of."""

    block: Block
    row: Row
    domain: str
    metric: str


class Cell(NamedTuple):
    """A number as printed (percent, nats), NaN where there is none. interval: of a difference, which gets a sign.
    notes: on how it was scored, phrases joined by "; "."""

    value: float = nan
    sd: float = nan
    seeds: int = 0
    digits: int = 1
    best: bool = False
    interval: tuple = ()
    published: float = nan
    notes: str = ""


class Grid(NamedTuple):
    """A table. columns: headings, the widest first. sections: (heading, [(heading of the row, cells)]). keys: of all
    numbers. about: what they stand for, a sentence for the whole, then one for each set. printed: published values."""

    name: str
    title: str
    columns: list
    sections: list
    keys: list
    about: list
    printed: dict

    @property
    def seeds(self):
        """The largest number of seeds of a cell: cells with fewer say so."""
        return max(cell.seeds for _, rows in self.sections for _, cells in rows for cell in cells)

    @property
    def footnotes(self) -> dict[str, str]:
        """{notes of a cell: its mark}, in the order of the cells."""
        notes = dict.fromkeys(cell.notes for _, rows in self.sections for _, cells in rows for cell in cells)
        return {text: f" [{number}]" for number, text in enumerate(filter(None, notes), 1)}


# --- arranging ---


def arrange(runs, found, seen, beside=None):
    """All grids of the paper that these runs have something for, in its order.

    found: numbers by `Key`; seen: {block: what its predictions show}; beside: published values, or None.
    """
    grids = []
    for (name, paper), (way, blocks) in product(PAPER.items(), together(seen)):
        alike = [run for run in runs if run.trained[1:] == way and bool(run.row.noise) == (paper.runs == "noise")
                 and (paper.runs != "losses" or run.row.loss not in LOSSES)]
        blocks = [block for block in blocks if block[:3] in {run.trained for run in alike}]
        if not blocks:
            continue
        names = name_blocks(blocks)
        columns, metrics, plan = (plan_losses if paper.runs == "losses" else plan_usual)(paper, alike, blocks, names)
        why = {block: published.incomparable(block, alike) for block in blocks} if beside else {}
        keys = [keys[0] for _, rows in plan for _, row in rows for keys in row if len(keys) == 1]
        printed = {}
        for key in keys:
            if why.get(key.block, "") is None and not key.row.more:  # the paper's settings are the recipe's
                where = (name, key.block.dataset, key.domain, key.row.noise, *key.row[:2], key.metric)
                printed |= {key: beside[where]} if where in beside else {}
        sections = [(heading, mark_best([(title, [fill(keys, found, printed) for keys in row]) for title, row in rows],
                                        metrics)) for heading, rows in plan]
        about = [about_block(block, names[block], seen[block])
                 + (f" No difference to the paper: {why[block]}." if why.get(block) else "") for block in blocks]
        grids.append(Grid(name, paper.title, columns, sections, keys, [about_all(way, sections), *about], printed))
    return grids


def by_key(stats):
    """{Key: line} of a frame of `runs.aggregate`, in the tables' order."""
    first, second = len(Block._fields), len(Block._fields) + len(Row._fields)
    return {Key(Block(*line[:first]), Row(*line[first:second]), line.domain, line.metric): line
            for line in stats.itertuples(index=False)}


def together(blocks):
    """[((protocol, image size), its blocks)]: what stands side by side; the data sets in the paper's order."""
    def order(block):
        return block[1:3], [*DATASETS, block.dataset].index(block.dataset), block
    return [(way, list(some)) for way, some in groupby(sorted(blocks, key=order), key=lambda block: block[1:3])]


def name_blocks(blocks):
    """{block: heading}: its set, and whatever sets it apart from others of that name."""
    names = {}
    for block in blocks:
        alike = [other for other in blocks if other.set == block.set]
        more = {"dataset": f"trained on {block.dataset}", "set_version": block.set_version[:8], "n": f"N = {block.n}",
                "precision": f"scored in {block.precision}"}
        apart = [text for field, text in more.items() if len({getattr(other, field) for other in alike}) > 1]
        names[block] = plain(", ".join([block.set, *apart]))
    return names


def plan_usual(paper, runs, blocks, names):
    """Rows: algorithms, once for every domain or rate of label noise. Columns: sets, losses, metrics.
    -> headings of columns, their metrics, [(heading, [(heading of the row, [keys of the cell])])]"""
    losses = losses_of([run for run in runs if paper.runs == "noise" or run.row.loss in LOSSES])
    columns = [(block, loss, metric) for block in blocks for loss in losses for metric in paper.metrics]
    plan = []
    for domain, noise in product(paper.domains, sorted({run.row.noise for run in runs})):
        some = [run for run in runs if run.row.noise == noise]
        pairs = variants(run.row for run in some if run.row.loss in losses)
        begun = {variant._replace(constants="") for variant in pairs}
        for run in some:  # with other losses only
            key = run.row._replace(loss="", constants="")
            pairs |= {} if key in begun else {key: {}}
        rows = []
        for variant in sorted(pairs, key=rank):
            members = {loss: pairs[variant].get(loss, Row(variant.algorithm, loss, noise, variant.settings))
                       for loss in losses}
            rows.append((variant_name(variant), [[Key(block, members[loss], domain, metric)]
                                                 for block, loss, metric in columns]))
        plan.append((domain if paper.runs == "clean" else about_noise(some), rows))
    headings = [(names[block], spell_loss(loss), HEADINGS[metric]) for block, loss, metric in columns]
    return headings, [metric for _, _, metric in columns], plan


def plan_losses(paper, runs, blocks, names):
    """Rows: losses, once for every set. Columns: algorithms that were run with more than `LOSSES`, and their mean."""
    columns, plan = columns_of(runs), []
    (domain,), (metric,) = paper.domains, paper.metrics
    for block in blocks:
        its = [run for run in runs if run.trained == block[:3]]
        own = {(run.row.algorithm, run.row.settings) for run in its}
        there = {run.row.loss_name: (run.row.loss, run.row.constants) for run in sorted(its, key=lambda run: rank(
            run.row)[-3:])}
        every = [(loss, constants) for loss in losses_of(its) for constants in (
            [pair[1] for pair in there.values() if pair[0] == loss] or [""])]
        rows = []
        for loss, constants in every:
            keys = {column: Key(block, Row(column[0], loss, 0.0, column[1], constants), domain, metric)
                    for column in columns if column in own}
            title = ", ".join(filter(None, (spell_loss(loss), constants)))
            rows.append((title, [*([keys[column]] if column in keys else [] for column in columns),
                                 list(keys.values())]))
        plan.append((names[block], rows))
    algorithms = [", ".join(filter(None, column)) for column in columns]
    headings = [(plain(name),) for name in algorithms] + [("Overall",)]
    return headings, [metric] * len(headings), plan


def spell_loss(loss):
    """As printed: maxent-aaai+mbls is MaxEnt (aaai)+MbLS."""
    parts = (NAMES.get(part, re.sub("^maxent-(.+)", r"MaxEnt (\1)", part)) for part in loss.split("+"))
    return plain("+".join(parts))


def columns_of(runs: list[Run]) -> list[tuple[str, str]]:
    """(algorithm, settings) of some runs, in the tables' order."""
    return sorted({(run.row.algorithm, run.row.settings) for run in runs},
                  key=lambda pair: (rank_of_name(pair[0]), pair[1]))


def fill(keys, found, printed):
    """The cell of a number, or of the mean of several, which is there only when all of them are."""
    if not keys:
        return Cell()
    stats = [found.get(key) for key in keys]
    scale, digits = (1, 2) if keys[0].metric == "nll" else (100, 1)
    cell = Cell(digits=digits, published=float(np.mean([printed.get(key, nan) for key in keys])))
    if None in stats:
        return cell
    cell = cell._replace(notes=join_notes(stat.notes for stat in stats))
    if len(stats) > 1:
        return cell._replace(value=scale * float(np.mean([stat.mean for stat in stats])))
    return cell._replace(value=scale * stats[0].mean, sd=scale * stats[0].sd, seeds=stats[0].seeds)


def mark_best(rows, metrics):
    """Mark the best of every column, with all that print the same; nothing where there is nothing to compare."""
    best = []
    for column, metric in zip(zip(*(cells for _, cells in rows), strict=True), metrics, strict=True):
        values = [round(cell.value, cell.digits) for cell in column if not isnan(cell.value)]
        best.append((max if metric in HIGHER else min)(values) if len(values) > 1 else None)
    return [(title, [cell._replace(best=round(cell.value, cell.digits) == top) if not isnan(cell.value) else cell
                     for cell, top in zip(cells, best, strict=True)]) for title, cells in rows]


# --- what the numbers stand for ---


def about_all(way, sections):
    protocol, image_size = way
    seeds = {cell.seeds for _, rows in sections for _, cells in rows for cell in cells} - {0}
    text = f"Protocol {plain(protocol)}, {image_size} px, "
    if not seeds:
        return f"{text}nothing evaluated."
    return f"{text}{max(seeds)} seed{'s' if max(seeds) > 1 else ''}" + (
        " (raised: where there are fewer)." if len(seeds) > 1 else ".")


def about_block(block, name, seen):
    floors = ", ".join(f"{domain} {100 * min(values):.1f} to {100 * max(values):.1f}" if values else f"{domain} unknown"
                       for domain, values in seen.floors.items())
    return plain(f"{name}: trained on {block.dataset}, N = {block.n} images, set_version {block.set_version[:8]}; "
                 f"ECE floor: {floors}{f'; {DEMO}' if seen.demo else ''}.")


def about_noise(runs):
    """Heading for runs with one rate of label noise: what was asked for, and what became of it."""
    rates = [100 * rate for rate in map(realised, runs) if not isnan(rate)]
    low, high = (f"{f(rates):.1f}" for f in (min, max)) if rates else ("", "")
    done = f"{low} to {high} %" if low != high else f"{low} %" if rates else "not recorded"
    return f"label noise {100 * runs[0].row.noise:g} % (realised: {done})"


def realised(run):
    """Share of training labels that are wrong after adding label noise, NaN where training has not said."""
    rate = run.args.get("noise_realised")
    return float(rate) if isinstance(rate, int | float) and not isinstance(rate, bool) else nan


# --- Markdown ---


def escape(text):
    """Text of others in a Markdown table."""
    return re.sub(r"([\\|<`*])", r"\\\1", plain(text))


def number(value, digits, sign=False):
    """As printed, with a true minus and no negative nought; — for NaN."""
    if isnan(value):
        return "—"
    text = f"{value:{'+' if sign else ''}.{digits}f}"
    return (text if float(text) else text.lstrip("+-")).replace("-", "−")


def spell(cell):
    """A cell's number with its spread."""
    if cell.interval:
        low, high = (number(end, cell.digits, True) for end in cell.interval)
        return f"{number(cell.value, cell.digits, True)} [{low}, {high}]"
    return number(cell.value, cell.digits) + ("" if isnan(cell.sd) else f" ± {cell.sd:.{cell.digits}f}")


def lines_of(grid, mark):
    """Sections with every line that is printed: (heading, [(heading of the line, texts)]); `mark(text, best, fewer)`
    puts a cell's marks on. Where there are published values, they and the difference to them stand below."""
    for heading, rows in grid.sections:
        lines = []
        for title, cells in rows:
            lines.append((title, [
                mark(spell(cell), cell.best, cell.seeds if 0 < cell.seeds < grid.seeds else None)
                + grid.footnotes.get(cell.notes, "") for cell in cells]))
            if not all(isnan(cell.published) for cell in cells):
                apart = [cell.value - cell.published for cell in cells]
                for what, values in (("published", [cell.published for cell in cells]), ("difference", apart)):
                    lines.append((f"  {what}", [mark(number(value, cell.digits, what == "difference"), False, None)
                                                for value, cell in zip(values, cells, strict=True)]))
        yield heading, lines


def render_markdown(grid):
    """Title, what the numbers stand for, and the table, aligned for reading as it is."""
    def mark(text, best, fewer):
        return (f"**{text}**" if best else text) + str(fewer or "").translate(RAISED)

    def once(texts):  # a heading stands over its first column only
        return [text if i == 0 or text != texts[i - 1] else "" for i, text in enumerate(texts)]

    levels = [list(level) for level in zip(*grid.columns, strict=True)]
    heads = [["", "", *map(escape, once(level) if i < len(levels) - 1 else level)] for i, level in enumerate(levels)]
    body = [[escape(heading) if i == 0 else "", escape(title), *cells]
            for heading, lines in lines_of(grid, mark) for i, (title, cells) in enumerate(lines)]
    widths = [max(map(len, column)) for column in zip(*heads, *body, strict=True)]
    lines = [heads[0], ["-" * max(width, 3) for width in widths], *heads[1:], *body]
    table = "\n".join("| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in lines)
    about = "\n".join([escape(grid.about[0]), "", *(f"- {escape(text)}" for text in grid.about[1:])])
    notes = "".join(f"\n-{mark} {escape(text)}" for text, mark in grid.footnotes.items())
    return f"# {escape(grid.title)}\n\n{about}\n\n{table}\n" + (f"{notes}\n" if notes else "")


# --- in a terminal ---

NARROW = (("clean", "macro_f1"), ("clean", "ece"), ("corrupted", "macro_f1"), ("corrupted", "ece"))
WIDTH, COLUMN = 80, 14  # characters: of a terminal's line, of a number of the narrow table


def narrow(found: dict[Key, object], blocks: Iterable[Block], demo: bool, most: int) -> list[str]:
    """At most `most` lines of at most `WIDTH` columns: every algorithm's scores before and after calibration.

    found: numbers by `Key`. Runs with label noise are left out; a last line says how many rows did not fit."""
    rows = []
    for block in blocks:
        there = {key.row for key in found if key.block == block}
        pairs = variants(row for row in there if row.loss in LOSSES and not row.noise)
        for variant in sorted(pairs, key=rank):
            cells = [" -> ".join(narrow_number(found.get(Key(block, pairs[variant].get(loss), *which)))
                                 for loss in LOSSES) for which in NARROW]
            rows.append((block, plain(variant_name(variant)), cells))
    if not rows:
        return ["No evaluated run yet."]
    several = len({block for block, _, _ in rows}) > 1
    names = [f"{name}, {plain(block.set)}" if several else name for block, name, _ in rows]
    width = min(max(map(len, [*names, "algorithm"])), WIDTH - 4 * COLUMN)
    where = "several sets" if several else plain(rows[0][0].set)
    meaning = ": %, CE -> calibrated" + (f"; {DEMO}" if demo else "")
    heads = [f"{domain} {HEADINGS[metric]}" for domain, metric in NARROW]
    lines = [shorten(where, WIDTH - len(meaning)) + meaning,
             "".join(["algorithm".ljust(width), *(head.rjust(COLUMN) for head in heads)])]
    room = most - len(lines)
    shown = len(rows) if len(rows) <= room else room - 1
    for (_, _, cells), name in list(zip(rows, names, strict=True))[:shown]:
        lines.append("".join([shorten(name, width).ljust(width), *(cell.rjust(COLUMN) for cell in cells)]))
    if shown < len(rows):
        lines.append(f"and {len(rows) - shown} rows more, in the tables")
    return lines


def narrow_number(line: object | None) -> str:
    """A number of a narrow table, in percent."""
    return "-" if line is None else f"{100 * line.mean:.1f}"


def shorten(text: str, width: int) -> str:
    """A text that is not longer than that: of a longer one the middle is left out."""
    tail = 2 * (width - 2) // 3  # what separates two names stands at their end
    return text if len(text) <= width else f"{text[:width - 2 - tail]}..{text[len(text) - tail:]}"


# --- CSV ---


def write_csv(path: Path, keys: Iterable[Key], found: dict, runs: list[Run], printed: dict | None = None) -> None:
    """The numbers of `keys` that there are, fractions and nats, a line each; published ones beside, or not (None)."""
    columns = ["dataset", "protocol", "image_size", "set", "set_version", "algorithm", "loss", "noise",
               "noise_realised", "domain", "metric", "mean", "sd", "seeds", "n", "settings", "precision", "notes"]
    rates, lines = {}, []
    for run in runs:
        rates.setdefault((run.trained, run.row), []).append(realised(run))
    for key in dict.fromkeys(key for key in keys if key in found):
        stat = found[key]
        line = key.block._asdict() | key.row._asdict() | {
            "settings": key.row.more, "notes": stat.notes,
            "noise_realised": np.mean(rates[key.block[:3], key.row]), "domain": key.domain, "metric": key.metric,
            "mean": stat.mean, "sd": stat.sd, "seeds": stat.seeds}
        if printed is not None:
            value = printed.get(key, nan) / (1 if key.metric == "nll" else 100)
            line |= {"published": value, "difference": stat.mean - value}
        lines.append(line)
    columns += [] if printed is None else ["published", "difference"]
    cli.write_text(path, pd.DataFrame(lines, columns=columns).to_csv(index=False, lineterminator="\n"))
