"""Figures that show images and soft labels of a built set: 1 to 4, 7 and 8 of the paper."""
import numpy as np

import metrics
import soft_labels
from cli import UserError
from corruptions import CORRUPTIONS
from datasets import keyed_rng
from reporting.predictions import place
from reporting.runs import CELLS, SEVERITIES
from reporting.style import MARKERS, OKABE_ITO, TEXT, label, lay_out, short
from reporting.survey import surveyed

SAMPLE = 8  # images that D_worst of figure 7's other measure is estimated on; make_fer_c.py takes 100
ACROSS = 6  # pictures side by side


def spoken(corruption):
    return corruption.replace("_", " ")


def choose_image(built, name=None):
    """The row of an image by its id; else that with the most ambiguous label before softening, the first of equals."""
    if name is None:
        return int(metrics.entropy(built.label).argmax())
    found = np.flatnonzero(built.frame["id"] == name)
    if not len(found):
        raise UserError(f"{built.folder} has no image {name!r}; its labels.csv lists them")
    return int(found[0])


def show(axes, image, title):
    axes.imshow(image, interpolation="none")  # a pixel is a pixel, in print too
    axes.set_title(title, pad=2)
    axes.axis("off")


def show_label(axes, labels, classes, first=True):
    """Bars of one or several labels of an image. labels: {what it is: (K,)}; first: of its line, with numbers."""
    width = 0.8 / len(labels)
    for n, (what, values) in enumerate(labels.items()):
        at = np.arange(len(values)) + (n - (len(labels) - 1) / 2) * width
        axes.bar(at, values, width, color=OKABE_ITO[n], label=what)
    axes.set(ylim=(0, 1), yticks=(0, 1), xlim=(-0.6, len(classes) - 0.4))
    axes.set_xticks(range(len(classes)), short(classes), rotation=90)
    axes.tick_params("x", length=0, pad=1)
    axes.tick_params("y", length=2, pad=1, labelleft=first)


def over_bars(title, panels, classes, above=()):
    """Pictures over the bars of their labels, `ACROSS` side by side. panels: [(title, image, {what: label})]; above:
    [(title, image)] to stand over each."""
    lines, tall = -(-len(panels) // ACROSS), 0.98
    across = -(-len(panels) // lines)
    line = ([(0.18, tall)] if above else []) + [(0.18, tall), (0.06, 0.4)]
    rows = [(space + (0.28 if n and k == 0 else 0), size) for n in range(lines) for k, (space, size) in enumerate(line)]
    several = len(panels[0][2]) > 1
    wide = (TEXT - 0.33 - 0.08 * across) / ACROSS
    left = 0.25 + (TEXT - 0.35 - across * (wide + 0.08)) / 2
    columns = [(left if n == 0 else 0.08, wide) for n in range(across)]
    figure, axes = lay_out(title, rows, columns, TEXT - sum(map(sum, columns)), 0.55 if several else 0.3)
    for n in range(lines * across):
        column = [axes[len(line) * (n // across) + k][n % across] for k in range(len(line))]
        if n >= len(panels):
            for one in column:
                one.remove()
            continue
        name, image, labels = panels[n]
        if above:
            show(column[0], above[n][1], above[n][0])
        show(column[-2], image, name)
        show_label(column[-1], labels, classes, n % across == 0)
    if several:
        figure.legend(*axes[len(line) - 1][0].get_legend_handles_labels(), loc="lower center", ncols=2,
                      bbox_to_anchor=(0.5, 0.02 / figure.get_figheight()))
    return figure


def draw_severities(built, title, i, corruption):
    """Figure 1: one image clean and in the five severities of a corruption, over its soft labels."""
    visible = np.load(built.folder / "visibility.npy", mmap_mode="r", allow_pickle=False)
    panels = [("original", built.pixels(i), {"soft label": built.label[i]})]
    panels += [(f"severity {severity}, v = {visible[*place((corruption, severity)), i]:.2f}",
                built.pixels(i, corruption, severity), {"soft label": built.targets(corruption, severity)[i]})
               for severity in SEVERITIES]
    what = f"{spoken(corruption)} on image {label(built.frame['id'].iloc[i], 30)}; v: visibility"
    return over_bars(f"{title}\n{what}", panels, built.classes)


def draw_gallery(built, title, i, severity=5, other=None):
    """Figure 2: one image clean and in all 17 corruptions, over its soft labels. other: labels to stand beside the
    set's own (figure 7), as (what they are, a function that takes a cell and gives its label)."""
    made = built.made_with["softening"]["visibility"].upper() if other else "soft label"
    panels = []
    for name in (None, *CORRUPTIONS):
        cell = (name, severity) if name else ()
        target = built.targets(*cell)[i] if cell else built.label[i]
        labels = {made: target} | ({other[0]: other[1](cell) if cell else target} if other else {})
        panels.append((spoken(name) if name else "original", built.pixels(i, *cell), labels))
    what = f"image {label(built.frame['id'].iloc[i], 30)}, severity {severity}, and its soft label"
    what += f" by {' and '.join(panels[0][2])}" if other else ""
    return over_bars(f"{title}\n{what}", panels, built.classes)


def draw_measures(built, title, i):
    """Figure 7: the gallery with labels by the set's own measure, as built, and by SSIM (L2 for a set of SSIM)."""
    measure = "l2" if built.made_with["softening"]["visibility"] == "ssim" else "ssim"
    words = f"{measure.upper()} (D_worst of {min(SAMPLE, len(built.frame))} images)"
    return draw_gallery(built, title, i, other=(words, label_by(built, i, measure)))


def label_by(built, i, measure):
    """Cell -> the soft label (K,) of image i by another measure, D_worst estimated on `SAMPLE` images of the set."""
    sample = keyed_rng("figure 7", built.made_with["seed"]).permutation(len(built.frame))[:SAMPLE]
    clean = {row: built.pixels(row) for row in {*sample.tolist(), i}}

    def away(row, cell):
        return soft_labels.difference(clean[row], built.pixels(row, *cell), measure)

    means = {cell: np.mean([away(row, cell) for row in sample]) for cell in CELLS}
    made, worst = built.made_with["softening"], max(means.values())

    def of_cell(cell):
        far = means[cell] if made["visibility_per"] == "mean" else away(i, cell)
        return soft_labels.soften(built.label[i:i + 1], soft_labels.visibility([far], worst), made["exponent"])[0]

    return of_cell


def draw_survey(built, title, survey=None):
    """Figure 8: original, corrupted image, its proposed label and, from a survey, what people said. Without a survey
    an image of every class in a form drawn at random."""
    if survey is None:
        rng = keyed_rng("figure 8", built.made_with["seed"])
        rows = [np.flatnonzero(built.frame["expression"] == k) for k in range(len(built.classes))]
        chosen = [(int(rng.choice(some)), *CELLS[rng.integers(len(CELLS))], None) for some in rows if len(some)]
    else:
        chosen = surveyed(survey, built)
    panels, above, away = [], [], []
    for i, name, severity, said in chosen:
        proposed = built.targets(name, severity)[i]
        away.append(0 if said is None else np.abs(proposed - said).sum() / 2)
        if len(panels) == 3 * ACROSS:
            continue
        labels = {"proposed": proposed} | ({} if said is None else {"surveyed": said})
        panels.append((f"{spoken(name)} {severity}", built.pixels(i, name, severity), labels))
        above.append((label(built.frame["id"].iloc[i], 17), built.pixels(i)))
    title += "\nproposed labels" + ("" if survey is None else
                                    f" beside {len(chosen)} surveyed ones, {len(panels)} shown; "
                                    f"total variation distance {np.mean(away):.2f} on average")
    return over_bars(title, panels, built.classes, above)


def draw_pipeline(built, title, i, cell):
    """Figure 3: how the label of one image comes about, step by step, under what each step looks at."""
    softening, classes, count = built.made_with["softening"], built.classes, len(built.classes)
    given, t = np.eye(count)[built.frame["expression"].iloc[i]], built.label[i]
    gmm, va = mixture(built), built.frame[["valence", "arousal"]].iloc[i].to_numpy(float)
    posterior = None if gmm is None or np.isnan(va).any() else gmm.posterior(va[None])[0]
    visible = np.load(built.folder / "visibility.npy", mmap_mode="r", allow_pickle=False)[:, :, i]
    wide = 1.1
    columns = [(0.28, wide), *[((TEXT - 0.38 - 5 * wide) / 4, wide)] * 4]
    figure, axes = lay_out(f"{title}\nimage {label(built.frame['id'].iloc[i], 30)}, {spoken(cell[0])}, severity "
                           f"{cell[1]}", [(0.18, wide), (0.45, 0.7)], columns, bottom=0.35)
    top, bars = axes
    show(top[0], built.pixels(i), "original")
    show(top[3], built.pixels(i, *cell), "corrupted")
    steps = {0: ("1 given label", given), 2: ("3 fused", t), 4: ("5 softened", built.targets(*cell)[i])}
    if posterior is None:
        top[1].axis("off")
        bars[1].remove()
        what = "annotators'\ndistribution:\nno mixture" if not np.allclose(given, t) else "no distribution,\nno mixture"
        top[1].text(0.5, 0.5, what, ha="center", va="center", color="0.4", transform=top[1].transAxes)
        steps[2] = ("3 before softening", t)
    else:
        steps[1] = ("2 GMM posterior", posterior)
        show_mixture(top[1], gmm, va, classes)
    top[2].axis("off")
    beta = softening["beta"]
    words = f"{beta:g} given label\n+\n{1 - beta:g} GMM posterior" if posterior is not None else "taken as it is"
    top[2].text(0.5, 0.5, words, ha="center", va="center", transform=top[2].transAxes)
    for step, (name, values) in steps.items():
        show_label(bars[step], {name: values}, classes, step == 0)
        bars[step].set_title(name, pad=3)
    v, name = visible[place(cell)], list(CORRUPTIONS).index(cell[0])
    bars[3].bar(SEVERITIES, visible[name], color=[OKABE_ITO[0] if s == cell[1] else "0.75" for s in SEVERITIES])
    bars[3].set(ylim=(0, 1), yticks=(0, 1), xticks=SEVERITIES, yticklabels=[])
    bars[3].tick_params(length=2, pad=1)
    bars[3].set_xlabel("severity", labelpad=1)
    bars[3].set_title(f"4 visibility, v = {v:.2f}", pad=3)
    show_curve(top[4], softening["exponent"])
    top[4].plot([v], [(1 - v) ** softening["exponent"]], "o", color=OKABE_ITO[1], clip_on=False, zorder=3)
    return figure


def mixture(built):
    """The set's mixture, or None where its labels came without one."""
    path = built.folder / "gmm.json"
    return soft_labels.GMM.from_json(path.read_text(encoding="utf-8")) if path.exists() else None


def show_mixture(axes, gmm, va, classes):
    """The classes' Gaussians in valence and arousal, as ellipses of one standard deviation, and one image's point."""
    turn = np.linspace(0, 2 * np.pi, 60)
    for k, (mean, covariance) in enumerate(zip(gmm.means, gmm.covariances, strict=True)):
        x, y = mean[:, None] + np.linalg.cholesky(covariance) @ np.stack([np.cos(turn), np.sin(turn)])
        axes.plot(x, y, color="0.6", linewidth=0.6)
        axes.text(*mean, short(classes)[k], ha="center", va="center", color="0.3")
    axes.plot(*va, "o", color=OKABE_ITO[1], zorder=3)
    far = 0.2 + max(np.abs(gmm.means).max(), np.abs(va).max())
    axes.axhline(0, color="0.85", linewidth=0.6, zorder=0)
    axes.axvline(0, color="0.85", linewidth=0.6, zorder=0)
    axes.set(xlim=(-far, far), ylim=(-far, far), xticks=(), yticks=())
    axes.set_xlabel("valence", labelpad=2)
    axes.set_ylabel("arousal", labelpad=2)


def show_curve(axes, exponent):
    v = np.linspace(0, 1, 101)
    axes.plot(v, (1 - v) ** exponent, color=OKABE_ITO[0])
    axes.set(xlim=(0, 1), ylim=(0, 1), xticks=(0, 1), yticks=(0, 1))
    axes.set_title(f"uniform share (1 - v)$^{{{exponent:g}}}$", pad=3)
    axes.tick_params(length=2, pad=1)


def draw_visibility(built, title):
    """Figure 4: mean visibility of the 85 cells; softening curves, and what they leave of the set's own labels."""
    visible = np.load(built.folder / "visibility.npy", mmap_mode="r", allow_pickle=False)
    means = np.array([[visible[place((name, severity))].mean(dtype=float) for severity in SEVERITIES]
                      for name in CORRUPTIONS])
    sure = np.array([[built.targets(name, severity).max(1).mean(dtype=float) for severity in SEVERITIES]
                     for name in CORRUPTIONS])
    figure, ((cells, curves),) = lay_out(title, [(0.12, 2.6)], [(1.05, 2.6), (0.5, 2.65)], bottom=0.58)
    import matplotlib
    shades = matplotlib.colormaps["cividis"](np.linspace(0.05, 0.9, 5))
    for s, severity in enumerate(SEVERITIES):
        look = {"color": shades[s], "marker": MARKERS[s], "linestyle": "", "clip_on": False, "zorder": 3}
        cells.plot(means[:, s], range(17), label=f"severity {severity}", **look)
        curves.plot(means[:, s], sure[:, s], **look)
    cells.set_yticks(range(17), map(spoken, CORRUPTIONS))
    cells.set(xlim=(0, 1), ylim=(16.6, -0.6))
    cells.set_xlabel("mean visibility", labelpad=1)
    cells.grid(axis="y", color="0.9", linewidth=0.5)
    count, made = len(built.classes), built.made_with["softening"]["exponent"]
    v = np.linspace(0, 1, 101)
    for n, k in enumerate(sorted({1, 2, 3, made})):
        look = {"color": OKABE_ITO[0], "linewidth": 1.2} if k == made else {"color": "0.6", "linewidth": 0.7}
        curves.plot(v, 1 - (1 - 1 / count) * (1 - v) ** k, linestyle=("-", "--", ":", "-.")[n % 4], **look,
                    label=f"k = {k:g}{' (this set)' if k == made else ''}")
    curves.set(xlim=(0, 1), ylim=(0, 1))
    curves.set_xlabel("visibility v", labelpad=1)
    curves.set_ylabel("probability of the label's class", labelpad=1)
    curves.legend(loc="lower right", title="one-hot label, softened")
    figure.legend(*cells.get_legend_handles_labels(), loc="lower center", ncols=5,
                  bbox_to_anchor=(0.5, 0.02 / figure.get_figheight()))
    curves.text(0.02, 1, "markers: cells, mean label confidence", va="bottom", transform=curves.transAxes, color="0.4")
    return figure
