"""Facts of measurement and refinement as single items of a CIF block."""

import os
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import gemmi
import numpy as np

from pendel.base import NO_HYDROGEN, kind_of
from pendel.constants import VOLT_PER_ELECTRON_PER_ANGSTROM
from pendel.experiment.frames import Experiment
from pendel.files.numbers import format_su, set_item
from pendel.files.whole_file import write_text

Z_SCORE = "_refine_ls.abs_structure_z-score"
POTENTIAL = "_refine_diff.potential"
NUMBERS = {  # item -> number of a summary, and its decimals
    "_refine_ls_R_factor_gt": ("r_obs_pooled", 4),
    "_refine_ls_wR_factor_ref": ("wr2_pooled", 4),
    "_refine_ls_number_reflns": ("n_scored", 0),
    "_refine_ls_number_reflns_gt": ("n_observed", 0),
    "_refine_ls_number_parameters": ("n_parameters", 0),
}

type Summary = Mapping[str, Any]  # contents of summary.json


def add_measurement(block: gemmi.cif.Block, experiments: Sequence[Experiment]) -> None:
    """Add radiation and mode of data collection, as far as all data sets share them."""
    set_item(block, "_diffrn_radiation_probe", "electron")
    wavelengths = distinct_wavelengths(experiments)
    if len(wavelengths) == 1:
        set_item(block, "_diffrn_radiation_wavelength", f"{wavelengths[0]:.6g}")
    else:
        loop = block.init_loop("_diffrn_radiation_wavelength", ["_id", ""])
        for number, value in enumerate(wavelengths):
            loop.add_row([str(number + 1), f"{value:.6g}"])
    geometries = {experiment.geometry for experiment in experiments}
    if len(geometries) == 1:
        precession = geometries == {"precession"}
        set_item(block, "_diffrn_measurement.rotation_mode", "stepwise" if precession else "rotation")
        set_item(block, "_diffrn_measurement.method_precession", "yes" if precession else "no")
        angles = np.concatenate([experiment.semi_angle for experiment in experiments])
        if precession and np.ptp(angles) == 0:
            set_item(block, "_diffrn.precession_semi_angle", f"{angles[0]:g}")


def distinct_wavelengths(experiments: Sequence[Experiment]) -> list[float]:
    """The wavelengths [Å] of all data sets, shortest first; their ids in the file count from 1."""
    return sorted({experiment.wavelength for experiment in experiments})


def write_hand(path: str | os.PathLike[str], z_score: float) -> None:
    """Put the z-score of the hand into a refined structure that is already written.

    Raises InputError when the file cannot be written.
    """
    document = gemmi.cif.read(os.fspath(path))
    set_item(document.sole_block(), Z_SCORE, f"{z_score:.2f}")
    write_text(path, document.as_string())


def write_difference(path: str | os.PathLike[str], *, highest: float, lowest: float, rms: float) -> None:
    """Put the extremes and the rms of the difference potential [V] into a refined structure that is already written.

    The unit of the dictionary is e/Å, the potential of one elementary charge at 1 Å in Gaussian units: 14.3996 V.
    Raises InputError when the file cannot be written.
    """
    document = gemmi.cif.read(os.fspath(path))
    for name, value in (("max", highest), ("min", lowest), ("RMS", rms)):
        set_item(document.sole_block(), f"{POTENTIAL}_{name}", f"{value / VOLT_PER_ELECTRON_PER_ANGSTROM:.4f}")
    write_text(path, document.as_string())


def add_results(
    block: gemmi.cif.Block, summary: Summary, notes: Sequence[str] = (), experiments: Sequence[Experiment] = ()
) -> None:
    """Add theory, sample, error model and agreement; what the summary does not have, or not as a number, is left out.

    Thickness is written in nanometres, the unit of the dictionary. Of the notes on the structure, those on hydrogen
    that was left out go into _refine_special_details.
    """
    set_item(block, "_computing_structure_refinement", f"pendel {metadata.version('pendel')}")
    theory = str(summary.get("theory", "dynamical"))
    set_item(block, "_refine.diffraction_theory", theory)
    program = "Bloch-wave calculation" if theory == "dynamical" else "single scattering"
    beyond = any(experiment.curve_range is not None for experiment in experiments)
    program += f", rocking curves integrated {'beyond the ends of frames' if beyond else 'over each frame'}"
    made_by = [f"{key} {Path(str(summary[key])).name}" for key in ("model", "stage") if key in summary]
    set_item(block, "_refine.diffraction_theory_details", "; ".join([program, *made_by]))
    _add_sample(block, summary)
    set_item(block, "_reflns_threshold_expression", "I>3u(I)")
    for tag, (name, digits) in NUMBERS.items():
        value = _number(summary, name)
        if value is not None:
            set_item(block, tag, f"{value:.{digits}f}")
    details = [f"{note} of the start structure." for note in notes if kind_of(note) == NO_HYDROGEN]
    details += _error_model(summary) + _atoms(summary)
    if _number(summary, "wr2_pooled") is not None:
        set_item(block, "_refine_ls_structure_factor_coef", "Inet")
        details += [
            "R and wR are sums over all frames. R: on amplitudes of reflections above the",
            "threshold. wR: on intensities, all scored reflections, weights of Klar et al.",
            "(2023), Nature Chem. 15, 848-855.",
        ]
    if details:
        set_item(block, "_refine_special_details", "\n".join(details))


def _add_sample(block: gemmi.cif.Block, summary: Summary) -> None:
    """Thickness [nm] and the shape that it is the mean of."""
    mean, su = _number(summary, "thickness_mean_angstrom"), _number(summary, "thickness_su_angstrom")
    if mean is None:
        return
    in_nanometres = format_su(mean / 10, None if su is None else su / 10, decimals=1)
    set_item(block, "_refine_ls.sample_thickness", in_nanometres)
    details = ["Thickness: mean over all frames of the mean thickness in a frame."]
    thin, thick = _number(summary, "thickness_min_angstrom"), _number(summary, "thickness_max_angstrom")
    if thin is not None and thick is not None:
        details.append(f"Frames have means from {thin / 10:.1f} to {thick / 10:.1f} nm.")
    if summary.get("thickness_expression"):
        set_item(block, "_refine_ls.sample_shape_expression", str(summary["thickness_expression"]))
        details.append("Expression: tau = t/t~m~, thickness over the largest one in a frame.")
    for symbol in summary.get("thickness_symbols") or ():
        values = _each(summary, str(symbol["site"]), exponential=bool(symbol["is_log"]))
        details += [str(symbol["meaning"]), *(f"{symbol['label']}{which}: {text}." for which, text in values)]
    set_item(block, "_refine_ls.sample_shape_details", "\n".join(details))


def _atoms(summary: Summary) -> list[str]:
    """How the form factors differ from those of the source that stands at the elements, if they do."""
    formula = ["Form factors of all atoms but H are contracted, f(g) -> f(g/k)/k^2^."]
    found = [f"k{which} = {text}" for which, text in _each(summary, "contraction")]
    return formula + found if found else []


def _error_model(summary: Summary) -> list[str]:
    """The distribution of I_obs about I_calc in words, with its refined numbers."""
    found = {name: _each(summary, name) for name in ("a", "b", "nu", "error")}
    lines = []
    if found["b"]:
        lines.append(
            "Errors of I(meas): Student t with nu degrees of freedom about I(calc), scale s;"
            if found["nu"]
            else "Errors of I(meas): normal about I(calc), standard deviation s;"
        )
        lines.append(f"s^2^ = {'(a u)^2^' if found['a'] else 'u^2^'} + (b I(calc))^2^, u the s.u. of I(meas).")
    elif found["error"]:
        lines.append("Errors of I(meas): normal, weighted as in wR; error: wR of a typical frame.")
    return lines + [f"{name}{which} = {text}" for name, values in found.items() for which, text in values]


def _each(summary: Summary, name: str, *, exponential: bool = False) -> list[tuple[str, str]]:
    """Values with su of one site: of the site itself, and of the data sets 2, 3, ... that have their own.

    exponential: the site holds a logarithm; exp(x) is given, with su sd exp(x).
    """
    values = []
    for key, found in (summary.get("scalars") or {}).items():
        mean, su = _number(found, "mean"), _number(found, "sd")
        if mean is None:
            continue
        stem, _, number = key.rpartition("_") if key != name else (name, "", "")
        if stem == name and (number.isdigit() or key == name):
            value = np.exp(mean) if exponential else mean
            su = su if su is None or not exponential else su * value
            values.append((f" of data set {number}" if number else "", format_su(value, su, decimals=3)))
    return values


def _number(entries: object, key: str) -> float | None:
    value = entries.get(key) if isinstance(entries, Mapping) else None
    return float(value) if isinstance(value, int | float | np.number) and np.isfinite(float(value)) else None
