"""Score a trained run on a built set, on its clean images and on their corrupted forms.

  python evaluate.py runs/ferplus/baseline/ce/noise0/seed0                       the set of the run's own data set
  python evaluate.py runs/ferplus/baseline/ce/noise0/seed0 --set data/FERPlus-C data/Demo-C
  python evaluate.py runs/ferplus/baseline/ce/noise0/seed0 --limit 8             a quick look: prints, writes nothing

A built set is the folder <Title>-C that make_fer_c.py makes from a data set; it has 17 corruptions at 5 severities. All
images come from the built set, and the data set itself is not needed. Nothing is trained.

The network's outputs (logits) are stored in the run's folder, one file for the clean images and one for each corruption
at each severity: in predictions/<set>/, or in predictions/<set>.bf16/ with --precision bf16. While they are computed
they lie in predictions/<set>.partial/, a few source images a file. After an interruption, the same command goes on from
there. The scores, in scores.csv, are always computed from the stored outputs.
"""
from support import start

if __name__ == "__main__":  # before the imports that may be interrupted, or fail outside the environment
    start.explain_failed_imports()

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from support import cli
from support.cli import Between
from support.errors import UserError
from support.run_folder import PRECISIONS


@dataclass
class Machine:
    """Where and how the network runs."""

    precision: Literal["32", "bf16"] = "32"
    """number format of the network: 32 is float32 without TensorFloat-32; bf16 is faster on some hardware, and its
    scores are kept apart"""
    workers: Annotated[int, Between(0)] = min(16, len(os.sched_getaffinity(0)))
    """number of processes that read or make images (default: one for each CPU core, at most 16); 0 reads in the main
    process"""
    compile: bool = False
    """compile the network with torch.compile: it starts slowly and then runs faster"""


@dataclass
class Args:
    """The options of evaluate.py."""

    run: Annotated[Path, tyro.conf.Positional]
    """folder of a trained run"""
    set: tuple[Path, ...] = ()
    """folders of built sets, one or several (default: <Title>-C of the run's data set, in $FERC_DATA or data; for runs
    with --protocol released name the set, usually <Title>-C-released)"""
    limit: Annotated[int | None, Between(1)] = None
    """number of images, the first of the set, for a quick look: scores are printed, and nothing is written (default:
    all images; so is a number that the set does not exceed)"""
    on_the_fly: bool = False
    """make the corrupted images in memory instead of reading files, with the same bytes; for sets that were built with
    --no-images"""
    verify: bool = True  # the text is that of --no-verify
    """do not compare the set's files with their checksums; the scores carry a note"""
    batch_size: Annotated[int, Between(1)] = 128
    """largest number of images that the network takes at once, on each device"""
    force: bool = False
    """score although the run and the set differ in protocol or image size; the scores carry a note"""
    machine: Machine = field(default_factory=Machine)


def main(args: Args) -> None:
    """Check the run and the sets, then compute and store what is missing."""
    cli.check_values(args)
    # tyro checks the precision on a command line; a caller in Python may pass anything.
    if args.machine.precision not in PRECISIONS:
        raise UserError(f"--precision of scoring is {' or '.join(PRECISIONS)}, not {args.machine.precision}")

    # Imported here, since it takes seconds and `--help` needs none of it; what is needed to check the sets comes first.
    from evaluation.matching import default_set_of, match, open_sets
    from evaluation.trained_run import read_trained_run

    run = read_trained_run(args.run)
    folders = args.set or (default_set_of(run),)
    built_sets = open_sets(folders, args.verify, args.on_the_fly)
    matched_sets = [match(run, built, args.force) for built in built_sets]

    from evaluation.scoring import score_run  # with PyTorch
    from evaluation.inference import InferenceOptions

    options = InferenceOptions(args.machine.precision, args.batch_size, args.machine.workers, args.machine.compile,
                               args.on_the_fly)
    score_run(run, matched_sets, options, args.limit, args.verify)


if __name__ == "__main__":
    cli.run(main, Args)
