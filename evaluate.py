"""Score a trained run on the clean images of a FER-C set and on its 85 corrupted forms.

  python evaluate.py runs/ferplus/baseline/ce/noise0/seed0                       the set of the run's own data set
  python evaluate.py runs/ferplus/baseline/ce/noise0/seed0 --set data/FERPlus-C data/Demo-C

Writes logits to predictions/<set>/ in the run's folder, one file per cell (interrupted, it goes on by cell), and
scores.csv, always computed from these files. Trains nothing. Images come from the set: the data set is not needed. With
--on-the-fly only its clean ones are read, and the corrupted ones made in memory.
"""
import hashlib
import importlib
import io
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
import tyro
from tqdm import tqdm

import cli
import harness
import metrics
from cli import UserError
from datasets import default_set
from datasets.fer_c import CELLS, SEVERITIES, open_set
from datasets.images import read_image
from settings import Machine

AT_ONCE = 8192  # images, whole cells of them, between two starts of the worker processes
METHOD = "softmax"  # how probabilities come from logits; post-hoc calibration would add its own rows


@dataclass
class Args:
    run: Annotated[Path, tyro.conf.Positional]
    """folder of a trained run"""
    set: tuple[Path, ...] = ()
    """built sets (default: data/<Title>-C of the run's data set)"""
    limit: int | None = None
    """only the first images of the set: a quick look, no benchmark score"""
    on_the_fly: bool = False
    """make the corrupted images in memory, bit by bit those of the files: for sets built with --no-images"""
    batch_size: int = 128
    """images at once"""
    force: bool = False
    """score although the run and the set differ in protocol, image size or classes' names"""
    machine: Machine = field(default_factory=Machine)


def main(args):
    if (args.limit is not None and args.limit < 1) or args.batch_size < 1 or args.machine.workers < 0:
        raise UserError("--limit and --batch-size start at 1, --workers at 0")
    settings, model, weights = open_run(args.run)
    sets = [open_set(folder) for folder in args.set or (default_set(settings["dataset"]),)]
    for built in sets:
        check_match(args, settings, built)
        if args.on_the_fly:
            built.check_images()
        elif not built.has_images:
            raise UserError(f"{built.folder} was built with --no-images: add --on-the-fly")
    if len({built.folder.resolve().name for built in sets}) < len(sets):
        raise UserError("two of the sets have the same name; score them one after the other from runs of their own")
    precision = harness.precision_of(args.machine)
    fabric = harness.connect(precision)
    held = cli.lock(args.run, "working in") if fabric.global_rank == 0 else None
    model = fabric.setup_module(harness.optimised(model, args.machine))
    scores = {}
    for built in sets:
        folder = args.run / "predictions" / built.folder.resolve().name
        if fabric.global_rank == 0:
            open_predictions(folder, built, args.limit, weights, precision)
        fabric.barrier()
        predict_cells(fabric, model, built, folder, args)
        if fabric.global_rank == 0:
            scores[folder.name] = score(built, folder, args.limit)
            print(summary_line(built, scores[folder.name]))
    if fabric.global_rank == 0:
        path = args.run / "scores.csv"
        earlier = [row for row in cli.read_rows(path) if row["set"] not in scores]  # other sets scored before stay
        cli.write_rows(path, earlier + [row for rows in scores.values() for row in rows])
        print(f"scores: {path}")
        held.close()


def open_run(folder):
    """(settings, model with its best weights, their sha256). Models are imported from `models.` only."""
    try:
        settings = json.loads((folder / "args.json").read_text())
        where, name = settings["model"]["class"].rsplit(".", 1)
        if not where.startswith("models."):
            raise UserError(f"{folder}/args.json names the model class {where}.{name}; only those of models/ are built")
        model = getattr(importlib.import_module(where), name)(**settings["model"]["arguments"])
        data = (folder / "best.pt").read_bytes()
        model.load_state_dict(torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)["model"])
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{error.filename} is missing: {folder} is no run folder, or its training has not finished an "
                        f"epoch yet") from None
    except UserError:
        raise
    except Exception as error:  # what is damaged can fail in any way
        why = f"{type(error).__name__}: {cli.first_line(error)}"
        raise UserError(f"{folder}: the run cannot be rebuilt ({why})") from None
    return settings, model, hashlib.sha256(data).hexdigest()


def check_match(args, settings, built):
    """Raises UserError where the scores of this run on this set would not mean what they seem to."""
    made = built.made_with
    if len(settings["classes"]) != len(built.classes):
        raise UserError(f"{args.run} knows {len(settings['classes'])} classes, {built.folder} has {len(built.classes)}")
    for what, own, other in (("protocol", settings["protocol"], made["protocol"]),
                             ("image size", settings["image_size"], made["size"]),
                             ("classes", settings["classes"], list(built.classes))):
        if own != other and not args.force:
            raise UserError(f"{args.run} has {what} {own}, {built.folder} has {other}: the scores would not be "
                            f"comparable. Build a set that fits, or --force.")


def open_predictions(folder, built, limit, weights, precision):
    """Make the folder; predictions of other weights, another set or another number of images are thrown away."""
    made_by = {"weights": weights, "set_version": built.manifest["set_version"], "content": built.manifest["content"],
               "classes": list(built.classes), "limit": limit, "precision": precision,
               "demo": built.made_with["dataset"] == "demo"}
    note = folder / "set.json"
    known = json.loads(note.read_text()) if note.exists() else {}
    if known | made_by != known:
        shutil.rmtree(folder, ignore_errors=True)
        labels = built.frame["expression"].to_numpy(np.int64)[:limit]
        cli.write_whole(folder / "labels.npy", lambda file: np.save(file, labels))
    cli.write_text(note, json.dumps(made_by | {"folder": str(built.folder.resolve())}))


def predictions_file(folder, cell):
    return folder / "clean.npy" if cell is None else folder / cell[0] / f"{cell[1]}.npy"


class Cells(torch.utils.data.Dataset):
    """All images of some cells, one cell after the other, as harness.Images gives them; from files or made here."""

    cached = None

    def __init__(self, built, cells, count, on_the_fly):
        self.built, self.cells, self.count, self.on_the_fly = built, cells, count, on_the_fly

    def __len__(self):
        return self.count * len(self.cells)

    def __getitem__(self, i):
        which = i % self.count, *(self.cells[i // self.count] or ())
        try:
            pixels = self.built.image(*which) if self.on_the_fly else read_image(
                self.built.image_path(*which), self.built.made_with["size"])
        except UserError as error:  # raised in a worker process it would arrive as a page of text
            return error, i
        return torch.from_numpy(pixels).permute(2, 0, 1), i


def predict_cells(fabric, model, built, folder, args):
    """Fill in the cells that have no file yet. Each is renamed into place when all its images are done."""
    count = min(args.limit or len(built.frame), len(built.frame))
    cells = [cell for cell in (None, *CELLS) if not predictions_file(folder, cell).exists()]
    with tqdm(total=(1 + len(CELLS)) * count, initial=(1 + len(CELLS) - len(cells)) * count, unit=" images",
              desc=built.folder.name, disable=None if fabric.global_rank == 0 else True) as bar:
        group = max(1, AT_ONCE // count)
        for start in range(0, len(cells), group):
            some = cells[start:start + group]
            images = Cells(built, some, count, args.on_the_fly)
            logits = harness.predict(fabric, model, images, args.batch_size, args.machine.workers)
            for cell, values in zip(some, logits.reshape(len(some), count, -1), strict=True):
                if fabric.global_rank == 0:
                    cli.write_whole(predictions_file(folder, cell), lambda file, v=values: np.save(file, v))
            bar.update(len(some) * count)
        fabric.barrier()


def score(built, folder, limit):
    """Tidy scores of one set: clean, 85 cells, and three means (see the spec: ECE is not linear, they differ)."""
    labels = np.load(folder / "labels.npy", allow_pickle=False)

    def read(cell):
        logits = np.load(predictions_file(folder, cell), allow_pickle=False)
        return logits, metrics.softmax(logits)

    def summarise(pool):
        logits, probs, soft = (np.concatenate(part) for part in zip(*pool, strict=True))
        return metrics.summary(probs, np.tile(labels, len(pool)), soft, logits) | {"n": len(labels)}

    logits, probs = read(None)
    clean = metrics.summary(probs, labels, logits=logits) | {"n": len(labels)}
    cells, pools = {}, {severity: [] for severity in SEVERITIES}
    for name, severity in CELLS:
        soft = np.asarray(built.targets(name, severity)[:limit], np.float64)
        cell = (*read((name, severity)), soft)
        cells[name, severity] = summarise([cell])
        pools[severity].append(cell)
    by_severity = [summarise(pool) for pool in pools.values()]
    pooled = summarise([cell for pool in pools.values() for cell in pool])
    rows = [("clean", "", clean)]
    rows += [(name, severity, values) for (name, severity), values in cells.items()]
    rows += [("mean", "", mean_of(cells.values())), ("pooled_by_severity", "", mean_of(by_severity)),
             ("pooled", "", pooled)]
    return [{"set": folder.name, "set_version": built.manifest["set_version"], "method": METHOD,
             "corruption": corruption, "severity": severity, "metric": metric, "value": value}
            for corruption, severity, values in rows for metric, value in values.items()]


def mean_of(summaries):
    return {metric: float(value) for metric, value in pd.DataFrame(list(summaries)).mean().items()}


def summary_line(built, rows):
    value = {(row["corruption"], row["metric"]): row["value"] for row in rows}
    means = ", ".join(f"{where} macro-F1 {100 * value[where, 'macro_f1']:.1f} ECE {100 * value[where, 'ece']:.1f}"
                      for where in ("clean", "mean"))
    demo = " (demo data: shows function, not findings)" if built.made_with["dataset"] == "demo" else ""
    return f"{built.folder.name}{demo}: {means} percent, {int(value['clean', 'n'])} images"


if __name__ == "__main__":
    cli.run(main, Args)
