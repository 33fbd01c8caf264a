"""Open-set protocol: which classes are open, what is left of a split without them, and the pools that detectors score.

Words. Of the K classes of a data set some are open (never trained on); the others are closed. Closed classes are
numbered anew, in their order: with class 0 open, class 1 becomes 0. A pool is a list of images, closed and open ones,
that a detector gives open scores to (`POOLS`). The group of an image in a pool is closed, open-test or open-train
(`GROUPS`); the latter come from the training and validation splits, so they may differ from the closed images of the
pool, which are test images, in more than their class.

Nothing here reads a file: `ClosedAndOpen` and `make_pool` take loaded splits (`datasets.split.Split`).
"""
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from datasets.split import Split, expression_name
from support.errors import UserError
from support.random_streams import keyed_rng

# Name of a pool -> what it is, for help texts and pages.
POOLS = {
    "test": "all test images",
    "paper": "all test images, and all images of the open classes in the training and validation splits",
    "paper-permuted": "the images of paper; each open image of the training and validation splits gets the pseudo "
                      "label of a random image of these splits, as in the code released with the paper",
    "paper-random": "the images of paper; each open image of the training and validation splits gets a random pseudo "
                    "label",
}
GROUPS = ("closed", "open-test", "open-train")
HALVES = ("a", "b")
LEAST_CLOSED = 2  # closed classes that have to remain


def open_name(text: str) -> str:
    """The open classes of a command line in the form in which a folder and args.json name them: common names of
    expressions (`expression_name`), sorted, joined by +. "Surprise,fear" -> "fear+surprise".

    Raises UserError where a name is empty or cannot be a part of a folder's name."""
    names = sorted({expression_name(name).replace(" ", "_") for name in re.split(r"[,+]", text)})
    for name in names:
        if not re.fullmatch(r"[a-z0-9_][a-z0-9_.-]*", name):
            raise UserError(f"--open takes names of classes, as in --open surprise or --open surprise,fear; not "
                            f"{text[:60]!r}")
    return "+".join(names)


@dataclass(frozen=True)
class ClosedAndOpen:
    """The classes of a data set, divided."""

    classes: tuple[str, ...]
    """names of all K classes, in the order of their numbers"""
    open: tuple[int, ...]
    """numbers of the open classes, ascending"""

    @classmethod
    def of(cls, name: str, classes: tuple[str, ...]) -> "ClosedAndOpen":
        """name: as `open_name` gives it. Raises UserError where a class is unknown, or fewer than two stay closed."""
        number_of = {expression_name(text).replace(" ", "_"): number for number, text in enumerate(classes)}
        unknown = [part for part in name.split("+") if part not in number_of]
        if unknown:
            raise UserError(f"--open {unknown[0]}: no such class; the classes are {', '.join(number_of)}")
        numbers = tuple(sorted(number_of[part] for part in name.split("+")))
        if len(classes) - len(numbers) < LEAST_CLOSED:
            raise UserError(f"--open {name} leaves {len(classes) - len(numbers)} of {len(classes)} classes closed; at "
                            f"least {LEAST_CLOSED} are needed")
        return cls(tuple(classes), numbers)

    @property
    def closed(self) -> tuple[int, ...]:
        """Numbers of the closed classes, ascending."""
        return tuple(number for number in range(len(self.classes)) if number not in self.open)

    @property
    def closed_names(self) -> tuple[str, ...]:
        """Names of the closed classes, in the order of their new numbers."""
        return tuple(self.classes[number] for number in self.closed)

    @property
    def new_numbers(self) -> np.ndarray:
        """int64 (K,): the new number of every closed class, -1 for open classes."""
        numbers = np.full(len(self.classes), -1, np.int64)
        numbers[list(self.closed)] = np.arange(len(self.closed))
        return numbers

    def is_open(self, labels: np.ndarray | pd.Series) -> np.ndarray:
        """bool (N,): whether the class of each image is open. labels: int (N,), numbers of all classes."""
        return np.isin(np.asarray(labels), self.open)

    def closed_part(self, split: Split) -> Split:
        """The split without the images of open classes, its classes numbered anew. Votes for open classes are left out
        of the distributions, and the others add up to 1 again. Raises UserError where no image remains."""
        labels = split.frame["expression"].to_numpy(np.int64)
        keep = ~self.is_open(labels)
        if not keep.any():
            raise UserError("without the open classes no image remains in a split; choose other classes for --open")
        frame = split.frame[keep].reset_index(drop=True)
        frame = frame.assign(expression=self.new_numbers[labels[keep]])
        distribution = split.distribution
        if distribution is not None:
            distribution = distribution[keep][:, list(self.closed)]
            distribution = distribution / distribution.sum(1, keepdims=True)
        return replace(split, frame=frame, distribution=distribution, classes=self.closed_names)


# ---- pools

def make_pool(name: str, division: ClosedAndOpen, splits: Mapping[str, Split]) -> pd.DataFrame:
    """The images of a pool, sorted by split (test first) and id.

    name: a key of `POOLS`. splits: the splits "train", "val" and "test" with all classes. Returns the columns of a
    split's frame, and `split`, `group` (one of `GROUPS`), `is_open` (bool), `closed_label` (the new number of its
    class, -1 for open ones), `row` (its row in its split) and `half` ("a" or "b"). An id is unique in its split only:
    what is stored by image goes by split and id. Raises UserError where the pool has no open image.
    """
    parts = []
    for split in ("test",) if name == "test" else ("test", "train", "val"):
        frame = splits[split].frame.assign(split=split, row=np.arange(len(splits[split].frame)))
        frame = frame.assign(is_open=division.is_open(frame["expression"]))
        if split != "test":
            frame = frame[frame["is_open"]]
        parts.append(frame.sort_values("id", kind="stable"))
    pool = pd.concat(parts, ignore_index=True)
    if not pool["is_open"].any() or pool["is_open"].all():
        kind = "closed" if pool["is_open"].all() else "open"
        raise UserError(f"the pool {name} has no image of the {kind} classes "
                        f"({', '.join(division.classes[number] for number in division.open)} are open)")
    group = np.where(~pool["is_open"], "closed", np.where(pool["split"] == "test", "open-test", "open-train"))
    pool = pool.assign(group=group, closed_label=division.new_numbers[pool["expression"].to_numpy()])
    return pool.assign(half=halves(pool))


def halves(pool: pd.DataFrame) -> np.ndarray:
    """The half of every image of a pool, "a" or "b", (N,). Images of a class and split are divided equally; of an odd
    number one half gets one image more; a draw decides which. The halves depend on ids, splits and classes only: every
    seed has the same ones."""
    half = np.full(len(pool), "", object)
    for (split, label), part in pool.groupby(["split", "expression"], sort=True):
        rng = keyed_rng("open-set halves", split, label)
        rows = part.index.to_numpy()[np.argsort(part["id"].to_numpy(), kind="stable")]
        first = int(rng.integers(2))  # which half gets the first image, and with it the last one of an odd number
        half[rng.permutation(rows)] = [HALVES[(number + first) % 2] for number in range(len(rows))]
    return half


def has_votes_for(division: ClosedAndOpen, distribution: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(bool (N,), bool (N,)): whether an image has a vote for an open class, and whether more than half of its votes
    are for open classes. distribution: float (N, K), the fraction of votes of every class."""
    votes = distribution[:, list(division.open)].sum(1)
    return votes > 0, votes > 0.5


# ---- pseudo labels

def pseudo_labels(name: str, pool: pd.DataFrame, predictions: Mapping[str, np.ndarray], num_closed: int,
                  seed: int) -> np.ndarray:
    """The pseudo label of every image of a pool, int64 (N,), a new number of a closed class.

    It is the closed model's prediction for that image, except for the images of the group open-train in two pools that
    show what wrong pseudo labels make. In paper-permuted they get the prediction of a random image of the training and
    validation splits (closed and open ones), by one permutation of both; in paper-random any class with equal
    probability.
    name: a key of `POOLS`. pool: as `make_pool` gives it. predictions: for each split its predictions, int (images of
    the split,), in the order of its frame. num_closed: number of closed classes. seed: of the run; it decides about the
    permutation and the random classes.
    """
    labels = np.empty(len(pool), np.int64)
    for split, part in pool.groupby("split"):
        labels[part.index] = np.asarray(predictions[str(split)])[part["row"]]
    is_training = (pool["group"] == "open-train").to_numpy()
    given = np.concatenate([predictions["train"], predictions["val"]])
    first_row = pool["split"].map({"test": 0, "train": 0, "val": len(predictions["train"])})
    place = (first_row + pool["row"]).to_numpy()[is_training]  # in `given`
    if name == "paper-permuted":
        labels[is_training] = given[keyed_rng("open-set permutation", seed).permutation(len(given))[place]]
    elif name == "paper-random":
        labels[is_training] = keyed_rng("open-set random labels", seed).integers(num_closed, size=len(given))[place]
    return labels
