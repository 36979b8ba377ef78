"""The simulator as an effect of a NumPyro program: something a model asks for, as it asks for samples.

A model calls `simulated("intensity", simulate_intensities, structure, plan, ...)`. Outside any handler this is a plain
call. Handlers treat the request as they treat samples: `numpyro.handlers.trace` records it (`site["type"]` is
"simulation", with "fn", "args", "kwargs" and "value"), `replayed` gives results that are known already, and `skipped`
runs a model of which only the prior is wanted. So inference knows where a model simulates, without reading its code.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from numpyro.distributions.distribution import validation_enabled
from numpyro.primitives import _PYRO_STACK, Messenger, apply_stack

SIMULATION = "simulation"


def simulated(name: str, function: Callable, *args: Any, **kwargs: Any) -> Any:
    """function(*args, **kwargs), known to handlers as the simulation `name`; its result is an array or a pytree.

    Args:
        name: unique among the sites of the model.
        function: the expensive, pure part of the model.
    """
    if not _PYRO_STACK:
        return function(*args, **kwargs)
    message = {"type": SIMULATION, "name": name, "fn": function, "args": args, "kwargs": kwargs, "value": None}
    return apply_stack({**message, "infer": {}, "intermediates": []})["value"]


class replayed(Messenger):
    """Runs a model with results of its simulations that are known: name -> result.

    Raises KeyError for a simulation without a result.
    """

    def __init__(self, fn: Callable | None = None, results: Mapping[str, Any] | None = None) -> None:
        super().__init__(fn)
        self.results = results or {}

    def process_message(self, msg: dict[str, Any]) -> None:
        """Hand over the known result."""
        if msg["type"] == SIMULATION:
            msg["value"] = self.results[msg["name"]]


class skipped(Messenger):
    """Runs a model without simulating: results have the right shapes and hold one number, `fill`, everywhere.

    What does not depend on a simulation, such as the prior, is right. Filled with NaN it shows what does depend on one.
    NumPyro does not check parameters of distributions here, because a scale may be zero that is not in a real run.
    """

    def __init__(self, fn: Callable | None = None, fill: float = 0.0) -> None:
        super().__init__(fn)
        self.fill = fill

    def __enter__(self) -> None:
        """Switch the checks of distributions off."""
        self._unchecked = validation_enabled(False)
        self._unchecked.__enter__()
        super().__enter__()

    def __exit__(self, exc_type: Any, exc_value: Any, traceback: Any) -> None:
        """Switch them back to what they were."""
        super().__exit__(exc_type, exc_value, traceback)
        self._unchecked.__exit__(None, None, None)

    def process_message(self, msg: dict[str, Any]) -> None:
        """Fill the shapes of the result."""
        if msg["type"] == SIMULATION:
            shapes = jax.eval_shape(lambda: msg["fn"](*msg["args"], **msg["kwargs"]))
            msg["value"] = jax.tree.map(lambda x: jnp.full(x.shape, self.fill, x.dtype), shapes)
