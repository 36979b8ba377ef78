"""The one error for wrong input, and the text of a failure. It needs no JAX, so that `--help` is quick."""

import re


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
