"""Start values: thickness basins, frame scales and tilts, all under the integrated dynamical model.

A table of intensities on a grid of thicknesses costs little more than one thickness, because every node shares the
Chebyshev states. Each frame's misfit is found for every (tilt, thickness, taper), first for a few frames and all
thicknesses. Errors and background are those that explain the table best. The evidence of a mean thickness and a taper
is the sum over all tilts and all curves of thickness along the goniometer angle, see `pendel.run.thickness_chain`, of
small spread and of large; its valleys are the basins. Then for all frames and the thicknesses of the basins: the most
probable curve of each.
"""

import dataclasses
import itertools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy.signal import find_peaks
from scipy.special import logsumexp, softmax

from pendel.base import Array
from pendel.crystal.structure import Crystal
from pendel.model.dataset import DataSet
from pendel.model.thickness_prior import TAPER, THICKNESS, further_starts
from pendel.run.thickness_chain import chain_misfit, likely_profile
from pendel.simulate import thickness_table
from pendel.simulate.plan import only_frames

Progress = Callable[[str, int, int, dict[str, float]], None]

GRID_STEP = 20.0  # Å; a quarter of the shortest fringe, 1 / S at the edge of the beam selection
MOVE_STEP = 0.12  # deg
SAMPLING_STEPS = (-2, -1, 1, 2)
TILT_STEP = 0.14  # deg; recorded angles are off by this much
TAPERS = (0.05, 0.2, 0.6, 1.2)  # tapers tried, see `pendel.simulate.thickness.tapered`
TILT_SPREAD = 0.12  # deg, standard deviation expected
MODEL_ERRORS = (0.06, 0.12, 0.2)  # relative, of the misfit used here
BACKGROUNDS = (0.0, 0.5, 1.0)  # of the misfit used here, in units of the reported sigma
BASINS = 4
SCOUTS = 24  # frames from which the basins are found
VALLEY = 2.0  # nats that the misfit must rise between two basins
# deg. The scan takes the crystal for perfect, so a fit goes on from a mosaicity that changes little; with twice as much
# a fit of paracetamol ended 28 nats lower. The gradient vanishes at zero.
MOSAICITY = 0.08
# Of the log thickness along the angle, tried. Plates and needles change by factors: for urea the evidence of 0.6 is 7
# nats above that of 0.15, for paracetamol 21, for quartz 4 below.
SPREADS = (0.15, 0.3, 0.6)
THINNEST = 0.6  # of the smallest mean thickness that is tried: the thinnest frame
MEAN_PRIOR = 0.8  # standard deviation of the logs of mean thickness and taper, as in the shipped models


@dataclasses.dataclass(frozen=True)
class Start:
    """Start values of the frame parameters, one set per thickness basin, the best basin first.

    `values`: sites log_scale, tilt [deg], log_thickness, log_taper and further curves of thickness families, their
    means, thickness_spread, and mosaicity [deg], with the data set's suffix; `basins`: (median over frames of the
    largest thickness T [Å], misfit) of each set; `landscape`: (thicknesses [Å], misfit of the best taper).
    """

    values: tuple[dict[str, Array], ...]
    basins: tuple[tuple[float, float], ...]
    landscape: tuple[Float[np.ndarray, " nodes"], Float[np.ndarray, " nodes"]]


class Basin(NamedTuple):
    """A valley of the misfit: mean thickness along the angle [Å], number of the taper, spread of the log thickness."""

    mean: float
    taper: int
    spread: float


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
    are_scouts = np.arange(plan.frames) % every == 0
    thickest = _geometric(1.2 * thickness_min, 0.9 * plan.settings.thickness_max)
    errors, misfit, _ = _table(crystal, experiment, only_frames(plan, are_scouts), thickest, progress)
    basins, lowest = _basins(misfit[:, are_scouts], experiment.alpha[are_scouts], thickest)
    landscape = (thickest, lowest)

    room = 3 * max(basin.spread for basin in basins)
    means = [basin.mean for basin in basins]
    thinnest = max(min(means) / np.exp(room), THINNEST * thickest[0])
    thickest = _geometric(thinnest, min(max(means) * np.exp(room), thickest[-1]))
    _, misfit, log_scale = _table(crystal, experiment, plan, thickest, progress, errors)
    frames, grid, values, scores = np.arange(plan.frames), np.log(thickest), [], []
    for basin in basins:
        taper, mean, cost = basin.taper, np.log(basin.mean), _over_tilts(misfit[..., basin.taper])
        path = likely_profile(cost, experiment.alpha, grid, mean, basin.spread)
        likely = softmax(-misfit[:, frames, path, taper], axis=0)
        found = {
            "log_scale": np.sum(likely * log_scale[:, frames, path, taper], axis=0),
            "log_thickness": grid[path],
            "log_taper": np.full(plan.frames, np.log(TAPERS[taper])),
            **{name: np.full(plan.frames, value) for name, value in further_starts().items()},
        }
        found |= {f"{name}_mean": np.mean(value) for name, value in found.items()}
        found |= {"tilt": likely.T @ _tilts(), "mosaicity": np.asarray(MOSAICITY)}
        found |= {"thickness_spread": np.asarray(basin.spread)}
        values.append({f"{name}{data.suffix}": value for name, value in found.items()})
        scores.append(float(_over_curves(cost, experiment.alpha, grid, mean)[1]) - _log_prior(mean, taper))
    order = np.argsort(scores)
    return [values[i] for i in order], [scores[i] for i in order], landscape


def _geometric(first: float, last: float) -> Float[np.ndarray, " thicknesses"]:
    """Thicknesses [Å] that differ by 3 %."""
    return np.exp(np.arange(np.log(first), np.log(last) + 1e-9, 0.03))


def _square(step: float) -> Float[np.ndarray, "tilts 2"]:
    """A square of nine tilts [deg] around zero."""
    return step * np.array([(x, y) for x in (-1, 0, 1) for y in (-1, 0, 1)])


def _tilts() -> Float[np.ndarray, "tilts 2"]:
    """The tilts of a frame that are tried [deg], the recorded orientation first."""
    square = _square(TILT_STEP)
    return square[np.argsort(np.sum(square**2, axis=1), kind="stable")]


def _table(crystal, experiment, plan, thickest, progress, errors=None):
    """Misfit and log scale of every tilt, frame, thickest and taper, with the errors (b, background) used for them.

    errors: the pair to use; without it the pair that fits the recorded orientations best.
    """
    nodes = np.arange(GRID_STEP, thickest[-1] + GRID_STEP, GRID_STEP)
    density = _tapered_weights(nodes, thickest)
    table = jax.jit(thickness_table)
    misfit, log_scale = [], []
    for number, tilt in enumerate(_tilts()):
        everywhere = jnp.broadcast_to(jnp.asarray(tilt), (plan.frames, 2))
        intensity = np.asarray(table(crystal, plan, tilt=everywhere, thickness=jnp.asarray(nodes))) @ density
        errors = errors or _likely_errors(experiment, plan, intensity)
        frame_misfit, frame_scale = _frame_misfit(experiment, plan.frames, intensity, *errors)
        misfit.append(np.nan_to_num(frame_misfit, nan=np.inf) + 0.5 * np.sum((tilt / TILT_SPREAD) ** 2))
        log_scale.append(np.nan_to_num(frame_scale))
        if progress is not None:
            progress("start", number + 1, len(_tilts()), {})
    shape = (-1, plan.frames, len(thickest), len(TAPERS))
    return errors, np.reshape(misfit, shape), np.reshape(log_scale, shape)


def _likely_errors(experiment, plan, intensity):
    """Relative model error b and background [sigma] with the lowest misfit over thickness and taper of all frames."""
    used = np.unique(np.concatenate([group.frame for group in plan.groups]))

    def lowest(errors):
        misfit, _ = _frame_misfit(experiment, plan.frames, intensity, *errors)
        return np.nanmin(np.sum(misfit[used], axis=0))

    return min(itertools.product(MODEL_ERRORS, BACKGROUNDS), key=lowest)


def _tapered_weights(nodes, thickest):
    """Weights [nodes thickest*tapers] of tapered densities on the fixed grid: F(t) = (t / T)^(1/k)."""
    edges = np.append(nodes - GRID_STEP / 2, np.inf)
    edges[0] = 0.0
    reached = np.minimum(edges[:, None, None] / thickest[None, :, None], 1.0) ** (1 / np.array(TAPERS))
    return np.diff(reached, axis=0).reshape(len(nodes), -1)


def _frame_misfit(experiment, frames, intensity, model_error, background):
    """Student-t misfit (nu = 4) and log scale [frames states] after fitting each frame's scale.

    model_error: relative to the intensity; background: in units of sigma, in every measurement.
    """
    sigma = experiment.sigma[:, None]
    observed = experiment.intensity[:, None] - background * sigma
    index = experiment.frame_index
    member = (np.arange(frames)[:, None] == index).astype(float)

    def per_frame(x):
        return member @ x

    weight = 1 / (sigma**2 + (model_error * np.maximum(observed, 0)) ** 2)
    scale = per_frame(weight * observed * intensity) / np.maximum(per_frame(weight * intensity**2), 1e-300)
    for _ in range(2):
        scale = np.maximum(scale, 1e-6 * np.max(scale))
        calculated = scale[index] * intensity
        spread = sigma**2 + (model_error * calculated) ** 2
        weight = 1 / (spread * (1 + (observed - calculated) ** 2 / (4 * spread)))
        scale = per_frame(weight * observed * intensity) / np.maximum(per_frame(weight * intensity**2), 1e-300)
    scale = np.maximum(scale, 1e-6 * np.max(scale))
    calculated = scale[index] * intensity
    spread = sigma**2 + (model_error * calculated) ** 2
    misfit = 2.5 * np.log1p((observed - calculated) ** 2 / (4 * spread)) + 0.5 * np.log(spread)
    return per_frame(misfit), np.log(scale)


def _over_tilts(misfit):
    """-log of the mean over tilts of exp(-misfit) [frames thickest]."""
    return np.log(len(misfit)) - logsumexp(-misfit, axis=0)


def _log_prior(mean, taper):
    """Log prior of the mean log thickness and the taper, up to a constant."""
    away = mean - np.log(THICKNESS.mean), np.log(TAPERS[taper] / TAPER.mean)
    return -0.5 * np.sum((np.array(away) / MEAN_PRIOR) ** 2)


def _over_curves(cost, alpha, grid, mean):
    """The most probable of `SPREADS` [*batch], and -log of the sum over all curves of all spreads [*batch]."""
    prior = 0.5 * (np.array(SPREADS) / THICKNESS.spread.scale) ** 2
    each = [chain_misfit(cost, alpha, grid, mean, spread) for spread in SPREADS]
    misfit = np.array([one + more for one, more in zip(each, prior, strict=True)])
    return np.array(SPREADS)[np.argmin(misfit, axis=0)], -np.asarray(logsumexp(-misfit, axis=0))


def _basins(misfit, alpha, thickest):
    """The valleys of the misfit, lowest first, and the lowest misfit of all tapers at every mean thickness.

    misfit: [tilts frames thickest tapers].
    """
    grid, tapers = np.log(thickest), range(len(TAPERS))
    cost = np.array([_over_tilts(misfit[..., taper]) for taper in tapers])
    found = [_over_curves(cost, alpha, grid, mean) for mean in grid]
    prior = np.array([[_log_prior(mean, taper) for taper in tapers] for mean in grid])
    spread, total = np.array([spread for spread, _ in found]), np.array([each for _, each in found]) - prior
    lowest = total.min(axis=1)
    valleys, _ = find_peaks(-np.pad(lowest, 1, constant_values=np.inf), prominence=VALLEY)
    best = sorted(valleys - 1, key=lambda i: lowest[i])[:BASINS]
    tapered = [(i, int(np.argmin(total[i]))) for i in best]
    return [Basin(float(thickest[i]), taper, float(spread[i, taper])) for i, taper in tapered], lowest
