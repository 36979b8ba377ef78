"""The shipped models as programs: sites, prior predictive, masks, finite slopes; and the parameters they use."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro import handlers
from numpyro.infer.util import log_density

import pendel
from pendel.crystal.cell import direct_matrix, u_cartesian
from pendel.crystal.parameters import adp, displaced
from pendel.datasets import example
from pendel.experiment.select import select, thin
from pendel.infer.target import make_target
from pendel.model.load import with_options
from pendel.model.simulation import SIMULATION
from pendel.simulate import Illumination, kinematic_intensities, simulate_intensities

MODELS = ["robust", "dynamical", "kinematic"]
MIDDLING = {f"log_thickness_mean{end}": jnp.log(500.0) for end in ("", "_2")}  # within the reach of the plans
FRAME_SITES = {"log_scale", "tilt", "log_thickness", "log_taper"}


@pytest.fixture(scope="module")
def crystal():
    return pendel.read_crystal(example().structure)


@pytest.fixture(scope="module")
def datasets(crystal):
    experiment = thin(select(pendel.read_pets(example().data), "nearest"), slice(0, None, 10))
    return (pendel.DataSet(experiment, pendel.make_plan(crystal, experiment, g_max=1.0, sg_max=0.004, tilts=3)),)


@pytest.fixture(scope="module")
def twice(datasets):
    """The same crystal as two data sets."""
    return (datasets[0], dataclasses.replace(datasets[0], number=1))


@pytest.fixture(scope="module")
def traces(crystal, datasets):
    def run(name, seed):
        model = handlers.seed(pendel.load_model(name), jax.random.key(seed))
        return {k: s["value"] for k, s in handlers.trace(model).get_trace(crystal, datasets).items() if "value" in s}

    return {name: [run(name, seed) for seed in range(3)] for name in MODELS}


def target_of(name, crystal, datasets):
    return make_target(pendel.load_model(name), crystal, datasets, intensities=(datasets[0].experiment.intensity,))


@pytest.mark.parametrize("name", MODELS)
def test_sites_belong_to_frames_or_to_all(name, crystal, datasets):
    target = target_of(name, crystal, datasets)
    layout = target.layout
    without = {"log_taper"} if name == "kinematic" else set()
    assert {site.name for site in layout.sites if site.plate == "frames"} == FRAME_SITES - without
    assert {site.name for site in layout.sites if site.profile} == {"log_thickness", "log_taper"} - without
    assert layout.plates["frames"][1] == len(datasets[0].experiment.frame_id)
    structure = {"displacement", "log_strain"} | ({"contraction"} if name == "robust" else set())
    assert target.simulated == structure | {"tilt", "log_thickness", "log_taper"} - without
    assert target.errors == ({"error"} if name == "dynamical" else {"a", "b", "nu"})


@pytest.mark.parametrize("name", MODELS)
def test_prior_predictive_is_finite_and_plausible(name, traces, datasets):
    for drawn in traces[name]:
        assert np.all(np.isfinite(drawn["intensity"]))
        assert np.all(np.asarray(drawn["calculated"] - drawn.get("calculated_background", 0.0)) >= -1e-9)
        assert np.all(np.linalg.eigvalsh(u_cartesian(drawn["U_aniso"], (4.9, 4.9, 5.4, 90.0, 90.0, 120.0))) > 0)
        assert np.all((np.asarray(drawn["thickness"]) > 10) & (np.asarray(drawn["thickness"]) < 20_000))
        assert np.all(np.asarray(drawn["thickness_width"]) < np.asarray(drawn["thickness"]) * 2)


@pytest.mark.parametrize("name", MODELS)
def test_mask_takes_measurements_out(name, traces, crystal, datasets):
    model = pendel.load_model(name)
    sites = target_of(name, crystal, datasets).full.sites
    values = {site.name: traces[name][0][site.name] for site in sites}
    intensity = np.array(datasets[0].experiment.intensity, dtype=float)
    used = np.ones(len(intensity), dtype=bool)
    used[::3] = False

    def density(observed, mask):
        kwargs = {"intensities": (jnp.asarray(observed),), "mask": None if mask is None else (jnp.asarray(mask),)}
        return float(log_density(model, (crystal, datasets), kwargs, values)[0])

    other = np.where(used, intensity, 2 * intensity + 100)
    assert density(intensity, used) == pytest.approx(density(other, used), rel=1e-12)
    assert density(intensity, None) != pytest.approx(density(other, None), rel=1e-6)


@pytest.mark.parametrize("kind", ["single", "wedge", "lens", "cylinder"])
def test_thickness_has_other_shapes(kind, crystal, datasets):
    model = handlers.seed(with_options(pendel.load_model("robust"), thickness=kind), jax.random.key(0))
    sites = handlers.trace(model).get_trace(crystal, datasets)
    assert "log_taper" not in sites
    share = np.asarray(sites["thickness"]["value"]) / np.exp(sites["log_thickness"]["value"])
    expected = {"single": 1.0, "wedge": 0.5, "lens": 2 / 3, "cylinder": np.pi / 4}
    np.testing.assert_allclose(share, expected[kind], rtol=2e-3)


def test_a_step_has_two_terraces(crystal, twice):
    model = handlers.seed(with_options(pendel.load_model("robust"), thickness="step"), jax.random.key(0))
    sites = handlers.trace(model).get_trace(crystal, twice)
    for suffix in ("", "_2"):
        height, log_odds, log_thickness, log_taper, thickness = (
            np.asarray(sites[f"{name}{suffix}"]["value"])
            for name in ("step_height", "log_odds", "log_thickness", "log_taper", "thickness")
        )
        low = 1 / (1 + np.exp(-log_odds))
        expected = np.exp(log_thickness) / (1 + np.exp(log_taper)) * (1 - low + low * height)
        np.testing.assert_allclose(thickness, expected, rtol=1e-2)
        assert np.ptp(low) > 0
    assert sites["step_height"]["value"] != sites["step_height_2"]["value"]


def test_a_model_without_a_choice_of_thickness_says_so():
    with pytest.raises(pendel.InputError, match="--thickness lens is given, but the model has no argument"):
        with_options(pendel.load_model("neural_thickness"), thickness="lens")


def test_network_thickness_is_a_function_of_the_angle_alone(crystal, datasets):
    model = handlers.seed(pendel.load_model("neural_thickness"), jax.random.key(0))
    sites = handlers.trace(model).get_trace(crystal, datasets)
    thickness = np.asarray(sites["thickness"]["value"])
    assert np.all((thickness > 50) & (thickness < 20_000))
    weights = sum(site["value"].size for name, site in sites.items() if name.startswith(("weights", "bias")))
    assert weights == 64 + 64 + 64 * 64 + 64 + 64 * 2 + 2
    target = target_of("neural_thickness", crystal, datasets)
    assert {site.name for site in target.full.sites if site.plate == "frames"} == {"log_scale", "tilt"}
    network = {site.name for site in target.full.sites if site.name.startswith(("weights", "bias"))}
    assert target.simulated == {"displacement", "log_strain", "tilt", "log_thickness_mean"} | network


def test_occupancy_is_free_where_it_starts_below_one(crystal, datasets):
    part = dataclasses.replace(crystal, occupancy=np.array([1.0, 0.9]), partly_occupied=(1,))
    model = handlers.seed(pendel.load_model("occupancy"), jax.random.key(0))
    sites = handlers.trace(model).get_trace(part, datasets)
    occupancy = np.asarray(sites["occupancy"]["value"])
    assert occupancy[0] == 1.0
    assert 0 < occupancy[1] < 1
    with pytest.raises(pendel.InputError, match="0 of 2 sites with an occupancy below 1"):
        handlers.trace(model).get_trace(crystal, datasets)


@pytest.mark.parametrize(("errors", "of_all"), [("each", set()), ("shared", {"a", "b", "nu"})])
def test_crystals_share_the_structure_and_may_share_errors(crystal, twice, errors, of_all):
    model = handlers.seed(with_options(pendel.load_model("robust"), errors=errors), jax.random.key(0))
    sites = handlers.trace(handlers.substitute(model, data=MIDDLING)).get_trace(crystal, twice)
    shared = {"displacement", "log_strain", "contraction", "fract", "U_aniso"} | of_all
    first = {name for name in sites if not name.endswith("_2")} - shared
    assert {f"{name}_2" for name in first} == {name for name in sites if name.endswith("_2")}
    assert {"a", "b", "nu", "log_thickness"} <= first | of_all
    assert of_all <= set(sites)


def test_errors_are_shared_or_of_each_crystal(crystal, datasets):
    model = with_options(pendel.load_model("robust"), errors="both")
    with pytest.raises(pendel.InputError, match="'shared' or 'each'"):
        handlers.trace(handlers.seed(model, jax.random.key(0))).get_trace(crystal, datasets)


@pytest.mark.parametrize(
    ("choice", "absorbing", "free"), [("auto", True, 2), ("auto", False, 0), ("on", False, 2), ("off", True, 0)]
)
def test_absorption_of_every_crystal(crystal, twice, choice, absorbing, free):
    """One strength a crystal where absorption matters or is asked for; else the simulation knows of none."""
    sets = [dataclasses.replace(d, plan=dataclasses.replace(d.plan, is_absorbing=absorbing)) for d in twice]
    model = with_options(pendel.load_model("robust"), absorption=choice)
    target = make_target(model, crystal, tuple(sets), intensities=tuple(d.experiment.intensity for d in sets))
    found = {site.name for site in target.layout.sites if site.name.startswith("absorption")}
    assert found == {"absorption", "absorption_2"} & target.simulated
    assert len(found) == free


@pytest.mark.parametrize(
    ("choice", "expected", "free"), [("auto", 0.1, 2), ("auto", 0.0, 0), ("on", 0.1, 2), ("off", 0.1, 0)]
)
def test_mosaicity_of_every_crystal(crystal, twice, choice, expected, free):
    """One spread a crystal where it is asked for, or where the plan has tilts for it."""
    settings = dataclasses.replace(twice[0].plan.settings, mosaicity=expected)
    sets = [dataclasses.replace(d, plan=dataclasses.replace(d.plan, settings=settings)) for d in twice]
    model = with_options(pendel.load_model("robust"), mosaicity=choice)
    target = make_target(model, crystal, tuple(sets), intensities=tuple(d.experiment.intensity for d in sets))
    found = {site.name for site in target.layout.sites if site.name.startswith("mosaicity")}
    assert found == {"mosaicity", "mosaicity_2"} & target.simulated
    assert len(found) == free


@pytest.mark.parametrize("option", ["absorption", "mosaicity"])
def test_an_unknown_choice_is_refused(crystal, datasets, option):
    model = with_options(pendel.load_model("robust"), **{option: "much"})
    with pytest.raises(pendel.InputError, match="'auto' or 'on' or 'off'"):
        handlers.trace(handlers.seed(model, jax.random.key(0))).get_trace(crystal, datasets)


@pytest.mark.parametrize("name", [*MODELS, "neural_thickness", "occupancy"])
def test_handlers_see_one_simulation_of_every_data_set(name, crystal, twice):
    """A simulation within trace, seed, substitute and mask; its arguments are those that give its value."""
    part = dataclasses.replace(crystal, occupancy=np.array([1.0, 0.9]), partly_occupied=(1,))
    model = handlers.seed(pendel.load_model(name), jax.random.key(0))
    known = {**MIDDLING, "displacement": jnp.full(len(crystal.position_basis), 0.01)}
    with handlers.mask(mask=True):
        sites = handlers.trace(handlers.substitute(model, data=known)).get_trace(part, twice)
    found = {name: site for name, site in sites.items() if site["type"] == SIMULATION}
    assert list(found) == ["simulated", "simulated_2"]
    for site, data in zip(found.values(), twice, strict=True):
        assert site["fn"] is (kinematic_intensities if name == "kinematic" else simulate_intensities)
        structure, plan, illumination = site["args"]
        assert plan is data.plan
        np.testing.assert_array_equal(structure.fract, sites["fract"]["value"])
        np.testing.assert_array_equal(illumination.tilt, sites[f"tilt{data.suffix}"]["value"])
        scale = sites[f"scale{data.suffix}"]["value"][data.experiment.frame_index]
        background = sites.get(f"calculated_background{data.suffix}", {"value": 0.0})["value"]
        np.testing.assert_allclose(sites[f"calculated{data.suffix}"]["value"], scale * site["value"] + background)


def test_single_scattering_is_the_limit_of_thin_crystals(crystal, datasets):
    experiment, plan = datasets[0].experiment, datasets[0].plan
    tilt = np.zeros((plan.frames, 2))
    strong = np.asarray(experiment.intensity) > np.quantile(experiment.intensity, 0.7)
    for thickness, close in ((0.5, 0.005), (600.0, None)):
        nodes, weights = np.full((plan.frames, 1), thickness), np.ones((plan.frames, 1))
        illumination = Illumination(tilt=tilt, thickness=nodes, weights=weights)
        once, full = (
            np.asarray(jax.jit(f)(crystal, plan, illumination))[strong]
            for f in (kinematic_intensities, simulate_intensities)
        )
        scored = full > 0  # the others are outside the beams
        error = np.max(np.abs(once[scored] / full[scored] - 1))
        assert error < close if close else error > 0.3


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
