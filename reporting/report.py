"""Making a report: `make_report(options)` reads the runs, then draws, compares, and writes tables, figures and a page.

The steps are in `make_report`; below it are the checks before the work, the files that are written, and what is
printed. The options come from report.py. A table is a list of grids (tables.py), a figure belongs to a block of runs
(rows.py), and what is missing or damaged is collected as notes (notes.py), which stand at the end of tables.md.
"""
import os
import shlex
import sys
from collections.abc import Mapping
from concurrent.futures import Executor
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from corruptions import CORRUPTIONS, OPERATIONS
from reporting import (
    bootstrap, captions, csv_tables, latex, markdown, open_set, open_set_figures, published, stability, terminal)
from reporting.bootstrap import Difference
from reporting.card_files import find_cards
from reporting.cells import for_sets
from reporting.catalogue import HEATMAPS, FigureOptions
from reporting.comparison import TABLES, Comparison, check_comparison, compare_models
from reporting.figures import Drawing, check_asked, is_asked, open_pool, remove_others
from reporting.gaps import find_gaps
from reporting.notes import Note, plain, unique_notes
from reporting.options import ReportOptions
from reporting.page import check_path, write_page
from reporting.page_samples import Samples, sample
from reporting.predictions import PredictionSummary, summarise_predictions
from reporting.rows import Block
from reporting.runs import Run, read_runs
from reporting.scores import (
    Key, Statistic, aggregate, blocks_of, by_key, in_block, scores_as_table, sequences_as_table)
from reporting.stability import SequenceReport, study_sequences
from reporting.survey import Survey, read_survey
from reporting.tables import PAPER, SHOWN, Grid, arrange
from support.errors import UserError
from support.files import write_text

README_FIGURES = Path(__file__).parent.parent / "figures"
BRIEF_LINES = 10  # that --brief prints at most


def make_report(options: ReportOptions) -> None:
    """Write the report of a folder of runs, and print its tables. Raises UserError, before the long work, where an
    option makes no sense or a folder cannot be written to, and where there is no run."""
    check_options(options)
    survey = read_survey(options.survey) if options.survey else None
    cards, card_notes = find_cards(options.runs, options.cards)
    open_runs = open_set.read_open_set(options.runs)
    runs, notes = read_runs(options.runs, may_be_empty=bool(cards or open_runs.runs))
    notes += card_notes
    scores, sequences = scores_as_table(runs), sequences_as_table(runs)
    blocks = blocks_of(scores)
    check_against_runs(options, runs, scores)
    report_folder = options.runs / "report"
    figures_folder = README_FIGURES if options.readme_figures else report_folder / "figures"
    check_folders(report_folder, figures_folder, options.html)

    if not options.readme_figures:
        remove_others(figures_folder, [*blocks, *blocks_of(sequences)])
    predictions: dict[Block, PredictionSummary] = {}
    drawings: list[Drawing] = []
    with open_pool() as pool:  # other processes draw the figures while this one goes on
        for block in blocks:
            predictions[block] = summarise_predictions(block, runs, scores, options.set)
            drawing = Drawing(block, figure_options(options, survey), figures_folder, options.readme_figures)
            drawing.begin(pool, in_block(scores, block), predictions[block])
            drawings.append(drawing)
        set_folders = {block: predictions[block].folder for block in blocks}
        of_sequences = study_sequences(options, runs, sequences, cards)
        drawings += draw_sequences(options, of_sequences, figures_folder, pool)
        notes += find_gaps(runs, join_tables(scores, sequences), set_folders | of_sequences.set_folders)
        for block in blocks:
            notes += predictions[block].notes
        differences, bootstrap_notes = compare_losses(options, set_folders, runs, scores)
        demo_blocks = [block for block in blocks if predictions[block].demo]
        other_cards = [card for card in cards if not card.has_sequences]
        comparison = compare_models(options, runs, scores, other_cards, set_folders, demo_blocks)
        samples = sample_images(options, set_folders, runs, scores)
        for drawing in drawings:
            notes += drawing.finish()
    open_set.write_section(open_runs, report_folder, options.resamples)
    if not options.readme_figures:
        open_set_figures.draw_all(open_runs, figures_folder, is_asked(open_set_figures.FOLDER, options.figures))
    notes = unique_notes([*notes, *bootstrap_notes, *comparison.notes, *of_sequences.notes, *open_runs.notes,
                          *notes_on_baseline(options, comparison, of_sequences)])

    numbers = by_key(aggregate(scores, SHOWN))
    published_values = published.read() if options.published else None
    grids = group_by_name(arrange(runs, numbers, predictions, published_values),
                          bootstrap.arrange(differences, predictions), comparison, of_sequences)
    write_tables(report_folder, grids, legends(options, differences, grids, suites_of(predictions, comparison)), notes)
    write_numbers(report_folder, grids, numbers, runs, differences, options.published)
    comparison.write_csv(report_folder)
    of_sequences.write_csv(report_folder)
    page_size = None
    if options.html:
        tables = existing_csv_tables(report_folder)
        open_html = open_set.page_section(open_runs, open_set_figures.as_data(open_runs.figures))
        page_size = write_page(options.html, runs, scores, predictions, notes, tables, samples, comparison,
                               of_sequences, open_html)
    if options.brief:
        lines = open_set.brief_lines(open_runs, report_folder)
        lines += brief_lines(options, numbers, predictions, notes, of_sequences) if runs or not lines else []
    else:
        lines = open_set.terminal_lines(open_runs, is_coloured())
        lines += (table_lines(grids, is_coloured()) if runs or cards else []) + missing_lines(notes)
        lines += place_lines(options, report_folder, figures_folder, page_size)
    print("\n".join(lines))


# --- the long work, on each block ---


def figure_options(options: ReportOptions, survey: Survey | None) -> FigureOptions:
    """What the options of the report say of figures. survey: the one of --survey, read."""
    return FigureOptions(
        figures=options.figures, heatmap=options.heatmap or HEATMAPS, with_images=options.with_images,
        image=options.image, corruption=options.corruption, survey=survey)


def compare_losses(options: ReportOptions, set_folders: Mapping[Block, Path | None], runs: list[Run],
                   scores: pd.DataFrame) -> tuple[list[Difference], list[Note]]:
    """The differences between calibrated and uncalibrated runs of all blocks, by bootstrap, and what could not be read;
    both empty with --resamples 0. set_folders: the folder of each block's built set, None where it is not known."""
    differences: list[Difference] = []
    notes: list[Note] = []
    if options.resamples:
        for block, set_folder in set_folders.items():
            of_block, notes_of_block = bootstrap.compare(block, set_folder, runs, scores, options.resamples)
            differences += of_block
            notes += notes_of_block
    return differences, notes


def draw_sequences(options: ReportOptions, of_sequences: SequenceReport, figures_folder: Path,
                   pool: Executor) -> list[Drawing]:
    """Begin to draw the figures of all blocks of perturbation sequences; the README shows none of them."""
    if options.readme_figures:
        return []
    drawings = []
    for block, predictions in of_sequences.predictions.items():
        drawings.append(Drawing(block, figure_options(options, None), figures_folder))
        drawings[-1].begin_sequences(pool, predictions)
    return drawings


def join_tables(scores: pd.DataFrame, sequences: pd.DataFrame) -> pd.DataFrame:
    """The scores on sets of corruptions and on sets of sequences in one table."""
    return pd.concat([table for table in (scores, sequences) if not table.empty] or [scores])


def notes_on_baseline(options: ReportOptions, comparison: Comparison, of_sequences: SequenceReport) -> list[Note]:
    """A note where --baseline was not scored on the images of any model of the report."""
    if options.baseline is None or comparison.has_baseline or of_sequences.has_baseline:
        return []
    return [Note(f"--baseline {options.baseline}", "no model of this report was scored on the same images")]


def sample_images(options: ReportOptions, set_folders: Mapping[Block, Path | None], runs: list[Run],
                  scores: pd.DataFrame) -> dict[Block, Samples]:
    """The sample images of each block for the page of --html; empty where no page is asked for."""
    if not options.html:
        return {}
    return {block: sample(block, set_folder, runs, scores, options.with_images)
            for block, set_folder in set_folders.items()}


# --- checks before the work ---


def check_options(options: ReportOptions) -> None:
    """Raise UserError where an option has a value that makes no sense, whatever the runs."""
    if options.resamples < 0:
        raise UserError("--resamples starts at 0, which leaves the bootstrap out")
    if options.corruption not in OPERATIONS:
        others = [name for name in OPERATIONS if name not in CORRUPTIONS]
        raise UserError(f"--corruption {options.corruption}: known are {', '.join(CORRUPTIONS)}; and of preset mivia "
                        f"{', '.join(others)}")
    check_asked(options.figures)
    check_comparison(options)
    if options.html:
        check_path(options.html)


def check_against_runs(options: ReportOptions, runs: list[Run], scores: pd.DataFrame) -> None:
    """Raise UserError where an option asks for something that these runs do not have."""
    is_demo_only = bool(runs) and all(run.args["dataset"] == "demo" for run in runs)
    if options.readme_figures and (len(blocks_of(scores)) != 1 or not is_demo_only):
        raise UserError(f"--readme-figures shows the demo only; the runs in {options.runs} are of other data sets, or "
                        "not scored, or scored on several built sets. Give a folder with demo runs alone "
                        "(`bash run.sh --demo`)")
    known = sorted(set(scores["metric"]))
    unknown = [metric for metric in options.heatmap if metric not in known]
    if unknown:
        raise UserError(f"--heatmap {' '.join(unknown)}: no run has such scores; the runs have {', '.join(known)}")


def check_folders(report_folder: Path, figures_folder: Path, page: Path | None) -> None:
    """Make the folders that are written to. Raise UserError, before the long work, where one cannot be written to."""
    check_writable(report_folder)
    if figures_folder.exists():
        check_writable(figures_folder)
    if page:
        check_writable(page.parent)


def check_writable(folder: Path) -> None:
    """Make a folder. Raise UserError where no file can be written in it."""
    probe = folder / f".{os.getpid()}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"{folder}: no file can be written there ({error.strerror or error})") from None


# --- files ---


def group_by_name(paper_grids: list[Grid], bootstrap_grids: list[Grid], comparison: Comparison,
                  of_sequences: SequenceReport) -> dict[str, list[Grid]]:
    """{name of a table: its grids}, with an empty list for a table that these runs have nothing for."""
    grids = {name: [grid for grid in paper_grids if grid.name == name] for name in PAPER}
    grids["calibration"] = bootstrap_grids
    return grids | comparison.grids | of_sequences.grids


def suites_of(predictions: Mapping[Block, PredictionSummary], comparison: Comparison) -> set[tuple[str, ...]]:
    """The corruptions of each set of the report."""
    suites = {summary.corruptions for summary in predictions.values()}
    return suites | {ranking.corruptions for ranking in comparison.rankings}


class Legends(NamedTuple):
    """What stands below tables, as paragraphs."""

    all_tables: list[str]
    """below the tables of corruptions, and below all tables together"""
    stability: list[str]
    """below the tables of perturbation sequences"""

    def of_table(self, name: str) -> list[str]:
        """Below one table."""
        return self.stability if name in stability.TABLES else self.all_tables


def legends(options: ReportOptions, differences: list[Difference], grids: Mapping[str, list[Grid]],
            suites: set[tuple[str, ...]]) -> Legends:
    """The meaning of the numbers, and what is odd about the paper's. suites: the corruptions of each set."""
    of_stability = f"{stability.NUMBERS}\n{stability.LEGEND}"
    names = {name for name, of_name in grids.items() if of_name}
    if names and names <= set(stability.TABLES):
        return Legends([of_stability], [of_stability])
    legend = captions.LEGEND
    if differences:
        legend += f"\n{bootstrap.LEGEND}"
    for name, module in TABLES.items():
        if grids[name]:
            legend += f"\n{module.LEGEND}"
    if any(grids[name] for name in stability.TABLES):
        legend += f"\n{stability.LEGEND}"
    legend = for_sets(legend, suites)
    return Legends([legend, *published.NOTES] if options.published else [legend], [of_stability])


def write_tables(folder: Path, grids: Mapping[str, list[Grid]], legend: Legends, notes: list[Note]) -> None:
    """Write NAME.md and NAME.tex of every table, and all of them as tables.md and all.tex. Files of a table that is no
    longer there, its CSV file included, are removed: they would show runs that are gone."""
    for name, of_name in grids.items():
        if of_name:
            paragraphs = [f"{paragraph}\n" for paragraph in legend.of_table(name)]
            text = "\n".join([*map(markdown.render, of_name), *paragraphs])
            write_text(folder / f"{name}.md", text)
        else:
            for kind in ("md", "csv", "tex"):
                (folder / f"{name}.{kind}").unlink(missing_ok=True)
    latex.write(folder, {name: of_name for name, of_name in grids.items() if of_name}, legend.all_tables)
    write_text(folder / "tables.md", whole_text(grids, legend.all_tables, notes))


def whole_text(grids: Mapping[str, list[Grid]], legend: list[str], notes: list[Note]) -> str:
    """All tables in Markdown, their legend, and what is missing."""
    tables = [markdown.render(grid) for of_name in grids.values() for grid in of_name]
    if not tables:
        tables = ["No evaluated run yet.\n"]
    text = "\n".join([*tables, *(f"{paragraph}\n" for paragraph in legend)])
    missing = missing_lines(notes)
    return text + "\n" + "\n".join(missing) + "\n" if missing else text


def missing_lines(notes: list[Note]) -> list[str]:
    """The notes as a list in Markdown; empty where there are none."""
    if not notes:
        return []
    return ["Missing:\n", *(f"- {note}" for note in notes)]


def write_numbers(folder: Path, grids: Mapping[str, list[Grid]], numbers: Mapping[Key, Statistic], runs: list[Run],
                  differences: list[Difference], with_published: bool) -> None:
    """Write the numbers of every table as CSV, means.csv with all of them, and bootstrap.csv."""
    for name in PAPER:
        keys: list[Key] = []
        printed: dict[Key, float] = {}
        for grid in grids[name]:
            keys += grid.keys
            printed |= grid.published
        if grids[name]:
            csv_tables.write(folder / f"{name}.csv", keys, numbers, runs, printed if with_published else None)
    csv_tables.write(folder / "means.csv", numbers, numbers, runs)
    bootstrap.write_csv(folder / "bootstrap.csv", differences)


def existing_csv_tables(folder: Path) -> list[Path]:
    """The CSV files of a report that a page offers for download."""
    names = [f"{name}.csv" for name in (*PAPER, "means", "bootstrap", *TABLES, *stability.TABLES)]
    paths = sorted(folder / name for name in (*names, *open_set.CSV_FILES))
    return [path for path in paths if path.is_file()]


# --- what is printed ---


def is_coloured() -> bool:
    """Whether standard output is a terminal whose user has not switched colours off (https://no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def table_lines(grids: Mapping[str, list[Grid]], colour: bool) -> list[str]:
    """All tables in lines of at most 80 characters, and what their numbers stand for."""
    of_all = [grid for of_name in grids.values() for grid in of_name]
    if not of_all:
        return ["No evaluated run yet.", ""]
    lines = []
    for grid in of_all:
        lines += [*terminal.render(grid, colour), ""]
    sentences = dict.fromkeys(sentence for grid in of_all for sentence in grid.captions[1:])
    for sentence in sentences:
        lines += terminal.wrap(sentence)
    return [*lines, "", *terminal.legend(colour), ""]


def place_lines(options: ReportOptions, report_folder: Path, figures_folder: Path, page_size: int | None) -> list[str]:
    """Where the report lies. page_size: bytes of the page, None without one."""
    lines = [f"tables: {plain(report_folder)}", f"figures: {plain(figures_folder)}"]
    if page_size is not None:
        lines.append(f"page: {plain(options.html)} ({page_size / 1e6:.1f} MB)")
    return lines


def brief_lines(options: ReportOptions, numbers: Mapping[Key, Statistic],
                predictions: Mapping[Block, PredictionSummary], notes: list[Note],
                of_sequences: SequenceReport) -> list[str]:
    """At most `BRIEF_LINES` lines: a narrow table, where page and tables are, and what to do next."""
    is_demo = any(of_block.demo for of_block in predictions.values())
    is_demo |= any(of_block.is_demo for of_block in of_sequences.predictions.values())
    page = options.html or options.runs / "report" / "report.html"
    places = [f"page: {shortest(options.html)}"] if options.html else []
    tables = f"tables: {shortest(options.runs / 'report' / 'tables.md')}"
    if notes:
        tables += f" (at its end: {len(notes)} missing or damaged)"
    if is_demo:
        command = "bash run.sh --help   (data sets of your own)"
    else:
        command = shlex.join(["python", "report.py", str(options.runs), "--html", str(page)])
    places += [tables, f"next: {plain(command)}"]
    most = BRIEF_LINES - len(places)
    if of_sequences.sets and not numbers:
        return [*stability.brief_lines(of_sequences, most), *places]
    return [*terminal.brief_table(numbers, predictions, is_demo, most), *places]


def shortest(path: Path) -> str:
    """A path as it is or from the working folder, whichever is shorter."""
    return plain(min(str(path), os.path.relpath(path), key=len))
