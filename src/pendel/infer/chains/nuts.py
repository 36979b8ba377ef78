"""Hamiltonian Monte Carlo over every dimension of a model, in the coordinates of `pendel.infer.chains.whitening`.

Nothing is held at its MAP value: the spreads of hierarchies, which MAP holds, are sampled too. NumPyro's NUTS does the
sampling; this module hands it the density and counts gradients.
"""

import dataclasses

import jax
from numpyro.infer import NUTS
from numpyro.infer.util import ParamInfo

from pendel.base import Array
from pendel.infer.chains.between_draws import between_draws
from pendel.infer.chains.loop import run_chains
from pendel.infer.chains.whitening import unit_curvature, whitened
from pendel.infer.keeper import Keeper
from pendel.infer.maximum.map import MapFit
from pendel.infer.maximum.optimise import Progress
from pendel.infer.target import Target
from pendel.infer.threads import one_blas_thread

WARMUP, DRAWS, CHAINS = 90, 210, 4
FIRST_STEP = 0.3  # of the integrator, in standard deviations, before it adapts
TARGET = 0.6  # acceptance, on average over places that ask for steps of different lengths
DEEPEST = 4  # tree: at most 15 leapfrog steps a draw; at steps of 0.3 they are 4.5 standard deviations
STATISTICS = ("diverging", "acceptance_rate", "energy", "n_steps", "lp", "jumps")


@dataclasses.dataclass(frozen=True)
class Sampled:
    """Draws of a Markov chain Monte Carlo run.

    `draws`: constrained values of all latent sites [chain draw ...]; `statistics`: STATISTICS of them [chain draw];
    `gradients`: evaluations, those of the metric and of the warm-up included; what jumps simulate and the search for
    maxima are not.
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
    chains: int = CHAINS,
    warmup: int = WARMUP,
    draws: int = DRAWS,
    keeper: Keeper | None = None,
    progress: Progress | None = None,
    at_once: int | None = None,
) -> Sampled:
    """Sample the posterior of a target with the No-U-Turn sampler and, after every draw, `between_draws`.

    Chains start at independent draws from the Laplace approximation and adapt their step. Between draws frames jump
    between their maxima, and spreads and errors move with all else held.

    Args:
        target: model and data, from `make_target`.
        start: a MAP fit, around which the coordinates are made.
        key: random key.
        chains, warmup, draws: number of chains, and of steps of each before and after adaptation ends.
        keeper: holds the state of an unfinished run, which is continued exactly.
        progress: called as progress(stage, step, total, info) after every step.
        at_once: chains moved together, a divisor of their number; all on a graphics card when not given, else one.
    """
    key_curvature, key_maxima, key_between, key = jax.random.split(key, 4)
    space = unit_curvature(whitened(target, start), key_curvature, progress)
    between = between_draws(target, start, space, key_maxima, progress)
    kernel = NUTS(
        potential_fn=space.potential,
        step_size=FIRST_STEP,
        target_accept_prob=TARGET,
        max_tree_depth=DEEPEST,
        adapt_mass_matrix=False,  # a hundred draws would make it worse
    )
    size = space.size

    def initial(chain):
        first, second = jax.random.split(jax.random.fold_in(key, chain))
        y = jax.random.normal(first, (size,))
        return kernel.init(jax.random.key_data(second), warmup, ParamInfo(y, *space.evaluate(y)), (), {})

    jax.eval_shape(initial, 0)  # a resumed kernel must know its functions, too
    sample = jax.jit(lambda state: kernel.sample(state, (), {}))

    def advance(state, chain, step):  # in compiled parts, one of which `space` and `initial` have, too
        state = sample(state)
        numbers = {
            "diverging": state.diverging,
            "acceptance_rate": state.accept_prob,
            "energy": state.energy,
            "n_steps": state.num_steps,
            "lp": -state.potential_energy,
            "jumps": 0,
        }
        if between is not None:
            y, taken = between(state.z, jax.random.fold_in(jax.random.fold_in(key_between, chain), step))
            potential, slope = space.evaluate(y)
            state = state._replace(z=y, potential_energy=potential, z_grad=slope)
            numbers |= {"lp": -potential, "jumps": taken}
        return state, state.z, numbers

    points, found = run_chains(
        "nuts",
        initial,
        advance,
        shape=(chains, warmup + draws, size),
        statistics=STATISTICS,
        keeper=keeper,
        progress=progress,
        at_once=at_once,
    )
    gradients = found["n_steps"] + (between is not None)
    return Sampled(
        draws=space.constrained_chains(points[:, warmup:]),
        statistics={name: value[:, warmup:] for name, value in found.items()},
        gradients=int(gradients.sum()) + space.gradients,
        warmup_gradients=int(gradients[:, :warmup].sum()) + space.gradients,
    )
