"""Rocking curves of the strongest reflections: what the integrated intensities of a model are made of."""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import numpy as np
from jaxtyping import Float, Int

from pendel.base import Array
from pendel.experiment.frames import Experiment, excitation_error, is_observed
from pendel.experiment.select import take_rows
from pendel.infer.predict import predict
from pendel.model.dataset import DataSet, data_sets
from pendel.run.inputs import Problem
from pendel.simulate import Plan
from pendel.simulate.beams import SegmentGroup
from pendel.simulate.mosaic import CYCLE
from pendel.simulate.replan import replan
from pendel.simulate.shard import shard_plan

REFLECTIONS = 6  # of a data set


def rocking_curves(
    model: Callable, problem: Problem, plans: tuple[Plan, ...], draws: Mapping[str, Array]
) -> dict[str, Array]:
    """Intensity of the strongest reflections at every tilt of their frames, at every draw.

    The model itself is run, with every (reflection, tilt) as a measurement of its own; so whatever it says about
    thickness, scale and structure is in the curves, and their sum with the weights of the tilts is `calculated`. With
    mosaicity the curves are means across the path of the sweep, without the blur along it, and means of neighbouring
    tilts, because those are simulated at different nodes.

    Args:
        draws: values of every latent site, draws on the leading axis.

    Returns:
        for every data set (with its suffix) `curve` [draw point] on the scale of the data, `curve_excitation` [point]
        S_g [Å⁻¹] at the file's orientation, and `curve_measurement` [point], the measurement each point belongs to.
        Nothing where a data set has no observed reflection.
    """
    datasets, found = [], {}
    for data in data_sets(problem.experiments, plans):
        tilt = draws.get(f"tilt{data.suffix}")
        whole = dataclasses.replace(data.plan, mesh=None)  # the devices get single tilts, not these segments
        around = replan(problem.crystal, data.experiment, whole, tilt=None if tilt is None else np.mean(tilt, axis=0))
        around = dataclasses.replace(data, plan=around)
        spread, points, excitation = spread_over_tilts(around, strongest(data.experiment))
        if len(points) == 0:
            return {}
        if data.plan.mesh is not None:
            spread = dataclasses.replace(spread, plan=shard_plan(spread.plan))
        datasets.append(spread)
        found |= {f"curve_excitation{data.suffix}": excitation, f"curve_measurement{data.suffix}": points}
    intensities = tuple(data.experiment.intensity for data in datasets)
    predicted = predict(
        model, (problem.crystal, tuple(datasets)), draws, intensities=intensities, key=jax.random.key(0)
    ).deterministic
    for data in datasets:
        curve = np.asarray(predicted[f"calculated{data.suffix}"])
        if data.plan.is_mosaic:
            points, excitation = (found[f"curve_{name}{data.suffix}"] for name in ("measurement", "excitation"))
            curve = mean_of_neighbours(curve, points, excitation)
        found[f"curve{data.suffix}"] = curve
    return found


def mean_of_neighbours(
    curve: Float[Array, "draws points"], measurement: Int[Array, " points"], excitation: Float[Array, " points"]
) -> Float[np.ndarray, "draws points"]:
    """Every point with its neighbours along its own curve, so many that each node of a tilt is among them."""
    smooth, window = np.array(curve, dtype=float), np.ones(CYCLE)
    for row in np.unique(measurement):
        points = np.flatnonzero(measurement == row)
        points = points[np.argsort(excitation[points])]
        if len(points) < CYCLE:
            continue
        count = np.convolve(np.ones(len(points)), window, mode="same")
        smooth[:, points] = [np.convolve(draw, window, mode="same") / count for draw in smooth[:, points]]
    return smooth


def strongest(experiment: Experiment, count: int = REFLECTIONS) -> list[int]:
    """Measurements of the `count` strongest observed reflections, each hkl once and no frame twice where possible."""
    order = np.argsort(-np.asarray(experiment.intensity))
    order = order[is_observed(experiment)[order]]
    chosen: list[int] = []
    for may_share_frame in (False, True):
        for row in map(int, order):
            same_hkl = any(np.array_equal(experiment.hkl[row], experiment.hkl[other]) for other in chosen)
            same_frame = any(experiment.frame_index[row] == experiment.frame_index[other] for other in chosen)
            if len(chosen) < count and not same_hkl and (may_share_frame or not same_frame):
                chosen.append(row)
    return chosen


def spread_over_tilts(data: DataSet, rows: list[int]) -> tuple[DataSet, Array, Array]:
    """A data set whose measurements are the given ones at every single tilt of their frames.

    Returns:
        the data set, the measurement each new one belongs to, and its excitation error [Å⁻¹].
    """
    experiment, plan = data.experiment, data.plan
    points: list[int] = []
    errors: list[float] = []
    groups = tuple(_single_tilts(group, experiment, rows, points, errors) for group in plan.groups)
    groups = tuple(group for group in groups if group is not None)
    belongs = np.array(points, dtype=int)
    spread = take_rows(experiment, belongs)
    count = len(belongs)
    groups = tuple(
        dataclasses.replace(group, measurement=np.where(group.measurement < 0, count, group.measurement))
        for group in groups
    )
    single = dataclasses.replace(plan, groups=groups, measurements=count, same_as=np.arange(count))
    return dataclasses.replace(data, experiment=spread, plan=single), belongs, np.array(errors)


def _single_tilts(group: SegmentGroup, experiment: Experiment, rows, points, errors) -> SegmentGroup | None:
    """The group's segments that hold one of the rows, cut into single tilts; adds to `points` and `errors`."""
    taken: list[tuple[int, int]] = []  # segment, tilt
    numbers = []
    measurement, weight = np.asarray(group.measurement), np.asarray(group.tilt_weight)
    every_place = np.asarray(group.place)
    for segment, own in enumerate(measurement):
        places = {row: int(np.flatnonzero(own == row)[0]) for row in rows if np.any(own == row)}
        if not places:
            continue
        counts = {row: weight[segment, place] > 0 for row, place in places.items()}
        for tilt in np.flatnonzero(np.any([*counts.values()], axis=0)):
            line = np.full(len(own), -1)
            for row, place in ((row, place) for row, place in places.items() if counts[row][tilt]):
                line[place] = len(points)
                points.append(row)
                g = np.asarray(group.matrix)[segment, tilt] @ np.asarray(group.hkl)[segment, place]
                errors.append(float(excitation_error(g[None], experiment.wavelength)[0]))
            taken.append((segment, int(tilt)))
            numbers.append(line)
    if not taken:
        return None
    segment, tilt = np.array(taken).T
    return dataclasses.replace(
        group,
        hkl=np.asarray(group.hkl)[segment],
        present=np.asarray(group.present)[segment],
        matrix=np.asarray(group.matrix)[segment, tilt][:, None],
        tilt_weight=np.ones((len(taken), measurement.shape[1], 1)),
        across=np.asarray(group.across)[segment, tilt][:, None],
        place=np.where(every_place < 0, every_place, ~every_place)[segment, tilt][
            :, None
        ],  # each is a sweep of its own
        frame=np.asarray(group.frame)[segment],
        measurement=np.array(numbers),
        folded=jax.tree.map(lambda x: np.asarray(x)[segment], group.folded),
    )
