"""The scores of single images, for rankings: of the runs of a report, and of models that lie beside their cards.

`read_image_scores` opens the built sets that the candidates of a ranking were scored on, as far as their folders are
there, and reads the stored predictions with evaluation/image_scores.py. What cannot be read is a note; the candidate is
then ranked by scores.csv or by its card alone, without an interval.
"""
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from corruptions import SEVERITIES
from evaluation.cards import Card
from evaluation.error_bootstrap import clusters_of_frame
from evaluation.image_scores import ImageScores, Labels, image_scores, votes_of
from evaluation.predictions import read_info
from reporting.cells import FER_C, corruptions_of_manifest
from reporting.notes import READ_ERRORS, Note, check_regular, plain
from reporting.predictions import check_table, map_array, open_predictions, read_logits
from reporting.rows import Block
from reporting.runs import Run
from reporting.scores import blocks_of, runs_in_block
from support.errors import DamagedFile
from support.files import read_json
from support.run_folder import CARDS_FOLDER, PRECISIONS, predictions_folder


@dataclass(frozen=True, eq=False)
class SetImages:
    """A built set as far as rankings need it: N images and K classes."""

    folder: Path
    set_version: str
    classes: tuple[str, ...]
    """names of the classes; empty where the manifest does not say"""
    made_with: Mapping[str, Any]
    """the settings of the set, of its manifest"""
    soft: np.ndarray
    """float32 (C, 5, N, K), of the set's corruptions, mapped from disk"""
    votes: np.ndarray | None
    """float64 (N, K), labels before softening; None where they are one class each, or not in labels.csv"""
    hard: np.ndarray | None
    """int64 (N,); None where they are not in labels.csv"""
    cluster: str
    """what a bootstrap draws: image or identity"""
    cluster_of_image: np.ndarray
    """int64 (N,)"""
    corruptions: tuple[str, ...] = FER_C
    """in the set's order"""

    def labels(self, hard: np.ndarray | None = None) -> Labels:
        """The labels of the first images. hard: int64 (n,), of the predictions; None: all images, by labels.csv. Raises
        ValueError where there are none, or others than in labels.csv."""
        if hard is None:
            hard = self.hard
        if hard is None:
            raise ValueError(f"{self.folder / 'labels.csv'} has no labels")
        count = len(hard)
        if count > self.soft.shape[2] or (self.hard is not None and not np.array_equal(hard, self.hard[:count])):
            raise ValueError(f"the labels of the predictions are not those of {self.folder}")
        return Labels(hard, self.soft[:, :, :count], None if self.votes is None else self.votes[:count])


@dataclass(eq=False)
class StoredImages:
    """What could be read."""

    sets: dict[str, SetImages] = field(default_factory=dict)
    """{set_version: the set}"""
    of_runs: dict[tuple[Block, int], ImageScores] = field(default_factory=dict)
    """by block and position of the run"""
    of_cards: dict[Card, ImageScores] = field(default_factory=dict)
    content_of_runs: dict[tuple[Block, int], object] = field(default_factory=dict)
    """by block and position of the run: the hash of the files of the set, as its predictions record it"""
    problems: dict[str, str] = field(default_factory=dict)
    """{set_version: why the set could not be opened}"""
    weights_of_runs: set[tuple[str, str, str]] = field(default_factory=set)
    """(set_version, precision, hash of the weights) of the runs, as their predictions record it"""
    notes: list[Note] = field(default_factory=list)
    """what is damaged of models that are no runs"""


def read_image_scores(runs: Sequence[Run], scores: pd.DataFrame, cards: Sequence[Card],
                      set_folders: Mapping[Block, Path | None], sets: Iterable[Path]) -> StoredImages:
    """Read the predictions of all runs that have scores, and of all models beside their cards.

    set_folders: folder of each block's set, None where it is not known; sets: folders to prefer (--set)."""
    stored = StoredImages()
    folders: dict[str, list[Path]] = {}
    for block, folder in set_folders.items():
        if folder is not None:
            folders.setdefault(block.set_version, []).append(folder)
    for version in [block.set_version for block in blocks_of(scores)] + [card.data["set"]["set_version"]
                                                                         for card in cards]:
        folders.setdefault(version, [])
    models = []  # (card, folder of its predictions, their set.json)
    for card in cards:
        predictions = predictions_of_card(card)
        if predictions is not None:
            models.append((card, *predictions))
    for card, _, info in models:
        folders.setdefault(card.data["set"]["set_version"], []).append(Path(info["folder"]))
    for version, places in folders.items():
        open_first(stored, version, [*sets, *places])
    indices = [(block, index) for block in blocks_of(scores) for index in runs_in_block(scores, block)]
    for block, index in tqdm(indices, desc="images for the ranking", unit=" runs", disable=None):
        if block.set_version in stored.sets:
            try:
                folder, info, labels = open_predictions(runs[index], block)
                stored.weights_of_runs.add((block.set_version, block.precision, str(info.get("weights"))))
                stored.content_of_runs[block, index] = info.get("content")
                stored.of_runs[block, index] = read_one(stored.sets[block.set_version], folder, info, labels)
            except READ_ERRORS:
                continue  # `predictions.summarise_predictions` names what is damaged, rank_stability.py what is missing
    for card, folder, info in models:
        built = stored.sets.get(card.data["set"]["set_version"])
        if built is not None:
            try:
                stored.of_cards[card] = read_one(built, folder, info, built.labels().hard,
                                                 card.data["set"]["missing_classes"] == "keep")
            except READ_ERRORS as error:
                stored.notes.append(Note(str(folder), "no interval for its rank", plain(error)))
    return stored


def read_one(built: SetImages, folder: Path, info: Mapping[str, Any], labels: np.ndarray,
             keeps_missing: bool = False) -> ImageScores:
    """The scores of the images of one model. folder, info: of its predictions, and what their set.json holds. Raises
    one of `READ_ERRORS`."""
    count = built.soft.shape[3]
    known = info.get("known")
    if known is not None and (not isinstance(known, list) or sorted(set(known)) != known or not known
                              or not all(isinstance(k, int) and 0 <= k < count for k in known)):
        raise DamagedFile(f"{folder / 'set.json'} is damaged (its known classes are none of the set)")
    return image_scores(lambda cell: read_logits(folder, cell), built.labels(labels), known, keeps_missing,
                        built.corruptions)


def predictions_of_card(card: Card) -> tuple[Path, dict[str, Any]] | None:
    """The folder of the predictions that a card was made of, and what their set.json holds; None where the card does
    not lie in the folder of its model, or where these are other predictions."""
    if card.file is None or card.file.parent.name != CARDS_FOLDER:
        return None
    data = card.data
    folder = predictions_folder(card.file.parent.parent, card.file.stem, "32")  # the name has the precision already
    try:
        info = read_info(folder)
    except READ_ERRORS:
        return None
    is_of_card = (info.get("set_version") == data["set"]["set_version"] and info.get("limit", None) is None
                  and info.get("weights") == data["model"]["weights_sha256"]
                  and info.get("precision") == PRECISIONS[data["precision"]])
    return (folder, info) if is_of_card and isinstance(info.get("folder"), str) else None


# --- built sets ---


def open_first(stored: StoredImages, version: str, folders: Iterable[Path]) -> None:
    """Open the first of these folders that holds the version of the set. Where none does, keep the reason."""
    problem = ""
    for folder in dict.fromkeys(folders):
        try:
            if read_json(folder / "manifest.json").get("set_version") == version:
                stored.sets[version] = open_set_images(folder, version)
                return
        except READ_ERRORS as error:
            problem = problem or plain(error)
    stored.problems[version] = problem or "no known folder holds this version of the set; give it with --set DIR"


def open_set_images(folder: Path, version: str) -> SetImages:
    """A built set for rankings. Raises one of `READ_ERRORS` where a table is missing, damaged or does not fit."""
    manifest = read_json(folder / "manifest.json")
    for name in ("soft_labels.npy", "labels.csv"):
        check_regular(folder / name)
        check_table(folder / name)
    soft = map_array(folder / "soft_labels.npy")
    corruptions = corruptions_of_manifest(manifest)
    if soft.ndim != 4 or soft.shape[:2] != (len(corruptions), len(SEVERITIES)):
        raise DamagedFile(f"{folder / 'soft_labels.npy'} is damaged (its shape is {soft.shape})")
    count, classes = soft.shape[2:]
    columns = [f"t_{k}" for k in range(classes)]
    frame = pd.read_csv(folder / "labels.csv", keep_default_na=False, na_values=[""], dtype={"identity": str},
                        usecols=lambda name: name in ("expression", "identity", *columns))
    if len(frame) != count:
        raise DamagedFile(f"{folder / 'labels.csv'} has {len(frame)} images of {count}")
    hard = frame["expression"].to_numpy(np.int64) if "expression" in frame else None
    if hard is not None and not ((hard >= 0) & (hard < classes)).all():
        raise DamagedFile(f"{folder / 'labels.csv'} is damaged (an expression is no class)")
    votes = None
    if set(columns) <= set(frame):
        votes = votes_of(frame[columns].to_numpy(np.float64))
    names, made_with = manifest.get("classes"), manifest.get("made_with")
    if not isinstance(names, list) or len(names) != classes or not all(isinstance(name, str) for name in names):
        names = []
    cluster, cluster_of_image = clusters_of_frame(frame, count)
    return SetImages(folder, version, tuple(names), made_with if isinstance(made_with, dict) else {}, soft, votes, hard,
                     cluster, cluster_of_image, corruptions)
