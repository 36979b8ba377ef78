"""The rigid-bond test: differences of displacements along bonds, against the formula and a rigid body."""

from dataclasses import replace

import numpy as np
import pytest
from test_crystal import crystal

from pendel.crystal.bonds import find_bonds
from pendel.crystal.cell import direct_matrix, u_cartesian, u_from_cartesian
from pendel.crystal.rigid_bonds import bonds_to_test, rigid_bond_differences

CELL = (9.0, 10.0, 11.0, 81.0, 95.0, 103.0)
DIRECT = np.asarray(direct_matrix(CELL))
CHAIN = {"C1": (1.0, 2.0, 3.0), "C2": (2.1, 2.9, 3.2), "O1": (3.0, 2.6, 4.0), "H1": (0.3, 2.7, 2.6)}


def chain(tensors):
    made = crystal("P 1", CELL, {name: np.linalg.solve(DIRECT, x) for name, x in CHAIN.items()})
    return replace(made, u_aniso=np.asarray(u_from_cartesian(np.array(tensors), CELL)), isotropic=(False,) * 4)


def rigid_body():
    """U = A L Aᵀ of a libration about the origin, and a shift of all atoms."""
    tensors = []
    for x, y, z in CHAIN.values():
        lever = np.array([[0, z, -y], [-z, 0, x], [y, -x, 0]])
        tensors.append(np.diag([0.02, 0.03, 0.04]) + lever @ np.diag([0.001, 0.002, 0.003]) @ lever.T)
    return tensors


def test_a_rigid_body_passes():
    structure = chain(rigid_body())
    bonds = bonds_to_test(structure)
    assert len(bonds) == 2  # without the hydrogen
    differences = rigid_bond_differences(structure, bonds, np.asarray(structure.fract), structure.u_aniso)
    assert np.allclose(differences, 0, atol=1e-12)


def test_differences_of_draws_are_those_along_the_bond():
    start = rigid_body()
    start[1] = start[1] + np.diag([0.01, 0.0, 0.02])
    structure = chain(start)
    draws = np.stack([structure.u_aniso, 2 * structure.u_aniso])
    fract = np.stack([structure.fract, structure.fract])
    found = rigid_bond_differences(structure, bonds_to_test(structure), fract, draws)
    positions = np.array(list(CHAIN.values()))
    for row, (a, b) in enumerate(((0, 1), (1, 2))):
        along = (positions[b] - positions[a]) / np.linalg.norm(positions[b] - positions[a])
        expected = along @ (start[a] - start[b]) @ along
        assert found[:, row] == pytest.approx([expected, 2 * expected], abs=1e-12)


def test_symmetry_images_are_turned():
    """A bond across a twofold axis joins equal atoms: the turned tensor has the same part along the bond."""
    made = crystal("P 1 2 1", (9.0, 10.0, 11.0, 90.0, 104.0, 90.0), {"C1": (0.08, 0.3, 0.0)})
    tensor = np.array([[0.03, 0.004, 0.006], [0.004, 0.05, -0.003], [0.006, -0.003, 0.04]])
    made = replace(made, u_aniso=np.asarray(u_from_cartesian(tensor[None], made.cell)), isotropic=(False,))
    (bond,) = find_bonds(made)
    assert bond.atoms[1].operation != 0
    assert rigid_bond_differences(made, (bond,), np.asarray(made.fract), made.u_aniso) == pytest.approx(0, abs=1e-12)
    assert np.allclose(u_cartesian(made.u_aniso, made.cell)[0], tensor)


def test_isotropic_atoms_and_metals_are_not_tested():
    structure = chain(rigid_body())
    assert len(bonds_to_test(replace(structure, isotropic=(True, False, False, False)))) == 1
    assert len(bonds_to_test(replace(structure, elements=("C", "C", "Fe", "H")))) == 1
