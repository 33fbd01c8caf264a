"""Checks, before the first image is made, that the finished set can be written where --out says.

A set grows in `<out>.partial` and is renamed to `<out>` when it is complete. So `<out>` has to be absent or an empty
folder that can be replaced, and the folder above it has to be writable.
"""
import os
import tempfile
from pathlib import Path

from building.layout import partial_folder
from support.errors import UserError, first_line


def resolve_out(out: Path) -> Path:
    """--out as a folder that a finished set can be renamed to: a link is followed, and `.` becomes the name of the
    folder. Raises UserError where the path cannot be resolved."""
    try:
        if out.is_symlink():
            target = out.resolve()
            print(f"--out {out} is a link to {target}: the set goes there")
            return target
        if out.name in ("", ".."):
            return out.resolve()
        return out
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"--out {out}: {first_line(error)}; choose another --out") from None


def check_destination(out: Path, goal: Path) -> None:
    """Raises UserError where a set or a shard could not take its place in the end.

    out: the folder of the set; goal: the folder that is built, `out` itself or a shard's.
    """
    work = partial_folder(goal)
    try:
        _check_goal(out, may_be_shard=False)
        if goal != out:
            _check_goal(goal, may_be_shard=True)
        _check_work_folder(work)
        _check_writable(out, work)
    except OSError as error:
        raise UserError(f"cannot write {work}: {error.strerror}; choose another --out") from None


def _check_goal(folder: Path, may_be_shard: bool) -> None:
    """Raises UserError unless the folder is absent, empty or, where it may be one, a finished shard."""
    if folder.is_symlink():
        raise UserError(f"{folder} is a link; remove it or choose another --out")
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UserError(f"{folder} is a file; the set needs a folder")
    if os.path.ismount(folder):
        raise UserError(f"{folder} is a mount point, which a finished set cannot replace; give a folder inside it, for "
                        f"example --out {folder / 'FER-C'}")
    if Path.cwd().is_relative_to(folder.resolve()):
        raise UserError(f"{folder} is the current folder or contains it, so a finished set cannot replace it; give a "
                        f"folder inside it, for example --out {folder / 'FER-C'}")
    is_finished_shard = may_be_shard and (folder / "build.json").exists()
    if any(folder.iterdir()) and not is_finished_shard:
        raise UserError(f"{folder} exists and is no FER-C set (no manifest.json); choose another --out")


def _check_work_folder(work: Path) -> None:
    """Raises UserError where the folder of the unfinished set is something else than a folder of its own."""
    if work.is_symlink() or (work.exists() and not work.is_dir()):
        raise UserError(f"{work}, where the set grows, is a file or a link; move it away or choose another --out")
    if os.path.ismount(work):
        raise UserError(f"{work}, where the set grows, is a mount point; choose another --out")


def _check_writable(out: Path, work: Path) -> None:
    """Try, with an empty folder, the rename that ends a build. Raises OSError where it fails, UserError where a part of
    the path is a file."""
    parent = work
    if not work.exists():
        parent = next(folder for folder in work.absolute().parents if folder.exists())
    if not parent.is_dir():
        raise UserError(f"--out {out} lies below {parent}, which is a file; choose another --out")
    with tempfile.TemporaryDirectory(prefix=".ferc-", dir=parent) as trial:
        (Path(trial) / "before").mkdir()
        (Path(trial) / "before").rename(Path(trial) / "after")
    (work / "set").exists()  # raises OSError where a name is too long
