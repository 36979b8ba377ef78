"""Hydrogen sites from their parents: positions of riding groups, U_H from U_eq, clouds beside nuclei."""

import dataclasses
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from pendel.base import Array
from pendel.crystal.cell import u_from_cartesian
from pendel.crystal.hydrogen import HydrogenGroup, local_axes, turned
from pendel.crystal.residuals import atom_positions, atom_tensors
from pendel.crystal.structure import Crystal, direct_matrix


def with_riding(
    structure: Crystal, distances: Mapping[str, Float[Array, ""] | float], angles: Sequence[Float[Array, "..."]] = ()
) -> Crystal:
    """The structure with its riding hydrogens where parents and neighbours put them.

        x_H = x_parent + D A R(angles) d,   A the axes of the group, d the direction of the hydrogen in them

    Args:
        structure: differentiable in the positions of all other sites.
        distances: D [Å] by kind of bond.
        angles: of every group that turns, in their order [rad]; none where they are all zero.
    """
    fract, turning = jnp.asarray(structure.fract), iter(angles)
    inverse = np.linalg.inv(direct_matrix(structure.cell))
    for group in structure.hydrogen:
        if group.rides:
            turn = next(turning, np.zeros(group.turns)) if group.turns else np.zeros(0)
            positions = hydrogen_positions(structure, group, distances[group.bond], turn)
            fract = fract.at[np.array(group.hydrogens)].set(positions @ inverse.T)
    return dataclasses.replace(structure, fract=fract)


def hydrogen_positions(
    structure: Crystal,
    group: HydrogenGroup,
    distance: Float[Array, ""] | float,
    angles: Float[Array, " turns"],
) -> Float[Array, "hydrogens 3"]:
    """Cartesian positions [Å] of the hydrogens of a riding group."""
    parent = atom_positions(structure, [group.parent])[0]
    directions = turned(jnp.asarray(group.directions), angles)
    return parent + distance * directions @ group_axes(structure, group).T


def group_axes(structure: Crystal, group: HydrogenGroup) -> Float[Array, "3 3"]:
    """The axes of a group as columns."""
    parent = atom_positions(structure, [group.parent])[0]
    neighbours = atom_positions(structure, group.axes_from)
    reference = jnp.asarray(group.reference)
    if group.beyond is not None:
        reference = atom_positions(structure, [group.beyond])[0] - neighbours[0]
    return local_axes(parent, neighbours, reference)


def with_tied_tensors(structure: Crystal, factors: Mapping[float, Float[Array, ""] | float]) -> Crystal:
    """The structure with spheres U_H = k U_eq(parent) for all hydrogens of its groups.

    factors: k by the typical value of the group, `HydrogenGroup.u_factor`.
    """
    tensors = jnp.asarray(structure.u_aniso)
    sphere = jnp.asarray(u_from_cartesian(np.eye(3), structure.cell))
    for group in structure.hydrogen:
        equivalent = jnp.trace(atom_tensors(structure, [group.parent])[0]) / 3
        tensors = tensors.at[np.array(group.hydrogens)].set(factors[group.u_factor] * equivalent * sphere)
    return dataclasses.replace(structure, u_aniso=tensors)


def with_clouds(structure: Crystal, shift: Float[Array, ""] | float) -> Crystal:
    """The structure with the clouds of the hydrogens of its groups shifted [Å] towards their parents."""
    clouds = jnp.zeros((len(structure.labels), 3))
    direct = direct_matrix(structure.cell)
    for group in structure.hydrogen:
        sites = np.array(group.hydrogens)
        nuclei = jnp.asarray(structure.fract)[sites] @ direct.T
        towards = atom_positions(structure, [group.parent]) - nuclei
        towards = towards / jnp.linalg.norm(towards, axis=1, keepdims=True)
        clouds = clouds.at[sites].set(shift * towards @ np.linalg.inv(direct).T)
    return dataclasses.replace(structure, cloud=clouds)
