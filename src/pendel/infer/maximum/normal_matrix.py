"""Gradient and Gauss-Newton matrix of a model's negative log density, by forward mode.

Given the global parameters, frames are independent: an observation of frame f depends on the parameters of frame f
only. So one forward pass with the same tangent in every frame gives the Jacobian of one per-frame parameter for all
frames, and the whole bordered block-diagonal matrix costs (globals + numbers per frame) passes. Passes are made site by
site, because a tilt leaves U_g alone and a thickness leaves the recurrence alone; sites that reach no loop of the
simulator share one pass. The prior may couple frames in any way; its Hessian is added exactly. Curvature of the
likelihood is its Fisher information, so the matrix is positive definite where the prior is.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from pendel.base import Array
from pendel.infer.density import fisher_information, log_likelihood, prior_and_prediction
from pendel.infer.layout import Layout
from pendel.infer.maximum.errors import error_credit
from pendel.infer.prune import pruned

PROBES = 16  # of the diagonal
TANGENTS = 32  # of one site that pass through the simulator together, at most; more take memory and save no time
LOOPS = frozenset({"while", "scan", "ffi_call", "eigh"})  # primitives that make a computation expensive


def negative_log_density(
    model: Callable,
    layout: Layout,
    z: Float[Array, " n"],
    fixed: Mapping[str, Array],
    args: tuple,
    kwargs: dict[str, Any],
) -> Float[Array, ""]:
    """-log p(z, observations) with the spreads in `fixed` held."""
    log_prior, prediction = prior_and_prediction(model, layout, layout.split(z), fixed, args, kwargs)
    return -(log_prior + log_likelihood(prediction.parameters, prediction.observed, prediction.used))


def normal_matrix(
    model: Callable,
    layout: Layout,
    z: Float[Array, " n"],
    fixed: Mapping[str, Array],
    args: tuple,
    kwargs: dict[str, Any],
    columns: Int[Array, "frame_passes observations"],
) -> tuple[Float[Array, ""], Float[Array, " n"], Float[Array, "n n"], Float[Array, " n"]]:
    """Negative log density, its exact gradient, Fisher information of the likelihood plus Hessian of the prior, credit.

    Args:
        columns: from `frame_columns`; which element of z a per-frame pass differentiates, for every observation.

    Returns:
        the last is `error_credit`.
    """

    def predict(values):
        return prior_and_prediction(model, layout, values, fixed, args, kwargs)[1].parameters

    prior = pruned(lambda x: prior_and_prediction(model, layout, layout.split(x), fixed, args, kwargs)[0], z)

    log_prior, prediction = prior_and_prediction(model, layout, layout.split(z), fixed, args, kwargs)
    finite = jnp.isfinite(prediction.parameters)
    likelihood, slope = jax.value_and_grad(log_likelihood)(prediction.parameters, prediction.observed, prediction.used)
    information = fisher_information(prediction.parameters) * prediction.used

    jacobian = jnp.where(finite, compressed_jacobian(layout, predict, layout.split(z)), 0.0)
    slopes = jnp.einsum("am,pam->pm", jnp.where(finite, slope, 0.0), jacobian)
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
    credit = error_credit(layout, jacobian, prediction.parameters, information[0, 0], matrix, columns)
    return -(log_prior + likelihood), gradient, matrix, credit


def normal_diagonal(
    model: Callable,
    layout: Layout,
    z: Float[Array, " n"],
    fixed: Mapping[str, Array],
    args: tuple,
    kwargs: dict[str, Any],
) -> tuple[Float[Array, ""], Float[Array, " n"], Float[Array, " n"]]:
    """Negative log density, its gradient, and an estimate of the diagonal of `normal_matrix`, in reverse mode.

    J^T c with c drawn from a normal distribution whose covariance is the Fisher information F has the mean square
    diag(J^T F J), whatever the number of parameters; so PROBES gradients give every element within some 30 %.
    """

    def predicted(z):
        log_prior, prediction = prior_and_prediction(model, layout, layout.split(z), fixed, args, kwargs)
        parameters = prediction.parameters
        rest = parameters, prediction.observed, prediction.used
        return jnp.where(jnp.isfinite(parameters), parameters, 0.0), (log_prior, rest)

    _, pull, (log_prior, rest) = jax.vjp(predicted, z, has_aux=True)
    finite = jnp.isfinite(rest[0])
    likelihood, slope = jax.value_and_grad(log_likelihood)(*rest)
    information = jnp.moveaxis(fisher_information(rest[0]) * rest[2], -1, 0)
    value, vector = jnp.linalg.eigh(information)
    noise = jax.random.normal(jax.random.key(0), (PROBES, *value.shape))
    scores = jnp.einsum("mij,pmj->pim", vector * jnp.sqrt(jnp.maximum(value, 0.0))[:, None, :], noise)
    squares = jax.lax.map(lambda c: pull(jnp.where(finite, c, 0.0))[0] ** 2, scores)

    prior = pruned(lambda x: prior_and_prediction(model, layout, layout.split(x), fixed, args, kwargs)[0], z)
    prior_slope = jax.grad(prior)
    # The prior's own curvature along every axis; a curve's elements hold each other, which a diagonal cannot say.
    curvature = -jax.lax.map(lambda e: jnp.vdot(e, jax.jvp(prior_slope, (z,), (e,))[1]), jnp.eye(layout.size))
    gradient = -(prior_slope(z) + pull(jnp.where(finite, slope, 0.0))[0])
    return -(log_prior + likelihood), gradient, jnp.mean(squares, axis=0) + jnp.maximum(curvature, 1e-6)


def compressed_jacobian(
    layout: Layout, predict: Callable, values: dict[str, Array]
) -> Float[Array, "passes 3 observations"]:
    """Derivatives of all predictions: by every global element of z, then by every per-frame number, in all frames.

    Args:
        predict: from unconstrained site values to the predictions.
        values: unconstrained site values.
    """
    looped = sites_in_loops(predict, values)
    cheap = [name for name in values if name not in looped]
    width = max((width for _, _, width in layout.plates.values()), default=0)
    rows = jnp.zeros((layout.globals + width, *jax.eval_shape(predict, values).shape))
    places = layout.passes()
    for names in [*([name] for name in looped), cheap]:
        some = {name: values[name] for name in names}
        tangents, place = _tangents(layout, some, places)
        if len(place) == 0:
            continue

        def push(tangent, some=some):
            return jax.jvp(lambda x: predict({**values, **x}), (some,), (tangent,))[1]

        few = len(place) <= TANGENTS
        rows = rows.at[place].add(jax.vmap(push)(tangents) if few else jax.lax.map(push, tangents, batch_size=TANGENTS))
    return rows


def sites_in_loops(predict: Callable, values: dict[str, Array]) -> list[str]:
    """Names of the sites whose values reach a loop of the computation, i.e. the simulator."""
    closed = jax.make_jaxpr(predict)(values)
    names = sorted(values)  # the order of a dict's leaves
    reached: dict[Any, set[str]] = {variable: {name} for variable, name in zip(closed.jaxpr.invars, names, strict=True)}
    found: set[str] = set()
    for equation in closed.jaxpr.eqns:
        inputs: Any = [v for v in equation.invars if not hasattr(v, "val")]
        origin = set().union(*(reached.get(v, set()) for v in inputs))
        if _has_loop(equation):
            found |= origin
        reached.update(dict.fromkeys(equation.outvars, origin))
    return [name for name in values if name in found]


def _has_loop(equation) -> bool:
    if equation.primitive.name in LOOPS:
        return True
    inner = [getattr(value, "jaxpr", None) for value in equation.params.values()]
    return any(_has_loop(e) for jaxpr in inner if jaxpr is not None for e in getattr(jaxpr, "eqns", ()))


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
    columns = []
    for _, plate, frame in layout.observations:
        offset, _, numbers = layout.plates[plate]
        number = np.arange(width)
        columns.append(offset + np.where(number < numbers, number, 0)[:, None] + numbers * frame[None, :])
    return np.concatenate(columns, axis=1).astype(np.int32)
