"""Absorption makes the structure matrix non-Hermitian: waves, flux and derivatives against dense methods."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from oracles import slow_bloch
from oracles.dense_propagator import propagate_expm
from oracles.read_sites import read_coefficients
from pendel.simulate import Illumination, make_plan, simulate_intensities
from pendel.simulate.chebyshev import propagate_chebyshev, spectral_interval
from pendel.simulate.coupling import plan_coupling
from pendel.simulate.matrix import diagonal_and_flux, interaction_matrix
from pendel.simulate.native import is_native
from pendel.simulate.planning import LARGEST_STRENGTH, absorbs, inversion_centre
from pendel.simulate.scattering import absorption_length, structure_factors
from physics_cases import (
    NEAR_ZONE,
    QUARTZ,
    TRICLINIC,
    WAVELENGTH,
    crystal_of,
    eigenproblem,
    experiment_of,
    oracle_cell_of,
    orientation_of,
    propagate,
    zone_beams,
)

THICKNESS = np.array([[0.0, 120.0, 400.0], [50.0, 260.0, 700.0]])
BEAMS, TILTS, ROWS = 20, 5, 6
SIZES = {"strength": 0.1, "u_aniso": 1e-3, "fract": 2e-3}  # of changes
MEAN = 1 / (2 * 790)  # rad/Å: intensities fall to 1/e in 790 Å, as in CsPbBr3


@pytest.fixture(params=["compiled", "plain"])
def recurrence(request, monkeypatch):
    """The compiled recurrence and the one in plain JAX."""
    monkeypatch.setenv("PENDEL_NATIVE", "1" if request.param == "compiled" else "0")
    if request.param == "compiled" and not is_native():
        pytest.skip("no C++ compiler on PATH, or JAX runs on another device")


def lossy(seed=3, mean=MEAN):
    """V = H + i K of two segments with Hermitian H and a positive K of mean diagonal `mean`, D and M of every tilt."""
    rng = np.random.default_rng(seed)
    shape = (2, BEAMS, BEAMS)
    h = 2e-3 * (rng.normal(size=shape) + 1j * rng.normal(size=shape))
    h = (h + np.conj(np.swapaxes(h, 1, 2))) * (1 - np.eye(BEAMS))
    root = rng.normal(size=shape) + 1j * rng.normal(size=shape)
    k = root @ np.conj(np.swapaxes(root, 1, 2))
    k *= mean / np.mean(np.diagonal(k.real, axis1=1, axis2=2))
    diagonal = 0.05 * rng.normal(size=(2, BEAMS, TILTS))
    flux = 1 + 0.02 * rng.random(size=diagonal.shape)
    return jnp.asarray(h + 1j * k), jnp.asarray(diagonal), jnp.asarray(flux)


def waves(problem, thickness=THICKNESS, dtype="float64", mode="forward"):
    interaction, diagonal, flux = problem
    interaction = interaction.astype(jnp.complex64 if dtype == "float32" else jnp.complex128)
    return propagate_chebyshev(
        interaction, diagonal, flux, jnp.asarray(thickness), rows=ROWS, max_steps=1000, mode=mode
    )


@pytest.mark.parametrize("mode", ["forward", "reverse"])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-10), ("float32", 1e-5)])
def test_against_the_dense_exponential(recurrence, mode, dtype, tolerance):
    expected = propagate_expm(*lossy(), THICKNESS)[:, :, :ROWS]
    found = jax.jit(lambda *problem: waves(problem, dtype=dtype, mode=mode))(*lossy())
    np.testing.assert_allclose(found, expected, atol=tolerance)


@pytest.mark.parametrize("mean", [2e-3, 6e-3])
def test_strong_absorption(mean):
    """Amplitudes fall by exp(4) and by exp(12) with spectra much wider than the mean: errors stay absolute ones."""
    expected = propagate_expm(*lossy(mean=mean), THICKNESS)[:, :, :ROWS]
    np.testing.assert_allclose(jax.jit(lambda *p: waves(p))(*lossy(mean=mean)), expected, atol=1e-10)


def test_the_spectrum_is_held():
    interaction, diagonal, flux = lossy()
    centre, radius = spectral_interval(interaction, diagonal, flux)
    np.testing.assert_allclose(np.imag(centre), np.imag(interaction[:, 0, 0]))
    m = np.moveaxis(np.asarray(flux), 1, 2)
    for s in range(2):
        for k in range(TILTS):
            a = m[s, k][:, None] * np.asarray(interaction[s]) * m[s, k] + np.diag(np.asarray(diagonal[s, :, k]))
            assert np.max(np.abs(np.linalg.eigvals(a) - centre[s])) < radius[s]


def loss_of(problem, thickness, dtype="float64", mode="forward"):
    """A scalar that reads every amplitude."""
    mask = jnp.asarray(np.random.default_rng(5).normal(size=(2, 3, ROWS, TILTS)))
    wave = waves(problem, thickness, dtype, mode)
    return jnp.sum(mask * (wave.real**2 + wave.imag**2)) + jnp.sum(mask * wave.real)


def dense_loss(problem, thickness):
    mask = np.random.default_rng(5).normal(size=(2, 3, ROWS, TILTS))
    wave = propagate_expm(*problem, thickness)[:, :, :ROWS]
    return np.sum(mask * np.abs(wave) ** 2) + np.sum(mask * wave.real)


def direction():
    """A change of V that is as non-Hermitian as it can be, of D, of M and of t."""
    rng = np.random.default_rng(11)
    v = 3e-5 * (rng.normal(size=(2, BEAMS, BEAMS)) + 1j * rng.normal(size=(2, BEAMS, BEAMS)))
    d, m = (scale * rng.normal(size=(2, BEAMS, TILTS)) for scale in (3e-5, 1e-2))
    return (v, d, m), 3.0 * rng.normal(size=THICKNESS.shape)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-6), ("float32", 1e-3)])
def test_derivatives_of_both_modes(recurrence, dtype, tolerance):
    """J d against central differences of the dense exponential, and v.(J d) = (J^T v).d."""
    problem, tangent = lossy(), direction()
    step = 1e-4
    shifted = [
        dense_loss(
            tuple(np.asarray(p) + sign * step * t for p, t in zip(problem, tangent[0], strict=True)),
            THICKNESS + sign * step * tangent[1],
        )
        for sign in (1, -1)
    ]
    expected = (shifted[0] - shifted[1]) / (2 * step)
    primal = (problem, jnp.asarray(THICKNESS))
    tangent = jax.tree.map(jnp.asarray, tangent)
    _, slope = jax.jit(lambda p, t: jax.jvp(lambda *a: loss_of(*a, dtype), p, t))(primal, tangent)
    gradient = jax.jit(jax.grad(lambda *a: loss_of(*a, dtype, "reverse"), argnums=(0, 1)))(*primal)
    pairs = zip(jax.tree.leaves(gradient), jax.tree.leaves(tangent), strict=True)
    total = sum(float(jnp.real(jnp.sum(g * t))) for g, t in pairs)  # JAX's gradient of z is d/dx - i d/dy
    assert float(slope) == pytest.approx(expected, rel=tolerance)
    assert total == pytest.approx(float(slope), rel=1e-9 if dtype == "float64" else tolerance)


def test_a_real_matrix_need_not_be_symmetric(recurrence):
    """Real, without its transpose's symmetry: amplitudes and the two modes."""
    interaction, diagonal, flux = lossy()
    problem = (jnp.real(interaction) + 3e-4 * jnp.triu(jnp.ones((BEAMS, BEAMS)), 1), diagonal, flux)

    def wave(v, mode):
        return propagate_chebyshev(v, *problem[1:], jnp.asarray(THICKNESS), rows=ROWS, max_steps=1000, mode=mode)

    np.testing.assert_allclose(
        wave(problem[0], "forward"), propagate_expm(*problem, THICKNESS)[:, :, :ROWS], atol=1e-10
    )
    change = jnp.asarray(np.random.default_rng(2).normal(size=problem[0].shape))
    _, slope = jax.jvp(lambda v: jnp.sum(jnp.abs(wave(v, "forward")) ** 4), (problem[0],), (change,))
    gradient = jax.grad(lambda v: jnp.sum(jnp.abs(wave(v, "reverse")) ** 4))(problem[0])
    assert float(jnp.vdot(gradient, change)) == pytest.approx(float(slope), rel=1e-9)


@pytest.mark.parametrize("thickest", [450.0, 800.0, 2000.0])
def test_gradients_of_thick_crystals_in_single_precision(recurrence, thickest):
    """Running the states backwards stays accurate at 2000 Å if intensities fall to 1/e in 790 Å."""
    problem = lossy()
    hermitian = 0.5 * (problem[0] + jnp.conj(jnp.swapaxes(problem[0], 1, 2)))
    problem = (hermitian + 1j * (MEAN * jnp.eye(BEAMS) + 0.015 * hermitian), *problem[1:])
    thickness = thickest * np.array([[0.3, 0.6, 1.0]] * 2)
    exact, single = (
        jax.jit(jax.grad(lambda p, dtype=dtype: loss_of(p, thickness, dtype, "reverse")))(problem)
        for dtype in ("float64", "float32")
    )
    for one, other in zip(single, exact, strict=True):
        assert np.all(np.isfinite(one))
        np.testing.assert_allclose(one, other, atol=1e-4 * float(jnp.max(jnp.abs(other))))


def test_flux_falls_with_thickness():
    wave = propagate(lossy(), np.linspace(0, 900, 40))
    flux = np.sum(np.abs(wave) ** 2, axis=2)
    np.testing.assert_allclose(flux[:, 0], 1.0, atol=1e-12)
    assert np.all(np.diff(flux, axis=1) < 0)
    assert np.all(flux[:, -1] < 0.5)


@pytest.mark.parametrize("structure", [QUARTZ, TRICLINIC], ids=lambda s: s.name)
def test_matrix_with_absorption_against_the_slow_implementation(structure):
    """A + i A' with U'_g = 0.1 U_g, and U'_0 on the diagonal; in a chiral crystal a wrong conjugate would show."""
    share, u_0 = 0.1, MEAN / (np.pi * WAVELENGTH)
    orientation = NEAR_ZONE if structure is QUARTZ else orientation_of(structure)
    beams = zone_beams(structure, orientation, g_max=1.0, sg_max=0.02)
    frame = slow_bloch.Frame(orientation, WAVELENGTH, "rotation", 0.0, 0.0, 0.0, 1)
    n = np.array([0.0, 0.0, 1.0])
    matrix = slow_bloch.structure_matrix(oracle_cell_of(structure), frame, n, beams, read_coefficients())
    m_squared = 1 / (1 - WAVELENGTH * np.array([(orientation @ np.array(hkl))[2] for hkl in beams]))
    lost = share * (matrix - np.diag(np.diag(matrix))) + np.pi * WAVELENGTH * u_0 * np.diag(m_squared)
    thickness = np.array([200.0, 700.0])
    expected = slow_bloch.exit_intensities(matrix + 1j * lost, thickness)
    problem = eigenproblem(crystal_of(structure), beams, orientation, absorption=share, u_0=u_0)
    wave = propagate(problem, thickness)[0, :, :, 0]
    np.testing.assert_allclose(np.abs(wave) ** 2, expected, atol=5e-9)
    assert np.sum(expected[-1]) < 0.8


@pytest.fixture(scope="module")
def centred():
    """A crystal with an inversion centre away from the origin, its plan, and the illumination of a simulation."""
    crystal = crystal_of(dataclasses.replace(TRICLINIC, operators=("x,y,z", "1/2-x,-y,1/4-z")))
    orientation = orientation_of(TRICLINIC)
    measured = zone_beams(TRICLINIC, orientation, g_max=0.9, sg_max=0.004)[1:13]
    frame = {"alpha": [0.1], "beta": [0.0], "semi_angle": 0.5, "hkl": [measured]}
    experiment = experiment_of(TRICLINIC, orientation, **frame)
    plan = make_plan(crystal, experiment, g_max=1.0, sg_max=0.02, tilts=3, thickness_max=1500.0, dtype="float64")
    assert plan.centre == inversion_centre(crystal) == (0.25, 0.0, 0.125)
    nodes, weights = np.array([[300.0, 600.0]]), np.full((1, 2), 0.5)
    return crystal, plan, Illumination(tilt=np.zeros((1, 2)), thickness=nodes, weights=weights)


def problem_of(crystal, plan, strength=1.0):
    """Interaction, diagonal and flux of the first group of a plan, with absorption."""
    (group, *_) = plan.groups
    interaction = interaction_matrix(plan_coupling(crystal, plan, strength=strength), group, plan.box)
    row = jnp.tile(jnp.array([0.0, 0.0, 1.0]), (plan.frames, 1))
    return interaction, *diagonal_and_flux(group, row, plan.wavelength)


def with_strength(illumination, strength):
    return dataclasses.replace(illumination, absorption=strength)


def test_absorption_damps_a_centrosymmetric_crystal(centred):
    """With an inversion centre the coupling is real only without absorption, and the centre changes no intensity."""
    crystal, plan, illumination = centred
    assert not jnp.iscomplexobj(plan_coupling(crystal, plan))
    assert jnp.iscomplexobj(plan_coupling(crystal, plan, strength=1.0))
    simulate = jax.jit(simulate_intensities)
    elastic = simulate(crystal, plan, illumination)
    damped = simulate(crystal, plan, with_strength(illumination, 1.0))
    general = simulate(crystal, dataclasses.replace(plan, centre=None), with_strength(illumination, 1.0))
    np.testing.assert_allclose(damped, general, atol=1e-10)
    assert np.sum(damped) < 0.95 * np.sum(elastic)
    np.testing.assert_allclose(simulate(crystal, plan, with_strength(illumination, 0.0)), elastic, atol=1e-12)


def test_thermal_absorption_against_the_dense_exponential(centred):
    """Waves of a crystal's own U', and the flux of all beams, which falls at every thickness."""
    crystal, plan, _ = centred
    problem, thickness = problem_of(crystal, plan), np.linspace(0.0, 1200.0, 25)
    wave = propagate(problem, thickness)
    expected = propagate_expm(*problem, thickness[[3, 24]][None].repeat(len(problem[0]), axis=0))
    np.testing.assert_allclose(wave[:, [3, 24]], expected, atol=1e-10)
    flux = np.sum(np.abs(wave) ** 2, axis=2)
    assert np.all(np.diff(flux, axis=1) < 0)
    length = absorption_length(crystal, float(plan.wavelength))
    assert 0.1 < -np.log(np.mean(flux[:, -1])) * length / 1200.0 < 3.0


def test_two_beams_with_absorption():
    """At the Bragg condition I_0 and I_g are exp(-2 m t) |cos (v + i w) t|^2 and |sin|^2, m the mean absorption."""
    v, w, m = 0.011, 4e-4, MEAN
    interaction = jnp.array([[[1j * m, v + 1j * w], [v + 1j * w, 1j * m]]])
    thickness = np.array([50.0, 300.0, 900.0])
    wave = propagate((interaction, jnp.zeros((1, 2, 1)), jnp.ones((1, 2, 1))), thickness)[0, :, :, 0]
    angle = (v + 1j * w) * thickness
    expected = np.exp(-2 * m * thickness)[:, None] * np.abs(np.stack([np.cos(angle), np.sin(angle)], axis=1)) ** 2
    np.testing.assert_allclose(np.abs(wave) ** 2, expected, atol=1e-12)


def test_kinematic_limit(centred):
    """In 1 Å a beam gets |V_g + i V'_g|^2 t^2 of the incident one."""
    crystal, plan, _ = centred
    problem = problem_of(crystal, plan)
    wave, first = propagate(problem, np.array([1.0]))[0, 0, 1:, 0], problem[0][0, 1:, 0] * problem[2][0, 1:, 0]
    np.testing.assert_allclose(np.abs(wave) ** 2, np.abs(first) ** 2, rtol=0.02, atol=1e-9)


@pytest.mark.parametrize("centre", [True, False])
def test_derivatives_by_strength_and_displacement(centred, centre):
    """J d against central differences and v.(J d) = (J^T v).d, with the real symmetry and without."""
    crystal, plan, illumination = centred
    plan = plan if centre else dataclasses.replace(plan, centre=None)
    start = {"strength": jnp.asarray(0.8), "u_aniso": jnp.asarray(crystal.u_aniso), "fract": jnp.asarray(crystal.fract)}
    rng = np.random.default_rng(3)
    change = {name: SIZES[name] * jnp.asarray(rng.normal(size=x.shape)) for name, x in start.items()}
    change["u_aniso"] = change["u_aniso"] + jnp.swapaxes(change["u_aniso"], 1, 2)

    def intensities(values, mode):
        own = dataclasses.replace(crystal, u_aniso=values["u_aniso"], fract=values["fract"])
        return simulate_intensities(own, plan.with_mode(mode), with_strength(illumination, values["strength"]))

    value = jax.jit(lambda x: intensities(x, "forward"))
    for name in start:
        tangent = {key: x if key == name else jnp.zeros_like(x) for key, x in change.items()}
        _, slope = jax.jit(lambda x, d: jax.jvp(lambda y: intensities(y, "forward"), (x,), (d,)))(start, tangent)
        plus, minus = (value(jax.tree.map(lambda x, d, s=s: x + s * d, start, tangent)) for s in (1e-3, -1e-3))
        largest = float(jnp.max(jnp.abs(slope)))
        np.testing.assert_allclose(slope, (plus - minus) / 2e-3, atol=1e-5 * largest, err_msg=name)
        vector = jnp.asarray(rng.normal(size=slope.shape))
        gradient = jax.jit(jax.grad(lambda x, v: v @ intensities(x, "reverse")))(start, vector)
        assert float(jnp.vdot(gradient[name], tangent[name])) == pytest.approx(float(vector @ slope), rel=1e-8), name


def test_steps_for_strong_absorption(centred):
    """A plan has steps for the strongest absorption of the prior; far above it intensities are NaN, not wrong."""
    crystal, plan, illumination = centred
    assert plan.is_absorbing
    assert plan.absorption_steps > 0
    thick = dataclasses.replace(illumination, thickness=np.array([[1500.0, 1500.0]]))
    simulate = jax.jit(simulate_intensities)
    assert np.all(np.isfinite(simulate(crystal, plan, with_strength(thick, LARGEST_STRENGTH))))
    assert np.all(np.isnan(simulate(crystal, plan, with_strength(thick, 100.0))))
    assert not absorbs(dataclasses.replace(crystal, occupancy=0.1 * crystal.occupancy), float(plan.wavelength))


def test_a_change_without_the_centre_is_not_lost(centred):
    """A change of the potential that is not real about the centre gives NaN; one that is gives the general result."""
    crystal, plan, illumination = centred
    simulate = jax.jit(simulate_intensities)
    own = 0.02 * structure_factors(crystal, plan.support_hkl, plan.support_form_factor, plan.wavelength)
    general = dataclasses.replace(plan, centre=None)
    np.testing.assert_allclose(
        simulate(crystal, plan, illumination, u_change=own),
        simulate(crystal, general, illumination, u_change=own),
        atol=1e-10,
    )
    assert np.all(np.isnan(simulate(crystal, plan, illumination, u_change=1j * own)))
