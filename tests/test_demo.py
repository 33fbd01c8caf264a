"""The drawn faces: a known posterior, equal bytes on every run, expressions that follow valence and arousal."""
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.stats import multivariate_normal

from datasets import RECIPES, demo, load_split
from datasets.drawn.faces import (
    CLASSES, CLASS_COVARIANCES, CLASS_MEANS, PER_PERSON, draw_face, draw_point, true_posterior)
from datasets.demo import Args, main
from datasets.drawn.layouts import LAYOUTS
from datasets.split import COLUMNS
from support.errors import UserError
from support.random_streams import keyed_rng

SMALL = {"train": "16", "val": "8", "test": "8"}


def face(va, who="a", scene="b"):
    return draw_face(va, keyed_rng(who), keyed_rng(scene))


def files(root):
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """All three splits, small: (root, {split: Split})."""
    root = tmp_path_factory.mktemp("demo")
    return root, {split: load_split("demo", root, split, **SMALL) for split in SMALL}


def test_split_is_complete(drawn):
    root, splits = drawn
    for split, data in splits.items():
        frame = data.frame
        assert tuple(frame.columns) == COLUMNS and len(frame) == int(SMALL[split])
        assert data.classes == CLASSES and data.distribution is None and data.notes == {}
        assert frame[["left", "top", "right", "bottom"]].isna().all(axis=None)
        assert frame["expression"].dtype == np.int64
        assert frame["valence"].dtype == frame["arousal"].dtype == np.float64
        for path in frame["path"]:
            image = cv2.imread(str(root / path), cv2.IMREAD_UNCHANGED)
            assert image.shape == (224, 224, 3) and image.dtype == np.uint8
    assert len(files(root)) == 32  # and nothing else lies about


def test_ids_and_identities_do_not_cross_splits(drawn):
    _, splits = drawn
    ids = [i for data in splits.values() for i in data.frame["id"]]
    assert len(set(ids)) == len(ids) == 32
    people = [set(data.frame["identity"]) for data in splits.values()]
    assert len(set.union(*people)) == sum(map(len, people)) == 4


def test_every_identity_shows_each_class_once(drawn):
    frame = drawn[1]["train"].frame
    orders = [tuple(group) for _, group in frame.groupby("identity")["expression"]]
    assert all(sorted(order) == list(range(8)) for order in orders)
    assert len(set(orders)) == 2  # shuffled, each in its own way


def test_same_bytes_again_and_a_larger_set_begins_with_the_smaller(drawn, tmp_path):
    root, splits = drawn
    small = load_split("demo", tmp_path, "train", train=8)
    second, large = files(tmp_path), files(root)
    assert len(second) == 8 and all(large[name] == second[name] for name in second)
    assert small.frame.equals(splits["train"].frame.iloc[:8])


def test_seed_changes_the_faces(drawn, tmp_path):
    other = load_split("demo", tmp_path, "val", val=1, seed=1).frame
    assert other["path"][0].startswith(f"v{demo.DRAWING}-seed1/")
    assert other["valence"][0] != drawn[1]["val"].frame["valence"][0]
    assert (tmp_path / other["path"][0]).read_bytes() != (drawn[0] / drawn[1]["val"].frame["path"][0]).read_bytes()


def test_a_half_drawn_set_is_completed(drawn, tmp_path):
    whole = {name: data for name, data in files(drawn[0]).items() if "/val/" in name}
    load_split("demo", tmp_path, "val", val=8)
    names = sorted(whole)
    (tmp_path / names[2]).unlink()
    (tmp_path / names[5]).write_bytes(b"mine")  # what exists is trusted
    load_split("demo", tmp_path, "val", val=8)
    assert files(tmp_path) == {**whole, names[5]: b"mine"}


def test_a_failed_write_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr(demo.os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(UserError, match="disk full"):
        load_split("demo", tmp_path, "val", val=2)
    assert files(tmp_path) == {}


BAD = [("train", "many"), ("val", "0"), ("test", "-3"), ("seed", "1.5"), ("train", "")]


@pytest.mark.parametrize("name, value", BAD)
def test_bad_options_are_named(tmp_path, name, value):
    with pytest.raises(UserError, match=f"{name}={value}"):
        load_split("demo", tmp_path, "test", **{name: value})


def test_unknown_option(tmp_path):
    with pytest.raises(UserError, match="pose"):
        load_split("demo", tmp_path, "test", pose="1")


def test_posterior_is_bayes_rule():
    va = np.random.default_rng(0).uniform(-1.2, 1.2, (200, 2))
    pairs = zip(CLASS_MEANS, CLASS_COVARIANCES, strict=True)
    density = np.stack([multivariate_normal(mean, cov).pdf(va) for mean, cov in pairs], 1)
    posterior = true_posterior(va)
    assert posterior.shape == (200, 8) and posterior.dtype == np.float64
    np.testing.assert_allclose(posterior, density / density.sum(1, keepdims=True), rtol=1e-9, atol=1e-300)


def test_posterior_is_finite_far_away():
    posterior = true_posterior([(50, -80), (1e6, 1e6), (0, 0)])
    assert np.isfinite(posterior).all()
    np.testing.assert_allclose(posterior.sum(1), 1)


def test_points_follow_their_class():
    rng = keyed_rng("test")
    label = np.repeat(np.arange(8), 2000)
    va = np.stack([draw_point(rng, k) for k in label])
    for k in range(8):
        np.testing.assert_allclose(va[label == k].mean(0), CLASS_MEANS[k], atol=0.015)
        np.testing.assert_allclose(np.cov(va[label == k].T), CLASS_COVARIANCES[k], atol=0.004)
    assert (np.abs(va) > 1).any(1).mean() < 0.01
    assert 0.75 < (true_posterior(va).argmax(1) == label).mean() < 0.85  # ambiguous, but not hopeless


def test_expression_moves_the_mouth_and_nothing_else_does():
    neutral, second, happy = face((0, 0)), face((0, 0)), face(CLASS_MEANS[1])
    assert (neutral == second).all()
    moved = np.abs(neutral.astype(int) - happy).mean(2)
    assert moved[140:185, 80:145].mean() > 8
    assert moved[:20].max() == 0  # hair, light, background and camera stay
    assert (face((0, 0), who="c") != neutral).any() and (face((0, 0), scene="c") != neutral).any()


def test_neighbouring_points_look_alike():
    steps = [face((v, 0.1)).astype(int) for v in np.linspace(-0.8, 0.8, 17)]
    change = [np.abs(a - b).mean() for a, b in zip(steps, steps[1:], strict=False)]
    assert max(change) < 0.6 * np.abs(steps[0] - steps[-1]).mean()  # spread over the way, no jump


def test_every_style_and_extreme_draws():
    for k in range(20):
        image = face(((-1) ** k * 1.3, (-1) ** (k // 2) * 1.3), k, k)
        assert image.shape == (224, 224, 3) and image.dtype == np.uint8 and image.std() > 10


# ---- the official layouts of other sets


def write_layout(layout, out):
    main(Args(layout, out))


@pytest.fixture
def little(monkeypatch):
    """A layout that is written at once."""
    def write(root, faces):
        (root / "Image").mkdir(parents=True)
        (root / "Image/one.png").write_bytes(next(iter(faces("train", 1))).image.tobytes())
        (root / "list.txt").write_text("one")
    monkeypatch.setitem(LAYOUTS, "ferplus", write)


def test_a_layout_goes_into_a_new_or_an_empty_folder(little, tmp_path, monkeypatch):
    """Also where it is the current folder or a link to another one: nothing is made beside it."""
    inside, here, target = tmp_path / "inside", tmp_path / "here", tmp_path / "target"
    here.mkdir()
    target.mkdir()
    (tmp_path / "link").symlink_to(target)
    (tmp_path / ".inside.tmp").mkdir()  # somebody's
    (tmp_path / ".inside.tmp/notes").write_text("mine")
    write_layout("ferplus", inside / "deep")
    monkeypatch.chdir(here)
    write_layout("ferplus", Path("."))
    write_layout("ferplus", tmp_path / "link")
    for folder in (inside / "deep", here, target):
        assert sorted(path.name for path in folder.iterdir()) == ["Image", "list.txt"]
    assert (tmp_path / "link").is_symlink() and (tmp_path / ".inside.tmp/notes").read_text() == "mine"


def test_a_layout_leaves_what_is_there_alone(little, tmp_path, monkeypatch):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name, message in (("full", "is not empty .it holds notes.; give a new folder"), ("file", "file is a file")):
        with pytest.raises(UserError, match=message):
            write_layout("ferplus", tmp_path / name)
    with pytest.raises(UserError, match="unknown layout 'fer'; known: affectnet-old, affectnet-2021"):
        write_layout("fer", tmp_path / "new")

    def fail(root, faces):
        (root / "half").mkdir()
        raise OSError(28, "No space left on device")
    monkeypatch.setitem(LAYOUTS, "ferplus", fail)
    for name in ("new", "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(UserError, match=f"cannot write .*{name}: No space left"):
            write_layout("ferplus", tmp_path / name)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["empty", "file", "full", "notes"]


def test_raf_ml_goes_beside_raf_db(tmp_path, monkeypatch):
    writers = {name: lambda root, faces, part=part: (root / part).mkdir()
               for name, part in (("rafdb", "basic"), ("raf-ml", "RAF-ML"))}
    monkeypatch.setattr("datasets.drawn.layouts.LAYOUTS", writers)
    write_layout("rafdb", tmp_path)
    write_layout("raf-ml", tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["RAF-ML", "basic"]
    with pytest.raises(UserError, match="is not empty .it holds basic"):
        write_layout("rafdb", tmp_path)


def test_the_demo_is_of_the_size_that_the_corruptions_were_made_for():
    """64 px, at least 56 test images, of several people."""
    assert RECIPES["demo"]["image_size"] == 64
    assert demo.DEFAULTS["test"] >= 56 and demo.DEFAULTS["test"] // PER_PERSON >= 7


def test_importing_leaves_the_global_generator_alone():
    code = (
        "import random, numpy as np; a = np.random.get_state()[1].tolist(), random.getstate();"
        "import datasets.demo, sys; b = np.random.get_state()[1].tolist(), random.getstate();"
        "assert a == b; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(demo.__file__).parents[1])
