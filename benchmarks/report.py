"""How long a report of 100 runs takes, the first time and again.

  python -m benchmarks.report                        100 runs: 2 data sets, 5 algorithms, 2 losses, 5 seeds, 56 images
  python -m benchmarks.report --folder DIR --keep    keeps the runs in DIR, to look at them or to profile

The runs are not trained: their logits are random numbers. The built sets are real ones of drawn faces, so that the
report draws every figure. Target: under a minute on two cores.
"""
import contextlib
import io
import json
import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

import make_fer_c
import metrics
import report
from building.built_set import BuiltSet, open_built_set
from corruptions import CELLS, SEVERITIES
from support import cli, run_folder
from support.errors import UserError
from support.random_streams import keyed_rng

TARGET = 60  # seconds, of the first report
ALGORITHMS = ("baseline", "SCN", "DMUE", "RUL", "swinv2")
LOSSES = ("ce", "maxent+mbls")
DATASETS = ("demo", "ferplus", "rafdb", "affwild", "affectnet")  # one for each set


@dataclass
class Args:
    folder: Path | None = None
    """where to make sets and runs, a new folder (default: a temporary one)"""
    keep: bool = False
    """keep the folder; without it everything is removed at the end"""
    sets: int = 2
    """built sets, at most 5, each of a data set of its own"""
    seeds: int = 5
    """number of runs of every algorithm and loss on every set"""
    images: int = 56
    """number of images of every set"""
    image_size: int = 64
    """side of the images of every set (pixels)"""


def main(args: Args) -> None:
    if args.folder and args.folder.exists():
        raise UserError(f"--folder {args.folder} exists: give a new one")
    if not 1 <= args.sets <= len(DATASETS):
        raise UserError(f"--sets {args.sets}: give 1 to {len(DATASETS)}")
    folder = args.folder or Path(tempfile.mkdtemp(prefix="benchmark-report-"))
    try:
        runs = make_all(folder, args)
        count = sum(1 for _ in runs.glob("*/*/*/*/*/args.json"))
        print(f"{count} runs on {args.sets} sets of {args.images} images, {len(os.sched_getaffinity(0))} cores")
        for name in ("first", "second"):
            seconds = time_report(runs, folder / "page.html")
            print(f"{name} report: {seconds:.1f} s" + (f" (target: {TARGET} s)" if name == "first" else ""))
    finally:
        if not args.keep:
            shutil.rmtree(folder)


def make_all(folder: Path, args: Args) -> Path:
    """Build the sets and write the runs. Returns the folder of the runs."""
    for number, dataset in enumerate(DATASETS[:args.sets]):
        built = build_set(folder, f"Set{number}-C", args.images, args.image_size)
        for script in ALGORITHMS:
            for loss in LOSSES:
                for seed in range(args.seeds):
                    make_run(folder / "runs", built, script, loss, seed, dataset)
    return folder / "runs"


def build_set(folder: Path, name: str, images: int, image_size: int) -> BuiltSet:
    """A FER-C set of drawn faces in `folder / name`."""
    with contextlib.redirect_stdout(io.StringIO()):
        make_fer_c.main(make_fer_c.Args(
            dataset="demo", root=folder / "demo", out=folder / name, image_size=image_size, workers=1,
            data=("train=128", "val=16", f"test={images}")))
    return open_built_set(folder / name)


def make_run(runs: Path, built: BuiltSet, script: str, loss: str, seed: int, dataset: str = "demo",
             precision: str = "32", notes: str = "", **settings: object) -> Path:
    """A finished and scored run with random logits, as training and evaluation leave it.

    settings: entries of args.json besides the usual ones. Returns the run's folder."""
    recipe = {"protocol": "paper", "image_size": built.made_with["size"], "epochs": 3, "lr": 2.5e-4, "margin": 8.0}
    args = {"script": script, "dataset": dataset, "loss": loss, "seed": seed, "noise": 0.0, "runs": "runs",
            "root": None, "classes": list(built.classes)} | recipe | settings
    args["recipe"] = dict.fromkeys(settings) | recipe
    args["contents"] = {}
    args["differs"] = {name: args[name] for name, usual in args["recipe"].items() if args[name] != usual}
    folder = run_folder.place(runs, dataset, script, loss, args["noise"], seed, args["differs"])
    folder.mkdir(parents=True)
    (folder / run_folder.ARGS_FILE).write_text(json.dumps(args))
    (folder / run_folder.ENVIRONMENT_FILE).write_text('{"device": "cpu", "processes": 1, "threads": 1}')
    (folder / run_folder.METRICS_FILE).write_text("epoch\n" + "".join(f"{epoch}\n" for epoch in range(args["epochs"])))
    write_scores(folder, built, keyed_rng("benchmark", dataset, script, loss, seed), precision, notes)
    return folder


def write_scores(folder: Path, built: BuiltSet, rng: np.random.Generator, precision: str, notes: str) -> None:
    """predictions/ and scores.csv of a run, from random logits."""
    out = folder / run_folder.PREDICTIONS_FOLDER / built.folder.name
    labels = built.frame["expression"].to_numpy(np.int64)
    truth = np.eye(len(built.classes))[labels]
    summaries: dict[tuple, dict[str, float]] = {}  # {(corruption, severity): scores}
    pools: dict[int, list[tuple]] = {severity: [] for severity in SEVERITIES}  # probabilities, labels, soft labels
    for cell in (None, *CELLS):
        path = out / "clean.npy" if cell is None else out / cell[0] / f"{cell[1]}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        logits = (3 * truth * rng.random(truth.shape) + rng.normal(size=truth.shape)).astype(np.float32)
        np.save(path, logits)
        target = None if cell is None else np.asarray(built.soft_labels_of(*cell), np.float64)
        summaries[cell or ("clean", "")] = metrics.summary(metrics.softmax(logits), labels, target)
        if cell is not None:
            pools[cell[1]].append((metrics.softmax(logits), labels, target))
    np.save(out / "labels.npy", labels)
    info = {"set_version": built.manifest["set_version"], "classes": list(built.classes), "limit": None,
            "precision": "32-true" if precision == "32" else "bf16-mixed", "folder": str(built.folder.resolve()),
            "demo": True}
    (out / "set.json").write_text(json.dumps(info))
    cells = pd.DataFrame([summaries[cell] for cell in CELLS])
    predictions = [cell for pool in pools.values() for cell in pool]
    pooled = [np.concatenate(arrays) for arrays in zip(*predictions, strict=True)]
    summaries |= {("mean", ""): cells.mean().to_dict(), ("pooled", ""): metrics.summary(*pooled)}
    rows = [(built.folder.name, info["set_version"], "softmax", *cell, metric, value, precision, notes)
            for cell, values in summaries.items() for metric, value in (values | {"n": len(labels)}).items()]
    columns = ["set", "set_version", "method", "corruption", "severity", "metric", "value", "precision", "notes"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / run_folder.SCORES_FILE, index=False)


def time_report(runs: Path, page: Path) -> float:
    """Seconds that `report.py RUNS --html PAGE` takes in this process."""
    began = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        report.main(report.Args(runs, html=page, brief=True))
    return time.perf_counter() - began


if __name__ == "__main__":
    cli.run(main, Args)
