"""The compiled functions of one model and one shape of data, kept for the next data of the same shape."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from pendel.base import Array
from pendel.infer.layout import Layout
from pendel.infer.maximum.cheap import cheap_maximiser
from pendel.infer.maximum.frame_moves import FrameScores, frame_scores
from pendel.infer.maximum.normal_matrix import frame_columns, negative_log_density, normal_diagonal, normal_matrix
from pendel.infer.maximum.spreads import spread_loss

KEPT = 8  # sets of compiled functions


class Held(NamedTuple):
    """What stays while z moves: `spreads` of hierarchies, and the `credit` [n] of the errors, see `error_credit`."""

    spreads: Mapping[str, Array]
    credit: Float[Array, " n"]


@dataclasses.dataclass(frozen=True)
class Objective:
    """Functions of (z, held, data), data being the model's (args, kwargs); nothing is compiled before it is called.

    They are about U = -log p(z, observations) - credit z. `value`: U; `gradient`: U and its gradient, reverse mode;
    `matrix`: U, gradient, Gauss-Newton matrix and the credit there, forward mode; `diagonal`: U, gradient and an
    estimate of the matrix's diagonal, reverse mode; `cheap`: z with the parameters that the simulator does not see at
    their maximum; `frames`: log densities of single frames; `spread`: loss of the spreads, see `spread_loss`.
    """

    layout: Layout
    value: Callable
    gradient: Callable
    matrix: Callable
    diagonal: Callable
    cheap: Callable
    frames: FrameScores
    spread: Callable


_kept: dict[Any, Any] = {}


def kept(kind: str, make: Callable[[], Any], model: Callable, layout: Layout, *shaped: Any) -> Any:
    """What `make` makes, or what it made for an earlier call with the same model, layout and shapes of `shaped`."""
    key = (kind, model, _layout_key(layout), _shapes(shaped))
    if key not in _kept:
        while len(_kept) >= KEPT:
            _kept.pop(next(iter(_kept)))
        _kept[key] = make()
    return _kept[key]


def objective(model: Callable, layout: Layout, spreads: Mapping[str, Array], data: tuple) -> Objective:
    """Functions for a model; those of an earlier call when model, layout and all shapes are the same."""
    make = partial(_make, model, layout, spreads, data)
    return kept("objective", make, model, layout, dict(spreads), data)


def differentiable(tree: Any, mode: str) -> Any:
    """Arguments that know several ways of being differentiated are switched to the given one."""
    return jax.tree.map(
        lambda leaf: leaf.with_mode(mode) if hasattr(leaf, "with_mode") else leaf,
        tree,
        is_leaf=lambda leaf: hasattr(leaf, "with_mode"),
    )


def _make(model: Callable, layout: Layout, spreads: Mapping[str, Array], data: tuple) -> Objective:
    columns = frame_columns(layout)

    def value(z, held, data):
        return negative_log_density(model, layout, z, held.spreads, *data) - held.credit @ z

    def with_credit(found, z, held):
        potential, gradient, *rest = found
        return potential - held.credit @ z, gradient - held.credit, *rest

    def matrix(z, held, data):
        return with_credit(normal_matrix(model, layout, z, held.spreads, data[0], data[1], columns), z, held)

    def diagonal(z, held, data):
        return with_credit(normal_diagonal(model, layout, z, held.spreads, *data), z, held)

    return Objective(
        layout=layout,
        value=jax.jit(value),
        gradient=jax.jit(jax.value_and_grad(value)),
        matrix=jax.jit(matrix),
        diagonal=jax.jit(diagonal),
        cheap=cheap_maximiser(model, layout, spreads, data),
        frames=frame_scores(model, layout, spreads, data),
        spread=spread_loss(model, layout),
    )


def _shapes(tree: Any) -> tuple:
    leaves, structure = jax.tree.flatten(tree)
    return structure, tuple(jax.typeof(leaf) for leaf in leaves)


def _layout_key(layout: Layout) -> tuple:
    """What compiled functions know of a layout beyond its shapes: transforms, and the frames of observations."""
    sites = tuple(
        (site.name, site.shape, site.event_dims, site.plate, site.profile, _contents(site.transform))
        for site in layout.sites
    )
    return sites, tuple((name, plate, np.asarray(frame).tobytes()) for name, plate, frame in layout.observations)


def _contents(tree: Any) -> tuple:
    leaves, structure = jax.tree.flatten(tree)
    return structure, tuple(np.asarray(leaf).tobytes() for leaf in leaves)
