"""What a crystal must satisfy before anything is computed from it; each failure says what was found and what to do."""

from collections import Counter

import numpy as np
from jaxtyping import Float, Int

from pendel.base import OVERFULL, Array, InputError, Note
from pendel.crystal import symmetry
from pendel.crystal.cell import Cell, direct_matrix
from pendel.crystal.neighbours import close_pairs
from pendel.crystal.sites import Sites

SHORTEST_DISTANCE = 0.5  # Å between two atoms that are not alternatives of each other
FULL_OCCUPANCY = 1.01  # rounding of published occupancies is forgiven
CELL_NOTE, CELL_LIMIT = 1e-3, 0.02  # relative misfit of the metric from the symmetry: reported, refused
SHORTEST_AXIS, LONGEST_AXIS = 0.5, 1e4  # Å; beyond them a number is no axis, and rounding spoils the matrices


def check_cell(name: str, cell: Cell) -> Float[Array, "3 3"]:
    """The direct matrix [Å] of a possible cell; raises InputError for lengths or angles that close no volume."""
    lengths, cosines = np.array(cell[:3]), np.cos(np.radians(cell[3:]))
    squared = 1 - np.sum(cosines**2) + 2 * np.prod(cosines)
    are_axes = np.all(np.isfinite(cell)) and np.all((lengths > SHORTEST_AXIS) & (lengths < LONGEST_AXIS))
    if not (are_axes and min(cell[3:]) > 0 and squared > 1e-6):
        raise InputError(
            found=f"impossible cell {' '.join(f'{value:g}' for value in cell)} in {name}",
            expected="three lengths in Å, 0.5 to 10000, and three angles in degrees that enclose a volume",
            do="correct _cell_length_ and _cell_angle_ in that file (zeros mean unknown)",
        )
    return direct_matrix(cell)


def check_operations(
    name: str, direct: Float[Array, "3 3"], rotations: Int[Array, "ops 3 3"], translations: Float[Array, "ops 3"]
) -> list[str]:
    """Notes on the operations; raises InputError when they form no group or contradict the cell."""
    if not len(rotations) or not symmetry.is_closed(rotations, translations):
        raise InputError(
            found=f"the {len(rotations)} symmetry operations in {name} are not a group",
            expected="the complete list of the space group, each operation once, with x,y,z and the centring",
            do="complete the list, or delete it and leave the space-group symbol",
        )
    metric = direct.T @ direct
    scale = np.sqrt(np.outer(np.diag(metric), np.diag(metric)))
    misfit = float(np.max(np.abs(rotations.swapaxes(-1, -2) @ metric @ rotations - metric) / scale))
    if misfit > CELL_LIMIT:
        raise InputError(
            found=f"the cell misses the symmetry of its space group by {100 * misfit:.1f} % in {name}",
            expected="lengths and angles of the crystal system",
            do="check cell, setting and axes against the symmetry operations",
        )
    note = f"the cell misses the symmetry of its space group by {100 * misfit:.2f} %; the nearest that fits is used"
    return [note] if misfit > CELL_NOTE else []


def check_sites(name: str, sites: Sites) -> None:
    """Raises InputError without sites, for repeated labels or an occupancy outside (0, 1]."""
    labels = sites.labels
    if not labels:
        raise InputError(found=f"no atoms in {name}", expected="at least one site", do="give a file with atoms")
    repeated = sorted(label for label, count in Counter(labels).items() if count > 1)
    if repeated:
        raise InputError(
            found=f"label {', '.join(repeated)} stands more than once in {name}",
            expected="one site per label",
            do="rename the sites",
        )
    for label, value in zip(labels, np.asarray(sites.occupancy), strict=True):
        if not 0 < value <= FULL_OCCUPANCY:
            raise InputError(
                found=f"occupancy {value:g} of {label} in {name}",
                expected="a number above 0 and at most 1",
                do="correct the occupancy or delete the site",
            )


def check_tensors(name: str, labels: tuple[str, ...], u_cart: Float[Array, "sites 3 3"]) -> None:
    """Raises InputError for a Cartesian displacement tensor [Å²] that is not positive definite."""
    finite = np.all(np.isfinite(u_cart), axis=(-2, -1))
    smallest = np.full(len(labels), np.nan)
    smallest[finite] = np.linalg.eigvalsh(u_cart[finite])[:, 0]
    for label, value in zip(labels, smallest, strict=True):
        if not value > 0:
            raise InputError(
                found=f"the displacement tensor of {label} in {name} has the smallest eigenvalue {value:.5f} Å²",
                expected="a positive definite tensor",
                do=f"correct U of {label}, e.g. give it U_iso 0.01",
            )


def check_distances(
    name: str,
    sites: Sites,
    atoms: Float[Array, "atoms 3"],
    atom_site: Int[Array, " atoms"],
    direct: Float[Array, "3 3"],
    fullest: float = FULL_OCCUPANCY,
) -> list[str]:
    """Notes on sites that share space; raises InputError for atoms closer than 0.5 Å.

    Such neighbours are accepted as alternatives (mixed or disordered sites) when their occupancies add up to at most 1.

    Args:
        fullest: largest sum that is no error.
    """
    labels, occupancy, told = sites.labels, np.asarray(sites.occupancy), set()
    notes: list[str] = []
    site_of, atom_of = close_pairs(sites.fract, atoms, direct, SHORTEST_DISTANCE)
    for site in np.flatnonzero(np.bincount(site_of, minlength=len(labels)) > 1):
        label, close = labels[site], np.asarray(atom_of[site_of == site])
        distance = symmetry.lattice_distance(atoms - sites.fract[site], direct)
        total = float(np.sum(occupancy[atom_site[close]]))
        others = close[np.argsort(distance[close], kind="stable")]
        other = next((atom for atom in others if atom_site[atom] != site), others[-1])
        partner = labels[atom_site[other]] if atom_site[other] != site else f"its own image by symmetry ({label})"
        if total > fullest:
            raise InputError(
                found=f"{label} and {partner} are {distance[other]:.3f} Å apart in {name}, total occupancy {total:.2f}",
                expected=f"at least {SHORTEST_DISTANCE} Å between atoms, or occupancies that add up to at most 1",
                do="delete the duplicate, or correct the position or the occupancies",
            )
        group = frozenset(labels[index] for index in atom_site[close])
        if group not in told:
            told.add(group)
            more, kind = (", more than one atom", OVERFULL) if total > FULL_OCCUPANCY else ("", "")
            text = f"{', '.join(sorted(group))} share one place (total occupancy {total:.2f}{more})"
            notes.append(Note(text, kind))
    return notes
