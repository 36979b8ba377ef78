"""Bond lengths, angles and hydrogen bonds with their uncertainties as loops of a CIF block."""

import gemmi
import numpy as np
from jaxtyping import Float

from pendel.base import Array
from pendel.crystal.bonds import INCREMENT, SHORTEST_BOND, Atom, bond_angles, bond_lengths, find_angles, find_bonds
from pendel.crystal.hydrogen_bonds import find_hydrogen_bonds, hydrogen_bond_numbers
from pendel.crystal.structure import Crystal
from pendel.files.cif_structure import operation_numbers
from pendel.files.numbers import format_su, set_item

_RULE = """\
Bonds: no longer than the sum of the covalent radii of Cordero et al. (2008),
Dalton Trans., 2832, and the increment given here; none between metals, except in
crystals of metals only. One of each set of bonds and angles that are equal by
symmetry is listed. Uncertainties: standard deviations over posterior draws, so
that correlations between all coordinates count; those of the cell do not."""


def add_geometry(block: gemmi.cif.Block, crystal: Crystal, fract_draws: Float[Array, "draws sites 3"]) -> None:
    """Add the symmetry-unique bonds and angles of a crystal, and its hydrogen bonds.

    fract_draws: coordinates of posterior draws; a standard uncertainty is the standard deviation over them, and values
    that do not vary have none. An atom more than four cells away has no symmetry code; its bonds are left out.
    """
    numbers = operation_numbers(crystal).tolist()
    bonds = tuple(bond for bond in find_bonds(crystal) if _has_code(bond.atoms))
    angles = tuple(angle for angle in find_angles(crystal, bonds) if _has_code(angle.atoms))
    set_item(block, "_geom_special_details", _RULE)
    set_item(block, "_geom.bond_distance_incr", f"{INCREMENT:g}")
    set_item(block, "_geom.min_bond_distance_cutoff", f"{SHORTEST_BOND:g}")
    if bonds:
        columns = ["atom_site_label_1", "atom_site_label_2", "site_symmetry_1", "site_symmetry_2"]
        loop = block.init_loop("_geom_bond_", [*columns, "distance", "multiplicity"])
        lengths = _with_su(bond_lengths(crystal, bonds, crystal.fract), bond_lengths(crystal, bonds, fract_draws), 4)
        for bond, length in zip(bonds, lengths, strict=True):
            loop.add_row([*_names(crystal, bond.atoms, numbers), length, str(bond.multiplicity)])
    if angles:
        columns = [f"{item}_{end}" for item in ("atom_site_label", "site_symmetry") for end in (1, 2, 3)]
        loop = block.init_loop("_geom_angle", [*(f"_{column}" for column in columns), ""])
        values = _with_su(bond_angles(crystal, angles, crystal.fract), bond_angles(crystal, angles, fract_draws), 2)
        for angle, value in zip(angles, values, strict=True):
            loop.add_row([*_names(crystal, angle.atoms, numbers), value])
    _add_hydrogen_bonds(block, crystal, fract_draws, numbers)


def _add_hydrogen_bonds(
    block: gemmi.cif.Block, crystal: Crystal, fract_draws: Float[Array, "draws sites 3"], numbers: list[int]
) -> None:
    """Distances and the angle of every hydrogen bond D-H...A."""
    found = tuple(one for one in find_hydrogen_bonds(crystal) if _has_code(one.atoms))
    if not found:
        return
    best, draws = (hydrogen_bond_numbers(crystal, found, fract) for fract in (np.asarray(crystal.fract), fract_draws))
    values = [_with_su(best[name], draws[name], 1 if name == "angle" else 3) for name in ("DH", "HA", "DA", "angle")]
    columns = [f"{item}_{end}" for item in ("atom_site_label", "site_symmetry") for end in "DHA"]
    names = [*columns, "distance_DH", "distance_HA", "distance_DA", "angle_DHA"]
    loop = block.init_loop("_geom_hbond_", names)
    for one, *row in zip(found, *values, strict=True):
        loop.add_row([*_names(crystal, one.atoms, numbers), *row])


def _with_su(values: Float[Array, " n"], draws: Float[Array, "draws n"], decimals: int) -> list[str]:
    """Each value with the standard deviation of its draws."""
    spread = np.std(draws, axis=0, ddof=1) if len(draws) > 1 else np.zeros(len(values))
    return [format_su(float(value), float(su), decimals=decimals) for value, su in zip(values, spread, strict=True)]


def _names(crystal: Crystal, atoms: tuple[Atom, ...], numbers: list[int]) -> list[str]:
    """Labels, then symmetry codes n_klm: operation n of the written list, then k-5, l-5, m-5 whole cells."""
    labels = [gemmi.cif.quote(crystal.labels[atom.site]) for atom in atoms]
    codes = [f"{numbers[atom.operation]}_{''.join(str(5 + cells) for cells in atom.shift)}" for atom in atoms]
    return labels + ["." if code == "1_555" else code for code in codes]


def _has_code(atoms: tuple[Atom, ...]) -> bool:
    return all(-5 <= cells <= 4 for atom in atoms for cells in atom.shift)
