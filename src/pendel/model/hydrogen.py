"""Hydrogen in a model: riding groups, tied displacements, and clouds beside nuclei, with their priors."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

from pendel.base import InputError
from pendel.crystal.hydrogen import CLOUD_SHIFT, NUCLEAR_DISTANCES
from pendel.crystal.riding import with_clouds, with_riding, with_tied_tensors
from pendel.crystal.structure import Crystal

CLOUDS = ("shifted", "spherical")
TILT = 0.5  # rad, standard deviation of the angles of a group without neighbours (water)


def sample_hydrogen(structure: Crystal, clouds: str = "shifted") -> Crystal:
    """The structure with its hydrogens where they belong; unchanged without any.

        hydrogen_distance = d + hydrogen_stretch, hydrogen_stretch ~ Normal(0, s) [Å], for each kind of bond that rides
        hydrogen_torsion  ~ Uniform over all distinct angles [rad] about that of the file, of methyl and hydroxyl groups
        hydrogen_rotation ~ Normal(0, 0.5) [rad], three angles of each water molecule
        hydrogen_u_factor ~ LogNormal(log 1.2 or log 1.5, 0.2), U_H = k U_eq(parent)
        hydrogen_cloud    ~ Normal(0.12, 0.03) Å, from the nucleus to the electron cloud, towards the parent

    d and s are those of neutron diffraction. Distances, factors and the cloud are one number for all of a kind.
    The stretch is the parameter because inference evaluates the model at zero, and a distance of zero is no structure.

    Args:
        clouds: "shifted", or "spherical": the cloud is around the nucleus, and hydrogen_cloud is no parameter.

    Raises InputError for another choice.
    """
    if clouds not in CLOUDS:
        expected = " or ".join(map(repr, CLOUDS))
        raise InputError(found=f"clouds {clouds!r}", expected=expected, do="change the option of the model")
    if not structure.hydrogen:
        return structure
    groups = structure.hydrogen
    classes = sorted({group.u_factor for group in groups})
    prior = dist.LogNormal(jnp.log(jnp.array(classes)), 0.2).to_event(1)
    factors: Any = numpyro.sample("hydrogen_u_factor", prior)
    structure = with_riding(structure, _distances(structure), _angles(structure))
    structure = with_tied_tensors(structure, {value: factors[row] for row, value in enumerate(classes)})
    shift: Any = 0.0 if clouds == "spherical" else numpyro.sample("hydrogen_cloud", dist.Normal(*CLOUD_SHIFT))
    return with_clouds(structure, shift)


def _distances(structure: Crystal) -> dict[str, Any]:
    bonds = [bond for bond in NUCLEAR_DISTANCES if any(g.rides and g.bond == bond for g in structure.hydrogen)]
    if not bonds:
        return {}
    means, deviations = (jnp.array(values) for values in zip(*(NUCLEAR_DISTANCES[b] for b in bonds), strict=True))
    stretch: Any = numpyro.sample("hydrogen_stretch", dist.Normal(0, deviations).to_event(1))
    distances: Any = numpyro.deterministic("hydrogen_distance", means + stretch)
    return {bond: distances[row] for row, bond in enumerate(bonds)}


def _angles(structure: Crystal) -> list[Any]:
    """Angles of every group that turns, in their order."""
    turning = [group for group in structure.hydrogen if group.rides and group.turns]
    single = [group for group in turning if group.turns == 1]
    whole = [group for group in turning if group.turns > 1]
    torsions: Any = ()
    rotations: Any = ()
    if single:
        widest = np.array([group.widest_turn for group in single])
        torsions = numpyro.sample("hydrogen_torsion", dist.Uniform(-widest, widest).to_event(1))
    if whole:
        rotations = numpyro.sample("hydrogen_rotation", dist.Normal(0, TILT).expand([len(whole), 3]).to_event(2))
    next_torsion, next_rotation = iter(range(len(single))), iter(range(len(whole)))
    return [
        torsions[next(next_torsion)][None] if group.turns == 1 else rotations[next(next_rotation)] for group in turning
    ]
