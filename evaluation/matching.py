"""Which built sets a model is scored on, and whether they fit it.

Given the folders of built sets, `open_sets` opens the sets. `match` compares a run that trained_run.py has read with a
set: classes, protocol and image size. `match_model` compares a model that is no run: classes only, since pictures are
brought to the size that it takes. The result, a `MatchedSet` for each set, goes to scoring.py. Nothing here imports
torch, so that sets that do not fit are refused at once.
"""
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from building.built_set import BuiltSet, open_built_set
from building.layout import partial_folder
from building.options import PRESETS_OF_PROTOCOLS, sequence_command
from datasets import DATASETS, default_set
from datasets.split import printable
from evaluation.class_matching import DROP, ClassMatch, expression_names, match_classes
from evaluation.trained_run import TrainedRun
from support.cli import value_words
from support.errors import DamagedFile, UserError

USUAL_CROP = "xywh"  # of AffectNet, the only data set with an option `crop`


@dataclass(frozen=True)
class MatchedSet:
    """A built set that a model can be scored on."""

    built: BuiltSet
    classes: ClassMatch
    """which outputs of the model are stored and scored"""
    notes: list[str]
    """what a reader of the scores has to know, for the column `notes` of scores.csv"""

    @property
    def order(self) -> list[int]:
        """For each column of the stored logits, the index of the model's output."""
        return self.classes.order


def open_sets(folders: Sequence[Path], verify: bool, on_the_fly: bool) -> list[BuiltSet]:
    """Open the built sets in these folders.

    verify: compare files with their checksums. on_the_fly: corrupted images will be made in memory, so it is checked
    that this machine makes the same images as the builder's. Raises UserError where a folder holds no set, where a set
    lacks the images that are needed, and where two sets would use one name in the run's folder."""
    check_set_names(folders)
    built_sets = []
    for folder in folders:
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{folder} is a file; --set takes the folder of a set that make_fer_c.py or "
                            f"make_fer_p.py has built")
        built = open_built_set(folder, verify=verify)
        if on_the_fly:
            built.check_forms_made_here()
        elif not built.has_images:
            raise UserError(f"{folder} was built with --no-images: add --on-the-fly")
        built_sets.append(built)
    return built_sets


def check_set_names(folders: Sequence[Path]) -> None:
    """Raises UserError where two sets would use one name in predictions/ and scores.csv, and where the name of a set
    ends as those of the folders of bf16 predictions or of unfinished predictions do."""
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise UserError(f"--set names one set twice: {', '.join(map(str, folders))}")
    names = [folder.resolve().name for folder in folders]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"two sets are called {name}, and predictions/ and scores.csv go by this name: rename one "
                            f"of the folders, or score them from two copies of the run")
        if name.endswith(".bf16"):
            raise UserError(f"{name}: predictions/ uses names that end in .bf16 for scores in that precision; rename "
                            f"the set's folder")
        if name.endswith(".partial"):
            raise UserError(f"{name}: names that end in .partial are those of unfinished sets and predictions; finish "
                            f"the build of the set, or rename its folder")


def default_set_of(run: TrainedRun) -> Path:
    """The folder of the built set of the run's own data set, in its usual place. Raises UserError with the command that
    builds the set where there is neither a finished nor a partial one, and DamagedFile where args.json names an unknown
    data set."""
    if run.dataset not in DATASETS:
        raise DamagedFile(f"{run.settings_file} is damaged (unknown data set {run.dataset!r}); restore it, or name a "
                          f"set with --set")
    folder = default_set(run.dataset)
    if not folder.exists() and not partial_folder(folder).exists():
        command = building_command(run.dataset, run, folder)
        sequences = default_set(run.dataset, sequences=True)
        example = f", for example {sequences}," if sequences.is_dir() else ","
        raise UserError(f"{folder} is not there. Name a set with --set{example} or build it: {command}")
    return folder


def building_command(dataset: str, run: TrainedRun, folder: Path, preset: str | None = None) -> str:
    """The command that builds a set of `dataset` which fits the run, for messages. The run's options of its data set
    are repeated where the set is of the same data set. preset: of the corruptions; None: the protocol's."""
    words = ["python", "make_fer_c.py"]
    words += value_words("dataset", dataset)
    words += value_words("protocol", run.protocol)
    words += value_words("image_size", run.image_size)
    if preset not in (None, *PRESETS_OF_PROTOCOLS.values()):
        words += value_words("corruptions", preset)
    if dataset == run.dataset:
        root, data_options = run.settings.get("root"), run.settings.get("data")
        if root:
            words += value_words("root", root)
        if isinstance(data_options, list):
            for data_option in data_options:
                words += value_words("data", data_option)
    words += value_words("out", folder)
    return f"`{printable(shlex.join(words))}`"


def match(run: TrainedRun, built: BuiltSet, force: bool) -> MatchedSet:
    """Compare a run with a built set.

    Classes are matched by name. Raises UserError where the scores would not mean what they seem to: where the classes
    differ, or protocol or image size do. With `force` a difference of the last two becomes a note. Sets of sequences
    are the same in both protocols, except for the crop of the faces (`differing_crops`), which is compared instead of
    the protocol."""
    classes = match_classes_of_run(run, built)
    notes = notes_on_order(classes)
    set_protocol, set_size = built.made_with["protocol"], built.made_with["size"]
    if run.protocol != set_protocol and not built.has_sequences:
        if not force:
            raise UserError(mismatch_message(run, built, "protocol", run.protocol, set_protocol))
        notes.append(f"forced: protocol {run.protocol} scored on a set of protocol {set_protocol}")
    crops = differing_crops(run, built) if built.has_sequences else None
    if crops is not None:
        if not force:
            raise UserError(mismatch_message(run, built, "faces cut with crop", *crops))
        notes.append("forced: faces cut with crop {} in training, with crop {} in the set".format(*crops))
    if run.image_size != set_size:
        if not force:
            raise UserError(mismatch_message(run, built, "image size", run.image_size, set_size))
        notes.append(f"forced: image size {run.image_size}, set {set_size}")
    return MatchedSet(built, classes, notes)


def differing_crops(run: TrainedRun, built: BuiltSet) -> tuple[str, str] | None:
    """The values of the data set's option `crop` that the run and the set were made with, where they differ; None where
    they do not, and where the set is of another data set.

    Of AffectNet, --protocol released sets `crop=legacy`; a set of sequences has it only if it was built with --data
    crop=legacy."""
    if built.made_with["dataset"] != run.dataset:
        return None
    of_run = printable(data_options_of(run).get("crop", USUAL_CROP))
    of_set = printable(built.made_with["options"].get("crop", USUAL_CROP))
    return None if of_run == of_set else (of_run, of_set)


def data_options_of(run: TrainedRun) -> dict[str, str]:
    """The options of its data set that a run was trained with, {name: value}."""
    pairs = run.settings.get("data")
    if not isinstance(pairs, list):
        return {}
    return dict(pair.partition("=")[::2] for pair in pairs if isinstance(pair, str))


def match_model(name: str, model_classes: Sequence[str], built: BuiltSet, missing_classes: str = DROP) -> MatchedSet:
    """Compare a model that is no run with a built set, by the names of their classes.

    name: what messages call the model. model_classes: in the order of its outputs. missing_classes: the rule for
    classes that the model lacks. Raises UserError where fewer than two classes are shared."""
    classes = match_classes(name, model_classes, str(built.folder), built.classes, missing_classes)
    return MatchedSet(built, classes, notes_on_order(classes))


def notes_on_order(classes: ClassMatch) -> list[str]:
    """A note where the model's outputs stand in another order than the set's classes."""
    shared = classes.order[:classes.shared]
    return ["classes reordered by name"] if shared != sorted(shared) else []


def mismatch_message(run: TrainedRun, built: BuiltSet, subject: str, of_run: str | int, of_set: str | int) -> str:
    """The message for a run and a set that differ in protocol, image size or crop, with the command that builds a set
    which fits."""
    folder = built.folder.with_name(f"{built.folder.resolve().name}-{run.protocol}-{run.image_size}")
    if built.has_sequences:
        crops = differing_crops(run, built)
        words = [str(run.image_size), *([crops[0]] if crops is not None else [])]
        folder = built.folder.with_name("-".join([built.folder.resolve().name, *words]))
        command = f"`{sequence_command(folder, built.made_with, run.image_size, crops and crops[0])}`"
    else:
        command = building_command(built.made_with["dataset"], run, folder, built.made_with["preset"])
    return (f"{run.folder} has {subject} {of_run}, {built.folder} has {of_set}: the scores would not be comparable. "
            f"Add --force, or build a set that fits: {command}")


def match_classes_of_run(run: TrainedRun, built: BuiltSet) -> ClassMatch:
    """The classes of a run and of a set, matched by name. Raises UserError where they are not the same classes."""
    run_names = expression_names(str(run.folder), run.classes)
    set_names = expression_names(str(built.folder), built.classes)
    if set(run_names) == set(set_names):
        return match_classes(str(run.folder), run.classes, str(built.folder), built.classes)
    only_run = [name for name in run_names if name not in set_names]
    only_set = [name for name in set_names if name not in run_names]
    raise UserError(f"{run.folder} and {built.folder} do not have the same classes: only the run has "
                    f"{', '.join(only_run) or 'none'}, only the set has {', '.join(only_set) or 'none'} "
                    f"(run: {', '.join(run.classes)}; set: {', '.join(built.classes)})")
