"""Checkpoints of our own runs: read whole or refused by name, and written whole or not at all."""
import builtins
import errno
import os
import resource
import zipfile
from typing import get_type_hints

import pytest
import torch
from torch import nn


from models import checkpoints
import support.files
from support.errors import DamagedFile
from training.state import Checkpoint
import fuzz_checkpoints

STATE = {"model": {"a.weight": torch.arange(600.0).view(20, 30), "a.bias": torch.ones(3)}, "epoch": 3, "best": 0.5,
         "labels": torch.arange(8), "history": [{"epoch": 0}], "scores": {"ece": 0.1}, "sums": {}, "step": 0,
         "optimizer": {"state": {}, "param_groups": []}, "next_labels": torch.arange(8)}

KINDS = get_type_hints(Checkpoint) | checkpoints.BEST_FIELDS


def kinds(names):
    return {name: KINDS[name] for name in names}


@pytest.fixture
def path(tmp_path):
    checkpoints.write(tmp_path / "best.pt", STATE)
    return tmp_path / "best.pt"


def test_the_fields_that_are_asked_for(path):
    fields = checkpoints.read_fields(path, kinds(["model", "epoch"]))
    assert fields.keys() == {"model", "epoch"} and fields["epoch"] == 3  # nothing else of the file gets in
    assert torch.equal(fields["model"]["a.weight"], STATE["model"]["a.weight"])
    assert checkpoints.read_fields(path, kinds(STATE)).keys() == STATE.keys()
    assert checkpoints.read_fields(str(path), kinds(["step"])) == {"step": 0}


def refusal(path, fields=("model", "epoch")):
    with pytest.raises(DamagedFile) as caught:
        checkpoints.read_fields(path, kinds(fields))
    text = str(caught.value)
    assert str(path) in text and "\n" not in text and "\x1b" not in text and "weights_only" not in text
    return text


def test_missing_fields_are_named(path):
    checkpoints.write(path, {"scores": {}, "epoch": 1})
    assert "it lacks model, best" in refusal(path, ["model", "best", "epoch"])


@pytest.mark.parametrize("name, value", [
    ("model", [1]), ("model", {"a": 1}), ("model", {1: torch.zeros(1)}), ("model", {"a": torch.eye(2).to_sparse()}),
    ("epoch", "3"), ("epoch", 3.0), ("epoch", -1), ("epoch", True), ("best", "x"), ("labels", [1]), ("history", {}),
    ("scores", []), ("optimizer", None), ("labels", torch.zeros(2, device="meta")),
])
def test_wrong_types_are_named(path, name, value):
    checkpoints.write(path, STATE | {name: value})
    assert f"its field {name} is of the wrong type" in refusal(path, STATE)


def test_damage_of_any_byte_is_seen(path):
    """torch itself does not look at the checksums: a flipped bit would be another weight."""
    sound = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        at = archive.getinfo(f"{archive.namelist()[0].partition('/')[0]}/data/0").header_offset + 500
    path.write_bytes(sound[:at] + bytes([sound[at] ^ 64]) + sound[at + 1:])
    assert not torch.equal(torch.load(path, weights_only=True)["model"]["a.weight"], STATE["model"]["a.weight"])
    assert "the checksum of" in refusal(path)
    for length in (0, 3, 4, 100, len(sound) // 2, len(sound) - 1):
        path.write_bytes(sound[:length])
        assert "is damaged (" in refusal(path)
    for content in (os.urandom(5000), b"PK\x03\x04" + os.urandom(5000), b"\x80\x02.", b"[]", sound[::-1]):
        path.write_bytes(content)
        assert "is damaged (" in refusal(path)


@pytest.mark.parametrize("content", [nn.Linear(2, 2), [1, 2], torch.zeros(2), 5])
def test_what_the_project_never_writes(path, content):
    torch.save(content, path)
    assert "is damaged (" in refusal(path)
    torch.save({"model": {}, "epoch": 1}, path, _use_new_zipfile_serialization=False)
    assert "it is no checkpoint of PyTorch" in refusal(path)


def test_what_is_no_file(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        checkpoints.read_fields(tmp_path / "best.pt", kinds(["model"]))
    assert caught.value.filename == str(tmp_path / "best.pt") or caught.value.filename == tmp_path / "best.pt"
    os.mkfifo(tmp_path / "fifo")
    assert "is no regular file" in refusal(tmp_path / "fifo")
    assert "is no regular file" in refusal(tmp_path)


# ---- writing

@pytest.mark.parametrize("numbers", [3, 500_000])  # in the file's buffer until the end, and beyond it
def test_a_full_disk_is_said_with_the_files_name(path, monkeypatch, numbers):
    before = path.read_bytes()
    monkeypatch.setattr(support.files, "open", lambda name, *given, **more: builtins.open("/dev/full", "wb"),
                        raising=False)
    with pytest.raises(OSError) as caught:
        checkpoints.write(path, {"model": {"a": torch.zeros(numbers)}})
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(path))
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]


def test_a_file_that_may_not_grow(path):
    before, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
    try:
        with pytest.raises(OSError) as caught:
            checkpoints.write(path, {"model": {"a": torch.zeros(200_000)}})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(path))
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]


def test_other_failures_of_saving_stay_what_they_are(path):
    with pytest.raises(Exception, match="pickle") as caught:
        checkpoints.write(path, {"model": lambda: None})
    assert not isinstance(caught.value, OSError) and list(path.parent.iterdir()) == [path]


@pytest.mark.slow
def test_damaged_and_hostile_files_are_read_or_refused(small, tmp_path):
    counts, failures = fuzz_checkpoints.run(200, 0, tmp_path)
    assert not failures, "\n".join(failures)
    assert counts.keys() == {"weights", "best.pt", "last.pt", "description"}
    for count in counts.values():
        cases = sum(count.values()) - count["past the header"]
        assert count["past the header"] >= cases / 4 and count["read"] and count["refused"]
