"""The log density of a model as a function of the unconstrained vector, and what its observations predict."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax.scipy.special import polygamma
from jaxtyping import Float
from numpyro import handlers

from pendel.base import Array
from pendel.infer.layout import Layout


@dataclasses.dataclass(frozen=True)
class Prediction:
    """Parameters of every observation's distribution, all observed sites one after the other.

    `parameters` rows: location, log scale, log degrees of freedom (infinite for a normal distribution).
    """

    parameters: Float[Array, "3 observations"]
    observed: Float[Array, " observations"]
    used: Float[Array, " observations"]  # 1 where the observation counts, 0 where it is masked


def prior_and_prediction(
    model: Callable,
    layout: Layout,
    unconstrained: Mapping[str, Array],
    fixed: Mapping[str, Array],
    args: tuple,
    kwargs: dict[str, Any],
) -> tuple[Float[Array, ""], Prediction]:
    """Log prior density of unconstrained site values (with the Jacobian of the constraints), and the prediction."""
    values: Any = {**fixed, **layout.constrain_values(unconstrained)}
    trace = handlers.trace(handlers.substitute(model, data=values)).get_trace(*args, **kwargs)
    log_prior = layout.log_det_jacobian(unconstrained)
    parts, observed, used = [], [], []
    for site in trace.values():
        if site["type"] != "sample":
            continue
        if not site["is_observed"]:
            log_prior = log_prior + jnp.sum(site["fn"].log_prob(site["value"]))
            continue
        fn, mask = _unmasked(site["fn"])
        parts.append(_parameters(fn, site["name"]))
        observed.append(jnp.asarray(site["value"]))
        used.append(jnp.broadcast_to(jnp.asarray(mask, dtype=float), observed[-1].shape))
    return log_prior, Prediction(jnp.concatenate(parts, axis=1), jnp.concatenate(observed), jnp.concatenate(used))


def log_likelihood(parameters: Float[Array, "3 observations"], observed: Array, used: Array) -> Float[Array, ""]:
    """Sum of the log densities of the observations that count."""
    return jnp.sum(pointwise_log_likelihood(parameters, observed, used))


def pointwise_log_likelihood(
    parameters: Float[Array, "3 observations"], observed: Array, used: Array
) -> Float[Array, " observations"]:
    """Log density of every observation, zero where it does not count."""
    location, log_scale, log_df = parameters
    z = (observed - location) * jnp.exp(-log_scale)
    normal = jax.scipy.stats.norm.logpdf(z)
    finite = jnp.isfinite(log_df)
    df = jnp.exp(jnp.where(finite, log_df, 0.0))
    student = jax.scipy.stats.t.logpdf(z, df)
    return used * (jnp.where(finite, student, normal) - log_scale)


def fisher_information(parameters: Float[Array, "3 observations"]) -> Float[Array, "3 3 observations"]:
    """Expected information of one observation on (location, log scale, log df).

    Student-t: (nu+1)/((nu+3) s^2), 2 nu/(nu+3), and -2 nu/((nu+1)(nu+3)) between log scale and log df; normal as
    nu -> infinity.
    Source: Lange, Little & Taylor, J. Am. Stat. Assoc. 84, 881 (1989), appendix B.
    """
    _, log_scale, log_df = parameters
    finite = jnp.isfinite(log_df)
    nu = jnp.exp(jnp.where(finite, log_df, 0.0))
    location = jnp.where(finite, (nu + 1) / (nu + 3), 1.0) * jnp.exp(-2 * log_scale)
    scale = jnp.where(finite, 2 * nu / (nu + 3), 2.0)
    cross = jnp.where(finite, -2 * nu / ((nu + 1) * (nu + 3)), 0.0)
    trigamma = polygamma(1, nu / 2) - polygamma(1, (nu + 1) / 2)
    shape = nu**2 * (trigamma / 4 - (nu + 5) / (2 * nu * (nu + 1) * (nu + 3)))
    shape = jnp.where(finite, shape, 0.0)
    zero = jnp.zeros_like(location)
    return jnp.stack(
        [jnp.stack([location, zero, zero]), jnp.stack([zero, scale, cross]), jnp.stack([zero, cross, shape])]
    )


def _unmasked(fn: Any) -> tuple[Any, Any]:
    mask: Any = 1.0
    while hasattr(fn, "base_dist"):
        if isinstance(fn, dist.MaskedDistribution):
            mask = fn._mask
        fn = fn.base_dist
    return fn, mask


def _parameters(fn: Any, name: str) -> Float[Array, "3 observations"]:
    parameters: Any = fn
    if isinstance(fn, dist.StudentT):
        location, scale, df = (
            jnp.broadcast_to(x, fn.batch_shape) for x in (parameters.loc, parameters.scale, parameters.df)
        )
        return jnp.stack([location, jnp.log(scale), jnp.log(df)])
    if isinstance(fn, dist.Normal):
        location, scale = (jnp.broadcast_to(x, fn.batch_shape) for x in (parameters.loc, parameters.scale))
        return jnp.stack([location, jnp.log(scale), jnp.full(location.shape, jnp.inf)])
    raise TypeError(
        f"The observed site {name!r} is a {type(fn).__name__}. Expected Normal or StudentT. "
        "To fix: use one of them, or sample the model with NumPyro directly."
    )
