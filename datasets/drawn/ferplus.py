"""Drawn faces in the layout of FER+ (`datasets.ferplus` reads it)."""
from pathlib import Path

import numpy as np
from PIL import Image

from datasets.drawn.faces import Faces, true_posterior
from datasets.ferplus import FOLDERS, USAGES, VOTES_FILE
from support.files import write_text
from support.random_streams import keyed_rng

COUNTS = {"train": 320, "val": 80, "test": 80}
DRAWN_ORDER = [0, 1, 3, 2, 6, 5, 4, 7]  # the classes of the drawn faces, in the order of FER+'s


def write_layout(out: Path, faces: Faces) -> None:
    """The folders of grey 48x48 files with label.csv, ten votes each, drawn from the true probabilities of the face's
    valence and arousal; and fer2013new.csv, which differs on some images.

    The peculiarities of the release are in: an image with nine votes, one that is no face, one with too few votes, and
    an empty name in fer2013new.csv.
    """
    vote_lines = ["Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF\n"]
    for split, count in COUNTS.items():
        folder = out / FOLDERS[split]
        folder.mkdir(parents=True, exist_ok=True)
        lines = []
        for i, face in enumerate(faces(split, count)):
            name = f"fer{len(vote_lines) - 1:07d}.png"
            Image.fromarray(face.image).convert("L").resize((48, 48)).save(folder / name)
            probabilities = true_posterior(np.array([[face.valence, face.arousal]]))[0, DRAWN_ORDER]
            voters = 9 if i == 3 else 10
            votes = [*keyed_rng("votes", split, i).multinomial(voters, probabilities), 0, 0]
            if i == 5:  # no face
                votes = [0, 0, 0, 0, 0, 0, 0, 0, 4, 6]
            elif i == 6:  # single votes and "unknown"
                votes = [1, 1, 1, 1, 0, 0, 0, 0, 6, 0]
            text = ",".join(map(str, votes))
            lines.append(f'{name},"(0, 0, 48, 48)",{text}\n')
            name_in_votes_file = "" if i == 7 else name
            votes_in_votes_file = text if i % 20 else "10" + ",0" * 9
            vote_lines.append(f"{USAGES[split]},{name_in_votes_file},{votes_in_votes_file}\n")
        write_text(folder / "label.csv", "".join(lines))
    write_text(out / VOTES_FILE, "".join(vote_lines))
