"""Thickness of every frame as a curve along the goniometer angle: the prior that the shipped models share.

    log T ~ GP(log_thickness_mean, thickness_spread, 20 deg) + Normal(0, thickness_jump)

T is the largest thickness in a frame. What is thinner within the lit area is a shape: `taper`, t = T x^k with x uniform
in (0, 1) and a second curve log k ~ GP(log_taper_mean, taper_spread, 20 deg) + Normal(0, taper_jump); `step`, two
terraces of that shape, the lower one step_height ~ Beta(2, 2) times as thick, whose areas have log odds on a third
curve; or one without a parameter, `single` (a slab), `wedge`, `lens`, `cylinder`. The jumps are there because the beam
does not light the same part of the crystal in every frame.
"""

from typing import Any

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jaxtyping import Float

from pendel.base import Array, InputError
from pendel.simulate.thickness import cylinder, lens, matern_covariance, runout, single, stepped, tapered

LENGTH_DEG = 20.0  # the profile of a crystal in a rotation series changes over tens of degrees
CURVED = ("taper", "step")
SHAPES = {"single": single, "wedge": runout, "lens": lens, "cylinder": cylinder}


def sample_thickness(
    kind: str, alpha: Float[Array, " frames"], frames: str, suffix: str = ""
) -> tuple[Float[Array, "frames nodes"], Float[Array, "frames nodes"]]:
    """Nodes [Å] and weights of every frame's thickness distribution, drawn from its prior in a NumPyro model.

    Sites: log_thickness, log_thickness_mean, thickness_spread, thickness_jump; for `taper` and `step` the same of the
    taper; for `step` those of the odds, and step_height; derived: thickness and thickness_width, mean and standard
    deviation in a frame [Å].

    Args:
        kind: a name in CURVED or SHAPES.
        alpha: goniometer angle of the frames [deg].
        frames: name of the plate of frames.
        suffix: of the data set's sites.

    Raises InputError for another kind.
    """
    if kind not in (*CURVED, *SHAPES):
        expected = ", ".join((*CURVED, *SHAPES))
        raise InputError(found=f"unknown thickness {kind!r}", expected=expected, do="change --thickness")
    # Crystals for 3D-ED are 10-500 nm thick; neighbouring frames differ by some percent.
    log_thickness = _curve("thickness", alpha, frames, suffix, mean=800.0, spread=(0.3, 0.15), jump=(0.2, 0.1))
    if kind in CURVED:
        log_taper = _curve("taper", alpha, frames, suffix, mean=0.4, spread=(0.5, 0.3), jump=(0.3, 0.15))
    if kind == "taper":
        nodes, weights = tapered(log_thickness, log_taper)
    elif kind == "step":
        height: Any = numpyro.sample(f"step_height{suffix}", dist.Beta(2.0, 2.0))
        log_odds = _curve("odds", alpha, frames, suffix, mean=1.0, spread=(1.0, 0.5), jump=(0.5, 0.25))
        nodes, weights = stepped(log_thickness, log_taper, log_odds, height)
    else:
        nodes, weights = SHAPES[kind](log_thickness)
    mean = jnp.sum(weights * nodes, axis=1)
    variance = jnp.sum(weights * (nodes - mean[:, None]) ** 2, axis=1)
    numpyro.deterministic(f"thickness{suffix}", mean)
    numpyro.deterministic(f"thickness_width{suffix}", jnp.sqrt(jnp.maximum(variance, 1e-12)))
    return nodes, weights


def _curve(name, alpha, frames, suffix, *, mean, spread, jump) -> Any:
    """A smooth curve and jumps around it; both spreads are given as (scale of the prior, where MAP starts)."""
    centre = numpyro.sample(f"log_{name}_mean{suffix}", dist.Normal(jnp.log(mean), 0.8))
    smooth: Any = numpyro.sample(
        f"{name}_spread{suffix}", dist.HalfNormal(spread[0]), infer={"fixed_in_map": spread[1]}
    )
    rough: Any = numpyro.sample(f"{name}_jump{suffix}", dist.HalfNormal(jump[0]), infer={"fixed_in_map": jump[1]})
    covariance = matern_covariance(alpha, smooth, LENGTH_DEG, rough)
    return numpyro.sample(f"log_{name}{suffix}", dist.MultivariateNormal(centre, covariance), infer={"plate": frames})
