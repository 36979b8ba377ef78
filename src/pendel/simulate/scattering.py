"""Structure factors of the electron potential: atoms and form factors to U_g."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Complex, Float, Int

from pendel.base import Array
from pendel.constants import relativistic_gamma
from pendel.crystal.structure import Crystal, expanded_atoms, volume


def structure_factors(
    crystal: Crystal, hkl: Int[Array, "g 3"], form_factor: Float[Array, "sites g"], wavelength: Float[Array, ""] | float
) -> Complex[Array, " g"]:
    """Scaled Fourier coefficients of the crystal potential, U_g [Å⁻²].

        U_g = (gamma / (pi V)) sum_j occ_j f_j(g) exp(-2 pi^2 h^T U*_j h) exp(2 pi i h.r_j)

    Args:
        crystal: structure; differentiable in `fract`, `u_aniso` [Å²] and `occupancy`.
        hkl: Miller indices.
        form_factor: first Born electron form factors of each site at |g| [Å].
        wavelength: electron wavelength [Å], which sets the relativistic factor gamma.

    Source: Zuo & Spence, Advanced Transmission Electron Microscopy (2017), eqs. 5.26-5.30.
    """
    position, u_star, occupancy = expanded_atoms(crystal, crystal.fract, crystal.u_aniso, crystal.occupancy)
    site = jnp.asarray(crystal.atom_site)
    h = jnp.asarray(hkl, dtype=jnp.float64)
    phase = 2 * jnp.pi * h @ position.T
    quadratic = _quadratic_terms(h) @ jnp.stack(
        [
            u_star[:, 0, 0],
            u_star[:, 1, 1],
            u_star[:, 2, 2],
            2 * u_star[:, 0, 1],
            2 * u_star[:, 0, 2],
            2 * u_star[:, 1, 2],
        ]
    )
    amplitude = occupancy * jnp.asarray(form_factor)[site].T * jnp.exp(-2 * jnp.pi**2 * quadratic)
    prefactor = relativistic_gamma(wavelength) / (np.pi * volume(crystal.cell))
    real = jnp.sum(amplitude * jnp.cos(phase), axis=1)
    imaginary = jnp.sum(amplitude * jnp.sin(phase), axis=1)
    return prefactor * (real + 1j * imaginary)


def _quadratic_terms(h: Float[Array, "g 3"]) -> Float[Array, "g 6"]:
    """h_1 h_1, h_2 h_2, h_3 h_3, h_1 h_2, h_1 h_3, h_2 h_3 of every reflection."""
    return jnp.stack(
        [h[:, 0] ** 2, h[:, 1] ** 2, h[:, 2] ** 2, h[:, 0] * h[:, 1], h[:, 0] * h[:, 2], h[:, 1] * h[:, 2]], axis=1
    )
