"""The data sets by name, for run.sh, which may not have any package yet: reads the tables of `datasets/__init__.py` as
text.

  python3 support/sets.py       one line a data set: name <TAB> title <TAB> the set whose mixture labels it, or nothing
"""
import ast
from pathlib import Path

TABLES = ("DATASETS", "TITLES", "GMM_FROM")


def read_tables(path: Path) -> dict[str, dict[str, str]]:
    """Name of a table -> what it holds, for the `TABLES` that a Python file assigns."""
    tables = {}
    for statement in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.Assign) and getattr(statement.targets[0], "id", None) in TABLES:
            tables[statement.targets[0].id] = ast.literal_eval(statement.value)
    return tables


if __name__ == "__main__":
    known = read_tables(Path(__file__).resolve().parent.parent / "datasets" / "__init__.py")
    for name in known["DATASETS"]:
        print(name, known["TITLES"][name], known["GMM_FROM"].get(name, ""), sep="\t")
