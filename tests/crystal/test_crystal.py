"""Crystals: expansion, tensors, constraints, hands, and what is refused."""

from dataclasses import replace

import gemmi
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from made_crystals import remade, symmetry_of
from pendel.base import InputError
from pendel.crystal import cell as cells
from pendel.crystal.parameters import adp
from pendel.crystal.sites import Sites
from pendel.crystal.structure import expanded_atoms, is_centrosymmetric, make_crystal
from pendel.files.cif import read_crystal
from pendel.files.structure_cif import write_structure_cif

QUARTZ = (4.9226, 4.9226, 5.4003, 90.0, 90.0, 120.0)
TRICLINIC = (5.1, 6.2, 7.3, 81.0, 95.0, 103.0)


def crystal(spacegroup, cell, sites, *, occupancy=None, u_aniso=None, isotropic=None, disorder=(), **options):
    """A crystal from {label: position}; elements are the letters of the labels."""
    count = len(sites)
    sphere = np.asarray(cells.u_from_cartesian(0.01 * np.eye(3), cell))
    return make_crystal(
        name="test",
        cell=cell,
        **symmetry_of(spacegroup),
        sites=Sites(
            labels=tuple(sites),
            elements=tuple(label.rstrip("0123456789") for label in sites),
            fract=np.array(list(sites.values()), dtype=float).reshape(-1, 3),
            u_aniso=np.tile(sphere, (count, 1, 1)) if u_aniso is None else u_aniso,
            occupancy=np.ones(count) if occupancy is None else np.array(occupancy),
            isotropic=(False,) * count if isotropic is None else isotropic,
            disorder=disorder,
        ),
        **options,
    )


def quartz():
    return crystal("P 32 2 1", QUARTZ, {"Si1": (0, 0.4713, 5 / 6), "O1": (0.8547, 0.5858, 0.6187)})


@pytest.mark.parametrize("cell", [QUARTZ, TRICLINIC])
def test_cell_matrices(cell):
    unit = gemmi.UnitCell(*cell)
    assert np.allclose(cells.direct_matrix(cell), unit.orth.mat.tolist(), atol=1e-12)
    assert np.allclose(cells.direct_matrix(cell).T @ cells.reciprocal_matrix(cell), np.eye(3), atol=1e-12)
    assert cells.volume(cell) == pytest.approx(unit.volume, rel=1e-12)


@pytest.mark.parametrize("cell", [QUARTZ, TRICLINIC])
def test_displacement_tensors(cell):
    u_cif = np.array([[0.012, 0.004, -0.002], [0.004, 0.02, 0.003], [-0.002, 0.003, 0.015]])
    assert np.allclose(cells.u_from_cartesian(cells.u_cartesian(u_cif, cell), cell), u_cif, atol=1e-15)
    site = gemmi.SmallStructure.Site()
    site.aniso = gemmi.SMat33d(*(u_cif[i, j] for i, j in [(0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2)]))
    structure = gemmi.SmallStructure()
    structure.cell = gemmi.UnitCell(*cell)
    assert cells.u_equivalent(u_cif, cell) == pytest.approx(structure.cell.calculate_u_eq(site.aniso), rel=1e-9)
    hkl = np.array([2.0, -1.0, 3.0])
    g = cells.reciprocal_matrix(cell) @ hkl
    exponent = float(g @ cells.u_cartesian(u_cif, cell) @ g)
    assert float(hkl @ cells.u_star(u_cif, cell) @ hkl) == pytest.approx(exponent, rel=1e-12)


@pytest.mark.parametrize(
    "name", ["quartz/quartz_dynamical.cif", "quartz/quartz_kinematical.cif", "cspbbr3/cspbbr3.cif"]
)
def test_expansion_agrees_with_gemmi(shared_data, name):
    found = read_crystal(shared_data / name)
    structure = gemmi.read_small_structure(str(shared_data / name))
    expected = structure.get_all_unit_cell_sites()
    positions, tensors, occupancy = expanded_atoms(found, found.fract, found.u_aniso, found.occupancy)
    assert len(positions) == len(expected) == len(found.atom_site)
    for site in expected:
        difference = np.asarray(positions) - site.fract.tolist()
        distance = np.linalg.norm((difference - np.round(difference)) @ cells.direct_matrix(found.cell).T, axis=1)
        nearest = np.argmin(distance)
        assert distance[nearest] < 1e-4
        assert found.labels[found.atom_site[nearest]] == site.label
    assert np.allclose(occupancy, 1)
    operation = found.rotations[found.atom_op[-1]]
    u_star = np.asarray(cells.u_star(found.u_aniso[-1], found.cell))
    assert np.allclose(tensors[-1], operation @ u_star @ operation.T, atol=1e-15)


def test_parameters_of_quartz():
    found = quartz()
    assert found.position_basis.shape == (4, 2, 3)
    assert found.adp_basis.shape == (10, 2, 3, 3)
    lengths = np.linalg.norm(found.position_basis @ cells.direct_matrix(QUARTZ).T, axis=-1)
    assert np.allclose(np.sort(lengths, axis=1), [[0, 1]] * 4)
    assert np.allclose(found.position_basis[0, 0, [0, 2]], 0, atol=1e-15)  # Si moves along b alone


def test_constrained_parameters_keep_the_symmetry():
    found = quartz()
    key = jax.random.key(0)
    shift = jnp.einsum("k,ksi->si", 0.02 * jax.random.normal(key, (4,)), found.position_basis)
    change = jnp.einsum("k,ksij->sij", 1e-3 * jax.random.normal(key, (10,)), found.adp_basis)
    u_aniso = cells.u_from_cartesian(cells.u_cartesian(found.u_aniso, QUARTZ) + change, QUARTZ)
    moved = replace(found, fract=np.asarray(found.fract + shift), u_aniso=np.asarray(u_aniso))
    again = remade(moved)
    assert np.allclose(again.fract, moved.fract, atol=1e-12)
    assert np.allclose(again.u_aniso, moved.u_aniso, atol=1e-12)
    assert again.notes == ()


def test_gradients_are_finite_at_special_positions():
    found = crystal("F m -3 m", (5.6, 5.6, 5.6, 90.0, 90.0, 90.0), {"Na1": (0, 0, 0), "Cl1": (0.5, 0.5, 0.5)})

    def structure_factor(fract, u_aniso):
        positions, tensors, occupancy = expanded_atoms(found, fract, u_aniso, found.occupancy)
        hkl = jnp.array([2.0, 0.0, 2.0])
        waves = jnp.exp(2j * jnp.pi * positions @ hkl - 2 * jnp.pi**2 * (tensors @ hkl) @ hkl)
        return jnp.abs(jnp.sum(occupancy * waves)) ** 2

    gradients = jax.grad(structure_factor, argnums=(0, 1))(found.fract, found.u_aniso)
    assert all(bool(jnp.all(jnp.isfinite(gradient))) for gradient in gradients)


def test_sites_are_moved_onto_symmetry_elements_with_a_note():
    found = crystal("P 32 2 1", QUARTZ, {"Si1": (0.002, 0.4713, 0.8333), "O1": (0.8547, 0.5858, 0.6187)})
    assert len(found.atom_site) == 9
    assert np.allclose(found.fract[0, [0, 2]], [0, 5 / 6], atol=1e-12)
    assert any(note.startswith("Si1 moved by 0.0") for note in found.notes)


def test_forbidden_part_of_a_tensor_is_removed_with_a_note():
    tensor = np.diag([0.01, 0.02, 0.03])
    tensors = np.stack([tensor, tensor])
    found = crystal("F m -3 m", (5.6,) * 3 + (90.0,) * 3, {"Na1": (0, 0, 0), "Cl1": (0.5,) * 3}, u_aniso=tensors)
    assert np.allclose(found.u_aniso, 0.02 * np.eye(3))
    assert [note.split(" changed")[0] for note in found.notes] == ["U of Na1", "U of Cl1"]


def test_isotropic_sites_keep_one_parameter():
    sites = {"Si1": (0, 0.4713, 5 / 6), "O1": (0.8547, 0.5858, 0.6187)}
    found = crystal("P 32 2 1", QUARTZ, sites, isotropic=(False, True))
    assert found.adp_basis.shape[0] == 5
    assert np.allclose(found.adp_basis[-1, 1], np.eye(3) / np.sqrt(3))


def test_floating_origin_is_held():
    sites = {"Pb1": (0.1, 0.2, 0.3), "O1": (0.4, 0.7, 0.8), "O2": (0.9, 0.5, 0.1)}
    found = crystal("P 1 21 1", (5.0, 6.0, 7.0, 90.0, 100.0, 90.0), sites)
    assert found.position_basis.shape[0] == 8
    weights = np.array([82.0, 8.0, 8.0])
    assert np.allclose(np.einsum("s,ksi->ki", weights, found.position_basis)[:, 1], 0, atol=1e-10)
    assert any("floats along [0 1 0]" in note for note in found.notes)
    assert crystal("P 1", TRICLINIC, sites).position_basis.shape[0] == 6


def test_mixed_site_moves_as_one():
    sites = {"Mg1": (0, 0, 0), "Fe1": (0, 0, 0), "O1": (0.2, 0.3, 0.4)}
    found = crystal("P 1", TRICLINIC, sites, occupancy=(0.4, 0.6, 1))
    assert found.position_basis.shape[0] == 3
    assert found.adp_basis.shape[0] == 12
    assert np.allclose(found.position_basis[:, 0], found.position_basis[:, 1])
    assert any("Fe1, Mg1 share one place" in note for note in found.notes)


def test_a_refinement_may_find_more_than_one_atom_on_a_place(tmp_path):
    sites = {"Mg1": (0, 0, 0), "Fe1": (0, 0, 0), "O1": (0.2, 0.3, 0.4)}
    refined = crystal("P 1", TRICLINIC, sites, occupancy=(0.505, 0.508, 1), fullest=np.inf)
    assert any("total occupancy 1.01, more than one atom" in note for note in refined.notes)
    path = tmp_path / "refined.cif"
    write_structure_cif(path, refined)
    with pytest.raises(InputError, match=r"total occupancy 1\.01"):
        read_crystal(path)
    np.testing.assert_allclose(read_crystal(path, fullest=np.inf).occupancy, refined.occupancy, atol=1e-4)


def triplets(found) -> list[str]:
    listed = []
    for rotation, translation in zip(found.rotations, found.translations, strict=True):
        operator = gemmi.Op()
        operator.rot, operator.tran = (
            (rotation * gemmi.Op.DEN).tolist(),
            np.round(translation * 24).astype(int).tolist(),
        )
        listed.append(operator.triplet())
    return listed


def test_inversion_is_recognised():
    assert not is_centrosymmetric(quartz())
    assert is_centrosymmetric(crystal("P -1", TRICLINIC, {"O1": (0.1, 0.2, 0.3)}))


@pytest.mark.parametrize(
    ("message", "change"),
    [
        ("smallest eigenvalue -0.010", {"u_aniso": np.diag([0.01, 0.01, -0.01])[None]}),
        ("smallest eigenvalue nan", {"u_aniso": np.full((1, 3, 3), np.nan)}),
        ("occupancy 1.5 of O1", {"occupancy": np.array([1.5])}),
        ("occupancy nan of O1", {"occupancy": np.array([np.nan])}),
        ("element 'Zz'", {"elements": ("Zz",)}),
        ("cell 5 6 0 ", {"cell": (5.0, 6.0, 0.0, 90.0, 90.0, 90.0)}),
        ("cell .* 20 150", {"cell": (5.0, 6.0, 7.0, 20.0, 20.0, 150.0)}),
        ("not a group", {"rotations": -np.eye(3, dtype=int)[None], "translations": np.zeros((1, 3))}),
        ("its own image by symmetry .* 0.200 Å", {"fract": np.array([[0.1 / 5.1, 0.0, 0.0]])}),
    ],
)
def test_refused(message, change):
    good = crystal("P -1", TRICLINIC, {"O1": (0.1, 0.2, 0.3)})
    with pytest.raises(InputError, match=rf"(?i){message}.*Expected .*To fix: "):
        remade(good, **change)


def test_atoms_too_close_and_repeated_labels_are_refused():
    with pytest.raises(InputError, match=r"O1 and O2 are 0\.\d+ Å apart"):
        crystal("P -1", TRICLINIC, {"O1": (0.1, 0.2, 0.3), "O2": (0.11, 0.2, 0.3)})
    with pytest.raises(InputError, match=r"cell misses the symmetry of its space group by \d+"):
        crystal("P 32 2 1", (4.9, 5.4, 5.4, 90.0, 90.0, 120.0), {"O1": (0.85, 0.58, 0.62)})
    split = crystal("P -1", TRICLINIC, {"O1": (0.1, 0.2, 0.3), "O2": (0.13, 0.2, 0.3)}, occupancy=(0.5, 0.5))
    assert split.position_basis.shape[0] == 6


def test_a_measured_cell_becomes_one_that_its_symmetry_allows():
    """Angles that miss 90 degrees by rounding would give an atom on two mirrors a U_13 that it cannot have."""
    measured = (5.630, 5.632, 4.7145, 89.99989, 90.00017, 89.99992)
    found = crystal("P -4 21 m", measured, {"O1": (0.0, 0.5, 0.6), "N1": (0.14, 0.64, 0.18)})
    a, b, c, *angles = found.cell
    assert a == pytest.approx(np.sqrt((5.630**2 + 5.632**2) / 2), abs=1e-9)
    assert (b, c) == pytest.approx((a, 4.7145), abs=1e-9)
    assert angles == pytest.approx([90, 90, 90], abs=1e-9)
    strain = 0.3 * np.random.default_rng(0).standard_normal(len(found.adp_basis))
    tensor = np.asarray(adp(found, strain))[0]
    assert np.max(np.abs(tensor[[0, 1], 2])) < 1e-15
    assert abs(tensor[0, 1]) > 1e-4
    exact = crystal("P -4 21 m", (5.63, 5.63, 4.7145, 90.0, 90.0, 90.0), {"O1": (0.0, 0.5, 0.6)})
    assert exact.cell == (5.63, 5.63, 4.7145, 90.0, 90.0, 90.0)


def test_a_crystal_is_a_pytree_that_compiles():
    found = quartz()
    total = jax.jit(
        lambda crystal: jnp.sum(expanded_atoms(crystal, crystal.fract, crystal.u_aniso, crystal.occupancy)[2])
    )
    assert total(found) == pytest.approx(9)
