"""Build FER-C: every test image in all corruptions of a preset, with soft labels and a manifest.

  python make_fer_c.py --dataset demo                          faces drawn on the spot, nothing to fetch
  python make_fer_c.py --dataset ferplus --root DIR --workers 8
  python make_fer_c.py --dataset ferplus --dry-run             how many images, bytes and minutes it would take
  python make_fer_c.py --dataset ferplus --shard 2/8           one of 8 parts, on any machine; --merge joins them
  python make_fer_c.py --dataset ferplus --verify              hash a finished set again

A corruption has 5 severities. FER-C has 17 corruptions, so 85 forms of an image; --corruptions mivia has 18.
The set grows in <out>.partial and moves to <out> (--out) when it is complete. After a kill, the same command goes on
and ends with the same bytes. FER-C: arXiv:2312.11542; the corruptions are ImageNet-C's (Hendrycks and Dietterich, ICLR
2019).
"""
from support import start

if __name__ == "__main__":  # before the imports that may be interrupted, or fail outside the environment
    start.explain_failed_imports()

from dataclasses import dataclass
from pathlib import Path

from building.options import BuildOptions, fill_defaults
from datasets import TITLES, default_set
from support import cli
from support.errors import UserError


@dataclass
class Args(BuildOptions):
    dry_run: bool = False
    """build nothing: print how many images, bytes and minutes it would take, from a few images made in memory"""
    verify: bool = False
    """build nothing: hash every file of the finished set again, and name what is missing, changed or extra"""
    gallery: Path | None = None
    """also draw figure 2 of the paper, one image in all corruptions of the set with its labels, into this file (.png,
    .svg or .pdf)"""


def main(args: Args) -> None:
    """Check the options, then do what they ask for: build a set or a shard, merge shards, verify, or estimate."""
    check_options(args)

    from building.modes import run  # takes a second, and `--help` needs none of it

    out = run(args, args.out or default_set(args.dataset), args.dry_run, args.verify)
    if args.gallery and not (args.dry_run or args.verify):
        draw_gallery(out, args.gallery)


def check_options(args: Args) -> None:
    """Raises UserError where an option has a value that is unknown or out of range, or contradicts another option."""
    from corruptions import PRESETS  # with OpenCV

    if args.dataset not in TITLES:
        raise UserError(f"unknown data set {args.dataset!r}; known: {', '.join(TITLES)}")
    if args.corruptions not in PRESETS:
        raise UserError(f"unknown preset {args.corruptions!r}; known: {', '.join(PRESETS)}")
    if args.gallery and args.gallery.suffix not in (".png", ".svg", ".pdf"):
        raise UserError(f"--gallery {args.gallery}: give a file name that ends in .png, .svg or .pdf")
    cli.check_values(args)
    if args.shard and (args.merge or args.verify or args.gallery):
        raise UserError("--shard builds a shard and nothing else; --merge, --verify and --gallery are for whole sets")


def draw_gallery(out: Path, file: Path) -> None:
    """Draw figure 2 of the paper: one image in all corruptions of the set at severity 5, each above the bars of its
    soft label."""
    import matplotlib.style

    from building.built_set import open_built_set
    from reporting import pictures, style

    built = open_built_set(out)
    title = built.manifest["title"]
    if built.made_with["dataset"] == "demo":
        title += " (demo data)"
    with matplotlib.style.context(["default", style.STYLE]):
        figure = pictures.draw_gallery(built, title, pictures.choose_image(built))
        style.save(figure, file.with_suffix(""), [file.suffix[1:]])
    print(f"gallery: {file}")


if __name__ == "__main__":
    cli.run(main, Args, fill_defaults)
