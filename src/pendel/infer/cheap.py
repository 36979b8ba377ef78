"""Parameters that the simulator does not see (scales, errors, means): moved to their maximum with the simulation held.

The computation is cut in two, what needs only the held values and the little that is left; the second part costs a
thousandth of the first, so dozens of parameters are settled for the price of one simulation.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import jaxpr_as_fun
from jax.flatten_util import ravel_pytree
from jax.interpreters.partial_eval import partial_eval_jaxpr_nounits
from jaxtyping import Float
from scipy.optimize import minimize

from pendel.constants import Array
from pendel.infer.density import log_likelihood, prior_and_prediction
from pendel.infer.layout import Layout
from pendel.infer.normal_matrix import sites_in_loops

MOST_STEPS = 500


def cheap_maximiser(
    model: Callable, layout: Layout, spreads: Mapping[str, Array], data: tuple
) -> Callable[[Array, Mapping[str, Array], tuple, Array], Float[Array, " n"]]:
    """A function (z, spreads, data, credit) -> z with the elements of cheap sites at their conditional maximum.

    What is maximised is log density + credit z.

    Args:
        spreads, data: of the shapes that will be given; data is the model's (args, kwargs).
    """
    values = layout.split(jnp.zeros(layout.size))

    def predict(values):
        return prior_and_prediction(model, layout, values, spreads, *data)[1].parameters

    held_names = sites_in_loops(predict, values)
    cheap = {name: value for name, value in values.items() if name not in held_names}
    held = {name: values[name] for name in held_names}

    def loss(held, spreads, data, credit, cheap):
        log_prior, prediction = prior_and_prediction(model, layout, {**held, **cheap}, spreads, *data)
        log_density = log_prior + log_likelihood(prediction.parameters, prediction.observed, prediction.used)
        return -(log_density + sum(jnp.vdot(credit[name], value) for name, value in cheap.items()))

    simulate, rest = split_computation(loss, (held, dict(spreads), data, values), cheap)
    slope = jax.jit(jax.value_and_grad(rest, argnums=1))

    def maximise(z, spreads, data, credit):
        now = layout.split(jnp.asarray(z))
        simulated = simulate(({name: now[name] for name in held}, dict(spreads), data, layout.split(credit)))
        start, unravel = ravel_pytree({name: now[name] for name in cheap})

        def value(x):
            result, gradient = slope(simulated, unravel(jnp.asarray(x)))
            return float(result), np.asarray(ravel_pytree(gradient)[0])

        found = minimize(value, np.asarray(start), jac=True, method="L-BFGS-B", options={"maxiter": MOST_STEPS})
        if not np.isfinite(found.fun):
            return z
        return layout.join({**now, **unravel(jnp.asarray(found.x))})

    return maximise


def split_computation(function: Callable, known, unknown) -> tuple[Callable, Callable]:
    """Cut function(*known, unknown) into simulate(known) -> parts and rest(parts, unknown) -> the result.

    Args:
        function: of arrays and pytrees, returning one array.
        known, unknown: examples of its arguments.
    """
    closed = jax.make_jaxpr(lambda known, unknown: function(*known, unknown))(known, unknown)
    count = len(jax.tree.leaves(known))
    flags = [False] * count + [True] * (len(closed.jaxpr.invars) - count)
    first, second, _, residuals = partial_eval_jaxpr_nounits(closed, flags, instantiate=True)
    number = len(residuals)
    run_first, run_second = jaxpr_as_fun(first), jaxpr_as_fun(second)

    @jax.jit
    def simulate(known):
        flat = run_first(*jax.tree.leaves(known))
        return tuple(flat[len(flat) - number :])

    def rest(parts, unknown):
        return run_second(*parts, *jax.tree.leaves(unknown))[0]

    return simulate, rest
