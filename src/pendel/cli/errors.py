"""Errors of the user's making on the command line: one line, and an exit code."""

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

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


def one_line(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Unexpected errors: what, in which line of a file of the user's, and how to see more."""
    text = f"{kind.__name__}: {' '.join(str(error).split())}"
    own = [frame for frame in traceback.extract_tb(trace) if not _is_installed(Path(frame.filename))]
    where = f"line {own[-1].lineno} of {own[-1].filename}; " if own else ""
    print(f"pendel: {text} ({where}PENDEL_DEBUG=1 shows where)", file=sys.stderr)


def _is_installed(file: Path) -> bool:
    """Whether a file belongs to pendel, to Python or to one of its packages."""
    homes = [Path(__file__).parents[1], *map(Path, (sys.prefix, sys.base_prefix))]
    return not file.is_file() or any(file.resolve().is_relative_to(home.resolve()) for home in homes)
