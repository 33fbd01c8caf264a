"""Build FER-P: every test image in perturbation sequences, for how often a model changes its mind.

  python make_fer_p.py --dataset demo                          the ten perturbations of ImageNet-P
  python make_fer_p.py --dataset demo --no-images              keep no frames; evaluate.py makes the same ones in memory
  python make_fer_p.py --dataset rafdb --preset rafdb-p --image-size 100      the ten perturbations of RAF-DB-P
  python make_fer_p.py --dataset demo --strip strips.png       also draw five frames of every perturbation
  python make_fer_p.py --dataset demo --dry-run                how many frames, bytes and minutes it would take

A sequence has about 30 frames, in which a face changes a little from frame to frame: noise, blur, light, a shift, a
turn. The set grows in <out>.partial and moves to <out> (--out) when it is complete. After a kill, the same command goes
on and ends with the same bytes. ImageNet-P: Hendrycks and Dietterich, ICLR 2019, arXiv 1903.12261.
"""
from support import start

if __name__ == "__main__":  # before the imports that may be interrupted, or fail outside the environment
    start.explain_failed_imports()

from dataclasses import dataclass
from pathlib import Path

from building.options import SequenceOptions, fill_defaults
from datasets import TITLES, default_set
from support import cli
from support.errors import UserError


@dataclass
class Args(SequenceOptions):
    dry_run: bool = False
    """build nothing: print how many frames, bytes and minutes it would take, from a few images made in memory"""
    verify: bool = False
    """build nothing: hash every file of the finished set again, and name what is missing, changed or extra"""
    strip: Path | None = None
    """also draw five frames of every perturbation of one image into this file (.png)"""


def main(args: Args) -> None:
    """Check the options, then do what they ask for: build a set or a shard, merge shards, verify, or estimate."""
    check_options(args)
    from building.modes import run  # takes a second, and `--help` needs none of it

    out = run(args, args.out or default_set(args.dataset, sequences=True), args.dry_run, args.verify)
    if args.strip and not (args.dry_run or args.verify):
        draw_strips(out, args.strip)


def check_options(args: Args) -> None:
    """Raises UserError where an option has a value that is unknown or out of range, or contradicts another option."""
    from perturbations import PERTURBATIONS  # with OpenCV

    if args.dataset not in TITLES:
        raise UserError(f"unknown data set {args.dataset!r}; known: {', '.join(TITLES)}")
    cli.check_values(args)
    known = PERTURBATIONS[args.preset]
    unknown = [name for name in args.perturbations if name not in known]
    if unknown:
        raise UserError(f"--perturbations {unknown[0]}: {args.preset} has {', '.join(known)}")
    if args.from_ == "original" and (args.dataset != "rafdb" or args.border != "margin"):
        raise UserError("--from original is for RAF-DB with --border margin: its original pictures have landmarks")
    if args.preset == "rafdb-p" and args.difficulty != 1:
        raise UserError("--difficulty is for --preset imagenet-p; the noise of rafdb-p has one strength")
    if args.strip and args.strip.suffix != ".png":
        raise UserError(f"--strip {args.strip}: give a file name that ends in .png")
    if args.shard and (args.merge or args.verify or args.strip):
        raise UserError("--shard builds a shard and nothing else; --merge, --verify and --strip are for whole sets")


def draw_strips(out: Path, file: Path) -> None:
    """Draw the first image of a set in five frames of every perturbation, one below the other."""
    import numpy as np

    from building.built_set import open_built_set
    from building.forms import encode
    from support.files import write_whole

    built = open_built_set(out)
    rows = []
    for name, count in built.frame_counts.items():
        numbers = (0, count // 4, count // 2, 3 * count // 4, count - 1)
        frames = list(built.pixels_of_cells(0, [(name, number) for number in numbers]))
        rows.append(np.concatenate(frames, 1))
    data = encode(np.concatenate(rows), "png")
    write_whole(file, lambda target: target.write(data), "wb")
    print(f"strips, from above: {', '.join(built.corruptions)}: {file}")


if __name__ == "__main__":
    cli.run(main, Args, fill_defaults)
