"""Mosaicity from simulated measurements of a crystal that has some, and of one that has none."""

import jax
import numpy as np
import pytest

import pendel
from pendel.check.synthetic import simulate_experiment
from pendel.model.load import with_options
from pendel.simulate.mosaic import EXPECTED
from pendel.simulate.plan import PlanSettings
from pendel.simulate.planning import plan_with
from physics_cases import TRICLINIC, crystal_of, experiment_of, orientation_of, zone_beams

THICKNESS = 400.0  # Å
SIZE = {"tilts": 15, "g_max": 0.9, "sg_max": 0.015}


@pytest.fixture(scope="module")
def geometry():
    """13 frames, each with the reflections near the sphere at its centre."""
    alpha, orientation = np.arange(-36.0, 37.0, 6.0), orientation_of(TRICLINIC)
    measured = []
    for angle in np.radians(alpha):
        turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
        measured.append(zone_beams(TRICLINIC, turn @ orientation, g_max=0.85, sg_max=0.012)[1:25])
    return experiment_of(TRICLINIC, orientation, alpha=alpha, beta=np.zeros(13), semi_angle=0.8, hkl=measured)


def fitted(geometry, mosaicity):
    """Laplace draws of the mosaicity [deg], for measurements simulated with another one."""
    crystal = crystal_of(TRICLINIC)
    made = pendel.Imperfections(
        thickness=THICKNESS, width=0.02, mosaicity=mosaicity, model_error=0.03, counts=1e5, background=10.0
    )
    experiment = simulate_experiment(crystal, geometry, made, seed=1, **SIZE).experiment
    settings = PlanSettings(**SIZE, thickness_max=3 * THICKNESS, mosaicity=EXPECTED)
    plan = plan_with(crystal, experiment, settings, None)
    model = with_options(pendel.load_model("robust"), absorption="off", mosaicity="on", thickness="single")
    datasets = pendel.data_sets([experiment], [plan])
    target = pendel.make_target(model, crystal, datasets, intensities=(experiment.intensity,))
    frames, thickness = plan.frames, 1.02 * THICKNESS
    illumination = pendel.Illumination(
        tilt=np.zeros((frames, 2)), thickness=np.full((frames, 1), thickness), weights=np.ones((frames, 1))
    )
    exact = np.asarray(jax.jit(pendel.simulate_intensities)(crystal, plan, illumination))
    level = float(np.log(np.sum(experiment.intensity * exact) / np.sum(exact**2)))
    start = {"log_scale_mean": np.array(level), "log_scale": np.full(frames, level), "tilt": np.zeros((frames, 2))}
    start |= {"log_thickness_mean": np.log(thickness), "log_thickness": np.full(frames, np.log(thickness))}
    fit = pendel.fit_map(target, start=start | {"mosaicity": np.array(0.05)})
    assert fit.converged
    return np.asarray(pendel.laplace_draws(fit, jax.random.key(1), 2000)["mosaicity"])


@pytest.mark.slow
def test_the_spread_comes_back(geometry):
    draws = fitted(geometry, 0.1)
    assert abs(np.mean(draws) - 0.1) < 2 * np.std(draws)
    assert np.std(draws) < 0.02


@pytest.mark.slow
def test_absence_is_found(geometry):
    """The half-normal prior has 60 % of its weight above 0.05 degrees; the posterior stays far below."""
    draws = fitted(geometry, 0.0)
    assert np.quantile(draws, 0.975) < 0.05
    assert np.quantile(draws, 0.025) < 0.01
