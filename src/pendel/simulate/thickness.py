"""Densities of the crystal's thickness on quadrature nodes that move with the density.

Every function returns nodes [Å] and weights of shape [frames nodes]; the weights of a frame sum to 1.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy.special import ndtri

from pendel.base import Array

NODES = 12

type Profile = tuple[Float[Array, "frames nodes"], Float[Array, "frames nodes"]]


def single(log_mean: Float[Array, " frames"]) -> Profile:
    """One thickness per frame, exp(log_mean) [Å]."""
    nodes = jnp.exp(log_mean)[:, None]
    return nodes, jnp.ones_like(nodes)


def lognormal(log_mean: Float[Array, " frames"], log_width: Float[Array, " frames"], nodes: int = NODES) -> Profile:
    """Log-normal density, t_q = exp(log_mean + width z_q) at equal-weight normal quantiles z_q of unit variance.

    Args:
        log_mean: log of the median thickness [log Å].
        log_width: log of the standard deviation of log t (log of a relative width, no unit).
        nodes: number of nodes.
    """
    quantile = ndtri((np.arange(nodes) + 0.5) / nodes)
    quantile = quantile / np.sqrt(np.mean(quantile**2))
    t = jnp.exp(log_mean[:, None] + jnp.exp(log_width)[:, None] * quantile)
    return t, jnp.full_like(t, 1 / nodes)


def tapered(log_thickness: Float[Array, " frames"], log_taper: Float[Array, " frames"], nodes: int = NODES) -> Profile:
    """Power density below a largest thickness, t = T x^k with x uniform in (0, 1), on Gauss-Legendre nodes in x.

    k = 0 is a slab of thickness T, k near 0.3 the middle of a rod, k = 1 a wedge that runs out to nothing; the mean is
    T / (1 + k). Fringes follow T, which is why T and not the mean is the parameter.

    Args:
        log_thickness: log of the largest thickness T [log Å].
        log_taper: log k, no unit.
        nodes: number of nodes.
    """
    abscissa, weight = np.polynomial.legendre.leggauss(nodes)
    t = jnp.exp(log_thickness[:, None] + jnp.exp(log_taper)[:, None] * np.log((1 + abscissa) / 2))
    return t, jnp.broadcast_to(weight / 2, t.shape)


def stepped(
    log_thickness: Float[Array, " frames"],
    log_taper: Float[Array, " frames"],
    log_odds: Float[Array, " frames"],
    height: float | Float[Array, ""],
    nodes: int = NODES,
) -> Profile:
    """A crystal with a step: two terraces of the same taper, the lower one `height` times as thick.

    Args:
        log_thickness: log of the largest thickness T of the higher terrace [log Å].
        log_taper: log k, see `tapered`.
        log_odds: log of the lower terrace's lit area over that of the higher one.
        height: of the lower terrace over the higher one, between 0 and 1.
        nodes: number of nodes, shared by both terraces.
    """
    high, weight = tapered(log_thickness, log_taper, nodes // 2)
    low = jax.nn.sigmoid(log_odds)[:, None]
    return jnp.concatenate([height * high, high], axis=1), jnp.concatenate([low * weight, (1 - low) * weight], axis=1)


def runout(log_thickness: Float[Array, " frames"], nodes: int = NODES) -> Profile:
    """A wedge that runs out to nothing: uniform between 0 and T = exp(log_thickness) [Å]."""
    return tapered(log_thickness, jnp.zeros_like(log_thickness), nodes)


def lens(log_thickness: Float[Array, " frames"], nodes: int = NODES) -> Profile:
    """An ellipsoid or lens seen along an axis, t = T sqrt(1 - u), u uniform in area; T = exp(log_thickness) [Å]."""
    return tapered(log_thickness, jnp.full_like(log_thickness, jnp.log(0.5)), nodes)


def cylinder(log_thickness: Float[Array, " frames"], nodes: int = NODES) -> Profile:
    """A rod across the beam, t = T sqrt(1 - x^2), x uniform across it; T = exp(log_thickness) is its diameter [Å]."""
    abscissa, weight = np.polynomial.legendre.leggauss(2 * nodes)
    half = slice(nodes, None)  # the nodes are symmetric
    t = jnp.exp(log_thickness)[:, None] * np.sqrt(1 - abscissa[half] ** 2)
    return t, jnp.broadcast_to(weight[half], t.shape)


def wedge(log_mean: Float[Array, " frames"], log_width: Float[Array, " frames"], nodes: int = NODES) -> Profile:
    """Uniform density between two thicknesses: a wedge under an even beam, on Gauss-Legendre nodes.

    Args:
        log_mean: log of the mean thickness [log Å].
        log_width: log of the relative standard deviation; the density spans mean (1 +- sqrt(3) width), at least 0.
        nodes: number of nodes.
    """
    abscissa, weight = np.polynomial.legendre.leggauss(nodes)
    half = jnp.minimum(np.sqrt(3.0) * jnp.exp(log_width), 0.999)[:, None]
    t = jnp.exp(log_mean)[:, None] * (1 + half * abscissa)
    return t, jnp.broadcast_to(weight / 2, t.shape)


def matern_covariance(
    alpha: Float[Array, " frames"],
    amplitude: Float[Array, ""],
    length_deg: float,
    jump: float | Float[Array, ""] = 0.0,
) -> Float[Array, "frames frames"]:
    """Covariance of a curve along the goniometer angle and independent jumps of the frames around it.

    Matérn 3/2, s^2 (1 + r) exp(-r), r = sqrt(3) |da| / l, and the variance of the jumps on the diagonal.

    Args:
        alpha: goniometer angle [deg].
        amplitude: standard deviation s of the curve.
        length_deg: correlation length l [deg].
        jump: standard deviation of the jumps, in the unit of the amplitude.

    Source: Rasmussen & Williams, Gaussian Processes for Machine Learning (2006), eq. 4.17.
    """
    r = np.sqrt(3.0) * jnp.abs(alpha[:, None] - alpha[None, :]) / length_deg
    shape = (1 + r) * jnp.exp(-r) + 1e-4 * jnp.eye(len(alpha))
    return amplitude**2 * shape + jump**2 * jnp.eye(len(alpha))
