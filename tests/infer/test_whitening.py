"""Coordinates of the Markov chains where a simulator sees some parameters and others follow it."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from test_hmc import Memory

import pendel
from pendel.datasets import example
from pendel.infer.chains import whitening
from pendel.infer.chains.between_draws import between_draws
from pendel.infer.chains.loop import EVERY
from pendel.infer.chains.nuts import sample_nuts
from pendel.infer.chains.unseen import cut_off_simulation
from pendel.infer.density import prior_and_prediction
from pendel.infer.layout import inspect_model
from pendel.infer.maximum.map import fit_map
from pendel.infer.maximum.normal_matrix import negative_log_density, sites_in_loops

FRAMES, PER_FRAME = (4, 3), 12
SETS = len(FRAMES)


def grown(rate, length, frame):
    """Intensities that grow steeply with a length that every frame has, by a loop as simulators have."""
    x = jnp.linspace(0.3, 1.5, len(frame))

    def grow(state, _):
        return state + 0.5 * rate * length[frame] * (1 + 0.02 * x) * state, None

    return jax.lax.scan(grow, jnp.ones(len(frame)), None, length=8)[0]


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
        location = jnp.exp(log_scale)[frame] * grown(rate, length, frame)
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
    fit = fit_map(model, spread_rounds=0, **data)
    return data, fit, whitening.whitened(model, (), data, fit)


# y: rate, b, nu; two spreads; two means and the scales; the lengths
UNSEEN = slice(3 + SETS, 3 + SETS + SETS + sum(FRAMES))


def test_the_density_has_the_jacobian_of_the_coordinates(fitted):
    data, _, space = fitted
    full = inspect_model(model, (), data, with_fixed=True)
    assert space.size == full.size

    @jax.jit
    def excess(y):  # of the potential over -log p(z) - log |dz / dy|
        volume = jnp.linalg.slogdet(jax.jacfwd(lambda y: full.unconstrain(space.values(y)))(y))[1]
        z = full.unconstrain(space.values(y))
        return space.potential(y) - negative_log_density(model, full, z, {}, (), data) + volume

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
def test_scales_follow_what_the_simulator_makes(fitted, monkeypatch, sign):
    """Two standard deviations along a length the line through the MAP is off by many widths of a scale."""
    data, fit, space = fitted
    monkeypatch.setattr(whitening, "SCORING", 0)
    straight = whitening.whitened(model, (), data, fit)
    y = jnp.zeros(space.size).at[-1].set(2.0 * sign)
    bent, line = (np.max(np.abs(np.asarray(jax.grad(s.potential)(y))[UNSEEN])) for s in (space, straight))
    assert line > 3.0
    assert bent < 0.1 * line


@pytest.mark.slow
def test_errors_move_with_all_else_held(fitted):
    """Given all else, b and nu have a density of two dimensions, which is integrated on a grid."""
    data, fit, space = fitted
    move = between_draws(model, (), data, fit, space, jax.random.key(0))
    assert move is not None
    values = jax.vmap(space.values)

    def step(y, key):
        y, _ = move(y, key)
        return y, y

    _, found = jax.jit(lambda: jax.lax.scan(step, jnp.zeros(space.size), jax.random.split(jax.random.key(2), 400)))()
    start, found = space.values(jnp.zeros(space.size)), values(found)
    for name in ("rate", "length", "length_2"):  # what the simulator sees stays
        np.testing.assert_allclose(found[name] - start[name], 0, atol=1e-6)

    place, _ = space.place(jnp.zeros(space.size))
    grid = np.linspace(-4, 4, 41)
    width = np.sqrt(np.diag(fit.covariance))[space.cut.errors]
    offsets = np.stack(np.meshgrid(grid, grid, indexing="ij"), axis=-1).reshape(-1, 2) * width

    def log_density(offset):
        z = jnp.asarray(place.z).at[space.cut.errors].add(offset)
        return -space.cut.negative_log_density(place.simulated, z, place.spreads)

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
    data, fit, _ = fitted
    options = {"start": fit, "key": jax.random.key(1), "chains": 1, "warmup": EVERY, "draws": EVERY, **data}

    whole, memory = sample_nuts(model, **options), Memory(stop_after=1)
    with pytest.raises(KeyboardInterrupt):
        sample_nuts(model, keeper=memory, **options)
    resumed = sample_nuts(model, keeper=memory, **options)
    for name, values in whole.draws.items():
        np.testing.assert_array_equal(resumed.draws[name], values)


@pytest.mark.parametrize(
    ("name", "unseen", "errors"),
    [
        ("robust", {"log_scale", "log_scale_mean", "log_thickness_mean", "log_taper_mean"}, {"a", "b", "nu"}),
        ("dynamical", {"log_scale", "log_scale_mean", "log_thickness_mean", "log_taper_mean"}, {"error"}),
        ("kinematic", set(), set()),  # no loop over a frame's parameters: nothing to gain
    ],
)
def test_scales_and_means_are_unseen_and_errors_are_not(name, unseen, errors):
    crystal = pendel.read_crystal(example().structure)
    experiment = pendel.thin(pendel.select(pendel.read_pets(example().data), "nearest"), slice(0, None, 15))
    plan = pendel.make_plan(crystal, experiment, g_max=0.9, sg_max=0.004, tilts=3)
    data = (crystal, (pendel.DataSet(experiment, plan),))
    observed, program = {"intensities": (experiment.intensity,)}, pendel.load_model(name)
    layout = inspect_model(program, data, observed, with_fixed=False)
    full = inspect_model(program, data, observed, with_fixed=True)
    values = full.split(jnp.zeros(full.size))
    cut = cut_off_simulation(layout, lambda x: prior_and_prediction(program, full, x, {}, data, observed), values)
    names = np.array([label.partition("[")[0] for label in layout.names()])
    assert set(names[cut.unseen]) == unseen
    assert set(names[cut.errors]) == errors
    of_frames = {site.name for site in layout.sites if site.plate is not None}
    assert set(names[cut.frames]) == of_frames - unseen
    assert {"displacement", "log_strain"} <= set(names[cut.shared])
    others = {site: value for site, value in values.items() if site not in cut.seen}
    simulated = jax.eval_shape(cut.first, ({site: values[site] for site in cut.seen},))
    parts = {f"part {number:03}": jnp.zeros(part.shape, part.dtype) for number, part in enumerate(simulated)}

    def rest(some):
        return cut.second([some[part] for part in parts], {site: some[site] for site in others})

    assert not unseen or sites_in_loops(rest, {**parts, **others}) == []
