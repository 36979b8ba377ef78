"""Measured and calculated intensities as loops of a CIF block."""

from collections.abc import Sequence
from dataclasses import dataclass

import gemmi
import numpy as np

from pendel.base import Array
from pendel.experiment.frames import Experiment, is_observed
from pendel.experiment.select import unique
from pendel.files.cif_facts import distinct_wavelengths
from pendel.files.numbers import format_su, set_item

_DETAILS = """\
One row for each measurement: an hkl stands once for every frame it was measured
in. Nothing is merged, neither symmetry equivalents nor Friedel mates; calculated
intensities contain thickness, orientation and scale of the frame, and the
background of weak reflections where the model has one: they are the mean of the
measurement that the model expects. The same rows, with their frames and with the
intensities below zero that _refln_intensity_meas cannot hold, are in the list of
measured reflections (_diffrn_refln_) under the same id."""
_NO_LIMIT = 300  # decimals: intensities have any unit, so that no uncertainty is too small to be one


@dataclass(frozen=True, kw_only=True)
class Calculated:
    """What a refinement calculated for every measurement; one array for each data set.

    intensity: I_calc at the refined structure, on the scale of the data, with the background of the model. su: its
    posterior standard deviation. used: False where a measurement was held out. scale: of each frame, I_calc = scale *
    fraction of the incident beam + background.
    """

    intensity: Sequence[Array]
    su: Sequence[Array] | None = None
    used: Sequence[Array] | None = None
    scale: Sequence[Array] | None = None


def add_reflections(block: gemmi.cif.Block, experiments: Sequence[Experiment], calculated: Calculated) -> None:
    """Add the measurements of all data sets, what was calculated for them, and the frames as groups of one scale.

    A frame's code is its number in the data file, after the number of its data set when there are several. The
    lists' keys have no name without a dot; the other columns go by the names that most programs read.
    """
    hkl = np.concatenate([np.asarray(experiment.hkl) for experiment in experiments])
    measured = np.concatenate([np.asarray(experiment.intensity) for experiment in experiments])
    sigma = [f"{value:.7g}" for experiment in experiments for value in np.asarray(experiment.sigma)]
    observed = np.concatenate([is_observed(experiment) for experiment in experiments])
    used = np.ones(len(measured), dtype=bool) if calculated.used is None else np.concatenate(calculated.used)
    names = {".id": [str(number + 1) for number in range(len(measured))]}
    names |= {f"_index_{axis}": [str(index) for index in hkl[:, column]] for column, axis in enumerate("hkl")}
    set_item(block, "_reflns_number_total", str(len(measured)))
    set_item(block, "_reflns_number_gt", str(int(observed.sum())))
    again = sum(len(experiment.hkl) - len(unique(experiment).hkl) for experiment in experiments)
    set_item(block, "_reflns_special_details", _DETAILS + (f"\n{again} rows repeat a measurement." if again else ""))
    codes = _add_frames(block, experiments, calculated)
    columns = {
        **names,
        "_intensity_net": [f"{value:.7g}" for value in measured],
        "_intensity_u": sigma,
        "_scale_group_code": codes,
    }
    wavelengths = distinct_wavelengths(experiments)
    if len(wavelengths) > 1:
        columns["_wavelength_id"] = [
            str(wavelengths.index(experiment.wavelength) + 1) for experiment in experiments for _ in experiment.hkl
        ]
    _add_loop(block, "_diffrn_refln", columns)
    columns = {
        **names,
        "_intensity_meas": [f"{value:.7g}" if value >= 0 else "." for value in measured],
        "_intensity_sigma": sigma,
        "_intensity_calc": _calculated(calculated),
        "_include_status": ["o" if above else "<" for above in observed],
        "_refinement_status": ["incl" if fitted else "excl" for fitted in used],
    }
    _add_loop(block, "_refln", columns)


def _add_frames(block: gemmi.cif.Block, experiments: Sequence[Experiment], calculated: Calculated) -> list[str]:
    """Add one scale group for each frame; gives the group of every measurement."""
    groups, codes, factors = [], [], []
    for number, experiment in enumerate(experiments):
        start = f"{number + 1}_" if len(experiments) > 1 else ""
        frames = [f"{start}{frame}" for frame in np.asarray(experiment.frame_id)]
        groups += frames
        codes += [frames[index] for index in np.asarray(experiment.frame_index)]
        if calculated.scale is not None:
            factors += [f"{1 / value:.6g}" for value in np.asarray(calculated.scale[number])]
    _add_loop(block, "_diffrn_scale_group", {"_code": groups} | ({"_I_net": factors} if factors else {}))
    return codes


def _calculated(calculated: Calculated) -> list[str]:
    """I_calc of all measurements, with standard uncertainties where there are some."""
    values = np.concatenate([np.asarray(value, dtype=float) for value in calculated.intensity])
    if calculated.su is None:
        return [f"{value:.7g}" for value in values]
    uncertainties = np.concatenate([np.asarray(su, dtype=float) for su in calculated.su])
    return [
        format_su(value, su, decimals=_NO_LIMIT) if su > 0 and np.isfinite(su) else f"{value:.7g}"
        for value, su in zip(values.tolist(), uncertainties.tolist(), strict=True)
    ]


def _add_loop(block: gemmi.cif.Block, category: str, columns: dict[str, list[str]]) -> None:
    """Add a loop from its columns; every value is one word."""
    block.init_loop(category, list(columns)).set_all_values(list(columns.values()))
