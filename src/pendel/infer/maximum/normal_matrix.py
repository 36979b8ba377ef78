"""Gradient and Gauss-Newton matrix of a model's negative log density, by forward mode.

Given the global parameters, frames are independent: an observation of frame f depends on the parameters of frame f
only. So one forward pass with the same tangent in every frame gives the Jacobian of one per-frame parameter for all
frames, and the whole bordered block-diagonal matrix costs (globals + numbers per frame) passes. Passes are made site by
site, because a tilt leaves U_g alone and a thickness leaves the recurrence alone. Sites that reach no simulation are
differentiated with its results replayed. The prior may couple frames in any way; its Hessian is added exactly.
Curvature of the likelihood is its Fisher information, so the matrix is positive definite where the prior is.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from pendel.base import Array
from pendel.infer.layout import Layout
from pendel.infer.maximum.errors import error_correction
from pendel.infer.target import Data, Target, Values

PROBES = 16  # of the diagonal; the error of an element falls with the square root of their number
TANGENTS = 32  # of one site that pass through the simulator together; more take memory and save no time


def normal_matrix(
    target: Target,
    z: Float[Array, " n"],
    spreads: Values,
    data: Data,
    columns: Int[Array, "frame_passes observations"],
) -> tuple[Float[Array, ""], Float[Array, " n"], Float[Array, "n n"], Float[Array, " n"]]:
    """Negative log density, its gradient, Fisher information plus Hessian of the prior, and `error_correction`.

    Args:
        columns: from `frame_columns`; which element of z a per-frame pass differentiates, for every observation.
    """
    layout, values = target.layout, target.layout.split(z)

    def prior(x):
        return target.log_prior(layout.split(x), spreads, data)

    results = target.simulate(values, spreads, data)
    log_prior, prediction = target.predict(values, spreads, data, results)
    information = prediction.information()
    jacobian = compressed_jacobian(target, values, spreads, data, results)
    slopes = jnp.einsum("am,pam->pm", prediction.slope(), jacobian)
    weighted = jnp.einsum("abm,pbm->pam", information, jacobian)

    count = layout.globals
    both = slice(0, count)
    gradient = -jax.grad(prior)(z)
    gradient = gradient.at[both].add(-jnp.sum(slopes[:count], axis=1)).at[columns].add(-slopes[count:])
    matrix = -jax.hessian(prior)(z)
    matrix = matrix.at[both, both].add(jnp.einsum("pam,qam->pq", weighted[:count], jacobian[:count]))
    border = jnp.einsum("pam,qam->pqm", weighted[:count], jacobian[count:])
    border = jnp.zeros((count, layout.size)).at[:, columns].add(border)
    matrix = matrix.at[both].add(border).at[:, both].add(border.T)
    blocks = jnp.einsum("pam,qam->pqm", weighted[count:], jacobian[count:])
    matrix = matrix.at[columns[:, None, :], columns[None, :, :]].add(blocks)
    matrix = 0.5 * (matrix + matrix.T)
    correction = error_correction(layout, jacobian, prediction, matrix, columns)
    return -(log_prior + prediction.log_likelihood()), gradient, matrix, correction


def normal_diagonal(
    target: Target, z: Float[Array, " n"], spreads: Values, data: Data
) -> tuple[Float[Array, ""], Float[Array, " n"], Float[Array, " n"]]:
    """Negative log density, its gradient, and an estimate of the diagonal of `normal_matrix`, in reverse mode.

    J^T c with c drawn from a normal distribution whose covariance is the Fisher information F has the mean square
    diag(J^T F J), whatever the number of parameters; so PROBES gradients give every element within some 30 %.
    """
    layout = target.layout

    def predicted(z):
        log_prior, prediction = target.predict(layout.split(z), spreads, data)
        return prediction.parameters, (log_prior, prediction)

    def prior(x):
        return target.log_prior(layout.split(x), spreads, data)

    _, pull, (log_prior, prediction) = jax.vjp(predicted, z, has_aux=True)
    value, vector = jnp.linalg.eigh(jnp.moveaxis(prediction.information(), -1, 0))
    noise = jax.random.normal(jax.random.key(0), (PROBES, *value.shape))
    scores = jnp.einsum("mij,pmj->pim", vector * jnp.sqrt(jnp.maximum(value, 0.0))[:, None, :], noise)
    squares = jax.lax.map(lambda c: pull(c)[0] ** 2, scores)

    prior_slope = jax.grad(prior)
    # The prior's own curvature along every axis; a curve's elements hold each other, which a diagonal cannot say.
    curvature = -jax.lax.map(lambda e: jnp.vdot(e, jax.jvp(prior_slope, (z,), (e,))[1]), jnp.eye(layout.size))
    gradient = -(prior_slope(z) + pull(prediction.slope())[0])
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
        tangents, place = _tangents(layout, some, places)
        if len(place) == 0:
            continue

        def push(tangent, some=some, predict=predict):
            return jax.jvp(predict, (some,), (tangent,))[1]

        few = len(place) <= TANGENTS
        rows = rows.at[place].add(jax.vmap(push)(tangents) if few else jax.lax.map(push, tangents, batch_size=TANGENTS))
    return rows


def _tangents(layout: Layout, some: dict[str, Array], places: Mapping[str, np.ndarray]):
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


def frame_columns(layout: Layout) -> Int[np.ndarray, "frame_passes observations"]:
    """The element of z that each per-frame pass differentiates each observation by.

    A plate with fewer numbers per frame repeats its first one, where the pass has no tangent and the derivative is 0.
    """
    width = max((width for _, _, width in layout.plates.values()), default=0)
    columns = [np.zeros((width, 0), dtype=np.int32)]
    for _, plate, frame in layout.observations:
        offset, _, numbers = layout.plates[plate]
        number = np.arange(width)
        columns.append(offset + np.where(number < numbers, number, 0)[:, None] + numbers * frame[None, :])
    return np.concatenate(columns, axis=1).astype(np.int32)
