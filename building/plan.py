"""What is built: the images, their labels before softening, and the settings that decide what is made of them.

Given the options of a build, `make_plan` loads the test split, fuses the labels (of sequences it does not), decodes
every source image that the set takes, to see whether it can be read, hashes its file, and returns a `Plan`. What is
wrong with the data set, its labels or its images is refused here, before the first byte of the set is written;
destination.py and state.py refuse what is wrong with the folder of the set.

D_worst, by which differences are divided to give the visibility (eq. 9), is the largest mean difference of all cells (a
corruption at a severity). It is estimated on `D_WORST_IMAGES` images of the whole split, so --limit does not change it.
"""
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

import perturbations
import soft_labels
from building.chunks import Chunk
from building.forms import ENCODER
from building.integrity import digest, sha256
from building.layout import SEQUENCES, is_sequence_set
from building.manifest import FORMAT, set_version
from building.options import BuildOptions, SequenceOptions, SourceOptions
from building.tables import digest_of_labels
from corruptions import constants
from datasets import TITLES, default_root, load_split, parse_options
from datasets.fused import label_parts
from datasets.images import inside, read_image
from datasets.split import Split
from support.errors import UserError
from support.random_streams import keyed_rng

PUBLISHED_SIZE = 100  # pixels of the pictures of RAF-DB-P, whose constants are for this size
D_WORST_IMAGES = 100  # D_worst is the largest mean difference over these (FER-C, section 4.2.3)
CHUNK = 4  # source images of a chunk, which share one journal; a chunk of FER-C has 344 files
ALL_FILES, WITHOUT_IMAGES = "all", "no images/"  # which files of a set are kept, as build.json says it


@dataclass(frozen=True)
class Plan:
    """What is built."""

    frame: pd.DataFrame  # the N images of the set: the columns of a split's frame, and the sha256 of each source
    labels_before_softening: np.ndarray  # float64 (N, K)
    d_worst_images: pd.DataFrame  # the images on which D_worst is estimated, with the same columns
    root: Path  # of the data set
    made_with: dict[str, Any]  # the settings, and digests of ids, labels and sources
    facts: dict[str, Any]  # what else the manifest says
    gmm: soft_labels.GMM | None  # the mixture of the labels; None where the labels need none
    keeps_images: bool  # whether images/ is kept
    options: SourceOptions  # for the command lines in messages

    @property
    def ids(self) -> set[str]:
        """The ids of the set's images, which are the names of the files that a build writes."""
        return set(self.frame["id"])

    @property
    def state(self) -> dict[str, Any]:
        """What build.json of an unfinished set or a shard holds (state.py)."""
        return self.made_with | {"files": ALL_FILES if self.keeps_images else WITHOUT_IMAGES}

    @property
    def chunks(self) -> list[Chunk]:
        """All source images in chunks: those of the set, then those on which only D_worst is estimated."""
        is_in_set = self.d_worst_images["id"].isin(self.frame["id"])
        d_worst_only = self.d_worst_images[~is_in_set]
        rows = pd.concat([self.frame.assign(in_set=True), d_worst_only.assign(in_set=False)], ignore_index=True)
        starts = range(0, len(rows), CHUNK)
        return [Chunk(number, rows.iloc[start:start + CHUNK]) for number, start in enumerate(starts)]


def make_plan(options: BuildOptions | SequenceOptions) -> Plan:
    """The plan of a build of either kind of set. Raises UserError where the data set cannot be read, labels cannot be
    made, or a source image cannot be read and `skip_bad` is not set."""
    root = options.root or default_root(options.dataset)
    data_options = parse_options(options.data)
    split = load_split(options.dataset, root, "test", **data_options)
    set_rows, d_worst_rows = choose_rows(options.limit, options.seed, len(split.frame))
    frame_of_split = frame_of_sources(options, root, split.frame)
    if isinstance(options, BuildOptions):
        labels, gmm, notes = fused_labels(options, split, root, data_options)
    else:
        print_note_on_margin(options, split.frame)
        labels, gmm, notes = given_labels(split)
        d_worst_rows = set_rows[:0]  # D_worst is for soft labels, which sequences do not have

    sources = read_sources(root, frame_of_split, np.union1d(set_rows, d_worst_rows), options.workers)
    unreadable = report_unreadable(sources, options.skip_bad)
    kept_rows = [row for row in set_rows.tolist() if row not in unreadable]
    kept_d_worst_rows = [row for row in d_worst_rows.tolist() if row not in unreadable]
    if not kept_rows or (len(d_worst_rows) and not kept_d_worst_rows):
        raise UserError(f"no readable image is left in {root}")

    sha256_of_row = {row: source.sha256 for row, source in sources.items()}
    frame_of_split = frame_of_split.assign(sha256=pd.Series(sha256_of_row))
    frame = frame_of_split.iloc[kept_rows].reset_index(drop=True)
    d_worst_images = frame_of_split.iloc[kept_d_worst_rows]
    labels = labels[kept_rows]
    made_with = common_settings(options, data_options, frame, labels, d_worst_images)
    if isinstance(options, BuildOptions):
        made_with |= settings_of_corruptions(options)
    else:
        made_with |= settings_of_sequences(options)
    if unreadable:
        notes["unreadable, skipped"] = [split.frame["id"].iloc[row] for row in unreadable]
    facts = manifest_facts(options.dataset, split, frame, notes, made_with)
    return Plan(frame, labels, d_worst_images, root, made_with, facts, gmm, options.images, options)


def frame_of_sources(options: SourceOptions, root: Path, frame: pd.DataFrame) -> pd.DataFrame:
    """The frame of a split, with the pictures that a build with these options reads.

    With `--from original` these are RAF-DB's original pictures in place of the aligned ones, and a column `alignment`,
    float64 (2, 3) each, says how they are aligned. Raises UserError where pictures or landmarks are missing."""
    if not isinstance(options, SequenceOptions) or options.from_ != "original":
        return frame
    from datasets.rafdb_originals import original_pictures
    paths, maps = original_pictures(root, frame["path"].tolist())
    return frame.assign(path=paths, alignment=list(maps))


def print_note_on_margin(options: SequenceOptions, frame: pd.DataFrame) -> None:
    """Say where --border margin cuts faces: the margin is then taken from the pictures themselves. frame: of a
    split."""
    boxes = frame[["left", "top", "right", "bottom"]].to_numpy(np.float64)
    if options.border != "margin" or options.from_ == "original" or not np.isnan(boxes).any():
        return
    side = perturbations.side_with_margin(options.image_size, options.preset)
    print(f"--border margin: these pictures have no boxes of faces, so each is enlarged to {side} pixels, and the "
          f"frame is its centre of {options.image_size}: a face that fills its picture is cut. --border reflect keeps "
          f"it whole")


# ---- labels before softening

def fused_labels(options: BuildOptions, split: Split, root: Path, data_options: dict[str, str]
                 ) -> tuple[np.ndarray, soft_labels.GMM | None, dict[str, Any]]:
    """The labels of all images of the split before softening, float64 (N, K) (eqs. 5 to 7); the mixture that they
    come from, if any; and notes for the manifest. Raises UserError where no label can be made."""
    parts = label_parts(options.dataset, split, root, data_options, options.gmm)
    label_weight = np.nan_to_num(parts.label_weight, nan=options.beta)
    try:
        labels = soft_labels.fuse(split.frame["expression"], parts.distribution, label_weight)
    except ValueError as error:
        raise UserError(f"{root}: the labels of {options.dataset} cannot be made ({error})") from None
    return labels, parts.gmm, dict(parts.notes)


def given_labels(split: Split) -> tuple[np.ndarray, None, dict[str, Any]]:
    """The labels of a set of sequences, float64 (N, K): the annotators' distributions where the data set has them, else
    one-hot; no mixture; and notes for the manifest."""
    if split.distribution is not None:
        return np.asarray(split.distribution, np.float64), None, {"labels": "the annotators' distribution"}
    return np.eye(len(split.classes))[split.frame["expression"].to_numpy()], None, {}


# ---- images

def choose_rows(limit: int | None, seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a split of `count` images, two int arrays: those of the set, evenly spaced where there is a limit, and
    those on which D_worst is estimated, drawn from the full split by the seed."""
    set_size = count if limit is None else min(limit, count)
    set_rows = np.unique(np.linspace(0, count - 1, set_size).round().astype(int))
    d_worst_rows = keyed_rng("D_worst", seed).permutation(count)[:D_WORST_IMAGES]
    return set_rows, d_worst_rows


class SourceImage(NamedTuple):
    """A source image as it was read before the build. One of the two is None."""

    sha256: str | None  # of the file
    reason: UserError | None  # why the image cannot be read


def read_sources(root: Path, frame: pd.DataFrame, rows: np.ndarray, workers: int) -> dict[int, SourceImage]:
    """{row: source} for these rows of a split's frame, in their order. Every image is decoded once."""
    with ThreadPoolExecutor(workers) as pool:
        sources = pool.map(lambda row: read_source(root, frame.iloc[row]), rows)
        return dict(zip(rows.tolist(), sources, strict=True))


def read_source(root: Path, row: Any) -> SourceImage:
    """Decode a source image, to see whether it can be read, and hash its file. row: of a split's frame."""
    try:
        path = inside(root, row.path)
        read_image(path, 16)
        return SourceImage(sha256(path.read_bytes()), None)
    except UserError as error:
        return SourceImage(None, error)


def report_unreadable(sources: dict[int, SourceImage], skip_bad: bool) -> list[int]:
    """The rows whose images cannot be read, each named on standard error. Raises UserError where there are any and
    `skip_bad` is False."""
    unreadable = [row for row, source in sources.items() if source.sha256 is None]
    for row in unreadable:
        print(f"unreadable: {sources[row].reason}", file=sys.stderr)
    if unreadable and not skip_bad:
        raise UserError(f"{len(unreadable)} of {len(sources)} source images cannot be read (named above); fix them or "
                        f"leave them out with --skip-bad. Nothing was built.")
    return unreadable


# ---- settings

def common_settings(options: SourceOptions, data_options: dict[str, str], frame: pd.DataFrame, labels: np.ndarray,
                    d_worst_images: pd.DataFrame) -> dict[str, Any]:
    """What `made_with` of the manifest says of both kinds of sets (manifest.py). frame, labels, d_worst_images: as in
    `Plan`."""
    return {
        "format": FORMAT,
        "dataset": options.dataset,
        "size": options.image_size,
        "seed": options.seed,
        "ids": digest(frame["id"]),
        "labels": digest_of_labels(labels),
        "options": data_options,
        "limit": options.limit,
        "images": len(frame),
        "sources": digest([*frame["sha256"], *d_worst_images["sha256"]]),
        "encoder": ENCODER,
    }


def settings_of_corruptions(options: BuildOptions) -> dict[str, Any]:
    """What `made_with` says of a set of corruptions only."""
    return {
        "protocol": options.protocol,
        "preset": options.corruptions,
        "constants": constants(options.corruptions, options.image_size),
        "image_format": options.format,
        "quality": None if options.format == "png" else options.quality,
        "softening": {name: plain_value(options, name)
                      for name in ("beta", "exponent", "visibility", "visibility_per")},
    }


def settings_of_sequences(options: SequenceOptions) -> dict[str, Any]:
    """What `made_with` says of a set of sequences only."""
    preset = options.preset
    resolution = PUBLISHED_SIZE
    if preset == "imagenet-p":
        resolution = perturbations.source_resolution(options.resolution or options.image_size)
    all_constants = perturbations.constants(preset, resolution)
    names = options.perturbations or perturbations.TEST_SET[preset]
    size = options.image_size
    has_margin = options.border == "margin"
    return {
        "kind": SEQUENCES,
        "protocol": "paper",
        "preset": preset,
        "constants": json.loads(json.dumps({name: all_constants[name] for name in names})),  # lists, as JSON reads them
        "resolution": resolution,
        "difficulty": options.difficulty,
        "border": options.border,
        "source": options.from_,
        "picture_size": perturbations.side_with_margin(size, preset) if has_margin else size,
        "image_format": "png",
        "quality": None,
    }


def plain_value(options: BuildOptions, name: str) -> Any:
    """The value of an option; the default itself where they are equal. A command line gives the exponent 2.0, the
    default is 2, and both have to give one set version."""
    default = getattr(BuildOptions, name)
    value = getattr(options, name)
    return default if value == default else value


def manifest_facts(dataset: str, split: Split, frame: pd.DataFrame, notes: dict[str, Any],
                   made_with: dict[str, Any]) -> dict[str, Any]:
    """What the manifest says about the set besides `made_with`, as far as it is known before the build."""
    counts = {name: int((frame["expression"] == k).sum()) for k, name in enumerate(split.classes)}
    split_notes = {key: value for key, value in split.notes.items() if key != "cache"}
    kind = "P" if is_sequence_set(made_with) else "C"
    return {"set_version": set_version(made_with), "title": f"{TITLES[dataset]}-{kind}",
            "classes": list(split.classes), "counts": counts, "notes": split_notes | notes}
