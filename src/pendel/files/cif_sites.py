"""Sites of a CIF block: labels, elements, coordinates, occupancies and displacement tensors in all their spellings."""

import re
from dataclasses import replace

import gemmi
import numpy as np
from jaxtyping import Float

from pendel.base import Array, InputError
from pendel.crystal.cell import Cell, reciprocal_matrix, u_from_cartesian
from pendel.crystal.structure import ELEMENTS
from pendel.files.contents import Site

DEFAULT_U_ISO = 0.01  # Å², for sites without any displacement parameter
_TENSOR = ("11", "22", "33", "23", "13", "12")


def read_sites(block: gemmi.cif.Block, cell: Cell, where: str) -> tuple[list[Site], list[str]]:
    """Sites of the asymmetric unit and notes on what was skipped or assumed.

    Raises InputError for unreadable numbers and unknown elements, naming the label; `where` names the file.
    """
    columns = _columns(block)
    tensors = _tensors(block, cell, where)
    declared = _declared_elements(block)
    sites, skipped, bare, flagged = [], [], [], []
    for row in range(len(columns.get("fract_x", ()))):
        entry = {key: values[row] for key, values in columns.items()}
        label = entry.get("label") or f"{entry.get('type_symbol', '')}{row + 1}"
        if _is_dummy(entry):
            skipped.append(label)
            continue
        element = _element(entry.get("type_symbol", ""), label, declared, where)
        fract = np.array([_number(entry, f"fract_{axis}", label, where) for axis in "xyz"])
        occupancy = _number(entry, "occupancy", label, where, default=1.0)
        if occupancy == 0:
            skipped.append(label)
            continue
        tensor, u_iso = tensors.get(label), _u_iso(entry, label, where)
        says_anisotropic = (entry.get("adp_type") or entry.get("thermal_displace_type", "")).lower().endswith("ani")
        if tensor is None and u_iso is None:
            bare.append(label)
        elif tensor is None and says_anisotropic:
            flagged.append(label)
        sphere = np.asarray(u_from_cartesian(np.eye(3) * (DEFAULT_U_ISO if u_iso is None else u_iso), cell))
        isotropic = tensor is None and not (says_anisotropic and u_iso is not None)
        part = int(entry["disorder_group"]) if re.fullmatch(r"[+-]?\d+", entry.get("disorder_group", "")) else 0
        sites.append(Site(label, element, fract, sphere if tensor is None else tensor, occupancy, isotropic, part))
    notes = [f"dummy or empty sites skipped: {', '.join(skipped)}"] if skipped else []
    if bare:
        notes.append(f"no displacement parameters, U_iso {DEFAULT_U_ISO} Å² assumed: {', '.join(bare)}")
    if flagged:
        notes.append(f"flagged anisotropic but without U_ij, starting from a sphere: {', '.join(flagged)}")
    return _unique_labels(sites, tensors, notes), notes


def _columns(block: gemmi.cif.Block) -> dict[str, list[str]]:
    """Columns of the atom list by their short names, as far as they are present."""
    keys = ["label", "type_symbol", "fract_x", "fract_y", "fract_z", "occupancy", "calc_flag", "adp_type"]
    keys += ["thermal_displace_type", "disorder_group", "U_iso_or_equiv", "B_iso_or_equiv"]
    return {key: values for key in keys if (values := _values(block, f"_atom_site{{}}{key}"))}


def _values(block: gemmi.cif.Block, tag: str) -> list[str]:
    """All values of a tag in its old (_) or new (.) spelling; ? and . become ''."""
    found = block.find_values(tag.format("_")) or block.find_values(tag.format("."))
    return ["" if gemmi.cif.is_null(value) else gemmi.cif.as_string(value).strip() for value in found]


def _is_dummy(entry: dict[str, str]) -> bool:
    """Dummy atoms, and sites whose coordinates are not known."""
    return entry.get("calc_flag", "").lower() == "dum" or not any(entry.get(f"fract_{axis}") for axis in "xyz")


def _number(entry: dict[str, str], key: str, label: str, where: str, default: float | None = None) -> float:
    """A number without its standard uncertainty; raises InputError when it is missing without default or no number."""
    text = entry.get(key, "")
    value = default if not text and default is not None else gemmi.cif.as_number(text or "?")
    if not np.isfinite(value):
        raise InputError(
            found=f"_atom_site_{key} '{text or '?'}' of {label} in {where}", expected="a number", do="correct the value"
        )
    return float(value)


def _u_iso(entry: dict[str, str], label: str, where: str) -> float | None:
    """U_iso or U_eq [Å²] of a site, from B / (8 pi²) where only B is given, None without either."""
    if entry.get("U_iso_or_equiv"):
        return _number(entry, "U_iso_or_equiv", label, where)
    if entry.get("B_iso_or_equiv"):
        return _number(entry, "B_iso_or_equiv", label, where) / (8 * np.pi**2)
    return None


def _tensors(block: gemmi.cif.Block, cell: Cell, where: str) -> dict[str, Float[Array, "3 3"]]:
    """CIF U_ij [Å²] by label, from U_ij, B_ij = 8 pi² U_ij or beta_ij = 2 pi² a*_i a*_j U_ij; unknown rows left out."""
    labels = _values(block, "_atom_site_aniso{}label") or _values(block, "_atom_site_anisotrop{}label")
    lengths = np.linalg.norm(reciprocal_matrix(cell), axis=0)
    scales = {"U": 1.0, "B": 8 * np.pi**2, "beta": 2 * np.pi**2 * np.outer(lengths, lengths)}
    tensors: dict[str, Float[Array, "3 3"]] = {}
    for kind, scale in scales.items():
        columns = {key: _values(block, f"_atom_site_aniso{{}}{kind}_{key}") for key in _TENSOR}
        if any(len(values) != len(labels) for values in columns.values()):
            continue
        for row, label in enumerate(labels):
            entry = {f"aniso_{kind}_{key}": values[row] for key, values in columns.items()}
            if label not in tensors and all(entry.values()):
                parts = [_number(entry, f"aniso_{kind}_{key}", label, where) for key in _TENSOR]
                tensors[label] = _symmetric(parts) / scale
    return tensors


def _symmetric(parts: list[float]) -> Float[Array, "3 3"]:
    matrix = np.zeros((3, 3))
    for key, value in zip(_TENSOR, parts, strict=True):
        i, j = int(key[0]) - 1, int(key[1]) - 1
        matrix[i, j] = matrix[j, i] = value
    return matrix


def _declared_elements(block: gemmi.cif.Block) -> set[str]:
    """Elements named by the formula, to read labels such as CA1."""
    return set(re.findall(r"[A-Z][a-z]?", gemmi.cif.as_string(block.find_value("_chemical_formula_sum") or "")))


def _element(type_symbol: str, label: str, declared: set[str], where: str) -> str:
    """The element of a site: from its type symbol (O2-, Si4+, Sival), else from its label; D is H to electrons."""
    if type_symbol:
        start = re.sub(r"(?<=[A-Za-z])(val|va|iso|ani)$", "", re.split(r"[^A-Za-z]", type_symbol)[0])
        candidates = [start.capitalize()]
    else:
        start = re.split(r"[^A-Za-z]", label)[0]
        candidates = [start[:2].capitalize(), start[:1].upper()]
        if start[1:2].isupper() and candidates[1] in declared and candidates[0] not in declared:
            candidates.reverse()  # HO1 in a crystal without holmium
    for candidate in candidates:
        if candidate in ELEMENTS or candidate == "D":
            return "H" if candidate == "D" else candidate
    raise InputError(
        found=f"unknown element '{type_symbol or label}' of {label} in {where}",
        expected="an element symbol H..Lr, with or without charge",
        do="correct _atom_site_type_symbol, or mark the site as dummy (_atom_site_calc_flag dum)",
    )


def _unique_labels(sites: list[Site], tensors: dict[str, Float[Array, "3 3"]], notes: list[str]) -> list[Site]:
    """The same sites with repeated labels numbered, unless a tensor is addressed by such a label."""
    labels = [site.label for site in sites]
    repeated = {label for label in labels if labels.count(label) > 1}
    if not repeated or repeated & set(tensors):
        return sites
    notes.append(f"repeated labels are numbered: {', '.join(sorted(repeated))}")
    return [
        replace(site, label=f"{site.label}_{labels[: row + 1].count(site.label)}") if site.label in repeated else site
        for row, site in enumerate(sites)
    ]
