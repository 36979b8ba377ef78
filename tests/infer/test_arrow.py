"""Arrow algebra against dense algebra: several crystals, of different size, with a smooth prior in each of them."""

import dataclasses

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
from pendel.infer.maximum.arrow import FLAT, Arrow, arrow_of_diagonal, join_parts, split_parts
from pendel.infer.maximum.curvature import arrow_hessian, hessian_diagonal, part_sizes
from pendel.infer.maximum.map import MapFit, fit_map, laplace_draws, laplace_evidence
from pendel.infer.maximum.normal_matrix import normal_matrix
from pendel.infer.maximum.optimise import damped_step, whitening
from pendel.infer.plates import frame_of_elements
from pendel.infer.target import make_target
from pendel.model.simulation import simulated
from pendel.run.stages import RESULTS

GLOBALS, SIZES = 4, (6, 3, 8)
FRAMES, PER_FRAME = (5, 3, 4), 6


def some_arrow(seed=0, sizes=SIZES, count=GLOBALS):
    """A positive definite arrow matrix, badly scaled."""
    rng = np.random.default_rng(seed)
    size, longest = count + sum(sizes), max(sizes, default=0)
    dense = np.zeros((size, size))
    for number, own in enumerate(sizes):
        first = count + sum(sizes[:number])
        mine = np.r_[:count, first : first + own]
        root = rng.standard_normal((len(mine), len(mine) + 3))
        dense[np.ix_(mine, mine)] += root @ root.T
    dense[:count, :count] += np.eye(count)
    scale = np.exp(2 * rng.standard_normal(size))
    dense = dense * np.outer(scale, scale)
    border, blocks = np.zeros((len(sizes), longest, count)), np.zeros((len(sizes), longest, longest))
    for number, own in enumerate(sizes):
        mine = count + sum(sizes[:number]) + np.arange(own)
        border[number, :own] = dense[mine, :count]
        blocks[number, :own, :own] = dense[np.ix_(mine, mine)]
    return Arrow(dense[:count, :count], border, blocks, sizes), dense


CASES = [(SIZES, GLOBALS), ((7,), 3), ((5, 5), 0), ((), 4)]


@pytest.mark.parametrize(("sizes", "count"), CASES)
def test_an_arrow_is_its_dense_matrix(sizes, count):
    arrow, dense = some_arrow(1, sizes, count)
    z = np.random.default_rng(2).standard_normal(len(dense))
    np.testing.assert_array_equal(arrow.dense(), dense)
    np.testing.assert_allclose(arrow @ z, dense @ z, rtol=1e-10)
    assert float(arrow.quadratic(z)) == pytest.approx(z @ dense @ z, rel=1e-10)
    np.testing.assert_array_equal(arrow.diagonal(), np.diag(dense))
    np.testing.assert_allclose((arrow + arrow - arrow).plus_diagonal(z).dense(), dense + np.diag(z), rtol=1e-12)
    np.testing.assert_array_equal(join_parts(*split_parts(z, count, sizes), sizes), z)
    np.testing.assert_array_equal(arrow_of_diagonal(z, count, sizes).dense(), np.diag(z))


@pytest.mark.parametrize(("sizes", "count"), CASES)
def test_the_root_is_the_cholesky_factor_of_the_dense_inverse(sizes, count):
    arrow, dense = some_arrow(3, sizes, count)
    root, covariance, z = arrow.root(), np.linalg.inv(dense), np.random.default_rng(4).standard_normal(len(dense))
    lower = np.linalg.cholesky(covariance)
    unit = np.sqrt(np.diag(covariance))
    assert not root.raised
    np.testing.assert_allclose(root.forth(z) / unit, lower @ z / unit, atol=1e-8)
    np.testing.assert_allclose(root.back(z), lower.T @ z, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(root.solve(z) / unit, covariance @ z / unit, rtol=1e-7, atol=1e-8)
    assert float(root.log_det()) == pytest.approx(np.linalg.slogdet(dense)[1], rel=1e-9)
    np.testing.assert_allclose(root.dense() / np.outer(unit, unit), covariance / np.outer(unit, unit), atol=1e-8)
    np.testing.assert_allclose(root.variance(), np.diag(covariance), rtol=1e-7)
    np.testing.assert_allclose(root.of_shared(), covariance[:count, :count], rtol=1e-6, atol=1e-12)
    for part, own in enumerate(sizes):
        mine = np.r_[:count, count + sum(sizes[:part]) + np.arange(own)]
        np.testing.assert_allclose(
            root.of_part(part) / np.outer(unit, unit)[np.ix_(mine, mine)],
            (covariance / np.outer(unit, unit))[np.ix_(mine, mine)],
            atol=1e-8,
        )


def test_covariance_within_groups_of_elements():
    arrow, dense = some_arrow(5)
    places = np.array([[4, 5], [8, 9], [10, 12], [13, len(dense)]])
    within, with_shared = arrow.root().of_groups(places)
    covariance = np.zeros((len(dense) + 1,) * 2)
    covariance[:-1, :-1] = np.linalg.inv(dense)
    np.testing.assert_allclose(within, covariance[places[:, :, None], places[:, None, :]], rtol=1e-6, atol=1e-10)
    np.testing.assert_allclose(with_shared, covariance[places][:, :, :GLOBALS], rtol=1e-6, atol=1e-10)


def test_solve_and_determinant_have_the_derivatives_of_dense_ones():
    arrow, dense = some_arrow(6)
    change, dense_change = some_arrow(7)
    z = np.random.default_rng(8).standard_normal(len(dense))

    def of_arrow(x):
        root = (arrow + jax.tree.map(lambda a: x * a, change)).root()
        return root.log_det() + z @ root.solve(jnp.asarray(z))

    def of_dense(x):
        matrix = dense + x * dense_change
        return jnp.linalg.slogdet(matrix)[1] + z @ jnp.linalg.solve(matrix, z)

    found, expected = jax.value_and_grad(of_arrow)(0.3), jax.value_and_grad(of_dense)(0.3)
    np.testing.assert_allclose(found, expected, rtol=1e-8)


@pytest.mark.parametrize("place", [0, 5])  # a global, an element of a part
def test_flat_and_negative_directions_get_a_large_finite_variance(place):
    arrow, _ = some_arrow(9)
    dense = np.array(arrow.dense())
    dense[place], dense[:, place], dense[place, place] = 0.0, 0.0, -1.0
    z = np.zeros(len(dense))
    z[place] = 1.0
    shared, border, blocks = np.array(arrow.shared), np.array(arrow.border), np.array(arrow.blocks)
    if place < GLOBALS:
        shared[:] = dense[:GLOBALS, :GLOBALS]
        border[:, :, place] = 0.0
    else:
        border[0, place - GLOBALS] = 0.0
        blocks[0, :6, :6] = dense[GLOBALS : GLOBALS + 6, GLOBALS : GLOBALS + 6]
    root = Arrow(shared, border, blocks, SIZES).root()
    dense[place, place] = 1e-6 * FLAT  # its scale, and the eigenvalue it is raised to
    assert root.raised
    np.testing.assert_allclose(root.variance(), np.diag(np.linalg.inv(dense)), rtol=1e-5)


def plate_function(z):
    """Curves in three parts, coupled with the globals."""
    shared, parts = split_parts(z, GLOBALS, SIZES)
    bent = jnp.sum(jnp.sin(parts[:, 1:] * parts[:, :-1]) + parts[:, 1:] ** 3, axis=1)
    return jnp.sum(bent * jnp.exp(shared[0])) + jnp.sum(jnp.cumsum(parts, axis=1) ** 2 * shared[1]) + shared[2] ** 4


def test_hessian_of_parts_that_meet_in_the_globals():
    z = jnp.asarray(np.random.default_rng(10).standard_normal(GLOBALS + sum(SIZES)))
    expected = jax.hessian(plate_function)(z)
    np.testing.assert_allclose(arrow_hessian(plate_function, z, GLOBALS, SIZES).dense(), expected, atol=1e-10)
    np.testing.assert_allclose(hessian_diagonal(plate_function, z, GLOBALS, SIZES), np.diag(expected), atol=1e-10)


def curve_covariance(frames):
    distance = np.abs(np.subtract.outer(np.arange(frames), np.arange(frames))) / 2
    return jnp.asarray((1 + distance) * np.exp(-distance) + 1e-3 * np.eye(frames))


def crystals_model(frames=FRAMES, *, y=None, coupled=False):
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


def dense_matrix(target, z, spreads):
    """J^T F J minus the Hessian of the log prior, from whole Jacobians."""

    def parameters(z):
        return target.predict(target.layout.split(z), spreads)[1].parameters

    jacobian = jax.jacfwd(parameters)(z)
    information = target.predict(target.layout.split(z), spreads)[1].information()
    of_prior = jax.hessian(lambda z: target.log_prior(target.layout.split(z), spreads))(z)
    return np.asarray(jnp.einsum("amp,abm,bmq->pq", jacobian, information, jacobian) - of_prior)


def test_normal_matrix_and_correction_of_several_crystals(target):
    layout, spread = target.layout, dict(target.spreads)
    assert part_sizes(target) == tuple(n * (3 if number == 1 else 2) for number, n in enumerate(FRAMES))
    z = jnp.asarray(0.3 * np.random.default_rng(1).standard_normal(layout.size))
    potential, gradient, matrix, correction = normal_matrix(target, z, spread, target.data, part_sizes(target))
    dense = dense_matrix(target, z, spread)
    np.testing.assert_allclose(matrix.dense(), dense, rtol=1e-9, atol=1e-9)
    value, slope = jax.value_and_grad(lambda z: target.negative_log_density(layout.split(z), spread))(z)
    assert float(potential) == pytest.approx(float(value), rel=1e-12)
    np.testing.assert_allclose(gradient, slope, rtol=1e-9, atol=1e-9)

    # The errors change the likelihood's part of the matrix; the log prior's own curvature does not count.
    def log_det(log_b):
        def parameters(z):
            return target.predict(layout.split(z), spread)[1].parameters

        moved = target.predict(layout.split(z.at[2].set(log_b)), spread)[1]
        rows, fixed = jax.jacfwd(parameters)(z)[0], matrix.dense()
        change = moved.information()[0, 0] - target.predict(layout.split(z), spread)[1].information()[0, 0]
        return -0.5 * jnp.linalg.slogdet(fixed + rows.T @ (change[:, None] * rows))[1]

    place = int(np.flatnonzero(np.array(layout.names()) == "b")[0])
    assert place == 2
    assert correction[place] == pytest.approx(float(jax.grad(log_det)(z[place])), rel=1e-8)
    assert np.count_nonzero(correction) == 1


def test_plates_that_the_prior_couples_are_one_part():
    together = make_target(crystals_model, coupled=True, y=tuple(np.zeros(n * PER_FRAME) for n in FRAMES))
    layout = together.layout
    assert part_sizes(together) == (layout.size - layout.globals,)
    z = jnp.asarray(0.3 * np.random.default_rng(1).standard_normal(layout.size))
    spread = dict(together.spreads)
    matrix = normal_matrix(together, z, spread, together.data, part_sizes(together))[2]
    np.testing.assert_allclose(matrix.dense(), dense_matrix(together, z, spread), rtol=1e-9, atol=1e-9)


def test_matrix_of_single_frames(target):
    layout, spread = target.layout, dict(target.spreads)
    scores = frame_moves.frame_scores(target, part_sizes(target))
    z = jnp.asarray(0.3 * np.random.default_rng(2).standard_normal(layout.size))
    prior = scores.prior(z, spread, target.data)
    np.testing.assert_allclose(
        prior[1], np.diag(jax.hessian(lambda z: target.log_prior(layout.split(z), spread))(z)), atol=1e-10
    )
    _, gradient, blocks = scores.score(z, z, prior, spread, target.data)
    dense, owner = dense_matrix(target, z, spread), frame_of_elements(layout)
    of_prior = np.asarray(jax.hessian(lambda z: target.log_prior(layout.split(z), spread))(z))
    dense += of_prior - np.diag(np.diag(of_prior))  # a frame's prior is the diagonal
    slope = jax.grad(lambda z: -target.negative_log_density(layout.split(z), spread))(z)
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


def test_damped_step_and_whitening_are_those_of_the_dense_matrix():
    arrow, dense = some_arrow(11)
    gradient = np.random.default_rng(12).standard_normal(len(dense)) * np.sqrt(np.diag(dense))
    step, gain = damped_step(arrow, jnp.asarray(gradient), 0.1)
    expected = -np.linalg.solve(dense + 0.1 * np.diag(np.diag(dense)), gradient)
    np.testing.assert_allclose(step, expected, rtol=1e-7)
    assert float(gain) == pytest.approx(-(gradient @ expected + 0.5 * expected @ dense @ expected), rel=1e-9)
    forth, back = whitening(arrow)
    root = np.array([forth(y) for y in np.eye(len(dense))]).T
    np.testing.assert_allclose(root.T @ dense @ root, np.eye(len(dense)), atol=1e-7)
    np.testing.assert_allclose(back(gradient), root.T @ gradient, rtol=1e-9, atol=1e-9)


def test_laplace_of_several_crystals(target, fit):
    z = jnp.asarray(fit.unconstrained)
    dense = dense_matrix(target, z, fit.spreads)
    covariance = np.linalg.inv(dense)
    assert fit.converged
    np.testing.assert_allclose(fit.covariance, covariance, rtol=1e-8, atol=1e-10)
    noise = np.asarray(jax.random.normal(jax.random.key(3), (7, len(z))))
    expected = np.asarray(z) + noise @ np.linalg.cholesky(covariance).T
    draws = laplace_draws(fit, jax.random.key(3), 7)
    np.testing.assert_allclose(draws["slope"], expected[:, 0], rtol=1e-8)
    assert laplace_evidence(fit) == pytest.approx(
        -fit.potential + 0.5 * np.linalg.slogdet(2 * np.pi * covariance)[1], rel=1e-10
    )
    assert {name: np.shape(value) for name, value in draws.items()}["tilt_1"] == (7, FRAMES[1])


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

    curvature = jax.hessian(minus_log_prior)
    likelihood = dense_matrix(target, z, fit.spreads) - curvature(z, start)
    slope_then = jax.grad(minus_log_prior)(z, start)

    def dense_loss(x):
        precision = likelihood + curvature(z, x)
        step = -jnp.linalg.solve(precision, jax.grad(minus_log_prior)(z, x) - slope_then)
        potential = minus_log_prior(z + step, x) - slope_then @ step + 0.5 * step @ likelihood @ step
        return potential + 0.5 * jnp.linalg.slogdet(precision)[1], (z + step, precision)

    (expected, (moved, precision)), expected_slope = jax.value_and_grad(dense_loss, has_aux=True)(x)
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
    for plate in guide.plates:
        for row, (profile, nuisance) in enumerate(zip(plate.profile, plate.nuisance, strict=True)):
            given = np.r_[:count, profile]
            slope = np.linalg.solve(covariance[np.ix_(given, given)], covariance[np.ix_(given, nuisance)]).T
            rest = covariance[np.ix_(nuisance, nuisance)] - slope @ covariance[np.ix_(given, nuisance)]
            np.testing.assert_allclose(plate.regression[row], slope, rtol=1e-6, atol=1e-9)
            np.testing.assert_allclose(plate.nuisance_root[row], np.linalg.cholesky(rest), rtol=1e-6, atol=1e-9)


def test_information_of_batches_has_no_frame_of_another(target, fit):
    found = frame_batches(target, fit, 2).parts[0].information.dense()
    z = jnp.asarray(fit.unconstrained)
    of_prior = jax.hessian(lambda z: target.log_prior(target.layout.split(z), fit.spreads))(z)
    np.testing.assert_allclose(found, dense_matrix(target, z, fit.spreads) + of_prior, atol=1e-8)
    rough = dataclasses.replace(fit, precision=arrow_of_diagonal(np.diag(fit.precision.dense()), 3, part_sizes(target)))
    assert isinstance(rough, MapFit)
    owner = frame_of_elements(target.layout)
    found = np.asarray(frame_batches(target, rough, 2).parts[0].information.dense())
    assert not np.any(found[(owner[:, None] != owner) & (owner[:, None] >= 0) & (owner >= 0)])


def largest_array(frames):
    """Elements of the largest array that the matrix, a damped step, and a draw need."""
    target = make_target(crystals_model, frames, y=tuple(np.zeros(n * PER_FRAME) for n in frames))
    z, spread = jnp.zeros(target.layout.size), dict(target.spreads)
    sizes = tuple(count * width for _, count, width in target.layout.plates.values())

    def step(z, data):
        _, gradient, matrix, correction = normal_matrix(target, z, spread, data, sizes)
        return damped_step(matrix, gradient, 0.1)[0], matrix.root().forth(z), correction

    def largest(jaxpr):
        found = [int(np.prod(v.aval.shape)) for eqn in jaxpr.eqns for v in eqn.outvars if hasattr(v.aval, "shape")]
        for eqn in jaxpr.eqns:
            for value in jax.tree.leaves(eqn.params, is_leaf=lambda x: hasattr(x, "jaxpr") or hasattr(x, "eqns")):
                inner = getattr(value, "jaxpr", value)
                found.append(largest(inner) if hasattr(inner, "eqns") else 0)
        return max(found)

    return largest(jax.make_jaxpr(step)(z, target.data).jaxpr), target.layout.size


def test_memory_is_linear_in_crystals():
    few, _ = largest_array((12,) * 4)
    many, size = largest_array((12,) * 16)
    assert many < 4.2 * few
    assert many < size**2 / 4
