"""Damage the files of a tiny scored run, one at a time, and see what scoring and looking at the run does.

  python tests/fuzz_runs.py --count 3000 --seed 0

Every case changes one file (bytes anywhere, values of JSON, cells of CSV, a cut) and then asks support.run_folder what
the folder holds and scores the run again. The network and its weights are stand-ins, so that a case takes
milliseconds; checkpoints have a fuzz of their own. Allowed are `cli.UserError`, and scores that are right: those of the
undamaged run, or, where args.json was damaged, any, since it says what to score. Nothing outside the run's folder may
change.
Printed per file: cases unharmed (no cell predicted again, no file set aside), repaired, refused, and cases past the
header check: the damaged file still parses as its kind, so that the code behind the first check was reached.
"""
import argparse
import contextlib
import csv
import io
import json
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path
from unittest import mock

import numpy as np
import torch

if __name__ == "__main__":  # started as a file
    sys.path[0] = str(Path(__file__).parent.parent)

import evaluate
import make_fer_c
import metrics
import models
from building.built_set import BuiltSet, open_built_set
from compute import devices
from evaluation import inference, matching
from make_fer_c import Args
from models import checkpoints
from support import run_folder
from support.errors import UserError

ARRAYS = ("predictions/Demo-C/clean.npy", "predictions/Demo-C/snow/3.npy", "predictions/Demo-C/labels.npy")
TABLES = ("metrics.csv", "scores.csv")
OBJECTS = ("args.json", "environment.json", "predictions/Demo-C/set.json")
FILES = (*OBJECTS, *TABLES, *ARRAYS)
VALUES = (None, True, False, -1, 0, 3, 10**30, 1e308, 0.5, float("nan"), float("inf"), "", "x", "../x", "/etc/passwd",
          "\n\x1b[31m", "\0", "Happy", "0" * 64, [], {}, [[]], [None], {"a": 1}, ["Happy", "Happiness"])
TEXTS = ("", "nan", "inf", "-1", "1e999", "x", "\x1b[2J", "../../x", "0", "32", "bf16", "forced: something", "é", "a,b",
         '"', "0" * 4000)


class Network(models.Model):
    """Stands in for a network of eight classes."""

    def __init__(self):
        super().__init__(8, 16)
        self.scale = torch.nn.Parameter(torch.ones(1))

    def forward(self, image):
        return self.scale * torch.zeros(len(image), 8)


class Bench:
    """A built set, a scored run of it, and the stand-ins with which the run is scored again."""

    def __init__(self, folder: Path):
        self.run, self.set = folder / "runs/demo/baseline/ce/noise0/seed0", folder / "Demo-C"
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            make_fer_c.main(Args(
                dataset="demo", root=folder / "demo", data=("train=128", "val=16", "test=4"), out=self.set,
                image_size=16, workers=1))
        self.built: BuiltSet = open_built_set(self.set)
        self.fabric = devices.connect("32-true")
        self.predicted: list = []
        self.run.mkdir(parents=True)
        settings = {"script": "baseline", "dataset": "demo", "loss": "ce", "seed": 0, "noise": 0.0, "protocol": "paper",
                    "image_size": 16, "epochs": 2, "classes": list(self.built.classes), "nll_batch": 256, "lr": 0.1,
                    "model": {"class": "models.resnet.ResNet18", "arguments": {"num_classes": 8, "image_size": 16}},
                    "recipe": {"epochs": 2, "lr": 0.2}, "differs": {"lr": 0.1}, "contents": {}, "data_sha256": "0" * 64}
        (self.run / "args.json").write_text(json.dumps(settings, indent=1))
        (self.run / "environment.json").write_text(json.dumps({"device": "cpu", "processes": 1, "versions": {}}))
        (self.run / "metrics.csv").write_text("epoch,train_ce,val_macro_f1\n0,2.0,0.1\n1,1.5,0.2\n")
        torch.save({"model": Network().state_dict()}, self.run / "best.pt")
        with self.stand_ins():
            self.score()
        self.files = {path.relative_to(self.run): path.read_bytes() for path in self.run.rglob("*") if path.is_file()}
        self.scores = read_values(self.run)
        self.others, self.all_others = self.state_outside(), self.state_outside(everything=True)

    def score(self) -> str:
        """Score the run. Returns what was printed."""
        self.predicted.clear()
        with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.redirect_stderr(io.StringIO()):
            evaluate.main(evaluate.Args(self.run, set=(self.set,), machine=evaluate.Machine(workers=0)))
        return printed.getvalue()

    @contextlib.contextmanager
    def stand_ins(self):
        """Network, weights, set, device and metrics that cost nothing and give the same for the same input."""
        def predict(fabric, network, images, numbers, *_):
            blocks = images.blocks
            self.predicted.extend(blocks.cells)
            logits = np.stack([drawn_logits(cell, blocks.count) for cell in blocks.cells], 1)
            return ((number, logits[blocks.rows(number)]) for number in numbers)

        def summary(probs, labels, soft_labels=None, logits=None, *, released_batch=256):
            assert np.isfinite(logits).all() and released_batch >= 1
            names = ("accuracy", "macro_f1", "ece", "kse", "nll")
            weight, rows = np.arange(1, len(labels) + 1), np.arange(len(labels))
            return {name: float(weight @ probs[rows, (labels + k) % 8]) for k, name in enumerate(names)}

        with contextlib.ExitStack() as stack:
            for place, name, value in (
                    (models, "build_model", lambda description: Network()), (inference, "logits_of_blocks", predict),
                    (devices, "connect", lambda precision: self.fabric), (metrics, "summary", summary),
                    (checkpoints, "read_fields", lambda *_: {"model": Network().state_dict()}),
                    (matching, "open_built_set", lambda folder, verify: self.built)):
                stack.enter_context(mock.patch.object(place, name, value))
            yield

    def restore(self) -> None:
        """The run as it was first scored, and nothing else in its folder."""
        for path in self.run.rglob("*"):
            if not path.is_dir() and path.relative_to(self.run) not in self.files:
                path.unlink()
        for name, data in self.files.items():
            path = self.run / name
            if path.is_dir():
                shutil.rmtree(path)
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists() or path.read_bytes() != data:
                path.write_bytes(data)

    def state_outside(self, everything: bool = False) -> dict[str, tuple[int, int]]:
        """Name, size and time of files that are not the run's: those around it and the set's tables, or every file."""
        top = self.run.parents[5]
        paths = list(top.rglob("*")) if everything else [
            path for folder in (*self.run.parents[:6], self.set) for path in folder.iterdir()]
        return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in paths
                if path.is_file() and self.run not in path.parents}


def drawn_logits(cell, count: int) -> np.ndarray:
    """Logits of a cell, float32 (count, 8), always the same ones."""
    key = 0 if cell is None else 1 + 5 * sum(map(ord, cell[0])) + cell[1]
    return np.random.default_rng(key).normal(size=(count, 8)).astype(np.float32)


def read_values(run: Path) -> dict[tuple[str, str, str], str]:
    """The float32 scores of the set in scores.csv."""
    with open(run / "scores.csv", newline="", encoding="utf-8") as file:
        return {(row["corruption"], row["severity"], row["metric"]): row["value"] for row in csv.DictReader(file)
                if row["set"] == "Demo-C" and row["precision"] == "32"}


def mutated(name: str, data: bytes, rng: np.random.Generator) -> bytes:
    """Other bytes of a file."""
    if rng.random() < 0.65:
        if name in OBJECTS:
            return mutated_object(data, rng)
        if name in TABLES:
            return mutated_table(data, rng)
    kind, place = rng.integers(7), int(rng.integers(len(data)))
    if rng.random() < 0.5:
        place = min(int(rng.exponential(100)), len(data) - 1)  # near the beginning, where headers are
    piece = bytes(rng.integers(0, 256, int(rng.integers(1, 30)), dtype=np.uint8))
    if kind == 0:
        return data[:place]
    if kind == 1:
        return data[:place] + piece + data[place:]
    if kind == 2:
        return data[:place] + data[place + len(piece):]
    if kind == 3:
        return data[:place] + bytes([data[place] ^ 1 << int(rng.integers(8))]) + data[place + 1:]
    if kind == 4:
        return piece * int(rng.integers(1, 200))
    if kind == 5:
        return data + data[place:]
    return data[:place] + piece + data[place + len(piece):]


def mutated_object(data: bytes, rng: np.random.Generator) -> bytes:
    """JSON with a value of some depth changed or left out, or nested deeply."""
    value = json.loads(data)
    keys, holder = list(value), value
    key = keys[rng.integers(len(keys))]
    while isinstance(holder[key], dict | list) and len(holder[key]) and rng.random() < 0.5:
        holder = holder[key]
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        key = keys[rng.integers(len(keys))]
    kind = rng.integers(5)
    if kind == 0:
        del holder[key]
    elif kind == 1 and isinstance(holder, dict):
        holder[f"{key}x"] = VALUES[rng.integers(len(VALUES))]
    elif kind == 2 and rng.random() < 0.3:
        return data[:-1] + b', "deep": ' + b"[" * 50_000 + b"}"
    else:
        holder[key] = VALUES[rng.integers(len(VALUES))]
    return json.dumps(value).encode()


def mutated_table(data: bytes, rng: np.random.Generator) -> bytes:
    """CSV with cells, rows or columns changed."""
    rows = list(csv.reader(io.StringIO(data.decode())))
    number, column = int(rng.integers(len(rows))), int(rng.integers(len(rows[0])))
    kind = rng.integers(6)
    if kind == 0:
        rows[number][column] = TEXTS[rng.integers(len(TEXTS))]
    elif kind == 1:
        for row in rows:
            del row[column]
    elif kind == 2:
        rows.insert(number, list(rows[int(rng.integers(len(rows)))]))
    elif kind == 3:
        del rows[number:]
    elif kind == 4:
        rows[number].append("more")
    else:
        for row in rows[1:]:
            row[column] = TEXTS[rng.integers(len(TEXTS))]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def parses(name: str, path: Path) -> bool:
    """Whether a damaged file still has the form of its kind."""
    try:
        if name in OBJECTS:
            return isinstance(json.loads(path.read_bytes()), dict)
        if name in TABLES:
            rows = list(csv.reader(io.StringIO(path.read_bytes().decode())))
            return len(rows) > 1 and len(rows[0]) > 1
        np.load(path, mmap_mode="r", allow_pickle=False)  # a header may ask for all the memory there is
        return True
    except Exception:
        return False


def case(bench: Bench, name: str, rng: np.random.Generator) -> tuple[str, bool]:
    """(what became of a run with one damaged file, whether the damage lay past the header check)."""
    bench.restore()
    path = bench.run / name
    path.write_bytes(mutated(name, bench.files[Path(name)], rng))
    past = parses(name, path)
    run_folder.is_finished(bench.run)
    run_folder.is_scored(bench.run, bench.set)
    run_folder.find(bench.run.parents[4], "demo", "baseline", "ce", 0.0, 0, {"lr": "0.1"})
    args = json.loads(bench.files[Path("args.json")])
    if name == "args.json" and past:
        changed = json.loads(path.read_bytes())
        run_folder.row_settings(changed)
        run_folder.varying_settings([changed, args])
        run_folder.same_settings(args, changed)
    outcome = scored(bench, name)
    if bench.state_outside() != bench.others:
        raise AssertionError("a file outside the run's folder has changed")
    return outcome, past


def scored(bench: Bench, name: str) -> str:
    try:
        printed = bench.score()
    except UserError as error:
        if not str(error) or len(str(error)) > 20_000:
            raise AssertionError(f"a message of {len(str(error))} characters") from error
        return "refused"
    if read_values(bench.run) != bench.scores and name != "args.json":  # where classes can be reordered
        raise AssertionError("other scores than of the undamaged run")
    return "repaired" if bench.predicted or "kept as" in printed or "made again" in printed else "unharmed"


def fuzz(folder: Path, count: int, seed: int) -> Counter:
    """{(file, outcome): cases}, outcome being unharmed, repaired, refused or "past header". Raises AssertionError with
    the case at the first exception that is not a UserError."""
    bench, counts = Bench(folder), Counter()
    with bench.stand_ins():
        for number in range(count):
            name = FILES[number % len(FILES)]
            try:
                outcome, past = case(bench, name, np.random.default_rng((seed, number)))
            except Exception as error:
                raise AssertionError(f"seed {seed}, case {number}, {name}: {type(error).__name__}: {error}") from error
            counts[name, outcome] += 1
            counts[name, "past header"] += past
    if bench.state_outside(everything=True) != bench.all_others:
        raise AssertionError("a file outside the run's folder has changed")
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fuzz-runs-") as folder:
        counts = fuzz(Path(folder), args.count, args.seed)
    outcomes = ("unharmed", "repaired", "refused", "past header")
    print(f"{'file':32}" + "".join(f"{outcome:>13}" for outcome in outcomes))
    for name in FILES:
        print(f"{name:32}" + "".join(f"{counts[name, outcome]:13}" for outcome in outcomes))
    past = sum(counts[name, "past header"] for name in FILES)
    print(f"{args.count} cases, {past} past the header check; no exception but UserError")


if __name__ == "__main__":
    main()
