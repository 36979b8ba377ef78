"""The shipped models as programs: sites, prior predictive, masks, finite slopes; and the parameters they use."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro import handlers
from numpyro.infer.util import log_density

import pendel
from pendel.cell import direct_matrix, u_cartesian
from pendel.datasets import example
from pendel.experiment import select, thin
from pendel.infer.layout import inspect_model
from pendel.parameters import adp, displaced

MODELS = ["robust", "dynamical"]
FRAME_SITES = {"log_scale", "tilt", "log_thickness", "log_taper"}


@pytest.fixture(scope="module")
def crystal():
    return pendel.read_crystal(example().structure)


@pytest.fixture(scope="module")
def datasets(crystal):
    experiment = thin(select(pendel.read_pets(example().data), "nearest"), slice(0, None, 10))
    return ((experiment, pendel.make_plan(crystal, experiment, g_max=1.0, sg_max=0.004, tilts=3)),)


@pytest.fixture(scope="module")
def traces(crystal, datasets):
    def run(name, seed):
        model = handlers.seed(pendel.load_model(name), jax.random.key(seed))
        return {k: s["value"] for k, s in handlers.trace(model).get_trace(crystal, datasets).items() if "value" in s}

    return {name: [run(name, seed) for seed in range(3)] for name in MODELS}


@pytest.mark.parametrize("name", MODELS)
def test_sites_belong_to_frames_or_to_all(name, crystal, datasets):
    kwargs = {"intensities": (datasets[0][0].intensity,)}
    layout = inspect_model(pendel.load_model(name), (crystal, datasets), kwargs, with_fixed=False)
    assert {site.name for site in layout.sites if site.plate == "frames"} == FRAME_SITES
    assert {site.name for site in layout.sites if site.profile} == {"log_thickness", "log_taper"}
    assert layout.plates["frames"][1] == len(datasets[0][0].frame_id)


@pytest.mark.parametrize("name", MODELS)
def test_prior_predictive_is_finite_and_plausible(name, traces, datasets):
    for drawn in traces[name]:
        assert np.all(np.isfinite(drawn["intensity"]))
        assert np.all(np.asarray(drawn["calculated"]) >= 0)
        assert np.all(np.linalg.eigvalsh(u_cartesian(drawn["U_aniso"], (4.9, 4.9, 5.4, 90.0, 90.0, 120.0))) > 0)
        assert np.all((np.asarray(drawn["thickness"]) > 10) & (np.asarray(drawn["thickness"]) < 20_000))
        assert np.all(np.asarray(drawn["thickness_width"]) < np.asarray(drawn["thickness"]) * 2)


@pytest.mark.parametrize("name", MODELS)
def test_mask_takes_measurements_out(name, traces, crystal, datasets):
    model = pendel.load_model(name)
    sites = inspect_model(model, (crystal, datasets), {"intensities": (datasets[0][0].intensity,)}, with_fixed=True)
    values = {site.name: traces[name][0][site.name] for site in sites.sites}
    intensity = np.array(datasets[0][0].intensity, dtype=float)
    used = np.ones(len(intensity), dtype=bool)
    used[::3] = False

    def density(observed, mask):
        kwargs = {"intensities": (jnp.asarray(observed),), "mask": None if mask is None else (jnp.asarray(mask),)}
        return float(log_density(model, (crystal, datasets), kwargs, values)[0])

    other = np.where(used, intensity, 2 * intensity + 100)
    assert density(intensity, used) == pytest.approx(density(other, used), rel=1e-12)
    assert density(intensity, None) != pytest.approx(density(other, None), rel=1e-6)


def test_displacement_is_a_length_in_angstrom(crystal):
    step = np.zeros(len(crystal.position_basis))
    step[1] = 0.02
    moved = np.asarray(displaced(crystal, jnp.asarray(step))) - np.asarray(crystal.fract)
    assert np.linalg.norm(direct_matrix(crystal.cell) @ moved.T) == pytest.approx(0.02)


def test_adp_grows_and_stays_positive(crystal):
    zero = jnp.zeros(len(crystal.adp_basis))
    np.testing.assert_allclose(adp(crystal, zero), crystal.u_aniso, atol=1e-12)
    wild = 2 * jax.random.normal(jax.random.key(0), zero.shape)
    assert np.all(np.linalg.eigvalsh(u_cartesian(adp(crystal, wild), crystal.cell)) > 0)
    assert np.all(np.isfinite(jax.jacfwd(lambda x: adp(crystal, x))(zero)))


def test_robust_cannot_call_most_measurements_outliers(crystal, datasets):
    """With nu below 2 the density of a few exact hits would outweigh any number of outliers."""
    model = handlers.seed(pendel.load_model("robust"), jax.random.key(0))
    support = handlers.trace(model).get_trace(crystal, datasets)["nu"]["fn"].support
    assert not support(1.9)
    assert support(2.1)
