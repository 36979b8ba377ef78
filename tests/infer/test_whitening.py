"""Coordinates of the Markov chains where some parameters reach a simulation and others follow its results."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from toy_models import ONE_ROUND, Memory

import pendel
from pendel.datasets import example
from pendel.infer.chains import whitening
from pendel.infer.chains.between_draws import between_draws
from pendel.infer.chains.loop import EVERY
from pendel.infer.chains.nuts import ChainTuning, sample_nuts
from pendel.infer.chains.replay import make_replay
from pendel.infer.maximum.map import fit_map
from pendel.infer.target import make_target
from pendel.model.simulation import simulated

FRAMES, PER_FRAME = (4, 3), 12
SETS = len(FRAMES)


def grown(rate, length, frame):
    """Intensities that grow steeply with a length that every frame has."""
    x = jnp.linspace(0.3, 1.5, len(frame))
    return (1 + 0.5 * rate * length[frame] * (1 + 0.02 * x)) ** 8


def model(*, y=None, mask=None):
    """Two data sets of frames; Student-t errors; a spread between limits; some observations do not count."""
    rate = numpyro.sample("rate", dist.Normal(1.0, 0.3))
    b = numpyro.sample("b", dist.LogNormal(jnp.log(0.05), 0.3))
    nu = numpyro.sample("nu", dist.LogNormal(jnp.log(8.0), 0.3))
    for number, frames in enumerate(FRAMES):
        suffix = f"_{number + 1}" if number else ""
        frame = np.repeat(np.arange(frames), PER_FRAME)
        mean = numpyro.sample(f"log_scale_mean{suffix}", dist.Normal(0, 3))
        spread = numpyro.sample(f"scale_spread{suffix}", dist.Uniform(0.05, 2.0), infer={"fixed_in_map": 0.5})
        with numpyro.plate(f"frames{suffix}", frames):
            length = numpyro.sample(f"length{suffix}", dist.Normal(1.0, 0.5))
            log_scale = numpyro.sample(f"log_scale{suffix}", dist.Normal(mean, spread))
        location = jnp.exp(log_scale)[frame] * simulated(f"simulated{suffix}", grown, rate, length, frame)
        with numpyro.handlers.mask(mask=True if mask is None else mask[number]):
            numpyro.sample(
                f"y{suffix}",
                dist.StudentT(nu, location, b * location),
                obs=None if y is None else y[number],
                infer={"plate": f"frames{suffix}", "frame": frame},
            )


@pytest.fixture(scope="module")
def fitted():
    truth = {"rate": 1.0, "b": 0.05, "nu": 8.0}
    truth |= {f"log_scale_mean{suffix}": 0.0 for suffix in ("", "_2")}
    program = numpyro.handlers.seed(numpyro.handlers.substitute(model, data=truth), 3)
    trace = numpyro.handlers.trace(program).get_trace()
    data = {"y": tuple(trace[name]["value"] for name in ("y", "y_2"))}
    data["mask"] = tuple(np.arange(len(y)) % 5 != 0 for y in data["y"])
    target = make_target(model, **data)
    fit = fit_map(target, tuning=ONE_ROUND)
    return target, fit, whitening.whitened(target, fit)


# y: rate, b, nu; two spreads; two means and the scales; the lengths
SCALES = slice(3 + SETS, 3 + SETS + SETS + sum(FRAMES))


def test_the_density_has_the_jacobian_of_the_coordinates(fitted):
    target, _, space = fitted
    full = target.full
    assert space.size == full.size

    @jax.jit
    def excess(y):  # of the potential over -log p(z) - log |dz / dy|
        volume = jnp.linalg.slogdet(jax.jacfwd(lambda y: full.unconstrain(space.values(y)))(y))[1]
        z = full.unconstrain(space.values(y))
        return space.potential(y) - target.negative_log_density(full.split(z)) + volume

    points = jax.random.normal(jax.random.key(0), (4, space.size))
    np.testing.assert_allclose([float(excess(y)) for y in points], 0, atol=1e-7)


@pytest.mark.slow
def test_the_gradient_is_that_of_the_potential(fitted):
    _, _, space = fitted
    y, step = 0.3 * jax.random.normal(jax.random.key(4), (space.size,)), 1e-5
    gradient, potential = np.asarray(jax.grad(space.potential)(y)), jax.jit(space.potential)
    for index in range(space.size):
        move = jnp.zeros(space.size).at[index].set(step)
        difference = float(potential(y + move) - potential(y - move)) / (2 * step)
        assert gradient[index] == pytest.approx(difference, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_scales_follow_the_simulated_intensities(fitted, monkeypatch, sign):
    """Two standard deviations along a length the line through the MAP is off by many widths of a scale."""
    target, fit, space = fitted
    y = jnp.zeros(space.size).at[-1].set(2.0 * sign)

    def steepest(space):
        return np.max(np.abs(np.asarray(jax.grad(space.potential)(y))[SCALES]))

    bent = steepest(space)
    monkeypatch.setattr(whitening, "SCORING", 0)
    line = steepest(whitening.whitened(target, fit))
    assert line > 3.0
    assert bent < 0.1 * line


@pytest.mark.slow
def test_errors_move_with_all_else_fixed(fitted):
    """Given all else, b and nu have a density of two dimensions, which is integrated on a grid."""
    target, fit, space = fitted
    move = between_draws(target, fit, space, jax.random.key(0))
    assert move is not None
    values = jax.vmap(space.values)

    def step(y, key):
        y, _ = move(y, key)
        return y, y

    _, found = jax.jit(lambda: jax.lax.scan(step, jnp.zeros(space.size), jax.random.split(jax.random.key(2), 400)))()
    start, found = space.values(jnp.zeros(space.size)), values(found)
    for name in ("rate", "length", "length_2"):  # what reaches the simulation stays
        np.testing.assert_allclose(found[name] - start[name], 0, atol=1e-6)

    place, _ = space.place(jnp.zeros(space.size))
    grid = np.linspace(-4, 4, 41)
    width = np.sqrt(np.diag(fit.covariance))[space.replay.errors]
    offsets = np.stack(np.meshgrid(grid, grid, indexing="ij"), axis=-1).reshape(-1, 2) * width

    def log_density(offset):
        z = jnp.asarray(place.z).at[space.replay.errors].add(offset)
        return -space.replay.negative_log_density(place.simulated, z, place.spreads)

    density = np.asarray(jax.vmap(log_density)(jnp.asarray(offsets)))
    weight = np.exp(density - density.max())
    weight /= weight.sum()
    for number, name in enumerate(("b", "nu")):
        draws = np.log(found[name][20:]) - np.log(start[name])
        mean = weight @ offsets[:, number]
        sd = np.sqrt(weight @ (offsets[:, number] - mean) ** 2)
        assert np.mean(draws) == pytest.approx(mean, abs=0.2 * sd)
        assert np.std(draws) == pytest.approx(sd, rel=0.12)


@pytest.mark.slow
def test_a_resumed_chain_ends_as_an_uninterrupted_one(fitted):
    target, fit, _ = fitted
    tuning = ChainTuning(chains=1, warmup=EVERY, draws=EVERY)
    options = {"start": fit, "key": jax.random.key(1), "tuning": tuning}

    whole, memory = sample_nuts(target, **options), Memory(stop_after=1)
    with pytest.raises(KeyboardInterrupt):
        sample_nuts(target, keeper=memory, **options)
    resumed = sample_nuts(target, keeper=memory, **options)
    for name, values in whole.draws.items():
        np.testing.assert_array_equal(resumed.draws[name], values)


@pytest.mark.parametrize(
    ("name", "free", "errors"),
    [
        (
            "robust",
            {"log_scale", "log_scale_mean", "log_thickness_mean", "log_taper_mean", "background"},
            {"a", "b", "nu"},
        ),
        ("dynamical", {"log_scale", "log_scale_mean", "log_thickness_mean", "log_taper_mean"}, {"error"}),
        ("kinematic", {"log_scale", "log_scale_mean", "log_thickness_mean", "background"}, {"a", "b", "nu"}),
    ],
)
def test_scales_and_means_are_free_and_errors_are_not(name, free, errors):
    crystal = pendel.read_crystal(example().structure)
    experiment = pendel.thin(pendel.select(pendel.read_pets(example().data), "nearest"), slice(0, None, 15))
    plan = pendel.make_plan(crystal, experiment, g_max=0.9, sg_max=0.004, tilts=3)
    data = crystal, (pendel.DataSet(experiment, plan),)
    target = make_target(pendel.load_model(name), *data, intensities=(experiment.intensity,))
    layout, replay = target.layout, make_replay(target)
    names = np.array([label.partition("[")[0] for label in layout.names()])
    assert set(names[replay.free]) == free
    assert set(names[replay.errors]) == errors
    of_frames = {site.name for site in layout.sites if site.plate is not None}
    assert set(names[replay.frames]) == of_frames - free
    structure = {"displacement", "log_strain"} | ({"contraction"} if name == "robust" else set())
    assert set(names[replay.shared]) == structure | errors
    everything = np.sort(np.concatenate([replay.free, replay.frames, replay.shared]))
    np.testing.assert_array_equal(everything, np.arange(layout.size))
