"""RAF-DB and RAF-ML: layouts, options, label rules, MIVIA's vote filter, errors, and the layouts it writes itself."""
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import datasets
from datasets import rafdb, rafdb_originals
from datasets.drawn import rafdb as drawn_rafdb
from datasets.drawn.layouts import LAYOUTS
from datasets.drawn.faces import CLASS_MEANS, CLASSES as DEMO_CLASSES, Face
from datasets.images import read_image
from datasets.rafdb import CLASSES, SEVEN, class_names, vote_filter
from datasets.split import COLUMNS, SPLITS
from support.errors import UserError
from support.random_streams import keyed_rng

# Label of the list, and seven votes: Surprise, Fear, Disgust, Happiness, Sadness, Anger, Neutral.
BASIC = {
    "train_00001.jpg": (5, ".1,0,0,0,.6,0,.3"),
    "train_00002.jpg": (1, ".9,.05,.05,0,0,0,0"),
    "train_00003.jpg": (2, "0,0,0,0,0,0,1"),  # no vote within the six classes
    "train_00004.jpg": (3, ".6,0,.4,0,0,0,0"),  # the votes say Surprise
    "train_00005.jpg": (4, ".3,.3,0,.4,0,0,0"),  # ambiguous
    "train_00006.jpg": (6, "0,0,.45,0,0,.45,.1"),  # level, and the first is not the list's
    "train_00007.jpg": (7, "0,0,0,0,0,0,1"),
    "test_0001.jpg": (1, ".4,.1,0,0,0,0,.5"),
    "test_0002.jpg": (7, ".1,0,0,0,0,0,.9"),
    "test_0003.jpg": (6, "0,0,0,.2,0,.8,0"),
}
# Six shares, and 1 for test.
ML = {
    "0001.jpg": ("0 0.25 0 0.25 0 0", 0),  # level, and to be renormalised
    "0002.jpg": ("0.1 0.1 0.1 0.1 0.1 0.5", 1),
    "0003.jpg": ("0 0 0 0 0 0", 0),
    "0004.jpg": ("0 0 1 0 0 0", 0),
}
SIX_TRAIN = ["train_00001", "train_00002", "train_00003", "train_00004", "train_00005", "train_00006"]


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (10, 10)).save(path)


def write_basic(root, rows=None, folder="basic", images="Image/aligned/aligned", name="list_patition_label.txt",
                votes="EmoLabel/distribute_basic.csv"):
    """RAF-DB basic by hand; returns the root."""
    rows = BASIC if rows is None else rows
    (root / folder / "EmoLabel").mkdir(parents=True)
    (root / folder / "EmoLabel" / name).write_text("".join(f"{key} {label}\n" for key, (label, _) in rows.items()))
    if votes:
        order = sorted(rows, key=lambda key: (key.startswith("test"), key))
        (root / folder / votes).write_text("".join(f"{rows[key][1]}\n" for key in order))
    for key in rows:
        picture(root / folder / images / key.replace(".jpg", "_aligned.jpg"))
    return root


def write_ml(root, rows=None, folder="RAF-ML", images="Image/aligned"):
    """RAF-ML by hand; returns the root."""
    rows, labels = ML if rows is None else rows, root / folder / "EmoLabel"
    labels.mkdir(parents=True)
    (labels / "distribution.txt").write_text("".join(f"{key} {fractions}\n" for key, (fractions, _) in rows.items()))
    (labels / "partition_label.txt").write_text("".join(f"{key} {test}\n" for key, (_, test) in rows.items()))
    for key in rows:
        picture(root / folder / images / key.replace(".jpg", "_aligned.jpg"))
    return root


def load(root, split="train", **options):
    """Through the checks of `load_split`."""
    return datasets.load_split("rafdb", root, split, **options)


def noted(data, reason):
    """How often a note that begins so was taken; 0 without it."""
    return next((count for key, count in data.notes.items() if key.startswith(reason)), 0)


# ---- known answers

def test_default_is_basic_without_neutral_and_raf_ml(tmp_path):
    data = load(write_ml(write_basic(tmp_path)))
    assert data.classes == CLASSES == ("Surprise", "Fear", "Disgust", "Happiness", "Sadness", "Anger")
    assert tuple(data.frame.columns) == COLUMNS
    assert data.frame["id"].tolist() == [*SIX_TRAIN, "0001", "0004"]
    assert data.frame["expression"].tolist() == [4, 0, 1, 2, 3, 5, 1, 2]
    assert data.frame["path"].iloc[0] == "basic/Image/aligned/aligned/train_00001_aligned.jpg"
    assert data.frame["path"].iloc[-1] == "RAF-ML/Image/aligned/0004_aligned.jpg"
    assert data.distribution.dtype == np.float64
    np.testing.assert_array_equal(data.distribution[:6], np.eye(6)[[4, 0, 1, 2, 3, 5]])
    np.testing.assert_array_equal(data.distribution[6], [0, 0.5, 0, 0.5, 0, 0])
    assert data.frame[["left", "valence", "arousal"]].isna().all(axis=None) and (data.frame["identity"] == "").all()
    assert data.frame[["left", "bottom", "valence"]].dtypes.tolist() == [np.float64] * 3
    assert data.notes == {
        "layout": "RAF-DB basic (list_patition_label.txt, basic/Image/aligned/aligned, one-hot labels) and RAF-ML "
                  "(distribution.txt, RAF-ML/Image/aligned)",
        "Neutral, none of the six classes (for example train_00007)": 1,
        "no share of any class (RAF-ML) (for example 0003)": 1,
        "level largest shares, the first class taken (RAF-ML) (for example 0001)": 1,
    }
    for path in data.frame["path"]:
        read_image(tmp_path / path, 32)
    test = load(tmp_path, "test")
    assert test.frame["id"].tolist() == ["test_0001", "test_0003", "0002"]
    np.testing.assert_allclose(test.distribution[2], [0.1, 0.1, 0.1, 0.1, 0.1, 0.5])
    assert test.notes["classes without an image"] == "Fear, Disgust, Happiness, Sadness"


def test_without_raf_ml_the_default_says_so(tmp_path):
    data = load(write_basic(tmp_path))
    assert data.frame["id"].tolist() == SIX_TRAIN
    assert data.notes["layout"].endswith("; without RAF-ML, which is not below the root: smaller than FER-C's RAF-DB")
    with pytest.raises(UserError, match="needs RAF-ML/EmoLabel/distribution.txt; found: basic.*parts=basic"):
        load(tmp_path, parts="basic,ml")  # asked for, so not silently left out
    (tmp_path / "RAF-ML").mkdir()
    with pytest.raises(UserError, match="needs RAF-ML/EmoLabel/distribution.txt; found: RAF-ML, basic"):
        load(tmp_path)  # half there
    assert "RAF-ML" not in load(tmp_path, parts="basic").notes["layout"]


def test_seven_classes(tmp_path):
    data = load(write_ml(write_basic(tmp_path)), classes="7")
    assert data.classes == SEVEN == (*CLASSES, "Neutral") == class_names("7")
    assert data.frame["id"].tolist() == [*SIX_TRAIN, "train_00007"]
    np.testing.assert_array_equal(data.distribution, np.eye(7)[[4, 0, 1, 2, 3, 5, 6]])
    assert data.notes == {"layout": "RAF-DB basic (list_patition_label.txt, basic/Image/aligned/aligned, one-hot "
                                    "labels)"}


def test_votes_of_six_classes(tmp_path):
    """Without Neutral and renormalised; one-hot without mass, or where the list says another class."""
    data = load(write_basic(tmp_path), basic_labels="votes")
    expected = np.eye(6)[[4, 0, 1, 2, 3, 5]]
    expected[0] = [1 / 7, 0, 0, 0, 6 / 7, 0]
    expected[1] = [0.9, 0.05, 0.05, 0, 0, 0]
    expected[4] = [0.3, 0.3, 0, 0.4, 0, 0]
    np.testing.assert_allclose(data.distribution, expected)
    assert data.frame["expression"].tolist() == [4, 0, 1, 2, 3, 5]
    assert noted(data, "one-hot, for the votes do not favour the list's label (for example train_00003)") == 3
    test = load(tmp_path, "test", basic_labels="votes")  # Neutral has the most votes, Surprise the most of the six
    np.testing.assert_allclose(test.distribution, [[0.8, 0.2, 0, 0, 0, 0], [0, 0, 0, 0.2, 0, 0.8]])


def test_votes_of_seven_classes(tmp_path):
    data = load(write_basic(tmp_path), "test", basic_labels="votes", classes="7")
    np.testing.assert_allclose(data.distribution, [np.eye(7)[0], [0.1, 0, 0, 0, 0, 0, 0.9], [0, 0, 0, 0.2, 0, 0.8, 0]])
    assert noted(data, "one-hot") == 1


def test_votes_follow_the_numbers_not_the_order_of_the_list(tmp_path):
    expected = load(write_basic(tmp_path / "a"), basic_labels="votes")
    write_basic(tmp_path / "b")
    path = tmp_path / "b/basic/EmoLabel/list_patition_label.txt"
    path.write_text("".join(sorted(path.read_text().splitlines(keepends=True))[::-1]))
    shuffled = load(tmp_path / "b", basic_labels="votes")
    assert shuffled.frame["id"].tolist() == SIX_TRAIN[::-1]
    np.testing.assert_array_equal(shuffled.distribution[::-1], expected.distribution)


def test_votes_are_used_only_when_asked_for(tmp_path):
    np.testing.assert_array_equal(load(write_basic(tmp_path)).distribution, np.eye(6)[[4, 0, 1, 2, 3, 5]])


@pytest.mark.parametrize("place", ["EmoLabel/distribute_basic.csv", "distribute_basic.csv", "../distribute_basic.csv"])
def test_votes_are_found_in_three_places_with_or_without_a_header(tmp_path, place):
    root = write_basic(tmp_path, votes=place)
    plain = load(root, basic_labels="votes").distribution
    path = root / "basic" / place
    path.write_text("surprise,fear,disgust,happiness,sadness,anger,neutral\r\n" + path.read_text() + "\n")
    np.testing.assert_array_equal(load(root, basic_labels="votes").distribution, plain)


def test_every_option_is_described_and_passes_the_door(tmp_path, monkeypatch):
    monkeypatch.setitem(datasets.DATASETS, "rafdb", "datasets.rafdb")
    root = write_ml(write_basic(tmp_path))
    data = datasets.load_split("rafdb", root, "test", **datasets.parse_options(
        ("classes=6", "parts=basic", "basic_labels=onehot", "labels=list")))
    assert data.frame["id"].tolist() == ["test_0001", "test_0003"]
    with pytest.raises(UserError, match="no option colour; its options: classes .6 .*parts.*basic_labels.*labels"):
        datasets.load_split("rafdb", root, "test", colour="blue")


# ---- MIVIA's filter

@pytest.mark.parametrize("votes, label", [  # the worked examples of the specification
    ((0.9, 0.05, 0.05, 0, 0, 0, 0), (1, 0, 0, 0, 0, 0, 0)),
    ((0.45, 0.45, 0.1, 0, 0, 0, 0), (0.5, 0.5, 0, 0, 0, 0, 0)),
    ((0.4, 0.3, 0.3, 0, 0, 0, 0), None),
    ((0.5, 0.25, 0.25, 0, 0, 0, 0), None),  # exactly half is dropped
    ((0.3, 0.3, 0.3, 0.1, 0, 0, 0), None),  # three winners
    ((0, 0, 0, 0, 0, 0, 0), None),
])
def test_vote_filter(votes, label):
    cleaned, keep = vote_filter([votes])
    assert keep.tolist() == [label is not None]
    if label:
        np.testing.assert_allclose(cleaned[0], label)


@given(st.lists(st.lists(st.integers(0, 40), min_size=7, max_size=7), max_size=5))
def test_vote_filter_is_the_rule_in_whole_votes(votes):
    """Against the four steps in whole votes of 40: 10 % are 4 votes."""
    cleaned, keep = vote_filter([[v / 40 for v in row] for row in votes] or np.zeros((0, 7)))
    for row, clean, kept in zip(votes, cleaned, keep, strict=True):
        left = [v if v > 4 else 0 for v in row]
        winners = left.count(max(left))
        assert kept == (winners <= 2 and 2 * winners * max(left) > sum(left))
        np.testing.assert_allclose(clean * max(sum(left), 1), left, atol=1e-6)


def test_mivia_drops_ambiguous_rows_and_counts_them(tmp_path):
    data = load(write_basic(tmp_path), "test", labels="mivia", classes="7")  # nothing ambiguous, tenths removed
    assert data.frame["id"].tolist() == ["test_0001", "test_0002", "test_0003"]
    np.testing.assert_allclose(data.distribution, [np.eye(7)[0], np.eye(7)[6], [0, 0, 0, 0.2, 0, 0.8, 0]])
    assert noted(data, "ambiguous votes") == 0 and noted(data, "one-hot") == 1
    rows = {name: row for name, row in BASIC.items() if name != "train_00005.jpg"}
    rows |= {"train_00005.jpg": (4, ".1,0,0,.8,0,0,.1"), "train_00008.jpg": (4, ".3,.3,0,.4,0,0,0")}
    root = write_ml(write_basic(tmp_path / "six", rows))
    data = load(root, labels="mivia")
    assert data.frame["id"].tolist() == [*SIX_TRAIN[:4], "train_00006", "train_00005", "0001", "0004"]
    np.testing.assert_allclose(data.distribution[0], np.eye(6)[4])
    assert noted(data, "ambiguous votes (MIVIA's filter) (for example train_00008)") == 1
    assert noted(data, "one-hot") == 3 and "MIVIA's filter" in data.notes["layout"]
    plain = load(root, labels="mivia", basic_labels="onehot")
    assert plain.frame["id"].tolist() == data.frame["id"].tolist()
    np.testing.assert_array_equal(plain.distribution[:6], np.eye(6)[[4, 0, 1, 2, 5, 3]])


# ---- layouts

@pytest.mark.parametrize("images", ["Image/aligned", "Image/aligned/aligned"])
@pytest.mark.parametrize("name", ["list_patition_label.txt", "list_partition_label.txt"])
@pytest.mark.parametrize("folder", ["basic", "basic/basic", "."])
def test_basic_in_its_layouts(tmp_path, folder, name, images):
    data = load(write_basic(tmp_path, folder=folder, images=images, name=name), "test")
    assert data.frame["id"].tolist() == ["test_0001", "test_0003"] and name in data.notes["layout"]
    assert all((tmp_path / path).is_file() for path in data.frame["path"])


@pytest.mark.parametrize("images", ["Image/aligned", "Image/aligned/aligned"])
@pytest.mark.parametrize("folder", ["RAF-ML", "RAF-ML/RAF-ML", "."])
def test_raf_ml_alone(tmp_path, folder, images):
    data = load(write_ml(tmp_path, folder=folder, images=images), "test", parts="ml")
    assert data.frame["id"].tolist() == ["0002"] and data.classes == CLASSES
    assert (tmp_path / data.frame["path"].iloc[0]).is_file()
    with pytest.raises(UserError, match="--data parts=ml takes the RAF-ML"):
        load(tmp_path)


def test_raf_ml_beside_a_root_that_is_basic_itself(tmp_path):
    write_ml(write_basic(tmp_path))
    assert "without RAF-ML" in load(tmp_path / "basic").notes["layout"]
    write_ml(tmp_path / "basic")
    assert load(tmp_path / "basic").frame["path"].iloc[-1] == "RAF-ML/Image/aligned/0004_aligned.jpg"


def test_names_without_jpg_windows_lines_and_a_byte_order_mark(tmp_path):
    root = write_ml(write_basic(tmp_path))
    for path in [*root.glob("basic/EmoLabel/*.txt"), *root.glob("RAF-ML/EmoLabel/p*.txt")]:
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b".jpg", b"").replace(b"\n", b"\r\n\r\n"))
    assert load(root).frame["id"].tolist() == [*SIX_TRAIN, "0001", "0004"]


@pytest.mark.parametrize("form", ["_aligned.png", "_aligned.JPG", ".jpeg", ".jpg", ".PNG"])
def test_pictures_under_other_names(tmp_path, form):
    root = write_ml(write_basic(tmp_path))
    for path in [*root.rglob("*_aligned.jpg")]:
        path.rename(path.with_name(path.name.replace("_aligned.jpg", form)))
    data = load(root)
    assert data.frame["id"].tolist() == [*SIX_TRAIN, "0001", "0004"]
    assert data.frame["path"].iloc[0] == f"basic/Image/aligned/aligned/train_00001{form}"
    assert all((root / path).is_file() for path in data.frame["path"])
    assert noted(data, "picture found under another suffix than listed") == (0 if form.endswith(".jpg") else 8)


def test_of_several_pictures_of_a_name_the_releases_own_is_taken(tmp_path):
    root = write_basic(tmp_path)
    for name in ("train_00001_aligned.png", "train_00002.jpg"):
        picture(root / "basic/Image/aligned/aligned" / name)
    data = load(root)
    assert data.frame["path"].str.endswith("_aligned.jpg").all()
    assert noted(data, "picture in several formats, one taken (for example train_00001_aligned.jpg, not train_") == 1


def test_a_name_looked_for_stands_beside_a_name_found(tmp_path):
    root = write_basic(tmp_path)
    for path in [*root.rglob("*_aligned.jpg")]:
        path.rename(path.with_name("face_" + path.name))
    with pytest.raises(UserError, match="looked for train_00001_aligned.jpg and train_00001.jpg in "
                                        "basic/Image/aligned/aligned, which holds for example face_test_0001_"):
        load(root)


WORDS = "Surprise Fear Disgust Happiness Sadness Anger Neutral".split()


@pytest.mark.parametrize("line", [
    "{name}.jpg {word}", "{name}_aligned.jpg {code}", "{name}_aligned.PNG,{code}", "{code} {name}.jpg",
    "{name}.jpg {code} {word}", "{row} {name}.jpg {code}", "{name}.jpg\t{code}\t0.87", '"{name}.jpg","{code}"',
    "{name}.jpg;{happy}",
])
def test_lists_in_other_forms(tmp_path, line):
    expected = load(write_basic(tmp_path / "a"))
    root = write_basic(tmp_path / "b")
    text = "image label more\n"
    for row, (name, (code, _)) in enumerate(BASIC.items()):
        word = WORDS[code - 1]
        synonym = {"Happiness": "happy", "Sadness": "SAD", "Anger": "Angry"}.get(word, word)
        text += line.format(name=name.removesuffix(".jpg"), code=code, word=word, row=row, happy=synonym) + "\n"
    (root / LIST).write_text(text)
    data = load(root)
    assert data.frame["id"].tolist() == expected.frame["id"].tolist()
    assert data.frame["expression"].tolist() == expected.frame["expression"].tolist()


def test_a_list_whose_label_could_be_two_columns_is_refused_showing_the_line(tmp_path):
    root = write_basic(tmp_path)
    (root / LIST).write_text("train_00001.jpg 5 1\ntrain_00002.jpg 1 1\n")
    with pytest.raises(UserError, match="list_patition_label.txt line 1: 'train_00001.jpg 5 1' has 3 columns; expected "
                                        "'train_00001.jpg 5', and columns 2 and 3 could each be the label. Keep"):
        load(root)
    (root / LIST).write_text("\ntrain_00001.jpg 8 0.5\ntrain_00002.jpg 1 0.5\n")
    with pytest.raises(UserError, match="line 2: 'train_00001.jpg 8 0.5' .* no column holds a label in every row"):
        load(root)


def test_partitions_in_words_and_names_of_raf_ml_in_other_forms(tmp_path):
    root = write_ml(tmp_path)
    for path, end in ((SHARES, "_aligned.jpg"), (PARTITION, "")):
        (root / path).write_text((root / path).read_text().replace(".jpg", end))
    (root / PARTITION).write_text("".join(f"{key} {'test' if test else 'Train'}\n" for key, (_, test) in ML.items()))
    assert load(root, "test", parts="ml").frame["id"].tolist() == ["0002"]


def test_val_is_held_out_of_train_over_both_parts(tmp_path):
    basic = {f"train_{n + 1:05d}.jpg": (n % 6 + 1, "") for n in range(90)}
    ml = {f"{n + 1:04d}.jpg": (" ".join("1" if k == n % 6 else "0" for k in range(6)), 0) for n in range(36)}
    root = write_ml(write_basic(tmp_path, basic), ml)
    train, val = load(root), load(root, "val")
    assert np.bincount(train.frame["expression"]).tolist() == [19] * 6  # 15 and 6 a class, a tenth held out
    assert np.bincount(val.frame["expression"]).tolist() == [2] * 6
    assert len({*train.frame["id"], *val.frame["id"]}) == 126
    np.testing.assert_array_equal(val.frame["id"], load(root, "val").frame["id"])


def test_what_is_left_out_is_counted(tmp_path):
    root = write_ml(write_basic(tmp_path, votes=None))
    (root / "basic/Image/aligned/aligned/test_0003_aligned.jpg").unlink()
    for path, lines in (("basic/EmoLabel/list_patition_label.txt", "test_0004.jpg\ncar.jpg 3\nx y z\n"),
                        ("RAF-ML/EmoLabel/distribution.txt", "0005.jpg 1 0 0 0 0\n0006.jpg 1 0 0 0 0 0\n"),
                        ("RAF-ML/EmoLabel/partition_label.txt", "0007.jpg 1\n")):
        with open(root / path, "a") as file:
            file.write(lines)
    data = load(root, "test")
    assert data.frame["id"].tolist() == ["test_0001", "0002"]
    assert data.notes["listed but not on disk (test_0003)"] == 1
    assert data.notes["malformed row of list_patition_label.txt (for example test_0004.jpg)"] == 2
    assert data.notes["no image name in list_patition_label.txt (for example car.jpg)"] == 1
    assert noted(data, "malformed row of distribution.txt (for example 0005.jpg 1 0 0 0 0)") == 1
    assert data.notes["not in partition_label.txt (for example 0006)"] == 1
    assert data.notes["in partition_label.txt, not in distribution.txt (for example 0007)"] == 1


# ---- errors

@pytest.mark.parametrize("options, message", [
    ({"classes": "8"}, "classes=8: choose 6 or 7"),
    ({"parts": "compound"}, "parts=compound: choose"),
    ({"parts": ""}, "parts=: choose"),
    ({"classes": "7", "parts": "basic,ml"}, "RAF-ML has no Neutral"),
    ({"classes": "7", "parts": "ml"}, "RAF-ML has no Neutral"),
    ({"basic_labels": "soft"}, "choose onehot or votes"),
    ({"labels": "majority"}, "choose list or mivia"),
    ({"parts": "ml", "labels": "mivia"}, "about RAF-DB basic"),
    ({"parts": "ml", "basic_labels": "votes"}, "about RAF-DB basic"),
])
def test_options_that_do_not_fit(tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        load(tmp_path, **options)


def rewrite(path, text):
    return lambda root: (root / path).write_text(text)


LIST, SHARES = "basic/EmoLabel/list_patition_label.txt", "RAF-ML/EmoLabel/distribution.txt"
PARTITION, VOTES = "RAF-ML/EmoLabel/partition_label.txt", "basic/EmoLabel/distribute_basic.csv"


@pytest.mark.parametrize("change, message", [
    (shutil.rmtree, "needs basic/EmoLabel/list_patition_label.txt .*found: no such folder.*--root should be"),
    (lambda root: shutil.rmtree(root / "basic/EmoLabel"), "found: RAF-ML, basic"),
    (lambda root: shutil.rmtree(root / "basic/Image"), "no .jpg in Image/aligned.*unpack"),
    (lambda root: (root / PARTITION).unlink(), "no partition_label.txt"),
    (lambda root: (root / VOTES).unlink(), "The official download has no votes"),
    (rewrite(LIST, "train_00001.jpg 0\n"), "label.txt line 1: label 0 of train_00001 is not in 1..7"),
    (rewrite(LIST, "train_00001.jpg 1.5\n"), "label 1.5 of train_00001"),
    (rewrite(LIST, "train_00001.jpg 3\n" * 2), "1 names appear twice, for example train_00001 .again in line 2."),
    (rewrite(LIST, "\n"), "no row of the form 'train_00001.jpg 5'; it is empty"),
    (rewrite(LIST, "x.jpg five\n"), "no row of the form 'train_00001.jpg 5'; line 1 is 'x.jpg five'"),
    (rewrite(LIST, "train_00001\n"), "no row of the form 'train_00001.jpg 5'; line 1 is 'train_00001'"),
    (rewrite(SHARES, "0001.jpg 1 0 0 0 0 0 0\n"), "line 1: '0001.jpg 1 0 0 0 0 0 0' has 8 columns; expected"),
    (rewrite(LIST, "../train_00001.jpg 3\n"), "leads out of the data folder"),
    (rewrite(LIST, "/tmp/train_00001.jpg 3\n"), "leads out of the data folder"),
    (rewrite(LIST, "a\\..\\train_00001.jpg 3\n"), "leads out of the data folder"),
    (rewrite(VOTES, "1,0,0,0,0,0,0\n"), "1 rows for 10 images"),
    (rewrite(VOTES, "1,0,0,0,0,0,0\n1,0,0\n"), "row 2 is not seven fractions of votes: '1,0,0'"),
    (rewrite(VOTES, "1,0,0,0,0,0,-1\n"), "row 1 is not seven fractions"),
    (rewrite(SHARES, "0001.jpg 1 0 0 0 0 0\n0001.jpg 1 0 0 0 0 0\n"), "names appear twice"),
    (rewrite(SHARES, "C:0001.jpg 1 0 0 0 0 0\n"), "leads out of the data folder"),
    (rewrite(PARTITION, "0001.jpg 2\n"), "partition_label.txt line 1: 2 for 0001 is neither 0"),
    (rewrite(LIST, "train_00001.jpg 3\ntrain_00002.jpg 1\n" + "".join(f"test_{n:04d}.jpg 7\n" for n in range(8))),
     "no usable image of Happiness, Sadness, Anger .layout: .*; one-hot, for .*: 1"),
])
def test_errors_say_what_to_do(tmp_path, change, message):
    root = write_ml(write_basic(tmp_path / "root"))
    change(root)
    with pytest.raises(UserError, match=message):
        load(root, basic_labels="votes")


def test_a_linked_image_folder_is_the_users_business(tmp_path):
    root = write_basic(tmp_path / "root")
    shutil.move(root / "basic/Image", tmp_path / "Image")
    (root / "basic/Image").symlink_to(tmp_path / "Image")
    assert len(load(root).frame) == len(load(write_basic(tmp_path / "other")).frame)


@pytest.fixture(scope="module")
def fuzz_root(tmp_path_factory):
    return write_ml(write_basic(tmp_path_factory.mktemp("fuzz")))


ROWS = {LIST: "train_00001.jpg 5\n", SHARES: "0002.jpg 0 0 0 0 .5 .5\n", PARTITION: "0002.jpg 1\n",
        VOTES: "0,0,0,0,0,0,1\n" * 10}


@pytest.mark.slow
@pytest.mark.parametrize("path", ROWS)
@settings(max_examples=40, deadline=None)
@given(data=st.one_of(st.binary(max_size=200), st.text("train_0123456789.jpg e+-,\n\t", max_size=200).map(str.encode)),
       before=st.booleans(), split=st.sampled_from(SPLITS))
def test_any_bytes_give_rows_or_a_user_error(fuzz_root, path, data, before, split):
    sound = (fuzz_root / path).read_bytes()
    (fuzz_root / path).write_bytes((ROWS[path].encode() if before else b"") + data)
    try:
        load(fuzz_root, split, labels="mivia")
    except UserError:
        pass
    finally:
        (fuzz_root / path).write_bytes(sound)


# ---- the official counts, and the layouts it writes

def test_official_counts_are_those_of_the_specification():
    assert {name: sum(counts) for name, counts in rafdb.official("7").items()} == {"train+val": 12_271, "test": 3_068}
    assert {name: sum(n) for name, n in rafdb.official(parts="basic").items()} == {"train+val": 9_747, "test": 2_388}
    assert rafdb.official() == {"train+val": 13_673, "test": 3_370}


def stub_faces(split, count):
    """Small noise in place of drawn faces, which take 12 ms each."""
    for i in range(count):
        k = int(keyed_rng(split, i // 8).permutation(8)[i % 8])
        image = keyed_rng(split, i, "image").integers(0, 256, (16, 16, 3), np.uint8)
        valence, arousal = CLASS_MEANS[k] + keyed_rng(split, i, "point").normal(0, 0.15, 2)
        yield Face(image, DEMO_CLASSES[k], valence, arousal, f"{split}-{i // 8}")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Both layouts, one after the other, in one root."""
    root = tmp_path_factory.mktemp("written")
    for write in (drawn_rafdb.write_basic, drawn_rafdb.write_ml):
        write(root, stub_faces)
    return root


def test_written_layouts_load_with_the_expected_counts(written):
    sizes = {split: len(load(written, split, classes="7").frame) for split in SPLITS}
    assert sizes == {"train": 203 - 14, "val": 14, "test": 84}
    assert len(load(written).frame) + len(load(written, "val").frame) == 203 - 29 + 60
    assert [name for name, write in LAYOUTS.items() if write.__module__ == drawn_rafdb.__name__] == ["rafdb", "raf-ml"]
    assert len(load(written, "test").frame) == 84 - 12 + 30
    assert len(load(written, "test", parts="ml").frame) == 30
    for options in ({"basic_labels": "votes"}, {"labels": "mivia"}):
        data = load(written, **options)
        assert noted(data, "one-hot") and ((data.distribution > 0).sum(1) > 1).sum() > 20
        np.testing.assert_array_equal(data.distribution.argmax(1), data.frame["expression"])
    assert noted(load(written, labels="mivia"), "ambiguous votes")
    assert noted(load(written), "level largest shares")


def test_written_names_and_forms_are_the_official_ones(written):
    basic = written / "basic"
    lines = (basic / "EmoLabel/list_patition_label.txt").read_text().splitlines()
    assert lines[0].startswith("train_00001.jpg ") and lines[203].startswith("test_0001.jpg ") and len(lines) == 287
    assert {line.split()[1] for line in lines} == set("1234567")
    with Image.open(basic / "Image/aligned/aligned/test_0084_aligned.jpg") as image:
        assert (image.size, image.format) == ((100, 100), "JPEG")
    assert len(list((basic / "Image/original").iterdir())) == 287
    assert len(list((basic / "Annotation/manual").iterdir())) == 287
    assert sorted(path.name for path in (written / "RAF-ML/EmoLabel").iterdir()) == [
        "distribution.txt", "multilabel.txt", "partition_label.txt"]
    assert (written / "RAF-ML/EmoLabel/distribution.txt").read_text().count("\n") == 90
    assert (written / "RAF-ML/EmoLabel/partition_label.txt").read_text().count(" 1\n") == 30


def test_one_written_test_image_is_also_in_raf_ml(written):
    contents = {path.read_bytes() for path in written.glob("basic/Image/aligned/aligned/test_*")}
    ml = sorted(written.glob("RAF-ML/Image/aligned/*.jpg"))
    assert [path.name for path in ml if path.read_bytes() in contents] == ["0001_aligned.jpg"]
    assert "0001.jpg 0\n" in (written / "RAF-ML/EmoLabel/partition_label.txt").read_text()


@pytest.mark.slow
def test_written_layouts_are_the_same_every_time(written, tmp_path):
    for write in (drawn_rafdb.write_basic, drawn_rafdb.write_ml):
        write(tmp_path, stub_faces)
    for path in written.rglob("*.*"):
        assert path.read_bytes() == (tmp_path / path.relative_to(written)).read_bytes()


# --- original pictures, for RAF-DB-P

def test_landmarks_come_to_lie_on_the_published_points():
    """Eyes at (.286, .4) and (.714, .4), the middle of the mouth at (.5, .714), whatever the face's pose."""
    landmarks = np.array([(40, 60), (90, 50), (70, 90), (55, 120), (95, 110)], float)
    transform = rafdb_originals.alignment(landmarks, Path("x"))
    points = np.array([landmarks[0], landmarks[1], (landmarks[3] + landmarks[4]) / 2])
    np.testing.assert_allclose(points @ transform[:, :2].T + transform[:, 2],
                               [(.286, .4), (.714, .4), (.5, .714)], atol=1e-6)
    image = np.zeros((150, 150, 3), np.uint8)
    image[58:63, 38:43] = 255  # the left eye
    aligned = rafdb_originals.aligned_picture(image, transform, 130)
    y, x = np.argwhere(aligned[..., 0] > 100).mean(0)
    assert abs(x - .286 * 130) < 1 and abs(y - .4 * 130) < 1


def test_original_pictures_of_a_split(written):
    frame = load(written, "test", classes="7").frame
    paths, maps = rafdb_originals.original_pictures(written, frame["path"].tolist())
    assert paths[0] == "basic/Image/original/test_0001.jpg" and maps.shape == (84, 2, 3)


@pytest.mark.parametrize("text,message", [
    ("1 2\n3 4\n", "its first 5 lines are not two numbers each"), ("a b\n" * 5, "its first 5 lines are not two"),
    ("1 nan\n" * 5, "its first 5 lines"), ("1e9 1\n" * 5, "its first 5 lines"), ("1 2 3\n" * 5, "its first 5 lines"),
    ("5 5\n" * 5, "test_0001_manu_attri.txt: its eyes and mouth lie on a line"),
    (None, "is missing: --from original needs the landmarks"),
])
def test_damaged_landmarks(written, tmp_path, text, message):
    shutil.copytree(written / "basic", tmp_path / "basic")
    file = tmp_path / "basic/Annotation/manual/test_0001_manu_attri.txt"
    file.unlink()
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserError, match=message):
        rafdb_originals.original_pictures(tmp_path, ["basic/Image/aligned/aligned/test_0001_aligned.jpg"])


def test_raf_ml_has_no_original_pictures(written, tmp_path):
    with pytest.raises(UserError, match="RAF-ML has no landmarks. Take --data parts=basic or --data classes=7"):
        rafdb_originals.original_pictures(written, ["RAF-ML/Image/aligned/0001_aligned.jpg"])
    shutil.copytree(written / "basic/Image/aligned", tmp_path / "basic/Image/aligned")
    with pytest.raises(UserError, match="1 of 1 original pictures are missing, for example basic/Image/original/test_"):
        rafdb_originals.original_pictures(tmp_path, ["basic/Image/aligned/aligned/test_0001_aligned.jpg"])
