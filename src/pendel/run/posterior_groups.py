"""The groups, dimensions and coordinates of a run's posterior file."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from pendel.base import Array, suffix
from pendel.experiment.frames import Experiment, central_vectors, relative_excitation
from pendel.folder.posterior_file import to_datatree
from pendel.infer.predict import Predicted
from pendel.run.inputs import Problem

STRUCTURE_DIMS = {
    "fract": ["site", "axis"],
    "U_aniso": ["site", "axis", "axis_other"],
    "displacement": ["position_parameter"],
    "log_strain": ["adp_parameter"],
}
FRAME_SITES = ("log_scale", "scale", "log_thickness", "log_taper", "log_odds", "thickness", "thickness_width")


def posterior_tree(
    problem: Problem,
    draws: Mapping[str, Array],
    predicted: Predicted,
    prior: Mapping[str, Array],
    rows: Array,
    summary: Mapping[str, Any],
    *,
    chains: int = 1,
    statistics: Mapping[str, Array] | None = None,
    further: Mapping[str, Mapping[str, Array]] | None = None,
) -> xr.DataTree:
    """All groups of the ArviZ schema.

    Intensities and likelihoods exist for the draws of every chain in `rows` only; log_likelihood leaves out
    held-out measurements, log_likelihood_heldout has them. sample_stats holds the `statistics` of all draws, and where
    there are none the joint density of the draws in `rows`. further: more groups, by name; draws lead except where the
    name ends in "data".
    """
    sizes = {f"frame{suffix(n)}": len(e.frame_id) for n, e in enumerate(problem.experiments)}
    dims = _dims(len(problem.experiments))
    arrays = {**draws, **prior}
    known = {
        name: axes
        for name, axes in dims.items()
        if name not in arrays or (np.ndim(arrays[name]) == 1 + len(axes) and _fits(arrays[name], axes, sizes))
    }
    calculated = {name: x for name, x in predicted.deterministic.items() if name.startswith("calculated")}
    groups = {
        "posterior": draws,
        "sample_stats": dict(statistics or {"lp": predicted.log_density}),
        "posterior_predictive": {**predicted.replicated, **calculated},
        "prior": prior,
        "observed_data": {f"intensity{suffix(n)}": e.intensity for n, e in enumerate(problem.experiments)},
        "constant_data": _constants(problem),
        **(further or {}),
    }
    positions: dict[str, dict[str, Array]] = {"posterior_predictive": {"draw": rows}}
    if not statistics:
        positions["sample_stats"] = {"draw": rows}
    for group, wanted in (("log_likelihood", True), ("log_likelihood_heldout", False)):
        if not wanted and not problem.used:
            continue
        chosen = {f"intensity{suffix(n)}": np.flatnonzero(flags == wanted) for n, flags in enumerate(_used(problem))}
        groups[group] = {name: predicted.log_likelihood[name][:, index] for name, index in chosen.items()}
        axes = {f"measurement{suffix(n)}": index for n, index in enumerate(chosen.values())}
        positions[group] = {"draw": rows, **axes}
    labels = {
        f"hkl{suffix(n)}": (f"measurement{suffix(n)}", np.array([" ".join(map(str, h)) for h in np.asarray(e.hkl)]))
        for n, e in enumerate(problem.experiments)
    }
    facts = {
        name: int(value) if isinstance(value, bool) else value  # NetCDF has no truth values
        for name, value in summary.items()
        if isinstance(value, str | int | float)
    }
    return to_datatree(
        groups,
        dims=known,
        coords=_coords(problem),
        labels=labels,
        rows=positions,
        attributes=facts,
        chains={group: chains for group in groups if group not in ("prior", *(further or {}))},
    )


def _dims(datasets: int) -> dict[str, list[str]]:
    dims = dict(STRUCTURE_DIMS)
    for number in range(datasets):
        end = suffix(number)
        dims |= {f"{site}{end}": [f"frame{end}"] for site in (*FRAME_SITES, "alpha")}
        dims[f"tilt{end}"] = [f"frame{end}", "tilt_axis"]
        measured = ("intensity", "calculated", "sigma", "weight", "used", "frame_of", "d_star", "relative_excitation")
        dims |= {f"{name}{end}": [f"measurement{end}"] for name in measured}
        dims |= {f"curve_{name}{end}": [f"point{end}"] for name in ("excitation", "measurement")}
        dims[f"curve{end}"] = ["curve_draw", f"point{end}"]
    return dims


def _fits(values: Array, axes: list[str], sizes: Mapping[str, int]) -> bool:
    """Whether the lengths agree with the known coordinates: a user's model may give a name another shape."""
    lengths = np.shape(values)[1:]
    return all(sizes.get(axis, length) == length for axis, length in zip(axes, lengths, strict=True))


def _coords(problem: Problem) -> dict[str, Any]:
    axes = np.array(["x", "y", "z"])
    coords: dict[str, Any] = {"site": np.array(problem.crystal.labels), "axis": axes, "axis_other": axes}
    coords["tilt_axis"] = axes[:2]
    for number, experiment in enumerate(problem.experiments):
        coords[f"frame{suffix(number)}"] = np.asarray(experiment.frame_id)
        coords[f"measurement{suffix(number)}"] = np.arange(len(experiment.intensity))
    return coords


def _used(problem: Problem) -> tuple[Array, ...]:
    return problem.used or tuple(np.ones(len(e.intensity), dtype=bool) for e in problem.experiments)


def _constants(problem: Problem) -> dict[str, Array]:
    found = {}
    for number, (experiment, used) in enumerate(zip(problem.experiments, _used(problem), strict=True)):
        found |= {f"{name}{suffix(number)}": value for name, value in _measured(experiment, used).items()}
    return found


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
