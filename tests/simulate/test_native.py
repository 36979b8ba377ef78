"""The compiled recurrence against plain JAX: values and derivatives of both modes, matrices of every kind."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pendel.simulate.chebyshev import propagate_chebyshev
from pendel.simulate.native import is_native

BEAMS, ROWS = (13, 20, 9), 5


@pytest.fixture(autouse=True)
def _compiled(monkeypatch):
    monkeypatch.delenv("PENDEL_NATIVE", raising=False)
    if not is_native():
        pytest.skip("no C++ compiler on PATH, or JAX runs on another device")


def operands(dtype, kind, tilts=11):
    """Segments of different sizes, padded; strong couplings, one thickness of zero; "lossy" ones have absorption."""
    real = kind == "real"
    rng = np.random.default_rng(3)
    shape = (len(BEAMS), max(BEAMS), max(BEAMS))
    v = rng.normal(size=shape) + (0 if real else 1j * rng.normal(size=shape))
    v = 0.01 * (v + np.conj(np.swapaxes(v, 1, 2))) * (1 - np.eye(max(BEAMS)))
    if kind == "lossy":
        v = v * (1 + 0.005j) + 1e-3j * np.eye(max(BEAMS))
    present = np.arange(max(BEAMS)) < np.array(BEAMS)[:, None]
    v = v * present[:, :, None] * present[:, None, :]
    diagonal = np.where(present[:, :, None], 0.05 * rng.normal(size=(len(BEAMS), max(BEAMS), tilts)), 0.0)
    flux = np.where(present[:, :, None], 1 + 0.02 * rng.normal(size=diagonal.shape), 1.0)
    thickness = np.array([[0.0, 50.0, 300.0], [120.0, 240.0, 360.0], [10.0, 20.0, 30.0]])
    number = {"float32": (np.float32, np.complex64), "float64": (np.float64, np.complex128)}[dtype][not real]
    return jnp.asarray(v.astype(number)), jnp.asarray(diagonal), jnp.asarray(flux), jnp.asarray(thickness)


def intensities(arrays, mode):
    present = jnp.asarray(BEAMS)
    wave = propagate_chebyshev(*arrays, rows=ROWS, max_steps=400, mode=mode, beams=present)
    return jnp.real(wave) ** 2 + jnp.imag(wave) ** 2


def both(monkeypatch, function):
    """Results with and without the compiled recurrence."""
    compiled = function()
    monkeypatch.setenv("PENDEL_NATIVE", "0")
    return compiled, function()


@pytest.mark.parametrize(("kind", "tilts"), [("real", 11), ("hermitian", 11), ("lossy", 11), ("lossy", 3)])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-5), ("float64", 1e-12)])
def test_values_and_derivatives_agree_with_plain_jax(monkeypatch, dtype, tolerance, kind, tilts):
    """Three tilts fill half of a wide vector."""
    arrays = operands(dtype, kind, tilts)
    weights = jnp.asarray(np.random.default_rng(4).normal(size=(len(BEAMS), 3, ROWS, tilts)))
    change = [
        jnp.asarray(np.random.default_rng(5).normal(size=x.shape) * 1e-3, x.dtype) * (jnp.abs(x) > 0) for x in arrays
    ]
    tangents = jax.tree.map(lambda x: jnp.stack([x, -2 * x]), change)

    def value():
        return intensities(arrays, "forward")

    def gradient():
        return jax.grad(lambda a: jnp.sum(weights * intensities(a, "reverse")))(arrays)

    def pushed():
        push = lambda t: jax.jvp(lambda *a: intensities(a, "forward"), arrays, tuple(t))[1]  # noqa: E731
        return jax.vmap(push)(tangents)

    for function in (value, gradient, pushed):
        found, expected = both(monkeypatch, function)
        monkeypatch.delenv("PENDEL_NATIVE")
        for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(one, other, atol=tolerance * float(jnp.max(jnp.abs(other))), rtol=0)


def test_chains_side_by_side_agree_with_one_after_the_other():
    """vmap over whole parameter sets, values and both modes."""
    v, diagonal, flux, thickness = operands("float64", "lossy")
    many = jnp.stack([diagonal, 1.1 * diagonal])

    def loss(d, mode):
        return jnp.sum(intensities((v, d, flux, thickness), mode)[..., 1:, :])

    gradient = jax.grad(lambda d: loss(d, "reverse"))
    slope = jax.jacfwd(lambda s: loss(s * diagonal, "forward"))
    np.testing.assert_allclose(jax.vmap(gradient)(many)[1], gradient(many[1]), rtol=1e-10)
    factors = jnp.array([1.0, 1.1])
    np.testing.assert_allclose(jax.vmap(slope)(factors), [slope(1.0), slope(1.1)], rtol=1e-8)
