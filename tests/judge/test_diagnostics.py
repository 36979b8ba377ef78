"""R factors against numbers worked out by hand, and chains that stand still."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from made_runs import make_run
from pendel.folder.reader import read_run_files
from pendel.judge.agreement import agreement, rescaled
from pendel.judge.chains import chain_quality
from pendel.judge.verdicts import FAIL, _chains
from pendel.model.errors import amplitude_weights
from pendel.run.summary import plain

# Frame 0: two observed reflections and a negative one. Frame 1: one observed, one weak. Frame 2: none observed.
INTENSITY = np.array([100.0, 25.0, -2.0, 16.0, 1.0, 0.5])
SIGMA = np.array([4.0, 1.0, 1.0, 2.0, 1.0, 1.0])
CALCULATED = np.array([81.0, 36.0, 1.0, 25.0, 4.0, 0.25])
FRAME = np.array([0, 0, 0, 1, 1, 2])


def test_weights_by_hand():
    # I = 100, sigma = 4: s = 4 / 20 = .2, 0.01 sqrt(I) = .1 -> 1 / sqrt(.05).  I = -2: s = 5, root 0 -> 1 / 5.
    weights = amplitude_weights(np.array([100.0, -2.0, 0.0]), np.array([4.0, 1.0, 4.0]))
    np.testing.assert_allclose(weights, [1 / np.sqrt(0.05), 0.2, 0.1], rtol=1e-14)


def test_weight_changes_formula_at_a_hundredth_of_sigma():
    below, above = amplitude_weights(np.array([0.00999, 0.01001]), np.array([1.0, 1.0]))
    assert below == pytest.approx(1 / 5, rel=1e-4)
    assert above == pytest.approx(2 * np.sqrt(0.01001), rel=1e-4)


def test_r_obs_by_hand():
    found = agreement(INTENSITY, SIGMA, CALCULATED, FRAME)
    # frame 0: (|10 - 9| + |5 - 6|) / 15; frame 1: |4 - 5| / 4 (I = 1 is not above 3 sigma); frame 2 has no R_obs
    assert found.r_obs_mean == pytest.approx((2 / 15 + 1 / 4) / 2, rel=1e-14)
    assert found.r_obs_pooled == pytest.approx(3 / 19, rel=1e-14)
    assert (found.n_scored, found.n_observed, found.n_frames) == (6, 3, 3)


def test_wr2_by_hand():
    use = np.array([True, False, True, True, False, False])
    found = agreement(INTENSITY, SIGMA, CALCULATED, FRAME, mask=use)
    # w^2 = 20, 1/25 and 1 / (.25^2 + .04^2)
    third = 1 / (0.25**2 + 0.04**2)
    top = [20 * 19**2 + 3**2 / 25, third * 9**2]
    bottom = [20 * 100**2 + 2**2 / 25, third * 16**2]
    assert found.wr2_pooled == pytest.approx(np.sqrt(sum(top) / sum(bottom)), rel=1e-14)
    assert found.wr2_mean == pytest.approx(np.mean(np.sqrt(np.divide(top, bottom))), rel=1e-14)


def test_a_perfect_model_scores_zero_and_none_scores_nan():
    perfect = agreement(INTENSITY, SIGMA, INTENSITY, FRAME)
    assert perfect.wr2_pooled == perfect.r_obs_pooled == perfect.wr2_mean == 0.0
    nothing = agreement(INTENSITY, SIGMA, INTENSITY, FRAME, mask=np.zeros(6, dtype=bool))
    assert np.isnan(nothing.r_obs_pooled)
    assert nothing.n_frames == 0


def test_a_background_is_not_refitted():
    background = np.array([3.0, 3.0, 3.0, -1.0, -1.0, 2.0])
    factor = np.array([0.5, 2.0, 1.5])[FRAME]
    measured = factor * CALCULATED + background
    scaled = rescaled(measured, SIGMA, CALCULATED + background, FRAME, background)
    np.testing.assert_allclose(scaled, measured, rtol=1e-13)


def test_refitted_scale_is_the_weighted_least_squares_one():
    scaled = rescaled(INTENSITY, SIGMA, CALCULATED, FRAME)
    np.testing.assert_allclose(rescaled(INTENSITY, SIGMA, 7 * CALCULATED, FRAME), scaled, rtol=1e-13)
    weight = amplitude_weights(INTENSITY, SIGMA)
    residual = weight * (scaled - INTENSITY)
    for frame in range(3):
        rows = frame == FRAME
        assert abs(np.sum((residual * weight * scaled)[rows])) < 1e-9 * np.sum((weight * scaled)[rows] ** 2)


def test_klar_scale_by_hand():
    # one reflection per frame: the scale puts I_c on I_o
    found = rescaled(np.array([9.0, 4.0]), np.array([1.0, 1.0]), np.array([3.0, 8.0]), np.array([0, 1]))
    np.testing.assert_allclose(found, [9.0, 4.0], rtol=1e-14)


def test_chains_that_stand_still_apart_have_an_infinite_r_hat(tmp_path: Path):
    still = np.repeat([[0.0], [1.0]], 40, axis=1)
    moving = np.random.default_rng(0).normal(size=(2, 40))
    found = chain_quality({"still": still, "moving": moving, "constant": np.ones((2, 40))})
    assert (found["max_r_hat"], found["max_r_hat_of"]) == (np.inf, "still")
    run = read_run_files(make_run(tmp_path / "run"))
    summary = {**run.summary, **plain({**found, "n_divergent": None, "n_draws": 80}), "stage": "mclmc"}
    first = next(_chains(dataclasses.replace(run, summary=summary)))
    assert first.level == FAIL
    assert "largest R-hat inf (still" in first.text
