"""Second derivatives of a function of z, such as the log prior, whose parts meet through the globals only.

As the parts do not meet, one Hessian-vector product takes a tangent of every part at once: the whole arrow costs
(globals + elements of the largest part) products, however many parts there are.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from pendel.base import Array
from pendel.infer.maximum.arrow import Arrow, part_places, split_parts
from pendel.infer.target import Target

TOGETHER = 32  # products that are made in one pass; more take memory and save no time


def arrow_hessian(
    function: Callable[[Array], Array], z: Float[Array, " n"], count: int, sizes: tuple[int, ...]
) -> Arrow:
    """Hessian of a scalar function whose first `count` elements are globals."""
    product = jax.linearize(jax.grad(function), z)[1]

    def along(places):
        return split_parts(product(jnp.zeros_like(z).at[places].set(1.0, mode="drop")), count, sizes)

    shared, border = jax.lax.map(along, jnp.arange(count), batch_size=TOGETHER)
    blocks = jax.lax.map(along, jnp.asarray(part_places(count, sizes)).T, batch_size=TOGETHER)[1]
    return Arrow(shared, jnp.moveaxis(border, 0, 2), jnp.moveaxis(blocks, 0, 2), sizes)


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
