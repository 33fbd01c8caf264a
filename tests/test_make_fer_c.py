"""The build: what a set holds, the same bytes by every way to them, and clear refusals."""
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image

import make_fer_c
import soft_labels
from cli import UserError
from conftest import OPTIONS, SIZE
from corruptions import CORRUPTIONS, corrupt
from datasets import keyed_rng, load_split
from datasets.fer_c import CELLS, open_set
from datasets.images import read_image

ROOT = Path(__file__).parent.parent


def sums(folder):
    return (folder / "checksums.sha256").read_text()


def read(path):
    return cv2.imread(str(path))[..., ::-1]


# ---- what a set holds

def test_images_are_the_corruptions_of_the_clean_image(built, demo_root):
    data = open_set(built)
    split = load_split("demo", demo_root, "test", **dict(option.split("=") for option in OPTIONS))
    assert data.frame["id"].tolist() == split.frame["id"].tolist()
    clean = read_image(demo_root / split.frame["path"].iloc[3], SIZE)
    np.testing.assert_array_equal(read(data.image_path(3)), clean)
    for name, severity in CELLS[::7]:
        rng = keyed_rng(0, split.frame["id"].iloc[3], name, severity)
        np.testing.assert_array_equal(read(data.image_path(3, name, severity)), corrupt(clean, name, severity, rng))


def test_labels_recomputed_from_the_files(built, demo_root):
    """Everything from the images on disk and the training split, by the formulas of the benchmark."""
    data = open_set(built)
    train = load_split("demo", demo_root, "train", **dict(option.split("=") for option in OPTIONS)).frame
    gmm = soft_labels.fit_gmm(train[["valence", "arousal"]].to_numpy(), train["expression"].to_numpy(), 8)
    posterior = gmm.posterior(data.frame[["valence", "arousal"]].to_numpy())
    label = 0.5 * np.eye(8)[data.frame["expression"]] + 0.5 * posterior
    np.testing.assert_allclose(data.label, label, atol=1e-12)
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
    out, write, written = tmp_path / "Demo-C", make_fer_c.write_image, []

    def stopping(*arguments):
        if len(written) == 500:
            raise KeyboardInterrupt
        written.append(arguments[1])
        return write(*arguments)

    monkeypatch.setattr(make_fer_c, "write_image", stopping)
    with pytest.raises(KeyboardInterrupt):
        make_fer_c.main(build_args(out=out))
    assert not out.exists()
    with pytest.raises(UserError, match="is not finished .*Demo-C.partial.*start it again"):
        open_set(out)
    assert len(list((tmp_path / "Demo-C.partial/journal").iterdir())) == 1
    (tmp_path / "Demo-C.partial/set" / written[5]).write_bytes(b"torn")
    monkeypatch.setattr(make_fer_c, "write_image", write)
    make_fer_c.main(build_args(out=out))
    assert sums(out) == sums(built)
    assert not (tmp_path / "Demo-C.partial").exists()


def test_finished_chunks_are_not_made_again(build_args, tmp_path, monkeypatch):
    make, seen = make_fer_c.make_chunk, []

    def counting(recipe, chunk):
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(chunk[0])
        return make(recipe, chunk)

    monkeypatch.setattr(make_fer_c, "make_chunk", counting)
    with pytest.raises(KeyboardInterrupt):
        make_fer_c.main(build_args(out=tmp_path / "x"))
    monkeypatch.setattr(make_fer_c, "make_chunk", lambda recipe, chunk: (seen.append(chunk[0]), make(recipe, chunk)))
    make_fer_c.main(build_args(out=tmp_path / "x"))
    assert seen == [0, 1, 2, 3]


def test_kill_9_and_start_again(built, demo_root, tmp_path):
    out = tmp_path / "Demo-C"
    command = [sys.executable, "make_fer_c.py", "--dataset", "demo", "--root", str(demo_root), "--out", str(out),
               "--image-size", str(SIZE), "--workers", "2"]
    for option in OPTIONS:
        command += ["--data", option]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                               start_new_session=True)
    give_up = time.monotonic() + 120
    while process.poll() is None and not list(tmp_path.glob("*.partial/set/images/*/*/*")):
        assert time.monotonic() < give_up
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert sums(out) == sums(built)


def test_limit_keeps_the_worst_difference_and_the_pixels(built, build_args, tmp_path):
    make_fer_c.main(build_args(out=tmp_path / "few", limit=3))
    whole, few = open_set(built), open_set(tmp_path / "few")
    assert few.manifest["worst"] == whole.manifest["worst"]
    assert few.frame["id"].tolist() == whole.frame["id"].iloc[[0, 8, 15]].tolist()  # evenly spaced
    np.testing.assert_array_equal(few.soft_labels[:, :, 2], whole.soft_labels[:, :, 15])
    assert few.image_path(1, "snow", 3).read_bytes() == whole.image_path(8, "snow", 3).read_bytes()
    assert few.manifest["set_version"] != whole.manifest["set_version"]


# ---- settings

def test_settings_change_what_they_say(built, build_args, tmp_path):
    changes = dict(seed=1, beta=0.75, exponent=1, visibility="ssim", corruptions="imagenet-c", visibility_per="mean",
                   format="jpg")
    versions = {open_set(built).manifest["set_version"]}
    for name, value in changes.items():
        make_fer_c.main(build_args(out=tmp_path / name, limit=2, **{name: value}))
        versions.add(open_set(tmp_path / name).manifest["set_version"])
    assert len(versions) == 1 + len(changes)
    per_mean = np.load(tmp_path / "visibility_per/visibility.npy")
    assert (per_mean[..., 0] == per_mean[..., 1]).all()
    assert (tmp_path / "format/images/snow/1").is_dir() and list((tmp_path / "format/clean").glob("*.jpg"))
    make_fer_c.main(build_args(out=tmp_path / "webp", limit=1, format="webp"))
    assert len(list((tmp_path / "webp").rglob("*.webp"))) == 86


def test_protocol_and_recipe_fill_in_what_is_not_typed():
    def settled(line):
        return make_fer_c.cli.parse(make_fer_c.Args, make_fer_c.settle, line.split())

    assert settled("--dataset ferplus").image_size == 224 and settled("--dataset demo").image_size == 48
    assert settled("--dataset demo --image-size 64").image_size == 64
    released = settled("--dataset ferplus --protocol released --data a=1 --data b=2")
    assert (released.corruptions, released.visibility, released.data) == ("fer-c-released", "l2-uint8", ("a=1", "b=2"))
    assert settled("--dataset ferplus --protocol released --visibility psnr").visibility == "psnr"
    legacy = settled("--dataset affectnet --protocol released --data classes=7")
    assert make_fer_c.parse_options(legacy.data) == {"crop": "legacy", "classes": "7"}


def test_other_settings_on_a_set_are_refused(built, build_args, capsys):
    before = sums(built)
    with pytest.raises(UserError, match="other settings .*seed: 0 there, 1 asked for"):
        make_fer_c.main(build_args(out=built, seed=1))
    with pytest.raises(UserError, match="beta"):
        make_fer_c.main(build_args(out=built, beta=0.6))
    make_fer_c.main(build_args(out=built))
    assert "already built" in capsys.readouterr().out and sums(built) == before


def test_other_settings_on_an_unfinished_set_are_refused(build_args, tmp_path, monkeypatch):
    monkeypatch.setattr(make_fer_c, "make_chunk", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
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


def test_mixture_of_another_set(built, build_args, tmp_path, monkeypatch, capsys):
    """Handed over by file: classes are matched by name; without it a set that should take another's says so."""
    stored = json.loads((built / "gmm.json").read_text())
    assert stored["classes"] == list(open_set(built).classes)
    order = [3, 1, 0, 2, 4, 5, 6, 7]
    shuffled = {name: [values[k] for k in order] for name, values in stored.items()}
    (tmp_path / "gmm.json").write_text(json.dumps(shuffled))
    make_fer_c.main(build_args(out=tmp_path / "same", gmm=tmp_path / "gmm.json", limit=4))
    make_fer_c.main(build_args(out=tmp_path / "own", limit=4))
    np.testing.assert_allclose(open_set(tmp_path / "same").label, open_set(tmp_path / "own").label, atol=1e-9)
    assert "given, sha256" in open_set(tmp_path / "same").manifest["notes"]["mixture"]
    capsys.readouterr()
    monkeypatch.setattr(make_fer_c, "GMM_FROM", {"demo": "ferplus"})
    make_fer_c.main(build_args(out=tmp_path / "loud", limit=4))
    assert "warning: FER-C labels demo with the mixture of ferplus" in capsys.readouterr().err
    assert "although FER-C takes that of ferplus" in open_set(tmp_path / "loud").manifest["notes"]["mixture"]


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


def test_unreadable_source_is_skipped_on_request(demo_root, build_args, tmp_path):
    root, victim = broken_root(demo_root, tmp_path)
    make_fer_c.main(build_args(root=root, out=tmp_path / "x", skip_bad=True))
    data = open_set(tmp_path / "x")
    assert len(data.frame) == 15 and victim.stem not in set(data.frame["id"])
    assert data.manifest["notes"]["unreadable, skipped"] == [victim.stem]


def test_a_source_that_changes_between_starts_is_refused(demo_root, build_args, tmp_path, monkeypatch):
    root = tmp_path / "demo"
    shutil.copytree(demo_root, root)
    make = make_fer_c.make_chunk
    monkeypatch.setattr(make_fer_c, "make_chunk", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        make_fer_c.main(build_args(root=root, out=tmp_path / "x"))
    monkeypatch.setattr(make_fer_c, "make_chunk", make)
    Image.new("RGB", (224, 224)).save(sorted(root.rglob("test-*.png"))[0])
    with pytest.raises(UserError, match="sources"):
        make_fer_c.main(build_args(root=root, out=tmp_path / "x"))


def test_a_second_build_in_the_same_folder_is_refused(build_args, tmp_path):
    with make_fer_c.cli.lock(tmp_path / "x.partial", "building"):
        with pytest.raises(UserError, match="another process is building .*x.partial"):
            make_fer_c.main(build_args(out=tmp_path / "x"))


def test_what_a_killed_build_left_half_written_is_removed(built, build_args, tmp_path, monkeypatch):
    """A kill while a table is written, and one between the last rename and the clean-up."""
    out, finish = tmp_path / "Demo-C", make_fer_c.finish

    def die(plan, work, *rest):
        finish(plan, work, *rest)
        (work / "set/.soft_labels.npy.1234.tmp").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(make_fer_c, "finish", die)
    with pytest.raises(KeyboardInterrupt):
        make_fer_c.main(build_args(out=out))
    monkeypatch.setattr(make_fer_c, "finish", finish)
    make_fer_c.main(build_args(out=out))
    make_fer_c.main(build_args(out=out, verify=True))
    assert sums(out) == sums(built)
    (tmp_path / "Demo-C.partial").mkdir()
    make_fer_c.main(build_args(out=out))
    assert not (tmp_path / "Demo-C.partial").exists()


@pytest.mark.slow
def test_workers_go_with_their_builder(demo_root, tmp_path):
    command = [sys.executable, "make_fer_c.py", "--dataset", "demo", "--root", str(demo_root), "--image-size", "128",
               "--out", str(tmp_path / "x"), "--workers", "2"]
    for option in OPTIONS:
        command += ["--data", option]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
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


def test_a_full_disk_is_one_line_and_resumable(built, build_args, tmp_path, monkeypatch):
    write, count = make_fer_c.write_image, []

    def full(*arguments):
        count.append(1)
        if len(count) > 400:
            raise OSError(28, "No space left on device", "somewhere.png")
        return write(*arguments)

    monkeypatch.setattr(make_fer_c, "write_image", full)
    with pytest.raises(UserError, match="cannot write somewhere.png: No space left on device; what is done is kept"):
        make_fer_c.main(build_args(out=tmp_path / "x"))
    monkeypatch.setattr(make_fer_c, "write_image", write)
    make_fer_c.main(build_args(out=tmp_path / "x"))
    assert sums(tmp_path / "x") == sums(built)


def test_verify_names_what_is_wrong(built, build_args, tmp_path, capsys):
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
    for what, path in (("missing", files[0]), ("changed", files[1]), ("extra", out / "images/snow/notes.txt")):
        assert f"{what}: {path.relative_to(out)}" in printed
    shutil.copytree(built, tmp_path / "forged")  # a changed file whose new checksum was filled in
    image = next((tmp_path / "forged").rglob("*.png"))
    image.write_bytes(files[2].read_bytes())
    lines = sums(tmp_path / "forged").splitlines()
    name = str(image.relative_to(tmp_path / "forged"))
    new = make_fer_c.hashlib.sha256(image.read_bytes()).hexdigest()
    (tmp_path / "forged/checksums.sha256").write_text(
        "\n".join(f"{new}  {name}" if line.endswith(name) else line for line in lines) + "\n")
    with pytest.raises(UserError, match="not as built"):
        make_fer_c.main(build_args(out=tmp_path / "forged", verify=True))


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
            open_set(out)


def test_gallery(built, build_args, tmp_path):
    make_fer_c.main(build_args(out=built, gallery=tmp_path / "figure/gallery.png"))
    with Image.open(tmp_path / "figure/gallery.png") as image:
        assert image.width > 800 and len(image.convert("RGB").getcolors(10**7)) > 1000


def test_sets_without_valence_and_arousal_take_the_annotators_labels(tmp_path):
    from test_datasets import write_ferplus

    root = write_ferplus(tmp_path / "ferplus")
    make_fer_c.main(make_fer_c.Args("ferplus", root=root, out=tmp_path / "x", image_size=SIZE, workers=1))
    data = open_set(tmp_path / "x")
    np.testing.assert_allclose(data.label[0], [0.5, 0, 0, 0.5, 0, 0, 0, 0])
    assert not (tmp_path / "x/gmm.json").exists()
