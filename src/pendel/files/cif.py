"""Crystal structures from files of any origin: CIFs of refinement programs and databases, and SHELX files."""

from dataclasses import replace
from pathlib import Path

import gemmi
import numpy as np

from pendel.base import InputError, Note
from pendel.crystal.cell import Cell
from pendel.crystal.checks import FULL_OCCUPANCY
from pendel.crystal.structure import Crystal, make_crystal
from pendel.files.cif_restraints import read_restraints
from pendel.files.cif_sites import read_sites
from pendel.files.contents import Contents, Site
from pendel.files.shelx import is_shelx, read_shelx
from pendel.files.spacegroup import read_spacegroup

NO_HYDROGEN = "no hydrogen"  # kind of the note that says how many sites were left out
_CELL = ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")


def read_crystal(
    path: str | Path, *, block: str | None = None, hydrogen: bool = True, fullest: float = FULL_OCCUPANCY
) -> Crystal:
    """The crystal structure of a CIF or a SHELX file (.ins, .res), with its restraints.

    The structure is checked, and special positions and tensors are put exactly onto their symmetry.

    Args:
        path: the file; standard uncertainties in brackets are read over.
        block: name of the data block, needed only when several hold atoms.
        hydrogen: keep hydrogen and deuterium sites.
        fullest: largest sum of the occupancies of one place; a refinement may find more than 1.

    Displacements are read from U or B, anisotropic or isotropic; sites without any get U_iso 0.01 Å². Whatever had to
    be assumed stands in the crystal's `notes`.

    Raises InputError for a missing file, a file that is not a CIF, no or several structures, missing cell, unreadable
    symmetry or numbers, unknown elements, and everything that `make_crystal` refuses.
    """
    path = Path(path)
    if is_shelx(path):
        if block is not None:
            raise InputError(found=f"block {block} of {path.name}", expected="a CIF", do="leave out the block")
        contents = read_shelx(_text(path), path.name)
    else:
        contents = _contents(_structure_block(_document(path), path, block), path)
    sites, notes = contents.sites, contents.notes
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
        notes=(*contents.group.notes, *notes),
        fullest=fullest,
        **_columns(sites),
    )
    restraints, left_out = contents.restraints(crystal)
    return replace(crystal, restraints=restraints, notes=(*crystal.notes, *left_out))


def _contents(block: gemmi.cif.Block, path: Path) -> Contents:
    """What a block of a CIF holds."""
    where = f"{path.name}, block {block.name}"
    cell = _cell(block, where)
    group = read_spacegroup(block, cell, where)
    sites, notes = read_sites(block, cell, where)
    if block.find_value("_cell_modulation_dimension"):
        notes.append("the structure is modulated; only its average structure is read")
    return Contents(cell, group, sites, notes, lambda crystal: read_restraints(block, crystal))


def _columns(sites: list[Site]) -> dict:
    """The sites as arguments of `make_crystal`."""
    return {
        "labels": tuple(site.label for site in sites),
        "elements": tuple(site.element for site in sites),
        "fract": np.array([site.fract for site in sites]),
        "u_aniso": np.array([site.u_aniso for site in sites]),
        "occupancy": np.array([site.occupancy for site in sites]),
        "isotropic": tuple(site.isotropic for site in sites),
        "parts": tuple(site.part for site in sites),
    }


def _text(path: Path) -> str:
    """The content of a file; text that is not UTF-8 is taken for Latin-1, as old programs wrote it."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(
            found=f"the file {path} cannot be read ({error.strerror})",
            expected="a CIF or SHELX file",
            do="check the path",
        ) from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def _document(path: Path) -> gemmi.cif.Document:
    """The parsed file."""
    text = _text(path)
    try:
        return gemmi.cif.read_string(text)
    except (ValueError, RuntimeError) as error:
        position = str(error).removeprefix("string:")
        raise InputError(
            found=f"the file {path.name} is not a CIF (line {position})", expected="a CIF file", do="correct that line"
        ) from error


def _structure_block(document: gemmi.cif.Document, path: Path, name: str | None) -> gemmi.cif.Block:
    """The one block with atoms, or the one that was named."""
    if name is not None:
        for candidate in document:
            if candidate.name.lower() == name.lower().removeprefix("data_"):
                return candidate
        raise InputError(
            found=f"no block {name} in {path.name}",
            expected=f"one of {', '.join(candidate.name for candidate in document) or 'none: the file is empty'}",
            do="correct the block name",
        )
    candidates = [candidate for candidate in document if _has_atoms(candidate)]
    if not candidates:
        raise InputError(
            found=f"no atoms in {path.name} ({len(document)} data blocks)",
            expected="a block with _atom_site_fract_x",
            do="give the CIF of a structure",
        )
    if len(candidates) > 1:
        names = ", ".join(candidate.name for candidate in candidates)
        raise InputError(
            found=f"{len(candidates)} structures in {path.name}",
            expected="one structure",
            do=f"leave one of {names} in the file, or name it: read_crystal(path, block=...)",
        )
    return candidates[0]


def _has_atoms(block: gemmi.cif.Block) -> bool:
    return any(len(block.find_values(tag)) for tag in ("_atom_site_fract_x", "_atom_site.fract_x"))


def _cell(block: gemmi.cif.Block, where: str) -> Cell:
    """Cell [Å, degrees]; a missing or unreadable parameter is refused by name."""
    values = [
        gemmi.cif.as_number(block.find_value(f"_cell_{key}") or block.find_value(f"_cell.{key}") or "?")
        for key in _CELL
    ]
    missing = [f"_cell_{key}" for key, value in zip(_CELL, values, strict=True) if not np.isfinite(value)]
    if missing:
        raise InputError(
            found=f"no number for {', '.join(missing)} in {where}", expected="six cell parameters", do="add them"
        )
    a, b, c, alpha, beta, gamma = values
    return a, b, c, alpha, beta, gamma
