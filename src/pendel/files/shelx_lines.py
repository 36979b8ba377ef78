"""The lines of a SHELX file that describe the structure, whole and without comments; what else stands in it, by name.

Continued lines (`=` at the end) are joined, comments (`!`, REM, lines that begin with a blank) and fragments
(FRAG ... FEND) are taken out, and the file ends at HKLF or END, before the peaks of a difference map.
"""

import math
from dataclasses import dataclass

from pendel.base import InputError

STRUCTURE = {"TITL", "CELL", "LATT", "SYMM", "SFAC", "FVAR", "PART", "AFIX", "RESI", "DEFS", "EQIV"}
NUMBERS = {"CELL", "FVAR", "PART", "AFIX"}  # nothing else stands on these cards
RESTRAINTS = {"DFIX", "DANG", "SADI", "SIMU", "RIGU", "ISOR", "FLAT"}
# Cards that say how to refine against X-ray data and what to print; they say nothing about the structure.
OTHERS = set(
    """
    ABIN ACTA ANSC ANSR BASF BEDE BLOC BOND BUMP CGLS CHIV CONF CONN BIND DAMP DELU DISP EADP EXTI EXYZ FEND FMAP
    FRAG FREE GRID HFIX HOPE HTAB L.S. LAUE LIST LONE MERG MOLE MORE MPLA NCSY NEUT OMIT PLAN PRIG RANG RTAB SAME
    SHEL SIZE SPEC STIR SUMP SWAT TEMP TIME TWIN TWST UNIT WGHT WIGL WPDB XNPD ZERR ANIS
    """.split()  # noqa: SIM905
)
REASONS = {
    "ANIS": "sites stay isotropic or anisotropic as their lines say",
    "BUMP": "contacts are not restrained",
    "CHIV": "chiral volumes are not restrained",
    "CONN": "bonds follow from distances and covalent radii",
    "BIND": "bonds follow from distances and covalent radii",
    "FREE": "bonds follow from distances and covalent radii",
    "DELU": "give RIGU for rigid bonds",
    "EADP": "only sites at one place with one tensor vibrate together",
    "EXYZ": "sites at one place move together in any case",
    "HFIX": "hydrogen atoms have to be in the file",
    "NCSY": "local symmetry is not restrained",
    "SAME": "give SADI for distances that are alike",
    "SUMP": "sums of occupancies are not restrained",
    "TWIN": "twinning is not modelled",
    "BASF": "twinning is not modelled",
}  # why a card is not used, where a user may expect it to be


@dataclass(frozen=True)
class Line:
    """One card or atom, continuation lines joined."""

    number: int  # in the file, from 1
    words: tuple[str, ...]

    @property
    def card(self) -> str:
        """The name of the card without a residue: SADI of SADI_TOL; the name of an atom for its line."""
        return self.words[0].split("_")[0].upper()

    @property
    def text(self) -> str:
        """The line as it was written, but for spaces and comments."""
        return " ".join(self.words)


def structure_lines(text: str, name: str) -> tuple[list[Line], list[str]]:
    """The lines that describe the structure, in their order, and notes on the cards that are not used.

    Raises InputError for a card that does not exist, an include file, a shift of the structure by MOVE, and a line that
    should go on and does not; `name` is that of the file.
    """
    kept, others = [], []
    in_fragment = False
    for line in _whole_lines(text, name):
        if line.card in ("HKLF", "END"):
            break
        in_fragment = (in_fragment or line.card == "FRAG") and line.card != "FEND"
        if line.card in NUMBERS and not all(map(is_number, line.words[1:])):
            _refuse(line, name)
        if line.card in STRUCTURE | RESTRAINTS or (_is_atom(line) and not in_fragment):
            kept.append(line)
        elif line.card in OTHERS:
            others.append(line.card)
        elif not in_fragment:
            _refuse(line, name)
    return kept, _notes(others)


def _whole_lines(text: str, name: str) -> list[Line]:
    found = []
    numbered = iter(enumerate(text.expandtabs().split("\n"), 1))
    for number, raw in numbered:
        if not raw.strip() or raw[0] == " " or raw[:3].upper() == "REM":
            continue
        if raw[:4].upper() == "TITL":
            continue
        content = raw.split("!")[0].rstrip()
        while content.endswith("="):
            following = next(numbered, None)
            if following is None:
                raise InputError(
                    found=f"line {number} of {name} ends with = and nothing follows",
                    expected="the rest of the line",
                    do="complete the line",
                )
            content = content[:-1] + " " + following[1].split("!")[0].rstrip()
        if content:
            found.append(Line(number, tuple(content.split())))
        if "=" in content:
            _refuse(found[-1], name)
    return found


def _is_atom(line: Line) -> bool:
    """Whether a line has the form of an atom: name, number of the element, three coordinates."""
    if line.card in STRUCTURE | RESTRAINTS | OTHERS | {"MOVE"} or len(line.words) < 5 or not line.words[1].isdigit():
        return False
    return all(is_number(word) for word in line.words[2:])


def is_number(word: str) -> bool:
    """Whether a word is a finite number."""
    try:
        return math.isfinite(float(word))
    except ValueError:
        return False


def _refuse(line: Line, name: str) -> None:
    what, do = f"card {line.card}", "correct the line or delete it"
    if line.words[0].startswith("+"):
        what, do = f"include file {line.words[0]}", "put its lines into the file"
    elif line.card == "MOVE":
        do = "let SHELXL apply it and use the .res file"
    raise InputError(
        found=f"{what} in line {line.number} of {name}: {line.text[:60]}",
        expected="an atom or a card that can be read",
        do=do,
    )


def _notes(cards: list[str]) -> list[str]:
    names = sorted(set(cards))
    reasons: dict[str, list[str]] = {}
    for card in names:
        if card in REASONS:
            reasons.setdefault(REASONS[card], []).append(card)
    notes = [f"not used: {', '.join(cards)} ({reason})" for reason, cards in reasons.items()]
    plain = [card for card in names if card not in REASONS]
    return [*notes, f"cards that say nothing about the structure: {', '.join(plain)}"] if plain else notes
