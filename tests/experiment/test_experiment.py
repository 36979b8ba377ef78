"""Which measurements count, and the geometry that decides it."""

import dataclasses

import jax
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from pendel.base import InputError
from pendel.crystal.cell import reciprocal_matrix
from pendel.datasets import example
from pendel.experiment.frames import Experiment, central_vectors, excitation_error, frame_rotations, is_observed, span
from pendel.experiment.select import drop_poor_frames, select, split, thin, unique
from pendel.files.pets import read_pets
from pendel.run.inputs import read_problem
from pendel.run.settings import Settings

CUBIC = (10.0, 10.0, 10.0, 90.0, 90.0, 90.0)
WAVELENGTH = 0.025


def experiment_of(rows, alpha, *, semi=1.0, geometry="rotation", cell=CUBIC):
    """A crystal of a given cell, its axes along the laboratory's at zero angles; rows: h, k, l, I, sigma, frame."""
    table = np.array(rows, dtype=float)
    frames = len(alpha)
    return Experiment(
        name="small",
        geometry=geometry,
        cell=cell,
        wavelength=WAVELENGTH,
        dstar_max=2.0,
        selection="all",
        notes=(),
        orientation=reciprocal_matrix(cell),
        frame_id=np.arange(frames) + 101,
        alpha=np.array(alpha, dtype=float),
        beta=np.zeros(frames),
        semi_angle=np.full(frames, semi),
        frame_index=table[:, 5].astype(int),
        hkl=table[:, :3].astype(int),
        intensity=table[:, 3],
        sigma=table[:, 4],
        weight=np.ones(len(table), dtype=int),
    )


def rows_of(experiment):
    return list(map(tuple, np.column_stack([experiment.hkl, experiment.intensity, experiment.frame_index])))


@pytest.fixture(scope="session")
def quartz(shared_data):
    return read_pets(shared_data / "quartz/quartz.cif_pets")


@pytest.fixture(scope="session")
def cspbbr3(shared_data):
    return read_pets(shared_data / "cspbbr3/CsPbBr_P67-crot-050_dyn.cif_pets")


def test_excitation_error_is_the_difference_of_wave_vector_lengths():
    g = np.random.default_rng(0).normal(size=(20, 3))
    beam = np.array([0, 0, -1 / WAVELENGTH])
    expected = (beam @ beam - ((beam + g) ** 2).sum(1)) / (2 / WAVELENGTH)
    np.testing.assert_allclose(excitation_error(g, WAVELENGTH), expected, atol=1e-13)
    np.testing.assert_allclose(excitation_error(jax.numpy.asarray(g), WAVELENGTH), expected, atol=1e-13)


def test_frames_turn_about_y_first_and_then_about_x():
    experiment = experiment_of([(1, 2, 3, 1, 1, 0)], [35.0])
    experiment = dataclasses.replace(experiment, beta=np.array([20.0]))
    expected = (
        Rotation.from_rotvec([35, 0, 0], degrees=True) * Rotation.from_rotvec([0, 20, 0], degrees=True)
    ).as_matrix()
    np.testing.assert_allclose(frame_rotations(experiment)[0], expected, atol=1e-15)
    np.testing.assert_allclose(central_vectors(experiment)[0], expected @ [0.1, 0.2, 0.3], atol=1e-15)


@pytest.mark.parametrize("geometry", ["rotation", "precession"])
def test_span_is_half_the_range_that_the_excitation_error_sweeps(geometry):
    experiment = experiment_of([(5, 3, 0, 1, 1, 0), (9, 1, 0, 1, 1, 0)], [0.0], geometry=geometry)
    steps = np.linspace(-1, 1, 201) if geometry == "rotation" else np.linspace(0, 360, 361)
    swept = []
    for step in steps:
        turn = Rotation.from_rotvec([step, 0, 0], degrees=True)
        if geometry == "precession":
            azimuth = Rotation.from_rotvec([0, 0, step], degrees=True)
            turn = azimuth * Rotation.from_rotvec([1.0, 0, 0], degrees=True) * azimuth.inv()
        swept.append(excitation_error(turn.apply(central_vectors(experiment)), WAVELENGTH))
    half_range = np.ptp(np.array(swept), axis=0) / 2
    np.testing.assert_allclose(span(experiment), half_range, rtol=1e-3)


def test_repeated_measurements_are_merged_in_the_frame_nearest_to_the_bragg_condition():
    rows = [
        (0, 5, 0, 80.0, 2.0, 0),
        (0, 5, 0, 80.0, 2.0, 1),  # S_g is nearest to zero here
        (0, 5, 0, 80.0, 2.0, 2),
        (0, 5, 0, 81.0, 2.0, 2),  # another measurement of the same hkl
        (0, 5, 0, 80.0, 2.5, 2),  # and another
        (0, -5, 0, 80.0, 2.0, 2),
    ]
    experiment = experiment_of(rows, [-0.7, 0.3, 0.9], semi=2.0)
    merged = unique(experiment)
    assert list(zip(merged.frame_id[merged.frame_index], merged.hkl[:, 1], merged.weight, strict=True)) == [
        (102, 5, 3),
        (103, 5, 1),
        (103, 5, 1),
        (103, -5, 1),
    ]
    assert merged.notes[-1].startswith("1 frame (101) left out")
    again = unique(merged)
    np.testing.assert_array_equal(again.weight, merged.weight)
    shuffled = np.random.default_rng(1).permutation(len(rows))
    other = unique(experiment_of([rows[row] for row in shuffled], [-0.7, 0.3, 0.9], semi=2.0))
    assert sorted(rows_of(other)) == sorted(rows_of(merged))


@pytest.mark.parametrize(("name", "rows", "measurements"), [("quartz", 6666, 1505), ("cspbbr3", 32669, 17889)])
def test_published_numbers_of_unique_measurements(request, name, rows, measurements):
    merged = unique(request.getfixturevalue(name))
    assert len(merged.hkl) == measurements
    assert merged.weight.sum() == rows


def test_published_numbers_under_both_rules(quartz):
    nearest = select(quartz)
    assert (len(nearest.hkl), len(nearest.frame_id)) == (1482, 99)
    counts = np.bincount(nearest.frame_index)
    assert (counts.min(), counts.max()) == (3, 34)
    observed = np.bincount(nearest.frame_index[is_observed(nearest)], minlength=99)
    assert (observed.min(), observed.max()) == (1, 13)
    klar = select(quartz, "klar", rsg=0.9, dsg=0.0015)
    assert (len(klar.hkl), int(is_observed(klar).sum())) == (2574, 1121)
    assert klar.selection == "klar(rsg=0.9, dsg=0.0015)"
    assert (klar.intensity < 0).any()
    assert (nearest.intensity < 0).any()


def test_the_rules_are_what_they_say(quartz):
    nearest, klar = select(quartz), select(quartz, "klar", rsg=0.7, dsg=0.002)
    for chosen in (nearest, klar):
        error = np.abs(excitation_error(central_vectors(chosen), chosen.wavelength))
        if chosen is nearest:
            assert (error < span(chosen)).all()
            keys = np.column_stack([chosen.hkl, chosen.intensity, chosen.sigma])
            assert len(np.unique(keys, axis=0)) == len(keys)
        else:
            assert (error / span(chosen) < 0.7).all()
            assert (span(chosen) - error > 0.002).all()


def test_frames_without_a_measurement_are_dropped_and_named():
    rows = [(0, 5, 0, 80.0, 2.0, 0), (0, 5, 0, 80.0, 2.0, 1), (0, -5, 0, 60.0, 2.0, 2), (0, 7, 0, 60.0, 2.0, 3)]
    chosen = select(experiment_of(rows, [-0.7, 0.3, -0.3, 40.0]))
    np.testing.assert_array_equal(chosen.frame_id, [102, 103])
    np.testing.assert_array_equal(chosen.frame_index, [0, 1])
    np.testing.assert_array_equal(chosen.alpha, [0.3, -0.3])
    assert chosen.weight.sum() == 3
    assert any("101" in note and "left out" in note for note in chosen.notes)
    assert any("104" in note and "no measurement" in note for note in chosen.notes)


def test_a_selection_without_measurements_is_refused():
    experiment = experiment_of([(0, 5, 0, 80.0, 2.0, 0)], [40.0])
    with pytest.raises(InputError, match=r"small: none of 1 rows.*Expected.*To fix: .*--geometry"):
        select(experiment)


def test_thin_keeps_every_third_frame_with_its_rows(quartz):
    thinned = thin(quartz, slice(None, None, 3))
    np.testing.assert_array_equal(thinned.frame_id, quartz.frame_id[::3])
    np.testing.assert_array_equal(thinned.alpha, quartz.alpha[::3])
    kept = np.isin(quartz.frame_id[quartz.frame_index], thinned.frame_id)
    np.testing.assert_array_equal(thinned.hkl, quartz.hkl[kept])
    np.testing.assert_array_equal(thinned.frame_id[thinned.frame_index], quartz.frame_id[quartz.frame_index][kept])
    with pytest.raises(InputError, match="--frames"):
        thin(quartz, slice(200, None))


def test_poor_frames_are_dropped_by_counting_observed_reflections():
    rows = [(0, k, 0, intensity, 2.0, frame) for frame, intensity in ((0, 80.0), (1, 5.9), (2, 6.1)) for k in (3, 5, 6)]
    experiment = experiment_of([*rows, (0, 7, 0, -80.0, 2.0, 1)], [0.0, 0.1, 0.2])
    kept = drop_poor_frames(experiment)
    np.testing.assert_array_equal(kept.frame_id, [101, 103])
    assert kept.notes[-1] == "1 frame (102) left out: fewer than 3 intensities above 3 sigma"
    assert drop_poor_frames(kept) is kept
    with pytest.raises(InputError, match="no frame has 4"):
        drop_poor_frames(experiment, 4)


def test_poor_frames_of_quartz(quartz):
    nearest = select(quartz)
    kept = drop_poor_frames(nearest)
    assert np.bincount(kept.frame_index[is_observed(kept)]).min() >= 3
    assert len(kept.frame_id) == 93
    assert set(nearest.frame_id) - set(kept.frame_id) == {12, 13, 45, 69, 74, 76}


def test_hold_out_is_by_unique_index(quartz):
    used = split(quartz, 0.1, seed=3)
    fitted = set(map(tuple, quartz.hkl[used]))
    left_out = set(map(tuple, quartz.hkl[~used]))
    assert not fitted & left_out
    assert len(left_out) == round(0.1 * len(fitted | left_out))
    np.testing.assert_array_equal(used, split(quartz, 0.1, seed=3))
    assert (used != split(quartz, 0.1, seed=4)).any()
    assert split(quartz, 0.0, seed=3).all()

    other = thin(quartz, slice(None, None, 2))  # another crystal, without some of the reflections
    both = np.concatenate([quartz.hkl, other.hkl])
    halves = [split(each, 0.1, seed=3, hkl=both) for each in (quartz, other)]
    left_out = set(map(tuple, quartz.hkl[~halves[0]]))
    assert set(map(tuple, other.hkl[~halves[1]])) <= left_out
    assert not left_out & set(map(tuple, other.hkl[halves[1]]))
    with pytest.raises(InputError, match="--holdout"):
        split(quartz, 1.0, seed=3)


def test_an_experiment_travels_through_jit(quartz):
    total = jax.jit(lambda experiment: experiment.intensity.sum() * experiment.wavelength)(quartz)
    assert float(total) == pytest.approx(quartz.intensity.sum() * quartz.wavelength)


def test_files_of_one_name_are_told_apart(tmp_path):
    files = example()
    paths = [tmp_path / folder / "dyn.cif_pets" for folder in ("a", "b")]
    for path in paths:
        path.parent.mkdir()
        path.write_text(files.data.read_text(encoding="utf-8"), encoding="utf-8")
    found = read_problem(files.structure, paths, Settings(frames="0:2"))
    assert [measured.name for measured in found.rows] == ["dyn.cif_pets (1)", "dyn.cif_pets (2)"]
    assert [measured.name for measured in found.experiments] == ["dyn.cif_pets (1)", "dyn.cif_pets (2)"]
