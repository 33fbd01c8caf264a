"""Tables and figures from any folder of runs: reads what is there, names what is missing, never trains, never guesses.

    python report.py                    # runs/ -> runs/report/table1.md, table1.csv, figures/*.png, figures/*.svg
    python report.py elsewhere/runs

A run is a folder with `args.json`; `python evaluate.py` puts `scores.csv` and `predictions/` beside it. Tables print
percent, their CSV files hold fractions as `scores.csv` does. Runs that differ in set version, protocol, image size or
number of images are never averaged together: each combination is a table of its own.
"""
from dataclasses import dataclass
from pathlib import Path

import tyro

import cli
from cli import UserError
from reporting.figures import draw_block, label
from reporting.predictions import examine
from reporting.runs import aggregate, blocks_of, in_block, name_missing, plain, read_runs, tidy
from reporting.tables import DEMO, TABLE1, render_markdown, write_csv

README_FIGURES = Path(__file__).parent / "figures"


@dataclass
class Args:
    runs: tyro.conf.Positional[Path] = Path("runs")
    """folder to look for runs in, however deep"""
    readme_figures: bool = False
    """write the demo's figures as PNG into figures/, where the README shows them, and not into the report"""


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
