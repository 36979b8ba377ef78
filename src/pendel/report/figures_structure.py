"""Pictures of the cell with displacement ellipsoids."""

import numpy as np
from jaxtyping import Float
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse

from pendel.base import Array
from pendel.crystal.cell import direct_matrix
from pendel.crystal.molecules import never_together, whole_molecules
from pendel.crystal.structure import Crystal, expanded_atoms
from pendel.report.style import BLUE, GREEN, INK, MUTED, ORANGE, axes

PROBABILITY_HALF = 1.5382  # radius, in standard deviations, of the ellipsoid that holds an atom half of the time
BORDER = 0.02  # fractional; atoms this near a face are drawn on both
HYDROGEN = 0.24  # Å, diameter of the circle that stands for a hydrogen: its ellipsoid would hide others
COLOURS = (BLUE, ORANGE, GREEN, MUTED, INK)


def cell_picture(crystal: Crystal, along: int, bonded: dict[frozenset[str], float]) -> Figure:
    """The cell seen along axis `along` (0, 1, 2), with 50 % ellipsoids, small circles for hydrogen, and bonds.

    Args:
        bonded: longest bond [Å] between two elements.
    """
    direct = direct_matrix(crystal.cell)
    across = _view(np.asarray(direct), along)
    atom, position, tensor = _drawn_atoms(crystal)
    site = np.asarray(crystal.atom_site)[atom]
    flat = position @ direct.T @ across.T
    depth = position @ direct.T @ np.cross(*across)
    figure, ax = axes(height=4.0)
    _draw_cell(ax, direct, across, along)
    _draw_bonds(ax, crystal, atom, position @ direct.T, flat, bonded)
    elements = list(dict.fromkeys(crystal.elements))
    for row in np.argsort(depth):
        element = crystal.elements[site[row]]
        colour = COLOURS[elements.index(element) % len(COLOURS)]
        value, vector = np.linalg.eigh(across @ tensor[row] @ across.T)
        width, height = 2 * PROBABILITY_HALF * np.sqrt(np.maximum(value, 0))
        angle = np.degrees(np.arctan2(vector[1, 0], vector[0, 0]))
        if element == "H":
            width = height = HYDROGEN
        ax.add_patch(
            Ellipse(tuple(flat[row]), width, height, angle=angle, facecolor=colour, edgecolor=INK, linewidth=0.6)
        )
    for element in elements:
        colour = COLOURS[elements.index(element) % len(COLOURS)]
        ax.plot([], [], "o", color=colour, label=element, markersize=6)
    ax.legend(loc="lower center", ncols=len(elements), bbox_to_anchor=(0.5, 1.0))
    ax.set_aspect("equal")
    ax.set_axis_off()
    ax.margins(0.06)
    ax.autoscale_view()
    return figure


def _view(direct: Float[np.ndarray, "3 3"], along: int) -> Float[np.ndarray, "2 3"]:
    """Two unit vectors across the view along an axis: the next axis, made perpendicular, points to the right."""
    forward = direct[:, along] / np.linalg.norm(direct[:, along])
    right = direct[:, (along + 1) % 3]
    right = right - forward * (right @ forward)
    right = right / np.linalg.norm(right)
    return np.array([right, np.cross(forward, right)])


def _drawn_atoms(crystal: Crystal) -> tuple[np.ndarray, Float[np.ndarray, "atoms 3"], Float[np.ndarray, "atoms 3 3"]]:
    """Number, fractional position and Cartesian tensor [Å²] of all atoms of the cell; molecules are whole.

    Atoms of frameworks on a face are drawn twice.
    """
    _, star, _ = expanded_atoms(crystal, crystal.fract, crystal.u_aniso, crystal.occupancy)
    fract, is_molecule = whole_molecules(crystal)
    direct = direct_matrix(crystal.cell)
    tensor = direct @ np.asarray(star) @ direct.T
    numbers, position, tensors = [], [], []
    for moved in np.ndindex(3, 3, 3):
        copy = fract + np.array(moved) - 1
        inside = np.all((copy > -BORDER) & (copy < 1 + BORDER), axis=1)
        inside = np.where(is_molecule, moved == (1, 1, 1), inside)
        numbers.append(np.flatnonzero(inside))
        position.append(copy[inside])
        tensors.append(tensor[inside])
    return np.concatenate(numbers), np.concatenate(position), np.concatenate(tensors)


def _draw_cell(ax, direct: Array, across: Array, along: int) -> None:
    corners = np.array(list(np.ndindex(2, 2, 2)), dtype=float)
    lines = [
        (start @ direct.T @ across.T, end @ direct.T @ across.T)
        for i, start in enumerate(corners)
        for end in corners[i + 1 :]
        if np.sum(np.abs(start - end)) == 1
    ]
    ax.add_collection(LineCollection(lines, colors=MUTED, linewidths=0.8))
    for axis in range(3):
        if axis != along:
            x, y = 1.09 * across @ direct[:, axis]
            ax.plot(x, y, alpha=0)  # makes room
            ax.text(x, y, "abc"[axis], ha="center", va="center", color=MUTED)


def _draw_bonds(ax, crystal: Crystal, atom, cartesian, flat, bonded: dict[frozenset[str], float]) -> None:
    distance = np.linalg.norm(cartesian[:, None] - cartesian[None], axis=-1)
    site, apart = np.asarray(crystal.atom_site)[atom], never_together(crystal)[np.ix_(atom, atom)]
    lines = []
    for i, j in zip(*np.triu_indices(len(site), 1), strict=True):
        longest = bonded.get(frozenset((crystal.elements[site[i]], crystal.elements[site[j]])), 0.0)
        if 0.1 < distance[i, j] < longest + 0.02 and not apart[i, j]:
            lines.append((flat[i], flat[j]))
    ax.add_collection(LineCollection(lines, colors=INK, linewidths=1.0, alpha=0.5))
