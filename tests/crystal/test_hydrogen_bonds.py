"""Hydrogen bonds and whole molecules of crystals whose geometry is known."""

import numpy as np
import pytest
from test_crystal import crystal, quartz

from pendel.crystal.bonds import bond_angles
from pendel.crystal.cell import direct_matrix
from pendel.crystal.hydrogen_bonds import find_hydrogen_bonds
from pendel.crystal.molecules import whole_molecules

CELL = (9.0, 10.0, 11.0, 90.0, 104.0, 90.0)


def made(points, spacegroup="P 1", **options):
    inverse = np.linalg.inv(direct_matrix(CELL))
    return crystal(spacegroup, CELL, {label: inverse @ np.array(x) for label, x in points.items()}, **options)


def hydroxyl(acceptor, **options):
    """C-O-H with the hydrogen along x, and an acceptor somewhere."""
    points = {"C1": (2.0, 3.4, 3.0), "O1": (3.0, 3.0, 3.0), "H1": (3.97, 3.0, 3.0), **acceptor}
    return made(points, **options)


@pytest.mark.parametrize(
    ("acceptor", "angle"),
    [
        ({"O2": (5.8, 3.0, 3.0)}, 180.0),
        ({"N2": (5.2, 4.23, 3.0)}, 135.0),
        ({"O2": (6.7, 3.0, 3.0)}, None),  # too far
        ({"O2": (3.6, 5.2, 3.0)}, None),  # too sharp an angle
        ({"C2": (6.2, 3.0, 3.0)}, None),  # no acceptor
    ],
)
def test_a_hydroxyl_group(acceptor, angle):
    structure = hydroxyl(acceptor)
    found = find_hydrogen_bonds(structure)
    if angle is None:
        assert found == ()
        return
    (one,) = found
    assert [structure.labels[atom.site] for atom in one.atoms] == ["O1", "H1", next(iter(acceptor))]
    assert bond_angles(structure, found, np.asarray(structure.fract))[0] == pytest.approx(angle, abs=0.1)


def test_alternatives_make_no_hydrogen_bond():
    groups = (("A", "1"),) * 3 + (("A", "2"),)
    together = hydroxyl({"O2": (5.8, 3.0, 3.0)}, occupancy=[0.5] * 4, disorder=(("A", "1"),) * 4)
    apart = hydroxyl({"O2": (5.8, 3.0, 3.0)}, occupancy=[0.5] * 4, disorder=groups)
    assert len(find_hydrogen_bonds(together)) == 1
    assert find_hydrogen_bonds(apart) == ()


def test_hydrogen_on_carbon_is_no_donor():
    assert find_hydrogen_bonds(made({"C1": (3, 3, 3), "H1": (4.09, 3, 3), "O2": (6.3, 3, 3)})) == ()


@pytest.mark.parametrize("spacegroup", ["P 1", "P 1 21/c 1", "C 1 2 1"])
def test_molecules_are_whole(spacegroup):
    """A chain across a face of the cell: bonded atoms of a molecule are neighbours, its middle is in the cell."""
    points = {"C1": (-0.6, 2.2, 2.7), "O1": (0.6, 2.7, 2.7), "C2": (1.4, 3.7, 2.2), "O9": (2.0, 8.9, 4.6)}
    structure = made(points, spacegroup)
    positions, is_molecule = whole_molecules(structure)
    site, operation = np.asarray(structure.atom_site), np.asarray(structure.atom_op)
    assert np.array_equal(is_molecule, site != 3)
    assert np.all((positions[site == 3] > -1e-6) & (positions[site == 3] < 1))
    for number in range(len(structure.rotations)):
        chain = positions[(operation == number) & (site != 3)]
        lengths = np.linalg.norm(np.diff(chain, axis=0) @ direct_matrix(CELL).T, axis=1)
        assert np.allclose(lengths, [1.3, 1.3748], atol=1e-3)
        assert np.all((chain.mean(axis=0) > -1e-6) & (chain.mean(axis=0) < 1))


def test_frameworks_and_chains_stay_in_the_cell():
    positions, is_molecule = whole_molecules(quartz())
    assert not is_molecule.any()
    assert np.all((positions > -1e-6) & (positions < 1))
    endless = made({f"C{n}": (1.5 * n, 1.0, 1.0) for n in range(6)})  # bonded to its own image along a
    assert not whole_molecules(endless)[1].any()
