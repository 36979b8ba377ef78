"""Spreads of hierarchies at their maximum, and the Laplace approximation at any spreads."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from toy_models import FRAME, FRAMES, OBSERVED, X

from pendel.infer.maximum.map import fit_map, laplace_evidence
from pendel.infer.maximum.optimise import MapTuning
from pendel.infer.maximum.spreads import best_integrated, integrated_functions
from pendel.infer.target import make_target


def test_spread_moves_to_what_the_frames_say(linear):
    fit = fit_map(linear, spreads={"offset_spread": jnp.asarray(3.0)}, tuning=MapTuning(rounds=6))
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
            numpyro.sample(f"y{k}", dist.Normal(pair[FRAME, k], 0.01), obs=None if y is None else y[k], infer=OBSERVED)

    fit = fit_map(make_target(model, y=y), tuning=MapTuning(rounds=6))
    np.testing.assert_allclose(fit.spreads["spread"], np.sqrt(np.mean(truth**2, axis=0)), rtol=0.1)


def test_laplace_is_carried_to_other_spreads(guide_of_two_plates):
    _, integrated, _, target = guide_of_two_plates
    log_spreads = integrated.log_spreads + np.random.default_rng(6).normal(0, 0.5, len(integrated.log_spreads))
    spreads = {name: jnp.exp(value) for name, value in integrated.unravel(jnp.asarray(log_spreads)).items()}
    there = fit_map(target, spreads=spreads, tuning=MapTuning(rounds=0, tolerance=1e-9))
    z, root = integrated.at(log_spreads)
    np.testing.assert_allclose(z, there.unconstrained, atol=1e-4)
    np.testing.assert_allclose(root.dense(), there.covariance, atol=1e-6)


def test_one_spread_moves_to_the_largest_evidence_and_the_others_stay(guide_of_two_plates):
    _, _, fit, target = guide_of_two_plates
    name = next(iter(fit.spreads))
    args = fit.unconstrained, fit.precision, fit.spreads, target.data
    found, precision = best_integrated(integrated_functions(target), [name], *args)
    assert set(found) == {name}

    def fitted(factor):
        spreads = {**fit.spreads, name: factor * found[name]}
        return fit_map(target, spreads=spreads, tuning=MapTuning(rounds=0, tolerance=1e-9))

    def density(factor):  # of the logarithm of the spread, all else integrated out
        return laplace_evidence(fitted(factor)) + np.sum(np.log(factor * found[name]))

    assert density(1.0) > max(density(1.05), density(1 / 1.05))
    np.testing.assert_allclose(precision.dense(), fitted(1.0).precision.dense(), rtol=1e-6, atol=1e-6)
    assert len(fit.spreads) > 1
