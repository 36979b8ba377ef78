"""Memory is bounded before anything is solved, without changing a number."""

import dataclasses

import jax
import numpy as np
import pytest

import pendel
from pendel.constants import InputError
from pendel.datasets import example
from pendel.estimate import BASE_BYTES, memory_bytes, within_memory


@pytest.fixture(scope="module")
def case():
    crystal = pendel.read_crystal(example().structure)
    experiment = pendel.thin(pendel.select(pendel.read_pets(example().data)), slice(0, None, 10))
    return crystal, pendel.make_plan(crystal, experiment, tilts=9, thickness_max=700.0)


def test_little_memory_means_smaller_chunks_and_the_same_intensities(case):
    crystal, plan = case
    limit = memory_bytes(crystal, dataclasses.replace(plan, matrix_numbers=2_000))
    assert limit < memory_bytes(crystal, plan)
    (small,) = within_memory(crystal, [plan], limit / 1e9)
    assert small.matrix_numbers < plan.matrix_numbers
    assert memory_bytes(crystal, small) <= limit
    nodes = np.full((plan.frames, 1), 500.0)
    state = {"tilt": np.zeros((plan.frames, 2)), "thickness": nodes, "weights": np.ones_like(nodes)}
    run = jax.jit(pendel.simulate_intensities)
    np.testing.assert_allclose(run(crystal, small, **state), run(crystal, plan, **state), rtol=1e-5, atol=1e-9)


def test_too_little_memory_is_said_before_the_fit(case):
    crystal, plan = case
    with pytest.raises(InputError, match=r"beams at \d+ tilts .* nodes, which need about .* GB .*--memory"):
        within_memory(crystal, [plan], BASE_BYTES / 1e9)
