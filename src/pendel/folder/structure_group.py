"""The refined structure as a group of the posterior file, and back: the numbers of the CIF before they are rounded."""

import numpy as np
import xarray as xr

from pendel.crystal.refined import Refined
from pendel.crystal.sites import Sites
from pendel.crystal.structure import make_crystal

GROUP = "structure_data"
PARTS = ("disorder_assembly", "disorder_group")
AXES = ("x", "y", "z")


def structure_group(refined: Refined) -> xr.Dataset:
    """Cell, space group, operations and sites with their standard uncertainties."""
    crystal = refined.crystal
    site, tensor = ("site",), ("site", "axis", "axis_other")
    variables = {
        "element": (site, np.array(crystal.elements)),
        "isotropic": (site, np.array(crystal.isotropic)),
        "fract": (("site", "axis"), crystal.fract),
        "fract_su": (("site", "axis"), refined.fract_su),
        "U_aniso": (tensor, crystal.u_aniso),
        "U_aniso_su": (tensor, refined.u_aniso_su),
        "U_equivalent_su": (site, refined.u_equivalent_su),
        "occupancy": (site, crystal.occupancy),
        "occupancy_su": (site, refined.occupancy_su),
        "rotation": (("operation", "axis", "axis_other"), crystal.rotations),
        "translation": (("operation", "axis"), crystal.translations),
    }
    if crystal.disorder:
        columns = np.array(crystal.disorder, dtype=str).T
        variables |= {name: (site, column) for name, column in zip(PARTS, columns, strict=True)}
    return xr.Dataset(
        {name: (dims, np.asarray(values)) for name, (dims, values) in variables.items()},
        coords={"site": np.array(crystal.labels), "axis": np.array(AXES), "axis_other": np.array(AXES)},
        attrs={"name": crystal.name, "spacegroup": crystal.spacegroup, "cell": list(map(float, crystal.cell))},
    )


def read_structure(group: xr.Dataset) -> Refined:
    """The inverse of `structure_group`; occupancies of one place may add up to more than 1, which a note then says.

    Raises InputError where `make_crystal` does.
    """
    a, b, c, alpha, beta, gamma = map(float, group.attrs["cell"])
    crystal = make_crystal(
        name=str(group.attrs["name"]),
        cell=(a, b, c, alpha, beta, gamma),
        spacegroup=str(group.attrs["spacegroup"]),
        rotations=group["rotation"].values,
        translations=group["translation"].values,
        sites=Sites(
            labels=tuple(map(str, group["site"].values)),
            elements=tuple(map(str, group["element"].values)),
            fract=group["fract"].values,
            u_aniso=group["U_aniso"].values,
            occupancy=group["occupancy"].values,
            isotropic=tuple(map(bool, group["isotropic"].values)),
            disorder=tuple(zip(*(map(str, group[name].values) for name in PARTS if name in group), strict=True)),
        ),
        fullest=np.inf,
    )
    return Refined(
        crystal=crystal,
        fract_su=group["fract_su"].values,
        u_aniso_su=group["U_aniso_su"].values,
        u_equivalent_su=group["U_equivalent_su"].values,
        occupancy_su=group["occupancy_su"].values,
    )
