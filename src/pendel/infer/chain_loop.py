"""The loop that every Markov chain sampler shares: chain after chain, step after step, kept on the way."""

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from pendel.constants import Array
from pendel.infer.keeper import Keeper, packed_state, unpacked_state
from pendel.infer.map import Progress

EVERY = 25  # steps between two checkpoints


def run_chains(
    name: str,
    initial: Callable[[int], Any],
    advance: Callable[[Any, int, int], tuple[Any, Array, dict[str, Array]]],
    *,
    shape: tuple[int, int, int],
    statistics: tuple[str, ...],
    keeper: Keeper | None,
    progress: Progress | None,
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Positions [chain step n] and statistics [chain step] of chains run one after the other.

    Args:
        name: of the stage, for `progress`.
        initial: chain -> state; advance: (state, chain, step) -> new state, position and statistics; both compiled.
        shape: (chains, steps, n).
        statistics: names of what `advance` puts out.
        keeper: holds the state of an unfinished run, which is continued exactly.
    """
    chains, steps, _ = shape
    points, found = np.zeros(shape), {key: np.zeros((chains, steps)) for key in statistics}
    state, began = None, 0
    kept = keeper.load() if keeper is not None else None
    if kept is not None:
        began, points = int(kept["done"]), np.array(kept["points"])
        found = {key: np.array(kept[key]) for key in statistics}
        state = unpacked_state(jax.tree.structure(jax.eval_shape(lambda: initial(0))), kept)
    clock = time.monotonic()
    for count in range(began, chains * steps):
        chain, step = divmod(count, steps)
        if step == 0:
            state = initial(chain)
        state, points[chain, step], numbers = advance(state, chain, step)
        for key in statistics:
            found[key][chain, step] = float(numbers[key])
        if keeper is not None and (count + 1) % EVERY == 0:
            keeper.save({"done": np.asarray(count + 1), "points": points, **found, **packed_state(state)})
        if progress is not None:
            info = {key: float(numbers[key]) for key in ("lp", "n_steps") if key in statistics}
            info |= {"chain": chain + 1.0, "seconds": time.monotonic() - clock}
            progress(name, count + 1, chains * steps, info)
    return points, found
