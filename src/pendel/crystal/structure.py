"""The crystal: cell, operations and asymmetric-unit sites as arrays, with the constraints of every special position."""

import math
import mmap
from dataclasses import dataclass, field, fields, replace
from typing import Any

import gemmi
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from pendel.base import Array, InputError
from pendel.crystal import symmetry
from pendel.crystal.cell import Cell, u_cartesian, u_from_cartesian, u_star
from pendel.crystal.cell import direct_matrix as direct_matrix
from pendel.crystal.cell import reciprocal_matrix as reciprocal_matrix
from pendel.crystal.cell import u_equivalent as u_equivalent
from pendel.crystal.cell import volume as volume
from pendel.crystal.checks import (
    FULL_OCCUPANCY,
    check_cell,
    check_distances,
    check_operations,
    check_sites,
    check_tensors,
)
from pendel.crystal.hydrogen import HydrogenGroup
from pendel.crystal.neighbours import close_pairs
from pendel.crystal.restraints import Restraint
from pendel.crystal.sites import Sites

ELEMENTS = tuple(gemmi.Element(z).name for z in range(1, 104))  # H to Lr; symbol of atomic number Z at index Z - 1
POSITION_NOTE = 1e-3  # Å; smaller moves onto a special position are rounding and go unmentioned
TENSOR_NOTE = 0.05  # of U_eq, likewise
SHARED_POSITION, SHARED_TENSOR = 1e-3, 1e-6  # Å, Å²; sites that agree so well are refined as one
ROUNDED = 1e-9  # relative; a cell that is so near the symmetry stays as it is written
STATIC = {"static": True}  # a field that is part of the structure of the pytree, not one of its arrays


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Crystal:
    """A crystal structure: sites of the asymmetric unit and everything symmetry says about them.

    Operations act on fractional columns, x' = R x + t, centring included. `atom_site` and `atom_op` name, for every
    distinct atom of the cell, its site and the operation that makes it. A shift of all sites by c [Å] along row k of
    `position_basis` is c * position_basis[k] in fractional coordinates; a change of the Cartesian ADP tensors by
    c [Å²] is c * adp_basis[k]. Make it with `make_crystal` or `pendel.read_crystal`.
    """

    name: str = field(metadata=STATIC)
    cell: Cell = field(metadata=STATIC)  # Å, degrees
    spacegroup: str = field(metadata=STATIC)
    labels: tuple[str, ...] = field(metadata=STATIC)
    elements: tuple[str, ...] = field(metadata=STATIC)
    isotropic: tuple[bool, ...] = field(metadata=STATIC)
    partly_occupied: tuple[int, ...] = field(metadata=STATIC)  # sites whose occupancy is below 1 in the start structure
    notes: tuple[str, ...] = field(metadata=STATIC)
    disorder: tuple[tuple[str, str], ...] = field(default=(), metadata=STATIC)  # assembly and group of sites, if any
    free_variable: tuple[int, ...] = field(default=(), metadata=STATIC)  # that occupancies follow, if any
    fract: Float[Array, "sites 3"]
    u_aniso: Float[Array, "sites 3 3"]  # CIF U_ij, Å²
    occupancy: Float[Array, " sites"]
    rotations: Int[Array, "ops 3 3"]
    translations: Float[Array, "ops 3"]
    atom_site: Int[Array, " atoms"]
    atom_op: Int[Array, " atoms"]
    position_basis: Float[Array, "positions sites 3"]  # fractional shift per Å
    adp_basis: Float[Array, "adps sites 3 3"]  # Cartesian
    restraints: tuple[Restraint, ...] = field(default=(), metadata=STATIC)
    hydrogen: tuple[HydrogenGroup, ...] = field(default=(), metadata=STATIC)
    cloud: Float[Array, "sites 3"] | None = None  # fractional shift of hydrogen's electron cloud from its nucleus
    contraction: Float[Array, ""] | float | None = None  # of all other atoms, see `contracted_form_factors`; or none


def make_crystal(
    *,
    name: str,
    cell: Cell,
    spacegroup: str,
    rotations: Int[Array, "ops 3 3"],
    translations: Float[Array, "ops 3"],
    sites: Sites,
    notes: tuple[str, ...] = (),
    fullest: float = FULL_OCCUPANCY,
) -> Crystal:
    """A checked `Crystal` from sites of the asymmetric unit and the complete list of operations.

    Sites closer than 0.02 Å to an image of their own are moved onto the symmetry element and tensors lose their
    forbidden part; notes say where this changed something. Sites that share a position move and vibrate together. In
    polar groups the mean position, weighted with occupancy times atomic number, is fixed and with it the origin. A cell
    that misses the symmetry, as measured ones do, becomes the nearest one that does not.

    Args as the fields of `Crystal`: cell [Å, degrees], operations x' = R x + t.
    fullest: largest sum of the occupancies at one position.

    Raises InputError for an impossible cell, operations that form no group or do not fit the cell, unknown elements,
    repeated labels, occupancies out of range, tensors that are not positive definite, atoms closer than 0.5 Å.
    """
    rotations, translations = np.asarray(rotations, dtype=int), np.asarray(translations, dtype=float)
    found = list(notes)
    found += check_operations(name, check_cell(name, cell), rotations, translations)
    if not np.allclose(cell, exact := symmetry.symmetric_cell(cell, rotations), rtol=ROUNDED, atol=0):
        cell = exact
    direct = direct_matrix(cell)
    check_sites(name, sites)
    numbers = atomic_numbers(sites.elements)
    fract, held, moved = _symmetrised_positions(sites, rotations, translations, direct)
    turns = symmetry.cartesian_rotations(rotations, direct)
    site_turns = [turns[ops] for ops in held]
    u_aniso, changed = _symmetrised_tensors(sites, site_turns, cell)
    check_tensors(name, sites.labels, np.asarray(u_cartesian(u_aniso, cell)))
    orbits = [symmetry.orbit(site, rotations, translations, direct) for site in fract]
    atom_site = np.repeat(np.arange(len(fract)), [len(ops) for ops in orbits])
    atom_op = np.concatenate(orbits)
    atoms = np.einsum("aij,aj->ai", rotations[atom_op], fract[atom_site]) + translations[atom_op]
    occupancy = np.asarray(sites.occupancy, dtype=float)
    sites = replace(sites, fract=fract, u_aniso=u_aniso, occupancy=occupancy)
    found += moved + changed + check_distances(name, sites, atoms, atom_site, direct, fullest)
    polar = symmetry.polar_directions(rotations, direct)
    if len(polar):
        found.append(f"the origin floats along {_directions(polar, direct)}: the mean position is held there")
    weights = np.array([len(ops) for ops in orbits]) * occupancy * numbers
    return Crystal(
        name=name,
        cell=cell,
        spacegroup=spacegroup,
        partly_occupied=tuple(int(site) for site in np.flatnonzero(occupancy < 1)),
        notes=tuple(dict.fromkeys(found)),  # of a crystal made anew, it has found some before
        **_columns(sites),
        rotations=rotations,
        translations=translations,
        atom_site=atom_site,
        atom_op=atom_op,
        position_basis=_position_basis(site_turns, _tied_positions(fract, direct), polar, weights, direct),
        adp_basis=_adp_basis(site_turns, _tied_tensors(sites, direct), sites.isotropic),
    )


def sites_of(crystal: Crystal) -> Sites:
    """The sites that a crystal has now, e.g. to make it anew in another cell."""
    return Sites(**_columns(crystal))


def _columns(holder: Sites | Crystal) -> dict[str, Any]:
    """The fields of `Sites`, which `Crystal` has, too."""
    return {column.name: getattr(holder, column.name) for column in fields(Sites)}


def atomic_numbers(elements: tuple[str, ...]) -> Int[Array, " sites"]:
    """Atomic number of each element symbol; raises InputError for a symbol outside H..Lr."""
    for element in elements:
        if element not in ELEMENTS:
            raise InputError(
                found=f"unknown element {element!r}", expected="a symbol H..Lr", do="correct the element symbol"
            )
    return np.array([ELEMENTS.index(element) + 1 for element in elements], dtype=int)


def expanded_atoms(
    crystal: Crystal,
    fract: Float[Array, "sites 3"],
    u_aniso: Float[Array, "sites 3 3"],
    occupancy: Float[Array, " sites"],
) -> tuple[Float[Array, "atoms 3"], Float[Array, "atoms 3 3"], Float[Array, " atoms"]]:
    """Every distinct atom of the cell: fractional positions (not wrapped), U* and occupancies.

    x' = R x + t and U*' = R U* Rᵀ: differentiable, and linear, so gradients are finite at special positions.
    """
    rotations = jnp.asarray(crystal.rotations, dtype=float)[crystal.atom_op]
    shifts = jnp.asarray(crystal.translations)[crystal.atom_op]
    positions = jnp.einsum("aij,aj->ai", rotations, jnp.asarray(fract)[crystal.atom_site]) + shifts
    tensors = u_star(u_aniso, crystal.cell)[crystal.atom_site]
    return positions, rotations @ tensors @ rotations.swapaxes(-1, -2), jnp.asarray(occupancy)[crystal.atom_site]


def is_centrosymmetric(crystal: Crystal) -> bool:
    """Whether an operation of the space group inverts the crystal (its centre need not be the origin)."""
    return bool(np.any(np.all(np.asarray(crystal.rotations) == -np.eye(3, dtype=int), axis=(1, 2))))


def _symmetrised_positions(sites: Sites, rotations, translations, direct):
    """Positions on their symmetry elements, the stabiliser of each, and notes on sites that moved."""
    settled, held, notes = [], [], []
    for label, site in zip(sites.labels, np.asarray(sites.fract, dtype=float), strict=True):
        position, operations = symmetry.symmetrise_position(site, rotations, translations, direct)
        distance = float(np.linalg.norm(direct @ (position - site)))
        if distance > POSITION_NOTE:
            notes.append(f"{label} moved by {distance:.4f} Å onto its special position")
        settled.append(position)
        held.append(operations)
    return np.stack(settled), held, notes


def _symmetrised_tensors(sites: Sites, site_rotations, cell):
    """CIF U_ij with only what the site allows, and notes on tensors that changed."""
    tensors, notes = [], []
    given = np.asarray(u_cartesian(np.asarray(sites.u_aniso, dtype=float), cell))
    for label, is_isotropic, tensor, turns in zip(sites.labels, sites.isotropic, given, site_rotations, strict=True):
        equivalent = np.trace(tensor) / 3
        allowed = equivalent * np.eye(3) if is_isotropic else symmetry.symmetrise_tensor(tensor, turns)
        change = np.max(np.abs(allowed - tensor))
        if not is_isotropic and change > TENSOR_NOTE * abs(equivalent):
            notes.append(f"U of {label} changed by up to {change:.4f} Å² to fit its site symmetry")
        tensors.append(allowed)
    return np.asarray(u_from_cartesian(np.stack(tensors), cell)), notes


def _leaders(sites: int, pairs: tuple[Int[Array, " pairs"], Int[Array, " pairs"]]) -> Int[Array, " sites"]:
    """For each site the first one that it is tied to (itself when it stands alone)."""
    leaders = np.arange(sites)
    np.minimum.at(leaders, pairs[0], pairs[1])
    return leaders


def _tied_positions(fract, direct):
    """Leaders of sites that share a position."""
    return _leaders(len(fract), close_pairs(fract, fract, direct, SHARED_POSITION))


def _tied_tensors(sites: Sites, direct):
    """Leaders of sites that share position, tensor and its kind."""
    isotropic = np.array(sites.isotropic)
    first, second = close_pairs(sites.fract, sites.fract, direct, SHARED_POSITION)
    same = np.max(np.abs(sites.u_aniso[first] - sites.u_aniso[second]), axis=(-2, -1)) < SHARED_TENSOR
    same &= isotropic[first] == isotropic[second]
    return _leaders(len(sites.fract), (first[same], second[same]))


def _position_basis(site_rotations, leaders, polar, weights, direct):
    """Fractional shifts per Å [positions sites 3]: each site's own ones, then the polar ones without their drift."""
    inverse = np.linalg.inv(direct).T
    found, groups = np.unique(leaders, return_inverse=True)
    own = [symmetry.position_basis(site_rotations[leader], polar)[len(polar) :] @ inverse for leader in found]
    basis = _filled(own, groups, len(polar) * (len(found) - 1))
    if len(polar):
        together = symmetry.without_drift(np.bincount(groups, weights))[:, groups, None]
        for number, axis in enumerate(polar @ inverse):
            end = len(basis) - number * len(together)
            basis[end - len(together) : end] = together * axis
    return basis


def _adp_basis(site_rotations, leaders, isotropic):
    """Cartesian tensors [adps sites 3 3] that each site, or each group of tied sites, may change by."""
    found, groups = np.unique(leaders, return_inverse=True)
    sphere = np.eye(3)[None] / np.sqrt(3)
    own = [sphere if isotropic[leader] else symmetry.adp_basis(site_rotations[leader]) for leader in found]
    return _filled(own, groups)


def _filled(own, groups, more=0):
    """Rows of all groups of sites one after the other, each with values at the sites of its group; then zero rows."""
    shape = (sum(map(len, own)) + more, len(groups), *own[0].shape[1:])
    basis = sparse_zeros(shape)
    starts = np.cumsum([0, *map(len, own)])
    for site, group in enumerate(groups):
        basis[starts[group] : starts[group + 1], site] = own[group]
    return basis


def sparse_zeros(shape: tuple[int, ...]) -> Float[np.ndarray, "..."]:
    """An array of zeros that takes memory only for what is written: np.zeros would fill a gigabyte for 1500 sites."""
    memory = mmap.mmap(-1, max(8 * math.prod(shape), 1))
    return np.frombuffer(memory, dtype=float, count=math.prod(shape)).reshape(shape)


def _directions(axes: Float[Array, "polar 3"], direct: Float[Array, "3 3"]) -> str:
    """Lattice directions in words, e.g. [0 0 1]."""
    fractional = axes @ np.linalg.inv(direct).T
    scaled = fractional / np.max(np.abs(fractional), axis=1, keepdims=True)
    return ", ".join("[" + " ".join(f"{value:.3g}" for value in row + 0.0) + "]" for row in scaled)
