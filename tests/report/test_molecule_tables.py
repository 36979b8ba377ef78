"""Tables of the report for molecules: hydrogen bonds and restraints, as text."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np

import pendel
from pendel.folder.reader import RunFiles
from pendel.report.structure_tables import hydrogen_bond_rows, restraint_rows, rigid_bond_rows


def bond(tmp_path):
    """O-H...O along a, in a cell of 9 Å."""
    lines = [f"{name} {x / 9:.6f} 0 0 11 0.03\n" for name, x in {"O1 2": 0.0, "H1 1": 0.97, "O2 2": 2.7}.items()]
    path = tmp_path / "bond.res"
    path.write_text("CELL 0.0251 9 9 9 90 90 90\nLATT -1\nSFAC H O\n" + "".join(lines) + "END\n")
    return pendel.read_crystal(path)


def run_of(crystal, draws, tensors=None, **summary):
    arrays = {"fract": draws} if tensors is None else {"fract": draws, "U_aniso": tensors}
    tree = {"posterior": {name: SimpleNamespace(values=values[None]) for name, values in arrays.items()}}
    return RunFiles(path=Path(), record={}, summary=summary, tree=tree, crystal=crystal, data=(), difference=None)


def test_hydrogen_bonds_with_their_uncertainties(tmp_path):
    """Draws in which the acceptor moves by a known amount along the bond."""
    structure = bond(tmp_path)
    draws = np.tile(np.asarray(structure.fract), (200, 1, 1))
    steps = np.random.default_rng(3).normal(size=200)
    draws[:, 2, 0] += 0.03 / 9 * (steps - steps.mean()) / steps.std(ddof=1)
    (row,) = hydrogen_bond_rows(run_of(structure, draws))
    assert row == {"atoms": "O1–H1···O2", "DH": "0.970", "HA": "1.73(3)", "DA": "2.70(3)", "angle": "180.0"}


def test_restraints_with_target_and_posterior(tmp_path):
    structure = bond(tmp_path)
    draws = np.asarray(structure.fract)[None]
    distance = {"card": "DFIX", "atoms": "C1 O1", "target": 1.43, "at_least": True, "s": 0.02, "mean": 1.441}
    facts = [
        {**distance, "sd": 0.012, "misfit": 0.55, "spread": 0.6},
        {"card": "SIMU", "atoms": "C1 O1", "misfit": 0.1, "spread": 0.99},
    ]
    first, second = restraint_rows(run_of(structure, draws, restraints=facts))
    assert (first["target"], first["posterior"], first["decided"]) == ("≥ 1.43(2)", "1.441(12)", "both")
    assert (second["target"], second["posterior"], second["decided"]) == ("", "", "restraint")
    assert restraint_rows(run_of(structure, draws)) == []


def test_rigid_bonds_that_fail_are_told(tmp_path):
    """Only a difference that is both large and significant fails; hydrogen and isotropic atoms are not tested."""
    lines = ["CELL 0.0251 9 9 9 90 90 90", "LATT -1", "SFAC C H"]
    atoms = {"C1": 0.0, "C2": 1.5, "C3": 3.0, "C4": 4.5}
    lines += [f"{name} 1 {x / 9:.6f} 0 0 11 0.03 0.03 0.03 0 0 0" for name, x in atoms.items()]
    path = tmp_path / "chain.res"
    path.write_text("\n".join([*lines, "C5 1 0.6667 0 0 11 0.03", "H1 2 0 0.12 0 11 0.03", "END", ""]))
    structure = pendel.read_crystal(path)
    steps = np.random.default_rng(4).normal(size=400)
    steps = (steps - steps.mean()) / steps.std(ddof=1)
    tensors = np.tile(np.asarray(structure.u_aniso), (400, 1, 1, 1))
    tensors[:, 1, 0, 0] += 0.02 + 0.002 * steps  # from C1 significant, to C3 as well
    tensors[:, 2, 0, 0] += 0.014
    tensors[:, 3, 0, 0] += 0.03 + 0.006 * steps  # larger than 0.01 Å², but not than three uncertainties
    draws = np.tile(np.asarray(structure.fract), (400, 1, 1))
    rows = rigid_bond_rows(run_of(structure, draws, tensors))
    assert [(row["atoms"], row["difference"], row["verdict"]) for row in rows] == [
        ("C1 – C2", "-0.020(2)", "fails"),
        ("C2 – C3", "0.006(2)", ""),
        ("C3 – C4", "-0.016(6)", ""),
    ]
