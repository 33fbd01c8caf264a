"""Packages that only a part of the project needs: requirements-optional.txt names them, each with its version.

`require_packages` is called before such a package is imported, so that a missing one ends in a line that says how to
get it.
"""
import importlib.util
import re
from pathlib import Path

from support.errors import UserError

REQUIREMENTS = Path(__file__).parent.parent / "requirements-optional.txt"


def require_packages(owner: str, *packages: str) -> None:
    """Raises UserError where one of the packages is not installed, with the command that installs what is missing.

    owner: what needs them, as the message begins: a file, an option. packages: as requirements-optional.txt writes
    them."""
    missing = [package for package in packages if not is_installed(package)]
    if missing:
        raise UserError(f"{owner} needs {' and '.join(missing)}: pip install {' '.join(map(pinned, missing))}")


def is_installed(package: str) -> bool:
    """Whether Python can import a package, which is not imported for that. package: its name for pip."""
    try:
        return importlib.util.find_spec(package.replace("-", "_").lower()) is not None
    except (ImportError, ValueError):
        return False


def pinned(package: str) -> str:
    """A package with the version that requirements-optional.txt asks for, as pip takes it: onnx==1.2.3. The name alone
    where the file does not name it."""
    for line in REQUIREMENTS.read_text(encoding="utf-8").splitlines():
        match = re.match(r"([A-Za-z0-9._-]+)==[^\s;#]+", line)
        if match and match[1].lower() == package.lower():
            return match[0]
    return package
