"""The map at the end of CONTRIBUTING.md: the first sentence of the docstring of every Python file of the root and of
the floors.

  python tests/house_map.py        writes the map again; a test compares it with the files (tests/test_docs.py)
"""
import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "CONTRIBUTING.md"
HEADING = "\n## Map\n"
MATHEMATICS = (
    "corruptions.py", "losses.py", "metrics.py", "open_set.py", "perturbations.py", "soft_labels.py")
FLOORS = (
    "reporting", "sweeping", "training", "training/open_set", "evaluation", "evaluation/source_kinds", "models",
    "compute", "building",
    "datasets", "datasets/drawn", "support")
SENTENCE_END = re.compile(r"(?<=[\w`)>])\.(?= [A-Z`(])|\.$|: *$")


def first_sentence(path: Path) -> str:
    """The first sentence of a file's docstring, without its full stop, fit for a cell of a Markdown table."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    paragraph = " ".join(docstring.split("\n\n")[0].split())
    end = SENTENCE_END.search(paragraph)
    sentence = paragraph[:end.start()] if end else paragraph
    return sentence.replace("|", "\\|")


def table(heading: str, paths: list[Path]) -> list[str]:
    lines = ["", f"### {heading}", "", "| file | what it is for |", "|---|---|"]
    return lines + [f"| `{path.relative_to(ROOT)}` | {first_sentence(path)} |" for path in paths]


def house_map() -> str:
    """The tables of the map, as they stand below its heading."""
    at_the_root = sorted(ROOT.glob("*.py"))
    mathematics = [path for path in at_the_root if path.name in MATHEMATICS]
    lines = table("Commands", [path for path in at_the_root if path not in mathematics])
    lines += table("Mathematics", mathematics)
    for floor in FLOORS:
        lines += table(f"`{floor}/`", sorted(path for path in (ROOT / floor).glob("*.py")))
    return "\n".join(lines) + "\n"


def main() -> None:
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(text.partition(HEADING)[0] + HEADING + house_map(), encoding="utf-8")


if __name__ == "__main__":
    main()
