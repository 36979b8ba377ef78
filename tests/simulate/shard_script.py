"""Loss, gradient and a directional derivative of the embedded example, its frames spread over all devices.

Run by test_shard.py in processes of their own: the number of devices is fixed when JAX starts. Prints one JSON line.
"""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np

import pendel
from pendel.datasets import example
from pendel.run.processes import join_processes
from pendel.simulate.replan import replan
from pendel.simulate.shard import shard_plan


def main():
    join_processes()
    crystal = pendel.read_crystal(example().structure)
    experiment = pendel.select(pendel.read_pets(example().data), "nearest")
    plan = shard_plan(pendel.make_plan(crystal, experiment, tilts=12, thickness_max=900.0))
    rng = np.random.default_rng(1)
    weight = jnp.asarray(rng.random(plan.measurements))
    values = {
        "fract": jnp.asarray(crystal.fract),
        "tilt": jnp.asarray(0.05 * rng.standard_normal((plan.frames, 2))),
        "thickness": jnp.asarray(400 + 300 * rng.random((plan.frames, 2))),
    }
    direction = {name: jnp.asarray(rng.standard_normal(value.shape)) for name, value in values.items()}

    def loss(values, plan):
        structure = dataclasses.replace(crystal, fract=values["fract"])
        equal = jnp.full((plan.frames, 2), 0.5)
        illumination = pendel.Illumination(tilt=values["tilt"], thickness=values["thickness"], weights=equal)
        intensity = pendel.simulate_intensities(structure, plan, illumination)
        return jnp.sum(weight * intensity)

    value, gradient = jax.jit(jax.value_and_grad(loss))(values, plan)
    forward = plan.with_mode("forward")
    slope = jax.jit(lambda v, d, plan: jax.jvp(lambda x: loss(x, plan), (v,), (d,))[1])(values, direction, forward)
    mine = [np.asarray(shard.data) for group in plan.groups for shard in own_shards(group.frame)]
    used = [np.asarray(shard.data) for group in plan.groups for shard in own_shards(group.tilt_weight)]
    held = {int(f) for frames, weights in zip(mine, used, strict=True) for f in frames[weights.sum(axis=(1, 2)) > 0]}
    whole = sum(group.matrix.nbytes for group in plan.groups)
    local = sum(shard.data.nbytes for group in plan.groups for shard in own_shards(group.matrix))
    again = replan(crystal, experiment, plan, tilt=None)
    result = {
        "replanned_loss": float(jax.jit(loss)(values, again)),
        "replanned_on": 1 if again.mesh is None else again.mesh.size,
        "devices": jax.device_count(),
        "processes": jax.process_count(),
        "loss": float(value),
        "gradient": {name: np.asarray(x).ravel().tolist() for name, x in gradient.items()},
        "slope": float(slope),
        "frames": sorted(held),
        "share": local / whole,
    }
    print(json.dumps(result), flush=True)


def own_shards(array):
    """Pieces that this process holds; of a plain array all of it."""
    return jnp.asarray(array).addressable_shards


if __name__ == "__main__":
    main()
