"""Models with their observations and fits, which several files of tests use."""

import jax
import numpy as np
import pytest
from toy_models import ONE_ROUND, PLATES, angles_of, drawn_from_linear_model, linear_model, two_plates

from pendel.infer.guide.svi import starting_guide
from pendel.infer.maximum.map import fit_map
from pendel.infer.maximum.optimise import MapTuning
from pendel.infer.maximum.spreads import integrated_functions, integrated_spreads
from pendel.infer.target import make_target


@pytest.fixture(scope="session")
def linear_data():
    return drawn_from_linear_model()


@pytest.fixture(scope="session")
def linear(linear_data):
    return make_target(linear_model, 0.2, y=linear_data)


@pytest.fixture(scope="session")
def linear_fit(linear):
    """With the spread at its first value."""
    return fit_map(linear, tuning=ONE_ROUND)


@pytest.fixture(scope="session")
def fit_with_spread(linear):
    """With the spread moved twice."""
    return fit_map(linear, tuning=MapTuning(rounds=2))


@pytest.fixture(scope="session")
def guide_of_two_plates():
    """The guide at its start, and Laplace at any log spreads: exact, as all is normal given them."""
    rng = np.random.default_rng(5)
    target = make_target(two_plates, y=tuple(1.2 * rng.standard_normal(6 * frames) for frames in PLATES.values()))
    fit = fit_map(target, tuning=ONE_ROUND)
    functions = integrated_functions(target)
    integrated = integrated_spreads(functions, fit.unconstrained, fit.precision, fit.spreads, target.data)
    angles = {plate: angles_of(plate) for plate in PLATES}
    return starting_guide(target, fit, angles, jax.random.key(0)), integrated, fit, target
