"""Gradient and Gauss-Newton matrix of a model's negative log density, by forward mode.

Given the global parameters, frames are independent: an observation of frame f depends on the parameters of frame f
only. So one forward pass with the same tangent in every frame gives the Jacobian of one per-frame parameter for all
frames, and the whole arrow matrix (`pendel.infer.maximum.arrow`) costs (globals + numbers per frame) passes. Passes are
made site by site, because a tilt leaves U_g alone and a thickness leaves the recurrence alone. Sites that reach no
simulation are differentiated with its results replayed. The prior may couple the frames of a plate in any way; its
Hessian is added exactly.
Curvature of the likelihood is its Fisher information, so the matrix is positive definite where the prior is.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from pendel.base import Array
from pendel.infer.layout import Layout
from pendel.infer.maximum.arrow import Arrow, part_of_elements
from pendel.infer.maximum.curvature import prior_curvature
from pendel.infer.maximum.errors import error_correction
from pendel.infer.plates import by_frame, elements_of_frames
from pendel.infer.target import Data, Target, Values

PROBES = 16  # of the diagonal; the error of an element falls with the square root of their number
TOGETHER = 16  # passes whose products with all others are made at once
TANGENTS = 32  # of one site that pass through the simulator together; more take memory and save no time


def normal_matrix(
    target: Target, z: Float[Array, " n"], spreads: Values, data: Data, sizes: tuple[int, ...]
) -> tuple[Float[Array, ""], Float[Array, " n"], Arrow, Float[Array, " n"]]:
    """Negative log density, its gradient, Fisher information plus Hessian of the prior, and `error_correction`.

    Args:
        sizes: of the parts of the matrix, see `part_sizes`.
    """
    layout, values = target.layout, target.layout.split(z)

    def prior(x):
        return -target.log_prior(layout.split(x), spreads, data)

    results = target.simulate(values, spreads, data)
    log_prior, prediction = target.predict(values, spreads, data, results)
    jacobian = compressed_jacobian(target, values, spreads, data, results)
    slopes = by_frame(layout, jnp.einsum("am,pam->pm", prediction.slope(), jacobian))
    gradient = jax.grad(prior)(z).at[: layout.globals].add(-jnp.sum(slopes[:, : layout.globals], axis=0))
    gradient = gradient.at[elements_of_frames(layout)].add(-slopes[:, layout.globals :], mode="drop")
    matrix = prior_curvature(target, z, spreads, sizes, data)
    matrix = matrix + _information(layout, jacobian, prediction.information(), sizes)
    correction = error_correction(layout, jacobian, prediction, matrix)
    return -(log_prior + prediction.log_likelihood()), gradient, matrix, correction


def _information(layout: Layout, jacobian, information, sizes: tuple[int, ...]) -> Arrow:
    """J^T F J for Fisher information F; a few passes at a time, so that no second array of J's size is made."""
    count, places = layout.globals, elements_of_frames(layout)

    def times(row):
        weighted = jnp.sum(information * row, axis=1)
        own = jnp.sum(weighted * jacobian[count:], axis=1)
        return jnp.einsum("am,qam->q", weighted, jacobian[:count]), by_frame(layout, own)

    together = TOGETHER if len(jacobian) > count else None  # such a map has no empty results
    shared, of_frames = jax.lax.map(times, jacobian, batch_size=together)
    part, own = part_of_elements(places, count, sizes)
    longest = max(sizes, default=0)
    border = jnp.zeros((len(sizes), longest, count))
    border = border.at[part, own].add(jnp.moveaxis(of_frames[:count], 0, 2), mode="drop")
    blocks = jnp.zeros((len(sizes), longest, longest))
    within = jnp.moveaxis(of_frames[count:], 0, 1)
    blocks = blocks.at[part[:, :, None], own[:, :, None], own[:, None, :]].add(within, mode="drop")
    return Arrow(shared[:count], border, blocks, sizes)


def normal_diagonal(
    target: Target, z: Float[Array, " n"], spreads: Values, data: Data, sizes: tuple[int, ...]
) -> tuple[Float[Array, ""], Float[Array, " n"], Float[Array, " n"]]:
    """Negative log density, its gradient, and an estimate of the diagonal of `normal_matrix`, in reverse mode.

    J^T c with c drawn from a normal distribution whose covariance is the Fisher information F has the mean square
    diag(J^T F J), whatever the number of parameters; so PROBES gradients give every element within some 30 %. `sizes`:
    see `normal_matrix`.
    """
    layout = target.layout

    def predicted(z):
        log_prior, prediction = target.predict(layout.split(z), spreads, data)
        return prediction.parameters, (log_prior, prediction)

    def prior(x):
        return -target.log_prior(layout.split(x), spreads, data)

    _, pull, (log_prior, prediction) = jax.vjp(predicted, z, has_aux=True)
    value, vector = jnp.linalg.eigh(jnp.moveaxis(prediction.information(), -1, 0))
    noise = jax.random.normal(jax.random.key(0), (PROBES, *value.shape))
    scores = jnp.einsum("mij,pmj->pim", vector * jnp.sqrt(jnp.maximum(value, 0.0))[:, None, :], noise)
    squares = jax.lax.map(lambda c: pull(c)[0] ** 2, scores)

    # The prior's own curvature along every axis; a curve's elements hold each other, which a diagonal cannot say.
    curvature = prior_curvature(target, z, spreads, sizes, data).diagonal()
    gradient = jax.grad(prior)(z) - pull(prediction.slope())[0]
    diagonal = jnp.mean(squares, axis=0) + jnp.maximum(curvature, 1e-6)
    return -(log_prior + prediction.log_likelihood()), gradient, diagonal


def compressed_jacobian(
    target: Target,
    values: Values,
    spreads: Values,
    data: Data,
    results: Mapping[str, Any],
    names: Sequence[str] | None = None,
) -> Float[Array, "passes rows observations"]:
    """Derivatives of all predictions: by every global element of z, then by every per-frame number, in all frames.

    Args:
        values: unconstrained, by site. results: what the simulations make of them.
        names: sites by which it is differentiated, zero for the others; all when not given.
    """
    layout = target.layout
    names = [site.name for site in layout.sites if names is None or site.name in names]

    def simulating(some):
        return target.predict({**values, **some}, spreads, data)[1].parameters

    def replaying(some):
        return target.predict({**values, **some}, spreads, data, results)[1].parameters

    width = max((width for _, _, width in layout.plates.values()), default=0)
    rows = jnp.zeros((layout.globals + width, *jax.eval_shape(replaying, {}).shape))
    places = layout.passes()
    free = [name for name in names if name not in target.simulated]
    groups = [([name], simulating) for name in names if name in target.simulated] + [(free, replaying)]
    for group, predict in groups:
        some = {name: values[name] for name in group}
        tangents, place = one_hot_tangents(layout, some, places)
        if len(place) == 0:
            continue

        def push(tangent, some=some, predict=predict):
            return jax.jvp(predict, (some,), (tangent,))[1]

        few = len(place) <= TANGENTS
        rows = rows.at[place].add(jax.vmap(push)(tangents) if few else jax.lax.map(push, tangents, batch_size=TANGENTS))
    return rows


def one_hot_tangents(
    layout: Layout, some: Mapping[str, Array], places: Mapping[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """One-hot tangents of the given sites (the same in all frames), and the passes they belong to."""
    place = np.concatenate([places[name] for name in some]) if some else np.zeros(0, dtype=int)
    tangents, first = {}, 0
    for site in layout.sites:
        if site.name not in some:
            continue
        count = len(places[site.name])
        one_hot = np.zeros((len(place), count))
        one_hot[first : first + count] = np.eye(count)
        first += count
        if site.plate is None:
            tangents[site.name] = one_hot.reshape(len(place), *site.shape)
        else:
            everywhere = np.repeat(one_hot[:, None, :], site.shape[0], axis=1)
            tangents[site.name] = everywhere.reshape(len(place), *site.shape)
    return tangents, place
