"""Hands of molecules with hydrogen in place: an L amino acid and achiral molecules in polar groups, without a fit."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from made_crystals import symmetry_of
from pendel.crystal.cell import direct_matrix
from pendel.crystal.hand import are_opposite_hands, invert
from pendel.crystal.hydrogen import NUCLEAR_DISTANCES
from pendel.crystal.recognise import with_hydrogen
from pendel.crystal.riding import with_riding
from pendel.crystal.sites import Sites
from pendel.crystal.structure import make_crystal
from pendel.judge.compare import Run, hand
from pendel.judge.loo import Loo

CELL = (9.0, 12.3, 9.0, 90.0, 90.0, 90.0)  # Å, wide enough that molecules do not touch
DISTANCES = {bond: mean for bond, (mean, _) in NUCLEAR_DISTANCES.items()}


def tripod(centre, neighbour, length, turn):
    """Three positions at tetrahedral angles about the continuation of a bond."""
    z = (centre - neighbour) / np.linalg.norm(centre - neighbour)
    x = np.cross(z, [0.3, -0.5, 0.8])
    x /= np.linalg.norm(x)
    y = np.cross(z, x)
    angles = turn + np.arange(3) * 2 * np.pi / 3
    return [centre + length * (z / 3 + np.sqrt(8) / 3 * (np.cos(a) * x + np.sin(a) * y)) for a in angles]


def amino_acid():
    """The zwitterion of L-alanine: seen from H, the order CO, R, N is clockwise."""
    ca, along = np.zeros(3), np.array([[-1, -1, 1], [1, 1, 1], [-1, 1, -1], [1, -1, -1]]) / np.sqrt(3)
    n, c, cb, ha = ca + along * [[1.49], [1.53], [1.52], [1.09]]
    side = np.cross(along[1], [1.0, 0.0, 0.0])
    side /= np.linalg.norm(side)
    o1, o2 = (c + 1.25 * (np.cos(np.radians(63)) * along[1] + sign * np.sin(np.radians(63)) * side) for sign in (1, -1))
    atoms = {"N1": n, "C1": ca, "C2": c, "C3": cb, "O1": o1, "O2": o2, "H1": ha}
    atoms |= {f"H2{'ABC'[k]}": x for k, x in enumerate(tripod(n, ca, 1.03, 0.2))}
    return atoms | {f"H3{'ABC'[k]}": x for k, x in enumerate(tripod(cb, ca, 1.09, 0.5))}


def alcohol():
    """Methanol, which has no hand: only the polar axis does."""
    c, o = np.zeros(3), np.array([1.1, 0.6, 0.66])
    atoms = {"C1": c, "O1": o, "H1": tripod(o, c, 0.97, 0.4)[0]}
    return atoms | {f"H3{'ABC'[k]}": x for k, x in enumerate(tripod(c, o, 1.09, 0.1))}


def packed(atoms, spacegroup):
    inverse = np.linalg.inv(direct_matrix(CELL))
    made = make_crystal(
        name="molecule",
        cell=CELL,
        **symmetry_of(spacegroup),
        sites=Sites(
            labels=tuple(atoms),
            elements=tuple(label[0] for label in atoms),
            fract=np.array([inverse @ x for x in atoms.values()]) + np.array([0.28, 0.19, 0.32]),
            u_aniso=np.tile(0.03 * np.eye(3), (len(atoms), 1, 1)),
            occupancy=np.ones(len(atoms)),
            isotropic=(True,) * len(atoms),
        ),
    )
    return with_hydrogen(made, "ride")


def refitted(crystal, seed, shift=(0.0, 0.0, 0.0)):
    """Another fit of the same hand: other torsions, errors of 0.03 Å, and another origin."""
    rng = np.random.default_rng(seed)
    turning = [group for group in crystal.hydrogen if group.rides and group.turns]
    assert turning
    moved = dataclasses.replace(crystal, fract=crystal.fract + 0.03 * rng.standard_normal(crystal.fract.shape) / 9.0)
    moved = with_riding(moved, DISTANCES, [np.array([1.0]) for _ in turning])
    return dataclasses.replace(moved, fract=np.asarray(moved.fract) + np.array(shift))


def run_of(crystal, calculated, evidence):
    nothing = Loo(units=(), pointwise=np.zeros(0), pareto_k=np.zeros(0))
    pairs = {("d", "1", str(n), "0", "0"): (10.0, value) for n, value in enumerate(calculated)}
    return Run(Path(crystal.name), {"log_evidence_laplace": evidence}, crystal, pairs, nothing, nothing, None)


def handedness(crystal):
    """Positive for L: of CO, R and N around C1."""
    cartesian = np.asarray(crystal.fract) @ direct_matrix(crystal.cell).T
    n, ca, c, cb = (cartesian[crystal.labels.index(label)] for label in ("N1", "C1", "C2", "C3"))
    return float(np.linalg.det([c - ca, cb - ca, n - ca]))


CASES = [
    (amino_acid, "P 21 21 21", (0.5, 0.0, 0.5)),
    (amino_acid, "P 1 21 1", (0.0, 0.17, 0.5)),
    (alcohol, "P n a 21", (0.0, 0.5, 0.23)),
    (alcohol, "P 1 c 1", (0.31, 0.0, 0.12)),
]


@pytest.mark.parametrize(("molecule", "spacegroup", "shift"), CASES)
def test_hands_are_recognised_with_hydrogen_in_place(molecule, spacegroup, shift):
    """Torsions of methyl, ammonium and hydroxyl groups differ by 57°, and the origin by what the group allows."""
    one = packed(molecule(), spacegroup)
    same, other = refitted(one, 1, shift), invert(refitted(one, 2, shift))
    assert are_opposite_hands(one, other)
    assert are_opposite_hands(other, one)
    assert not are_opposite_hands(one, same)
    found = hand(run_of(same, [10.1, 9.9, 10.2, 13.0], -100.0), run_of(other, [12.0, 8.0, 11.0, 12.0], -103.0))
    assert found is not None
    assert found.log_evidence == pytest.approx(3.0)
    assert (found.n_first, found.n_second) == (3, 1)


def test_labels_of_hydrogens_do_not_matter():
    one = packed(amino_acid(), "P 21 21 21")
    other = invert(one)
    fract = np.array(other.fract)
    rows = [one.labels.index(f"H3{letter}") for letter in "ABC"]
    fract[rows] = fract[rows[1:] + rows[:1]]
    assert are_opposite_hands(one, dataclasses.replace(other, fract=fract))


def test_the_other_hand_of_an_l_amino_acid_is_d():
    one = packed(amino_acid(), "P 21 21 21")
    assert handedness(one) > 1.0
    assert handedness(invert(one)) < -1.0
    again = with_hydrogen(dataclasses.replace(invert(one), restraints=(), cloud=None), "ride")
    assert [group.kind for group in again.hydrogen] == [group.kind for group in one.hydrogen]
    assert np.allclose(again.fract, invert(one).fract, atol=1e-6)
