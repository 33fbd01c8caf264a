"""Result cards: the scores of one model on one built set, with all that is known about both, as one small JSON file.

model_scoring.py writes a card after every scoring of a model that is no run, and with --card for any model;
report.py ranks cards with runs, and people send them to each other. `make_card` puts a card together, `write_card` and
`read_card` hold it against the JSON schema in card.schema.json, which says what each entry is. Cards come from anybody:
the schema limits lengths and ranges, and refuses whatever it does not know. Nothing here imports torch.
"""
import functools
import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from building.built_set import BuiltSet
from building.integrity import HEX
from corruptions import SEVERITIES, suite_of
from datasets import TITLES
from evaluation.model_facts import ModelFacts
from evaluation.scores import METHOD, REMOVED_METRICS, SUMMARIES
from evaluation.trained_run import TrainedRun
from perturbations import PERTURBATIONS
from support.errors import DamagedFile, UserError, first_line
from support.files import os_errors_as_user_errors, read_json, write_text
from support.run_folder import name_of_predictions

FORMAT = 1  # of a card; cards of another format are not read
PROJECT = "FER-C"
SCHEMA = Path(__file__).with_name("card.schema.json")
LARGEST_CARD = 2**20  # bytes; a card with every score has about 30 kB
DIGITS = 9  # significant digits of a number in a card
NO_SCORES = ("n", *REMOVED_METRICS)  # in the column `metric` of scores.csv; a card has them elsewhere
ANY_FOLDER = "folders"  # a data set that may be any folder: two of them need not be the same images
# Options of data sets that leave every image in its split: of crops, classes and labels, and numbers of images.
SAME_SPLITS = {"classes", "crop", "basic_labels", "labels", "write_split", "train", "val", "test", "frames"}


@dataclass(frozen=True)
class ModelOfCard:
    """What a card says about the model."""

    name: str
    classes: Sequence[str]
    """of the model, in the order of its outputs"""
    weights_sha256: str
    """64 hexadecimal digits; any other text is left out of the card"""
    facts: ModelFacts


@dataclass(frozen=True)
class SetOfCard:
    """What a card says about the set, and which part of it was scored."""

    built: BuiltSet
    images: int
    """number of images that were scored"""
    scored_classes: Sequence[str]
    """the set's classes that the model knows, in the set's order"""
    missing_classes: Literal["drop", "keep"] = "drop"
    """what became of the images of the other classes: left out, or kept with probability 0"""


@dataclass(frozen=True)
class RemovedClasses:
    """The model's classes that the set lacks."""

    names: Sequence[str]
    mass: float
    """mean probability that the model gave to them, on the clean images"""
    first_choices: float
    """fraction of the clean images whose most probable class was one of them"""


@dataclass(frozen=True)
class CheckOfCard:
    """What the check of the input found."""

    images: int
    """that it looked at"""
    alarms: Sequence[Any] = ()
    """objects with the texts `subject`, `text` and `option` (input_check.Alarm)"""


@dataclass(frozen=True)
class Extras:
    """What a card holds besides the model, the set and the rows of scores.csv."""

    check: CheckOfCard | None = None
    """None: the input was not checked"""
    removed: RemovedClasses | None = None
    standard_errors: Mapping[str, Mapping[str, float]] | None = None
    """{corruption: {"error": ..., "increase": ...}} of error_bootstrap.py"""
    variants: Mapping[str, Mapping[str, float]] | None = None
    """{labels: {metric: value}}: the mean over all cells against other labels, of image_scores.py"""


@dataclass(frozen=True, eq=False)
class Card:
    """A card that was read, or is about to be written. `data` fits the schema."""

    data: dict[str, Any] = field(repr=False)
    file: Path | None = None
    """where it was read; None for a card that is made here"""

    @property
    def name(self) -> str:
        return self.data["model"]["name"]

    def score(self, place: str, metric: str) -> float | None:
        """A score of "clean" or of a summary such as "mean"; None where the card has none."""
        return self.data["scores"]["places"].get(place, {}).get(metric)

    @property
    def has_sequences(self) -> bool:
        """Whether it is the card of a set of perturbation sequences."""
        return "sequences" in self.data

    def sequence_scores(self, method: str = METHOD) -> dict[str, dict[str, float]]:
        """{place: {metric: value}} of a set of sequences, for "clean", each perturbation and "mean"; empty where the
        card has no scores of this method. method: one of sequence_scores.py."""
        of_method: dict[str, dict[str, float]] = self.data.get("sequences", {}).get("scores", {}).get(method, {})
        if method != self.data["method"] or not of_method:
            return of_method
        places = self.data["scores"]["places"]
        return {"clean": places["clean"], **of_method, "mean": places["mean"]}

    def cells(self, metric: str) -> dict[tuple[str, int], float]:
        """{(corruption, severity): value} of a metric; empty where the card has none."""
        values: dict[str, list[float]] = self.data["scores"]["cells"].get(metric, {})
        return {(name, severity): of_name[severity - 1] for name, of_name in values.items() for severity in SEVERITIES}


# ---- making a card

def make_card(model: ModelOfCard, set_: SetOfCard, rows: Iterable[Mapping[str, Any]], extras: Extras) -> Card:
    """The card of one scoring. rows: those of scores.csv for this set, version and precision; of a set of sequences
    they may be of several methods, those of the first being the scores of the card.

    Raises UserError where what the user states, or a name of the model or of a class, does not fit into a card."""
    rows = list(rows)
    check = None
    if extras.check is not None:
        alarms = [{"subject": shorten(alarm.subject), "text": shorten(alarm.text, 2000),
                   "option": shorten(alarm.option)} for alarm in extras.check.alarms]
        check = {"images": extras.check.images, "alarms": alarms}
    removed = None
    if extras.removed is not None and extras.removed.names:
        removed = {"names": [shorten(name) for name in extras.removed.names], "mass": round_number(extras.removed.mass),
                   "first_choices": round_number(extras.removed.first_choices)}
    notes = [phrase for phrase in str(rows[0].get("notes") or "").split("; ") if phrase]
    data = {
        "format": FORMAT,
        "project": PROJECT,
        "model": entries_of_model(model),
        "set": entries_of_set(set_),
        "precision": rows[0]["precision"] or "32",
        "method": rows[0]["method"],
        "check": check,
        "changed": {shorten(name): shorten(text, 2000) for name, text in model.facts.changed.items()},
        "removed": removed,
        "scores": entries_of_scores([row for row in rows if row["method"] == rows[0]["method"]]),
        "variants": round_values(extras.variants),
        "standard_errors": round_values(extras.standard_errors),
        "notes": [shorten(note, 2000) for note in notes],
    }
    if set_.built.has_sequences:
        data["sequences"] = entries_of_sequences(set_.built, rows)
    problem = problem_of_card(data)
    if problem:
        raise UserError(f"no card can be made of {model.name}: {problem}")
    return Card(data)


def card_of_run(run: TrainedRun, weights_sha256: str, parameters: int | None, set_: SetOfCard,
                rows: Iterable[Mapping[str, Any]], extras: Extras, stated: Mapping[str, str] | None = None) -> Card:
    """The card of a trained run. weights_sha256: of best.pt. stated: what the user states (`CardOptions.statements`);
    it goes before what the run knows. The other arguments are those of `make_card`.

    The run knows its data set, and `overlap_of_run` what follows from that."""
    title = TITLES.get(run.dataset, run.dataset)
    overlap = overlap_of_run(run.dataset, run.settings.get("data"), set_.built.made_with)
    facts = ModelFacts("run", source_of_run(run), parameters, None, "logits", {},
                       {"training_data": title, "overlap": overlap} | dict(stated or {}))
    return make_card(ModelOfCard(name_of_run(run), run.classes, weights_sha256, facts), set_, rows, extras)


def overlap_of_run(dataset: str, data: object, made_with: Mapping[str, Any]) -> Literal["none", "unknown"]:
    """Whether a run was trained on test images of a built set. dataset, data: of the run's args.json, where `data`
    holds options of the data set, "key=value" each. made_with: the settings of the set.

    A run was not trained on the test images of a set that was built from the same data set with the same splits:
    training never opens the test split. Of every other set that is not known."""
    options = made_with.get("options") or {}
    pairs = [] if data is None else data
    if made_with.get("dataset") != dataset or dataset == ANY_FOLDER or not isinstance(options, dict):
        return "unknown"
    if not isinstance(pairs, list) or not all(isinstance(pair, str) for pair in pairs):
        return "unknown"
    of_run = dict(pair.partition("=")[::2] for pair in pairs)
    of_set = {name: str(value) for name, value in options.items()}
    differing = {name for name, _ in of_run.items() ^ of_set.items()}
    return "none" if differing <= SAME_SPLITS else "unknown"


def source_of_run(run: TrainedRun) -> str:
    """The folder of a run as its card names it: below the folder of all runs where it lies as run_folder.py says, else
    its name alone. The folders above are nobody else's business."""
    parts = run.folder.resolve().parts[-5:]
    settings = run.settings
    expected = (run.dataset, settings.get("script"), settings.get("loss"))
    if len(parts) == 5 and parts[:3] == expected and parts[3].startswith("noise") and parts[4].startswith("seed"):
        return "/".join(parts)
    return run.folder.resolve().name


def name_of_run(run: TrainedRun) -> str:
    """What tables call a run: its algorithm, loss, label noise and seed, and the settings that are not the usual."""
    settings = run.settings
    words = [str(settings.get("script", "model")), str(settings.get("loss", ""))]
    noise, differs = settings.get("noise"), settings.get("differs")
    if isinstance(noise, int | float) and noise:
        words.append(f"noise {100 * noise:g} %")
    if isinstance(differs, Mapping):
        for name, value in differs.items():
            words.append(f"{name} {' '.join(map(str, value)) if isinstance(value, list) else value}")
    words.append(f"seed {settings.get('seed', '?')}")
    return shorten(", ".join(word for word in words if word))


def entries_of_model(model: ModelOfCard) -> dict[str, Any]:
    """The entry `model` of a card."""
    facts = model.facts
    stated = facts.statements
    return {
        "name": shorten(model.name), "kind": facts.kind, "source": shorten(facts.source),
        "weights_sha256": model.weights_sha256 if HEX.fullmatch(model.weights_sha256) else None,
        "parameters": facts.parameters,
        "training_data": stated.get("training_data"), "overlap": stated.get("overlap", "unknown"),
        "licence": stated.get("licence"), "link": stated.get("link"),
        "input": None if facts.input is None else facts.input.as_dict(), "output": facts.output,
        "classes": [shorten(name) for name in model.classes]}


def entries_of_set(set_: SetOfCard) -> dict[str, Any]:
    """The entry `set` of a card."""
    built = set_.built
    made_with = built.made_with
    return {
        "name": shorten(built.folder.resolve().name), "dataset": made_with["dataset"],
        "title": shorten(built.manifest["title"]),
        "set_version": built.manifest["set_version"], "content": built.manifest["content"],
        "protocol": shorten(made_with["protocol"]), "image_size": made_with["size"],
        "images": len(built.frame), "images_scored": set_.images,
        "classes": [shorten(name) for name in built.classes],
        "scored_classes": [shorten(name) for name in set_.scored_classes],
        "missing_classes": set_.missing_classes if len(set_.scored_classes) < len(built.classes) else None,
        "demo": made_with["dataset"] == "demo"}


def entries_of_scores(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The entry `scores` of a card: {"places": {place: {metric: value}}, "cells": {metric: {corruption: five values}}}.
    rows: of one method.

    A metric that lacks a cell has no cells. Numbers that are no scores (images, removed classes) are left out."""
    places: dict[str, dict[str, float]] = {}
    cells: dict[str, dict[str, dict[int, float]]] = {}
    for row in rows:
        value, metric = float(row["value"]), row["metric"]
        if metric in NO_SCORES or not math.isfinite(value):
            continue
        if row["severity"] in ("", None):
            if row["corruption"] not in ("clean", *SUMMARIES):  # a perturbation, see `entries_of_sequences`
                continue
            places.setdefault(row["corruption"], {})[metric] = round_number(value)
        else:
            of_metric = cells.setdefault(metric, {})
            of_metric.setdefault(row["corruption"], {})[int(row["severity"])] = round_number(value)
    complete = {}
    corruptions = suite_of(name for of_metric in cells.values() for name in of_metric)
    for metric, of_metric in cells.items():
        if all(len(of_metric.get(name, {})) == len(SEVERITIES) for name in corruptions):
            complete[metric] = {name: [of_metric[name][severity] for severity in SEVERITIES] for name in corruptions}
    return {"places": places, "cells": complete}


def entries_of_sequences(built: BuiltSet, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The entry `sequences` of a card: {"difficulty", "frames": {perturbation: number of its frames}, "scores":
    {method: {place: {metric: value}}}}. Places are "clean", "mean" and the perturbations; what stands in the entry
    `scores`, that is, clean and mean of the first method, is not repeated."""
    scores: dict[str, dict[str, dict[str, float]]] = {}
    for row in rows:
        is_in_scores = row["method"] == rows[0]["method"] and row["corruption"] in ("clean", *SUMMARIES)
        if row["metric"] not in NO_SCORES and not is_in_scores:
            places = scores.setdefault(row["method"], {})
            places.setdefault(row["corruption"], {})[row["metric"]] = round_number(float(row["value"]))
    return {"difficulty": built.made_with["difficulty"], "frames": built.frame_counts, "scores": scores}


def round_number(value: float) -> float:
    """A finite number with at most `DIGITS` significant digits."""
    if not math.isfinite(value):
        raise ValueError(f"a card holds finite numbers, not {value}")
    return float(f"{value:.{DIGITS}g}")


def round_values(values: Mapping[str, Mapping[str, float]] | None) -> dict[str, dict[str, float]] | None:
    """The same numbers with `DIGITS` digits; None for None."""
    if values is None:
        return None
    return {key: {name: round_number(value) for name, value in inner.items()} for key, inner in values.items()}


def shorten(text: object, length: int = 300) -> str:
    """A text as a card holds it: printable, in one line, at most `length` characters."""
    line = " ".join(str(text).split())
    line = "".join(character if character.isprintable() else "?" for character in line)
    return line if len(line) <= length else f"{line[:length - 3]}..."


# ---- reading and writing

@functools.cache
def validator() -> Any:
    """What holds a card against the schema."""
    import jsonschema  # here, since it takes a tenth of a second and most commands need no card

    return jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text(encoding="utf-8")))


def problem_of_card(data: Mapping[str, Any]) -> str:
    """What is wrong with the content of a card, in one line; "" where nothing is."""
    if data.get("format") != FORMAT:
        return f"its format is {shorten(data.get('format'), 20)}, not {FORMAT}"
    from jsonschema.exceptions import best_match  # the innermost of several alternatives, which names the entry

    error = best_match(validator().iter_errors(data))
    if error is not None:
        place = "/".join(shorten(key, 40) for key in error.absolute_path) or "the card"
        return f"{place}: {shorten(first_line(error), 200)}"
    if ends_in_newline(data):
        return "a text in it ends in a newline"
    classes, scored = data["set"]["classes"], data["set"]["scored_classes"]
    if [name for name in classes if name in scored] != scored:
        return "set/scored_classes are not classes of the set, in its order"
    if data["set"]["images_scored"] > data["set"]["images"]:
        return "set/images_scored is more than the set has"
    if (len(scored) < len(classes)) != (data["set"]["missing_classes"] is not None):
        return "set/missing_classes does not fit the scored classes"
    return problem_of_corruptions(data)


def problem_of_corruptions(data: Mapping[str, Any]) -> str:
    """What is wrong with the corruptions in the content of a card; "" where all of its entries have all corruptions of
    one preset."""
    places = {f"scores/cells/{metric}": set(values) for metric, values in data["scores"]["cells"].items()}
    if data["standard_errors"] is not None:
        places["standard_errors"] = set(data["standard_errors"])
    try:
        suite = suite_of(name for names in places.values() for name in names)
    except ValueError as error:
        return f"its corruptions are of no set ({error})"
    for place, names in places.items():
        if names != set(suite):
            return f"{place} lacks {', '.join(name for name in suite if name not in names)}"
    return problem_of_sequences(data) if "sequences" in data else ""


def problem_of_sequences(data: Mapping[str, Any]) -> str:
    """What is wrong with the entry `sequences` in the content of a card; "" where it has the same perturbations, of one
    preset, everywhere, and no corruptions stand beside it."""
    entry = data["sequences"]
    names = set(entry["frames"])
    if data["scores"]["cells"] or data["standard_errors"] or set(data["scores"]["places"]) != {"clean", "mean"}:
        return "it has corruptions and sequences"
    if not any(names <= set(known) for known in PERTURBATIONS.values()):
        return "its perturbations are of no set"
    if data["method"] != METHOD or METHOD not in entry["scores"]:
        return f"sequences/scores lacks the method {METHOD}"
    for method, places in entry["scores"].items():
        expected = names if method == METHOD else names | {"clean", "mean"}
        if set(places) != expected:
            return f"sequences/scores/{method} has other places than the perturbations of the set"
    return ""


def ends_in_newline(value: Any) -> bool:
    """Whether a text or a key in the content of a card ends in a newline: Python lets the `$` of the schema's patterns
    match before one."""
    if isinstance(value, Mapping):
        return any(ends_in_newline(key) or ends_in_newline(inner) for key, inner in value.items())
    if isinstance(value, list):
        return any(map(ends_in_newline, value))
    return isinstance(value, str) and value.endswith("\n")


def write_card(path: Path, card: Card) -> None:
    """Write a card, whole or not at all. Raises UserError where the card does not fit the schema, or the file cannot be
    written."""
    problem = problem_of_card(card.data)
    if problem:
        raise UserError(f"{path} is not written: {problem}")
    with os_errors_as_user_errors(path):
        write_text(path, json_text(card.data))


def refuse_other_file(path: Path) -> None:
    """Raises UserError where --card names a file that is there and is no card: it would be lost. Also where nothing
    can be written there, as far as that can be known before hours of scoring."""
    folder = Path(os.path.abspath(path)).parent
    while not os.path.lexists(folder):
        folder = folder.parent
    if not folder.is_dir():
        raise UserError(f"--card {path}: {folder} is no folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"--card {path}: this user may not write into {folder}; give another place")
    if not path.exists():
        return
    try:
        read_card(path)
    except DamagedFile:
        raise UserError(f"--card {path}: this file is there and is no card, so it is not overwritten; give another "
                        f"name, or remove it") from None


def json_text(data: Mapping[str, Any]) -> str:
    """A card as text: an entry a line, long lists of numbers in one line, so that two cards can be compared by eye."""
    text = json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False)
    text = re.sub(r"\[\s*((?:-?\d[\d.e+-]*,\s*)*-?\d[\d.e+-]*)\s*\]",
                  lambda match: "[" + re.sub(r"\s+", " ", match[1]) + "]", text)
    return text + "\n"


def read_card(path: Path) -> Card:
    """The card in a file. Raises DamagedFile, naming the file and what is wrong, where it is none."""
    try:
        if not path.is_file():
            raise DamagedFile(f"{path} is no regular file")
        size = path.stat().st_size
        if size > LARGEST_CARD:
            raise DamagedFile(f"{path} is no card: it has {size} bytes, a card at most {LARGEST_CARD}")
        data = read_json(path)
        problem = problem_of_card(data)
    except DamagedFile:
        raise
    except (OSError, ValueError, RecursionError, ArithmeticError) as error:
        raise DamagedFile(f"{path} cannot be read ({first_line(error)})") from None
    if problem:
        raise DamagedFile(f"{path} is no card of this project: {problem}")
    return Card(data, path)


def card_file(folder: Path, set_name: str, precision: str) -> Path:
    """Where a model's folder keeps the card of a set. folder: that of the cards; precision: "32" or "bf16"."""
    return folder / f"{name_of_predictions(set_name, precision)}.json"


def card_files(folder: Path) -> list[Path]:
    """The files of a folder that may be cards, sorted, without `links_that_lead_out`."""
    return sorted(set(json_files(folder)).difference(links_that_lead_out(folder)))


def links_that_lead_out(folder: Path) -> list[Path]:
    """The links of a folder that have the name of a card and lead out of the folder, sorted: they are never read."""
    inside = os.path.realpath(folder)
    return sorted(path for path in json_files(folder) if os.path.dirname(os.path.realpath(path)) != inside)


def json_files(folder: Path) -> list[Path]:
    """The files of a folder that have the name of a card."""
    return [path for path in folder.glob("*.json") if not path.name.startswith(".")]
