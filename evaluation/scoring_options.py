"""Options of evaluate.py: classes that do not match, the check of the input, and the card.

evaluate.py composes them. They stand here, apart from the code that uses them (class_matching.py, input_check.py and
cards.py), so that `--help` waits for no slow import.
"""
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from support.cli import Rare
from support.errors import UserError


@dataclass
class ClassOptions:
    """Classes that the model or the set lacks"""

    missing_classes: Annotated[Literal["drop", "keep"], Rare] = "drop"
    """what happens to images of a class that the model does not know: drop leaves them out; keep scores them, with
    probability 0 of that class, and then the negative log likelihood is undefined"""


@dataclass
class CheckOptions:
    """The check of the input"""

    check: bool | None = None
    """before scoring, try other colours, ranges, sizes and orders of classes on up to 300 clean images, and warn where
    one of them is clearly better. On by default, except for runs of this project; --no-check turns it off"""


@dataclass
class CardOptions:
    """A card of the result, and what only you can say about the model"""

    card: Path | None = None
    """write the result as a card, one small JSON file, to this path; `report.py --cards` ranks cards"""
    training_data: str | None = None
    """what the model was trained on, in a few words, for the card"""
    overlap: Literal["none", "some", "all", "unknown"] | None = None
    """how many of the set's test images the model was trained on (default: unknown; for a run scored on the test split
    of its own data set: none). Rankings keep a model with an unknown overlap apart"""
    licence: str | None = None
    """licence of the weights, for the card"""
    link: str | None = None
    """address of the model (https://...), for the card"""

    def statements(self) -> dict[str, str]:
        """What was stated, as `ModelFacts.statements` and cards name it. Raises UserError where a card cannot hold
        it."""
        stated = {name: getattr(self, name) for name in ("training_data", "overlap", "licence", "link")}
        texts = {name: text for name, text in stated.items() if text is not None}
        for name, text in texts.items():
            if not text.isprintable() or not 1 <= len(text) <= 300:
                raise UserError(f"--{name.replace('_', '-')}: 1 to 300 printable characters, please")
        if "link" in texts and not re.fullmatch(r"https?://[^\s<>\"'`\\]+", texts["link"]):
            raise UserError("--link: an address that begins with https:// or http://, without blanks and quotes")
        if self.card is not None and self.card.suffix != ".json":
            raise UserError(f"--card {self.card}: give the name of a file that ends in .json")
        return texts
