"""Exit waves by a Chebyshev expansion of the propagator: any number of beams, one real product per step.

All tilts of a segment share the interaction matrix, so they are columns of one state; the complex state is kept real as
[Re | Im] side by side, the matrix as [Re; Im] stacked. With the spectrum of A within R of c,

    exp(i A t) e_0 = exp(i c t) sum_k c_k(t) X_k,    c_k(t) = (2 - d_k0) i^k J_k(R t),
    X_0 = e_0,  X_1 = Ahat X_0,  X_{k+1} = 2 Ahat X_k - X_{k-1},  Ahat = (A - c) / R.

Absorption makes A non-Hermitian. The mean absorption is the imaginary part of c, so that exp(i c t) damps and the
spectrum of Ahat stays near the real axis, where the polynomials are small.

Source: Tal-Ezer & Kosloff, J. Chem. Phys. 81, 3967 (1984), eqs. 2.19-2.27.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Complex, Float, Int

from pendel.base import Array
from pendel.simulate.native import is_native, native_recurrence

SMALLEST_RADIUS = 1e-5  # rad/Å; keeps A / R finite where nothing couples
FULL = jax.lax.Precision.HIGHEST  # a graphics card would round the factors of products to ten bits
BLOCK = 16  # recurrence steps whose scored beams are summed over the thickness nodes in one product


def propagate_chebyshev(
    interaction: Complex[Array, "segments beams beams"] | Float[Array, "segments beams beams"],
    diagonal: Float[Array, "segments beams tilts"],
    flux: Float[Array, "segments beams tilts"],
    thickness: Float[Array, "segments nodes"],
    *,
    rows: int,
    max_steps: int,
    mode: str = "forward",
    beams: Int[Array, " segments"] | None = None,
) -> Complex[Array, "segments nodes rows tilts"]:
    """Flux-normalised amplitudes of the first `rows` beams; beam 0 is the incident one.

    Args:
        interaction: V = (pi / K_n) U_{h-g} [rad/Å], Hermitian without absorption, with the mean absorption on the
            diagonal; its dtype sets the precision. A real one (centrosymmetric, no absorption) takes half the
            operations.
        diagonal: D = 2 pi S_g M_g^2 [rad/Å].
        flux: M_g, no unit.
        thickness: nodes [Å].
        rows: number of leading beams returned.
        max_steps: budget of the expansion; where R t needs more, the result is NaN.
        mode: "forward" allows `jax.jvp`, "reverse" allows `jax.grad` with a reversible, memory-free recurrence.
        beams: how many leading beams of a segment are no padding; all when not given.

    Derivatives are exact to first order only. R and c carry no derivative: the sum does not depend on them.
    """
    real = jnp.real(interaction).dtype
    centre, radius = spectral_interval(interaction, diagonal, flux)
    budget = -(-max_steps // BLOCK) * BLOCK
    longest = jnp.max(jax.lax.stop_gradient(thickness), axis=1)
    argument, growth = radius * longest, absorption_spread(interaction, flux, centre) * longest
    needed = expansion_length(jnp.nan_to_num(argument), real, jnp.nan_to_num(growth))
    value, slope = _coefficients(radius, jax.lax.stop_gradient(thickness), budget)
    coefficient = jnp.concatenate([value, slope], axis=1).astype(real)
    parts = [jnp.real(interaction), jnp.imag(interaction)] if jnp.iscomplexobj(interaction) else [interaction]
    stacked = jnp.stack(parts, axis=1) / radius[:, None, None, None]
    shifted = (diagonal - jnp.real(centre)[:, None, None]) / radius[:, None, None]
    damping = jnp.imag(centre) / radius
    operands = (stacked.astype(real), shifted.astype(real), flux.astype(real), damping.astype(real), coefficient)
    if is_native():
        present = jnp.full(len(radius), flux.shape[1]) if beams is None else jnp.asarray(beams)
        sums = native_recurrence(*operands, needed, present.astype(jnp.int32), rows, mode)
    else:
        run = recurrence if mode == "forward" else _reversible_recurrence
        sums = run(*operands, jnp.minimum(-(-jnp.max(needed) // BLOCK), budget // BLOCK), rows)
    fits = (needed <= budget) & jnp.isfinite(argument)
    return _assemble(jnp.where(fits[:, None, None, None], sums, jnp.nan), thickness, centre)


def spectral_interval(
    interaction: Complex[Array, "segments beams beams"] | Float[Array, "segments beams beams"],
    diagonal: Float[Array, "segments beams tilts"],
    flux: Float[Array, "segments beams tilts"],
) -> tuple[Complex[Array, " segments"] | Float[Array, " segments"], Float[Array, " segments"]]:
    """Centre c and radius R [rad/Å] of a disc that contains the spectrum of A at every tilt of a segment.

    The real part of c is the middle of the diagonal, the imaginary part the mean absorption V_0. The spectral radius of
    |A - c| is at most max_g (B x)_g / x_g for any positive x (Collatz-Wielandt), where B bounds |A - c| element by
    element over the tilts; x comes from a few power iterations. R is 2 % larger.
    Source: Horn & Johnson, Matrix Analysis (2013), corollary 8.1.29.
    """
    interaction, diagonal, flux = jax.lax.stop_gradient((interaction, diagonal, flux))
    centre = 0.5 * (jnp.max(diagonal, axis=(1, 2)) + jnp.min(diagonal, axis=(1, 2)))
    if jnp.iscomplexobj(interaction):
        centre = centre + 1j * jnp.imag(interaction[:, 0, 0])
    whole = diagonal + jnp.diagonal(interaction, axis1=1, axis2=2)[:, :, None] * flux**2
    largest = jnp.max(jnp.abs(whole - centre[:, None, None]), axis=2)
    return centre, jnp.maximum(1.02 * _largest_ratio(largest, jnp.abs(interaction), flux, 12), SMALLEST_RADIUS)


def absorption_spread(
    interaction: Complex[Array, "segments beams beams"] | Float[Array, "segments beams beams"],
    flux: Float[Array, "segments beams tilts"],
    centre: Complex[Array, " segments"] | Float[Array, " segments"],
) -> Float[Array, " segments"]:
    """Bound [rad/Å] of |(A - A^H) / 2i - Im c|, by which absorption widens the spectrum along the imaginary axis."""
    interaction, flux = jax.lax.stop_gradient((interaction, flux))
    magnitude = 0.5 * jnp.abs(interaction - jnp.conj(jnp.swapaxes(interaction, 1, 2)))
    own = jnp.imag(jnp.diagonal(interaction, axis1=1, axis2=2))[:, :, None] * flux**2
    largest = jnp.max(jnp.abs(own - jnp.imag(centre)[:, None, None]), axis=2)
    return _largest_ratio(largest, magnitude, flux, 4)


def _largest_ratio(largest, magnitude, flux, iterations):
    """max_g (B x)_g / x_g of B = largest on the diagonal, M magnitude M beside it, for an x near the best one."""
    m = jnp.max(flux, axis=2).astype(magnitude.dtype)
    magnitude = magnitude * (1 - jnp.eye(magnitude.shape[1], dtype=magnitude.dtype))

    def bound(x):
        return largest * x + m * jnp.einsum("sgh,sh->sg", magnitude, (m * x).astype(magnitude.dtype))

    def improve(_, x):
        y = bound(x)
        return y / (jnp.max(y, axis=1, keepdims=True) + SMALLEST_RADIUS) + 1e-6

    x = jax.lax.fori_loop(0, iterations, improve, jnp.ones_like(largest))
    return jnp.max(bound(x) / x, axis=1)


def expansion_length(
    argument: Float[Array, "*segments"], dtype, growth: Float[Array, "*segments"] | float = 0.0
) -> Int[Array, "*segments"]:
    """Terms needed for argument = R t: the Bessel tail falls below 3e-9 (float64: 1e-13).

    Args:
        growth: absorption spread x t; by exp(growth) the polynomials of such a spectrum exceed those of a real one.
    """
    offset, width = (10.0, 6.0) if jnp.finfo(dtype).bits == 32 else (16.0, 9.0)
    root = jnp.cbrt(argument)
    return jnp.ceil(argument + offset + width * root + growth * (1 + 0.4 * root)).astype(jnp.int32)


def _coefficients(radius, thickness, terms):
    """(2 - d_k0) J_k(R t) with the sign of i^k (i itself is applied at the end), and its derivative in t [1/Å].

    J_k from cosine sums of exp(i R t cos(theta)): no small divisors, exact at t = 0. J_k' = (J_{k-1} - J_{k+1}) / 2.
    """
    theta = np.pi * (np.arange(terms // 2) + 0.5) / terms  # the other half of the circle follows by symmetry
    k = np.arange(terms)
    table = np.cos(np.outer(theta, k)) * 2 / terms * np.where(k % 4 < 2, 1, -1)  # J_k: undo the sign of i^k
    phase = (radius[:, None] * thickness)[..., None] * np.cos(theta)
    even, odd = jnp.cos(phase) @ table[:, 0::2], jnp.sin(phase) @ table[:, 1::2]
    bessel = jnp.stack([even, odd], axis=-1).reshape(*even.shape[:-1], terms)
    before = jnp.concatenate([-bessel[..., 1:2], bessel[..., :-1]], axis=-1)  # J_{-1} = -J_1
    after = jnp.concatenate([bessel[..., 1:], jnp.zeros_like(bessel[..., :1])], axis=-1)
    sign = np.where(k % 4 < 2, 1.0, -1.0) * np.where(k == 0, 1.0, 2.0)
    return sign * bessel, sign * 0.5 * radius[:, None, None] * (before - after)


def _assemble(sums, thickness, centre):
    """psi(t) from the even and odd sums; the slope carries the derivative in t and is zero in value."""
    nodes = thickness.shape[1]
    tilts = sums.shape[-1] // 2
    even, odd = sums[0], sums[1]
    real = even[..., :tilts] - odd[..., tilts:]
    imaginary = even[..., tilts:] + odd[..., :tilts]
    wave = real + 1j * imaginary
    step = (thickness - jax.lax.stop_gradient(thickness))[:, :, None, None].astype(real.dtype)
    wave = wave[:, :nodes] + jax.lax.stop_gradient(wave[:, nodes:]) * step
    phase = jnp.exp(1j * centre[:, None] * thickness).astype(wave.dtype)
    return phase[:, :, None, None] * wave


_product = partial(jnp.matmul, precision=FULL)


def _apply(stacked, shifted, flux, damping, state):
    """Ahat X = M * (V (M * X)) + (D - i d) * X, complex numbers as [Re | Im]; also returns V (M * X)."""
    beams, tilts = flux.shape[1], flux.shape[2]
    coupled = _product(stacked.reshape(len(flux), -1, beams), jnp.tile(flux, 2) * state)
    if stacked.shape[1] == 2:
        re, im = coupled[:, :beams], coupled[:, beams:]
        coupled = jnp.concatenate([re[..., :tilts] - im[..., tilts:], re[..., tilts:] + im[..., :tilts]], axis=2)
    product = jnp.tile(flux, 2) * coupled + jnp.tile(shifted, 2) * state
    if stacked.shape[1] == 2:  # a real matrix has no absorption
        turned = jnp.concatenate([state[..., tilts:], -state[..., :tilts]], axis=2)
        product = product + damping[:, None, None] * turned
    return product, coupled


def _adjoint(stacked):
    """V^H of V, as [Re; Im]."""
    return jnp.swapaxes(stacked, 2, 3) * np.array([1, -1], stacked.dtype)[: stacked.shape[1], None, None]


def _incident(flux):
    """State with amplitude 1 in beam 0 at every tilt."""
    tilts = flux.shape[2]
    return jnp.zeros((*flux.shape[:2], 2 * tilts), flux.dtype).at[:, 0, :tilts].set(1.0)


def recurrence(stacked, shifted, flux, damping, coefficient, blocks, rows):
    """Even and odd sums over k of c_k X_k [2 segments 2*nodes rows 2*tilts]."""
    return _run(stacked, shifted, flux, damping, coefficient, blocks, rows)[0]


def _run(stacked, shifted, flux, damping, coefficient, blocks, rows):
    segments, terms = coefficient.shape[0], coefficient.shape[1]
    tilts = flux.shape[2]
    start = _incident(flux)
    before = _apply(stacked, shifted, flux, damping, start)[0]  # X_{-1} = X_1 as T_{-1} = T_1

    def step(carry, _):
        older, state = carry
        newer = 2 * _apply(stacked, shifted, flux, damping, state)[0] - older
        return (state, newer), state[:, :rows]

    def block(index, carry):
        older, state, sums = carry
        (older, state), history = jax.lax.scan(step, (older, state), length=BLOCK)
        part = jax.lax.dynamic_slice_in_dim(coefficient, index * BLOCK, BLOCK, axis=2)
        history = jnp.moveaxis(history, 0, 1).reshape(segments, BLOCK, -1)
        gain = jnp.stack([_product(part[..., n::2], history[:, n::2]) for n in (0, 1)])
        return older, state, sums + gain.reshape(sums.shape)

    sums = jnp.zeros((2, segments, terms, rows, 2 * tilts), flux.dtype)
    older, state, sums = jax.lax.fori_loop(0, blocks, block, (before, start, sums))
    return sums, older, state


@partial(jax.custom_vjp, nondiff_argnums=(6,))
def _reversible_recurrence(stacked, shifted, flux, damping, coefficient, blocks, rows):
    return recurrence(stacked, shifted, flux, damping, coefficient, blocks, rows)


def _reversible_forward(stacked, shifted, flux, damping, coefficient, blocks, rows):
    sums, older, state = _run(stacked, shifted, flux, damping, coefficient, blocks, rows)
    return sums, (stacked, shifted, flux, damping, coefficient, blocks, older, state)


def _reversible_backward(rows, saved, cotangent):
    """Runs the recurrence backwards: X_{k-1} = 2 Ahat X_k - X_{k+1}, L_k = s_k + 2 Ahat^H L_{k+1} - L_{k+2}.

    The cotangent of Ahat is sum_k 2 L_{k+1} X_k^H (k >= 1) + L_1 X_0^H.
    """
    stacked, shifted, flux, damping, coefficient, blocks, last, beyond = saved
    segments, _, tilts = flux.shape
    source_rows = cotangent.reshape(2, segments, coefficient.shape[1], -1)
    transposed = _adjoint(stacked)

    def accumulate(gradient, adjoint, state, coupled_adjoint, coupled_state, weight):
        """Adds weight * <L, dAhat X> to the cotangents of V, D and M."""
        d_stacked, d_shifted, d_flux = gradient
        left, right = jnp.tile(flux, 2) * adjoint, jnp.tile(flux, 2) * state
        turned = jnp.concatenate([left[..., tilts:], -left[..., :tilts]], axis=2)
        both = jnp.stack([left, turned], axis=1)[:, : stacked.shape[1]]
        outer = _product(both, jnp.swapaxes(right, 1, 2)[:, None])
        per_tilt = adjoint * state
        by_flux = adjoint * coupled_state + coupled_adjoint * state
        return (
            d_stacked + weight * outer,
            d_shifted + weight * (per_tilt[..., :tilts] + per_tilt[..., tilts:]),
            d_flux + weight * (by_flux[..., :tilts] + by_flux[..., tilts:]),
        )

    def step(carry, source):
        newer, state, adjoint_newer, adjoint, gradient, k = carry
        # here: newer = X_{k+1}, state = X_k, adjoint = L_{k+1}, adjoint_newer = L_{k+2}
        ahat_state, coupled_state = _apply(stacked, shifted, flux, damping, state)
        ahat_adjoint, coupled_adjoint = _apply(transposed, shifted, flux, -damping, adjoint)
        weight = jnp.where(k == 0, 1.0, 2.0).astype(flux.dtype)
        gradient = accumulate(gradient, adjoint, state, coupled_adjoint, coupled_state, weight)
        older = 2 * ahat_state - newer
        adjoint_older = (weight * ahat_adjoint - adjoint_newer).at[:, :rows].add(source)
        return (state, older, adjoint, adjoint_older, gradient, k - 1), None

    def block(index, carry):
        position = (blocks - 1 - index) * BLOCK
        part = jax.lax.dynamic_slice_in_dim(coefficient, position, BLOCK, axis=2)
        pairs = [_product(jnp.swapaxes(part[..., n::2], 1, 2), source_rows[n]) for n in (0, 1)]
        sources = jnp.stack(pairs, axis=2).reshape(segments, BLOCK, rows, 2 * tilts)
        return jax.lax.scan(step, carry, jnp.moveaxis(sources, 1, 0)[::-1])[0]

    zero = jnp.zeros_like(last)
    gradient = (jnp.zeros_like(stacked), jnp.zeros_like(shifted), jnp.zeros_like(flux))
    # the forward loop ends with (X_{n-1}, X_n); step k needs (X_{k+1}, X_k)
    carry = (beyond, last, zero, zero, gradient, blocks * BLOCK - 1)
    gradient = jax.lax.fori_loop(0, blocks, block, carry)[4]
    return (*gradient, jnp.zeros_like(damping), jnp.zeros_like(coefficient), np.zeros((), jax.dtypes.float0))


_reversible_recurrence.defvjp(_reversible_forward, _reversible_backward)
