"""Splits that are kept between starts: equal to what is parsed, and parsed anew after any change."""
import os
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from datasets import affectnet, file_states, image_cache, kept_splits, load_splits
from datasets.affectnet import CLASSES
from datasets.drawn.affectnet import COUNTS, write_2021, write_old
from datasets.drawn.faces import Face
from datasets.file_states import lines_of_states
from datasets.kept_splits import load_kept_splits
from datasets.split import Split, make_frame
from support.errors import UserError
from training.open_set import run as openset_run
from training.options import MachineOptions, TrainingOptions

IMAGES = "Manually_Annotated/Manually_Annotated_Images"
LISTS = "Manually_Annotated_file_lists"
PARTS = ("train", "val")


@pytest.fixture(autouse=True)
def small_and_new(monkeypatch, tmp_path):
    """Small sets are kept, too, right after they were written."""
    monkeypatch.setattr(kept_splits, "SMALLEST", 1)
    monkeypatch.setattr(kept_splits, "SETTLED", -3600)
    monkeypatch.setitem(COUNTS, "train", 80)
    monkeypatch.setitem(COUNTS, "test", 16)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user cache"))


def faces(split, count):
    """Grey pictures in place of faces."""
    for number in range(count):
        yield Face(np.full((20, 20, 3), number, np.uint8), CLASSES[number % 8], 0.3, -0.4, "nobody")


@pytest.fixture(params=[write_old, write_2021])
def root(request, tmp_path):
    request.param(tmp_path / "set", faces)
    return tmp_path / "set"


def load(folder, root, splits=PARTS, **options):
    return load_kept_splits(folder, "affectnet", root, splits, **options)


def assert_equal(splits, others):
    for split, other in zip(splits, others, strict=True):
        pd.testing.assert_frame_equal(split.frame, other.frame)
        assert split.classes == other.classes and split.sources == other.sources
        assert (split.distribution is None) == (other.distribution is None)
        if split.distribution is not None:
            assert np.array_equal(split.distribution, other.distribution)


@pytest.fixture
def parses(monkeypatch):
    """The number of times that the parser was called, as a list of one number."""
    count = [0]

    def load_several(*arguments, **options):
        count[0] += 1
        return original(*arguments, **options)

    original = affectnet.load_several
    monkeypatch.setattr(affectnet, "load_several", load_several)
    return count


def test_kept_splits_are_what_is_parsed(root, tmp_path, parses):
    fresh = load_splits("affectnet", root, PARTS)
    first, second = load(tmp_path / "cache", root), load(tmp_path / "cache", root)
    assert parses == [2]
    assert_equal(first, fresh)
    assert_equal(second, fresh)
    assert second[0].notes["layout"] == fresh[0].notes["layout"]
    second[0].frame.loc[0, "expression"] = 3  # a frame of one's own, which may be changed


def test_options_splits_and_roots_have_files_of_their_own(root, tmp_path, parses):
    for splits, options in ((PARTS, {}), (PARTS, {"classes": "7"}), (("train",), {})):
        for _ in range(2):
            assert_equal(load(tmp_path, root, splits, **options), load_splits("affectnet", root, splits, **options))
    assert len(list(tmp_path.glob("split-*.bin"))) == 3 and parses == [3 + 6]
    assert load(None, root) and len(list(tmp_path.glob("split-*.bin"))) == 3


def test_open_set_runs_use_kept_splits(tmp_path, parses, monkeypatch):
    def stop(precision):
        raise InterruptedError("the data is loaded")

    monkeypatch.setattr(openset_run, "connect", stop)
    options = TrainingOptions("affectnet", root=old(tmp_path), runs=tmp_path / "runs")
    args = SimpleNamespace(options=options, machine=MachineOptions(cache=tmp_path / "cache"),
                           open_set=SimpleNamespace(open="surprise"))
    for _ in range(2):
        with pytest.raises(InterruptedError):
            openset_run.open_set_run(args, tmp_path / "runs/seed0", {})
    assert parses == [1]


def old(tmp_path):
    write_old(tmp_path / "set", faces)
    return tmp_path / "set"


def append_row(root):
    path = root / LISTS / "training.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:-1]) + "\n")


def change_in_place(root):
    """As many bytes as before, and the old time of change."""
    path = root / LISTS / "training.csv"
    state = path.stat()
    text = path.read_text()
    with open(path, "r+") as file:
        file.write(text.replace(",0.", ",1.", 1))
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (state.st_size, state.st_mtime_ns)


def remove_picture(root):
    next(root.glob(f"{IMAGES}/*/*.jpg")).unlink()


def add_folder(root):
    (root / IMAGES / "new").mkdir()


def remove_folder(root):
    folder = next((root / IMAGES).iterdir())
    folder.rename(root / "elsewhere")


def add_other_release(root):
    (root / "train_set").mkdir()


def add_list_elsewhere(root):
    (root / "Manually_Annotated" / LISTS).mkdir(parents=True)
    (root / "Manually_Annotated" / LISTS / "training.csv").write_text("")


@pytest.mark.parametrize("change", [append_row, change_in_place, remove_picture, add_folder, remove_folder,
                                    add_other_release, add_list_elsewhere])
def test_every_change_of_a_source_is_noticed(tmp_path, parses, change):
    root = old(tmp_path)
    load(tmp_path, root)
    load(tmp_path, root)
    assert parses == [1]
    time.sleep(0.01)  # the clock of a file system is coarse
    change(root)
    try:
        changed = load(tmp_path, root)
    except UserError:  # the data set is no data set any more
        assert change in (add_other_release, remove_folder, add_list_elsewhere)
    else:
        assert_equal(changed, load_splits("affectnet", root, PARTS))
    assert parses[0] >= 2


def test_other_code_parses_again(tmp_path, parses, monkeypatch):
    root = old(tmp_path)
    load(tmp_path, root)
    monkeypatch.setattr(kept_splits, "code_version", lambda: "another")
    load(tmp_path, root)
    load(tmp_path, root)
    assert parses == [2]


def test_damaged_and_foreign_files_are_made_anew(tmp_path, parses):
    root = old(tmp_path)
    load(tmp_path, root)
    (path,) = tmp_path.glob("split-*.bin")
    path.unlink()  # the first parse wrote a scan, which is in the notes of the second
    fresh = load(tmp_path, root)
    data = path.read_bytes()
    rng = np.random.Generator(np.random.SFC64(0))
    flipped = []
    for place in [*range(0, 60, 7), *rng.integers(60, len(data), 12).tolist()]:
        flipped.append(data[:place] + bytes([data[place] ^ 1]) + data[place + 1:])
    for content in (b"", data[:20], data[:-1], data + b"x", b"\x80\x04K\x01." * 9, *flipped):
        path.write_bytes(content)
        before = parses[0]
        assert_equal(load(tmp_path, root), fresh)
        assert parses[0] == before + 1 and path.read_bytes() == data
    path.unlink()
    path.mkdir()
    assert_equal(load(tmp_path, root), fresh)


def test_a_file_of_another_set_is_not_taken(tmp_path, parses):
    root = old(tmp_path)
    load(tmp_path, root)
    load(tmp_path, root, classes="7")
    one, other = sorted(tmp_path.glob("split-*.bin"))
    other.write_bytes(one.read_bytes())
    for options in ({}, {"classes": "7"}):
        assert_equal(load(tmp_path, root, **options), load_splits("affectnet", root, PARTS, **options))


@pytest.mark.parametrize("column, value", [("id", "../../evil"), ("id", "test\n"), ("expression", 99),
                                           ("expression", -1)])
def test_what_a_foreign_file_holds_is_checked(tmp_path, monkeypatch, parses, column, value):
    """Someone who can write into the cache's folder gets nothing past the checks of a split."""
    root = old(tmp_path)
    fresh, splits = load_splits("affectnet", root, PARTS), load_splits("affectnet", root, PARTS)
    splits[0].frame.loc[3, column] = value
    with monkeypatch.context() as patch:
        patch.setattr(kept_splits, "load_splits", lambda *arguments, **options: splits)
        load(tmp_path, root)
    assert_equal(load(tmp_path, root), fresh)
    assert parses == [3]


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path, parses):
    root = old(tmp_path)
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", Path("/proc/nothing")):
        assert_equal(load(folder, root), load_splits("affectnet", root, PARTS))


def test_a_source_that_has_just_changed_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(kept_splits, "SETTLED", 10)
    load(tmp_path, old(tmp_path))
    assert not list(tmp_path.glob("split-*.bin"))


def test_small_sets_and_parsers_without_sources_keep_nothing(tmp_path, monkeypatch):
    load_kept_splits(tmp_path / "cache", "demo", tmp_path / "demo", PARTS, train="24", val="8")
    monkeypatch.setattr(kept_splits, "SMALLEST", 1000)
    load(tmp_path / "cache", old(tmp_path))
    assert not (tmp_path / "cache").exists()


def test_distributions_are_kept(tmp_path, monkeypatch):
    frame = make_frame(id=["a", "b"], path=["a.png", "b\udcff.png"], expression=np.array([0, 1]))
    frame = frame.astype({"path": object})
    split = Split(frame, np.array([[0.25, 0.75], [1, 0]]), ("Happy", "Sad"), {"layout": "x"},
                  frozenset([str(tmp_path)]))
    monkeypatch.setattr(kept_splits, "load_splits", lambda *arguments, **options: [split])
    for _ in range(2):
        assert_equal(load_kept_splits(tmp_path / "c", "affectnet", tmp_path, ("train",)), [split])


# ---- states of many files

def slow_lines(paths):
    states = [os.stat(path) for path in paths]
    return b"".join(os.fsencode(f"{path}\0{state.st_size}\0{state.st_mtime_ns}\n")
                    for path, state in zip(paths, states, strict=True))


@pytest.fixture
def files(tmp_path):
    paths = []
    for number in range(40):
        path = tmp_path / f"{number % 3}" / f"picture-ä\udcff {number}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x" * number)
        os.utime(path, ns=(0, [0, 1, -1, -1_500_000_001, 10**18 + number, 999_999_999][number % 6]))
        paths.append(str(path))
    (tmp_path / "link.jpg").symlink_to(paths[7])
    return [*paths, str(tmp_path / "link.jpg"), str(tmp_path)]


@pytest.mark.parametrize("most", [5, 10_000])
def test_states_are_those_of_the_system(files, monkeypatch, most):
    monkeypatch.setattr(file_states, "FILES_EACH", most)
    parts = lines_of_states(files)
    assert b"".join(parts) == slow_lines(files)
    assert len(parts) == min(len(os.sched_getaffinity(0)), 9 if most == 5 else 1)
    monkeypatch.chdir(Path(files[-1]))
    relative = [os.path.relpath(file) for file in files]
    for paths in (relative, relative[:1], [files[0], relative[0]], files[:1]):
        assert b"".join(lines_of_states(paths)) == slow_lines(paths)


def test_files_that_have_no_state(files):
    for wrong in (files[0] + "x", "a\0b", "", "\ud800", "/nowhere/x", files[0] + "/x"):
        assert lines_of_states([*files, wrong]) is None


@pytest.mark.parametrize("python", ["/nowhere/python", "/bin/false", None])
def test_states_without_processes(files, monkeypatch, python):
    monkeypatch.setattr(sys, "executable", python)
    assert lines_of_states(2_000 * files) is None  # more than a pipe holds


def test_a_process_whose_exit_code_is_lost(files):
    """A parent that ignores SIGCHLD passes that on to its children."""
    usual = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        assert b"".join(lines_of_states(files)) == slow_lines(files)
        assert lines_of_states([*files, "/nowhere/x"]) is None
    finally:
        signal.signal(signal.SIGCHLD, usual)


def test_keys_do_not_depend_on_how_they_are_computed(files, monkeypatch):
    boxes = np.full((len(files), 4), np.nan)
    usual = image_cache.cache_key(files, boxes, 64)
    monkeypatch.setattr(image_cache, "MANY", 1)
    assert image_cache.cache_key(files, boxes, 64) == usual == image_cache.cache_key([*map(Path, files)], boxes, 64)
    with pytest.raises(UserError, match="nothing.jpg: No such file or directory"):
        image_cache.cache_key([*files, "nothing.jpg"], np.full((len(files) + 1, 4), np.nan), 64)
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert image_cache.cache_key(files, boxes, 64) == usual
