"""Exit waves by eigen-decomposition of the structure matrix: exact, for few beams."""

import jax
import jax.numpy as jnp
from jaxtyping import Complex, Float

from pendel.base import Array


def propagate_eigen(
    interaction: Complex[Array, "segments beams beams"],
    diagonal: Float[Array, "segments beams tilts"],
    flux: Float[Array, "segments beams tilts"],
    thickness: Float[Array, "segments nodes"],
) -> Complex[Array, "segments nodes beams tilts"]:
    """Flux-normalised amplitudes psi(t) = V exp(i L t) V^H e_0 of all beams; beam 0 is the incident one.

    The structure matrix of one tilt is A = diag(D) + M V M, Hermitian.

    Args:
        interaction: V = (pi / K_n) U_{h-g}, zero on the diagonal [rad/Å].
        diagonal: D = 2 pi S_g M_g^2 [rad/Å].
        flux: M_g, no unit.
        thickness: nodes [Å].

    Derivatives (both modes, first order) use divided differences and are finite at degenerate eigenvalues.
    """
    m = jnp.moveaxis(flux, 1, 2).astype(interaction.dtype)
    d = jnp.moveaxis(diagonal, 1, 2)
    beams = interaction.shape[-1]
    matrix = m[..., :, None] * interaction[:, None] * m[..., None, :] + jnp.eye(beams) * d[..., None, :]
    nodes = jnp.broadcast_to(thickness[:, None, :], (*matrix.shape[:2], thickness.shape[-1]))
    return jnp.moveaxis(_exit_wave(matrix, nodes), (1, 2, 3), (3, 1, 2))


@jax.custom_jvp
def _exit_wave(
    matrix: Complex[Array, "*batch beams beams"], thickness: Float[Array, "*batch nodes"]
) -> Complex[Array, "*batch nodes beams"]:
    return _exit_wave_parts(matrix, thickness)[0]


def _exit_wave_parts(matrix, thickness):
    eigenvalue, vector = jnp.linalg.eigh(matrix)
    incident = jnp.conj(vector[..., 0, :])
    phase = jnp.exp(1j * eigenvalue[..., None, :] * thickness[..., :, None])
    wave = jnp.einsum("...gb,...qb->...qg", vector, phase * incident[..., None, :])
    return wave, (eigenvalue, vector, incident, phase)


@_exit_wave.defjvp
def _exit_wave_jvp(primals, tangents):
    """d psi = V ((V^H dA V) * F) V^H e_0 + i A psi dt, F_ab = i t exp(i (a+b) t / 2) sinc((a-b) t / 2)."""
    matrix, thickness = primals
    matrix_dot, thickness_dot = tangents
    wave, (eigenvalue, vector, incident, phase) = _exit_wave_parts(matrix, thickness)
    inner = jnp.einsum("...ga,...gh,...hb->...ab", jnp.conj(vector), matrix_dot, vector)
    half_difference = 0.5 * (eigenvalue[..., :, None] - eigenvalue[..., None, :])
    half_phase = jnp.exp(0.5j * eigenvalue[..., None, :] * thickness[..., :, None])
    t = thickness[..., :, None, None]
    sinc = jnp.sinc(half_difference[..., None, :, :] * t / jnp.pi)
    divided = 1j * t * half_phase[..., :, None] * half_phase[..., None, :] * sinc
    change = jnp.einsum("...qab,...ab,...b->...qa", divided, inner, incident)
    change = change + 1j * eigenvalue[..., None, :] * phase * incident[..., None, :] * thickness_dot[..., None]
    return wave, jnp.einsum("...gb,...qb->...qg", vector, change)
