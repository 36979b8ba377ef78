"""Sites put right by the space group: onto the symmetry element that the file states, and each atom listed once."""

from dataclasses import replace

import numpy as np
from jaxtyping import Float

from pendel.base import Array, listed
from pendel.crystal.cell import Cell, direct_matrix
from pendel.crystal.checks import FULL_OCCUPANCY
from pendel.crystal.neighbours import close_pairs
from pendel.crystal.symmetry import images, lattice_distance, stabiliser, symmetrise_position
from pendel.crystal.tabulated import operation
from pendel.files.contents import Site
from pendel.files.spacegroup import SpaceGroup

LARGEST_MOVE = 0.3  # Å onto a stated symmetry element
SAME_ATOM = 0.1  # Å between an atom and a second row for it


def settled_sites(sites: list[Site], group: SpaceGroup, cell: Cell, notes: list[str]) -> list[Site]:
    """The sites on the symmetry elements of the stated order, without rows that repeat an atom; notes are added."""
    direct = direct_matrix(cell)
    settled = [_on_stated_element(site, group, direct, notes) for site in sites]
    return _without_copies(settled, group, direct, notes)


def _on_stated_element(site: Site, group: SpaceGroup, direct: Float[Array, "3 3"], notes: list[str]) -> Site:
    """The site moved by at most 0.3 Å so that as many operations keep it as its order or its multiplicity says."""
    operations = len(group.rotations)
    order, multiplicity = site.symmetry
    if not order and multiplicity and operations % multiplicity == 0:
        order = operations // multiplicity
    if not 1 < order <= operations:
        return site
    copies = images(site.fract, group.rotations, group.translations)
    reach = np.sort(lattice_distance(copies - site.fract, direct))[order - 1]
    if reach > 2 * LARGEST_MOVE or stabiliser(site.fract, group.rotations, group.translations, direct).sum() >= order:
        return site
    position, _ = symmetrise_position(site.fract, group.rotations, group.translations, direct, 1.01 * reach)
    move = float(np.linalg.norm(direct @ (position - site.fract)))
    if stabiliser(position, group.rotations, group.translations, direct).sum() != order or move > LARGEST_MOVE:
        return site
    notes.append(f"{site.label} moved by {move:.3f} Å onto the symmetry element of order {order} that the file states")
    return replace(site, fract=position)


def _without_copies(sites: list[Site], group: SpaceGroup, direct: Float[Array, "3 3"], notes: list[str]) -> list[Site]:
    """Only the first of rows for one atom: same element, less than 0.1 Å from an image of the first, both full."""
    fract = np.array([site.fract for site in sites]).reshape(-1, 3)
    copies: dict[int, str] = {}
    for number, (rotation, translation) in enumerate(zip(group.rotations, group.translations, strict=True)):
        if not len(sites):
            break
        pairs = close_pairs(fract @ rotation.T + translation, fract, direct, SAME_ATOM)
        for first, other in np.stack(pairs, axis=1).tolist():
            site, copy = sites[first], sites[other]
            is_alternative = site.occupancy + copy.occupancy <= FULL_OCCUPANCY
            if first >= other or site.element != copy.element or is_alternative or {first, other} & set(copies):
                continue
            operator = operation(np.asarray(group.rotations)[number], np.asarray(group.translations)[number]).triplet()
            copies[other] = f"{copy.label} ({site.label} at {operator})"
    if copies:
        notes.append(f"rows that repeat an atom under a symmetry operation are left out: {listed(copies.values())}")
    return [site for row, site in enumerate(sites) if row not in copies]
