"""The official layouts of the other data sets, filled with drawn faces.

affectnet.py, affwild.py, ferplus.py, folders.py and rafdb.py each write one or two layouts, in exactly the form of the
release, with the irregular rows, names and files that it is known for. `write_layout` is the one way in;
`python -m datasets.demo --layout` and the tests of the parsers use it. Pictures are written without `write_whole` of
`support.files`: `write_layout` gives the writers a temporary folder, whose content it moves when everything is written.
"""
import tempfile
from collections.abc import Callable
from pathlib import Path

from datasets.drawn import affectnet, affwild, ferplus, folders, rafdb
from datasets.drawn.faces import Faces, faces
from datasets.split import printable
from support.errors import UserError

# Name -> the function that writes drawn faces into a folder in this layout.
LAYOUTS: dict[str, Callable[[Path, Faces], None]] = {
    "affectnet-old": affectnet.write_old, "affectnet-2021": affectnet.write_2021, "affwild2": affwild.write_layout,
    "rafdb": rafdb.write_basic, "raf-ml": rafdb.write_ml, "ferplus": ferplus.write_layout,
    "folders": folders.write_layout,
}
# RAF-DB is two releases: one may be written into the folder of the other. Layout -> what may be in the folder already.
COMPATIBLE = {"rafdb": {"RAF-ML"}, "raf-ml": {"basic"}}


def write_layout(layout: str, out: Path) -> None:
    """Write drawn faces into the folder `out`, all files or none. Files that are in it are never touched.

    layout: a key of `LAYOUTS`. Raises UserError on an unknown layout, and on a folder that holds something else or
    cannot be written.
    """
    if layout not in LAYOUTS:
        raise UserError(f"unknown layout {layout!r}; known: {', '.join(LAYOUTS)}")
    is_new = not out.exists()
    if not is_new:
        _refuse_used_folder(out, layout)
    try:
        out.mkdir(parents=True, exist_ok=True)
        # The temporary folder is inside `out`, so that `out` may be a link, a mount point or the current folder.
        with tempfile.TemporaryDirectory(prefix=".layout-", dir=out) as temporary:
            LAYOUTS[layout](Path(temporary), faces)
            for entry in sorted(Path(temporary).iterdir()):
                entry.rename(out / entry.name)
    except OSError as error:
        if is_new and out.is_dir() and not any(out.iterdir()):
            out.rmdir()
        raise UserError(f"cannot write {out}: {error.strerror or error}") from None


def _refuse_used_folder(out: Path, layout: str) -> None:
    """Raises UserError where `out` is a file or holds something that the layout may not be mixed with."""
    if not out.is_dir():
        raise UserError(f"--out {out} is a file; give a new folder")
    try:
        others = sorted({path.name for path in out.iterdir()} - COMPATIBLE.get(layout, set()))
    except OSError as error:
        raise UserError(f"cannot read {out}: {error.strerror}") from None
    if others:
        names = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
        raise UserError(f"{out} is not empty (it holds {printable(names)}); give a new folder")
