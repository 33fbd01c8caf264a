"""The last step of a build: from what was measured on the forms to soft labels, and to the files that complete a set.

Z is the number of cells of the set (corruptions at a severity), 85 in FER-C. Differences (eq. 9) of the images of the
set and of those on which D_worst is estimated come from the journals.
"""
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import soft_labels
from building.checksums import seal
from building.chunks import Chunk, Job
from building.forms import software
from building.journal import read_journal
from building.layout import cells_of_set, is_sequence_set, journal_path
from building.plan import Plan
from building.tables import write_labels, write_tables
from corruptions import corruptions_of
from support.errors import UserError


@dataclass(frozen=True)
class Measurements:
    """What the journals of a finished build hold."""

    differences: dict[str, np.ndarray]
    """{id: the differences of its Z forms to the clean image, float64 (Z,)}; for sequences empty arrays"""
    hashes: dict[str, bytes]
    """{id: the hashes of its 1 + Z files, 32 bytes each}, for images of the set"""
    unchanged: np.ndarray
    """int (Z,), for each form the number of images of the set in which it equals the clean image; for sequences 0"""


def finish(plan: Plan, work: Path, job: Job, chunks: Sequence[Chunk]) -> None:
    """Write the soft labels and all other tables into the unfinished set in `work`; of a set of sequences only the
    labels that the data set gives. Then write its checksums and its manifest, which makes it a set. Raises UserError
    where the differences give no labels; there is no manifest then.
    """
    folder = work / "set"
    if is_sequence_set(plan.made_with):
        hashes = read_measurements(work, job, chunks).hashes
        write_labels(folder, plan.frame, plan.labels_before_softening)
        seal(folder, plan.facts | {"made_with": plan.made_with, "software": software()}, hashes, plan.keeps_images)
        return
    softening = plan.made_with["softening"]
    cells = cells_of_set(plan.made_with)
    measurements = read_measurements(work, job, chunks)
    cell_differences = differences_of(measurements, plan.d_worst_images).mean(1)
    worst = float(cell_differences.max())  # D_worst
    try:
        visibility = soft_labels.visibility(differences_of(measurements, plan.frame), worst)
        if softening["visibility_per"] == "mean":
            visibility = np.broadcast_to(visibility.mean(1, keepdims=True), visibility.shape)
        softened = soft_labels_by_cell(cells, plan.labels_before_softening, visibility, softening["exponent"])
        write_tables(folder, corruptions_of(plan.made_with["preset"]), plan.frame, plan.labels_before_softening,
                     softened, visibility, gmm_text(plan))
    except ValueError as error:
        raise UserError(f"no labels can be made for {work}, and no set is written: {error}") from None
    worst_name, worst_severity = cells[int(cell_differences.argmax())]
    manifest = plan.facts | {
        "made_with": plan.made_with,
        "software": software(),
        "worst": {"difference": worst, "corruption": worst_name, "severity": worst_severity,
                  "images": plan.d_worst_images["id"].tolist()},
        "unchanged": mostly_unchanged(cells, measurements.unchanged / len(plan.frame)),
    }
    seal(folder, manifest, measurements.hashes, plan.keeps_images)


def read_measurements(work: Path, job: Job, chunks: Sequence[Chunk]) -> Measurements:
    """What the journals of all chunks hold, joined."""
    differences: dict[str, np.ndarray] = {}
    hashes: dict[str, bytes] = {}
    unchanged = np.zeros(len(cells_of_set(job.made_with)), int)
    for chunk in chunks:
        records = read_journal(journal_path(work, chunk.number), job, chunk.rows)
        for row in chunk.rows.itertuples():
            record = records[row.id]
            differences[row.id] = np.array(record.differences)
            if row.in_set:
                hashes[row.id] = bytes.fromhex("".join(record.hashes))
                unchanged[record.unchanged] += 1
    return Measurements(differences, hashes, unchanged)


def differences_of(measurements: Measurements, frame: pd.DataFrame) -> np.ndarray:
    """The differences of the images of a frame, float64 (Z, number of images)."""
    return np.stack([measurements.differences[image_id] for image_id in frame["id"]], 1)


def soft_labels_by_cell(cells: Sequence[tuple[str, int]], labels: np.ndarray, visibility: np.ndarray,
                        exponent: float) -> Iterator[np.ndarray]:
    """The soft labels of the Z cells (eqs. 8, 10, 11), float32 (N, K) each.

    They are computed one cell at a time, since all of them together may be larger than the memory.

    labels: before softening, float64 (N, K); visibility: float64 (Z, N); exponent: of the softening curve. Raises
    ValueError naming the first cell in which a soft label is no distribution: such a set is not written."""
    for (name, severity), visibility_of_cell in zip(cells, visibility, strict=True):
        softened = soft_labels.soften(labels, visibility_of_cell, exponent).astype("<f4")
        soft_labels.check_distributions(softened, f"soft labels of {name} {severity}")
        yield softened


def gmm_text(plan: Plan) -> str | None:
    """The content of gmm.json: the mixture, and the names of its classes; None for a set without a mixture."""
    if plan.gmm is None:
        return None
    return json.dumps(json.loads(plan.gmm.to_json()) | {"classes": plan.facts["classes"]}, indent=1)


def mostly_unchanged(cells: Sequence[tuple[str, int]], fractions: np.ndarray) -> list[dict[str, Any]]:
    """The cells in which over half of the images equal the clean one, for the manifest. fractions: float (Z,),
    for each cell the fraction of images that equal the clean one."""
    unchanged = []
    for (name, severity), fraction in zip(cells, fractions, strict=True):
        if fraction > 0.5:
            unchanged.append({"corruption": name, "severity": severity, "fraction": round(float(fraction), 6)})
    return unchanged
