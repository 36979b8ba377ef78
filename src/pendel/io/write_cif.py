"""The refined structure as a CIF, with data names of the IUCr's core and electron diffraction dictionaries."""

import os
import re
from collections.abc import Mapping, Sequence
from importlib import metadata

import gemmi
import numpy as np
from jaxtyping import Float

from pendel.cell import direct_matrix, reciprocal_matrix, u_equivalent, volume
from pendel.constants import Array
from pendel.crystal import Crystal
from pendel.experiment import Experiment
from pendel.io.write import format_su, write_text

_CELL_ITEMS = ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
_TENSOR = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))  # 11 22 33 23 13 12
_RESULT_ITEMS = {
    "r_obs_pooled": "_refine_ls_R_factor_gt",
    "wr2_pooled": "_refine_ls_wR_factor_ref",
    "n_scored": "_refine_ls_number_reflns",
    "n_observed": "_refine_ls_number_reflns_gt",
    "n_parameters": "_refine_ls_number_parameters",
}  # keys of the run's summary and the data names they are written under


def write_refined_cif(
    path: str | os.PathLike[str],
    crystal: Crystal,
    *,
    fract_su: Float[Array, "sites 3"] | None,
    u_aniso_su: Float[Array, "sites 3 3"] | None,
    experiments: Sequence[Experiment],
    results: Mapping[str, object],
    u_equivalent_su: Float[Array, "sites"] | None = None,
    occupancy_su: Float[Array, "sites"] | None = None,
) -> None:
    """Write the structure in `crystal` and the facts of its refinement; nothing is taken over from an input file.

    su arrays: standard uncertainties of the fields of the same name (fractional, Å²); zero where symmetry or the
    refinement fixes a value, which is then written without one. u_equivalent_su: of U_eq; without it, it is propagated
    from u_aniso_su as if the six U_ij were independent.
    results: the run's summary. Used are r_obs_pooled, wr2_pooled, n_scored, n_observed, n_parameters, model, stage,
    theory, thickness_mean_angstrom and thickness_su_angstrom (written in nanometres, the unit of the dictionary); what
    is missing is left out. The file is replaced whole. Raises InputError when it cannot be written.
    """
    document = gemmi.cif.Document()
    block = document.add_new_block(block_name(crystal.name))
    version = metadata.version("pendel")
    _set(block, "_audit_creation_method", f"pendel {version}")
    _set(block, "_computing_structure_refinement", f"pendel {version}")
    for name, value in zip(_CELL_ITEMS, crystal.cell, strict=True):
        _set(block, f"_cell_{name}", f"{value:.8g}")
    _set(block, "_cell_volume", f"{volume(crystal.cell):.3f}")
    _add_measurement(block, experiments)
    _add_results(block, results)
    add_structure(
        block,
        crystal,
        fract_su=fract_su,
        u_aniso_su=u_aniso_su,
        u_equivalent_su=u_equivalent_su,
        occupancy_su=occupancy_su,
    )
    write_text(path, document.as_string())


def add_structure(
    block: gemmi.cif.Block,
    crystal: Crystal,
    *,
    fract_su: Float[Array, "sites 3"] | None = None,
    u_aniso_su: Float[Array, "sites 3 3"] | None = None,
    u_equivalent_su: Float[Array, "sites"] | None = None,
    occupancy_su: Float[Array, "sites"] | None = None,
) -> None:
    """Add space group, operations and sites to a block; the uncertainties as in `write_refined_cif`."""
    sites = len(crystal.labels)
    fract_su = np.zeros((sites, 3)) if fract_su is None else np.asarray(fract_su)
    tensor_su = np.zeros((sites, 3, 3)) if u_aniso_su is None else np.asarray(u_aniso_su)
    sphere_su = _equivalent_su(crystal, tensor_su) if u_equivalent_su is None else np.asarray(u_equivalent_su)
    occupied_su = np.zeros(sites) if occupancy_su is None else np.asarray(occupancy_su)
    _set(block, "_space_group_name_H-M_alt", crystal.spacegroup)
    loop = block.init_loop("_space_group_symop_", ["id", "operation_xyz"])
    for number, (rotation, translation) in enumerate(zip(crystal.rotations, crystal.translations, strict=True)):
        loop.add_row([str(number + 1), gemmi.cif.quote(_triplet(np.asarray(rotation), np.asarray(translation)))])
    columns = ["label", "type_symbol", "fract_x", "fract_y", "fract_z", "U_iso_or_equiv", "adp_type", "occupancy"]
    loop = block.init_loop("_atom_site_", [*columns, "site_symmetry_multiplicity"])
    multiplicity = np.bincount(crystal.atom_site, minlength=sites)
    spheres = np.asarray(u_equivalent(crystal.u_aniso, crystal.cell))
    for site, label in enumerate(crystal.labels):
        position = [format_su(float(crystal.fract[site, axis]), float(fract_su[site, axis])) for axis in range(3)]
        sphere = format_su(float(spheres[site]), float(sphere_su[site]), decimals=5)
        kind = "Uiso" if crystal.isotropic[site] else "Uani"
        occupied = format_su(float(crystal.occupancy[site]), float(occupied_su[site]), decimals=4)
        row = [gemmi.cif.quote(label), crystal.elements[site], *position, sphere, kind, occupied]
        loop.add_row([*row, str(multiplicity[site])])
    anisotropic = [site for site in range(sites) if not crystal.isotropic[site]]
    if anisotropic:
        tags = [f"U_{i + 1}{j + 1}" for i, j in _TENSOR]
        loop = block.init_loop("_atom_site_aniso_", ["label", *tags])
        for site in anisotropic:
            values = [
                format_su(float(crystal.u_aniso[site, i, j]), float(tensor_su[site, i, j]), decimals=6)
                for i, j in _TENSOR
            ]
            loop.add_row([gemmi.cif.quote(crystal.labels[site]), *values])


def block_name(name: str) -> str:
    """A data block name from a file's or a crystal's name: its stem, only letters, digits, - and _."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", name.partition(".")[0]).strip("_") or "crystal"


def _set(block: gemmi.cif.Block, tag: str, value: str) -> None:
    block.set_pair(tag, gemmi.cif.quote(value))


def _add_measurement(block: gemmi.cif.Block, experiments: Sequence[Experiment]) -> None:
    """Radiation and mode of data collection, as far as all data sets share them."""
    _set(block, "_diffrn_radiation_probe", "electron")
    wavelengths = sorted({experiment.wavelength for experiment in experiments})
    if len(wavelengths) == 1:
        _set(block, "_diffrn_radiation_wavelength", f"{wavelengths[0]:.6g}")
    else:
        loop = block.init_loop("_diffrn_radiation_wavelength", ["_id", ""])
        for number, value in enumerate(wavelengths):
            loop.add_row([str(number + 1), f"{value:.6g}"])
    geometries = {experiment.geometry for experiment in experiments}
    if len(geometries) == 1:
        precession = geometries == {"precession"}
        _set(block, "_diffrn_measurement.rotation_mode", "stepwise" if precession else "rotation")
        _set(block, "_diffrn_measurement.method_precession", "yes" if precession else "no")
        angles = np.concatenate([experiment.semi_angle for experiment in experiments])
        if precession and np.ptp(angles) == 0:
            _set(block, "_diffrn.precession_semi_angle", f"{angles[0]:g}")


def _add_results(block: gemmi.cif.Block, results: Mapping[str, object]) -> None:
    theory = str(results.get("theory", "dynamical"))
    _set(block, "_refine.diffraction_theory", theory)
    program = "Bloch-wave calculation" if theory == "dynamical" else "single scattering"
    program += ", rocking curves integrated over each frame"
    made_by = [f"{key} {results[key]}" for key in ("model", "stage") if key in results]
    _set(block, "_refine.diffraction_theory_details", "; ".join([program, *made_by]))
    thickness = _number(results, "thickness_mean_angstrom")
    if thickness is not None:
        su = _number(results, "thickness_su_angstrom")
        in_nanometres = format_su(thickness / 10, None if su is None else su / 10, decimals=1)
        _set(block, "_refine_ls.sample_thickness", in_nanometres)
    _set(block, "_reflns_threshold_expression", "I>3\\s(I)")
    for key, tag in _RESULT_ITEMS.items():
        value = _number(results, key)
        if value is not None:
            _set(block, tag, str(int(value)) if key.startswith("n_") else f"{value:.4f}")
    if "wr2_pooled" in results:
        _set(
            block,
            "_refine_special_details",
            "R and wR are sums over all frames. R: on amplitudes of reflections above the threshold. wR: on\n"
            "intensities, all scored reflections, weights of Klar et al. (2023), Nature Chem. 15, 848-855.",
        )


def _number(results: Mapping[str, object], key: str) -> float | None:
    value = results.get(key)
    return float(value) if isinstance(value, int | float | np.number) and np.isfinite(float(value)) else None


def _triplet(rotation: np.ndarray, translation: np.ndarray) -> str:
    operation = gemmi.Op()
    operation.rot = (rotation * gemmi.Op.DEN).tolist()
    operation.tran = np.rint(translation * gemmi.Op.DEN).astype(int).tolist()
    return operation.triplet()


def _equivalent_su(crystal: Crystal, tensor_su: Float[Array, "sites 3 3"]) -> Float[Array, "sites"]:
    """Uncertainty of U_eq = sum_ij c_ij U_ij with c_ij = a*_i a*_j (a_i . a_j) / 3, for independent U_ij, i <= j."""
    direct, reciprocal = direct_matrix(crystal.cell), reciprocal_matrix(crystal.cell)
    lengths = np.linalg.norm(reciprocal, axis=0)
    coefficients = np.outer(lengths, lengths) * (direct.T @ direct) / 3
    upper = np.triu(2 * coefficients) - np.diag(np.diag(coefficients))
    independent = np.sqrt(((upper * tensor_su) ** 2).sum((1, 2)))
    return np.where(crystal.isotropic, tensor_su[:, 0, 0], independent)
