"""Symmetry and sites of a crystal as loops of a CIF block."""

import gemmi
import numpy as np
from jaxtyping import Float, Int

from pendel.base import Array
from pendel.crystal.cell import direct_matrix, reciprocal_matrix, u_cartesian, u_equivalent
from pendel.crystal.structure import Crystal
from pendel.crystal.tabulated import operation
from pendel.files.numbers import format_su, set_item

_MOST_EXTRA = 6  # digits
_TENSOR = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))  # 11 22 33 23 13 12


def add_structure(
    block: gemmi.cif.Block,
    crystal: Crystal,
    *,
    fract_su: Float[Array, "sites 3"] | None = None,
    u_aniso_su: Float[Array, "sites 3 3"] | None = None,
    u_equivalent_su: Float[Array, "sites"] | None = None,
    occupancy_su: Float[Array, "sites"] | None = None,
    scattering_source: str | None = None,
) -> None:
    """Add space group, operations, elements and sites to a block.

    su arrays: standard uncertainties of the fields of the same name (fractional, Å²), zero where a value is fixed.
    u_equivalent_su: of U_eq; without it, it is propagated from u_aniso_su as if the six U_ij were independent.
    scattering_source: where the form factors come from.
    """
    sites = len(crystal.labels)
    fract_su = np.zeros((sites, 3)) if fract_su is None else np.asarray(fract_su)
    tensor_su = np.zeros((sites, 3, 3)) if u_aniso_su is None else np.asarray(u_aniso_su)
    sphere_su = _equivalent_su(crystal, tensor_su) if u_equivalent_su is None else np.asarray(u_equivalent_su)
    occupied_su = np.zeros(sites) if occupancy_su is None else np.asarray(occupancy_su)
    set_item(block, "_space_group_name_H-M_alt", crystal.spacegroup)
    loop = block.init_loop("_space_group_symop_", ["id", "operation_xyz"])
    for number, index in enumerate(np.argsort(operation_numbers(crystal))):
        text = operation(np.asarray(crystal.rotations[index]), np.asarray(crystal.translations[index])).triplet()
        loop.add_row([str(number + 1), gemmi.cif.quote(text)])
    source = [gemmi.cif.quote(scattering_source)] if scattering_source else []
    loop = block.init_loop("_atom_type_", ["symbol", "scat_source"][: 1 + len(source)])
    for element in dict.fromkeys(crystal.elements):
        loop.add_row([element, *source])
    columns = ["label", "type_symbol", "fract_x", "fract_y", "fract_z", "U_iso_or_equiv", "adp_type", "occupancy"]
    columns += ["site_symmetry_multiplicity", *(["disorder_group"] if crystal.parts else [])]
    loop = block.init_loop("_atom_site_", columns)
    multiplicity = np.bincount(crystal.atom_site, minlength=sites)
    spheres = np.asarray(u_equivalent(crystal.u_aniso, crystal.cell))
    for site, label in enumerate(crystal.labels):
        position = [format_su(float(crystal.fract[site, axis]), float(fract_su[site, axis])) for axis in range(3)]
        sphere = format_su(float(spheres[site]), float(sphere_su[site]), decimals=5)
        kind = "Uiso" if crystal.isotropic[site] else "Uani"
        occupied = format_su(float(crystal.occupancy[site]), float(occupied_su[site]), decimals=4)
        row = [gemmi.cif.quote(label), crystal.elements[site], *position, sphere, kind, occupied]
        group = [str(crystal.parts[site] or ".")] if crystal.parts else []
        loop.add_row([*row, str(multiplicity[site]), *group])
    anisotropic = [site for site in range(sites) if not crystal.isotropic[site]]
    if anisotropic:
        tags = [f"U_{i + 1}{j + 1}" for i, j in _TENSOR]
        loop = block.init_loop("_atom_site_aniso_", ["label", *tags])
        for site in anisotropic:
            values = _tensor_values(crystal, site, tensor_su[site])
            loop.add_row([gemmi.cif.quote(crystal.labels[site]), *values])


def _tensor_values(crystal: Crystal, site: int, su: Float[Array, "3 3"]) -> list[str]:
    """U_ij as text, rounded to their uncertainties unless that makes the tensor indefinite: then with more digits."""
    tensor = np.asarray(crystal.u_aniso[site])
    values: list[str] = []
    for extra in range(_MOST_EXTRA + 1):
        values = [format_su(float(tensor[i, j]), float(su[i, j]), decimals=6, extra=extra) for i, j in _TENSOR]
        written = np.zeros((3, 3))
        for (i, j), text in zip(_TENSOR, values, strict=True):
            written[i, j] = written[j, i] = float(text.partition("(")[0])
        if np.linalg.eigvalsh(np.asarray(u_cartesian(written, crystal.cell))).min() > 0:
            break
    return values


def operation_numbers(crystal: Crystal) -> Int[Array, " ops"]:
    """The number that each operation has in the written list: from 1, the identity first as the dictionary asks."""
    plain = np.all(np.asarray(crystal.rotations) == np.eye(3, dtype=int), axis=(1, 2))
    identity = plain & np.all(np.mod(np.asarray(crystal.translations), 1) == 0, axis=1)
    return np.argsort(np.argsort(~identity, kind="stable"), kind="stable") + 1


def _equivalent_su(crystal: Crystal, tensor_su: Float[Array, "sites 3 3"]) -> Float[Array, "sites"]:
    """Uncertainty of U_eq = sum_ij c_ij U_ij with c_ij = a*_i a*_j (a_i . a_j) / 3, for independent U_ij, i <= j."""
    direct, reciprocal = direct_matrix(crystal.cell), reciprocal_matrix(crystal.cell)
    lengths = np.linalg.norm(reciprocal, axis=0)
    coefficients = np.outer(lengths, lengths) * (direct.T @ direct) / 3
    upper = np.triu(2 * coefficients) - np.diag(np.diag(coefficients))
    independent = np.sqrt(((upper * tensor_su) ** 2).sum((1, 2)))
    return np.where(crystal.isotropic, tensor_su[:, 0, 0], independent)
