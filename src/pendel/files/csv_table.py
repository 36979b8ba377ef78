"""Tables of comma-separated values whose texts no spreadsheet takes for formulas."""

import csv
import io
import os
from collections.abc import Iterable, Sequence

from pendel.files.whole_file import write_text

FORMULA = ("=", "+", "-", "@", "\t", "\r")  # first characters with which spreadsheets begin a formula, or skip to one
EXACT = 7  # significant digits of a number


def write_table(path: str | os.PathLike[str], columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table: texts by `text_cell`, numbers with seven digits, None as an empty cell.

    The file is replaced whole. Raises InputError when it cannot be written.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(value) for value in row] for row in rows)
    write_text(path, stream.getvalue())


def text_cell(text: str) -> str:
    """A text that spreadsheets show as it is: an apostrophe stands before what they would take for a formula.

    Source: OWASP, CSV injection (owasp.org/www-community/attacks/CSV_Injection).

    >>> text_cell("O1"), text_cell("=HYPERLINK(A1)")
    ('O1', "'=HYPERLINK(A1)")
    """
    return f"'{text}" if text.lstrip(" \n").startswith(FORMULA) else text


def _cell(value: object) -> str:
    if value is None:
        return ""
    return text_cell(value) if isinstance(value, str) else f"{value:.{EXACT}g}"
