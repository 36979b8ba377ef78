"""The maximum of the posterior density and the Laplace approximation there, on models that are solved by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from toy_models import FRAME, FRAMES, OBSERVED, ONE_ROUND, X, exact_posterior, linear_model

from pendel.infer.guide.svi import SviTuning, fit_svi
from pendel.infer.maximum import objective, optimise
from pendel.infer.maximum.map import climb_frames, fit_map, laplace_draws
from pendel.infer.maximum.optimise import MapTuning
from pendel.infer.maximum.settle import settler
from pendel.infer.target import make_target
from pendel.model.simulation import simulated


def test_map_and_laplace_of_a_linear_model_are_exact(linear_data, linear_fit):
    mean, covariance = exact_posterior(linear_data)
    assert linear_fit.converged
    assert (
        np.max(np.abs(linear_fit.unconstrained - mean) / np.sqrt(np.diag(covariance))) < 0.05
    )  # its own stopping rule
    np.testing.assert_allclose(linear_fit.covariance, covariance, rtol=1e-8, atol=1e-12)


def test_second_data_of_the_same_shapes_compile_nothing(linear_data):
    one, other = (make_target(linear_model, 0.2, y=y) for y in (linear_data, linear_data[::-1].copy()))

    def fit_both(target):
        fit = fit_map(target, tuning=ONE_ROUND)
        fit_svi(target, start=fit, key=jax.random.key(0), tuning=SviTuning(steps=2))
        return fit

    compiled = []

    def listen(name, seconds, **_):
        if name == "/jax/core/compile/backend_compile_duration":  # or reading from the cache
            compiled.append(seconds)

    objective._functions.clear()
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        fit_both(one)
        first = len(compiled)
        second = fit_both(other)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert first > 0
    assert len(compiled) == first
    mean, covariance = exact_posterior(linear_data[::-1])
    assert np.max(np.abs(second.unconstrained - mean) / np.sqrt(np.diag(covariance))) < 0.05  # of its own data


def test_many_globals_reach_the_same_maximum(linear_data, linear):
    mean, covariance = exact_posterior(linear_data)
    fit = fit_map(linear, tuning=MapTuning(rounds=0, many_globals=-1))
    assert fit.method == "L-BFGS in a diagonal metric, then in that of the whole matrix"
    assert np.max(np.abs(fit.unconstrained - mean) / np.sqrt(np.diag(covariance))) < 0.1
    np.testing.assert_allclose(fit.covariance, covariance, rtol=1e-8, atol=1e-12)


def test_fitted_globals_need_one_matrix(linear_data, linear, monkeypatch):
    mean, covariance = exact_posterior(linear_data)
    made = []
    matrix = optimise.Density.matrix
    monkeypatch.setattr(optimise.Density, "matrix", lambda *args: made.append(1) or matrix(*args))
    fit = fit_map(linear, tuning=ONE_ROUND, globals_fitted=True, start={"slope": jnp.asarray(mean[0])})
    assert len(made) == 1
    assert np.max(np.abs(fit.unconstrained - mean) / np.sqrt(np.diag(covariance))) < 0.1
    np.testing.assert_allclose(fit.covariance, covariance, rtol=1e-8, atol=1e-12)


def test_laplace_draws_have_the_covariance_of_the_fit(linear_fit):
    draws = laplace_draws(linear_fit, jax.random.key(0), 20_000)
    assert np.std(draws["slope"]) == pytest.approx(np.sqrt(linear_fit.covariance[0, 0]), rel=0.03)
    np.testing.assert_allclose(np.mean(draws["curve"], axis=0), linear_fit.values["curve"], atol=0.01)
    assert draws["offset_spread"].shape == (20_000,)


def test_errors_are_estimated_with_n_minus_p_degrees_of_freedom():
    """Two globals and an offset in each of FRAMES frames: sigma^2 = SSE / (n - FRAMES - 2), not SSE / n."""
    curve = np.stack([np.asarray(X), np.asarray(X) ** 2])
    noise = np.random.default_rng(8).standard_normal(len(X))
    y = 1.5 * curve[0] - curve[1] + np.asarray(FRAME) % 3 + noise

    def model(*, y=None):
        slopes = numpyro.sample("slopes", dist.Normal(0, 1e3).expand([2]).to_event(1))
        sigma = numpyro.sample("sigma", dist.LogNormal(0.0, 1e3))
        with numpyro.plate("frames", FRAMES):
            offset = numpyro.sample("offset", dist.Normal(0, 1e3))
        mean = slopes @ curve + offset[FRAME]
        numpyro.sample("y", dist.Normal(mean, sigma), obs=y, infer=OBSERVED)

    design = np.column_stack([*curve, np.asarray(FRAME)[:, None] == np.arange(FRAMES)])
    rest = y - design @ np.linalg.lstsq(design, y)[0]
    expected = np.sqrt(np.sum(rest**2) / (len(y) - FRAMES - 2))
    start = {"sigma": np.array(0.5)}
    target = make_target(model, y=y)
    fit = fit_map(target, start=start)
    assert float(fit.values["sigma"]) == pytest.approx(expected, rel=1e-3)
    assert fit.converged
    again = fit_map(target, start=start, globals_fitted=True, tuning=ONE_ROUND)
    assert float(again.values["sigma"]) == pytest.approx(expected, rel=1e-3)
    large = fit_map(target, start=start, tuning=MapTuning(many_globals=-1))
    assert float(large.values["sigma"]) == pytest.approx(expected, rel=1e-3)
    width = expected * np.sqrt(np.diag(np.linalg.inv(design.T @ design))[:2])
    np.testing.assert_allclose(np.sqrt(np.diag(fit.covariance)[:2]), width, rtol=2e-3)


@pytest.mark.parametrize("sigma", [None, 0.2])
def test_a_fit_that_goes_on_has_the_errors_and_uncertainties_it_began_with(sigma):
    """Without a correction sigma falls far, as the groups' errors take up the noise; a matrix made there is wrong."""
    rng, groups, times = np.random.default_rng(0), 30, 3
    group, frame = np.repeat(np.arange(groups), times), np.tile(np.arange(times), groups)
    y = 5 + 0.5 * rng.standard_normal(groups)[group] + 0.5 * rng.standard_normal(len(group))

    def model(*, y=None):
        mean = numpyro.sample("mean", dist.Normal(0, 10))
        error = numpyro.sample("error", dist.Normal(0, 0.5).expand([groups]).to_event(1))
        sigma = numpyro.sample("sigma", dist.LogNormal(0.0, 2.0))
        location = mean + error[group]
        numpyro.sample("y", dist.Normal(location, sigma), obs=y, infer={"plate": "frames", "frame": frame})

    target = make_target(model, y=y)
    fit = fit_map(target)
    start = {**fit.values, **({} if sigma is None else {"sigma": np.array(sigma)})}
    again = fit_map(target, start=start, globals_fitted=True, tuning=ONE_ROUND)
    assert float(again.values["sigma"]) == pytest.approx(float(fit.values["sigma"]), rel=0.01)
    assert np.sqrt(again.covariance[0, 0]) == pytest.approx(np.sqrt(fit.covariance[0, 0]), rel=0.02)
    assert again.converged


def test_frames_leave_a_worse_maximum_by_moves():
    """Every frame's phase has maxima 1 apart, the right one at zero; all frames start one period off."""
    x = np.linspace(-1, 1, 9)
    frame = np.repeat(np.arange(4), 9)
    y = np.tile(np.cos(2 * np.pi * x) * np.exp(-(x**2)), 4)

    def model(*, y=None):
        with numpyro.plate("frames", 4):
            phase = numpyro.sample("phase", dist.Normal(0, 5))
        shifted = np.tile(x, 4) - phase[frame]
        signal = jnp.cos(2 * jnp.pi * shifted) * jnp.exp(-(shifted**2))
        numpyro.sample("y", dist.Normal(signal, 0.1), obs=y, infer={"plate": "frames", "frame": frame})

    start = {"phase": np.array([1.0, -1.0, 1.0, 0.0])}
    moves = [{"phase": jnp.asarray(1.0)}, {"phase": jnp.asarray(-1.0)}]
    target = make_target(model, y=y)
    stuck = fit_map(target, start=start)
    free = fit_map(target, start=start, moves=[moves])
    assert np.max(np.abs(stuck.values["phase"])) > 0.5
    np.testing.assert_allclose(free.values["phase"], 0.0, atol=0.02)
    assert free.potential < stuck.potential
    climbed = climb_frames(target, start={"phase": np.array([0.2, -0.2, 0.1, 0.0])})
    np.testing.assert_allclose(climbed["phase"], 0.0, atol=0.02)


def test_parameters_without_simulation_reach_their_maximum_with_its_results():
    def model(*, y=None):
        rate = numpyro.sample("rate", dist.Normal(0, 1))
        scale = numpyro.sample("scale", dist.Normal(0, 10))
        noise = numpyro.sample("noise", dist.LogNormal(0.0, 1.0))
        with numpyro.plate("frames", FRAMES):
            numpyro.sample("offset", dist.Normal(0, 1))
        slow = simulated("simulated", lambda rate: jnp.asarray(X) * jnp.exp(0.3 * rate), rate)
        numpyro.sample("y", dist.Normal(scale * slow, noise), obs=y, infer=OBSERVED)

    y = 3.0 * X + 0.1 * np.random.default_rng(2).standard_normal(len(X))
    target = make_target(model, y=y)
    layout = target.layout
    start = {"rate": 0.2, "scale": 0.0, "noise": 1.0, "offset": jnp.zeros(FRAMES)}
    z = layout.unconstrain({name: jnp.asarray(value) for name, value in start.items()})
    moved = layout.constrain(settler(target)(z, {}, target.data, jnp.zeros(layout.size)))
    assert float(moved["rate"]) == pytest.approx(0.2)
    assert float(moved["scale"]) == pytest.approx(3.0 / np.exp(0.06), rel=0.02)
    assert float(moved["noise"]) == pytest.approx(0.1, rel=0.3)
