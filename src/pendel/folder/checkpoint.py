"""Any result of a stage as named arrays, and back: what a checkpoint file holds.

Arrays stand under the path that leads to them (`values/tilt`); how they belong together, and every number and text,
stands in one more array as JSON. Nothing in the file is code.
"""

import dataclasses
import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from pendel.base import Array, InputError

DAMAGED = (  # what readers of files raise for a file that is not as it was written
    *(OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, RuntimeError, NotImplementedError),
    *(EOFError, MemoryError, RecursionError, OverflowError, zipfile.BadZipFile, zlib.error),
)
STRUCTURE = "structure"  # name of the array that holds the JSON


def packed(value: Any, *, left_out: tuple[type, ...] = ()) -> dict[str, np.ndarray]:
    """Named arrays for a tree of arrays, numbers, texts, None, tuples, lists, dicts and dataclasses.

    left_out: classes whose instances are not stored, because whoever reads the tree makes them anew. NumPy scalars
    become numbers, JAX arrays become NumPy arrays. Raises TypeError for anything else in the tree.
    """
    arrays: dict[str, np.ndarray] = {}
    structure = _node(value, "", arrays, left_out)
    return {STRUCTURE: np.array(json.dumps(structure)), **arrays}


def unpacked(
    arrays: Mapping[str, Array], *, classes: tuple[type, ...] = (), given: Mapping[type, Any] | None = None
) -> Any:
    """The tree that `packed` took apart.

    Args:
        classes: the dataclasses in the tree; one that is not among them comes back as the dict of its fields.
        given: the values of what was left out, by class; None where there is none.
    """
    known = {kind.__name__: kind for kind in classes}
    values = {kind.__name__: value for kind, value in (given or {}).items()}
    return _value(json.loads(str(arrays[STRUCTURE])), arrays, known, values)


def file_content(arrays: Mapping[str, Array]) -> bytes:
    """The bytes of an .npz file with these arrays."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **{name: np.asarray(value) for name, value in arrays.items()})
    return buffer.getvalue()


def read_checkpoint(path: Path, *, classes: tuple[type, ...] = (), given: Mapping[type, Any] | None = None) -> Any:
    """The tree in a checkpoint file, see `unpacked`; raises InputError for a file that is damaged."""
    try:
        return unpacked(read_arrays(path), classes=classes, given=given)
    except DAMAGED as error:
        raise InputError(
            found=f"the checkpoint {path} is damaged ({type(error).__name__}: {error})",
            expected="the file as pendel wrote it",
            do="delete it, then the same command makes that stage anew",
        ) from error


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file."""
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def _node(value: Any, path: str, arrays: dict[str, np.ndarray], left_out: tuple[type, ...]) -> Any:
    """JSON for a part of the tree; its arrays are added to `arrays`."""

    def below(name: Any, part: Any) -> Any:
        return _node(part, f"{path}/{name}" if path else str(name), arrays, left_out)

    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return {"value": value}
    if left_out and isinstance(value, left_out):
        return {"left out": next(kind.__name__ for kind in left_out if isinstance(value, kind))}
    if isinstance(value, np.ndarray | jax.Array):
        name = path or "array"
        while name == STRUCTURE or name in arrays:
            name += "'"
        arrays[name] = np.asarray(value)
        return {"array": name}
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {"dict": [[key, below(key, part)] for key, part in value.items()]}
    if type(value) in (tuple, list):
        return {type(value).__name__: [below(number, part) for number, part in enumerate(value)]}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
        return {"class": type(value).__name__, "fields": [[name, below(name, part)] for name, part in fields]}
    raise TypeError(f"found {type(value).__name__} at {path!r}; expected arrays, numbers, texts and containers of them")


def _value(node: Any, arrays: Mapping[str, Array], known: Mapping[str, type], given: Mapping[str, Any]) -> Any:
    """The inverse of `_node`."""
    if "value" in node:
        return node["value"]
    if "array" in node:
        return np.asarray(arrays[node["array"]])
    if "left out" in node:
        return given.get(node["left out"])
    if "class" in node:
        fields = {name: _value(part, arrays, known, given) for name, part in node["fields"]}
        return known[node["class"]](**fields) if node["class"] in known else fields
    if "dict" in node:
        return {key: _value(part, arrays, known, given) for key, part in node["dict"]}
    parts = [_value(part, arrays, known, given) for part in node.get("tuple", node.get("list", ()))]
    return tuple(parts) if "tuple" in node else parts
