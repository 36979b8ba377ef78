"""Posterior bookkeeping on a small regression with frames, without any diffraction."""

from pathlib import Path

import arviz_stats
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import stats

import pendel
from pendel.datasets import example
from pendel.folder.posterior_file import Posterior, to_datatree
from pendel.infer.predict import derive, log_prior, predict, prior_draws
from pendel.model.load import diffraction_theory
from pendel.run.writing import refined_structure

X = jnp.linspace(0.0, 1.0, 30)
OBSERVED = (2.0 * X + 0.1,)
DRAWS = 60


def line(x, *, intensities=None, mask=None):
    slope = numpyro.sample("slope", dist.Normal(0, 3))
    spread = numpyro.sample("spread", dist.HalfNormal(1.0), infer={"fixed_in_map": 0.3})
    numpyro.sample("restraint", dist.Normal(slope, 1.0), obs=jnp.asarray(2.0))
    numpyro.factor("bound", -0.1 * slope**2)
    numpyro.deterministic("double", 2 * slope)
    calculated = numpyro.deterministic("calculated", slope * x)
    with numpyro.handlers.mask(mask=True if mask is None else mask[0]):
        numpyro.sample(
            "intensity",
            dist.Normal(calculated, spread),
            obs=None if intensities is None else intensities[0],
            infer={"plate": "frames", "frame": np.zeros(len(X), dtype=int)},
        )


@pytest.fixture(scope="module")
def draws() -> dict:
    return {"slope": 2.0 + 0.1 * jax.random.normal(jax.random.key(1), (DRAWS,))}


@pytest.fixture(scope="module")
def predicted(draws):
    return predict(line, (X,), draws, intensities=OBSERVED, key=jax.random.key(2))


def test_pointwise_likelihood_is_that_of_each_draw(draws, predicted):
    slope = np.asarray(draws["slope"])[:, None]
    expected = stats.norm.logpdf(np.asarray(OBSERVED[0])[None], slope * np.asarray(X), 0.3)
    np.testing.assert_allclose(predicted.log_likelihood["intensity"], expected, rtol=1e-12)
    np.testing.assert_allclose(predicted.deterministic["calculated"], slope * np.asarray(X), rtol=1e-12)


def test_joint_density_adds_priors_to_the_likelihood(draws, predicted):
    slope = np.asarray(draws["slope"])
    prior = stats.norm.logpdf(slope, 0, 3) + stats.norm.logpdf(slope, 2.0, 1.0) - 0.1 * slope**2
    prior += stats.halfnorm.logpdf(0.3)
    expected = predicted.log_likelihood["intensity"].sum(axis=1) + prior
    np.testing.assert_allclose(predicted.log_density, expected, rtol=1e-10)


def test_replicates_scatter_around_the_calculated_values(predicted):
    np.testing.assert_allclose(predicted.scale["intensity"], 0.3)
    residual = predicted.replicated["intensity"] - predicted.deterministic["calculated"]
    assert 0.27 < residual.std() < 0.33
    assert abs(residual.mean()) < 5 * 0.3 / np.sqrt(residual.size)


def test_only_measurements_of_frames_are_judged_and_replicated(predicted):
    """A restraint and a factor are part of the prior."""
    for group in (predicted.log_likelihood, predicted.replicated, predicted.scale):
        assert set(group) == {"intensity"}


def test_every_data_set_has_noise_of_its_own(draws):
    def model(*, intensities):
        slope = numpyro.sample("slope", dist.Normal(0, 3))
        for name, observed in zip("ab", intensities, strict=True):
            site = {"plate": "frames", "frame": np.zeros(len(X), dtype=int)}
            numpyro.sample(name, dist.Normal(slope * X, 0.3), obs=observed, infer=site)

    found = predict(model, (), draws, intensities=OBSERVED * 2, key=jax.random.key(2)).replicated
    residual = [found[name] - np.asarray(draws["slope"])[:, None] * np.asarray(X) for name in "ab"]
    assert abs(np.corrcoef(np.ravel(residual[0]), np.ravel(residual[1]))[0, 1]) < 5 / np.sqrt(residual[0].size)


def test_derive_leaves_out_what_it_is_told(draws):
    found = derive(line, (X,), draws, leave_out=("calculated", "intensity"))
    assert set(found) == {"double"}
    np.testing.assert_allclose(found["double"], 2 * np.asarray(draws["slope"]), rtol=1e-14)


def test_prior_is_as_wide_as_the_model_says():
    prior = prior_draws(line, (X,), key=jax.random.key(0), draws=2000, leave_out=("calculated", "intensity"))
    assert set(prior) == {"slope", "spread", "double"}
    assert abs(prior["slope"].std() - 3) < 5 * 3 / np.sqrt(2 * 2000)


def test_log_prior_is_that_of_each_draw():
    """Of latent sites only, with parameters of the same draw, and summed over the numbers of a site."""

    def model(*, intensities=None):
        width = numpyro.sample("width", dist.HalfNormal(1.0))
        numpyro.sample("moves", dist.Normal(0, width).expand([3]))
        numpyro.sample("restraint", dist.Normal(width, 1.0), obs=jnp.asarray(2.0))

    rng = np.random.default_rng(5)
    draws = {"width": rng.uniform(0.5, 2, DRAWS), "moves": rng.normal(size=(DRAWS, 3))}
    found = log_prior(model, (), draws)
    assert set(found) == {"width", "moves"}
    np.testing.assert_allclose(found["width"], stats.halfnorm.logpdf(draws["width"]), rtol=1e-10)
    expected = stats.norm.logpdf(draws["moves"], 0, draws["width"][:, None]).sum(axis=1)
    np.testing.assert_allclose(found["moves"], expected, rtol=1e-10)


@pytest.fixture(scope="module")
def posterior(draws, predicted) -> Posterior:
    kept = np.arange(0, DRAWS, 2)
    used = np.arange(5, 30)
    tree = to_datatree(
        {
            "posterior": {"slope": draws["slope"]},
            "sample_stats": {"lp": predicted.log_density},
            "log_likelihood": {"intensity": predicted.log_likelihood["intensity"][np.ix_(kept, used)]},
            "observed_data": {"intensity": OBSERVED[0]},
        },
        dims={"intensity": ["measurement"]},
        coords={"measurement": np.arange(30)},
        labels={"hkl": ("measurement", np.array([f"{i} 0 0" for i in range(30)]))},
        rows={"log_likelihood": {"draw": kept, "measurement": used}},
        attributes={"stage": "map"},
    )
    return Posterior(tree)


def test_groups_have_named_coordinates(posterior):
    tree = posterior.data
    assert tree["posterior"]["slope"].dims == ("chain", "draw")
    assert tree["log_likelihood"]["intensity"].dims == ("chain", "draw", "measurement")
    assert tree["log_likelihood"]["draw"].values.tolist() == list(range(0, DRAWS, 2))
    assert tree["log_likelihood"]["hkl"].values[0] == "5 0 0"
    assert tree["observed_data"]["hkl"].values[3] == "3 0 0"


@pytest.mark.filterwarnings("ignore:Estimated shape parameter of Pareto")
def test_file_round_trip_and_arviz_can_use_it(posterior, tmp_path: Path):
    posterior.save(tmp_path / "posterior.nc")
    assert [path.name for path in tmp_path.iterdir()] == ["posterior.nc"]
    again = Posterior.load(tmp_path / "posterior.nc")
    assert again.data.attrs["stage"] == "map"
    np.testing.assert_array_equal(again.data["posterior"]["slope"], posterior.data["posterior"]["slope"])
    elpd = arviz_stats.loo(again.data)
    assert elpd.n_data_points == 25
    assert np.isfinite(elpd.elpd)


def test_a_failed_write_leaves_nothing(posterior, tmp_path: Path):
    (tmp_path / "posterior.nc").mkdir()
    with pytest.raises(pendel.InputError, match="directory"):
        posterior.save(tmp_path / "posterior.nc")
    assert [path.name for path in tmp_path.iterdir()] == ["posterior.nc"]


def test_a_refined_occupancy_reaches_the_structure():
    crystal = pendel.read_crystal(example().structure)
    draws = np.repeat(np.asarray(crystal.u_aniso)[None], 3, axis=0)
    occupancy = np.array([[1.0, 0.80], [1.0, 0.85], [1.0, 0.90]])
    derived = {"fract": np.repeat(np.asarray(crystal.fract)[None], 3, axis=0), "U_aniso": draws, "occupancy": occupancy}
    refined = refined_structure(crystal, {name: values[1] for name, values in derived.items()}, derived)
    np.testing.assert_array_equal(refined.crystal.occupancy, [1.0, 0.85])
    np.testing.assert_allclose(refined.occupancy_su, [0.0, 0.05])
    del derived["occupancy"]
    fixed = refined_structure(crystal, {name: values[1] for name, values in derived.items()}, derived)
    np.testing.assert_array_equal(fixed.crystal.occupancy, crystal.occupancy)
    np.testing.assert_array_equal(fixed.occupancy_su, [0.0, 0.0])


def test_models_say_by_which_theory_they_scatter():
    assert diffraction_theory("kinematic") == "kinematical"
    assert diffraction_theory("robust") == "dynamical"
