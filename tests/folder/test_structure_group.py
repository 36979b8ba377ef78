"""The refined structure in the posterior file."""

import dataclasses

import numpy as np
import xarray as xr

from pendel import read_crystal
from pendel.base import kind_of
from pendel.crystal.checks import OVERFULL
from pendel.datasets import example
from pendel.folder.structure_group import Refined, read_structure, structure_group


def test_a_structure_comes_back_whole(tmp_path):
    crystal = read_crystal(example().structure)
    rng = np.random.default_rng(0)
    sites = len(crystal.labels)
    crystal = dataclasses.replace(crystal, occupancy=np.array([1.0, 1 / 3]))
    refined = Refined(
        crystal=crystal,
        fract_su=rng.uniform(size=(sites, 3)),
        u_aniso_su=rng.uniform(size=(sites, 3, 3)),
        u_equivalent_su=rng.uniform(size=sites),
        occupancy_su=rng.uniform(size=sites),
    )
    xr.DataTree.from_dict({"structure_data": structure_group(refined)}).to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    with xr.open_datatree(tmp_path / "a.nc", engine="h5netcdf") as tree:
        found = read_structure(tree["structure_data"].to_dataset().load())
    for name in ("fract_su", "u_aniso_su", "u_equivalent_su", "occupancy_su"):
        np.testing.assert_array_equal(getattr(found, name), getattr(refined, name))
    for name in ("name", "cell", "spacegroup", "labels", "elements", "isotropic"):
        assert getattr(found.crystal, name) == getattr(crystal, name)
    for name in ("rotations", "translations", "occupancy", "atom_site", "atom_op"):
        np.testing.assert_array_equal(getattr(found.crystal, name), getattr(crystal, name))
    np.testing.assert_allclose(found.crystal.fract, crystal.fract, rtol=0, atol=1e-14)
    np.testing.assert_allclose(found.crystal.u_aniso, crystal.u_aniso, rtol=0, atol=1e-15)


def test_a_place_with_more_than_one_atom_is_named():
    crystal = read_crystal(example().structure)
    fract = np.asarray(crystal.fract)[[0, 0]]
    both = dataclasses.replace(crystal, labels=("Si1", "Al1"), elements=("Si", "Al"), fract=fract)
    both = dataclasses.replace(both, u_aniso=np.asarray(crystal.u_aniso)[[0, 0]], occupancy=np.array([0.7, 0.6]))
    nothing = np.zeros(2)
    refined = Refined(
        crystal=both,
        fract_su=np.zeros((2, 3)),
        u_aniso_su=np.zeros((2, 3, 3)),
        u_equivalent_su=nothing,
        occupancy_su=nothing,
    )
    notes = read_structure(structure_group(refined)).crystal.notes
    assert [kind_of(note) for note in notes if "more than one atom" in note] == [OVERFULL]
