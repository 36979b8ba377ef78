"""Jumps of frames between maxima: they are found, the density stays as it is, and chains use them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from toy_models import ONE_ROUND, Memory

from pendel.infer.chains import frame_jumps as module
from pendel.infer.chains.frame_jumps import frame_jumps, frame_maxima
from pendel.infer.chains.loop import EVERY
from pendel.infer.chains.mclmc import MclmcTuning, sample_mclmc
from pendel.infer.chains.nuts import ChainTuning, sample_nuts
from pendel.infer.chains.whitening import Place, unit_curvature, whitened
from pendel.infer.maximum.map import fit_map
from pendel.infer.target import make_target
from pendel.model.simulation import simulated

FRAMES, PER_FRAME = (2, 1), 6  # of two data sets
TILT = (np.array([0.7, -0.8]), np.array([0.75]))
BEYOND = 2.5  # tilts that the simulator cannot do


def fringes(tilt, shift):
    """Intensities that are nearly the same on both sides of zero."""
    tilt = jnp.where(jnp.abs(tilt) > BEYOND, jnp.nan, tilt)
    x = jnp.linspace(0.5, 1.5, PER_FRAME)[None, :] * (tilt[:, None] ** 2 + 0.05 * tilt[:, None]) + 0.02 * shift
    return jnp.ravel(jnp.exp(0.4 * x))


def model(*, y=None):
    """Tilts that know of each other, and scales that do, too."""
    shift = numpyro.sample("shift", dist.Normal(0, 1))
    for number, frames in enumerate(FRAMES):
        suffix = f"_{number + 1}" if number else ""
        plate, frame = f"frames{suffix}", np.repeat(np.arange(frames), PER_FRAME)
        coupled = 0.5 * jnp.eye(frames) + 0.5
        prior = dist.MultivariateNormal(0.3 * jnp.ones(frames), coupled)
        tilt = numpyro.sample(f"tilt{suffix}", prior, infer={"plate": plate})
        prior = dist.MultivariateNormal(jnp.zeros(frames), 0.4 * coupled)
        log_scale = numpyro.sample(f"log_scale{suffix}", prior, infer={"plate": plate})
        location = jnp.exp(log_scale)[frame] * simulated(f"simulated{suffix}", fringes, tilt, shift)
        observed = None if y is None else y[number]
        noise = dist.Normal(location, 0.2 * location)
        numpyro.sample(f"y{suffix}", noise, obs=observed, infer={"plate": plate, "frame": frame})


@pytest.fixture(scope="module")
def fitted():
    exact = [fringes(jnp.asarray(tilt), 0.0) for tilt in TILT]
    noise = jax.random.normal(jax.random.key(2), (2, 2 * PER_FRAME))
    data = {"y": tuple(x * (1 + 0.03 * noise[n, : len(x)]) for n, x in enumerate(exact))}
    target = make_target(model, **data)
    fit = fit_map(target, start={"tilt": TILT[0], "tilt_2": TILT[1]}, tuning=ONE_ROUND)
    space = whitened(target, fit)
    return target, fit, space, frame_maxima(target, fit, space.replay, jax.random.key(3))


def tilts(space, z):
    """Tilts of all frames of both data sets."""
    values = space.replay.layout.split(jnp.asarray(z))
    return np.concatenate([values["tilt"], values["tilt_2"]])


def test_both_sides_are_found(fitted):
    _, fit, space, maxima = fitted
    assert list(maxima.count) == [2] * sum(FRAMES)
    found = np.stack([tilts(space, z) for z in maxima.z[:2]])
    true = np.abs(np.concatenate(TILT))
    np.testing.assert_allclose(np.sort(found, axis=0), [-true, true], atol=0.4)
    here = tilts(space, fit.unconstrained)
    assert np.all(np.min(np.abs(found - here), axis=0) < 0.05)  # where the search began is one of them


def test_the_way_back_leads_to_the_same_place(fitted):
    _, _, space, _ = fitted
    for coordinates in (space, unit_curvature(space, jax.random.key(1))):
        place, back = jax.jit(coordinates.place), jax.jit(coordinates.back)
        for y in 0.5 * jax.random.normal(jax.random.key(5), (3, space.size)):
            there, log_volume = place(y)
            found, same_volume = back(there)
            np.testing.assert_allclose(found, y, atol=1e-8)
            assert float(same_volume) == pytest.approx(float(log_volume), abs=1e-8)


def around(maxima, rows, count):
    """Maxima that are none, some more than two: any places must leave the density as it is."""
    return dataclasses.replace(maxima, z=np.stack(rows), count=np.array(count))


@pytest.mark.slow
def test_the_density_stays_as_it_is(fitted):
    """Points drawn from elsewhere and weighted to the posterior: their means are the same after one jump each."""
    target, fit, space, maxima = fitted
    layout, count = space.replay.layout, 8000
    first = layout.split(jnp.asarray(fit.unconstrained))
    rows = [
        np.asarray(layout.join({**first, "tilt": jnp.asarray(tilt), "tilt_2": jnp.asarray(other)}))
        for tilt, other in (((0.7, -0.9), (0.8,)), ((-0.8, 0.6), (-0.7,)), ((0.1, 0.0), (0.0,)), ((0.0, 0.0), (0.0,)))
    ]
    jump = frame_jumps(space, around(maxima, rows, [3, 2, 2]))
    keys = jax.random.split(jax.random.key(8), 4)
    observed = jnp.reshape(jnp.concatenate(target.data[1]["y"]), (-1, PER_FRAME))

    def proposed(shift, tilt, noise):
        """A point with any tilts and about the scales that fit there."""
        exact = jnp.reshape(fringes(tilt, shift), observed.shape)
        log_scale = jnp.mean(jnp.log(observed / exact), axis=1) + 0.12 * noise
        sites = {"tilt": tilt[:2], "tilt_2": tilt[2:], "log_scale": log_scale[:2], "log_scale_2": log_scale[2:]}
        return layout.join({"shift": shift, **sites})

    shift, tilt = jax.random.normal(keys[0], (count,)), jax.random.normal(keys[1], (count, 3))
    noise = jax.random.normal(keys[2], (count, 3))
    points = jax.vmap(proposed)(shift, 0.1 + 0.9 * tilt, noise)
    log_proposal = -0.5 * np.asarray(shift**2 + jnp.sum(tilt**2 + noise**2, axis=1))

    def go(item):
        z, key = item
        place = Place(z, {}, space.replay.simulate(z, {}))
        after, taken = jump(place, key)
        return -space.replay.negative_log_density(place.simulated, z, {}), after, taken

    items = points, jax.random.split(keys[3], count)
    log_density, after, taken = map(np.asarray, jax.jit(lambda x: jax.lax.map(go, x, batch_size=500))(items))
    log_weight = log_density - log_proposal
    usable = np.isfinite(log_weight) & np.all(np.isfinite(after), axis=1)
    weight = np.where(usable, np.exp(log_weight - np.max(log_weight[usable])), 0.0)
    weight /= weight.sum()
    assert 1 / np.sum(weight**2) > 100
    assert np.sum(weight * taken) > 0.3
    before, after = np.asarray(points)[usable], after[usable]
    weight = weight[usable]

    def moments(z):
        tilt = np.stack([tilts(space, one) for one in z])
        pairs = [z[:, i] * z[:, j] for i in range(layout.size) for j in range(i + 1)]
        return np.stack([*z.T, *pairs, *(tilt > 0).T, *np.sin(5 * tilt).T])

    change = moments(after) - moments(before)
    mean = change @ weight
    error = np.sqrt((change - mean[:, None]) ** 2 @ weight**2)
    moved = error > 1e-12
    assert np.sum(moved) > 30
    assert np.max(np.abs(mean[moved] / error[moved])) < 4.5


def test_a_frame_beyond_the_simulator_keeps_no_other_from_jumping(fitted, monkeypatch):
    _, fit, space, maxima = fitted
    monkeypatch.setattr(module, "TRIES", 1)
    layout, first = space.replay.layout, space.replay.layout.split(jnp.asarray(fit.unconstrained))
    far = np.asarray(layout.join({**first, "tilt": jnp.array([3.5, 1.0])}))
    jump = frame_jumps(space, around(maxima, [np.asarray(fit.unconstrained), far, far, far], [2, 2, 1]))
    z = jnp.asarray(fit.unconstrained)
    keys = jax.random.split(jax.random.key(1), 50)
    after = jax.jit(jax.vmap(lambda key: jump(Place(z, {}, space.replay.simulate(z, {})), key)[0]))(keys)
    moved = np.stack([tilts(space, one) for one in after]) - tilts(space, z)
    assert np.all(np.isfinite(np.asarray(after)))
    assert np.all(np.abs(moved[:, 0]) < 1e-6)
    assert np.mean(np.abs(moved[:, 1]) > 0.5) > 0.2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sample", "tuning"),
    [
        (sample_nuts, ChainTuning(chains=2, warmup=60, draws=300, at_once=2)),
        (sample_mclmc, MclmcTuning(chains=2, adaptation=60, draws=300, at_once=2)),
    ],
)
def test_chains_see_both_sides_as_often(fitted, sample, tuning):
    target, fit, _, _ = fitted
    found = sample(target, start=fit, key=jax.random.key(1), tuning=tuning)
    both = np.concatenate([found.draws["tilt"], found.draws["tilt_2"]], axis=-1)
    share = np.mean(both > 0, axis=1)
    assert np.all((share > 0.1) & (share < 0.9))
    assert np.all(np.abs(share[0] - share[1]) < 0.25)
    assert found.statistics["jumps"].sum() > 100


@pytest.mark.slow
def test_interrupted_chains_jump_as_uninterrupted_ones(fitted):
    target, fit, _, _ = fitted
    tuning = ChainTuning(chains=2, warmup=EVERY, draws=EVERY)
    options = {"start": fit, "key": jax.random.key(1), "tuning": tuning}
    whole, memory = sample_nuts(target, **options), Memory(stop_after=1)
    with pytest.raises(KeyboardInterrupt):
        sample_nuts(target, keeper=memory, **options)
    resumed = sample_nuts(target, keeper=memory, **options)
    assert whole.statistics["jumps"].sum() > 5
    np.testing.assert_array_equal(resumed.draws["tilt"], whole.draws["tilt"])
    options["tuning"] = dataclasses.replace(tuning, at_once=2)
    together = sample_nuts(target, **options)
    np.testing.assert_allclose(together.draws["tilt"], whole.draws["tilt"], atol=1e-5)
