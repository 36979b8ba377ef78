"""The symmetry of a CIF block: operator list, Hall symbol, Hermann-Mauguin symbol or number, in this order of trust."""

import re
from dataclasses import dataclass

import gemmi
import numpy as np
from jaxtyping import Float, Int

from pendel.base import Array, InputError
from pendel.crystal.structure import Crystal
from pendel.files.symbols import from_symbol, in_setting

UNKNOWN_SETTING = "unknown setting"
_OPERATORS = (
    "_space_group_symop_operation_xyz",
    "_space_group_symop.operation_xyz",
    "_symmetry_equiv_pos_as_xyz",
    "_symmetry_equiv.pos_as_xyz",
)
_HALL = ("_space_group_name_Hall", "_space_group.name_Hall", "_symmetry_space_group_name_Hall")
_HERMANN_MAUGUIN = (
    "_space_group_name_H-M_alt",
    "_space_group.name_H-M_alt",
    "_symmetry_space_group_name_H-M",
    "_space_group_name_H-M",
    "_space_group_name_H-M_full",
)
_CODE = ("_space_group_IT_coordinate_system_code", "_space_group.IT_coordinate_system_code")
_SUPERSPACE = ("_space_group_symop_ssg_operation_algebraic", "_space_group_symop_ssg.operation_algebraic")
_MOST_OPERATIONS = 1000  # of a list; the largest tabulated group has 192
_NUMBER = ("_space_group_IT_number", "_space_group.IT_number", "_symmetry_Int_Tables_number")


@dataclass(frozen=True)
class SpaceGroup:
    """Operations x' = R x + t of a space group, its Hermann-Mauguin symbol and what was noticed while reading it."""

    symbol: str
    rotations: Int[Array, "ops 3 3"]
    translations: Float[Array, "ops 3"]
    notes: tuple[str, ...]


def read_spacegroup(block: gemmi.cif.Block, cell: tuple[float, ...], where: str) -> SpaceGroup:
    """The space group of a CIF block.

    The operator list wins over the symbols, and the symbols over the number; contradictions become notes. `cell`
    [Å, degrees] tells hexagonal from rhombohedral axes; `where` names the file in messages.

    Raises InputError for an unreadable operator, or when the block gives no symmetry that is understood.
    """
    notes: list[str] = []
    listed, symbol = _listed(block, where, notes), _first(block, _HERMANN_MAUGUIN)
    hall, number = _from_hall(block), _number(block)
    named = _in_stated_setting(block, from_symbol(symbol, cell), number, notes)
    larger = len(hall or (list(named.operations()) if named else ()))
    if listed is not None and len(listed) == 1 and larger > 1 and number != 1:
        notes.append(f"x,y,z alone is listed, but the symbol stands for {larger} operators; the symbol is used")
        listed = None
    if listed is not None:
        operations = listed
        if hall is not None and _keys(hall) != _keys(listed):
            notes.append(f"the operator list contradicts the Hall symbol {_first(block, _HALL)}; the list is used")
        if named is not None and _contradicts(named, listed):
            counts = f"{len(listed)} operators against {len(list(named.operations()))}"
            notes.append(f"the operator list contradicts the symbol {symbol} ({counts}); the list is used")
    elif hall is not None:
        operations = hall
        if named is not None and _contradicts(named, hall):
            notes.append(f"the Hall symbol contradicts the symbol {symbol}; the Hall symbol is used")
    elif named is not None:
        operations = list(named.operations())
        if named.ext in ("1", "2") and not _first(block, _CODE) and not re.search(r":\s*[12]$|[SZ]$", symbol):
            notes.append(
                f"symmetry from {symbol} with origin choice {named.ext}; give the operators if it is the other"
            )
    elif number is not None and 1 <= number <= 230:
        operations = list(gemmi.get_spacegroup_reference_setting(number).operations())
        notes.append(f"symmetry from number {number} alone, in the standard setting of International Tables")
    elif (averaged := _averaged(block, where)) is not None:
        operations = averaged
        notes.append("symmetry of the average structure, from the first three parts of the superspace operators")
    else:
        raise InputError(
            found=f"no readable symmetry in {where}",
            expected="a list of operators, a Hall or a Hermann-Mauguin symbol, or a space-group number",
            do="add _space_group_symop_operation_xyz, or _space_group_name_H-M_alt 'P 1' if there is no symmetry",
        )
    known = _recognised(operations)
    if number is not None and known is not None and known.number != number:
        notes.append(f"the operations are those of space group {known.number}, the file says number {number}")
    rotations, translations = _arrays(operations)
    told = symbol if from_symbol(symbol, cell) is None else ""  # a symbol of other operations would mislead
    return SpaceGroup(known.xhm() if known else told or UNKNOWN_SETTING, rotations, translations, tuple(notes))


def _in_stated_setting(
    block: gemmi.cif.Block, named: gemmi.SpaceGroup | None, number: int | None, notes: list[str]
) -> gemmi.SpaceGroup | None:
    """The named group, or that of the number, in the setting of the file's coordinate-system code."""
    code = _first(block, _CODE)
    group = named
    if group is None and number is not None and 1 <= number <= 230:
        group = gemmi.get_spacegroup_reference_setting(number)
    if not code or group is None:
        return named
    found = in_setting(group, code, free=named is None)
    if found is None:
        notes.append(f"the coordinate-system code {code} fits no setting of {group.xhm()}; it is not used")
        return named
    return found


def _averaged(block: gemmi.cif.Block, where: str) -> list[gemmi.Op] | None:
    """Operators on x1, x2, x3 of a superspace group, each once; None without any."""
    texts = [gemmi.cif.as_string(text) for tag in _SUPERSPACE for text in block.find_values(tag)]
    parts = [",".join(text.split(",")[:3]) for text in texts if text]
    plain = [part.replace("x1", "x").replace("x2", "y").replace("x3", "z") for part in parts]
    operations = [_operator(text, where) for text in plain]
    return list({operator.triplet(): operator for operator in operations}.values()) or None


def listed_operators(block: gemmi.cif.Block) -> list[str]:
    """The operators as the file lists them, which its symmetry codes count; empty without a list."""
    lists = ([gemmi.cif.as_string(text) for text in block.find_values(tag)] for tag in _OPERATORS)
    return next((texts for texts in lists if texts), [])


def operation_in(crystal: Crystal, text: str) -> tuple[int, tuple[int, int, int]] | None:
    """Number of the operation of a crystal that a text such as 1-x,y,z means, and whole cells, or None."""
    try:
        operation = gemmi.Op(text)
    except (RuntimeError, ValueError):
        return None
    rotation = np.array(operation.rot) // gemmi.Op.DEN
    shift = np.array(operation.tran) / gemmi.Op.DEN - np.asarray(crystal.translations)
    same = np.all(np.asarray(crystal.rotations) == rotation, axis=(1, 2))
    same &= np.max(np.abs(shift - np.round(shift)), axis=1) < 1e-4
    if not same.any():
        return None
    number = int(np.argmax(same))
    a, b, c = np.round(shift[number]).astype(int).tolist()
    return number, (a, b, c)


def group_of(operations: list[gemmi.Op]) -> SpaceGroup:
    """The space group of a complete list of operations, with its tabulated symbol if it has one."""
    known = _recognised(operations)
    return SpaceGroup(known.xhm() if known else UNKNOWN_SETTING, *_arrays(operations), ())


def _listed(block: gemmi.cif.Block, where: str, notes: list[str]) -> list[gemmi.Op] | None:
    """The operator list without repetitions (noted), or None when there is none."""
    for tag in _OPERATORS:
        texts = [gemmi.cif.as_string(text) for text in block.find_values(tag) if not gemmi.cif.is_null(text)]
        if len(texts) > _MOST_OPERATIONS:
            raise InputError(
                found=f"{len(texts)} symmetry operators in {where}",
                expected=f"at most {_MOST_OPERATIONS}",
                do="give each operator once",
            )
        operations = [_operator(text, where) for text in texts if text.strip()]
        if operations:
            distinct = list({operator.triplet(): operator for operator in operations}.values())
            if len(distinct) < len(operations):
                notes.append(f"{len(operations) - len(distinct)} repeated symmetry operators are left out")
            return distinct
    return None


def _operator(text: str, where: str) -> gemmi.Op:
    try:
        return gemmi.Op(text).wrap()
    except (RuntimeError, ValueError) as error:
        raise InputError(
            found=f"symmetry operator '{text}' in {where} ({error})",
            expected="three parts such as -x,y+1/2,-z",
            do="correct the operator",
        ) from error


def _from_hall(block: gemmi.cif.Block) -> list[gemmi.Op] | None:
    """Operations of the Hall symbol, or None when it is absent or not understood."""
    symbol = _first(block, _HALL)
    if not symbol:
        return None
    try:
        return list(gemmi.symops_from_hall(symbol))
    except (RuntimeError, ValueError):
        return None


def _contradicts(named: gemmi.SpaceGroup, operations: list[gemmi.Op]) -> bool:
    """Whether some operations are those of another group than the named; symbols leave the choice of origin open."""
    if _keys(list(named.operations())) == _keys(operations):
        return False
    known = _recognised(operations)
    return known is None or known.hm != named.hm


def _recognised(operations: list[gemmi.Op]) -> gemmi.SpaceGroup | None:
    """The tabulated space group with exactly these operations, if there is one."""
    if "x,y,z" not in _keys(operations):
        return None
    return gemmi.find_spacegroup_by_ops(gemmi.GroupOps(operations))


def _number(block: gemmi.cif.Block) -> int | None:
    text = _first(block, _NUMBER)
    return int(text) if text.isdigit() else None


def _first(block: gemmi.cif.Block, tags: tuple[str, ...]) -> str:
    """The first of some tags that has a value, without quotes; '' when none has."""
    texts = (gemmi.cif.as_string(value).strip() for value in (block.find_value(tag) for tag in tags) if value)
    return next((text for text in texts if text not in ("", "?", ".")), "")


def _keys(operations: list[gemmi.Op]) -> set[str]:
    return {operator.wrap().triplet() for operator in operations}


def _arrays(operations: list[gemmi.Op]) -> tuple[np.ndarray, np.ndarray]:
    """Rotations and translations (in 0..1), the identity first and the others in their order."""
    ordered = sorted(operations, key=lambda operator: operator.wrap().triplet() != "x,y,z")
    rotations = np.array([operator.rot for operator in ordered]) // gemmi.Op.DEN
    translations = np.array([operator.wrap().tran for operator in ordered]) / gemmi.Op.DEN
    return rotations, translations
