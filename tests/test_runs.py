"""A run's folder: what separates two runs, what is never deleted, what is repaired, what is refused in one line."""
import errno
import json
import os
import resource
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import test_scripts
import train_RUL
import train_SCN
import train_baseline
from datasets import DATASETS, RECIPES, load_split, parse_options
from support import cli, run_folder
from support.errors import UserError, spell_os_error
from training.options import TrainingOptions, effects, flat, name_loss, recipe_filler, usual_values
from training.folder import refuse_other_settings
from cases import mostly_slow
from conftest import MACHINE, OPTIONS, SIZE

pytestmark = pytest.mark.usefixtures("small")
SCRIPTS = [module for module, _ in test_scripts.SCRIPTS.values()]


@pytest.fixture
def run_args(demo_root, tmp_path):
    """Arguments of a run of one epoch."""
    def build(backbone="resnet18", **changes):
        usual = dict(dataset="demo", root=demo_root, data=OPTIONS, image_size=SIZE, epochs=1, batch_size=64,
                     weights="none", runs=tmp_path / "runs")
        return train_baseline.Args(TrainingOptions(**usual | changes), train_baseline.Algorithm(backbone),
                                   machine=MACHINE)
    return build


def train(args):
    """Train, and return the folder that the run has written."""
    before = set(args.options.runs.rglob("args.json"))
    train_baseline.main(args)
    (new,) = set(args.options.runs.rglob("args.json")) - before
    return new.parent


def read_args(folder):
    return json.loads((folder / "args.json").read_text())


# --- which runs a row averages

def test_every_option_says_what_it_affects():
    for script in SCRIPTS:
        declared = effects(script.Args)
        kinds = {kind: {name for name, effect in declared.items() if effect.on == kind}
                 for kind in ("speed", "place", "alias")}
        assert kinds["speed"] == {"workers", "compile", "cache_on", "no_cuda_graphs", "deterministic"}
        assert kinds["place"] == {"root", "runs", "fresh", "keep_last", "track", "cache", "no_cache"}
        assert kinds["alias"] == {"calib"}
        assert {name for name, effect in declared.items() if effect.by_content} == {"weights", "gmm"}


@pytest.mark.parametrize("script", mostly_slow(SCRIPTS, fast=[2]))
@pytest.mark.parametrize("protocol", ["paper", "released"])
def test_the_recipe_has_the_plain_path(script, protocol):
    """A run as the recipe has it differs in nothing but the protocol, for every data set."""
    for dataset in DATASETS:
        for loss in (None, "maxent-aaai+mbls"):
            command = ["--dataset", dataset, "--protocol", protocol, *(["--loss", loss] if loss else [])]
            args = cli.parse(script.Args, recipe_filler(script.RELEASED, script.RELEASED_ON), command)
            name_loss(args.options, args.constants)
            values, usual = flat(args), usual_values(args, script.RELEASED, script.RELEASED_ON)
            wanted = {} if protocol == "paper" else {"protocol": "released"}
            assert run_folder.settings_that_differ(values, usual, {}) == wanted


@pytest.mark.parametrize("loss, wanted", [("ce", {}), ("focal", {"gamma": 3.0}), ("mbls", {"margin": 5.0}),
                                          ("maxent-aaai+mbls", {"gamma": 3.0, "margin": 5.0})])
def test_constants_that_the_loss_lacks_do_not_change_the_folder(loss, wanted):
    command = ["--dataset", "demo", "--loss", loss, "--gamma", "3", "--margin", "5"]
    args = cli.parse(train_SCN.Args, recipe_filler(train_SCN.RELEASED), command)
    name_loss(args.options, args.constants)
    assert run_folder.settings_that_differ(flat(args), usual_values(args, train_SCN.RELEASED), {}) == wanted


def test_a_recipe_names_options_only(monkeypatch):
    """The values of one algorithm stand in its script, and a slip of the pen is no silent default."""
    command = ["--dataset", "demo", "--protocol", "released"]
    args = cli.parse(train_SCN.Args, recipe_filler({}, {"demo": {"relabel_epoch": 4}}), command)
    assert args.algorithm.relabel_epoch == 4
    with pytest.raises(ValueError, match="a recipe names relabel_epoch, no option of train_RUL"):
        cli.parse(train_RUL.Args, recipe_filler({"relabel_epoch": 4}), command)
    monkeypatch.setitem(RECIPES, "demo", {"released": {"relabel_epoch": 4}})
    with pytest.raises(ValueError, match="names relabel_epoch, no field of TrainingOptions"):
        cli.parse(train_SCN.Args, recipe_filler({}), command)


def test_settings_that_change_the_result_have_folders_of_their_own(run_args):
    """Today's release put them into one folder and refused the second, or averaged them in tables."""
    first = train(run_args())
    others = {"lr": train(run_args(lr=1e-3)), "backbone": train(run_args(backbone="test_vit"))}
    for name, folder in others.items():
        assert folder.parent == first.parent and folder.name.startswith("seed0-")
        args = read_args(folder)
        assert args["differs"][name] == args[name]
        assert folder.name == f"seed0-{run_folder.short_hash(args['differs'])}"
        assert name in run_folder.varying_settings([read_args(first), args])
        assert not run_folder.same_settings(read_args(first), args)


def test_seeds_and_what_changes_no_result_share_a_row(run_args, demo_root, tmp_path):
    one = run_args()
    two = run_args(seed=1, root=shutil.copytree(demo_root, tmp_path / "elsewhere"), keep_last=True)
    two.machine = replace(MACHINE, workers=1, cache=tmp_path / "cache")
    folders = [train(one), train(two)]
    assert run_folder.varying_settings(map(read_args, folders)) == []
    assert folders[0].name.removeprefix("seed0") == folders[1].name.removeprefix("seed1")
    assert not run_folder.same_settings(*map(read_args, folders))  # the seed is another one


def test_weights_count_by_their_content(run_args, tmp_path):
    """Two files of one name are two starts; one file under two names is one."""
    def save(path, seed):
        torch.manual_seed(seed)
        model = train_baseline.ResNet18(8, SIZE).backbone
        path.parent.mkdir()
        torch.save(model.state_dict(), path)
        return str(path)

    files = [save(tmp_path / "a/w.pt", 0), save(tmp_path / "b/w.pt", 1)]
    copy = shutil.copy(files[0], tmp_path / "same.pt")
    first, second = (train(run_args(weights=file)) for file in files)
    assert first != second and "weights" in run_folder.varying_settings([read_args(first), read_args(second)])
    assert read_args(first)["differs"]["weights"].startswith("sha256 ")
    with pytest.raises(ValueError):
        train(run_args(weights=str(copy)))  # no new folder: it is the first one, and finished


def test_a_run_is_found_by_what_its_command_says(run_args):
    folder = train(run_args(lr=1e-3, augment="basic"))
    asked = {"lr": "1e-3", "augment": "basic", "image_size": "32", "epochs": "1", "batch_size": "64",
             "data": " ".join(OPTIONS), "precision": "32"}
    place = (folder.parents[4], "demo", "baseline", "ce", 0.0, 0)
    assert run_folder.find(*place, asked) == folder
    assert run_folder.find(*place, asked | {"lr": "2e-3"}) is None
    assert run_folder.find(*place, {name: text for name, text in asked.items() if name != "lr"}) is None
    assert run_folder.find(*place[:-1], 1, asked) is None


def test_a_run_of_the_first_release_is_taken_up_where_it_lies(run_args, capsys):
    """It had one folder for a seed, whatever its settings, and args.json said nothing of recipes."""
    folder = train(run_args(lr=1e-3))
    old = folder.with_name("seed0")
    folder.rename(old)
    args = {name: value for name, value in read_args(old).items()
            if name not in ("recipe", "differs", "contents", "keep_last", "nll_batch", "no_cache", "cache_on",
                            "no_cuda_graphs", "deterministic", "train_class_counts", "val_class_counts")}
    (old / "args.json").write_text(json.dumps(args))
    train_baseline.main(run_args(lr=1e-3))
    assert f"{old} is finished" in capsys.readouterr().out and not folder.exists()
    assert read_args(old)["differs"]["lr"] == 1e-3  # from now on the sweep and the tables know it
    assert train(run_args(lr=2e-3)).name.startswith("seed0-")
    with pytest.raises(UserError, match=f"{old} holds a run with other settings .*lr: 0.001 there, 0.00025 now"):
        refuse_other_settings(old, read_args(old), read_args(old) | {"lr": 0.00025})


@pytest.mark.parametrize("text", ["x", "", "-1", "0", "1.5"])
def test_a_number_of_processes_that_is_none(run_args, monkeypatch, text):
    monkeypatch.setenv("WORLD_SIZE", text)
    with pytest.raises(UserError, match=f"WORLD_SIZE, which torchrun sets, is '{text}'"):
        train_baseline.main(run_args())


def test_calibrated_cross_entropy_is_refused(run_args):
    with pytest.raises(UserError, match="--calib is short for --loss .* --loss ce"):
        train_baseline.main(run_args(calib=True, loss="ce"))


@pytest.mark.parametrize("option, value", [("lr", "nan"), ("weight-decay", "inf"), ("gamma", "nan"), ("beta", "-inf"),
                                           ("margin", "-1"), ("mbls-weight", "nan"), ("noise", "nan")])
def test_numbers_that_are_none_are_refused(option, value, run_args):
    args = cli.parse(train_baseline.Args, argv=["--dataset", "demo", f"--{option}", value])
    with pytest.raises(UserError, match=f"--{option} "):
        train_baseline.main(args)


def test_runs_lie_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("FERC_RUNS", str(tmp_path))
    for script in SCRIPTS:
        assert cli.parse(script.Args, argv=["--dataset", "demo"]).options.runs == tmp_path
    monkeypatch.delenv("FERC_RUNS")
    assert TrainingOptions("demo").runs == Path("runs")


# --- nothing is lost

def test_a_finished_run_keeps_no_optimizer(run_args, capsys):
    """Three quarters of the first release's runs/ was last.pt of finished runs."""
    folder = train(run_args())
    assert not (folder / "last.pt").exists() and run_folder.is_finished(folder)
    said = capsys.readouterr().out
    assert f"next: python evaluate.py {folder}" in said and "training on " in said
    train_baseline.main(run_args())
    assert "is finished" in capsys.readouterr().out
    assert (train(run_args(seed=1, keep_last=True)) / "last.pt").exists()


def test_the_next_command_names_a_set_of_the_runs_protocol(run_args, monkeypatch, tmp_path, capsys):
    """evaluate.py refuses the set of the other protocol, which is the one that it takes by itself."""
    monkeypatch.setenv("FERC_DATA", str(tmp_path))
    usual = tmp_path / "Demo-C"
    usual.mkdir()
    (usual / "manifest.json").write_text("{}")
    train(run_args(protocol="released"))
    assert "--set DIR   (DIR: a set built by make_fer_c.py --protocol released)" in capsys.readouterr().out


def test_starting_again_deletes_nothing(run_args):
    """Without last.pt the first release emptied the folder: scores, predictions, the user's notes."""
    folder = train(run_args(epochs=2))
    (folder / "metrics.csv").write_text("\n".join((folder / "metrics.csv").read_text().splitlines()[:2]) + "\n")
    for name in ("notes.txt", "scores.csv"):
        (folder / name).write_text("mine")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match="trained 1 of 2 epochs, but last.pt.*missing.*--fresh"):
        train_baseline.main(run_args(epochs=2))
    (folder / "metrics.csv").unlink()
    with pytest.raises(UserError, match="holds weights or scores of a trained run.*--fresh"):
        train_baseline.main(run_args(epochs=2))
    del before[folder / "metrics.csv"]
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_checkpoint_without_settings_is_refused(run_args):
    folder = train(run_args(keep_last=True))
    (folder / "args.json").unlink()
    with pytest.raises(UserError, match="has a last.pt and no args.json.*--fresh"):
        train_baseline.main(run_args())
    assert not (folder / "args.json").exists()


def test_fresh_deletes_only_what_the_project_wrote(run_args):
    folder = train(run_args())
    predictions = folder / "predictions/Demo-C"
    (predictions / "snow").mkdir(parents=True)
    for name in ("set.json", "clean.npy", "snow/1.npy", "mine.txt"):
        (predictions / name).write_text("x")
    for name in ("scores.csv", "notes.txt"):
        (folder / name).write_text("x")
    train_baseline.main(run_args(fresh=True))
    left = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {"notes.txt", "predictions/Demo-C/mine.txt", "best.pt"} <= left
    assert not left & {"scores.csv", "predictions/Demo-C/set.json", "predictions/Demo-C/snow/1.npy"}
    assert not (predictions / "snow").exists()


def test_a_run_that_died_before_its_first_checkpoint_starts_again(run_args):
    folder = train(run_args())
    for name in ("metrics.csv", "best.pt"):
        (folder / name).unlink()
    (folder / "notes.txt").write_text("mine")
    train_baseline.main(run_args())
    assert run_folder.is_finished(folder) and (folder / "notes.txt").exists()


# --- damage

def test_best_weights_that_are_gone(run_args):
    folder = train(run_args(epochs=2, keep_last=True))
    scores = (folder / "metrics.csv").read_text()
    (folder / "best.pt").unlink()
    with pytest.raises(UserError, match="has trained all of its epochs, but its weights, best.pt, are missing"):
        train_baseline.main(run_args(epochs=2))
    (folder / "metrics.csv").unlink()  # as if killed between checkpoint and table
    last = torch.load(folder / "last.pt", map_location="cpu", weights_only=True)
    for epoch, best in ((1, True), (0, False)):
        last["history"][epoch]["val_macro_f1"], last["history"][1 - epoch]["val_macro_f1"] = 0.9, 0.1
        torch.save(last | {"best": 0.9}, folder / "last.pt")
        if best:
            train_baseline.main(run_args(epochs=2, keep_last=True))
            again = torch.load(folder / "best.pt", map_location="cpu", weights_only=True)
            assert again["epoch"] == 1 and again["scores"]["macro_f1"] == 0.9
            torch.testing.assert_close(again["model"], last["model"], rtol=0, atol=0)
            for name in ("best.pt", "metrics.csv"):
                (folder / name).unlink()
        else:
            with pytest.raises(UserError, match="best.pt is missing, and the weights of the best epoch"):
                train_baseline.main(run_args(epochs=2))
    assert scores


@pytest.mark.parametrize("damage", mostly_slow([
    {"labels": None}, {"step": 10**9}, {"epoch": -1}, {"history": "x"}, {"history": [{}, {}, {}]}, {"history": [{}]},
    {"best": "high"}, {"best": float("nan")}, {"labels": torch.zeros(3, dtype=torch.int64)},
    {"next_labels": torch.full((128,), 99)}, {"sums": 3}, {"model": {}}, {"optimizer": {"state": {}}}],
    fast=[0, 5, 6, 9, 12]))
def test_a_checkpoint_with_wrong_fields_is_refused(run_args, damage):
    folder = train(run_args(keep_last=True))
    (folder / "metrics.csv").unlink()
    state = torch.load(folder / "last.pt", map_location="cpu", weights_only=True)
    state |= damage
    state = {name: value for name, value in state.items() if value is not None}
    torch.save(state, folder / "last.pt")
    with pytest.raises(UserError, match="last.pt is damaged.*--fresh"):
        train_baseline.main(run_args())


@pytest.mark.parametrize("content", mostly_slow(
    [b"", b"\x00\xff" * 50, b"[1]", b'{"seed": NaN}', b"[" * 100_000], fast=[1, 3]))
def test_damaged_files_of_a_run_are_named(run_args, content):
    folder = train(run_args())
    (folder / "args.json").write_bytes(content)
    with pytest.raises(UserError, match="args.json is damaged.*--fresh"):
        train_baseline.main(run_args())


def test_a_damaged_table_is_written_again_or_refused(run_args, capsys):
    folder = train(run_args(keep_last=True))
    table = (folder / "metrics.csv").read_bytes()
    (folder / "metrics.csv").write_bytes(b"\xff\x00")
    (folder / "environment.json").write_bytes(b"\xff")
    (folder / "timing.csv").write_bytes(b"\xff")
    train_baseline.main(run_args())
    said = capsys.readouterr().out
    assert "metrics.csv is damaged" in said and (folder / "metrics.csv").read_bytes() == table
    assert "environment.json was missing or damaged" in said
    (folder / "metrics.csv").write_bytes(b"\xff\x00")
    with pytest.raises(UserError, match="metrics.csv is damaged .* without last.pt it cannot be written again"):
        train_baseline.main(run_args())


@pytest.mark.parametrize("room", mostly_slow([100, 5_000, 100_000], fast=[1]))
def test_a_full_disk_is_one_line(run_args, room, capsys):  # capsys: what is printed goes to no file
    """As a limit on the size of files: of args.json, of a checkpoint in its middle. torch.save turns what the system
    says into a RuntimeError; nothing half-written may be left."""
    for split in ("train", "val"):  # draws the faces that are not there yet
        load_split("demo", run_args().options.root, split, **parse_options(OPTIONS))
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limit[1]))
    try:
        with pytest.raises((OSError, UserError)) as refused:
            train_baseline.main(run_args())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    error = refused.value
    text = spell_os_error(error) if isinstance(error, OSError) else str(error)
    assert os.strerror(errno.EFBIG) in text and str(run_args().options.runs) in text and "\n" not in text
    assert not list(run_args().options.runs.rglob("*.tmp"))
    train_baseline.main(run_args())  # with room again, the same command goes on
