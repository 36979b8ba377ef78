"""Restraints: every card against its formula written out, their image under inversion, and what is refused."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import numpyro
import pytest
from jax.test_util import check_grads
from numpyro.infer.util import log_density
from scipy import optimize, stats
from scipy.spatial.transform import Rotation
from test_crystal import crystal

from pendel.crystal.atom import Atom
from pendel.crystal.cell import u_from_cartesian
from pendel.crystal.hand import invert
from pendel.crystal.residuals import atom_positions, residuals
from pendel.crystal.restraints import (
    Distance,
    NearlyIsotropic,
    Plane,
    RigidBonds,
    SameDistances,
    SimilarTensors,
    check_restraint,
)
from pendel.model import restrain

CELL = (9.0, 10.0, 11.0, 81.0, 95.0, 103.0)
DIRECT = np.array(
    [
        [9.0, 10.0 * np.cos(np.radians(103)), 11.0 * np.cos(np.radians(95))],
        [0.0, 10.0 * np.sin(np.radians(103)), 0.0],
        [0.0, 0.0, 0.0],
    ]
)
DIRECT[1, 2] = (
    11.0 * (np.cos(np.radians(81)) - np.cos(np.radians(95)) * np.cos(np.radians(103))) / np.sin(np.radians(103))
)
DIRECT[2, 2] = np.sqrt(121 - DIRECT[0, 2] ** 2 - DIRECT[1, 2] ** 2)
CARTESIAN = np.array(
    [[1.0, 1.0, 1.0], [2.4, 1.1, 1.3], [3.1, 2.2, 0.9], [2.3, 3.4, 1.2], [1.1, 3.2, 1.6], [0.4, 2.1, 1.1]]
)


def tensors():
    rng = np.random.default_rng(5)
    turns = Rotation.random(6, rng=rng).as_matrix()
    return np.einsum("nij,nj,nkj->nik", turns, rng.uniform(0.02, 0.06, (6, 3)), turns)


def toy(isotropic=(False,) * 6, spacegroup="P 1", cell=CELL, direct=DIRECT):
    """A ring of six atoms in a triclinic cell."""
    sites = {f"C{n + 1}": tuple(np.linalg.solve(direct, x)) for n, x in enumerate(CARTESIAN)}
    return crystal(spacegroup, cell, sites, u_aniso=np.asarray(u_from_cartesian(tensors(), cell)), isotropic=isotropic)


def here(site):
    return Atom(site, 0, (0, 0, 0))


def pairs(*numbers):
    return tuple((here(a), here(b)) for a, b in numbers)


def density(structure, *restraints):
    restrained = replace(structure, restraints=tuple(restraints))
    return float(log_density(restrain, (restrained,), {}, {})[0])


def distance(a, b):
    return float(np.sqrt(np.sum((CARTESIAN[a] - CARTESIAN[b]) ** 2)))


def normal(x, s):
    return float(np.sum(-(np.asarray(x) ** 2) / (2 * s**2) - np.log(s * np.sqrt(2 * np.pi))))


def six(tensor):
    return [tensor[0, 0], tensor[1, 1], tensor[2, 2], tensor[1, 2], tensor[0, 2], tensor[0, 1]]


@pytest.mark.parametrize(("card", "s"), [("DFIX", 0.02), ("DANG", 0.04)])
def test_distances(card, s):
    found = density(toy(), Distance(card=card, pairs=pairs((0, 1), (1, 2)), distance=1.4, sd=s))
    assert found == pytest.approx(normal([distance(0, 1) - 1.4, distance(1, 2) - 1.4], s), rel=1e-9)


def test_a_distance_that_is_at_least_so_long():
    far = Distance(card="DFIX", pairs=pairs((0, 3)), distance=2.0, sd=0.02, at_least=True)
    close = replace(far, distance=3.0)
    assert density(toy(), far) == pytest.approx(normal([0.0], 0.02))
    assert density(toy(), close) == pytest.approx(normal([distance(0, 3) - 3.0], 0.02))


def test_equal_distances_are_normal_about_a_free_mean():
    """exp(density) is the integral over mu of the product of normal densities, but for the factor sqrt(n)."""
    chosen = [(0, 1), (1, 2), (2, 3), (3, 4)]
    lengths = np.array([distance(a, b) for a, b in chosen])
    sigma = 0.02 / np.sqrt(2)
    found = density(toy(), SameDistances(pairs=pairs(*chosen), sd=0.02))
    by_hand = -np.sum((lengths - lengths.mean()) ** 2) / (2 * sigma**2) - 3 * np.log(sigma * np.sqrt(2 * np.pi))
    assert found == pytest.approx(by_hand, rel=1e-9)
    wide = SameDistances(pairs=pairs(*chosen), sd=0.5 * np.sqrt(2))
    mu = np.linspace(lengths.mean() - 5, lengths.mean() + 5, 4001)
    integral = np.trapezoid(np.prod(stats.norm.pdf(lengths[:, None], mu, 0.5), axis=0), mu)
    assert density(toy(), wide) == pytest.approx(np.log(integral * np.sqrt(4)), rel=1e-6)


def test_a_plane_is_the_one_of_least_squares():
    def squares(angles):
        theta, phi = angles
        normal_vector = [np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi), np.cos(theta)]
        return np.sum(((CARTESIAN - CARTESIAN.mean(0)) @ normal_vector) ** 2)

    least = min(optimize.minimize(squares, start, tol=1e-12).fun for start in ([0.1, 0.1], [0.5, 2.0]))
    found = density(toy(), Plane(atoms=tuple(map(here, range(6))), sd=0.1))
    assert found == pytest.approx(-least / (2 * 0.1**2) - 6 * np.log(0.1 * np.sqrt(2 * np.pi)), rel=1e-6)


def test_similar_tensors():
    u = tensors()
    found = density(toy(), SimilarTensors(pairs=pairs((0, 1), (2, 3)), sds=(0.04, 0.08)))
    by_hand = normal(six(u[0] - u[1]), 0.04) + normal(six(u[2] - u[3]), 0.08)
    assert found == pytest.approx(by_hand, rel=1e-9)


def test_of_isotropic_sites_only_the_equivalent_is_compared():
    u = tensors()
    mixed = toy(isotropic=(True, False, False, False, False, False))
    found = density(mixed, SimilarTensors(pairs=pairs((0, 1), (2, 3)), sds=(0.04, 0.08)))
    by_hand = normal([np.trace(u[0] - u[1]) / 3], 0.04) + normal(six(u[2] - u[3]), 0.08)
    assert found == pytest.approx(by_hand, rel=1e-9)


def test_rigid_bonds_restrain_the_components_along_the_bond():
    u = tensors()
    along = (CARTESIAN[1] - CARTESIAN[0]) / distance(0, 1)
    across = np.cross(along, [0.3, -0.8, 0.5])
    across /= np.linalg.norm(across)
    axes = np.array([across, np.cross(along, across), along])
    local = axes @ (u[0] - u[1]) @ axes.T
    found = density(toy(), RigidBonds(pairs=pairs((0, 1)), sds=(0.004,)))
    assert found == pytest.approx(normal([local[2, 2], local[0, 2], local[1, 2]], 0.004), rel=1e-9)


def test_nearly_isotropic_tensors():
    u = tensors()
    found = density(toy(), NearlyIsotropic(atoms=(here(0), here(4)), sds=(0.1, 0.2)))
    by_hand = sum(normal(six(u[n] - np.trace(u[n]) / 3 * np.eye(3)), s) for n, s in ((0, 0.1), (4, 0.2)))
    assert found == pytest.approx(by_hand, rel=1e-9)


def images():
    """A ring in P 21 with restraints to images of its atoms."""
    cell = (9.0, 10.0, 11.0, 90.0, 101.0, 90.0)
    a, b, c = 9.0, 10.0, 11.0
    beta = np.radians(101)
    direct = np.array([[a, 0, c * np.cos(beta)], [0, b, 0], [0, 0, c * np.sin(beta)]])
    screw = Atom(2, 1, (1, -1, 0))
    return direct, replace(
        toy(spacegroup="P 21", cell=cell, direct=direct),
        restraints=(
            Distance(card="DFIX", pairs=((here(0), screw),), distance=5.0, sd=0.5),
            SimilarTensors(pairs=((here(0), screw),), sds=(0.04,)),
        ),
    )


def test_images_are_turned_and_shifted():
    direct, structure = images()
    fract = np.linalg.solve(direct, CARTESIAN[2])
    x, y, z = fract
    image = direct @ np.array([1 - x, y - 0.5, -z])
    assert np.allclose(atom_positions(structure, [Atom(2, 1, (1, -1, 0))])[0], image)
    value = residuals(structure, structure.restraints[0])[0]
    assert float(value[0]) == pytest.approx(np.linalg.norm(image - CARTESIAN[0]) - 5.0)
    half_turn = np.diag([-1.0, 1.0, -1.0])
    u = tensors()
    expected = six(u[0] - half_turn @ u[2] @ half_turn)
    assert np.allclose(residuals(structure, structure.restraints[1])[0], expected, atol=1e-9)


def test_the_other_hand_keeps_its_restraints():
    _, structure = images()
    other = invert(structure)
    assert other.restraints != structure.restraints
    for before, after in zip(structure.restraints, other.restraints, strict=True):
        assert np.allclose(residuals(structure, before)[0], residuals(other, after)[0], atol=1e-9)


def everything():
    return (
        Distance(card="DFIX", pairs=pairs((0, 1)), distance=1.4, sd=0.02),
        SameDistances(pairs=pairs((0, 1), (1, 2)), sd=0.02),
        Plane(atoms=tuple(map(here, range(6))), sd=0.1),
        SimilarTensors(pairs=pairs((0, 1)), sds=(0.04,)),
        RigidBonds(pairs=pairs((0, 1)), sds=(0.004,)),
        NearlyIsotropic(atoms=(here(0),), sds=(0.1,)),
    )


def test_gradients_are_those_of_finite_differences():
    structure = replace(toy(), restraints=everything())

    def potential(fract, u_aniso):
        moved = replace(structure, fract=fract, u_aniso=u_aniso)
        return log_density(restrain, (moved,), {}, {})[0]

    check_grads(potential, (structure.fract, structure.u_aniso), order=1, modes=["rev"], rtol=1e-3)


def test_without_restraints_nothing_is_added():
    trace = numpyro.handlers.trace(restrain).get_trace(toy())
    assert not trace


def test_names_of_sites():
    trace = numpyro.handlers.trace(restrain).get_trace(replace(toy(), restraints=everything()))
    assert list(trace) == ["DFIX_1", "SADI_2", "FLAT_3", "SIMU_4", "RIGU_5", "ISOR_6"]
    assert all(site["is_observed"] and not jnp.any(site["value"]) for site in trace.values())


@pytest.mark.parametrize(
    ("restraint", "words"),
    [
        (Distance(card="DFIX", pairs=pairs((0, 1)), distance=1.4, sd=0.0), "standard deviation"),
        (Distance(card="DFIX", pairs=pairs((0, 1)), distance=-1.4, sd=0.1), "distance"),
        (Distance(card="DFIX", pairs=pairs((1, 1)), distance=1.4, sd=0.1), "paired with itself"),
        (SameDistances(pairs=pairs((0, 1)), sd=0.1), "1 pairs of atoms where 2"),
        (Plane(atoms=(here(0), here(1), here(2)), sd=0.1), "3 atoms where 4"),
    ],
)
def test_what_makes_no_sense_is_told(restraint, words):
    assert words in check_restraint(restraint)
    assert not any(check_restraint(good) for good in everything())
