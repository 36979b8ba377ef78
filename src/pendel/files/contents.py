"""What a structure file holds, before it is checked: the same for every format."""

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float

from pendel.base import Array
from pendel.crystal.cell import Cell
from pendel.crystal.restraints import Restraint
from pendel.crystal.structure import Crystal
from pendel.files.spacegroup import SpaceGroup

type Found = tuple[tuple[Restraint, ...], list[str]]  # restraints, and notes on those that are left out


@dataclass(frozen=True)
class Site:
    """One row of the atom list."""

    label: str
    element: str
    fract: Float[Array, "3"]
    u_aniso: Float[Array, "3 3"]  # CIF U_ij, Å²
    occupancy: float
    isotropic: bool
    part: int = 0  # disorder group, 0 for none


@dataclass(frozen=True)
class Contents:
    """Cell, symmetry, sites and notes of a file; `restraints` finds the file's restraints in the finished crystal."""

    cell: Cell
    group: SpaceGroup
    sites: list[Site]
    notes: list[str]
    restraints: Callable[[Crystal], Found]
