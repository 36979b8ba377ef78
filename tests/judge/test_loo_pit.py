"""Leave-one-out ranks: uniform for the right model, however many parameters it fits."""

import numpy as np
import pytest
import xarray as xr
from scipy.stats import kstest, norm

from pendel.base import suffix
from pendel.judge.loo import left_out_ranks


def regression(seed, *, rows=600, parameters=120, draws=400, scale=1.0):
    """y = X beta + e, e ~ N(0, 1): exact posterior draws of a model that knows `scale` times the error.

    Returns the observations and what a posterior file holds of them, with log likelihoods and replicas [draws rows].
    """
    rng = np.random.default_rng(seed)
    design = rng.normal(size=(rows, parameters))
    measured = design @ rng.normal(size=parameters) + rng.normal(size=rows)
    covariance = np.linalg.inv(design.T @ design / scale**2 + np.eye(parameters))
    centre = covariance @ design.T @ measured / scale**2
    beta = centre + rng.normal(size=(draws, parameters)) @ np.linalg.cholesky(covariance).T
    mean = beta @ design.T
    return measured, norm.logpdf(measured, mean, scale), mean + scale * rng.normal(size=mean.shape)


def tree(*data, chains=1):
    """The groups of a posterior file that ranks need, one data set for each argument."""
    likelihood, replicated, observed, constant = {}, {}, {}, {}
    draws = len(data[0][1]) // chains
    for number, (measured, log_likelihood, replicas) in enumerate(data):
        end, count = suffix(number), len(measured)
        axis = f"measurement{end}"
        dims = ("chain", "draw", axis)
        names = np.array([f"{row} 0 0" for row in range(count)])
        coords = {axis: np.arange(count), f"hkl{end}": (axis, names)}
        shape = (chains, draws, count)
        likelihood[f"intensity{end}"] = xr.DataArray(log_likelihood.reshape(shape), dims=dims, coords=coords)
        replicated[f"intensity{end}"] = (dims, replicas.reshape(shape))
        observed[f"intensity{end}"] = (axis, measured)
        constant |= {f"sigma{end}": (axis, np.ones(count)), f"frame_of{end}": (axis, np.zeros(count))}
    groups = {
        "posterior": xr.Dataset({"x": (("chain", "draw"), np.zeros((chains, draws)))}),
        "log_likelihood": xr.Dataset(likelihood),
        "posterior_predictive": xr.Dataset(replicated),
        "observed_data": xr.Dataset(observed),
        "constant_data": xr.Dataset(constant),
    }
    return xr.DataTree.from_dict(groups)


def departure(ranks):
    """Probability of a departure from uniform that is as large, by Kolmogorov and Smirnov."""
    return kstest(ranks, "uniform").pvalue


@pytest.mark.parametrize("draws", [40, 400])
def test_ranks_of_the_right_model_are_uniform_though_it_fits_a_fifth_of_the_rows(draws):
    left_out, in_the_fit = [], []
    for seed in range(8):
        measured, log_likelihood, replicas = regression(seed, draws=draws)
        left_out.append(departure(left_out_ranks(tree((measured, log_likelihood, replicas)))[0]))
        in_the_fit.append(departure(np.mean(replicas < measured, axis=0)))
    assert np.median(left_out) > 0.1
    assert np.min(left_out) > 1e-3
    assert np.median(in_the_fit) < 0.02  # what the fit has used is pulled to the middle


def test_errors_of_the_wrong_size_are_found():
    for scale in (0.7, 1.5):
        assert departure(left_out_ranks(tree(regression(1, scale=scale)))[0]) < 1e-3


def test_every_data_set_has_ranks_of_its_own():
    one, other = regression(2, rows=150, parameters=20), regression(3, rows=90, parameters=20)
    both = left_out_ranks(tree(one, other))
    assert [len(ranks) for ranks in both] == [150, 90]
    np.testing.assert_allclose(both[0][:5], left_out_ranks(tree(one))[0][:5])


def test_rows_that_repeat_a_measurement_leave_together():
    measured, log_likelihood, replicas = regression(4, rows=80, parameters=10)
    twice = tree(tuple(np.concatenate([x, x], axis=-1) for x in (measured, log_likelihood, replicas)))
    names = np.array([f"{row % 80} 0 0" for row in range(160)])
    group = twice["log_likelihood"].to_dataset().assign_coords({"hkl": ("measurement", names)})
    twice["log_likelihood"] = xr.DataTree(group)
    (ranks,) = left_out_ranks(twice)
    (squared,) = left_out_ranks(tree((measured, 2 * log_likelihood, replicas)))
    # But for the random numbers between the steps.
    np.testing.assert_allclose(ranks[:80], ranks[80:], atol=0.1)
    np.testing.assert_allclose(ranks[:80], squared, atol=0.1)
    assert np.mean(np.abs(ranks[:80] - squared)) < 0.01
