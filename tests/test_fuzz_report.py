"""The fuzz of reports with few cases; `python tests/fuzz_report.py --count 1000` runs more."""
import pytest

from fuzz_report import fuzz


@pytest.mark.slow
@pytest.mark.parametrize("count", [4, 60])
def test_mutated_runs_are_named_and_sound_ones_stay(tmp_path, count):
    counts, failures = fuzz(tmp_path, count, 0)
    assert failures == []
    assert sum(number for (_, outcome), number in counts.items() if outcome == "counted") >= count / 4
