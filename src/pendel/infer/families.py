"""Families of observation distributions: their parameters, log density, and expected (Fisher) information.

Inference needs of an observed site a few numbers for every observation, the log density as a function of them, and the
information that an observation holds on them. Normal, Student-t, log-normal and Poisson distributions say so in closed
form; every other distribution takes the log density itself, at the observation and at a few replicated observations.
"""

from collections.abc import Callable
from functools import singledispatch
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax.scipy.special import gammaln, polygamma
from jaxtyping import Float

from pendel.base import Array

REPLICATES = 8  # of an observation, for the information of a distribution without a closed form


class Family(NamedTuple):
    """What inference knows of a kind of distribution.

    `rows` says how many numbers an observation has; the first is its location. `parameters`: (distribution, observed
    values) -> them [rows observations], whatever the shape of the observations; `log_density`: (parameters, observed
    values) -> log densities [observations]; `information`: parameters -> expected information [rows rows observations].
    """

    rows: int
    parameters: Callable[[Any, Array], Float[Array, "rows observations"]]
    log_density: Callable[[Float[Array, "rows observations"], Array], Float[Array, " observations"]]
    information: Callable[[Float[Array, "rows observations"]], Float[Array, "rows rows observations"]]


def normal_parameters(fn: Any, value: Array) -> Float[Array, "2 *observations"]:
    """Location and log scale."""
    return _stacked(value, fn.loc, jnp.log(fn.scale))


def normal_log_density(parameters: Float[Array, "2 observations"], value: Array) -> Float[Array, " observations"]:
    """log N(value; location, scale)."""
    location, log_scale = parameters
    return jax.scipy.stats.norm.logpdf((value - location) * jnp.exp(-log_scale)) - log_scale


def normal_information(parameters: Float[Array, "2 observations"]) -> Float[Array, "2 2 observations"]:
    """1 / s^2 on the location, 2 on the log scale."""
    _, log_scale = parameters
    zero = jnp.zeros_like(log_scale)
    return jnp.stack([jnp.stack([jnp.exp(-2 * log_scale), zero]), jnp.stack([zero, jnp.full_like(zero, 2.0)])])


def student_parameters(fn: Any, value: Array) -> Float[Array, "3 *observations"]:
    """Location, log scale and log degrees of freedom."""
    return _stacked(value, fn.loc, jnp.log(fn.scale), jnp.log(fn.df))


def student_log_density(parameters: Float[Array, "3 observations"], value: Array) -> Float[Array, " observations"]:
    """Log density of Student's t with a location and a scale."""
    location, log_scale, log_df = parameters
    return jax.scipy.stats.t.logpdf((value - location) * jnp.exp(-log_scale), jnp.exp(log_df)) - log_scale


def student_information(parameters: Float[Array, "3 observations"]) -> Float[Array, "3 3 observations"]:
    """(nu+1)/((nu+3) s^2) on the location, 2 nu/(nu+3) on log s, -2 nu/((nu+1)(nu+3)) between log s and log nu.

    Source: Lange, Little & Taylor, J. Am. Stat. Assoc. 84, 881 (1989), appendix B.
    """
    _, log_scale, log_df = parameters
    nu = jnp.exp(log_df)
    location = (nu + 1) / (nu + 3) * jnp.exp(-2 * log_scale)
    scale = 2 * nu / (nu + 3)
    cross = -2 * nu / ((nu + 1) * (nu + 3))
    trigamma = polygamma(1, nu / 2) - polygamma(1, (nu + 1) / 2)
    shape = nu**2 * (trigamma / 4 - (nu + 5) / (2 * nu * (nu + 1) * (nu + 3)))
    zero = jnp.zeros_like(location)
    return jnp.stack(
        [jnp.stack([location, zero, zero]), jnp.stack([zero, scale, cross]), jnp.stack([zero, cross, shape])]
    )


def poisson_parameters(fn: Any, value: Array) -> Float[Array, "1 *observations"]:
    """Log rate."""
    return _stacked(value, jnp.log(fn.rate))


def poisson_log_density(parameters: Float[Array, "1 observations"], value: Array) -> Float[Array, " observations"]:
    """k log r - r - log k!."""
    (log_rate,) = parameters
    return value * log_rate - jnp.exp(log_rate) - gammaln(value + 1)


def poisson_information(parameters: Float[Array, "1 observations"]) -> Float[Array, "1 1 observations"]:
    """The rate, on its logarithm."""
    return jnp.exp(parameters)[None]


NORMAL = Family(2, normal_parameters, normal_log_density, normal_information)
STUDENT = Family(3, student_parameters, student_log_density, student_information)
POISSON = Family(1, poisson_parameters, poisson_log_density, poisson_information)


def log_normal_parameters(fn: Any, value: Array) -> Float[Array, "2 *observations"]:
    """Location and log scale of the logarithm."""
    return normal_parameters(fn.base_dist, value)


def log_normal_log_density(parameters: Float[Array, "2 observations"], value: Array) -> Float[Array, " observations"]:
    """The normal log density of the logarithm, over the value."""
    return normal_log_density(parameters, jnp.log(value)) - jnp.log(value)


LOG_NORMAL = Family(2, log_normal_parameters, log_normal_log_density, normal_information)


def any_parameters(fn: Any, value: Array) -> Float[Array, "rows observations"]:
    """Log density at the observation, and at REPLICATES observations drawn from the distribution as it stands."""
    fn = fn.expand(jnp.shape(value))  # each observation has replicates of its own
    drawn = jax.lax.stop_gradient(fn.sample(jax.random.key(0), (REPLICATES,)))
    return jnp.stack([fn.log_prob(value), *(fn.log_prob(one) for one in drawn)])


def any_log_density(parameters: Float[Array, "rows observations"], value: Array) -> Float[Array, " observations"]:
    """The first row."""
    del value
    return parameters[0]


def any_information(parameters: Float[Array, "rows observations"]) -> Float[Array, "rows rows observations"]:
    """Weights with which J^T F J is the mean over the replicates of score score^T: a Monte Carlo Fisher information."""
    weight = jnp.concatenate([jnp.zeros(1), jnp.full(REPLICATES, 1 / REPLICATES)])
    return jnp.diag(weight)[:, :, None] * jnp.ones(parameters.shape[1])


ANY = Family(1 + REPLICATES, any_parameters, any_log_density, any_information)


@singledispatch
def family_of(fn: Any) -> Family:
    """The family of a distribution without masks; `ANY` where no closed form is known."""
    del fn
    return ANY


family_of.register(dist.Normal, lambda fn: NORMAL)
family_of.register(dist.StudentT, lambda fn: STUDENT)
family_of.register(dist.Poisson, lambda fn: POISSON)
family_of.register(dist.LogNormal, lambda fn: LOG_NORMAL)


def _stacked(value: Array, *rows: Any) -> Float[Array, "rows *observations"]:
    return jnp.stack([jnp.broadcast_to(row, jnp.shape(value)) for row in rows])
