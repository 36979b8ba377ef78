"""Arrow matrices: what all frames share, and the frames of every crystal, which meet others through that part only.

With the globals first and then one part of z for every plate of frames,

    H = ( G    B^T )         D block-diagonal, one block for each part
        ( B    D   )

so that storage and algebra grow with the number of parts, not with its square or cube. The inverse is never dense
either: with R = D^-1 B, S = G - B^T R the Schur complement, and lower triangular roots W W^T = D^-1, V V^T = S^-1,

    H^-1 = L L^T,    L = (  V     0 )
                         ( -R V   W )

which is the Cholesky factor of the dense inverse. Source: Golub & Van Loan, Matrix Computations, 4th ed. (2013), 4.2.

Parts of different size are stored in arrays of the largest, with zeros below the others' last row.
"""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular
from jaxtyping import Bool, Float, Int

from pendel.base import Array

FLAT = 1e-9  # eigenvalue where the diagonal is 1: directions that are flatter get this large, finite variance
LEAST = 1e-6  # a diagonal element that an element of z is scaled by


@partial(jax.tree_util.register_dataclass, data_fields=["shared", "border", "blocks"], meta_fields=["sizes"])
@dataclasses.dataclass(frozen=True)
class Arrow:
    """A symmetric arrow matrix: G, B and the blocks of D; `sizes` are the numbers of elements of the parts."""

    shared: Float[Array, "globals globals"]
    border: Float[Array, "parts longest globals"]
    blocks: Float[Array, "parts longest longest"]
    sizes: tuple[int, ...]

    def __add__(self, other: "Arrow") -> "Arrow":
        """Sum of two matrices with the same parts."""
        return jax.tree.map(jnp.add, self, other)

    def __matmul__(self, z: Float[Array, " n"]) -> Float[Array, " n"]:
        """H z."""
        shared, parts = split_parts(z, len(self.shared), self.sizes)
        first = self.shared @ shared + jnp.einsum("kmg,km->g", self.border, parts)
        rest = jnp.einsum("kmg,g->km", self.border, shared) + jnp.einsum("kmn,kn->km", self.blocks, parts)
        return join_parts(first, rest, self.sizes)

    def diagonal(self) -> Float[Array, " n"]:
        """Diagonal elements."""
        return join_parts(jnp.diagonal(self.shared), jnp.diagonal(self.blocks, axis1=1, axis2=2), self.sizes)

    def dense(self) -> Float[Array, "n n"]:
        """All elements; for tests and small problems."""
        return jax.vmap(self.__matmul__)(jnp.eye(len(self.shared) + sum(self.sizes)))

    def root(self, flat: float = FLAT) -> "ArrowRoot":
        """Root of the inverse. Eigenvalues of scaled blocks, and of the Schur complement then, are raised to `flat`."""
        return _root(self, flat)


@partial(jax.tree_util.register_dataclass, data_fields=["shared", "border", "blocks", "raised"], meta_fields=["sizes"])
@dataclasses.dataclass(frozen=True)
class ArrowRoot:
    """The lower triangular L of H^-1 = L L^T: V, R and the blocks of W (see the module).

    `raised`: whether H had an eigenvalue that was raised, so that this is the inverse of another matrix.
    """

    shared: Float[Array, "globals globals"]
    border: Float[Array, "parts longest globals"]
    blocks: Float[Array, "parts longest longest"]
    raised: Bool[Array, ""]
    sizes: tuple[int, ...]

    def forth(self, y: Float[Array, " n"]) -> Float[Array, " n"]:
        """L y: of covariance H^-1 where y is standard normal."""
        shared, parts = split_parts(y, len(self.shared), self.sizes)
        shared = self.shared @ shared
        rest = jnp.einsum("kmn,kn->km", self.blocks, parts) - jnp.einsum("kmg,g->km", self.border, shared)
        return join_parts(shared, rest, self.sizes)

    def back(self, x: Float[Array, " n"]) -> Float[Array, " n"]:
        """L^T x."""
        shared, parts = split_parts(x, len(self.shared), self.sizes)
        first = self.shared.T @ (shared - jnp.einsum("kmg,km->g", self.border, parts))
        return join_parts(first, jnp.einsum("knm,kn->km", self.blocks, parts), self.sizes)

    def solve(self, x: Float[Array, " n"]) -> Float[Array, " n"]:
        """H^-1 x."""
        return self.forth(self.back(x))

    def log_det(self) -> Float[Array, ""]:
        """log det H."""
        blocks = jnp.diagonal(self.blocks, axis1=1, axis2=2)
        return -2 * (jnp.sum(jnp.log(jnp.diagonal(self.shared))) + jnp.sum(jnp.log(blocks)))

    def of_groups(
        self, places: Int[Array, "groups width"]
    ) -> tuple[Float[Array, "groups width width"], Float[Array, "groups width globals"]]:
        """Covariance within groups of elements, as those of a frame, and of each group with the globals.

        Args:
            places: elements of z, those of a group in one part; beyond the end of z where a group has fewer: zeros.
        """
        part, own = part_of_elements(places, len(self.shared), self.sizes)
        block = jnp.asarray(self.blocks).at[part, own].get(mode="fill", fill_value=0)
        border = jnp.asarray(self.border).at[part, own].get(mode="fill", fill_value=0)
        with_shared = -border @ (self.shared @ self.shared.T)
        within = jnp.einsum("fam,fbm->fab", block, block) - jnp.einsum("fag,fbg->fab", with_shared, border)
        return within, with_shared

    def variance(self) -> Float[Array, " n"]:
        """Diagonal of the covariance."""
        parts = jnp.sum(jnp.square(self.blocks), axis=2) + jnp.sum(jnp.square(self.border @ self.shared), axis=2)
        return join_parts(jnp.sum(jnp.square(self.shared), axis=1), parts, self.sizes)

    def dense(self) -> Float[Array, "n n"]:
        """Covariance of everything; for tests and small problems."""
        root = jax.vmap(self.forth)(jnp.eye(len(self.shared) + sum(self.sizes)))  # L^T
        return root.T @ root


def arrow_of_diagonal(diagonal: Float[Array, " n"], count: int, sizes: tuple[int, ...]) -> Arrow:
    """A diagonal matrix, the first `count` elements of which are globals."""
    shared, parts = split_parts(diagonal, count, sizes)
    border = jnp.zeros((*parts.shape, count))
    return Arrow(jnp.diag(shared), border, parts[:, :, None] * jnp.eye(parts.shape[1]), sizes)


def split_parts(
    z: Float[Array, " n"], count: int, sizes: tuple[int, ...]
) -> tuple[Float[Array, " globals"], Float[Array, "parts longest"]]:
    """Globals and parts of a vector, zeros after the end of shorter parts."""
    z = jnp.asarray(z)
    return z[:count], z.at[part_places(count, sizes)].get(mode="fill", fill_value=0)


def join_parts(
    shared: Float[Array, " globals"], parts: Float[Array, "parts longest"], sizes: tuple[int, ...]
) -> Float[Array, " n"]:
    """The inverse of `split_parts`."""
    return jnp.concatenate([shared, *(part[:size] for part, size in zip(parts, sizes, strict=True))])


def part_places(count: int, sizes: tuple[int, ...]) -> Int[np.ndarray, "parts longest"]:
    """Elements of z by part; a number beyond the end of z after the end of shorter parts."""
    number, first = np.arange(max(sizes, default=0)), count + np.cumsum([0, *sizes])
    rows = [np.where(number < size, begin + number, first[-1]) for begin, size in zip(first, sizes, strict=False)]
    return np.array(rows, dtype=np.int32).reshape(len(sizes), len(number))


def part_of_elements(places: Array, count: int, sizes: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Part of elements of z and their number in it; a part that does not exist for elements beyond the end of z."""
    first = count + np.cumsum([0, *sizes])
    part = np.searchsorted(first, np.asarray(places), side="right") - 1
    return part, np.asarray(places) - first[part]


@jax.jit
def _root(arrow: Arrow, flat: float | Array) -> ArrowRoot:
    count, sizes = len(arrow.shared), arrow.sizes
    scale, scales = split_parts(jnp.sqrt(jnp.maximum(arrow.diagonal(), LEAST)), count, sizes)
    shared = arrow.shared / (scale[:, None] * scale)

    def one(part: Any):
        block, border, own = part
        padding = jnp.diag(jnp.where(own == 0, 1.0, 0.0))
        own = jnp.where(own == 0, 1.0, own)
        root, raised = _inverse_root(block / (own[:, None] * own) + padding, flat)
        inner = root.T @ (border / (own[:, None] * scale))
        return root / own[:, None], (root @ inner) * scale / own[:, None], inner.T @ inner, raised

    blocks, border, raised = arrow.blocks, arrow.border, jnp.zeros(0, dtype=bool)
    if sizes:
        blocks, border, taken, raised = jax.lax.map(one, (arrow.blocks, arrow.border, scales))
        shared = shared - jnp.sum(taken, axis=0)
    root, is_raised = _inverse_root(shared, flat) if count else (shared, jnp.zeros((), dtype=bool))
    return ArrowRoot(root / scale[:, None], border, blocks, jnp.any(raised) | is_raised, sizes)


def _inverse_root(matrix: Float[Array, "m m"], flat: float | Array) -> tuple[Float[Array, "m m"], Bool[Array, ""]]:
    """Lower triangular W with W W^T = the inverse of a matrix, eigenvalues raised to `flat`; and whether any was.

    A Cholesky factor costs a twentieth of the eigenvalues. It serves where |W|^2, which is at least 1 / the smallest
    eigenvalue, shows that none is to be raised.
    """
    upper = jnp.linalg.cholesky(matrix[::-1, ::-1])[::-1, ::-1]
    root = solve_triangular(upper, jnp.eye(len(matrix)), lower=False).T

    def raised(matrix, _):
        value, vector = jnp.linalg.eigh(matrix)
        inverse = (vector / jnp.maximum(value, flat)) @ vector.T
        return jnp.linalg.cholesky(0.5 * (inverse + inverse.T)), value[0] < flat

    def as_it_is(_, root):
        return root, jnp.zeros((), dtype=bool)

    return jax.lax.cond(jnp.sum(root**2) * flat < 1, as_it_is, raised, matrix, root)
