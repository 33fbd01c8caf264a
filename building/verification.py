"""--verify: hash every file of a finished set again."""
import itertools
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from tqdm import tqdm

from building.built_set import open_built_set
from building.checksums import Line, content_hash, line_name, read_lines
from building.integrity import read_regular, sha256
from building.layout import image_folders
from building.manifest import read_manifest
from building.options import rebuild_command
from support.errors import DamagedFile, UserError

NAMED_FILES = 50  # more files that are not as built are counted and not named


def verify(folder: Path, workers: int) -> None:
    """Hash every file of a set again, in `workers` threads. Prints what is missing, changed or extra; raises UserError
    if anything is, or where tables and manifest do not fit each other."""
    manifest = read_manifest(folder)
    without_images = not (folder / "images").exists() and (folder / "images.sha256").exists()
    total = manifest["made_with"]["images"] * (1 if without_images else len(image_folders(manifest["made_with"])))

    faults: list[tuple[str, str]] = []  # (what is wrong, name of the file)
    listed_names = {"checksums.sha256"}
    with ThreadPoolExecutor(workers) as pool, tqdm(total=total, unit=" files", disable=None, desc="verify") as bar:
        for parent, lines_of_folder in itertools.groupby(read_lines(folder), key=_parent):
            if without_images and parent.startswith("images/"):
                continue
            lines = list(lines_of_folder)
            for line, fault in zip(lines, pool.map(partial(file_fault, folder), lines), strict=True):
                if fault is not None:
                    faults.append((fault, line_name(line)))
            listed_names.update(map(line_name, lines))
            bar.update(len(lines))
    present_names = {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}
    faults += [("extra", name) for name in sorted(present_names - listed_names)]
    if content_hash(read_lines(folder)) != manifest["content"]:
        faults.append(("changed", "checksums.sha256 (does not give the manifest's content hash)"))

    for fault, name in faults[:NAMED_FILES]:
        print(f"{fault}: {name}")
    if faults:
        raise UserError(f"{folder}: {len(faults)} files are not as built. Restore what is missing or changed from "
                        f"another copy and move away what is extra, or remove the folder and build it again: "
                        f"{rebuild_command(folder, manifest['made_with'])}")
    open_built_set(folder)
    print(f"{folder}: {len(listed_names) - 1} files as built, set version {manifest['set_version'][:12]}")


def _parent(line: Line) -> str:
    """The folder of a file in a line of checksums."""
    return line_name(line).rpartition("/")[0]


def file_fault(folder: Path, line: Line) -> str | None:
    """"missing" or "changed", None for a file with the hash in its line."""
    expected, name = line
    try:
        actual = sha256(read_regular(folder / name))
    except DamagedFile:
        return "changed"
    except OSError:
        return "missing"
    return None if actual == expected else "changed"
