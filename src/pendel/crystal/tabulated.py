"""Operations as gemmi has them, the tabulated space group that consists of them, and the symmetry of a lattice."""

import gemmi
import numpy as np
from jaxtyping import Float, Int

from pendel.base import Array
from pendel.crystal.cell import Cell


def operation(rotation: Int[np.ndarray, "3 3"], translation: Float[np.ndarray, "3"]) -> gemmi.Op:
    """x' = R x + t as gemmi has it; translations are rounded to its twenty-fourths."""
    found = gemmi.Op()
    found.rot = (rotation * gemmi.Op.DEN).tolist()
    found.tran = np.rint(translation * gemmi.Op.DEN).astype(int).tolist()
    return found


def tabulated(rotations: Int[Array, "ops 3 3"], translations: Float[Array, "ops 3"]) -> gemmi.SpaceGroup | None:
    """The space group and setting with exactly these operations, None where gemmi tabulates none."""
    scaled = np.asarray(translations) * gemmi.Op.DEN
    if np.max(np.abs(scaled - np.rint(scaled))) > 1e-2:
        return None
    operations = [operation(*pair).wrap() for pair in zip(np.asarray(rotations), np.asarray(translations), strict=True)]
    return gemmi.find_spacegroup_by_ops(gemmi.GroupOps(operations))


def lattice_rotations(cell: Cell, tolerance_deg: float = 1.0) -> Int[Array, "ops 3 3"]:
    """Rotations, in fractional coordinates, that carry the lattice with these axes onto itself within a tolerance.

    Source: gemmi's `find_lattice_symmetry` (Le Page 1982, J. Appl. Cryst. 15, 255).
    """
    found = gemmi.find_lattice_symmetry(gemmi.UnitCell(*cell), "P", tolerance_deg)
    return np.array([operator.rot for operator in found.sym_ops]) // gemmi.Op.DEN
