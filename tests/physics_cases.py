"""Crystals and experiments of the physics tests, described once and built both for pendel and for the slow oracle."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from oracles import slow_bloch
from pendel.crystal.form_factors import form_factors
from pendel.crystal.sites import Sites
from pendel.crystal.structure import Crystal, make_crystal
from pendel.experiment.frames import Experiment
from pendel.simulate.beams import SegmentGroup, difference_box
from pendel.simulate.chebyshev import absorption_spread, expansion_length, propagate_chebyshev, spectral_interval
from pendel.simulate.matrix import coupling_box, diagonal_and_flux, interaction_matrix
from pendel.simulate.scattering import structure_factors

WAVELENGTH = 0.0251  # Å, near 200 kV


@dataclasses.dataclass(frozen=True)
class Structure:
    """A structure in plain numbers; sites are (element, xyz, CIF U_ij [3 3] in Å², occupancy)."""

    name: str
    cell: tuple[float, ...]
    operators: tuple[str, ...]
    sites: tuple[tuple, ...]


def tensor(u11, u22, u33, u23=0.0, u13=0.0, u12=0.0):
    return np.array([[u11, u12, u13], [u12, u22, u23], [u13, u23, u33]])


QUARTZ = Structure(  # P 32 2 1; Si on a twofold axis
    "quartz",
    (4.9226, 4.9226, 5.4003, 90.0, 90.0, 120.0),
    ("x,y,z", "-y,x-y,z+2/3", "-x+y,-x,z+1/3", "y,x,-z", "x-y,-y,-z+1/3", "-x,-x+y,-z+2/3"),
    (
        ("Si", (0.0, 0.46981, 5 / 6), tensor(0.0123, 0.0115, 0.0052, -0.0005, -0.001, 0.00615), 1.0),
        ("O", (0.85397, 0.58628, 0.6188), tensor(0.0130, 0.0200, 0.0162, 0.0040, -0.0026, 0.0095), 1.0),
    ),
)
TRICLINIC = Structure(  # P -1, invented
    "triclinic",
    (6.1, 5.3, 4.4, 81.0, 97.0, 106.0),
    ("x,y,z", "-x,-y,-z"),
    (
        ("Br", (0.13, 0.27, 0.41), tensor(0.011, 0.013, 0.009, 0.001, -0.002, 0.003), 1.0),
        ("C", (0.62, 0.08, 0.83), tensor(0.015, 0.012, 0.014), 0.8),
    ),
)


def crystal_of(structure: Structure) -> Crystal:
    operations = [slow_bloch.operator(text) for text in structure.operators]
    elements = tuple(site[0] for site in structure.sites)
    return make_crystal(
        name=structure.name,
        cell=structure.cell,
        spacegroup=structure.name,
        rotations=np.array([rotation for rotation, _ in operations]).astype(int),
        translations=np.array([translation for _, translation in operations]),
        sites=Sites(
            labels=tuple(f"{element}{i}" for i, element in enumerate(elements)),
            elements=elements,
            fract=np.array([site[1] for site in structure.sites], dtype=float),
            u_aniso=np.array([site[2] for site in structure.sites]),
            occupancy=np.array([site[3] for site in structure.sites]),
            isotropic=(False,) * len(elements),
        ),
    )


def oracle_cell_of(structure: Structure) -> slow_bloch.Cell:
    return slow_bloch.expand(structure.cell, structure.operators, structure.sites)


def orientation_of(structure: Structure, axis=(0.3, -0.5, 0.9), angle_deg=37.0) -> np.ndarray:
    """A rotated matrix O [Å⁻¹] with O^T O = reciprocal metric tensor and positive determinant."""
    factor = np.linalg.cholesky(np.linalg.inv(slow_bloch.metric(structure.cell))).T
    return slow_bloch.rodrigues(axis, np.radians(angle_deg)) @ factor


def along_axis(structure: Structure, zone: tuple[int, int, int]) -> np.ndarray:
    """An orientation with the lattice direction `zone` against the beam (+z)."""
    start = orientation_of(structure)
    direction = np.linalg.inv(start).T @ np.asarray(zone, dtype=float)
    direction /= np.linalg.norm(direction)
    z = np.array([0.0, 0.0, 1.0])
    return slow_bloch.rodrigues(np.cross(direction, z), np.arccos(direction @ z)) @ start


def experiment_of(structure, orientation, *, geometry="rotation", alpha, beta, semi_angle, hkl) -> Experiment:
    """An experiment with unit intensities; `hkl` holds one list of reflections per frame."""
    measured = np.array([beam for frame in hkl for beam in frame], dtype=int).reshape(-1, 3)
    frames = len(alpha)
    return Experiment(
        name=structure.name,
        geometry=geometry,
        cell=structure.cell,
        wavelength=WAVELENGTH,
        dstar_max=1.0,
        selection="all",
        notes=(),
        orientation=orientation,
        frame_id=np.arange(1, frames + 1),
        alpha=np.asarray(alpha, dtype=float),
        beta=np.asarray(beta, dtype=float),
        semi_angle=np.full(frames, semi_angle),
        frame_index=np.repeat(np.arange(frames), [len(frame) for frame in hkl]),
        hkl=measured,
        intensity=np.ones(len(measured)),
        sigma=np.full(len(measured), 0.1),
        weight=np.ones(len(measured), dtype=int),
    )


def oracle_frame_of(experiment: Experiment, frame: int, steps: int, misorientation=(0.0, 0.0)) -> slow_bloch.Frame:
    return slow_bloch.Frame(
        orientation=np.asarray(experiment.orientation),
        wavelength=experiment.wavelength,
        geometry=experiment.geometry,
        alpha=float(experiment.alpha[frame]),
        beta=float(experiment.beta[frame]),
        semi_angle=float(experiment.semi_angle[frame]),
        steps=steps,
        misorientation=tuple(float(w) for w in misorientation),
    )


def zone_beams(structure: Structure, orientation, *, g_max, sg_max) -> list[slow_bloch.Beam]:
    """000 and every beam near the Ewald sphere for the beam along -z."""
    frame = slow_bloch.Frame(orientation, WAVELENGTH, "rotation", 0.0, 0.0, 0.0, 1)
    n = np.array([0.0, 0.0, 1.0])
    return slow_bloch.select_beams(frame, oracle_cell_of(structure), n, g_max=g_max, sg_max=sg_max)


def eigenproblem(
    crystal: Crystal, beams, orientation, *, table="lobato", wavelength=WAVELENGTH, absorption=0.0, u_0=0.0
):
    """Interaction [1 beams beams], diagonal and flux [1 beams 1] that pendel builds for a given list of beams.

    With absorption U'_g = absorption x U_g for g != 0 and U'_0 = u_0 [Å⁻²].
    """
    hkl = np.array(beams, dtype=np.int32)[None]
    count = hkl.shape[1]
    group = SegmentGroup(
        hkl=hkl,
        present=np.ones((1, count), dtype=bool),
        matrix=np.asarray(orientation)[None, None],
        tilt_weight=np.ones((1, len(beams), 1)),
        across=np.array([[[0.0, 1.0]]]),
        place=np.full((1, 1), -1),
        frame=np.zeros(1, dtype=np.int32),
        measurement=np.zeros((1, count), dtype=np.int32),
        rows=count,
    )
    box, support = difference_box((group,))
    length = np.sqrt(np.einsum("gi,ij,gj->g", support, np.linalg.inv(slow_bloch.metric(crystal.cell)), support))
    factors = form_factors(crystal.elements, length, table)

    @jax.jit
    def build(crystal, group):
        u_g = structure_factors(crystal, support, factors, wavelength)
        pair = (1 + 1j * absorption) * u_g, (1 + 1j * absorption) * jnp.conj(u_g)
        interaction = interaction_matrix(coupling_box(*pair, support, box, wavelength, u_0=1j * u_0), group, box)
        return interaction, *diagonal_and_flux(group, jnp.array([[0.0, 0.0, 1.0]]), wavelength)

    return build(crystal, group)


def propagate(problem, thickness, *, dtype="float64", mode="forward"):
    """Amplitudes [segments nodes beams tilts] of all beams of an eigenproblem at thicknesses [Å]."""
    interaction, diagonal, flux = problem
    nodes = jnp.broadcast_to(jnp.asarray(thickness, dtype=float), (interaction.shape[0], len(thickness)))
    interaction = interaction.astype(jnp.complex64 if dtype == "float32" else jnp.complex128)
    centre, radius = jax.jit(spectral_interval)(interaction, diagonal, flux)
    spread = jax.jit(absorption_spread)(interaction, flux, centre)
    longest = float(np.max(thickness))
    steps = int(jnp.max(expansion_length(radius * longest, dtype, spread * longest)))
    options = {"rows": interaction.shape[1], "max_steps": -(-steps // 100) * 100, "mode": mode}
    return jax.jit(partial(propagate_chebyshev, **options))(interaction, diagonal, flux, nodes)


def exit_intensities(crystal, beams, orientation, thickness, *, dtype="float64", wavelength=WAVELENGTH):
    """|psi|² [thickness, beams] of a given list of beams in one orientation."""
    problem = eigenproblem(crystal, beams, orientation, wavelength=wavelength)
    wave = propagate(problem, thickness, dtype=dtype)
    return np.abs(np.asarray(wave[0, :, :, 0])) ** 2


# Quartz a third of a degree off [211]: about fifty beams, most of the incident beam is scattered, both hands differ.
NEAR_ZONE = slow_bloch.rodrigues((1.0, 0.4, 0.0), 0.006) @ along_axis(QUARTZ, (2, 1, 1))
