"""The cards that a report ranks: those of the models among the runs, and those of the folders that --cards names.

Cards come from other people. Each is read by evaluation/cards.py, which holds it against a schema; one that is damaged
or hostile becomes a note and is left out. `find_cards` returns the others, each once.
"""
import json
import os
from collections.abc import Iterable
from pathlib import Path

from evaluation.cards import Card, card_files, links_that_lead_out, read_card
from evaluation.model_folder import model_folders
from reporting.notes import Note, plain
from support.errors import UserError
from support.run_folder import CARDS_FOLDER

MOST_CARDS = 2000  # that one report ranks


def find_cards(runs: Path, folders: Iterable[Path]) -> tuple[list[Card], list[Note]]:
    """The cards in `<runs>/models/*/cards` and in the folders of --cards, sorted by file, and what was left out. Links
    below `<runs>/models` are not followed. Raises UserError where --cards names no folder."""
    places = [folder / CARDS_FOLDER for folder in model_folders(runs)]
    places = [place for place in places if place.is_dir() and not place.is_symlink()]
    notes: list[Note] = []
    for folder in folders:
        if not folder.is_dir():
            problem = "it is no folder" if os.path.lexists(folder) else "no such folder"
            raise UserError(f"--cards {folder}: {problem}. It takes a folder that holds cards (files NAME.json)")
        places.append(folder)
        notes += [Note("", f"{plain(link)} is a link that leads out of its folder: this card is left out")
                  for link in links_that_lead_out(folder)]
    files = list(dict.fromkeys(file for place in places for file in card_files(place)))
    if len(files) > MOST_CARDS:
        notes.append(Note("", f"only the first {MOST_CARDS} of {len(files)} cards are ranked"))
    cards: dict[str, Card] = {}
    for file in files[:MOST_CARDS]:
        try:
            card = read_card(file)
        except UserError as error:
            notes.append(Note("", f"{plain(error)}: this card is left out"))
            continue
        cards.setdefault(identity(card), card)
    return list(cards.values()), notes


def identity(card: Card) -> str:
    """Equal for two copies of one card."""
    return json.dumps(card.data, sort_keys=True)
