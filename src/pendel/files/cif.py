"""Crystal structures from files of any origin: CIFs of refinement programs and databases, and SHELX files."""

from dataclasses import replace
from pathlib import Path
from typing import cast

import gemmi
import numpy as np

from pendel.base import NO_HYDROGEN, InputError, Note, listed
from pendel.crystal.cell import Cell
from pendel.crystal.checks import FULL_OCCUPANCY, check_cell
from pendel.crystal.sites import Sites
from pendel.crystal.structure import Crystal, make_crystal
from pendel.files.cif_contents import compare_contents
from pendel.files.cif_positions import settled_sites
from pendel.files.cif_restraints import read_restraints
from pendel.files.cif_sites import read_sites
from pendel.files.contents import Contents, Found, Site
from pendel.files.document import find_block, read_cif
from pendel.files.numbers import CELL_ITEMS
from pendel.files.spacegroup import read_spacegroup

_NEEDED = ("_cell_", "_cell.", "_symmetry_", "_space_group", "_atom_site")  # items that must not contradict themselves
SHELX_SUFFIXES = (".ins", ".res")


def read_crystal(
    path: str | Path, *, block: str | None = None, hydrogen: bool = True, fullest: float = FULL_OCCUPANCY
) -> Crystal:
    """The crystal structure of a CIF or a SHELX file (.ins, .res), with its restraints.

    The structure is checked, and special positions and tensors are put exactly onto their symmetry.

    Args:
        path: the file; standard uncertainties in brackets are read over.
        block: name or number (from 1) of the data block, needed only when several hold atoms.
        hydrogen: keep hydrogen and deuterium sites.
        fullest: largest sum of the occupancies of one place; a refinement may find more than 1.

    Displacements are read from U or B, anisotropic or isotropic; sites without any get U_iso 0.01 Å². Whatever had to
    be assumed stands in the crystal's `notes`.

    Raises InputError for a missing file, a file that is not a CIF, no or several structures, missing cell, unreadable
    symmetry or numbers, unknown elements, and everything that `make_crystal` refuses.
    """
    path = Path(path)
    is_shelx = path.suffix.lower() in SHELX_SUFFIXES
    contents = _read_shelx(path, block) if is_shelx else _read_cif(path, block, hydrogen=hydrogen)
    notes = [*contents.notes]
    sites = settled_sites(contents.sites, contents.group, contents.cell, notes)
    if not hydrogen:
        kept = [site for site in sites if site.element != "H"]
        if len(kept) < len(sites):
            notes = [*notes, Note(f"{len(sites) - len(kept)} hydrogen sites left out", NO_HYDROGEN)]
        sites = kept
    if not sites:
        raise InputError(
            found=f"no usable atoms in {path.name}", expected="at least one site", do="give a complete structure"
        )
    crystal = make_crystal(
        name=path.name,
        cell=contents.cell,
        spacegroup=contents.group.symbol,
        rotations=contents.group.rotations,
        translations=contents.group.translations,
        sites=_columns(sites),
        notes=tuple(notes),
        fullest=fullest,
    )
    restraints, told = contents.finish(crystal)
    return replace(crystal, restraints=restraints, notes=(*crystal.notes, *told))


def _read_shelx(path: Path, block: str | None) -> Contents:
    try:
        from pendel.files.shelx import read_shelx  # an environment of conda may lack the package for it
    except ImportError as error:
        raise InputError(
            found=f"the package {error.name} for SHELX files such as {path.name} is not installed",
            expected="shelxfile of PyPI",
            do="install it with `pip install shelxfile`, or give the structure as a CIF",
        ) from error
    return read_shelx(path, block)


def _read_cif(path: Path, name: str | None, *, hydrogen: bool) -> Contents:
    """What the block of a CIF holds that was named, or the only one with atoms."""
    file = read_cif(
        path, "a CIF file", "give the CIF of a structure, or a SHELX file whose name ends with .ins or .res"
    )
    block = _structure_block(file.document, path, name)
    where = f"{path.name}, block {block.name}"
    notes = [*file.notes, *_without_repetitions(block, where)]
    cell = _cell(block, where)
    check_cell(where, cell)
    group = read_spacegroup(block, cell, where)
    sites, told = read_sites(block, cell, where)
    notes += [*group.notes, *told]
    if block.find_value("_cell_modulation_dimension"):
        notes.append("the structure is modulated; only its average structure is read")

    def finish(crystal: Crystal) -> Found:
        restraints, left_out = read_restraints(block, crystal)
        return restraints, [*compare_contents(block, crystal, hydrogen=hydrogen), *left_out]

    return Contents(cell, group, sites, notes, finish)


def _columns(rows: list[Site]) -> Sites:
    disorder = tuple(row.disorder for row in rows)
    variables = tuple(row.free_variable for row in rows)
    return Sites(
        labels=tuple(row.label for row in rows),
        elements=tuple(row.element for row in rows),
        fract=np.array([row.fract for row in rows]),
        u_aniso=np.array([row.u_aniso for row in rows]),
        occupancy=np.array([row.occupancy for row in rows]),
        isotropic=tuple(row.isotropic for row in rows),
        disorder=disorder if any(map(any, disorder)) else (),
        free_variable=variables if any(variables) else (),
    )


def _structure_block(document: gemmi.cif.Document, path: Path, name: str | None) -> gemmi.cif.Block:
    """The one block with atoms, or the one that was named."""
    if name is not None:
        return find_block(document, name, path)
    candidates = [candidate for candidate in document if _has_atoms(candidate)]
    if not candidates:
        raise InputError(
            found=f"no atoms in {path.name} ({len(document)} data blocks){_instead(document)}",
            expected="a block with _atom_site_fract_x",
            do="give the CIF of a structure",
        )
    if len(candidates) > 1:
        names = listed(candidate.name for candidate in candidates)
        raise InputError(
            found=f"{len(candidates)} structures in {path.name}",
            expected="one structure",
            do=f"leave one of {names} in the file, or name it with --block",
        )
    return candidates[0]


def _has_atoms(block: gemmi.cif.Block) -> bool:
    """Whether some atom has coordinates."""
    columns = (block.find_values(tag) for tag in ("_atom_site_fract_x", "_atom_site.fract_x"))
    return any(text and not gemmi.cif.is_null(text) for column in columns for text in column)


def _instead(document: gemmi.cif.Document) -> str:
    """What the file holds instead of a structure in fractional coordinates, in words."""
    tags = {
        "_atom_site_Cartn_x": "Cartesian coordinates",
        "_atom_site.Cartn_x": "Cartesian coordinates",
        "_diffrn_zone_axis_id": "frames and intensities of a data file",
        "_refln_index_h": "reflections",
        "_diffrn_refln_index_h": "reflections",
    }
    found = (words for tag, words in tags.items() if any(len(block.find_values(tag)) for block in document))
    words = next(found, None)
    return "" if words is None else f"; only {words} are there"


def _without_repetitions(block: gemmi.cif.Block, where: str) -> list[str]:
    """Leave each item once in the block, the first with a value; notes say which were repeated or have none.

    Raises InputError for different values of an item that a structure needs.
    """
    pairs: dict[str, list[tuple[str, gemmi.cif.Item]]] = {}
    for item in block:
        if item.pair is not None:
            tag, text = cast(tuple[str, str], item.pair)
            pairs.setdefault(tag, []).append((gemmi.cif.as_string(text).strip(), item))
    empty, repeated = [], []
    for tag, entries in pairs.items():
        filled = [entry for entry in entries if entry[0]]
        texts = sorted({text for text, _ in filled})
        if len(texts) > 1 and tag.lower().startswith(_NEEDED):
            raise InputError(
                found=f"{tag} stands {len(entries)} times in {where} ({listed(texts)})",
                expected="one value",
                do="leave the right one in the file",
            )
        if len(entries) > 1:
            repeated.append(tag)
        elif not filled:  # also ? and ., which are no text
            empty += [] if gemmi.cif.is_null(cast(tuple[str, str], entries[0][1].pair)[1]) else [tag]
        for _, item in [entry for entry in entries if entry is not (filled or entries)[0]]:
            item.erase()
    notes = [f"items without a value are ignored: {listed(empty)}"] if empty else []
    return notes + (
        [f"items that stand more than once, the first value counts: {listed(repeated)}"] if repeated else []
    )


def _cell(block: gemmi.cif.Block, where: str) -> Cell:
    """Cell [Å, degrees]; a missing or unreadable parameter is refused by name."""
    texts = [
        gemmi.cif.as_string(block.find_value(f"_cell_{key}") or block.find_value(f"_cell.{key}") or "?").strip()
        for key in CELL_ITEMS
    ]
    values = [gemmi.cif.as_number(text or "?") for text in texts]
    wrong = [
        f"_cell_{key}" + (f" '{text}'" if text else "")
        for key, text, value in zip(CELL_ITEMS, texts, values, strict=True)
        if not np.isfinite(value)
    ]
    if wrong:
        raise InputError(
            found=f"no number for {', '.join(wrong)} in {where}",
            expected="six cell parameters, with a point before the decimals",
            do="add or correct them",
        )
    a, b, c, alpha, beta, gamma = values
    return a, b, c, alpha, beta, gamma
