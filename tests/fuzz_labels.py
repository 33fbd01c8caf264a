"""Damaged label files: every parser gives rows or a `UserError`, whatever stands in them.

  python tests/fuzz_labels.py --count 5000 --seed 0

Each case takes one label file of a drawn official layout, changes bytes, lines, cells or columns of it (of class
folders: names of folders and files), and reads the three splits. A case counts as `loaded` where all splits were read,
`partly` where some were, `row` where a row behind the first was refused, else as `refused`; all but the last are past
the check of the header. Any exception but `UserError`, and any warning, is a fault: its seed and case are printed and
the exit code is 1.
"""
import argparse
import io
import re
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))

from datasets import affectnet, ferplus, load_split, rafdb
from datasets.drawn import layouts as drawn
from datasets.drawn.affectnet import COUNTS as AFFECTNET_COUNTS
from datasets.drawn.folders import COUNTS as FOLDERS_COUNTS
from datasets.drawn.faces import CLASSES, Face, image_labels
from datasets.split import SPLITS
from support.errors import UserError
from support.random_streams import keyed_rng

CELLS = [b"", b"0", b"-1", b"1", b"7", b"8", b"11", b"0.5", b"nan", b"inf", b"-inf", b"1e308", b"-1e-320", b"9" * 30,
         b"x", b"Sad", b"happiness", b"Training", b"PrivateTest", b"../x.jpg", b"/etc/passwd", b"C:\\x", b"\xff\xfe",
         b"\0", b'"', b"train_00001.jpg", b"test_0001_aligned.png", b"0001", b"\xe2\x80\xa8", b"True", b"1_0", b"0x1"]
INSERTS = [b"\n", b"\r", b"\r\n", b",", b";", b" ", b"\t", b'"', b"\0", b"\xff", b"\xef\xbb\xbf", b"A" * 200_000, b"-",
           b"."]


@dataclass
class Layout:
    """A drawn layout: its folder, the data set and options that read it, and the files that are mutated."""

    dataset: str
    root: Path
    files: list[Path]
    options: list[dict]


def faces(split: str, count: int) -> Iterator[Face]:
    """Stand-ins for drawn faces: their points and labels, 8 x 8 pixels of one colour for a picture."""
    for i in range(count):
        person, label, point = image_labels(0, split, i)
        image = np.full((8, 8, 3), 20 + 10 * (i % 20), np.uint8)
        yield Face(image, CLASSES[label], *map(float, point), f"{split}-person-{person:04d}")


def draw(folder: Path) -> dict[str, Layout]:
    """Every layout in a folder of its own, and FER+ in its other two forms."""
    layouts = {}
    counts = [(part, dict(part)) for part in (AFFECTNET_COUNTS, FOLDERS_COUNTS)]
    for current, _ in counts:
        current.update(train=96, test=16)  # as few as have validation images of each class
    for name, write in drawn.LAYOUTS.items():
        write(folder / name, faces)
        layouts[name] = Layout(write.__module__.rpartition(".")[2], folder / name, [], [{}])
    for current, usual in counts:
        current.update(usual)
    old = folder / "affectnet-old" / affectnet.LIST_PLACES[0]
    layouts["affectnet-old"].files = [old / "training.csv", old / "validation.csv"]
    layouts["affectnet-old"].options = [{}, {"crop": "legacy"}, {"classes": "7"}]
    annotations = sorted((folder / "affectnet-2021/val_set/annotations").glob("*_[ev]*.npy"))
    layouts["affectnet-2021"].files = annotations[:40]
    labels = sorted((folder / "affwild2").rglob("*.txt"))
    load_split("affwild", folder / "affwild2", "train", write_split=str(folder / "affwild2/frames.csv"))
    layouts["affwild2"].files = labels
    layouts["affwild list"] = Layout("affwild", folder / "affwild2", [folder / "affwild2/frames.csv"],
                                     [{"split_file": "frames.csv"}])
    basic, ml = folder / "rafdb/basic/EmoLabel", folder / "raf-ml/RAF-ML/EmoLabel"
    layouts["rafdb"].files = [basic / rafdb.LISTS[0], basic / rafdb.VOTES]
    layouts["rafdb"].options = [{}, {"classes": "7"}, {"basic_labels": "votes"}, {"labels": "mivia"}]
    layouts["raf-ml"].files = [ml / "distribution.txt", ml / "partition_label.txt"]
    layouts["raf-ml"].options = [{"parts": "ml"}]
    layouts["ferplus"].files = sorted((folder / "ferplus").glob("*/label.csv"))
    layouts["ferplus"].options = [{}, {"labels": "majority"}]
    votes = folder / "ferplus votes"
    shutil.copytree(folder / "ferplus", votes)
    for path in votes.glob("*/label.csv"):
        path.unlink()
    layouts["ferplus votes"] = Layout("ferplus", votes, [votes / ferplus.VOTES_FILE], [{}])
    layouts["ferplus kaggle"] = Layout("ferplus", _kaggle(folder / "ferplus kaggle"), [], [{}])
    kaggle_files = (ferplus.PIXELS_FILE, ferplus.VOTES_FILE)
    layouts["ferplus kaggle"].files = [folder / "ferplus kaggle" / name for name in kaggle_files]
    return layouts


def _kaggle(root):
    """fer2013.csv and fer2013new.csv: one picture of each class in each split."""
    root.mkdir()
    images = ["emotion,pixels,Usage"]
    votes = ["Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"]
    for usage in ferplus.USAGES.values():
        for k in range(8):
            images.append(f"0,{' '.join([str(k)] * 2304)},{usage}")
            votes.append(f"{usage},fer{len(votes):07d}.png,{','.join('9' if i == k else '0' for i in range(10))}")
    (root / ferplus.PIXELS_FILE).write_text("\n".join(images) + "\n")
    (root / ferplus.VOTES_FILE).write_text("\n".join(votes) + "\n")
    return root


# ---- mutations

def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """One to three changes of a label file."""
    for _ in range(rng.integers(1, 4)):
        data = MUTATIONS[rng.integers(len(MUTATIONS))](data, rng)
    return data


def _choice(values, rng):
    return values[int(rng.integers(len(values)))]


def _bytes(data, rng):
    """Other values of one to eight bytes."""
    changed = bytearray(data or b"\0")
    for _ in range(rng.integers(1, 9)):
        changed[int(rng.integers(len(changed)))] = int(rng.integers(256))
    return bytes(changed)


def _cut(data, rng):
    """The end, or a stretch in the middle, is gone."""
    start = int(rng.integers(len(data) + 1))
    return data[:start] + (data[start + int(rng.integers(1, 200)):] if rng.random() < 0.7 else b"")


def _insert(data, rng):
    start = int(rng.integers(len(data) + 1))
    return data[:start] + _choice(INSERTS, rng) + data[start:]


def _line(data, rng):
    """A line twice, gone, moved to the front, or cut."""
    lines = data.split(b"\n")
    k = int(rng.integers(len(lines)))
    line, how = lines.pop(k), rng.integers(4)
    changed = {0: [line, line], 1: [], 2: [], 3: [line[: len(line) // 2]]}[int(how)]
    lines[k:k] = changed
    return b"\n".join([line, *lines] if how == 2 else lines)


def _cell(data, rng):
    """One to five cells get another content."""
    lines = data.split(b"\n")
    for _ in range(rng.integers(1, 6)):
        k = int(rng.integers(len(lines)))
        separator = b"," if b"," in lines[k] else b" "
        cells = lines[k].split(separator)
        cells[int(rng.integers(len(cells)))] = _choice(CELLS, rng)
        lines[k] = separator.join(cells)
    return b"\n".join(lines)


def _column(data, rng):
    """A column is doubled, lost or overwritten, in every line."""
    content, how, place = _choice(CELLS, rng), rng.integers(3), int(rng.integers(12))
    lines = []
    for line in data.split(b"\n"):
        separator = b"," if b"," in line else b" "
        cells = line.split(separator)
        if place < len(cells):
            cells[place:place + 1] = ([cells[place]] * 2, [], [content])[how]
        lines.append(separator.join(cells))
    return b"\n".join(lines)


def _ends(data, rng):
    """Another program's line ends or encoding."""
    changes: list[Callable[[bytes], bytes]] = [
        lambda text: text.replace(b"\n", b"\r\n"), lambda text: text.replace(b"\n", b"\r"),
        lambda text: b"\xef\xbb\xbf" + text, lambda text: text.decode("latin-1").encode("utf-16"),
        lambda text: text.replace(b",", b";"), lambda text: text.replace(b",", b", "), lambda text: text.upper()]
    return _choice(changes, rng)(data)


MUTATIONS = [_bytes, _bytes, _cut, _insert, _line, _line, _cell, _cell, _cell, _column, _ends]


def change_folders(root: Path, rng: np.random.Generator) -> Callable[[], None]:
    """Rename a folder or file of a set of class folders, or add one; returns what undoes it."""
    places = sorted(path for path in root.rglob("*") if not path.name.startswith("."))
    depth = int(rng.integers(1, 4))
    path = _choice([place for place in places if len(place.relative_to(root).parts) == depth], rng)
    name = _choice(["Validation", "testing", "TRAIN", "0", "3", "Joy", "sadness", "x y", "é", "-x", ".hidden", "a.jpg",
                  "\udcff", "n\nl", "x" * 200, "train", "images", "happy.png"], rng)
    goal = path.with_name(name)
    if goal.exists():
        return lambda: None
    if rng.random() < 0.6:
        path.rename(goal)
        return lambda: goal.rename(path)
    goal.mkdir()
    return goal.rmdir


# ---- one case

LATER_ROW = re.compile(r"(?:row|line) (?:[2-9]|[1-9][0-9]+)\b")


def load_all(layout: Layout, options: dict) -> str:
    """Read the three splits: "loaded", "partly", "row" or "refused"."""
    read, at_a_row = 0, False
    for split in SPLITS:
        try:
            data = load_split(layout.dataset, layout.root, split, **options)
            assert len(data.frame) and data.frame["expression"].between(0, len(data.classes) - 1).all()
            read += 1
        except UserError as error:
            text = str(error)
            assert text and len(text) < 3000 and text.count("\n") < 2, text
            text.encode()  # it can be printed
            at_a_row |= LATER_ROW.search(text) is not None
    if read:
        return "loaded" if read == len(SPLITS) else "partly"
    return "row" if at_a_row else "refused"


def run_case(name: str, layout: Layout, seed: int, number: int) -> tuple[str, str]:
    """(outcome, file) of one case. What is changed is put back, and what the parsers wrote is removed."""
    rng = keyed_rng("fuzz labels", seed, name, number)
    options = _choice(layout.options, rng)
    if not layout.files:
        undo = change_folders(layout.root, rng)
        try:
            return load_all(layout, options), "folders"
        finally:
            undo()
    path = _choice(layout.files, rng)
    before = path.read_bytes()
    path.write_bytes(mutate(before, rng))
    try:
        return load_all(layout, options), str(path)
    finally:
        path.write_bytes(before)
        (layout.root / ".fer-c-val_set.csv").unlink(missing_ok=True)  # a file changed in place goes unseen
        if name == "ferplus kaggle":
            for folder in ferplus.FOLDERS.values():
                shutil.rmtree(layout.root / folder, ignore_errors=True)


def fuzz(count: int, seed: int, folder: Path) -> tuple[dict[str, Counter], list[str]]:
    """Run `count` cases, in turn over the layouts. Returns {layout: outcomes} and the faults as text."""
    layouts = draw(folder)
    outcomes = {name: Counter() for name in layouts}
    faults = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for i in range(count):
            name = list(layouts)[i % len(layouts)]
            try:
                outcome, _ = run_case(name, layouts[name], seed, i)
                outcomes[name][outcome] += 1
            except Exception:  # what this script is for
                outcomes[name]["FAULT"] += 1
                text = io.StringIO()
                traceback.print_exc(file=text)
                faults.append(f"{name}, seed {seed}, case {i}:\n{text.getvalue()}")
    return outcomes, faults


def past_headers(outcomes: Counter) -> float:
    """The fraction of cases in which rows were read: at least one split, or up to a row that was refused."""
    return (outcomes["loaded"] + outcomes["partly"] + outcomes["row"]) / max(1, outcomes.total())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000, help="cases, over all layouts (default: 1000)")
    parser.add_argument("--seed", type=int, default=0, help="of the changes (default: 0)")
    args = parser.parse_args()
    start = time.time()
    with tempfile.TemporaryDirectory() as folder:
        outcomes, faults = fuzz(args.count, args.seed, Path(folder))
    print(f"{'':16}{'cases':>8}{'loaded':>8}{'partly':>8}{'row':>8}{'refused':>8}{'FAULT':>8}   past the headers")
    for name, counts in outcomes.items():
        columns = "".join(f"{counts[outcome]:8}" for outcome in ("loaded", "partly", "row", "refused", "FAULT"))
        print(f"{name:16}{counts.total():8}{columns}   {past_headers(counts):.0%}")
    print(f"{args.count} cases, seed {args.seed}, {time.time() - start:.0f} s, {len(faults)} faults")
    for fault in faults[:10]:
        print(fault)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
