"""What is observed without a frame, and factors, count as prior, as if the prior were written out."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer.util import log_density
from scipy import stats
from scipy.optimize import minimize

from pendel.infer.chains.nuts import ChainTuning, sample_nuts
from pendel.infer.chains.smc import SmcTuning, sample_smc
from pendel.infer.guide.svi import SviTuning, fit_svi
from pendel.infer.maximum.map import fit_map
from pendel.infer.maximum.optimise import MapTuning
from pendel.infer.target import make_target
from pendel.judge.chains import chain_quality
from pendel.model.simulation import simulated

FRAMES, PER_FRAME, SIGMA = 3, 4, 0.5
FRAME = np.repeat(np.arange(FRAMES), PER_FRAME)
X = np.random.default_rng(1).standard_normal((len(FRAME), 2))
Y = X @ [1.2, -0.4] + np.array([0.3, -0.5, 0.1])[FRAME] + SIGMA * np.random.default_rng(2).standard_normal(len(FRAME))
EXACT = MapTuning(rounds=0, tolerance=1e-9)
NORMALISATION = stats.norm.logpdf(1.0, 0.0, np.sqrt(1.25))  # of Normal(x; 0, 1) Normal(1; x, 0.5) over the product
MEAN, SD = 0.8, np.sqrt(0.2)  # of the product


def model(kind, *, y=None):
    """Two coordinates with the prior Normal(0, 1) and the restraint that the first one is 1.0 +- 0.5."""
    if kind == "written out":
        first = numpyro.sample("first", dist.Normal(MEAN, SD))
    else:
        first = numpyro.sample("first", dist.Normal(0, 1))
    second = numpyro.sample("second", dist.Normal(0, 1))
    if kind == "restraint":
        numpyro.sample("restraint", dist.Normal(first, 0.5), obs=jnp.asarray(1.0))
    elif kind == "factor":
        numpyro.factor("restraint", dist.Normal(first, 0.5).log_prob(1.0))
    with numpyro.plate("frames", FRAMES):
        offset = numpyro.sample("offset", dist.Normal(0, 0.5))
    intensity = simulated("simulated", lambda first, second: X @ jnp.stack([first, second]), first, second)
    observed = {"obs": y, "infer": {"plate": "frames", "frame": FRAME}}
    numpyro.sample("y", dist.Normal(intensity + offset[FRAME], SIGMA), **observed)


KINDS = ["restraint", "factor", "written out"]


@pytest.fixture(scope="module")
def targets():
    return {kind: make_target(partial(model, kind), y=Y) for kind in KINDS}


@pytest.fixture(scope="module")
def fits(targets):
    return {kind: fit_map(target, tuning=EXACT) for kind, target in targets.items()}


def exact():
    """Mean and covariance of (first, second, offset)."""
    design = np.column_stack([X, FRAME[:, None] == np.arange(FRAMES)])
    precision = np.diag([1 / SD**2, 1.0, *np.full(FRAMES, 4.0)])
    covariance = np.linalg.inv(precision + design.T @ design / SIGMA**2)
    right = design.T @ Y / SIGMA**2 + precision @ [MEAN, *np.zeros(1 + FRAMES)]
    return covariance @ right, covariance


@pytest.mark.parametrize("kind", KINDS)
def test_maximum_and_laplace_are_exact(fits, kind):
    mean, covariance = exact()
    np.testing.assert_allclose(fits[kind].unconstrained, mean, atol=1e-5)
    np.testing.assert_allclose(fits[kind].covariance, covariance, atol=1e-10)
    constant = 0.0 if kind == "written out" else NORMALISATION
    assert fits["written out"].potential - fits[kind].potential == pytest.approx(constant, abs=1e-8)


def test_a_restraint_is_neither_predicted_nor_an_observation(targets):
    for target in targets.values():
        assert target.layout.observations[0][:2] == ("y", "frames")
        assert len(target.layout.observations) == 1
        assert target.predict(target.layout.split(jnp.zeros(target.layout.size)))[1].counts == (len(Y),)


@pytest.mark.parametrize("kind", ["restraint", "factor"])
def test_the_bound_of_the_guide_differs_by_a_constant(targets, fits, kind):
    """With the same noise and guide the loss is the one of the prior written out, but for its normalisation."""
    tuning = SviTuning(steps=15, cycles=(1, 1))
    one, other = (
        fit_svi(targets[name], start=fits["written out"], key=jax.random.key(0), tuning=tuning)
        for name in (kind, "written out")
    )
    assert other.losses[0] - one.losses[0] == pytest.approx(NORMALISATION, abs=1e-6)  # before the first step
    draws = one.draw(jax.random.key(1), 4000)
    mean, covariance = exact()
    assert np.mean(draws["first"]) == pytest.approx(mean[0], abs=0.1 * covariance[0, 0] ** 0.5)
    assert np.std(draws["first"]) == pytest.approx(covariance[0, 0] ** 0.5, rel=0.1)


@pytest.mark.parametrize("kind", ["restraint", "factor"])
def test_chains_find_the_posterior(targets, fits, kind):
    tuning = ChainTuning(chains=2, warmup=50, draws=400)
    found = sample_nuts(targets[kind], start=fits[kind], key=jax.random.key(0), tuning=tuning)
    check_moments({name: np.asarray(value) for name, value in found.draws.items()}, chain_quality(found.draws))


def check_moments(draws, quality):
    """Means within five standard errors of the exact ones, once there are enough independent draws."""
    effective = quality["min_ess_bulk"]
    assert effective > 200
    mean, covariance = exact()
    for number, name in enumerate(("first", "second")):
        width = covariance[number, number] ** 0.5
        assert abs(np.mean(draws[name]) - mean[number]) < 5 * width / effective**0.5
        assert np.std(draws[name]) == pytest.approx(width, rel=5 / np.sqrt(2 * effective))


def test_particles_find_the_posterior_and_its_evidence(targets, fits):
    """The evidence of the restrained model is that of the prior written out, times the normalisation."""
    tuning = SmcTuning(particles=256, at_once=256)
    found = sample_smc(targets["restraint"], starts=[fits["restraint"]], key=jax.random.key(0), tuning=tuning)
    design = np.column_stack([X, FRAME[:, None] == np.arange(FRAMES)])
    prior = np.diag([SD**2, 1.0, *np.full(FRAMES, 0.25)])
    marginal = stats.multivariate_normal(MEAN * X[:, 0], design @ prior @ design.T + SIGMA**2 * np.eye(len(Y)))
    assert found.log_evidence == pytest.approx(marginal.logpdf(Y) + NORMALISATION, abs=0.05)
    mean, covariance = exact()
    width = covariance[0, 0] ** 0.5
    assert abs(np.mean(found.draws["first"]) - mean[0]) < 5 * width / np.sqrt(256 / 2)
    assert np.std(found.draws["first"]) == pytest.approx(width, rel=5 / np.sqrt(256))


def atoms(*, y=None):
    """Two atoms of a plane, seen through their coordinates with much noise, 1.5 +- 0.01 apart."""
    position = numpyro.sample("position", dist.Normal(0, 1).expand([2, 2]).to_event(2))
    with numpyro.plate("frames", FRAMES):
        offset = numpyro.sample("offset", dist.Normal(0, 0.5))
    distance = jnp.linalg.norm(position[0] - position[1])
    numpyro.sample("distance", dist.Normal(distance, 0.01), obs=jnp.asarray(1.5))
    intensity = simulated("simulated", lambda position: jnp.tile(position.ravel(), FRAMES), position)
    observed = {"obs": y, "infer": {"plate": "frames", "frame": FRAME}}
    numpyro.sample("y", dist.Normal(intensity + offset[FRAME], 0.2), **observed)


def test_a_restrained_distance_is_that_of_a_dense_search():
    y = np.tile([0.1, 0.2, 1.0, 0.9], FRAMES) + np.array([0.3, -0.5, 0.1])[FRAME]
    target = make_target(atoms, y=y)
    start = {"position": np.array([[0.0, 0.0], [1.0, 1.0]])}
    fit = fit_map(target, start=start, tuning=EXACT)

    @jax.jit
    def density(z):
        return -log_density(atoms, (), {"y": y}, target.layout.constrain(z))[0]

    hessian = jax.jit(jax.hessian(density))
    begin = target.layout.unconstrain({**start, "offset": np.zeros(FRAMES)})
    found = minimize(density, begin, jac=jax.jit(jax.grad(density)), hess=hessian, method="trust-exact", tol=1e-10)
    np.testing.assert_allclose(fit.unconstrained, found.x, atol=1e-4)

    def distance(z):
        position = target.layout.constrain(z)["position"]
        return jnp.linalg.norm(position[0] - position[1])

    # The Gauss-Newton matrix leaves out the curvature of the distance itself, which counts off its target.
    left_out = (distance(found.x) - 1.5) / 0.01**2 * jax.hessian(distance)(jnp.asarray(found.x))
    expected = np.linalg.inv(hessian(found.x) - left_out)
    np.testing.assert_allclose(fit.covariance, expected, rtol=1e-3, atol=1e-6)
    first, second = np.asarray(fit.values["position"])
    assert np.linalg.norm(first - second) == pytest.approx(1.5, abs=0.02)
