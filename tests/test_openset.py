"""train_openset.py end to end on small demo data: files, scores, the same bytes after a stop, refusals."""
import dataclasses
import json
import os
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score

import open_set
import train_openset
from building.built_set import open_built_set
from compute.batches import Images
from datasets import load_split
from datasets.open_classes import POOLS
from models.detector import attention_network
from support import cli, run_folder
from support.errors import UserError
from training.open_set import files, inference, run as openset_run, scores, stages
from training.options import TrainingOptions, effects, recipe_filler
from training.run import Training
from conftest import MACHINE, SIZE

pytestmark = pytest.mark.usefixtures("small")

DATA = ("train=128", "val=16", "test=32")  # four test images of each class


def arguments(root, runs, detector=None, protocol=None, **changes):
    options = dict(dataset="demo", root=root, data=DATA, image_size=SIZE, epochs=1, batch_size=32, weights="none",
                   runs=runs)
    detector = dict(detector_epochs=2, cycles=2, detector_batch_size=8, warm_up=1, ramp=1) | (detector or {})
    return train_openset.Args(TrainingOptions(**options | changes),
                              train_openset.OpenSetOptions(**dict(open="surprise", neighbours=5) | (protocol or {})),
                              train_openset.Detector(**detector), machine=MACHINE)


def start(args):
    """Train and score; returns the run's folder."""
    train_openset.main(args)
    (folder,) = (args.options.runs / "demo/openset/ce" / f"open-{args.open_set.open}" / "noise0").glob("seed0*")
    return folder


@pytest.fixture(scope="module")
def finished(demo_root, tmp_path_factory, small):
    """A run of the pool test; tests only read it."""
    return start(arguments(demo_root, tmp_path_factory.mktemp("openset")))


@pytest.fixture(scope="module")
def with_paper(finished, demo_root, tmp_path_factory):
    """The same run, to which the pool paper was added; tests only read it."""
    runs = tmp_path_factory.mktemp("paper") / "runs"
    shutil.copytree(finished.parents[5], runs)
    return start(arguments(demo_root, runs, protocol={"pools": ("test", "paper")}))


def results(folder):
    """Everything that says what was measured: {name: bytes}."""
    names = [folder / "open_scores.csv", *sorted((folder / "open_scores").rglob("*.*")),
             *sorted((folder / "pseudo_labels").iterdir())]
    return {str(path.relative_to(folder)): path.read_bytes() for path in names}


# ---- a run

def test_files_of_a_run(finished):
    args = json.loads((finished / "args.json").read_text())
    assert args["open"] == "surprise" and args["open_classes"] == [3] and len(args["classes"]) == 7
    assert "Surprise" not in args["classes"] and args["train_class_counts"] == [16] * 7
    metrics_rows = pd.read_csv(finished / "metrics.csv")
    best = torch.load(finished / "best.pt", map_location="cpu", weights_only=True)
    assert best["epoch"] == len(metrics_rows) - 1  # the last epoch, whatever its score
    assert not (finished / "last.pt").exists()
    for part in ("all", "a", "b"):
        place = finished / "detectors/test" / part
        assert len(pd.read_csv(place / "metrics.csv")) == 2
        assert not list(place.glob("*.pt"))  # snapshots and last.pt are removed
    labels = pd.read_csv(finished / "pseudo_labels/test.csv")
    assert labels.columns.tolist() == ["split", "id", "path", "true", "pseudo", "is_open"]
    assert labels["id"].is_monotonic_increasing and len(labels) == 32
    assert (labels["is_open"] == (labels["true"] == "Surprise")).all() and "Surprise" not in set(labels["pseudo"])


@pytest.mark.slow
def test_all_open_classes_share_the_caches_of_whole_splits(with_paper, demo_root, tmp_path, monkeypatch):
    """Three caches, those of train, val and test, which every training of the data set has."""
    monkeypatch.delenv("FERC_CACHE", raising=False)
    shutil.copytree(with_paper.parents[5], tmp_path / "runs")
    caches = sorted((tmp_path / "runs/cache").glob("*.npy"))
    options = dict(pair.split("=") for pair in DATA)
    splits = [load_split("demo", demo_root, name, **options).frame for name in ("train", "val", "test")]
    assert sorted(path.stem for path in caches) == sorted(Images(demo_root, frame, SIZE).cache_key for frame in splits)
    start(arguments(demo_root, tmp_path / "runs", protocol={"open": "fear", "scorings": ("transductive",)}))
    assert sorted((tmp_path / "runs/cache").glob("*.npy")) == caches


def test_pictures_are_decoded_once(finished):
    """By training, closed outputs, detectors and their scores together: all of them read the caches."""
    assert len(list((finished.parents[5] / "cache").glob("*.npy"))) == 3


@pytest.mark.slow
def test_a_pool_is_added_to_a_run(finished, with_paper):
    """The closed model is not trained again, and the pool test keeps its scores."""
    before, after = results(finished), results(with_paper)
    assert {name for name in before if "open_scores.csv" not in name} <= after.keys()
    assert all(after[name] == content for name, content in before.items() if name != "open_scores.csv")
    rows = after["open_scores.csv"].decode().splitlines()
    assert [line for line in rows if not line.startswith("paper")] == before["open_scores.csv"].decode().splitlines()


@pytest.mark.slow
def test_scores_of_a_run_from_its_files(with_paper, demo_root):
    """Open scores by image against the closed model's files, and open_scores.csv against open scores by image."""
    finished = with_paper
    images = files.read_scores(files.scores_file(finished, "paper"))
    assert set(images["group"]) == {"closed", "open-test", "open-train"}
    test = load_split("demo", demo_root, "test", **dict(pair.split("=") for pair in DATA)).frame
    logits = np.load(finished / "closed_model/test_logits.npy")
    of_test = images[images["split"] == "test"].set_index("id").loc[test["id"]]
    np.testing.assert_allclose(of_test["maximum_logit"], -logits.max(1).astype(float))
    table = scores.read_open_scores(finished)
    assert not table.duplicated(["pool", "scoring", "detector", "group", "metric"]).any()
    value = table.set_index(["pool", "scoring", "detector", "group", "metric"])["value"]
    is_open = (images["is_open"] == "1").to_numpy()
    for detector, column in (("energy", "energy"), ("trained", "trained_transductive")):
        for group in ("open-test", "open-train"):
            rows = (images["group"].isin(["closed", group])).to_numpy()
            expected = roc_auc_score(is_open[rows], images[column][rows])
            assert value["paper", "transductive", detector, group, "auroc"] == pytest.approx(expected)
    halves = [(images["half"] == half).to_numpy() for half in "ab"]
    expected = np.mean([roc_auc_score(is_open[rows], images["trained_inductive"][rows]) for rows in halves])
    assert value["paper", "inductive", "trained", "all", "auroc"] == pytest.approx(expected)
    closed = images[~is_open]
    accuracy = (closed["predicted"] == closed["expression"]).mean()
    assert value["paper", "transductive", "trained", "all", "closed_accuracy"] == pytest.approx(accuracy)
    assert value["test", "transductive", "trained", "all", "n_open"] == 4
    assert set(table["detector"]) == {"trained", *open_set.BASELINES}


def test_an_inductive_score_is_of_the_other_half(finished):
    images = files.read_scores(files.scores_file(finished, "test"))
    by_part = {part: np.load(finished / "detectors/test" / part / "pool_scores.npy") for part in "ab"}
    for half, other in (("a", "b"), ("b", "a")):
        rows = (images["half"] == half).to_numpy()
        np.testing.assert_allclose(images["trained_inductive"][rows], by_part[other][rows], rtol=1e-15)
    validation = files.read_scores(files.validation_file(finished, "test"))
    of_b = np.load(finished / "detectors/test/b/validation_scores.npy")
    np.testing.assert_allclose(validation["trained_inductive_a"], of_b, rtol=1e-15)


def test_a_finished_run_is_left_as_it_is(finished, demo_root, capsys, monkeypatch):
    before = results(finished)
    monkeypatch.setattr(openset_run, "load_open_set_data", lambda *given: pytest.fail("reads the data"))
    runs = finished.parents[5]
    train_openset.main(arguments(demo_root, runs))
    assert "is scored" in capsys.readouterr().out and results(finished) == before


def test_the_sweep_knows_what_is_scored(finished, demo_root, tmp_path, monkeypatch):
    """A command counts as done where its run has all pools and ways of scoring that it asks for."""
    from sweeping.begun_runs import find_run_folder
    from sweeping.results import has_open_scores

    settings_of_run = json.loads((finished / "args.json").read_text())["differs"]
    options = [word for name, value in settings_of_run.items() if name not in ("data", "precision")
               for word in (f"--{name.replace('_', '-')}", str(value))]
    options += [word for pair in DATA for word in ("--data", pair)] + ["--precision", "32"]
    words = ("python", "train_openset.py", "--dataset", "demo", "--open", "Surprise", "--runs",
             str(finished.parents[5]), *options)
    assert find_run_folder(words) == finished and has_open_scores(finished, words)
    for more, is_done in ((("--pools", "test"), True), (("--pools", "test", "paper"), False),
                          (("--scorings", "inductive"), True), (("--set", str(demo_root)), False)):
        assert find_run_folder(words + more) == finished and has_open_scores(finished, words + more) == is_done, more
    with_blank = tmp_path / "my sets" / "Demo-C"
    with_blank.mkdir(parents=True)
    (with_blank / "manifest.json").write_text('{"set_version": "ab"}')
    asked = []
    monkeypatch.setattr(scores, "has_scores", lambda *given: asked.append(given[-1]))
    has_open_scores(finished, (*words, "--set", str(with_blank)))
    assert asked == [{"Demo-C": "ab"}]
    monkeypatch.undo()
    other = tuple("fear" if word == "Surprise" else word for word in words)
    assert find_run_folder(other) is None
    assert has_open_scores(finished, ("python", "train_baseline.py", "--dataset", "demo"))


def test_reports_leave_open_set_runs_out(finished):
    from reporting.runs import read_runs
    with pytest.raises(UserError, match="no run in"):
        read_runs(finished.parents[5])


# ---- stopped and started again

def stop_at(patch, module, name, call, kind=RuntimeError):
    """The function fails in its call of this number."""
    function, calls = getattr(module, name), []

    def stopping(*given, **more):
        calls.append(1)
        if len(calls) == call:
            raise kind("killed")
        return function(*given, **more)

    patch.setattr(module, name, stopping)


def interrupt_at(patch, steps):
    """Ctrl-C after that many steps of all trainings."""
    end_step, count = Training.end_step, []

    def stopping(training, terms):
        count.append(1)
        if len(count) == steps:
            os.kill(os.getpid(), signal.SIGINT)
        end_step(training, terms)

    patch.setattr(Training, "end_step", stopping)


STOPS = {  # the closed training has 4 steps, the first detector 2 epochs of 2 x 4 at most
    "closed training": lambda patch: interrupt_at(patch, 2),
    "closed outputs": lambda patch: stop_at(patch, files, "write_array", 3),
    "pseudo labels": lambda patch: stop_at(patch, files, "write_pseudo_labels", 1),
    "detector, inside an epoch that leaves images out": lambda patch: interrupt_at(patch, 4 + 8 + 5),
    "detector, after a snapshot": lambda patch: stop_at(patch, stages.training_folder, "record_time", 1 + 2),
    "scores of a detector": lambda patch: stop_at(patch, openset_run, "detector_scores", 2),
    "second detector": lambda patch: interrupt_at(patch, 4 + 8 + 6 + 3),
    "open scores": lambda patch: stop_at(patch, files, "write_scores", 2),
    "open_scores.csv": lambda patch: stop_at(patch, scores, "write_rows", 1),
}
FAST = "detector, inside an epoch that leaves images out"


@pytest.mark.parametrize("stop", [
    pytest.param(name, marks=() if name == FAST else pytest.mark.slow) for name in STOPS])
def test_the_same_scores_after_a_stop(finished, demo_root, tmp_path, monkeypatch, stop):
    with monkeypatch.context() as patch:
        STOPS[stop](patch)
        with pytest.raises((KeyboardInterrupt, RuntimeError)):
            start(arguments(demo_root, tmp_path))
    folder = start(arguments(demo_root, tmp_path))
    assert results(folder) == results(finished)


@pytest.mark.slow
def test_fresh_removes_what_an_open_set_run_wrote(with_paper, demo_root, tmp_path):
    shutil.copytree(with_paper.parents[5], tmp_path / "runs")
    (folder,) = (tmp_path / "runs").rglob("open_scores.csv")
    (folder.parent / "mine.txt").write_text("stays")
    args = arguments(demo_root, tmp_path / "runs", fresh=True)
    assert start(args) == folder.parent and (folder.parent / "mine.txt").exists()
    assert not (folder.parent / "detectors/paper").exists()


# ---- one network, and the options

@pytest.mark.slow
def test_one_network_that_leaves_nothing_out(demo_root, tmp_path):
    """The released method: one network, one cycle, all images in every epoch, and a falling learning rate."""
    detector = dict(networks=1, left_out=0.0, cycles=1, schedule="exponential")
    args = arguments(demo_root, tmp_path, detector, {"scorings": ("transductive",), "keep_snapshots": True})
    folder = start(args)
    rows = pd.read_csv(folder / "detectors/test/all/metrics.csv")
    assert rows["kept_0"].tolist() == [32] * 2 and "kept_1" not in rows
    files_of_snapshots = list((folder / "detectors/test/all").glob("snapshot*.pt"))
    assert len(files_of_snapshots) == 1
    network = stages.load_snapshot(files_of_snapshots[0], 7, SIZE, 1)
    assert len(network.networks) == 1
    rates = [train_openset.learning_rate(args.detector, epoch) for epoch in range(2)]
    assert rates == pytest.approx([2e-4, 1.8e-4])
    assert set(scores.read_open_scores(folder)["scoring"]) == {"transductive"}


def test_images_of_an_epoch_are_chosen_by_the_other_network():
    detector = train_openset.Detector(warm_up=1, ramp=1, left_out=0.5)
    losses = np.array([[1., 2, 3, 4], [4, 3, 2, 1]])
    labels = np.zeros(4, int)
    assert train_openset.images_of_epoch(detector, 0, losses, labels).all()
    kept = train_openset.images_of_epoch(detector, 1, losses, labels)
    assert kept.tolist() == [[False, False, True, True], [True, True, False, False]]
    alone = train_openset.images_of_epoch(detector, 1, losses[:1], labels)
    assert alone.tolist() == [[True, True, False, False]]
    mixture = dataclasses.replace(detector, selection="mixture")
    kept = train_openset.images_of_epoch(mixture, 1, np.array([[0., 0, 0, 5]] * 2), labels)
    assert kept.tolist() == [[True, True, True, False]] * 2


def test_settings_that_change_the_result_name_the_folder(demo_root, tmp_path):
    """The path states the open classes; pools and places do not change it; options of detectors do."""
    from training.folder import folder_of_run
    from training.run import all_settings

    def folder(detector=None, protocol=None):
        args = train_openset.check(arguments(demo_root, tmp_path, detector, protocol))
        args.options.loss = "ce"
        settings = all_settings(args, "openset", {}, {}, train_openset.USUAL_ON)
        return folder_of_run(args.options, settings)

    usual = folder()
    assert usual.parent == tmp_path / "demo/openset/ce/open-surprise/noise0"
    assert folder(protocol={"pools": ("paper",), "keep_snapshots": True, "scorings": ("inductive",)}) == usual
    assert folder(protocol={"open": "Surprise"}) == usual
    assert folder(protocol={"open": "fear,surprise"}).parent.parent.name == "open-fear+surprise"
    for other in ({"networks": 1}, {"left_out": 0.2}, {"consistency": 0.0}, {"detector_backbone": "resnet50"}):
        assert folder(other) not in (usual, None) and folder(other).parent == usual.parent
    assert folder(protocol={"mirror": True}) != usual
    first, second = tmp_path / "first.pt", tmp_path / "second.pt"  # a file counts by its content
    first.write_bytes(b"weights")
    second.write_bytes(b"weights")
    of_weights = folder({"detector_weights": str(first)})
    assert folder({"detector_weights": str(second)}) == of_weights != usual
    first.write_bytes(b"other weights")
    assert folder({"detector_weights": str(first)}) not in (of_weights, usual)
    plain = cli.parse(train_openset.Args, recipe_filler({}, {}, train_openset.USUAL_ON),
                      ["--dataset", "demo", "--open", "surprise", "--runs", str(tmp_path)])
    plain.options.loss = "ce"
    settings = all_settings(train_openset.check(plain), "openset", {}, {}, train_openset.USUAL_ON)
    assert folder_of_run(plain.options, settings).name.startswith("seed0") and "open" not in settings["differs"]
    assert settings["differs"].keys() <= {"precision"} and plain.detector.detector_epochs == 4


def test_options_that_only_say_what_is_scored():
    """The sweep knows their names and defaults without this script, which imports torch."""
    declared = {name for name, effect in effects(train_openset.OpenSetOptions).items() if effect.on == "place"}
    assert declared == run_folder.OPEN_SET_EXTRAS.keys()
    usual = dataclasses.asdict(train_openset.OpenSetOptions())
    assert all(usual[name] == value for name, value in run_folder.OPEN_SET_EXTRAS.items())
    assert tuple(POOLS) == run_folder.POOLS and tuple(files.SUBSETS) == run_folder.SCORINGS
    text = cli.help_page(train_openset.Args)
    assert "(default: )" not in text and "(required" in text


def test_the_protocol_released_may_be_open_set(demo_root, tmp_path):
    """Its recipe skips the first epoch, which has no effect here and is no choice of the user."""
    filler = recipe_filler({}, {}, train_openset.USUAL_ON)
    args = cli.parse(train_openset.Args, filler, ["--dataset", "demo", "--open", "fear", "--protocol", "released"])
    assert args.options.skip_first_epoch and train_openset.check(args).open_set.open == "fear"


@pytest.mark.slow
def test_a_detector_of_another_architecture(demo_root, tmp_path):
    pytest.importorskip("timm")
    args = arguments(demo_root, tmp_path, {"detector_backbone": "test_resnet", "networks": 1},
                     {"scorings": ("transductive",), "keep_snapshots": True})
    folder = start(args)
    state = torch.load(folder / "detectors/test/all/snapshot1.pt", map_location="cpu", weights_only=True)
    assert state["networks"]["0.classifier.weight"].shape[1] != 512
    assert json.loads((folder / "args.json").read_text())["differs"]["detector_backbone"] == "test_resnet"


def test_attention_maps_of_a_network_of_timm():
    """Their mean over the places is the logit without its bias; a network without such a map is refused."""
    network = attention_network("test_resnet", 4, SIZE).train()
    image = torch.randint(256, (3, 3, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    logits, maps = network(image)
    torch.testing.assert_close(maps.mean((2, 3)) + network.classifier.bias, logits)
    with pytest.raises(UserError, match="--detector-backbone test_vit: its features are not the mean of a map"):
        attention_network("test_vit", 4, SIZE)


# ---- refusals

@pytest.mark.parametrize("detector, protocol, changes, message", [
    ({}, {"open": ""}, {}, "--open names the classes"),
    ({}, {"open": "joy ride"}, {}, "--open joy_ride: no such class"),
    ({}, {"pools": ("everything",)}, {}, "--pools has to be one of test, paper, .*, not 'everything'"),
    ({}, {"scorings": ("deductive",)}, {}, "--scorings has to be one of transductive, inductive, not 'deductive'"),
    ({"cycles": 3}, {}, {}, "--detector-epochs 2 cannot be divided into --cycles 3"),
    ({"networks": 3}, {}, {}, "--networks has to be at least 1 and at most 2"),
    ({}, {"set": (Path("x"),), "pools": ("paper",)}, {}, "--set needs the pool test and the scoring inductive"),
    ({}, {}, {"targets": "fused"}, "fused targets know the open classes"),
    ({}, {}, {"beta": 0.7}, "fused targets know the open classes"),
    ({}, {}, {"gmm": Path("gmm.json")}, "fused targets know the open classes"),
    ({}, {}, {"skip_first_epoch": True}, "--skip-first-epoch has no effect"),
    ({"selection": "mixture", "left_out": 0.2}, {}, {}, "no effect with --selection mixture"),
    ({}, {"pools": ()}, {}, "--pools has to be one of .* not empty"),
    ({}, {"open": "happy,sad,surprise,fear,anger,disgust,contempt"}, {}, "leaves 1 of 8 classes closed")])
def test_what_makes_no_sense_is_refused(demo_root, tmp_path, detector, protocol, changes, message):
    with pytest.raises(UserError, match=message):
        start(arguments(demo_root, tmp_path, detector, protocol, **changes))


@pytest.mark.slow
def test_too_few_open_images_for_two_halves(demo_root, tmp_path, monkeypatch):
    monkeypatch.setattr(openset_run, "fitted_baselines", lambda *given: None)
    monkeypatch.setattr(openset_run, "closed_outputs", lambda *given: {})
    args = arguments(demo_root, tmp_path, data=("train=128", "val=16", "test=8"))
    run = openset_run.open_set_run(train_openset.check(args), tmp_path, {})
    with pytest.raises(UserError, match="has 1 open images: too few for two halves"):
        run.pool("test")


@pytest.mark.parametrize("is_open, message", [
    ([True, False, False], "has 1 open images"), ([False, True, True], "has 1 closed images")])
def test_the_kind_that_has_too_few_images_is_named(is_open, message):
    run = SimpleNamespace(args=SimpleNamespace(open_set=train_openset.OpenSetOptions()))
    frame = pd.DataFrame({"is_open": is_open, "half": ["a", "a", "b"]})
    with pytest.raises(UserError, match=message):
        openset_run.OpenSetRun.check_halves(run, "test", frame)


def test_damaged_files_are_named(finished, demo_root, tmp_path):
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    (folder / "open_scores.csv").write_text("pool,scoring\n1")
    with pytest.raises(UserError, match="open_scores.csv"):
        scores.read_open_scores(folder)
    array = folder / "detectors/test/a/pool_scores.npy"
    np.save(array, np.full(32, np.nan))
    with pytest.raises(UserError, match="does not fit the images"):
        files.read_array(array, (32,), np.float64)
    np.save(array, np.array([{}], object), allow_pickle=True)
    with pytest.raises(UserError, match="is damaged"):
        files.read_array(array, (32,), np.float64)


# ---- corrupted images

@pytest.fixture(scope="module")
def run_with_set(built, demo_root, tmp_path_factory, small):
    """A run whose test images are those of the built set, scored in a part of its cells."""
    runs = tmp_path_factory.mktemp("corrupted")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inference.BuiltSet, "cells", property(lambda self: CELLS))
        args = arguments(demo_root, runs, {"networks": 1, "detector_epochs": 2, "cycles": 2},
                         {"set": (built,), "mirror": True, "keep_snapshots": True},
                         data=("train=128", "val=16", "test=16"))
        return start(args)


CELLS = (("gaussian_noise", 1), ("gaussian_noise", 5), ("brightness", 3))


@pytest.mark.slow
def test_scores_under_corruption(run_with_set, built):
    table = scores.read_open_scores(run_with_set)
    cells = table[table["set"] == built.name]
    assert set(cells["scoring"]) == {"inductive"} and set(cells["group"]) == {"all"}
    assert set(zip(cells["corruption"], cells["severity"], strict=True)) == {
        ("clean", ""), ("gaussian_noise", "1"), ("gaussian_noise", "5"), ("brightness", "3"), ("mean", "")}
    assert set(cells["set_version"]) == {open_built_set(built).manifest["set_version"]}
    value = table.set_index(["set", "corruption", "severity", "scoring", "detector", "metric"])["value"]
    of_cells = [value[built.name, name, str(severity), "inductive", "trained", "auroc"] for name, severity in CELLS]
    assert value[built.name, "mean", "", "inductive", "trained", "auroc"] == pytest.approx(np.mean(of_cells))
    for detector in files.DETECTORS:  # the clean images of the set are those of the data set
        for metric in ("auroc", "oscr", "open_accepted"):
            clean = value[built.name, "clean", "", "inductive", detector, metric]
            images = value.loc["", "", "", "inductive", detector, metric]
            assert clean == pytest.approx(float(np.ravel(images)[0]), abs=1e-9), (detector, metric)


@pytest.mark.slow
def test_cells_of_an_interrupted_scoring_stay(run_with_set, built, demo_root, tmp_path, monkeypatch):
    """set.json is removed, and one cell: only that one is computed again, with the same bytes. Detectors are there, as
    they are after an interruption."""
    runs = tmp_path / "runs"
    shutil.copytree(run_with_set.parents[5], runs)
    (folder,) = (path.parent for path in runs.rglob("open_scores.csv"))
    place = folder / "open_scores/test" / built.name
    before = results(folder)
    for path in (place / "set.json", place / "brightness-3.npy", folder / "open_scores.csv"):
        path.unlink()
    computed = []
    cell_scores = openset_run.cell_scores
    monkeypatch.setattr(openset_run, "cell_scores", lambda *given: computed.append(1) or cell_scores(*given))
    monkeypatch.setattr(inference.BuiltSet, "cells", property(lambda self: CELLS))
    start(arguments(demo_root, runs, {"networks": 1, "detector_epochs": 2, "cycles": 2},
                    {"set": (built,), "mirror": True}, data=("train=128", "val=16", "test=16")))
    assert len(computed) == 1 and results(folder) == before


@pytest.mark.slow
def test_a_set_that_does_not_fit_is_refused(built, demo_root):
    data = inference.load_open_set_data(TrainingOptions("demo", root=demo_root, data=DATA), "surprise")
    pool = openset_run.make_pool("test", data.division, data.splits)
    with pytest.raises(UserError, match="lacks 16 of 32 test images"):
        inference.check_set(open_built_set(built), data, pool, SIZE)
    with pytest.raises(UserError, match="images of 32 pixels, this run of 64"):
        inference.check_set(open_built_set(built), data, pool, 64)


def test_pools_are_explained_in_the_help():
    text = cli.help_page(train_openset.Args)
    assert all(name in text for name in POOLS) and "--open" in text


def test_a_new_training_of_a_half_removes_the_old_scores(tmp_path):
    """Scores of one detector do not stand beside cells of another one."""
    place, cells = tmp_path / "detectors/test/a", tmp_path / "open_scores/test/Demo-C"
    for folder in (place, cells):
        folder.mkdir(parents=True)
    for path in (place / "pool_scores.npy", place / "validation_scores.npy", cells / "set.json", cells / "snow-1.npy"):
        path.write_text("{}")
    (cells / "mine.txt").write_text("stays")
    stages.prepare_folder(place, train_openset.Detector())
    assert not list(place.iterdir()) and [path.name for path in cells.iterdir()] == ["mine.txt"]


@pytest.mark.slow
def test_a_set_of_another_size_is_refused_before_any_training(built, demo_root, tmp_path, monkeypatch):
    monkeypatch.setattr(train_openset, "train_closed_model", lambda *given: pytest.fail("trains"))
    with pytest.raises(UserError, match="images of 32 pixels, this run of 64"):
        train_openset.main(arguments(demo_root, tmp_path, protocol={"set": (built,)}, image_size=64))


def test_outputs_of_a_detector_that_are_not_finite_end_the_training(demo_root, tmp_path, finished, monkeypatch):
    shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(tmp_path / "run/detectors")
    monkeypatch.setattr(stages, "predict", lambda *given: np.full((32, 2, 7), np.nan, np.float32))
    args = train_openset.check(arguments(demo_root, finished.parents[5]))
    run = openset_run.open_set_run(args, tmp_path / "run", {})
    pool = run.pool("test")
    with pytest.raises(UserError, match="not finite"):
        train_openset.train_detector(args, tmp_path / "run/detectors/test/all", pool, "all")


@pytest.mark.parametrize("name", ["detectors/test/a/validation_scores.npy", "closed_model/val_features.npy",
                                  "closed_model/train.csv"])
def test_a_removed_file_is_computed_again(finished, tmp_path, name):
    """As the messages about damaged files say."""
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    split = Path(name).stem.partition("_")[0]
    frame = pd.read_csv(folder / "closed_model" / f"{split}.csv", dtype=str) if "closed" in name else None
    (folder / name).unlink()
    if frame is None:
        assert not files.has_detector_scores((folder / name).parent)
    else:
        assert files.read_closed_model(folder, split, frame, 7) is None


@pytest.mark.slow
def test_a_detector_whose_snapshots_are_gone_is_trained_again(finished, demo_root, tmp_path):
    """With the last checkpoint of a finished training, and without open scores."""
    args = arguments(demo_root, tmp_path / "runs", keep_last=True)
    folder = start(args)
    before = results(folder)
    assert before == results(finished)
    place = folder / "detectors/test/a"
    assert (place / "last.pt").exists() and not list(place.glob("snapshot*"))
    for path in (place / "pool_scores.npy", folder / "open_scores.csv"):
        path.unlink()
    assert results(start(args)) == before
