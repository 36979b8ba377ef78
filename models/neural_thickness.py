r"""`dynamical` with the thickness as a plain network of the goniometer angle: the published way, for comparison.

The generative story, for measurement m of hkl r in frame f:

    displacement ~ Normal(0, 0.05 Å)            along the directions the site symmetry allows
    log_strain   ~ Normal(0, 1)                 U = sqrt(U_0) exp(log_strain) sqrt(U_0), positive definite
    hydrogen and restraints of the start structure: see `pendel.model.sample_structure`
    tilt_f       ~ Normal(0, tilt_spread)       small rotation about x and y of the laboratory
    log_scale_f  ~ Normal(log_scale_mean, scale_spread)
    weights      ~ Normal(w_0, 1 / sqrt(inputs of the layer))         two tanh layers of 64
    (m, s)_f     = network(angle of the frame, scaled to [-1, 1])
    t            ~ LogNormal(log_thickness_mean + m_f / 10, 0.15 exp(s_f))
    I_m = scale_f * mean over tilts, sum over nodes t_q of  w_q |psi_r(t_q)|^2
    I_obs,m ~ Normal(I_m, e r_f / w_m),   w_m the weights of wR2, r_f^2 the mean of (w I_obs)^2 in the frame
    log_scale_mean ~ Normal(log of the strongest I_obs, 2), scale_spread ~ HalfNormal(0.3)
    tilt_spread_x, tilt_spread_y ~ HalfNormal(0.1 deg)
    log_thickness_mean ~ Normal(log 800 Å, 0.8)
    e ~ LogNormal(log 0.05, 0.5)

Mean and width of the thickness are functions of the angle alone: smooth, without jumps between frames and without an
uncertainty of their own. There is nothing here that says how thickness varies, and no posterior of it: take the
standard uncertainties of this model for a comparison only. `robust` has both.

Source of the architecture: Malik et al. (2026), doi 10.1038/s41467-026-71673-9.
"""

import itertools

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist

from pendel.model import Spread, observe, sample_frames, sample_structure, simulate, weighted_least_squares
from pendel.simulate.thickness import lognormal

LAYERS = (1, 64, 64, 2)


def network(x, suffix):
    """Two numbers for every row of x [frames 1]; tanh between the layers. Its weights are sites of the model."""
    for number, (inputs, outputs) in enumerate(itertools.pairwise(LAYERS)):
        first = jax.random.normal(jax.random.key(number), (inputs, outputs)) / jnp.sqrt(inputs)
        prior = dist.Normal(0, 1 / jnp.sqrt(inputs))
        weights = numpyro.sample(f"weights_{number + 1}{suffix}", prior.expand([inputs, outputs]).to_event(2))
        bias = numpyro.sample(f"bias_{number + 1}{suffix}", dist.Normal(0, 1).expand([outputs]).to_event(1))
        x = (jnp.tanh(x) if number else x) @ (first + weights) + bias
    return x


def network_thickness(data):
    """Nodes [Å] and weights of the log-normal density that the network gives every frame."""
    level = numpyro.sample(f"log_thickness_mean{data.suffix}", dist.Normal(jnp.log(800.0), 0.8))  # log Å
    alpha = jnp.asarray(data.experiment.alpha)
    low, high = jnp.min(alpha), jnp.max(alpha)
    scaled = 2 * (alpha - low) / jnp.maximum(high - low, 1e-9) - 1
    shift, width = network(scaled[:, None], data.suffix).T
    nodes, weights = lognormal(level + 0.1 * shift, jnp.log(0.15) + width)
    numpyro.deterministic(f"thickness{data.suffix}", jnp.sum(weights * nodes, axis=1))  # Å
    return nodes, weights


def model(crystal, datasets, *, intensities=None, mask=None):
    """See the module's story. `datasets`: one `DataSet` for each crystal; `intensities=None`: prior predictive."""
    structure = sample_structure(crystal, displacement=0.05, log_strain=1.0)
    error = numpyro.sample("error", dist.LogNormal(jnp.log(0.05), 0.5))  # published wR2 are 3-8 %

    for data in datasets:
        scale, illumination = sample_frames(
            data,
            network_thickness,
            log_scale=2.0,
            scale_spread=Spread(0.3, in_map=0.1),
            tilt_spread=Spread(0.1, in_map=0.12),  # deg
        )
        calculated = scale[data.experiment.frame_index] * simulate(structure, data, illumination)
        scatter = weighted_least_squares(calculated, data.experiment, error=error)
        observe(data, calculated, scatter, intensities=intensities, mask=mask)
