"""Stochastic variational inference with the neural guide.

The bound is written out here, not NumPyro's, because a batch of frames may stand for the likelihood of all of them.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float

from pendel.base import Array, InputError
from pendel.infer.guide.bound import bound_gain, bound_in_pairs, log_ratios, mean_bound, noise_of, stands_still
from pendel.infer.guide.minibatch import Batch, frame_batches
from pendel.infer.guide.neural import NeuralGuide
from pendel.infer.guide.start import neural_guide
from pendel.infer.keeper import Keeper, packed_state, unpacked_state
from pendel.infer.maximum.map import MapFit
from pendel.infer.maximum.objective import compiled_once, differentiable
from pendel.infer.maximum.optimise import Progress
from pendel.infer.maximum.spreads import fixed_spreads, integrated_functions, integrated_spreads
from pendel.infer.target import Target
from pendel.infer.threads import one_blas_thread

STEPS = 250  # of a cycle, in which the rate of the optimiser rises and falls


@dataclasses.dataclass(frozen=True, kw_only=True)
class SviTuning:
    """Numbers of a fit of the guide.

    `steps` of a cycle, one gradient and one draw of the guide each: with fewer the spreads lag behind, with more a
    guide that has converged waits for the end of its cycle. `cycles`: at least, as one cycle shows no gain, and at
    most. `pairs` of draws for the bound after a cycle: a quarter as many double the error of its gain, more cost as
    much as steps. `batches` of frames, one of which is simulated in a step, see `pendel.infer.guide.minibatch`.
    `peak_rate` of Adam in Laplace standard deviations: with twice of it the last digits are noise, with half a cycle
    gains less. `averaged`: last part of a cycle over which parameters are averaged. `every` so many steps a checkpoint
    is made. `largest`: globals up to which the guide starts at all spreads' own Laplace approximation.
    """

    steps: int = STEPS
    cycles: tuple[int, int] = (2, 8)
    pairs: int = 16
    batches: int = 1
    peak_rate: float = 0.02
    averaged: float = 0.4
    every: int = 20
    largest: int = 1000


@dataclasses.dataclass(frozen=True)
class SviFit:
    """A fitted guide: `parameters` averaged over the end of the cycle whose bound is the largest.

    `losses`: minus the evidence bound as every step saw it, from one draw and perhaps few frames. `bounds`: evidence
    bound of all frames at the start and after every cycle, at the same pairs of draws, see `bound_in_pairs`.
    """

    guide: NeuralGuide
    parameters: Mapping[str, Array]
    losses: Float[np.ndarray, " steps"]
    bounds: Float[np.ndarray, "cycles pairs"]

    def draw(self, key: Array, draws: int) -> dict[str, Array]:
        """Constrained draws of all latent sites, spreads included, on the leading axis."""
        return self.guide.draws(self.parameters, key, draws)


@one_blas_thread
def fit_svi(
    target: Target,
    *,
    start: MapFit,
    key: Array,
    angles: Mapping[str, Array] | None = None,
    tuning: SviTuning = SviTuning(),
    keeper: Keeper | None = None,
    progress: Progress | None = None,
) -> SviFit:
    """Fit the neural guide to the posterior of a target, in cycles until the evidence bound no longer grows.

    Args:
        target: model and data, from `make_target`.
        start: a MAP fit; the guide starts at its Laplace approximation, carried to the spreads that it makes likely.
        key: random key.
        angles: goniometer angle [deg] of the frames of every plate; the frame number when not given.
        tuning: steps, cycles and batches.
        keeper: holds the state of an unfinished fit, which is continued exactly.
        progress: called as progress(stage, step, total, info) after every step.

    Returns:
        the guide with its parameters averaged over the last steps of its best cycle.

    Raises:
        FloatingPointError: the bound is not finite after a cycle.
    """
    target, steps = differentiable(target, "reverse"), tuning.steps
    angles = angles or {name: np.arange(frames) for name, (_, frames, _) in start.layout.plates.items()}
    first, second, third = jax.random.split(key, 3)
    guide = starting_guide(target, start, angles, first, tuning)
    make = partial(_updates, target, guide, tuning)
    optimiser, update = compiled_once(f"svi, {tuning}", make, target, guide.arrays())
    ratios, noise = log_ratios(target, guide), noise_of(guide, jax.random.fold_in(key, 3), tuning.pairs)
    best = average = parameters = jax.tree.map(jnp.asarray, guide.start)
    state = optimiser.init(parameters)
    structure = jax.tree.structure((parameters, state, average, best))
    parts = frame_batches(target, start, tuning.batches) if tuning.batches > 1 else None
    arrays = guide.arrays()
    losses: list[float] = []
    began, first_averaged = time.monotonic(), int((1 - tuning.averaged) * steps)
    unfinished = keeper.load() if keeper is not None else None
    if unfinished is not None:
        parameters, state, average, best = unpacked_state(structure, unfinished)
        losses, bounds = [float(loss) for loss in unfinished["losses"]], list(np.asarray(unfinished["bounds"]))
    else:
        bounds = [bound_in_pairs(ratios, best, noise)]
    while not _has_ended(bounds, tuning.cycles):
        step = len(losses)
        part, some = parts.of_step(third, step) if parts is not None else (None, target.data)
        parameters, state, loss = update(parameters, state, jax.random.fold_in(second, step), arrays, some, part)
        losses.append(float(loss))
        counted = max(step % steps - first_averaged, 0) + 1
        average = jax.tree.map(lambda a, b: a + (b - a) / counted, average, parameters)  # noqa: B023
        if len(losses) % steps == 0:
            bounds.append(bound_in_pairs(ratios, average, noise))
            if mean_bound(bounds[-1]) > max(map(mean_bound, bounds[:-1])):
                best = average
        if keeper is not None and (step + 1) % tuning.every == 0:
            kept = packed_state((parameters, state, average, best))
            keeper.save({"losses": np.array(losses), "bounds": np.array(bounds), **kept})
        if progress is not None:
            info = {"elbo": -float(np.mean(losses[-20:])), "seconds": time.monotonic() - began}
            progress("svi", step + 1, steps * max(tuning.cycles[0], step // steps + 1), info)
    if not np.isfinite(mean_bound(bounds[-1])):
        raise FloatingPointError(
            "The evidence bound is not finite. Expected finite intensities for draws of the guide. To fix: check "
            "structure, U and --thickness, or make the plan with a larger thickness_max (in Python)."
        )
    return SviFit(guide, best, np.array(losses), np.array(bounds))


def starting_guide(
    target: Target, start: MapFit, angles: Mapping[str, Array], key: Array, tuning: SviTuning = SviTuning()
) -> NeuralGuide:
    """The guide that a fit starts with.

    Raises InputError for a spread with limits: its logarithm must be free.
    """
    for site in target.full.sites:
        if site.name in start.spreads and not np.allclose(site.transform(jnp.ones(site.shape)), np.e):
            raise InputError(
                found=f"the spread {site.name!r} has limits",
                expected="a spread with any positive value",
                do="give it a HalfNormal or LogNormal prior",
            )
    if start.layout.globals > tuning.largest:
        spreads = fixed_spreads(start.unconstrained, start.root, start.spreads)
    else:
        functions = compiled_once("integrated spreads", partial(integrated_functions, target), target)
        spreads = integrated_spreads(functions, start.unconstrained, start.precision, start.spreads, target.data)
    return neural_guide(start.layout, target.full, angles, key, spreads)


def _has_ended(bounds: Sequence[Array], cycles: tuple[int, int]) -> bool:
    """Whether the last cycle gained little, or was the last one that is allowed. The first bound is the start's."""
    done = len(bounds) - 1
    return done >= cycles[1] or (done >= cycles[0] and stands_still(*bound_gain(np.array(bounds))))


def _updates(target: Target, guide: NeuralGuide, tuning: SviTuning) -> tuple[optax.GradientTransformation, Callable]:
    """The optimiser, and one compiled step: (parameters, state, key, guide's arrays, data, batch) -> both new, loss.

    The loss is minus the evidence bound of one draw. The guide's density holds its parameters, so that only the path of
    the draw has a gradient: it has no noise where the guide is the posterior, and the optimiser does not narrow the
    guide. A step whose loss or gradient is not finite leaves everything as it is.

    Source: Roeder, Wu & Duvenaud, NeurIPS 30 (2017).
    """
    steps = tuning.steps
    cycle = optax.cosine_onecycle_schedule(steps, tuning.peak_rate, pct_start=0.2)
    optimiser = optax.chain(optax.clip_by_global_norm(100.0), optax.adam(lambda count: cycle(jnp.mod(count, steps))))
    number = guide.layout.size + len(guide.log_spreads)

    @jax.jit
    def update(parameters, state, key, arrays, data, batch: Batch | None = None):
        own, noise = guide.with_arrays(arrays), jax.random.normal(key, (number,))

        def loss(parameters):
            z, spreads = own.transform(parameters, noise)
            log_guide = own.log_density(jax.lax.stop_gradient(parameters), z, spreads)
            values = {**own.layout.split(z), **own.unravel_spreads(spreads)}
            log_prior, prediction = target.predict(values, {}, data)
            pointwise = prediction.pointwise()
            log_likelihood = jnp.sum(pointwise) if batch is None else batch.log_likelihood(z, pointwise)
            return log_guide - log_prior - log_likelihood

        value, slope = jax.value_and_grad(loss)(parameters)
        change, new = optimiser.update(slope, state, parameters)
        good = jnp.isfinite(value) & jnp.isfinite(optax.tree.norm(slope))
        after = optax.apply_updates(parameters, change)
        return *jax.tree.map(partial(jnp.where, good), (after, new), (parameters, state)), value

    return optimiser, update
