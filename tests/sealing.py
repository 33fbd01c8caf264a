"""Seal a built set again after a change, as one who knows the format would: for tests of what hashes cannot tell."""
import json
from collections.abc import Callable
from pathlib import Path

from building.checksums import content_hash, line_name, read_lines
from building.integrity import sha256
from building.layout import TABLES
from building.manifest import set_version


def reseal(folder: Path, change: Callable[[dict], object] | None = None) -> None:
    """Call `change(manifest)`, then write the set version, the content hash and the checksums that fit the manifest and
    the tables as they are now; a table that is gone is listed no more. A set version that `change` sets stays. Files
    are replaced, not written to, so that a copy made of hard links is a copy."""
    manifest = json.loads((folder / "manifest.json").read_text())
    before = manifest["set_version"]
    if change:
        change(manifest)
    if manifest["set_version"] == before:
        manifest["set_version"] = set_version(manifest["made_with"])
    gone = {name for name in TABLES if not (folder / name).exists()}
    lines = [(sha256((folder / name).read_bytes()) if name in TABLES else value, name)
             for value, name in read_lines(folder) if name != "manifest.json" and name not in gone]
    manifest["content"] = content_hash(lines)
    text = json.dumps(manifest, indent=1, sort_keys=True) + "\n"
    lines = sorted([*lines, (sha256(text.encode()), "manifest.json")], key=line_name)
    if (folder / "images.sha256").exists():
        lines = [line for line in lines if not line[1].startswith("images/")]
    for name, content in (("manifest.json", text), ("checksums.sha256", "".join(f"{a}  {b}\n" for a, b in lines))):
        (folder / name).unlink()
        (folder / name).write_text(content)
