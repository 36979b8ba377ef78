"""Residuals of equivalents: alike where their errors are common, and what is said of it then."""

import dataclasses

import numpy as np
import pytest

from made_runs import make_run
from pendel.folder.reader import read_run_files
from pendel.judge.equivalents import correlation_of_equivalents
from pendel.judge.verdicts import verdicts


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return read_run_files(make_run(tmp_path_factory.mktemp("equivalents") / "run"))


def with_residuals(run, share, seed=3):
    """Twelve reflections of P3_2 21, each with three equivalents, Friedel mates among them; a share of z is common."""
    rng = np.random.default_rng(seed)
    own = np.array([(h, k, last) for h in (1, 2) for k in (3, 4) for last in (1, 2, 3)])
    swapped = own[:, [1, 0, 2]] * [1, 1, -1]
    hkl, group = np.concatenate([own, -own, swapped, -swapped]), np.tile(np.arange(len(own)), 4)
    z = np.sqrt(share) * rng.standard_normal(len(own))[group] + np.sqrt(1 - share) * rng.standard_normal(len(hkl))
    ones = np.ones(len(hkl))
    names = tuple(" ".join(map(str, row)) for row in hkl)
    fields = {"hkl": names, "z": z, "used": ones > 0, "intensity": 20 * ones, "sigma": ones}
    return dataclasses.replace(run, data=(dataclasses.replace(run.data[0], **fields),))


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_correlation_is_the_share_of_the_variance_that_is_common(run, share):
    found = [correlation_of_equivalents(with_residuals(run, share, seed)) for seed in range(40)]
    assert {pairs for _, pairs in found} == {12 * 6}
    assert np.mean([correlation for correlation, _ in found]) == pytest.approx(share, abs=0.1)


def test_an_error_of_all_measurements_is_none_of_equivalents(run):
    changed = with_residuals(run, 0.0, seed=1)
    data = changed.data[0]
    shifted = dataclasses.replace(changed, data=(dataclasses.replace(data, z=data.z + 3.0),))
    before, after = (correlation_of_equivalents(one)[0] for one in (changed, shifted))
    assert after == pytest.approx(before, abs=0.1)


def test_weak_and_held_out_measurements_do_not_count(run):
    changed = with_residuals(run, 1.0)
    data = changed.data[0]
    left = dataclasses.replace(data, used=np.arange(len(data.z)) < 12)
    assert correlation_of_equivalents(dataclasses.replace(run, data=(left,)))[1] == 0
    weak = dataclasses.replace(data, intensity=np.full(len(data.z), 5.0))
    assert correlation_of_equivalents(dataclasses.replace(run, data=(weak,))) == (0.0, 0)


def test_a_model_without_common_errors_is_told_of_them(run):
    def said(one):
        return [verdict for verdict in verdicts(one) if verdict.text.startswith("residuals of equivalent")]

    (warned,) = said(with_residuals(run, 1.0))
    assert warned.level == "warn"
    assert "--reflection-error on" in warned.advice
    (fine,) = said(with_residuals(run, 0.0, seed=1))
    assert fine.level == "pass"
