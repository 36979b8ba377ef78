"""Hydrogen: groups that are recognised, riding, tied displacements, clouds, and what stays free."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy.spatial.transform import Rotation
from test_crystal import crystal

from pendel.crystal.cell import direct_matrix, u_cartesian, u_equivalent, u_from_cartesian
from pendel.crystal.hydrogen import NUCLEAR_DISTANCES, turned
from pendel.crystal.parameters import displaced
from pendel.crystal.recognise import find_groups, with_hydrogen, with_shifted_clouds
from pendel.crystal.riding import with_clouds, with_riding, with_tied_tensors

BOX = (16.0, 17.0, 18.0, 90.0, 99.0, 90.0)
MEANS = {bond: mean for bond, (mean, _) in NUCLEAR_DISTANCES.items()}
THIRD = np.radians(120)
DOWN = np.cos(np.radians(109.4712))  # of a tetrahedral direction against a bond along z
OUT = np.sin(np.radians(109.4712))


def ring(number, *angles, z=0.0, length=1.4):
    return {f"C{number + n}": (length * np.cos(a), length * np.sin(a), z) for n, a in enumerate(np.radians(angles))}


def tetrahedral(length, count, phase=0.2):
    """Points around the +z direction, opposite to a bond along -z."""
    return [
        (length * OUT * np.cos(phase + n * THIRD), length * OUT * np.sin(phase + n * THIRD), -length * DOWN)
        for n in range(count)
    ]


def named(label, points):
    return {f"{label}{n + 1}": point for n, point in enumerate(points)}


BOND = {"C9": (0.0, 0.0, -1.5), "C8": (1.2, 0.3, -2.2)}  # a neighbour of the origin, and one beyond it
PLANE = {"C9": (0.0, 0.0, -1.4), "C8": (1.2, 0.0, -2.1)}
FLAT = [(0.82, 0.0, 0.45), (-0.82, 0.0, 0.45)]
# kind: (heavy atoms, hydrogens, kind of bond, number of free angles)
FRAGMENTS = {
    "methyl": ({"C1": (0, 0, 0), **BOND}, named("H", tetrahedral(0.96, 3)), "C(sp3)-H", 1),
    "hydroxyl": ({"O1": (0, 0, 0), **BOND}, named("H", tetrahedral(0.85, 1)), "O-H", 1),
    "ammonium": ({"N1": (0, 0, 0), **BOND}, named("H", tetrahedral(0.9, 3)), "N(+)-H", 1),
    "methine": (
        {"C1": (0, 0, 0), **named("O", -1.5 * np.array(tetrahedral(1.0, 3)) * [1, 1, 1])},
        {"H1": (0.05, 0, 0.95)},
        "C(sp3)-H",
        0,
    ),
    "methylene": (
        {"C1": (0, 0, 0), "C2": (1.25, 0, -0.88), "C3": (-1.25, 0, -0.88)},
        {"H1": (0, 0.80, 0.55), "H2": (0.02, -0.80, 0.57)},
        "C(sp3)-H",
        0,
    ),
    "aromatic": (
        {"C1": (0, 0, 0), "C2": (1.21, 0, -0.7), "C3": (-1.21, 0, -0.7)},
        {"H1": (0.03, 0.02, 0.93)},
        "C(sp2)-H",
        0,
    ),
    "amide": ({"N1": (0, 0, 0), **PLANE}, named("H", FLAT), "N-H", 0),
    "amine": (
        {"N1": (0, 0, 0), "C2": (1.2, 0, -0.8), "C3": (-1.2, 0, -0.8)},
        {"H1": (0, 0.75, 0.5)},
        "N-H",
        0,
    ),
    "acetylenic": ({"C1": (0, 0, 0), "C9": (0, 0, -1.2), "C8": (0, 0, -2.6)}, {"H1": (0.0, 0.01, 0.95)}, "C(sp2)-H", 0),
    "vinyl": ({"C1": (0, 0, 0), **PLANE}, named("H", FLAT), "C(sp2)-H", 0),
    "water": ({"O1": (0, 0, 0)}, {"H1": (0.8, 0, 0.5), "H2": (-0.8, 0.05, 0.5)}, "O-H", 3),
}


def fragment(kind, turn=None, **changes):
    heavy, hydrogens, _, _ = FRAGMENTS[kind]
    turn = Rotation.from_euler("xyz", [0.3, -0.8, 1.9]).as_matrix() if turn is None else turn
    points = {label: turn @ np.array(xyz, dtype=float) + 7.0 for label, xyz in {**heavy, **hydrogens}.items()}
    inverse = np.linalg.inv(direct_matrix(BOX))
    return crystal("P 1", BOX, {label: inverse @ xyz for label, xyz in points.items()}, **changes)


def cartesian(structure, fract=None):
    return np.asarray(structure.fract if fract is None else fract) @ direct_matrix(structure.cell).T


def hydrogens(structure):
    return [site for site, element in enumerate(structure.elements) if element == "H"]


@pytest.mark.parametrize("kind", FRAGMENTS)
def test_groups_are_recognised_from_bonds(kind):
    """Nuclei are at the distance of their kind of bond, and near the directions of the file."""
    start = fragment(kind)
    found = with_hydrogen(start, "ride")
    (group,) = found.hydrogen
    assert (group.kind, group.bond, group.turns) == (kind, *FRAGMENTS[kind][2:])
    assert group.hydrogens == tuple(hydrogens(start))
    assert any(kind in note for note in found.notes)
    parent, places, before = cartesian(found)[group.parent.site], cartesian(found), cartesian(start)
    for site in group.hydrogens:
        line, old = places[site] - parent, before[site] - parent
        assert np.linalg.norm(line) == pytest.approx(MEANS[group.bond])
        assert line @ old / np.linalg.norm(line) / np.linalg.norm(old) > np.cos(np.radians(8))


def test_ideal_angles():
    for kind, angle in (("methyl", 109.47), ("hydroxyl", 109.47), ("amide", 120.0), ("acetylenic", 180.0)):
        found = with_hydrogen(fragment(kind), "ride")
        (group,) = found.hydrogen
        near, end = cartesian(found)[group.axes_from[0].site], cartesian(found)[group.hydrogens[0]]
        u, v = near - cartesian(found)[group.parent.site], end - cartesian(found)[group.parent.site]
        assert np.degrees(np.arctan2(np.linalg.norm(np.cross(u, v)), u @ v)) == pytest.approx(angle, abs=0.01)


@pytest.mark.parametrize("kind", ["methyl", "methylene", "amine", "amide", "acetylenic", "methine"])
def test_hydrogens_follow_a_turned_and_shifted_molecule(kind):
    found = with_hydrogen(fragment(kind), "ride")
    turn, shift = Rotation.from_euler("xyz", [0.9, 0.4, -0.6]).as_matrix(), np.array([0.3, -0.2, 0.5])
    moved = (cartesian(found) - 7.0) @ turn.T + 7.0 + shift
    inverse = np.linalg.inv(direct_matrix(BOX))
    heavy = np.array([element != "H" for element in found.elements])
    start = np.where(heavy[:, None], moved, cartesian(found)) @ inverse.T
    again = cartesian(with_riding(dataclasses.replace(found, fract=start), MEANS))
    if kind == "acetylenic":  # its torsion means nothing
        assert np.allclose(again[~heavy], moved[~heavy], atol=1e-6)
    else:
        assert np.allclose(again, moved, atol=1e-9)


def test_a_third_of_a_turn_permutes_a_methyl_group():
    found = with_hydrogen(fragment("methyl"), "ride")
    (group,) = found.hydrogen
    sites = list(group.hydrogens)
    turned = cartesian(with_riding(found, MEANS, [np.array([THIRD])]))[sites]
    assert group.widest_turn == pytest.approx(THIRD / 2)
    assert np.allclose(turned, np.roll(cartesian(found)[sites], -1, axis=0), atol=1e-9)


def test_a_water_molecule_turns_as_a_rigid_body():
    found = with_hydrogen(fragment("water"), "ride")
    vector = np.array([0.3, -0.2, 0.7])
    turned = cartesian(with_riding(found, MEANS, [vector]))[1:] - cartesian(found)[0]
    expected = (cartesian(found)[1:] - cartesian(found)[0]) @ Rotation.from_rotvec(vector).as_matrix().T
    assert np.allclose(turned, expected, atol=1e-9)


def test_displacements_are_tied_to_the_parent():
    tensor = np.array([[0.02, 0.004, 0.0], [0.004, 0.03, 0.001], [0.0, 0.001, 0.04]])
    start = fragment("methyl", u_aniso=np.tile(np.asarray(u_from_cartesian(tensor, BOX)), (6, 1, 1)))
    found = with_tied_tensors(with_hydrogen(start, "ride"), {1.5: 1.7})
    assert np.allclose(u_equivalent(found.u_aniso, BOX)[:3], 0.03)
    for site in hydrogens(start):
        assert np.allclose(u_cartesian(found.u_aniso[site], BOX), 1.7 * 0.03 * np.eye(3))
    assert all(with_hydrogen(start, "ride").isotropic[site] for site in hydrogens(start))


def test_clouds_are_nearer_to_the_parent():
    found = with_clouds(with_hydrogen(fragment("methyl"), "ride"), 0.12)
    clouds = cartesian(found, np.asarray(found.fract) + np.asarray(found.cloud))
    parent = cartesian(found)[0]
    for site in hydrogens(found):
        assert np.linalg.norm(clouds[site] - cartesian(found)[site]) == pytest.approx(0.12)
        assert np.linalg.norm(clouds[site] - parent) == pytest.approx(MEANS["C(sp3)-H"] - 0.12)
    heavy = [site for site in range(6) if site not in hydrogens(found)]
    assert not np.any(np.asarray(found.cloud)[heavy])


def test_riding_hydrogen_has_no_parameters_of_its_own():
    start = fragment("methyl")
    found = with_hydrogen(start, "ride")
    sites = hydrogens(start)
    assert len(found.position_basis) == 3 * 3 - 3  # the origin of P 1 floats
    assert not np.any(found.position_basis[:, sites])
    assert not np.any(found.adp_basis[:, sites])
    weights = np.array([6, 6, 6, 0, 0, 0])
    assert np.allclose(np.einsum("psi,s->pi", found.position_basis, weights), 0, atol=1e-12)


def test_free_hydrogen_moves_and_has_a_restrained_distance():
    found = with_hydrogen(fragment("hydroxyl"), "free")
    site = hydrogens(found)[0]
    assert np.any(found.position_basis[:, site])
    assert not np.any(found.adp_basis[:, site])
    (restraint,) = found.restraints
    assert (restraint.distance, restraint.sd) == (MEANS["O-H"], 0.1)
    moved = displaced(found, 0.05 * jnp.ones(len(found.position_basis)))
    again = with_riding(dataclasses.replace(found, fract=moved), {})
    assert np.allclose(again.fract, moved)


def test_special_positions_stay_special():
    """NH2 on a mirror plane: two hydrogens on the plane, or one and its image."""
    inverse = np.linalg.inv(direct_matrix((9.0, 10.0, 11.0, 90.0, 90.0, 90.0)))
    heavy = {"N1": (2, 0, 3), "C1": (2, 0, 1.6), "O1": (3.1, 0, 1.0)}
    pair = {"H1": (2.8, 0, 3.5), "H2": (1.2, 0, 3.5)}
    for hydrogen, count in ((pair, 2), ({"H1": (2.0, 0.82, 3.45)}, 1)):
        sites = {label: inverse @ np.array(xyz, dtype=float) for label, xyz in {**heavy, **hydrogen}.items()}
        found = with_hydrogen(crystal("P m m m", (9.0, 10.0, 11.0, 90.0, 90.0, 90.0), sites), "ride")
        (group,) = found.hydrogen
        assert (group.kind, len(group.hydrogens), group.turns) == ("amide", count, 0)
        rows = 0.02 * np.arange(1, len(found.position_basis) + 1)
        moved = with_riding(dataclasses.replace(found, fract=displaced(found, jnp.asarray(rows))), MEANS)
        assert np.allclose(np.asarray(moved.fract)[:3, 1], 0, atol=1e-12)
        on_the_plane = np.abs(np.asarray(moved.fract)[3:, 1]) < 1e-12
        assert np.all(on_the_plane == (count == 2))


@pytest.mark.parametrize("assembly", ["", "A"])
def test_disordered_hydrogens_are_groups_of_their_own(assembly):
    points = tetrahedral(0.96, 3) + tetrahedral(0.96, 3, phase=0.2 + np.pi)
    FRAGMENTS["both"] = ({"C1": (0, 0, 0), **BOND}, named("H", points), "C(sp3)-H", 1)
    half = [1, 1, 1] + 6 * [0.5]
    disorder = [("", "")] * 3 + [(assembly, "1")] * 3 + [(assembly, "2")] * 3
    found = with_hydrogen(fragment("both", disorder=tuple(disorder), occupancy=half), "ride")
    del FRAGMENTS["both"]
    assert [(group.kind, len(group.hydrogens)) for group in found.hydrogen] == [("methyl", 3), ("methyl", 3)]


def test_what_is_not_recognised_is_told():
    alone = crystal("P 1", BOX, {"C1": (0.1, 0.1, 0.1), "H1": (0.5, 0.5, 0.5)})
    found = with_hydrogen(alone, "ride")
    assert found.hydrogen == ()
    assert any("without a parent" in note and "H1" in note for note in found.notes)
    assert np.any(found.position_basis[:, 1])
    assert np.any(found.adp_basis[:, 1])
    heavy = fragment("methyl")
    bent = np.array(heavy.fract)
    bent[3:] = bent[3:][:1] + 0.03 * np.eye(3)  # three hydrogens on one side
    groups, _ = find_groups(dataclasses.replace(heavy, fract=bent))
    assert {group.kind for group in groups} <= {"as in the file", "free"}


def test_without_hydrogen_nothing_changes():
    plain = crystal("P 1", BOX, {"C1": (0.1, 0.1, 0.1)})
    assert with_hydrogen(plain, "ride") is plain
    assert with_shifted_clouds(plain) is plain


def test_a_simulated_crystal_keeps_its_nuclei():
    start = fragment("hydroxyl")
    shifted = with_shifted_clouds(start)
    assert np.array_equal(shifted.fract, start.fract)
    lengths = np.linalg.norm(cartesian(start, shifted.cloud), axis=1)
    assert np.allclose(lengths, [0, 0, 0, 0.12])


@pytest.mark.parametrize("length", [0.0, 0.05, 0.09999, 0.10001, 1.0, 3.0])
def test_turns_by_a_rotation_vector(length):
    """The matrix of scipy on both sides of the series' end; second derivatives are finite, at zero too."""
    vector = length * np.array([2.0, -1.0, 2.0]) / 3
    directions = jnp.asarray(Rotation.random(rng=np.random.default_rng(1)).as_matrix())
    expected = np.asarray(directions) @ Rotation.from_rotvec(vector).as_matrix().T
    assert np.allclose(turned(directions, jnp.asarray(vector)), expected, atol=1e-14)
    check_grads(lambda v: turned(directions, v), (jnp.asarray(vector),), order=2, modes=["fwd", "rev"], rtol=1e-4)
