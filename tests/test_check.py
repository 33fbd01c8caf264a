"""The report on a data folder, and the cache of decoded pictures."""
import json
import shutil
import threading

import numpy as np
import pytest

from cli import UserError
from datasets import check, demo, images
from datasets.images import open_cache, read_image


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Drawn faces in the layout of FER+."""
    out = tmp_path_factory.mktemp("check") / "ferplus"
    demo.main(demo.Args("ferplus", out))
    return out


def report(root, capsys, **changes):
    code = check.main(check.Args("ferplus", root, **changes))
    return code, capsys.readouterr().out


def test_a_usable_folder(folder, capsys):
    code, text = report(folder, capsys)
    assert code == 0 and text.rstrip().endswith("usable") and "not usable" not in text
    assert "train: 318 images; FER+ folders of PNG files, votes from FER2013Train/label.csv; labels: distrib" in text
    assert "fewer than half of the votes left (for example fer0000005.png): 2" in text
    assert "Happiness                   40                 9                12" in text


def test_json_says_the_same(folder, capsys):
    code, text = report(folder, capsys, json=True)
    found = json.loads(text)
    train = found["splits"]["train"]
    assert code == 0 and found["usable"] and train["images"] == 318 == sum(train["counts"].values())


def test_broken_missing_and_doubled_pictures_are_named(folder, capsys, tmp_path):
    root = tmp_path / "ferplus"
    shutil.copytree(folder, root)
    test, train = (sorted((root / name).glob("*.png")) for name in ("FER2013Test", "FER2013Train"))
    test[0].write_bytes(b"no picture")
    test[1].unlink()
    shutil.copy(train[10], test[2])
    shutil.copy(test[10], test[11])
    code, text = report(root, capsys)
    assert code == 2
    assert f"problem: {test[0]}: not a readable image" in text and "not usable: 1 problems" in text
    assert f"listed but not on disk (for example {test[1].name}): 1" in text
    assert f"equal pictures train, test: 1 groups, for example FER2013Train/{train[10].name}" in text
    assert "equal pictures within test: 1 groups" in text


def test_a_wrong_folder_is_not_usable(tmp_path, capsys):
    code, text = report(tmp_path, capsys)
    assert code == 2 and "FER+ needs the folder FER2013Test" in text


def test_layouts_go_to_new_folders_only(folder):
    with pytest.raises(UserError, match="not empty"):
        demo.main(demo.Args("ferplus", folder))
    with pytest.raises(UserError, match="known: .*ferplus"):
        demo.main(demo.Args("ferminus", folder))


# ---- the cache

@pytest.fixture
def pictures(folder):
    paths = sorted(folder.glob("FER2013Valid/*.png"))[:12]
    return paths, np.full((12, 4), np.nan)


def test_cache_holds_what_read_image_gives(pictures, tmp_path):
    paths, boxes = pictures
    boxes[3] = (4, 4, 40, 40)
    pixels = open_cache(tmp_path, paths, boxes, 32)
    assert pixels.shape == (12, 32, 32, 3) and isinstance(pixels, np.memmap)
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
    monkeypatch.setattr(images.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 1000}))
    with pytest.raises(UserError, match="do not fit into the 0.0 GiB"):
        open_cache(tmp_path / "cache", paths, boxes, 32)
