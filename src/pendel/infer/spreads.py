"""Spreads of hierarchies: their values given what they spread."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from numpyro import handlers
from scipy.optimize import minimize

from pendel.constants import Array
from pendel.infer.layout import Layout


def best_spreads(
    model: Callable,
    layout: Layout,
    z: Float[Array, " n"],
    covariance: Float[Array, "n n"],
    spreads: Mapping[str, Array],
    args: tuple,
    kwargs: dict[str, Any],
    draws: int = 32,
) -> dict[str, Array]:
    """Spreads that maximise the expected log prior under the Laplace approximation: the M step of EM.

    The observations do not depend on the spreads given the spread values, so only the prior counts.

    Args:
        z, covariance: centre and covariance of the Laplace approximation, unconstrained.
        spreads: current values, constrained and positive.
        draws: number of (antithetic) draws in the expectation.
    """
    noise = np.random.default_rng(0).standard_normal((draws // 2, layout.size))
    points = np.asarray(z) + np.concatenate([noise, -noise]) @ np.linalg.cholesky(np.asarray(covariance)).T
    values = jax.vmap(layout.constrain)(jnp.asarray(points))
    names = sorted(spreads)

    @jax.jit
    @jax.value_and_grad
    def loss(log_spreads):
        current = {name: jnp.exp(log_spreads[k]) for k, name in enumerate(names)}

        def one(drawn):
            trace = handlers.trace(handlers.substitute(model, data={**drawn, **current})).get_trace(*args, **kwargs)
            latent = [s for s in trace.values() if s["type"] == "sample" and not s["is_observed"]]
            return sum(jnp.sum(site["fn"].log_prob(site["value"])) for site in latent)

        return -jnp.mean(jax.vmap(one)(values)) - jnp.sum(log_spreads)

    start = np.log(np.array([float(np.asarray(spreads[name])) for name in names]))
    result = minimize(
        lambda x: tuple(np.asarray(part) for part in loss(x)),
        start,
        jac=True,
        method="L-BFGS-B",
        bounds=[(s - 2, s + 2) for s in start],
    )
    return {name: jnp.asarray(np.exp(result.x[k])) for k, name in enumerate(names)}
