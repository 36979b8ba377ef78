"""What happens to a Markov chain between two draws of its sampler: jumps of frames, new spreads and errors.

A sampler in the coordinates of `whitening` moves spreads and frames together, which is right where the
likelihood of a frame is about normal. Where it is sharper than it looks from the MAP point, a spread is stuck to its
frames. Given the frames, however, a spread costs nothing: the simulator does not know it, nor the errors. So both are
moved with all else fixed, too, by a random walk; each of the two moves is efficient where the other one is not.

Source: Yu & Meng, J. Comput. Graph. Stat. 20, 531 (2011).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Float, Int

from pendel.base import Array
from pendel.infer.chains.frame_jumps import frame_jumps, frame_maxima
from pendel.infer.chains.whitening import Place, Whitened
from pendel.infer.maximum.map import MapFit
from pendel.infer.maximum.optimise import Progress
from pendel.infer.target import Target

SWEEPS = 10  # over all spreads and errors
WALK = 0.5  # step of an unconstrained spread, a log where it is positive

type Between = Callable[[Float[Array, " n"], Array], tuple[Float[Array, " n"], Int[Array, ""]]]


def between_draws(
    target: Target,
    start: MapFit,
    space: Whitened,
    key: Array,
    progress: Progress | None = None,
) -> Between | None:
    """A Markov kernel (y, key) -> y and the number of jumps, which leaves the density of `space` as it is.

    It costs two simulations and one for every try of a jump; None where no frame has several maxima and there are
    neither spreads nor errors.

    Args:
        space: coordinates of this target and fit.
        key: of the search for maxima.
    """
    jump, errors = None, space.replay.errors
    if len(space.replay.frames):
        maxima = frame_maxima(target, start, space.replay, key, progress)
        jump = frame_jumps(space, maxima) if np.any(maxima.count > 1) else None
    if jump is None and not start.spreads and not len(errors):
        return None
    width_of_errors = jnp.sqrt(start.root.variance())[errors]

    @jax.jit
    def walk(z, place, simulated, key):
        free = {name: value for name, value in place.spreads.items() if name not in target.simulated}
        of_spreads, unravel = ravel_pytree(free)

        def changed(x):
            return jnp.asarray(z).at[errors].set(x[: len(errors)]), {**place.spreads, **unravel(x[len(errors) :])}

        x = jnp.concatenate([z[errors], of_spreads])
        width = jnp.concatenate([width_of_errors, jnp.full(of_spreads.shape, WALK)])
        x = random_walk(lambda x: -space.replay.negative_log_density(simulated, *changed(x)), x, width, key)
        return space.back(Place(*changed(x), simulated))[0]

    # The simulation is a program of its own, compiled once for all its places in a move.
    before, after = jax.jit(space.before), jax.jit(space.after)

    def move(y, key):
        half = before(y)
        place, _ = after(space.simulate(half.z, half.spreads), half)
        first, second = jax.random.split(key)
        z, taken = jump(place, first) if jump is not None else (place.z, jnp.zeros((), dtype=int))
        simulated = space.simulate(z, place.spreads) if jump is not None else place.simulated
        there = walk(z, place, simulated, second)
        sound = jnp.all(jnp.isfinite(there))  # as it is wherever the posterior has any mass
        return jnp.where(sound, there, y), jnp.where(sound, taken, 0)

    return move


def random_walk(
    log_density: Callable[[Float[Array, " n"]], Float[Array, ""]],
    start: Float[Array, " n"],
    width: Float[Array, " n"],
    key: Array,
) -> Float[Array, " n"]:
    """Where SWEEPS of Metropolis steps lead, one element after the other.

    Args:
        width: standard deviation of the steps of every element.
    """

    def step(now, item):
        x, height = now
        index, noise, log_uniform = item
        trial = x.at[index].add(width[index] * noise)
        found = log_density(trial)
        better = log_uniform < found - height  # not where it is not finite
        return (jnp.where(better, trial, x), jnp.where(better, found, height)), None

    count, (walk, chance) = SWEEPS * len(start), jax.random.split(key)
    if not count:
        return start
    noise, log_uniform = jax.random.normal(walk, (count,)), jnp.log(jax.random.uniform(chance, (count,)))
    steps = jnp.arange(count) % len(start), noise, log_uniform
    (x, _), _ = jax.lax.scan(step, (start, log_density(start)), steps)
    return x
