"""AffectNet: both releases, their quirks, every option and error, the scan's cache, the layouts written here."""
import io
import os
import warnings
from functools import partial

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import datasets
from datasets import affectnet
from datasets.affectnet import CLASSES, HEADER, LIST_PLACES
from datasets.drawn.affectnet import COUNTS, write_2021, write_old
from datasets.drawn.faces import Face
from datasets.split import COLUMNS, SAFE_ID
from support.errors import UserError

HEAD = ",".join(HEADER)
WRITERS = {"affectnet-old": write_old, "affectnet-2021": write_2021}
MARKS = ";".join(["1.5"] * 136)
IMAGES = "Manually_Annotated/Manually_Annotated_Images"
fuzz = partial(settings, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(autouse=True)
def in_the_table(monkeypatch, tmp_path):
    """The door knows the set; caches of these tests stay in their folder."""
    monkeypatch.setitem(datasets.DATASETS, "affectnet", "datasets.affectnet")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user cache"))


def load(root, split="test", **options):
    return datasets.load_split("affectnet", root, split, **options)


def row(path, expression, valence=0.5, arousal=-0.25, box=(10, 20, 100, 110)):
    return f"{path},{','.join(map(str, box))},{MARKS},{expression},{valence},{arousal}"


ROWS = [row(f"{100 + k}/a{k}.jpg", k) for k in range(8)]  # one of each class


def write_list(root, rows, name="validation.csv", place=LIST_PLACES[0], header=False, missing=()):
    """A list and an empty file for every image that it names."""
    (root / place).mkdir(parents=True, exist_ok=True)
    (root / place / name).write_text("\n".join([HEAD] * header + rows) + "\n")
    (root / IMAGES).mkdir(parents=True, exist_ok=True)
    for path in {line.split(",")[0] for line in rows if ".jpg" in line} - set(missing):
        (root / IMAGES / path).parent.mkdir(exist_ok=True)
        (root / IMAGES / path).touch()
    return root


def count(notes, why):
    matching = [value for key, value in notes.items() if key.startswith(why)]
    return matching[0] if matching else 0


# ---- the old release

def test_known_answer(tmp_path):
    rows = [row("103/0a.jpg", 6, -0.5, 0.75), row("7/ff.PNG", 0, 0, -1, (134, 130, 899, 800))]
    (tmp_path / IMAGES / "7").mkdir(parents=True)
    (tmp_path / IMAGES / "7/ff.PNG").touch()
    data = load(write_list(tmp_path, rows))
    assert data.classes == CLASSES and data.distribution is None
    assert data.frame.to_dict("records") == [
        {"id": "103_0a", "path": f"{IMAGES}/103/0a.jpg", "left": 10, "top": 20, "right": 110, "bottom": 130,
         "expression": 6, "valence": -0.5, "arousal": 0.75, "identity": ""},
        {"id": "7_ff", "path": f"{IMAGES}/7/ff.PNG", "left": 134, "top": 130, "right": 1033, "bottom": 930,
         "expression": 0, "valence": 0, "arousal": -1, "identity": ""}]
    assert data.frame["expression"].dtype == np.int64 and data.frame["left"].dtype == np.float64
    assert data.notes == {
        "layout": "AffectNet, old distribution: lists in Manually_Annotated_file_lists, headerless validation.csv",
        "classes without an image": "Happy, Sad, Surprise, Fear, Disgust, Contempt"}


@pytest.mark.parametrize("place", LIST_PLACES)
@pytest.mark.parametrize("header", [False, True])
def test_lists_are_found_everywhere_with_and_without_header(tmp_path, place, header):
    data = load(write_list(tmp_path, ROWS, place=place, header=header))
    assert data.frame["expression"].tolist() == list(range(8))
    assert data.notes == {"layout": f"AffectNet, old distribution: lists in {'the root' if place == '.' else place}, "
                                    f"{'' if header else 'headerless '}validation.csv"}


def test_the_folder_below_serves_as_root(tmp_path):
    write_list(tmp_path, ROWS, place="Manually_Annotated")
    data = load(tmp_path / "Manually_Annotated")
    assert data.frame["path"].iloc[0] == "Manually_Annotated_Images/100/a0.jpg"


def test_a_copy_saved_by_another_program(tmp_path):
    """Byte-order mark, Windows line ends, quotes, another order of columns, one more column, backslashes."""
    write_list(tmp_path, ROWS)
    frame = pd.read_csv(io.StringIO("\n".join([HEAD, *ROWS])))
    frame["subDirectory_filePath"] = frame["subDirectory_filePath"].str.replace("/", "\\")
    text = frame[HEADER[::-1]].to_csv(quoting=1, lineterminator="\r\n")
    (tmp_path / LIST_PLACES[0] / "validation.csv").write_text("\ufeff" + text, encoding="utf-8", newline="")
    data = load(tmp_path)
    assert data.frame["id"].tolist() == [f"{100 + k}_a{k}" for k in range(8)]
    assert data.frame.loc[0, ["left", "top", "right", "bottom"]].tolist() == [10, 20, 110, 130]
    assert data.frame["valence"].eq(0.5).all() and len(data.notes) == 1


def test_what_is_dropped_is_counted_with_an_example(tmp_path):
    rows = [*ROWS, *(row(f"1/n{k}.jpg", k, -2, -2) for k in (8, 9, 10)), row("1/m8.jpg", 8, -2, -2),
            row("1/neg.jpg", 1, box=(10, 10, -5, 9)), row("1/flat.jpg", 1, box=(10, 10, 5, 0)),
            row("1/no.jpg", "?"), row("1/long.jpg", 1) + ",1", row("1/box.jpg", 1, box=("x", 1, 2, 3)),
            "1/cut.jpg,1,2", row("", 1), ",,,,,,,,",
            row("1/huge.jpg", 1, box=(0, 0, 9e4, 1)), row("1/many.jpg", 1, box=(0, 0, 6e4, 6e4)),
            row("1/inf.jpg", 1, box=(0, "inf", 1, 1)), row("1/e11.jpg", 11), row("1/half.jpg", 0.5),
            row("1/minus.jpg", -1), row("103/a3.jpg", 5), row("1/gone.jpg", 1), row("1/gone2.jpg", 1)]
    data = load(write_list(tmp_path, rows, missing=["1/gone.jpg", "1/gone2.jpg"]))
    assert data.frame["expression"].tolist() == list(range(8))  # the second a3.jpg, of class 5, is the one left out
    assert {key: value for key, value in data.notes.items() if key != "layout"} == {
        "malformed row (for example 1/no.jpg)": 9,
        "face box without area (for example 1/neg.jpg)": 2,
        "listed twice (for example 103/a3.jpg)": 1,
        "no expression: None, Uncertain or No-Face (for example 1/n8.jpg)": 4,
        "expression is not one of 0..10 (for example 1/e11.jpg)": 3,
        "listed but not on disk (1/gone.jpg, 1/gone2.jpg)": 2}


def test_valence_and_arousal_may_be_unknown(tmp_path):
    rows = [row("1/a.jpg", 0, -2, -2), row("1/b.jpg", 0, "x", 0.1), row("1/c.jpg", 0, 0.2, 1.5),
            row("1/d.jpg", 0, 1, -1)]
    data = load(write_list(tmp_path, rows))
    np.testing.assert_array_equal(data.frame[["valence", "arousal"]],
                                  [(np.nan, np.nan), (np.nan, 0.1), (0.2, np.nan), (1, -1)])
    assert data.notes["kept without valence or arousal (for example 1/a.jpg)"] == 3


def test_legacy_crop_reads_width_and_height_as_right_and_bottom(tmp_path):
    rows = [*ROWS, row("1/inverted.jpg", 0, box=(50, 10, 40, 90)), row("1/empty.jpg", 0, box=(10, 30, 90, 30))]
    write_list(tmp_path, rows)
    assert len(load(tmp_path).frame) == 10
    data = load(tmp_path, crop="legacy")
    assert data.frame[["left", "top", "right", "bottom"]].drop_duplicates().to_numpy().tolist() == [[10, 20, 100, 110]]
    assert data.notes["legacy crop is empty (for example 1/inverted.jpg)"] == 2 and len(data.frame) == 8
    assert data.notes["layout"].endswith("validation.csv, legacy crop")


# ---- boxes and the sizes of the pictures

BOXES = {  # of a picture 40 wide and 30 high
    "1/inside.jpg": (5, 5, 20, 20), "1/whole.jpg": (0, 0, 40, 30), "1/edge.jpg": (-4, -4, 20, 20),
    "1/beside.jpg": (60, 5, 20, 20), "1/below.jpg": (5, 35, 20, 20), "1/before.jpg": (-30, 0, 20, 20),
    "1/huge.jpg": (0, 0, 400, 300),
}


def write_boxes(root, name, boxes=BOXES):
    """A list whose rows have pictures of 40 x 30 pixels."""
    write_list(root, [row(path, 0, box=box) for path, box in boxes.items()], name, header=True)
    for path in boxes:
        Image.new("RGB", (40, 30)).save(root / IMAGES / path)
    return root


BAD_BOX = "face box that is not in its picture"


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("crop", ["xywh", "legacy"])
def test_a_box_that_misses_its_picture_is_left_out_and_counted(tmp_path, split, crop, monkeypatch):
    monkeypatch.setattr(affectnet, "CLASSES", CLASSES[:1] * 8)
    write_boxes(tmp_path, "training.csv" if split == "train" else "validation.csv")
    data = affectnet.load(tmp_path, split, crop=crop)
    assert data.frame["id"].tolist() == ["1_inside", "1_whole", "1_edge"]
    assert data.notes[f"{BAD_BOX} (for example 1/beside.jpg)"] == 4
    assert "picture_width" not in data.frame and len(data.frame.columns) == len(COLUMNS)


def test_unreadable_pictures_are_left_to_the_decoder(tmp_path):
    write_boxes(tmp_path, "validation.csv")
    for _ in range(2):  # nor is "unreadable" kept
        (tmp_path / IMAGES / "1/beside.jpg").write_bytes(b"no picture")
        assert "1_beside" in affectnet.load(tmp_path, "test").frame["id"].tolist()
    Image.new("RGB", (90, 30)).save(tmp_path / IMAGES / "1/beside.jpg")
    assert "1_beside" in affectnet.load(tmp_path, "test").frame["id"].tolist()


def test_sizes_are_kept_until_list_or_images_change(tmp_path, monkeypatch):
    root = write_boxes(tmp_path / "root", "validation.csv")
    asked, real = [], affectnet.picture_sizes

    def sizes(where, paths):
        asked.append(len(paths))
        return real(where, paths)

    monkeypatch.setattr(affectnet, "picture_sizes", sizes)
    first, second = affectnet.load(root, "test"), affectnet.load(root, "test")
    assert asked == [7] and (root / ".fer-c-validation-sizes.csv").is_file() and "cache" not in first.notes
    assert second.notes.pop("cache").startswith("sizes of pictures from the scan in the root, .fer-c-validation-sizes.")
    pd.testing.assert_frame_equal(second.frame, first.frame)
    assert second.notes == first.notes
    affectnet.load(root, "test", crop="legacy")
    assert asked == [7]
    write_boxes(root, "validation.csv", BOXES | {"1/late.jpg": (0, 0, 9, 9)})  # a new picture: its folder has changed
    affectnet.load(root, "test")
    assert asked == [7, 8]
    text = (root / LIST_PLACES[0] / "validation.csv").read_text().replace("1/late.jpg,0,0", "1/late.jpg,90,0")
    (root / LIST_PLACES[0] / "validation.csv").write_text(text)  # another box of a known picture
    assert affectnet.load(root, "test").notes[f"{BAD_BOX} (for example 1/beside.jpg)"] == 5 and asked == [7, 8]
    Image.new("RGB", (400, 300)).save(root / IMAGES / "1/other.tmp", "jpeg")
    (root / IMAGES / "1/other.tmp").rename(root / IMAGES / "1/beside.jpg")  # replaced
    assert "1_beside" in affectnet.load(root, "test").frame["id"].tolist() and asked == [7, 8, 8]


@pytest.mark.parametrize("content", [b"", b"# FER-C sizes 1", b"\0\xff", None])
def test_a_damaged_file_of_sizes_is_written_anew(tmp_path, content):
    first = affectnet.load(write_boxes(tmp_path, "validation.csv"), "test").frame
    path = tmp_path / ".fer-c-validation-sizes.csv"
    good = path.read_bytes()
    path.write_bytes(good.splitlines(keepends=True)[0] + b"name,width\nx,1\n" if content is None else content)
    pd.testing.assert_frame_equal(affectnet.load(tmp_path, "test").frame, first)
    assert path.read_bytes() == good


# ---- pictures saved again

def test_pictures_of_the_old_release_saved_again(tmp_path):
    write_list(tmp_path, ROWS)
    for path in [*(tmp_path / IMAGES).rglob("*.jpg")]:
        path.rename(path.with_suffix(".PNG"))
    data = load(tmp_path)
    assert data.frame["path"].iloc[0] == f"{IMAGES}/100/a0.PNG" and data.frame["id"].iloc[0] == "100_a0"
    assert count(data.notes, "picture found under another suffix than listed") == 8


def test_pictures_of_2021_saved_again(tmp_path):
    root = write_new(tmp_path, ALL | {"30": (None, "0", "0")})
    for path in [*(root / "val_set/images").iterdir()]:
        path.rename(path.with_suffix(".png"))
    (root / "val_set/images/3.jpg").touch()
    data = load(root)
    assert data.frame["path"].tolist() == [f"val_set/images/{i}.{'jpg' if i == 3 else 'png'}" for i in range(8)]
    assert count(data.notes, "picture found under another suffix than listed (for example 0.png for 0.jpg)") == 7
    assert count(data.notes, "picture in several formats, one taken (for example 3.jpg, not 3.png)") == 1
    assert count(data.notes, "image without a readable expression (for example 30.png)") == 1


def test_a_picture_stands_for_one_row_only(tmp_path):
    rows = [*ROWS, row("100/a0.png", 5)]
    data = load(write_list(tmp_path, rows))
    assert len(data.frame) == 8 and data.notes["listed but not on disk (100/a0.png)"] == 1


def test_a_name_looked_for_stands_beside_a_name_found(tmp_path):
    write_new(tmp_path, ALL)
    for path in [*(tmp_path / "val_set/images").iterdir()]:
        path.rename(path.with_name("face" + path.name))
    with pytest.raises(UserError, match="looked for 0.jpg in val_set/images, which holds: face0.jpg, face1.jpg"):
        load(tmp_path)


def test_annotations_that_are_no_files_are_missing(tmp_path):
    """A named pipe would wait for ever."""
    write_new(tmp_path, ALL)
    for name in ("0_exp.npy", "1_val.npy"):
        (tmp_path / "val_set/annotations" / name).unlink()
        os.mkfifo(tmp_path / "val_set/annotations" / name)
    os.mkfifo(tmp_path / ".fer-c-val_set.csv")
    data = load(tmp_path)
    assert len(data.frame) == 7 and np.isnan(data.frame["valence"].iloc[0])


@pytest.mark.parametrize("number", ["nan", "inf", "-inf", "1e308", "9" * 400])
def test_numbers_beyond_reason(tmp_path, number):
    rows = [row(f"1/{k}.jpg", *cells) for k, cells in enumerate((
        (number, 0, 0), (1, number, number), (1, 0, 0, (number, 1, 2, 3)), (1, 0, 0, (1, 1, number, 3))))]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = load(write_list(tmp_path, rows))
    assert data.frame["id"].tolist() == ["1_1"] and np.isnan(data.frame["valence"].iloc[0])


def test_seven_classes(tmp_path):
    data = load(write_list(tmp_path, ROWS), classes="7")
    assert data.classes == CLASSES[:7] and data.frame["expression"].tolist() == list(range(7))
    assert data.notes["Contempt, left out by classes=7 (for example 107/a7.jpg)"] == 1


def test_val_is_a_tenth_of_the_training_list(tmp_path):
    rows = [row(f"{k}/{k}x{i}.jpg", k, box=(50 if i < 5 else 0, 0, 40, 40)) for i in range(20) for k in range(8)]
    write_list(tmp_path, rows, "training.csv", header=True)
    parts = {split: load(tmp_path, split).frame for split in ("train", "val")}
    assert np.bincount(parts["val"]["expression"]).tolist() == [2] * 8
    assert np.bincount(parts["train"]["expression"]).tolist() == [18] * 8
    assert not set(parts["train"]["id"]) & set(parts["val"]["id"])
    for options in ({"crop": "legacy"}, {"classes": "7"}):  # the draw does not hang on the options
        assert not set(load(tmp_path, "train", **options).frame["id"]) & set(parts["val"]["id"])
    with pytest.raises(UserError, match="no validation.csv here, nor in Manually_Annotated_file_lists"):
        load(tmp_path, "test")


def test_odd_names_get_safe_ids(tmp_path):
    names = ["a/b.jpg", "a/c.jpg", "a/c.png", "a_b.jpg", "-x.jpg", "é/ü ü.jpg", "a/b/c.jpg", ".hidden"]
    ids = affectnet._ids(names)
    assert ids[0] == "a_b" and all(SAFE_ID.fullmatch(i) for i in ids) and len(set(ids)) == len(names)
    assert ids[1].startswith("_a_c-") and ids[2].startswith("_a_c-")


@fuzz(max_examples=25)
@given(st.lists(st.text(max_size=12), unique=True, min_size=1))
def test_ids_are_safe_and_unique(names):
    ids = affectnet._ids(names)
    assert all(SAFE_ID.fullmatch(i) for i in ids) and len(set(ids)) == len(names)


@pytest.mark.parametrize("path", ["../../x.jpg", "/etc/x.jpg", "1/../x.jpg", "..\\x.jpg", "C:\\x.jpg", ".."])
def test_a_list_cannot_leave_the_root(tmp_path, path):
    write_list(tmp_path, ROWS)
    with open(tmp_path / LIST_PLACES[0] / "validation.csv", "a") as file:
        file.write(row(path, 1) + "\n")
    with pytest.raises(UserError, match="leads out of the data folder"):
        load(tmp_path)


def test_dots_in_names_lead_nowhere(tmp_path):
    assert len(load(write_list(tmp_path, [row("1/a..b.jpg", 0)])).frame) == 1


# ---- the release of March 2021

def npy(value):
    data = io.BytesIO()
    np.save(data, value if isinstance(value, np.ndarray) else np.array(value))
    return data.getvalue()


def write_new(root, rows, folder="val_set"):
    """rows: {id: (expression, valence, arousal)}; a None writes no file, bytes are written as they are."""
    for part in ("images", "annotations"):
        (root / folder / part).mkdir(parents=True, exist_ok=True)
    for name, values in rows.items():
        (root / folder / f"images/{name}.jpg").touch()
        for kind, value in zip(("exp", "val", "aro"), values, strict=True):
            if value is not None:
                data = value if isinstance(value, bytes) else npy(value)
                (root / folder / f"annotations/{name}_{kind}.npy").write_bytes(data)
        (root / folder / f"annotations/{name}_lnd.npy").write_bytes(npy(np.zeros(136)))
    return root


ALL = {f"{k}": (f"{k}", "0.5", "-0.25") for k in range(8)}


def test_known_answer_2021(tmp_path):
    rows = {"10": ("3", "0.5", "-0.25"), "9": (6, -0.5, 0.125),
            "0": (np.array([1]), np.float32(0.25), np.array(b"0.75"))}
    data = load(write_new(tmp_path, rows))
    frame = data.frame
    assert frame["id"].tolist() == ["0", "9", "10"]  # by number, whatever the folder's order
    assert frame["path"].tolist() == [f"val_set/images/{i}.jpg" for i in (0, 9, 10)]
    assert frame["expression"].tolist() == [1, 6, 3]
    assert frame["valence"].tolist() == [0.25, -0.5, 0.5] and frame["arousal"].tolist() == [0.75, 0.125, -0.25]
    assert frame[["left", "top", "right", "bottom"]].isna().all(axis=None) and set(frame["identity"]) == {""}
    assert data.notes == {"layout": "AffectNet, distribution of March 2021: val_set",
                          "classes without an image": "Neutral, Sad, Fear, Disgust, Contempt"}


def test_missing_annotations_are_counted(tmp_path):
    rows = ALL | {"20": (None, "0.1", "0.1"), "21": ("1", None, "0.1"), "22": ("1", "0.1", b""), "23": (b"x", "0", "0"),
                  "24": ("1", "0", "0"), "25": ("8", "-2", "-2"), "x": ("1", "0", "0")}
    write_new(tmp_path, rows)
    (tmp_path / "val_set/images/24.jpg").unlink()
    data = load(tmp_path)
    assert data.frame["id"].tolist() == [*ALL, "21", "22"]
    assert np.isnan(data.frame["valence"].iloc[8]) and np.isnan(data.frame["arousal"].iloc[9])
    assert {key: value for key, value in data.notes.items() if key != "layout"} == {
        "image without a readable expression (for example 20.jpg)": 3,  # and 23, and x, which is no number
        "no expression: None, Uncertain or No-Face (for example 25)": 1,
        "kept without valence or arousal (for example 21)": 2,
        "listed but not on disk (24)": 1}


class Marker:
    """What a pickle in a label file would do: make a folder where the test looks for it."""

    def __reduce__(self):
        return os.mkdir, ("a-pickle-was-read",)


@pytest.mark.parametrize("value", [
    np.zeros(136), np.array(Marker(), object), np.array("text"), np.array(1j), np.array([]), np.array([[1, 2]]),
    np.zeros(1, [("a", float)])])
def test_other_arrays_are_no_numbers(tmp_path, monkeypatch, value):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.npy").write_bytes(npy(value))
    assert np.isnan(affectnet._read_number(tmp_path / "x.npy"))
    assert np.isnan(affectnet._read_number(tmp_path / "none.npy"))
    assert not (tmp_path / "a-pickle-was-read").exists()


@pytest.mark.parametrize("kind", ["<i8", ">i4", "u1", "<f4", ">f8", "<f2", "<U7", ">U2", "S3"])
@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_every_kind_of_number_is_read_as_numpy_reads_it(tmp_path, kind, shape):
    (tmp_path / "x.npy").write_bytes(npy(np.full(shape, 3).astype(kind)))
    assert affectnet._read_number(tmp_path / "x.npy") == float(np.load(tmp_path / "x.npy").item()) == 3


def test_the_scan_is_kept_until_the_folder_changes(tmp_path, monkeypatch):
    root = write_new(tmp_path / "root", ALL | {"8": ("0", 0.1 + 0.2, "x")})
    first = load(root)
    assert "cache" not in first.notes and (root / ".fer-c-val_set.csv").is_file()
    with monkeypatch.context() as patch:
        patch.setattr(affectnet, "_read_number", lambda path: 1 / 0)
        second = load(root)
    pd.testing.assert_frame_equal(second.frame, first.frame)
    assert second.notes.pop("cache") == ("annotations from the scan in the root, .fer-c-val_set.csv "
                                        "(delete it to have them read again)")
    assert second.notes == first.notes
    write_new(root, {"30": ("2", "0", "0")})
    changed = load(root)
    assert len(changed.frame) == 10 and "cache" not in changed.notes
    (root / "val_set/annotations/30_exp.npy").rename(root / "val_set/annotations/31_exp.npy")  # as many files
    assert "cache" not in load(root).notes and "cache" in load(root).notes


def test_a_root_that_cannot_be_written_keeps_its_scan_in_the_users_cache(tmp_path, monkeypatch):
    root = write_new(tmp_path / "root", ALL)
    (root / ".fer-c-val_set.csv").mkdir()  # tests may run as the superuser, whom no mode stops
    first, second = load(root), load(root)
    (kept,) = (tmp_path / "user cache/fer-c").iterdir()
    assert "user's cache folder" in second.notes["cache"] and kept.name in second.notes["cache"]
    pd.testing.assert_frame_equal(second.frame, first.frame)
    other = write_new(tmp_path / "other", {"0": ("0", "0", "0")})
    (other / ".fer-c-val_set.csv").mkdir()
    assert "cache" not in load(other).notes  # another root has another file
    kept.unlink()
    kept.mkdir()
    assert "cache" not in load(root).notes and "cache" not in load(root).notes  # nowhere to keep it: read every time
    assert not list(tmp_path.rglob("*.tmp"))


@fuzz(max_examples=60)
@given(st.one_of(st.binary(max_size=100), st.lists(st.sampled_from(
    [b"name,expression,valence,arousal", b"\n", b"7,1.0,0.5,", b",", b"x", b'"', b"1", b"\0"]), max_size=9,
).map(b"".join)))
def test_a_damaged_cache_is_read_as_none(tmp_path, data):
    (tmp_path / "scan.csv").write_bytes(b"# stamp\n" + data)
    table = affectnet._read_scan(tmp_path / "scan.csv", "# stamp\n")
    assert table is None or list(table.columns) == ["name", "expression", "valence", "arousal"]
    assert table is None or all(str(name).isdecimal() for name in table["name"])
    assert affectnet._read_scan(tmp_path / "scan.csv", "# another stamp\n") is None


def test_a_damaged_cache_is_written_anew(tmp_path):
    first = load(write_new(tmp_path, ALL)).frame
    good = (tmp_path / ".fer-c-val_set.csv").read_bytes()
    (tmp_path / ".fer-c-val_set.csv").write_bytes(good.replace(b"name", b"nom"))
    pd.testing.assert_frame_equal(load(tmp_path).frame, first)
    assert (tmp_path / ".fer-c-val_set.csv").read_bytes() == good


# ---- which release

def test_2021_is_preferred_and_said(tmp_path):
    write_list(write_new(tmp_path, ALL), ROWS[:3])
    data = load(tmp_path)
    assert len(data.frame) == 8
    assert data.notes["layout"] == ("AffectNet, distribution of March 2021 (the old one is here too: layout=old reads "
                                    "it): val_set")
    assert len(load(tmp_path, layout="old").frame) == 3
    assert load(tmp_path, layout="2021").notes["layout"] == "AffectNet, distribution of March 2021: val_set"


@pytest.mark.parametrize("prepare, split, options, message", [
    (lambda root: None, "test", {}, "found: no such folder"),
    (lambda root: (root / "AffectNet").mkdir(parents=True), "test", {}, "found: AffectNet. --root should"),
    (lambda root: write_new(root, ALL), "train", {}, "needs train_set/annotations; found: no such folder"),
    (lambda root: (root / "val_set/annotations").mkdir(parents=True), "test", {}, "val_set/images; found: annotations"),
    (lambda root: write_new(root, ALL), "test", {"layout": "old"}, "no validation.csv here, nor in"),
    (lambda root: write_list(root, ROWS), "test", {"layout": "2021"}, "needs val_set/annotations"),
    (lambda root: write_list(root, ROWS), "test", {"layout": "new"}, "layout=new: choose old or 2021"),
    (lambda root: write_list(root, ROWS), "test", {"crop": "ltrb"}, "crop=ltrb: choose xywh or legacy"),
    (lambda root: write_list(root, ROWS), "test", {"classes": "6"}, "classes=6: choose 8 or 7"),
    (lambda root: write_list(root, ROWS[:7], "training.csv"), "train", {},
     "affectnet train: no usable image of Contempt .layout: AffectNet"),
    (lambda root: write_list(root, ROWS, "training.csv"), "val", {},
     "affectnet val: no usable image .layout: AffectNet.*a tenth of each class"),  # a tenth of one is none
    (lambda root: (write_list(root, []) / LIST_PLACES[0] / "validation.csv").write_text(""), "test", {},
     "validation.csv: no row in it"),
    (lambda root: write_list(root, ["a.jpg,1,2", "b.jpg,3,4"]), "test", {}, "not a list of subDirectory_filePath"),
    (lambda root: write_list(root, ["subDirectory_filePath,face_x,expression", "a,1,2"]), "test", {},
     "no column face_y, face_width, face_height, valence, arousal; found: subDirectory_filePath, face_x, expression"),
    (lambda root: write_list(root, ROWS, missing=[line.split(",")[0] for line in ROWS]), "test", {},
     "no usable image.*listed but not on disk.*: 8"),
])
def test_errors_say_what_to_do(tmp_path, prepare, split, options, message):
    prepare(tmp_path / "root")
    with pytest.raises(UserError, match=message):
        load(tmp_path / "root", split, **options)


def test_a_list_without_its_images(tmp_path):
    write_list(tmp_path, ROWS[:0])
    (tmp_path / IMAGES).rmdir()
    with pytest.raises(UserError, match="validation.csv is here, but not its images"):
        load(tmp_path)


# ---- any bytes

BYTES = st.one_of(st.binary(max_size=300), st.lists(st.sampled_from(
    [*(line.encode() for line in ROWS[:2]), HEAD.encode(), b"\n", b"\r", b",", b'"', b"\0", b"\xff", b"..", b"/", b"8",
     b"1/x.jpg,1,2,3,4,,", b"-2", b"\xef\xbb\xbf"]), max_size=30).map(b"".join))


@fuzz(max_examples=50)
@given(BYTES)
def test_a_list_never_breaks_on_any_bytes(tmp_path, data):
    write_list(tmp_path, ROWS)
    (tmp_path / LIST_PLACES[0] / "validation.csv").write_bytes(data)
    try:
        assert set(load(tmp_path).frame["id"]) <= {f"{100 + k}_a{k}" for k in range(8)}
    except UserError:
        pass


@fuzz(max_examples=80)
@given(st.one_of(st.binary(max_size=200), st.tuples(st.integers(0, 140), st.binary(min_size=1, max_size=8))))
def test_an_annotation_never_breaks_on_any_bytes(tmp_path, data):
    if isinstance(data, tuple):
        (at, new), data = data, npy("0.125")
        data = data[:at] + new + data[at + len(new):]
    (tmp_path / "x.npy").write_bytes(data)
    assert isinstance(affectnet._read_number(tmp_path / "x.npy"), float)


# ---- the layouts

@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Both layouts, smaller than usual and twice, of stand-ins for the drawn faces."""
    def faces(split, number):
        for i in range(number):
            image = np.full((20, 20, 3), 40 + i % 200, np.uint8)
            yield Face(image, CLASSES[i % 8], 1.2 if i == 0 else 0.3, -0.4, "nobody")

    root = tmp_path_factory.mktemp("layouts")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(COUNTS, "train", 80)
        patch.setitem(COUNTS, "test", 16)
        for name, write in WRITERS.items():
            write(root / name, faces)
            write(root / "twice" / name, faces)
    return root


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("split, each", [("train", 9), ("val", 1), ("test", 2)])
def test_layouts_load_back(written, name, split, each):
    data = load(written / name, split)
    assert np.bincount(data.frame["expression"]).tolist() == [each] * 8
    assert "classes without an image" not in data.notes
    first = data.frame.iloc[0]
    with Image.open(written / name / first["path"]) as image:
        assert image.size == ((26, 26) if name == "affectnet-old" else (20, 20))
    if name == "affectnet-old":
        assert first[["left", "top", "right", "bottom"]].tolist() == [3, 3, 23, 23]


def test_the_old_layout_has_its_quirks(written):
    notes = load(written / "affectnet-old", "train").notes
    assert [count(notes, why) for why in ("malformed row", "face box without area", "no expression", "listed but not",
                                          "kept without valence")] == [3, 1, 6, 6, 1]
    assert "headerless" not in notes["layout"]
    assert "headerless validation.csv" in load(written / "affectnet-old", "test").notes["layout"]
    with open(written / "affectnet-old" / LIST_PLACES[0] / "training.csv") as file:
        header, line = file.readline().strip(), file.readline().strip().split(",")
    folder, name = line[0].split("/")
    assert header == HEAD and folder.isdecimal() and len(name) == 56 + 4 and len(line[5].split(";")) == 136
    legacy = load(written / "affectnet-old", "test", crop="legacy").frame
    assert legacy.iloc[0][["left", "top", "right", "bottom"]].tolist() == [3, 3, 20, 20]


def test_the_new_layout_has_its_quirks(written):
    root = written / "affectnet-2021"
    data = load(root, "test")
    reasons = "image without a readable", "kept without", "listed but not"
    assert [count(data.notes, why) for why in reasons] == [1, 2, 1]
    assert set(data.frame["id"]) <= set(load(root, "train").frame["id"]) | set(load(root, "val").frame["id"])
    kinds = {np.load(path).dtype.kind for path in (root / "train_set/annotations").glob("*_exp.npy")}
    assert kinds == {"U", "i"}
    assert np.load(root / "train_set/annotations/0_lnd.npy").shape == (136,)


def test_layouts_are_written_alike_every_time(written):
    for name in WRITERS:
        files = [path for path in sorted((written / "twice" / name).rglob("*")) if path.is_file()]
        assert len(files) > 100
        for path in files:
            assert path.read_bytes() == (written / name / path.relative_to(written / "twice" / name)).read_bytes()


def test_official_counts():
    """The spec's: 287,651 training images, of which 250 of every class are held out."""
    assert {name: sum(counts) for name, counts in affectnet.official().items()} == {"train+val": 287_652, "test": 4000}


def test_splits_that_are_read_together_are_those_read_alone(tmp_path):
    rows = [row(f"{k % 3}/{k}.jpg", k % 8) for k in range(240)]
    write_list(tmp_path, [*rows, row("1/lost.jpg", 1)], name="training.csv", missing=["1/lost.jpg"])
    write_list(tmp_path, ROWS)
    splits = ("train", "val", "test")
    together = datasets.load_splits("affectnet", tmp_path, splits)
    assert [len(data.frame) for data in together] == [216, 24, 8]
    for split, data in zip(splits, together, strict=True):
        alone = load(tmp_path, split)
        pd.testing.assert_frame_equal(data.frame, alone.frame)
        assert {**data.notes, "cache": ""} == {**alone.notes, "cache": ""}
