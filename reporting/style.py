"""The look of all figures: print width, colours that colour-blind readers tell apart, the same bytes every time."""
from functools import partial

import cli
from reporting.runs import plain, rank_of_name

OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
MARKERS = "os^DvPX*"
STYLE = {"font.size": 7, "axes.titlesize": 7, "figure.titlesize": 8, "axes.linewidth": 0.6, "lines.linewidth": 1,
         "lines.markersize": 3, "xtick.major.width": 0.6, "ytick.major.width": 0.6, "axes.spines.top": False,
         "axes.spines.right": False, "axes.titley": 1.0,  # not searched for: a tenth of the time
         "legend.frameon": False, "svg.hashsalt": "report", "savefig.dpi": 300}
LOOKS = {"ce": (OKABE_ITO[1], "--", "o"), "maxent+mbls": (OKABE_ITO[0], "-", "s")}  # colour, line, marker
NOTHING = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None},
           "pdf": {"CreationDate": None, "Creator": None, "Producer": None}}
COLUMN, TEXT = 3.3, 6.9  # widths in inches: a column, the whole text
METRICS = {"accuracy": "accuracy", "macro_f1": "macro-F1", "nll": "NLL", "kl": "KL", "ece": "ECE", "kse": "KSE",
           "adaece": "AdaECE", "cece": "CECE", "mce": "MCE", "brier": "Brier score"}
NATS = ("nll", "nll_released", "kl")  # all others are fractions, shown as percent


def label(text, length):
    """A name in a figure: its middle left out where it is too long, its dollars no formula."""
    text, head = plain(text), length // 2
    return (text if len(text) <= length else f"{text[:head]}…{text[head + 1 - length:]}").replace("$", r"\$")


def short(names):
    """Names of classes cut to three letters, or four, that keep them apart, else numbered."""
    names = [plain(name) for name in names]
    length = next((n for n in (3, 4) if len({name[:n] for name in names}) == len(names)), None)
    cut = [name[:length] if length else f"{k} {name[:2]}" for k, name in enumerate(names, 1)]
    return [name.replace("$", r"\$") for name in cut]


def algorithms(keys):
    return sorted({key[0] for key in keys}, key=rank_of_name)


def unit(metric):
    """What an axis of a metric is called, and the factor from scores.csv to it."""
    name = METRICS.get(metric, label(metric, 24))
    return (f"{name}, nats", 1) if metric in NATS else (f"{name}, %", 100)


def lay_out(title, rows, columns, right=0.1, bottom=0.3):
    """A figure and its axes[row][column], in inches: rows are (space above, height), columns (space before, width)."""
    from matplotlib.figure import Figure  # no pyplot: no window, no global state
    top = 0.1 + 0.13 * len(title.split("\n"))
    width, height = sum(map(sum, columns)) + right, top + sum(map(sum, rows)) + bottom
    figure, axes, y = Figure(figsize=(width, height)), [], height - top
    figure.suptitle(title, y=1 - 0.05 / height, va="top")
    for above, tall in rows:
        x, y, line = 0, y - above - tall, []
        for before, wide in columns:
            x += before
            line.append(figure.add_axes((x / width, y / height, wide / width, tall / height)))
            x += wide
        axes.append(line)
    return figure, axes


def save(figure, stem, formats):
    """To files without dates and versions in them."""
    for kind in formats:
        cli.write_whole(f"{stem}.{kind}", partial(figure.savefig, format=kind, metadata=NOTHING[kind]))
