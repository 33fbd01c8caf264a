"""Rules of the house: imports go down and do nothing, light modules stay light, fences hold, names are nouns, commands
explain themselves, set-up installs once."""
import ast
import dataclasses
import functools
import graphlib
import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest
import tyro

from support import cli
from support.errors import UserError
from support.files import final_name, read_rows, temporary_path, write_rows, write_text, write_whole
from training.options import RELEASED, recipe_filler

ROOT = Path(__file__).parent.parent
# An import goes to a lower floor or stays in its folder. Folders of one floor never import each other.
FLOORS = {"support": 0, "datasets": 1, "building": 2, "models": 3, "compute": 3, "training": 4, "evaluation": 4,
          "reporting": 5, "sweeping": 5}
COMMANDS = 6  # the scripts at the root, which nothing imports
MATHEMATICS = ("corruptions", "perturbations", "soft_labels", "losses", "metrics", "open_set")  # on no floor: all may
# import them
AMONG_MATHEMATICS = {("perturbations", "corruptions"), ("open_set", "metrics")}  # (module, what it may import)
SCRIPTS = sorted(path.name for path in ROOT.glob("train_*.py") if path.name != "train_openset.py")  # that has no fences
MODULES = sorted(path.stem for path in ROOT.glob("*.py")) + sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for folder in FLOORS for path in (ROOT / folder).rglob("[!_]*.py"))
LIGHT = ["make_fer_c", "report", "sweep", "corruptions", "perturbations", "soft_labels", "metrics", "open_set",
         "training.options", "training.open_set.files", "training.open_set.scores",
         *(f"evaluation.{name}" for name in (
             "cards", "class_matching", "error_bootstrap", "export_ids", "image_scores", "input_check",
             "input_check_images", "input_format", "logits_source", "matching", "model_facts", "model_folder",
             "model_options", "onnx_metadata", "predictions", "scores", "scores_file", "scoring_options",
             "sequence_scores", "summary", "trained_run"))] + [
    name for name in MODULES if name.startswith(("datasets.", "building.", "reporting.", "support.", "sweeping."))]
HEAVY = {"torch", "torchvision", "timm", "lightning_fabric", "tensorboard"}

# Imports all of ours after all of others', so that only ours can have changed anything.
WATCH = """
import os, random, signal, sys, warnings
import numpy
def state():
    import cv2
    of_torch = []
    if "torch" in sys.modules:
        import torch
        of_torch = [torch.get_rng_state().tolist(), torch.get_num_threads()]
    return (dict(os.environ), random.getstate(), numpy.random.get_state()[1].tolist(), of_torch,
            cv2.getNumThreads(), list(warnings.filters), signal.getsignal(signal.SIGINT))
import {others}
before = state()
import {modules}
assert state() == before, "importing has changed something"
assert {may_import_torch} or "torch" not in sys.modules, "a light module imports torch"
"""
OTHERS = "cv2, PIL.Image, pandas, scipy.optimize, tyro, tqdm"


def python(code, **environment):
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=os.environ | environment, capture_output=True,
                          text=True)


@pytest.mark.slow
def test_importing_does_nothing():
    done = python(WATCH.format(others=f"{OTHERS}, torchvision, lightning_fabric", modules=", ".join(MODULES),
                               may_import_torch=True))
    assert done.returncode == 0, done.stdout + done.stderr


def test_importing_light_modules_does_nothing_and_never_imports_torch():
    light = [*LIGHT, "evaluate"]  # which imports torch once its command line is read
    done = python(WATCH.format(others=OTHERS, modules=", ".join(light), may_import_torch=False))
    assert done.returncode == 0, done.stdout + done.stderr


# ---- floors

def module_files():
    """{name of a module: its file} of the house: packages by their own name, nothing of tests/ and benchmarks/."""
    files = [*ROOT.glob("*.py"), *(path for folder in FLOORS for path in (ROOT / folder).rglob("*.py"))]
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in files}


def imports_of(path, modules):
    """What a file imports, also inside functions, and also as a string (for importlib): modules of the house by their
    names, of other packages the package."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            members = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= members & modules.keys() or {node.module}
            if not members <= modules.keys():
                names.add(node.module)
        elif isinstance(node, ast.Constant) and "." in str(node.value) and node.value in modules:
            names.add(node.value)
    return {name if name in modules else name.split(".")[0] for name in names}


@functools.cache
def import_graph():
    modules = module_files()
    return {name: imports_of(path, modules) - {name} for name, path in modules.items()}


def floor_of(module):
    return FLOORS.get(module.split(".")[0], COMMANDS)


def test_imports_go_down():
    graph, wrong = import_graph(), []
    for module, imported in graph.items():
        for other in imported & graph.keys():
            if module in MATHEMATICS:
                allowed = floor_of(other) == FLOORS["support"] or (module, other) in AMONG_MATHEMATICS
            elif other in MATHEMATICS or other.split(".")[0] == module.split(".")[0]:
                allowed = True
            else:
                allowed = floor_of(other) < floor_of(module)
            if not allowed:
                wrong.append(f"{module} imports {other}")
    assert not wrong


def test_no_circle_of_imports():
    graph = import_graph()
    order = graphlib.TopologicalSorter({module: imported & graph.keys() for module, imported in graph.items()})
    order.prepare()  # raises CycleError with the circle


def test_light_modules_never_import_torch_inside_functions_either():
    graph, wrong = import_graph(), []
    for module in LIGHT:
        reached, waiting = set(), [module]
        while waiting:
            name = waiting.pop()
            if name not in reached:
                reached.add(name)
                waiting += graph.get(name, ())
        if reached & HEAVY:
            wrong.append(module)
    assert not wrong


def test_the_graph_knows_imports_in_functions_and_in_strings():
    graph = import_graph()
    assert {"datasets.rafdb", "datasets.split", "support.errors"} <= graph["datasets"]
    assert "torch" in graph["losses"] and "support.cli" in graph["sweep"]


# ---- names

FILLERS = set("some found what way ways said seen alike beside its there again told share shares".split())


def names_in(path):
    """(line, name) of everything that a file names: variables, attributes, arguments, functions, classes."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.lineno, node.name


@pytest.mark.parametrize("folder", [*FLOORS, "."])
def test_names_are_nouns(folder):
    files = ROOT.glob("*.py") if folder == "." else (ROOT / folder).rglob("*.py")
    fillers = [f"{path.relative_to(ROOT)}:{line}: {name}" for path in files for line, name in names_in(path)
               if set(name.lower().split("_")) & FILLERS]
    assert not fillers


# ---- the training scripts

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


def test_only_the_devices_import_fabric():
    imports = re.compile(r"^\s*(import|from) lightning", re.MULTILINE)
    files = [*ROOT.glob("*.py"), *(path for folder in FLOORS for path in (ROOT / folder).rglob("*.py"))]
    assert [path.name for path in files if imports.search(path.read_text())] == ["devices.py"]


@pytest.mark.parametrize("script", [*SCRIPTS, "train_openset.py", "make_fer_c.py", "evaluate.py", "report.py"])
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


@pytest.mark.parametrize("script", [*SCRIPTS, "train_openset.py"])
def test_imports_stand_in_two_places(script):
    """At the top, and directly below the line that reads the options. ruff's E402 knows the first place only."""
    def letter(statement):
        if isinstance(statement, (ast.Import, ast.ImportFrom)):
            return "i"
        if "cli.read_options" in ast.unparse(statement):
            return "r"
        return "s" if "start.explain_failed_imports" in ast.unparse(statement) else "."

    docstring, *statements = ast.parse((ROOT / script).read_text()).body
    assert re.fullmatch(r"isi+\.+ri+\.+", "".join(map(letter, statements)))


@pytest.mark.parametrize("script", [*SCRIPTS, "train_openset.py"])
def test_options_are_checked_before_torch_is_imported(script, tmp_path):
    """A torch that cannot be imported stands before the real one."""
    (tmp_path / "torch.py").write_text("raise SystemExit('torch was imported')\n")
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    needed = ["--open", "fear"] if script == "train_openset.py" else []
    command = [sys.executable, script, "--dataset", "demo", *needed]

    def answer(*words):
        done = subprocess.run([*command, *words], cwd=ROOT, env=environment, capture_output=True, text=True)
        return done.returncode, done.stdout, done.stderr

    assert answer("--lr", "-1") == (2, "", "error: --lr has to be above 0, not -1\n")
    assert answer() == (1, "", "torch was imported\n")


# ---- help pages and command lines

@dataclass
class Losses:
    """Constants of the losses"""

    gamma: Annotated[float, cli.Between(0)] = 2.0
    """focal exponent (paper: 1)"""


@dataclass
class Small:
    dataset: Annotated[str, cli.OneOf({"demo": 1, "rafdb": 2})]
    """data set to train on"""
    epochs: Annotated[int, cli.Between(1)] = 20
    """epochs of training"""
    root: Path | None = None
    """folder of the data set (default: data/<dataset>)"""
    data: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """option of the data set; may be given several times"""
    sizes: Annotated[tuple[int, ...], cli.Rare] = (1, 2)
    """sides of the images (pixels)"""
    images: bool = True
    """do not write images"""
    fresh: Annotated[bool, cli.Rare] = False
    """start over"""
    loss: Annotated[Losses, cli.Rare] = dataclasses.field(default_factory=Losses)


def fill_small_defaults(args):
    return Small(args.dataset, epochs={"demo": 3, "rafdb": 50}[args.dataset])


def help_text(capsys, *words, Args=Small, fill_defaults=fill_small_defaults):
    with pytest.raises(SystemExit) as ended:
        cli.parse(Args, fill_defaults, words)
    assert not ended.value.code
    return capsys.readouterr().out


def test_help_shows_what_one_sets_and_help_all_the_rest(capsys):
    page = help_text(capsys, "--help")
    assert "--dataset {demo,rafdb}" in page and "--help-all shows 3 more options." in page and "--no-images" in page
    assert page.splitlines()[0].endswith("--dataset DATASET [options]")
    for rare in ("--sizes", "--fresh", "--gamma", "Constants of the losses"):
        assert rare not in page and rare in help_text(capsys, "--help-all")
    assert help_text(capsys, "-h") == page and "more options" not in help_text(capsys, "--help-all")


def test_a_default_is_shown_once_and_is_that_of_the_data_set(capsys):
    page = " ".join(help_text(capsys, "--help-all").split())
    for text in ("epochs of training (default: 20)", "(default: data/<dataset>) --data", "(paper: 1; default: 2)",
                 "(pixels; default: 1 2)", "start over", "data set to train on (required)"):
        assert text in page
    assert "default: None" not in page and "default: False" not in page and "default: True" not in page
    for name, epochs in (("demo", 3), ("rafdb", 50)):
        assert f"(default: {epochs})" in help_text(capsys, "--dataset", name, "--help")
    assert "(default: 20)" in help_text(capsys, "--dataset", "demo", "--no-such-option", "--help")


@pytest.mark.parametrize("name", ["make_fer_c", "report", "sweep", "datasets.check", "datasets.demo"])
def test_help_fits_eighty_columns(name, capsys):
    module = importlib.import_module(name)
    for flag in ("--help", "--help-all"):
        page = help_text(capsys, flag, Args=module.Args, fill_defaults=None)
        assert max(map(len, page.splitlines())) < 80
        for option in cli.declared_options(module.Args):
            assert option.text, f"{name}: {option.flag} has no help text"


@pytest.mark.parametrize("name", [*(script.removesuffix(".py") for script in SCRIPTS), "make_fer_c", "evaluate",
                                  "report", "sweep", "datasets.check", "datasets.demo"])
def test_texts_of_boolean_options_fit_the_flags_beside_them(name, capsys):
    """A protocol can turn an option on: then the help shows --no-x in place of --x, beside the same text. No text
    begins with a flag, and a text that stands beside either flag begins with "whether"."""
    module = importlib.import_module(name)
    released, fill_defaults = getattr(module, "RELEASED", None), getattr(module, "fill_defaults", None)
    if released is not None:
        fill_defaults = recipe_filler(released, module.RELEASED_ON)
    booleans = [option for option in cli.declared_options(module.Args) if option.kind is bool]
    shown = {option.name: set() for option in booleans}
    for protocol in ("paper", "released"):
        words = ["--dataset", "affwild", "--protocol", protocol] if fill_defaults else []
        page = help_text(capsys, *words, "--help-all", Args=module.Args, fill_defaults=fill_defaults)
        for option in booleans:
            flag, text = re.search(rf"^  (--(?:no-)?{option.flag[2:]})\s+(\S.*)$", page, re.MULTILINE).groups()
            shown[option.name].add(flag)
            assert not text.startswith("--"), f"{flag} {text}"
    changed = {option.name for option in booleans if len(shown[option.name]) > 1}
    assert all(option.text.startswith("whether ") for option in booleans if option.name in changed)
    if released is not None:
        assert changed == {name for name, value in (RELEASED | released).items() if isinstance(value, bool)}


# What takes long to import and is not needed to parse a command line.
SLOW_IMPORTS = {"torch", "lightning_fabric", "tensorboard", "timm", "matplotlib", "sklearn", "skimage", "numba",
                "scipy", "pandas", "cv2", "PIL"}


@pytest.mark.parametrize("command, more", [
    *((command, {"numpy"}) for command in [*SCRIPTS, "sweep.py", "make_fer_c.py", "report.py", "evaluate.py",
                                           "-m datasets.check", "datasets/check.py"]),
    ("train_openset.py", set())])
def test_help_waits_for_no_slow_import(command, more):
    done = subprocess.run([sys.executable, "-X", "importtime", *command.split(), "--help"], cwd=ROOT,
                          capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("usage: python")
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "tyro" in imported and not imported & (SLOW_IMPORTS | more)


def test_values_that_are_not_declared_are_refused():
    for words, message in ((["--dataset", "none"], "--dataset has to be one of demo, rafdb, not 'none'"),
                           (["--dataset", "demo", "--gamma", "-1"], "--gamma has to be at least 0, not -1"),
                           (["--dataset", "demo", "--gamma", "nan"], "--gamma has to be a finite number, not nan")):
        with pytest.raises(UserError, match=message):
            cli.check_values(cli.parse(Small, argv=words))


def test_a_command_line_gives_the_options_back():
    usual = Small("demo")
    assert cli.command_line("x.py", usual, usual) == ["x.py"]
    options = Small("a b", epochs=3, data=("a=1", "b=2 3"), sizes=(4,), images=False, fresh=True, loss=Losses(gamma=.5))
    words = cli.command_line("x.py", options, usual)
    assert words == ["x.py", "--dataset", "a b", "--epochs", "3", "--data", "a=1", "--data", "b=2 3", "--sizes", "4",
                     "--no-images", "--fresh", "--gamma", "0.5"]
    assert cli.parse(Small, argv=words[1:]) == options
    assert cli.command_line("x.py", usual, usual, always=["dataset"]) == ["x.py", "--dataset", "demo"]
    assert cli.command_line("x.py", usual, options)[-4:] == ["--images", "--no-fresh", "--gamma", "2.0"]
    more = Small("demo", data=("a=1", "b=2"))
    assert cli.command_line("x.py", more, Small("demo", data=("a=1",))) == ["x.py", "--data", "b=2"]
    with pytest.raises(ValueError, match="--root"):
        cli.command_line("x.py", usual, Small("demo", root=Path("a")))


def test_exit_codes(monkeypatch, capsys):
    @dataclass
    class Args:
        pass

    def ends_with(main):
        monkeypatch.setattr(sys, "argv", ["x"])
        with pytest.raises(SystemExit) as ended:
            cli.run(main, Args)
        return ended.value.code or 0, capsys.readouterr().err

    def refuse(args):
        raise UserError("no such thing; do this")

    def interrupt(args):
        raise KeyboardInterrupt

    assert ends_with(lambda args: None) == (0, "")
    assert ends_with(refuse) == (2, "error: no such thing; do this\n")
    assert ends_with(interrupt)[0] == 130


def test_files_appear_whole(tmp_path):
    path = tmp_path / "a/b.txt"
    write_text(path, "one\n")
    with pytest.raises(RuntimeError):
        write_whole(path, lambda file: (file.write(b"tw"), (_ for _ in ()).throw(RuntimeError())))
    assert path.read_bytes() == b"one\n" and os.listdir(path.parent) == ["b.txt"]
    assert final_name(temporary_path(path).name) == "b.txt"
    assert final_name(".b.txt.x.tmp") is None and final_name("b.txt") is None


def test_rows_of_different_columns(tmp_path):
    """The columns are those of all rows, in the order in which they appear; a missing cell is empty."""
    path = tmp_path / "metrics.csv"
    write_rows(path, [{"epoch": 0, "f1": 0.5}, {"epoch": 1, "new": 0.25, "f1": 0.75}])
    assert path.read_text() == "epoch,f1,new\n0,0.5,\n1,0.75,0.25\n"
    assert read_rows(path)[0] == {"epoch": "0", "f1": "0.5", "new": ""}


# ---- outside the environment: a copy of the script in a folder of its own, and a Python without packages

SMALL_SCRIPT = '''"""Starts as all scripts do."""
from support import start

if __name__ == "__main__":
    start.explain_failed_imports()

{body}
'''


def run_small(folder, body, *words, python=(sys.executable, "-S"), **environment):
    """Run a script of our make that imports and does `body`; python: the interpreter and its flags."""
    (folder / "support").mkdir(exist_ok=True)
    for name in ("__init__.py", "start.py"):
        shutil.copy(ROOT / "support" / name, folder / "support")
    (folder / "small.py").write_text(SMALL_SCRIPT.format(body=body))
    others = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}  # it may name packages
    return subprocess.run([*python, "small.py", *words], cwd=folder, env=others | environment, capture_output=True,
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


@pytest.mark.parametrize("closed", [(1,), (2,), (1, 2)])
def test_outputs_that_are_closed(tmp_path, closed):
    """Python's `sys.stdout` or `sys.stderr` is None then."""
    shell = " ".join(f"{number}>&-" for number in closed)
    start_small = f'{shlex.quote(sys.executable)} -S "$0" {shell}'
    done = run_small(tmp_path, "raise KeyboardInterrupt", python=("bash", "-c", start_small))
    assert done.returncode == 130 and done.stdout == ""
    assert done.stderr == ("" if 2 in closed else "interrupted; start the same command again\n")
    command = [sys.executable, "make_fer_c.py", "--dataset", "nothing"]
    done = subprocess.run(["bash", "-c", f"{shlex.join(command)} {shell}"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("error: ") == (0 if 2 in closed else 1)


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
        assert (done.returncode, done.stderr) == (130, "interrupted; start the same command again\n"), body


def test_other_errors_keep_their_traceback_and_nothing_happens_on_import(tmp_path):
    for body in ("1 / 0", "import support.nothing", "raise ImportError('of our own')"):
        done = run_small(tmp_path, body)
        assert done.returncode == 1 and "Traceback" in done.stderr, body
    assert "excepthook" not in python("import sys, sweep; print(sys.excepthook)").stdout.replace(
        "<built-in function excepthook>", "")


def guarded(path):
    """Whether a script calls `start.explain_failed_imports()` before it imports anything outside Python's library."""
    for statement in ast.parse(path.read_text()).body:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            names = [statement.module] if isinstance(statement, ast.ImportFrom) else [a.name for a in statement.names]
            if any(name.split(".")[0] not in {*sys.stdlib_module_names, "support"} for name in names):
                return False
        elif isinstance(statement, ast.If):
            return "start.explain_failed_imports()" in ast.unparse(statement)
    return False


@pytest.mark.parametrize("script", [*SCRIPTS, "make_fer_c.py", "evaluate.py", "report.py", "sweep.py"])
def test_scripts_are_guarded(script):
    assert guarded(ROOT / script)


# ---- set-up, with stand-ins for Python

def set_up(folder, python3, option="--setup", **environment):
    """`bash run.sh --setup` in a copy, where `python3` is a script of ours and nothing else is called Python."""
    for name in ("run.sh", "requirements.txt", "requirements-dev.txt"):
        shutil.copy(ROOT / name, folder)
    tools = folder / "tools"
    tools.mkdir(exist_ok=True)
    for name in ("bash", "cat", "cksum", "df", "awk", "grep", "tail", "dirname", "mkdir", "chmod", "sed", "cp", "sh"):
        if not (tools / name).exists():
            (tools / name).symlink_to(shutil.which(name))
    if python3:
        (tools / "python3").write_text("#!/bin/sh\n" + python3)
        (tools / "python3").chmod(0o755)
    return subprocess.run(["bash", "run.sh", option], cwd=folder, env={"PATH": str(tools)} | environment,
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


def test_setup_for_the_tests_installs_both_files_in_one_go(tmp_path):
    """Whoever has the packages of the tests has those of the commands; the marker knows both files."""
    assert set_up(tmp_path, MAKES_VENV, "--setup-tests", PIP="exit 0").returncode == 0
    calls = (tmp_path / "calls").read_text()
    assert calls.count("install") == 1 and "-r requirements.txt -r requirements-dev.txt" in calls
    for option in ("--setup", "--setup-tests"):
        assert set_up(tmp_path, MAKES_VENV, option, PIP="exit 0").returncode == 0
    assert (tmp_path / "calls").read_text().count("install") == 1
    marker = (tmp_path / ".venv/installed").read_text().splitlines()
    (tmp_path / ".venv/installed").write_text(marker[0] + "\n")
    assert set_up(tmp_path, MAKES_VENV, "--setup", PIP="exit 0").returncode == 0
    assert (tmp_path / "calls").read_text().count("install") == 1
    assert set_up(tmp_path, MAKES_VENV, "--setup-tests", PIP="exit 0").returncode == 0
    assert (tmp_path / "calls").read_text().count("install") == 2


def test_every_package_is_pinned_once():
    names = []
    for file in ("requirements.txt", "requirements-dev.txt"):
        lines = [line for line in (ROOT / file).read_text().splitlines() if not line.startswith("#")]
        assert all(re.fullmatch(r"[A-Za-z0-9-]+==[0-9.]+", line) for line in lines), file
        names += [line.partition("==")[0] for line in lines]
    assert len(names) == len(set(names))


def test_optional_packages_have_one_version():
    """Those that tests use are in two files."""
    optional = re.findall(r"^([\w-]+==[\d.]+)  # ", (ROOT / "requirements-optional.txt").read_text(), re.M)
    in_tests = (ROOT / "requirements-dev.txt").read_text().splitlines()
    names = {package.partition("==")[0] for package in optional}
    assert "onnxruntime" in names and all(
        package in in_tests or package.startswith("wandb==") for package in optional)


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
