"""Agreement of a fitted model with the measurements: under the run's own selection and under the published one."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np
from jaxtyping import Float

from pendel.base import Array, InputError, suffix
from pendel.crystal.structure import Crystal
from pendel.experiment.frames import Experiment
from pendel.experiment.select import FRAMES, select, take_rows
from pendel.infer.predict import predict
from pendel.judge.agreement import Agreement, agreement, rescaled
from pendel.model.blocks import REFLECTION_ERROR
from pendel.model.dataset import data_sets
from pendel.model.load import model_options, with_options
from pendel.run.inputs import Problem
from pendel.run.settings import Settings
from pendel.simulate import Plan
from pendel.simulate.replan import replan


def own_agreement(problem: Problem, calculated: Sequence[Float[Array, "reflections"]], *, used: bool) -> Agreement:
    """R factors under the run's selection with the model's scales, of the used or of the held-out measurements."""
    masks = problem.used or tuple(np.ones(len(e.intensity), dtype=bool) for e in problem.experiments)
    mask = np.concatenate([flags if used else ~flags for flags in masks])
    return agreement(*joined(problem.experiments, calculated), mask=mask)


def klar_agreement(
    model: Callable,
    problem: Problem,
    plans: Sequence[Plan],
    settings: Settings,
    point: Mapping[str, Array],
    at_point: Mapping[str, Array],
) -> tuple[Agreement | None, int]:
    """R factors under the rule klar with one refitted scale per frame, and the number of frames left out.

    Structure and frame parameters are those of `point`; `at_point`: what the model derives there. The background of a
    model is not refitted. Frames that the run's own selection does not have are left out. None when the rule selects
    nothing in the run's frames.
    """
    if settings.select == "klar":
        experiments, missing, sites = problem.experiments, 0, at_point
    else:
        found = [klar_rows(rows, own, settings) for rows, own in zip(problem.rows, problem.experiments, strict=True)]
        experiments, missing = tuple(experiment for experiment, _ in found), sum(count for _, count in found)
        if any(len(experiment.intensity) == 0 for experiment in experiments):
            return None, missing
        sites = _simulate(model, problem.crystal, experiments, plans, point)
    columns = joined(experiments, of_data_sets(sites, "calculated"))
    intensity, sigma, calculated, frame = columns
    background = of_data_sets(sites, "calculated_background")
    constant = np.concatenate(background) if background else np.zeros(len(calculated))
    return agreement(intensity, sigma, rescaled(*columns, constant), frame), missing


def of_data_sets(sites: Mapping[str, Array], name: str) -> list[np.ndarray]:
    """The values of a site of every data set: `calculated`, `calculated_2`, ...; none where the model has it not."""
    found = []
    while f"{name}{suffix(len(found))}" in sites:
        found.append(np.asarray(sites[f"{name}{suffix(len(found))}"]))
    return found


def klar_rows(rows: Experiment, own: Experiment, settings: Settings) -> tuple[Experiment, int]:
    """The measurements the rule klar selects, in the frames of `own`; and how many other frames it has."""
    try:
        chosen = select(rows, "klar", rsg=settings.rsg, dsg=settings.dsg)
    except InputError:  # nothing selected
        return take_rows(own, slice(0)), 0
    position = {int(identifier): index for index, identifier in enumerate(own.frame_id)}
    frame = np.array([position.get(int(identifier), -1) for identifier in chosen.frame_id])
    index = frame[chosen.frame_index]
    frames = {name: getattr(own, name) for name in FRAMES}
    kept = dataclasses.replace(take_rows(chosen, index >= 0), frame_index=index[index >= 0], **frames)
    return kept, int(np.sum(frame < 0))


def joined(
    experiments: Sequence[Experiment], calculated: Sequence[Float[Array, "reflections"]]
) -> tuple[Array, Array, Array, Array]:
    """Intensity, sigma, calculated intensity and continued frame index of all data sets."""
    offsets = np.cumsum([0, *(len(experiment.frame_id) for experiment in experiments)])
    frame = [experiment.frame_index + offset for experiment, offset in zip(experiments, offsets[:-1], strict=True)]
    intensity = np.concatenate([experiment.intensity for experiment in experiments])
    sigma = np.concatenate([experiment.sigma for experiment in experiments])
    return intensity, sigma, np.concatenate([np.asarray(part) for part in calculated]), np.concatenate(frame)


def _simulate(model, crystal: Crystal, experiments, plans, point) -> dict[str, np.ndarray]:
    """What the model derives at the point for other measurements of the same frames, on the data's scale.

    Without errors of reflections, which are those of the run's own selection and change nothing that is derived.
    """
    if REFLECTION_ERROR in model_options(model):
        model = with_options(model, **{REFLECTION_ERROR: "off"})
    around = [
        replan(crystal, experiment, plan, tilt=point.get(f"tilt{suffix(number)}"))
        for number, (experiment, plan) in enumerate(zip(experiments, plans, strict=True))
    ]
    datasets = data_sets(experiments, around)
    draws = {name: np.asarray(value)[None] for name, value in point.items()}
    intensities = tuple(experiment.intensity for experiment in experiments)
    predicted = predict(model, (crystal, datasets), draws, intensities=intensities, key=jax.random.key(0))
    return {name: values[0] for name, values in predicted.deterministic.items()}
