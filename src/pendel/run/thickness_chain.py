"""Thickness along the goniometer angle on a grid, with every path summed over: evidence and profile of a basin.

    x_f | x_(f-1) ~ Normal(m + r (x_(f-1) - m), s^2 (1 - r^2)),  r = exp(-|alpha_f - alpha_(f-1)| / 20 deg)
    log T_f       ~ Normal(x_f, (s / 3)^2)

s is the spread of a crystal's curve around its own mean m; single frames scatter around the curve by a third of it. It
is the coarse sister of the prior in `pendel.model.thickness_prior`: an Ornstein-Uhlenbeck curve needs neighbours only.
"""

import itertools

import numpy as np
from jaxtyping import Float, Int

from pendel.base import Array
from pendel.model.thickness_prior import LENGTH_DEG

TINY = 1e-200  # smallest density, so that frames that contradict each other have a finite misfit
JUMP = 1 / 3  # standard deviation of the log thickness of a frame around the curve, over the spread of the curve


def chain_misfit(
    misfit: Float[Array, "*batch frames grid"],
    alpha: Float[Array, " frames"],
    log_grid: Float[Array, " grid"],
    mean: float,
    spread: float,
) -> Float[np.ndarray, " *batch"]:
    """-log of the sum over all curves around `mean` [log Å] of exp(-misfit).

    Args:
        misfit: -log likelihood of every frame at every log thickness of the grid; leading axes are alternatives.
        alpha: goniometer angle of the frames [deg].
        log_grid: log thickness [log Å], equally spaced.
        spread: s, standard deviation of the log thickness of a crystal around its mean.
    """
    order, angles, start = _ordered(alpha, log_grid, mean, spread)
    lowest = np.min(misfit, axis=-1)
    own = np.moveaxis(_of_curve(misfit, log_grid, spread), -2, 0)[order]
    message, total = start * own[0], -np.sum(lowest, axis=-1)
    for f, (before, after) in enumerate(itertools.pairwise(angles), start=1):
        message = (message @ _transition(log_grid, mean, spread, after - before).T) * own[f]
        size = np.maximum(np.sum(message, axis=-1, keepdims=True), TINY)
        message, total = np.maximum(message / size, TINY), total + np.log(size[..., 0])
    return np.asarray(-total)


def likely_profile(
    misfit: Float[Array, "frames grid"],
    alpha: Float[Array, " frames"],
    log_grid: Float[Array, " grid"],
    mean: float,
    spread: float,
) -> Int[np.ndarray, " frames"]:
    """Index of the most probable log thickness of every frame, all others summed over; arguments as above."""
    order, angles, start = _ordered(alpha, log_grid, mean, spread)
    own = _of_curve(misfit, log_grid, spread)[order]
    steps = [_transition(log_grid, mean, spread, after - before) for before, after in itertools.pairwise(angles)]
    before = [start]  # p(curve | earlier frames)
    for f, step in enumerate(steps):
        before.append(_normalised(step @ (before[f] * own[f])))
    after = [np.ones_like(start)]  # p(later frames | curve), up to a factor
    for f in range(len(steps) - 1, -1, -1):
        after.insert(0, _normalised(steps[f].T @ (after[0] * own[f + 1])))
    jump, result = _jump(log_grid, spread), np.empty(len(order), dtype=int)
    for f, frame in enumerate(order):
        expected = np.maximum((before[f] * after[f]) @ jump, TINY)
        result[frame] = np.argmax(np.log(expected) - misfit[frame])
    return result


def _ordered(alpha, log_grid, mean, spread):
    """Frames in the order of their angles, those angles, and the distribution of the curve in the first one."""
    order = np.argsort(alpha, kind="stable")
    start = np.exp(-0.5 * ((log_grid - mean) / spread) ** 2)
    return order, np.asarray(alpha)[order], start / np.sum(start)


def _of_curve(misfit, log_grid, spread):
    """Likelihood of the curve in every frame, its jump summed over, relative to the best thickness."""
    likelihood = np.exp(np.min(misfit, axis=-1, keepdims=True) - misfit)
    return np.maximum(likelihood @ _jump(log_grid, spread).T, TINY)


def _transition(log_grid, mean, spread, angle):
    """p(curve at the next frame | curve at this one) [next this], both on the grid."""
    kept = np.exp(-max(abs(angle), 0.3) / LENGTH_DEG)  # frames at one angle differ a little
    expected = mean + kept * (log_grid - mean)
    density = np.exp(-0.5 * ((log_grid[:, None] - expected[None, :]) / spread) ** 2 / (1 - kept**2))
    return density / np.sum(density, axis=0, keepdims=True)


def _jump(log_grid, spread):
    """p(log T of a frame | curve) [curve frame] on the grid."""
    density = np.exp(-0.5 * ((log_grid[:, None] - log_grid[None, :]) / (JUMP * spread)) ** 2)
    return density / np.sum(density, axis=1, keepdims=True)


def _normalised(density):
    return np.maximum(density / np.maximum(np.sum(density), TINY), TINY)
