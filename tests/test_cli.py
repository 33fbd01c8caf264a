"""The layout of a help page: lists, examples with their remarks, and the usage line."""
import re
import shlex
import sys
from dataclasses import dataclass
from typing import Annotated

import pytest
import tyro

import sweep
from support import cli

LIST = """What the script does.

A job has two columns:
- id: letters, digits and any of ._+/-, and this item is so long that it does not fit into a single line
  of a page with eighty columns.
- command: words.
What follows the list.
"""
EXAMPLES = """What the script does.

  python script.py --dataset demo             needs no data
  python script.py --brief # prints ten lines
  python script.py --resamples 1000 --heatmap accuracy,ece --corruption zoom_blur --html page.html   a long one
  python script.py --all                      takes a while, and what it does needs more than one line:
                                              this one
  python script.py
"""


def test_an_item_of_a_list_begins_a_line_and_its_further_lines_are_indented():
    page = cli.description_lines(LIST, everything=True)
    start = page.index("A job has two columns:")
    assert page[start + 1].startswith("- id: letters") and page[start + 2].startswith("  ")
    assert page[start + 3:] == ["- command: words.", "What follows the list."]
    assert max(map(len, page)) < 80
    assert cli.description_lines(LIST, everything=False) == ["What the script does."]


@pytest.mark.parametrize("everything", [False, True])
def test_remarks_on_examples_are_comments_for_a_shell(everything):
    page = cli.description_lines(EXAMPLES, everything)
    assert max(map(len, page)) < 80
    assert page[:2] == ["What the script does.", ""]  # the examples stand apart
    assert "  python script.py --dataset demo   # needs no data" in page
    assert "  python script.py --brief   # prints ten lines" in page
    assert page[-1] == "  python script.py"
    joined = "\n".join(page[2:]).replace("\\\n", " ")
    commands = [shlex.split(line, comments=True) for line in joined.splitlines()]
    written = [re.split(r"\s{2,}| # ", line.strip())[0].split() for line in EXAMPLES.splitlines()[2:]]
    written.pop(4)  # the second line of a remark
    assert [command for command in commands if command] == written


@dataclass
class Sorted:
    first: tyro.conf.Positional[str]
    """what is sorted"""
    more: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """what else is sorted"""


def test_the_usage_line_is_the_one_that_a_script_states(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["sorting.py"])
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    options = cli.declared_options(Sorted)
    assert cli.usage(Sorted, options) == ["usage: python sorting.py FIRST [MORE] [options]"]
    monkeypatch.setattr(sys.modules[__name__], "USAGE", ("[options] < LINES", "--sorted FIRST"), raising=False)
    assert cli.usage(Sorted, options) == [
        "usage: python sorting.py [options] < LINES", "       python sorting.py --sorted FIRST"]


def test_the_help_of_the_sweep_shows_both_of_its_commands_and_its_list(monkeypatch, capsys):
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    monkeypatch.setattr(sys, "argv", ["sweep.py"])
    with pytest.raises(SystemExit):
        cli.parse(sweep.Args, argv=["--help"])
    page = capsys.readouterr().out.splitlines()
    assert page[:2] == ["usage: python sweep.py [options] < JOBS", "       python sweep.py --folder-of COMMAND"]
    items = [line.split(":")[0] for line in page if line.startswith("- ")]
    assert items[:3] == ["- id", "- ids it comes after", "- command"]
    assert "  python sweep.py --jobs 2 < jobs.tsv   # any other list of jobs" in page
