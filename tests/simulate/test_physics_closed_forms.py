"""Cases with a formula: two beams, thin crystals, weak scattering, a crystal of no thickness."""

import jax.numpy as jnp
import numpy as np
import pytest

from oracles import slow_bloch
from oracles.read_sites import read_coefficients
from physics_cases import (
    NEAR_ZONE,
    QUARTZ,
    WAVELENGTH,
    along_axis,
    crystal_of,
    eigenproblem,
    oracle_cell_of,
    orientation_of,
    propagate,
    zone_beams,
)

pytestmark = pytest.mark.optimized


@pytest.fixture(scope="module")
def quartz():
    return crystal_of(QUARTZ)


@pytest.fixture(scope="module")
def many_beams(quartz):
    """About fifty beams of quartz: the eigenproblem and its dense matrix A [rad/Å]."""
    beams = zone_beams(QUARTZ, NEAR_ZONE, g_max=1.2, sg_max=0.02)
    interaction, diagonal, flux = eigenproblem(quartz, beams, NEAR_ZONE)
    m, v = np.asarray(flux[0, :, 0]), np.asarray(interaction[0])
    return (interaction, diagonal, flux), np.diag(np.asarray(diagonal[0, :, 0])) + m[:, None] * v * m[None, :]


@pytest.mark.parametrize("excitation_error", [0.0, 1e-3, -3e-3])
def test_two_beam_pendelloesung(quartz, excitation_error):
    """I_g = sin²(pi s_eff t) / (xi s_eff)², s_eff² = S² + 1/xi², 1/xi = lambda |U_g|.

    Source: Hirsch et al., Electron Microscopy of Thin Crystals (1965), chapter 8. For an inclined diffracted beam
    1/xi carries the flux factor M and S carries M².
    """
    hkl = (1, 0, 1)
    g = tilted_to(orientation_of(QUARTZ), hkl, excitation_error)
    problem = eigenproblem(quartz, [(0, 0, 0), hkl], g)
    m_squared = 1 / (1 - WAVELENGTH * (g @ hkl)[2])
    u_g = slow_bloch.structure_factor(oracle_cell_of(QUARTZ), hkl, read_coefficients(), WAVELENGTH)
    inverse_xi = WAVELENGTH * abs(u_g) * np.sqrt(m_squared)
    s_effective = np.hypot(excitation_error * m_squared, inverse_xi)
    thickness = np.array([0.0, 40.0, 333.0, 900.0, 1500.0])
    expected = (inverse_xi / s_effective) ** 2 * np.sin(np.pi * s_effective * thickness) ** 2
    wave = np.asarray(propagate(problem, thickness))[0, :, :, 0]
    assert expected.max() > 0.02
    np.testing.assert_allclose(np.abs(wave[:, 1]) ** 2, expected, atol=1e-8)
    np.testing.assert_allclose(np.abs(wave[:, 0]) ** 2, 1 - expected, atol=1e-8)


def tilted_to(orientation, hkl, excitation_error):
    """The orientation turned about an axis across the beam until `hkl` has the given excitation error [Å⁻¹]."""
    g = orientation @ np.asarray(hkl, dtype=float)
    length = np.linalg.norm(g)
    height = excitation_error + 0.5 * WAVELENGTH * length**2
    axis = np.cross(g, (0.0, 0.0, 1.0))
    return slow_bloch.rodrigues(axis, np.arccos(g[2] / length) - np.arccos(height / length)) @ orientation


def test_thin_crystal_scatters_once(many_beams):
    """psi_g = i A_g0 t + O(t²): the deviation is proportional to t."""
    problem, matrix = many_beams
    thin = np.array([0.004, 0.002])
    wave = np.asarray(propagate(problem, thin))[0, :, :, 0]
    single = 1j * matrix[1:, 0] * thin[:, None]
    error = np.abs(wave[:, 1:] - single).max(axis=1)
    assert error[0] < 1e-3 * np.abs(single[0]).max()
    assert error[0] / error[1] == pytest.approx(4.0, rel=1e-3)


def test_weak_scattering_is_kinematic(many_beams):
    """Potential scaled by 1e-5: I_g = |V_g0 M_g t|² sinc²(S_g M_g² t), at any thickness."""
    (interaction, diagonal, flux), _ = many_beams
    thickness = np.array([100.0, 900.0])
    wave = np.asarray(propagate((1e-5 * interaction, diagonal, flux), thickness))[0, :, :, 0]
    half_phase = 0.5 * np.asarray(diagonal[0, :, 0]) * thickness[:, None]
    coupling = 1e-5 * np.asarray(interaction[0, :, 0] * flux[0, :, 0])
    expected = np.abs(coupling * thickness[:, None] * np.sinc(half_phase / np.pi)) ** 2
    strong = expected.max()
    assert strong < 1e-6
    np.testing.assert_allclose(np.abs(wave[:, 1:]) ** 2, expected[:, 1:], atol=1e-3 * strong)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_no_thickness_no_diffraction(many_beams, dtype):
    wave = np.asarray(propagate(many_beams[0], np.array([0.0, 10.0]), dtype=dtype))[0, 0, :, 0]
    np.testing.assert_allclose(wave, np.eye(len(wave))[0], atol=1e-12 if dtype == "float64" else 1e-6)


def test_flux_factor_follows_the_inclined_beam(quartz):
    """A_gg = 2 pi S_g M_g² and A_g0 = pi lambda M_g U_{0-g}, M_g² = 1 / (1 - lambda g_z), for a strongly inclined g."""
    hkl = (2, 1, 0)
    orientation = tilted_to(along_axis(QUARTZ, (0, 0, 1)), hkl, 0.3)
    interaction, diagonal, flux = eigenproblem(quartz, [(0, 0, 0), hkl], orientation)
    g = orientation @ np.asarray(hkl)
    s_g = (1 / WAVELENGTH**2 - np.sum((g - [0, 0, 1 / WAVELENGTH]) ** 2)) * WAVELENGTH / 2
    m_squared = 1 / (1 - WAVELENGTH * g[2])
    u_minus_g = slow_bloch.structure_factor(oracle_cell_of(QUARTZ), (-2, -1, 0), read_coefficients(), WAVELENGTH)
    assert s_g == pytest.approx(0.3, abs=1e-9)
    assert m_squared > 1.005
    assert float(diagonal[0, 1, 0]) == pytest.approx(2 * np.pi * s_g * m_squared, rel=1e-12)
    assert float(flux[0, 1, 0]) ** 2 == pytest.approx(m_squared, rel=1e-12)
    assert complex(interaction[0, 1, 0]) == pytest.approx(np.pi * WAVELENGTH * u_minus_g, rel=1e-8)
    assert float(jnp.abs(interaction[0, 0, 0])) == 0.0
