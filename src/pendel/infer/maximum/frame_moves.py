"""Larger moves of single frames out of a local maximum, all frames at once.

Fringes give a frame several maxima along its tilts and thickness. Given the globals, frames are independent but for
their smooth prior, so one trial with the same move in every frame is one trial for each of them: a few damped
Fisher-scoring steps of every frame by itself lead to the nearest maximum, and each frame keeps the best it saw.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from pendel.base import Array
from pendel.infer.layout import Layout
from pendel.infer.maximum.curvature import prior_curvature
from pendel.infer.maximum.normal_matrix import compressed_jacobian
from pendel.infer.plates import (
    by_element,
    by_frame,
    elements_of_frames,
    frame_count,
    frame_of_elements,
    working_on,
)
from pendel.infer.target import Data, Target, Values


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClimbTuning:
    """Numbers of a climb of single frames to their maxima; all gains are in log density.

    `steps` of scoring from a start, at most: with fewer, frames stop short of their maximum and the fit that follows is
    longer; more cost simulations. `least_gain`, for a frame to move: with less, noise moves frames; with more, frames
    stay in lower maxima. `converged`: a frame that gains less in a step takes no more of them. `damping` at the start.
    """

    steps: int = 4
    least_gain: float = 0.2
    converged: float = 0.05
    damping: float = 1e-2


@dataclasses.dataclass(frozen=True)
class FrameScores:
    """Compiled functions of one model and data set for moves of its frames.

    `prior`: (z, spreads, data) -> gradient and diagonal curvature of the log prior [2 n]; `score`: (z, anchor, prior,
    spreads, data) -> log density of every frame next to the frames of `anchor`, its gradient [n], and the Fisher matrix
    of every frame [frames width width], zero beyond the numbers of a frame.
    """

    layout: Layout
    prior: Callable
    score: Callable


def frame_scores(target: Target, sizes: tuple[int, ...]) -> FrameScores:
    """Functions for the spreads and data of a target, and others of the same shapes; `sizes`: see `part_sizes`."""
    layout = target.layout
    places, owner = elements_of_frames(layout), frame_of_elements(layout)
    of_frames = [site.name for site in layout.sites if site.plate is not None]

    def prior(z, spreads, data):
        def log_prior(z):
            return target.log_prior(layout.split(z), spreads, data)

        return jnp.stack([jax.grad(log_prior)(z), -prior_curvature(target, z, spreads, sizes, data).diagonal()])

    def score(z, anchor, prior, spreads, data):
        values = layout.split(z)
        results = target.simulate(values, spreads, data)
        prediction = target.predict(values, spreads, data, results)[1]
        slope, information = prediction.slope(), prediction.information()
        jacobian = compressed_jacobian(target, values, spreads, data, results, of_frames)[layout.globals :]
        moved = jnp.where(owner >= 0, z - anchor, 0.0)
        of_prior = jnp.zeros(frame_count(layout)).at[owner].add(prior[0] * moved + 0.5 * prior[1] * moved**2)
        total = by_frame(layout, prediction.pointwise()) + of_prior
        slopes = by_frame(layout, jnp.einsum("am,pam->pm", slope, jacobian))
        gradient = (prior[0] + prior[1] * moved).at[places].add(slopes, mode="drop")

        def times(row):
            return by_frame(layout, jnp.sum(jnp.sum(information * row, axis=1) * jacobian, axis=1))

        matrix = jnp.moveaxis(jax.lax.map(times, jacobian), 0, 1)
        own = jnp.arange(places.shape[1])
        matrix = matrix.at[:, own, own].add(-prior[1].at[places].get(mode="fill", fill_value=0))
        return total, gradient, matrix

    return FrameScores(layout, jax.jit(prior), jax.jit(score))


def moved_frames(
    scores: FrameScores,
    z: Float[Array, " n"],
    moves: Sequence[Mapping[str, Array]],
    spreads: Values,
    data: Data,
    *,
    tuning: ClimbTuning = ClimbTuning(),
    tell: Callable[[int, float], None] | None = None,
) -> Float[Array, " n"]:
    """z with every frame at the best maximum found from z and from each move of it; globals stay.

    The prior of a frame is its conditional next to the other frames of z, taken as quadratic.

    Args:
        moves: by frame site, what is added to its unconstrained value in every frame.
        tuning: of the climbs.
        tell: called with the number of climbs done and the log density of all frames.
    """
    climb = climber(scores, z, spreads, data, tuning)
    tell = tell or (lambda done, total: None)
    best, record = climb(z)
    tell(1, float(np.sum(record)))
    for number, move in enumerate(moves):
        values = scores.layout.split(z)
        shifted = {site: values[site] + change for site, change in move.items() if site in values}
        trial, found = climb(scores.layout.join({**values, **shifted}))
        better = found > record + tuning.least_gain
        best = jnp.where(by_element(scores.layout, better), trial, best)
        record = np.where(better, found, record)
        tell(number + 2, float(np.sum(record)))
    return best


def climber(
    scores: FrameScores, anchor: Float[Array, " n"], spreads: Values, data: Data, tuning: ClimbTuning
) -> Callable[[Float[Array, " n"]], tuple[Float[Array, " n"], Float[np.ndarray, " frames"]]]:
    """A function from a start to the maxima that frames reach from there, and the log density of every frame at its.

    Args:
        anchor: the prior of a frame is its conditional next to the frames of this z, taken as quadratic.
        tuning: of the climb.
    """
    prior = scores.prior(anchor, dict(spreads), data)

    def climb(start):
        def score(trial, moving):
            return scores.score(trial, anchor, prior, dict(spreads), working_on(data, scores.layout, moving))

        return _scoring(scores.layout, start, score, tuning)

    return climb


def _scoring(layout: Layout, z, score, tuning: ClimbTuning):
    """A few Levenberg-Marquardt steps, every frame with its own damping; z and the log density of the frames.

    score: (z, frames that still move) -> log densities, gradient and matrix; those of settled frames are not used.
    """
    moving = np.ones(frame_count(layout), dtype=bool)
    total, gradient, matrix = map(np.asarray, score(z, moving))
    total = np.nan_to_num(total, nan=-np.inf)
    damping = np.full(len(total), tuning.damping)
    for _ in range(tuning.steps):
        step = _step(layout, gradient, matrix, damping)
        trial = z + step
        new_total, new_gradient, new_matrix = map(np.asarray, score(trial, moving))
        new_total = np.nan_to_num(new_total, nan=-np.inf)
        better = moving & (new_total > total)
        promised, own = np.zeros(len(total)), slice(layout.globals, None)
        np.add.at(promised, frame_of_elements(layout)[own], (0.5 * gradient * step)[own])
        gained = np.subtract(new_total, total, out=promised, where=better)  # promised elsewhere
        moving &= gained > tuning.converged
        element = by_element(layout, better)
        z = jnp.where(element, trial, z)
        total = np.where(better, new_total, total)
        gradient = np.where(element, new_gradient, gradient)
        matrix = np.where(better[:, None, None], new_matrix, matrix)
        damping = np.where(better, damping / 5, damping * 10)
        if not np.any(moving):
            break
    return z, total


def _step(layout: Layout, gradient, matrix, damping):
    places = elements_of_frames(layout)
    scale = np.sqrt(np.maximum(np.einsum("fii->fi", matrix), 1e-6))
    block = matrix / (scale[:, :, None] * scale[:, None, :]) + damping[:, None, None] * np.eye(places.shape[1])
    block = np.nan_to_num(block, posinf=0.0, neginf=0.0) + 1e-9 * np.eye(places.shape[1])
    right = np.nan_to_num(np.append(gradient, 0.0)[places] / scale)
    step = np.zeros(layout.size + 1)  # the last one takes what narrower frames do not have
    step[places] = np.linalg.solve(block, right[..., None])[..., 0] / scale
    return step[:-1]
