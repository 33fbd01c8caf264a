"""Drawn faces in the layout of Aff-Wild2 with the annotations of ABAW3 (`datasets.affwild` reads it)."""
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from datasets.drawn.faces import Face, Faces
from support.files import write_text
from support.random_streams import keyed_rng

EDITION = "3rd ABAW Annotations/Third ABAW Annotations"
TRAINING_VIDEOS = (  # name, number of frames
    ("1-30-1280x720", 24), ("10-60-1280x720_left", 24), ("10-60-1280x720_right", 24), ("102-30-640x360", 30),
    ("15-24-1920x1080", 16), ("video7", 24), ("video12", 22), ("video45_1", 24), ("207", 28), ("311", 24), ("349", 20),
    ("420", 24),
)
ABAW3_ORDER = ("Neutral", "Anger", "Disgust", "Fear", "Happy", "Sad", "Surprise", "Contempt")  # Contempt as Other
FACES_PER_VIDEO = 8  # of one person, one of each expression
CROP = 208  # pixels of a drawn face of 224
SIZE = 112  # pixels of a frame


def write_layout(out: Path, faces: Faces) -> None:
    """12 training videos, counting the two persons of one video as two; one of them is in cropped_aligned_new_50_vids.
    Besides them a validation video, and a video without labels.

    The peculiarities of the release are in: -1, -5 and Other, missing frames, a label file with a line more and one
    with a line less than frames, a malformed line, a video without valence and arousal, and a video whose valence and
    arousal are in the validation set of the other task.
    """
    drawn = iter(faces("train", FACES_PER_VIDEO * len(TRAINING_VIDEOS)))
    for i, (video, frames) in enumerate(TRAINING_VIDEOS):
        images = "cropped_aligned_new_50_vids" if video == "420" else "cropped_aligned"
        video_faces = [next(drawn) for _ in range(FACES_PER_VIDEO)]
        expressions, points = _write_video(out / images / video, video_faces, frames, i % 5 + 3)
        if video == "102-30-640x360":
            expressions.append(expressions[-1])
            points.append(points[-1])
        elif video == "15-24-1920x1080":
            expressions.pop()
            points.pop()
        elif video == "video7":
            expressions[5] = "x"
        _write_labels(out, "EXPR_Classification", "Train_Set", video, expressions)
        if video != "video12":
            part = "Validation_Set" if video == "207" else "Train_Set"
            _write_labels(out, "VA_Estimation", part, video, points)
    expressions, points = _write_video(out / "cropped_aligned/77-30-1280x720", list(faces("val", 8)), 16, 4)
    _write_labels(out, "EXPR_Classification", "Validation_Set", "77-30-1280x720", expressions)
    _write_labels(out, "VA_Estimation", "Validation_Set", "77-30-1280x720", points)
    _write_video(out / "cropped_aligned/500", list(faces("test", 8)), 10, 4)


def _write_video(folder: Path, faces: Sequence[Face], frames: int, missing: int) -> tuple[list[str], list[str]]:
    """Write the frames of a video that shows these faces one after the other, each cropped and lit a little differently
    from frame to frame.

    Frame `missing` is not written, frame 2 has no expression and frame 9 no valence and arousal. Returns the lines of
    the two label files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    expressions = []
    points = []
    for i in range(frames):
        face = faces[i * len(faces) // frames]
        rng = keyed_rng("video", folder.name, i)
        left, top = rng.integers(0, 17, 2)
        picture = face.image[top:top + CROP, left:left + CROP] * rng.uniform(0.85, 1.0)
        if i + 1 != missing:
            image = Image.fromarray(picture.astype(np.uint8)).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
            image.save(folder / f"{i + 1:05d}.jpg", quality=90)
        valence, arousal = np.clip((face.valence, face.arousal) + rng.normal(0, 0.01, 2), -1, 1)
        expressions.append("-1" if i == 1 else str(ABAW3_ORDER.index(face.expression)))
        points.append("-5,-5" if i == 8 else f"{valence:.3f},{arousal:.3f}")
    return expressions, points


def _write_labels(out: Path, task: str, part: str, video: str, lines: Sequence[str]) -> None:
    """The label file of a video. task: EXPR_Classification or VA_Estimation; part: Train_Set or Validation_Set."""
    header = "Neutral,Anger,Disgust,Fear,Happiness,Sadness,Surprise,Other"
    if task.startswith("VA"):
        header = "valence,arousal"
    write_text(out / EDITION / f"{task}_Challenge" / part / f"{video}.txt", "\n".join([header, *lines]) + "\n")
