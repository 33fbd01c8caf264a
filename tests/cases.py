"""Cases of a test of which the fast suite takes a part."""
from collections.abc import Iterable, Sequence
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
