"""Gradients per effective sample: pendel's chains, NUTS in Laplace coordinates, BlackJAX's low-rank metric, plain NUTS.

Run by hand: python examples/studies/sampler_race.py OUT [--data demo|quartz] [--frames ::6] [--tilts 84]
[--samplers nuts mclmc laplace lowrank plain]. One chain each, of the model `robust` and from the same MAP:

nuts, mclmc: pendel's own coordinates with moves between draws. laplace: NumPyro's NUTS in Laplace coordinates with
the metric 1. lowrank: BlackJAX's NUTS in the same coordinates with its low-rank metric. plain: NumPyro's NUTS on the
model as written, with its own mass matrix. BlackJAX's Laplace HMC needs third derivatives of the log density; those of
the simulator are exact to first order, so it cannot be used. OUT/race_SAMPLER.json holds, for every kind of parameter,
the smallest effective sample size and the gradients after warm-up for one effective sample.
"""

import argparse
import json
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from laplace_space import constrained, fitted, laplace_space, least_effective
from numpyro.infer import MCMC, NUTS, init_to_value

import pendel
from pendel.infer.chains.mclmc import MclmcTuning
from pendel.infer.chains.nuts import ChainTuning
from pendel.infer.maximum.objective import differentiable

DEEPEST = 6  # trees of the samplers that are not pendel's
WARMUP, DRAWS = 100, 160


def main() -> None:
    """One chain of every sampler that was asked for, and its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--samplers", nargs="*", default=list(SAMPLERS))
    parser.add_argument("--data", default="quartz")
    parser.add_argument("--frames", default="::6")
    parser.add_argument("--tilts", type=int, default=84)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    target, fit, _ = fitted(options.data, options.frames, options.tilts)
    for name in options.samplers:
        began = time.monotonic()
        draws, before, after, divergent = SAMPLERS[name](target, fit)
        found = {"seconds": time.monotonic() - began, "gradients_before": before, "gradients_after": after}
        found["divergent"] = divergent
        for kind, ess in least_effective(draws).items():
            found[kind] = {"ess": ess, "gradients_per_sample": after / ess}
        (options.out / f"race_{name}.json").write_text(json.dumps(found, indent=2) + "\n")
        np.savez(options.out / f"draws_{name}.npz", **draws)
        print(name, json.dumps(found, indent=1), flush=True)


def own(sample, tuning):
    """One of pendel's samplers."""

    def run(target, fit):
        found = sample(target, start=fit, key=jax.random.key(1), tuning=tuning)
        after = found.gradients - found.warmup_gradients
        return found.draws, found.warmup_gradients, after, int(np.sum(found.statistics["diverging"]))

    return run


def in_laplace_coordinates(target, fit):
    """NumPyro's NUTS, whose step adapts; the metric is 1."""
    space = laplace_space(target, fit)
    kernel = NUTS(potential_fn=space.potential, adapt_mass_matrix=False, max_tree_depth=DEEPEST)
    chain = MCMC(kernel, num_warmup=WARMUP, num_samples=DRAWS, progress_bar=False)
    first = jax.random.normal(jax.random.key(2), (space.size,))
    chain.warmup(jax.random.key(1), init_params=first, extra_fields=("num_steps",), collect_warmup=True)
    before = int(np.sum(chain.get_extra_fields()["num_steps"]))
    chain.run(chain.post_warmup_state.rng_key, extra_fields=("num_steps", "diverging"))
    extra = chain.get_extra_fields()
    draws = constrained(space, chain.get_samples())
    after, divergent = int(np.sum(extra["num_steps"])), int(np.sum(extra["diverging"]))
    return {name: value[None] for name, value in draws.items()}, before, after, divergent


def with_low_rank_metric(target, fit):
    """BlackJAX's NUTS with the metric of its low-rank adaptation."""
    import blackjax

    space = laplace_space(target, fit)

    def log_density(y):
        return -space.potential(y)

    warmup = blackjax.window_adaptation_low_rank(blackjax.nuts, log_density, max_num_doublings=DEEPEST)
    first = jax.random.normal(jax.random.key(2), (space.size,))
    (state, parameters), info = warmup.run(jax.random.key(1), first, num_steps=WARMUP)
    before = int(np.sum(info.info.num_integration_steps))
    step = jax.jit(blackjax.nuts(log_density, **parameters).step)
    points, after, divergent = [], 0, 0
    for key in jax.random.split(jax.random.key(3), DRAWS):
        state, one = step(key, state)
        points.append(state.position)
        after, divergent = after + int(one.num_integration_steps), divergent + int(one.is_divergent)
    draws = constrained(space, jnp.stack(points))
    return {name: value[None] for name, value in draws.items()}, before, after, divergent


def plain(target, fit):
    """NumPyro's NUTS on the model itself, started at the MAP."""
    args, kwargs = differentiable(target, "reverse").data
    start = init_to_value(values={**fit.values, **fit.spreads})
    chain = MCMC(NUTS(target.model, init_strategy=start, max_tree_depth=DEEPEST), num_warmup=40, num_samples=40)
    chain.warmup(jax.random.key(1), *args, extra_fields=("num_steps",), collect_warmup=True, **kwargs)
    before = int(np.sum(chain.get_extra_fields()["num_steps"]))
    chain.run(chain.post_warmup_state.rng_key, *args, extra_fields=("num_steps", "diverging"), **kwargs)
    extra = chain.get_extra_fields()
    draws = {name: np.asarray(value) for name, value in chain.get_samples(group_by_chain=True).items()}
    return draws, before, int(np.sum(extra["num_steps"])), int(np.sum(extra["diverging"]))


SAMPLERS = {
    "nuts": own(pendel.sample_nuts, ChainTuning(chains=1, warmup=60, draws=DRAWS)),
    "mclmc": own(pendel.sample_mclmc, MclmcTuning(chains=1, draws=350)),
    "laplace": in_laplace_coordinates,
    "lowrank": with_low_rank_metric,
    "plain": plain,
}

if __name__ == "__main__":
    main()
