"""What everything rests on: the array type, the one error for wrong input, and the names of data sets."""

import jax
import numpy as np

type Array = jax.Array | np.ndarray


class InputError(ValueError):
    """Something the user gave cannot be used; the message is one line: found, expected, what to do."""

    def __init__(self, *, found: str, expected: str, do: str) -> None:
        super().__init__(f"found {found}; expected {expected}; do: {do}")


def suffix(number: int) -> str:
    """Ending of the names of a data set's sites: none for the first, then _2, _3 ..."""
    return f"_{number + 1}" if number else ""
