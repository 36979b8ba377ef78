"""Arrow algebra against dense algebra of NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pendel.infer.maximum.arrow import FLAT, Arrow, arrow_of_diagonal, join_parts, split_parts
from pendel.infer.maximum.curvature import arrow_hessian
from pendel.infer.maximum.optimise import damped_step, whitening

GLOBALS, SIZES = 4, (6, 3, 8)
CASES = [(SIZES, GLOBALS), ((7,), 3), ((5, 5), 0), ((), 4)]


def arrow_of_dense(dense, sizes=SIZES, count=GLOBALS):
    """The arrow of a dense matrix, zeros elsewhere."""
    border, blocks = (
        np.zeros((len(sizes), max(sizes, default=0), count)),
        np.zeros((len(sizes), *[max([0, *sizes])] * 2)),
    )
    for number, own in enumerate(sizes):
        mine = count + sum(sizes[:number]) + np.arange(own)
        border[number, :own] = dense[mine, :count]
        blocks[number, :own, :own] = dense[np.ix_(mine, mine)]
    return Arrow(dense[:count, :count], border, blocks, sizes)


def some_arrow(seed=0, sizes=SIZES, count=GLOBALS):
    """A positive definite arrow matrix, badly scaled; and the same one dense."""
    rng = np.random.default_rng(seed)
    dense = np.zeros((count + sum(sizes),) * 2)
    for number, own in enumerate(sizes):
        first = count + sum(sizes[:number])
        mine = np.r_[:count, first : first + own]
        root = rng.standard_normal((len(mine), len(mine) + 3))
        dense[np.ix_(mine, mine)] += root @ root.T
    dense[:count, :count] += np.eye(count)
    scale = np.exp(2 * rng.standard_normal(len(dense)))
    dense = dense * np.outer(scale, scale)
    return arrow_of_dense(dense, sizes, count), dense


@pytest.mark.parametrize(("sizes", "count"), CASES)
def test_an_arrow_is_its_dense_matrix(sizes, count):
    arrow, dense = some_arrow(1, sizes, count)
    z = np.random.default_rng(2).standard_normal(len(dense))
    np.testing.assert_array_equal(arrow.dense(), dense)
    np.testing.assert_allclose(arrow @ z, dense @ z, rtol=1e-10)
    np.testing.assert_array_equal(arrow.diagonal(), np.diag(dense))
    np.testing.assert_array_equal((arrow + arrow).dense(), 2 * dense)
    np.testing.assert_array_equal(join_parts(*split_parts(z, count, sizes), sizes), z)
    np.testing.assert_array_equal(arrow_of_diagonal(z, count, sizes).dense(), np.diag(z))


@pytest.mark.parametrize(("sizes", "count"), CASES)
def test_the_root_is_the_cholesky_factor_of_the_dense_inverse(sizes, count):
    arrow, dense = some_arrow(3, sizes, count)
    root, covariance, z = arrow.root(), np.linalg.inv(dense), np.random.default_rng(4).standard_normal(len(dense))
    lower, unit = np.linalg.cholesky(covariance), np.sqrt(np.diag(covariance))
    assert not root.raised
    np.testing.assert_allclose(root.forth(z) / unit, lower @ z / unit, atol=1e-8)
    np.testing.assert_allclose(root.back(z), lower.T @ z, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(root.solve(dense @ z), z, rtol=1e-8)
    np.testing.assert_allclose(root.dense() / np.outer(unit, unit), covariance / np.outer(unit, unit), atol=1e-8)
    np.testing.assert_allclose(root.variance(), np.diag(covariance), rtol=1e-7)
    assert float(root.log_det()) == pytest.approx(np.linalg.slogdet(dense)[1], rel=1e-9)


def test_covariance_within_groups_of_elements():
    arrow, dense = some_arrow(5)
    places = np.array([[4, 5], [8, 9], [10, 12], [13, len(dense)]])  # the last group has one element
    within, with_shared = arrow.root().of_groups(places)
    covariance = np.zeros((len(dense) + 1,) * 2)
    covariance[:-1, :-1] = np.linalg.inv(dense)
    np.testing.assert_allclose(within, covariance[places[:, :, None], places[:, None, :]], rtol=1e-6, atol=1e-10)
    np.testing.assert_allclose(with_shared, covariance[places][:, :, :GLOBALS], rtol=1e-6, atol=1e-10)


def test_solve_and_determinant_have_the_derivatives_of_dense_ones():
    (arrow, dense), (change, dense_change) = some_arrow(6), some_arrow(7)
    z = np.random.default_rng(8).standard_normal(len(dense))

    def of_arrow(x):
        root = (arrow + jax.tree.map(lambda a: x * a, change)).root()
        return root.log_det() + z @ root.solve(jnp.asarray(z))

    def of_dense(x):
        matrix = dense + x * dense_change
        return jnp.linalg.slogdet(matrix)[1] + z @ jnp.linalg.solve(matrix, z)

    found, expected = (jax.jit(jax.value_and_grad(function))(0.3) for function in (of_arrow, of_dense))
    np.testing.assert_allclose(found, expected, rtol=1e-8)


@pytest.mark.parametrize("place", [0, 5])  # a global, an element of a part
def test_flat_and_negative_directions_get_a_large_finite_variance(place):
    dense = some_arrow(9)[1]
    dense[place], dense[:, place], dense[place, place] = 0.0, 0.0, -1.0
    root = arrow_of_dense(dense).root()
    dense[place, place] = 1e-6 * FLAT  # its scale, and the eigenvalue it is raised to
    assert root.raised
    np.testing.assert_allclose(root.variance(), np.diag(np.linalg.inv(dense)), rtol=1e-5)


def test_a_nearly_singular_matrix_is_that_whose_scaled_eigenvalue_is_raised():
    """Two parameters of one frame that the data do not tell apart."""
    correlation = 1 - 1e-12
    arrow = Arrow(np.zeros((0, 0)), np.zeros((1, 2, 0)), np.array([[[1.0, correlation], [correlation, 1.0]]]), (2,))
    root = arrow.root()
    assert root.raised
    across = np.array([1.0, -1.0]) / np.sqrt(2)
    assert float(across @ root.solve(across)) == pytest.approx(1 / FLAT, rel=1e-3)


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


def parts_function(z):
    """Curves in three parts, coupled with the globals."""
    shared, parts = split_parts(z, GLOBALS, SIZES)
    bent = jnp.sum(jnp.sin(parts[:, 1:] * parts[:, :-1]) + parts[:, 1:] ** 3, axis=1)
    return jnp.sum(bent * jnp.exp(shared[0])) + jnp.sum(jnp.cumsum(parts, axis=1) ** 2 * shared[1]) + shared[2] ** 4


def test_hessian_of_parts_that_meet_in_the_globals():
    z = jnp.asarray(np.random.default_rng(10).standard_normal(GLOBALS + sum(SIZES)))
    found = jax.jit(lambda z: arrow_hessian(parts_function, z, GLOBALS, SIZES))(z)
    np.testing.assert_allclose(found.dense(), jax.jit(jax.hessian(parts_function))(z), atol=1e-10)
