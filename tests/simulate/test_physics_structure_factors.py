"""U_g against gemmi's own electron structure factors (Peng table), the slow sum over atoms, and symmetry."""

import itertools

import gemmi
import numpy as np
import pytest

from oracles import slow_bloch
from oracles.read_sites import read_coefficients
from pendel.crystal.form_factors import form_factors
from pendel.simulate.scattering import PIECE, structure_factors
from physics_cases import QUARTZ, TRICLINIC, WAVELENGTH, crystal_of, oracle_cell_of

HKL = np.array(list(itertools.product(range(-3, 4), range(-3, 4), range(-4, 5))))
STRUCTURES = [QUARTZ, TRICLINIC]


def u_of(structure, hkl, table):
    crystal = crystal_of(structure)
    length = np.sqrt(np.einsum("gi,ij,gj->g", hkl, np.linalg.inv(slow_bloch.metric(structure.cell)), hkl))
    return np.asarray(structure_factors(crystal, hkl, form_factors(crystal.elements, length, table), WAVELENGTH))


def small_structure(structure):
    """The structure in gemmi, which expands it by its own table of space groups."""
    result = gemmi.SmallStructure()
    result.cell = gemmi.UnitCell(*structure.cell)
    operations = gemmi.GroupOps([gemmi.Op(text) for text in structure.operators])
    result.spacegroup = gemmi.find_spacegroup_by_ops(operations)
    crystal = crystal_of(structure)
    for i, (element, _, _, occupancy) in enumerate(structure.sites):
        site = gemmi.SmallStructure.Site()
        site.label = f"{element}{i}"
        site.element = gemmi.Element(element)
        site.fract = gemmi.Fractional(*crystal.fract[i])
        site.occ = occupancy
        (u11, u12, u13), (_, u22, u23), (_, _, u33) = crystal.u_aniso[i].tolist()
        site.aniso = gemmi.SMat33d(u11, u22, u33, u12, u13, u23)
        result.add_site(site)
    result.setup_cell_images()
    result.change_occupancies_to_crystallographic()
    return result


@pytest.mark.parametrize("structure", STRUCTURES, ids=lambda s: s.name)
def test_against_gemmi(structure):
    """F(hkl) = pi V U_hkl / gamma, sign of the phase included; gemmi keeps the table in single precision."""
    atoms = small_structure(structure)
    calculator = gemmi.StructureFactorCalculatorE(atoms.cell)
    theirs = np.array([calculator.calculate_sf_from_small_structure(atoms, hkl) for hkl in HKL.tolist()])
    gamma = slow_bloch.lorentz_factor(WAVELENGTH)
    ours = u_of(structure, HKL, "peng") * np.pi * atoms.cell.volume / gamma
    assert np.abs(theirs.imag).max() > 1.0 or structure is TRICLINIC
    np.testing.assert_allclose(ours, theirs, atol=3e-6 * np.abs(theirs).max())


@pytest.mark.parametrize("structure", STRUCTURES, ids=lambda s: s.name)
def test_against_the_slow_sum(structure):
    cell, coefficients = oracle_cell_of(structure), read_coefficients()
    hkl = HKL[::11]
    expected = [slow_bloch.structure_factor(cell, tuple(h), coefficients, WAVELENGTH) for h in hkl.tolist()]
    np.testing.assert_allclose(u_of(structure, hkl, "lobato"), expected, rtol=0, atol=1e-9)


def test_the_two_tables_agree_to_a_few_per_cent():
    lobato, peng = (np.abs(u_of(QUARTZ, HKL, table)) for table in ("lobato", "peng"))
    strong = lobato > 0.1 * np.sort(lobato)[-2]
    np.testing.assert_allclose(peng[strong], lobato[strong], rtol=0.08)
    assert np.abs(peng - lobato).max() > 1e-5


def test_space_group_symmetry():
    """U(h R) = U(h) exp(-2 pi i h.t) for every operation; absences of the 3_2 axis; U(-h) = conj U(h)."""
    reference = u_of(QUARTZ, HKL, "lobato")
    for text in QUARTZ.operators:
        rotation, translation = slow_bloch.operator(text)
        turned = u_of(QUARTZ, np.rint(HKL @ rotation).astype(int), "lobato")
        np.testing.assert_allclose(turned, reference * np.exp(-2j * np.pi * HKL @ translation), atol=1e-12)
    along = np.array([(0, 0, i) for i in range(1, 9)])
    absent = np.abs(u_of(QUARTZ, along, "lobato")) < 1e-12
    assert absent.tolist() == [i % 3 != 0 for i in range(1, 9)]
    np.testing.assert_allclose(u_of(QUARTZ, -HKL, "lobato"), np.conj(reference), atol=1e-15)


def test_many_reflections_are_summed_in_pieces():
    crystal = crystal_of(TRICLINIC)
    count = 2 * PIECE // len(crystal.atom_site) + 7
    axis = np.arange(-1 - int(count ** (1 / 3) / 2), 2 + int(count ** (1 / 3) / 2))
    hkl = np.stack(np.meshgrid(axis, axis, axis), axis=-1).reshape(-1, 3)[:count]
    factors = 1 + np.random.default_rng(1).random((len(crystal.elements), count))
    whole = np.asarray(structure_factors(crystal, hkl, factors, WAVELENGTH))
    few = [slice(start, start + count // 8 + 1) for start in range(0, count, count // 8 + 1)]
    parts = [np.asarray(structure_factors(crystal, hkl[part], factors[:, part], WAVELENGTH)) for part in few]
    np.testing.assert_allclose(whole, np.concatenate(parts), rtol=1e-12, atol=1e-14)
