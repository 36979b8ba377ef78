"""Families of observations: log densities, and the information of an observation against quadrature."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import stats
from toy_models import FRAME, FRAMES, OBSERVED, X, scale_mixture

from pendel.base import InputError
from pendel.infer.families import ANY, LOG_NORMAL, NORMAL, POISSON, STUDENT, family_of
from pendel.infer.maximum.curvature import part_sizes
from pendel.infer.maximum.normal_matrix import normal_matrix
from pendel.infer.target import make_target

VALUE = np.array([0.7, 2.0, 5.0])


@pytest.mark.parametrize(
    ("fn", "family"),
    [
        (dist.Normal(0.3, 1.7), NORMAL),
        (dist.StudentT(4.0, 0.3, 1.7), STUDENT),
        (dist.LogNormal(0.3, 0.7), LOG_NORMAL),
        (dist.Poisson(2.3), POISSON),
        (dist.Gamma(2.0, 1.5), ANY),
        (scale_mixture(jnp.asarray(0.3), 1.7), ANY),
    ],
)
def test_log_density_is_that_of_the_distribution(fn, family):
    value = jnp.round(VALUE) if family is POISSON else VALUE
    assert family_of(fn) is family
    parameters = family.parameters(fn, value)
    assert parameters.shape == (family.rows, 3)
    np.testing.assert_allclose(family.log_density(parameters, value), fn.log_prob(value), rtol=1e-10)


def mean_of_scores(family, parameters, value, weight):
    """Sum over the values of weight * score * score^T."""

    def log_density(own):
        return family.log_density(jnp.broadcast_to(own, (len(value), len(own))).T, value)

    score = jax.jacfwd(log_density)(jnp.asarray(parameters))
    return np.einsum("mi,mj,m->ij", score, score, weight)


@pytest.mark.parametrize("family", [NORMAL, LOG_NORMAL])
def test_information_of_normal_distributions(family):
    node, weight = np.polynomial.hermite_e.hermegauss(20)
    location, log_scale = 0.3, np.log(1.7)
    value = location + np.exp(log_scale) * node
    value = np.exp(value) if family is LOG_NORMAL else value
    closed = family.information(jnp.array([[location], [log_scale]]))[:, :, 0]
    numeric = mean_of_scores(family, [location, log_scale], value, weight / weight.sum())
    np.testing.assert_allclose(closed, numeric, rtol=1e-9, atol=1e-9)


def test_information_of_counts():
    counts = np.arange(100.0)
    weight = stats.poisson.pmf(counts, 7.3)
    numeric = mean_of_scores(POISSON, [np.log(7.3)], counts, weight)
    np.testing.assert_allclose(POISSON.information(jnp.array([[np.log(7.3)]]))[:, :, 0], numeric, rtol=1e-9)


@pytest.mark.parametrize("nu", [2.5, 8.0])
def test_information_of_student_t(nu):
    """Against the mean product of scores, by quadrature over the quantiles (the substitution flattens the tails)."""
    scale, step = 1.7, 1e-5
    closed = np.asarray(STUDENT.information(jnp.array([[0.3], [np.log(scale)], [np.log(nu)]])))[:, :, 0]
    node, weight = np.polynomial.legendre.leggauss(400)
    u = 0.25 * (node + 1) ** 2 * (2 - node)  # smoothstep of (0, 1): many nodes in both tails
    x = stats.t.ppf(u, nu, 0.3, scale)

    def logpdf(at):
        return stats.t.logpdf(x, np.exp(at[2]), at[0], np.exp(at[1]))

    at = np.array([0.3, np.log(scale), np.log(nu)])
    score = np.array([(logpdf(at + step * e) - logpdf(at - step * e)) / (2 * step) for e in np.eye(3)])
    numeric = np.einsum("iq,jq,q->ij", score, score, weight * 0.75 * (1 - node**2))
    np.testing.assert_allclose(closed, numeric, atol=2e-4)


def mixture_model(*, y=None):
    slope = numpyro.sample("slope", dist.Normal(0, 2))
    log_scale = numpyro.sample("log_scale", dist.Normal(0, 1))
    with numpyro.plate("frames", FRAMES):
        offset = numpyro.sample("offset", dist.Normal(0, 1))
    numpyro.sample("y", scale_mixture(slope * X + offset[FRAME], jnp.exp(log_scale)), obs=y, infer=OBSERVED)


def test_a_distribution_without_closed_form_has_the_exact_gradient():
    y = 2 * X + np.random.default_rng(0).standard_normal(len(X))
    target = make_target(mixture_model, y=y)
    layout = target.layout
    z = 0.1 * jnp.arange(float(layout.size)) / layout.size

    def density(x):
        log_joint, _ = numpyro.infer.util.log_density(mixture_model, (), {"y": y}, layout.constrain(x))
        return -(log_joint + layout.log_det_jacobian(layout.split(x)))

    value, slope = jax.jit(jax.value_and_grad(density))(z)
    matrix = jax.jit(lambda z, data: normal_matrix(target, z, {}, data, part_sizes(target)))
    potential, gradient, _, _ = matrix(z, target.data)
    assert float(potential) == pytest.approx(float(value), rel=1e-12)
    np.testing.assert_allclose(gradient, slope, rtol=1e-9, atol=1e-9)


def test_information_of_any_distribution_comes_from_replicates():
    """Of 10000 observations of one scale mixture, on its location and the logarithm of its scale."""
    count, at = 10_000, jnp.array([0.3, 0.5])

    def parameters(at):
        return ANY.parameters(scale_mixture(jnp.broadcast_to(at[0], (count,)), jnp.exp(at[1])), jnp.zeros(count))

    jacobian = jax.jacfwd(parameters)(at)
    found = jnp.einsum("ami,abm,bmj->ij", jacobian, ANY.information(parameters(at)), jacobian) / count
    x = jnp.linspace(-60, 60, 200_001)
    score = jax.jacfwd(lambda at: scale_mixture(jnp.broadcast_to(at[0], x.shape), jnp.exp(at[1])).log_prob(x))(at)
    weight = jnp.exp(scale_mixture(jnp.broadcast_to(at[0], x.shape), jnp.exp(at[1])).log_prob(x)) * (x[1] - x[0])
    expected = np.einsum("mi,mj,m->ij", score, score, weight)
    scatter = np.sqrt(np.einsum("mi,mj,m->ij", score**2, score**2, weight) / (8 * count))
    assert np.all(np.abs(found - expected) < 5 * scatter)


def test_one_distribution_of_many_observations_has_replicates_of_each():
    fn = scale_mixture(jnp.asarray(0.3), 1.7)
    rows = np.asarray(ANY.parameters(fn, jnp.asarray(VALUE)))
    assert rows.shape == (ANY.rows, 3)
    assert len(np.unique(rows[1:])) == rows[1:].size


def test_observations_with_a_joint_distribution_are_refused():
    def model(*, y=None):
        slope = numpyro.sample("slope", dist.Normal(0, 2))
        with numpyro.plate("frames", FRAMES):
            numpyro.sample("offset", dist.Normal(0, 1))
        numpyro.sample("y", dist.MultivariateNormal(slope * X, jnp.eye(len(X))), obs=y, infer=OBSERVED)

    with pytest.raises(InputError, match=r"MultivariateNormal.*one value for every observation"):
        make_target(model, y=X)
