"""Spreads of hierarchies: their values given what they spread, and with that integrated out."""

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Float
from scipy.optimize import minimize

from pendel.base import Array
from pendel.infer.maximum.arrow import Arrow, ArrowRoot
from pendel.infer.maximum.curvature import prior_curvature
from pendel.infer.target import Data, Target

FARTHEST = 2.0  # that the log of a spread is moved at once
NARROWEST, WIDEST = 0.03, 1.0  # standard deviation of the log of a spread, along the axes of their covariance
UNKNOWN_WIDTH = 0.3  # the same where it is not known
DIFFERENCE = 1e-3  # of a log, for its curvature


@dataclasses.dataclass(frozen=True)
class Integrated:
    """Spreads with all else integrated out. `at` gives the Laplace approximation at any log spreads.

    That is its centre z and the root of its covariance.
    """

    log_spreads: Float[np.ndarray, " spreads"]  # at the maximum of their density
    unravel: Callable  # to log spreads by site
    root: Float[np.ndarray, "spreads spreads"]  # lower triangular, root of their covariance
    at: Callable[[Float[np.ndarray, " spreads"]], tuple[Float[np.ndarray, " n"], ArrowRoot]]


class IntegratedFunctions(NamedTuple):
    """Compiled. `prior`: (log spreads, z, precision, data) -> slope [n] of minus the log prior, curvature without it.

    `precision`: (log spreads, z, curvature of the likelihood, data) -> curvature with that of the prior.

    `loss`: (log spreads, z, curvature of the likelihood, slope of minus the log prior [n], data) -> minus the log
    density of the spreads but for a constant, with (maximum, root of covariance) of all else at them, and its slope.
    """

    prior: Callable
    precision: Callable
    loss: Callable


def best_spreads(
    loss: Callable,
    z: Float[Array, " n"],
    root: ArrowRoot,
    spreads: Mapping[str, Array],
    data: Data,
    draws: int = 16,
) -> dict[str, Array]:
    """Spreads that maximise the expected log prior under the Laplace approximation: the M step of EM.

    Given the spreads' effect on what they spread, the observations do not depend on them, so only the prior counts.

    Args:
        loss: from `spread_loss`, compiled.
        z, root: centre of the Laplace approximation, unconstrained, and the root of its covariance.
        spreads: current values, constrained and positive.
        data: arguments of the model.
        draws: number of (antithetic) draws in the expectation.
    """
    steps = jax.vmap(root.forth)(np.random.default_rng(0).standard_normal((draws // 2, len(z))))
    points = z + jnp.concatenate([steps, -steps])
    start, unravel = ravel_pytree({name: jnp.log(jnp.asarray(value)) for name, value in spreads.items()})

    def value(x):
        result, slope = loss(unravel(jnp.asarray(x)), points, data)
        return float(result), np.asarray(ravel_pytree(slope)[0])

    bounds = [(s - FARTHEST, s + FARTHEST) for s in np.asarray(start)]
    result = minimize(value, np.asarray(start), jac=True, method="L-BFGS-B", bounds=bounds)
    return {name: jnp.exp(value) for name, value in unravel(jnp.asarray(result.x)).items()}


def spread_loss(target: Target) -> Callable:
    """Compiled function (log spreads, points [draws n], data) -> minus mean log prior, and its slope."""

    def loss(log_spreads: dict[str, Array], points: Float[Array, "draws n"], data: Data):
        spreads = {name: jnp.exp(value) for name, value in log_spreads.items()}
        mean = jnp.mean(jax.vmap(lambda z: target.log_prior(target.layout.split(z), spreads, data))(points))
        return -mean - sum(jnp.sum(value) for value in log_spreads.values())

    return jax.jit(jax.value_and_grad(loss))


def integrated_spreads(
    functions: IntegratedFunctions,
    z: Float[Array, " n"],
    precision: Arrow,
    spreads: Mapping[str, Array],
    data: Data,
) -> Integrated:
    """Spreads at the maximum of their own density, all else integrated out under the Laplace approximation.

    The likelihood stays the quadratic that the approximation says at its own spreads; the prior changes. EM
    (`best_spreads`) arrives there too, in many small steps.

    Args:
        functions: from `integrated_functions`.
        z, precision, spreads: of the Laplace approximation; spreads are constrained and positive.
        data: arguments of the model.
    """
    start, unravel = _log_vector(spreads)
    both, _ = _integrated_loss(functions, start, z, precision, data)

    def loss(x):
        return both(x)[:2]

    def at(x):
        moved, root = both(x)[2]
        return np.asarray(moved), root

    x = _interior_minimum(loss, np.asarray(start))
    return Integrated(x, unravel, _covariance_root(loss, x), at)


def best_integrated(
    functions: IntegratedFunctions,
    names: Collection[str],
    z: Float[Array, " n"],
    precision: Arrow,
    spreads: Mapping[str, Array],
    data: Data,
) -> tuple[dict[str, Array], Arrow]:
    """The named spreads at the maximum of their density with the others at their values, see `integrated_spreads`.

    And the precision of the Laplace approximation with them.
    """
    start, unravel = _log_vector(spreads)
    moves = _log_vector({k: jnp.full(jnp.shape(v), np.e if k in names else 1.0) for k, v in spreads.items()})[0]
    both, likelihood = _integrated_loss(functions, start, z, precision, data)

    def loss(x):
        value, slope, _ = both(x)
        return value, np.asarray(moves) * slope

    x = jnp.asarray(_interior_minimum(loss, np.asarray(start)))
    found = unravel(x)
    precision = functions.precision(x, jnp.asarray(z), likelihood, data)
    return {name: jnp.exp(found[name]) for name in names}, precision


def _integrated_loss(functions: IntegratedFunctions, start, z, precision, data) -> tuple[Callable, Arrow]:
    """A function of log spreads for a Laplace approximation at those of the start; curvature of the likelihood.

    The function gives the loss, its slope, and the Laplace approximation there.
    """
    z = jnp.asarray(z)
    slope, likelihood = functions.prior(start, z, precision, data)

    def loss(x):
        (result, laplace), gradient = functions.loss(jnp.asarray(x), z, likelihood, slope, data)
        return float(result), np.asarray(gradient), laplace

    return loss, likelihood


def fixed_spreads(z: Float[Array, " n"], root: ArrowRoot, spreads: Mapping[str, Array]) -> Integrated:
    """Spreads at their values in MAP, the Laplace approximation being the same at all of them: for many parameters."""
    start, unravel = _log_vector(spreads)
    return Integrated(
        np.asarray(start),
        unravel,
        UNKNOWN_WIDTH * np.eye(len(start)),
        lambda _: (np.asarray(z), root),
    )


def _log_vector(spreads: Mapping[str, Array]) -> tuple[Float[Array, " spreads"], Callable]:
    return ravel_pytree({name: jnp.log(jnp.asarray(value)) for name, value in spreads.items()})


def _interior_minimum(
    loss: Callable, x: Float[np.ndarray, " spreads"], rounds: int = 5
) -> Float[np.ndarray, " spreads"]:
    """Minimum of loss, which gives (value, gradient); a round stays within FARTHEST of where it began."""
    for _ in range(rounds if len(x) else 0):
        begin = x
        bounds = [(s - FARTHEST, s + FARTHEST) for s in begin]
        x = minimize(loss, begin, jac=True, method="L-BFGS-B", bounds=bounds).x
        if np.max(np.abs(x - begin)) < 0.99 * FARTHEST:
            break
    return x


def _covariance_root(loss: Callable, x: Float[np.ndarray, " spreads"]) -> Float[np.ndarray, "spreads spreads"]:
    """Root of the inverse of the curvature, within the limits for the width."""
    if not len(x):
        return np.zeros((0, 0))
    steps = DIFFERENCE * np.eye(len(x))
    precision = np.array([(loss(x + step)[1] - loss(x - step)[1]) / (2 * DIFFERENCE) for step in steps])
    value, vector = np.linalg.eigh(0.5 * (precision + precision.T))
    return np.linalg.cholesky((vector / np.clip(value, WIDEST**-2, NARROWEST**-2)) @ vector.T)


def integrated_functions(target: Target) -> IntegratedFunctions:
    """Functions of arguments shaped like the spreads and data of a target.

    The prior is taken as normal in unconstrained parameters, which that of frames is.
    """
    layout = target.layout
    _, unravel = _log_vector(target.spreads)

    def minus_log_prior(z, log_spreads, data):
        values = {name: jnp.exp(value) for name, value in unravel(log_spreads).items()}
        return -target.log_prior(layout.split(z), values, data) - jnp.sum(log_spreads)

    slope = jax.grad(minus_log_prior)

    def with_prior(matrix, sign, z, log_spreads, data):
        values = {name: jnp.exp(value) for name, value in unravel(log_spreads).items()}
        curvature = prior_curvature(target, z, values, matrix.sizes, data)
        return matrix + jax.tree.map(lambda x: sign * x, curvature)

    def prior(log_spreads, z, precision, data):
        return slope(z, log_spreads, data), with_prior(precision, -1, z, log_spreads, data)

    def loss(log_spreads, z, likelihood, slope_then, data):
        root = with_prior(likelihood, 1, z, log_spreads, data).root()
        step = -root.solve(slope(z, log_spreads, data) - slope_then)
        potential = minus_log_prior(z + step, log_spreads, data) - slope_then @ step
        potential += 0.5 * step @ (likelihood @ step)
        return jnp.where(root.raised, jnp.inf, potential + 0.5 * root.log_det()), (z + step, root)

    def precision(log_spreads, z, likelihood, data):
        return with_prior(likelihood, 1, z, log_spreads, data)

    return IntegratedFunctions(jax.jit(prior), jax.jit(precision), jax.jit(jax.value_and_grad(loss, has_aux=True)))
