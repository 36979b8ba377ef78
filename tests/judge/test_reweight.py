"""Another prior without a refit: against closed forms, and refused where draws are too few or texts are no priors."""

import csv

import numpy as np
import pytest
from typer.testing import CliRunner

from made_runs import DRAWS, PRIOR, SPREAD, make_run
from pendel import InputError
from pendel.cli.main import app
from pendel.folder.reader import read_run_files
from pendel.judge.reweight import changes, read_prior, reweighted


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("reweight") / "run", shift=0.02)


@pytest.fixture(scope="module")
def tree(folder):
    return read_run_files(folder).tree


def numbers(found, site):
    return [np.array([[one.mean, one.sd] for one in part if one.site == site]) for part in (found.before, found.after)]


def test_a_normal_prior_gives_the_posterior_in_closed_form(tree):
    """Draws of N(m, s²) made with the prior N(0, 0.05²); with N(0, t²) precisions change by t⁻² - 0.05⁻²."""
    new = 0.035
    found = reweighted(tree, [f"displacement=Normal(0, {new})"])
    before, after = numbers(found, "displacement")
    precision = before[:, 1] ** -2 + new**-2 - PRIOR**-2
    expected = before[:, 0] * before[:, 1] ** -2 / precision
    error = SPREAD / np.sqrt(found.draws)
    np.testing.assert_allclose(after[:, 0], expected, atol=4 * error)
    np.testing.assert_allclose(after[:, 1], precision**-0.5, rtol=0.15)
    assert np.all(np.abs(after[:, 0] - before[:, 0]) > error)  # the test sees the change
    assert found.pareto_k < found.good_k
    assert found.draws < DRAWS
    (site, moved), *_ = changes(found)
    assert site.label == moved.label == "Si1 y"
    assert moved.prior_sd is None


def test_the_same_prior_changes_nothing(tree):
    found = reweighted(tree, [f"displacement=Normal(0, {PRIOR})"])
    for before, after in zip(found.before, found.after, strict=True):
        assert (after.mean, after.sd) == pytest.approx((before.mean, before.sd), rel=1e-6, abs=1e-9)
    assert found.draws == pytest.approx(DRAWS)


def test_several_sites_at_once(tree):
    both = reweighted(tree, ["displacement=Normal(0, 0.04)", " b = LogNormal(-2.4, 0.5) "])
    one = reweighted(tree, ["b=LogNormal(-2.4, 0.5)"])
    assert both.draws < one.draws
    assert numbers(both, "b")[1][0, 0] == pytest.approx(numbers(one, "b")[1][0, 0], rel=0.02)


def test_a_prior_far_from_the_draws_is_refused(tree):
    with pytest.raises(InputError, match=r"have Pareto k .* refine again with a copy of the model"):
        reweighted(tree, ["displacement=Normal(0.3, 0.01)"])
    with pytest.raises(InputError, match="No draw of the run is possible"):
        reweighted(tree, ["b=Uniform(5, 6)"])


def test_draws_that_the_prior_forbids_have_no_weight(tree):
    limit = float(np.quantile(tree["posterior"]["b"].values, 0.9))
    found = reweighted(tree, [f"b=Uniform(0, {limit})"])
    (after,) = [one for one in found.after if one.site == "b"]
    assert after.high <= limit
    assert found.draws <= 0.91 * DRAWS


@pytest.mark.parametrize(
    "text",
    [
        "b",
        "b=Normal",
        "b=Normal(0, 0.1",
        "b=Normal(0, __import__('os').system('true'))",
        "b=__import__(1)",
        "b=numpyro.Normal(0, 1)",
        "b=Normal(0, -1)",
        "b=Normal(0, nan)",
        "b=Normal(0, inf)",
        "b=Normal(loc=0)",
        "b=Normal(0, 1, 2, 3)",
        "b=Nonsense(1)",
        "b=Distribution()",
        "b=constraints(1)",
        "b=Poisson(3)",
        "b=MultivariateNormal(0, 1)",
        "b=Dirichlet(1)",
        "b=Normal(0, 1); c=Normal(0, 1)",
        "=Normal(0, 1)",
    ],
)
def test_other_texts_are_refused(text):
    with pytest.raises(InputError, match="is no prior"):
        read_prior(text)


def test_sites_that_the_run_does_not_have_are_named(tree):
    with pytest.raises(InputError, match=r"--prior for nonsense.*one of b, displacement"):
        reweighted(tree, ["nonsense=Normal(0, 1)"])
    with pytest.raises(InputError, match="named twice"):
        reweighted(tree, ["b=HalfNormal(1)", "b=HalfNormal(2)"])
    old = tree.copy()
    del old["log_prior"]
    with pytest.raises(InputError, match="has no group log_prior"):
        reweighted(old, ["b=HalfNormal(1)"])


def test_the_command_prints_the_structure_and_writes_all_parameters(folder, tmp_path):
    out = tmp_path / "other.csv"
    done = CliRunner().invoke(
        app, ["reweight", str(folder), "--prior", "displacement=Normal(0, 0.04)", "--out", str(out)]
    )
    assert done.exit_code == 0, done.output
    assert "Pareto k" in done.stdout
    assert "O1 x" in done.stdout
    with open(out, newline="", encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream) if row["parameter"] == "displacement"]
    assert all(row["prior_sd"] == "" for row in rows)
    wrong = CliRunner().invoke(app, ["reweight", str(folder), "--prior", "b=evil(1)"])
    assert wrong.exit_code == 2
