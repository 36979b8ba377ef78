"""The structure matrix of every segment: couplings from U_g, diagonal and flux factors from the geometry."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Complex, Float

from pendel.base import Array
from pendel.simulate.beams import SegmentGroup
from pendel.simulate.geometry import excitation_error, flux_factor

NEAREST_FOLDED = 1e-3  # Å⁻¹, excitation error below which the effect of a folded beam falls again


def coupling_box(
    u_g: Complex[Array, " g"] | Float[Array, " g"],
    u_minus: Complex[Array, " g"] | Float[Array, " g"],
    support: Array,
    box: tuple[int, int, int],
    wavelength: Float[Array, ""] | float,
    *,
    u_0: Complex[Array, ""] | complex = 0.0,
) -> Complex[Array, " box"] | Float[Array, " box"]:
    """V_g = (pi / K_n) U_g [rad/Å] of all differences, flattened; zero at unused places.

    A crystal that only scatters elastically has U_-g = conj(U_g). Absorption adds i U'_g to U_g, i conj(U'_g) to U_-g.

    Args:
        u_g: Fourier coefficients [Å⁻²] of the Friedel-unique reflections `support` [g 3].
        u_minus: those of their Friedel mates -g.
        box: shape of the box of differences, its middle is g = 0.
        wavelength: 1 / K_n [Å].
        u_0: coefficient [Å⁻²] at g = 0. The mean inner potential is part of K_n, so only the mean absorption i U'_0
            stands here.
    """
    place = jnp.asarray(support) @ _strides(box)
    middle = _middle(box)
    flat = jnp.zeros(int(np.prod(box)), jnp.result_type(u_g, u_minus, u_0))
    flat = flat.at[middle + place].set(u_g).at[middle - place].set(u_minus).at[middle].set(u_0)
    return jnp.pi * wavelength * flat


def interaction_matrix(
    coupling: Complex[Array, " box"] | Float[Array, " box"], group: SegmentGroup, box: tuple[int, int, int]
) -> Complex[Array, "segments beams beams"] | Float[Array, "segments beams beams"]:
    """Element (g, h) is V_{h-g} [rad/Å], zero for padding; the diagonal holds V_0, the mean absorption.

    U_g is built with exp(+2 pi i h.r), so for waves exp(+2 pi i k.r) the coefficient that scatters beam h into beam g
    is U_{h-g}; U_{g-h} would simulate the enantiomorph.
    """
    place = jnp.asarray(group.hkl) @ _strides(box)
    index = place[:, None, :] - place[:, :, None] + _middle(box)
    both = group.present[:, :, None] & group.present[:, None, :]
    return jnp.where(both, coupling[jnp.where(both, index, _middle(box))], 0.0)


def folded_interaction(
    coupling: Complex[Array, " box"] | Float[Array, " box"],
    group: SegmentGroup,
    box: tuple[int, int, int],
    axis_row: Float[Array, "frames 3"],
    wavelength: Float[Array, ""] | float,
) -> Complex[Array, "segments beams beams"] | Float[Array, "segments beams beams"]:
    """`interaction_matrix` with the weak beams h of the group folded in to second order, as Bethe potentials.

        V_gg' - sum_h V_gh V_hg' / (2 pi S_h)

    S_h is the mean excitation error of h in the segment; 1 / S is taken as S / (S² + `NEAREST_FOLDED`²), so that a beam
    that reaches the sphere when the frame tilts has no infinite effect. The flux factors M_h² of the sum and of
    D_h = 2 pi S_h M_h² cancel. Without folded beams it is `interaction_matrix`.

    Source: Bethe, Ann. Phys. 392, 55 (1928).
    """
    interaction, folded = interaction_matrix(coupling, group, box), group.folded
    if folded is None:
        return interaction
    place, weak = jnp.asarray(group.hkl) @ _strides(box), jnp.asarray(folded.hkl) @ _strides(box)
    both = group.present[:, :, None] & folded.present[:, None, :]
    index = jnp.where(both, weak[:, None, :] - place[:, :, None], 0)
    to_weak = jnp.where(both, coupling[_middle(box) + index], 0.0)
    from_weak = jnp.where(both, coupling[_middle(box) - index], 0.0)
    error = _folded_errors(folded, group.frame, axis_row, wavelength)
    share = error / (2 * jnp.pi * (error**2 + NEAREST_FOLDED**2))
    scaled = to_weak * share[:, None, :].astype(to_weak.dtype)
    return interaction - jnp.einsum("sgw,shw->sgh", scaled, from_weak, precision=jax.lax.Precision.HIGHEST)


def _folded_errors(folded, frame, axis_row, wavelength):
    """Mean excitation error [Å⁻¹] of every folded beam in its segment."""
    hkl = jnp.asarray(folded.hkl, dtype=jnp.float64)
    vector = jnp.einsum("swj,sij->swi", hkl, folded.matrix)
    g_z = jnp.einsum("swi,si->sw", vector, axis_row[frame])
    return excitation_error(g_z, jnp.sum(vector**2, axis=-1), wavelength)


def first_column(
    coupling: Complex[Array, " box"] | Float[Array, " box"], group: SegmentGroup, box: tuple[int, int, int]
) -> Complex[Array, "segments rows"] | Float[Array, "segments rows"]:
    """Elements (g, 0) of the interaction matrix for the leading beams: what scatters the incident beam into g."""
    place = jnp.asarray(group.hkl)[:, : group.rows] @ _strides(box)
    return jnp.where(group.present[:, : group.rows], coupling[_middle(box) - place], 0.0)


def diagonal_and_flux(
    group: SegmentGroup, axis_row: Float[Array, "frames 3"], wavelength: Float[Array, ""] | float
) -> tuple[Float[Array, "segments beams tilts"], Float[Array, "segments beams tilts"]]:
    """D = 2 pi S_g M_g^2 [rad/Å] and M_g at every tilt; padding repeats the incident beam (D = 0, M = 1).

    Args:
        axis_row: third row of every frame's small tilt, see `geometry.beam_axis_row`.
        wavelength: [Å].
    """
    hkl = jnp.asarray(group.hkl, dtype=jnp.float64)
    z_row = jnp.einsum("si,skij->skj", axis_row[group.frame], group.matrix)
    g_z = jnp.einsum("snj,skj->snk", hkl, z_row)
    centre = jnp.einsum("snj,sij->sni", hkl, group.matrix[:, 0])
    g_squared = jnp.sum(centre**2, axis=-1)[:, :, None]
    flux = flux_factor(g_z, wavelength)
    return 2 * jnp.pi * excitation_error(g_z, jnp.broadcast_to(g_squared, g_z.shape), wavelength) * flux**2, flux


def _strides(box: tuple[int, int, int]) -> np.ndarray:
    return np.array([box[1] * box[2], box[2], 1], dtype=np.int32)


def _middle(box: tuple[int, int, int]) -> int:
    return int(_strides(box) @ (np.array(box) // 2))
