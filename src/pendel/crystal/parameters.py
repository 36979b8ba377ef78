"""Free parameters of a crystal: displacements along allowed directions, ADPs positive definite by construction."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Float

from pendel.base import Array
from pendel.crystal.structure import Crystal, u_cartesian, u_from_cartesian


def displaced(crystal: Crystal, displacement: Float[Array, " positions"]) -> Float[Array, "sites 3"]:
    """Fractional coordinates after moving the sites along their allowed directions by `displacement` [Å]."""
    return jnp.asarray(crystal.fract) + jnp.einsum("p,psi->si", displacement, jnp.asarray(crystal.position_basis))


def adp(crystal: Crystal, log_strain: Float[Array, " adps"]) -> Float[Array, "sites 3 3"]:
    """U_ij [Å²] after a symmetric log-strain of the start tensors, along the directions the site symmetry allows.

    In Cartesian axes U = sqrt(U_0) exp(sum_k x_k B_k) sqrt(U_0), so U is positive definite for every x and log-normal
    in scale for normal x; U_0 and B_k are invariant under the site's rotations, hence so is U.

    Args:
        log_strain: x, one number per allowed direction, 0 for the start tensor, no unit.
    """
    start = jnp.asarray(u_cartesian(crystal.u_aniso, crystal.cell))
    value, vector = jnp.linalg.eigh(jax.lax.stop_gradient(start))
    root = jnp.einsum("sij,sj,skj->sik", vector, jnp.sqrt(value), vector)
    strain = jnp.einsum("k,ksij->sij", log_strain, jnp.asarray(crystal.adp_basis))
    grown = jax.vmap(jax.scipy.linalg.expm)(strain)
    return u_from_cartesian(root @ grown @ root, crystal.cell)


def with_parameters(
    crystal: Crystal,
    *,
    displacement: Float[Array, " positions"] | None = None,
    log_strain: Float[Array, " adps"] | None = None,
    occupancy: Float[Array, " sites"] | None = None,
) -> Crystal:
    """The crystal with some of its parameters replaced; differentiable in all of them."""
    changes = {}
    if displacement is not None:
        changes["fract"] = displaced(crystal, displacement)
    if log_strain is not None:
        changes["u_aniso"] = adp(crystal, log_strain)
    if occupancy is not None:
        changes["occupancy"] = occupancy
    return dataclasses.replace(crystal, **changes)
