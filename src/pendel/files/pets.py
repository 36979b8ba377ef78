"""Frame-wise electron diffraction data: the `.cif_pets` files of PETS2 and of DIALS (`export format=pets`)."""

import os
import re
from pathlib import Path
from typing import Literal, cast

import gemmi
import numpy as np
from jaxtyping import Float, Int

from pendel import constants
from pendel.base import Array, InputError
from pendel.crystal.cell import Cell
from pendel.crystal.checks import check_cell
from pendel.experiment.frames import Experiment, goniometer_rotations
from pendel.files.numbers import CELL_ITEMS
from pendel.files.pets_checks import (
    check_virtual_frames,
    check_zone_axes,
    compare_cells,
    orientation_matrix,
)
from pendel.files.pets_range import integrated_range
from pendel.files.pets_table import PetsTable, open_pets

NOMINAL_KILOVOLTS = (80, 100, 120, 160, 200, 300)
ELECTRON_WAVELENGTHS = (0.008, 0.09)  # Å, about 1 MeV to 18 keV: outside, it is not an electron wavelength

_WAVELENGTH_NAMES = ("diffrn_radiation_wavelength", "diffrn_radiation_wavelength_value")
LARGEST_MOSAICITY = 2.0  # deg; no single crystal has more
LARGEST_WIDTH = 0.1  # Å⁻¹, of a rocking curve
_DETAILS_NAMES = ("diffrn_measurement_details", "diffrn_reflns_reduction_process")


def read_pets(
    path: str | os.PathLike[str],
    *,
    cell: Literal["header", "structure", "ub"] = "header",
    structure_cell: Cell | None = None,
    geometry: Literal["rotation", "precession"] | None = None,
    integration: str = "auto",
    energy_ev: float | None = None,
    block: str | None = None,
) -> Experiment:
    """All measurements of a `.cif_pets` file, checked; findings that do not stop it are in `notes`.

    cell: which cell is authoritative. `header` and `structure` (needs `structure_cell` [Å, deg]) orient it by
    U = polar(UB B^-1), the rotation nearest to the file's matrix; `ub` takes g = R UB hkl as it stands and leaves the
    header cell in `cell`. A structure_cell is compared with the header whenever it is given.
    geometry, energy_ev: override what the file says. integration: "auto", "sweep" or "curve", see
    `pendel.files.pets_range.integrated_range`. block: name or number (from 1) of the block, where several count.
    Every row of the file is kept; `pendel.experiment.select.select` picks those that count.
    Raises InputError: unreadable file, missing items, cell or UB that do not belong together (> 5 %), unusable values.
    """
    table = open_pets(Path(path), block)
    notes = list(table.notes)
    chosen_cell = _chosen_cell(table, cell, structure_cell, notes)
    wavelength = _wavelength(table, energy_ev, notes)
    details = "\n".join(text for name in _DETAILS_NAMES for text in table.texts(name))
    sweep = _geometry(table, details, geometry, notes)
    ub = _ub_matrix(table)
    orientation = orientation_matrix(ub, chosen_cell, cell, table.name, notes)
    frame_id, alpha, beta, semi_angle = _frames(table, notes)
    check_zone_axes(goniometer_rotations(alpha, beta) @ ub, frame_id, _zone_axes(table), table.name, notes)
    if sweep == "rotation":
        check_virtual_frames(details, alpha, semi_angle, table.name, notes)
    frame_index = _frame_index(table, frame_id, notes)
    hkl = _indices(table)
    intensity, sigma = _intensities(table, notes)
    mosaicity = _stated(table, details, "mosaicity", "mosaicity", LARGEST_MOSAICITY)
    curve_range = integrated_range(
        details,
        (frame_index, hkl, intensity, sigma),
        is_rotation=sweep == "rotation",
        width=_stated(table, details, "rc_width", "RC width", LARGEST_WIDTH),
        mosaicity=mosaicity,
        integration=integration,
        name=table.name,
        notes=notes,
    )
    return Experiment(
        name=table.name,
        geometry=sweep,
        cell=chosen_cell,
        wavelength=wavelength,
        dstar_max=_dstar_max(table, details, np.linalg.norm(hkl @ orientation.T, axis=1), notes),
        selection="all",
        notes=tuple(notes),
        mosaicity=mosaicity,
        curve_range=curve_range,
        orientation=orientation,
        frame_id=frame_id,
        alpha=alpha,
        beta=beta,
        semi_angle=semi_angle,
        frame_index=frame_index,
        hkl=hkl,
        intensity=intensity,
        sigma=sigma,
        weight=np.ones(len(hkl), dtype=np.int64),
    )


def _chosen_cell(table: PetsTable, source: str, structure: Cell | None, notes: list[str]) -> Cell:
    if source not in ("header", "structure", "ub"):
        raise InputError(
            found=f"unknown source of the cell {source!r}", expected="header, structure or ub", do="change --cell"
        )
    if structure is not None:
        check_cell("the given structure", structure)
    elif source == "structure":
        raise InputError(
            found="no cell of the structure is given", expected="one for --cell structure", do="give structure_cell"
        )
    values = [table.number(f"cell_{name}") for name in CELL_ITEMS]
    missing = [f"_cell_{name}" for name, value in zip(CELL_ITEMS, values, strict=True) if value is None]
    if structure is not None and source == "structure" and len(missing) == len(values):
        notes.append(f"{table.name}: no cell in the header; the structure's cell is used")
        return structure
    if missing:
        raise InputError(
            found=f"{table.name}: no value of {', '.join(missing)}",
            expected="the cell used in data reduction",
            do="add it to the file (or, when the whole cell is absent, use --cell structure)",
        )
    header = cast(Cell, tuple(values))
    check_cell(f"{table.where('cell_length_a')} (header cell)", header)
    if structure is None:
        return header
    compare_cells(header, structure, table.name, notes)
    return structure if source == "structure" else header


def _wavelength(table: PetsTable, energy_ev: float | None, notes: list[str]) -> float:
    """The wavelength [Å]: of energy_ev if given, else the file's, never rounded to a nominal voltage."""
    texts = [text for name in _WAVELENGTH_NAMES for text in table.texts(name)]
    values = [gemmi.cif.as_number(text) for text in texts]
    if energy_ev is not None:
        stated = f"instead of the file's {texts[0]} Å" if texts else "(the file has no wavelength)"
        chosen = constants.wavelength(energy_ev)
        notes.append(f"{table.name}: wavelength {chosen:.6f} Å from {energy_ev / 1e3:g} kV as given {stated}")
        return chosen
    place = table.where(_WAVELENGTH_NAMES[0])
    if not texts:
        raise InputError(
            found=f"{place}: no wavelength", expected="_diffrn_radiation_wavelength", do="give --energy-ev"
        )
    low, high = ELECTRON_WAVELENGTHS
    for text, value in zip(texts, values, strict=True):
        if not low < value < high:
            raise InputError(
                found=f"{place}: wavelength {text} Å",
                expected=f"the wavelength of an electron, {low} to {high} Å (zero means unknown)",
                do="correct the file or give --energy-ev",
            )
    if max(values) > 1.003 * min(values):
        raise InputError(
            found=f"{place}: different wavelengths {' and '.join(texts)} Å",
            expected="one wavelength",
            do="give --energy-ev",
        )
    digits = [len(text.partition("(")[0].lstrip("0.")) for text in texts]
    best = int(np.argmax(digits))
    kilovolts = constants.energy_ev(values[best]) / 1e3
    nominal = min(NOMINAL_KILOVOLTS, key=lambda voltage: abs(kilovolts / voltage - 1))
    near = f", nominal {nominal} kV" if abs(kilovolts / nominal - 1) < 0.02 else ", no nominal voltage near"
    notes.append(f"{table.name}: wavelength {texts[best]} Å ({kilovolts:.1f} kV{near})")
    return values[best]


def _geometry(table: PetsTable, details: str, given: str | None, notes: list[str]) -> Literal["rotation", "precession"]:
    line = re.search(r"data collection geometry\s*:\s*(.+)", details, flags=re.IGNORECASE)
    text = line[1].strip().lower() if line else ""
    stated = "precession" if "precession" in text else "rotation" if "rotation" in text else None
    chosen = given if given is not None else stated
    if given is not None and stated is not None and given != stated:
        notes.append(f"{table.name}: the file states {text!r}; {given} is used as given")
    if chosen == "rotation" or chosen == "precession":
        return chosen
    raise InputError(
        found=f"{table.name}: data collection geometry {given or text or 'not stated'!r}",
        expected="continuous rotation or precession",
        do="give --geometry rotation or --geometry precession",
    )


def _stated(table: PetsTable, details: str, item: str, words: str, below: float) -> float | None:
    """What the data reduction states, in an item of its own or in a line of the details; None where that is absurd."""
    line = re.search(rf"{words}\s*:\s*([\d.]+)", details, flags=re.IGNORECASE)
    stated = table.number(f"diffrn_measurement_{item}")
    if stated is None and line:
        stated = gemmi.cif.as_number(line[1])
    return stated if stated is not None and 0 <= stated < below else None


def _ub_matrix(table: PetsTable) -> Float[Array, "3 3"]:
    names = [f"diffrn_orient_matrix_ub_{row}{column}" for row in (1, 2, 3) for column in (1, 2, 3)]
    values = [table.number(name) for name in names]
    missing = [name for name, value in zip(names, values, strict=True) if value is None]
    if missing:
        raise InputError(
            found=f"{table.name}: no value of _{', _'.join(missing)}",
            expected="nine elements of UB [Å⁻¹]",
            do="export the file again with its orientation matrix",
        )
    return np.array(values, dtype=np.float64).reshape(3, 3)


def _frames(table: PetsTable, notes: list[str]) -> tuple[Array, Array, Array, Array]:
    """Identifiers, alpha, beta and semi-angle [deg] of the frames, in file order."""
    frame_id = table.integers("diffrn_zone_axis_id")
    alpha = table.column("diffrn_zone_axis_alpha")
    beta = table.column("diffrn_zone_axis_beta")
    semi_angle = table.column("diffrn_zone_axis_precession_angle")
    if frame_id is None or alpha is None or semi_angle is None or not len(frame_id):
        raise InputError(
            found=f"{table.name}: no _diffrn_zone_axis_ loop with id, alpha and precession_angle",
            expected="one row per frame",
            do="export the file for dynamical refinement (..._dyn.cif_pets)",
        )
    if beta is None:
        notes.append(f"{table.name}: no _diffrn_zone_axis_beta; beta = 0 is used")
        beta = np.zeros_like(alpha)
    repeated = np.ones(len(frame_id), dtype=bool)
    repeated[np.unique(frame_id, return_index=True)[1]] = False
    table.refuse("diffrn_zone_axis_id", repeated, expected="every frame id once", do="number the frames anew")
    for name, values in (("alpha", alpha), ("beta", beta)):
        if (wrong := ~np.isfinite(values)).any():
            table.refuse(f"diffrn_zone_axis_{name}", wrong, expected="an angle in degrees", do="correct the file")
    half_step = f"{np.median(np.abs(np.diff(alpha))) / 2:.3g}" if len(alpha) > 1 else "?"
    table.refuse(
        "diffrn_zone_axis_precession_angle",
        ~(semi_angle > 0) | (semi_angle > 45),
        expected="the semi-angle in degrees, above 0 (0 means unknown)",
        do=f"enter half the sweep of a frame (half the alpha step is {half_step}) or the precession semi-angle",
    )
    return frame_id, alpha, beta, semi_angle


def _zone_axes(table: PetsTable) -> Float[Array, "frames 3"] | None:
    columns = [table.column(f"diffrn_zone_axis_{letter}") for letter in "uvw"]
    present = [column for column in columns if column is not None]
    return np.column_stack(present) if len(present) == 3 else None


def _frame_index(table: PetsTable, frame_id: Int[Array, "frames"], notes: list[str]) -> Int[Array, "reflections"]:
    joined = table.integers("refln_zone_axis_id")
    if joined is None:
        raise InputError(
            found=f"{table.name}: no column _refln_zone_axis_id",
            expected="the frame of every reflection",
            do="export the file for dynamical refinement (..._dyn.cif_pets)",
        )
    table.refuse(
        "refln_zone_axis_id",
        ~np.isin(joined, frame_id),
        expected=f"the id of one of the {len(frame_id)} frames of the _diffrn_zone_axis_ loop",
        do="correct the id or add the frame",
    )
    order = np.argsort(frame_id)
    frame_index = order[np.searchsorted(frame_id, joined, sorter=order)]
    empty = frame_id[np.bincount(frame_index, minlength=len(frame_id)) == 0]
    if len(empty):
        notes.append(f"{table.name}: {len(empty)} frames without reflections ({', '.join(map(str, empty[:10]))})")
    return frame_index


def _indices(table: PetsTable) -> Int[Array, "reflections 3"]:
    columns = [table.integers(f"refln_index_{letter}") for letter in "hkl"]
    present = [column for column in columns if column is not None]
    if len(present) < 3:
        raise InputError(
            found=f"{table.name}: no _refln_index_h, _k, _l", expected="three indices", do="export the file again"
        )
    hkl = np.column_stack(present)
    table.refuse("refln_index_h", ~hkl.any(axis=1), expected="a diffracted beam, not 0 0 0", do="remove the row")
    for name in ("refln_index_m", "refln_index_m_1"):
        if (satellite := table.integers(name)) is not None:
            table.refuse(name, satellite != 0, expected="main reflections only", do="export without satellites")
    return hkl


def _intensities(table: PetsTable, notes: list[str]) -> tuple[Float[Array, "reflections"], Float[Array, "reflections"]]:
    intensity, sigma = table.column("refln_intensity_meas"), table.column("refln_intensity_sigma")
    if intensity is None or sigma is None:
        raise InputError(
            found=f"{table.name}: no column _refln_intensity_sigma",
            expected="a standard uncertainty for every intensity",
            do="export the file with uncertainties",
        )
    remove = "remove or correct the rows"
    table.refuse("refln_intensity_meas", ~np.isfinite(intensity), expected="a finite intensity", do=remove)
    table.refuse("refln_intensity_sigma", ~np.isfinite(sigma), expected="a finite sigma", do=remove)
    table.refuse("refln_intensity_sigma", sigma < 0, expected="a sigma above 0", do=remove)
    zero = sigma == 0
    if zero.all():
        table.refuse("refln_intensity_sigma", zero, expected="sigma above 0", do="export the file with uncertainties")
    if zero.any():
        smallest = sigma[~zero].min()
        notes.append(f"{table.name}: sigma = 0 in {zero.sum()} rows, set to the smallest positive one, {smallest:g}")
        sigma = np.where(zero, smallest, sigma)
    return intensity, sigma


def _dstar_max(table: PetsTable, details: str, lengths: Float[Array, "reflections"], notes: list[str]) -> float:
    """Resolution limit [Å⁻¹]: the header's, or that of the data when this is higher or the header has none."""
    reached = float(lengths.max())
    line = re.search(r"dstarmax\s*:\s*([\d.]+)", details, flags=re.IGNORECASE)
    stated = float(line[1]) if line else 0.0
    if stated == 0.0:
        notes.append(f"{table.name}: dstarmax is not stated; the data reach {reached:.3f} Å⁻¹")
    elif reached > 1.005 * stated:
        notes.append(f"{table.name}: dstarmax {stated:.3f} Å⁻¹, but the data reach {reached:.3f} Å⁻¹, which is used")
    return max(reached, stated)
