"""Crystal symmetry as linear maps: orbits, special positions and the constraints they put on positions and ADPs.

Operations act on fractional columns, x' = R x + t. A site on a special position has a stabiliser, the
operations that carry it onto itself; the mean of their rotations projects any displacement or tensor on its allowed
part (Peterse & Palm 1966, Acta Cryst. 20, 147). The result is an orthonormal basis of the image of that projector, so
that no forbidden direction ever becomes a parameter.
"""

import numpy as np
from jaxtyping import Bool, Float, Int

from pendel.base import Array
from pendel.crystal.cell import TENSOR, Cell, direct_matrix

SPECIAL_POSITION_TOLERANCE = 0.02  # Å; an image closer than this to its own site is the same atom

type Rotations = Int[Array, "ops 3 3"]
type Translations = Float[Array, "ops 3"]
type Point = Float[Array, "3"]  # fractional
type Matrix = Float[Array, "3 3"]

_PROPER = 1e-6  # a residual below this length is numerically zero


def cartesian_rotations(rotations: Rotations, direct: Matrix) -> Float[Array, "ops 3 3"]:
    """Rotations A R A⁻¹ that act on Cartesian columns, for a direct matrix A with columns a, b, c [Å]."""
    return direct @ np.asarray(rotations) @ np.linalg.inv(direct)


def lattice_distance(difference: Float[Array, "*batch 3"], direct: Float[Array, "3 3"]) -> Float[Array, "*batch"]:
    """Length [Å] of fractional differences after removal of whole lattice translations (exact for short ones)."""
    difference = np.asarray(difference)
    return np.linalg.norm((difference - np.round(difference)) @ np.asarray(direct).T, axis=-1)


def images(position: Point, rotations: Rotations, translations: Translations) -> Float[Array, "ops 3"]:
    """All images R x + t of one fractional position."""
    return np.asarray(rotations) @ np.asarray(position) + np.asarray(translations)


def stabiliser(
    position: Point,
    rotations: Rotations,
    translations: Translations,
    direct: Matrix,
    tolerance: float = SPECIAL_POSITION_TOLERANCE,
) -> Bool[Array, " ops"]:
    """Which operations carry a position onto itself modulo the lattice, to within `tolerance` [Å]."""
    return lattice_distance(images(position, rotations, translations) - position, direct) < tolerance


def orbit(position: Point, rotations: Rotations, translations: Translations, direct: Matrix) -> Int[Array, " atoms"]:
    """The first operation that generates each distinct atom of a site; their number is the multiplicity."""
    copies = images(position, rotations, translations)
    same = lattice_distance(copies[:, None] - copies[None], direct) < SPECIAL_POSITION_TOLERANCE
    return np.flatnonzero(~np.any(np.tril(same, -1), axis=1))


def symmetrise_position(
    position: Point,
    rotations: Rotations,
    translations: Translations,
    direct: Matrix,
    tolerance: float = SPECIAL_POSITION_TOLERANCE,
) -> tuple[Point, Bool[Array, " ops"]]:
    """The position moved onto the symmetry elements that it lies within `tolerance` [Å] of, and its stabiliser.

    The site is replaced by the mean of the images that fall on it, until neither it nor its stabiliser changes.
    """
    position = np.asarray(position, dtype=float)
    held = stabiliser(position, rotations, translations, direct, tolerance)
    for _ in range(50):
        copies = images(position, rotations, translations)[held]
        shift = copies - position
        moved = position + np.mean(shift - np.round(shift), axis=0)
        held_then = held
        held = stabiliser(moved, rotations, translations, direct, tolerance)
        settled = np.linalg.norm(direct @ (moved - position)) < 1e-12 and np.array_equal(held, held_then)
        position = moved
        if settled:
            break
    return position, held


def symmetrise_tensor(tensor: Float[Array, "3 3"], site_rotations: Float[Array, "ops 3 3"]) -> Float[Array, "3 3"]:
    """Invariant part of a symmetric Cartesian tensor: the mean of M T Mᵀ over the Cartesian rotations of the site."""
    site_rotations = np.asarray(site_rotations)
    mean = np.mean(site_rotations @ np.asarray(tensor) @ site_rotations.swapaxes(-1, -2), axis=0)
    return (mean + mean.T) / 2


def symmetric_cell(cell: Cell, rotations: Rotations) -> Cell:
    """The cell [Å, degrees] whose metric is the mean of Rᵀ G R over the rotations: what symmetry leaves of it."""
    direct = direct_matrix(cell)
    metric = np.mean(rotations.swapaxes(-1, -2) @ (direct.T @ direct) @ rotations, axis=0)
    a, b, c = np.sqrt(np.diag(metric))
    cosines = metric[1, 2] / (b * c), metric[0, 2] / (a * c), metric[0, 1] / (a * b)
    alpha, beta, gamma = np.degrees(np.arccos(cosines))
    return float(a), float(b), float(c), float(alpha), float(beta), float(gamma)


def position_basis(
    site_rotations: Float[Array, "ops 3 3"], first: Float[Array, "polar 3"] | None = None
) -> Float[Array, "free 3"]:
    """Orthonormal Cartesian directions in which a site may move, given the Cartesian rotations of its stabiliser.

    Directions in `first` (those of a floating origin) come first; the rest follows x, y, z as closely as it can.
    """
    projector = np.mean(np.asarray(site_rotations), axis=0)
    candidates = np.eye(3) if first is None else np.concatenate([np.asarray(first), np.eye(3)])
    return _orthonormal(candidates @ projector.T)


def adp_basis(site_rotations: Float[Array, "ops 3 3"]) -> Float[Array, "free 3 3"]:
    """Frobenius-orthonormal basis of the symmetric Cartesian tensors that the rotations of a site leave unchanged.

    A general site has the six tensors 11, 22, 33, 23, 13, 12 in this order.
    """
    tensors = []
    for i, j in TENSOR:
        unit = np.zeros((3, 3))
        unit[i, j] = unit[j, i] = 1.0
        tensors.append(symmetrise_tensor(unit, site_rotations).ravel())
    return _orthonormal(np.stack(tensors)).reshape(-1, 3, 3)


def polar_directions(rotations: Rotations, direct: Matrix) -> Float[Array, "polar 3"]:
    """Orthonormal Cartesian directions along which no operation fixes the origin (empty unless the group is polar)."""
    return position_basis(cartesian_rotations(rotations, direct))


def without_drift(weights: Float[Array, " sites"]) -> Float[Array, "free sites"]:
    """Orthonormal combinations of one shift per site that leave the weighted mean shift at zero.

    sum_j w_j s_j = 0 removes the free origin of a polar group. Light sites move almost alone; the heaviest one follows:
    in the order of weights, row k is the unit vector k without its part along the weights from k on (Gram-Schmidt).
    """
    weights = np.asarray(weights, dtype=float)
    order = np.argsort(weights, kind="stable")
    sorted_weights = weights[order]
    rest = np.cumsum(sorted_weights[::-1] ** 2)[::-1]  # sum over j >= k of w_j²
    rows = np.eye(len(order)) - np.triu(np.outer(sorted_weights / rest, sorted_weights))
    rows = rows[:-1] / np.linalg.norm(rows[:-1], axis=1, keepdims=True)
    combinations = np.empty_like(rows)
    combinations[:, order] = rows
    return combinations


def is_closed(rotations: Rotations, translations: Translations) -> bool:
    """Whether the operations form a group modulo the lattice: distinct, with identity, closed under products."""
    rotations, translations = np.asarray(rotations), np.asarray(translations)
    products = (rotations[:, None] @ rotations[None]).reshape(-1, 3, 3)
    shifts = (rotations[:, None] @ translations[None, :, :, None])[..., 0] + translations[:, None]
    known = _keys(rotations, translations)
    return len(set(known)) == len(known) and set(_keys(products, shifts.reshape(-1, 3))) <= set(known)


def _keys(rotations: np.ndarray, translations: np.ndarray) -> list[bytes]:
    """Hashable names of operations; translations of space groups in any usual setting are multiples of 1/24."""
    steps = np.round(translations * 24).astype(int) % 24
    return [row.tobytes() for row in np.concatenate([rotations.reshape(-1, 9), steps], axis=1).astype(np.int64)]


def _orthonormal(candidates: np.ndarray) -> np.ndarray:
    """Gram-Schmidt over rows in their order; rows that add nothing new are dropped."""
    basis = np.zeros((0, candidates.shape[1]))
    for row in candidates:
        rest = row - basis.T @ (basis @ row)
        rest = rest - basis.T @ (basis @ rest)
        length = np.linalg.norm(rest)
        if length > _PROPER:
            basis = np.concatenate([basis, rest[None] / length])
    return basis
