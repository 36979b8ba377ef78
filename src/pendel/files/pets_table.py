"""Items and loop columns of one CIF block, by name, with the places in the file they came from."""

import dataclasses
import re
from pathlib import Path
from typing import cast

import gemmi
import numpy as np
from jaxtyping import Float, Int

from pendel.base import Array, InputError, listed
from pendel.files.document import CifFile, find_block, read_cif

LARGEST = 1e9  # of an integer in a loop
_GIVE = "give the frame-wise file: ..._dyn.cif_pets of PETS2, or that of `dials.export format=pets`"
_EXTRACT = "take the data that Jana2020 embedded out of it with `pendel data extract FILE.cif OUT.cif_pets`"


@dataclasses.dataclass(frozen=True)
class PetsTable:
    """One data block. Names are lower case without the leading underscore, dots read as underscores.

    `pairs` maps a name to its (text, line) entries, more than one when the item is repeated; `columns` maps a name to
    the texts of a loop column; `loops` maps it to (line of the loop, number of columns). `text` is the whole
    file, `notes` say what was mended in it.
    """

    path: Path
    pairs: dict[str, list[tuple[str, int]]]
    columns: dict[str, list[str]]
    loops: dict[str, tuple[int, int]]
    text: str
    notes: tuple[str, ...]

    @property
    def name(self) -> str:
        """The file's name without its folder."""
        return self.path.name

    def has(self, name: str) -> bool:
        """Whether there is a loop column with at least one row."""
        return bool(self.columns.get(name))

    def where(self, name: str) -> str:
        """`file, line n` of an item."""
        entries = self.pairs.get(name)
        return f"{self.name}, line {entries[0][1]}" if entries else self.name

    def texts(self, name: str) -> list[str]:
        """The values of an item, unquoted, whether it stands alone, is repeated, or is in a loop."""
        found = [gemmi.cif.as_string(text) for text, _ in self.pairs.get(name, [])]
        found += [gemmi.cif.as_string(text) for text in self.columns.get(name, [])]
        return [text for text in found if text]

    def number(self, name: str) -> float | None:
        """The value of an item without its standard uncertainty; None when it is absent, `?` or `.`."""
        texts = self.texts(name)
        if not texts:
            return None
        values = [gemmi.cif.as_number(text) for text in texts]
        if np.isnan(values[0]):
            raise InputError(
                found=f"{self.where(name)}: _{name} {texts[0]!r}", expected="a number", do="correct that value"
            )
        if any(value != values[0] for value in values):
            raise InputError(
                found=f"{self.where(name)}: _{name} stands {len(values)} times ({listed(texts)})",
                expected="one value",
                do="leave the right one in the file",
            )
        return values[0]

    def column(self, name: str) -> Float[Array, "rows"] | None:
        """A loop column as numbers, NaN where there is none; None when the column is absent."""
        texts = self.columns.get(name)
        if texts is None:
            return None
        try:
            return np.array(texts, dtype=np.float64)
        except ValueError:  # a standard uncertainty in brackets, `?` or `.`
            return np.array([gemmi.cif.as_number(gemmi.cif.as_string(text)) for text in texts], dtype=np.float64)

    def integers(self, name: str) -> Int[Array, "rows"] | None:
        """A loop column as integers; None when it is absent. InputError names the first row that is not one."""
        values = self.column(name)
        if values is None:
            return None
        wrong = ~(np.abs(values) < LARGEST) | (np.round(values) != values)
        self.refuse(name, wrong, expected="an integer", do="correct the file")
        return values.astype(np.int64)

    def refuse(self, name: str, wrong: Array, *, expected: str, do: str) -> None:
        """InputError with the count, the first value and its line if any row of the column is `wrong`."""
        if not wrong.any():
            return
        row = int(np.flatnonzero(wrong)[0])
        line = self._line_of_row(name, row)
        place = f"line {line}" if line is not None else f"row {row + 1} of the loop"
        count = int(wrong.sum())
        first = f"{self.name}, {place}: _{name} {self.columns[name][row]}"
        found = first if count == 1 else f"{first} ({count} such rows)"
        raise InputError(found=found, expected=expected, do=do)

    def _line_of_row(self, name: str, row: int) -> int | None:
        """Line of a loop row; None when the loop's values cannot be counted by white space."""
        start, width = self.loops[name]
        lines = self.text.split("\n")
        values_before = row * width
        seen = 0
        for number, line in enumerate(lines[start:], start=start + 1):
            if re.match(r"\s*(loop_|_|#|$)", line, flags=re.IGNORECASE):
                continue
            if re.search(r"['\";]", line):
                return None
            seen += len(line.split("#")[0].split())
            if seen > values_before:
                return number
        return None


def open_pets(path: Path, block: str | None = None) -> PetsTable:
    """The block of a CIF that holds frame-wise intensities.

    block: its name, or its number from 1, needed when several blocks hold intensities. Raises InputError for a missing
    or unreadable file, a file that is not a CIF, an unknown block, and one without reflections.
    """
    file = read_cif(path, "a .cif_pets file as PETS2 or DIALS writes it", _GIVE)
    blocks = list(file.document) if block is None else [find_block(file.document, block, path)]
    tables = [_table(path, found, file) for found in blocks]
    measured = [
        (found, table) for found, table in zip(blocks, tables, strict=True) if table.has("refln_intensity_meas")
    ]
    if not measured:
        embedded = any("jana_m90_file" in table.pairs for table in tables)
        raise InputError(
            found=f"{path.name}: no reflections (no rows of _refln_intensity_meas){_instead(tables)}",
            expected="frame-wise intensities in a _refln_ loop",
            do=_EXTRACT if embedded else _GIVE,
        )
    if len(measured) > 1:
        raise InputError(
            found=f"{path.name}: intensities in {len(measured)} blocks ({listed(found.name for found, _ in measured)})",
            expected="one crystal in a file",
            do="split the file into one for each block, or give the block's number or name: read_pets(path, block=...)",
        )
    return measured[0][1]


def _instead(tables: list[PetsTable]) -> str:
    """What the file holds instead of frame-wise intensities, in words."""
    if any(table.has("diffrn_refln_index_h") for table in tables):
        return ", only a _diffrn_refln_ loop without frames, as `dials.export format=cif` writes it"
    if any(table.has("refln_index_h") for table in tables):
        return ", only reflections of another kind"
    return ", only a structure" if any(table.has("atom_site_fract_x") for table in tables) else ""


def _table(path: Path, block: gemmi.cif.Block, file: CifFile) -> PetsTable:
    pairs: dict[str, list[tuple[str, int]]] = {}
    columns: dict[str, list[str]] = {}
    loops: dict[str, tuple[int, int]] = {}
    for item in block:
        if item.pair is not None:
            tag, text = cast(tuple[str, str], item.pair)
            pairs.setdefault(_plain(tag), []).append((text, item.line_number))
        elif item.loop is not None:
            values, width = item.loop.values, item.loop.width()  # bound once: each access rebuilds the list
            for position, tag in enumerate(item.loop.tags):
                columns[_plain(tag)] = values[position::width]
                loops[_plain(tag)] = (item.line_number, width)
    return PetsTable(path, pairs, columns, loops, file.text, file.notes)


def _plain(tag: str) -> str:
    return tag.lstrip("_").replace(".", "_").lower()
