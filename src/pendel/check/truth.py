"""The embedded example: a synthetic quartz experiment whose truth is known."""

import numpy as np
from jaxtyping import Float

from pendel.base import Array
from pendel.crystal.cell import u_from_cartesian
from pendel.crystal.structure import Crystal
from pendel.datasets import Example
from pendel.files.cif import read_crystal
from pendel.folder.structure_group import Refined

TENSOR = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))  # U_11 U_22 U_33 U_23 U_13 U_12


def demo_rows(files: Example, refined: Refined) -> list[tuple[str, float, float, float, float]]:
    """(name, truth, start, refined, su) of every free coordinate and every free U_ij [Å²]."""
    truth, start = read_crystal(files.data), read_crystal(files.structure)
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
    """Axes whose coordinates determine the others of a site."""
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
