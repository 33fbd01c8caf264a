"""One HTML file of a report: scores, corruption explorer, reliability, settings, downloads. It needs no network.

The folder page/ holds the template, its style and script, and the libraries they use; page_data.py gathers the data,
page_samples.py the sample images; this module puts all into one file. Text from files of others enters the page only as
JSON, in which no character can end the element that holds it.
"""
import base64
import hashlib
import html
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from reporting.comparison import Comparison
from reporting.notes import Note
from reporting.page_data import gather
from reporting.page_samples import Samples
from reporting.predictions import PredictionSummary
from reporting.rows import Block
from reporting.runs import Run
from reporting.stability import SequenceReport
from support.errors import UserError
from support.files import write_text

PARTS = Path(__file__).parent / "page"
SCRIPTS = ("vendor/tabulator.min.js", "vendor/chart.umd.min.js", "page.js")
STYLES = ("vendor/tabulator_simple.min.css", "page.css")


def write_page(path: Path, runs: Sequence[Run], scores: pd.DataFrame, summaries: Mapping[Block, PredictionSummary],
               missing: Sequence[Note], tables: Iterable[Path], samples: Mapping[Block, Samples],
               comparison: Comparison, of_sequences: SequenceReport, open_set_html: str = "") -> int:
    """Write the page of a report to `path`; the other arguments are those of `page_data.gather`, and the section about
    open-set runs as HTML. Returns its bytes."""
    text = render(gather(runs, scores, summaries, missing, tables, samples, comparison, of_sequences),
                  open_set_html)
    write_text(path, text)
    return len(text.encode())


def check_path(path: Path) -> None:
    """Raises UserError where no page can be written, before anything is read."""
    if path.suffix.lower() not in (".html", ".htm") or path.is_dir():
        raise UserError(f"--html {path}: give the name of a file that ends in .html")
    if path.exists() and not path.is_file():
        raise UserError(f"--html {path} is no regular file; give another name")


def render(data: dict[str, Any], open_set_html: str = "") -> str:
    """The page as text. Its policy lets only its own scripts run, by their hashes, and lets nothing be fetched.

    open_set_html: the section about open-set runs, HTML whose texts are escaped."""
    scripts = [read_part(name) for name in SCRIPTS]
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    sources = " ".join(f"'sha256-{value}'" for value in hashes)
    licences = [f"{path.stem}:\n{path.read_text(encoding='utf-8')}" for path in PARTS.glob("vendor/*.LICENSE")]
    parts = {
        "policy": "default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:; "
                  f"style-src 'unsafe-inline'; script-src {sources}",
        "style": "".join(read_part(name) for name in STYLES),
        "licences": html.escape("\n".join(licences)),
        "data": to_json(data),
        "open_set": open_set_html,
        "open_set_link": '<a href="#open-set">Open-set</a>' if open_set_html else "",
        "scripts": "\n".join(f"<script>{script}</script>" for script in scripts),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], read_part("template.html"))


def read_part(name: str) -> str:
    """A file of page/ as it goes into the page: without the comment that makes a browser look for its source."""
    return re.sub(r"(//|/\*)# sourceMappingURL=.*", "", (PARTS / name).read_text(encoding="utf-8")).strip()


def to_json(data: Any) -> str:
    """JSON that cannot end the element that holds it, open a comment, or break a line of script."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return re.sub("[<>&\u2028\u2029\ud800-\udfff]", lambda match: f"\\u{ord(match[0]):04x}", text)
