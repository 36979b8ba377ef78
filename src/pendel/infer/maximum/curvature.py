"""Second derivatives of a function of z, such as the log prior, whose parts meet through the globals only.

As the parts do not meet, one Hessian-vector product takes a tangent of every part at once: the whole arrow costs
(globals + elements of the largest part) products, however many parts there are.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from pendel.base import Array
from pendel.infer.families import ANY, family_of
from pendel.infer.maximum.arrow import Arrow, part_places, split_parts
from pendel.infer.target import Data, Target, Values, unmasked

TOGETHER = 32  # products that are made in one pass; more take memory and save no time


def arrow_hessian(
    function: Callable[[Array], Array], z: Float[Array, " n"], count: int, sizes: tuple[int, ...]
) -> Arrow:
    """Hessian of a scalar function whose first `count` elements are globals."""
    product = jax.linearize(jax.grad(function), z)[1]

    def along(places):
        return split_parts(product(jnp.zeros_like(z).at[places].set(1.0, mode="drop")), count, sizes)

    if not sum(sizes):  # nothing but globals; a map has no empty results
        shared = jax.lax.map(lambda place: along(place)[0], jnp.arange(count), batch_size=TOGETHER)
        return Arrow(shared, jnp.zeros((len(sizes), 0, count)), jnp.zeros((len(sizes), 0, 0)), sizes)
    shared, border = jax.lax.map(along, jnp.arange(count), batch_size=TOGETHER)
    blocks = jax.lax.map(along, jnp.asarray(part_places(count, sizes)).T, batch_size=TOGETHER)[1]
    return Arrow(shared, jnp.moveaxis(border, 0, 2), jnp.moveaxis(blocks, 0, 2), sizes)


def prior_curvature(
    target: Target, z: Float[Array, " n"], spreads: Values, sizes: tuple[int, ...], data: Data | None = None
) -> Arrow:
    """Curvature of minus the log prior: that of the priors, and the Fisher information of what is observed.

    A restraint is an observation of a distance, say. Far from its target the second derivative of its density is
    negative along some directions, and a matrix with it is no metric; its information on the parameters, J^T F J, never
    is, as for measurements. Exact second derivatives are taken of everything else, a `numpyro.factor` among it.
    """
    layout = target.layout

    def bowl(x):
        values = layout.split(x)
        sites = target.prior_sites(values, spreads, data)
        return sum(map(_bent, sites.values()), -target.full.log_det_jacobian(values))

    return arrow_hessian(bowl, z, layout.globals, sizes)


def _bent(site: Mapping[str, Any]) -> Float[Array, ""]:
    """A scalar whose second derivatives are the curvature of a site of the prior; nothing else of it is used."""
    fn, mask = unmasked(site["fn"])
    family = family_of(fn)
    if not site["is_observed"] or fn.event_dim or family is ANY:
        return -jnp.sum(site["fn"].log_prob(site["value"]))
    parameters = family.parameters(fn, site["value"]).reshape(family.rows, -1)
    here = jax.lax.stop_gradient(parameters)
    used = jnp.broadcast_to(jnp.asarray(mask, dtype=float), jnp.shape(site["value"])).ravel()
    away = parameters - here  # zero, so that the curvature of the parameters themselves does not count
    return 0.5 * jnp.einsum("im,ijm,jm,m->", away, family.information(parameters), away, used)


def part_sizes(target: Target) -> tuple[int, ...]:
    """Elements of z in every part: a plate of frames each, or all plates together where the prior couples some."""
    layout = target.layout
    sizes = tuple(frames * width for _, frames, width in layout.plates.values() if width)
    if len(sizes) < 2:
        return sizes
    part = np.repeat(np.arange(len(sizes)), sizes)
    noise = 0.1 * np.random.default_rng(0).standard_normal((2, layout.size))

    @jax.jit
    def meet(data):
        slope = jax.grad(lambda z: target.log_prior(layout.split(z), target.spreads, data))
        product = jax.linearize(slope, jnp.asarray(noise[0]))[1]

        def one(number):
            tangent = jnp.zeros(layout.size).at[layout.globals :].set(noise[1, layout.globals :] * (part == number))
            return jnp.any((product(tangent)[layout.globals :] != 0) & (part != number))

        return jnp.any(jax.lax.map(one, jnp.arange(len(sizes))))

    return (sum(sizes),) if bool(meet(target.data)) else sizes
