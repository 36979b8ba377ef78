"""Whole frames: geometry, beams, integration over tilts and thickness, each against the slow implementation."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from oracles import slow_bloch
from oracles.read_sites import read_coefficients
from pendel.crystal.hand import invert
from pendel.experiment.frames import central_vectors, excitation_error
from pendel.simulate import Illumination, make_plan, simulate_intensities, thickness_table
from pendel.simulate.geometry import beam_axis_row, flux_factor, tilt_matrices
from physics_cases import (
    NEAR_ZONE,
    QUARTZ,
    WAVELENGTH,
    crystal_of,
    experiment_of,
    oracle_cell_of,
    oracle_frame_of,
    orientation_of,
)

SIMULATE = jax.jit(simulate_intensities)
G_MAX, SG_MAX, STEPS = 1.0, 0.012, 14
OPTIONS = {"g_max": G_MAX, "sg_max": SG_MAX, "tilts": STEPS, "thickness_max": 1200.0, "dtype": "float64"}
TILT = np.array([[0.0, 0.0], [0.21, -0.34]])
THICKNESS = np.array([[320.0, 700.0, 1010.0], [410.0, 555.0, 900.0]])
WEIGHTS = np.array([[0.2, 0.5, 0.3], [0.6, 0.1, 0.3]])
ILLUMINATION = Illumination(tilt=TILT, thickness=THICKNESS, weights=WEIGHTS)


def two_frames(geometry):
    """Two frames of quartz near a zone and of general orientation, with the reflections they sweep through."""
    frames = {"geometry": geometry, "alpha": (0.3, 12.0), "beta": (-0.2, 1.3), "semi_angle": 0.9}
    empty = experiment_of(QUARTZ, NEAR_ZONE, hkl=[[], []], **frames)
    measured = []
    for frame in range(2):
        view = oracle_frame_of(empty, frame, 3)
        swept = {beam for n in slow_bloch.beam_directions(view) for beam in beams_at(view, n, 0.004)}
        measured.append(sorted(swept - {(0, 0, 0)})[::2][:14])
    return experiment_of(QUARTZ, NEAR_ZONE, hkl=measured, **frames)


def rows_of(experiment, rows):
    """The experiment with these rows, in this order."""
    names = ("hkl", "frame_index", "intensity", "sigma", "weight")
    return dataclasses.replace(experiment, **{name: getattr(experiment, name)[rows] for name in names})


def beams_at(frame, n, sg_max=SG_MAX):
    return slow_bloch.select_beams(frame, oracle_cell_of(QUARTZ), n, g_max=G_MAX, sg_max=sg_max)


def solved_segments(plan, experiment, frame):
    """For each tilt of a frame the beams pendel solves there, found by comparing beam directions; every tilt once."""
    view = oracle_frame_of(experiment, frame, STEPS)
    unit = np.stack([slow_bloch.resting_vector(view, beam) for beam in ((1, 0, 0), (0, 1, 0), (0, 0, 1))], axis=1)
    rows = np.array([n @ unit for n in slow_bloch.beam_directions(view)])
    beams, segments = {}, []
    for group in plan.groups:
        for i in np.flatnonzero(np.asarray(group.frame) == frame):
            measured = np.flatnonzero(np.asarray(group.measurement[i]) < plan.measurements)
            used = np.flatnonzero(np.all(np.asarray(group.tilt_weight)[i, measured] > 0, axis=0))
            np.testing.assert_allclose(np.asarray(group.tilt_weight)[i, measured][:, used], 1 / STEPS)
            steps = [int(np.argmin(np.abs(rows - group.matrix[i, k, 2]).max(axis=1))) for k in used]
            np.testing.assert_allclose(rows[steps], group.matrix[i, used, 2], atol=1e-14)
            solved = [tuple(int(h) for h in beam) for beam in group.hkl[i][group.present[i]]]
            beams |= dict.fromkeys(steps, solved)
            segments.append((steps, solved))
    assert sorted(beams) == list(range(STEPS))
    return [beams[step] for step in range(STEPS)], segments


@pytest.fixture(scope="module", params=["rotation", "precession"])
def case(request):
    experiment = two_frames(request.param)
    crystal = crystal_of(QUARTZ)
    plan = make_plan(crystal, experiment, **OPTIONS)
    expected = []
    for frame in range(2):
        view = oracle_frame_of(experiment, frame, STEPS, TILT[frame])
        values = slow_bloch.frame_intensities(
            oracle_cell_of(QUARTZ),
            view,
            read_coefficients(),
            thickness=THICKNESS[frame],
            weights=WEIGHTS[frame],
            beams=solved_segments(plan, experiment, frame)[0],
        )
        expected += [values[tuple(hkl)] for hkl in experiment.hkl[experiment.frame_index == frame].tolist()]
    return experiment, crystal, plan, np.array(expected)


def test_solve_set_is_every_beam_near_the_sphere_at_any_tilt(case):
    experiment, _, plan, _ = case
    for frame in range(2):
        view = oracle_frame_of(experiment, frame, STEPS)
        directions = slow_bloch.beam_directions(view)
        for steps, solved in solved_segments(plan, experiment, frame)[1]:
            assert set(solved) == set().union(*(beams_at(view, directions[step]) for step in steps))
            assert len(solved) == len(set(solved))
            assert solved[0] == (0, 0, 0)


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [("float64", 5e-9), ("float32", 2e-6)],
)
def test_frame_intensities(case, dtype, tolerance):
    _, crystal, plan, expected = case
    plan = dataclasses.replace(plan, settings=dataclasses.replace(plan.settings, dtype=dtype))
    intensity = SIMULATE(crystal, plan, ILLUMINATION)
    assert expected.max() > 0.05
    np.testing.assert_allclose(intensity, expected, atol=tolerance)
    other_hand = SIMULATE(mirrored(crystal), plan, ILLUMINATION)
    assert np.abs(other_hand - expected).max() > 0.01


def mirrored(crystal):
    """The opposite hand under the same name, so that nothing is compiled again."""
    return dataclasses.replace(invert(crystal), name=crystal.name, spacegroup=crystal.spacegroup)


def test_table_holds_every_thickness(case):
    _, crystal, plan, _ = case
    nodes = np.array([250.0, 480.0, 1100.0])
    table = jax.jit(thickness_table)(crystal, plan, tilt=TILT, thickness=nodes)
    for q in range(len(nodes)):
        one = Illumination(tilt=TILT, thickness=np.tile(nodes, (2, 1)), weights=np.eye(3)[[q, q]])
        alone = SIMULATE(crystal, plan, one)
        np.testing.assert_allclose(table[:, q], alone, atol=1e-10)


def test_measurements_in_any_order_and_repeated(case):
    """Rows in another order, and two rows of one hkl in one frame: every row gets its intensity."""
    experiment, crystal, _, expected = case
    rows = np.r_[np.random.default_rng(2).permutation(len(expected)), 0]
    plan = make_plan(crystal, rows_of(experiment, rows), **OPTIONS)
    intensity = SIMULATE(crystal, plan, ILLUMINATION)
    np.testing.assert_allclose(intensity, expected[rows], atol=5e-9)


@pytest.mark.parametrize("geometry", ["rotation", "precession"])
def test_excitation_errors_against_a_moving_beam(geometry):
    """S_g and M_g of a tilted frame: pendel turns the crystal, the slow implementation moves the beam on its cone."""
    experiment = experiment_of(
        QUARTZ,
        orientation_of(QUARTZ),
        geometry=geometry,
        alpha=(-47.0, 33.0),
        beta=(2.0, -1.0),
        semi_angle=1.7,
        hkl=[[(3, -1, 2)], [(-5, 2, 4)]],
    )
    rows = np.asarray(beam_axis_row(jnp.asarray(TILT)))
    for frame, hkl in enumerate([(3, -1, 2), (-5, 2, 4)]):
        view = oracle_frame_of(experiment, frame, 9, TILT[frame])
        g = slow_bloch.resting_vector(view, hkl)
        directions = slow_bloch.beam_directions(view)
        expected = [slow_bloch.excitation_error(g, n, WAVELENGTH) for n in directions]
        vectors = tilt_matrices(experiment, frame, 9) @ np.asarray(hkl)
        turned = np.concatenate([vectors[:, :2], (vectors @ rows[frame])[:, None]], axis=1)
        length = np.linalg.norm(g)
        values = turned[:, 2] - WAVELENGTH * length**2 / 2
        np.testing.assert_allclose(values, expected, atol=1e-12)
        np.testing.assert_allclose(
            flux_factor(turned[:, 2], WAVELENGTH), [(1 - WAVELENGTH * n @ g) ** -0.5 for n in directions], atol=1e-13
        )
        assert np.ptp(expected) > 0.01
        centre = slow_bloch.excitation_error(g, np.array([0.0, 0.0, 1.0]), WAVELENGTH)
        assert excitation_error(central_vectors(experiment), WAVELENGTH)[frame] == pytest.approx(centre, abs=1e-13)
