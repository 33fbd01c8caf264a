"""Aff-Wild2: the alignment of lines and frames, editions, the draw of frames and videos, the list of frames."""
import hashlib
import os
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import datasets
from datasets import affwild, load_split
from datasets.affwild import CLASSES, _challenge_number, _spread_rows, _draw_videos
from datasets.drawn.affwild import write_layout
from datasets.drawn.faces import CLASSES as DEMO_CLASSES, Face, faces
from datasets.images import read_image
from datasets.split import SPLITS
from support.errors import UserError

HEADER = "Neutral,Anger,Disgust,Fear,Happiness,Sadness,Surprise,Other"
ALL = "0 1 2 3 4 5 6"  # in the order of the header
ABAW3 = "3rd ABAW Annotations/Third ABAW Annotations"
TASKS = {"EXPR": "EXPR_Classification_Challenge", "VA": "VA_Estimation_Challenge"}


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(datasets.DATASETS, "affwild", "datasets.affwild")
    monkeypatch.setitem(datasets.TITLES, "affwild", "AffWild")


def load(root, split="train", **options):
    return load_split("affwild", root, split, **options)


def write_labels(root, video, lines, task="EXPR", header=HEADER, folder=None, end="\n"):
    folder = root / (folder or f"{ABAW3}/{TASKS[task]}/Train_Set")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{video}.txt").write_bytes((end.join([header, *lines.split()]) + end).encode())


def write_frames(root, video, frames, folder="cropped_aligned"):
    (root / folder / video).mkdir(parents=True, exist_ok=True)
    for frame in frames:
        (root / folder / video / f"{frame:05d}.jpg").touch()


def write_small(root, **videos):
    """Three videos of seven frames, one of each expression; `a="0 1 ..."` replaces the labels of one."""
    for video, labels in (dict.fromkeys("abc", ALL) | videos).items():
        write_labels(root, video, labels)
        write_frames(root, video, range(1, len(labels.split()) + 1))
    return root


def parts(root, **options):
    """{video: split} and the frames of all splits by video."""
    frames = {split: load(root, split, **options).frame for split in SPLITS}
    return {video: split for split, frame in frames.items() for video in frame["identity"]}, frames


def every(root, **options):
    """{id: row} of all splits."""
    return {row["id"]: row for frame in parts(root, **options)[1].values() for row in frame.to_dict("records")}


def noted(root, reason, **options):
    """How often something was dropped, over all splits."""
    splits = [load(root, split, **options).notes for split in SPLITS]
    return sum(count for notes in splits for key, count in notes.items() if key.startswith(reason))


def names(rows):
    return [CLASSES[row["expression"]] for row in rows]


# ---- lines, frames, labels

def test_line_i_is_frame_i_and_classes_go_by_name(tmp_path):
    rows = every(write_small(tmp_path))
    assert len(rows) == 21
    of_a = [rows[f"a_{i:05d}"] for i in range(1, 8)]
    assert names(of_a) == [
        "Neutral", "Anger", "Disgust", "Fear", "Happy", "Sad", "Surprise"]
    assert of_a[4]["path"] == "cropped_aligned/a/00005.jpg" and of_a[4]["identity"] == "a"
    assert np.isnan([of_a[4][column] for column in ("left", "top", "right", "bottom", "valence", "arousal")]).all()
    data = load(tmp_path)
    assert data.classes == CLASSES and data.distribution is None
    assert list(data.frame["id"]) == [f"{data.frame['identity'][0]}_{i:05d}" for i in range(1, 8)]


def test_another_order_of_the_header(tmp_path):
    write_small(tmp_path)
    write_labels(tmp_path, "a", "0 1 2 3 4 5 6", header=" Surprise,Sad,Happy,Fear,Disgust,Anger,NEUTRAL", end="\r\n")
    rows = every(tmp_path)
    assert names([rows[f"a_{i:05d}"] for i in range(1, 8)]) == [
        "Surprise", "Sad", "Happy", "Fear", "Disgust", "Anger", "Neutral"]


def test_what_is_no_expression_is_dropped_and_counted(tmp_path):
    root = write_small(tmp_path, a="-1 0 7 1 8 2 x 3 4 5.5 6 5 -2")
    (root / "cropped_aligned/a/00006.jpg").unlink()  # Disgust
    (root / "cropped_aligned/a/00001.jpg").unlink()  # not annotated: not missed
    write_frames(root, "a", [99])
    rows = every(root)
    assert {key: CLASSES[row["expression"]] for key, row in rows.items() if key[0] == "a"} == {
        "a_00002": "Neutral", "a_00004": "Anger", "a_00008": "Fear", "a_00009": "Happy", "a_00011": "Surprise",
        "a_00012": "Sad"}
    for reason, number in (("frame labelled -1 (not annotated) (for example a.txt frame 1)", 1),
                         ("frame of another expression (Other) (for example a.txt frame 3)", 1),
                         ("label that the header does not name (for example a.txt frame 5)", 2),  # 8 and -2
                         ("malformed line of expressions (for example a.txt frame 7)", 2),  # x and 5.5
                         ("labelled frame that is not on disk (for example a/00006.jpg)", 1),
                         ("image without a line of its own (for example a/00099.jpg)", 1)):
        assert noted(root, reason) == number


@pytest.mark.parametrize("form", ["{:05d}.png", "{:06d}.jpg", "{}.JPEG", "{:03d}.bmp"])
def test_frames_of_an_own_extraction(tmp_path, form):
    root = write_small(tmp_path)
    before = every(root)
    for path in [*root.rglob("*.jpg")]:
        path.rename(path.with_name(form.format(int(path.stem))))
    rows = every(root, write_split=str(tmp_path / "list.csv"))
    assert names(rows.values()) == names(before.values()) and len(rows) == 21
    assert {row["path"] for row in rows.values() if row["identity"] == "a"} == {
        f"cropped_aligned/a/{form.format(i)}" for i in range(1, 8)}
    second = every(root, split_file=str(tmp_path / "list.csv"))
    assert second.keys() == rows.keys()


def test_of_several_files_of_a_frame_the_releases_name_is_taken(tmp_path):
    root = write_small(tmp_path)
    for name in ("000001.jpg", "00001.png", "1.bmp", "00002.PNG"):
        (root / "cropped_aligned/a" / name).touch()
    (root / "cropped_aligned/a/thumb.png").touch()
    rows = every(root)
    assert rows["a_00001"]["path"] == "cropped_aligned/a/00001.jpg" and len(rows) == 21
    assert noted(root, "frame in several files, one taken (for example a/00001.jpg, not 000001.jpg)") == 2
    assert noted(root, "picture whose name is no frame number (for example a/thumb.png)") == 1


def test_an_extraction_that_counts_from_0_is_left_out_and_said(tmp_path):
    root = write_small(tmp_path, d=ALL)
    for i in range(1, 8):
        (root / f"cropped_aligned/a/{i:05d}.jpg").rename(root / f"cropped_aligned/a/{i - 1:06d}.jpg")
    assert set(parts(root)[0]) == set("bcd")
    assert noted(root, "video whose images count from 0, where line 1 is image 1: number them from 1 (for example a/")
    (root / "cropped_aligned/b/00000.jpg").touch()  # a name of the release: today's rule
    assert noted(root, "image without a line of its own (for example b/00000.jpg)") == 1


def test_a_message_is_text_and_shows_a_name_found(tmp_path):
    root = write_small(tmp_path)
    for path in [*root.rglob("*.jpg")]:
        path.rename(path.with_name(f"frame_{path.name}"))
    with pytest.raises(UserError) as error:
        load(root)
    text = str(error.value)
    assert "0 usable videos do not give" in text and "{" not in text and "picture whose name is no frame number" in text
    assert "frame that is not on disk (for example a/00001.jpg; the folder holds no numbered picture): 21" in text
    assert text.endswith("go by the names of the videos") and "a/frame_00001.jpg" in text


def test_a_listed_picture_in_another_format_stands_for_one_row_only(tmp_path):
    write_frames(tmp_path, "a", [1, 2])
    data = write_list(tmp_path, "test,cropped_aligned/a/00001.png,Sad,,,a,",
                      "train,cropped_aligned/a/00002.jpg,Sad,,,b,", "test,cropped_aligned/a/00002.png,Sad,,,a,")
    assert data.frame["path"].tolist() == ["cropped_aligned/a/00001.jpg"]
    assert data.notes["listed but not on disk (cropped_aligned/a/00002.png)"] == 1


@pytest.mark.parametrize("kind", ["pipe", "folder"])
def test_a_label_file_that_is_no_file_is_refused_at_once(tmp_path, kind):
    root = write_small(tmp_path)
    path = root / ABAW3 / TASKS["EXPR"] / "Train_Set/a.txt"
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
        with pytest.raises(UserError, match="a.txt is no regular file"):
            load(root)
    else:
        path.mkdir()  # a folder is not listed as a file: two videos are left
        with pytest.raises(UserError, match="2 usable videos"):
            load(root)


def test_a_blank_line_keeps_its_frame(tmp_path):
    root = write_small(tmp_path)
    path = root / ABAW3 / TASKS["EXPR"] / "Train_Set/a.txt"
    path.write_text(f"{HEADER}\n0\n\n4\n\n\n")
    rows = every(root)
    assert [key for key in rows if key[0] == "a"] == ["a_00001", "a_00003"]
    assert rows["a_00003"]["expression"] == 1


def test_valence_and_arousal_join_by_video_and_frame(tmp_path):
    root = write_small(tmp_path)
    write_labels(root, "a", "0.602,0.389 -5,-5 0.1,-5 x,0 1.5,0 -1,1", "VA", "valence,arousal")  # a line less
    write_labels(root, "b", "0.5,-0.25 " * 8, "VA", "arousal,valence")  # a line more, another order
    rows = every(root)
    assert (rows["a_00001"]["valence"], rows["a_00001"]["arousal"]) == (0.602, 0.389)
    assert (rows["a_00006"]["valence"], rows["a_00006"]["arousal"]) == (-1, 1)
    assert all(np.isnan([rows[f"a_0000{i}"]["valence"], rows[f"a_0000{i}"]["arousal"]]).all() for i in (2, 3, 4, 5, 7))
    assert (rows["b_00007"]["valence"], rows["b_00007"]["arousal"]) == (-0.25, 0.5)
    assert noted(root, "malformed valence or arousal, or beyond [-1, 1] (for example a.txt frame 4)") == 2
    assert noted(root, "frame without valence and arousal") == 5 + 7
    write_labels(root, "c", "0,0 " * 7, "VA", "v,a")
    assert noted(root, "file of valence and arousal without these names in its first line (for example c.txt)") == 1


def test_valence_and_arousal_of_the_validation_set_serve_where_training_has_none(tmp_path):
    root, folder = write_small(tmp_path), f"{ABAW3}/{TASKS['VA']}/Validation_Set"
    write_labels(root, "a", "0.1,0.1 " * 7, "VA", "valence,arousal")
    write_labels(root, "a", "0.2,0.2 " * 7, "VA", "valence,arousal", folder)
    write_labels(root, "b", "0.3,0.3 " * 7, "VA", "valence,arousal", folder)
    rows = every(root)
    assert (rows["a_00001"]["valence"], rows["b_00001"]["valence"]) == (0.1, 0.3)


def test_validation_videos_of_the_expressions_are_not_used(tmp_path):
    root = write_small(tmp_path)
    write_labels(root, "d", ALL, folder=f"{ABAW3}/{TASKS['EXPR']}/Validation_Set")
    write_frames(root, "d", range(1, 8))
    assert set(parts(root)[0]) == set("abc")


# ---- folders

@pytest.mark.parametrize("expressions, va", [
    ("annotations/EXPR_Set/Training_Set", "annotations/VA_Set/Train_Set"),
    ("expr_set/train_set", "va_set/TRAINING_SET"),
    (f"{ABAW3}/EXPR_Classification_Challenge/Train_Set", f"{ABAW3}/VA_Estimation_Challenge/Train_Set"),
    ("5th_ABAW_Annotations/EXPR_Classification_Challenge/Train_Set", "annotations/VA_Set/Training_Set"),
    ("various/6th ABAW Annotations/EXPR_Recognition_Challenge/x/Train_Set", "various/VA_Estimation/Train_Set"),
])
def test_editions_are_found_whatever_their_folders(tmp_path, expressions, va):
    for video in "abc":
        write_labels(tmp_path, video, ALL, folder=expressions)
        write_labels(tmp_path, video, "0.5,0.5 " * 7, "VA", "valence,arousal", va)
        write_frames(tmp_path, video, range(1, 8), "cropped_aligned/cropped_aligned")
    (tmp_path / expressions / "._a.txt").write_bytes(b"\0\5")  # macOS
    rows = every(tmp_path)
    assert len(rows) == 21 and rows["a_00001"]["valence"] == 0.5
    assert rows["a_00001"]["path"] == "cropped_aligned/cropped_aligned/a/00001.jpg"
    assert not noted(tmp_path, "label file")


def test_the_number_of_a_challenge():
    folders = ("annotations", "ABAW2 labels", ABAW3, "Fourth ABAW", "5th_ABAW_Annotations", "6th ABAW Annotations",
               "ABAW-7", "abaw_8/annotations")
    assert [_challenge_number(folder) for folder in folders] == [0, 2, 3, 4, 5, 6, 7, 8]
    assert _challenge_number("ABAW 2023") == 0


def test_the_newest_edition_is_taken_and_another_can_be(tmp_path):
    root = write_small(tmp_path)
    for video in "abc":
        write_labels(root, video, "4 4 4 4 4 4 4", folder="annotations/EXPR_Set/Training_Set", header=HEADER[:-6])
        write_labels(root, video, ALL, folder="6th ABAW Annotations/EXPR_Recognition_Challenge/Train_Set")
    layout = load(root).notes["layout"]
    assert layout.startswith("Aff-Wild2, expressions of 6th ABAW Annotations (the newest of: 6th ABAW Annotations; "
                             f"{ABAW3}; annotations; edition= chooses), no valence and arousal, images in "
                             "cropped_aligned; 3 videos: 1 train, 1 val, 1 test (split_seed 0), up to 240 frames each")
    assert f"expressions of {ABAW3} (chosen of" in load(root, edition="third abaw").notes["layout"]
    assert "expressions of 6th" in load(root, edition="annot").notes["layout"]  # the newest of those named so
    assert (load(root, "test", edition="Annotations").frame["expression"] == 1).all()  # the whole name goes first
    with pytest.raises(UserError, match="no folder of expression labels is named so; found: 6th ABAW"):
        load(root, edition="ninth")


def test_two_image_folders(tmp_path):
    root = write_small(tmp_path)
    for video in "cd":
        write_frames(root, video, range(1, 8), "cropped_aligned_new_50_vids")
    write_labels(root, "d", ALL)
    rows = every(root)
    assert rows["d_00001"]["path"] == "cropped_aligned_new_50_vids/d/00001.jpg"
    assert rows["c_00001"]["path"] == "cropped_aligned/c/00001.jpg"
    key = "video in two image folders, the first one taken (for example c in cropped_aligned_new_50_vids)"
    assert load(root).notes[key] == 1


def test_videos_that_cannot_serve_are_named(tmp_path):
    root = write_small(tmp_path, d="7 -1 7")
    write_labels(root, "e", ALL)  # no images
    write_labels(root, "f", ALL, header="0")
    write_labels(root, "g", ALL, header="Neutral,Anger,Disgust,Fear,Happiness,Sadness,Other")
    for video in "fg":
        write_frames(root, video, range(1, 8))
    with open(os.fsencode(root / ABAW3 / TASKS["EXPR"] / "Train_Set") + b"/\xff.txt", "w") as file:
        file.write(HEADER + "\n0\n")
    (tmp_path / "cropped_aligned").joinpath(os.fsdecode(b"\xff")).mkdir()
    notes = load(root, "test").notes
    assert notes["label file without a folder of images (for example e.txt)"] == 1
    assert notes["label file without the seven expressions in its first line (for example f.txt)"] == 2
    assert notes["video without a usable frame (for example d)"] == 1
    assert notes["video whose name is not text (for example \\udcff)"] == 1
    assert set(parts(root)[0]) == set("abc")


def test_unsafe_video_names_get_safe_ids(tmp_path):
    root = write_small(tmp_path, **{"-d e": ALL, "_d_e": ALL, "ü": ALL})
    ids = {row["identity"]: key for key, row in every(root).items() if key.endswith("_00001")}
    assert ids["_d_e"] == "_d_e_00001" and ids["-d e"] == "_d_e-d47f0d5b_00001"
    assert ids["ü"].startswith("_-") and ids["a"] == "a_00001"


def test_colliding_ids_are_refused(monkeypatch):
    monkeypatch.setattr(affwild, "UNSAFE", affwild.re.compile("[ab]"))
    same = hashlib.sha256(b"")
    monkeypatch.setattr(affwild.hashlib, "sha256", lambda data: same)
    with pytest.raises(UserError, match="two of the videos a, b get one name"):
        affwild._ids(["x/a/1.jpg", "x/b/1.jpg"])


# ---- the draw of frames and videos

def test_frames_are_evenly_spaced_and_those_with_valence_first():
    none = np.zeros(100, bool)
    assert _spread_rows(none, 4).tolist() == [12, 37, 62, 87]
    assert _spread_rows(none, 100).tolist() == _spread_rows(none, 240).tolist() == list(range(100))
    preferred = none.copy()
    preferred[[3, 50, 99]] = True
    assert _spread_rows(preferred, 2).tolist() == [3, 99]
    assert _spread_rows(preferred, 3).tolist() == [3, 50, 99]
    assert _spread_rows(preferred, 5).tolist() == [3, 25, 50, 74, 99]
    assert len(set(_spread_rows(preferred, 97))) == 97


def test_the_number_of_frames_is_an_option(tmp_path):
    root = write_small(tmp_path, a=f"{ALL} " * 3, b=f"{ALL} " * 3, c=f"{ALL} " * 3)
    for split in SPLITS:
        frame = load(root, split, frames="7").frame
        assert [int(i[-5:]) for i in frame["id"]] == [2, 5, 8, 11, 14, 17, 20]
    write_labels(root, "a", "0,0 " * 14, "VA", "valence,arousal")
    rows = every(root, frames="14", write_split=str(tmp_path / "list.csv"))
    assert [int(key[-5:]) for key in rows if key[0] == "a"] == list(range(1, 15))


def test_twenty_test_and_eight_validation_videos_of_248():
    videos = [f"v{i}" for i in range(228)] + [f"p{i}{side}" for i in range(10) for side in ("_left", "_right")]
    drawn = _draw_videos(sorted(videos), 0)
    counts_per_split = [list(drawn.values()).count(split) for split in SPLITS]
    assert counts_per_split == [220, 8, 20]
    assert all(drawn[f"p{i}_left"] == drawn[f"p{i}_right"] for i in range(10))
    assert drawn != _draw_videos(sorted(videos), 1)
    fewer = _draw_videos(sorted(videos)[5:], 0)  # another edition: nearly the same videos
    assert sum(drawn[video] != part for video, part in fewer.items()) <= 10


def test_small_draws():
    assert sorted(_draw_videos(list("abc"), 0).values()) == ["test", "train", "val"]
    pairs = _draw_videos([f"{name}_{side}" for name in "abc" for side in ("left", "right")], 0)
    assert sorted(pairs.values()) == ["test", "test", "train", "train", "val", "val"]
    mixed = _draw_videos(["a", "a_left", "a_right", "b", "c"], 0)
    assert len({mixed[video] for video in ("a", "a_left", "a_right")}) == 1


def test_the_seed_of_the_draw(tmp_path):
    root = write_small(tmp_path, **dict.fromkeys("defghij", ALL))
    list_file = str(tmp_path / "list.csv")
    drawn = {seed: parts(root, split_seed=str(seed), write_split=list_file)[0] for seed in range(3)}
    assert drawn[0] == parts(root)[0] and len({str(sorted(d.items())) for d in drawn.values()}) > 1
    assert all(sorted(d.values()).count("train") == 8 for d in drawn.values())


def test_the_order_of_the_file_system_does_not_matter(tmp_path, monkeypatch):
    root = write_small(tmp_path, **dict.fromkeys("defghij", ALL))
    first, scan, visited = load(root), os.scandir, []

    class Backwards:
        def __init__(self, folder):
            self.entries = sorted(scan(folder), key=lambda entry: entry.name)
            visited.append(folder)

        def __iter__(self):
            return self

        def __next__(self):
            if not self.entries:
                raise StopIteration
            return self.entries.pop()

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(os, "scandir", Backwards)
    second = load(root)
    assert second.frame.equals(first.frame) and list(second.notes.items()) == list(first.notes.items())
    assert len(visited) > 10  # os.walk looks through it too


# ---- the list of frames

def test_the_list_is_written_and_given_back(tmp_path):
    root = write_small(tmp_path / "root")
    write_labels(root, "a", "0.602,0.389 " * 6, "VA", "valence,arousal")
    _, drawn = parts(root, split_seed="3")
    text = (root / "affwild_split.csv").read_text()
    assert text.startswith("split,path,expression,valence,arousal,identity\n") and len(text.splitlines()) == 22
    assert "cropped_aligned/a/00002.jpg,Anger,0.602,0.389,a\n" in text
    assert "cropped_aligned/a/00007.jpg,Surprise,,,a\n" in text
    shutil.rmtree(root / ABAW3)  # the list is enough
    for name in (str(root / "affwild_split.csv"), "affwild_split.csv"):  # also by its name in the root
        _, second = parts(root, split_file=name)
        for split in SPLITS:
            assert second[split].equals(drawn[split])
    assert load(root, split_file="affwild_split.csv").notes["layout"] == (
        "Aff-Wild2, frames listed in affwild_split.csv (7 of train)")


def test_a_list_that_is_there_is_not_overwritten(tmp_path, monkeypatch):
    root = write_small(tmp_path / "root")
    assert not any("affwild_split" in key for _ in range(2) for key in load(root).notes)
    before = (root / "affwild_split.csv").read_bytes()
    assert sum("was left as it is" in key for key in load(root, split_seed="1").notes) == 1
    assert (root / "affwild_split.csv").read_bytes() == before
    for seed in "12":
        load(root, split_seed=seed, write_split=str(tmp_path / "new/list.csv"))
    assert (tmp_path / "new/list.csv").read_bytes() != before

    def refuse(path, text):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(affwild, "write_text", refuse)
    (root / "affwild_split.csv").unlink()
    assert any("cannot be written to the root (Permission denied" in key for key in load(root).notes)
    with pytest.raises(UserError, match="write_split=.*Permission denied"):
        load(root, write_split=str(tmp_path / "other.csv"))


LIST = "split,path,expression,valence,arousal,identity,comment\n"


def write_list(root, *rows, header=LIST):
    root.mkdir(exist_ok=True)
    (root / "list.csv").write_text(header + "".join(f"{row}\n" for row in rows))
    return load(root, "test", split_file=str(root / "list.csv"))


def test_a_list_of_other_makers(tmp_path):
    write_frames(tmp_path, "a", [1, 2, 3])
    write_frames(tmp_path, "b c", [7], "elsewhere")
    data = write_list(tmp_path, "test,cropped_aligned/a/00001.jpg,happiness,0.5,-0.25,a,", "",
                      "test, cropped_aligned/a/00002.jpg ,6,-5,-5,a,x", "test,cropped_aligned/a/00009.jpg,6,,,a,",
                      '"test",elsewhere/b c/00007.jpg,Sad,0.5,,d_left,', "train,nowhere/x/00001.jpg,Sad,,,d_right,")
    assert data.frame["id"].tolist()[:2] == ["a_00001", "a_00002"]
    assert data.frame["id"][2].startswith("b_c-") and data.frame["id"][2].endswith("_00007")
    assert data.frame["expression"].tolist() == [1, 6, 2]
    assert data.frame["identity"].tolist() == ["a", "a", "d_left"]
    np.testing.assert_array_equal(data.frame["valence"], [0.5, np.nan, np.nan])
    assert data.notes["listed but not on disk (cropped_aligned/a/00009.jpg)"] == 1
    assert data.notes["identity in more than one split (for example d)"] == 1
    assert data.notes["classes without an image"] == "Neutral, Surprise, Fear, Disgust"
    with pytest.raises(UserError, match="no usable image"):
        load(tmp_path, "val", split_file=str(tmp_path / "list.csv"))


@pytest.mark.parametrize("row, message", [
    ("dev,v/1.jpg,Sad,,,a,", "row 3: split 'dev' is not one of train, val, test"),
    ("test,/etc/1.jpg,Sad,,,a,", "row 3: path '/etc/1.jpg' leads out of the data folder"),
    ("test,v/../../1.jpg,Sad,,,a,", "leads out of the data folder"),
    ("test,..\\1.jpg,Sad,,,a,", "leads out of the data folder"),
    ("test,C:/1.jpg,Sad,,,a,", "leads out of the data folder"),
    ("test,,Sad,,,a,", "path '' leads out"),
    ("train,cropped_aligned/a/00001.jpg,Sad,,,a,", "row 3: path .* is listed twice"),
    ("test,v/1.jpg,Contempt,,,a,", "row 3: expression 'Contempt' is not one of Neutral, Happy"),
    ("test,v/1.jpg,7,,,a,", "expression '7' is not one of"),
    ("test,v/1.jpg,Sad,1.5,0,a,", "row 3: valence '1.5' is not in"),
    ("test,v/1.jpg,Sad,0,nan,a,", "row 3: arousal 'nan' is not in"),
    ("test,v/1.jpg,Sad,,,,", "row 3: identity '' is empty"),
    ("test,v/1.jpg,Sad", "row 3: 3 cells instead of 7"),
])
def test_a_list_with_a_bad_row_is_refused(tmp_path, row, message):
    write_frames(tmp_path, "a", [1])
    with pytest.raises(UserError, match=message):
        write_list(tmp_path, "test,cropped_aligned/a/00001.jpg,Sad,,,a,", row)


def test_other_errors_of_a_list(tmp_path):
    with pytest.raises(UserError, match="not so here: identity"):
        write_list(tmp_path, header="split,path,expression,valence,arousal\n")
    with pytest.raises(UserError, match="not so here: split"):
        write_list(tmp_path, header=f"split,{LIST}")
    with pytest.raises(UserError, match="no such file"):
        load(tmp_path, split_file="none.csv")
    with pytest.raises(UserError, match="leave out the other options"):
        load(tmp_path, split_file="list.csv", frames="10")
    write_frames(tmp_path, "a", [1])
    write_list(tmp_path, "test,cropped_aligned/a/00001.jpg,Sad,,,a,", "train,cropped_aligned/a/00001.png,Sad,,,a,")
    (tmp_path / "cropped_aligned/a/00001.png").touch()
    with pytest.raises(UserError, match="no usable image of Neutral, Happy, Surprise, Fear, Disgust, Anger"):
        load(tmp_path, split_file="list.csv")
    with pytest.raises(UserError, match="ids appear twice"):
        write_list(tmp_path, *(f"test,cropped_aligned/a/00001.{end},Sad,,,a," for end in ("jpg", "png")))


# ---- errors

@pytest.mark.parametrize("prepare, options, message", [
    (lambda root: shutil.rmtree(root), {}, "no such folder; --root should be the folder that holds"),
    (lambda root: shutil.rmtree(root / ABAW3.split("/")[0]), {}, "no expression labels: .*; found: cropped_aligned"),
    (lambda root: shutil.rmtree(root / "cropped_aligned"), {}, "no images: looked for .* cropped_aligned; found: 3rd"),
    (lambda root: shutil.rmtree(root / "cropped_aligned/a"), {}, "2 usable videos do not give"),
    (lambda root: write_small(root, a="0", b="0", c="0"), {}, "no usable image of Happy, Sad, Surprise, Fear"),
    (lambda root: None, {"frames": "0"}, "frames=0 is not a whole number from 1 on"),
    (lambda root: None, {"frames": "²"}, "frames=² is not a whole number"),
    (lambda root: None, {"split_seed": "-1"}, "split_seed=-1 is not a whole number from 0 on"),
    (lambda root: None, {"colour": "x"}, "no option colour; its options: edition"),
])
def test_errors_say_what_to_do(tmp_path, prepare, options, message):
    root = write_small(tmp_path / "root")
    prepare(root)
    with pytest.raises(UserError, match=message):
        load(root, **options)


def test_the_first_aff_wild_is_recognised(tmp_path):
    (tmp_path / "annotations/train/valence").mkdir(parents=True)
    with pytest.raises(UserError, match="valence and arousal only"):
        load(tmp_path)


def test_a_linked_image_folder_is_the_users_business(tmp_path):
    root = write_small(tmp_path / "root")
    before = load(root).frame
    (root / "cropped_aligned").rename(tmp_path / "cropped_aligned")
    (root / "cropped_aligned").symlink_to(tmp_path / "cropped_aligned")
    assert load(root).frame.equals(before)


def test_an_unreadable_folder_is_named(tmp_path, monkeypatch):
    root = write_small(tmp_path)

    def refuse(folder):
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(affwild.os, "scandir", refuse)
    monkeypatch.setattr(affwild, "_survey", lambda root: ({"": affwild.Edition({"a": root}, {})}, ["cropped_aligned"]))
    with pytest.raises(UserError, match="cropped_aligned: Permission denied"):
        load(root)


# ---- any bytes

@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory):
    root = write_small(tmp_path_factory.mktemp("fuzz"))
    write_labels(root, "a", "0.5,0.5 " * 7, "VA", "valence,arousal")
    return root


def survives(root, path, data):
    """Any content of a label file gives rows or a UserError."""
    before = path.read_bytes()
    path.write_bytes(data)
    try:
        load(root, "test")
    except UserError:
        pass
    finally:
        path.write_bytes(before)


MAYBE_HEADED = st.sampled_from([b"", HEADER.encode() + b"\n", b"valence,arousal\n", b"\xef\xbb\xbf"])
CELLS = st.lists(st.sampled_from([b"0", b"-1", b"7", b"1e400", b"9" * 25, b",", b"\n", b"\r", b"nan", b"-5", b'"',
                                  b"True"]), max_size=30).map(b"".join)
BYTES = st.builds(bytes.__add__, MAYBE_HEADED, st.binary(max_size=200) | CELLS)


@settings(max_examples=40, deadline=None)
@given(BYTES)
def test_expressions_never_break_on_any_bytes(fuzzed, data):
    survives(fuzzed, fuzzed / ABAW3 / TASKS["EXPR"] / "Train_Set/a.txt", data)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(BYTES)
def test_valence_and_arousal_never_break_on_any_bytes(fuzzed, data):
    survives(fuzzed, fuzzed / ABAW3 / TASKS["VA"] / "Train_Set/a.txt", data)


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(st.sampled_from([b"", LIST.encode()]), st.binary(max_size=200) | st.lists(st.sampled_from([
    b"test,", b"train,", b"cropped_aligned/a/00001.jpg,", b"a/b,", b"~,", b"Sad,", b"0,", b"a,", b",", b"\n", b'"',
    b"nan,", b"x\n"]), max_size=30).map(b"".join))
def test_a_list_never_breaks_on_any_bytes(fuzzed, header, data):
    path = fuzzed / "list.csv"
    path.write_bytes(header + data)
    try:
        load(fuzzed, "test", split_file=str(path))
    except UserError:
        pass


# ---- drawn faces in this layout

def test_splits_that_share_videos_note_what_both_lost(tmp_path):
    root = write_small(tmp_path, **dict.fromkeys("abc", " ".join([ALL] * 5)))
    for video in "abc":
        (root / f"cropped_aligned/{video}/00002.jpg").unlink()

    def dropped(**options):
        notes = [load(root, split, **options).notes for split in SPLITS]
        return [sum(own[key] for key in own if key.startswith("labelled frame")) for own in notes]

    assert dropped() == [1, 1, 1] and dropped(val_split="frames") == [2, 2, 1]


@pytest.fixture(scope="module")
def layout(tmp_path_factory):
    out = tmp_path_factory.mktemp("layout")
    write_layout(out, faces)
    return out


@pytest.mark.slow
def test_validation_on_frames_of_the_training_videos(layout, tmp_path):
    """What the FER-C release did; the test videos stay the same."""
    written = str(tmp_path / "list.csv")
    (_, whole), (_, frames) = (parts(layout, val_split=order, write_split=written) for order in ("identity", "frames"))
    assert frames["test"].equals(whole["test"])
    both = [set(one["train"]["path"]) | set(one["val"]["path"]) for one in (whole, frames)]
    assert both[0] == both[1] and not set(frames["train"]["path"]) & set(frames["val"]["path"])
    assert len(frames["train"]) > len(frames["val"])
    with pytest.raises(UserError, match="val_split=random is neither identity nor frames"):
        load(layout, val_split="random")


def test_the_layout_reads_back(layout):
    drawn, frames = parts(layout)
    assert {split: len(frame) for split, frame in frames.items()} == {"train": 190, "val": 20, "test": 19}
    assert len(drawn) == 12 and list(drawn.values()).count("train") == 10
    for frame in frames.values():
        assert (np.bincount(frame["expression"], minlength=7) > 0).all()
    assert drawn["10-60-1280x720_left"] == drawn["10-60-1280x720_right"]
    assert len(list(layout.rglob("*.jpg"))) == 296
    image = Image.open(layout / frames["train"]["path"].iloc[0])
    assert image.size == (112, 112) and image.mode == "RGB"
    assert read_image(layout / frames["test"]["path"].iloc[0], 32).std() > 20


def test_the_layout_has_the_quirks_of_the_release(layout):
    for reason, number in (("frame labelled -1", 12), ("frame of another expression (Other)", 32),
                         ("malformed line of expressions (for example video7.txt frame 6)", 1),
                         ("image without a line of its own (for example 15-24-1920x1080/00016.jpg)", 1)):
        assert noted(layout, reason) == number
    assert noted(layout, "labelled frame that is not on disk") >= 10
    rows = every(layout)
    assert "102-30-640x360_00030" in rows and "102-30-640x360_00031" not in rows  # a line more than frames
    by_video = {}
    for row in rows.values():
        by_video.setdefault(row["identity"], []).append(row)
    assert np.isnan([row["valence"] for row in by_video["video12"]]).all()
    assert sum(np.isnan(row["valence"]) for row in by_video["207"]) <= 1
    assert {row["path"].split("/")[0] for row in by_video["420"]} == {"cropped_aligned_new_50_vids"}
    assert {path.name for path in (layout / "cropped_aligned").iterdir()} >= {"77-30-1280x720", "500"}


@pytest.mark.parametrize("seed", range(6))
def test_every_draw_of_the_layout_trains_on_all_classes(layout, tmp_path, seed):
    frame = load(layout, split_seed=str(seed), write_split=str(tmp_path / "list.csv")).frame
    assert (np.bincount(frame["expression"], minlength=7) > 0).all()


@pytest.mark.slow
def test_the_layout_is_the_same_every_time(tmp_path):
    picture = np.random.default_rng(0).integers(0, 255, (224, 224, 3), np.uint8)

    def faces(split, count):
        for i in range(count):
            yield Face(picture, DEMO_CLASSES[i % 8], 1.2, -0.1, f"{split}-{i // 8}")

    for name in "ab":
        write_layout(tmp_path / name, faces)
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert len(files) == 296 + 12 + 11 + 2
    assert all((tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes() for file in files)
