"""The numbers that the paper printed, to be compared with one's own.

published.csv: tables 1 to 6 of FER-C (arXiv 2312.11542), copied by hand from its text; columns table, dataset, domain
(id: clean, ood: corrupted), noise (percent), algorithm, loss, metric, value_percent_or_nats (NLL in nats, all else in
percent). The paper gives neither standard deviations nor the number of images. "Overall" of table 3 is left out: it is
worked out anew.
"""
import csv
from collections.abc import Iterable
from pathlib import Path

from reporting.cells import FER_C
from reporting.rows import Block
from reporting.runs import Run

FILE = Path(__file__).with_name("published.csv")
IMAGE_SIZE = 224
CORRUPTIONS_OF_PAPER = 17  # whatever FER_C holds later
CLASSES = {"affectnet": 8, "affwild": 7, "rafdb": 6}  # of the published experiments
DOMAINS = {"id": "clean", "ood": "corrupted"}
METRIC_NAMES = {  # name in published.csv -> names in scores.csv; all others are equal
    "f1": ("macro_f1",), "cece": ("cece", "cece_sum")}
NOTES = (
    "The paper's numbers: most likely made with the released code, at 224 pixels; --protocol released comes nearest to "
    "that code. The ECE and AdaECE of corrupted images in the paper probably follow the rule that scores.csv keeps as "
    "ece_released and adaece_released.",
    "The paper's table 3: the printed Overall values (29.8, 23.2, 21.1, 20.0) are not the means of their rows "
    "(32.5, 24.0, 22.9, 21.4); here Overall is the mean of the algorithms shown. Its rows CE and MaxEnt+MbLS disagree "
    "with table 1 throughout.",
    "The paper's table 4: CECE of corrupted images (about 20) does not fit a mean over classes, because clean "
    "values are 2 to 5; it may be a sum over classes. It stands below both columns, CECE (mean) and CECE sum.",
    "The ECE of DMUE quoted in the paper's section 5.2.2 (82, 16, 15) is in no table.")


def read() -> dict[tuple[str, str, str, float, str, str, str], float]:
    """{(table, data set, domain, label noise as a fraction, algorithm, loss, metric): value in percent or nats}"""
    values = {}
    with FILE.open(newline="", encoding="utf-8") as file:
        for line in csv.DictReader(file):
            table, domain, noise = f"table{line['table']}", DOMAINS[line["domain"]], int(line["noise"]) / 100
            for metric in METRIC_NAMES.get(line["metric"], (line["metric"],)):
                key = (table, line["dataset"], domain, noise, line["algorithm"], line["loss"], metric)
                values[key] = float(line["value_percent_or_nats"])
    return values


def reason_without_values(block: Block, runs: Iterable[Run], corruptions: tuple[str, ...]) -> str | None:
    """Why the numbers of a block have no published ones below them, in words that continue "Not compared with the
    paper:"; None where they have. corruptions: of the block's set."""
    if block.dataset not in CLASSES:
        return f"it has no values for {block.dataset}"
    if corruptions != FER_C or len(corruptions) != CORRUPTIONS_OF_PAPER:
        return f"its values are for the {CORRUPTIONS_OF_PAPER} corruptions of the paper"
    if block.image_size != IMAGE_SIZE:
        return f"its values are for {IMAGE_SIZE} px"
    class_counts = {len(run.args.get("classes", ())) for run in runs if run.setup == block.setup}
    if class_counts != {CLASSES[block.dataset]}:
        return f"its values are for {CLASSES[block.dataset]} classes"
    return None
