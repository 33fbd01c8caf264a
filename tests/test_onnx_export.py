"""`evaluate.py RUN --export-onnx FILE`: the file gives the run's logits and says everything that scoring needs."""
import json

import numpy as np
import pytest
import torch

import evaluate
from building.built_set import open_built_set
from conftest import SIZE
from evaluation.model_options import ModelOptions
from evaluation.onnx_export import serialised
from evaluation.sources import load_model, opened_model
from evaluation.trained_run import read_trained_run
from models.dmue import DMUE
from models.resnet import ResNet18
from models.rul import RUL
from models.scn import SCN
from models.swinv2 import TimmModel
from small_models import CLASSES
from support.errors import UserError

REASON = "needs a package of requirements-optional.txt"
NETWORKS = {
    "baseline": lambda: ResNet18(8, SIZE), "SCN": lambda: SCN(8, SIZE), "RUL": lambda: RUL(8, SIZE),
    "DMUE": lambda: DMUE(8, SIZE, test_scale=True, neck=True),
    "swinv2": lambda: TimmModel(8, SIZE, "swinv2_tiny_window8_256"),
    "timm": lambda: TimmModel(8, SIZE, "test_resnet")}


def new_run(folder, network, built=None):
    """The folder of a run with weights and statistics that are drawn."""
    folder.mkdir(parents=True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = NETWORKS[network]()
        for name, value in model.state_dict().items():
            if name.endswith(("running_mean", "running_var")):
                value.uniform_(0.5, 1.5)
    torch.save({"model": model.state_dict(), "epoch": 0, "scores": {}}, folder / "best.pt")
    (folder / "args.json").write_text(json.dumps({
        "dataset": "demo", "protocol": "paper", "image_size": SIZE, "classes": CLASSES, "model": model.description}))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS)
def test_the_file_gives_the_logits_of_the_run(network, built, tmp_path, capsys):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=REASON)
    run = new_run(tmp_path / "run", network)
    file = tmp_path / "net.onnx"
    evaluate.main(evaluate.Args(run, export_onnx=file))
    assert "opset 20" in capsys.readouterr().out
    opened = open_built_set(built)
    images = torch.from_numpy(np.stack([opened.pixels(i) for i in range(5)]).transpose(0, 3, 1, 2).copy())
    module = load_model(read_trained_run(run)).module.eval()
    with opened_model(ModelOptions(str(file)), [opened], {}) as model, torch.no_grad():
        for count in (1, 5):
            assert np.abs(model.module(images[:count]).numpy() - module(images[:count]).numpy()).max() <= 1e-3
        assert model.classes == CLASSES and model.facts.changed == {} and model.facts.output == "logits"


@pytest.mark.slow
def test_a_scored_run_names_its_sets(built, small, tmp_path):
    import onnx

    run = new_run(tmp_path / "run", "baseline")
    evaluate.main(evaluate.Args(run, set=(built,), machine=evaluate.Machine(workers=0)))
    evaluate.main(evaluate.Args(run, export_onnx=tmp_path / "net.onnx"))
    entries = {entry.key: entry.value for entry in onnx.load(tmp_path / "net.onnx").metadata_props}
    assert json.loads(entries["ferc_sets"]) == {"Demo-C": open_built_set(built).manifest["set_version"]}
    assert json.loads(entries["ferc_classes"]) == CLASSES and entries["ferc_format"] == "1"


def test_mistakes_with_the_export(tmp_path, small, monkeypatch):
    run = new_run(tmp_path / "run", "baseline")
    with pytest.raises(UserError, match="--export-onnx .*net.pt: give the name of a file that ends in .onnx"):
        evaluate.main(evaluate.Args(run, export_onnx=tmp_path / "net.pt"))
    monkeypatch.setattr("support.optional_packages.is_installed", lambda package: False)
    message = r"--export-onnx needs onnx and onnxscript: pip install onnx==\S+ onnxscript==\S+"
    with pytest.raises(UserError, match=message):
        evaluate.main(evaluate.Args(run, export_onnx=tmp_path / "net.onnx"))


@pytest.mark.slow
def test_nothing_is_written_where_the_logits_differ(tmp_path, small, monkeypatch):
    pytest.importorskip("onnxruntime", reason=REASON)
    pytest.importorskip("onnxscript", reason=REASON)
    run = new_run(tmp_path / "run", "baseline")

    def changed(network, *more):
        other = torch.nn.Sequential(network, torch.nn.Softmax(1)).eval()
        return serialised(other, *more)

    monkeypatch.setattr("evaluation.onnx_export.serialised", changed)
    with pytest.raises(UserError, match="differ from the network's by .*; it was not written"):
        evaluate.main(evaluate.Args(run, export_onnx=tmp_path / "net.onnx"))
    assert not (tmp_path / "net.onnx").exists()
