"""The build: what a set holds, the same bytes by every way to them, and clear refusals."""
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image

import make_fer_c
import soft_labels
from building import build, state, verification, worker
from building.built_set import open_built_set
from building.forms import encode
from building.journal import write_file
from make_fer_c import Args, fill_defaults
from building.state import report_if_built
from building.worker import make_chunk
from corruptions import CELLS, CORRUPTIONS, corrupt
from datasets import fused, load_split, parse_options
from datasets.images import read_image
from support.files import lock, write_whole
from support.errors import UserError
from support.random_streams import keyed_rng
from cases import mostly_slow
from conftest import OPTIONS, SIZE

ROOT = Path(__file__).parent.parent


def sums(folder):
    return (folder / "checksums.sha256").read_text()


def read(path):
    return cv2.imread(str(path))[..., ::-1]


# ---- what a set holds

def test_images_are_the_corruptions_of_the_clean_image(built, demo_root):
    data = open_built_set(built)
    split = load_split("demo", demo_root, "test", **dict(option.split("=") for option in OPTIONS))
    assert data.frame["id"].tolist() == split.frame["id"].tolist()
    clean = read_image(demo_root / split.frame["path"].iloc[3], SIZE)
    np.testing.assert_array_equal(read(data.image_path(3)), clean)
    for name, severity in CELLS[::7]:
        rng = keyed_rng(0, split.frame["id"].iloc[3], name, severity)
        np.testing.assert_array_equal(read(data.image_path(3, name, severity)), corrupt(clean, name, severity, rng))


def test_labels_recomputed_from_the_files(built, demo_root):
    """Everything from the images on disk and the training split, by the formulas of the benchmark."""
    data = open_built_set(built)
    train = load_split("demo", demo_root, "train", **dict(option.split("=") for option in OPTIONS)).frame
    gmm = soft_labels.fit_gmm(train[["valence", "arousal"]].to_numpy(), train["expression"].to_numpy(), 8)
    posterior = gmm.posterior(data.frame[["valence", "arousal"]].to_numpy())
    label = 0.5 * np.eye(8)[data.frame["expression"]] + 0.5 * posterior
    np.testing.assert_allclose(data.labels_before_softening, label, atol=1e-12)
    distance = np.empty((17, 5, 16))
    for cell, (name, severity) in enumerate(CELLS):
        for i in range(16):
            change = read(data.image_path(i)) / 255 - read(data.image_path(i, name, severity)) / 255
            distance[cell // 5, cell % 5, i] = np.sqrt((change**2).mean())
    worst = distance.mean(-1).max()
    assert data.manifest["worst"]["difference"] == pytest.approx(worst)
    assert sorted(data.manifest["worst"]["images"]) == sorted(data.frame["id"])  # all 16: fewer than 100
    visible = np.clip(1 - distance / worst, 0, 1)
    np.testing.assert_allclose(np.load(built / "visibility.npy"), visible, atol=1e-6)
    hidden = (1 - visible[..., None]) ** 2
    np.testing.assert_allclose(data.soft_labels, (1 - hidden) * label + hidden / 8, atol=1e-6)
    means = pd.read_csv(built / "visibility_mean.csv", index_col="corruption")
    assert means.index.tolist() == list(CORRUPTIONS) and means.columns.tolist() == list("12345")
    np.testing.assert_allclose(means, visible.mean(-1), atol=1e-6)


def test_layout_and_manifest(built):
    assert sorted(path.name for path in built.iterdir()) == sorted((
        "manifest.json", "labels.csv", "soft_labels.npy", "visibility.npy", "visibility_mean.csv", "gmm.json", "clean",
        "images", "checksums.sha256"))
    assert len(list(built.glob("images/*/*/*.png"))) == 16 * 85 and len(list(built.glob("clean/*.png"))) == 16
    labels = pd.read_csv(built / "labels.csv")
    assert labels.columns.tolist() == ["id", "path", "expression", *(f"t_{k}" for k in range(8)), "valence", "arousal",
                                       "identity"]
    soft = np.load(built / "soft_labels.npy", mmap_mode="r")
    assert soft.shape == (17, 5, 16, 8) and soft.dtype == np.float32
    text = (built / "manifest.json").read_text()
    assert str(built.parent) not in text and os.uname().nodename not in text
    manifest = json.loads(text)
    assert sum(manifest["counts"].values()) == 16
    assert soft_labels.GMM.from_json((built / "gmm.json").read_text()).means.shape == (8, 2)


def test_checksums_are_sha256sums(built):
    if shutil.which("sha256sum") is None:
        pytest.skip("sha256sum is not installed")
    done = subprocess.run(["sha256sum", "--quiet", "-c", "checksums.sha256"], cwd=built, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


# ---- the same bytes by every way

def test_two_workers_give_the_same_bytes(built, build_args, tmp_path):
    make_fer_c.main(build_args(out=tmp_path / "Demo-C", workers=2))
    assert sums(tmp_path / "Demo-C") == sums(built)


def test_interrupted_build_ends_with_the_same_bytes(built, build_args, tmp_path, monkeypatch):
    """Stop in the middle of a chunk, damage a finished file and a journal entry, go on."""
    out, write, written = tmp_path / "Demo-C", write_file, []

    def stopping(*arguments):
        if len(written) == 500:
            raise KeyboardInterrupt
        written.append(arguments[0])
        return write(*arguments)

    monkeypatch.setattr(worker, "write_file", stopping)
    with pytest.raises(KeyboardInterrupt):
        make_fer_c.main(build_args(out=out))
    assert not out.exists()
    with pytest.raises(UserError, match="is not finished .*Demo-C.partial.*start it again"):
        open_built_set(out)
    assert len(list((tmp_path / "Demo-C.partial/journal").iterdir())) == 1
    written[5].write_bytes(b"torn")
    monkeypatch.setattr(worker, "write_file", write)
    make_fer_c.main(build_args(out=out))
    assert sums(out) == sums(built)
    assert not (tmp_path / "Demo-C.partial").exists()


@pytest.mark.slow
def test_finished_chunks_are_not_made_twice(build_args, tmp_path, monkeypatch):
    make, chunks = make_chunk, []

    def counting(recipe, chunk):
        if len(chunks) == 2:
            raise KeyboardInterrupt
        chunks.append(chunk[0])
        return make(recipe, chunk)

    monkeypatch.setattr(build, "make_chunk", counting)
    with pytest.raises(KeyboardInterrupt):
        make_fer_c.main(build_args(out=tmp_path / "x"))
    monkeypatch.setattr(build, "make_chunk", lambda recipe, chunk: (chunks.append(chunk[0]), make(recipe, chunk)))
    make_fer_c.main(build_args(out=tmp_path / "x"))
    assert chunks == [0, 1, 2, 3]


@pytest.mark.slow
def test_kill_9_and_restart(built, demo_root, tmp_path):
    out = tmp_path / "Demo-C"
    process = subprocess.Popen(command(demo_root, out), cwd=ROOT, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL, start_new_session=True)
    give_up = time.monotonic() + 120
    while process.poll() is None and not list(tmp_path.glob("*.partial/set/images/*/*/*")):
        assert time.monotonic() < give_up
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = subprocess.run(command(demo_root, out), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert sums(out) == sums(built)


@pytest.mark.slow
def test_limit_keeps_the_worst_difference_and_the_pixels(built, build_args, tmp_path):
    make_fer_c.main(build_args(out=tmp_path / "few", limit=3))
    whole, few = open_built_set(built), open_built_set(tmp_path / "few")
    assert few.manifest["worst"] == whole.manifest["worst"]
    assert few.frame["id"].tolist() == whole.frame["id"].iloc[[0, 8, 15]].tolist()  # evenly spaced
    np.testing.assert_array_equal(few.soft_labels[:, :, 2], whole.soft_labels[:, :, 15])
    assert few.image_path(1, "snow", 3).read_bytes() == whole.image_path(8, "snow", 3).read_bytes()
    assert few.manifest["set_version"] != whole.manifest["set_version"]


# ---- settings

@pytest.mark.slow
def test_settings_change_the_set(built, build_args, tmp_path):
    changes = dict(seed=1, beta=0.75, exponent=1, visibility="ssim", corruptions="imagenet-c", visibility_per="mean",
                   format="jpg")
    versions = {open_built_set(built).manifest["set_version"]}
    for name, value in changes.items():
        make_fer_c.main(build_args(out=tmp_path / name, limit=2, **{name: value}))
        versions.add(open_built_set(tmp_path / name).manifest["set_version"])
    assert len(versions) == 1 + len(changes)
    per_mean = np.load(tmp_path / "visibility_per/visibility.npy")
    assert (per_mean[..., 0] == per_mean[..., 1]).all()
    assert list((tmp_path / "format/images/snow/1").glob("*.jpg")) and list((tmp_path / "format/clean").glob("*.png"))
    make_fer_c.main(build_args(out=tmp_path / "webp", limit=1, format="webp"))
    assert len(list((tmp_path / "webp").rglob("*.webp"))) == 85


def test_protocol_and_recipe_give_defaults():
    def settled(line):
        return make_fer_c.cli.parse(Args, fill_defaults, line.split())

    assert settled("--dataset ferplus").image_size == 224 and settled("--dataset demo").image_size == 64
    assert settled("--dataset demo --image-size 64").image_size == 64
    released = settled("--dataset ferplus --protocol released --data a=1 --data b=2")
    assert (released.corruptions, released.visibility, released.data) == ("fer-c-released", "l2-uint8", ("a=1", "b=2"))
    assert settled("--dataset ferplus --protocol released --visibility psnr").visibility == "psnr"
    legacy = settled("--dataset affectnet --protocol released --data classes=7")
    assert parse_options(legacy.data) == {"crop": "legacy", "classes": "7"}


def test_other_settings_on_a_set_are_refused(built, build_args, capsys):
    before = sums(built)
    with pytest.raises(UserError, match="other settings .*seed: 0 there, 1 asked for"):
        make_fer_c.main(build_args(out=built, seed=1))
    with pytest.raises(UserError, match="beta"):
        make_fer_c.main(build_args(out=built, beta=0.6))
    make_fer_c.main(build_args(out=built))
    assert "already built" in capsys.readouterr().out and sums(built) == before


def test_other_settings_on_an_unfinished_set_are_refused(build_args, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "make_chunk", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        make_fer_c.main(build_args(out=tmp_path / "x"))
    with pytest.raises(UserError, match="exponent: 2 there, 3 asked for"):
        make_fer_c.main(build_args(out=tmp_path / "x", exponent=3))


@pytest.mark.parametrize("changes, message", [
    (dict(dataset="affect"), "known: "), (dict(corruptions="imagenet"), "known: fer-c"), (dict(workers=0), "--workers"),
    (dict(image_size=8), "--image-size"), (dict(limit=0), "--limit"), (dict(data=("size",)), "key=value"),
    (dict(beta=5.0), "--beta"), (dict(exponent=-1.0), "--exponent"), (dict(quality=500), "--quality"),
    (dict(gallery=Path("x.xyz")), "--gallery x.xyz"), (dict(gallery=Path("folder")), "--gallery folder"),
])
def test_nonsense_is_refused(build_args, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        make_fer_c.main(build_args(out=tmp_path / "x", **changes))
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_no_set_is_left_alone(build_args, tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match="is no FER-C set"):
        make_fer_c.main(build_args(out=tmp_path))


@pytest.mark.slow
def test_mixture_of_another_set(built, build_args, tmp_path, monkeypatch, capsys):
    """Handed over by file: classes are matched by name; without it a set that should take another's says so."""
    stored = json.loads((built / "gmm.json").read_text())
    assert stored["classes"] == list(open_built_set(built).classes)
    order = [3, 1, 0, 2, 4, 5, 6, 7]
    shuffled = {name: [values[k] for k in order] for name, values in stored.items()}
    (tmp_path / "gmm.json").write_text(json.dumps(shuffled))
    make_fer_c.main(build_args(out=tmp_path / "same", gmm=tmp_path / "gmm.json", limit=4))
    make_fer_c.main(build_args(out=tmp_path / "own", limit=4))
    np.testing.assert_allclose(open_built_set(tmp_path / "same").labels_before_softening,
                               open_built_set(tmp_path / "own").labels_before_softening, atol=1e-9)
    assert "given, sha256" in open_built_set(tmp_path / "same").manifest["notes"]["mixture"]
    capsys.readouterr()
    monkeypatch.setattr(fused, "GMM_FROM", {"demo": "ferplus"})
    make_fer_c.main(build_args(out=tmp_path / "loud", limit=4))
    assert "warning: FER-C labels demo with the mixture of ferplus" in capsys.readouterr().err
    assert "although FER-C takes that of ferplus" in open_built_set(tmp_path / "loud").manifest["notes"]["mixture"]


@pytest.mark.parametrize("content", [
    "", "{}", '{"weights": [1], "means": [[0, 0]], "covariances": [[[1, 0], [0, 1]]]}'])
def test_a_mixture_that_does_not_fit_is_refused(build_args, tmp_path, content):
    (tmp_path / "gmm.json").write_text(content)
    with pytest.raises(UserError, match="gmm.json: no mixture of the classes Neutral"):
        make_fer_c.main(build_args(out=tmp_path / "x", gmm=tmp_path / "gmm.json"))


# ---- faults

def broken_root(demo_root, tmp_path):
    root = tmp_path / "demo"
    shutil.copytree(demo_root, root)
    victim = sorted(root.rglob("test-*.png"))[4]
    victim.write_bytes(victim.read_bytes()[:500])
    return root, victim


def test_unreadable_source_is_named_and_nothing_is_left(demo_root, build_args, tmp_path, capsys):
    root, victim = broken_root(demo_root, tmp_path)
    with pytest.raises(UserError, match="1 of 16 source images cannot be read"):
        make_fer_c.main(build_args(root=root, out=tmp_path / "x"))
    assert victim.name in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["demo"]


@pytest.mark.slow
def test_unreadable_source_is_skipped_on_request(demo_root, build_args, tmp_path):
    root, victim = broken_root(demo_root, tmp_path)
    make_fer_c.main(build_args(root=root, out=tmp_path / "x", skip_bad=True))
    data = open_built_set(tmp_path / "x")
    assert len(data.frame) == 15 and victim.stem not in set(data.frame["id"])
    assert data.manifest["notes"]["unreadable, skipped"] == [victim.stem]


def test_a_source_that_changes_between_starts_is_refused(demo_root, build_args, tmp_path, monkeypatch):
    root = tmp_path / "demo"
    shutil.copytree(demo_root, root)
    make = make_chunk
    monkeypatch.setattr(build, "make_chunk", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        make_fer_c.main(build_args(root=root, out=tmp_path / "x"))
    monkeypatch.setattr(build, "make_chunk", make)
    Image.new("RGB", (224, 224)).save(sorted(root.rglob("test-*.png"))[0])
    with pytest.raises(UserError, match="sources"):
        make_fer_c.main(build_args(root=root, out=tmp_path / "x"))


def test_a_second_build_in_the_same_folder_is_refused(build_args, tmp_path):
    with lock(tmp_path / "x.partial", "building"):
        with pytest.raises(UserError, match="another process is building .*x.partial"):
            make_fer_c.main(build_args(out=tmp_path / "x"))


@pytest.mark.slow
def test_half_written_files_of_a_killed_build_are_removed(built, build_args, tmp_path, monkeypatch):
    """A kill while a table is written, and one between the last rename and the clean-up."""
    out, finish = tmp_path / "Demo-C", build.finish

    def die(plan, work, *rest):
        finish(plan, work, *rest)
        (work / "set/.soft_labels.npy.1234.tmp").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(build, "finish", die)
    with pytest.raises(KeyboardInterrupt):
        make_fer_c.main(build_args(out=out))
    monkeypatch.setattr(build, "finish", finish)
    make_fer_c.main(build_args(out=out))
    make_fer_c.main(build_args(out=out, verify=True))
    assert sums(out) == sums(built)
    (tmp_path / "Demo-C.partial").mkdir()
    make_fer_c.main(build_args(out=out))
    assert not (tmp_path / "Demo-C.partial").exists()


@pytest.mark.slow
def test_workers_go_with_their_builder(demo_root, tmp_path):
    process = subprocess.Popen(command(demo_root, tmp_path / "x", size=128), cwd=ROOT, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
    while not list(tmp_path.glob("*.partial/set/images/*/*/*")):
        time.sleep(0.05)
    process.kill()
    process.wait()
    give_up = time.monotonic() + 20
    while subprocess.run(["pgrep", "-f", str(tmp_path / "x")], capture_output=True).stdout:
        assert time.monotonic() < give_up
        time.sleep(0.2)
    before = len(list(tmp_path.rglob("*")))
    time.sleep(3)
    assert len(list(tmp_path.rglob("*"))) == before  # nobody writes any more


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_resumable(built, build_args, tmp_path, monkeypatch):
    write, count = write_file, []

    def full(*arguments):
        count.append(1)
        if len(count) > 400:
            raise OSError(28, "No space left on device", "somewhere.png")
        return write(*arguments)

    monkeypatch.setattr(worker, "write_file", full)
    with pytest.raises(UserError, match="cannot write somewhere.png: No space left on device; what is done is kept"):
        make_fer_c.main(build_args(out=tmp_path / "x"))
    monkeypatch.setattr(worker, "write_file", write)
    make_fer_c.main(build_args(out=tmp_path / "x"))
    assert sums(tmp_path / "x") == sums(built)


def test_verify_names_the_faults(built, build_args, tmp_path, capsys):
    out = tmp_path / "Demo-C"
    shutil.copytree(built, out)
    make_fer_c.main(build_args(out=out, verify=True))
    assert "files as built" in capsys.readouterr().out
    files = sorted(path for path in out.rglob("*.png"))
    files[0].unlink()
    files[1].write_bytes(files[2].read_bytes())
    (out / "images/snow/notes.txt").write_text("x")
    with pytest.raises(UserError, match="3 files are not as built"):
        make_fer_c.main(build_args(out=out, verify=True))
    printed = capsys.readouterr().out
    for fault, path in (("missing", files[0]), ("changed", files[1]), ("extra", out / "images/snow/notes.txt")):
        assert f"{fault}: {path.relative_to(out)}" in printed
    shutil.copytree(built, tmp_path / "forged")  # a changed file whose new checksum was filled in
    image = next((tmp_path / "forged").rglob("*.png"))
    image.write_bytes(files[2].read_bytes())
    lines = sums(tmp_path / "forged").splitlines()
    name = str(image.relative_to(tmp_path / "forged"))
    new = hashlib.sha256(image.read_bytes()).hexdigest()
    (tmp_path / "forged/checksums.sha256").write_text(
        "\n".join(f"{new}  {name}" if line.endswith(name) else line for line in lines) + "\n")
    with pytest.raises(UserError, match="not as built"):
        make_fer_c.main(build_args(out=tmp_path / "forged", verify=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["soft_labels.npy", "labels.csv"])
def test_verify_names_tables_too(built, build_args, tmp_path, capsys, name):
    out = tmp_path / "Demo-C"
    shutil.copytree(built, out)
    (out / name).write_bytes((out / name).read_bytes()[:40])
    with pytest.raises(UserError, match="1 files are not as built"):
        make_fer_c.main(build_args(out=out, verify=True))
    assert f"changed: {name}" in capsys.readouterr().out
    (out / name).unlink()
    with pytest.raises(UserError, match="1 files"):
        make_fer_c.main(build_args(out=out, verify=True))
    assert f"missing: {name}" in capsys.readouterr().out


def test_a_file_where_the_set_should_go(build_args, tmp_path):
    (tmp_path / "x").write_text("")
    with pytest.raises(UserError, match="is a file"):
        make_fer_c.main(build_args(out=tmp_path / "x"))


def test_verify_of_nothing(build_args, tmp_path):
    with pytest.raises(UserError, match="is no FER-C set: no manifest.json"):
        make_fer_c.main(build_args(out=tmp_path / "x", verify=True))


def test_damaged_set_is_refused(built, tmp_path):
    for name, content in (("manifest.json", b"{"), ("labels.csv", b"id\n"), ("soft_labels.npy", b"\x93NUMPY")):
        out = tmp_path / name
        shutil.copytree(built, out, ignore=lambda folder, names: [n for n in names if n in ("images", "clean")])
        (out / name).write_bytes(content)
        with pytest.raises(UserError, match="is damaged"):
            open_built_set(out)


@pytest.mark.slow
def test_gallery(built, build_args, tmp_path):
    make_fer_c.main(build_args(out=built, gallery=tmp_path / "figure/gallery.png"))
    with Image.open(tmp_path / "figure/gallery.png") as image:
        assert image.width > 800 and len(image.convert("RGB").getcolors(10**7)) > 1000


def test_sets_without_valence_and_arousal_take_the_annotators_labels(tmp_path):
    from test_datasets import write_ferplus

    root = write_ferplus(tmp_path / "ferplus")
    make_fer_c.main(Args("ferplus", root=root, out=tmp_path / "x", image_size=SIZE, workers=1))
    data = open_built_set(tmp_path / "x")
    np.testing.assert_allclose(data.labels_before_softening[0], [0.5, 0, 0, 0.5, 0, 0, 0, 0])
    assert not (tmp_path / "x/gmm.json").exists()


# ---- images in memory

@pytest.mark.slow
def test_sets_without_images_are_the_same_set(built, build_args, tmp_path, capsys):
    out = tmp_path / "Demo-C"
    make_fer_c.main(build_args(out=out, images=False))
    assert sorted(path.name for path in out.iterdir()) == sorted(
        [path.name for path in built.iterdir() if path.name != "images"] + ["images.sha256"])
    for name in ("manifest.json", "labels.csv", "soft_labels.npy", "visibility.npy"):
        assert (out / name).read_bytes() == (built / name).read_bytes(), name
    assert set((out / "images.sha256").read_text().splitlines()) < set(sums(built).splitlines())
    make_fer_c.main(build_args(out=out, images=False, verify=True))
    assert "23 files as built" in capsys.readouterr().out
    with pytest.raises(UserError, match="files: no images/ there, all asked for"):
        make_fer_c.main(build_args(out=out))
    data = open_built_set(out)
    assert not data.has_images and open_built_set(built).has_images
    data.check_forms_made_here()
    with_images = open_built_set(built)
    for cell in ((), *CELLS[::9]):
        np.testing.assert_array_equal(data.pixels(5, *cell, in_memory=True), read(with_images.image_path(5, *cell)))
    make_fer_c.main(build_args(out=out, images=False, gallery=tmp_path / "gallery.png"))
    text = (out / "images.sha256").read_text()
    (out / "images.sha256").write_text(text.replace(text[:64], "0" * 64))
    with pytest.raises(UserError, match="2 files are not as built"):
        make_fer_c.main(build_args(out=out, images=False, verify=True))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["jpg", "webp"])
def test_lossy_images_in_memory_are_those_of_the_files(build_args, tmp_path, kind):
    make_fer_c.main(build_args(out=tmp_path / "x", limit=1, format=kind, quality=80))
    data = open_built_set(tmp_path / "x")
    data.check_forms_made_here()
    for cell in ((), *CELLS):
        in_memory = data.pixels(0, *cell, in_memory=True)
        np.testing.assert_array_equal(in_memory, read_image(data.image_path(0, *cell), SIZE))


def test_jpeg_keeps_the_noise_of_colours(built):
    """Colour at half resolution, its default, would change this image by more than ten grey levels on average."""
    noise = keyed_rng("noise").integers(100, 156, (64, 64, 3), dtype=np.uint8)
    decoded = cv2.imdecode(np.frombuffer(encode(noise, "jpg", 95), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert cv2.absdiff(np.ascontiguousarray(decoded), noise).mean() < 5


@pytest.mark.parametrize("change", [
    lambda made: made.update(seed=1), lambda made: made["constants"]["snow"][0].update(mix=0.5)])
def test_a_machine_that_makes_other_images_is_refused(built, change):
    data = open_built_set(built)
    data.check_forms_made_here()
    change(data.made_with)
    with pytest.raises(UserError, match="are not the ones the set was built with"):
        data.check_forms_made_here()


# ---- shards

@pytest.mark.slow
def test_shards_give_the_same_bytes(built, build_args, tmp_path):
    out = tmp_path / "Demo-C"
    for i in (3, 1, 2):
        make_fer_c.main(build_args(out=out, shard=f"{i}/3", workers=1 + i % 2))
        assert not out.exists()
    make_fer_c.main(build_args(out=out, merge=True))
    assert sums(out) == sums(built)
    make_fer_c.main(build_args(out=out, verify=True))
    assert [path.name for path in tmp_path.iterdir()] == ["Demo-C"]
    make_fer_c.main(build_args(out=out, merge=True))  # once more: nothing to do


@pytest.mark.slow
def test_shards_of_a_part_know_the_worst_of_all(build_args, tmp_path):
    """Images only measured for D_worst are dealt out too; there may be no images/, and shards without any image."""
    make_fer_c.main(build_args(out=tmp_path / "one", limit=2, images=False))
    for i in range(1, 6):
        make_fer_c.main(build_args(out=tmp_path / "two", limit=2, images=False, shard=f"{i}/5"))
    make_fer_c.main(build_args(out=tmp_path / "two", limit=2, images=False, merge=True))
    assert sums(tmp_path / "two") == sums(tmp_path / "one")


@pytest.fixture(scope="module")
def two_shards(build_args, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    for i in (1, 2):
        make_fer_c.main(build_args(out=folder / "Demo-C", shard=f"{i}/2"))
    return folder


@pytest.fixture
def shards(two_shards, tmp_path):
    return Path(shutil.copytree(two_shards, tmp_path / "shards"))


def test_shards_that_are_missing_or_mixed_are_named(build_args, shards):
    def merge(**changes):
        make_fer_c.main(build_args(out=shards / "Demo-C", merge=True, **changes))

    with pytest.raises(UserError, match="Demo-C.shard-1-of-2 was made with other settings .*seed: 0 there, 1 asked"):
        merge(seed=1)
    with pytest.raises(UserError, match="shard-1-of-2 .*files: all there, no images/ asked"):
        merge(images=False)
    (shards / "Demo-C.shard-2-of-2").rename(shards / "Demo-C.shard-2-of-2.partial")
    with pytest.raises(UserError, match=r"1 of 2 shards are missing: 2/2 \(begun\)"):
        merge()
    (shards / "Demo-C.shard-2-of-2.partial").rename(shards / "Demo-C.shard-2-of-3")
    with pytest.raises(UserError, match=r"shards of different n \(2, 3\)"):
        merge()
    shutil.rmtree(shards / "Demo-C.shard-2-of-3")
    shutil.rmtree(shards / "Demo-C.shard-1-of-2")
    with pytest.raises(UserError, match="--merge found no shards"):
        merge()
    assert not list(shards.iterdir())


@pytest.mark.slow
def test_damaged_shards_are_named_and_mended(built, build_args, shards):
    shard = shards / "Demo-C.shard-2-of-2"
    image, entry = sorted(shard.rglob("*.png"))[40], next((shard / "journal").iterdir())
    good = {path: path.read_bytes() for path in (image, entry)}
    for path, content in ((image, good[image][:100]), (image, None), (entry, b"{"), (entry, None)):
        path.unlink() if content is None else path.write_bytes(content)
        message = f"{path.name} is missing or not as built; remove {shard} and give the command"
        with pytest.raises(UserError, match=message):
            make_fer_c.main(build_args(out=shards / "Demo-C", merge=True))
        assert not (shards / "Demo-C").exists()
        path.write_bytes(good[path])
    shutil.rmtree(shard)
    make_fer_c.main(build_args(out=shards / "Demo-C", shard="2/2"))
    make_fer_c.main(build_args(out=shards / "Demo-C", merge=True))
    assert sums(shards / "Demo-C") == sums(built)


@pytest.mark.slow
def test_an_interrupted_merge_goes_on(built, build_args, shards, monkeypatch):
    """Also where files cannot be linked, as between file systems."""
    copy, copied = shutil.copyfile, []

    def stopping(source, target):
        if len(copied) == 400:
            raise KeyboardInterrupt
        copied.append(target)
        copy(source, target)

    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(18, "Invalid cross-device link")))
    monkeypatch.setattr(shutil, "copyfile", stopping)
    with pytest.raises(KeyboardInterrupt):
        make_fer_c.main(build_args(out=shards / "Demo-C", merge=True))
    assert not (shards / "Demo-C").exists()
    monkeypatch.setattr(shutil, "copyfile", copy)
    make_fer_c.main(build_args(out=shards / "Demo-C", merge=True))
    assert sums(shards / "Demo-C") == sums(built)


@pytest.mark.slow
def test_a_merge_that_died_while_removing_shards_is_tidied(built, build_args, shards, capsys):
    shutil.copytree(built, shards / "Demo-C")
    (shards / "Demo-C.shard-1-of-2/build.json").unlink()
    (shards / "Demo-C.shard-3-of-4").mkdir()
    (shards / "Demo-C.shard-3-of-4/build.json").write_text("{}")  # of another set
    make_fer_c.main(build_args(out=shards / "Demo-C", merge=True))
    assert "already built" in capsys.readouterr().out
    assert sorted(path.name for path in shards.iterdir()) == ["Demo-C", "Demo-C.shard-3-of-4"]


@pytest.mark.slow
def test_a_shard_goes_on_and_is_not_built_twice(build_args, tmp_path, monkeypatch, capsys):
    make, chunks = make_chunk, []

    def counting(job, chunk):
        chunks.append(chunk[0])
        if len(chunks) == 2:
            raise KeyboardInterrupt
        make(job, chunk)

    monkeypatch.setattr(build, "make_chunk", counting)
    with pytest.raises(KeyboardInterrupt):
        make_fer_c.main(build_args(out=tmp_path / "x", shard="1/2"))
    make_fer_c.main(build_args(out=tmp_path / "x", shard="1/2"))
    make_fer_c.main(build_args(out=tmp_path / "x", shard="1/2"))
    assert chunks == [0, 2, 2] and "is already built" in capsys.readouterr().out
    with pytest.raises(UserError, match="shard-1-of-2 was made with other settings .*seed"):
        make_fer_c.main(build_args(out=tmp_path / "x", shard="1/2", seed=3))


@pytest.mark.parametrize("changes, message", [
    (dict(shard="0/2"), "i from 1 to n"), (dict(shard="3/2"), "i from 1 to n"), (dict(shard="half"), "--shard takes"),
    (dict(shard="1/2", merge=True), "nothing else"), (dict(shard="1/2", verify=True), "nothing else"),
    (dict(merge=True), "no shards"),
])
def test_nonsense_about_shards_is_refused(build_args, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        make_fer_c.main(build_args(out=tmp_path / "x", **changes))
    assert not list(tmp_path.iterdir())


# ---- what it would cost

def test_dry_run_counts_and_writes_nothing(built, build_args, demo_root, tmp_path, capsys):
    before = sorted(demo_root.rglob("*"))

    def estimated(**changes):
        make_fer_c.main(build_args(out=tmp_path / "deep/x", dry_run=True, **changes))
        line = capsys.readouterr().out
        assert not list(tmp_path.iterdir()) and sorted(demo_root.rglob("*")) == before
        return int(re.search(r": (\d+) images x 85 forms", line)[1]), float(re.search(r"about (\S+) GB", line)[1]) * 1e9

    count, size = estimated()
    real = sum(path.stat().st_size for path in built.rglob("*") if path.is_file())
    assert count == 16 and 0.8 < size / real < 1.25
    assert estimated(shard="1/4")[0] == 4 and estimated(limit=3)[0] == 3
    assert estimated(images=False)[1] < size / 10 and estimated(format="jpg", quality=20)[1] < size / 2


def test_dry_run_says_when_the_disk_is_too_small(build_args, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 90, 10))
    make_fer_c.main(build_args(out=tmp_path / "x", dry_run=True))
    assert f"are free in {tmp_path}: TOO LITTLE" in capsys.readouterr().out


# ---- faults of machines

def command(demo_root, out, size=SIZE, workers=2):
    line = [sys.executable, "make_fer_c.py", "--dataset", "demo", "--root", demo_root, "--out", out,
            "--image-size", size, "--workers", workers]
    for option in OPTIONS:
        line += ["--data", option]
    return list(map(str, line))


@contextmanager
def small_disk(folder, options):
    """A file system in memory. Skips the test where nobody may mount one."""
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("mounting needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.slow
def test_a_disk_that_is_really_full(built, build_args, tmp_path):
    with small_disk(tmp_path / "disk", "size=3m") as disk:
        with pytest.raises(UserError, match="cannot write .*No space left on device; what is done is kept in "):
            make_fer_c.main(build_args(out=disk / "Demo-C", workers=2))
        assert not (disk / "Demo-C").exists()
        with pytest.raises(UserError, match="is not finished"):
            open_built_set(disk / "Demo-C")
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        make_fer_c.main(build_args(out=disk / "Demo-C", workers=2))
        assert sums(disk / "Demo-C") == sums(built)
        make_fer_c.main(build_args(out=disk / "Demo-C", verify=True))


@pytest.mark.parametrize("table", mostly_slow(["soft_labels.npy", "checksums.sha256", "manifest.json"], fast=[]))
def test_a_disk_that_is_full_at_the_end(built, build_args, tmp_path, monkeypatch, table):
    write = write_whole

    def full(path, *rest):
        if Path(path).name == table:
            raise OSError(28, "No space left on device", str(path))
        write(path, *rest)

    for module in ("support.files", "building.tables", "building.checksums"):
        monkeypatch.setattr(f"{module}.write_whole", full)
    with pytest.raises(UserError, match=f"cannot write .*{table}: No space left on device"):
        make_fer_c.main(build_args(out=tmp_path / "x", limit=2))
    assert not (tmp_path / "x").exists()
    for module in ("support.files", "building.tables", "building.checksums"):
        monkeypatch.setattr(f"{module}.write_whole", write)
    make_fer_c.main(build_args(out=tmp_path / "x", limit=2))
    make_fer_c.main(build_args(out=tmp_path / "x", limit=2, verify=True))


def test_a_read_only_target(build_args, tmp_path):
    with small_disk(tmp_path / "disk", "ro") as disk:
        for changes in (dict(), dict(shard="1/2")):
            with pytest.raises(UserError, match="cannot write .*disk/Demo-C.*partial: Read-only file system"):
                make_fer_c.main(build_args(out=disk / "Demo-C", **changes))
        make_fer_c.main(build_args(out=disk / "Demo-C", dry_run=True))


def test_a_source_that_changes_during_the_build(demo_root, build_args, tmp_path, monkeypatch):
    root, make = tmp_path / "demo", make_chunk
    shutil.copytree(demo_root, root)
    victim = sorted(root.rglob("test-*.png"))[0]

    def changing(job, chunk):
        Image.new("RGB", (224, 224)).save(victim)
        make(job, chunk)

    monkeypatch.setattr(build, "make_chunk", changing)
    with pytest.raises(UserError, match=f"{victim.name} has changed since the build began"):
        make_fer_c.main(build_args(root=root, out=tmp_path / "x"))
    assert not (tmp_path / "x").exists() and not list((tmp_path / "x.partial/journal").iterdir())


@pytest.mark.slow
def test_clocks_do_not_matter(built, build_args, tmp_path, monkeypatch):
    """Interrupted, then gone on with when the clock stands in 1970 and every file seems to be of the year 2100."""
    make, chunks = make_chunk, []

    def stopping(job, chunk):
        if len(chunks) == 2:
            raise KeyboardInterrupt
        make(job, chunk)
        chunks.append(chunk[0])

    monkeypatch.setattr(build, "make_chunk", stopping)
    with pytest.raises(KeyboardInterrupt):
        make_fer_c.main(build_args(out=tmp_path / "Demo-C"))
    for path in (tmp_path / "Demo-C.partial").rglob("*"):
        os.utime(path, (4102444800, 4102444800))
    monkeypatch.setattr(build, "make_chunk", lambda job, chunk: (chunks.append(chunk[0]), make(job, chunk)))
    monkeypatch.setattr(time, "time", iter(range(10**6, 0, -1)).__next__)  # it even runs backwards
    make_fer_c.main(build_args(out=tmp_path / "Demo-C"))
    assert chunks == [0, 1, 2, 3] and sums(tmp_path / "Demo-C") == sums(built)


def children(pid):
    """{pid: command line} of a process's children."""
    processes = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            if stat.read_text().rpartition(") ")[2].split()[1] == str(pid):
                processes[int(stat.parent.name)] = (stat.parent / "cmdline").read_text()
        except OSError:
            continue
    return processes


def die(job, chunk):
    """Stands in for make_chunk in a worker process."""
    make_chunk(job, chunk)
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow  # the fast suite has one that is killed
def test_a_worker_that_dies(built, build_args, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(build, "make_chunk", die)
        with pytest.raises(UserError, match="a worker process died .* what is done is kept in .*Demo-C.partial"):
            make_fer_c.main(build_args(out=tmp_path / "Demo-C", workers=2))
    assert not (tmp_path / "Demo-C").exists() and list((tmp_path / "Demo-C.partial/journal").iterdir())
    make_fer_c.main(build_args(out=tmp_path / "Demo-C"))
    assert sums(tmp_path / "Demo-C") == sums(built)


@pytest.mark.slow
def test_a_worker_that_is_killed(built, demo_root, tmp_path):
    out = tmp_path / "Demo-C"
    process = subprocess.Popen(command(demo_root, out), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                               text=True)
    while not list(tmp_path.glob("*.partial/journal/*")):
        assert process.poll() is None
        time.sleep(0.02)
    workers = [worker for child in children(process.pid) for worker in children(child)]
    os.kill(workers[0], signal.SIGKILL)
    errors = [line for line in process.communicate()[1].splitlines() if line.startswith("error: ")]
    assert process.returncode == 2 and len(errors) == 1
    assert re.search("a worker process died .* what is done is kept in .*Demo-C.partial: start again", errors[0])
    assert not out.exists()
    assert subprocess.run(command(demo_root, out), cwd=ROOT, capture_output=True).returncode == 0
    assert sums(out) == sums(built)


@pytest.mark.slow
def test_two_builds_started_at_once(built, demo_root, tmp_path):
    """One builds; the other is refused, or comes late and finds the set."""
    out = tmp_path / "Demo-C"
    both = [subprocess.Popen(command(demo_root, out, workers=1), cwd=ROOT, text=True, stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE) for _ in range(2)]
    outputs = ["".join(process.communicate()) for process in both]
    codes = sorted(process.returncode for process in both)
    assert codes == [0, 2] and any("another process is building" in text for text in outputs) or (
        codes == [0, 0] and any("already built" in text for text in outputs)), outputs
    assert sums(out) == sums(built)


@pytest.mark.slow
def test_a_set_that_another_process_finished_meanwhile(built, build_args, tmp_path, monkeypatch, capsys):
    """Between this one's first look and its lock."""
    built_already, asked = report_if_built, []

    def late(plan, out):
        asked.append(out)
        if len(asked) == 2:
            shutil.copytree(built, out)
        return built_already(plan, out)

    for module in (state, build):
        monkeypatch.setattr(module, "report_if_built", late)
    make_fer_c.main(build_args(out=tmp_path / "Demo-C"))
    assert "is already built" in capsys.readouterr().out and sums(tmp_path / "Demo-C") == sums(built)
    assert [path.name for path in tmp_path.iterdir()] == ["Demo-C"]


@pytest.mark.slow
def test_twenty_kills(built, demo_root, tmp_path):
    """kill -9 of the whole group, twenty times, at moments drawn at random from the time that a build takes here."""
    out, rng, kills = tmp_path / "Demo-C", keyed_rng("kills"), 0
    began = time.monotonic()
    subprocess.run(command(demo_root, tmp_path / "undisturbed"), cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    seconds = time.monotonic() - began
    while kills < 20:
        process = subprocess.Popen(command(demo_root, out), cwd=ROOT, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL, start_new_session=True)
        try:
            process.wait(rng.uniform(0, seconds))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            kills += 1
        process.wait()
        if out.exists():
            verification.verify(out, 1)
            shutil.rmtree(out)
    assert subprocess.run(command(demo_root, out), cwd=ROOT, capture_output=True).returncode == 0
    assert sums(out) == sums(built)
