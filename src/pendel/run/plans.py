"""Plans of a run: beams for finding start values, then beams around what was found."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from pendel.base import Array, suffix
from pendel.experiment.frames import Experiment
from pendel.infer.target import Target, make_target
from pendel.model.dataset import data_sets
from pendel.model.load import diffraction_theory, model_options
from pendel.run.inputs import Problem
from pendel.run.settings import Settings
from pendel.simulate import Plan, PlanSettings, make_plan
from pendel.simulate.beams import weak_beams
from pendel.simulate.cost import Cost, estimate, within_memory
from pendel.simulate.mosaic import EXPECTED
from pendel.simulate.planning import (
    default_tilts,
    enough_for_mosaicity,
    fringes_per_tilt,
    plan_with,
    resolving_tilts,
    settings_of,
)

THICK_FRAMES = 0.9  # share of the frames whose fringes the tilts resolve
# The expansion reaches this many times the thickest frame of the start. A fit cannot go beyond; with 2.2 one of urea
# was stopped. The time follows the thickness that is simulated, not this.
THICKNESS_ROOM = 4.0


def first_plans(problem: Problem, settings: Settings, model: Callable | None = None) -> tuple[Plan, ...]:
    """Beams of every data set at the file's orientations, for finding start values.

    Raises InputError for too few tilts for the mosaicity of `model`, where one is given, before anything is simulated.
    """
    if model and settings.tilts and any(has_mosaicity(model, experiment) for experiment in problem.experiments):
        enough_for_mosaicity(settings.tilts)
    return tuple(
        make_plan(
            problem.crystal,
            experiment,
            **_beams(settings),
            tilts=settings.tilts,
        )
        for experiment in problem.experiments
    )


def final_plans(problem: Problem, settings: Settings, model: Callable, values: Mapping[str, Array]) -> tuple[Plan, ...]:
    """Beams around the tilts that were found; tilts and expansion for the thickness that was found; `bounded`.

    Where the model has a mosaicity, there are tilts for it.
    """
    plans = []
    for number, experiment in enumerate(problem.experiments):
        thickness = np.exp(np.asarray(values[f"log_thickness{suffix(number)}"]))
        chosen = settings_of(
            experiment,
            **_beams(settings),
            tilts=settings.tilts or default_tilts(experiment, float(np.quantile(thickness, THICK_FRAMES))),
            thickness_max=THICKNESS_ROOM * float(thickness.max()),
        )
        chosen = _with_mosaicity(chosen, model, experiment)
        plans.append(plan_with(problem.crystal, experiment, chosen, values[f"tilt{suffix(number)}"]))
    return bounded(problem, settings, plans)


def trial_target(problem: Problem, model: Callable, plans: Sequence[Plan]) -> Target:
    """The model with all data and with tilts for its mosaicity: raises what a fit would raise at its first step."""
    mosaic = [
        plan_with(problem.crystal, experiment, _with_mosaicity(plan.settings, model, experiment), None)
        for experiment, plan in zip(problem.experiments, plans, strict=True)
    ]
    intensities = tuple(experiment.intensity for experiment in problem.experiments)
    datasets = data_sets(problem.experiments, mosaic)
    return make_target(model, problem.crystal, datasets, intensities=intensities, mask=problem.used)


def _with_mosaicity(settings: PlanSettings, model: Callable, experiment: Experiment) -> PlanSettings:
    if not has_mosaicity(model, experiment):
        return settings
    return dataclasses.replace(settings, mosaicity=max(EXPECTED, experiment.mosaicity or 0.0))


def has_mosaicity(model: Callable, experiment: Experiment) -> bool:
    """Whether a model refines the mosaicity of these measurements: by its option, or because their file states one."""
    choice = model_options(model).get("mosaicity", "off")
    return choice == "on" or (choice == "auto" and bool(experiment.mosaicity))


def costs(problem: Problem, model: Callable, plans: Sequence[Plan]) -> list[Cost]:
    """What every data set costs, from the plans of its scan and a short measurement of this machine."""
    return [
        estimate(problem.crystal, plan, is_mosaic=has_mosaicity(model, experiment))
        for experiment, plan in zip(problem.experiments, plans, strict=True)
    ]


def is_foreseeable(settings: Settings) -> bool:
    """Whether the cost of a run can be told: it was measured for dynamical models on processors alone."""
    return jax.default_backend() == "cpu" and diffraction_theory(settings.model) == "dynamical"


def _beams(settings: Settings) -> dict[str, Any]:
    """What decides on the beams, as `make_plan` takes it."""
    return {
        "g_max": settings.g_max,
        "sg_max": settings.sg_max,
        "beam_error": settings.beam_error,
    }


def bounded(problem: Problem, settings: Settings, plans: Sequence[Plan]) -> tuple[Plan, ...]:
    """The plans, in chunks so small that a fit stays within `--memory`; raises InputError where that is impossible."""
    return within_memory(problem.crystal, plans, settings.memory)


def widest(values: Mapping[str, Array], others: Sequence[Mapping[str, Array]]) -> Mapping[str, Array]:
    """Start values with the largest thickness of all basins in every frame: beams and tilts must do for each."""
    names = [name for name in values if name.startswith("log_thickness") and np.ndim(values[name])]
    sets = (values, *others)
    return {**values, **{name: np.max([one[name] for one in sets], axis=0) for name in names}}


def largest_step(problem: Problem, plans: Sequence[Plan], values: Mapping[str, Array]) -> dict[str, float | int]:
    """How well the tilts sample the fringes of the thickness that was found; nothing for models without one.

    Returns:
        `fringes_per_tilt` of the worst data set, and `tilts_resolving`: how many it would take there.
    """
    worst: dict[str, float | int] = {}
    for number, (experiment, plan) in enumerate(zip(problem.experiments, plans, strict=True)):
        name = f"log_thickness{suffix(number)}"
        if name in values:
            thickness = float(np.quantile(np.exp(np.asarray(values[name])), THICK_FRAMES))
            step = fringes_per_tilt(experiment, thickness, plan.settings.tilts)
            if step > worst.get("fringes_per_tilt", 0.0):
                worst = {"fringes_per_tilt": step, "tilts_resolving": resolving_tilts(experiment, thickness)}
    return worst


def describe_plans(plans: Sequence[Plan]) -> dict[str, Any]:
    """Every default that was derived from the data, for run.json; of sg_max and beam_error the one that chose beams."""
    found = {}
    for number, plan in enumerate(plans):
        groups = [
            {"segments": len(group.frame), "beams": group.hkl.shape[1], "folded_beams": weak_beams(group)}
            for group in plan.groups
        ]
        settings = dataclasses.asdict(plan.settings)
        del settings["beam_error" if plan.settings.beam_error is None else "sg_max"]
        found[f"plan{suffix(number)}"] = {**settings, "max_steps": plan.max_steps, "groups": groups}
    return found
