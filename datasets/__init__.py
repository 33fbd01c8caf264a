"""Floor 1: the data sets, from a folder on disk to a `Split`.

`load_split(name, root, split)` is the way in; `load_splits` loads several splits of a data set at once. Each data set
has a parser of its own in this folder, which is imported when it is needed. What other packages have to know of every
data set is in the tables below. Elsewhere a data set is named only where something holds for it alone, such as its
published numbers.

To add a data set, write a module with `OPTIONS` ({option: what it is}) and `load(root, split, **options) -> Split`, and
add its row to `DATASETS`, `TITLES` and `RECIPES`. A function `official(**options)` that returns the published image
counts is optional; `python -m datasets.check` compares with them. So is `load_several(root, splits, **options)`, for
splits that have files in common. The names of the classes are its `CLASSES`; where they depend on options, a function
`class_names(**options)` gives them, and a parser with neither finds them in its files. A parser that writes images or
lists into the data set's folder has `would_write(root, split, **options) -> bool`, and one with options that are paths
lists them in `FILE_OPTIONS`.

`support/data_set_tables.py` reads `DATASETS`, `TITLES` and `GMM_FROM` as text, so they stay plain literals.
"""
import sys

from support import start

if sys.argv[:1] == ["-m"]:  # `python -m datasets.check`: this file is imported before the script
    start.explain_failed_imports()

import importlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from support.errors import UserError

if TYPE_CHECKING:
    from datasets.split import Split

# Name on the command line -> the module of its parser.
DATASETS = {
    "affectnet": "datasets.affectnet", "affwild": "datasets.affwild", "rafdb": "datasets.rafdb",
    "ferplus": "datasets.ferplus", "demo": "datasets.demo", "folders": "datasets.folders",
}

# Name on the command line -> name in tables and of the folder of its built set (<title>-C).
TITLES = {
    "affectnet": "AffectNet", "affwild": "AffWild", "rafdb": "RAF-DB", "ferplus": "FERPlus", "demo": "Demo",
    "folders": "Folders",
}

# How each data set is trained and built: values that take the place of the defaults of the options, for training
# (training/options.py) and for building (building/options.py takes those that it has, image_size and data). "released"
# holds those of `--protocol released`, which follow the FER-C release instead of the paper.
RECIPES: dict[str, dict[str, Any]] = {
    "affectnet": {"epochs": 5, "released": {"data": ("crop=legacy",)}},
    "affwild": {"epochs": 20, "class_weights": "none", "released": {
        "class_weights": "none", "data": ("val_split=frames",)}},
    "rafdb": {"epochs": 50},
    # FER+ is trained without class weights: balanced ones would give the few images of its rarest class a weight of 22
    # (34 of 5,953 images, in the part of FER+ that docs/benchmarks.md is about).
    "ferplus": {"epochs": 20, "class_weights": "none", "released": {"class_weights": "none"}},
    "demo": {"epochs": 3, "image_size": 64, "batch_size": 16, "weights": "none"},
    # Class folders may come from anywhere. They are trained as long as FER+, with the default, balanced class weights:
    # nothing is known about the class frequencies, and the rarest class of the usual copies (Disgust in FER2013, 1.5 %)
    # weighs 9 with them.
    "folders": {"epochs": 20},
}

# Data set -> the data set whose mixture over valence and arousal was used for its labels in FER-C.
GMM_FROM = {"affwild": "affectnet"}


def data_folder() -> Path:
    """The folder of all data: $FERC_DATA, or data where that is unset or empty."""
    return Path(os.environ.get("FERC_DATA") or "data")


def default_root(name: str) -> Path:
    """The folder of a data set without `--root`: <data>/<name>."""
    return data_folder() / name


def default_set(name: str, sequences: bool = False) -> Path:
    """The folder of the set built from a data set, without `--out`: <data>/<title>-C with corrupted images, or
    <data>/<title>-P with perturbation sequences."""
    return data_folder() / f"{TITLES[name]}-{'P' if sequences else 'C'}"


def parse_options(pairs: Iterable[str]) -> dict[str, str]:
    """The values of the repeatable option `--data`, ("key=value", ...), as {key: value}. Raises UserError where there
    is no `=`."""
    options = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise UserError(f"--data takes key=value, not {pair!r}")
        options[key] = value
    return options


def load_split(name: str, root: str | Path, split: str, **options: Any) -> "Split":
    """Read one split of a data set and check it.

    name: a key of `DATASETS`; root: folder of the data set; split: train, val or test; options: those of the data set
    (`--data`). Raises UserError on an unknown name, split or option, on a folder that does not hold the data set, and
    on labels that cannot be used.
    """
    return load_splits(name, root, (split,), **options)[0]


def check_read_only(name: str, root: Path, split: str, options: Mapping[str, Any]) -> None:
    """Raises UserError where reading a split with these options would write images or lists into the data set's folder,
    where an option is a path, or where the parser does not know it. It is for options that another person chose, for
    example those of a built set. (A parser may still keep what it has read in a scan file, as AffectNet's does.)"""
    parser = importlib.import_module(DATASETS[name])
    refused = [key for key in options if key not in parser.OPTIONS or key in getattr(parser, "FILE_OPTIONS", ())]
    if refused:
        raise UserError(f"{name}: the option {refused[0][:40]} is a path, or unknown")
    if hasattr(parser, "would_write") and parser.would_write(root, split, **options):
        raise UserError(f"{root}: reading the split {split} would write files")


def parser_of(name: str, options: Mapping[str, Any]) -> Any:
    """The module that reads a data set. Raises UserError where the data set or one of its options is unknown."""
    if name not in DATASETS:
        raise UserError(f"unknown data set {name!r}; known: {', '.join(DATASETS)}")
    parser = importlib.import_module(DATASETS[name])
    unknown = sorted(set(options) - set(parser.OPTIONS))
    if unknown:
        known = ", ".join(f"{key} ({text})" for key, text in parser.OPTIONS.items()) or "none"
        raise UserError(f"{name} has no option {', '.join(unknown)}; its options: {known}")
    return parser


def class_names(name: str, root: str | Path, **options: Any) -> tuple[str, ...]:
    """The names of the classes of a data set, in the order of their numbers; its files are read only where nothing else
    knows them. Arguments and errors as for `load_split`."""
    parser = parser_of(name, options)
    if hasattr(parser, "class_names"):
        return parser.class_names(**options)
    if hasattr(parser, "CLASSES"):
        return parser.CLASSES
    return load_split(name, root, "test", **options).classes


def load_splits(name: str, root: str | Path, splits: Sequence[str], **options: Any) -> "list[Split]":
    """Several splits, as `load_split` reads them. A parser that has a function `load_several` reads what they have in
    common once."""
    from datasets.split import SPLITS, validated_split  # with pandas, for which `--help` need not wait

    for split in splits:
        if split not in SPLITS:
            raise UserError(f"unknown split {split!r}; known: {', '.join(SPLITS)}")
    parser = parser_of(name, options)
    if hasattr(parser, "load_several"):
        loaded = parser.load_several(Path(root), splits, **options)
    else:
        loaded = [parser.load(Path(root), split, **options) for split in splits]
    return [validated_split(data, name, split) for data, split in zip(loaded, splits, strict=True)]
