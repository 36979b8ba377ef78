"""Which measurements move the structure: what leaving one of them out would do to the coordinates."""

import dataclasses
from typing import Any

import numpy as np
import xarray as xr

from pendel.base import Array
from pendel.judge.loo import unit_weights
from pendel.judge.parameters import FIXED

MOST = 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Influence:
    """One measurement, left out: `label` of the coordinate that moves most, and by how much.

    `shift`: change of the posterior mean in units of its standard uncertainty; `noise`: standard error of the shift
    from the number of draws, in the same unit; `data_set`: counted from 0.
    """

    data_set: int
    hkl: str
    intensity: float
    sigma: float
    label: str
    shift: float
    noise: float


def influences(tree: xr.DataTree, most: int = MOST) -> list[Influence]:
    """The measurements that move a coordinate most, those first whose shift exceeds its noise most.

        shift_m = sum over draws d of w_md (x_d - mean x) / su(x),   w_md proportional to 1 / p(I_obs,m | draw d)

    The weights, truncated as in `left_out_ranks`, sum to 1. Rows that repeat a measurement are left out together. The
    noise is sqrt(sum over d of (w_md - 1/n)^2), that of a coordinate that has nothing to do with the measurement.
    Units are ordered by |shift| - noise, because with few draws the largest shifts are those of the noise.
    Empty where nothing is refined.
    """
    units, weights = unit_weights(tree)
    everything: Any = tree["posterior"]["fract"]
    fract: Any = everything.sel(draw=tree["log_likelihood"]["draw"].values)
    labels = [f"{site} {axis}" for site in fract["site"].values for axis in fract["axis"].values]
    draws = fract.values.reshape(len(weights), -1)
    su = everything.values.reshape(-1, draws.shape[1]).std(axis=0, ddof=1)
    free = np.flatnonzero(su > FIXED)
    if not len(free):
        return []
    shifts = weights.T @ ((draws - draws.mean(axis=0))[:, free] / su[free])
    worst = np.argmax(np.abs(shifts), axis=1)
    noise = np.sqrt(np.sum((weights - 1 / len(weights)) ** 2, axis=0))
    largest = shifts[np.arange(len(units)), worst]
    return [
        _influence(units[unit], labels[free[worst[unit]]], largest[unit], noise[unit])
        for unit in np.argsort(noise - np.abs(largest), kind="stable")[:most]
    ]


def _influence(unit: tuple, label: str, shift: float | Array, noise: float | Array) -> Influence:
    data_set, hkl, intensity, sigma = unit
    return Influence(
        data_set=data_set,
        hkl=hkl,
        intensity=intensity,
        sigma=sigma,
        label=label,
        shift=float(shift),
        noise=float(noise),
    )
