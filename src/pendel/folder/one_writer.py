"""One run at a time in a folder: a lock that ends with the process that holds it, however that ends."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pendel.failures import InputError
from pendel.files.whole_file import cannot_write, drop_unfinished

BUSY = (errno.EWOULDBLOCK, errno.EACCES)  # of flock: somebody else has the lock


@contextmanager
def one_writer(path: Path) -> Iterator[None]:
    """In the block no other run may write into the folder, which is made when it is missing.

    The lock is one of the operating system (flock) on the folder itself: no file is left, and a process that was killed
    holds none. Where the file system or the operating system has no such locks, there is none. What a killed process
    was writing is removed. A folder that was made for nothing is removed, too.

    Raises InputError when another run that still lives has the folder, and when it cannot be made.
    """
    is_new = not path.exists()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(path, error) from error
    lock = _lock(path)
    try:
        drop_unfinished(path)
        yield
    finally:
        if lock is not None:
            os.close(lock)
        if is_new:
            with suppress(OSError):  # it has files
                path.rmdir()


def _lock(path: Path) -> int | None:
    """The open folder whose closing ends the lock; None where there are no locks."""
    try:
        import fcntl  # not on Windows
    except ImportError:
        return None
    try:
        folder = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(folder)
        if error.errno not in BUSY:
            return None
        raise InputError(
            found=f"another run is at work in the folder {path}",
            expected="one run at a time in a folder",
            do="wait for the end of the other run, or choose another --out",
        ) from error
    return folder
