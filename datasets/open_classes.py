"""Open-set protocol: which classes are open, what is left of a split without them, and the pools that detectors score.

Words. Of the K classes of a data set some are open (never trained on); the others are closed. Closed classes are
numbered anew, in their order: with class 0 open, class 1 becomes 0. A pool is a list of images, closed and open ones,
that a detector gives open scores to (`POOLS`). The group of an image in a pool is closed, open-test or open-train
(`GROUPS`); the latter come from the training and validation splits, so they may differ from the closed images of the
pool, which are test images, in more than their class.

Nothing here reads a file: `ClosedAndOpen` and `make_pool` take loaded splits (`datasets.split.Split`).
"""
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from datasets.split import Split, expression_name
from support import run_folder
from support.errors import UserError
from support.random_streams import keyed_rng

# Name of a pool -> what it is, for help texts and pages. `paper` is that of Zhang et al. (AAAI 2024).
POOLS = dict(zip(run_folder.POOLS, (
    "all test images",
    "all test images, and all images of the open classes in the training and validation splits",
    "the images of paper; each open image of the training and validation splits gets the pseudo label of a random "
    "image of these splits, as in the code released with the paper",
    "the images of paper; each open image of the training and validation splits gets a random pseudo label"),
    strict=True))
TEST, PAPER, PERMUTED, RANDOM = POOLS
GROUPS = ("closed", "open-test", "open-train")
HALVES = ("a", "b")
LEAST_CLOSED = 2  # closed classes that have to remain


def open_name(text: str) -> str:
    """The open classes of a command line in the form in which a folder and args.json name them: common names of
    expressions (`expression_name`), sorted, joined by +. "Surprise,fear" -> "fear+surprise".

    Raises UserError where a name is empty or cannot be a part of a folder's name."""
    names = sorted({word_of(name) for name in re.split(r"[,+]", text)})
    for name in names:
        if not re.fullmatch(r"[a-z0-9_][a-z0-9_.-]*", name):
            raise UserError(f"--open takes names of classes, as in --open surprise or --open surprise,fear; not "
                            f"{text[:60]!r}")
    return "+".join(names)


def word_of(name: str) -> str:
    """The name of a class as a word of a command line: "No Smile" -> "no_smile"."""
    return expression_name(name).replace(" ", "_")


def class_words(classes: Iterable[str]) -> list[str]:
    """The names of classes as --open takes them, in their order. Raises UserError where one cannot be a part of a
    folder's name."""
    return [open_name(word_of(name)) for name in classes]


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
        number_of = {word_of(text): number for number, text in enumerate(classes)}
        unknown = [word for word in name.split("+") if word not in number_of]
        if unknown:
            raise UserError(f"--open {unknown[0]}: no such class; the classes are {', '.join(number_of)}")
        numbers = tuple(sorted(number_of[word] for word in name.split("+")))
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

    def closed_rows(self, split: Split) -> np.ndarray:
        """int64: the rows of the closed images of a split."""
        return np.flatnonzero(~self.is_open(split.frame["expression"]))

    def closed_part(self, split: Split) -> Split:
        """The split without the images of open classes, its classes numbered anew. Votes for open classes are left out
        of the distributions, and the others add up to 1 again; an image without another vote gets its class alone.
        Raises UserError where no image remains."""
        rows = self.closed_rows(split)
        if not len(rows):
            raise UserError("without the open classes no image remains in a split; choose other classes for --open")
        labels = self.new_numbers[split.frame["expression"].to_numpy(np.int64)[rows]]
        frame = split.frame.iloc[rows].reset_index(drop=True).assign(expression=labels)
        distribution = split.distribution
        if distribution is not None:
            distribution = distribution[rows][:, list(self.closed)]
            has_closed_vote = distribution.sum(1) > 0
            distribution = np.where(has_closed_vote[:, None], distribution, np.eye(len(self.closed))[labels])
            distribution = distribution / distribution.sum(1, keepdims=True)
        return replace(split, frame=frame, distribution=distribution, classes=self.closed_names)


# ---- pools

def make_pool(name: str, division: ClosedAndOpen, splits: Mapping[str, Split]) -> pd.DataFrame:
    """The images of a pool, sorted by split (test first) and id.

    name: a key of `POOLS`. splits: the splits "train", "val" and "test" with all classes. Returns the columns of a
    split's frame, and `split`, `group` (one of `GROUPS`), `is_open` (bool), `row` (its row in its split) and
    `half` ("a" or "b"). An id is unique in its split only: what is stored by image goes by split and id. Raises
    UserError where the pool has no open image, KeyError for an unknown pool.
    """
    names = {TEST: ("test",), **dict.fromkeys((PAPER, PERMUTED, RANDOM), ("test", "train", "val"))}[name]
    frames = []
    for split in names:
        frame = splits[split].frame.assign(split=split, row=np.arange(len(splits[split].frame)))
        frame = frame.assign(is_open=division.is_open(frame["expression"]))
        if split != "test":
            frame = frame[frame["is_open"]]
        frames.append(frame.sort_values("id", kind="stable"))
    pool = pd.concat(frames, ignore_index=True)
    if not pool["is_open"].any() or pool["is_open"].all():
        kind = "closed" if pool["is_open"].all() else "open"
        raise UserError(f"the pool {name} has no image of the {kind} classes "
                        f"({', '.join(division.classes[number] for number in division.open)} are open)")
    closed, open_test, open_train = GROUPS
    group = np.where(~pool["is_open"], closed, np.where(pool["split"] == "test", open_test, open_train))
    return pool.assign(group=group, half=halves(pool))


def halves(pool: pd.DataFrame) -> np.ndarray:
    """The half of every image of a pool, "a" or "b", (N,). Images of a class and split are divided equally; of an odd
    number one half gets one image more, and a draw decides which. The halves depend on ids, splits and classes only:
    every seed has the same ones."""
    half = np.full(len(pool), "", object)
    for (split, label), images in pool.groupby(["split", "expression"], sort=True):
        rng = keyed_rng("open-set halves", split, label)
        rows = images.index.to_numpy()[np.argsort(images["id"].to_numpy(), kind="stable")]
        first = int(rng.integers(2))  # which half gets the first image, and with it the last one of an odd number
        half[rng.permutation(rows)] = [HALVES[(number + first) % 2] for number in range(len(rows))]
    return half


def votes_for_open(division: ClosedAndOpen, distribution: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(bool (N,), bool (N,)): images with any vote for an open class, and images with more than half of their votes for
    open classes. distribution: float (N, K), the fraction of votes of every class."""
    votes = distribution[:, list(division.open)].sum(1)
    return votes > 0, votes > 0.5


def votes_column(division: ClosedAndOpen, splits: Mapping[str, Split], pool: pd.DataFrame) -> list[str]:
    """For every image of a pool whether it is in the group votes, "1" or "0": it is closed and has no vote for an open
    class, or it is open and more than half of its votes are for open classes. "" for all where the data set has no
    votes. pool: as `make_pool` gives it, of these splits."""
    distributions: dict[str, np.ndarray] = {}
    for name in sorted(set(pool["split"])):
        distribution = splits[name].distribution
        if distribution is None or (distribution.max(1) == 1).all():
            return [""] * len(pool)
        distributions[name] = distribution
    rows = [distributions[split][row] for split, row in zip(pool["split"], pool["row"], strict=True)]
    any_vote, most_votes = votes_for_open(division, np.stack(rows))
    return [str(int(value)) for value in np.where(pool["is_open"], most_votes, ~any_vote)]


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
    permutation and the random classes. Raises KeyError for an unknown pool.
    """
    labels = np.empty(len(pool), np.int64)
    for split, images in pool.groupby("split"):
        labels[images.index] = np.asarray(predictions[str(split)])[images["row"]]
    if name in (TEST, PAPER):
        return labels
    is_training = (pool["group"] == GROUPS[2]).to_numpy()
    predicted = np.concatenate([predictions["train"], predictions["val"]])
    first_row = pool["split"].map({"test": 0, "train": 0, "val": len(predictions["train"])})
    row = (first_row + pool["row"]).to_numpy()[is_training]  # in `predicted`
    if name == PERMUTED:
        labels[is_training] = predicted[keyed_rng("open-set permutation", seed).permutation(len(predicted))[row]]
    elif name == RANDOM:
        labels[is_training] = keyed_rng("open-set random labels", seed).integers(num_closed, size=len(predicted))[row]
    else:
        raise KeyError(name)
    return labels
