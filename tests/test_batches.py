"""Batches: the same bytes from files, from the cache and from the device; no thread is left; where a cache goes."""
import os
import sys
import threading
import types
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from compute.batches import Images, load_batches, move_to_device
from compute.devices import exact_float32, fast_arithmetic
from compute.predict import predict
from datasets import image_cache
from datasets.file_rows import read_rows
from datasets.images import inside, inside_all, read_image
from datasets.split import make_frame
from support.errors import UserError
from training import image_caches
from training.image_caches import attach_caches, has_room
from training.options import MachineOptions
from training.processes import Processes

COUNT, SIZE = 100, 16
SIZES = [16, 33]  # an image of 33 pixels has an odd number of bytes
BATCHES = [[99, 0, 31], [32], [5, 5, 64, 33, 98, 96, 97], list(range(40))]


class Fabric:
    """What loading needs of Lightning Fabric, with one process."""

    def __init__(self, device):
        self.device = device
        self.global_rank, self.world_size = 0, 1

    def broadcast(self, value):
        return value


@pytest.fixture
def fabric():
    return Fabric(torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu"))


@pytest.fixture
def frame(tmp_path):
    """100 pictures of 20 pixels, the first with a box."""
    rng = np.random.default_rng(5)
    names = [f"{number}.png" for number in range(COUNT)]
    for name in names:
        Image.fromarray(rng.integers(1, 256, (20, 20, 3), np.uint8)).save(tmp_path / name)
    frame = make_frame(id=names, path=names, expression=np.zeros(COUNT, np.int64))
    frame.loc[0, ["left", "top", "right", "bottom"]] = [2, 3, 18, 19]
    return frame


def cached(tmp_path, frame, size=SIZE):
    return Images(tmp_path, frame, size, tmp_path / "cache")


def as_lists(batches):
    return [(image.cpu(), index.tolist()) for image, index in batches]


def loading_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("batches")]


@pytest.fixture(params=["small", "large"])
def kind_of_cache(request, monkeypatch):
    """Caches that are read as small ones, and as large ones."""
    if request.param == "large":
        monkeypatch.setattr(image_cache, "SMALL", 0)


# --- reading rows

@pytest.mark.parametrize("read_rows", [read_rows, image_cache._read_rows])
def test_rows_of_a_file(tmp_path, read_rows):
    (tmp_path / "rows").write_bytes(bytes(range(100)))
    number = os.open(tmp_path / "rows", os.O_RDONLY)
    try:
        out = np.zeros((3, 2, 4), np.uint8)
        assert read_rows(number, np.array([11, 0, 3]), 4, out) == 3
        assert out.reshape(3, 8).tolist() == [list(range(92, 100)), list(range(4, 12)), list(range(28, 36))]
        assert read_rows(number, np.array([11, 12, 3]), 4, out) == 1  # row 12 ends behind the file
        assert read_rows(number, np.zeros(0, np.int64), 4, out[:0]) == 0
    finally:
        os.close(number)


def test_consecutive_rows_of_a_file(tmp_path):
    (tmp_path / "rows").write_bytes(bytes(range(100)))
    number, out = os.open(tmp_path / "rows", os.O_RDONLY), np.zeros((3, 2, 4), np.uint8)
    try:
        assert image_cache._read_consecutive_rows(number, np.arange(2, 5), 4, out) == 3
        assert out.ravel().tolist() == list(range(20, 44))
        assert image_cache._read_consecutive_rows(number, np.arange(10, 13), 4, out) == 2  # row 12 ends behind the file
        assert image_cache._read_consecutive_rows(number, np.arange(20, 23), 4, out) == 0
    finally:
        os.close(number)


def test_consecutive_pictures_need_no_compiled_code(tmp_path, frame, monkeypatch):
    """A split goes to the device in its order: loading numba for that would take longer than reading it."""
    monkeypatch.setattr(image_cache, "SMALL", 0)
    monkeypatch.setitem(sys.modules, "datasets.file_rows", None)  # its import fails
    cache = cached(tmp_path, frame).cached
    out = np.zeros((COUNT, SIZE, SIZE, 3), np.uint8)
    cache.gather(np.arange(COUNT), out)
    assert all((out[i] == cache[i]).all() for i in range(COUNT))
    out[:] = 0
    cache.gather(np.arange(90, 95), out)
    assert (out[:5] == [cache[i] for i in range(90, 95)]).all() and not out[5:].any()  # the rest stays as it was
    with pytest.raises(ImportError):
        cache.gather(np.arange(COUNT)[::-1].copy(), out)
    for outside in ([-1, 0], [COUNT - 1, COUNT], [2**63 - 1]):
        with pytest.raises(IndexError):
            cache.gather(np.array(outside), out)


def test_rows_that_cannot_be_read(tmp_path):
    (tmp_path / "rows").write_bytes(bytes(100))
    number, out = os.open(tmp_path / "rows", os.O_RDONLY), np.zeros((3, 2, 4), np.uint8)
    try:
        assert read_rows(number, np.array([-1, 0, 0]), 4, out) == 0
        with pytest.raises(ValueError, match="2 rows do not fit"):
            read_rows(number, np.array([0, 1]), 4, out)
    finally:
        os.close(number)
    assert read_rows(number, np.array([0, 1, 2]), 0, out) == 0  # a closed file


# --- the same bytes from everywhere

@pytest.mark.usefixtures("kind_of_cache")
@pytest.mark.parametrize("size", SIZES)
def test_every_way_gives_the_same_bytes(tmp_path, frame, fabric, size):
    decoded = as_lists(load_batches(fabric, Images(tmp_path, frame, size), BATCHES, 0))
    assert [index for _, index in decoded] == BATCHES
    np.testing.assert_array_equal(decoded[0][0][2].permute(1, 2, 0), read_image(tmp_path / "31.png", size))
    host = cached(tmp_path, frame, size)
    device = cached(tmp_path, frame, size)
    move_to_device(fabric, device)
    device.cached.file.unlink()  # it is not needed any more
    for images in (host, device):
        batches = as_lists(load_batches(fabric, images, BATCHES, 0))
        assert [index for _, index in batches] == BATCHES
        for (image, _), (expected, _) in zip(batches, decoded, strict=True):
            assert image.dtype == torch.uint8 and torch.equal(image, expected)
    assert list(load_batches(fabric, host, [], 0)) == []
    with pytest.raises(ValueError, match="has a cache"):
        move_to_device(fabric, Images(tmp_path, frame, size))


def test_a_split_that_goes_to_the_device_in_pieces(tmp_path, frame, fabric, monkeypatch):
    monkeypatch.setattr("compute.batches.CHUNK", 7 * SIZE * SIZE * 3)
    images = cached(tmp_path, frame)
    move_to_device(fabric, images)
    np.testing.assert_array_equal(images.resident.cpu(), np.stack([images.cached[i] for i in range(COUNT)]))


def test_a_batch_that_is_kept_is_not_written_over(tmp_path, frame, fabric):
    batches = [[i, COUNT - 1 - i] for i in range(COUNT)]
    images = cached(tmp_path, frame)
    kept = [image[0] for image, _ in load_batches(fabric, images, batches, 0)]  # a part keeps all of it
    for i, image in enumerate(kept):
        np.testing.assert_array_equal(image.cpu().permute(1, 2, 0), images.cached[i])


# --- damage

@pytest.mark.usefixtures("kind_of_cache")
@pytest.mark.parametrize("damage", ["cut", "gone", "black"])
def test_gathering_from_a_file_that_is_damaged_while_it_is_used(tmp_path, frame, fabric, damage, capfd):
    expected = as_lists(load_batches(fabric, Images(tmp_path, frame, SIZE), BATCHES, 0))
    images = cached(tmp_path, frame)
    if damage != "black":  # each block is checked once in a run, when it is read for the first time
        list(load_batches(fabric, images, BATCHES, 0))
    if damage == "cut":
        os.truncate(images.cached.file, 1000)
    elif damage == "gone":
        images.cached.file.unlink()
    else:
        with open(images.cached.file, "r+b") as pixels:
            pixels.seek(128)
            pixels.write(bytes(COUNT * SIZE * SIZE * 3))
    for (image, _), (right, _) in zip(as_lists(load_batches(fabric, images, BATCHES, 0)), expected, strict=True):
        assert torch.equal(image, right)
    assert capfd.readouterr().err.count("are damaged in it") == (0 if damage == "gone" else 1)
    if damage != "gone":  # the open file is still whole
        np.testing.assert_array_equal(np.load(images.cached.file), [images.cached[i] for i in range(COUNT)])


def test_each_block_is_hashed_once(tmp_path, frame, fabric, monkeypatch):
    images, hashed, original = cached(tmp_path, frame), [], image_cache._hash
    monkeypatch.setattr(image_cache, "_hash", lambda pixels: (hashed.append(1), original(pixels))[1])
    for _ in range(3):
        list(load_batches(fabric, images, BATCHES, 0))
    assert len(hashed) == 4


@pytest.mark.usefixtures("kind_of_cache")
def test_a_picture_whose_file_is_gone_is_decoded_again(tmp_path, frame, capfd):
    cache = cached(tmp_path, frame).cached
    first, second = cache[0], cache[1]  # their block is checked now
    cache.file.unlink()
    cache._open_file = None
    assert (cache[1] == second).all() and (cache[0] == first).all()
    assert capfd.readouterr().err.count("are damaged") == 1


def test_a_picture_that_cannot_be_decoded_again_is_named(tmp_path, frame, fabric):
    images = cached(tmp_path, frame)
    os.truncate(images.cached.file, 1000)
    (tmp_path / "3.png").write_bytes(b"x")
    with pytest.raises(UserError, match="3.png: not a readable image"):
        list(load_batches(fabric, images, BATCHES, 0))
    assert not loading_threads()
    with pytest.raises(IndexError):
        images.cached.gather(np.array([COUNT]), np.empty((1, SIZE, SIZE, 3), np.uint8))


# --- nothing is left behind

def test_abandoned_batches_leave_no_thread(tmp_path, frame, fabric):
    images = cached(tmp_path, frame)
    batches = load_batches(fabric, images, BATCHES, 0)
    next(batches)
    assert loading_threads()
    batches.close()
    assert not loading_threads()

    class Broken(torch.nn.Module):
        def forward(self, image):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict(fabric, Broken(), images, 8, 0)
    assert not loading_threads()


def test_chosen_images_come_from_the_caches_of_their_splits(tmp_path, frame, fabric, capsys):
    """In any order, from one split and from several: the bytes are those of the splits, and no other cache is made."""
    splits = [Images(tmp_path, frame.iloc[rows], SIZE) for rows in (slice(0, 60), slice(60, 80), slice(80, COUNT))]
    places = np.array([[2, 3], [0, 59], [0, 0], [2, 19], [0, 7]])  # none of the second split
    whole = Images(tmp_path, frame, SIZE)
    expected = np.stack([whole[row][0] for row in (83, 59, 0, 99, 7)])
    batches = [[0, 1, 2], [4, 3], [1, 2]]
    chosen = Images.of_rows(splits, places)
    np.testing.assert_array_equal(np.stack([chosen[i][0] for i in range(5)]), expected)  # decoded
    attach_caches((chosen,), MachineOptions(), tmp_path / "runs", Processes(fabric))
    assert len(list((tmp_path / "runs/cache").glob("*.npy"))) == 2 and splits[1].cached is None
    np.testing.assert_array_equal(np.stack([chosen[i][0] for i in range(5)]), expected)
    for image, index in load_batches(fabric, chosen, batches, 0):
        np.testing.assert_array_equal(image.cpu(), expected[index.cpu()])
    move_to_device(fabric, chosen)
    assert chosen.resident.shape == (5, SIZE, SIZE, 3)
    for image, index in load_batches(fabric, chosen, batches, 0):
        np.testing.assert_array_equal(image.cpu(), expected[index.cpu()])
    with pytest.raises(IndexError):
        chosen.cached.gather(np.array([5]), np.empty((1, SIZE, SIZE, 3), np.uint8))
    capsys.readouterr()
    again = Images.of_rows([Images(tmp_path, frame.iloc[:60], SIZE)], np.array([[0, 5]]))
    attach_caches((again,), MachineOptions(cache_on="host"), tmp_path / "runs", Processes(fabric))
    assert len(list((tmp_path / "runs/cache").glob("*.npy"))) == 2 and capsys.readouterr().out == ""


# --- where the cache goes

def attached(tmp_path, frame, fabric, **options):
    """The images after `attach_caches` with these options."""
    images = Images(tmp_path, frame, SIZE)
    attach_caches((images,), MachineOptions(**options), tmp_path / "runs", Processes(fabric))
    return images


def test_a_small_cache_is_made_without_asking(tmp_path, frame, fabric, capsys, monkeypatch):
    monkeypatch.delenv("FERC_CACHE", raising=False)
    images = attached(tmp_path, frame, fabric)
    assert images.cached.file.parent == tmp_path / "runs/cache"
    assert f"{tmp_path}/runs/cache: decoded images are kept here, 1 MB (--cache DIR takes" in capsys.readouterr().out
    monkeypatch.setattr(image_caches, "LARGEST_UNASKED", 1)
    assert attached(tmp_path, frame, fabric).cached is not None  # what is there already is used, and nothing is printed
    assert "kept" not in capsys.readouterr().out
    monkeypatch.setenv("FERC_CACHE", str(tmp_path / "elsewhere"))
    assert attached(tmp_path, frame, fabric).cached is None
    assert "every epoch; --cache DIR keeps them decoded: 1 MB" in capsys.readouterr().out
    monkeypatch.undo()
    monkeypatch.setenv("FERC_CACHE", str(tmp_path / "elsewhere"))
    assert attached(tmp_path, frame, fabric).cached.file.parent == tmp_path / "elsewhere"
    assert attached(tmp_path, frame, fabric, cache=tmp_path / "own").cached.file.parent == tmp_path / "own"
    assert attached(tmp_path, frame, fabric, no_cache=True).cached is None


def test_a_cache_that_nobody_asked_for_stops_no_training(tmp_path, frame, fabric, capsys, monkeypatch):
    monkeypatch.setenv("FERC_CACHE", str(tmp_path / "0.png"))
    assert attached(tmp_path, frame, fabric).cached is None
    assert "no images are kept decoded: the cache " in capsys.readouterr().out
    with pytest.raises(UserError, match="0.png: "):
        attached(tmp_path, frame, fabric, cache=tmp_path / "0.png")
    monkeypatch.setattr(image_caches, "free_space", lambda folder: 5 * image_cache.bytes_needed(COUNT, SIZE) - 1)
    monkeypatch.setenv("FERC_CACHE", str(tmp_path / "full"))
    assert attached(tmp_path, frame, fabric).cached is None
    with pytest.raises(UserError, match="--cache-on device needs decoded images, 1 MB on the disk: give --cache DIR"):
        attached(tmp_path, frame, fabric, cache_on="device")


def test_the_device_is_chosen(tmp_path, frame, fabric, monkeypatch):
    assert attached(tmp_path, frame, fabric, cache_on="device").resident is not None
    assert attached(tmp_path, frame, fabric, cache_on="host").resident is None

    def too_large(fabric, images):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(image_caches, "move_to_device", too_large)
    monkeypatch.setattr(image_caches, "has_room", lambda device, size: True)
    assert attached(tmp_path, frame, fabric).resident is None
    with pytest.raises(UserError, match="--cache-on host"):
        attached(tmp_path, frame, fabric, cache_on="device")


@pytest.mark.parametrize("free, own, size, expected", [
    (70, 0, 34, True), (70, 0, 35, False),  # half of the free memory
    (78, 1, 10, True), (77, 1, 10, True), (76, 1, 10, False),  # another program uses more than 2 GiB
])
def test_room_on_the_device(monkeypatch, free, own, size, expected):
    monkeypatch.delenv("FERC_JOBS_ON_A_DEVICE", raising=False)
    total = 80 if own else 71
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free * 2**30, total * 2**30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: own * 2**30)
    card = types.SimpleNamespace(type="cuda")
    assert has_room(card, size * 2**30) == expected
    assert not has_room(torch.device("cpu"), 1)
    monkeypatch.setenv("FERC_JOBS_ON_A_DEVICE", "2")
    assert not has_room(card, 1)


def test_options_that_contradict_each_other():
    from train_baseline import Args
    from training.options import TrainingOptions, check
    args = Args(TrainingOptions("demo"))
    args.machine = replace(args.machine, no_cache=True, cache="x")
    with pytest.raises(UserError, match="--cache x and --no-cache contradict each other"):
        check(args)
    args.machine = replace(args.machine, no_cache=True, cache=None, cache_on="device")
    with pytest.raises(UserError, match="does not go with --no-cache"):
        check(args)


# --- settings of a card

def test_fast_arithmetic_is_set_and_taken_back(monkeypatch):
    """Settings are only stored, so this needs no card."""
    now = torch.get_float32_matmul_precision
    before = now()
    with fast_arithmetic(torch.device("cuda")):
        assert now() == "high"
        with exact_float32():
            assert now() == "highest"
        assert now() == "high"
    assert now() == before
    with pytest.raises(KeyError), fast_arithmetic(torch.device("cuda")):
        assert now() == "high"
        raise KeyError
    with fast_arithmetic(torch.device("cpu")):
        assert now() == before
    assert now() == before


# --- paths

def test_paths_of_a_split():
    paths = ["a.png", "b/c.png", "b//c.png", "./a", "b/./c", "b/../c", ".a", "b/.c", "b/", "a..b", "b/..c", "ü\udcff",
             ""]
    for root in ("data", "data/", "/data", "/", ".", "", "./x/../y", "//a"):
        assert inside_all(root, paths) == [str(inside(root, path)) for path in paths]
    for path in ("../a", "/a", "b/../../a"):
        with pytest.raises(UserError, match="leads out of the data folder"):
            inside_all("data", ["a", path])
