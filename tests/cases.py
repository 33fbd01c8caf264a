"""Cases of a test of which the fast suite takes a part, and copies of runs that cost little."""
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest


def mostly_slow(cases: Iterable[Any], fast: Sequence[int]) -> list:
    """The cases for `pytest.mark.parametrize`: those at the positions `fast` as they are, the others marked slow."""
    cases = list(cases)
    assert all(position < len(cases) for position in fast)
    marked = []
    for position, case in enumerate(cases):
        if position in fast:
            marked.append(case)
        else:
            values = case if isinstance(case, tuple) else (case,)
            marked.append(pytest.param(*values, marks=pytest.mark.slow))
    return marked


def copy_runs(runs: Path, target: Path) -> Path:
    """A copy of a folder of runs, without its report, to be changed. Returns `target`.

    The logits of single cells (predictions/<set>/<corruption>/<severity>.npy) are links to those of `runs`, which saves
    hundreds of files: a test that changes one has to delete it first."""
    def copy(source: str, copied: str) -> None:
        is_cell = Path(source).name[:-len(".npy")].isdigit()
        (os.link if is_cell else shutil.copy2)(source, copied)

    shutil.copytree(runs, target, ignore=shutil.ignore_patterns("report"), copy_function=copy)
    return target
