"""Stochastic variational inference with the neural guide, through NumPyro."""

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from arviz_stats.base.array import array_stats
from jaxtyping import Float
from numpyro.infer import SVI, Trace_ELBO
from numpyro.optim import optax_to_numpyro

from pendel.constants import Array
from pendel.infer.guide import NeuralGuide, neural_guide
from pendel.infer.keeper import Keeper, packed_state, unpacked_state
from pendel.infer.layout import inspect_model
from pendel.infer.map import MapFit, Progress
from pendel.infer.normal_matrix import negative_log_density
from pendel.infer.objective import differentiable

PEAK_RATE = 0.02  # of Adam, in units of Laplace standard deviations
EVERY = 20  # steps between two checkpoints
AVERAGED = 0.4  # last part of the steps over which the parameters are averaged


@dataclasses.dataclass(frozen=True)
class SviFit:
    """A fitted guide: `losses` are minus the evidence lower bound, one per step; `parameters` the averaged guide's."""

    guide: NeuralGuide
    parameters: Mapping[str, Array]
    losses: Float[np.ndarray, " steps"]

    def draw(self, key: Array, draws: int) -> dict[str, Array]:
        """Constrained draws of all latent sites, spreads included, on the leading axis."""
        return self.guide.draws(self.parameters, key, draws)


def fit_svi(
    model: Callable,
    *args: Any,
    start: MapFit,
    key: Array,
    angles: Mapping[str, Array] | None = None,
    steps: int = 200,
    keeper: Keeper | None = None,
    progress: Progress | None = None,
    **kwargs: Any,
) -> SviFit:
    """Fit the neural guide to the posterior of a model.

    Args:
        model: a NumPyro model, called as model(*args, **kwargs).
        start: a MAP fit; its Laplace approximation is where the guide starts.
        key: random key.
        angles: goniometer angle [deg] of the frames of every plate; the frame number when not given.
        steps: gradient steps, one draw of the guide each.
        keeper: holds the state of an unfinished fit, which is continued exactly.
        progress: called as progress(stage, step, total, info) after every step.

    Returns:
        the guide with its parameters averaged over the last steps.
    """
    args, kwargs = differentiable((args, kwargs), "reverse")
    full = inspect_model(model, args, kwargs, with_fixed=True)
    angles = angles or {name: np.arange(frames) for name, (_, frames, _) in start.layout.plates.items()}
    key, first, second = jax.random.split(key, 3)
    guide = neural_guide(start, full, angles, first)
    schedule = optax.cosine_onecycle_schedule(steps, PEAK_RATE, pct_start=0.2)
    optimiser = optax.chain(optax.clip_by_global_norm(100.0), optax.adam(schedule))
    svi = SVI(model, guide, optax_to_numpyro(optimiser), Trace_ELBO())
    state = jax.jit(svi.init)(jax.random.key_data(second), *args, **kwargs)
    update = jax.jit(lambda state, args, kwargs: svi.stable_update(state, *args, **kwargs))
    losses: list[float] = []
    began, first_averaged = time.monotonic(), int((1 - AVERAGED) * steps)
    average = svi.get_params(state)
    structure = jax.tree.structure((state, average))
    kept = keeper.load() if keeper is not None else None
    if kept is not None:
        state, average = unpacked_state(structure, kept)
        losses = [float(loss) for loss in kept["losses"]]
    for step in range(len(losses), steps):
        state, loss = update(state, args, kwargs)
        losses.append(float(loss))
        counted = max(step - first_averaged, 0) + 1
        average = jax.tree.map(lambda a, b: a + (b - a) / counted, average, svi.get_params(state))  # noqa: B023
        if keeper is not None and (step + 1) % EVERY == 0:
            keeper.save({"losses": np.array(losses), **packed_state((state, average))})
        if progress is not None:
            info = {"elbo": -float(np.mean(losses[-20:])), "seconds": time.monotonic() - began}
            progress("svi", step + 1, steps, info)
    if not np.all(np.isfinite(losses[-max(1, steps // 2) :])):
        raise FloatingPointError(
            "found an evidence bound that is not finite; expected finite intensities for draws of the guide; "
            "do: make the plan with a larger thickness_max"
        )
    parameters = {name.removeprefix("guide_"): jnp.asarray(value) for name, value in average.items()}
    return SviFit(guide, parameters, np.array(losses))


def pareto_k(model: Callable, *args: Any, fit: SviFit, key: Array, draws: int = 200, **kwargs: Any) -> float:
    """Shape of the tail of posterior over guide at draws of the guide: below 0.7 importance weights would mend it.

    Source: Yao, Vehtari, Simpson & Gelman, Proc. ICML 80, 5581 (2018).
    """
    args, kwargs = differentiable((args, kwargs), "forward")
    guide = fit.guide

    @jax.jit
    def log_ratio(noise):
        z, spreads, log_guide = guide.transform(fit.parameters, noise)
        everything = {**guide.layout.split(z), **guide.unravel_spreads(spreads)}
        return -negative_log_density(model, guide.full, guide.full.join(everything), {}, args, kwargs) - log_guide

    noise = jax.random.normal(key, (draws, guide.layout.size + len(guide.log_spreads)))
    minus_log_weight = -np.array([float(log_ratio(one)) for one in noise])  # ArviZ takes a log likelihood, w = 1 / p
    return float(array_stats.psislw(minus_log_weight)[1])
