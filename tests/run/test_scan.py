"""Start values: thickness, errors and background of simulated measurements are found again."""

import dataclasses

import numpy as np
import pytest

import pendel
from pendel.datasets import example
from pendel.run.scan import SPREADS, _basins, _frame_misfit, _geometric, find_start
from pendel.simulate import thickness_table
from pendel.simulate.mosaic import EXPECTED


@pytest.fixture(scope="module")
def simulated():
    """Intensities of the embedded example at one thickness in every frame, with 4 % noise."""
    crystal = pendel.read_crystal(example().structure)
    experiment = pendel.thin(pendel.select(pendel.read_pets(example().data), "nearest"), slice(0, None, 3))
    plan = pendel.make_plan(crystal, experiment, g_max=1.2, sg_max=0.005, tilts=21, thickness_max=1500.0)
    random = np.random.default_rng(5)
    table = np.asarray(thickness_table(crystal, plan, tilt=np.zeros((plan.frames, 2)), thickness=np.array([560.0])))[
        :, 0
    ]
    sigma = 0.04 * table + 0.002 * table.max()
    noisy = table + sigma * random.standard_normal(len(table))
    return crystal, dataclasses.replace(experiment, intensity=noisy, sigma=sigma), plan


def test_scan_finds_the_thickness(simulated):
    crystal, experiment, plan = simulated
    start = find_start(crystal, (pendel.DataSet(experiment, plan),))
    profile = np.exp(start.values[0]["log_thickness"])
    slab = start.values[0]["log_taper_mean"] < np.log(0.3)
    assert slab
    assert np.median(profile) == pytest.approx(560, rel=0.06)
    assert start.basins[0][1] == min(misfit for _, misfit in start.basins)
    assert 0 < start.values[0]["mosaicity"] < EXPECTED  # near a perfect crystal, and away from a gradient of zero


def test_background_is_taken_off_before_the_scale_is_fitted(simulated):
    _, experiment, plan = simulated
    state = np.maximum(experiment.intensity, 0.0)[:, None]
    shifted = dataclasses.replace(experiment, intensity=state[:, 0] + experiment.sigma)
    without, _ = _frame_misfit(shifted, plan.frames, state, 0.06, 0.0)
    right, log_scale = _frame_misfit(shifted, plan.frames, state, 0.06, 1.0)
    assert np.sum(right) < np.sum(without) - 5
    assert log_scale == pytest.approx(0.0, abs=1e-6)


def test_basins_are_valleys_with_a_rise_between_them():
    thickest = _geometric(200.0, 2000.0)
    log_t = np.log(thickest)
    deep, shallow = 200 * (log_t - np.log(500.0)) ** 2, 1.0 + 200 * (log_t - np.log(1400.0)) ** 2
    ripple = 0.2 * np.cos(40 * log_t)
    frames = np.minimum(deep, shallow) + ripple
    misfit = np.broadcast_to(frames[None, None, :, None], (1, 12, len(thickest), 4))
    basins, lowest = _basins(misfit, 10.0 * np.arange(12), thickest)
    assert [basin.spread for basin in basins] == [SPREADS[0]] * 2  # all frames agree
    found = [basin.mean for basin in basins]
    assert found == pytest.approx([500.0, 1400.0], rel=0.08)
    assert len(lowest) == len(thickest)


def test_a_crystal_whose_thickness_changes_along_the_angle_is_found_by_a_large_spread():
    thickest, angle = _geometric(100.0, 2700.0), np.linspace(-60.0, 60.0, 20)
    true = np.log(600.0) + 0.9 * np.sin(np.deg2rad(1.5 * angle))
    frames = 20 * (np.log(thickest) - true[:, None]) ** 2
    misfit = np.broadcast_to(frames[None, :, :, None], (1, 20, len(thickest), 4))
    (basin, *_), _ = _basins(misfit, angle, thickest)
    assert basin.spread > SPREADS[0]
    assert basin.mean == pytest.approx(600.0, rel=0.2)
