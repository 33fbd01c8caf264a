"""The tables of a set, written and read: labels.csv, soft_labels.npy, visibility.npy, visibility_mean.csv, gmm.json.

labels.csv           id, path (of the source image, relative to the data set's folder), expression, t_0 ... t_{K-1} (the
                     label before softening), valence, arousal, identity
soft_labels.npy      float32 (C, 5, N, K), C corruptions: the label of every image in every cell (a cell is a
                     corruption at a severity)
visibility.npy       float32 (C, 5, N)
visibility_mean.csv  C rows, 5 columns: the mean over the images
gmm.json             the mixture over valence and arousal, where the labels came from one

plan.py computes the mixture and the labels before softening, finishing.py visibility and soft labels. Reading raises
`DamagedFile` for anything that this module did not write.
"""
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd

import soft_labels
from building.integrity import digest, read_regular, require, require_file
from corruptions import SEVERITIES
from datasets.split import SAFE_ID
from support.errors import DamagedFile, first_line
from support.files import write_text, write_whole


# ---- writing

def write_tables(folder: Path, corruptions: Sequence[str], frame: pd.DataFrame, labels: np.ndarray,
                 softened: Iterable[np.ndarray], visibility: np.ndarray, gmm_text: str | None = None) -> None:
    """Write all tables of a set. corruptions: the names of those of the set; labels: before softening, float64 (N, K);
    softened: the soft labels of the cells, float32 (N, K) each, which are taken one at a time; visibility: float64
    (number of cells, N); gmm_text: the content of gmm.json.
    """
    write_labels(folder, frame, labels)
    shape = len(corruptions), len(SEVERITIES)
    _write_cells(folder / "soft_labels.npy", (*shape, *labels.shape), softened)
    _write_cells(folder / "visibility.npy", (*shape, len(labels)), visibility)
    means = pd.DataFrame(visibility.mean(1).reshape(-1, len(SEVERITIES)), columns=SEVERITIES,
                         index=pd.Index(corruptions, name="corruption"))
    write_text(folder / "visibility_mean.csv", means.to_csv(float_format="%.6f"))
    if gmm_text is not None:
        write_text(folder / "gmm.json", gmm_text)


def write_labels(folder: Path, frame: pd.DataFrame, labels: np.ndarray) -> None:
    """Write labels.csv. labels: before softening, float64 (N, K)."""
    parts = [frame[["id", "path", "expression"]], pd.DataFrame(labels, columns=label_columns(labels.shape[1])),
             frame[["valence", "arousal", "identity"]]]
    write_text(folder / "labels.csv", pd.concat(parts, axis=1).to_csv(index=False))


def label_columns(count: int) -> list[str]:
    """The columns of labels.csv that hold the labels before softening: one for each of `count` classes."""
    return [f"t_{k}" for k in range(count)]


def digest_of_labels(labels: np.ndarray) -> str:
    """The hash of labels before softening, float (N, K), rounded to 6 decimals."""
    return digest(map(str, labels.round(6).tolist()))


def _write_cells(path: Path, shape: tuple[int, ...], cells: Iterable[np.ndarray]) -> None:
    """Write a .npy file, float32 of this shape, from its parts, one for each cell. The array may be larger than the
    memory, so one part is written at a time."""
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}

    def write(file: IO[bytes]) -> None:
        np.lib.format.write_array_header_1_0(file, header)
        for cell in cells:
            file.write(cell.astype("<f4").tobytes())

    write_whole(path, write)


# ---- reading

def read_labels(path: Path, manifest: Mapping[str, Any]) -> tuple[pd.DataFrame, np.ndarray]:
    """labels.csv as a frame, and its labels before softening, float64 (N, K). Raises DamagedFile unless ids and labels
    are those that the manifest has digests of."""
    made_with = manifest["made_with"]
    class_count = len(manifest["classes"])
    try:
        frame, labels = _parse_labels(path, class_count)
        ids, expression = frame["id"].tolist(), frame["expression"].to_numpy()
        frame[["valence", "arousal"]].to_numpy(np.float64)  # raises ValueError where one is no number
        ids_are_names = all(isinstance(name, str) and SAFE_ID.fullmatch(name) for name in ids)
        is_integer = np.issubdtype(expression.dtype, np.integer)
        are_classes = is_integer and bool(((expression >= 0) & (expression < class_count)).all())
        soft_labels.check_distributions(labels, "label")
    except DamagedFile:
        raise
    except Exception as error:  # the parser fails in many ways on what it cannot read
        raise DamagedFile(f"{path} is damaged ({first_line(error)})") from None
    require(len(frame) == made_with["images"], path, f"{len(frame)} rows, the manifest says {made_with['images']}")
    require(ids_are_names, path, "ids that cannot be file names")
    require(are_classes, path, f"an expression is no number from 0 to {class_count - 1}")
    require(digest(ids) == made_with["ids"], path, "its ids are not those of the manifest")
    require(digest_of_labels(labels) == made_with["labels"], path, "its labels are not those of the manifest")
    return frame, labels


def _parse_labels(path: Path, class_count: int) -> tuple[pd.DataFrame, np.ndarray]:
    """labels.csv, unchecked. The labels are parsed by Python, which is exact to the last bit."""
    columns = label_columns(class_count)
    missing = dict.fromkeys(("valence", "arousal", "identity"), [""])  # in other columns, "NA" and "null" are names
    types = dict.fromkeys(("id", "identity", "path", *columns), str)
    data = io.BytesIO(read_regular(path))
    frame = pd.read_csv(data, dtype=types, keep_default_na=False, na_values=missing)
    labels = np.array([[float(value) for value in frame[name]] for name in columns]).T
    return frame.assign(**dict(zip(columns, labels.T, strict=True))), labels


def read_cells(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """A table as a memory-mapped array, float32 of this shape, which begins with the numbers of corruptions and
    severities. Raises DamagedFile on anything else."""
    try:
        require_file(path)
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except DamagedFile:
        raise
    except Exception as error:  # numpy's reader fails in many ways on what is no array
        raise DamagedFile(f"{path} is damaged ({first_line(error)})") from None
    require(values.shape == shape, path, f"its shape is {values.shape}, not {shape}")
    require(values.dtype == np.dtype("<f4"), path, f"its values are {values.dtype}, not float32")
    return values
