r"""The variational guide: Laplace's shape for the crystal, a neural network for the profile along the goniometer angle.

With log spreads s = s_0 + L_s u of the hierarchies, globals z_g, the profile x_f of frame f (thickness and its taper)
and the nuisance parameters y_f of the frame (scale, tilt), every factor is normal given those before it:

    spreads        u       = d_s + R_s eps
    globals        z_g     = m_g + L_g (d_g + G u + R_g(u) eps)
    profile        x_f     = m_f + B_f (z_g - m_g - L_g G u) + A_f (x_{f-1} - E[x_{f-1} | z_g, u]) + T_f eps_f
    frames         y_f     = m'_f + C_f (z_g - m_g - L_g G u, x_f - m_f) + L'_f (d'_f + D_f u + R'_f(u) eps'_f)

A network of the angle alone puts out m_f, A_f (the link to the neighbouring frame), T_f and B_f, and their slopes in u
(of A_f in tanh u). Where a spread is small, frames are tied together: without these slopes the guide would settle on
one value of the spreads and be too sure of the frames. The network's weights are parameters of the guide; the model
knows nothing of them. Of R_g and R'_f the diagonals follow u, C_f does not. L_g, C_f and L'_f are Laplace's; d, R start
at 0 and 1, the slopes G, D, R(u) at Laplace's, and the network is first fitted to Laplace's own conditionals, so the
guide starts as a Markov approximation of Laplace at all spreads (`pendel.infer.guide.start`).
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.scipy.linalg import solve_triangular
from jaxtyping import Float

from pendel.base import Array
from pendel.infer.layout import Layout

PLATE_ARRAYS = ("features", "profile", "nuisance", "regression", "nuisance_root", "targets", "unit")


@dataclasses.dataclass(frozen=True)
class PlateShape:
    """What Laplace says about one plate of frames, in the order of the angle."""

    name: str
    features: Float[Array, "frames features"]
    profile: Array  # elements of z [frames profile], sorted by angle
    nuisance: Array  # elements of z [frames nuisance], sorted by angle
    regression: Float[Array, "frames nuisance globals_and_profile"]
    nuisance_root: Float[Array, "frames nuisance nuisance"]
    targets: Float[Array, "frames outputs"]  # of the network: a profile's conditional, and its slopes in u
    unit: Float[Array, " outputs"]


@dataclasses.dataclass(frozen=True)
class NeuralGuide:
    """A guide for `numpyro.infer.SVI`; call it like the model."""

    layout: Layout  # of the MAP: without spreads
    full: Layout  # with spreads
    centre: Float[Array, " n"]
    global_root: Float[Array, "globals globals"]
    log_spreads: Float[Array, " spreads"]
    spread_root: Float[Array, "spreads spreads"]
    unravel_spreads: Callable  # to log spreads by site
    plates: tuple[PlateShape, ...]
    start: dict[str, Array]

    def arrays(self) -> dict[str, Any]:
        """What differs between fits of the same shapes, so that a compiled step can be given it."""
        plates = tuple({name: getattr(plate, name) for name in PLATE_ARRAYS} for plate in self.plates)
        whole = {name: getattr(self, name) for name in ("centre", "global_root", "log_spreads", "spread_root", "start")}
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
        u = parameters["spread_shift"] + _lower(parameters["spread_root"])[0] @ spread_noise
        by_spreads = self.global_root @ (parameters["global_by_spreads"] @ u)
        root = _wider(parameters["global_root"], parameters["global_root_by_spreads"] @ u)[0]
        shift = self.global_root @ (parameters["global_shift"] + root @ noise[:count])
        z = jnp.asarray(self.centre).at[:count].add(shift + by_spreads)
        for plate in self.plates:
            z = _frame_draws(plate, parameters, z, shift, u, noise)
        return z, self.log_spreads + self.spread_root @ u

    def log_density(
        self, parameters: Mapping[str, Array], z: Float[Array, " m"], spreads: Float[Array, " spreads"]
    ) -> Float[Array, ""]:
        """Of (z, log spreads): `transform` backwards, to the noise that leads there."""
        u = solve_triangular(self.spread_root, spreads - self.log_spreads, lower=True)
        root, log_diagonal = _lower(parameters["spread_root"])
        noise = solve_triangular(root, u - parameters["spread_shift"], lower=True)
        total = _normal(noise, log_diagonal) - jnp.sum(jnp.log(jnp.diag(self.spread_root)))

        count = self.layout.globals
        root, log_diagonal = _wider(parameters["global_root"], parameters["global_root_by_spreads"] @ u)
        by_spreads = parameters["global_by_spreads"] @ u
        inner = solve_triangular(self.global_root, z[:count] - jnp.asarray(self.centre)[:count], lower=True)
        shift = self.global_root @ (inner - by_spreads)
        noise = solve_triangular(root, inner - by_spreads - parameters["global_shift"], lower=True)
        total = total + _normal(noise, log_diagonal) - jnp.sum(jnp.log(jnp.diag(self.global_root)))
        for plate in self.plates:
            total = total + _frame_density(plate, parameters, z, shift, u, jnp.asarray(self.centre))
        return total

    def draws(self, parameters: Mapping[str, Array], key: Array, count: int) -> dict[str, Array]:
        """Constrained draws of all sites, on the leading axis."""
        noise = jax.random.normal(key, (count, self.layout.size + len(self.log_spreads)))
        z, spreads = jax.vmap(lambda e: self.transform(parameters, e))(noise)
        values = self.layout.constrain_many(z)
        return {**values, **jax.tree.map(jnp.exp, jax.vmap(self.unravel_spreads)(spreads))}


def _frame_draws(plate: PlateShape, parameters, z, shift, u, noise):
    """Add the draws of one plate's profile and nuisance parameters to z."""
    width = plate.profile.shape[1]
    deviation = jnp.zeros((len(plate.profile), 0))
    if width:
        weights = {k: parameters[f"{plate.name}_{k}"] for k in ("w1", "b1", "w2", "b2")}
        mean, link, root, _, by_globals = _network_outputs(plate, weights, len(shift), u)

        def step(previous, now):
            link, root, eps = now
            current = link @ previous + root @ eps
            return current, current

        _, rest = jax.lax.scan(step, jnp.zeros(width), (link, root, noise[plate.profile]))
        deviation = by_globals @ shift + rest
        z = z.at[plate.profile].set(mean + deviation)
    if plate.nuisance.shape[1]:
        known = jnp.concatenate([jnp.broadcast_to(shift, (len(deviation), len(shift))), deviation], axis=1)
        own_shift, root, _ = _nuisance(plate, parameters, u)
        inner = own_shift + jnp.einsum("fij,fj->fi", root, noise[plate.nuisance])
        drawn = jnp.einsum("fij,fj->fi", plate.regression, known) + jnp.einsum("fij,fj->fi", plate.nuisance_root, inner)
        z = z.at[plate.nuisance].add(drawn)
    return z


def _frame_density(plate: PlateShape, parameters, z, shift, u, centre):
    """Log density of one plate's profile and nuisance parameters given the globals: `_frame_draws` backwards."""
    width = plate.profile.shape[1]
    total = jnp.zeros(())
    deviation = jnp.zeros((len(plate.profile), 0))
    if width:
        weights = {k: parameters[f"{plate.name}_{k}"] for k in ("w1", "b1", "w2", "b2")}
        mean, link, root, log_diagonal, by_globals = _network_outputs(plate, weights, len(shift), u)
        deviation = z[plate.profile] - mean
        rest = deviation - by_globals @ shift
        before = jnp.concatenate([jnp.zeros((1, width)), rest[:-1]])
        step = rest - jnp.einsum("fij,fj->fi", link, before)
        total = total + _normal(_solved(root, step), log_diagonal)
    if plate.nuisance.shape[1]:
        known = jnp.concatenate([jnp.broadcast_to(shift, (len(deviation), len(shift))), deviation], axis=1)
        own_shift, root, log_diagonal = _nuisance(plate, parameters, u)
        drawn = z[plate.nuisance] - centre[plate.nuisance] - jnp.einsum("fij,fj->fi", plate.regression, known)
        inner = _solved(plate.nuisance_root, drawn) - own_shift
        diagonal = jnp.diagonal(plate.nuisance_root, axis1=1, axis2=2)
        total = total + _normal(_solved(root, inner), log_diagonal) - jnp.sum(jnp.log(diagonal))
    return total


def _normal(noise, log_scale):
    """Log density of scale * noise for standard normal noise."""
    return jnp.sum(dist.Normal(0, 1).log_prob(noise)) - jnp.sum(log_scale)


def _solved(root, right):
    """L^-1 x of every frame."""
    return solve_triangular(root, right[..., None], lower=True)[..., 0]


def _nuisance(plate: PlateShape, parameters, u):
    """Shift, Cholesky root and the log of its diagonal for every frame's nuisance parameters, in Laplace's units."""
    shift = parameters[f"{plate.name}_shift"] + parameters[f"{plate.name}_by_spreads"] @ u
    wider = parameters[f"{plate.name}_root_by_spreads"] @ u
    return shift, *_wider(parameters[f"{plate.name}_root"], wider)


def _wider(raw: Float[Array, "*batch k k"], log_factor: Float[Array, "*batch k"]):
    """`_lower` with a diagonal that is larger by exp(log_factor)."""
    return _lower(raw + log_factor[..., None] * jnp.eye(raw.shape[-1]))


def _network_outputs(plate: PlateShape, weights, count, u):
    """Mean, link, Cholesky root and dependence on the globals of every frame's profile."""
    width = plate.profile.shape[1]
    raw = network(weights, plate.features) * plate.unit + plate.targets.mean(axis=0)
    pieces = jnp.split(raw.reshape(len(raw), 1 + len(u), -1), np.cumsum([width, width**2, width**2]), axis=2)
    steps = u, jnp.tanh(u), u, u  # links far above one at small jumps would make the chain of frames explode
    mean, link, lower, by_globals = (
        piece[:, 0] + jnp.einsum("fso,s->fo", piece[:, 1:], step) for piece, step in zip(pieces, steps, strict=True)
    )
    lower, log_diagonal = _lower(lower.reshape(-1, width, width))
    return mean, link.reshape(-1, width, width), lower, log_diagonal, by_globals.reshape(-1, width, count)


def network(weights: Mapping[str, Array], features: Float[Array, "frames features"]) -> Float[Array, "frames outputs"]:
    """One hidden layer."""
    return jnp.tanh(features @ weights["w1"] + weights["b1"]) @ weights["w2"] + weights["b2"]


def _lower(raw: Float[Array, "*batch k k"]) -> tuple[Float[Array, "*batch k k"], Float[Array, "*batch k"]]:
    """Lower-triangular matrix with exp(diagonal), and the log of its diagonal."""
    log_diagonal = jnp.diagonal(raw, axis1=-2, axis2=-1)
    return jnp.tril(raw, -1) + jnp.exp(log_diagonal)[..., None] * jnp.eye(raw.shape[-1]), log_diagonal
