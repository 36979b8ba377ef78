"""Data that Jana2020 embeds in a CIF: the same rows as the file they came from; DIALS files with their zeros."""

import re
from pathlib import Path

import gemmi
import numpy as np
import pytest
from typer.testing import CliRunner

from pendel.base import InputError
from pendel.cli.main import app
from pendel.datasets import example
from pendel.experiment.frames import Experiment, frame_rotations
from pendel.files.jana import extract_pets
from pendel.files.pets import read_pets


def nine(value: float) -> str:
    """A number in the nine columns that Jana2020 gives it, the first one for the sign; negative neighbours touch."""
    return f"{value: .6f}"[:9]


def embedded(measured: Experiment, structure: Path, *, method: str = "Continuous Rotation", decimals: int = 2) -> str:
    """A CIF as Jana2020 1.3 writes it, around the measurements and the structure."""
    ub = "\n".join("".join(f"{x:12.6f}" for x in row) for row in np.asarray(measured.orientation))
    axes = (frame_rotations(measured) @ np.asarray(measured.orientation))[:, 2, :]
    axes /= np.abs(axes).max(axis=1, keepdims=True)
    zones, uncertainties = [], []
    for frame, axis in enumerate(axes):
        numbers = (*axis, measured.alpha[frame], measured.beta[frame], measured.semi_angle[frame])
        zones += [f"# Zone {measured.frame_id[frame]} 9.8500", "".join(map(nine, numbers)) + "      T   1"]
        zones += [" 1000.000 2468.723 0.000000 0.000000                        1000", f"{nine(0.0) * 2:60s}00"]
        uncertainties += [f"# Zone {measured.frame_id[frame]}", " 7.816334 15.87376 0.000000 0.000000"]
    rows = [
        f"{h:4d}{k:4d}{index_l:4d}{i:9.{decimals}f}{s:9.{decimals}f}{measured.frame_id[f]:4d}   0   1  0.0000  1001"
        for (h, k, index_l), i, s, f in zip(
            measured.hkl, measured.intensity, measured.sigma, measured.frame_index, strict=True
        )
    ]
    return "\n".join(
        [
            structure.read_text(encoding="utf-8").rstrip(),
            f"_diffrn_measurement_method '{method}'",
            f"_diffrn_reflns_reduction_process\n;\ndstarmax:  {measured.dstar_max:.3f}\n;",
            "_Jana_m42_file\n;\ncommands\ncalcdyn 1 usewks 0\nthreads 42 iedt 1 thickmodel 2",
            f"nzones {len(axes)} intsteps 120\normat\n{ub}\nomega 0 gmax 2.4 sgmax 0.01\nend\n{'*' * 79}",
            "-0.062598                                                   1",
            *zones,
            "----------------------------   s.u. block   -----------------------------------",
            *uncertainties,
            ";\n_Jana_m50_file\n;\nVersion Jana2020\ntitle\n;\n_Jana_m90_file\n;\neformat91 0\ndatblock Block1",
            f"nref {len(rows)} obslim 3 sctom90 0.1\nlambda {measured.wavelength:.6f} lpfactor 3\nend\nData Block1",
            *rows,
            ";\n",
        ]
    )


def same_rows(found: Experiment, expected: Experiment, decimals: int = 2) -> None:
    assert found.geometry == expected.geometry
    assert found.wavelength == pytest.approx(expected.wavelength, abs=1e-6)
    np.testing.assert_array_equal(found.frame_id, expected.frame_id)
    np.testing.assert_array_equal(found.hkl, expected.hkl)
    np.testing.assert_array_equal(found.frame_index, expected.frame_index)
    np.testing.assert_allclose(found.intensity, expected.intensity, atol=0.51 * 10**-decimals)
    np.testing.assert_allclose(found.sigma, expected.sigma, atol=0.51 * 10**-decimals)
    for name in ("alpha", "beta", "semi_angle"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), atol=1e-4)
    np.testing.assert_allclose(found.orientation, expected.orientation, atol=2e-5)


@pytest.fixture
def cif(tmp_path: Path) -> Path:
    path = tmp_path / "published.cif"
    path.write_text(embedded(read_pets(example().data, cell="ub"), example().structure), encoding="utf-8")
    return path


def test_embedded_data_are_the_rows_of_their_file(cif, tmp_path):
    out = tmp_path / "data.cif_pets"
    same_rows(extract_pets(cif, out), read_pets(example().data))
    same_rows(read_pets(out), read_pets(example().data))


def test_urea_gives_the_rows_of_its_cif_pets(shared: Path, tmp_path):
    folder = shared / "data" / "urea"
    if not folder.is_dir():
        pytest.skip("the shared folder has no urea")
    measured = read_pets(folder / "urea.cif_pets", cell="ub")
    path, out = tmp_path / "urea_published.cif", tmp_path / "urea.cif_pets"
    path.write_text(embedded(measured, folder / "urea_jana.cif"), encoding="utf-8")
    found = extract_pets(path, out)
    same_rows(found, read_pets(folder / "urea.cif_pets"))
    assert len(found.hkl) == 8566
    assert len(found.frame_id) == 67


def test_the_command(cif, tmp_path):
    out = tmp_path / "data.cif_pets"
    shown = CliRunner().invoke(app, ["data", "extract", str(cif), str(out)])
    assert shown.exit_code == 0, shown.stderr
    measured = read_pets(example().data)
    assert f"{len(measured.hkl)} rows on {len(measured.frame_id)} frames" in shown.stdout
    assert "note: data.cif_pets: wavelength" in shown.stdout
    again = CliRunner().invoke(app, ["data", "extract", str(cif), str(cif)])
    assert again.exit_code == 2
    assert "is the input" in again.stderr


def test_a_cif_with_embedded_data_says_how_to_get_them(cif):
    with pytest.raises(InputError, match="pendel data extract"):
        read_pets(cif)


def test_numbers_that_touch(cif, tmp_path):
    text = cif.read_text()
    row = re.search(r"^Data Block1\n(.{30})", text, flags=re.MULTILINE)[1]
    touching = f"{'-11':>4}{'-101':>4}{'-112':>4}{'-12345.50':>9}{'123456.50':>9}{row[-4:]}"
    cif.write_text(text.replace(row, touching[: len(row)] + row[len(touching) :], 1))
    found = extract_pets(cif, tmp_path / "data.cif_pets")
    assert tuple(found.hkl[0]) == (-11, -101, -112)
    assert (found.intensity[0], found.sigma[0]) == (-12345.5, 123456.5)


def test_the_geometry_can_be_given(cif, tmp_path):
    text = cif.read_text()
    cif.write_text(text.replace("_diffrn_measurement_method 'Continuous Rotation'\n", ""))
    out = tmp_path / "data.cif_pets"
    with pytest.raises(InputError, match="geometry"):
        extract_pets(cif, out)
    assert not out.exists()
    assert extract_pets(cif, out, geometry="rotation").geometry == "rotation"
    cif.write_text(text.replace("'Continuous Rotation'", "'precession-assisted'"))
    assert extract_pets(cif, out).geometry == "precession"


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ("_Jana_m90_file", "_Jana_m91_file", "embedded data in no blocks"),
        ("nzones 30", "nzones 31", "30 zones and states 31"),
        ("ormat", "ornat", "0 numbers behind `ormat`"),
        ("Data Block1\n", "Data Block1\nData Block2\n", "2 blocks of reflections"),
        ("Data Block1\n", "Data Block1\n  1  x  3   1.0   1.0   1\n", "has the row '1  x  3"),
        ("# Zone 1 9.8500\n", "# Zone 1 9.8500\n 0.5 0.5\n", "2 numbers for zone 1"),
        ("ormat\n ", "ormat\n 9", "."),
    ],
)
def test_data_that_are_not_as_expected(cif, tmp_path, old, new, found):
    text = cif.read_text()
    assert old in text
    cif.write_text(text.replace(old, new, 1))
    out = tmp_path / "data.cif_pets"
    with pytest.raises(InputError) as caught:
        extract_pets(cif, out)
    assert all(part in str(caught.value) for part in (found, ". Expected ", ". To fix: "))
    assert not out.exists()


def test_several_blocks(cif, tmp_path):
    text = cif.read_text()
    cif.write_text(text + re.sub(r"^data_\S*", "data_second", text, count=1, flags=re.MULTILINE))
    out = tmp_path / "data.cif_pets"
    with pytest.raises(InputError, match=r"in 2 blocks.*second"):
        extract_pets(cif, out)
    assert len(extract_pets(cif, out, block="second").frame_id) == 30


# DIALS


def test_the_zeros_of_dials_are_unknown(tmp_path):
    """`dials.export format=pets` writes 0 for what it does not know, a header of its own, and no merged frames."""
    measured = read_pets(example().data)
    document = gemmi.cif.read(str(example().data))
    block = document.sole_block()
    details = (
        "data collection geometry: continuous rotation\ndstarmax: 0\nRC width: 0\nmosaicity: 0\n"
        "rotation axis position: 0.000\nreflection size:    0\n"
        "Virtual frame settings: number of merged frames: 0\n                        step between frames:     0\n"
        "                        sum all intensities:     1"
    )
    block.set_pair("_diffrn_measurement_details", gemmi.cif.quote(details))
    block.set_pair("_diffrn_pets_omega", "0")
    block.set_pair("_cell_measurement_temperature", "0")
    path = tmp_path / "dials_dyn.cif_pets"
    document.write_file(str(path))
    found = read_pets(path)
    same_rows(found, measured, decimals=9)
    reach = np.linalg.norm(measured.hkl @ np.asarray(measured.orientation).T, axis=1).max()
    assert found.dstar_max == pytest.approx(reach, rel=1e-6)
    block.set_pair("_diffrn_radiation_wavelength", "0")
    document.write_file(str(path))
    with pytest.raises(InputError, match="--energy-ev"):
        read_pets(path)
    assert read_pets(path, energy_ev=200e3).wavelength == pytest.approx(0.025079, abs=1e-6)
