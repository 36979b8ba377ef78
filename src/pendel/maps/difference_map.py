"""The difference potential of a dynamical fit: what the structure lacks, as a map with its peaks and sections."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy import ndimage

from pendel.base import Array
from pendel.crystal.cell import Cell
from pendel.crystal.structure import Crystal, direct_matrix, expanded_atoms
from pendel.crystal.symmetry import images, lattice_distance
from pendel.files.ccp4 import map_grid
from pendel.maps.potential_fit import ROUNDS, FittedData, fit_potential

POINTS_PER_RESOLUTION = 6  # grid points per 1 / resolution: peaks are then found to 0.01 Å
IN_PLANE = 0.4  # Å; atoms that close to a section are drawn in it


@dataclasses.dataclass(frozen=True, kw_only=True)
class Map:
    """A difference potential on a grid; positive where the structure lacks scattering power. Its mean is zero."""

    values: Float[np.ndarray, "nx ny nz"]  # V, at the fractional coordinates (i/nx, j/ny, k/nz)
    cell: Cell
    resolution: float  # Å⁻¹, of the Fourier coefficients
    rms: float  # V, over the cell
    misfit_before: float  # mean squared residual of the fit in units of its scatter, frame scales refitted
    misfit_after: float  # the same with the difference potential added, frames refitted


@dataclasses.dataclass(frozen=True, kw_only=True)
class Peak:
    """A maximum of a map, or a minimum."""

    fract: tuple[float, float, float]  # in [0, 1)
    potential: float  # V
    height: float  # potential / rms of the map
    nearest: str  # label of the closest site of the structure
    distance: float  # Å, to that site


@dataclasses.dataclass(frozen=True, kw_only=True)
class Section:
    """A plane through a map: values at centre + u first + v second, for u and v in `offset`."""

    offset: Float[np.ndarray, " points"]  # Å from the centre
    values: Float[np.ndarray, "points points"]  # V, [v u] as images are drawn
    first: Float[np.ndarray, "3"]  # Cartesian unit vectors
    second: Float[np.ndarray, "3"]
    labels: tuple[str, ...]  # sites whose atoms lie within 0.4 Å of the plane
    atoms: Float[np.ndarray, "atoms 2"]  # u and v of those atoms [Å]


def difference_map(
    crystal: Crystal, data: Sequence[FittedData], *, resolution: float | None = None, rounds: int = ROUNDS
) -> Map:
    """The difference potential [V] that explains the residuals of a dynamical fit.

        dV(r) = sum_g dV_g exp(-2 pi i h.r),    dV_g from `fit_potential`

    Args:
        crystal: the fitted structure.
        data: what the fit says about every measured crystal.
        resolution: largest |g| of the map [Å⁻¹]; that of the poorest data set when not given.
        rounds: at most, as in `fit_potential`; one costs about 70 simulations.

    Raises InputError as `fit_potential`. The potential is that of electrons at rest: no relativistic factor.
    """
    resolution = resolution or min(item.data.experiment.dstar_max for item in data)
    change = fit_potential(crystal, data, resolution=resolution, rounds=rounds)
    values = fourier_sum(crystal, change.hkl, change.coefficient, resolution)
    return Map(
        values=values,
        cell=crystal.cell,
        resolution=resolution,
        rms=float(np.sqrt(np.mean(values**2))),
        misfit_before=change.misfit_before,
        misfit_after=change.misfit_after,
    )


def fourier_sum(crystal: Crystal, hkl: Array, coefficient: Array, resolution: float) -> Float[np.ndarray, "nx ny nz"]:
    """The real sum over all hkl of coefficient exp(-2 pi i h.r), on a grid that the space group maps onto itself.

    Args:
        hkl: all reflections below the resolution [Å⁻¹], Friedel mates included.
    """
    spacing = 1 / (POINTS_PER_RESOLUTION * resolution)
    size = map_grid(crystal.cell, crystal.rotations, crystal.translations, spacing)
    grid = np.zeros(size, dtype=complex)
    grid[tuple((np.asarray(hkl) % np.array(size)).T)] = coefficient
    return np.real(np.fft.fftn(grid))


def map_peaks(difference: Map, crystal: Crystal, count: int = 10) -> tuple[Peak, ...]:
    """The highest maxima that no operation of the space group maps onto each other, at most `count`, highest first.

    A maximum is placed between grid points by a second-order expansion of the map around the highest point. Maxima
    closer than 1 / (2 g) at the resolution g are one.
    """
    values, direct = difference.values, direct_matrix(crystal.cell)
    found = np.argwhere((values == ndimage.maximum_filter(values, size=3, mode="wrap")) & (values > 0))
    atoms = np.asarray(expanded_atoms(crystal, crystal.fract, crystal.u_aniso, crystal.occupancy)[0])
    summits = [_summit(values, point) for point in found]
    peaks: list[Peak] = []
    copies: list[np.ndarray] = []
    for grid_point, potential in sorted(summits, key=lambda summit: -summit[1]):
        if len(peaks) == count:
            break
        fract = np.mod(grid_point / np.array(values.shape), 1.0)
        if any(np.min(lattice_distance(others - fract, direct)) < 0.5 / difference.resolution for others in copies):
            continue
        copies.append(np.asarray(images(fract, crystal.rotations, crystal.translations)))
        distance = lattice_distance(atoms - fract, direct)
        closest = int(np.argmin(distance))
        peaks.append(
            Peak(
                fract=(float(fract[0]), float(fract[1]), float(fract[2])),
                potential=potential,
                height=potential / difference.rms,
                nearest=crystal.labels[int(crystal.atom_site[closest])],
                distance=float(distance[closest]),
            )
        )
    return tuple(peaks)


def map_holes(difference: Map, crystal: Crystal, count: int = 10) -> tuple[Peak, ...]:
    """As `map_peaks`, the deepest minima; potential and height are negative."""
    turned = map_peaks(dataclasses.replace(difference, values=-difference.values), crystal, count)
    return tuple(dataclasses.replace(peak, potential=-peak.potential, height=-peak.height) for peak in turned)


def map_sections(
    difference: Map, crystal: Crystal, peak: Peak, *, half_width: float = 2.5, points: int = 81
) -> tuple[Section, Section, Section]:
    """Three planes through a peak at right angles; the first has the two closest atoms that are not in line with it.

    Args:
        half_width: of the squares [Å].
        points: along each side.
    """
    direct = direct_matrix(crystal.cell)
    site, vectors = _neighbours(crystal, np.array(peak.fract), 2.0 * half_width)
    axes = _axes(vectors)
    offset = np.linspace(-half_width, half_width, points)
    sections = []
    for first, second, normal in (axes, axes[[0, 2, 1]], axes[[1, 2, 0]]):
        place = offset[:, None, None] * second + offset[None, :, None] * first
        fract = np.array(peak.fract) + place @ np.linalg.inv(direct).T
        index = np.moveaxis(fract * np.array(difference.values.shape), -1, 0)
        drawn = (np.abs(vectors @ normal) < IN_PLANE) & np.all(np.abs(vectors @ axes.T) < half_width, axis=1)
        sections.append(
            Section(
                offset=offset,
                values=ndimage.map_coordinates(difference.values, index, order=3, mode="grid-wrap"),
                first=first,
                second=second,
                labels=tuple(crystal.labels[k] for k in site[drawn]),
                atoms=np.column_stack([vectors[drawn] @ first, vectors[drawn] @ second]),
            )
        )
    return sections[0], sections[1], sections[2]


def _summit(values: np.ndarray, point: np.ndarray) -> tuple[np.ndarray, float]:
    """Position [grid points] and value of the maximum next to a grid point, from the differences to its neighbours."""
    around = np.ix_(*((index + np.arange(-1, 2)) % length for index, length in zip(point, values.shape, strict=True)))
    cube = values[around]
    gradient, hessian = np.zeros(3), np.zeros((3, 3))
    for i in range(3):
        line = np.moveaxis(cube, i, 0)[:, 1, 1]
        gradient[i], hessian[i, i] = (line[2] - line[0]) / 2, line[2] + line[0] - 2 * line[1]
        for j in range(i):
            plane = np.moveaxis(cube, (i, j), (0, 1))[:, :, 1]
            hessian[i, j] = hessian[j, i] = (plane[2, 2] - plane[2, 0] - plane[0, 2] + plane[0, 0]) / 4
    step = np.zeros(3)
    if np.linalg.eigvalsh(hessian).max() < 0:  # a plateau has no summit
        step = np.clip(np.linalg.solve(hessian, -gradient), -1.0, 1.0)
    return point + step, float(cube[1, 1, 1] + gradient @ step + 0.5 * step @ hessian @ step)


def _neighbours(crystal: Crystal, centre: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Sites and Cartesian vectors [Å] from a fractional centre to all atoms within a radius, closest first."""
    direct = direct_matrix(crystal.cell)
    reach = np.ceil(radius * np.linalg.norm(np.linalg.inv(direct), axis=1)).astype(int)
    shifts = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in reach), indexing="ij"), axis=-1).reshape(-1, 3)
    atoms = np.asarray(expanded_atoms(crystal, crystal.fract, crystal.u_aniso, crystal.occupancy)[0])
    difference = np.mod(atoms - centre + 0.5, 1.0) - 0.5
    vectors = ((difference[:, None] + shifts) @ direct.T).reshape(-1, 3)
    site = np.repeat(np.asarray(crystal.atom_site), len(shifts))
    length = np.linalg.norm(vectors, axis=1)
    order = np.argsort(length, kind="stable")
    order = order[length[order] < radius]
    return site[order], vectors[order]


def _axes(vectors: Float[np.ndarray, "atoms 3"]) -> Float[np.ndarray, "3 3"]:
    """Orthonormal rows; the first two span the closest two vectors that are longer than 0.5 Å and not in line."""
    candidates = [*(vectors[np.linalg.norm(vectors, axis=1) > 0.5]), *np.eye(3)]
    first = candidates[0] / np.linalg.norm(candidates[0])
    across = [vector - first * (vector @ first) for vector in candidates]
    second = next(vector for vector in across if np.linalg.norm(vector) > 0.5)
    second = second / np.linalg.norm(second)
    return np.stack([first, second, np.cross(first, second)])
