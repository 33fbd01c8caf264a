"""The options of a build, the defaults that follow from the data set and the protocol, and command lines for messages.

`make_fer_c.py` and `make_fer_p.py` add the modes of the command (--dry-run, --verify, ...) to their options.
"""
import dataclasses
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import tyro

from datasets import RECIPES
from support.cli import Between, Fraction, command_line
from support.image_sizes import SIZES

PRESETS_OF_PROTOCOLS = {"paper": "fer-c", "released": "fer-c-released"}  # --corruptions that follow from --protocol
# What the published sets were made with.
RELEASED = {"corruptions": PRESETS_OF_PROTOCOLS["released"], "visibility": "l2-uint8"}


@dataclass
class SourceOptions:
    """Which images a set is built of, and how the work is divided; the same for sets of both kinds.

    The children give some of these fields again, only for another help text."""

    dataset: str
    """data set whose test split is taken"""
    out: Path | None = None
    """folder of the set to build"""
    root: Path | None = None
    """folder of the data set (default: data/<dataset>, or $FERC_DATA/<dataset>)"""
    data: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """an option of the data set as key=value; may be given several times"""
    image_size: Annotated[int, Between(SIZES[0], SIZES[-1])] = 224
    """side of the images (pixels; demo: 64)"""
    limit: Annotated[int | None, Between(1)] = None
    """build only this many images, evenly spaced over the split (default: all)"""
    seed: int = 0
    """seed of what is random"""
    skip_bad: bool = False
    """leave out source images that cannot be read and name them in the manifest, instead of stopping"""
    images: bool = True  # the text is that of --no-images
    """hash and measure the corrupted images, but do not keep them: the set has no folder images/, and evaluate.py
    --on-the-fly makes the same images in memory, bit by bit"""
    workers: Annotated[int, Between(1)] = len(os.sched_getaffinity(0))
    """number of worker processes (default: all processor cores that this process may use). The bytes of the set do not
    depend on it"""
    shard: str | None = None
    """i/n, with i from 1 to n: build only shard i of n, into a folder next to --out, for --merge"""
    merge: bool = False
    """check the shards next to --out, join them into the set, and remove what was written into them"""

    SCRIPT: ClassVar[str]
    """the command that has these options; each child names its own"""


@dataclass
class BuildOptions(SourceOptions):
    """The options of a set of corruptions with soft labels."""

    SCRIPT: ClassVar[str] = "make_fer_c.py"

    dataset: str
    """data set whose test split is corrupted"""
    out: Path | None = None
    """folder of the set to build (default: data/<Title>-C, or $FERC_DATA/<Title>-C)"""
    image_size: Annotated[int, Between(SIZES[0], SIZES[-1])] = 224
    """side of the images (pixels; demo: 64). Images are resized first and corrupted afterwards"""
    seed: int = 0
    """seed of the corruptions, and of the choice of the 100 images that set the scale of the visibility (D_worst, eq.
    9)"""
    protocol: Literal["paper", "released"] = "paper"
    """paper: as the paper describes it. released: as the published sets were made. This sets --corruptions
    fer-c-released and --visibility l2-uint8, for AffectNet also --data crop=legacy, for Aff-Wild2 --data
    val_split=frames"""
    corruptions: str = PRESETS_OF_PROTOCOLS["paper"]
    """preset of severity constants: fer-c, fer-c-released or imagenet-c; or mivia, the 18 corruptions of RAF-DB-C
    (MIVIA), ten of them those of FER-C with other constants"""
    format: Literal["png", "jpg", "webp"] = "png"
    """file format of the corrupted images. png keeps every value; jpg and webp take less room and change the
    benchmark"""
    quality: Annotated[int, Between(1, 100)] = 95
    """quality of jpg and webp (1 to 100)"""
    beta: Fraction = 0.5
    """weight of the given label in the fused label (eq. 7; the paper gives no value)"""
    exponent: Annotated[float, Between(0, above=True)] = 2
    """exponent of the softening curve (eq. 10; default: 2, as in SoftAug)"""
    visibility: Literal["l2", "mse", "ssim", "psnr", "l2-uint8"] = "l2"
    """which measure of the difference between a corrupted and a clean image the visibility is computed from (eq. 9;
    paper: l2)"""
    visibility_per: Literal["image", "mean"] = "image"
    """image: each image has its own visibility. mean: all images have the mean of their corruption at a severity, as
    in figure 4 of the paper"""
    gmm: Path | None = None
    """take the mixture over valence and arousal from this file, the gmm.json of a built set (default: fit one on the
    training split)"""


@dataclass
class SequenceOptions(SourceOptions):
    """The options of a set of perturbation sequences."""

    SCRIPT: ClassVar[str] = "make_fer_p.py"

    dataset: str
    """data set whose test split is perturbed"""
    out: Path | None = None
    """folder of the set to build (default: data/<Title>-P, or $FERC_DATA/<Title>-P)"""
    seed: int = 0
    """seed of noise, snow and drops"""
    images: bool = True  # the text is that of --no-images
    """hash the frames, but do not keep them: the set has no folder images/, and evaluate.py --on-the-fly makes the same
    frames in memory, bit by bit. A face has about 300 of them"""
    preset: Literal["imagenet-p", "rafdb-p"] = "imagenet-p"
    """which perturbations: those of ImageNet-P (Hendrycks and Dietterich, ICLR 2019) or of RAF-DB-P (MIVIA),
    whose constants are in pixels of pictures of 100x100: take --image-size 100"""
    perturbations: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """a perturbation; may be given several times (default: the ten of the preset's test set)"""
    resolution: Annotated[int | None, Between(1)] = None
    """size of the source pictures in pixels, by which the constants of imagenet-p are chosen: those for 224, 64 or 32,
    whichever is nearest (default: --image-size)"""
    difficulty: Annotated[int, Between(1, 3)] = 1
    """of imagenet-p, 1 to 3: strength of the noise, and in the other perturbations how many frames apart predictions
    are compared; 1 is the usual one"""
    border: Literal["reflect", "zero", "margin"] = "reflect"
    """what moves into a frame from outside. reflect: the face, mirrored. zero: black, which by itself changes
    predictions. margin: the frame is cut out of a larger picture, as published: 256 pixels for 224, 130 for 100"""
    # --from; the name ends in _ because `from` is a word of Python
    from_: Annotated[Literal["aligned", "original"], tyro.conf.arg(name="from")] = "aligned"
    """aligned: the pictures that the data set's other sets are made of. original (rafdb only): Image/original, aligned
    by its landmarks with a margin, as RAF-DB-P was made; it takes --border margin"""


OptionsT = TypeVar("OptionsT", bound=SourceOptions)


def fill_defaults(options: OptionsT) -> OptionsT:
    """The defaults for this data set and protocol, as options of the same type. What is typed on the command line is
    read over them (`support.cli.parse`)."""
    recipes: Mapping[str, Any] = RECIPES
    defaults = dict(recipes.get(options.dataset, {}))
    if isinstance(options, BuildOptions):
        if options.protocol == "released":
            defaults |= RELEASED | defaults.get("released", {})
        defaults["protocol"] = options.protocol
    names = {field.name for field in dataclasses.fields(options)}
    return type(options)(dataset=options.dataset, **{name: value for name, value in defaults.items() if name in names})


def command(options: SourceOptions, **changes: Any) -> str:
    """The command line that gives `options` with these changes, for messages, in one printable line: options of a set
    that others have built may hold anything. It has --dataset, --out where one is given, and what differs from the
    defaults."""
    from datasets.split import printable  # with pandas, for which `--help` need not wait

    options = dataclasses.replace(options, **changes)
    defaults = fill_defaults(options)
    if isinstance(defaults, BuildOptions):
        defaults = dataclasses.replace(defaults, protocol=BuildOptions.protocol)
    always = ["dataset"]
    if options.out is not None:
        always.append("out")
    return printable(shlex.join(command_line(options.SCRIPT, options, defaults, always)))


def rebuild_command(folder: Path, made_with: Mapping[str, Any]) -> str:
    """The command line that builds a set with these settings (a manifest's `made_with`) into `folder`. Where the data
    set lies and which mixture file was given is not among the settings."""
    from building.layout import is_sequence_set  # with OpenCV, for which `--help` need not wait

    if is_sequence_set(made_with):
        return command(sequence_options(folder, made_with))
    softening = made_with["softening"]
    options = BuildOptions(
        dataset=made_with["dataset"], out=folder, image_size=made_with["size"], protocol=made_with["protocol"],
        data=tuple(f"{key}={value}" for key, value in made_with["options"].items()),
        corruptions=made_with["preset"], format=made_with["image_format"], limit=made_with["limit"],
        seed=made_with["seed"], beta=softening["beta"], exponent=softening["exponent"],
        visibility=softening["visibility"], visibility_per=softening["visibility_per"])
    if made_with["quality"] is not None:
        options.quality = made_with["quality"]
    return command(options)


def sequence_options(folder: Path, made_with: Mapping[str, Any]) -> SequenceOptions:
    """The options that build a set of sequences with these settings into `folder`."""
    from perturbations import PERTURBATIONS, TEST_SET  # with OpenCV, for which `--help` need not wait

    preset = made_with["preset"]
    names = tuple(name for name in PERTURBATIONS[preset] if name in made_with["constants"])
    return SequenceOptions(
        dataset=made_with["dataset"], out=folder, image_size=made_with["size"], limit=made_with["limit"],
        seed=made_with["seed"], data=tuple(f"{key}={value}" for key, value in made_with["options"].items()),
        preset=preset, perturbations=() if names == TEST_SET[preset] else names, resolution=made_with["resolution"],
        difficulty=made_with["difficulty"], border=made_with["border"], from_=made_with["source"])


def sequence_command(folder: Path, made_with: Mapping[str, Any], image_size: int, crop: str | None = None) -> str:
    """The command line that builds a set of sequences with these settings into `folder`, but with images of this size,
    whose constants follow from it, and with this crop of the faces. crop: value of the data set's option; None: as it
    is."""
    options = sequence_options(folder, made_with)
    changes: dict[str, Any] = {}
    if image_size != options.image_size:
        changes |= {"image_size": image_size, "resolution": None}
    if crop is not None:
        others = tuple(pair for pair in options.data if not pair.startswith("crop="))
        changes["data"] = (*others, f"crop={crop}")
    return command(options, **changes)


def repair_advice(folder: Path, made_with: Mapping[str, Any]) -> str:
    """What to do about a damaged file of a set."""
    return (f"restore it from another copy or build the set again (with the same --root, --gmm and --no-images): "
            f"{rebuild_command(folder, made_with)}")
