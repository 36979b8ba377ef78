"""What inference reads from a model: its sites, its prior, what it simulates, and how its observations scatter."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer.util import log_density
from scipy import stats
from toy_models import FRAME, FRAMES, OBSERVED, ONE_ROUND, X, heavy_model, linear_model

from pendel.base import InputError
from pendel.infer.maximum.map import fit_map
from pendel.infer.target import make_target, prior_means, spread_values
from pendel.model.simulation import simulated


@pytest.fixture(scope="module")
def heavy():
    return make_target(heavy_model, y=jnp.asarray(1.5 + X))


def some_values(target):
    return target.layout.split(0.1 * jnp.arange(float(target.layout.size)) / target.layout.size)


def test_vector_and_sites_are_inverse():
    layout = make_target(linear_model, 0.2, y=np.zeros(len(X))).full
    z = jnp.arange(layout.size, dtype=float)
    np.testing.assert_array_equal(layout.join(layout.split(z)), z)
    names = layout.names()
    assert len(set(names)) == layout.size
    assert names[:3] == ("slope", "offset_spread", "offset[0]")
    assert spread_values(linear_model, (0.2,), {"y": None})["offset_spread"] == 0.5


def test_sites_without_a_start_begin_at_their_prior_mean():
    def model():
        path = numpyro.sample("path", dist.LogNormal(jnp.log(3000.0), 0.1))
        numpyro.sample("below", dist.Normal(path, 1.0))

    found = prior_means(make_target(model), {})
    assert found["path"] == pytest.approx(3000 * np.exp(0.005))
    assert found["below"] == pytest.approx(float(found["path"]))


def test_only_sites_that_reach_the_simulation_are_simulated(heavy):
    assert heavy.simulated == {"level"}
    assert heavy.errors == {"b", "nu"}


def test_prior_and_prediction_add_up_to_the_density_of_numpyro(heavy):
    values = some_values(heavy)
    constrained = heavy.full.constrain_values(values)
    expected = log_density(heavy_model, *heavy.data, constrained)[0] + heavy.full.log_det_jacobian(values)
    log_prior, prediction = heavy.predict(values)
    assert float(log_prior + prediction.log_likelihood()) == pytest.approx(float(expected), rel=1e-12)
    assert float(heavy.negative_log_density(values)) == pytest.approx(-float(expected), rel=1e-12)
    assert float(heavy.log_prior(values)) == pytest.approx(float(log_prior), rel=1e-12)


def test_neither_the_prior_nor_known_results_simulate():
    counted = []

    def count(level):
        counted.append(level * X)
        return counted[-1]

    def model(*, y=None):
        level = numpyro.sample("level", dist.Normal(0, 1))
        with numpyro.plate("frames", FRAMES):
            numpyro.sample("gain", dist.Normal(0, 1))
        found = simulated("simulated", count, level)
        numpyro.sample("y", dist.Normal(found, 1), obs=y, infer=OBSERVED)

    target = make_target(model, y=X)
    values = some_values(target)
    results = target.simulate(values)
    counted.clear()
    expected = target.predict(values)[1]
    assert len(counted) == 1
    np.testing.assert_array_equal(target.predict(values, results=results)[1].parameters, expected.parameters)
    assert len(counted) == 1
    target.log_prior(values)
    assert all(isinstance(value, jax.core.Tracer) for value in counted[1:])  # only its shape was asked for


def test_a_loop_in_a_prior_is_no_simulation():
    """A random walk written with `scan`, as users write one."""

    def model(*, y=None):
        step = numpyro.sample("step", dist.Normal(0, 1).expand([FRAMES]).to_event(1))
        walk = jax.lax.scan(lambda total, one: (total + one, total + one), 0.0, step)[0]
        rate = numpyro.sample("rate", dist.Normal(walk, 1))
        with numpyro.plate("frames", FRAMES):
            tilt = numpyro.sample("tilt", dist.Normal(0, 1))
            scale = numpyro.sample("scale", dist.Normal(0, 1))
        found = simulated("simulated", lambda rate, tilt: (rate + tilt)[FRAME] * X, rate, tilt)
        numpyro.sample("y", dist.Normal(scale[FRAME] * found + step[FRAME], 1), obs=y, infer=OBSERVED)

    assert make_target(model, y=X).simulated == {"rate", "tilt"}


def test_a_site_with_frames_must_name_their_plate():
    def model(*, y=None):
        location = numpyro.sample("x", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(location, 1), obs=y, infer={"frame": np.zeros(3, dtype=int)})

    with pytest.raises(InputError, match=r"observed site 'y'.*name of the plate of frames.*infer=\{"):
        make_target(model, y=jnp.zeros(3))


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("kind", ["factor", "restraint"])
def test_a_restraint_on_simulated_intensities_is_refused(kind, share):
    """Also where the restraint is not a number for a simulation of zeros."""

    def model(*, y=None):
        level = numpyro.sample("level", dist.Normal(0, 1))
        with numpyro.plate("frames", FRAMES):
            numpyro.sample("gain", dist.Normal(0, 1))
        intensity = simulated("simulated", lambda level: jnp.exp(level) * (2 + X), level)
        strongest = intensity[0] / jnp.sum(intensity) if share else intensity[0]
        if kind == "factor":
            numpyro.factor("restraint", -0.5 * strongest**2)
        else:
            numpyro.sample("restraint", dist.Normal(strongest, 0.1), obs=jnp.asarray(1.0))
        numpyro.sample("y", dist.Normal(intensity, 1), obs=y, infer=OBSERVED)

    with pytest.raises(
        InputError,
        match=r"'restraint' has no frames and depends on a simulation.*sample it with infer=\{\"plate\".*\"frame\"",
    ):
        make_target(model, y=X)


def test_arguments_of_a_model_may_have_any_name():
    def model(start, key, *, steps=None, moves=None, draws=None, progress=None, target=None, model=None):
        slope = numpyro.sample("slope", dist.Normal(0, 2))
        with numpyro.plate("frames", FRAMES):
            offset = numpyro.sample("offset", dist.Normal(0, 1))
        weight = start * key * steps * moves * draws * progress * model
        numpyro.sample("y", dist.Normal(weight * slope * X + offset[FRAME], 1), obs=target, infer=OBSERVED)

    one, y = jnp.ones(()), 2 * X
    found = make_target(model, one, one, steps=one, moves=one, draws=one, progress=one, target=y, model=one)
    fit = fit_map(found, tuning=ONE_ROUND)
    design = np.column_stack([X, FRAME[:, None] == np.arange(FRAMES)])
    covariance = np.linalg.inv(np.diag([0.25, *np.ones(FRAMES)]) + design.T @ design)
    np.testing.assert_allclose(fit.covariance, covariance, atol=1e-10)
    np.testing.assert_allclose(fit.values["slope"], (covariance @ design.T @ y)[0], atol=0.05 * covariance[0, 0] ** 0.5)


def test_observations_behind_any_mask_do_not_count():
    first, second = np.arange(len(X)) % 2 == 0, np.arange(len(X)) % 3 == 0

    def model(*, y=None):
        slope = numpyro.sample("slope", dist.Normal(0, 2))
        with numpyro.plate("frames", FRAMES):
            numpyro.sample("offset", dist.Normal(0, 1))
        with numpyro.handlers.mask(mask=first), numpyro.handlers.mask(mask=second):
            numpyro.sample("y", dist.Normal(slope * X, 1.0), obs=y, infer=OBSERVED)

    target = make_target(model, y=2 * X)
    prediction = target.predict({"slope": jnp.asarray(1.0), "offset": jnp.zeros(FRAMES)})[1]
    expected = np.where(first & second, stats.norm.logpdf(2 * X, X), 0.0)
    np.testing.assert_allclose(prediction.pointwise(), expected, atol=1e-12)
    assert np.all(np.asarray(prediction.information())[:, :, ~(first & second)] == 0)


def test_frames_without_parameters_of_their_own_are_no_error():
    """Every frame shares everything: the exact posterior of a line."""

    def model(*, y=None):
        slope = numpyro.sample("slope", dist.Normal(0, 2))
        numpyro.sample("y", dist.Normal(slope * X, 0.5), obs=y, infer=OBSERVED)

    target = make_target(model, y=2 * X)
    fit = fit_map(target, tuning=ONE_ROUND)
    variance = 1 / (1 / 4 + X @ X / 0.25)
    np.testing.assert_allclose(fit.covariance, [[variance]], rtol=1e-9)
    assert float(fit.values["slope"]) == pytest.approx(variance * 2 * X @ X / 0.25, abs=0.05 * variance**0.5)
    assert fit.layout.plates["frames"][1:] == (FRAMES, 0)
    assert fit_map(target, tuning=ONE_ROUND, globals_fitted=True).potential == pytest.approx(fit.potential, abs=0.1)
