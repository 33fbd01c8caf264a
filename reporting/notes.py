"""What a report says about files and runs that are missing, damaged or left out.

A `Note` is one such remark. Every part of the report returns a list of them, and the end of tables.md prints them, so
that nothing is left out in silence. The files that a report reads may come from other people: `plain` turns any text
of theirs into one printable line, and `READ_ERRORS` lists what reading a damaged file can raise.
"""
import csv
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from support.errors import UserError

READ_ERRORS = (  # what reading a damaged file can raise
    OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, EOFError, MemoryError,
    RecursionError, csv.Error, UserError)


@dataclass(frozen=True)
class Note:
    """One thing that is missing, damaged or left out."""

    subject: str
    """what the note is about: the folder of a run, a file, or the name of a block; empty where the reason names it"""
    reason: str
    """what is wrong with it"""
    cause: str = ""
    """the error message behind the reason; empty where there is none"""
    command: str = ""
    """the command line that mends it; empty where there is none"""

    def __str__(self) -> str:
        """One printable line."""
        reason = f"{self.reason} ({self.cause})" if self.cause else self.reason
        parts = [self.subject, reason]
        if self.command:
            parts.append(f"`{self.command}`")
        return plain(": ".join(part for part in parts if part))


def unique_notes(notes: Iterable[Note]) -> list[Note]:
    """The notes without repetitions, in their order.

    Two notes with a cause repeat each other where subject and reason agree: two steps of the report can fail on the
    same file with different messages."""
    kept: dict[tuple[str, str, str], Note] = {}
    for note in notes:
        key = (note.subject, note.reason, "" if note.cause else note.command)
        kept.setdefault(key, note)
    return list(kept.values())


def different_contents(contents: Iterable[object], scored: str) -> str:
    """What is wrong where copies of one version of a set were scored whose files differ, in words; "" where nothing is.

    contents: for each thing that was scored, the hash of the set's files (`content` of its manifest); what is no text
    is not known and left out. scored: what the things are, in the singular."""
    counts = Counter(content for content in contents if isinstance(content, str))
    if len(counts) < 2:
        return ""
    texts = [f"{content[:8]}: {count} {scored}{'s' * (count > 1)}" for content, count in sorted(counts.items())]
    return (f"the {scored}s were scored on copies of the set whose files differ, although the set version is the same "
            f"(content {'; '.join(texts)}): score them on one copy")


def plain(text: object) -> str:
    """One line of printable text, whatever the text holds."""
    words = " ".join(str(text).split())
    return "".join(character if character.isprintable() else " " for character in words)


def check_regular(path: Path) -> None:
    """Raise FileNotFoundError where there is no file, ValueError where there is something else, such as a folder or a
    named pipe (opening a pipe would wait forever)."""
    if path.is_file():
        return
    if path.exists():
        raise ValueError(f"{path} is no regular file")
    raise FileNotFoundError(2, "it does not exist", str(path))
