"""Coordinates in which the posterior of a hierarchy is nearly standard normal, spreads and all.

With z_g the global and z_f the frame parameters, s the spreads, and F the information of the observations at the MAP
point z*, the frames' posterior given all else is nearly normal with

    precision   P(s) = F_ff + Q(s)                         Q: precision of their prior
    mean        m = z*_f + P^-1 (slope of the log prior at z*_f + slope of the likelihood - F_fg (z_g - z*_g))

so z_g = z*_g + L y_g (L L^T the Laplace covariance of the globals), log s = log s_0 + w y_s, z_f = m + C^-T e with
P = C C^T takes standard normal (y_g, y_s, e) to about the posterior. A plain whitening by the Laplace covariance
would keep the funnel: at small spreads P is hundreds of times larger than at the MAP point. The Jacobian is in the
density, so the approximations cost efficiency, not correctness.

F leaves out the curvature of the intensities themselves. What is left of the curvature at y = 0 is then measured by
differences of gradients, two for every dimension, and divided out: on real quartz its eigenvalues lay between 0 and 17.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.scipy.linalg import cho_solve, solve_triangular
from jaxtyping import Float

from pendel.constants import Array
from pendel.infer.density import prior_and_prediction
from pendel.infer.layout import inspect_model
from pendel.infer.map import MapFit
from pendel.infer.normal_matrix import negative_log_density
from pendel.infer.objective import differentiable
from pendel.infer.prune import pruned

SECANT = 0.5  # standard deviations to either side over which the curvature is taken
LEAST_CURVATURE, MOST_CURVATURE = 0.2, 100.0  # where the density is flatter or sharper than that, it is not quadratic
TOGETHER = 50  # points turned back into values at once
SPREAD_WIDTH = 0.3  # standard deviation of the log of a spread, before a warm-up finds it


@dataclasses.dataclass(frozen=True)
class Whitened:
    """The negative log density in coordinates y of all latent sites, and the way back to the sites."""

    size: int
    potential: Callable[[Float[Array, " n"]], Float[Array, ""]]
    values: Callable[[Float[Array, " n"]], dict[str, Array]]  # constrained, of one y

    def constrained_chains(self, y: Float[Array, "chains draws n"]) -> dict[str, Array]:
        """Constrained site values [chain draw ...] of the points of Markov chains."""
        points = jnp.reshape(jnp.asarray(y), (-1, y.shape[-1]))
        values = jax.lax.map(self.values, points, batch_size=TOGETHER)
        return {name: jnp.reshape(x, (*y.shape[:2], *x.shape[1:])) for name, x in values.items()}


def unit_curvature(space: Whitened, progress: Callable | None = None) -> Whitened:
    """The same space in coordinates w, y = A w, in which the potential has unit curvature around w = 0.

    Args:
        progress: called as progress("curvature", step, total, {}).
    """
    gradient = jax.jit(jax.grad(space.potential))
    rows = []
    for index in range(space.size):
        shift = jnp.zeros(space.size).at[index].set(SECANT)
        rows.append((gradient(shift) - gradient(-shift)) / (2 * SECANT))
        if progress is not None:
            progress("curvature", index + 1, space.size, {})
    curvature = np.asarray(jnp.stack(rows))
    value, vector = np.linalg.eigh(0.5 * (curvature + curvature.T))
    root = jnp.asarray(vector / np.sqrt(np.clip(value, LEAST_CURVATURE, MOST_CURVATURE)))
    return Whitened(space.size, lambda w: space.potential(root @ w), lambda w: space.values(root @ w))


def whitened(model: Callable, args: tuple, kwargs: dict[str, Any], start: MapFit) -> Whitened:
    """Coordinates from a MAP fit of the same model and data."""
    args, kwargs = differentiable((args, kwargs), "reverse")
    inner, full = start.layout, inspect_model(model, args, kwargs, with_fixed=True)
    count, centre = inner.globals, jnp.asarray(start.unconstrained)
    log_spreads, unravel = ravel_pytree({name: jnp.log(jnp.asarray(x)) for name, x in start.spreads.items()})
    number = len(log_spreads)

    def prior(z, log_s):
        spreads = {name: jnp.exp(value) for name, value in unravel(log_s).items()}
        return prior_and_prediction(model, inner, inner.split(z), spreads, args, kwargs)[0]

    log_prior = pruned(prior, centre, log_spreads)
    covariance = np.asarray(start.covariance)
    information = np.linalg.inv(covariance) + np.asarray(jax.hessian(log_prior)(centre, log_spreads))
    of_frames, border = information[count:, count:], information[count:, :count]
    pull = -np.asarray(jax.grad(log_prior)(centre, log_spreads))[count:]  # of the likelihood, at a maximum
    root = jnp.asarray(np.linalg.cholesky(covariance[:count, :count]))

    def transform(y):
        z_g = centre[:count] + root @ y[:count]
        log_s = log_spreads + SPREAD_WIDTH * y[count : count + number]

        def frames_prior(z_f):
            return log_prior(jnp.concatenate([z_g, z_f]), log_s)

        slope = jax.grad(frames_prior)(centre[count:]) + pull - border @ (z_g - centre[:count])
        precision = of_frames - jax.hessian(frames_prior)(centre[count:])
        lower = jnp.linalg.cholesky(0.5 * (precision + precision.T))
        z_f = centre[count:] + cho_solve((lower, True), slope)
        z_f = z_f + solve_triangular(lower, y[count + number :], trans=1, lower=True)
        return jnp.concatenate([z_g, z_f]), log_s, -jnp.sum(jnp.log(jnp.diag(lower)))

    def potential(y):
        z, log_s, log_volume = transform(y)
        everything = full.join({**inner.split(z), **unravel(log_s)})
        return negative_log_density(model, full, everything, {}, args, kwargs) - log_volume

    def values(y):
        z, log_s, _ = transform(y)
        return {**inner.constrain(z), **{name: jnp.exp(value) for name, value in unravel(log_s).items()}}

    return Whitened(full.size, potential, values)
