"""The rigid-bond test: two bonded atoms have nearly the same mean-square displacement along their bond."""

import numpy as np
from jaxtyping import Float

from pendel.base import Array
from pendel.crystal.bonds import Bond, bond_vectors, find_bonds
from pendel.crystal.cell import direct_matrix, u_cartesian
from pendel.crystal.elements import are_metals
from pendel.crystal.structure import Crystal


def bonds_to_test(crystal: Crystal) -> tuple[Bond, ...]:
    """Bonds to which the test applies: between two anisotropic atoms, neither of which is hydrogen or a metal."""
    metals = are_metals(crystal.elements)

    def fits(site: int) -> bool:
        return not (crystal.isotropic[site] or metals[site] or crystal.elements[site] == "H")

    return tuple(bond for bond in find_bonds(crystal) if all(fits(atom.site) for atom in bond.atoms))


def rigid_bond_differences(
    crystal: Crystal,
    bonds: tuple[Bond, ...],
    fract: Float[Array, "*draws sites 3"],
    u_aniso: Float[Array, "*draws sites 3 3"],
) -> Float[Array, "*draws bonds"]:
    """Difference eᵀ U_A e - eᵀ U_B e [Å²] of the mean-square displacements of two atoms along their bond.

    e is the unit vector from A to B, U the Cartesian tensors; fract and u_aniso are those of one structure or of many
    draws. Of C, N and O atoms in molecules it is below 0.001 Å². Source: Hirshfeld (1976), Acta Cryst. A32, 239.
    """
    lines = bond_vectors(crystal, bonds, fract)
    along = lines / np.linalg.norm(lines, axis=-1, keepdims=True)
    first, second = (_tensors(crystal, bonds, end, u_aniso) for end in (0, 1))
    return np.einsum("...ni,...nij,...nj->...n", along, first - second, along)


def _tensors(
    crystal: Crystal, bonds: tuple[Bond, ...], end: int, u_aniso: Float[Array, "*draws sites 3 3"]
) -> Float[Array, "*draws bonds 3 3"]:
    """Cartesian tensors [Å²] of one end of every bond, turned by its operation."""
    sites = np.array([bond.atoms[end].site for bond in bonds], dtype=int)
    operations = np.array([bond.atoms[end].operation for bond in bonds], dtype=int)
    direct = np.asarray(direct_matrix(crystal.cell))
    turns = direct @ np.asarray(crystal.rotations)[operations] @ np.linalg.inv(direct)
    tensors = np.asarray(u_cartesian(np.asarray(u_aniso)[..., sites, :, :], crystal.cell))
    return turns @ tensors @ np.swapaxes(turns, -1, -2)
