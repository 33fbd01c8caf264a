"""The look of all figures, and how they are placed and saved.

Figures have the width of a printed column or page, colours that colour-blind readers can tell apart, and the same bytes
each time they are drawn from the same data. `plots.py`, `sequence_plots.py` and `pictures.py` draw with these parts;
`figures.py` applies `STYLE` and saves. matplotlib is imported where a figure is made: importing this module stays
cheap.
"""
from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import metrics
from reporting.notes import plain
from reporting.rows import rank_of_name
from support.files import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
MARKERS = "os^DvPX*"
STYLE = {
    "font.size": 7,
    "axes.titlesize": 7,
    "figure.titlesize": 8,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1,
    "lines.markersize": 3,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titley": 1.0,  # a fixed place: searching for a free one takes a tenth of the drawing time
    "legend.frameon": False,
    "svg.hashsalt": "report",  # the names inside an SVG file are the same every time
    "pdf.fonttype": 42,  # letters as TrueType: text in the PDF can be selected and searched
    "savefig.dpi": 300,
}
FORMATS = ("png", "svg", "pdf")
METADATA = {  # nothing that differs between two machines or two days
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}
COLUMN_WIDTH = 3.3  # inches
PAGE_WIDTH = 6.9
GREY = "0.4"  # of remarks


class LossLook(NamedTuple):
    """How a figure draws an uncalibrated or a calibrated model."""

    colour: str
    line: str
    marker: str


LOSS_LOOKS = {
    "ce": LossLook(OKABE_ITO[1], "--", "o"),
    "maxent+mbls": LossLook(OKABE_ITO[0], "-", "s"),
}


def label(text: object, length: int) -> str:
    """A name as a figure prints it: the middle of a long one is left out, and a dollar starts no formula."""
    text = plain(text)
    if len(text) > length:
        head = length // 2
        text = f"{text[:head]}…{text[head + 1 - length:]}"
    return text.replace("$", r"\$")


def short_class_names(names: Iterable[str]) -> list[str]:
    """Names of classes cut to three letters, or to four where three are not distinct; else numbered."""
    names = [plain(name) for name in names]
    for length in (3, 4):
        cut = [name[:length] for name in names]
        if len(set(cut)) == len(names):
            break
    else:
        cut = [f"{number} {name[:2]}" for number, name in enumerate(names, 1)]
    return [name.replace("$", r"\$") for name in cut]


def variant_names(keys: Iterable[tuple]) -> list[str]:
    """The first entries of some keys, names of variants (rows.py), in the order of the tables."""
    return sorted({key[0] for key in keys}, key=rank_of_name)


def axis_of_metric(name: str) -> tuple[str, int]:
    """What the axis of a metric is called, with its unit, and the factor from scores.csv to that unit."""
    metric = metrics.METRICS.get(name)
    if metric is None:
        return f"{label(name, 24)}, %", 100
    return (f"{metric.label}, %", 100) if metric.percent else (f"{metric.label}, nats", 1)


def lay_out(title: str, lines: Sequence[tuple[float, float]], columns: Sequence[tuple[float, float]],
            right: float = 0.1, bottom: float = 0.3) -> tuple[Figure, list[list[Axes]]]:
    """A figure with a grid of panels, and its panels as axes[line][column].

    All sizes are in inches. lines: (space above, height), from the top; columns: (space before, width), from the left;
    right, bottom: margins. The title takes the room that its lines need."""
    from matplotlib.figure import Figure  # pyplot would open a window and keep state of its own

    top = 0.1 + 0.13 * len(title.split("\n"))
    width = right + sum(space + size for space, size in columns)
    height = top + bottom + sum(space + size for space, size in lines)
    figure = Figure(figsize=(width, height))
    figure.suptitle(title, y=1 - 0.05 / height, va="top")
    axes = []
    y = height - top
    for space_above, panel_height in lines:
        y -= space_above + panel_height
        x = 0.0
        axes_of_line = []
        for space_before, panel_width in columns:
            x += space_before
            place = (x / width, y / height, panel_width / width, panel_height / height)
            axes_of_line.append(figure.add_axes(place))
            x += panel_width
        axes.append(axes_of_line)
    return figure, axes


def save(figure: Figure, stem: Path | str, formats: Iterable[str]) -> None:
    """Write a figure to `stem` + "." + each format. The files hold no dates and no versions."""
    for kind in formats:
        write_whole(f"{stem}.{kind}", partial(figure.savefig, format=kind, metadata=METADATA[kind]))
