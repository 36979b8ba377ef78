"""Maps on the grid of a unit cell: the grid that its symmetry needs, and files in the CCP4 format."""

import os

import gemmi
import numpy as np
from jaxtyping import Float, Int

from pendel.base import Array
from pendel.crystal.cell import Cell
from pendel.crystal.tabulated import operation
from pendel.files.whole_file import whole_file

_LABEL_COUNT, _FIRST_LABEL = 56, 57  # words of the CCP4 header
_LABEL_LENGTH = 80


def write_ccp4_map(
    path: str | os.PathLike[str],
    values: Float[np.ndarray, "nx ny nz"],
    *,
    cell: Cell,
    rotations: Int[Array, "ops 3 3"],
    translations: Float[Array, "ops 3"],
    label: str,
) -> None:
    """Write one unit cell of a map as a CCP4/MRC file, completely or not at all.

    Args:
        values: at the fractional coordinates (i/nx, j/ny, k/nz), stored in single precision.
        cell: [Å, degrees].
        rotations, translations: operations of the space group; a setting that is not tabulated is written as P 1.
        label: what the values are and their unit, one line of up to 80 characters.

    Raises InputError when the place cannot be written; an older file then stays.
    Source: Cheng et al. (2015), J. Struct. Biol. 192, 146 (the MRC2014 format).
    """
    grid = gemmi.FloatGrid(np.asfortranarray(values, dtype=np.float32))
    grid.set_unit_cell(gemmi.UnitCell(*cell))
    grid.spacegroup = _spacegroup(rotations, translations)
    ccp4 = gemmi.Ccp4Map()
    ccp4.grid = grid
    ccp4.update_ccp4_header(2, True)  # mode 2: 32-bit reals; True: with mean, extremes and rms
    ccp4.set_header_i32(_LABEL_COUNT, 1)
    ccp4.set_header_str(_FIRST_LABEL, label[:_LABEL_LENGTH].ljust(_LABEL_LENGTH))
    with whole_file(path) as temporary:
        ccp4.write_ccp4_map(str(temporary))


def map_grid(
    cell: Cell, rotations: Int[Array, "ops 3 3"], translations: Float[Array, "ops 3"], spacing: float
) -> tuple[int, int, int]:
    """Numbers of grid points along a, b, c, at most `spacing` [Å] apart, that every operation maps onto each other."""
    grid = gemmi.FloatGrid()
    grid.set_unit_cell(gemmi.UnitCell(*cell))
    grid.spacegroup = _spacegroup(rotations, translations)
    grid.set_size_from_spacing(spacing, gemmi.GridSizeRounding.Up)
    return grid.nu, grid.nv, grid.nw


def _spacegroup(rotations: Int[Array, "ops 3 3"], translations: Float[Array, "ops 3"]) -> gemmi.SpaceGroup:
    """The tabulated space group with these operations; P 1 where there is none."""
    pairs = zip(np.asarray(rotations), np.asarray(translations), strict=True)
    operations = gemmi.GroupOps([operation(*pair).wrap() for pair in pairs])
    return gemmi.find_spacegroup_by_ops(operations) or gemmi.SpaceGroup("P 1")
