"""Coarse to fine: a large refinement begins on few frames with fewer beams, and hands over what it found.

Where there are few frames, all of them are fitted, with fewer beams. Of many, ten to fifteen tell what all frames
share to a few standard deviations; then one scan with that structure starts every frame near its maximum, and the fit
with all frames and all beams needs few of its costly steps.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np

from pendel.base import Array
from pendel.crystal.structure import Crystal
from pendel.experiment.select import thin
from pendel.infer.maximum.map import MapFit
from pendel.infer.predict import derive
from pendel.model.dataset import DataSet
from pendel.run.inputs import Problem
from pendel.run.settings import Settings
from pendel.run.tuning import Coarsening
from pendel.simulate import Plan
from pendel.simulate.cost import operations
from pendel.simulate.planning import BEAM_ERROR

LARGEST_ERROR = 0.1  # by beams of a coarse problem; with more it is no coarse form of the same
STRUCTURE = {"fract": "fract", "U_aniso": "u_aniso", "occupancy": "occupancy", "contraction": "contraction"}

type Values = Mapping[str, Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Coarse:
    """The coarse problem: every `every`-th frame, counted in the frames of the whole problem, and its settings.

    `beams`: the settings that decide on the beams and differ from those of the whole problem.
    """

    problem: Problem
    settings: Settings
    every: int
    beams: dict[str, float]


def is_costly(plans: Sequence[Plan], rule: Coarsening) -> bool:
    """Whether one simulation takes so long that a fit should not begin with all frames and beams."""
    return sum(operations(plan) for plan in plans) >= rule.worth * (1 if jax.default_backend() == "cpu" else rule.card)


def coarse_problem(problem: Problem, plans: Sequence[Plan], settings: Settings, rule: Coarsening) -> Coarse:
    """Few frames and beams of a problem that is expensive to simulate."""
    fewest = min(len(experiment.frame_id) for experiment in problem.experiments)
    every = max(1, fewest // rule.frames)
    few = tuple(thin(experiment, slice(None, None, every)) for experiment in problem.experiments)
    used = problem.used
    if used is not None:
        used = tuple(
            flags[np.asarray(experiment.frame_index) % every == 0]
            for flags, experiment in zip(used, problem.experiments, strict=True)
        )
    if settings.sg_max is not None:
        beams = {"sg_max": rule.beams * settings.sg_max}
    else:
        beams = {"beam_error": min(rule.errors * (settings.beam_error or BEAM_ERROR), LARGEST_ERROR)}
    return Coarse(
        problem=dataclasses.replace(problem, experiments=few, used=used),
        settings=dataclasses.replace(settings, **beams),
        every=every,
        beams=beams,
    )


def fitted_values(model: Callable, crystal: Crystal, datasets: tuple[DataSet, ...], fit: MapFit) -> dict[str, Array]:
    """Values of all sites at a fit, and the structure that the model derives from them."""
    draws = {name: np.asarray(value)[None] for name, value in fit.values.items()}
    derived = derive(model, (crystal, datasets), draws, leave_out=("calculated", "intensity"))
    return {**fit.values, **{name: derived[name][0] for name in STRUCTURE if name in derived}}


def fitted_crystal(crystal: Crystal, values: Values) -> Crystal:
    """The structure of `fitted_values`; what the model does not name stays."""
    found = {field: values[site] for site, field in STRUCTURE.items() if site in values}
    return dataclasses.replace(crystal, **found)


def handed_over(fitted: Values, scanned: Values, every: int) -> dict[str, Array]:
    """Start values of all frames: globals and fitted frames from the coarse fit, the other frames from a scan."""
    values = {**scanned, **{name: value for name, value in fitted.items() if name not in scanned}}
    for name in scanned.keys() & fitted.keys():
        if np.shape(fitted[name]) == np.shape(scanned[name]):
            values[name] = fitted[name]
        elif np.ndim(scanned[name]):
            values[name] = np.array(scanned[name])
            values[name][::every] = fitted[name]
    return values
