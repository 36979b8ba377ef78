"""Results of stages as arrays and back."""

import dataclasses
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from pendel.folder.checkpoint import file_content, packed, read_arrays, unpacked


class Recipe:
    """Something that no file holds."""


@dataclasses.dataclass(frozen=True)
class Inner:
    values: dict[str, Any]
    recipe: Recipe | None


@dataclasses.dataclass(frozen=True)
class Outer:
    name: str
    fits: tuple[Inner, ...]
    count: int
    share: float
    done: bool
    nothing: None
    losses: list[Any]


RECIPE = Recipe()
VALUE = Outer(
    name="svi, zweite Läufe",
    fits=(
        Inner({"a/b": jnp.arange(3), "a": {"b": np.eye(2, dtype=np.float32)}, "none": {}}, RECIPE),
        Inner({"structure": np.array([True]), "labels": np.array(["Si1", "O1"])}, None),
    ),
    count=3,
    share=0.1,
    done=True,
    nothing=None,
    losses=[float("inf"), (), np.zeros((0, 2)), [np.int64(4)]],
)


def there_and_back(value: Any, path: Path, left_out=(), **options: Any) -> Any:
    path.write_bytes(file_content(packed(value, left_out=left_out)))
    return unpacked(read_arrays(path), **options)


def assert_same(found: Any, expected: Any) -> None:
    if dataclasses.is_dataclass(expected):
        assert type(found) is type(expected)
        for field in dataclasses.fields(expected):
            assert_same(getattr(found, field.name), getattr(expected, field.name))
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        for name in expected:
            assert_same(found[name], expected[name])
    elif isinstance(expected, tuple | list):
        assert type(found) is type(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    elif hasattr(expected, "shape") and not isinstance(expected, np.generic):
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
    else:
        assert found == expected


def test_every_kind_of_part_comes_back(tmp_path):
    found = there_and_back(VALUE, tmp_path / "a.npz", (Recipe,), classes=(Outer, Inner), given={Recipe: RECIPE})
    assert_same(found, VALUE)
    assert found.fits[0].recipe is RECIPE


def test_arrays_stand_under_their_path_and_equal_paths_do_not_meet():
    arrays = packed(VALUE, left_out=(Recipe,))
    assert {"fits/0/values/a/b", "fits/0/values/a/b'", "fits/1/values/labels", "losses/2"} < set(arrays)
    assert set(packed({"structure": np.zeros(1)})) == {"structure", "structure'"}


def test_unknown_classes_come_back_as_their_fields(tmp_path):
    found = there_and_back(VALUE, tmp_path / "a.npz", (Recipe,))
    assert found["count"] == 3
    assert found["fits"][0]["recipe"] is None


@pytest.mark.parametrize("value", [object(), {1: "a"}, {"a": {1, 2}}, Outer, np.array([object()])])
def test_what_cannot_be_stored_is_refused(value):
    with pytest.raises((TypeError, ValueError)):
        file_content(packed(value))
