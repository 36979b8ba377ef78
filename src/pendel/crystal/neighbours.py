"""Pairs of points of a crystal that are close to each other, found without comparing all with all."""

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial import KDTree

from pendel.base import Array
from pendel.crystal.symmetry import lattice_distance

WHOLE_CELL = 0.87  # no two points of a unit cube with periodic walls are further apart


def close_pairs(
    points: Float[Array, "points 3"], others: Float[Array, "others 3"], direct: Float[Array, "3 3"], distance: float
) -> tuple[Int[Array, " pairs"], Int[Array, " pairs"]]:
    """Rows of `points` and of `others` (fractional) that are less than a distance [Å] apart, by rows.

    Lattice translations are removed as in `lattice_distance`. direct: matrix with columns a, b, c [Å].
    """
    points, others = np.asarray(points), np.asarray(others)
    reach = distance * float(np.linalg.norm(np.linalg.inv(np.asarray(direct)), 2))
    near = KDTree(_wrapped(others), boxsize=1.0).query_ball_point(_wrapped(points), min(reach, WHOLE_CELL))
    first = np.repeat(np.arange(len(points)), [len(rows) for rows in near])
    second = np.concatenate([np.sort(rows) for rows in near]).astype(int)
    close = lattice_distance(others[second] - points[first], direct) < distance
    return first[close], second[close]


def _wrapped(fract: Float[Array, "points 3"]) -> Float[Array, "points 3"]:
    """Positions in 0 <= x < 1."""
    inside = np.mod(fract, 1.0)
    return np.where(inside >= 1.0, 0.0, inside)
