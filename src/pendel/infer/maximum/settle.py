"""Parameters that reach no simulation (scales, errors, means): moved to their maximum with its results replayed.

What is left of a density without its simulation costs a thousandth of it, so dozens of parameters are settled for the
price of one simulation.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Float
from scipy.optimize import minimize

from pendel.base import Array
from pendel.infer.target import Data, Target, Values

MOST_STEPS = 500  # of L-BFGS; a fit with fewer is continued by the next call


def settler(target: Target) -> Callable[[Array, Values, Data, Array], Float[Array, " n"]]:
    """A function (z, spreads, data, correction) -> z with the sites that reach no simulation at their maximum.

    What is maximised, given the other sites, is log density + correction . z.
    """
    layout = target.layout
    names = [site.name for site in layout.sites if site.name not in target.simulated]
    _, unravel = ravel_pytree({name: layout.split(jnp.zeros(layout.size))[name] for name in names})

    @jax.jit
    def simulate(z, spreads, data):
        return target.simulate(layout.split(z), spreads, data)

    @jax.jit
    @jax.value_and_grad
    def loss(x, z, spreads, data, correction, results):
        values = {**layout.split(z), **unravel(x)}
        log_prior, prediction = target.predict(values, spreads, data, results)
        return -(log_prior + prediction.log_likelihood() + correction @ layout.join(values))

    def settle(z, spreads, data, correction):
        z, spreads = jnp.asarray(z), dict(spreads)
        results = simulate(z, spreads, data)
        start, _ = ravel_pytree({name: layout.split(z)[name] for name in names})

        def value(x):
            result, slope = loss(jnp.asarray(x), z, spreads, data, correction, results)
            return float(result), np.asarray(slope)

        found = minimize(value, np.asarray(start), jac=True, method="L-BFGS-B", options={"maxiter": MOST_STEPS})
        if not np.isfinite(found.fun):
            return z
        return layout.join({**layout.split(z), **unravel(jnp.asarray(found.x))})

    return settle
