"""Fourier coefficients of the electron potential and of its absorption: atoms and form factors to U_g and U'_g."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Complex, Float, Int

from pendel.base import Array
from pendel.constants import relativistic_gamma
from pendel.crystal.structure import Crystal, expanded_atoms, reciprocal_matrix, u_equivalent, volume
from pendel.simulate.thermal import thermal_sums

BOHR_RADIUS = 0.529177210903  # Å, CODATA 2018
MOTT_BETHE = 1 / (8 * np.pi**2 * BOHR_RADIUS)  # C = 0.023934 Å⁻¹ of f_e = C (Z - f_x) / s²
PIECE = 300_000  # terms (reflections x atoms) of a sum in memory together: 2.4 MB, and as much for each tangent


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

    def total(hkl, form_factor):
        exponent, phase, occupancy = _atoms(crystal, hkl)
        damping = occupancy * jnp.exp(-exponent)
        found = _sum_over_atoms(form_factor[:, jnp.asarray(crystal.atom_site)] * damping, phase)
        if crystal.cloud is not None:
            found = found + cloud_factors(crystal, hkl, form_factor.T, damping, phase)
        return found

    return _prefactor(crystal, wavelength) * _in_pieces(total, crystal, hkl, jnp.asarray(form_factor).T)


def absorption_factors(
    crystal: Crystal, hkl: Int[Array, "g 3"], wavelength: Float[Array, ""] | float, *, g_max: float
) -> Complex[Array, " g"]:
    """Fourier coefficients of the absorption by thermal diffuse scattering, U'_g [Å⁻²], of a potential U + i U'.

        U'_g = (gamma / (pi V)) sum_j occ_j [a_j T_j(g) - c_j T_j(g)^(1/2)] exp(2 pi i h.r_j),   B_j = 8 pi^2 U_eq,j

    T_j is the Debye-Waller factor of `structure_factors`, a and c are the terms of f'(s, B), see `thermal_sums`. For
    isotropic atoms the bracket is f'_j T_j. For others f'_j T_j would grow with g along their short axes, because
    exp(B s^2 / 2) would not be half of the Debye-Waller factor. Hydrogen absorbs at its
    nucleus as a spherical atom with its own U: it absorbs a twentieth of what carbon does, and a shift of its cloud by
    0.1 Å is a small part of that.

    Args:
        crystal: structure; differentiable in `fract`, `u_aniso` [Å²] and `occupancy`.
        hkl: Miller indices, also 000.
        wavelength: electron wavelength [Å].
        g_max: no |g| is larger [Å⁻¹].
    """
    site = jnp.asarray(crystal.atom_site)
    s = 0.5 * jnp.linalg.norm(jnp.asarray(hkl) @ reciprocal_matrix(crystal.cell).T, axis=1)
    b = 8 * jnp.pi**2 * u_equivalent(crystal.u_aniso, crystal.cell)
    whole, damped = thermal_sums(crystal.elements, s, b, wavelength, s_max=g_max / 2)

    def total(hkl, whole, damped):
        exponent, phase, occupancy = _atoms(crystal, hkl)
        bracket = whole[:, site] * jnp.exp(-exponent) - damped[:, site] * jnp.exp(-0.5 * exponent)
        return _sum_over_atoms(occupancy * bracket, phase)

    return _prefactor(crystal, wavelength) * _in_pieces(total, crystal, hkl, whole, damped)


def absorption_length(crystal: Crystal, wavelength: float) -> float:
    """Mean absorption length lambda_0 = 1 / (2 pi lambda U'_0) [Å], in which all beams together fall to 1/e."""
    mean = absorption_factors(crystal, np.zeros((1, 3), dtype=int), wavelength, g_max=0.0)
    return float(1 / (2 * np.pi * wavelength * jnp.real(mean[0])))


def _atoms(
    crystal: Crystal, hkl: Int[Array, "g 3"]
) -> tuple[Float[Array, "g atoms"], Float[Array, "g atoms"], Float[Array, " atoms"]]:
    """2 pi^2 h^T U* h and the phase 2 pi h.r of every atom of the cell, and its occupancy."""
    position, u_star, occupancy = expanded_atoms(crystal, crystal.fract, crystal.u_aniso, crystal.occupancy)
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
    return 2 * jnp.pi**2 * quadratic, phase, occupancy


def _in_pieces(total: Callable[..., Array], crystal: Crystal, *by_hkl: Array) -> Complex[Array, " g"]:
    """A sum over the atoms of the cell for every reflection, for so many at a time that memory stays bounded.

    Without this the tangents of all coordinates of a molecule take tens of gigabytes.

    Args:
        total: of some rows of every array of `by_hkl` the sums.
    """
    count, largest = len(by_hkl[0]), max(1, PIECE // len(crystal.atom_site))
    pieces = -(-count // largest)
    if pieces <= 1:
        return total(*by_hkl)
    size = -(-count // pieces)

    def in_rows(values):
        values = jnp.asarray(values)
        filled = jnp.concatenate([values, jnp.repeat(values[-1:], pieces * size - count, axis=0)])
        return filled.reshape(pieces, size, *values.shape[1:])

    found = jax.lax.map(jax.checkpoint(lambda rows: total(*rows)), tuple(map(in_rows, by_hkl)))
    return found.reshape(-1)[:count]


def _prefactor(crystal, wavelength):
    """gamma / (pi V), V the volume of the cell."""
    return relativistic_gamma(wavelength) / (np.pi * volume(crystal.cell))


def _sum_over_atoms(amplitude, phase):
    """sum_j amplitude_j exp(i phase_j)."""
    return jnp.sum(amplitude * jnp.cos(phase), axis=1) + 1j * jnp.sum(amplitude * jnp.sin(phase), axis=1)


def cloud_factors(
    crystal: Crystal,
    hkl: Int[Array, "g 3"],
    form_factor: Float[Array, "sites g"],
    damping: Float[Array, "g atoms"],
    phase: Float[Array, "g atoms"],
) -> Complex[Array, " g"]:
    """What hydrogen whose electron cloud is not around its nucleus adds to the sum over atoms [Å].

        F_H = (C / s²) [exp(2 pi i h.x_n) - f_x exp(2 pi i h.x_e)] T,   f_x = 1 - f_e s² / C  (Mott-Bethe)
        F_H - f_e exp(2 pi i h.x_n) T = (C / s² - f_e) [exp(2 pi i h.x_n) - exp(2 pi i h.x_e)] T

    x_n is the nucleus (`fract`), x_e = x_n + `cloud` the middle of the cloud, s = |g| / 2. Zero without a shift.

    Args:
        hkl: Miller indices, not 000.
        form_factor: f_e of spherical hydrogen.
        damping: occupancy times Debye-Waller factor T of every atom.
        phase: 2 pi h.x_n of every atom.

    Source of the idea: Yamashita, Palmer, Burnley & Murshudov (2021), Acta Cryst. D77, 1282 (REFMAC5, Servalcat).
    """
    site, h = jnp.asarray(crystal.atom_site), jnp.asarray(hkl, dtype=float)
    rotations = jnp.asarray(crystal.rotations, dtype=float)[crystal.atom_op]
    shift = jnp.einsum("aij,aj->ai", rotations, jnp.asarray(crystal.cloud)[site])
    displaced = phase + 2 * jnp.pi * h @ shift.T
    squared = jnp.sum((h @ reciprocal_matrix(crystal.cell).T) ** 2, axis=1) / 4  # s²
    electrons = damping * (MOTT_BETHE / squared[:, None] - form_factor[site].T)
    return _sum_over_atoms(electrons, phase) - _sum_over_atoms(electrons, displaced)


def _quadratic_terms(h: Float[Array, "g 3"]) -> Float[Array, "g 6"]:
    """h_1 h_1, h_2 h_2, h_3 h_3, h_1 h_2, h_1 h_3, h_2 h_3 of every reflection."""
    return jnp.stack(
        [h[:, 0] ** 2, h[:, 1] ** 2, h[:, 2] ** 2, h[:, 0] * h[:, 1], h[:, 0] * h[:, 2], h[:, 1] * h[:, 2]], axis=1
    )
