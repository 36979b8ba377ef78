"""Special positions, their multiplicity and the directions and tensors that they allow."""

import gemmi
import numpy as np
import pytest

from pendel.crystal import symmetry
from pendel.crystal.cell import direct_matrix

CELLS = {
    "P 32 2 1": (4.9226, 4.9226, 5.4003, 90.0, 90.0, 120.0),
    "P a -3": (5.4, 5.4, 5.4, 90.0, 90.0, 90.0),
    "F m -3 m": (5.6, 5.6, 5.6, 90.0, 90.0, 90.0),
    "P b n m": (8.1189, 8.3590, 11.759, 90.0, 90.0, 90.0),
    "P 1 21/c 1": (7.1, 8.3, 9.9, 90.0, 104.0, 90.0),
    "R 3 m:H": (8.0, 8.0, 20.0, 90.0, 90.0, 120.0),
    "P -1": (5.1, 6.2, 7.3, 81.0, 95.0, 103.0),
}
# space group, position, multiplicity, free coordinates, free tensor components
# (International Tables A; Peterse & Palm 1966)
SITES = [
    ("P 32 2 1", (0.0, 0.4713, 5 / 6), 3, 1, 4),
    ("P 32 2 1", (0.8547, 0.5858, 0.6187), 6, 3, 6),
    ("P a -3", (0.385, 0.385, 0.385), 8, 1, 2),
    ("P a -3", (0.0, 0.0, 0.0), 4, 0, 2),
    ("F m -3 m", (0.25, 0.25, 0.25), 8, 0, 1),
    ("F m -3 m", (0.2, 0.0, 0.0), 24, 1, 2),
    ("P b n m", (0.515, 0.554, 0.75), 4, 2, 4),
    ("P b n m", (0.5, 1.0, 0.5), 4, 0, 6),
    ("P 1 21/c 1", (0.5, 0.0, 0.5), 2, 0, 6),
    ("R 3 m:H", (0.0, 0.0, 0.13), 3, 1, 2),
    ("R 3 m:H", (0.11, -0.11, 0.4), 9, 2, 4),
    ("P -1", (0.1, 0.2, 0.3), 2, 3, 6),
]


def operations(name: str) -> tuple[np.ndarray, np.ndarray]:
    listed = list(gemmi.SpaceGroup(name).operations())
    return (
        np.array([operator.rot for operator in listed]) // gemmi.Op.DEN,
        np.array([operator.tran for operator in listed]) / gemmi.Op.DEN,
    )


@pytest.mark.parametrize(("name", "position", "multiplicity", "free", "tensors"), SITES)
def test_site_symmetry(name, position, multiplicity, free, tensors):
    rotations, translations = operations(name)
    direct = direct_matrix(CELLS[name])
    settled, held = symmetry.symmetrise_position(np.array(position), rotations, translations, direct)
    turns = symmetry.cartesian_rotations(rotations, direct)[held]
    assert np.allclose(settled, position, atol=1e-12)
    assert len(symmetry.orbit(settled, rotations, translations, direct)) == multiplicity
    assert held.sum() * multiplicity == len(rotations)
    directions, shapes = symmetry.position_basis(turns), symmetry.adp_basis(turns)
    assert (len(directions), len(shapes)) == (free, tensors)
    assert np.allclose(directions @ directions.T, np.eye(free), atol=1e-12)
    assert np.allclose(np.einsum("kij,lij->kl", shapes, shapes), np.eye(tensors), atol=1e-12)
    assert np.allclose(np.einsum("oij,kj->oki", turns, directions), directions, atol=1e-12)
    assert np.allclose(turns[:, None] @ shapes @ turns[:, None].swapaxes(-1, -2), shapes, atol=1e-12)


def test_body_diagonal_of_a_cubic_site():
    rotations, translations = operations("P a -3")
    direct = direct_matrix(CELLS["P a -3"])
    held = symmetry.stabiliser(np.full(3, 0.385), rotations, translations, direct)
    directions = symmetry.position_basis(symmetry.cartesian_rotations(rotations, direct)[held])
    assert np.allclose(np.abs(directions), 1 / np.sqrt(3))


@pytest.mark.parametrize(("name", "position", "multiplicity", "free", "tensors"), SITES)
def test_displaced_site_returns_to_its_special_position(name, position, multiplicity, free, tensors):
    rotations, translations = operations(name)
    direct = direct_matrix(CELLS[name])
    nudge = np.linalg.solve(direct, np.array([0.003, -0.004, 0.002]))
    settled, held = symmetry.symmetrise_position(np.array(position) + nudge, rotations, translations, direct)
    assert held.sum() * multiplicity == len(rotations)
    copies = symmetry.images(settled, rotations, translations)[held]
    assert np.max(symmetry.lattice_distance(copies - settled, direct)) < 1e-12


@pytest.mark.parametrize(
    ("name", "polar"), [("P 1", 3), ("P 1 21 1", 1), ("P 1 c 1", 2), ("R 3 m:H", 1), ("P 32 2 1", 0)]
)
def test_polar_directions(name, polar):
    cell = CELLS.get(name, (5.1, 6.2, 7.3, 90.0, 104.0, 90.0))
    rotations, _ = operations(name)
    assert symmetry.polar_directions(rotations, direct_matrix(cell)).shape == (polar, 3)


def test_without_drift_keeps_the_weighted_mean():
    weights = np.array([6.0, 82.0, 8.0, 8.0])
    combinations = symmetry.without_drift(weights)
    assert np.allclose(combinations @ combinations.T, np.eye(3), atol=1e-12)
    assert np.allclose(combinations @ weights, 0, atol=1e-10)


@pytest.mark.parametrize("name", list(CELLS))
def test_closure(name):
    rotations, translations = operations(name)
    assert symmetry.is_closed(rotations, translations)
    if len(rotations) > 2:
        assert not symmetry.is_closed(rotations[:-1], translations[:-1])
    assert not symmetry.is_closed(
        np.concatenate([rotations, rotations[:1]]), np.concatenate([translations, translations[:1]])
    )
