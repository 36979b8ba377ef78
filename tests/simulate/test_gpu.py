"""The same intensities on a graphics card; `make test-gpu` runs it, and skips where there is none."""

import jax
import numpy as np
import pytest

import pendel
from pendel.datasets import example
from pendel.experiment.select import select, thin


def graphics_card():
    try:
        return jax.devices("gpu")[0]
    except RuntimeError:
        return pytest.skip("JAX sees no GPU on this machine")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_intensities_agree_with_the_cpu(dtype):
    card = graphics_card()
    crystal = pendel.read_crystal(example().structure)
    experiment = thin(select(pendel.read_pets(example().data), "nearest"), slice(0, None, 6))
    plan = pendel.make_plan(crystal, experiment, tilts=12, dtype=dtype)
    frames = len(experiment.frame_id)
    illumination = pendel.Illumination(
        tilt=np.zeros((frames, 2)),
        thickness=np.tile([400.0, 700.0], (frames, 1)),
        weights=np.full((frames, 2), 0.5),
    )

    def on(device):
        with jax.default_device(device):
            return np.asarray(jax.jit(pendel.simulate_intensities)(crystal, plan, illumination))

    here, there = on(jax.devices("cpu")[0]), on(card)
    np.testing.assert_allclose(there, here, atol=(1e-5 if dtype == "float32" else 1e-9) * here.max())
