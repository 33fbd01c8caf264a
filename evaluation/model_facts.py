"""What is known about a model besides its outputs: where it comes from, what it takes and gives, what its user states.

sources.py collects it, a card records it. Nothing here imports torch.
"""
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from evaluation.input_format import InputFormat
from support.errors import UserError

KINDS = ("run", "timm", "onnx", "tflite", "hf", "pt2", "torchscript", "factory", "python", "logits")
OUTPUTS = ("logits", "probabilities")
FLOOR = 1e-6  # of probabilities, before their logarithm is taken
SUM_TOLERANCE = 0.03  # by which a row of probabilities may miss a sum of 1; quantised ones are that coarse
NOTE_ON_PROBABILITIES = "probabilities, zeros floored at 1e-6"  # in the scores of such models; the number is FLOOR


@dataclass(frozen=True)
class ModelFacts:
    """What is known about a model."""

    kind: str
    """one of KINDS; "python" is a model given to `benchmark`"""
    source: str
    """the text of --model, without the folders above its file"""
    parameters: int | None = None
    """number of parameters; None: not known"""
    input: InputFormat | None = None
    """what the network takes; None: uint8 images as the set has them, or not known (logits)"""
    output: str = "logits"
    """one of OUTPUTS: what the model itself gives; probabilities are stored as log(max(p, 1e-6))"""
    changed: dict[str, str] = field(default_factory=dict)
    """{option: its text} of the options by which the user changed what the source says: "input",
    "output" or "classes" """
    statements: dict[str, str] = field(default_factory=dict)
    """what the user states: training_data, overlap (none, some, all, unknown), licence, link"""

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON holds them."""
        return {"kind": self.kind, "source": self.source, "parameters": self.parameters,
                "input": None if self.input is None else self.input.as_dict(), "output": self.output,
                "changed": dict(self.changed), "statements": dict(self.statements)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ModelFacts":
        """The facts that `as_dict` wrote. Raises UserError where the values are none; they may come from anybody."""
        wrong = UserError("the facts of the model are damaged: their fields are those of evaluation/model_facts.py")
        if not isinstance(values, Mapping) or set(values) != set(cls.__dataclass_fields__):
            raise wrong
        parameters = values["parameters"]
        if parameters is not None and (not isinstance(parameters, int) or isinstance(parameters, bool)):
            raise wrong
        if values["kind"] not in KINDS or values["output"] not in OUTPUTS or not isinstance(values["source"], str):
            raise wrong
        for name in ("changed", "statements"):
            texts = values[name]
            if not isinstance(texts, Mapping) or not all(
                    isinstance(text, str) for item in texts.items() for text in item):
                raise wrong
        given = None if values["input"] is None else InputFormat.from_dict(values["input"])
        return cls(values["kind"], values["source"], parameters, given, values["output"], dict(values["changed"]),
                   dict(values["statements"]))
