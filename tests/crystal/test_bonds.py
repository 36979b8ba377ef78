"""Bonds, angles and ellipsoids: closed forms, brute force over many cells, gemmi, and a Monte Carlo done by hand."""

import dataclasses
import itertools

import gemmi
import numpy as np
import pytest

from pendel.base import InputError
from pendel.crystal.bonds import Bond, bond_angles, bond_lengths, find_angles, find_bonds, principal_axes
from pendel.crystal.cell import direct_matrix, u_from_cartesian
from pendel.crystal.elements import covalent_radii
from pendel.crystal.hand import invert
from pendel.crystal.structure import Crystal, make_crystal
from pendel.files.cif import read_crystal

QUARTZ = (4.9134, 4.9134, 5.4052, 90.0, 90.0, 120.0)  # Å, degrees; alpha-quartz at 298 K
SILICON, OXYGEN = (0.0, 0.46981, 5 / 6), (0.85397, 0.58628, 0.6188)  # X-ray structure in P 32 2 1
TETRAHEDRAL = float(np.degrees(np.arccos(-1 / 3)))


def made(group: str, cell, sites, *, occupancy=None) -> Crystal:
    """A crystal from (label, element, coordinates) rows and a space-group symbol."""
    operations = list(gemmi.find_spacegroup_by_name(group).operations())
    return make_crystal(
        name="made.cif",
        cell=cell,
        spacegroup=group,
        rotations=np.array([operation.rot for operation in operations]) // gemmi.Op.DEN,
        translations=np.array([operation.tran for operation in operations]) / gemmi.Op.DEN,
        labels=tuple(label for label, _, _ in sites),
        elements=tuple(element for _, element, _ in sites),
        fract=np.array([position for _, _, position in sites], dtype=float),
        u_aniso=np.asarray(u_from_cartesian(np.tile(0.01 * np.eye(3), (len(sites), 1, 1)), cell)),
        occupancy=np.ones(len(sites)) if occupancy is None else np.array(occupancy),
        isotropic=(False,) * len(sites),
    )


def cubic(group: str, a: float, sites, **options) -> Crystal:
    return made(group, (a, a, a, 90.0, 90.0, 90.0), sites, **options)


def quartz() -> Crystal:
    return made("P 32 2 1", QUARTZ, [("Si1", "Si", SILICON), ("O1", "O", OXYGEN)])


def triclinic() -> Crystal:
    """A molecule across the corner of a centrosymmetric cell, one of its bonds through the centre of symmetry."""
    sites = [("C1", "C", (0.93, 0.04, 0.02)), ("O1", "O", (-0.12, 0.17, 1.05)), ("N1", "N", (0.79, 0.97, 0.11))]
    return made("P -1", (7.1, 8.3, 9.2, 78.0, 83.0, 107.0), sites)


def labels(crystal: Crystal, atoms) -> tuple[str, ...]:
    return tuple(crystal.labels[atom.site] for atom in atoms)


def test_alternatives_of_one_atom_are_not_bonded():
    sites = [("C1", "C", (0.1, 0.1, 0.1)), ("C2A", "C", (0.25, 0.1, 0.1)), ("C2B", "C", (0.22, 0.185, 0.1))]
    cell = (10.0, 10.0, 10.0, 90.0, 90.0, 90.0)
    split = made("P 1", cell, sites, occupancy=(1.0, 0.5, 0.5))
    bonds = find_bonds(split)
    assert [labels(split, bond.atoms) for bond in bonds] == [("C1", "C2B"), ("C1", "C2A")]
    assert find_angles(split, bonds) == ()
    whole = made("P 1", cell, sites, occupancy=(1.0, 0.9, 0.9))
    assert ("C2A", "C2B") in [labels(whole, bond.atoms) for bond in find_bonds(whole)]


def test_radii():
    assert covalent_radii(("H", "O", "Si", "Cs")) == pytest.approx([0.31, 0.66, 1.11, 2.44])


@pytest.mark.parametrize(
    ("crystal", "expected", "angles"),
    [
        (  # fluorite
            cubic("F m -3 m", 5.463, [("Ca", "Ca", (0, 0, 0)), ("F", "F", (0.25, 0.25, 0.25))]),
            [("Ca", "F", 8, 5.463 * np.sqrt(3) / 4)],
            {"Ca": [180 - TETRAHEDRAL, TETRAHEDRAL, 180], "F": [TETRAHEDRAL]},
        ),
        (  # magnesium oxide, whose Mg-Mg distance of 2.98 Å is below the sum of the radii and the increment
            cubic("F m -3 m", 4.212, [("Mg", "Mg", (0, 0, 0)), ("O", "O", (0.5, 0.5, 0.5))]),
            [("Mg", "O", 6, 4.212 / 2)],
            {"Mg": [90, 180], "O": [90, 180]},
        ),
        (  # copper: metals only
            cubic("F m -3 m", 3.615, [("Cu", "Cu", (0, 0, 0))]),
            [("Cu", "Cu", 12, 3.615 / np.sqrt(2))],
            {"Cu": [60, 90, 120, 180]},
        ),
        (  # diamond: the two ends of a bond change places
            cubic("F d -3 m :2", 3.567, [("C", "C", (0.125, 0.125, 0.125))]),
            [("C", "C", 4, 3.567 * np.sqrt(3) / 4)],
            {"C": [TETRAHEDRAL]},
        ),
    ],
    ids=["fluorite", "magnesia", "copper", "diamond"],
)
def test_closed_forms(crystal, expected, angles):
    bonds = find_bonds(crystal)
    lengths = bond_lengths(crystal, bonds, crystal.fract)
    assert [(*labels(crystal, bond.atoms), bond.multiplicity) for bond in bonds] == [row[:3] for row in expected]
    assert lengths == pytest.approx([row[3] for row in expected], abs=1e-12)
    found = find_angles(crystal, bonds)
    values = bond_angles(crystal, found, crystal.fract)
    for vertex, wanted in angles.items():
        mine = [value for angle, value in zip(found, values, strict=True) if labels(crystal, angle.atoms)[1] == vertex]
        assert sorted(mine) == pytest.approx(wanted, abs=1e-9)


def by_hand(silicon, oxygen) -> tuple[np.ndarray, np.ndarray]:
    """The two Si-O lengths and the Si-O-Si angle of quartz from its six operations, typed here; [draws ...] arrays."""
    a, _, c, *_ = QUARTZ
    x, y, z = np.moveaxis(oxygen, -1, 0)
    images = np.stack(
        [
            np.stack(image, axis=-1)
            for image in (
                (x, y, z),
                (-y, x - y, z + 2 / 3),
                (y - x, -x, z + 1 / 3),
                (y, x, -z),
                (x - y, -y, 1 / 3 - z),
                (-x, y - x, 2 / 3 - z),
            )
        ]
    )

    def vectors(there, here):
        cells = np.array(list(itertools.product(range(-2, 3), repeat=3)))
        d = (there - here)[..., None, :] + cells
        return np.stack([a * (d[..., 0] - d[..., 1] / 2), a * np.sqrt(3) / 2 * d[..., 1], c * d[..., 2]], axis=-1)

    lengths = np.linalg.norm(vectors(images, silicon), axis=-1)  # [6 draws cells]
    four = np.sort(np.moveaxis(lengths, 0, -1).reshape(len(x), -1), axis=1)[:, :4]
    u = silicon[:, 1]
    others = [silicon, np.stack([-u, -u, u * 0 + 5 / 6 + 2 / 3], axis=-1), np.stack([u, u * 0, u * 0 + 1 / 6], axis=-1)]
    arms = np.concatenate([vectors(other, oxygen) for other in others], axis=1)
    order = np.argsort(np.linalg.norm(arms, axis=-1), axis=1)[:, :2]
    first, last = (np.take_along_axis(arms, order[:, [end], None], axis=1)[:, 0] for end in (0, 1))
    cosine = np.sum(first * last, axis=1) / np.linalg.norm(first, axis=1) / np.linalg.norm(last, axis=1)
    return four, np.degrees(np.arccos(cosine))


def test_published_geometry_of_quartz():
    """Levien, Prewitt & Weidner (1980), Am. Mineral. 65, 920: at 1 bar; origin moved by c 2/3 to the usual setting."""
    sites = [("Si1", "Si", (0.4697, 0, 2 / 3)), ("O1", "O", (0.4135, 0.2669, 0.1191 + 2 / 3))]
    crystal = made("P 32 2 1", (4.916, 4.916, 5.4054, 90.0, 90.0, 120.0), sites)
    bonds = find_bonds(crystal)
    assert bond_lengths(crystal, bonds, crystal.fract) == pytest.approx([1.605, 1.614], abs=0.0005)
    assert [bond.multiplicity for bond in bonds] == [2, 2]
    angles = find_angles(crystal, bonds)
    names = ["-".join(labels(crystal, angle.atoms)) for angle in angles]
    assert names == ["O1-Si1-O1"] * 4 + ["Si1-O1-Si1"]
    values = bond_angles(crystal, angles, crystal.fract)
    assert sorted(values) == pytest.approx([108.8, 109.0, 109.2, 110.5, 143.7], abs=0.06)


def test_quartz_in_the_setting_of_the_data():
    """Another X-ray structure: within two of its standard uncertainties, 0.0013 Å, of the published lengths."""
    crystal = quartz()
    assert bond_lengths(crystal, find_bonds(crystal), crystal.fract) == pytest.approx([1.605, 1.614], abs=0.0026)


def test_uncertainties_are_those_of_a_monte_carlo_done_by_hand():
    crystal = quartz()
    rng = np.random.default_rng(11)
    factor = rng.normal(size=(4, 4)) * 3e-4  # correlated u of Si and x, y, z of O
    free = np.array([SILICON[1], *OXYGEN]) + rng.normal(size=(2000, 4)) @ factor.T
    fract = np.tile(np.asarray(crystal.fract), (len(free), 1, 1))
    fract[:, 0, 1], fract[:, 1] = free[:, 0], free[:, 1:]
    bonds = find_bonds(crystal)
    angles = find_angles(crystal, bonds)
    bridge = [angle for angle in angles if labels(crystal, angle.atoms)[1] == "O1"]
    lengths, bent = bond_lengths(crystal, bonds, fract), bond_angles(crystal, tuple(bridge), fract)
    four, angle = by_hand(fract[:, 0], fract[:, 1])
    np.testing.assert_allclose(np.sort(lengths.repeat(2, axis=1), axis=1), four, atol=1e-12)
    np.testing.assert_allclose(bent[:, 0], angle, atol=1e-9)
    step = 1e-6  # linear propagation: J C J^T by differences
    jacobian = np.array([(_at(crystal, bonds, k, step) - _at(crystal, bonds, k, -step)) / (2 * step) for k in range(4)])
    propagated = np.sqrt(np.diag(jacobian.T @ factor @ factor.T @ jacobian))
    np.testing.assert_allclose(np.std(lengths, axis=0), propagated, rtol=0.06)  # 2000 draws: 1.6 % each


def _at(crystal, bonds, coordinate, step):
    fract = np.array(crystal.fract)
    fract[(0, 1, 1, 1)[coordinate], (1, 0, 1, 2)[coordinate]] += step
    return bond_lengths(crystal, bonds, fract)


@pytest.fixture(params=["quartz", "triclinic", "cspbbr3", "mixed"])
def structure(request) -> Crystal:
    if request.param == "cspbbr3":
        return read_crystal(request.getfixturevalue("shared_data") / "cspbbr3" / "cspbbr3.cif")
    if request.param == "mixed":  # two elements on one place
        sites = [("Al1", "Al", (0.1, 0.2, 0.3)), ("Si1", "Si", (0.1, 0.2, 0.3)), ("O1", "O", (0.25, 0.33, 0.36))]
        return made("P 21 21 21", (7.0, 8.0, 9.0, 90.0, 90.0, 90.0), sites, occupancy=[0.4, 0.6, 1.0])
    return {"quartz": quartz, "triclinic": triclinic}[request.param]()


def shells(crystal: Crystal, draws) -> list[list[tuple[int, np.ndarray]]]:
    """Site and Cartesian vectors [draws 3] of every atom within reach of each site, from 7 x 7 x 7 cells by hand."""
    cells = np.array(list(itertools.product(range(-3, 4), repeat=3)))
    direct, radii = direct_matrix(crystal.cell), covalent_radii(crystal.elements)
    metal = np.array([gemmi.Element(element).is_metal for element in crystal.elements])
    fract = np.concatenate([np.asarray(crystal.fract)[None], draws])
    found = []
    for here in range(len(crystal.labels)):
        shell: list[tuple[int, np.ndarray]] = []
        for there in range(len(crystal.labels)):
            images = np.einsum("oij,dj->doi", crystal.rotations, fract[:, there]) + crystal.translations
            vectors = (images - fract[:, None, here])[:, :, None] + cells
            vectors = vectors.reshape(len(fract), -1, 3) @ direct.T
            lengths = np.linalg.norm(vectors[0], axis=1)
            near = vectors[:, (lengths > 0.5) & (lengths < radii[here] + radii[there] + 0.4)]
            if not (metal[here] and metal[there]):
                for k in range(near.shape[1]):
                    if np.all(np.linalg.norm(near[0, :k] - near[0, k], axis=1) > 0.01):
                        shell.append((there, near[1:, k]))
        found.append(shell)
    return found


def rounded(values, digits=6) -> tuple[float, ...]:
    return tuple(np.round(values, digits).tolist())


def draws_of(crystal: Crystal, count=3) -> np.ndarray:
    """Coordinates moved at random as symmetry allows."""
    moves = np.random.default_rng(3).normal(scale=0.01, size=(count, len(crystal.position_basis)))
    return np.asarray(crystal.fract) + np.tensordot(moves, np.asarray(crystal.position_basis), axes=1)


def test_every_neighbour_belongs_to_one_bond(structure):
    """Coordination numbers by site and length, from bonds and multiplicities, are those of brute force."""
    bonds = find_bonds(structure)
    lengths = bond_lengths(structure, bonds, structure.fract)
    multiplicity = np.bincount(structure.atom_site)
    counted = [[] for _ in structure.labels]
    for bond, length in zip(bonds, lengths.tolist(), strict=True):
        first, second = (atom.site for atom in bond.atoms)
        counted[first] += [(second, length)] * bond.multiplicity
        if first != second:
            times, rest = divmod(bond.multiplicity * multiplicity[first], multiplicity[second])
            assert rest == 0
            counted[second] += [(first, length)] * int(times)
    assert bonds
    for mine, shell in zip(counted, shells(structure, np.asarray(structure.fract)[None]), strict=True):
        expected = sorted((there, float(np.linalg.norm(vector))) for there, vector in shell)
        assert [site for site, _ in sorted(mine)] == [site for site, _ in expected]
        assert [x for _, x in sorted(mine)] == pytest.approx([x for _, x in expected], abs=1e-9)


def test_bonds_and_angles_are_unique_and_complete(structure):
    """Bonds (angles) are equal by symmetry if they are equal however the atoms move: as many as distinct values."""
    bonds = find_bonds(structure)
    angles = find_angles(structure, bonds)
    draws = draws_of(structure)
    lengths, values = bond_lengths(structure, bonds, draws), bond_angles(structure, angles, draws)
    arms = [
        bond_lengths(structure, tuple(Bond((a.atoms[end], a.atoms[1]), 1) for a in angles), draws) for end in (0, 2)
    ]
    mine = {(*sorted(atom.site for atom in bond.atoms), *rounded(lengths[:, k])) for k, bond in enumerate(bonds)}
    bent = set()
    for k, angle in enumerate(angles):
        ends = sorted((angle.atoms[end].site, *rounded(arm[:, k])) for end, arm in zip((0, 2), arms, strict=True))
        bent.add((angle.atoms[1].site, *ends, *rounded(values[:, k], 4)))
    brute_bonds, brute_angles = set(), set()
    for here, shell in enumerate(shells(structure, draws)):
        ends = [(there, *rounded(np.linalg.norm(vectors, axis=1))) for there, vectors in shell]
        brute_bonds |= {(*sorted((here, there)), *distances) for there, *distances in ends}
        for k, m in itertools.combinations(range(len(shell)), 2):
            if np.linalg.norm(shell[k][1][0] - shell[m][1][0]) < 0.5:  # alternatives of one atom
                continue
            u, v = (shell[end][1] / np.linalg.norm(shell[end][1], axis=1, keepdims=True) for end in (k, m))
            bend = np.degrees(np.arccos(np.clip(np.sum(u * v, axis=1), -1, 1)))
            brute_angles.add((here, *sorted((ends[k], ends[m])), *rounded(bend, 4)))
    assert mine == brute_bonds
    assert len(mine) == len(bonds)
    assert bent == brute_angles
    assert len(bent) == len(angles)


@pytest.mark.parametrize("name", ["quartz/quartz_dynamical.cif", "cspbbr3/cspbbr3.cif"])
def test_neighbours_as_gemmi_finds_them(shared_data, name):
    crystal = read_crystal(shared_data / name)
    small = gemmi.read_small_structure(str(shared_data / name))
    search = gemmi.NeighborSearch(small, 5.0).populate()
    bonds = find_bonds(crystal)
    lengths = bond_lengths(crystal, bonds, crystal.fract)
    for number, site in enumerate(small.sites):
        for other in range(number, len(small.sites)):
            kind = [k for k, bond in enumerate(bonds) if [a.site for a in bond.atoms] == [number, other]]
            mine = sorted(x for k in kind for x in [float(lengths[k])] * bonds[k].multiplicity)
            reach = 0.4 + float(covalent_radii((crystal.elements[number], crystal.elements[other])).sum())
            theirs = []
            for mark in search.find_site_neighbors(site, 0.5, reach):
                step = np.array(small.cell.fractionalize(mark.pos).tolist()) - np.array(site.fract.tolist())
                distance = small.cell.orthogonalize(gemmi.Fractional(*(step - np.round(step)))).length()
                if mark.to_site(small).label == crystal.labels[other]:
                    theirs.append(distance)
            if mine:
                assert mine == pytest.approx(sorted(theirs), abs=2e-4)
    assert bonds


def test_caesium_lead_bromide(shared_data):
    crystal = read_crystal(shared_data / "cspbbr3" / "cspbbr3.cif")
    bonds = find_bonds(crystal)
    lengths = bond_lengths(crystal, bonds, crystal.fract)
    pairs = [frozenset(crystal.elements[atom.site] for atom in bond.atoms) for bond in bonds]
    octahedron = [k for k, pair in enumerate(pairs) if pair == {"Pb", "Br"}]
    cage = [k for k, pair in enumerate(pairs) if pair == {"Cs", "Br"}]
    assert len(octahedron) + len(cage) == len(bonds)
    assert sum(bonds[k].multiplicity for k in octahedron) == 6
    assert np.all((lengths[octahedron] > 2.97) & (lengths[octahedron] < 3.0))
    assert np.all((lengths[cage] > 3.6) & (lengths[cage] < 4.04))


def test_what_must_not_change_the_geometry(structure):
    bonds = find_bonds(structure)
    angles = find_angles(structure, bonds)
    lengths, values = bond_lengths(structure, bonds, structure.fract), bond_angles(structure, angles, structure.fract)
    cells = np.random.default_rng(1).integers(-2, 3, size=np.shape(structure.fract))
    moved = dataclasses.replace(structure, fract=np.asarray(structure.fract) + cells)
    for other in (moved, invert(structure)):
        again = find_bonds(other)
        assert bond_lengths(other, again, other.fract) == pytest.approx(lengths, abs=1e-9)
        turned = find_angles(other, again)
        assert sorted(bond_angles(other, turned, other.fract)) == pytest.approx(sorted(values), abs=1e-6)


def test_some_bonds_give_angles_between_them_only():
    crystal = quartz()
    bonds = find_bonds(crystal)
    angles = find_angles(crystal, bonds[:1])
    assert [labels(crystal, angle.atoms) for angle in angles] == [("O1", "Si1", "O1")]
    assert find_angles(crystal, ()) == ()
    assert bond_lengths(crystal, (), crystal.fract).shape == (0,)
    assert bond_angles(crystal, (), np.zeros((5, 2, 3))).shape == (5, 0)


def test_alternatives_on_one_place_are_not_bonded():
    sites = [("Al1", "Al", (0.1, 0.2, 0.3)), ("Si1", "Si", (0.1, 0.2, 0.3)), ("O1", "O", (0.25, 0.33, 0.36))]
    crystal = made("P 1", (7.0, 8.0, 9.0, 90.0, 90.0, 90.0), sites, occupancy=[0.4, 0.6, 1.0])
    assert [labels(crystal, bond.atoms) for bond in find_bonds(crystal)] == [("Al1", "O1"), ("Si1", "O1")]


def test_principal_axes_are_those_that_made_the_tensor():
    rng = np.random.default_rng(8)
    cell = (5.0, 6.0, 7.0, 80.0, 95.0, 110.0)
    amplitudes = np.sort(rng.uniform(0.05, 0.3, size=(40, 2, 3)), axis=-1)[..., ::-1]
    axes, _ = np.linalg.qr(rng.normal(size=(40, 2, 3, 3)))
    tensors = np.einsum("...ki,...k,...kj->...ij", axes, amplitudes**2, axes)
    found, directions = principal_axes(np.asarray(u_from_cartesian(tensors, cell)), cell)
    np.testing.assert_allclose(found, amplitudes, rtol=1e-9)
    np.testing.assert_allclose(np.abs(np.einsum("...ki,...ki->...k", directions, axes)), 1.0, atol=1e-6)
    assert np.all(np.take_along_axis(directions, np.argmax(np.abs(directions), axis=-1)[..., None], axis=-1) > 0)


def test_a_sphere_and_an_impossible_tensor():
    cell = (5.0, 6.0, 7.0, 80.0, 95.0, 110.0)
    sphere = np.asarray(u_from_cartesian(0.04 * np.eye(3), cell))
    amplitudes, directions = principal_axes(sphere, cell)
    assert amplitudes == pytest.approx([0.2, 0.2, 0.2])
    np.testing.assert_allclose(directions @ directions.T, np.eye(3), atol=1e-12)
    with pytest.raises(InputError, match=r"smallest eigenvalue.*positive definite"):
        principal_axes(np.asarray(u_from_cartesian(np.diag([0.01, 0.01, -0.002]), cell)), cell)
