"""Crystal structures from SHELX files, .ins and .res: cell, symmetry, sites, restraints; parsed with shelxfile.

shelxfile (D. Kratzert) resolves free variables, displacement parameters that ride, PART, AFIX and residues. What it
would pass over in silence is sorted out before: it gets the lines that describe the structure, whole and one by one.
"""

import contextlib
import io
from pathlib import Path

import gemmi
import numpy as np
from shelxfile.misc.misc import ParseNumError, ParseOrderError, ParseParamError, ParseSyntaxError, ParseUnknownParam
from shelxfile.shelx.shelx import Shelxfile

from pendel.base import InputError
from pendel.crystal.cell import Cell, direct_matrix, u_from_cartesian
from pendel.crystal.checks import check_cell
from pendel.crystal.structure import ELEMENTS
from pendel.crystal.symmetry import stabiliser
from pendel.files.contents import Contents, Site
from pendel.files.document import read_text
from pendel.files.shelx_lines import Line, is_number, structure_lines
from pendel.files.shelx_restraints import find_restraints
from pendel.files.spacegroup import SpaceGroup, group_of

_FAILURES = (
    *(ParseNumError, ParseOrderError, ParseParamError, ParseSyntaxError, ParseUnknownParam),
    *(ValueError, LookupError, AttributeError, TypeError, NameError, ZeroDivisionError, OverflowError),
)
_CENTRING = {
    1: [(0, 0, 0)],
    2: [(0, 0, 0), (12, 12, 12)],
    3: [(0, 0, 0), (16, 8, 8), (8, 16, 16)],
    4: [(0, 0, 0), (0, 12, 12), (12, 0, 12), (12, 12, 0)],
    5: [(0, 0, 0), (0, 12, 12)],
    6: [(0, 0, 0), (12, 0, 12)],
    7: [(0, 0, 0), (12, 12, 0)],
}  # translations of LATT 1 (P) 2 (I) 3 (R obverse) 4 (F) 5 (A) 6 (B) 7 (C), in 24ths
RIGID_GROUP = 5  # AFIX mn with a last digit from here on keeps a rigid group together


def read_shelx(path: Path, block: str | None = None) -> Contents:
    """Cell, symmetry, sites and restraints of a SHELX file.

    Occupancies are those of a site, without the factor for special positions that SHELX files contain. Displacement
    parameters such as -1.2 become that multiple of the U_eq of the atom before.

    Raises InputError for what cannot be read, with the line, and when a block is named: SHELX files have none.
    """
    name = path.name
    if block is not None:
        raise InputError(found=f"block {block} of {name}", expected="a CIF with blocks", do="leave out --block")
    text, mended = read_text(path, "a SHELX file", "give the .ins or .res file of a structure")
    lines, notes = structure_lines(text, name)
    notes = [*mended, *notes]
    if not any(line.card == "CELL" and len(line.words) == 8 for line in lines):
        raise InputError(
            found=f"no complete CELL in {name}",
            expected="CELL with a wavelength and six parameters",
            do="add the card",
        )
    parsed = _parsed(lines, name)
    a, b, c, alpha, beta, gamma = map(float, parsed.cell or ())
    cell = (a, b, c, alpha, beta, gamma)
    check_cell(name, cell)
    group = _group(parsed, lines, name)
    notes += _notes_on_factors(lines)
    sites = [_site(atom, cell, group, name) for atom in parsed.atoms if not atom.qpeak]
    groups = sorted({int(atom.afix.mn) for atom in parsed.atoms if _in_rigid_group(atom)})
    if groups:
        notes.append(f"the rigid groups of AFIX {', '.join(map(str, groups))} are free")
    empty = [site.label for site in sites if site.occupancy == 0]
    if empty:
        notes.append(f"dummy or empty sites skipped: {', '.join(empty)}")
    return Contents(
        cell=cell,
        group=group,
        sites=[site for site in sites if site.occupancy != 0],
        notes=notes,
        finish=lambda crystal: find_restraints(parsed, crystal, lines),
    )


def label_of(atom) -> str:
    """Name of an atom, with its residue where it has one: C1_2."""
    return atom.name if atom.resinum == 0 else f"{atom.name}_{atom.resinum}"


def _parsed(lines: list[Line], name: str) -> Shelxfile:
    """The lines in shelxfile's objects; its messages go into the error that it raises."""
    parsed, told = Shelxfile(debug=True), io.StringIO()
    free = [float(word) for line in lines if line.card == "FVAR" for word in line.words[1:]]
    texts = ["TITL", *(_with_plain_coordinates(line, free, name) for line in lines)]
    try:
        with contextlib.redirect_stdout(told):
            parsed.read_string("\n".join(texts))
    except _FAILURES as error:
        line = lines[max(parsed.error_line_num - 1, 0)] if lines else Line(0, ("nothing",))
        raise InputError(
            found=f"line {line.number} of {name} cannot be read: {line.text[:80]} ({_reason(error)})",
            expected="a line as SHELXL writes it",
            do="correct the line or delete it",
        ) from error
    return parsed


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".rstrip(": ")


def _with_plain_coordinates(line: Line, free: list[float], name: str) -> str:
    """An atom's line with coordinates that are fixed (10.25) or free variables (30.5) as plain numbers."""
    if line.card == "FVAR" or len(line.words) < 5 or not line.words[1].isdigit() or len(line.card) > 4:
        return line.text
    words = list(line.words)
    for place in (2, 3, 4):
        if is_number(words[place]):
            words[place] = f"{_plain(float(words[place]), free, line, name):.9f}"
    return " ".join(words)


def _plain(value: float, free: list[float], line: Line, name: str) -> float:
    """10 m + p is p for m = 1, p fv(m) for m > 1 and |p| (1 - fv(-m)) for m < -1; any smaller number is itself."""
    number = int(abs(value) / 10 + 0.5)
    rest = abs(value) - 10 * number
    if number == 0:
        return value
    if number == 1:
        return rest if value > 0 else -rest
    if number > len(free):
        raise InputError(
            found=f"free variable {number} in line {line.number} of {name}, of {len(free)} on FVAR",
            expected="a value of every free variable",
            do="complete FVAR",
        )
    return rest * free[number - 1] if value > 0 else rest * (1 - free[number - 1])


def _group(parsed: Shelxfile, lines: list[Line], name: str) -> SpaceGroup:
    """The group that SYMM, the centring and the sign of LATT make: x,y,z and SYMM, each with all of them."""
    code = int(parsed.latt.N) if parsed.latt is not None else 1
    if abs(code) not in _CENTRING:
        raise InputError(
            found=f"LATT {code} in {name}", expected="a number from 1 to 7 with or without a minus", do="correct LATT"
        )
    texts = [" ".join(line.words[1:]) for line in lines if line.card == "SYMM"]
    try:
        listed = [gemmi.Op("x,y,z"), *(gemmi.Op(text.replace(" ", "")) for text in texts)]
    except (RuntimeError, ValueError) as error:
        raise InputError(
            found=f"a SYMM card of {name} cannot be read ({error})",
            expected="three parts such as -X, 0.5+Y, -Z",
            do="correct the operation",
        ) from error
    signs = [gemmi.Op("x,y,z"), gemmi.Op("-x,-y,-z")][: 2 if code > 0 else 1]
    operations = {}
    for operation in listed:
        for sign in signs:
            for shift in _CENTRING[abs(code)]:
                made = sign * operation
                made.tran = [a + b for a, b in zip(made.tran, shift, strict=True)]
                operations.setdefault(made.wrap().triplet(), made.wrap())
    return group_of(list(operations.values()))


def _notes_on_factors(lines: list[Line]) -> list[str]:
    """A note on the elements for which SFAC gives coefficients."""
    factors = [line.words[1:] for line in lines if line.card == "SFAC" and len(line.words) > 1]
    given = [words[0] for words in factors if not "".join(words).isalpha()]
    if not given:
        return []
    return [f"scattering factors of SFAC ({', '.join(given)}) are not used, those of Lobato & Van Dyck 2014 are"]


def _in_rigid_group(atom) -> bool:
    """Whether AFIX keeps the atom in a rigid group of its own, other than a hydrogen that rides."""
    code = atom.afix.mn if atom.afix is not None else 0
    return bool(code) and code % 10 >= RIGID_GROUP and not atom.is_hydrogen


def _site(atom, cell: Cell, group: SpaceGroup, name: str) -> Site:
    element = "H" if atom.element.capitalize() in ("D", "T") else atom.element.capitalize()
    label = label_of(atom)
    if element not in ELEMENTS:
        raise InputError(
            found=f"unknown element {atom.element} of {label} in {name}",
            expected="an element symbol H..Lr on SFAC",
            do="correct SFAC",
        )
    fract = np.array([atom.x, atom.y, atom.z], dtype=float)
    fixed = stabiliser(fract, group.rotations, group.translations, direct_matrix(cell))
    isotropic = not any(atom.uvals[1:])
    tensor = np.asarray(u_from_cartesian(atom.ueq * np.eye(3), cell)) if isotropic else np.array(atom.ucif, dtype=float)
    occupancy = round(float(atom.occupancy) * int(np.sum(fixed)), 6)
    disorder = ("", str(atom.part.n) if atom.part.n else "")
    variable = int(atom.fvar) if abs(atom.fvar) > 1 else 0
    return Site(label, element, fract, tensor, occupancy, isotropic, disorder, free_variable=variable)
