"""Geometry of a structure: the bonds and angles that symmetry leaves different, and the axes of its ellipsoids.

Two atoms are bonded when they are between 0.5 Å and the sum of their covalent radii plus 0.4 Å apart. Two metals are
bonded only in a crystal of nothing but metals: their radii are so large that the rule would join the cations of most
oxides. Sites that cannot both be there (occupancies below one that add up to at most one) are alternatives, not bonded,
where they are closer than 0.7 of the sum of their radii; sites of different disorder groups are never bonded. Atoms of
a negative group, as SHELX files have them for disorder about a special position, are not bonded to images of a group.
Uncertainties come from posterior draws: every function takes coordinates of any number of draws at once.
"""

import itertools
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from pendel.base import Array, InputError
from pendel.crystal.atom import Atom as Atom
from pendel.crystal.cell import Cell, direct_matrix, reciprocal_matrix, u_cartesian
from pendel.crystal.checks import FULL_OCCUPANCY
from pendel.crystal.elements import are_metals, covalent_radii
from pendel.crystal.structure import Crystal, expanded_atoms

INCREMENT = 0.4  # Å beyond the sum of the radii that still counts as a bond
SHORTEST_BOND = 0.5  # Å; what is closer are alternatives of one atom
ALTERNATIVES = 0.7  # of the sum of the radii; below, partly occupied sites are alternatives
SAME_ATOM = 0.01  # Å


@dataclass(frozen=True)
class Bond:
    """A bond of an atom of the asymmetric unit; `multiplicity` bonds around that atom are equal by symmetry."""

    atoms: tuple[Atom, Atom]
    multiplicity: int


@dataclass(frozen=True)
class Angle:
    """The angle at the second of three atoms, which is one of the asymmetric unit."""

    atoms: tuple[Atom, Atom, Atom]


def find_bonds(crystal: Crystal) -> tuple[Bond, ...]:
    """One bond of each set of bonds that are equal by symmetry; by first site, then by length.

    The first site is never behind the second in the list of sites. Operations that fix the first atom, and those
    that exchange the two, make bonds equal.
    """
    bonds = []
    limits, shortest = _limits(crystal), _shortest(crystal)
    atoms = np.asarray(expanded_atoms(crystal, crystal.fract, crystal.u_aniso, crystal.occupancy)[0])
    for site, centre in enumerate(np.asarray(crystal.fract)):
        sites, positions = _bonded(crystal, atoms, site, shortest[site], limits[site])
        left = np.flatnonzero(sites >= site).tolist()
        while left:
            second, position = int(sites[left[0]]), positions[left[0]]
            equal = _onto(crystal, centre, position, site)
            if second == site:
                equal = np.concatenate([equal, _onto(crystal, position, centre, site)])
            alike = _distances(crystal, positions[:, None], equal).min(axis=1) < SAME_ATOM
            members = [row for row in left if sites[row] == second and alike[row]]
            ends = [atom_at(crystal, second, positions[row]) for row in members]
            first_end = min(ends, key=lambda atom: (atom.operation, atom.shift))
            bonds.append(Bond((atom_at(crystal, site, centre), first_end), len(members)))
            left = [row for row in left if row not in members]
    return tuple(bonds)


def find_angles(crystal: Crystal, bonds: tuple[Bond, ...]) -> tuple[Angle, ...]:
    """One angle of each set of equal angles between bonds that meet at a site, in the order of the sites.

    bonds: of `find_bonds`, all or some of them. Alternatives of one atom make no angle.
    """
    angles, shortest = [], _shortest(crystal)
    meeting: list[list[Bond]] = [[] for _ in crystal.labels]
    for bond in bonds:
        for site in {atom.site for atom in bond.atoms}:
            meeting[site].append(bond)
    for site, centre in enumerate(np.asarray(crystal.fract)):
        ends = _ends(crystal, meeting[site], site)
        vertex = atom_at(crystal, site, centre)
        turned = _turned(crystal, ends, centre, site)
        positions = _positions(crystal, ends, np.asarray(crystal.fract))
        sites = [end.site for end in ends]
        apart = _distances(crystal, positions[:, None], positions) > shortest[np.ix_(sites, sites)]
        apart &= _of_one_image(crystal, ends)
        seen: set[frozenset[int]] = set()
        for first, last in itertools.combinations(range(len(ends)), 2):
            if apart[first, last] and frozenset((first, last)) not in seen:
                angles.append(Angle((ends[first], vertex, ends[last])))
                seen |= {frozenset(pair) for pair in zip(turned[first], turned[last], strict=True)}
    return tuple(angles)


def find_neighbours(crystal: Crystal) -> tuple[tuple[Atom, ...], ...]:
    """The atoms that are bonded to each site, symmetry images among them, nearest first."""
    limits, shortest = _limits(crystal), _shortest(crystal)
    atoms = np.asarray(expanded_atoms(crystal, crystal.fract, crystal.u_aniso, crystal.occupancy)[0])
    found = []
    for site in range(len(crystal.labels)):
        sites, positions = _bonded(crystal, atoms, site, shortest[site], limits[site])
        found.append(tuple(atom_at(crystal, int(other), at) for other, at in zip(sites, positions, strict=True)))
    return tuple(found)


def bond_lengths(
    crystal: Crystal, bonds: tuple[Bond, ...], fract: Float[Array, "*draws sites 3"]
) -> Float[Array, "*draws bonds"]:
    """Length |A (x_2 - x_1)| [Å] of each bond at fractional coordinates of one structure or of many draws."""
    return np.linalg.norm(bond_vectors(crystal, bonds, fract), axis=-1)


def bond_vectors(
    crystal: Crystal, bonds: tuple[Bond, ...], fract: Float[Array, "*draws sites 3"]
) -> Float[Array, "*draws bonds 3"]:
    """Cartesian vector A (x_2 - x_1) [Å] of each bond at fractional coordinates of one structure or of many draws."""
    first, second = (_positions(crystal, [bond.atoms[end] for bond in bonds], fract) for end in (0, 1))
    return (second - first) @ direct_matrix(crystal.cell).T


def bond_angles(
    crystal: Crystal, angles: tuple[Angle, ...], fract: Float[Array, "*draws sites 3"]
) -> Float[Array, "*draws angles"]:
    """Each angle [degrees], atan2(|u x v|, u.v) of the vectors from its vertex: exact up to 180 degrees.

    fract: fractional coordinates of one structure or of many draws.
    """
    first, vertex, last = (_positions(crystal, [angle.atoms[end] for angle in angles], fract) for end in range(3))
    direct = direct_matrix(crystal.cell)
    u, v = (first - vertex) @ direct.T, (last - vertex) @ direct.T
    return np.degrees(np.arctan2(np.linalg.norm(np.cross(u, v), axis=-1), np.sum(u * v, axis=-1)))


def principal_axes(
    u_aniso: Float[Array, "*sites 3 3"], cell: Cell
) -> tuple[Float[Array, "*sites 3"], Float[Array, "*sites 3 3"]]:
    """Root-mean-square amplitudes [Å] along the axes of displacement ellipsoids, largest first, and the axes.

    U_cart e_k = a_k^2 e_k. Axis k is row k of the second array, a unit vector on Cartesian axes (x along a, y in the
    plane of a and b) whose largest component is positive.

    Args:
        u_aniso: CIF U_ij [Å²] of sites or of draws of sites.

    Raises InputError for a tensor that is not positive definite.
    """
    squares, vectors = np.linalg.eigh(np.asarray(u_cartesian(u_aniso, cell), dtype=float))
    if squares.size and not squares.min() > 0:
        raise InputError(
            found=f"a displacement tensor has the smallest eigenvalue {squares.min():.2g} Å²",
            expected="positive definite tensors",
            do="correct U of that site",
        )
    axes = np.swapaxes(vectors, -1, -2)[..., ::-1, :]
    largest = np.take_along_axis(axes, np.argmax(np.abs(axes), axis=-1)[..., None], axis=-1)
    return np.sqrt(squares[..., ::-1]), axes * np.sign(largest)


def _limits(crystal: Crystal) -> Float[Array, "sites sites"]:
    """Largest length [Å] of a bond between two sites; zero where there can be none.

    Groups of one assembly of the disorder are never there together.
    """
    radii, metals = covalent_radii(crystal.elements), are_metals(crystal.elements)
    limits = radii[:, None] + radii + INCREMENT
    limits = limits if metals.all() else np.where(metals[:, None] & metals, 0.0, limits)
    return np.where(are_alternatives(crystal), 0.0, limits)


def are_alternatives(crystal: Crystal) -> Bool[np.ndarray, "sites sites"]:
    """Whether two sites are of different groups of one assembly of the disorder, never there together."""
    if not crystal.disorder:
        return np.zeros((len(crystal.labels),) * 2, dtype=bool)
    assembly, group = np.array(crystal.disorder, dtype=str).T
    both = (group[:, None] != "") & (group != "") & (assembly[:, None] == assembly)
    return both & ~_same_group(crystal)


def _same_group(crystal: Crystal) -> Bool[np.ndarray, "sites sites"]:
    """Whether two sites are of one group of one assembly of the disorder, so that they are there together."""
    assembly, group = np.array(crystal.disorder, dtype=str).T
    return (group != "") & (group[:, None] == group) & (assembly[:, None] == assembly)


def _shortest(crystal: Crystal) -> Float[np.ndarray, "sites sites"]:
    """Smallest distance [Å] of two sites that are not alternatives of each other."""
    radii, occupancy = covalent_radii(crystal.elements), np.asarray(crystal.occupancy)
    partly = (occupancy[:, None] < 1) & (occupancy < 1) & (occupancy[:, None] + occupancy <= FULL_OCCUPANCY)
    if crystal.disorder:
        partly &= ~_same_group(crystal)
    return np.where(partly, np.maximum(ALTERNATIVES * (radii[:, None] + radii), SHORTEST_BOND), SHORTEST_BOND)


def depend_on_image(
    crystal: Crystal, one: Int[Array, "..."] | int, other: Int[Array, "..."]
) -> Bool[np.ndarray, "..."]:
    """Whether two sites are both of disorder groups, one of them with a minus: its alternative is an image of itself.

    Only atoms of the same image are there together then. `one` and `other`: numbers of sites, which are broadcast.
    """
    if not crystal.disorder:
        return np.zeros(np.broadcast_shapes(np.shape(one), np.shape(other)), dtype=bool)
    groups = np.array([group for _, group in crystal.disorder])
    first, second = groups[one], groups[other]
    negative = np.char.startswith(first, "-") | np.char.startswith(second, "-")
    return np.asarray((first != "") & (second != "") & negative)


def there_together(
    crystal: Crystal, site: int, sites: Int[Array, " atoms"], positions: Float[Array, "atoms 3"]
) -> Bool[np.ndarray, " atoms"]:
    """Whether atoms at some positions are there with a site as it stands in the list.

    Of a site in a negative group, images of atoms in any group are not, and its own images are not with other groups.
    """
    is_image = _distances(crystal, positions, np.asarray(crystal.fract)[sites]) > SAME_ATOM
    return ~(depend_on_image(crystal, site, sites) & is_image)


def _bonded(
    crystal: Crystal,
    atoms: Float[Array, "atoms 3"],
    site: int,
    shortest: Float[Array, " sites"],
    limits: Float[Array, " sites"],
) -> tuple[Int[Array, " bonded"], Float[Array, "bonded 3"]]:
    """Sites and positions of the atoms that are bonded to a site, nearest first."""
    sites, positions = contacts(crystal, atoms, np.asarray(crystal.fract)[site], shortest, limits)
    together = there_together(crystal, site, sites, positions)
    return sites[together], positions[together]


def contacts(
    crystal: Crystal,
    atoms: Float[Array, "atoms 3"],
    centre: Float[Array, "3"],
    shortest: Float[Array, " sites"],
    limits: Float[Array, " sites"],
) -> tuple[Int[Array, " contacts"], Float[Array, "contacts 3"]]:
    """Sites and positions of all atoms between the two distances [Å] of their sites around a point, nearest first."""
    reach = np.floor(np.max(limits) * np.linalg.norm(reciprocal_matrix(crystal.cell), axis=0) + 0.5 + 1e-9)
    cells = np.array(list(itertools.product(*(np.arange(-n, n + 1) for n in reach))))
    positions = (atoms - np.round(atoms - centre))[:, None] + cells
    distances = _distances(crystal, positions, centre)
    site = np.asarray(crystal.atom_site)
    rows, copies = np.nonzero((distances > shortest[site][:, None]) & (distances < limits[site][:, None]))
    order = np.argsort(distances[rows, copies].round(6), kind="stable")
    return site[rows[order]], positions[rows[order], copies[order]]


def _of_one_image(crystal: Crystal, ends: list[Atom]) -> Bool[np.ndarray, "ends ends"]:
    """Whether two atoms can be there together: of groups, one of them negative, only atoms of the same image are."""
    sites = np.array([end.site for end in ends], dtype=int)
    same = np.array([[(a.operation, a.shift) == (b.operation, b.shift) for b in ends] for a in ends], dtype=bool)
    return ~depend_on_image(crystal, sites[:, None], sites) | same.reshape(len(ends), len(ends))


def _onto(crystal: Crystal, start: Float[Array, "3"], other: Float[Array, "3"], site: int) -> Float[Array, "images 3"]:
    """Where `other` goes under every operation that carries the position `start` onto a site itself."""
    rotations, translations = np.asarray(crystal.rotations), np.asarray(crystal.translations)
    moved = rotations @ start + translations - np.asarray(crystal.fract)[site]
    cells = np.round(moved)
    fits = _distances(crystal, moved, cells) < SAME_ATOM
    return (rotations @ other + translations - cells)[fits]


def _ends(crystal: Crystal, bonds: list[Bond], site: int) -> list[Atom]:
    """Every atom that is bonded to a site, shortest bond first; `bonds` are those with an end there."""
    found: dict[Atom, float] = {}
    for bond in bonds:
        first, second = _positions(crystal, list(bond.atoms), np.asarray(crystal.fract))
        length = round(float(_distances(crystal, first, second)), 6)
        for here, there, near, far in ((first, second, *bond.atoms), (second, first, *bond.atoms[::-1])):
            if near.site == site:
                found |= {atom_at(crystal, far.site, end): length for end in _onto(crystal, here, there, site)}
    return sorted(found, key=lambda atom: (found[atom], atom.site, atom.operation, atom.shift))


def _turned(crystal: Crystal, ends: list[Atom], centre: Float[Array, "3"], site: int) -> list[list[int]]:
    """For each atom around a site, which of these atoms it becomes under each operation that fixes the site."""
    positions = _positions(crystal, ends, np.asarray(crystal.fract))
    sites = np.array([end.site for end in ends])
    turned = []
    for end, position in zip(ends, positions, strict=True):
        images = _onto(crystal, centre, position, site)
        distances = _distances(crystal, images[:, None], positions)
        turned.append(np.argmin(np.where(sites == end.site, distances, np.inf), axis=1).tolist())
    return turned


def atom_at(crystal: Crystal, site: int, position: Float[Array, "3"]) -> Atom:
    """The atom of a site at a fractional position, by the operation with the smallest shift, then by the first."""
    images = np.asarray(crystal.rotations) @ np.asarray(crystal.fract)[site] + np.asarray(crystal.translations)
    cells = np.round(position - images).astype(int)
    fits = np.flatnonzero(_distances(crystal, images + cells, position) < SAME_ATOM).tolist()
    operation = min(fits, key=lambda fit: (np.abs(cells[fit]).sum(), fit))
    a, b, c = cells[operation].tolist()
    return Atom(site, operation, (a, b, c))


def _positions(
    crystal: Crystal, atoms: list[Atom], fract: Float[Array, "*draws sites 3"]
) -> Float[Array, "*draws atoms 3"]:
    """Fractional positions R x + t + shift of atoms."""
    sites = np.array([atom.site for atom in atoms], dtype=int)
    operations = np.array([atom.operation for atom in atoms], dtype=int)
    shifts = np.array([atom.shift for atom in atoms], dtype=float).reshape(-1, 3)
    turned = np.einsum("nij,...nj->...ni", np.asarray(crystal.rotations)[operations], np.asarray(fract)[..., sites, :])
    return turned + np.asarray(crystal.translations)[operations] + shifts


def _distances(crystal: Crystal, first: Float[Array, "*batch 3"], second: Float[Array, "*others 3"]):
    """Distances [Å] between fractional positions as they stand."""
    return np.linalg.norm((first - second) @ direct_matrix(crystal.cell).T, axis=-1)
