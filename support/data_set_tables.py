"""The data sets by name, for run.sh, which runs before any package is installed.

The tables are in `datasets/__init__.py`. This file reads them as text and imports nothing of the project, so that it
works with any Python. A new data set then needs no edit in bash.

  python3 support/data_set_tables.py
      one line for each data set: name <TAB> title <TAB> the set whose mixture labels it, or nothing
"""
import ast
from pathlib import Path

TABLES = ("DATASETS", "TITLES", "GMM_FROM")


def read_tables(path: Path) -> dict[str, dict[str, str]]:
    """{name of a table: its rows} of those `TABLES` that a Python file assigns as a literal."""
    tables = {}
    for statement in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            name = statement.targets[0].id
            if name in TABLES:
                tables[name] = ast.literal_eval(statement.value)
    return tables


def print_tables() -> None:
    """Print one line for each data set, as the docstring of this file describes."""
    tables = read_tables(Path(__file__).resolve().parent.parent / "datasets" / "__init__.py")
    for name in tables["DATASETS"]:
        print(name, tables["TITLES"][name], tables["GMM_FROM"].get(name, ""), sep="\t")


if __name__ == "__main__":
    print_tables()
