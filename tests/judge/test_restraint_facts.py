"""What is told of restraints after a fit."""

import dataclasses

import numpy as np
import pytest

from made_crystals import mixed_site_crystal
from pendel.crystal.atom import Atom
from pendel.crystal.cell import direct_matrix
from pendel.crystal.residuals import residuals
from pendel.crystal.restraints import Distance, SimilarTensors
from pendel.judge.restraints import decided_by, restraint_facts


def here(site):
    return Atom(site, 0, (0, 0, 0))


@pytest.mark.parametrize(("sd", "word"), [(0.002, "data"), (0.02, "restraint"), (0.014, "both")])
def test_distances_of_draws(sd, word):
    """Draws with a known spread along the line between two atoms."""
    crystal = mixed_site_crystal()
    pair = (here(0), here(2))
    restraint = Distance(card="DFIX", pairs=(pair,), distance=1.0, sd=0.02)
    length = 1.0 + float(residuals(crystal, restraint)[0][0])
    restraint = dataclasses.replace(restraint, distance=length - 0.03)
    crystal = dataclasses.replace(crystal, restraints=(restraint,))
    line = np.linalg.solve(direct_matrix(crystal.cell), _line(crystal, 0, 2))
    fract = np.tile(np.asarray(crystal.fract), (400, 1, 1))
    steps = np.random.default_rng(1).normal(size=400)
    fract[:, 2] += sd * ((steps - steps.mean()) / steps.std(ddof=1))[:, None] * line
    (fact,) = restraint_facts(crystal, fract, np.tile(np.asarray(crystal.u_aniso), (400, 1, 1, 1)))
    assert (fact["card"], fact["atoms"]) == ("DFIX", f"{crystal.labels[0]} {crystal.labels[2]}")
    assert fact["mean"] == pytest.approx(length, abs=1e-6)
    assert fact["sd"] == pytest.approx(sd, rel=1e-4)
    assert fact["misfit"] == pytest.approx(1.5, rel=1e-4)
    assert fact["spread"] == pytest.approx(sd / 0.02, rel=1e-4)
    assert decided_by(fact["spread"]) == word
    beyond = dataclasses.replace(crystal, restraints=(dataclasses.replace(restraint, at_least=True),))
    (fact,) = restraint_facts(beyond, fract, np.tile(np.asarray(crystal.u_aniso), (400, 1, 1, 1)))
    assert fact["misfit"] == 0
    assert fact["mean"] == pytest.approx(length, abs=1e-6)


def test_tensors_in_standard_deviations():
    crystal = mixed_site_crystal()
    restraint = SimilarTensors(pairs=((here(0), here(2)),), sds=(0.01,))
    crystal = dataclasses.replace(crystal, restraints=(restraint,))
    tensors = np.tile(np.asarray(crystal.u_aniso), (300, 1, 1, 1))
    tensors[:, 2] *= 1 + 0.1 * np.random.default_rng(2).normal(size=300)[:, None, None]
    (fact,) = restraint_facts(crystal, np.tile(np.asarray(crystal.fract), (300, 1, 1)), tensors)
    draws = np.array(
        [residuals(dataclasses.replace(crystal, u_aniso=tensor), restraint)[0] for tensor in tensors[:300]]
    )
    assert "target" not in fact
    assert fact["misfit"] == pytest.approx(np.sqrt(np.mean((draws.mean(axis=0) / 0.01) ** 2)), rel=1e-6)
    assert fact["spread"] == pytest.approx(np.sqrt(np.mean((draws.std(axis=0, ddof=1) / 0.01) ** 2)), rel=1e-6)


def _line(crystal, first, second):
    line = direct_matrix(crystal.cell) @ (np.asarray(crystal.fract)[second] - np.asarray(crystal.fract)[first])
    return line / np.linalg.norm(line)
