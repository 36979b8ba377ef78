"""The posterior of a run as one ArviZ DataTree, in a NetCDF file: its groups, dimensions and coordinates."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from arviz_base import dict_to_dataset
from jaxtyping import Bool, Int

from pendel.base import Array, suffix
from pendel.crystal.refined import Refined
from pendel.experiment.equivalents import unique_reflections
from pendel.experiment.frames import Experiment, central_vectors, relative_excitation
from pendel.files.whole_file import whole_file
from pendel.folder.structure_group import AXES, GROUP, structure_group

STRUCTURE_DIMS = {
    "fract": ["site", "axis"],
    "U_aniso": ["site", "axis", "axis_other"],
    "displacement": ["position_parameter"],
    "log_strain": ["adp_parameter"],
    "reflection_error": ["reflection"],
}
FRAME_SITES = (
    "log_scale",
    "scale",
    "log_thickness",
    "log_taper",
    "log_odds",
    "thickness",
    "thickness_width",
    "thickness_by_volume",
    "thin_share",
)
MEASURED = (
    *("intensity", "calculated", "calculated_at_point", "z", "sigma", "weight", "used", "frame_of", "d_star"),
    "relative_excitation",
)
HELD_OUT = "log_likelihood_heldout"


@dataclasses.dataclass(frozen=True)
class Posterior:
    """Draws and everything about them, in the schema of ArviZ 1.x."""

    data: xr.DataTree

    def save(self, path: Path) -> None:
        """Write NetCDF; the file appears complete or not at all. Raises InputError when it cannot be written."""
        with whole_file(path) as temporary:
            self.data.to_netcdf(temporary, engine="h5netcdf")

    @staticmethod
    def load(path: Path) -> "Posterior":
        """Read a file written by `save` into memory."""
        with xr.open_datatree(path, engine="h5netcdf") as tree:
            return Posterior(tree.load())


def posterior_tree(
    refined: Refined,
    experiments: Sequence[Experiment],
    groups: Mapping[str, Mapping[str, Array]],
    *,
    used: Sequence[Bool[Array, "reflections"]] | None,
    rows: Int[Array, " some"],
    at_point: Sequence[Mapping[str, Array]],
    summary: Mapping[str, Any],
    chains: int = 1,
) -> xr.DataTree:
    """All groups of the ArviZ schema, and the refined structure.

    Args:
        refined: the structure.
        experiments: the measurements of every data set.
        groups: arrays by name; draws lead, except in groups whose name ends in "data". The draws of `posterior`, and
            those of `sample_stats` where it has as many, are those of all chains, one after the other; intensities and
            `log_likelihood` exist for the draws of every chain in `rows` only, `prior` and further groups have others.
        used: False for measurements that were held out, whose likelihood goes into a group of its own.
        rows: see groups.
        at_point: for every data set what is known of each measurement at the point that the run ends on.
        summary: its numbers and texts become attributes.
    """
    flags = used or tuple(np.ones(len(e.intensity), dtype=bool) for e in experiments)
    draws = len(next(iter(groups["posterior"].values())))
    positions: dict[str, dict[str, Array]] = {"posterior_predictive": {"draw": rows}}
    if len(next(iter(groups["sample_stats"].values()))) < draws:
        positions["sample_stats"] = {"draw": rows}
    content = {name: dict(group) for name, group in groups.items()}
    likelihood = content.pop("log_likelihood")
    for group, wanted in (("log_likelihood", True), (HELD_OUT, False)):
        if wanted or used:
            chosen = [np.flatnonzero(np.asarray(flag) == wanted) for flag in flags]
            content[group] = {
                _end("intensity", n): likelihood[_end("intensity", n)][:, i] for n, i in enumerate(chosen)
            }
            positions[group] = {"draw": rows, **{_end("measurement", n): index for n, index in enumerate(chosen)}}
    content["observed_data"] = {_end("intensity", n): e.intensity for n, e in enumerate(experiments)}
    content["constant_data"] = {
        _end(name, n): value
        for n, (experiment, flag) in enumerate(zip(experiments, flags, strict=True))
        for name, value in {**_measured(experiment, flag), **at_point[n]}.items()
    }
    hkl = [np.array([" ".join(map(str, row)) for row in np.asarray(e.hkl)]) for e in experiments]
    facts = {
        name: int(value) if isinstance(value, bool) else value  # NetCDF has no truth values
        for name, value in summary.items()
        if isinstance(value, str | int | float)
    }
    of_chains = {"posterior", "log_prior", "sample_stats", "posterior_predictive", "log_likelihood", HELD_OUT}
    tree = to_datatree(
        content,
        dims=_known_dims(experiments, {**groups["prior"], **groups["posterior"]}),
        coords=_coords(refined, experiments),
        labels={_end("hkl", n): (_end("measurement", n), names) for n, names in enumerate(hkl)},
        rows=positions,
        attributes={**facts, **{_end("dataset", n): e.name for n, e in enumerate(experiments)}},
        chains=dict.fromkeys(of_chains, chains),
    )
    tree[GROUP] = xr.DataTree(structure_group(refined))
    return tree


def _end(name: str, number: int) -> str:
    """The name for a data set."""
    return f"{name}{suffix(number)}"


def _known_dims(experiments: Sequence[Experiment], arrays: Mapping[str, Array]) -> dict[str, list[str]]:
    """Names of the axes, where they fit: a user's model may give a name another shape."""
    sizes = {_end("frame", n): len(e.frame_id) for n, e in enumerate(experiments)}
    sizes["reflection"] = experiments[0].unique

    def fits(name: str, axes: list[str]) -> bool:
        lengths = np.shape(arrays[name])[1:]
        known = zip(axes, lengths, strict=False)
        return len(lengths) == len(axes) and all(sizes.get(axis, length) == length for axis, length in known)

    return {n: axes for n, axes in _dims(len(experiments)).items() if n not in arrays or fits(n, axes)}


def _dims(datasets: int) -> dict[str, list[str]]:
    dims = dict(STRUCTURE_DIMS)
    for number in range(datasets):
        end = suffix(number)
        dims |= {f"{site}{end}": [f"frame{end}"] for site in (*FRAME_SITES, "alpha")}
        dims[f"tilt{end}"] = [f"frame{end}", "tilt_axis"]
        dims |= {f"{name}{end}": [f"measurement{end}"] for name in MEASURED}
        dims |= {f"curve_{name}{end}": [f"point{end}"] for name in ("excitation", "measurement")}
        dims[f"curve{end}"] = ["curve_draw", f"point{end}"]
    return dims


def _coords(refined: Refined, experiments: Sequence[Experiment]) -> dict[str, Any]:
    axes = np.array(AXES)
    coords: dict[str, Any] = {"site": np.array(refined.crystal.labels), "axis": axes, "axis_other": axes}
    coords["tilt_axis"] = axes[:2]
    if experiments[0].reflection is not None:
        coords["reflection"] = unique_reflections(experiments)
    for number, experiment in enumerate(experiments):
        coords[_end("frame", number)] = np.asarray(experiment.frame_id)
        coords[_end("measurement", number)] = np.arange(len(experiment.intensity))
    return coords


def _measured(experiment: Experiment, used: Array) -> dict[str, Array]:
    return {
        "sigma": experiment.sigma,
        "weight": experiment.weight,
        "used": used,
        "frame_of": np.asarray(experiment.frame_id)[experiment.frame_index],
        "alpha": experiment.alpha,
        "d_star": np.linalg.norm(central_vectors(experiment), axis=1),  # Å⁻¹
        "relative_excitation": relative_excitation(experiment),
    }


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
            dims={
                name: list(dims[name])
                for name, x in arrays.items()
                if name in dims and x.ndim == len(dims[name]) + (0 if constant else 2)
            },
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
