"""Mosaicity: weights of a sweep, limits, invariances, a slow mean over many orientations, derivatives."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pendel
from oracles import slow_bloch
from oracles.read_sites import read_coefficients
from pendel.experiment.frames import relative_excitation, span
from pendel.run.rocking import mean_of_neighbours, spread_over_tilts
from pendel.simulate import Illumination, simulate_intensities
from pendel.simulate.forward import kinematic_intensities
from pendel.simulate.mosaic import quantiles, spread_of, tilts_beyond
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
TILTS, SEMI = 12, 0.7
THICKNESS, WEIGHTS = np.array([[250.0, 400.0]]), np.array([[0.4, 0.6]])


def experiment_near(geometry, orientation=NEAR_ZONE, semi_angle=SEMI):
    """One frame with the reflections that are near the sphere at its centre."""
    hkl = [zone_beams(QUARTZ, orientation, g_max=0.65, sg_max=0.01)[1:]]
    return experiment_of(
        QUARTZ, orientation, geometry=geometry, alpha=(0.0,), beta=(0.0,), semi_angle=semi_angle, hkl=hkl
    )


def plan_of(experiment, mosaicity, nodes=3, tilts=TILTS, **changes):
    settings = PlanSettings(**FINE | {"tilts": tilts, "mosaicity": mosaicity, "nodes_across": nodes} | changes)
    return plan_with(crystal_of(QUARTZ), experiment, settings, None)


def illuminated(mosaicity, tilt=(0.0, 0.0)):
    return Illumination(tilt=np.array([tilt]), thickness=THICKNESS, weights=WEIGHTS, mosaicity=mosaicity)


def test_quantiles():
    for nodes in (1, 2, 5):
        z = quantiles(nodes)
        assert np.mean(z) == pytest.approx(0, abs=1e-12)
        assert np.mean(z**2) == pytest.approx(1)
        assert len(np.unique(z.round(9))) == 3 * nodes


def test_weights_of_a_sweep_are_window_times_gaussian():
    """Against the convolution by summation; the weights of every frame sum to 1."""
    semi, tilts, sigma = np.array([0.5, 0.8]), 21, 0.1
    beyond = tilts_beyond("rotation", semi, tilts, 0.15)
    weight = np.asarray(spread_of(sigma, "rotation", semi, tilts, beyond).sweep_weight)
    assert weight.shape == (2, tilts + 2 * beyond)
    np.testing.assert_allclose(weight.sum(axis=1), 1, atol=1e-12)
    for own, half in zip(weight, semi, strict=True):
        step = 2 * half / (tilts - 1)
        place = step * (np.arange(tilts + 2 * beyond) - beyond - (tilts - 1) / 2)
        window = (half + step / 2) * (np.arange(4000) + 0.5 - 2000) / 2000
        density = np.exp(-0.5 * ((place[:, None] - window) / sigma) ** 2) / (sigma * np.sqrt(2 * np.pi))
        np.testing.assert_allclose(own, density.mean(axis=1) * step, rtol=1e-3, atol=1e-6)


def test_no_spread_is_the_plain_mean():
    """sigma -> 0 in a plan for mosaicity, none in such a plan, and a plan for none: the same intensities."""
    for geometry in ("rotation", "precession"):
        experiment = experiment_near(geometry)
        plain, mosaic = plan_of(experiment, 0.0), plan_of(experiment, 0.1)
        assert (plain.beyond, plain.tilts_of_each, mosaic.tilts_of_each) == (0, 1, 3)
        assert (mosaic.beyond > 0) == (geometry == "rotation")
        expected = SIMULATE(crystal_of(QUARTZ), plain, illuminated(None))
        np.testing.assert_allclose(SIMULATE(crystal_of(QUARTZ), mosaic, illuminated(None)), expected, atol=1e-12)
        np.testing.assert_allclose(SIMULATE(crystal_of(QUARTZ), mosaic, illuminated(1e-7)), expected, atol=1e-6)
        assert np.max(np.abs(SIMULATE(crystal_of(QUARTZ), mosaic, illuminated(0.1)) - expected)) > 1e-3


def test_integral_of_a_kinematic_rocking_curve():
    """Each reflection well inside a sweep far wider than its curve and the spread keeps its intensity."""
    experiment = experiment_near("rotation", semi_angle=2.5)
    half_range = span(experiment)
    inside = (half_range > 0.012) & (relative_excitation(experiment) < 0.4)
    assert np.sum(inside) >= 4
    plan = plan_of(experiment, 0.2, tilts=301)
    kinematic = jax.jit(kinematic_intensities)
    before = np.asarray(kinematic(crystal_of(QUARTZ), plan, illuminated(None)))
    after = np.asarray(kinematic(crystal_of(QUARTZ), plan, illuminated(0.2)))
    np.testing.assert_allclose(after[inside], before[inside], rtol=5e-3)
    assert np.max(np.abs(after / before - 1)) > 0.02  # nearer to the axis of rotation, or to an end of the sweep


@pytest.mark.parametrize(("geometry", "semi_angle"), [("rotation", 0.5), ("precession", 0.2)])
def test_mean_over_many_orientations(geometry, semi_angle):
    """Within 1 % of the slow implementation at a grid of orientations, each swept as a whole."""
    sigma, z = 0.08, np.arange(-3, 4)
    experiment, crystal = experiment_near(geometry, semi_angle=semi_angle), crystal_of(QUARTZ)
    plan = plan_of(experiment, sigma, nodes=4)
    solved = [tuple(map(int, hkl)) for group in plan.groups for hkl in group.hkl[group.present]]
    beams = [(0, 0, 0), *sorted(set(solved) - {(0, 0, 0)})]
    share = np.exp(-0.5 * z**2) / np.sum(np.exp(-0.5 * z**2))
    total = np.zeros(len(experiment.hkl))
    for i, j in np.ndindex(len(z), len(z)):
        values = slow_bloch.frame_intensities(
            oracle_cell_of(QUARTZ),
            oracle_frame_of(experiment, 0, TILTS, (sigma * z[i], sigma * z[j])),
            read_coefficients(),
            thickness=THICKNESS[0],
            weights=WEIGHTS[0],
            beams=[beams] * TILTS,
        )
        total += share[i] * share[j] * np.array([values[tuple(hkl)] for hkl in experiment.hkl.tolist()])
    found = np.asarray(SIMULATE(crystal, plan, illuminated(sigma)))
    plain = np.asarray(SIMULATE(crystal, plan, illuminated(None)))
    assert np.sum(np.abs(found - total)) < 0.01 * np.sum(total)
    assert np.sum(np.abs(plain - total)) > 3 * np.sum(np.abs(found - total))


@pytest.mark.parametrize("geometry", ["rotation", "precession"])
def test_derivative_in_the_spread(geometry):
    """Both modes against a central difference, and finite at zero."""
    experiment, crystal = experiment_near(geometry), crystal_of(QUARTZ)
    plan = plan_of(experiment, 0.1, nodes=2)
    vector = np.random.default_rng(1).normal(size=plan.measurements)

    def total(sigma, tilt, plan):
        frame = dataclasses.replace(illuminated(sigma), tilt=tilt)
        return vector @ simulate_intensities(crystal, plan, frame)

    tilt, sigma = jnp.array([[0.05, -0.03]]), 0.07
    value = jax.jit(lambda s: total(s, tilt, plan))
    difference = (value(sigma + 1e-4) - value(sigma - 1e-4)) / 2e-4
    slope = jax.jit(jax.grad(total))
    assert float(slope(sigma, tilt, plan)) == pytest.approx(float(difference), rel=1e-5)
    forward = jax.jvp(lambda s: total(s, tilt, plan.with_mode("forward")), (sigma,), (1.0,))[1]
    assert float(forward) == pytest.approx(float(difference), rel=1e-5)
    assert np.isfinite(slope(0.0, tilt, plan))
    turned = jax.jit(jax.grad(total, argnums=1))(sigma, tilt, plan)
    assert np.all(np.isfinite(turned))
    assert np.any(turned != 0)


def test_single_tilts_are_means_across_the_sweep():
    """A rocking curve is made of single tilts; where the spread is below a step, their mean is the intensity."""
    experiment, crystal = experiment_near("rotation"), crystal_of(QUARTZ)
    plan = plan_of(experiment, 0.1, nodes=2)
    spread, belongs, _ = spread_over_tilts(pendel.DataSet(experiment, plan), [0, 3])
    curve = np.asarray(SIMULATE(crystal, spread.plan, illuminated(0.02)))
    whole = np.asarray(SIMULATE(crystal, plan, illuminated(0.02)))
    for row in (0, 3):
        assert np.sum(belongs == row) == TILTS
        assert np.mean(curve[belongs == row]) == pytest.approx(whole[row], rel=2e-3)
    assert np.max(np.abs(curve - np.asarray(SIMULATE(crystal, spread.plan, illuminated(None))))) > 1e-3


def test_neighbours_of_a_drawn_curve_share_their_nodes():
    """A pattern that repeats with the nodes vanishes; the order of the points does not matter, nor do other curves."""
    excitation = np.array([0.4, 0.1, 0.3, 0.2, 0.0, 0.5, 0.0, 1.0])
    measurement = np.array([7, 7, 7, 7, 7, 7, 9, 9])
    pattern = np.array([1.0, 2.0, 6.0] * 2)[np.argsort(np.argsort(excitation[:6]))]
    smooth = mean_of_neighbours(np.array([[*pattern, 4.0, 5.0]]), measurement, excitation)[0]
    inner = excitation[:6] % 0.5 > 0
    np.testing.assert_allclose(smooth[:6][inner], 3.0)
    np.testing.assert_allclose(smooth[[4, 5]], [1.5, 4.0])  # the ends have one neighbour
    np.testing.assert_allclose(smooth[6:], [4.0, 5.0])


def test_a_plan_without_tilts_for_it_is_refused():
    experiment = experiment_near("rotation")
    with pytest.raises(pendel.InputError, match="Mosaicity in a plan without tilts"):
        simulate_intensities(crystal_of(QUARTZ), plan_of(experiment, 0.0), illuminated(0.1))
    with pytest.raises(pendel.InputError, match="3 tilts or more"):
        plan_of(experiment, 0.1, tilts=1)
