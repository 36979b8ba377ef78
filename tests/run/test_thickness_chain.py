"""Thickness along the angle on a grid against a sum over every path, written out."""

import itertools

import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import norm

from pendel.model.thickness_prior import LENGTH_DEG
from pendel.run.thickness_chain import JUMP, chain_misfit, likely_profile

GRID = np.log(300.0) + 0.1 * np.arange(6)
ALPHA = np.array([4.0, -3.0, 9.0])  # not in order
MEAN = GRID[2] + 0.03
SPREAD = 0.2


def paths_written_out(misfit):
    """log weight of every (curve, thickness) in all frames, with discrete conditionals that sum to 1."""

    def conditional(expected, spread):
        weight = norm.pdf(GRID, expected, spread)
        return weight / weight.sum()

    order = np.argsort(ALPHA)
    paths = {}
    for curve in itertools.product(range(len(GRID)), repeat=3):
        log_p = np.log(conditional(MEAN, SPREAD)[curve[0]])
        for f in (1, 2):
            kept = np.exp(-(ALPHA[order[f]] - ALPHA[order[f - 1]]) / LENGTH_DEG)
            expected = MEAN + kept * (GRID[curve[f - 1]] - MEAN)
            log_p += np.log(conditional(expected, SPREAD * np.sqrt(1 - kept**2))[curve[f]])
        for own in itertools.product(range(len(GRID)), repeat=3):
            jumps = sum(np.log(conditional(GRID[c], JUMP * SPREAD)[t]) for c, t in zip(curve, own, strict=True))
            paths[curve, own] = log_p + jumps - sum(misfit[order[f], own[f]] for f in range(3))
    return order, paths


@pytest.fixture
def misfit():
    return np.random.default_rng(3).uniform(0, 6, (3, len(GRID)))


def test_sum_over_curves_is_that_over_all_paths(misfit):
    _, paths = paths_written_out(misfit)
    expected = -logsumexp(list(paths.values()))
    assert chain_misfit(misfit, ALPHA, GRID, MEAN, SPREAD) == pytest.approx(expected, abs=1e-9)
    both = chain_misfit(np.stack([misfit, misfit + 1.0]), ALPHA, GRID, MEAN, SPREAD)
    assert both == pytest.approx([expected, expected + 3.0], abs=1e-9)


def test_profile_is_the_most_probable_thickness_of_each_frame(misfit):
    order, paths = paths_written_out(misfit)
    expected = np.empty(3, dtype=int)
    for f, frame in enumerate(order):
        marginal = [logsumexp([w for (_, own), w in paths.items() if own[f] == t]) for t in range(len(GRID))]
        expected[frame] = np.argmax(marginal)
    assert list(likely_profile(misfit, ALPHA, GRID, MEAN, SPREAD)) == list(expected)


def test_a_sure_frame_draws_its_neighbours(misfit):
    grid = np.log(200.0) + 0.03 * np.arange(60)
    alpha = np.array([0.0, 1.0, 60.0])
    silent, sure = np.zeros(60), 200.0 * (grid - grid[40]) ** 2 / 0.03**2
    near, itself, far = likely_profile(np.stack([silent, sure, silent]), alpha, grid, grid[20], 0.15)
    assert itself == 40
    assert near > 33  # a degree away the curve is nearly the same
    assert abs(far - 20) <= 3  # three correlation lengths away the mean says more


def test_frames_that_contradict_each_other_leave_a_finite_misfit():
    grid = np.log(200.0) + 0.03 * np.arange(80)
    frames = np.stack([1e5 * (grid - grid[0]) ** 2, 1e5 * (grid - grid[-1]) ** 2])
    assert np.isfinite(chain_misfit(frames, np.array([0.0, 0.1]), grid, grid[40], 0.15))
