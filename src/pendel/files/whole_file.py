"""Files that appear complete or not at all: the one way in which anything is written."""

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

from pendel.failures import InputError

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)  # of the user's making
UNFINISHED = re.compile(r"\..+\.\d+\.tmp")  # names of temporary files: that of the target and the process


@contextlib.contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary file beside `path` to write to, which takes its name when the block ends and the disk has it all.

    Raises InputError when the place cannot be written (read-only, full, missing folder); an older file then stays, and
    nothing is left of the temporary one.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with open(temporary, "rb+") as stream:
            os.fsync(stream.fileno())
        os.replace(temporary, target)
    except (OSError, RuntimeError) as error:  # gemmi's writers raise the second
        raise cannot_write(target, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a UTF-8 file as `whole_file` does."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file as `whole_file` does."""
    with whole_file(path) as temporary:
        temporary.write_bytes(content)


def drop_unfinished(folder: Path) -> None:
    """Remove the temporary files of `whole_file` in a folder into which no other process writes now."""
    for temporary in folder.glob(".*.tmp"):
        if UNFINISHED.fullmatch(temporary.name):
            with contextlib.suppress(OSError):
                temporary.unlink()


def cannot_write(path: Path, error: Exception, do: str = "choose another place or make room") -> InputError:
    """The error that says why a file or folder cannot be written."""
    return InputError(
        found=f"{path} cannot be written ({getattr(error, 'strerror', None) or error})",
        expected="an existing, writable folder with free space",
        do=do,
    )
