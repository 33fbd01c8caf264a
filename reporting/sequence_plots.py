"""The figure of perturbation sequences: how often predictions differ, by the distance of the frames.

`draw_flips` takes numbers and a title and returns a matplotlib figure, as the functions of plots.py do. Sizes are in
inches. A variant is a row without its loss (rows.py).
"""
from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from perturbations import ALL, is_noise
from reporting.plots import spoken, spread
from reporting.rows import COMPARED_LOSSES
from reporting.style import GREY, LOSS_LOOKS, OKABE_ITO, PAGE_WIDTH, label, lay_out, variant_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANELS_PER_LINE = 5
LEFT, RIGHT, BETWEEN = 0.47, 0.12, 0.1
PANEL_HEIGHT, FIRST_SPACE, LINE_SPACE = 1.05, 0.2, 0.36
LEGEND_LINE = 0.14
LETTER_WIDTH = 0.064  # of a letter in the legend

Curves = Mapping[tuple[str, str], Mapping[str, np.ndarray]]


def draw_flips(curves: Curves, title: str) -> Figure:
    """How often two frames of a sequence have different predictions, by their distance: a panel for each perturbation,
    a line for each algorithm and loss.

    curves: {(name of a variant, loss): {perturbation: float (seeds, frames - 1)}}, as `stored_sequences.BlockSequences`
    has them: of pairs of frames that are 1, 2, ... frames apart; of noise, of each frame and the first one. A line is
    the mean over seeds; a band reaches from the lowest seed to the highest."""
    from matplotlib.lines import Line2D

    names = variant_names(curves)
    shown = sorted({name for by_name in curves.values() for name in by_name}, key=ALL.index)
    columns = min(len(shown), PANELS_PER_LINE)
    lines = -(-len(shown) // PANELS_PER_LINE)
    texts = [label(name, 24) for name in names] + list(COMPARED_LOSSES.values())
    entries = max(1, int((PAGE_WIDTH - 0.3) / (0.5 + LETTER_WIDTH * max(map(len, texts)))))
    legend_height = LEGEND_LINE * -(-len(texts) // entries)
    panel_width = (PAGE_WIDTH - LEFT - RIGHT - BETWEEN * (PANELS_PER_LINE - 1)) / PANELS_PER_LINE
    right = PAGE_WIDTH - LEFT - columns * panel_width - BETWEEN * (columns - 1)
    heights = [(FIRST_SPACE if line == 0 else LINE_SPACE, PANEL_HEIGHT) for line in range(lines)]
    figure, axes = lay_out(f"Frames with different predictions, by the distance of the frames\n{title}", heights,
                           spread(columns, LEFT, BETWEEN, panel_width), right, 0.55 + legend_height)
    looks = {name: OKABE_ITO[number % len(OKABE_ITO)] for number, name in enumerate(names)}
    highest = max([float(np.max(values)) for by_name in curves.values() for values in by_name.values()] + [0.01])
    for number in range(lines * columns):
        line, column = divmod(number, columns)
        panel = axes[line][column]
        if number >= len(shown):
            panel.remove()
            continue
        draw_panel(panel, shown[number], curves, looks)
        panel.set(ylim=(0, 105 * highest))
        panel.tick_params(length=2, pad=1, labelleft=column == 0)
        if column == 0:
            panel.set_ylabel("frames, %", labelpad=1)
    height = figure.get_figheight()
    figure.text(0.5, (0.2 + legend_height) / height, "distance in frames (*: from the first frame, which is clean)",
                ha="center", color=GREY)
    handles = [Line2D([], [], color=colour) for colour in looks.values()]
    handles += [Line2D([], [], color="0.3", linestyle=look.line) for look in LOSS_LOOKS.values()]
    figure.legend(handles, texts, loc="lower center", ncols=entries, bbox_to_anchor=(0.5, 0.03 / height),
                  columnspacing=1.2, borderaxespad=0)
    return figure


def draw_panel(panel: Axes, name: str, curves: Curves, looks: Mapping[str, str]) -> None:
    """The curves of one perturbation. looks: {name of a variant: colour}."""
    for (variant, loss), by_name in sorted(curves.items()):
        if name not in by_name:
            continue
        values = 100 * by_name[name]
        distances = np.arange(1, values.shape[1] + 1)
        panel.plot(distances, values.mean(0), linestyle=LOSS_LOOKS[loss].line, color=looks[variant], linewidth=0.9)
        if len(values) > 1:
            panel.fill_between(distances, values.min(0), values.max(0), color=looks[variant], alpha=0.15, linewidth=0)
        panel.set_xlim(1, max(values.shape[1], 2))
    panel.set_title(f"{spoken(name)}{' *' if is_noise(name) else ''}", pad=3)
