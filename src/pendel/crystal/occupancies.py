"""Which occupancies of disordered sites are one number: groups of atoms that are there together."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from pendel.base import Array
from pendel.crystal.structure import Crystal

SAME = 2e-3  # occupancies that differ by less, or that add up to 1 within this, are tied


@dataclass(frozen=True)
class FreeOccupancies:
    """Sites with a free occupancy: p of their parameter, or 1 - p where `complement`."""

    sites: Int[Array, " sites"]
    parameter: Int[Array, " sites"]  # number of the parameter of each
    complement: Bool[Array, " sites"]

    @property
    def leaders(self) -> Int[Array, " parameters"]:
        """The first site of every parameter; it is never a complement."""
        return self.sites[np.unique(self.parameter, return_index=True)[1]]


def free_occupancies(crystal: Crystal) -> FreeOccupancies:
    """The sites that start below 1, with one parameter for all that are there together.

    Sites that follow one free variable of a SHELX file have one parameter, and so have sites of one disorder group with
    the same occupancy. Sites with the opposite free variable, or of another group of the same assembly with an
    occupancy that adds up to 1, have its complement. Without a group or a variable a site has a parameter of its own.
    A negative group (disorder about a special position) without a free variable keeps its occupancy, because its
    alternative is its own image.
    """
    sites = [site for site in crystal.partly_occupied if not _is_fixed(crystal, site)]
    leaders: list[int] = []
    parameter, complement = [], []
    for site in sites:
        found = next(
            ((n, opposite) for n, first in enumerate(leaders) if (opposite := _tie(crystal, first, site)) is not None),
            None,
        )
        if found is None:
            found = len(leaders), False
            leaders.append(site)
        parameter.append(found[0])
        complement.append(found[1])
    numbers = np.array(parameter, dtype=int)
    return FreeOccupancies(np.array(sites, dtype=int), numbers, np.array(complement, dtype=bool))


def _is_fixed(crystal: Crystal, site: int) -> bool:
    return _part(crystal, site)[1].startswith("-") and not _variable(crystal, site)


def _variable(crystal: Crystal, site: int) -> int:
    return crystal.free_variable[site] if crystal.free_variable else 0


def _part(crystal: Crystal, site: int) -> tuple[str, str]:
    return crystal.disorder[site] if crystal.disorder else ("", "")


def _tie(crystal: Crystal, first: int, other: int) -> bool | None:
    """Whether the second occupancy is the complement of the first one; None where they are two numbers."""
    one, two = (float(crystal.occupancy[site]) for site in (first, other))
    same, opposite = abs(one - two) < SAME, abs(one + two - 1) < SAME
    variables = _variable(crystal, first), _variable(crystal, other)
    if any(variables):
        if variables[0] == variables[1]:
            return False if same else None
        return True if variables[0] == -variables[1] and opposite else None
    (assembly, group), (other_assembly, other_group) = _part(crystal, first), _part(crystal, other)
    if not group or not other_group or assembly != other_assembly:
        return None
    if group == other_group:
        return False if same else None
    return True if opposite else None
