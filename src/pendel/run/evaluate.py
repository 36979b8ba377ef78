"""Agreement of a fitted model with the measurements: under the run's own selection and under the published one."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np
from jaxtyping import Float

from pendel.base import Array, InputError, suffix
from pendel.crystal.structure import Crystal
from pendel.experiment.frames import Experiment
from pendel.experiment.select import select
from pendel.infer.predict import predict
from pendel.judge.agreement import Agreement, agreement, rescaled
from pendel.model.dataset import data_sets
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
    calculated: Sequence[Float[Array, "reflections"]],
) -> tuple[Agreement | None, int]:
    """R factors under the rule klar with one refitted scale per frame, and the number of frames left out.

    Structure and frame parameters are those of `point`; frames that the run's own selection does not have are left
    out. None when the rule selects nothing in the run's frames.
    """
    if settings.select == "klar":
        experiments, missing = problem.experiments, 0
    else:
        found = [klar_rows(rows, own, settings) for rows, own in zip(problem.rows, problem.experiments, strict=True)]
        experiments, missing = tuple(experiment for experiment, _ in found), sum(count for _, count in found)
        if any(len(experiment.intensity) == 0 for experiment in experiments):
            return None, missing
        calculated = _simulate(model, problem.crystal, experiments, plans, point)
    columns = joined(experiments, calculated)
    intensity, sigma, _, frame = columns
    return agreement(intensity, sigma, rescaled(*columns), frame), missing


def klar_rows(rows: Experiment, own: Experiment, settings: Settings) -> tuple[Experiment, int]:
    """The measurements the rule klar selects, in the frames of `own`; and how many other frames it has."""
    try:
        chosen = select(rows, "klar", rsg=settings.rsg, dsg=settings.dsg)
    except InputError:  # nothing selected
        chosen = dataclasses.replace(
            own,
            frame_index=own.frame_index[:0],
            hkl=own.hkl[:0],
            intensity=own.intensity[:0],
            sigma=own.sigma[:0],
            weight=own.weight[:0],
        )
        return chosen, 0
    position = {int(identifier): index for index, identifier in enumerate(own.frame_id)}
    frame = np.array([position.get(int(identifier), -1) for identifier in chosen.frame_id])
    index = frame[chosen.frame_index]
    kept = index >= 0
    aligned = dataclasses.replace(
        own,
        selection=chosen.selection,
        frame_index=index[kept],
        hkl=chosen.hkl[kept],
        intensity=chosen.intensity[kept],
        sigma=chosen.sigma[kept],
        weight=chosen.weight[kept],
    )
    return aligned, int(np.sum(frame < 0))


def joined(
    experiments: Sequence[Experiment], calculated: Sequence[Float[Array, "reflections"]]
) -> tuple[Array, Array, Array, Array]:
    """Intensity, sigma, calculated intensity and continued frame index of all data sets."""
    offsets = np.cumsum([0, *(len(experiment.frame_id) for experiment in experiments)])
    frame = [experiment.frame_index + offset for experiment, offset in zip(experiments, offsets[:-1], strict=True)]
    intensity = np.concatenate([experiment.intensity for experiment in experiments])
    sigma = np.concatenate([experiment.sigma for experiment in experiments])
    return intensity, sigma, np.concatenate([np.asarray(part) for part in calculated]), np.concatenate(frame)


def _simulate(model, crystal: Crystal, experiments, plans, point) -> list[np.ndarray]:
    """Calculated intensities of other measurements of the same frames, on the data's scale."""
    around = [
        replan(crystal, experiment, plan, tilt=point.get(f"tilt{suffix(number)}"))
        for number, (experiment, plan) in enumerate(zip(experiments, plans, strict=True))
    ]
    datasets = data_sets(experiments, around)
    draws = {name: np.asarray(value)[None] for name, value in point.items()}
    intensities = tuple(experiment.intensity for experiment in experiments)
    predicted = predict(model, (crystal, datasets), draws, intensities=intensities, key=jax.random.key(0))
    return [predicted.deterministic[f"calculated{data.suffix}"][0] for data in datasets]
