"""Rules of the house: imports do nothing, light modules stay light, fences hold, commands explain themselves."""
import ast
import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import cli

ROOT = Path(__file__).parent.parent
SCRIPTS = sorted(path.name for path in ROOT.glob("train_*.py"))
MODULES = sorted(path.stem for path in ROOT.glob("*.py")) + sorted(
    f"{path.parent.name}.{path.stem}" for folder in ("datasets", "models", "reporting", "support")
    for path in (ROOT / folder).glob("[!_]*.py"))
LIGHT = ["make_fer_c", "report", "sweep", "corruptions", "soft_labels", "metrics", "settings", "cli"] + [
    name for name in MODULES if name.startswith(("datasets.", "reporting.", "support."))]

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


def test_only_the_harness_imports_fabric():
    imports = re.compile(r"^\s*(import|from) lightning", re.MULTILINE)
    files = [path for folder in (".", "datasets", "models") for path in (ROOT / folder).glob("*.py")]
    assert [path.name for path in files if imports.search(path.read_text())] == ["harness.py"]


LATER = ("train_DMUE.py", "train_SCN.py", "train_RUL.py", "train_swinv2.py")  # a start takes seconds


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


# ---- outside the environment: a copy of the script in a folder of its own, and a Python without packages

SMALL_SCRIPT = '''"""Starts as all scripts do."""
from support import start

if __name__ == "__main__":
    start.guard()

{body}
'''


def run_small(folder, body, *words, python=(sys.executable, "-S"), **environment):
    """Run a script of our make that imports and does `body`; python: the interpreter and its flags."""
    (folder / "support").mkdir(exist_ok=True)
    for name in ("__init__.py", "start.py"):
        shutil.copy(ROOT / "support" / name, folder / "support")
    (folder / "small.py").write_text(SMALL_SCRIPT.format(body=body))
    return subprocess.run([*python, "small.py", *words], cwd=folder, env=os.environ | environment, capture_output=True,
                          text=True)


def test_outside_the_environment_one_line_names_the_command(tmp_path):
    done = run_small(tmp_path, "import tyro.conf", "--dataset", "a b")
    command = ".venv/bin/python small.py --dataset 'a b'"
    assert done.returncode == 2 and done.stderr == (
        f"error: this Python ({sys.executable}) has no package tyro; install the packages once (bash run.sh --setup), "
        f"then: {command.replace('.venv/bin/python', '.venv/bin/python -S')}\n")
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv/installed").write_text("")
    done = run_small(tmp_path, "import tyro.conf")
    assert done.stderr.endswith("has no package tyro; use the project's: .venv/bin/python -S small.py\n")
    done = subprocess.run([sys.executable, "-S", tmp_path / "small.py"], cwd="/", capture_output=True, text=True)
    assert done.stderr.endswith(f"the project's: {tmp_path}/.venv/bin/python -S {tmp_path}/small.py\n")


def test_an_old_python_is_named(tmp_path):
    done = run_small(tmp_path, "import numpy", python=(
        sys.executable, "-c", "import sys, runpy; sys.version_info = (3, 9, 2, 'final', 0); sys.path.insert(0, '.');"
        "runpy.run_path(sys.argv[1], run_name='__main__')"))
    assert done.returncode == 2 and done.stderr.startswith("error: this is Python 3.9 (")
    assert done.stderr.count("\n") == 1 and "3.11 or newer is needed" in done.stderr


def test_ctrl_c_while_importing_is_one_line(tmp_path):
    for body in ("raise KeyboardInterrupt", "try:\n    raise KeyboardInterrupt\nfinally:\n    import nothing_there",
                 "try:\n    raise KeyboardInterrupt\nexcept BaseException as e:\n    raise ImportError('x') from e"):
        done = run_small(tmp_path, body)
        assert (done.returncode, done.stderr) == (130, "interrupted; the same command goes on from here\n"), body


def test_other_errors_keep_their_traceback_and_nothing_happens_on_import(tmp_path):
    for body in ("1 / 0", "import support.nothing", "raise ImportError('of our own')"):
        done = run_small(tmp_path, body)
        assert done.returncode == 1 and "Traceback" in done.stderr, body
    assert "excepthook" not in python("import sys, sweep; print(sys.excepthook)").stdout.replace(
        "<built-in function excepthook>", "")


def guarded(path):
    """Whether a script calls `start.guard()` before it imports anything outside Python's library."""
    for statement in ast.parse(path.read_text()).body:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            names = [statement.module] if isinstance(statement, ast.ImportFrom) else [a.name for a in statement.names]
            if any(name.split(".")[0] not in {*sys.stdlib_module_names, "support"} for name in names):
                return False
        elif isinstance(statement, ast.If):
            return "start.guard()" in ast.unparse(statement)
    return False


@pytest.mark.parametrize("script", [*SCRIPTS, "make_fer_c.py", "evaluate.py", "report.py", "sweep.py"])
def test_scripts_are_guarded(script):
    assert guarded(ROOT / script)


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
