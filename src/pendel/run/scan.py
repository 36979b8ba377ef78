"""Start values: thickness basins, frame scales and tilts, all under the integrated dynamical model.

A table of intensities on a grid of thicknesses costs little more than one thickness, because every node shares the
Chebyshev states. Each frame's misfit is found for every (tilt, thickness, taper), first for a few frames and all
thicknesses: the lowest places of their summed misfit, apart in thickness or taper, are the basins. Then for all frames
and the thicknesses of the basins: a profile along the goniometer angle follows by dynamic programming.
"""

import dataclasses
import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy.special import softmax

from pendel.base import Array
from pendel.crystal.structure import Crystal
from pendel.model.dataset import DataSet
from pendel.model.thickness_prior import further_starts
from pendel.simulate import thickness_table
from pendel.simulate.plan import only_frames

Progress = Callable[[str, int, int, dict[str, float]], None]

GRID_STEP = 20.0  # Å; a quarter of the shortest fringe, 1 / S at the edge of the beam selection
MOVE_STEP = 0.12  # deg
SAMPLING_STEPS = (-2, -1, 1, 2)
TILT_STEP = 0.14  # deg; recorded angles are off by this much
TAPERS = (0.05, 0.2, 0.6, 1.2)  # tapers tried, see `pendel.simulate.thickness.tapered`
TILT_SPREAD = 0.12  # deg, standard deviation expected
MODEL_ERROR = 0.12  # relative, of the misfit used here
ROUGHNESS = 0.15  # standard deviation of log thickness between frames 20 degrees apart
BASINS = 4
SCOUTS = 24  # frames from which the basins are found
BASIN_DISTANCE = 0.12  # in log thickness


@dataclasses.dataclass(frozen=True)
class Start:
    """Start values of the frame parameters, one set per thickness basin, the best basin first.

    `values`: sites log_scale, tilt [deg], log_thickness, log_taper and further curves of thickness families, and their
    means, with the data set's suffix; `basins`: (median over frames of the largest thickness T [Å], misfit) of each
    set; `landscape`: (thicknesses [Å], misfit of the best taper).
    """

    values: tuple[dict[str, Array], ...]
    basins: tuple[tuple[float, float], ...]
    landscape: tuple[Float[np.ndarray, " nodes"], Float[np.ndarray, " nodes"]]


def find_start(
    crystal: Crystal,
    datasets: tuple[DataSet, ...],
    *,
    thickness_min: float = 100.0,
    progress: Progress | None = None,
) -> Start:
    """Scan thickness, taper and tilt for all frames of every data set, with scales fitted.

    Args:
        crystal: start structure.
        datasets: the measured crystals; the `thickness_max` [Å] of their plans ends the scan.
        thickness_min: below where the scan starts [Å]: it runs from 1.2 times this to 0.9 times `thickness_max`.
    """
    sets, landscapes = [], []
    for data in datasets:
        values, scores, landscape = _scan(crystal, data, thickness_min, progress)
        sets.append((values, scores))
        landscapes.append(landscape)
    count = min(len(values) for values, _ in sets)
    merged = tuple({k: v for values, _ in sets for k, v in values[basin].items()} for basin in range(count))
    basins = tuple(
        (float(np.exp(np.median(sets[0][0][i]["log_thickness"]))), float(sum(scores[i] for _, scores in sets)))
        for i in range(count)
    )
    return Start(merged, basins, landscapes[0])


def tilt_moves(datasets: tuple[DataSet, ...]) -> list[list[dict[str, Array]]]:
    """Changes of the tilt [deg] to try on every frame once the structure is near, for each round of a fit.

    Around every frame there are other fringes. Along a rotation there are maxima at every step of its sampling: the
    simulated tilts fall on their neighbours and only the two ends differ, where fringes are undersampled.
    """
    around = [step for step in _square(MOVE_STEP) if np.any(step)]
    near: list[dict[str, Array]] = [{} for _ in around]
    along: list[dict[str, Array]] = [{} for _ in SAMPLING_STEPS]
    for data in datasets:
        experiment, plan, name = data.experiment, data.plan, f"tilt{data.suffix}"
        for move, change in zip(near, around, strict=True):
            move[name] = jnp.broadcast_to(jnp.asarray(change), (plan.frames, 2))
        if experiment.geometry == "rotation":
            sampling = 2 * np.asarray(experiment.semi_angle) / (plan.settings.tilts - 1)
            for move, count in zip(along, SAMPLING_STEPS, strict=True):
                move[name] = jnp.asarray(np.outer(count * sampling, (1.0, 0.0)))
    along = [move for move in along if move]
    return [near + along, along, along]


def _scan(crystal, data, thickness_min, progress):
    """Basins of one data set: start values and misfits, best first."""
    experiment, plan = data.experiment, data.plan
    every = max(1, plan.frames // SCOUTS)
    scouts = only_frames(plan, np.arange(plan.frames) % every == 0)
    thickest = _geometric(1.2 * thickness_min, 0.9 * plan.settings.thickness_max)
    misfit, _ = _table(crystal, experiment, scouts, thickest, _square(TILT_STEP), progress)
    total = np.min(misfit, axis=0)[::every].sum(axis=0).reshape(len(thickest), len(TAPERS))
    basins = [(thickest[i], taper) for i, taper in _basins(thickest, total)]
    landscape = (thickest, total.min(axis=1))

    tilts, frames = _square(TILT_STEP), np.arange(plan.frames)
    thickest = _geometric(0.6 * min(basins)[0], min(1.4 * max(basins)[0], thickest[-1]))
    misfit, log_scale = _table(crystal, experiment, plan, thickest, tilts, progress)
    lowest = np.min(misfit, axis=0).reshape(plan.frames, len(thickest), len(TAPERS))
    values, scores = [], []
    for thickness, taper in basins:
        basin = int(np.argmin(np.abs(thickest - thickness)))
        path, score = _profile(lowest[:, :, taper], experiment.alpha, thickest, basin)
        state = path * len(TAPERS) + taper
        likely = softmax(-misfit[:, frames, state], axis=0)
        found = {
            "log_scale": np.sum(likely * log_scale[:, frames, state], axis=0),
            "log_thickness": np.log(thickest[path]),
            "log_taper": np.full(plan.frames, np.log(TAPERS[taper])),
            **{name: np.full(plan.frames, value) for name, value in further_starts().items()},
        }
        found |= {f"{name}_mean": np.mean(value) for name, value in found.items()} | {"tilt": likely.T @ tilts}
        values.append({f"{name}{data.suffix}": value for name, value in found.items()})
        scores.append(score)
    order = np.argsort(scores)
    return [values[i] for i in order], [scores[i] for i in order], landscape


def _geometric(first: float, last: float) -> Float[np.ndarray, " thicknesses"]:
    """Thicknesses [Å] that differ by 3 %."""
    return np.exp(np.arange(np.log(first), np.log(last) + 1e-9, 0.03))


def _square(step: float) -> Float[np.ndarray, "tilts 2"]:
    """A square of nine tilts [deg] around zero."""
    return step * np.array([(x, y) for x in (-1, 0, 1) for y in (-1, 0, 1)])


def _table(crystal, experiment, plan, thickest, tilts, progress):
    """Misfit and log scale of every tilt, frame, and (largest thickness, taper) [tilts frames thickest*tapers]."""
    nodes = np.arange(GRID_STEP, thickest[-1] + GRID_STEP, GRID_STEP)
    density = _tapered_weights(nodes, thickest)
    table = jax.jit(thickness_table)
    misfit, log_scale = [], []
    for number, tilt in enumerate(tilts):
        everywhere = jnp.broadcast_to(jnp.asarray(tilt), (plan.frames, 2))
        intensity = np.asarray(table(crystal, plan, tilt=everywhere, thickness=jnp.asarray(nodes))) @ density
        frame_misfit, frame_scale = _frame_misfit(experiment, plan.frames, intensity)
        misfit.append(np.nan_to_num(frame_misfit, nan=np.inf) + 0.5 * np.sum((tilt / TILT_SPREAD) ** 2))
        log_scale.append(np.nan_to_num(frame_scale))
        if progress is not None:
            progress("start", number + 1, len(tilts), {})
    return np.array(misfit), np.array(log_scale)


def _tapered_weights(nodes, thickest):
    """Weights [nodes thickest*tapers] of tapered densities on the fixed grid: F(t) = (t / T)^(1/k)."""
    edges = np.append(nodes - GRID_STEP / 2, np.inf)
    edges[0] = 0.0
    reached = np.minimum(edges[:, None, None] / thickest[None, :, None], 1.0) ** (1 / np.array(TAPERS))
    return np.diff(reached, axis=0).reshape(len(nodes), -1)


def _frame_misfit(experiment, frames, intensity):
    """Student-t misfit (nu = 4) and log scale [frames states] after fitting each frame's scale."""
    observed, sigma = experiment.intensity[:, None], experiment.sigma[:, None]
    index = experiment.frame_index
    member = (np.arange(frames)[:, None] == index).astype(float)

    def per_frame(x):
        return member @ x

    weight = 1 / (sigma**2 + (MODEL_ERROR * np.maximum(observed, 0)) ** 2)
    scale = per_frame(weight * observed * intensity) / np.maximum(per_frame(weight * intensity**2), 1e-300)
    for _ in range(2):
        scale = np.maximum(scale, 1e-6 * np.max(scale))
        calculated = scale[index] * intensity
        spread = sigma**2 + (MODEL_ERROR * calculated) ** 2
        weight = 1 / (spread * (1 + (observed - calculated) ** 2 / (4 * spread)))
        scale = per_frame(weight * observed * intensity) / np.maximum(per_frame(weight * intensity**2), 1e-300)
    scale = np.maximum(scale, 1e-6 * np.max(scale))
    calculated = scale[index] * intensity
    spread = sigma**2 + (MODEL_ERROR * calculated) ** 2
    misfit = 2.5 * np.log1p((observed - calculated) ** 2 / (4 * spread)) + 0.5 * np.log(spread)
    return per_frame(misfit), np.log(scale)


def _basins(thickest, total):
    """(thickness, taper) of the lowest misfits; basins of one taper stand apart in thickness."""
    chosen: list[tuple[int, int]] = []
    for flat in np.argsort(total, axis=None):
        i, taper = divmod(int(flat), total.shape[1])
        if all(other != taper or abs(np.log(thickest[i] / thickest[j])) > BASIN_DISTANCE for j, other in chosen):
            chosen.append((i, taper))
        if len(chosen) == BASINS:
            break
    return chosen


def _profile(misfit, alpha, means, basin):
    """Smoothest cheap path of log thickness along the angle that stays near a basin (Viterbi), and its cost."""
    order = np.argsort(alpha)
    log_means = np.log(means)
    near = 0.5 * ((log_means - log_means[basin]) / ROUGHNESS) ** 2
    jump = 0.5 * (log_means[:, None] - log_means[None, :]) ** 2
    cost, back = misfit[order[0]] + near, []
    for before, frame in itertools.pairwise(order):
        variance = ROUGHNESS**2 * max(abs(alpha[frame] - alpha[before]), 0.5) / 20.0
        step = cost[:, None] + jump / variance
        back.append(np.argmin(step, axis=0))
        cost = step[back[-1], np.arange(len(means))] + misfit[frame] + near
    path = [int(np.argmin(cost))]
    for pointer in reversed(back):
        path.append(int(pointer[path[-1]]))
    result = np.empty(len(alpha), dtype=int)
    result[order] = path[::-1]
    return result, float(np.min(cost))
