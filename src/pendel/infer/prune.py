"""A function without the computations that its result does not need."""

from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import jaxpr_as_fun
from jax.interpreters.partial_eval import dce_jaxpr


def pruned(function: Callable, *example: Any) -> Callable:
    """The same function of arguments shaped like `example`, with unused computations cut out before differentiation.

    A model's prior can be read off a trace that also simulates; the compiler drops the simulation, but only after the
    derivatives of all of it have been traced.
    """
    closed, shape = jax.make_jaxpr(function, return_shape=True)(*example)
    jaxpr, _ = dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars), instantiate=True)
    flat = jaxpr_as_fun(closed.replace(jaxpr=jaxpr))
    structure = jax.tree.structure(shape)

    def run(*args: Any) -> Any:
        return jax.tree.unflatten(structure, flat(*jax.tree.leaves(args)))

    return run
