"""Small data shared by the tests: a demo set drawn once a session, and a FER-C set built from it."""
import os

import pytest

import make_fer_c

SIZE = 32
OPTIONS = ("train=128", "val=16", "test=16")


@pytest.fixture(autouse=True)
def no_flush(monkeypatch):
    """Tests write gigabytes of checkpoints that need not survive a power cut."""
    monkeypatch.setattr(os, "fsync", lambda file: None)
    monkeypatch.setattr(os, "sync", lambda: None)


@pytest.fixture(scope="session")
def demo_root(tmp_path_factory):
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="session")
def build_args(demo_root):
    """Arguments of a small build; `build_args(out=..., seed=1)` changes some."""
    def build(**changes):
        common = dict(dataset="demo", root=demo_root, data=OPTIONS, image_size=SIZE, workers=1)
        return make_fer_c.Args(**common | changes)
    return build


@pytest.fixture(scope="session")
def built(build_args, tmp_path_factory):
    """A finished Demo-C of 16 images at 32 pixels; tests only read it."""
    out = tmp_path_factory.mktemp("built") / "Demo-C"
    make_fer_c.main(build_args(out=out))
    return out
