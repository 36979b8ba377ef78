"""Copies of a shipped model: a few changed lines change the science; and what blocks and records promise."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.infer.util import log_density
from scipy import stats

import pendel
from pendel.crystal.cell import direct_matrix
from pendel.datasets import example
from pendel.model import Curve, Family, Spread, sample_frames, sample_thickness
from pendel.model.load import model_options, with_options
from pendel.model.thickness_prior import FAMILIES, TAPER, find_family, further_starts, thickness_facts
from pendel.simulate.thickness import lognormal, single

ROBUST = Path(__file__).resolve().parents[2] / "models" / "robust.py"
OF_ATOMS = "displacement=0.05, log_strain=1.0, clouds=clouds, log_contraction=electrons"
STRUCTURE = f"structure = sample_structure(crystal, {OF_ATOMS})\n"
CALCULATED = "calculated = scale[data.experiment.frame_index] * simulate(structure, data, illumination)\n"
SCATTER = "scatter = student_t(common(calculated), data.experiment.sigma, **error, background=background)\n"


@pytest.fixture(scope="module")
def crystal():
    return pendel.read_crystal(example().structure)


@pytest.fixture(scope="module")
def data(crystal):
    experiment = pendel.thin(pendel.select(pendel.read_pets(example().data)), slice(0, None, 10))
    return pendel.DataSet(experiment, pendel.make_plan(crystal, experiment, g_max=1.0, sg_max=0.004, tilts=3))


def copied(folder: Path, old: str, new: str):
    """The model `robust` with other lines in a copy of its file."""
    text = ROBUST.read_text(encoding="utf-8")
    assert text.count(old) == 1
    imports = "import jax.numpy as jnp\nimport numpyro\nimport numpyro.distributions as dist\n"
    imports += "from pendel.crystal.cell import direct_matrix\nfrom pendel.base import InputError\n"
    text = text.replace("from pendel.base import InputError\n", imports).replace(old, new)
    (folder / "copy.py").write_text(text, encoding="utf-8")
    return pendel.load_model(str(folder / "copy.py"))


def run(model, crystal, data, **kwargs):
    return handlers.trace(handlers.seed(model, jax.random.key(1))).get_trace(crystal, (data,), **kwargs)


def densities(models, crystal, data):
    """Log densities of several models at the values of one draw."""
    drawn = run(models[0], crystal, data)
    values = {k: s["value"] for k, s in drawn.items() if s["type"] == "sample" and not s["is_observed"]}
    values.pop("intensity")
    observed = {"intensities": (data.experiment.intensity,)}
    return [float(log_density(model, (crystal, (data,)), observed, values)[0]) for model in models], drawn


def test_a_restraint_is_three_lines(tmp_path, crystal, data):
    lines = """    sites = structure.fract[jnp.array([crystal.labels.index("Si1"), crystal.labels.index("O1")])]
    bond = jnp.linalg.norm(direct_matrix(crystal.cell) @ (sites[1] - sites[0]))
    numpyro.sample("restraint", dist.Normal(bond, 0.02), obs=1.61)
"""
    restrained = copied(tmp_path, STRUCTURE, STRUCTURE + lines)
    (free, bound), drawn = densities([pendel.load_model("robust"), restrained], crystal, data)
    sites = np.asarray(drawn["fract"]["value"])
    length = np.linalg.norm(direct_matrix(crystal.cell) @ (sites[1] - sites[0]))
    assert bound - free == pytest.approx(float(dist.Normal(length, 0.02).log_prob(1.61)), abs=1e-6)


def test_other_errors_are_one_line(tmp_path, crystal, data):
    model = copied(tmp_path, SCATTER, "scatter = dist.Poisson(calculated)\n")
    counts = np.round(np.abs(data.experiment.intensity))
    found = run(model, crystal, data, intensities=(counts,))
    rate = np.asarray(found["calculated"]["value"] - found["calculated_background"]["value"])
    swept = rate > 0  # the others are outside the beams
    log_density = np.asarray(found["intensity"]["fn"].log_prob(counts))
    np.testing.assert_allclose(log_density[swept], stats.poisson.logpmf(counts[swept], rate[swept]), rtol=1e-6)


def test_a_stray_intensity_of_every_frame_is_a_few_lines(tmp_path, crystal, data):
    lines = """with numpyro.plate(data.frames, data.plan.frames):
            stray = numpyro.sample(f"stray{data.suffix}", dist.Exponential(0.1))
        calculated = calculated + stray[data.experiment.frame_index]
"""
    found = run(copied(tmp_path, CALCULATED, f"{CALCULATED}        {lines}"), crystal, data)
    assert found["stray"]["value"].shape == (data.plan.frames,)
    scaled = found["scale"]["value"][data.experiment.frame_index] * found["simulated"]["value"]
    added = np.asarray(found["calculated"]["value"] - scaled - found["calculated_background"]["value"])
    np.testing.assert_allclose(added, found["stray"]["value"][data.experiment.frame_index], rtol=1e-6)


def test_the_background_is_a_part_of_sigma_and_belongs_to_what_is_expected(crystal, data):
    found = run(pendel.load_model("robust"), crystal, data)
    background, sigma = np.asarray(found["calculated_background"]["value"]), np.asarray(data.experiment.sigma)
    np.testing.assert_allclose(background, found["background"]["value"] * sigma)
    diffracted = found["scale"]["value"][data.experiment.frame_index] * found["simulated"]["value"]
    np.testing.assert_allclose(found["calculated"]["value"], diffracted + background)
    errors = found["intensity"]["fn"]
    np.testing.assert_allclose(errors.loc, diffracted + background)
    own, relative = found["a"]["value"] * sigma, found["b"]["value"] * diffracted
    np.testing.assert_allclose(errors.scale, np.hypot(own, relative))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_is_its_density_at_its_sites(name, data):
    sites = handlers.trace(handlers.seed(sample_thickness, jax.random.key(2))).get_trace(data, name)
    family = FAMILIES[name]
    names = [f"log_{p.name}" if isinstance(p, Curve) else p.name for p in family.parameters]
    nodes, weights = family.density(*(sites[site]["value"] for site in ("log_thickness", *names)))
    np.testing.assert_allclose(np.sum(weights, axis=1), 1.0)
    np.testing.assert_allclose(sites["thickness"]["value"], np.sum(weights * nodes, axis=1))
    curves = {f"log_{p.name}" for p in family.parameters if isinstance(p, Curve)} | {"log_thickness"}
    assert {k for k, s in sites.items() if s.get("infer", {}).get("plate") == "frames"} == curves


def test_mean_by_volume_and_thin_share_of_a_taper(data):
    """t = T x^k with x uniform: T (1 + k) / (1 + 2 k), and x below (1/10)^(1/k) or (50 Å / T)^(1/k)."""
    frames = data.plan.frames
    fixed = {"log_thickness": jnp.full(frames, jnp.log(600.0)), "log_taper": jnp.full(frames, jnp.log(2.0))}
    model = handlers.substitute(handlers.seed(sample_thickness, jax.random.key(2)), data=fixed)
    sites = handlers.trace(model).get_trace(data, "taper")
    np.testing.assert_allclose(sites["thickness_by_volume"]["value"], 600 * 3 / 5, rtol=1e-3)
    np.testing.assert_allclose(sites["thin_share"]["value"], 0.1**0.5, atol=0.08)  # twelve nodes


def test_a_family_of_ones_own_is_one_record(crystal, data):
    width = Curve(name="width", mean=0.2, spread=Spread(0.3, in_map=0.1), jump=Spread(0.1, in_map=0.05))
    own = Family(name="own", density=lognormal, parameters=(width,), expression="F(tau) = ?")
    model = with_options(pendel.load_model("robust"), thickness=own)
    sites = run(model, crystal, data)
    assert {"log_width", "log_width_mean", "width_spread", "width_jump"} <= set(sites)
    assert sites["thickness_width"]["value"].shape == (data.plan.frames,)
    assert thickness_facts(model_options(model)["thickness"])["thickness_expression"] == "F(tau) = ?"


def test_thickness_may_be_a_function(data):
    def slab(data):
        return single(jnp.full(data.plan.frames, jnp.log(500.0)))

    def frames():
        options = {"scale_spread": Spread(0.3, in_map=0.1), "tilt_spread": Spread(0.1, in_map=0.1)}
        return sample_frames(data, slab, log_scale=2.0, **options)

    scale, illumination = handlers.seed(frames, jax.random.key(0))()
    np.testing.assert_allclose(illumination.thickness, 500.0)
    assert scale.shape == (data.plan.frames,)


def test_facts_and_starts_come_from_the_families():
    assert thickness_facts("cylinder") == {
        "thickness_shape": "cylinder",
        "thickness_expression": FAMILIES["cylinder"].expression,
        "thickness_symbols": [],
    }
    assert [symbol["site"] for symbol in thickness_facts("step")["thickness_symbols"]] == [
        "log_taper_mean",
        "step_height",
    ]
    assert thickness_facts(None) == {"thickness_shape": None}
    assert thickness_facts("of a user") == {"thickness_shape": "of a user"}
    assert further_starts() == {"log_odds": -2.0}
    assert TAPER.start is None  # the scan finds it


def test_an_unknown_family_is_refused():
    with pytest.raises(pendel.InputError, match="taper, step, single, wedge, lens, cylinder"):
        find_family("cone")


def test_options_of_a_model():
    robust = pendel.load_model("robust")
    own = {
        "thickness": "taper",
        "errors": "shared",
        "absorption": "auto",
        "mosaicity": "auto",
        "clouds": "shifted",
        "contraction": "on",
        "reflection_error": "auto",
    }
    assert model_options(robust) == own
    assert model_options(with_options(robust, thickness="lens")) == own | {"thickness": "lens"}
    assert with_options(robust, thickness=None) is robust
    with pytest.raises(pendel.InputError, match=r"--colour red is given.*this one has thickness, errors"):
        with_options(robust, colour="red")
    with pytest.raises(pendel.InputError, match="this one has no options"):
        with_options(pendel.load_model("neural_thickness"), mask=1)


def test_names_of_a_data_set_follow_from_its_number(data):
    second = dataclasses.replace(data, number=1)
    assert (data.suffix, data.frames, data.name) == ("", "frames", data.experiment.name)
    assert (second.suffix, second.frames) == ("_2", "frames_2")
    again = jax.tree.map(lambda leaf: leaf, second)
    assert (again.number, again.plan.settings) == (1, data.plan.settings)
    numbered = pendel.data_sets([data.experiment] * 3, [data.plan] * 3)
    assert [one.suffix for one in numbered] == ["", "_2", "_3"]


def test_a_contraction_of_one_is_the_free_atom_and_another_changes_intensities(crystal, data):
    contracted = pendel.load_model("robust")
    off = with_options(contracted, contraction="off")
    draw = run(contracted, crystal, data)
    values = {k: s["value"] for k, s in draw.items() if s["type"] == "sample" and not s["is_observed"]}
    assert "contraction" not in run(off, crystal, data)

    def calculated(model, **changes):
        model = handlers.substitute(handlers.seed(model, 0), data=values | changes)
        return np.asarray(handlers.trace(model).get_trace(crystal, (data,))["calculated"]["value"])

    free = calculated(off)
    np.testing.assert_allclose(calculated(contracted, contraction=1.0), free, rtol=2e-5, atol=1e-6 * free.max())
    step = calculated(contracted, contraction=1.02) - free
    assert np.max(np.abs(step)) > 1e-3 * free.max()
    with pytest.raises(pendel.InputError, match="'on' or 'off'"):
        run(with_options(contracted, contraction=0.1), crystal, data)
