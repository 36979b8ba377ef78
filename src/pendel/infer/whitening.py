"""Coordinates in which the posterior of a hierarchy is nearly standard normal, spreads and all.

The parameters fall into those that the simulator sees of a frame (tilt, thickness; z_f), those that it does not see
(scales and the means of hierarchies; z_c), and the others, which all frames share (structure, errors; z_g). With s the
spreads and F the information of the observations at the MAP point z*, (z_c, z_f) given all else are nearly normal with

    precision   P(s) = F + Q(s)                         Q: precision of their prior
    mean        m = z* + P^-1 (slope of the log prior at z* + slope of the likelihood - F_g (z_g - z*_g))

so z_g = z*_g + L y_g (L L^T the Laplace covariance), log s = log s_0 + w y_s and z_f from its marginal under P take
standard normal (y_g, y_s, y_f) to about the posterior. A plain whitening by the Laplace covariance would keep the
funnel: at small spreads P is hundreds of times larger than at the MAP point.

A frame's scale follows its thickness profile along a bent ridge, ten times longer than wide. So z_c is not held to the
line that P gives: with the simulation in hand, scoring steps from there lead to its maximum given all else, and
z_c = maximum + H^(-1/2) y_c with the matrix H of the last step. The Jacobian of it all is in the density, so the
approximations cost efficiency, not correctness.

F leaves out the curvature of the intensities themselves, which differs from place to place: at the MAP of real quartz
it was 0 to 7 times what F says, at draws -22 to 132 times, all of it from the tilts of one or two frames of seventeen.
So the mean absolute curvature at a few places is measured by differences of gradients, and divided out. That trebled
the step that NUTS could take.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.scipy.linalg import cho_solve, solve_triangular
from jaxtyping import Float

from pendel.constants import Array
from pendel.infer.density import prior_and_prediction
from pendel.infer.layout import inspect_model
from pendel.infer.map import MapFit
from pendel.infer.objective import differentiable
from pendel.infer.prune import pruned
from pendel.infer.unseen import cut_off_simulation

SECANT = 0.25  # standard deviations to either side over which a curvature is taken
POINTS = 3  # at which it is taken, beside the centre
LEAST_CURVATURE, MOST_CURVATURE = 0.2, 100.0  # where the density is flatter or sharper than that, it is not quadratic
SCORING = 3  # steps to the maximum of what the simulator does not see
SPREAD_WIDTH = 0.3  # standard deviation of the log of a spread, before a warm-up finds it
TOGETHER = 50  # points turned back into values at once on a graphics card


@dataclasses.dataclass(frozen=True)
class Whitened:
    """The negative log density in coordinates y of all latent sites, and the way back to the sites."""

    size: int
    potential: Callable[[Float[Array, " n"]], Float[Array, ""]]
    values: Callable[[Float[Array, " n"]], dict[str, Array]]  # constrained, of one y
    gradients: int = 0  # that it took to make it

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
    gradient = jax.jit(jax.grad(space.potential))
    points = [jnp.zeros(space.size), *jax.random.normal(key, (POINTS, space.size))]
    total, found = np.zeros((space.size, space.size)), 0
    for number, point in enumerate(points):
        rows = []
        for index in range(space.size):
            shift = jnp.zeros(space.size).at[index].set(SECANT)
            rows.append((gradient(point + shift) - gradient(point - shift)) / (2 * SECANT))
            if progress is not None:
                progress("curvature", number * space.size + index + 1, len(points) * space.size, {})
        curvature = np.asarray(jnp.stack(rows))
        if np.all(np.isfinite(curvature)):
            value, vector = np.linalg.eigh(0.5 * (curvature + curvature.T))
            total, found = total + (vector * np.abs(value)) @ vector.T, found + 1
        elif number == 0:
            raise FloatingPointError(
                "found a gradient that is not finite beside the MAP; expected a smooth log density there; "
                "do: check the model's priors, or fit with --infer svi first"
            )
    value, vector = np.linalg.eigh(total / found)
    root = jnp.asarray((vector / np.sqrt(np.clip(value, LEAST_CURVATURE, MOST_CURVATURE))) @ vector.T)
    spent = 2 * space.size * len(points)
    return Whitened(space.size, lambda w: space.potential(root @ w), lambda w: space.values(root @ w), spent)


def whitened(model: Callable, args: tuple, kwargs: dict[str, Any], start: MapFit) -> Whitened:
    """Coordinates from a MAP fit of the same model and data; y is (y_g, y_s, y_c, y_f)."""
    args, kwargs = differentiable((args, kwargs), "reverse")
    inner, full = start.layout, inspect_model(model, args, kwargs, with_fixed=True)
    centre = jnp.asarray(start.unconstrained)
    spread_sites = {site.name: site for site in full.sites if site.name in start.spreads}
    middle, unravel = ravel_pytree(
        {name: site.transform.inv(jnp.asarray(start.spreads[name])) for name, site in spread_sites.items()}
    )

    def evaluate(values):
        return prior_and_prediction(model, full, values, {}, args, kwargs)

    cut = cut_off_simulation(inner, evaluate, {**inner.split(centre), **unravel(middle)})
    shared, rest = cut.shared, np.concatenate([cut.unseen, cut.frames])
    sizes = len(shared), len(middle), len(cut.unseen)
    own, scoring_steps = len(cut.unseen), SCORING if len(cut.unseen) else 0

    log_prior = pruned(lambda z, s: evaluate({**inner.split(z), **unravel(s)})[0], centre, middle)
    covariance = np.asarray(start.covariance)
    information = np.linalg.inv(covariance) + np.asarray(jax.hessian(log_prior)(centre, middle))
    of_rest, border = information[np.ix_(rest, rest)], information[np.ix_(rest, shared)]
    pull = -np.asarray(jax.grad(log_prior)(centre, middle))[rest]  # of the likelihood, at a maximum
    root = jnp.asarray(np.linalg.cholesky(covariance[np.ix_(shared, shared)]))

    def transform(y):
        y_g, y_s, y_c, y_f = jnp.split(y, np.cumsum(sizes))
        shift, s = root @ y_g, middle + SPREAD_WIDTH * y_s
        z = centre.at[shared].add(shift)

        def rest_prior(x):
            return log_prior(z.at[rest].set(x), s)

        slope = jax.grad(rest_prior)(centre[rest]) + pull - border @ shift
        of_prior = -jax.hessian(rest_prior)(centre[rest])
        precision = of_rest + of_prior
        lower = jnp.linalg.cholesky(precision)
        step_f = solve_triangular(lower[own:, own:], y_f, trans=1, lower=True)
        step_c = -cho_solve((lower[:own, :own], True), precision[:own, own:] @ step_f)
        z = z.at[rest].add(cho_solve((lower, True), slope) + jnp.concatenate([step_c, step_f]))
        log_volume = -jnp.sum(jnp.log(jnp.diag(lower)[own:]))

        simulated, factor = cut.simulate(z, unravel(s)), lower[:own, :own]
        for _ in range(scoring_steps):
            step, factor = cut.scoring_step(simulated, z, unravel(s), of_prior[:own, :own])
            z = z.at[cut.unseen].add(step)
        z = z.at[cut.unseen].add(solve_triangular(factor, y_c, trans=1, lower=True))
        return z, unravel(s), log_volume - jnp.sum(jnp.log(jnp.diag(factor))), simulated

    def potential(y):
        z, spreads, log_volume, simulated = transform(y)
        return cut.negative_log_density(simulated, z, spreads) - log_volume

    def values(y):
        z, spreads, _, _ = transform(y)
        return full.constrain_values({**inner.split(z), **spreads})

    return Whitened(len(centre) + len(middle), potential, values)
