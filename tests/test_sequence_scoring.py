"""Scoring on sets of perturbation sequences, against worked answers, plain loops, and interruptions."""
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from inspect import signature
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st
from scipy.optimize import minimize_scalar

import evaluate
import make_fer_p
import metrics
import perturbations
from building import forms
from building.built_set import open_built_set
from datasets import affectnet, load_split, parse_options
from datasets.images import read_image
from evaluation import benchmark, cards, inference, predictions, validation
from evaluation.export_ids import export_ids
from evaluation.matching import USUAL_CROP, match
from evaluation.model_options import ModelOptions
from evaluation.predictions import all_cells, cell_name, predictions_file, read_array, stored_cells, stored_sequences
from evaluation.scores_file import read_scores
from evaluation.scoring_options import CardOptions, ClassOptions
from evaluation.trained_run import read_trained_run
from evaluation.sequence_scores import SEQUENCE_METRICS, Temperature, score_sequences, stability_of, top_ks_of_rankings
from models.resnet import ResNet18
from support import run_folder
from support.errors import DamagedFile, UserError
from support.random_streams import keyed_rng
from cases import mostly_slow
from conftest import OPTIONS, SIZE
from scored_files import contents, rows_of

pytestmark = pytest.mark.usefixtures("small")
IMAGES = 4
ROOT = Path(__file__).parent.parent
# Noise, a running mean, falling drops and a shift: with a random stream, with a state, and with a border.
NAMES = ("gaussian_noise", "zoom_blur", "translate", "spatter")


@pytest.fixture(scope="module")
def build_sequences(demo_root):
    """Builds a set of a few images; `build_sequences(out, perturbations=...)` changes options."""
    def build(out, **changes):
        common = dict(dataset="demo", root=demo_root, data=OPTIONS, image_size=SIZE, limit=IMAGES, workers=1,
                      perturbations=NAMES, out=out)
        make_fer_p.main(make_fer_p.Args(**common | changes))
        return out
    return build


@pytest.fixture(scope="module")
def sequences(build_sequences, tmp_path_factory):
    """A set of a few images; tests only read it."""
    return build_sequences(tmp_path_factory.mktemp("sequences") / "Demo-P")


def new_run(folder, demo_root, weight=1.0, **changes):
    """A run with weights drawn from a seed. weight: what its logits are multiplied by."""
    folder.mkdir(parents=True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ResNet18(8, SIZE)
        for parameter in model.backbone.fc.parameters() if hasattr(model, "backbone") else ():
            parameter.data *= weight
    torch.save({"model": model.state_dict(), "epoch": 0, "scores": {}}, folder / "best.pt")
    settings = {"script": "baseline", "dataset": "demo", "loss": "ce", "seed": 0, "noise": 0.0, "protocol": "paper",
                "image_size": SIZE, "classes": ["Neutral", "Happy", "Sad", "Surprise", "Fear", "Disgust", "Anger",
                                                "Contempt"],
                "model": model.description, "epochs": 1, "root": str(demo_root), "data": list(OPTIONS)}
    (folder / "args.json").write_text(json.dumps(settings | changes))
    return folder


@pytest.fixture(scope="module")
def scored(sequences, demo_root, small, tmp_path_factory):
    """(a run that was scored on the set, its card); tests copy or read them."""
    folder = tmp_path_factory.mktemp("runs")
    for split in ("train", "val"):  # as training does, they are drawn
        load_split("demo", demo_root, split, **parse_options(OPTIONS))
    run = new_run(folder / "demo/baseline/ce/noise0/seed0", demo_root)
    args = evaluate.Args(run, set=(sequences,), machine=evaluate.Machine(workers=0),
                         card=CardOptions(folder / "card.json"))
    with pytest.MonkeyPatch.context() as patch:
        # Untrained weights tell nothing of the labels: as if they did.
        patch.setattr(metrics, "fit_temperature", lambda logits, labels: 2.5)
        evaluate.main(args)
    return run, folder / "card.json"


@pytest.fixture
def run(scored, tmp_path):
    return Path(shutil.copytree(scored[0], tmp_path / "seed0"))


@pytest.fixture
def unscored(scored, tmp_path):
    """The run without predictions and scores."""
    run = Path(shutil.copytree(scored[0], tmp_path / "unscored", ignore=shutil.ignore_patterns("predictions")))
    (run / "scores.csv").unlink()
    return run


@pytest.fixture
def half(monkeypatch):
    """Temperature 2.5, whatever the logits are."""
    monkeypatch.setattr(metrics, "fit_temperature", lambda logits, labels: 2.5)


def score(run, *sets, **changes):
    machine = changes.pop("machine", evaluate.Machine(workers=0))
    evaluate.main(evaluate.Args(run, set=sets, machine=machine, **changes))
    return rows_of(run)


def values_of(rows, method="softmax"):
    return {(row["corruption"], row["metric"]): float(row["value"]) for row in rows if row["method"] == method}


def write_logits(folder, built, logits_of_cell):
    """Predictions made elsewhere. logits_of_cell: cell -> float (N, K)."""
    for cell in all_cells(built):
        path = folder / f"{cell_name(cell)}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, np.asarray(logits_of_cell(cell), np.float32))
    return folder


def score_logits(built, folder, tmp_path, monkeypatch, **changes):
    """The rows of scores.csv for predictions made elsewhere."""
    monkeypatch.setenv("FERC_RUNS", str(tmp_path / "runs"))
    evaluate.main(evaluate.Args(set=(built.folder,), source=ModelOptions(f"logits:{folder}"), **changes))
    (model,) = (tmp_path / "runs/models").iterdir()
    return rows_of(model)


# ---- worked answers, from files of logits to scores.csv

PREDICTIONS = np.array([[3, 3, 3, 5, 5, 3], [0, 0, 0, 0, 0, 0], [1, 2, 1, 2, 1, 2], [6, 6, 4, 4, 4, 4]])
MIVIA_PREDICTIONS = np.array([[0] * 10 + [1] * 20, [3] * 30, [0, 1] * 15])
LOGITS = np.array([[5, 4, 3, 2, 1, 0, -1], [4, 5, 3, 2, 1, 0, -1], [4, 5, 3, 2, 1, -1, 0], [-1, 0, 1, 2, 3, 4, 5]])


def set_with_frames(build_sequences, monkeypatch, out, frames, **changes):
    """A set of gaussian_noise and brightness with this number of frames each."""
    for name in ("gaussian_noise", "brightness"):
        monkeypatch.setitem(perturbations.IMAGENET_P_32[name], "count", frames)
    return open_built_set(build_sequences(out, perturbations=("gaussian_noise", "brightness"), **changes))


@pytest.mark.parametrize("difficulty,consecutive", [(1, .4), (2, .3125), (3, .583333)])
def test_flips_from_logits_to_scores(build_sequences, tmp_path, monkeypatch, difficulty, consecutive):
    built = set_with_frames(build_sequences, monkeypatch, tmp_path / "Demo-P", 6, difficulty=difficulty)
    one_hot = 5 * np.eye(8)
    folder = write_logits(tmp_path / "logits", built,
                          lambda cell: one_hot[PREDICTIONS[:, 0 if cell is None else cell[1]]])
    value = values_of(score_logits(built, folder, tmp_path, monkeypatch))
    assert value["brightness", "flip_probability"] == pytest.approx(consecutive, abs=1e-6)
    assert value["gaussian_noise", "flip_probability"] == pytest.approx(.45, abs=1e-6)
    assert value["mean", "flip_probability"] == pytest.approx((consecutive + .45) / 2, abs=1e-6)
    assert value["mean", "distinct_predictions"] == 7 and value["mean", "n"] == 4
    assert value["brightness", "total_variation_unflipped"] == 0


def test_flips_of_mivia(build_sequences, tmp_path, monkeypatch):
    built = open_built_set(build_sequences(tmp_path / "Demo-P", preset="rafdb-p", limit=3,
                                     perturbations=("p_gaussian_noise", "p_brightness")))
    folder = write_logits(tmp_path / "logits", built,
                          lambda cell: np.eye(8)[MIVIA_PREDICTIONS[:, 0 if cell is None else cell[1]]])
    value = values_of(score_logits(built, folder, tmp_path, monkeypatch))
    assert value["p_gaussian_noise", "flip_probability"] == pytest.approx(.402298851, abs=1e-9)
    assert value["p_brightness", "flip_probability"] == pytest.approx(.344827586, abs=1e-9)


def test_distances_from_logits_to_scores(build_sequences, tmp_path, monkeypatch):
    built = set_with_frames(build_sequences, monkeypatch, tmp_path / "Demo-P", 4, limit=1)
    logits = np.concatenate([LOGITS, np.full((4, 1), -9)], 1)  # an eighth class that is always the last
    folder = write_logits(tmp_path / "logits", built, lambda cell: logits[[0 if cell is None else cell[1]]])
    value = values_of(score_logits(built, folder, tmp_path, monkeypatch))
    assert value["brightness", "top2_distance"] == pytest.approx(1.666667, abs=1e-6)
    assert value["gaussian_noise", "top2_distance"] == pytest.approx(2.333333, abs=1e-6)


def test_the_distance_of_other_numbers_of_places(build_sequences, tmp_path, monkeypatch, capsys):
    """`LOGITS` with k = 3, as metrics.topk_distances has it, behind the distance that every run has."""
    built = set_with_frames(build_sequences, monkeypatch, tmp_path / "Demo-P", 4)
    scores = np.concatenate([LOGITS, np.full((4, 1), -9)], axis=1)
    folder = write_logits(tmp_path / "logits", built, lambda cell: np.tile(
        scores[0 if cell is None else cell[1]], (IMAGES, 1)))
    before = score_logits(built, folder, tmp_path, monkeypatch)
    rows = score_logits(built, folder, tmp_path, monkeypatch, top_k=3, card=CardOptions(tmp_path / "card.json"))
    assert [row for row in rows if row["metric"] != "top3_distance"] == before
    value = values_of(rows)
    for name, noise in (("brightness", False), ("gaussian_noise", True)):
        expected = metrics.topk_distances(scores[None], 3, noise).item()
        assert value[name, "top3_distance"] == pytest.approx(expected) and expected > 0
    order = [row["metric"] for row in rows if row["corruption"] == "mean"]
    assert order.index("top3_distance") == order.index("top2_distance") + 1
    card = cards.read_card(tmp_path / "card.json")
    assert card.score("mean", "top3_distance") == pytest.approx(value["mean", "top3_distance"])
    assert top_ks_of_rankings(2) == top_ks_of_rankings(None) == (2,) and top_ks_of_rankings(1) == (1, 2)
    monkeypatch.setattr(predictions, "prepare_blocks", None)  # refused before anything is computed
    with pytest.raises(UserError, match="--top-k 9: of .*Demo-P only 8 classes are ranked"):
        score_logits(built, folder, tmp_path, monkeypatch, top_k=9)
    with pytest.raises(UserError, match="top-k"):
        score_logits(built, folder, tmp_path, monkeypatch, top_k=0)


def test_a_constant_model_is_told_apart(sequences, tmp_path, monkeypatch, capsys):
    built = open_built_set(sequences)
    rng = keyed_rng("constant")
    folder = write_logits(tmp_path / "logits", built,
                          lambda cell: np.eye(8)[[2] * IMAGES] * 9 + rng.random((IMAGES, 8)))
    value = values_of(score_logits(built, folder, tmp_path, monkeypatch))
    assert {value[name, "distinct_predictions"] for name in (*NAMES, "mean")} == {1}
    assert value["mean", "flip_probability"] == value["mean", "flip_probability_se"] == 0
    assert value["mean", "total_variation"] > 0 and "a constant model" in capsys.readouterr().out


def test_another_class_in_each_perturbation_is_no_constant_model(sequences, tmp_path, monkeypatch):
    built = open_built_set(sequences)
    classes = {None: 0} | {name: k for k, name in enumerate(NAMES)}
    folder = write_logits(tmp_path / "logits", built,
                          lambda cell: np.eye(8)[[classes[cell and cell[0]]] * IMAGES])
    value = values_of(score_logits(built, folder, tmp_path, monkeypatch))
    assert value["spatter", "distinct_predictions"] == 1 and value["mean", "distinct_predictions"] == 4


# ---- every score against a plain loop over the stored logits

def plain_scores(built, folder, name, temperature=1.0):
    """{metric: value} of a perturbation, one frame after the other."""
    cells = [cell for cell in built.cells if cell[0] == name]
    logits = np.stack([np.load(predictions_file(folder, cell)) for cell in cells]).astype(float) / temperature
    labels = built.frame["expression"].to_numpy()
    probs = np.exp(logits - logits.max(-1, keepdims=True))
    probs /= probs.sum(-1, keepdims=True)
    right, nll, flips, variations, quiet, changes = [], [], [], [], [], []
    for i, label in enumerate(labels):
        own = [[], [], [], []]
        for frame in range(len(cells)):
            p, r = probs[frame, i], probs[0 if name.endswith("_noise") else frame - 1, i]
            right.append(p.argmax() == label)
            nll.append(-np.log(p[label]))
            if frame:
                distance = np.abs(p - r).sum() / 2
                own[0].append(p.argmax() != r.argmax())
                own[1].append(distance)
                own[2] += [] if own[0][-1] else [distance]
                own[3].append(abs(p[r.argmax()] - r[r.argmax()]))
        flips.append(np.mean(own[0]))
        variations.append(np.mean(own[1]))
        quiet += [np.mean(own[2])] if own[2] else []
        changes.append(np.mean(own[3]))
    return {"accuracy": np.mean(right), "nll": np.mean(nll), "flip_probability": np.mean(flips),
            "total_variation": np.mean(variations), "total_variation_unflipped": np.mean(quiet),
            "confidence_change": np.mean(changes), "n": IMAGES}


@pytest.mark.parametrize("method,temperature", [("softmax", 1), ("temperature", 2.5)])
def test_scores_are_those_of_plain_loops(scored, sequences, method, temperature):
    run, _ = scored
    built, value = open_built_set(sequences), values_of(rows_of(run), method)
    folder = run / "predictions/Demo-P"
    plain = {name: plain_scores(built, folder, name, temperature) for name in NAMES}
    for metric in plain["spatter"]:
        for name in NAMES:
            assert value[name, metric] == pytest.approx(plain[name][metric], abs=1e-9), (name, metric)
        assert value["mean", metric] == pytest.approx(np.mean([plain[name][metric] for name in NAMES]), abs=1e-9)
    logits = np.load(folder / "clean.npy").astype(float) / temperature
    labels = built.frame["expression"].to_numpy()
    clean = metrics.summary(metrics.softmax(logits), labels, None, logits)
    for metric in ("accuracy", "macro_f1", "ece", "kse", "nll"):
        assert value["clean", metric] == pytest.approx(clean[metric], abs=1e-9)
    assert value.get(("clean", "temperature")) == (2.5 if method == "temperature" else None)
    places = {place for place, _ in value}
    assert places == {"clean", *NAMES, "mean"}
    assert [row["metric"] for row in rows_of(run) if (row["method"], row["corruption"]) == (method, "spatter")
            ] == list(SEQUENCE_METRICS)


def test_a_temperature_changes_no_decision(scored):
    one, other = (values_of(rows_of(scored[0]), method) for method in ("softmax", "temperature"))
    for place in (*NAMES, "mean"):
        for metric in ("accuracy", "flip_probability", "flip_probability_se", "top2_distance", "distinct_predictions"):
            assert one[place, metric] == other[place, metric]
    assert one["mean", "total_variation"] != other["mean", "total_variation"]


def test_the_standard_error_is_that_of_a_bootstrap_over_identities(sequences, tmp_path, monkeypatch):
    """Against the analytic one of two people with two pictures each, of whom one flips once."""
    built = open_built_set(sequences)
    person = built.frame["identity"].factorize()[0]
    assert np.bincount(person).tolist() == [2, 2]
    frames = sum(name == "translate" for name, _ in built.cells)

    def logits(cell):
        predicted = np.zeros(IMAGES, int)
        if cell and cell[0] == "translate" and cell[1] == frames - 1:
            predicted[person == 0] = 1
        return np.eye(8)[predicted]

    value = values_of(score_logits(built, write_logits(tmp_path / "x", built, logits), tmp_path, monkeypatch))
    flips = np.array([1, 0]) / (frames - 1)
    assert value["translate", "flip_probability"] == pytest.approx(flips.mean())
    expected = flips.std() / np.sqrt(2)
    assert value["translate", "flip_probability_se"] == pytest.approx(expected, rel=.1)
    assert value["mean", "flip_probability_se"] == pytest.approx(value["translate", "flip_probability_se"] / 4)
    assert value["spatter", "flip_probability_se"] == 0


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), frames=st.integers(2, 9), difficulty=st.integers(1, 3), scale=st.floats(.1, 20))
def test_stability_has_its_bounds(seed, frames, difficulty, scale):
    rng = keyed_rng("stability", seed)
    logits = scale * rng.normal(size=(3, frames, 5))
    probs = metrics.softmax(logits.reshape(-1, 5)).reshape(logits.shape)
    for name in ("gaussian_noise", "tilt"):
        if name == "tilt" and frames <= difficulty:
            with pytest.raises(UserError, match="too few"):
                stability_of(probs, logits, name, difficulty)
            continue
        values, flips, classes = stability_of(probs, logits, name, difficulty)
        assert 0 <= values["confidence_change"] <= values["total_variation"] + 1e-12 <= 1 + 1e-9
        assert flips.mean() == values["flip_probability"] <= 1 and len(classes) == values["distinct_predictions"]
        assert ("total_variation_unflipped" in values) == (flips < 1).any()
        assert (values["distinct_predictions"] == 1) <= (values["flip_probability"] == 0)
        assert values["flip_probability"] == 0 or values["top2_distance"] > 0


# ---- the temperature

def test_fit_temperature_known_answers():
    """Two classes whose logits are z and -z, of which a fraction a is right: sigmoid(2 z / T) = a."""
    for z, right in ((1, 8), (3, 6), (.2, 9)):
        labels = np.array([0] * right + [1] * (10 - right))
        logits = np.tile([z, -z], (10, 1))
        assert metrics.fit_temperature(logits, labels) == pytest.approx(2 * z / np.log(right / (10 - right)), rel=1e-9)


def drawn(seed, images=200, classes=7):
    """(logits that are well calibrated, labels drawn from them)."""
    rng = keyed_rng("temperature", seed)
    logits = 2 * rng.normal(size=(images, classes))
    cumulative = metrics.softmax(logits).cumsum(1)
    return logits, np.minimum((rng.random((images, 1)) > cumulative).sum(1), classes - 1)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), scale=st.floats(1e-4, 1e4), shift=st.floats(-50, 50))
def test_a_temperature_follows_the_scale_and_no_shift(seed, scale, shift):
    logits, labels = drawn(seed)
    fitted = metrics.fit_temperature(logits, labels)
    assert metrics.fit_temperature(scale * logits, labels) == pytest.approx(scale * fitted, rel=1e-6)
    assert metrics.fit_temperature(logits + shift, labels) == pytest.approx(fitted, rel=1e-6)
    assert metrics.fit_temperature(logits[:, ::-1], 6 - labels) == pytest.approx(fitted, rel=1e-6)
    assert .6 < fitted < 1.7  # the labels were drawn from these probabilities


def test_a_temperature_has_the_lowest_nll():
    logits, labels = drawn(0)
    logits = 3 * logits

    def nll(log_t):
        return -metrics.log_softmax(logits / np.exp(log_t))[np.arange(len(labels)), labels].mean()

    best = minimize_scalar(nll, bounds=(-5, 5), method="bounded", options={"xatol": 1e-10})
    assert metrics.fit_temperature(logits, labels) == pytest.approx(np.exp(best.x), rel=1e-5)


@pytest.mark.parametrize("logits,labels,message", [
    (np.eye(3), [0, 1, 2], "every label has the highest logit"), (np.eye(3), [1, 2, 0], "tell nothing of the labels"),
    (np.ones((3, 4)), [0, 1, 2], "equal"), (np.eye(3), [0, 1], "must be"), (np.eye(3), [0, 1, 3], "labels must be"),
    (1e9 * np.array([[1, 0, 0], [0, 1, 0], [1.001, 1, 0]]), [0, 1, 1], "is above 1e\\+06"),
    (np.eye(3), [0., 1, 2], "must be"), (np.full((2, 2), np.nan), [0, 1], "NaN"), (np.zeros((0, 3)), [], "must be")])
def test_no_temperature(logits, labels, message):
    with pytest.raises(ValueError, match=message):
        metrics.fit_temperature(logits, labels)


def test_validation_logits_are_those_of_the_validation_images(scored, demo_root):
    run, _ = scored
    val = load_split("demo", demo_root, "val", **parse_options(OPTIONS)).frame
    logits = np.load(run / "predictions/validation.npy")
    np.testing.assert_array_equal(np.load(run / "predictions/validation_labels.npy"), val["expression"])
    model = ResNet18(8, SIZE)
    model.load_state_dict(torch.load(run / "best.pt", weights_only=True)["model"])
    model.eval()
    images = np.stack([read_image(demo_root / path, SIZE) for path in val["path"]])
    with torch.no_grad():
        plain = model(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    np.testing.assert_allclose(logits, plain, atol=1e-4)


def test_stored_validation_logits_are_used_and_damaged_ones_made_again(run, sequences, half, monkeypatch, capsys):
    before, folder, asked = contents(run), run / "predictions", []
    other = (folder / "validation.npy").read_bytes()
    real = validation.validation_split
    monkeypatch.setattr(validation, "validation_split", lambda run: asked.append(run) or real(run))
    score(run, sequences)
    assert contents(run) == before and not asked
    for name, damage in (("validation.npy", b"junk"), ("validation_labels.npy", other), ("validation.json", b"{"),
                         ("validation.json", b'{"images": -1}')):
        (folder / name).write_bytes(damage)
        score(run, sequences)
        assert asked and contents(run) == before
        asked.clear()
    assert "validation.npy is damaged" in capsys.readouterr().out
    stored = np.load(folder / "validation.npy")
    np.save(folder / "validation.npy", stored[::-1])  # whole, but other values
    score(run, sequences)
    assert asked and contents(run) == before


def test_stored_labels_of_no_class_are_read_again(run, sequences, monkeypatch, capsys):
    """With digests that fit them. Before, there was no temperature, and the labels stayed."""
    monkeypatch.setattr(metrics, "fit_temperature", checked_fit)
    before, folder = contents(run), run / "predictions"
    labels = np.load(folder / "validation_labels.npy")
    labels[0] = 8
    np.save(folder / "validation_labels.npy", labels)
    info = json.loads((folder / "validation.json").read_text())
    info["digests"][1] = predictions.digest(labels)
    (folder / "validation.json").write_text(json.dumps(info))
    score(run, sequences)
    assert contents(run) == before
    assert "validation_labels.npy is damaged (it holds labels of no class)" in capsys.readouterr().out


def checked_fit(logits, labels, fit=metrics.fit_temperature):
    """Temperature 2.5 where the arguments are valid."""
    try:
        fit(logits, labels)
    except metrics.NoTemperature:
        pass
    return 2.5


def test_an_error_of_the_code_is_no_missing_temperature(run, sequences, monkeypatch):
    def fit(logits, labels):
        raise ValueError("logits must be (N, K)")

    monkeypatch.setattr(metrics, "fit_temperature", fit)
    with pytest.raises(ValueError, match="must be"):
        score(run, sequences)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_file_that_cannot_be_written_ends_all_processes(run, monkeypatch, rank):
    """Process 0 has an error; the others get it by the broadcast, where they would wait for ever."""
    error = UserError("validation.npy: no space left")
    reached = []

    class Connection:
        global_rank, device = rank, None

        def barrier(self):
            reached.append("barrier")

        def broadcast(self, value):
            assert rank or value is error
            return error

    def fitted(*_):
        raise error

    monkeypatch.setattr(validation, "prepare_network", lambda *_: None)
    monkeypatch.setattr(validation, "fitted_temperature", fitted)
    with pytest.raises(UserError, match="no space left"):
        validation.temperature_of_run(SimpleNamespace(image_size=SIZE), None, None, Connection(), None)
    assert reached


@pytest.mark.slow
@pytest.mark.parametrize("changes,reason", [
    ({"root": "/nowhere"}, validation.NOT_READ), ({"data": ["train=128", "val=17", "test=16"]}, validation.NOT_READ),
    ({"dataset": "sculptures"}, validation.NOT_READ), ({"data_sha256": "0" * 64}, validation.OTHER_DATA),
    ({"root": 3, "data": "x"}, validation.NOT_READ), ({"data": ["=", "x"]}, validation.NOT_READ)])
def test_without_the_data_set_there_are_no_rows_and_a_note(scored, sequences, demo_root, tmp_path, monkeypatch, capsys,
                                                           changes, reason):
    monkeypatch.setenv("FERC_DATA", str(tmp_path / "no data"))
    rows = score(new_run(tmp_path / "seed0", demo_root, **changes), sequences)
    assert {row["method"] for row in rows} == {"softmax"}
    assert {row["notes"] for row in rows} == {f"no temperature: {reason}"}
    assert "no scores after temperature scaling" in capsys.readouterr().out
    assert not list((tmp_path / "seed0/predictions").glob("validation*"))
    assert not list(demo_root.rglob("val-00016.png"))  # the demo draws missing images, and a run must not ask for that


def test_rows_of_an_earlier_temperature_go(run, sequences, monkeypatch):
    """Once the temperature is not known any more, its rows would be of other predictions."""
    shutil.rmtree(run / "predictions")
    args = json.loads((run / "args.json").read_text())
    (run / "args.json").write_text(json.dumps(args | {"root": "/nowhere"}))
    assert {row["method"] for row in rows_of(run)} == {"softmax", "temperature"}
    assert {row["method"] for row in score(run, sequences)} == {"softmax"}


def test_untrained_weights_have_no_temperature_or_one(sequences, demo_root, tmp_path):
    """Without a stand-in for the fit."""
    rows = score(new_run(tmp_path / "seed0", demo_root), sequences)
    has_rows = {row["method"] for row in rows} == {"softmax", "temperature"}
    assert has_rows != ("no temperature: " in rows[0]["notes"])


# ---- the store, interrupted and in two processes

def stop_after(monkeypatch, blocks, stop):
    """Let scoring end when so many blocks are stored."""
    stored, write = [], inference.write_block

    def stopping(*given):
        write(*given)
        stored.append(given)
        if len(stored) == blocks:
            raise stop

    monkeypatch.setattr(inference, "write_block", stopping)


@pytest.mark.parametrize("on_the_fly", mostly_slow([False, True], fast=[1]))
def test_a_scoring_that_is_stopped_goes_on_by_block(unscored, run, sequences, half, monkeypatch, on_the_fly):
    with monkeypatch.context() as patch:
        patch.setattr(predictions, "IMAGES_IN_A_BLOCK", 1)
        stop_after(patch, 2, KeyboardInterrupt)
        with pytest.raises(KeyboardInterrupt):
            score(unscored, sequences, on_the_fly=on_the_fly)
        assert len(list((unscored / "predictions/Demo-P.partial/blocks").iterdir())) == 2
        patch.setattr(inference, "write_block", predictions.write_block)
        score(unscored, sequences, on_the_fly=on_the_fly)
    assert contents(unscored) == contents(run)
    assert not (unscored / "predictions/Demo-P.partial").exists()


def test_two_workers_give_the_same_bytes(unscored, run, sequences, half):
    score(unscored, sequences, on_the_fly=True, machine=evaluate.Machine(workers=2))
    assert contents(unscored) == contents(run)


@pytest.mark.slow
def test_a_scoring_that_is_killed_goes_on(build_sequences, scored, demo_root, whole, tmp_path):
    """kill -9 at some moments of a scoring in two worker processes; the last one ends with the undisturbed bytes."""
    built = build_sequences(tmp_path / "Demo-P", limit=16)
    run, twin = (new_run(tmp_path / name / "seed0", demo_root) for name in ("one", "other"))

    def command(folder):
        words = [sys.executable, "evaluate.py", str(folder), "--set", str(built), "--on-the-fly", "--workers", "2"]
        return subprocess.Popen(words, cwd=ROOT, start_new_session=True, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})

    assert command(run).wait(timeout=300) == 0
    kills = 0
    for _ in range(40):
        process = command(twin)
        blocks = twin / "predictions/Demo-P.partial/blocks"
        start = len(list(blocks.iterdir())) if blocks.exists() else 0
        while process.poll() is None:
            if blocks.exists() and len(list(blocks.iterdir())) >= start + 1:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                kills += 1
            time.sleep(.005)
        if process.returncode == 0:
            break
    assert process.returncode == 0 and kills >= 2, process.stdout.read()
    assert contents(twin) == contents(run)


def test_each_sequence_is_made_once(unscored, sequences, half, monkeypatch):
    """zoom_blur is a running mean: made for each frame anew, it would cost the square of the number of frames."""
    made, real = [], forms.sequence
    monkeypatch.setattr(forms, "sequence", lambda clean, image_id, name, made_with: (
        made.append((image_id, name)), real(clean, image_id, name, made_with))[1])
    score(unscored, sequences, on_the_fly=True)
    ids = open_built_set(sequences).frame["id"]
    of_the_check = [(ids[0], name) for name in NAMES]  # open_sets compares the forms of the first image
    assert sorted(made) == sorted([(image_id, name) for image_id in ids for name in NAMES] + of_the_check)


@pytest.mark.slow
def test_damaged_frames_are_predicted_again(run, sequences, half, capsys):
    before = contents(run)
    (run / "predictions/Demo-P/zoom_blur/7.npy").write_bytes(b"half")
    (run / "predictions/Demo-P/translate/3.npy").unlink()
    score(run, sequences)
    assert "zoom_blur/7.npy is damaged" in capsys.readouterr().out
    after = contents(run)
    # Fewer images are predicted at once, and the last digits of a few logits may differ.
    changed = {name for name in before if after.get(name) != before[name]}
    assert changed <= {"predictions/Demo-P/zoom_blur/7.npy", "predictions/Demo-P/translate/3.npy", "scores.csv",
                       "predictions/Demo-P/set.json"}
    assert after.keys() == before.keys()


# ---- what others read: set.json, scores.csv, cards

def test_set_json_says_what_the_set_has(scored, sequences):
    info = predictions.read_info(scored[0] / "predictions/Demo-P")
    built = open_built_set(sequences)
    assert stored_cells(info) == built.cells
    assert stored_sequences(info).difficulty == 1 and tuple(stored_sequences(info).frames) == NAMES
    assert run_folder.is_scored(scored[0], sequences) and not run_folder.is_scored(scored[0], sequences, "bf16")


@pytest.mark.parametrize("entry", [
    3, [], {}, {"frames": {}, "difficulty": 1}, {"frames": {"../x": 3}, "difficulty": 1},
    {"frames": {"zoom_blur": 10**9}, "difficulty": 1}, {"frames": {"zoom_blur": 3.5}, "difficulty": 1},
    {"frames": {"zoom_blur": True}, "difficulty": 1}, {"frames": {"zoom_blur": 5}, "difficulty": 4},
    {"frames": {"zoom_blur": 42}, "difficulty": 1}, {"frames": {"glass_blur": 9}, "difficulty": 1},
    {"frames": {"zoom_blur": 9, "p_scale": 9}, "difficulty": 1},
    {"frames": {"zoom_blur": 2}, "difficulty": 2}, {"frames": ["zoom_blur"], "difficulty": 1},
    {"frames": {"zoom_blur": 5}, "difficulty": None}, {"frames": {"zoom_blur": 5}}])
def test_a_hostile_entry_of_set_json_is_refused(entry):
    with pytest.raises(ValueError, match="sequences"):
        stored_cells({"sequences": entry})


def test_a_hostile_set_json_is_replaced(run, sequences, half):
    before = contents(run)
    path = run / "predictions/Demo-P/set.json"
    info = json.loads(path.read_text())
    path.write_text(json.dumps(info | {"sequences": {"frames": {"../../x": 10**9}, "difficulty": 1}}))
    score(run, sequences)
    assert contents(run) == before


def test_corruptions_and_perturbations_are_not_of_one_set(scored, tmp_path):
    """Each of the two rows could be there alone."""
    text = (scored[0] / "scores.csv").read_text()
    row = next(line for line in text.splitlines() if ",translate,,accuracy," in line)
    path = tmp_path / "scores.csv"
    for place in ("contrast,3", "pooled,"):
        path.write_text(text + row.replace("translate,", place).replace("accuracy", "nll") + "\n")
        with pytest.raises(DamagedFile, match="Demo-P has corruptions and perturbations"):
            read_scores(path)
    path.write_text(text + row.replace("Demo-P", "Demo-C").replace("translate,", "contrast,3") + "\n")
    assert len(read_scores(path)) == len(text.splitlines())


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_mutated_scores_are_read_or_refused(scored, tmp_path_factory, data):
    text = (scored[0] / "scores.csv").read_text()
    lines = text.splitlines()
    for _ in range(data.draw(st.integers(1, 3))):
        number = data.draw(st.integers(0, len(lines) - 1))
        cells = lines[number].split(",")
        place = data.draw(st.integers(0, len(cells) - 1))
        cells[place] = data.draw(st.sampled_from(
            ["", "nan", "inf", "-1", "1e999", "snow", "zoom_blur", "tilt", "3", "temperature", "\x00", "\"", "é\u2028",
             "../x", "=1+1", "mean", "9" * 400]))
        lines[number] = ",".join(cells)
    path = tmp_path_factory.getbasetemp() / "scores.csv"
    path.write_text("\n".join(lines) + "\n")
    try:
        rows = read_scores(path)
    except UserError as error:
        assert str(error).isprintable()
    else:
        assert all(np.isfinite(float(row["value"])) for row in rows)


def test_a_card_holds_the_scores_of_both_methods(scored, sequences):
    card, rows = cards.read_card(scored[1]), rows_of(scored[0])
    assert card.has_sequences and card.cells("ece") == {} and card.data["standard_errors"] is None
    for method in ("softmax", "temperature"):
        places = card.sequence_scores(method)
        assert list(places) == ["clean", *NAMES, "mean"]
        expected = {key: value for key, value in values_of(rows, method).items() if key[1] != "n"}
        found = {(place, metric): value for place, values in places.items() for metric, value in values.items()}
        assert found == pytest.approx(expected, rel=1e-8, abs=1e-12)
    assert card.sequence_scores("other") == {}
    assert card.score("mean", "flip_probability") == card.sequence_scores()["mean"]["flip_probability"]


def change_at(*path):
    """A change of a card's content: the last of `path` becomes the entry that the others name."""
    *names, last, value = path

    def change(data):
        for name in names:
            data = data[name]
        data[last] = value
    return change


@pytest.mark.parametrize("change", [
    change_at("sequences", "frames", {"snow": 31}), change_at("sequences", "frames", "tilt", 31),
    change_at("sequences", "difficulty", 9), change_at("sequences", "scores", {}),
    change_at("sequences", "scores", "softmax", "clean", {}), change_at("sequences", "scores", "vote", {}),
    change_at("sequences", "scores", "softmax", "translate", "flip_probability", 1.5),
    change_at("sequences", "scores", "temperature", "clean", "temperature", 0),
    change_at("sequences", "scores", "softmax", "translate", "top101_distance", 1),
    change_at("sequences", "scores", "softmax", "translate", "top3_distance", -1),
    change_at("sequences", "scores", "temperature", "clean", "temperature", 2e6),
    change_at("sequences", "frames", "translate", 42), change_at("standard_errors", {}),
    change_at("sequences", "scores", "softmax", "p_scale", {}),
    change_at("scores", "places", "pooled", {}), change_at("method", "temperature"),
    change_at("sequences", "frames", "p_scale", 30), lambda data: data["sequences"]["scores"].pop("softmax"),
    lambda data: data["sequences"].pop("frames")])
def test_a_hostile_card_is_refused(scored, tmp_path, change):
    data = json.loads(scored[1].read_text())
    change(data)
    path = tmp_path / "card.json"
    path.write_text(json.dumps(data))
    with pytest.raises(DamagedFile):
        cards.read_card(path)


# ---- other models

def test_ids_are_exported(sequences, tmp_path):
    built = open_built_set(sequences)
    text = export_ids(tmp_path / "ids", built)
    readme = (tmp_path / "ids/README.txt").read_text()
    assert f"{len(built.cells) + 1} files of predictions" in text
    assert f"clean and in {len(built.cells)} frames of 4 perturbations" in readme
    cells = list(csv.DictReader((tmp_path / "ids/cells.csv").open()))
    assert cells[1] == {"cell": "gaussian_noise/0", "images": "images/gaussian_noise/0/<id>.png",
                        "file": "gaussian_noise/0.npy"}
    first = built.frame["id"].iloc[0]
    assert all((sequences / row["images"].replace("<id>", first)).is_file() for row in cells)


@pytest.mark.slow
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kind=st.sampled_from(["shape", "type", "nan", "pickle", "half", "missing", "twice", "large", "link"]),
       data=st.data())
def test_hostile_logits_are_refused(sequences, tmp_path_factory, kind, data):
    built = open_built_set(sequences)
    folder = tmp_path_factory.mktemp("hostile")
    write_logits(folder, built, lambda cell: np.eye(8)[:IMAGES])
    name, frame = built.cells[data.draw(st.integers(0, len(built.cells) - 1))]
    path = folder / name / f"{frame}.npy"
    if kind == "shape":
        np.save(path, np.zeros((IMAGES, data.draw(st.sampled_from([1, 7, 9]))), np.float32))
    elif kind == "type":
        np.save(path, np.zeros((IMAGES, 8), np.int64))
    elif kind == "nan":
        np.save(path, np.full((IMAGES, 8), np.nan, np.float32))
    elif kind == "pickle":
        np.save(path, np.array([{}] * IMAGES), allow_pickle=True)
    elif kind == "half":
        path.write_bytes(path.read_bytes()[:data.draw(st.integers(0, 150))])
    elif kind == "missing":
        path.unlink()
    elif kind == "twice":
        path.with_suffix(".csv").write_text("id\n")
    elif kind == "large":
        with open(path, "ab") as file:
            file.truncate(10**9)
    elif kind == "link":
        path.rename(folder.parent / f"{folder.name}.npy")
        path.symlink_to(folder.parent / f"{folder.name}.npy")
    with pytest.raises(UserError):
        evaluate.main(evaluate.Args(set=(sequences,), limit=1, source=ModelOptions(f"logits:{folder}")))


@pytest.mark.parametrize("rule", ["drop", "keep"])
def test_missing_and_removed_classes(sequences, tmp_path, monkeypatch, rule):
    """A model without Sad, and with a class that the set lacks."""
    built = open_built_set(sequences)
    labels = built.frame["expression"].to_numpy()
    names = ["Neutral", "Happy", "Surprise", "Fear", "Disgust", "Anger", "Contempt", "Sleepy"]
    rng = keyed_rng("missing")
    logits = {cell: rng.normal(size=(IMAGES, 8)) for cell in all_cells(built)}
    monkeypatch.setenv("FERC_RUNS", str(tmp_path / "runs"))
    folder = write_logits(tmp_path / "logits", built, logits.__getitem__)
    evaluate.main(evaluate.Args(set=(sequences,), source=ModelOptions(f"logits:{folder}", classes=",".join(names)),
                                classes=ClassOptions(missing_classes=rule)))
    (model,) = (tmp_path / "runs/models").iterdir()
    rows = rows_of(model)
    value = values_of(rows)
    known = [0, 1, 3, 4, 5, 6, 7]  # of the set's classes
    kept = np.arange(IMAGES) if rule == "keep" else np.flatnonzero(labels != 2)
    predicted = np.stack([np.array(known)[logits[cell][:, :7].argmax(1)]
                          for cell in built.cells if cell[0] == "translate"], 1)[kept]
    assert value["translate", "accuracy"] == pytest.approx((predicted == labels[kept, None]).mean())
    assert value["translate", "flip_probability"] == pytest.approx(metrics.flips(predicted).mean())
    assert (("translate", "nll") in value) == (rule == "drop") and value["mean", "n"] == len(kept)
    assert value["mean", "removed_mass"] > 0
    assert "the set lacks Sleepy" in rows[0]["notes"] and "on frames" in rows[0]["notes"]
    card = cards.read_card(model / "cards/Demo-P.json")
    assert card.data["removed"]["names"] == ["Sleepy"] and card.data["set"]["images_scored"] == len(kept)


def test_a_look_prints_and_writes_nothing(unscored, sequences, capsys):
    before = contents(unscored)
    evaluate.main(evaluate.Args(unscored, set=(sequences,), limit=2, machine=evaluate.Machine(workers=0)))
    printed = capsys.readouterr().out
    assert "a look at 2 of 4 images" in printed and "flips" in printed
    assert contents(unscored) == before


@pytest.mark.slow
def test_from_python(sequences, tmp_path, monkeypatch):
    monkeypatch.setenv("FERC_DATA", str(tmp_path / "no data"))
    weights = keyed_rng("from python").normal(size=(3, 8))

    def predict(images):
        return images.astype(np.float64).mean((1, 2)) @ weights

    frame = benchmark.benchmark(predict, sequences, classes=["Neutral", "Happy", "Sad", "Surprise", "Fear", "Disgust",
                                                             "Anger", "Contempt"], input="layout=nhwc,range=0..255",
                                no_check=True)
    assert set(frame["corruption"]) == {"clean", *NAMES, "mean"} and set(frame["method"]) == {"softmax"}
    assert frame["severity"].isna().all()
    assert frame["notes"].str.contains("no temperature: the model is no run").all()


@pytest.mark.slow
def test_an_onnx_file_of_another_size(sequences, tmp_path, monkeypatch):
    """Frames are brought to the 40 pixels that the network takes."""
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    import small_models

    monkeypatch.setenv("FERC_RUNS", str(tmp_path / "runs"))
    small_models.write_onnx(tmp_path / "net.onnx", shape=("N", 3, 40, 40))
    source = ModelOptions(str(tmp_path / "net.onnx"), classes=",".join(small_models.CLASSES), input="range=0..1")
    evaluate.main(evaluate.Args(set=(sequences,), source=source, on_the_fly=True, machine=evaluate.Machine(workers=0)))
    (model,) = (tmp_path / "runs/models").iterdir()
    logits = read_array(model / "predictions/Demo-P/zoom_blur/5.npy")
    built = open_built_set(sequences)
    pixels = np.stack([built.pixels(i, "zoom_blur", 5) for i in range(IMAGES)]).transpose(0, 3, 1, 2) / 255
    np.testing.assert_allclose(logits, small_models.expected(pixels), atol=.02)  # a mean changes little with the size


# ---- whether a run fits

def test_sequences_are_the_same_in_both_protocols(run, sequences, half):
    args = json.loads((run / "args.json").read_text())
    (run / "args.json").write_text(json.dumps(args | {"protocol": "released"}))
    assert "protocol" not in score(run, sequences)[0]["notes"]


@pytest.mark.parametrize("of_run, of_set", [("legacy", None), (None, "legacy"), ("legacy", "xywh")])
def test_faces_cut_otherwise_are_refused_with_the_command(run, of_run, of_set):
    """AffectNet of --protocol released has crop=legacy, and its sets of sequences have it only where --data says so."""
    args = json.loads((run / "args.json").read_text())
    data = [f"crop={of_run}"] if of_run else []
    (run / "args.json").write_text(json.dumps(args | {"dataset": "affectnet", "protocol": "released", "data": data}))
    trained = read_trained_run(run)
    made_with = {"dataset": "affectnet", "size": SIZE, "protocol": "paper", "limit": None, "seed": 0,
                 "options": {"crop": of_set} if of_set else {}, "preset": "imagenet-p", "constants": {"snow": {}},
                 "resolution": 32, "difficulty": 1, "border": "reflect", "source": "aligned", "kind": "sequences"}
    built = SimpleNamespace(made_with=made_with, has_sequences=True, folder=Path("data/AffectNet-P"),
                            classes=trained.classes)
    crops = of_run or "xywh", of_set or "xywh"
    with pytest.raises(UserError, match="faces cut with crop {}, .* has {}:".format(*crops)) as error:
        match(trained, built, force=False)
    assert f"--data crop={crops[0]}" in str(error.value) and "--protocol" not in str(error.value)
    (note,) = match(trained, built, force=True).notes
    assert note == "forced: faces cut with crop {} in training, with crop {} in the set".format(*crops)
    made_with["options"] = {"crop": crops[0]}
    assert match(trained, built, force=False).notes == []
    made_with |= {"dataset": "ferplus", "options": {}}  # another data set has no such option
    assert match(trained, built, force=False).notes == []
    assert signature(affectnet.load_several).parameters["crop"].default == USUAL_CROP


def test_another_image_size_is_refused_with_the_command(run, sequences):
    args = json.loads((run / "args.json").read_text())
    (run / "args.json").write_text(json.dumps(args | {"image_size": 48}))
    with pytest.raises(UserError, match=r"image size 48.*make_fer_p.py --dataset demo .*--image-size 48") as error:
        score(run, sequences)
    assert "--perturbations zoom_blur" in str(error.value) and "Demo-P-48" in str(error.value)


def test_without_a_corrupted_set_the_sequences_are_named(run, tmp_path, monkeypatch):
    monkeypatch.setenv("FERC_DATA", str(tmp_path / "data"))
    (tmp_path / "data/Demo-P").mkdir(parents=True)
    with pytest.raises(UserError, match="Demo-C is not there. Name a set with --set, for example .*Demo-P"):
        score(run)


def test_score_sequences_without_a_temperature_has_no_note(scored, sequences):
    built = open_built_set(sequences)
    rows = score_sequences(built, scored[0] / "predictions/Demo-P", None)
    assert rows[0]["notes"] == "" and {row["method"] for row in rows} == {"softmax"}
    rows = score_sequences(built, scored[0] / "predictions/Demo-P", None, temperature=Temperature(None, "a reason"))
    assert rows[0]["notes"] == "no temperature: a reason"
