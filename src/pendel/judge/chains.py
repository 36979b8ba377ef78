"""Convergence of Markov chains, by ArviZ."""

from collections.abc import Mapping
from typing import Any

import arviz as az
import numpy as np
from arviz_base import dict_to_dataset

from pendel.base import Array


def chain_quality(draws: Mapping[str, Array]) -> dict[str, Any]:
    """Largest rank-normalised R-hat and smallest effective sample sizes, and the number each belongs to.

    Args:
        draws: values of every site, [chain draw ...].

    R-hat is infinite where chains stand still at different places.

    Source: Vehtari et al., Bayesian Analysis 16, 667 (2021).
    """
    dataset = dict_to_dataset({name: np.asarray(values) for name, values in draws.items() if np.size(values)})
    worst = {
        "max_r_hat": _extreme(_r_hat(dataset), np.nanargmax),
        "min_ess_bulk": _extreme(az.ess(dataset, method="bulk"), np.nanargmin),
        "min_ess_tail": _extreme(az.ess(dataset, method="tail"), np.nanargmin),
    }
    found: dict[str, Any] = {}
    for name, (value, where) in worst.items():
        found |= {name: value, f"{name}_of": where}
    return found


def _r_hat(dataset):
    """R-hat of every number; infinite where each chain stands still at a place of its own."""
    with np.errstate(divide="ignore", invalid="ignore"):  # no variance within the chains
        return az.rhat(dataset)


def _extreme(dataset, choose) -> tuple[float, str]:
    names, values = [], []
    for name, array in dataset.data_vars.items():
        for index in np.ndindex(array.shape):
            names.append(f"{name}[{','.join(map(str, index))}]" if index else str(name))
            values.append(float(array.values[index]))
    where = int(choose(values))
    return values[where], names[where]


def fraction_of_missing_information(tree: Any) -> float:
    """The smallest E-BFMI of the chains: mean squared change of the energy over its variance (Betancourt 2016)."""
    return float(np.min(az.bfmi(tree)["energy"].values))


def site_quality(values: np.ndarray) -> tuple[float, float]:
    """R-hat and bulk ESS of one number, [chain draw]; NaN for one chain of independent draws."""
    if values.shape[0] == 1 or np.std(values) == 0:
        return float("nan"), float("nan")
    dataset = dict_to_dataset({"x": values})
    return float(_r_hat(dataset)["x"]), float(az.ess(dataset)["x"])
