"""The report of a molecule from a SHELX file, with hydrogen that rides and restraints, from the run folder alone."""

import gemmi
import numpy as np
import pytest

import pendel
from pendel.crystal.cell import direct_matrix
from pendel.datasets import example
from pendel.folder.reader import read_run_files
from pendel.report.structure_tables import (
    coordinate_rows,
    ellipsoid_rows,
    hydrogen_bond_rows,
    restraint_rows,
    site_rows,
)

SETTINGS = {"model": "kinematic", "infer": "map", "frames": "::12", "g_max": 1.0, "sg_max": 0.004, "tilts": 5}
CELL = (4.913, 4.913, 5.405, 90.0, 90.0, 120.0)  # of the example's data, which are of something else
CARDS = "LATT -1\nSFAC C H O\nDFIX 1.43 0.02 C1 O1\nDFIX 1.43 0.00001 O1 C1\nSIMU 0.01 C1 O1\nFVAR 1.0\n"
ATOMS = {  # methanol, Å
    "C1 1": (0.0, 0.0, 0.0),
    "O1 3": (0.0, 0.0, 1.43),
    "H1 2": (0.92, 0.0, 1.74),
    "H1A 2": (-0.51, 0.89, -0.36),
    "H1B 2": (-0.51, -0.89, -0.36),
    "H1C 2": (1.03, 0.0, -0.36),
}


def molecule(path):
    inverse = np.linalg.inv(direct_matrix(CELL))
    lines = [f"{name} {' '.join(f'{x:.4f}' for x in inverse @ np.array(xyz))} 11 0.03" for name, xyz in ATOMS.items()]
    path.write_text(f"TITL methanol\nCELL 0.0251 {' '.join(map(str, CELL))}\n{CARDS}" + "\n".join(lines) + "\nEND\n")
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("molecule")
    pendel.refine(molecule(place / "molecule.res"), [example().data], place / "run", pendel.Settings(**SETTINGS))
    return place / "run"


def test_tables_of_a_molecule(folder):
    run = read_run_files(folder)
    rows = restraint_rows(run)
    assert [row["card"] for row in rows] == ["DFIX", "DFIX", "SIMU"]
    assert (rows[1]["atoms"], rows[1]["decided"]) == ("O1 C1", "restraint")
    value, _, su = rows[1]["posterior"].rstrip(")").partition("(")
    assert float(value) == pytest.approx(1.43, abs=0.005)  # a quarter of s: a fit ends 0.1 nats below its maximum
    assert int(su) > 0
    assert rows[2]["target"] == ""
    assert hydrogen_bond_rows(run) == []
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "<h3>Restraints</h3>" in page
    assert "Displacement ellipsoids" not in page
    assert ellipsoid_rows(run) == []
    numbers = coordinate_rows(run)
    assert {row["name"] for row in numbers} == {"x", "y", "z", "U_eq / Å²"}  # all sites are isotropic
    sites = site_rows(numbers)
    assert [row["site"] for row in sites] == list(run.crystal.labels)
    assert sites[1]["z"] == next(
        row["mean"] for row in numbers if (row["site"], row["name"]) == (sites[1]["site"], "z")
    )


def test_the_written_cif_keeps_what_was_known(folder):
    block = gemmi.cif.read(str(folder / "refined.cif")).sole_block()
    assert block.find_value("_refine_ls_hydrogen_treatment") == "constr"
    assert list(block.find_values("_restr_distance_target")) == ["1.43", "1.43"]
    again = pendel.read_crystal(folder / "refined.cif")
    assert [restraint.card for restraint in again.restraints] == ["DFIX", "DFIX", "SIMU"]


def test_a_finished_run_is_taken_from_its_folder(folder):
    """Groups and restraints come back from the checkpoint: the same numbers without a new fit."""
    before = (folder / "summary.json").read_text()
    pendel.refine(folder.parent / "molecule.res", [example().data], folder, pendel.Settings(**SETTINGS))
    assert (folder / "summary.json").read_text()[:400] == before[:400]
