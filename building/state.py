"""build.json: what an unfinished set or a shard is made with, and whether that is what a plan asks for.

A build goes on only where the settings are the same. One with other settings is refused, and nothing is removed that
was made with other settings.
"""
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from building.integrity import require
from building.layout import cells_of_set, is_sequence_set, partial_folder
from building.leftovers import first_names, remove_written
from building.manifest import check_made_with, read_manifest
from building.plan import ALL_FILES, WITHOUT_IMAGES, Plan
from support.errors import DamagedFile, UserError
from support.files import read_json

# How messages call the settings whose values are digests.
NAMES_OF_DIGESTS = {
    "ids": "the images", "labels": "the labels before softening", "sources": "the sources of the images"}


def read_state(folder: Path) -> dict[str, Any]:
    """What a shard or an unfinished set is made with, as `Plan.state`. Raises UserError where its build.json cannot be
    read, DamagedFile where it is not as it was written."""
    file = folder / "build.json"
    try:
        state = read_json(file)
        check_made_with(state, file)
        require(state.get("files") in (ALL_FILES, WITHOUT_IMAGES), file, "files is missing or unknown")
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}; remove {folder} and give the same command again") from None
    except UserError as error:
        raise DamagedFile(f"{error}; remove {folder} and give the same command again") from None
    return state


def report_if_built(plan: Plan, out: Path) -> bool:
    """Print that the set is there, and remove what its build has left, if it was built with these settings. Returns
    whether it is there. Raises UserError where a set is there that was built with other settings."""
    if not (out / "manifest.json").exists():
        return False
    files = ALL_FILES if (out / "images").exists() else WITHOUT_IMAGES
    refuse_if_different(read_manifest(out)["made_with"] | {"files": files}, plan.state, out)
    if is_same_build(partial_folder(out), plan):
        remove_written(partial_folder(out), plan.ids)  # the last build may have been killed just before this
    forms = len(cells_of_set(plan.made_with))
    print(f"{out} is already built with these settings ({plan.made_with['images']} images x {forms})")
    return True


def is_same_build(folder: Path, plan: Plan) -> bool:
    """Whether an unfinished set or a shard may be removed as the plan's own: it is made with the same settings, or it
    has no build.json, since the process that was removing it was killed. False where build.json is damaged."""
    if not folder.is_dir() or folder.is_symlink():
        return False
    if not (folder / "build.json").exists():
        return True
    try:
        return read_state(folder) == plan.state
    except UserError:
        return False


def refuse_if_different(earlier: Mapping[str, Any], wanted: Mapping[str, Any], folder: Path) -> None:
    """Raises UserError naming the settings in which a folder differs from what is asked for. earlier: of the folder;
    wanted: of the plan; both as `Plan.state`."""
    if earlier.get("kind") != wanted.get("kind"):
        contents = "perturbation sequences" if is_sequence_set(earlier) else "corrupted images"
        raise UserError(f"{folder} is a set of {contents}, made by another script. Choose another --out.")
    differences = []
    for key, value in wanted.items():
        if key == "constants":
            differences += _different_constants(earlier[key], value)
        elif key in NAMES_OF_DIGESTS:
            if earlier.get(key) != value:
                differences.append(NAMES_OF_DIGESTS[key])
        elif isinstance(value, dict):  # softening, and the options of the data set
            for name in sorted({*earlier[key], *value}):
                differences += _difference_in_words(name, earlier[key].get(name), value.get(name))
        else:
            differences += _difference_in_words(key, earlier.get(key), value)
    if differences:
        raise UserError(f"{folder} was made with other settings ({'; '.join(differences)})."
                        f"{_reason_of_constants(earlier, wanted)} Choose another --out, or remove {folder}.")


def _different_constants(earlier: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """["the constants of snow, spatter"], [] where all are equal."""
    names = [name for name in wanted if earlier.get(name) != wanted[name]]
    return [f"the constants of {first_names(names)}"] if names else []


def _difference_in_words(name: str, earlier: Any, wanted: Any) -> list[str]:
    """["seed: 0 there, 1 asked for"], [] where the two are equal."""
    if earlier == wanted:
        return []
    earlier_text = "none" if earlier is None else str(earlier)
    wanted_text = "none" if wanted is None else str(wanted)
    return [f"{name}: {earlier_text} there, {wanted_text} asked for"]


def _reason_of_constants(earlier: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """A sentence for a set whose constants are those that the preset had in an earlier release, else ""."""
    same_preset = earlier["preset"] == wanted["preset"] and earlier["size"] == wanted["size"]
    if not same_preset or earlier["constants"] == wanted["constants"]:
        return ""
    return (f" The constants of preset {wanted['preset']} at {wanted['size']} pixels have changed since (see "
            f"CHANGELOG.md): a finished set can still be scored, an unfinished one cannot go on.")
