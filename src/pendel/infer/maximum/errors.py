"""Error parameters (a, b, nu of a model's errors): the correction for the degrees of freedom of a fit.

At the joint maximum of parameters and errors the residuals are too small: p fitted parameters take p degrees of
freedom, and a relative error comes out as sqrt(SSE / n) instead of sqrt(SSE / (n - p)). Maximising over the errors
what is left after integrating over all else, in the Laplace approximation, adds -1/2 log det H to the log density,
H the Gauss-Newton matrix. By the logarithm of an error this changes almost linearly, so its slope is enough.

Source: MacKay, Neural Computation 4, 415 (1992), where it is the number of well-determined parameters.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Float

from pendel.base import Array
from pendel.infer.layout import Layout
from pendel.infer.maximum.arrow import Arrow, ArrowRoot
from pendel.infer.plates import by_frame, elements_of_frames, frame_of_observations
from pendel.infer.target import Prediction


def error_correction(
    layout: Layout, jacobian: Float[Array, "passes rows observations"], prediction: Prediction, matrix: Arrow
) -> Float[Array, " n"]:
    """-1/2 d log det H / dz for elements of z that change the widths of the errors only; zero for all others.

    With v_m the variance of the location of observation m in the Laplace approximation and F_m the Fisher information
    on it, the derivative of log det H is the sum of v_m dF_m.

    Args:
        jacobian: of the parameters of all observations, see `compressed_jacobian`.
        prediction: these parameters and their distributions.
        matrix: H at z.
    """
    count, variance = layout.globals, _variance_of_locations(layout, jacobian[:, 0], matrix.root())

    def on_location(parameters):
        return prediction.information(parameters)[0, 0]

    change = jax.linearize(on_location, prediction.parameters)[1]

    def slope(tangent):
        is_error = jnp.all(tangent[0] == 0)
        return by_frame(layout, -0.5 * jnp.where(is_error, change(tangent), 0.0) * variance)

    slopes = jax.lax.map(slope, jacobian)
    found = jnp.zeros(layout.size).at[:count].set(jnp.sum(slopes[:count], axis=1))
    return found.at[elements_of_frames(layout)].add(slopes[count:].T, mode="drop")


def _variance_of_locations(layout: Layout, jacobian, root: ArrowRoot) -> Float[Array, " observations"]:
    """Diagonal of J H^-1 J^T."""
    frame, count = frame_of_observations(layout), layout.globals
    within, with_shared = root.of_groups(elements_of_frames(layout))
    of_all, of_frame = jacobian[:count], jacobian[count:]

    def per_frame_number(number):
        shared = jnp.sum(with_shared[:, number].T[:, frame] * of_all, axis=0)
        own = jnp.sum(within[:, number].T[:, frame] * of_frame, axis=0)
        return (2 * shared + own) * of_frame[number]

    variance = jnp.sum(jnp.square(root.shared.T @ of_all), axis=0)
    if not with_shared.size:  # frames without parameters of their own
        return variance
    return variance + jnp.sum(jax.lax.map(per_frame_number, jnp.arange(len(of_frame))), axis=0)
