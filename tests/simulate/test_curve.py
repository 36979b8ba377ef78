"""Intensities that were integrated over rocking curves: which tilts count, invariance, a slow sum, mosaicity."""

import dataclasses

import jax
import numpy as np
import pytest

import pendel
from oracles import slow_bloch
from oracles.read_sites import read_coefficients
from pendel.experiment.frames import central_vectors, excitation_error, span
from pendel.run.rocking import spread_over_tilts
from pendel.simulate import Illumination, simulate_intensities
from pendel.simulate.curve import tilt_weights, tilts_beyond_for_curves
from pendel.simulate.plan import PlanSettings
from pendel.simulate.planning import plan_with
from physics_cases import (
    NEAR_ZONE,
    QUARTZ,
    crystal_of,
    experiment_of,
    oracle_cell_of,
    oracle_frame_of,
    zone_beams,
)

SIMULATE = jax.jit(simulate_intensities)
FINE = {"g_max": 0.7, "sg_max": 0.02, "thickness_max": 900.0, "dtype": "float64"}
SEMI = 0.7  # deg
RANGE = (0.002, 0.006)


def frames_near(alpha, curve_range=RANGE, semi_angle=SEMI):
    """Frames at these angles [deg], each with the reflections that are near the sphere at 0 and swept quickly."""
    hkl = zone_beams(QUARTZ, NEAR_ZONE, g_max=0.65, sg_max=0.006)[1:]
    one = experiment_of(QUARTZ, NEAR_ZONE, alpha=(0.0,), beta=(0.0,), semi_angle=semi_angle, hkl=[hkl])
    quick = [beam for beam, lever in zip(hkl, span(one), strict=True) if lever > 0.25 * np.radians(semi_angle)]
    assert len(quick) >= 3
    experiment = experiment_of(
        QUARTZ, NEAR_ZONE, alpha=alpha, beta=[0.0] * len(alpha), semi_angle=semi_angle, hkl=[quick] * len(alpha)
    )
    return dataclasses.replace(experiment, curve_range=curve_range)


def plan_of(experiment, tilts, mosaicity=0.0, **changes):
    settings = PlanSettings(**FINE | {"tilts": tilts, "mosaicity": mosaicity, "nodes_across": 2} | changes)
    return plan_with(crystal_of(QUARTZ), experiment, settings, None)


def illuminated(experiment, mosaicity=None):
    frames = len(experiment.alpha)
    thickness, weights = np.tile([250.0, 400.0], (frames, 1)), np.tile([0.4, 0.6], (frames, 1))
    return Illumination(tilt=np.zeros((frames, 2)), thickness=thickness, weights=weights, mosaicity=mosaicity)


def simulated(experiment, tilts, mosaicity=None, **changes):
    plan = plan_of(experiment, tilts, 0.1 if mosaicity else 0.0, **changes)
    return np.asarray(SIMULATE(crystal_of(QUARTZ), plan, illuminated(experiment, mosaicity)))


def test_weights_add_up_to_the_range():
    """On a straight path a range of 2 r is worth 2 r / (2 span) of a sweep; outside of a sweep nothing counts."""
    error = np.linspace(-0.03, 0.03, 61)[None] + np.array([[0.0], [0.0013]])
    experiment = frames_near((0.0,), (0.004, 0.01))
    weight, most = tilt_weights(experiment, error, np.array([0.0, 0.5]), 20)
    assert most is weight
    narrow = tilt_weights(dataclasses.replace(experiment, curve_range=(0.0002, 0.0)), error, np.zeros(2), 20)[0]
    np.testing.assert_allclose(narrow.sum(axis=1) * 21 * 0.001, 0.0004, rtol=1e-12)  # less than a step
    np.testing.assert_allclose(weight.sum(axis=1) * 21 * 0.001, [0.008, 0.018], rtol=1e-12)
    assert np.all((weight >= 0) & (weight <= 1 / 21))
    of_sweep, most = tilt_weights(dataclasses.replace(experiment, curve_range=None), error, np.zeros(2), 20)
    np.testing.assert_array_equal(of_sweep[0], [0] * 20 + [1 / 21] * 21 + [0] * 20)
    np.testing.assert_allclose(most.sum(axis=1), 1)
    np.testing.assert_array_equal(tilt_weights(experiment, error[:, :1], np.zeros(2), 0)[0], 1)


def test_the_frame_does_not_matter():
    """One reflection in frames that are half a sweep apart: equal over its curve, not over their sweeps."""
    experiment = frames_near((-0.35, 0.0, 0.35))
    error = np.abs(excitation_error(central_vectors(experiment), experiment.wavelength))
    g = np.linalg.norm(central_vectors(experiment), axis=1)
    reached = (error + RANGE[0] + RANGE[1] * g < 2 * span(experiment)).reshape(3, -1).all(axis=0)
    assert np.sum(reached) >= 4
    by_curve = simulated(experiment, 41).reshape(3, -1)[:, reached]
    by_sweep = simulated(dataclasses.replace(experiment, curve_range=None), 41).reshape(3, -1)[:, reached]
    np.testing.assert_allclose(by_curve[[0, 2]], by_curve[[1, 1]], rtol=1e-3)
    assert np.max(np.abs(by_sweep / by_sweep[1] - 1)) > 0.1


def test_a_wide_range_in_a_long_sweep_is_the_sweep():
    """Nothing is cut off where the range is wider than the path."""
    experiment = frames_near((0.0,), None, semi_angle=2.0)
    plain = simulated(experiment, 41)
    whole = dataclasses.replace(experiment, curve_range=(1.0, 0.0))
    plan = plan_of(whole, 41)
    assert plan.beyond == 20  # as long again, half of it at either end
    none_beyond = [dataclasses.replace(group, tilt_weight=np.array(group.tilt_weight)) for group in plan.groups]
    for group in none_beyond:
        place = ~np.asarray(group.place)
        group.tilt_weight[np.broadcast_to(((place < 20) | (place >= 61))[:, None], group.tilt_weight.shape)] = 0
    plan = dataclasses.replace(plan, groups=tuple(none_beyond))
    found = np.asarray(SIMULATE(crystal_of(QUARTZ), plan, illuminated(whole)))
    np.testing.assert_allclose(found, plain, rtol=2e-3, atol=1e-6)  # segments beyond choose beams of their own


def test_against_a_slow_sum_over_tilts():
    """Every tilt solved by itself with one set of beams, and summed where the reflection is within its range."""
    experiment, tilts = frames_near((0.2,)), 15
    plan = plan_of(experiment, tilts)
    beyond = tilts_beyond_for_curves(experiment, tilts)
    assert plan.beyond == beyond > 3
    solved = {tuple(map(int, hkl)) for group in plan.groups for hkl in group.hkl[group.present]}
    beams = [(0, 0, 0), *sorted(solved - {(0, 0, 0)})]
    step = 2 * SEMI / (tilts - 1)
    angles = 0.2 + step * (np.arange(tilts + 2 * beyond) - beyond - (tilts - 1) / 2)
    intensity, error = [], []
    for angle in angles:
        at = dataclasses.replace(experiment, alpha=np.array([angle]), semi_angle=np.array([0.0]))
        values = slow_bloch.frame_intensities(
            oracle_cell_of(QUARTZ),
            oracle_frame_of(at, 0, 1),
            read_coefficients(),
            thickness=[250.0, 400.0],
            weights=[0.4, 0.6],
            beams=[beams],
        )
        intensity.append([values[tuple(hkl)] for hkl in experiment.hkl.tolist()])
        error.append(excitation_error(central_vectors(at), experiment.wavelength))
    intensity, error = np.array(intensity), np.array(error)
    reach = RANGE[0] + RANGE[1] * np.linalg.norm(central_vectors(experiment), axis=1)
    rate = np.abs(np.gradient(error, axis=0))
    share = np.clip((reach - np.abs(error)) / rate + 0.5, 0, 1)
    expected = np.sum(share * intensity, axis=0) / tilts
    found = np.asarray(SIMULATE(crystal_of(QUARTZ), plan, illuminated(experiment)))
    assert np.sum(np.abs(found - expected)) < 5e-3 * np.sum(expected)  # segments have beams of their own


def test_mosaicity_along_the_path_changes_nothing():
    """Blocks that are turned along the sweep pass it a little earlier or later; those across give another mean."""
    experiment = frames_near((0.0,), (0.02, 0.0), semi_angle=2.0)
    plain, mosaic = simulated(experiment, 81), simulated(experiment, 81, mosaicity=0.05)
    np.testing.assert_allclose(mosaic.sum(), plain.sum(), rtol=0.02)
    np.testing.assert_allclose(simulated(experiment, 81, mosaicity=1e-7), plain, atol=1e-6)
    assert np.max(np.abs(mosaic - plain)) > 1e-4


def test_both_modes_of_derivatives_and_influence():
    """Beams chosen by influence; the gradient equals the Jacobian."""
    experiment, crystal = frames_near((0.0, 0.5)), crystal_of(QUARTZ)
    plan = pendel.make_plan(crystal, experiment, tilts=21, thickness_max=900.0, dtype="float64")
    vector = np.random.default_rng(3).normal(size=plan.measurements)

    def total(tilt, plan):
        return vector @ simulate_intensities(crystal, plan, dataclasses.replace(illuminated(experiment), tilt=tilt))

    tilt, change = np.array([[0.02, 0.01], [-0.03, 0.02]]), np.array([[0.3, -0.1], [0.2, 0.7]])
    gradient = jax.jit(jax.grad(total))(tilt, plan)
    slope = jax.jit(lambda t, d: jax.jvp(lambda x: total(x, plan.with_mode("forward")), (t,), (d,))[1])(tilt, change)
    assert float(np.sum(gradient * change)) == pytest.approx(float(slope), rel=1e-6)


def test_single_tilts_weighted_are_the_intensity():
    """Points of a rocking curve, each times the weight of its tilt, add up; there are none out of the range."""
    experiment = frames_near((0.0,))
    plan = plan_of(experiment, 21)
    spread, belongs, errors = spread_over_tilts(pendel.DataSet(experiment, plan), [0, 1])
    curve = np.asarray(SIMULATE(crystal_of(QUARTZ), spread.plan, illuminated(experiment)))
    whole = np.asarray(SIMULATE(crystal_of(QUARTZ), plan, illuminated(experiment)))
    g = np.linalg.norm(central_vectors(experiment), axis=1)
    for row in (0, 1):
        points = belongs == row
        order = np.argsort(errors[points])
        error, value = errors[points][order], curve[points][order]
        rate = np.abs(np.gradient(error))
        share = np.clip((RANGE[0] + RANGE[1] * g[row] - np.abs(error)) / rate + 0.5, 0, 1)
        assert np.sum(share * value) / 21 == pytest.approx(whole[row], rel=5e-3)
        assert np.max(np.abs(error)) < RANGE[0] + RANGE[1] * g[row] + np.max(rate)
