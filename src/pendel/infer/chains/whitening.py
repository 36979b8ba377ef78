"""Coordinates in which the posterior of a hierarchy is nearly standard normal, spreads and all.

The parameters are those of frames that reach a simulation (tilt, thickness; z_f), those that reach none
(scales and the means of hierarchies; z_c), and the others, which all frames share (structure, errors; z_g). With s the
spreads and F the information of the observations at the MAP point z*, (z_c, z_f) given all else are nearly normal with

    precision   P(s) = F + Q(s)                         Q: precision of their prior
    mean        m = z* + P^-1 (slope of the log prior at z* + slope of the likelihood - F_g (z_g - z*_g))

so z_g = z*_g + L y_g (L L^T the Laplace covariance), log s = log s_0 + w y_s and z_f from its marginal under P take
standard normal (y_g, y_s, y_f) to about the posterior. A plain whitening by the Laplace covariance would keep the
funnel: at small spreads P is hundreds of times larger than at the MAP point.

A frame's scale follows its thickness profile along a bent ridge, ten times longer than wide. So z_c is not fixed to the
line that P gives: with the results of the simulation, scoring steps from there lead to its maximum given all else, and
z_c = maximum + H^(-1/2) y_c with the matrix H of the last step. The Jacobian of it all is in the density, so the
approximations cost efficiency, not correctness.

F leaves out the curvature of the intensities themselves, which differs from place to place: at the MAP of real quartz
it was 0 to 7 times what F says, at draws -22 to 132 times, all of it from the tilts of one or two frames of seventeen.
So the mean absolute curvature at a few places is measured by differences of gradients, and divided out. That trebled
the step that NUTS could take.
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.scipy.linalg import cho_solve, solve_triangular
from jaxtyping import Float, Int

from pendel.base import Array
from pendel.infer.chains.replay import Replay, make_replay
from pendel.infer.maximum.map import MapFit
from pendel.infer.maximum.objective import differentiable
from pendel.infer.target import Target, Values

SECANT = 0.25  # standard deviations to either side over which a curvature is taken
POINTS = 3  # at which it is taken, beside the centre
LEAST_CURVATURE, MOST_CURVATURE = 0.2, 100.0  # where the density is flatter or sharper than that, it is not quadratic
SCORING = 3  # steps to the maximum of the parameters that reach no simulation
SPREAD_WIDTH = 0.3  # standard deviation of the log of a spread, before a warm-up finds it
TOGETHER = 50  # points turned back into values at once on a graphics card


class Place(NamedTuple):
    """Unconstrained values: z without the spreads, the spreads by site; and what the simulator makes of them."""

    z: Float[Array, " n"]
    spreads: Mapping[str, Array]
    simulated: Any


class Half(NamedTuple):
    """Half of the way from y to a place: the parameters that reach a simulation, and what the rest will need."""

    z: Float[Array, " n"]
    spreads: Mapping[str, Array]
    y_c: Array
    step_f: Array
    precision: Array
    lower: Array
    of_prior: Array


@dataclasses.dataclass(frozen=True)
class Whitened:
    """The negative log density in coordinates y of all latent sites, and the way back to the sites."""

    size: int
    potential: Callable[[Float[Array, " n"]], Float[Array, ""]]
    evaluate: Callable[[Float[Array, " n"]], tuple[Float[Array, ""], Float[Array, " n"]]]  # potential, slope: compiled
    values: Callable[[Float[Array, " n"]], dict[str, Array]]  # constrained, of one y
    before: Callable[[Float[Array, " n"]], Half]
    after: Callable[[Any, Half], tuple[Place, Float[Array, ""]]]  # (what the simulator makes of it, half of the way)
    back: Callable[[Place], tuple[Float[Array, " n"], Float[Array, ""]]]  # y and the same log |d place / dy|
    log_prior: Callable[[Float[Array, " n"], Mapping[str, Array]], Float[Array, ""]]  # of `Place.z` and its spreads
    replay: Replay
    simulate: Callable[[Float[Array, " n"], Mapping[str, Array]], Any]  # `Replay.simulate`, compiled by itself
    gradients: int = 0  # that it took to make it

    def place(self, y: Float[Array, " n"]) -> tuple[Place, Float[Array, ""]]:
        """Where y is, and log |d place / dy|."""
        half = self.before(y)
        return self.after(self.simulate(half.z, half.spreads), half)

    def constrained_chains(self, y: Float[Array, "chains draws n"]) -> dict[str, Array]:
        """Constrained site values [chain draw ...] of the points of Markov chains; a simulation for each."""
        points = jnp.reshape(jnp.asarray(y), (-1, y.shape[-1]))
        together = None if jax.default_backend() == "cpu" else TOGETHER
        values = jax.jit(partial(jax.lax.map, self.values, batch_size=together))(points)
        return {name: jnp.reshape(x, (*y.shape[:2], *x.shape[1:])) for name, x in values.items()}


def unit_curvature(space: Whitened, key: Array, progress: Callable | None = None) -> Whitened:
    """The same space in coordinates w, y = A w, in which the potential has unit curvature on average.

    The average is of absolute curvatures, at y = 0 and at POINTS draws of a standard normal distribution: an integrator
    must follow the sharpest valley it meets, and hills count like valleys. A draw where a gradient is not finite is
    left out. A is symmetric, so that a resumed run, whose rounding may differ, has the same coordinates.

    Args:
        progress: called as progress("curvature", step, total, {}).

    Raises:
        FloatingPointError: the density at y = 0 has a gradient that is not finite.
    """
    points = [jnp.zeros(space.size), *jax.random.normal(key, (POINTS, space.size))]
    total, found = np.zeros((space.size, space.size)), 0
    for number, point in enumerate(points):
        rows = []
        for index in range(space.size):
            shift = jnp.zeros(space.size).at[index].set(SECANT)
            rows.append((space.evaluate(point + shift)[1] - space.evaluate(point - shift)[1]) / (2 * SECANT))
            if progress is not None:
                progress("curvature", number * space.size + index + 1, len(points) * space.size, {})
        curvature = np.asarray(jnp.stack(rows))
        if np.all(np.isfinite(curvature)):
            value, vector = np.linalg.eigh(0.5 * (curvature + curvature.T))
            total, found = total + (vector * np.abs(value)) @ vector.T, found + 1
        elif number == 0:
            raise FloatingPointError(
                "A gradient beside the maximum is not finite. Expected a smooth log density there. To fix: check the "
                "priors of the model, or fit with --infer svi first."
            )
    value, vector = np.linalg.eigh(total / found)
    scale = np.sqrt(np.clip(value, LEAST_CURVATURE, MOST_CURVATURE))
    root, inverse = jnp.asarray((vector / scale) @ vector.T), jnp.asarray((vector * scale) @ vector.T)
    log_volume = -np.sum(np.log(scale))

    def evaluate(w):
        value, slope = space.evaluate(root @ w)
        return value - log_volume, root @ slope

    def after(simulated, half):
        there, more = space.after(simulated, half)
        return there, log_volume + more

    def back(there):
        y, more = space.back(there)
        return inverse @ y, log_volume + more

    return dataclasses.replace(
        space,
        potential=lambda w: space.potential(root @ w) - log_volume,
        evaluate=evaluate,
        values=lambda w: space.values(root @ w),
        before=lambda w: space.before(root @ w),
        after=after,
        back=back,
        gradients=2 * space.size * len(points),
    )


def whitened(target: Target, start: MapFit) -> Whitened:
    """Coordinates from a MAP fit of the same target; y is (y_g, y_s, y_c, y_f)."""
    target = differentiable(target, "reverse")
    way = _way(target, start)
    inner, replay = target.layout, way.replay

    def transform(y):
        half = way.before(y)
        return way.after(replay.simulate(half.z, half.spreads), half)

    def potential(y):
        place, log_volume = transform(y)
        return replay.negative_log_density(place.simulated, place.z, place.spreads) - log_volume

    def values(y):
        place, _ = transform(y)
        return target.full.constrain_values({**inner.split(place.z), **place.spreads})

    return Whitened(
        size=len(way.centre) + len(way.middle),
        potential=potential,
        evaluate=jax.jit(jax.value_and_grad(potential)),
        values=values,
        before=way.before,
        after=way.after,
        back=way.back,
        log_prior=way.log_prior,
        replay=replay,
        simulate=jax.jit(replay.simulate),
    )


@dataclasses.dataclass(frozen=True)
class _Way:
    """The map between y and places; letters as in the module's formulas."""

    replay: Replay
    centre: Float[Array, " n"]  # z*
    middle: Float[Array, " spreads"]  # s_0, unconstrained
    unravel: Callable  # to spreads by site
    rest: Int[np.ndarray, " rest"]  # elements of z_c and z_f
    of_rest: Float[Array, "rest rest"]  # F
    border: Float[Array, "rest shared"]  # F_g
    pull: Float[Array, " rest"]  # slope of the likelihood at z*
    root: Float[Array, "shared shared"]  # L

    @property
    def own(self) -> int:
        """Number of the elements of z_c."""
        return len(self.replay.free)

    def log_prior(self, z: Float[Array, " n"], spreads: Values) -> Float[Array, ""]:
        return self.replay.target.log_prior({**self.replay.layout.split(z), **spreads})

    def conditional(self, shift, s):
        """z_g moved, z_c and z_f at their mean m; the precision P, its Cholesky factor and the prior's part of it."""
        z, rest = jnp.asarray(self.centre).at[self.replay.shared].add(shift), self.rest

        def rest_prior(x):
            return self.log_prior(z.at[rest].set(x), self.unravel(s))

        slope = jax.grad(rest_prior)(self.centre[rest]) + self.pull - self.border @ shift
        of_prior = -jax.hessian(rest_prior)(self.centre[rest])
        precision = self.of_rest + of_prior
        lower = jnp.linalg.cholesky(precision)
        return z.at[rest].add(cho_solve((lower, True), slope)), precision, lower, of_prior

    def settled(self, simulated, z, spreads, step_f, precision, lower, of_prior):
        """z with z_c at its maximum, reached from the line along which P moves it with z_f, and the factor of H."""
        own, free = self.own, self.replay.free
        factor = lower[:own, :own]
        z = z.at[free].add(-cho_solve((factor, True), precision[:own, own:] @ step_f))
        for _ in range(SCORING if own else 0):
            step, factor = self.replay.scoring_step(simulated, z, spreads, of_prior[:own, :own])
            z = z.at[free].add(step)
        return z, factor

    def volume(self, lower, factor):
        """log |d place / dy|."""
        constant = jnp.sum(jnp.log(jnp.diag(self.root))) + len(self.middle) * np.log(SPREAD_WIDTH)
        return constant - jnp.sum(jnp.log(jnp.diag(lower)[self.own :])) - jnp.sum(jnp.log(jnp.diag(factor)))

    def before(self, y: Float[Array, " m"]) -> Half:
        sizes = len(self.replay.shared), len(self.middle), self.own
        y_g, y_s, y_c, y_f = jnp.split(y, np.cumsum(sizes))
        s = self.middle + SPREAD_WIDTH * y_s
        z, precision, lower, of_prior = self.conditional(self.root @ y_g, s)
        step_f = solve_triangular(lower[self.own :, self.own :], y_f, trans=1, lower=True)
        return Half(z.at[self.replay.frames].add(step_f), self.unravel(s), y_c, step_f, precision, lower, of_prior)

    def after(self, simulated: Any, half: Half) -> tuple[Place, Float[Array, ""]]:
        z, spreads, y_c, *known = half
        z, factor = self.settled(simulated, z, spreads, *known)
        z = z.at[self.replay.free].add(solve_triangular(factor, y_c, trans=1, lower=True))
        return Place(z, spreads, simulated), self.volume(half.lower, factor)

    def back(self, place: Place) -> tuple[Float[Array, " m"], Float[Array, ""]]:
        own, frames = self.own, self.replay.frames
        s = ravel_pytree(dict(place.spreads))[0]
        shift = place.z[self.replay.shared] - self.centre[self.replay.shared]
        z, precision, lower, of_prior = self.conditional(shift, s)
        step_f = (place.z - z)[frames]
        z = z.at[frames].set(place.z[frames])
        z, factor = self.settled(place.simulated, z, place.spreads, step_f, precision, lower, of_prior)
        y_g = solve_triangular(self.root, shift, lower=True)
        y_c = factor.T @ (place.z - z)[self.replay.free]
        y = jnp.concatenate([y_g, (s - self.middle) / SPREAD_WIDTH, y_c, lower[own:, own:].T @ step_f])
        return y, self.volume(lower, factor)


def _way(target: Target, start: MapFit) -> _Way:
    """What the map needs from a MAP fit."""
    centre, replay = jnp.asarray(start.unconstrained), make_replay(target)
    sites = {site.name: site for site in target.full.sites if site.name in start.spreads}
    middle, unravel = ravel_pytree(
        {name: site.transform.inv(jnp.asarray(start.spreads[name])) for name, site in sites.items()}
    )

    def log_prior(z, spreads):
        return target.log_prior({**target.layout.split(z), **spreads})

    shared, rest = replay.shared, np.concatenate([replay.free, replay.frames])
    of_prior = np.asarray(jax.jit(jax.hessian(log_prior))(centre, unravel(middle)))
    information = np.asarray(start.precision.dense()) + of_prior
    covariance = start.root.shared @ start.root.shared.T  # of the globals, which the shared elements are
    return _Way(
        replay=replay,
        centre=centre,
        middle=middle,
        unravel=unravel,
        rest=rest,
        of_rest=information[np.ix_(rest, rest)],
        border=information[np.ix_(rest, shared)],
        pull=-np.asarray(jax.jit(jax.grad(log_prior))(centre, unravel(middle)))[rest],  # at a maximum
        root=jnp.linalg.cholesky(covariance[np.ix_(shared, shared)]),
    )
