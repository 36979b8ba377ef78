"""Larger moves of single frames out of a local maximum, all frames at once.

Fringes give a frame several maxima along its tilts. Given the globals, frames are independent but for their smooth
prior, so one trial with the same move in every frame is one trial for each of them, and each keeps the best it saw.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from numpyro import handlers

from pendel.constants import Array
from pendel.infer.layout import Layout

LEAST_GAIN = 1.0  # in log density, for a frame to move


def moved_frames(
    layout: Layout,
    z: Float[Array, " n"],
    moves: Sequence[Mapping[str, Array]],
    density: Callable[[Array], dict[str, Array]],
    settle: Callable[[Array], Array],
) -> Float[Array, " n"]:
    """z with every frame at the best of the moves tried from z, or where it was.

    Args:
        moves: by frame site, what is added to its unconstrained value in every frame.
        density: log density of the frames of every plate, see `frame_log_density`.
        settle: moves cheap parameters to their maximum.
    """
    best = np.array(z)
    record = {plate: np.asarray(value) + LEAST_GAIN for plate, value in density(z).items()}
    for move in moves:
        values = layout.split(jnp.asarray(z))
        shifted = {site: values[site] + change for site, change in move.items() if site in values}
        trial = settle(layout.join({**values, **shifted}))
        for plate, value in density(trial).items():
            better = np.nan_to_num(np.asarray(value), nan=-np.inf) > record[plate]
            offset, frames, width = layout.plates[plate]
            block = slice(offset, offset + frames * width)
            new, old = np.asarray(trial)[block].reshape(frames, width), best[block].reshape(frames, width)
            best[block] = np.where(better[:, None], new, old).ravel()
            record[plate] = np.where(better, np.asarray(value), record[plate])
    return settle(jnp.asarray(best))


def frame_log_density(
    model: Callable, layout: Layout, z: Float[Array, " n"], fixed: Mapping[str, Array], data: tuple
) -> dict[str, Float[Array, " frames"]]:
    """Log likelihood of every frame's observations and log prior of its independent parameters, by plate.

    Args:
        fixed: spreads; data: the model's (args, kwargs).
    """
    values: Any = {**fixed, **layout.constrain_values(layout.split(z))}
    trace = handlers.trace(handlers.substitute(model, data=values)).get_trace(*data[0], **data[1])
    total = {plate: jnp.zeros(frames) for plate, (_, frames, _) in layout.plates.items()}
    for name, plate, frame in layout.observations:
        site = trace[name]
        total[plate] = total[plate].at[jnp.asarray(frame)].add(site["fn"].log_prob(site["value"]))
    for site in layout.sites:
        if site.plate is not None and not site.profile:
            total[site.plate] = total[site.plate] + trace[site.name]["fn"].log_prob(trace[site.name]["value"])
    return jax.tree.map(jnp.asarray, total)
