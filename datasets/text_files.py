"""Text files whose encoding and line ends are not known: label files that were released or saved again by anybody."""
import csv
import io
from pathlib import Path

from support.errors import UserError


def read_text(path: Path) -> str:
    """The text of a file.

    UTF-8 with or without a byte order mark and UTF-16 with one are read. Bytes that are neither become U+FFFD, and NUL
    characters are left out. Raises UserError where the file cannot be read or is no regular file (opening a named pipe
    would wait for ever).
    """
    try:
        if not path.exists():
            raise UserError(f"{path}: no such file")
        if not path.is_file():
            raise UserError(f"{path} is no regular file")
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    is_utf_16 = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    return data.decode("utf-16" if is_utf_16 else "utf-8-sig", "replace").replace("\0", "")


def read_table(path: Path) -> list[tuple[int, list[str]]]:
    """The rows of a CSV file that are not empty: [(number of the line that the row begins on, its cells)].

    Lines are counted from 1; cells have no blanks at their ends. Raises UserError naming the line where the file is no
    CSV file.
    """
    text = read_text(path).replace("\r\n", "\n").replace("\r", "\n")
    rows = []
    line = 1
    reader = csv.reader(io.StringIO(text))
    try:
        for row in reader:
            if row:
                rows.append((line, [cell.strip() for cell in row]))
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path} line {line}: not a CSV file ({error}); a stray quotation mark?") from None
    return rows
