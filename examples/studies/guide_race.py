"""Does the neural guide earn its lines? Beside it: NumPyro's full-covariance normal guide, started at Laplace.

Run by hand: python examples/studies/guide_race.py OUT [--data demo|quartz] [--frames ::6] [--tilts 84] [--steps 750]
[--draws DRAWS.npz]. Both guides take the same number of gradients of the model `robust` from the same MAP, with the
same optimiser. OUT/guides.json holds their evidence bounds, and with the draws of a sampler (`sampler_race.py` writes
them) the ratios of standard deviations, guide over sampler: median, smallest and largest of every kind of parameter.
"""

import argparse
import json
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from laplace_space import SPREAD_WIDTH, deviations, fitted
from numpyro.infer import SVI, Trace_ELBO, init_to_value
from numpyro.infer.autoguide import AutoMultivariateNormal

import pendel
from pendel.infer.guide.svi import STEPS, SviTuning
from pendel.infer.maximum.objective import differentiable

DRAWS = 2000


def main() -> None:
    """Both guides, and their table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", default="quartz")
    parser.add_argument("--frames", default="::6")
    parser.add_argument("--tilts", type=int, default=84)
    parser.add_argument("--steps", type=int, default=3 * STEPS)
    parser.add_argument("--draws", type=Path)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    target, fit, alpha = fitted(options.data, options.frames, options.tilts)
    known = dict(np.load(options.draws)) if options.draws else None
    reference = deviations({k: v.reshape(-1, *v.shape[2:]) for k, v in known.items()}) if known else {}
    found = {}
    for name, fit_guide in (("neural", neural), ("normal", full_covariance)):
        began = time.monotonic()
        losses, draws = fit_guide(target, fit, alpha, options.steps)
        own = deviations(draws)
        found[name] = {
            "seconds": time.monotonic() - began,
            "bound": -float(np.nanmean(losses[-STEPS // 5 :])),
            "steps": len(losses),
        }
        found[name]["sd_over_sampler"] = {
            kind: [float(f(own[kind] / sd)) for f in (np.median, np.min, np.max)] for kind, sd in reference.items()
        }
        print(name, json.dumps(found[name], indent=1), flush=True)
        (options.out / "guides.json").write_text(json.dumps(found, indent=2) + "\n")


def neural(target, fit, alpha, steps):
    """pendel's guide."""
    tuning = SviTuning(cycles=(steps // STEPS, steps // STEPS))
    svi = pendel.fit_svi(target, start=fit, key=jax.random.key(1), angles={"frames": alpha}, tuning=tuning)
    return svi.losses, svi.draw(jax.random.key(2), DRAWS)


def full_covariance(target, fit, alpha, steps):
    """NumPyro's guide with one covariance of all parameters, whose start is Laplace's; spreads are beside it."""
    del alpha
    args, kwargs = differentiable(target, "reverse").data
    start = {**fit.values, **fit.spreads}
    guide = AutoMultivariateNormal(target.model, init_loc_fn=init_to_value(values=start))
    cycle = optax.cosine_onecycle_schedule(STEPS, SviTuning().peak_rate, pct_start=0.2)
    optimiser = optax.chain(optax.clip_by_global_norm(100.0), optax.adam(lambda count: cycle(count % STEPS)))
    svi = SVI(target.model, guide, optimiser, Trace_ELBO())
    state = svi.init(jax.random.key(1), *args, **kwargs)
    # The guide sorts sites by name; -1 stands for a spread, which Laplace does not have.
    order = {**fit.layout.split(jnp.arange(float(fit.layout.size)))}
    order |= {name: jnp.full(jnp.shape(value), -1.0) for name, value in fit.spreads.items()}
    order = np.asarray(ravel_pytree(order)[0]).astype(int)
    covariance = np.diag(np.full(len(order), SPREAD_WIDTH**2))
    inside = np.flatnonzero(order >= 0)
    covariance[np.ix_(inside, inside)] = fit.covariance[np.ix_(order[inside], order[inside])]
    root = jnp.asarray(np.linalg.cholesky(covariance))
    parameters = {**svi.get_params(state), "auto_scale_tril": root}
    state = svi.init(jax.random.key(1), *args, init_params=parameters, **kwargs)
    update = jax.jit(lambda state: svi.stable_update(state, *args, **kwargs))
    losses = []
    for _ in range(steps):
        state, loss = update(state)
        losses.append(float(loss))
    posterior = guide.sample_posterior(jax.random.key(2), svi.get_params(state), sample_shape=(DRAWS,))
    return np.array(losses), {name: np.asarray(value) for name, value in posterior.items()}


if __name__ == "__main__":
    main()
