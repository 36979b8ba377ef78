"""Tempered sequential Monte Carlo over several maxima: how probable each is, and the evidence of all together.

Chains do not cross from one thickness basin to another. Here particles begin as draws from the approximations around
all maxima, q(z) = mean over k of q_k(z), q_k standard normal in the coordinates of `whitening` around
maximum k, and go over to the posterior p through q^(1 - l) p^l, l from 0 to 1: weighted, resampled, and moved by
Hamiltonian Monte Carlo at every l. A particle keeps the k it began with and moves in the coordinates of that maximum;
its density there is p(z) q_k(z) / sum_j q_j(z), which adds up to p over k, so nothing counts twice where basins
overlap. The share of the particles that began at k is the probability of its basin. BlackJAX does the sampling.

Source: Del Moral, Doucet & Jasra, J. R. Stat. Soc. B 68, 411 (2006).
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from pendel.base import Array
from pendel.infer.chains.whitening import Place, Whitened, unit_curvature, whitened
from pendel.infer.keeper import Keeper, packed_state, unpacked_state
from pendel.infer.maximum.map import MapFit
from pendel.infer.maximum.optimise import Progress
from pendel.infer.target import Target
from pendel.infer.threads import one_blas_thread

IMPOSSIBLE = -1e30  # log density where it is not finite


@dataclasses.dataclass(frozen=True, kw_only=True)
class SmcTuning:
    """Numbers of a tempered run.

    `particles`: the error of a probability falls with the square root of their number. `kept`: effective share of the
    particles after a step of l; a smaller one takes larger steps, whose evidence is noisier. `moves` of every particle
    at every l, each of `leapfrogs` steps; `first_step` in standard deviations; `acceptance` towards which the step is
    changed from l to l. `most_steps` of l, after which the run is given up. `at_once`: particles moved together; on a
    graphics card `on_card`, else one, when None.
    """

    particles: int = 96
    kept: float = 0.5
    moves: int = 3
    leapfrogs: int = 8
    first_step: float = 0.3
    acceptance: float = 0.7
    most_steps: int = 100
    at_once: int | None = None
    on_card: int = 16


@dataclasses.dataclass(frozen=True)
class Tempered:
    """Particles at the posterior.

    `draws`: constrained values of all latent sites [particle ...]; `basin`: the start each of them began at [particle];
    `probability` [starts]: share of every start; `log_evidence`: log of the integral of the joint density,
    and its standard error from the weights; `temperatures`: values of l; `acceptance`: of the moves at each of them;
    `gradients`: evaluations, those of the coordinates included.
    """

    draws: dict[str, Array]
    basin: Int[np.ndarray, " particles"]
    probability: Float[np.ndarray, " starts"]
    log_evidence: float
    log_evidence_se: float
    temperatures: tuple[float, ...]
    acceptance: tuple[float, ...]
    gradients: int


class _Particle(NamedTuple):
    y: Array  # [n], in the coordinates of its start
    start: Array


class _Moving(NamedTuple):
    """State of the Hamiltonian Monte Carlo of one particle, as BlackJAX's SMC wants it."""

    position: _Particle
    inner: Any


@one_blas_thread
def sample_smc(
    target: Target,
    *,
    starts: Sequence[MapFit],
    key: Array,
    tuning: SmcTuning = SmcTuning(),
    keeper: Keeper | None = None,
    progress: Progress | None = None,
) -> Tempered:
    """Sample the posterior around several maxima together.

    Args:
        target: model and data, from `make_target`.
        starts: MAP fits of this target from different starts; equal ones add nothing.
        key: random key.
        tuning: number of particles, split evenly among the starts, and numbers of their moves.
        keeper: holds the state of an unfinished run, which is continued exactly.
        progress: called as progress("smc", percent of l, 100, info) after every step of l.

    Raises:
        ValueError: no start, or fewer particles than starts.
        FloatingPointError: l does not reach 1.
    """
    count = tuning.particles
    if not 0 < len(starts) <= count:
        raise ValueError(
            f"{len(starts)} starts for {count} particles. Expected one start or more, and as many particles. "
            "To fix: give MAP fits from different starts."
        )
    key_curvature, key_first, key = jax.random.split(key, 3)
    spaces = [
        unit_curvature(whitened(target, start), jax.random.fold_in(key_curvature, number), progress)
        for number, start in enumerate(starts)
    ]
    # In blocks: systematic resampling of alternating weights would take all of one kind or none.
    start = jnp.sort(jnp.arange(count) % len(spaces))
    first = _Particle(jax.random.normal(key_first, (count, spaces[0].size)), start)
    state, done = _tempered(_advance(spaces, tuning), first, key, tuning, keeper, progress)
    basin = np.asarray(state.particles.start)
    return Tempered(
        draws=_values(spaces, state.particles),
        basin=basin,
        probability=np.bincount(basin, minlength=len(starts)) / count,
        log_evidence=float(done[:, 1].sum()),
        log_evidence_se=float(np.sqrt(np.sum(np.maximum(done[:, 4], 0.0)))),
        temperatures=(0.0, *done[:-1, 0].tolist()),
        acceptance=tuple(done[:, 2].tolist()),
        gradients=count * len(done) * (tuning.moves * tuning.leapfrogs + 1) + sum(space.gradients for space in spaces),
    )


def _tempered(advance: Callable, first: _Particle, key: Array, tuning: SmcTuning, keeper, progress):
    """BlackJAX's state at l = 1; of every step l, log of mean weight, acceptance, step size, variance of that log."""
    from blackjax import adaptive_tempered_smc  # importing BlackJAX computes: not before processes are joined

    state, done = adaptive_tempered_smc.init(first), np.zeros((0, 5))
    unfinished = keeper.load() if keeper is not None else None
    if unfinished is not None:
        state, done = unpacked_state(jax.tree.structure(state), unfinished), np.array(unfinished["done"])
    while not len(done) or np.sum(done[:, 0] >= 1) < 2:  # at l = 1 the particles are resampled and moved once more
        step_size = done[-1, 3] * math.exp(done[-1, 2] - tuning.acceptance) if len(done) else tuning.first_step
        noise = jax.random.fold_in(key, len(done))
        if len(done) > tuning.most_steps:
            raise FloatingPointError(
                f"l = {done[-1, 0]:.3f} after {tuning.most_steps} steps. Expected 1. To fix: use --infer nuts, as the "
                "approximations are far from the posterior."
            )
        state, increment, acceptance = advance(jax.random.key_data(noise), state, jnp.asarray(step_size))
        # 1 / effective number, less that of equal weights
        variance = jnp.sum(state.weights**2) - 1 / tuning.particles
        numbers = state.tempering_param, increment, acceptance, step_size, variance
        done = np.vstack([done, list(map(float, numbers))])
        if keeper is not None:
            keeper.save({"done": done, **packed_state(state)})
        if progress is not None:
            info = {"acceptance": done[-1, 2], "log_evidence": done[:, 1].sum()}
            progress("smc", round(100 * done[-1, 0]), 100, info)
    return state, done


def _advance(spaces: Sequence[Whitened], tuning: SmcTuning) -> Callable:
    """Compiled (key, state, step size) -> state after a step of l, log of the mean weight, acceptance of the moves."""
    from blackjax import adaptive_tempered_smc, hmc  # importing BlackJAX computes: not before processes are joined
    from blackjax.smc.resampling import systematic

    size, kernel = spaces[0].size, hmc.build_kernel()
    width = tuning.at_once or (1 if jax.default_backend() == "cpu" else tuning.on_card)

    def init(particle, log_density):
        return _Moving(particle, hmc.init(particle.y, lambda y: log_density(_Particle(y, particle.start))))

    def move(key, state, log_density, step_size):
        start = state.position.start

        def of_y(y):
            return log_density(_Particle(y, start))

        # Steps of one length could add up to half a turn, which changes nothing but signs.
        first, second = jax.random.split(key)
        step_size = step_size * jax.random.uniform(first, minval=0.6, maxval=1.2)
        inner, information = kernel(second, state.inner, of_y, step_size, jnp.ones(size), tuning.leapfrogs)
        return _Moving(_Particle(inner.position, start), inner), information.acceptance_rate

    temper = adaptive_tempered_smc.build_kernel(
        lambda particle: _standard_normal(particle.y),
        _log_ratio(spaces),
        move,
        init,
        systematic,
        tuning.kept,
        batch_size=width,
    )

    @jax.jit
    def advance(key, state, step_size):
        state, information = temper(key, state, tuning.moves, {"step_size": step_size[None]})
        return state, information.log_likelihood_increment, jnp.mean(information.update_info)

    return advance


def _log_ratio(spaces: Sequence[Whitened]) -> Callable[[_Particle], Float[Array, ""]]:
    """log p(z) - log q(z) of a particle; the densities of y have the same Jacobian, which drops out."""
    before, after = [space.before for space in spaces], [space.after for space in spaces]
    replay = spaces[0].replay

    def ratio(particle):
        # One simulation: where particles are mapped, every branch of a switch is computed for each.
        half = jax.lax.switch(particle.start, before, particle.y)
        place, _ = jax.lax.switch(particle.start, after, replay.simulate(half.z, half.spreads), half)
        around = jnp.stack([_log_density_at(space, place) for space in spaces])
        log_mixture = jax.scipy.special.logsumexp(around) - math.log(len(spaces))
        value = -replay.negative_log_density(place.simulated, place.z, place.spreads) - log_mixture
        return jnp.where(jnp.isfinite(value), value, IMPOSSIBLE)

    return ratio


def _log_density_at(space: Whitened, place: Place) -> Float[Array, ""]:
    """log q_k(z); a place from which there is no way back to maximum k has none of its particles."""
    y, log_volume = space.back(place)
    value = _standard_normal(y) - log_volume
    return jnp.where(jnp.isfinite(value), value, -jnp.inf)


def _standard_normal(y: Float[Array, " n"]) -> Float[Array, ""]:
    return jnp.sum(jax.scipy.stats.norm.logpdf(y))


def _values(spaces: Sequence[Whitened], particles: _Particle) -> dict[str, Array]:
    """Constrained values of all latent sites [particle ...]."""
    branches = [space.values for space in spaces]
    return jax.jit(lambda some: jax.lax.map(lambda one: jax.lax.switch(one.start, branches, one.y), some))(particles)
