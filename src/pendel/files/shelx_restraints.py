"""Restraint cards of a SHELX file as restraints on the sites of a crystal: names, residues, ranges, EQIV, defaults.

`C1 > O1` stands for all atoms from C1 to O1 in the order of the file, `C1 < O1` for the same backwards, `$C` for all
atoms of an element, both without hydrogen. SADI_TOL or SADI_3 applies to a class of residues or one of them. A
restraint that cannot be used is left out, and a note says which and why.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from shelxfile.shelx.shelx import Shelxfile

from pendel.crystal.atom import Atom
from pendel.crystal.restrained_pairs import bonded_pairs, here, is_terminal, near_pairs
from pendel.crystal.restraints import (
    Distance,
    NearlyIsotropic,
    Pair,
    Plane,
    Restraint,
    RigidBonds,
    SameDistances,
    SimilarTensors,
    check_restraint,
)
from pendel.crystal.structure import Crystal
from pendel.files.contents import Found
from pendel.files.shelx_lines import RESTRAINTS, Line
from pendel.files.spacegroup import operation_in

LARGEST_DISTANCE = 15.0  # Å; a DFIX or DANG above names a free variable


class Unusable(Exception):
    """A restraint that cannot be used; its text is the reason."""


@dataclass(frozen=True)
class _Named:
    """One atom of the file."""

    name: str  # in capitals
    residue: int
    element: str
    site: int | None  # of the crystal, None where the atom was left out


@dataclass(frozen=True)
class _File:
    """What names in a file mean: its atoms in their order, residues by class, operations of EQIV."""

    crystal: Crystal
    atoms: tuple[_Named, ...]
    residues: dict[str, tuple[int, ...]]
    images: dict[str, Atom]  # of site -1, by $n


def find_restraints(parsed: Shelxfile, crystal: Crystal, lines: list[Line]) -> Found:
    """The restraints of a parsed file for the crystal made of it, and notes on those that are left out."""
    file = _file(parsed, crystal, lines)
    numbered = [line for line in lines if line.card in RESTRAINTS]
    found: list[Restraint] = []
    notes = []
    for card, line in zip(parsed.restraints, numbered, strict=True):
        try:
            made = list(_restraints(card, line, file))
            for reason in filter(None, map(check_restraint, made)):
                raise Unusable(reason)
            found += made
        except Unusable as reason:
            notes.append(f"restraint in line {line.number} left out ({reason}): {line.text[:60]}")
    return tuple(found), notes


def _file(parsed: Shelxfile, crystal: Crystal, lines: list[Line]) -> _File:
    sites = {label.upper(): site for site, label in enumerate(crystal.labels)}
    atoms = []
    for atom in parsed.atoms:
        label = atom.name if atom.resinum == 0 else f"{atom.name}_{atom.resinum}"
        atoms.append(_Named(atom.name.upper(), atom.resinum, atom.element.upper(), sites.get(label.upper())))
    classes: dict[str, tuple[int, ...]] = {}
    for atom in parsed.atoms:
        known = classes.get(atom.resiclass.upper(), ())
        classes[atom.resiclass.upper()] = tuple(dict.fromkeys((*known, atom.resinum)))
    texts = {line.words[1]: "".join(line.words[2:]) for line in lines if line.card == "EQIV" and len(line.words) > 2}
    found = {name: operation_in(crystal, text) for name, text in texts.items()}
    images = {name: Atom(-1, *image) for name, image in found.items() if image is not None}
    return _File(crystal, tuple(atoms), classes, images)


def _restraints(card, line: Line, file: _File) -> Iterator[Restraint]:
    """The restraints of one card: of FLAT, DFIX and DANG one for each residue, of the others one in all."""
    groups = [_atoms(line, residue, file) for residue in _residues(line, file)]
    sites = [[atom.site for atom in group] for group in groups]
    match line.card:
        case "DFIX" | "DANG":
            if not 0 < abs(card.d) < LARGEST_DISTANCE:
                raise Unusable("the distance is a free variable")
            for group in groups:
                distance = Distance(card=line.card, pairs=_pairs(group), distance=abs(card.d), sd=card.s)
                yield replace(distance, at_least=card.d < 0)
        case "SADI":
            yield SameDistances(pairs=tuple(pair for group in groups for pair in _pairs(group)), sd=card.s)
        case "FLAT":
            for group in groups:
                yield Plane(atoms=tuple(dict.fromkeys(group)), sd=card.s)
        case "SIMU":
            yield from _simu(card, [near_pairs(file.crystal, own, card.dmax) for own in sites], file.crystal)
        case "RIGU":
            pairs = [bonded_pairs(file.crystal, own) for own in sites]
            sds = [(card.s1,) * len(direct) + (card.s2,) * len(through) for direct, through in pairs]
            both = tuple(pair for direct, through in pairs for pair in (*direct, *through))
            yield _rigid(both, tuple(sd for own in sds for sd in own), file.crystal)
        case "ISOR":
            ends, isotropic = is_terminal(file.crystal), file.crystal.isotropic
            chosen = [site for own in sites for site in dict.fromkeys(own) if not isotropic[site]]
            sds = tuple(card.st if ends[site] else card.s for site in chosen)
            yield NearlyIsotropic(atoms=tuple(map(here, chosen)), sds=sds)


def _simu(card, groups: list[tuple[Pair, ...]], crystal: Crystal) -> Iterator[Restraint]:
    ends = is_terminal(crystal)
    pairs = tuple(pair for group in groups for pair in group)
    sds = tuple(card.st if any(ends[atom.site] for atom in pair) else card.s for pair in pairs)
    yield SimilarTensors(pairs=pairs, sds=sds)


def _rigid(pairs: tuple[Pair, ...], sds: tuple[float, ...], crystal: Crystal) -> RigidBonds:
    """Without the pairs of which one is isotropic: such an atom moves alike in all directions."""
    kept = [row for row, pair in enumerate(pairs) if not any(crystal.isotropic[atom.site] for atom in pair)]
    return RigidBonds(pairs=tuple(pairs[row] for row in kept), sds=tuple(sds[row] for row in kept))


def _pairs(atoms: list[Atom]) -> tuple[Pair, ...]:
    if len(atoms) % 2:
        raise Unusable("an odd number of atoms")
    return tuple(zip(atoms[::2], atoms[1::2], strict=True))


def _residues(line: Line, file: _File) -> tuple[int, ...]:
    """The residues that a card applies to, by the ending of its name."""
    ending = line.words[0].upper().partition("_")[2]
    if not ending:
        return (0,)
    if ending == "*":
        return tuple(dict.fromkeys(atom.residue for atom in file.atoms))
    numbers = (int(ending),) if ending.isdigit() else file.residues.get(ending, ())
    known = tuple(number for number in numbers if any(atom.residue == number for atom in file.atoms))
    if not known:
        raise Unusable(f"no residue {ending}")
    return known


def _atoms(line: Line, residue: int, file: _File) -> list[Atom]:
    """The atoms that a card names, for one residue; all atoms but hydrogen where it names none."""
    words = [word.upper() for word in line.words[1:] if word[0].isalpha() or word[0] in "$<>"]
    if not words:
        if line.card not in ("SIMU", "RIGU", "ISOR"):
            raise Unusable("no atoms")
        return _heavy(atom for atom in file.atoms if atom.residue == residue)
    found: list[Atom] = []
    place = 0
    while place < len(words):
        word = words[place]
        if place + 2 < len(words) and words[place + 1] in "<>":
            found += _range(word, words[place + 1], words[place + 2], residue, file)
            place += 3
            continue
        found += _element(word, residue, file) if word.startswith("$") else [_atom(word, residue, file)]
        place += 1
    return found


def _range(first: str, arrow: str, last: str, residue: int, file: _File) -> list[Atom]:
    """All atoms but hydrogen from one to another, in the order of the file or against it."""
    start, end = (_row(name, residue, file) for name in (first, last))
    if (start > end) != (arrow == "<"):
        raise Unusable(f"{first} {arrow} {last} is against the order of the file")
    rows = range(start, end + 1) if arrow == ">" else range(start, end - 1, -1)
    return _heavy(file.atoms[row] for row in rows)


def _element(word: str, residue: int, file: _File) -> list[Atom]:
    chosen = [a for a in file.atoms if a.element == word[1:] and a.residue == residue and a.site is not None]
    if not chosen:
        raise Unusable(f"no atoms of element {word[1:]}")
    return [here(atom.site) for atom in chosen if atom.site is not None]


def _heavy(atoms: Iterable[_Named]) -> list[Atom]:
    """Those atoms that are in the structure and no hydrogen."""
    return [here(atom.site) for atom in atoms if atom.site is not None and atom.element not in ("H", "D")]


def _atom(word: str, residue: int, file: _File) -> Atom:
    """The atom of a name: C1, C1_2 of residue 2, C1_$1 an image by EQIV $1."""
    name, _, image = word.partition("_$")
    atom = file.atoms[_row(name, residue, file)]
    if atom.site is None:
        raise Unusable(f"{word} is not in the structure")
    if not image:
        return here(atom.site)
    if f"${image}" not in file.images:
        raise Unusable(f"EQIV ${image} is not an operation of the space group")
    return replace(file.images[f"${image}"], site=atom.site)


def _row(word: str, residue: int, file: _File) -> int:
    """The place of an atom in the file."""
    name, _, ending = word.partition("_")
    number = int(ending) if ending.isdigit() else residue
    if ending and not ending.isdigit():
        raise Unusable(f"{word} names no single residue")
    for row, atom in enumerate(file.atoms):
        if atom.name == name and atom.residue == number:
            return row
    raise Unusable(f"no atom {name}" + (f" in residue {number}" if number else ""))
