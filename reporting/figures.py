"""Drawing the figures of a report: what is asked for and not up to date, as PNG, SVG and PDF.

    report/figures/<slug of the block>/<name>.{png,svg,pdf}      for example reliability.png
    report/figures/<slug of the block>/index.json                what each file was drawn from, as a hash

reporting/report.py begins a `Drawing` for each block, does other work while the figures are drawn in the processes of
`open_pool`, and calls `finish`. Which figures a block has is in catalogue.py. Files whose names are not those of
figures are left alone.
"""
import hashlib
import importlib.metadata
import json
import multiprocessing
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from building.built_set import BuiltSet, open_built_set
from evaluation.summary import DEMO
from reporting import catalogue
from reporting.catalogue import OF_SET, README_FIGURES, FigureOptions, FigurePlan
from reporting.predictions import PredictionSummary
from reporting.notes import READ_ERRORS, Note, plain
from reporting.rows import Block
from reporting.stored_sequences import BlockSequences
from reporting.style import FORMATS, STYLE, label, save
from support.errors import UserError, first_line
from support.files import read_json, write_text

INDEX = "index.json"
KNOWN_STARTS = ("reliability", "severity", *(f"figure{number}" for number in range(1, 9)), "heatmap", "classes",
                "flips", "open-set")
PROCESSES = 4  # at most
SLOWEST = ("heatmap", "figure7", "figure2", "classes", "reliability")  # figures that take longest to draw, in order
FIGURE_FILE = re.compile(r"(reliability|severity|flips|figure\d|heatmap_|classes_)[A-Za-z0-9_.-]*\.(png|svg|pdf)")
DRAWING_CODE = ("catalogue.py", "plots.py", "sequence_plots.py", "square_numbers.py", "pictures.py",
                "style.py")  # decides how figures look
LICENCE_REASON = ("these figures show images of the data set, and most licences of face data sets do not allow passing "
                  "their images on; if this licence does, --with-images draws the figures")


def is_asked(name: str, asked: str) -> bool:
    """Whether the option --figures asks for a figure: all, none, paper (figures 1 to 8), or the starts of names."""
    if asked == "all":
        return True
    if asked == "none":
        return False
    starts = ("figure",) if asked == "paper" else tuple(filter(None, asked.split(",")))
    return name.startswith(starts)


def check_asked(asked: str) -> None:
    """Raises UserError where the option --figures names something that is no figure."""
    if asked in ("all", "paper", "none"):
        return
    for start in asked.split(","):
        if not any(start and (start.startswith(known) or known.startswith(start)) for known in KNOWN_STARTS):
            raise UserError(f"--figures {asked}: give all, paper, none, or names such as {', '.join(KNOWN_STARTS)}")


@contextmanager
def open_pool() -> Iterator[Executor]:
    """The processes that draw. After an exception the figures that have not begun are dropped, and those that have
    begun are finished."""
    processes = min(PROCESSES, len(os.sched_getaffinity(0)))
    with ProcessPoolExecutor(processes, multiprocessing.get_context("fork")) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def write_figure(stem: Path, formats: Sequence[str], plan: FigurePlan) -> str | None:
    """Draw one figure and save it. Returns why it cannot be drawn, or None. This runs in a process of the pool."""
    import matplotlib.style

    if not plan.data[0]:
        return "no scores or predictions that it could show"
    with matplotlib.style.context(["default", STYLE]):  # whatever the user's own settings are
        try:
            figure = plan.draw(*plan.data)
        except READ_ERRORS as error:
            return first_line(error)
        save(figure, stem, formats)
    return None


class Drawing:
    """The figures of one block that are asked for, drawn in other processes.

    `begin` hands them to the processes of a pool; `finish` waits for them. Figures that are up to date are kept, and
    figures of runs that are gone are removed. For the README only `README_FIGURES` are drawn. They are PNG files, and
    their names begin with demo_."""

    def __init__(self, block: Block, options: FigureOptions, folder: Path, readme: bool = False) -> None:
        """folder: where the block's folder goes, or the README's figures."""
        self.block = block
        self.readme = readme
        self.options = options._replace(figures="all") if readme else options
        self.folder = folder if readme else folder / block.slug
        self.formats = ("png",) if readme else FORMATS
        self.problems: list[Note] = []
        self.index = {} if readme else read_index(self.folder)
        self.hashes: dict[str, str] = {}  # {name of a figure: hash of what it is drawn from}
        self.current: list[str] = []  # names of the figures whose files are up to date
        self.jobs: dict[str, Future] = {}  # {name of a figure: its drawing}

    def begin(self, pool: Executor, scores: pd.DataFrame, summary: PredictionSummary) -> None:
        """Begin to draw what is not up to date, in the processes of `pool`, the figures that take longest first.

        scores: of the block, as `scores.scores_as_table` gives them; summary: what its predictions show."""
        if not self.has_nothing_to_do:
            self.begin_plans(pool, self.plan(scores, summary))

    def begin_sequences(self, pool: Executor, predictions: BlockSequences) -> None:
        """The same for a set of perturbation sequences. predictions: what the predictions of the block's runs show."""
        if not self.has_nothing_to_do:
            title = title_of(self.block, predictions.is_demo)
            self.begin_plans(pool, catalogue.of_sequences(predictions.curves, title))

    @property
    def has_nothing_to_do(self) -> bool:
        """Whether there is nothing to draw, and no file of which to find out whether it is up to date."""
        return self.options.figures == "none" and not figures_in(self.folder)

    def begin_plans(self, pool: Executor, plans: Mapping[str, FigurePlan]) -> None:
        """Begin to draw those of these figures that are asked for and not up to date."""
        self.hashes = hashes_of(plans)
        for name in sorted(plans, key=drawing_rank):
            if is_current(self.folder, self.files(name), self.index, self.hashes[name]):
                self.current.append(name)
            elif self.is_asked(name):
                self.jobs[name] = pool.submit(write_figure, self.stem(name), self.formats, plans[name])

    def stem(self, name: str) -> Path:
        """The file of a figure without its suffix."""
        return self.folder / (f"demo_{name}" if self.readme else name)

    def files(self, name: str) -> list[str]:
        """The names of a figure's files in the block's folder."""
        return [f"{self.stem(name).name}.{kind}" for kind in self.formats]

    def is_asked(self, name: str) -> bool:
        return is_asked(name, self.options.figures) and (not self.readme or name in README_FIGURES)

    @property
    def set_is_asked(self) -> bool:
        """Whether any figure that needs the built set is asked for."""
        return any(self.is_asked(name) for name in OF_SET)

    def plan(self, scores: pd.DataFrame, summary: PredictionSummary) -> dict[str, FigurePlan]:
        """All figures that the block can have, asked for or not; those of the set only where one is asked for."""
        title = title_of(self.block, summary.demo)
        plans = catalogue.of_scores(scores, summary, title, self.options.heatmap)
        if self.set_is_asked:
            try:
                plans |= self.plan_set(summary, title)
            except READ_ERRORS as error:
                self.leave_out(OF_SET, error)
        if self.readme:
            return {name: plan for name, plan in plans.items() if name in README_FIGURES}
        return plans

    def plan_set(self, summary: PredictionSummary, title: str) -> dict[str, FigurePlan]:
        """The figures of the built set. Raises one of `READ_ERRORS` where the set cannot be used."""
        if summary.folder is None:
            raise UserError("no usable predictions name their built set")
        built = open_built_set(summary.folder)
        if built.manifest["set_version"] != self.block.set_version:
            raise UserError(f"{summary.folder} now holds another version of the set than the one that was scored; "
                            "give the folder of that one with --set DIR")
        plots, with_images = catalogue.of_set(built, title, self.options)
        if not self.options.with_images and built.made_with["dataset"] != "demo":
            self.leave_out(with_images, LICENCE_REASON)
            return plots
        if not built.has_images:
            built.check_forms_made_here()
        return plots | with_images

    def leave_out(self, names: Iterable[str], reason: object) -> None:
        """Note that figures are not drawn: those of them that are asked for."""
        names = [name for name in names if self.is_asked(name)]
        if names:
            self.problems.append(Note(self.block.name, f"not drawn: {', '.join(names)}: {plain(reason)}"))

    def finish(self) -> list[Note]:
        """Wait for the figures, and remove files of figures that are gone. Returns what is not drawn."""
        names = [name for name in self.hashes if name in self.jobs]  # the order of the catalogue, not of the drawing
        for name in tqdm(names, desc=f"figures of {plain(self.block.name)}", unit="", disable=None):
            reason = self.jobs[name].result()
            if reason:
                self.leave_out([name], reason)
            else:
                self.current.append(name)
        if not self.readme:
            self.update_index()
        return self.problems

    def update_index(self) -> None:
        """Write the block's index, and remove the figures that it does not list."""
        kept = {}
        for name in self.current:
            for file in self.files(name):
                if (self.folder / file).is_file():
                    kept[file] = {"drawn_from": self.hashes[name], "sha256": hash_of(self.folder / file)}
        for file, entry in self.index.items():
            if file.startswith(OF_SET) and not self.set_is_asked and (self.folder / file).is_file():
                kept[file] = entry  # still those of the set that the folder's name says
        for path in figures_in(self.folder):
            if path.name not in kept:
                path.unlink()
        if kept:
            write_text(self.folder / INDEX, json.dumps(dict(sorted(kept.items())), indent=1))
        else:
            remove_block(self.folder)


def title_of(block: Block, demo: bool) -> str:
    """The lines of a figure's title that say what the numbers are of."""
    lines = [f"{label(block.set, 30)}, N = {block.n}"]
    if demo:
        lines.append(DEMO)
    if block.precision != "32":
        lines.append(f"scored in {label(block.precision, 20)}")
    return "\n".join(lines)


def drawing_rank(name: str) -> int:
    """Sorts figures: those that take longest first, so that the processes end at about the same time."""
    for number, start in enumerate(SLOWEST):
        if name.startswith(start):
            return number
    return len(SLOWEST)


# --- what is up to date ---


def hashes_of(plans: Mapping[str, FigurePlan]) -> dict[str, str]:
    """{name of a figure: hash of what it is drawn from, the code included}"""
    code = versions_of_code()
    return {name: fingerprint(code, plan.name_of_function, *plan.data) for name, plan in plans.items()}


def fingerprint(*values: Any) -> str:
    """A hash of what a figure is drawn from: numbers, texts, arrays, and containers of them. Of a built set it takes
    what the set says about itself, and when its tables were written."""
    whole = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, BuiltSet):
            tables = sorted(path for path in value.folder.glob("*.*") if path.is_file())
            states = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in tables]
            add([json.dumps(value.manifest, sort_keys=True), states, value.has_images])
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


def versions_of_code() -> list[str]:
    """What besides its data decides how a figure looks: hashes of the code that draws, versions of the libraries."""
    code = [hash_of(Path(__file__).with_name(name)) for name in DRAWING_CODE]
    return [*code, importlib.metadata.version("matplotlib"), importlib.metadata.version("numpy")]


def hash_of(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def read_index(folder: Path, name: str = INDEX) -> dict[str, dict[str, str]]:
    """{name of a file: {"drawn_from": hash of the data, "sha256": of the file}}; empty where there is none, or where it
    is damaged. name: of the index."""
    try:
        index = read_json(folder / name)
        return {name: entry for name, entry in index.items() if isinstance(entry, dict)}
    except (OSError, UserError):
        return {}


def is_current(folder: Path, files: Iterable[str], index: dict[str, dict[str, str]], drawn_from: str) -> bool:
    """Whether these files are as they were drawn, from the data with this hash."""
    for file in files:
        entry = index.get(file, {})
        path = folder / file
        if entry.get("drawn_from") != drawn_from or not path.is_file() or entry.get("sha256") != hash_of(path):
            return False
    return True


# --- removing figures ---


def figures_in(folder: Path) -> list[Path]:
    """The files in a folder whose names are those of figures."""
    return [path for path in sorted(folder.glob("*")) if FIGURE_FILE.fullmatch(path.name) and path.is_file()]


def remove_block(folder: Path) -> None:
    """Remove the figures and the index of a block; the folder too, where nothing else is in it."""
    for path in figures_in(folder):
        path.unlink()
    (folder / INDEX).unlink(missing_ok=True)
    if folder.is_dir() and not folder.is_symlink() and not any(folder.iterdir()):
        folder.rmdir()


def remove_others(folder: Path, blocks: Iterable[Block]) -> None:
    """Remove the figures of blocks that are gone. Earlier releases kept all figures in `folder` itself: those too."""
    slugs = {block.slug for block in blocks}
    for index in sorted(folder.glob(f"*/{INDEX}")):
        if index.parent.name not in slugs:
            remove_block(index.parent)
    for name in read_index(folder):
        path = folder / name
        if Path(name).name == name and path.suffix in (".png", ".svg") and path.is_file():
            path.unlink()
    (folder / INDEX).unlink(missing_ok=True)
