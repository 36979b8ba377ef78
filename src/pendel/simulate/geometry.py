"""Orientation of the crystal at every tilt of a frame, and the excitation errors it gives."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from pendel.base import Array
from pendel.experiment.frames import Experiment, frame_rotations


def sweep_rotations(geometry: str, semi_angle: float, tilts: int, beyond: int = 0) -> Float[np.ndarray, "tilts 3 3"]:
    """Rotations of the crystal, relative to the frame centre, at the tilts of one frame.

    Rotation: Rx(phi), phi equally spaced in [-semi, +semi], both ends included.
    Precession: Rz(tau) Rx(semi) Rz(-tau), tau equally spaced in [0, 360).

    Args:
        geometry: "rotation" or "precession".
        semi_angle: half the sweep, or the cone's semi-angle [deg].
        tilts: number of tilts; one tilt means the frame centre.
        beyond: further tilts before and after a rotation, at the same steps.
    """
    semi = np.deg2rad(semi_angle)
    if tilts == 1:
        return np.eye(3)[None]
    if geometry == "rotation":
        inside = np.linspace(-semi, semi, tilts)
        outside = semi + 2 * semi / (tilts - 1) * np.arange(1, beyond + 1)
        return np.stack([_about_x(phi) for phi in (*-outside[::-1], *inside, *outside)])
    return np.stack([_about_z(t) @ _about_x(semi) @ _about_z(-t) for t in _azimuths(tilts)])


def axes_across(geometry: str, tilts: int) -> Float[np.ndarray, "tilts 2"]:
    """Unit axes in x and y of the laboratory, about which a turn moves a tilt across the path of the beam.

    Rotation about x: y. Precession: the axis of the cone's own tilt, so that a turn changes its semi-angle.
    """
    if geometry == "rotation":
        return np.tile([0.0, 1.0], (tilts, 1))
    tau = _azimuths(tilts)
    return np.stack([np.cos(tau), np.sin(tau)], axis=1)


def _azimuths(tilts: int) -> Float[np.ndarray, " tilts"]:
    return 2 * np.pi * np.arange(tilts) / tilts


def tilt_matrices(experiment: Experiment, frame: int, tilts: int, beyond: int = 0) -> Float[np.ndarray, "tilts 3 3"]:
    """Matrices that take hkl to the laboratory vector g [Å⁻¹] at every tilt of one frame."""
    centre = frame_rotations(experiment)[frame] @ np.asarray(experiment.orientation)
    return sweep_rotations(experiment.geometry, float(experiment.semi_angle[frame]), tilts, beyond) @ centre


def beam_axis_row(tilt: Float[Array, "frames 2"]) -> Float[Array, "frames 3"]:
    """Third row of exp([w]x) with w = (tilt_x, tilt_y, 0) [deg]: what a small tilt does to g_z.

    g_z' = row . g. Series to w^4, exact to 1e-9 below 5 degrees, with finite derivatives at zero.
    """
    w = jnp.deg2rad(tilt)
    square = jnp.sum(w**2, axis=-1, keepdims=True)
    first = 1 - square / 6 + square**2 / 120
    second = 0.5 - square / 24 + square**2 / 720
    return jnp.concatenate([-first * w[:, 1:2], first * w[:, 0:1], 1 - second * square], axis=-1)


def excitation_error(
    g_z: Float[Array, "*#shape"], g_squared: Float[Array, "*#shape"], wavelength: Float[Array, ""] | float
) -> Float[Array, "*#shape"]:
    """S_g = (|K|^2 - |K + g|^2) / (2 |K|) = g_z - wavelength |g|^2 / 2, with K = (0, 0, -1/wavelength) [Å⁻¹]."""
    return g_z - 0.5 * wavelength * g_squared


def flux_factor(g_z: Float[Array, "*shape"], wavelength: Float[Array, ""] | float) -> Float[Array, "*shape"]:
    """M_g = (1 - g_z / K_n)^(-1/2), K_n = 1/wavelength: makes the structure matrix symmetric (no unit)."""
    return (1 - wavelength * g_z) ** -0.5


def _about_x(angle: float) -> Float[np.ndarray, "3 3"]:
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])


def _about_z(angle: float) -> Float[np.ndarray, "3 3"]:
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
