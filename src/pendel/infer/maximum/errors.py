"""Error parameters (a, b, nu of a model's errors): the correction for the degrees of freedom of a fit.

At the joint maximum of parameters and errors the residuals are too small: p fitted parameters take p degrees of
freedom, and a relative error comes out as sqrt(SSE / n) instead of sqrt(SSE / (n - p)). Maximising over the errors
what is left after integrating over all else, in the Laplace approximation, adds -1/2 log det H to the log density,
H the Gauss-Newton matrix. By the logarithm of an error this changes almost linearly, so its slope is enough.

Source: MacKay, Neural Computation 4, 415 (1992), where it is the number of well-determined parameters.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from pendel.base import Array
from pendel.infer.layout import Layout
from pendel.infer.target import Prediction

FLAT = 1e-8  # of the largest eigenvalue: directions that data and prior leave flat get a large, finite variance


def error_correction(
    layout: Layout,
    jacobian: Float[Array, "passes rows observations"],
    prediction: Prediction,
    matrix: Float[Array, "n n"],
    columns: Int[Array, "frame_passes observations"],
) -> Float[Array, " n"]:
    """-1/2 d log det H / dz for elements of z that change the widths of the errors only; zero for all others.

    With v_m the variance of the location of observation m in the Laplace approximation and F_m the Fisher information
    on it, the derivative of log det H is the sum of v_m dF_m.

    Args:
        jacobian: of the parameters of all observations, see `compressed_jacobian`.
        prediction: these parameters and their distributions.
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

    def on_location(parameters):
        return prediction.information(parameters)[0, 0]

    changes = jax.vmap(lambda tangent: jax.jvp(on_location, (prediction.parameters,), (tangent,))[1])(jacobian)
    is_error = jnp.all(jacobian[:, 0] == 0, axis=1, keepdims=True)
    slopes = -0.5 * jnp.where(is_error, changes, 0.0) * variance
    found = jnp.zeros(layout.size).at[:count].set(jnp.sum(slopes[:count], axis=1))
    return found.at[columns].add(slopes[count:])


def positive_inverse(matrix: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """Inverse of a symmetric matrix whose eigenvalues are raised to `FLAT` times the largest."""
    value, vector = jnp.linalg.eigh(matrix)
    return (vector / jnp.maximum(value, FLAT * value[-1])) @ vector.T
