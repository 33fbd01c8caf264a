"""The fuzz of reports with few cases; `python tests/fuzz_report.py --count 1000` runs more."""
from fuzz_report import fuzz


def test_mutated_runs_are_named_and_sound_ones_stay(tmp_path):
    counts, failures = fuzz(tmp_path, 60, 0)
    assert failures == []
    assert sum(number for (_, outcome), number in counts.items() if outcome == "counted") > 20
