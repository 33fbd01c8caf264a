"""Scoring on a set with other corruptions than FER-C's: preset mivia, which has 18."""
import json

import numpy as np
import pytest
import torch

import evaluate
import make_fer_c
import metrics
from building.built_set import open_built_set
from corruptions import CORRUPTIONS, MIVIA, cells_of, corruptions_of, suite_of
from evaluation import cards, predictions
from evaluation.export_ids import export_ids
from evaluation.image_scores import HARD, SOFT, WITHOUT, Labels, image_scores
from evaluation.model_options import ModelOptions
from evaluation.predictions import all_cells, cell_name, predictions_file, read_array, stored_cells
from evaluation.scores import MEAN_WITHOUT, is_contradicted
from evaluation.scores_file import read_scores
from evaluation.scoring_options import CardOptions
from models.resnet import ResNet18
from support import run_folder
from support.errors import DamagedFile, UserError
from conftest import SIZE
from scored_files import contents, rows_of

pytestmark = pytest.mark.usefixtures("small")
IMAGES = 5
# By hand: those of mivia that change neither brightness nor contrast.
KEPT = ("gaussian_blur", "defocus_blur", "zoom_blur", "motion_blur", "gaussian_noise", "shot_noise", "spatter",
        "pixelate", "jpeg_compression")


@pytest.fixture(scope="module")
def mivia_set(build_args, tmp_path_factory):
    """A set of a few images; tests only read it."""
    out = tmp_path_factory.mktemp("mivia") / "Demo-C"
    make_fer_c.main(build_args(out=out, limit=IMAGES, corruptions="mivia"))
    return out


@pytest.fixture(scope="module")
def scored(mivia_set, small, tmp_path_factory):
    """(a run that was scored on it, its card); tests only read them."""
    folder = tmp_path_factory.mktemp("runs")
    run = folder / "demo/baseline/ce/noise0/seed0"
    run.mkdir(parents=True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ResNet18(8, SIZE)
    torch.save({"model": model.state_dict(), "epoch": 0, "scores": {}}, run / "best.pt")
    settings = {"script": "baseline", "dataset": "demo", "loss": "ce", "seed": 0, "noise": 0.0, "protocol": "paper",
                "image_size": SIZE, "classes": list(open_built_set(mivia_set).classes), "model": model.description,
                "epochs": 1}
    (run / "args.json").write_text(json.dumps(settings))
    card = folder / "card.json"
    evaluate.main(evaluate.Args(run, set=(mivia_set,), machine=evaluate.Machine(workers=0), card=CardOptions(card)))
    return run, card


def values_of(run):
    return {(row["corruption"], row["severity"], row["metric"]): float(row["value"]) for row in rows_of(run)}


# ---- which corruptions a set has

def test_suite_known_answers():
    assert suite_of([]) == suite_of(["snow"]) == suite_of(["gaussian_noise", "spatter"]) == tuple(CORRUPTIONS)
    assert suite_of(["contrast_plus"]) == suite_of(reversed(list(MIVIA))) == tuple(MIVIA)
    with pytest.raises(ValueError, match="unknown corruption 'rain'"):
        suite_of(["snow", "rain"])
    with pytest.raises(ValueError, match="no preset has all of the corruptions snow, contrast_plus"):
        suite_of(["snow", "contrast_plus"])


def test_the_cells_of_predictions_follow_from_their_set_json(scored, mivia_set):
    assert stored_cells({}) == cells_of(tuple(CORRUPTIONS))  # FER-C's predictions have no such entry
    info = predictions.read_info(scored[0] / "predictions/Demo-C")
    assert info["corruptions"] == list(MIVIA) and stored_cells(info) == open_built_set(mivia_set).cells
    assert predictions.stored_sequences(info) is None


@pytest.mark.parametrize("entry", [{"corruptions": "snow"}, {"corruptions": ["rain"]}, {"corruptions": [["snow"]]},
                                   {"corruptions": ["snow"]}, {"corruptions": list(reversed(MIVIA))},
                                   {"corruptions": []}, {"corruptions": {}}])
def test_a_hostile_entry_is_refused(entry):
    with pytest.raises(ValueError):
        stored_cells(entry)


# ---- scores

def test_every_cell_of_the_set_is_scored(scored, mivia_set):
    run, _ = scored
    built, value = open_built_set(mivia_set), values_of(run)
    assert len(built.cells) == 90
    assert {place[:2] for place in value if place[1]} == {(name, str(severity)) for name, severity in built.cells}
    labels = built.frame["expression"].to_numpy(np.int64)
    by_cell = {}
    for name, severity in built.cells:
        logits = read_array(predictions_file(run / "predictions/Demo-C", (name, severity)), (IMAGES, 8))
        soft = np.asarray(built.soft_labels_of(name, severity), np.float64)
        by_cell[name, severity] = metrics.summary(metrics.softmax(logits), labels, soft, logits)
        assert value[name, str(severity), "ece"] == pytest.approx(by_cell[name, severity]["ece"], abs=1e-12)
    for metric in ("accuracy", "nll", "kse"):
        every = [scores[metric] for scores in by_cell.values()]
        kept = [scores[metric] for (name, _), scores in by_cell.items() if name in KEPT]
        assert value["mean", "", metric] == pytest.approx(np.mean(every)) and len(kept) == 45
        assert value[MEAN_WITHOUT, "", metric] == pytest.approx(np.mean(kept))
    assert run_folder.is_scored(run, mivia_set) and read_scores(run / "scores.csv")


def test_contradicted_corruptions_known_answers():
    assert tuple(name for name in corruptions_of("mivia") if not is_contradicted(name)) == KEPT
    assert [name for name in CORRUPTIONS if is_contradicted(name)] == ["snow", "brightness", "contrast"]


def test_scores_of_single_images(scored, mivia_set):
    run, _ = scored
    built, value = open_built_set(mivia_set), values_of(run)
    labels = Labels(built.frame["expression"].to_numpy(np.int64), built.soft_labels, None)
    read = [read_array(predictions_file(run / "predictions/Demo-C", cell)) for cell in all_cells(built)]
    by_cell = dict(zip(all_cells(built), read, strict=True))
    images = image_scores(by_cell.__getitem__, labels, corruptions=built.corruptions)
    assert images.errors.shape == (91, IMAGES) and images.bins.shape == (90, IMAGES)
    for variant, place, metric in ((SOFT, "mean", "nll"), (HARD, "mean", "nll_hard"), (WITHOUT, MEAN_WITHOUT, "nll")):
        assert images.mean(variant, "nll") == pytest.approx(value[place, "", metric])
    with pytest.raises(ValueError, match="soft labels of 18 corruptions for a set of 17"):
        image_scores(by_cell.__getitem__, labels)


def test_made_in_memory_they_have_the_same_scores(scored, mivia_set, tmp_path):
    run = tmp_path / "seed0"
    run.mkdir()
    for name in ("args.json", "best.pt"):
        (run / name).write_bytes((scored[0] / name).read_bytes())
    machine = evaluate.Machine(workers=0)
    evaluate.main(evaluate.Args(run, set=(mivia_set,), on_the_fly=True, machine=machine))
    assert contents(run, "scores.csv") == contents(scored[0], "scores.csv")


# ---- cards

def test_a_card_has_all_corruptions_of_the_set(scored, mivia_set):
    card = cards.read_card(scored[1])
    value = values_of(scored[0])
    assert card.cells("ece").keys() == set(cells_of(tuple(MIVIA)))
    assert card.cells("ece")["contrast_plus", 3] == pytest.approx(value["contrast_plus", "3", "ece"], abs=1e-9)
    assert list(card.data["standard_errors"]) == list(MIVIA)


@pytest.mark.parametrize("change,message", [
    (lambda data: data["scores"]["cells"]["ece"].pop("contrast_plus"), "scores/cells/ece lacks contrast_plus"),
    (lambda data: data["standard_errors"].pop("spatter"), "standard_errors lacks spatter"),
    (lambda data: data["scores"]["cells"]["ece"].update(snow=[0, 0, 0, 0, 0]), "its corruptions are of no set")])
def test_a_card_with_corruptions_of_no_set_is_refused(scored, tmp_path, change, message):
    data = json.loads(scored[1].read_text())
    change(data)
    path = tmp_path / "card.json"
    path.write_text(json.dumps(data))
    with pytest.raises(DamagedFile, match=message):
        cards.read_card(path)


# ---- other models

def test_predictions_made_elsewhere(mivia_set, tmp_path, monkeypatch):
    monkeypatch.setenv("FERC_RUNS", str(tmp_path / "runs"))
    built = open_built_set(mivia_set)
    text = export_ids(tmp_path / "ids", built)
    assert "91 files of predictions" in text and "90 corrupted forms" in (tmp_path / "ids/README.txt").read_text()
    labels = built.frame["expression"].to_numpy(np.int64)
    folder = tmp_path / "mine"
    for cell in all_cells(built):
        path = folder / f"{cell_name(cell)}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, 9 * np.eye(8, dtype=np.float32)[labels])
    evaluate.main(evaluate.Args(set=(mivia_set,), source=ModelOptions(f"logits:{folder}")))
    (scores,) = (tmp_path / "runs/models").glob("*/scores.csv")
    value = values_of(scores.parent)
    assert value["contrast_plus", "5", "accuracy"] == value["mean", "", "accuracy"] == 1
    (folder / "contrast_plus/2.npy").unlink()
    with pytest.raises(UserError, match="lacks 1 of 91 predictions: contrast_plus/2.npy. .* all 90 cells"):
        evaluate.main(evaluate.Args(set=(mivia_set,), source=ModelOptions(f"logits:{folder}")))


def test_a_set_of_the_same_name_with_other_corruptions_takes_the_place(scored, mivia_set, built, tmp_path):
    """The predictions of the one are deleted, and nothing of them is left."""
    run = tmp_path / "seed0"
    for name in ("args.json", "best.pt"):
        run.mkdir(exist_ok=True)
        (run / name).write_bytes((scored[0] / name).read_bytes())
    machine = evaluate.Machine(workers=0)
    evaluate.main(evaluate.Args(run, set=(mivia_set,), machine=machine))
    assert (run / "predictions/Demo-C/contrast_plus/1.npy").exists()
    evaluate.main(evaluate.Args(run, set=(built,), machine=machine))
    assert {path.name for path in (run / "predictions/Demo-C").iterdir() if path.is_dir()} == set(CORRUPTIONS)
