"""Which thickness basins are fitted, and which of them is kept."""

from unittest.mock import Mock

import numpy as np
import pytest

from pendel.infer.maximum.map import MapFit
from pendel.infer.target import Target
from pendel.run import basins
from pendel.run.basins import INSEPARABLE, fit_likely_basin, near_basins
from pendel.run.fitting import Chosen, Run


@pytest.fixture
def start():
    """Three basins, of which the third is too high."""
    found = np.array([[500.0, 10.0], [900.0, 10.0 + 0.5 * INSEPARABLE], [1500.0, 10.0 + 2 * INSEPARABLE]])
    values = [{"log_thickness": np.full(1, np.log(thickness))} for thickness, _ in found]
    return Chosen(values=values[0], basins=found, others=tuple(values[1:]))


@pytest.fixture
def fits(monkeypatch):
    """Fits that end where they start; the evidence grows with the thickness. The starts of all fits, and the record."""
    began, record = [], {}

    def fit_structure(run, target, start, *, rounds, tolerance):
        began.append((round(float(np.exp(start.values["log_thickness"][0]))), tolerance))
        return Mock(spec=MapFit, values=start.values)

    monkeypatch.setattr(basins, "fit_structure", fit_structure)
    monkeypatch.setattr(basins, "laplace_evidence", lambda fit: float(fit.values["log_thickness"][0]))
    run = Mock(spec=Run, folder=Mock(update=lambda **entries: record.update(entries)))
    return began, record, lambda start, **options: fit_likely_basin(run, Mock(spec=Target), start, **options)


def test_basins_that_are_nearly_as_good_are_near(start):
    assert [round(float(np.exp(one.values["log_thickness"][0]))) for one in near_basins(start)] == [500, 900]


def test_the_most_probable_of_the_near_basins_is_kept(start, fits):
    began, record, fit = fits
    found = fit(start, rounds=3, tolerance=basins.CONVERGED)
    assert began == [(500, basins.APPROXIMATE), (900, basins.APPROXIMATE), (900, basins.CONVERGED)]
    assert found.values["log_thickness"][0] == pytest.approx(np.log(900.0))
    assert [basin["angstrom"] for basin in record["basins_fitted"]] == [500.0, 900.0]


def test_a_rough_fit_is_not_repeated_where_it_is_enough(start, fits):
    began, _, fit = fits
    fit(start, rounds=1, tolerance=basins.APPROXIMATE)
    assert [thickness for thickness, _ in began] == [500, 900]
