"""Leave-one-out predictive density of a posterior file, by unique measurement and by frame."""

import dataclasses
import warnings
from typing import Any

import arviz as az
import numpy as np
import xarray as xr
from jaxtyping import Bool, Float
from scipy.special import logsumexp

from pendel.base import Array

GOOD_K = 0.7


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loo:
    """Expected log predictive density: `pointwise` over its units, named by `units`; `pareto_k` [units].

    Where k exceeds `good_k` (0.7, less for few draws) the estimate for that unit is not to be trusted. Held-out units
    need no importance weights: their k is zero; it is infinite where the draws stand still.
    """

    units: tuple[tuple, ...]
    pointwise: Float[Array, " units"]
    pareto_k: Float[Array, " units"]
    good_k: float = GOOD_K

    @property
    def n_unreliable(self) -> int:
        """Units whose estimate is not to be trusted."""
        return int(np.sum(np.asarray(self.pareto_k) > self.good_k))

    @property
    def elpd(self) -> float:
        """Sum over the units."""
        return float(np.sum(self.pointwise))

    @property
    def se(self) -> float:
        """Standard error of the sum."""
        return float(np.sqrt(len(self.pointwise) * np.var(self.pointwise)))


def by_measurement(tree: xr.DataTree) -> Loo:
    """Every unique (data set, hkl, I, sigma) left out in turn; rows that repeat it in other frames go with it."""
    return _loo(tree, *_units(tree, "log_likelihood", lambda row: (row.number, row.hkl, row.intensity, row.sigma)))


def by_frame(tree: xr.DataTree) -> Loo:
    """Every frame left out in turn, with all its measurements."""
    return _loo(tree, *_units(tree, "log_likelihood", lambda row: (row.number, row.frame)))


def held_out(tree: xr.DataTree) -> Loo | None:
    """Predictive density of every held-out unique hkl, None without a hold-out."""
    if "log_likelihood_heldout" not in tree.children:
        return None
    units, values = _units(tree, "log_likelihood_heldout", lambda row: (row.number, row.hkl))
    density = logsumexp(values, axis=(0, 1)) - np.log(values[..., 0].size)
    return Loo(units=units, pointwise=density, pareto_k=np.zeros(len(units)))


@dataclasses.dataclass(frozen=True)
class _Row:
    number: int
    hkl: str
    frame: int
    intensity: float
    sigma: float


def _units(tree: Any, group: str, name_of) -> tuple[tuple[tuple, ...], Float[np.ndarray, "chain draw units"]]:
    """Names of the units in `group`, and their log likelihood: the sum over the rows of each."""
    names: list[tuple] = []
    parts = []
    for number, site in enumerate(sorted(tree[group].data_vars)):
        suffix = str(site).removeprefix("intensity")
        values = tree[group][site]
        axis = f"measurement{suffix}"
        place = values[axis].values
        constant = tree["constant_data"]
        rows = zip(
            values[f"hkl{suffix}"].values,
            constant[f"frame_of{suffix}"].values[place],
            tree["observed_data"][site].values[place],
            constant[f"sigma{suffix}"].values[place],
            strict=True,
        )
        names += [name_of(_Row(number, str(h), int(f), float(i), float(s))) for h, f, i, s in rows]
        parts.append(values.transpose("chain", "draw", axis).values)
    units = tuple(sorted(set(names)))
    position = {unit: index for index, unit in enumerate(units)}
    everything = np.concatenate(parts, axis=2)
    summed = np.zeros((*everything.shape[:2], len(units)))
    np.add.at(summed.T, np.array([position[name] for name in names]), everything.T)
    return units, summed


def _loo(tree: Any, units, values) -> Loo:
    """PSIS-LOO of ArviZ; draws of a guide are independent, those of chains are as efficient as lp says."""
    likelihood = xr.Dataset({"unit": (("chain", "draw", "which"), values)})
    small = xr.DataTree.from_dict({"log_likelihood": likelihood})
    chains = tree["posterior"].sizes["chain"]
    efficiency = 1.0
    if chains > 1:
        lp = tree["sample_stats"]["lp"]
        efficiency = float(np.clip(az.ess(lp.values) / lp.size, 0.05, 1.0))
    stuck = _stuck(values, efficiency)
    minus = -values.reshape(-1, values.shape[-1])
    pointwise = np.log(len(minus)) - logsumexp(minus, axis=0)
    k, good_k = np.full(len(units), np.inf), GOOD_K
    if not np.all(stuck):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Estimated shape parameter of Pareto")  # counted instead
            found: Any = az.loo(small.isel(which=~stuck), pointwise=True, reff=efficiency)
        pointwise[~stuck], k[~stuck], good_k = found.elpd_i, found.pareto_k, float(found.good_k)
    return Loo(units=units, pointwise=pointwise, pareto_k=k, good_k=good_k)


def _stuck(values: Float[np.ndarray, "chain draw units"], efficiency: float) -> Bool[np.ndarray, " units"]:
    """Units whose largest weights are all the same, as where a chain stands still: a tail without a shape.

    The tail is that of Vehtari et al., J. Mach. Learn. Res. 25, 72 (2024), section 4.
    """
    flat = np.sort(values.reshape(-1, values.shape[-1]), axis=0)
    count = int(min(0.2 * len(flat), 3 * np.sqrt(len(flat) / efficiency)))
    return np.ptp(flat[:count], axis=0) < np.finfo(float).tiny
