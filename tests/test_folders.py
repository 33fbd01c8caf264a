"""Data sets of class folders: names of splits and classes, numbered folders, ids, what is left out, the layout."""
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import datasets
from datasets import folders, load_split
from datasets.drawn.faces import CLASSES, Face
from datasets.drawn.folders import write_layout
from datasets.images import read_image
from datasets.split import SAFE_ID, SPLITS
from support.errors import UserError

ODD = "日本 é;,'\"$.jpg"


def write(root, files):
    """Empty files below the root; returns the root."""
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def load(root, split="train", **options):
    return load_split("folders", root, split, **options)


def small(train=("happy", "sad"), test=("happy", "sad"), number=10, above=""):
    """File names of `number` training and one test picture of each class."""
    names = [f"{above}train/{name}/{i:02d}.jpg" for name in train for i in range(number)]
    return names + [f"{above}test/{name}/x.png" for name in test]


def noted(data, reason):
    return next((count for key, count in data.notes.items() if key.startswith(reason)), 0)


def test_known_answer(tmp_path):
    root = write(tmp_path, small(("Surprised", "happiness", "01_Neutral"), ("happy", "neutral", "SURPRISE")))
    train, val, test = (load(root, split) for split in SPLITS)
    assert train.classes == val.classes == test.classes == ("Neutral", "Happy", "Surprise")
    assert np.bincount(train.frame["expression"]).tolist() == [9, 9, 9]
    assert np.bincount(val.frame["expression"]).tolist() == [1, 1, 1]
    assert test.frame["id"].tolist() == ["SURPRISE_x", "happy_x", "neutral_x"]
    assert test.frame["path"].tolist() == ["test/SURPRISE/x.png", "test/happy/x.png", "test/neutral/x.png"]
    assert test.frame["expression"].tolist() == [2, 1, 0] and test.distribution is None
    assert not set(train.frame["id"]) & set(val.frame["id"])
    assert train.notes == {"layout": "a folder per class in train; val is held out of it"}
    assert test.notes == {"layout": "a folder per class in test"}


@pytest.mark.parametrize("train, val, test", [
    ("train", "val", "test"), ("Training", "VALID", "Testing"), ("TRAIN", "Validation", "test")])
@pytest.mark.parametrize("above", ["", "archive/"])
def test_names_of_splits(tmp_path, train, val, test, above):
    root = write(tmp_path, [f"{above}{split}/{name}/{i}.JPG" for split in (train, val, test)
                            for name in ("happy", "sad") for i in range(12)] + ["__MACOSX/train/x", "README.txt"])
    for split in SPLITS:  # with a folder val, nothing is held out of train
        assert len(load(root, split).frame) == 24


def test_numbered_folders_need_names(tmp_path):
    root = write(tmp_path / "one", small("123", "123"))
    with pytest.raises(UserError, match="folders are numbers, 1 to 3.*for example .RAF-DB's order.: --data classes="):
        load(root)
    data = load(root, "test", classes="Surprise,Fear,Neutral")
    assert data.classes == ("Neutral", "Surprise", "Fear") and data.frame["expression"].tolist() == [1, 2, 0]
    zero = write(tmp_path / "zero", small("012", "012"))
    assert load(zero, "test", classes="Surprise,Fear,Neutral").frame["expression"].tolist() == [1, 2, 0]
    for names, message in (("Surprise,Fear", "names 2 classes, and the folders are 1, 2, 3"),
                           ("Surprise,Fear,Sad,Happy", "names 4 classes"), ("Sad,Sadness,Fear", "a name of its own"),
                           ("Sad,,Fear", "a name of its own")):
        with pytest.raises(UserError, match=message):
            load(root, classes=names)
    with pytest.raises(UserError, match="some class folders are numbers .1, 2, 3. and some are words .happy"):
        load(write(root, ["train/happy/x.jpg"]), classes="Surprise,Fear,Sad")
    with pytest.raises(UserError, match="have names already: happy, sad. Leave it out"):
        load(write(tmp_path / "words", small()), classes="Happy,Sad")


def test_a_missing_number_is_no_guess(tmp_path):
    root = write(tmp_path, small("124", "124"))
    with pytest.raises(UserError, match="without a gap"):
        load(root, classes="Surprise,Fear,Sad")


def test_without_a_test_folder_val_can_serve(tmp_path):
    root = write(tmp_path, [f"{split}/{name}/{i}.jpg" for split in ("train", "val") for name in ("sad", "fear")
                            for i in range(10)])
    with pytest.raises(UserError, match="no folder test .*found: train, val. --data test=val scores on the validation"):
        load(root, "test")
    assert [len(load(root, split, test="val").frame) for split in SPLITS] == [18, 2, 20]
    assert load(root, "test", test="val").frame["path"].iloc[0] == "val/fear/0.jpg"
    assert load(root, "val", test="val").frame["path"].iloc[0].startswith("train/")
    write(root, ["test/sad/x.jpg"])
    assert load(root, "test", test="val").notes["layout"].endswith("the folder test is not used (test=val)")
    with pytest.raises(UserError, match="the only choice is test=val"):
        load(root, test="train")
    shutil.rmtree(root / "val")
    with pytest.raises(UserError, match="test=val, but there is no folder val"):
        load(root, test="val")
    shutil.rmtree(root / "test")
    with pytest.raises(UserError, match="move a part of each class of train to test/<class>/"):
        load(root, "test")


def test_classes_that_differ_between_splits(tmp_path):
    root = write(tmp_path, small(("happy", "sad", "fear"), ("happy", "sad")))
    (root / "train/anger").mkdir()
    assert load(root).classes == ("Happy", "Sad", "Fear")
    assert noted(load(root), "class folder without a picture, no class (for example anger)") == 1
    assert load(root, "test").notes["classes without an image"] == "Fear"
    write(root, ["test/Angry/x.jpg"])
    with pytest.raises(UserError, match="test has a class without a training image: Angry .train has Happy, Sad, Fear"):
        load(root, "test")


def test_unknown_classes_follow_in_alphabetical_order_and_are_said(tmp_path):
    data = load(write(tmp_path, small(("sleepy", "Bored", "sad", "happy"))))
    assert data.classes == ("Happy", "Sad", "Bored", "sleepy")
    assert noted(data, "class that is none of the eight expressions, after them in alphabetical order (") == 2


def test_two_folders_of_one_expression_are_taken_together(tmp_path):
    data = load(write(tmp_path, small(("happy", "Happiness", "sad"))))
    assert data.classes == ("Happy", "Sad") and len(data.frame) == 27
    assert noted(data, "class in several folders, taken together (for example Happiness, happy)") == 1


@pytest.mark.parametrize("suffix", folders.SUFFIXES)
def test_every_suffix_in_any_letter_case(tmp_path, suffix):
    root = write(tmp_path, [f"train/{name}/{i}{suffix.upper()}" for name in ("sad", "fear") for i in range(3)])
    assert len(load(root).frame) == 6


def test_ids_are_safe_and_unique_whatever_the_names(tmp_path):
    names = ["a.jpg", "a.png", "A.jpg", "-x.jpg", "x y.jpg", ODD, "b/c.jpg", "b_c.jpg", "l" * 200 + ".jpg", "n\nl.jpg",
             "a\u3000b.jpg"]
    root = write(tmp_path, small() + [f"test/happy/{name}" for name in names])
    frame = load(root, "test").frame
    assert len(frame) == len(names) + 2 and frame["id"].str.lower().is_unique
    assert all(SAFE_ID.fullmatch(i) and len(i) < 200 for i in frame["id"])
    assert frame["id"].iloc[-1] == "sad_x"
    by_path = dict(zip(frame["path"], frame["id"], strict=True))
    assert by_path["test/happy/a.jpg"].startswith("_happy_a-")
    for path in frame["path"]:
        assert (root / path).is_file()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text(st.characters(blacklist_categories=["Cs"]), min_size=1, max_size=12), unique=True, min_size=1))
def test_ids_of_any_names(names):
    ids = folders._ids(names)
    assert all(SAFE_ID.fullmatch(i) for i in ids) and len(set(ids)) == len(names)


def test_what_is_no_picture_is_ignored_or_counted(tmp_path):
    root = write(tmp_path, small() + ["train/happy/Thumbs.db", "train/happy/.hidden.jpg", "train/happy/._x.jpg",
                                      "train/.ipynb_checkpoints/x.jpg", "train/loose.jpg", "train/happy/deep/er/x.jpg",
                                      "train/happy/00.png", "elsewhere/x.jpg"])
    with open(os.fsencode(root / "train/sad") + b"/\xff.jpg", "w"):
        pass
    os.mkfifo(root / "train/sad/pipe.jpg")
    outside = write(tmp_path / "outside", ["real.jpg", "linked/y.jpg"])
    (root / "train/sad/link.jpg").symlink_to(outside / "real.jpg")
    (root / "train/sad/gone.jpg").symlink_to(outside / "gone.jpg")
    (root / "train/sad/linked").symlink_to(outside / "linked")
    (root / "train/fear").symlink_to(outside / "linked")  # a class folder elsewhere is the user's business
    data, val = load(root), load(root, "val")
    assert data.classes == ("Happy", "Sad", "Fear")
    paths = {*data.frame["path"], *val.frame["path"]}
    assert len(paths) == 12 + 11 + 1
    assert {"train/happy/deep/er/x.jpg", "train/sad/link.jpg", "train/fear/y.jpg"} <= paths
    assert {key: value for key, value in data.notes.items() if key != "layout"} == {
        "file that is no picture (for example happy/Thumbs.db)": 3,
        "file name that is not text (for example sad/\\udcff.jpg)": 1,
        "linked folder inside a class folder, not followed (for example sad/linked)": 1,
        "picture outside the class folders (for example loose.jpg)": 1,
        "picture whose name is there with another suffix too, both taken (for example happy/00.jpg)": 2}


@pytest.mark.parametrize("files, message", [
    ([], "no folder train .*found: nothing"),
    (["happy/x.jpg", "sad/x.jpg"], "found: happy, sad.*a single set of class folders has to be divided"),
    (["test/happy/x.jpg"], "no folder train"),
    (["train/happy/x.jpg"], "one class only in train .Happy.; .* like train/happy/x.jpg"),
    (["train/images/x.jpg", "train/labels/x.txt"], "one class only in train .images"),
    (["train/happy/x.txt", "train/sad/x.txt"], "no picture in the class folders of train .happy, sad.; looked"),
    (["train/happy/x.jpg", "train/s\udcffad/x.jpg"], "the class folder s.udcffad is no UTF-8 text"),
    (["train/x.jpg"], "no picture in the class folders of train .none"),
    (["train/happy/x.jpg", "Train/happy/x.jpg"], "both Train and train could be the train split"),
    (["train/sad/x.jpg", "train/fear/x.jpg", "val/sad/1.jpg", "valid/sad/1.jpg"], "both val and valid"),
    (["a/train/sad/x.jpg", "b/train/sad/x.jpg"], "several folders hold a data set: a, b. .* --root .*/a"),
])
def test_errors_say_what_to_do(tmp_path, files, message):
    write(tmp_path, files)
    with pytest.raises(UserError, match=message):
        load(tmp_path)


def test_no_folder_and_a_file_in_its_place(tmp_path):
    for root in (tmp_path / "none", write(tmp_path, ["file"]) / "file"):
        with pytest.raises(UserError, match="no such folder; --root should be"):
            load(root)


def test_a_class_too_small_for_validation(tmp_path):
    root = write(tmp_path, small() + ["train/fear/x.jpg"])
    assert np.bincount(load(root).frame["expression"]).tolist() == [9, 9, 1]
    assert load(root, "val").notes["classes without an image"] == "Fear"


def stand_ins(split, count):
    for i in range(count):
        yield Face(np.full((20, 20, 3), 40 + i % 200, np.uint8), CLASSES[i % 8], 0.3, -0.4, "nobody")


def test_the_layout_reads_back(tmp_path):
    for name in "ab":
        write_layout(tmp_path / name, stand_ins)
    files = [path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file()]
    assert all((tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes() for file in files)
    sizes = {split: load(tmp_path / "a", split) for split in SPLITS}
    assert {split: len(data.frame) for split, data in sizes.items()} == {"train": 217, "val": 24, "test": 81}
    assert all(data.classes == folders.ORDER for data in sizes.values())
    assert noted(sizes["test"], "file that is no picture") == 1
    for path in sizes["test"].frame["path"]:
        read_image(tmp_path / "a" / path, 16)


def test_the_tables_know_the_set(monkeypatch):
    monkeypatch.delenv("FERC_DATA", raising=False)
    assert datasets.default_set("folders") == Path("data/Folders-C")
    assert datasets.RECIPES["folders"]["epochs"] == 20 and "class_weights" not in datasets.RECIPES["folders"]
