"""Versions of the software, as the manifest of a built set and the environment.json of a run store them."""
import importlib.metadata
import platform


def versions(*packages: str) -> dict[str, str]:
    """{"python": its version, package: its version, ...} of installed packages, by their names on the package index.
    Raises importlib.metadata.PackageNotFoundError where one is not installed."""
    numbers = {"python": platform.python_version()}
    for package in packages:
        numbers[package] = importlib.metadata.version(package)
    return numbers
