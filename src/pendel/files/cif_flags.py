"""How each site was refined, in codes of the CIF core dictionary: riding hydrogen, restraints, special positions."""

import numpy as np

from pendel.crystal.restraints import Distance, Plane, SameDistances, atoms_of
from pendel.crystal.structure import Crystal

COLUMNS = ("calc_flag", "refinement_flags_posn", "refinement_flags_adp")


def site_flags(crystal: Crystal) -> list[tuple[str, str, str]]:
    """`_atom_site_calc_flag`, `..._refinement_flags_posn` and `..._refinement_flags_adp` of every site.

    calc: the position follows from the molecule, because hydrogen rides; d: from the data. Positions: D restrained in
    distances or planes, R riding, S on a symmetry element. Displacements: T a tensor that a symmetry element
    constrains, U restrained.
    """
    riding = {site for group in crystal.hydrogen if group.rides for site in group.hydrogens}
    restrained: tuple[set[int], set[int]] = (set(), set())
    for restraint in crystal.restraints:
        of_positions = isinstance(restraint, Distance | SameDistances | Plane)
        restrained[0 if of_positions else 1].update(atom.site for atom in atoms_of(restraint))
    special = np.bincount(crystal.atom_site, minlength=len(crystal.labels)) < len(crystal.rotations)
    return [
        (
            "calc" if site in riding else "d",
            "D" * (site in restrained[0]) + "R" * (site in riding) + "S" * bool(special[site]) or ".",
            "T" * bool(special[site] and not crystal.isotropic[site]) + "U" * (site in restrained[1]) or ".",
        )
        for site in range(len(crystal.labels))
    ]


def hydrogen_treatment(crystal: Crystal) -> str | None:
    """`_refine_ls_hydrogen_treatment`: constr (riding), refxyz (free positions, tied U), refall or mixed; None without.

    A hydrogen that belongs to no group is refined like every other atom.
    """
    kinds = {site: "constr" if group.rides else "refxyz" for group in crystal.hydrogen for site in group.hydrogens}
    found = {kinds.get(site, "refall") for site, element in enumerate(crystal.elements) if element == "H"}
    return found.pop() if len(found) == 1 else "mixed" if found else None
