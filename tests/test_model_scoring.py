"""Models that are no runs: predictions made elsewhere, the folder of a model, the check before scoring, the card."""
import json
import os
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import make_fer_c
import metrics
from building.built_set import open_built_set
from datasets import load_split
from evaluation import inference, predictions
from evaluation.cards import read_card
from evaluation.input_check_images import images_for_input_check
from evaluation.class_matching import match_classes, same_classes
from evaluation.export_ids import export_ids
from evaluation.inference import InferenceOptions
from evaluation.input_check import SUBJECTS, alarm_of as input_check_alarm_of
from evaluation.input_format import InputFormat
from evaluation.logits_source import open_logits
from evaluation.model_facts import ModelFacts
from evaluation.model_folder import StoredModel, model_folders, name_in_path, place_of_model, read_model, write_model
from evaluation.matching import match_model
from evaluation.model_scoring import ModelScoring, checked_model, score_model
from evaluation.predictions import ALL_CELLS, cell_name, predictions_file
from evaluation.scoring_options import CheckOptions, ClassOptions
from evaluation.sources import LoadedModel
from reporting.runs import find_runs
from support.errors import DamagedFile, UserError
from support.files import lock
from cases import mostly_slow
from scored_files import rows_of

IMAGES = 8


@pytest.fixture(scope="module")
def small_set(build_args, tmp_path_factory):
    """A set of a few images; tests only read it."""
    out = tmp_path_factory.mktemp("small set") / "Demo-C"
    make_fer_c.main(build_args(out=out, limit=IMAGES))
    return open_built_set(out)


@pytest.fixture
def elsewhere(monkeypatch, tmp_path):
    """No data set lies in the usual place."""
    monkeypatch.setenv("FERC_DATA", str(tmp_path / "no data"))


def drawn_logits(count=IMAGES, outputs=8, seed=0):
    """{cell: float32 (N, outputs)}."""
    rng = np.random.default_rng(seed)
    return {cell: (2 * rng.normal(size=(count, outputs))).astype(np.float32) for cell in ALL_CELLS}


def write_folder(folder, logits, suffix=".npy", **table):
    """Predictions as a folder of .npy or .csv files. table: ids, names, order of rows."""
    for cell, values in logits.items():
        path = folder / f"{cell_name(cell)}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if suffix == ".npy":
            np.save(path, values)
        else:
            frame = pd.DataFrame(values.astype(float), columns=table["names"])
            frame.insert(0, "id", table["ids"])
            frame.iloc[table.get("order", range(len(frame)))].to_csv(path, index=False)
    return folder


def score(model, built, runs, **changes):
    options = {"inference": InferenceOptions(), "check": CheckOptions(False), "runs": runs} | changes
    return score_model(model, [built], ModelScoring(**options))


def values(folder):
    return {(row["corruption"], row["severity"], row["metric"]): float(row["value"]) for row in rows_of(folder)}


# ---- predictions made elsewhere

def test_arrays_are_scored_like_logits_that_were_computed_here(small_set, tmp_path, elsewhere):
    logits = drawn_logits()
    stored = open_logits(write_folder(tmp_path / "mine", logits), small_set)
    folder = score(stored, small_set, tmp_path / "runs")
    assert folder.parent == tmp_path / "runs/models" and folder.name.startswith("mine-")
    for cell, array in logits.items():
        np.testing.assert_array_equal(np.load(predictions_file(folder / "predictions/Demo-C", cell)), array)
    labels = small_set.frame["expression"].to_numpy()
    got, cell = values(folder), ("motion_blur", 3)
    expected = metrics.summary(metrics.softmax(logits[cell]), labels, small_set.soft_labels_of(*cell), logits[cell])
    assert {metric: got["motion_blur", "3", metric] for metric in expected} == pytest.approx(expected)
    assert {row["notes"] for row in rows_of(folder)} == {"predictions made elsewhere"}
    model = read_model(folder)
    assert model.facts.kind == "logits" and model.facts.source == "logits:mine" and model.name == "mine"
    card = read_card(folder / "cards/Demo-C.json")
    assert card.data["model"]["name"] == "mine" and card.data["check"] is None
    assert card.score("mean", "ece_hard") == pytest.approx(got["mean", "", "ece_hard"], rel=1e-8)
    assert len(card.data["standard_errors"]) == 17
    assert find_runs(tmp_path / "runs") == ([], []) and model_folders(tmp_path / "runs") == [folder]


@pytest.mark.slow
def test_every_form_gives_the_same_scores(small_set, tmp_path):
    logits, ids = drawn_logits(), small_set.frame["id"].tolist()
    runs = tmp_path / "runs"
    first = score(open_logits(write_folder(tmp_path / "npy", logits), small_set), small_set, runs)
    np.savez(tmp_path / "arrays.npz", **{cell_name(cell): array for cell, array in logits.items()})
    names = ["neutrality", "happiness", "sadness", "surprised", "fearful", "disgusted", "angry", "contemptuous"]
    order = np.random.default_rng(1).permutation(IMAGES)
    columns = [3, 1, 0, 2, 7, 6, 5, 4]
    table = dict(names=[names[k] for k in columns], ids=ids, order=order)
    shuffled = {cell: array[:, columns] for cell, array in logits.items()}
    for source in (tmp_path / "arrays.npz", write_folder(tmp_path / "csv", shuffled, ".csv", **table)):
        folder = score(open_logits(source, small_set), small_set, runs)
        assert folder != first and values(folder) == values(first)
    assert {row["notes"] for row in rows_of(folder)} == {"classes reordered by name; predictions made elsewhere"}


@pytest.mark.slow
def test_probabilities_are_floored_and_named(small_set, tmp_path):
    probabilities = {cell: metrics.softmax(array) for cell, array in drawn_logits().items()}
    probabilities[None][0] = [1, 0, 0, 0, 0, 0, 0, 0]
    path = write_folder(tmp_path / "p", probabilities)
    stored = open_logits(path, small_set, "probabilities", name="My model")
    folder = score(stored, small_set, tmp_path / "runs")
    assert folder.name.startswith("my-model-") and read_model(folder).facts.output == "probabilities"
    kept = np.load(folder / "predictions/Demo-C/clean.npy")
    np.testing.assert_allclose(kept[0], [0, *[np.log(1e-6)] * 7], rtol=1e-6)
    np.testing.assert_allclose(kept[1], np.log(probabilities[None][1]), rtol=1e-6)
    assert {row["notes"] for row in rows_of(folder)} == {
        "probabilities, zeros floored at 1e-6; predictions made elsewhere"}


@pytest.mark.slow
def test_scored_again_nothing_is_written_anew(small_set, tmp_path):
    stored = open_logits(write_folder(tmp_path / "mine", drawn_logits()), small_set)
    folder = score(stored, small_set, tmp_path / "runs")
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*.npy")}
    before = rows_of(folder)
    assert score(stored, small_set, tmp_path / "runs") == folder and rows_of(folder) == before
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.npy")} == times
    other = open_logits(write_folder(tmp_path / "mine", drawn_logits(seed=1)), small_set)
    assert score(other, small_set, tmp_path / "runs") != folder  # other predictions are another model


def change(name, act):
    """A mistake in one file of the folder."""
    def make(folder, logits, ids):
        act(folder / name, logits)
        return folder
    return make


def csv_folder(act):
    """A mistake in the tables of a folder of CSV files."""
    def make(folder, logits, ids):
        shutil.rmtree(folder)
        table = dict(names=[f"{name}" for name in make.classes], ids=ids)
        write_folder(folder, logits, ".csv", **table)
        frame = pd.read_csv(folder / "snow/3.csv", dtype={"id": str})
        act(frame).to_csv(folder / "snow/3.csv", index=False)
        return folder
    return make


def csv_text(act):
    """A mistake in the text of one of the CSV files."""
    def make(folder, logits, ids):
        shutil.rmtree(folder)
        write_folder(folder, logits, ".csv", names=list(make.classes), ids=ids)
        (folder / "clean.csv").write_text(act((folder / "clean.csv").read_text()))
        return folder
    return make


def bomb(folder, logits, ids):
    """A small file that unpacks to a gigabyte."""
    path = folder.with_suffix(".npz")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for cell in ALL_CELLS:
            size = 2**25 if cell == ("snow", 3) else 10
            archive.writestr(f"{cell_name(cell)}.npy", bytes(size))
    return path


MISTAKES = {
    "a missing cell": (change("snow/3.npy", lambda path, _: path.unlink()),
                       r"lacks 1 of 86 predictions: snow/3.npy. The clean images and all 85 cells are needed"),
    "two files": (change("snow/3.csv", lambda path, _: path.write_text("id\n")),
                  r"holds two files for snow/3: a .npy and a .csv file; remove one"),
    "rows": (change("snow/3.npy", lambda path, logits: np.save(path, logits[None][:5])),
             r"snow/3.npy has the shape \(5, 8\); it needs 8 rows"),
    "columns": (change("snow/3.npy", lambda path, logits: np.save(path, logits[None][:, :5])),
                r"has 5 columns, and the set has 8 classes \(Neutral, .*\): name the columns with --classes"),
    "labels": (change("clean.npy", lambda path, logits: np.save(path, logits[None].argmax(1))),
               r"clean.npy holds int64; logits and probabilities are floats"),
    "nan": (change("snow/3.npy", lambda path, logits: np.save(path, np.where(logits[None] > 2, np.nan, logits[None]))),
            r"snow/3.npy: NaN or infinity in \d of 8 rows, the first is row \d"),
    "too large": (change("snow/3.npy", lambda path, logits: np.save(path, logits[None].astype(float) * 1e300)),
                  r"snow/3.npy: a value is too large for float32"),
    "a pickle": (change("snow/3.npy", lambda path, _: np.save(path, np.array([{}, []], object), allow_pickle=True)),
                 r"is no array that numpy.save wrote \("),
    "no array": (change("snow/3.npy", lambda path, _: path.write_text("0.1,0.2\n")), r"is no array that numpy.save"),
    "a large file": (change("snow/3.npy", lambda path, _: os.truncate(path, 10**7)), r"has 10000000 bytes, more than"),
    "a link": (change("snow/3.npy", lambda path, _: (path.rename(path.parent.parent.parent / "x.npy"), path.symlink_to(
        path.parent.parent.parent / "x.npy"))), r"is a link that leads out of"),
    "a bomb": (bomb, r"unpacks to more than predictions for 8 images"),
    "no archive": (lambda folder, *_: (folder / "clean.npy"), r"is no file that numpy.savez wrote"),
    "nothing": (lambda folder, *_: folder / "other", r"other is not there; --model logits:PATH takes a folder"),
    "ids twice": (csv_folder(lambda frame: pd.concat([frame, frame[:2]])),
                  r"snow/3.csv: 2 ids are there twice, for example test-\d+, test-\d+"),
    "ids missing": (csv_folder(lambda frame: frame[2:]), r"2 ids are missing, for example test-\d+, test-\d+"),
    "ids unknown": (csv_folder(lambda frame: pd.concat([frame, frame[:1].assign(id="x" * 99)])),
                    r"1 id is not of this set, for example x{40}\."),
    "other classes": (csv_folder(lambda frame: frame.rename(columns={"Happy": "Glad"})),
                      r"has the classes .*Glad.*, and the first file has "),
    "no ids": (csv_folder(lambda frame: frame.drop(columns="id")), r"has no column 'id'; its columns are Neutral"),
    "a column twice": (csv_text(lambda text: text.replace("Sad", "Happy", 1)), r"the column 'Happy' is there twice$"),
    "commas at the ends": (csv_text(lambda text: text.replace("\n", ",\n").replace(",\n", "\n", 1)),
                           r"cannot be read as CSV \(.*Expected 9 fields in line 2, saw 10"),
    "text": (csv_folder(lambda frame: frame.astype({"Sad": object}).assign(Sad="?")),
             r"the column 'Sad' holds something that is no number"),
}


@pytest.mark.parametrize("mistake", mostly_slow(MISTAKES, fast=range(0, len(MISTAKES), 3)))
def test_mistakes_are_explained_in_two_lines(small_set, tmp_path, mistake):
    make, words = MISTAKES[mistake]
    make.classes = small_set.classes
    logits = drawn_logits()
    path = make(write_folder(tmp_path / "mine", logits), logits, small_set.frame["id"].tolist())
    with pytest.raises(UserError, match=words) as caught:
        open_logits(path, small_set)
    assert len(str(caught.value).splitlines()) <= 2 and "\x1b" not in str(caught.value)


def test_columns_are_named_as_classes_are(small_set, tmp_path):
    """What --classes refuses is refused here too: a name that is too long for it."""
    names = [*small_set.classes[:-1], "x" * 101]
    table = {"ids": small_set.frame["id"].tolist(), "names": names}
    folder = write_folder(tmp_path / "csv", drawn_logits(), ".csv", **table)
    with pytest.raises(UserError, match="clean.csv: its header: name 8 is empty, longer than 100 characters"):
        open_logits(folder, small_set)


def test_logits_called_probabilities_are_refused(small_set, tmp_path):
    path = write_folder(tmp_path / "mine", drawn_logits())
    with pytest.raises(UserError, match=r"row \d is no distribution: .* leave out --output probabilities"):
        open_logits(path, small_set, "probabilities")


def test_what_is_to_be_predicted(small_set, tmp_path):
    """A program that knows nothing but the exported folder and the set finds every file."""
    printed = export_ids(tmp_path / "todo", small_set)
    assert printed.startswith(f"{tmp_path / 'todo'}: 8 images, 86 files of predictions to make")
    ids = pd.read_csv(tmp_path / "todo/ids.csv", dtype=str)
    cells = pd.read_csv(tmp_path / "todo/cells.csv")
    assert ids["id"].tolist() == small_set.frame["id"].tolist() and len(cells) == 86
    assert all((small_set.folder / path).is_file() for path in ids["path"])
    for row in cells.itertuples():
        files = [small_set.folder / row.images.replace("<id>", image_id) for image_id in ids["id"]]
        assert all(path.is_file() for path in files)
        target = tmp_path / "back" / row.file
        target.parent.mkdir(parents=True, exist_ok=True)
        np.save(target, np.stack([np.full(8, path.stat().st_size, np.float32) for path in files]))
    assert (tmp_path / "todo/classes.txt").read_text().split() == list(small_set.classes)
    assert open_logits(tmp_path / "back", small_set).classes == list(small_set.classes)
    text = (tmp_path / "todo/README.txt").read_text()
    assert "--model logits:FOLDER" in text and "--no-images" not in text and len(text.splitlines()) <= 14
    export_ids(tmp_path / "todo", small_set)  # again, nothing is lost
    (tmp_path / "todo/mine.txt").write_text("mine")
    with pytest.raises(UserError, match="holds other files; --export-ids takes a new folder"):
        export_ids(tmp_path / "todo", small_set)


def test_a_set_without_images_says_how_to_make_them(small_set, tmp_path):
    bare = Path(shutil.copytree(small_set.folder, tmp_path / "Demo-C", ignore=shutil.ignore_patterns("images")))
    printed = export_ids(tmp_path / "todo", open_built_set(bare))
    assert "was built with --no-images: another program needs the files" in printed and "make_fer_c.py" in printed
    assert "make_fer_c.py" in (tmp_path / "todo/README.txt").read_text()
    images = pd.read_csv(tmp_path / "todo/cells.csv", keep_default_na=False)["images"].tolist()
    assert images == ["clean/<id>.png", *[""] * 85]


# ---- classes that do not match

@pytest.mark.slow
def test_removed_and_missing_classes_on_the_way_to_the_card(small_set, tmp_path, capsys):
    classes = ["anger", "bored", "happy", "neutral", "sad"]
    path = write_folder(tmp_path / "five", drawn_logits(outputs=5))
    stored = open_logits(path, small_set, classes=classes)
    dropped = score(stored, small_set, tmp_path / "runs")
    kept = score(stored, small_set, tmp_path / "runs", classes=ClassOptions("keep"))
    assert dropped != kept and read_model(kept).missing_classes == "keep"
    capsys.readouterr()
    score(stored, small_set, tmp_path / "runs", classes=ClassOptions("keep"), limit=4)
    printed = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in printed if line.startswith(("  clean", "  corrupted"))]
    assert [row[-1] for row in rows] == ["-", "-"]  # a preview of a model without NLL
    origin = json.loads((dropped / "predictions/Demo-C/set.json").read_text())
    assert origin["order"] == [3, 2, 4, 0, 1] and origin["known"] == [0, 1, 2, 6]
    assert origin["classes"] == ["Neutral", "Happy", "Sad", "Anger", "bored"]
    known = small_set.frame["expression"].isin([0, 1, 2, 6]).sum()
    one, other = read_card(dropped / "cards/Demo-C.json").data, read_card(kept / "cards/Demo-C.json").data
    assert one["set"]["images_scored"] == known == values(dropped)["pooled", "", "n"]
    assert one["set"]["scored_classes"] == ["Neutral", "Happy", "Sad", "Anger"]
    assert (one["set"]["missing_classes"], other["set"]["missing_classes"]) == ("drop", "keep")
    assert one["removed"]["names"] == ["bored"] and 0 < one["removed"]["mass"] < 1
    assert other["set"]["images_scored"] == IMAGES and "nll" not in other["scores"]["places"]["mean"]
    assert any(note.startswith("NLL undefined: the model does not know Surprise") for note in other["notes"])
    assert any(note.startswith("the set lacks bored: removed") for note in one["notes"])


# ---- a network

USUAL = InputFormat(range="-1..1")


class Colours(nn.Module):
    """A network that looks at the mean colour; `reading` gives it with other colours or another range."""

    def __init__(self, format):
        super().__init__()
        self.format = format
        self.layer = nn.Linear(3, 8)
        with torch.no_grad():
            weights = np.random.default_rng(0).normal(size=(8, 3))
            self.layer.weight.copy_(torch.from_numpy(100 * (weights - weights.mean(1, keepdims=True))))
            self.layer.bias.zero_()

    def forward(self, images):
        if self.format.size not in (None, images.shape[-1]):
            raise RuntimeError("another size")
        values = images.float().mean((2, 3))
        if self.format.colour == "bgr":
            values = values.flip(1)
        scales = {"0..255": (1, 0), "0..1": (255, 0), "-1..1": (127.5, 1), "standardised": (60, 2)}
        factor, shift = scales[self.format.range]
        return self.layer(values / factor - shift)


    def for_inference(self, dtype):
        return self


def network(built, format=USUAL):
    facts = ModelFacts("onnx", "net.onnx", 32, format)
    return LoadedModel("net", Colours(format), list(built.classes), "0" * 64, facts, Colours)


@pytest.fixture
def one_image_a_block(monkeypatch):
    monkeypatch.setattr(predictions, "IMAGES_IN_A_BLOCK", 1)


@pytest.mark.slow
def test_an_interrupted_scoring_goes_on_by_block(small_set, tmp_path, monkeypatch, one_image_a_block):
    stored, write = [], inference.write_block

    def stopping(*given):
        write(*given)
        stored.append(given[1])
        if len(stored) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(inference, "write_block", stopping)
        with pytest.raises(KeyboardInterrupt):
            score(network(small_set), small_set, tmp_path / "runs")
    (folder,) = model_folders(tmp_path / "runs")
    assert not (folder / "scores.csv").exists() and not (folder / "cards").exists()
    assert not (folder / "predictions/Demo-C").exists()
    del stored[:]
    monkeypatch.setattr(inference, "write_block", lambda *given: (stored.append(given[1]), write(*given)))
    assert score(network(small_set), small_set, tmp_path / "runs") == folder
    assert len(stored) == IMAGES - 3 and (folder / "cards/Demo-C.json").is_file()


@pytest.mark.slow
def test_another_reading_is_another_model(small_set, tmp_path):
    runs = tmp_path / "runs"
    folders = {score(network(small_set, format), small_set, runs)
               for format in (InputFormat(range="-1..1"), InputFormat(range="0..1"), InputFormat(range="-1..1"))}
    assert len(folders) == 2


def test_a_preview_writes_nothing(small_set, tmp_path, capsys):
    with pytest.raises(UserError, match="--limit names fewer"):
        score(network(small_set), small_set, tmp_path / "runs", limit=2, card=tmp_path / "my.json")
    score(network(small_set), small_set, tmp_path / "runs", limit=2)
    assert not (tmp_path / "runs").exists() and "a look at 2 of 8 images" in capsys.readouterr().out


@pytest.mark.slow
def test_a_folder_that_is_in_use_is_refused(small_set, tmp_path):
    folder = score(network(small_set), small_set, tmp_path / "runs")
    with lock(folder, "working in"), pytest.raises(UserError, match="another process is working in"):
        score(network(small_set), small_set, tmp_path / "runs")


@pytest.mark.slow
def test_a_card_is_written_where_it_is_asked_for(small_set, tmp_path, build_args):
    folder = score(network(small_set), small_set, tmp_path / "runs", card=tmp_path / "my.json")
    assert (tmp_path / "my.json").read_bytes() == (folder / "cards/Demo-C.json").read_bytes()
    with pytest.raises(UserError, match="--card is the card of one set"):
        score_model(network(small_set), [small_set, small_set],
                    ModelScoring(InferenceOptions(), card=tmp_path / "my.json"))


# ---- the check before scoring

def alarm_with_few_classes(given, others, comparisons, shared, model):
    """Eight images hold fewer than half of the classes."""
    return input_check_alarm_of(given, others, comparisons, 2, model)


@pytest.mark.slow
def test_what_the_check_finds_is_printed_and_kept_in_the_card(small_set, tmp_path, elsewhere, capsys, monkeypatch):
    """The labels are those that the network gives with other colours."""
    with torch.no_grad():
        pictures = np.stack([small_set.pixels(i) for i in range(IMAGES)])
        truth = Colours(InputFormat(colour="bgr", range="-1..1"))
        labels = truth(torch.tensor(pictures).permute(0, 3, 1, 2)).argmax(1).numpy()
    monkeypatch.setattr("evaluation.input_check.gain_is_certain", lambda given, other, level: other.sum() > given.sum())
    monkeypatch.setattr("evaluation.input_check.alarm_of", alarm_with_few_classes)
    built = replace(small_set, frame=small_set.frame.assign(expression=labels))
    folder = score(network(small_set), built, tmp_path / "runs", check=CheckOptions())
    printed = capsys.readouterr().out
    assert "check of the input: net is right on" in printed and "8 images (clean test images of the set: " in printed
    card = read_card(folder / "cards/Demo-C.json").data
    assert card["check"]["images"] == IMAGES and [alarm["subject"] for alarm in card["check"]["alarms"]] == ["colour"]
    for alarm in card["check"]["alarms"]:
        assert f"WARNING ({alarm['subject']})" in printed and alarm["option"] in printed


def test_the_check_prefers_validation_images(small_set, tmp_path, demo_root, monkeypatch):
    monkeypatch.setenv("FERC_DATA", str(tmp_path))
    (tmp_path / "demo").symlink_to(demo_root)
    load_split("demo", demo_root, "val", **small_set.made_with["options"])  # as a training does
    images = images_for_input_check(small_set, same_classes(8))
    assert images.source == "validation split of Demo" and images.images.shape == (16, 32, 32, 3)
    clean = np.stack([small_set.pixels(i) for i in range(IMAGES)])
    assert not (images.images[:, None] == clean[None]).all((2, 3, 4)).any()
    happy_or_sad = match_classes("net", ["sad", "happy"], "set", small_set.classes)
    some = images_for_input_check(small_set, happy_or_sad)
    assert set(some.labels.tolist()) == {0, 1} and len(some.images) == 4
    (tmp_path / "demo").unlink()
    there = images_for_input_check(small_set, happy_or_sad)
    assert there.source.startswith("clean test images of the set") and len(there.images) == 2


def test_alarms_name_no_option_that_is_refused(small_set, tmp_path):
    """Runs take no options of the input, and the columns of CSV files name the classes."""
    matched = match_model("net", small_set.classes, small_set, "drop")
    of_run = replace(network(small_set), facts=ModelFacts("run", "run"))
    assert set(checked_model(of_run, matched).advice) == set(SUBJECTS)
    assert checked_model(network(small_set), matched).advice == {}
    logits = drawn_logits()
    table = {"ids": small_set.frame["id"].tolist(), "names": list(small_set.classes)}
    named = open_logits(write_folder(tmp_path / "csv", logits, ".csv", **table), small_set)
    assert "rename the columns" in checked_model(named, matched).advice["classes"]
    assert "classes" not in checked_model(replace(named, are_columns_named=False), matched).advice
    assert not open_logits(write_folder(tmp_path / "npy", logits), small_set).are_columns_named


def test_the_check_draws_no_faces(small_set, tmp_path, monkeypatch):
    monkeypatch.setenv("FERC_DATA", str(tmp_path))
    (tmp_path / "demo").mkdir()
    assert images_for_input_check(small_set, same_classes(8)).source.startswith("clean test images of the set")
    assert list(tmp_path.rglob("*")) == [tmp_path / "demo"]


@pytest.mark.parametrize("dataset, options", [
    ("affwild", {}), ("affwild", {"write_split": "{folder}/list.csv"}), ("affwild", {"split_file": "/etc/passwd"}),
    ("rafdb", {"root": "{folder}"}), ("demo", {"val": "9" * 5000}), ("ferplus", {}), ("..", {}), ("unknown", {})])
def test_a_set_chooses_no_files_for_the_check(small_set, tmp_path, monkeypatch, dataset, options):
    """Its options may come from anybody. The parser is not called, and nothing is written."""
    monkeypatch.setenv("FERC_DATA", str(tmp_path / "data"))
    monkeypatch.setattr("evaluation.input_check_images.load_split",
                        lambda *_, **__: pytest.fail("the parser was called"))
    (tmp_path / "data" / dataset).mkdir(parents=True, exist_ok=True)
    if dataset == "ferplus":
        for name in ("fer2013.csv", "fer2013new.csv"):
            (tmp_path / "data/ferplus" / name).touch()
    before = sorted(tmp_path.rglob("*"))
    texts = {name: text.format(folder=tmp_path) for name, text in options.items()}
    made_with = small_set.made_with | {"dataset": dataset, "options": texts}
    hostile = replace(small_set, manifest=small_set.manifest | {"made_with": made_with})
    assert images_for_input_check(hostile, same_classes(8)).source.startswith("clean test images of the set")
    assert sorted(tmp_path.rglob("*")) == before


def test_no_more_images_than_needed_are_drawn(small_set):
    from evaluation.input_check_images import drawn_rows
    labels = np.arange(2000) % 8
    rows, positions = drawn_rows(labels, same_classes(8), 8, "key")
    assert len(rows) == 300 and len(set(rows.tolist())) == 300 and (np.diff(rows) > 0).all()
    assert (positions == labels[rows]).all()
    assert (drawn_rows(labels, same_classes(8), 8, "key")[0] == rows).all()
    assert (drawn_rows(labels, same_classes(8), 8, "other")[0] != rows).any()


def test_a_card_replaces_no_other_file(small_set, tmp_path):
    """It is refused before anything is scored."""
    other = tmp_path / "manifest.json"
    other.write_text("{}")
    stored = open_logits(write_folder(tmp_path / "mine", drawn_logits()), small_set)
    with pytest.raises(UserError, match="this file is there and is no card"):
        score(stored, small_set, tmp_path / "runs", card=other)
    assert other.read_text() == "{}" and not (tmp_path / "runs").exists()


# ---- the folder of a model

MODEL = StoredModel("My net (v2)/../x", ModelFacts("onnx", "net.onnx"), ["a", "b"], "0" * 64)


def test_the_name_of_a_folder_is_safe_and_says_what_was_scored(tmp_path):
    place = place_of_model(tmp_path, MODEL)
    assert place.parent == tmp_path / "models" and place.name.startswith("my-net-v2-..-x-")
    assert name_in_path("../..") == name_in_path("") == name_in_path("日本") == "model"
    assert len(name_in_path("x" * 500)) == 60
    others = [replace(MODEL, weights_sha256="1" * 64), replace(MODEL, classes=["b", "a"]),
              replace(MODEL, missing_classes="keep"),
              replace(MODEL, facts=replace(MODEL.facts, output="probabilities")),
              replace(MODEL, facts=replace(MODEL.facts, input=InputFormat()))]
    assert len({place.name, *(place_of_model(tmp_path, other).name for other in others)}) == 6
    same = replace(MODEL, facts=replace(MODEL.facts, statements={"licence": "MIT"}))
    assert place_of_model(tmp_path, same) == place


DAMAGE = {
    "nothing": "", "no json": "{", "a list": "[]", "nan": '{"format": NaN}', "deep": "[" * 100_000,
    "entries": json.dumps(MODEL.as_dict() | {"path": "/etc"}), "name": json.dumps(MODEL.as_dict() | {"name": "\x1b"}),
    "format": json.dumps(MODEL.as_dict() | {"format": 2}), "classes": json.dumps(MODEL.as_dict() | {"classes": ["a"]}),
    "weights": json.dumps(MODEL.as_dict() | {"weights_sha256": "../" * 22}),
    "rule": json.dumps(MODEL.as_dict() | {"missing_classes": "x"}),
    "facts": json.dumps(MODEL.as_dict() | {"facts": {"kind": "x"}}),
    "large": json.dumps(MODEL.as_dict() | {"classes": ["x" * 2**20, "y"]})}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_description_is_written_anew(damage, tmp_path, capsys):
    path = tmp_path / "model.json"
    path.write_text(DAMAGE[damage])
    with pytest.raises(DamagedFile, match="model.json is damaged"):
        read_model(tmp_path)
    write_model(tmp_path, MODEL)
    assert read_model(tmp_path) == MODEL and "written anew" in capsys.readouterr().out


def test_nothing_outside_the_folder_is_written(tmp_path):
    outside = tmp_path / "outside.json"
    outside.write_text("mine")
    folder = tmp_path / "models/x"
    folder.mkdir(parents=True)
    (folder / "model.json").symlink_to(outside)
    write_model(folder, MODEL)
    assert outside.read_text() == "mine" and read_model(folder) == MODEL
    (folder / "model.json").unlink()
    (folder / "model.json").mkdir()
    with pytest.raises(UserError, match="is a folder; rename it"):
        write_model(folder, MODEL)
    (tmp_path / "models/linked").symlink_to(folder)
    assert model_folders(tmp_path) == [folder] and model_folders(tmp_path / "none") == []


def test_a_description_that_says_the_same_is_left(tmp_path):
    write_model(tmp_path, MODEL)
    before = (tmp_path / "model.json").stat().st_mtime_ns
    write_model(tmp_path, MODEL)
    assert (tmp_path / "model.json").stat().st_mtime_ns == before
    changed = replace(MODEL, facts=replace(MODEL.facts, statements={"licence": "MIT"}))
    write_model(tmp_path, changed)
    assert read_model(tmp_path) == changed


def test_a_model_folder_is_no_run_for_a_report(tmp_path):
    """Nor is anything in it; a stray model.json elsewhere hides no run."""
    (tmp_path / "models/x/predictions").mkdir(parents=True)
    for name in ("models/x/scores.csv", "models/x/model.json", "model.json", "demo/args.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    paths, notes = find_runs(tmp_path)
    assert paths == [tmp_path / "demo/args.json"] and notes == []


