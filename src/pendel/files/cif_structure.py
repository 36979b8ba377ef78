"""Symmetry and sites of a crystal as loops of a CIF block."""

import gemmi
import numpy as np
from jaxtyping import Float, Int

from pendel.base import Array
from pendel.crystal.cell import TENSOR, u_cartesian, u_equivalent
from pendel.crystal.refined import Refined
from pendel.crystal.structure import Crystal
from pendel.crystal.tabulated import operation, tabulated
from pendel.files.cif_flags import COLUMNS, site_flags
from pendel.files.numbers import format_su, set_item
from pendel.files.spacegroup import UNKNOWN_SETTING

_MOST_EXTRA = 6  # digits


def add_structure(
    block: gemmi.cif.Block,
    refined: Refined,
    scattering_source: str | None = None,
) -> None:
    """Add space group, operations, elements and sites to a block; where an uncertainty is zero, none is written.

    scattering_source: where the form factors come from.
    """
    crystal = refined.crystal
    sites = len(crystal.labels)
    _add_group(block, crystal)
    loop = block.init_loop("_space_group_symop_", ["id", "operation_xyz"])
    for number, index in enumerate(np.argsort(operation_numbers(crystal))):
        text = operation(np.asarray(crystal.rotations[index]), np.asarray(crystal.translations[index])).triplet()
        loop.add_row([str(number + 1), gemmi.cif.quote(text)])
    source = [gemmi.cif.quote(scattering_source)] if scattering_source else []
    loop = block.init_loop("_atom_type_", ["symbol", "scat_source"][: 1 + len(source)])
    for element in dict.fromkeys(crystal.elements):
        loop.add_row([element, *source])
    columns = ["label", "type_symbol", "fract_x", "fract_y", "fract_z", "U_iso_or_equiv", "adp_type", "occupancy"]
    parts = ["disorder_assembly", "disorder_group"] if crystal.disorder else []
    flags = site_flags(crystal) if crystal.hydrogen or crystal.restraints else [()] * sites
    told = COLUMNS if crystal.hydrogen or crystal.restraints else ()
    loop = block.init_loop("_atom_site_", [*columns, "site_symmetry_multiplicity", *parts, *told])
    multiplicity = np.bincount(crystal.atom_site, minlength=sites)
    spheres = np.asarray(u_equivalent(crystal.u_aniso, crystal.cell))
    for site, label in enumerate(crystal.labels):
        coordinates = zip(crystal.fract[site], refined.fract_su[site], strict=True)
        position = [format_su(float(x), float(su)) for x, su in coordinates]
        sphere = format_su(float(spheres[site]), float(refined.u_equivalent_su[site]), decimals=5)
        kind = "Uiso" if crystal.isotropic[site] else "Uani"
        occupied = format_su(float(crystal.occupancy[site]), float(refined.occupancy_su[site]), decimals=4)
        row = [gemmi.cif.quote(label), crystal.elements[site], *position, sphere, kind, occupied]
        part = [gemmi.cif.quote(text) if text else "." for text in crystal.disorder[site]] if parts else []
        loop.add_row([*row, str(multiplicity[site]), *part, *flags[site]])
    anisotropic = [site for site in range(sites) if not crystal.isotropic[site]]
    if anisotropic:
        tags = [f"U_{i + 1}{j + 1}" for i, j in TENSOR]
        loop = block.init_loop("_atom_site_aniso_", ["label", *tags])
        for site in anisotropic:
            values = _tensor_values(crystal, site, refined.u_aniso_su[site])
            loop.add_row([gemmi.cif.quote(crystal.labels[site]), *values])


def _add_group(block: gemmi.cif.Block, crystal: Crystal) -> None:
    """Symbol and number of the space group, `?` where the operations are those of no tabulated setting."""
    known = tabulated(crystal.rotations, crystal.translations)
    block.set_pair("_space_group_IT_number", "?" if known is None else str(known.number))
    if known is None and crystal.spacegroup == UNKNOWN_SETTING:
        block.set_pair("_space_group_name_H-M_alt", "?")
    else:
        set_item(block, "_space_group_name_H-M_alt", crystal.spacegroup)


def _tensor_values(crystal: Crystal, site: int, su: Float[Array, "3 3"]) -> list[str]:
    """U_ij as text, rounded to their uncertainties unless that makes the tensor indefinite: then with more digits."""
    tensor = np.asarray(crystal.u_aniso[site])
    values: list[str] = []
    for extra in range(_MOST_EXTRA + 1):
        values = [format_su(float(tensor[i, j]), float(su[i, j]), decimals=6, extra=extra) for i, j in TENSOR]
        written = np.zeros((3, 3))
        for (i, j), text in zip(TENSOR, values, strict=True):
            written[i, j] = written[j, i] = float(text.partition("(")[0])
        if np.linalg.eigvalsh(np.asarray(u_cartesian(written, crystal.cell))).min() > 0:
            break
    return values


def operation_numbers(crystal: Crystal) -> Int[Array, " ops"]:
    """The number that each operation has in the written list: from 1, the identity first as the dictionary asks."""
    plain = np.all(np.asarray(crystal.rotations) == np.eye(3, dtype=int), axis=(1, 2))
    identity = plain & np.all(np.mod(np.asarray(crystal.translations), 1) == 0, axis=1)
    return np.argsort(np.argsort(~identity, kind="stable"), kind="stable") + 1
