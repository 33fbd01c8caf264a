"""Built sets are not trusted: what changed after the build, what a shard says, where a set may go, what is removed."""
import dataclasses
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import make_fer_c
import soft_labels
from building import build, forms as building_forms, plan, verification, worker
from building.built_set import open_built_set
from building.checksums import image_hashes, read_checksums, seal
from building.forms import make_form
from building.integrity import digest, sha256
from building.layout import TABLES
from building.manifest import set_version
from building.options import command, rebuild_command
from building.plan import make_plan
from building.shards import shard_folder
from building.tables import read_labels
from corruptions import CELLS
from datasets import fused
from datasets.images import read_image
from make_fer_c import Args, fill_defaults
from support.errors import DamagedFile, UserError
from cases import mostly_slow
from conftest import SIZE
from sealing import reseal
from test_make_fer_c import small_disk

ROOT = Path(__file__).parent.parent
CASES = ("manifest.json", "labels.csv", "soft_labels.npy", "visibility.npy", "visibility_mean.csv", "gmm.json")


def sums(folder):
    return (folder / "checksums.sha256").read_text()


@pytest.fixture
def copy(built, tmp_path):
    return Path(shutil.copytree(built, tmp_path / "copy/Demo-C"))


@pytest.fixture
def tables(built, tmp_path):
    """All but the images, which opening does not read."""
    folder = tmp_path / "tables/Demo-C"
    folder.mkdir(parents=True)
    for path in built.iterdir():
        if path.is_file():
            shutil.copy(path, folder)
    return folder


@pytest.fixture(scope="module")
def few(build_args, tmp_path_factory):
    """Two images of a set in two shards, whose D_worst is estimated on all 16: (folder, arguments)."""
    folder = tmp_path_factory.mktemp("few")
    for i in (1, 2):
        make_fer_c.main(build_args(out=folder / "Demo-C", limit=2, shard=f"{i}/2"))
    return folder


@pytest.fixture(scope="module")
def few_whole(build_args, tmp_path_factory):
    out = tmp_path_factory.mktemp("few_whole") / "Demo-C"
    make_fer_c.main(build_args(out=out, limit=2))
    return out


# ---- opening

@pytest.mark.parametrize("name", CASES)
def test_a_table_that_changed_is_refused(tables, name):
    """One digit or byte, so that everything still parses."""
    path = tables / name
    data = path.read_bytes()
    if name.endswith(".npy"):
        changed = data[:-2] + bytes([data[-2] ^ 1]) + data[-1:]
    else:
        place = max(data.rfind(digit) for digit in (b"1", b"2", b"3"))
        changed = data[:place] + b"4" + data[place + 1:]
    path.write_bytes(changed)
    with pytest.raises(DamagedFile, match=rf"{name} .*damaged .*make_fer_c.py --dataset demo --out .*Demo-C"):
        open_built_set(tables)


def test_a_list_of_checksums_that_changed_is_refused(tables):
    path = tables / "checksums.sha256"
    lines = path.read_text().splitlines(keepends=True)
    dropped, swapped = lines[:40] + lines[41:], [lines[1], lines[0], *lines[2:]]
    for changed in (dropped, swapped, ["0" * 64 + lines[9][64:] if i == 9 else line for i, line in enumerate(lines)],
                    [*lines[:5], "0" * 64 + "  ../../x\n", *lines[5:]], [], ["\xff\n"], lines[:-1] + [lines[-1][:-1]]):
        path.write_text("".join(changed), encoding="latin-1")
        with pytest.raises(DamagedFile, match="checksums.sha256"):
            open_built_set(tables)
    path.unlink()
    with pytest.raises(DamagedFile, match="checksums.sha256: No such file"):
        open_built_set(tables)
    os.mkfifo(path)
    with pytest.raises(DamagedFile, match="no regular file"):
        open_built_set(tables)


def test_an_image_that_changed_is_refused_when_it_is_read(copy):
    data = open_built_set(copy)
    assert data.verify and data.hashes.shape == (86, 16, 32) and data.hashes.dtype == np.uint8
    other, victim, clean = data.image_path(2, "snow", 3), data.image_path(1, "snow", 3), data.image_path(1)
    right = data.pixels(1, "snow", 3)
    victim.write_bytes(other.read_bytes())
    clean.write_bytes(data.image_path(2).read_bytes())
    for read in (lambda: data.pixels(1), lambda: data.pixels(1, "snow", 3),
                 lambda: data.pixels(1, "contrast", 2, in_memory=True)):
        with pytest.raises(DamagedFile, match=r"is not the file that was built .*make_fer_c.py --dataset demo"):
            read()
    unchecked = open_built_set(copy, verify=False)
    assert not unchecked.verify and not np.array_equal(unchecked.pixels(1, "snow", 3), right)
    victim.unlink()
    with pytest.raises(DamagedFile, match=f"{victim.name}: No such file"):
        data.pixels(1, "snow", 3)
    victim.write_bytes(b"GIF89a")
    with pytest.raises(DamagedFile, match=f"{victim.name} is no readable image"):
        unchecked.pixels(1, "snow", 3)


def test_pixels_are_those_of_the_files_and_of_memory(built):
    data = open_built_set(built)
    for i in (0, 7, 15):
        for cell in ((), *CELLS[3::16]):
            np.testing.assert_array_equal(data.pixels(i, *cell), read_image(data.image_path(i, *cell), SIZE))
            np.testing.assert_array_equal(data.pixels(i, *cell), data.pixels(i, *cell, in_memory=True))


def read_in_worker(data):
    return data.pixels(3, "spatter", 2)


@pytest.mark.slow
def test_sets_travel_to_worker_processes(built):
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    data = open_built_set(built)
    with ProcessPoolExecutor(1, multiprocessing.get_context("forkserver")) as pool:
        np.testing.assert_array_equal(pool.submit(read_in_worker, data).result(), read_in_worker(data))


def test_derived_values_are_recomputed(tables):
    """Also where every hash fits."""
    reseal(tables)
    open_built_set(tables)
    good = {name: (tables / name).read_bytes() for name in (*CASES, "checksums.sha256")}

    def refused(message, change=None, **changed):
        for name, data in changed.items():
            (tables / name.replace("_npy", ".npy").replace("_csv", ".csv")).write_bytes(data)
        reseal(tables, change)
        with pytest.raises(DamagedFile, match=message):
            open_built_set(tables)
        for name, data in good.items():
            (tables / name).write_bytes(data)

    refused("set_version does not follow", lambda m: m.update(set_version="0" * 64))
    refused("set_version does not follow", lambda m: m.update(
        set_version=set_version(m["made_with"] | {"seed": 5})))
    refused("rows", lambda m: m["made_with"].update(images=15))
    rows = good["labels.csv"].decode().splitlines(keepends=True)
    refused("ids are not those of the manifest", labels_csv="".join([rows[0], *rows[:0:-1]]).encode())
    refused("expression", labels_csv=re.sub(rb"(\.png),\d,", rb"\1,9,", good["labels.csv"]))
    table = np.load(tables / "soft_labels.npy")
    (tables / "soft_labels.npy").unlink()
    table[3, 2, 1] = np.nan
    np.save(tables / "soft_labels.npy", table)
    refused("soft_labels.npy is damaged .motion|soft_labels.npy is damaged .speckle_noise 3")
    table = np.load(tables / "visibility.npy") + np.float32(1)
    np.save(tables / "visibility.npy", table)
    refused("visibility.npy is damaged .*between 0 and 1")
    np.save(tables / "soft_labels.npy", np.load(tables / "soft_labels.npy").astype(np.float64))
    refused("float64, not float32")


@pytest.mark.parametrize("key, value", [
    ("classes", "Neutral"), ("classes", []), ("classes", [1, 2]), ("counts", []), ("content", 5), ("title", None),
    ("worst", {}), ("software", {"numpy": 1}), ("made_with", "x"), ("made_with.size", "32"), ("made_with.size", 10**9),
    ("made_with.images", -1), ("made_with.softening", {}), ("made_with.softening.exponent", True),
    ("made_with.constants", {}), ("made_with.constants.snow", [{}]), ("made_with.preset", None),
    ("made_with.quality", "high"), ("made_with.options", {"a": []}), ("made_with.dataset", "../x"),
    ("made_with.image_format", "exe"), ("unchanged", "all"), ("unchanged", [5]),
])
def test_manifests_of_wrong_types_are_one_line(tables, key, value):
    manifest = json.loads((tables / "manifest.json").read_text())
    holder, (*path, last) = manifest, key.split(".")
    for name in path:
        holder = holder[name]
    for change in (lambda: holder.update({last: value}), lambda: holder.pop(last)):
        change()
        (tables / "manifest.json").write_text(json.dumps(manifest))
        for verify in (True, False):
            with pytest.raises(UserError, match=r"manifest.json is damaged|unchanged|hash differs") as caught:
                open_built_set(tables, verify=verify or (last == "unchanged" and last not in holder))
            assert "\n" not in str(caught.value) and "{" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"[]", b"[" * 100_000, b"\xff\x00", b"{}", b'{"a": NaN}',
                                     b'{"made_with": {}}'])
def test_manifests_that_are_none(tables, content):
    (tables / "manifest.json").write_bytes(content)
    with pytest.raises(DamagedFile, match="manifest.json is damaged .*make_fer_c.py --dataset NAME --out"):
        open_built_set(tables)


@pytest.mark.slow
def test_the_list_of_a_large_set_is_read(tmp_path):
    """344,000 lines, as AffectNet's: every hash at its place."""
    ids = [f"image{i:05}" for i in range(4000)]
    data = np.random.default_rng(0).integers(0, 256, (86, 4000, 32), dtype=np.uint8)
    sums = {name: data[:, i].tobytes() for i, name in enumerate(ids)}
    for name in TABLES[:4]:
        (tmp_path / name).write_text(name)
    made_with = {"preset": "fer-c", "image_format": "png"}
    seal(tmp_path, {"made_with": made_with}, sums)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    np.testing.assert_array_equal(image_hashes(read_checksums(tmp_path, manifest), ids, made_with), data)


def test_ids_that_look_like_missing_values(built, tmp_path):
    manifest = json.loads((built / "manifest.json").read_text())
    table = (built / "labels.csv").read_text().splitlines()
    names = [line.partition(",")[0] for line in table[1:]]
    new = ["NA", "nan", "null", "None", *names[4:]]
    (tmp_path / "labels.csv").write_text("\n".join(
        [table[0], *(f"{name},{line.partition(',')[2]}" for name, line in zip(new, table[1:], strict=True))]) + "\n")
    manifest["made_with"]["ids"] = digest(new)
    assert read_labels(tmp_path / "labels.csv", manifest)[0]["id"].tolist() == new


def test_names_in_checksums_stay_in_the_set(tables):
    for name in ("../x", "/etc/passwd", "a/../../x", "", "clean//x"):
        text = sums(tables)
        (tables / "checksums.sha256").write_text(f"{'0' * 64}  {name}\n{text}")
        with pytest.raises(DamagedFile, match="line 1 of checksums.sha256"):
            verification.verify(tables, 1)
        (tables / "checksums.sha256").write_text(text)


# ---- unchanged cells

def test_cells_that_equal_the_clean_image_are_counted(built, few_whole, build_args, tmp_path, capsys):
    """imagenet-c scales its lengths down: at 32 pixels some of its blurs do nothing. Counted before the encoder."""
    make_fer_c.main(build_args(out=tmp_path / "x", limit=2, corruptions="imagenet-c", format="jpg", quality=30))
    line = next(line for line in capsys.readouterr().out.splitlines() if "equal to their clean image" in line)
    data, expected = open_built_set(tmp_path / "x"), []
    for name, severity in CELLS:
        forms = [make_form(data.pixels(i), data.frame["id"].iloc[i], name, severity, data.made_with)
                 for i in range(2)]
        equal = np.mean([np.array_equal(form, data.pixels(i)) for i, form in enumerate(forms)])
        if equal > 0.5:
            expected.append({"corruption": name, "severity": severity, "fraction": equal})
            assert re.search(rf"{name} [\d, ]*{severity}", line)
    assert data.manifest["unchanged"] == expected
    assert line.startswith(f"in {len(expected)} of 85 ") and expected
    assert all("blur" not in cell["corruption"] or cell["corruption"] == "glass_blur"
               for cell in open_built_set(built).manifest["unchanged"])


# ---- shards are not trusted

def merge(build_args, folder, **changes):
    make_fer_c.main(build_args(out=folder / "Demo-C", limit=2, merge=True, **changes))


def change_journals(shard, change):
    for path in (shard / "journal").iterdir():
        values = json.loads(path.read_text())
        for entry in values["images"].values():
            change(entry)
        values["sha256"] = sha256(json.dumps(values["images"]).encode())
        path.write_text(json.dumps(values))


@pytest.mark.slow
def test_a_merge_measures_itself(build_args, few, few_whole, tmp_path):
    """Other differences in the journal, its hash filled in: other soft labels under the same version before."""
    folder = Path(shutil.copytree(few, tmp_path / "few"))
    for i in (1, 2):
        change_journals(shard_folder(folder / "Demo-C", i, 2), lambda entry: entry.update(
            difference=[value * 0.9 for value in entry["difference"]], unchanged=[0, 1]))
    merge(build_args, folder)
    assert sums(folder / "Demo-C") == sums(few_whole)


@pytest.mark.parametrize("change", mostly_slow([
    lambda entry: entry["sha256"].pop(), lambda entry: entry["difference"].pop(),
    lambda entry: entry["sha256"].append("0" * 64), lambda entry: entry.update(difference=["1"] * 85),
    lambda entry: entry.update(difference=[float("nan")] * 85), lambda entry: entry.update(difference=[-1] * 85),
    lambda entry: entry.update(difference=[1e9] * 85), lambda entry: entry.update(difference=[True] * 85),
    lambda entry: entry.update(sha256=[7] * 86), lambda entry: entry.update(sha256="x" * 86),
    lambda entry: entry.pop("unchanged"), lambda entry: entry.update(unchanged=[85]),
], fast=[0, 4, 8, 11]))
def test_journals_are_taken_strictly(build_args, few, tmp_path, change):
    folder = Path(shutil.copytree(few, tmp_path / "few"))
    change_journals(shard_folder(folder / "Demo-C", 1, 2), lambda entry: entry["sha256"] and change(entry))
    with pytest.raises(UserError, match=r"shard-1-of-2: journal.0.json is missing or not as built; remove .*--shard"):
        merge(build_args, folder)
    assert not (folder / "Demo-C").exists()


@pytest.mark.slow
def test_hashes_of_files_that_are_not_kept_are_recomputed(build_args, tmp_path):
    """--no-images: the journal's hashes are all there is of the corrupted images."""
    for i in (1, 2):
        make_fer_c.main(build_args(out=tmp_path / "Demo-C", limit=2, images=False, shard=f"{i}/2"))
    shard = shard_folder(tmp_path / "Demo-C", 1, 2)
    change_journals(shard, lambda entry: entry["sha256"] and entry["sha256"].__setitem__(7, "0" * 64))
    with pytest.raises(UserError, match="the hashes of the images of .* are not those of the images made here"):
        merge(build_args, tmp_path, images=False)


def test_a_clean_image_that_is_not_the_sources_is_refused(build_args, few, tmp_path):
    folder = Path(shutil.copytree(few, tmp_path / "few"))
    shard = shard_folder(folder / "Demo-C", 1, 2)
    path = next((shard / "set/clean").iterdir())
    before = path.read_bytes()
    data = building_forms.encode(np.zeros((SIZE, SIZE, 3), np.uint8), "png")
    path.write_bytes(data)

    def change(entry):
        if entry["sha256"] and entry["sha256"][0] == hashlib.sha256(before).hexdigest():
            entry["sha256"][0] = hashlib.sha256(data).hexdigest()

    change_journals(shard, change)
    with pytest.raises(UserError, match=f"clean/{path.name} is not the image that .* gives"):
        merge(build_args, folder)


# ---- work of the first release

@pytest.mark.slow
def test_a_set_of_the_first_release_opens(tmp_path, capsys):
    """tests/fixtures: demo, two images of 16 pixels, --no-images, made by commit d836569."""
    folder = Path(shutil.copytree(ROOT / "tests/fixtures/first_release", tmp_path / "old"))
    data = open_built_set(folder / "Demo-C")
    assert data.verify and len(data.frame) == 2 and "unchanged" not in data.manifest
    np.testing.assert_array_equal(data.pixels(1, "defocus_blur", 2), data.pixels(1))  # the constants it was made with
    verification.verify(folder / "Demo-C", 1)
    assert "files as built" in capsys.readouterr().out
    shard = folder / "begun.shard-1-of-2"
    args = Args("demo", data=("test=8", "train=128", "val=16"), image_size=16, limit=2, images=False,
                           workers=1, root=tmp_path / "demo", out=folder / "begun")
    for other in (args, dataclasses.replace(args, out=folder / "Demo-C"),
                  dataclasses.replace(args, shard="1/2")):
        if other is args:
            shutil.copytree(shard, folder / "begun.partial")
        with pytest.raises(UserError, match="The constants of preset fer-c at 16 pixels have changed since"):
            make_fer_c.main(other)


def as_first_release(folder):
    """The journals of an unfinished set or a shard as the first release wrote them."""
    for path in (folder / "journal").iterdir():
        entries = json.loads(path.read_text())["images"]
        for entry in entries.values():
            del entry["unchanged"]
        path.write_text(json.dumps(entries))


@pytest.mark.slow
def test_shards_of_the_first_release_merge(build_args, few, few_whole, tmp_path):
    folder = Path(shutil.copytree(few, tmp_path / "few"))
    for i in (1, 2):
        as_first_release(shard_folder(folder / "Demo-C", i, 2))
    merge(build_args, folder)
    assert sums(folder / "Demo-C") == sums(few_whole)


@pytest.mark.slow
def test_a_build_of_the_first_release_goes_on(build_args, few_whole, tmp_path, monkeypatch):
    """Its images are measured again, not made again."""
    monkeypatch.setattr(build, "finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        make_fer_c.main(build_args(out=tmp_path / "x", limit=2))
    monkeypatch.undo()
    as_first_release(tmp_path / "x.partial")
    made = []
    encode = worker.encode
    monkeypatch.setattr(worker, "encode", lambda *rest: made.append(rest) or encode(*rest))
    make_fer_c.main(build_args(out=tmp_path / "x", limit=2))
    assert sums(tmp_path / "x") == sums(few_whole) and not made


def test_constants_that_changed_are_explained(build_args, few_whole, tmp_path):
    """A set of the first release at 32 pixels: preset fer-c scaled its lengths down then."""
    folder = Path(shutil.copytree(few_whole, tmp_path / "Demo-C"))

    def change(manifest):
        for row in manifest["made_with"]["constants"]["defocus_blur"]:
            row["radius"] *= SIZE / 224

    reseal(folder, change)
    data = open_built_set(folder)
    with pytest.raises(UserError, match="the constants of defocus_blur.* have changed since .see CHANGELOG.md"):
        make_fer_c.main(build_args(out=folder, limit=2))
    form = data.pixels(0, "defocus_blur", 2, in_memory=True)
    np.testing.assert_array_equal(form, data.pixels(0))  # its own constants, not today's


# ---- mixtures and options

@pytest.mark.parametrize("change, reason", [
    (lambda gmm: gmm["covariances"].__setitem__(0, [[0, 0], [0, 0]]), "class Neutral has a singular covariance"),
    (lambda gmm: gmm["covariances"].__setitem__(0, [[-1, 0], [0, -1]]), "class Neutral .* not positive definite"),
    (lambda gmm: gmm["weights"].__setitem__(0, -1), "class Neutral has the weight -1"),
    (lambda gmm: gmm.update(weights=[float("nan")] * 8), "class Neutral has the weight nan"),
    (lambda gmm: gmm.update(classes=["Sad"] * 8), "it has no Neutral"),
    (lambda gmm: gmm.update(classes=None), "classes are not named"),
])
def test_mixtures_that_are_no_distributions(built, build_args, tmp_path, change, reason):
    gmm = json.loads((built / "gmm.json").read_text())
    change(gmm)
    (tmp_path / "gmm.json").write_text(json.dumps(gmm))
    with pytest.raises(UserError, match=f"--gmm .*gmm.json: no mixture of the classes Neutral.*{reason}"):
        make_fer_c.main(build_args(out=tmp_path / "x", gmm=tmp_path / "gmm.json"))
    assert not list(tmp_path.glob("x*"))


def test_mixtures_are_matched_by_any_name_of_a_class(built, tmp_path):
    gmm = json.loads((built / "gmm.json").read_text())
    gmm["classes"] = ["Happiness" if name == "Happy" else name.upper() for name in gmm["classes"]]
    (tmp_path / "gmm.json").write_text(json.dumps(gmm))
    classes = open_built_set(built).classes
    np.testing.assert_allclose(fused.read_gmm(tmp_path / "gmm.json", classes).means, gmm["means"])
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="no regular file"):
        fused.read_gmm(tmp_path / "pipe", classes)


@pytest.mark.parametrize("changes", [
    dict(exponent=float("inf")), dict(exponent=float("nan")), dict(beta=float("nan")), dict(beta=float("inf")),
    dict(image_size=10**6)])
def test_options_that_are_no_numbers(build_args, tmp_path, changes):
    with pytest.raises(UserError, match=f"--{next(iter(changes)).replace('_', '-')}"):
        make_fer_c.main(build_args(out=tmp_path / "x", **changes))
    assert not list(tmp_path.iterdir())


def test_nothing_is_sealed_whose_labels_are_no_distributions(build_args, few_whole, tmp_path, monkeypatch):
    soften = soft_labels.soften
    monkeypatch.setattr(soft_labels, "soften", lambda *rest: soften(*rest) * np.nan)
    with pytest.raises(UserError, match="no set is written: soft labels of gaussian_noise 1: a value is not a finite"):
        make_fer_c.main(build_args(out=tmp_path / "x", limit=2))
    assert not (tmp_path / "x").exists() and not (tmp_path / "x.partial/set/manifest.json").exists()


def test_an_exponent_has_one_set_version(build_args, demo_root):
    """2.0 comes from a command line, 2 is the default."""
    plans = [make_plan(build_args(exponent=value, limit=2)) for value in (2, 2.0)]
    assert plans[0].facts["set_version"] == plans[1].facts["set_version"]


# ---- where a set goes, and what is removed

@pytest.mark.slow
def test_foreign_files_stay(build_args, few, few_whole, tmp_path, capsys):
    folder = Path(shutil.copytree(few, tmp_path / "few"))
    shard = shard_folder(folder / "Demo-C", 2, 2)
    for name in ("notes.txt", "set/clean/holiday.png", "journal/diary.json", "mine/a.txt"):
        (shard / name).parent.mkdir(exist_ok=True)
        (shard / name).write_text("x")
    merge(build_args, folder)
    assert sums(folder / "Demo-C") == sums(few_whole)
    assert sorted(str(path.relative_to(shard)) for path in shard.rglob("*") if path.is_file()) == [
        "journal/diary.json", "mine/a.txt", "notes.txt", "set/clean/holiday.png"]
    assert "shard-2-of-2 stays: it holds" in capsys.readouterr().out
    assert not shard_folder(folder / "Demo-C", 1, 2).exists()
    merge(build_args, folder)  # tidies again
    assert (shard / "notes.txt").exists()


def test_a_partial_folder_of_somebody_else_is_refused_before_the_first_image(build_args, tmp_path):
    (tmp_path / "x.partial").mkdir()
    (tmp_path / "x.partial/thesis.tex").write_text("x")
    with pytest.raises(UserError, match="x.partial, where the set grows, holds thesis.tex, which"):
        make_fer_c.main(build_args(out=tmp_path / "x", limit=2))
    assert [path.name for path in (tmp_path / "x.partial").iterdir()] == ["thesis.tex"]


def test_a_partial_folder_next_to_a_finished_set(built, build_args, copy, capsys):
    partial = copy.with_name("Demo-C.partial")
    partial.mkdir()
    (partial / "notes.txt").write_text("x")
    make_fer_c.main(build_args(out=copy))
    assert (partial / "notes.txt").exists() and "notes.txt" in capsys.readouterr().out
    (partial / "build.json").write_text("{}")  # of something else: nothing is touched
    make_fer_c.main(build_args(out=copy))
    assert sorted(path.name for path in partial.iterdir()) == ["build.json", "notes.txt"]


def no_image(monkeypatch):
    def refuse(*_):
        raise AssertionError("work began")

    monkeypatch.setattr(plan, "make_plan", refuse)


def test_out_is_probed_before_the_first_image(build_args, tmp_path, monkeypatch):
    no_image(monkeypatch)
    (tmp_path / "file").write_text("x")
    (tmp_path / "y.partial").write_text("x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.tex").write_text("x")
    shutil.copytree(tmp_path / "full", tmp_path / "z.shard-1-of-2")
    os.symlink(tmp_path / "loop", tmp_path / "loop")
    os.symlink(tmp_path / "full", tmp_path / "v.partial")
    os.symlink(tmp_path / "full", tmp_path / "w.shard-1-of-2")
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.rglob("*"))
    cases = [
        (tmp_path / "file/below", "lies below .*file, which is a file"), (tmp_path / "file", "is a file"),
        (tmp_path / ("x" * 250), "File name too long"), (tmp_path / "y", "y.partial, where the set grows, is a file"),
        (tmp_path / "v", "v.partial, where the set grows, is a file or a link"), (tmp_path / "full", "is no FER-C set"),
        (tmp_path / "loop", "loop"), (Path("."), "is the current folder or"), (Path(".."), "or contains it"),
        (Path("/"), "mount point"), (tmp_path / "empty", "is the current folder or contains it"),
    ]
    monkeypatch.chdir(tmp_path / "empty")
    for out, message in cases:
        with pytest.raises(UserError, match=message):
            make_fer_c.main(build_args(out=out))
    for name, message in (("z", "z.shard-1-of-2 exists and is no FER-C set"), ("w", "w.shard-1-of-2 is a link")):
        with pytest.raises(UserError, match=message):
            make_fer_c.main(build_args(out=tmp_path / name, shard="1/2"))
    assert sorted(tmp_path.rglob("*")) == before


def test_a_mount_point_as_out(build_args, tmp_path, monkeypatch):
    no_image(monkeypatch)
    with small_disk(tmp_path / "disk", "size=1m") as disk:
        with pytest.raises(UserError, match="is a mount point, .* give a folder inside it, for example"):
            make_fer_c.main(build_args(out=disk))


@pytest.mark.slow
def test_a_link_as_out_is_followed(build_args, few_whole, tmp_path, capsys):
    (tmp_path / "big").mkdir()
    for target in ("big/Demo-C", "big/empty"):  # dangling, and an empty folder
        os.symlink(tmp_path / target, tmp_path / "Demo-C")
        if target == "big/empty":
            (tmp_path / target).mkdir()
        make_fer_c.main(build_args(out=tmp_path / "Demo-C", limit=2))
        assert "is a link to" in capsys.readouterr().out
        assert sums(tmp_path / target) == sums(few_whole) == sums(tmp_path / "Demo-C")
        make_fer_c.main(build_args(out=tmp_path / "Demo-C", limit=2))
        assert "already built" in capsys.readouterr().out
        (tmp_path / "Demo-C").unlink()


# ---- what messages say

def test_commands_in_messages_work(build_args, few_whole, tmp_path):
    args = build_args(out=tmp_path / "a b", limit=2, images=False, seed=3, exponent=1.5, protocol="released",
                      corruptions="fer-c-released", visibility="l2-uint8")
    words = shlex.split(command(args, workers=2))
    assert words[0] == "make_fer_c.py" and "--dataset" in words and "--no-images" in words
    parsed = make_fer_c.cli.parse(Args, fill_defaults, words[1:])
    assert parsed == dataclasses.replace(args, workers=2)
    made = open_built_set(few_whole).made_with
    parsed = make_fer_c.cli.parse(Args, fill_defaults,
                                 shlex.split(rebuild_command(few_whole, made))[1:])
    root = build_args().root
    assert make_plan(dataclasses.replace(parsed, root=root)).made_with == made


def test_differences_are_in_words(build_args, few_whole):
    with pytest.raises(UserError) as caught:
        make_fer_c.main(build_args(out=few_whole, limit=3, corruptions="imagenet-c", format="jpg", beta=0.25))
    text = str(caught.value)
    assert "image_format: png there, jpg asked for" in text and "beta: 0.5 there, 0.25 asked for" in text
    assert "quality: none there, 95 asked for" in text and "the images; the labels before softening" in text
    assert "the constants of gaussian_noise, shot_noise, impulse_noise and " in text and "{" not in text


def test_an_unfinished_set_names_the_command(few, tmp_path):
    shutil.copytree(shard_folder(few / "Demo-C", 1, 2), tmp_path / "x.partial")
    with pytest.raises(UserError, match=r"start it again with its options, make_fer_c.py --dataset demo --out .*x"):
        open_built_set(tmp_path / "x")
    with pytest.raises(UserError, match=r"no manifest.json. Build it with make_fer_c.py --dataset NAME --out"):
        open_built_set(tmp_path / "y")


@pytest.mark.parametrize("content", mostly_slow(
    [b"", b"{}", b"[]", b"[" * 100_000, b"\xff", b'{"files": "all"}'], fast=[3, 5]))
def test_a_damaged_build_json_is_one_line(build_args, few, tmp_path, content):
    folder = Path(shutil.copytree(few, tmp_path / "few"))
    shard = shard_folder(folder / "Demo-C", 1, 2)
    (shard / "build.json").write_bytes(content)
    for run in (lambda: merge(build_args, folder),
                lambda: make_fer_c.main(build_args(out=folder / "Demo-C", limit=2, shard="1/2"))):
        with pytest.raises(UserError, match=f"build.json is damaged .*; remove {shard} and give the same"):
            run()


# ---- mutations

@pytest.mark.slow
def test_damaged_files_of_a_set(tmp_path):
    from fuzz_sets import FILES, fuzz

    count = 200
    counts = fuzz(tmp_path, count, 12)
    assert sum(counts[kind, "refused"] + counts[kind, "opened unharmed"] for kind in FILES) == count
    assert sum(counts[kind, "past the header"] for kind in FILES) >= count / 4


@pytest.mark.slow
def test_fuzz_sets_is_a_script():
    done = subprocess.run([sys.executable, "tests/fuzz_sets.py", "--help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "--count" in done.stdout
