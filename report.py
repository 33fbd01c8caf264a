"""Tables and figures from any folder of runs. This script reads what is there, names what is missing, and never trains.

    python report.py                  # runs/ -> runs/report/tables.md, table1.{md,csv,tex}, all.tex, figures/<block>/*
    python report.py elsewhere/runs
    python report.py --published      # with the paper's numbers below, where there are some
    python report.py --html r.html    # scores, samples, diagrams and settings in one HTML file, which fetches nothing
    python report.py --heatmap nll --corruption zoom_blur --survey votes.csv
    python report.py --brief          # prints at most ten lines instead of all tables; the files are the same

A run is a folder with `args.json`; `python evaluate.py` puts `scores.csv` and `predictions/` beside it. Tables print
percent, their CSV files hold fractions as `scores.csv` does. Only runs that can be compared stand together: runs that
differ in protocol or image size have different tables; runs that differ in the name or the version of the set, in the
number of images or in the precision of scoring (float32 where it is not recorded) have different columns and figures;
and runs that differ in any other setting that changes the result, except the seed, have different rows. Figures 1 to 4,
7 and 8 read the built set. Figures that are up to date are not drawn again.
"""
from support import start

if __name__ == "__main__":  # before the imports that may be interrupted, or fail outside the environment
    start.explain_failed_imports()

from dataclasses import dataclass

from reporting.options import ReportOptions
from support import cli


@dataclass
class Args(ReportOptions):
    """The options of report.py: those of reporting/options.py."""


def main(args: Args) -> int:
    """Make the report. Returns the exit code, 0."""
    from reporting.report import make_report  # here, since pandas takes a second and `--help` does not need it

    make_report(args)
    return 0


if __name__ == "__main__":
    cli.run(main, Args)
