"""Facts of measurement and refinement as single items of a CIF block."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

import gemmi
import numpy as np

from pendel.base import kind_of
from pendel.experiment.frames import Experiment
from pendel.files.cif import NO_HYDROGEN
from pendel.files.numbers import format_su, set_item
from pendel.files.whole_file import write_text

Z_SCORE = "_refine_ls.abs_structure_z-score"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Value:
    """A number with its standard uncertainty, None without one."""

    mean: float
    su: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Facts:
    """What a refinement found beside the structure; None or empty where nothing is known."""

    theory: str = "dynamical"
    model: str | None = None  # name, without folders
    stage: str | None = None
    r_obs: float | None = None  # over all frames
    wr2: float | None = None
    n_scored: int | None = None
    n_observed: int | None = None
    n_parameters: int | None = None
    thickness: Value | None = None  # Å, mean over the frames of the mean in a frame
    thickness_range: tuple[float, float] | None = None  # Å, of the means in a frame
    thickness_expression: str | None = (
        None  # cumulative distribution of the thickness in a frame over its largest value
    )
    thickness_symbols: Sequence[Mapping[str, object]] = ()  # in the expression: label, meaning, site and is_log of each
    scalars: Mapping[str, Value] = dataclasses.field(default_factory=dict)  # every unknown that is one number, by site


def facts_of(summary: Mapping[str, object]) -> Facts:
    """The facts in a run's summary; numbers that are None or not finite count as missing."""
    thickness = _number(summary, "thickness_mean_angstrom")
    thin, thick = _number(summary, "thickness_min_angstrom"), _number(summary, "thickness_max_angstrom")
    scalars = summary.get("scalars")
    expression, symbols = summary.get("thickness_expression"), summary.get("thickness_symbols")
    entries = scalars.items() if isinstance(scalars, Mapping) else ()
    means = {str(name): (_number(entry, "mean"), _number(entry, "sd")) for name, entry in entries}
    return Facts(
        theory=str(summary.get("theory", "dynamical")),
        model=Path(str(summary["model"])).name if "model" in summary else None,
        stage=str(summary["stage"]) if "stage" in summary else None,
        r_obs=_number(summary, "r_obs_pooled"),
        wr2=_number(summary, "wr2_pooled"),
        n_scored=_count(summary, "n_scored"),
        n_observed=_count(summary, "n_observed"),
        n_parameters=_count(summary, "n_parameters"),
        thickness=None if thickness is None else Value(mean=thickness, su=_number(summary, "thickness_su_angstrom")),
        thickness_range=None if thin is None or thick is None else (thin, thick),
        thickness_expression=str(expression) if expression else None,
        thickness_symbols=symbols if isinstance(symbols, Sequence) else (),
        scalars={name: Value(mean=mean, su=sd) for name, (mean, sd) in means.items() if mean is not None},
    )


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


def add_results(block: gemmi.cif.Block, facts: Facts, notes: Sequence[str] = ()) -> None:
    """Add theory, sample, error model and agreement; what is not known is left out.

    Thickness is written in nanometres, the unit of the dictionary. Of the notes on the structure, those on hydrogen
    that was left out go into _refine_special_details.
    """
    set_item(block, "_computing_structure_refinement", f"pendel {metadata.version('pendel')}")
    set_item(block, "_refine.diffraction_theory", facts.theory)
    program = "Bloch-wave calculation" if facts.theory == "dynamical" else "single scattering"
    program += ", rocking curves integrated over each frame"
    made_by = [f"{key} {name}" for key, name in (("model", facts.model), ("stage", facts.stage)) if name is not None]
    set_item(block, "_refine.diffraction_theory_details", "; ".join([program, *made_by]))
    _add_sample(block, facts)
    set_item(block, "_reflns_threshold_expression", "I>3u(I)")
    items = {
        "_refine_ls_R_factor_gt": None if facts.r_obs is None else f"{facts.r_obs:.4f}",
        "_refine_ls_wR_factor_ref": None if facts.wr2 is None else f"{facts.wr2:.4f}",
        "_refine_ls_number_reflns": facts.n_scored,
        "_refine_ls_number_reflns_gt": facts.n_observed,
        "_refine_ls_number_parameters": facts.n_parameters,
    }
    for tag, value in items.items():
        if value is not None:
            set_item(block, tag, str(value))
    details = [f"{note} of the start structure." for note in notes if kind_of(note) == NO_HYDROGEN]
    details += _error_model(facts)
    if facts.wr2 is not None:
        set_item(block, "_refine_ls_structure_factor_coef", "Inet")
        details += [
            "R and wR are sums over all frames. R: on amplitudes of reflections above the",
            "threshold. wR: on intensities, all scored reflections, weights of Klar et al.",
            "(2023), Nature Chem. 15, 848-855.",
        ]
    if details:
        set_item(block, "_refine_special_details", "\n".join(details))


def _add_sample(block: gemmi.cif.Block, facts: Facts) -> None:
    """Thickness [nm] and the shape that it is the mean of."""
    if facts.thickness is None:
        return
    mean, su = facts.thickness.mean, facts.thickness.su
    in_nanometres = format_su(mean / 10, None if su is None else su / 10, decimals=1)
    set_item(block, "_refine_ls.sample_thickness", in_nanometres)
    details = ["Thickness: mean over all frames of the mean thickness in a frame."]
    if facts.thickness_range is not None:
        thin, thick = facts.thickness_range
        details.append(f"Frames have means from {thin / 10:.1f} to {thick / 10:.1f} nm.")
    if facts.thickness_expression:
        set_item(block, "_refine_ls.sample_shape_expression", facts.thickness_expression)
        details.append("Expression: tau = t/t~m~, thickness over the largest one in a frame.")
    for symbol in facts.thickness_symbols:
        values = _each(facts, str(symbol["site"]), exponential=bool(symbol["is_log"]))
        details += [str(symbol["meaning"]), *(f"{symbol['label']}{which}: {text}." for which, text in values)]
    set_item(block, "_refine_ls.sample_shape_details", "\n".join(details))


def _error_model(facts: Facts) -> list[str]:
    """The distribution of I_obs about I_calc in words, with its refined numbers."""
    found = {name: _each(facts, name) for name in ("a", "b", "nu", "error")}
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


def _each(facts: Facts, name: str, *, exponential: bool = False) -> list[tuple[str, str]]:
    """Values with su of one site: of the site itself, and of the data sets 2, 3, ... that have their own.

    exponential: the site holds a logarithm; exp(x) is given, with su sd exp(x).
    """
    values = []
    for key, found in facts.scalars.items():
        stem, _, number = key.rpartition("_") if key != name else (name, "", "")
        if stem == name and (number.isdigit() or key == name):
            value = np.exp(found.mean) if exponential else found.mean
            su = found.su if found.su is None or not exponential else found.su * value
            values.append((f" of data set {number}" if number else "", format_su(value, su, decimals=3)))
    return values


def _number(entries: object, key: str) -> float | None:
    value = entries.get(key) if isinstance(entries, Mapping) else None
    return float(value) if isinstance(value, int | float | np.number) and np.isfinite(float(value)) else None


def _count(entries: object, key: str) -> int | None:
    value = _number(entries, key)
    return None if value is None else int(value)
