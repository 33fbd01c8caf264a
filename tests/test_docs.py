"""The documents are true: their links, options and file names exist, and every command in them runs.

A block marked `bash` or `python` is run, small, in a folder of its own; one marked `bash not-run: REASON` is not. The
blocks of a page run one after the other, in one shell, as a reader types them.
"""
import ast
import dataclasses
import glob
import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple, get_type_hints

import pytest
import yaml

import evaluate
import house_map
import make_fer_c
import train_baseline
from building import options, plan
from datasets import check, demo
from datasets.drawn import layouts
from support import cli
from training.options import recipe_filler
from test_check import drawn

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
FOLDERS = ("support", "datasets", "building", "models", "compute", "training", "evaluation", "reporting", "sweeping")
README_LINES = 200
NOT_RUN = "not-run: "
TOOLS = {  # options of other people's programs that the documents name
    "--nproc-per-node", "--nnodes", "--rdzv-backend", "--rdzv-id", "--rdzv-endpoint",  # torchrun
    "--array", "--gpus", "--cpus-per-task", "--wrap", "--parsable", "--dependency",  # sbatch
    "--quiet",  # sha256sum
    "--shm-size",  # docker
    "--no-deps",  # pip
    "--help", "--help-all",  # tyro's, and that of the training scripts
}


class Block(NamedTuple):
    """A fenced block: its language, what stands behind the language, and its text."""

    language: str
    remark: str
    text: str


def blocks_of(page: Path) -> list[Block]:
    fence = re.compile(r"^```(\w*) ?([^\n]*)\n(.*?)^```$", re.M | re.S)
    return [Block(*match) for match in fence.findall(page.read_text())]


def prose_of(page: Path) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)


def anchor(heading: str) -> str:
    """The name under which GitHub links to a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


# ---- links, options, files


def test_the_readme_is_short():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= README_LINES
    doors = "\n".join(lines[:25])
    assert all(door in doors for door in ("**try it**", "**your data**", "**your model**", "**just the functions**"))


@pytest.mark.parametrize("name", NAMES)
def test_every_block_is_run_or_says_why_not(name):
    for block in blocks_of(ROOT / name):
        assert block.language in ("", "bash", "python", "bibtex"), block
        assert not block.remark or (block.language == "bash" and block.remark.startswith(NOT_RUN)), block


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name):
    page = ROOT / name
    for target in re.findall(r"\]\(([^)\s]+)\)", prose_of(page)):
        if re.match(r"https?://", target):
            continue
        path, _, heading = target.partition("#")
        linked = page.parent / path if path else page
        assert linked.exists(), f"{name} links to {target}"
        if heading:
            headings = re.findall(r"^#+ (.*)$", linked.read_text(), re.M)
            assert heading in map(anchor, headings), f"{name} links to {target}"


def options_of(kind: type) -> set[str]:
    """Every option of a dataclass of options, groups included."""
    names = set()
    hints = get_type_hints(kind)
    for field in dataclasses.fields(kind):
        if dataclasses.is_dataclass(hints[field.name]):
            names |= options_of(hints[field.name])
        else:
            word = field.name.rstrip("_").replace("_", "-")  # `from_` is --from
            names |= {f"--{word}", f"--no-{word}"}
    return names


@pytest.fixture(scope="module")
def known_options():
    scripts = [path.stem for path in ROOT.glob("*.py") if "class Args" in path.read_text()]
    modules = [*scripts, "datasets.check", "datasets.demo", "building.options"]
    modules += [f"benchmarks.{path.stem}" for path in (ROOT / "benchmarks").glob("*.py")]
    known = set(TOOLS)
    for name in modules:
        module = importlib.import_module(name)
        if hasattr(module, "Args"):
            known |= options_of(module.Args)
    for script in ("run.sh", "test.sh"):
        known |= set(re.findall(r"--[a-z][a-z-]+", (ROOT / script).read_text()))
    for path in (ROOT / "tests").glob("fuzz_*.py"):
        known |= set(re.findall(r"--[a-z][a-z-]+", path.read_text()))
    return known


@pytest.mark.parametrize("name", NAMES)
def test_options_exist(name, known_options):
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", (ROOT / name).read_text()))
    assert not named - known_options


@pytest.mark.parametrize("name", [name for name in NAMES if name != "CHANGELOG.md"])
def test_files_exist(name):
    """Files of the project that are named in the text; x.py and X.py stand for a reader's own."""
    pattern = r"`((?:(?:" + "|".join(FOLDERS) + r"|tests|benchmarks|docs)/)?[\w/-]+\.(?:py|sh|cff|yml|toml))`"
    named = {path for path in re.findall(pattern, prose_of(ROOT / name)) if not re.search(r"\b[a-z_]*[xX]\.py", path)}
    missing = {path for path in named if not (ROOT / path).exists()}
    assert not missing


def test_names_of_the_code_exist():
    """Names of functions, classes, tables and tests that CONTRIBUTING.md gives are in the code."""
    named = set(re.findall(r"`([A-Za-z_]\w*)(?:\(.*?\))?`", prose_of(ROOT / "CONTRIBUTING.md")))
    words = set()
    for folder in (ROOT, *(ROOT / name for name in (*FOLDERS, "tests", "benchmarks"))):
        for file in folder.glob("*" if folder == ROOT else "**/*"):
            if file.suffix in {".py", ".sh", ".json", ".html", ".toml"}:
                words |= set(re.findall(r"\w+", file.read_text(encoding="utf-8")))
    assert named - words == set()


def test_the_map_names_every_file():
    """CONTRIBUTING.md has a line for every Python file of the root and of the floors; python tests/house_map.py writes
    them again."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    assert text.partition(house_map.HEADING)[2] == house_map.house_map()


@pytest.mark.parametrize("package", [
    "support", "building", "models", "training", "training/open_set", "evaluation", "evaluation/source_kinds",
    "sweeping"])
def test_lists_of_files_are_whole(package):
    """The docstring of a package that lists files names all of its files and folders, and no file that is not
    there."""
    folder = ROOT / package
    text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text()))
    named = set(re.findall(r"(?<![\w/])[a-z]\w*(?:\.py\b|/(?!\w))", text))
    modules = {path.name for path in folder.glob("[!_]*.py")}
    packages = {f"{path.parent.name}/" for path in folder.glob("*/__init__.py")}
    assert modules | packages <= named
    others = {name for name in named - modules if name.endswith(".py")}
    assert not {name for name in others if not any((place / name).exists() for place in (folder.parent, ROOT))}


def test_citation():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0" and citation["license"] == "MIT"
    for work in (citation, citation["preferred-citation"]):
        assert work["title"] and work["type"] and all(author["name"] for author in work["authors"])
    assert citation["message"] and "2312.11542" in citation["preferred-citation"]["url"]


def test_python_blocks_are_python():
    for page in PAGES:
        for block in blocks_of(page):
            if block.language == "python":
                ast.parse(block.text)


# ---- the commands for a data set, in this process


COMMANDS = {  # what runs a command, what makes its defaults, what is added to it
    "datasets.demo": (demo, None, ""), "datasets.check": (check, None, ""),
    "make_fer_c.py": (make_fer_c, options.fill_defaults, "--limit 2 --image-size 32 --workers 1"),
    "train_baseline.py": (train_baseline, recipe_filler(train_baseline.RELEASED),
                          "--epochs 1 --weights none --image-size 32 --batch-size 64 --workers 0"),
    "evaluate.py": (evaluate, None, "--workers 0"),
}


def commands_of_sets() -> dict[str, list[str]]:
    """{heading: the lines of its commands} of the data sets in docs/data.md."""
    sections = (ROOT / "docs/data.md").read_text().split("\n## ")[2:]
    parts = [section.split("\n", 1) for section in sections]
    return {heading: re.findall(r"^python .*", text, re.M) for heading, text in parts}


def run(line: str, folder: Path) -> int | None:
    """A line of the page in this process, its folder for trials replaced. Returns what its main returns."""
    line = line.replace(" try/", f" {folder}/").replace("${FERC_DATA:-data}", str(folder))
    words = []
    for word in shlex.split(line.replace("${FERC_RUNS:-runs}", "runs"), comments=True):
        words += glob.glob(word) if word.endswith("*") else [word]
    name, *words = words[2:] if words[1] == "-m" else words[1:]
    module, fill_defaults, more = COMMANDS[name]
    return module.main(cli.parse(module.Args, fill_defaults, [*words, *more.split()]))


def test_every_data_set_has_commands():
    assert {heading: len(lines) for heading, lines in commands_of_sets().items()} == {
        "AffectNet": 5, "AffWild (Aff-Wild2)": 5, "RAF-DB": 6, "FER+": 5, "A folder per class": 5, "Demo": 4}


@pytest.mark.slow
@pytest.mark.parametrize("heading, layout", [
    ("AffectNet", "affectnet-2021"), ("AffectNet", ""), ("RAF-DB", ""), ("FER+", ""), ("A folder per class", "")])
def test_the_commands_of_a_set_work(heading, layout, tmp_path, monkeypatch, capsys, small):
    """Layout, check, build, training and scoring of a set; after AffectNet the same of AffWild with its mixture."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FERC_DATA", str(tmp_path))
    monkeypatch.setattr(layouts, "faces", drawn)
    monkeypatch.setattr(plan, "D_WORST_IMAGES", 2)
    lines = commands_of_sets()[heading] + (commands_of_sets()["AffWild (Aff-Wild2)"] if layout else [])
    for line in lines:
        if layout and "--layout affectnet-old" in line:
            line = line.replace("affectnet-old", layout)
        assert not run(line, tmp_path), line
    assert "usable" in capsys.readouterr().out
    runs = sorted(path.relative_to(tmp_path).parts[1] for path in tmp_path.glob("runs/*/baseline/*/*/*/scores.csv"))
    assert len(runs) == 1 + bool(layout)
    if layout:
        manifest = json.loads((tmp_path / "AffWild-C/manifest.json").read_text())
        assert manifest["notes"]["mixture"].startswith("given")


# ---- every page, typed into a shell


SHIMS = {  # program -> what stands in for it; run.sh lists its jobs, test.sh explains itself
    "python": 'exec {python} {tests}/small_python.py "$@"',
    "bash": """case "$1" in
  run.sh) shift; export FERC_PYTHON=python; exec {bash} run.sh --list "$@" ;;
  test.sh) exec {bash} test.sh --help ;;
esac
exec {bash} "$@\"""",
    "torchrun": """words=()
for word; do
  case "$word" in *.py) words+=({tests}/small_python.py) ;; esac
  words+=("$word")
done
exec {python} -m torch.distributed.run "${{words[@]}}\"""",
}


@pytest.fixture
def workplace(tmp_path):
    """A folder that looks like the project's, with data and runs of its own. Returns it and the environment for it."""
    for path in ROOT.iterdir():
        if path.name not in ("data", "runs") and not path.name.startswith("."):
            (tmp_path / path.name).symlink_to(path)
    programs = tmp_path / ".venv/bin"
    programs.mkdir(parents=True)
    (programs / "activate").touch()
    places = {"python": shlex.quote(sys.executable), "tests": shlex.quote(str(ROOT / "tests")), "bash": "/bin/bash"}
    for name, body in SHIMS.items():
        (programs / name).write_text(f"#!/bin/bash\n{body.format(**places)}\n")
        (programs / name).chmod(0o755)
    (tmp_path / "data/rafdb").mkdir(parents=True)  # run.sh without a name looks for the paper's sets
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FERC_")}
    return tmp_path, kept | {"PATH": f"{programs}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}


def script_of(page: Path, folder: Path) -> str:
    """The blocks of a page as one shell script; Python blocks become files in the folder."""
    lines = ["set -euo pipefail"]
    for number, block in enumerate(blocks_of(page)):
        if block.language == "bash" and not block.remark:
            lines.append(block.text)
        elif block.language == "python":
            (folder / f"block{number}.py").write_text(block.text)
            lines.append(f"python block{number}.py")
    return "\n".join(lines)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name != "CHANGELOG.md"])
def test_every_command_runs(name, workplace):
    folder, environment = workplace
    script = script_of(ROOT / name, folder)
    if name == "README.md":  # it supposes that FER+ is there
        script = f"python -m datasets.demo --layout ferplus --out data/ferplus\n{script}"
    done = subprocess.run(["/bin/bash", "-xc", script], cwd=folder, env=environment, capture_output=True, text=True,
                          timeout=3000)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    assert "Traceback" not in done.stderr
    scored = {str(path.relative_to(folder).parent) for path in folder.glob("**/scores.csv")}
    if name == "README.md":
        assert scored == {f"runs/ferplus/baseline/{loss}/noise0/seed0" for loss in ("ce", "maxent+mbls")}
        assert (folder / "report.html").is_file() and (folder / "runs/report/tables.md").is_file()
    if name == "docs/data.md":
        assert len(scored) == len(commands_of_sets()) and done.stdout.count("\nusable") == len(scored)
        manifest = json.loads((folder / "try/AffWild-C/manifest.json").read_text())
        assert manifest["notes"]["mixture"].startswith("given")
