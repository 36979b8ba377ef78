"""Error models of measured intensities as NumPyro distributions."""

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax.typing import ArrayLike
from jaxtyping import Float

from pendel.base import Array
from pendel.experiment.frames import Experiment

INSTABILITY = 0.01  # relative error added to every amplitude's standard deviation
WEAK = 0.01  # below I_o = 0.01 sigma the amplitude's error no longer follows from the intensity's


def gaussian(
    calculated: Float[Array, " reflections"],
    sigma: Float[Array, " reflections"],
    *,
    a: float | Float[Array, ""] = 1.0,
    b: float | Float[Array, ""] = 0.0,
) -> dist.Normal:
    """Normal errors, s^2 = (a sigma)^2 + (b I_calc)^2.

    Args:
        calculated: I_calc on the scale of the data.
        sigma: reported standard deviations, same unit.
        a: factor on the reported sigma; b: relative model error.
    """
    return dist.Normal(calculated, total_sigma(calculated, sigma, a=a, b=b))


def weighted_least_squares(
    calculated: Float[Array, " reflections"], experiment: Experiment, *, error: ArrayLike
) -> dist.Normal:
    """Normal errors under which least squares minimises wR2: s_m = e sqrt(mean over the frame of (w I_o)^2) / w_m.

    The sum of (residual / s)^2 over a frame of n measurements is n (wR2 / e)^2, so e is the wR2 of a typical frame and
    every frame counts alike, however bright. The weights w (`amplitude_weights`) depend on the data only.

    Args:
        calculated: I_calc on the scale of the data.
        error: e, no unit.
    """
    intensity, frame_index, frames = experiment.intensity, experiment.frame_index, len(experiment.frame_id)
    weight = amplitude_weights(intensity, experiment.sigma)
    count = jax.ops.segment_sum(jnp.ones_like(weight), frame_index, frames)
    square = jax.ops.segment_sum((weight * intensity) ** 2, frame_index, frames) / jnp.maximum(count, 1)
    return dist.Normal(calculated, error * jnp.sqrt(square)[frame_index] / weight)


def amplitude_weights(
    intensity: Float[Array, " reflections"], sigma: Float[Array, " reflections"]
) -> Float[Array, " reflections"]:
    """w = 1 / sqrt(s^2 + (0.01 sqrt(I_o))^2), s = sigma / (2 sqrt(I_o)); where I_o < 0.01 sigma, s = 5 sqrt(sigma).

    I_o under the roots is max(I_o, 0). Amplitude weights, applied to intensities as published programs do.
    Source: Klar et al. (2023), Nature Chemistry 15, 848, supplement.
    """
    intensity, sigma = jnp.asarray(intensity), jnp.asarray(sigma)
    root = jnp.sqrt(jnp.maximum(intensity, 0.0))
    weak = intensity < WEAK * sigma
    error = jnp.where(weak, 5.0 * jnp.sqrt(sigma), sigma / (2.0 * jnp.where(weak, 1.0, root)))
    return 1.0 / jnp.sqrt(error**2 + (INSTABILITY * root) ** 2)


def student_t(
    calculated: Float[Array, " reflections"],
    sigma: Float[Array, " reflections"],
    *,
    a: float | Float[Array, ""],
    b: float | Float[Array, ""],
    nu: float | Float[Array, ""],
    background: float | Float[Array, " reflections"] = 0.0,
) -> dist.StudentT:
    """Student-t errors around I_calc + background, with nu degrees of freedom; normalised density.

        scale^2 = (a sigma)^2 + (b I_calc)^2

    The relative error b is one of the simulation, so the background has none.

    Args:
        calculated: I_calc on the scale of the data, without the background.
        sigma: reported standard deviations, same unit.
        a: factor on the reported sigma; b: relative model error; nu: degrees of freedom.
        background: what every measurement holds beside diffracted intensity, same unit.
    """
    return dist.StudentT(nu, calculated + background, total_sigma(calculated, sigma, a=a, b=b))


def total_sigma(
    calculated: Float[Array, " reflections"],
    sigma: Float[Array, " reflections"],
    *,
    a: float | Float[Array, ""],
    b: float | Float[Array, ""],
) -> Float[Array, " reflections"]:
    """sqrt((a sigma)^2 + (b I_calc)^2): reported error and model error together."""
    return jnp.sqrt((a * sigma) ** 2 + (b * calculated) ** 2)
