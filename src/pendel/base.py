"""What everything rests on: the array type, the one error for wrong input, notes, and the names of data sets."""

import re
from collections.abc import Iterable

import jax
import numpy as np

type Array = jax.Array | np.ndarray


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message is one line of three sentences: what was found, what was expected, how to fix it.
    """

    def __init__(self, *, found: str, expected: str, do: str) -> None:
        super().__init__(failure(found, expected, do))


def failure(found: str, expected: str, do: str) -> str:
    """The text of a failure, "Found. Expected this. To fix: do that."; names, options and numbers keep their case."""
    first = found.split(maxsplit=1)[0]
    if re.fullmatch(r"[a-z]+(-[a-z]+)*", first):
        found = found[0].upper() + found[1:]
    return f"{found.rstrip('.')}. Expected {expected.rstrip('.')}. To fix: {do.rstrip('.')}."


class Note(str):
    """A remark for the user on what was read; `kind` names those that the program itself goes by."""

    kind: str

    def __new__(cls, text: str, kind: str = "") -> "Note":
        """The text, with its kind."""
        note = super().__new__(cls, text)
        note.kind = kind
        return note


def kind_of(note: str) -> str:
    """The kind of a note, empty for any other text."""
    return note.kind if isinstance(note, Note) else ""


def listed(words: Iterable[object], most: int = 10) -> str:
    """Words in one line, the first `most` of them and how many more there are.

    >>> listed(["O1", "O2", "O3"], most=2)
    'O1, O2 and 1 more'
    """
    texts = [str(word) for word in words]
    return ", ".join(texts[:most]) + (f" and {len(texts) - most} more" if len(texts) > most else "")


def suffix(number: int) -> str:
    """Ending of the names of a data set's sites: none for the first, then _2, _3 ..."""
    return f"_{number + 1}" if number else ""
