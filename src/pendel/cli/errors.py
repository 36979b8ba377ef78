"""Errors of the user's making on the command line: one line, and an exit code."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer

from pendel.failures import InputError, failure
from pendel.files.whole_file import DISK_ERRORS


@contextmanager
def plain_errors(out: Path | None = None) -> Iterator[None]:
    """Errors of the user's making become one line and an exit code."""
    try:
        yield
    except InputError as error:
        _stop(str(error), 2)
    except KeyboardInterrupt:
        from pendel.folder.run_folder import RECORD

        kept = out is not None and (out / RECORD).is_file()
        _stop("interrupted" + (f"; {out} keeps its completed stages and the same command resumes" if kept else ""), 1)
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        what = f"{error.filename or 'a file'} cannot be used ({error.strerror})"
        _stop(failure(what, "a writable place", "choose another place"), 2)


def _stop(message: str, code: int) -> None:
    print("pendel:", " ".join(message.split()), file=sys.stderr)
    raise typer.Exit(code)
