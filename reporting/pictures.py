"""Figures of a built set that show its images and soft labels: 1 to 4, 7 and 8 of the paper.

Each function `draw_*` takes a `BuiltSet` and a title and returns a matplotlib figure. A cell is a corruption at a
severity (corruptions.py), a form one corrupted version of an image (building/forms.py). Images are given by their row
in the set. Sizes are in inches.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

import metrics
import soft_labels
from corruptions import SEVERITIES
from reporting.plots import room_for_names, spoken, spread
from reporting.style import GREY, MARKERS, OKABE_ITO, PAGE_WIDTH, label, lay_out, short_class_names
from reporting.survey import surveyed
from support.errors import UserError
from support.random_streams import keyed_rng

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from building.built_set import BuiltSet
    from reporting.survey import Survey

SAMPLE = 8  # images that D_worst of figure 7's second measure is estimated on; make_fer_c.py takes 100
PICTURES_PER_LINE = 6
SURVEY_LINES = 3  # lines of pictures in figure 8


# --- parts of a figure ---


@dataclass
class Panel:
    """A picture over the bars of its labels."""

    title: str
    image: np.ndarray
    """uint8 (H, W, 3)"""
    labels: dict[str, np.ndarray]
    """{name of a label: float (K,)}"""
    above: tuple[str, np.ndarray] | None = field(default=None)
    """title and image of a picture to stand over this one"""


def choose_image(built: BuiltSet, name: str | None = None) -> int:
    """The row of the image with this id. Without an id: of the most ambiguous label, the first of equals.

    Ambiguity is the entropy of the label before softening. Raises UserError where the set has no such image."""
    if name is None:
        return int(metrics.entropy(built.labels_before_softening).argmax())
    rows = np.flatnonzero(built.frame["id"] == name)
    if not len(rows):
        raise UserError(f"{built.folder} has no image {name!r}; its labels.csv lists them")
    return int(rows[0])


def id_of(built: BuiltSet, row: int, length: int = 30) -> str:
    """The id of an image, as a figure prints it."""
    return label(built.frame["id"].iloc[row], length)


def map_visibility(built: BuiltSet) -> np.ndarray:
    """The visibility of every image in every cell, float32 (C, 5, N), of the set's corruptions, mapped from disk."""
    return np.load(built.folder / "visibility.npy", mmap_mode="r", allow_pickle=False)


def place_of(built: BuiltSet, corruption: str) -> int:
    """The position of a corruption in the set's arrays. Raises UserError where the set does not have it."""
    if corruption not in built.corruptions:
        raise UserError(f"{built.folder} has no {corruption}; --corruption takes {', '.join(built.corruptions)}")
    return built.corruptions.index(corruption)


def show_image(axes: Axes, image: np.ndarray, title: str) -> None:
    axes.imshow(image, interpolation="none")  # a pixel stays a pixel, in print too
    axes.set_title(title, pad=2)
    axes.axis("off")


def show_labels(axes: Axes, labels: Mapping[str, np.ndarray], classes: Sequence[str], first: bool = True) -> None:
    """Bars of one or several labels {name: float (K,)}. first: the first panel of its line, which has the numbers."""
    width = 0.8 / len(labels)
    for number, (name, values) in enumerate(labels.items()):
        offset = (number - (len(labels) - 1) / 2) * width
        axes.bar(np.arange(len(values)) + offset, values, width, color=OKABE_ITO[number], label=name)
    axes.set(ylim=(0, 1), yticks=(0, 1), xlim=(-0.6, len(classes) - 0.4))
    axes.set_xticks(range(len(classes)), short_class_names(classes), rotation=90)
    axes.tick_params("x", length=0, pad=1)
    axes.tick_params("y", length=2, pad=1, labelleft=first)


PICTURE_HEIGHT, PICTURE_SPACE = 0.98, 0.18  # the space holds a picture's title
BARS_HEIGHT, BARS_SPACE = 0.4, 0.06
LINE_SPACE = 0.28  # more between two lines: the names of the classes
LEFT, BETWEEN, RIGHT = 0.25, 0.08, 0.1
PICTURE_WIDTH = (PAGE_WIDTH - LEFT - BETWEEN - BETWEEN * PICTURES_PER_LINE) / PICTURES_PER_LINE


def draw_panels(title: str, panels: Sequence[Panel], classes: Sequence[str]) -> Figure:
    """Panels side by side, `PICTURES_PER_LINE` at most, in lines of equal length. All or none have a picture above."""
    with_above = panels[0].above is not None
    with_legend = len(panels[0].labels) > 1
    lines = -(-len(panels) // PICTURES_PER_LINE)
    columns = -(-len(panels) // lines)
    parts = [(PICTURE_SPACE, PICTURE_HEIGHT), (BARS_SPACE, BARS_HEIGHT)]
    if with_above:
        parts.insert(0, (PICTURE_SPACE, PICTURE_HEIGHT))
    left = LEFT + (PAGE_WIDTH - LEFT - RIGHT - columns * (PICTURE_WIDTH + BETWEEN)) / 2
    places = spread(columns, left, BETWEEN, PICTURE_WIDTH)
    right = PAGE_WIDTH - sum(space + size for space, size in places)
    figure, axes = lay_out(title, lines_of_parts(parts, lines), places, right, 0.55 if with_legend else 0.3)
    for number in range(lines * columns):
        line, column = divmod(number, columns)
        own_axes = [axes[len(parts) * line + part][column] for part in range(len(parts))]
        if number >= len(panels):
            for unused in own_axes:
                unused.remove()
            continue
        panel = panels[number]
        if panel.above is not None:
            above_title, above_image = panel.above
            show_image(own_axes[0], above_image, above_title)
        show_image(own_axes[-2], panel.image, panel.title)
        show_labels(own_axes[-1], panel.labels, classes, first=column == 0)
    if with_legend:
        bars = axes[len(parts) - 1][0]
        figure.legend(*bars.get_legend_handles_labels(), loc="lower center", ncols=2,
                      bbox_to_anchor=(0.5, 0.02 / figure.get_figheight()))
    return figure


def lines_of_parts(parts: Sequence[tuple[float, float]], lines: int) -> list[tuple[float, float]]:
    """The (space, height) of `parts` once for every line, with more space between two lines."""
    heights = []
    for line in range(lines):
        for number, (space, height) in enumerate(parts):
            more = LINE_SPACE if line > 0 and number == 0 else 0
            heights.append((space + more, height))
    return heights


# --- figures 1 and 2: severities, and corruptions ---


def draw_severities(built: BuiltSet, title: str, row: int, corruption: str) -> Figure:
    """Figure 1: an image clean and at the five severities of a corruption, over its soft labels."""
    visibility = map_visibility(built)
    corruption_index = place_of(built, corruption)
    panels = [Panel("original", built.pixels(row), {"soft label": built.labels_before_softening[row]})]
    for severity in SEVERITIES:
        v = visibility[corruption_index, severity - 1, row]
        panels.append(Panel(f"severity {severity}, v = {v:.2f}", built.pixels(row, corruption, severity),
                            {"soft label": built.soft_labels_of(corruption, severity)[row]}))
    subtitle = f"{spoken(corruption)} at five severities, and the soft label; v: visibility; image {id_of(built, row)}"
    return draw_panels(f"{title}\n{subtitle}", panels, built.classes)


def draw_gallery(built: BuiltSet, title: str, row: int, severity: int = 5,
                 other: tuple[str, Callable[[tuple[str, int]], np.ndarray]] | None = None) -> Figure:
    """Figure 2: an image clean and in all corruptions, over its soft labels.

    other: labels to draw beside the set's own (figure 7): their name, and a function from a cell to a label (K,)."""
    name_of_own = built.made_with["softening"]["visibility"].upper() if other else "soft label"
    original = {name_of_own: built.labels_before_softening[row]}
    if other:
        original[other[0]] = built.labels_before_softening[row]
    panels = [Panel("original", built.pixels(row), original)]
    for corruption in built.corruptions:
        labels = {name_of_own: built.soft_labels_of(corruption, severity)[row]}
        if other:
            name_of_other, label_of_cell = other
            labels[name_of_other] = label_of_cell((corruption, severity))
        panels.append(Panel(spoken(corruption), built.pixels(row, corruption, severity), labels))
    subtitle = f"{len(built.corruptions)} corruptions at severity {severity}, and the soft label"
    if other:
        subtitle += f" by {' and '.join(original)}"
    return draw_panels(f"{title}\n{subtitle}; image {id_of(built, row)}", panels, built.classes)


# --- figure 7: two measures of visibility ---


def draw_measures(built: BuiltSet, title: str, row: int) -> Figure:
    """Figure 7: the gallery with labels by the set's own measure of visibility and by SSIM, or L2 for a set of SSIM."""
    measure = "l2" if built.made_with["softening"]["visibility"] == "ssim" else "ssim"
    name = f"{measure.upper()} (D_worst of {min(SAMPLE, len(built.frame))} images)"
    return draw_gallery(built, title, row, other=(name, label_by(built, row, measure)))


def label_by(built: BuiltSet, row: int, measure: str) -> Callable[[tuple[str, int]], np.ndarray]:
    """A function from a cell to the soft label (K,) of an image by another measure of visibility.

    The largest mean difference, D_worst, is estimated on `SAMPLE` images of the set, drawn by its seed."""
    sample = keyed_rng("figure 7", built.made_with["seed"]).permutation(len(built.frame))[:SAMPLE]
    clean = {index: built.pixels(index) for index in {*sample.tolist(), row}}

    def difference(index: int, cell: tuple[str, int]) -> float:
        return soft_labels.difference(clean[index], built.pixels(index, *cell), measure)

    mean_of_cell = {cell: np.mean([difference(index, cell) for index in sample]) for cell in built.cells}
    worst = max(mean_of_cell.values())
    softening = built.made_with["softening"]

    def label_of_cell(cell: tuple[str, int]) -> np.ndarray:
        per_mean = softening["visibility_per"] == "mean"
        own = mean_of_cell[cell] if per_mean else difference(row, cell)
        visibility = soft_labels.visibility([own], worst)
        return soft_labels.soften(built.labels_before_softening[row:row + 1], visibility, softening["exponent"])[0]

    return label_of_cell


# --- figure 8: proposed labels, and surveyed ones ---


def draw_survey(built: BuiltSet, title: str, survey: Survey | None = None) -> Figure:
    """Figure 8: original, corrupted image, its proposed label and, from a survey, the label that people gave it.

    Without a survey an image of every class is shown, in a form drawn at random."""
    examples = random_examples(built) if survey is None else surveyed(survey, built)
    panels = []
    distances = []
    for row, corruption, severity, surveyed_label in examples:
        proposed = built.soft_labels_of(corruption, severity)[row]
        labels = {"proposed": proposed}
        if surveyed_label is not None:
            labels["surveyed"] = surveyed_label
            distances.append(np.abs(proposed - surveyed_label).sum() / 2)
        if len(panels) < SURVEY_LINES * PICTURES_PER_LINE:
            panels.append(Panel(f"{spoken(corruption)} {severity}", built.pixels(row, corruption, severity), labels,
                                above=(id_of(built, row, 17), built.pixels(row))))
    title += "\nproposed labels"
    if survey is not None:
        title += (f" beside {len(examples)} surveyed ones, {len(panels)} shown; "
                  f"total variation distance {np.mean(distances):.2f} on average")
    return draw_panels(title, panels, built.classes)


def random_examples(built: BuiltSet) -> list[tuple[int, str, int, None]]:
    """An image of every class in a cell drawn by the set's seed: (row, corruption, severity, None)."""
    rng = keyed_rng("figure 8", built.made_with["seed"])
    examples = []
    for k in range(len(built.classes)):
        rows = np.flatnonzero(built.frame["expression"] == k)
        if len(rows):
            row = int(rng.choice(rows))
            corruption, severity = built.cells[rng.integers(len(built.cells))]
            examples.append((row, corruption, severity, None))
    return examples


# --- figure 3: the label step by step ---

STEP_WIDTH, STEP_LEFT = 1.1, 0.28
STEP_SPACE = (PAGE_WIDTH - STEP_LEFT - RIGHT - 5 * STEP_WIDTH) / 4


def draw_pipeline(built: BuiltSet, title: str, row: int, cell: tuple[str, int]) -> Figure:
    """Figure 3: how the soft label of an image comes about, step by step; above each step stands what it is
    computed from."""
    corruption, severity = cell
    subtitle = f"how the soft label comes about: {spoken(corruption)}, severity {severity}; image {id_of(built, row)}"
    figure, (top, bars) = lay_out(f"{title}\n{subtitle}", [(0.18, STEP_WIDTH), (0.45, 0.7)],
                                  spread(5, STEP_LEFT, STEP_SPACE, STEP_WIDTH), bottom=0.35)
    given = np.eye(len(built.classes))[built.frame["expression"].iloc[row]]
    fused = built.labels_before_softening[row]
    point = built.frame[["valence", "arousal"]].iloc[row].to_numpy(float)
    gmm = read_mixture(built)
    has_posterior = gmm is not None and not np.isnan(point).any()

    show_image(top[0], built.pixels(row), "original")
    show_step(bars[0], "1 given label", given, built.classes, first=True)
    if has_posterior:
        show_mixture(top[1], gmm, point, built.classes)
        show_step(bars[1], "2 GMM posterior", gmm.posterior(point[None])[0], built.classes)
    else:
        kind = "no distribution," if np.allclose(given, fused) else "annotators'\ndistribution:"
        show_text(top[1], f"{kind}\nno mixture", color=GREY)
        bars[1].remove()
    beta = built.made_with["softening"]["beta"]
    fusion = f"{beta:g} given label\n+\n{1 - beta:g} GMM posterior" if has_posterior else "taken as it is"
    show_text(top[2], fusion)
    show_step(bars[2], "3 fused" if has_posterior else "3 before softening", fused, built.classes)
    show_image(top[3], built.pixels(row, *cell), "corrupted")
    visibility = map_visibility(built)[place_of(built, corruption), :, row]
    show_visibility(bars[3], visibility, severity)
    exponent = built.made_with["softening"]["exponent"]
    show_softening_curve(top[4], exponent, visibility[severity - 1])
    show_step(bars[4], "5 softened", built.soft_labels_of(*cell)[row], built.classes)
    return figure


def show_step(axes: Axes, name: str, values: np.ndarray, classes: Sequence[str], first: bool = False) -> None:
    """The label (K,) after a step."""
    show_labels(axes, {name: values}, classes, first)
    axes.set_title(name, pad=3)


def show_text(axes: Axes, text: str, **look: Any) -> None:
    """Words in the place of a picture."""
    axes.axis("off")
    axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes, **look)


def show_visibility(axes: Axes, visibility: np.ndarray, severity: int) -> None:
    """The visibility (5,) of an image by severity; the severity of the figure in colour."""
    colours = [OKABE_ITO[0] if other == severity else "0.75" for other in SEVERITIES]
    axes.bar(SEVERITIES, visibility, color=colours)
    axes.set(ylim=(0, 1), yticks=(0, 1), xticks=SEVERITIES, yticklabels=[])
    axes.tick_params(length=2, pad=1)
    axes.set_xlabel("severity", labelpad=1)
    axes.set_title(f"4 visibility, v = {visibility[severity - 1]:.2f}", pad=3)


def read_mixture(built: BuiltSet) -> soft_labels.GMM | None:
    """The set's Gaussian mixture; None where its labels were made without one."""
    path = built.folder / "gmm.json"
    return soft_labels.GMM.from_json(path.read_text(encoding="utf-8")) if path.exists() else None


def show_mixture(axes: Axes, gmm: soft_labels.GMM, point: np.ndarray, classes: Sequence[str]) -> None:
    """The classes' Gaussians in valence and arousal as ellipses of one standard deviation, and one image's point."""
    names = short_class_names(classes)
    angle = np.linspace(0, 2 * np.pi, 60)
    circle = np.stack([np.cos(angle), np.sin(angle)])
    for name, mean, covariance in zip(names, gmm.means, gmm.covariances, strict=True):
        x, y = mean[:, None] + np.linalg.cholesky(covariance) @ circle
        axes.plot(x, y, color="0.6", linewidth=0.6)
        axes.text(*mean, name, ha="center", va="center", color="0.3")
    axes.plot(*point, "o", color=OKABE_ITO[1], zorder=3)
    limit = 0.2 + max(np.abs(gmm.means).max(), np.abs(point).max())
    axes.axhline(0, color="0.85", linewidth=0.6, zorder=0)
    axes.axvline(0, color="0.85", linewidth=0.6, zorder=0)
    axes.set(xlim=(-limit, limit), ylim=(-limit, limit), xticks=(), yticks=())
    axes.set_xlabel("valence", labelpad=2)
    axes.set_ylabel("arousal", labelpad=2)


def show_softening_curve(axes: Axes, exponent: float, v: float) -> None:
    """The weight of the uniform label, (1 - v)^k, over visibility v, and its value at this v."""
    x = np.linspace(0, 1, 101)
    axes.plot(x, (1 - x) ** exponent, color=OKABE_ITO[0])
    axes.set(xlim=(0, 1), ylim=(0, 1), xticks=(0, 1), yticks=(0, 1))
    axes.set_title(f"weight of uniform, (1 - v)$^{{{exponent:g}}}$", pad=3)
    axes.tick_params(length=2, pad=1)
    axes.plot([v], [(1 - v) ** exponent], "o", color=OKABE_ITO[1], clip_on=False, zorder=3)


# --- figure 4: visibility and softening ---


def draw_visibility(built: BuiltSet, title: str) -> Figure:
    """Figure 4: mean visibility of the cells, softening curves, and the mean confidence of the set's own labels."""
    import matplotlib

    visibility = map_visibility(built)
    names, shape = built.corruptions, (len(built.corruptions), len(SEVERITIES))
    mean_of_cell = [visibility[divmod(number, len(SEVERITIES))].mean(dtype=float) for number in range(len(built.cells))]
    mean_visibility = np.array(mean_of_cell).reshape(shape)
    confidence = np.array([built.soft_labels_of(*cell).max(1).mean(dtype=float) for cell in built.cells])
    confidence = confidence.reshape(shape)
    subtitle = f"mean visibility of the {len(built.cells)} cells, and what softening leaves of a label"
    room = room_for_names(built.corruptions)
    figure, ((cells, curves),) = lay_out(f"{title}\n{subtitle}", [(0.22, 2.6)],
                                         [(1.05 + room, 2.6 - room), (0.5, 2.65)], bottom=0.58)
    shades = matplotlib.colormaps["cividis"](np.linspace(0.05, 0.9, len(SEVERITIES)))
    for number, severity in enumerate(SEVERITIES):
        look = {"color": shades[number], "marker": MARKERS[number], "linestyle": "", "clip_on": False, "zorder": 3}
        cells.plot(mean_visibility[:, number], range(len(names)), label=f"severity {severity}", **look)
        curves.plot(mean_visibility[:, number], confidence[:, number], **look)
    cells.set_yticks(range(len(names)), map(spoken, names))
    cells.set(xlim=(0, 1), ylim=(len(names) - 0.4, -0.6))
    cells.set_xlabel("mean visibility", labelpad=1)
    cells.grid(axis="y", color="0.9", linewidth=0.5)
    draw_softening_curves(curves, len(built.classes), built.made_with["softening"]["exponent"])
    curves.text(0.02, 1, "markers: cells, mean label confidence", va="bottom", transform=curves.transAxes, color=GREY)
    figure.legend(*cells.get_legend_handles_labels(), loc="lower center", ncols=5,
                  bbox_to_anchor=(0.5, 0.02 / figure.get_figheight()))
    return figure


def draw_softening_curves(axes: Axes, num_classes: int, own_exponent: float) -> None:
    """What softening leaves of the true class of a one-hot label, 1 - (1 - 1/K)(1 - v)^k, for several exponents k."""
    v = np.linspace(0, 1, 101)
    for number, exponent in enumerate(sorted({1, 2, 3, own_exponent})):
        own = exponent == own_exponent
        axes.plot(v, 1 - (1 - 1 / num_classes) * (1 - v) ** exponent, linestyle=("-", "--", ":", "-.")[number % 4],
                  color=OKABE_ITO[0] if own else "0.6", linewidth=1.2 if own else 0.7,
                  label=f"k = {exponent:g}{' (this set)' if own else ''}")
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.set_xlabel("visibility v", labelpad=1)
    axes.set_ylabel("probability of the label's class", labelpad=1)
    axes.legend(loc="lower right", title="one-hot label, softened")
