"""Files as people have them: every file of the shared folder `inputs`, and more of each kind."""

import shutil
from pathlib import Path

import gemmi
import numpy as np
import pytest
from typer.testing import CliRunner

from pendel.base import InputError
from pendel.cli.main import app
from pendel.crystal.bonds import find_bonds
from pendel.crystal.cell import u_equivalent
from pendel.experiment.select import unique
from pendel.files.cif import read_crystal
from pendel.files.pets import read_pets
from pendel.files.structure_cif import write_structure_cif
from pendel.files.symbols import from_symbol, in_setting
from pendel.run.inputs import Problem, read_problem
from pendel.run.settings import Settings


@pytest.fixture(scope="module")
def inputs(shared: Path) -> Path:
    folder = shared / "inputs"
    if not folder.is_dir():
        pytest.skip("the shared folder has no inputs/ beside data/")
    return folder


@pytest.fixture
def written(tmp_path):
    """Writes a text as a CIF and reads it."""

    def read(text: str, **options):
        path = tmp_path / "sample.cif"
        path.write_text(text, encoding="utf-8")
        return read_crystal(path, **options)

    return read


def problem(inputs: Path, structure: str, data: str, **settings) -> Problem:
    return read_problem(inputs / structure, [inputs / data], Settings(**settings))


def noted(notes, *parts: str) -> bool:
    """Whether exactly one note has all the parts."""
    return sum(all(part in note for part in parts) for note in notes) == 1


def refusal(read, *parts: str) -> None:
    with pytest.raises(InputError) as caught:
        read()
    message = str(caught.value)
    assert all(part in message for part in (*parts, ". Expected ", ". To fix: ")), message


# Measurements


def test_no_measurement_is_lost_with_a_poor_frame(inputs):
    found = problem(inputs, "structure_si.cif", "data_overlapping_windows.cif_pets")
    assert len(found.experiments[0].hkl) == len(unique(found.rows[0]).hkl) == 76
    assert found.experiments[0].weight.sum() == len(found.rows[0].hkl) == 3241
    assert noted(found.notes, "each measurement stands in 43 rows", "--frames ::48", "69 of 76")
    assert noted(found.notes, "27 measurements count in the next frame")
    thinner = problem(inputs, "structure_si.cif", "data_overlapping_windows.cif_pets", frames="::24")
    assert not any("stands in" in note for note in thinner.notes)


def test_two_blocks_of_one_name(inputs):
    path = inputs / "data_two_blocks_one_name.cif_pets"
    refusal(lambda: read_pets(path), "intensities in 2 blocks (pets, pets)", "split the file")
    refusal(lambda: read_pets(path, block="pets"), "2 blocks pets", "number from 1 to 2")
    first, second = (read_pets(path, block=number) for number in ("1", "2"))
    assert (len(first.frame_id), len(second.frame_id)) == (10, 6)
    refusal(lambda: read_pets(path, block="3"), "No block 3")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
def test_one_reader_of_text(inputs, tmp_path, encoding, ends):
    plain = read_pets(inputs / "data_plain.cif_pets")
    text = (inputs / "data_latin1.cif_pets").read_text(encoding="latin-1")
    path = tmp_path / "data.cif_pets"
    path.write_bytes(text.replace("\n", ends).encode(encoding))
    found = read_pets(path)
    np.testing.assert_array_equal(found.hkl, plain.hkl)
    assert noted(found.notes, "read as Latin-1") == (encoding == "latin-1")
    structure = (inputs / "structure_si.cif").read_text() + "_publ_author_name 'Ångström'\n\x1a"
    path = tmp_path / "structure.cif"
    path.write_bytes(structure.replace("\n", ends).encode(encoding))
    found = read_crystal(path)
    assert len(found.atom_site) == 8
    assert noted(found.notes, "read as Latin-1") == (encoding == "latin-1")


def test_lines_are_counted_with_other_line_ends(inputs, tmp_path):
    path = tmp_path / "data.cif_pets"
    text = (inputs / "data_plain.cif_pets").read_text().replace("-14.000", "?", 1)
    path.write_bytes(text.replace("\n", "\r\n").encode())
    line = next(number for number, line in enumerate(text.splitlines(), 1) if " ? " in line)
    refusal(lambda: read_pets(path), f"line {line}:")


def test_letters_without_quotes(written):
    text = STRUCTURE.replace("data_t", "data_t\n_publ_author_name Müller\n_note a\u00a0")
    assert noted(written(text).notes, "beyond ASCII")
    assert len(written(STRUCTURE.replace("0.11 0.22", "\u22120.11\u00a00.22")).labels) == 2


def test_permuted_axes_are_named(inputs):
    refusal(
        lambda: problem(inputs, "structure_axes_abc.cif", "data_axes_cab.cif_pets"),
        "differ by 31.0%, equal if a,b,c of the structure are c,a,b of the data",
    )


def test_measurements_that_the_centring_forbids(inputs):
    found = problem(inputs, "structure_si.cif", "data_forbidden_by_centring.cif_pets")
    measured = found.experiments[0]
    parity = np.asarray(measured.hkl) % 2
    forbidden = ~np.all(parity == parity[:, :1], axis=1)
    strong = np.asarray(measured.intensity > 3 * measured.sigma)
    assert forbidden.any()
    words = f"{forbidden.sum()} of {len(forbidden)} measurements are forbidden by the centring"
    assert noted(found.notes, words, f"{(forbidden & strong).sum()} of them above 3 sigma")
    plain = problem(inputs, "structure_si.cif", "data_plain.cif_pets")
    assert not any("centring" in note for note in plain.notes)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("data_dials_core_cif.cif", ("without frames", "dials.export format=pets")),
        ("data_lfs_pointer.cif_pets", ("pointer of Git LFS", "git lfs pull")),
        ("shelx.res", ("SHELX instruction file", "frame-wise")),
        ("structure_si.cif", ("only a structure", "frame-wise")),
    ],
)
def test_files_that_are_no_data(inputs, name, parts):
    refusal(lambda: read_pets(inputs / name), name, *parts)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\x1f\x8b\x08\x00rest", "compressed"),
        (b"PK\x03\x04rest", "compressed"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"%PDF-1.5\n", "PDF"),
        (b"<!DOCTYPE html>\n<html>", "web page"),
        (b'{"cell": 5}', "JSON"),
        (b"CRYST1   10.0   10.0   10.0\n", "PDB"),
        (b"   1   0   0   12.50    0.70\n   2   0   0   12.50    0.70\n", "bare list of reflections"),
        (b"CELL 0.0251 7.1 8.2 9.3 90 101.5 90\nLATT 1\n", "SHELX"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"\x00\x01\x02", "not a CIF"),
        (b"", "o "),
    ],
)
def test_other_files_are_named(tmp_path, content, words):
    path = tmp_path / "file.cif"
    path.write_bytes(content)
    for read in (read_crystal, read_pets):
        refusal(lambda read=read: read(path), words)


def test_square_brackets_are_shown(inputs, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    path = tmp_path / "run[b]1.cif_pets"
    shutil.copy(inputs / "data_plain.cif_pets", path)
    shown = CliRunner().invoke(app, ["check", str(inputs / "structure_si.cif"), str(path), "--tilts", "5"])
    assert shown.exit_code == 0
    assert "run[b]1.cif_pets: rotation" in shown.stdout
    assert "[eV]" in CliRunner().invoke(app, ["check", "--help"]).stdout


# Symmetry


def test_the_full_symbol_beside_a_list_of_the_identity(inputs):
    found = read_crystal(inputs / "full_symbol_identity_only.cif")
    assert (found.spacegroup, len(found.atom_site)) == ("F m -3 m", 8)
    assert noted(found.notes, "x,y,z alone", "192")


FULL = {
    "F 4/m -3 2/m": "F m -3 m",
    "F4/m-32/m": "F m -3 m",
    "P 2/m 2/m 2/m": "P m m m",
    "P 21/n 21/m 21/a": "P n m a",
    "C 2/m 2/c 21/m": "C m c m",
    "I 41/a 2/m 2/d": "I 41/a m d:2",
    "P 42/m 21/n 2/m": "P 42/m n m",
    "P 63/m 2/m 2/c": "P 63/m m c",
    "R -3 2/c": "R -3 c:H",
    "P -3 1 2/m": "P -3 1 m",
    "I 21/a -3": "I a -3",
    "P 4/n -3 2/n :2": "P n -3 n:2",
    "P 1 21/c 1": "P 1 21/c 1",
    "nonsense": None,
    "P": None,
}


@pytest.mark.parametrize("full", FULL)
def test_full_symbols(full):
    found = from_symbol(full, (5.0, 5.0, 5.0, 90.0, 90.0, 120.0))
    assert (found and found.xhm()) == FULL[full]


def test_every_code_of_a_setting_finds_its_setting():
    for group in gemmi.spacegroup_table():
        code = group.ext.strip("\0 ").lower() + group.qualifier
        standard = gemmi.get_spacegroup_reference_setting(group.number)
        if code and group.number != 3 and not (group.ext.strip("\0 ") == "" and group.qualifier in ("b1", "c1")):
            found = in_setting(standard, code, free=True)
            assert found is not None
            assert found.ext == group.ext


@pytest.mark.parametrize("tag", ["_space_group.IT_coordinate_system_code", "_space_group_IT_coordinate_system_code"])
@pytest.mark.parametrize(("code", "atoms"), [("1", 8), ("2", 16), ("?", 16), ("b1", 16)])
def test_the_code_of_the_setting_is_obeyed(inputs, written, tag, code, atoms):
    text = (inputs / "coordinate_system_code_1.cif").read_text()
    found = written(text.replace("_space_group.IT_coordinate_system_code 1", f"{tag} {code}"))
    assert len(found.atom_site) == atoms
    assert noted(found.notes, "origin choice 2") == (code == "?")
    assert noted(found.notes, "fits no setting") == (code == "b1")


@pytest.mark.parametrize(
    ("symmetry", "symbol"),
    [
        ("_space_group_IT_number 14\n_space_group_IT_coordinate_system_code b2", "P 1 21/n 1"),
        ("_space_group_IT_number 14\n_space_group_IT_coordinate_system_code b1", "P 1 21/c 1"),
        ("_space_group_IT_number 62\n_space_group_IT_coordinate_system_code cab", "P b n m"),
        ("_space_group_IT_number 48\n_space_group_IT_coordinate_system_code 1", "P n n n:1"),
    ],
)
def test_codes_of_axes(written, symmetry, symbol):
    text = STRUCTURE.replace("_symmetry_space_group_name_H-M 'P -1'", symmetry).replace("101.5", "90")
    assert written(text).spacegroup == symbol


def test_rhombohedral_axes_by_their_code(written):
    cell = STRUCTURE.replace("8.2", "7.1").replace("9.3", "7.1").replace("90", "80").replace("101.5", "80")
    symmetry = "_space_group_IT_number 148\n_space_group_IT_coordinate_system_code "
    assert written(cell.replace("_symmetry_space_group_name_H-M 'P -1'", symmetry + "r")).spacegroup == "R -3:R"


def test_a_list_without_its_centring(inputs):
    notes = read_crystal(inputs / "centring_left_out.cif").notes
    assert noted(notes, "contradicts the symbol I 4 (4 operators against 8)")
    assert noted(notes, "the cell holds O4 Ti1, formula and Z = 2 say O8 Ti2")


@pytest.mark.parametrize(
    ("formula", "units", "note"),
    [
        ("C O", "2", None),
        ("C O2", "2", "C2 O2, formula and Z = 2 say C2 O4"),
        ("C O", "4", "C2 O2, formula and Z = 4 say C4 O4"),
        ("C O", "?", None),
        ("C3 O", "?", "C2 O2, the formula says"),
        ("C1", "2", None),
        ("?", "2", None),
        ("C O H2", "2", "hydrogen"),
        ("C(O)", "2", None),
    ],
)
def test_contents_of_the_cell(written, formula, units, note):
    items = f"_chemical_formula_sum '{formula}'\n_cell_formula_units_Z {units}\n"
    notes = written(STRUCTURE.replace("data_t\n", f"data_t\n{items}")).notes
    assert not notes if note is None else noted(notes, note)


def test_superspace_operators(inputs):
    found = read_crystal(inputs / "superspace_operators_only.cif")
    assert (found.spacegroup, len(found.atom_site)) == ("P 1 21/c 1", 8)
    assert noted(found.notes, "average structure, from")


def test_a_setting_without_a_name_is_written_as_unknown(inputs, tmp_path):
    found = read_crystal(inputs / "unknown_setting.cif")
    assert len(found.atom_site) == 16
    path = tmp_path / "out.cif"
    write_structure_cif(path, found)
    block = gemmi.cif.read(str(path)).sole_block()
    assert block.find_value("_space_group_name_H-M_alt") == "?"
    assert block.find_value("_space_group_IT_number") == "?"
    again = read_crystal(path)
    assert (len(again.rotations), again.spacegroup) == (8, found.spacegroup)


@pytest.mark.parametrize(("name", "number"), [("structure_si.cif", "227"), ("ions.cif", "161"), ("u_zero.cif", "2")])
def test_written_structures_have_the_number_of_their_space_group(inputs, tmp_path, name, number):
    path = tmp_path / "out.cif"
    write_structure_cif(path, read_crystal(inputs / name))
    assert gemmi.cif.read(str(path)).sole_block().find_value("_space_group_IT_number") == number


# Sites


@pytest.mark.parametrize(("name", "site", "element"), [("water_without_type.cif", 1, "O"), ("type_H2O.cif", 0, "O")])
def test_water_is_oxygen(inputs, name, site, element):
    found = read_crystal(inputs / name)
    assert found.elements[site] == element
    assert noted(found.notes, f"{found.labels[site]} as O")


@pytest.mark.parametrize(
    ("formula", "kind", "label", "element", "note"),
    [
        ("?", ".", "WAT1", "O", "WAT1 as O"),
        ("?", ".", "HOH2", "O", "HOH2 as O"),
        ("?", ".", "Ow1", "O", None),
        ("C O", ".", "W1", "O", "W1 as O"),
        ("W O3", ".", "W1", "W", None),
        ("?", ".", "W1", "W", None),
        ("?", "H2O", "A1", "O", "A1 as O"),
        ("?", "OH2", "A1", "O", "A1 as O"),
        ("?", "OH", "A1", "O", "A1 as O"),
        ("?", "NH4+", "A1", "N", "A1 as N"),
        ("?", "CH3", "A1", "C", "A1 as C"),
        ("?", "Cval", "A1", "C", None),
        ("?", "D", "A1", "H", None),
        ("C O", ".", "CA1", "C", "CA1 as C"),
        ("Ca O", ".", "CA1", "Ca", None),
        ("C O", "Fe", "A1", "Fe", "does not have: A1 as Fe"),
        ("C1", "Fe", "A1", "Fe", None),
        ("H2 O", "D", "A1", "H", None),
    ],
)
def test_elements(written, formula, kind, label, element, note):
    text = STRUCTURE.replace("C1 C ", f"{label} {kind} ").replace(
        "data_t\n", f"data_t\n_chemical_formula_sum '{formula}'\n"
    )
    found = written(text)
    assert found.elements[0] == element
    told = [entry for entry in found.notes if f"{label} as" in entry]
    assert not told if note is None else note in told[0]


def test_blocks_count_when_an_atom_has_coordinates(inputs):
    assert read_crystal(inputs / "block_of_unknowns.cif").elements == ("O", "As")


def test_a_block_is_chosen_on_the_command_line(inputs, tmp_path):
    one = (inputs / "structure_si.cif").read_text()
    path = tmp_path / "two.cif"
    path.write_text(one + one.replace("data_si", "data_two").replace("Si1 Si", "Ge1 Ge"))
    refusal(lambda: read_crystal(path), "2 structures", "--block")
    command = ["check", str(path), str(inputs / "data_plain.cif_pets"), "--tilts", "5"]
    assert CliRunner().invoke(app, command).exit_code == 2
    assert CliRunner().invoke(app, [*command, "--block", "two"]).exit_code == 0
    for name in ("two", "data_two", "2"):
        assert read_problem(path, [inputs / "data_plain.cif_pets"], Settings(block=name)).crystal.elements == ("Ge",)
    for name in ("invert", "simulate", "refine", "check"):
        assert "--block" in CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "200"}).stdout


def test_what_is_not_used_is_forgiven(inputs):
    assert noted(
        read_crystal(inputs / "duplicate_irrelevant_item.cif").notes, "more than once", "_chemical_formula_sum"
    )
    assert noted(read_crystal(inputs / "empty_symbol.cif").notes, "without a value", "_symmetry_Int_Tables_number")


def test_what_is_used_must_not_contradict_itself(written):
    again = STRUCTURE.replace("_cell_length_b", "_cell_length_a 7.2\n_cell_length_b")
    refusal(lambda: written(again), "_cell_length_a stands 2 times", "7.1, 7.2")
    same = STRUCTURE.replace("_cell_length_b", "_cell_length_a 7.1\n_cell_length_a ?\n_cell_length_b")
    assert written(same).cell[0] == 7.1
    empty_first = STRUCTURE.replace("_cell_length_a", "_cell_length_a ''\n_cell_length_a")
    assert written(empty_first).cell[0] == 7.1


@pytest.mark.parametrize("value", ["0.0", "0", "0.000(1)", "."])
def test_zero_displacement_is_a_start_value(inputs, written, value):
    assert len(read_crystal(inputs / "u_zero.cif").labels) == 2
    found = written(STRUCTURE.replace("0.02", value))
    assert np.allclose(u_equivalent(found.u_aniso, found.cell), 0.01)
    assert noted(found.notes, "U_iso 0.01 Å² assumed: C1, O1")


def test_a_zero_tensor_is_a_start_value(inputs, written):
    text = (
        (inputs / "aniso_label_typo.cif").read_text().replace("O1a 0.02 0.03 0.04 0.001 0.002 0.003", "O1A 0 0 0 0 0 0")
    )
    assert written(text).isotropic == (False, True)


def test_copies_under_symmetry_are_left_out(inputs, written):
    found = read_crystal(inputs / "symmetry_copies_listed.cif")
    assert (found.labels, len(found.atom_site)) == (("Si1", "O1"), 9)
    assert noted(found.notes, "Si1A (Si1 at ")
    twice = STRUCTURE + "C2 C 0.11 0.22 0.33 0.02 1\nC3 C -0.11 -1.22 1.67 0.02 1\nN1 N -0.11 -0.22 -0.33 0.02 1\n"
    refusal(lambda: written(twice), "C1 and N1")
    found = written(twice.rpartition("N1")[0])
    assert found.labels == ("C1", "O1")
    assert noted(found.notes, "C2 (C1 at x,y,z)", "C3 (C1 at -x,-y,-z)")


def test_alternatives_are_no_copies(written):
    text = STRUCTURE.replace("0.33 0.02 1", "0.33 0.02 0.5") + "C2 C 0.11 0.22 0.33 0.02 0.5\n"
    assert written(text).labels == ("C1", "O1", "C2")


def test_disorder_is_kept_and_makes_no_bonds(inputs, tmp_path):
    found = read_crystal(inputs / "disorder_parts.cif")
    assert found.disorder == (("", ""), ("A", "1"), ("A", "2"), ("A", "1"), ("A", "2"), ("B", "-1"))
    pairs = {frozenset(found.labels[atom.site] for atom in bond.atoms) for bond in find_bonds(found)}
    assert {frozenset({"C2A", "O3A"}), frozenset({"C2B", "O3B"})} <= pairs
    assert not {frozenset({"C2A", "O3B"}), frozenset({"C2B", "O3A"}), frozenset({"O3A", "O3B"})} & pairs
    path = tmp_path / "out.cif"
    write_structure_cif(path, found)
    assert read_crystal(path).disorder == found.disorder


def test_charges(inputs):
    assert noted(read_crystal(inputs / "ions.cif").notes, "Li1+, Nb5+, O2-", "neutral")


def test_a_stated_site_symmetry_is_obeyed(inputs, written):
    found = read_crystal(inputs / "near_mirror_order_2.cif")
    assert (found.fract[0, 1], len(found.atom_site)) == (0, 4)
    assert noted(found.notes, "C1 moved by 0.029 Å", "order 2")
    text = (inputs / "near_mirror_order_2.cif").read_text()
    by_multiplicity = text.replace("site_symmetry_order", "site_symmetry_multiplicity").replace(" 1 2\n", " 1 4\n")
    assert written(by_multiplicity).fract[0, 1] == 0
    refusal(lambda: written(text.replace(" 1 2\n", " 1 1\n")), "its own image")


def test_numbers_of_the_cell(inputs, written):
    assert read_crystal(inputs / "quoted_cell.cif").cell[0] == 7.1
    refusal(lambda: read_crystal(inputs / "decimal_comma.cif"), "_cell_length_a '7,10'", "point before the decimals")


def test_rows_of_tensors(inputs, written):
    typo = read_crystal(inputs / "aniso_label_typo.cif")
    assert noted(typo.notes, "U_ij of O1a are taken as those of O1A")
    text = (inputs / "aniso_label_typo.cif").read_text().replace("O1a 0.02", "O7 0.02")
    assert noted(written(text).notes, "belong to no site", "O7")
    flagged = read_crystal(inputs / "aniso_rows_flagged_uiso.cif")
    assert noted(flagged.notes, "flagged isotropic but with U_ij", "C1, O1")
    assert flagged.isotropic == (False, False)


def test_an_end_of_file_mark_and_cartesian_coordinates(inputs):
    assert len(read_crystal(inputs / "ctrl_z.cif").labels) == 2
    refusal(lambda: read_crystal(inputs / "cartesian_only.cif"), "only Cartesian coordinates are there")


STRUCTURE = """data_t
_cell_length_a 7.1
_cell_length_b 8.2
_cell_length_c 9.3
_cell_angle_alpha 90
_cell_angle_beta 101.5
_cell_angle_gamma 90
_symmetry_space_group_name_H-M 'P -1'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_U_iso_or_equiv
_atom_site_occupancy
C1 C 0.11 0.22 0.33 0.02 1
O1 O 0.31 0.12 0.43 0.02 1
"""


@pytest.mark.parametrize("axis", ["1e20", "99999999999999999999", "20000", "0"])
def test_an_axis_that_is_none(written, axis):
    refusal(lambda: written(STRUCTURE.replace("8.2", axis)), "Impossible cell", "0.5 to 10000")


def test_infinite_numbers_in_a_shelx_file(inputs, tmp_path):
    path = tmp_path / "spoilt.res"
    path.write_text((inputs / "shelx.res").read_text().replace("LATT ", "LATT 1e400 ", 1))
    refusal(lambda: read_crystal(path), "spoilt.res cannot be read")
