"""Form factors: their limits, the two tables against each other, and structure factors of another program."""

import json
from dataclasses import replace

import gemmi
import numpy as np
import pytest

from pendel.base import InputError
from pendel.constants import relativistic_gamma
from pendel.crystal.cell import reciprocal_matrix, volume
from pendel.crystal.form_factors import contracted_form_factors, form_factors, lobato_coefficients, peng_gaussians
from pendel.crystal.structure import ELEMENTS, expanded_atoms
from pendel.files.cif import read_crystal

BOHR_RADIUS = 0.529177210903  # Å


def test_lobato_limits():
    a, b = np.moveaxis(lobato_coefficients(ELEMENTS), -1, 0)
    assert np.allclose(form_factors(ELEMENTS, np.zeros(1))[:, 0], 2 * np.sum(a, axis=1))
    charge = 2 * np.pi**2 * BOHR_RADIUS * np.sum(a / b, axis=1)  # Mott: g² f -> Z / (2 pi² a_0)
    assert np.allclose(charge, np.arange(1, 104), rtol=1e-6)


def test_hydrogen_against_its_closed_form():
    g = np.linspace(0, 3, 31)
    # First Born factor of the 1s density: f = (1 - fx) / (2 pi² a_0 g²), fx = (1 + (pi a_0 g)²)⁻²
    x = (np.pi * BOHR_RADIUS * g) ** 2
    exact = BOHR_RADIUS / 2 * (2 + x) / (1 + x) ** 2
    assert np.allclose(form_factors(("H",), g)[0], exact, rtol=1e-4)


@pytest.mark.parametrize("table", ["lobato", "peng"])
def test_a_contraction_moves_electrons_and_leaves_the_nucleus(table):
    elements, g, k = ("O", "H", "Si"), np.linspace(0.05, 3.5, 40), 1.15
    contracted = np.asarray(contracted_form_factors(elements, g, k, table))
    free, at_smaller = form_factors(elements, g, table), form_factors(elements, g / k, table)
    charge, mott = np.array([8, 14])[:, None], 1 / (2 * np.pi**2 * BOHR_RADIUS)
    electrons = charge - at_smaller[[0, 2]] * (g / k) ** 2 / mott  # f_x at g / k, by f = C (Z - f_x) / s²
    assert np.allclose(contracted[[0, 2]], mott * (charge - electrons) / g**2, rtol=1e-12)
    assert np.allclose(contracted[1], free[1], rtol=1e-12)  # hydrogen stays
    assert np.allclose(contracted_form_factors(elements, g, 1.0, table), free, rtol=1e-12)
    assert np.all(contracted[[0, 2], 0] < 0.8 * free[[0, 2], 0])


def test_two_tables_agree():
    g = np.array([0.0, 0.2, 0.5, 1.0, 2.0])
    elements = ("H", "C", "O", "Si", "Br", "Cs", "Pb")
    # two different atomic calculations: O and Pb differ most, at g = 0
    assert np.allclose(form_factors(elements, g), form_factors(elements, g, "peng"), rtol=0.045)
    everything = ELEMENTS[:98]
    assert np.allclose(form_factors(everything, g), form_factors(everything, g, "peng"), rtol=0.11)


def test_peng_against_the_library():
    g = np.array([0.0, 0.3, 1.1])
    expected = [gemmi.Element("Si").c4322.calculate_sf(value**2 / 4) for value in g]
    assert np.allclose(form_factors(("Si",), g, "peng")[0], expected, rtol=1e-6)  # the library holds 32 bits


def test_unknown_elements_and_tables_are_refused():
    with pytest.raises(InputError, match=r"lobato table has no element Zz. Expected one of its elements, H..Lr"):
        lobato_coefficients(("O", "Zz"))
    with pytest.raises(InputError, match=r"peng table has no element Zz, Fm. Expected one of its elements, H..Cf"):
        peng_gaussians(("O", "Zz", "Fm"))
    with pytest.raises(InputError, match="table of form factors 'kirkland'"):
        form_factors(("O",), np.zeros(1), "kirkland")


@pytest.mark.parametrize("name", ["quartz_frame_50_elastic", "quartz_frame_20_elastic", "cspbbr3_frame_30_elastic"])
def test_structure_factors_of_another_program(shared, name):
    oracle = json.loads((shared / "oracles" / "bloch_intensities.json").read_text())[name]
    path = shared / "data" / name.split("_")[0] / oracle["structure"]
    crystal = replace(read_crystal(path), cell=tuple(oracle["cell"]))
    as_printed = gemmi.read_small_structure(str(path))  # the oracle used the rounded 0.833333 of the file, not 5/6
    fract = np.array([site.fract.tolist() for site in as_printed.sites])
    u_aniso = np.array([site.aniso.as_mat33().tolist() for site in as_printed.sites])
    expected = {key: complex(*value) for key, value in oracle["u_g_inv_angstrom2"].items()}
    hkl = np.array([key.split() for key in expected], dtype=float)
    found = structure_factors(crystal, fract, u_aniso, oracle["wavelength_angstrom"], hkl)
    scale = max(abs(value) for value in expected.values())
    assert np.max(np.abs(found - list(expected.values()))) < 1e-9 * scale


def structure_factors(crystal, fract, u_aniso, wavelength, hkl) -> np.ndarray:
    """U_g [Å⁻²] = gamma / (pi V) sum_j occ_j f_j exp(-2 pi² hᵀ U*_j h) exp(2 pi i h.r_j), atom after atom."""
    positions, tensors, occupancy = (np.asarray(x) for x in expanded_atoms(crystal, fract, u_aniso, crystal.occupancy))
    factors = form_factors(crystal.elements, np.linalg.norm(hkl @ reciprocal_matrix(crystal.cell).T, axis=1))
    total = np.zeros(len(hkl), dtype=complex)
    for atom, site in enumerate(crystal.atom_site):
        damping = np.exp(-2 * np.pi**2 * np.einsum("gi,ij,gj->g", hkl, tensors[atom], hkl))
        total += occupancy[atom] * factors[site] * damping * np.exp(2j * np.pi * hkl @ positions[atom])
    return relativistic_gamma(wavelength) / (np.pi * volume(crystal.cell)) * total
