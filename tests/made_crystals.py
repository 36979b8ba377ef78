"""Crystals that tests of several folders make from a few numbers."""

from dataclasses import fields, replace

import gemmi
import numpy as np

from pendel.crystal.sites import Sites
from pendel.crystal.structure import Crystal, make_crystal, sites_of


def symmetry_of(symbol: str, *, backwards: bool = False) -> dict:
    """Space group and operations as arguments of `make_crystal`; backwards: the identity comes last."""
    operations = list(gemmi.find_spacegroup_by_name(symbol).operations())
    operations = operations[::-1] if backwards else operations
    return {
        "spacegroup": symbol,
        "rotations": np.array([operation.rot for operation in operations]) // gemmi.Op.DEN,
        "translations": np.array([operation.tran for operation in operations]) / gemmi.Op.DEN,
    }


def mixed_site_crystal() -> Crystal:
    """Sites in several cells, one on a centre of symmetry, two on one place, and the identity not first in the list."""
    return make_crystal(
        name="mixed site.cif",
        cell=(7.0, 8.0, 9.0, 90.0, 101.0, 90.0),
        **symmetry_of("P 1 21/c 1", backwards=True),
        sites=Sites(
            labels=("Al1", "Si1", "O1", "O2'", "Zn1", "O3"),
            elements=("Al", "Si", "O", "O", "Zn", "O"),
            fract=np.array(
                [(0.1, 0.2, 0.3)] * 2 + [(-0.7, 1.28, 0.34), (1.05, 0.05, -0.83), (0.5, 0.0, 1.5), (0.6, 0.2, 0.55)]
            ),
            u_aniso=np.tile(np.diag([0.01, 0.012, 0.014]), (6, 1, 1)),
            occupancy=np.array([0.4, 0.6, 1.0, 1.0, 1.0, 1.0]),
            isotropic=(False, False, False, True, False, False),
        ),
    )


def hydrogen_bonded_crystal() -> Crystal:
    """O1-H1...O2 along a in a cell of 9 Å, across its face: 0.97, 1.73 and 2.7 Å."""
    return make_crystal(
        name="hydrogen bond.cif",
        cell=(9.0, 9.0, 9.0, 90.0, 90.0, 90.0),
        **symmetry_of("P 1"),
        sites=Sites(
            labels=("O1", "H1", "O2"),
            elements=("O", "H", "O"),
            fract=np.array([(0.9, 0.3, 0.3), (0.9 + 0.97 / 9, 0.3, 0.3), (0.2, 0.3, 0.3)]),
            u_aniso=np.tile(0.02 * np.eye(3), (3, 1, 1)),
            occupancy=np.ones(3),
            isotropic=(False, True, False),
        ),
    )


def remade(crystal: Crystal, **changes) -> Crystal:
    """The crystal made anew by `make_crystal` with some arguments, or columns of its sites, replaced."""
    columns = {column.name: changes.pop(column.name) for column in fields(Sites) if column.name in changes}
    given = {name: getattr(crystal, name) for name in ("name", "cell", "spacegroup", "rotations", "translations")}
    return make_crystal(**given | changes, sites=replace(sites_of(crystal), **columns))
