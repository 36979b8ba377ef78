"""Which pairs of atoms SIMU and RIGU compare, and which atoms stand at the end of a chain."""

import itertools
from collections.abc import Sequence

import numpy as np

from pendel.crystal.atom import Atom
from pendel.crystal.bonds import find_neighbours
from pendel.crystal.cell import direct_matrix
from pendel.crystal.restraints import Pair
from pendel.crystal.structure import Crystal

type Neighbours = tuple[tuple[Atom, ...], ...]


def here(site: int) -> Atom:
    """The atom of a site as it stands in the list (the first operation of a crystal is the identity)."""
    return Atom(site, 0, (0, 0, 0))


def near_pairs(crystal: Crystal, sites: Sequence[int], largest: float) -> tuple[Pair, ...]:
    """Pairs of sites less than a distance [Å] apart, as they stand in the list; hydrogen is left out."""
    heavy = [site for site in dict.fromkeys(sites) if crystal.elements[site] != "H"]
    positions = np.asarray(crystal.fract) @ direct_matrix(crystal.cell).T
    close = [
        (first, second)
        for first, second in itertools.combinations(heavy, 2)
        if np.linalg.norm(positions[first] - positions[second]) < largest
    ]
    return tuple((here(first), here(second)) for first, second in close)


def bonded_pairs(crystal: Crystal, sites: Sequence[int]) -> tuple[tuple[Pair, ...], tuple[Pair, ...]]:
    """Pairs of sites that are bonded, and pairs that are both bonded to a third one; hydrogen is left out.

    Bonds between atoms as they stand in the list.
    """
    heavy = [site for site in dict.fromkeys(sites) if crystal.elements[site] != "H"]
    bonded = {site: {a.site for a in atoms if a == here(a.site)} for site, atoms in enumerate(find_neighbours(crystal))}
    direct, through = [], []
    for first, second in itertools.combinations(heavy, 2):
        if second in bonded[first]:
            direct.append((here(first), here(second)))
        elif any(crystal.elements[third] != "H" for third in bonded[first] & bonded[second]):
            through.append((here(first), here(second)))
    return tuple(direct), tuple(through)


def is_terminal(crystal: Crystal) -> tuple[bool, ...]:
    """Whether each site is bonded to no more than one atom other than hydrogen, symmetry images included."""
    return tuple(sum(crystal.elements[atom.site] != "H" for atom in atoms) <= 1 for atoms in find_neighbours(crystal))
