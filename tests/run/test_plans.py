"""Plans of a fit: what the data file and the model say decides on the tilts for a mosaicity."""

import dataclasses

import numpy as np
import pytest

import pendel
from pendel.datasets import example
from pendel.model.load import with_options
from pendel.run.inputs import read_problem
from pendel.run.plans import final_plans


@pytest.fixture(scope="module")
def problem():
    settings = pendel.Settings(frames="::15")
    return read_problem(example().structure, [example().data], settings)


@pytest.mark.parametrize(
    ("model", "option", "stated", "expected"),
    [
        ("robust", None, None, 0.0),
        ("robust", None, 0.0, 0.0),
        ("robust", None, 0.05, 0.1),
        ("robust", None, 0.2, 0.2),
        ("robust", "auto", 0.2, 0.2),
        ("robust", "off", 0.2, 0.0),
        ("robust", "on", None, 0.1),
        ("robust", "on", 0.2, 0.2),
        ("dynamical", None, 0.2, 0.0),  # it has no mosaicity
    ],
)
def test_tilts_for_the_mosaicity_that_the_file_states(problem, model, option, stated, expected):
    (experiment,) = problem.experiments
    problem = dataclasses.replace(problem, experiments=(dataclasses.replace(experiment, mosaicity=stated),))
    frames = len(experiment.frame_id)
    values = {"log_thickness": np.full(frames, np.log(300.0)), "tilt": np.zeros((frames, 2))}
    settings = pendel.Settings(mosaicity=option, tilts=5, g_max=0.8, sg_max=0.003)
    given = with_options(pendel.load_model(model), mosaicity=option)
    (plan,) = final_plans(problem, settings, given, values)
    assert plan.settings.mosaicity == expected
    assert plan.is_mosaic == (expected > 0)
