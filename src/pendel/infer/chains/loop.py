"""Markov kernels, and the loop that runs chains of them: step after step, with checkpoints on the way.

Processors are busy with one chain and take them one after the other; a graphics card moves all of them at once.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from pendel.base import Array
from pendel.infer.keeper import Keeper, packed_state, unpacked_state
from pendel.infer.maximum.optimise import Progress

EVERY = 25  # steps between two checkpoints
STATISTICS = ("diverging", "acceptance_rate", "energy", "n_steps", "lp", "jumps", "gradients", "tuning_gradients")

type Info = dict[str, Any]  # STATISTICS of one step


class Kernel(NamedTuple):
    """A Markov kernel over positions y [n], made of compiled functions.

    `init`: key -> state. `step`: (key, state) -> state, position, info. `moved_to`: (state, y) -> the state at another
    position, and its log density; for kernels that follow.
    """

    init: Callable[[Array], Any]
    step: Callable[[Array, Any], tuple[Any, Array, Info]]
    moved_to: Callable[[Any, Array], tuple[Any, Array]]


def followed_by(kernel: Kernel, between: Callable[[Array, Array], tuple[Array, Array]]) -> Kernel:
    """The kernel, and after each of its steps another one that leaves the same density as it is.

    Args:
        between: (y, key) -> y and the number of jumps taken.
    """

    def step(key, state):
        first, second = jax.random.split(key)
        state, y, info = kernel.step(first, state)
        y, taken = between(y, second)
        state, log_density = kernel.moved_to(state, y)
        return state, y, {**info, "lp": log_density, "jumps": taken, "gradients": info["gradients"] + 1}

    return kernel._replace(step=step)


def run_chains(
    name: str,
    kernel: Kernel,
    key: Array,
    *,
    shape: tuple[int, int, int],
    keeper: Keeper | None,
    progress: Progress | None,
    at_once: int | None = None,
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Positions [chain step n] and STATISTICS [chain step] of chains.

    Args:
        name: of the stage, for `progress`.
        key: random key; every chain and step has one of its own, so that a resumed run goes on as it would have.
        shape: (chains, steps, n).
        keeper: holds the state of an unfinished run, which is continued exactly.
        at_once: chains moved together, a divisor of their number; by the device when not given.
    """
    chains, steps, _ = shape
    points, found = np.zeros(shape), {statistic: np.zeros((chains, steps)) for statistic in STATISTICS}
    width = at_once or (1 if jax.default_backend() == "cpu" else chains)
    state, began = None, 0
    unfinished = keeper.load() if keeper is not None else None
    if unfinished is not None:
        began, width, points = int(unfinished["done"]), int(unfinished["at_once"]), np.array(unfinished["points"])
        found = {statistic: np.array(unfinished[statistic]) for statistic in STATISTICS}
        state = unpacked_state(jax.tree.structure(jax.eval_shape(kernel.init, key)), unfinished)
    init, advance = kernel.init, kernel.step
    if width > 1:
        init, advance = jax.jit(jax.vmap(init)), jax.jit(jax.vmap(advance))
    total, clock = steps * chains // width, time.monotonic()
    for count in range(began, total):
        batch, step = divmod(count, steps)
        which = np.arange(batch * width, (batch + 1) * width)
        if step == 0:
            state = init(_keys(key, which, 0))
        state, position, info = advance(_keys(key, which, step + 1), state)
        points[which, step] = position
        for statistic in STATISTICS:
            found[statistic][which, step] = info[statistic]
        if keeper is not None and (count + 1) % EVERY == 0:
            done = {"done": np.asarray(count + 1), "at_once": np.asarray(width)}
            keeper.save({**done, "points": points, **found, **packed_state(state)})
        if progress is not None:
            numbers = {statistic: float(np.mean(info[statistic])) for statistic in ("lp", "n_steps")}
            numbers |= {"chain": float(which[-1] + 1), "seconds": time.monotonic() - clock}
            progress(name, count + 1, total, numbers)
    return points, found


def _keys(key: Array, chains: np.ndarray, step: int) -> Array:
    """A key for every chain at a step, along an axis where there are several."""
    keys = jax.vmap(lambda chain: jax.random.fold_in(jax.random.fold_in(key, chain), step))(chains)
    return keys if len(chains) > 1 else keys[0]
