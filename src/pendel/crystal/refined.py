"""A refined structure: a crystal and how certain its numbers are."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from pendel.base import Array
from pendel.crystal.structure import Crystal


@dataclass(frozen=True, kw_only=True)
class Refined:
    """The refined structure and the standard uncertainties of its numbers; zero where symmetry fixes them."""

    crystal: Crystal
    fract_su: Float[Array, "sites 3"]
    u_aniso_su: Float[Array, "sites 3 3"]  # Å²
    u_equivalent_su: Float[Array, "sites"]  # Å²
    occupancy_su: Float[Array, "sites"]


def unrefined(crystal: Crystal) -> Refined:
    """A structure of which no number has an uncertainty."""
    sites = len(crystal.labels)
    return Refined(
        crystal=crystal,
        fract_su=np.zeros((sites, 3)),
        u_aniso_su=np.zeros((sites, 3, 3)),
        u_equivalent_su=np.zeros(sites),
        occupancy_su=np.zeros(sites),
    )
