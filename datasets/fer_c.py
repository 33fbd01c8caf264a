"""Read a built set (RAF-DB-C, Demo-C, ...): images by cell, soft labels, manifest. What make_fer_c.py writes."""
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cli import UserError, first_line
from corruptions import CORRUPTIONS

FORMAT = 1
SEVERITIES = (1, 2, 3, 4, 5)
CELLS = tuple((name, severity) for name in CORRUPTIONS for severity in SEVERITIES)


@dataclass(frozen=True)
class BuiltSet:
    """A finished set. label: float64 (N, K), before softening; soft_labels: float32 (17, 5, N, K), memory-mapped."""

    folder: Path
    manifest: dict
    frame: pd.DataFrame
    label: np.ndarray
    soft_labels: np.ndarray

    @property
    def classes(self):
        return tuple(self.manifest["classes"])

    @property
    def made_with(self):
        return self.manifest["made_with"]

    def image_path(self, i, corruption=None, severity=None):
        """The file of image `i`: clean, or in one of the 85 forms."""
        cell = "clean" if corruption is None else f"images/{corruption}/{severity}"
        return self.folder / cell / f"{self.frame['id'].iloc[i]}.{self.made_with['image_format']}"

    def targets(self, corruption, severity):
        """Soft labels of one cell, float32 (N, K)."""
        return self.soft_labels[list(CORRUPTIONS).index(corruption), severity - 1]


def partial_of(folder):
    """Where a set grows until it is whole."""
    return folder.with_name(folder.name + ".partial")


def read_manifest(folder):
    """The manifest of a built set. Raises UserError when it is missing, unfinished, of another format, or damaged."""
    if not (folder / "manifest.json").is_file():
        partial = partial_of(folder)
        why = f"its build is not finished ({partial}): start it again" if partial.exists() else "no manifest.json"
        raise UserError(f"{folder} is no FER-C set: {why}. Build it with make_fer_c.py --out {folder}")
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        if manifest["made_with"]["format"] != FORMAT:
            raise UserError(f"{folder} is of format {manifest['made_with']['format']}, not {FORMAT}: build it again")
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder}/manifest.json is damaged ({first_line(error)}): build the set again") from None
    return manifest


def open_set(folder):
    """Open a built set. Raises UserError as `read_manifest` does, and when its tables are damaged."""
    folder = Path(folder)
    manifest = read_manifest(folder)
    try:
        frame = pd.read_csv(folder / "labels.csv", dtype={"id": str, "identity": str})
        label = frame[[f"t_{k}" for k in range(len(manifest["classes"]))]].to_numpy(np.float64)
        soft = np.load(folder / "soft_labels.npy", mmap_mode="r", allow_pickle=False)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder} is damaged ({first_line(error)}); look with make_fer_c.py --verify") from None
    if soft.shape != (len(CORRUPTIONS), len(SEVERITIES), *label.shape):
        raise UserError(f"{folder}: soft_labels.npy has shape {soft.shape} for {len(frame)} images; run --verify")
    return BuiltSet(folder, manifest, frame, label, soft)
