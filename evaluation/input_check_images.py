"""Which clean images the check of the input looks at.

Preferred is the validation split of the set's data set, where its folder is in the usual place: so nothing is decided
on test images. Its pictures are cropped and resized as those of the set. Elsewhere the set's own clean images are
taken; that is a look at test images, and what is printed says so.

The check changes no data set: where reading the validation split would write images or lists (the demo draws missing
faces, FER+ unpacks Kaggle's file), the set's images are taken. So they are where the set was built with options that
are paths: the set may come from anybody, and must not choose which files of this machine are read or written. Nothing
here imports torch.
"""
import numpy as np

from building.built_set import BuiltSet
from datasets import DATASETS, TITLES, check_read_only, default_root, load_split
from datasets.images import inside, read_image
from datasets.split import expression_name
from evaluation.class_matching import ClassMatch
from evaluation.input_check import CheckedImages
from support.errors import UserError
from support.random_streams import keyed_rng

MOST_IMAGES = 300


def images_for_input_check(built: BuiltSet, classes: ClassMatch) -> CheckedImages:
    """Up to `MOST_IMAGES` clean images of classes that the model knows. Raises UserError where an image of the set
    cannot be read, or where no image is left."""
    try:
        images = validation_images(built, classes)
    # The data set is not there, is another copy than the set was built from, or cannot be read without writing. A
    # ValueError comes from options that no command wrote.
    except (UserError, OSError, ValueError):
        images = None
    return images if images is not None else images_of_set(built, classes)


def validation_images(built: BuiltSet, classes: ClassMatch) -> CheckedImages | None:
    """Images of the validation split; None where the data set is not in its usual folder, has other classes than the
    set, or has no image of a known class. Raises UserError or OSError where it cannot be read."""
    made_with = built.made_with
    dataset = made_with["dataset"]
    if dataset not in DATASETS:
        return None
    root = default_root(dataset)
    if not root.is_dir():
        return None
    options = {str(name): str(value) for name, value in made_with["options"].items()}
    check_read_only(dataset, root, "val", options)
    split = load_split(dataset, root, "val", **options)
    if list(map(expression_name, split.classes)) != list(map(expression_name, built.classes)):
        return None
    rows, labels = drawn_rows(split.frame["expression"].to_numpy(np.int64), classes, len(built.classes), dataset)
    if not len(rows):
        return None
    images = []
    for row in split.frame.iloc[rows].itertuples():
        box = (row.left, row.top, row.right, row.bottom)
        images.append(read_image(inside(root, row.path), made_with["size"], box))
    return CheckedImages(np.stack(images), labels, f"validation split of {TITLES[dataset]}")


def images_of_set(built: BuiltSet, classes: ClassMatch) -> CheckedImages:
    """Clean images of the set itself. Raises UserError where one cannot be read, and where none has a known class."""
    rows, labels = rows_of_set(built, classes)
    images = np.stack([built.pixels(int(row)) for row in rows])
    return CheckedImages(images, labels, "clean test images of the set: no validation split was found")


def rows_of_set(built: BuiltSet, classes: ClassMatch) -> tuple[np.ndarray, np.ndarray]:
    """The set's own images for a check, as `drawn_rows` gives them. Raises UserError where none has a known class."""
    labels = built.frame["expression"].to_numpy(np.int64)
    rows, positions = drawn_rows(labels, classes, len(built.classes), built.manifest["set_version"])
    if not len(rows):
        raise UserError(f"{built.folder}: none of its images has a class that the model knows")
    return rows, positions


def drawn_rows(labels: np.ndarray, classes: ClassMatch, count: int, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Up to `MOST_IMAGES` rows of known classes: int64 (N,), in their order, and their labels as positions among the
    shared classes, int64 (N,).

    labels: indices of the set's `count` classes. key: of the random stream that draws the rows."""
    position = classes.positions(count)
    rows = np.flatnonzero(position[labels] >= 0)
    if len(rows) > MOST_IMAGES:
        rows = np.sort(keyed_rng("images of the check", key).choice(rows, MOST_IMAGES, replace=False))
    return rows, position[labels[rows]]
