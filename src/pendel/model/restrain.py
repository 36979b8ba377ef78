"""Restraints as priors: what is known of distances and displacement tensors, as observed sites without a frame."""

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist

from pendel.crystal.residuals import residuals
from pendel.crystal.structure import Crystal


def restrain(structure: Crystal) -> None:
    """Multiply the prior by the density of every restraint that the structure carries; nothing without restraints.

        x_i ~ Normal(0, s_i),  x_i and s_i of `pendel.crystal.residuals`

    One observed site for each restraint, named after its card and its place in the list: DFIX_1, SADI_2 ... It belongs
    to no frame, so every kind of fit counts it as prior. The standard deviations stay as they are, whereas
    least-squares programs multiply the weights of restraints by the goodness of fit.
    """
    for number, restraint in enumerate(structure.restraints, 1):
        values, deviations = residuals(structure, restraint)
        density = dist.Normal(values, deviations).to_event(1)
        numpyro.sample(f"{restraint.card}_{number}", density, obs=jnp.zeros_like(values))
