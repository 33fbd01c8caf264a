"""Reference rows of a ranking: predictions that look at no image.

  uniform         every class with the same probability
  training prior  the class frequencies of the training images
  majority class  the most frequent class of the training images, with the fraction of validation images that are of
                  this class as its confidence; the rest is divided equally

The references show how much of a score comes from low confidence alone: soft labels reward it, so where soft labels are
nearly uniform, the references come close to models. They are scored as models are: constant logits go through
evaluation/image_scores.py.
"""
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from corruptions import SEVERITIES
from datasets import DATASETS, default_root, load_splits
from datasets.split import expression_name
from evaluation.image_scores import ImageScores, image_scores
from evaluation.model_facts import FLOOR
from reporting.candidates import Candidate, Group, scores_of_images
from reporting.notes import READ_ERRORS, plain
from reporting.runs import Run
from reporting.stored_images import SetImages

UNIFORM, PRIOR, MAJORITY = "uniform", "training prior", "majority class"
REFERENCES = (UNIFORM, PRIOR, MAJORITY)
DRAWN = "demo"  # its parser draws the images that it does not find, so a report does not load it


class ClassCounts(NamedTuple):
    """How many images a data set has of every class, by the names of classes that `expression_name` gives."""

    training: Mapping[str, int]
    validation: Mapping[str, int]


def references_of_group(group: Group, built: SetImages, runs: Sequence[Run]
                        ) -> tuple[list[tuple[Candidate, ImageScores]], list[str]]:
    """The references of a group that are available, as candidates with the scores of their images, and a sentence on
    those that are not. built: the set; runs: all runs of the report."""
    known = [k for k, name in enumerate(built.classes) if expression_name(name) not in group.missing]
    if not built.classes:
        known = list(range(built.soft.shape[3]))
    if not known:
        return [], [f"References {', '.join(REFERENCES)}: not available (no class of the set was scored)."]
    keeps = group.rule == "keep"
    probabilities = {UNIFORM: np.full(len(known), 1 / len(known))}
    sentences = []
    try:
        counts = class_counts(built, runs)
        names = [expression_name(built.classes[k]) for k in known]
        training = np.array([counts.training.get(name, 0) for name in names], float)
        validation = np.array([counts.validation.get(name, 0) for name in names], float)
        probabilities |= reference_probabilities(training, validation)
    except READ_ERRORS as error:
        sentences.append(f"References {PRIOR} and {MAJORITY}: not available ({plain(error)}).")
    references = []
    for name, values in probabilities.items():
        try:
            scores = scores_of_constant(values, built, known, keeps, group.images)
        except READ_ERRORS as error:
            return [], [f"References {', '.join(REFERENCES)}: not available ({plain(error)})."]
        candidate = Candidate(f"reference: {name}", "reference", group, built.folder.name, scores_of_images(scores),
                              scores.errors[1:].mean(1).reshape(-1, len(SEVERITIES)), corruptions=built.corruptions)
        references.append((candidate, scores))
    return references, sentences


def reference_probabilities(training: np.ndarray, validation: np.ndarray) -> dict[str, np.ndarray]:
    """{name: probabilities (K,)} of the references that need class counts. training, validation: float (K,). Raises
    ValueError where there is no image."""
    if not training.sum() or not validation.sum():
        raise ValueError("there are no training or no validation images of these classes")
    top = int(training.argmax())
    confidence = validation[top] / validation.sum()
    majority = np.full(len(training), (1 - confidence) / max(len(training) - 1, 1))
    majority[top] = confidence
    return {PRIOR: training / training.sum(), MAJORITY: majority}


def scores_of_constant(probabilities: np.ndarray, built: SetImages, known: Sequence[int], keeps_missing: bool,
                       images: int) -> ImageScores:
    """The scores of one prediction for all images. probabilities: (len(known),); they are floored at FLOOR, so that
    NLL is finite. images: how many were scored, where all of the set's classes were."""
    labels = built.labels()
    if len(known) == built.soft.shape[3] and images < len(labels.hard):
        labels = built.labels(labels.hard[:images])
    floored = np.maximum(probabilities, FLOOR)
    logits = np.broadcast_to(np.log(floored), (len(labels.hard), len(known)))
    return image_scores(lambda _: logits, labels, known, keeps_missing, built.corruptions)


# --- how often each class occurs in training and validation ---


def class_counts(built: SetImages, runs: Iterable[Run]) -> ClassCounts:
    """The class counts of the data set that a set was built from: of its runs, which record them, else of the data set
    where its folder is there. Raises an error of `READ_ERRORS` that says why there are none."""
    dataset = built.made_with.get("dataset")
    of_dataset = [run for run in runs if run.args["dataset"] == dataset]
    counts_of_runs = map(recorded_counts, of_dataset)
    recorded = Counter(pair for pair in counts_of_runs if pair is not None)
    if recorded:
        most_common, _ = recorded.most_common(1)[0]
        training, validation = most_common
        return ClassCounts(dict(training), dict(validation))
    if dataset not in DATASETS:
        raise ValueError(f"the data set {plain(dataset)} is unknown")
    if dataset == DRAWN:
        raise ValueError("no run of the demo records its class counts; train one again")
    roots = [Path(run.args["root"]) for run in of_dataset if isinstance(run.args.get("root"), str)]
    root = next((root for root in [*roots, default_root(dataset)] if root.is_dir()), None)
    if root is None:
        raise ValueError(f"no run on {dataset} records its class counts, and {default_root(dataset)} is not there")
    options = built.made_with.get("options")
    splits = load_splits(dataset, root, ("train", "val"), **(options if isinstance(options, dict) else {}))
    counts = []
    for split in splits:
        numbers = np.bincount(split.frame["expression"].to_numpy(np.int64), minlength=len(split.classes))
        counts.append({expression_name(name): int(number)
                       for name, number in zip(split.classes, numbers, strict=True)})
    return ClassCounts(*counts)


def recorded_counts(run: Run) -> tuple[tuple, tuple] | None:
    """The class counts in a run's args.json: ((name, count), ...) of training and of validation; None where it is
    older than they are, or damaged."""
    names = run.args.get("classes")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return None
    pairs = []
    for key in ("train_class_counts", "val_class_counts"):
        counts = run.args.get(key)
        is_usable = isinstance(counts, list) and len(counts) == len(names) and all(
            isinstance(count, int) and not isinstance(count, bool) and 0 <= count < 2**40 for count in counts)
        if not is_usable:
            return None
        pairs.append(tuple(zip(map(expression_name, names), counts, strict=True)))
    return pairs[0], pairs[1]
