"""Jumps of single frames between the maxima of their density, for Markov chains.

Fringes give some frames several maxima along their tilts, which a chain crosses once in hundreds of draws. The
maxima are found beforehand, given everything else at the MAP point. A chain then tries, for all frames at once, to move
the parameters of a frame that reach a simulation (tilt, thickness) from around the nearest of their maxima to around
another one. The other parameters of the frame (the scale) move with them, by the difference of their best values at the
two places. That is a shift with the Jacobian 1 whose reverse is as likely, so the Metropolis rule is exact. One
simulation serves all frames: given the shared parameters, the observations of a frame do not depend on the other
frames, and priors that couple frames cost little, so each frame is accepted or rejected by itself. Where no parameter
of a frame reaches a simulation, all its parameters move by fixed shifts.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from pendel.base import Array
from pendel.infer.chains.replay import Replay
from pendel.infer.chains.whitening import Place, Whitened
from pendel.infer.maximum.arrow import part_of_elements
from pendel.infer.maximum.frame_moves import ClimbTuning, climber
from pendel.infer.maximum.map import MapFit
from pendel.infer.maximum.objective import differentiable, objective
from pendel.infer.maximum.optimise import Progress
from pendel.infer.plates import elements_of_frames, frame_count, frame_of_elements
from pendel.infer.target import Target

TRIALS = 16  # starts of climbs, drawn from the prior around the MAP point
CLIMB = 8  # steps of scoring from a start, and again from where they lead to
APART = 3.0  # standard deviations between two maxima
DEEP = 10.0  # in log density; a maximum that far below the best of its frame is left out
MOST = 4  # maxima of a frame
FOLLOWING = 3  # scoring steps of the parameters of a frame that reach no simulation
TRIES = 2  # of a jump, after every draw

type Jump = Callable[[Place, Array], tuple[Float[Array, " n"], Int[Array, ""]]]


@dataclasses.dataclass(frozen=True)
class Maxima:
    """The best maxima of every frame given all else at a MAP point, best first.

    `z`: row k holds maximum k of every frame in the elements of that frame, and the MAP point where there is none;
    `count`: how many a frame has, 0 where no climb ended well; `scale`: standard deviation of every element.
    """

    z: Float[np.ndarray, "most n"]
    count: Int[np.ndarray, " frames"]
    scale: Float[np.ndarray, " n"]


def frame_maxima(
    target: Target,
    start: MapFit,
    replay: Replay,
    key: Array,
    progress: Progress | None = None,
) -> Maxima:
    """Climb from many places, and once more from where the best climbs ended.

    Args:
        replay: says which elements are moved.
        progress: called as progress("maxima", climb, climbs, {}).
    """
    target = differentiable(target, "forward")
    data = target.data
    spreads = {name: jnp.asarray(value) for name, value in start.spreads.items()}
    scores, centre = objective(target).frames, jnp.asarray(start.unconstrained)
    climb = climber(scores, centre, spreads, data, ClimbTuning(steps=CLIMB))
    curvature = np.asarray(scores.prior(centre, spreads, data)[1])
    width = np.zeros(start.layout.size)
    width[replay.frames] = 1 / np.sqrt(np.maximum(-curvature[replay.frames], 1e-6))
    precision = _precision_of_frames(start)

    def ends(starts, done):
        found = []
        for number, one in enumerate(starts):
            found.append(tuple(map(np.asarray, climb(one))))
            if progress is not None:
                progress("maxima", done + number + 1, 1 + TRIALS + MOST, {})
        return found

    noise = jax.random.normal(key, (TRIALS, len(width)))
    rough, _ = _best_apart(ends([centre, *(centre + noise * width)], 0), start, precision)
    z, count = _best_apart(ends(list(map(jnp.asarray, rough)), 1 + TRIALS), start, precision)
    return Maxima(z, count, np.sqrt(start.root.variance()))


def _best_apart(found, start: MapFit, precision) -> tuple[np.ndarray, np.ndarray]:
    """`Maxima.z` and `Maxima.count` of (z, log density of every frame) pairs."""
    owner = frame_of_elements(start.layout)
    z, count = np.tile(start.unconstrained, (MOST, 1)), np.zeros(frame_count(start.layout), dtype=int)
    for frame in range(len(count)):
        mine = np.flatnonzero(owner == frame)
        places, heights = np.stack([one[mine] for one, _ in found]), np.array([total[frame] for _, total in found])
        chosen = _distinct(places, heights, precision[frame, : len(mine), : len(mine)])
        z[: len(chosen), mine], count[frame] = places[chosen], len(chosen)
    return z, count


def _precision_of_frames(start: MapFit) -> Float[np.ndarray, "frames width width"]:
    """Of the elements of every frame, zero where a frame has fewer than others."""
    part, own = part_of_elements(elements_of_frames(start.layout), start.layout.globals, start.precision.sizes)
    blocks = jnp.asarray(start.precision.blocks)
    return np.asarray(blocks.at[part[:, :, None], own[:, :, None], own[:, None, :]].get(mode="fill", fill_value=0))


def _distinct(places, heights, precision) -> list[int]:
    """Indices of the highest places that are apart from each other."""
    chosen: list[int] = []
    for index in np.argsort(-heights, kind="stable"):
        if len(chosen) == MOST or not heights[index] > np.max(heights) - DEEP:
            break
        away = [places[index] - places[other] for other in chosen]
        if all(step @ precision @ step > APART**2 for step in away):
            chosen.append(int(index))
    return chosen


def frame_jumps(space: Whitened, maxima: Maxima) -> Jump:
    """A Markov kernel (place, key) -> z after TRIES of a jump in every frame that has several maxima, and jumps taken.

    It leaves the posterior as it is. One simulation for every try.
    """
    replay, peaks, count = space.replay, jnp.asarray(maxima.z), jnp.asarray(np.maximum(maxima.count, 1))
    owner, several = frame_of_elements(replay.layout), jnp.asarray(np.flatnonzero(maxima.count > 1))
    elements = np.arange(len(owner))
    moved, free = np.isin(elements, replay.frames), np.isin(elements, replay.free) & (owner >= 0)

    def best_free(place, simulated, z):
        return _best_free(space, place, peaks[0], owner, free)(simulated, z)

    def nearest(z):
        """Number of the maximum every frame is nearest to."""
        away = jnp.where(moved, ((z - peaks) / maxima.scale) ** 2, 0.0)
        of_frame = jnp.zeros((len(peaks), len(count))).at[:, owner].add(jnp.where(owner >= 0, away, 0.0))
        return jnp.argmin(jnp.where(jnp.arange(len(peaks))[:, None] < count, of_frame, jnp.inf), axis=0)

    @jax.jit
    def first(place):
        likelihood = replay.frame_log_likelihood(place.simulated, place.z, place.spreads)
        return place.z, best_free(place, place.simulated, place.z), likelihood, jnp.zeros((), dtype=int)

    @jax.jit
    def proposed(z, key):
        here = nearest(z)
        there = (here + 1 + jax.random.randint(key, count.shape, 0, jnp.maximum(count - 1, 1))) % count
        return z + jnp.where(moved, peaks[there[owner], elements] - peaks[here[owner], elements], 0.0), there

    @jax.jit
    def decided(now, trial, there, simulated, place, key):
        (z, best, likelihood, taken), spreads = now, place.spreads
        trial_best = best_free(place, simulated, trial)
        trial = trial + jnp.where(free, trial_best - best, 0.0)
        trial_likelihood = replay.frame_log_likelihood(simulated, trial, spreads)
        gain = jnp.where(nearest(trial) == there, trial_likelihood - likelihood, -jnp.inf)

        def decide(now, item):
            z, prior = now
            frame, log_uniform = item
            changed = jnp.where(owner == frame, trial, z)
            new_prior = space.log_prior(changed, spreads)
            accepted = log_uniform < gain[frame] + new_prior - prior  # not where it is not finite
            return (jnp.where(accepted, changed, z), jnp.where(accepted, new_prior, prior)), accepted

        log_uniform = jnp.log(jax.random.uniform(key, several.shape))
        (z, _), accepted = jax.lax.scan(decide, (z, space.log_prior(z, spreads)), (several, log_uniform))
        accepted = jnp.zeros(count.shape, dtype=bool).at[several].set(accepted)
        best = jnp.where((owner >= 0) & accepted[owner], trial_best, best)
        return z, best, jnp.where(accepted, trial_likelihood, likelihood), taken + jnp.sum(accepted)

    def jump(place, key):
        now = first(place)
        for one in jax.random.split(key, TRIES):
            which, chance = jax.random.split(one)
            trial, there = proposed(now[0], which)
            now = decided(now, trial, there, space.simulate(trial, place.spreads), place, chance)
        return now[0], now[3]

    return jump


def _best_free(
    space: Whitened, place: Place, centre: Float[Array, " n"], owner: Int[np.ndarray, " n"], free: Bool[Array, " n"]
) -> Callable[[Any, Float[Array, " n"]], Float[Array, " n"]]:
    """A function (simulated, z) -> z with the free elements of frames near their maximum, whatever they were in z.

    Every frame for itself, the others at `centre`: the result in a frame may not know where the others are.
    """
    replay, spreads = space.replay, place.spreads
    still = jnp.where(owner >= 0, centre, place.z)
    middle, owners = still[replay.free], owner[replay.free]

    def log_prior(x):
        return space.log_prior(still.at[replay.free].set(x), spreads)

    slope = jax.grad(log_prior)(middle)
    precision = jnp.where(owners[:, None] == owners[None, :], -jax.hessian(log_prior)(middle), 0.0)

    def settle(simulated, z):
        z = jnp.where(free, still, z)
        for _ in range(FOLLOWING if np.any(free) else 0):
            of_prior = slope - precision @ (z[replay.free] - middle), precision
            z = z.at[replay.free].add(replay.frame_scoring_step(simulated, z, spreads, of_prior))
        return z

    return settle
