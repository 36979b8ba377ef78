"""Structure factors of hydrogen whose electron cloud is not around its nucleus."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pendel.constants import relativistic_gamma
from pendel.crystal.cell import u_from_cartesian
from pendel.crystal.form_factors import form_factors
from pendel.crystal.structure import reciprocal_matrix, volume
from pendel.simulate.scattering import structure_factors
from physics_cases import Structure, crystal_of

WAVELENGTH = 0.0251
HKL = np.array([[1, 0, 0], [0, 2, 1], [-1, 3, 2], [4, 0, -3]])
C = 0.0239336  # Å⁻¹, m e² / (8 pi eps_0 h²)
CELL = (5.0, 6.0, 7.0, 80.0, 95.0, 105.0)
U = 0.03


def water(cloud, inversion=False):
    tensor = np.asarray(u_from_cartesian(U * np.eye(3), CELL))
    sites = (("O", (0.1, 0.2, 0.3), tensor, 1.0), ("H", (0.27, 0.21, 0.32), tensor, 1.0))
    operators = ("x,y,z", "-x,-y,-z")[: 2 if inversion else 1]
    return dataclasses.replace(crystal_of(Structure("water", CELL, operators, sites)), cloud=cloud)


def factors(crystal):
    g = np.linalg.norm(HKL @ reciprocal_matrix(CELL).T, axis=1)
    return structure_factors(crystal, HKL, form_factors(crystal.elements, g), WAVELENGTH)


@pytest.mark.parametrize("inversion", [False, True])
def test_the_formula_written_out(inversion):
    shift = np.array([0.02, -0.005, 0.004])
    found = np.asarray(factors(water(np.array([[0.0] * 3, shift]), inversion)))
    g = HKL @ reciprocal_matrix(CELL).T
    s2 = np.sum(g**2, axis=1) / 4
    f_o, f_h = (form_factors((element,), 2 * np.sqrt(s2))[0] for element in "OH")
    damping = np.exp(-8 * np.pi**2 * U * s2)
    f_x = 1 - f_h * s2 / C
    total = 0
    for sign in (1, -1) if inversion else (1,):
        oxygen, nucleus = sign * np.array([0.1, 0.2, 0.3]), sign * np.array([0.27, 0.21, 0.32])

        def wave(x):
            return np.exp(2j * np.pi * HKL @ x)

        total = total + f_o * wave(oxygen) + C / s2 * (wave(nucleus) - f_x * wave(nucleus + sign * shift))
    expected = relativistic_gamma(WAVELENGTH) / (np.pi * volume(CELL)) * damping * total
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-9)


def test_without_a_shift_hydrogen_is_spherical():
    plain = factors(water(None))
    np.testing.assert_allclose(factors(water(np.zeros((2, 3)))), plain, rtol=1e-12)


def test_the_derivative_by_the_shift_is_that_of_finite_differences():
    def size(shift):
        return jnp.sum(jnp.abs(factors(water(jnp.zeros((2, 3)).at[1].set(shift)))) ** 2)

    start, step = jnp.array([0.02, 0.0, 0.01]), 1e-5
    slope = jax.grad(size)(start)
    for axis in range(3):
        move = step * jnp.eye(3)[axis]
        assert float(slope[axis]) == pytest.approx(
            float((size(start + move) - size(start - move)) / (2 * step)), rel=1e-4
        )
