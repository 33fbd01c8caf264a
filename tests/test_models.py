"""A run folder names the network that is built; it does not decide what is called."""
import copy
import json

import pytest
import timm
import torch
from timm.models.swin_transformer_v2 import SwinTransformerV2Block, WindowAttention

import models
from models.dmue import DMUE
from models.resnet import ResNet18
from models.rul import RUL
from models.scn import SCN
from models.swinv2 import TimmModel
from models.window_attention import AutocastLayerNorm, FusedWindowAttention, use_fused_attention
from support.errors import UserError


@pytest.mark.parametrize("build", [
    lambda: ResNet18(8, 32), lambda: SCN(7, 32), lambda: RUL(7, 48, dropout=0.1),
    lambda: DMUE(3, 32, stem="dmue", normalize="half", experts="split", missing="zero", test_scale=True, neck=True),
    lambda: TimmModel(8, 32, "test_resnet"), lambda: TimmModel(8, 32, "test_vit", 0.1, "imagenet_logits"),
])
def test_every_network_is_built_from_its_description(small, build):
    model = build()
    again = models.build_model(json.loads(json.dumps(model.description)))
    assert type(again) is type(model) and again.description == model.description
    again.load_state_dict(model.state_dict())


@pytest.mark.parametrize("name", [
    "models.checkpoints.write", "models.checkpoints.write_whole", "models.pretrained.load", "models.Model",
    "models.resnet.ResNetModel", "models.resnet.Model", "models.resnet.nn", "models.resnet.nn.Linear",
    "models.dmue.ResNetModel", "models.swinv2.timm", "models..resnet.ResNet18", "models.resnet.ResNet18 ",
    "models.resnet.ResNet18\n", "models.resnet.__builtins__", "models.resnet.__class__", "models.weights.X",
    "models.__init__.build_model", "os.system", "resnet.ResNet18", "ResNet18", "", "models.resnet.", "models.resnet",
    "models.../resnet.X", "modelsXresnet.ResNet18", None, 3, ["models.resnet.ResNet18"], {}, "x" * 10_000,
])
def test_only_networks_of_this_package_are_built(small, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    target = tmp_path / "thesis.txt"
    target.write_text("ten years")
    with pytest.raises(UserError, match="is no network of models/") as caught:
        models.build_model({"class": name, "arguments": {"path": str(target), "state": {}}})
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 200
    assert target.read_text() == "ten years" and [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("description", [None, [], {}, {"class": "models.resnet.ResNet18"},
                                    {"class": "models.resnet.ResNet18", "arguments": [8, 32]}])
def test_a_description_has_a_class_and_arguments(description):
    with pytest.raises(UserError, match="has to hold"):
        models.build_model(description)


SOUND = {"class": "models.dmue.DMUE", "arguments": {"num_classes": 3, "image_size": 32}}


@pytest.mark.parametrize("change, message", [
    ({"weights": "x"}, "has no argument 'weights'"), ({"self": 1}, "has no argument 'self'"),
    ({"num_classes": 1}, "num_classes"), ({"num_classes": 10**9}, "num_classes"),
    ({"num_classes": 8.0}, "num_classes"),
    ({"num_classes": True}, "num_classes"), ({"num_classes": "8"}, "num_classes"),
    ({"num_classes": [8]}, "num_classes"),
    ({"num_classes": 1000}, "at least 2 and at most 100 for num_classes"),  # 34 GB of experts
    ({"image_size": 8}, "image_size"), ({"image_size": 10**6}, "image_size"), ({"image_size": None}, "image_size"),
    ({"stem": "other"}, "'standard' or 'dmue' for stem, not 'other'"), ({"stem": None}, "stem"), ({"stem": []}, "stem"),
    ({"test_scale": 1}, "true or false for test_scale"), ({"dropout": float("nan")}, "dropout"),
    ({"neck": "yes"}, "neck"),
    ({"dropout": 1.5}, "a number at least 0 and at most 1 for dropout, not 1.5"), ({"dropout": False}, "dropout"),
])
def test_arguments_are_those_that_the_class_declares(monkeypatch, change, message):
    description = copy.deepcopy(SOUND)
    description["arguments"] |= change
    monkeypatch.setattr("models.resnet.resnet18", lambda *given, **more: pytest.fail("called"))
    with pytest.raises(UserError, match=message) as caught:
        models.build_model(description)
    assert "\n" not in str(caught.value)


def test_a_missing_argument_is_named():
    with pytest.raises(UserError, match="lacks num_classes"):
        models.build_model({"class": "models.scn.SCN", "arguments": {"image_size": 32}})
    with pytest.raises(UserError, match="lacks backbone"):
        models.build_model({"class": "models.swinv2.TimmModel", "arguments": {"num_classes": 3, "image_size": 32}})


@pytest.mark.parametrize("backbone", ["hf-hub:timm/resnet18", "local-dir:/tmp", "resnet_18", "/etc/passwd", 5, None])
def test_a_backbone_is_one_of_timms(monkeypatch, backbone):
    monkeypatch.setattr("timm.create_model", lambda *given, **more: pytest.fail("called"))
    with pytest.raises(UserError):
        models.build_model({"class": "models.swinv2.TimmModel",
                            "arguments": {"num_classes": 3, "image_size": 32, "backbone": backbone}})


def test_what_fails_inside_is_one_line(monkeypatch):
    def broken(*given, **more):
        raise KeyError("several\nlines")
    monkeypatch.setattr("models.resnet.resnet18", broken)
    with pytest.raises(UserError, match="models.resnet.ResNet18 cannot be built") as caught:
        models.build_model({"class": "models.resnet.ResNet18", "arguments": {"num_classes": 3, "image_size": 32}})
    assert "\n" not in str(caught.value)


# ---- fused attention

@pytest.mark.parametrize("is_shifted", [False, True])
def test_fused_attention_is_timms(is_shifted):
    """In float64: logits and gradients of every parameter, with and without the mask of shifted windows."""
    torch.manual_seed(0)
    attention = WindowAttention(24, (4, 4), 3).double()
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    fused = copy.deepcopy(attention)
    use_fused_attention(fused)
    assert type(fused) is FusedWindowAttention and fused.state_dict().keys() == attention.state_dict().keys()
    x = torch.randn(6, 16, 24, dtype=torch.float64)  # three images of two windows
    mask = torch.where(torch.rand(2, 16, 16, dtype=torch.float64) < 0.3, -100.0, 0.0) if is_shifted else None
    results = []
    for out, module in ((attention(x, mask), attention), (fused.fused(x, mask), fused)):
        out.square().sum().backward()
        results.append((out, [parameter.grad for parameter in module.parameters()]))
    torch.testing.assert_close(results[1], results[0], rtol=1e-8, atol=1e-8)


def test_fused_attention_in_bfloat16():
    """Under autocast outputs are within 3 % of the largest of float64, gradients within 5 %."""
    torch.manual_seed(0)
    exact = WindowAttention(24, (4, 4), 3).double()
    for parameter in exact.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    fused = copy.deepcopy(exact).float()
    use_fused_attention(fused)
    x = torch.randn(6, 16, 24, dtype=torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = fused.fused(x.float())
    assert rounded.dtype == torch.bfloat16
    for out in (exact(x), rounded):
        out.double().square().mean().backward()
    torch.testing.assert_close(rounded.double(), exact(x), rtol=0, atol=.03 * exact(x).abs().max().item())
    for name, parameter in exact.named_parameters():
        error = (fused.get_parameter(name).grad - parameter.grad).norm() / parameter.grad.norm()
        assert error < .05, name


def test_a_block_of_swin_keeps_bfloat16(monkeypatch):
    """A block on the way of a GPU, under autocast: bfloat16 in and out, and the numbers of float32 within 3 %."""
    torch.manual_seed(0)
    block = SwinTransformerV2Block(24, (8, 8), 3, window_size=4, shift_size=2)
    assert block(torch.randn(2, 8, 8, 24)).dtype == torch.float32
    other = copy.deepcopy(block)
    use_fused_attention(other)
    assert type(other.norm1) is AutocastLayerNorm and type(other.attn) is FusedWindowAttention
    assert other.state_dict().keys() == block.state_dict().keys()
    x = torch.randn(2, 8, 8, 24)
    assert (other(x) == block(x)).all()  # on a CPU nothing changes
    monkeypatch.setattr(FusedWindowAttention, "forward", FusedWindowAttention.fused)
    monkeypatch.setattr(AutocastLayerNorm, "forward", lambda norm, x: norm.in_type(x, torch.bfloat16))
    with torch.autocast("cpu", torch.bfloat16):
        out = other(x.bfloat16())
    assert out.dtype == torch.bfloat16
    assert (out - block(x)).norm() < .03 * block(x).norm()


# ---- names of timm

@pytest.mark.parametrize("old, new", [("tf_efficientnet_b0_ns", "tf_efficientnet_b0.ns_jft_in1k"),
                                      ("test_resnet.r160_in1k", "test_resnet.r160_in1k"), ("test_vit", "test_vit")])
def test_names_are_those_of_today(old, new, recwarn):
    model = TimmModel(3, 32, old)
    assert model.description["arguments"]["backbone"] == new
    assert not recwarn.list  # timm's own note of the mapping is for programmers
    assert model.eval()(torch.zeros(2, 3, 32, 32, dtype=torch.uint8)).shape == (2, 3)


@pytest.mark.parametrize("name, message", [
    ("resnet_18", r"timm has no network 'resnet_18' \(.*resnet18"), ("", "timm has no network ''"),
    ("ResNet18", r"timm has no network 'ResNet18' \(.*resnet18"), (".a1_in1k", "timm has no network"),
    ("resnet50.nonsense", r"no weights 'nonsense' for its network resnet50 \(resnet50.a1_in1k,"),
    ("vit_base_patch32_224_sam", "no weights 'sam' for its network"),  # timm's own table leads nowhere
    ("hf-hub:timm/resnet18", "no name of timm's own networks"), ("hf_hub:x/y", "no name of timm's own networks"),
    ("local-dir:/tmp", "no name of timm's own networks"), ("timm/resnet18.a1_in1k", "no name of timm's own networks"),
    ("../x", "no name of timm's own networks"), ("res*", "timm has no network"), ("[", "timm has no network"),
    ("resnet50.", "no weights '' for its network resnet50"), ("x" * 10_000, "timm has no network"),
])
def test_names_that_timm_does_not_have(name, message, monkeypatch):
    monkeypatch.setattr("timm.create_model", lambda *given, **more: pytest.fail("built"))
    with pytest.raises(UserError, match=message):
        TimmModel(3, 32, name)


def test_a_removed_network_is_said(monkeypatch):
    monkeypatch.setattr("timm.models.get_deprecated_models", lambda: {"gone": None, "moved": "test_resnet"})
    with pytest.raises(UserError, match="timm has no network 'gone' any more"):
        TimmModel(3, 32, "gone")
    assert TimmModel(3, 32, "moved").description["arguments"]["backbone"] == "test_resnet"


def test_a_network_without_stochastic_depth_names_the_way_out():
    with pytest.raises(UserError, match="train_baseline.py --backbone vgg11") as caught:
        TimmModel(3, 32, "vgg11", drop_path=0.1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("problem", [KeyError("x"), ImportError("No module named 'x'"), IndexError(),
                                     AttributeError("a\nb"), RuntimeError("first\nsecond")])
def test_a_network_that_cannot_be_built_is_one_line(monkeypatch, problem):
    def broken(*given, **more):
        raise problem
    monkeypatch.setattr("timm.create_model", broken)
    message = r"timm cannot build test_resnet for 32 pixels \(.*\). Choose another"
    with pytest.raises(UserError, match=message) as caught:
        TimmModel(3, 32, "test_resnet")
    assert "\n" not in str(caught.value)


def test_a_network_without_one_vector_an_image_is_refused(monkeypatch):
    class Maps(torch.nn.Module):
        def forward(self, image):
            return [image]
    monkeypatch.setattr("timm.create_model", lambda *given, **more: Maps())
    with pytest.raises(UserError, match="no single vector of features"):
        TimmModel(3, 32, "test_resnet")


def test_the_name_of_timms_weights(monkeypatch):
    model = TimmModel(3, 32, "test_resnet.r160_in1k")
    create = timm.create_model
    monkeypatch.setattr("timm.create_model",
                        lambda *given, pretrained=False, **more: create(*given, **more))
    assert model.imagenet_weights()[0] == TimmModel(3, 32, "test_resnet").imagenet_weights()[0]
    assert model.imagenet_weights()[0] == "test_resnet.r160_in1k"
    model.backbone.pretrained_cfg = model.backbone.pretrained_cfg | {"url": "", "file": "", "hf_hub_id": None}
    with pytest.raises(UserError, match="timm has no weights for test_resnet.* --weights none .* --weights PATH"):
        model.imagenet_weights()
