"""Restraints in a CIF block: the `_restr_` loops of the IUCr's restraints dictionary, read and written.

Distances and equal distances, similar, rigid and nearly isotropic displacement parameters have data names of their
own. Source: CIF restraints and constraints
dictionary, IUCr (2011), https://www.iucr.org/resources/cif/dictionaries/browse/cif_core_restraints.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import gemmi
import numpy as np

from pendel.crystal.atom import Atom
from pendel.crystal.residuals import residuals
from pendel.crystal.restraints import (
    Distance,
    NearlyIsotropic,
    Pair,
    Restraint,
    RigidBonds,
    SameDistances,
    SimilarTensors,
    check_restraint,
)
from pendel.crystal.structure import Crystal
from pendel.files.cif_structure import operation_numbers
from pendel.files.contents import Found
from pendel.files.spacegroup import listed_operators, operation_in

_LOOPS = ("distance", "equal_distance", "equal_distance_class", "U_similar", "U_rigid", "U_iso")
_LABELS = ("atom_site_label_1", "atom_site_label_2")

type Row = dict[str, str]


@dataclass(frozen=True)
class _Known:
    """The crystal, and its operations and whole cells by their numbers in the list of the file."""

    crystal: Crystal
    operations: dict[int, tuple[int, tuple[int, int, int]]]


def read_restraints(block: gemmi.cif.Block, crystal: Crystal) -> Found:
    """The restraints of a block for the crystal that was read from it, and notes on those that are left out."""
    notes = []
    written = {f"_restr_{loop}_" for loop in _LOOPS}
    for item in block:
        pair: Any = item.pair
        tags = item.loop.tags if item.loop is not None else [] if pair is None else [pair[0]]
        for tag in {tag for tag in tags if tag.lower().startswith("_restr_")}:
            if not any(tag.lower().startswith(start.lower()) for start in written):
                notes.append(f"restraints {'_'.join(tag.split('_')[:3])} are not used")
    texts = listed_operators(block) or ["x,y,z"]
    found_operations = {number: operation_in(crystal, text) for number, text in enumerate(texts, 1)}
    known = _Known(crystal, {number: found for number, found in found_operations.items() if found is not None})
    found: list[Restraint] = []
    readers = (_distances, _equal_distances, _similar, _rigid, _isotropic)
    for restraint in (made for read in readers for made in read(block, known, notes)):
        reason = check_restraint(restraint)
        if reason:
            notes.append(f"a restraint {restraint.card} is left out ({reason})")
        else:
            found.append(restraint)
    return tuple(found), list(dict.fromkeys(notes))


def _rows(block: gemmi.cif.Block, category: str) -> list[Row]:
    """Rows of one category as {short name: text}; a name that belongs to a longer category is not in it."""
    for name in ("atom_site_label_1", "atom_site_label", "class_id"):
        loop = block.find_loop(f"_restr_{category}_{name}").get_loop()
        if loop is not None:
            names = [tag[len(f"_restr_{category}_") :] for tag in loop.tags]
            values = [gemmi.cif.as_string(value) for value in loop.values]
            starts = range(0, len(values), len(names))
            return [dict(zip(names, values[start : start + len(names)], strict=True)) for start in starts]
    return []


def _number(row: Row, name: str) -> float:
    return gemmi.cif.as_number(row.get(name, "?"))


def _atom(row: Row, end: int, known: _Known) -> Atom | None:
    """The atom of a label and a symmetry code n_klm, operation n of the file's list; as it stands without a code."""
    label = row.get(f"atom_site_label_{end}", row.get("atom_site_label", ""))
    text = row.get(f"site_symmetry_{end}")
    if not text and label in known.crystal.labels:
        return Atom(known.crystal.labels.index(label), 0, (0, 0, 0))
    code = re.fullmatch(r"(\d+)(?:_(\d)(\d)(\d))?", text or "")
    operation = None if code is None else known.operations.get(int(code[1]))
    if label not in known.crystal.labels or code is None or operation is None:
        return None
    number, cells = operation
    a, b, c = (int(digit or 5) - 5 + more for digit, more in zip(code.groups()[1:], cells, strict=True))
    return Atom(known.crystal.labels.index(label), number, (a, b, c))


def _pair(row: Row, known: _Known, notes: list[str]) -> Pair | None:
    first, second = (_atom(row, end, known) for end in (1, 2))
    if first is None or second is None:
        labels = " ".join(row.get(name, "?") for name in _LABELS)
        notes.append(f"a restraint on {labels} is left out (no such atom or symmetry code)")
        return None
    return first, second


def _distances(block: gemmi.cif.Block, known: _Known, notes: list[str]) -> Iterator[Restraint]:
    for row in _rows(block, "distance"):
        pair = _pair(row, known, notes)
        if pair is not None:
            target, sd = _number(row, "target"), _number(row, "target_weight_param")
            yield Distance(card="DFIX", pairs=(pair,), distance=target, sd=sd)


def _equal_distances(block: gemmi.cif.Block, known: _Known, notes: list[str]) -> Iterator[Restraint]:
    members = _rows(block, "equal_distance")
    for group in _rows(block, "equal_distance_class"):
        rows = [row for row in members if row.get("class_id") == group.get("class_id")]
        pairs = [pair for row in rows if (pair := _pair(row, known, notes)) is not None]
        yield SameDistances(pairs=tuple(pairs), sd=_number(group, "target_weight_param"))


def _of_pairs(loop: str, weight: str, make: Callable) -> Callable:
    """A reader of a loop with one pair of atoms and one standard deviation a row."""

    def read(block: gemmi.cif.Block, known: _Known, notes: list[str]) -> Iterator[Restraint]:
        rows = [(row, _pair(row, known, notes)) for row in _rows(block, loop)]
        kept = [(row, pair) for row, pair in rows if pair is not None]
        if kept:
            sds = tuple(_number(row, weight) for row, _ in kept)
            yield make(pairs=tuple(pair for _, pair in kept), sds=sds)

    return read


_similar = _of_pairs("U_similar", "weight_param", SimilarTensors)
_rigid = _of_pairs("U_rigid", "target_weight_param", RigidBonds)


def _isotropic(block: gemmi.cif.Block, known: _Known, notes: list[str]) -> Iterator[Restraint]:
    rows = [(row, _atom(row, 1, known)) for row in _rows(block, "U_iso")]
    kept = [(row, atom) for row, atom in rows if atom is not None]
    if kept:
        sds = tuple(_number(row, "weight_param") for row, _ in kept)
        yield NearlyIsotropic(atoms=tuple(atom for _, atom in kept), sds=sds)


def add_restraints(block: gemmi.cif.Block, crystal: Crystal) -> None:
    """Add the restraints that the dictionary has data names for, with what is left of them in the structure."""
    numbers = operation_numbers(crystal).tolist()
    _add_distances(block, crystal, numbers)
    _add_equal_distances(block, crystal, numbers)
    for kind, loop_name, weight in (
        (SimilarTensors, "U_similar", "weight_param"),
        (RigidBonds, "U_rigid", "target_weight_param"),
    ):
        rows = [
            [*_labels(crystal, pair), f"{sd:g}"]
            for restraint in crystal.restraints
            if isinstance(restraint, kind)
            for pair, sd in zip(restraint.pairs, restraint.sds, strict=True)
        ]
        _add_loop(block, f"_restr_{loop_name}_", [*_LABELS, weight], rows)
    isotropic = [
        [gemmi.cif.quote(crystal.labels[atom.site]), f"{sd:g}"]
        for restraint in crystal.restraints
        if isinstance(restraint, NearlyIsotropic)
        for atom, sd in zip(restraint.atoms, restraint.sds, strict=True)
    ]
    _add_loop(block, "_restr_U_iso_", ["atom_site_label", "weight_param"], isotropic)


def _add_distances(block: gemmi.cif.Block, crystal: Crystal, numbers: list[int]) -> None:
    rows = []
    for restraint in crystal.restraints:
        if isinstance(restraint, Distance) and not restraint.at_least:
            for pair, off in zip(restraint.pairs, np.asarray(residuals(crystal, restraint)[0]), strict=True):
                target = [f"{restraint.distance:g}", f"{restraint.sd:g}", f"{-off:.4f}"]
                rows.append([*_labels(crystal, pair), *_codes(pair, numbers), *target])
    names = [*_LABELS, "site_symmetry_1", "site_symmetry_2", "target", "target_weight_param", "diff"]
    _add_loop(block, "_restr_distance_", names, rows)


def _add_equal_distances(block: gemmi.cif.Block, crystal: Crystal, numbers: list[int]) -> None:
    classes = [restraint for restraint in crystal.restraints if isinstance(restraint, SameDistances)]
    rows = [[str(number), f"{restraint.sd:g}"] for number, restraint in enumerate(classes, 1)]
    _add_loop(block, "_restr_equal_distance_class_", ["class_id", "target_weight_param"], rows)
    members = [
        [*_labels(crystal, pair), *_codes(pair, numbers), str(number)]
        for number, restraint in enumerate(classes, 1)
        for pair in restraint.pairs
    ]
    names = [*_LABELS, "site_symmetry_1", "site_symmetry_2", "class_id"]
    _add_loop(block, "_restr_equal_distance_", names, members)


def _add_loop(block: gemmi.cif.Block, start: str, names: list[str], rows: list[list[str]]) -> None:
    if rows:
        loop = block.init_loop(start, names)
        for row in rows:
            loop.add_row(row)


def _labels(crystal: Crystal, pair: Pair) -> list[str]:
    return [gemmi.cif.quote(crystal.labels[atom.site]) for atom in pair]


def _codes(pair: Pair, numbers: list[int]) -> list[str]:
    """Symmetry codes n_klm: operation n of the written list, then 5 plus whole cells."""
    codes = [f"{numbers[atom.operation]}_{''.join(str(5 + cells) for cells in atom.shift)}" for atom in pair]
    return ["." if code == "1_555" else code for code in codes]
