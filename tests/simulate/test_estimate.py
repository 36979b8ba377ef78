"""Memory is bounded before anything is solved, without changing a number."""

import dataclasses

import jax
import numpy as np
import pytest

import pendel
from pendel.base import InputError
from pendel.datasets import example
from pendel.infer.maximum import normal_matrix
from pendel.simulate import cost
from pendel.simulate.cost import BASE_BYTES, memory_bytes, within_memory
from pendel.simulate.planning import FRINGES, default_tilts, fringes_per_tilt


@pytest.fixture(scope="module")
def case():
    crystal = pendel.read_crystal(example().structure)
    experiment = pendel.thin(pendel.select(pendel.read_pets(example().data)), slice(0, None, 10))
    return crystal, pendel.make_plan(crystal, experiment, tilts=9, thickness_max=700.0)


def test_little_memory_means_smaller_chunks_and_the_same_intensities(case):
    crystal, plan = case
    limit = memory_bytes(crystal, dataclasses.replace(plan, matrix_numbers=2_000))
    assert limit < memory_bytes(crystal, plan)
    (small,) = within_memory(crystal, [plan], limit / 1e9)
    assert small.matrix_numbers < plan.matrix_numbers
    assert memory_bytes(crystal, small) <= limit
    nodes = np.full((plan.frames, 1), 500.0)
    state = pendel.Illumination(tilt=np.zeros((plan.frames, 2)), thickness=nodes, weights=np.ones_like(nodes))
    run = jax.jit(pendel.simulate_intensities)
    np.testing.assert_allclose(run(crystal, small, state), run(crystal, plan, state), rtol=1e-5, atol=1e-9)


def test_a_run_costs_its_fixed_part_once_and_more_with_a_mosaicity(case, monkeypatch):
    monkeypatch.setattr(cost, "_speed", lambda group, dtype: 1e6)  # operations a second
    plain, mosaic = (cost.estimate(*case, is_mosaic=flag) for flag in (False, True))
    assert mosaic.simulation_seconds == plain.simulation_seconds
    assert mosaic.fit_seconds == pytest.approx(cost.MOSAIC * plain.fit_seconds)
    assert mosaic.fit_bytes == pytest.approx(cost.MOSAIC * plain.fit_bytes)
    assert plain.fit_bytes > 0
    one, two = cost.cost_of_run([plain]), cost.cost_of_run([plain, plain])
    assert two.minutes - one.minutes == pytest.approx(plain.fit_seconds / 60)
    assert two.gigabytes - one.gigabytes == pytest.approx(plain.fit_bytes / 1e9)


def test_frames_that_are_not_wanted_leave_the_others_alone(case):
    crystal, plan = case
    nodes = np.full((plan.frames, 1), 500.0)
    state = pendel.Illumination(tilt=np.zeros((plan.frames, 2)), thickness=nodes, weights=np.ones_like(nodes))
    wanted = np.arange(plan.frames) == 1
    all_of_them, some = (
        np.asarray(jax.jit(pendel.simulate_intensities)(crystal, one, state))
        for one in (plan, plan.with_wanted(wanted))
    )
    measured = pendel.thin(pendel.select(pendel.read_pets(example().data)), slice(0, None, 10)).frame_index
    np.testing.assert_allclose(some[wanted[measured]], all_of_them[wanted[measured]], rtol=1e-5, atol=1e-9)
    assert (
        np.max(some[~wanted[measured]]) < 1e-9 < np.max(all_of_them[~wanted[measured]])
    )  # no thickness, no diffraction


def test_default_tilts_resolve_the_fringes():
    experiment = pendel.read_pets(example().data)
    for thickness in (200.0, 600.0, 900.0):
        tilts = default_tilts(experiment, thickness)
        assert fringes_per_tilt(experiment, thickness, tilts) <= FRINGES
        assert tilts == 7 or fringes_per_tilt(experiment, thickness, tilts - 1) > FRINGES
    # the sweep of +-s moves S of a reflection at d* by 2 s d*, and S t counts fringes
    semi = np.deg2rad(float(np.max(experiment.semi_angle)))
    assert fringes_per_tilt(experiment, 100.0, 2) == pytest.approx(2 * semi * experiment.dstar_max * 100.0)


def test_too_little_memory_is_said_before_the_fit(case):
    crystal, plan = case
    with pytest.raises(InputError, match=r"beams at \d+ tilts .* nodes need about .* GB .*--memory"):
        within_memory(crystal, [plan], BASE_BYTES / 1e9)


def test_default_tilts_resolve_a_precession_cone():
    """The mean of a two-beam curve over the cone is that of many tilts; with a rotation's number it would not be."""
    experiment = dataclasses.replace(pendel.read_pets(example().data), geometry="precession")
    thickness, semi = 800.0, np.deg2rad(float(np.max(experiment.semi_angle)))
    tilts = default_tilts(experiment, thickness)
    assert (
        fringes_per_tilt(experiment, thickness, tilts) <= FRINGES < fringes_per_tilt(experiment, thickness, tilts - 1)
    )

    def mean(count, centre):
        error = semi * experiment.dstar_max * (centre + np.sin(2 * np.pi * np.arange(count) / count))
        return np.mean(np.sinc(thickness * error) ** 2)

    for centre in (0.0, 0.3, 0.9):
        assert mean(tilts, centre) == pytest.approx(mean(20 * tilts, centre), rel=1e-9)
    as_rotation = default_tilts(dataclasses.replace(experiment, geometry="rotation"), thickness)
    assert mean(as_rotation, 0.0) != pytest.approx(mean(20 * tilts, 0.0), rel=0.05)


def test_the_memory_estimate_counts_the_tangents_of_inference():
    assert cost.TANGENTS == normal_matrix.TANGENTS
