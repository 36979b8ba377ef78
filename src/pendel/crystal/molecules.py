"""Molecules of a crystal: the atoms of the cell moved by whole cells until those that are bonded are neighbours."""

import numpy as np
from jaxtyping import Bool, Float

from pendel.base import Array
from pendel.crystal.bonds import are_alternatives, depend_on_image, find_neighbours
from pendel.crystal.residuals import atom_positions
from pendel.crystal.structure import Crystal, direct_matrix, expanded_atoms


def whole_molecules(crystal: Crystal) -> tuple[Float[Array, "atoms 3"], Bool[np.ndarray, " atoms"]]:
    """Fractional positions of all atoms of the cell, and which of them belong to a molecule.

    A molecule has two atoms or more and an end; its atoms are moved together, its middle into the cell. Atoms of
    frameworks, chains without an end, and single atoms stay inside the cell.
    """
    atoms = np.asarray(expanded_atoms(crystal, crystal.fract, crystal.u_aniso, crystal.occupancy)[0])
    atoms = atoms - np.floor(atoms + 1e-9)
    bonds = _bonds(crystal, atoms)
    moved, is_molecule = atoms.copy(), np.zeros(len(atoms), dtype=bool)
    seen: set[int] = set()
    for start in range(len(atoms)):
        if start in seen:
            continue
        cells, is_finite = _connected(bonds, start)
        seen |= set(cells)
        if is_finite and len(cells) > 1:
            members = list(cells)
            together = atoms[members] + np.array(list(cells.values()))
            moved[members] = together - np.floor(together.mean(axis=0) + 1e-9)
            is_molecule[members] = True
    return moved, is_molecule


def never_together(crystal: Crystal) -> Bool[np.ndarray, "atoms atoms"]:
    """Whether two atoms of the cell are alternatives: of two disorder groups, or two images of a negative group."""
    site, image = np.asarray(crystal.atom_site), np.asarray(crystal.atom_op)
    images = depend_on_image(crystal, site[:, None], site) & (image[:, None] != image)
    return are_alternatives(crystal)[np.ix_(site, site)] | images


def _bonds(crystal: Crystal, atoms: Float[Array, "atoms 3"]) -> list[list[tuple[int, tuple[int, int, int]]]]:
    """For every atom of the cell those bonded to it, as their numbers and whole cells."""
    inverse = np.linalg.inv(direct_matrix(crystal.cell)).T
    around = [np.asarray(atom_positions(crystal, ends)) @ inverse if ends else [] for ends in find_neighbours(crystal)]
    found = []
    for site, operation, position in zip(crystal.atom_site, crystal.atom_op, atoms, strict=True):
        rotation = np.asarray(crystal.rotations)[operation]
        own = []
        for neighbour in around[site]:
            place = position + rotation @ (neighbour - np.asarray(crystal.fract)[site])
            cells = np.round(place - atoms)
            other = int(np.argmin(np.linalg.norm((place - atoms - cells) @ direct_matrix(crystal.cell).T, axis=1)))
            a, b, c = cells[other].astype(int).tolist()
            own.append((other, (a, b, c)))
        found.append(own)
    return found


def _connected(bonds: list[list[tuple[int, tuple[int, int, int]]]], start: int) -> tuple[dict[int, np.ndarray], bool]:
    """The atoms that are connected to one, with the whole cells they are moved by, and whether they come to an end."""
    cells, is_finite, waiting = {start: np.zeros(3, dtype=int)}, True, [start]
    while waiting:
        atom = waiting.pop()
        for other, shift in bonds[atom]:
            moved = cells[atom] + shift
            if other not in cells:
                cells[other] = moved
                waiting.append(other)
            elif np.any(cells[other] != moved):
                is_finite = False
    return cells, is_finite
