"""Tempered particles over several maxima, on a posterior that is known."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy.special import logsumexp
from scipy.stats import halfnorm, norm
from toy_models import Memory

from pendel.folder.checkpoint import packed, unpacked
from pendel.infer.chains.smc import SmcTuning, sample_smc
from pendel.infer.layout import Layout
from pendel.infer.maximum.map import fit_map
from pendel.infer.target import make_target
from pendel.judge.verdicts import _basins
from pendel.run.fitting import Chosen
from pendel.run.stages import RESULTS

FRAMES, PER_FRAME, SIGMA = 3, 4, 0.3
FRAME = np.repeat(np.arange(FRAMES), PER_FRAME)
Y = 2.0 + 0.1 * np.arange(FRAMES * PER_FRAME) / FRAMES
LEVEL, WIDTH = 0.3, 1.5  # of the prior of `level`
SPREAD = 0.3  # of the prior of `spread`


def model(*, y=None):
    """Measurements of |level| and an offset per frame, with a spread: two maxima of different heights."""
    level = numpyro.sample("level", dist.Normal(LEVEL, WIDTH))
    spread = numpyro.sample("spread", dist.HalfNormal(SPREAD), infer={"fixed_in_map": 0.2})
    with numpyro.plate("frames", FRAMES):
        offset = numpyro.sample("offset", dist.Normal(0, spread))
    mean = jnp.sqrt(level**2 + 1e-4) + offset[FRAME]
    numpyro.sample("y", dist.Normal(mean, SIGMA), obs=y, infer={"plate": "frames", "frame": FRAME})


def exact():
    """Probability of level > 0 and the log evidence, offsets integrated by hand, level and spread on a grid."""
    grid, spreads = np.linspace(-5, 5, 4001), np.linspace(0.005, 2.0, 200)
    residual = Y.reshape(FRAMES, PER_FRAME)[None] - np.sqrt(grid**2 + 1e-4)[:, None, None]
    terms = []
    for spread in spreads:
        covariance = SIGMA**2 * np.eye(PER_FRAME) + spread**2
        inverse, log_det = np.linalg.inv(covariance), np.linalg.slogdet(2 * np.pi * covariance)[1]
        log_likelihood = -0.5 * (np.einsum("gfi,ij,gfj->g", residual, inverse, residual) + FRAMES * log_det)
        terms.append(log_likelihood + halfnorm.logpdf(spread, scale=SPREAD))
    log_joint = logsumexp(terms, axis=0) + norm.logpdf(grid, LEVEL, WIDTH)
    log_joint += np.log((grid[1] - grid[0]) * (spreads[1] - spreads[0]))
    return np.exp(logsumexp(log_joint[grid > 0]) - logsumexp(log_joint)), logsumexp(log_joint)


LARGE, SMALL = SmcTuning(particles=512, at_once=512), SmcTuning(particles=32, at_once=32)


@pytest.fixture(scope="module")
def target():
    return make_target(model, y=Y)


@pytest.fixture(scope="module")
def starts(target):
    return [fit_map(target, start={"level": np.array(sign * 2.0)}) for sign in (1.0, -1.0)]


@pytest.fixture(scope="module")
def tempered(target, starts):
    return sample_smc(target, starts=starts, key=jax.random.key(0), tuning=LARGE)


def test_basins_have_their_probability_and_the_evidence_is_right(tempered):
    probability, log_evidence = exact()
    assert tempered.probability[0] == pytest.approx(probability, abs=0.05)
    assert tempered.log_evidence == pytest.approx(log_evidence, abs=0.1)
    assert 0.0 < tempered.log_evidence_se < 0.2
    level = tempered.draws["level"]
    assert np.all((level > 0) == (tempered.basin == 0))
    assert tempered.temperatures[-1] == 1.0
    assert 0.5 < tempered.acceptance[-1] <= 1.0


@pytest.mark.slow
def test_a_maximum_named_twice_is_not_counted_twice(target, starts):
    """Particles of either name are at p q_k / (q_1 + q_2), so the evidence stays."""
    both = sample_smc(target, starts=[starts[0], starts[0]], key=jax.random.key(1), tuning=LARGE)
    alone = sample_smc(target, starts=[starts[0]], key=jax.random.key(2), tuning=LARGE)
    share, everything = exact()
    for found in (both, alone):
        assert found.log_evidence == pytest.approx(everything + np.log(share), abs=0.2)
    assert both.probability[0] == pytest.approx(0.5, abs=0.12)


@pytest.mark.slow
def test_an_interrupted_run_ends_as_an_uninterrupted_one(target, starts):
    options = {"starts": starts, "key": jax.random.key(3), "tuning": SMALL}
    whole, memory = sample_smc(target, **options), Memory(stop_after=1)
    with pytest.raises(KeyboardInterrupt):
        sample_smc(target, keeper=memory, **options)
    resumed = sample_smc(target, keeper=memory, **options)
    np.testing.assert_array_equal(resumed.draws["level"], whole.draws["level"])
    assert resumed.log_evidence == whole.log_evidence


def test_stages_come_back_as_they_were(target, starts, tempered):
    def again(value):
        return unpacked(packed(value, left_out=(Layout,)), classes=RESULTS, given={Layout: target.layout})

    for one, found in zip(starts, again(starts), strict=True):
        np.testing.assert_array_equal(found.unconstrained, one.unconstrained)
        assert (found.potential, found.message) == (one.potential, one.message)
        assert found.layout.names() == one.layout.names()
    found = again(tempered)
    for field in dataclasses.fields(tempered):
        value, other = getattr(found, field.name), getattr(tempered, field.name)
        for a, b in zip(jax.tree.leaves(value), jax.tree.leaves(other), strict=True):
            np.testing.assert_array_equal(a, b)
    chosen = Chosen(values={"a": np.zeros(2)}, basins=np.zeros((2, 2)), others=({"a": np.ones(2)}, {"a": np.ones(2)}))
    assert len(again(chosen).others) == 2
    assert again(dataclasses.replace(chosen, others=())).others == ()


def test_too_few_particles_are_refused(target, starts):
    with pytest.raises(ValueError, match="2 starts for 1 particles"):
        sample_smc(target, starts=starts, key=jax.random.key(0), tuning=SmcTuning(particles=1))


@pytest.mark.parametrize(
    ("probability", "tried", "level", "says"),
    [
        ([0.99, 0.01], 4, "pass", "0.99 (T 400 Å)"),
        ([0.6, 0.4], 4, "warn", "several thicknesses"),
        ([1.0], 1, "warn", "one"),
    ],
)
def test_the_report_says_how_sure_a_basin_is(probability, tried, level, says):
    thickness = [400.0, None][: len(probability)]
    facts = {"basin_probability": probability, "basin_thickness": thickness, "basins_tried": tried}
    verdicts = list(_basins({**facts, "smc_acceptance": 0.7}))
    assert verdicts[0].level == level
    assert says in verdicts[0].text + verdicts[0].advice
