"""What refined.cif and ensemble.cif say is read back with gemmi and computed again from the file alone."""

import dataclasses
import re

import gemmi
import numpy as np
import pytest

from made_crystals import hydrogen_bonded_crystal, mixed_site_crystal
from pendel.crystal.recognise import with_hydrogen
from pendel.crystal.refined import unrefined
from pendel.crystal.structure import Crystal
from pendel.datasets import example
from pendel.experiment.frames import Experiment
from pendel.experiment.select import select, thin
from pendel.files.cif import read_crystal
from pendel.files.cif_facts import write_difference, write_hand
from pendel.files.cif_flags import COLUMNS
from pendel.files.cif_reflections import Calculated
from pendel.files.ensemble_cif import write_ensemble_cif
from pendel.files.pets import read_pets
from pendel.files.refined_cif import write_refined_cif
from pendel.judge.agreement import agreement
from pendel.model.thickness_prior import FAMILIES, thickness_facts
from pendel.run.inputs import read_problem
from pendel.run.settings import Settings
from pendel.simulate import thickness


@pytest.fixture(scope="module")
def quartz() -> Crystal:
    return read_crystal(example().structure)


@pytest.fixture(scope="module")
def monoclinic() -> Crystal:
    return mixed_site_crystal()


@pytest.fixture(scope="module")
def experiment() -> Experiment:
    """A few frames; two of their intensities are below zero, one is missing its signal."""
    kept = thin(select(read_pets(example().data), "nearest"), slice(None, None, 12))
    intensity = np.array(kept.intensity)
    intensity[[3, 7]], intensity[9] = (-4.25, -1e-3), 0.0
    return dataclasses.replace(kept, intensity=intensity)


def draws_of(crystal: Crystal, count=40) -> np.ndarray:
    moves = np.random.default_rng(6).normal(scale=0.004, size=(count, len(crystal.position_basis)))
    return np.asarray(crystal.fract) + np.tensordot(moves, np.asarray(crystal.position_basis), axes=1)


def write(path, crystal, experiments, *, results=None, **options) -> gemmi.cif.Block:
    known = {name: options.pop(name) for name in list(options) if name.endswith("_su")}
    refined = dataclasses.replace(unrefined(crystal), **known)
    write_refined_cif(path, refined, experiments=experiments, **{"summary": results or {}, **options})
    return gemmi.cif.read(str(path)).sole_block()


def values(block, tag) -> list[float]:
    return [gemmi.cif.as_number(text) for text in block.find_values(tag)]


def uncertainty(text: str) -> float:
    number, _, digits = text.rstrip(")").partition("(")
    return int(digits) * 10.0 ** -len(number.partition(".")[2]) if digits else 0.0


def positions(block: gemmi.cif.Block, label: str, code: str, fract) -> list[gemmi.Position]:
    """Where a symmetry code puts a site, for the coordinates of every draw; operations as the file lists them."""
    site = [gemmi.cif.as_string(text) for text in block.find_values("_atom_site_label")].index(label)
    number, _, cells = ("1_555" if code == "." else code).partition("_")
    row = list(block.find_values("_space_group_symop_id")).index(number)
    operation = gemmi.Op(block.find_values("_space_group_symop_operation_xyz").str(row))
    cell = gemmi.UnitCell(
        *(gemmi.cif.as_number(block.find_value(f"_cell_length_{axis}")) for axis in "abc"),
        *(gemmi.cif.as_number(block.find_value(f"_cell_angle_{x}")) for x in ("alpha", "beta", "gamma")),
    )
    found = []
    for draw in fract:
        x = np.array(operation.apply_to_xyz(draw[site].tolist())) + [int(digit) - 5 for digit in cells]
        found.append(cell.orthogonalize(gemmi.Fractional(*x)))
    return found


@pytest.mark.parametrize("name", ["quartz", "monoclinic"])
def test_bonds_and_angles_follow_from_the_file(tmp_path, experiment, request, name):
    """A Monte Carlo over the draws, with the operations and symmetry codes of the file and geometry by gemmi."""
    crystal = request.getfixturevalue(name)
    draws = draws_of(crystal)
    block = write(tmp_path / "refined.cif", crystal, [experiment], fract_draws=draws)
    assert block.find_values("_space_group_symop_operation_xyz")[0] == "x,y,z"
    everywhere = [np.asarray(crystal.fract), *draws]
    for prefix, tag, ends in (("_geom_bond", "_distance", 2), ("_geom_angle", "", 3)):
        items = [f"_{item}_{end + 1}" for item in ("atom_site_label", "site_symmetry") for end in range(ends)]
        table = block.find(prefix, [*items, tag])
        assert len(table) > 1
        for row in table:
            atoms = [positions(block, row.str(k), row[ends + k], everywhere) for k in range(ends)]
            if ends == 2:
                found = np.array([a.dist(b) for a, b in zip(*atoms, strict=True)])
            else:
                found = np.degrees([gemmi.calculate_angle(*points) for points in zip(*atoms, strict=True)])
            su = uncertainty(row[-1])
            assert gemmi.cif.as_number(row[-1]) == pytest.approx(found[0], abs=max(0.26 * su, 1e-4))
            assert su == pytest.approx(np.std(found[1:], ddof=1), rel=0.26, abs=1e-5)
    if name == "monoclinic":
        assert {"Zn1", "Al1", "Si1"} == set(block.find_values("_geom_bond_atom_site_label_1"))
        assert "180.00" in block.find_values("_geom_angle")  # O3-Zn1-O3 across the centre


def test_geometry_without_spread_has_no_uncertainty(tmp_path, quartz, experiment):
    same = np.tile(np.asarray(quartz.fract), (5, 1, 1))
    for draws in (same, same[:1]):
        block = write(tmp_path / "refined.cif", quartz, [experiment], fract_draws=draws)
        text = [*block.find_values("_geom_bond_distance"), *block.find_values("_geom_angle")]
        assert len(text) == 7
        assert not any("(" in value for value in text)
    assert not write(tmp_path / "refined.cif", quartz, [experiment]).find_values("_geom_bond_distance")


def test_everything_written_is_read_back(tmp_path, monoclinic, experiment):
    """Values within half a unit of the last digit that the uncertainty leaves."""
    draws = draws_of(monoclinic)
    sites = len(monoclinic.labels)
    fract_su = np.where(np.ptp(draws, axis=0) > 1e-9, 3e-4, 0.0)
    write(
        tmp_path / "refined.cif",
        monoclinic,
        [experiment],
        fract_su=fract_su,
        u_aniso_su=np.full((sites, 3, 3), 0.0011),
        occupancy_su=np.array([0.02, 0.02, 0, 0, 0, 0]),
        fract_draws=draws,
        calculated=Calculated(intensity=[np.abs(experiment.intensity)]),
    )
    again = read_crystal(tmp_path / "refined.cif")
    assert (again.labels, again.elements, again.isotropic) == tuple(
        getattr(monoclinic, field) for field in ("labels", "elements", "isotropic")
    )
    assert again.cell == pytest.approx(monoclinic.cell)
    np.testing.assert_allclose(again.fract, monoclinic.fract, atol=5e-5)
    np.testing.assert_allclose(again.u_aniso, monoclinic.u_aniso, atol=5e-5)
    np.testing.assert_allclose(again.occupancy, monoclinic.occupancy, atol=0.005)
    assert len(again.atom_site) == len(monoclinic.atom_site)
    assert not any("moved" in note or "contradicts" in note for note in again.notes)


def test_reflections_give_the_agreement_again(tmp_path, quartz, experiment):
    """R and wR from the written loop alone, by the definitions, against those of the arrays."""
    rng = np.random.default_rng(2)
    level = np.maximum(np.asarray(experiment.intensity), 0.3)
    calculated = level * rng.uniform(0.9, 1.1, size=len(level))
    used = rng.uniform(size=len(level)) > 0.2
    block = write(
        tmp_path / "refined.cif",
        quartz,
        [experiment],
        calculated=Calculated(
            intensity=[calculated],
            su=[1e-4 * level],
            used=[used],
            scale=[np.full(len(experiment.frame_id), 2e5)],
        ),
    )
    assert values(block, "_diffrn_refln_intensity_net") == pytest.approx(np.asarray(experiment.intensity))
    assert values(block, "_diffrn_refln_intensity_u") == pytest.approx(np.asarray(experiment.sigma), rel=1e-6)
    hkl = np.array([values(block, f"_refln_index_{axis}") for axis in "hkl"]).T
    np.testing.assert_array_equal(hkl, experiment.hkl)
    frames = np.array(values(block, "_diffrn_refln_scale_group_code"))
    np.testing.assert_array_equal(frames, np.asarray(experiment.frame_id)[experiment.frame_index])
    assert values(block, "_diffrn_scale_group_I_net") == pytest.approx([5e-6] * len(experiment.frame_id))
    measured = list(block.find_values("_refln_intensity_meas"))
    assert [measured[k] for k in (3, 7, 9)] == [".", ".", "0"]
    assert measured.count(".") == 2
    include = np.array([text == "incl" for text in block.find_values("_refln_refinement_status")])
    observed = np.array([text == "o" for text in block.find_values("_refln_include_status")])
    np.testing.assert_array_equal(include, used)
    i_obs = np.array(values(block, "_diffrn_refln_intensity_net"))
    i_calc, sigma = np.array(values(block, "_refln_intensity_calc")), np.array(values(block, "_refln_intensity_sigma"))
    expected = agreement(
        experiment.intensity, experiment.sigma, calculated, np.asarray(experiment.frame_index), mask=used
    )
    chosen = observed & include
    assert chosen.sum() == expected.n_observed
    root = np.sqrt(i_obs[chosen])
    assert np.abs(root - np.sqrt(i_calc[chosen])).sum() / root.sum() == pytest.approx(expected.r_obs_pooled, rel=1e-3)
    positive = np.sqrt(np.maximum(i_obs, 1e-12))
    width = np.where(i_obs < 0.01 * sigma, 5 * np.sqrt(sigma), sigma / (2 * positive))
    square = (1 / (width**2 + (0.01 * np.sqrt(np.maximum(i_obs, 0))) ** 2))[include]
    wr2 = np.sqrt(np.sum(square * (i_calc - i_obs)[include] ** 2) / np.sum(square * i_obs[include] ** 2))
    assert wr2 == pytest.approx(expected.wr2_pooled, rel=1e-3)


def test_calculated_intensities_of_any_unit_keep_their_uncertainty(tmp_path, quartz, experiment):
    intensity = np.full(len(experiment.hkl), 1.2345678e-12)
    calculated = Calculated(intensity=[intensity], su=[np.full(len(intensity), 2.2e-15)])
    block = write(tmp_path / "refined.cif", quartz, [experiment], calculated=calculated)
    assert set(block.find_values("_refln_intensity_calc")) == {"0.000000000001235(2)"}
    bare = write(tmp_path / "refined.cif", quartz, [experiment], calculated=Calculated(intensity=[intensity]))
    assert set(bare.find_values("_refln_intensity_calc")) == {"1.234568e-12"}


def test_frames_and_wavelengths_of_several_data_sets(tmp_path, quartz, experiment):
    other = dataclasses.replace(experiment, wavelength=0.0197)
    calculated = Calculated(intensity=[np.abs(experiment.intensity)] * 2)
    block = write(tmp_path / "refined.cif", quartz, [experiment, other], calculated=calculated)
    rows = len(experiment.hkl)
    groups = list(block.find_values("_diffrn_refln_scale_group_code"))
    assert [group.partition("_")[0] for group in groups] == ["1"] * rows + ["2"] * rows
    assert set(groups) == set(block.find_values("_diffrn_scale_group_code"))
    tags = ("_diffrn_radiation_wavelength_id", "_diffrn_radiation_wavelength")
    lengths = dict(zip(*(values(block, tag) for tag in tags), strict=True))
    mine = [lengths[number] for number in values(block, "_diffrn_refln_wavelength_id")]
    assert mine == pytest.approx([experiment.wavelength] * rows + [0.0197] * rows, rel=1e-5)
    assert len(set(block.find_values("_refln.id"))) == 2 * rows


SCALARS = {
    "a": {"mean": 1.06, "sd": 0.03},
    "b": {"mean": 0.102, "sd": 0.004},
    "nu": {"mean": 5.6, "sd": 0.4},
    "a_2": {"mean": 2.5, "sd": None},
    "log_taper_mean": {"mean": np.log(0.4), "sd": 0.1},
    "log_scale_mean": {"mean": 11.0, "sd": 0.1},
}


def details(block, tag="_refine_special_details") -> str:
    text = block.find_value(tag)
    return gemmi.cif.as_string(text) if text else ""


def test_error_model_in_words(tmp_path, quartz, experiment):
    write_to = tmp_path / "refined.cif"
    lines = details(write(write_to, quartz, [experiment], results={"scalars": SCALARS})).splitlines()
    assert [line for line in lines if " = " in line and "^" not in line] == [
        "a = 1.06(3)",
        "a of data set 2 = 2.500",
        "b = 0.102(4)",
        "nu = 5.6(4)",
    ]
    assert "Student t" in lines[0]
    normal = details(write(write_to, quartz, [experiment], results={"scalars": {"b": SCALARS["b"]}}))
    assert "normal" in normal
    assert "s^2^ = u^2^ +" in normal
    weighted = details(write(write_to, quartz, [experiment], results={"scalars": {"error": SCALARS["b"]}}))
    assert "error = 0.102(4)" in weighted
    assert details(write(write_to, quartz, [experiment], results={"scalars": {}})) == ""


def test_contracted_form_factors_are_told(tmp_path, quartz, experiment):
    results = {"scalars": {"contraction": {"mean": 1.1, "sd": 0.011}}}
    lines = details(write(tmp_path / "refined.cif", quartz, [experiment], results=results)).splitlines()
    assert lines == ["Form factors of all atoms but H are contracted, f(g) -> f(g/k)/k^2^.", "k = 1.100(11)"]


def test_hydrogen_left_out_and_repeated_rows_are_told(tmp_path, experiment):
    source = gemmi.cif.read(str(example().structure))
    block = source.sole_block()
    block.set_pair("_cell_length_c", "5.41")  # not the cell of the data, which the crystal is carried to
    loop = block.find_loop("_atom_site_label").get_loop()
    row = dict.fromkeys(loop.tags, "?")
    row |= {"_atom_site_label": "H1", "_atom_site_type_symbol": "H"}
    row |= {f"_atom_site_fract_{axis}": text for axis, text in zip("xyz", ("0.3", "0.9", "0.1"), strict=True)}
    loop.add_row([row[tag] for tag in loop.tags])
    source.write_file(str(tmp_path / "with_hydrogen.cif"))
    crystal = read_problem(tmp_path / "with_hydrogen.cif", [example().data], Settings(hydrogen="off")).crystal
    assert crystal.cell[2] != pytest.approx(5.41)
    assert len(set(crystal.notes)) == len(crystal.notes)
    calculated = Calculated(intensity=[experiment.intensity])
    written = write(tmp_path / "refined.cif", crystal, [experiment], calculated=calculated)
    assert "1 hydrogen sites left out of the start structure." in details(written)
    assert "repeat a measurement" not in details(written, "_reflns_special_details")
    rows = np.array([0, 0, 0, *range(1, len(experiment.hkl))])
    names = ("hkl", "frame_index", "intensity", "sigma", "weight")
    twice = dataclasses.replace(experiment, **{name: getattr(experiment, name)[rows] for name in names})
    calculated = Calculated(intensity=[twice.intensity])
    written = write(tmp_path / "again.cif", crystal, [twice], calculated=calculated)
    assert "2 rows repeat a measurement." in details(written, "_reflns_special_details")


def test_sample_and_absolute_structure(tmp_path, quartz, monoclinic, experiment):
    results = {
        "thickness_mean_angstrom": 853.0,
        "thickness_su_angstrom": 12.0,
        "thickness_min_angstrom": 610.0,
        "thickness_max_angstrom": 1010.0,
        **thickness_facts("taper"),
        "scalars": SCALARS,
        "model": "/home/someone/my_model.py",
    }
    block = write(tmp_path / "refined.cif", quartz, [experiment], results=results)
    assert block.find_value("_refine_ls.sample_thickness") == "85.3(12)"
    assert block.find_value("_refine_ls.abs_structure_z-score") is None
    write_hand(tmp_path / "refined.cif", 7.314)
    with_hand = gemmi.cif.read(str(tmp_path / "refined.cif")).sole_block()
    assert with_hand.find_value("_refine_ls.abs_structure_z-score") == "7.31"
    assert with_hand.find_value("_refine_ls.sample_thickness") == "85.3(12)"
    assert details(block, "_refine.diffraction_theory_details").endswith("; model my_model.py")
    shape = details(block, "_refine_ls.sample_shape_details")
    assert "from 61.0 to 101.0 nm" in shape
    assert "Typical k: 0.40(4)." in shape
    unknown = {name: value for name, value in results.items() if not name.startswith("thickness_")}
    unknown |= {"thickness_mean_angstrom": 853.0} | thickness_facts("own")
    other = write(tmp_path / "refined.cif", monoclinic, [experiment], results=unknown)
    assert other.find_value("_refine_ls.sample_shape_expression") is None
    assert "Typical" not in details(other, "_refine_ls.sample_shape_details")
    nothing = write(tmp_path / "refined.cif", quartz, [experiment], results={"n_scored": None, "wr2_pooled": np.nan})
    names = {item.pair[0] for item in nothing if item.pair}
    assert not {"_refine_ls.sample_thickness", "_refine_ls_number_reflns", "_refine_ls_wR_factor_ref"} & names


@pytest.mark.parametrize("shape", sorted(set(FAMILIES) - {"single"}))  # its integral is no mean over a grid
def test_expressions_are_the_shapes_that_are_refined(shape):
    """Mean of tau, the integral of 1 - F, and of tau^2, that of 2 tau (1 - F), from nodes and from the text."""
    taper = 0.3
    log_thickness = np.log([800.0])
    if shape == "taper":
        nodes, weights = thickness.tapered(log_thickness, np.log([taper]), nodes=40)
    elif shape == "step":
        nodes, weights = thickness.stepped(log_thickness, np.log([taper]), np.log([0.5]), 0.6, nodes=80)
    else:
        nodes, weights = FAMILIES[shape].density(log_thickness, 40)
    formula = re.sub(r"\^([^^]+)\^", r"**(\1)", FAMILIES[shape].expression.partition("= ")[2])
    tau = (np.arange(200000) + 0.5) / 200000
    names = {"tau": tau, "k": taper, "q": 1 / 3, "h": 0.6, "min": np.minimum}
    cumulative = eval(formula, names)  # text of this package, arithmetic only
    reduced = np.asarray(nodes)[0] / 800.0
    assert np.mean(1 - cumulative) == pytest.approx(np.sum(np.asarray(weights)[0] * reduced), abs=1e-4)
    assert np.mean(2 * tau * (1 - cumulative)) == pytest.approx(np.sum(np.asarray(weights)[0] * reduced**2), abs=1e-4)


def test_ensemble_holds_the_draws(tmp_path, monoclinic):
    rng = np.random.default_rng(9)
    fract = draws_of(monoclinic, 200)
    u_aniso = np.asarray(monoclinic.u_aniso) * rng.uniform(0.8, 1.2, size=(200, 1, 1, 1))
    occupancy = np.asarray(monoclinic.occupancy) * rng.uniform(0.9, 1.0, size=(200, 1))
    path = tmp_path / "ensemble.cif"
    write_ensemble_cif(path, monoclinic, fract, u_aniso, occupancy)
    blocks = gemmi.cif.read(str(path))
    assert [block.name for block in blocks] == [f"mixed_site_draw_{k}" for k in range(1, 21)]
    assert "(" not in "".join("".join(block.find_values("_atom_site_fract_x")) for block in blocks)
    found = [read_crystal(path, block=block.name) for block in blocks]
    rows = [int(np.argmin(np.abs(fract - np.asarray(one.fract)).sum((1, 2)))) for one in found]
    assert len(set(rows)) == 20
    assert (rows[0], rows[-1], max(np.diff(rows))) == (0, 199, 11)
    for row, one in zip(rows, found, strict=True):
        np.testing.assert_allclose(one.fract, fract[row], atol=6e-7)
        np.testing.assert_allclose(one.u_aniso, u_aniso[row], atol=6e-6)
        np.testing.assert_allclose(one.occupancy, occupancy[row], atol=6e-5)
        assert one.isotropic == monoclinic.isotropic
    write_ensemble_cif(path, monoclinic, fract[:3], u_aniso[:3], draws=7)
    assert len(gemmi.cif.read(str(path))) == 3
    few = read_crystal(path, block="mixed_site_draw_2")
    np.testing.assert_allclose(few.occupancy, monoclinic.occupancy, atol=6e-5)
    small = gemmi.make_small_structure_from_block(gemmi.cif.read(str(path))[2])
    assert small.sites[2].fract.tolist() == pytest.approx(fract[2, 2], abs=6e-7)


def test_a_flat_ellipsoid_is_written_so_that_it_can_be_read(quartz, tmp_path):
    flat = np.array(quartz.u_aniso)
    flat[1] = [[0.02, 0.0, 0.0], [0.0, 0.02, 0.0], [0.0, 0.0, 4e-5]]
    crystal = dataclasses.replace(quartz, u_aniso=flat, isotropic=(False, False))
    su = np.full((2, 3, 3), 2e-3)
    path = tmp_path / "flat.cif"
    write(path, crystal, [], u_aniso_su=su)
    again = read_crystal(path)
    np.testing.assert_allclose(again.u_aniso[1], flat[1], atol=1e-5)
    row = [text for text in path.read_text().splitlines() if text.startswith("O1 ")][-1]
    assert "0.00004(200)" in row


def test_hydrogen_and_restraints_are_told(tmp_path, experiment):
    """How every site was refined stands in the file, and its restraints are read back."""
    lines = [
        *("CELL 0.0251 6 7 8 90 90 90", "LATT 1", "SFAC C H O", "DFIX 1.43 0.02 C1 O1", "SIMU 0.01 C1 O1"),
        *("C1 1 0.30 0.30 0.30 11 0.03 0.03 0.03 0 0 0", "O1 3 0.52 0.33 0.32 11 0.03 0.03 0.03 0 0 0"),
        *("H1 2 0.57 0.40 0.24 11 -1.5", "O2 3 0 0 0 10.5 0.02 0.03 0.03 0 0 0", "END"),
    ]
    (tmp_path / "start.res").write_text("\n".join(lines) + "\n")
    start = read_crystal(tmp_path / "start.res")
    found = {}
    for mode in ("ride", "free", "plain"):
        crystal = start if mode == "plain" else with_hydrogen(start, mode)
        block = write(tmp_path / "refined.cif", crystal, [experiment])
        flags = [list(block.find_values(f"_atom_site_{name}")) for name in COLUMNS]
        found[mode] = (block.find_value("_refine_ls_hydrogen_treatment"), *(column[2] for column in flags))
        assert [column[3] for column in flags] == ["d", "S", "T"]
        assert [column[0] for column in flags] == ["d", "D", "U"]
        again = read_crystal(tmp_path / "refined.cif").restraints
        assert {(one.card, one.atoms if hasattr(one, "atoms") else one.pairs) for one in again} == {
            (one.card, one.atoms if hasattr(one, "atoms") else one.pairs) for one in crystal.restraints
        }
    assert found == {
        "ride": ("constr", "calc", "R", "."),
        "free": ("refxyz", "d", "D", "."),
        "plain": ("refall", "d", ".", "."),
    }


def test_without_hydrogen_and_restraints_nothing_is_told(tmp_path, quartz, experiment):
    block = write(tmp_path / "refined.cif", quartz, [experiment])
    assert block.find_value("_refine_ls_hydrogen_treatment") is None
    assert not len(block.find_values("_atom_site_calc_flag"))


def test_extremes_of_the_difference_potential_are_in_electrons_per_angstrom(tmp_path, quartz, experiment):
    """A charge e makes a potential of 14.3996 V at 1 Å, which is 1 e/Å."""
    path = tmp_path / "refined.cif"
    before = write(path, quartz, [experiment])
    write_difference(path, highest=14.39965, lowest=-7.2, rms=0.72)
    block = gemmi.cif.read(str(path)).sole_block()
    numbers = [float(block.find_value(f"_refine_diff.potential_{name}")) for name in ("max", "min", "RMS")]
    assert numbers == pytest.approx([1.0, -0.5, 0.05], abs=1e-4)
    assert len(block.find_values("_atom_site_label")) == len(before.find_values("_atom_site_label"))


def test_hydrogen_bonds_with_su_and_symmetry(tmp_path, experiment):
    """The acceptor is in the next cell, and only it moves in the draws."""
    crystal = hydrogen_bonded_crystal()
    draws = np.tile(np.asarray(crystal.fract), (300, 1, 1))
    steps = np.random.default_rng(8).normal(size=300)
    draws[:, 2, 0] += 0.03 / 9 * (steps - steps.mean()) / steps.std(ddof=1)
    block = write(tmp_path / "refined.cif", crystal, [experiment], fract_draws=draws)
    names = ["atom_site_label_D", "atom_site_label_H", "atom_site_label_A", "site_symmetry_H", "site_symmetry_A"]
    names += ["distance_DH", "distance_HA", "distance_DA", "angle_DHA"]
    (row,) = block.find("_geom_hbond_", names)
    assert list(row) == ["O1", "H1", "O2", ".", "1_655", "0.970", "1.73(3)", "2.70(3)", "180.0"]
