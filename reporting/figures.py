"""Figures: print width, colours that colour-blind readers tell apart, the same bytes every time."""
from functools import partial

import numpy as np

import cli
from reporting.predictions import by_severity
from reporting.runs import CELLS, DOMAINS, LOSSES, SEVERITIES, Row, plain, rank

OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
MARKERS = "os^DvPX*"
STYLE = {"font.size": 7, "axes.titlesize": 7, "figure.titlesize": 8, "axes.linewidth": 0.6, "lines.linewidth": 1,
         "lines.markersize": 3, "xtick.major.width": 0.6, "ytick.major.width": 0.6, "axes.spines.top": False,
         "axes.spines.right": False, "legend.frameon": False, "svg.hashsalt": "report", "savefig.dpi": 300}
LOOKS = {"ce": (OKABE_ITO[1], "--", "o"), "maxent+mbls": (OKABE_ITO[0], "-", "s")}  # colour, line, marker


def label(text, length):
    """A name in a figure: its middle left out where it is too long, its dollars no formula."""
    text, head = plain(text), length // 2
    return (text if len(text) <= length else f"{text[:head]}…{text[head + 1 - length:]}").replace("$", r"\$")


def algorithms(keys):
    return sorted({key[0] for key in keys}, key=lambda name: rank(Row(name, "ce", 0)))


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


def draw_block(scores, seen, title, stems, formats):
    """Both figures of one block, as far as there is something to show, without dates and versions in the files."""
    import matplotlib.style
    curves = by_severity(scores)
    nothing = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}}
    with matplotlib.style.context(["default", STYLE]):  # whatever the user's own settings
        for draw, data, stem in ((draw_reliability, seen.bins, stems[0]), (draw_severity, curves, stems[1])):
            figure = draw(data, title) if data else None
            for kind in formats if data else ():
                cli.write_whole(f"{stem}.{kind}", partial(figure.savefig, format=kind, metadata=nothing[kind]))
