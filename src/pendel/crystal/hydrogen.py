"""Hydrogen that rides on its parent atom: groups of known geometry, distances of nuclei, clouds beside nuclei.

Electrons see the nucleus and the electron cloud of hydrogen, and in a bond the cloud is shifted towards the parent.
`fract` of a hydrogen site is its nucleus; `Crystal.cloud` is the shift of the cloud.
"""

from dataclasses import dataclass

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
SERIES = 1e-2  # rad²; below, four terms of the series of a rotation are exact
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
    """Directions after a turn by an angle about z, or by a rotation vector (three angles) [rad].

    R d = d + a v x d + b v x (v x d),   a = sin t / t, b = (1 - cos t) / t^2, t = |v|    (Rodrigues)
    """
    if len(angles) == 0:
        return directions
    if len(angles) == 1:
        x, y, z = directions.T
        sine, cosine = jnp.sin(angles[0]), jnp.cos(angles[0])
        return jnp.stack([cosine * x - sine * y, sine * x + cosine * y, z], axis=1)
    a, b = _rodrigues(jnp.vdot(angles, angles))
    across = jnp.cross(angles, directions)
    return directions + a * across + b * jnp.cross(angles, across)


def _rodrigues(square: Float[Array, ""]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """sin t / t and (1 - cos t) / t^2 of t^2, smooth at zero, where series take their place."""
    is_small = square < SERIES
    safe = jnp.where(is_small, 1.0, square)
    t = jnp.sqrt(safe)
    a = jnp.where(is_small, 1 - square / 6 + square**2 / 120 - square**3 / 5040, jnp.sin(t) / t)
    b = jnp.where(is_small, 1 / 2 - square / 24 + square**2 / 720 - square**3 / 40320, (1 - jnp.cos(t)) / safe)
    return a, b


def _unit(vector: Float[Array, "3"]) -> Float[Array, "3"]:
    return vector / jnp.linalg.norm(vector)
