"""Inference on models small enough to be solved by hand or by dense algebra: it knows no physics."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from pendel.infer.density import fisher_information, pointwise_log_likelihood, prior_and_prediction
from pendel.infer.maximum.cheap import cheap_maximiser
from scipy import stats

from pendel.base import InputError
from pendel.infer.guide import svi as svi_module
from pendel.infer.guide.minibatch import frame_batches
from pendel.infer.guide.svi import bound_gain, fit_svi, pareto_k, starting_guide
from pendel.infer.layout import fixed_values, inspect_model, prior_means
from pendel.infer.maximum import normal_matrix as normal
from pendel.infer.maximum import objective, optimise
from pendel.infer.maximum.map import climb_frames, fit_map, laplace_draws
from pendel.infer.maximum.normal_matrix import (
    compressed_jacobian,
    frame_columns,
    normal_diagonal,
    normal_matrix,
    sites_in_loops,
)
from pendel.infer.maximum.spreads import integrated_functions, integrated_spreads

FRAMES, PER_FRAME = 12, 8
FRAME = np.repeat(np.arange(FRAMES), PER_FRAME)
X = np.linspace(-1, 1, FRAMES * PER_FRAME)
ANGLE = np.linspace(-40, 40, FRAMES)


def curve_covariance(spread):
    distance = np.abs(ANGLE[:, None] - ANGLE) / 20
    return spread**2 * jnp.asarray((1 + distance) * np.exp(-distance) + 1e-4 * np.eye(FRAMES))


def linear_model(sigma, *, y=None):
    """A slope for all, an offset per frame, a smooth curve along the angle: Gaussian, so Laplace is exact."""
    slope = numpyro.sample("slope", dist.Normal(0, 2))
    spread = numpyro.sample("offset_spread", dist.HalfNormal(1.0), infer={"fixed_in_map": 0.5})
    with numpyro.plate("frames", FRAMES):
        offset = numpyro.sample("offset", dist.Normal(0, spread))
    curve = numpyro.sample(
        "curve", dist.MultivariateNormal(jnp.zeros(FRAMES), curve_covariance(0.7)), infer={"plate": "frames"}
    )
    mean = slope * X + offset[FRAME] + curve[FRAME] * np.cos(7 * X)
    numpyro.sample("y", dist.Normal(mean, sigma), obs=y, infer={"plate": "frames", "frame": FRAME})


def heavy_model(*, y=None):
    """Student-t errors whose scale depends on the prediction, and a loop standing for the simulator."""
    level = numpyro.sample("level", dist.LogNormal(0.0, 1.0))
    b = numpyro.sample("b", dist.LogNormal(-2.0, 0.5))
    nu = numpyro.sample("nu", dist.LogNormal(1.5, 0.3))
    with numpyro.plate("frames", FRAMES):
        gain = numpyro.sample("gain", dist.Normal(0, 0.3))
    power = jax.lax.fori_loop(0, 3, lambda _, value: value * 1.1 + level * 0.1, level)
    mean = power * jnp.exp(gain[FRAME]) * (2 + jnp.asarray(X))
    scale = jnp.sqrt(0.05**2 + (b * mean) ** 2)
    numpyro.sample("y", dist.StudentT(nu, mean, scale), obs=y, infer={"plate": "frames", "frame": FRAME})


@pytest.fixture(scope="module")
def linear_data():
    rng = np.random.default_rng(1)
    root = np.linalg.cholesky(np.asarray(curve_covariance(0.7)))
    offset, curve = 0.5 * rng.standard_normal(FRAMES), root @ rng.standard_normal(FRAMES)
    return 1.3 * X + offset[FRAME] + curve[FRAME] * np.cos(7 * X) + 0.2 * rng.standard_normal(len(X))


def exact_posterior(y):
    """Mean and covariance of (slope, offset, curve) by linear algebra."""
    design = np.zeros((len(X), 1 + 2 * FRAMES))
    design[:, 0] = X
    design[np.arange(len(X)), 1 + 2 * FRAME] = 1
    design[np.arange(len(X)), 2 + 2 * FRAME] = np.cos(7 * X)
    prior = np.zeros((1 + 2 * FRAMES,) * 2)
    prior[0, 0] = 4.0
    prior[1::2, 1::2] = 0.25 * np.eye(FRAMES)
    prior[2::2, 2::2] = np.asarray(curve_covariance(0.7))
    covariance = np.linalg.inv(np.linalg.inv(prior) + design.T @ design / 0.2**2)
    return covariance @ design.T @ y / 0.2**2, covariance


def test_map_and_laplace_of_a_linear_model_are_exact(linear_data):
    mean, covariance = exact_posterior(linear_data)
    fit = fit_map(linear_model, 0.2, y=linear_data, spread_rounds=0)
    assert fit.converged
    assert np.max(np.abs(fit.unconstrained - mean) / np.sqrt(np.diag(covariance))) < 0.05  # its own stopping rule
    np.testing.assert_allclose(fit.covariance, covariance, rtol=1e-8, atol=1e-12)


def test_second_data_of_the_same_shapes_compile_nothing(linear_data):
    def fit_both(y):
        fit = fit_map(linear_model, 0.2, y=y, spread_rounds=0)
        fit_svi(linear_model, 0.2, y=y, start=fit, key=jax.random.key(0), steps=2)
        return fit

    compiled = []

    def listen(name, seconds, **_):
        if name == "/jax/core/compile/backend_compile_duration" and seconds > 0.1:
            compiled.append(seconds)

    objective._kept.clear()
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        fit_both(linear_data)
        first = len(compiled)
        second = fit_both(linear_data[::-1].copy())
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert first > 0
    assert len(compiled) == first
    mean, covariance = exact_posterior(linear_data[::-1])
    assert np.max(np.abs(second.unconstrained - mean) / np.sqrt(np.diag(covariance))) < 0.05  # of its own data


def test_many_globals_reach_the_same_maximum(linear_data, monkeypatch):
    monkeypatch.setattr(optimise, "MANY_GLOBALS", 0)
    mean, covariance = exact_posterior(linear_data)
    fit = fit_map(linear_model, 0.2, y=linear_data, spread_rounds=0)
    assert fit.method == "L-BFGS in a diagonal metric"
    assert np.max(np.abs(fit.unconstrained - mean) / np.sqrt(np.diag(covariance))) < 0.1
    np.testing.assert_allclose(fit.covariance, covariance, rtol=1e-8, atol=1e-12)


def test_diagonal_is_the_matrix_s_own():
    data = ((), {"y": jnp.asarray(1.5 + X)})
    layout = inspect_model(heavy_model, *data, with_fixed=False)
    z = 0.1 * jnp.arange(float(layout.size)) / layout.size
    value, gradient, matrix, _ = normal_matrix(heavy_model, layout, z, {}, *data, frame_columns(layout))
    same, slope, diagonal = normal_diagonal(heavy_model, layout, z, {}, *data)
    assert float(same) == pytest.approx(float(value), rel=1e-12)
    np.testing.assert_allclose(slope, gradient, rtol=1e-8, atol=1e-8)
    ratio = np.asarray(diagonal) / np.diag(matrix)
    assert np.all((ratio > 0.25) & (ratio < 3))  # sixteen probes know each within a third
    assert np.mean(ratio) == pytest.approx(1, abs=0.3)


def test_a_near_start_needs_one_matrix(linear_data, monkeypatch):
    mean, covariance = exact_posterior(linear_data)
    made = []
    matrix = optimise.Density.matrix
    monkeypatch.setattr(optimise.Density, "matrix", lambda *args: made.append(1) or matrix(*args))
    fit = fit_map(linear_model, 0.2, y=linear_data, spread_rounds=0, near=True, start={"slope": jnp.asarray(mean[0])})
    assert len(made) == 1
    assert np.max(np.abs(fit.unconstrained - mean) / np.sqrt(np.diag(covariance))) < 0.1
    np.testing.assert_allclose(fit.covariance, covariance, rtol=1e-8, atol=1e-12)


def test_laplace_draws_have_the_covariance_of_the_fit(linear_data):
    fit = fit_map(linear_model, 0.2, y=linear_data, spread_rounds=0)
    draws = laplace_draws(fit, jax.random.key(0), 20_000)
    assert np.std(draws["slope"]) == pytest.approx(np.sqrt(fit.covariance[0, 0]), rel=0.03)
    np.testing.assert_allclose(np.mean(draws["curve"], axis=0), fit.values["curve"], atol=0.01)
    assert draws["offset_spread"].shape == (20_000,)


def test_spread_moves_to_what_the_frames_say(linear_data):
    fit = fit_map(linear_model, 0.2, y=linear_data, spreads={"offset_spread": jnp.asarray(3.0)}, spread_rounds=6)
    offset = np.asarray(fit.values["offset"])
    assert float(fit.spreads["offset_spread"]) == pytest.approx(np.sqrt(np.mean(offset**2)), rel=0.2)


def test_spread_of_two_directions_moves_to_each():
    wide = np.array([0.1, 2.0])
    truth = wide * np.random.default_rng(5).standard_normal((FRAMES, 2))
    y = np.stack([truth[FRAME, 0], truth[FRAME, 1]]) + 0.01 * np.random.default_rng(6).standard_normal((2, len(X)))

    def model(*, y=None):
        spread = numpyro.sample("spread", dist.HalfNormal(2.0).expand([2]).to_event(1), infer={"fixed_in_map": 0.5})
        with numpyro.plate("frames", FRAMES):
            pair = numpyro.sample("pair", dist.Normal(0, spread).to_event(1))
        for k in range(2):
            site = {"plate": "frames", "frame": FRAME}
            numpyro.sample(f"y{k}", dist.Normal(pair[FRAME, k], 0.01), obs=None if y is None else y[k], infer=site)

    fit = fit_map(model, y=y, spread_rounds=6)
    np.testing.assert_allclose(fit.spreads["spread"], np.sqrt(np.mean(truth**2, axis=0)), rtol=0.1)


def test_sites_without_a_start_begin_at_their_prior_mean():
    def model():
        path = numpyro.sample("path", dist.LogNormal(jnp.log(3000.0), 0.1))
        numpyro.sample("below", dist.Normal(path, 1.0))

    layout = inspect_model(model, (), {}, with_fixed=False)
    found = prior_means(model, layout, {}, (), {})
    assert found["path"] == pytest.approx(3000 * np.exp(0.005))
    assert found["below"] == pytest.approx(float(found["path"]))


def test_matrix_equals_dense_derivatives():
    y = np.abs(np.random.default_rng(3).standard_normal(len(X))) + 1.0
    args, kwargs = (), {"y": y}
    layout = inspect_model(heavy_model, args, kwargs, with_fixed=False)
    z = 0.1 * jnp.arange(layout.size) / layout.size
    potential, gradient, matrix, _ = normal_matrix(heavy_model, layout, z, {}, args, kwargs, frame_columns(layout))

    def parts(x):
        return prior_and_prediction(heavy_model, layout, layout.split(x), {}, args, kwargs)

    jacobian = jax.jacfwd(lambda x: parts(x)[1].parameters)(z)
    information = fisher_information(parts(z)[1].parameters)
    dense = jnp.einsum("amp,abm,bmq->pq", jacobian, information, jacobian) - jax.hessian(lambda x: parts(x)[0])(z)
    np.testing.assert_allclose(matrix, dense, rtol=1e-9, atol=1e-9)

    def density(x):
        values = layout.constrain(x)
        log_joint, _ = numpyro.infer.util.log_density(heavy_model, args, kwargs, values)
        return -(log_joint + layout.log_det_jacobian(layout.split(x)))

    value, slope = jax.value_and_grad(density)(z)
    assert float(potential) == pytest.approx(float(value), rel=1e-10)
    np.testing.assert_allclose(gradient, slope, rtol=1e-8, atol=1e-8)


def test_only_sites_that_reach_a_loop_are_simulated():
    kwargs = {"y": np.ones(len(X))}
    layout = inspect_model(heavy_model, (), kwargs, with_fixed=False)
    values = layout.split(jnp.zeros(layout.size))

    def predict(v):
        return prior_and_prediction(heavy_model, layout, v, {}, (), kwargs)[1].parameters

    assert sites_in_loops(predict, values) == ["level"]
    assert compressed_jacobian(layout, predict, values).shape == (3 + 1, 3, len(X))


def test_many_derivatives_pass_in_parts(monkeypatch):
    layout = inspect_model(heavy_model, (), {"y": np.ones(len(X))}, with_fixed=False)
    values = layout.split(0.1 * jnp.arange(float(layout.size)))

    def predict(v):
        return prior_and_prediction(heavy_model, layout, v, {}, (), {"y": np.ones(len(X))})[1].parameters

    whole = compressed_jacobian(layout, predict, values)
    monkeypatch.setattr(normal, "TANGENTS", 2)
    np.testing.assert_allclose(compressed_jacobian(layout, predict, values), whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("nu", [2.5, 8.0])
def test_fisher_information_of_student_t(nu):
    """Against the mean product of scores, by quadrature over the quantiles (the substitution flattens the tails)."""
    scale, step = 1.7, 1e-5
    closed = np.asarray(fisher_information(jnp.array([[0.3], [np.log(scale)], [np.log(nu)]])))[:, :, 0]
    node, weight = np.polynomial.legendre.leggauss(400)
    u = 0.25 * (node + 1) ** 2 * (2 - node)  # smoothstep of (0, 1): many nodes in both tails
    x = stats.t.ppf(u, nu, 0.3, scale)

    def logpdf(at):
        return stats.t.logpdf(x, np.exp(at[2]), at[0], np.exp(at[1]))

    at = np.array([0.3, np.log(scale), np.log(nu)])
    score = np.array([(logpdf(at + step * e) - logpdf(at - step * e)) / (2 * step) for e in np.eye(3)])
    numeric = np.einsum("iq,jq,q->ij", score, score, weight * 0.75 * (1 - node**2))
    np.testing.assert_allclose(closed, numeric, atol=2e-4)


def test_vector_and_sites_are_inverse():
    layout = inspect_model(linear_model, (0.2,), {"y": np.zeros(len(X))}, with_fixed=True)
    z = jnp.arange(layout.size, dtype=float)
    np.testing.assert_array_equal(layout.join(layout.split(z)), z)
    names = layout.names()
    assert len(set(names)) == layout.size
    assert names[:3] == ("slope", "offset_spread", "offset[0]")
    assert fixed_values(linear_model, (0.2,), {"y": None})["offset_spread"] == 0.5


def test_guide_starts_at_laplace_and_stays_there(linear_data):
    """Everything is Gaussian and Markov enough, so the guide must keep mean, spread and neighbours' correlation."""
    fit = fit_map(linear_model, 0.2, y=linear_data, spread_rounds=2)
    start = fit_svi(
        linear_model, 0.2, y=linear_data, start=fit, key=jax.random.key(0), angles={"frames": ANGLE}, steps=1
    )
    start = dataclasses.replace(start, parameters=start.guide.start)  # before the step
    svi = fit_svi(
        linear_model, 0.2, y=linear_data, start=fit, key=jax.random.key(0), angles={"frames": ANGLE}, steps=400
    )
    exact = laplace_draws(fit, jax.random.key(2), 4000)
    for guide in (start, svi):
        draws = guide.draw(jax.random.key(1), 4000)
        sd = np.std(exact["curve"], axis=0)
        np.testing.assert_allclose(np.std(draws["curve"], axis=0) / sd, 1, atol=0.25)
        assert np.max(np.abs(np.mean(draws["curve"], axis=0) - np.mean(exact["curve"], axis=0)) / sd) < 0.25
        assert np.std(draws["slope"]) / np.std(exact["slope"]) == pytest.approx(1, abs=0.12)
        here, there = (np.corrcoef(np.asarray(d["curve"]).T)[5, 6] for d in (draws, exact))
        assert here == pytest.approx(there, abs=0.15)
    assert np.mean(svi.losses[-50:]) < np.mean(svi.losses[:50]) + 1.0


def test_guide_follows_a_spread_over_its_whole_posterior(linear_data):
    """Given the spread all is normal: its density and the offsets' moments follow by quadrature over it."""
    fit = fit_map(linear_model, 0.2, y=linear_data, spread_rounds=0)  # the spread stands at 0.5, not at its maximum
    grid = np.linspace(-3.0, 1.0, 400)
    design = np.column_stack([X, np.eye(FRAMES)[FRAME], np.eye(FRAMES)[FRAME] * np.cos(7 * X)[:, None]])
    log_density, moments = [], []
    for spread in np.exp(grid):
        prior = np.zeros((1 + 2 * FRAMES, 1 + 2 * FRAMES))
        prior[0, 0] = 4.0
        prior[1 : 1 + FRAMES, 1 : 1 + FRAMES] = spread**2 * np.eye(FRAMES)
        prior[1 + FRAMES :, 1 + FRAMES :] = curve_covariance(0.7)
        of_y = design @ prior @ design.T + 0.04 * np.eye(len(X))
        of_spread = stats.halfnorm.logpdf(spread) + np.log(spread)
        log_density.append(stats.multivariate_normal.logpdf(linear_data, cov=of_y) + of_spread)
        gain = prior @ design.T @ np.linalg.inv(of_y)
        moments.append((gain @ linear_data, np.diag(prior - gain @ design @ prior)))
    weight = np.exp(np.array(log_density) - np.max(log_density))
    weight = weight / weight.sum()
    mean = np.sum(weight * grid)
    sd = np.sqrt(np.sum(weight * (grid - mean) ** 2))
    means, variances = (np.array(x)[:, 1 : 1 + FRAMES] for x in zip(*moments, strict=True))
    offset_mean = weight @ means
    offset_sd = np.sqrt(weight @ (variances + (means - offset_mean) ** 2))

    options = {"start": fit, "key": jax.random.key(0), "angles": {"frames": ANGLE}, "cycles": (2, 2)}
    svi = fit_svi(linear_model, 0.2, y=linear_data, **options)
    assert float(svi.guide.log_spreads[0]) == pytest.approx(grid[np.argmax(log_density)], abs=0.01)
    assert float(svi.guide.spread_root[0, 0]) == pytest.approx(sd, rel=0.1)
    at_start = svi.guide.draws(svi.guide.start, jax.random.key(1), 4000)
    for draws, tolerance in ((at_start, 0.1), (svi.draw(jax.random.key(1), 4000), 0.2)):
        log_spread, offset = np.log(draws["offset_spread"]), np.asarray(draws["offset"])
        assert np.mean(log_spread) == pytest.approx(mean, abs=2 * tolerance * sd)
        assert np.std(log_spread) == pytest.approx(sd, rel=tolerance)
        np.testing.assert_allclose(np.std(offset, axis=0) / offset_sd, 1, atol=tolerance)
        assert np.max(np.abs(np.mean(offset, axis=0) - offset_mean) / offset_sd) < 2 * tolerance


PLATES = {"frames": 7, "frames_2": 5}


def two_plates(*, y=None):
    """Two crystals, each with offsets around a mean, two slopes of their own spreads, and a curve with jumps."""
    rng = np.random.default_rng(4)
    common = numpyro.sample("common", dist.Normal(0, 2).expand([2]).to_event(1))
    for number, (plate, frames) in enumerate(PLATES.items()):
        frame, x = np.repeat(np.arange(frames), 6), rng.standard_normal((6, 6 * frames))
        mean = numpyro.sample(f"mean_{number}", dist.Normal(0, 2))
        spread = numpyro.sample(f"spread_{number}", dist.HalfNormal(1.0), infer={"fixed_in_map": 0.4})
        both = dist.HalfNormal(1.0).expand([2]).to_event(1)
        tilt_spread = numpyro.sample(f"tilt_spread_{number}", both, infer={"fixed_in_map": 0.5})
        with numpyro.plate(plate, frames):
            offset = numpyro.sample(f"offset_{number}", dist.Normal(mean, spread))
            tilt = numpyro.sample(f"tilt_{number}", dist.Normal(0, tilt_spread).to_event(1))
        curve_mean = numpyro.sample(f"curve_mean_{number}", dist.Normal(0, 1))
        curve_spread = numpyro.sample(f"curve_spread_{number}", dist.HalfNormal(1.0), infer={"fixed_in_map": 0.6})
        jump = numpyro.sample(f"jump_{number}", dist.HalfNormal(0.5), infer={"fixed_in_map": 0.2})
        distance = np.abs(angles_of(plate)[:, None] - angles_of(plate)) / 12
        smooth = (1 + distance) * np.exp(-distance) + 1e-4 * np.eye(frames)
        prior = dist.MultivariateNormal(curve_mean, curve_spread**2 * smooth + jump**2 * np.eye(frames))
        curve = numpyro.sample(f"curve_{number}", prior, infer={"plate": plate})
        level = common @ x[:2] + (offset[frame] * x[2] + tilt[frame, 0] * x[3] + tilt[frame, 1] * x[4])
        observed = {"obs": None if y is None else y[number], "infer": {"plate": plate, "frame": frame}}
        numpyro.sample(f"y_{number}", dist.Normal(level + curve[frame] * x[5], 0.5), **observed)


def angles_of(plate):
    """Not in order."""
    return np.random.default_rng(0).permutation(np.linspace(-30.0, 30.0, PLATES[plate]))


@pytest.fixture(scope="module")
def guide_of_two_plates():
    """The guide at its start, and Laplace at any log spreads: exact, as all is normal given them."""
    rng = np.random.default_rng(5)
    data = ((), {"y": tuple(1.2 * rng.standard_normal(6 * frames) for frames in PLATES.values())})
    fit = fit_map(two_plates, **data[1], spread_rounds=0)
    shapes = two_plates, fit.layout, fit.spreads, data
    integrated = integrated_spreads(integrated_functions(*shapes), fit.unconstrained, fit.covariance, fit.spreads, data)
    angles = {plate: angles_of(plate) for plate in PLATES}
    return starting_guide(two_plates, fit, angles, jax.random.key(0), data), integrated, fit, data


def test_laplace_is_carried_to_other_spreads(guide_of_two_plates):
    _, integrated, _, data = guide_of_two_plates
    log_spreads = integrated.log_spreads + np.random.default_rng(6).normal(0, 0.5, len(integrated.log_spreads))
    spreads = {name: jnp.exp(value) for name, value in integrated.unravel(jnp.asarray(log_spreads)).items()}
    there = fit_map(two_plates, **data[1], spreads=spreads, spread_rounds=0, tolerance=1e-9)
    z, covariance = integrated.at(log_spreads)
    np.testing.assert_allclose(z, there.unconstrained, atol=1e-4)
    np.testing.assert_allclose(covariance, there.covariance, atol=1e-6)


def test_the_guide_starts_at_laplace_whatever_the_spreads(guide_of_two_plates):
    guide, integrated, fit, _ = guide_of_two_plates
    size, number = fit.layout.size, len(guide.log_spreads)

    @jax.jit
    def moments(u):
        def draw(noise):
            return guide.transform(guide.start, jnp.concatenate([u, noise]))[0]

        root = jax.jacobian(draw)(jnp.zeros(size))
        return draw(jnp.zeros(size)), jnp.sqrt(jnp.sum(root**2, axis=1))

    z_0, covariance_0 = integrated.at(integrated.log_spreads)
    moved, followed = [], []
    for u in np.concatenate([np.eye(number), -np.eye(number)]):
        mean, sd = moments(jnp.asarray(u))
        z, covariance = integrated.at(integrated.log_spreads + integrated.root @ u)
        expected = np.sqrt(np.diag(covariance))
        for found, here, width in ((moved, z_0, np.sqrt(np.diag(covariance_0))), (followed, mean, sd)):
            found.append([np.max(np.abs(here - z) / expected), np.max(np.abs(np.log(width / expected)))])
    assert np.all(np.max(followed, axis=0) < (0.25, 0.2))
    assert np.all(np.max(moved, axis=0) > (0.5, 0.3))  # what a guide that does not follow them would miss


def test_density_of_a_guide_with_two_plates_at_a_draw_is_that_of_its_noise(guide_of_two_plates):
    check_density(guide_of_two_plates[0])


def test_spreads_of_very_many_parameters_stay_where_the_map_holds_them(linear_data, monkeypatch):
    monkeypatch.setattr(svi_module, "LARGEST", 0)
    fit = fit_map(linear_model, 0.2, y=linear_data, spread_rounds=0)
    data = ((0.2,), {"y": linear_data})
    guide = starting_guide(linear_model, fit, {"frames": ANGLE}, jax.random.key(0), data)
    np.testing.assert_allclose(np.exp(guide.log_spreads), 0.5)
    np.testing.assert_array_equal(guide.centre, fit.unconstrained)
    assert not np.any(guide.start["frames_by_spreads"])


def test_a_spread_between_limits_is_refused(linear_data):
    def model(*, y=None):
        spread = numpyro.sample("spread", dist.Uniform(0.05, 2.0), infer={"fixed_in_map": 0.5})
        with numpyro.plate("frames", FRAMES):
            offset = numpyro.sample("offset", dist.Normal(0, spread))
        numpyro.sample("y", dist.Normal(offset[FRAME], 0.7), obs=y, infer={"plate": "frames", "frame": FRAME})

    fit = fit_map(model, y=linear_data, spread_rounds=0)
    with pytest.raises(InputError, match="'spread' has limits"):
        fit_svi(model, y=linear_data, start=fit, key=jax.random.key(0))


def test_svi_goes_on_until_a_cycle_gains_little(linear_data):
    falling = np.concatenate([np.full(10, 50.0), np.full(10, 20.0), np.full(10, 19.9)])
    assert bound_gain(falling[:20], 10) == (30.0, 0.0)
    assert bound_gain(falling, 10)[0] == pytest.approx(0.1)
    assert np.isnan(bound_gain(falling[:10], 10)[0])
    assert bound_gain(np.append(np.full(39, 5.0), np.inf), 20) == (0.0, 0.0)  # the step that failed does not count
    fit = fit_map(linear_model, 0.2, y=linear_data, spread_rounds=2)
    far = dataclasses.replace(fit, unconstrained=fit.unconstrained + 4 * np.sqrt(np.diag(fit.covariance)))
    options = {"key": jax.random.key(0), "angles": {"frames": ANGLE}, "steps": 100}
    lengths = [len(fit_svi(linear_model, 0.2, y=linear_data, start=start, **options).losses) for start in (fit, far)]
    assert lengths[0] == 200
    assert lengths[1] > 200


def test_batches_tell_the_likelihood_of_all_frames(linear_data):
    """Exact on average; for a normal likelihood up to what the globals' information differs between batches."""
    for model, data in ((linear_model, ((0.2,), {"y": linear_data})), (heavy_model, ((), {"y": jnp.asarray(1.5 + X)}))):
        fit = fit_map(model, *data[0], **data[1])
        batches = frame_batches(model, data, fit, 4)
        noise = np.random.default_rng(0).standard_normal(fit.layout.size)
        z = jnp.asarray(fit.unconstrained + np.linalg.cholesky(fit.covariance) @ noise)
        _, prediction = prior_and_prediction(model, fit.layout, fit.layout.split(z), fit.spreads, *data)
        pointwise = pointwise_log_likelihood(prediction.parameters, prediction.observed, prediction.used)
        hidden = [jnp.where(part.observations, pointwise, jnp.nan) for part in batches.parts]  # what is not simulated
        found = [float(part.log_likelihood(z, seen)) for part, seen in zip(batches.parts, hidden, strict=True)]
        assert np.mean(found) == pytest.approx(float(pointwise.sum()), abs=1e-8)
        rough = dataclasses.replace(fit, covariance=np.diag(np.diag(fit.covariance)))  # as with very many globals
        parts = frame_batches(model, data, rough, 4).parts
        assert np.mean([float(part.log_likelihood(z, pointwise)) for part in parts]) == pytest.approx(np.mean(found))
        naive = [4 * float(jnp.sum(jnp.where(part.observations, pointwise, 0.0))) for part in batches.parts]
        assert np.std(found) < (0.02 if model is linear_model else 0.5) * np.std(naive)
    assert {id(batches.of_step(jax.random.key(1), step)[0]) for step in range(4, 8)} == set(map(id, batches.parts))


def test_svi_in_batches_finds_the_same_posterior(linear_data):
    fit = fit_map(linear_model, 0.2, y=linear_data, spread_rounds=2)
    options = {"key": jax.random.key(0), "angles": {"frames": ANGLE}, "steps": 200, "cycles": (2, 2)}
    whole = fit_svi(linear_model, 0.2, y=linear_data, start=fit, **options)
    parts = fit_svi(linear_model, 0.2, y=linear_data, start=fit, batches=4, **options)
    draws = [one.draw(jax.random.key(1), 4000) for one in (whole, parts)]
    for name in ("slope", "curve", "offset"):
        mean, sd = zip(*((np.mean(d[name], axis=0), np.std(d[name], axis=0)) for d in draws), strict=True)
        assert np.max(np.abs(mean[1] - mean[0]) / sd[0]) < 0.2
        np.testing.assert_allclose(sd[1] / sd[0], 1, atol=0.15)
    assert np.mean(parts.losses[-50:]) == pytest.approx(np.mean(whole.losses[-50:]), abs=1.0)


def test_density_of_the_guide_at_a_draw_is_that_of_its_noise(linear_data):
    fit = fit_map(linear_model, 0.2, y=linear_data, spread_rounds=0)
    data = ((0.2,), {"y": linear_data})
    check_density(starting_guide(linear_model, fit, {"frames": ANGLE}, jax.random.key(0), data))


def check_density(guide):
    """At any parameters, the density of a draw is that of its noise over the Jacobian of the way there."""
    rng = np.random.default_rng(2)
    parameters = {name: value + 0.1 * rng.standard_normal(np.shape(value)) for name, value in guide.start.items()}
    noise = jax.random.normal(jax.random.key(5), (guide.layout.size + len(guide.log_spreads),))
    z, spreads = guide.transform(parameters, noise)
    slopes = jnp.concatenate(jax.jit(jax.jacobian(lambda e: guide.transform(parameters, e)))(noise))
    expected = stats.norm.logpdf(noise).sum() - np.linalg.slogdet(np.asarray(slopes))[1]
    assert float(guide.log_density(parameters, z, spreads)) == pytest.approx(expected, abs=1e-8)


def test_guide_weights_are_not_in_the_model(linear_data):
    fit = fit_map(linear_model, 0.2, y=linear_data, spread_rounds=0)
    guide = starting_guide(linear_model, fit, {"frames": ANGLE}, jax.random.key(0), ((0.2,), {"y": linear_data}))
    with numpyro.handlers.seed(rng_seed=0), numpyro.handlers.trace() as in_guide:
        guide(0.2, y=linear_data)
    with numpyro.handlers.seed(rng_seed=0), numpyro.handlers.trace() as in_model:
        linear_model(0.2, y=linear_data)
    assert any(name.startswith("guide_frames_w") for name, s in in_guide.items() if s["type"] == "param")
    assert not any(s["type"] == "param" for s in in_model.values())


def test_observations_must_name_their_frames():
    def model(*, y=None):
        numpyro.sample("y", dist.Normal(numpyro.sample("x", dist.Normal(0, 1)), 1), obs=y)

    with pytest.raises(InputError, match=r"The observed site 'y'.*Expected.*To fix: "):
        fit_map(model, y=jnp.zeros(3))


def test_fitted_parameters_are_taken_off_the_degrees_of_freedom_of_the_error():
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
        numpyro.sample("y", dist.Normal(mean, sigma), obs=y, infer={"plate": "frames", "frame": FRAME})

    design = np.column_stack([*curve, np.asarray(FRAME)[:, None] == np.arange(FRAMES)])
    rest = y - design @ np.linalg.lstsq(design, y)[0]
    expected = np.sqrt(np.sum(rest**2) / (len(y) - FRAMES - 2))
    start = {"sigma": np.array(0.5)}
    fit = fit_map(model, y=y, start=start)
    assert float(fit.values["sigma"]) == pytest.approx(expected, rel=1e-3)
    assert fit.converged
    near = fit_map(model, y=y, start=start, near=True, spread_rounds=0)
    assert float(near.values["sigma"]) == pytest.approx(expected, rel=1e-3)
    width = expected * np.sqrt(np.diag(np.linalg.inv(design.T @ design))[:2])
    np.testing.assert_allclose(np.sqrt(np.diag(fit.covariance)[:2]), width, rtol=2e-3)


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
    stuck = fit_map(model, y=y, start=start)
    free = fit_map(model, y=y, start=start, moves=[moves])
    assert np.max(np.abs(stuck.values["phase"])) > 0.5
    np.testing.assert_allclose(free.values["phase"], 0.0, atol=0.02)
    assert free.potential < stuck.potential
    climbed = climb_frames(model, y=y, start={"phase": np.array([0.2, -0.2, 0.1, 0.0])})
    np.testing.assert_allclose(climbed["phase"], 0.0, atol=0.02)


def test_cheap_parameters_reach_their_maximum_with_the_simulation_held():
    def model(*, y=None):
        rate = numpyro.sample("rate", dist.Normal(0, 1))
        scale = numpyro.sample("scale", dist.Normal(0, 10))
        noise = numpyro.sample("noise", dist.LogNormal(0.0, 1.0))
        with numpyro.plate("frames", FRAMES):
            numpyro.sample("offset", dist.Normal(0, 1))
        slow = jax.lax.fori_loop(0, 3, lambda _, s: s * jnp.exp(0.1 * rate), jnp.asarray(X))
        numpyro.sample("y", dist.Normal(scale * slow, noise), obs=y, infer={"plate": "frames", "frame": FRAME})

    y = 3.0 * X + 0.1 * np.random.default_rng(2).standard_normal(len(X))
    data = ((), {"y": y})
    layout = inspect_model(model, *data, with_fixed=False)
    start = {"rate": 0.2, "scale": 0.0, "noise": 1.0, "offset": jnp.zeros(FRAMES)}
    z = layout.unconstrain({name: jnp.asarray(value) for name, value in start.items()})
    moved = layout.constrain(cheap_maximiser(model, layout, {}, data)(z, {}, data, jnp.zeros(layout.size)))
    assert float(moved["rate"]) == pytest.approx(0.2)
    assert float(moved["scale"]) == pytest.approx(3.0 / np.exp(0.06), rel=0.02)
    assert float(moved["noise"]) == pytest.approx(0.1, rel=0.3)


@pytest.mark.parametrize("batches", [1, 3])
def test_an_interrupted_svi_ends_as_an_uninterrupted_one(linear_data, batches):
    class Memory:
        kept = None

        def load(self):
            return self.kept

        def save(self, arrays):
            first = self.kept is None
            self.kept = {name: np.array(value) for name, value in arrays.items()}
            if first:
                raise KeyboardInterrupt

    fit = fit_map(linear_model, 0.2, y=linear_data)
    options = {"start": fit, "key": jax.random.key(0), "angles": {"frames": ANGLE}, "steps": 40, "batches": batches}
    whole = fit_svi(linear_model, 0.2, y=linear_data, **options)
    memory = Memory()
    with pytest.raises(KeyboardInterrupt):
        fit_svi(linear_model, 0.2, y=linear_data, keeper=memory, **options)
    resumed = fit_svi(linear_model, 0.2, y=linear_data, keeper=memory, **options)
    np.testing.assert_array_equal(resumed.losses, whole.losses)
    for name, value in whole.parameters.items():
        np.testing.assert_array_equal(resumed.parameters[name], value)


def test_pareto_k_tells_the_exact_posterior_from_a_narrow_guide(linear_data):
    def model(*, y=None):
        slope = numpyro.sample("slope", dist.Normal(0, 2))
        with numpyro.plate("frames", FRAMES):
            offset = numpyro.sample("offset", dist.Normal(0, 0.5))
        mean = slope * X + offset[FRAME]
        numpyro.sample("y", dist.Normal(mean, 0.7), obs=y, infer={"plate": "frames", "frame": FRAME})

    fit = fit_map(model, y=linear_data)
    svi = fit_svi(model, y=linear_data, start=fit, key=jax.random.key(0), steps=1, cycles=(1, 1))
    narrow = dict(svi.parameters)
    narrow["global_root"] = narrow["global_root"] - 2.0 * jnp.eye(len(narrow["global_root"]))  # log of the diagonal
    shrunk = dataclasses.replace(svi, parameters=narrow)
    good, bad = (pareto_k(model, y=linear_data, fit=found, key=jax.random.key(3), draws=500) for found in (svi, shrunk))
    assert good < 0.5
    assert bad > 0.7
