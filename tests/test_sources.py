"""Models that are no runs: every kind gives the logits that its network gives, and every mistake ends in a line.

The networks are those of small_models.py. Scoring with the command line is tested for every kind; those tests are slow.
"""
import json
import os
import re
import shutil
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import evaluate
import small_models
from cases import mostly_slow
from building.built_set import open_built_set
from evaluation.input_format import InputFormat
from evaluation.model_options import ModelOptions, check_machine, check_options, class_names, kind_of, model_name
from evaluation.source_kinds.source import Source, cpu_threads
from evaluation.sources import opened_model, put_together
from small_models import CLASSES, Means, expected
from support.errors import UserError
from support.optional_packages import pinned, require_packages

NAMES = ",".join(CLASSES)
REASON = "needs a package of requirements-optional.txt"


@pytest.fixture(scope="module")
def demo(built):
    """The demo set and its clean images, uint8 (N, 3, 32, 32)."""
    opened = open_built_set(built)
    images = np.stack([opened.pixels(i) for i in range(len(opened.frame))]).transpose(0, 3, 1, 2)
    return opened, torch.from_numpy(images.copy())


def logits_of(demo, model, **options):
    """(logits of the demo's clean images, facts) of a model."""
    built, images = demo
    with opened_model(ModelOptions(str(model), **options), [built], {}) as loaded, torch.no_grad():
        return loaded.module(images).numpy(), loaded


def message_of(demo, model, **options):
    """The error for a model."""
    built, _ = demo
    with pytest.raises(UserError) as caught, opened_model(ModelOptions(str(model), **options), [built], {}):
        pass
    assert len(str(caught.value)) < 600
    return str(caught.value)


def close(ours, wanted):
    return np.allclose(ours, wanted, atol=1e-4)


# ---- ONNX

def onnx_file(path, **options):
    pytest.importorskip("onnx", reason=REASON)
    pytest.importorskip("onnxruntime", reason=REASON)
    return small_models.write_onnx(path, **options)


@pytest.mark.parametrize("shape, text, images", [
    (("N", 3, 32, 32), "range=0..1", lambda x: x / 255),
    ((1, 3, 32, 32), "range=-1..1", lambda x: x / 127.5 - 1),  # a batch of one
    (("N", 3, "H", "W"), "range=0..1,colour=bgr", lambda x: x[:, ::-1] / 255),  # open sizes take the set's
    (("N", 32, 32, 3), "range=0..255", lambda x: x),
])
def test_onnx_files_are_read_by_their_shape(demo, tmp_path, shape, text, images):
    file = onnx_file(tmp_path / "net.onnx", shape=shape)
    logits, model = logits_of(demo, file, classes=NAMES, input=text)
    assert close(logits, expected(images(demo[1].numpy().astype(np.float64))))
    assert (model.name, model.classes, model.facts.kind, model.facts.parameters) == ("net", CLASSES, "onnx", 24)
    assert model.facts.output == "logits" and model.facts.changed == {} and model.facts.source == "net.onnx"
    assert model.facts.input.layout == ("nhwc" if shape[-1] == 3 else "nchw")


def test_an_onnx_file_that_takes_one_image_at_a_time_and_says_any(demo, tmp_path):
    file = onnx_file(tmp_path / "net.onnx", one_by_one=True)
    logits, _ = logits_of(demo, file, classes=NAMES, input="range=0..1")
    assert len(demo[1]) > 1 and close(logits, expected(demo[1].numpy() / 255))


def test_images_one_by_one_after_a_refusal():
    from evaluation.source_kinds.onnx_file import OneByOneIfRefused

    counts = []

    def function(array):
        counts.append(len(array))
        if len(array) == 3:
            raise RuntimeError("shape")
        if array[0, 0] < 0:
            raise ValueError("mine")
        return array[:1] * 2

    refusing = OneByOneIfRefused(function)
    assert np.array_equal(refusing(np.array([[1.0]])), [[2]]) and counts == [1]
    for array in (np.array([[1.0], [2], [3]]), np.array([[4.0], [5]])):
        assert np.array_equal(refusing(array), array * 2)
    assert counts == [1, 3, 1, 1, 1, 1, 1]
    too_few = OneByOneIfRefused(function)
    assert np.array_equal(too_few(np.array([[4.0], [5]])), [[8], [10]])
    for array in (np.array([[-1.0], [1], [1]]), np.array([[-1.0]])):
        with pytest.raises(ValueError, match="mine"):
            refusing(array)


def test_grey_bytes_of_another_size_and_probabilities(demo, tmp_path):
    file = onnx_file(tmp_path / "net.onnx", shape=("N", 1, 16, 16), dtype="uint8", softmax=True)
    logits, model = logits_of(demo, file, classes=NAMES)
    assert model.facts.input == InputFormat(16, "grey", dtype="uint8") and model.facts.output == "probabilities"
    assert np.allclose(np.exp(logits).sum(1), 1, atol=1e-3) and logits.min() >= np.log(0.99e-6)


def test_another_reading_of_the_same_network(demo, tmp_path):
    file = onnx_file(tmp_path / "net.onnx")
    built, images = demo
    with opened_model(ModelOptions(str(file), classes=NAMES, input="range=0..1"), [built], {"licence": "MIT"}) as model:
        other = model.reading(InputFormat.parse("range=0..255,colour=bgr"))
        assert close(other(images).numpy(), expected(images.numpy()[:, ::-1]))
        assert model.facts.statements == {"licence": "MIT"}


def test_metadata_of_an_exported_file_say_everything(demo, tmp_path):
    from evaluation.onnx_metadata import OnnxMetadata

    metadata = OnnxMetadata(InputFormat(size=32, dtype="uint8"), "logits", CLASSES, {"Demo-C": "ab"}).as_dict()
    file = onnx_file(tmp_path / "net.onnx", dtype="uint8", metadata=metadata)
    logits, model = logits_of(demo, file)
    assert close(logits, expected(demo[1].numpy())) and model.classes == CLASSES and model.facts.changed == {}
    _, model = logits_of(demo, file, classes=NAMES.replace("Happy", "Joy"), input="colour=bgr")
    assert model.facts.changed == {"classes": NAMES.replace("Happy", "Joy"), "input": "colour=bgr"}
    _, model = logits_of(demo, file, input="size=32")
    assert model.facts.changed == {}
    for change in ({"ferc_format": "9"}, {"ferc_classes": "[1]"}, {"ferc_input": "?"}, {"ferc_classes": "[" * 9999}):
        hostile = onnx_file(tmp_path / "hostile.onnx", dtype="uint8", metadata=metadata | change)
        assert "hostile.onnx" in message_of(demo, hostile)


def test_what_is_not_known_is_asked_for(demo, tmp_path):
    file = onnx_file(tmp_path / "net.onnx")
    assert message_of(demo, file) == (
        "net: the range of the values is not known; add one of --input range=0..255, --input range=0..1, --input "
        "range=-1..1, --input mean=0.5,std=0.5 (one number for each channel)")
    assert message_of(demo, file, input="range=0..1") == (
        f"net has 8 outputs and does not say which classes they are. State their names in the order of the outputs; "
        f"those of the set are --classes {NAMES}")
    assert message_of(demo, file, input="range=0..1", classes="sad,happy") == (
        "net has 8 outputs, and 2 classes are named (sad, happy); --classes names one for each output")
    assert message_of(demo, file, input="range=0..1,size=48", classes=NAMES) == (
        "--input size=48: net takes size=32 and nothing else")
    assert message_of(demo, file, input="range=0..1,colour=grey", classes=NAMES) == (
        "--input colour=grey: net takes 3 channels")
    assert "--output probabilities, but its outputs for a picture go from" in message_of(
        demo, file, input="range=0..1", classes=NAMES, output="probabilities")


@pytest.mark.parametrize("shape, message", [
    (("N", 3, 32), "shape (any, 3, 32); pictures are (N, C, H, W) or (N, H, W, C)"),
    (("N", 5, 32, 32), "neither C of (N, C, H, W) nor C of (N, H, W, C) is 1 or 3"),
    (("N", 3, 32, 48), "pictures of 32 x 48 pixels; those of a set are square"),
])
def test_inputs_that_are_no_pictures(demo, tmp_path, shape, message):
    file = onnx_file(tmp_path / "net.onnx")
    import onnx

    model = onnx.load(file)
    model.graph.node[0].op_type, model.graph.node[0].name = "Identity", "changed"
    dims = model.graph.input[0].type.tensor_type.shape
    del dims.dim[:]
    for length in shape:
        dim = dims.dim.add()
        if isinstance(length, int):
            dim.dim_value = length
        else:
            dim.dim_param = length
    del model.graph.node[:]
    model.graph.node.append(onnx.helper.make_node("Identity", ["images"], ["logits"]))
    model.graph.output[0].type.tensor_type.shape.CopyFrom(dims)
    onnx.save(model, file)
    assert message in message_of(demo, file, classes=NAMES, input="range=0..1")


@pytest.mark.parametrize("text, shown", [
    ("range=0..1", "range=0..1"), ("mean=0.5,0.5,0.5,std=0.5,0.5,0.5", "mean and std")])
def test_networks_of_bytes_take_no_other_range(demo, tmp_path, text, shown):
    file = onnx_file(tmp_path / "net.onnx", dtype="uint8")
    assert message_of(demo, file, classes=NAMES, input=text) == (
        f"--input {shown}: net takes uint8 pictures of range 0..255 and nothing else, and scales them itself")
    logits, _ = logits_of(demo, file, classes=NAMES, input="range=0..255")
    assert close(logits, expected(demo[1].numpy()))


def test_external_data_of_attributes_are_found(tmp_path):
    """Tensors of an attribute, of a graph in an attribute and of a function: all belong to the file's weights."""
    pytest.importorskip("onnx", reason=REASON)
    from onnx import TensorProto, helper

    from evaluation.source_kinds import onnx_file as module

    def constant(name):
        tensor = helper.make_tensor(name, TensorProto.FLOAT, [2, 3], bytes(24), raw=True)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        entry = tensor.external_data.add()
        entry.key, entry.value = "location", name
        return helper.make_node("Constant", [], [name], value=tensor)

    inner = helper.make_graph([constant("inner")], "inner", [], [])
    nodes = [constant("outer"), helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner)]
    model = helper.make_model(helper.make_graph(nodes, "whole", [], []))
    model.functions.append(helper.make_function("own", "f", [], ["f"], [constant("function")], []))
    for name in ("inner", "outer", "function"):
        (tmp_path / name).write_bytes(b"")
    files = module.external_files(model, tmp_path / "net.onnx")
    assert [file.name for file in files] == ["function", "inner", "outer"]
    assert module.parameters_of_graph(model) == 4 * 6
    (tmp_path / "inner").unlink()
    with pytest.raises(UserError, match="which is missing"):
        module.external_files(model, tmp_path / "net.onnx")


def test_damaged_and_hostile_onnx_files(demo, tmp_path):
    file = onnx_file(tmp_path / "net.onnx")
    whole = file.read_bytes()
    for name, content in (("cut", whole[:100]), ("empty", b""), ("text", b"hello"), ("zip", b"PK\x03\x04" + whole)):
        broken = tmp_path / f"{name}.onnx"
        broken.write_bytes(content)
        assert str(broken) in message_of(demo, broken, classes=NAMES, input="range=0..1")
    import onnx

    onnx.save(onnx.load(file), file, save_as_external_data=True, location="data.bin", size_threshold=0)
    before, _ = logits_of(demo, file, classes=NAMES, input="range=0..1")
    first = logits_of(demo, file, classes=NAMES, input="range=0..1")[1].weights_sha256
    data = np.fromfile(tmp_path / "data.bin", np.float32)
    (data * 2).tofile(tmp_path / "data.bin")
    after, model = logits_of(demo, file, classes=NAMES, input="range=0..1")
    assert close(after, 2 * before) and model.weights_sha256 != first  # external data belong to the hash
    (tmp_path / "data.bin").unlink()
    assert "which is missing; fetch both files" in message_of(demo, file, classes=NAMES, input="range=0..1")
    graph = onnx.load(file, load_external_data=False)
    graph.graph.initializer[0].external_data[0].value = "../../etc/passwd"
    file.write_bytes(graph.SerializeToString())
    assert "outside its folder" in message_of(demo, file, classes=NAMES, input="range=0..1")


# ---- TensorFlow Lite

def tflite_file(path, **options):
    pytest.importorskip("ai_edge_litert", reason=REASON)
    pytest.importorskip("flatbuffers", reason=REASON)
    return small_models.write_tflite(path, **options)


def test_tflite_files(demo, tmp_path):
    file = tflite_file(tmp_path / "net.tflite")
    logits, model = logits_of(demo, file, classes=NAMES, input="range=-1..1")
    assert close(logits, expected(demo[1].numpy() / 127.5 - 1)) and model.facts.input.layout == "nhwc"
    assert message_of(demo, file, classes=NAMES).startswith("net: the range of the values is not known")


def test_a_grey_tflite_file_of_probabilities(demo, tmp_path):
    file = tflite_file(tmp_path / "net.tflite", channels=1, softmax=True, size=24)
    message = message_of(demo, file, classes=NAMES, input="range=0..1")
    assert message == ("net gives numbers from 0 to 1 whose sum is 1: add --output probabilities, or --output logits "
                       "if they are logits all the same")
    logits, model = logits_of(demo, file, classes=NAMES, input="range=0..1", output="probabilities")
    assert np.allclose(np.exp(logits).sum(1), 1, atol=1e-3) and model.facts.input.colour == "grey"


@pytest.mark.parametrize("scale, zero, images", [
    (1 / 255, 0, lambda x: x / 255), (1 / 127.5, 127, lambda x: x / 127.5 - 1), (1.0, 0, lambda x: x)])
def test_quantised_inputs_say_their_range(demo, tmp_path, scale, zero, images):
    file = tflite_file(tmp_path / "net.tflite", quantised=(scale, zero))
    logits, model = logits_of(demo, file, classes=NAMES)
    wanted = expected(images(demo[1].numpy().astype(np.float64)))
    assert np.abs(logits - wanted).max() <= 3 * scale


def test_signed_bytes_in_and_out(demo, tmp_path):
    file = tflite_file(tmp_path / "net.tflite", quantised=(1 / 255, -128), quantised_output=(1 / 32, 5))
    logits, model = logits_of(demo, file, classes=NAMES)
    assert model.facts.input.range == "0..1"
    assert np.abs(logits - expected(demo[1].numpy() / 255)).max() <= 0.6 / 32 + 0.01
    assert np.allclose(logits * 32, np.round(logits * 32))
    file = tflite_file(tmp_path / "net.tflite", quantised=(1 / 128, -1), quantised_output=(1 / 256, -128), softmax=True)
    assert message_of(demo, file, classes=NAMES).startswith("net gives numbers from 0 to 1 whose sum is 1: add ")
    logits, model = logits_of(demo, file, classes=NAMES, output="probabilities")
    assert model.facts.input.range == "-1..1" and np.abs(np.exp(logits).sum(1) - 1).max() < 0.03


def test_damaged_tflite_files(demo, tmp_path):
    file = tflite_file(tmp_path / "net.tflite")
    for content in (b"", b"hello world", file.read_bytes()[:200]):
        (tmp_path / "broken.tflite").write_bytes(content)
        assert "broken.tflite" in message_of(demo, tmp_path / "broken.tflite", classes=NAMES, input="range=0..1")


def test_a_tflite_file_refuses_another_size_and_goes_on(demo, tmp_path):
    file = tflite_file(tmp_path / "net.tflite", flatten=True)
    wanted = expected(demo[1].numpy() / 255)
    with opened_model(ModelOptions(str(file), classes=NAMES, input="range=0..1"), [demo[0]], {}) as model:
        assert model.has_fixed_size
        for other in (64, 16):  # more and fewer pictures than before
            assert close(model.module(demo[1]).numpy(), wanted)
            with pytest.raises(ValueError, match="takes pictures of shape"):
                model.reading(InputFormat(other, range="0..1", layout="nhwc"))(demo[1][:5])
            with pytest.raises(ValueError, match="takes pictures of shape"):
                model.reading(InputFormat(other, range="0..1", layout="nhwc"))(demo[1])
            assert close(model.module(demo[1][:3]).numpy(), wanted[:3])


def test_bytes_of_tflite_without_a_scale(monkeypatch, demo, tmp_path):
    """The file that takes int8 numbers and does not say what they mean is refused."""
    entry = {"dtype": np.int8, "shape": np.array([1, 32, 32, 3]), "shape_signature": np.array([1, 32, 32, 3]),
             "quantization": (0.0, 0)}
    interpreter = type("Interpreter", (), {"get_input_details": lambda self: [entry],
                                           "get_output_details": lambda self: [entry]})
    monkeypatch.setattr("evaluation.source_kinds.tflite_file.new_interpreter", lambda path: interpreter())
    monkeypatch.setattr("evaluation.source_kinds.tflite_file.require_packages", lambda *names: None)
    (tmp_path / "net.tflite").write_bytes(b"")
    assert "takes int8 numbers and does not say their scale" in message_of(
        demo, tmp_path / "net.tflite", classes=NAMES, input="range=0..255")


# ---- transformers

@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    pytest.importorskip("transformers", reason=REASON)
    folder = tmp_path_factory.mktemp("hf") / "vit"
    return folder, small_models.write_transformers(folder)


@pytest.mark.slow  # transformers is imported
def test_a_folder_of_transformers_says_everything(demo, vit):
    folder, network = vit
    logits, model = logits_of(demo, f"hf:{folder}")
    with torch.no_grad():
        assert close(logits, network(pixel_values=demo[1] / 127.5 - 1).logits.numpy())
    assert model.classes == ["angry", "disgust", "fear", "happy", "neutral", "sad", "surprise"]
    assert model.facts.input == InputFormat(32, range="standardised", mean=(0.5,) * 3, std=(0.5,) * 3)
    assert (model.name, model.facts.source) == ("vit", "hf:vit")


@pytest.mark.slow  # transformers is imported
def test_a_classifier_that_is_not_stored_is_not_drawn_at_random(demo, vit, tmp_path):
    """A network without a classifier may have as many tensors that a network with one lacks."""
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(vit[0], tmp_path / "vit")
    tensors = load_file(folder / "model.safetensors")
    for name in ("classifier.weight", "classifier.bias"):
        tensors[name.replace("classifier", "pooler.dense")] = tensors.pop(name)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    assert "2 tensors of the network are not in its files, for example classifier.bias" in message_of(
        demo, f"hf:{folder}")


@pytest.mark.parametrize("entries", [
    {"image_processor_type": "EfficientNetImageProcessor"}, {"include_top": True}, {"rescale_offset": True},
    {"do_flip_channel_order": True}, {"do_pad": True}])
def test_preprocessing_that_cannot_be_described(tmp_path, entries):
    pytest.importorskip("transformers", reason=REASON)
    from evaluation.source_kinds.transformers_folder import fields_of_preprocessor

    usual = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": 32}
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps(usual | {"include_top": False, "do_pad": False}))
    assert fields_of_preprocessor(tmp_path)["mean"] == (0.5,) * 3
    path.write_text(json.dumps(usual | entries))
    with pytest.raises(UserError, match="this preprocessing is not understood"):
        fields_of_preprocessor(tmp_path)


@pytest.mark.slow
def test_damaged_and_hostile_folders_of_transformers(demo, vit, tmp_path):
    folder = shutil.copytree(vit[0], tmp_path / "vit")
    config = json.loads((folder / "config.json").read_text())

    def said(**changes):
        (folder / "config.json").write_text(json.dumps(config | changes))
        return message_of(demo, f"hf:{folder}")

    assert "has shape" in said(hidden_size=32, intermediate_size=32)
    assert "hidden_size is 100000000, and no network has that many" in said(hidden_size=10**8)
    assert "num_hidden_layers is 5000" in said(num_hidden_layers=5000)
    assert "cannot load it as a network for image classification" in said(model_type="unknown")
    assert "does not say which classes" in said(id2label={str(k): f"LABEL_{k}" for k in range(7)})
    assert "id2label does not name the outputs" in said(id2label={str(k): "abcdefg"[k - 1] for k in range(1, 8)})
    own = tmp_path / "own.py"
    own.write_text(f"open({str(tmp_path / 'was run')!r}, 'w')")
    shutil.copy(own, folder / "own.py")
    said(model_type="mine", auto_map={"AutoConfig": "own.Config", "AutoModelForImageClassification": "own.Net"})
    assert not (tmp_path / "was run").exists()
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text('{"do_normalize": true, "image_mean": "x"}')
    assert "this preprocessing is not understood" in message_of(demo, f"hf:{folder}")
    (folder / "preprocessor_config.json").unlink()
    assert "the range of the values is not known" in message_of(demo, f"hf:{folder}")
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 2**60))
    assert "is no safetensors file, or damaged" in message_of(demo, f"hf:{folder}")
    (folder / "model.safetensors").unlink()
    assert "only weights in the format safetensors are read" in message_of(demo, f"hf:{folder}")
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../../x.safetensors"}}')
    assert "which is no safetensors file of this folder" in message_of(demo, f"hf:{folder}")
    assert "there is no such folder. Nothing is fetched" in message_of(demo, f"hf:{tmp_path / 'absent'}")


# ---- torch: exported programs, TorchScript, timm

@pytest.mark.parametrize("batch", mostly_slow([None, 1, 3], fast=[0]))
def test_exported_programs(demo, tmp_path, batch):
    file = small_models.write_pt2(tmp_path / "net.pt2", batch)
    logits, model = logits_of(demo, file, classes=NAMES, input="range=0..1", trust_code=True)
    assert close(logits, expected(demo[1].numpy() / 255)) and model.facts.parameters == 24


def test_torchscript(demo, tmp_path):
    for name in ("net.torchscript", "net.ts", "net.pt"):
        file = small_models.write_torchscript(tmp_path / name)
        logits, _ = logits_of(demo, file, classes=NAMES, input="range=0..1", trust_code=True)
        assert close(logits, expected(demo[1].numpy() / 255))


def test_files_of_torch_that_are_none(demo, tmp_path):
    options = dict(classes=NAMES, input="range=0..1", trust_code=True)
    torch.save(Means().state_dict(), tmp_path / "weights.pt")
    assert "holds no TorchScript network. A file of weights needs its network" in message_of(
        demo, tmp_path / "weights.pt", **options)
    whole = small_models.write_pt2(tmp_path / "whole.pt2").read_bytes()
    for content in (b"hello", b"", whole[:-100]):
        (tmp_path / "net.pt2").write_bytes(content)
        assert "is no file of torch.export.save: it is empty, incomplete" in message_of(
            demo, tmp_path / "net.pt2", **options)
    with zipfile.ZipFile(tmp_path / "net.pt2", "w") as archive:
        archive.writestr("a", "b")
    assert "torch.export cannot load it" in message_of(demo, tmp_path / "net.pt2", **options)
    with zipfile.ZipFile(tmp_path / "bomb.ts", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/constants.pkl", b"\0" * 10**6)
    assert "bomb.ts" in message_of(demo, tmp_path / "bomb.ts", **options)


class Odd(torch.nn.Module):
    """A network whose outputs are none."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def forward(self, x):
        means = x.mean((2, 3))
        if self.kind == "pair":
            return means, means
        if self.kind == "rank":
            return x
        if self.kind == "integers":
            return means.argmax(1)[:, None].repeat(1, 8)
        return means / 0 * 0


@pytest.mark.parametrize("kind, message", [
    ("pair", "net gives a tuple of 2, not one array of outputs (N, classes); wrap it in a function that returns the "
             "logits alone"),
    ("rank", "net gives outputs of shape (1, 3, 32, 32) for one picture; (1, number of classes) is needed"),
    ("integers", "net gives whole numbers (int64), not logits or probabilities: calibration needs a confidence for "
                 "each class"),
    ("nan", "net gives numbers that are not finite for a picture; look at its weights, and at the range that --input "
            "states"),
])
def test_outputs_that_are_none(demo, tmp_path, kind, message):
    file = small_models.write_torchscript(tmp_path / "net.ts", Odd(kind))
    assert message_of(demo, file, classes=NAMES, input="range=0..1", trust_code=True) == message


@pytest.fixture(scope="module")
def mobile(tmp_path_factory):
    """(a checkpoint of timm's smallest network, wrapped as trainers wrap it; the network)."""
    import timm

    network = timm.create_model("test_resnet", num_classes=8).eval()
    path = tmp_path_factory.mktemp("timm") / "trained.pth"
    torch.save({"state_dict": {f"module.{name}": value for name, value in network.state_dict().items()}}, path)
    return path, network


def test_a_network_of_timm(demo, mobile):
    path, network = mobile
    config = network.pretrained_cfg
    with opened_model(ModelOptions("timm:test_resnet", path, NAMES), [demo[0]], {}) as model:
        format = model.facts.input
    assert (format.size, format.mean, format.crop) == (config["input_size"][1], config["mean"], config["crop_pct"])
    assert model.name == "test_resnet trained" and model.facts.output == "logits"
    logits, model = logits_of(demo, "timm:test_resnet", checkpoint=path, classes=NAMES, num_classes=8,
                              input="size=32,range=0..1,crop=1")
    with torch.no_grad():
        assert close(logits, network(demo[1] / 255).numpy())
    assert model.facts.changed == {"input": "size=32,range=0..1,crop=1"}


def test_the_name_of_a_network_of_timm_belongs_to_its_hash(demo, mobile, monkeypatch):
    """Tensors of one checkpoint can fit two networks, which give other outputs."""
    hashes = []
    for name in ("test_resnet", "twin"):
        monkeypatch.setattr("evaluation.source_kinds.timm_network.current_name", lambda text, name=name: name)
        monkeypatch.setattr("evaluation.source_kinds.timm_network.timm_model", lambda *words: mobile[1])
        hashes.append(logits_of(demo, f"timm:{name}", checkpoint=mobile[0], classes=NAMES)[1].weights_sha256)
    assert hashes[0] != hashes[1]


def test_mistakes_with_timm(demo, mobile, tmp_path):
    path, network = mobile
    spec = "timm:test_resnet"
    assert message_of(demo, spec, checkpoint=path) == (
        f"--model {spec}: add --classes, the names of its classes in the order of its outputs; those of the set are "
        f"--classes {NAMES}")
    assert message_of(demo, spec, classes=NAMES) == (
        f"--model {spec} has no weights for facial expressions: add --checkpoint FILE. (A network that starts from "
        f"timm's own weights is trained with train_baseline.py --backbone test_resnet)")
    assert message_of(demo, spec, classes=NAMES, checkpoint=path, num_classes=7) == (
        "--num-classes 7 and --classes differ: it has 8 names")
    message = message_of(demo, spec, classes="a,b,c", checkpoint=path)
    assert message.startswith(f"--checkpoint {path} is for another network or another number of classes: of ")
    assert "timm has no network 'resnet19'" in message_of(demo, "timm:resnet19", classes=NAMES, checkpoint=path)
    assert message_of(demo, spec, classes=NAMES, checkpoint=tmp_path / "absent") == (
        f"--checkpoint {tmp_path / 'absent'}: no such file; give a checkpoint")
    state = network.state_dict()
    torch.save(state | {"extra.weight": torch.zeros(3)}, tmp_path / "more.pth")
    assert "'extra.weight': the network has no such tensor" in message_of(demo, spec, classes=NAMES,
                                                                          checkpoint=tmp_path / "more.pth")
    torch.save({name: value * float("nan") if value.is_floating_point() else value for name, value in state.items()},
               tmp_path / "nan.pth")
    assert "values that are not finite" in message_of(demo, spec, classes=NAMES, checkpoint=tmp_path / "nan.pth")

    class Hostile:
        def __reduce__(self):
            return exec, (f"open({str(tmp_path / 'was run')!r}, 'w')",)

    torch.save({"state_dict": Hostile()}, tmp_path / "hostile.pth")
    assert "no honest checkpoint" in message_of(demo, spec, classes=NAMES, checkpoint=tmp_path / "hostile.pth")
    assert not (tmp_path / "was run").exists()


# ---- what identifies a model

@pytest.mark.parametrize("kind, differ", [("factory", True), ("python", True), ("onnx", False)])
def test_functions_are_identified_by_their_outputs_too(kind, differ):
    """A function may read files, or be changed, and keep the hash that it states; a file's own hash is enough."""
    hashes = set()
    for factor in (1, 2):
        source = Source(torch.nn.Sequential(Means(factor * small_models.WEIGHTS)), "ab" * 32, usual={"range": "0..1"})
        model = put_together(source, kind, "net", ModelOptions("x.y:z", classes=NAMES), CLASSES, 32)
        hashes.add(model.weights_sha256)
        assert len(model.weights_sha256) == 64
    assert len(hashes) == 1 + differ


def test_an_output_that_contradicts_the_file_is_noted():
    for output, changed in (("logits", {"output": "logits"}), ("probabilities", {}), (None, {})):
        source = Source(torch.nn.Sequential(Means(), torch.nn.Softmax(1)), "ab" * 32, usual={"range": "0..1"},
                        output="probabilities")
        model = put_together(source, "onnx", "net", ModelOptions("x.onnx", classes=NAMES, output=output), CLASSES, 32)
        assert model.facts.changed == changed


@pytest.mark.parametrize("text, count", [("4", 4), ("4,2", 4), ("", None), ("0", None), ("many", None)])
def test_number_of_threads(monkeypatch, text, count):
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    assert cpu_threads() == (count or len(os.sched_getaffinity(0)))


# ---- options

def test_kinds_are_told_by_the_text(tmp_path):
    for name in ("a.onnx", "a.tflite", "a.pt2", "a.ts", "a.pt", "a.pth", "a.h5", "a.txt", "f.py"):
        (tmp_path / name).write_bytes(b"")
    kinds = {"timm:resnet18": "timm", "hf:x": "hf", "logits:x": "logits", "my.module:make": "factory",
             f"{tmp_path}/f.py:make": "factory", f"{tmp_path}/a.onnx": "onnx", f"{tmp_path}/a.tflite": "tflite",
             f"{tmp_path}/a.pt2": "pt2", f"{tmp_path}/a.ts": "torchscript", f"{tmp_path}/a.pt": "torchscript",
             str(tmp_path): "run"}
    assert {spec: kind_of(spec) for spec in kinds} == kinds
    (tmp_path / "config.json").write_text("{}")
    for spec, message in {
            f"{tmp_path}": f"is a folder of transformers: write --model hf:{tmp_path}",
            f"{tmp_path}/a.pth": f"--model timm:NAME --checkpoint {tmp_path}/a.pth",
            f"{tmp_path}/a.h5": "convert it to .tflite",
            f"{tmp_path}/b.onnx": f"--model {tmp_path}/b.onnx: no such file",
            f"{tmp_path}/a.txt": "is none of a run's folder, timm:NAME, FILE.onnx",
            "absent": "there is no such file or folder"}.items():
        with pytest.raises(UserError, match=re.escape(message)):
            kind_of(spec)


@pytest.mark.parametrize("kind, options, message", [
    ("pt2", {}, "--model x runs code of its author, which can do anything on this machine. If you trust it, add "
                "--trust-code"),
    ("factory", {}, "add --trust-code"),
    ("run", {"classes": "a,b"}, "--classes: a run of this project needs none of them, it knows its own"),
    ("onnx", {"checkpoint": "w.pth"}, "--checkpoint is for timm:NAME and for functions; --model x holds its weights"),
    ("onnx", {"num_classes": 7}, "--num-classes is for timm:NAME; for other models --classes names what they give"),
    ("onnx", {"folder": "."}, "--folder is for MODULE:FUNCTION and FILE.py:FUNCTION"),
    ("hf", {"device": "cpu"}, "--device is for ONNX files and functions"),
    ("logits", {"input": "size=3"}, "--input says how a network takes pictures; for logits:PATH there is none"),
])
def test_options_that_do_not_fit(kind, options, message):
    with pytest.raises(UserError, match=re.escape(message)):
        check_options(kind, ModelOptions("x", **options))


def test_machine_options_without_effect():
    check_machine("timm", "bf16", True)
    with pytest.raises(UserError, match="--precision bf16 has no effect on a model outside this process"):
        check_machine("onnx", "bf16", False)
    with pytest.raises(UserError, match="--compile has no effect on a model outside this process"):
        check_machine("factory", "32", True)


def test_class_names(tmp_path):
    assert class_names("happy, sad,no emotion") == ["happy", "sad", "no emotion"]
    (tmp_path / "names.txt").write_bytes("\ufeffhappy\r\nsad\r\n\r\n".encode())
    assert class_names(str(tmp_path / "names.txt")) == ["happy", "sad"]
    for text, message in {"happy": "one name is not enough", "happy,": "name 2 is empty", "a,b,a": "names a twice",
                          "a,\x1b[1m": "not printable", ",".join(map(str, range(1001))): "names 1001 classes",
                          f"a,{'b' * 101}": "longer than 100"}.items():
        with pytest.raises(UserError, match=message):
            class_names(text)


def test_names_of_models():
    names = {"a/b/net.onnx": "net", "timm:resnet18": "resnet18", "hf:a/vit": "vit", "./f.py:make": "f.py:make",
             "pkg.mod:make": "pkg.mod:make", "logits:a/mine.npz": "mine", "logits:.": Path.cwd().stem}
    for spec, name in names.items():
        kind = {"ti": "timm", "hf": "hf", "lo": "logits", "a/": "onnx"}.get(spec[:2], "factory")
        assert model_name(kind, ModelOptions(spec)).removeprefix("timm:") == name
    assert model_name("onnx", ModelOptions("x.onnx", name=" my net ")) == "my net"
    for name in ("", "a" * 101, "a\nb"):
        with pytest.raises(UserError, match="--name is a text of 1 to 100 printable characters"):
            model_name("onnx", ModelOptions("x.onnx", name=name))


def test_missing_packages_are_named_with_their_version(monkeypatch):
    assert re.fullmatch(r"onnxruntime==[\d.]+", pinned("onnxruntime"))
    with pytest.raises(UserError, match=r"^net.onnx needs not-there: pip install not-there$"):
        require_packages("net.onnx", "numpy", "not-there")
    monkeypatch.setattr("support.optional_packages.is_installed", lambda package: package != "onnxruntime")
    with pytest.raises(UserError, match=rf"^net.onnx needs onnxruntime: pip install {pinned('onnxruntime')}$"):
        require_packages("net.onnx", "onnx", "onnxruntime")


@pytest.mark.parametrize("args, message", [
    (dict(), "name one model: the folder of a trained run (python evaluate.py RUN), or another model with --model"),
    (dict(run="x", source=ModelOptions("timm:x")), "name one model"),
    (dict(source=ModelOptions("timm:x")), "--model timm:x: name the built set with --set"),
    (dict(source=ModelOptions("timm:x"), export_onnx="x.onnx"), "--export-onnx is for trained runs"),
    (dict(run=__file__), "is a file, and RUN is the folder of a trained run. For another model: --model"),
])
def test_command_lines_without_a_model(args, message):
    args = {name: Path(value) if isinstance(value, str) else value for name, value in args.items()}
    with pytest.raises(UserError, match=re.escape(message)):
        evaluate.main(evaluate.Args(**args))


# ---- with the command line

KINDS = ["onnx", "tflite", "hf", "pt2", "torchscript", "timm", "factory"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_scored(kind, built, mobile, tmp_path, monkeypatch):
    """All images and all cells: predictions, scores and a card in the model's folder; the logits are the network's."""
    monkeypatch.setenv("FERC_RUNS", str(tmp_path / "runs"))
    options = dict(classes=NAMES, input="range=0..1", trust_code=kind in ("pt2", "torchscript", "factory"))
    if kind == "onnx":
        spec = onnx_file(tmp_path / "net.onnx")
    elif kind == "tflite":
        spec = tflite_file(tmp_path / "net.tflite")
    elif kind == "hf":
        pytest.importorskip("transformers", reason=REASON)
        small_models.write_transformers(tmp_path / "vit", labels=CLASSES)
        spec, options = f"hf:{tmp_path / 'vit'}", {}
    elif kind == "pt2":
        spec = small_models.write_pt2(tmp_path / "net.pt2")
    elif kind == "torchscript":
        spec = small_models.write_torchscript(tmp_path / "net.ts")
    elif kind == "timm":
        spec, options = "timm:test_resnet", dict(classes=NAMES, checkpoint=mobile[0])
    else:
        (tmp_path / "user.py").write_text("import small_models\ndef make(): return small_models.Means()\n")
        (tmp_path / "small_models.py").write_text(open(small_models.__file__).read())
        spec = f"{tmp_path / 'user.py'}:make"
    evaluate.main(evaluate.Args(set=(built,), source=ModelOptions(str(spec), **options),
                                machine=evaluate.Machine(workers=0)))
    (folder,) = (tmp_path / "runs/models").iterdir()
    logits = np.load(folder / "predictions/Demo-C/clean.npy")
    assert (folder / "scores.csv").exists() and len(list(folder.glob("cards/*.json"))) == 1
    assert len(list(folder.rglob("[1-5].npy"))) == 85
    if kind not in ("hf", "timm"):
        opened = open_built_set(built)
        images = np.stack([np.asarray(Image.open(opened.image_path(i)).convert("RGB")) for i in range(16)])
        assert close(logits, expected(images.transpose(0, 3, 1, 2) / 255))
