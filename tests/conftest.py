"""What the tests share: a demo set drawn once a session, a FER-C set built from it, and the device.

On a machine with a GPU training and scoring run on it, as they do for users. The files of `DEVICE_FILES` do so; one
process of pytest-xdist runs all of them, since sixteen processes would not fit on one card.
"""
import os
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

import make_fer_c
from make_fer_c import Args
from training.options import MachineOptions

pytest_plugins = ["processes"]

SIZE = 32
OPTIONS = ("train=128", "val=16", "test=16")
ON_CUDA = torch.cuda.is_available()  # this alone starts nothing on the card
# Where the same bytes are expected, a card needs deterministic algorithms; a CPU has no others.
MACHINE = MachineOptions(precision="32", workers=0, deterministic=ON_CUDA)
DEVICE_FILES = ("test_batches", "test_cuda", "test_docs", "test_evaluate", "test_first_release", "test_graphs",
                "test_mivia_scoring", "test_model_scoring", "test_onnx_export", "test_openset", "test_runs",
                "test_scoring", "test_scripts", "test_sequence_scoring", "test_sources", "test_training")


def uses_device(file: str) -> bool:
    """Whether the tests of a file may compute on the card. file: its path."""
    return Path(file).stem in DEVICE_FILES


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """With `--dist loadfile` on a machine with a GPU: all tests that use it go to one process, the others by file."""
    if config.getoption("dist") != "loadfile" or not ON_CUDA:
        return None
    from xdist.scheduler import LoadFileScheduling

    class OneProcessOnTheDevice(LoadFileScheduling):
        def _split_scope(self, nodeid):
            file = super()._split_scope(nodeid)
            return "device" if uses_device(file) else file

    return OneProcessOnTheDevice(config, log)


def pytest_collection_modifyitems(items):
    """Skip what needs CUDA, where there is none."""
    if not ON_CUDA:
        for item in items:
            if item.get_closest_marker("cuda"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=True)
def device_is_declared(request):
    """Fails where a test starts CUDA in a process that runs no tests on the device."""
    started = torch.cuda.is_initialized()
    yield
    if not started and not uses_device(request.path):
        assert not torch.cuda.is_initialized(), f"add {request.path.stem} to DEVICE_FILES in tests/conftest.py"


@pytest.fixture(scope="session")
def device() -> torch.device:
    """Where training and scoring compute: the device that Fabric chooses."""
    from compute.devices import connect
    return connect("32-true").device


@pytest.fixture(autouse=True)
def no_flush(monkeypatch):
    """Tests write gigabytes of checkpoints that need not survive a power cut."""
    monkeypatch.setattr(os, "fsync", lambda file: None)
    monkeypatch.setattr(os, "sync", lambda: None)


class SmallResNet(nn.Module):
    """Stands in for ResNet-18: its parts, their names and shapes of output, at a hundredth of the price."""

    def __init__(self):
        super().__init__()

        def stage(inputs, outputs, stride):
            return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 5, stride=2, padding=2, bias=False), nn.BatchNorm2d(16)
        self.relu, self.maxpool = nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        self.layer1, self.layer2, self.layer3 = stage(16, 16, 1), stage(16, 16, 2), stage(16, 16, 2)
        self.layer4 = stage(16, 512, 2).append(nn.Dropout(0.1))
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d(1), None

    def forward(self, x):
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return self.fc(self.avgpool(self.layer4(self.layer3(self.layer2(self.layer1(x))))).flatten(1))


@pytest.fixture(scope="module")
def small():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("models.resnet.resnet18", SmallResNet)
        yield


@pytest.fixture
def whole(monkeypatch):
    """The real network again."""
    monkeypatch.setattr("models.resnet.resnet18", torchvision.models.resnet18)


@pytest.fixture(scope="session")
def demo_root(tmp_path_factory):
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="session")
def build_args(demo_root):
    """Arguments of a small build; `build_args(out=..., seed=1)` changes some."""
    def build(**changes):
        common = dict(dataset="demo", root=demo_root, data=OPTIONS, image_size=SIZE, workers=1)
        return Args(**common | changes)
    return build


@pytest.fixture(scope="session")
def built(build_args, tmp_path_factory):
    """A finished Demo-C of 16 images at 32 pixels; tests only read it."""
    out = tmp_path_factory.mktemp("built") / "Demo-C"
    make_fer_c.main(build_args(out=out))
    return out
