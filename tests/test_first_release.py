"""Sets and runs that the first release made still open, resume, score and report.

fixtures/first_release/sets.tar.xz and runs.tar.xz were written by that release from drawn faces of 32 pixels (3 test
images, 128 training images), with the small network of conftest.py in the place of ResNet-18: a set with its images as
JPEG, one without images, two shards that wait for their merge; a finished and scored run; a run stopped inside its
second epoch.
"""
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import evaluate
import make_fer_c
import report
import train_SCN
import train_baseline
from building.built_set import open_built_set
from building.verification import verify
from corruptions import CELLS
from support import run_folder
from training.options import TrainingOptions
from conftest import MACHINE

pytestmark = pytest.mark.usefixtures("small")
HERE = Path(__file__).parent / "fixtures/first_release"
DATA = ("train=128", "val=8", "test=3")
FINISHED, STOPPED = "runs/demo/baseline/ce/noise0/seed0", "runs/demo/SCN/maxent+mbls/noise0/seed0"


@pytest.fixture
def old(tmp_path):
    """The folder that holds what the first release wrote."""
    for name in ("sets", "runs"):
        with tarfile.open(HERE / f"{name}.tar.xz") as archive:
            archive.extractall(tmp_path, filter="data")
    return tmp_path / "first_release"


@pytest.mark.parametrize("name", ["Demo-C", "Demo-C-memory"])
def test_sets_open(old, name):
    built = open_built_set(old / name)
    assert len(built.frame) == 3 and built.soft_labels.shape == (17, 5, 3, 8)
    assert built.pixels(2).shape == (32, 32, 3)
    for cell in (CELLS[0], CELLS[-1]):
        assert built.pixels(1, *cell).shape == (32, 32, 3)
    verify(built.folder, 1)


def test_shards_merge(old, demo_root, capsys):
    make_fer_c.main(make_fer_c.Args("demo", root=demo_root, data=DATA, image_size=32, corruptions="imagenet-c",
                                    images=False, workers=1, out=old / "Shards-C", merge=True))
    merged, whole = open_built_set(old / "Shards-C"), open_built_set(old / "Demo-C-memory")
    assert merged.manifest["set_version"] == whole.manifest["set_version"]
    assert (merged.soft_labels == whole.soft_labels).all()
    assert not list(old.glob("Shards-C.shard*"))


def test_a_finished_run_is_rescored(old):
    run = old / FINISHED
    before = pd.read_csv(run / "scores.csv")
    logits = {path: path.stat().st_mtime_ns for path in run.rglob("predictions/**/*.npy")}
    assert run_folder.is_finished(run) and run_folder.is_scored(run, old / "Demo-C")
    evaluate.main(evaluate.Args(run, set=(old / "Demo-C",), machine=MACHINE))
    after = pd.read_csv(run / "scores.csv")
    assert logits == {path: path.stat().st_mtime_ns for path in run.rglob("predictions/**/*.npy")}  # float32: kept
    both = before.merge(after, on=list(before.columns[:6]), suffixes=("", "_now"))
    assert len(both) == len(before)
    np.testing.assert_allclose(both["value_now"], both["value"], rtol=1e-12, atol=1e-12)
    evaluate.main(evaluate.Args(run, set=(old / "Demo-C-memory",), on_the_fly=True, machine=MACHINE))


def test_a_stopped_run_goes_on(old, demo_root, capsys):
    args = train_SCN.Args(TrainingOptions("demo", root=demo_root, data=DATA, image_size=32, epochs=2, batch_size=32,
                                       weights="none", calib=True, runs=old / "runs"), machine=MACHINE)
    train_SCN.main(args)
    printed = capsys.readouterr().out
    assert f"{old / STOPPED}: going on at epoch 2, step 2" in printed
    assert run_folder.is_finished(old / STOPPED) and not (old / STOPPED / "last.pt").exists()
    assert "differs" in (old / STOPPED / "args.json").read_text()


def test_runs_are_reported_with_new_ones(old, demo_root, capsys):
    """Two seeds of one row, although only the second says what its recipe was."""
    new = train_baseline.Args(TrainingOptions("demo", root=demo_root, data=DATA, image_size=32, epochs=2, batch_size=32,
                                           weights="none", seed=1, runs=old / "runs"), machine=MACHINE)
    train_baseline.main(new)
    (folder,) = (old / FINISHED).parent.glob("seed1-*")
    evaluate.main(evaluate.Args(folder, set=(old / "Demo-C",), machine=MACHINE))
    capsys.readouterr()
    report.main(report.Args(old / "runs", resamples=20, figures="none"))
    table = pd.read_csv(old / "runs/report/table1.csv")
    assert set(table["algorithm"]) == {"baseline"} and set(table["seeds"]) == {2}
