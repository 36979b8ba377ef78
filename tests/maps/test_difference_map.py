"""Difference potential: conventions, the fit behind it, peaks and sections, the file; missing atoms are found."""

import dataclasses
from pathlib import Path

import gemmi
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pendel
from pendel.check.synthetic import measured, simulate_experiment
from pendel.constants import relativistic_gamma
from pendel.crystal.cell import direct_matrix, u_from_cartesian
from pendel.crystal.form_factors import form_factors
from pendel.crystal.sites import Sites
from pendel.crystal.structure import Crystal, make_crystal
from pendel.crystal.symmetry import images, lattice_distance
from pendel.datasets import example
from pendel.experiment.frames import excitation_error
from pendel.files.ccp4 import write_ccp4_map
from pendel.maps.difference_map import (
    IN_PLANE,
    Map,
    Peak,
    difference_map,
    fourier_sum,
    map_holes,
    map_peaks,
    map_sections,
)
from pendel.maps.potential_fit import (
    VOLT_ANGSTROM2,
    FittedData,
    _project,
    fit_potential,
    prior_amplitude,
    symmetric_sphere,
)
from pendel.model import DataSet, Illumination
from pendel.simulate.beams import reflections_within
from pendel.simulate.scattering import structure_factors
from pendel.simulate.thickness import lognormal
from physics_cases import TRICLINIC, crystal_of, experiment_of, orientation_of

WAVELENGTH = pendel.wavelength(200e3)
PLACES = ((0.25, 0.15, 0.35), (0.60, 0.20, 0.10), (0.35, 0.75, 0.55))  # empty ones in quartz


@pytest.fixture(scope="module")
def quartz() -> Crystal:
    return pendel.read_crystal(example().data)


def with_sites(crystal: Crystal, keep: list[int], *extra: tuple[str, tuple[float, float, float]]) -> Crystal:
    """The crystal with some of its sites only, and further ones (element, xyz) with U_iso 0.015 Å²."""
    sphere = np.asarray(u_from_cartesian(0.015 * np.eye(3), crystal.cell))
    return make_crystal(
        name=crystal.name,
        cell=crystal.cell,
        spacegroup=crystal.spacegroup,
        rotations=crystal.rotations,
        translations=crystal.translations,
        sites=Sites(
            labels=(*(crystal.labels[k] for k in keep), *(f"X{n}" for n, _ in enumerate(extra))),
            elements=(*(crystal.elements[k] for k in keep), *(element for element, _ in extra)),
            fract=np.array([*np.asarray(crystal.fract)[keep], *(place for _, place in extra)]),
            u_aniso=np.array([*np.asarray(crystal.u_aniso)[keep], *(sphere for _ in extra)]),
            occupancy=np.ones(len(keep) + len(extra)),
            isotropic=(*(crystal.isotropic[k] for k in keep), *(True for _ in extra)),
        ),
    )


def potential(crystal: Crystal, hkl: np.ndarray) -> np.ndarray:
    """V_g [V] of a crystal."""
    g = np.linalg.norm(hkl @ pendel.crystal.structure.reciprocal_matrix(crystal.cell).T, axis=1)
    u_g = structure_factors(crystal, hkl, form_factors(crystal.elements, g), WAVELENGTH)
    return np.asarray(u_g) * VOLT_ANGSTROM2 / relativistic_gamma(WAVELENGTH)


def map_of(crystal: Crystal, hkl: np.ndarray, coefficient: np.ndarray, resolution: float) -> Map:
    values = fourier_sum(crystal, hkl, coefficient, resolution)
    rms = float(np.sqrt(np.mean(values**2)))
    return Map(values=values, cell=crystal.cell, resolution=resolution, rms=rms, misfit_before=1.0, misfit_after=1.0)


def distance_to(crystal: Crystal, place, peak: Peak) -> float:
    """From a peak to the nearest equivalent of a place [Å]."""
    copies = images(np.array(place), crystal.rotations, crystal.translations)
    return float(np.min(lattice_distance(copies - np.array(peak.fract), direct_matrix(crystal.cell))))


def fitted(crystal: Crystal, experiment, *, relative_error=0.1, thickness, weights, tilt, **options) -> FittedData:
    """Data and a model of them; errors as a fit would find them, counting and relative."""
    plan = pendel.make_plan(crystal, experiment, thickness_max=1.2 * float(thickness.max()), **options)
    illumination = Illumination(tilt=tilt, thickness=thickness, weights=weights)
    calculated = simulated(crystal, plan, illumination)
    intensity = np.maximum(np.asarray(experiment.intensity), 0.0)
    frame = np.asarray(experiment.frame_index)
    scale = np.bincount(frame, calculated * intensity) / np.bincount(frame, calculated**2)
    square = 0.5 * (intensity**2 + (scale[frame] * calculated) ** 2)
    scatter = np.sqrt(np.asarray(experiment.sigma) ** 2 + relative_error**2 * square)
    return FittedData(data=DataSet(experiment, plan), illumination=illumination, scatter=scatter)


def simulated(crystal, plan, illumination: Illumination) -> np.ndarray:
    return np.asarray(jax.jit(pendel.simulate_intensities)(crystal, plan, illumination))


def left_out(truth: Crystal, model: Crystal, geometry, *, seed: int, thickness: float, sampling: dict, finer: dict):
    """Noisy data of `truth` and `model` with wrong frames: no misorientation, 5 % too thick."""
    imperfections = pendel.Imperfections(
        thickness=thickness, width=0.18, misorientation_deg=0.08, model_error=0.05, counts=2e4, background=10.0
    )
    made = simulate_experiment(truth, geometry, imperfections, seed=seed, **finer)
    frames = len(geometry.frame_id)
    nodes, weights = lognormal(np.full(frames, np.log(1.05 * thickness)), np.full(frames, np.log(0.18)))
    return fitted(
        model,
        made.experiment,
        tilt=np.zeros((frames, 2)),
        thickness=np.asarray(nodes),
        weights=np.asarray(weights),
        **sampling,
    )


def strongest(crystal: Crystal, data: FittedData, place) -> tuple[float, float]:
    """Distance [Å] of the strongest peak to the place, and height of the next independent one over its height."""
    first, second = map_peaks(difference_map(crystal, [data]), crystal, 2)
    return distance_to(crystal, place, first), second.potential / first.potential


@pytest.fixture(scope="module")
def oxygen_left_out(quartz) -> FittedData:
    """Thin quartz, measured with misorientations of 0.05 degrees, and a model of Si alone that knows of none."""
    experiment = pendel.select(pendel.read_pets(example().data))
    model = with_sites(quartz, [0])
    frames = len(experiment.frame_id)
    plan = pendel.make_plan(model, experiment, tilts=10, g_max=1.5, sg_max=0.005, thickness_max=160.0)
    g = np.linalg.norm(np.asarray(plan.support_hkl) @ pendel.crystal.structure.reciprocal_matrix(quartz.cell).T, axis=1)
    exact_plan = dataclasses.replace(plan, support_form_factor=form_factors(quartz.elements, g))
    nodes, weights = np.full((frames, 1), 150.0), np.ones((frames, 1))
    illumination = Illumination(tilt=np.zeros((frames, 2)), thickness=nodes, weights=weights)
    imperfections = pendel.Imperfections(model_error=0.05, counts=2e4, background=10.0)
    generator = np.random.default_rng(1)
    misorientation = 0.05 * generator.standard_normal((frames, 2))
    exact = simulated(quartz, exact_plan, dataclasses.replace(illumination, tilt=misorientation))
    intensity, sigma = measured(exact, imperfections, generator)
    scatter = np.sqrt(sigma**2 + (0.1 * intensity) ** 2 + (0.02 * np.sqrt(np.mean(intensity**2))) ** 2)
    experiment = dataclasses.replace(experiment, intensity=intensity, sigma=sigma)
    return FittedData(data=DataSet(experiment, plan), illumination=illumination, scatter=scatter)


def test_left_out_oxygen_is_found(quartz, oxygen_left_out):
    distance, ratio = strongest(with_sites(quartz, [0]), oxygen_left_out, quartz.fract[1])
    assert distance < 0.1
    assert ratio < 0.5


def test_nothing_is_added_where_nothing_is_missing(quartz, oxygen_left_out):
    """Intensities of the model itself, every frame on a scale of its own."""
    model, item = with_sites(quartz, [0]), oxygen_left_out
    exact = simulated(model, item.data.plan, item.illumination)
    intensity = np.linspace(3.0, 500.0, item.data.plan.frames)[item.data.experiment.frame_index] * exact
    data = dataclasses.replace(item.data, experiment=dataclasses.replace(item.data.experiment, intensity=intensity))
    scatter = 0.02 * intensity + 1e-3 * intensity.max()
    change = fit_potential(model, [dataclasses.replace(item, data=data, scatter=scatter)], resolution=1.45)
    assert change.misfit_before < 1e-8  # float32
    assert np.max(np.abs(change.coefficient)) < 1e-3 * np.max(np.abs(potential(model, change.hkl)))


def test_unusable_fits_are_refused(quartz, oxygen_left_out):
    model, item = with_sites(quartz, [0]), oxygen_left_out
    with pytest.raises(pendel.InputError, match="positive standard deviations"):
        fit_potential(model, [dataclasses.replace(item, scatter=0 * item.scatter)], resolution=1.45)
    too_thick = dataclasses.replace(item.illumination, thickness=1e3 * item.illumination.thickness)
    with pytest.raises(pendel.InputError, match="thickness_max"):
        fit_potential(model, [dataclasses.replace(item, illumination=too_thick)], resolution=1.45)
    with pytest.raises(pendel.InputError, match="no reflection below"):
        fit_potential(model, [item], resolution=0.1)
    with pytest.raises(pendel.InputError, match="at least one measured crystal"):
        fit_potential(model, [], resolution=1.45)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("place", [None, *PLACES], ids=str)
def test_left_out_atoms_are_found(quartz, place, seed):
    # None: O of quartz is left out; else a C atom more was simulated. Finer beams and tilts than the fit's.
    truth = quartz if place is None else with_sites(quartz, [0, 1], ("C", place))
    model = with_sites(quartz, [0]) if place is None else quartz
    geometry = pendel.select(pendel.read_pets(example().data))
    finer = {"tilts": 36, "g_max": 1.8, "sg_max": 0.01}
    sampling = {"tilts": 20, "g_max": 1.6, "sg_max": 0.006}
    data = left_out(truth, model, geometry, seed=seed, thickness=400.0, sampling=sampling, finer=finer)
    distance, ratio = strongest(model, data, quartz.fract[1] if place is None else place)
    assert distance < 0.1
    assert ratio < 0.5


@pytest.mark.slow
def test_two_data_sets_are_as_good_as_one(quartz, oxygen_left_out):
    model, item = with_sites(quartz, [0]), oxygen_left_out
    frame = np.asarray(item.data.experiment.frame_index)
    halves = []
    for half in (slice(0, 15), slice(15, 30)):
        experiment = pendel.thin(item.data.experiment, half)
        plan = pendel.make_plan(model, experiment, tilts=10, g_max=1.5, sg_max=0.005, thickness_max=160.0)
        rows = (frame >= half.start) & (frame < half.stop)
        part = jax.tree.map(lambda x, half=half: x[half], item.illumination)
        data = DataSet(experiment, plan)
        halves.append(FittedData(data=data, illumination=part, scatter=item.scatter[rows]))
    one, two = (fit_potential(model, data, resolution=1.45, rounds=2) for data in ([item], halves))
    np.testing.assert_allclose(two.misfit_after, one.misfit_after, rtol=1e-2)  # float32
    np.testing.assert_allclose(two.coefficient, one.coefficient, atol=1e-2 * np.max(np.abs(one.coefficient)))


def test_potential_of_an_atom_in_volts():
    # 47.878 V Å² = h^2 / (2 pi m e), as tables of mean inner potentials use it.
    np.testing.assert_allclose(VOLT_ANGSTROM2 / np.pi, 47.878, rtol=1e-5)


def test_change_is_added_to_the_potential_of_the_crystal():
    """The difference of two crystals' V_g, added to one, gives the intensities of the other; P -1 off the origin."""
    shifted = dataclasses.replace(
        TRICLINIC,
        operators=("x,y,z", "-x+1/2,-y,-z"),
        sites=tuple((element, (x + 0.25, y, z), u, o) for element, (x, y, z), u, o in TRICLINIC.sites),
    )
    both = crystal_of(shifted)
    one = with_sites(both, [0])
    orientation = orientation_of(shifted)
    hkl = reflections_within(one, 0.5)
    error = np.abs(excitation_error(hkl @ orientation.T, WAVELENGTH))
    nearest = hkl[np.argsort(error)[:8]].tolist()
    experiment = experiment_of(shifted, orientation, alpha=[0.0], beta=[0.0], semi_angle=0.5, hkl=[nearest])
    plan, full = (
        pendel.make_plan(crystal, experiment, g_max=0.5, sg_max=0.2, tilts=3, thickness_max=400.0, dtype="float64")
        for crystal in (one, both)
    )
    frame = Illumination(tilt=np.zeros((1, 2)), thickness=np.array([[300.0]]), weights=np.ones((1, 1)))
    change = (potential(both, plan.support_hkl) - potential(one, plan.support_hkl)) / VOLT_ANGSTROM2
    change = change * relativistic_gamma(experiment.wavelength)
    expected = simulated(both, full, frame)
    for mode in ("forward", "reverse"):
        intensities = jax.jit(pendel.simulate_intensities)
        found = intensities(one, plan.with_mode(mode), frame, u_change=jnp.asarray(change))
        np.testing.assert_allclose(found, expected, atol=1e-9)
        without = intensities(one, plan.with_mode(mode), frame, u_change=jnp.zeros_like(change))
        assert np.max(np.abs(without - expected)) > 0.3 * np.max(expected)


def test_fitted_change_has_the_symmetry_of_the_crystal(quartz):
    """V_{h R} = V_h exp(-2 pi i h.t) and V_{-h} = V_h*; so have those of atoms, which fixes the signs."""
    hkl, image, phase = symmetric_sphere(quartz, 0.8)
    v_g = potential(quartz, hkl)
    for operation in range(len(quartz.rotations)):
        np.testing.assert_array_equal(hkl[image[operation]], hkl @ quartz.rotations[operation])
        np.testing.assert_allclose(v_g[image[operation]] * phase[operation], v_g, atol=1e-12)
    np.testing.assert_array_equal(hkl[image[-1]], -hkl)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, len(hkl))))
    symmetric = np.asarray(_project(x, image, phase, np.ones(len(hkl))))
    np.testing.assert_allclose(symmetric[image[-1]], np.conj(symmetric), atol=1e-12)
    for operation in range(len(quartz.rotations)):
        np.testing.assert_allclose(symmetric[image[operation]] * phase[operation], symmetric, atol=1e-12)
    again = np.asarray(_project(jnp.stack([symmetric.real, symmetric.imag]), image, phase, np.ones(len(hkl))))
    np.testing.assert_allclose(again, symmetric, atol=1e-12)
    absent = (hkl[:, 0] == 0) & (hkl[:, 1] == 0) & (hkl[:, 2] % 3 != 0)  # 3_2 axis along c
    assert absent.sum() >= 4
    np.testing.assert_allclose(symmetric[absent], 0.0, atol=1e-12)


def test_prior_has_the_variance_of_a_missing_carbon_atom(quartz):
    """Means of |V_g|^2 over random positions and over random x agree, and neither is that of another atom."""
    hkl, image, phase = symmetric_sphere(quartz, 0.6)
    generator = np.random.default_rng(1)
    places = generator.random((400, 3))
    rotations, translations = np.asarray(quartz.rotations), np.asarray(quartz.translations)
    atoms = np.einsum("oij,pj->opi", rotations, places) + translations[:, None]
    waves = np.exp(2j * np.pi * np.einsum("gi,opi->pog", hkl, atoms)).sum(axis=1)
    g = np.linalg.norm(hkl @ pendel.crystal.structure.reciprocal_matrix(quartz.cell).T, axis=1)
    single = form_factors(("C",), g)[0] * np.exp(-2 * np.pi**2 * 0.015 * g**2) * 47.878
    from_atoms = np.mean(np.abs(waves * single / pendel.crystal.structure.volume(quartz.cell)) ** 2)
    amplitude = prior_amplitude(quartz, hkl)
    draws = [
        _project(jnp.asarray(generator.standard_normal((2, len(hkl)))), image, phase, amplitude) for _ in range(99)
    ]
    np.testing.assert_allclose(np.mean(np.abs(np.array(draws)) ** 2), from_atoms, rtol=0.1)


def test_fourier_sum_is_the_sum(quartz):
    hkl, *_ = symmetric_sphere(quartz, 0.7)
    v_g = potential(quartz, hkl)
    values = fourier_sum(quartz, hkl, v_g, 0.7)
    generator = np.random.default_rng(2)
    for point in generator.integers(0, values.shape, (5, 3)):
        r = point / np.array(values.shape)
        np.testing.assert_allclose(values[tuple(point)], np.sum(v_g * np.exp(-2j * np.pi * hkl @ r)).real, rtol=1e-9)
    # On a grid that the group maps onto itself equivalents have equal values, and atoms are maxima.
    size = np.array(values.shape)
    points = generator.integers(0, size, (50, 3))
    for rotation, translation in zip(quartz.rotations, quartz.translations, strict=True):
        moved = points / size @ rotation.T + translation
        index = np.round(moved * size).astype(int)
        np.testing.assert_allclose(moved * size, index, atol=1e-9)
        np.testing.assert_allclose(values[tuple((index % size).T)], values[tuple(points.T)], atol=1e-8)


def test_peaks_stand_where_atoms_are(quartz):
    """The map of one left-out atom: its place to 0.01 Å and its height; the structure's nearest atom by brute force."""
    place = PLACES[1]
    hkl, *_ = symmetric_sphere(quartz, 1.2)
    both = with_sites(quartz, [0, 1], ("C", place))
    difference = map_of(quartz, hkl, potential(both, hkl) - potential(quartz, hkl), 1.2)
    peaks = map_peaks(difference, quartz, 5)
    assert distance_to(quartz, place, peaks[0]) < 0.01
    at_atom = np.sum(
        (potential(both, hkl) - potential(quartz, hkl)) * np.exp(-2j * np.pi * hkl @ np.array(peaks[0].fract))
    ).real
    np.testing.assert_allclose(peaks[0].potential, at_atom, rtol=2e-3)
    np.testing.assert_allclose(peaks[0].height, peaks[0].potential / np.std(difference.values), rtol=1e-6)
    assert [peak.potential for peak in peaks] == sorted((peak.potential for peak in peaks), reverse=True)
    assert peaks[1].potential < 0.2 * peaks[0].potential  # the six copies are one peak
    found = []
    for site, label in enumerate(quartz.labels):
        for rotation, translation in zip(quartz.rotations, quartz.translations, strict=True):
            atom = rotation @ quartz.fract[site] + translation
            for shift in np.ndindex(5, 5, 5):
                vector = atom + np.array(shift) - 2 - np.array(peaks[0].fract)
                found.append((float(np.linalg.norm(direct_matrix(quartz.cell) @ vector)), label))
    np.testing.assert_allclose(peaks[0].distance, min(found)[0], atol=1e-9)
    assert peaks[0].nearest == min(found)[1]
    turned = dataclasses.replace(difference, values=-difference.values)
    hole = map_holes(turned, quartz, 1)[0]
    assert hole.fract == peaks[0].fract
    assert (hole.potential, hole.height) == (-peaks[0].potential, -peaks[0].height)


def test_sections_hold_the_peak_and_its_neighbours(quartz):
    hkl, *_ = symmetric_sphere(quartz, 0.9)
    both = with_sites(quartz, [0, 1], ("C", PLACES[0]))
    v_g = potential(both, hkl) - potential(quartz, hkl)
    difference = map_of(quartz, hkl, v_g, 0.9)
    peak = map_peaks(difference, quartz, 1)[0]
    sections = map_sections(difference, quartz, peak, half_width=2.0, points=41)
    inverse = np.linalg.inv(direct_matrix(quartz.cell))
    for section in sections:
        np.testing.assert_allclose([section.offset[0], section.offset[20], section.offset[-1]], [-2, 0, 2], atol=1e-12)
        np.testing.assert_allclose(section.first @ section.second, 0.0, atol=1e-12)
        np.testing.assert_allclose(np.linalg.norm([section.first, section.second], axis=1), 1.0)
        for v, u in ((20, 20), (3, 30), (35, 8)):
            place = section.offset[u] * section.first + section.offset[v] * section.second
            r = np.array(peak.fract) + inverse @ place
            exact = np.sum(v_g * np.exp(-2j * np.pi * hkl @ r)).real
            np.testing.assert_allclose(section.values[v, u], exact, atol=2e-3 * peak.potential)  # cubic splines
        for label, (u, v) in zip(section.labels, section.atoms, strict=True):
            r = np.array(peak.fract) + inverse @ (u * section.first + v * section.second)
            site = quartz.labels.index(label)
            copies = images(quartz.fract[site], quartz.rotations, quartz.translations)
            assert np.min(lattice_distance(copies - r, direct_matrix(quartz.cell))) < IN_PLANE
    # The first plane holds the closest atom exactly, on its first axis.
    atoms = sections[0].atoms
    closest = atoms[np.argmin(np.linalg.norm(atoms, axis=1))]
    np.testing.assert_allclose(closest, [peak.distance, 0.0], atol=1e-9)


def test_map_file_is_read_by_gemmi(quartz, tmp_path: Path):
    hkl, *_ = symmetric_sphere(quartz, 0.7)
    values = fourier_sum(quartz, hkl, potential(quartz, hkl), 0.7)
    path = tmp_path / "difference.ccp4"
    symmetry = {"rotations": quartz.rotations, "translations": quartz.translations}
    write_ccp4_map(path, values, cell=quartz.cell, label="difference potential [V]", **symmetry)
    read = gemmi.read_ccp4_map(str(path))
    np.testing.assert_allclose(read.grid.array, values, rtol=1e-6, atol=1e-5)
    np.testing.assert_allclose(read.grid.unit_cell.parameters, quartz.cell, rtol=1e-6)
    assert read.grid.spacegroup.xhm() == "P 32 2 1"
    assert read.header_str(57, 80).strip() == "difference potential [V]"
    np.testing.assert_allclose(read.header_float(55), np.std(values), rtol=1e-5)
    # The origin and the axes of file and crystal agree: the highest point of the map is an atom of the heaviest site.
    highest = np.unravel_index(np.argmax(read.grid.array), values.shape)
    copies = images(quartz.fract[0], quartz.rotations, quartz.translations)
    r = np.array(highest) / values.shape
    assert np.min(lattice_distance(copies - r, direct_matrix(quartz.cell))) < 0.2
    with pytest.raises(pendel.InputError, match="cannot be written"):
        write_ccp4_map(tmp_path / "no" / "map.ccp4", values, cell=quartz.cell, label="", **symmetry)
    assert list(tmp_path.iterdir()) == [path]
