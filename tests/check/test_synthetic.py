"""Synthetic experiments: the truth in the file, the statistics of the noise, the embedded example."""

import dataclasses
from pathlib import Path

import gemmi
import numpy as np
import pytest

import pendel
from pendel.check.synthetic import measured, simulate_experiment, write_synthetic
from pendel.check.truth import demo_rows, free_coordinates, free_tensor_components
from pendel.crystal.cell import direct_matrix
from pendel.crystal.refined import Refined
from pendel.crystal.structure import Crystal
from pendel.datasets import example
from pendel.experiment.frames import is_observed

FEW = {"tilts": 3, "g_max": 1.0, "sg_max": 0.004}


@pytest.fixture(scope="module")
def truth() -> Crystal:
    return pendel.read_crystal(example().data)


@pytest.fixture(scope="module")
def geometry() -> pendel.Experiment:
    return pendel.thin(pendel.read_pets(example().data), slice(0, None, 10))


@pytest.fixture(scope="module")
def made(truth, geometry):
    imperfections = pendel.Imperfections(thickness=300.0, width=0.2, is_wedge=True, slope=0.01, misorientation_deg=0.1)
    return simulate_experiment(truth, geometry, imperfections, seed=1, **FEW)


def test_thickness_follows_the_angle(made, geometry):
    relative = 1 + 0.01 * (geometry.alpha - geometry.alpha.mean())
    np.testing.assert_allclose(made.thickness, 300 * relative, rtol=1e-9)
    np.testing.assert_allclose(made.thickness_width, 0.2 * relative * made.thickness, rtol=1e-9)


def test_seed_decides(made, truth, geometry):
    again = simulate_experiment(truth, geometry, pendel.Imperfections(thickness=300.0), seed=2, **FEW)
    assert np.any(again.experiment.intensity != made.experiment.intensity)
    np.testing.assert_array_equal(again.misorientation_deg, 0.0)


def test_mosaicity_blurs_the_rocking_curves(truth, geometry):
    def intensity(mosaicity):
        without_noise = pendel.Imperfections(thickness=300.0, counts=1e9, background=0.0, mosaicity=mosaicity)
        return simulate_experiment(truth, geometry, without_noise, seed=1, **FEW).experiment.intensity

    sharp, little, much = (intensity(mosaicity) for mosaicity in (0.0, 0.01, 0.2))
    moved = [np.sum(np.abs(blurred - sharp)) / np.sum(sharp) for blurred in (little, much)]
    assert moved[0] < 0.02
    assert moved[1] > 0.05


def test_noise_has_the_stated_size():
    exact = np.geomspace(1e-4, 1.0, 20_000)
    noisy = pendel.Imperfections(counts=1e6, background=100.0, model_error=0.1)
    intensity, sigma = measured(exact, noisy, np.random.default_rng(0))
    expected = 1e6 * exact
    residuals = (intensity - expected) / np.sqrt((0.1 * expected) ** 2 + expected + 100.0)
    assert abs(residuals.mean()) < 5 / np.sqrt(residuals.size)
    assert abs(residuals.std() - 1) < 5 / np.sqrt(2 * residuals.size)
    np.testing.assert_allclose(sigma**2, intensity + 100.0)


def test_file_holds_the_truth(made, truth, tmp_path: Path):
    path = tmp_path / "made.cif_pets"
    write_synthetic(path, made, truth)
    again = pendel.read_pets(path)
    np.testing.assert_allclose(again.intensity, made.experiment.intensity, rtol=1e-9)
    np.testing.assert_array_equal(again.hkl, made.experiment.hkl)
    structure = pendel.read_crystal(path)
    np.testing.assert_allclose(structure.fract, truth.fract, atol=1e-6)
    np.testing.assert_allclose(structure.u_aniso, truth.u_aniso, atol=1e-6)
    block = gemmi.cif.read(str(path)).sole_block()
    thickness = np.array(block.find_values("_pendel_thickness_mean_angstrom"), dtype=float)
    np.testing.assert_allclose(thickness, made.thickness, atol=0.01)
    tilts = np.array(block.find_values("_orientation_alpha_degrees"), dtype=float)
    np.testing.assert_allclose(tilts, made.misorientation_deg[:, 0], atol=1e-6)


@pytest.mark.parametrize(
    "wrong",
    [
        {"thickness": -1.0},
        {"model_error": -0.1},
        {"counts": 0.0},
        {"slope": 1.0},
        {"width": float("nan")},
        {"mosaicity": -0.1},
    ],
)
def test_impossible_crystals_are_refused(truth, geometry, wrong):
    with pytest.raises(pendel.InputError, match=r"\. Expected .*\. To fix: "):
        simulate_experiment(truth, geometry, dataclasses.replace(pendel.Imperfections(), **wrong), seed=0, **FEW)


def test_the_embedded_example_is_what_its_page_says(truth):
    files = example()
    scored = pendel.select(pendel.read_pets(files.data))
    assert len(scored.frame_id) >= 24
    assert len(scored.intensity) >= 400
    assert np.bincount(scored.frame_index[is_observed(scored)]).min() >= 3
    start = pendel.read_crystal(files.structure)
    moved = np.linalg.norm((start.fract - truth.fract) @ direct_matrix(truth.cell).T, axis=1)
    assert ((moved > 0.04) & (moved < 0.1)).all()
    np.testing.assert_allclose(
        truth.fract, pendel.read_crystal(files.data.with_name("quartz_truth.cif")).fract, atol=1e-6
    )


def test_only_free_numbers_are_compared(truth):
    # Si stands on a two-fold axis: one coordinate, four of six U_ij.
    assert free_coordinates(truth, 0) == [1]
    assert free_coordinates(truth, 1) == [0, 1, 2]
    assert len(free_tensor_components(truth, 0)) == 4
    assert len(free_tensor_components(truth, 1)) == 6
    sure = Refined(
        crystal=truth,
        fract_su=np.full((2, 3), 1e-3),
        u_aniso_su=np.full((2, 3, 3), 1e-3),
        u_equivalent_su=np.full(2, 1e-3),
        occupancy_su=np.zeros(2),
    )
    rows = demo_rows(example().structure, example().data, sure)
    assert len(rows) == 14
    assert all(refined == value for _, value, _, refined, _ in rows)
