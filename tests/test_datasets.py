"""Loading: the checks every set passes, FER+ in its layouts, pictures of all kinds, label noise."""
import io
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import datasets
from datasets import listing, load_split, parse_options
from datasets.ferplus import CLASSES
from datasets.images import inside, read_image
from datasets.label_noise import add_noise
from datasets.split import COLUMNS, make_frame, hold_out, count_note, count_note_for_names, note_missing_files
from datasets.text_files import read_table, read_text
from support.errors import UserError
from support.random_streams import keyed_rng
from training.options import LossOptions, MachineOptions, TrainingOptions

REAL = datasets.default_root("ferplus")


# ---- the door

def test_keyed_rng_depends_on_every_part_of_the_key():
    first = keyed_rng(0, "a", "snow", 1).random(4)
    np.testing.assert_array_equal(first, keyed_rng(0, "a", "snow", 1).random(4))
    others = (1, "a", "snow", 1), (0, "b", "snow", 1), (0, "a", "rain", 1), (0, "a", "snow", 2), (0, "as", "now", 1)
    for other in others:
        assert not np.array_equal(first, keyed_rng(*other).random(4))


def test_unknown_names_list_the_known(demo_root):
    for arguments, message in ((("fer", demo_root, "test"), "known: affectnet, affwild, rafdb, ferplus, demo"),
                               (("demo", demo_root, "dev"), "known: train, val, test")):
        with pytest.raises(UserError, match=message):
            load_split(*arguments)
    with pytest.raises(UserError, match="no option colour; its options: train"):
        load_split("demo", demo_root, "test", colour="blue")
    assert parse_options(("a=1", "b=x=y")) == {"a": "1", "b": "x=y"}
    with pytest.raises(UserError, match="key=value"):
        parse_options(("a",))


def test_hold_out_takes_a_tenth_of_every_class_at_most_250():
    labels = np.repeat(range(4), (3000, 100, 9, 40))
    held = hold_out(labels, 4)
    assert np.bincount(labels[held], minlength=4).tolist() == [250, 10, 0, 4]
    np.testing.assert_array_equal(held, hold_out(labels, 4))


def test_notes_count_and_carry_an_example():
    notes = {}
    for reason, example, number in (("row", "a", 2), ("row of b", "c", 1), ("row", "d", 1), ("name", "\udcff", 1)):
        count_note(notes, reason, example, number)
    count_note_for_names(notes, "box", np.array(["x", "y"], object))
    count_note_for_names(notes, "nothing", [])
    assert notes == {"row (for example a)": 3, "row of b (for example c)": 1, "name (for example \\udcff)": 1,
                     "box (for example x)": 2}


@pytest.mark.parametrize("count, text", [(0, None), (2, "n0, n1"), (10, ", ".join(f"n{i}" for i in range(10))),
                                         (11, "for example n0")])
def test_up_to_ten_missing_files_are_all_named(count, text):
    notes = {}
    note_missing_files(notes, [f"n{i}" for i in range(count)])
    assert notes == ({f"listed but not on disk ({text})": count} if count else {})


def test_files_are_looked_for_below_the_root(tmp_path, monkeypatch):
    def is_on_disk(path):
        folder, _, name = path.rpartition("/")
        return name in listing.files_in(tmp_path / "root", folder)

    for name in ("a/x.jpg", "a/b/y.jpg", "z.jpg"):
        (tmp_path / "root" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / name).touch()
    (tmp_path / "secret.jpg").touch()
    paths = ["a/x.jpg", "a/b", "a/b/y.jpg", "z.jpg", "a/x.JPG", "no/x.jpg", "a/x.jpg/x", "a/\0/x", "a/b/../x.jpg", ""]
    present = [is_on_disk(path) for path in paths]
    assert present == [True, False, True, True, False, False, False, False, True, False]
    with pytest.raises(UserError, match="leads out of the data folder"):
        is_on_disk("../secret.jpg")

    def refuse(folder):
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(listing.os, "scandir", refuse)
    with pytest.raises(UserError, match="root/a: Permission denied"):
        is_on_disk(paths[0])


def test_frames_hold_every_name_of_a_file():
    """Also where pyarrow is installed, whose texts cannot hold the name of a file that is no UTF-8."""
    paths = np.array(["a.png", "b\udcff.png"], object)
    frame = make_frame(id=pd.Series(["a", "b"], index=[5, 6]), path=paths, expression=np.array([0, 1]))
    assert frame["path"].tolist() == paths.tolist() and frame.index.tolist() == [5, 6]
    assert frame["path"].dtype.storage == frame["id"].dtype.storage == "python"
    assert frame["expression"].dtype == np.int64


def test_frames_have_every_column():
    frame = make_frame(id=["a"], path=["a.jpg"], expression=np.array([2]))
    assert tuple(frame.columns) == COLUMNS and frame["identity"].tolist() == [""]
    assert frame[["left", "top", "right", "bottom", "valence", "arousal"]].isna().all(axis=None)
    assert frame[["left", "arousal"]].dtypes.tolist() == [np.float64] * 2


def test_a_class_without_a_training_image_is_an_error(tmp_path):
    with pytest.raises(UserError, match="ferplus train: no usable image of Sadness, Anger, Disgust, Fear, Contempt"):
        load_split("ferplus", write_ferplus(tmp_path), "train")


def test_recipes_name_settings_and_sets():
    pass

    groups = (TrainingOptions, LossOptions, MachineOptions)
    fields = {"released"} | {name for group in groups for name in group.__annotations__}
    assert set(datasets.RECIPES) == set(datasets.DATASETS) == set(datasets.TITLES)
    assert all(set(recipe) <= fields for recipe in datasets.RECIPES.values())


def test_default_folders_follow_the_environment(monkeypatch):
    monkeypatch.delenv("FERC_DATA", raising=False)
    assert datasets.default_root("ferplus") == Path("data/ferplus")
    assert datasets.default_set("ferplus") == Path("data/FERPlus-C")
    monkeypatch.setenv("FERC_DATA", "elsewhere")
    assert datasets.default_set("demo") == Path("elsewhere/Demo-C")


# ---- FER+

# neutral, happiness, surprise, sadness, anger, disgust, fear, contempt, unknown, not a face
VOTES = {
    "fer0000000.png": "4,0,0,4,1,0,0,0,1,0",  # neutral and sadness level; single votes drop out
    "fer0000001.png": "0,10,0,0,0,0,0,0,0,0",
    "fer0000002.png": "2,1,1,0,1,0,1,0,4,0",  # 2 of 10 votes left: dropped
    "fer0000003.png": "0,0,6,0,0,0,3,0,0,0",  # nine votes
    "fer0000004.png": "0,0,0,0,0,0,0,0,0,10",
}


BALLOT_HEADER = "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"


def write_ferplus(root, label_csv=True, new_csv=True, votes=None):
    """The three folders, each with the same five images and votes."""
    votes = votes or VOTES
    rows = [BALLOT_HEADER]
    for folder, usage in (("FER2013Train", "Training"), ("FER2013Valid", "PublicTest"), ("FER2013Test", "PrivateTest")):
        (root / folder).mkdir(parents=True)
        for number, name in enumerate(votes):
            Image.fromarray(np.full((48, 48), 40 * number, np.uint8)).save(root / folder / name)
        if label_csv:
            lines = [f'{name},"(0, 0, 48, 48)",{counts}\n' for name, counts in votes.items()]
            (root / folder / "label.csv").write_text("".join(lines))
        rows += [f"{usage},{name},{counts}" for name, counts in votes.items()]
    if new_csv:
        (root / "fer2013new.csv").write_text("\n".join(rows) + "\n")
    return root


def test_ferplus_distribution(tmp_path):
    data = load_split("ferplus", write_ferplus(tmp_path), "test")
    assert data.classes == CLASSES
    assert data.frame["id"].tolist() == ["fer0000000", "fer0000001", "fer0000003"]
    np.testing.assert_allclose(data.distribution[0], [0.5, 0, 0, 0.5, 0, 0, 0, 0])
    np.testing.assert_allclose(data.distribution[2], [0, 0, 2 / 3, 0, 0, 0, 1 / 3, 0])
    assert data.frame["expression"].tolist() == [0, 1, 2]
    assert data.frame["path"].iloc[0] == "FER2013Test/fer0000000.png"
    assert data.frame["valence"].isna().all()
    assert data.notes == {"layout": "FER+ folders of PNG files, votes from FER2013Test/label.csv",
                          "fewer than half of the votes left (for example fer0000002.png)": 2,
                          "level most votes, the first class taken as the hard label (for example fer0000000.png)": 1,
                          "classes without an image": "Sadness, Anger, Disgust, Fear, Contempt"}


def test_ferplus_majority(tmp_path):
    data = load_split("ferplus", write_ferplus(tmp_path), "test", labels="majority")
    assert data.frame["id"].tolist() == ["fer0000001", "fer0000003"]
    np.testing.assert_array_equal(data.distribution, np.eye(8)[[1, 2]])


def test_ferplus_without_label_csv_takes_fer2013new(tmp_path):
    data = load_split("ferplus", write_ferplus(tmp_path, label_csv=False), "val")
    assert len(data.frame) == 3 and "fer2013new.csv" in data.notes["layout"]


def test_ferplus_label_csv_wins(tmp_path):
    root = write_ferplus(tmp_path)
    (root / "fer2013new.csv").write_text("Usage,Image name\n")
    assert len(load_split("ferplus", root, "test").frame) == 3


def test_ferplus_names_what_it_leaves_out(tmp_path):
    root = write_ferplus(tmp_path)
    (root / "FER2013Test/fer0000001.png").unlink()
    with open(root / "FER2013Test/label.csv", "a") as file:
        file.write('fer0000009.png,"(0, 0, 48, 48)",a,b\n,"(0, 0, 48, 48)",10,0,0,0,0,0,0,0,0,0\n')
    notes = load_split("ferplus", root, "test").notes
    assert notes["listed but not on disk (fer0000001.png)"] == 1
    assert notes['malformed row (for example fer0000009.png,(0, 0, 48, 48),a,b)'] == 1
    assert sum(count for reason, count in notes.items() if reason.startswith("row without an image name")) == 1


def test_ferplus_from_kaggles_csv(tmp_path):
    """Rows are joined by index: the second vote row has an empty name, the third a name that has drifted."""
    usages = ("Training", "PublicTest", "PrivateTest")
    images = ["emotion,pixels,Usage"] + [f'0,{" ".join([str(9 * i)] * 2304)},{usage}' for i, usage in enumerate(usages)]
    votes = [BALLOT_HEADER]
    votes += [f"{usage},{name},0,{10 - i},{i},0,0,0,0,0,0,0"
              for i, (usage, name) in enumerate(zip(usages, ("fer0000000.png", "", "fer0000009.png"), strict=True))]
    (tmp_path / "fer2013.csv").write_text("\n".join(images) + "\n")
    with pytest.raises(UserError, match="put FER\\+'s fer2013new.csv beside it"):
        load_split("ferplus", tmp_path, "test")
    (tmp_path / "fer2013new.csv").write_text("\n".join(votes) + "\n")
    data = load_split("ferplus", tmp_path, "test")
    assert data.frame["id"].tolist() == ["fer0000002"]
    np.testing.assert_allclose(data.distribution[0, 1:3], [0.8, 0.2])
    assert (read_image(tmp_path / data.frame["path"].iloc[0], 48) == 18).all()
    assert len(load_split("ferplus", tmp_path, "val").frame) == 1  # from the folders written the first time
    shutil.rmtree(tmp_path / "FER2013Test")  # killed while unpacking: the rest is made up for
    assert len(load_split("ferplus", tmp_path, "test").frame) == 1
    shutil.rmtree(tmp_path / "FER2013Test")
    (tmp_path / "fer2013.csv").write_text("\n".join(images).replace("18 18", "18 300") + "\n")
    with pytest.raises(UserError, match="row 4: pixels that are no grey levels"):
        load_split("ferplus", tmp_path, "test")


USAGES = ("Training", "PublicTest", "PrivateTest")


def write_kaggle(root, header="emotion,pixels,Usage", usages=USAGES, voted=USAGES,
                 columns=("emotion", "pixels", "Usage"), ballot_header=BALLOT_HEADER):
    """fer2013.csv and fer2013new.csv of a picture a row, picture i grey level 9 i, its votes 10 - i happy and i
    surprised."""
    images = [header]
    for i, usage in enumerate(usages):
        cells = {"emotion": "0", "pixels": " ".join([str(9 * i)] * 2304), "Usage": usage}
        images.append(",".join(cells[column] for column in columns))
    ballots = [ballot_header]
    for i, usage in enumerate(voted):
        ballots.append(f"{usage},fer{i:07d}.png,0,{10 - i},{i},0,0,0,0,0,0,0")
    root.mkdir(exist_ok=True)
    (root / "fer2013.csv").write_text("\n".join(images) + "\n")
    (root / "fer2013new.csv").write_text("\n".join(ballots) + "\n")
    return root


@pytest.mark.parametrize("header, columns", [
    ("emotion, Usage, pixels", ("emotion", "Usage", "pixels")),  # the competition's icml_face_data.csv
    ("Usage,EMOTION,Pixels", ("Usage", "emotion", "pixels")),
    ("\ufeffpixels,usage", ("pixels", "Usage")),
])
def test_ferplus_reads_kaggles_columns_by_name(tmp_path, header, columns):
    data = load_split("ferplus", write_kaggle(tmp_path, header, columns=columns), "test")
    assert (read_image(tmp_path / data.frame["path"].iloc[0], 48) == 18).all()
    np.testing.assert_allclose(data.distribution[0, 1:3], [0.8, 0.2])


def test_ferplus_reads_the_votes_by_name(tmp_path):
    header = "Usage,Image name,neutral,Surprise,happy,sadness,anger,disgust,fear,contempt,unknown,NF"
    data = load_split("ferplus", write_kaggle(tmp_path, ballot_header=header), "test")
    np.testing.assert_allclose(data.distribution[0, 1:3], [0.2, 0.8])
    with pytest.raises(UserError, match="new.csv: no column anger; the columns found: Usage, Image name, neutral"):
        load_split("ferplus", write_kaggle(tmp_path / "b", ballot_header=BALLOT_HEADER.replace("anger", "rage")), "val")


def test_the_wrong_file_of_kaggle_leaves_nothing_and_the_right_one_works_afterwards(tmp_path):
    root = write_kaggle(tmp_path, "emotion, pixels", columns=("emotion", "pixels"))
    before = sorted(path.name for path in root.iterdir())
    with pytest.raises(UserError, match="fer2013.csv: no column usage; the columns found: emotion, pixels. The right"):
        load_split("ferplus", root, "test")
    assert sorted(path.name for path in root.iterdir() if not path.name.endswith(".lock")) == before
    assert len(load_split("ferplus", write_kaggle(root), "test").frame) == 1


def test_a_wrong_row_late_in_the_file_leaves_nothing(tmp_path):
    root = write_kaggle(tmp_path)
    text = (root / "fer2013.csv").read_text()
    (root / "fer2013.csv").write_text(text.replace("18 18", "x 18"))
    with pytest.raises(UserError, match="row 4: pixels that are no grey levels"):
        load_split("ferplus", root, "train")
    assert not list(root.glob("*FER2013*"))


def test_folders_that_an_earlier_version_left_empty_are_unpacked_again(tmp_path):
    root = write_kaggle(tmp_path)
    for name in ("FER2013Train", "FER2013Valid", "FER2013Test"):
        (root / name).mkdir()
        (root / name / "label.csv").touch()
    assert [len(load_split("ferplus", root, split).frame) for split in ("test", "val")] == [1, 1]
    shutil.rmtree(root / "FER2013Test")
    (root / "FER2013Test").mkdir()
    (root / "FER2013Test/label.csv").touch()
    (root / "FER2013Test/notes.txt").write_text("the user's")  # a file of somebody else: nothing is deleted
    with pytest.raises(UserError, match="no usable image"):
        load_split("ferplus", root, "test")
    (root / "FER2013Test/notes.txt").unlink()
    (root / "fer2013.csv").unlink()
    with pytest.raises(UserError, match="label.csv is empty .*Put fer2013.csv and fer2013new.csv into"):
        load_split("ferplus", root, "test")


def test_pictures_and_votes_in_different_orders_are_refused(tmp_path):
    root = write_kaggle(tmp_path, usages=("Training", "PrivateTest", "PublicTest"))
    with pytest.raises(UserError, match="row 2 is PrivateTest in fer2013.csv and PublicTest in fer2013new.csv"):
        load_split("ferplus", root, "test")
    assert not list(root.glob("*FER2013*"))


def test_rows_without_a_known_usage_are_counted_every_time(tmp_path):
    root = write_kaggle(tmp_path, usages=(*USAGES, "Trainning", "", "training"), voted=(*USAGES, *["Training"] * 3))
    reason = ("row whose Usage is none of Training, PublicTest, PrivateTest, left out (for example Trainning in row 4 "
              "of fer2013.csv)")
    assert [load_split("ferplus", root, split).notes[reason] for split in ("test", "val", "test")] == [2, 2, 2]
    names = [path.name for path in (root / "FER2013Train").glob("*.png")]
    assert sorted(names) == ["fer0000000.png", "fer0000005.png"]  # in small letters is as good
    (root / "FER2013Test/label.csv").unlink()  # the votes alone
    text = (root / "fer2013new.csv").read_text() + "Privat,fer0000009.png,0,10,0,0,0,0,0,0,0,0\n"
    (root / "fer2013new.csv").write_text(text)
    notes = load_split("ferplus", root, "test").notes
    assert sum(count for note, count in notes.items() if "Privat of fer0000009.png" in note) == 1


def test_a_split_without_rows_is_said_and_leaves_no_empty_folder(tmp_path):
    root = write_kaggle(tmp_path, usages=["Training"] * 2, voted=["Training"] * 2)
    with pytest.raises(UserError, match="no row whose Usage is PrivateTest .it has 2 Training, 0 PublicTest, 0 Priv"):
        load_split("ferplus", root, "test")
    with pytest.raises(UserError, match="ferplus train: no usable image of Neutral"):
        load_split("ferplus", root, "train")
    assert [path.name for path in root.glob("*FER2013*")] == ["FER2013Train"]


def test_votes_beyond_reason_are_malformed(tmp_path):
    root = write_ferplus(tmp_path)
    for name, count in (("fer0000001.png", "1e308"), ("fer0000003.png", "inf"), ("fer0000000.png", "nan")):
        with open(root / "FER2013Test/label.csv", "a") as file:
            file.write(f'{name},"(0, 0, 48, 48)",{count},{count},0,0,0,0,0,0,0,0\n')
    notes = load_split("ferplus", root, "test").notes
    assert sum(count for note, count in notes.items() if note.startswith("malformed row")) == 3


def test_a_stray_quotation_mark_does_not_hide_the_lines_that_it_swallows(tmp_path):
    root = write_ferplus(tmp_path)
    text = (root / "FER2013Test/label.csv").read_text()
    (root / "FER2013Test/label.csv").write_text(text.replace('1.png,"(0, 0, 48, 48)"', '1.png,"(0, 0, 48, 48)', 1))
    notes = load_split("ferplus", root, "test").notes
    assert sum(count for note, count in notes.items() if note.startswith("malformed row")) == 2


def test_ferplus_pictures_saved_again_in_another_format(tmp_path):
    root = write_ferplus(tmp_path)
    (root / "FER2013Test/fer0000000.png").rename(root / "FER2013Test/fer0000000.JPG")
    shutil.copy(root / "FER2013Test/fer0000001.png", root / "FER2013Test/fer0000001.bmp")
    data = load_split("ferplus", root, "test")
    assert data.frame["path"].tolist() == [
        "FER2013Test/fer0000000.JPG", "FER2013Test/fer0000001.png", "FER2013Test/fer0000003.png"]
    assert data.notes["picture found under another suffix than listed (for example fer0000000.JPG for "
                      "fer0000000.png)"] == 1
    assert data.notes["picture in several formats, one taken (for example fer0000001.png, not fer0000001.bmp)"] == 1


def test_names_on_disk_are_shown_beside_the_names_looked_for(tmp_path):
    root = write_ferplus(tmp_path)
    for path in (root / "FER2013Test").glob("*.png"):
        path.rename(path.with_name("x" + path.name))
    with pytest.raises(UserError, match="looked for fer0000000.png in FER2013Test, which holds: label.csv, xfer0000"):
        load_split("ferplus", root, "test")


def test_label_files_of_unknown_make(tmp_path):
    path = tmp_path / "a.txt"
    for data, text in ((b"\xef\xbb\xbfa\xe9\0b", "a\ufffdb"), ("\ufeffä".encode("utf-16-le"), "ä"), (b"", "")):
        path.write_bytes(data)
        assert read_text(path) == text
    path.write_bytes(b'a, b\r\n\r\nc,"d\re"\r')
    assert read_table(path) == [(1, ["a", "b"]), (3, ["c", "d\ne"])]
    path.write_text("a\n" + "x" * 200_000)
    with pytest.raises(UserError, match="a.txt line 2: not a CSV file .field larger than field limit"):
        read_table(path)
    path.unlink()
    with pytest.raises(UserError, match="no such file"):
        read_text(path)
    os.mkfifo(path)  # nobody writes: opening it would wait for ever
    for other in (path, tmp_path):
        with pytest.raises(UserError, match="is no regular file"):
            read_text(other)


@pytest.mark.parametrize("prepare, message", [
    (lambda root: None, "found: no such folder"),
    (lambda root: (root / "images").mkdir(parents=True), "found: images"),
    (lambda root: (root / "FER2013Test").mkdir(parents=True), "the votes are missing"),
    (lambda root: write_ferplus(root, votes={"x.png": "0,0,0,0,0,0,0,0,0,10"}), "no usable image"),
    (lambda root: write_ferplus(root, votes={"-x.png": "9" + ",0" * 9}), "cannot be file names"),
    (lambda root: write_ferplus(root, votes={"x.png": "9" + ",0" * 9, "x.jpg": "9" + ",0" * 9}), "ids appear twice"),
])
def test_ferplus_errors_say_what_to_do(tmp_path, prepare, message):
    prepare(tmp_path / "root")
    with pytest.raises(UserError, match=message):
        load_split("ferplus", tmp_path / "root", "test")


def test_a_label_file_cannot_leave_the_root(tmp_path):
    Image.new("L", (48, 48)).save(tmp_path / "secret.png")
    root = write_ferplus(tmp_path / "root")
    (root / "FER2013Test/label.csv").write_text('../../secret.png,"(0, 0, 48, 48)",10,0,0,0,0,0,0,0,0,0\n')
    with pytest.raises(UserError, match="leads out of the data folder"):
        load_split("ferplus", root, "test")


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=400))
def test_ferplus_never_breaks_on_any_bytes(tmp_path_factory, data):
    root = tmp_path_factory.mktemp("fuzz")
    (root / "FER2013Test").mkdir()
    (root / "FER2013Test/label.csv").write_bytes(data)
    try:
        with pytest.raises(UserError):
            load_split("ferplus", root, "test")
    finally:
        shutil.rmtree(root)


@pytest.mark.skipif(not (REAL / "FER2013Test/label.csv").exists(), reason="FER+ is not in data/ferplus")
def test_real_ferplus():
    data = load_split("ferplus", REAL, "test")
    assert len(data.frame) > 1000 and (np.bincount(data.frame["expression"], minlength=8) > 0).all()


# ---- damaged label files of every layout

@pytest.mark.slow
@pytest.mark.parametrize("each", [1, 10])
def test_damaged_label_files_give_rows_or_a_user_error(tmp_path, each):
    """A small, fixed part of what `python tests/fuzz_labels.py` tries."""
    import fuzz_labels

    outcomes, faults = fuzz_labels.fuzz(10 * each, 1, tmp_path)
    assert not faults, faults[0]
    assert len(outcomes) == 10 and all(counts.total() == each for counts in outcomes.values())
    if each > 1:
        assert all(fuzz_labels.past_headers(counts) >= 0.25 for counts in outcomes.values()), outcomes


# ---- pictures

def picture(mode):
    colour = np.zeros((40, 60, 3), np.uint8)
    colour[:20] = (200, 100, 50)
    image = Image.fromarray(colour)
    if mode == "I;16":
        return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    return image.convert(mode)


@pytest.mark.parametrize("mode, suffix, top", [
    ("RGB", "png", (200, 100, 50)), ("RGBA", "png", (200, 100, 50)), ("P", "png", (200, 100, 50)),
    ("L", "png", (124,) * 3), ("LA", "png", (124,) * 3), ("I;16", "png", (124,) * 3), ("CMYK", "jpg", (200, 100, 50)),
    ("1", "png", None),
])
def test_every_mode_becomes_rgb(tmp_path, mode, suffix, top):
    picture(mode).save(tmp_path / f"x.{suffix}")
    image = read_image(tmp_path / f"x.{suffix}", 32)
    assert image.shape == (32, 32, 3) and image.dtype == np.uint8
    if top:
        np.testing.assert_allclose(image[4, 16], top, atol=8)
        np.testing.assert_allclose(image[-4, 16], 0, atol=8)


def test_exif_rotation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    picture("RGB").save(tmp_path / "x.jpg", exif=exif)
    image = read_image(tmp_path / "x.jpg", 32)
    assert image[4].max() < 20 < image[-4].max()


def test_box_is_left_top_right_bottom(tmp_path):
    picture("RGB").save(tmp_path / "x.png")
    assert (read_image(tmp_path / "x.png", 16, (10, 0, 30, 20)) == (200, 100, 50)).all()
    assert (read_image(tmp_path / "x.png", 16, (10, 20, 30, 40)) == 0).all()
    whole = read_image(tmp_path / "x.png", 16, (np.nan,) * 4)
    np.testing.assert_array_equal(whole, read_image(tmp_path / "x.png", 16))


def test_resize_is_antialiased(tmp_path):
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    Image.fromarray(stripes).save(tmp_path / "x.png")
    assert abs(read_image(tmp_path / "x.png", 32).astype(int) - 127).max() <= 5  # plain bilinear gives 0 or 255


def test_unreadable_pictures_are_named(tmp_path, monkeypatch):
    data = io.BytesIO()
    picture("RGB").save(data, "png")
    for name, content in (("text.png", b"hello"), ("cut.png", data.getvalue()[:60]), ("empty.png", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=f"{name}: not a readable image"):
            read_image(tmp_path / name, 32)
    with pytest.raises(UserError, match="none.png: no such image"):
        read_image(tmp_path / "none.png", 32)
    picture("RGB").save(tmp_path / "x.png")
    monkeypatch.setattr("datasets.images.MAX_PIXELS", 1000)
    with pytest.raises(UserError, match="megapixels"):
        read_image(tmp_path / "x.png", 32)


def test_inside_is_inside(tmp_path, monkeypatch):
    """By name: a link that the user has put into the folder is the user's business."""
    root = tmp_path / "root"
    for path in ("a/b.png", "link/x", "a/../x"):
        assert inside(root, path).is_relative_to(root)
    monkeypatch.chdir(tmp_path)
    assert inside("root", "x") == Path("root/x") and inside(".", "x") == Path("x")
    for path in ("../x", "/etc/passwd", "a/../../x", "../root2/x"):
        with pytest.raises(UserError, match="leads out"):
            inside(root, path)


# ---- label noise

def test_released_noise_is_the_release():
    """The worked vector of the release: 20 labels, 30 %, six classes."""
    expected = [0, 1, 2, 3, 4, 3, 0, 1, 3, 3, 5, 5, 0, 1, 2, 1, 4, 5, 0, 1]
    assert add_noise(np.arange(20) % 6, 0.3, 6, 0, "released").tolist() == expected


@pytest.mark.parametrize("classes, ratio, rate", [(6, 0.1, 0.07922), (7, 0.2, 0.15617), (8, 0.3, 0.22702)])
def test_released_noise_flips_less_than_it_says(classes, ratio, rate):
    labels = np.arange(200_000) % classes
    assert (add_noise(labels, ratio, classes, 0, "released") != labels).mean() == pytest.approx(rate, abs=0.003)


@given(st.integers(2, 8), st.integers(1, 300), st.floats(0, 1), st.integers(0, 99))
def test_exact_noise_flips_exactly(classes, count, ratio, seed):
    labels = np.arange(count) % classes
    noisy = add_noise(labels, ratio, classes, seed)
    assert (noisy != labels).sum() == round(ratio * count)
    assert 0 <= noisy.min() and noisy.max() < classes
    np.testing.assert_array_equal(noisy, add_noise(labels, ratio, classes, seed))


def test_exact_noise_is_uniform_over_the_other_classes():
    noisy = add_noise(np.zeros(60_000, int), 0.5, 4, 0)
    np.testing.assert_allclose(np.bincount(noisy), [30_000, 10_000, 10_000, 10_000], rtol=0.03)


def test_noise_refuses_nonsense():
    with pytest.raises(ValueError, match="between 0 and 1"):
        add_noise(np.zeros(3), 1.5, 2, 0)
    with pytest.raises(ValueError, match="known: exact, released"):
        add_noise(np.zeros(3), 0.5, 2, 0, "symmetric")
