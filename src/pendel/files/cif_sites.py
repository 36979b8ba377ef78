"""Sites of a CIF block: labels, elements, coordinates, occupancies and displacement tensors in all their spellings."""

import re
from collections import Counter
from dataclasses import replace

import gemmi
import numpy as np
from jaxtyping import Float

from pendel.base import Array, InputError, listed
from pendel.crystal.cell import TENSOR, Cell, reciprocal_matrix, u_from_cartesian
from pendel.files.cif_elements import ElementReader, formula_of
from pendel.files.contents import Site

DEFAULT_U_ISO = 0.01  # Å², for sites without any displacement parameter
_TENSOR = [f"{i + 1}{j + 1}" for i, j in TENSOR]


def read_sites(block: gemmi.cif.Block, cell: Cell, where: str) -> tuple[list[Site], list[str]]:
    """Sites of the asymmetric unit and notes on what was skipped or assumed.

    Raises InputError for unreadable numbers and unknown elements, naming the label; `where` names the file.
    """
    columns = _columns(block)
    tensors = _tensors(block, cell, where)
    elements = ElementReader(formula_of(block), where)
    unit = np.asarray(u_from_cartesian(np.eye(3), cell))  # U_ij of U_iso = 1
    sites, skipped, bare, spheres, contradicted = [], [], [], [], []
    rows = len(columns.get("fract_x", ()))
    labels = [columns.get("label", [""] * rows)[row] or _name(columns, row) for row in range(rows)]
    notes = _matched_labels(tensors, labels)
    for row, label in enumerate(labels):
        entry = {key: values[row] for key, values in columns.items()}
        occupancy = _number(entry, "occupancy", label, where, default=1.0)
        if _is_dummy(entry) or occupancy == 0:
            skipped.append(label)
            continue
        element = elements.element(entry.get("type_symbol", ""), label)
        fract = np.array([_number(entry, f"fract_{axis}", label, where) for axis in "xyz"])
        tensor, u_iso = tensors.get(label), _u_iso(entry, label, where)
        kind = (entry.get("adp_type") or entry.get("thermal_displace_type", "")).lower()
        if tensor is None and u_iso is None:
            bare.append(label)
        elif tensor is None and kind.endswith("ani"):
            spheres.append(label)
        elif tensor is not None and kind.endswith("iso"):
            contradicted.append(label)
        isotropic = tensor is None and not (kind.endswith("ani") and u_iso is not None)
        u_aniso = unit * (DEFAULT_U_ISO if u_iso is None else u_iso) if tensor is None else tensor
        sites.append(Site(label, element, fract, u_aniso, occupancy, isotropic, *_stated(entry)))
    told = {
        "dummy or empty sites skipped: ": skipped,
        f"no displacement parameters, U_iso {DEFAULT_U_ISO} Å² assumed: ": bare,
        "flagged anisotropic but without U_ij, starting from a sphere: ": spheres,
        "flagged isotropic but with U_ij, which are used: ": contradicted,
    }
    notes += [words + listed(names) for words, names in told.items() if names]
    return _unique_labels(sites, tensors, notes), notes + elements.notes()


def _name(columns: dict[str, list[str]], row: int) -> str:
    """A label for a row without one: its type symbol and the number of the row."""
    return f"{columns['type_symbol'][row] if 'type_symbol' in columns else ''}{row + 1}"


def _stated(entry: dict[str, str]) -> tuple[tuple[str, str], tuple[int, int]]:
    """Assembly and group of the disorder, and order and multiplicity of the site symmetry, 0 where not given."""
    keys = ("site_symmetry_order", "site_symmetry_multiplicity")
    order, multiplicity = (int(text) if (text := entry.get(key, "")).isdecimal() else 0 for key in keys)
    if not multiplicity and entry.get("symmetry_multiplicity", "").isdecimal():
        multiplicity = int(entry["symmetry_multiplicity"])
    return (entry.get("disorder_assembly", ""), entry.get("disorder_group", "")), (order, multiplicity)


def _matched_labels(tensors: dict[str, Float[Array, "3 3"]], labels: list[str]) -> list[str]:
    """Relabels tensors, in place, whose label is a site's but for capitals or spaces; notes on all unmatched."""
    notes, lost = [], []
    bare = {label: re.sub(r"\s", "", label).lower() for label in labels if label not in tensors}
    for name in [name for name in tensors if name not in labels]:
        alike = [label for label, plain in bare.items() if plain == re.sub(r"\s", "", name).lower()]
        if len(alike) == 1:
            tensors[alike[0]] = tensors.pop(name)
            notes.append(f"the U_ij of {name} are taken as those of {alike[0]}")
        else:
            lost.append(name)
    return notes + ([f"U_ij that belong to no site are not used: {listed(lost)}"] if lost else [])


def _columns(block: gemmi.cif.Block) -> dict[str, list[str]]:
    """Columns of the atom list by their short names, as far as they are present."""
    keys = ["label", "type_symbol", "fract_x", "fract_y", "fract_z", "occupancy", "calc_flag", "adp_type"]
    keys += ["thermal_displace_type", "U_iso_or_equiv", "B_iso_or_equiv", "disorder_assembly", "disorder_group"]
    keys += ["site_symmetry_order", "site_symmetry_multiplicity", "symmetry_multiplicity"]
    columns = {key: values for key in keys if (values := _values(block, f"_atom_site{{}}{key}"))}
    rows = len(columns.get("fract_x", ()))
    return {key: values for key, values in columns.items() if len(values) == rows}  # others are of another loop


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
    """U_iso or U_eq [Å²] of a site, from B / (8 pi²) where only B is given, None without either or where it is 0."""
    if entry.get("U_iso_or_equiv"):
        return _number(entry, "U_iso_or_equiv", label, where) or None
    if entry.get("B_iso_or_equiv"):
        return _number(entry, "B_iso_or_equiv", label, where) / (8 * np.pi**2) or None
    return None


def _tensors(block: gemmi.cif.Block, cell: Cell, where: str) -> dict[str, Float[Array, "3 3"]]:
    """CIF U_ij [Å²] by label, from U_ij, B_ij = 8 pi² U_ij or beta_ij = 2 pi² a*_i a*_j U_ij; no zero tensors."""
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
                if any(parts):
                    tensors[label] = _symmetric(parts) / scale
    return tensors


def _symmetric(parts: list[float]) -> Float[Array, "3 3"]:
    matrix = np.zeros((3, 3))
    for (i, j), value in zip(TENSOR, parts, strict=True):
        matrix[i, j] = matrix[j, i] = value
    return matrix


def _unique_labels(sites: list[Site], tensors: dict[str, Float[Array, "3 3"]], notes: list[str]) -> list[Site]:
    """The same sites with repeated labels numbered, unless a tensor is addressed by such a label."""
    labels = [site.label for site in sites]
    repeated = {label for label, count in Counter(labels).items() if count > 1}
    if not repeated or repeated & set(tensors):
        return sites
    notes.append(f"repeated labels are numbered: {listed(sorted(repeated))}")
    return [
        replace(site, label=f"{site.label}_{labels[: row + 1].count(site.label)}") if site.label in repeated else site
        for row, site in enumerate(sites)
    ]
