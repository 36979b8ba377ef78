"""The embedded example: a synthetic quartz experiment whose truth is known."""

from pathlib import Path

import numpy as np
from jaxtyping import Float

from pendel.base import Array
from pendel.crystal.cell import TENSOR, u_from_cartesian
from pendel.crystal.refined import Refined
from pendel.crystal.structure import Crystal
from pendel.files.cif import read_crystal


def demo_rows(structure: Path, data: Path, refined: Refined) -> list[tuple[str, float, float, float, float]]:
    """(name, truth, start, refined, su) of every free coordinate and every free U_ij [Å²].

    structure: the start. data: simulated measurements with the truth inside.
    """
    truth, start = read_crystal(data), read_crystal(structure)
    crystal = refined.crystal
    rows = []
    for site, label in enumerate(crystal.labels):
        for axis in free_coordinates(crystal, site):
            values = (truth.fract[site, axis], start.fract[site, axis], crystal.fract[site, axis])
            rows.append((f"{label} {'xyz'[axis]}", *map(float, values), float(refined.fract_su[site, axis])))
    for site, label in enumerate(crystal.labels):
        for i, j in free_tensor_components(crystal, site):
            values = (truth.u_aniso[site, i, j], start.u_aniso[site, i, j], crystal.u_aniso[site, i, j])
            rows.append((f"{label} U{i + 1}{j + 1}", *map(float, values), float(refined.u_aniso_su[site, i, j])))
    return rows


def free_coordinates(crystal: Crystal, site: int) -> list[int]:
    """Numbers (0, 1, 2 for x, y, z) of the coordinates that are free at a site; its symmetry gives the others."""
    return _independent(np.asarray(crystal.position_basis)[:, site])


def free_tensor_components(crystal: Crystal, site: int) -> list[tuple[int, int]]:
    """Indices of the U_ij that determine the others of a site."""
    directions = np.asarray(u_from_cartesian(np.asarray(crystal.adp_basis)[:, site], crystal.cell))
    return [TENSOR[k] for k in _independent(np.stack([directions[:, i, j] for i, j in TENSOR], axis=1))]


def _independent(directions: Float[Array, "directions components"]) -> list[int]:
    """The first components whose changes along the directions are linearly independent."""
    chosen: list[int] = []
    for component in range(directions.shape[1]):
        columns = directions[:, [*chosen, component]]
        if np.linalg.matrix_rank(columns, tol=1e-6 * max(float(np.abs(directions).max()), 1e-300)) > len(chosen):
            chosen.append(component)
    return chosen
