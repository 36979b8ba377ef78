"""Adjusted microcanonical Langevin Monte Carlo, in the coordinates of `pendel.infer.chains.whitening`.

Momenta have unit length and turn instead of growing; a Metropolis step at the end of every short trajectory makes the
samples exact. BlackJAX does the sampling and finds step size and length.

Source: Robnik, De Luca, Silverstein & Seljak, J. Mach. Learn. Res. 24, 1 (2023); arXiv:2503.01707 for the adjustment.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from pendel.base import Array
from pendel.infer.chains.loop import Kernel
from pendel.infer.chains.nuts import Sampled, sample_chains
from pendel.infer.chains.whitening import Whitened
from pendel.infer.keeper import Keeper
from pendel.infer.maximum.map import MapFit
from pendel.infer.maximum.optimise import Progress
from pendel.infer.target import Target
from pendel.infer.threads import one_blas_thread

LOWEST = -1e30  # log density where it is not finite
GRADIENTS_PER_STEP = 2  # of McLachlan's integrator


@dataclasses.dataclass(frozen=True, kw_only=True)
class MclmcTuning:
    """Numbers of a run of adjusted MCLMC.

    `chains`, `draws`, `at_once` as of `ChainTuning`. `adaptation`: steps before the first draw, in which step size and
    length are found. `acceptance` that the step is adapted to.
    `trajectory`: steps of the integrator between two Metropolis steps, on average.
    """

    chains: int = 4
    draws: int = 800
    at_once: int | None = None
    adaptation: int = 250
    acceptance: float = 0.8
    trajectory: float = 4.0
    warmup: int = 0  # steps that are drawn and left out; the adaptation comes before them


@one_blas_thread
def sample_mclmc(
    target: Target,
    *,
    start: MapFit,
    key: Array,
    tuning: MclmcTuning = MclmcTuning(),
    keeper: Keeper | None = None,
    progress: Progress | None = None,
) -> Sampled:
    """Sample the posterior of a target with adjusted MCLMC; arguments and result as of `sample_nuts`."""
    return sample_chains("mclmc", mclmc_kernel, target, start, key, tuning=tuning, keeper=keeper, progress=progress)


def mclmc_kernel(space: Whitened, tuning: MclmcTuning) -> Kernel:
    """BlackJAX's kernel; a state is its own state, the parameters it was adapted to, and gradients not yet counted."""
    # Imported here: importing BlackJAX computes, and JAX must not before processes are joined.
    from blackjax.mcmc.adjusted_mclmc_dynamic import DynamicHMCState

    sample, adapted = _sampler(space, tuning)

    def placed(state, y):
        potential, slope = space.evaluate(y)
        finite = jnp.isfinite(potential)
        value, slope = jnp.where(finite, -potential, LOWEST), jnp.where(finite, -slope, 0.0)
        return state._replace(position=y, logdensity=value, logdensity_grad=slope)

    def init(key):
        first, second, third = jax.random.split(key, 3)
        y = jax.random.normal(first, (space.size,))
        return adapted(placed(DynamicHMCState(y, 0.0, y, jax.random.key_data(second)), y), jax.random.key_data(third))

    def step(key, current):
        state, parameters, uncounted = current
        state, information = sample(jax.random.key_data(key), state, parameters)
        steps = GRADIENTS_PER_STEP * information.num_integration_steps
        info = {
            "diverging": information.is_divergent,
            "acceptance_rate": information.acceptance_rate,
            "energy": information.energy,
            "n_steps": steps,
            "lp": state.logdensity,
            "jumps": 0,
            "gradients": steps,
            "tuning_gradients": uncounted,
        }
        return (state, parameters, jnp.zeros_like(uncounted)), state.position, info

    def moved_to(current, y):
        state = placed(current[0], jnp.asarray(y))
        return (state, *current[1:]), state.logdensity

    return Kernel(init, step, moved_to)


def _sampler(space: Whitened, tuning: MclmcTuning) -> tuple[Callable, Callable]:
    """Compiled: (noise, state, parameters) -> state and information; and (state, noise) -> both adapted, gradients."""
    from blackjax import adjusted_mclmc_find_L_and_step_size
    from blackjax.mcmc.adjusted_mclmc_dynamic import build_kernel, make_random_trajectory_length_fn

    sampler = build_kernel(integration_steps_fn=make_random_trajectory_length_fn(True))

    def log_density(y):
        value = -space.potential(y)
        return jnp.where(jnp.isfinite(value), value, LOWEST)

    def adapting(rng_key, state, logdensity_fn, step_size, inverse_mass_matrix, integration_steps_params):
        return sampler(
            rng_key,
            state,
            logdensity_fn,
            step_size,
            inverse_mass_matrix=inverse_mass_matrix,
            integration_steps_params=integration_steps_params,
        )

    @jax.jit
    def sample(noise, state, parameters):
        steps = (parameters.L / parameters.step_size,)
        return adapting(noise, state, log_density, parameters.step_size, parameters.inverse_mass_matrix, steps)

    @jax.jit
    def adapted(state, noise):
        state, parameters, tuned = adjusted_mclmc_find_L_and_step_size(
            adapting,
            log_density,
            10 * tuning.adaptation,  # of which the two parts of the adaptation take a twentieth each
            state,
            noise,
            target=tuning.acceptance,
            frac_tune1=0.05,
            frac_tune2=0.05,
            target_num_integration_steps=tuning.trajectory,
        )
        return state, parameters, GRADIENTS_PER_STEP * tuned

    return sample, adapted
