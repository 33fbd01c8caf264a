"""The sweep: lines that are wrong are refused, order and failures are kept to, and no process is left."""
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

import datasets
from datasets import class_list
from support import data_set_tables, run_folder
from support.errors import UserError
from sweeping.begun_runs import find_run_folder
from sweeping.jobs import read_jobs
from cases import mostly_slow

ROOT = Path(__file__).parent.parent
ALGORITHMS = re.search('^algorithms="(.*)"$', (ROOT / "run.sh").read_text(), re.M)[1].split()

# Stands in for Python: `sweep.py`, `support/data_set_tables.py` and `datasets.class_list` run as they are. Every other
# start adds a line to $CALLED, and what it would have made appears. $FAIL: a pattern of commands that fail. $HANG: of
# those that wait to be stopped.
STAND_IN = f"""#!{sys.executable} -IS
import json, os, re, signal, sys, time
words = sys.argv[1:]
if os.path.basename(words[0]) in ("sweep.py", "data_set_tables.py") or words[:2] == ["-m", "datasets.class_list"]:
    os.execv({sys.executable!r}, [{sys.executable!r}, *words])

def note(text):
    with open(os.environ["CALLED"], "a") as file:
        file.write(text + "\\n")

def option(name, usual=None):
    return words[words.index(name) + 1] if name in words else usual

def write(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as file:
        file.write(text)

line = " ".join(words)
note(line)
if re.search(os.environ.get("HANG") or "$.", line):
    def stop(number, frame):
        note("saved")
        sys.exit(143)
    signal.signal(signal.SIGTERM, stop)
    while True:
        time.sleep(0.02)
if re.search(os.environ.get("FAIL") or "$.", line):
    print("error: this one fails")
    sys.exit(3)
if words[0] in ("make_fer_c.py", "make_fer_p.py"):
    manifest = {{"set_version": "0ab1", "made_with": {{"images": 16, "protocol": option("--protocol", "paper")}}}}
    usual = "64" if option("--dataset") == "demo" else "224"
    manifest["made_with"]["size"] = int(option("--image-size", usual))
    write(option("--out") + "/manifest.json", json.dumps(manifest))
if words[0].startswith("train_"):
    name = words[0][len("train_"):-len(".py")]
    percent = round(100 * float(option("--noise", "0")))
    folder = os.path.join(option("--runs"), option("--dataset"), name, option("--loss"), f"noise{{percent}}",
                          "seed" + option("--seed"))
    write(folder + "/args.json", json.dumps({{"epochs": 1, "differs": {{}}}}))
    write(folder + "/metrics.csv", "epoch\\n0\\n")
    write(folder + "/best.pt", "")
    print("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS"), "GPU", os.environ.get("CUDA_VISIBLE_DEVICES"))
if words[0] == "evaluate.py":
    write(words[1] + "/scores.csv", "set,set_version,method,corruption,severity,metric,value,precision\\n"
          + os.path.basename(option("--set")) + ",0ab1,softmax,pooled,,n,16,32\\n")
"""


class Place:
    """A stand-in for Python, a data folder and a runs folder, in a folder with a space in its name."""

    def __init__(self, folder):
        self.folder = folder / "a b"
        self.folder.mkdir()
        self.data, self.runs, self.called = self.folder / "data", self.folder / "runs", self.folder / "called"
        self.python = self.folder / "python"
        self.python.write_text(STAND_IN)
        self.python.chmod(0o755)

    def environment(self, **changes):
        usual = {"FERC_PYTHON": str(self.python), "FERC_DATA": str(self.data), "FERC_RUNS": str(self.runs),
                 "CALLED": str(self.called)}
        return {name: value for name, value in (os.environ | usual | changes).items() if value is not None}

    def bash(self, *arguments, cwd=ROOT, run=ROOT / "run.sh", **changes):
        return subprocess.run(["bash", str(run), *arguments], cwd=cwd, env=self.environment(**changes),
                              capture_output=True, text=True, timeout=120)

    def sweep(self, lines, *arguments, **changes):
        """sweep.py with lines whose columns are separated by |."""
        return subprocess.run([sys.executable, "sweep.py", *arguments], input=lines.replace("|", "\t"), cwd=ROOT,
                              env=self.environment(**changes), capture_output=True, text=True, timeout=120)

    def calls(self):
        """The commands that were started, as (script, the rest), since the last call of this function."""
        lines = self.called.read_text().splitlines() if self.called.exists() else []
        self.called.write_text("")
        return [tuple(line.partition(" ")[::2]) for line in lines]

    def scripts(self):
        return [script for script, _ in self.calls()]


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


# ---- the lines


@pytest.mark.parametrize("lines, message", [
    ("", "there is no job"),
    ("a||true\nb|c|true\n", "the job b comes after c, which is not among the jobs"),
    ("a||true\na||true\n", "line 2 of the jobs: the id a appears a second time"),
    ("a|b|true\nb|c|true\nc|a|true\n", "these jobs wait for each other"),
    ("a|a|true\n", "these jobs wait for each other: a"),
    ("a||true|x\n", "line 1 of the jobs has 4 columns"),
    ("a true\n", "line 1 of the jobs has 1 columns"),
    ("a||echo 'x\n", "line 1 of the jobs: the command cannot be read"),
    ("a|| \n", "the command of a is empty"),
    ("../a||true\n||true\n", "line 2 of the jobs: '' is no id"),
    ("a b||true\n", "'a b' is no id"),
    ("a||true {run:b}\n", "b is no training that it comes after"),
    ("b||true\na|b|true {run:b}\n", "b is no training that it comes after"),
    ("r|*|true\na|r|true\n", "the job a comes after r, which comes after everything"),
    ("a||true\nr|*,a|true\n", "the job r comes after *"),
])
def test_lines_that_are_wrong_are_refused(lines, message):
    with pytest.raises(UserError, match=re.escape(message)):
        read_jobs(lines.replace("|", "\t").encode())


def test_all_lines_are_read_before_a_job_starts(place):
    started = place.folder / "started"
    for last in ("b|c|true", "b|\xff"):
        done = place.sweep(f"a||touch {shlex.quote(str(started))}\n{last}\n")
        assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
        assert not started.exists()
    with pytest.raises(UserError, match="UTF-8"):
        read_jobs(b"a\t\t\xff\n")


def test_words_reach_the_program_as_they_are_and_its_input_is_empty(place):
    """No shell: nothing is expanded; a program that reads its input gets none of the jobs."""
    code = "import sys; print(sys.argv[1:], sys.stdin.read())"
    words = [sys.executable, "-c", code, "a b", "$HOME", "*", "x;y", "it's", "`id`"]
    done = place.sweep(f"a||{shlex.join(words)}\nb|a|{shlex.join(words)}\n")
    assert done.returncode == 0 and done.stdout.count(f"{words[3:]} \n") == 2


def test_order_failures_and_the_last_job(place):
    """b fails: c, and d after c, are left out and named; e does not depend on it and runs; the last job runs last."""
    note = place.folder / "order"

    def line(name, after, code="0"):
        return f"{name}|{after}|sh -c 'echo {name} >>\"$0\"; exit {code}' {shlex.quote(str(note))}\n"

    lines = line("z", "*") + line("d", "c") + line("c", "b,e") + line("b", "a", "7") + line("a", "") + line("e", "a")
    for slots in ("1", "3"):
        note.write_text("")
        done = place.sweep(lines, "--jobs", slots, "--logs", str(place.folder / "logs"))
        order = note.read_text().split()
        assert done.returncode == 1 and order[0] == "a" and set(order[1:3]) == {"b", "e"} and order[3:] == ["z"]
        assert "b FAILED (exit code 7)" in done.stdout and "failed (1):\n  b: sh -c" in done.stderr
        assert "left out, because they come after one that failed (2):\n  d\n  c\n" in done.stderr \
            or "left out, because they come after one that failed (2):\n  c\n  d\n" in done.stderr


def test_a_program_that_is_not_there_is_a_failure(place):
    done = place.sweep("a||no-such-program\nb||true\n")
    assert done.returncode == 1 and "a FAILED (No such file or directory)" in done.stdout
    assert "b done" in done.stdout and "Traceback" not in done.stderr


def test_beside_others_a_job_gets_cores_a_gpu_and_a_log(place):
    logs = place.folder / "logs"
    code = ("import os,time; time.sleep(.3); print(*[os.environ[name] for name in "
            "('OMP_NUM_THREADS', 'CUDA_VISIBLE_DEVICES', 'FERC_JOBS_ON_A_DEVICE')])")
    lines = "".join(f"{name}||{shlex.join([sys.executable, '-c', code])}\n" for name in ("x/a", "x/b"))
    done = place.sweep(lines, "--jobs", "2", "--logs", str(logs), CUDA_VISIBLE_DEVICES="4,7", OMP_NUM_THREADS=None)
    assert done.returncode == 0, done.stderr
    last = [(logs / f"x-{name}.log").read_text().splitlines()[-1] for name in "ab"]
    cores = max(1, len(os.sched_getaffinity(0)) // 2)
    assert sorted(last) == [f"{cores} 4 1", f"{cores} 7 1"]
    again = place.sweep(lines, "--jobs", "2", "--logs", str(logs), CUDA_VISIBLE_DEVICES="4")
    assert again.returncode == 0 and (logs / "x-a.log").read_text().count("=== ") == 2  # the first log is kept
    assert (logs / "x-a.log").read_text().splitlines()[-1].endswith(" 4 2")  # both jobs have the same GPU
    clash = place.sweep("x/a||true\nx-a||true\n", "--jobs", "2", "--logs", str(logs))
    assert clash.returncode == 2 and "the same log" in clash.stderr


def test_what_is_left_in_a_group_is_killed_and_time_left_is_shown(place):
    done = place.sweep("a||sh -c 'sleep 100 & sleep 0.3'\nb|a|true\n")
    assert done.returncode == 0 and "[1/2] a done in 0 s; about 0 s left" in done.stdout
    # tests/processes.py finds the sleep if it is still there


# ---- the folder of a training command


def test_folder_of_a_command(tmp_path):
    def begun(last, loss="ce", **args):
        folder = tmp_path / "demo/SCN" / loss / "noise20" / last
        folder.mkdir(parents=True)
        (folder / "args.json").write_text(json.dumps(args))
        return folder

    def found(*options):
        return find_run_folder(("python", "train_SCN.py", "--dataset", "demo", f"--runs={tmp_path}", "--noise", "0.20",
                                "--seed", "3", *options))

    usual = {"lr": 2.5e-4, "image_size": 64, "detach_multiplier": True, "data": [], "precision": "32-true"}
    assert found() is None
    plain = begun("seed3", differs={}, **usual)
    small = begun("seed3-0123abcd", differs={"image_size": 48}, **usual | {"image_size": 48})
    data = begun("seed3-0123abcf", differs={"data": ["a=1", "b=2"]}, **usual | {"data": ["a=1", "b=2"]})
    assert found() == found("--lr", "0.00025", "--workers", "0", "--cache", "x y", "--compile") == plain
    for flag in ("fresh", "keep-last", "track", "compile", "deterministic", "no-cuda-graphs", "no-cache"):
        assert found(f"--{flag}") == plain, flag
    assert found("--no-compile") == found("--no-fresh") == plain
    assert found("--image-size", "48") == found("--image_size=48") == small
    assert found("--data", "a=1", "--data=b=2") == data
    half = begun("seed3-0123abd0", differs={"precision": "bf16-mixed"}, **usual | {"precision": "bf16-mixed"})
    assert found("--precision", "32") == found("--precision", "auto") == plain and found("--precision", "bf16") == half
    assert found("--lr", "1e-4") is None
    calibrated = begun("seed3", "maxent+mbls", differs={}, **usual)
    flag = begun("seed3-0123abce", "maxent+mbls", differs={"detach_multiplier": False},
                 **usual | {"detach_multiplier": False})
    assert found("--calib") == found("--loss", "maxent+mbls") == found("--calib", "--detach-multiplier") == calibrated
    assert found("--calib", "--no-detach-multiplier") == flag
    assert found("--no-detach-multiplier", "--gamma", "3") == plain  # cross-entropy does not have these constants
    aaai = begun("seed3", "maxent-aaai+mbls", differs={"maxent_multiplier": "aaai"},
                 **usual | {"maxent_multiplier": "aaai"})
    assert found("--loss", "maxent-aaai+mbls") == found("--calib", "--maxent-multiplier", "aaai") == aaai
    first, second = tmp_path / "first.pt", tmp_path / "second.pt"
    first.write_bytes(b"weights")
    second.write_bytes(b"weights")
    contents = {"contents": {"weights": run_folder.digest_of_file(first)}}
    of_file = begun("seed3-0123abd1", differs={"weights": contents["contents"]["weights"]},
                    **usual | {"weights": str(first)} | contents)
    assert found("--weights", str(first)) == found("--weights", str(second)) == of_file
    first.write_bytes(b"other weights")
    assert found("--weights", str(first)) is None
    for wrong, message in ((("x.py",), "no command that runs a train"), (("train_SCN.py", "x"), "'x' is no option"),
                           (("train_SCN.py", f"--runs={tmp_path}"), "names no --dataset"),
                           (("train_SCN.py", f"--runs={tmp_path}", "--dataset=demo", "--seed=x"), "is no number")):
        with pytest.raises(UserError, match=message):
            find_run_folder(wrong)


def test_folder_of_from_the_command_line(tmp_path):
    folder = run_folder.place(tmp_path, "demo", "SCN", "ce", 0, 0, {})
    command = [sys.executable, "sweep.py", "--folder-of", "train_SCN.py", "--dataset", "demo", "--runs", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "start it: train_SCN.py --dataset demo" in done.stderr and not done.stdout
    folder.mkdir(parents=True)
    (folder / "args.json").write_text('{"differs": {}}')
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == f"{folder}\n" and done.returncode == 0, done.stderr


def test_the_sweep_never_imports_torch():
    code = ("import sys, sweep; from sweeping.begun_runs import find_run_folder, shared_settings;"
            "shared_settings(); find_run_folder(('train_x.py', '--dataset', 'demo'));"
            "sys.exit('torch' in sys.modules)")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=os.environ | {"FERC_RUNS": str(ROOT)},
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# ---- run.sh


def test_data_sets_come_from_the_tables():
    tables = data_set_tables.read_tables(ROOT / "datasets/__init__.py")
    assert tables == {"DATASETS": datasets.DATASETS, "TITLES": datasets.TITLES, "GMM_FROM": datasets.GMM_FROM}


@pytest.mark.slow
def test_a_new_data_set_needs_no_edit_in_bash(place):
    """In a copy with one more row in each table; the copy and the folder it is called from have a space in their
    names."""
    copy = place.folder / "copy of it"
    copy.mkdir()
    for name in ("run.sh", "sweep.py", *(path.name for path in ROOT.glob("train_*.py"))):
        shutil.copy(ROOT / name, copy)
    for name in ("datasets", "support", "sweeping", "training"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    table = copy / "datasets/__init__.py"
    table.write_text(table.read_text().replace('"demo": "Demo"', '"demo": "Demo", "web": "Web Faces"').replace(
        '"demo": "datasets.demo"', '"demo": "datasets.demo", "web": "datasets.web"'))
    done = place.bash("web", "--list", "--only", "SCN/ce", "--seeds", "5", cwd=place.folder, run="copy of it/run.sh")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"cd {shlex.quote(str(copy))} && ") and done.stdout.count("\n") == 1
    assert shlex.quote(str(place.data / "Web Faces-C")) in done.stderr
    ran = place.bash("web", "--only", "SCN/ce", "--seeds", "5", cwd=place.folder, run="copy of it/run.sh",
                     FERC_DATA="data", FERC_RUNS="runs")
    assert ran.returncode == 0, ran.stderr
    assert place.scripts() == ["make_fer_c.py", "train_SCN.py", "evaluate.py", "report.py"]
    assert (place.runs / "web/SCN/ce/noise0/seed5/scores.csv").exists()  # relative folders are the caller's
    assert (place.data / "Web Faces-C/manifest.json").exists()
    listed = place.bash("web", "--list", "--only", "(SCN|RUL)/ce", "--seeds", "5", cwd=place.folder,
                        run="copy of it/run.sh")
    assert listed.stdout.count("\n") == 1 and "train_RUL.py" in listed.stdout and not listed.stderr


@pytest.mark.parametrize("arguments, message", [
    (["images"], "unknown data set images; known: affectnet affwild"), (["check"], "unknown data set check"),
    (["../x"], "unknown data set ../x"), (["rafbd"], "unknown data set rafbd"),
    (["ferplus", "demo", "ferplus"], "ferplus is named twice"),
    (["--demo", "ferplus"], "--demo takes no data set"), (["--demmo"], "unknown option --demmo"),
    (["--demo", "--only", "baselin/"], "no run matches --only baselin/"),
    (["--demo", "--only", "(("], "--only is no regular expression"),
    (["--demo", "--only"], "--only takes a value"), (["--only", "--demo"], "--only takes a value"),
    (["--demo", "--seeds", "*"], "--seeds takes whole numbers"), (["--demo", "--seeds", "1.5"], "--seeds takes whole"),
    (["--demo", "--seeds", "1 2 1"], "--seeds names 1 twice"), (["--demo", "--seeds", ""], "--seeds takes a value"),
    (["--demo", "--image-size", "x"], "--image-size takes a number of pixels"), (["--jobs=2"], "unknown option"),
    (["--demo", "--jobs", "0"], "from 1 on, not 0"), (["--demo", "--protocol", "new"], "--protocol is paper or"),
    (["--demo", "--", "--seed", "3"], "--seed is set by the grid"), (["--demo", "--", "--loss=ce"], "--loss is set by"),
    (["--setup", "--demmo"], "unknown option"),
])
def test_run_refuses_at_once(place, arguments, message):
    done = place.bash(*arguments)
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1 and not done.stdout
    assert not place.called.exists()


def test_refusals_and_help_need_no_packages(tmp_path):
    """In a copy without .venv, with a Python that has no packages: nothing is installed."""
    for name in ("run.sh", "test.sh", "sweep.py", "requirements.txt"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("datasets", "support", "sweeping", "training"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "python3").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -S "$@"\n')
    (tools / "python3").chmod(0o755)
    environment = {"PATH": f"{tools}:/usr/bin:/bin", "HOME": str(tmp_path)}
    for words, code, message in (("run.sh --help", 0, "--ablation"), ("run.sh --help", 0, "without .venv."),
                                 ("test.sh --help", 0, "--slow"),
                                 ("test.sh --slow -h", 0, "--slow"), ("run.sh images", 2, "unknown data set images"),
                                 ("run.sh", 2, "no data set found"), ("run.sh --demo --only zzz", 2, "no run matches"),
                                 ("run.sh --demo --list", 2, "run.sh --setup")):
        done = subprocess.run(["bash", *words.split()], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == code and message in done.stdout + done.stderr, (words, done.stdout, done.stderr)
        assert not (tmp_path / ".venv").exists() and "installing" not in done.stderr


@pytest.mark.slow
def test_too_little_disk_is_refused_before_anything_is_installed_or_drawn(tmp_path, place):
    """`df` says how much is free; with the packages there the demo needs less."""
    for name in ("run.sh", "sweep.py", "requirements.txt"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("datasets", "support", "sweeping", "training"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "df").write_text('#!/bin/sh\necho head\necho "disk 1 1 ${FREE}000000 1% /"\n')
    (tools / "df").chmod(0o755)
    usual = {"PATH": f"{tools}:{os.environ['PATH']}", "cwd": tmp_path, "run": "run.sh"}
    for free, python, message in (("11", None, "the packages and the demo take 12 GB of disk"),
                                  ("4", str(place.python), "the demo takes 5 GB of disk, and ")):
        done = place.bash("--demo", FREE=free, FERC_PYTHON=python, **usual)
        assert done.returncode == 2 and message in done.stderr and f" has {free} GB free" in done.stderr
        assert done.stderr.count("\n") == 1 and not (tmp_path / ".venv").exists() and place.scripts() == []
    done = place.bash("--setup", FREE="6", FERC_PYTHON=None, **usual)
    assert done.returncode == 2 and "the packages take 7 GB of disk" in done.stderr
    place.runs.joinpath("demo").mkdir(parents=True)  # begun before: most of it is there already
    assert place.bash("--demo", "--only", "SCN/ce", FREE="4", PATH=usual["PATH"]).returncode == 0


def test_a_failed_build_stops_the_trainings_of_its_set_alone(place):
    """AffectNet-C fails: AffWild-C, which takes its mixture, and both sets' runs are left out; RAF-DB goes on."""
    for name in ("affectnet", "affwild", "rafdb"):
        (place.data / name).mkdir(parents=True)
    done = place.bash("--only", "/SCN/ce", "--seeds", "0", FAIL="make_fer_c.py --dataset affectnet")
    assert done.returncode == 1 and "failed (1):\n  build/affectnet: " in done.stderr
    assert place.scripts() == ["make_fer_c.py", "make_fer_c.py", "train_SCN.py", "evaluate.py", "report.py"]
    for name in ("build/affwild", "affectnet/SCN/ce/noise0/seed0", "affwild/SCN/ce/noise0/seed0/score"):
        assert f"\n  {name}\n" in done.stderr
    done = place.bash("affwild", "affectnet", "--only", "/SCN/ce", "--seeds", "0")  # in whatever order
    builds = [words for script, words in place.calls() if script == "make_fer_c.py"]
    assert done.returncode == 0 and [words.split()[1] for words in builds] == ["affectnet", "affwild"]
    assert builds[1].endswith(f"--gmm {place.data}/AffectNet-C/gmm.json")


def test_a_set_of_sequences_is_a_build(place):
    out = place.folder / "Demo-P"
    line = (f"p||{shlex.quote(str(place.python))} make_fer_p.py --dataset demo --out {shlex.quote(str(out))}\n"
            "r|p|true\n")
    listed = place.sweep(line, "--list")
    assert listed.stdout == "true\n" and "make_fer_p.py --dataset demo" in listed.stderr
    assert place.sweep(line).returncode == 0 and place.scripts() == ["make_fer_p.py"]
    assert place.sweep(line).returncode == 0 and place.scripts() == []
    refused = place.sweep(line.replace("--out", "--image-size 32 --out"))
    assert refused.returncode == 2 and "has 64 px and protocol paper; asked for are 32 px" in refused.stderr


def test_a_set_of_another_size_is_refused_before_anything_is_trained(place):
    (place.data / "Demo-C").mkdir(parents=True)
    (place.data / "Demo-C/manifest.json").write_text('{"made_with": {"size": 48, "protocol": "paper"}}')
    done = place.bash("--demo", "--image-size", "96")
    assert done.returncode == 2 and "Demo-C has 48 px and protocol paper; asked for are 96 px" in done.stderr
    (place.data / "Demo-C/manifest.json").write_text('{"made_with": {"size":')
    done = place.bash("--demo")
    assert done.returncode == 2 and "manifest.json is damaged" in done.stderr and place.scripts() == []


@pytest.mark.slow
def test_grid_of_run(place):
    """What the loops of run.sh make, as Slurm gets it: one line a run, each of them a command that works."""
    (place.data / "rafdb").mkdir(parents=True)

    def listed(*options):
        done = place.bash("--list", *options)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    count = len(ALGORITHMS)
    lines = listed("--noise", "--ablation")
    assert len(lines) == 3 * (2 + 5 + 3 * 2) * count and all(line.count("\n") == 0 for line in lines)
    plain = [line for line in lines if "noise" not in line and not re.search("focal|maxent |constant|aaai|gibbs", line)]
    assert len(plain) == 3 * 2 * count and sum("--seed 2 " in line for line in plain) == 2 * count
    gibbs = [line for line in lines if "maxent-gibbs+mbls" in line]
    assert len(gibbs) == 3 * count and all(line.count("--maxent-prior data") == 2 for line in gibbs)
    assert sum("--maxent-prior" in line for line in lines) == 3 * count
    assert len(listed("ferplus", "demo")) == 2 * 3 * 2 * count
    options = ("--noise", "--only", "SCN/ce/noise[23]0", "--seeds", "7", "--image-size", "48", "--", "--epochs", "5")
    chosen = listed(*options)
    assert len(chosen) == 2 and all("--seed 7 " in line and "--image-size 48 " in line for line in chosen)
    assert "--noise 0.20" in chosen[0] and "--noise 0.30" in chosen[1] and chosen[0].count("--epochs 5") == 2
    assert "make_fer_c.py --dataset rafdb" in place.bash("--list", *options).stderr
    assert "--image-size 48" in place.bash("--list", *options).stderr
    released = listed("--protocol", "released", "--only", "SCN/ce", "--seeds", "0")
    assert "--protocol released" in released[0] and f"--runs {shlex.quote(str(place.runs / 'released'))}" in released[0]
    assert released[0].endswith(f"--set {shlex.quote(str(place.data / 'RAF-DB-C-released'))}")
    # A line is a command that works, and the run is found whose settings it names.
    for line in listed("--only", "SCN/(ce|maxent)", "--seeds", "0"):
        done = subprocess.run(["bash", "-c", line], cwd=ROOT, env=place.environment(), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    folders = [f"{place.runs}/rafdb/SCN/{loss}/noise0/seed0" for loss in ("ce", "maxent+mbls")]
    assert [words.partition(" --set")[0] for script, words in place.calls() if script == "evaluate.py"] == folders
    # The set is not built, so a trained run cannot count as scored: what is left is its scoring.
    rest = listed("--only", "SCN/ce", "--seeds", "0")
    assert len(rest) == 1 and "train_" not in rest[0] and shlex.quote(folders[0]) in rest[0]


@pytest.mark.slow
def test_open_set_runs_are_listed(place):
    """One run for each class, and with --open-pairs one for each pair; only chosen ones with --only."""
    def listed(*options):
        done = place.bash("--list", *options)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    lines = listed("--open-set", "ferplus", "--seeds", "0")
    assert len(lines) == 2 * 8 and all("train_openset.py" in line and "--open " in line for line in lines)
    assert len(listed("--open-pairs", "rafdb", "--only", "/ce/", "--seeds", "0 1")) == 2 * (6 + 15)  # without neutral
    seven = listed("--open-set", "rafdb", "--seeds", "0", "--", "--data", "classes=7")
    assert len(seven) == 2 * 7 and all(line.endswith("--data classes=7") for line in seven)
    assert sum("--open neutral " in line for line in seven) == 2
    line, = listed("--open-set", "demo", "--only", "ce/open-fear/", "--seeds", "0", "--", "--pools", "test", "paper")
    assert line.endswith("--pools test paper") and "--open fear " in line
    assert "goes with neither" in place.bash("--open-set", "--noise", "demo").stderr
    assert "classes of folders cannot be listed" in place.bash("--open-set", "folders", "--list").stderr


@pytest.mark.parametrize("dataset, data, count", [
    ("rafdb", (), 6), ("rafdb", ("classes=7",), 7), ("affectnet", (), 8), ("affectnet", ("classes=7",), 7),
    ("affwild", (), 7), ("ferplus", (), 8), ("demo", (), 8)])
def test_classes_are_known_without_the_data(tmp_path, capsys, dataset, data, count):
    class_list.main(class_list.Args(dataset, tmp_path, data))
    names = capsys.readouterr().out.split()
    assert len(set(names)) == count and ("contempt" in names) == (count == 8)
    assert not list(tmp_path.iterdir())


def test_classes_of_folders_are_read(tmp_path, capsys):
    for split in ("train", "test"):
        for name in ("No Smile", "happiness", "fear"):
            for number in range(12):
                path = tmp_path / split / name / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (40, 40), (number, 90, 90)).save(path)
    class_list.main(class_list.Args("folders", tmp_path))
    assert capsys.readouterr().out.split() == ["happy", "fear", "no_smile"]
    with pytest.raises(UserError, match="unknown data set|has to be one of"):
        class_list.main(class_list.Args("ckplus"))


@pytest.mark.slow
def test_a_finished_grid_only_reports(place):
    first = place.bash("--demo", "--only", "/ce")
    assert first.returncode == 0, first.stderr
    scripts = place.scripts()
    count = len(ALGORITHMS)
    assert scripts[0] == "make_fer_c.py" and scripts[-1] == "report.py" and scripts.count("evaluate.py") == count
    assert f"[{1 + 2 * count}/{2 + 2 * count}] " in first.stdout
    place.bash("--demo", "--only", "/ce")
    assert place.scripts() == ["report.py"]
    run, built = place.runs / "demo/SCN/ce/noise0/seed0", place.data / "Demo-C"
    scores, manifest = (run / "scores.csv").read_text(), (built / "manifest.json").read_text()
    for text in ("", scores.replace("16", "10"), scores.replace("0ab1", "0ab2"), scores.replace("Demo", "Dome")):
        (run / "scores.csv").write_text(text)
        place.bash("--demo", "--only", "/ce")
        assert place.scripts() == ["evaluate.py", "report.py"], text
    os.utime(run / "scores.csv", (1, 1))  # older than the weights
    place.bash("--demo", "--only", "/ce")
    assert place.scripts() == ["evaluate.py", "report.py"]
    (run / "metrics.csv").write_text("epoch\n")  # no epoch is trained
    place.bash("--demo", "--only", "/ce")
    assert place.scripts() == ["train_SCN.py", "evaluate.py", "report.py"]
    (built / "manifest.json").unlink()
    place.bash("--demo", "--only", "/ce")
    assert place.scripts() == ["make_fer_c.py", "report.py"] and (built / "manifest.json").read_text() == manifest


def test_a_failing_run_does_not_stop_the_rest(place):
    done = place.bash("--demo", FAIL="^train_")
    scripts, count = place.scripts(), 2 * len(ALGORITHMS)
    assert done.returncode == 1 and sum(script.startswith("train_") for script in scripts) == count
    assert scripts[-1] == "report.py" and "evaluate.py" not in scripts
    # Two jobs run at a time, so either of the first two may fail first.
    assert f"failed ({count}):" in done.stderr and done.stderr.count(f"({count}):\n") == 2
    assert done.stderr.count("/score\n") == count and "\n  demo/baseline/ce/noise0/seed0/score\n" in done.stderr
    assert done.stdout.count("FAILED (exit code 3)") == count and "error: this one fails" in done.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("before", mostly_slow(["", "trap '' INT; ", "trap '' INT HUP; "], fast=[1]))
def test_stopping_reaches_every_job(place, start, number, before):
    """Ctrl-C at run.sh, also where SIGINT was ignored on entry (nohup, `&`): its jobs get SIGTERM, which training
    answers with a checkpoint, the sweep waits for them, and nothing is left behind."""
    command = ["bash", "-c", f"{before}exec bash run.sh --demo --jobs 3"]
    running = start(command, cwd=ROOT, env=place.environment(HANG="^train_"), stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE, text=True)
    give_up = time.monotonic() + 60
    while time.monotonic() < give_up and not (place.called.exists() and place.called.read_text().count("train_") == 3):
        time.sleep(0.05)
    running.send_signal(number)
    assert "goes on from here" in running.communicate(timeout=60)[1] and running.returncode == 130
    scripts = place.scripts()
    assert scripts.count("saved") == 3 and scripts[-1] == "saved" and "report.py" not in scripts


def test_an_error_of_the_sweep_itself_ends_its_jobs(place, start):
    """`bash run.sh | head -1`: nobody reads on; the jobs are stopped all the same."""
    running = start(["bash", "-c", "bash run.sh --demo --jobs 2 | head -n 1"], cwd=ROOT, stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE, env=place.environment(HANG="train_baseline.py .*maxent"), text=True)
    out, errors = running.communicate(timeout=60)
    assert out.count("\n") == 1 and "Traceback" not in errors
    assert "report.py" not in place.scripts()
