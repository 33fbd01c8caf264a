"""What a model that cannot be run here has to predict: `evaluate.py --export-ids DIR --set SET`.

`export_ids` writes a folder with four files. logits_source.py reads the predictions that come back.

  ids.csv       id and path of every image of the set, in its order; the path is that of the clean image in the set
  cells.csv     a row for the clean images and for each cell (a corruption at a severity, or a frame of a perturbation):
                where its images are in the set, with <id> in the place of an image's id, and the name that the file of
                its predictions has to have
  classes.txt   the set's classes, one a line, in their order
  README.txt    how to go on

Nothing here imports torch.
"""
import csv
import io
from pathlib import Path

from building.built_set import BuiltSet
from building.options import rebuild_command
from evaluation.predictions import all_cells, cell_name
from support.errors import UserError
from support.files import os_errors_as_user_errors, write_text

FILES = ("ids.csv", "cells.csv", "classes.txt", "README.txt")


def export_ids(folder: Path, built: BuiltSet) -> str:
    """Write the folder, and return what is printed about it. Raises UserError where the folder holds other files, or
    cannot be written."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; --export-ids takes a new folder")
    if folder.is_dir() and {path.name for path in folder.iterdir()} - set(FILES):
        raise UserError(f"{folder} holds other files; --export-ids takes a new folder")
    ids = [(image_id, built.image_path(i).relative_to(built.folder).as_posix())
           for i, image_id in enumerate(built.frame["id"])]
    cells = []
    for cell in all_cells(built):
        images = ""
        if cell is None or built.has_images:
            first = built.image_path(0, *(cell or ()))
            images = (first.relative_to(built.folder).parent / f"<id>{first.suffix}").as_posix()
        cells.append((cell_name(cell), images, f"{cell_name(cell)}.npy"))
    texts = {"ids.csv": csv_text([("id", "path"), *ids]),
             "cells.csv": csv_text([("cell", "images", "file"), *cells]),
             "classes.txt": "".join(f"{name}\n" for name in built.classes), "README.txt": readme(built)}
    with os_errors_as_user_errors(folder):
        for name in FILES:
            write_text(folder / name, texts[name])
    text = f"{folder}: {len(ids)} images, {len(cells)} files of predictions to make; {folder / 'README.txt'} says how"
    return text if built.has_images else f"{text}\n{images_missing(built)}"


def csv_text(rows: list[tuple[str, ...]]) -> str:
    """A table as CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def images_missing(built: BuiltSet) -> str:
    """What to do about a set without image files."""
    return (f"{built.folder} was built with --no-images: another program needs the files (--on-the-fly works in "
            f"evaluate.py only). Make them: {rebuild_command(built.folder, built.made_with)}")


def forms_in_words(built: BuiltSet) -> str:
    """How many forms an image of the set has besides the clean one, for texts."""
    if built.has_sequences:
        return f"{len(built.cells)} frames of {len(built.corruptions)} perturbations"
    return f"{len(built.cells)} corrupted forms"


def readme(built: BuiltSet) -> str:
    """The text of README.txt."""
    name = built.folder.resolve().name
    lines = [
        f"Predictions for {name}, set version {built.manifest['set_version']}",
        "",
        f"1. ids.csv lists {len(built.frame)} images. Your model predicts all of them, clean and in "
        f"{forms_in_words(built)}.",
        f"2. cells.csv says where their files are in {name}, with the id in the place of <id>.",
        "3. Write one array for each row of cells.csv with numpy.save, under the name in the column file:",
        f"   float32, {len(built.frame)} rows in the order of ids.csv, {len(built.classes)} columns in the order of "
        f"classes.txt.",
        "   Or write a .csv file in its place, with the column id and a column for each class, named like it.",
        f"4. Score them: python evaluate.py --model logits:FOLDER --set PATH/TO/{name}",
        "   Add --output probabilities where the numbers are probabilities, not logits.",
        "   Add --classes a,b,c where the columns of your arrays are other classes than those in classes.txt.",
    ]
    if not built.has_images:
        lines += ["", images_missing(built)]
    return "\n".join(lines) + "\n"
