"""Absorptive form factors f'(s, B) of thermal diffuse scattering: electrons that vibrating atoms take out of the beams.

Every atom vibrates for itself (Einstein). With elastic form factors f at s = g / 2 [Å⁻¹],

    f'(s, B) = (2 lambda_C / beta) Int d²s' f(|s/2 + s'|) f(|s/2 - s'|) [1 - exp(-2 B (s'² - s²/4))]

where lambda_C / beta = gamma lambda. The mean of the product of form factors over the directions of s' depends neither
on B nor on the energy. It is tabulated once for each element at nodes of s and radii s'; what is left is a sum over the
radii, exact for any B.

Sources: Hall & Hirsch, Proc. R. Soc. A 286, 158 (1965); Bird & King, Acta Cryst. A46, 202 (1990), eq. 4; Weickenmeier &
Kohl, Acta Cryst. A47, 590 (1991). The form factors are those of Lobato & Van Dyck (2014), which fall as 1/s². Sums of
Gaussians fall faster and give f' 6 to 23 % too small.
"""

from collections.abc import Callable
from functools import cache

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from pendel.base import Array
from pendel.constants import relativistic_gamma
from pendel.crystal.form_factors import form_factors

SMALLEST, LARGEST, RADII = 3e-4, 60.0, 320  # of s' [Å⁻¹], evenly spaced in log s'
ANGLES = 64  # in a quarter of the circle; the other three are like it
CORE, NODE_STEP = 0.1, 0.06  # nodes s = CORE sinh(NODE_STEP n) [Å⁻¹], close where form factors are steep
NEIGHBOURS = np.arange(-2, 4)  # nodes of an interpolation, counted from the one below


def thermal_sums(
    elements: tuple[str, ...],
    s: Float[Array, " g"],
    b: Float[Array, " sites"],
    wavelength: Float[Array, ""] | float,
    *,
    s_max: float,
) -> tuple[Float[Array, "g sites"], Float[Array, "g sites"]]:
    """Both terms of f'(s, B) = a - c exp(B s²/2) [Å] of every site.

        a = 2 gamma lambda Int d²s' f f,   c = 2 gamma lambda Int d²s' f f exp(-2 B s'²)

    Args:
        elements: symbol of every site.
        s: half the length of reciprocal vectors, |g| / 2 [Å⁻¹].
        b: B = 8 pi² U_eq [Å²] of every site; derivatives are exact.
        wavelength: [Å].
        s_max: no s is larger [Å⁻¹]; decides on the size of the table.
    """
    distinct = tuple(dict.fromkeys(elements))
    nodes = int(np.ceil(np.arcsinh(s_max / CORE) / NODE_STEP)) + len(NEIGHBOURS)
    table = jnp.asarray(np.stack([_element_pairs(element, nodes) for element in distinct]))
    own = np.array([distinct.index(element) for element in elements])
    damped = jnp.einsum("snr,sr->ns", table[own], jnp.exp(-2 * b[:, None] * _radii() ** 2))
    to_s = 2 * relativistic_gamma(wavelength) * wavelength * _interpolation(s, nodes)
    return to_s @ jnp.sum(table, axis=2)[own].T, to_s @ damped


def absorptive_form_factors(
    elements: tuple[str, ...], s: Float[Array, " s"], b: Float[Array, " sites"], wavelength: float
) -> Float[Array, "s sites"]:
    """f'(s, B) [Å] of atoms with B [Å²] at s = |g| / 2 [Å⁻¹], for electrons of a wavelength [Å]."""
    s, b = jnp.asarray(s, dtype=float), jnp.asarray(b, dtype=float)
    whole, damped = thermal_sums(elements, s, b, wavelength, s_max=float(jnp.max(s)))
    return whole - damped * jnp.exp(0.5 * b * s[:, None] ** 2)


def pair_integrals(
    form_factor: Callable[[Float[np.ndarray, " g"]], Float[np.ndarray, " g"]], s: Float[np.ndarray, " nodes"]
) -> Float[np.ndarray, "nodes radii"]:
    """Terms d²s' f f of the sum over radii: 2 pi s'² dlog s' times the mean of f(|s/2 + s'|) f(|s/2 - s'|) over angles.

    Args:
        form_factor: f(g) [Å], of g = 2 s.
        s: [Å⁻¹].
    """
    radius, node = _radii()[:, None], np.asarray(s)[:, None, None]
    cosine = np.cos(np.pi / 2 * (np.arange(ANGLES) + 0.5) / ANGLES)
    square, cross = node**2 / 4 + radius**2, node * radius * cosine
    plus, minus = (form_factor(2 * np.sqrt(x).ravel()).reshape(x.shape) for x in (square + cross, square - cross))
    weight = np.full(RADII, np.log(LARGEST / SMALLEST) / (RADII - 1))
    weight[[0, -1]] = 0.5 * weight[0] + 0.5  # with the disc inside, and with f ~ 1/s'² outside
    return 2 * np.pi * _radii() ** 2 * weight * np.mean(plus * minus, axis=2)


@cache
def _element_pairs(element: str, nodes: int) -> Float[np.ndarray, "nodes radii"]:
    """`pair_integrals` of an element at the nodes."""
    return pair_integrals(
        lambda g: np.asarray(form_factors((element,), g)[0]), CORE * np.sinh(NODE_STEP * np.arange(nodes))
    )


def _radii() -> Float[np.ndarray, " radii"]:
    return np.geomspace(SMALLEST, LARGEST, RADII)


def _interpolation(s: Float[Array, " g"], nodes: int) -> Float[Array, "g nodes"]:
    """Weights of the nodes in Lagrange's interpolation of an even function at s."""
    place = jnp.arcsinh(jnp.asarray(s) / CORE) / NODE_STEP
    below = jnp.floor(place)
    fraction = (place - below)[:, None]
    weights = [
        jnp.prod(jnp.stack([(fraction - m) / (n - m) for m in NEIGHBOURS if m != n]), axis=0) for n in NEIGHBOURS
    ]
    column = jnp.abs(below[:, None].astype(int) + NEIGHBOURS)
    row = jnp.arange(len(place))[:, None]
    return jnp.zeros((len(place), nodes)).at[row, column].add(jnp.concatenate(weights, axis=1))
