"""The real and published synthetic data sets; most are slow (`make test-slow`). Results stand in docs/validation.md."""

import json
from pathlib import Path

import numpy as np
import pytest

import pendel
from pendel.crystal.structure import direct_matrix

PUBLISHED = {"g_max": 2.0, "sg_max": 0.01, "tilts": 42, "infer": "map"}
CSPBBR3 = {"g_max": 2.3, "sg_max": 0.02, "tilts": 60}


def run(structure: Path, data: Path, out: Path, **settings) -> tuple[dict, pendel.Outcome]:
    outcome = pendel.refine(structure, [data], out, pendel.Settings(**PUBLISHED | settings))
    return json.loads((out / "summary.json").read_text()), outcome


def test_one_cspbbr3_frame_in_both_precisions(shared_data: Path):
    """Hundreds of beams: float32 and float64 agree to 1e-4 of the strongest beam."""
    folder = shared_data / "cspbbr3"
    crystal = pendel.read_crystal(folder / "cspbbr3.cif")
    experiment = pendel.select(pendel.read_pets(folder / "CsPbBr_P67-crot-050_dyn.cif_pets"), "klar", rsg=0.66)
    experiment = pendel.thin(experiment, slice(29, 30))
    nodes, weights = np.array([[300.0, 440.0, 580.0]]), np.full((1, 3), 1 / 3)
    illumination = pendel.Illumination(tilt=np.zeros((1, 2)), thickness=nodes, weights=weights)

    def intensities(dtype):
        plan = pendel.make_plan(crystal, experiment, **CSPBBR3 | {"tilts": 3, "dtype": dtype})
        return np.asarray(pendel.simulate_intensities(crystal, plan, illumination))

    single, double = intensities("float32"), intensities("float64")
    assert np.max(np.abs(single - double)) < 1e-4 * double.max()
    assert np.mean(double > 0) > 0.9  # three tilts miss a few reflections altogether


@pytest.mark.slow
@pytest.mark.parametrize("start", ["01", "02"])
def test_synthetic_quartz_is_recovered(shared_data: Path, tmp_path: Path, start: str):
    folder = shared_data / "quartz_synthetic"
    settings = {"cell": "ub", "frames": "::3"}
    data = folder / "quartz_synthetic_ub.cif_pets"
    _, outcome = run(folder / f"quartz_{start}_displacement.cif", data, tmp_path / "run", **settings)
    truth = np.array([[1.0, 0.4718, 5 / 6], [0.8558, 0.5857, 0.6177]])
    found = np.asarray(outcome.refined.crystal.fract)
    distance = np.linalg.norm((found - truth) @ direct_matrix(outcome.refined.crystal.cell).T, axis=1)
    assert np.all(distance < 0.004)


@pytest.mark.slow
def test_both_starts_of_real_quartz_reach_one_minimum(shared_data: Path, tmp_path: Path):
    folder = shared_data / "quartz"
    settings = {"select": "klar", "frames": "::3"}
    found = {}
    for start in ("dynamical", "kinematical"):
        summary, outcome = run(folder / f"quartz_{start}.cif", folder / "quartz.cif_pets", tmp_path / start, **settings)
        assert summary["r_obs_mean_klar"] < 0.055
        found[start] = np.asarray(outcome.refined.crystal.fract) % 1.0
    difference = (found["dynamical"] - found["kinematical"] + 0.5) % 1.0 - 0.5
    assert np.max(np.abs(difference @ direct_matrix(outcome.refined.crystal.cell).T)) < 0.001
