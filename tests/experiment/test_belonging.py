"""Checks that structure and data belong together, on real data and on data made wrong."""

import dataclasses

import numpy as np
import pytest

from pendel.crystal.tabulated import lattice_rotations
from pendel.experiment.belonging import belonging_notes, laue_symmetry
from pendel.experiment.select import select
from pendel.files.cif import read_crystal
from pendel.files.pets import read_pets

FILES = {
    "quartz": ("quartz_dynamical.cif", "quartz.cif_pets"),
    "cspbbr3": ("cspbbr3.cif", "CsPbBr_P67-crot-050_dyn.cif_pets"),
}


@pytest.fixture(scope="module", params=FILES)
def pair(request, shared_data):
    structure, data = (shared_data / request.param / name for name in FILES[request.param])
    return read_crystal(structure), select(read_pets(data))


@pytest.fixture(scope="module")
def quartz(shared_data):
    structure, data = (shared_data / "quartz" / name for name in FILES["quartz"])
    return read_crystal(structure), select(read_pets(data))


def test_real_data_belong_to_their_structures(pair):
    assert belonging_notes(*pair) == []
    laue = laue_symmetry(*pair)
    assert laue.friedel < laue.equivalents < 0.6 * laue.unrelated


def test_intensities_of_another_crystal(quartz):
    crystal, experiment = quartz
    mixed = np.random.default_rng(0).permutation(experiment.intensity)
    notes = belonging_notes(crystal, dataclasses.replace(experiment, intensity=mixed))
    assert any("hardly more alike than others" in note for note in notes)


def test_centring(quartz):
    crystal, experiment = quartz
    centred = dataclasses.replace(
        crystal,
        rotations=np.concatenate([crystal.rotations, crystal.rotations]),
        translations=np.concatenate([crystal.translations, crystal.translations + 0.5]),
    )
    forbidden = int((np.asarray(experiment.hkl).sum(1) % 2 != 0).sum())
    (note,) = [note for note in belonging_notes(centred, experiment) if "centring" in note]
    assert f"{forbidden} of {len(experiment.hkl)} measurements" in note


def test_a_twin_by_the_lattice(quartz):
    crystal, experiment = quartz
    indices = {tuple(row): number for number, row in enumerate(experiment.hkl.tolist())}
    partner = np.array([indices.get((-row[0], -row[1], row[2]), -1) for row in experiment.hkl.tolist()])
    twinned = np.array(experiment.intensity)
    both = partner >= 0
    twinned[both] = (twinned[both] + twinned[partner[both]]) / 2
    (note,) = belonging_notes(crystal, dataclasses.replace(experiment, intensity=twinned))
    assert "a twin, or a higher symmetry" in note


def test_rotations_of_lattices():
    assert len(lattice_rotations((5.0, 5.0, 5.0, 90.0, 90.0, 90.0))) == 24
    assert len(lattice_rotations((4.9, 4.9, 5.4, 90.0, 90.0, 120.0))) == 12
    assert len(lattice_rotations((5.0, 6.0, 7.0, 80.0, 95.0, 110.0))) == 1
