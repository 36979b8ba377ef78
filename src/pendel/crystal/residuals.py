"""How far a structure is from its restraints: numbers near zero, each with its standard deviation.

All functions are differentiable in `fract` and `u_aniso` of the structure. Tensors are compared on Cartesian axes
(x along a, y in the plane of a and b), so that the result does not depend on the angles of the cell.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from pendel.base import Array
from pendel.crystal.atom import Atom
from pendel.crystal.restraints import (
    Distance,
    NearlyIsotropic,
    Pair,
    Plane,
    Restraint,
    RigidBonds,
    SameDistances,
    SimilarTensors,
)
from pendel.crystal.structure import Crystal, direct_matrix, u_cartesian

_UPPER = (np.array([0, 1, 2, 1, 0, 0]), np.array([0, 1, 2, 2, 2, 1]))  # 11 22 33 23 13 12


def residuals(crystal: Crystal, restraint: Restraint) -> tuple[Float[Array, " values"], Float[Array, " values"]]:
    """The numbers x_i that a restraint wants near zero, and their standard deviations s_i: x_i ~ Normal(0, s_i).

    | card | x_i |
    |---|---|
    | DFIX, DANG | D - d; with `at_least` min(D - d, 0) |
    | SADI | n - 1 orthonormal contrasts of n distances, s_i = s / sqrt 2: D_i ~ Normal(mu, s / sqrt 2), mu flat |
    | FLAT | distance of every atom from the best plane |
    | SIMU | the six U_ij(A) - U_ij(B); of a site that is isotropic only U_eq(A) - U_eq(B) |
    | RIGU | (U_A - U_B) e, e the unit vector from A to B: the three components that contain the bond direction |
    | ISOR | the six U_ij - U_eq delta_ij |

    Distances in Å, tensors in Å². Sources: Sheldrick (2015), Acta Cryst. C71, 3; RIGU: Thorn, Dittrich & Sheldrick
    (2012), Acta Cryst. A68, 448. SHELXL's FLAT restrains volumes of tetrahedra instead.
    """
    match restraint:
        case Distance():
            excess = _distances(crystal, restraint.pairs) - restraint.distance
            return _with(jnp.minimum(excess, 0.0) if restraint.at_least else excess, restraint.sd)
        case SameDistances():
            lengths = _distances(crystal, restraint.pairs)
            return _with(_contrasts(len(restraint.pairs)) @ lengths, restraint.sd / np.sqrt(2))
        case Plane():
            return _with(from_plane(atom_positions(crystal, restraint.atoms)), restraint.sd)
        case SimilarTensors():
            return _similar(crystal, restraint)
        case RigidBonds():
            return _rigid(crystal, restraint)
        case NearlyIsotropic():
            tensors = atom_tensors(crystal, restraint.atoms)
            spheres = jnp.trace(tensors, axis1=1, axis2=2)[:, None, None] / 3 * jnp.eye(3)
            return _components(tensors - spheres).ravel(), np.repeat(np.array(restraint.sds), 6)


def atom_positions(crystal: Crystal, atoms: Sequence[Atom]) -> Float[Array, "atoms 3"]:
    """Cartesian positions [Å] of atoms, symmetry images among them."""
    sites, operations, shifts = _indices(atoms)
    turned = jnp.einsum("nij,nj->ni", jnp.asarray(crystal.rotations)[operations], jnp.asarray(crystal.fract)[sites])
    fract = turned + jnp.asarray(crystal.translations)[operations] + shifts
    return fract @ direct_matrix(crystal.cell).T


def atom_tensors(crystal: Crystal, atoms: Sequence[Atom]) -> Float[Array, "atoms 3 3"]:
    """Cartesian displacement tensors M U Mᵀ [Å²] of atoms, M the Cartesian rotations of their operations."""
    sites, operations, _ = _indices(atoms)
    direct = direct_matrix(crystal.cell)
    turns = direct @ jnp.asarray(crystal.rotations)[operations] @ np.linalg.inv(direct)
    tensors = u_cartesian(jnp.asarray(crystal.u_aniso)[sites], crystal.cell)
    return turns @ tensors @ turns.swapaxes(-1, -2)


def from_plane(positions: Float[Array, "atoms 3"]) -> Float[Array, " atoms"]:
    """Distances [Å] of points from the plane for which the sum of their squares is smallest.

    Its normal is the eigenvector of the smallest eigenvalue of sum_i (x_i - mean)(x_i - mean)ᵀ.
    """
    centred = positions - jnp.mean(positions, axis=0)
    normal = jnp.linalg.eigh(centred.T @ centred)[1][:, 0]
    return centred @ normal


def _with(values: Float[Array, " values"], sd: float) -> tuple[Float[Array, " values"], Float[Array, " values"]]:
    return values, np.full(len(values), sd)


def _indices(atoms: Sequence[Atom]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    sites = np.array([atom.site for atom in atoms], dtype=int)
    operations = np.array([atom.operation for atom in atoms], dtype=int)
    return sites, operations, np.array([atom.shift for atom in atoms], dtype=float).reshape(-1, 3)


def _distances(crystal: Crystal, pairs: Sequence[Pair]) -> Float[Array, " pairs"]:
    first, second = (atom_positions(crystal, [pair[end] for pair in pairs]) for end in (0, 1))
    return jnp.linalg.norm(second - first, axis=1)


def _contrasts(count: int) -> Float[np.ndarray, "contrasts values"]:
    """Orthonormal rows of zero sum: row k compares value k + 1 with the mean of those before (Helmert's matrix)."""
    rows = [np.r_[np.ones(k), -k, np.zeros(count - k - 1)] / np.sqrt(k * (k + 1)) for k in range(1, count)]
    return np.array(rows).reshape(-1, count)


def _components(tensors: Float[Array, "*many 3 3"]) -> Float[Array, "*many 6"]:
    """11 22 33 23 13 12."""
    return tensors[..., _UPPER[0], _UPPER[1]]


def _similar(crystal: Crystal, restraint: SimilarTensors) -> tuple[Float[Array, " values"], Float[Array, " values"]]:
    first, second = (atom_tensors(crystal, [pair[end] for pair in restraint.pairs]) for end in (0, 1))
    difference, sds = first - second, np.array(restraint.sds)
    spheres = np.array([any(crystal.isotropic[atom.site] for atom in pair) for pair in restraint.pairs])
    six, one = np.flatnonzero(~spheres), np.flatnonzero(spheres)
    equivalent = jnp.trace(difference[one], axis1=1, axis2=2) / 3
    values = jnp.concatenate([_components(difference[six]).ravel(), equivalent])
    return values, np.concatenate([np.repeat(sds[six], 6), sds[one]])


def _rigid(crystal: Crystal, restraint: RigidBonds) -> tuple[Float[Array, " values"], Float[Array, " values"]]:
    ends = [[pair[end] for pair in restraint.pairs] for end in (0, 1)]
    line = atom_positions(crystal, ends[1]) - atom_positions(crystal, ends[0])
    direction = line / jnp.linalg.norm(line, axis=1, keepdims=True)
    difference = atom_tensors(crystal, ends[0]) - atom_tensors(crystal, ends[1])
    return jnp.einsum("nij,nj->ni", difference, direction).ravel(), np.repeat(np.array(restraint.sds), 3)
