"""Batches of frames that stand for all of them, and fits of the guide that are interrupted."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from toy_models import ANGLE, FRAME, FRAMES, OBSERVED, Memory, X, heavy_model, linear_model

from pendel.infer.guide.minibatch import frame_batches
from pendel.infer.guide.svi import SviTuning, fit_svi
from pendel.infer.maximum.arrow import arrow_of_diagonal
from pendel.infer.maximum.map import fit_map
from pendel.infer.target import make_target
from pendel.model.simulation import simulated

GROUPS = 30
GROUP = np.random.default_rng(2).permutation(np.arange(len(X)) * GROUPS // len(X))  # of an observation


def test_batches_tell_the_likelihood_of_all_frames(linear_data):
    """Exact on average; for a normal likelihood up to what the globals' information differs between batches."""
    linear, heavy = make_target(linear_model, 0.2, y=linear_data), make_target(heavy_model, y=jnp.asarray(1.5 + X))
    for target in (linear, heavy):
        fit = fit_map(target)
        batches = frame_batches(target, fit, 4)
        noise = np.random.default_rng(0).standard_normal(fit.layout.size)
        z = jnp.asarray(fit.unconstrained + np.linalg.cholesky(fit.covariance) @ noise)
        pointwise = target.predict(fit.layout.split(z), fit.spreads)[1].pointwise()
        hidden = [jnp.where(part.observations, pointwise, jnp.nan) for part in batches.parts]  # what is not simulated
        found = [float(part.log_likelihood(z, seen)) for part, seen in zip(batches.parts, hidden, strict=True)]
        assert np.mean(found) == pytest.approx(float(pointwise.sum()), abs=1e-8)
        diagonal = arrow_of_diagonal(fit.precision.diagonal(), fit.layout.globals, fit.precision.sizes)
        rough = dataclasses.replace(fit, precision=diagonal)  # as with very many globals
        parts = frame_batches(target, rough, 4).parts
        assert np.mean([float(part.log_likelihood(z, pointwise)) for part in parts]) == pytest.approx(np.mean(found))
        naive = [4 * float(jnp.sum(jnp.where(part.observations, pointwise, 0.0))) for part in batches.parts]
        assert np.std(found) < (0.02 if target is linear else 0.5) * np.std(naive)
    assert {id(batches.of_step(jax.random.key(1), step)[0]) for step in range(4, 8)} == set(map(id, batches.parts))


def errors_of_groups(*, y=None):
    """A simulated slope, and an error that all measurements of a group have in common; few frames measure a group."""
    slope = simulated("simulated", lambda slope: 2 * slope, numpyro.sample("slope", dist.Normal(0, 1)))
    error = numpyro.sample("error", dist.Normal(0, 0.5).expand([GROUPS]).to_event(1))
    with numpyro.plate("frames", FRAMES):
        offset = numpyro.sample("offset", dist.Normal(0, 0.5))
    mean = slope * jnp.asarray(np.cos(70 * X)) + offset[FRAME] + error[GROUP]
    numpyro.sample("y", dist.Normal(mean, 0.1), obs=y, infer=OBSERVED)


def test_a_batch_has_the_information_on_an_error_that_its_observations_give():
    noise = np.random.default_rng(8).standard_normal((2, len(X)))
    target = make_target(errors_of_groups, y=jnp.asarray(np.cos(70 * X) + 0.5 * noise[0][GROUP] + 0.1 * noise[1]))
    fit = fit_map(target)
    parts = frame_batches(target, fit, 4).parts
    z = jnp.asarray(fit.unconstrained + np.linalg.cholesky(fit.covariance) @ noise[0][: fit.layout.size])
    pointwise = target.predict(fit.layout.split(z), fit.spreads)[1].pointwise()
    error = fit.layout.passes()["error"]
    measured = [np.bincount(GROUP[np.asarray(part.observations)], minlength=GROUPS) for part in parts]
    shares = np.array([part.shares[error] for part in parts])
    np.testing.assert_allclose(shares, np.array(measured) / np.sum(measured, axis=0), atol=1e-12)
    even = [dataclasses.replace(part, alike=part.shared, shares=jnp.full(fit.layout.size, 0.25)) for part in parts]
    found, rough = (np.array([float(part.log_likelihood(z, pointwise)) for part in some]) for some in (parts, even))
    for values in (found, rough):
        assert np.mean(values) == pytest.approx(float(pointwise.sum()), abs=1e-8)
    assert np.std(found) < 0.5 * np.std(rough)


def test_svi_in_batches_finds_the_same_posterior(linear, fit_with_spread):
    options = {"start": fit_with_spread, "key": jax.random.key(0), "angles": {"frames": ANGLE}}
    whole, parts = (
        fit_svi(linear, tuning=SviTuning(steps=200, cycles=(2, 2), batches=batches), **options) for batches in (1, 4)
    )
    draws = [one.draw(jax.random.key(1), 4000) for one in (whole, parts)]
    for name in ("slope", "curve", "offset"):
        mean, sd = zip(*((np.mean(d[name], axis=0), np.std(d[name], axis=0)) for d in draws), strict=True)
        assert np.max(np.abs(mean[1] - mean[0]) / sd[0]) < 0.2
        np.testing.assert_allclose(sd[1] / sd[0], 1, atol=0.15)
    assert np.mean(parts.losses[-50:]) == pytest.approx(np.mean(whole.losses[-50:]), abs=1.0)


@pytest.mark.parametrize("batches", [1, 3])
def test_an_interrupted_svi_ends_as_an_uninterrupted_one(linear, fit_with_spread, batches):
    options = {"start": fit_with_spread, "key": jax.random.key(0), "angles": {"frames": ANGLE}}
    options["tuning"] = SviTuning(steps=40, batches=batches)
    whole = fit_svi(linear, **options)
    memory = Memory(stop_after=1)
    with pytest.raises(KeyboardInterrupt):
        fit_svi(linear, keeper=memory, **options)
    resumed = fit_svi(linear, keeper=memory, **options)
    np.testing.assert_array_equal(resumed.losses, whole.losses)
    for name, value in whole.parameters.items():
        np.testing.assert_array_equal(resumed.parameters[name], value)
