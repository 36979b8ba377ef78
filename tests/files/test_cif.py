"""Structures from CIFs of many origins, and the messages for those that cannot be used."""

import numpy as np
import pytest

from pendel.base import InputError
from pendel.crystal.cell import u_cartesian, u_equivalent
from pendel.files.cif import read_crystal

CELL = """
_cell_length_a 5.10(1)
_cell_length_b 6.200(2)
_cell_length_c 7.3
_cell_angle_alpha 90
_cell_angle_beta 104.00(3)
_cell_angle_gamma 90
"""
SYMMETRY = "_symmetry_space_group_name_H-M 'P 1 21/c 1'\n"
ATOMS = """
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_U_iso_or_equiv
Si1 Si4+ 0.1000(2) 0.2 0.3 0.0123(4)
O1 O2- 0.4 0.1 0.6 0.02
"""


@pytest.fixture
def cif(tmp_path):
    """Writes a CIF and reads it."""

    def read(text: str, **options):
        path = tmp_path / "sample.cif"
        path.write_text(text, encoding="utf-8")
        return read_crystal(path, **options)

    return read


def atoms(header: str, *rows: str) -> str:
    return "loop_\n" + "\n".join(f"_atom_site_{tag}" for tag in header.split()) + "\n" + "\n".join(rows) + "\n"


def test_brackets_charges_and_isotropic_sites(cif):
    crystal = cif("data_a\n" + CELL + SYMMETRY + ATOMS)
    assert crystal.cell == (5.1, 6.2, 7.3, 90, 104, 90)
    assert crystal.elements == ("Si", "O")
    assert crystal.isotropic == (True, True)
    assert np.allclose(crystal.fract, [[0.1, 0.2, 0.3], [0.4, 0.1, 0.6]])
    assert np.allclose(u_equivalent(crystal.u_aniso, crystal.cell), [0.0123, 0.02])
    assert len(crystal.atom_site) == 8
    assert crystal.notes == ("the charges of Si4+, O2- are not used: atoms scatter as neutral ones",)


def test_published_files(shared_data):
    quartz = read_crystal(shared_data / "quartz" / "quartz_dynamical.cif")
    assert (quartz.spacegroup, quartz.labels, quartz.notes) == ("P 32 2 1", ("Si1", "O1"), ())
    assert np.allclose(quartz.u_aniso[1][[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]], QUARTZ_OXYGEN, atol=1e-12)
    kinematical = read_crystal(shared_data / "quartz" / "quartz_kinematical.cif")
    assert kinematical.u_aniso[1, 0, 1] == pytest.approx(0.0125)  # its columns come in the order 12 13 23
    assert kinematical.u_aniso[1, 1, 2] == pytest.approx(0.0046)
    perovskite = read_crystal(shared_data / "cspbbr3" / "cspbbr3.cif")
    assert perovskite.spacegroup == "P b n m"
    assert perovskite.elements == ("Cs", "Pb", "Br", "Br")
    assert [int(np.sum(perovskite.atom_site == site)) for site in range(4)] == [4, 4, 8, 4]
    assert (perovskite.position_basis.shape[0], perovskite.adp_basis.shape[0]) == (7, 20)


QUARTZ_OXYGEN = (0.013019, 0.019950, 0.016200, 0.004034, -0.002570, 0.009504)


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("name", ["quartz", "cspbbr3"])
def test_displaced_files(shared_data, name, number):
    crystal = read_crystal(shared_data / f"{name}_synthetic" / f"{name}_0{number}_displacement.cif")
    u_start = {1: 0.025, 2: 0.05, 3: 0.1}[number]
    assert np.allclose(u_cartesian(crystal.u_aniso, crystal.cell), u_start * np.eye(3), atol=1e-6)
    assert not any(crystal.isotropic)


@pytest.mark.parametrize(
    ("text", "symbol", "operations", "note"),
    [
        ("_space_group_name_H-M_alt 'P 21/c'", "P 1 21/c 1", 4, None),
        ("_symmetry_space_group_name_H-M P2(1)/c", "P 1 21/c 1", 4, None),
        ("_symmetry_space_group_name_H-M 'P 2_1/c'", "P 1 21/c 1", 4, None),
        ("_symmetry_space_group_name_Hall '-P 2ybc'", "P 1 21/c 1", 4, None),
        ("_symmetry_Int_Tables_number 14", "P 1 21/c 1", 4, "number 14 alone"),
        ("_space_group_IT_number 14\n_space_group_name_H-M_alt '?'", "P 1 21/c 1", 4, "number 14 alone"),
        ("loop_\n_space_group_symop_operation_xyz\nx,y,z '-X, -Y, -Z'", "P -1", 2, None),
        ("loop_\n_symmetry_equiv_pos_as_xyz\n-x,-y,-z x,y,z", "P -1", 2, None),
        ("loop_\n_symmetry_equiv_pos_as_xyz\nx,y,z -x,-y,-z x,y,z", "P -1", 2, "1 repeated"),
        ("loop_\n_symmetry_equiv_pos_as_xyz\nx,y,z\n_space_group_IT_number 2", "P 1", 1, "says number 2"),
        (
            "loop_\n_symmetry_equiv_pos_as_xyz\nx,y,z\n_symmetry_space_group_name_H-M 'P -1'",
            "P -1",
            2,
            "for 2 operators",
        ),
        ("loop_\n_symmetry_equiv_pos_as_xyz\nx,y,z\n_space_group_name_Hall '-P 1'", "P -1", 2, "for 2 operators"),
        ("loop_\n_symmetry_equiv_pos_as_xyz\nx,y,z x+1/2,1/2+y,z", "C 1", 2, None),
    ],
)
def test_symmetry_in_every_spelling(cif, text, symbol, operations, note):
    crystal = cif("data_a\n" + CELL + text + ATOMS)
    assert (crystal.spacegroup, len(crystal.rotations)) == (symbol, operations)
    assert np.array_equal(crystal.rotations[0], np.eye(3))
    told = [entry for entry in crystal.notes if "floats" not in entry and "charges" not in entry]
    assert len(told) == (note is not None)
    assert note is None or note in told[0]


@pytest.mark.parametrize(
    ("symbol", "angles", "expected"),
    [
        ("R -3 c", "90 90 120", "R -3 c:H"),
        ("R -3 c", "80 80 80", "R -3 c:R"),
        ("R -3 c H", "90 90 120", "R -3 c:H"),
        ("F d -3 m :1", "90 90 90", "F d -3 m:1"),
        ("F d -3 m S", "90 90 90", "F d -3 m:1"),
        ("F d -3 m Z", "90 90 90", "F d -3 m:2"),
        ("F d -3 m", "90 90 90", "F d -3 m:2"),
    ],
)
def test_settings(cif, symbol, angles, expected):
    alpha, beta, gamma = angles.split()
    cell = "".join(f"_cell_length_{axis} 8\n" for axis in "abc")
    cell += f"_cell_angle_alpha {alpha}\n_cell_angle_beta {beta}\n_cell_angle_gamma {gamma}\n"
    site = atoms("label fract_x fract_y fract_z U_iso_or_equiv", "Al1 0 0 0 0.01")
    crystal = cif(f"data_a\n{cell}_symmetry_space_group_name_H-M '{symbol}'\n{site}")
    assert crystal.spacegroup == expected
    assert ("origin choice 2" in " ".join(crystal.notes)) == (symbol == "F d -3 m")


def test_displacements_in_every_spelling(cif):
    text = atoms(
        "label fract_x fract_y fract_z B_iso_or_equiv adp_type",
        "Si1 0.1 0.2 0.3 0.8 Biso",
        "O1 0.4 0.1 0.6 ? ?",
        "O2 0.7 0.4 0.6 1.0 Uani",
        "O3 0.7 0.7 0.6 1.0 Uani",
        "O4 0.3 0.4 0.6 1.0 .",
    )
    tensor = "loop_\n_atom_site_aniso_label\n" + "\n".join(f"_atom_site_aniso_B_{ij}" for ij in B_ORDER)
    tensor += "\nO4 " + " ".join(str(8 * np.pi**2 * B_VALUES[ij]) for ij in B_ORDER) + "\nO3 . . . . . .\n"
    crystal = cif("data_a\n" + CELL + SYMMETRY + text + tensor)
    assert crystal.isotropic == (True, True, False, False, False)
    equivalent = u_equivalent(crystal.u_aniso, crystal.cell)
    assert np.allclose(equivalent[:4], [0.8 / (8 * np.pi**2), 0.01, *[1 / (8 * np.pi**2)] * 2])
    assert all(crystal.u_aniso[4, int(ij[0]) - 1, int(ij[1]) - 1] == pytest.approx(B_VALUES[ij]) for ij in B_ORDER)
    assert any(note.endswith("U_iso 0.01 Å² assumed: O1") for note in crystal.notes)
    assert any("flagged anisotropic" in note and note.endswith("O2, O3") for note in crystal.notes)


B_ORDER = ("12", "33", "23", "11", "13", "22")
B_VALUES = {"11": 0.01, "22": 0.02, "33": 0.03, "12": 0.001, "13": -0.002, "23": 0.003}


def test_elements_from_symbols_and_labels(cif):
    rows = ["Fe1 Fe3+ 0.1 0.1 0.1", "C1 Cval 0.3 0.3 0.3", "D1 D 0.5 0.4 0.5", "CL1 . 0.7 0.7 0.7", "HO1 ? 0.9 0.9 0.7"]
    body = CELL + "_symmetry_space_group_name_H-M P1\n_chemical_formula_sum 'C2 H2 Cl Fe O'\n"
    text = "data_a\n" + body + atoms("label type_symbol fract_x fract_y fract_z", *rows)
    assert cif(text).elements == ("Fe", "C", "H", "Cl", "H")
    without = cif(text, hydrogen=False)
    assert without.elements == ("Fe", "C", "Cl")
    assert any("2 hydrogen sites left out" in note for note in without.notes)


def test_dummy_and_empty_sites_are_skipped(cif):
    header = "label type_symbol fract_x fract_y fract_z occupancy calc_flag"
    rows = ["Si1 Si 0.1 0.1 0.1 0.5 d", "X1 X 0.3 0.3 0.3 1 dum", "H1 H ? ? ? 1 calc", "O1 O 0.5 0.4 0.5 0 d"]
    crystal = cif("data_a\n" + CELL + SYMMETRY + atoms(header, *rows))
    assert crystal.labels == ("Si1",)
    assert crystal.occupancy.tolist() == [0.5]
    assert any(note.endswith("skipped: X1, H1, O1") for note in crystal.notes)


def test_repeated_labels_are_numbered(cif):
    rows = ["O 0.1 0.1 0.1 0.01", "O 0.4 0.4 0.4 0.01"]
    crystal = cif("data_a\n" + CELL + SYMMETRY + atoms("label fract_x fract_y fract_z U_iso_or_equiv", *rows))
    assert crystal.labels == ("O_1", "O_2")


def test_blocks(cif):
    structure = CELL + SYMMETRY + ATOMS
    assert cif("data_global\n_journal_year 2020\ndata_one\n" + structure).labels == ("Si1", "O1")
    two = "data_one\n" + structure + "data_two\n" + structure.replace("Si1", "Si9")
    assert cif(two, block="TWO").labels == ("Si9", "O1")
    with pytest.raises(InputError, match="leave one of one, two in the file"):
        cif(two)
    with pytest.raises(InputError, match="Expected one of one, two, or its number"):
        cif(two, block="three")


def test_old_encodings_and_new_tags(tmp_path):
    path = tmp_path / "old.cif"
    text = "data_a\n_publ_author_name 'Ångström'\n" + (CELL + SYMMETRY + ATOMS).replace("_atom_site_", "_atom_site.")
    path.write_bytes(text.encode("latin-1"))
    assert read_crystal(path).labels == ("Si1", "O1")
    path.write_bytes(text.encode("utf-8-sig"))
    assert read_crystal(path).labels == ("Si1", "O1")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"no atoms in sample.cif \(0 data blocks\)"),
        ("this is\nno CIF", r"not a CIF \(line 1"),
        ("data_a\nloop_\n_a\n_b\n1 2 3\n", r"not a CIF \(line 2"),
        ("data_a\n" + CELL + SYMMETRY, "no atoms .*_atom_site_fract_x"),
        ("data_a\n" + SYMMETRY + ATOMS, "no number for _cell_length_a, "),
        ("data_a\n" + CELL.replace("7.3", "?") + SYMMETRY + ATOMS, "no number for _cell_length_c "),
        ("data_a\n" + CELL + ATOMS, "no readable symmetry"),
        ("data_a\n" + CELL + "loop_\n_symmetry_equiv_pos_as_xyz\nx,y" + ATOMS, "symmetry operator 'x,y'"),
        ("data_a\n" + CELL + "loop_\n_symmetry_equiv_pos_as_xyz\n-x,-y,-z" + ATOMS, "not a group"),
        ("data_a\n" + CELL + SYMMETRY + ATOMS.replace("Si4+", "Xq"), "unknown element 'Xq' of Si1"),
        ("data_a\n" + CELL + SYMMETRY + ATOMS.replace("Si4+", "Du"), "unknown element 'Du' of Si1"),
        ("data_a\n" + CELL + SYMMETRY + ATOMS.replace("0.1000(2)", "nonsense"), "fract_x 'nonsense' of Si1"),
        (
            "data_a\n" + CELL + SYMMETRY + ATOMS.replace("0.02", "-0.02"),
            "tensor of O1 in sample.cif .*eigenvalue -0.02",
        ),
        ("data_a\n" + CELL + SYMMETRY + ATOMS.replace("0.4 0.1 0.6", "0.1 0.21 0.3"), "Å apart in sample.cif"),
    ],
)
def test_refused(cif, text, message):
    with pytest.raises(InputError, match=rf"(?i){message}") as caught:
        cif(text)
    assert "\n" not in str(caught.value)
    assert all(part in str(caught.value) for part in (". Expected ", ". To fix: "))


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match=r"No file .*absent.cif"):
        read_crystal(tmp_path / "absent.cif")
