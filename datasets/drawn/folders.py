"""Drawn faces in a folder per class (`datasets.folders` reads it)."""
from pathlib import Path

from PIL import Image

from datasets.drawn.faces import Faces
from datasets.folders import ORDER

COUNTS = {"train": 240, "test": 80}
CLASS_FOLDERS = {  # the names of the class folders in the order of `ORDER`
    "train": ("neutral", "happy", "sad", "surprise", "fear", "disgust", "angry", "contempt"),
    "test": ("Neutral", "Happiness", "Sadness", "Surprise", "Fear", "Disgust", "Anger", "Contempt"),
}


def write_layout(out: Path, faces: Faces) -> None:
    """train/<class> and test/<class>, with 240 and 80 faces.

    As in copies from the web, the two splits name some classes differently, some pictures are PNG files, the same file
    name occurs in several classes and once with two suffixes, one picture lies a folder deeper, and there are a text
    file and a hidden file.
    """
    for split, count in COUNTS.items():
        for i, face in enumerate(faces(split, count)):
            folder = out / split / CLASS_FOLDERS[split][ORDER.index(face.expression)]
            folder.mkdir(parents=True, exist_ok=True)
            name = f"{i // len(ORDER):04d}"
            if i == 0:
                Image.fromarray(face.image[:, ::-1]).save(folder / f"{name}.png")
            if i == 1:
                folder = folder / "more"
                folder.mkdir()
            suffix = "png" if i % 5 == 2 else "jpg"
            Image.fromarray(face.image).save(folder / f"{name}.{suffix}")
        (folder / "Thumbs.txt").write_text("no picture\n")
        (folder / "._hidden.jpg").write_bytes(b"\0\5")
