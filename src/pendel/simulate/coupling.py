"""Of a plan the coupling V_g of a structure, and the largest spectral radius that its matrices reach."""

import jax
import jax.numpy as jnp
from jaxtyping import Complex, Float

from pendel.base import Array, InputError
from pendel.crystal.form_factors import contracted_form_factors
from pendel.crystal.structure import Crystal, reciprocal_matrix
from pendel.simulate.chebyshev import absorption_spread, spectral_interval
from pendel.simulate.matrix import coupling_box, diagonal_and_flux, folded_interaction
from pendel.simulate.mosaic import OrientationSpread, spread_of, spread_tilts
from pendel.simulate.plan import Plan
from pendel.simulate.scattering import absorption_factors, structure_factors

CENTRIC = 1e-6  # imaginary part, relative to the largest coefficient, of what counts as real
MOST_MOSAIC = 2.0  # times the expected spread of the orientation, for which the expansion is long enough


def plan_coupling(
    crystal: Crystal,
    plan: Plan,
    u_change: Complex[Array, " g"] | None = None,
    strength: Float[Array, ""] | float | None = None,
) -> Complex[Array, " box"] | Float[Array, " box"]:
    """V_g [rad/Å] of every difference of beams in the plan's box, flattened; differentiable in the crystal.

    The potential is U(r) + i kappa U'(r) with real U and U'. An inversion centre of the crystal becomes the origin,
    which changes phases of waves but not intensities: U_g and U'_g are real, and so is V_g if there is no absorption.

    Args:
        u_change: added to the U_g [Å⁻²] of `support_hkl`, coefficients of a real potential: U_-g = conj(U_g).
        strength: kappa of the thermal absorption, see `absorption_factors`; None for elastic scattering alone.

    Returns:
        NaN where `u_change` lacks the inversion centre of the crystal.
    """
    u_g, change = structure_factors(crystal, plan.support_hkl, _form_factors(crystal, plan), plan.wavelength), u_change
    if plan.centre is not None:
        to_centre = jnp.exp(-2j * jnp.pi * (plan.support_hkl @ jnp.asarray(plan.centre)))
        u_g = jnp.real(u_g * to_centre)  # real by construction: every atom has its image
        change = None if change is None else _real(change * to_centre)
    u_g = u_g if change is None else u_g + change
    if strength is None:
        return coupling_box(u_g, jnp.conj(u_g), plan.support_hkl, plan.box, plan.wavelength)
    hkl = jnp.concatenate([jnp.zeros((1, 3), dtype=int), jnp.asarray(plan.support_hkl)])
    lost = strength * absorption_factors(crystal, hkl, plan.wavelength, g_max=2 * plan.settings.g_max)
    mean, lost = jnp.real(lost[0]), lost[1:]
    if plan.centre is not None:
        lost = jnp.real(lost * to_centre)
    pair = u_g + 1j * lost, jnp.conj(u_g) + 1j * jnp.conj(lost)
    return coupling_box(*pair, plan.support_hkl, plan.box, plan.wavelength, u_0=1j * mean)


def _form_factors(crystal: Crystal, plan: Plan) -> Float[Array, "sites g"]:
    """Form factors [Å] of the plan's reflections, with the contraction of the crystal's atoms where it has one."""
    if crystal.contraction is None:
        return jnp.asarray(plan.support_form_factor)
    g = jnp.linalg.norm(jnp.asarray(plan.support_hkl) @ reciprocal_matrix(crystal.cell).T, axis=1)
    return contracted_form_factors(crystal.elements, g, crystal.contraction, plan.settings.form_factor_table)


def _real(u_g: Complex[Array, " g"]) -> Float[Array, " g"]:
    """The real part of coefficients that must be real about an inversion centre; NaN where they are not."""
    centric = jnp.max(jnp.abs(jnp.imag(u_g)), initial=0.0) <= CENTRIC * jnp.max(jnp.abs(u_g), initial=0.0)
    return jnp.where(centric, jnp.real(u_g), jnp.nan)


def orientation_spread(plan: Plan, mosaicity: Float[Array, ""] | float) -> OrientationSpread:
    """What a mosaicity [deg] does to the frames of a plan; raises InputError where the plan has no tilts for it."""
    if not plan.is_mosaic:
        raise InputError(
            found="mosaicity in a plan without tilts for it",
            expected="a plan that was made for mosaicity",
            do="refine with --mosaicity on, or make the plan with PlanSettings(mosaicity=...)",
        )
    return spread_of(mosaicity, plan.geometry, plan.semi_angle, plan.settings.tilts, plan.beyond)


def largest_radius(crystal: Crystal, plan: Plan, axis_row: Float[Array, "frames 3"]) -> list[float]:
    """Largest spectral radius R [rad/Å] of each group, as the Chebyshev expansion bounds it."""

    def radius(interaction, diagonal, flux):
        return spectral_interval(interaction, diagonal, flux)[1][0]

    return _largest(plan, plan_coupling(crystal, plan), axis_row, radius)


def largest_spread(crystal: Crystal, plan: Plan, axis_row: Float[Array, "frames 3"]) -> list[float]:
    """Largest spread [rad/Å] of each group's absorption of strength 1, see `absorption_spread`."""

    def spread(interaction, diagonal, flux):
        centre, _ = spectral_interval(interaction, diagonal, flux)
        return absorption_spread(interaction, flux, centre)[0]

    return _largest(plan, plan_coupling(crystal, plan, strength=1.0), axis_row, spread)


def _largest(plan, coupling, axis_row, measure):
    """The largest `measure` of the structure matrix over the segments of each group, mosaicity counted in."""
    spread = orientation_spread(plan, MOST_MOSAIC * plan.settings.mosaicity) if plan.is_mosaic else None

    @jax.jit
    def of_group(group):
        def one(index):
            segment = jax.tree.map(lambda x: jnp.asarray(x)[index][None], group)
            segment = segment if spread is None else spread_tilts(segment, spread, plan.settings.nodes_across)
            interaction = folded_interaction(coupling, segment, plan.box, axis_row, plan.wavelength)
            return measure(interaction, *diagonal_and_flux(segment, axis_row, plan.wavelength))

        return jnp.max(jax.lax.map(one, jnp.arange(len(group.frame))))

    return [float(of_group(group)) for group in plan.groups]
