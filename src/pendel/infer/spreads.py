"""Spreads of hierarchies: their values given what they spread."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Float
from numpyro import handlers
from scipy.optimize import minimize

from pendel.constants import Array
from pendel.infer.layout import Layout
from pendel.infer.prune import pruned


def best_spreads(
    loss: Callable,
    layout: Layout,
    z: Float[Array, " n"],
    covariance: Float[Array, "n n"],
    spreads: Mapping[str, Array],
    data: tuple,
    draws: int = 16,
) -> dict[str, Array]:
    """Spreads that maximise the expected log prior under the Laplace approximation: the M step of EM.

    Given the spreads' effect on what they spread, the observations do not depend on them, so only the prior counts.

    Args:
        loss: from `spread_loss`, compiled.
        z, covariance: centre and covariance of the Laplace approximation, unconstrained.
        spreads: current values, constrained and positive.
        data: the model's (args, kwargs).
        draws: number of (antithetic) draws in the expectation.
    """
    noise = np.random.default_rng(0).standard_normal((draws // 2, layout.size))
    points = np.asarray(z) + np.concatenate([noise, -noise]) @ np.linalg.cholesky(np.asarray(covariance)).T
    start, unravel = ravel_pytree({name: jnp.log(jnp.asarray(value)) for name, value in spreads.items()})

    def value(x):
        result, slope = loss(unravel(jnp.asarray(x)), jnp.asarray(points), data)
        return float(result), np.asarray(ravel_pytree(slope)[0])

    bounds = [(s - 2, s + 2) for s in np.asarray(start)]
    result = minimize(value, np.asarray(start), jac=True, method="L-BFGS-B", bounds=bounds)
    return {name: jnp.exp(value) for name, value in unravel(jnp.asarray(result.x)).items()}


def spread_loss(model: Callable, layout: Layout) -> Callable:
    """Compiled function (log spreads, points [draws n], (args, kwargs)) -> minus mean log prior, and its slope."""

    def loss(log_spreads: dict[str, Array], points: Float[Array, "draws n"], data: tuple[tuple, dict[str, Any]]):
        def log_prior(z, log_spreads):
            spreads = {name: jnp.exp(value) for name, value in log_spreads.items()}
            values: Any = {**layout.constrain(z), **spreads}
            trace = handlers.trace(handlers.substitute(model, data=values)).get_trace(*data[0], **data[1])
            latent = [site for site in trace.values() if site["type"] == "sample" and not site["is_observed"]]
            return sum(jnp.sum(site["fn"].log_prob(site["value"])) for site in latent)

        one = pruned(log_prior, points[0], log_spreads)
        return -jnp.mean(jax.vmap(lambda z: one(z, log_spreads))(points)) - sum(
            jnp.sum(value) for value in log_spreads.values()
        )

    return jax.jit(jax.value_and_grad(loss))
