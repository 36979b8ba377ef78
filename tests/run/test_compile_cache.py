"""The cache of compiled programs: whose folder, when it is used, and what a spoilt one does to a run."""

import os
import stat
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache.compilation_cache import reset_cache

from pendel.base import InputError
from pendel.run.clock import CompileClock
from pendel.run.compile_cache import MAPPINGS, SHORTEST, compile_cache, make_room_for_programs
from pendel.user_cache import user_cache


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch) -> Path:
    """A home for the cache, and JAX without one."""
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setattr("pendel.run.compile_cache.SHORTEST", 0.0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("PENDEL_CACHE", raising=False)
    yield tmp_path / "cache" / "pendel" / "xla"
    jax.config.update("jax_compilation_cache_dir", before)
    reset_cache()


def run(value: float = 3.0) -> tuple[float, dict[str, float | int]]:
    """A result of a program that this process has not compiled, and what was compiled for it."""
    jax.clear_caches()
    with CompileClock() as clock, compile_cache():
        found = float(jax.jit(lambda x: jnp.sin(x) ** 2 + jnp.cos(x) ** 2 * 2)(jnp.asarray(value)))
    return found, clock.compilation()


def test_a_second_run_takes_its_programs_from_a_folder_of_the_user_alone(home: Path):
    first, compiled = run()
    assert compiled["programs"] > 0
    assert compiled["from_cache"] == 0
    assert list(home.glob("*-cache"))
    for folder in (home, home.parent):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    second, read = run()
    assert second == first
    assert read["from_cache"] == read["programs"] == compiled["programs"]
    assert run(4.0)[1]["from_cache"] == read["programs"]  # a program does not hold its numbers


def test_spoilt_programs_are_compiled_again(home: Path):
    first, _ = run()
    for program in home.glob("*-cache"):
        program.write_bytes(b"no program")
    with pytest.warns(UserWarning, match="Error reading persistent compilation cache entry"):
        second, compiled = run()
    assert second == first
    assert compiled["from_cache"] == 0


def test_a_program_whose_writing_was_interrupted_is_replaced(home: Path):
    run()
    for program in home.glob("*-cache"):
        program.write_bytes(program.read_bytes()[:20])
        Path(str(program).removesuffix("-cache") + "-atime").unlink()
    assert run()[1]["from_cache"] == 0
    compiled = run()[1]
    assert compiled["from_cache"] == compiled["programs"]


@pytest.mark.parametrize("word", ["off", "OFF", "0"])
def test_it_can_be_switched_off(home: Path, monkeypatch, word):
    monkeypatch.setenv("PENDEL_CACHE", word)
    run()
    assert not home.exists()


def test_a_cache_of_the_user_is_left_as_it_is(home: Path, tmp_path: Path):
    own = tmp_path / "own"
    jax.config.update("jax_compilation_cache_dir", str(own))
    with compile_cache() as notes:
        assert not notes
        assert jax.config.jax_compilation_cache_dir == str(own)
    assert jax.config.jax_compilation_cache_dir == str(own)
    assert not home.exists()


def test_jax_is_as_before_after_a_run():
    names = (
        *("jax_compilation_cache_dir", "jax_compilation_cache_max_size"),
        "jax_persistent_cache_min_compile_time_secs",
    )
    before = [getattr(jax.config, name) for name in names]
    with compile_cache():
        assert [getattr(jax.config, name) for name in names] != before
    assert [getattr(jax.config, name) for name in names] == before
    with pytest.raises(ZeroDivisionError), compile_cache():
        _ = 1 / 0
    assert [getattr(jax.config, name) for name in names] == before
    assert SHORTEST < 1  # JAX's own limit leaves most programs of a refinement out


def spoil_owner(home: Path, monkeypatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: home.stat().st_uid + 1)


def spoil_mode(home: Path, monkeypatch) -> None:
    home.chmod(0o770)


def spoil_parent(home: Path, monkeypatch) -> None:
    home.parent.chmod(0o777)


def spoil_place(home: Path, monkeypatch) -> None:
    home.rmdir()
    home.write_text("a file")


@pytest.mark.skipif(os.name != "posix", reason="owners and modes of POSIX")
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_owner, "belongs to another user"),
        (spoil_mode, "xla, can be written by other users"),
        (spoil_parent, "pendel, can be written by other users"),
        (spoil_place, "cannot be made"),
    ],
)
def test_a_folder_of_others_is_not_used_and_a_note_says_so(home: Path, monkeypatch, spoil, message):
    home.mkdir(mode=0o700, parents=True)
    home.parent.chmod(0o700)
    spoil(home, monkeypatch)
    with compile_cache() as notes:
        assert jax.config.jax_compilation_cache_dir is None
    (note,) = notes
    assert message in note
    with pytest.raises(InputError, match=message):
        user_cache("xla")


@pytest.mark.skipif(not MAPPINGS.is_file(), reason="no list of the mappings of memory on this system")
def test_programs_are_dropped_where_they_hold_too_many_mappings():
    """Linux lets a process have 65,530; a jitted function lives on and is traced again."""
    traced = []

    @jax.jit
    def function(x):
        traced.append(x)
        return jnp.sin(x) + 1.0

    for most, times in ((10**9, 1), (10**9, 1), (0, 2)):
        make_room_for_programs(most)
        assert float(function(0.0)) == 1.0
        assert len(traced) == times
