"""An experiment as a `.cif_pets` file that `read_pets` and other programs read."""

import os

import gemmi
import numpy as np
from jaxtyping import Float

from pendel.base import Array
from pendel.crystal.cell import volume
from pendel.crystal.refined import unrefined
from pendel.crystal.structure import Crystal
from pendel.experiment.frames import Experiment, frame_rotations
from pendel.files.numbers import CELL_ITEMS
from pendel.files.pets_range import WRITTEN, WRITTEN_SWEEP
from pendel.files.refined_cif import add_structure, block_name
from pendel.files.whole_file import write_text


def write_pets(
    path: str | os.PathLike[str],
    experiment: Experiment,
    *,
    frame_scale: Float[Array, "frames"] | None = None,
    truth: Crystal | None = None,
    misorientation_deg: Float[Array, "frames 2"] | None = None,
) -> None:
    """Write all measurements, so that `read_pets` gives back the same experiment (weights then count these rows).

    frame_scale: written as the zone axes' scale (informative: intensities are on one scale). truth: the structure a
    simulation used, as space group and _atom_site_ loops that `read_crystal` reads. misorientation_deg: the tilts
    (about x, about y) applied in the laboratory after the goniometer angles, as an _orientation_ loop in frame order.
    The zone axes are computed from the angles and the orientation matrix. Raises InputError when it cannot be written.
    """
    document = gemmi.cif.Document()
    block = document.add_new_block(block_name(experiment.name))
    for name, value in zip(CELL_ITEMS, experiment.cell, strict=True):
        block.set_pair(f"_cell_{name}", _digits(value))
    block.set_pair("_cell_volume", f"{volume(experiment.cell):.3f}")
    block.set_pair("_diffrn_radiation_wavelength", _digits(experiment.wavelength))
    for row in range(3):
        for column in range(3):
            element = _digits(experiment.orientation[row, column])
            block.set_pair(f"_diffrn_orient_matrix_UB_{row + 1}{column + 1}", element)
    stated = "continuous rotation" if experiment.geometry == "rotation" else "precession"
    details = f"data collection geometry: {stated}\ndstarmax: {_digits(experiment.dstar_max)}"
    if experiment.mosaicity is not None:
        details += f"\nmosaicity: {_digits(experiment.mosaicity)}"
    if experiment.curve_range is not None:
        details += "\n" + WRITTEN.format(*map(_digits, experiment.curve_range))
    elif experiment.geometry == "rotation":
        details += "\n" + WRITTEN_SWEEP
    block.set_pair("_diffrn_measurement_details", gemmi.cif.quote(details))
    _add_frames(block, experiment, frame_scale)
    if misorientation_deg is not None:
        names = ["rotation_index", "alpha_degrees", "beta_degrees", "omega_degrees"]
        loop = block.init_loop("_orientation_", names)
        for index, (about_x, about_y) in enumerate(np.asarray(misorientation_deg)):
            loop.add_row([str(index), f"{about_x:.6f}", f"{about_y:.6f}", "0"])
    if truth is not None:
        add_structure(block, unrefined(truth))
    _add_reflections(block, experiment)
    write_text(path, document.as_string())


def _add_frames(block: gemmi.cif.Block, experiment: Experiment, scale: Float[Array, "frames"] | None) -> None:
    """Zone axis [u v w] = (R UB)^T (0, 0, 1), scaled to a largest component of 1."""
    axes = (frame_rotations(experiment) @ np.asarray(experiment.orientation))[:, 2, :]
    axes /= np.abs(axes).max(axis=1, keepdims=True)
    scales = np.ones(len(axes)) if scale is None else np.asarray(scale)
    names = ["id", "u", "v", "w", "precession_angle", "alpha", "beta", "omega", "scale"]
    loop = block.init_loop("_diffrn_zone_axis_", names)
    for frame, axis in enumerate(axes):
        angles = (experiment.semi_angle[frame], experiment.alpha[frame], experiment.beta[frame])
        direction = [f"{component:.6f}" for component in axis]
        row = [str(experiment.frame_id[frame]), *direction, *(_digits(angle) for angle in angles)]
        loop.add_row([*row, "0", _digits(scales[frame])])


def _add_reflections(block: gemmi.cif.Block, experiment: Experiment) -> None:
    names = ["index_h", "index_k", "index_l", "intensity_meas", "intensity_sigma", "zone_axis_id"]
    loop = block.init_loop("_refln_", names)
    frames = np.asarray(experiment.frame_id)[experiment.frame_index]
    columns = [[str(index) for index in column] for column in np.asarray(experiment.hkl).T]
    columns += [[_digits(value) for value in values] for values in (experiment.intensity, experiment.sigma)]
    loop.set_all_values([*columns, [str(frame) for frame in frames]])


def _digits(value: Array | float) -> str:
    """Ten significant digits: more than any measurement has, few enough to read."""
    return f"{float(value):.10g}"
