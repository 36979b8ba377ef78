"""Sites put right by the space group: onto the symmetry element that the file states, and each atom listed once."""

from dataclasses import replace

import numpy as np
from jaxtyping import Float
from scipy.spatial import KDTree

from pendel.base import Array, listed
from pendel.crystal.cell import Cell, direct_matrix
from pendel.crystal.checks import FULL_OCCUPANCY
from pendel.crystal.symmetry import images, lattice_distance, stabiliser, symmetrise_position
from pendel.crystal.tabulated import operation
from pendel.files.cif_sites import Site
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
    if len(sites) < 2:
        return sites
    fract = np.array([site.fract for site in sites])
    reach = SAME_ATOM * np.linalg.norm(np.linalg.inv(direct), 2)
    tree = KDTree(_wrapped(fract), boxsize=1.0)
    operators = [
        operation(*pair) for pair in zip(np.asarray(group.rotations), np.asarray(group.translations), strict=True)
    ]
    copies: dict[int, str] = {}
    for first, site in enumerate(sites):
        if first in copies:
            continue
        positions = images(site.fract, group.rotations, group.translations)
        for number, near in enumerate(tree.query_ball_point(_wrapped(positions), min(reach, 0.49))):
            for other in near:
                if other <= first or other in copies or sites[other].element != site.element:
                    continue
                is_alternative = site.occupancy + sites[other].occupancy <= FULL_OCCUPANCY
                if not is_alternative and lattice_distance(fract[other] - positions[number], direct) < SAME_ATOM:
                    operator = operators[number].triplet()
                    copies[other] = f"{sites[other].label} ({site.label} at {operator})"
    if copies:
        notes.append(f"rows that repeat an atom under a symmetry operation are left out: {listed(copies.values())}")
    return [site for row, site in enumerate(sites) if row not in copies]


def _wrapped(fract: Float[Array, "points 3"]) -> Float[Array, "points 3"]:
    """Positions in 0 <= x < 1."""
    inside = np.mod(fract, 1.0)
    return np.where(inside >= 1.0, 0.0, inside)
