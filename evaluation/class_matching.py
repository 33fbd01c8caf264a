"""The classes of a model and of a built set, compared by name.

Given the names of the model's outputs and of the set's classes, `match_classes` returns a `ClassMatch`: which outputs
are stored, and which classes and images are scored. Names are compared as `datasets.split.expression_name` spells them,
so that Happy and happiness are one class. Nothing here imports torch.

Two cases need a rule. Both are reported with the scores:

- The set lacks a class of the model. The class is removed: probabilities are the softmax over the other outputs. How
  much probability lay on removed classes is measured (`removed_mass`), and so is how often one of them came first.
- The model lacks a class of the set. With the rule "drop", the default, the images of this class are left out, and
  soft labels are restricted to the classes that the model knows and divided by their sum. With the rule "keep" all
  images are scored, and the model's probability of the class is 0. The negative log likelihood is undefined then.
"""
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from datasets.split import expression_name, printable
from support.errors import UserError

FEWEST_CLASSES = 2  # that model and set have to share
DROP, KEEP = "drop", "keep"


@dataclass(frozen=True)
class ClassMatch:
    """Which outputs of a model stand for which classes of a set."""

    order: list[int]
    """for each column of the stored logits, the index of the model's output: first the set's classes that the model
    knows, in the set's order, then the removed ones in the model's order"""
    known: list[int]
    """indices of the set's classes that the model knows"""
    removed: list[str]
    """the model's classes that the set lacks, as the model spells them"""
    missing: list[str]
    """the set's classes that the model lacks, as the set spells them"""
    keeps_missing: bool = False
    """the rule for classes that the model lacks: True for "keep", False for "drop"; False where none is missing"""

    @property
    def is_complete(self) -> bool:
        """Whether model and set have the same classes, as a run and its set always do."""
        return not self.removed and not self.missing

    @property
    def stored(self) -> int:
        """The number of columns of the stored logits."""
        return len(self.order)

    @property
    def shared(self) -> int:
        """The number of classes that model and set share: the first columns of the stored logits."""
        return len(self.known)

    def scored_classes(self, classes: Sequence[str]) -> list[str]:
        """The names of the classes over which scores are computed. classes: those of the set."""
        return list(classes) if self.keeps_missing else [classes[k] for k in self.known]

    def positions(self, count: int) -> np.ndarray:
        """For each of the set's `count` classes its position among the known ones, int64 (count,); -1 where the model
        lacks it."""
        position = np.full(count, -1)
        position[self.known] = range(self.shared)
        return position

    def stored_classes(self, classes: Sequence[str]) -> list[str]:
        """The names of the columns of the stored logits. classes: those of the set."""
        return [classes[k] for k in self.known] + self.removed


def same_classes(count: int) -> ClassMatch:
    """The match of a model and a set with the same `count` classes in the same order."""
    return ClassMatch(list(range(count)), list(range(count)), [], [])


def match_classes(owner: str, model_classes: Sequence[str], set_owner: str, set_classes: Sequence[str],
                  missing_classes: str = DROP) -> ClassMatch:
    """Compare the classes of a model with those of a set.

    owner, set_owner: what messages call the model and the set. missing_classes: the rule for classes that the model
    lacks, `DROP` or `KEEP`. Raises UserError where two classes of one side have one meaning, and where fewer than two
    classes are shared."""
    model_names = expression_names(owner, model_classes)
    set_names = expression_names(set_owner, set_classes)
    known = [k for k, name in enumerate(set_names) if name in model_names]
    removed = [k for k, name in enumerate(model_names) if name not in set_names]
    if len(known) < FEWEST_CLASSES:
        raise UserError(f"{owner} and {set_owner} share {len(known)} classes, and {FEWEST_CLASSES} are needed: the "
                        f"model has {listed(model_classes)}; the set has {listed(set_classes)}. --classes names the "
                        f"model's outputs")
    missing = [name for k, name in enumerate(set_classes) if k not in known]
    order = [model_names.index(set_names[k]) for k in known] + removed
    return ClassMatch(order, known, [model_classes[k] for k in removed], missing,
                      missing_classes == KEEP and bool(missing))


def expression_names(owner: str, classes: Sequence[str]) -> list[str]:
    """The classes as `expression_name` spells them. Raises UserError where two of them have one meaning; owner: the
    model or the set, for the message."""
    names = [expression_name(name) for name in classes]
    if len(set(names)) < len(names):
        raise UserError(f"{owner} has two classes of one meaning: {listed(classes)}")
    return names


def listed(classes: Sequence[str]) -> str:
    """Names of classes for a message: at most 12, of at most 40 characters each, in printable characters."""
    names = [printable(name[:40]) for name in classes[:12]]
    return ", ".join(names) + (f" and {len(classes) - 12} more" if len(classes) > 12 else "")


def restricted_targets(targets: np.ndarray, known: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Soft labels over the classes that a model knows: the columns `known`, divided by their sum.

    targets: float (..., K), distributions. Returns float64 (..., len(known)) and bool (...): which rows have any
    probability on these classes. A row without any is uniform, so that it is a distribution; it must not be scored."""
    kept = np.asarray(targets, np.float64)[..., list(known)]
    mass = kept.sum(-1, keepdims=True)
    has_mass = mass[..., 0] > 0
    kept = np.where(has_mass[..., None], kept / np.where(mass > 0, mass, 1), 1 / len(known))
    return kept, has_mass


def with_missing_classes(probabilities: np.ndarray, known: Sequence[int], count: int, absent: float = 0) -> np.ndarray:
    """Probabilities over all `count` classes of the set, `absent` for those that the model lacks: float64 (..., count).
    probabilities: (..., len(known)); also their logarithms, with `absent` minus infinity."""
    of_all = np.full((*probabilities.shape[:-1], count), absent, np.float64)
    of_all[..., list(known)] = probabilities
    return of_all


def removed_mass(probabilities: np.ndarray, shared: int) -> tuple[float, float]:
    """How much a model believes in classes that the set lacks: (mean probability of the removed classes, fraction of
    images whose most probable class is removed).

    probabilities: float64 (N, C), over all stored classes. shared: the first columns are those of the set."""
    mass = probabilities[:, shared:].sum(1)
    return float(mass.mean()), float((probabilities.argmax(1) >= shared).mean())
