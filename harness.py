"""What every training script needs and is not its algorithm: data, device, the run's folder, checkpoints, logging.

The scripts keep the loop; this file supplies its nouns. Only this file imports Lightning Fabric; it knows no algorithm.
"""
import json
import math
import os
import shlex
import signal
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import one_hot
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

import cli
import losses
import metrics
import settings
from cli import UserError
from datasets import default_root, default_set, fingerprint, keyed_rng, load_split, parse_options
from datasets.fused import training_neighbours
from datasets.images import inside, open_cache, read_image
from datasets.label_noise import add_noise
from models import checkpoints, pretrained
from models.augment import flip_crop_erase
from support import run_folder

with cli.hidden("torchmetrics"):  # Fabric looks for it and uses nothing of it; finding it takes seconds
    import lightning_fabric

SAVE_EVERY = 300  # seconds between checkpoints inside an epoch
CHECK_EVERY = 50  # steps between looks at the collected losses (a look waits for the device)
PROGRESS = ("epoch", "step", "labels", "next_labels", "sums", "history", "best")  # fields of last.pt, beside weights
AGREE_EVERY = 10  # steps between agreements of several processes on saving and stopping


class Images(Dataset):
    """Items are (uint8 (3, S, S), index); labels stay out of the worker processes. `frame` as in `datasets.Split`."""

    def __init__(self, root, frame, size, cache=None):
        self.paths, self.size = [inside(root, path) for path in frame["path"]], size
        self.boxes = frame[["left", "top", "right", "bottom"]].to_numpy(np.float64)
        self.cached = None if cache is None else open_cache(cache, self.paths, self.boxes, size)

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, i):
        try:
            hwc = read_image(self.paths[i], self.size, self.boxes[i]) if self.cached is None else self.cached[i]
            return torch.from_numpy(hwc).permute(2, 0, 1), i
        except UserError as error:  # raised in a worker process it would arrive as a page of text
            return error, i


def _collate(items):
    images, indices = zip(*items, strict=True)
    broken = [image for image in images if isinstance(image, UserError)]
    return (broken[0], None) if broken else (torch.stack(images), torch.tensor(indices))


def load_batches(fabric, images, batches, workers):
    """Yield (image, index) on the device for every list of indices in `batches`."""
    workers = 0 if images.cached is not None else min(workers, len(batches))  # nothing to decode: no processes for it
    loader = DataLoader(images, batch_sampler=batches, num_workers=workers, collate_fn=_collate,
                        pin_memory=fabric.device.type == "cuda")
    for image, index in loader:
        if isinstance(image, UserError):
            raise image
        yield image.to(fabric.device, non_blocking=True), index.to(fabric.device, non_blocking=True)


def precision_of(machine):
    """Fabric's name of the precision; `auto` takes bf16 where the hardware multiplies it."""
    if machine.precision != "auto":
        return {"bf16": "bf16-mixed", "32": "32-true"}[machine.precision]
    fast = torch.cuda.is_bf16_supported(including_emulation=False) if torch.cuda.is_available() else (
        torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())
    return "bf16-mixed" if fast else "32-true"


def connect(precision):
    """Fabric on what is there: one device, or what torchrun has dealt out (by itself it would start single runs)."""
    local, world = (int(os.environ.get(name, 1)) for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
    fabric = lightning_fabric.Fabric(devices=local, num_nodes=world // local, precision=precision,
                                     strategy="ddp" if world > 1 else "auto")
    fabric.launch()
    return fabric


def optimised(model, machine):
    """The model as it runs fastest: channels last; compiled where that is asked for."""
    model = model.to(memory_format=torch.channels_last)
    return torch.compile(model) if machine.compile else model


@torch.no_grad()
def predict(fabric, model, images, batch_size, workers):
    """Logits of all images in order, float32 (N, K) on every rank. Each rank takes every world-th image, none twice."""
    model.eval()
    mine = list(range(fabric.global_rank, len(images), fabric.world_size))
    batches = [mine[start:start + batch_size] for start in range(0, len(mine), batch_size)]
    part = [(index.cpu().numpy(), model(image).float().cpu().numpy())
            for image, index in load_batches(fabric, images, batches, workers)]
    parts = [part] * fabric.world_size
    if fabric.world_size > 1:
        torch.distributed.all_gather_object(parts, part)
    rows, logits = zip(*(batch for part in parts for batch in part), strict=True)
    return np.concatenate(logits)[np.argsort(np.concatenate(rows))]


def seed_torch(*key):
    torch.manual_seed(int(keyed_rng(*key).integers(2**63)))


def start(args, script, released):
    """Check the settings. Returns the `Training` that the script's loop talks to, to be entered with `with`.

    released: the script's own values under `--protocol released`."""
    settings.check(args, tuple(losses.LOSSES))
    return Training(args, Path(script).stem.removeprefix("train_"), released)


@dataclass
class Training:
    """One run: its folder, its data, and what a checkpoint holds (the fields from `epoch` on)."""

    args: object
    script: str
    released: dict  # of the script: what `--protocol released` changes
    epoch: int = 0
    step: int = 0  # within the epoch
    labels: torch.Tensor | None = None  # int64 (N,), addressed by the batch's index
    next_labels: torch.Tensor | None = None  # write to it to relabel; takes the place of `labels` when the epoch ends
    sums: dict = field(default_factory=dict)  # term -> its sum over this epoch's steps, and over how many
    history: list = field(default_factory=list)  # one dict per finished epoch: the rows of metrics.csv
    best: float = -1.0

    def __enter__(self):
        run = self.args.run
        precision, usual_precision = (precision_of(machine) for machine in (self.args.machine, settings.Machine()))
        self.fabric = connect(precision)
        self.lead = self.fabric.global_rank == 0
        recipe = settings.usual_values(self.args, self.released) | {"precision": usual_precision}
        self.settings = {"script": self.script} | settings.flat(self.args) | {
            "precision": precision, "recipe": recipe, "contents": settings.contents(self.args),
            "nll_batch": self.released.get("nll_batch", metrics.RELEASED_BATCH)}
        self.settings["differs"] = run_folder.settings_that_differ(self.settings, recipe, self.settings["contents"])
        self.lock = self.writer = self.stop_signal = self.fused = self.earlier = self.module = None
        self.handlers, self.pending, self.saved_at = {}, [], time.monotonic()
        self.folder, self.finished = None, False
        self.together(self.open_folder)
        self.folder, self.earlier, self.finished = self.fabric.broadcast((self.folder, self.earlier, self.finished))
        if self.finished:
            self.say(f"{self.folder} is finished ({run.epochs} epochs); --fresh starts over")
        else:
            self.load_data()
        return self

    def __exit__(self, *problem):
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
        if self.module is not None and problem == (None, None, None) and self.epoch >= self.args.run.epochs:
            self.together(self.finish)  # on every process, although only the first one has a writer
        for opened in filter(None, (self.writer, self.lock)):
            opened.close()

    def finish(self):
        """Remove what only an unfinished run needs, and say where the run is and what comes next."""
        if not self.args.run.keep_last:
            (self.folder / run_folder.LAST).unlink(missing_ok=True)
        built = default_set(self.args.run.dataset)
        where = "" if (built / "manifest.json").exists() else " --set DIR   (DIR: a set built by make_fer_c.py)"
        self.say(f"{self.folder}: finished, best validation macro-F1 {100 * self.best:.1f} percent\nnext: "
                 f"{shlex.join(['python', 'evaluate.py', str(self.folder)])}{where}")

    def say(self, text):
        if self.lead:
            print(text, flush=True)

    def together(self, action):
        """Run `action` on the first process; if it refuses, every process ends with its message."""
        problem = None
        if self.lead:
            try:
                action()
            except UserError as error:
                problem = str(error)
            except OSError as error:
                problem = cli.spell_os_error(error)
        problem = self.fabric.broadcast(problem)
        if problem:
            raise UserError(problem)

    def open_folder(self):
        """Find this run's folder, hold it, and see what is in it."""
        run = self.args.run
        identity = (run.runs, run.dataset, self.script, run.loss, run.noise, run.seed)
        self.folder, plain = (run_folder.place(*identity, differs) for differs in (self.settings["differs"], {}))
        if not (self.folder / run_folder.ARGS).exists() and (plain / run_folder.ARGS).exists():
            first_release = settings.earlier(plain)  # it had one folder for a seed, whatever its settings
            if run_folder.same_settings(first_release, self.settings):
                self.folder = plain
        self.lock = cli.lock(self.folder, "working in")
        self.earlier = None if run.fresh else settings.earlier(self.folder)
        if self.earlier is None:
            return
        settings.refuse_others(self.folder, self.earlier, self.settings)
        if not isinstance(self.earlier.get("recipe"), dict):  # so that tables and the sweep know it by its settings
            self.earlier |= {name: self.settings[name] for name in ("recipe", "contents", "differs")}
            cli.write_text(self.folder / run_folder.ARGS, json.dumps(self.earlier, indent=1))
        self.finished = self.count_trained() >= run.epochs

    def count_trained(self):
        """The finished epochs of the run in this folder. Raises UserError where what it would go on from is missing:
        starting from nothing would write over the weights and scores that are there."""
        paths = {name: self.folder / name for name in (run_folder.METRICS, run_folder.LAST, run_folder.BEST)}
        there = {name: path.exists() for name, path in paths.items()}
        start_over = "Restore it, or start over with --fresh."
        try:
            trained = len(cli.read_rows(paths[run_folder.METRICS]))
        except cli.DamagedFile as error:
            if not there[run_folder.LAST]:
                raise UserError(f"{error}, and without {run_folder.LAST} it cannot be written again. {start_over}"
                                ) from None
            self.say(f"{error}; it is written again from {run_folder.LAST}")
            return 0
        if trained >= self.args.run.epochs and not there[run_folder.BEST]:
            raise UserError(f"{self.folder} has trained all of its epochs, but its weights, {run_folder.BEST}, are "
                            f"missing. {start_over}")
        if trained >= self.args.run.epochs or there[run_folder.LAST]:
            return trained
        if trained:
            raise UserError(f"{self.folder} has trained {trained} of {self.args.run.epochs} epochs, but "
                            f"{run_folder.LAST}, from which it would go on, is missing. {start_over}")
        later = there[run_folder.BEST] and checkpoints.read_fields(paths[run_folder.BEST], ["epoch"])["epoch"] > 0
        if later or (self.folder / run_folder.SCORES).exists() or (self.folder / run_folder.PREDICTIONS).exists():
            raise UserError(f"{self.folder} holds weights or scores of a trained run, but neither {run_folder.METRICS} "
                            f"nor {run_folder.LAST}. {start_over}")
        return 0

    def load_data(self):
        run = self.args.run
        root, options = run.root or default_root(run.dataset), parse_options(run.data)
        train, val = (load_split(run.dataset, root, split, **options) for split in ("train", "val"))
        self.num_classes = len(train.classes)
        self.say(f"{root}: {train.notes.get('layout', run.dataset)}; {len(train.frame)} training images")
        clean = train.frame["expression"].to_numpy(np.int64)
        noise_seed = 0 if run.noise_rule == "released" else run.seed
        noisy = add_noise(clean, run.noise, self.num_classes, noise_seed, run.noise_rule)
        self.labels = torch.from_numpy(noisy).to(self.fabric.device)
        self.next_labels = self.labels.clone()
        self.val_labels = val.frame["expression"].to_numpy(np.int64)
        self.images, self.val_images = (
            Images(root, data.frame, run.image_size, self.args.machine.cache) for data in (train, val))
        try:
            counted = clean if run.class_weights == "released" else noisy
            self.class_weights = losses.class_weights(counted, self.num_classes, run.class_weights)
        except ValueError as error:
            raise UserError(f"{run.dataset}: {error}; --class-weights none trains without weights") from None
        self.settings |= {"classes": list(train.classes), "train_images": len(clean), "val_images": len(val.frame),
                          "data_sha256": fingerprint(train.frame, val.frame),
                          "noise_realised": float((noisy != clean).mean())}
        if run.targets == "fused":
            other, share, self.settings["fused"] = training_neighbours(run, train, root, options)
            self.fused = [torch.from_numpy(part).float().to(self.fabric.device) for part in (other, share[:, None])]
        self.steps = len(self.plan(0))
        seed_torch("initialisation", run.seed)
        settings.refuse_other_data(self.folder, self.earlier, self.settings)

    def target(self, index):
        """What the images of a batch are trained towards: class indices (B,), or distributions (B, K)."""
        labels = self.labels[index]
        if self.fused is None:
            return labels
        other, share = (tensor[index] for tensor in self.fused)
        return torch.lerp(other, one_hot(labels, self.num_classes).float(), share)

    def criterion(self):
        """The chosen loss with this run's constants and class weights."""
        name, frequencies = self.args.run.loss, self.labels.bincount(minlength=self.num_classes) / len(self.labels)
        constants = self.args.loss.constants(losses.options(name), frequencies)
        try:
            return losses.build(name, self.num_classes, self.class_weights, **constants).to(self.fabric.device)
        except ValueError as error:
            raise UserError(f"--loss {name}: {error}") from None

    def setup(self, model, optimizer):
        """Device, precision and process group; weights to start from, or the last checkpoint where there is one."""
        self.module, self.optimizer = model, optimizer
        last = self.folder / run_folder.LAST
        resumes = last.exists() and not self.args.run.fresh
        weights = None if resumes else pretrained.load(model, self.args.run.weights)
        model, optimizer = self.fabric.setup(optimised(model, self.args.machine), optimizer)
        device = torch.cuda.get_device_name() if self.fabric.device.type == "cuda" else "cpu"
        here = {"device": device, "processes": self.fabric.world_size, "threads": torch.get_num_threads(),
                "compile": self.args.machine.compile}
        self.say(f"training on {device} ({here['processes']} process{'es' if here['processes'] > 1 else ''}), "
                 f"precision {self.settings['precision']}")
        if resumes:
            self.restore(last)
            self.together(lambda: self.say(f"{self.folder}: going on at epoch {self.epoch + 1}, step {self.step + 1}"
                                           + settings.note_resume(self.folder, here)))
        else:
            self.together(lambda: self.begin(here | {"weights": weights}))
            self.say(pretrained.summary(weights))
        self.together(self.open_log)
        if threading.current_thread() is threading.main_thread():
            def ask(number, frame):
                self.stop_signal = number
            self.handlers = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
        return model, optimizer

    def begin(self, environment):
        """A run from the start. What an earlier one left is deleted only now that nothing can be wrong any more."""
        if self.args.run.fresh:
            run_folder.clear(self.folder)
        settings.record(self.folder, self.settings | {"model": self.module.recipe}, environment)

    def open_log(self):
        if self.args.run.track:
            try:
                import wandb
                wandb.init(project="fer-c", name=str(self.folder), config=self.settings, dir=self.folder,
                           sync_tensorboard=True, resume="auto")
            except Exception as error:  # not installed, not configured, out of reach
                raise UserError(f"--track needs wandb (pip install -r requirements-optional.txt), set up by `wandb "
                                f"login` or WANDB_MODE=offline: {cli.first_line(error)}") from None
        from torch.utils.tensorboard import SummaryWriter  # slow to import
        self.writer = SummaryWriter(self.folder, purge_step=self.epoch * self.steps + self.step)

    def epochs(self):
        """The epochs still to be trained."""
        while self.epoch < self.args.run.epochs:
            self.began = time.monotonic()
            yield self.epoch

    def plan(self, epoch):
        """This process's index lists of one epoch, in an order keyed by (seed, epoch): a resumed one is the same."""
        order = keyed_rng("order", self.args.run.seed, epoch).permutation(len(self.images))
        size, world = self.args.run.batch_size, self.fabric.world_size
        starts = list(range(0, len(order), size))
        if len(starts) > 1 and len(order) - starts[-1] < 2 * world:
            starts.pop()  # BatchNorm cannot take a single image: they join the batch before
        ends = starts[1:] + [len(order)]
        return [order[a:b][self.fabric.global_rank::world].tolist() for a, b in zip(starts, ends, strict=True)]

    def batches(self, epoch):
        """(image uint8 (B, 3, S, S), index (B,)) of this epoch from the current step on. Seeds torch for every step."""
        plan, run = self.plan(epoch), self.args.run
        with tqdm(total=len(plan), initial=self.step, desc=f"epoch {epoch + 1}/{run.epochs}", leave=False,
                  disable=None if self.lead else True) as bar:
            for image, index in load_batches(self.fabric, self.images, plan[self.step:], self.args.machine.workers):
                seed_torch("step", run.seed, self.fabric.global_rank, epoch, self.step)
                yield image if run.augment == "none" else flip_crop_erase(image), index
                bar.update()

    def end_step(self, terms):
        """Book the terms; now and then look whether they are finite, save, or stop as a signal has asked for."""
        terms = {name: value.detach().double() for name, value in terms.items()}
        for name, value in terms.items():  # a term may be absent from some steps
            self.sums[name] = self.sums.get(name, 0) + torch.stack([value, torch.ones_like(value)])
        self.pending.append(terms)
        self.step += 1
        if self.step % CHECK_EVERY == 0:
            self.check_terms()
        wanted = self.agreed_wish()
        if wanted:
            self.share_state()
            self.save()
        if wanted > 1:
            self.say(f"stopped at epoch {self.epoch + 1}, step {self.step}; saved")
            raise KeyboardInterrupt if wanted == signal.SIGINT else SystemExit(128 + wanted)

    def agreed_wish(self):
        """0, 1 to save, or the signal to stop for. All processes have to do it at the same step; asking costs."""
        wanted = self.stop_signal or int(time.monotonic() - self.saved_at > SAVE_EVERY)
        if self.fabric.world_size > 1:
            if (self.epoch * self.steps + self.step) % AGREE_EVERY:  # epochs may be shorter than that
                return 0
            wanted = torch.tensor(wanted, device=self.fabric.device)
            torch.distributed.all_reduce(wanted, torch.distributed.ReduceOp.MAX)
        return int(wanted)

    def check_terms(self):
        """Log the terms of the steps since the last look. Raises UserError at the first that is not finite."""
        steps = enumerate(self.pending, self.step - len(self.pending))
        booked = [(at, name, value) for at, terms in steps for name, value in terms.items()]
        values, self.pending = (torch.stack([value for _, _, value in booked]).tolist() if booked else []), []
        for (at, name, _), value in zip(booked, values, strict=True):
            if not math.isfinite(value):
                raise self.diverged(f"the term {name!r} is {value} at epoch {self.epoch + 1}, step {at + 1}")
            if self.lead:
                self.writer.add_scalar(f"step/{name}", value, self.epoch * self.steps + at)

    def diverged(self, what):
        last = self.folder / run_folder.LAST
        kept = f"the last good checkpoint is {last}" if last.exists() else "no checkpoint was written yet"
        return UserError(f"{what}; {kept}. Try a lower --lr or --precision 32, with --fresh.")

    def predict(self, model):
        """Logits, float32 (N, K), and labels, int64 (N,), of the validation images."""
        self.check_terms()
        if self.fabric.world_size > 1:  # each process has its own BatchNorm statistics: all take the first one's
            for buffer in self.module.buffers():
                torch.distributed.broadcast(buffer, 0)
        logits = predict(self.fabric, model, self.val_images, self.args.run.batch_size, self.args.machine.workers)
        if not np.isfinite(logits).all():
            raise self.diverged(f"the network's outputs are not finite after epoch {self.epoch + 1}")
        return logits, self.val_labels

    def end_epoch(self, scores):
        """Write the epoch's row and the checkpoints; the best epoch has the highest validation macro-F1."""
        self.share_state()
        run, train = self.args.run, {name: float(total / count) for name, (total, count) in self.sums.items()}
        row = ({"epoch": self.epoch} | {f"train_{name}": value for name, value in train.items()}
               | {"relabelled": int((self.next_labels != self.labels).sum())}
               | {f"val_{name}": value for name, value in scores.items()})
        is_best = scores["macro_f1"] > self.best and (self.epoch > 0 or not run.skip_first_epoch or run.epochs == 1)
        self.best = scores["macro_f1"] if is_best else self.best
        self.history.append(row)
        self.epoch, self.step, self.sums, self.labels = self.epoch + 1, 0, {}, self.next_labels.clone()
        seconds = time.monotonic() - self.began
        for group in self.optimizer.param_groups:
            group["lr"] *= run.lr_decay
        if self.lead:
            if is_best:
                best = {"model": self.module.state_dict(), "epoch": row["epoch"], "scores": scores}
                checkpoints.write(self.folder / run_folder.BEST, best)
            self.save()
            for name, value in row.items():
                self.writer.add_scalar(name.replace("_", "/", 1), value, self.epoch * self.steps)
            self.note_time(row["epoch"], seconds)
            cli.write_rows(self.folder / run_folder.METRICS, self.history)  # last: whole, it says that it is finished
        self.fabric.barrier()
        terms = "  ".join(f"{name} {value:.4f}" for name, value in train.items())
        self.say(f"epoch {self.epoch}/{run.epochs}  {terms}  val macro-F1 {100 * scores['macro_f1']:.1f}  "
                 f"ECE {100 * scores['ece']:.1f}  {seconds:.0f} s{'  best' if is_best else ''}")

    def share_state(self):
        """Give every process the sums and new labels of all: each image is in the batches of one of them."""
        self.sums = {name: self.fabric.all_reduce(value) for name, value in self.sums.items()}
        if self.fabric.world_size > 1:
            changed = torch.where(self.next_labels == self.labels, -1, self.next_labels)
            torch.distributed.all_reduce(changed, torch.distributed.ReduceOp.MAX)
            self.next_labels = torch.where(changed < 0, self.labels, changed)

    def note_time(self, epoch, seconds):
        """A row of timing.csv. Times are no result: a damaged file is begun anew."""
        path = self.folder / run_folder.TIMING
        try:
            rows = cli.read_rows(path)[:epoch]
        except cli.DamagedFile:
            rows = []
        rows = [row for row in rows if row.keys() == {"epoch", "seconds"}]
        cli.write_rows(path, [*rows, {"epoch": epoch, "seconds": f"{seconds:.2f}"}])

    def save(self):
        """last.pt: all that a killed run needs to end with the same bytes. No generator state: steps seed torch."""
        self.check_terms()
        self.saved_at = time.monotonic()
        if self.lead:
            state = {name: getattr(self, name) for name in PROGRESS}
            state |= {"model": self.module.state_dict(), "optimizer": self.optimizer.state_dict()}
            checkpoints.write(self.folder / run_folder.LAST, state)

    def restore(self, last):
        """Go on from a checkpoint. Raises UserError where it is damaged or not of this run."""
        fresh = "--fresh starts over"
        try:
            state = checkpoints.read_fields(last, (*PROGRESS, "model", "optimizer"), self.fabric.device)
        except cli.DamagedFile as error:
            raise UserError(f"{error}; {fresh}") from None
        try:
            progress = {name: state[name] for name in PROGRESS}
            self.check_progress(progress)
            self.module.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
        except Exception as error:  # what is damaged can fail in any way
            raise UserError(f"{last} is damaged ({cli.first_line(error)}); {fresh}") from None
        vars(self).update(progress)
        if self.lead and self.history:  # the death may have come between checkpoint and table
            cli.write_rows(self.folder / run_folder.METRICS, self.history)
        if self.lead and self.best >= 0 and not (self.folder / run_folder.BEST).exists():
            self.restore_best()

    def check_progress(self, progress):
        """Raises ValueError where what a checkpoint says about epochs and labels cannot be of this run."""
        epoch, step, history = (progress[name] for name in ("epoch", "step", "history"))
        if not (isinstance(epoch, int) and 0 <= epoch <= self.args.run.epochs):
            raise ValueError(f"epoch {epoch} of {self.args.run.epochs}")
        if not (isinstance(step, int) and 0 <= step <= self.steps):
            raise ValueError(f"step {step} of {self.steps}")
        if not (isinstance(history, list) and len(history) == epoch and all(isinstance(row, dict) for row in history)):
            raise ValueError(f"its history is not one of {epoch} epochs")
        if not (isinstance(progress["best"], float) and math.isfinite(progress["best"])):
            raise ValueError(f"best score {progress['best']}")
        if not isinstance(progress["sums"], dict):
            raise ValueError("no sums of the terms")
        for name in ("labels", "next_labels"):
            labels = progress[name]
            if not isinstance(labels, torch.Tensor) or labels.shape != self.labels.shape or labels.dtype != torch.int64:
                raise ValueError(f"{name} are not those of {len(self.labels)} images")
            if labels.min() < 0 or labels.max() >= self.num_classes:
                raise ValueError(f"{name} are not all within 0..{self.num_classes - 1}")

    def restore_best(self):
        """best.pt is missing: write it again where the checkpoint holds the very weights, else refuse."""
        path, scores = self.folder / run_folder.BEST, self.history[-1] if self.history else {}
        if self.step or scores.get("val_macro_f1") != self.best:
            raise UserError(f"{path} is missing, and the weights of the best epoch so far are not those of "
                            f"{run_folder.LAST}. Restore it, or start over with --fresh.")
        scores = {name.removeprefix("val_"): value for name, value in scores.items() if name.startswith("val_")}
        checkpoints.write(path, {"model": self.module.state_dict(), "epoch": self.epoch - 1, "scores": scores})
        self.say(f"{path} was missing; written again from {run_folder.LAST}")
