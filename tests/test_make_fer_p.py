"""Sets of perturbation sequences: what they hold, the same bytes by every way to them, and clear refusals."""
import json
import shutil

import cv2
import numpy as np
import pytest

import make_fer_c
import make_fer_p
import perturbations
from building import worker
from building.built_set import open_built_set
from building.layout import MOST_FRAMES
from building.manifest import set_version
from building.options import rebuild_command, sequence_command
from building.verification import verify
from datasets import load_split, parse_options
from datasets.drawn import layouts
from datasets.images import read_image
from make_fer_p import Args
from support import cli
from support.errors import DamagedFile, UserError
from support.random_streams import keyed_rng
from cases import mostly_slow
from conftest import OPTIONS, SIZE

# Noise, a running mean, falling drops and a shift: with a random stream, with a state, and with a border.
NAMES = ("gaussian_noise", "zoom_blur", "translate", "spatter")


@pytest.fixture(scope="module")
def sequence_args(demo_root):
    """Arguments of a small build; `sequence_args(out=..., seed=1)` changes some."""
    def build(**changes):
        common = dict(dataset="demo", root=demo_root, data=OPTIONS, image_size=SIZE, limit=3, perturbations=NAMES,
                      workers=1)
        return Args(**common | changes)
    return build


@pytest.fixture(scope="module")
def sequences(sequence_args, tmp_path_factory):
    """A finished Demo-P of three images; tests only read it."""
    out = tmp_path_factory.mktemp("sequences") / "Demo-P"
    make_fer_p.main(sequence_args(out=out))
    return out


def content(folder):
    return json.loads((folder / "manifest.json").read_text())["content"]


# ---- what a set holds

def test_frames_are_the_perturbations_of_the_clean_image(sequences, demo_root):
    data = open_built_set(sequences)
    assert data.corruptions == ("gaussian_noise", "zoom_blur", "translate", "spatter") and data.has_sequences
    clean = read_image(demo_root / data.frame["path"].iloc[1], SIZE)
    np.testing.assert_array_equal(data.pixels(1), clean)
    for name in NAMES:
        frames = list(perturbations.frames(clean, name, keyed_rng(0, data.frame["id"].iloc[1], name), "imagenet-p",
                                           SIZE, 1, "reflect"))
        cells = [cell for cell in data.cells if cell[0] == name]
        assert cells == [(name, number) for number in range(len(frames))]
        for frame, read in zip(frames, data.pixels_of_cells(1, cells), strict=True):
            np.testing.assert_array_equal(read, frame)


def test_labels_are_not_softened(sequences, demo_root):
    data = open_built_set(sequences)
    split = load_split("demo", demo_root, "test", **parse_options(OPTIONS)).frame.set_index("id")
    expected = np.eye(8)[split.loc[data.frame["id"], "expression"]]
    np.testing.assert_array_equal(data.labels_before_softening, expected)
    np.testing.assert_array_equal(data.soft_labels_of("zoom_blur", 3), expected)
    assert not (sequences / "soft_labels.npy").exists()


@pytest.mark.parametrize("border,picture_size", [("reflect", SIZE), ("zero", SIZE), ("margin", 36)])
def test_a_margin_lies_around_the_frame(sequence_args, tmp_path, border, picture_size):
    """ImageNet-P cuts 224 pixels out of 256: 36 for 32."""
    make_fer_p.main(sequence_args(out=tmp_path / "x", border=border, perturbations=("translate",), limit=1))
    data = open_built_set(tmp_path / "x")
    picture = data.clean_picture(0)
    assert picture.shape == (picture_size, picture_size, 3)
    edge = (picture_size - SIZE) // 2
    clean = data.pixels(0)
    np.testing.assert_array_equal(clean, picture[edge:edge + SIZE, edge:edge + SIZE])
    middle = 7  # of the 16 frames of sources of 32 pixels
    np.testing.assert_array_equal(data.pixels(0, "translate", middle), clean)  # shifted by no pixel
    shifted = data.pixels(0, "translate", middle + 1)
    np.testing.assert_array_equal(shifted[:, 1:], clean[:, :-1])
    beside_the_frame = picture[edge:edge + SIZE, edge - 1]
    entered = {"reflect": clean[:, 1], "zero": np.zeros_like(clean[:, 0]), "margin": beside_the_frame}
    np.testing.assert_array_equal(shifted[:, 0], entered[border])


@pytest.mark.slow
def test_both_presets_have_ten_perturbations(sequence_args, tmp_path):
    for preset in ("imagenet-p", "rafdb-p"):
        make_fer_p.main(sequence_args(out=tmp_path / preset, preset=preset, perturbations=(), limit=1, images=False))
        data = open_built_set(tmp_path / preset)
        assert len(data.corruptions) == 10 and data.corruptions == perturbations.TEST_SET[preset]
        frames = sum(perturbations.number_of_frames(name, preset, SIZE) for name in data.corruptions)
        assert len(data.cells) == frames and (preset != "rafdb-p" or frames == 300)


# ---- the same bytes by every way

def test_frames_made_in_memory_are_those_of_the_files(sequences, sequence_args, tmp_path):
    make_fer_p.main(sequence_args(out=tmp_path / "x", images=False))
    assert content(tmp_path / "x") == content(sequences) and not (tmp_path / "x" / "images").exists()
    files, memory = open_built_set(sequences), open_built_set(tmp_path / "x")
    memory.check_forms_made_here()
    cells = [*files.cells[::-7], None, *files.cells[::5]]  # backwards, and with frames left out
    for i in range(3):
        for one, other in zip(files.pixels_of_cells(i, cells), memory.pixels_of_cells(i, cells), strict=True):
            np.testing.assert_array_equal(one, other)


def test_workers_shards_and_a_kill_give_the_same_bytes(sequences, sequence_args, tmp_path, monkeypatch):
    make_fer_p.main(sequence_args(out=tmp_path / "two", workers=2))
    for shard in ("1/2", "2/2"):
        make_fer_p.main(sequence_args(out=tmp_path / "parts", shard=shard))
    make_fer_p.main(sequence_args(out=tmp_path / "parts", merge=True))

    files = []

    def die(path, data):
        files.append(path)
        if len(files) == 40:
            raise KeyboardInterrupt
        path.write_bytes(data)

    with monkeypatch.context() as patch:
        patch.setattr(worker, "write_file", die)
        with pytest.raises(KeyboardInterrupt):
            make_fer_p.main(sequence_args(out=tmp_path / "killed"))
    make_fer_p.main(sequence_args(out=tmp_path / "killed"))
    for name in ("two", "parts", "killed"):
        assert (tmp_path / name / "checksums.sha256").read_bytes() == (sequences / "checksums.sha256").read_bytes()
        verify(tmp_path / name, 1)


@pytest.mark.slow
def test_what_changes_the_frames_changes_the_version(sequences, sequence_args, tmp_path):
    versions = {json.loads((sequences / "manifest.json").read_text())["set_version"]}
    for number, changes in enumerate((dict(seed=1), dict(difficulty=2), dict(border="zero"), dict(resolution=224),
                                      dict(perturbations=NAMES[:2]), dict(limit=2))):
        make_fer_p.main(sequence_args(out=tmp_path / str(number), images=False, **changes))
        versions.add(json.loads((tmp_path / str(number) / "manifest.json").read_text())["set_version"])
    assert len(versions) == 7


# ---- refusals

@pytest.mark.parametrize("changes,message", [
    (dict(dataset="nothing"), "unknown data set 'nothing'; known: "),
    (dict(perturbations=("snows",)), "--perturbations snows: imagenet-p has gaussian_noise, "),
    (dict(preset="rafdb-p", perturbations=("tilt",)), "--perturbations tilt: rafdb-p has p_gaussian_noise, "),
    (dict(from_="original"), "--from original is for RAF-DB with --border margin"),
    (dict(difficulty=4), "--difficulty"),
    (dict(preset="rafdb-p", perturbations=(), difficulty=2), "--difficulty is for --preset imagenet-p"),
    (dict(strip="x.jpg"), "give a file name that ends in .png"),
    (dict(shard="1/2", merge=True), "--shard builds a shard and nothing else"),
])
def test_options_that_make_no_sense(sequence_args, tmp_path, changes, message):
    changes = {name: tmp_path / value if name == "strip" else value for name, value in changes.items()}
    with pytest.raises(UserError, match=message):
        make_fer_p.main(sequence_args(out=tmp_path / "x", **changes))
    assert not (tmp_path / "x").exists()


def test_other_settings_are_refused(sequences, sequence_args):
    with pytest.raises(UserError, match=r"made with other settings \(.*border: reflect there, zero asked for"):
        make_fer_p.main(sequence_args(out=sequences, border="zero"))


def test_a_set_of_the_other_kind_is_refused(sequences, sequence_args, built, build_args):
    with pytest.raises(UserError, match="Demo-P is a set of perturbation sequences, made by another script"):
        make_fer_c.main(build_args(out=sequences))
    with pytest.raises(UserError, match="Demo-C is a set of corrupted images, made by another script"):
        make_fer_p.main(sequence_args(out=built))


@pytest.mark.parametrize("change", mostly_slow([
    {"kind": "other"}, {"kind": 3}, {"preset": "fer-c"}, {"preset": "rafdb-p"}, {"constants": {}}, {"border": "grey"},
    {"difficulty": 0}, {"picture_size": 10**9}, {"constants": {"translate": {"count": 10**9, "middle": 1, "step": 1}}},
    {"constants": {"translate": {"count": 3}}}, {"image_format": "jpg"},
], fast=[0, 3, 8]))
def test_manifests_that_make_no_sense(sequences, tmp_path, change):
    shutil.copytree(sequences, tmp_path / "x")
    manifest = json.loads((tmp_path / "x" / "manifest.json").read_text())
    manifest["made_with"] |= change
    (tmp_path / "x" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DamagedFile, match="manifest.json is damaged|made_with"):
        open_built_set(tmp_path / "x")


@pytest.mark.parametrize("change, words", [
    ({"source": "\x1b[2J"}, "made_with.source is unknown"), ({"resolution": 0}, "made_with.resolution is out of range"),
    ({"constants": {"translate": {"count": 42, "middle": 1, "step": 1}}}, "made_with.constants.translate.count"),
    ({"difficulty": 3, "constants": {"gaussian_noise": {"count": 31, "sd": [.02]}}}, "no value for this difficulty")])
def test_hostile_manifests_with_a_set_version_that_fits(sequences, tmp_path, change, words):
    manifest = json.loads((sequences / "manifest.json").read_text())
    manifest["made_with"] |= change
    manifest["set_version"] = set_version(manifest["made_with"])
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DamagedFile, match=words):
        open_built_set(tmp_path)


def test_no_published_sequence_is_longer_than_allowed():
    longest = max(table[name]["count"] for table in (*perturbations.IMAGENET_P.values(), perturbations.RAFDB_P)
                  for name in table)
    assert MOST_FRAMES == longest == 41


def test_commands_of_foreign_settings_are_one_printable_line(sequences):
    """`options` of a manifest may hold any text. Before, it reached the terminal as it is."""
    made_with = open_built_set(sequences).made_with | {"options": {"train": "1\x1b]0;title\x07\n2"}}
    for text in (rebuild_command(sequences, made_with), sequence_command(sequences, made_with, 48)):
        assert text.isprintable() and "--data" in text and "\\x1b" in text


@pytest.mark.parametrize("border, words", [("margin", "enlarged to 36 pixels"), ("reflect", "")])
def test_faces_that_a_margin_cuts_are_said(sequence_args, tmp_path, capsys, border, words):
    make_fer_p.main(sequence_args(out=tmp_path / "x", border=border, perturbations=("translate",)))
    out = capsys.readouterr().out
    assert words in out and ("a face that fills its picture is cut" in out) == (border == "margin")


def test_the_script_of_a_set_does_not_follow_from_its_name(sequences, built, tmp_path):
    """`--out data/mine` has sequences, too; before, its name told the script."""
    for source, name, script in ((sequences, "mine", "make_fer_p.py"), (built, "mine-P", "make_fer_c.py")):
        (tmp_path / name).mkdir()
        manifest = json.loads((source / "manifest.json").read_text())
        manifest["made_with"]["size"] = 3
        (tmp_path / name / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(DamagedFile, match=f"build the set again with {script}"):
            open_built_set(tmp_path / name)
        (tmp_path / f"{name}2.partial").mkdir()
        (tmp_path / f"{name}2.partial" / "build.json").write_text(json.dumps(manifest["made_with"]))
        with pytest.raises(UserError, match=f"build is not finished .* {script} --dataset demo"):
            open_built_set(tmp_path / f"{name}2")


def test_a_changed_frame_is_noticed(sequences, tmp_path):
    shutil.copytree(sequences, tmp_path / "x")
    data = open_built_set(tmp_path / "x")
    shutil.copy(data.image_path(0, "zoom_blur", 4), data.image_path(0, "zoom_blur", 5))
    with pytest.raises(DamagedFile, match="make_fer_p.py --dataset demo"):
        data.pixels(0, "zoom_blur", 5)
    with pytest.raises(UserError, match="1 files are not as built.*make_fer_p.py"):
        verify(tmp_path / "x", 1)


def test_strips_and_estimate(sequences, sequence_args, tmp_path, capsys):
    make_fer_p.main(sequence_args(out=sequences, strip=tmp_path / "strips.png"))
    drawn = cv2.imread(str(tmp_path / "strips.png"))[:, :, ::-1]
    assert drawn.shape == (len(NAMES) * SIZE, 5 * SIZE, 3)
    data = open_built_set(sequences)
    top = SIZE * data.corruptions.index("translate")
    for place, number in enumerate((0, 4, 8, 12, 15)):  # of 16 frames
        picture = drawn[top:top + SIZE, place * SIZE:(place + 1) * SIZE]
        assert np.array_equal(picture, data.pixels(0, "translate", number))
    make_fer_p.main(sequence_args(out=tmp_path / "x", dry_run=True))
    forms = len(open_built_set(sequences).cells)
    assert f"3 images x {forms} forms, about " in capsys.readouterr().out and not (tmp_path / "x").exists()


@pytest.mark.slow  # draws RAF-DB
def test_original_pictures_are_estimated(tmp_path, capsys):
    """Their frame has the column `alignment`, without which no picture is made."""
    layouts.write_layout("rafdb", tmp_path / "rafdb")
    make_fer_p.main(Args("rafdb", root=tmp_path / "rafdb", data=("classes=7",), preset="rafdb-p", image_size=100,
                         border="margin", from_="original", limit=3, workers=1, out=tmp_path / "x", dry_run=True))
    assert "3 images x 300 forms, about " in capsys.readouterr().out


def test_the_command_line(demo_root):
    args = cli.parse(Args, argv=["--dataset", "demo", "--from", "aligned", "--perturbations", "snow"])
    assert args.from_ == "aligned" and args.perturbations == ("snow",)
