"""The few lines that are printed about the scores of a set.

Given the rows that scores.py computed, the functions return text; scoring.py prints it.
"""
from typing import Any

from building.built_set import BuiltSet
from evaluation.scores import summary_values

# Printed with the scores on drawn faces: these show that the code works, and are not a result.
DEMO = "demo data: shows function, not findings"
PRINTED_SUMMARIES = {"clean": "clean", "mean": "corrupted"}  # in the column `corruption` of a row -> as printed
PREVIEW_METRICS = ("accuracy", "macro_f1", "ece", "kse")


def summary_line(built: BuiltSet, rows: list[dict[str, Any]]) -> str:
    """Macro-F1 and ECE of the clean images and of the mean over the corrupted cells, with the notes below."""
    values = summary_values(rows)
    parts = []
    for place in PRINTED_SUMMARIES:
        parts.append(f"{place} macro-F1 {100 * values[place, 'macro_f1']:.1f} ECE {100 * values[place, 'ece']:.1f}")
    demo = f" ({DEMO})" if built.made_with["dataset"] == "demo" else ""
    images = int(values["clean", "n"])
    line = f"{built.folder.name}{demo}: {', '.join(parts)} percent, {images} images"
    return line + note_below(rows)


def preview_text(built: BuiltSet, rows: list[dict[str, Any]], count: int) -> str:
    """What a preview of the first `count` images (--limit) prints: a narrow table of the scores on the clean images and
    of the mean over all corrupted cells."""
    values = summary_values(rows)
    lines = [f"{built.folder.name}: a look at {count} of {len(built.frame)} images, no benchmark score; nothing is "
             f"written",
             "  percent     accuracy  macro-F1     ECE     KSE       NLL (nats)"]
    for place, label in PRINTED_SUMMARIES.items():
        accuracy, f1, ece, kse = (100 * values[place, metric] for metric in PREVIEW_METRICS)
        nll = values[place, "nll"]
        lines.append(f"  {label:<10}{accuracy:10.1f}{f1:10.1f}{ece:8.1f}{kse:8.1f}{nll:17.3f}")
    return "\n".join(lines) + note_below(rows)


def note_below(rows: list[dict[str, Any]]) -> str:
    """The notes in a set's rows, as a line of its own; "" where there are none. All rows have the same notes."""
    notes = rows[0]["notes"]
    return f"\n  note: {notes}" if notes else ""
