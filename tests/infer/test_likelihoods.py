"""Maximum and Laplace approximation of other likelihoods than the normal one, against dense references."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer.util import log_density
from scipy.optimize import minimize
from toy_models import FRAME, FRAMES, OBSERVED, X, scale_mixture

from pendel.infer.maximum.map import fit_map
from pendel.infer.maximum.optimise import MapTuning
from pendel.infer.target import make_target

EXACT = MapTuning(rounds=0, tolerance=1e-9)
DESIGN = np.column_stack([X, FRAME[:, None] == np.arange(FRAMES)])  # of the slope and the offsets
PRIOR = np.diag([1 / 4, *np.full(FRAMES, 4.0)])  # precision


def line():
    slope = numpyro.sample("slope", dist.Normal(0, 2))
    with numpyro.plate("frames", FRAMES):
        offset = numpyro.sample("offset", dist.Normal(0, 0.5))
    return slope * X + offset[FRAME]


def counts(*, y=None):
    numpyro.sample("y", dist.Poisson(jnp.exp(1.0 + line())), obs=y, infer=OBSERVED)


def log_normal(*, y=None):
    numpyro.sample("y", dist.LogNormal(line(), 0.3), obs=y, infer=OBSERVED)


def outliers(*, y=None):
    numpyro.sample("y", scale_mixture(line(), 0.3), obs=y, infer=OBSERVED)


def two_kinds(*, y=None):
    """Every second measurement is a count, the others are normal."""
    mean = line()
    infer = [{"plate": "frames", "frame": FRAME[first::2]} for first in (0, 1)]
    numpyro.sample("count", dist.Poisson(jnp.exp(1.0 + mean[::2])), obs=None if y is None else y[::2], infer=infer[0])
    numpyro.sample("current", dist.Normal(mean[1::2], 0.3), obs=None if y is None else y[1::2], infer=infer[1])


def observations_of(model):
    rng = np.random.default_rng(2)
    mean = 0.8 * X + (0.5 * rng.standard_normal(FRAMES))[FRAME]
    if model is counts:
        return rng.poisson(np.exp(1.0 + mean)).astype(float)
    noisy = mean + 0.3 * rng.standard_normal(len(X)) * (4.0 if model is outliers else 1.0) ** (rng.random(len(X)) < 0.2)
    if model is two_kinds:
        noisy[::2] = rng.poisson(np.exp(1.0 + mean[::2]))
    return np.exp(noisy) if model is log_normal else noisy


def dense_maximum(model, y, layout):
    """Maximum and precision there of NumPyro's own log density, which knows of no frames."""

    @jax.jit
    def density(z):
        return -log_density(model, (), {"y": y}, layout.constrain(z))[0]

    slope, hessian = jax.jit(jax.grad(density)), jax.jit(jax.hessian(density))
    found = minimize(density, np.zeros(layout.size), jac=slope, hess=hessian, method="trust-exact", tol=1e-10)
    return found.x, np.asarray(hessian(found.x))


@pytest.mark.parametrize("model", [counts, log_normal, outliers, two_kinds])
def test_the_maximum_is_that_of_a_dense_search(model):
    """Where the information does not depend on the observations, the Hessian is the Gauss-Newton matrix, too."""
    y = observations_of(model)
    fit = fit_map(make_target(model, y=y), tuning=EXACT)
    z, precision = dense_maximum(model, y, fit.layout)
    width = np.sqrt(np.diag(np.linalg.inv(precision)))
    assert fit.converged
    assert np.max(np.abs(fit.unconstrained - z) / width) < 1e-3
    if model is not outliers:
        np.testing.assert_allclose(fit.covariance, np.linalg.inv(precision), rtol=1e-4, atol=1e-7)


def test_information_of_outliers_is_within_the_error_of_its_replicates():
    """Expected information by quadrature is one number; eight replicates of eight observations know a frame's part."""
    fit = fit_map(make_target(outliers, y=observations_of(outliers)), tuning=EXACT)
    x = jnp.linspace(-20, 20, 100_001)

    def log_prob(location):
        return scale_mixture(jnp.broadcast_to(location, x.shape), 0.3).log_prob(x)

    score = jax.jvp(log_prob, (0.0,), (1.0,))[1]
    weight = jnp.exp(log_prob(0.0)) * (x[1] - x[0])
    information = float(jnp.sum(weight * score**2))
    expected = np.diag(information * DESIGN.T @ DESIGN + PRIOR)
    relative = float(jnp.sqrt(jnp.sum(weight * score**4) / information**2 - 1))
    found = np.diag(np.linalg.inv(fit.covariance))
    error = np.sqrt(np.sum(DESIGN**4, axis=0) / 8) * information * relative
    assert np.all(np.abs(found - expected) < 4 * error)


def test_a_log_normal_posterior_is_the_exact_one():
    y = observations_of(log_normal)
    fit = fit_map(make_target(log_normal, y=y), tuning=EXACT)
    covariance = np.linalg.inv(DESIGN.T @ DESIGN / 0.09 + PRIOR)
    np.testing.assert_allclose(fit.covariance, covariance, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(fit.unconstrained, covariance @ DESIGN.T @ np.log(y) / 0.09, atol=1e-6)


def test_two_kinds_of_observations_have_rows_of_their_own():
    y = observations_of(two_kinds)
    target = make_target(two_kinds, y=y)
    prediction = target.predict(target.layout.split(jnp.zeros(target.layout.size)))[1]
    assert [family.rows for family in prediction.families] == [1, 2]
    half = len(y) // 2
    assert prediction.counts == (half, half)
    np.testing.assert_array_equal(np.asarray(prediction.parameters)[1, :half], 0.0)
    expected = [dist.Poisson(np.e).log_prob(y[::2]), dist.Normal(0, 0.3).log_prob(y[1::2])]
    np.testing.assert_allclose(prediction.pointwise(), np.concatenate(expected), rtol=1e-10)
