"""Score a trained run, or any other model, on a built set, on its clean images and on their corrupted forms.

  python evaluate.py runs/ferplus/baseline/ce/noise0/seed0                       the set of the run's own data set
  python evaluate.py runs/ferplus/baseline/ce/noise0/seed0 --limit 8             a quick look: prints, writes nothing
  python evaluate.py runs/ferplus/baseline/ce/noise0/seed0 --set data/FERPlus-P  perturbation sequences
  python evaluate.py --model net.onnx --set data/FERPlus-C --input range=0..1 --classes happy,sad,angry

A built set is the folder <Title>-C that make_fer_c.py makes from a data set; it has 17 corruptions at 5 severities, or
the 18 of MIVIA. Or it is the folder <Title>-P of make_fer_p.py, with perturbation sequences, which show how often a
model changes its mind. All images come from the built set. The data set itself is not needed, except for one
temperature of a run, which is fitted on its validation images and used for sequences only. Nothing is trained.

docs/evaluating.md shows every kind of --model. From Python: `from evaluate import benchmark`.

The network's outputs (logits) are stored in the folder of the run; of other models in
<runs>/models/<name>-<8 hex digits>. There is a file for the clean images and one for each corruption at each severity,
or for each frame. They lie in predictions/<set>/, with --precision bf16 in predictions/<set>.bf16/. While they are
computed they lie in predictions/<set>.partial/, a few source images a file. After an interruption, the same command
goes on from there. The scores, in scores.csv, are always computed from the stored outputs.
"""
from support import start

if __name__ == "__main__":  # before the imports that may be interrupted, or fail outside the environment
    start.explain_failed_imports()

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from evaluation.model_options import ModelOptions, check_machine, kind_of
from evaluation.scoring_options import CardOptions, CheckOptions, ClassOptions
from support import cli
from support.cli import Between, Rare
from support.errors import UserError
from support.run_folder import PRECISIONS


def __getattr__(name: str) -> Any:
    """`from evaluate import benchmark`: imported when it is asked for, so that --help does not wait for NumPy."""
    if name != "benchmark":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from evaluation.benchmark import benchmark

    return benchmark


USAGE = ("RUN [options]", "--model MODEL --set SET [options]")


@dataclass
class Machine:
    """Where and how the network runs"""

    precision: Literal["32", "bf16"] = "32"
    """number format of the network: 32 is float32 without TensorFloat-32; bf16 is faster on some hardware, and its
    scores are kept apart"""
    workers: Annotated[int, Between(0)] = min(16, len(os.sched_getaffinity(0)))
    """number of processes that read or make images (default: one for each CPU core, at most 16); 0 reads in the main
    process"""
    compile: Annotated[bool, Rare] = False
    """compile the network with torch.compile: it starts slowly and then runs faster"""


@dataclass
class Args:
    """The options of evaluate.py."""

    run: Annotated[Path | None, tyro.conf.Positional] = None
    """folder of a trained run; another model is named with --model in its place"""
    set: tuple[Path, ...] = ()
    """folders of built sets, one or several (default for a run: <Title>-C of its data set, in $FERC_DATA or data; name
    sets of perturbation sequences, usually <Title>-P, and the set for runs with --protocol released, usually
    <Title>-C-released)"""
    limit: Annotated[int | None, Between(1)] = None
    """number of images, the first of the set, for a quick look: scores are printed, and nothing is written (default:
    all images; so is a number that the set does not exceed)"""
    on_the_fly: bool = False
    """make the corrupted images or frames in memory instead of reading files, with the same bytes; for sets that were
    built with --no-images"""
    verify: Annotated[bool, Rare] = True  # the text is that of --no-verify
    """do not compare the set's files with their checksums; the scores carry a note"""
    top_k: Annotated[int | None, Rare, Between(1, 100)] = None
    """sets of perturbation sequences: also score how far the ranking of the classes moves among its first places, this
    many, as top<k>_distance; top2_distance is always scored"""
    batch_size: Annotated[int, Between(1)] = 128
    """largest number of images that the network takes at once, on each device"""
    force: Annotated[bool, Rare] = False
    """score although the run and the set differ in protocol, image size or (sets of sequences) the crop of faces; the
    scores carry a note"""
    export_onnx: Annotated[Path | None, Rare] = None
    """write the run's network to this ONNX file, with its preprocessing and the names of its classes, and score
    nothing"""
    export_ids: Annotated[Path | None, Rare] = None
    """write to this folder which images of --set are to be predicted elsewhere, for --model logits:PATH, and score
    nothing"""
    source: ModelOptions = field(default_factory=ModelOptions)
    classes: ClassOptions = field(default_factory=ClassOptions)
    check: CheckOptions = field(default_factory=CheckOptions)
    card: CardOptions = field(default_factory=CardOptions)
    machine: Machine = field(default_factory=Machine)


def main(args: Args) -> None:
    """Check the model and the sets, then compute and store what is missing."""
    cli.check_values(args)
    # tyro checks the precision on a command line; a caller in Python may pass anything.
    if args.machine.precision not in PRECISIONS:
        raise UserError(f"--precision of scoring is {' or '.join(PRECISIONS)}, not {args.machine.precision}")
    if args.export_ids is not None:
        export_ids_of_set(args, args.export_ids)
        return
    spec = args.source.model
    if (args.run is None) == (spec is None):
        raise UserError("name one model: the folder of a trained run (python evaluate.py RUN), or another model with "
                        "--model (timm:NAME, FILE.onnx, ...; --help shows all)")
    kind = "run" if spec is None else kind_of(spec)
    if kind == "run":
        score_trained_run(args, args.run or Path(str(spec)))
    else:
        score_other_model(args, kind)


def export_ids_of_set(args: Args, folder: Path) -> None:
    """Write what is to be predicted elsewhere, for --export-ids."""
    from building.built_set import open_built_set
    from evaluation.export_ids import export_ids

    if len(args.set) != 1 or args.run is not None or args.source.model is not None:
        raise UserError("--export-ids needs --set with one set, and no model")
    print(export_ids(folder, open_built_set(args.set[0], verify=args.verify)))


def score_trained_run(args: Args, folder: Path) -> None:
    """Score a trained run, or export its network with --export-onnx."""
    # Imported here, since it takes seconds and `--help` needs none of it; what is needed to check the sets comes first.
    from evaluation.matching import default_set_of, match, open_sets
    from evaluation.model_options import check_options
    from evaluation.trained_run import read_trained_run

    refuse_file(folder)
    check_options("run", args.source)
    run = read_trained_run(folder)
    if args.export_onnx is not None:
        from evaluation.onnx_export import export

        print(export(run, args.export_onnx))
        return
    statements = args.card.statements()
    if statements and args.card.card is None:
        flags = [f"--{name.replace('_', '-')}" for name in statements]
        raise UserError(f"{', '.join(flags)}: what is stated about a run goes to its card; add --card FILE.json")
    folders = args.set or (default_set_of(run),)
    built_sets = open_sets(folders, args.verify, args.on_the_fly)
    matched_sets = [match(run, built, args.force) for built in built_sets]

    from evaluation.model_scoring import RunExtras, check_card  # with PyTorch
    from evaluation.scoring import score_run

    check_card(args.card.card, built_sets, args.limit)
    options = inference_options(args)
    extras = RunExtras(run, matched_sets, options, bool(args.check.check), args.card.card, statements)
    score_run(run, matched_sets, options, args.limit, args.verify, extras, args.top_k)


def refuse_file(path: Path) -> None:
    """Raises UserError where a file was given as the folder of a run."""
    if path.is_file():
        raise UserError(f"{path} is a file, and RUN is the folder of a trained run. For another model: --model {path}")


def score_other_model(args: Args, kind: str) -> None:
    """Score a model that is no run. kind: one of model_facts.KINDS."""
    from evaluation.matching import open_sets
    from evaluation.model_options import check_options

    if args.export_onnx is not None:
        raise UserError("--export-onnx is for trained runs")
    check_options(kind, args.source)
    check_machine(kind, args.machine.precision, args.machine.compile)
    if not args.set:
        raise UserError(f"--model {args.source.model}: name the built set with --set, for example --set data/FERPlus-C")
    statements = args.card.statements()
    built_sets = open_sets(args.set, args.verify, args.on_the_fly)

    from evaluation.model_scoring import ModelScoring, score_model  # with PyTorch
    from evaluation.sources import opened_model

    scoring = ModelScoring(inference_options(args), args.classes, args.check, args.limit, args.verify,
                           card=args.card.card, top_k=args.top_k)
    with opened_model(args.source, built_sets, statements) as model:
        score_model(model, built_sets, scoring)


def inference_options(args: Args) -> Any:
    """The options of the machine as `evaluation.inference` takes them."""
    from evaluation.inference import InferenceOptions

    return InferenceOptions(args.machine.precision, args.batch_size, args.machine.workers, args.machine.compile,
                            args.on_the_fly)


if __name__ == "__main__":
    cli.run(main, Args)
