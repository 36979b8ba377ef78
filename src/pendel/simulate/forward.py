"""Calculated intensities of every measurement: the one call that models make."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Complex, Float

from pendel.base import Array
from pendel.crystal.structure import Crystal
from pendel.simulate.beams import SegmentGroup
from pendel.simulate.chebyshev import propagate_chebyshev
from pendel.simulate.coupling import orientation_spread, plan_coupling
from pendel.simulate.geometry import beam_axis_row
from pendel.simulate.illumination import Illumination
from pendel.simulate.matrix import diagonal_and_flux, first_column, folded_interaction
from pendel.simulate.mosaic import spread_tilts
from pendel.simulate.plan import Plan, chunk_size


def simulate_intensities(
    crystal: Crystal,
    plan: Plan,
    illumination: Illumination,
    *,
    u_change: Complex[Array, " g"] | None = None,
) -> Float[Array, " measurements"]:
    """Integrated dynamical intensities, incident beam = 1:  I_r = sum_qk w_q v_rk |psi_r(t_q)|^2 at the tilts k.

    Args:
        crystal: structure; replace `fract`, `u_aniso`, `occupancy` by traced arrays to differentiate.
        plan: frozen beams and tilts of the experiment; `plan.with_mode("forward")` for `jax.jvp` and `jax.jacfwd`.
        illumination: tilt and thickness distribution of every frame, strength of the absorption, mosaicity.
        u_change: added to the U_g [Å⁻²] of the plan's `support_hkl`, for what is not in the structure.

    Returns:
        intensities in the order of the experiment's measurements; NaN where a thickness exceeds the plan's budget.

    Raises InputError for mosaicity in a plan without tilts for it.
    """
    strength = illumination.absorption
    if strength is not None:
        plan = dataclasses.replace(plan, max_steps=plan.max_steps + plan.absorption_steps)
    coupling = plan_coupling(crystal, plan, u_change, strength)
    return _integrated(coupling, plan, illumination, _dynamical)


def kinematic_intensities(crystal: Crystal, plan: Plan, illumination: Illumination) -> Float[Array, " measurements"]:
    """As `simulate_intensities`, scattering once only: |psi_g|^2 = |A_g0|^2 t^2 sinc^2(D_g t / 2), to first order in A.

    For comparison: right for a few tens of Å, and what programs without dynamical theory fit. Without absorption.
    """
    return _integrated(plan_coupling(crystal, plan), plan, illumination, _single_scattering)


def thickness_table(
    crystal: Crystal, plan: Plan, *, tilt: Float[Array, "frames 2"], thickness: Float[Array, " nodes"]
) -> Float[Array, "measurements nodes"]:
    """Integrated intensities of every measurement at each of the given thicknesses [Å], the frames tilted [deg]."""

    def reduce(density, chunk, _):
        return jnp.einsum("sqrk,srk->srq", density, chunk.tilt_weight)

    nodes = jnp.broadcast_to(thickness, (plan.frames, len(thickness)))
    return _over_segments(plan_coupling(crystal, plan), plan, tilt, nodes, jnp.zeros(()), reduce)


def exit_waves(
    coupling: Complex[Array, " box"] | Float[Array, " box"],
    plan: Plan,
    group: SegmentGroup,
    axis_row: Float[Array, "frames 3"],
    thickness: Float[Array, "frames nodes"],
) -> Complex[Array, "segments nodes rows tilts"]:
    """Flux-normalised amplitudes of the leading beams of every segment in a group.

    Args:
        coupling: V_g [rad/Å] of all differences of beams, see `coupling_box`; non-Hermitian with absorption.
    """
    diagonal, flux = diagonal_and_flux(group, axis_row, plan.wavelength)
    dtype = jnp.result_type(plan.dtype, jnp.complex64 if jnp.iscomplexobj(coupling) else jnp.float32)
    build = partial(folded_interaction, box=plan.box)
    if plan.mode == "reverse":  # or the indices of all chunks would be kept, as large as the matrices
        build = jax.checkpoint(build)
    interaction = build(coupling.astype(dtype), group, axis_row=axis_row, wavelength=plan.wavelength)
    nodes = thickness[group.frame]
    return propagate_chebyshev(
        interaction,
        diagonal,
        flux,
        nodes,
        rows=group.rows,
        max_steps=plan.max_steps,
        mode=plan.mode,
        beams=jnp.sum(group.present, axis=1),
    )


def _integrated(coupling, plan: Plan, illumination: Illumination, density):
    """`density` integrated over every frame's thickness and tilts, in the order of the measurements."""
    nodes, weights = jnp.asarray(illumination.thickness), jnp.asarray(illumination.weights)
    spread = None if illumination.mosaicity is None else orientation_spread(plan, illumination.mosaicity)
    return _over_segments(coupling, plan, illumination.tilt, nodes, weights, _over_nodes_and_tilts, density, spread)


def _over_nodes_and_tilts(density, chunk: SegmentGroup, weights):
    """|psi|^2 [segments rows] summed over thickness nodes and tilts with their weights."""
    at_tilts = jnp.einsum("sqrk,sq->srk", density, weights[chunk.frame])
    return jnp.sum(at_tilts * chunk.tilt_weight, axis=-1)


def _dynamical(coupling, plan: Plan, group: SegmentGroup, axis_row, thickness):
    """|psi|^2 [segments nodes rows tilts] of the leading beams."""
    wave = exit_waves(coupling, plan, group, axis_row, thickness)
    return (jnp.real(wave) ** 2 + jnp.imag(wave) ** 2).astype(jnp.float64)


def _single_scattering(coupling, plan: Plan, group: SegmentGroup, axis_row, thickness):
    """|psi|^2 [segments nodes rows tilts] of the leading beams to first order; the incident beam has 1."""
    column = first_column(coupling, group, plan.box)
    diagonal, flux = diagonal_and_flux(group, axis_row, plan.wavelength)
    rows = slice(0, group.rows)
    half = 0.5 * diagonal[:, None, rows] * thickness[group.frame][:, :, None, None]
    strength = jnp.abs(column)[:, :, None] * flux[:, rows] * flux[:, :1]
    scattered = (strength[:, None] * thickness[group.frame][:, :, None, None] * jnp.sinc(half / jnp.pi)) ** 2
    return scattered.at[:, :, 0].set(1.0)


def _over_segments(coupling, plan, tilt, thickness, weights, reduce, density=_dynamical, spread=None):
    """Sum `reduce` of |psi|^2 over the segments of every measurement, a chunk of segments at a time.

    Where the plan is spread over devices, each sums its own segments and all sums are added.
    """

    def group_sum(group, coupling, axis_row, thickness, weights, spread):
        def one_chunk(chunk):
            if spread is not None:
                chunk = spread_tilts(chunk, spread, plan.settings.nodes_across)
            return reduce(density(coupling, plan, chunk, axis_row, thickness), chunk, weights)

        part = _map_chunks(one_chunk, group, chunk_size(group, plan))
        total = jnp.zeros((plan.measurements + 1, *part.shape[2:])).at[jnp.asarray(group.measurement)].add(part)
        return total if plan.mesh is None else jax.lax.psum(total, plan.mesh.axis_names)

    if plan.mesh is not None:
        own, everywhere = PartitionSpec(*plan.mesh.axis_names), PartitionSpec()
        group_sum = jax.shard_map(
            group_sum, mesh=plan.mesh, in_specs=(own, *[everywhere] * 5), out_specs=everywhere, check_vma=False
        )
    if plan.wanted is not None:  # at no thickness the expansion is short
        thickness = jnp.where(plan.wanted[:, None], thickness, 0.0)
    shared = coupling, beam_axis_row(jnp.asarray(tilt)), thickness, weights, spread
    total = jnp.sum(jnp.stack([group_sum(group, *shared) for group in plan.groups]), axis=0)
    return total[jnp.asarray(plan.same_as)]


def _map_chunks(function, group: SegmentGroup, size: int):
    """`function` over equal chunks of segments, the last one filled up with repeats whose results are removed."""
    count = group.frame.shape[0]
    chunks = -(-count // size)
    size = -(-count // chunks)
    if chunks == 1:
        return function(group)
    index = jnp.minimum(jnp.arange(chunks * size), count - 1).reshape(chunks, size)
    parts = jax.lax.map(lambda i: function(jax.tree.map(lambda x: jnp.asarray(x)[i], group)), index)
    return parts.reshape(chunks * size, *parts.shape[2:])[:count]
