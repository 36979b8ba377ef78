"""How well a guide stands for the posterior: its evidence bound on all frames, and the tail of its importance weights.

The bound after a cycle and that after the next are compared at the same draws, so that most of their noise cancels.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from pendel.base import Array
from pendel.infer.guide.neural import NeuralGuide
from pendel.infer.maximum.objective import compiled_once, differentiable
from pendel.infer.target import Target

SETTLED = 1.0  # nats; less gain from one cycle to the next ends the fit
UNCERTAIN = 3.0  # nats; a gain with a larger standard error does not show that the bound has settled


def log_ratios(target: Target, guide: NeuralGuide) -> Callable[..., Float[np.ndarray, " draws"]]:
    """A function (parameters of the guide, noise [draws n]) -> log of posterior over guide at its draws.

    Their mean is the evidence bound. All frames are simulated.
    """
    target = differentiable(target, "forward")

    def make():
        @jax.jit
        def log_ratio(parameters, noise, arrays, data):
            own = guide.with_arrays(arrays)
            z, spreads = own.transform(parameters, noise)
            everything = {**own.layout.split(z), **own.unravel_spreads(spreads)}
            return -target.negative_log_density(everything, {}, data) - own.log_density(parameters, z, spreads)

        return log_ratio

    arrays = guide.arrays()
    log_ratio = compiled_once("log ratios of a guide", make, target, arrays)

    def at(parameters, noise):
        return np.array([float(log_ratio(parameters, one, arrays, target.data)) for one in noise])

    return at


def noise_of(guide: NeuralGuide, key: Array, draws: int) -> Float[Array, "draws n"]:
    """Standard normal numbers for draws of a guide."""
    return jax.random.normal(key, (draws, guide.layout.size + len(guide.log_spreads)))


def bound_in_pairs(ratios: Callable, parameters, noise: Float[Array, "pairs n"]) -> Float[Array, " pairs"]:
    """The evidence bound [nats], from every draw and its mirror image; minus infinity where one is not finite."""
    both = ratios(parameters, jnp.concatenate([noise, -noise])).reshape(2, len(noise))
    mean = np.mean(both, axis=0)
    return np.where(np.isfinite(mean), mean, -np.inf)


def mean_bound(bound: Float[Array, " pairs"]) -> float:
    """Mean over the pairs that are finite [nats]; minus infinity for none."""
    finite = bound[np.isfinite(bound)]
    return float(np.mean(finite)) if len(finite) else -np.inf


def bound_gain(bounds: Float[Array, "cycles pairs"]) -> tuple[float, float]:
    """Gain of the bound in the last cycle over the best one before [nats], and its standard error; NaN for one."""
    if len(bounds) < 2:
        return float("nan"), float("nan")
    *before, last = bounds
    gains = last - max(before, key=mean_bound)
    gains = gains[np.isfinite(gains)]
    if len(gains) < 2:
        return float("nan"), float("nan")
    return float(np.mean(gains)), float(np.std(gains, ddof=1) / np.sqrt(len(gains)))


def stands_still(gain: float, error: float) -> bool:
    """Whether a gain of the bound, with its standard error, is too small to go on for [nats]."""
    return gain < max(SETTLED, 2 * error)


def has_settled(gain: float, error: float) -> bool:
    """Whether a gain is known well enough, and too small to go on for."""
    return error < UNCERTAIN and stands_still(gain, error)


def pareto_k(target: Target, *, fit, key: Array, draws: int = 200) -> float:
    """Shape of the tail of posterior over guide at draws of the guide of an `SviFit`.

    Source: Yao, Vehtari, Simpson & Gelman, Proc. ICML 80, 5581 (2018).
    """
    found = log_ratios(target, fit.guide)(fit.parameters, noise_of(fit.guide, key, draws))
    from arviz_stats.base.array import array_stats  # half a second: not before it is needed

    return float(array_stats.psislw(-found)[1])  # ArviZ takes a log likelihood, w = 1 / p
