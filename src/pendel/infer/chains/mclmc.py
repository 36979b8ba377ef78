"""Adjusted microcanonical Langevin Monte Carlo, in the coordinates of `pendel.infer.chains.whitening`.

Momenta have unit length and turn instead of growing; a Metropolis step at the end of every short trajectory makes the
samples exact. BlackJAX does the sampling and finds step size and length.

Source: Robnik, De Luca, Silverstein & Seljak, J. Mach. Learn. Res. 24, 1 (2023); arXiv:2503.01707 for the adjustment.
"""

import jax
import jax.numpy as jnp

from pendel.base import Array
from pendel.infer.chains.between_draws import between_draws
from pendel.infer.chains.loop import run_chains
from pendel.infer.chains.nuts import CHAINS, STATISTICS, Sampled
from pendel.infer.chains.whitening import unit_curvature, whitened
from pendel.infer.keeper import Keeper
from pendel.infer.maximum.map import MapFit
from pendel.infer.maximum.optimise import Progress
from pendel.infer.target import Target
from pendel.infer.threads import one_blas_thread

WARMUP, DRAWS = 250, 800
TARGET = 0.8  # acceptance
STEPS = 4.0  # of the integrator in a trajectory, on average
LOWEST = -1e30  # log density where it is not finite
TUNING = "tuning"  # gradients of a chain's adaptation, the same at every step
GRADIENTS_PER_STEP = 2  # of McLachlan's integrator


@one_blas_thread
def sample_mclmc(
    target: Target,
    *,
    start: MapFit,
    key: Array,
    chains: int = CHAINS,
    warmup: int = WARMUP,
    draws: int = DRAWS,
    keeper: Keeper | None = None,
    progress: Progress | None = None,
    at_once: int | None = None,
) -> Sampled:
    """Sample the posterior of a target with adjusted MCLMC; arguments and result as of `sample_nuts`."""
    # Imported here: importing BlackJAX computes, and JAX must not before processes are joined.
    from blackjax import adjusted_mclmc_find_L_and_step_size
    from blackjax.mcmc.adjusted_mclmc_dynamic import (
        DynamicHMCState,
        build_kernel,
        make_random_trajectory_length_fn,
    )

    key_curvature, key_maxima, key_between, key = jax.random.split(key, 4)
    space = unit_curvature(whitened(target, start), key_curvature, progress)
    between = between_draws(target, start, space, key_maxima, progress)
    size = space.size

    def log_density(y):
        value = -space.potential(y)
        return jnp.where(jnp.isfinite(value), value, LOWEST)

    def moved_to(y, state):
        potential, slope = space.evaluate(y)
        finite = jnp.isfinite(potential)
        value, slope = jnp.where(finite, -potential, LOWEST), jnp.where(finite, -slope, 0.0)
        return state._replace(position=y, logdensity=value, logdensity_grad=slope)

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
    def adapted(state, noise):
        state, parameters, tuned = adjusted_mclmc_find_L_and_step_size(
            adapting,
            log_density,
            10 * warmup,  # of which the two parts of the adaptation take a twentieth each
            state,
            noise,
            target=TARGET,
            frac_tune1=0.05,
            frac_tune2=0.05,
            target_num_integration_steps=STEPS,
        )
        return state, parameters, GRADIENTS_PER_STEP * tuned

    def initial(chain):
        first, second, third = jax.random.split(jax.random.fold_in(key, chain), 3)
        y = jax.random.normal(first, (size,))
        state = moved_to(y, DynamicHMCState(y, 0.0, y, jax.random.key_data(second)))
        return adapted(state, jax.random.key_data(third))

    @jax.jit
    def sample(noise, state, parameters):
        steps = (parameters.L / parameters.step_size,)
        return adapting(noise, state, log_density, parameters.step_size, parameters.inverse_mass_matrix, steps)

    def advance(current, chain, step):
        state, parameters, tuned = current
        noise = jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(key, 1000), chain), step)
        state, information = sample(jax.random.key_data(noise), state, parameters)
        numbers = {
            "diverging": information.is_divergent,
            "acceptance_rate": information.acceptance_rate,
            "energy": information.energy,
            "n_steps": GRADIENTS_PER_STEP * information.num_integration_steps,
            "lp": state.logdensity,
            "jumps": 0,
            TUNING: tuned,
        }
        if between is not None:
            noise = jax.random.fold_in(jax.random.fold_in(key_between, chain), step)
            y, taken = between(jnp.asarray(state.position), noise)
            state = moved_to(y, state)
            numbers |= {"lp": state.logdensity, "jumps": taken}
        return (state, parameters, tuned), state.position, numbers

    points, found = run_chains(
        "mclmc",
        initial,
        advance,
        shape=(chains, draws, size),
        statistics=(*STATISTICS, TUNING),
        keeper=keeper,
        progress=progress,
        at_once=at_once,
    )
    tuning = int(found.pop(TUNING)[:, 0].sum()) + space.gradients
    return Sampled(
        draws=space.constrained_chains(points),
        statistics=dict(found),
        gradients=int((found["n_steps"] + (between is not None)).sum()) + tuning,
        warmup_gradients=tuning,
    )
