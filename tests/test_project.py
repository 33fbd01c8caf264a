"""Rules of the house: imports do nothing, light modules stay light, fences hold, commands explain themselves."""
import ast
import importlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import cli

ROOT = Path(__file__).parent.parent
SCRIPTS = sorted(path.name for path in ROOT.glob("train_*.py"))
MODULES = sorted(path.stem for path in ROOT.glob("*.py")) + sorted(
    f"{path.parent.name}.{path.stem}" for folder in ("datasets", "models", "reporting")
    for path in (ROOT / folder).glob("[!_]*.py"))
LIGHT = ["make_fer_c", "report", "corruptions", "soft_labels", "metrics", "settings", "cli"] + [
    name for name in MODULES if name.startswith(("datasets.", "reporting."))]

WATCH = """
import os, random, signal, sys, warnings
import numpy, torch
def state():
    import cv2
    return (dict(os.environ), random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_rng_state().tolist(),
            torch.get_num_threads(), cv2.getNumThreads(), list(warnings.filters), signal.getsignal(signal.SIGINT))
import {others}
before = state()
import {module}
sys.exit(state() != before)
"""


def python(code, **environment):
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=os.environ | environment, capture_output=True,
                          text=True)


def test_importing_does_nothing():
    """All of ours after all of others', so that only ours can have changed anything."""
    others = "cv2, PIL.Image, pandas, scipy.optimize, torchvision, lightning_fabric, tyro, tqdm"
    done = python(WATCH.format(others=others, module=", ".join(MODULES)))
    assert done.returncode == 0, done.stdout + done.stderr


def test_light_modules_never_import_torch():
    done = python(f"import sys, {', '.join(LIGHT)}; sys.exit('torch' in sys.modules)")
    assert done.returncode == 0, done.stderr


def shared(script):
    """The script without its docstring and its fenced parts."""
    source = (ROOT / script).read_text()
    docstring = ast.parse(source).body[0]
    kept, inside = [], False
    for line in source.splitlines()[docstring.end_lineno:]:
        mark = line.strip()
        if mark == "# --- algorithm ---":
            assert not inside, f"{script}: a fence opens inside another"
            inside = True
        if not inside:
            kept.append(line)
        if mark == "# --- shared ---":
            assert inside, f"{script}: a fence closes that was not open"
            inside = False
    assert not inside, f"{script}: the last fence is open"
    return kept


def test_scripts_are_equal_outside_their_fences():
    first = shared(SCRIPTS[0])
    assert any(".backward(" in line for line in first) and any("optimizer.step()" in line for line in first)
    for script in SCRIPTS[1:]:
        assert shared(script) == first, script


def test_files_keep_to_their_length():
    assert len((ROOT / "harness.py").read_text().splitlines()) <= 400
    assert all(len((ROOT / script).read_text().splitlines()) <= 180 for script in SCRIPTS)


def test_only_the_harness_imports_fabric():
    imports = re.compile(r"^\s*(import|from) lightning", re.MULTILINE)
    files = [path for folder in (".", "datasets", "models") for path in (ROOT / folder).glob("*.py")]
    assert [path.name for path in files if imports.search(path.read_text())] == ["harness.py"]


LATER = ("train_SCN.py", "train_RUL.py", "train_swinv2.py")  # a start takes seconds


@pytest.mark.parametrize("script", [
    pytest.param(script, marks=pytest.mark.slow if script in LATER else ())
    for script in [*SCRIPTS, "make_fer_c.py", "evaluate.py", "report.py"]])
def test_commands_explain_themselves_and_refuse_in_one_line(script, tmp_path, capsys):
    module = importlib.import_module(script.removesuffix(".py"))
    with pytest.raises(SystemExit) as ended:
        cli.parse(module.Args, argv=["--help"])
    assert not ended.value.code and len(capsys.readouterr().out.splitlines()) > 10
    wrong = {"evaluate.py": [str(tmp_path)], "report.py": [str(tmp_path / "none")]}
    command = [sys.executable, script, *wrong.get(script, ["--dataset", "nothing"])]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    errors = done.stderr.strip().splitlines()
    assert len(errors) == 1 and errors[0].startswith("error: "), done.stderr


def test_exit_codes(monkeypatch, capsys):
    from dataclasses import dataclass

    @dataclass
    class Args:
        pass

    def ends_with(main):
        monkeypatch.setattr(sys, "argv", ["x"])
        with pytest.raises(SystemExit) as ended:
            cli.run(main, Args)
        return ended.value.code or 0, capsys.readouterr().err

    def refuse(args):
        raise cli.UserError("no such thing; do this")

    def interrupt(args):
        raise KeyboardInterrupt

    assert ends_with(lambda args: None) == (0, "")
    assert ends_with(refuse) == (2, "error: no such thing; do this\n")
    assert ends_with(interrupt)[0] == 130


def test_files_appear_whole(tmp_path):
    path = tmp_path / "a/b.txt"
    cli.write_text(path, "one\n")
    with pytest.raises(RuntimeError):
        cli.write_whole(path, lambda file: (file.write(b"tw"), (_ for _ in ()).throw(RuntimeError())))
    assert path.read_bytes() == b"one\n" and os.listdir(path.parent) == ["b.txt"]


def bash(*arguments, **environment):
    return subprocess.run(["bash", "run.sh", *arguments], cwd=ROOT, env=os.environ | environment, capture_output=True,
                          text=True)


def test_run_lists_one_command_a_line(tmp_path):
    done = bash("--demo", "--list", FERC_DATA=str(tmp_path), FERC_RUNS=str(tmp_path))
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and lines[0].split()[1] == "make_fer_c.py"
    assert len(lines) == 1 + 2 * len(SCRIPTS) and all("train_" in x and "&&" in x and "evaluate.py" in x
                                                      for x in lines[1:])
    spaced = tmp_path / "a b"
    (spaced / "rafdb").mkdir(parents=True)

    def listed(*options):
        return bash("--list", *options, FERC_DATA=str(spaced), FERC_RUNS=str(spaced), FERC_PYTHON="true"
                    ).stdout.splitlines()

    lines = listed()
    assert len(lines) == 1 + 3 * 2 * len(SCRIPTS)
    assert all(subprocess.run(["bash", "-c", line], cwd=ROOT).returncode == 0 for line in lines[:3])
    assert lines[0].startswith("true make_fer_c.py") and "a\\ b" in lines[0]
    assert sum("--seed 2" in line for line in lines) == 2 * len(SCRIPTS)
    assert len(listed("--noise")) == 1 + 4 * 3 * 2 * len(SCRIPTS)
    assert len(listed("--ablation")) == 1 + 3 * 7 * len(SCRIPTS)
    assert len(listed("--noise", "--ablation")) == 1 + 3 * (7 + 3 * 2) * len(SCRIPTS)
    some = listed("--noise", "--only", "SCN/ce/noise[23]0", "--seeds", "7", "--image-size", "48", "--", "--epochs", "5")
    assert len(some) == 3 and all("--seed 7" in x and "--image-size 48 --epochs 5" in x for x in some[1:])
    assert some[0].endswith("--image-size 48 ") and "--noise 0.20" in some[1] and "--noise 0.30" in some[2]
    assert len(listed("ferplus", "demo")) == 2 + 2 * 3 * 2 * len(SCRIPTS)


def test_run_without_data_says_where_it_looked(tmp_path):
    done = bash(FERC_DATA=str(tmp_path))
    assert done.returncode == 2 and f"{tmp_path}/rafdb" in done.stderr and "--demo" in done.stderr
    for wrong, message in (("--demmo", "unknown option --demmo"), ("rafbd", "unknown data set rafbd"),
                           ("--only", "takes a value"), ("--jobs=2", "unknown option")):
        done = bash(wrong)
        assert done.returncode == 2 and message in done.stderr
    assert "from 1 on, not 0" in bash("--jobs", "0", "--demo").stderr


def test_a_failing_run_does_not_stop_the_rest(tmp_path):
    """A stand-in for Python that fails at training: everything else still runs, and the end names what failed."""
    fake = tmp_path / "python"
    fake.write_text('#!/bin/sh\necho "$@" >>"$FERC_RUNS/called"\ncase "$1" in train_*) exit 3;; esac\n')
    fake.chmod(0o755)
    done = bash("--demo", FERC_PYTHON=str(fake), FERC_DATA=str(tmp_path), FERC_RUNS=str(tmp_path))
    called = (tmp_path / "called").read_text().splitlines()
    assert done.returncode == 1
    assert sum(line.startswith("train_") for line in called) == 2 * len(SCRIPTS) and called[-1].startswith("report.py")
    assert f"failed ({2 * len(SCRIPTS)}):" in done.stderr and not any(line.startswith("evaluate") for line in called)
    count = 2 * len(SCRIPTS)
    assert f"[{count}/{count}] " in done.stdout and done.stdout.count("FAILED") == count


def test_stopping_reaches_every_job(tmp_path):
    """Ctrl-C at run.sh: its jobs get SIGTERM, which training answers with a checkpoint, and nothing is left behind."""
    fake = tmp_path / "python"
    fake.write_text('''#!/bin/bash
[[ $1 == train_* ]] || exit 0
trap 'echo saved >>"$FERC_RUNS/called"; exit 143' TERM
echo started >>"$FERC_RUNS/called"
while :; do sleep 0.05; done
''')
    fake.chmod(0o755)
    places = {"FERC_PYTHON": str(fake), "FERC_DATA": str(tmp_path), "FERC_RUNS": str(tmp_path)}
    sweep = subprocess.Popen(["bash", "run.sh", "--demo", "--jobs", "3"], cwd=ROOT, env=os.environ | places,
                             stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    called = tmp_path / "called"
    give_up = time.monotonic() + 60
    while time.monotonic() < give_up and not (called.exists() and called.read_text().count("started") == 3):
        time.sleep(0.05)
    sweep.send_signal(signal.SIGINT)
    assert "goes on from here" in sweep.communicate(timeout=60)[1] and sweep.returncode == 130
    assert sorted(called.read_text().split()) == ["saved"] * 3 + ["started"] * 3


def test_what_is_scored_is_skipped_and_nothing_else_is(tmp_path):
    """Skipped only with scores of all of this set, version for version, younger than the weights."""
    fake = tmp_path / "python"
    fake.write_text('#!/bin/sh\necho "$1" >>"$FERC_RUNS/called"\n')
    fake.chmod(0o755)
    run, built = tmp_path / "demo/baseline/ce/noise0/seed0", tmp_path / "Demo-C"
    run.mkdir(parents=True)
    built.mkdir()
    (built / "manifest.json").write_text('{\n "made_with": {\n  "images": 16\n },\n "set_version": "0ab1"\n}\n')
    (run / "best.pt").write_text("")
    os.utime(run / "best.pt", (1, 1))

    def called(scores):
        (run / "scores.csv").write_text(scores)
        (tmp_path / "called").write_text("")
        bash("--demo", FERC_PYTHON=str(fake), FERC_DATA=str(tmp_path), FERC_RUNS=str(tmp_path))
        return (tmp_path / "called").read_text().split().count("train_baseline.py")

    whole = "Demo-C,0ab1,softmax,pooled,,n,16\n"
    assert called(whole) == 1  # only the calibrated one
    for other in ("", whole.replace("16", "10"), whole.replace("0ab1", "0ab2"), whole.replace("Demo", "Dome")):
        assert called(other) == 2


# ---- set-up, with stand-ins for Python

def set_up(folder, python3, **environment):
    """`bash run.sh --setup` in a copy, where `python3` is a script of ours and nothing else is called Python."""
    for name in ("run.sh", "requirements.txt"):
        shutil.copy(ROOT / name, folder)
    tools = folder / "tools"
    tools.mkdir(exist_ok=True)
    for name in ("bash", "cat", "cksum", "df", "awk", "grep", "tail", "dirname", "mkdir", "chmod", "sed", "cp", "sh"):
        if not (tools / name).exists():
            (tools / name).symlink_to(shutil.which(name))
    if python3:
        (tools / "python3").write_text("#!/bin/sh\n" + python3)
        (tools / "python3").chmod(0o755)
    return subprocess.run(["bash", "run.sh", "--setup"], cwd=folder, env={"PATH": str(tools)} | environment,
                          capture_output=True, text=True)


MAKES_VENV = """case "$*" in
  "-m venv .venv") mkdir -p .venv/bin; printf '#!/bin/sh\\necho "$*" >>calls\\n%s\\n' "$PIP" >.venv/bin/python
    chmod +x .venv/bin/python;;
esac
"""


def test_setup_installs_once_and_again_when_the_pins_change(tmp_path):
    assert set_up(tmp_path, MAKES_VENV, PIP="exit 0").returncode == 0
    assert "install" in (tmp_path / "calls").read_text()
    assert set_up(tmp_path, MAKES_VENV, PIP="exit 0").returncode == 0
    assert (tmp_path / "calls").read_text().count("install") == 1
    (tmp_path / ".venv/installed").write_text("other pins")
    assert set_up(tmp_path, MAKES_VENV, PIP="exit 0").returncode == 0
    assert (tmp_path / "calls").read_text().count("install") == 2


@pytest.mark.parametrize("python3, environment, message", [
    ("", {}, "Python 3.11 or newer is needed and none was found"),
    ("exit 1\n", {}, "Python 3.11 or newer is needed"),
    ('case "$2" in *venv*) exit 1;; esac\n', {}, "has no venv module"),
    (MAKES_VENV, {"PIP": 'echo "ERROR: [Errno 28] No space left on device"; exit 1'}, "No space left on device"),
    (MAKES_VENV, {"PIP": 'echo "ERROR: no matching distribution"; exit 1'}, "no matching distribution"),
])
def test_setup_that_fails_is_one_line(tmp_path, python3, environment, message):
    done = set_up(tmp_path, python3, **environment)
    errors = [line for line in done.stderr.splitlines() if not line.startswith("installing the pinned")]
    assert done.returncode == 2 and len(errors) == 1 and errors[0].startswith("error: ") and message in errors[0]
    assert not (tmp_path / ".venv/installed").exists()
