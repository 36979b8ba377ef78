"""A plan made again for other measurements keeps everything that the first one was made with."""

import dataclasses

import numpy as np
import pytest

import pendel
from pendel.crystal.form_factors import form_factors
from pendel.crystal.structure import reciprocal_matrix
from pendel.datasets import example
from pendel.run.evaluate import klar_agreement
from pendel.run.inputs import read_problem
from pendel.run.rocking import spread_over_tilts, strongest
from pendel.run.settings import Settings
from pendel.simulate.plan import PlanSettings
from pendel.simulate.planning import plan_with
from pendel.simulate.replan import replan

OPTIONS = {"g_max": 1.2, "sg_max": 0.006, "tilts": 3, "thickness_max": 700.0, "form_factor_table": "peng"}


@pytest.fixture(scope="module")
def crystal():
    return pendel.read_crystal(example().structure)


@pytest.fixture(scope="module")
def experiment():
    return pendel.thin(pendel.select(pendel.read_pets(example().data)), slice(0, None, 10))


@pytest.fixture(scope="module")
def plan(crystal, experiment):
    made = plan_with(crystal, experiment, PlanSettings(**OPTIONS, dtype="float64"), None)
    return dataclasses.replace(made, matrix_numbers=5_000).with_mode("forward")


def test_settings_memory_and_mode_are_kept(crystal, experiment, plan):
    tilt = np.full((plan.frames, 2), 0.05)
    again = replan(crystal, experiment, plan, tilt=tilt)
    assert again.settings == plan.settings
    assert (again.matrix_numbers, again.mode, again.dtype) == (5_000, "forward", "float64")
    g = np.linalg.norm(np.asarray(again.support_hkl) @ reciprocal_matrix(crystal.cell).T, axis=1)
    np.testing.assert_allclose(again.support_form_factor, form_factors(crystal.elements, g, "peng"))


def test_a_plan_is_as_when_it_was_made(crystal, experiment, plan):
    same = replan(crystal, experiment, plan, tilt=None)
    np.testing.assert_array_equal(same.support_hkl, plan.support_hkl)
    assert same.max_steps == plan.max_steps
    assert [group.hkl.shape for group in same.groups] == [group.hkl.shape for group in plan.groups]


def test_single_tilts_of_rocking_curves_are_handled_in_as_small_chunks(experiment, plan):
    spread, points, _ = spread_over_tilts(pendel.DataSet(experiment, plan), strongest(experiment))
    assert len(points)
    assert spread.plan.matrix_numbers == 5_000
    assert spread.plan.settings == plan.settings


def test_published_r_factors_see_the_form_factors_of_the_plan(crystal):
    """With another table the same point has other R factors under the rule klar."""
    settings = Settings(frames="::10")
    problem = read_problem(example().structure, [example().data], settings)
    model = pendel.load_model("dynamical")
    found = []
    for table in ("lobato", "peng"):
        (measured,) = problem.experiments
        plan = plan_with(problem.crystal, measured, PlanSettings(**OPTIONS | {"form_factor_table": table}), None)
        frames = plan.frames
        point = {
            **{"displacement": np.zeros(len(problem.crystal.position_basis))},
            **{"log_strain": np.zeros(len(problem.crystal.adp_basis)), "error": np.array(0.05)},
            **{"log_scale_mean": np.array(9.0), "scale_spread": np.array(0.1), "tilt_spread": np.array([0.1, 0.1])},
            **{"log_scale": np.full(frames, 9.0), "tilt": np.zeros((frames, 2))},
            **{f"{name}_spread": np.array(0.1) for name in ("thickness", "taper")},
            **{f"{name}_jump": np.array(0.1) for name in ("thickness", "taper")},
            **{"log_thickness_mean": np.log(300.0), "log_thickness": np.full(frames, np.log(300.0))},
            **{"log_taper_mean": np.log(0.4), "log_taper": np.full(frames, np.log(0.4))},
        }
        agreement, _ = klar_agreement(model, problem, [plan], settings, point, {})
        found.append(agreement.r_obs_mean)
    assert abs(found[0] - found[1]) > 1e-5
