"""Predictions made elsewhere: logits or probabilities in files, for models that cannot be run here.

`evaluate.py --export-ids` (export_ids.py) says which images are to be predicted. The predictions come back as

  a folder   clean.npy or clean.csv, and <corruption>/<severity>.npy or .csv for each cell of the set, 85 in FER-C; in
             a set of sequences <perturbation>/<frame>.npy or .csv
  a file     of numpy.savez, with the arrays clean and <corruption>/<severity>

An array is float (N, outputs), its rows are the images in the order of the set's ids. A CSV file has the column id and
a column for each class, named like it; its rows may stand in any order. `open_logits` reads and checks everything: no
cell may be missing, no image may be missing or there twice, and no value may be NaN or infinite. The result is stored
like logits that were computed here, and scored in the same way.

The files may come from anybody: no pickle is read, and a file that is larger than its arrays can be is not opened.
Nothing here imports torch.
"""
import hashlib
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from building.built_set import BuiltSet
from evaluation.class_matching import listed
from evaluation.matching import MatchedSet
from evaluation.model_facts import FLOOR, SUM_TOLERANCE, ModelFacts
from evaluation.model_options import MOST_CLASSES, check_class_names, short_source
from evaluation.predictions import Blocks, Cell, all_cells, cell_name, write_block
from support.errors import UserError, first_line

PREFIX = "logits:"  # of --model
ID = "id"  # the column of a CSV file that names the image
HEADER_BYTES = 4096  # of a .npy file, at most
BYTES_OF_A_NUMBER = 64  # in a CSV file, at most
EXAMPLES = 3  # names in a message


@dataclass(frozen=True)
class StoredLogits:
    """The predictions of a model for one set, read and checked. A `scoring.LogitsOfSets`."""

    name: str
    classes: list[str]
    """of the model, in the order of the columns"""
    weights_sha256: str
    """sha256 of all values, which stands for the weights"""
    facts: ModelFacts
    logits: dict[Cell, np.ndarray]
    """of every cell: float32 (N, outputs), in the set's order of images"""
    are_columns_named: bool = False
    """whether CSV files name the classes; --classes is refused then"""

    def options(self) -> dict[str, Any]:
        """What changes the last digits, besides the precision: nothing."""
        return {"origin": "files"}

    def store(self, matched: MatchedSet, blocks: Blocks, divided: bool) -> None:
        """Store the blocks that are missing. With several processes all of them call this: files are written whole,
        and all write the same."""
        for number in blocks.missing_blocks:
            rows = blocks.rows(number)
            block = np.stack([self.logits[cell][rows.start:rows.stop] for cell in blocks.cells], axis=1)
            write_block(blocks, number, block[:, :, matched.order])


def open_logits(path: Path, built: BuiltSet, output: str = "logits", classes: Sequence[str] | None = None,
                name: str | None = None) -> StoredLogits:
    """Read the predictions of a model for a set.

    output: "logits" or "probabilities". classes: names of the columns of arrays; None: the set's classes in their
    order. CSV files name their columns themselves. name: what tables call the model; None: the name of the file or
    folder, without its suffix. Raises UserError, naming the file and what to do, where something is not as it has to
    be."""
    if not path.exists():
        raise UserError(f"{path} is not there; --model {PREFIX}PATH takes a folder of predictions or a .npz file "
                        f"(evaluate.py --export-ids DIR says which)")
    reader = archive_reader(path, built, classes) if path.is_file() else folder_reader(path, built, classes)
    logits, whole = {}, hashlib.sha256(output.encode())
    for cell in all_cells(built):
        values, place = reader.read(cell)
        logits[cell] = as_logits(values, output, place)
        whole.update(cell_name(cell).encode() + b"\0" + logits[cell].tobytes())
    changed = {"classes": ",".join(classes)} if classes else {}
    facts = ModelFacts("logits", short_source(f"{PREFIX}{path}"), output=output, changed=changed)
    return StoredLogits(name or path.resolve().stem, list(reader.classes), whole.hexdigest(), facts, logits,
                        reader.names_of_first is not None)


# ---- files to arrays

class Reader:
    """Reads the predictions of one cell after the other."""

    def __init__(self, built: BuiltSet, classes: Sequence[str] | None) -> None:
        self.ids: list[str] = built.frame[ID].tolist()
        self.cells = all_cells(built)
        self.stated = classes is not None
        self.classes = list(classes if classes is not None else built.classes)
        self.names_of_first: list[str] | None = None  # the classes of the first CSV file

    def read(self, cell: Cell) -> tuple[np.ndarray, str]:
        """The values of a cell, float (N, outputs), and the name of its place for messages. Raises UserError."""
        raise NotImplementedError

    def largest(self) -> int:
        """The most bytes that a file of an array can have."""
        return HEADER_BYTES + 8 * len(self.ids) * MOST_CLASSES

    def checked(self, values: Any, place: str) -> np.ndarray:
        """The values. Raises UserError unless they are floats (N, outputs)."""
        if not isinstance(values, np.ndarray):
            raise UserError(f"{place} holds no array")
        count, outputs = len(self.ids), len(self.classes)
        if values.dtype.kind != "f":
            raise UserError(f"{place} holds {values.dtype}; logits and probabilities are floats, one for each class")
        if values.ndim != 2 or len(values) != count:
            raise UserError(f"{place} has the shape {values.shape}; it needs {count} rows, one for each image of the "
                            f"set, in the order of ids.csv, and {outputs} columns")
        if values.shape[1] != outputs:
            owner = "--classes names" if self.stated else "the set has"
            raise UserError(f"{place} has {values.shape[1]} columns, and {owner} {outputs} classes "
                            f"({listed(self.classes)}): name the columns with --classes")
        return values


class FolderReader(Reader):
    """Reads files in a folder."""

    def __init__(self, folder: Path, built: BuiltSet, classes: Sequence[str] | None) -> None:
        super().__init__(built, classes)
        self.folder = folder

    def candidates(self, cell: Cell) -> list[Path]:
        """The files that a cell may have and that are there."""
        paths = [self.folder / f"{cell_name(cell)}{suffix}" for suffix in (".npy", ".csv")]
        return [path for path in paths if path.is_file()]

    def read(self, cell: Cell) -> tuple[np.ndarray, str]:
        (path,) = self.candidates(cell)
        inside = path.resolve().is_relative_to(self.folder.resolve())
        if not inside:
            raise UserError(f"{path} is a link that leads out of {self.folder}")
        if path.suffix == ".csv":
            return self.read_csv(path), str(path)
        if path.stat().st_size > self.largest():
            raise UserError(f"{path} has {path.stat().st_size} bytes, more than predictions for {len(self.ids)} images")
        try:
            values = np.load(str(path), mmap_mode="r", allow_pickle=False)
        except Exception as error:  # a damaged file can fail in any way
            raise UserError(f"{path} is no array that numpy.save wrote ({first_line(error)})") from None
        return self.checked(values, str(path)), str(path)

    def read_csv(self, path: Path) -> np.ndarray:
        """The values of a CSV file in the set's order of images, float64 (N, outputs). Raises UserError."""
        largest = BYTES_OF_A_NUMBER * (len(self.ids) + 1) * (MOST_CLASSES + 4)
        if path.stat().st_size > largest:
            raise UserError(f"{path} has {path.stat().st_size} bytes, more than predictions for {len(self.ids)} images")
        try:
            # pandas would take a header with fewer cells than the rows for one without the first column, and it would
            # rename a column that is there twice. So the header is read as a row.
            rows = pd.read_csv(path, header=None, dtype=str, keep_default_na=False, encoding="utf-8-sig")
        except Exception as error:  # text of any kind can fail in any way
            raise UserError(f"{path} cannot be read as CSV ({first_line(error)})") from None
        columns = [str(name) for name in rows.iloc[0]]
        twice = [name for number, name in enumerate(columns) if name in columns[:number]]
        if twice:
            raise UserError(f"{path}: the column {twice[0][:40]!r} is there twice")
        table = rows.iloc[1:].set_axis(columns, axis=1)
        names = self.names_of_columns(columns, path)
        places = self.rows_in_order(table[ID].tolist(), path)
        values = np.empty((len(table), len(names)))
        for column, name in enumerate(names):
            try:
                values[:, column] = table[name].to_numpy(dtype=object).astype(np.float64)
            except ValueError as error:
                raise UserError(f"{path}: the column {name[:40]!r} holds something that is no number "
                                f"({first_line(error)[:80]})") from None
        return values[places]

    def names_of_columns(self, columns: list[str], path: Path) -> list[str]:
        """The classes, in the order of the first CSV file. Raises UserError where columns are missing or differ."""
        if ID not in columns:
            raise UserError(f"{path} has no column {ID!r}; its columns are {listed(columns)}")
        if self.stated:
            raise UserError(f"{path}: the columns of a CSV file name the classes; leave out --classes")
        names = [name for name in columns if name != ID]
        if self.names_of_first is None:
            if not 2 <= len(names) <= MOST_CLASSES:
                raise UserError(f"{path} has {len(names)} columns besides {ID!r}; it needs one for each class")
            check_class_names(names, f"{path}: its header")
            self.names_of_first = self.classes = names
        elif set(names) != set(self.names_of_first):
            raise UserError(f"{path} has the classes {listed(names)}, and the first file has "
                            f"{listed(self.names_of_first)}")
        return self.names_of_first

    def rows_in_order(self, ids: list[str], path: Path) -> np.ndarray:
        """For each image of the set, its row in a CSV file, int64 (N,). Raises UserError naming ids that are missing,
        unknown or there twice."""
        row_of_id = {image_id: row for row, image_id in enumerate(ids)}
        wanted = set(self.ids)
        twice = [image_id for row, image_id in enumerate(ids) if row_of_id[image_id] != row]
        for problem, examples in (("there twice", twice), ("not of this set", [i for i in ids if i not in wanted]),
                                  ("missing", [i for i in self.ids if i not in row_of_id])):
            if examples:
                ids_are = "1 id is" if len(examples) == 1 else f"{len(examples)} ids are"
                raise UserError(f"{path}: {ids_are} {problem}, for example "
                                f"{listed(examples[:EXAMPLES])}. The ids are those of ids.csv, one row each")
        return np.array([row_of_id[image_id] for image_id in self.ids])


class ArchiveReader(Reader):
    """Reads the arrays in a file of numpy.savez."""

    def __init__(self, path: Path, built: BuiltSet, classes: Sequence[str] | None, archive: Any) -> None:
        super().__init__(built, classes)
        self.path = path
        self.archive = archive

    def read(self, cell: Cell) -> tuple[np.ndarray, str]:
        place = f"{self.path}: {cell_name(cell)}"
        try:
            values = self.archive[cell_name(cell)]
        except Exception as error:  # a damaged archive can fail in any way
            raise UserError(f"{place} cannot be read ({first_line(error)})") from None
        return self.checked(values, place), place


def folder_reader(folder: Path, built: BuiltSet, classes: Sequence[str] | None) -> FolderReader:
    """The reader of a folder. Raises UserError where a cell has no file, or two."""
    reader = FolderReader(folder, built, classes)
    missing = [f"{cell_name(cell)}.npy" for cell in reader.cells if not reader.candidates(cell)]
    twice = [cell_name(cell) for cell in reader.cells if len(reader.candidates(cell)) > 1]
    refuse_missing(folder, missing, reader.cells)
    if twice:
        raise UserError(f"{folder} holds two files for {listed(twice[:EXAMPLES])}: a .npy and a .csv file; remove one")
    return reader


def archive_reader(path: Path, built: BuiltSet, classes: Sequence[str] | None) -> ArchiveReader:
    """The reader of a .npz file. Raises UserError where it is none, lacks a cell, or would unpack to more than
    predictions can be."""
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {entry.filename.removesuffix(".npy"): entry.file_size for entry in archive.infolist()}
        opened = np.load(path, allow_pickle=False)
    except Exception as error:  # a file of any kind can fail in any way
        raise UserError(f"{path} is no file that numpy.savez wrote ({first_line(error)}); --model {PREFIX}PATH takes "
                        f"such a file or a folder") from None
    reader = ArchiveReader(path, built, classes, opened)
    refuse_missing(path, [cell_name(cell) for cell in reader.cells if cell_name(cell) not in sizes], reader.cells)
    if max(sizes[cell_name(cell)] for cell in reader.cells) > reader.largest():
        raise UserError(f"{path} unpacks to more than predictions for {len(reader.ids)} images")
    return reader


def refuse_missing(path: Path, missing: list[str], cells: Sequence[Cell]) -> None:
    """Raises UserError where predictions are missing, with their names. cells: all that are needed."""
    if missing:
        more = f" and {len(missing) - 12} more" if len(missing) > 12 else ""
        raise UserError(f"{path} lacks {len(missing)} of {len(cells)} predictions: {', '.join(missing[:12])}"
                        f"{more}. The clean images and all {len(cells) - 1} cells are needed")


# ---- values

def as_logits(values: np.ndarray, output: str, place: str) -> np.ndarray:
    """Logits, float32 in the shape of the values. Probabilities become log(max(p, 1e-6)).

    values: float. output: "logits" or "probabilities". place: for messages. Raises UserError where a value is not
    finite, or where probabilities are none."""
    numbers = np.asarray(values, np.float64)
    broken = ~np.isfinite(numbers).all(1)
    if broken.any():
        raise UserError(f"{place}: NaN or infinity in {int(broken.sum())} of {len(numbers)} rows, the first is row "
                        f"{int(broken.argmax()) + 1}")
    if output == "probabilities":
        off = np.abs(numbers.sum(1) - 1)
        if numbers.min() < -FLOOR or off.max() > SUM_TOLERANCE:
            row = int(np.maximum(off, -numbers.min(1)).argmax())
            raise UserError(f"{place}: row {row + 1} is no distribution: its values run from {numbers[row].min():.4g} "
                            f"to {numbers[row].max():.4g} and sum to {numbers[row].sum():.4g}. If these are logits, "
                            f"leave out --output probabilities")
        numbers = np.log(np.maximum(numbers, FLOOR))
    with np.errstate(over="ignore"):
        logits = numbers.astype(np.float32)
    if not np.isfinite(logits).all():
        raise UserError(f"{place}: a value is too large for float32")
    return logits
