"""Figures of scores and predictions, and which figures there are: the paper's 1 to 8 and some more.

report/figures/index.json says what each figure was drawn from, as a hash: what has not changed is not drawn again.
"""
import hashlib
import importlib.metadata
import json
import multiprocessing
import os
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

import cli
from cli import UserError
from corruptions import CORRUPTIONS
from datasets.fer_c import BuiltSet, open_set
from reporting import pictures
from reporting.predictions import Seen, by_cell, by_seed, by_severity
from reporting.runs import BROKEN, CELLS, DOMAINS, LOSSES, SEVERITIES, Block, named_pairs, plain, rank
from reporting.style import (
    COLUMN, LOOKS, MARKERS, OKABE_ITO, STYLE, TEXT, algorithms, label, lay_out, save, unit)
from reporting.tables import DEMO

PER_LINE, LINES = 5, 3  # panels side by side; lines of heat maps on a page


def draw_reliability(bins, title):
    """A column per algorithm, clean above corrupted (a single one: side by side). A panel has accuracy over confidence
    before and after calibration, its markers as large as their share of the images, and that share below."""
    from matplotlib.figure import Figure  # no pyplot: no window, no global state
    from matplotlib.lines import Line2D
    names, domains = algorithms(bins), [domain for domain in DOMAINS if any(key[2] == domain for key in bins)]
    places = {(name, domain): (len(domains) * (i // 5) + j, i % 5) if len(names) > 1 else (0, j)
              for i, name in enumerate(names) for j, domain in enumerate(domains)}
    rows, columns = (1 + max(place) for place in zip(*places.values(), strict=True))
    room = 0.56 + 0.13 * title.count("\n")
    width, height = 6.9 if columns > 2 else 3.3, room + 2.15 * rows
    figure = Figure(figsize=(width, height))
    figure.suptitle(title, y=1 - 0.05 / height, va="top")
    grid = figure.add_gridspec(  # by turns a panel, its strip and room for labels; margins in inches
        3 * rows - 1, columns, height_ratios=([1.2, 0.3, 0.55] * rows)[:-1], hspace=0.12, wspace=0.18,
        left=0.45 / width, right=1 - 0.12 / width, top=1 - room / height, bottom=0.68 / height)
    highest, handles = max((count / count.sum()).max() for count, _, _ in bins.values()), {}
    for (name, domain), (row, column) in places.items():
        above, below = (figure.add_subplot(grid[3 * row + part, column]) for part in (0, 1))
        above.plot([0, 1], [0, 1], color="0.7", linewidth=0.8, zorder=0)
        above.text(0.5, 1.06, "ECE, %", ha="center", color="0.4")
        for side, (loss, (colour, line, marker)) in enumerate(LOOKS.items()):
            if (name, loss, domain) not in bins:
                above.text(side, 1.06, "—", color=colour, ha=("left", "right")[side])
                continue
            count, confidence, accuracy = bins[name, loss, domain]
            share, full = count / count.sum(), count > 0
            x, y = confidence[full] / count[full], accuracy[full] / count[full]
            above.plot(x, y, line, color=colour, linewidth=0.7)
            size = 2 + 60 * share[full]
            above.scatter(x, y, size, color=colour, marker=marker, linewidths=0, clip_on=False, zorder=3)
            ece = np.abs(confidence - accuracy).sum() / count.sum()
            above.text(side, 1.06, f"{100 * ece:.1f}", color=colour, ha=("left", "right")[side])
            below.stairs(100 * share, np.linspace(0, 1, len(count) + 1), color=colour, linestyle=line)
            handles[LOSSES[loss]] = Line2D([], [], color=colour, linestyle=line, marker=marker)
        above.set(xlim=(0, 1), ylim=(0, 1), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1], xticklabels=[])
        above.set_title(f"{label(name, 18 if columns == 3 else 11)}, {domain}", pad=13)
        below.set(xlim=(0, 1), ylim=(0, 110 * highest), xticks=[0, 0.5, 1], xticklabels=["0", "0.5", "1"])
        below.set_xlabel("confidence", labelpad=1)
        for axes, what in ((above, "accuracy"), (below, "images, %")):
            axes.set_ylabel(what) if column == 0 else axes.tick_params(labelleft=False)
    figure.align_ylabels()
    figure.legend(handles.values(), handles, loc="lower center", ncols=2, bbox_to_anchor=(0.5, 0.12 / height))
    if "corrupted" in domains:
        figure.text(0.5, 0.06 / height, f"corrupted: all {len(CELLS)} cells pooled", ha="center", color="0.4")
    return figure


def draw_severity(curves, title):
    """Accuracy and ECE over severity, clean first: a line per algorithm and loss, a band between extreme seeds."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    figure, names = Figure(figsize=(6.9, 2.9), layout="constrained"), algorithms(curves)
    figure.suptitle(title)
    looks = {name: {"color": OKABE_ITO[i % 8], "marker": MARKERS[i % 8]} for i, name in enumerate(names)}
    lines = {loss: {"linestyle": line, **({"markerfacecolor": "white"} if loss == "ce" else {})}
             for loss, (_, line, _) in LOOKS.items()}
    for axes, metric in zip(figure.subplots(1, 2), ("accuracy", "ece"), strict=True):
        for (name, loss), values in sorted(curves.items()):
            values = np.ma.masked_invalid(100 * values[metric])
            axes.plot(range(6), values.mean(axis=0), **looks[name], **lines[loss])
            if len(values) > 1:
                low, high = values.min(axis=0), values.max(axis=0)
                axes.fill_between(range(6), low, high, color=looks[name]["color"], alpha=0.15, linewidth=0)
        axes.set(xlabel="severity", ylabel={"ece": "ECE, %"}.get(metric, f"{metric}, %"), xticks=range(6),
                 xticklabels=["clean", *map(str, SEVERITIES)])
        axes.set_ylim(bottom=0)
    handles = [Line2D([], [], **look) for look in looks.values()]
    handles += [Line2D([], [], color="0.3", marker="o", **line) for line in lines.values()]
    words = [*(label(name, 18) for name in names), *LOSSES.values()]
    figure.legend(handles, words, loc="outside lower center", ncols=7 if max(map(len, words)) < 13 else 4)
    return figure


def draw_kse(scores, title):
    """Figure 5: KSE over macro-F1 before and after calibration, a panel per algorithm: the 85 cells, their mean large.

    scores: {(algorithm, loss): (85 macro-F1, 85 KSE)}, fractions."""
    from matplotlib.lines import Line2D
    names = algorithms(scores)
    across = min(len(names), PER_LINE)
    lines, width = -(-len(names) // PER_LINE), TEXT if across > 2 else COLUMN
    wide = (width - 0.42 - 0.12 - 0.1 * (across - 1)) / across
    columns = [(0.42 if n == 0 else 0.1, wide) for n in range(across)]
    rows = [(0.18 if n == 0 else 0.4, min(wide, 1.6)) for n in range(lines)]
    figure, axes = lay_out(title, rows, columns, 0.12, 0.6)
    top = [105 * max(pair[k].max() for pair in scores.values()) for k in (0, 1)]
    for n in range(lines * across):
        panel = axes[n // across][n % across]
        if n >= len(names):
            panel.remove()
            continue
        for loss, (colour, _, marker) in LOOKS.items():
            if (names[n], loss) in scores:
                f1, kse = (100 * values for values in scores[names[n], loss])
                panel.plot(f1, kse, marker, color=colour, markersize=2, markeredgewidth=0, alpha=0.35)
                if len(f1) == len(CELLS):  # the mean of a part would be taken for that of all
                    panel.plot([f1.mean()], [kse.mean()], marker, color=colour, markersize=6, markeredgecolor="white",
                               markeredgewidth=0.8, clip_on=False, zorder=3)
        panel.set(xlim=(0, top[0]), ylim=(0, top[1]))
        panel.set_title(label(names[n], 16), pad=3)
        panel.tick_params(labelleft=n % across == 0, labelbottom=n + across >= len(names))
        if n % across == 0:
            panel.set_ylabel("KSE, %")
    words = "one of the 85 cells; large: their mean" if width == TEXT else "85 cells; large: mean"
    figure.text((0.42 + width - 0.12) / 2 / width, 0.28 / figure.get_figheight(), f"macro-F1, %; small marker: {words}",
                ha="center")
    handles = [Line2D([], [], color=colour, marker=marker, linestyle="") for colour, _, marker in LOOKS.values()]
    figure.legend(handles, LOSSES.values(), loc="lower center", ncols=2, bbox_to_anchor=(0.5, 0))
    return figure


def draw_nll(values, title):
    """Figure 6: NLL of every algorithm before and after calibration, clean and corrupted: the mean, and each seed.

    values: {(algorithm, loss, domain): nats, one a seed}."""
    from matplotlib.patches import Patch
    names, wide = algorithms(values), 1.08
    figure, axes = lay_out(title, [(0.15, 0.31 * len(names))], [(0.86, wide), (0.18, wide)], 0.1, 0.6)
    longest = max(max(some) for some in values.values())
    for panel, domain in zip(axes[0], DOMAINS, strict=True):
        for y, name in enumerate(names):
            for side, loss in enumerate(LOSSES):
                some, at = values.get((name, loss, domain)), y + 0.4 * side - 0.2
                if some is None:
                    panel.text(0, at, " —", color=LOOKS[loss][0], va="center")
                    continue
                panel.barh(at, some.mean(), 0.36, color=LOOKS[loss][0])
                if len(some) > 1:
                    panel.plot(some, np.full(len(some), at), "|", color="black", markersize=4, markeredgewidth=0.6)
                panel.text(max(some), at, f" {some.mean():.2f}", va="center_baseline")
        panel.set(xlim=(0, 1.3 * longest), ylim=(len(names) - 0.5, -0.5), title=domain, xlabel="NLL, nats")
        panel.set_yticks(range(len(names)), [label(name, 12) for name in names])
        panel.tick_params("y", length=0, labelleft=domain == "clean")
    figure.legend([Patch(color=LOOKS[loss][0]) for loss in LOSSES], LOSSES.values(), loc="lower center", ncols=2,
                  bbox_to_anchor=(0.5, 0))
    return figure


def draw_heat(tables, metric, title):
    """A metric in all 17 x 5 cells, all in the same shades: a column per algorithm, a line per loss.

    tables: {Row: (17, 5)}, NaN where it is missing; rows of one label noise."""
    rows, (name, factor) = sorted(tables, key=rank), unit(metric)
    names, losses = names_of(rows), losses_of(rows)
    width = COLUMN if len(names) == 1 else TEXT
    wide = min((TEXT - 1.02) / len(names) - 0.08, 1.3)
    left = 1.02 + (width - 1.02 - len(names) * (wide + 0.08)) / 2  # few algorithms stand in the middle
    columns = [(left if n == 0 else 0.08, wide) for n in range(len(names))]
    lines = [(0.32 if n == 0 else 0.5, 2.15) for n in range(len(losses))]
    figure, axes = lay_out(title, lines, columns, width - sum(map(sum, columns)), 0.72)
    every = factor * np.stack([tables[row] for row in rows])
    low, high = np.nanmin(every), max(np.nanmax(every), np.nanmin(every) + 1e-9)
    form = ".0f" if high >= 9.5 else ".1f"
    values = {(row.name, row.loss_name): table for row, table in zip(rows, every, strict=True)}
    for panel, (line, column) in ((axes[i][j], (i, j)) for i in range(len(losses)) for j in range(len(names))):
        found = values.get((names[column], losses[line]))
        if found is None:
            panel.axis("off")
            panel.text(0.5, 0.5, "—", transform=panel.transAxes)
        else:
            picture = shade(panel, found, form, low, high)
        panel.set_title(f"{label(names[column], 17)}\n{label(LOSSES.get(losses[line], losses[line]), 17)}", pad=3)
        panel.set_xticks(range(5), SEVERITIES)
        panel.set_yticks(range(17), map(pictures.spoken, CORRUPTIONS))
        panel.tick_params(length=0, pad=2, labelleft=column == 0)
        if line == len(losses) - 1:
            panel.set_xlabel("severity", labelpad=1)
    height, middle = figure.get_figheight(), 0.55
    bar = figure.add_axes((middle - 0.6 / width, 0.33 / height, 1.2 / width, 0.08 / height))
    figure.colorbar(picture, bar, orientation="horizontal").outline.set_visible(False)
    bar.tick_params(length=0, pad=1)
    figure.text(middle - 0.68 / width, 0.37 / height, name, ha="right", va="center")
    return figure


def losses_of(rows):
    """The losses of some rows, with the constants that separate them, in the tables' order."""
    return list(dict.fromkeys(row.loss_name for row in sorted(rows, key=lambda row: rank(row)[-3:])))


def names_of(rows):
    """The algorithms of some rows, with the settings that separate them, in the tables' order."""
    return list(dict.fromkeys(row.name for row in sorted(rows, key=rank)))


def shade(axes, values, form, low, high, zeros=True):
    """A matrix as shaded squares with its numbers in them, a dash where one is missing."""
    picture = axes.imshow(values, cmap="Blues", vmin=low, vmax=high, aspect="auto")
    for (y, x), value in np.ndenumerate(values):
        if zeros or not value < 0.5:
            text = "—" if np.isnan(value) else format(value, form)
            axes.text(x, y, text, ha="center", va="center_baseline",
                      color="white" if value > low + 0.6 * (high - low) else "black")
    axes.spines[:].set_visible(False)
    return picture


def recall_and_f1(counts):
    """(6, K, K) confusions -> recall and F1 of every class, (6, K) each; NaN where there is nothing to find."""
    hits, true, said = (counts.diagonal(axis1=1, axis2=2), counts.sum(2), counts.sum(1))
    return (np.divide(top, below, where=below > 0, out=np.full(hits.shape, np.nan))
            for top, below in ((hits, true), (2 * hits, true + said)))


def draw_classes(confusions, classes, title):
    """What is taken for what: per loss, confusions clean and corrupted; recall and F1 of every class by severity.

    confusions: {loss: int (6, K, K)} of one algorithm, true class first, summed over seeds; clean, severity 1 to 5. A
    line a loss, in this order."""
    names = [label(name, 10) for name in classes]
    size = min(0.18 * len(names), 1.9)
    lines = list(confusions)
    wide = (TEXT - 0.72 - 2 * size - 0.08 - 0.4 - 0.2 - 0.12) / 2
    columns = [(0.72, size), (0.08, size), (0.4, wide), (0.2, wide)]
    below = 0.07 + 0.068 * max(len(name) for name in names)  # the names of the columns, under the last line
    rows = [(0.35 if n == 0 else 0.5, size) for n in range(len(lines))]
    across = 8 if sum(map(len, names)) < 60 else 4
    legend = 0.13 * -(-len(names) // across)
    figure, axes = lay_out(title, rows, columns, 0.12, below + 0.32 + legend)
    looks = [{"color": OKABE_ITO[k % 8], "marker": MARKERS[k % 8], "markersize": 2.5} for k in range(len(classes))]
    for line, loss in zip(axes, lines, strict=True):
        counts = confusions[loss]
        for panel, domain, part in zip(line, DOMAINS, (counts[0], counts[1:].sum(0)), strict=False):
            total = part.sum(1, keepdims=True)
            share = np.divide(100 * part, total, where=total > 0, out=np.full(part.shape, np.nan))
            shade(panel, share, ".0f", 0, 100, zeros=False)
            panel.set_title(domain, pad=3)
            panel.set_xticks(range(len(names)), names, rotation=90)
            panel.set_yticks(range(len(names)), names)
            panel.tick_params(length=0, pad=2, labelleft=domain == "clean", labelbottom=line is axes[-1])
        line[0].text(0, 1 + 0.19 / size, label(LOSSES.get(loss, loss), 40), transform=line[0].transAxes, weight="bold")
        for panel, name, values in zip(line[2:], ("recall", "F1"), recall_and_f1(counts), strict=True):
            for k, look in enumerate(looks):
                panel.plot(range(6), 100 * values[:, k], linewidth=0.7, clip_on=False, **look)
            panel.set(xlim=(-0.3, 5.2), ylim=(0, 100), xticks=range(6), xticklabels=["clean", *map(str, SEVERITIES)])
            panel.set_title(f"{name}, %", pad=3)
            panel.tick_params(length=2, pad=1, labelleft=name == "recall")
            panel.set_xlabel("severity" if line is axes[-1] else "", labelpad=1)
    figure.text(0.72 / TEXT, (0.15 + legend) / figure.get_figheight(), "rows: given class; "
                "columns: predicted, % of the row; corrupted: all 85 cells", va="center", color="0.4")
    figure.legend(line[2].get_lines(), names, loc="lower center", ncols=across,
                  bbox_to_anchor=(0.5, 0), columnspacing=1, handlelength=1.5)
    return figure


# --- which figures there are ---

README_SHOWS = ("reliability", "severity", "figure3_pipeline", "heatmap_ece")
HEATMAPS = ("ece", "macro_f1")
RIGHTS = ("they show images of the data set, whose licence may not let them be passed on; "
          "where it does, --with-images draws them")


def figures_of_scores(scores, seen, title, metrics):
    """{name of the file: (draw function, *data)} of what needs no built set; None for data that is not there."""
    paired = scores[(scores["noise"] == 0) & scores["loss"].isin(LOSSES)]
    f1, kse = by_cell(paired, "macro_f1"), by_cell(paired, "kse")
    pairs = {key: np.stack([f1[row].ravel(), kse[row].ravel()]) for key, row in named_pairs(f1).items() if row in kse}
    pairs = {key: pair[:, np.isfinite(pair).all(0)] for key, pair in pairs.items()}
    pairs = {key: pair for key, pair in pairs.items() if pair.size}
    values = by_seed(paired, "nll")
    nll = {(*key, domain): values[row, domain] for key, row in named_pairs(row for row, _ in values).items()
           for domain in DOMAINS if (row, domain) in values}
    some = {"reliability": (draw_reliability, seen.bins, title),
            "severity": (draw_severity, by_severity(scores), title), "figure5_kse_f1": (draw_kse, pairs, title),
            "figure6_nll": (draw_nll, nll, title)}
    for metric in metrics:
        tables = {row: table for row, table in by_cell(scores, metric).items() if np.isfinite(table).any()}
        for noise in sorted({row.noise for row in tables}) or [0]:
            pages = pages_of([row for row in tables if row.noise == noise])
            for page, rows in enumerate(pages, 1):
                name = f"heatmap_{safe(metric)}" + noisy(noise) + (f"_{page}" if len(pages) > 1 else "")
                some[name] = draw_heat, {row: tables[row] for row in rows}, metric, title + spoken_noise(noise)
    names = sorted({(row.name, row.noise) for row in seen.confusions})
    for name, noise in names:
        file = f"classes_{safe(name)}" + noisy(noise)
        while file in some:  # two names that differ in what a file name cannot hold
            file += "_"
        rows = sorted((row for row in seen.confusions if (row.name, row.noise) == (name, noise)), key=rank)
        for page, part in enumerate(pages := pages_of(rows), 1):
            some[file + (f"_{page}" if len(pages) > 1 else "")] = (
                draw_classes, {row.loss_name: seen.confusions[row] for row in part}, seen.classes,
                f"{label(name, 40)}: {title}{spoken_noise(noise)}")
    return some


def figures_of_set(built, title, args):
    """The same of a built set, in two parts: what shows none of its images, and what does."""
    i = pictures.choose_image(built, args.image)
    return {"figure4_visibility": (pictures.draw_visibility, built, title)}, {
        "figure1_severities": (pictures.draw_severities, built, title, i, args.corruption),
        "figure2_gallery": (pictures.draw_gallery, built, title, i),
        "figure3_pipeline": (pictures.draw_pipeline, built, title, i, (args.corruption, 3)),
        "figure7_measures": (pictures.draw_measures, built, title, i),
        "figure8_labels": (pictures.draw_survey, built, title, args.survey)}


def pages_of(rows):
    """Rows in parts that fit on a page as heat maps: of so many algorithms and losses each, as near as can be."""
    names, losses = names_of(rows), losses_of(rows)
    parts = [[row for row in rows if row.name in names[a:a + PER_LINE] and row.loss_name in losses[b:b + LINES]]
             for b in range(0, len(losses), LINES) for a in range(0, len(names), PER_LINE)]
    return [part for part in parts if part] or [[]]


def safe(name):
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name)[:40]


def noisy(noise):
    return f"_noise{100 * noise:g}" if noise else ""


def spoken_noise(noise):
    return f"\n{100 * noise:g} % label noise in training" if noise else ""


def write_figure(stem, formats, draw, *data):
    """One figure to its files. Returns why it cannot be drawn, or None."""
    import matplotlib.style
    if not data[0]:
        return "no scores or predictions that it could show"
    with matplotlib.style.context(["default", STYLE]):  # whatever the user's own settings
        try:
            figure = draw(*data)
        except BROKEN as error:
            return cli.first_line(error)
        save(figure, stem, formats)
    return None


# --- drawing what is asked for and not up to date ---

INDEX = "index.json"
OURS = re.compile(r"(reliability|severity|figure\d|heatmap_|classes_)[A-Za-z0-9_.-]*\.(png|svg)")  # behind a slug
OF_SET = ("figure1_severities", "figure2_gallery", "figure3_pipeline", "figure4_visibility", "figure7_measures",
          "figure8_labels")  # figures that need the built set
SOURCES = ("figures.py", "pictures.py", "style.py")  # a figure drawn by other code is another figure


def is_asked(name: str, asked: str) -> bool:
    """Whether `--figures` asks for a figure: all, none, paper (figures 1 to 8), or the starts of names."""
    if asked in ("all", "none"):
        return asked == "all"
    starts = ("figure",) if asked == "paper" else tuple(filter(None, asked.split(",")))
    return name.startswith(starts)


def check_asked(asked: str) -> None:
    """Raises UserError where `--figures` asks for something that is no figure."""
    known = ("reliability", "severity", *(f"figure{n}" for n in range(1, 9)), "heatmap", "classes")
    for start in [] if asked in ("all", "paper", "none") else asked.split(","):
        if not any(start and (start.startswith(name) or name.startswith(start)) for name in known):
            raise UserError(f"--figures {asked}: give all, paper, none, or names such as {', '.join(known)}")


def fingerprint(*values: Any) -> str:
    """A hash of what a figure is drawn from: numbers, texts, arrays, and containers of them; of a built set what it
    says about itself, and when its tables were written."""
    whole = hashlib.sha256()

    def add(value):
        if isinstance(value, BuiltSet):
            tables = sorted(path for path in value.folder.glob("*.*") if path.is_file())
            stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in tables]
            add([json.dumps(value.manifest, sort_keys=True), stats, value.has_images])
        elif isinstance(value, np.ndarray):
            whole.update(f"{value.dtype.str}{value.shape}".encode() + np.ascontiguousarray(value).tobytes())
        elif isinstance(value, dict):
            add([entry for item in value.items() for entry in item])
        elif isinstance(value, list | tuple):
            whole.update(f"[{len(value)}".encode())
            for entry in value:
                add(entry)
        else:
            whole.update(f"{type(value).__name__}:{value!r};".encode())

    add(values)
    return whole.hexdigest()


def drawn_by() -> list[str]:
    """What besides its data decides how a figure looks: the code that draws it, and the libraries."""
    code = [hashlib.sha256(Path(__file__).with_name(name).read_bytes()).hexdigest() for name in SOURCES]
    return [*code, *(importlib.metadata.version(name) for name in ("matplotlib", "numpy"))]


def read_index(folder: Path) -> dict[str, dict[str, str]]:
    """{name of a file: {"drawn_from": hash of the data, "sha256": of the file}}; empty where it is damaged."""
    try:
        index = cli.read_json(folder / INDEX)
        return {name: entry for name, entry in index.items() if isinstance(entry, dict)}
    except (OSError, UserError):
        return {}


def is_current(folder: Path, names: list[str], index: dict, stamp: str) -> bool:
    """Whether these files are there, as they were drawn, from the data with this hash."""
    entries = [index.get(name, {}) for name in names]
    return all(entry.get("drawn_from") == stamp and (folder / name).is_file()
               and entry.get("sha256") == hash_of(folder / name)
               for name, entry in zip(names, entries, strict=True))


@contextmanager
def open_pool() -> Iterator[Executor]:
    """The processes that draw; where anything is raised they are not waited for longer than a figure takes."""
    processes = min(4, len(os.sched_getaffinity(0)))
    with ProcessPoolExecutor(processes, multiprocessing.get_context("fork")) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


class Drawing:
    """The figures of one block that `args.figures` asks for, as PNG and SVG; for the README some of them, as PNG.

    They are begun at once, in the processes of `pool`, and finished by `finish`, so that other work can go on beside
    it. What is up to date is left as it is, what shows runs that are gone is removed."""

    def __init__(self, pool: Executor, scores, block: Block, seen: Seen, args, folder: Path, readme: bool = False):
        self.block, self.folder, self.readme, self.lines = block, folder, readme, []
        self.asked = "all" if readme else args.figures
        self.slug, formats = ("demo", ("png",)) if readme else (block.slug, ("png", "svg"))
        there = folder.is_dir() and any(is_of_block(path.name, self.slug) for path in folder.iterdir())
        wanted = self.choose(scores, seen, args) if there or self.asked != "none" else {}
        self.index, code = {} if readme else read_index(folder), drawn_by()
        self.stamps = {name: fingerprint(code, draw.__name__, *data) for name, (draw, *data) in wanted.items()}
        self.files = {name: [f"{self.slug}_{name}.{kind}" for kind in formats] for name in wanted}
        self.current = [name for name in wanted
                        if is_current(folder, self.files[name], self.index, self.stamps[name])]
        to_draw = [name for name in wanted if name not in self.current and is_asked(name, self.asked)]
        self.jobs = {name: pool.submit(write_figure, folder / f"{self.slug}_{name}", formats, *wanted[name])
                     for name in to_draw}

    def choose(self, scores, seen: Seen, args) -> dict[str, tuple]:
        """{name: (draw function, *data)} of all figures that could be drawn, or are not asked for."""
        block = self.block
        title = f"{label(block.set, 30)}, N = {block.n}" + (f"\n{DEMO}" if seen.demo else "")
        title += "" if block.precision == "32" else f"\nscored in {label(block.precision, 20)}"
        wanted = figures_of_scores(scores, seen, title, args.heatmap or HEATMAPS)
        if self.set_is_asked():
            try:
                wanted |= open_figures_of_set(block, seen, title, args, self.leave_out)
            except BROKEN as error:
                self.leave_out(OF_SET, error)
        return {name: how for name, how in wanted.items() if not self.readme or name in README_SHOWS}

    def set_is_asked(self) -> bool:
        return any(is_asked(name, self.asked) for name in OF_SET)

    def leave_out(self, names: Iterable[str], reason: object) -> None:
        """Note that figures are not drawn, those that are asked for."""
        names = [name for name in names if is_asked(name, self.asked) and (not self.readme or name in README_SHOWS)]
        if names:
            self.lines.append(f"{self.block.name}: not drawn: {', '.join(names)}: {plain(reason)}")

    def finish(self) -> list[str]:
        """Wait for the figures. Returns what could not be drawn, a line each."""
        for name, job in tqdm(self.jobs.items(), desc=f"figures of {plain(self.block.name)}", unit="", disable=None):
            reason = job.result()
            if reason:
                self.leave_out([name], reason)
            else:
                self.current.append(name)
        if not self.readme:
            self.tidy_up()
        return self.lines

    def tidy_up(self) -> None:
        """Remove the block's figures that show runs that are gone, and write the index: the block's figures and those
        of other blocks. Files that are no figures of ours are left alone."""
        folder, index = self.folder, read_index(self.folder)  # other blocks may have changed it
        kept = {file: {"drawn_from": self.stamps[name], "sha256": hash_of(folder / file)}
                for name in self.current for file in self.files[name] if (folder / file).is_file()}
        for file, entry in index.items():
            of_set = is_of_block(file, self.slug) and file.removeprefix(f"{self.slug}_").startswith(OF_SET)
            if of_set and not self.set_is_asked():  # still those of the set that the slug names
                kept[file] = entry
        for path in sorted(folder.glob("*")) if folder.is_dir() else ():
            if is_of_block(path.name, self.slug) and path.name not in kept and path.is_file():
                path.unlink()
        kept |= {file: entry for file, entry in index.items() if not is_of_block(file, self.slug)}
        kept = {file: entry for file, entry in sorted(kept.items()) if (folder / file).is_file()}
        if kept or (folder / INDEX).exists():
            cli.write_text(folder / INDEX, json.dumps(kept, indent=1))


def is_of_block(file: str, slug: str) -> bool:
    """Whether a file is named as a figure of the block with this slug."""
    return file.startswith(f"{slug}_") and OURS.fullmatch(file.removeprefix(f"{slug}_")) is not None


def hash_of(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def open_figures_of_set(block: Block, seen: Seen, title: str, args, leave_out) -> dict[str, tuple]:
    """The figures of a block's built set, by name; those that may not be drawn go to `leave_out(names, why)`."""
    if seen.folder is None:
        raise UserError("no predictions say which built set they are of")
    built = open_set(seen.folder)
    if built.manifest["set_version"] != block.set_version:
        raise UserError(f"{seen.folder} is another version by now; --set DIR names the one that was scored")
    plots, photographs = figures_of_set(built, title, args)
    if args.with_images or built.made_with["dataset"] == "demo":
        if not built.has_images:
            built.check_images()
        return plots | photographs
    leave_out(photographs, RIGHTS)
    return plots


def remove_others(folder: Path, blocks: list[Block]) -> None:
    """Remove the figures that the index lists of blocks that are gone."""
    for name in read_index(folder):
        path = folder / name
        if Path(name).name == name and name.endswith((".png", ".svg")) and path.is_file():
            if not any(is_of_block(name, block.slug) for block in blocks):
                path.unlink()
