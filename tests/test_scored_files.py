"""What tests compare of a scoring: bytes on a CPU, values up to last digits on a card."""
import json

import numpy as np
import pytest

import conftest
from scored_files import TOLERANCE, contents, rows_of

LOGITS = np.array([[0.5, -1, 2]], np.float32)


def write(folder, shift=0.0, digest="ab", labels=(0, 1), version="v1"):
    """Files as a scoring writes them, whose numbers are shifted."""
    folder.mkdir()
    np.save(folder / "clean.npy", LOGITS + np.float32(shift))
    np.save(folder / "labels.npy", np.array(labels))
    (folder / "set.json").write_text(json.dumps({"set_version": version, "digests": {"clean": digest}}))
    (folder / "scores.csv").write_text(f"set,value\nDemo-C,{0.25 + shift}\nDemo-C,\n")
    (folder / "damaged.npy").write_bytes(b"mine")
    return folder


@pytest.fixture
def on_card(monkeypatch):
    monkeypatch.setattr(conftest, "ON_CUDA", True)


@pytest.mark.parametrize("changes", [{"shift": 1e-6}, {"digest": "cd"}])
def test_last_digits_count_on_a_cpu_alone(tmp_path, monkeypatch, changes):
    first, second = write(tmp_path / "first"), write(tmp_path / "second", **changes)
    monkeypatch.setattr(conftest, "ON_CUDA", False)
    assert contents(first) != contents(second)
    assert (rows_of(first) == rows_of(second)) == ("shift" not in changes)
    monkeypatch.setattr(conftest, "ON_CUDA", True)
    assert contents(first) == contents(second) and rows_of(first) == rows_of(second)


@pytest.mark.parametrize("changes", [{"shift": 2 * TOLERANCE}, {"labels": (1, 0)}, {"version": "v2"}])
def test_more_counts_on_a_card_too(tmp_path, on_card, changes):
    first, second = write(tmp_path / "first"), write(tmp_path / "second", **changes)
    assert contents(first) != contents(second)
    assert (rows_of(first) == rows_of(second)) == ("shift" not in changes)


def test_files_and_what_cannot_be_read(tmp_path, on_card):
    first, second = write(tmp_path / "first"), write(tmp_path / "second")
    assert contents(first)["damaged.npy"] == b"mine"
    np.save(second / "clean.npy", np.concatenate([LOGITS, LOGITS]))
    assert contents(first, "*.npy") != contents(second, "*.npy")
    (second / "clean.npy").unlink()
    assert contents(first, "*.npy").keys() - contents(second, "*.npy").keys() == {"clean.npy"}
