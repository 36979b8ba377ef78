"""The log likelihood of all frames from a batch of them, for steps that would be too costly with all.

A batch of one frame in K, counted K times, is unbiased and useless: frames differ by thousands of nats. So only what a
frame's log likelihood departs from its expansion around the MAP is counted K times,

    log L(z)  ~  log L(z*) + Q(z - z*)  +  K sum over f in the batch of [log L_f(z) - log L_f(z*) - Q_f(z - z*)]

with Q(d) = s.d - d.F d / 2: s the slope and F the information of the likelihood at the MAP, which Laplace knows. A
batch's Q_f has the parts of s and F that belong to its frames, and its share 1 / K of those of the globals alone. Near
a normal posterior the estimate has next to no noise; anywhere its mean over the batches is exact.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from pendel.constants import Array
from pendel.infer.density import pointwise_log_likelihood, prior_and_prediction
from pendel.infer.map import MapFit
from pendel.infer.plates import by_element, frame_count, frame_of_elements, frame_of_observations, working_on
from pendel.infer.prune import pruned


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["elements", "shared", "observations", "centre", "slope", "information", "all_at_centre", "at_centre"],
    meta_fields=["count"],
)
@dataclasses.dataclass(frozen=True)
class Batch:
    """One batch of `count`, and the expansion of the log likelihood around the MAP."""

    count: int
    elements: Bool[Array, " n"]  # of z: globals, and those of the frames in the batch
    shared: Bool[Array, " n"]  # globals only
    observations: Bool[Array, " observations"]  # of the frames in the batch
    centre: Float[Array, " n"]
    slope: Float[Array, " n"]
    information: Float[Array, "n n"]
    all_at_centre: Float[Array, ""]  # log likelihood of all frames at the centre
    at_centre: Float[Array, ""]  # of the batch

    def log_likelihood(self, z: Float[Array, " n"], pointwise: Float[Array, " observations"]) -> Float[Array, ""]:
        """Estimate for all frames from the log likelihood of every observation, of which the batch's are read."""
        step = z - self.centre
        shared = self._expansion(jnp.where(self.shared, step, 0.0))
        expected = self._expansion(jnp.where(self.elements, step, 0.0)) - (1 - 1 / self.count) * shared
        found = jnp.sum(jnp.where(self.observations, pointwise, 0.0)) - self.at_centre
        return self.all_at_centre + self._expansion(step) + self.count * (found - expected)

    def _expansion(self, step):
        return self.slope @ step - 0.5 * step @ self.information @ step


@dataclasses.dataclass(frozen=True)
class Batches:
    """All batches of a fit, and the data as the simulator takes them for each."""

    parts: tuple[Batch, ...]
    data: tuple[Any, ...]

    def of_step(self, key: Array, step: int) -> tuple[Batch, Any]:
        """The batch of a step and its data; every batch comes once in `count` steps, in an order drawn anew."""
        turn, place = divmod(step, len(self.parts))
        which = int(jax.random.permutation(jax.random.fold_in(key, turn), len(self.parts))[place])
        return self.parts[which], self.data[which]


def frame_batches(model: Callable, data: tuple, fit: MapFit, count: int) -> Batches:
    """Batches of every `count`-th frame.

    Args:
        model: the NumPyro model of the fit.
        data: its arguments (args, kwargs).
        fit: MAP and Laplace covariance.
        count: of batches, at most one for each frame.
    """
    layout, centre = fit.layout, jnp.asarray(fit.unconstrained)

    def parts_of(z):
        return prior_and_prediction(model, layout, layout.split(z), fit.spreads, *data)

    log_prior = pruned(lambda z: parts_of(z)[0], centre)
    prediction = jax.jit(lambda z: parts_of(z)[1].__dict__)(centre)
    at_centre = np.asarray(pointwise_log_likelihood(**prediction))
    information = np.linalg.inv(fit.covariance) + np.asarray(jax.hessian(log_prior)(centre))
    slope = -np.asarray(jax.grad(log_prior)(centre))  # of the likelihood, at a maximum
    frames = frame_count(layout)
    batch: Int[np.ndarray, " frames"] = np.arange(frames) % min(count, frames)
    shared, of_observation = frame_of_elements(layout) < 0, batch[frame_of_observations(layout)]
    parts = [
        Batch(
            count=min(count, frames),
            elements=jnp.asarray(shared | by_element(layout, batch == number)),
            shared=jnp.asarray(shared),
            observations=jnp.asarray(of_observation == number),
            centre=centre,
            slope=jnp.asarray(slope),
            information=jnp.asarray(information),
            all_at_centre=jnp.asarray(at_centre.sum()),
            at_centre=jnp.asarray(at_centre[of_observation == number].sum()),
        )
        for number in range(min(count, frames))
    ]
    return Batches(tuple(parts), tuple(working_on(data, layout, batch == number) for number in range(len(parts))))
