"""Does the cell hold what the chemical formula and Z say?"""

import re

import gemmi
import numpy as np

from pendel.crystal.structure import Crystal
from pendel.files.cif_elements import formula_of

SMALLEST_DIFFERENCE = (0.6, 0.05)  # atoms in the cell, and fraction; formulas are rounded
_Z = ("_cell_formula_units_Z", "_cell.formula_units_Z")


def compare_contents(block: gemmi.cif.Block, crystal: Crystal, *, hydrogen: bool) -> list[str]:
    """A note when multiplicities and occupancies of the sites give another composition than formula and Z.

    Without Z only the ratios are compared, for the Z that suits best. Hydrogen is compared only where it was read.
    """
    stated = _composition(formula_of(block), hydrogen=hydrogen)
    found: dict[str, float] = {}
    for site in np.asarray(crystal.atom_site):
        found[crystal.elements[site]] = found.get(crystal.elements[site], 0.0) + float(crystal.occupancy[site])
    if not stated or sum(stated.values()) < 1e-6 or set(stated) == {"C"} != set(found):
        return []
    texts = [gemmi.cif.as_string(text) for tag in _Z if (text := block.find_value(tag))]
    units = next((float(text) for text in texts if re.fullmatch(r"\d{1,4}(\.0*)?", text)), 0.0)
    source = f"formula and Z = {units:g} say"
    if units == 0:
        units = max(1.0, round(sum(found.values()) / sum(stated.values())))
        source = f"the formula says (with Z = {units:g})"
    wanted = {element: number * units for element, number in stated.items()}
    atoms, fraction = SMALLEST_DIFFERENCE
    differ = [
        element
        for element in {**wanted, **found}
        if abs(wanted.get(element, 0) - found.get(element, 0)) > max(atoms, fraction * wanted.get(element, 0))
    ]
    if not differ:
        return []
    if set(differ) == {"H"} and "H" not in found:
        return ["the formula has hydrogen, the list of sites has none"]
    return [f"the cell holds {_written(found)}, {source} {_written(wanted)}: check symmetry, occupancies and sites"]


def _composition(formula: str, *, hydrogen: bool) -> dict[str, float]:
    """Number of atoms of each element of a formula such as 'C12 H22 O11'; empty when it is written in another way."""
    found: dict[str, float] = {}
    for part in formula.replace(",", " ").split():
        match = re.fullmatch(r"([A-Z][a-z]?)(\d{0,6}(?:\.\d{1,6})?)", part)
        if match is None:
            return {}
        element = "H" if match[1] == "D" else match[1]
        found[element] = found.get(element, 0.0) + float(match[2] or 1)
    return found if hydrogen else {element: number for element, number in found.items() if element != "H"}


def _written(composition: dict[str, float]) -> str:
    return " ".join(f"{element}{number:.4g}" for element, number in sorted(composition.items()))
