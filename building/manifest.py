"""manifest.json: what a set was made with. It is checked key by key, since it decides which scores may be compared.

`made_with` are the settings and digests from which the bytes of the set follow; build.json of an unfinished set holds
the same and `files`: which files are kept (state.py). The rest are facts about the finished set.

`set_version` is a hash of the settings in `IDENTITY` (in a set of sequences `IDENTITY_OF_SEQUENCES`): scores on sets
with different versions are never compared. It does not cover the pictures: copies of a data set with the same ids and
labels but other pictures give one version.
`sources`, a digest of the source pictures, and `content`, a hash of all files of the set, tell such sets apart. A
report notes where the runs of a table, or the models of a ranking, were scored on sets with different `content`.
"""
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from building.integrity import HEX, require, require_types, sha256
from building.layout import IMAGE_FORMATS, MOST_FRAMES, SEQUENCES, cells_of_set, is_sequence_set, partial_folder
from building.options import BuildOptions, SequenceOptions
from corruptions import PRESETS, SEVERITIES, arguments_of, corruptions_of
from datasets.split import SAFE_ID
from perturbations import BORDERS, PERTURBATIONS, is_noise, side_with_margin
from perturbations import constants as constants_of_sequences
from support.errors import DamagedFile, UserError
from support.files import read_json
from support.image_sizes import SIZES

FORMAT = 1  # of the files of a set; a set of another format is not read
SOURCES = ("aligned", "original")  # of sequences: values of --from
LARGEST_CONSTANT, MOST_IN_A_LIST = 1000, 10  # of the constants of perturbations

# The settings of which the set version is a hash.
IDENTITY = ("format", "dataset", "size", "seed", "image_format", "quality", "constants", "softening", "ids", "labels")
IDENTITY_OF_SEQUENCES = ("format", "kind", "dataset", "size", "picture_size", "seed", "image_format", "preset",
                         "constants", "difficulty", "border", "source", "ids", "labels")

# The type of each value in manifest.json.
NUMBER, NOTHING = (int, float), type(None)
MANIFEST = {"set_version": str, "title": str, "classes": list, "counts": dict, "notes": dict, "made_with": dict,
            "software": dict, "content": str}
MADE_WITH = {"format": int, "dataset": str, "size": int, "seed": int, "image_format": str, "quality": (int, NOTHING),
             "constants": dict, "ids": str, "labels": str, "options": dict, "protocol": str,
             "preset": str, "limit": (int, NOTHING), "images": int, "sources": str, "encoder": str}
# The further settings of a set of sequences; a set of corruptions has `softening` and the fact `worst` instead.
MADE_WITH_OF_SEQUENCES = {"kind": str, "picture_size": int, "resolution": int, "difficulty": int, "border": str,
                          "source": str}
# `visibility` is the option --visibility: the measure of the difference from which the visibility is computed.
SOFTENING = {"beta": NUMBER, "exponent": NUMBER, "visibility": str, "visibility_per": str}
WORST = {"difference": NUMBER, "corruption": str, "severity": int, "images": list}
UNCHANGED_CELL = {"corruption": str, "severity": int, "fraction": NUMBER}


def set_version(made_with: Mapping[str, Any]) -> str:
    """The hash that two sets have in common when scores on them are comparable; made_with: at least `IDENTITY`, or
    `IDENTITY_OF_SEQUENCES` for a set of sequences."""
    keys = IDENTITY_OF_SEQUENCES if is_sequence_set(made_with) else IDENTITY
    return sha256(json.dumps({key: made_with[key] for key in keys}, sort_keys=True).encode())


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a built set. Raises UserError where it is missing, where the build is not finished or where the
    format is another one; raises DamagedFile, naming file and key, where it is not as it was written."""
    file = folder / "manifest.json"
    if not file.is_file():
        raise UserError(f"{folder} is no FER-C set: {_reason_no_set(folder)}")
    try:
        manifest = read_json(file)
        require_types(manifest, MANIFEST, file)
        made_with = manifest["made_with"]
        require_types(made_with, {"format": int}, file, "made_with.")
        if made_with["format"] != FORMAT:
            raise UserError(f"{folder} is of format {made_with['format']}, not {FORMAT}: build it again with "
                            f"{_script(folder)} --dataset NAME --out FOLDER")
        check_made_with(made_with, file, "made_with.")
        check_facts(manifest, file)
        require(manifest["set_version"] == set_version(made_with), file, "set_version does not follow from made_with")
    except DamagedFile as error:
        raise DamagedFile(f"{error}; restore it from another copy or build the set again with {_script(folder)} "
                          f"--dataset NAME --out {folder}") from None
    return manifest


def _script(folder: Path) -> str:
    """The command that builds this set, for messages: by the settings of the set or of its unfinished build, and where
    neither can be read, by the name of the folder."""
    for file in (folder / "manifest.json", partial_folder(folder) / "build.json"):
        try:
            content = read_json(file)
        except (OSError, UserError):
            continue
        made_with = content.get("made_with", content)
        if isinstance(made_with, dict) and "dataset" in made_with:
            return SequenceOptions.SCRIPT if is_sequence_set(made_with) else BuildOptions.SCRIPT
    return SequenceOptions.SCRIPT if folder.name.endswith("-P") else BuildOptions.SCRIPT


def _reason_no_set(folder: Path) -> str:
    """Why a folder is no set, and the command that makes it one."""
    partial = partial_folder(folder)
    if not partial.is_dir():
        return f"no manifest.json. Build it with {_script(folder)} --dataset NAME --out {folder}"
    try:
        name = read_json(partial / "build.json").get("dataset", "NAME")
    except (OSError, UserError):
        name = "NAME"
    return (f"its build is not finished ({partial}): start it again with its options, {_script(folder)} --dataset "
            f"{name} --out {folder} ...")


def check_made_with(made_with: Mapping[str, Any], file: Path, where: str = "") -> None:
    """Check the settings in a manifest or a build.json. Raises DamagedFile naming the key that is missing or wrong."""
    require_types(made_with, MADE_WITH, file, where)
    require(SAFE_ID.fullmatch(made_with["dataset"]) is not None, file, f"{where}dataset is no name of a data set")
    require(made_with["size"] in SIZES, file, f"{where}size is out of range")
    require(made_with["images"] >= 1, file, f"{where}images is out of range")
    image_format, quality = made_with["image_format"], made_with["quality"]
    require(image_format in IMAGE_FORMATS, file, f"{where}image_format is unknown")
    require((quality is None) == (image_format == "png"), file, f"{where}quality does not fit image_format")
    require(quality is None or 1 <= quality <= 100, file, f"{where}quality is out of range")
    for key in ("ids", "labels", "sources"):
        require(HEX.fullmatch(made_with[key]) is not None, file, f"{where}{key} is no sha256")
    for key, value in made_with["options"].items():
        require(isinstance(value, str), file, f"{where}options.{key} has the wrong type")
    if "kind" in made_with:
        check_sequences(made_with, file, where)
        return
    require_types(made_with, {"softening": dict}, file, where)
    softening = made_with["softening"]
    require_types(softening, SOFTENING, file, f"{where}softening.")
    require(0 <= softening["beta"] <= 1 and softening["exponent"] > 0, file, f"{where}softening is out of range")
    require(made_with["preset"] in PRESETS, file, f"{where}preset is unknown")
    check_constants(made_with["constants"], made_with["preset"], file, f"{where}constants")


def check_sequences(made_with: Mapping[str, Any], file: Path, where: str) -> None:
    """Check the settings that only a set of sequences has. The constants are those of this project or of an earlier
    release: {perturbation: {argument: number or list}}, with the number of frames as `count`. Raises DamagedFile."""
    require_types(made_with, MADE_WITH_OF_SEQUENCES, file, where)
    preset, constants = made_with["preset"], made_with["constants"]
    require(made_with["kind"] == SEQUENCES, file, f"{where}kind is unknown")
    require(preset in PERTURBATIONS, file, f"{where}preset is unknown")
    require(made_with["image_format"] == "png", file, f"{where}image_format is not png")
    require(made_with["border"] in BORDERS, file, f"{where}border is unknown")
    require(made_with["source"] in SOURCES, file, f"{where}source is unknown")
    require(made_with["resolution"] >= 1, file, f"{where}resolution is out of range")
    require(made_with["difficulty"] in (1, 2, 3), file, f"{where}difficulty is out of range")
    has_margin = made_with["border"] == "margin"
    expected = side_with_margin(made_with["size"], preset) if has_margin else made_with["size"]
    require(made_with["picture_size"] == expected, file, f"{where}picture_size does not fit size and border")
    require(bool(constants) and set(constants) <= set(PERTURBATIONS[preset]), file,
            f"{where}constants are not of the perturbations of the preset {preset}")
    for name, arguments in constants.items():
        require(isinstance(arguments, dict) and arguments.keys() == constants_of_sequences(preset)[name].keys(), file,
                f"{where}constants.{name} has unknown arguments")
        for argument, usual in constants_of_sequences(preset)[name].items():
            require(is_like(arguments[argument], usual), file, f"{where}constants.{name}.{argument}")
        count = arguments["count"]
        require(isinstance(count, int) and 2 <= count <= MOST_FRAMES, file, f"{where}constants.{name}.count")
        by_difficulty = arguments.get("photons", arguments.get("sd")) if is_noise(name) else None
        require(by_difficulty is None or made_with["difficulty"] <= len(by_difficulty), file,
                f"{where}constants.{name} has no value for this difficulty")


def is_like(value: Any, usual: Any) -> bool:
    """Whether a constant of a foreign set is a number or a list of numbers as the usual one is, of a sensible size."""
    if isinstance(usual, list | tuple):
        has_length = isinstance(value, list) and 1 <= len(value) <= MOST_IN_A_LIST
        return has_length and all(is_like(number, 1) for number in value)
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST_CONSTANT


def check_constants(constants: Mapping[str, Any], preset: str, file: Path, where: str) -> None:
    """Check the constants of the corruptions of a preset: {corruption: five times {argument: number or null}}, as
    `corruptions.constants` gives them. Arguments may be absent, since a set that is older than an argument with a
    default does not list it. Raises DamagedFile."""
    names = corruptions_of(preset)
    require(set(constants) == set(names), file,
            f"{where} are not of the {len(names)} corruptions of the preset {preset}")
    for name, rows in constants.items():
        require(isinstance(rows, list) and len(rows) == len(SEVERITIES), file,
                f"{where}.{name} has not {len(SEVERITIES)} severities")
        for row in rows:
            require(isinstance(row, dict) and set(row) <= set(arguments_of(name)), file,
                    f"{where}.{name} has unknown arguments")
            require_types(row, dict.fromkeys(row, (int, float, NOTHING)), file, f"{where}.{name}.")


def check_facts(manifest: Mapping[str, Any], file: Path) -> None:
    """Check what a manifest says besides `made_with`. Raises DamagedFile."""
    classes = manifest["classes"]
    require(len(classes) > 0 and all(isinstance(name, str) for name in classes), file, "classes are no names")
    require(len(set(classes)) == len(classes), file, "two classes have the same name")
    require(HEX.fullmatch(manifest["content"]) is not None, file, "content is no sha256")
    for name, value in manifest["software"].items():
        require(isinstance(value, str), file, f"software.{name} has the wrong type")
    for name, value in manifest["counts"].items():
        require_types({name: value}, {name: int}, file, "counts.")
    if is_sequence_set(manifest["made_with"]):
        return
    require_types(manifest, {"worst": dict}, file)
    worst = manifest["worst"]
    require_types(worst, WORST, file, "worst.")
    require(worst["difference"] > 0, file, "worst.difference is not positive")
    cells = cells_of_set(manifest["made_with"])
    require((worst["corruption"], worst["severity"]) in cells, file, "worst names no corruption at a severity")
    require(all(isinstance(name, str) for name in worst["images"]), file, "worst.images are no names")
    unchanged = manifest.get("unchanged", [])  # sets of the project's first release have none
    require(isinstance(unchanged, list), file, "unchanged has the wrong type")
    for cell in unchanged:
        require(isinstance(cell, dict), file, "unchanged has the wrong type")
        require_types(cell, UNCHANGED_CELL, file, "unchanged.")
