"""Unfinished work of an inference algorithm: where it is kept, and its state as flat arrays."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from pendel.base import Array


@runtime_checkable
class Keeper(Protocol):
    """Where unfinished work is kept."""

    def load(self) -> Mapping[str, Array] | None:
        """What was saved last, None where nothing was."""
        ...

    def save(self, arrays: Mapping[str, Array]) -> None:
        """Replace what was saved."""
        ...


def packed_state(state: Any) -> dict[str, Array]:
    """The leaves of a state by name; random keys must be raw (`jax.random.key_data`)."""
    return {f"state_{i}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(state))}


def unpacked_state(structure: Any, arrays: Mapping[str, Array]) -> Any:
    """The inverse of `packed_state` for a known tree structure."""
    leaves = [jnp.asarray(arrays[f"state_{i}"]) for i in range(structure.num_leaves)]
    return jax.tree.unflatten(structure, leaves)
