"""Several crystals, of different size, with a smooth curve in each of them: all that the arrow matrix is used for."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from pendel.folder.checkpoint import packed, unpacked
from pendel.infer.guide.minibatch import frame_batches
from pendel.infer.guide.start import neural_guide
from pendel.infer.layout import Layout
from pendel.infer.maximum import frame_moves, spreads
from pendel.infer.maximum.arrow import arrow_of_diagonal
from pendel.infer.maximum.curvature import part_sizes
from pendel.infer.maximum.map import fit_map, laplace_draws, laplace_evidence
from pendel.infer.maximum.normal_matrix import normal_matrix
from pendel.infer.maximum.optimise import damped_step
from pendel.infer.plates import frame_of_elements
from pendel.infer.target import make_target
from pendel.model.simulation import simulated
from pendel.run.stages import RESULTS

FRAMES, PER_FRAME = (5, 3, 4), 6


def curve_covariance(frames):
    distance = np.abs(np.subtract.outer(np.arange(frames), np.arange(frames))) / 2
    return jnp.asarray((1 + distance) * np.exp(-distance) + 1e-3 * np.eye(frames))


def crystals_model(frames=FRAMES, coupled=False, *, y=None):
    """Several crystals of one structure: a slope and errors for all, a curve and an offset for every crystal's frames.

    The second crystal's frames have one number more than those of the others.
    """
    slope = numpyro.sample("slope", dist.Normal(0, 2))
    bend = numpyro.sample("bend", dist.Normal(0, 1))
    b = numpyro.sample("b", dist.LogNormal(-1.5, 0.5))
    before = jnp.zeros(1)
    for number, count in enumerate(frames):
        name = f"frames_{number + 1}" if number else "frames"
        owner, x = np.repeat(np.arange(count), PER_FRAME), np.linspace(-1, 1, count * PER_FRAME)
        spread = numpyro.sample(f"spread_{number}", dist.HalfNormal(1.0), infer={"fixed_in_map": 0.5})
        with numpyro.plate(name, count):
            offset = numpyro.sample(f"offset_{number}", dist.Normal(0.3 * slope, spread))
            tilt = numpyro.sample(f"tilt_{number}", dist.Normal(0, 0.2)) if number == 1 else jnp.zeros(count)
        curve = numpyro.sample(
            f"curve_{number}",
            dist.MultivariateNormal(jnp.zeros(count), 0.3 * curve_covariance(count)),
            infer={"plate": name},
        )
        if coupled and number:
            numpyro.factor(f"coupling_{number}", -0.5 * (offset[0] - before[0]) ** 2)
        before = offset
        mean = simulated(f"mean_{number}", lambda a, c, x=x: jnp.sin(a * x) + c * x**2, slope, bend)
        mean = 2 + mean + offset[owner] + curve[owner] * np.cos(7 * x) + tilt[owner] * x
        numpyro.sample(
            f"y_{number}",
            dist.StudentT(4.0, mean, jnp.sqrt(0.1**2 + (b * mean) ** 2)),
            obs=None if y is None else y[number],
            infer={"plate": name, "frame": owner},
        )


@pytest.fixture(scope="module")
def target():
    rng = np.random.default_rng(0)
    y = tuple(2 + np.sin(np.linspace(-1, 1, n * PER_FRAME)) + 0.3 * rng.standard_normal(n * PER_FRAME) for n in FRAMES)
    return make_target(crystals_model, y=y)


@pytest.fixture(scope="module")
def fit(target):
    return fit_map(target)


def matrix_at(target, z):
    sizes = part_sizes(target)
    return jax.jit(lambda z, data: normal_matrix(target, z, dict(target.spreads), data, sizes))(z, target.data)


def dense_matrix(target, z, values):
    """J^T F J minus the Hessian of the log prior, from whole Jacobians; and that Hessian."""

    def parameters(z):
        return target.predict(target.layout.split(z), values)[1].parameters

    @jax.jit
    def both(z):
        jacobian = jax.jacfwd(parameters)(z)
        information = target.predict(target.layout.split(z), values)[1].information()
        of_prior = jax.hessian(lambda z: target.log_prior(target.layout.split(z), values))(z)
        return jnp.einsum("amp,abm,bmq->pq", jacobian, information, jacobian) - of_prior, of_prior

    return map(np.array, both(z))


def test_normal_matrix_and_correction_of_several_crystals(target):
    layout, values = target.layout, dict(target.spreads)
    assert part_sizes(target) == tuple(n * (3 if number == 1 else 2) for number, n in enumerate(FRAMES))
    z = jnp.asarray(0.3 * np.random.default_rng(1).standard_normal(layout.size))
    potential, gradient, matrix, correction = matrix_at(target, z)
    dense, _ = dense_matrix(target, z, values)
    np.testing.assert_allclose(matrix.dense(), dense, rtol=1e-9, atol=1e-9)
    density = jax.jit(jax.value_and_grad(lambda z: target.negative_log_density(layout.split(z), values)))
    value, slope = density(z)
    assert float(potential) == pytest.approx(float(value), rel=1e-12)
    np.testing.assert_allclose(gradient, slope, rtol=1e-9, atol=1e-9)

    # The errors change the likelihood's part of the matrix; the log prior's own curvature does not count.
    @jax.jit
    @jax.grad
    def slope_of_log_det(log_b):
        def prediction(z):
            return target.predict(layout.split(z), values)[1]

        rows = jax.jacfwd(lambda z: prediction(z).parameters)(z)[0]
        change = prediction(z.at[2].set(log_b)).information()[0, 0] - prediction(z).information()[0, 0]
        return -0.5 * jnp.linalg.slogdet(dense + rows.T @ (change[:, None] * rows))[1]

    assert layout.names()[2] == "b"
    assert correction[2] == pytest.approx(float(slope_of_log_det(z[2])), rel=1e-8)
    assert np.count_nonzero(correction) == 1


def test_plates_that_the_prior_couples_are_one_part():
    together = make_target(partial(crystals_model, coupled=True), y=tuple(np.zeros(n * PER_FRAME) for n in FRAMES))
    layout = together.layout
    assert part_sizes(together) == (layout.size - layout.globals,)
    z = jnp.asarray(0.3 * np.random.default_rng(1).standard_normal(layout.size))
    dense, _ = dense_matrix(together, z, dict(together.spreads))
    np.testing.assert_allclose(matrix_at(together, z)[2].dense(), dense, rtol=1e-9, atol=1e-9)


def test_matrix_of_single_frames(target):
    layout, values = target.layout, dict(target.spreads)
    scores = frame_moves.frame_scores(target, part_sizes(target))
    z = jnp.asarray(0.3 * np.random.default_rng(2).standard_normal(layout.size))
    prior = scores.prior(z, values, target.data)
    dense, of_prior = dense_matrix(target, z, values)
    np.testing.assert_allclose(prior[1], np.diag(of_prior), atol=1e-10)
    _, gradient, blocks = scores.score(z, z, prior, values, target.data)
    owner = frame_of_elements(layout)
    dense += of_prior - np.diag(np.diag(of_prior))  # a frame's prior is the diagonal
    slope = jax.jit(jax.grad(lambda z: -target.negative_log_density(layout.split(z), values)))(z)
    damping = np.linspace(0.1, 1.0, sum(FRAMES))
    step = frame_moves._step(layout, np.asarray(gradient), np.asarray(blocks), damping)
    assert not np.any(step[: layout.globals])
    for frame in range(sum(FRAMES)):
        mine = np.flatnonzero(owner == frame)
        block = dense[np.ix_(mine, mine)]
        np.testing.assert_allclose(blocks[frame, : len(mine), : len(mine)], block, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(gradient[mine], slope[mine], rtol=1e-9, atol=1e-9)
        expected = np.linalg.solve(block + damping[frame] * np.diag(np.diag(block)), slope[mine])
        np.testing.assert_allclose(step[mine], expected, rtol=1e-6)


def test_laplace_of_several_crystals(target, fit):
    z = jnp.asarray(fit.unconstrained)
    covariance = np.linalg.inv(next(dense_matrix(target, z, fit.spreads)))
    assert fit.converged
    np.testing.assert_allclose(fit.covariance, covariance, rtol=1e-8, atol=1e-10)
    noise = np.asarray(jax.random.normal(jax.random.key(3), (7, len(z))))
    expected = np.asarray(z) + noise @ np.linalg.cholesky(covariance).T
    draws = laplace_draws(fit, jax.random.key(3), 7)
    np.testing.assert_allclose(draws["slope"], expected[:, 0], rtol=1e-8)
    assert laplace_evidence(fit) == pytest.approx(
        -fit.potential + 0.5 * np.linalg.slogdet(2 * np.pi * covariance)[1], rel=1e-10
    )
    assert np.shape(draws["tilt_1"]) == (7, FRAMES[1])


def test_a_stored_fit_is_the_same_fit(target, fit):
    again = unpacked(packed(fit, left_out=(Layout,)), classes=RESULTS, given={Layout: target.layout})
    assert again.precision.sizes == fit.precision.sizes
    np.testing.assert_array_equal(again.covariance, fit.covariance)


def test_integrated_spreads_of_several_crystals(target, fit):
    """The loss, its slope, and the approximation at other spreads, by dense algebra."""
    layout, data = target.layout, target.data
    functions = spreads.integrated_functions(target)
    start, unravel = spreads._log_vector(fit.spreads)
    z, x = jnp.asarray(fit.unconstrained), start + 0.2

    def minus_log_prior(z, x):
        values = {name: jnp.exp(value) for name, value in unravel(x).items()}
        return -target.log_prior(layout.split(z), values) - jnp.sum(x)

    curvature, slope_of = jax.hessian(minus_log_prior), jax.grad(minus_log_prior)
    dense, of_prior = dense_matrix(target, z, fit.spreads)
    likelihood = dense + of_prior

    @jax.jit
    @partial(jax.value_and_grad, has_aux=True)
    def dense_loss(x):
        precision = likelihood + curvature(z, x)
        step = -jnp.linalg.solve(precision, slope_of(z, x) - slope_of(z, start))
        potential = minus_log_prior(z + step, x) - slope_of(z, start) @ step + 0.5 * step @ likelihood @ step
        return potential + 0.5 * jnp.linalg.slogdet(precision)[1], (z + step, precision)

    (expected, (moved, precision)), expected_slope = dense_loss(x)
    slope, beyond = functions.prior(start, z, fit.precision, data)
    np.testing.assert_allclose(beyond.dense(), likelihood, atol=1e-8)
    (found, (there, root)), found_slope = functions.loss(x, z, beyond, slope, data)
    assert float(found) == pytest.approx(float(expected), rel=1e-10)
    np.testing.assert_allclose(found_slope, expected_slope, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(there, moved, rtol=1e-8)
    np.testing.assert_allclose(root.dense(), np.linalg.inv(precision), rtol=1e-7, atol=1e-10)


def test_the_guide_starts_at_the_conditionals_of_every_crystal(target, fit):
    integrated = spreads.fixed_spreads(fit.unconstrained, fit.root, fit.spreads)
    angles = {name: np.arange(float(frames))[::-1].copy() for name, (_, frames, _) in fit.layout.plates.items()}
    guide = neural_guide(fit.layout, target.full, angles, jax.random.key(0), integrated)
    covariance, count = fit.covariance, fit.layout.globals
    np.testing.assert_allclose(guide.global_root, np.linalg.cholesky(covariance[:count, :count]), rtol=1e-8, atol=1e-12)

    def conditional(here, given):
        slope = np.linalg.solve(covariance[np.ix_(given, given)], covariance[np.ix_(given, here)]).T
        return slope, np.linalg.cholesky(covariance[np.ix_(here, here)] - slope @ covariance[np.ix_(given, here)])

    for plate in guide.plates:
        for row, (profile, nuisance) in enumerate(zip(plate.profile, plate.nuisance, strict=True)):
            slope, root = conditional(nuisance, np.r_[:count, profile])
            np.testing.assert_allclose(plate.regression[row], slope, rtol=1e-6, atol=1e-9)
            np.testing.assert_allclose(plate.nuisance_root[row], root, rtol=1e-6, atol=1e-9)
            before = plate.profile[row - 1] if row else profile[:0]
            slope, root = conditional(profile, np.r_[:count, before])
            link = slope[:, count:] if row else np.zeros((1, 1))
            by_globals = conditional(profile, np.arange(count))[0]
            expected = np.concatenate(
                [fit.unconstrained[profile], link.ravel(), np.log(root).ravel(), by_globals.ravel()]
            )
            np.testing.assert_allclose(plate.targets[row, : len(expected)], expected, rtol=1e-6, atol=1e-9)


def test_information_of_batches_has_no_frame_of_another(target, fit):
    found = frame_batches(target, fit, 2).parts[0].information.dense()
    dense, of_prior = dense_matrix(target, jnp.asarray(fit.unconstrained), fit.spreads)
    np.testing.assert_allclose(found, dense + of_prior, atol=1e-8)
    diagonal = arrow_of_diagonal(np.diag(dense), target.layout.globals, part_sizes(target))
    rough = dataclasses.replace(fit, precision=diagonal)  # as with very many globals
    owner = frame_of_elements(target.layout)
    found = np.asarray(frame_batches(target, rough, 2).parts[0].information.dense())
    assert not np.any(found[(owner[:, None] != owner) & (owner[:, None] >= 0) & (owner >= 0)])


def largest_array(frames):
    """Elements of the largest array that a damped step and a draw need, given the matrix; and the number of parameters.

    The Jacobian that the matrix is made of has a row for each global, and crystals have globals of their own.
    """
    model = partial(crystals_model, frames)
    target = make_target(model, y=tuple(np.zeros(n * PER_FRAME) for n in frames))
    size = target.layout.size
    matrix = arrow_of_diagonal(jnp.ones(size), target.layout.globals, part_sizes(target))

    def step(matrix, gradient):
        return damped_step(matrix, gradient, 0.1)[0], matrix.root().forth(gradient)

    def largest(jaxpr):
        found = [int(np.prod(v.aval.shape)) for eqn in jaxpr.eqns for v in eqn.outvars if hasattr(v.aval, "shape")]
        for eqn in jaxpr.eqns:
            for value in jax.tree.leaves(eqn.params, is_leaf=lambda x: hasattr(x, "jaxpr") or hasattr(x, "eqns")):
                inner = getattr(value, "jaxpr", value)
                found.append(largest(inner) if hasattr(inner, "eqns") else 0)
        return max(found, default=0)

    return largest(jax.make_jaxpr(step)(matrix, jnp.zeros(size)).jaxpr), size


def test_memory_is_linear_in_crystals():
    few, _ = largest_array((12,) * 3)
    many, size = largest_array((12,) * 9)
    assert many < 3.2 * few
    assert many < size**2 / 4
