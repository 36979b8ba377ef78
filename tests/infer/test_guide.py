"""The neural guide: where it starts, its density, and what a fit of it finds."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import stats
from toy_models import (
    ANGLE,
    FRAME,
    FRAMES,
    OBSERVED,
    ONE_ROUND,
    X,
    curve_covariance,
    linear_model,
)

from pendel.base import InputError
from pendel.infer.guide.bound import (
    bound_gain,
    bound_in_pairs,
    has_settled,
    log_ratios,
    mean_bound,
    noise_of,
    pareto_k,
)
from pendel.infer.guide.svi import SviTuning, fit_svi, starting_guide
from pendel.infer.maximum.map import fit_map, laplace_draws
from pendel.infer.target import make_target


def test_guide_starts_at_laplace_and_stays_there(linear, fit_with_spread):
    """Everything is Gaussian and Markov enough, so the guide must keep mean, spread and neighbours' correlation."""
    options = {"start": fit_with_spread, "key": jax.random.key(0), "angles": {"frames": ANGLE}}
    svi = fit_svi(linear, tuning=SviTuning(steps=400), **options)
    start = dataclasses.replace(svi, parameters=svi.guide.start)
    exact = laplace_draws(fit_with_spread, jax.random.key(2), 4000)
    for guide in (start, svi):
        draws = guide.draw(jax.random.key(1), 4000)
        sd = np.std(exact["curve"], axis=0)
        np.testing.assert_allclose(np.std(draws["curve"], axis=0) / sd, 1, atol=0.25)
        assert np.max(np.abs(np.mean(draws["curve"], axis=0) - np.mean(exact["curve"], axis=0)) / sd) < 0.25
        assert np.std(draws["slope"]) / np.std(exact["slope"]) == pytest.approx(1, abs=0.12)
        here, there = (np.corrcoef(np.asarray(d["curve"]).T)[5, 6] for d in (draws, exact))
        assert here == pytest.approx(there, abs=0.15)
    assert np.mean(svi.losses[-50:]) < np.mean(svi.losses[:50]) + 1.0


def test_guide_follows_a_spread_over_its_whole_posterior(linear_data, linear, linear_fit):
    """Given the spread all is normal: its density and the offsets' moments follow by quadrature over it."""
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

    # The spread of this fit is 0.5, which is not its maximum.
    options = {"start": linear_fit, "key": jax.random.key(0), "angles": {"frames": ANGLE}}
    svi = fit_svi(linear, tuning=SviTuning(cycles=(2, 2)), **options)
    assert float(svi.guide.log_spreads[0]) == pytest.approx(grid[np.argmax(log_density)], abs=0.01)
    assert float(svi.guide.spread_root[0, 0]) == pytest.approx(sd, rel=0.1)
    at_start = svi.guide.draws(svi.guide.start, jax.random.key(1), 4000)
    for draws, tolerance in ((at_start, 0.1), (svi.draw(jax.random.key(1), 4000), 0.2)):
        log_spread, offset = np.log(draws["offset_spread"]), np.asarray(draws["offset"])
        assert np.mean(log_spread) == pytest.approx(mean, abs=2 * tolerance * sd)
        assert np.std(log_spread) == pytest.approx(sd, rel=tolerance)
        np.testing.assert_allclose(np.std(offset, axis=0) / offset_sd, 1, atol=tolerance)
        assert np.max(np.abs(np.mean(offset, axis=0) - offset_mean) / offset_sd) < 2 * tolerance


def test_the_guide_starts_at_laplace_whatever_the_spreads(guide_of_two_plates):
    guide, integrated, fit, _ = guide_of_two_plates
    size, number = fit.layout.size, len(guide.log_spreads)

    @jax.jit
    def moments(u):
        def draw(noise):
            return guide.transform(guide.start, jnp.concatenate([u, noise]))[0]

        root = jax.jacobian(draw)(jnp.zeros(size))
        return draw(jnp.zeros(size)), jnp.sqrt(jnp.sum(root**2, axis=1))

    z_0, root_0 = integrated.at(integrated.log_spreads)
    moved, followed = [], []
    for u in np.concatenate([np.eye(number), -np.eye(number)]):
        mean, sd = moments(jnp.asarray(u))
        z, root = integrated.at(integrated.log_spreads + integrated.root @ u)
        expected = np.sqrt(root.variance())
        for found, here, width in ((moved, z_0, np.sqrt(root_0.variance())), (followed, mean, sd)):
            found.append([np.max(np.abs(here - z) / expected), np.max(np.abs(np.log(width / expected)))])
    assert np.all(np.max(followed, axis=0) < (0.25, 0.2))
    assert np.all(np.max(moved, axis=0) > (0.5, 0.3))  # what a guide that does not follow them would miss


def test_density_of_a_guide_with_two_plates_at_a_draw_is_that_of_its_noise(guide_of_two_plates):
    check_density(guide_of_two_plates[0])


def test_spreads_of_very_many_parameters_stay_at_their_values_in_map(linear, linear_fit):
    guide = starting_guide(linear, linear_fit, {"frames": ANGLE}, jax.random.key(0), SviTuning(largest=0))
    np.testing.assert_allclose(np.exp(guide.log_spreads), 0.5)
    np.testing.assert_array_equal(guide.centre, linear_fit.unconstrained)
    assert not np.any(guide.start["frames_by_spreads"])


def test_a_spread_between_limits_is_refused(linear_data):
    def model(*, y=None):
        spread = numpyro.sample("spread", dist.Uniform(0.05, 2.0), infer={"fixed_in_map": 0.5})
        with numpyro.plate("frames", FRAMES):
            offset = numpyro.sample("offset", dist.Normal(0, spread))
        numpyro.sample("y", dist.Normal(offset[FRAME], 0.7), obs=y, infer=OBSERVED)

    target = make_target(model, y=linear_data)
    fit = fit_map(target, tuning=ONE_ROUND)
    with pytest.raises(InputError, match="'spread' has limits"):
        fit_svi(target, start=fit, key=jax.random.key(0))


def test_gain_of_the_bound_is_that_at_the_same_draws():
    pairs = np.random.default_rng(0).normal(0, 100, 12)
    assert bound_gain(np.array([pairs, pairs + 30, pairs + 30.1])) == (pytest.approx(0.1), pytest.approx(0, abs=1e-9))
    worse = np.array([pairs, pairs + 30, pairs + 20, pairs + 31])  # over the best, not over the one before
    assert bound_gain(worse)[0] == pytest.approx(1)
    assert np.isnan(bound_gain(pairs[None])[0])
    failed = np.where(np.arange(12) == 3, -np.inf, pairs)  # such a pair does not count
    assert bound_gain(np.array([pairs, failed + 2]))[0] == pytest.approx(2)
    assert mean_bound(np.full(3, -np.inf)) == -np.inf


def test_a_gain_that_is_not_known_has_not_settled():
    assert has_settled(0.5, 0.2)
    assert has_settled(3.0, 2.0)
    assert not has_settled(133.0, 612.0)
    assert not has_settled(-3.0, 12.0)
    assert not has_settled(4.0, 1.0)
    assert not has_settled(float("nan"), float("nan"))


def test_bound_of_laplace_is_the_evidence_where_the_posterior_is_normal(fit_with_spread, linear):
    """The guide starts as Laplace; the noise of its bound comes from the spread, whose posterior is not normal."""
    guide = starting_guide(linear, fit_with_spread, {"frames": ANGLE}, jax.random.key(0))
    bound = bound_in_pairs(log_ratios(linear, guide), guide.start, noise_of(guide, jax.random.key(1), 32))
    short = SviTuning(steps=100)
    svi = fit_svi(linear, start=fit_with_spread, key=jax.random.key(0), angles={"frames": ANGLE}, tuning=short)
    assert np.std(bound) < 3
    assert mean_bound(svi.bounds[-1]) > mean_bound(svi.bounds[0]) - 0.5
    assert mean_bound(svi.bounds[-1]) == pytest.approx(-np.mean(svi.losses[-20:]), abs=1.0)


def test_svi_goes_on_until_a_cycle_gains_little(linear, fit_with_spread):
    fit = fit_with_spread
    far = dataclasses.replace(fit, unconstrained=fit.unconstrained + 4 * np.sqrt(np.diag(fit.covariance)))
    options = {"key": jax.random.key(0), "angles": {"frames": ANGLE}, "tuning": SviTuning(steps=100)}
    lengths = [len(fit_svi(linear, start=start, **options).losses) for start in (fit, far)]
    assert lengths[0] == 200
    assert lengths[1] > 200


def test_density_of_the_guide_at_a_draw_is_that_of_its_noise(linear, linear_fit):
    check_density(starting_guide(linear, linear_fit, {"frames": ANGLE}, jax.random.key(0)))


def check_density(guide):
    """At any parameters, the density of a draw is that of its noise over the Jacobian of the way there."""
    rng = np.random.default_rng(2)
    parameters = {name: value + 0.1 * rng.standard_normal(np.shape(value)) for name, value in guide.start.items()}
    noise = jax.random.normal(jax.random.key(5), (guide.layout.size + len(guide.log_spreads),))
    z, spreads = guide.transform(parameters, noise)
    slopes = jnp.concatenate(jax.jit(jax.jacobian(lambda e: guide.transform(parameters, e)))(noise))
    expected = stats.norm.logpdf(noise).sum() - np.linalg.slogdet(np.asarray(slopes))[1]
    assert float(guide.log_density(parameters, z, spreads)) == pytest.approx(expected, abs=1e-8)


def test_guide_weights_are_not_in_the_model(linear_data, linear, linear_fit):
    guide = starting_guide(linear, linear_fit, {"frames": ANGLE}, jax.random.key(0))
    with numpyro.handlers.seed(rng_seed=0), numpyro.handlers.trace() as in_guide:
        guide(0.2, y=linear_data)
    with numpyro.handlers.seed(rng_seed=0), numpyro.handlers.trace() as in_model:
        linear_model(0.2, y=linear_data)
    assert any(name.startswith("guide_frames_w") for name, s in in_guide.items() if s["type"] == "param")
    assert not any(s["type"] == "param" for s in in_model.values())


def test_pareto_k_tells_the_exact_posterior_from_a_narrow_guide(linear_data):
    def model(*, y=None):
        slope = numpyro.sample("slope", dist.Normal(0, 2))
        with numpyro.plate("frames", FRAMES):
            offset = numpyro.sample("offset", dist.Normal(0, 0.5))
        mean = slope * X + offset[FRAME]
        numpyro.sample("y", dist.Normal(mean, 0.7), obs=y, infer=OBSERVED)

    target = make_target(model, y=linear_data)
    svi = fit_svi(target, start=fit_map(target), key=jax.random.key(0), tuning=SviTuning(steps=1, cycles=(1, 1)))
    narrow = dict(svi.parameters)
    narrow["global_root"] = narrow["global_root"] - 2.0 * jnp.eye(len(narrow["global_root"]))  # log of the diagonal
    shrunk = dataclasses.replace(svi, parameters=narrow)
    good, bad = (pareto_k(target, fit=found, key=jax.random.key(3), draws=500) for found in (svi, shrunk))
    assert good < 0.5
    assert bad > 0.7
