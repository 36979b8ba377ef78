"""Reading `.cif_pets`: small files written here, with every fault that real users meet, and the published files."""

import itertools
import re
import time
from pathlib import Path

import numpy as np
import pytest

from pendel.base import InputError
from pendel.constants import wavelength
from pendel.crystal.cell import reciprocal_matrix
from pendel.experiment.frames import goniometer_rotations
from pendel.files.pets import read_pets
from pendel.files.pets_checks import zone_axis_misfit

REAL = ("quartz/quartz.cif_pets", "cspbbr3/CsPbBr_P67-crot-050_dyn.cif_pets")
CELL = (5.0, 6.0, 7.0, 80.0, 95.0, 110.0)
DETAILS = "data collection geometry: continuous rotation\ndstarmax:  1.400\nrotation axis position:  0.484"
FRAME_COLUMNS = ("id", "u", "v", "w", "precession_angle", "alpha", "beta", "omega", "scale")
FRAMES = {7: (-10.0, 0.5), 3: (-9.0, 0.4), 12: (-8.0, -0.2)}  # id: alpha, beta
ROWS = (
    (1, 0, 0, 120.5, 3.0, 7),
    (1, 0, 0, 120.5, 3.0, 3),
    (0, 2, -1, -4.25, 2.0, 3),
    (3, 1, 2, 50.0, 5.0, 12),
)


def turned(cell=CELL):
    """U B of a cell turned by a proper rotation."""
    x = np.radians(20)
    about_z = np.array([[np.cos(x), -np.sin(x), 0], [np.sin(x), np.cos(x), 0], [0, 0, 1]])
    return about_z @ goniometer_rotations(np.array([33.0]), np.array([12.0]))[0] @ reciprocal_matrix(cell)


def pets_text(*, cell=CELL, ub=None, details=DETAILS, wave="0.02510", semi=1.0, frames=FRAMES, rows=ROWS, block="pets"):
    """A complete file; the zone axes are computed from the angles and UB."""
    ub = turned(cell) if ub is None else ub
    names = ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
    lines = [f"data_{block}", *(f"_cell_{name} {value}" for name, value in zip(names, cell, strict=True))]
    lines += [f"_diffrn_radiation_wavelength {wave}"] if wave else []
    lines += [f"_diffrn_orient_matrix_UB_{i + 1}{j + 1} {ub[i, j]:.8f}" for i in range(3) for j in range(3)]
    lines += ["_diffrn_measurement_details", ";", details, ";", "", "# a comment: D:\\data\\x", "loop_"]
    lines += [f"_diffrn_zone_axis_{name}" for name in FRAME_COLUMNS]
    for frame, (alpha, beta) in frames.items():
        axis = (goniometer_rotations(np.array([alpha]), np.array([beta]))[0] @ ub).T[:, 2]
        u, v, w = axis / np.abs(axis).max()
        lines.append(f"  {frame} {u:.6f} {v:.6f} {w:.6f}  {semi}  {alpha}  {beta} 0.1 1.0")
    lines += ["", "loop_", *(f"_refln_{name}" for name in ("index_h", "index_k", "index_l", "intensity_meas"))]
    lines += ["_refln_intensity_sigma", "_refln_zone_axis_id", *("  ".join(map(str, row)) for row in rows)]
    return "\n".join(lines) + "\n"


@pytest.fixture
def write(tmp_path):
    """Writes a text and returns its path."""

    def write_file(text: str) -> Path:
        path = tmp_path / "data.cif_pets"
        path.write_text(text)
        return path

    return write_file


def refused(path, *parts: str, **options):
    """The message of the InputError that reading raises: one line with all its sections and the given parts."""
    with pytest.raises(InputError) as caught:
        read_pets(path, **options)
    message = str(caught.value)
    assert re.fullmatch(r".+\. Expected .+\. To fix: .+[^.]\.", message)
    for part in parts:
        assert part in message
    return message


def noted(experiment, *parts: str) -> bool:
    return any(all(part in note for part in parts) for note in experiment.notes)


def test_every_field_of_a_small_file(write):
    experiment = read_pets(write(pets_text()))
    np.testing.assert_array_equal(experiment.frame_id, [7, 3, 12])
    np.testing.assert_array_equal(experiment.frame_index, [0, 1, 1, 2])
    np.testing.assert_allclose(experiment.alpha, [-10, -9, -8])
    np.testing.assert_allclose(experiment.beta, [0.5, 0.4, -0.2])
    np.testing.assert_allclose(experiment.semi_angle, 1.0)
    np.testing.assert_array_equal(experiment.hkl, [row[:3] for row in ROWS])
    np.testing.assert_allclose(experiment.intensity, [row[3] for row in ROWS])
    np.testing.assert_allclose(experiment.sigma, [row[4] for row in ROWS])
    np.testing.assert_array_equal(experiment.weight, 1)
    np.testing.assert_allclose(experiment.orientation, turned(), atol=1e-7)
    assert experiment.cell == CELL
    assert (experiment.wavelength, experiment.dstar_max) == (0.0251, 1.4)
    assert (experiment.geometry, experiment.selection) == ("rotation", "all")
    assert len(experiment.notes) == 1
    assert noted(experiment, "199.7 kV", "nominal 200 kV")


def test_newer_spellings_other_loops_and_any_block_name(write):
    text = pets_text(block="I").replace("rotation axis position", "tilt axis position")
    text = text.replace("_diffrn_measurement_details", "_diffrn_reflns_reduction_process")
    text = text.replace("_diffrn_zone_axis_", "_diffrn_zone_axis.").replace("_refln_", "_refln.")
    other = "loop_\n_orientation_rotation_index\n_orientation_alpha_degrees\n0 0.00\n1 0.00\n\nloop_\n_refln."
    newer = read_pets(write(text.replace("loop_\n_refln.", other, 1)))
    older = read_pets(write(pets_text()))
    np.testing.assert_allclose(newer.orientation, older.orientation)
    np.testing.assert_array_equal(newer.frame_index, older.frame_index)
    assert newer.geometry == older.geometry


@pytest.mark.parametrize("name", [*REAL, "cspbbr3_synthetic/cspbbr3_paper_data.cif_pets"])
def test_zone_axes_of_published_files_agree_with_angles_and_ub(shared_data, name):
    path = shared_data / name
    uvw = np.array([line.split()[1:4] for line in zone_axis_rows(path)], dtype=float)
    experiment = read_pets(path, cell="ub")
    right = goniometer_rotations(experiment.alpha, experiment.beta) @ experiment.orientation
    assert zone_axis_misfit(right, uvw).max() < 0.011
    assert not noted(experiment, "zone axis")
    about_x = goniometer_rotations(experiment.alpha, 0 * experiment.beta)
    about_y = goniometer_rotations(0 * experiment.alpha, experiment.beta)
    assert zone_axis_misfit(about_y @ about_x @ experiment.orientation, uvw).max() > 0.05


def zone_axis_rows(path: Path) -> list[str]:
    lines = path.read_text().splitlines()
    start = lines.index("_diffrn_zone_axis_scale") + 1
    return list(itertools.takewhile(lambda line: line.strip() not in ("", "loop_"), lines[start:]))


@pytest.mark.parametrize(
    ("name", "frames", "rows"), [(REAL[0], 99, 6666), (REAL[1], 59, 32669)], ids=["quartz", "cspbbr3"]
)
def test_published_files_are_read_whole_and_fast(shared_data, name, frames, rows):
    start = time.perf_counter()
    experiment = read_pets(shared_data / name)
    assert time.perf_counter() - start < 2.0
    assert (len(experiment.frame_id), len(experiment.hkl)) == (frames, rows)
    assert (experiment.intensity < 0).any()
    assert not noted(experiment, "merged frames")


def test_quartz_is_oriented_by_the_rotation_nearest_to_its_matrix(shared_data):
    path = shared_data / REAL[0]
    experiment = read_pets(path)
    assert noted(experiment, "1.18%", "nearest rotation")
    metric = experiment.orientation.T @ experiment.orientation
    reciprocal = reciprocal_matrix(experiment.cell)
    np.testing.assert_allclose(metric, reciprocal.T @ reciprocal, atol=1e-15)
    assert np.linalg.det(experiment.orientation) > 0
    as_it_stands = read_pets(path, cell="ub")
    np.testing.assert_array_equal(as_it_stands.orientation[0], [-0.07048, -0.02116, 0.17811])
    slightly_larger = (4.97, 4.97, 5.46, 90.0, 90.0, 120.0)
    of_structure = read_pets(path, cell="structure", structure_cell=slightly_larger)
    assert of_structure.cell == slightly_larger
    assert np.linalg.det(of_structure.orientation) < np.linalg.det(experiment.orientation)


def test_structure_cell_is_compared_with_the_header(write):
    path = write(pets_text())
    close = (CELL[0] * 1.002, *CELL[1:])
    assert not noted(read_pets(path, structure_cell=close), "differ")
    two_percent = (CELL[0] * 1.02, *CELL[1:])
    experiment = read_pets(path, structure_cell=two_percent)
    assert noted(experiment, "differ by 2.")
    assert experiment.cell == CELL
    refused(path, "structure cell", "same crystal", structure_cell=(5.5, *CELL[1:]))
    refused(path, "same crystal", structure_cell=(CELL[1], CELL[0], *CELL[2:]))
    refused(path, "the given structure", "volume", structure_cell=(5.0, 6.0, 7.0, 20.0, 20.0, 110.0))
    refused(path, "structure_cell", cell="structure")


def test_a_file_without_cell_can_take_the_structures(write):
    lines = [line for line in pets_text().splitlines() if not line.startswith("_cell")]
    path = write("\n".join(lines))
    refused(path, "_cell_length_a", "--cell structure")
    assert read_pets(path, cell="structure", structure_cell=CELL).cell == CELL


def test_one_missing_or_impossible_cell_parameter_is_named_with_its_line(write):
    refused(write(pets_text().replace("_cell_angle_gamma 110.0", "_cell_angle_gamma ?")), "_cell_angle_gamma")
    refused(write(pets_text().replace("_cell_length_b 6.0", "_cell_length_b 0.0")), "header cell", "zeros mean unknown")
    refused(write(pets_text().replace("_cell_length_b 6.0", "_cell_length_b six")), "line 3", "six")


def test_matrices_that_do_not_belong_to_the_cell(write):
    ub = turned()
    assert noted(read_pets(write(pets_text(ub=1.02 * ub))), "2.00%")
    refused(write(pets_text(ub=2 * np.pi * ub)), "2 pi", "divide UB by 6.2832")
    refused(write(pets_text(ub=0.0251 * ub)), "divide UB by 0.0251")
    refused(write(pets_text(ub=ub @ np.diag([1, 1, -1]))), "negative determinant", "enantiomer")
    singular = ub.copy()
    singular[:, 2] = singular[:, 0] + singular[:, 1]
    refused(write(pets_text(ub=singular)), "UB matrix is singular")
    refused(write(pets_text(ub=0 * ub + 1e-300).replace("nan", "0")), "UB matrix is singular")
    without = "\n".join(line for line in pets_text().splitlines() if "UB_23" not in line)
    refused(write(without), "_diffrn_orient_matrix_ub_23")


def test_zone_axes_that_contradict_angles(write):
    text = pets_text()
    assert noted(read_pets(write(text.replace("  -9.0  0.4", "  -9.0  0.6"))), "zone axis of frame 3 is 0.198 deg")
    refused(write(text.replace("  -9.0  0.4", "  9.0  0.4")), "frame 3", "alpha, beta and UB")
    rows = [line for line in text.splitlines() if line.startswith("  12 ")]
    zeros = text.replace(" ".join(rows[0].split()[1:4]), "0 0 0")
    assert noted(read_pets(write(zeros)), "not checked")


def test_virtual_frame_steps_reveal_precession(write):
    settings = "\nVirtual frame settings: number of merged frames:  6\n        step between frames:  3"
    assert not noted(read_pets(write(pets_text(details=DETAILS + settings))), "merged")
    wrong = read_pets(write(pets_text(details=DETAILS + settings, semi=0.6)))
    assert noted(wrong, "1 deg", "0.6 deg", "--geometry precession")
    stated = read_pets(write(pets_text(details=DETAILS + settings, semi=0.6)), geometry="precession")
    assert stated.geometry == "precession"
    assert noted(stated, "continuous rotation", "precession is used as given")
    assert not noted(stated, "merged")


def test_geometry_must_be_known(write):
    refused(write(pets_text(details="dstarmax: 1.4")), "not stated", "--geometry")
    refused(write(pets_text(details="data collection geometry: still images")), "still images", "--geometry")
    assert read_pets(write(pets_text(details="dstarmax: 1.4")), geometry="rotation").geometry == "rotation"
    precession = pets_text(details="data collection geometry: precession\ndstarmax: 1.4")
    assert read_pets(write(precession)).geometry == "precession"


def test_zero_means_unknown(write):
    reached = read_pets(write(pets_text(details=DETAILS.replace("1.400", "0.000"))))
    assert noted(reached, "dstarmax is not stated")
    assert reached.dstar_max == pytest.approx(np.linalg.norm(turned() @ [3, 1, 2]))
    refused(write(pets_text(semi="0.0")), "precession_angle 0.0", "half the alpha step is 0.5", "0 means unknown")
    refused(write(pets_text(semi="?")), "precession_angle ?")
    refused(write(pets_text(wave="0.0")), "wavelength 0.0", "--energy-ev")


def test_data_beyond_the_stated_resolution_are_noted(write):
    experiment = read_pets(write(pets_text(details=DETAILS.replace("1.400", "0.300"))))
    assert noted(experiment, "dstarmax 0.300", "reach")
    assert experiment.dstar_max > 0.3


def test_wavelength(write):
    refused(write(pets_text(wave="")), "no wavelength", "--energy-ev")
    refused(write(pets_text(wave="0.71073")), "0.71073", "electron", "line 8")
    twice = "0.02510\n_diffrn_radiation_wavelength 0.025079"
    assert read_pets(write(pets_text(wave=twice))).wavelength == 0.025079
    different = "0.02510\n_diffrn_radiation_wavelength 0.0197"
    refused(write(pets_text(wave=different)), "0.02510 and 0.0197", "--energy-ev")
    at_120 = read_pets(write(pets_text(wave="0.0335(1)")))
    assert at_120.wavelength == 0.0335
    assert noted(at_120, "nominal 120 kV")
    given = read_pets(write(pets_text(wave=different)), energy_ev=300e3)
    assert given.wavelength == wavelength(300e3)
    assert noted(given, "300 kV as given", "0.02510")
    assert read_pets(write(pets_text(wave="")), energy_ev=200e3).wavelength == pytest.approx(0.025079, abs=1e-6)


def test_sigma_zero_takes_the_smallest_positive_one(write):
    rows = [*ROWS, (2, 2, 2, 0.0, 0.0, 12), (2, 2, 3, 0.0, 0.0, 12)]
    experiment = read_pets(write(pets_text(rows=rows)))
    np.testing.assert_array_equal(experiment.sigma[-2:], 2.0)
    assert noted(experiment, "sigma = 0 in 2 rows", "2")


def test_sigma_zero_of_the_synthetic_file(shared_data):
    experiment = read_pets(shared_data / "cspbbr3_synthetic/cspbbr3_paper_data.cif_pets")
    assert noted(experiment, "sigma = 0 in 8 rows")
    assert (experiment.sigma > 0).all()


@pytest.mark.parametrize(
    ("row", "parts"),
    [
        ((2, 2, 2, 10.0, -1.0, 12), ("sigma -1.0", "sigma above 0")),
        ((2, 2, 2, 10.0, "nan", 12), ("sigma nan", "finite sigma")),
        ((2, 2, 2, "nan", 1.0, 12), ("intensity_meas nan", "finite intensity")),
        ((2, 2, 2, "?", 1.0, 12), ("intensity_meas ?", "finite intensity")),
        ((2, 2, 2, 10.0, 1.0, 99), ("zone_axis_id 99", "3 frames")),
        ((2, 2.5, 2, 10.0, 1.0, 12), ("index_k 2.5", "integer")),
        ((0, 0, 0, 10.0, 1.0, 12), ("index_h 0", "not 0 0 0")),
    ],
)
def test_unusable_rows_are_refused_with_their_line(write, row, parts):
    text = pets_text(rows=[*ROWS[:2], row, *ROWS[2:]])
    written = "  ".join(map(str, row))
    line = text.splitlines().index(written) + 1
    refused(write(text), "data.cif_pets", f"line {line}:", *parts)


def test_the_number_of_unusable_rows_is_told(write):
    bad = [(2, 2, 2, 10.0, -1.0, 12)] * 3
    refused(write(pets_text(rows=[*ROWS, *bad])), "3 such rows")
    refused(write(pets_text(rows=[(*row[:4], 0.0, row[5]) for row in ROWS])), "4 such rows", "uncertainties")


def test_a_row_over_several_lines_is_named_by_its_first(write):
    text = pets_text(rows=[*ROWS, (2, 2, 2, "10.0\n", -1.0, 12)])
    line = text.splitlines().index("2  2  2  10.0") + 1
    refused(write(text), f"line {line}:", "-1.0")


def test_frames_must_have_one_row_each(write):
    text = pets_text()
    refused(write(text.replace("\n  12 ", "\n  3 ")), "_diffrn_zone_axis_id 3", "every frame id once")
    refused(write(text.replace("  -9.0  0.4", "  ?  0.4")), "_diffrn_zone_axis_alpha ?")
    refused(write(text.replace("_diffrn_zone_axis_alpha", "_diffrn_zone_axis_phi")), "id, alpha and precession_angle")
    empty = read_pets(write(pets_text(rows=ROWS[:2])))
    assert noted(empty, "1 frames without reflections (12)")
    assert len(empty.frame_id) == 3


def test_files_without_reflections_or_columns(write):
    refused(write(pets_text(rows=[])), "no reflections")
    refused(write("data_x\n_cell_length_a 5\n"), "no reflections", "_dyn.cif_pets")
    refused(write(""), "no reflections")
    text = pets_text()
    refused(write(text.replace("_refln_intensity_sigma", "_refln_other")), "_refln_intensity_sigma")
    refused(write(text.replace("_refln_zone_axis_id", "_refln_other")), "_refln_zone_axis_id")
    refused(write(text.replace("_refln_index_l", "_refln_other")), "_refln_index_h, _k, _l")


def test_satellites_are_refused(write):
    text = pets_text(rows=[(*row[:3], 0, *row[3:]) for row in ROWS[:-1]] + [(3, 1, 2, 1, 50.0, 5.0, 12)])
    refused(write(text.replace("_refln_index_l\n", "_refln_index_l\n_refln_index_m\n")), "_refln_index_m 1")


def test_things_that_are_not_data_files(tmp_path, write):
    refused(tmp_path / "none.cif_pets", "No file", "none.cif_pets")
    refused(tmp_path, "is a folder")
    refused(write("Dear colleague,\nhere are my data\n"), "not a CIF")
    refused(write(pets_text().rstrip().rsplit(maxsplit=1)[0]), "not a CIF", "complete")


def test_several_blocks(write):
    structure = "data_structure\n_cell_length_a 5\nloop_\n_atom_site_label\n_atom_site_fract_x\nSi1 0.5\n"
    path = write(structure + pets_text(block="one"))
    assert len(read_pets(path).hkl) == len(ROWS)
    path = write(pets_text(block="one") + structure + pets_text(block="two", rows=ROWS[:3]))
    refused(path, "one, two", "block=")
    assert len(read_pets(path, block="two").hkl) == 3
    refused(path, "No block three", block="three")
    refused(path, "no reflections", block="structure")


@pytest.mark.parametrize(
    ("details", "item", "expected"),
    [
        ("", "", None),
        ("\nmosaicity:  0.150", "", 0.15),
        ("\nMosaicity : 0", "", 0.0),
        ("", "_diffrn_measurement_mosaicity 0.070", 0.07),
        ("\nmosaicity:  0.150", "_diffrn_measurement_mosaicity ?", 0.15),
        ("\nmosaicity:  40", "", None),  # no single crystal has it
        ("\nmosaicity: unknown", "", None),
    ],
)
def test_the_mosaicity_of_data_reduction_is_read(write, details, item, expected):
    text = pets_text(details=DETAILS + details).replace(
        "_diffrn_measurement_details", f"{item}\n_diffrn_measurement_details"
    )
    assert read_pets(write(text)).mosaicity == expected


def repeated(intensities, details="\nRC width:  0.00100\nmosaicity:  0.150", semi=1.0):
    """Twelve frames that all hold one reflection, with these intensities."""
    frames = {number: (float(number), 0.0) for number in range(1, 13)}
    rows = [(1, 2, 0, value, 2.0, number) for number, value in zip(frames, intensities, strict=True)]
    return pets_text(frames=frames, rows=rows, details=DETAILS + details, semi=semi)


@pytest.mark.parametrize(
    ("details", "expected"),
    [
        ("\nRC width:  0.00100\nmosaicity:  0.150", (0.008, 8 * np.radians(0.15))),
        ("\nRC width:  0.00077\nmosaicity:  0.000", (0.00616, 0.0)),
        ("\nRC width: 0\nmosaicity: 0", (0.012, 8 * np.radians(0.1))),  # unknown
        ("", (0.012, 8 * np.radians(0.1))),
    ],
)
def test_intensities_of_rocking_curves_are_recognised(write, details, expected):
    """The same intensity in every frame cannot be that of each sweep; other ones may be."""
    path = write(repeated([31.5] * 12, details))
    experiment = read_pets(path)
    assert experiment.curve_range == pytest.approx(expected)
    assert "the same intensities stand in neighbouring frames" in experiment.notes[-1]
    assert read_pets(path, integration="sweep").curve_range is None
    assert read_pets(path, geometry="precession").curve_range is None
    weak = write(repeated([5.5] * 12, details))
    assert read_pets(weak).curve_range is None
    different = write(repeated(range(100, 112), details))
    assert read_pets(different).curve_range is None
    forced = read_pets(different, integration="curve")
    assert forced.curve_range == pytest.approx(expected)
    assert "as --integration says" in forced.notes[-1]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("intensity integration: integrate intensity on all frames", (0.012, 8 * np.radians(0.1))),
        ("mosaicity: 0.3\nintensity integration: integrate intensity on all frames", (0.012, 8 * np.radians(0.3))),
        ("integrated over excitation errors below 0.004 + 1.05e-2 |g|", (0.004, 0.0105)),
        ("integrated over the sweep of each frame", None),
        ("integrated over excitation errors below 1e + -- |g|", None),
        ("integrated over excitation errors below -0.004 + 1e9 |g|", None),
    ],
)
def test_the_words_of_a_file_count(write, line, expected):
    """Also where no row is repeated, and against repeats."""
    path = write(repeated([31.5] * 12 if "sweep" in line else range(100, 112), f"\n{line}"))
    found = read_pets(path).curve_range
    assert found is expected if expected is None else found == pytest.approx(expected)


def test_wrong_integrations_are_refused(write):
    path = write(pets_text())
    refused(path, "integration 'whole'", "auto, sweep or curve", integration="whole")
    refused(path, "of precession data", "whole circle", integration="curve", geometry="precession")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("quartz/quartz.cif_pets", (0.008, 0.0070)),
        ("cspbbr3/CsPbBr_P67-crot-050_dyn.cif_pets", (0.0062, 0.0)),
        ("albite/albite.cif_pets", (0.008, 0.0209)),
        ("urea/urea.cif_pets", (0.0392, 0.0098)),
        ("paracetamol/paracetamol.cif_pets", None),
        ("quartz_synthetic/quartz_synthetic_ub.cif_pets", None),
    ],
)
def test_integration_of_the_published_files(shared_data, name, expected):
    found = read_pets(shared_data / name).curve_range
    assert found is expected if expected is None else found == pytest.approx(expected, abs=1e-4)
