"""The propagator: equal to dense matrix exponential and eigen-decomposition, unitary, with equal exact derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from oracles.dense_propagator import propagate_eigen, propagate_expm
from pendel.simulate.chebyshev import propagate_chebyshev
from physics_cases import NEAR_ZONE, QUARTZ, crystal_of, eigenproblem, propagate, zone_beams

pytestmark = pytest.mark.optimized
THICKNESS = np.array([0.0, 150.0, 620.0, 1500.0])
TOLERANCE = {"float64": 1e-9, "float32": 3e-6}


@pytest.fixture(scope="module")
def problem():
    """Quartz at seven tilts of 0.1 degrees about x: interaction [1 beams beams], diagonal and flux [1 beams tilts]."""
    crystal = crystal_of(QUARTZ)
    beams = zone_beams(QUARTZ, NEAR_ZONE, g_max=1.2, sg_max=0.02)
    parts = []
    for angle in np.radians(np.linspace(-0.3, 0.3, 7)):
        turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
        parts.append(eigenproblem(crystal, beams, turn @ NEAR_ZONE))
    return parts[0][0], jnp.concatenate([p[1] for p in parts], 2), jnp.concatenate([p[2] for p in parts], 2)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("dense", [propagate_expm, propagate_eigen])
def test_against_dense_methods(problem, dense, dtype):
    wave = propagate(problem, THICKNESS, dtype=dtype)
    np.testing.assert_allclose(wave, dense(*problem, THICKNESS[None]), atol=TOLERANCE[dtype])


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-10), ("float32", 1e-5)])
def test_flux_is_conserved(problem, dtype, tolerance):
    wave = propagate(problem, THICKNESS, dtype=dtype)
    flux = np.sum(np.abs(np.asarray(wave, dtype=complex)) ** 2, axis=2)
    np.testing.assert_allclose(flux, 1.0, atol=tolerance)
    assert np.abs(np.asarray(wave[0, 3, 0])).max() < 0.9


def test_thicknesses_compose(problem):
    """S(t1 + t2) = S(t2) S(t1), for the whole scattering matrix of the first tilt."""
    first, second = 230.0, 415.0
    one = scattering_matrix(problem, first)
    two = scattering_matrix(problem, second)
    both = scattering_matrix(problem, first + second)
    np.testing.assert_allclose(two @ one, both, atol=1e-9)
    np.testing.assert_allclose(both @ both.conj().T, np.eye(len(both)), atol=1e-9)


def scattering_matrix(problem, thickness):
    """Column h: exit wave for beam h incident, by putting each beam first in turn."""
    interaction, diagonal, flux = (part[0] for part in problem)
    count = len(diagonal)
    order = np.array([np.roll(np.arange(count), -first) for first in range(count)])
    turned = interaction[order[:, :, None], order[:, None, :]], diagonal[order][:, :, :1], flux[order][:, :, :1]
    wave = np.asarray(propagate(turned, np.array([thickness])))[:, 0, :, 0]
    return np.stack([wave[h][np.argsort(order[h])] for h in range(count)], axis=1)


def test_thickness_beyond_the_budget_is_not_a_number(problem):
    interaction, diagonal, flux = problem
    nodes = jnp.array([[100.0, 3000.0]])
    wave = propagate_chebyshev(interaction, diagonal, flux, nodes, rows=3, max_steps=64)
    assert np.isnan(np.asarray(wave)).all()


def weighted_intensity(dtype="float64", mode="forward"):
    """A scalar that reads every amplitude, of real V, imaginary V, D, M and t."""
    rows = 9
    mask = jnp.asarray(np.random.default_rng(5).normal(size=(1, 3, rows, 1)))

    def function(real, imaginary, diagonal, flux, thickness):
        interaction = (real + 1j * imaginary).astype(jnp.complex64 if dtype == "float32" else jnp.complex128)
        wave = propagate_chebyshev(interaction, diagonal, flux, thickness, rows=rows, max_steps=1200, mode=mode)
        return jnp.sum(mask * (wave.real**2 + wave.imag**2)) + jnp.sum(mask * wave.real)

    return function


def directions(problem, thickness):
    """Arguments of `weighted_intensity` and a random direction that keeps V Hermitian."""
    generator = np.random.default_rng(11)
    interaction, diagonal, flux = problem
    primal = (interaction.real, interaction.imag, diagonal, flux, thickness)
    x, y, d, m, t = (generator.normal(size=part.shape) for part in primal)
    scale = 3e-5  # rad/Å, one per cent of a strong coupling
    x, y = x + np.swapaxes(x, 1, 2), y - np.swapaxes(y, 1, 2)
    return primal, (scale * x, scale * y, scale * d, 1e-2 * m, 3.0 * t)


def test_derivatives_against_differences(problem):
    """Forward and reverse mode give the same slope, that of central differences, for V, D, M and t together."""
    primal, tangent = directions(problem, jnp.array([[0.0, 210.0, 600.0]]))
    forward = jax.jit(weighted_intensity())
    reverse = jax.jit(jax.grad(weighted_intensity(mode="reverse"), argnums=(0, 1, 2, 3, 4)))
    _, slope = jax.jvp(forward, primal, tangent)
    gradient = reverse(*primal)
    step = 1e-5
    shifted = [forward(*(p + sign * step * t for p, t in zip(primal, tangent, strict=True))) for sign in (1, -1)]
    assert float(slope) == pytest.approx(float(shifted[0] - shifted[1]) / (2 * step), rel=1e-6)
    total = sum(float(jnp.vdot(g, t)) for g, t in zip(gradient, tangent, strict=True))
    assert total == pytest.approx(float(slope), rel=1e-10)


def test_derivatives_in_single_precision(problem):
    primal, tangent = directions(problem, jnp.array([[50.0, 210.0, 600.0]]))
    _, exact = jax.jvp(jax.jit(weighted_intensity()), primal, tangent)
    _, slope = jax.jvp(jax.jit(weighted_intensity("float32")), primal, tangent)
    single = weighted_intensity("float32", "reverse")
    gradient = jax.jit(jax.grad(single, argnums=(0, 1, 2, 3, 4)))(*primal)
    total = sum(float(jnp.vdot(g, t)) for g, t in zip(gradient, tangent, strict=True))
    assert float(slope) == pytest.approx(float(exact), rel=1e-3)
    assert total == pytest.approx(float(exact), rel=1e-3)


@pytest.mark.parametrize("coupling", [2e-3, 0.0])
def test_derivatives_at_exact_degeneracy(coupling):
    """All excitation errors zero, all couplings alike or absent, t = 0 among the nodes: finite and correct."""
    beams, tilts, step = 12, 2, 1e-4
    interaction = coupling * (1 - jnp.eye(beams, dtype=complex))[None]
    diagonal = jnp.zeros((1, beams, tilts))
    primal, tangent = directions((interaction, diagonal, diagonal + 1.0), jnp.array([[0.0, 180.0, 700.0]]))
    function = jax.jit(weighted_intensity())
    _, slope = jax.jvp(function, primal, tangent)
    shifted = [function(*(p + sign * step * t for p, t in zip(primal, tangent, strict=True))) for sign in (1, -1)]
    assert float(slope) == pytest.approx(float(shifted[0] - shifted[1]) / (2 * step), rel=1e-5)
    gradient = jax.jit(jax.grad(weighted_intensity(mode="reverse"), argnums=(0, 1, 2, 3, 4)))(*primal)
    total = sum(float(jnp.vdot(g, t)) for g, t in zip(gradient, tangent, strict=True))
    assert total == pytest.approx(float(slope), rel=1e-9)


def test_segments_do_not_disturb_each_other(problem):
    """A segment without any coupling stands beside a strong one: each behaves as if it were alone."""
    strong = tuple(part[:, :8] for part in problem)
    strong = (strong[0][:, :, :8], *strong[1:])
    empty = (0 * strong[0], 0 * strong[1], 0 * strong[2] + 1.0)
    pair = tuple(jnp.concatenate(parts) for parts in zip(empty, strong, strict=True))
    expected = propagate_eigen(*pair, np.tile(THICKNESS, (2, 1)))
    np.testing.assert_allclose(propagate(pair, THICKNESS), expected, atol=1e-9)


def test_poisoned_coupling_is_visible(problem):
    """A coupling that is not a number must not end as an intensity of zero."""
    interaction, diagonal, flux = problem
    poisoned = (interaction.at[0, 0, 1].set(jnp.nan), diagonal, flux)
    nodes = jnp.array([[100.0]])
    wave = propagate_chebyshev(*poisoned, nodes, rows=3, max_steps=200)
    assert np.isnan(np.asarray(wave)).all()
