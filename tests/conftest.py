"""Small data shared by the tests: a demo set drawn once a session, and a FER-C set built from it."""
import os

import pytest
import torchvision
from torch import nn

import make_fer_c
from make_fer_c import Args

pytest_plugins = ["processes"]

SIZE = 32
OPTIONS = ("train=128", "val=16", "test=16")


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
        self.fc = None

    def forward(self, x):
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return self.fc(self.layer4(self.layer3(self.layer2(self.layer1(x)))).mean((2, 3)))


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
