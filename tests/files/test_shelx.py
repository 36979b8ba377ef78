"""SHELX files of many kinds: the structure that gemmi reads from the CIF beside it, or a message with the card."""

import gemmi
import numpy as np
import pytest

from pendel.base import InputError
from pendel.crystal.cell import u_cartesian, u_equivalent
from pendel.crystal.residuals import residuals
from pendel.files.cif import read_crystal
from pendel.files.structure_cif import write_structure_cif

CELL = "10.0 11.0 12.0 90 97 90"
HEAD = f"TITL made for a test = not continued\nCELL 0.0251 {CELL}\nZERR 4 0.001 0.001 0.001 0 0.01 0\n"
P21C = "LATT 1\nSYMM -X, 0.5+Y, 0.5-Z\n"
P1 = "LATT -1\n"
SFAC = "SFAC C H N O\nUNIT 4 4 4 4\n"
FVAR = "FVAR 0.5 0.7 0.04\n"
END = "HKLF 4\nREM  after the data\nEND\nQ1 1 0.5 0.5 0.5 11.0 0.05 1.2\n"
SITE = "C1 C 0.1 0.2 0.3 0.03 1 .\n"  # of the CIF: label, element, x y z, U, occupancy, part

# name: (symmetry of the SHELX file, its atoms, Hall symbol of the CIF, its sites, words that the notes have)
CASES = {
    "isotropic": (P21C, "C1 1 0.1 0.2 0.3 11.0 0.03\n", "-P 2ybc", SITE, ""),
    "P 1": (P1, "C1 1 0.1 0.2 0.3 11.0 0.03\n", "P 1", SITE, ""),
    "P -1": ("LATT 1\n", "C1 1 0.1 0.2 0.3 11.0 0.03\n", "-P 1", SITE, ""),
    "centred": ("LATT 7\nSYMM -X, Y, -Z\n", "C1 1 0.1 0.2 0.3 11.0 0.03\n", "-C 2y", SITE, ""),
    "centred, no inversion": ("LATT -2\nSYMM -X,Y,-Z\n", "C1 1 0.1 0.2 0.3 11.0 0.03\n", "I 2y", SITE, ""),
    "spaces in SYMM": ("LATT -1\nSYMM  - X , 1/2 + Y , - Z\n", "C1 1 0.1 0.2 0.3 11.0 0.03\n", "P 2yb", SITE, ""),
    "continuation lines": (
        P21C,
        "C1 1 0.1 0.2 0.3 11.0 0.03 0.04 =\n   0.05 0.001 =\n   0.002 0.003\n",
        "-P 2ybc",
        "C1 C 0.1 0.2 0.3 ani 1 .\n",
        "",
    ),
    "comments": (P21C, "REM C9 1 0 0 0\n C8 is ignored\nC1 1 0.1 0.2 0.3 11.0 0.03 ! a = b\n", "-P 2ybc", SITE, ""),
    "fixed coordinates": (
        P21C,
        "C1 1 10.1 0.2 -9.7 11.0 10.03\n",
        "-P 2ybc",
        "C1 C 0.1 0.2 0.3 0.03 1 .\n",
        "",
    ),
    "special position": ("LATT 1\n", "O1 4 10.5 10.5 10.0 10.5 0.04\n", "-P 1", "O1 O 0.5 0.5 0 0.04 1 .\n", ""),
    "free variable of an occupancy": (
        P21C,
        "C1 1 0.1 0.2 0.3 21.0 0.03\nC2 1 0.4 0.2 0.3 -21.0 0.03\n",
        "-P 2ybc",
        "C1 C 0.1 0.2 0.3 0.03 0.7 .\nC2 C 0.4 0.2 0.3 0.03 0.3 .\n",
        "",
    ),
    "free variable of U": (P21C, "C1 1 0.1 0.2 0.3 11.0 31.0\n", "-P 2ybc", "C1 C 0.1 0.2 0.3 0.04 1 .\n", ""),
    "PART": (
        P21C,
        "PART 1 21.0\nC1 1 0.1 0.2 0.3 11.0 0.03\nPART 2 -21.0\nC2 1 0.12 0.21 0.3 11.0 0.03\nPART 0\n",
        "-P 2ybc",
        "C1 C 0.1 0.2 0.3 0.03 0.7 1\nC2 C 0.12 0.21 0.3 0.03 0.3 2\n",
        "",
    ),
    "negative PART": (
        "LATT 1\n",
        "PART -1\nC1 1 0.03 0.02 0.01 10.5 0.03\nPART 0\n",
        "-P 1",
        "C1 C 0.03 0.02 0.01 0.03 0.5 -1\n",
        "",
    ),
    "AFIX 43": (
        P21C,
        "C1 1 0.1 0.2 0.3 11.0 0.03\nAFIX 43\nH1 2 0.15 0.25 0.3 11.0 -1.2\nAFIX 0\n",
        "-P 2ybc",
        SITE + "H1 H 0.15 0.25 0.3 0.036 1 .\n",
        "",
    ),
    "AFIX 33 and 137": (
        P21C,
        "C1 1 0.1 0.2 0.3 11.0 0.03\nAFIX 137\nH1A 2 0.15 0.25 0.3 11.0 -1.5\nH1B 2 0.05 0.25 0.3 11.0 -1.5\nAFIX 0\n"
        "C2 1 0.5 0.2 0.3 11.0 0.02\nAFIX 33\nH2A 2 0.55 0.25 0.3 11.0 -1.5\nAFIX 0\n",
        "-P 2ybc",
        SITE
        + "H1A H 0.15 0.25 0.3 0.045 1 .\nH1B H 0.05 0.25 0.3 0.045 1 .\nC2 C 0.5 0.2 0.3 0.02 1 .\n"
        + "H2A H 0.55 0.25 0.3 0.03 1 .\n",
        "",
    ),
    "AFIX 147": (
        P21C,
        "O1 4 0.1 0.2 0.3 11.0 0.03\nAFIX 147\nH1 2 0.15 0.25 0.3 11.0 -1.5\nAFIX 0\nC2 1 0.5 0.2 0.3 11.0 0.02\n",
        "-P 2ybc",
        "O1 O 0.1 0.2 0.3 0.03 1 .\nH1 H 0.15 0.25 0.3 0.045 1 .\nC2 C 0.5 0.2 0.3 0.02 1 .\n",
        "",
    ),
    "riding on an anisotropic atom": (
        P21C,
        "C1 1 0.1 0.2 0.3 11.0 0.03 0.04 0.05 0.001 0.002 0.003\nH1 2 0.15 0.25 0.3 11.0 -1.2\n",
        "-P 2ybc",
        "C1 C 0.1 0.2 0.3 ani 1 .\nH1 H 0.15 0.25 0.3 1.2eq 1 .\n",
        "",
    ),
    "rigid group": (
        P21C,
        "AFIX 66\nC1 1 0.1 0.2 0.3 11.0 0.03\nAFIX 0\n",
        "-P 2ybc",
        SITE,
        "the rigid groups of AFIX 66 are free",
    ),
    "residues": (
        P21C,
        "RESI 1 TOL\nC1 1 0.1 0.2 0.3 11.0 0.03\nRESI 2 TOL\nC1 1 0.5 0.2 0.3 11.0 0.03\nRESI 0\n",
        "-P 2ybc",
        "C1_1 C 0.1 0.2 0.3 0.03 1 .\nC1_2 C 0.5 0.2 0.3 0.03 1 .\n",
        "",
    ),
    "deuterium": (P21C, "D1 2 0.1 0.2 0.3 11.0 0.03\n", "-P 2ybc", "D1 H 0.1 0.2 0.3 0.03 1 .\n", ""),
    "twins": (P21C, "TWIN -1 0 0 0 -1 0 0 0 -1 2\nBASF 0.3\nC1 1 0.1 0.2 0.3 11.0 0.03\n", "-P 2ybc", SITE, "TWIN"),
    "fragments": (
        P21C,
        "FRAG 17 1 1 1 90 90 90\nC9 1 0.5 0.5 0.5\nFEND\nC1 1 0.1 0.2 0.3 11.0 0.03\n",
        "-P 2ybc",
        SITE,
        "FRAG",
    ),
    "HFIX": (P21C, "HFIX 43 C1\nC1 1 0.1 0.2 0.3 11.0 0.03\n", "-P 2ybc", SITE, "HFIX"),
}
ANISOTROPIC = "0.03 0.04 0.05 0.001 0.002 0.003"


def shelx(tmp_path, body, symmetry=P21C, sfac=SFAC, fvar=FVAR, name="test.res"):
    path = tmp_path / name
    path.write_text(HEAD + symmetry + sfac + fvar + body + END)
    return path


def cif(tmp_path, hall, sites):
    """The CIF of the same structure, read by gemmi alone."""
    a, b, c, alpha, beta, gamma = CELL.split()
    lines = [f"data_x\n_cell_length_a {a}\n_cell_length_b {b}\n_cell_length_c {c}"]
    lines += [f"_cell_angle_alpha {alpha}\n_cell_angle_beta {beta}\n_cell_angle_gamma {gamma}"]
    lines += [f"_space_group_name_Hall '{hall}'\nloop_"]
    keys = "label type_symbol fract_x fract_y fract_z U_iso_or_equiv occupancy disorder_group".split()  # noqa: SIM905
    lines += [f"_atom_site_{key}" for key in keys]
    lines += [sites.replace(" ani ", " ? ").replace(" 1.2eq ", " ? ")]
    if " ani " in sites:
        lines += ["loop_\n_atom_site_aniso_label"]
        lines += [f"_atom_site_aniso_U_{key}" for key in ("11", "22", "33", "23", "13", "12")]
        lines += [f"C1 {ANISOTROPIC}"]
    path = tmp_path / "test.cif"
    path.write_text("\n".join(lines) + "\n")
    return gemmi.read_small_structure(str(path))


@pytest.mark.parametrize("case", CASES)
def test_the_structure_is_that_of_the_cif(tmp_path, case):
    symmetry, atoms, hall, sites, words = CASES[case]
    found = read_crystal(shelx(tmp_path, atoms, symmetry))
    expected = cif(tmp_path, hall, sites)
    assert np.allclose(found.cell, expected.cell.parameters)
    operations = {gemmi.Op(op.triplet()).wrap().triplet() for op in gemmi.symops_from_hall(hall)}
    assert {triplet(found, row) for row in range(len(found.rotations))} == operations
    assert found.labels == tuple(site.label for site in expected.sites)
    for row, site in enumerate(expected.sites):
        assert found.elements[row] == site.element.name
        assert np.allclose((found.fract[row] - site.fract.tolist() + 0.5) % 1, 0.5, atol=1e-7)
        assert found.occupancy[row] == pytest.approx(site.occ)
        group = sites.splitlines()[row].split()[-1].replace(".", "")
        assert (found.disorder or (("", ""),) * 9)[row] == ("", group)
        text = sites.splitlines()[row].split()[5]
        if text == "ani":
            assert np.allclose(found.u_aniso[row][np.triu_indices(3)], [0.03, 0.003, 0.002, 0.04, 0.001, 0.05])
        equivalent = float(u_equivalent(found.u_aniso[row], found.cell))
        if text == "1.2eq":
            assert equivalent == pytest.approx(1.2 * float(u_equivalent(found.u_aniso[0], found.cell)))
        elif text != "ani":
            assert equivalent == pytest.approx(site.u_iso)
            assert np.allclose(u_cartesian(found.u_aniso[row], found.cell), site.u_iso * np.eye(3))
    assert words in " ".join(found.notes)


def triplet(crystal, row):
    rotation = (np.asarray(crystal.rotations[row]) * gemmi.Op.DEN).tolist()
    shift = np.round(np.asarray(crystal.translations[row]) * gemmi.Op.DEN).astype(int).tolist()
    operation = gemmi.Op("x,y,z")
    operation.rot, operation.tran = rotation, shift
    return operation.wrap().triplet()


def test_the_structure_is_the_same_after_a_cif(tmp_path):
    """What was read from a SHELX file is written to a CIF with its disorder groups, and read back."""
    found = read_crystal(shelx(tmp_path, CASES["PART"][1]))
    write_structure_cif(tmp_path / "again.cif", found)
    again = read_crystal(tmp_path / "again.cif")
    assert again.disorder == found.disorder == (("", "1"), ("", "2"))
    assert np.allclose(again.fract, found.fract, atol=1e-6)
    assert np.allclose(again.occupancy, found.occupancy)


def test_factors_of_sfac_are_told(tmp_path):
    sfac = "SFAC C 0.1361 0.3731 0.5482 3.2814 1.2266 13.0456 0.5971 41.0202 0 0 0 0 0.76 12.01\nUNIT 4\n"
    found = read_crystal(shelx(tmp_path, "C1 1 0.1 0.2 0.3 11.0 0.03\n", sfac=sfac))
    assert any("SFAC (C)" in note for note in found.notes)


def test_cards_that_are_not_used_are_named(tmp_path):
    found = read_crystal(shelx(tmp_path, "SAME C1\nACTA\nEADP C1 C2\nC1 1 0.1 0.2 0.3 11.0 0.03\n"))
    notes = " ".join(found.notes)
    assert all(card in notes for card in ("SAME", "ACTA", "EADP", "UNIT"))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("C1 1 0.1 0.2 0.3 11.0 0.03\nWHAT 1 2\n", "card WHAT in line 10"),
        ("C1 1 0.1 0.2 0.3 11.0 0.03\nMOVE 1 1 1 -1\n", "card MOVE in line 10"),
        ("+more.ins\nC1 1 0.1 0.2 0.3 11.0 0.03\n", "include file"),
        ("C1 1 0.1 0.2 x 11.0 0.03\n", "C1 1 0.1 0.2 x"),
        ("C1 9 0.1 0.2 0.3 11.0 0.03\n", "unknown element"),
        ("C1 1 0.1 0.2 0.3 91.0 0.03\n", "line 9 "),
        ("C1 1 90.1 0.2 0.3 11.0 0.03\n", "free variable 9"),
        ("DFIX 1.5 C1 C2 C3\nC1 1 0.1 0.2 0.3 11.0 0.03\n", "DFIX 1.5 C1 C2 C3"),
        ("DFIX C1 C2\nC1 1 0.1 0.2 0.3 11.0 0.03\n", "DFIX C1 C2"),
        ("DFIX 1.5 C1 = C2\nC1 1 0.1 0.2 0.3 11.0 0.03\n", "DFIX 1.5 C1 = C2"),
        ("FVAR 0.5 >\nC1 1 0.1 0.2 0.3 11.0 0.03\n", "FVAR 0.5 >"),
        ("C1 1 0.1 nan 0.3 11.0 0.03\n", "C1 1 0.1 nan"),
        ("", "no usable atoms"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(tmp_path, body, words):
    with pytest.raises(InputError, match=r".*") as failure:
        read_crystal(shelx(tmp_path, body))
    assert words.lower() in str(failure.value).lower()


@pytest.mark.parametrize(("card", "words"), [("CELL", "No complete CELL"), ("SYMM -X, what", "SYMM")])
def test_symmetry_and_cell_must_be_there(tmp_path, card, words):
    text = shelx(tmp_path, "C1 1 0.1 0.2 0.3 11.0 0.03\n").read_text()
    text = text.replace(f"CELL 0.0251 {CELL}\n", "") if card == "CELL" else text.replace("SYMM -X, 0.5+Y, 0.5-Z", card)
    (tmp_path / "bad.ins").write_text(text)
    with pytest.raises(InputError, match=words):
        read_crystal(tmp_path / "bad.ins")


def test_odd_texts_are_read(tmp_path):
    """Latin-1, line ends of old programs, a mark at the beginning, UTF-16: all give the same structure."""
    path = shelx(tmp_path, "REM M\u00fcller\nC1 1 0.1 0.2 0.3 11.0 0.03\nC2 1 0.4 0.2 0.3 =\n 11.0 0.03\n")
    text = path.read_text()
    for content in (
        text.encode("latin-1"),
        text.replace("\n", "\r\n").encode("utf-8-sig"),
        text.replace("\n", "\r").encode("utf-16"),
        text.encode() + b"\x1a",
    ):
        path.write_bytes(content)
        assert read_crystal(path).labels == ("C1", "C2")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"data_x\n_cell_length_a 10\n", "is a CIF"),
        (b"\x1f\x8b\x08rest", "compressed"),
        (b"   1   0   0   12.3    0.4\n   2   0   0   12.3    0.4\n", "list of reflections"),
        (b"", "No complete CELL"),
    ],
)
def test_files_of_other_kinds_are_named(tmp_path, content, words):
    path = tmp_path / "other.res"
    path.write_bytes(content)
    with pytest.raises(InputError, match=words):
        read_crystal(path)


def test_a_block_of_a_shelx_file_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"lock x of test\.res"):
        read_crystal(shelx(tmp_path, "C1 1 0.1 0.2 0.3 11.0 0.03\n"), block="x")


def test_a_lattice_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(InputError, match="LATT 9"):
        read_crystal(shelx(tmp_path, "C1 1 0.1 0.2 0.3 11.0 0.03\n", "LATT 9\n"))


def test_symmetry_codes_count_the_list_of_the_file(tmp_path):
    """Operation n of the file, although the crystal begins with the identity and counts whole cells from 0."""
    crystal, _ = found_restraints(tmp_path, "EQIV $1 1-X, Y-1/2, 1/2-Z\nDFIX 3 C1 O1_$1\n")
    write_structure_cif(tmp_path / "again.cif", crystal)
    document = gemmi.cif.read(str(tmp_path / "again.cif"))
    loop = document.sole_block().find_loop("_space_group_symop_operation_xyz").get_loop()
    operations = [loop[row, 1] for row in range(loop.length())]
    (code,) = [text for text in document.sole_block().find_values("_restr_distance_site_symmetry_2") if text != "."]
    operation = gemmi.Op(gemmi.cif.as_string(operations[int(code[0]) - 1]))
    document.sole_block().find_values("_restr_distance_site_symmetry_2")[0] = f"1_{code[2:]}"
    others = [text for text in operations if gemmi.cif.as_string(text) != operation.triplet()]
    for row, text in enumerate([operation.triplet(), *others]):
        loop[row, 1] = gemmi.cif.quote(gemmi.cif.as_string(text))
    document.write_file(str(tmp_path / "turned.cif"))
    turned = read_crystal(tmp_path / "turned.cif")
    off = [float(residuals(found, found.restraints[0])[0][0]) for found in (crystal, turned)]
    assert off[1] == pytest.approx(off[0], abs=1e-4)


CHAIN = """C1 1 0.10 0.20 0.30 11.0 0.03 0.04 0.05 0 0 0
H1 2 0.10 0.29 0.30 11.0 -1.2
C2 1 0.25 0.20 0.30 11.0 0.03 0.04 0.05 0 0 0
C3 1 0.40 0.20 0.30 11.0 0.03 0.04 0.05 0 0 0
O1 4 0.52 0.20 0.30 11.0 0.03 0.04 0.05 0 0 0
"""


def found_restraints(tmp_path, cards, atoms=CHAIN, **options):
    crystal = read_crystal(shelx(tmp_path, cards + atoms), **options)
    return crystal, [(r.card, r) for r in crystal.restraints]


def sites(restraint):
    if hasattr(restraint, "pairs"):
        return [(a.site, b.site) for a, b in restraint.pairs]
    return [atom.site for atom in restraint.atoms]


def test_cards_become_restraints(tmp_path):
    cards = (
        "DFIX 1.52 C1 C2 c2 C3\nDFIX 1.2 0.01 C3 O1\nDFIX -3.0 C1 C3\nDANG 2.5 C1 C3\nSADI 0.01 C1 C2 C2 C3\n"
        "FLAT C1 > O1\nSIMU 0.02 0.03 1.7\nRIGU\nISOR 0.05 C1 C2\n"
    )
    crystal, found = found_restraints(tmp_path, cards)
    made = {index: restraint for index, (_, restraint) in enumerate(found)}
    assert [card for card, _ in found] == "DFIX DFIX DFIX DANG SADI FLAT SIMU RIGU ISOR".split()  # noqa: SIM905
    assert (made[0].distance, made[0].sd, sites(made[0])) == (1.52, 0.02, [(0, 2), (2, 3)])
    assert (made[1].sd, made[2].at_least, made[2].distance, made[3].sd) == (0.01, True, 3.0, 0.04)
    assert sites(made[5]) == [0, 2, 3, 4]  # without hydrogen
    assert sites(made[6]) == [(0, 2), (2, 3), (3, 4)]
    assert made[6].sds == (0.03, 0.02, 0.03)  # C1 and O1 are terminal
    assert sites(made[7]) == [(0, 2), (2, 3), (3, 4), (0, 3), (2, 4)]
    assert (sites(made[8]), made[8].sds) == ([0, 2], (0.2, 0.05))
    assert float(residuals(crystal, made[0])[0][0]) == pytest.approx(1.5 - 1.52)


def test_ranges_elements_residues_and_images(tmp_path):
    cards = "EQIV $1 1-X, Y-1/2, 1/2-Z\nDFIX 3.0 C1 O1_$1\nISOR $C\nFLAT O1 < C1\nISOR C2 > O1\n"
    crystal, found = found_restraints(tmp_path, cards)
    (first, second) = found[0][1].pairs[0]
    image = crystal.rotations[second.operation] @ crystal.fract[second.site]
    image = image + crystal.translations[second.operation] + second.shift
    assert np.allclose(image, [1 - 0.52, 0.20 - 0.5, 0.5 - 0.30])
    assert first.site == 0
    assert [sites(restraint) for _, restraint in found[1:]] == [[0, 2, 3], [4, 3, 2, 0], [2, 3, 4]]
    atoms = "".join(f"RESI {n} TOL\nC1 1 0.{n} 0.2 0.3 11.0 0.03\nC2 1 0.{n} 0.33 0.3 11.0 0.03\n" for n in (1, 4, 7))
    _, found = found_restraints(
        tmp_path, "SADI_TOL C1 C2\nDFIX_4 1.4 C1 C2\nDFIX 1.5 C1_1 C2_7\nDFIX_* 1.4 C1 C2\n", atoms
    )
    assert [sites(restraint) for _, restraint in found] == [
        *([(0, 1), (2, 3), (4, 5)], [(2, 3)], [(0, 5)]),
        *([(0, 1)], [(2, 3)], [(4, 5)]),
    ]


def test_defaults_by_defs(tmp_path):
    _, found = found_restraints(tmp_path, "DEFS 0.05\nDFIX 1.5 C1 C2\nSADI C1 C2 C2 C3\n")
    assert [restraint.sd for _, restraint in found] == [0.05, 0.05]


@pytest.mark.parametrize(
    ("card", "words"),
    [
        ("DFIX 1.5 C1 C9", "no atom C9"),
        ("DFIX 21.5 C1 C2", "free variable"),
        ("DFIX 1.5 C1 C2_$3", "EQIV $3"),
        ("SADI C1 C2", "1 pairs of atoms where 2"),
        ("FLAT C1 C2 C3", "3 atoms where 4"),
        ("FLAT O1 > C1", "against the order"),
        ("SADI_TOL C1 C2", "no residue TOL"),
        ("ISOR $N", "no atoms of element N"),
        ("DFIX 1.5 C1_+ C2", "no single residue"),
        ("SADI", "no atoms"),
        ("DFIX 1.5 0.0 C1 C2", "standard deviation"),
    ],
)
def test_a_restraint_that_cannot_be_used_is_named(tmp_path, card, words):
    crystal, found = found_restraints(tmp_path, card + "\n")
    assert not found
    notes = [note for note in crystal.notes if card in note]
    assert len(notes) == 1
    assert words in notes[0]


def test_restraints_on_hydrogen_go_with_it(tmp_path):
    crystal, found = found_restraints(tmp_path, "DFIX 0.98 C1 H1\nRIGU\n", hydrogen=False)
    assert [card for card, _ in found] == ["RIGU"]
    assert "H1" not in crystal.labels
    assert any("DFIX 0.98 C1 H1" in note for note in crystal.notes)


def test_restraints_go_through_a_cif(tmp_path):
    cards = "EQIV $1 1-X, Y-1/2, 1/2-Z\nDFIX 1.52 C1 C2 C2 C3\nDFIX 3 C1 O1_$1\nSADI C1 C2 C2 C3\nSIMU\nRIGU\nISOR\n"
    crystal, found = found_restraints(tmp_path, cards)
    write_structure_cif(tmp_path / "again.cif", crystal)
    again = read_crystal(tmp_path / "again.cif")
    assert {restraint.card for restraint in again.restraints} == {card for card, _ in found}

    def squares(structure):
        values = [residuals(structure, restraint) for restraint in structure.restraints]
        return sum(float(np.sum((np.asarray(x) / s) ** 2)) for x, s in values)

    assert squares(again) == pytest.approx(squares(crystal), rel=1e-3)


def test_loops_that_are_not_read_are_named(tmp_path):
    path = tmp_path / "angles.cif"
    write_structure_cif(path, read_crystal(shelx(tmp_path, CHAIN)))
    loop = "loop_\n_restr_angle_atom_site_label_1\n_restr_angle_target\nC1 109\n"
    more = "loop_\n_restr_distance_atom_site_label_1\n_restr_distance_atom_site_label_2\n"
    more += "_restr_distance_target\n_restr_distance_target_weight_param\nC1 C9 1.5 0.02\nC1 C2 1.5 0.02\n"
    path.write_text(path.read_text() + loop + more)
    found = read_crystal(path)
    assert len(found.restraints) == 1
    assert any("_restr_angle" in note for note in found.notes)
    assert any("C1 C9" in note for note in found.notes)
