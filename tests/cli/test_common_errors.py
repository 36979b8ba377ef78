"""A whole run whose model has errors common to equivalents: files, R factors of other rows, residuals, resumption."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

import pendel
from pendel.datasets import example
from pendel.folder.reader import read_run_files
from pendel.infer.guide.svi import SviTuning
from pendel.report.page import write_page
from pendel.run.tuning import Tuning

# Kinematic scattering: the whole flow in seconds.
MODEL = """
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from pendel.crystal.parameters import displaced
from pendel.model import Spread, gaussian, observe, sample_reflection_errors

def model(crystal, datasets, *, intensities=None, mask=None, reflection_error="auto"):
    shift = numpyro.sample("displacement", dist.Normal(0, 0.05).expand([len(crystal.position_basis)]).to_event(1))
    fract = numpyro.deterministic("fract", displaced(crystal, shift))
    numpyro.deterministic("U_aniso", jnp.asarray(crystal.u_aniso))
    (data,) = datasets
    (common,) = sample_reflection_errors(datasets, reflection_error, Spread(0.5, in_map=0.1, integrated=True))
    experiment = data.experiment
    with numpyro.plate("frames", data.plan.frames):
        log_scale = numpyro.sample("log_scale", dist.Normal(5.0, 3.0))
        tilt = numpyro.sample("tilt", dist.Normal(0, 0.1).expand([2]).to_event(1))
        thickness = numpyro.sample("log_thickness", dist.Normal(6.5, 0.3))
    numpyro.deterministic("thickness", jnp.exp(thickness))
    phase = jnp.sum(jnp.cos(2 * jnp.pi * jnp.asarray(experiment.hkl) @ fract.T), axis=1)
    calculated = jnp.exp(log_scale + tilt.sum(1))[experiment.frame_index] * phase**2
    scatter = gaussian(common(calculated), experiment.sigma, b=0.3)
    observe(data, calculated, scatter, common=common, intensities=intensities, mask=mask)
"""
SMALL = {"frames": "::4", "g_max": 0.9, "sg_max": 0.004, "tilts": 5, "holdout": 0.1, "reflection_error": "on"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A maximum, then a guide in the same folder; R factors of the rule klar are of rows without numbers."""
    path = tmp_path_factory.mktemp("common")
    (path / "model.py").write_text(MODEL)
    files, tuning = example(), Tuning(svi=SviTuning(steps=10, cycles=(1, 1)))
    for infer in ("map", "svi"):
        settings = pendel.Settings(model=str(path / "model.py"), infer=infer, **SMALL)
        pendel.refine(files.structure, [files.data], path / "run", settings, tuning=tuning)
    return path / "run"


def test_every_reflection_error_says_of_which_reflection_it_is(folder):
    run = read_run_files(folder)
    errors = run.tree["posterior"]["reflection_error"]
    assert errors.dims == ("chain", "draw", "reflection")
    measured = set(run.data[0].hkl)
    assert set(errors["reflection"].values) <= measured
    with (folder / "parameters.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["parameter"] == "reflection_error"]
    assert [row["label"].lstrip("'") for row in rows] == list(errors["reflection"].values)


def test_parameters_are_counted_without_them(folder):
    summary = json.loads((folder / "summary.json").read_text())
    layout = {name: x.shape[2:] for name, x in read_run_files(folder).tree["posterior"].data_vars.items()}
    sites = ("displacement", "log_scale", "tilt", "log_thickness")
    assert summary["n_parameters"] == sum(int(np.prod(layout[name])) for name in sites)
    assert "reflection_spread" in summary["scalars"]
    assert summary["r_obs_mean_klar"] > 0


def test_residuals_are_in_units_of_both_errors(folder):
    """z^2 = (I_obs - I_calc)^2 / (sigma^2 + (0.3 J)^2 + (spread I_calc)^2), means over the draws."""
    run = read_run_files(folder)
    with (folder / "reflections.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    column = {name: np.array([float(row[name]) for row in rows]) for name in ("i_obs", "sigma", "i_calc_mean", "z")}
    calculated = run.data[0].calculated  # at some of the draws
    draws = run.tree["posterior_predictive"]["draw"].values
    spread = run.tree["posterior"]["reflection_spread"].values[0][draws]
    error = run.tree["posterior"]["reflection_error"].values[0][draws]
    names = list(run.tree["posterior"]["reflection"].values)
    crystal = pendel.read_crystal(example().structure)
    rows_of = pendel.thin(pendel.select(pendel.read_pets(example().data)), slice(0, None, 4))
    (numbered,) = pendel.with_equivalents(crystal, [rows_of])
    assert numbered.unique == len(names)
    known = np.concatenate([error, np.zeros((len(error), 1))], axis=1)[:, numbered.reflection]
    has = (numbered.reflection < numbered.unique).astype(float)
    variance = column["sigma"] ** 2 + np.mean((0.3 * calculated * np.exp(known)) ** 2, axis=0)
    variance += np.mean((spread[:, None] * has * calculated) ** 2, axis=0)
    expected = (column["i_obs"] - column["i_calc_mean"]) / np.sqrt(variance)
    np.testing.assert_allclose(column["z"], expected, rtol=1e-4, atol=1e-4)


def test_the_report_sums_them_up(folder):
    page = write_page(folder).read_text(encoding="utf-8")
    assert "reflection_error" in page
    assert page.count("reflection_error") < 10
