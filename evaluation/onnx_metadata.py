"""What `evaluate.py --export-onnx` writes into the metadata of an ONNX file, and reads from it.

  ferc_format    1
  ferc_input     as --input takes it
  ferc_output    logits
  ferc_classes   JSON list of names, in the order of the outputs
  ferc_sets      JSON object {name of a built set that the run was scored on: its set_version}; for people, it is not
                 read
"""
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evaluation.input_format import InputFormat
from evaluation.model_facts import OUTPUTS
from evaluation.model_options import check_class_names
from support.errors import UserError

FORMAT = "1"


@dataclass(frozen=True)
class OnnxMetadata:
    """What the metadata of an ONNX file of this project say."""

    input: InputFormat
    output: str
    classes: list[str]
    sets: dict[str, str] = field(default_factory=dict)
    """{name of a built set: set_version}; empty where the metadata were read"""

    def as_dict(self) -> dict[str, str]:
        """The entries of the metadata."""
        return {"ferc_format": FORMAT, "ferc_input": self.input.description(), "ferc_output": self.output,
                "ferc_classes": json.dumps(self.classes), "ferc_sets": json.dumps(self.sets)}


def read(entries: Mapping[str, str], path: Path) -> OnnxMetadata | None:
    """What the metadata say; None where this project has not written the file. Raises UserError where they are damaged:
    they may come from anybody."""
    if "ferc_format" not in entries:
        return None
    if entries["ferc_format"] != FORMAT:
        raise UserError(f"{path} was written by another version of this project (format "
                        f"{entries['ferc_format'][:20]!r}, not {FORMAT})")
    try:
        classes: Any = json.loads(entries["ferc_classes"])
        if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
            raise ValueError
        check_class_names(classes, "its metadata")
        format = InputFormat.parse(entries["ferc_input"])
        if entries["ferc_output"] not in OUTPUTS:
            raise ValueError
    except (KeyError, ValueError, TypeError, RecursionError, UserError):
        raise UserError(f"{path}: its metadata (ferc_...) are damaged; export the run again") from None
    return OnnxMetadata(format, entries["ferc_output"], classes)
