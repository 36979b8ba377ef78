"""Markov chains on a model whose posterior is known exactly, interrupted and not."""

import dataclasses
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from toy_models import ONE_ROUND, Memory

from pendel.infer.chains.between_draws import random_walk
from pendel.infer.chains.loop import EVERY
from pendel.infer.chains.mclmc import MclmcTuning, sample_mclmc
from pendel.infer.chains.nuts import ChainTuning, sample_nuts
from pendel.infer.chains.whitening import POINTS, SECANT, SPREAD_WIDTH, unit_curvature, whitened
from pendel.infer.maximum.map import fit_map
from pendel.infer.target import make_target
from pendel.judge.chains import chain_quality

FRAMES, PER_FRAME, SIGMA = 8, 6, 0.2
FRAME = np.repeat(np.arange(FRAMES), PER_FRAME)
X = np.linspace(-1, 1, FRAMES * PER_FRAME)


def model(*, y=None):
    """A slope for all, an offset per frame with a spread that MAP fixes."""
    slope = numpyro.sample("slope", dist.Normal(0, 2))
    spread = numpyro.sample("offset_spread", dist.HalfNormal(1.0), infer={"fixed_in_map": 0.5})
    with numpyro.plate("frames", FRAMES):
        offset = numpyro.sample("offset", dist.Normal(0, spread))
    mean = slope * X + offset[FRAME]
    numpyro.sample("y", dist.Normal(mean, SIGMA), obs=y, infer={"plate": "frames", "frame": FRAME})


def exact(y):
    """Mean and standard deviation of slope and spread, the spread on a grid, all else integrated by hand."""
    design = np.column_stack([X, np.eye(FRAMES)[FRAME]])
    grid = np.linspace(0.02, 3, 600)
    log_weight, means, variances = [], [], []
    for spread in grid:
        prior = np.diag([4.0, *[spread**2] * FRAMES])
        marginal = design @ prior @ design.T + SIGMA**2 * np.eye(len(X))
        log_det = np.linalg.slogdet(marginal)[1]
        log_weight.append(-0.5 * (y @ np.linalg.solve(marginal, y) + log_det + spread**2))
        covariance = np.linalg.inv(np.linalg.inv(prior) + design.T @ design / SIGMA**2)
        means.append((covariance @ design.T @ y / SIGMA**2)[0])
        variances.append(covariance[0, 0])
    weight = np.exp(np.array(log_weight) - np.max(log_weight))
    weight /= weight.sum()
    mean = weight @ means
    sd = np.sqrt(weight @ (np.array(variances) + (np.array(means) - mean) ** 2))
    spread_mean = weight @ grid
    return mean, sd, spread_mean, np.sqrt(weight @ (grid - spread_mean) ** 2)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(4)
    return 1.3 * X + (0.5 * rng.standard_normal(FRAMES))[FRAME] + SIGMA * rng.standard_normal(len(X))


@pytest.fixture(scope="module")
def target(data):
    return make_target(model, y=data)


@pytest.fixture(scope="module")
def fit(target):
    return fit_map(target, tuning=ONE_ROUND)


@pytest.mark.parametrize(
    ("sample", "tuning"),
    [
        (sample_nuts, ChainTuning(chains=2, warmup=200, draws=1500)),
        (sample_mclmc, MclmcTuning(chains=2, adaptation=200, draws=1500)),
    ],
)
def test_chains_sample_everything_and_agree_with_integration(target, data, sample, tuning):
    found = sample(target, start=fit_map(target), key=jax.random.key(0), tuning=tuning)
    assert set(found.draws) == {"slope", "offset", "offset_spread"}  # nothing stays at its MAP value
    assert found.draws["offset"].shape == (2, 1500, FRAMES)
    mean, sd, spread_mean, spread_sd = exact(data)
    assert np.mean(found.draws["slope"]) == pytest.approx(mean, abs=0.15 * sd)
    assert np.std(found.draws["slope"]) == pytest.approx(sd, rel=0.1)
    assert np.mean(found.draws["offset_spread"]) == pytest.approx(spread_mean, abs=0.15 * spread_sd)
    assert np.std(found.draws["offset_spread"]) == pytest.approx(spread_sd, rel=0.15)
    assert found.statistics["diverging"].sum() == 0
    assert found.gradients > found.warmup_gradients >= 2 * 200
    quality = chain_quality(found.draws)
    assert quality["max_r_hat"] < 1.02
    assert quality["min_ess_bulk"] > 400


def test_chains_moved_together_are_those_moved_one_by_one(target, fit):
    tunings = [ChainTuning(chains=4, warmup=20, draws=10, at_once=width) for width in (1, 2)]
    alone, together = (sample_nuts(target, start=fit, key=jax.random.key(2), tuning=tuning) for tuning in tunings)
    np.testing.assert_allclose(together.draws["slope"], alone.draws["slope"], atol=1e-6)
    assert together.gradients == alone.gradients


@pytest.mark.parametrize("log_spread", [-3.0, 0.0, 2.0])
def test_frames_are_standard_normal_at_every_spread(target, fit, log_spread):
    """Given the globals the linear model is normal in its frames; whitened, its curvature is one at any spread."""
    space = whitened(target, fit)
    y = jax.numpy.zeros(space.size).at[0].set(0.7).at[1].set(log_spread / SPREAD_WIDTH)
    frames = slice(2, None)
    curvature = np.asarray(jax.hessian(space.potential)(y))[frames, frames]
    np.testing.assert_allclose(curvature, np.eye(FRAMES), atol=1e-6)
    slope = np.asarray(jax.grad(space.potential)(y))[frames]
    np.testing.assert_allclose(slope, 0, atol=1e-6)


def test_spreads_move_to_where_the_frames_ask_them_to_be(target, fit):
    """With all else fixed a spread has a density of one dimension, which is integrated on a grid."""
    space = whitened(target, fit)
    z = jnp.asarray(fit.unconstrained)

    def log_density(x):
        return space.log_prior(z, {"offset_spread": x[0]})

    def walk(x, key):
        x = random_walk(log_density, x, jnp.array([0.5]), key)
        return x, x[0]

    start, keys = jnp.array([-3.0]), jax.random.split(jax.random.key(1), 3000)
    found = np.asarray(jax.jit(lambda: jax.lax.scan(walk, start, keys)[1])())[20:]
    grid = jnp.linspace(-4, 2, 2000)
    density = np.asarray(jax.vmap(lambda s: space.log_prior(z, {"offset_spread": s}))(grid))
    weight = np.exp(density - density.max())
    weight /= weight.sum()
    mean = weight @ np.asarray(grid)
    sd = np.sqrt(weight @ (np.asarray(grid) - mean) ** 2)
    assert np.mean(found) == pytest.approx(mean, abs=0.1 * sd)
    assert np.std(found) == pytest.approx(sd, rel=0.06)


@cache
def any_space():
    y = 1.3 * X + 0.1 * np.sin(9 * X)
    target = make_target(model, y=y)
    return whitened(target, fit_map(target, tuning=ONE_ROUND))


def in_unit_curvature(potential, size):
    evaluate = jax.jit(jax.value_and_grad(potential))
    space = dataclasses.replace(
        any_space(), size=size, potential=potential, evaluate=evaluate, values=lambda y: {"y": y}
    )
    return unit_curvature(space, jax.random.key(0))


def test_what_curvature_is_left_is_divided_out():
    root = np.random.default_rng(3).standard_normal((5, 5))
    curvature = root @ root.T + 0.5 * np.eye(5)
    space = in_unit_curvature(lambda y: 0.5 * y @ curvature @ y, 5)
    np.testing.assert_allclose(jax.hessian(space.potential)(jnp.zeros(5)), np.eye(5), atol=1e-9)
    w = jnp.arange(5.0)
    y = space.values(w)["y"]
    climbed = space.potential(w) - space.potential(jnp.zeros(5))
    assert climbed == pytest.approx(float(0.5 * y @ curvature @ y), rel=1e-12)
    value, slope = jax.value_and_grad(space.potential)(w)
    assert space.evaluate(w)[0] == pytest.approx(float(value), rel=1e-12)
    np.testing.assert_allclose(space.evaluate(w)[1], slope, atol=1e-12)
    log_volume = np.linalg.slogdet(jax.jacfwd(lambda w: space.values(w)["y"])(w))[1]
    assert space.potential(jnp.zeros(5)) == pytest.approx(-log_volume, rel=1e-9)


def test_hills_count_like_valleys_and_places_are_averaged():
    saddle = jnp.diag(jnp.array([-4.0, 9.0]))
    hessian = jax.hessian(in_unit_curvature(lambda y: 0.5 * y @ saddle @ y, 2).potential)(jnp.zeros(2))
    np.testing.assert_allclose(hessian, np.diag([-1.0, 1.0]), atol=1e-9)

    def quartic(y):
        return jnp.sum(y**4) / 12 + 0.25 * jnp.sum(y**2)  # curvature y^2 + 1/2; by secants h^2 / 3 more

    places = np.concatenate([np.zeros((1, 1)), jax.random.normal(jax.random.key(0), (POINTS, 1))])
    mean = np.mean(places**2) + 0.5 + SECANT**2 / 3
    hessian = jax.hessian(in_unit_curvature(quartic, 1).potential)(jnp.ones(1))
    scale = float(jnp.ravel(in_unit_curvature(quartic, 1).values(jnp.ones(1))["y"])[0])
    assert scale == pytest.approx(mean**-0.5, rel=1e-9)
    assert float(hessian[0, 0]) == pytest.approx(scale**2 * (scale**2 + 0.5), rel=1e-9)


def test_a_cliff_beside_the_maximum_is_named_and_elsewhere_left_out():
    with pytest.raises(FloatingPointError, match="beside the maximum is not finite"):
        in_unit_curvature(lambda y: jnp.sum(jnp.sqrt(y + 0.1)), 1)
    space = in_unit_curvature(lambda y: jnp.sum(2 * y**2 + jnp.where(jnp.abs(y) < 0.3, 0.0, jnp.nan) * y), 1)
    assert float(space.values(jnp.ones(1))["y"][0]) == pytest.approx(0.5, rel=1e-9)


@pytest.mark.parametrize(
    ("sample", "tuning", "saves"),
    [
        (sample_nuts, ChainTuning(chains=2, warmup=EVERY, draws=EVERY), 1),
        pytest.param(sample_nuts, ChainTuning(chains=2, warmup=EVERY, draws=EVERY), 2, marks=pytest.mark.slow),
        pytest.param(sample_mclmc, MclmcTuning(chains=2, adaptation=EVERY, draws=EVERY), 2, marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_run_ends_as_an_uninterrupted_one(target, fit, sample, tuning, saves):
    options = {"start": fit, "key": jax.random.key(1), "tuning": tuning}
    whole = sample(target, **options)
    memory = Memory(stop_after=saves)
    with pytest.raises(KeyboardInterrupt):
        sample(target, keeper=memory, **options)
    resumed = sample(target, keeper=memory, **options)
    for name, values in whole.draws.items():
        np.testing.assert_array_equal(resumed.draws[name], values)
    assert resumed.gradients == whole.gradients
