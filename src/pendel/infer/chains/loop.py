"""The loop that every Markov chain sampler shares: step after step, kept on the way.

Processors are busy with one chain and take them one after the other; a graphics card moves all of them at once.
"""

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from pendel.base import Array
from pendel.infer.keeper import Keeper, packed_state, unpacked_state
from pendel.infer.maximum.optimise import Progress

EVERY = 25  # steps between two checkpoints


def run_chains(
    name: str,
    initial: Callable[[Array], Any],
    advance: Callable[[Any, Array, int], tuple[Any, Array, dict[str, Array]]],
    *,
    shape: tuple[int, int, int],
    statistics: tuple[str, ...],
    keeper: Keeper | None,
    progress: Progress | None,
    at_once: int | None = None,
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Positions [chain step n] and statistics [chain step] of chains.

    Args:
        name: of the stage, for `progress`.
        initial: chain -> state; advance: (state, chain, step) -> new state, position and statistics; both made of
            compiled parts, and compiled as a whole where chains move together.
        shape: (chains, steps, n).
        statistics: names of what `advance` puts out.
        keeper: holds the state of an unfinished run, which is continued exactly.
        at_once: chains moved together, a divisor of their number; by the device when not given.
    """
    chains, steps, _ = shape
    points, found = np.zeros(shape), {key: np.zeros((chains, steps)) for key in statistics}
    width = at_once or (1 if jax.default_backend() == "cpu" else chains)
    state, began = None, 0
    kept = keeper.load() if keeper is not None else None
    if kept is not None:
        began, width, points = int(kept["done"]), int(kept["at_once"]), np.array(kept["points"])
        found = {key: np.array(kept[key]) for key in statistics}
        state = unpacked_state(jax.tree.structure(jax.eval_shape(lambda: initial(np.asarray(0)))), kept)
    if width > 1:
        initial, advance = jax.jit(jax.vmap(initial)), jax.jit(jax.vmap(advance, in_axes=(0, 0, None)))
    total, clock = steps * chains // width, time.monotonic()
    for count in range(began, total):
        batch, step = divmod(count, steps)
        which = np.arange(batch * width, (batch + 1) * width)
        chain = which if width > 1 else which[0]
        if step == 0:
            state = initial(chain)
        state, position, numbers = advance(state, chain, step)
        points[which, step] = position
        for key in statistics:
            found[key][which, step] = numbers[key]
        if keeper is not None and (count + 1) % EVERY == 0:
            done = {"done": np.asarray(count + 1), "at_once": np.asarray(width)}
            keeper.save({**done, "points": points, **found, **packed_state(state)})
        if progress is not None:
            info = {key: float(np.mean(numbers[key])) for key in ("lp", "n_steps") if key in statistics}
            info |= {"chain": float(which[-1] + 1), "seconds": time.monotonic() - clock}
            progress(name, count + 1, total, info)
    return points, found
