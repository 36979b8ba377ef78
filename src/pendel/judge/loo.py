"""Leave-one-out predictive density of a posterior file, by unique measurement and by frame, and leave-one-out ranks."""

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any

import arviz as az
import numpy as np
import xarray as xr
from jaxtyping import Bool, Float, Int
from scipy.special import logsumexp

from pendel.base import Array, suffix

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
    units, values, _ = _units(tree, "log_likelihood", _measurement)
    return _loo(tree, units, values)


def by_frame(tree: xr.DataTree) -> Loo:
    """Every frame left out in turn, with all its measurements."""
    units, values, _ = _units(tree, "log_likelihood", lambda row: (row.number, row.frame))
    return _loo(tree, units, values)


def left_out_ranks(tree: xr.DataTree) -> tuple[Float[np.ndarray, " measurements"], ...]:
    """LOO-PIT: the probability that a new I_obs of the fitted model lies below the measured one, which is left out.

        PIT_m = sum over draws d of w_md [I_rep,md < I_obs,m],   w_md proportional to 1 / p(I_obs,m | draw d), truncated

    Ranks among replicas of a fit that used the measurement itself are not uniform for the right model, because fitted
    parameters pull I_calc towards I_obs. LOO-PIT is uniform. Its steps are filled with uniform random numbers: with the
    effective number of draws n = 1 / sum w^2 it becomes (n PIT + u) / (n + 1). Rows that repeat a measurement are left
    out together. Smoothed weights (`by_measurement`) give the same ranks in a hundred times the time.

    Returns:
        one array for each data set, of the measurements in the fit in the order of the file.

    Source: Gelman et al., Bayesian Data Analysis, 3rd ed. (2013), section 7.2; Säilynoja, Bürkner & Vehtari, Stat.
    Comput. 32, 32 (2022).
    """
    _, values, unit_of_row = _units(tree, "log_likelihood", _measurement)
    weights = _truncated_weights(values)[:, unit_of_row]
    count = 1 / np.sum(weights**2, axis=0)
    jitter = np.random.default_rng(0).uniform(size=len(count))
    ranks, first = [], 0
    for number in range(len(tree["observed_data"].data_vars)):
        site, axis = f"intensity{suffix(number)}", f"measurement{suffix(number)}"
        place = np.asarray(tree["log_likelihood"][site][axis].values)
        own = slice(first, first + len(place))
        replicated = tree["posterior_predictive"][site].transpose("chain", "draw", axis).values[:, :, place]
        is_below = replicated.reshape(-1, len(place)) < np.asarray(tree["observed_data"][site].values)[place]
        below = np.sum(weights[:, own] * is_below, axis=0)
        ranks.append((count[own] * below + jitter[own]) / (count[own] + 1))
        first += len(place)
    return tuple(ranks)


def unit_weights(tree: xr.DataTree) -> tuple[tuple[tuple, ...], Float[np.ndarray, "draws units"]]:
    """Every unique (data set, hkl, I, sigma), and the weights of the draws that leave it out, see `left_out_ranks`."""
    units, values, _ = _units(tree, "log_likelihood", _measurement)
    return units, _truncated_weights(values)


def held_out(tree: xr.DataTree) -> Loo | None:
    """Predictive density of every held-out unique hkl, None without a hold-out."""
    if "log_likelihood_heldout" not in tree.children:
        return None
    units, values, _ = _units(tree, "log_likelihood_heldout", lambda row: (row.number, row.hkl))
    density = logsumexp(values, axis=(0, 1)) - np.log(values[..., 0].size)
    return Loo(units=units, pointwise=density, pareto_k=np.zeros(len(units)))


@dataclasses.dataclass(frozen=True)
class _Row:
    number: int
    hkl: str
    frame: int
    intensity: float
    sigma: float


def _measurement(row: _Row) -> tuple:
    return row.number, row.hkl, row.intensity, row.sigma


def _units(
    tree: Any, group: str, name_of: Callable[[_Row], tuple]
) -> tuple[tuple[tuple, ...], Float[np.ndarray, "chain draw units"], Int[np.ndarray, " rows"]]:
    """Names of the units in `group`, their log likelihood (the sum over the rows of each), and the unit of every row.

    Rows are those of all data sets, one data set after the other.
    """
    names: list[tuple] = []
    parts = []
    for number in range(len(tree[group].data_vars)):
        end = suffix(number)
        site, axis = f"intensity{end}", f"measurement{end}"
        values = tree[group][site]
        place = values[axis].values
        constant = tree["constant_data"]
        rows = zip(
            values[f"hkl{end}"].values,
            constant[f"frame_of{end}"].values[place],
            tree["observed_data"][site].values[place],
            constant[f"sigma{end}"].values[place],
            strict=True,
        )
        names += [name_of(_Row(number, str(h), int(f), float(i), float(s))) for h, f, i, s in rows]
        parts.append(values.transpose("chain", "draw", axis).values)
    units = tuple(sorted(set(names)))
    position = {unit: index for index, unit in enumerate(units)}
    everything = np.concatenate(parts, axis=2)
    summed = np.zeros((*everything.shape[:2], len(units)))
    unit_of_row = np.array([position[name] for name in names])
    np.add.at(summed.T, unit_of_row, everything.T)
    return units, summed, unit_of_row


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


def _truncated_weights(values: Float[np.ndarray, "chain draw units"]) -> Float[np.ndarray, "draws units"]:
    """Importance weights that leave a unit out, none above sqrt(draws) times the mean; their sum over draws is 1.

    Source: Ionides, J. Comput. Graph. Stat. 17, 295 (2008).
    """
    minus = -values.reshape(-1, values.shape[-1])
    relative = np.exp(minus - logsumexp(minus, axis=0)) * len(minus)
    weights = np.minimum(relative, np.sqrt(len(minus)))
    return weights / np.sum(weights, axis=0)


def _stuck(values: Float[np.ndarray, "chain draw units"], efficiency: float) -> Bool[np.ndarray, " units"]:
    """Units whose largest weights are all the same, as where a chain stands still: a tail without a shape.

    The tail is that of Vehtari et al., J. Mach. Learn. Res. 25, 72 (2024), section 4.
    """
    flat = np.sort(values.reshape(-1, values.shape[-1]), axis=0)
    count = int(min(0.2 * len(flat), 3 * np.sqrt(len(flat) / efficiency)))
    return np.ptp(flat[:count], axis=0) < np.finfo(float).tiny
