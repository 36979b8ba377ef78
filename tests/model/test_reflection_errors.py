"""Errors that all measurements of a reflection and its equivalents share."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from scipy import stats

import pendel
from pendel.datasets import example
from pendel.experiment.equivalents import LEAST
from pendel.experiment.select import take_rows
from pendel.infer.maximum.map import fit_map
from pendel.infer.maximum.optimise import MapTuning
from pendel.infer.target import make_target
from pendel.model import Spread, sample_reflection_errors
from pendel.model.load import with_options


@pytest.fixture(scope="module")
def crystal():
    return pendel.read_crystal(example().structure)


@pytest.fixture(scope="module")
def experiment(crystal):
    chosen = pendel.thin(pendel.select(pendel.read_pets(example().data)), slice(0, None, 6))
    return pendel.with_equivalents(crystal, [chosen])[0]


@pytest.fixture(scope="module")
def data(crystal, experiment):
    return pendel.DataSet(experiment, pendel.make_plan(crystal, experiment, g_max=1.0, sg_max=0.004, tilts=3))


def traced(model, crystal, data, **values):
    program = handlers.substitute(handlers.seed(model, jax.random.key(1)), data=values)
    return handlers.trace(program).get_trace(crystal, (data,))


def test_equivalents_and_friedel_mates_have_one_number(crystal, experiment):
    strong = experiment.reflection < experiment.unique
    assert 0 < np.sum(strong) < len(strong)  # both kinds are there
    images = np.einsum("rj,ojk->rok", experiment.hkl, np.concatenate([crystal.rotations, -crystal.rotations]))
    for row in np.flatnonzero(strong):
        same = np.any(np.all(images[row][:, None] == experiment.hkl, axis=2), axis=0)
        np.testing.assert_array_equal(experiment.reflection == experiment.reflection[row], same)


def test_numbers_are_common_to_crystals_and_stay_with_their_rows(crystal, experiment):
    first, second = pendel.with_equivalents(crystal, [experiment, take_rows(experiment, slice(None, None, -1))])
    np.testing.assert_array_equal(first.reflection, second.reflection[::-1])
    assert first.unique == second.unique == np.max(first.reflection[first.reflection < first.unique]) + 1
    some = pendel.thin(first, slice(0, None, 2))
    rows = np.isin(np.asarray(first.frame_id)[first.frame_index], some.frame_id)
    np.testing.assert_array_equal(some.reflection, np.asarray(first.reflection)[rows])


def test_weak_reflections_share_the_number_behind_the_last(crystal, experiment):
    weak = dataclasses.replace(experiment, sigma=1e3 * np.abs(experiment.intensity) + 1)
    found = pendel.with_equivalents(crystal, [weak])[0]
    assert found.unique == 0
    assert np.all(found.reflection == 0)
    lone = dataclasses.replace(
        experiment, sigma=np.full(len(experiment.sigma), 1e-3 * np.abs(experiment.intensity).max())
    )
    counts = pendel.with_equivalents(crystal, [lone])[0]
    signal = (0.1 * np.maximum(lone.intensity, 0)) ** 2
    told = np.bincount(counts.reflection, signal / (lone.sigma**2 + signal), minlength=counts.unique)
    assert np.all(told[: counts.unique] > LEAST)


def test_errors_multiply_what_is_expected_and_are_no_part_of_what_is_calculated(crystal, data):
    model = pendel.load_model("robust")
    count, number = data.experiment.unique, np.asarray(data.experiment.reflection)
    errors = np.linspace(-0.2, 0.2, count)
    with_errors = traced(model, crystal, data, reflection_error=errors, reflection_spread=0.07)
    without = traced(with_options(model, reflection_error="off"), crystal, data)
    shared = {k: s["value"] for k, s in without.items() if s["type"] == "sample" and k != "intensity"}
    both = traced(model, crystal, data, reflection_error=errors, reflection_spread=0.07, **shared)
    np.testing.assert_allclose(both["calculated"]["value"], without["calculated"]["value"])
    diffracted = without["calculated"]["value"] - without["calculated_background"]["value"]
    factor = np.exp(np.append(errors, 0.0))[number]
    background = without["calculated_background"]["value"]
    fn = both["intensity"]["fn"]
    np.testing.assert_allclose(fn.loc, diffracted * factor + background)
    a, b = shared["a"], shared["b"]
    np.testing.assert_allclose(fn.scale, np.hypot(a * data.experiment.sigma, b * diffracted * factor))
    expected = np.where(number < count, 0.07, 0.0) * diffracted
    np.testing.assert_allclose(both["calculated_common"]["value"], expected)
    prior = with_errors["reflection_error"]["fn"].log_prob(errors)
    assert float(prior) == pytest.approx(np.sum(stats.norm.logpdf(errors, scale=0.07)))
    assert "reflection_error" not in without
    assert "calculated_common" not in without


def test_measurements_that_do_not_know_their_equivalents_have_no_such_errors(crystal, data):
    unknown = dataclasses.replace(data, experiment=dataclasses.replace(data.experiment, reflection=None, unique=0))
    assert "reflection_error" not in traced(pendel.load_model("robust"), crystal, unknown)
    with pytest.raises(pendel.InputError, match="with_equivalents"):
        traced(with_options(pendel.load_model("robust"), reflection_error="on"), crystal, unknown)
    with pytest.raises(pendel.InputError, match="'auto' or 'on' or 'off'"):
        traced(with_options(pendel.load_model("robust"), reflection_error="some"), crystal, data)


def test_a_common_mean_is_as_uncertain_as_closed_form_says(data):
    """Mean of H groups of m measurements with errors tau of a group and b of a measurement: (tau^2 + b^2 / m) / H."""
    groups, times, tau, b = 60, 6, 0.15, 0.05
    rng = np.random.default_rng(4)
    number = np.tile(np.arange(groups), times)
    frame = np.repeat(np.arange(times), groups)
    y = 1.0 + (tau * rng.standard_normal(groups))[number] + b * rng.standard_normal(len(number))
    rows = take_rows(data.experiment, np.zeros(len(number), dtype=int))
    many = dataclasses.replace(data, experiment=dataclasses.replace(rows, reflection=number, unique=groups))

    def model(*, together, y=None):
        mean = numpyro.sample("mean", dist.Normal(0, 100))
        choice = "on" if together else "off"
        common = sample_reflection_errors((many,), choice, Spread(1.0, in_map=0.05, integrated=True))[0]
        shift = 0.0 if common.factor is None else jnp.log(common.factor)
        deviation = b if together else float(np.hypot(b, tau))
        fn = dist.Normal(mean + shift, deviation).expand([len(number)])
        numpyro.sample("y", fn, obs=y, infer={"plate": "frames", "frame": frame})

    targets = {known: make_target(partial(model, together=known), y=y) for known in (True, False)}
    fits = {known: fit_map(target, tuning=MapTuning(rounds=2)) for known, target in targets.items()}
    place = [site.name for site in fits[True].layout.sites].index("mean")
    su = {
        known: float(np.sqrt(fit.covariance[place if known else 0, place if known else 0]))
        for known, fit in fits.items()
    }
    found = float(fits[True].spreads["reflection_spread"])
    means = np.array([np.mean(y[number == group]) for group in range(groups)])
    assert found == pytest.approx(np.sqrt(np.var(means, ddof=1) - b**2 / times), rel=0.01)
    assert su[True] == pytest.approx(np.sqrt((found**2 + b**2 / times) / groups), rel=1e-3)
    assert su[False] == pytest.approx(np.sqrt((tau**2 + b**2) / (groups * times)), rel=1e-3)
    assert abs(float(fits[True].values["mean"]) - 1.0) < 3 * su[True]

    # After a fit of some frames the spread starts there, and one matrix serves to the end.
    wrong = {**fits[True].values, "reflection_error": np.zeros(groups)}
    again = fit_map(
        targets[True],
        start={k: v for k, v in wrong.items() if k != "reflection_spread"},
        spreads={"reflection_spread": jnp.asarray(0.04)},
        globals_fitted=True,
        tuning=MapTuning(rounds=0),
    )
    assert float(again.spreads["reflection_spread"]) == pytest.approx(found, rel=0.01)
    np.testing.assert_allclose(again.covariance, fits[True].covariance, rtol=0.03, atol=1e-6)
    assert again.converged
