"""Plain reading of a structure CIF for the slow implementation: operators and sites as written, nothing checked."""

import json
from pathlib import Path

import gemmi
import numpy as np

ORDER = ("11", "22", "33", "12", "13", "23")


def number(text: str) -> float:
    """A CIF number without its standard uncertainty in brackets."""
    return float(text.split("(")[0])


def read_sites(path: Path) -> tuple[list[str], list[tuple]]:
    """Operators x,y,z and anisotropic sites (element, xyz, U_ij [3 3] in Å², occupancy) of the only block."""
    block = gemmi.cif.read(str(path)).sole_block()
    tags = ("_symmetry_equiv_pos_as_xyz", "_space_group_symop_operation_xyz")
    operators = [gemmi.cif.as_string(text) for tag in tags for text in block.find_values(tag)]
    tensors = {}
    for row in block.find("_atom_site_aniso_", ["label", *(f"U_{axes}" for axes in ORDER)]):
        u11, u22, u33, u12, u13, u23 = (number(text) for text in list(row)[1:])
        tensors[row[0]] = np.array([[u11, u12, u13], [u12, u22, u23], [u13, u23, u33]])
    sites = []
    for row in block.find("_atom_site_", ["label", "type_symbol", "fract_x", "fract_y", "fract_z", "?occupancy"]):
        xyz = np.array([number(row[column]) for column in (2, 3, 4)])
        occupancy = number(row[5]) if row.has(5) else 1.0
        sites.append((row[1], xyz, tensors[row[0]], occupancy))
    return operators, sites


def read_coefficients() -> dict[str, tuple[list[float], list[float]]]:
    """Lobato & Van Dyck coefficients (a [Å], b [Å²]) per element, from the data file of the source tree."""
    path = Path(__file__).resolve().parents[2] / "src" / "pendel" / "data" / "lobato.json"
    return {element: (a, b) for element, (a, b) in json.loads(path.read_text())["coefficients"].items()}
