"""Hydrogen that rides on its parent atom: groups of known geometry, distances of nuclei, clouds beside nuclei.

Electrons see the nucleus and the electron cloud of hydrogen, and in a bond the cloud is shifted towards the parent.
`fract` of a hydrogen site is its nucleus; `Crystal.cloud` is the shift of the cloud.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from pendel.base import Array
from pendel.crystal.atom import Atom

# Distances [Å] of hydrogen nuclei from their parents and standard deviations, from neutron diffraction.
# Source: monomer library of CCP4 (Nicholls et al. 2021, Acta Cryst. D77, 727), nuclear distances by atom type.
NUCLEAR_DISTANCES = {
    "C(sp3)-H": (1.089, 0.010),
    "C(sp2)-H": (1.082, 0.013),
    "N(+)-H": (1.036, 0.016),
    "N-H": (1.016, 0.010),
    "O-H": (0.970, 0.012),
    "S-H": (1.338, 0.010),
}
CLOUD_SHIFT = (0.12, 0.03)  # Å, mean and standard deviation of the distance from nucleus to cloud, towards the parent
U_FACTORS = (1.2, 1.5)  # U_H over U_eq of the parent; 1.5 where the group can turn
FREE_SD = 0.1  # Å, of the distance of a free hydrogen from its parent


@dataclass(frozen=True, kw_only=True)
class HydrogenGroup:
    """Hydrogen sites on one parent. Riding, they are a rigid body in axes that the neighbours of the parent define.

    `axes_from`: atoms bonded to the parent; of one alone, `beyond` (bonded to it) or `reference` (a Cartesian
    direction) fixes the torsion. `directions`: unit vectors to the hydrogens in these axes. `turns`: number of angles
    that are free: 0, 1 (torsion about z), or 3 (a group without neighbours).
    """

    kind: str  # methyl, hydroxyl, ...
    bond: str  # key of NUCLEAR_DISTANCES
    parent: Atom
    hydrogens: tuple[int, ...]
    rides: bool
    axes_from: tuple[Atom, ...] = ()
    beyond: Atom | None = None
    reference: tuple[float, float, float] = (0.0, 0.0, 1.0)
    directions: tuple[tuple[float, float, float], ...] = ()
    turns: int = 0

    @property
    def u_factor(self) -> float:
        """Typical U_H over U_eq of the parent."""
        return U_FACTORS[1] if self.turns or self.kind in ("methyl", "hydroxyl", "water") else U_FACTORS[0]

    @property
    def widest_turn(self) -> float:
        """Half of the range of the torsion [rad]: after a third of a full turn a methyl group is itself again."""
        return np.pi / len(self.hydrogens) if self.kind in ("methyl", "ammonium") else np.pi


def local_axes(
    parent: Float[Array, "3"],
    neighbours: Float[Array, "neighbours 3"],
    reference: Float[Array, "3"],
) -> Float[Array, "3 3"]:
    """Axes of a group as columns: z away from the neighbours, x in the direction of the reference, across z.

    z = -sum_i u_i / |sum_i u_i| over the unit vectors u_i to the neighbours; with two of them or more the reference
    is u_1 x u_2. Without neighbours the Cartesian axes.
    """
    if len(neighbours) == 0:
        return jnp.eye(3)
    units = neighbours - parent
    units = units / jnp.linalg.norm(units, axis=1, keepdims=True)
    z = _unit(-jnp.sum(units, axis=0))
    across = jnp.cross(units[0], units[1]) if len(neighbours) > 1 else reference
    x = _unit(across - (across @ z) * z)
    return jnp.stack([x, jnp.cross(z, x), z], axis=1)


def turned(directions: Float[Array, "hydrogens 3"], angles: Float[Array, " turns"]) -> Float[Array, "hydrogens 3"]:
    """Directions after a turn by an angle about z, or by a rotation vector (three angles) [rad]."""
    if len(angles) == 0:
        return directions
    vector = angles if len(angles) == 3 else jnp.concatenate([jnp.zeros(2), angles])
    x, y, z = vector
    generator = jnp.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]) * z
    generator += jnp.array([[0.0, 0.0, 1.0], [0.0, 0.0, 0.0], [-1.0, 0.0, 0.0]]) * y
    generator += jnp.array([[0.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]]) * x
    return directions @ jax.scipy.linalg.expm(generator).T


def _unit(vector: Float[Array, "3"]) -> Float[Array, "3"]:
    return vector / jnp.linalg.norm(vector)
