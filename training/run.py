"""What a training script calls: `start_training` gives a `Training`, whose methods the script's loop calls.

    with start_training(args, __file__, RELEASED, RELEASED_ON) as training:
        ...                                                     the script builds network and optimizer
        model, optimizer = training.setup(model, optimizer)     weights to start from, or the last checkpoint
        for epoch in training.epochs():
            for image, index in training.batches(epoch):
                ...                                             the script computes terms of the loss, and steps
                training.end_step(terms)
            logits, labels = training.predict(model)
            training.end_epoch(metrics.summary(...))

Words: `training` is the object of class `Training`. `args` is the script's `Args`, with the values from the command
line; `args.options`, the options that all scripts have in common, is one of its groups (options.py). A run is one
training together with the folder of its results; its settings are the values of its options, as args.json stores them.
What last.pt holds is declared in state.py, what a run's folder holds in support/run_folder.py.

In the scripts of the five algorithms, `# --- algorithm ---` begins lines that are the algorithm's own. Lines after
`# --- shared ---` are the same in all five, and a test compares them.
"""
import signal
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import one_hot
from tqdm import tqdm

import losses
from compute.batches import load_batches
from compute.devices import (
    connect, deterministic_algorithms, fast_arithmetic, machine_facts, precision_name, seed_torch)
from compute.graphs import set_up
from compute.predict import predict
from models import pretrained
from models.augment import flip_shift_erase
from support import run_folder
from support.errors import UserError
from support.files import write_rows
from training import folder as training_folder, state as training_state
from training.data import TrainingData, load_data, plan_batches
from training.folder import OpenRun, open_run
from training.image_caches import attach_caches, folder_to_keep_in
from training.log import Log, divergence, start_tracking
from training.options import MachineOptions, TrainingOptions, check, contents, flat, usual_values
from training.processes import Processes
from training.requests import Request, Requests
from training.state import State

CHECK_EVERY = 50  # steps between checks of the terms of the loss (a check waits for the device)


@contextmanager
def start_training(args: Any, script: str, released: Mapping[str, Any],
                   released_on: Mapping[str, Mapping[str, Any]] | None = None, kind: "type[Training] | None" = None,
                   usual_on: Mapping[str, Mapping[str, Any]] | None = None) -> Iterator["Training"]:
    """Check the options, open the folder of the run and read the data. Gives the `Training` for the script's loop.

    args: the script's `Args`. script: its file. released, released_on: its values with `--protocol released`, for all
    data sets and for single ones. kind: `Training`, or a class built on it. usual_on: as for `recipe_filler`. If the
    run is finished already, `training.finished` is true, no data are read and no file is removed. Else, at the end of
    the block, the folder is unlocked and, if all epochs are trained, last.pt is removed (unless --keep-last). A
    training that is killed after the last line of metrics.csv, and before this removal, leaves its last.pt for good:
    the run is finished.
    """
    check(args)
    with ExitStack() as resources:
        resources.enter_context(deterministic_algorithms(args.machine.deterministic))
        processes = Processes(connect(precision_name(args.machine.precision)))
        settings = all_settings(args, Path(script).stem.removeprefix("train_"), released, released_on or {},
                                usual_on or {})
        run = open_run(processes, args.options, settings)
        resources.callback(run.close)
        training = (kind or Training)(args, processes, run, settings, Requests(processes))
        resources.callback(training.log.close)
        resources.callback(training.stop_loading)
        if run.finished:
            processes.print_once(f"{run.folder} is finished ({args.options.epochs} epochs); --fresh starts over")
            yield training
            return
        training.read_data()
        resources.enter_context(fast_arithmetic(processes.fabric.device))
        with training.requests:
            yield training
        if training.network is not None and training.state.epoch >= args.options.epochs:
            processes.run_on_first(training.finish)


def all_settings(args: Any, script: str, released: Mapping[str, Any],
                 released_on: Mapping[str, Mapping[str, Any]],
                 usual_on: Mapping[str, Mapping[str, Any]] | None = None) -> dict[str, Any]:
    """What args.json says of the options: their values, and what support/run_folder.py needs to tell runs apart."""
    precision = precision_name(args.machine.precision)
    usual = usual_values(args, released, released_on, usual_on)
    usual["precision"] = precision_name(MachineOptions.precision)
    digests = contents(args)
    settings = {"script": script}
    settings |= flat(args)
    # evaluate.py computes the metric nll_released with batches of the script's default batch size, as the FER-C release
    # did for each algorithm.
    settings |= {"precision": precision, "recipe": usual, "contents": digests,
                 "nll_batch": type(args.options).batch_size}
    settings["differs"] = run_folder.settings_that_differ(settings, usual, digests)
    return settings


@dataclass
class Training:
    """One training: its options, its data, its state, and the methods that a script's loop calls."""

    args: Any
    """the script's `Args`"""
    processes: Processes
    run: OpenRun
    """the folder of the run, locked, and how far the run has come"""
    settings: dict[str, Any]
    """what args.json holds, without the network"""
    requests: Requests
    data: TrainingData | None = None
    """None if the run is finished; then `state` is None too"""
    state: State | None = None
    """what last.pt holds, besides network and optimizer"""
    network: torch.nn.Module | None = None
    """the network itself, without Fabric's wrapper; None before `setup`"""
    optimizer: torch.optim.Optimizer | None = None
    """the optimizer itself, without Fabric's wrapper; None before `setup`"""
    log: Log = field(default_factory=Log)
    loader: Generator | None = None
    """the batches of the current epoch"""
    steps: int = 0
    """steps in an epoch; of a detector the most that there can be"""
    epoch_began: float = 0.0
    """when the current epoch began (seconds of `time.monotonic`)"""

    @property
    def options(self) -> TrainingOptions:
        return self.args.options

    @property
    def fabric(self) -> Any:
        """Lightning Fabric: device, precision, process group."""
        return self.processes.fabric

    @property
    def folder(self) -> Path:
        return self.run.folder

    @property
    def finished(self) -> bool:
        """Whether all epochs were trained before this training began."""
        return self.run.finished

    @property
    def num_classes(self) -> int:
        return len(self.data.classes)

    @property
    def labels(self) -> torch.Tensor:
        """int64 (N,): the labels trained on in this epoch, addressed by the indices that `batches` gives."""
        return self.state.labels

    @property
    def next_labels(self) -> torch.Tensor:
        """int64 (N,): the labels of the next epoch; write here to relabel."""
        return self.state.next_labels

    # --- before the loop ---

    def read_data(self) -> None:
        """Read the data, set the state of a training that begins, and open the cache of decoded images. Raises
        UserError where ids, labels or targets of the data have changed since the run began."""
        self.data = self.load_data()
        self.settings |= self.data.facts
        labels = torch.from_numpy(self.data.labels).to(self.fabric.device)
        self.state = State(labels=labels, next_labels=labels.clone())
        self.steps = len(self.plan(0))
        seed_torch("initialisation", self.options.seed)
        training_folder.refuse_other_data(self.folder, self.run.earlier, self.settings)
        attach_caches((self.data.images, self.data.val_images), self.args.machine, self.options.runs, self.processes)

    def load_data(self) -> TrainingData:
        """The data that this training is about."""
        cache = folder_to_keep_in(self.args.machine, self.options.runs)
        return load_data(self.options, self.processes, cache=cache)

    def load_weights(self, model: Any) -> dict[str, Any]:
        """Give a network the weights of --weights. Returns the report of `pretrained.load`."""
        return pretrained.load(model, self.options.weights)

    def criterion(self) -> torch.nn.Module:
        """The chosen loss, with the constants of `LossOptions` and the class weights, on the device."""
        name = self.options.loss
        frequencies = self.labels.bincount(minlength=self.num_classes) / len(self.labels)
        arguments = self.args.constants.arguments(name, frequencies)
        try:
            loss = losses.build(name, self.num_classes, self.data.class_weights, **arguments)
        except ValueError as error:
            raise UserError(f"--loss {name}: {error}") from None
        return loss.to(self.fabric.device)

    def setup(self, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> tuple[torch.nn.Module, Any]:
        """Network and optimizer on the device, wrapped by Fabric. They have the state of last.pt where the run goes on,
        else the network has the weights of --weights. From here on Ctrl-C and SIGTERM stop the training at the end of a
        step."""
        self.network, self.optimizer = model, optimizer
        last = self.folder / run_folder.LAST_CHECKPOINT
        resumes = last.exists() and not self.options.fresh
        weights = None if resumes else self.load_weights(model)
        plan = self.plan(0)
        count = len(plan[0]) if plan else 0  # the last batch may be smaller, or larger by one image
        wrapped = set_up(self.fabric, model, optimizer, self.args.machine, count)
        machine = machine_facts(self.fabric, self.args.machine)
        plural = "es" if machine["processes"] > 1 else ""
        self.processes.print_once(f"training on {machine['device']} ({machine['processes']} process{plural}), "
                                  f"precision {self.settings['precision']}")
        if resumes:
            self.restore(last)
            self.processes.run_on_first(lambda: self.report_resumption(machine))
        else:
            self.processes.run_on_first(lambda: self.begin(machine | {"weights": weights}))
            self.processes.print_once(pretrained.summary(weights))
        self.processes.run_on_first(self.open_log)
        self.requests.watch_signals()
        return wrapped

    def begin(self, environment: dict[str, Any]) -> None:
        """Write the settings of a run that begins. With --fresh, what an earlier run left is deleted only now that
        nothing can be refused any more."""
        if self.options.fresh:
            run_folder.clear(self.folder)
        training_folder.write_settings(self.folder, self.settings | {"model": self.network.description}, environment)

    def report_resumption(self, machine: dict[str, Any]) -> None:
        """Print at which step the run goes on, and which facts about the machine are not what they were."""
        changes = training_folder.record_resumption(self.folder, machine)
        self.processes.print_once(f"{self.folder}: going on at epoch {self.state.epoch + 1}, "
                                  f"step {self.state.step + 1}{changes}")

    def open_log(self) -> None:
        """Open TensorBoard's file and, with --track, the connection to Weights & Biases."""
        if self.options.track:
            start_tracking(self.folder, self.settings)
        self.log.open(self.folder, purge_step=self.steps_so_far())

    # --- in the loop ---

    def epochs(self) -> Iterator[int]:
        """The numbers, from 0, of the epochs that are still to be trained."""
        while self.state.epoch < self.options.epochs:
            self.epoch_began = time.monotonic()
            yield self.state.epoch

    def plan(self, epoch: int) -> list[list[int]]:
        """The batches of this process in an epoch, as lists of indices."""
        return plan_batches(len(self.data.images), self.options.batch_size, self.options.seed, epoch,
                            self.fabric.global_rank, self.processes.count)

    def batches(self, epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The batches of this epoch from the current step on: images, uint8 (B, 3, S, S), and their indices, int64
        (B,), on the device. Seeds torch for every step."""
        plan = self.plan(epoch)
        first = self.state.step
        bar = tqdm(total=len(plan), initial=first, desc=f"epoch {epoch + 1}/{self.options.epochs}", leave=False,
                   disable=None if self.processes.is_first else True)
        self.loader = load_batches(self.fabric, self.data.images, plan[first:], self.args.machine.workers)
        with bar:
            for image, index in self.loader:
                seed_torch("step", self.options.seed, self.fabric.global_rank, epoch, self.state.step)
                if self.options.augment == "basic":
                    image = flip_shift_erase(image)
                yield image, index
                bar.update()

    def stop_loading(self) -> None:
        """End the threads that prepare batches, where an epoch was left in the middle. The script's loop, which holds
        the iterator, may live on in a traceback."""
        if self.loader is not None:
            self.loader.close()

    def target(self, index: torch.Tensor) -> torch.Tensor:
        """The targets of a batch: class indices, int64 (B,), or, with --targets fused, distributions, float32 (B, K).

        Fused targets are those of `soft_labels.fuse`, computed here in float32 on the device, because an algorithm may
        change the labels from one epoch to the next.
        """
        labels = self.labels[index]
        fused = self.data.fused
        if fused is None:
            return labels
        given = one_hot(labels, self.num_classes).float()
        return torch.lerp(fused.distribution[index], given, fused.label_weight[index])

    def end_step(self, terms: Mapping[str, torch.Tensor]) -> None:
        """Add a step's terms of the loss to the log and to the means of the epoch. A term may be absent from some
        steps.

        Every `CHECK_EVERY` steps the terms are checked: raises UserError where one is not finite. last.pt is written
        when `Requests` asks for it. After a request to stop, last.pt is written, then KeyboardInterrupt (Ctrl-C) or
        SystemExit (SIGTERM) is raised.
        """
        detached = {name: value.detach().double() for name, value in terms.items()}
        self.state.add_terms(detached)
        self.log.pending.append(detached)
        if self.state.step % CHECK_EVERY == 0:
            self.check_terms()
        request = self.requests.common_request(self.steps_so_far())
        if request == Request.NONE:
            return
        self.exchange_state()
        self.save()
        if request == Request.STOP:
            self.processes.print_once(f"stopped at epoch {self.state.epoch + 1}, step {self.state.step}; saved")
            if self.requests.stop_signal == signal.SIGINT:
                raise KeyboardInterrupt
            raise SystemExit(128 + self.requests.stop_signal)

    def steps_so_far(self) -> int:
        """Finished steps of all epochs."""
        return self.state.epoch * self.steps + self.state.step

    def check_terms(self) -> None:
        """Log the terms of the steps since the last check. Raises UserError at the first that is not finite."""
        self.log.check_pending(self.folder, self.state.epoch, self.state.step, self.steps)

    # --- at the end of an epoch ---

    def predict(self, model: torch.nn.Module) -> tuple[np.ndarray, np.ndarray]:
        """Logits, float32 (M, K), and labels, int64 (M,), of the validation images. Raises UserError where the logits
        are not finite."""
        self.check_terms()
        self.processes.use_first_buffers(self.network)
        machine = self.args.machine
        logits = predict(self.fabric, model, self.data.val_images, self.options.batch_size, machine.workers)
        if not np.isfinite(logits).all():
            problem = f"the network's outputs are not finite after epoch {self.state.epoch + 1}"
            raise divergence(self.folder, problem)
        return logits, self.data.val_labels

    def end_epoch(self, scores: Mapping[str, float]) -> None:
        """Write the files of the finished epoch, print its scores, and go to the next epoch.

        Every epoch gets a row in metrics.csv and timing.csv, its scores in TensorBoard's file, and a new last.pt. If it
        is the best one so far (`is_best`), best.pt is written too. All learning rates are multiplied by --lr-decay.
        scores: as `metrics.summary` gives them.
        """
        self.exchange_state()
        means = self.state.means()
        row = self.state.row(means, scores)
        is_best = self.is_best([*self.state.history, row])
        self.state.begin_next_epoch(row, scores["macro_f1"] if is_best else self.state.best)
        seconds = time.monotonic() - self.epoch_began
        for group in self.optimizer.param_groups:
            group["lr"] *= self.options.lr_decay
        if self.processes.is_first:
            self.write_epoch(row, scores, is_best, seconds)
        self.fabric.barrier()
        terms = "  ".join(f"{name} {value:.4f}" for name, value in means.items())
        self.processes.print_once(
            f"epoch {self.state.epoch}/{self.options.epochs}  {terms}  val macro-F1 {100 * scores['macro_f1']:.1f}  "
            f"ECE {100 * scores['ece']:.1f}  {seconds:.0f} s{'  best' if is_best else ''}")

    def exchange_state(self) -> None:
        """Give every process the same state: `sums` become means over the processes (of total and count alike, so that
        total / count is the mean over the steps of all processes), and `next_labels` get the changes of all."""
        self.state.sums = {name: self.fabric.all_reduce(value) for name, value in self.state.sums.items()}
        self.state.next_labels = self.processes.merged_labels(self.state.labels, self.state.next_labels)

    def is_best(self, rows: list[dict[str, Any]]) -> bool:
        """Whether the last one of these epochs is the best one. rows: of metrics.csv, from the first epoch on. With
        --skip-first-epoch the first epoch is never the best one, unless it is the only one of the run."""
        scores = [row["val_macro_f1"] for row in rows]
        if self.options.skip_first_epoch and self.options.epochs > 1:
            scores = scores[1:]
        return bool(scores) and scores[-1] > max(scores[:-1], default=-1.0)

    def write_epoch(self, row: dict[str, Any], scores: Mapping[str, float], is_best: bool, seconds: float) -> None:
        """Write the files of a finished epoch. last.pt comes first, so that best.pt never holds an epoch that the run
        repeats after a kill (on a GPU it can end with other weights). metrics.csv comes last, since its number of rows
        says that an epoch is finished."""
        self.save()
        if is_best:
            training_state.save_best(self.folder / run_folder.BEST_CHECKPOINT, self.network, row["epoch"], scores)
        for name, value in row.items():
            self.log.add_scalar(name.replace("_", "/", 1), value, self.steps_so_far())
        training_folder.record_time(self.folder, row["epoch"], seconds)
        write_rows(self.folder / run_folder.METRICS_FILE, self.state.history)

    # --- checkpoints ---

    def save(self) -> None:
        """Write last.pt, on the first process. Before that, raises UserError where a term is not finite, so that the
        last good checkpoint stays."""
        self.check_terms()
        self.requests.saved_at = time.monotonic()
        if self.processes.is_first:
            training_state.save(self.folder / run_folder.LAST_CHECKPOINT, self.state, self.network, self.optimizer)

    def restore(self, last: Path) -> None:
        """Go on from last.pt.

        A process may have died after it had written last.pt and before best.pt or metrics.csv. So metrics.csv is
        written again from the checkpoint, and best.pt too, if the checkpoint was written at the end of the best epoch.
        Raises UserError where the checkpoint is damaged or of another training, or where best.pt is lost.
        """
        self.state = training_state.restore(
            last, self.state, self.network, self.optimizer, num_classes=self.num_classes, epochs=self.options.epochs,
            steps=self.steps, device=self.fabric.device)
        if not self.processes.is_first or not self.state.history:
            return
        write_rows(self.folder / run_folder.METRICS_FILE, self.state.history)
        best = self.folder / run_folder.BEST_CHECKPOINT
        if self.state.step == 0 and self.is_best(self.state.history):
            training_state.restore_best(best, self.state, self.network)
        elif self.state.best >= 0 and not best.exists():
            raise UserError(f"{best} is missing, and the weights of the best epoch so far are not those of "
                            f"{run_folder.LAST_CHECKPOINT}. Restore it, or start over with --fresh.")

    def finish(self) -> None:
        """Remove what only an unfinished run needs, and print where the run is and which command comes next."""
        self.processes.print_once(training_folder.finish_run(self.folder, self.options, self.state.best))
