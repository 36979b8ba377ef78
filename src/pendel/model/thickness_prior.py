"""Thickness of every frame as a curve along the goniometer angle: the prior that the shipped models share.

    log T ~ GP(log_thickness_mean, thickness_spread, 20 deg) + Normal(0, thickness_jump)

T is the largest thickness in a frame. What is thinner within the lit area is a `Family` of densities: `taper`,
t = T x^k with x uniform in (0, 1) and a second curve log k ~ GP(log_taper_mean, taper_spread, 20 deg) +
Normal(0, taper_jump); `step`, two terraces of that shape, the lower one step_height ~ Beta(2, 2) times as thick, whose
areas have log odds on a third curve; or one without a parameter, `single` (a slab), `wedge`, `lens`, `cylinder`. The
jumps are there because the beam does not light the same part of the crystal in every frame.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist

from pendel.base import InputError
from pendel.model.dataset import DataSet
from pendel.model.spread import Spread
from pendel.simulate.thickness import Profile, cylinder, lens, matern_covariance, runout, single, stepped, tapered

THIN = 50.0  # Å; five unit cells or so, thinner than any crystal that is measured
LENGTH_DEG = 20.0  # the profile of a crystal in a rotation series changes over tens of degrees


@dataclasses.dataclass(frozen=True, kw_only=True)
class Curve:
    """The logarithm of one number of every frame: a smooth curve along the goniometer angle, and jumps around it.

        log_NAME ~ GP(log_NAME_mean, NAME_spread, 20 deg) + Normal(0, NAME_jump),  log_NAME_mean ~ Normal(log mean, 0.8)

    `start`: of log_NAME in every frame, where the scan for start values does not find one.
    """

    name: str
    mean: float
    spread: Spread
    jump: Spread
    start: float | None = None

    def sample(self, data: DataSet) -> Any:
        """log_NAME [frames], with its mean and both spreads as sites of a NumPyro model."""
        end, alpha = data.suffix, jnp.asarray(data.experiment.alpha)
        centre = numpyro.sample(f"log_{self.name}_mean{end}", dist.Normal(jnp.log(self.mean), 0.8))
        smooth = self.spread.sample(f"{self.name}_spread{end}")
        rough = self.jump.sample(f"{self.name}_jump{end}")
        covariance = matern_covariance(alpha, smooth, LENGTH_DEG, rough)
        prior = dist.MultivariateNormal(centre, covariance)
        return numpyro.sample(f"log_{self.name}{end}", prior, infer={"plate": data.frames})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Number:
    """One number of a crystal, with its prior: a function, because JAX must not start while modules are imported."""

    name: str
    prior: Callable[[], dist.Distribution]

    def sample(self, data: DataSet) -> Any:
        """The site of a NumPyro model."""
        return numpyro.sample(f"{self.name}{data.suffix}", self.prior())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Symbol:
    """A letter of an `expression`: what it means, and the site that holds its value, or the logarithm of it."""

    label: str  # before the refined value
    meaning: str
    site: str
    is_log: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """A density of thicknesses within a frame, with the prior of its parameters and what a CIF says of it.

    `density(log_thickness, *parameters)` gives nodes [Å] and weights; log_thickness [frames] is the logarithm of the
    largest thickness T of every frame [log Å]. `expression`: F(tau), cumulative distribution of tau = t / T.
    """

    name: str
    density: Callable[..., Profile]
    parameters: tuple[Curve | Number, ...] = ()
    expression: str
    symbols: tuple[Symbol, ...] = ()

    def sample(self, data: DataSet) -> Profile:
        """Nodes [Å] and weights of every frame, drawn from the prior in a NumPyro model."""
        log_thickness = THICKNESS.sample(data)
        return self.density(log_thickness, *(parameter.sample(data) for parameter in self.parameters))


# Crystals for 3D-ED are 10-500 nm thick; neighbouring frames differ by some percent.
THICKNESS = Curve(name="thickness", mean=800.0, spread=Spread(0.3, in_map=0.15), jump=Spread(0.2, in_map=0.1))
TAPER = Curve(name="taper", mean=0.4, spread=Spread(0.5, in_map=0.3), jump=Spread(0.3, in_map=0.15))
ODDS = Curve(name="odds", mean=1.0, spread=Spread(1.0, in_map=0.5), jump=Spread(0.5, in_map=0.25), start=-2.0)
HEIGHT = Number(name="step_height", prior=lambda: dist.Beta(2.0, 2.0))
K = Symbol(
    label="Typical k",
    meaning="k = 0: slab, 0.3: about a rod, 0.5: lens, 1: wedge; every frame has its own.",
    site="log_taper_mean",
    is_log=True,
)
H = Symbol(
    label="h",
    meaning="h: lower terrace over the higher one; q: its share of the lit area, one a frame.",
    site="step_height",
)
FAMILIES = {
    family.name: family
    for family in (
        Family(name="taper", density=tapered, parameters=(TAPER,), expression="F(tau) = tau^1/k^", symbols=(K,)),
        Family(
            name="step",
            density=lambda log_thickness, log_taper, height, log_odds: stepped(
                log_thickness, log_taper, log_odds, height
            ),
            parameters=(TAPER, HEIGHT, ODDS),
            expression="F(tau) = (1 - q)*tau^1/k^ + q*min(1, tau/h)^1/k^",
            symbols=(K, H),
        ),
        Family(name="single", density=single, expression="F(tau) = 0 for tau < 1, F(1) = 1"),
        Family(name="wedge", density=runout, expression="F(tau) = tau"),
        Family(name="lens", density=lens, expression="F(tau) = tau^2^"),
        Family(name="cylinder", density=cylinder, expression="F(tau) = 1 - (1 - tau^2^)^1/2^"),
    )
}


def find_family(family: str | Family) -> Family:
    """A family by its name in FAMILIES; another one as it is. Raises InputError for another name."""
    if isinstance(family, Family):
        return family
    if family not in FAMILIES:
        raise InputError(found=f"unknown thickness {family!r}", expected=", ".join(FAMILIES), do="change --thickness")
    return FAMILIES[family]


def sample_thickness(data: DataSet, family: str | Family) -> Profile:
    """Nodes [Å] and weights [frames nodes] of every frame's thickness, drawn from the prior in a NumPyro model.

    Sites: log_thickness, log_thickness_mean, thickness_spread, thickness_jump, and those of the family's parameters;
    derived: thickness and thickness_width, mean and standard deviation in a frame [Å], thickness_by_volume, the mean
    with every thickness weighted by itself [Å], and thin_share, the part of a frame's lit area that is thinner than
    THIN or a tenth of its thickest node. An intensity grows with the thickness, so thin parts count little in the data
    and in the mean by volume.

    Raises InputError for a name that is no family.
    """
    nodes, weights = find_family(family).sample(data)
    mean = jnp.sum(weights * nodes, axis=1)
    variance = jnp.sum(weights * (nodes - mean[:, None]) ** 2, axis=1)
    numpyro.deterministic(f"thickness{data.suffix}", mean)
    numpyro.deterministic(f"thickness_width{data.suffix}", jnp.sqrt(jnp.maximum(variance, 1e-12)))
    numpyro.deterministic(f"thickness_by_volume{data.suffix}", jnp.sum(weights * nodes**2, axis=1) / mean)
    thin = jnp.maximum(THIN, 0.1 * jnp.max(nodes, axis=1, keepdims=True))
    numpyro.deterministic(f"thin_share{data.suffix}", jnp.sum(weights * (nodes < thin), axis=1))
    return nodes, weights


def further_starts() -> dict[str, float]:
    """Start values, the same in every frame, of the families' curves that a scan does not find; by site, log_NAME."""
    curves = [parameter for family in FAMILIES.values() for parameter in family.parameters]
    return {f"log_{c.name}": c.start for c in curves if isinstance(c, Curve) and c.start is not None}


def thickness_facts(family: object) -> dict[str, Any]:
    """What a summary says of a model's `thickness`: its name, and for a CIF its expression and the symbols in it."""
    found = FAMILIES.get(family) if isinstance(family, str) else family
    if not isinstance(found, Family):
        return {"thickness_shape": family if isinstance(family, str) else None}
    return {
        "thickness_shape": found.name,
        "thickness_expression": found.expression,
        "thickness_symbols": [dataclasses.asdict(symbol) for symbol in found.symbols],
    }
