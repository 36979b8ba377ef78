"""Hydrogen bonds D-H...A: which there are, by distances and angles, and their numbers."""

import numpy as np
from jaxtyping import Float

from pendel.base import Array
from pendel.crystal.bonds import (
    Angle,
    Bond,
    are_alternatives,
    atom_at,
    bond_angles,
    bond_lengths,
    contacts,
    find_neighbours,
    there_together,
)
from pendel.crystal.structure import Crystal, expanded_atoms

# Van der Waals radii [Å]. Source: Bondi (1964), J. Phys. Chem. 68, 441, table I.
RADII = {"N": 1.55, "O": 1.52, "F": 1.47, "S": 1.80, "Cl": 1.75, "Br": 1.85}
HYDROGEN_RADIUS = 1.20
DONORS = ("N", "O", "F", "S")
OVERLAP = 0.12  # Å by which H...A is shorter than the sum of the radii, the rule of PLATON
ENDS = {"DH": (0, 1), "HA": (1, 2), "DA": (0, 2)}  # places in D-H...A of the two atoms of each distance
SMALLEST_ANGLE = 110.0  # deg at H. Source: IUPAC definition, Arunan et al. (2011), Pure Appl. Chem. 83, 1637


def find_hydrogen_bonds(crystal: Crystal) -> tuple[Angle, ...]:
    """The hydrogen bonds of every hydrogen on N, O, F or S as angles D-H...A, the shortest H...A first."""
    atoms = np.asarray(expanded_atoms(crystal, crystal.fract, crystal.u_aniso, crystal.occupancy)[0])
    neighbours = find_neighbours(crystal)
    limits = np.array(
        [HYDROGEN_RADIUS + RADII.get(element, -HYDROGEN_RADIUS) - OVERLAP for element in crystal.elements]
    )
    apart = are_alternatives(crystal)
    found = []
    for site, centre in enumerate(np.asarray(crystal.fract)):
        bonded = [atom for atom in neighbours[site] if crystal.elements[atom.site] != "H"]
        if crystal.elements[site] != "H" or not bonded or crystal.elements[bonded[0].site] not in DONORS:
            continue
        hydrogen = atom_at(crystal, site, centre)
        sites, positions = contacts(crystal, atoms, centre, np.zeros(len(limits)), np.where(apart[site], 0.0, limits))
        together = there_together(crystal, site, sites, positions)
        ends = [
            atom_at(crystal, int(other), at) for other, at in zip(sites[together], positions[together], strict=True)
        ]
        found += [Angle((bonded[0], hydrogen, end)) for end in ends if end not in neighbours[site]]
    angles = bond_angles(crystal, tuple(found), np.asarray(crystal.fract))
    return tuple(angle for angle, value in zip(found, angles, strict=True) if value > SMALLEST_ANGLE)


def hydrogen_bond_numbers(
    crystal: Crystal, found: tuple[Angle, ...], fract: Float[Array, "*draws sites 3"]
) -> dict[str, Float[Array, "*draws bonds"]]:
    """Distances DH, HA and DA [Å] and the angle at H [deg] of hydrogen bonds, of one structure or of many draws."""
    pairs = {name: tuple(Bond((one.atoms[i], one.atoms[j]), 1) for one in found) for name, (i, j) in ENDS.items()}
    lengths = {name: bond_lengths(crystal, bonds, fract) for name, bonds in pairs.items()}
    return {**lengths, "angle": bond_angles(crystal, found, fract)}
