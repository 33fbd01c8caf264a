"""What the tables of a report compare: rows and blocks, and the order in which they are printed.

  row      the runs whose scores are averaged for a number of a table: they agree in everything that changes the result,
           except the seed. A row has an algorithm, a loss and a rate of label noise. Settings that differ between the
           runs of one algorithm separate rows, too, and stand in the row as words (settings.py writes them).
  block    the numbers that are compared in a table. They have in common: one built set, of which the same images were
           scored in one precision, and runs that were trained on one data set with one protocol and image size. Numbers
           of different blocks are never averaged. (A ranking compares more: see `Group` in candidates.py.)
  setup    the part of a block that is known before scoring: data set, protocol, image size.
  variant  a row without its loss. It keeps the constants, such as the margin of MbLS, where these separate rows: the
           rows of one variant differ in the loss only, and comparing them shows what the loss does.

A row is not a printed line. In most tables the losses stand side by side: a printed line shows one row for each loss,
and a block is a group of columns. In table 3 the losses stand below each other, and a block is a section of lines.

This file names and orders rows and blocks, and says which rows are compared with each other. To which row a run belongs
is found out by `settings.assign_rows`.
"""
import re
from collections.abc import Iterable
from typing import NamedTuple

ORDER = ("baseline", "SCN", "DMUE", "RUL", "swinv2")  # of the paper's tables; other algorithms follow by name
COMPARED_LOSSES = {"ce": "uncalibrated", "maxent+mbls": "calibrated"}  # every algorithm is trained with both
# The losses of the paper's table 3: all of these are compared once focal or maxent was run.
TABLE3_LOSSES = ("ce", "focal", "maxent", "maxent+mbls")


def join_names(*names: str) -> str:
    """The names that are not empty, with commas between them."""
    return ", ".join(name for name in names if name)


class Row(NamedTuple):
    """The runs that are averaged over seeds for a number of a table (see the top of this file)."""

    algorithm: str
    """name of the training script without train_"""
    loss: str
    """name of the loss, as in args.json"""
    noise: float
    """fraction of training labels made wrong, 0 to 1"""
    settings: str = ""
    """in words, what else separates its runs from others of this algorithm, such as "backbone resnet50"; empty where
    nothing does or where the values are the recipe's"""
    constants: str = ""
    """in words, which constants of its loss separate its runs from others with this loss, such as "margin 10.0" """

    @property
    def name(self) -> str:
        """The algorithm, with the settings that separate its rows."""
        return join_names(self.algorithm, self.settings)

    @property
    def loss_name(self) -> str:
        """The loss, with those of its constants that separate its rows."""
        return join_names(self.loss, self.constants)

    @property
    def variant_name(self) -> str:
        """The algorithm, with everything but the loss and the label noise that separates its rows."""
        return join_names(self.algorithm, self.settings, self.constants)

    @property
    def all_settings(self) -> str:
        """Settings and constants together."""
        return join_names(self.settings, self.constants)

    def without_loss_and_constants(self) -> "Row":
        """The row with neither loss nor constants: what it has in common with the same training with another loss."""
        return self._replace(loss="", constants="")


class Setup(NamedTuple):
    """What a run was trained on."""

    dataset: str
    protocol: str
    image_size: int


class Block(NamedTuple):
    """What the numbers of a block have in common (see the top of this file). The first three fields are those of
    `Setup`."""

    dataset: str
    """data set of the training"""
    protocol: str
    image_size: int
    """side of the images in pixels"""
    set: str
    """name of the built set that was scored"""
    set_version: str
    n: int
    """number of images that were scored"""
    precision: str = "32"
    """of the forward pass in scoring: 32 or bf16"""

    @property
    def setup(self) -> Setup:
        """What its runs were trained on."""
        return Setup(self.dataset, self.protocol, self.image_size)

    @property
    def name(self) -> str:
        """Set, version and, unless it is float32, precision, as messages name the block."""
        name = f"{self.set} {self.set_version[:8]}"
        return name if self.precision == "32" else f"{name} in {self.precision}"

    @property
    def slug(self) -> str:
        """The block as the start of a file name."""
        parts = [self.dataset, self.set, self.set_version[:8], self.protocol, f"{self.image_size}px", f"n{self.n}"]
        if self.precision != "32":
            parts.append(self.precision)
        return "_".join(re.sub(r"[^A-Za-z0-9.-]+", "-", part)[:40] for part in parts)


# --- the order of rows ---


def rank(row: Row) -> tuple:
    """Sorts rows: by algorithm in the paper's order, label noise and settings; then uncalibrated, calibrated, other
    losses; then by constants."""
    return (*rank_of_name(row.algorithm), row.noise, row.settings, *rank_of_loss(row))


def rank_of_name(name: str) -> tuple[int, str]:
    """Sorts algorithms, given by `Row.algorithm` or `Row.name`: the paper's order, others behind them by name."""
    algorithm = name.partition(", ")[0]
    place = ORDER.index(algorithm) if algorithm in ORDER else len(ORDER)
    return place, name


def rank_of_loss(row: Row) -> tuple[int, str, str]:
    """Sorts rows of one algorithm by loss: uncalibrated, calibrated, others by name; then by constants."""
    compared = list(COMPARED_LOSSES)
    place = compared.index(row.loss) if row.loss in compared else len(compared)
    return place, row.loss, row.constants


# --- what is compared ---


def variants(rows: Iterable[Row]) -> dict[Row, dict[str, Row]]:
    """The rows by variant, sorted: {the variant, as a row whose loss is "": {loss: row}}."""
    rows_by_training: dict[Row, list[Row]] = {}
    for row in sorted(set(rows), key=rank):
        rows_by_training.setdefault(row.without_loss_and_constants(), []).append(row)
    members: dict[Row, dict[str, Row]] = {}
    for training, rows_of_training in rows_by_training.items():
        members |= variants_by_constants(training, rows_of_training)
    return members


def variants_by_constants(training: Row, rows: list[Row]) -> dict[Row, dict[str, Row]]:
    """The variants among rows that agree in all but loss and constants, one for each choice of constants.

    A loss whose constants were never varied belongs to every one of them: cross-entropy, which has no margin, is
    compared with MbLS of margin 8 and with MbLS of margin 10."""
    losses_with_choices = {row.loss for row in rows if row.constants}
    choices = sorted({row.constants for row in rows if row.loss in losses_with_choices}) or [""]
    members: dict[Row, dict[str, Row]] = {}
    for constants in choices:
        rows_by_loss = {}
        for row in rows:
            if row.loss not in losses_with_choices or row.constants == constants:
                rows_by_loss[row.loss] = row
        members[training._replace(constants=constants)] = rows_by_loss
    return members


def named_pairs(rows: Iterable[Row]) -> dict[tuple[str, str], Row]:
    """The rows of the losses `COMPARED_LOSSES`: {(name of the variant, loss): row}. Those with label noise are left
    out."""
    compared = [row for row in rows if row.loss in COMPARED_LOSSES and not row.noise]
    pairs = {}
    for variant, rows_by_loss in variants(compared).items():
        for loss, row in rows_by_loss.items():
            pairs[variant.variant_name, loss] = row
    return pairs


def losses_to_compare(losses: Iterable[str]) -> list[str]:
    """Given the losses of some runs: the losses that get columns or lines in their tables, in order. Always both of
    `COMPARED_LOSSES`; all of `TABLE3_LOSSES` once focal or maxent was run; then all other losses by name."""
    trained = set(losses)
    further = set(TABLE3_LOSSES) - set(COMPARED_LOSSES)
    first = TABLE3_LOSSES if trained & further else ()
    return list(dict.fromkeys([*first, *COMPARED_LOSSES, *sorted(trained)]))
