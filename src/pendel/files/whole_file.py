"""Writing results: whole files or nothing, numbers with their standard uncertainties, the table of reflections."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from pendel.base import InputError


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a UTF-8 file completely or not at all: to a temporary file beside it, which then takes its name.

    Raises InputError when the place cannot be written (read-only, full, missing folder); an older file then stays.
    """
    with whole_file(path) as temporary, open(temporary, "w", encoding="utf-8", newline="\n") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())


@contextlib.contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary file to write to, which takes the name of `path` at the end; InputError as in `write_text`."""
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, target)
    except (OSError, RuntimeError) as error:  # gemmi's writers raise the second
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            found=f"the file {target} cannot be written ({reason})",
            expected="an existing, writable folder with free space",
            do="choose another place or make room",
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
