"""Gradient and Gauss-Newton matrix by passes of all frames together, against dense derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pytest
from toy_models import X, heavy_model

from pendel.infer.maximum import normal_matrix as module
from pendel.infer.maximum.curvature import part_sizes
from pendel.infer.maximum.normal_matrix import compressed_jacobian, normal_diagonal, normal_matrix
from pendel.infer.target import make_target


def test_matrix_equals_dense_derivatives():
    y = np.abs(np.random.default_rng(3).standard_normal(len(X))) + 1.0
    target = make_target(heavy_model, y=y)
    layout = target.layout
    z = 0.1 * jnp.arange(layout.size) / layout.size
    compiled = jax.jit(lambda z, data: normal_matrix(target, z, {}, data, part_sizes(target)))
    potential, gradient, matrix, _ = compiled(z, target.data)

    def parts(x):
        return target.predict(layout.split(x))

    jacobian = jax.jacfwd(lambda x: parts(x)[1].parameters)(z)
    information = parts(z)[1].information()
    dense = jnp.einsum("amp,abm,bmq->pq", jacobian, information, jacobian) - jax.hessian(lambda x: parts(x)[0])(z)
    np.testing.assert_allclose(matrix.dense(), dense, rtol=1e-9, atol=1e-9)

    def density(x):
        values = layout.constrain(x)
        log_joint, _ = numpyro.infer.util.log_density(heavy_model, (), {"y": y}, values)
        return -(log_joint + layout.log_det_jacobian(layout.split(x)))

    value, slope = jax.jit(jax.value_and_grad(density))(z)
    assert float(potential) == pytest.approx(float(value), rel=1e-10)
    np.testing.assert_allclose(gradient, slope, rtol=1e-8, atol=1e-8)


def test_diagonal_is_that_of_the_matrix():
    target = make_target(heavy_model, y=jnp.asarray(1.5 + X))
    z = 0.1 * jnp.arange(float(target.layout.size)) / target.layout.size
    value, gradient, matrix, _ = normal_matrix(target, z, {}, target.data, part_sizes(target))
    same, slope, diagonal = normal_diagonal(target, z, {}, target.data, part_sizes(target))
    assert float(same) == pytest.approx(float(value), rel=1e-12)
    np.testing.assert_allclose(slope, gradient, rtol=1e-8, atol=1e-8)
    ratio = np.asarray(diagonal / matrix.diagonal())
    assert np.all((ratio > 0.25) & (ratio < 3))  # sixteen probes know each within a third
    assert np.mean(ratio) == pytest.approx(1, abs=0.3)


def jacobian_of(target):
    values = target.layout.split(0.1 * jnp.arange(float(target.layout.size)))
    return compressed_jacobian(target, values, {}, target.data, target.simulate(values))


def test_jacobian_has_a_pass_for_every_global_and_number_of_a_frame():
    assert jacobian_of(make_target(heavy_model, y=np.ones(len(X)))).shape == (3 + 1, 3, len(X))


def test_many_derivatives_pass_in_parts(monkeypatch):
    target = make_target(heavy_model, y=np.ones(len(X)))
    whole = jacobian_of(target)
    monkeypatch.setattr(module, "TANGENTS", 2)
    np.testing.assert_allclose(jacobian_of(target), whole, rtol=1e-12, atol=1e-12)


def test_sites_without_simulation_are_differentiated_with_its_results(monkeypatch):
    """The Jacobian is the same, and the simulator is run forward for the one site that reaches it."""
    target = make_target(heavy_model, y=np.ones(len(X)))
    whole = jacobian_of(target)
    asked = []
    predict = type(target).predict

    def counted(self, values, spreads=None, data=None, results=None):
        asked.append(results is None)
        return predict(self, values, spreads, data, results)

    monkeypatch.setattr(type(target), "predict", counted)
    np.testing.assert_array_equal(jacobian_of(target), whole)
    assert sum(asked) == 1
