"""Coarse to fine: which problems begin on few frames, and what they hand over."""

import dataclasses

import numpy as np
import pytest

from pendel.datasets import example
from pendel.run import coarse
from pendel.run.coarse import coarse_problem, fitted_crystal, handed_over
from pendel.run.inputs import read_problem
from pendel.run.plans import first_plans
from pendel.run.settings import Settings
from pendel.run.tuning import Coarsening
from pendel.simulate.cost import operations

SETTINGS = Settings(g_max=0.9, sg_max=0.004, tilts=5, holdout=0.2)


def few():
    files = example()
    problem = read_problem(files.structure, [files.data], SETTINGS)
    return problem, coarse_problem(problem, first_plans(problem, SETTINGS), SETTINGS, Coarsening())


def test_a_graphics_card_takes_sixty_times_as_much(monkeypatch):
    problem, _ = few()
    plans = first_plans(problem, SETTINGS)
    work = sum(operations(plan) for plan in plans)
    rule = Coarsening(worth=work / 2)
    assert coarse.is_costly(plans, rule)
    assert not coarse.is_costly(plans, Coarsening(worth=2 * work))
    monkeypatch.setattr(coarse.jax, "default_backend", lambda: "gpu")
    assert not coarse.is_costly(plans, rule)
    assert coarse.is_costly(plans, Coarsening(worth=work / 100))


def test_coarse_frames_keep_their_measurements_and_hold_out():
    problem, found = few()
    (whole,), (part,) = problem.experiments, found.problem.experiments
    assert found.every == len(whole.frame_id) // Coarsening().frames
    np.testing.assert_array_equal(part.frame_id, whole.frame_id[:: found.every])
    rows = np.flatnonzero(np.isin(np.asarray(whole.frame_id)[whole.frame_index], part.frame_id))
    np.testing.assert_array_equal(part.intensity, whole.intensity[rows])
    assert problem.used is not None
    assert found.problem.used is not None
    np.testing.assert_array_equal(found.problem.used[0], problem.used[0][rows])
    assert found.settings == dataclasses.replace(SETTINGS, sg_max=0.002)
    assert found.beams == {"sg_max": 0.002}


@pytest.mark.parametrize(("error", "coarse_error"), [(0.01, 0.03), (0.08, 0.1)])
def test_beams_by_influence_are_fewer_in_the_coarse_problem(error, coarse_error):
    problem, _ = few()
    settings = dataclasses.replace(SETTINGS, sg_max=None, beam_error=error)
    found = coarse_problem(problem, (), settings, Coarsening())
    assert found.settings == dataclasses.replace(settings, beam_error=coarse_error)
    assert found.beams == {"beam_error": coarse_error}


def test_globals_and_fitted_frames_are_handed_over_and_others_scanned():
    fitted = {"displacement": np.ones(3), "log_scale_mean": np.array(2.0), "tilt": np.full((2, 2), 7.0)}
    scanned = {"log_scale_mean": np.array(0.0), "tilt": np.zeros((5, 2))}
    values = handed_over(fitted, scanned, 3)
    np.testing.assert_array_equal(values["tilt"][:, 0], [7, 0, 0, 7, 0])
    assert values["log_scale_mean"] == 2.0
    np.testing.assert_array_equal(values["displacement"], np.ones(3))
    np.testing.assert_array_equal(scanned["tilt"], np.zeros((5, 2)))


def test_the_structure_comes_from_what_the_model_names():
    files = example()
    crystal = read_problem(files.structure, [files.data], SETTINGS).crystal
    moved = fitted_crystal(crystal, {"fract": crystal.fract + 0.01, "error": np.array(1.0), "contraction": 1.1})
    np.testing.assert_allclose(moved.fract, crystal.fract + 0.01)
    np.testing.assert_array_equal(moved.u_aniso, crystal.u_aniso)
    assert (crystal.contraction, moved.contraction) == (None, 1.1)
