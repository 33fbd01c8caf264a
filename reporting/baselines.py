"""The one model that others are compared with: what --baseline names, and the hash by which every output names it.

A baseline is a card, a run of the report, or the folder of a model with its cards. corruption_errors.py divides errors
by its errors, sequence_models.py flip probabilities by its flip probabilities.
"""
import hashlib
from collections.abc import Sequence
from pathlib import Path

from evaluation.cards import Card, card_files, read_card
from evaluation.predictions import read_info
from reporting.notes import READ_ERRORS, plain
from reporting.runs import Run
from support.errors import UserError
from support.run_folder import ARGS_FILE, CARDS_FOLDER, MODEL_FILE, SCORES_FILE, predictions_folder

DIGITS = 16  # of a hash, as outputs print it


def locate_baseline(path: Path, runs: Sequence[Run]) -> list[Card] | int:
    """The cards that --baseline names, or the position of the run in the report. Raises UserError where it is neither
    a card, nor a run of this report, nor the folder of a model with its cards."""
    if path.is_file():
        return [read_card(path)]
    if (path / ARGS_FILE).is_file():
        for index, run in enumerate(runs):
            if run.folder.resolve() == path.resolve():
                return index
        raise UserError(f"--baseline {path}: this run is not below the folder of the report; name a run that is, or "
                        f"its card (evaluate.py {path} --card FILE)")
    if (path / MODEL_FILE).is_file():
        cards = [read_card(file) for file in card_files(path / CARDS_FOLDER)]
        if cards:
            return cards
    raise UserError(no_baseline(path))


def check_baseline(path: Path) -> None:
    """Raises UserError, before the long work, where --baseline names no card, no run and no model."""
    if path.is_file():
        read_card(path)
    elif not (path / ARGS_FILE).is_file() and not (path / MODEL_FILE).is_file():
        raise UserError(no_baseline(path))


def no_baseline(path: Path) -> str:
    """The message for a path where nothing is that could be a baseline."""
    return f"--baseline {path}: this is neither a card nor the folder of a scored run or model"


def digest_of_card(card: Card) -> str:
    """The hash of a card's weights; where it has none, that of its file."""
    weights = card.data["model"]["weights_sha256"]
    if weights:
        return f"weights {weights[:DIGITS]}"
    assert card.file is not None
    return f"card {hashlib.sha256(card.file.read_bytes()).hexdigest()[:DIGITS]}"


def digest_of_run(run: Run, set_name: str, precision: str) -> str:
    """The hash of a run's weights, as its predictions record it; without predictions that of its scores.csv."""
    try:
        info = read_info(predictions_folder(run.folder, set_name, precision))
        if isinstance(info.get("weights"), str) and info["weights"]:
            return plain(f"weights {info['weights'][:DIGITS]}")
    except READ_ERRORS:
        pass
    return f"scores {hashlib.sha256((run.folder / SCORES_FILE).read_bytes()).hexdigest()[:DIGITS]}"
