"""One HTML file of a report: scores, corruption explorer, reliability, settings, downloads. It needs no network.

`page/` holds the template, its style and script, and the libraries they use; this module gathers the data and puts all
into one file. Everything that comes from files goes in as JSON, with no character that could end its place in the page.
"""
import base64
import hashlib
import html
import json
import re
from pathlib import Path

import cv2
import numpy as np

import cli
import metrics
from cli import UserError
from corruptions import CORRUPTIONS
from datasets.fer_c import encode, open_set
from reporting.predictions import cell_file, open_predictions, read_array, unusable
from reporting.runs import (
    BROKEN, CELLS, DOMAINS, LOSSES, Row, aggregate, blocks_of, in_block, join_notes, plain, rank,
    rank_of_name, wanted_rows)
from reporting.tables import DEMO

PARTS = Path(__file__).parent / "page"
SCRIPTS = ("vendor/tabulator.min.js", "vendor/chart.umd.min.js", "page.js")
METRICS = {  # name -> (its name in the page, whether printed as percent)
    "accuracy": ("accuracy", True), "macro_f1": ("macro-F1", True), "ece": ("ECE", True), "nll": ("NLL", False),
    "brier": ("Brier", False), "adaece": ("AdaECE", True), "mce": ("MCE", True), "cece": ("CECE", True),
    "kse": ("KSE", True)}
PLACES = [("clean", 0), *CELLS, ("mean", 0), ("pooled_by_severity", 0), ("pooled", 0)]  # rows of scores.csv
FORMS = [(), *CELLS]  # of an image: clean, and the 85 corrupted ones
SAMPLES, SIDE, QUALITY = 8, 112, 80  # images of a set at most; their pixels at most; of WebP


def write_page(path, runs, scores, seen, missing, tables, samples):
    """Write the page of a report to `path`. seen: {block: Seen}; tables: CSV files to hand on; samples: what `sample`
    gives, by block. Returns its bytes."""
    text = render(gather(runs, scores, seen, missing, tables, samples))
    cli.write_text(path, text)
    return len(text.encode())


def check_path(path):
    """Raises UserError where no page can go, before anything is read."""
    if path.suffix.lower() not in (".html", ".htm") or path.is_dir():
        raise UserError(f"--html {path}: give the name of a file that ends in .html")
    if path.exists() and not path.is_file():
        raise UserError(f"--html {path} is no regular file; give another name")


# --- the data

def gather(runs, scores, seen, missing, tables, samples):
    """All that the page shows, ready for JSON."""
    blocks, notes = blocks_of(scores), []
    stats, shown = aggregate(scores, METRICS), []
    order = sorted(range(len(runs)), key=lambda i: (runs[i].args["dataset"], *rank(runs[i].row), runs[i].seed))
    places = {index: place for place, index in enumerate(order)}
    for block in blocks:
        explorer, more = samples[block]
        notes += more
        shown.append(block._asdict() | {
            "name": name_of(block, blocks), "demo": seen[block].demo, "explorer": explorer,
            "reliability": [diagram(*key, bins) for key, bins in sorted(
                seen[block].bins.items(), key=lambda item: rank_of_name(item[0][0]))],
            "floors": {domain: [min(values), max(values)] for domain, values in seen[block].floors.items() if values}})
    return {
        "demo": DEMO, "metrics": METRICS, "losses": LOSSES, "corruptions": list(CORRUPTIONS), "places": PLACES,
        "blocks": shown, "missing": list(dict.fromkeys([*missing, *notes])),
        "rows": [row for index, block in enumerate(blocks) for row in rows_of(index, block, runs, stats)],
        "runs": [{"folder": str(run.folder), "dataset": run.args["dataset"], **in_page(run.row), "seed": run.seed,
                  "pairs_with": run.row.settings,
                  "lacks": run.lacks, "settings": {key: in_words(value) for key, value in run.args.items()}}
                 for run in runs],
        "scores": sorted((scored for index, block in enumerate(blocks) for scored in scores_of(index, block, scores)),
                         key=lambda scored: places[scored["run"]]), "order": order,
        "tables": {path.name: path.read_text(encoding="utf-8", errors="replace") for path in tables}}


def in_page(row: Row) -> dict[str, object]:
    """A row as the page has it: settings and constants of the loss that separate it from others are one text."""
    return {"algorithm": row.algorithm, "loss": row.loss, "noise": row.noise, "settings": row.more}


def name_of(block, blocks):
    """A block's short name where that says which is meant."""
    if sum(other.set == block.set for other in blocks) == 1:
        return block.set if block.precision == "32" else block.name
    return f"{block.name}, {block.dataset}, {block.protocol}, {block.image_size} px, N = {block.n}"


def rows_of(index, block, runs, stats):
    """The rows of one block: for every metric and domain [mean, sd or None], None where it is missing."""
    found = {(s.algorithm, s.loss, s.noise, s.settings, s.constants, s.domain, s.metric): s
             for s in in_block(stats, block).itertuples()}
    for row in sorted({row for trained, row in wanted_rows(runs) if trained == block[:3]}, key=rank):
        cells = {f"{metric}_{domain}": found.get((*row, domain, metric)) for metric in METRICS for domain in DOMAINS}
        notes = join_notes(cell.notes for cell in cells.values() if cell)
        seeds = max(cell.seeds if cell else 0 for cell in cells.values())
        yield {"block": index, **in_page(row), "notes": notes, "seeds": seeds,
               **{name: cell and [cell.mean, cell.sd if cell.seeds > 1 else None] for name, cell in cells.items()}}


def scores_of(index, block, scores):
    """Every score of every run: {metric: values in the order of PLACES, None where there is none}."""
    for run, part in in_block(scores, block).fillna({"severity": 0}).groupby("run"):
        table = part.pivot(index=["corruption", "severity"], columns="metric", values="value").reindex(PLACES)
        yield {"run": run, "block": index, "values": {metric: finite(table[metric]) for metric in table}}


def in_words(value):
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def finite(values):
    return [float(value) if np.isfinite(value) else None for value in values]


def diagram(algorithm, loss, domain, bins):
    """A reliability diagram as the page draws it; None in empty bins."""
    count, confidence, accuracy = bins
    with np.errstate(invalid="ignore"):
        means = {"confidence": finite(confidence / count), "accuracy": finite(accuracy / count)}
    return {"algorithm": algorithm, "loss": loss, "domain": domain, "count": [int(n) for n in count], **means,
            "ece": float(np.abs(confidence - accuracy).sum() / count.sum())}


def sample(block, set_folder, runs, scores, with_images):
    """(an image of every class in all forms, its soft labels, what the runs predict; what is missing). Probabilities
    are in thousandths. The pictures are there for demo data and `with_images`, by what the set itself says it is."""
    indices, built, notes, predictions = sorted(set(in_block(scores, block)["run"])), None, [], {}
    for index in indices:
        try:
            folder, _, _ = open_predictions(runs[index], block)
            if built is None:
                built, chosen = choose(set_folder, block)
            predictions[index] = [predicted(folder, form, (block.n, len(built.classes)), chosen) for form in FORMS]
        except cli.DamagedFile as error:
            if built is None and not str(error).startswith(str(runs[index].folder)):
                return None, [f"{block.name}: no explorer: {plain(error)}"]
            notes.append(unusable(runs[index], block, error, set_folder))
        except UserError as error:
            return None, [f"{block.name}: no explorer: {plain(error)}"]
        except BROKEN as error:
            notes.append(unusable(runs[index], block, error, set_folder))
    if built is None:
        return None, notes
    targets = [built.label[chosen], *(built.targets(*cell)[chosen] for cell in CELLS)]
    pictures = [[None] * len(FORMS)] * len(chosen)
    if built.made_with["dataset"] != "demo" and not with_images:
        notes.append(f"{block.name}: no pictures in the page: licences of face data sets forbid handing them on; "
                     "--with-images puts them in, for your own eyes")
    else:
        try:
            pictures = [[picture(built, i, form) for form in FORMS] for i in chosen]
            if not built.has_images:
                built.check_images()
        except (*BROKEN, UserError) as error:
            notes.append(f"{block.name}: no pictures in the page: {plain(error)}")
            pictures = [[None] * len(FORMS)] * len(chosen)
    frame = built.frame.iloc[chosen]
    return {"classes": built.classes, "ids": list(frame["id"]), "labels": [int(k) for k in frame["expression"]],
            "side": min(SIDE, built.made_with["size"]), "targets": [thousandths(target) for target in targets],
            "predictions": predictions, "pictures": pictures}, notes


def choose(folder, block):
    """The set of these predictions, and an image of each of its classes: the first of a person that no class before
    has shown, where the set knows persons. Raises UserError where the set is gone."""
    if folder is None:
        raise UserError("no predictions say which built set they are of")
    built = open_set(folder)
    if built.manifest["set_version"] != block.set_version:
        raise UserError(f"{folder} is another version by now")
    frame, rows, persons = built.frame.iloc[:block.n], [], set()
    for label in sorted(set(frame["expression"]))[:SAMPLES]:
        candidates = frame[frame["expression"] == label]
        others = candidates[~candidates["identity"].isin(persons)]
        rows.append(int((candidates if others.empty else others).index[0]))
        persons.add(frame["identity"].loc[rows[-1]])
    return built, rows


def predicted(folder, form, shape, chosen):
    """The probabilities of the chosen images in one form; ValueError where the file holds others' predictions."""
    logits = read_array(cell_file(folder, *(form or ("clean",))), shape)
    return thousandths(metrics.softmax(logits[chosen]))


def thousandths(probs):
    return np.rint(1000 * np.asarray(probs, np.float64)).astype(int).tolist()


def picture(built, i, form):
    """A small WebP of one form as a data URL, from its file or, in a set without images, made in memory."""
    image = built.pixels(i, *form)
    if len(image) > SIDE:
        image = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    return "data:image/webp;base64," + base64.b64encode(encode(image, "webp", QUALITY)).decode()


# --- the file

def render(data):
    """The page as text. Its policy lets only its own scripts run, by their hashes, and nothing be fetched."""
    scripts = [read_part(name) for name in SCRIPTS]
    sums = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
                    for script in scripts)
    licences = "\n".join(f"{path.stem}:\n{path.read_text(encoding='utf-8')}" for path in PARTS.glob("vendor/*.LICENSE"))
    parts = {
        "policy": f"default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:; "
                  f"style-src 'unsafe-inline'; script-src {sums}",
        "style": read_part("vendor/tabulator_simple.min.css") + read_part("page.css"),
        "licences": html.escape(licences), "data": to_json(data),
        "scripts": "\n".join(f"<script>{script}</script>" for script in scripts)}
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], read_part("template.html"))


def read_part(name):
    """A file of page/ as it goes into the page: without the comment that would have a browser look for its source."""
    return re.sub(r"(//|/\*)# sourceMappingURL=.*", "", (PARTS / name).read_text(encoding="utf-8")).strip()


def to_json(data):
    """JSON that cannot end the element it stands in, open a comment, or break a line of script."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return re.sub("[<>&\u2028\u2029\ud800-\udfff]", lambda found: f"\\u{ord(found[0]):04x}", text)
