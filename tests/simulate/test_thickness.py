"""Thickness densities: weights, moments in closed form, limits; the smooth prior."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pendel.simulate.thickness import (
    cylinder,
    lens,
    lognormal,
    matern_covariance,
    runout,
    single,
    stepped,
    tapered,
    wedge,
)

LOG_T, LOG_WIDTH = jnp.log(jnp.array([300.0, 900.0])), jnp.log(jnp.array([0.05, 0.3]))
DENSITIES = [lognormal, tapered, wedge]


def moments(nodes, weights):
    mean = jnp.sum(weights * nodes, axis=1)
    return mean, jnp.sqrt(jnp.sum(weights * (nodes - mean[:, None]) ** 2, axis=1))


@pytest.mark.parametrize("density", DENSITIES)
def test_weights_sum_to_one_and_nodes_are_positive(density):
    nodes, weights = density(LOG_T, LOG_WIDTH)
    np.testing.assert_allclose(jnp.sum(weights, axis=1), 1)
    assert nodes.shape == weights.shape
    assert np.all(np.asarray(nodes) > 0)


def test_tapered_moments():
    """t = T x^k: mean T / (1 + k), mean square T^2 / (1 + 2 k)."""
    t, k = np.exp(LOG_T), np.exp(LOG_WIDTH)
    mean, sd = moments(*tapered(LOG_T, LOG_WIDTH, 40))
    np.testing.assert_allclose(mean, t / (1 + k), rtol=1e-3)
    np.testing.assert_allclose(sd, t * np.sqrt(1 / (1 + 2 * k) - 1 / (1 + k) ** 2), rtol=2e-2)


def test_stepped_moments():
    """A share q of the area is h times as thick: means add up as (1 - q) + q h, mean squares as (1 - q) + q h^2."""
    log_odds, height = np.array([-1.0, 2.0]), 0.6
    low = 1 / (1 + np.exp(-log_odds))
    nodes, weights = stepped(LOG_T, LOG_WIDTH, log_odds, height, 80)
    flat, even = tapered(LOG_T, LOG_WIDTH, 40)
    for power in (1, 2):
        expected = (1 - low + low * height**power) * np.sum(even * flat**power, axis=1)
        np.testing.assert_allclose(np.sum(weights * nodes**power, axis=1), expected, rtol=1e-12)
    np.testing.assert_allclose(np.sum(weights, axis=1), 1.0, rtol=1e-12)


@pytest.mark.parametrize(
    ("shape", "mean", "square"),
    [(runout, 1 / 2, 1 / 3), (lens, 2 / 3, 1 / 2), (cylinder, np.pi / 4, 2 / 3), (single, 1, 1)],
)
def test_shapes_have_the_moments_of_solids(shape, mean, square):
    """Mean and mean square of t / T: wedge, ellipsoid, rod across the beam, slab."""
    nodes, weights = shape(LOG_T)
    t = np.exp(LOG_T)
    np.testing.assert_allclose(jnp.sum(weights * nodes, axis=1) / t, mean, rtol=2e-3)
    np.testing.assert_allclose(jnp.sum(weights * nodes**2, axis=1) / t**2, square, rtol=2e-3)


def test_wedge_moments_are_exact():
    mean, sd = moments(*wedge(LOG_T, LOG_WIDTH))
    np.testing.assert_allclose(mean, np.exp(LOG_T), rtol=1e-12)
    np.testing.assert_allclose(sd, np.exp(LOG_T + LOG_WIDTH), rtol=1e-12)


def test_lognormal_quantiles_keep_median_and_width():
    nodes, _ = lognormal(LOG_T, LOG_WIDTH)
    np.testing.assert_allclose(jnp.mean(jnp.log(nodes), axis=1), LOG_T)
    np.testing.assert_allclose(jnp.std(jnp.log(nodes), axis=1), jnp.exp(LOG_WIDTH))


@pytest.mark.parametrize("density", DENSITIES)
def test_vanishing_width_is_a_single_thickness(density):
    nodes, _ = density(LOG_T, jnp.full(2, -30.0))
    np.testing.assert_allclose(nodes, jnp.broadcast_to(single(LOG_T)[0], nodes.shape), rtol=1e-9)


@pytest.mark.parametrize("density", DENSITIES)
def test_nodes_move_with_the_density(density):
    slope = jax.jacfwd(lambda x: density(x, LOG_WIDTH)[0])(LOG_T)
    np.testing.assert_allclose(jnp.einsum("fqf->fq", slope), density(LOG_T, LOG_WIDTH)[0], rtol=1e-9)


def test_prior_curve_is_smooth_and_of_the_right_size():
    alpha = jnp.linspace(-40, 40, 33)
    covariance = np.asarray(matern_covariance(alpha, jnp.asarray(0.2), 20.0))
    assert np.linalg.eigvalsh(covariance)[0] > 0
    np.testing.assert_allclose(np.diag(covariance), 0.04, rtol=1e-3)
    r = np.sqrt(3) * 2.5 / 20
    assert covariance[3, 4] == pytest.approx(0.04 * (1 + r) * np.exp(-r), rel=1e-9)
