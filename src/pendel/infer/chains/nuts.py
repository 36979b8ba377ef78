"""Hamiltonian Monte Carlo over every dimension of a model, in the coordinates of `pendel.infer.chains.whitening`.

Nothing stays at its MAP value: the spreads of hierarchies, which MAP fixes, are sampled too. NumPyro's NUTS does the
sampling; this module hands it the density and counts gradients.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from numpyro.infer import NUTS
from numpyro.infer.util import ParamInfo

from pendel.base import Array
from pendel.infer.chains.between_draws import between_draws
from pendel.infer.chains.loop import Kernel, followed_by, run_chains
from pendel.infer.chains.whitening import Whitened, unit_curvature, whitened
from pendel.infer.keeper import Keeper
from pendel.infer.maximum.map import MapFit
from pendel.infer.maximum.optimise import Progress
from pendel.infer.target import Target
from pendel.infer.threads import one_blas_thread


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChainTuning:
    """Numbers of a run of Markov chains.

    `chains`, and steps of each before (`warmup`) and after (`draws`) its adaptation ends: with half the draws the
    uncertainties have 1.4 times the error. `at_once`: chains moved together, a divisor of their number; all on a
    graphics card and one on processors when None. `first_step` of the integrator in standard deviations, before it
    adapts. `acceptance` that the step is adapted to: higher values ask for shorter steps, lower ones reject more.
    `deepest` tree: 2^deepest - 1 leapfrog steps a draw at most; one less halves how far a draw can go, one more doubles
    the cost of the draws that use it.
    """

    chains: int = 4
    warmup: int = 90
    draws: int = 210
    at_once: int | None = None
    first_step: float = 0.3
    acceptance: float = 0.6
    deepest: int = 4


@dataclasses.dataclass(frozen=True)
class Sampled:
    """Draws of a Markov chain Monte Carlo run.

    `draws`: constrained values of all latent sites [chain draw ...]; `statistics`: those of `loop.STATISTICS` [chain
    draw]; `gradients`: evaluations, those of the metric and of the warm-up included; what jumps simulate and the search
    for maxima are not.
    """

    draws: dict[str, Array]
    statistics: dict[str, Array]
    gradients: int
    warmup_gradients: int


@one_blas_thread
def sample_nuts(
    target: Target,
    *,
    start: MapFit,
    key: Array,
    tuning: ChainTuning = ChainTuning(),
    keeper: Keeper | None = None,
    progress: Progress | None = None,
) -> Sampled:
    """Sample the posterior of a target with the No-U-Turn sampler and, after every draw, `between_draws`.

    Chains start at independent draws from the Laplace approximation and adapt their step. Between draws frames jump
    between their maxima, and spreads and errors move with all else fixed.

    Args:
        target: model and data, from `make_target`.
        start: a MAP fit, around which the coordinates are made.
        key: random key.
        tuning: numbers of chains and draws, and those of the sampler.
        keeper: holds the state of an unfinished run, which is continued exactly.
        progress: called as progress(stage, step, total, info) after every step.
    """
    return sample_chains("nuts", nuts_kernel, target, start, key, tuning=tuning, keeper=keeper, progress=progress)


def sample_chains(
    name: str,
    make_kernel: Callable[[Whitened, Any], Kernel],
    target: Target,
    start: MapFit,
    key: Array,
    *,
    tuning: Any,
    keeper: Keeper | None,
    progress: Progress | None,
) -> Sampled:
    """Chains of a kernel in whitened coordinates, followed by `between_draws`; arguments as of `sample_nuts`."""
    key_curvature, key_maxima, key = jax.random.split(key, 3)
    space = unit_curvature(whitened(target, start), key_curvature, progress)
    kernel = make_kernel(space, tuning)
    between = between_draws(target, start, space, key_maxima, progress)
    points, found = run_chains(
        name,
        kernel if between is None else followed_by(kernel, between),
        key,
        shape=(tuning.chains, tuning.warmup + tuning.draws, space.size),
        keeper=keeper,
        progress=progress,
        at_once=tuning.at_once,
    )
    gradients, adapting = found.pop("gradients"), found.pop("tuning_gradients")
    before = space.gradients + int(adapting.sum() + gradients[:, : tuning.warmup].sum())
    return Sampled(
        draws=space.constrained_chains(points[:, tuning.warmup :]),
        statistics={name: value[:, tuning.warmup :] for name, value in found.items()},
        gradients=before + int(gradients[:, tuning.warmup :].sum()),
        warmup_gradients=before,
    )


def nuts_kernel(space: Whitened, tuning: ChainTuning) -> Kernel:
    """NumPyro's NUTS, whose step adapts during the warm-up; the metric is that of the coordinates."""
    sampler = NUTS(
        potential_fn=space.potential,
        step_size=tuning.first_step,
        target_accept_prob=tuning.acceptance,
        max_tree_depth=tuning.deepest,
        adapt_mass_matrix=False,  # a hundred draws would make it worse
    )

    def init(key):
        first, second = jax.random.split(key)
        y = jax.random.normal(first, (space.size,))
        return sampler.init(jax.random.key_data(second), tuning.warmup, ParamInfo(y, *space.evaluate(y)), (), {})

    jax.eval_shape(init, jax.random.key(0))  # a resumed sampler must know its functions, too
    sample = jax.jit(lambda key, state: sampler.sample(state._replace(rng_key=jax.random.key_data(key)), (), {}))

    def step(key, state):
        state = sample(key, state)
        info = {
            "diverging": state.diverging,
            "acceptance_rate": state.accept_prob,
            "energy": state.energy,
            "n_steps": state.num_steps,
            "lp": -state.potential_energy,
            "jumps": 0,
            "gradients": state.num_steps,
            "tuning_gradients": 0,
        }
        return state, state.z, info

    def moved_to(state, y):
        potential, slope = space.evaluate(y)
        return state._replace(z=y, potential_energy=potential, z_grad=slope), -potential

    return Kernel(init, step, moved_to)
