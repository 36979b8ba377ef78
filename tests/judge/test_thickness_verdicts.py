"""Verdicts on maxima and thicknesses: basins that were not separated, distributions that stand for something else."""

import numpy as np
import pytest

from pendel.judge.verdicts import DUSTBIN, FAIL, PASS, WARN, _basins_of_start, _maximum, _stopped, _thin


@pytest.mark.parametrize("is_mosaic", [False, True])
@pytest.mark.parametrize(("share", "level"), [(0.0, PASS), (DUSTBIN, PASS), (0.6, WARN)])
def test_much_weight_at_no_thickness_is_a_warning(share, level, is_mosaic):
    """Its advice is to try mosaicity where that is off."""
    (verdict,) = _thin("one", {"thin_share": np.full((5, 3), share)}, is_mosaic)
    assert verdict.level == level
    assert ("--mosaicity on" in verdict.advice) == (level == WARN and not is_mosaic)
    assert f"{100 * share:.0f} % of the lit area" in verdict.text


def test_models_without_a_thickness_distribution_have_no_such_verdict():
    assert not list(_thin("one", {}, False))


@pytest.mark.parametrize(("lead", "level"), [(0.5, WARN), (40.0, PASS)])
def test_lead_of_the_best_basin(lead, level):
    fitted = [
        {"angstrom": 900.0, "log_evidence": -100.0},
        {"angstrom": 500.0, "log_evidence": -100.0 + lead},
        {"angstrom": 1500.0, "log_evidence": None},
    ]
    (verdict,) = _basins_of_start({"basins_fitted": fitted})
    assert verdict.level == level
    assert "500 Å is ahead" in verdict.text
    assert f"{lead:.1f} nats" in verdict.text


@pytest.mark.parametrize(("converged", "level", "word"), [(1, PASS, "was reached"), (0, FAIL, "was not reached")])
def test_a_maximum_that_was_not_reached_is_a_failure(converged, level, word):
    (verdict,) = _maximum({"converged": converged, "map_message": "80 steps"})
    assert (verdict.level, verdict.text) == (level, f"the maximum {word}: 80 steps")
    assert bool(verdict.advice) == (level == FAIL)
    assert not list(_maximum({}))


@pytest.mark.parametrize("record", [{}, {"basins_fitted": []}])
def test_a_separated_basin_needs_no_verdict(record):
    assert not list(_basins_of_start(record))


def test_a_thickness_at_the_end_of_what_can_be_calculated_is_a_warning():
    draws = np.log(np.full((1, 50, 4), 800.0))
    assert not list(_stopped("one", draws, 2000.0))
    draws[..., 2] = np.log(np.linspace(1700.0, 1900.0, 50))
    (verdict,) = _stopped("one", draws, 2000.0)
    assert verdict.level == WARN
    assert "1895 Å" in verdict.text
    assert "2000 Å" in verdict.text
    assert list(_stopped("one", draws[..., 2], 2000.0))  # one number for all frames
