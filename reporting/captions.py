"""What stands around the numbers of a table: how they were made, on which images, and how low an ECE can be there."""
from collections.abc import Iterable, Sequence
from math import isnan, nan

from evaluation.summary import DEMO
from reporting.notes import plain
from reporting.predictions import PredictionSummary
from reporting.rows import Block, Setup
from reporting.runs import Run

LEGEND = """Percent, NLL in nats; mean ± standard deviation (n - 1) over seeds; bold (underlined in LaTeX): best of its
column within a section. F1: macro. Corrupted: mean over [all_cells|the 85 cells (17 corruptions at 5 severities)], \
accuracy and F1
by hard labels, all else by soft labels (the reliability diagrams pool all cells, and ECE of the pool is another
number). CECE: mean over classes; CECE sum: sum over classes. —: missing, see the end of tables.md.
Settings stand behind an algorithm or a loss where its runs differ in them; runs with the usual settings of the data set
have none. The ECE floor is what a perfectly calibrated model with the same confidences scores by chance at this N
(simulated for the first seed of each algorithm, loss and setting; lowest to highest). For corrupted images it is an
upper bound, because soft labels have less noise than drawn hard labels."""


def of_grid(setup: Setup, seeds: Iterable[int]) -> str:
    """A sentence on a whole grid: protocol, image size and number of seeds. seeds: of its entries, 0 for empty ones."""
    return f"Protocol {plain(setup.protocol)}, {setup.image_size} px, {of_seeds(seeds)}."


def of_seeds(seeds: Iterable[int]) -> str:
    """The number of seeds in words. seeds: of the entries of a grid, 0 for empty ones."""
    numbers = set(seeds) - {0}
    if not numbers:
        return "nothing evaluated"
    most = max(numbers)
    text = f"{most} seeds" if most > 1 else "1 seed"
    if len(numbers) > 1:
        text += " (a raised number: that many seeds, where there are fewer)"
    return text


def of_block(block: Block, name: str, predictions: PredictionSummary) -> str:
    """A sentence on a block: its images and the floor of ECE on them. name: its heading in the grid."""
    floors = []
    for domain, values in predictions.floors.items():
        if values:
            floors.append(f"{domain} {100 * min(values):.1f} to {100 * max(values):.1f}")
        else:
            floors.append(f"{domain} unknown")
    text = (f"{name}: trained on {block.dataset}, N = {block.n} images, set_version {block.set_version[:8]}; "
            f"ECE floor: {', '.join(floors)}")
    if predictions.demo:
        text += f"; {DEMO}"
    return plain(f"{text}.")


def of_noise(runs: Sequence[Run]) -> str:
    """The heading of runs with one rate of label noise: the rate that was asked for and the rates that came about."""
    rates = [100 * rate for rate in map(realised_noise, runs) if not isnan(rate)]
    if not rates:
        realised = "not recorded"
    else:
        low, high = f"{min(rates):.1f}", f"{max(rates):.1f}"
        realised = f"{low} %" if low == high else f"{low} to {high} %"
    return f"label noise {100 * runs[0].row.noise:g} % (realised: {realised})"


def realised_noise(run: Run) -> float:
    """Fraction of training labels that are wrong after label noise was added, NaN where training did not record it."""
    rate = run.args.get("noise_realised")
    if isinstance(rate, bool) or not isinstance(rate, int | float):
        return nan
    return float(rate)
