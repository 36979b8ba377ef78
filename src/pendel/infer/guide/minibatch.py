"""The log likelihood of all frames from a batch of them, for steps that would be too costly with all.

A batch of one frame in K, counted K times, is unbiased and useless: frames differ by thousands of nats. So only what a
frame's log likelihood departs from its expansion around the MAP is counted K times,

    log L(z)  ~  log L(z*) + Q(z - z*)  +  K sum over f in the batch of [log L_f(z) - log L_f(z*) - Q_f(z - z*)]

with Q(d) = s.d - d.F d / 2: s the slope of the log likelihood at the MAP and F its information, which Laplace knows. A
batch has the slope of its own frames, the parts of F that belong to them, and a share of that of the globals. The share
is 1 / K for what all frames tell about. Where a site has several numbers that reach no simulation, as the errors of
reflections, each of which few frames measure, it is what the batch's observations give of the diagonal element of F.
Near a normal posterior the estimate has little noise; anywhere its mean over the batches is exact.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from pendel.base import Array
from pendel.infer.maximum.arrow import Arrow, part_places
from pendel.infer.maximum.curvature import prior_curvature
from pendel.infer.maximum.map import MapFit
from pendel.infer.maximum.normal_matrix import TANGENTS, one_hot_tangents
from pendel.infer.maximum.objective import compiled_once
from pendel.infer.plates import by_element, frame_count, frame_of_elements, frame_of_observations, working_on
from pendel.infer.target import Target


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["elements", "shared", "alike", "shares", "observations", "centre", "information", "of_all", "own"],
    meta_fields=["count"],
)
@dataclasses.dataclass(frozen=True)
class Batch:
    """One batch of `count`, and the expansion of the log likelihood around the MAP."""

    count: int
    elements: Bool[Array, " n"]  # of z: globals, and those of the frames in the batch
    shared: Bool[Array, " n"]  # globals only
    alike: Bool[Array, " n"]  # globals that every batch has the same share of, 1 / count
    shares: Float[Array, " n"]  # of the information on globals that is the batch's
    observations: Bool[Array, " observations"]  # of the frames in the batch
    centre: Float[Array, " n"]
    information: Arrow
    of_all: tuple[Float[Array, ""], Float[Array, " n"]]  # log likelihood at the centre and its slope, all frames
    own: tuple[Float[Array, ""], Float[Array, " n"]]  # of the batch

    def log_likelihood(self, z: Float[Array, " n"], pointwise: Float[Array, " observations"]) -> Float[Array, ""]:
        """Estimate for all frames from the log likelihood of every observation, of which the batch's are read."""
        step = z - self.centre
        alike, shared = jnp.where(self.alike, step, 0.0), jnp.where(self.shared, step, 0.0)
        others = shared - alike
        own = self._bend(alike) / self.count + (self.shares * others) @ (self.information @ (alike + 0.5 * others))
        bend = self._bend(jnp.where(self.elements, step, 0.0)) - self._bend(shared) + own
        found = jnp.sum(jnp.where(self.observations, pointwise, 0.0))
        rest = found - (self.own[0] + self.own[1] @ step - bend)
        return self.of_all[0] + self.of_all[1] @ step - self._bend(step) + self.count * rest

    def _bend(self, step):
        return 0.5 * step @ (self.information @ step)


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


def frame_batches(target: Target, fit: MapFit, count: int) -> Batches:
    """Batches of every `count`-th frame.

    Args:
        target: of the fit.
        fit: MAP and Laplace approximation.
        count: of batches, at most one for each frame.
    """
    layout, centre, frames = fit.layout, jnp.asarray(fit.unconstrained), frame_count(fit.layout)
    count = min(count, frames)
    likelihood = compiled_once("likelihood of a batch", lambda: _likelihood(target), target, fit.spreads)
    information = _information(target, fit)
    batch: Int[np.ndarray, " frames"] = np.arange(frames) % count
    shared = frame_of_elements(layout) < 0
    shares, alike = _shares(target, fit, batch[frame_of_observations(layout)], count)
    elements = [shared | by_element(layout, batch == number) for number in range(count)]
    observations = [jnp.asarray(batch[frame_of_observations(layout)] == number) for number in range(count)]
    some = tuple(working_on(target.data, layout, batch == number) for number in range(count))
    own = [likelihood(centre, fit.spreads, *pair) for pair in zip(some, observations, strict=True)]
    of_all = jax.tree.map(lambda *values: jnp.sum(jnp.stack(values), axis=0), *own)
    parts = tuple(
        Batch(
            count, jnp.asarray(mine), jnp.asarray(shared), alike & shared, share, seen, centre, information, of_all, at
        )
        for mine, share, seen, at in zip(elements, shares, observations, own, strict=True)
    )
    return Batches(parts, some)


def _shares(
    target: Target, fit: MapFit, batch: Int[np.ndarray, " observations"], count: int
) -> tuple[Float[Array, "batches n"], Bool[Array, " n"]]:
    """Shares of the batches in the information on the globals, and which globals are shared alike, 1 / `count` each.

    Others are sites of several numbers that reach no simulation, which one simulation of all frames is enough for. A
    single number stays with those that it may be nearly exchanged for, as a scale for the displacements of all atoms.

    Args:
        batch: of every observation.
    """
    layout = fit.layout
    values = layout.split(jnp.asarray(fit.unconstrained))
    free = [site for site in layout.sites if site.plate is None and site.name not in target.simulated]
    names = [site.name for site in free if int(np.prod(site.shape)) > 1]
    some = {name: values[name] for name in names}
    if not names:
        return jnp.full((count, layout.size), 1 / count), jnp.ones(layout.size, dtype=bool)
    tangents, place = one_hot_tangents(layout, some, layout.passes())

    @jax.jit
    def of_batches(some, values, spreads, data):
        results = target.simulate(values, spreads, data)
        information = target.predict(values, spreads, data, results)[1].information()

        def predict(some):
            return target.predict({**values, **some}, spreads, data, results)[1].parameters

        def of_element(tangent):
            row = jax.jvp(predict, (some,), (tangent,))[1]
            return jnp.zeros(count).at[batch].add(jnp.einsum("am,abm,bm->m", row, information, row))

        return jax.lax.map(of_element, tangents, batch_size=TANGENTS)

    found = jnp.zeros((count, layout.size)).at[:, place].set(of_batches(some, values, fit.spreads, target.data).T)
    total = jnp.sum(found, axis=0)
    return jnp.where(total > 0, found / jnp.where(total > 0, total, 1.0), 1 / count), total <= 0


def _likelihood(target: Target) -> Callable:
    """Log likelihood of the chosen observations, and its gradient."""

    @jax.jit
    @jax.value_and_grad
    def likelihood(z, spreads, data, observations):
        prediction = target.predict(target.layout.split(z), spreads, data)[1]
        return jnp.sum(jnp.where(observations, prediction.pointwise(), 0.0))

    return likelihood


def _information(target: Target, fit: MapFit) -> Arrow:
    """Of the likelihood: what Laplace has beyond the prior. Frames share none, also where Laplace is a diagonal."""
    layout, precision = fit.layout, fit.precision

    @jax.jit
    def beyond_prior(z, precision, data):
        curvature = prior_curvature(target, z, fit.spreads, precision.sizes, data)
        return precision + jax.tree.map(jnp.negative, curvature)

    information = beyond_prior(jnp.asarray(fit.unconstrained), precision, target.data)
    owner = np.append(frame_of_elements(layout), -1)[part_places(layout.globals, precision.sizes)]
    together = owner[:, :, None] == owner[:, None, :]
    return dataclasses.replace(information, blocks=jnp.where(together, information.blocks, 0.0))
