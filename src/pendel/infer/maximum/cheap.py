"""Parameters that the simulator does not see (scales, errors, means): moved to their maximum with the simulation held.

The computation is cut in two, what needs only the held values and the little that is left; the second part costs a
thousandth of the first, so dozens of parameters are settled for the price of one simulation.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Float
from scipy.optimize import minimize

from pendel.base import Array
from pendel.infer.density import log_likelihood, prior_and_prediction
from pendel.infer.layout import Layout
from pendel.infer.maximum.normal_matrix import sites_in_loops

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

    Whole equations move: what they say about their derivatives, and what reverse mode may keep of them, stays.

    Args:
        function: of arrays and pytrees, returning one array.
        known, unknown: examples of its arguments.
    """
    closed = jax.make_jaxpr(lambda known, unknown: function(*known, unknown))(known, unknown)
    jaxpr, count = closed.jaxpr, len(jax.tree.leaves(known))
    given, open_inputs = jaxpr.invars[:count], jaxpr.invars[count:]
    settled, early, late = {*given, *jaxpr.constvars}, [], []
    for equation in jaxpr.eqns:
        if all(_is_literal(v) or v in settled for v in equation.invars):
            early.append(equation)
            settled.update(equation.outvars)
        else:
            late.append(equation)
    wanted = [v for equation in late for v in equation.invars] + list(jaxpr.outvars)
    handed_over = settled.difference(jaxpr.constvars)
    parts = list(dict.fromkeys(v for v in wanted if not _is_literal(v) and v in handed_over))
    constants = dict(zip(jaxpr.constvars, closed.consts, strict=True))

    @jax.jit
    def simulate(known):
        found = _evaluated(early, {**constants, **dict(zip(given, jax.tree.leaves(known), strict=True))})
        return tuple(found[v] for v in parts)

    def rest(simulated, unknown):
        inputs = dict(zip(open_inputs, jax.tree.leaves(unknown), strict=True))
        found = _evaluated(late, {**constants, **dict(zip(parts, simulated, strict=True)), **inputs})
        return found[jaxpr.outvars[0]]

    return simulate, rest


def _is_literal(variable) -> bool:
    return hasattr(variable, "val")


def _evaluated(equations, values: dict) -> dict:
    """Values of all variables after the equations."""
    for equation in equations:
        inputs = [v.val if _is_literal(v) else values[v] for v in equation.invars]
        parameters = equation.primitive.get_bind_params(equation.params)
        functions, parameters = parameters if isinstance(parameters, tuple) else ((), parameters)  # before JAX 0.12
        found = equation.primitive.bind(*functions, *inputs, **parameters)
        values.update(zip(equation.outvars, found if equation.primitive.multiple_results else [found], strict=True))
    return values
