"""The report on a data folder, and the cache of decoded pictures."""
import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from datasets import check, images, inspection
from datasets.demo import Args, main
from datasets.drawn import layouts
from datasets.drawn.faces import CLASSES, Face, image_labels
from datasets.images import open_cache, read_image
from support.errors import UserError
from support.random_streams import keyed_rng


def drawn(split, count):
    """Stand-ins for the drawn faces: their points, labels and identities, but noise for a picture."""
    for i in range(count):
        person, label, point = image_labels(0, split, i)
        image = keyed_rng("picture", split, i).integers(0, 256, (28, 28, 3), np.uint8).repeat(8, 0).repeat(8, 1)
        yield Face(image, CLASSES[label], *map(float, point), f"{split}-person-{person:04d}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The layout of FER+."""
    out = tmp_path_factory.mktemp("check") / "ferplus"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layouts, "faces", drawn)
        main(Args("ferplus", out))
    return out


def report(root, capsys, **changes):
    code = check.main(check.Args("ferplus", root, **changes))
    return code, capsys.readouterr().out


def test_a_usable_folder(folder, capsys):
    code, text = report(folder, capsys)
    assert code == 0 and text.rstrip().endswith("usable") and "not usable" not in text
    assert "train: 318 images; FER+ folders of PNG files, votes from FER2013Train/label.csv; labels: distrib" in text
    assert "fewer than half of the votes left (for example fer0000005.png): 2" in text
    assert "Happiness        40      9     12" in text and "train: 318 images here, 28709 officially (-28391)" in text


def test_counts_stand_below_their_names_and_val_repeats_nothing():
    """A data set whose val is held out of train and whose classes have official counts."""
    notes = {"cache": "kept", "listed but not on disk (a.jpg)": 1}
    facts = {"images": 3, "layout": "as released", "labels": "one class each", "identities": 0, "ranges": {},
             "counts": {"Sad": 1, "Anger": 2}}
    content = {"dataset": "any", "root": "here", "official": {"train+val": (2, 9), "test": (1, 2)}, "duplicates": {},
             "usable": True, "splits": {"train": facts | {"noticed": notes}, "val": facts | {"noticed": notes},
                                        "test": facts | {"noticed": {"face box without area (for example b)": 2}}}}
    text = "\n".join(inspection.report_lines(content))
    assert "val: 3 images; as released; labels: one class each\n  notes: as in train\n" in text
    assert text.count("(a.jpg): 1") == text.count("without area (for example b): 2") == 1
    assert "train+val: 6 images here, 11 officially (-5)" in text and "test: 3 images here, 3 officially\n" in text
    names, sad, anger = text.splitlines()[-5:-2]
    assert len(names) == len(sad) == len(anger) and sad.split() == ["Sad", "1", "1", "1", "2", "1"]
    assert [names.index(name) + len(name) for name in ("train+val, official", "test, official")] == [
        anger.index("  9") + 3, len(anger)]


def test_json_says_the_same(folder, capsys):
    code, text = report(folder, capsys, json=True)
    content = json.loads(text)
    train = content["splits"]["train"]
    assert code == 0 and content["usable"] and train["images"] == 318 == sum(train["counts"].values())


def test_broken_missing_and_doubled_pictures_are_named(folder, capsys, tmp_path):
    root = tmp_path / "ferplus"
    shutil.copytree(folder, root)
    test, train = (sorted((root / name).glob("*.png")) for name in ("FER2013Test", "FER2013Train"))
    test[0].write_bytes(b"no picture")
    test[1].unlink()
    shutil.copy(train[10], test[2])
    for other in test[11:15]:
        shutil.copy(test[10], other)
    code, text = report(root, capsys)
    assert code == 2
    assert f"problem: {test[0]}: not a readable image" in text and "not usable: 1 problem. Replace the unr" in text
    assert text.rstrip().endswith(f"look again: python -m datasets.check --dataset ferplus --root {root}")
    assert f"listed but not on disk ({test[1].name}): 1" in text
    assert f"equal pictures train, test: 1 groups, for example FER2013Train/{train[10].name}" in text
    assert "equal pictures within test: 1 groups" in text and f"{test[12].name} and 2 more\n" in text


def test_a_wrong_folder_is_not_usable(tmp_path, capsys):
    code, text = report(tmp_path, capsys)
    assert code == 2 and text.count("FER+ needs the folders FER2013Train, FER2013Valid, FER2013Test") == 1
    assert "not usable: 1 problem. Put this right, then look again: python -m datasets.check --dataset ferplus" in text


def test_a_problem_of_some_splits_names_them_once(folder, tmp_path, capsys):
    root = tmp_path / "fer plus"
    shutil.copytree(folder, root)
    for name in ("FER2013Train", "FER2013Valid"):
        (root / name / "label.csv").write_text('x.png,"(0, 0, 48, 48)",1\n')
    code, text = report(root, capsys, data=("labels=majority",))
    assert code == 2 and text.count("problem: train: no usable image") == text.count("problem: val: no usable") == 1
    assert "not usable: 2 problems" in text and "{" not in text
    assert text.rstrip().endswith(f"--root '{root}' --data labels=majority")
    (root / "FER2013Train/label.csv").unlink()
    shutil.rmtree(root / "FER2013Valid")
    (root / "fer2013new.csv").write_text("Usage,Image name\n")
    (root / "FER2013Valid").mkdir()
    code, text = report(root, capsys)
    assert text.count("problem: train, val: ") == 1 and text.count("no column neutral") == 1


@pytest.mark.parametrize("change", [{"dataset": "none"}, {"data": ("labels",)}, {"data": ("colour=red",)},
                                    {"root": Path("/nowhere")}])
def test_json_of_failures_is_json(folder, capsys, change):
    args = {"dataset": "ferplus", "root": folder, "json": True} | change
    assert check.main(check.Args(**args)) == 2
    content = json.loads(capsys.readouterr().out)
    assert content["usable"] is False and len(content["problems"]) == 1


def test_many_problems_are_counted(capsys):
    content = {"dataset": "any", "root": "here", "splits": {}, "official": {}, "duplicates": {}, "usable": False,
             "problems": [f"p{i}" for i in range(25)]}
    text = "\n".join(inspection.report_lines(content, "Do this."))
    assert "problem: p19\nand 5 more: --json lists all\nnot usable: 25 problems. Do this." in text


@pytest.mark.slow
@pytest.mark.parametrize("where", ["root", "datasets", "elsewhere"])
def test_check_runs_as_a_script(tmp_path, where):
    project = Path(check.__file__).parent.parent
    folder = {"root": project, "datasets": project / "datasets", "elsewhere": tmp_path}[where]
    command = [sys.executable, project / "datasets/check.py", "--dataset", "ferplus", "--root", tmp_path]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 2 and "not usable: 1 problem" in done.stdout and not done.stderr


@pytest.mark.slow
def test_layouts_go_to_new_folders_only(folder, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="not empty"):
        main(Args("ferplus", folder))
    monkeypatch.setattr(layouts, "faces", drawn)
    for layout in ("raf-ml", "rafdb"):  # one beside the other
        main(Args(layout, tmp_path / "rafdb"))
    assert sorted(path.name for path in (tmp_path / "rafdb").iterdir()) == ["RAF-ML", "basic"]
    with pytest.raises(UserError, match="not empty"):
        main(Args("raf-ml", tmp_path / "rafdb"))


def test_a_layout_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    def fail(split, count):
        yield from drawn(split, 5)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(layouts, "faces", fail)
    with pytest.raises(UserError, match="No space left"):
        main(Args("ferplus", tmp_path / "ferplus"))
    assert not list(tmp_path.iterdir())


def test_unknown_layouts_list_the_known(folder):
    with pytest.raises(UserError, match="known: .*ferplus"):
        main(Args("ferminus", folder))


# ---- the cache

@pytest.fixture
def pictures(folder):
    paths = sorted(folder.glob("FER2013Valid/*.png"))[:12]
    return paths, np.full((12, 4), np.nan)


def test_cache_holds_what_read_image_gives(pictures, tmp_path):
    paths, boxes = pictures
    boxes[3] = (4, 4, 40, 40)
    pixels = open_cache(tmp_path, paths, boxes, 32)
    assert pixels.shape == (12, 32, 32, 3) and len(pixels) == 12
    for i in range(12):
        np.testing.assert_array_equal(pixels[i], read_image(paths[i], 32, boxes[i]))


def test_cache_is_made_once_and_again_when_something_changes(pictures, tmp_path, monkeypatch):
    paths, boxes = pictures
    copies = [shutil.copy(path, tmp_path / path.name) for path in paths]
    calls, read = [], images.read_image
    monkeypatch.setattr(images, "read_image", lambda *arguments: (calls.append(1), read(*arguments))[1])
    for _ in range(2):
        open_cache(tmp_path / "cache", copies, boxes, 32)
    assert len(calls) == 12
    open_cache(tmp_path / "cache", copies, boxes, 48)
    shutil.copy(copies[1], copies[0])
    np.testing.assert_array_equal(open_cache(tmp_path / "cache", copies, boxes, 32)[0], read(paths[1], 32))
    boxes[0] = (0, 0, 20, 20)
    open_cache(tmp_path / "cache", copies, boxes, 32)
    assert len(calls) == 4 * 12


def test_cache_starts_at_once(pictures, tmp_path, monkeypatch):
    """Four at a time: one decodes, the others wait for it."""
    calls, read, results = [], images.read_image, []
    monkeypatch.setattr(images, "read_image", lambda *arguments: (calls.append(1), read(*arguments))[1])
    threads = [threading.Thread(target=lambda: results.append(open_cache(tmp_path, *pictures, 32))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 12 and len(results) == 4


def test_cache_that_fails_leaves_nothing(pictures, tmp_path, monkeypatch):
    paths, boxes = pictures
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"x")
    with pytest.raises(UserError, match="bad.png: not a readable image"):
        open_cache(tmp_path / "cache", [*paths[:11], bad], boxes, 32)
    assert not [path for path in (tmp_path / "cache").iterdir() if path.suffix != ".lock"]
    with pytest.raises(UserError, match="nowhere.png: No such file"):
        open_cache(tmp_path / "cache", [tmp_path / "nowhere.png"], boxes[:1], 32)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 1000}))
    with pytest.raises(UserError, match="do not fit into the 0.0 GiB"):
        open_cache(tmp_path / "cache", paths, boxes, 32)
