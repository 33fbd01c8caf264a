"""Figures of scores and predictions: reliability, severity curves, figures 5 and 6 of the paper, heat maps, confusions.

Each function `draw_*` takes numbers and a title and returns a matplotlib figure; `catalogue.py` decides which figures a
block has and gathers their numbers. The first line of a figure's title says what the figure shows. Sizes are in inches.
A cell is a corruption at a severity (corruptions.py), a row what a table averages over seeds, a variant a row without
its loss (rows.py). The name of a variant is its algorithm, with the settings and constants that separate it from
others.
"""
from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from corruptions import SEVERITIES
from reporting.cells import FER_C
from reporting.rows import COMPARED_LOSSES, rank, Row
from reporting.scores import DOMAINS
from reporting.style import (
    COLUMN_WIDTH, GREY, LOSS_LOOKS, MARKERS, OKABE_ITO, PAGE_WIDTH, LossLook, axis_of_metric, label, lay_out,
    variant_names)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

PANELS_PER_LINE = 5
STEP_NAMES = ["clean", *map(str, SEVERITIES)]  # labels of an axis that begins with the clean images
SIDES = dict(zip(COMPARED_LOSSES, ("left", "right"), strict=True))  # where a loss stands in a panel that shows both


def paired_legend(figure: Figure, handles: Iterable, y: float = 0) -> None:
    """The legend of uncalibrated and calibrated models, in the middle of the lower margin."""
    figure.legend(list(handles), COMPARED_LOSSES.values(), loc="lower center", ncols=2, bbox_to_anchor=(0.5, y))


# --- reliability diagrams ---

RELIABILITY_LEFT, RELIABILITY_RIGHT, RELIABILITY_BOTTOM = 0.45, 0.12, 0.68
RELIABILITY_TOP = 0.56  # with a title of one line
TITLE_LINE = 0.13
RELIABILITY_LINE = 2.15  # height of a panel, its histogram and the space under them
HEIGHT_RATIOS = [1.2, 0.3, 0.55]  # of a panel, its histogram and that space


def draw_reliability(bins: Mapping[tuple[str, str, str], np.ndarray], title: str,
                     corruptions: Sequence[str] = FER_C) -> Figure:
    """Accuracy by confidence with cross-entropy and with the calibrated loss, on clean and on corrupted images.

    bins: {(name of a variant, loss, domain): float (3, 15)}, as `predictions.read_bins` returns them. corruptions: of
    the set. A column of panels is a variant; clean images stand above corrupted ones, or left of them where there is
    one variant. Under each panel a histogram shows the images of every bin in percent; the area of a marker shows the
    same."""
    from matplotlib.figure import Figure

    names = variant_names(bins)
    domains = [domain for domain in DOMAINS if any(key[2] == domain for key in bins)]
    places = reliability_places(names, domains)
    lines = 1 + max(line for line, _ in places.values())
    columns = 1 + max(column for _, column in places.values())
    title = f"Reliability: accuracy by confidence\n{title}"
    top = RELIABILITY_TOP + TITLE_LINE * title.count("\n")
    width = PAGE_WIDTH if columns > 2 else COLUMN_WIDTH
    height = top + RELIABILITY_LINE * lines
    figure = Figure(figsize=(width, height))
    figure.suptitle(title, y=1 - 0.05 / height, va="top")
    grid = figure.add_gridspec(
        len(HEIGHT_RATIOS) * lines - 1, columns, height_ratios=(HEIGHT_RATIOS * lines)[:-1], hspace=0.12, wspace=0.18,
        left=RELIABILITY_LEFT / width, right=1 - RELIABILITY_RIGHT / width, top=1 - top / height,
        bottom=RELIABILITY_BOTTOM / height)
    largest = max((count / count.sum()).max() for count, _, _ in bins.values())
    for (name, domain), (line, column) in places.items():
        panel = figure.add_subplot(grid[len(HEIGHT_RATIOS) * line, column])
        histogram = figure.add_subplot(grid[len(HEIGHT_RATIOS) * line + 1, column])
        panel.plot([0, 1], [0, 1], color="0.7", linewidth=0.8, zorder=0)
        panel.text(0.5, 1.06, "ECE, %", ha="center", color=GREY)
        for loss, look in LOSS_LOOKS.items():
            draw_bins(panel, histogram, bins.get((name, loss, domain)), look, SIDES[loss])
        panel.set(xlim=(0, 1), ylim=(0, 1), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1], xticklabels=[])
        panel.set_title(f"{label(name, 18 if columns == 3 else 11)}, {domain}", pad=13)
        histogram.set(xlim=(0, 1), ylim=(0, 110 * largest), xticks=[0, 0.5, 1], xticklabels=["0", "0.5", "1"])
        histogram.set_xlabel("confidence", labelpad=1)
        for axes, text in ((panel, "accuracy"), (histogram, "images, %")):
            if column == 0:
                axes.set_ylabel(text)
            else:
                axes.tick_params(labelleft=False)
    figure.align_ylabels()
    paired_legend(figure, loss_lines(), 0.12 / height)
    if "corrupted" in domains:
        cells = len(SEVERITIES) * len(corruptions)
        figure.text(0.5, 0.06 / height, f"corrupted: all {cells} cells pooled", ha="center", color=GREY)
    return figure


def reliability_places(names: Sequence[str], domains: Sequence[str]) -> dict[tuple[str, str], tuple[int, int]]:
    """Line and column of the panel of every algorithm and domain."""
    if len(names) == 1:
        return {(names[0], domain): (0, number) for number, domain in enumerate(domains)}
    places = {}
    for number, name in enumerate(names):
        for offset, domain in enumerate(domains):
            line = len(domains) * (number // PANELS_PER_LINE) + offset
            places[name, domain] = (line, number % PANELS_PER_LINE)
    return places


def draw_bins(panel: Axes, histogram: Axes, bins: np.ndarray | None, look: LossLook, side: str) -> None:
    """One loss in a reliability diagram: its points, its ECE above them, and its histogram. side: where the ECE stands,
    left or right."""
    x = 0 if side == "left" else 1
    if bins is None:
        panel.text(x, 1.06, "—", color=look.colour, ha=side)
        return
    count, confidence, accuracy = bins
    fraction = count / count.sum()
    full = count > 0
    mean_confidence = confidence[full] / count[full]
    mean_accuracy = accuracy[full] / count[full]
    panel.plot(mean_confidence, mean_accuracy, look.line, color=look.colour, linewidth=0.7)
    panel.scatter(mean_confidence, mean_accuracy, 2 + 60 * fraction[full], color=look.colour, marker=look.marker,
                  linewidths=0, clip_on=False, zorder=3)
    ece = np.abs(confidence - accuracy).sum() / count.sum()
    panel.text(x, 1.06, f"{100 * ece:.1f}", color=look.colour, ha=side)
    histogram.stairs(100 * fraction, np.linspace(0, 1, len(count) + 1), color=look.colour, linestyle=look.line)


def loss_lines() -> list:
    """Legend entries of lines with markers, one for each loss of `COMPARED_LOSSES`."""
    from matplotlib.lines import Line2D

    return [Line2D([], [], color=look.colour, linestyle=look.line, marker=look.marker) for look in LOSS_LOOKS.values()]


# --- curves by severity ---


def draw_severity(curves: Mapping[tuple[str, str], Mapping[str, np.ndarray]], title: str,
                  corruptions: Sequence[str] = FER_C) -> Figure:
    """Accuracy and ECE on clean images and at every severity: a line per algorithm and loss.

    curves: {(name of a variant, loss): {metric: float (seeds, 6)}}, as `series.by_severity` returns them.
    corruptions: of the set. A line is the mean over seeds; a band reaches from the lowest seed to the highest."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    figure = Figure(figsize=(PAGE_WIDTH, 3.05), layout="constrained")
    figure.suptitle(f"Accuracy and ECE by severity, mean over the {len(corruptions)} corruptions\n{title}")
    names = variant_names(curves)
    looks = {name: {"color": OKABE_ITO[number % 8], "marker": MARKERS[number % 8]}
             for number, name in enumerate(names)}
    lines: dict[str, dict[str, str]] = {loss: {"linestyle": look.line} for loss, look in LOSS_LOOKS.items()}
    lines["ce"]["markerfacecolor"] = "white"
    steps = range(len(STEP_NAMES))
    for axes, metric in zip(figure.subplots(1, 2), ("accuracy", "ece"), strict=True):
        axis, factor = axis_of_metric(metric)
        for (name, loss), values_by_metric in sorted(curves.items()):
            values = np.ma.masked_invalid(factor * values_by_metric[metric])
            axes.plot(steps, values.mean(axis=0), **looks[name], **lines[loss])
            if len(values) > 1:
                axes.fill_between(steps, values.min(axis=0), values.max(axis=0), color=looks[name]["color"], alpha=0.15,
                                  linewidth=0)
        axes.set(xlabel="severity", ylabel=axis, xticks=steps, xticklabels=STEP_NAMES)
        axes.set_ylim(bottom=0)
    handles = [Line2D([], [], **look) for look in looks.values()]
    handles += [Line2D([], [], color="0.3", marker="o", **line) for line in lines.values()]
    texts = [label(name, 18) for name in names] + list(COMPARED_LOSSES.values())
    columns = 7 if max(map(len, texts)) < 13 else 4
    figure.legend(handles, texts, loc="outside lower center", ncols=columns)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # the layout stands: it is not computed again for each format
    return figure


# --- figure 5: KSE over F1 ---

KSE_LEFT, KSE_RIGHT, KSE_BOTTOM = 0.42, 0.12, 0.74
KSE_SPACE = 0.1  # between two panels
KSE_TALLEST = 1.6

Pair = tuple[np.ndarray, np.ndarray]


def draw_kse(scores: Mapping[tuple[str, str], Pair | np.ndarray], title: str,
             clean: Mapping[tuple[str, str], tuple[float, float]] | None = None,
             corruptions: Sequence[str] = FER_C) -> Figure:
    """Figure 5: KSE over macro-F1 with cross-entropy and with the calibrated loss, clean images beside corrupted ones.

    scores: {(name of a variant, loss): (macro-F1, KSE)}, float (cells,) each, of as many cells as are known; clean: the
    same two numbers of the clean images; all fractions. corruptions: of the set. A panel is a variant. Where all cells
    are there, their mean is drawn large."""
    all_cells = len(SEVERITIES) * len(corruptions)
    names = variant_names(scores)
    clean = clean or {}
    columns = min(len(names), PANELS_PER_LINE)
    lines = -(-len(names) // PANELS_PER_LINE)
    width = PAGE_WIDTH if columns > 2 else COLUMN_WIDTH
    panel_width = (width - KSE_LEFT - KSE_RIGHT - KSE_SPACE * (columns - 1)) / columns
    figure, axes = lay_out(
        f"KSE over F1, clean and corrupted images\n{title}",
        spread(lines, 0.18, 0.4, min(panel_width, KSE_TALLEST)), spread(columns, KSE_LEFT, KSE_SPACE, panel_width),
        KSE_RIGHT, KSE_BOTTOM)
    largest_f1 = largest_of(scores, clean, 0)
    largest_kse = largest_of(scores, clean, 1)
    for number in range(lines * columns):
        line, column = divmod(number, columns)
        panel = axes[line][column]
        if number >= len(names):
            panel.remove()
            continue
        name = names[number]
        for loss, look in LOSS_LOOKS.items():
            if (name, loss) in scores:
                draw_kse_points(panel, scores[name, loss], clean.get((name, loss)), look, all_cells)
        panel.set(xlim=(0, 105 * largest_f1), ylim=(0, 105 * largest_kse))
        panel.set_title(label(name, 16), pad=3)
        panel.tick_params(labelleft=column == 0, labelbottom=number + columns >= len(names))
        if column == 0:
            panel.set_ylabel(axis_of_metric("kse")[0], labelpad=1)
    height = figure.get_figheight()
    middle = (KSE_LEFT + width - KSE_RIGHT) / 2 / width
    figure.text(middle, 0.42 / height, f"macro-{axis_of_metric('macro_f1')[0]}", ha="center")
    remark = f"small: the {all_cells} cells; large: their mean; outlined: clean images"
    figure.text(0.5, 0.25 / height, remark, ha="center", color=GREY)
    paired_legend(figure, markers_of_losses())
    return figure


def spread(count: int, first: float, space: float, size: float) -> list[tuple[float, float]]:
    """Lines or columns for `lay_out` of one size: space before the first, space before each other, size."""
    return [(first if number == 0 else space, size) for number in range(count)]


def largest_of(scores: Mapping, clean: Mapping, place: int) -> float:
    """The largest F1 (place 0) or KSE (place 1) of figure 5, a fraction."""
    return max([pair[place].max() for pair in scores.values()] + [pair[place] for pair in clean.values()])


def draw_kse_points(panel: Axes, cells: Pair | np.ndarray, clean: tuple[float, float] | None, look: LossLook,
                    all_cells: int) -> None:
    """One loss in a panel of figure 5. all_cells: how many the set has."""
    f1, kse = (100 * values for values in cells)
    if clean is not None:
        panel.scatter([100 * clean[0]], [100 * clean[1]], 26, marker=look.marker, facecolor="none",
                      edgecolor=look.colour, linewidths=1, clip_on=False, zorder=4)
    panel.plot(f1, kse, look.marker, color=look.colour, markersize=2, markeredgewidth=0, alpha=0.35)
    if len(f1) == all_cells:  # the mean of fewer would be taken for that of all
        panel.plot([f1.mean()], [kse.mean()], look.marker, color=look.colour, markersize=6, markeredgecolor="white",
                   markeredgewidth=0.8, clip_on=False, zorder=3)


def markers_of_losses() -> list:
    """Legend entries of markers without lines, one for each loss of `COMPARED_LOSSES`."""
    from matplotlib.lines import Line2D

    return [Line2D([], [], color=look.colour, marker=look.marker, linestyle="") for look in LOSS_LOOKS.values()]


# --- figure 6: NLL ---

NLL_LEFT, NLL_PANEL, NLL_SPACE = 0.86, 1.08, 0.18
BAR, BAR_OFFSET = 0.36, 0.2  # thickness, and distance from the algorithm's line, in lines


def draw_nll(values: Mapping[tuple[str, str, str], np.ndarray], title: str) -> Figure:
    """Figure 6: NLL of every algorithm with cross-entropy and with the calibrated loss, clean and corrupted.

    values: {(name of a variant, loss, domain): float (seeds,)}, in nats. A bar is the mean over seeds, a tick on it
    a seed."""
    from matplotlib.patches import Patch

    names = variant_names(values)
    figure, axes = lay_out(f"NLL, clean and corrupted images\n{title}", [(0.15, 0.31 * len(names))],
                           [(NLL_LEFT, NLL_PANEL), (NLL_SPACE, NLL_PANEL)], 0.1, 0.6)
    longest = max(max(of_seeds) for of_seeds in values.values())
    for panel, domain in zip(axes[0], DOMAINS, strict=True):
        for line, name in enumerate(names):
            for loss, look in LOSS_LOOKS.items():
                y = line - BAR_OFFSET if SIDES[loss] == "left" else line + BAR_OFFSET
                draw_bar(panel, y, values.get((name, loss, domain)), look.colour)
        panel.set(xlim=(0, 1.3 * longest), ylim=(len(names) - 0.5, -0.5), title=domain,
                  xlabel=axis_of_metric("nll")[0])
        panel.set_yticks(range(len(names)), [label(name, 12) for name in names])
        panel.tick_params("y", length=0, labelleft=domain == "clean")
    paired_legend(figure, [Patch(color=look.colour) for look in LOSS_LOOKS.values()])
    return figure


def draw_bar(panel: Axes, y: float, of_seeds: np.ndarray | None, colour: str) -> None:
    """A bar with its number, and a tick for each seed where there are several; a dash where there is none."""
    if of_seeds is None:
        panel.text(0, y, " —", color=colour, va="center")
        return
    panel.barh(y, of_seeds.mean(), BAR, color=colour)
    if len(of_seeds) > 1:
        panel.plot(of_seeds, np.full(len(of_seeds), y), "|", color="black", markersize=4, markeredgewidth=0.6)
    panel.text(max(of_seeds), y, f" {of_seeds.mean():.2f}", va="center_baseline")


# --- heat maps by corruption and severity ---

HEAT_LEFT = 1.02  # room for the names of the corruptions
HEAT_LETTER = 0.055  # of a letter in one of them
HEAT_SPACE = 0.08
HEAT_WIDEST, HEAT_HEIGHT = 1.3, 2.28
HEAT_BOTTOM = 0.72
BAR_LEFT, BAR_BOTTOM, BAR_WIDTH, BAR_HEIGHT = 0.6, 0.33, 1.2, 0.08  # of the colour bar; left: from the figure's middle


class Shades(NamedTuple):
    """The numbers that the lightest and the darkest shade of a heat map stand for, and how numbers are printed."""

    low: float
    high: float
    form: str


def draw_heat(tables: Mapping[Row, np.ndarray], metric: str, title: str,
              clean: Mapping[Row, float] | None = None, corruptions: Sequence[str] = FER_C) -> Figure:
    """A metric at every corruption and severity: a column of panels per algorithm, a line of panels per loss.

    tables: {row: float (C, 5)}, NaN where a cell is missing, as `series.by_cell` returns them, of rows with the same
    label noise; clean: the metric on the clean images, where it is known; corruptions: of the set. Each panel has the
    clean images as its first column and the mean over the corruptions as its last row. All panels have the same
    shades."""
    rows = sorted(tables, key=rank)
    names = algorithm_names_of(rows)
    losses = loss_names_of(rows)
    axis, factor = axis_of_metric(metric)
    clean = clean or {}
    values = {}
    for row in rows:
        values[row.name, row.loss_name] = factor * with_mean_and_clean(tables[row], clean.get(row, np.nan))
    shades = shades_of(values.values())
    figure, axes = lay_out_heat(f"{axis}, by corruption and severity\n{title}", len(losses), len(names), corruptions)
    picture = None
    for line, loss in enumerate(losses):
        for column, name in enumerate(names):
            panel = axes[line][column]
            if (name, loss) in values:
                picture = shade_cells(panel, values[name, loss], shades)
            else:
                panel.axis("off")
                panel.text(0.5, 0.5, "—", transform=panel.transAxes)
            panel.set_title(f"{label(name, 17)}\n{label(COMPARED_LOSSES.get(loss, loss), 17)}", pad=3)
            panel.set_xticks(range(1 + len(SEVERITIES)), ["c", *SEVERITIES])
            panel.set_yticks(range(1 + len(corruptions)), [*map(spoken, corruptions), "mean"])
            panel.tick_params(length=0, pad=2, labelleft=column == 0)
            if line == len(losses) - 1:
                panel.set_xlabel("c: clean; severity", labelpad=1)
    add_colour_bar(figure, picture, axis)
    return figure


def spoken(corruption: str) -> str:
    """A corruption as figures print it."""
    return short_name(corruption).replace("_", " ")


def short_name(corruption: str) -> str:
    """A corruption with the short names of the two that the mixtures of preset mivia end in."""
    return corruption.replace("_contrast_brightness_minus", "_c._b._minus")


def with_mean_and_clean(table: np.ndarray, clean: float) -> np.ndarray:
    """A table (C, 5) with a row of means over corruptions below and the clean score left of it, (C + 1, 6).

    A mean is NaN where one of its cells is missing: the mean of the others would be taken for it."""
    mean = table.mean(axis=0, keepdims=True)
    whole = np.concatenate([table, mean])
    return np.concatenate([np.full((len(whole), 1), clean), whole], axis=1)


def shades_of(tables: Iterable[np.ndarray]) -> Shades:
    """Shades that hold all numbers of these tables."""
    every = np.stack(list(tables))
    low = np.nanmin(every)
    high = max(np.nanmax(every), low + 1e-9)
    return Shades(low, high, ".0f" if high >= 9.5 else ".1f")


def lay_out_heat(title: str, lines: int, columns: int,
                 corruptions: Sequence[str]) -> tuple[Figure, list[list[Axes]]]:
    """The panels of a heat map; few algorithms stand in the middle."""
    names = HEAT_LEFT + room_for_names(corruptions)
    width = COLUMN_WIDTH if columns == 1 else PAGE_WIDTH
    panel_width = min((PAGE_WIDTH - names) / columns - HEAT_SPACE, HEAT_WIDEST)
    left = names + (width - names - columns * (panel_width + HEAT_SPACE)) / 2
    places = spread(columns, left, HEAT_SPACE, panel_width)
    right = width - sum(space + size for space, size in places)
    return lay_out(title, spread(lines, 0.32, 0.5, HEAT_HEIGHT), places, right, HEAT_BOTTOM)


def room_for_names(corruptions: Sequence[str]) -> float:
    """How much more room names of corruptions need than those of FER-C, which the margins are made for."""
    longest = max(len(short_name(name)) for name in corruptions)
    return max(0, longest - max(map(len, FER_C))) * HEAT_LETTER


def shade_cells(panel: Axes, values: np.ndarray, shades: Shades) -> AxesImage:
    """A table (C + 1, 6) as `with_mean_and_clean` gives it: shaded squares with numbers, the cells first."""
    picture = panel.imshow(values, cmap="Blues", vmin=shades.low, vmax=shades.high, aspect="auto")
    panel.spines[:].set_visible(False)
    write_numbers(panel, values[:-1, 1:], shades, x=1)
    write_numbers(panel, values[-1:, 1:], shades, x=1, y=len(values) - 1)
    if not np.isnan(values[0, 0]):  # one number for the whole column: clean images have no corruption
        write_numbers(panel, values[:1, :1], shades, y=(len(values) - 1) / 2)
    panel.axvline(0.5, color="white", linewidth=1.5)
    panel.plot([0.5, values.shape[1] - 0.5], [len(values) - 1.5] * 2, color="white", linewidth=1.5)
    return picture


def write_numbers(panel: Axes, values: np.ndarray, shades: Shades, x: float = 0, y: float = 0,
                  smallest: float = -np.inf) -> None:
    """The numbers of a matrix in their squares, the first at (x, y); a dash for NaN; none under `smallest`."""
    from reporting.square_numbers import SquareNumber, SquareNumbers

    numbers = []
    for (line, column), value in np.ndenumerate(values):
        if value < smallest:
            continue
        text = "—" if np.isnan(value) else format(value, shades.form)
        dark = value > shades.low + 0.6 * (shades.high - shades.low)
        numbers.append(SquareNumber(x + column, y + line, text, "white" if dark else "black"))
    if numbers:
        panel.add_artist(SquareNumbers(panel, numbers))


def add_colour_bar(figure: Figure, picture: AxesImage, axis: str) -> None:
    """The scale of a heat map's shades in the lower margin, named left of it."""
    width, height = figure.get_size_inches()
    left = 0.55 - BAR_LEFT / width
    bar = figure.add_axes((left, BAR_BOTTOM / height, BAR_WIDTH / width, BAR_HEIGHT / height))
    figure.colorbar(picture, bar, orientation="horizontal").outline.set_visible(False)
    bar.tick_params(length=0, pad=1)
    figure.text(left - BAR_HEIGHT / width, (BAR_BOTTOM + BAR_HEIGHT / 2) / height, axis, ha="right", va="center")


def loss_names_of(rows: Iterable[Row]) -> list[str]:
    """The losses of some rows, with the constants that separate them, in the tables' order."""
    return list(dict.fromkeys(row.loss_name for row in sorted(rows, key=lambda row: rank(row)[-3:])))


def algorithm_names_of(rows: Iterable[Row]) -> list[str]:
    """The algorithms of some rows, with the settings that separate them, in the tables' order."""
    return list(dict.fromkeys(row.name for row in sorted(rows, key=rank)))


# --- confusions and classes ---

CLASSES_LEFT, CLASSES_RIGHT = 0.72, 0.12
MATRIX_SPACE, CURVES_SPACE, CURVES_BETWEEN = 0.08, 0.4, 0.2
LETTER_HEIGHT = 0.068  # of a letter in a name that is written upwards
LEGEND_LINE = 0.13
PERCENT = Shades(0, 100, ".0f")


def recall_and_f1(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Recall and F1 of every class, float (6, K) each, from confusions (6, K, K), true class first.

    NaN where a class has no image, or for F1 neither an image nor a prediction."""
    hits = counts.diagonal(axis1=1, axis2=2)
    images = counts.sum(2)
    predictions = counts.sum(1)
    return divide(hits, images), divide(2 * hits, images + predictions)


def divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """A quotient, NaN where the denominator is not positive."""
    nowhere = np.full(np.broadcast_shapes(numerator.shape, denominator.shape), np.nan)
    return np.divide(numerator, denominator, where=denominator > 0, out=nowhere)


def draw_classes(confusions: Mapping[str, np.ndarray], classes: Sequence[str], title: str,
                 corruptions: Sequence[str] = FER_C) -> Figure:
    """Confusions on clean and corrupted images, and recall and F1 of every class by severity, a line per loss.

    confusions: {loss: int (6, K, K)} of one algorithm, true class first, summed over seeds: clean, severity 1 to 5.
    corruptions: of the set."""
    names = [label(name, 10) for name in classes]
    matrix = min(0.18 * len(names), 1.9)
    curves = (PAGE_WIDTH - CLASSES_LEFT - 2 * matrix - MATRIX_SPACE - CURVES_SPACE - CURVES_BETWEEN - CLASSES_RIGHT) / 2
    columns = [(CLASSES_LEFT, matrix), (MATRIX_SPACE, matrix), (CURVES_SPACE, curves), (CURVES_BETWEEN, curves)]
    legend_columns = 8 if sum(map(len, names)) < 60 else 4
    legend_height = LEGEND_LINE * -(-len(names) // legend_columns)
    names_height = 0.07 + LETTER_HEIGHT * max(map(len, names))  # under the last line of panels
    figure, axes = lay_out(
        f"Confusions, and recall and F1 by class\n{title}", spread(len(confusions), 0.35, 0.5, matrix), columns,
        CLASSES_RIGHT, names_height + 0.32 + legend_height)
    looks = [{"color": OKABE_ITO[k % 8], "marker": MARKERS[k % 8], "markersize": 2.5} for k in range(len(classes))]
    for line, (loss, counts) in zip(axes, confusions.items(), strict=True):
        last = line is axes[-1]
        draw_confusion(line[0], counts[0], names, "clean", last)
        draw_confusion(line[1], counts[1:].sum(0), names, "corrupted", last)
        line[0].text(0, 1 + 0.19 / matrix, label(COMPARED_LOSSES.get(loss, loss), 40), transform=line[0].transAxes,
                     weight="bold")
        recall, f1 = recall_and_f1(counts)
        draw_class_curves(line[2], recall, looks, "recall, %", last)
        draw_class_curves(line[3], f1, looks, "F1, %", last)
        line[3].tick_params(labelleft=False)
    height = figure.get_figheight()
    cells = len(SEVERITIES) * len(corruptions)
    remark = f"rows: given class; columns: predicted, % of the row; corrupted: all {cells} cells"
    figure.text(CLASSES_LEFT / PAGE_WIDTH, (0.15 + legend_height) / height, remark, va="center", color=GREY)
    figure.legend(axes[-1][2].get_lines(), names, loc="lower center", ncols=legend_columns, bbox_to_anchor=(0.5, 0),
                  columnspacing=1, handlelength=1.5)
    return figure


def draw_confusion(panel: Axes, counts: np.ndarray, names: Sequence[str], domain: str, last: bool) -> None:
    """One confusion matrix (K, K) in percent of its rows. last: in the last line, which has the names below it."""
    percent = divide(100 * counts, counts.sum(1, keepdims=True))
    panel.imshow(percent, cmap="Blues", vmin=PERCENT.low, vmax=PERCENT.high, aspect="auto")
    panel.spines[:].set_visible(False)
    write_numbers(panel, percent, PERCENT, smallest=0.5)
    panel.set_title(domain, pad=3)
    panel.set_xticks(range(len(names)), names, rotation=90)
    panel.set_yticks(range(len(names)), names)
    panel.tick_params(length=0, pad=2, labelleft=domain == "clean", labelbottom=last)


def draw_class_curves(panel: Axes, values: np.ndarray, looks: Sequence[dict], title: str, last: bool) -> None:
    """A score of every class, (6, K) fractions, from clean images to severity 5."""
    for k, look in enumerate(looks):
        panel.plot(range(len(STEP_NAMES)), 100 * values[:, k], linewidth=0.7, clip_on=False, **look)
    panel.set(xlim=(-0.3, 5.2), ylim=(0, 100), xticks=range(len(STEP_NAMES)), xticklabels=STEP_NAMES)
    panel.set_title(title, pad=3)
    panel.tick_params(length=2, pad=1)
    panel.set_xlabel("severity" if last else "", labelpad=1)
