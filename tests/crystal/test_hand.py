"""The other hand: amplitudes of opposite indices, tabulated operations, and how two opposite hands are recognised."""

from dataclasses import fields, replace

import gemmi
import numpy as np
import pytest

from pendel.crystal.cell import direct_matrix
from pendel.crystal.hand import are_opposite_hands, invert
from pendel.crystal.structure import Crystal, expanded_atoms, is_centrosymmetric, make_crystal
from pendel.crystal.symmetry import polar_directions
from pendel.crystal.tabulated import tabulated

SETTINGS = list(gemmi.spacegroup_table())
HKL = np.random.default_rng(2).integers(-4, 5, size=(20, 3))
HKL[8:] = 2 * (HKL[8:] // 2) + 1  # all odd: in every centring
SHIFTED = ("I 41", "I 41 2 2", "I 41 m d", "I 41 c d", "I -4 2 d", "F d d 2", "F 41 3 2")  # x -> c - x with c not zero
OTHERS = ("P 1", "P 1 21 1", "C 1 m 1", "P 21 21 21", "P n a 21", "I 4", "P 41", "P 3", "R 3:H", "R 3:R", "P 32 2 1")
FREE = ("P 61", "P -6", "F -4 3 m")


def structure(group: gemmi.SpaceGroup, seed: int = 0, sites: int = 3) -> Crystal:
    """Atoms at general positions, without checks (two may be close), in a cell that fits the operations."""
    rng = np.random.default_rng(seed)
    operations = list(group.operations())
    rotations = np.array([operator.rot for operator in operations]) // gemmi.Op.DEN
    slanted = np.diag([6.0, 6.5, 7.0]) + np.triu(rng.uniform(-0.8, 0.8, (3, 3)), 1)
    metric = np.mean(rotations.swapaxes(1, 2) @ (slanted.T @ slanted) @ rotations, axis=0)
    a, b, c = np.sqrt(np.diag(metric))
    cosines = metric[1, 2] / (b * c), metric[0, 2] / (a * c), metric[0, 1] / (a * b)
    spread = rng.normal(0, 0.05, (sites, 3, 3))
    return Crystal(
        name="random",
        cell=(a, b, c, *np.degrees(np.arccos(cosines))),
        spacegroup=group.xhm(),
        labels=tuple(f"O{site}" for site in range(sites)),
        elements=("O",) * sites,
        isotropic=(False,) * sites,
        partly_occupied=(),
        notes=(),
        fract=rng.uniform(0, 1, (sites, 3)),
        u_aniso=0.01 * np.eye(3) + spread @ spread.swapaxes(1, 2),
        occupancy=np.linspace(1.0, 0.5, sites),
        rotations=rotations,
        translations=np.array([operator.tran for operator in operations]) / gemmi.Op.DEN,
        atom_site=np.repeat(np.arange(sites), len(operations)),
        atom_op=np.tile(np.arange(len(operations)), sites),
        position_basis=np.zeros((0, sites, 3)),
        adp_basis=np.zeros((0, sites, 3, 3)),
    )


def amplitudes(crystal: Crystal, hkl: np.ndarray) -> np.ndarray:
    """|F(hkl)| summed over the atoms of the cell; sites absorb differently, so that |F(hkl)| is not |F(-hkl)|."""
    position, tensor, occupancy = map(
        np.asarray, expanded_atoms(crystal, crystal.fract, crystal.u_aniso, crystal.occupancy)
    )
    damping = np.exp(-2 * np.pi**2 * np.einsum("hi,aij,hj->ha", hkl, tensor, hkl))
    scattering = occupancy * np.exp(0.7j * np.asarray(crystal.atom_site))
    return np.abs((damping * np.exp(2j * np.pi * hkl @ position.T)) @ scattering)


def keys(operations) -> set[str]:
    return {operator.wrap().triplet() for operator in operations}


def operations_of(crystal: Crystal) -> list[gemmi.Op]:
    found = []
    for rotation, translation in zip(crystal.rotations, crystal.translations, strict=True):
        operator = gemmi.Op()
        operator.rot = (rotation * gemmi.Op.DEN).tolist()
        operator.tran = np.rint(translation * gemmi.Op.DEN).astype(int).tolist()
        found.append(operator)
    return found


@pytest.mark.parametrize("number", range(1, 231))
def test_the_other_hand_in_every_tabulated_setting(number):
    for group in [group for group in SETTINGS if group.number == number]:
        original = structure(group)
        other = invert(original)
        assert amplitudes(other, HKL) == pytest.approx(amplitudes(original, -HKL), rel=1e-7, abs=1e-9)
        assert keys(operations_of(other)) == keys(gemmi.find_spacegroup_by_name(other.spacegroup).operations())
        back = invert(other)
        assert (back.spacegroup, keys(operations_of(back))) == (group.xhm(), keys(group.operations()))
        np.testing.assert_allclose(back.fract, original.fract, atol=1e-12)
        if not is_centrosymmetric(original):
            assert np.max(np.abs(amplitudes(other, HKL) - amplitudes(original, HKL))) > 0.01


def test_enantiomorphic_pairs_change_their_symbol():
    pairs = {group.xhm(): invert(structure(group)).spacegroup for group in SETTINGS if group.is_enantiomorphic()}
    assert len(pairs) == 22
    assert all(pairs[partner] == symbol != partner for symbol, partner in pairs.items())
    assert pairs["P 41 3 2"] == "P 43 3 2"


def test_a_shifted_origin_is_not_tabulated_and_still_has_another_hand():
    original = structure(gemmi.SpaceGroup("P 31"))
    shift = np.array([0.1, 0.23, 0.0])
    moved = replace(
        original,
        spacegroup="unknown setting",
        fract=original.fract + shift,
        translations=original.translations + shift - original.rotations @ shift,
    )
    assert tabulated(moved.rotations, moved.translations) is None
    other = invert(moved)
    assert other.spacegroup == "unknown setting"
    np.testing.assert_allclose(amplitudes(other, HKL), amplitudes(original, -HKL), rtol=1e-7)


@pytest.mark.parametrize("symbol", ["I 41", "P 32 2 1"])
def test_the_other_hand_is_a_complete_crystal(symbol):
    original = structure(gemmi.SpaceGroup(symbol), seed=3, sites=1)
    names = {"name", "cell", "spacegroup", "rotations", "translations", "labels", "elements"}
    names |= {"fract", "u_aniso", "occupancy", "isotropic"}
    given = {field.name: getattr(original, field.name) for field in fields(Crystal) if field.name in names}
    made = make_crystal(**given)
    other = invert(made)
    again = make_crystal(**given | {name: getattr(other, name) for name in ("spacegroup", "translations", "fract")})
    np.testing.assert_allclose(again.position_basis, other.position_basis, atol=1e-12)
    np.testing.assert_array_equal(again.atom_op, other.atom_op)


@pytest.mark.parametrize("symbol", [*SHIFTED, *OTHERS, *FREE])
def test_refinements_of_opposite_hand_are_recognised(symbol):
    """Whatever image of a site was refined, from whatever origin along a polar axis, with errors of 0.02 Å."""
    rng = np.random.default_rng(4)
    original = structure(gemmi.SpaceGroup(symbol))
    other = invert(original)
    direct = np.asarray(direct_matrix(other.cell))
    polar = polar_directions(other.rotations, direct)
    chosen = rng.integers(len(other.rotations), size=3)
    fract = np.einsum("sij,sj->si", other.rotations[chosen], other.fract) + other.translations[chosen]
    fract += rng.integers(-2, 3, size=(3, 3)) + rng.normal(0, 0.02, (3, 3)) @ np.linalg.inv(direct).T
    fract += np.linalg.inv(direct) @ (polar.T @ np.linspace(1.7, 2.3, len(polar)))
    refined = replace(other, fract=fract)
    assert are_opposite_hands(original, refined)
    assert are_opposite_hands(refined, original)
    assert not are_opposite_hands(other, refined)
    assert not are_opposite_hands(original, original)


def test_an_origin_half_a_cell_away_is_the_same_structure():
    original = structure(gemmi.SpaceGroup("P 21 21 21"))
    other = invert(original)
    assert are_opposite_hands(original, replace(other, fract=other.fract + np.array([0.5, 0.0, 0.5])))
    assert not are_opposite_hands(original, replace(other, fract=other.fract + np.array([0.3, 0.0, 0.5])))


def test_a_centrosymmetric_arrangement_in_a_polar_group_has_one_hand():
    original = structure(gemmi.SpaceGroup("P 1"), sites=1)
    assert not are_opposite_hands(original, invert(original))
