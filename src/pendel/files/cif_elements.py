"""The element of a site, from type symbols and labels as programs and people write them."""

import re

import gemmi

from pendel.base import InputError, listed
from pendel.crystal.structure import ELEMENTS

_WATER = ("WAT", "WATER", "HOH", "DOD", "H2O", "D2O", "OH2")  # names of a water molecule, which is its oxygen atom
_DEUTERIUM = "D"


class ElementReader:
    """Reads the elements of one block and remembers what had to be assumed."""

    def __init__(self, formula: str, where: str) -> None:
        named = set(re.findall(r"[A-Z][a-z]?", formula))
        placeholder = re.fullmatch(r"\s*C\s*1?\s*", formula)  # of a program that does not know the formula
        self.declared = set() if placeholder else {"H" if name == _DEUTERIUM else name for name in named}
        self.where = where
        self.charged: list[str] = []
        self.taken: list[str] = []  # "label as element"
        self.undeclared: list[str] = []

    def element(self, type_symbol: str, label: str) -> str:
        """The element: of the type symbol (O2-, Si4+, Sival, H2O), else of the label; D is H to electrons."""
        candidates = _of_type(type_symbol) if type_symbol else _of_label(label)
        known = ["H" if name == _DEUTERIUM else name for name in candidates if name in ELEMENTS or name == _DEUTERIUM]
        if not known:
            raise InputError(
                found=f"unknown element '{type_symbol or label}' of {label} in {self.where}",
                expected="an element symbol H..Lr, with or without charge",
                do="correct _atom_site_type_symbol, or mark the site as dummy (_atom_site_calc_flag dum)",
            )
        chosen = next((name for name in known if name in self.declared), known[0])
        if re.search(r"\d[+-]|[+-]\d|[A-Za-z][+-]$", type_symbol) and type_symbol not in self.charged:
            self.charged.append(type_symbol)
        literal = _start(type_symbol) if type_symbol else "O" if _is_water(label) else known[0]
        if _is_water(type_symbol or label) or chosen != ("H" if literal == _DEUTERIUM else literal):
            self.taken.append(f"{label} as {chosen}")
        elif self.declared and chosen not in self.declared:
            self.undeclared.append(f"{label} as {chosen}")
        return chosen

    def notes(self) -> list[str]:
        """What was assumed, one note for each kind."""
        found = []
        if self.charged:
            found.append(f"the charges of {listed(self.charged)} are not used: atoms scatter as neutral ones")
        if self.taken:
            found.append(f"elements from names and formula: {listed(self.taken)}")
        if self.undeclared:
            found.append(f"elements that the chemical formula does not have: {listed(self.undeclared)}")
        return found


def _is_water(name: str) -> bool:
    return re.sub(r"(?<=[A-Z])\d*[A-Z]?$", "", name.upper()) in _WATER or name.upper() in _WATER


def _of_type(type_symbol: str) -> list[str]:
    """Symbols that a type symbol may mean, the likeliest first; of a small molecule its heavier atom."""
    plain = re.sub(r"[^A-Za-z\d].*$|\d*[+-].*$", "", type_symbol)
    parts = re.findall(r"[A-Z][a-z]?", plain)
    is_molecule = re.fullmatch(r"(?:[A-Z][a-z]?\d*)+", plain) and {"H", _DEUTERIUM} & set(parts)
    heavy = [name for name in parts if name not in ("H", _DEUTERIUM) and name in ELEMENTS] if is_molecule else []
    return heavy if heavy and re.search(r"\d[A-Za-z]", plain) else [_start(type_symbol), *heavy]


def _start(type_symbol: str) -> str:
    """The letters that a type symbol begins with, as a symbol is written, without words such as val."""
    return re.sub(r"(?<=[A-Za-z])(val|va|iso|ani)$", "", re.split(r"[^A-Za-z]", type_symbol)[0]).capitalize()


def _of_label(label: str) -> list[str]:
    """Symbols that a label may mean: its first two letters, then the first one; water is oxygen."""
    start = re.split(r"[^A-Za-z]", label)[0]
    if _is_water(label) or _is_water(start):
        return ["O"]
    found = [start[:2].capitalize(), start[:1].upper()]
    return [*found, "O"] if start.upper() == "W" else found  # W1 in a crystal without tungsten is water


def formula_of(block: gemmi.cif.Block) -> str:
    """The chemical formula of a block, '' without one."""
    texts = (block.find_value(tag) for tag in ("_chemical_formula_sum", "_chemical_formula.sum"))
    return next((gemmi.cif.as_string(text) for text in texts if text and not gemmi.cif.is_null(text)), "")
