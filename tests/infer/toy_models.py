"""Models that are solved by hand or by dense algebra, and what several tests of inference share."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

from pendel.infer.maximum.optimise import MapTuning
from pendel.model.simulation import simulated

FRAMES, PER_FRAME = 12, 8
FRAME = np.repeat(np.arange(FRAMES), PER_FRAME)
X = np.linspace(-1, 1, FRAMES * PER_FRAME)
ANGLE = np.linspace(-40, 40, FRAMES)
OBSERVED = {"plate": "frames", "frame": FRAME}  # what a model says of its measurements
PLATES = {"frames": 7, "frames_2": 5}
ONE_ROUND = MapTuning(rounds=0)  # the spreads stay at their first values


class Memory:
    """Holds in memory what a run folder holds on disk, and stops the run after a number of saves."""

    def __init__(self, stop_after=None):
        self.kept, self.left = None, stop_after

    def load(self):
        return self.kept

    def save(self, arrays):
        self.kept = {name: np.array(value) for name, value in arrays.items()}
        if self.left is not None:
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt


def curve_covariance(spread):
    distance = np.abs(ANGLE[:, None] - ANGLE) / 20
    return spread**2 * jnp.asarray((1 + distance) * np.exp(-distance) + 1e-4 * np.eye(FRAMES))


def linear_model(sigma, *, y=None):
    """A slope for all, an offset per frame, a smooth curve along the angle: Gaussian, so Laplace is exact."""
    slope = numpyro.sample("slope", dist.Normal(0, 2))
    spread = numpyro.sample("offset_spread", dist.HalfNormal(1.0), infer={"fixed_in_map": 0.5})
    with numpyro.plate("frames", FRAMES):
        offset = numpyro.sample("offset", dist.Normal(0, spread))
    curve = numpyro.sample(
        "curve", dist.MultivariateNormal(jnp.zeros(FRAMES), curve_covariance(0.7)), infer={"plate": "frames"}
    )
    mean = slope * X + offset[FRAME] + curve[FRAME] * np.cos(7 * X)
    numpyro.sample("y", dist.Normal(mean, sigma), obs=y, infer=OBSERVED)


def drawn_from_linear_model():
    """Observations of `linear_model`, their standard deviation 0.2."""
    rng = np.random.default_rng(1)
    root = np.linalg.cholesky(np.asarray(curve_covariance(0.7)))
    offset, curve = 0.5 * rng.standard_normal(FRAMES), root @ rng.standard_normal(FRAMES)
    return 1.3 * X + offset[FRAME] + curve[FRAME] * np.cos(7 * X) + 0.2 * rng.standard_normal(len(X))


def exact_posterior(y):
    """Mean and covariance of (slope, offset, curve) of `linear_model` by linear algebra, frame by frame."""
    design = np.zeros((len(X), 1 + 2 * FRAMES))
    design[:, 0] = X
    design[np.arange(len(X)), 1 + 2 * FRAME] = 1
    design[np.arange(len(X)), 2 + 2 * FRAME] = np.cos(7 * X)
    prior = np.zeros((1 + 2 * FRAMES,) * 2)
    prior[0, 0] = 4.0
    prior[1::2, 1::2] = 0.25 * np.eye(FRAMES)
    prior[2::2, 2::2] = np.asarray(curve_covariance(0.7))
    covariance = np.linalg.inv(np.linalg.inv(prior) + design.T @ design / 0.2**2)
    return covariance @ design.T @ y / 0.2**2, covariance


def power_of(level):
    """What stands for a simulation in `heavy_model`."""
    value = level
    for _ in range(3):
        value = value * 1.1 + level * 0.1
    return value


def heavy_model(*, y=None):
    """Student-t errors whose scale depends on the prediction, and a simulation of one of its parameters."""
    level = numpyro.sample("level", dist.LogNormal(0.0, 1.0))
    b = numpyro.sample("b", dist.LogNormal(-2.0, 0.5))
    nu = numpyro.sample("nu", dist.LogNormal(1.5, 0.3))
    with numpyro.plate("frames", FRAMES):
        gain = numpyro.sample("gain", dist.Normal(0, 0.3))
    power = simulated("simulated", power_of, level)
    mean = power * jnp.exp(gain[FRAME]) * (2 + jnp.asarray(X))
    scale = jnp.sqrt(0.05**2 + (b * mean) ** 2)
    numpyro.sample("y", dist.StudentT(nu, mean, scale), obs=y, infer=OBSERVED)


def scale_mixture(location, scale):
    """A narrow normal distribution and, for outliers, a wide one."""
    both = dist.Normal(jnp.stack([location, location], axis=-1), scale * jnp.array([1.0, 4.0]))
    return dist.MixtureSameFamily(dist.Categorical(probs=jnp.array([0.8, 0.2])), both)


def angles_of(plate):
    """Not in order."""
    return np.random.default_rng(0).permutation(np.linspace(-30.0, 30.0, PLATES[plate]))


def two_plates(*, y=None):
    """Two crystals, each with offsets around a mean, two slopes of their own spreads, and a curve with jumps."""
    rng = np.random.default_rng(4)
    common = numpyro.sample("common", dist.Normal(0, 2).expand([2]).to_event(1))
    for number, (plate, frames) in enumerate(PLATES.items()):
        frame, x = np.repeat(np.arange(frames), 6), rng.standard_normal((6, 6 * frames))
        mean = numpyro.sample(f"mean_{number}", dist.Normal(0, 2))
        spread = numpyro.sample(f"spread_{number}", dist.HalfNormal(1.0), infer={"fixed_in_map": 0.4})
        both = dist.HalfNormal(1.0).expand([2]).to_event(1)
        tilt_spread = numpyro.sample(f"tilt_spread_{number}", both, infer={"fixed_in_map": 0.5})
        with numpyro.plate(plate, frames):
            offset = numpyro.sample(f"offset_{number}", dist.Normal(mean, spread))
            tilt = numpyro.sample(f"tilt_{number}", dist.Normal(0, tilt_spread).to_event(1))
        curve_mean = numpyro.sample(f"curve_mean_{number}", dist.Normal(0, 1))
        curve_spread = numpyro.sample(f"curve_spread_{number}", dist.HalfNormal(1.0), infer={"fixed_in_map": 0.6})
        jump = numpyro.sample(f"jump_{number}", dist.HalfNormal(0.5), infer={"fixed_in_map": 0.2})
        distance = np.abs(angles_of(plate)[:, None] - angles_of(plate)) / 12
        smooth = (1 + distance) * np.exp(-distance) + 1e-4 * np.eye(frames)
        prior = dist.MultivariateNormal(curve_mean, curve_spread**2 * smooth + jump**2 * np.eye(frames))
        curve = numpyro.sample(f"curve_{number}", prior, infer={"plate": plate})
        level = common @ x[:2] + (offset[frame] * x[2] + tilt[frame, 0] * x[3] + tilt[frame, 1] * x[4])
        observed = {"obs": None if y is None else y[number], "infer": {"plate": plate, "frame": frame}}
        numpyro.sample(f"y_{number}", dist.Normal(level + curve[frame] * x[5], 0.5), **observed)
