"""Every number of a posterior with its prior: what parameters.csv and the report's table hold."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float

from pendel.base import Array, suffix
from pendel.crystal.cell import TENSOR
from pendel.files.parameters_csv import Parameter
from pendel.folder.structure_group import AXES, GROUP

BAND = (2.5, 97.5)  # percent of the draws
FIXED = 1e-9  # a number that varies less than this is fixed
STRUCTURE = ("fract", "U_aniso", "occupancy")  # what users look for first
UNITS = {
    "U_aniso": "Å²",
    **dict.fromkeys(("displacement", "thickness", "thickness_width", "thickness_by_volume", "step_height"), "Å"),
    **dict.fromkeys(("hydrogen_distance", "hydrogen_stretch", "hydrogen_cloud"), "Å"),
    **dict.fromkeys(("tilt", "tilt_spread", "mosaicity"), "deg"),
    **dict.fromkeys(("hydrogen_torsion", "hydrogen_rotation"), "rad"),
    **dict.fromkeys(("log_thickness", "log_thickness_mean"), "log Å"),
    "scale": "unit of the intensities",
    **dict.fromkeys(("log_scale", "log_scale_mean"), "log of the unit of the intensities"),
    "background": "sigma",
}


def parameter_facts(tree: xr.DataTree, weights: Float[Array, " draws"] | None = None) -> list[Parameter]:
    """All numbers of the group `posterior` of a run: those of the structure, then those of no frame, then of frames.

    Occupancies that no draw changes are those of the refined structure.

    Args:
        tree: the contents of posterior.nc.
        weights: of the draws, chains one after the other, when they stand for the posterior of another prior, of which
            nothing is known then; equal if not given.
    """
    posterior: Any = tree["posterior"]
    prior: Any = tree["prior"] if "prior" in tree.children and weights is None else {}
    found = [one for name in posterior.data_vars for one in _site(tree, str(name), posterior, prior, weights)]
    if "occupancy" not in posterior:
        found += list(_fixed_occupancies(tree))
    order = {name: rank for rank, name in enumerate(STRUCTURE)}
    return sorted(found, key=lambda one: (not one.is_structure, one.is_of_frame, order.get(one.site, 0)))


def _site(tree: Any, name: str, posterior: Any, prior: Any, weights: Array | None) -> Iterator[Parameter]:
    values = posterior[name]
    draws = values.values.reshape(values.shape[0] * values.shape[1], -1)
    if not draws.size:
        return
    mean, sd, low, high = _moments(draws, weights)
    known = name in prior and prior[name].shape[2:] == values.shape[2:]
    before = prior[name].values.reshape(-1, draws.shape[1]) if known else None
    stem, data_set = _owner(tree, name)
    one_of_many = any(str(axis).startswith(("frame", "reflection")) for axis in values.dims[2:])
    for number, index in enumerate(np.ndindex(values.shape[2:])):
        if name == "U_aniso" and index[1:] not in TENSOR:
            continue
        refined = bool(sd[number] > FIXED)
        value = float(mean[number]) if refined or abs(mean[number]) > FIXED else 0.0  # no rounding error beside zero
        before_sd = None if before is None else float(before[:, number].std(ddof=1))
        yield Parameter(
            site=name,
            label=_label(values, index),
            data_set=data_set,
            unit=UNITS.get(stem, ""),
            is_refined=refined,
            is_structure=name in STRUCTURE,
            is_of_frame=one_of_many,
            mean=value,
            sd=float(sd[number]) if refined else 0.0,
            low=float(low[number]) if refined else value,
            high=float(high[number]) if refined else value,
            prior_mean=None if before is None else float(before[:, number].mean()),
            prior_sd=before_sd if before_sd is None or before_sd > FIXED else 0.0,
        )


def _moments(draws: Float[np.ndarray, "draws numbers"], weights: Array | None) -> tuple[np.ndarray, ...]:
    """Mean, standard deviation and quantiles of every number."""
    if weights is None:
        return draws.mean(axis=0), draws.std(axis=0, ddof=1), *np.percentile(draws, BAND, axis=0)
    share = np.asarray(weights) / np.sum(weights)
    mean = share @ draws
    sd = np.sqrt(share @ (draws - mean) ** 2 / (1 - np.sum(share**2)))  # n - 1 for equal weights
    order = np.argsort(draws, axis=0)
    reached = np.cumsum(share[order], axis=0)
    rows = [np.argmax(reached >= min(level / 100, 1 - 1e-12), axis=0) for level in BAND]
    ordered = np.take_along_axis(draws, order, axis=0)
    return mean, sd, *(ordered[row, np.arange(draws.shape[1])] for row in rows)


def _owner(tree: Any, name: str) -> tuple[str, str]:
    """The name without the ending of its data set, and the name of the data set for sites that belong to one."""
    endings = [suffix(number) for number in range(len(tree["observed_data"].data_vars))]
    for ending in endings[1:]:
        if name.endswith(ending):
            return name.removesuffix(ending), str(tree.attrs.get(f"dataset{ending}", ""))
    belongs = any(f"{name}{ending}" in tree["posterior"] for ending in endings[1:])
    return name, str(tree.attrs.get("dataset", "")) if belongs else ""


def _label(values: xr.DataArray, index: tuple[int, ...]) -> str:
    """Which number of a site: names of atoms, frames and axes, or a count from 1 where an axis has no names."""
    words: list[str] = []
    for axis, place in zip(map(str, values.dims[2:]), index, strict=True):
        known = axis in values.coords and axis.startswith(("site", "axis", "frame", "tilt_axis", "reflection"))
        name = str(values.coords[axis].values[place]) if known else str(place + 1)
        words.append(f"frame {name}" if axis.startswith("frame") else name)
    if values.name == "U_aniso":
        words[1:] = ["U" + "".join(str(AXES.index(word) + 1) if word in AXES else word for word in words[1:])]
    return " ".join(words)


def _fixed_occupancies(tree: Any) -> Iterator[Parameter]:
    group = tree[GROUP] if GROUP in tree.children else {}
    for label, value in zip(group["site"].values, group["occupancy"].values, strict=True) if group else ():
        same: Any = {name: float(value) for name in ("mean", "low", "high")}
        kind: Any = {"is_refined": False, "is_structure": True, "is_of_frame": False}
        yield Parameter(site="occupancy", label=str(label), data_set="", unit="", sd=0.0, **kind, **same)
