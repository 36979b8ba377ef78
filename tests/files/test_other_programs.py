"""Written structures open in other programs with the same atoms in the cell."""

import numpy as np
import pytest

from made_crystals import symmetry_of
from pendel.crystal.sites import Sites
from pendel.crystal.structure import expanded_atoms, make_crystal
from pendel.files.structure_cif import write_structure_cif

CUBIC, HEXAGONAL = (14.0, 14.0, 14.0, 90.0, 90.0, 90.0), (10.0, 10.0, 15.0, 90.0, 90.0, 120.0)
MONOCLINIC, ORTHORHOMBIC = (7.0, 8.0, 9.0, 90.0, 101.0, 90.0), (7.0, 8.0, 9.0, 90.0, 90.0, 90.0)
SETTINGS = {
    "P -1": (7.0, 8.0, 9.0, 85.0, 101.0, 95.0),
    "P 1 21/c 1": MONOCLINIC,
    "P 1 21/n 1": MONOCLINIC,
    "I 1 2/a 1": MONOCLINIC,
    "P 1 1 21/b": (7.0, 8.0, 9.0, 90.0, 90.0, 101.0),
    "P b n m": ORTHORHOMBIC,
    "F d d 2": ORTHORHOMBIC,
    "P 4/n:1": (7.0, 7.0, 9.0, 90.0, 90.0, 90.0),
    "P 32 2 1": HEXAGONAL,
    "R -3 m:H": HEXAGONAL,
    "R -3 m:R": (9.0, 9.0, 9.0, 75.0, 75.0, 75.0),
    "F d -3 m:1": CUBIC,
    "F d -3 m:2": CUBIC,
}


def crystal_in(symbol):
    """An atom at a general place and one at the origin; isotropic."""
    sites = Sites(
        labels=("Si1", "O1"),
        elements=("Si", "O"),
        fract=np.array([(0.0, 0.0, 0.0), (0.44, 0.39, 0.03)]),
        u_aniso=np.tile(0.01 * np.eye(3), (2, 1, 1)),
        occupancy=np.ones(2),
        isotropic=(True, True),
    )
    return make_crystal(name="made.cif", cell=SETTINGS[symbol], **symmetry_of(symbol), sites=sites)


def sorted_places(fract, elements):
    """Elements with fractional coordinates in [0, 1), rounded so that they can be compared, in one order."""
    wrapped = np.round(np.asarray(fract) % 1.0, 4) % 1.0
    return sorted((element, *place) for element, place in zip(elements, wrapped.tolist(), strict=True))


@pytest.mark.filterwarnings("default")  # of ASE's own
@pytest.mark.parametrize("symbol", SETTINGS)
def test_ase_finds_the_same_atoms(tmp_path, symbol):
    reader = pytest.importorskip("ase.io", reason="ASE is not installed; it is in the extra `dev`")
    crystal = crystal_in(symbol)
    write_structure_cif(tmp_path / "made.cif", crystal)
    atoms = reader.read(tmp_path / "made.cif")
    fract, _, _ = expanded_atoms(crystal, crystal.fract, crystal.u_aniso, crystal.occupancy)
    elements = [crystal.elements[site] for site in crystal.atom_site]
    np.testing.assert_allclose(atoms.cell.cellpar(), crystal.cell, atol=1e-4)
    found = sorted_places(atoms.get_scaled_positions(), atoms.get_chemical_symbols())
    assert found == sorted_places(fract, elements)
