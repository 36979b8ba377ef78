"""Structure factors of the electron potential: atoms and form factors to U_g."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Complex, Float, Int

from pendel.base import Array
from pendel.constants import relativistic_gamma
from pendel.crystal.structure import Crystal, expanded_atoms, reciprocal_matrix, volume

BOHR_RADIUS = 0.529177210903  # Å, CODATA 2018
MOTT_BETHE = 1 / (8 * np.pi**2 * BOHR_RADIUS)  # C = 0.023934 Å⁻¹ of f_e = C (Z - f_x) / s²


def structure_factors(
    crystal: Crystal, hkl: Int[Array, "g 3"], form_factor: Float[Array, "sites g"], wavelength: Float[Array, ""] | float
) -> Complex[Array, " g"]:
    """Scaled Fourier coefficients of the crystal potential, U_g [Å⁻²].

        U_g = (gamma / (pi V)) sum_j occ_j f_j(g) exp(-2 pi^2 h^T U*_j h) exp(2 pi i h.r_j)

    Where the crystal has clouds of hydrogen beside their nuclei, `cloud_factors` is added to the sum.

    Args:
        crystal: structure; differentiable in `fract`, `u_aniso` [Å²], `occupancy` and `cloud`.
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
    total = real + 1j * imaginary
    if crystal.cloud is not None:
        damping = occupancy * jnp.exp(-2 * jnp.pi**2 * quadratic)
        total = total + cloud_factors(crystal, h, jnp.asarray(form_factor), damping, phase)
    return prefactor * total


def cloud_factors(
    crystal: Crystal,
    h: Float[Array, "g 3"],
    form_factor: Float[Array, "sites g"],
    damping: Float[Array, "g atoms"],
    phase: Float[Array, "g atoms"],
) -> Complex[Array, " g"]:
    """What hydrogen whose electron cloud is not around its nucleus adds to the sum over atoms [Å].

        F_H = (C / s²) [exp(2 pi i h.x_n) - f_x exp(2 pi i h.x_e)] T,   f_x = 1 - f_e s² / C  (Mott-Bethe)
        F_H - f_e exp(2 pi i h.x_n) T = (C / s² - f_e) [exp(2 pi i h.x_n) - exp(2 pi i h.x_e)] T

    x_n is the nucleus (`fract`), x_e = x_n + `cloud` the middle of the cloud, s = |g| / 2. Zero without a shift.

    Args:
        h: Miller indices, not 000.
        form_factor: f_e of spherical hydrogen.
        damping: occupancy times Debye-Waller factor T of every atom.
        phase: 2 pi h.x_n of every atom.

    Source of the idea: Yamashita, Palmer, Burnley & Murshudov (2021), Acta Cryst. D77, 1282 (REFMAC5, Servalcat).
    """
    site = jnp.asarray(crystal.atom_site)
    rotations = jnp.asarray(crystal.rotations, dtype=float)[crystal.atom_op]
    shift = jnp.einsum("aij,aj->ai", rotations, jnp.asarray(crystal.cloud)[site])
    displaced = phase + 2 * jnp.pi * h @ shift.T
    squared = jnp.sum((h @ reciprocal_matrix(crystal.cell).T) ** 2, axis=1) / 4  # s²
    electrons = damping * (MOTT_BETHE / squared[:, None] - form_factor[site].T)
    real = jnp.sum(electrons * (jnp.cos(phase) - jnp.cos(displaced)), axis=1)
    imaginary = jnp.sum(electrons * (jnp.sin(phase) - jnp.sin(displaced)), axis=1)
    return real + 1j * imaginary


def _quadratic_terms(h: Float[Array, "g 3"]) -> Float[Array, "g 6"]:
    """h_1 h_1, h_2 h_2, h_3 h_3, h_1 h_2, h_1 h_3, h_2 h_3 of every reflection."""
    return jnp.stack(
        [h[:, 0] ** 2, h[:, 1] ** 2, h[:, 2] ** 2, h[:, 0] * h[:, 1], h[:, 0] * h[:, 2], h[:, 1] * h[:, 2]], axis=1
    )
