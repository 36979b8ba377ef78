"""Beams chosen by influence, and weak beams folded in: against all beams in dense matrices, limits, derivatives."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pendel
from oracles.dense_propagator import propagate_eigen
from pendel.base import InputError
from pendel.check.beam_error import beam_error_line, measured_beam_error
from pendel.crystal.form_factors import form_factors
from pendel.datasets import example
from pendel.model.dataset import DataSet
from pendel.run.plans import describe_plans
from pendel.run.rocking import spread_over_tilts, strongest
from pendel.simulate import Illumination, make_plan, simulate_intensities
from pendel.simulate.beams import FoldedBeams, SegmentGroup, difference_box
from pendel.simulate.cost import operations
from pendel.simulate.coupling import plan_coupling
from pendel.simulate.influence import coupling_table
from pendel.simulate.matrix import coupling_box, diagonal_and_flux, folded_interaction, interaction_matrix
from pendel.simulate.plan import PlanSettings, matrix_elements
from pendel.simulate.planning import plan_with, settings_of
from pendel.simulate.scattering import structure_factors
from physics_cases import (
    NEAR_ZONE,
    QUARTZ,
    TRICLINIC,
    WAVELENGTH,
    crystal_of,
    experiment_of,
    orientation_of,
    zone_beams,
)

UPRIGHT = jnp.array([[0.0, 0.0, 1.0]])
THICKNESS = np.array([[200.0, 500.0, 900.0]])


def group_of(beams, folded):
    """One tilt of one segment."""
    count, matrix = len(beams), np.asarray(NEAR_ZONE)
    weak = np.array(folded, dtype=np.int32)[None]
    return SegmentGroup(
        hkl=np.array(beams, dtype=np.int32)[None],
        present=np.ones((1, count), dtype=bool),
        matrix=matrix[None, None],
        tilt_weight=np.ones((1, count, 1)),
        across=np.zeros((1, 1, 2)),
        place=np.zeros((1, 1), dtype=np.int32),
        frame=np.zeros(1, dtype=np.int32),
        measurement=np.zeros((1, count), dtype=np.int32),
        rows=count,
        folded=FoldedBeams(weak, np.ones(weak.shape[:2], dtype=bool), matrix[None]) if folded else None,
    )


def couplings(crystal, group, absorption=0.0):
    """Box of V_g of everything a group needs; with absorption V_-g is not conj(V_g)."""
    box, support = difference_box((group,))
    g = np.linalg.norm(support @ pendel.crystal.structure.reciprocal_matrix(crystal.cell).T, axis=1)
    u_g = structure_factors(crystal, support, form_factors(crystal.elements, g), WAVELENGTH)
    change = 1j * absorption * jnp.exp(0.3j * jnp.arange(len(u_g))) * jnp.abs(u_g)
    return box, coupling_box(u_g + change, jnp.conj(u_g) - jnp.conj(change), support, box, WAVELENGTH)


@pytest.fixture(scope="module")
def quartz_beams():
    """Beams near the sphere, and many more that are far from it."""
    near = zone_beams(QUARTZ, NEAR_ZONE, g_max=1.3, sg_max=0.012)
    everything = zone_beams(QUARTZ, NEAR_ZONE, g_max=1.8, sg_max=0.05)
    return near, [hkl for hkl in everything if hkl not in near]


@pytest.mark.parametrize("absorption", [0.0, 0.1])
def test_folded_interaction_is_the_sum_over_the_weak_beams(quartz_beams, absorption):
    near, weak = quartz_beams
    group = group_of(near[:9], weak[:7])
    box, coupling = couplings(crystal_of(QUARTZ), group, absorption)
    found = np.asarray(folded_interaction(coupling, group, box, UPRIGHT, WAVELENGTH)[0])
    table = np.asarray(coupling).reshape(box)

    def v(g, h):  # scatters h into g
        return table[tuple(np.subtract(h, g) + np.array(box) // 2)]

    for i, g in enumerate(near[:9]):
        for j, other in enumerate(near[:9]):
            expected = v(g, other) if i != j else 0.0
            for h in weak[:7]:
                vector = NEAR_ZONE @ np.array(h)
                error = vector[2] - 0.5 * WAVELENGTH * vector @ vector
                expected -= v(g, h) * v(h, other) / (2 * np.pi * error) / (1 + (1e-3 / error) ** 2)
            assert found[i, j] == pytest.approx(expected, abs=1e-14)
    assert np.allclose(found, found.conj().T) is (absorption == 0)


def test_folded_beams_bring_few_beams_near_all_of_them(quartz_beams):
    """Amplitudes of the beams near the sphere, against dense matrices of all beams."""
    near, weak = quartz_beams
    crystal = crystal_of(QUARTZ)
    whole = group_of(near + weak, [])
    box, coupling = couplings(crystal, whole)
    exact = propagate_eigen(
        interaction_matrix(coupling, whole, box), *diagonal_and_flux(whole, UPRIGHT, WAVELENGTH), THICKNESS
    )[:, :, : len(near)]
    group = group_of(near, weak)
    rest = diagonal_and_flux(group, UPRIGHT, WAVELENGTH)
    folded = propagate_eigen(folded_interaction(coupling, group, box, UPRIGHT, WAVELENGTH), *rest, THICKNESS)
    without = propagate_eigen(interaction_matrix(coupling, group, box), *rest, THICKNESS)

    def r_factor(wave):
        return np.sum(np.abs(np.abs(wave) - np.abs(exact))) / np.sum(np.abs(exact))

    assert r_factor(without) > 0.015
    assert r_factor(folded) < 0.4 * r_factor(without)


def test_beams_far_from_the_sphere_change_nothing(quartz_beams):
    near, weak = quartz_beams
    group = group_of(near, weak)
    box, coupling = couplings(crystal_of(QUARTZ), group)
    bare = interaction_matrix(coupling, group, box)
    changes = []
    for factor in (1.0, 10.0, 100.0):  # S grows with the square of g
        moved = dataclasses.replace(group.folded, matrix=factor * group.folded.matrix)
        found = folded_interaction(coupling, dataclasses.replace(group, folded=moved), box, UPRIGHT, WAVELENGTH)
        changes.append(float(jnp.max(jnp.abs(found - bare))))
    assert changes[0] > 1e-4 > changes[1] > 50 * changes[2] > 0


@pytest.fixture(scope="module")
def case():
    crystal = pendel.read_crystal(example().structure)
    experiment = pendel.thin(pendel.select(pendel.read_pets(example().data)), slice(0, None, 10))
    return crystal, experiment


OPTIONS = {"tilts": 15, "thickness_max": 650.0}


def simulated(crystal, plan):
    nodes = np.tile([150.0, 350.0, 600.0], (plan.frames, 1))
    state = Illumination(tilt=np.zeros((plan.frames, 2)), thickness=nodes, weights=np.full_like(nodes, 1 / 3))
    return np.asarray(jax.jit(simulate_intensities)(crystal, plan, state))


def test_without_weak_beams_nothing_changes(case):
    """No folded beams, and folded beams that are all padding: the same intensities bit for bit."""
    crystal, experiment = case
    plan = make_plan(crystal, experiment, g_max=1.0, sg_max=0.01, **OPTIONS)
    assert all(group.folded is None for group in plan.groups)
    groups = []
    for group in plan.groups:
        count = len(group.frame)
        nobody = FoldedBeams(np.zeros((count, 8, 3), np.int32), np.zeros((count, 8), bool), group.matrix[:, 0])
        groups.append(dataclasses.replace(group, folded=nobody))
    padded = dataclasses.replace(plan, groups=tuple(groups))
    np.testing.assert_array_equal(simulated(crystal, padded), simulated(crystal, plan))


@pytest.fixture(scope="module")
def plans(case):
    return {error: make_plan(*case, beam_error=error, **OPTIONS) for error in (0.005, 0.02)}


def test_the_error_is_about_what_was_asked_for_with_less_work_than_by_excitation_error(case, plans):
    crystal, experiment = case
    large = PlanSettings(g_max=2.3, sg_max=0.04, folded_sg_max=0.12, **OPTIONS)
    exact = np.sqrt(simulated(crystal, plan_with(crystal, experiment, large, None)))
    usual = make_plan(crystal, experiment, sg_max=0.01, **OPTIONS)
    found = {**plans, "usual": usual}
    errors = {
        name: np.sum(np.abs(np.sqrt(simulated(crystal, plan)) - exact)) / np.sum(exact) for name, plan in found.items()
    }
    assert 0.2 * 0.02 < errors[0.02] < 1.5 * 0.02
    assert errors[0.005] < 1.5 * 0.005
    assert errors[0.005] < 0.7 * errors[0.02]
    assert errors["usual"] > errors[0.02]
    assert operations(plans[0.02], 600.0) < 0.5 * operations(usual, 600.0)


def test_scored_reflections_lead_and_folded_beams_are_others(case, plans):
    _, experiment = case
    for plan in plans.values():
        for group in plan.groups:
            assert matrix_elements(group) > group.hkl.shape[1] ** 2
            for i in range(len(group.frame)):
                own = [tuple(hkl) for hkl in group.hkl[i][group.present[i]].tolist()]
                weak = [tuple(hkl) for hkl in group.folded.hkl[i][group.folded.present[i]].tolist()]
                assert own[0] == (0, 0, 0)
                assert len({*own, *weak}) == len(own) + len(weak)
                for row, m in enumerate(group.measurement[i]):
                    if m < plan.measurements:
                        assert own[row] == tuple(experiment.hkl[m].tolist())


def test_single_tilts_of_a_rocking_curve_have_the_potentials_of_their_segment(case, plans):
    """Folded beams keep the mean excitation error of the segment, so the mean of the curve is the intensity."""
    crystal, experiment = case
    plan = plans[0.02]
    spread, points, _ = spread_over_tilts(DataSet(experiment, plan), strongest(experiment))
    whole, single = simulated(crystal, plan), simulated(crystal, spread.plan)
    for row in np.unique(points):
        assert np.sum(single[points == row]) / OPTIONS["tilts"] == pytest.approx(whole[row], rel=1e-5)


def test_the_check_measures_the_error(case, plans):
    crystal, experiment = case
    found = measured_beam_error(crystal, experiment, plans[0.02])
    assert 0.2 * 0.02 < found.r_factor < 1.5 * 0.02
    assert found.beams < 0.5 * found.large_beams < 0.5 * found.large_folded
    assert found.work < 0.1
    assert "folded in" in beam_error_line(found).plain


def test_the_record_of_a_run_has_the_setting_that_chose_the_beams(plans):
    record = describe_plans([plans[0.02]])["plan"]
    assert record["beam_error"] == 0.02
    assert "sg_max" not in record
    assert all(group["folded_beams"] > 0 for group in record["groups"])


def test_beams_are_chosen_by_influence_unless_an_excitation_error_is_given(case):
    experiment = case[1]
    default, distance = settings_of(experiment), settings_of(experiment, sg_max=0.02)
    assert (default.beam_error, default.g_max) == (0.01, round(1.45 * experiment.dstar_max, 2))
    assert (distance.beam_error, distance.sg_max) == (None, 0.02)
    assert distance.g_max == round(1.1 * experiment.dstar_max, 2)
    assert settings_of(experiment, beam_error=0.03).beam_error == 0.03


def test_coupling_table_holds_the_potential(case):
    crystal, experiment = case
    table = coupling_table(crystal, 1.0, 2.0, experiment.wavelength)
    plan = make_plan(crystal, experiment, g_max=1.0, sg_max=0.01, **OPTIONS)
    u_g = structure_factors(crystal, plan.support_hkl, plan.support_form_factor, plan.wavelength)
    found = table.between(np.zeros((1, 3), dtype=int), plan.support_hkl)[0]
    np.testing.assert_allclose(found, np.pi * plan.wavelength * np.abs(u_g), rtol=1e-9, atol=1e-12)
    assert np.max(np.abs(plan_coupling(crystal, plan))) == pytest.approx(np.max(found), rel=1e-9)


def test_an_error_that_leaves_no_reflection_is_refused(case):
    crystal, experiment = case
    with pytest.raises(InputError, match=r"No measured reflection .*beam_error 0\.19"):
        make_plan(crystal, experiment, g_max=0.15, beam_error=0.19, **OPTIONS)


@pytest.mark.parametrize("absorption", [None, 1.0])
def test_derivatives_through_folded_beams(absorption):
    """Both modes against central differences, for atoms, displacements and the tilt of the frame."""
    crystal, orientation = crystal_of(TRICLINIC), orientation_of(TRICLINIC)
    measured = zone_beams(TRICLINIC, orientation, g_max=0.9, sg_max=0.004)[1:13]
    experiment = experiment_of(TRICLINIC, orientation, alpha=[0.0], beta=[0.0], semi_angle=0.4, hkl=[measured])
    plan = make_plan(crystal, experiment, g_max=1.4, beam_error=0.05, tilts=4, thickness_max=600.0, dtype="float64")
    assert all(np.any(group.folded.present) for group in plan.groups)
    fixed = {"thickness": np.array([[250.0, 500.0]]), "weights": np.full((1, 2), 0.5), "absorption": absorption}

    def intensities(values, mode):
        moved = dataclasses.replace(crystal, fract=values["fract"], u_aniso=values["u_aniso"])
        return simulate_intensities(moved, plan.with_mode(mode), Illumination(tilt=values["tilt"], **fixed))

    values = {"fract": crystal.fract, "u_aniso": crystal.u_aniso, "tilt": np.array([[0.02, -0.03]])}
    values = {name: jnp.asarray(value) for name, value in values.items()}
    random = np.random.default_rng(3)
    vector = jnp.asarray(random.normal(size=plan.measurements))
    change = {"fract": random.normal(size=values["fract"].shape), "tilt": random.normal(size=(1, 2))}
    change["u_aniso"] = 0.1 * np.broadcast_to(np.eye(3), values["u_aniso"].shape)
    gradient = jax.jit(jax.grad(lambda v: vector @ intensities(v, "reverse")))(values)
    slope = jax.jit(lambda v, d: jax.jvp(lambda x: intensities(x, "forward"), (v,), (d,))[1])
    value = jax.jit(lambda v: intensities(v, "forward"))
    for name in values:
        tangent = {key: jnp.asarray(change[key]) * (key == name) for key in values}
        exact, step = slope(values, tangent), 1e-5
        plus, minus = (value(jax.tree.map(lambda x, d, s=s: x + s * d, values, tangent)) for s in (step, -step))
        largest = float(jnp.max(jnp.abs(exact)))
        assert largest > 1e-5, name
        np.testing.assert_allclose(exact, (plus - minus) / (2 * step), atol=2e-5 * largest, err_msg=name)
        assert float(jnp.vdot(gradient[name], tangent[name])) == pytest.approx(float(vector @ exact), rel=1e-8), name
