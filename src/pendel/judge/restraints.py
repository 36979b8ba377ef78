"""Restraints after a fit: where the draws are against the target, and whether the restraint or the data decided."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from pendel.base import Array
from pendel.crystal.residuals import residuals
from pendel.crystal.restraints import Distance, Restraint, atoms_of
from pendel.crystal.structure import Crystal

BY_DATA, BY_RESTRAINT = 0.5, 0.9  # sd of the draws over s; below, the data decide, above, the restraint


def restraint_facts(
    crystal: Crystal, fract: Float[Array, "draws sites 3"], u_aniso: Float[Array, "draws sites 3 3"]
) -> list[dict[str, Any]]:
    """Facts of every restraint of a crystal over posterior draws, of distances one entry for each pair of atoms.

    `misfit`: root mean square of x / s, x the mean of a number that is near zero. `spread`: root mean square of its
    standard deviation over s: 1 where the data say nothing, and near 0 where they say everything. Distances have
    `target`, `s`, `mean` and `sd` [Å], too.
    """
    found = []
    for restraint in crystal.restraints:
        plain = dataclasses.replace(restraint, at_least=False) if isinstance(restraint, Distance) else restraint
        x, s = _draws(crystal, plain, fract, u_aniso)
        mean, sd = x.mean(axis=0), x.std(axis=0, ddof=1)
        found += list(_facts(crystal, restraint, np.stack([mean, sd, s])))
    return found


def decided_by(spread: float) -> str:
    """In a word, who decided: restraint, data or both."""
    return "data" if spread < BY_DATA else "restraint" if spread > BY_RESTRAINT else "both"


def _draws(
    crystal: Crystal,
    restraint: Restraint,
    fract: Float[Array, "draws sites 3"],
    u_aniso: Float[Array, "draws sites 3 3"],
) -> tuple[Float[Array, "draws values"], Float[Array, " values"]]:
    """x [draws values] and s [values]."""

    def values(positions: Array, tensors: Array) -> Array:
        return residuals(dataclasses.replace(crystal, fract=positions, u_aniso=tensors), restraint)[0]

    of_draws = jax.lax.map(lambda both: values(*both), (jnp.asarray(fract), jnp.asarray(u_aniso)))
    return np.asarray(of_draws), np.asarray(residuals(crystal, restraint)[1])


def _facts(crystal: Crystal, restraint: Restraint, numbers: Float[Array, "3 values"]) -> Iterator[dict[str, Any]]:
    labels = [crystal.labels[atom.site] for atom in atoms_of(restraint)]
    mean, sd, s = numbers
    if isinstance(restraint, Distance):
        for row in range(len(mean)):
            misfit = min(mean[row], 0.0) if restraint.at_least else mean[row]
            yield {
                **{"card": restraint.card, "atoms": " ".join(labels[2 * row : 2 * row + 2])},
                **{"target": restraint.distance, "at_least": restraint.at_least, "s": s[row]},
                **{"mean": restraint.distance + mean[row], "sd": sd[row]},
                **{"misfit": abs(misfit) / s[row], "spread": sd[row] / s[row]},
            }
        return
    rms = [float(np.sqrt(np.mean((values / s) ** 2))) for values in (mean, sd)]
    yield {"card": restraint.card, "atoms": " ".join(dict.fromkeys(labels)), "misfit": rms[0], "spread": rms[1]}
