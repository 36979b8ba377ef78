"""What everything rests on: the array type, the one error for wrong input, notes, and the names of data sets."""

from collections.abc import Iterable

import jax
import numpy as np

from pendel.failures import InputError, failure

__all__ = ["Array", "InputError", "Note", "failure", "kind_of", "suffix"]

type Array = jax.Array | np.ndarray

NO_HYDROGEN = "no hydrogen"  # kind of the note that says how many sites were left out
OVERFULL = "overfull"  # kind of the note on a place with more than one atom


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
