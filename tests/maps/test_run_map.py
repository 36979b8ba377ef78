"""`pendel map`: from a run folder to a map that shows what the structure lacks."""

import dataclasses
import json
import shutil
from pathlib import Path

import gemmi
import jax
import numpy as np
import pytest
from numpyro import handlers
from typer.testing import CliRunner

import pendel
from pendel.cli.main import app
from pendel.crystal.structure import direct_matrix
from pendel.crystal.symmetry import images, lattice_distance
from pendel.datasets import example
from pendel.folder.run_folder import claim_folder, run_key
from pendel.maps.run_map import _fitted, map_run, simulator_calls
from pendel.model.load import model_file
from pendel.run.fitting import Chosen
from pendel.run.inputs import read_problem
from pendel.run.plans import THICKNESS_ROOM, final_plans
from pendel.run.stages import keys_of_stages


@pytest.fixture(scope="module")
def crystal():
    return pendel.read_crystal(example().structure)


@pytest.fixture(scope="module")
def twice(crystal):
    """Two data sets of a few frames."""
    rows = pendel.select(pendel.read_pets(example().data))
    experiments = [pendel.thin(rows, slice(first, None, 10)) for first in (0, 3)]
    plans = [pendel.make_plan(crystal, one, g_max=0.8, sg_max=0.003, tilts=3) for one in experiments]
    return pendel.data_sets(experiments, plans)


def test_a_map_starts_at_what_the_model_hands_to_the_simulator(crystal, twice):
    model = pendel.load_model("dynamical")
    sites = handlers.trace(handlers.seed(model, jax.random.key(3))).get_trace(crystal, twice)
    values = {k: s["value"] for k, s in sites.items() if s["type"] == "sample" and not k.startswith("intensity")}
    structure, illuminations, derived = simulator_calls(model, crystal, twice, values)
    np.testing.assert_array_equal(structure.fract, sites["fract"]["value"])
    for data, illumination in zip(twice, illuminations, strict=True):
        intensity = derived[f"calculated{data.suffix}"]
        np.testing.assert_array_equal(illumination.tilt, values[f"tilt{data.suffix}"])
        np.testing.assert_array_equal(intensity, sites[f"calculated{data.suffix}"]["value"])
        alone = pendel.simulate_intensities(structure, data.plan, illumination)
        scale = np.exp(values[f"log_scale{data.suffix}"])[data.experiment.frame_index]
        np.testing.assert_allclose(scale * alone, intensity, rtol=1e-5, atol=1e-6 * np.max(intensity))


def test_a_model_without_dynamical_diffraction_has_no_map(crystal, twice):
    with pytest.raises(pendel.InputError, match="calls simulate_intensities 0 times for 2 data sets"):
        simulator_calls(pendel.load_model("kinematic"), crystal, twice, {})


def test_plans_of_a_map_are_those_of_its_maximum(tmp_path):
    """The maximum of an smc run has the beams and tilts of every other run, and so has the map made from it."""
    structure, data = example().structure, example().data
    inputs = {"structure": structure, "data": data, "model": model_file("dynamical")}
    small = {"frames": "::10", "g_max": 0.8, "sg_max": 0.003, "tilts": 5, "model": "dynamical"}
    for infer in ("map", "smc"):
        settings = pendel.Settings(infer=infer, **small)
        problem = read_problem(structure, [data], settings)
        frames = len(problem.experiments[0].frame_id)
        basins = [{"log_thickness": np.full(frames, np.log(t)), "tilt": np.zeros((frames, 2))} for t in (300.0, 900.0)]
        start = Chosen(values=basins[0], basins=np.zeros((2, 2)), others=(basins[1],))
        key = run_key(inputs, dataclasses.asdict(settings))
        keys = keys_of_stages(key, settings, coarse=False)
        folder = claim_folder(tmp_path / infer, key, force=False, seed=0, defaults={}).with_keys(keys)
        folder.save_stage("start", start, seconds=0.0)
        folder.save_stage("map", {"values": {"tilt": np.zeros((frames, 2))}}, seconds=0.0)
        _, model, plans, _ = _fitted(folder)
        assert plans[0].settings == final_plans(problem, settings, model, start.values)[0].settings
        assert plans[0].settings.thickness_max == pytest.approx(THICKNESS_ROOM * 300.0)


def test_a_folder_without_a_maximum_is_refused(tmp_path):
    with pytest.raises(pendel.InputError, match=r"has no finished maximum.*pendel refine"):
        map_run(tmp_path)


@pytest.fixture(scope="module")
def lacking(tmp_path_factory) -> Path:
    """A finished run of quartz without its oxygen."""
    folder = tmp_path_factory.mktemp("map")
    lines = example().structure.read_text().splitlines()
    (folder / "lacking.cif").write_text("\n".join(line for line in lines if not line.startswith("O1")) + "\n")
    settings = pendel.Settings(model="dynamical", infer="map", g_max=1.6, sg_max=0.006, tilts=24)
    pendel.refine(folder / "lacking.cif", [example().data], folder / "run", settings)
    return folder / "run"


@pytest.mark.slow
def test_the_map_of_a_run_shows_the_atom_it_lacks(lacking):
    result = CliRunner().invoke(app, ["map", str(lacking)], catch_exceptions=False)
    assert result.exit_code == 0
    found = json.loads((lacking / "difference.json").read_text())
    assert found["misfit_after"] < found["misfit_before"]
    grid = gemmi.read_ccp4_map(str(lacking / "difference.ccp4"), setup=True).grid
    assert np.asarray(grid.array).max() == pytest.approx(found["peaks"][0]["potential"], rel=0.1)
    written = gemmi.cif.read(str(lacking / "refined.cif")).sole_block().find_value("_refine_diff.potential_max")
    assert float(written) == pytest.approx(np.asarray(grid.array).max() / 14.39965, rel=1e-3)
    whole = pendel.read_crystal(example().structure)
    oxygen = np.asarray(whole.fract)[list(whole.elements).index("O")]
    equivalent = np.asarray(images(oxygen, whole.rotations, whole.translations))
    distance = lattice_distance(equivalent - np.array(found["peaks"][0]["fract"]), direct_matrix(whole.cell))
    assert (
        np.min(distance) < 0.3
    )  # the start structure's O is itself 0.1 Å from the truth, the frames are bent to Si alone
    page = (lacking / "report.html").read_text(encoding="utf-8")
    assert "section 3 of 3 through the highest peak" in page
    assert 'href="#difference"' in page


@pytest.mark.slow
def test_inputs_that_have_changed_are_refused(lacking, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(lacking, copy)
    record = json.loads((copy / "run.json").read_text())
    record["inputs"]["structure"]["sha256"] = "0" * 64
    (copy / "run.json").write_text(json.dumps(record))
    with pytest.raises(pendel.InputError, match="run had another file as structure"):
        map_run(copy)
