"""One measured crystal: frames, and a flat list of measured intensities; which of them count.

Geometry: a reciprocal vector at the centre of a frame is g = Rx(alpha) Ry(beta) `orientation` hkl [Å⁻¹]; the beam
travels along -z, so the excitation error is S_g = (|K|^2 - |K + g|^2) / (2 |K|) = g_z - (wavelength / 2) |g|^2.
"""

import dataclasses
from typing import Literal

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from pendel.base import Array
from pendel.crystal.cell import Cell

OBSERVED_SIGMA = 3.0  # a measurement is observed when I > 3 sigma


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """Frames of one crystal and the intensities measured on them.

    `cell` [Å, deg] is the cell the orientation was built with (the header cell under `--cell ub`); `orientation` [Å⁻¹]
    has the columns a*, b*, c* in the laboratory at zero goniometer angles; `alpha` (about x), `beta` (about y) and
    `semi_angle` (half the sweep, or semi-angle of the precession cone) are in degrees; `frame_index` points into the
    frame arrays; intensities and `sigma` are in the file's units; `weight` counts the file rows behind a measurement.
    `mosaicity`: spread of the orientation that the data reduction states [deg], None where it states none.
    `curve_range`: (p, q) where an intensity is integrated over |S_g| < p + q |g| [Å⁻¹], in whichever frames that is;
    None where it is integrated over the sweep of its frame. `reflection`: the unique reflection of every measurement,
    from 0 to `unique` - 1, or `unique` for weak ones, see `pendel.experiment.equivalents`; None where it was not
    determined.
    """

    name: str = dataclasses.field(metadata={"static": True})
    geometry: Literal["rotation", "precession"] = dataclasses.field(metadata={"static": True})
    cell: Cell = dataclasses.field(metadata={"static": True})
    wavelength: float = dataclasses.field(metadata={"static": True})
    dstar_max: float = dataclasses.field(metadata={"static": True})
    selection: str = dataclasses.field(metadata={"static": True})
    notes: tuple[str, ...] = dataclasses.field(metadata={"static": True})
    mosaicity: float | None = dataclasses.field(default=None, metadata={"static": True})
    curve_range: tuple[float, float] | None = dataclasses.field(default=None, metadata={"static": True})
    unique: int = dataclasses.field(default=0, metadata={"static": True})
    orientation: Float[Array, "3 3"]
    frame_id: Int[Array, "frames"]
    alpha: Float[Array, "frames"]
    beta: Float[Array, "frames"]
    semi_angle: Float[Array, "frames"]
    frame_index: Int[Array, "reflections"]
    hkl: Int[Array, "reflections 3"]
    intensity: Float[Array, "reflections"]
    sigma: Float[Array, "reflections"]
    weight: Int[Array, "reflections"]
    reflection: Int[Array, "reflections"] | None = None


def goniometer_rotations(alpha: Float[Array, "frames"], beta: Float[Array, "frames"]) -> Float[Array, "frames 3 3"]:
    """Rotations Rx(alpha) Ry(beta), angles in degrees, active on column vectors."""
    a, b = np.radians(alpha), np.radians(beta)
    zero, one = np.zeros_like(a), np.ones_like(a)
    about_x = np.array([[one, zero, zero], [zero, np.cos(a), -np.sin(a)], [zero, np.sin(a), np.cos(a)]])
    about_y = np.array([[np.cos(b), zero, np.sin(b)], [zero, one, zero], [-np.sin(b), zero, np.cos(b)]])
    return np.einsum("ijf,jkf->fik", about_x, about_y)


def frame_rotations(experiment: Experiment) -> Float[Array, "frames 3 3"]:
    """Goniometer rotations of all frames: g at a frame's centre is its rotation times `orientation` hkl."""
    return goniometer_rotations(experiment.alpha, experiment.beta)


def central_vectors(experiment: Experiment) -> Float[Array, "reflections 3"]:
    """Reciprocal vectors g [Å⁻¹] of all measurements at the centre of their frames, at the file's orientation."""
    at_zero = np.asarray(experiment.hkl) @ np.asarray(experiment.orientation).T
    return np.einsum("rij,rj->ri", frame_rotations(experiment)[experiment.frame_index], at_zero)


def excitation_error(g: Float[Array, "*batch 3"], wavelength: float) -> Float[Array, "*batch"]:
    """Excitation error S_g = g_z - (wavelength / 2) |g|^2 [Å⁻¹] for a beam along -z; NumPy or JAX arrays."""
    return g[..., 2] - 0.5 * wavelength * (g * g).sum(-1)


def span(experiment: Experiment) -> Float[Array, "reflections"]:
    """Half-range [Å⁻¹] over which S_g sweeps in its frame: lever arm times semi-angle in radians.

    The lever arm is |(g_y, g_z)| for rotation about x and |(g_x, g_y)| for precession about the beam.
    """
    g = central_vectors(experiment)
    first, second = (1, 2) if experiment.geometry == "rotation" else (0, 1)
    return np.hypot(g[:, first], g[:, second]) * np.radians(experiment.semi_angle)[experiment.frame_index]


def is_observed(experiment: Experiment) -> Bool[Array, "reflections"]:
    """True where the intensity is above 3 sigma."""
    return np.asarray(experiment.intensity > OBSERVED_SIGMA * experiment.sigma)


def relative_excitation(experiment: Experiment) -> Float[Array, "reflections"]:
    """|S_g| / span at the file's orientation, no unit; infinite where the frame does not sweep."""
    error = np.abs(excitation_error(central_vectors(experiment), experiment.wavelength))
    half_range = span(experiment)
    return np.divide(error, half_range, out=np.full_like(error, np.inf), where=half_range > 0)
