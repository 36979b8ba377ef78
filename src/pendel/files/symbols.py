"""Hermann-Mauguin symbols in the spellings of files, and the setting that a code of the dictionary names."""

import re

import gemmi

_AXIS = re.compile(r"-[1346]|(?:2[1]?|4[123]?|6[12345]?)/[a-emn]|(?:6[1-5]?|4[1-3]?|3[12]?|21?|1)|[a-emnd]")


def from_symbol(symbol: str, cell: tuple[float, ...]) -> gemmi.SpaceGroup | None:
    """The space group of a symbol in any usual spelling: P2(1)/c, P 2_1/c, F d -3 m Z, R -3 c :H, F 4/m -3 2/m.

    cell [Å, degrees]: tells hexagonal from rhombohedral axes. None when the symbol is not understood.
    """
    plain = re.sub(r"[()_]", "", symbol).strip()
    plain = re.sub(r"(?<=\S)\s+S$", ":1", re.sub(r"(?<=\S)\s+Z$", ":2", plain))
    if not plain or len(plain) > 40:
        return None
    found = gemmi.find_spacegroup_by_name(plain, cell[3], cell[5], "2")
    return found or gemmi.find_spacegroup_by_name(_short(plain), cell[3], cell[5], "2")


def _short(full: str) -> str:
    """The short symbol of a full one, e.g. F m -3 m of F 4/m -3 2/m; the first axis of 4/m and 6/m stays as it is."""
    symbol, colon, choice = full.partition(":")
    parts = _AXIS.findall(symbol[1:])
    is_cubic = len(parts) > 1 and parts[1] in ("3", "-3")
    keeps_first = len(parts) > 1 and re.match(r"[46]\d?/", parts[0]) and not is_cubic
    short = [part if keeps_first and not number else part.rpartition("/")[2] for number, part in enumerate(parts)]
    return " ".join([symbol[:1], *short]) + colon + choice


def in_setting(group: gemmi.SpaceGroup, code: str, *, free: bool) -> gemmi.SpaceGroup | None:
    """The same group in the setting of a coordinate-system code (1, 2, h, r, b1, -c2, cab, 1abc ...), None if unknown.

    free: any axes of the group's number; otherwise only settings with the group's own symbol.
    """
    code = code.lower().strip()
    origin, axes = (code[0], code[1:]) if code[:1] in ("1", "2", "h", "r") else ("", code)
    settings = [entry for entry in gemmi.spacegroup_table() if entry.number == group.number]
    for entry in settings:
        ext = entry.ext.strip("\0 ").lower()
        qualifier = entry.qualifier.lstrip("12") or ("abc" if len(axes) > 2 else "")
        if (not origin or ext == origin) and (not axes or qualifier == axes) and (free or entry.hm == group.hm):
            return entry
    return None
