"""`pendel map`: from a run folder to a map that shows what the structure lacks."""

import json
import shutil
from pathlib import Path

import gemmi
import numpy as np
import pytest
from typer.testing import CliRunner

import pendel
from pendel.cli.main import app
from pendel.crystal.structure import direct_matrix
from pendel.crystal.symmetry import images, lattice_distance
from pendel.datasets import example
from pendel.maps.run_map import map_run
from pendel.simulate.forward import recorded_calls


def test_calls_of_the_simulator_are_recorded_inside_the_block_only():
    crystal = pendel.read_crystal(example().structure)
    experiment = pendel.thin(pendel.select(pendel.read_pets(example().data)), slice(0, None, 10))
    plan = pendel.make_plan(crystal, experiment, g_max=0.8, sg_max=0.003, tilts=3, thickness_max=300.0)
    state = {"tilt": np.zeros((plan.frames, 2)), "thickness": np.full((plan.frames, 1), 200.0)}
    state["weights"] = np.ones((plan.frames, 1))
    with recorded_calls() as calls:
        pendel.simulate_intensities(crystal, plan, **state)
    pendel.simulate_intensities(crystal, plan, **state)
    assert len(calls) == 1
    assert calls[0].crystal is crystal
    np.testing.assert_array_equal(calls[0].thickness, state["thickness"])


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
