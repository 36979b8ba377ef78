"""Error parameters (a, b, nu of a model's errors): the pull that makes them fit the posterior, not its maximum.

At the joint maximum of parameters and errors the residuals are too small: p fitted parameters swallow p degrees of
freedom, and a relative error comes out as sqrt(SSE / n) instead of sqrt(SSE / (n - p)). Maximising over the errors
what is left after integrating over all else, in the Laplace approximation, adds -1/2 log det H to the log density,
H the Gauss-Newton matrix. By the logarithm of an error this changes almost linearly, so its slope is enough.

Source: MacKay, Neural Computation 4, 415 (1992), where it is the number of well-determined parameters.
"""

import jax.numpy as jnp
from jaxtyping import Float, Int

from pendel.base import Array
from pendel.infer.layout import Layout

FLAT = 1e-8  # of the largest eigenvalue: directions that data and prior leave flat get a large, finite variance


def error_credit(
    layout: Layout,
    jacobian: Float[Array, "passes 3 observations"],
    parameters: Float[Array, "3 observations"],
    information: Float[Array, " observations"],
    matrix: Float[Array, "n n"],
    columns: Int[Array, "frame_passes observations"],
) -> Float[Array, " n"]:
    """-1/2 d log det H / dz for elements of z that change the widths of the errors only; zero for all others.

    With v_m the variance of prediction m in the Laplace approximation and F_m the Fisher information on it, the
    derivative of log det H is the sum of v_m dF_m.

    Args:
        jacobian: of (location, log scale, log df) of all observations, see `compressed_jacobian`.
        parameters: these three.
        information: Fisher information on the locations, zero for observations that do not count.
        matrix: H at z.
        columns: see `frame_columns`.
    """
    count = layout.globals
    covariance = positive_inverse(matrix)
    all_frames, one_frame = jacobian[:count, 0], jacobian[count:, 0]
    variance = jnp.sum(all_frames * (covariance[:count, :count] @ all_frames), axis=0)
    variance += 2 * jnp.einsum("pm,pqm,qm->m", all_frames, covariance[:count][:, columns], one_frame)
    within = covariance[columns[:, None, :], columns[None, :, :]]
    variance += jnp.einsum("pm,pqm,qm->m", one_frame, within, one_frame)

    nu = jnp.exp(jnp.where(jnp.isfinite(parameters[2]), parameters[2], 0.0))
    by_shape = jnp.where(jnp.isfinite(parameters[2]), nu / (nu + 1) - nu / (nu + 3), 0.0)
    relative = by_shape * jacobian[:, 2] - 2 * jacobian[:, 1]  # d log F
    is_error = jnp.all(jacobian[:, 0] == 0, axis=1, keepdims=True)
    slopes = -0.5 * jnp.where(is_error, relative, 0.0) * variance * information
    credit = jnp.zeros(layout.size).at[:count].set(jnp.sum(slopes[:count], axis=1))
    return credit.at[columns].add(slopes[count:])


def positive_inverse(matrix: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """Inverse of a symmetric matrix whose eigenvalues are raised to `FLAT` times the largest."""
    value, vector = jnp.linalg.eigh(matrix)
    return (vector / jnp.maximum(value, FLAT * value[-1])) @ vector.T
