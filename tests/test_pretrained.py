"""Weights to start from: the forms in which face and FER projects publish theirs, and what is refused."""
import gzip
import io
import os
import pickle
import sys
import tarfile
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file

from models import pretrained
from models.dmue import DMUE
from models.resnet import ResNet18
from models.swinv2 import TimmModel
from support.errors import UserError
from cases import mostly_slow

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


@pytest.mark.parametrize("form", mostly_slow(FORMS, fast=[1, 3]))
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
    """Half of the convolutions, 10 of 20: the half of the tensors that comes first in alphabetical order."""
    names = sorted(source)
    for count, enough in ((len(names) // 2, True), (len(names) // 2 - 1, False)):
        torch.save({name: source[name] for name in names[:count]}, tmp_path / "w.pth")
        if enough:
            assert len(pretrained.load(model, str(tmp_path / "w.pth"))["loaded"]) == count
        else:
            with pytest.raises(UserError, match="only 9 of the backbone's 20 tensors of convolutions and linear"):
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

    monkeypatch.setattr("torchvision.models.ResNet18_Weights.IMAGENET1K_V1.get_state_dict", offline, raising=False)
    model = build()
    monkeypatch.setattr("timm.create_model", offline)
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", offline)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(UserError, match=r"cannot be fetched \(no route to host\). Use --weights none .*--weights PATH"):
        pretrained.load(model, "imagenet")


# ---- another network

def refusal(model, path):
    """The message that the file is refused with; weights and the file's folder stay as they were."""
    before = {key: value.clone() for key, value in model.backbone.state_dict().items()}
    files = sorted(path.parent.iterdir())
    with pytest.raises(UserError) as caught:
        pretrained.load(model, str(path))
    assert all(torch.equal(value, before[key]) for key, value in model.backbone.state_dict().items())
    assert sorted(path.parent.iterdir()) == files
    text = str(caught.value)
    assert "\x1b" not in text and "weights_only argument" not in text and "add_safe_globals" not in text
    assert str(path) in text and len(text) < 1500
    return text


@pytest.mark.parametrize("build, prefix, message", mostly_slow([
    # BatchNorms of equal width made 97 of 120 tensors of this network fit
    (torchvision.models.resnet50, "", r"only 9 of the backbone's 20 .*'layer1.0.conv1.weight' has shape \(64, 64, 1"),
    (torchvision.models.resnet34, "", "network: it has 'layer1.2.conv1.weight', the backbone has no such layer"),
    (torchvision.models.resnet34, "module.backbone.", "network: it has 'module.backbone.layer1.2.conv1.weight'"),
    (torchvision.models.mobilenet_v3_small, "", "only 0 of the backbone's 20"),
    (lambda: timm.create_model("resnet18d"), "", "another network: 'layer2.0.downsample.1.weight' has shape"),
    (lambda: timm.create_model("seresnet18"), "", "another network: it has 'layer1.0.se.fc1.weight'"),
    (lambda: timm.create_model("test_vit"), "module.", "only 0 of the backbone's 20"),
], fast=[0, 5, 6]))
def test_another_network_is_refused(model, tmp_path, build, prefix, message):
    torch.save({prefix + key: value for key, value in build().state_dict().items()}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=message):
        pretrained.load(model, str(tmp_path / "w.pth"))


def test_another_stem_is_refused(model, source, tmp_path):
    torch.save(source | {"conv1.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / "w.pth")
    text = refusal(model, tmp_path / "w.pth")
    assert "another network: 'conv1.weight' has shape (64, 3, 3, 3), the backbone's is (64, 3, 7, 7)" in text


def test_another_number_of_classes_is_allowed(tmp_path):
    torch.save(timm.create_model("test_resnet", num_classes=7).state_dict(), tmp_path / "w.pth")
    report = pretrained.load(TimmModel(8, 32, "test_resnet", head="imagenet_logits"), str(tmp_path / "w.pth"))
    assert report["skipped"].keys() == {"fc.weight", "fc.bias"} and report["initialised"] == ["fc.bias", "fc.weight"]


def test_tables_of_positions_may_have_another_size(tmp_path):
    torch.save(timm.create_model("test_vit", img_size=96).state_dict(), tmp_path / "w.pth")
    report = pretrained.load(TimmModel(8, 32, "test_vit"), str(tmp_path / "w.pth"))
    assert report["initialised"] == ["pos_embed"]


def test_a_network_of_timm_with_our_classifier_beside_its_own(tmp_path):
    """Both are called `classifier` once the prefixes are gone."""
    name = "efficientnet_b0"
    source = TimmModel(8, 32, name, head="imagenet_logits")
    torch.save({"model": source.state_dict()}, tmp_path / "w.pth")
    report = pretrained.load(TimmModel(8, 32, name, head="imagenet_logits"), str(tmp_path / "w.pth"))
    assert not report["initialised"] and report["skipped"].keys() == {"classifier.weight", "classifier.bias"}
    assert report["inside"] == "model"


def test_two_networks_in_one_file_are_refused(model, source, tmp_path):
    both = source | {f"module.{key}": value + 1 for key, value in source.items()}
    torch.save(both, tmp_path / "w.pth")
    assert "two tensors for conv1.weight of the backbone, 'conv1.weight' and 'module.conv1.weight'" in refusal(
        model, tmp_path / "w.pth")


# ---- values

@pytest.mark.parametrize("change, message", [
    (lambda value: value * torch.nan, "not finite"), (lambda value: value / 0, "not finite"),
    (lambda value: value.double() + 1e300, "not finite"),  # too large for float32
    (lambda value: value.to(torch.int8), "numbers of the type int8, the backbone's are float32"),
    (lambda value: value.bool(), "numbers of the type bool"),
    (lambda value: value + 1j, "numbers of the type complex64"),
    (lambda value: value.to(torch.float8_e4m3fn), "numbers of the type float8_e4m3fn"),
    (lambda value: value.to_sparse(), "sparse, quantized or without values"),
    (lambda value: torch.quantize_per_tensor(value, 0.1, 0, torch.qint8), "sparse, quantized or without values"),
    (lambda value: value.to("meta"), "sparse, quantized or without values"),
])
def test_values_that_have_no_meaning_are_refused(small, tmp_path, change, message):
    model = ResNet18(8, 32)
    state = model.backbone.state_dict()
    torch.save(state | {"conv1.weight": change(state["conv1.weight"])}, tmp_path / "w.pth")
    text = refusal(model, tmp_path / "w.pth")
    assert message in text and "'conv1.weight'" in text


def test_negative_variances_are_refused(small, tmp_path):
    model = ResNet18(8, 32)
    torch.save(model.backbone.state_dict() | {"bn1.running_var": -torch.ones(16)}, tmp_path / "w.pth")
    assert "'bn1.running_var' holds negative variances" in refusal(model, tmp_path / "w.pth")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_converted(small, tmp_path, dtype):
    model, source = ResNet18(8, 32), {key: value.to(dtype) if value.is_floating_point() else value
                                      for key, value in ResNet18(8, 32).backbone.state_dict().items()}
    torch.save(source, tmp_path / "w.pth")
    assert not pretrained.load(model, str(tmp_path / "w.pth"))["initialised"]
    assert model.backbone.conv1.weight.dtype is torch.float32
    assert torch.equal(model.backbone.conv1.weight, source["conv1.weight"].float())


def test_views_of_one_storage_are_copied(small, tmp_path):
    model, storage = ResNet18(8, 32), torch.randn(1)
    state = model.backbone.state_dict()
    shared = {key: storage.expand(value.shape) for key, value in state.items() if key.endswith("weight")}
    torch.save(state | shared, tmp_path / "w.pth")
    pretrained.load(model, str(tmp_path / "w.pth"))
    weight = model.backbone.conv1.weight
    assert weight.is_contiguous() and (weight == storage).all()
    with torch.no_grad():
        weight[0, 0, 0, 0] += 1
    assert (model.backbone.layer1[0].weight == storage).all()


# ---- what is no file of plain tensors

class RecorderMeter:
    pass


class Runs:
    def __reduce__(self):
        return os.system, ("touch HACKED",)


def with_main(content):
    """What a script of the same content would have saved: its classes are of __main__."""
    file = io.BytesIO()
    module, RecorderMeter.__module__ = RecorderMeter.__module__, "__main__"
    main, sys.modules["__main__"] = sys.modules["__main__"], sys.modules[__name__]
    try:
        torch.save(content, file)
    finally:
        RecorderMeter.__module__, sys.modules["__main__"] = module, main
    return file.getvalue()


def saved(content, **options):
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def run_lines(text, monkeypatch):
    """Do what the message says, as a Python of its own would: the lines are of `__main__`."""
    with monkeypatch.context() as patch:
        main = types.ModuleType("__main__")
        patch.setitem(sys.modules, "__main__", main)
        exec("\n".join(line.strip() for line in text.splitlines()[1:]), vars(main))


NUMPY = "numpy._core.multiarray.scalar, numpy.dtype"


@pytest.mark.parametrize("content, classes", [
    (lambda net: with_main({"state_dict": {f"module.{key}": value for key, value in net.state_dict().items()},
                            "recorder": RecorderMeter()}), "__main__.RecorderMeter"),
    (lambda net: saved({"state_dict": net.state_dict(), "best": np.float64(88)}), NUMPY),
    (lambda net: saved({"state_dict": net.state_dict(), "best": np.float64(88)}, pickle_protocol=4), NUMPY),
    (lambda net: saved({"state_dict": net.state_dict(), "best": np.float64(88)}, _use_new_zipfile_serialization=False),
     NUMPY),
    (lambda net: saved({"weights_of_net": net.state_dict(), "where": Path("x")}), "pathlib.PosixPath"),
    (lambda net: saved(net.state_dict() | {"where": Path("x")}), "pathlib.PosixPath"),
    (lambda net: saved({"model": net}), "conftest.SmallResNet, torch.nn"),
    (lambda net: saved(net), "conftest.SmallResNet, torch.nn"),
    (lambda net: saved(net, _use_new_zipfile_serialization=False), "conftest.SmallResNet, torch.nn"),
])
def test_objects_are_named_and_the_lines_that_save_the_tensors_work(small, tmp_path, monkeypatch, content, classes):
    model, source = ResNet18(8, 32), ResNet18(8, 32).backbone
    path = tmp_path / "it's.pth"
    path.write_bytes(content(source))
    text = refusal(model, path)
    assert f"not a file of plain tensors: it holds {classes}" in text and "runs code from the file" in text
    assert len(text.splitlines()) == 4
    run_lines(text, monkeypatch)
    pretrained.load(model, str(tmp_path / "it's-tensors.pth"))
    torch.testing.assert_close(dict(model.backbone.state_dict()), dict(source.state_dict()), rtol=0, atol=0)


def test_another_protocol_of_pickle_is_said_and_the_lines_work(small, tmp_path, monkeypatch):
    model, source = ResNet18(8, 32), ResNet18(8, 32).backbone
    path = tmp_path / "w.pth"
    path.write_bytes(saved({"state_dict": source.state_dict()}, pickle_protocol=4))
    text = refusal(model, path)
    assert "written with protocol 4 of pickle" in text
    run_lines(text, monkeypatch)
    assert not pretrained.load(model, str(tmp_path / "w-tensors.pth"))["initialised"]


def test_a_file_that_would_run_something_is_no_case_for_advice(small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number, content in enumerate((saved({"state_dict": {"a": torch.zeros(1)}, "x": Runs()}), pickle.dumps(Runs()),
                                      saved(Runs(), _use_new_zipfile_serialization=False))):
        path = tmp_path / f"{number}.pth"
        path.write_bytes(content)
        text = refusal(ResNet18(8, 32), path)
        assert "would call posix.system" in text and "weights_only" not in text and "torch.load" not in text
    assert not (tmp_path / "HACKED").exists()


def test_a_class_whose_module_is_not_installed_is_said(small, tmp_path):
    data = saved({"state_dict": ResNet18(8, 32).backbone.state_dict(), "args": RecorderMeter()})
    path = tmp_path / "w.pth"
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            target.writestr(name, content.replace(b"ctest_pretrained\nRecorderMeter", b"cutils.meters_\xc3\xa9\nMeter")
                            .replace("meters_é".encode(), b"meters"))
    assert "Python, where its authors' module utils.meters can be imported, and give" in refusal(ResNet18(8, 32), path)


def test_other_wrappers_are_named_and_the_lines_work(small, tmp_path, monkeypatch):
    model, source = ResNet18(8, 32), ResNet18(8, 32).backbone.state_dict()
    path = tmp_path / "w.pth"
    torch.save({"net_state_dict": source, "epoch": 3}, path)
    text = refusal(model, path)
    assert "holds no tensors at its top, only 'net_state_dict', 'epoch'" in text and "weights_only=True" in text
    run_lines(text, monkeypatch)
    assert not pretrained.load(model, str(tmp_path / "w-tensors.pth"))["initialised"]
    torch.save({"state_dict": {"what": {"a": 1}}}, path)
    assert "holds no tensors under 'state_dict', only 'what'" in refusal(model, path)
    torch.save({}, path)
    assert "holds no tensors at its top, only nothing" in refusal(model, path)


SOUND = saved({"a": torch.zeros(300)})


def tar():
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("w.pth"))
    return file.getvalue()


def archive(*names):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as target:
        for name in names:
            target.writestr(name, b"x")
    return file.getvalue()


def flipped(data):
    with zipfile.ZipFile(io.BytesIO(data)) as opened:
        entry = opened.getinfo("archive/data/0")
    at = entry.header_offset + 200
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1:]


@pytest.mark.parametrize("content, message", [
    (b"", "is empty: its download or its copy failed"),
    (b"<!DOCTYPE html><html>not the file</html>", "is a web page, not a checkpoint"),
    (b"\xef\xbb\xbf\n <html lang='en'>", "is a web page"), (b'<?xml version="1.0"?><Error/>', "is a web page"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4\n", "git lfs pull"),
    (b"/annex/objects/SHA256E-s1--00", "git annex get"), (b"not found \x1b[31m", "is a text file"),
    (SOUND[:600], "cut short or damaged (600 bytes"), (SOUND[:-4], "cut short or damaged"),
    (flipped(SOUND), "the checksum of"), (tar(), "is a tar archive"), (gzip.compress(SOUND), "compressed by gzip"),
    (b"\x89HDF\r\n\x1a\n" + bytes(9), "HDF5"), (b"\x08\x07\x12\x07pytorch" + bytes(9), "ONNX"),
    (b"\x93NUMPY" + bytes(9), "NumPy array"),
    (archive("a.npy", "b.npy"), "NumPy archive"), (archive("model/w.pth", "README"), "a zip archive of 2 other"),
    (archive(), "is an empty zip"),
    (bytes(range(200, 256)), "not a file of plain tensors"), (bytes(500), "not a file of plain tensors"),
    (b"\x89PNG" + bytes(9), "is a picture"), (pickle.dumps({"a": np.zeros(3)}), "is a plain pickle"),
    (saved({"a": torch.zeros(3)}, _use_new_zipfile_serialization=False)[:60], "not a file of plain tensors, or dama"),
    (saved([1, 2]), "holds no state dict, but a list"), (saved(torch.zeros(3)), "holds no state dict, but a Tensor"),
    (saved({1: torch.zeros(3)}), "holds no tensors at its top, only '1'"), (saved(Path("x")), "and no tensors"),
], ids=lambda value: value if isinstance(value, str) else "file")  # archives hold the time: their bytes name no test
def test_each_kind_of_file_has_its_line(small, tmp_path, content, message, recwarn):
    path = tmp_path / "w.pth"
    path.write_bytes(content)
    text = refusal(ResNet18(8, 32), path)
    assert message in text and not recwarn.list
    if "pickle" not in text:
        assert len(text.splitlines()) == 1


def test_scripted_networks_and_safetensors(small, tmp_path, monkeypatch):
    model, source = ResNet18(8, 32), ResNet18(8, 32).backbone
    torch.jit.script(source).save(tmp_path / "scripted.pt")
    text = refusal(model, tmp_path / "scripted.pt")
    assert "is a TorchScript network, which holds code" in text
    run_lines(text, monkeypatch)
    assert not pretrained.load(model, str(tmp_path / "scripted-tensors.pth"))["initialised"]
    save_file(source.state_dict(), tmp_path / "model.safetensors")
    assert not pretrained.load(model, str(tmp_path / "model.safetensors"))["initialised"]
    (tmp_path / "model.bin").write_bytes((tmp_path / "model.safetensors").read_bytes())
    assert "rename it to end in .safetensors" in refusal(model, tmp_path / "model.bin")
    (tmp_path / "short.safetensors").write_bytes((tmp_path / "model.safetensors").read_bytes()[:-9])
    assert "not a file of plain tensors, or damaged" in refusal(model, tmp_path / "short.safetensors")
    (tmp_path / "other.safetensors").write_bytes(SOUND)
    assert "named .safetensors and not in that format" in refusal(model, tmp_path / "other.safetensors")


def test_what_is_no_regular_file(small, tmp_path):
    model = ResNet18(8, 32)
    (tmp_path / "run").mkdir()
    assert "is a folder; give the file in it" in refusal(model, tmp_path / "run")
    (tmp_path / "run" / "best.pt").touch()
    assert "give the file in it, best.pt" in refusal(model, tmp_path / "run")
    os.mkfifo(tmp_path / "fifo")
    assert "is no regular file" in refusal(model, tmp_path / "fifo")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert "cannot be read" in refusal(model, tmp_path / "loop")
    for path in ("/dev/zero", str(tmp_path / ("x" * 300)), "a\0b", str(tmp_path / "run" / "best.pt" / "x"), ""):
        with pytest.raises(UserError, match="no regular file|cannot be read|is a folder|no such file"):
            pretrained.load(model, path)


# ---- EfficientNet under the names of EfficientNet-PyTorch

def their_names(own):
    """{their name: timm's} of an EfficientNet's tensors, as EfficientNet-PyTorch counts blocks and names layers."""
    blocks = list(dict.fromkeys(".".join(name.split(".")[:3]) for name in own if name.startswith("blocks.")))
    parts = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1"}
    names = {}
    for name in own:
        if not name.startswith("blocks."):
            part, _, last = name.partition(".")
            names[f"{parts[part]}.{last}"] = name
            continue
        block, part, last = ".".join(name.split(".")[:3]), name.split(".")[3], name.split(".")[4]
        if f"{block}.conv_pwl.weight" in own:
            layers = {"conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv", "bn2": "_bn1",
                      "conv_pwl": "_project_conv", "bn3": "_bn2"}
        else:
            layers = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
        names[f"_blocks.{blocks.index(block)}.{layers[part]}.{last}"] = name
    return names


def test_an_efficientnet_under_other_names(tmp_path):
    from models.swinv2 import TimmModel

    model = TimmModel(8, 32, "tf_efficientnet_lite0")
    own = model.backbone.state_dict()
    wanted = {name: torch.rand_like(value) if value.is_floating_point() else value for name, value in own.items()}
    state = {f"module.{theirs}": wanted[name] for theirs, name in their_names(own).items()}
    assert len(state) == len(own)
    torch.save(state | {"module._fc.weight": torch.zeros(1000, 1280), "module._fc.bias": torch.zeros(1000)},
               tmp_path / "lite0.pth")
    report = pretrained.load(model, str(tmp_path / "lite0.pth"))
    assert all(torch.equal(value, wanted[name]) for name, value in model.backbone.state_dict().items())
    assert sorted(report["skipped"]) == ["classifier.bias", "classifier.weight"] and not report["initialised"]
