"""Errors that a user can fix, and how an error is written in one line.

Every floor raises `UserError`; `cli.run` prints it as one line without a traceback and ends with exit code 2. It does
the same for an error of the file system (OSError). Ctrl-C prints one line and ends with 130; a closed pipe ends with 1
and prints nothing. Every other exception is a bug and keeps its traceback.
"""
import errno


class UserError(Exception):
    """Something that the user has to fix. The message says in one or two lines what is wrong, where, and what to do."""


class DamagedFile(UserError, ValueError):
    """A file that the project wrote and that no longer holds what was written. The message names the file."""


def first_line(error: BaseException) -> str:
    """The first line of an exception's message that is not empty, or else the name of its class."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def spell_os_error(error: OSError) -> str:
    """An error of the file system for the user: the file, the reason, and for a full disk what to do about it."""
    text = f"{error.filename or 'a file'}: {error.strerror or error}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        text += "; free some space and start the same command again"
    return text
