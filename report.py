"""Tables and figures from any folder of runs: reads what is there, names what is missing, never trains, never guesses.

    python report.py                    # runs/ -> runs/report/table1.md, table1.csv, figures/*.png, figures/*.svg
    python report.py elsewhere/runs

A run is a folder with `args.json`; `python evaluate.py` puts `scores.csv` and `predictions/` beside it. Tables print
percent, their CSV files hold fractions as `scores.csv` does. Runs that differ in set version, protocol, image size or
number of images are never averaged together: each combination is a table of its own.
"""
import json
import re
import shlex
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import tyro

import cli
import metrics
import settings
from cli import UserError
from corruptions import CORRUPTIONS

ORDER = ("baseline", "SCN", "DMUE", "RUL", "swinv2")  # of the paper's tables; other algorithms follow by name
LOSSES = {"ce": "uncalibrated", "maxent+mbls": "calibrated"}  # every algorithm gets both rows; other losses where run
TABLE1 = {"macro_f1": "macro-F1", "ece": "ECE"}
DOMAINS = {"clean": "clean", "corrupted": "mean"}  # domain of a table -> `corruption` of its rows in scores.csv
KEYS = {  # of args.json: what a run is
    "script": str, "dataset": str, "loss": str, "protocol": str, "seed": int, "image_size": int, "noise": float | int}
COLUMNS = ["set", "set_version", "method", "corruption", "severity", "metric", "value"]
SEVERITIES = range(1, 6)
CELLS = [(corruption, severity) for corruption in CORRUPTIONS for severity in SEVERITIES]
BROKEN = (OSError, ValueError, KeyError, TypeError, IndexError, EOFError)  # what reading a damaged file raises
README_FIGURES = Path(__file__).parent / "figures"
DEMO = "demo data: shows function, not findings"
LEGEND = """Percent; mean ± standard deviation over seeds. Corrupted: mean over the 17 x 5 cells (the reliability
diagrams pool all cells, and ECE of the pool is another number). —: see Missing.
The ECE floor is what a perfectly calibrated model with the same confidences scores by chance at this N (simulated;
lowest to highest of the rows). Corrupted images are scored against soft labels: there the floor is an upper bound,
because the soft accuracy has less noise than drawn hard labels."""
OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
MARKERS = "os^DvPX*"


@dataclass
class Args:
    runs: tyro.conf.Positional[Path] = Path("runs")
    """folder to look for runs in, however deep"""
    readme_figures: bool = False
    """write the demo's figures as PNG into figures/, where the README shows them, and not into the report"""


class Row(NamedTuple):
    """What one row of a table averages over seeds."""

    algorithm: str
    loss: str
    noise: float


class Block(NamedTuple):
    """What one table stands for: only runs that agree in all of this are compared."""

    dataset: str
    protocol: str
    image_size: int
    set: str
    set_version: str
    n: int

    @property
    def name(self):
        return f"{self.set} {self.set_version[:8]}"

    @property
    def slug(self):
        parts = (self.dataset, self.set, self.set_version[:8], self.protocol, f"{self.image_size}px", f"n{self.n}")
        return "_".join(re.sub(r"[^A-Za-z0-9.-]+", "-", part)[:40] for part in parts)


@dataclass(frozen=True, eq=False)
class Run:
    """One training: its folder, `args.json`, `scores.csv` (None where unusable) and what its evaluation lacks."""

    folder: Path
    args: dict
    scores: pd.DataFrame | None
    lacks: list

    @property
    def trained(self):
        """What it was trained on: the first three fields of the `Block`s that it can be in."""
        return self.args["dataset"], self.args["protocol"], self.args["image_size"]

    @property
    def row(self):
        return Row(self.args["script"], self.args["loss"], float(self.args["noise"]))

    @property
    def seed(self):
        return self.args["seed"]

    @property
    def again(self):
        return f"`{shlex.join(['python', 'evaluate.py', str(self.folder)])}`"


# --- reading ---


def read_json(path):
    value = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(value, dict):
        raise ValueError("it holds no JSON object")
    return value


def read_args(path):
    """The settings of a run, checked for the keys that its identity rests on."""
    args = read_json(path)
    for key, kind in KEYS.items():
        if not isinstance(args.get(key), kind) or isinstance(args[key], bool):
            raise ValueError(f"no usable {key!r} in it")
    return args


def read_scores(path):
    """`scores.csv` with the number of images as column `n`, and what it lacks; a mean over a part is left out."""
    scores = pd.read_csv(path, dtype=dict.fromkeys(COLUMNS[:4], str), keep_default_na=False, na_values=[""])
    scores = scores[COLUMNS].astype({"severity": float, "value": float})
    if scores.duplicated(COLUMNS[:-1]).any():
        raise ValueError("rows appear twice")
    lacks, parts = [], []
    for (name, version), part in scores[np.isfinite(scores["value"])].groupby(["set", "set_version"]):
        images = part.loc[(part["metric"] == "n") & (part["corruption"] == "clean"), "value"]
        if images.empty:
            raise ValueError(f"no number of images for the clean {name}")
        scored = part[(part["metric"] == "ece") & (part["method"] == "softmax")]
        scored = len(set(scored[["corruption", "severity"]].itertuples(index=False, name=None)) & set(CELLS))
        if scored < len(CELLS):
            lacks.append(f"{scored} of {len(CELLS)} corrupted cells of {name} {version[:8]} scored")
            part = part[part["corruption"] != "mean"]
        parts.append(part.assign(n=int(images.iloc[0])))
    return (pd.concat(parts), lacks) if parts else (None, ["nothing in its scores.csv"])


def read_runs(folder):
    """Every run below `folder`, and what cannot be read: one damaged run never stops a report."""
    if not folder.is_dir():
        raise UserError(f"no folder {folder}; train something first, for example with `bash run.sh --demo`")
    runs, damaged = [], []
    for path in sorted(folder.rglob("args.json")):
        try:
            args = read_args(path)
        except BROKEN as error:
            damaged.append(f"{path} is damaged ({plain(error)}): train this run again, or delete its folder")
            continue
        file, scores, lacks = path.with_name("scores.csv"), None, ["not evaluated"]
        if file.exists():
            try:
                scores, lacks = read_scores(file)
            except BROKEN as error:
                lacks = [f"scores.csv is damaged ({plain(error)})"]
        runs.append(Run(path.parent, args, scores, lacks))
    if not runs:
        found = damaged[0] if damaged else "neither it nor any folder below holds an args.json"
        raise UserError(f"no run in {folder}: {found}. `bash run.sh --demo` makes some")
    return runs, damaged


def plain(text):
    """One line of printable text, whatever is in it: it comes from files of others."""
    return "".join(c if c.isprintable() else " " for c in " ".join(str(text).split()))


def tidy(runs):
    """A row per score: the columns of scores.csv, n, and the run's identity and index. A repeated seed counts once."""
    frames = [run.scores.assign(**{key: run.args[key] for key in KEYS}, run=index)
              for index, run in enumerate(runs) if run.scores is not None]
    scores = pd.concat(frames) if frames else pd.DataFrame(columns=[*COLUMNS, "n", *KEYS, "run"])
    scores = scores[scores["method"] == "softmax"].rename(columns={"script": "algorithm"})
    first = scores.groupby([*Block._fields, *Row._fields, "seed"])["run"].transform("min")
    return scores[scores["run"] == first].reset_index(drop=True)


# --- numbers ---


def aggregate(scores, names):
    """Mean, standard deviation (n - 1) and number of seeds of the named metrics: tidy, as fractions."""
    scores = scores[scores["metric"].isin(names) & scores["corruption"].isin(DOMAINS.values())]
    domain = scores["corruption"].map({word: domain for domain, word in DOMAINS.items()})
    values = scores.assign(domain=domain).groupby([*Block._fields, *Row._fields, "domain", "metric"])["value"]
    return values.agg(mean="mean", sd="std", seeds="count").reset_index()


def blocks_of(scores):
    keys = scores[list(Block._fields)].drop_duplicates()
    return sorted(Block(*key) for key in keys.itertuples(index=False, name=None))


def in_block(frame, block):
    return frame[(frame[list(Block._fields)] == list(block)).all(axis=1)]


def rank(row):
    """Sorts rows: the paper's algorithms first; uncalibrated, calibrated, other losses."""
    algorithm = ORDER.index(row.algorithm) if row.algorithm in ORDER else len(ORDER)
    loss = list(LOSSES).index(row.loss) if row.loss in LOSSES else len(LOSSES)
    return algorithm, row.algorithm, row.noise, loss, row.loss


def wanted_rows(runs):
    """The rows a table of these runs has: all that exist, and both of `LOSSES` for every algorithm."""
    rows = {run.row for run in runs}
    return sorted(rows | {row._replace(loss=loss) for row in rows for loss in LOSSES}, key=rank)


def name_missing(runs, scores):
    """What would fill the gaps, a line each: runs to evaluate, runs left out, runs to train."""
    lines = [f"{run.folder}: {what}: {run.again}" for run in runs for what in run.lacks]
    for block in blocks_of(scores):
        used = {(runs[i].row, runs[i].seed): runs[i] for i in set(in_block(scores, block)["run"])}
        for run in runs:
            twin = used.get((run.row, run.seed))
            if run.trained != block[:3] or run.scores is None or run is twin:
                continue
            if twin:
                lines.append(f"{run.folder}: left out of {block.name}: the same settings and seed as {twin.folder}")
            else:
                lines.append(f"{run.folder}: no scores on {block.name} with N = {block.n}: {run.again}")
    for trained, noise in sorted({(run.trained, run.row.noise) for run in runs}):
        alike = [run for run in runs if (run.trained, run.row.noise) == (trained, noise)]
        there = {(run.row, run.seed) for run in alike}
        wanted = [(row, seed) for row in wanted_rows(alike) for seed in sorted({run.seed for run in alike})]
        folder = alike[0].args.get("runs", "runs")
        lines += [f"not trained: {train_command(trained, *one, folder)}" for one in wanted if one not in there]
    return [plain(line) for line in lines + name_unfinished(runs) + name_unlike(runs)]


def name_unfinished(runs):
    """Runs whose training stopped early; what they score so far is in the tables."""
    lines = []
    for run in runs:
        wanted, done = run.args.get("epochs", 0), len(cli.read_rows(run.folder / "metrics.csv"))
        if done < wanted:
            lines.append(f"{run.folder}: trained for {done} of {wanted} epochs: start it again")
    return lines


def name_unlike(runs):
    """Runs that are averaged although they were trained with different settings, such as epochs."""
    first, lines = {}, []
    for run in runs:
        one = first.setdefault((run.trained, run.row), run)
        unlike = settings.differences(one.args | {"seed": 0}, run.args | {"seed": 0})
        if unlike:
            lines.append(f"other settings than {one.folder}, though one row: {run.folder} ({unlike})")
    return lines


def train_command(trained, row, seed, folder):
    dataset, protocol, image_size = trained
    words = ["python", f"train_{row.algorithm}.py", "--dataset", dataset, "--loss", row.loss, "--seed", seed,
             "--protocol", protocol, "--image-size", image_size, *(["--noise", row.noise] if row.noise else []),
             *(["--runs", folder] if folder != "runs" else [])]
    return f"`{shlex.join(map(str, words))}`"


# --- what scores do not hold: reliability and the floor of ECE, from the predictions ---


class Seen(NamedTuple):
    """What a block's predictions show: bins by (algorithm, loss, domain), floors by domain, and what is missing."""

    bins: dict
    floors: dict
    demo: bool
    notes: list


def examine(block, runs, scores):
    """Read the predictions of a block's runs. What cannot be used is named in `notes`, and the rest goes on."""
    bins, floors, notes, demo, floored = {}, {domain: [] for domain in DOMAINS}, [], block.dataset == "demo", set()
    for run in (runs[index] for index in sorted(set(in_block(scores, block)["run"]))):
        try:
            folder = run.folder / "predictions" / block.set
            info, labels = read_json(folder / "set.json"), np.load(folder / "labels.npy")
            if info["set_version"] != block.set_version or len(labels) != block.n:
                raise ValueError("predictions of another version or number of images than the scores")
            demo |= info.get("demo") is True
            if run.row not in floored:  # the first seed stands for its row
                for domain, floor in ece_floors(folder, block.n).items():
                    floors[domain].append(floor)
                floored.add(run.row)
            if run.row.loss not in LOSSES or run.row.noise:
                continue
            pairs = [("clean", None)]
            try:
                soft = open_soft_labels(Path(info["folder"]), block, info["limit"])
                pairs.append(("corrupted", soft))
            except BROKEN as error:
                notes.append(f"{block.name}: no reliability diagram of the corrupted images: {plain(error)}")
            for domain, soft in pairs:
                key = (run.row.algorithm, run.row.loss, domain)
                bins[key] = bins.get(key, 0) + read_bins(folder, labels, soft)
        except BROKEN as error:
            notes.append(f"{run.folder}: predictions on {block.name} unusable ({plain(error)}): {run.again}")
    return Seen(bins, floors, demo, list(dict.fromkeys(notes)))


def read_probs(folder, *cell):
    return metrics.softmax(np.load(folder.joinpath(*map(str, cell)).with_suffix(".npy")))


def ece_floors(folder, n):
    """Simulated floor on the clean images, and the mean over five cells: other corruption families, every severity."""
    some = [(list(CORRUPTIONS)[4 * i % len(CORRUPTIONS)], severity) for i, severity in enumerate(SEVERITIES)]
    cells = [metrics.ece_floor(read_probs(folder, *cell).max(1), n, repeats=50) for cell in some]
    return {"clean": metrics.ece_floor(read_probs(folder, "clean").max(1), n), "corrupted": float(np.mean(cells))}


def open_soft_labels(folder, block, limit):
    """The soft labels (17, 5, N, K) of the set these predictions belong to; ValueError where others lie there."""
    path = folder / "soft_labels.npy"
    if not path.exists():
        raise ValueError(f"no {path}: build or copy the set there (make_fer_c.py)")
    if read_json(folder / "manifest.json")["set_version"] != block.set_version:
        raise ValueError(f"{folder} is another version by now")
    soft = np.load(path, mmap_mode="r")
    if soft.shape[:2] != (len(CORRUPTIONS), len(SEVERITIES)) or soft.shape[2] < block.n or (
            limit is None and soft.shape[2] != block.n):
        raise ValueError(f"{path} does not fit the predictions: its shape is {soft.shape}")
    return soft[:, :, :block.n]


def read_bins(folder, labels, soft=None):
    """Images, summed confidence, summed accuracy in 15 bins: of the clean images, or of all cells by soft labels."""
    if soft is None:
        bins = metrics.reliability(read_probs(folder, "clean"), labels)
    else:
        probs = np.concatenate([read_probs(folder, *cell) for cell in CELLS])
        bins = metrics.reliability(probs, np.tile(labels, len(CELLS)), soft.reshape(len(probs), -1))
    return np.stack([bins[0], *(bins[0] * np.nan_to_num(part) for part in bins[1:])])


def by_severity(scores):
    """(algorithm, loss) -> metric -> (seeds, 6): clean, then the mean over the 17 corruptions at each severity."""
    curves = {}
    scores = scores[(scores["noise"] == 0) & scores["loss"].isin(LOSSES) & scores["metric"].isin(["accuracy", "ece"])]
    cells = scores[scores["corruption"].isin(["clean", *CORRUPTIONS])].fillna({"severity": 0})
    for (algorithm, loss, metric), part in cells.groupby(["algorithm", "loss", "metric"]):
        table = part.pivot_table(index="seed", columns="severity", values="value", aggfunc=["mean", "count"])
        mean, count = (table[name].reindex(columns=range(6)) for name in ("mean", "count"))
        whole = count == [1] + [len(CORRUPTIONS)] * 5
        curves.setdefault((algorithm, loss), {})[metric] = mean.where(whole).to_numpy()
    return curves


# --- tables ---


def escape(text):
    """Text of others in a Markdown table."""
    return re.sub(r"([\\|<`*])", r"\\\1", plain(text))


def percent(stat):
    if stat is None:
        return "—"
    return f"{100 * stat.mean:.1f}" + (f" ± {100 * stat.sd:.1f}" if stat.seeds > 1 else "")


def grid(header, rows):
    """A Markdown table, its columns aligned for reading as it is."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join("| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in lines)


def render_block(block, rows, stats, seen, noisy):
    """Title, what the numbers stand for, and the table of one block."""
    found = {(*Row(s.algorithm, s.loss, s.noise), s.domain, s.metric): s for s in in_block(stats, block).itertuples()}
    wanted = [(domain, metric) for domain in DOMAINS for metric in TABLE1]
    lines = []
    for row in rows:
        cells = [found.get((*row, *column)) for column in wanted]
        seeds = "/".join(map(str, sorted({cell.seeds if cell else 0 for cell in cells}, reverse=True)))
        loss = f"{row.loss} ({LOSSES[row.loss]})" if row.loss in LOSSES else row.loss
        lines.append([escape(row.algorithm), escape(loss), *([f"{row.noise:.0%}"] if noisy else []), seeds,
                      *map(percent, cells)])
    header = ["algorithm", "loss", *(["label noise"] if noisy else []), "seeds"]
    header += [f"{TABLE1[metric]} {domain}" for domain, metric in wanted]
    floors = ", ".join(f"{domain} {100 * min(values):.1f} to {100 * max(values):.1f}" if values else f"{domain} unknown"
                       for domain, values in seen.floors.items())
    return (f"## {escape(block.set)}{f' — {DEMO}' if seen.demo else ''}\n\n"
            f"Trained on {escape(block.dataset)}. N = {block.n} images, protocol {escape(block.protocol)}, "
            f"{block.image_size} px, set_version {escape(block.set_version[:8])}. "
            f"ECE floor: {floors}.\n\n{grid(header, lines)}\n")


def render_markdown(title, runs, stats, seen):
    """All blocks of one table. `runs`, evaluated or not, say which rows there should be."""
    noisy = any(run.row.noise for run in runs)
    parts = [f"# {title}\n"]
    for block in blocks_of(stats):
        rows = wanted_rows([run for run in runs if run.trained == block[:3]])
        parts.append(render_block(block, rows, stats, seen[block], noisy))
    if len(parts) == 1:
        return f"{parts[0]}\nNo evaluated run yet.\n"
    return "\n".join([*parts, f"{LEGEND}\n"])


def write_csv(path, stats):
    columns = ["dataset", "protocol", "image_size", "set_version", "algorithm", "loss", "noise", "domain", "metric",
               "mean", "sd", "seeds", "n"]
    order = sorted(stats.index, key=lambda i: (*stats.loc[i, list(Block._fields)], *rank(stats.loc[i])))
    cli.write_text(path, stats.loc[order, columns].to_csv(index=False, lineterminator="\n"))


# --- figures: print width, colours that colour-blind readers tell apart, the same bytes every time ---

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


# --- the report ---


def main(args):
    runs, missing = read_runs(args.runs)
    scores, out = tidy(runs), args.runs / "report"
    stats, blocks = aggregate(scores, TABLE1), blocks_of(scores)
    if args.readme_figures and (len(blocks) != 1 or any(run.args["dataset"] != "demo" for run in runs)):
        raise UserError(f"--readme-figures shows the demo only, and {args.runs} holds other runs, or none or several "
                        "built sets; give a folder with demo runs alone (`bash run.sh --demo`)")
    seen = {block: examine(block, runs, scores) for block in blocks}
    missing += name_missing(runs, scores) + [plain(note) for block in blocks for note in seen[block].notes]
    missing = "".join(["\nMissing:\n", *(f"- {line}\n" for line in missing)]) if missing else ""

    # label-noise runs go to a table of their own; one of an earlier report would speak of runs that are gone
    tables = {"table1": ("Table 1: clean and corrupted images", [run for run in runs if not run.row.noise]),
              "noise": ("Label noise in training", [run for run in runs if run.row.noise])}
    for name, (title, chosen) in tables.items():
        if name == "noise" and not chosen:
            for kind in ("md", "csv"):
                (out / f"{name}.{kind}").unlink(missing_ok=True)
            continue
        part = stats[(stats["noise"] > 0) == (name == "noise")]
        text = render_markdown(title, chosen, part, seen)
        cli.write_text(out / f"{name}.md", text + missing)
        write_csv(out / f"{name}.csv", part)
        print(text)
    print(missing.lstrip("\n"))

    figures = README_FIGURES if args.readme_figures else out / "figures"
    for block in blocks:
        slug, formats = ("demo", ["png"]) if args.readme_figures else (block.slug, ["png", "svg"])
        title = f"{label(block.set, 30)}, N = {block.n}" + (f"\n{DEMO}" if seen[block].demo else "")
        stems = [figures / f"{slug}_{kind}" for kind in ("reliability", "severity")]
        draw_block(in_block(scores, block), seen[block], title, stems, formats)
    print(f"tables: {out}\nfigures: {figures}")
    return 0


if __name__ == "__main__":
    cli.run(main, Args)
