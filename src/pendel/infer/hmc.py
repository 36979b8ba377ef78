"""Hamiltonian Monte Carlo over every dimension of a model, in the coordinates of `pendel.infer.whitening`.

Nothing is held at its MAP value: the spreads of hierarchies, which MAP holds, are sampled too. NumPyro's NUTS does the
sampling; this module hands it the density, keeps its state so that a killed run goes on where it was, and counts
gradients.
"""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.infer import NUTS

from pendel.constants import Array
from pendel.infer.keeper import Keeper, packed_state, unpacked_state
from pendel.infer.map import MapFit, Progress
from pendel.infer.whitening import Whitened, whitened

WARMUP, DRAWS, CHAINS = 250, 400, 4
TARGET = 0.8  # acceptance
DEEPEST = 6  # tree: at most 63 leapfrog steps a draw
EVERY = 25  # steps between two checkpoints
STATISTICS = ("diverging", "accept_prob", "energy", "num_steps", "potential_energy")


@dataclasses.dataclass(frozen=True)
class Sampled:
    """Draws of a Markov chain Monte Carlo run.

    `draws`: constrained values of all latent sites [chain draw ...]; `statistics`: of every draw [chain draw];
    `gradients`: evaluations, those of the warm-up included.
    """

    draws: dict[str, Array]
    statistics: dict[str, Array]
    gradients: int
    warmup_gradients: int


def sample_nuts(
    model: Callable,
    *args: Any,
    start: MapFit,
    key: Array,
    chains: int = CHAINS,
    warmup: int = WARMUP,
    draws: int = DRAWS,
    keeper: Keeper | None = None,
    progress: Progress | None = None,
    **kwargs: Any,
) -> Sampled:
    """Sample the posterior of a model with the No-U-Turn sampler.

    Chains start at independent draws from the Laplace approximation and adapt by themselves, one after the other.

    Args:
        model: a NumPyro model, called as model(*args, **kwargs).
        start: a MAP fit; its covariance whitens the coordinates.
        key: random key.
        chains, warmup, draws: number of chains, and of steps of each before and after adaptation ends.
        keeper: holds the state of an unfinished run, which is continued exactly.
        progress: called as progress(stage, step, total, info) after every step.
    """
    space = whitened(model, args, kwargs, start)
    kernel = NUTS(potential_fn=space.potential, target_accept_prob=TARGET, max_tree_depth=DEEPEST)
    size, total = space.size, warmup + draws
    points = np.zeros((chains, total, size))
    found = {name: np.zeros((chains, total)) for name in STATISTICS}
    state, began = None, 0
    kept = keeper.load() if keeper is not None else None

    @jax.jit
    def initial(chain):
        first, second = jax.random.split(jax.random.fold_in(key, chain))
        y = jax.random.normal(first, (size,))
        return kernel.init(jax.random.key_data(second), warmup, y, (), {})

    structure = jax.tree.structure(jax.eval_shape(lambda: initial(0)))
    step = jax.jit(lambda state: kernel.sample(state, (), {}))
    if kept is not None:
        began, points = int(kept["done"]), np.array(kept["points"])
        found = {name: np.array(kept[name]) for name in STATISTICS}
        state = unpacked_state(structure, kept)
    clock = time.monotonic()
    for count in range(began, chains * total):
        chain, number = divmod(count, total)
        if number == 0:
            state = initial(chain)
        state = step(state)
        points[chain, number] = np.asarray(state.z)
        for name in STATISTICS:
            found[name][chain, number] = float(getattr(state, name))
        if keeper is not None and (count + 1) % EVERY == 0:
            keeper.save({"done": np.asarray(count + 1), "points": points, **found, **packed_state(state)})
        if progress is not None:
            info = {
                "chain": chain + 1.0,
                "log_density": -float(state.potential_energy),
                "leapfrog": float(state.num_steps),
                "divergent": float(found["diverging"][:, warmup:].sum()),
                "seconds": time.monotonic() - clock,
            }
            progress("nuts", count + 1, chains * total, info)
    return _sampled(space, points, found, warmup)


def _sampled(space: Whitened, points, found, warmup: int) -> Sampled:
    chains, total, size = points.shape
    values = space.constrained(jnp.asarray(points[:, warmup:].reshape(-1, size)))
    return Sampled(
        draws={name: np.asarray(x).reshape(chains, total - warmup, *np.shape(x)[1:]) for name, x in values.items()},
        statistics={
            "diverging": found["diverging"][:, warmup:] > 0,
            "acceptance_rate": found["accept_prob"][:, warmup:],
            "energy": found["energy"][:, warmup:],
            "n_steps": found["num_steps"][:, warmup:],
            "lp": -found["potential_energy"][:, warmup:],
        },
        gradients=int(found["num_steps"].sum()),
        warmup_gradients=int(found["num_steps"][:, :warmup].sum()),
    )
