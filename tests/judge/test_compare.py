"""Comparison of runs: units of the left-out density, hands, and refusals."""

import dataclasses
from pathlib import Path

import gemmi
import numpy as np
import pytest
import xarray as xr
from scipy.special import logsumexp

from pendel import InputError, read_crystal
from pendel.crystal.hand import are_opposite_hands, invert
from pendel.datasets import example
from pendel.files.structure_cif import write_structure_cif
from pendel.judge.compare import Run, _hand_line, difference, hand, hands
from pendel.judge.loo import Loo, by_frame, by_measurement, held_out
from pendel.report import comparison
from pendel.report.comparison import keep_comparison

POLAR = """data_polar
_cell_length_a 3.99
_cell_length_b 3.99
_cell_length_c 4.03
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_space_group_name_H-M_alt 'P 4 m m'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_U_iso_or_equiv
Ba1 Ba 0 0 0 0.005
Ti1 Ti 0.5 0.5 0.5224 0.005
O1 O 0.5 0.5 -0.0244 0.005
O2 O 0.5 0 0.4895 0.005
"""  # barium titanate, which is centrosymmetric within 0.2 Å


def tree(values, *, heldout=None):
    """Four measurements on three frames; the first two rows are one measurement seen twice."""
    names = np.array(["1 0 0", "1 0 0", "2 0 0", "1 1 0", "0 0 3"])
    rows = np.arange(5)

    def group(values, rows):
        dims = ("chain", "draw", "measurement")
        coords = {"measurement": rows, "hkl": ("measurement", names[rows])}
        return xr.Dataset({"intensity": (dims, values)}, coords=coords)

    constant = {"sigma": np.array([1.0, 1.0, 2.0, 2.0, 1.0]), "frame_of": np.array([4, 5, 5, 6, 6])}
    measured = np.array([10.0, 10.0, 20.0, 30.0, 5.0])
    groups = {
        "posterior": xr.Dataset({"x": (("chain", "draw"), np.zeros(values.shape[:2]))}),
        "log_likelihood": group(values, rows[: values.shape[2]]),
        "observed_data": xr.Dataset({"intensity": ("measurement", measured)}),
        "constant_data": xr.Dataset({name: ("measurement", value) for name, value in constant.items()}),
    }
    if heldout is not None:
        groups["log_likelihood_heldout"] = group(heldout, rows[-heldout.shape[2] :])
    return xr.DataTree.from_dict(groups)


@pytest.fixture
def values():
    return np.random.default_rng(0).normal(-2.0, 0.1, (1, 400, 5))


def test_duplicate_rows_are_one_measurement(values):
    found = by_measurement(tree(values))
    assert len(found.units) == 4
    place = found.units.index((0, "1 0 0", 10.0, 1.0))
    both = values[0, :, 0] + values[0, :, 1]
    # Left out: 1 / mean(1 / p), what importance sampling gives when all weights are tame.
    assert found.pointwise[place] == pytest.approx(np.log(len(both)) - logsumexp(-both), abs=0.01)
    assert np.max(found.pareto_k) < 0.7


def test_draws_that_stand_still_are_not_trusted(values):
    expected = by_measurement(tree(values))
    values = values.copy()
    values[:, :250, 3] = values[:, :250, 3].min()  # a chain that was stuck: the largest weights are one and the same
    found = by_measurement(tree(values))
    place = found.units.index((0, "1 1 0", 30.0, 2.0))
    assert np.flatnonzero(np.isinf(found.pareto_k)).tolist() == [place]
    assert found.n_unreliable == 1
    others = np.arange(4) != place
    np.testing.assert_array_equal(found.pointwise[others], expected.pointwise[others])
    assert found.pointwise[place] == pytest.approx(np.log(400) - logsumexp(-values[0, :, 3]))
    values[:, :, :] = values[:, :1]
    assert by_measurement(tree(values)).n_unreliable == 4


def test_frames_leave_with_all_their_measurements(values):
    found = by_frame(tree(values))
    assert found.units == ((0, 4), (0, 5), (0, 6))
    frame = values[0, :, 1] + values[0, :, 2]
    assert found.pointwise[1] == pytest.approx(np.log(len(frame)) - logsumexp(-frame), abs=0.01)


def test_held_out_density_is_the_mean_over_draws(values):
    assert held_out(tree(values)) is None
    found = held_out(tree(values[:, :, :3], heldout=values[:, :, 3:]))
    assert found.units == ((0, "0 0 3"), (0, "1 1 0"))
    np.testing.assert_allclose(found.pointwise[1], np.log(np.mean(np.exp(values[0, :, 3]))))


def test_differences_are_paired(values):
    better = by_measurement(tree(values + 0.5))
    worse = by_measurement(tree(values))
    found = difference(better, worse)
    assert found.value == pytest.approx(0.5 * 5, abs=1e-6)
    assert found.se == pytest.approx(0.5 * np.sqrt(4 * np.var([2, 1, 1, 1])), abs=1e-6)
    with pytest.raises(InputError, match="The runs have 4 and 3 measurements or frames, and share 3"):
        difference(better, by_measurement(tree(values[:, :, :4])))


def test_two_hands_are_recognised():
    crystal = read_crystal(example().structure)
    other = invert(crystal)
    assert are_opposite_hands(crystal, other)
    assert not are_opposite_hands(crystal, crystal)


def test_a_nearly_centrosymmetric_structure_is_not_its_own_inverse(tmp_path):
    path = tmp_path / "polar.cif"
    path.write_text(POLAR)
    crystal = read_crystal(path)
    other = invert(crystal)
    assert are_opposite_hands(crystal, other)
    assert not are_opposite_hands(crystal, crystal)
    moved = dataclasses.replace(crystal, fract=np.asarray(crystal.fract) + np.array([0, 0, 0.001]))
    assert not are_opposite_hands(crystal, moved)
    assert are_opposite_hands(moved, other)


def test_hands_of_different_fits_are_not_compared():
    crystal = read_crystal(example().structure)
    right, wrong = finished("right", crystal, [1.0], -100.0), finished("wrong", invert(crystal), [2.0], -103.0)
    for run in (right, wrong):
        run.summary["model"] = "robust"
    found = hand(right, wrong)
    assert found is not None
    assert "did not converge" not in _hand_line(found)
    wrong.summary["converged"] = False
    found = hand(right, wrong)
    assert found is not None
    assert "not to be trusted: a fit did not converge" in _hand_line(found)
    wrong.summary["model"] = "dynamical"
    assert hand(right, wrong) is None


def finished(path, crystal, calculated, evidence):
    nothing = Loo(units=(), pointwise=np.zeros(0), pareto_k=np.zeros(0))
    pairs = {("d", "1", str(n), "0", "0"): (10.0, value) for n, value in enumerate(calculated)}
    summary = {"log_evidence_laplace": evidence}
    return Run(Path(path), summary, crystal, pairs, nothing, nothing, None)


def test_evidences_of_particles_are_preferred_where_both_hands_have_them():
    crystal = read_crystal(example().structure)
    right, wrong = finished("right", crystal, [1.0], -100.0), finished("wrong", invert(crystal), [2.0], -103.0)
    right.summary["log_evidence_smc"] = -90.0
    found = hand(right, wrong)
    assert found is not None
    assert (found.source, found.log_evidence) == ("Laplace", 3.0)
    wrong.summary["log_evidence_smc"] = -95.0
    found = hand(right, wrong)
    assert found is not None
    assert (found.source, found.log_evidence) == ("SMC", 5.0)


def test_the_right_hand_has_the_higher_evidence_and_fits_more_reflections():
    crystal = read_crystal(example().structure)
    right = finished("right", crystal, [10.1, 9.9, 10.2, 13.0], -100.0)
    wrong = finished("wrong", invert(crystal), [12.0, 8.0, 11.0, 12.0], -103.0)
    found, turned = hand(right, wrong), hand(wrong, right)
    assert found is not None
    assert turned is not None
    assert found.probability == pytest.approx(1 / (1 + np.exp(-3.0)))
    assert (found.n_first, found.n_second, found.z) == (3, 1, pytest.approx((3 - 1) / 2))
    assert (turned.probability, turned.z) == (pytest.approx(1 - found.probability), pytest.approx(-found.z))
    for one in (found, turned):
        assert "hand: right with probability 0.95" in _hand_line(one)
        assert "z = +1.0" in _hand_line(one)
    assert hand(right, right) is None


def test_z_of_the_hand_goes_into_both_structures(tmp_path, monkeypatch):
    monkeypatch.setattr(comparison, "write_page", lambda path: None)
    crystal = read_crystal(example().structure)
    runs = []
    for name, structure, calculated, evidence in (
        ("right", crystal, [10.1, 9.9, 10.2, 13.0], -100.0),
        ("wrong", invert(crystal), [12.0, 8.0, 11.0, 12.0], -103.0),
        ("worse", invert(crystal), [12.0, 8.0, 11.0, 14.0], -110.0),
    ):
        runs.append(finished(tmp_path / name, structure, calculated, evidence))
        runs[-1].path.mkdir()
        write_structure_cif(runs[-1].path / "refined.cif", structure)
        (runs[-1].path / "run.json").write_text("{}")
    both = hands(runs)
    assert len(both) == 2
    for run, expected in zip(runs, ("1.00", "-1.00", "-2.00"), strict=True):
        keep_comparison(run, {"hands": []}, both)
        block = gemmi.cif.read(str(run.path / "refined.cif")).sole_block()
        assert block.find_value("_refine_ls.abs_structure_z-score") == expected
        assert read_crystal(run.path / "refined.cif").spacegroup == run.crystal.spacegroup
