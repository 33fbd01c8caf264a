"""The numbers of the tables as CSV files: fractions and nats in full precision, to go on with in other programs."""
from collections.abc import Iterable, Mapping
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from metrics import METRICS
from reporting.captions import realised_noise
from reporting.notes import plain
from reporting.rows import Row, Setup
from reporting.runs import Run
from reporting.scores import Key, Statistic
from support.files import write_text

COLUMNS = ["dataset", "protocol", "image_size", "set", "set_version", "algorithm", "loss", "noise", "noise_realised",
           "domain", "metric", "mean", "sd", "seeds", "n", "settings", "precision", "notes"]


def write(path: Path, keys: Iterable[Key], numbers: Mapping[Key, Statistic], runs: Iterable[Run],
          printed: Mapping[Key, float] | None = None) -> None:
    """Write the numbers of `keys` that there are, a line each.

    printed: the paper's values in percent or nats, which fill the columns `published` and `difference`; None: neither
    column."""
    noise_of_row: dict[tuple[Setup, Row], list[float]] = {}
    for run in runs:
        noise_of_row.setdefault((run.setup, run.row), []).append(realised_noise(run))
    lines = []
    for key in dict.fromkeys(keys):
        if key in numbers:
            line = line_of(key, numbers[key])
            line["noise_realised"] = np.mean(noise_of_row[key.block.setup, key.row])
            if printed is not None:
                unit = 100 if METRICS[key.metric].percent else 1
                line["published"] = printed.get(key, nan) / unit
                line["difference"] = numbers[key].mean - line["published"]
            lines.append(line)
    columns = COLUMNS if printed is None else [*COLUMNS, "published", "difference"]
    write_frame(path, lines, columns)


def line_of(key: Key, number: Statistic) -> dict[str, Any]:
    """One number with all that it is of, by the names of columns."""
    line = key.block._asdict() | key.row._asdict()
    line |= {"settings": key.row.all_settings, "domain": key.domain, "metric": key.metric}
    return line | number._asdict()


def write_frame(path: Path, lines: list[dict[str, Any]], columns: list[str]) -> None:
    """Write dicts as CSV, these columns of them; only the header where there are none. Texts are made safe."""
    safe = [{name: csv_safe(value) if isinstance(value, str) else value for name, value in line.items()}
            for line in lines]
    write_text(path, pd.DataFrame(safe, columns=columns).to_csv(index=False, lineterminator="\n"))


def csv_safe(text: str) -> str:
    """A text of others for a CSV file. A spreadsheet would compute one that begins like a formula: it gets a quote."""
    line = plain(text)
    return f"'{line}" if line[:1] in ("=", "+", "-", "@") else line
