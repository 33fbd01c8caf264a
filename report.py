"""Tables and figures from any folder of runs: reads what is there, names what is missing, never trains, never guesses.

    python report.py                    # runs/ -> runs/report/tables.md, table1.{md,csv,tex}, all.tex, figures/*
    python report.py elsewhere/runs
    python report.py --published        # beside the numbers of the paper, where there are some
    python report.py --html report.html # and all of it to look through: one file, opens from disk, sends nothing
    python report.py --heatmap nll --corruption zoom_blur --survey votes.csv
    python report.py --brief            # prints ten lines instead of all tables; the files are the same

A run is a folder with `args.json`; `python evaluate.py` puts `scores.csv` and `predictions/` beside it. Tables print
percent, their CSV files hold fractions as `scores.csv` does. Runs that differ in protocol or image size never share a
table, those that differ in set version, number of images or precision of scoring no column and no figure, and those
that differ in any other setting that changes the result, except the seed, no row: nothing unlike is averaged. Figures
1 to 4, 7 and 8 read the built set. Figures that are up to date are not drawn again.
"""
from support import start

if __name__ == "__main__":  # before the imports that may be interrupted, or fail outside the environment
    start.guard()

import os
import shlex
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro

import cli
from cli import UserError
from corruptions import CORRUPTIONS
from reporting import bootstrap, latex, published
from reporting.figures import Drawing, check_asked, open_pool, remove_others
from reporting.page import check_path, sample, write_page
from reporting.predictions import examine
from reporting.runs import aggregate, blocks_of, in_block, name_missing, plain, read_runs, tidy
from reporting.survey import read_survey
from reporting.tables import LEGEND, PAPER, SHOWN, arrange, by_key, narrow, render_markdown, write_csv
from support.run_folder import default_runs

README_FIGURES = Path(__file__).parent / "figures"


@dataclass
class Args:
    runs: tyro.conf.Positional[Path] = field(default_factory=default_runs)
    """folder to look for runs in, however deep (default: runs, or $FERC_RUNS)"""
    published: bool = False
    """set the paper's numbers beside those of affectnet, affwild and rafdb, with the difference"""
    resamples: int = 1000
    """of the bootstrap of calibrated against uncalibrated runs; 0: none"""
    readme_figures: bool = False
    """write the demo's figures as PNG into figures/, where the README shows them, and not into the report"""
    html: Path | None = None
    """also write one HTML file with everything: scores, sample images, reliability, settings, downloads"""
    set: Annotated[tuple[Path, ...], tyro.conf.UseAppendAction] = ()
    """a built set that runs were scored on, where it is not where evaluate.py found it; may be given several times"""
    brief: bool = False
    """print ten lines instead of all tables: one narrow table, where the rest is, and the next command"""
    figures: str = "all"
    """figures to draw: all, paper (figures 1 to 8), none, or names with commas between (reliability, severity, figure5,
    heatmap, classes_SCN); a start of a name stands for all that begin so"""
    with_images: bool = False
    """also show images of sets other than the demo. Most face data sets are licensed to a person and let single images
    be published at most: read the licence before you pass such a report on"""
    heatmap: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """metric of scores.csv to draw by corruption and severity; may be given several times (default: ece, macro_f1)"""
    image: str | None = None
    """id of the image that figures 1, 2, 3 and 7 show (default: that with the most ambiguous label)"""
    corruption: str = "snow"
    """the corruption of figures 1 and 3"""
    survey: Path | None = None
    """CSV file with surveyed labels for figure 8: id, corruption, severity, a column of votes or fractions per class"""


BRIEF = 10  # lines


def main(args: Args) -> int:
    if args.resamples < 0:
        raise UserError("--resamples starts at 0, which leaves the bootstrap out")
    if args.corruption not in CORRUPTIONS:
        raise UserError(f"--corruption {args.corruption}: known are {', '.join(CORRUPTIONS)}")
    check_asked(args.figures)
    if args.html:
        check_path(args.html)
    survey = read_survey(args.survey) if args.survey else None
    runs, missing = read_runs(args.runs)
    scores, out = tidy(runs), args.runs / "report"
    blocks = blocks_of(scores)
    if args.readme_figures and (len(blocks) != 1 or any(run.args["dataset"] != "demo" for run in runs)):
        raise UserError(f"--readme-figures shows the demo only, and {args.runs} holds other runs, or none or several "
                        "built sets; give a folder with demo runs alone (`bash run.sh --demo`)")
    known = sorted(set(scores["metric"]))
    if not set(args.heatmap) <= set(known):
        raise UserError(f"--heatmap {' '.join(args.heatmap)}: the metrics that are there: {', '.join(known)}")
    figures = README_FIGURES if args.readme_figures else out / "figures"
    for folder in (out, *([figures] if figures.exists() else []), *([args.html.parent] if args.html else [])):
        check_writable(folder)
    seen = {block: examine(block, runs, scores, args.set) for block in blocks}
    missing += name_missing(runs, scores, {block: seen[block].folder for block in blocks})
    missing += [plain(note) for block in blocks for note in seen[block].notes]
    if not args.readme_figures:
        remove_others(figures, blocks)
    with open_pool() as pool:  # figures are drawn beside the rest of the work
        drawings = [Drawing(pool, in_block(scores, block), block, seen[block], replace(args, survey=survey), figures,
                            args.readme_figures) for block in blocks]
        compared = [bootstrap.compare(block, seen[block].folder, runs, scores, args.resamples)
                    for block in blocks if args.resamples]
        samples = {block: sample(block, seen[block].folder, runs, scores, args.with_images)
                   for block in blocks if args.html}
        for drawing in drawings:
            missing += drawing.finish()
    for _, notes in compared:
        named = {line.partition(" unusable (")[0] for line in missing}  # whatever is wrong with it, once is enough
        missing += [note for note in notes if note.partition(" unusable (")[0] not in named]
    missing = list(dict.fromkeys(missing))
    found = write_tables(args, runs, scores, seen, missing, [one for done, _ in compared for one in done])
    if args.html:
        tables = sorted(out / f"{name}.csv" for name in (*PAPER, "means", "bootstrap"))
        size = write_page(args.html, runs, scores, seen, missing, [path for path in tables if path.is_file()], samples)
    if args.brief:
        print("\n".join(brief_lines(args, found, seen, missing)))
    else:
        print(f"tables: {plain(out)}\nfigures: {plain(figures)}")
        if args.html:
            print(f"page: {plain(args.html)} ({size / 1e6:.1f} MB)")
    return 0


def check_writable(folder: Path) -> None:
    """Make a folder. Raises UserError where no file can be written there: said before the work, not after."""
    probe = folder / f".{os.getpid()}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"{folder}: no file can be written there ({error.strerror or error})") from None


def brief_lines(args: Args, found: dict, seen: dict, missing: list[str]) -> list[str]:
    """At most `BRIEF` lines: a narrow table, where page and tables are, what to do next."""
    tables = shortest(args.runs / "report" / "tables.md")
    page = [f"page: {shortest(args.html)}"] if args.html else []
    left = f" (its end names {len(missing)} missing or damaged)" if missing else ""
    words = ["python", "report.py", str(args.runs), "--html", str(args.html or args.runs / "report" / "report.html")]
    demo = any(block_seen.demo for block_seen in seen.values())
    follow = "bash run.sh --help   (data sets of your own)" if demo else shlex.join(words)
    lines = narrow(found, seen, demo, BRIEF - len(page) - 2)
    return [*lines, *page, f"tables: {tables}{left}", f"next: {plain(follow)}"]


def shortest(path: Path) -> str:
    """A path as it is or from the working folder, whichever is shorter."""
    return plain(min(str(path), os.path.relpath(path), key=len))


def write_tables(args: Args, runs: list, scores, seen: dict, missing: list[str], differences: list) -> dict:
    """Each table in a file of its own (Markdown, CSV, LaTeX), and all in tables.md, which is printed too unless
    `args.brief`. differences: of the bootstrap. Returns the numbers by `Key`."""
    out, found = args.runs / "report", by_key(aggregate(scores, SHOWN))
    grids = arrange(runs, found, seen, published.read() if args.published else None)
    named = {name: [grid for grid in grids if grid.name == name] for name in PAPER}
    named |= {"calibration": bootstrap.arrange(differences, seen)}
    legend = LEGEND + (f"\n{bootstrap.LEGEND}" if differences else "")
    notes = [legend, *(published.NOTES if args.published else ())]
    for name, some in named.items():
        files = {kind: out / f"{name}.{kind}" for kind in ("md", "csv", "tex")}
        if not some:  # a table of an earlier report would speak of runs that are gone
            for file in files.values():
                file.unlink(missing_ok=True)
            continue
        cli.write_text(files["md"], "\n".join([*map(render_markdown, some), *(f"{note}\n" for note in notes)]))
        if name in PAPER:
            printed = {key: value for grid in some for key, value in grid.printed.items()} if args.published else None
            write_csv(files["csv"], [key for grid in some for key in grid.keys], found, runs, printed)
    write_csv(out / "means.csv", found, found, runs)
    bootstrap.write_csv(out / "bootstrap.csv", differences)
    latex.write(out, {name: some for name, some in named.items() if some}, notes)
    tables = [render_markdown(grid) for some in named.values() for grid in some] or ["No evaluated run yet.\n"]
    lines = ["Missing:\n", *(f"- {line}" for line in missing)] if missing else []
    text = "\n".join([*tables, *(f"{note}\n" for note in notes), *lines])
    cli.write_text(out / "tables.md", text + "\n" if lines else text)
    if not args.brief:
        print(text)
    return found


if __name__ == "__main__":
    cli.run(main, Args)
