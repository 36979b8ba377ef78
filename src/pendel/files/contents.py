"""What a structure file holds, before it is checked: the same for every format."""

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float

from pendel.base import Array
from pendel.crystal.cell import Cell
from pendel.crystal.restraints import Restraint
from pendel.crystal.structure import Crystal
from pendel.files.spacegroup import SpaceGroup

type Found = tuple[tuple[Restraint, ...], list[str]]  # restraints, and notes on what is left out or does not fit


@dataclass(frozen=True)
class Site:
    """One row of the atom list."""

    label: str
    element: str
    fract: Float[Array, "3"]
    u_aniso: Float[Array, "3 3"]  # CIF U_ij, Å²
    occupancy: float
    isotropic: bool
    disorder: tuple[str, str] = ("", "")  # assembly and group
    symmetry: tuple[int, int] = (0, 0)  # stated order and multiplicity of the site symmetry, 0 where not given
    free_variable: int = 0  # that the occupancy follows, its complement if negative, 0: none


@dataclass(frozen=True)
class Contents:
    """Cell, symmetry, sites and notes of a file; `finish` compares the finished crystal and finds its restraints."""

    cell: Cell
    group: SpaceGroup
    sites: list[Site]
    notes: list[str]
    finish: Callable[[Crystal], Found]
