"""A second, slow implementation of the dynamical rocking curve, from the formulas and sharing no code with pendel.

Only numpy and scipy, float64 throughout, explicit loops. It differs from the fast program on purpose:
the metric tensor replaces the Cartesian cell matrices; the crystal rests at the centre of the frame and the *beam*
moves (the normal of the entrance face moves with it); the propagator is SciPy's dense matrix exponential.

Formulas (waves exp(+2 pi i k.r), beam along -z of the laboratory, reciprocal vectors in Å⁻¹ without 2 pi):
    U_h = gamma / (pi V) sum_j occ_j f_j(|g|) exp(-2 pi^2 h.U*_j h) exp(2 pi i h.r_j)
    S_g = (|K|^2 - |K + g|^2) / (2 |K|),  K = -n / lambda, n the unit vector against the beam
    A_gg = 2 pi S_g M_g^2,  A_gh = pi lambda M_g M_h U_{h-g},  M_g = (1 - lambda n.g)^(-1/2)
    psi(t) = exp(i A t) e_0
Form factors: I. Lobato and D. Van Dyck, Acta Cryst. A70 (2014) 636, f(g) = sum_i a_i (2 + b_i g^2) / (1 + b_i g^2)^2.
Bloch waves: C. J. Humphreys, Rep. Prog. Phys. 42 (1979) 1825; symmetrised amplitudes as in L. Palatinus, V. Petricek
and C. A. Correa, Acta Cryst. A71 (2015) 235. Valid for parallel-sided crystals without absorption.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from scipy import constants
from scipy.linalg import expm

type Beam = tuple[int, int, int]
type Coefficients = Mapping[str, tuple[Sequence[float], Sequence[float]]]


@dataclass(frozen=True)
class Cell:
    """All atoms of one cell: parameters [Å, deg] and per atom the element, x y z (fractional), U* and occupancy."""

    parameters: tuple[float, ...]
    elements: tuple[str, ...]
    fract: np.ndarray
    u_star: np.ndarray
    occupancy: np.ndarray


@dataclass(frozen=True)
class Frame:
    """One recorded frame: `orientation` [3 3] takes hkl to Å⁻¹ at zero angles; angles in degrees, wavelength in Å."""

    orientation: np.ndarray
    wavelength: float
    geometry: str
    alpha: float
    beta: float
    semi_angle: float
    steps: int
    misorientation: tuple[float, float] = (0.0, 0.0)


def metric(parameters: Sequence[float]) -> np.ndarray:
    """Metric tensor a_i.a_j [Å²]; its determinant is V²."""
    a, b, c, *angles = parameters
    cos_alpha, cos_beta, cos_gamma = (np.cos(np.radians(angle)) for angle in angles)
    cosines = np.array([[1, cos_gamma, cos_beta], [cos_gamma, 1, cos_alpha], [cos_beta, cos_alpha, 1]])
    return cosines * np.outer([a, b, c], [a, b, c])


def operator(text: str) -> tuple[np.ndarray, np.ndarray]:
    """Rotation and translation of an operator such as `-x+y,-x,z+1/3`."""
    rotation, translation = np.zeros((3, 3)), np.zeros(3)
    for row, component in enumerate(text.replace(" ", "").split(",")):
        for term in component.replace("-", "+-").split("+"):
            if term and term[-1] in "xyz":
                rotation[row, "xyz".index(term[-1])] += -1 if term.startswith("-") else 1
            elif term:
                translation[row] += float(Fraction(term))
    return rotation, translation


def expand(parameters: Sequence[float], operators: Sequence[str], sites: Sequence[tuple]) -> Cell:
    """Every distinct atom of the cell from sites (element, xyz, CIF U_ij [3 3] in Å², occupancy).

    U*_ij = a*_i a*_j U_ij transforms as R U* R^T; images closer than 0.02 in every fraction are one atom.
    """
    lengths = np.sqrt(np.diag(np.linalg.inv(metric(parameters))))
    elements, positions, tensors, occupancies = [], [], [], []
    for element, xyz, u_cif, occupancy in sites:
        u_star = np.asarray(u_cif) * np.outer(lengths, lengths)
        images: list[np.ndarray] = []
        for rotation, translation in map(operator, operators):
            image = rotation @ np.asarray(xyz) + translation
            apart = [np.abs(image - other - np.round(image - other)).max() for other in images]
            if min(apart, default=1.0) > 0.02:
                images.append(image)
                elements.append(element)
                positions.append(image)
                tensors.append(rotation @ u_star @ rotation.T)
                occupancies.append(occupancy)
    return Cell(tuple(parameters), tuple(elements), np.array(positions), np.array(tensors), np.array(occupancies))


def lorentz_factor(wavelength: float) -> float:
    """gamma from h/lambda = p: gamma² = 1 + (p / m c)²."""
    momentum = constants.h / (wavelength * 1e-10)
    return float(np.sqrt(1 + (momentum / (constants.m_e * constants.c)) ** 2))


def lobato(coefficients: tuple[Sequence[float], Sequence[float]], g: float) -> float:
    """Electron form factor [Å] at g = |g| [Å⁻¹]."""
    return float(sum(a * (2 + b * g**2) / (1 + b * g**2) ** 2 for a, b in zip(*coefficients, strict=True)))


def structure_factor(cell: Cell, hkl: Beam, coefficients: Coefficients, wavelength: float) -> complex:
    """U_h [Å⁻²] by a sum over every atom of the cell."""
    h = np.asarray(hkl, dtype=float)
    g = float(np.sqrt(h @ np.linalg.inv(metric(cell.parameters)) @ h))
    total = 0.0 + 0.0j
    for element, xyz, u_star, occupancy in zip(cell.elements, cell.fract, cell.u_star, cell.occupancy, strict=True):
        thermal = np.exp(-2 * np.pi**2 * (h @ u_star @ h))
        total += occupancy * lobato(coefficients[element], g) * thermal * np.exp(2j * np.pi * (h @ xyz))
    volume = float(np.sqrt(np.linalg.det(metric(cell.parameters))))
    return complex(lorentz_factor(wavelength) / (np.pi * volume) * total)


def rodrigues(axis: Sequence[float], angle: float) -> np.ndarray:
    """Active rotation by `angle` [rad] about an axis of any length but zero."""
    x, y, z = np.asarray(axis, dtype=float) / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def resting_vector(frame: Frame, hkl: Beam) -> np.ndarray:
    """g [Å⁻¹] in the laboratory with the goniometer at the centre of the frame: about y first, then about x."""
    about_y = rodrigues((0, 1, 0), np.radians(frame.beta))
    about_x = rodrigues((1, 0, 0), np.radians(frame.alpha))
    return about_x @ (about_y @ (frame.orientation @ np.asarray(hkl, dtype=float)))


def beam_directions(frame: Frame) -> list[np.ndarray]:
    """Unit vectors n against the beam, one per tilt, seen from the resting crystal.

    Turning the crystal by R is the same as turning the beam by R⁻¹. Continuous rotation: `steps` equal steps about x,
    both ends included. Precession: n runs over a cone of half-angle `semi_angle` about z. A misorientation (wx, wy) in
    degrees turns the crystal last, so it acts on n first.
    """
    n_laboratory = np.array([0.0, 0.0, 1.0])
    if any(frame.misorientation):
        wx, wy = np.radians(frame.misorientation)
        n_laboratory = rodrigues((wx, wy, 0), -float(np.hypot(wx, wy))) @ n_laboratory
    semi = np.radians(frame.semi_angle)
    if frame.geometry == "precession":
        azimuths = 2 * np.pi * np.arange(frame.steps) / frame.steps
        return [rodrigues((np.cos(tau), np.sin(tau), 0), -semi) @ n_laboratory for tau in azimuths]
    sweep = np.linspace(-semi, semi, frame.steps) if frame.steps > 1 else np.zeros(1)
    return [rodrigues((1, 0, 0), -phi) @ n_laboratory for phi in sweep]


def excitation_error(g: np.ndarray, n: np.ndarray, wavelength: float) -> float:
    """S_g [Å⁻¹] from the difference of the two squared lengths, beam against n."""
    incident = -n / wavelength
    length = np.linalg.norm(incident)
    return float((length**2 - np.sum((incident + g) ** 2)) / (2 * length))


def select_beams(frame: Frame, cell: Cell, n: np.ndarray, *, g_max: float, sg_max: float) -> list[Beam]:
    """000 and every hkl with |g| < g_max and |S_g| < sg_max at this one beam direction."""
    limits = [int(np.ceil(g_max * length)) for length in cell.parameters[:3]]
    reciprocal = np.linalg.inv(metric(cell.parameters))
    beams: list[Beam] = [(0, 0, 0)]
    for hkl in itertools.product(*(range(-limit, limit + 1) for limit in limits)):
        inside = any(hkl) and np.sqrt(np.asarray(hkl) @ reciprocal @ np.asarray(hkl)) < g_max
        if inside and abs(excitation_error(resting_vector(frame, hkl), n, frame.wavelength)) < sg_max:
            beams.append(hkl)
    return beams


def structure_matrix(
    cell: Cell, frame: Frame, n: np.ndarray, beams: Sequence[Beam], coefficients: Coefficients
) -> np.ndarray:
    """Hermitian A [rad/Å] for the beams in the given order and one direction n."""
    wavelength = frame.wavelength
    vectors = [resting_vector(frame, beam) for beam in beams]
    m = [1 / np.sqrt(1 - wavelength * (n @ g)) for g in vectors]
    known: dict[Beam, complex] = {}
    matrix = np.zeros((len(beams), len(beams)), dtype=complex)
    for i, j in itertools.product(range(len(beams)), repeat=2):
        if i == j:
            matrix[i, i] = 2 * np.pi * excitation_error(vectors[i], n, wavelength) * m[i] ** 2
            continue
        difference = tuple(int(h) for h in np.subtract(beams[j], beams[i]))
        if difference not in known:
            known[difference] = structure_factor(cell, difference, coefficients, wavelength)
        matrix[i, j] = np.pi * wavelength * m[i] * m[j] * known[difference]
    return matrix


def exit_intensities(matrix: np.ndarray, thickness: Sequence[float]) -> np.ndarray:
    """|psi_g(t)|² [thickness, beams] behind crystals of the given thicknesses [Å]; the first beam is incident."""
    return np.array([np.abs(expm(1j * matrix * t)[:, 0]) ** 2 for t in thickness])


def frame_intensities(
    cell: Cell,
    frame: Frame,
    coefficients: Coefficients,
    *,
    thickness: Sequence[float],
    weights: Sequence[float],
    beams: Sequence[Sequence[Beam]],
) -> dict[Beam, float]:
    """Mean over tilts of the weighted sum over thicknesses [Å]; `beams` lists, for each tilt, its beams (000 first).

    A reflection that is no beam of some tilt counts there as zero.
    """
    total: dict[Beam, float] = {}
    directions = beam_directions(frame)
    for n, solved in zip(directions, beams, strict=True):
        matrix = structure_matrix(cell, frame, n, solved, coefficients)
        averaged = np.asarray(weights) @ exit_intensities(matrix, thickness)
        for beam, intensity in zip(solved, averaged, strict=True):
            total[beam] = total.get(beam, 0.0) + float(intensity) / len(directions)
    return total
