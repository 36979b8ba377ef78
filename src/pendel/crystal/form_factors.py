"""Electron form factors of neutral atoms (first Born approximation), from two independent published tables.

Lobato & Van Dyck 2014, Acta Cryst. A70, 636 (default; right limits at g -> 0 and g -> infinity), and
Peng, Ren, Dudarev & Whelan 1996, Acta Cryst. A52, 257 (International Tables C, 4.3.2.2), valid for g < 4 Å⁻¹.
"""

import json
from functools import cache
from importlib.resources import files

import gemmi
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from pendel.base import Array, InputError


def form_factors(elements: tuple[str, ...], g: Float[Array, " g"], table: str = "lobato") -> Float[Array, "elements g"]:
    """Form factors f(g) [Å] of each element at g = 1/d [Å⁻¹], for electrons at rest (gamma enters U_g).

    `table` is "lobato" or "peng".

    Lobato: f(g) = sum_i a_i (2 + b_i g²) / (1 + b_i g²)².   Peng: f(s) = sum_i a_i exp(-b_i s²), s = g/2.
    Raises InputError for an element that is not in the table, or an unknown table.
    """
    return _of_table(elements, np.asarray(g, dtype=float)[None, None] ** 2, table, np)


def contracted_form_factors(
    elements: tuple[str, ...], g: Float[Array, " g"], contraction: Float[Array, ""] | float, table: str = "lobato"
) -> Float[Array, "elements g"]:
    """Form factors of atoms whose electrons are all nearer to the nucleus by the factor k = `contraction`.

        f_x(g) -> f_x(g / k),   f(g) = C (Z - f_x) / s² -> f(g / k) / k²

    Atoms that are bonded are smaller than free ones, k > 1, so that the lowest reflections are weaker than those of
    `form_factors`; the highest are the same, because the nucleus makes them. Hydrogen stays as it is: its cloud has a
    place of its own. k = 1 is the free atom. Differentiable in g and k; arguments as those of `form_factors`.

    Source of the idea: Coppens et al. (1979), Acta Cryst. A35, 63, with k of the valence electrons only.
    """
    k = jnp.where(jnp.array([element == "H" for element in elements]), 1.0, contraction)[:, None]
    squared = (jnp.asarray(g) / k) ** 2
    return _of_table(elements, squared[:, None], table, jnp) / k**2


def _of_table(elements, squared, table, xp):
    """Form factors at squared |g| [elements or 1, 1, g], with NumPy or JAX."""
    if table == "lobato":
        a, b = np.moveaxis(np.asarray(lobato_coefficients(elements)), -1, 0)[..., None]
        return xp.sum(a * (2 + b * squared) / (1 + b * squared) ** 2, axis=1)
    if table == "peng":
        a, b = np.moveaxis(np.asarray(peng_gaussians(elements)), -1, 0)[..., None]
        return xp.sum(a * xp.exp(-b * squared / 4), axis=1)
    raise InputError(
        found=f"unknown table of form factors {table!r}", expected="lobato or peng", do="choose one of the two tables"
    )


def lobato_coefficients(elements: tuple[str, ...]) -> Float[Array, "elements 5 2"]:
    """Coefficients (a_i [Å], b_i [Å²]) of Lobato & Van Dyck 2014 for elements H..Lr."""
    table = _lobato_table()
    _refuse_missing([element for element in elements if element not in table], "lobato", "H..Lr")
    return np.array([np.transpose(table[element]) for element in elements], dtype=float).reshape(-1, 5, 2)


def peng_gaussians(elements: tuple[str, ...]) -> Float[Array, "elements 5 2"]:
    """Coefficients (a_i [Å], b_i [Å²]) of Peng et al. 1996, f(s) = sum a_i exp(-b_i s²), s = g/2 < 2 Å⁻¹, for H..Cf."""
    known = {atom.name: atom.c4322 for atom in map(gemmi.Element, elements) if atom.atomic_number}
    table = {element: entry.get_coefs() for element, entry in known.items() if entry is not None}
    _refuse_missing([element for element in elements if element not in table], "peng", "H..Cf")
    return np.array([np.reshape(table[element], (2, 5)).T for element in elements], dtype=float).reshape(-1, 5, 2)


@cache
def _lobato_table() -> dict[str, list[list[float]]]:
    return json.loads((files("pendel") / "data" / "lobato.json").read_text(encoding="utf-8"))["coefficients"]


def _refuse_missing(missing: list[str], table: str, known: str) -> None:
    if missing:
        raise InputError(
            found=f"the {table} table has no element {', '.join(dict.fromkeys(missing))}",
            expected=f"one of its elements, {known}",
            do="correct the element symbol or choose the other table",
        )
