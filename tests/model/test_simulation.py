"""The simulator as an effect: a plain call, recorded, replayed, skipped."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers

from pendel.model.simulation import replayed, simulated, skipped


def square(x):
    return {"square": x**2}


def model(intensities=None):
    x = numpyro.sample("x", dist.Normal(0, 1))
    with numpyro.plate("frames", 3):
        y = numpyro.sample("y", dist.Normal(x, 1))
    found = simulated("simulated", square, y)["square"]
    numpyro.sample("intensity", dist.Normal(found, 1).to_event(1), obs=intensities)


SEEDED = handlers.seed(model, jax.random.key(0))


def test_outside_a_handler_it_is_a_plain_call():
    np.testing.assert_array_equal(simulated("simulated", square, np.arange(3.0))["square"], [0.0, 1.0, 4.0])


def test_a_trace_records_the_request():
    site = handlers.trace(SEEDED).get_trace()["simulated"]
    assert site["type"] == "simulation"
    assert site["fn"] is square
    np.testing.assert_array_equal(site["value"]["square"], site["args"][0] ** 2)


def test_known_results_are_taken_instead():
    known = {"simulated": {"square": jnp.array([7.0, 8.0, 9.0])}}
    trace = handlers.trace(replayed(SEEDED, known)).get_trace()
    np.testing.assert_array_equal(trace["intensity"]["fn"].base_dist.loc, [7.0, 8.0, 9.0])
    with pytest.raises(KeyError, match="simulated"):
        handlers.trace(replayed(SEEDED, {})).get_trace()


def test_a_skipped_simulation_runs_nothing_and_leaves_the_prior():
    def never(x):
        return jax.pure_callback(lambda x: pytest.fail("simulated"), jax.ShapeDtypeStruct((3,), float), x)

    def with_callback():
        x = numpyro.sample("x", dist.Normal(0, 1))
        numpyro.sample("intensity", dist.Normal(simulated("simulated", never, x), 1).to_event(1), obs=jnp.zeros(3))

    program = handlers.seed(with_callback, jax.random.key(0))
    trace = handlers.trace(skipped(program, float("nan"))).get_trace()
    assert np.all(np.isnan(trace["intensity"]["fn"].base_dist.loc))
    assert np.isfinite(trace["x"]["fn"].log_prob(trace["x"]["value"]))


def test_distributions_of_skipped_results_are_not_checked_and_others_are():
    """An error in proportion to the intensity is zero for a simulation that was skipped."""

    def proportional():
        intensity = simulated("simulated", lambda: jnp.ones(3))
        numpyro.sample("intensity", dist.Normal(intensity, 0.1 * intensity).to_event(1), obs=jnp.ones(3))

    def broken():
        raise RuntimeError("of the model")

    trace = handlers.trace(skipped(proportional)).get_trace()
    np.testing.assert_array_equal(trace["intensity"]["fn"].base_dist.scale, 0.0)
    with pytest.raises(RuntimeError, match="of the model"):
        skipped(broken)()
    with pytest.raises(ValueError, match="invalid scale"):
        dist.Normal(0.0, -1.0)
