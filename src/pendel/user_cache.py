"""The user's own folder for what is compiled once and used again: `~/.cache/pendel`.

What lies there is run as a program, so nobody else may write to it.
"""

import os
from pathlib import Path

from pendel.failures import InputError

WRITABLE_BY_OTHERS = 0o022  # bits of a folder's mode


def user_cache(name: str = "") -> Path:
    """The folder `name` within `$XDG_CACHE_HOME/pendel`, or within `~/.cache/pendel`; made where it is missing.

    Raises:
        InputError: the folder cannot be made, belongs to another user, or others may write to it.
    """
    try:
        top = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pendel"
        for folder in dict.fromkeys((top, top / name)):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _check_owner(folder)
    except (OSError, RuntimeError) as error:
        raise _unusable(f"the folder for compiled programs cannot be made ({error})") from error
    return top / name


def _check_owner(folder: Path) -> None:
    """Raises InputError where somebody else could put a program into the folder."""
    about = folder.stat()
    if hasattr(os, "geteuid") and about.st_uid != os.geteuid():
        raise _unusable(f"the folder for compiled programs, {folder}, belongs to another user")
    if os.name == "posix" and about.st_mode & WRITABLE_BY_OTHERS:
        raise _unusable(f"the folder for compiled programs, {folder}, can be written by other users")


def _unusable(found: str) -> InputError:
    return InputError(
        found=found,
        expected="a folder that only you can write; until then every run compiles its programs anew",
        do="remove the folder or `chmod go-w` it, or set XDG_CACHE_HOME to another place",
    )
