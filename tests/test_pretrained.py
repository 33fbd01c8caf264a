"""Weights to start from: the forms in which face and FER projects publish theirs, and what is refused."""
import pytest
import torch

from cli import UserError
from models import pretrained
from models.dmue import DMUE
from models.resnet import ResNet18
from models.swinv2 import TimmModel

SEQUENTIAL = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}


@pytest.fixture
def model(whole):
    torch.manual_seed(0)
    return ResNet18(8, 64)


@pytest.fixture
def source(whole):
    torch.manual_seed(1)
    return ResNet18(8, 64).backbone.state_dict()


def sequential(key):
    first, _, rest = key.partition(".")
    return f"{SEQUENTIAL[first]}.{rest}"


FORMS = {
    "bare": lambda state: state,
    "wrapped, of several GPUs": lambda state: {"epoch": 3, "state_dict": {f"module.{k}": v for k, v in state.items()}},
    "with a classifier": lambda state: state | {"fc.weight": torch.zeros(8631, 512), "fc.bias": torch.zeros(8631)},
    "of a face trainer": lambda state: {"state_dict": {f"module.feat_net.{k}": v for k, v in state.items()}
                                        | {"module.loss_layer.weight": torch.zeros(9, 512)}},
    "sequential": lambda state: {"model_state_dict": {f"features.{sequential(k)}": v for k, v in state.items()}
                                 | {"fc2.weight": torch.zeros(8, 512), "alpha.0.bias": torch.zeros(1)}},
    "our own best.pt": lambda state: {"model": {f"backbone.{k}": v for k, v in state.items()}
                                      | {"classifier.weight": torch.zeros(8, 512)}, "epoch": 1},
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_files(model, source, tmp_path, form):
    torch.save(FORMS[form](source), tmp_path / "w.pth")
    report = pretrained.load(model, str(tmp_path / "w.pth"))
    torch.testing.assert_close(dict(model.backbone.state_dict()), dict(source), rtol=0, atol=0)
    assert report["loaded"] == sorted(source) and report["initialised"] == [] and len(report["sha256"]) == 64
    unused = {"with a classifier": 2, "of a face trainer": 1, "sequential": 2, "our own best.pt": 1}.get(form, 0)
    assert len(report["skipped"]) == unused
    assert f"{len(source)} tensors loaded, {unused} skipped" in pretrained.summary(report)


def test_what_does_not_fit_is_named_with_its_reason(model, source, tmp_path):
    changed = source | {"conv1.weight": torch.zeros(64, 1, 7, 7), "mlp.bias": torch.zeros(2)}
    del changed["layer4.1.bn2.bias"]
    torch.save(changed, tmp_path / "w.pth")
    before = model.backbone.conv1.weight.clone()
    report = pretrained.load(model, str(tmp_path / "w.pth"))
    assert report["skipped"] == {"conv1.weight": "shape (64, 1, 7, 7), the backbone's is (64, 3, 7, 7)",
                                 "mlp.bias": "the backbone has no such tensor"}
    assert report["initialised"] == ["conv1.weight", "layer4.1.bn2.bias"]
    assert (model.backbone.conv1.weight == before).all()


def test_fewer_than_half_is_refused(model, source, tmp_path):
    names = sorted(source)
    for count, enough in ((len(names) // 2, True), (len(names) // 2 - 1, False)):
        torch.save({name: source[name] for name in names[:count]}, tmp_path / "w.pth")
        if enough:
            assert len(pretrained.load(model, str(tmp_path / "w.pth"))["loaded"]) == count
        else:
            with pytest.raises(UserError, match=f"only {count} of the backbone's {len(names)} tensors"):
                pretrained.load(model, str(tmp_path / "w.pth"))


def test_experts_take_the_loaded_stage(source, tmp_path):
    torch.save({"state_dict": {f"module.{key}": value for key, value in source.items()}}, tmp_path / "w.pth")
    model = DMUE(3, 64, stem="dmue", normalize="half")
    pretrained.load(model, str(tmp_path / "w.pth"))
    for expert in model.experts:
        assert (expert[1].conv2.weight == source["layer4.1.conv2.weight"]).all()


def test_weights_of_a_timm_network(tmp_path):
    source = TimmModel(8, 32, "test_resnet").backbone
    torch.save(source.state_dict(), tmp_path / "w.pth")
    model = TimmModel(6, 32, "test_resnet")
    assert not pretrained.load(model, str(tmp_path / "w.pth"))["initialised"]


@pytest.mark.parametrize("build", [lambda: ResNet18(8, 32), lambda: TimmModel(8, 32, "test_resnet")])
def test_weights_out_of_reach_are_said(small, monkeypatch, build):
    def offline(*arguments, **options):
        raise OSError("no route to host")

    monkeypatch.setattr("models.resnet.ResNet18_Weights.IMAGENET1K_V1.get_state_dict", offline, raising=False)
    model = build()
    monkeypatch.setattr("models.swinv2.timm.create_model", offline)
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", offline)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(UserError, match=r"cannot be fetched \(no route to host\). Use --weights none .*--weights PATH"):
        pretrained.load(model, "imagenet")
