"""The compiled functions of one target, kept for the next data of the same shape."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from pendel.base import Array
from pendel.infer.layout import Layout
from pendel.infer.maximum.curvature import part_sizes
from pendel.infer.maximum.frame_moves import FrameScores, frame_scores
from pendel.infer.maximum.normal_matrix import normal_diagonal, normal_matrix
from pendel.infer.maximum.settle import settler
from pendel.infer.maximum.spreads import spread_loss
from pendel.infer.target import Target, Values

MOST = 8  # sets of compiled functions that are kept


class Fixed(NamedTuple):
    """What stays while z moves: the spreads of hierarchies, and the `correction` [n], see `error_correction`."""

    spreads: Values
    correction: Float[Array, " n"]


@dataclasses.dataclass(frozen=True)
class Objective:
    """Functions of (z, fixed, data), data being the model's (args, kwargs); nothing is compiled before it is called.

    `simulated`: number of globals that reach a simulation; `errors`: which elements of z are errors. The functions are
    about U = -log p(z, observations) - correction . z. `value`: U; `gradient`: U and its gradient, reverse mode;
    `matrix`: U, gradient, Gauss-Newton matrix (with parts of `sizes`) and the correction there, forward mode;
    `diagonal`: U, gradient and an estimate of the matrix's diagonal, reverse mode; `settle`: z with the sites that
    reach no simulation at their maximum; `frames`: log densities of single frames; `spread`: loss of the spreads, see
    `spread_loss`.
    """

    layout: Layout
    sizes: tuple[int, ...]
    simulated: int
    errors: Bool[np.ndarray, " n"]
    value: Callable
    gradient: Callable
    matrix: Callable
    diagonal: Callable
    settle: Callable
    frames: FrameScores
    spread: Callable


_functions: dict[Any, Any] = {}


def compiled_once(kind: str, make: Callable[[], Any], target: Target, *shaped: Any) -> Any:
    """What `make` makes, or what it made for an earlier call with the same model, layout and shapes of all data."""
    key = (kind, target.model, _layout_key(target.full), _shapes((target.data, shaped)))
    if key not in _functions:
        while len(_functions) >= MOST:
            _functions.pop(next(iter(_functions)))
        _functions[key] = make()
    return _functions[key]


def objective(target: Target) -> Objective:
    """Functions for a target; those of an earlier call when model, layout and all shapes are the same."""
    return compiled_once("objective", lambda: _make(target), target)


def differentiable(target: Target, mode: str) -> Target:
    """The target with data that know several ways of being differentiated switched to one, "forward" or "reverse"."""

    def switched(leaf):
        return leaf.with_mode(mode) if hasattr(leaf, "with_mode") else leaf

    return target.with_data(jax.tree.map(switched, target.data, is_leaf=lambda leaf: hasattr(leaf, "with_mode")))


def _make(target: Target) -> Objective:
    layout, sizes = target.layout, part_sizes(target)

    def value(z, fixed, data):
        return target.negative_log_density(layout.split(z), fixed.spreads, data) - fixed.correction @ z

    def corrected(found, z, fixed):
        potential, gradient, *rest = found
        return potential - fixed.correction @ z, gradient - fixed.correction, *rest

    def matrix(z, fixed, data):
        return corrected(normal_matrix(target, z, fixed.spreads, data, sizes), z, fixed)

    def diagonal(z, fixed, data):
        return corrected(normal_diagonal(target, z, fixed.spreads, data, sizes), z, fixed)

    return Objective(
        layout=layout,
        sizes=sizes,
        simulated=sum(int(np.prod(s.shape)) for s in layout.sites if s.plate is None and s.name in target.simulated),
        errors=np.asarray(
            layout.join({s.name: jnp.full(s.shape, 1.0 * (s.name in target.errors)) for s in layout.sites})
        )
        > 0,
        value=jax.jit(value),
        gradient=jax.jit(jax.value_and_grad(value)),
        matrix=jax.jit(matrix),
        diagonal=jax.jit(diagonal),
        settle=settler(target),
        frames=frame_scores(target, sizes),
        spread=spread_loss(target),
    )


def _shapes(tree: Any) -> tuple:
    leaves, structure = jax.tree.flatten(tree)
    return structure, tuple(jax.typeof(leaf) for leaf in leaves)


def _layout_key(layout: Layout) -> tuple:
    """What compiled functions know of a layout beyond its shapes: transforms, and the frames of observations."""
    sites = tuple(
        (site.name, site.shape, site.event_dims, site.plate, site.profile, site.fixed, _contents(site.transform))
        for site in layout.sites
    )
    return sites, tuple((name, plate, np.asarray(frame).tobytes()) for name, plate, frame in layout.observations)


def _contents(tree: Any) -> tuple:
    leaves, structure = jax.tree.flatten(tree)
    return structure, tuple(np.asarray(leaf).tobytes() for leaf in leaves)
