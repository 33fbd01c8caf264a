"""Scoring without corrupted files: the same predictions, byte for byte, and clear refusals. The rest of evaluate.py is
tested with the runs of test_training.py."""
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import evaluate
import make_fer_c
from building.built_set import open_built_set
from corruptions import CELLS
from models.resnet import ResNet18
from support.errors import UserError
from cases import mostly_slow
from conftest import SIZE
from scored_files import contents
from sealing import reseal


pytestmark = pytest.mark.usefixtures("small")


@pytest.fixture
def new_run(built, tmp_path):
    """`new_run(name)` is the folder of a run with weights drawn from a seed."""
    def make(name):
        folder = tmp_path / name
        folder.mkdir()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = ResNet18(8, SIZE)
        torch.save({"model": model.state_dict()}, folder / "best.pt")
        model = {"class": "models.resnet.ResNet18", "arguments": {"num_classes": 8, "image_size": SIZE}}
        (folder / "args.json").write_text(json.dumps({
            "dataset": "demo", "protocol": "paper", "image_size": SIZE, "classes": list(open_built_set(built).classes),
            "model": model}))
        return folder
    return make


def score(run, *sets, workers=0, **changes):
    evaluate.main(evaluate.Args(run, set=sets, machine=evaluate.Machine(workers=workers), **changes))
    return contents(run, "*.npy")


@pytest.mark.parametrize("kind", mostly_slow(["png", "jpg"], fast=[1]))
def test_predictions_without_files_are_the_same_bytes(new_run, build_args, tmp_path, kind):
    settings = dict(limit=4, format=kind)
    make_fer_c.main(build_args(out=tmp_path / "files/Demo-C", **settings))
    make_fer_c.main(build_args(out=tmp_path / "none/Demo-C", images=False, **settings))
    wanted = score(new_run("from files"), tmp_path / "files/Demo-C")
    assert len(wanted) == 1 + len(CELLS) + 1  # clean, the cells, the labels
    logits = [np.load(path) for path in (tmp_path / "from files").rglob("[1-5].npy")]
    assert len(np.unique(np.stack(logits), axis=0)) > 60  # the model tells forms apart; at 32 pixels some are equal
    assert score(new_run("in memory"), tmp_path / "none/Demo-C", on_the_fly=True, workers=2) == wanted
    assert score(new_run("though there are files"), tmp_path / "files/Demo-C", on_the_fly=True) == wanted
    assert contents(tmp_path / "from files", "scores.csv") == contents(tmp_path / "in memory", "scores.csv")


def test_predictions_from_files_are_not_made_again_in_memory(new_run, build_args, tmp_path, monkeypatch):
    """Nor the other way round: they are the same."""
    make_fer_c.main(build_args(out=tmp_path / "Demo-C", limit=2))
    run = new_run("run")
    before = score(run, tmp_path / "Demo-C")
    monkeypatch.setattr("evaluation.inference.logits_of_blocks", None)
    assert score(run, tmp_path / "Demo-C", on_the_fly=True) == before


def test_a_set_without_images_asks_for_memory(new_run, build_args, tmp_path):
    make_fer_c.main(build_args(out=tmp_path / "Demo-C", images=False, limit=1))
    with pytest.raises(UserError, match="built with --no-images: add --on-the-fly"):
        score(new_run("run"), tmp_path / "Demo-C")


def test_other_images_than_the_builders_are_refused(new_run, built, tmp_path):
    changed = Path(shutil.copytree(built, tmp_path / "Demo-C", ignore=shutil.ignore_patterns("images")))

    def change(manifest):
        manifest["software"]["numpy"] = "1.0"
        manifest["made_with"]["seed"] = 5  # stands for a numpy that draws other numbers

    reseal(changed, change)
    with pytest.raises(UserError, match=r"not the ones the set was built with \(numpy 1.0 there, .* here\)"):
        score(new_run("run"), changed, on_the_fly=True)
    assert not (tmp_path / "run/predictions").exists()


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_clean_image_is_one_line(new_run, built, tmp_path, workers):
    damaged = Path(shutil.copytree(built, tmp_path / "Demo-C", ignore=shutil.ignore_patterns("images")))
    victim = sorted(damaged.glob("clean/*"))[3]
    victim.write_bytes(victim.read_bytes()[:300])
    with pytest.raises(UserError, match=f"{victim.name} is not the file that was built"):
        score(new_run("run"), damaged, on_the_fly=True, workers=workers)
