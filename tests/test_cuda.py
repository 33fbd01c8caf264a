"""What only a card can show: `python -m pytest -m cuda`. Where it makes sense the same tests run on the CPU too, as a
rehearsal of their code.

- Logits, losses and scores on the card are those of the CPU, to the tolerances stated at the tests.
- With --deterministic a run that dies and goes on ends with the same bytes.
- No step waits for the card (except the check of the loss every 50 steps).
- The cache gives the same bytes of training, wherever it lies.
"""
import contextlib
import copy
import dataclasses
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import evaluate
import losses
import train_DMUE
import train_RUL
import train_SCN
import train_baseline
import train_swinv2
from building.built_set import open_built_set
from compute.devices import CUBLAS_WORKSPACE, deterministic_algorithms, exact_float32, optimised
from compute.graphs import GraphedNetwork
from corruptions import CELLS
from evaluation.predictions import predictions_file
from models.dmue import DMUE
from models.folding import FoldedConv
from models.resnet import ResNet18
from models.rul import RUL
from models.scn import SCN
from models.swinv2 import TimmModel
from training.options import MachineOptions, TrainingOptions
from training.run import Training
from conftest import ON_CUDA, OPTIONS, SIZE, uses_device

CLASSES, BATCH = 8, 16
CUDA = pytest.param("cuda", marks=pytest.mark.cuda)
SWIN = "swinv2_tiny_window8_256"
# Name -> (its script, the options of its algorithm, its network without dropout, whose draws differ between devices).
ALGORITHMS = {
    "baseline": (train_baseline, {}, lambda: ResNet18(CLASSES, 64)),
    "SCN": (train_SCN, {"relabel_epoch": 0, "relabel_margin": 0.0, "relabel_scope": "low"}, lambda: SCN(CLASSES, 64)),
    "DMUE": (train_DMUE, {}, lambda: DMUE(CLASSES, 64)),
    "RUL": (train_RUL, {}, lambda: RUL(CLASSES, 64, dropout=0.0)),
    "swinv2": (train_swinv2, {}, lambda: TimmModel(CLASSES, 112, SWIN, 0.0)),  # 112: it resizes to 128
}
slow_on_cpu = pytest.mark.parametrize("where", [pytest.param("cpu", marks=pytest.mark.slow), CUDA])
every_algorithm = pytest.mark.parametrize("name", ALGORITHMS)
every_loss = pytest.mark.parametrize("loss", losses.LOSSES)


@contextlib.contextmanager
def no_waiting(where):
    """Any operation that waits for the card raises RuntimeError inside."""
    if where == "cpu":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def training_terms(name, criterion, model, image, labels):
    """The terms of a training step, as the script computes them."""
    if name == "SCN":
        logits, attention = model(image)
        return criterion.terms(logits, labels) | {"rank": train_SCN.rank_loss(attention, 0.7, 0.15)}
    if name == "RUL":
        partner = torch.arange(len(image), device=image.device).flip(0)
        return train_RUL.add_up(criterion, model(image, partner), labels, partner)
    if name == "DMUE":
        return train_DMUE.all_terms(criterion, model(image, labels), labels, labels, train_DMUE.Algorithm(), (1, 1))
    return criterion.terms(model(image), labels)


def batch_of(size):
    generator = torch.Generator().manual_seed(1)
    image = torch.randint(256, (BATCH, 3, size, size), dtype=torch.uint8, generator=generator)
    return image, torch.arange(BATCH) % CLASSES


def logits_of_loss(loss):
    """Logits (32, 8) with gaps beyond the margin of MbLS, and targets of both kinds."""
    generator = torch.Generator().manual_seed(2)
    logits = 4 * torch.randn(32, CLASSES, generator=generator)
    soft = torch.rand(32, CLASSES, generator=generator).softmax(1)
    return logits, (torch.arange(32) % CLASSES, soft), losses.build(loss, CLASSES, np.linspace(0.5, 2, CLASSES))


# ---- the same numbers

@slow_on_cpu
@every_algorithm
def test_networks_compute_what_they_compute_on_the_cpu(where, name):
    """Float32, channels last against the plain order of axes: logits within 1e-4, training terms within 0.1 %."""
    torch.manual_seed(0)
    model = ALGORITHMS[name][2]()
    other = optimised(copy.deepcopy(model), MachineOptions()).to(where)
    image, labels = batch_of(model.arguments["image_size"])
    criterion = losses.build("maxent+mbls", CLASSES)
    with exact_float32():
        with torch.no_grad():
            logits = [network.eval()(image.to(device)).cpu() for network, device in ((model, "cpu"), (other, where))]
        terms = [training_terms(name, copy.deepcopy(criterion).to(device), network.train(), image.to(device),
                                labels.to(device)) for network, device in ((model, "cpu"), (other, where))]
    torch.testing.assert_close(logits[1], logits[0], rtol=1e-4, atol=1e-4)
    assert terms[0].keys() == terms[1].keys()
    for term, value in terms[0].items():
        torch.testing.assert_close(terms[1][term].cpu(), value, rtol=1e-3, atol=1e-4, msg=lambda text, term=term:
                                   f"{term}: {text}")


@slow_on_cpu
@pytest.mark.parametrize("name", ["baseline", "SCN", "RUL", "DMUE"])
def test_scoring_computes_what_the_network_computes(where, name):
    """The copy that scoring runs: logits within 1e-5 of the largest in float32, within 5 % in bfloat16. On a card cuDNN
    has all of its operations."""
    torch.manual_seed(0)
    model = ALGORITHMS[name][2]().to(where).eval()
    image = batch_of(64)[0].to(where)
    with torch.no_grad(), exact_float32():
        wanted = model(image)
        folded = optimised(model.for_inference(torch.float32), MachineOptions())(image)
        rounded_copy = optimised(model.for_inference(torch.bfloat16), MachineOptions())
        with torch.autocast(where, torch.bfloat16):
            rounded = rounded_copy(image).float()
    scale = wanted.abs().max()
    torch.testing.assert_close(folded / scale, wanted / scale, rtol=0, atol=1e-5)
    torch.testing.assert_close(rounded / scale, wanted / scale, rtol=0, atol=.05)
    assert all(part.is_fused for part in rounded_copy.modules() if isinstance(part, FoldedConv))


@pytest.mark.cuda
def test_swin_in_training_is_timms(monkeypatch):
    """In bfloat16 on a card: the loss within 2 % of timm's own way, and its gradient within 20 % of the length."""
    torch.manual_seed(0)
    model = ALGORITHMS["swinv2"][2]().cuda().train()
    image, labels = (part.cuda() for part in batch_of(112))
    results = []
    for is_fused in (False, True):
        monkeypatch.setattr("models.window_attention.FUSED", is_fused)
        model.zero_grad()
        with torch.autocast("cuda", torch.bfloat16):
            logits = model(image)
        loss = torch.nn.functional.cross_entropy(logits.float(), labels)
        loss.backward()
        gradient = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
        results.append((loss.item(), gradient))
    assert results[1][0] == pytest.approx(results[0][0], rel=.02)
    assert (results[1][1] - results[0][1]).norm() < .2 * results[0][1].norm()


@pytest.mark.parametrize("where", ["cpu", CUDA])
@every_loss
def test_losses_compute_what_they_compute_on_the_cpu(where, loss):
    """Terms within 1e-5 of float64 ones on the CPU, gradients within 1e-4, but those of soft-avuc: it magnifies
    rounding a hundredfold."""
    tolerance = 1e-3 if loss == "soft-avuc" else 1e-4
    logits, targets, criterion = logits_of_loss(loss)
    for target in targets:
        results = []
        for device, kind in (("cpu", torch.float64), (where, torch.float32)):
            z = logits.to(device, kind, copy=True).requires_grad_()
            on_device = copy.deepcopy(criterion).to(device)
            terms = on_device.terms(z, target.to(device, kind) if target.is_floating_point() else target.to(device))
            sum(terms.values()).backward()
            results.append(({key: value.double().cpu() for key, value in terms.items()}, z.grad.double().cpu()))
        torch.testing.assert_close(results[1][0], results[0][0], rtol=tolerance / 10, atol=tolerance / 10)
        torch.testing.assert_close(results[1][1], results[0][1], rtol=tolerance, atol=tolerance)


@slow_on_cpu
def test_scores_are_those_of_the_cpu(where, built, tmp_path):
    """Logits that evaluate.py stores are within 1e-5 of the network's on the CPU."""
    only_on(where)
    torch.manual_seed(0)
    model, data, run = ResNet18(CLASSES, SIZE), open_built_set(built), tmp_path / "run"
    run.mkdir()
    torch.save({"model": model.state_dict(), "epoch": 0, "scores": {}}, run / "best.pt")
    (run / "args.json").write_text(json.dumps({
        "script": "baseline", "dataset": "demo", "loss": "ce", "seed": 0, "noise": 0.0, "protocol": "paper",
        "image_size": SIZE, "classes": list(data.classes), "model": model.description, "epochs": 1, "runs": "runs"}))
    evaluate.main(evaluate.Args(run, set=(built,), machine=evaluate.Machine(workers=0)))
    model.eval()
    for cell in (None, CELLS[0], CELLS[-1]):
        pixels = np.stack([data.pixels(i, *(cell or ())) for i in range(len(data.frame))])
        with torch.no_grad():
            wanted = model(torch.from_numpy(pixels).permute(0, 3, 1, 2))
        stored = np.load(predictions_file(run / "predictions" / built.name, cell))
        np.testing.assert_allclose(stored, wanted, rtol=1e-5, atol=1e-5)


# ---- training

def only_on(where):
    """Skip the rehearsal on the CPU where training takes the card."""
    if where == "cpu" and ON_CUDA:
        pytest.skip("training takes the card on this machine")


@pytest.fixture
def train(demo_root, tmp_path):
    """`train(name, folder, machine)` trains two epochs of four steps, and returns the run's folder."""
    def build(name, folder, machine, **changes):
        script, own, _ = ALGORITHMS[name]
        common = dict(dataset="demo", root=demo_root, data=OPTIONS, image_size=64, epochs=2, batch_size=32,
                      weights="none", runs=tmp_path / folder, keep_last=True, calib=True, noise=0.25, augment="basic")
        options = TrainingOptions(**common | changes)
        script.main(script.Args(options, script.Algorithm(**own), machine=machine))
        (args,) = options.runs.rglob("args.json")
        return args.parent
    return build


class Death(BaseException):
    """Stands for the end of a process at which nothing is saved."""


def die_at(patch, step):
    end_step, count = Training.end_step, []

    def dying(run, terms):
        count.append(1)
        if len(count) == step:
            raise Death
        end_step(run, terms)

    patch.setattr(Training, "end_step", dying)


def result_of(folder):
    return {name: (folder / name).read_bytes() for name in ("last.pt", "best.pt", "metrics.csv")}


@slow_on_cpu
@every_algorithm
def test_a_run_that_dies_ends_with_the_same_bytes(where, name, train, monkeypatch):
    """With --deterministic, at the precision of the machine, the networks as they are."""
    only_on(where)
    machine = MachineOptions(workers=0, deterministic=True)
    whole = result_of(train(name, "whole", machine))
    with monkeypatch.context() as patch:
        die_at(patch, 6)
        with pytest.raises(Death):
            train(name, "died", machine)
    assert result_of(train(name, "died", machine)) == whole


@pytest.mark.cuda
@pytest.mark.parametrize("name", ["baseline", "SCN", "RUL", "DMUE"])
def test_graphs_train_the_same_bytes(name, train, monkeypatch):
    """CUDA graphs start the same operations as the plain calls; the last batch of an epoch has no graph."""
    shapes = []
    start = GraphedNetwork.record
    monkeypatch.setattr(GraphedNetwork, "record", lambda self, fabric, inputs: (
        shapes.append(len(inputs[0])), start(self, fabric, inputs)))
    machine = MachineOptions(workers=0, deterministic=True)
    with_graphs = result_of(train(name, "graphs", machine, batch_size=30))
    assert shapes == [30]
    machine.no_cuda_graphs = True
    assert result_of(train(name, "plain", machine, batch_size=30)) == with_graphs


@slow_on_cpu
@pytest.mark.parametrize("targets", ["onehot", "fused"])
@every_algorithm
def test_no_step_waits_for_the_device(where, name, targets, train, monkeypatch):
    only_on(where)
    if targets == "fused" and name != "baseline":
        pytest.skip("targets are the same in all scripts")
    batches = Training.batches

    def watched(run, epoch):
        for image, index in batches(run, epoch):
            with no_waiting(where):
                yield image, index

    monkeypatch.setattr(Training, "batches", watched)
    train(name, targets, MachineOptions(workers=0), targets=targets)


@pytest.mark.parametrize("where", ["cpu", CUDA])
@every_loss
def test_no_loss_waits_for_the_device(where, loss):
    logits, targets, criterion = logits_of_loss(loss)
    criterion, logits = criterion.to(where), logits.to(where).requires_grad_()
    for target in (target.to(where) for target in targets):
        with no_waiting(where):
            sum(criterion.terms(logits, target).values()).backward()


@slow_on_cpu
def test_the_cache_trains_the_same_wherever_it_lies(where, train, tmp_path):
    only_on(where)
    plain = MachineOptions(workers=0, deterministic=True)
    names = {entry.name for entry in dataclasses.fields(MachineOptions)}
    without = dataclasses.replace(plain, **{"no_cache": True} if "no_cache" in names else {})
    wanted = result_of(train("baseline", "none", without))
    for place in ("host", "device") if "cache_on" in names else ("host",):
        kept = dataclasses.replace(plain, cache=tmp_path / "cache")
        if "cache_on" in names:
            kept.cache_on = place
        assert result_of(train("baseline", place, kept)) == wanted, place


@pytest.mark.cuda
def test_memory_of_dmue():
    """The peak of a step with 128 images of 224 pixels and eight classes, in bf16: under 6 GiB."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    model = optimised(DMUE(CLASSES, 224), MachineOptions()).cuda().train()
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    criterion = losses.build("maxent+mbls", CLASSES).cuda()
    image = torch.zeros(128, 3, 224, 224, dtype=torch.uint8, device="cuda")
    labels = torch.arange(128, device="cuda") % CLASSES
    for _ in range(2):
        optimizer.zero_grad()
        with torch.autocast("cuda", torch.bfloat16):
            terms = training_terms("DMUE", criterion, model, image, labels)
        sum(terms.values()).backward()
        optimizer.step()
    peak = (torch.cuda.max_memory_allocated() - before) / 2**30
    print(f"peak of DMUE: {peak:.2f} GiB")
    assert peak < 6


# ---- the settings

def test_deterministic_algorithms_and_back(monkeypatch):
    monkeypatch.setenv(CUBLAS_WORKSPACE, ":16:8")
    cudnn = torch.backends.cudnn

    def settings():
        return (torch.are_deterministic_algorithms_enabled(), cudnn.deterministic, cudnn.benchmark,
                os.environ.get(CUBLAS_WORKSPACE), torch.utils.deterministic.fill_uninitialized_memory)

    before = settings()
    with deterministic_algorithms(False):
        assert settings() == before
    with pytest.raises(KeyError), deterministic_algorithms(True):
        assert settings() == (True, True, False, ":4096:8", False)
        raise KeyError
    assert settings() == before
    monkeypatch.delenv(CUBLAS_WORKSPACE)
    with deterministic_algorithms(True):
        pass
    assert CUBLAS_WORKSPACE not in os.environ


def test_files_that_use_the_device_are_declared():
    """tests/conftest.py gives them to one process."""
    uses = re.compile(r"^\s.*\b(evaluate|train_\w+|script|module)\.main\(|start_training\(|\bconnect\(", re.MULTILINE)
    here = Path(__file__).parent
    for path in here.glob("test_*.py"):
        assert uses_device(path) or not uses.search(path.read_text()), path.name
