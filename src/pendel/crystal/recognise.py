"""Which hydrogens belong to which group: recognised from bonds, angles of the file where no ideal ones are known."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from pendel.base import Array
from pendel.crystal.atom import Atom
from pendel.crystal.bonds import atom_at, find_neighbours
from pendel.crystal.cell import direct_matrix
from pendel.crystal.hydrogen import CLOUD_SHIFT, FREE_SD, NUCLEAR_DISTANCES, HydrogenGroup
from pendel.crystal.residuals import atom_positions
from pendel.crystal.restraints import Distance
from pendel.crystal.riding import group_axes, with_clouds, with_riding, with_tied_tensors
from pendel.crystal.sites import Sites
from pendel.crystal.structure import Crystal, make_crystal, sites_of, sparse_zeros

FARTHEST = 40.0  # deg between the file's direction to a hydrogen and the ideal one of a group that is recognised
PLANAR = 25.0  # deg; a nitrogen whose hydrogen is so far from the plane of its bonds is pyramidal
TETRAHEDRAL, TRIGONAL = np.degrees(np.arccos(1 / 3)), 60.0  # deg between a bond and the continuation of another one
OF_TYPE = {"C": "C(sp3)-H", "N": "N-H", "O": "O-H", "S": "S-H"}

ALONE = "hydrogen without a parent is a free, spherical atom"  # beginning of a note

type Neighbours = tuple[tuple[Atom, ...], ...]
type Disorder = tuple[str, str]  # assembly and group of a site


def with_hydrogen(crystal: Crystal, mode: str) -> Crystal:
    """The crystal with its hydrogens as riding groups ("ride") or as free sites with a restrained distance ("free").

    The nuclei are put at the distances of neutron diffraction. U_H is tied to U_eq of the parent in both modes, and
    clouds are shifted from the nuclei. Hydrogens whose group is not recognised are free in both modes; notes say which.
    A crystal without hydrogen comes back as it is.
    """
    if "H" not in crystal.elements:
        return crystal
    groups, notes = find_groups(crystal)
    if mode == "free":
        groups = tuple(dataclasses.replace(group, rides=False) for group in groups)
        count = sum(len(group.hydrogens) for group in groups)
        alone = [note for note in notes if note.startswith(ALONE)]
        notes = [f"hydrogen is free: {count} sites, distances from parents restrained to {FREE_SD} Å", *alone]
    crystal = dataclasses.replace(crystal, hydrogen=groups, notes=tuple(dict.fromkeys((*crystal.notes, *notes))))
    distances = {bond: mean for bond, (mean, _) in NUCLEAR_DISTANCES.items()}
    everywhere = dataclasses.replace(crystal, hydrogen=tuple(map(_stretched, groups)))
    crystal = dataclasses.replace(crystal, fract=np.asarray(with_riding(everywhere, distances).fract))
    crystal = with_clouds(with_tied_tensors(crystal, {1.2: 1.2, 1.5: 1.5}), CLOUD_SHIFT[0])
    arrays = {"u_aniso": np.asarray(crystal.u_aniso), "cloud": np.asarray(crystal.cloud)}
    return _with_free_parameters(dataclasses.replace(crystal, restraints=_restraints(crystal), **arrays))


def with_shifted_clouds(crystal: Crystal) -> Crystal:
    """The crystal with the clouds of its bonded hydrogens 0.12 Å from their nuclei, which stay where they are."""
    if "H" not in crystal.elements:
        return crystal
    shifted = with_clouds(dataclasses.replace(crystal, hydrogen=find_groups(crystal)[0]), CLOUD_SHIFT[0])
    return dataclasses.replace(crystal, cloud=np.asarray(shifted.cloud))


def _stretched(group: HydrogenGroup) -> HydrogenGroup:
    """A group that rides, to put its hydrogens at their distances."""
    return dataclasses.replace(group, rides=bool(group.directions))


def find_groups(crystal: Crystal) -> tuple[tuple[HydrogenGroup, ...], list[str]]:
    """The groups of a crystal, and notes on what was recognised and what was not."""
    neighbours = find_neighbours(crystal)
    parents = {site: _parent(crystal, neighbours[site]) for site in _hydrogens(crystal)}
    members: dict[tuple[Atom, Disorder], list[int]] = {}
    for site, parent in parents.items():
        if parent is not None:
            members.setdefault((parent, _disorder(crystal, site)), []).append(site)
    groups, notes = [], []
    alone = [crystal.labels[site] for site, parent in parents.items() if parent is None]
    for (parent, _), hydrogens in members.items():
        groups.append(_group(crystal, neighbours, parent, hydrogens))
    for kind, count in Counter(group.kind for group in groups if group.rides).items():
        notes.append(f"hydrogen rides: {count} x {kind}")
    free = [crystal.labels[site] for group in groups if not group.rides for site in group.hydrogens]
    if free:
        notes.append(f"hydrogen is free, because its group is not recognised: {', '.join(free)}")
    if alone:
        notes.append(f"{ALONE}: {', '.join(alone)}")
    return tuple(groups), notes


def _hydrogens(crystal: Crystal) -> list[int]:
    return [site for site, element in enumerate(crystal.elements) if element == "H"]


def _disorder(crystal: Crystal, site: int) -> Disorder:
    return crystal.disorder[site] if crystal.disorder else ("", "")


def _parent(crystal: Crystal, around: Sequence[Atom]) -> Atom | None:
    """The nearest atom that is no hydrogen and whose bonds to hydrogen have a known length."""
    heavy = [atom for atom in around if crystal.elements[atom.site] != "H"]
    return heavy[0] if heavy and crystal.elements[heavy[0].site] in OF_TYPE else None


def _group(crystal: Crystal, neighbours: Neighbours, parent: Atom, hydrogens: list[int]) -> HydrogenGroup:
    """The group of some hydrogens of one parent and one disorder group; free where its axes are not defined."""
    element = crystal.elements[parent.site]
    around = _there_together(crystal, neighbours[parent.site], _disorder(crystal, hydrogens[0]))
    heavy = [atom for atom in around if crystal.elements[atom.site] != "H"]
    count = len(around) - len(heavy)
    free = HydrogenGroup(
        kind="free", bond=_bond(element, len(heavy), count), parent=parent, hydrogens=tuple(hydrogens), rides=False
    )
    is_listed = parent == Atom(parent.site, 0, (0, 0, 0))
    if not is_listed or len(heavy) > 3 or any(atom.site == parent.site for atom in heavy):
        return free
    group = dataclasses.replace(
        free,
        axes_from=tuple(heavy),
        kind="as in the file",
        rides=True,
        beyond=_beyond(crystal, neighbours, parent, heavy),
    )
    if len(heavy) == 1 and group.beyond is None:
        group = dataclasses.replace(group, reference=_any_across(crystal, parent, heavy[0]))
    axes = np.asarray(group_axes(crystal, group))
    if not np.all(np.isfinite(axes)):
        return free
    found = _directions(crystal, parent, hydrogens) @ axes
    return _idealised(crystal, group, found, element, count)


def _bond(element: str, heavy: int, hydrogens: int) -> str:
    """The kind of bond, by the element of the parent and the number of atoms around it."""
    if element == "C" and heavy + hydrogens < 4:
        return "C(sp2)-H"
    if element == "N" and heavy + hydrogens > 3:
        return "N(+)-H"
    return OF_TYPE[element]


def _there_together(crystal: Crystal, atoms: Sequence[Atom], disorder: Disorder) -> list[Atom]:
    """Atoms that are there with a disorder group: of each assembly only one group, that or the first among them."""
    chosen = {disorder[0]: disorder[1]} if disorder[1] else {}
    found = []
    for atom in atoms:
        assembly, group = _disorder(crystal, atom.site)
        if not group or group == chosen.setdefault(assembly, group):
            found.append(atom)
    return found


def _beyond(crystal: Crystal, neighbours: Neighbours, parent: Atom, heavy: list[Atom]) -> Atom | None:
    """An atom bonded to the only neighbour of a parent, not in line with both; None where there is none."""
    if len(heavy) != 1:
        return None
    (near,) = heavy
    rotation = np.asarray(crystal.rotations)[near.operation]
    shift = np.asarray(crystal.translations)[near.operation] + np.array(near.shift)
    direct = direct_matrix(crystal.cell)
    start, end = (np.asarray(atom_positions(crystal, [atom]))[0] for atom in (near, parent))
    for atom in neighbours[near.site]:
        position = np.linalg.solve(direct, np.asarray(atom_positions(crystal, [atom]))[0])
        image = rotation @ position + shift
        line = direct @ image - start
        angle = np.degrees(np.arccos(np.clip(_cosine(line, end - start), -1, 1)))
        if crystal.elements[atom.site] != "H" and 20 < angle < 160:
            return atom_at(crystal, atom.site, image)
    return None


def _cosine(first: Float[np.ndarray, "3"], second: Float[np.ndarray, "3"]) -> float:
    return float(first @ second / np.linalg.norm(first) / np.linalg.norm(second))


def _any_across(crystal: Crystal, parent: Atom, near: Atom) -> tuple[float, float, float]:
    """The Cartesian axis that is farthest from the direction of a bond."""
    line = np.diff(np.asarray(atom_positions(crystal, [parent, near])), axis=0)[0]
    x, y, z = np.eye(3)[int(np.argmin(np.abs(line)))].tolist()
    return x, y, z


def _directions(crystal: Crystal, parent: Atom, hydrogens: list[int]) -> Float[np.ndarray, "hydrogens 3"]:
    lines = np.asarray(atom_positions(crystal, [Atom(site, 0, (0, 0, 0)) for site in hydrogens]))
    lines = lines - np.asarray(atom_positions(crystal, [parent]))
    return lines / np.linalg.norm(lines, axis=1, keepdims=True)


def _idealised(
    crystal: Crystal, group: HydrogenGroup, found: Float[np.ndarray, "hydrogens 3"], element: str, count: int
) -> HydrogenGroup:
    """The group with ideal directions where its kind is recognised and the file agrees; else with those of the file."""
    special = int(np.sum(np.asarray(crystal.atom_site) == group.parent.site)) < len(crystal.rotations)
    kind, ideal, turns = _ideal(element, len(group.axes_from), count, found)
    if ideal is not None:
        agrees = np.all(np.sum(ideal * found, axis=1) > np.cos(np.radians(FARTHEST)))
        if agrees and len(np.unique(np.round(ideal, 6), axis=0)) == len(found):
            found = ideal
        else:
            kind, turns = "as in the file", 0
    directions = tuple((float(x), float(y), float(z)) for x, y, z in found)
    return dataclasses.replace(group, kind=kind, directions=directions, turns=0 if special else turns)


def _ideal(
    element: str, heavy: int, hydrogens: int, found: Float[np.ndarray, "hydrogens 3"]
) -> tuple[str, Float[np.ndarray, "hydrogens 3"] | None, int]:
    """Kind of a group, ideal directions of its hydrogens (None: those of the file), number of free angles."""
    along = np.tile([0.0, 0.0, 1.0], (len(found), 1))
    out_of_plane = np.degrees(np.arccos(np.clip(np.min(found[:, 2]), -1, 1)))
    match element, heavy, hydrogens:
        case "C" | "N", 3, 1:
            return ("methine" if element == "C" else "ammonium"), along, 0
        case "C" | "N", 2, 2:
            half = np.radians(109.47 / 2)
            up = np.where(found[:, :1] > 0, 1.0, -1.0) * [np.sin(half), 0, 0] + [0, 0, np.cos(half)]
            return ("methylene" if element == "C" else "ammonium"), up, 0
        case "C" | "N", 1, 3:
            return ("methyl" if element == "C" else "ammonium"), _around(found, TETRAHEDRAL, 3), 1
        case "C", 2, 1:
            return "aromatic", along, 0
        case "C", 1, 1:
            return "acetylenic", along, 0
        case "N", 2, 1:
            return ("amide", along, 0) if out_of_plane < PLANAR else ("amine", None, 0)
        case "C" | "N", 1, 2:
            flat = _around(found, TRIGONAL, 2)
            is_flat = element == "C" or np.all(np.sum(flat * found, axis=1) > np.cos(np.radians(PLANAR)))
            return ("amide" if element == "N" else "vinyl", flat, 0) if is_flat else ("amine", None, 0)
        case "O" | "S", 1, 1:
            return "hydroxyl", _around(found, TETRAHEDRAL, 1), 1
        case "O", 0, 2:
            return "water", None, 3
        case "O", 1, 2:
            return "water", None, 1
        case "N", 0, 4:
            return "ammonium", None, 3
        case _:
            return "as in the file", None, 0


def _around(found: Float[np.ndarray, "hydrogens 3"], polar: float, fold: int) -> Float[np.ndarray, "hydrogens 3"]:
    """Directions at an angle [deg] to z, a fold-th of a turn apart, as near to those of the file as possible."""
    azimuth = np.arctan2(found[:, 1], found[:, 0])
    phase = np.angle(np.mean(np.exp(1j * fold * azimuth))) / fold
    azimuth = phase + np.round((azimuth - phase) * fold / (2 * np.pi)) * 2 * np.pi / fold
    sine, cosine = np.sin(np.radians(polar)), np.cos(np.radians(polar))
    return np.stack([sine * np.cos(azimuth), sine * np.sin(azimuth), np.full(len(found), cosine)], axis=1)


def _restraints(crystal: Crystal):
    """Those of the crystal, and the distance of every free hydrogen from its parent."""
    own = []
    for group in crystal.hydrogen:
        if not group.rides:
            pairs = tuple((group.parent, Atom(site, 0, (0, 0, 0))) for site in group.hydrogens)
            mean = NUCLEAR_DISTANCES[group.bond][0]
            own.append(Distance(card="DFIX", pairs=pairs, distance=mean, sd=FREE_SD))
    return (*crystal.restraints, *own)


def _with_free_parameters(crystal: Crystal) -> Crystal:
    """The crystal without coordinates of riding and without displacement parameters of bonded hydrogens."""
    riding = {site for group in crystal.hydrogen if group.rides for site in group.hydrogens}
    tied = {site for group in crystal.hydrogen for site in group.hydrogens}
    isotropic = tuple(flag or site in tied for site, flag in enumerate(crystal.isotropic))
    return dataclasses.replace(
        crystal,
        isotropic=isotropic,
        position_basis=_basis(crystal, riding, "position_basis"),
        adp_basis=_basis(crystal, tied, "adp_basis"),
    )


def _basis(crystal: Crystal, without: set[int], field: str) -> Float[Array, "free sites *axes"]:
    """A basis of the crystal without some sites, zero for these sites; the origin is held by the others alone."""
    kept = np.array([site for site in range(len(crystal.labels)) if site not in without])
    part = make_crystal(
        name=crystal.name,
        cell=crystal.cell,
        spacegroup=crystal.spacegroup,
        rotations=crystal.rotations,
        translations=crystal.translations,
        sites=_chosen(sites_of(crystal), kept.tolist()),
        fullest=np.inf,
    )
    small = np.asarray(getattr(part, field))
    whole = sparse_zeros((len(small), len(crystal.labels), *small.shape[2:]))
    rows, columns = np.nonzero(np.any(small != 0, axis=tuple(range(2, small.ndim))))
    whole[rows, kept[columns]] = small[rows, columns]
    return whole


def _chosen(sites: Sites, kept: list[int]) -> Sites:
    """Some of the sites."""
    columns: dict[str, Any] = {column.name: getattr(sites, column.name) for column in dataclasses.fields(Sites)}
    for name, values in columns.items():
        if isinstance(values, tuple):
            columns[name] = tuple(values[site] for site in kept if values)
        else:
            columns[name] = np.asarray(values)[kept]
    return Sites(**columns)
