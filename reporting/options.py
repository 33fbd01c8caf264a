"""The options of a report: which runs it reads, what it compares, and what the figures show.

report.py reads them from the command line, and reporting/report.py makes the report. Nothing here imports pandas or
matplotlib, so that `python report.py --help` answers at once.
"""
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from support.run_folder import default_runs

RankedBy = Literal["nll", "brier", "accuracy", "ece"]  # metrics that rank models


@dataclass
class ReportOptions:
    """What a report is made from, and what it shows."""

    runs: tyro.conf.Positional[Path] = field(default_factory=default_runs)
    """folder that is searched for runs, with all folders in it (default: runs, or $FERC_RUNS)"""
    published: bool = False
    """print the paper's numbers, and the differences to them, below your numbers for affectnet, affwild and rafdb"""
    resamples: int = 1000
    """number of resamples of the bootstrap, which compares calibrated with uncalibrated runs and gives ranks and mCE
    their intervals; 0: no bootstrap"""
    readme_figures: bool = False
    """write the demo's figures as PNG into figures/, where the README shows them, and not into the report"""
    html: Path | None = None
    """HTML file for a page with scores, sample images, reliability diagrams, settings and downloads"""
    cards: Annotated[tuple[Path, ...], tyro.conf.UseAppendAction] = ()
    """folder with result cards, which are ranked with the runs; may be given several times. Those of models that were
    scored into the folder of runs are ranked anyway"""
    rank_by: RankedBy = "nll"
    """score on corrupted images that ranks models. NLL and the Brier score are proper: unlike ECE they cannot be
    lowered by low confidence alone"""
    baseline: Path | None = None
    """card, folder of a run of this report, or folder of a model with its cards, whose errors the table `errors`
    divides by"""
    set: Annotated[tuple[Path, ...], tyro.conf.UseAppendAction] = ()
    """folder of a built set that was moved since the runs were scored on it; may be given several times"""
    brief: bool = False
    """print at most ten lines instead of all tables: one narrow table, where the rest is, and the next command"""
    figures: str = "all"
    """figures to draw: all, paper (figures 1 to 8), none, or names with commas between (reliability, severity, figure5,
    heatmap, classes_SCN, open-set); the start of a name stands for all that begin with it"""
    with_images: bool = False
    """also show images of sets other than the demo. Most licences of face data sets do not allow passing their images
    on: read the licence before you pass such a report on"""
    heatmap: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """metric of scores.csv to draw by corruption and severity; may be given several times (default: ece, macro_f1)"""
    image: str | None = None
    """id of the image that figures 1, 2, 3 and 7 show (default: the one with the most ambiguous label)"""
    corruption: str = "contrast"
    """corruption that figures 1 and 3 show (default: contrast, as in the paper's figure 1)"""
    survey: Path | None = None
    """CSV file with surveyed labels for figure 8: id, corruption, severity, a column of votes or fractions per class"""
