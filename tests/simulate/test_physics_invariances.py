"""What must not change the intensities: beam order, origin, choice of cell, symmetry; and what must: the hand."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from oracles import slow_bloch
from pendel.crystal.hand import invert
from physics_cases import (
    NEAR_ZONE,
    QUARTZ,
    TRICLINIC,
    Structure,
    along_axis,
    crystal_of,
    eigenproblem,
    exit_intensities,
    propagate,
    zone_beams,
)

pytestmark = pytest.mark.optimized
THICKNESS = np.array([150.0, 620.0, 1400.0])


@pytest.fixture(scope="module")
def quartz():
    return crystal_of(QUARTZ)


@pytest.fixture(scope="module")
def beams():
    return zone_beams(QUARTZ, NEAR_ZONE, g_max=1.2, sg_max=0.02)


@pytest.fixture(scope="module")
def reference(quartz, beams):
    return exit_intensities(quartz, beams, NEAR_ZONE, THICKNESS)


def test_order_of_beams(quartz, beams, reference):
    order = np.r_[0, 1 + np.random.default_rng(3).permutation(len(beams) - 1)]
    shuffled = exit_intensities(quartz, [beams[i] for i in order], NEAR_ZONE, THICKNESS)
    np.testing.assert_allclose(shuffled, reference[:, order], atol=1e-10)


def test_origin_shift(quartz, beams, reference):
    """x -> x + c for every atom of the cell: t -> t + c - R c."""
    shift = np.array([0.137, -0.31, 0.222])
    moved = dataclasses.replace(
        quartz,
        fract=quartz.fract + shift,
        translations=quartz.translations + shift - np.asarray(quartz.rotations) @ shift,
    )
    np.testing.assert_allclose(exit_intensities(moved, beams, NEAR_ZONE, THICKNESS), reference, atol=1e-11)
    only_sites = dataclasses.replace(quartz, fract=quartz.fract + shift)
    assert np.abs(exit_intensities(only_sites, beams, NEAR_ZONE, THICKNESS) - reference).max() > 0.05


def test_another_choice_of_equivalent_sites(quartz, beams, reference):
    """Any image of a site under the space group describes the same crystal (ADPs turn with it)."""
    rotation, translation = slow_bloch.operator(QUARTZ.operators[1])
    lengths = np.sqrt(np.diag(np.linalg.inv(slow_bloch.metric(QUARTZ.cell))))
    scale = np.outer(lengths, lengths)
    sites = tuple(
        (element, rotation @ np.asarray(xyz) + translation, rotation @ (u * scale) @ rotation.T / scale, occupancy)
        for element, xyz, u, occupancy in QUARTZ.sites
    )
    other = crystal_of(dataclasses.replace(QUARTZ, sites=sites))
    np.testing.assert_allclose(exit_intensities(other, beams, NEAR_ZONE, THICKNESS), reference, atol=1e-10)


@pytest.mark.parametrize("axis", [0, 2])
def test_doubled_cell(beams, reference, axis):
    """The same crystal in P 1 with one axis doubled: hkl doubled along it, and no intensity between."""
    cell = slow_bloch.expand(QUARTZ.cell, QUARTZ.operators, QUARTZ.sites)
    lengths = np.sqrt(np.diag(np.linalg.inv(slow_bloch.metric(QUARTZ.cell))))
    stretch = np.ones(3)
    stretch[axis] = 2
    sites = tuple(
        (element, (xyz + copy * np.eye(3)[axis]) / stretch, u_star / np.outer(lengths, lengths), 1.0)
        for element, xyz, u_star in zip(cell.elements, cell.fract, cell.u_star, strict=True)
        for copy in (0, 1)
    )
    doubled = crystal_of(Structure("doubled", (*(QUARTZ.cell[:3] * stretch), *QUARTZ.cell[3:]), ("x,y,z",), sites))
    between = np.eye(3, dtype=int)[axis]
    longer = [tuple(int(i) for i in np.asarray(hkl) * stretch) for hkl in beams]
    everything = [*longer, tuple(between), tuple(-between)]
    intensity = exit_intensities(doubled, everything, NEAR_ZONE / stretch, THICKNESS)
    np.testing.assert_allclose(intensity[:, : len(beams)], reference, atol=1e-10)
    assert intensity[:, len(beams) :].max() < 1e-20


def test_laue_equivalents_about_the_threefold_axis(quartz):
    """Beam along [001]: hkl and its images under the 3_2 axis are equally strong; its Friedel mate is not."""
    orientation = along_axis(QUARTZ, (0, 0, 1))
    zone = zone_beams(QUARTZ, orientation, g_max=1.1, sg_max=0.03)
    intensity = exit_intensities(quartz, zone, orientation, THICKNESS)
    rotation, _ = slow_bloch.operator(QUARTZ.operators[1])
    place = {hkl: i for i, hkl in enumerate(zone)}
    turned = [place[tuple(int(i) for i in np.asarray(hkl) @ rotation)] for hkl in zone]
    np.testing.assert_allclose(intensity[:, turned], intensity, atol=1e-11)
    opposite = [place[tuple(-index for index in hkl)] for hkl in zone]
    assert len(zone) > 15
    assert np.abs(intensity[:, opposite] - intensity).max() > 1e-3


def test_friedel_pairs_of_a_centrosymmetric_zone():
    """Zone-axis beam, zero-order Laue zone of P -1: I(g) = I(-g). Without the centre the pairs differ."""
    orientation = along_axis(TRICLINIC, (0, 0, 1))
    zone = [hkl for hkl in zone_beams(TRICLINIC, orientation, g_max=1.2, sg_max=0.05) if hkl[2] == 0]
    place = {hkl: i for i, hkl in enumerate(zone)}
    opposite = [place[tuple(-index for index in hkl)] for hkl in zone]
    intensity = exit_intensities(crystal_of(TRICLINIC), zone, orientation, THICKNESS)
    np.testing.assert_allclose(intensity[:, opposite], intensity, atol=1e-11)
    # three light atoms added in P 1 leave no centre
    cell = slow_bloch.expand(TRICLINIC.cell, TRICLINIC.operators, TRICLINIC.sites)
    sites = [(e, x, np.eye(3) * 0.01, 1.0) for e, x in zip(cell.elements, cell.fract, strict=True)]
    acentric = Structure(
        "acentric", TRICLINIC.cell, ("x,y,z",), (*sites, ("Si", (0.4, 0.6, 0.2), np.eye(3) * 0.01, 1.0))
    )
    broken = exit_intensities(crystal_of(acentric), zone, orientation, THICKNESS)
    assert np.abs(broken[:, opposite] - broken).max() > 1e-3


def test_hand(quartz, beams, reference):
    """P 31 2 1 with inverted coordinates gives other intensities, those of the transposed structure matrix."""
    other = exit_intensities(invert(quartz), beams, NEAR_ZONE, THICKNESS)
    assert np.abs(other - reference).max() > 0.05
    interaction, diagonal, flux = eigenproblem(quartz, beams, NEAR_ZONE)
    transposed = propagate((jnp.swapaxes(interaction, 1, 2), diagonal, flux), THICKNESS)
    np.testing.assert_allclose(np.abs(transposed[0, :, :, 0]) ** 2, other, atol=1e-11)
