"""Which frame every element of z and every observation belongs to, frames counted over all plates."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from pendel.base import Array
from pendel.infer.layout import Layout


def frame_count(layout: Layout) -> int:
    """Frames of all plates."""
    return sum(frames for _, frames, _ in layout.plates.values())


def frame_of_elements(layout: Layout) -> Int[np.ndarray, " n"]:
    """The frame of every element of z, -1 for globals."""
    owner, first = np.full(layout.size, -1), 0
    for offset, frames, width in layout.plates.values():
        owner[offset : offset + frames * width] = first + np.repeat(np.arange(frames), width)
        first += frames
    return owner


def frame_of_observations(layout: Layout) -> Int[np.ndarray, " observations"]:
    """The frame of every observation."""
    first = np.cumsum([0, *(frames for _, frames, _ in layout.plates.values())])
    start = dict(zip(layout.plates, first, strict=False))
    return np.concatenate([start[plate] + frame for _, plate, frame in layout.observations])


def elements_of_frames(layout: Layout) -> Int[np.ndarray, "frames width"]:
    """The elements of z of every frame; where a frame has fewer than others, a number beyond the end of z."""
    widest = np.arange(max((width for _, _, width in layout.plates.values()), default=0))
    rows = [np.zeros((0, len(widest)), dtype=np.int32)]
    for offset, frames, width in layout.plates.values():
        own = offset + width * np.arange(frames)[:, None] + widest
        rows.append(np.where(widest < width, own, layout.size).astype(np.int32))
    return np.concatenate(rows)


def by_frame(layout: Layout, values: Float[Array, "*rows observations"]) -> Float[Array, "frames *rows"]:
    """Sums over the observations of every frame."""
    found = jnp.zeros((frame_count(layout), *values.shape[:-1]))
    return found.at[frame_of_observations(layout)].add(jnp.moveaxis(values, -1, 0))


def by_element(layout: Layout, chosen: Bool[Array, " frames"]) -> Bool[np.ndarray, " n"]:
    """True for the elements of the chosen frames; globals belong to none."""
    owner = frame_of_elements(layout)
    return np.where(owner >= 0, chosen[owner], False)


def working_on(data: Any, layout: Layout, frames: Bool[np.ndarray, " frames"]) -> Any:
    """Arguments that can leave frames out are told which ones matter, where plates are named after data sets."""
    sizes = [count for _, count, _ in layout.plates.values()]
    usual = [f"frames_{number + 1}" if number else "frames" for number in range(len(sizes))]
    unknown = any(width == 0 for _, _, width in layout.plates.values())  # the observations alone say how many
    if not sizes or unknown or list(layout.plates) != usual:
        return data
    parts = iter(np.split(frames, np.cumsum(sizes)[:-1]))

    def told(leaf):
        return leaf.with_wanted(jnp.asarray(next(parts))) if hasattr(leaf, "with_wanted") else leaf

    return jax.tree.map(told, data, is_leaf=lambda leaf: hasattr(leaf, "with_wanted"))
