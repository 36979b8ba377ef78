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
SETTLED = 1.0  # nats; less gain from one cycle to the next ends the fit
JUDGED = 0.2  # last part of a cycle, whose mean bound is compared


@dataclasses.dataclass(frozen=True, kw_only=True)
class SviTuning:
    """Numbers of a fit of the guide.

    `steps` of a cycle, one gradient and one draw of the guide each: with fewer the spreads lag behind, with more a
    guide that has converged waits for the end of its cycle. `cycles`: at least, as one cycle shows no gain, and at
    most. `batches` of frames, one of which is simulated in a step, see `pendel.infer.guide.minibatch`. `peak_rate` of
    Adam in Laplace standard deviations: with twice of it the last digits are noise, with half a cycle gains less.
    `averaged`: last part of a cycle over which parameters are averaged. `every` so many steps a checkpoint is made.
    `largest`: globals up to which the guide starts at all spreads' own Laplace approximation.
    """

    steps: int = STEPS
    cycles: tuple[int, int] = (2, 8)
    batches: int = 1
    peak_rate: float = 0.02
    averaged: float = 0.4
    every: int = 20
    largest: int = 1000


@dataclasses.dataclass(frozen=True)
class SviFit:
    """A fitted guide: `losses` are minus the evidence lower bound, one per step; `parameters` the averaged guide's."""

    guide: NeuralGuide
    parameters: Mapping[str, Array]
    losses: Float[np.ndarray, " steps"]

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
        the guide with its parameters averaged over the last steps of the last cycle.
    """
    target, steps = differentiable(target, "reverse"), tuning.steps
    angles = angles or {name: np.arange(frames) for name, (_, frames, _) in start.layout.plates.items()}
    first, second, third = jax.random.split(key, 3)
    guide = starting_guide(target, start, angles, first, tuning)
    make = partial(_updates, target, guide, tuning)
    optimiser, update = compiled_once(f"svi, {tuning}", make, target, guide.arrays())
    average = parameters = jax.tree.map(jnp.asarray, guide.start)
    state = optimiser.init(parameters)
    structure = jax.tree.structure((parameters, state, average))
    parts = frame_batches(target, start, tuning.batches) if tuning.batches > 1 else None
    arrays = guide.arrays()
    losses: list[float] = []
    began, first_averaged = time.monotonic(), int((1 - tuning.averaged) * steps)
    unfinished = keeper.load() if keeper is not None else None
    if unfinished is not None:
        parameters, state, average = unpacked_state(structure, unfinished)
        losses = [float(loss) for loss in unfinished["losses"]]
    while not _has_ended(losses, tuning):
        step = len(losses)
        part, some = parts.of_step(third, step) if parts is not None else (None, target.data)
        parameters, state, loss = update(parameters, state, jax.random.fold_in(second, step), arrays, some, part)
        losses.append(float(loss))
        counted = max(step % steps - first_averaged, 0) + 1
        average = jax.tree.map(lambda a, b: a + (b - a) / counted, average, parameters)  # noqa: B023
        if keeper is not None and (step + 1) % tuning.every == 0:
            keeper.save({"losses": np.array(losses), **packed_state((parameters, state, average))})
        if progress is not None:
            info = {"elbo": -float(np.mean(losses[-20:])), "seconds": time.monotonic() - began}
            progress("svi", step + 1, steps * max(tuning.cycles[0], step // steps + 1), info)
    if not np.all(np.isfinite(losses[-max(1, steps // 2) :])):
        raise FloatingPointError(
            "The evidence bound is not finite. Expected finite intensities for draws of the guide. To fix: check "
            "structure, U and --thickness, or make the plan with a larger thickness_max (in Python)."
        )
    return SviFit(guide, average, np.array(losses))


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


def _has_ended(losses: Sequence[float], tuning: SviTuning) -> bool:
    """Whether the last cycle has ended and gained little, or was the last one that is allowed."""
    done, rest = divmod(len(losses), tuning.steps)
    if rest or done < tuning.cycles[0]:
        return False
    return done >= tuning.cycles[1] or stands_still(*bound_gain(losses, tuning.steps))


def stands_still(gain: float, error: float) -> bool:
    """Whether a gain of the bound, with its standard error, is too small to go on for [nats]."""
    return gain < max(SETTLED, 2 * error)


def bound_gain(losses: Sequence[float] | Array, steps: int = STEPS) -> tuple[float, float]:
    """Gain of the mean bound at the end of the last cycle over the one before, and its standard error; NaN for one."""
    count = int(JUDGED * steps)
    if len(losses) < 2 * steps or count < 2:
        return float("nan"), float("nan")
    ends = np.array(losses[-count:]), np.array(losses[-steps - count : -steps])
    last, before = (part[np.isfinite(part)] for part in ends)
    if min(len(last), len(before)) < 2:
        return float("nan"), float("nan")
    error = np.sqrt(last.var(ddof=1) / len(last) + before.var(ddof=1) / len(before))
    return float(before.mean() - last.mean()), float(error)


def end_bound(losses: Sequence[float] | Array, steps: int = STEPS) -> float:
    """Mean evidence bound at the end of the last cycle [nats]."""
    end = np.array(losses[-max(1, int(JUDGED * steps)) :])
    return -float(np.mean(end[np.isfinite(end)]))


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


def pareto_k(target: Target, *, fit: SviFit, key: Array, draws: int = 200) -> float:
    """Shape of the tail of posterior over guide at draws of the guide.

    Source: Yao, Vehtari, Simpson & Gelman, Proc. ICML 80, 5581 (2018).
    """
    target, guide = differentiable(target, "forward"), fit.guide

    @jax.jit
    def log_ratio(noise, data):
        z, spreads = guide.transform(fit.parameters, noise)
        log_guide = guide.log_density(fit.parameters, z, spreads)
        everything = {**guide.layout.split(z), **guide.unravel_spreads(spreads)}
        return -target.negative_log_density(everything, {}, data) - log_guide

    noise = jax.random.normal(key, (draws, guide.layout.size + len(guide.log_spreads)))
    from arviz_stats.base.array import array_stats  # half a second: not before it is needed

    # ArviZ takes a log likelihood, w = 1 / p.
    minus_log_weight = -np.array([float(log_ratio(one, target.data)) for one in noise])
    return float(array_stats.psislw(minus_log_weight)[1])
