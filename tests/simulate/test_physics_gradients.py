"""Derivatives of whole frames: against central differences in every parameter, in both modes, at awkward points."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pendel.simulate.forward as forward_module
from pendel.simulate import Illumination, make_plan, simulate_intensities
from pendel.simulate.planning import plan_with
from physics_cases import NEAR_ZONE, QUARTZ, along_axis, crystal_of, experiment_of, zone_beams

NAMES = ("fract", "u_aniso", "occupancy", "tilt", "thickness", "weights")
SCALES = {"fract": 2e-3, "u_aniso": 1e-3, "occupancy": 0.02, "tilt": 0.02, "thickness": 5.0, "weights": 0.1}
FINE = {"dtype": "float64", "thickness_max": 1200.0}


def experiment_near(orientation, alpha, semi_angle):
    """Frames at the given alpha, each with the reflections nearest to the sphere at its centre."""
    measured = []
    for angle in np.radians(alpha):
        turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
        measured.append(zone_beams(QUARTZ, turn @ orientation, g_max=0.9, sg_max=0.004)[1:13])
    beta = np.zeros(len(alpha))
    return experiment_of(QUARTZ, orientation, alpha=alpha, beta=beta, semi_angle=semi_angle, hkl=measured)


def settings(frames):
    """Tilts, thickness nodes and weights; one node stands at t = 0."""
    generator = np.random.default_rng(8)
    return {
        "tilt": generator.normal(scale=0.1, size=(frames, 2)),
        "thickness": np.sort(generator.uniform(300, 1000, size=(frames, 3)), axis=1) * [0, 1, 1],
        "weights": np.full((frames, 3), 1 / 3),
    }


@jax.jit
def intensities(values, crystal, plan):
    structure = {name: values[name] for name in ("fract", "u_aniso", "occupancy")}
    frame = {name: values[name] for name in ("tilt", "thickness", "weights")}
    return simulate_intensities(dataclasses.replace(crystal, **structure), plan, Illumination(**frame))


@jax.jit
def slope(values, tangent, crystal, plan):
    plan = plan.with_mode("forward")
    return jax.jvp(lambda v: intensities(v, crystal, plan), (values,), (tangent,))[1]


@jax.jit
def pulled_back(values, vector, crystal, plan):
    return jax.grad(lambda v: vector @ intensities(v, crystal, plan))(values)


def start(crystal, frames):
    atoms = {name: getattr(crystal, name) for name in ("fract", "u_aniso", "occupancy")}
    return {name: jnp.asarray(value) for name, value in (atoms | settings(frames)).items()}


def direction(values, name, seed):
    """A random change of one group (ADPs symmetric), zero elsewhere."""
    change = SCALES[name] * np.random.default_rng(seed).normal(size=values[name].shape)
    if name == "u_aniso":
        change = (change + np.swapaxes(change, 1, 2)) / 2
    return {key: jnp.asarray(change) if key == name else jnp.zeros_like(value) for key, value in values.items()}


def moved(values, tangent, amount):
    return jax.tree.map(lambda value, change: value + amount * change, values, tangent)


def check_all_groups(crystal, plan, values, seed):
    """J d against central differences, and v.(J d) = (J^T v).d, for every group."""
    vector = jnp.asarray(np.random.default_rng(seed).normal(size=plan.measurements))
    gradient = pulled_back(values, vector, crystal, plan)
    step = 1e-3
    for name in NAMES:
        tangent = direction(values, name, seed)
        exact = slope(values, tangent, crystal, plan)
        plus, minus = (intensities(moved(values, tangent, sign * step), crystal, plan) for sign in (1, -1))
        difference = (plus - minus) / (2 * step)
        largest = float(jnp.max(jnp.abs(exact)))
        assert largest > 1e-5, name
        np.testing.assert_allclose(exact, difference, atol=1e-5 * largest, err_msg=name)
        assert np.isfinite(gradient[name]).all()
        assert float(jnp.vdot(gradient[name], tangent[name])) == pytest.approx(float(vector @ exact), rel=1e-9), name


def test_every_parameter_group():
    crystal = crystal_of(QUARTZ)
    experiment = experiment_near(NEAR_ZONE, (0.2, 11.0), 0.7)
    plan = make_plan(
        crystal,
        experiment,
        g_max=1.0,
        sg_max=0.01,
        tilts=6,
        thickness_max=1200.0,
        dtype="float64",
    )
    check_all_groups(crystal, plan, start(crystal, 2), seed=4)


def test_symmetric_orientation():
    """Beam exactly along the threefold axis: equal excitation errors, degenerate eigenvalues, special sites."""
    crystal = crystal_of(QUARTZ)
    experiment = experiment_near(along_axis(QUARTZ, (0, 0, 1)), (0.0,), 0.0)
    plan = make_plan(
        crystal,
        experiment,
        g_max=0.8,
        sg_max=0.02,
        tilts=1,
        thickness_max=1200.0,
        dtype="float64",
    )
    values = start(crystal, 1) | {"tilt": jnp.zeros((1, 2))}
    check_all_groups(crystal, plan, values, seed=5)


def test_derivatives_along_allowed_directions_keep_the_symmetry():
    """Moving Si along its twofold axis leaves threefold-equivalent reflections equal; any other way would not."""
    crystal = crystal_of(QUARTZ)
    experiment = experiment_near(along_axis(QUARTZ, (0, 0, 1)), (0.0,), 0.0)
    plan = make_plan(crystal, experiment, **FINE, g_max=0.8, sg_max=0.02, tilts=1)
    values = start(crystal, 1) | {"tilt": jnp.zeros((1, 2))}
    hkl = [tuple(row) for row in experiment.hkl.tolist()]
    pairs = [(hkl.index(row), hkl.index(mate)) for row in hkl if (mate := (row[1], -row[0] - row[1], row[2])) in hkl]
    assert len(pairs) >= 3
    first, second = np.array(pairs).T
    zero = jax.tree.map(jnp.zeros_like, values)
    for allowed in crystal.position_basis:
        change = slope(values, zero | {"fract": jnp.asarray(allowed)}, crystal, plan)
        np.testing.assert_allclose(change[first], change[second], atol=1e-10)
    tilted = slope(values, zero | {"tilt": jnp.ones((1, 2))}, crystal, plan)
    assert np.abs(tilted[first] - tilted[second]).max() > 1e-4


def test_single_precision_derivatives():
    crystal = crystal_of(QUARTZ)
    experiment = experiment_near(NEAR_ZONE, (0.2, 11.0), 0.7)
    options = {"g_max": 1.0, "sg_max": 0.01, "tilts": 6, "thickness_max": 1200.0}
    double, single = (make_plan(crystal, experiment, dtype=dtype, **options) for dtype in ("float64", "float32"))
    values = start(crystal, 2)
    vector = jnp.asarray(np.random.default_rng(6).normal(size=double.measurements))
    exact = pulled_back(values, vector, crystal, double)
    rough = pulled_back(values, vector, crystal, single)
    for name in NAMES:
        largest = float(jnp.max(jnp.abs(exact[name])))
        np.testing.assert_allclose(rough[name], exact[name], atol=2e-4 * largest, err_msg=name)


def test_one_trace_per_padded_size(monkeypatch):
    """Twelve frames of different sizes: as many traces of the propagator as groups, and none for new values.

    Another energy and another table of form factors are new values, too.
    """
    traced = []

    def counting(original):
        def counted(*args, **options):
            traced.append(args[0].shape)
            return original(*args, **options)

        return counted

    original = forward_module.propagate_chebyshev
    monkeypatch.setattr(forward_module, "propagate_chebyshev", counting(original))
    crystal = crystal_of(QUARTZ)
    experiment = experiment_near(NEAR_ZONE, np.linspace(-30, 40, 12), 0.7)
    options = {"g_max": 1.2, "sg_max": 0.01, "tilts": 6, "thickness_max": 1200.0}
    plan = make_plan(crystal, experiment, **options)
    simulate = jax.jit(lambda values, crystal, plan: intensities.__wrapped__(values, crystal, plan))
    values = start(crystal, 12)
    first = simulate(values, crystal, plan)
    assert len(traced) == len(set(traced)) == len(plan.groups) <= 3
    second = simulate(moved(values, direction(values, "fract", 1), 1.0), crystal, plan)
    assert len(traced) == len(plan.groups)
    assert np.abs(np.asarray(first - second)).max() > 1e-6
    settings = dataclasses.replace(plan.settings, form_factor_table="peng")
    peng = plan_with(crystal, experiment, settings, None).support_form_factor
    for other in ({"wavelength": 0.9 * plan.wavelength}, {"support_form_factor": peng}):
        third = simulate(values, crystal, dataclasses.replace(plan, **other))
        assert len(traced) == len(plan.groups)
        assert np.abs(np.asarray(first - third)).max() > 1e-4
