"""Damage the files of a tiny built set and of its shards, one at a time, and see what reading them does.

  python tests/fuzz_sets.py --count 3000 --seed 0

Every case changes one file. It then opens the set with and without hashes, reads images and verifies it, or takes the
files of a shard as a merge does. Allowed are a `UserError` and a right result: a changed table or image is never used
where hashes are compared, and the records of a merge equal those of the undamaged shard. Printed for each file are the
cases that were refused, those in which the damage made no difference, and those "past the header", in which the damaged
file still had the form of its kind, so that the code after the first check was reached.
"""
import argparse
import contextlib
import io
import json
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

if __name__ == "__main__":  # started as a file
    sys.path[0] = str(Path(__file__).parent.parent)

import make_fer_c
from building import verification
from building.built_set import open_built_set
from building.chunks import Job
from building.journal import read_journal
from building.plan import make_plan
from building.shards import shard_folder, take_chunk
from building.state import read_state, refuse_if_different
from corruptions import CELLS
from datasets import fused
from make_fer_c import Args
from support.errors import UserError

TABLES = ("manifest.json", "labels.csv", "soft_labels.npy", "visibility.npy", "visibility_mean.csv", "gmm.json",
          "checksums.sha256")
FILES = (*TABLES, "clean image", "corrupted image", "build.json", "journal")
VALUES = (None, True, -1, 0, 2, 10**30, 1e308, -0.5, float("nan"), float("inf"), "", "x", "../x", "/etc/passwd", "\n",
          "0" * 64, [], {}, [[]], [None], {"a": 1})


class Sets:
    """A built set of eight images of 16 pixels and the two shards of another build of it."""

    def __init__(self, folder: Path):
        def arguments(**changes: object) -> Args:
            common = dict(dataset="demo", root=folder / "demo", data=("train=128", "val=16", "test=8"), image_size=16,
                          workers=1)
            return Args(**common | changes)

        self.out, self.scratch = folder / "Demo-C", folder / "scratch"
        make_fer_c.main(arguments(out=self.out))
        for i in (1, 2):
            make_fer_c.main(arguments(out=folder / "other", shard=f"{i}/2"))
        self.shard = shard_folder(folder / "other", 1, 2)
        self.plan = make_plan(arguments(out=self.out))
        self.chunk = self.plan.chunks[0]
        for name in ("journal", "set/clean", *(f"set/images/{name}/{severity}" for name, severity in CELLS)):
            (self.scratch / name).mkdir(parents=True)
        self.job = Job(self.plan.root, self.scratch, self.plan.made_with, True, (self.shard,))
        self.records = read_journal(self.shard / "journal/0.json", self.job, self.chunk[1])

    def path(self, kind: str) -> Path:
        """The file of a kind."""
        return {"clean image": self.out / f"clean/{self.chunk[1]['id'].iloc[0]}.png",
                "corrupted image": self.out / f"images/snow/3/{self.chunk[1]['id'].iloc[0]}.png",
                "build.json": self.shard / "build.json", "journal": self.shard / "journal/0.json",
                }.get(kind, self.out / kind)


def mutated(data: bytes, rng: np.random.Generator, is_json: bool) -> bytes:
    """Other bytes of a file: damaged anywhere, or, of JSON, valid with one value changed, moved or left out."""
    if is_json and rng.random() < 0.6:
        return mutated_json(data, rng)
    kind = rng.integers(8)
    place = int(rng.integers(len(data)))
    if rng.random() < 0.5:
        place = min(int(rng.exponential(200)), len(data) - 1)  # near the beginning, where headers are
    piece = bytes(rng.integers(0, 256, int(rng.integers(1, 40)), dtype=np.uint8))
    if kind == 0:
        return data[:place]
    if kind == 1:
        return data[:place] + piece + data[place:]
    if kind == 2:
        return data[:place] + data[place + len(piece):]
    if kind == 3:
        return piece * int(rng.integers(0, 20))
    if kind == 4:
        return data + data[place:]
    if kind == 5:
        return data[:place] + bytes(len(piece)) + data[place + len(piece):]
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 6))):
        changed[(place + int(rng.integers(50))) % len(data)] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def mutated_json(data: bytes, rng: np.random.Generator) -> bytes:
    """Valid JSON with one value changed, moved or left out."""
    value = json.loads(data)
    holder, key = None, None
    inner = value
    while isinstance(inner, (dict, list)) and inner and (holder is None or rng.random() < 0.7):
        holder = inner
        keys = list(inner) if isinstance(inner, dict) else range(len(inner))
        key = keys[int(rng.integers(len(keys)))]
        inner = holder[key]
    kind = rng.integers(4)
    if kind == 0:
        del holder[key]
    elif kind == 1:
        holder[key] = [holder[key]]
    else:
        holder[key] = VALUES[int(rng.integers(len(VALUES)))]
    text = json.dumps(value)
    return ("[" * 100_000 if rng.random() < 0.02 else text).encode()


def is_past_header(kind: str, data: bytes, original: bytes) -> bool:
    """Whether the damaged file still looks like one of its kind at first sight."""
    if kind.endswith(".json") or kind == "journal":
        try:
            return isinstance(json.loads(data), dict)
        except (ValueError, RecursionError):
            return False
    lengths = {"labels.csv": 40, "visibility_mean.csv": 20, "checksums.sha256": 66}
    length = lengths.get(kind, 33 if "image" in kind else 10)
    return data[:length] == original[:length]


def attempt(action: Callable[[], object]) -> bool:
    """Whether an action ends without `UserError`; any other exception is a fault and passes on."""
    try:
        action()
    except UserError:
        return False
    return True


def read_all(sets: Sets, kind: str, verify: bool) -> None:
    """Open the set and read the images that may be damaged."""
    built = open_built_set(sets.out, verify=verify)
    built.pixels(0)
    built.pixels(0, "snow", 3)
    built.pixels(1, "contrast", 5, in_memory=True)
    if kind == "gmm.json" and not verify:
        fused.read_gmm(sets.out / "gmm.json", built.classes)


def take(sets: Sets) -> None:
    """What a merge does with a shard. Raises AssertionError where the records are not the right ones."""
    refuse_if_different(read_state(sets.shard), sets.plan.state, sets.shard)
    take_chunk(sets.job, sets.chunk)
    if read_journal(sets.scratch / "journal/0.json", sets.job, sets.chunk[1]) != sets.records:
        raise AssertionError("a merge took other values from a damaged shard")


def run_case(sets: Sets, kind: str, rng: np.random.Generator, counts: Counter, full: bool) -> None:
    """One damaged file. Raises whatever is not a `UserError`, and AssertionError where damage is used unseen."""
    path = sets.path(kind)
    original = path.read_bytes()
    data = mutated(original, rng, path.suffix == ".json")
    special = rng.random()
    try:
        path.unlink()
        if special < 0.01:
            os.mkfifo(path)
        elif special < 0.02:
            path.mkdir()
        elif special > 0.03:
            path.write_bytes(data)
        changed = special <= 0.03 or data != original
        if kind in ("build.json", "journal"):
            accepted = attempt(lambda: take(sets))
        else:
            counts[kind, "read without hashes"] += attempt(lambda: read_all(sets, kind, False))
            accepted = attempt(lambda: read_all(sets, kind, True))
            if full:
                accepted = attempt(lambda: verification.verify(sets.out, 1)) or accepted
            if accepted and changed:
                raise AssertionError("a changed file was used although hashes are compared")
        counts[kind, "opened unharmed" if accepted else "refused"] += 1
        counts[kind, "past the header"] += special > 0.03 and is_past_header(kind, data, original)
    finally:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        path.write_bytes(original)


def fuzz(folder: Path, count: int, seed: int) -> Counter:
    """Run `count` cases, the files in turn. Returns {(file, outcome): cases}; raises AssertionError with the number of
    the first case that fails."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        sets, counts = Sets(folder), Counter()
        for number in range(count):
            kind = FILES[number % len(FILES)]
            rng = np.random.default_rng([seed, number])
            try:
                run_case(sets, kind, rng, counts, full=number % 50 < len(FILES))
            except Exception as error:
                name = type(error).__name__
                raise AssertionError(f"case {number} of seed {seed}, {kind}: {name}: {error}") from error
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1000, help="number of cases")
    parser.add_argument("--seed", type=int, default=0, help="of the mutations")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="ferc-fuzz-"))
    try:
        counts = fuzz(folder, args.count, args.seed)
    finally:
        shutil.rmtree(folder)
    print(f"{'file':20}{'cases':>8}{'refused':>10}{'unharmed':>10}{'past the header':>17}{'read without hashes':>21}")
    for kind in FILES:
        outcomes = ("refused", "opened unharmed", "past the header", "read without hashes")
        refused, unharmed, past, unchecked = (counts[kind, outcome] for outcome in outcomes)
        print(f"{kind:20}{refused + unharmed:8}{refused:10}{unharmed:10}{past:17}{unchecked:21}")


if __name__ == "__main__":
    main()
