"""Absorptive form factors: published values, closed forms, and a quadrature of another kind; U'_g of crystals."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pendel
from oracles import slow_absorption, slow_bloch
from oracles.read_sites import read_coefficients
from pendel.simulate.scattering import absorption_factors, absorption_length
from pendel.simulate.thermal import LARGEST, RADII, SMALLEST, absorptive_form_factors, pair_integrals
from physics_cases import QUARTZ, WAVELENGTH, crystal_of, tensor

S = np.array([0.0, 0.05, 0.2, 0.5, 0.75])
BETA = slow_absorption.beta(WAVELENGTH)


def elastic(element):
    """f(s) of an element in plain NumPy."""
    a, b = map(np.array, read_coefficients()[element])
    return partial(slow_absorption.lobato, a, b)


def fast(element, b, s=S):
    return np.asarray(absorptive_form_factors((element,), s, np.array([b]), WAVELENGTH))[:, 0]


@pytest.mark.parametrize("b", [0.1, 0.5, 6.0, 20.0])
def test_against_a_slow_quadrature(b):
    elements = ("H", "C", "Si", "Cs", "Pb")
    slow = [[slow_absorption.absorptive_form_factor(elastic(e), s, b, WAVELENGTH) for e in elements] for s in S]
    found = absorptive_form_factors(elements, S, np.full(len(elements), b), WAVELENGTH)
    np.testing.assert_allclose(found, slow, rtol=1e-5)


def test_forward_values():
    """f'(0) v/c [Å], which does not depend on the energy."""
    elements, b = ("C", "O", "Si", "Br", "Cs", "Pb"), np.array([0.5, 0.5, 0.5, 1.0, 1.0, 1.0])
    found = absorptive_form_factors(elements, np.zeros(1), b, WAVELENGTH)[0]
    np.testing.assert_allclose(found * BETA, [0.00643, 0.01041, 0.0269, 0.1844, 0.4165, 0.754], rtol=1e-3)


@pytest.mark.parametrize(("element", "b"), [("C", 0.5), ("O", 4.0), ("Pb", 1.0)])
def test_optical_theorem(element, b):
    """2 gamma lambda f'(0) is the total cross section of thermal diffuse scattering."""
    gamma = 1 / np.sqrt(1 - BETA**2)
    total = slow_absorption.diffuse_cross_section(elastic(element), b, WAVELENGTH)
    assert 2 * gamma * WAVELENGTH * fast(element, b)[0] == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("b", [0.5, 6.0])
def test_gaussian_form_factors(b):
    """For f = sum a exp(-p s²) every pair of Gaussians has an integral in closed form."""
    a, p = np.array([1.2, 0.7]), np.array([8.0, 2.5])

    def f(g):
        return np.sum(a * np.exp(-p * np.asarray(g)[..., None] ** 2 / 4), axis=-1)

    def integral(extra):
        """Int d²s' f f exp(-extra s'²): exponents -(p + q)(s'² + s²/4) - (p - q) s.s' - extra s'²."""
        total, skew = p[:, None] + p, p[:, None] - p
        exponent = (skew**2 / (4 * (total + extra)) - total / 4) * S[:, None, None] ** 2
        return np.sum(a[:, None] * a * np.pi / (total + extra) * np.exp(exponent), axis=(1, 2))

    radius = np.geomspace(SMALLEST, LARGEST, RADII)
    factor = 1 - np.exp(-2 * b * (radius**2 - S[:, None] ** 2 / 4))
    found = np.sum(pair_integrals(f, S) * factor, axis=1)
    np.testing.assert_allclose(found, integral(0.0) - np.exp(b * S**2 / 2) * integral(2 * b), rtol=1e-6)


def test_derivative_by_b():
    def f(b):
        return absorptive_form_factors(("O",), S, b, WAVELENGTH)[:, 0]

    b, step = jnp.array([1.3]), 1e-4
    _, slope = jax.jvp(f, (b,), (jnp.ones(1),))
    np.testing.assert_allclose(slope, (f(b + step) - f(b - step)) / (2 * step), rtol=1e-6)
    np.testing.assert_allclose(jax.jacrev(f)(b)[:, 0], slope, rtol=1e-12)


def isotropic(u):
    """CIF tensor of an isotropic atom in a hexagonal cell."""
    return tensor(u, u, u, u12=u / 2)


def test_coefficients_of_a_chiral_crystal():
    """U'_g = (gamma / pi V) sum f' T exp(2 pi i h.r) over the atoms of the cell, isotropic ones."""
    sites = tuple((element, xyz, isotropic(u[0, 0]), share) for element, xyz, u, share in QUARTZ.sites)
    structure = dataclasses.replace(QUARTZ, sites=sites)
    crystal = crystal_of(structure)
    hkl = np.array([[0, 0, 0], [1, 0, 0], [1, 0, 1], [2, -1, 3], [-2, 0, 1], [0, 0, 4]])
    inverse = np.linalg.inv(slow_bloch.metric(QUARTZ.cell))
    s = 0.5 * np.sqrt(np.einsum("gi,ij,gj->g", hkl, inverse, hkl))
    gamma, volume = 1 / np.sqrt(1 - BETA**2), np.sqrt(np.linalg.det(slow_bloch.metric(QUARTZ.cell)))
    expected = np.zeros(len(hkl), complex)
    for element, xyz, u, _ in structure.sites:
        b = 8 * np.pi**2 * u[0, 0]
        factor = np.array([slow_absorption.absorptive_form_factor(elastic(element), x, b, WAVELENGTH) for x in s])
        images = {
            tuple(np.round((r @ np.array(xyz) + t) % 1, 6))
            for r, t in (slow_bloch.operator(text) for text in QUARTZ.operators)
        }
        phase = np.sum([np.exp(2j * np.pi * (hkl @ np.array(image))) for image in images], axis=0)
        expected += gamma / (np.pi * volume) * factor * np.exp(-b * s**2) * phase
    found = absorption_factors(crystal, hkl, WAVELENGTH, g_max=2.0)
    np.testing.assert_allclose(found, expected, atol=2e-5 * abs(expected[0]))
    assert abs(expected[3].imag) > 0.01 * abs(expected[0])


def test_flat_atoms_absorb_no_more_at_large_g():
    """|U'_g| <= U'_0 for atoms that vibrate ten times as far along one axis as along another."""
    sites = (("Br", (0.13, 0.27, 0.41), tensor(0.1, 0.1, 0.01), 1.0),)
    structure = dataclasses.replace(QUARTZ, cell=(3.0, 3.0, 3.0, 90.0, 90.0, 90.0), operators=("x,y,z",), sites=sites)
    index = np.arange(-6, 7)
    hkl = np.stack(np.meshgrid(index, index, index), axis=-1).reshape(-1, 3)
    found = absorption_factors(crystal_of(structure), hkl, WAVELENGTH, g_max=4.0)
    assert np.max(np.abs(found)) == pytest.approx(float(np.real(found[len(hkl) // 2])))


@pytest.mark.parametrize(
    ("structure", "length"), [("cspbbr3/cspbbr3.cif", 790.0), ("quartz/quartz_dynamical.cif", 6300.0)]
)
def test_absorption_lengths_of_known_crystals(shared_data, structure, length):
    """Estimates for usual displacement parameters; those of the files differ by some per cent."""
    crystal = pendel.read_crystal(shared_data / structure)
    assert absorption_length(crystal, WAVELENGTH) == pytest.approx(length, rel=0.15)
