"""The folder of a model that is no run: where it lies, and what it says about the model.

A model of somebody else has no folder of its own that scoring could write into. It gets one among the runs,
`<runs>/models/<name>-<8 hex digits>/`, which holds what the folder of a scored run holds, and a description:

  model.json      the entries of `StoredModel`
  predictions/    as in a run (evaluation/predictions.py)
  scores.csv      as in a run (evaluation/scores_file.py)
  cards/          a card for each set and precision (evaluation/cards.py)

The digits are a hash of what changes predictions: weights, input, output, classes, and the rule for missing classes. So
another reading of the same file is another model. Nothing here imports torch.
"""
import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from building.integrity import HEX
from evaluation.class_matching import DROP, KEEP
from evaluation.model_facts import ModelFacts
from evaluation.model_options import MOST_CLASSES
from support.errors import DamagedFile, UserError
from support.files import os_errors_as_user_errors, read_json, write_text
from support.run_folder import MODEL_FILE, MODELS_FOLDER

FORMAT = 1  # of model.json
DIGITS = 8  # of the hash in the name of a folder
LONGEST_NAME_IN_PATH = 60  # characters of a model's name in the name of its folder
LARGEST_FILE = 2**20  # bytes of a model.json that is read
ENTRIES = {"format", "name", "facts", "classes", "weights_sha256", "missing_classes"}


@dataclass(frozen=True)
class StoredModel:
    """What model.json says: a model as it was scored."""

    name: str
    """what tables call it"""
    facts: ModelFacts
    classes: list[str]
    """of the model, in the order of its outputs"""
    weights_sha256: str
    """64 hexadecimal digits"""
    missing_classes: str = DROP
    """the rule for classes that the model lacks: "drop" or "keep" """

    def as_dict(self) -> dict[str, Any]:
        """The entries of model.json."""
        return {"format": FORMAT, "name": self.name, "facts": self.facts.as_dict(), "classes": list(self.classes),
                "weights_sha256": self.weights_sha256, "missing_classes": self.missing_classes}


def place_of_model(runs: Path, model: StoredModel) -> Path:
    """The folder of a model among the runs; it may not exist yet."""
    return runs / MODELS_FOLDER / f"{name_in_path(model.name)}-{hash_of_model(model)}"


def name_in_path(name: str) -> str:
    """A model's name as a part of a path: lower case, of letters, digits, dots and dashes; never empty."""
    plain = re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip(".-")
    return plain[:LONGEST_NAME_IN_PATH].strip(".-") or "model"


def hash_of_model(model: StoredModel) -> str:
    """The first `DIGITS` hexadecimal digits of the hash of what changes a model's predictions and scores."""
    facts = model.facts
    read_as = None if facts.input is None else facts.input.as_dict()
    content = [model.weights_sha256, read_as, facts.output, list(model.classes), model.missing_classes]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:DIGITS]


def write_model(folder: Path, model: StoredModel) -> None:
    """Write model.json, unless it says the same already. Raises UserError where it cannot be written."""
    path = folder / MODEL_FILE
    try:
        if read_model(folder) == model:
            return
    except OSError:
        pass
    except DamagedFile as error:
        print(f"{error}: written anew")
    if path.is_dir() and not path.is_symlink():
        raise UserError(f"{path} is a folder; rename it, and give the same command again")
    with os_errors_as_user_errors(path):
        write_text(path, json.dumps(model.as_dict(), indent=1, ensure_ascii=True) + "\n")


def read_model(folder: Path) -> StoredModel:
    """The model that a folder describes. Raises OSError where there is no model.json, and DamagedFile where an entry is
    missing or makes no sense."""
    path = folder / MODEL_FILE
    if path.is_file() and path.stat().st_size > LARGEST_FILE:
        raise DamagedFile(f"{path} is damaged (it has {path.stat().st_size} bytes)")
    entries = read_json(path)
    problem = problem_of_entries(entries)
    if problem:
        raise DamagedFile(f"{path} is damaged ({problem})")
    try:
        facts = ModelFacts.from_dict(entries["facts"])
    except UserError as error:
        raise DamagedFile(f"{path} is damaged ({error})") from None
    return StoredModel(entries["name"], facts, entries["classes"], entries["weights_sha256"],
                       entries["missing_classes"])


def problem_of_entries(entries: dict[str, Any]) -> str:
    """What is wrong with the entries of a model.json besides `facts`, "" where nothing is."""
    if set(entries) != ENTRIES:
        return "its entries are not those of a model"
    if entries["format"] != FORMAT:
        return f"it is not of format {FORMAT}"
    name, classes = entries["name"], entries["classes"]
    if not isinstance(name, str) or not name or not name.isprintable():
        return "no usable 'name'"
    if not isinstance(classes, list) or not 2 <= len(classes) <= MOST_CLASSES:
        return "no usable 'classes'"
    if not all(isinstance(text, str) for text in classes) or len(set(classes)) < len(classes):
        return "no usable 'classes'"
    if not isinstance(entries["weights_sha256"], str) or not HEX.fullmatch(entries["weights_sha256"]):
        return "no usable 'weights_sha256'"
    if entries["missing_classes"] not in (DROP, KEEP):
        return "no usable 'missing_classes'"
    return ""


def model_folders(runs: Path) -> list[Path]:
    """The folders in `<runs>/models` that hold a model.json, sorted. Links are not followed."""
    try:
        entries = list(os.scandir(runs / MODELS_FOLDER))
    except OSError:
        return []
    folders = [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
    return sorted(folder for folder in folders if os.path.lexists(folder / MODEL_FILE))
