"""Error models of measured intensities as NumPyro distributions."""

import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Float

from pendel.constants import Array


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


def amplitude_gaussian(
    calculated: Float[Array, " reflections"],
    sigma: Float[Array, " reflections"],
    *,
    amplitude_error: float | Float[Array, ""],
) -> dist.Normal:
    """Normal errors of least squares on amplitudes: s^2 = sigma^2 + (2 e sqrt(I_calc))^2.

    A model error e of every amplitude |F| = sqrt(I), whatever its size, is 2 |F| e in intensity.

    Args:
        calculated: I_calc on the scale of the data, not negative.
        sigma: reported standard deviations, same unit.
        amplitude_error: e, in the unit of |F|.
    """
    return dist.Normal(calculated, jnp.sqrt(sigma**2 + 4 * amplitude_error**2 * calculated))


def student_t(
    calculated: Float[Array, " reflections"],
    sigma: Float[Array, " reflections"],
    *,
    a: float | Float[Array, ""],
    b: float | Float[Array, ""],
    nu: float | Float[Array, ""],
) -> dist.StudentT:
    """Student-t errors with nu degrees of freedom and scale^2 = (a sigma)^2 + (b I_calc)^2; normalised density."""
    return dist.StudentT(nu, calculated, total_sigma(calculated, sigma, a=a, b=b))


def total_sigma(
    calculated: Float[Array, " reflections"],
    sigma: Float[Array, " reflections"],
    *,
    a: float | Float[Array, ""],
    b: float | Float[Array, ""],
) -> Float[Array, " reflections"]:
    """sqrt((a sigma)^2 + (b I_calc)^2): reported error and model error together."""
    return jnp.sqrt((a * sigma) ** 2 + (b * calculated) ** 2)
