"""Adjusted microcanonical Langevin Monte Carlo, in the coordinates of `pendel.infer.whitening`.

Momenta have unit length and turn instead of growing; a Metropolis step at the end of every short trajectory makes the
samples exact. BlackJAX does the sampling and finds step size and length.

Source: Robnik, De Luca, Silverstein & Seljak, J. Mach. Learn. Res. 24, 1 (2023); arXiv:2503.01707 for the adjustment.
"""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pendel.constants import Array
from pendel.infer.hmc import CHAINS, DRAWS, EVERY, WARMUP, Sampled
from pendel.infer.keeper import Keeper, packed_state, unpacked_state
from pendel.infer.map import MapFit, Progress
from pendel.infer.whitening import whitened

TARGET = 0.8  # acceptance
STEPS = 4.0  # of the integrator in a trajectory, on average
GRADIENTS_PER_STEP = 2  # of McLachlan's integrator


def sample_mclmc(
    model: Callable,
    *args: Any,
    start: MapFit,
    key: Array,
    chains: int = CHAINS,
    warmup: int = WARMUP,
    draws: int = 2 * DRAWS,
    keeper: Keeper | None = None,
    progress: Progress | None = None,
    **kwargs: Any,
) -> Sampled:
    """Sample the posterior of a model with adjusted MCLMC; arguments and result as of `sample_nuts`."""
    # Imported here: importing BlackJAX computes, and JAX must not before processes are joined.
    from blackjax import adjusted_mclmc_find_L_and_step_size
    from blackjax.mcmc.adjusted_mclmc_dynamic import build_kernel, init, make_random_trajectory_length_fn

    space = whitened(model, args, kwargs, start)
    size = space.size

    def log_density(y):
        value = -space.potential(y)
        return jnp.where(jnp.isfinite(value), value, -1e30)

    kernel = build_kernel(integration_steps_fn=make_random_trajectory_length_fn(True))

    def adapting(rng_key, state, logdensity_fn, step_size, inverse_mass_matrix, integration_steps_params):
        return kernel(
            rng_key,
            state,
            logdensity_fn,
            step_size,
            inverse_mass_matrix=inverse_mass_matrix,
            integration_steps_params=integration_steps_params,
        )

    @jax.jit
    def initial(chain):
        first, second, third = jax.random.split(jax.random.fold_in(key, chain), 3)
        state = init(jax.random.normal(first, (size,)), log_density, jax.random.key_data(second))
        return adjusted_mclmc_find_L_and_step_size(
            adapting,
            log_density,
            10 * warmup,  # of which the two parts of the adaptation take a tenth each
            state,
            jax.random.key_data(third),
            target=TARGET,
            frac_tune1=0.05,
            frac_tune2=0.05,
            target_num_integration_steps=STEPS,
        )

    @jax.jit
    def advance(state, parameters, chain, number):
        noise = jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(key, 1000), chain), number)
        average = parameters.L / parameters.step_size
        return adapting(
            jax.random.key_data(noise),
            state,
            log_density,
            parameters.step_size,
            parameters.inverse_mass_matrix,
            (average,),
        )

    names = ("diverging", "acceptance_rate", "energy", "n_steps", "lp")
    points, found = np.zeros((chains, draws, size)), {name: np.zeros((chains, draws)) for name in names}
    tuning, began = np.zeros(chains), 0
    current: Any = None
    kept = keeper.load() if keeper is not None else None
    if kept is not None:
        structure = jax.tree.structure(jax.eval_shape(initial, 0)[:2])
        began, points, tuning = int(kept["done"]), np.array(kept["points"]), np.array(kept["tuning"])
        found = {name: np.array(kept[name]) for name in names}
        current = unpacked_state(structure, kept)
    clock = time.monotonic()
    for count in range(began, chains * draws):
        chain, number = divmod(count, draws)
        if number == 0:
            *current, steps = initial(chain)
            tuning[chain] = float(steps)
        state, parameters = current
        state, information = advance(state, parameters, chain, number)
        current = state, parameters
        points[chain, number] = np.asarray(state.position)
        values = (
            information.is_divergent,
            information.acceptance_rate,
            information.energy,
            GRADIENTS_PER_STEP * information.num_integration_steps,
            state.logdensity,
        )
        for name, value in zip(names, values, strict=True):
            found[name][chain, number] = float(value)
        if keeper is not None and (count + 1) % EVERY == 0:
            arrays = {"done": np.asarray(count + 1), "points": points, "tuning": tuning, **found}
            keeper.save({**arrays, **packed_state(tuple(current))})
        if progress is not None:
            info = {"chain": chain + 1.0, "log_density": float(state.logdensity), "seconds": time.monotonic() - clock}
            progress("mclmc", count + 1, chains * draws, info)
    sites = space.constrained(jnp.asarray(points.reshape(-1, size)))
    return Sampled(
        draws={name: np.asarray(x).reshape(chains, draws, *np.shape(x)[1:]) for name, x in sites.items()},
        statistics={**found, "diverging": found["diverging"] > 0},
        gradients=int(found["n_steps"].sum() + GRADIENTS_PER_STEP * tuning.sum()),
        warmup_gradients=int(GRADIENTS_PER_STEP * tuning.sum()),
    )
