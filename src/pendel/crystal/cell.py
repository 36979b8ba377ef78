"""The unit cell as matrices, and displacement tensors in its three descriptions.

Cartesian axes: x along a, y in the plane of a and b (the convention of the PDB and of gemmi). Tensors: CIF U_ij [Å²]
stands on unit reciprocal axes, U*_ij = a*_i a*_j U_ij multiplies Miller indices, and U_cart = A U* Aᵀ
(Grosse-Kunstleve & Adams 2002, J. Appl. Cryst. 35, 477). The tensor functions are differentiable.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from pendel.base import Array

type Cell = tuple[float, float, float, float, float, float]

TENSOR = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))  # U_11 U_22 U_33 U_23 U_13 U_12


def direct_matrix(cell: Cell) -> Float[Array, "3 3"]:
    """Matrix A with columns a, b, c [Å] on Cartesian axes: r = A x."""
    a, b, c = cell[:3]
    cos_alpha, cos_beta, cos_gamma = np.cos(np.radians(cell[3:]))
    sin_gamma = np.sin(np.radians(cell[5]))
    c_y = (cos_alpha - cos_beta * cos_gamma) / sin_gamma
    c_z = np.sqrt(max(0.0, 1 - cos_beta**2 - c_y**2))
    matrix = np.array([[a, b * cos_gamma, c * cos_beta], [0, b * sin_gamma, c * c_y], [0, 0, c * c_z]])
    return np.where(np.abs(matrix) < 1e-15 * max(a, b, c), 0.0, matrix)


def reciprocal_matrix(cell: Cell) -> Float[Array, "3 3"]:
    """Matrix with columns a*, b*, c* [Å⁻¹, no 2 pi] on the same axes: g = B h."""
    return np.linalg.inv(direct_matrix(cell)).T


def volume(cell: Cell) -> float:
    """Volume of the cell [Å³]."""
    return float(np.linalg.det(direct_matrix(cell)))


def u_star(u_aniso: Float[Array, "*sites 3 3"], cell: Cell) -> Float[Array, "*sites 3 3"]:
    """U*_ij = a*_i a*_j U_ij (dimensionless) from CIF U_ij [Å²]; the Debye-Waller factor is exp(-2 pi² hᵀ U* h)."""
    lengths = np.linalg.norm(reciprocal_matrix(cell), axis=0)
    return jnp.asarray(u_aniso) * np.outer(lengths, lengths)


def u_cartesian(u_aniso: Float[Array, "*sites 3 3"], cell: Cell) -> Float[Array, "*sites 3 3"]:
    """Cartesian tensor A U* Aᵀ [Å²] from CIF U_ij [Å²]."""
    direct = direct_matrix(cell)
    return direct @ u_star(u_aniso, cell) @ direct.T


def u_from_cartesian(u_cart: Float[Array, "*sites 3 3"], cell: Cell) -> Float[Array, "*sites 3 3"]:
    """CIF U_ij [Å²] from the Cartesian tensor [Å²]; the inverse of `u_cartesian`."""
    inverse = np.linalg.inv(direct_matrix(cell))
    lengths = np.linalg.norm(inverse, axis=1)
    return inverse @ jnp.asarray(u_cart) @ inverse.T / np.outer(lengths, lengths)


def u_equivalent(u_aniso: Float[Array, "*sites 3 3"], cell: Cell) -> Float[Array, "*sites"]:
    """U_eq = trace(U_cart) / 3 [Å²], the mean square displacement over all directions."""
    return jnp.trace(u_cartesian(u_aniso, cell), axis1=-2, axis2=-1) / 3
