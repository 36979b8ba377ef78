"""The `Illumination`: what a model says about every frame, as the simulator takes it."""

import dataclasses

import jax
from jaxtyping import Float

from pendel.base import Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Illumination:
    """How the beam meets the crystal in every frame; a pytree, differentiable in all its fields.

    A further parameter of a frame, or of all frames, is a field here, used in `pendel.simulate.forward`, and a line in
    a model.
    """

    tilt: Float[Array, "frames 2"]  # small laboratory tilt about x and y [deg]
    thickness: Float[Array, "frames nodes"]  # nodes of the thickness distribution [Å]
    weights: Float[Array, "frames nodes"]  # of the nodes, summing to 1 per frame
    absorption: Float[Array, ""] | float | None = None  # strength kappa of U'; None for elastic scattering alone
    mosaicity: Float[Array, ""] | float | None = None  # standard deviation of the orientation of blocks [deg]; or none
