r"""The variational guide: Laplace's shape for the crystal, a neural network for the profile along the goniometer angle.

With globals z_g, the profile x_f of frame f (thickness and its taper) and the nuisance parameters y_f of the frame
(scale, tilt), every factor is normal:

    spreads        log s   = log s_0 + r (d + exp(e) eps)
    globals        z_g     = m_g + L_g (d_g + R_g eps)
    profile        x_f     = m_f + B_f (z_g - m_g) + A_f (x_{f-1} - E[x_{f-1} | z_g]) + T_f eps_f
    frames         y_f     = m'_f + C_f (z_g - m_g, x_f - m_f) + L'_f (d'_f + R'_f eps'_f)

A network of the angle alone puts out m_f, A_f (the link to the neighbouring frame), T_f and B_f. Its weights are
parameters of the guide; the model knows nothing of them. L_g, C_f and L'_f are Laplace's; d, R start at 0 and 1, and
the network is first fitted to Laplace's own conditionals, so the guide starts as a Markov approximation of Laplace.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
from jax.flatten_util import ravel_pytree
from jax.scipy.linalg import solve_triangular
from jaxtyping import Float

from pendel.constants import Array
from pendel.infer.layout import Layout
from pendel.infer.map import MapFit

HIDDEN = 32
HARMONICS = 8  # of the angle's range; a profile that bends over 20 degrees of 100 needs five
PLATE_ARRAYS = ("features", "profile", "nuisance", "regression", "nuisance_root", "targets", "unit")
SPREAD_WIDTH = 0.3  # start standard deviation of log spreads


@dataclasses.dataclass(frozen=True)
class PlateShape:
    """What Laplace says about one plate of frames, in the order of the angle."""

    name: str
    features: Float[Array, "frames features"]
    order: Array  # frames sorted by angle
    profile: Array  # elements of z [frames profile], sorted by angle
    nuisance: Array  # elements of z [frames nuisance], sorted by angle
    regression: Float[Array, "frames nuisance globals_and_profile"]
    nuisance_root: Float[Array, "frames nuisance nuisance"]
    targets: Float[Array, "frames outputs"]  # of the network
    unit: Float[Array, " outputs"]


@dataclasses.dataclass(frozen=True)
class NeuralGuide:
    """A guide for `numpyro.infer.SVI`; call it like the model."""

    layout: Layout  # of the MAP: without spreads
    full: Layout  # with spreads
    centre: Float[Array, " n"]
    global_root: Float[Array, "globals globals"]
    log_spreads: Float[Array, " spreads"]
    unravel_spreads: Callable  # to log spreads by site
    plates: tuple[PlateShape, ...]
    start: dict[str, Array]

    def arrays(self) -> dict[str, Any]:
        """What differs between fits of the same shapes, so that a compiled step can be given it."""
        plates = tuple({name: getattr(plate, name) for name in PLATE_ARRAYS} for plate in self.plates)
        whole = {name: getattr(self, name) for name in ("centre", "global_root", "log_spreads", "start")}
        return {**whole, "plates": plates}

    def with_arrays(self, arrays: Mapping[str, Any]) -> "NeuralGuide":
        """The same guide with other `arrays`."""
        plates = tuple(replace(plate, **own) for plate, own in zip(self.plates, arrays["plates"], strict=True))
        return replace(self, **{**arrays, "plates": plates})

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        """Sample every latent site of the model (the arguments are the model's and are not read).

        The density holds its parameters, so that only the path of the draw has a gradient: it has no noise where the
        guide is the posterior, and the optimiser does not narrow the guide.
        Source: Roeder, Wu & Duvenaud, NeurIPS 30 (2017).
        """
        parameters: Any = {name: numpyro.param(f"guide_{name}", value) for name, value in self.start.items()}
        key: Any = numpyro.prng_key()
        noise = jax.random.normal(key, (self.layout.size + len(self.log_spreads),))
        z, spreads = self.transform(parameters, noise)
        log_density = self.log_density(jax.lax.stop_gradient(parameters), z, spreads)
        latent = jnp.concatenate([z, spreads])
        numpyro.sample("_latent", dist.Delta(latent, log_density, event_dim=1), infer={"is_auxiliary": True})
        values = {**self.layout.split(z), **self.unravel_spreads(spreads)}
        for site in self.full.sites:
            value = site.transform(values[site.name])
            jacobian = -site.transform.log_abs_det_jacobian(values[site.name], value)
            surplus = jnp.ndim(jacobian) - (jnp.ndim(value) - site.event_dims)
            jacobian = jnp.sum(jacobian, axis=tuple(range(jnp.ndim(jacobian) - surplus, jnp.ndim(jacobian))))
            delta = dist.Delta(value, jacobian, event_dim=site.event_dims)
            if site.plate is not None and not site.profile:
                with numpyro.plate(site.plate, site.shape[0]):
                    numpyro.sample(site.name, delta)
            else:
                numpyro.sample(site.name, delta)

    def transform(
        self, parameters: Mapping[str, Array], noise: Float[Array, " n"]
    ) -> tuple[Float[Array, " m"], Float[Array, " spreads"]]:
        """Standard normal noise to (z, log spreads)."""
        count, number = self.layout.globals, len(self.log_spreads)
        spread_noise, noise = noise[:number], noise[number:]
        width = SPREAD_WIDTH * jnp.exp(parameters["spread_log_width"])
        spreads = self.log_spreads + SPREAD_WIDTH * parameters["spread_shift"] + width * spread_noise
        root = _lower(parameters["global_root"])[0]
        shift = self.global_root @ (parameters["global_shift"] + root @ noise[:count])
        z = jnp.asarray(self.centre).at[:count].add(shift)
        for plate in self.plates:
            z = _frame_draws(plate, parameters, z, shift, noise)
        return z, spreads

    def log_density(
        self, parameters: Mapping[str, Array], z: Float[Array, " m"], spreads: Float[Array, " spreads"]
    ) -> Float[Array, ""]:
        """Of (z, log spreads): `transform` backwards, to the noise that leads there."""
        width = SPREAD_WIDTH * jnp.exp(parameters["spread_log_width"])
        noise = (spreads - self.log_spreads - SPREAD_WIDTH * parameters["spread_shift"]) / width
        total = _normal(noise, jnp.log(width))

        count = self.layout.globals
        root, log_diagonal = _lower(parameters["global_root"])
        shift = z[:count] - jnp.asarray(self.centre)[:count]
        inner = solve_triangular(self.global_root, shift, lower=True) - parameters["global_shift"]
        noise = solve_triangular(root, inner, lower=True)
        total = total + _normal(noise, log_diagonal) - jnp.sum(jnp.log(jnp.diag(self.global_root)))
        for plate in self.plates:
            total = total + _frame_density(plate, parameters, z, shift, jnp.asarray(self.centre))
        return total

    def draws(self, parameters: Mapping[str, Array], key: Array, count: int) -> dict[str, Array]:
        """Constrained draws of all sites, on the leading axis."""
        noise = jax.random.normal(key, (count, self.layout.size + len(self.log_spreads)))
        z, spreads = jax.vmap(lambda e: self.transform(parameters, e))(noise)
        values = self.layout.constrain_many(z)
        return {**values, **jax.tree.map(jnp.exp, jax.vmap(self.unravel_spreads)(spreads))}


def neural_guide(fit: MapFit, full: Layout, angles: Mapping[str, Array], key: Array) -> NeuralGuide:
    """A guide that starts as the Markov approximation of a Laplace fit.

    Args:
        fit: maximum and covariance.
        full: layout of the model with its spreads.
        angles: goniometer angle [deg] of the frames of every plate.
        key: for the start of the network's weights.
    """
    layout = fit.layout
    covariance = np.asarray(fit.covariance)
    root = np.linalg.cholesky(covariance[: layout.globals, : layout.globals])
    log_spreads, unravel = ravel_pytree({name: jnp.log(jnp.asarray(value)) for name, value in fit.spreads.items()})
    start: dict[str, Array] = {
        "spread_shift": jnp.zeros(len(log_spreads)),
        "spread_log_width": jnp.zeros(len(log_spreads)),
        "global_shift": jnp.zeros(layout.globals),
        "global_root": jnp.zeros((layout.globals, layout.globals)),
    }
    plates = []
    for name in layout.plates:
        plate = _plate_shape(layout, name, fit.unconstrained, covariance, np.asarray(angles[name]))
        frames, nuisance = plate.nuisance.shape
        start[f"{name}_shift"] = jnp.zeros((frames, nuisance))
        start[f"{name}_root"] = jnp.zeros((frames, nuisance, nuisance))
        if plate.profile.shape[1]:
            key, sub = jax.random.split(key)
            start.update({f"{name}_{k}": v for k, v in _fitted_network(plate, sub).items()})
        plates.append(plate)
    return NeuralGuide(layout, full, np.asarray(fit.unconstrained), root, log_spreads, unravel, tuple(plates), start)


def _frame_draws(plate: PlateShape, parameters, z, shift, noise):
    """Add the draws of one plate's profile and nuisance parameters to z."""
    width = plate.profile.shape[1]
    deviation = jnp.zeros((len(plate.profile), 0))
    if width:
        weights = {k: parameters[f"{plate.name}_{k}"] for k in ("w1", "b1", "w2", "b2")}
        mean, link, root, _, by_globals = _network_outputs(plate, weights, len(shift))

        def step(previous, now):
            link, root, eps = now
            current = link @ previous + root @ eps
            return current, current

        _, rest = jax.lax.scan(step, jnp.zeros(width), (link, root, noise[plate.profile]))
        deviation = by_globals @ shift + rest
        z = z.at[plate.profile].set(mean + deviation)
    if plate.nuisance.shape[1]:
        known = jnp.concatenate([jnp.broadcast_to(shift, (len(deviation), len(shift))), deviation], axis=1)
        root = _lower(parameters[f"{plate.name}_root"])[0]
        inner = parameters[f"{plate.name}_shift"] + jnp.einsum("fij,fj->fi", root, noise[plate.nuisance])
        drawn = jnp.einsum("fij,fj->fi", plate.regression, known) + jnp.einsum("fij,fj->fi", plate.nuisance_root, inner)
        z = z.at[plate.nuisance].add(drawn)
    return z


def _frame_density(plate: PlateShape, parameters, z, shift, centre):
    """Log density of one plate's profile and nuisance parameters given the globals: `_frame_draws` backwards."""
    width = plate.profile.shape[1]
    total = jnp.zeros(())
    deviation = jnp.zeros((len(plate.profile), 0))
    if width:
        weights = {k: parameters[f"{plate.name}_{k}"] for k in ("w1", "b1", "w2", "b2")}
        mean, link, root, log_diagonal, by_globals = _network_outputs(plate, weights, len(shift))
        deviation = z[plate.profile] - mean
        rest = deviation - by_globals @ shift
        before = jnp.concatenate([jnp.zeros((1, width)), rest[:-1]])
        step = rest - jnp.einsum("fij,fj->fi", link, before)
        total = total + _normal(_solved(root, step), log_diagonal)
    if plate.nuisance.shape[1]:
        known = jnp.concatenate([jnp.broadcast_to(shift, (len(deviation), len(shift))), deviation], axis=1)
        root, log_diagonal = _lower(parameters[f"{plate.name}_root"])
        drawn = z[plate.nuisance] - centre[plate.nuisance] - jnp.einsum("fij,fj->fi", plate.regression, known)
        inner = _solved(plate.nuisance_root, drawn) - parameters[f"{plate.name}_shift"]
        diagonal = jnp.diagonal(plate.nuisance_root, axis1=1, axis2=2)
        total = total + _normal(_solved(root, inner), log_diagonal) - jnp.sum(jnp.log(diagonal))
    return total


def _normal(noise, log_scale):
    """Log density of scale * noise for standard normal noise."""
    return jnp.sum(dist.Normal(0, 1).log_prob(noise)) - jnp.sum(log_scale)


def _solved(root, right):
    """L^-1 x of every frame."""
    return solve_triangular(root, right[..., None], lower=True)[..., 0]


def _network_outputs(plate: PlateShape, weights, count):
    """Mean, link, Cholesky root and dependence on the globals of every frame's profile."""
    width = plate.profile.shape[1]
    raw = _network(weights, plate.features) * plate.unit + plate.targets.mean(axis=0)
    pieces = jnp.split(raw, np.cumsum([width, width * width, width * width]), axis=1)
    mean, link, lower, by_globals = pieces
    lower, log_diagonal = _lower(lower.reshape(-1, width, width))
    return mean, link.reshape(-1, width, width), lower, log_diagonal, by_globals.reshape(-1, width, count)


def _network(weights, features):
    return jnp.tanh(features @ weights["w1"] + weights["b1"]) @ weights["w2"] + weights["b2"]


def _lower(raw: Float[Array, "*batch k k"]) -> tuple[Float[Array, "*batch k k"], Float[Array, "*batch k"]]:
    """Lower-triangular matrix with exp(diagonal), and the log of its diagonal."""
    log_diagonal = jnp.diagonal(raw, axis1=-2, axis2=-1)
    return jnp.tril(raw, -1) + jnp.exp(log_diagonal)[..., None] * jnp.eye(raw.shape[-1]), log_diagonal


def _plate_shape(layout: Layout, name: str, centre, covariance, angle) -> PlateShape:
    """Laplace's conditionals of one plate: profile given globals and the frame before, nuisance given both."""
    offset, frames, width = layout.plates[name]
    order = np.argsort(angle)
    flags = np.concatenate(
        [np.full(int(np.prod(s.shape)) // frames, s.profile) for s in layout.sites if s.plate == name]
    )
    element = (offset + width * np.arange(frames)[:, None] + np.arange(width))[order]
    profile, nuisance = element[:, flags], element[:, ~flags]
    shared = np.arange(layout.globals)
    targets, regressions, roots = [], [], []
    by_globals = np.linalg.solve(covariance[np.ix_(shared, shared)], covariance[shared][:, profile.ravel()]).T
    by_globals = by_globals.reshape(frames, -1, layout.globals)
    for f in range(frames):
        here = profile[f]
        before = np.concatenate([shared, profile[f - 1]]) if f else shared
        slope, rest = _conditional(covariance, here, before)
        link = slope[:, layout.globals :] if f else np.zeros((len(here), len(here)))
        lower = np.linalg.cholesky(rest) if len(here) else rest
        np.fill_diagonal(lower, np.log(np.diagonal(lower)))
        targets.append(np.concatenate([centre[here], link.ravel(), lower.ravel(), by_globals[f].ravel()]))
        slope, rest = _conditional(covariance, nuisance[f], np.concatenate([shared, here]))
        regressions.append(slope)
        roots.append(np.linalg.cholesky(rest))
    targets = np.array(targets)
    scaled = 2 * (angle[order] - angle.min()) / max(np.ptp(angle), 1e-9) - 1
    phase = 0.5 * np.pi * np.outer(scaled + 1, np.arange(1, HARMONICS + 1))
    features = np.concatenate([scaled[:, None], np.cos(phase), np.sin(phase)], axis=1)
    unit = np.std(targets, axis=0) + 1e-6
    return PlateShape(name, features, order, profile, nuisance, np.array(regressions), np.array(roots), targets, unit)


def _conditional(covariance, here, given):
    """Regression slope of elements `here` on elements `given`, and the covariance that is left."""
    slope = np.linalg.solve(covariance[np.ix_(given, given)], covariance[np.ix_(given, here)]).T
    rest = covariance[np.ix_(here, here)] - slope @ covariance[np.ix_(given, here)]
    return slope, 0.5 * (rest + rest.T)


def _fitted_network(plate: PlateShape, key: Array, steps: int = 3000) -> dict[str, Array]:
    """Weights that reproduce Laplace's conditionals as smooth functions of the angle, by least squares."""
    inputs, outputs = plate.features.shape[1], plate.targets.shape[1]
    first, second = jax.random.split(key)
    weights = {
        "w1": jax.random.normal(first, (inputs, HIDDEN)) / np.sqrt(inputs),
        "b1": jnp.zeros(HIDDEN),
        "w2": jax.random.normal(second, (HIDDEN, outputs)) * 0.1 / np.sqrt(HIDDEN),
        "b2": jnp.zeros(outputs),
    }
    wanted = (plate.targets - plate.targets.mean(axis=0)) / plate.unit
    return _least_squares(weights, jnp.asarray(plate.features), jnp.asarray(wanted), steps)


@partial(jax.jit, static_argnums=3)
def _least_squares(weights, features, wanted, steps):
    optimiser = optax.adam(optax.cosine_decay_schedule(0.02, steps))

    @jax.grad
    def slope(w):
        return jnp.mean((_network(w, features) - wanted) ** 2)

    def step(_, carry):
        w, state = carry
        update, state = optimiser.update(slope(w), state)
        return optax.apply_updates(w, update), state

    weights = jax.lax.fori_loop(0, steps, step, (weights, optimiser.init(weights)))[0]
    # The last layer is linear: its best weights, held to moderate size, follow directly.
    hidden = jnp.tanh(features @ weights["w1"] + weights["b1"])
    inputs = jnp.concatenate([hidden, jnp.ones((len(hidden), 1))], axis=1)
    normal = inputs.T @ inputs + 1e-4 * jnp.eye(inputs.shape[1])
    last = jnp.concatenate([weights["w2"], weights["b2"][None]])
    last = last + jnp.linalg.solve(normal, inputs.T @ (wanted - inputs @ last))
    return {**weights, "w2": last[:-1], "b2": last[-1]}
