"""What the runs of a folder lack for full tables, with the commands that make it.

The tables show every algorithm trained with cross-entropy (ce) and with the calibrated loss (maxent+mbls), on every
data set. `wanted_rows` lists the rows that such tables have, given the runs that are there; `find_gaps` returns a note
for each run that has still to be trained or scored.
"""
import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from reporting.notes import READ_ERRORS, Note, check_regular, plain
from reporting.rows import COMPARED_LOSSES, Block, Row, Setup, losses_to_compare, rank
from reporting.runs import KEYS, Run
from reporting.scores import blocks_of, runs_in_block
from reporting.settings import LOSS_CONSTANTS, OPTION_OF_PRECISION, loss_has_constant
from support import run_folder
from support.files import read_rows


def find_gaps(runs: list[Run], scores: pd.DataFrame, sets: Mapping[Block, Path | None] | None = None) -> list[Note]:
    """Everything that would fill the gaps: runs to score, runs left out, runs to train, runs that stopped early.

    scores: of `scores.scores_as_table`. sets: folders of the built sets, as far as they are known."""
    sets = sets or {}
    return [*damaged_scores(runs, sets), *unscored_runs(runs, scores, sets), *untrained_runs(runs),
            *unfinished_runs(runs)]


# --- runs to score ---


def damaged_scores(runs: list[Run], sets: Mapping[Block, Path | None]) -> list[Note]:
    """The runs whose scores are missing or damaged."""
    notes = []
    for run in runs:
        sets_of_run = [folder for block, folder in sets.items() if block.setup == run.setup]
        command = run.scoring_command(sets_of_run)
        notes += [Note(str(run.folder), problem, command=command) for problem in run.problems]
    return notes


def unscored_runs(runs: list[Run], scores: pd.DataFrame, sets: Mapping[Block, Path | None]) -> list[Note]:
    """The runs that have scores, but none in a block that they could be in; and those that repeat another run."""
    runs_of_block = {block: runs_in_block(scores, block) for block in blocks_of(scores)}
    scored: dict[Block, set[int]] = {}  # the same whatever the precision
    for block, indices in runs_of_block.items():
        scored.setdefault(block._replace(precision=""), set()).update(indices)
    notes = []
    for block, indices in runs_of_block.items():
        counted = {(runs[index].row, runs[index].seed): runs[index] for index in indices}
        for index, run in enumerate(runs):
            twin = counted.get((run.row, run.seed))
            if run.setup != block.setup or run.scores is None or run is twin:
                continue
            if twin is not None:
                reason = f"left out of {block.name}: the same settings and seed as {twin.folder}"
                notes.append(Note(str(run.folder), reason))
            elif index not in scored[block._replace(precision="")]:
                reason = f"no scores on {block.name} with N = {block.n}"
                notes.append(Note(str(run.folder), reason, command=run.scoring_command([sets.get(block)])))
    return notes


# --- runs to train ---


def untrained_runs(runs: list[Run]) -> list[Note]:
    """The runs that the tables lack, sorted: each row of `wanted_rows` with every seed that was begun on its data."""
    wanted = sorted(wanted_rows(runs), key=lambda pair: (pair[0], pair[1].noise, rank(pair[1])))
    notes = []
    for setup, row in wanted:
        runs_of_setup = [run for run in runs if run.setup == setup]
        seeds = {run.seed for run in runs_of_setup if run.row.noise == row.noise}
        if not seeds:
            seeds = {run.seed for run in runs_of_setup}
        trained = {run.seed for run in runs_of_setup if run.row == row}
        for seed in sorted(seeds - trained):
            notes.append(Note("", "not trained", command=train_command(setup, row, seed, runs)))
    return notes


def wanted_rows(runs: list[Run]) -> set[tuple[Setup, Row]]:
    """The rows that full tables have, whether they were trained or not: {(Setup, Row)}.

    Runs with one protocol and image size have common tables. In these
    - every algorithm that was begun on one data set is wanted on all of them, with both losses of `COMPARED_LOSSES`;
    - every row is wanted with both losses;
    - label noise and further losses are wanted only on the data sets where they were begun."""
    wanted = {(run.setup, run.row) for run in runs}
    for protocol, image_size in sorted({(run.setup.protocol, run.setup.image_size) for run in runs}):
        runs_of_tables = [run for run in runs if run.setup[1:] == (protocol, image_size)]
        noiseless = [run for run in runs_of_tables if not run.row.noise]
        noisy = [run for run in runs_of_tables if run.row.noise]
        wanted |= rows_with_both_losses(noiseless)
        wanted |= rows_with_both_losses(noisy)
        wanted |= rows_with_further_losses(noiseless)
    return wanted


def rows_with_both_losses(runs: list[Run]) -> set[tuple[Setup, Row]]:
    """The rows that are missing for the comparison of `COMPARED_LOSSES`: every data set is to have every algorithm with
    both losses, and every row a partner with the other loss. The runs have common tables, and all or none of them have
    label noise."""
    wanted = set()
    begun_anywhere = {(run.row.algorithm, run.row.noise) for run in runs}
    for setup in {run.setup for run in runs}:
        rows = {run.row for run in runs if run.setup == setup}
        begun = {(row.algorithm, row.noise) for row in rows}
        for algorithm, noise in begun_anywhere - begun:
            wanted |= {(setup, Row(algorithm, loss, noise)) for loss in COMPARED_LOSSES}
        wanted |= {(setup, row) for row in absent_partners(rows, COMPARED_LOSSES)}
    return wanted


def rows_with_further_losses(runs: list[Run]) -> set[tuple[Setup, Row]]:
    """The rows that are missing for the comparison of further losses. What was trained with a loss outside
    `COMPARED_LOSSES` is wanted with every loss that the runs of its data set are compared by. runs: without label
    noise."""
    wanted = set()
    for setup in {run.setup for run in runs}:
        rows = {run.row for run in runs if run.setup == setup}
        with_further_loss = {row for row in rows if row.loss not in COMPARED_LOSSES}
        if not with_further_loss:
            continue
        compared = {row.without_loss_and_constants() for row in with_further_loss}
        rows_of_compared = {row for row in rows if row.without_loss_and_constants() in compared}
        losses = losses_to_compare(row.loss for row in with_further_loss)
        wanted |= {(setup, row) for row in absent_partners(rows_of_compared, losses)}
    return wanted


def absent_partners(rows: set[Row], losses: Iterable[str]) -> set[Row]:
    """For each of these rows and each of these losses: the row of the same training with that loss, if it is not among
    them."""
    trained = {(row.without_loss_and_constants(), row.loss) for row in rows}
    absent = set()
    for training in {row.without_loss_and_constants() for row in rows}:
        for loss in losses:
            if (training, loss) not in trained:
                absent.add(training._replace(loss=loss))
    return absent


def train_command(setup: Setup, row: Row, seed: int, runs: list[Run]) -> str:
    """The command that trains a row with a seed. The most similar run on this data set, protocol and image size gives
    --root and --runs; it gives its other options too where it has the same algorithm and settings."""
    def distance(run: Run) -> tuple[bool, ...]:
        return (run.setup != setup, run.row.algorithm != row.algorithm, run.row.settings != row.settings,
                run.row.loss != row.loss, run.row.constants != row.constants, run.row.noise != row.noise)

    nearest = min(runs, key=distance)
    words = ["python", f"train_{row.algorithm}.py", "--dataset", setup.dataset, "--loss", row.loss, "--seed", seed,
             "--protocol", setup.protocol, "--image-size", setup.image_size]
    if row.noise:
        words += ["--noise", row.noise]
    if (nearest.row.algorithm, nearest.row.settings) == (row.algorithm, row.settings):
        words += options_of(nearest, row)
    root = nearest.args.get("root")
    if nearest.setup.dataset == setup.dataset and isinstance(root, str):
        words += ["--root", root]
    folder = nearest.args.get("runs")
    if isinstance(folder, str) and folder not in ("runs", str(run_folder.default_runs())):
        words += ["--runs", folder]
    return shlex.join(map(str, words))


def options_of(run: Run, row: Row) -> list[str]:
    """The settings of a run that are not the recipe's, as options for a run of `row`: without constants of another
    loss, and without what `train_command` names anyway."""
    differs = run.args.get("differs")
    if isinstance(differs, Mapping):
        settings = {name: run.args.get(name) for name in differs}
    else:
        settings = run.varied
    named_anyway = {*KEYS, run_folder.DATA, "root", "runs"}
    words = []
    for name, value in sorted(settings.items()):
        of_other_loss = run.row.loss != row.loss or not loss_has_constant(row.loss, name)
        if name in LOSS_CONSTANTS and of_other_loss:
            continue
        if name not in named_anyway and re.fullmatch("[a-z][a-z0-9_]*", name):
            words += spell_option(name, value)
    return words


def spell_option(name: str, value: Any) -> list[str]:
    """A setting of args.json as words of a command line; nothing for a value that no option can have."""
    option = f"--{name.replace('_', '-')}"
    if isinstance(value, bool):
        return [option] if value else [f"--no-{option[2:]}"]
    if isinstance(value, list):
        words = []
        for entry in value:
            words += [option, str(entry)]
        return words
    if name == "precision":
        value = OPTION_OF_PRECISION.get(str(value), value)
    if isinstance(value, str | int | float):
        return [option, str(value)]
    return []


# --- runs that stopped early ---


def unfinished_runs(runs: list[Run]) -> list[Note]:
    """The runs whose training stopped early, or whose metrics.csv cannot be read. Their scores are in the tables."""
    notes = []
    for run in runs:
        path = run.folder / run_folder.METRICS_FILE
        epochs = run.args.get("epochs")
        try:
            if path.exists():
                check_regular(path)
            trained = len(read_rows(path))
        except READ_ERRORS as error:
            reason = f"{path} is damaged ({plain(error)}); the scores do not depend on it"
            notes.append(Note("", reason))
            continue
        if isinstance(epochs, int) and trained < epochs:
            notes.append(Note(str(run.folder), f"trained for {trained} of {epochs} epochs: start it again"))
    return notes
