"""The slow implementation and pendel reproduce the published exit intensities of three orientations."""

import dataclasses
import json

import numpy as np
import pytest

from oracles import slow_bloch
from oracles.read_sites import read_coefficients, read_sites
from physics_cases import Structure, crystal_of, exit_intensities

pytestmark = pytest.mark.optimized
CASES = ("quartz_frame_50_elastic", "quartz_frame_20_elastic", "cspbbr3_frame_30_elastic")
# The constants behind the published numbers are CODATA 2018, SciPy's move with its version: 1e-9 relative in gamma.
TOLERANCE = 5e-9


@pytest.fixture(params=CASES)
def case(request, shared):
    """Published numbers of one orientation with the cell and frame they belong to."""
    numbers = json.loads((shared / "oracles" / "bloch_intensities.json").read_text())[request.param]
    folder = shared / "data" / request.param.split("_")[0]
    cell = slow_bloch.expand(numbers["cell"], *read_sites(folder / numbers["structure"]))
    frame = slow_bloch.Frame(
        orientation=np.array(numbers["rotation_lab_from_reciprocal"]),
        wavelength=numbers["wavelength_angstrom"],
        geometry="rotation",
        alpha=0.0,
        beta=0.0,
        semi_angle=0.0,
        steps=1,
    )
    return numbers, cell, frame


def test_structure_factors(case):
    numbers, cell, frame = case
    coefficients = read_coefficients()
    for text, (real, imaginary) in numbers["u_g_inv_angstrom2"].items():
        hkl = tuple(int(index) for index in text.split())
        value = slow_bloch.structure_factor(cell, hkl, coefficients, frame.wavelength)
        assert abs(value - complex(real, imaginary)) < TOLERANCE


def test_excitation_errors(case):
    numbers, _, frame = case
    (n,) = slow_bloch.beam_directions(frame)
    values = [
        slow_bloch.excitation_error(slow_bloch.resting_vector(frame, tuple(hkl)), n, frame.wavelength)
        for hkl in numbers["beams_hkl"]
    ]
    np.testing.assert_allclose(values, numbers["excitation_error_inv_angstrom"], atol=1e-13)


def test_exit_intensities(case):
    numbers, cell, frame = case
    beams = [tuple(hkl) for hkl in numbers["beams_hkl"]]
    (n,) = slow_bloch.beam_directions(frame)
    matrix = slow_bloch.structure_matrix(cell, frame, n, beams, read_coefficients())
    intensity = slow_bloch.exit_intensities(matrix, numbers["thickness_angstrom"])
    np.testing.assert_allclose(intensity, numbers["intensity"], atol=TOLERANCE)
    if "quartz" in numbers["structure"]:
        other_hand = slow_bloch.exit_intensities(matrix.T, numbers["thickness_angstrom"])
        assert np.abs(other_hand - numbers["intensity"]).max() > 1e5 * TOLERANCE


def test_pendel_reproduces_the_numbers(case, shared):
    numbers, _, frame = case
    folder = shared / "data" / numbers["structure"].split("_")[0].removesuffix(".cif")
    operators, sites = read_sites(folder / numbers["structure"])
    crystal = crystal_of(Structure("published", tuple(numbers["cell"]), tuple(operators), tuple(sites)))
    # The file writes z = 5/6 of Si as 0.833333, which pendel moves onto the axis: 1e-6 in intensity. Undone here.
    crystal = dataclasses.replace(
        crystal, fract=np.array([site[1] for site in sites]), u_aniso=np.array([site[2] for site in sites])
    )
    intensity = exit_intensities(
        crystal,
        numbers["beams_hkl"],
        frame.orientation,
        numbers["thickness_angstrom"],
        wavelength=frame.wavelength,
    )
    np.testing.assert_allclose(intensity, numbers["intensity"], atol=TOLERANCE)
