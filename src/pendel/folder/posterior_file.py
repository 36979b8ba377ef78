"""The posterior of a run as one ArviZ DataTree, in a NetCDF file."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from arviz_base import dict_to_dataset

from pendel.base import Array


@dataclasses.dataclass(frozen=True)
class Posterior:
    """Draws and everything about them, in the schema of ArviZ 1.x."""

    data: xr.DataTree

    def save(self, path: Path) -> None:
        """Write NetCDF; the file appears complete or not at all. Raises OSError when it cannot be written."""
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            self.data.to_netcdf(temporary, engine="h5netcdf")
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    @staticmethod
    def load(path: Path) -> "Posterior":
        """Read a file written by `save` into memory."""
        with xr.open_datatree(path, engine="h5netcdf") as tree:
            return Posterior(tree.load())


def to_datatree(
    groups: Mapping[str, Mapping[str, Array]],
    *,
    dims: Mapping[str, list[str]],
    coords: Mapping[str, Any],
    labels: Mapping[str, tuple[str, Array]],
    rows: Mapping[str, Mapping[str, Array]] | None = None,
    attributes: Mapping[str, str | int | float] | None = None,
    chains: Mapping[str, int] | None = None,
) -> xr.DataTree:
    """A DataTree in the ArviZ 1.x schema.

    Args:
        groups: arrays of every group; draws lead, except in groups whose name ends in "data".
        dims: names of the axes of every variable behind the draws.
        coords: values of the axes. labels: further coordinates, name -> (axis, values).
        rows: for some groups, the positions they hold along some axes, e.g. {"log_likelihood": {"draw": ...}}.
        attributes: of the whole tree.
        chains: of the groups whose draws are several chains one after the other; one where not given.
    """
    datasets = {}
    for group, variables in groups.items():
        own = {axis: np.asarray(positions) for axis, positions in (rows or {}).get(group, {}).items()}
        local: dict[str, Any] = {axis: np.asarray(x)[own[axis]] if axis in own else x for axis, x in coords.items()}
        constant = group.endswith("data")
        count = (chains or {}).get(group, 1)
        arrays = {name: np.asarray(x) if constant else by_chain(x, count) for name, x in variables.items()}
        if "draw" in own:
            local["draw"] = own["draw"]
        dataset = dict_to_dataset(
            arrays,
            dims={name: list(dims[name]) for name in arrays if name in dims},
            coords=local,
            sample_dims=[] if constant else None,
        )
        extra = {
            name: (axis, np.asarray(values)[own[axis]] if axis in own else values)
            for name, (axis, values) in labels.items()
            if axis in dataset.dims
        }
        datasets[group] = dataset.assign_coords(extra)
    tree = xr.DataTree.from_dict(datasets)
    tree.attrs.update(attributes or {})
    return tree


def by_chain(draws: Array, chains: int) -> np.ndarray:
    """Draws of several chains, one after the other on the leading axis, as [chain draw ...]."""
    draws = np.asarray(draws)
    return draws.reshape(chains, len(draws) // chains, *draws.shape[1:])
