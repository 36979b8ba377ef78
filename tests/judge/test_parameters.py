"""Parameters with their priors, the headline, and the measurements that move the structure."""

import csv
import dataclasses

import numpy as np
import pytest

from made_runs import DRAWS, PRIOR, SPREAD, make_run
from pendel.files.csv_table import text_cell
from pendel.files.parameters_csv import COLUMNS, write_parameters
from pendel.folder.reader import read_run_files
from pendel.judge.headline import headline, mean_position_su
from pendel.judge.influence import influences
from pendel.judge.parameters import parameter_facts
from pendel.judge.verdicts import FAIL, WARN, Verdict, in_few_words


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return read_run_files(make_run(tmp_path_factory.mktemp("parameters") / "run"))


def by_name(facts):
    return {(one.site, one.label): one for one in facts}


def test_every_number_has_its_name_unit_and_prior(run):
    found = by_name(parameter_facts(run.tree))
    oxygen = found["fract", "O1 x"]
    draws = run.draws("fract")[:, 1, 0]
    assert (oxygen.mean, oxygen.sd) == pytest.approx((draws.mean(), draws.std(ddof=1)))
    assert (oxygen.low, oxygen.high) == pytest.approx(tuple(np.quantile(draws, [0.025, 0.975])))
    assert oxygen.is_structure
    assert oxygen.prior_sd is None  # the file has no draws of this prior
    move = found["displacement", "1"]
    assert move.unit == "Å"
    assert move.sd_over_prior == pytest.approx(SPREAD / PRIOR, rel=0.2)
    frames = [one for one in found.values() if one.is_of_frame]
    assert [one.label for one in frames] == [f"frame {identifier}" for identifier in run.data[0].frame_id]
    assert {one.unit for one in frames} == {"Å"}
    assert [label for site, label in found if site == "U_aniso" and label.startswith("Si1")] == [
        f"Si1 U{pair}" for pair in (11, 12, 13, 22, 23, 33)
    ]


def test_what_no_draw_changes_is_fixed(run):
    found = by_name(parameter_facts(run.tree))
    for key in (("fract", "Si1 x"), ("scale_spread", ""), ("occupancy", "O1"), ("U_aniso", "O1 U11")):
        one = found[key]
        assert not one.is_refined
        assert (one.sd, one.sd_over_prior) == (0.0, None)
        assert one.low == one.mean == one.high
    assert found["occupancy", "O1"].mean == 1.0


def test_weights_stand_for_another_posterior(run):
    weights = np.random.default_rng(1).uniform(size=DRAWS)
    twice = np.tile(1.0, DRAWS)
    same, plain = (by_name(parameter_facts(run.tree, given)) for given in (twice, None))
    for key, one in plain.items():
        assert (same[key].mean, same[key].sd) == pytest.approx((one.mean, one.sd), rel=1e-9, abs=1e-12)
    one = by_name(parameter_facts(run.tree, weights))["displacement", "2"]
    draws = run.draws("displacement")[:, 1]
    assert one.mean == pytest.approx(np.average(draws, weights=weights))
    order = np.argsort(draws)
    assert np.sum(weights[order][draws[order] <= one.low]) / weights.sum() == pytest.approx(0.025, abs=0.01)


def test_the_file_has_what_the_facts_say(run, tmp_path):
    facts = parameter_facts(run.tree)
    write_parameters(tmp_path / "parameters.csv", facts)
    with open(tmp_path / "parameters.csv", newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert tuple(rows[0]) == COLUMNS
    assert len(rows) == len(facts)
    for row, one in zip(rows, facts, strict=True):
        assert (row["parameter"], row["label"]) == (one.site, one.label)
        assert float(row["mean"]) == pytest.approx(one.mean, rel=1e-6, abs=1e-12)
        assert row["status"] == ("refined" if one.is_refined else "fixed")
        assert bool(row["sd_over_prior"]) == (one.sd_over_prior is not None)


@pytest.mark.parametrize("label", ["=1+1", "+A1", "-A1", "@SUM(A1)", "\t=1", " =1", "\r=1"])
def test_labels_are_no_formulas_of_a_spreadsheet(run, tmp_path, label):
    facts = [dataclasses.replace(parameter_facts(run.tree)[0], label=f'{label},"x', site="fract")]
    write_parameters(tmp_path / "parameters.csv", facts)
    with open(tmp_path / "parameters.csv", newline="", encoding="utf-8") as stream:
        (row,) = csv.DictReader(stream)
    assert row["label"] == f"'{label},\"x"
    assert row["mean"][0].isdigit()
    assert text_cell("O1'") == "O1'"


def test_the_headline_has_the_numbers_of_the_run(run):
    found = headline(run)
    assert found.r_obs == run.summary["r_obs_pooled"]
    assert found.r_heldout is None
    (thickness,) = found.thickness
    assert thickness.mean == pytest.approx(500, abs=2)
    assert (thickness.low, thickness.high) == pytest.approx((480, 520), abs=4)  # two standard deviations of 10 Å
    assert "nothing was held out" in found.doubted
    worse = dataclasses.replace(run, summary=run.summary | {"r_obs_pooled": 0.3})
    assert any(text.startswith("R_obs 30.00 %") for text in headline(worse).failed)


def test_position_su_is_that_of_one_free_direction(run):
    """Si moves along one direction, O along three, each by SPREAD."""
    assert mean_position_su(run) == pytest.approx(1000 * SPREAD, rel=0.05)
    still = run.tree.copy()
    still["posterior"]["fract"] = still["posterior"]["fract"] * 0.0
    assert mean_position_su(dataclasses.replace(run, tree=still)) is None


def test_verdicts_in_few_words():
    assert in_few_words(Verdict(WARN, "nothing was held out, so over-fitting was not tested")) == "nothing was held out"
    assert in_few_words(Verdict(FAIL, "E-BFMI 0.20 (good above 0.3)", "longer")) == "E-BFMI 0.20"
    assert in_few_words(Verdict(WARN, "a, b: 3 of 9 frames", brief="3 of 9 frames")) == "3 of 9 frames"


def test_the_measurement_that_decides_is_found(run):
    """One measurement's likelihood pulls O1 along x; without it the mean moves back by what it had pulled."""
    tree = run.tree.copy()
    drawn = tree["log_likelihood"]["draw"].values
    x = tree["posterior"]["fract"].sel(draw=drawn).values[0, :, 1, 0]
    su = tree["posterior"]["fract"].values[0, :, 1, 0].std(ddof=1)
    values = np.zeros_like(tree["log_likelihood"]["intensity"].values)
    values[0, :, 7] = 0.8 * (x - x.mean()) / su
    tree["log_likelihood"] = tree["log_likelihood"].assign(
        intensity=tree["log_likelihood"]["intensity"].copy(data=values)
    )
    first = influences(tree)[0]
    assert (first.hkl, first.label) == (run.data[0].hkl[7], "O1 x")
    assert first.shift == pytest.approx(-0.8, abs=0.25)  # the mean of a normal density times exp(-0.8 x / su)
    assert first.noise < 0.2
    others = influences(tree)[1:]
    assert max(abs(one.shift) for one in others) < 1e-9
