"""The difference potential of a finished run: a CCP4 map, its highest peaks, and sections for the report."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpyro import handlers
from rich.console import RenderableType
from rich.table import Table

from pendel.base import Array, InputError
from pendel.crystal.structure import Crystal
from pendel.files.ccp4 import write_ccp4_map
from pendel.files.cif_facts import write_difference
from pendel.folder.run_folder import DIFFERENCE_DATA, DIFFERENCE_MAP, RECORD, RunFolder
from pendel.folder.stage_keys import file_hash
from pendel.maps.difference_map import Map, Peak, Section, difference_map, map_holes, map_peaks, map_sections
from pendel.maps.potential_fit import FittedData
from pendel.model.dataset import DataSet, data_sets
from pendel.model.load import load_model, with_options
from pendel.model.simulation import SIMULATION
from pendel.run.inputs import Problem, read_problem
from pendel.run.plans import final_plans
from pendel.run.settings import settings_from
from pendel.simulate import Illumination, Plan, simulate_intensities

PEAKS = 10
LABEL = "difference potential [V], observed - calculated, dynamical"
MODEL_ERROR = 0.1  # of an intensity, from all that a simulation leaves out
DECIMALS = {"fract": 5, "potential": 4, "height": 2, "distance": 3, "offset": 4, "values": 4, "atoms": 4}
TEXTS = ("nearest", "labels")
HELD_OUT = 1e6  # times its scatter: a measurement that does not count


def map_run(folder: Path, *, resolution: float | None = None) -> tuple[Map, tuple[Peak, ...]]:
    """Solve for the difference potential at the maximum of a run, and write map, peaks and sections into its folder.

    refined.cif, where it is there, gets the highest, lowest and root mean square value.

    Args:
        resolution: largest |g| of the map [Å⁻¹]; that of the data when not given.

    Raises:
        InputError: no finished maximum, inputs that have changed, or a model without dynamical diffraction.
    """
    run = RunFolder(folder)
    problem, model, plans, values = _fitted(run)
    datasets = data_sets(problem.experiments, plans)
    crystal, illuminations, sites = simulator_calls(model, problem.crystal, datasets, values)
    data = _fitted_data(problem, datasets, illuminations, sites)
    difference = difference_map(crystal, data, resolution=resolution)
    peaks = map_peaks(difference, crystal, PEAKS)
    write_ccp4_map(
        folder / DIFFERENCE_MAP,
        difference.values,
        cell=crystal.cell,
        rotations=crystal.rotations,
        translations=crystal.translations,
        label=LABEL,
    )
    run.write(DIFFERENCE_DATA, (json.dumps(_content(difference, crystal, peaks)) + "\n").encode())
    refined, values = folder / "refined.cif", np.asarray(difference.values)
    if refined.is_file():
        write_difference(refined, highest=float(values.max()), lowest=float(values.min()), rms=difference.rms)
    return difference, peaks


def peak_table(difference: Map, peaks: Sequence[Peak]) -> RenderableType:
    """The highest peaks of a difference potential."""
    misfit = f"mean squared residual {difference.misfit_before:.2f} before, {difference.misfit_after:.2f} after"
    table = Table(
        title=f"difference potential to {difference.resolution:.2f} Å⁻¹, rms {difference.rms:.3f} V; {misfit}"
    )
    for column in ("x", "y", "z", "potential / V", "height / rms", "closest site", "distance / Å"):
        table.add_column(column, justify="right")
    for peak in peaks:
        place = (f"{x:.4f}" for x in peak.fract)
        numbers = f"{peak.potential:.2f}", f"{peak.height:.1f}", peak.nearest, f"{peak.distance:.2f}"
        table.add_row(*place, *numbers)
    return table


def _fitted(run: RunFolder) -> tuple[Problem, Any, tuple[Plan, ...], dict[str, Array]]:
    """Problem, model, plans and the values of all sites at the maximum of a run."""
    if not (run.path / RECORD).is_file() or "map" not in run.completed():
        raise InputError(
            found=f"the folder {run.path} has no finished maximum",
            expected="a run whose stage map is complete",
            do="run `pendel refine` with --out to this folder first",
        )
    record = run.record()
    inputs = {role: Path(entry["path"]) for role, entry in record["inputs"].items()}
    changed = [role for role, path in inputs.items() if file_hash(path) != record["inputs"][role]["sha256"]]
    if changed:
        raise InputError(
            found=f"the run had another file as {', '.join(changed)}",
            expected="the inputs that run.json names, unchanged",
            do="put the inputs back, or refine again",
        )
    settings = settings_from(record["settings"])
    problem = read_problem(inputs["structure"], [path for role, path in inputs.items() if "data" in role], settings)
    start = run.load_stage("start")["values"]
    model = with_options(load_model(settings.model), **settings.model_options())
    plans = final_plans(problem, settings, model, start)
    return problem, model, plans, run.load_stage("map")["values"]


def simulator_calls(
    model, crystal: Crystal, datasets: tuple[DataSet, ...], values: Mapping[str, Array]
) -> tuple[Crystal, Sequence[Illumination], Mapping[str, Array]]:
    """The structure and the illuminations that a model hands to the simulator at these values, and what it derives.

    Returns:
        the structure, the illumination of every data set, and the deterministic sites of the model.

    Raises InputError unless the model calls `simulate_intensities` once for each data set, by `pendel.model.simulate`.
    """
    known: Any = dict(values)
    program = handlers.substitute(handlers.seed(model, 0), data=known)
    sites = handlers.trace(program).get_trace(crystal, datasets)
    simulations = [site for site in sites.values() if site["type"] == SIMULATION]
    calls = [site["args"] for site in simulations if site["fn"] is simulate_intensities]
    if len(calls) != len(datasets):
        raise InputError(
            found=f"the model calls simulate_intensities {len(calls)} times for {len(datasets)} data sets",
            expected="one call of `pendel.model.simulate` for each data set",
            do="refine with a dynamical model",
        )
    derived = {name: np.asarray(site["value"]) for name, site in sites.items() if site["type"] == "deterministic"}
    return calls[0][0], [illumination for _, _, illumination in calls], derived


def _fitted_data(
    problem: Problem,
    datasets: tuple[DataSet, ...],
    illuminations: Sequence[Illumination],
    sites: Mapping[str, Array],
) -> tuple[FittedData, ...]:
    """Intensities without the background of the model, and errors of a structure that lacks nothing.

    The model's own errors have grown to cover what this structure lacks.
    """
    found = []
    for data, illumination in zip(datasets, illuminations, strict=True):
        background = sites.get(f"calculated_background{data.suffix}", 0.0)
        diffracted = np.asarray(data.experiment.intensity) - background
        data = dataclasses.replace(data, experiment=dataclasses.replace(data.experiment, intensity=diffracted))
        calculated = sites[f"calculated{data.suffix}"] - background
        square = 0.5 * (np.maximum(diffracted, 0.0) ** 2 + calculated**2)
        scatter = np.sqrt(np.asarray(data.experiment.sigma) ** 2 + MODEL_ERROR**2 * square)
        if problem.used is not None:
            scatter = np.where(problem.used[data.number], scatter, HELD_OUT * scatter)
        found.append(FittedData(data=data, illumination=illumination, scatter=scatter))
    return tuple(found)


def _content(difference: Map, crystal: Crystal, peaks: tuple[Peak, ...]) -> dict[str, Any]:
    """What the report needs, as plain values."""
    sections = map_sections(difference, crystal, peaks[0]) if peaks else ()
    return {
        **{name: getattr(difference, name) for name in ("resolution", "rms", "misfit_before", "misfit_after")},
        "peaks": [_plain(peak) for peak in peaks],
        "holes": [_plain(peak) for peak in map_holes(difference, crystal, PEAKS)],
        "sections": [_plain(section) for section in sections],
    }


def _plain(record: Peak | Section) -> dict[str, Any]:
    """Rounded numbers and texts of a record."""
    found = vars(record)
    numbers = {name: np.round(found[name], digits).tolist() for name, digits in DECIMALS.items() if name in found}
    return numbers | {name: found[name] for name in TEXTS if name in found}
