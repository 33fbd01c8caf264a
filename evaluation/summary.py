"""The few lines that are printed about the scores of a set.

Given the rows that scores.py computed, the functions return text; scoring.py prints it.
"""
from typing import Any

from building.built_set import BuiltSet
from evaluation.scores import summary_values
from evaluation.sequence_scores import TEMPERATURE

# Printed with the scores on drawn faces: these show that the code works, and are not a result.
DEMO = "demo data: shows function, not findings"
PRINTED_SUMMARIES = {"clean": "clean", "mean": "corrupted"}  # in the column `corruption` of a row -> as printed
PREVIEW_METRICS = ("accuracy", "macro_f1", "ece", "kse")
PRINTED_OF_SEQUENCES = ("accuracy", "flip_probability", "flip_probability_se", "total_variation")


def summary_line(built: BuiltSet, rows: list[dict[str, Any]]) -> str:
    """Macro-F1 and ECE of the clean images and of the mean over the corrupted cells, with the notes below; of a set of
    sequences how stable the predictions are."""
    values = summary_values(rows)
    if built.has_sequences:
        return stability_lines(built, rows) + note_below(rows)
    parts = []
    for place in PRINTED_SUMMARIES:
        parts.append(f"{place} macro-F1 {100 * values[place, 'macro_f1']:.1f} ECE {100 * values[place, 'ece']:.1f}")
    demo = f" ({DEMO})" if built.made_with["dataset"] == "demo" else ""
    images = int(values["clean", "n"])
    line = f"{built.folder.name}{demo}: {', '.join(parts)} percent, {images} images"
    return line + note_below(rows)


def stability_lines(built: BuiltSet, rows: list[dict[str, Any]]) -> str:
    """Accuracy, flips and total variation over all perturbations, and the total variation after temperature scaling in
    a line of its own."""
    values = summary_values(rows)
    demo = f" ({DEMO})" if built.made_with["dataset"] == "demo" else ""
    accuracy, flips, error, variation = (100 * values["mean", metric] for metric in PRINTED_OF_SEQUENCES)
    clean = 100 * values["clean", "accuracy"]
    lines = [f"{built.folder.name}{demo}: accuracy {clean:.1f} % clean, {accuracy:.1f} % on frames, flips "
             f"{flips:.2f} % (standard error {error:.2f} %), total variation {variation:.2f} %, "
             f"{int(values['mean', 'n'])} images in {len(built.corruptions)} perturbations"]
    if values["mean", "distinct_predictions"] == 1:
        lines.append("  a constant model: it predicts one class everywhere, so that its stability means nothing")
    scaled = {(row["corruption"], row["metric"]): row["value"] for row in rows if row["method"] == TEMPERATURE}
    if scaled:
        lines.append(f"  after one temperature, {scaled['clean', TEMPERATURE]:.3g}: total variation "
                     f"{100 * scaled['mean', 'total_variation']:.2f} %; flips and accuracy stay")
    return "\n".join(lines)


def preview_text(built: BuiltSet, rows: list[dict[str, Any]], count: int) -> str:
    """What a preview of the first `count` images (--limit) prints: a narrow table of the scores on the clean images and
    of the mean over all corrupted cells."""
    values = summary_values(rows)
    first = (f"{built.folder.name}: a look at {count} of {len(built.frame)} images, no benchmark score; nothing is "
             f"written")
    if built.has_sequences:
        return f"{first}\n{stability_lines(built, rows)}" + note_below(rows)
    lines = [first,
             "  percent     accuracy  macro-F1     ECE     KSE       NLL (nats)"]
    for place, label in PRINTED_SUMMARIES.items():
        accuracy, f1, ece, kse = (100 * values[place, metric] for metric in PREVIEW_METRICS)
        # A model that lacks classes and keeps their images has no NLL.
        nll = f"{values[place, 'nll']:.3f}" if (place, "nll") in values else "-"
        lines.append(f"  {label:<10}{accuracy:10.1f}{f1:10.1f}{ece:8.1f}{kse:8.1f}{nll:>17}")
    return "\n".join(lines) + note_below(rows)


def note_below(rows: list[dict[str, Any]]) -> str:
    """The notes in a set's rows, as a line of its own; "" where there are none. All rows have the same notes."""
    notes = rows[0]["notes"]
    return f"\n  note: {notes}" if notes else ""
