"""Programs that are compiled once: JAX's persistent compilation cache, in a folder of the user's own."""

import ctypes
import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
from jax.experimental.compilation_cache.compilation_cache import reset_cache

from pendel.base import InputError
from pendel.user_cache import user_cache

SWITCH = "PENDEL_CACHE"  # environment variable
FOLDER = "xla"
LARGEST = 2_000_000_000  # bytes; what was not used for longest goes first
SHORTEST = 0.05  # s of compilation of a program that is kept; reading one takes a tenth of that
MAPPINGS = Path("/proc/self/maps")  # of memory, a line each; where there is no such file there is no such limit
MOST_MAPPINGS = 20_000  # a third of what Linux allows a process


@contextmanager
def compile_cache() -> Iterator[tuple[str, ...]]:
    """In the block, compiled programs are taken from the user's cache and kept there; gives notes where they are not.

    Nothing is changed with PENDEL_CACHE=off, or where JAX has a cache already, e.g. by JAX_COMPILATION_CACHE_DIR.
    """
    folder, notes = _folder()
    if folder is None:
        yield notes
        return
    options = {
        "jax_compilation_cache_dir": str(folder),
        "jax_compilation_cache_max_size": LARGEST,
        "jax_persistent_cache_min_compile_time_secs": SHORTEST,
    }
    before = {name: getattr(jax.config, name) for name in options}
    _set_options(options)
    try:
        yield notes
    finally:
        _set_options(before)


def drop_programs() -> None:
    """Drop all compiled programs, for shapes that do not come again, and give free memory back to the system.

    What is needed again is read from the cache. A costly fit began with 1.3 GB of the programs and the pieces of
    memory of its coarse fit.
    """
    jax.clear_caches()
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:  # glibc
        trim(0)


def make_room_for_programs(most: int = MOST_MAPPINGS) -> None:
    """Drop all compiled programs where they hold more than `most` mappings of memory.

    Linux allows a process 65,530 mappings, and a compiled program takes ten to hundreds. A molecule with restraints met
    the limit in its third fit: LLVM said "Cannot allocate memory", and the process died with a segmentation fault.
    """
    if MAPPINGS.is_file() and MAPPINGS.read_bytes().count(b"\n") > most:
        drop_programs()


def _folder() -> tuple[Path | None, tuple[str, ...]]:
    """Where programs are kept; None where this run keeps none, with the reason where there is something to mend."""
    if os.environ.get(SWITCH, "").lower() in ("off", "0") or jax.config.jax_compilation_cache_dir:
        return None, ()
    try:
        folder = user_cache(FOLDER)
        _drop_unfinished(folder)
    except InputError as error:
        return None, (str(error),)
    return folder, ()


def _drop_unfinished(folder: Path) -> None:
    """Remove programs whose writing was interrupted: JAX writes the time of use last, and replaces no program."""
    for program in folder.glob("*-cache"):
        if not program.with_name(program.name.removesuffix("-cache") + "-atime").exists():
            program.unlink(missing_ok=True)


def _set_options(options: dict[str, object]) -> None:
    for name, value in options.items():
        jax.config.update(name, value)
    reset_cache()  # JAX opens its cache once, with the options of then
