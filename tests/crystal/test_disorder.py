"""Disorder groups: which occupancies are one number, and which atoms are bonded, drawn and never there together."""

import jax
import numpy as np
import pytest
from matplotlib.collections import LineCollection
from numpyro import handlers
from test_crystal import crystal

from pendel.crystal.bonds import find_angles, find_bonds, find_neighbours
from pendel.crystal.hydrogen_bonds import find_hydrogen_bonds
from pendel.crystal.molecules import never_together, whole_molecules
from pendel.crystal.occupancies import free_occupancies
from pendel.files.cif import read_crystal
from pendel.files.structure_cif import write_structure_cif
from pendel.model import sample_structure
from pendel.report.figures_structure import cell_picture
from pendel.report.structure_tables import longest_bonds

CUBE = (10.0, 10.0, 10.0, 90.0, 90.0, 90.0)
HEAD = "CELL 0.0251 10 10 10 90 90 90\nLATT -1\nSFAC C H O\nFVAR 1 0.7 0.7 0.6\n"
TWO = """O9 3 0.9 0.9 0.9 11 0.03
PART 1 21
C1 1 0.10 0.1 0.1 11 0.03
C2 1 0.25 0.1 0.1 11 0.03
PART 2 -21
C3 1 0.10 0.1 0.16 11 0.03
PART 1 31
C4 1 0.10 0.6 0.1 11 0.03
PART 2 -31
C5 1 0.10 0.6 0.16 11 0.03
C6 1 0.25 0.6 0.16 11 0.03
PART 0
O1 3 0.6 0.6 0.6 41 0.03
O2 3 0.6 0.1 0.6 10.4 0.03
"""


def read(tmp_path, body):
    path = tmp_path / "disorder.res"
    path.write_text(HEAD + body + "END\n")
    return read_crystal(path)


def test_one_number_for_each_free_variable(tmp_path):
    structure = read(tmp_path, TWO)
    assert structure.free_variable == (0, 2, 2, -2, 3, -3, -3, 4, 0)
    free = free_occupancies(structure)
    assert [structure.labels[site] for site in free.leaders] == ["C1", "C4", "O1", "O2"]
    assert free.parameter.tolist() == [0, 0, 0, 1, 1, 1, 2, 3]
    assert free.complement.tolist() == [False, False, True, False, True, True, False, False]


def test_one_number_for_each_group_of_a_cif(tmp_path):
    """Without free variables the groups and their occupancies say what is there together."""
    structure = read(tmp_path, TWO.replace("31", "41"))
    write_structure_cif(tmp_path / "again.cif", structure)
    again = read_crystal(tmp_path / "again.cif")
    assert again.free_variable == ()
    free = free_occupancies(again)
    assert [again.labels[site] for site in free.leaders] == ["C1", "C4", "O1", "O2"]
    assert free.parameter.tolist() == [0, 0, 0, 1, 1, 1, 2, 3]
    assert free.complement.tolist() == [False, False, True, False, True, True, False, False]


def test_occupancies_of_a_model_add_up(tmp_path):
    structure = read(tmp_path, TWO)

    def model():
        return sample_structure(structure, displacement=0.05, log_strain=0.5, logit_occupancy=1.5)

    trace = handlers.trace(handlers.seed(model, jax.random.key(2))).get_trace()
    assert trace["logit_occupancy"]["value"].shape == (4,)
    assert np.allclose(trace["logit_occupancy"]["fn"].base_dist.loc, np.log([7 / 3, 7 / 3, 6 / 4, 4 / 6]))
    o9, c1, c2, c3, c4, c5, c6, o1, o2 = np.asarray(trace["occupancy"]["value"])
    assert (o9, c2, c6) == (1.0, c1, c5)
    assert (c1 + c3, c4 + c5) == pytest.approx((1.0, 1.0))
    assert len({round(float(x), 6) for x in (c1, c4, o1, o2)}) == 4


@pytest.mark.parametrize(("sof", "count"), [("10.5", 0), ("21", 1)])
def test_a_negative_group_is_free_only_with_a_variable(tmp_path, sof, count):
    body = f"O9 3 0.9 0.9 0.9 11 0.03\nPART -1\nC1 1 0.03 0.02 0.01 {sof} 0.03\nPART 0\n"
    assert len(free_occupancies(read(tmp_path, body)).leaders) == count


def about_a_centre(group):
    """A chain of two atoms across a centre of symmetry, half occupied: C1 is 1.1 Å from its image."""
    points = {"C1": (0.05, 0.02, 0.01), "C2": (0.05, 0.17, 0.01)}
    return crystal("P -1", CUBE, points, occupancy=[0.5, 0.5], disorder=(("", group),) * 2)


def chains(structure):
    return sorted(tuple(structure.labels[atom.site] for atom in bond.atoms) for bond in find_bonds(structure))


def test_a_negative_group_is_not_bonded_to_its_image():
    assert chains(about_a_centre("1")) == [("C1", "C1"), ("C1", "C2")]
    structure = about_a_centre("-1")
    assert chains(structure) == [("C1", "C2")]
    assert [len(atoms) for atoms in find_neighbours(structure)] == [1, 1]
    assert whole_molecules(structure)[1].all()
    apart = never_together(structure)
    image = np.asarray(structure.atom_op)
    assert np.array_equal(apart, image[:, None] != image)


def test_angles_at_a_shared_atom_are_within_one_image():
    """An atom on the centre has both images as neighbours, and angles only within each of them."""
    points = {"O1": (0.0, 0.0, 0.0), "C1": (0.14, 0.0, 0.0), "C2": (-0.04, 0.14, 0.0)}
    groups = (("", ""), ("", "-1"), ("", "-1"))
    structure = crystal("P -1", CUBE, points, occupancy=[1.0, 0.5, 0.5], disorder=groups)
    assert [len(atoms) for atoms in find_neighbours(structure)] == [4, 1, 1]
    at_centre = [angle for angle in find_angles(structure, find_bonds(structure)) if angle.atoms[1].site == 0]
    (angle,) = at_centre
    assert sorted(structure.labels[angle.atoms[end].site] for end in (0, 2)) == ["C1", "C2"]
    assert angle.atoms[0].operation == angle.atoms[2].operation


def test_hydrogen_of_a_negative_group_has_no_image_for_acceptor():
    """The image of O1 is 1.8 Å from H1 and in line with it."""
    points = {"O1": (0.377, 0.5, 0.5), "H1": (0.46, 0.46, 0.5), "C1": (0.33, 0.37, 0.5)}
    for group, count in (("1", 1), ("-1", 0)):
        structure = crystal("P -1", CUBE, points, occupancy=[0.5] * 3, disorder=(("", group),) * 3)
        assert len(find_hydrogen_bonds(structure)) == count


@pytest.mark.parametrize(("groups", "count"), [(("1", "1", "2", "2"), 2), (("", "", "", ""), 3)])
def test_alternatives_are_not_joined_in_the_picture(groups, count):
    """Two pairs of atoms side by side, 1.1 Å apart at one end and 2.2 Å at the other."""
    points = {"C1": (0.4, 0.4, 0.5), "C2": (0.4, 0.55, 0.5), "C3": (0.51, 0.4, 0.5), "C4": (0.62, 0.5, 0.5)}
    disorder = tuple(("", group) for group in groups) if any(groups) else ()
    structure = crystal("P 1", CUBE, points, occupancy=[1.0] * 4, disorder=disorder)
    figure = cell_picture(structure, 2, longest_bonds(structure))
    (drawn,) = [c for c in figure.axes[0].collections if isinstance(c, LineCollection) and len(c.get_segments()) < 12]
    assert len(drawn.get_segments()) == count
