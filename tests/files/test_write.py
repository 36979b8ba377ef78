"""What is written is read back: data files, refined structures, numbers with their uncertainties, reflections."""

import csv
import dataclasses
import errno
import os
import re

import gemmi
import numpy as np
import pytest

from made_crystals import symmetry_of
from pendel.base import InputError
from pendel.crystal.cell import reciprocal_matrix, u_equivalent
from pendel.crystal.refined import unrefined
from pendel.crystal.sites import Sites
from pendel.crystal.structure import Crystal, make_crystal
from pendel.experiment.frames import Experiment, goniometer_rotations
from pendel.experiment.select import select, take_rows, thin
from pendel.files.cif import read_crystal
from pendel.files.numbers import format_su
from pendel.files.pets import read_pets
from pendel.files.pets_out import write_pets
from pendel.files.refined_cif import block_name, write_refined_cif
from pendel.files.reflections_csv import write_reflections
from pendel.files.whole_file import write_text

TRIGONAL = (4.9226, 4.9226, 5.4003, 90.0, 90.0, 120.0)
RESULTS = {
    "r_obs_pooled": 0.04123,
    "wr2_pooled": 0.0391,
    "n_scored": 1482,
    "n_observed": 653,
    "thickness_mean_angstrom": 853.0,
    "thickness_su_angstrom": 12.0,
    "model": "robust",
    "stage": "map",
    "seed": 1,
}


@pytest.fixture
def crystal() -> Crystal:
    """A trigonal crystal with a special position, an isotropic site and a partly occupied one."""
    u_aniso = np.array(
        [
            [[0.012, 0.006, -0.001], [0.006, 0.012, -0.0005], [-0.001, -0.0005, 0.005]],
            [[0.013, 0.0095, -0.0026], [0.0095, 0.02, 0.004], [-0.0026, 0.004, 0.0162]],
            [[0.02, 0.01, 0], [0.01, 0.02, 0], [0, 0, 0.02]],
        ]
    )
    return make_crystal(
        name="made.cif",
        cell=TRIGONAL,
        **symmetry_of("P 32 2 1"),
        sites=Sites(
            labels=("Si1", "O1", "O2'"),
            elements=("Si", "O", "O"),
            fract=np.array([[0.0, 0.47125671, 5 / 6], [0.85472912, 0.58581934, 0.61868213], [0.2, 0.15, 0.1]]),
            u_aniso=u_aniso,
            occupancy=np.array([1.0, 1.0, 0.25]),
            isotropic=(False, False, True),
        ),
    )


@pytest.fixture
def experiment() -> Experiment:
    rows = np.array([(1, 0, 0, 7), (0, 2, -1, 3), (3, 1, 2, 12), (1, 0, 0, 3)])
    cell = (5.0, 6.0, 7.0, 80.0, 95.0, 110.0)
    turn = goniometer_rotations(np.array([33.0]), np.array([12.0]))[0]
    ids = np.array([7, 3, 12])
    return Experiment(
        name="small.cif_pets",
        geometry="precession",
        cell=cell,
        wavelength=0.0250793,
        dstar_max=1.6,
        selection="all",
        notes=(),
        mosaicity=0.15,
        orientation=turn @ reciprocal_matrix(cell),
        frame_id=ids,
        alpha=np.array([-10.123456, -9.0, -8.0]),
        beta=np.array([0.5, 0.4, -0.2]),
        semi_angle=np.array([1.2, 1.2, 1.2]),
        frame_index=np.array([list(ids).index(frame) for frame in rows[:, 3]]),
        hkl=rows[:, :3],
        intensity=np.array([1234567.891, -4.25, 1e-7, 1234567.891]),
        sigma=np.array([3.0, 2.0, 1e-8, 3.0]),
        weight=np.ones(4, dtype=int),
    )


def write_example(path, crystal, experiment, *, su=0.0003, results=RESULTS):
    fract_su = np.full((3, 3), su)
    fract_su[0, [0, 2]] = 0
    refined = dataclasses.replace(
        unrefined(crystal),
        fract_su=fract_su,
        u_aniso_su=np.full((3, 3, 3), 0.0011),
        u_equivalent_su=np.full(3, 0.0011),
    )
    write_refined_cif(path, refined, experiments=[experiment], summary=results)


def assert_same(first: Experiment, second: Experiment, rtol=1e-8):
    for field in dataclasses.fields(Experiment):
        if field.name in ("name", "notes", "weight", "selection"):
            continue
        a, b = getattr(first, field.name), getattr(second, field.name)
        if field.name == "geometry" or a is None:
            assert a == b
        else:
            np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-12, err_msg=field.name)


@pytest.mark.parametrize(
    ("value", "su", "text"),
    [
        (0.85397, 0.00024, "0.8540(2)"),
        (0.85397, 0.00019, "0.85397(19)"),
        (0.6188, 0.0012, "0.6188(12)"),
        (-0.00123, 0.0195, "-0.00(2)"),
        (0.1, 0.0996, "0.10(10)"),
        (85.3, 1.2, "85.3(12)"),
        (1284.7, 38.0, "1280(40)"),
        (1284.7, 126.0, "1280(130)"),
        (12.6, 3.0, "13(3)"),
        (0.5, 0.0, "0.500000"),
        (0.5, None, "0.500000"),
        (0.5, float("nan"), "0.500000"),
        (5 / 6, 1e-17, "0.833333"),
    ],
)
def test_numbers_with_uncertainties(value, su, text):
    assert format_su(value, su) == text


def test_rounding_changes_value_and_uncertainty_by_at_most_a_quarter_of_it():
    rng = np.random.default_rng(2)
    for value, su in zip(rng.normal(size=300), 10 ** rng.uniform(-6, -0.5, size=300), strict=True):
        text = format_su(value, su)
        written, digits = re.fullmatch(r"(-?[\d.]+)\((\d+)\)", text).groups()
        places = len(written.partition(".")[2])
        assert 2 <= int(digits) <= 19
        assert int(digits) * 10.0**-places == pytest.approx(su, rel=0.26)
        assert abs(float(written) - value) <= 0.26 * su


def test_data_file_round_trip(tmp_path, experiment):
    path = tmp_path / "out.cif_pets"
    write_pets(path, experiment, frame_scale=np.array([0.5, 1.0, 2.0]))
    for cell in ("header", "ub"):
        again = read_pets(path, cell=cell)
        assert_same(experiment, again)
        assert len(again.notes) == 1, again.notes
    assert gemmi.cif.read_file(str(path)).sole_block().find_values("_diffrn_zone_axis_scale")[2] == "2"


@pytest.mark.parametrize("name", ["quartz/quartz.cif_pets", "cspbbr3/CsPbBr_P67-crot-050_dyn.cif_pets"])
def test_published_data_round_trip(tmp_path, shared_data, name):
    original = thin(read_pets(shared_data / name), slice(None, None, 3))
    write_pets(tmp_path / "out.cif_pets", original)
    again = read_pets(tmp_path / "out.cif_pets")
    assert_same(original, again)
    assert len(select(again).hkl) == len(select(original).hkl)


def test_truth_stands_in_the_data_file(tmp_path, experiment, crystal):
    path = tmp_path / "truth.cif_pets"
    tilts = np.array([[0.1, -0.05], [0.02, 0.0], [-0.125, 0.3]])
    write_pets(path, experiment, truth=crystal, misorientation_deg=tilts)
    assert_same(experiment, read_pets(path))
    block = gemmi.cif.read_file(str(path)).sole_block()
    table = block.find("_orientation_", ["alpha_degrees", "beta_degrees", "omega_degrees"])
    written = np.array([[float(value) for value in row] for row in table])
    np.testing.assert_allclose(written, np.column_stack([tilts, np.zeros(3)]))
    assert tuple(map(gemmi.cif.as_string, block.find_values("_atom_site_label"))) == crystal.labels


def test_truth_of_a_simulation_is_read_as_a_structure(tmp_path, shared_data, crystal):
    path = tmp_path / "truth.cif_pets"
    write_pets(path, read_pets(shared_data / "quartz/quartz.cif_pets"), truth=crystal)
    assert_same_crystal(crystal, read_crystal(path), fract=1e-6, u=1e-6)


def assert_same_crystal(first: Crystal, second: Crystal, *, fract: float, u: float):
    assert (first.labels, first.elements, first.isotropic) == (second.labels, second.elements, second.isotropic)
    assert first.spacegroup == second.spacegroup
    np.testing.assert_array_equal(first.rotations, second.rotations)
    np.testing.assert_allclose(first.translations, second.translations, atol=1e-9)
    np.testing.assert_allclose(first.fract, second.fract, atol=fract)
    np.testing.assert_allclose(first.u_aniso, second.u_aniso, atol=u)
    np.testing.assert_allclose(first.occupancy, second.occupancy, atol=1e-4)


def test_refined_structure_round_trip(tmp_path, crystal, experiment):
    path = tmp_path / "refined.cif"
    write_example(path, crystal, experiment)
    again = read_crystal(path)
    assert_same_crystal(crystal, again, fract=0.00006, u=0.00011)
    assert again.cell == pytest.approx(crystal.cell)
    assert not any("moved" in note for note in again.notes)


def test_refined_structure_has_its_own_uncertainties_only(tmp_path, crystal, experiment):
    write_example(tmp_path / "refined.cif", crystal, experiment)
    block = gemmi.cif.read_file(str(tmp_path / "refined.cif")).sole_block()
    columns = {axis: list(block.find_values(f"_atom_site_fract_{axis}")) for axis in "xyz"}
    assert columns["y"][0] == "0.4713(3)"
    assert columns["x"][0] == "0.000000"
    assert columns["z"][0] == "0.833333"
    assert columns["x"][1] == "0.8547(3)"
    assert list(block.find_values("_atom_site_aniso_U_22")) == ["0.0120(11)", "0.0200(11)"]
    assert list(block.find_values("_atom_site_adp_type")) == ["Uani", "Uani", "Uiso"]
    assert list(block.find_values("_atom_site_site_symmetry_multiplicity")) == ["3", "6", "6"]
    sphere = block.find_values("_atom_site_U_iso_or_equiv")
    assert sphere[2] == "0.0200(11)"
    assert gemmi.cif.as_number(sphere[1]) == pytest.approx(float(u_equivalent(crystal.u_aniso, TRIGONAL)[1]), abs=1e-4)
    write_refined_cif(tmp_path / "plain.cif", unrefined(crystal), experiments=[experiment], summary={})
    text = (tmp_path / "plain.cif").read_text()
    assert not re.search(r"\d\(\d+\)", text)
    assert "sample_thickness" not in text


def test_facts_of_the_refinement(tmp_path, crystal, experiment):
    path = tmp_path / "refined.cif"
    write_example(path, crystal, experiment)
    block = gemmi.cif.read_file(str(path)).sole_block()
    expected = {
        "_diffrn_radiation_probe": "electron",
        "_diffrn_radiation_wavelength": "0.0250793",
        "_diffrn_measurement.rotation_mode": "stepwise",
        "_diffrn_measurement.method_precession": "yes",
        "_diffrn.precession_semi_angle": "1.2",
        "_refine.diffraction_theory": "dynamical",
        "_refine_ls.sample_thickness": "85.3(12)",  # nanometres
        "_refine_ls_R_factor_gt": "0.0412",
        "_refine_ls_number_reflns": "1482",
        "_space_group_name_H-M_alt": "P 32 2 1",
    }
    assert {tag: gemmi.cif.as_string(block.find_value(tag)) for tag in expected} == expected
    assert "robust" in block.find_value("_refine.diffraction_theory_details")
    rotation = dataclasses.replace(experiment, geometry="rotation", wavelength=0.0197)
    write_refined_cif(path, unrefined(crystal), experiments=[experiment, rotation], summary=RESULTS)
    mixed = gemmi.cif.read_file(str(path)).sole_block()
    assert list(mixed.find_values("_diffrn_radiation_wavelength")) == ["0.0197", "0.0250793"]
    assert mixed.find_value("_diffrn_measurement.rotation_mode") is None
    assert "over each frame" in mixed.find_value("_refine.diffraction_theory_details")
    curves = dataclasses.replace(rotation, curve_range=(0.004, 0.0105))
    write_refined_cif(path, unrefined(crystal), experiments=[curves], summary=RESULTS)
    whole = gemmi.cif.read_file(str(path)).sole_block()
    assert "beyond the ends of frames" in whole.find_value("_refine.diffraction_theory_details")


def test_the_range_of_integration_is_written_and_read(tmp_path, experiment):
    """Also where no row is repeated and another mosaicity is stated."""
    path = tmp_path / "small.cif_pets"
    whole = dataclasses.replace(experiment, geometry="rotation", curve_range=(0.004, 0.0105))
    write_pets(path, whole)
    assert read_pets(path).curve_range == whole.curve_range
    repeats = take_rows(whole, np.repeat([0], 12))
    repeats = dataclasses.replace(
        repeats,
        frame_index=np.arange(12),
        frame_id=np.arange(12),
        **{name: np.resize(getattr(whole, name), 12) for name in ("alpha", "beta", "semi_angle")},
    )
    for expected in (None, whole.curve_range):
        write_pets(path, dataclasses.replace(repeats, curve_range=expected))
        assert read_pets(path).curve_range == expected


@pytest.mark.parametrize(
    ("name", "expected"), [("a/b c.cif", "a_b_c"), ("quartz.cif_pets", "quartz"), ("Å.cif", "crystal")]
)
def test_block_names_are_plain(name, expected):
    assert block_name(name) == expected


def test_files_are_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "summary.json"
    write_text(path, "first")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    expected = r"summary.json cannot be written .No space left.*Expected .*To fix: choose another place or make room"
    with pytest.raises(InputError, match=expected):
        write_text(path, "second")
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_places_that_cannot_be_written(tmp_path, crystal, experiment):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "missing" / "x.cif", tmp_path / "file" / "x.cif"):
        with pytest.raises(InputError, match="cannot be written"):
            write_example(place, crystal, experiment)
        with pytest.raises(InputError, match="cannot be written"):
            write_pets(place, experiment)


def test_table_of_reflections(tmp_path, experiment):
    path = tmp_path / "reflections.csv"
    mean, sd, scatter = np.array([1e6, 0.5, 2e-7, 1.2e6]), np.full(4, 0.1), np.array([1e5, 2.0, 1e-8, 3e4])
    used = np.array([True, True, False, True])
    write_reflections(path, [experiment] * 2, mean=[mean] * 2, sd=[sd] * 2, scatter=[scatter] * 2, used=[used] * 2)
    with path.open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 8
    assert rows[1] == {
        "dataset": "small.cif_pets",
        "frame": "3",
        "h": "0",
        "k": "2",
        "l": "-1",
        "i_obs": "-4.25",
        "sigma": "2",
        "i_calc_mean": "0.5",
        "i_calc_sd": "0.1",
        "z": "-2.375",
        "weight": "1",
        "used": "1",
    }
    assert [row["used"] for row in rows[:4]] == ["1", "1", "0", "1"]
    assert float(rows[0]["z"]) == pytest.approx(2.34567891, rel=1e-6)
