"""What happens to a Markov chain between two draws of its sampler: jumps of frames, and new spreads.

A sampler in the coordinates of `pendel.infer.whitening` moves spreads and frames together, which is right where the
likelihood of a frame is about normal. Where it is sharper than it looks from the MAP point, a spread is stuck to its
frames. Given the frames, however, a spread costs nothing: the simulator does not know it. So spreads are moved with
the frames held, too, by a random walk; each of the two ways of moving is efficient where the other one is not.

Source: Yu & Meng, J. Comput. Graph. Stat. 20, 531 (2011).
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Float, Int

from pendel.constants import Array
from pendel.infer.frame_jumps import frame_jumps, frame_maxima
from pendel.infer.map import MapFit
from pendel.infer.optimise import Progress
from pendel.infer.whitening import Place, Whitened

SWEEPS = 10  # over all spreads
WALK = 0.5  # step of an unconstrained spread, a log where it is positive

type Between = Callable[[Float[Array, " n"], Array], tuple[Float[Array, " n"], Int[Array, ""]]]


def between_draws(
    model: Callable,
    args: tuple,
    kwargs: dict[str, Any],
    start: MapFit,
    space: Whitened,
    key: Array,
    progress: Progress | None = None,
) -> Between | None:
    """A Markov kernel (y, key) -> y and the number of jumps, which leaves the density of `space` as it is.

    It costs two simulations and one for every try of a jump; None where no frame has several maxima and there are no
    spreads.

    Args:
        space: coordinates of this model, data and fit.
        key: of the search for maxima.
    """
    jump = None
    if len(space.cut.frames):
        maxima = frame_maxima(model, args, kwargs, start, space.cut, key, progress)
        jump = frame_jumps(space, maxima) if np.any(maxima.count > 1) else None
    if jump is None and not start.spreads:
        return None

    def move(y, key):
        place, _ = space.place(y)
        first, second = jax.random.split(key)
        z, taken = jump(place, first) if jump is not None else (place.z, jnp.zeros((), dtype=int))
        simulated = space.cut.simulate(z, place.spreads) if jump is not None else place.simulated

        def log_density(some):
            return -space.cut.negative_log_density(simulated, z, {**place.spreads, **some})

        free = {name: value for name, value in place.spreads.items() if name not in space.cut.seen}
        spreads = {**place.spreads, **(moved_spreads(log_density, free, second) if free else {})}
        there, _ = space.back(Place(z, spreads, simulated))
        sound = jnp.all(jnp.isfinite(there))  # as it is wherever the posterior has any mass
        return jnp.where(sound, there, y), jnp.where(sound, taken, 0)

    return move


def moved_spreads(log_density: Callable, spreads: Mapping[str, Array], key: Array) -> Mapping[str, Array]:
    """Spreads after SWEEPS of a random walk of each of them, everything else held.

    Args:
        log_density: of unconstrained spreads by site.
    """
    first, unravel = ravel_pytree(dict(spreads))

    def step(now, item):
        s, height = now
        index, noise, log_uniform = item
        trial = s.at[index].add(WALK * noise)
        found = log_density(unravel(trial))
        better = log_uniform < found - height  # not where it is not finite
        return (jnp.where(better, trial, s), jnp.where(better, found, height)), None

    count, (walk, chance) = SWEEPS * len(first), jax.random.split(key)
    noise, log_uniform = jax.random.normal(walk, (count,)), jnp.log(jax.random.uniform(chance, (count,)))
    steps = jnp.arange(count) % len(first), noise, log_uniform
    (s, _), _ = jax.lax.scan(step, (first, log_density(spreads)), steps)
    return unravel(s)
