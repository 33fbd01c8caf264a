"""Mutate the files of a small folder of runs and report on it: nothing but errors for people, and nothing else lost.

  python tests/fuzz_report.py --count 1000 --seed 0

Of three runs one is mutated in one place: args.json, scores.csv, metrics.csv, environment.json, a file of its
predictions, or a table of the built set that they are of. A case fails where anything but a `UserError` is raised,
where the numbers of the two sound runs change, or where a run that no longer counts is not named.
"""
import contextlib
import io
import json
import os
import shutil
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import metrics  # noqa: E402
import report  # noqa: E402
from benchmarks.report import build_set, make_run  # noqa: E402
from reporting import page_samples  # noqa: E402
from support import cli  # noqa: E402
from support.errors import UserError, first_line  # noqa: E402
from support.random_streams import keyed_rng  # noqa: E402

VALUES = (None, True, -1, 0, 1.5, 10**30, 1e308, float("nan"), float("inf"), "", "x", "../..", "\ud800", "<b>",
          "a" * 5000, [], [[]], {}, {"x": []}, ["a", "a"], "32-true", "bf16", "nan", "-0", "1e309", "0x1", "١")
OF_RUN = ("args.json", "args.json", "scores.csv", "scores.csv", "metrics.csv", "environment.json", "set.json",
          "labels.npy", "clean.npy", "snow/3.npy")
OF_SET = ("manifest.json", "labels.csv", "soft_labels.npy", "checksums.sha256", "visibility.npy")


@dataclass
class Args:
    count: int = 1000
    """cases"""
    seed: int = 0
    """of the mutations"""


def main(args: Args) -> int:
    with tempfile.TemporaryDirectory() as folder:
        counts, failures = fuzz(Path(folder), args.count, args.seed)
    for (file, outcome), number in sorted(counts.items()):
        print(f"{file:18} {outcome:10} {number}")
    read = sum(number for (_, outcome), number in counts.items() if outcome != "named")
    print(f"{args.count} cases, seed {args.seed}: {read} counted in spite of the mutation, {len(failures)} failed")
    print("\n".join(failures[:20]))
    return 1 if failures else 0


def fuzz(folder: Path, count: int, seed: int) -> tuple[Counter, list[str]]:
    """({(file, outcome): number of cases}, failures). Outcomes: named (the run, or what is wrong with it, stands at the
    report's end), counted (its numbers are in the tables)."""
    built = build_set(folder, "Demo-C", 8, 32)
    for script, loss in (("baseline", "ce"), ("baseline", "maxent+mbls"), ("SCN", "ce")):
        make_run(folder / "runs", built, script, loss, 0)
    with contextlib.ExitStack() as stack:
        for module, name, value in ((metrics, "ece_floor", lambda *_, **__: 0.1), (os, "fsync", lambda *_: None),
                                    (page_samples, "picture", lambda *_: "data:,")):
            stack.callback(setattr, module, name, getattr(module, name))
            setattr(module, name, value)
        sound = table_of(folder / "runs")[0]
        counts, failures = Counter(), []
        for case in range(count):
            file, problem, outcome = one_case(folder, keyed_rng("fuzz report", seed, case), sound)
            counts[file, outcome] += 1
            if problem:
                failures.append(f"case {case}, {file}: {problem}")
    return counts, failures


def one_case(folder: Path, rng: np.random.Generator, sound: set[str]) -> tuple[str, str, str]:
    """(file, what is wrong or "", outcome) of one mutation, in a copy that is removed again."""
    work = folder / "case"
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(folder / "runs", work / "runs", copy_function=os.link, ignore=shutil.ignore_patterns("report"))
    shutil.copytree(folder / "Demo-C", work / "Demo-C", copy_function=os.link)
    for path in work.glob("runs/**/set.json"):
        replace(path, path.read_text().replace(str(folder / "Demo-C"), str(work / "Demo-C")).encode())
    (run,) = (path.parent for path in work.glob("runs/demo/SCN/**/args.json"))
    file = str(rng.choice([*OF_RUN, *OF_SET[:2 + int(rng.integers(4))]]))
    inner = "" if file in ("args.json", "scores.csv", "metrics.csv", "environment.json") else "predictions/Demo-C/"
    path = work / "Demo-C" / file if file in OF_SET else run / (inner + file)
    mutate(path, rng)
    try:
        table, text = table_of(work / "runs", with_page=rng.random() < 0.3)
    except UserError as error:
        return file, f"stopped: {error}", "named"
    except Exception as error:  # what this script looks for
        return file, f"{type(error).__name__}: {first_line(error)}", "named"
    baseline = {line for line in sound if ",baseline," in line}
    if not baseline <= table:
        return file, "the numbers of sound runs changed", "named"
    counted = any(",SCN," in line for line in table)
    named = str(run) in text or "Demo-C" in text.partition("Missing:")[2]
    return file, "" if counted or named else "lost without a word", "counted" if counted else "named"


def table_of(runs: Path, with_page: bool = True) -> tuple[set[str], str]:
    """The lines of means.csv, and what the report printed. With bootstrap, without figures."""
    page_file = runs / "page.html"
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()):
        report.main(report.Args(runs, resamples=3, figures="none", html=page_file if with_page else None))
    page_file.unlink(missing_ok=True)
    return set((runs / "report" / "means.csv").read_text().splitlines()), out.getvalue()


def replace(path: Path, data: bytes) -> None:
    """Write a file that may share its bytes with others."""
    path.unlink()
    path.write_bytes(data)


def mutate(path: Path, rng: np.random.Generator) -> None:
    """Change a file in a way that fits its kind, or any file's."""
    kinds = {".json": mutate_json, ".csv": mutate_csv, ".npy": mutate_npy}
    if path.suffix in kinds and rng.random() < 0.7:
        kinds[path.suffix](path, rng)
    else:
        mutate_bytes(path, rng)


def mutate_bytes(path: Path, rng: np.random.Generator) -> None:
    data, kind = bytearray(path.read_bytes()), rng.integers(9)
    at = int(rng.integers(len(data)))
    if kind == 0:
        replace(path, bytes(data[:at]))
    elif kind == 1:
        replace(path, rng.bytes(200))
    elif kind == 2:
        replace(path, b"")
    elif kind == 3:
        data[at] = int(rng.integers(256))
        replace(path, bytes(data))
    elif kind == 4:
        replace(path, bytes(data[:at]) + rng.bytes(5) + bytes(data[at:]))
    else:
        path.unlink()
        if kind == 5:
            path.mkdir()
        elif kind == 6:
            os.mkfifo(path)
        elif kind == 7:
            path.symlink_to(path.name)


def mutate_json(path: Path, rng: np.random.Generator) -> None:
    value = json.loads(path.read_text())
    target = value
    while rng.random() < 0.3:
        inner = [entry for entry in target.values() if isinstance(entry, dict) and entry]
        if not inner:
            break
        target = inner[int(rng.integers(len(inner)))]
    key, kind = str(rng.choice(list(target))), rng.integers(8)
    if kind == 0:
        del target[key]
    else:
        target[key] = VALUES[int(rng.integers(len(VALUES)))]
    text = json.dumps(value)
    if kind == 1:
        depth = int(rng.choice([500, 5000, 100_000]))
        text = text[:-1] + ', "deep": ' + "[" * depth + "]" * depth + "}"
    replace(path, text.encode())


def mutate_csv(path: Path, rng: np.random.Generator) -> None:
    lines = path.read_text().splitlines()
    row, kind = int(rng.integers(len(lines))), rng.integers(5)
    if kind == 0:
        del lines[row]
    elif kind == 1:
        lines.insert(row, lines[row])
    else:
        fields = lines[row].split(",")
        value = str(VALUES[int(rng.integers(len(VALUES)))])
        column = int(rng.integers(len(fields)))
        fields[column] = value
        lines[row] = ",".join(fields)
        if kind == 2:
            lines = [lines[0], *(",".join([*line.split(",")[:column], value, *line.split(",")[column + 1:]])
                                 for line in lines[1:])]
    replace(path, "\n".join([*lines, ""]).encode(errors="surrogatepass"))


def mutate_npy(path: Path, rng: np.random.Generator) -> None:
    values, kind = np.load(path), rng.integers(7)
    if kind == 0:
        values = values.astype(rng.choice(["<f8", "<i2", "<c8", "S3", "?"]))
    elif kind == 1:
        values = np.full(values.shape, rng.choice([np.nan, np.inf, -1, 1e30])).astype(values.dtype)
    elif kind == 2:
        values = values[..., :-1]
    elif kind == 3:
        values = values[:0]
    elif kind == 4:
        replace(path, path.read_bytes().replace(b"(", b"(99999999999, ", 1))
        return
    elif kind == 5:
        values = np.array([{}, None], object)
    else:
        flat = values.reshape(-1).copy()
        flat[int(rng.integers(len(flat)))] = 99
        values = flat.reshape(values.shape)
    out = io.BytesIO()
    np.save(out, values, allow_pickle=True)
    replace(path, out.getvalue())


if __name__ == "__main__":
    cli.run(main, Args)
