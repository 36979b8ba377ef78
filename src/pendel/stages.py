"""Completed stages as flat arrays, for the checkpoints of a run folder, and back."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from pendel.constants import Array
from pendel.infer.hmc import Sampled
from pendel.infer.layout import inspect_model
from pendel.infer.map import MapFit


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chosen:
    """Start values that were chosen: site values, and (thickness [Å], misfit) of all basins that were found."""

    values: dict[str, Array]
    basins: Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class Guided:
    """Draws from a fitted guide, the loss on the way, and the tail of posterior over guide."""

    draws: dict[str, Array]
    losses: Array
    cycle: int  # steps of one cycle of the loss
    pareto_k: float


def pack_start(start: Chosen) -> dict[str, Array]:
    """Flat arrays of start values."""
    return {"basins": start.basins, **_prefixed("values", start.values)}


def unpack_start(arrays: Mapping[str, Array]) -> Chosen:
    """The inverse of `pack_start`."""
    return Chosen(values=_stripped("values", arrays), basins=arrays["basins"])


def pack_map(fit: MapFit) -> dict[str, Array]:
    """Flat arrays of a MAP fit; its layout follows from the model."""
    scalars = {
        name: np.asarray(getattr(fit, name)) for name in ("potential", "steps", "converged", "method", "message")
    }
    return {
        "unconstrained": fit.unconstrained,
        "covariance": fit.covariance,
        **scalars,
        **_prefixed("values", fit.values),
        **_prefixed("spreads", fit.spreads),
    }


def map_values(arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Values of all sites at the maximum, the spreads included."""
    return _stripped("values", arrays)


def unpack_map(arrays: Mapping[str, Array], model: Callable, args: tuple, kwargs: dict[str, Any]) -> MapFit:
    """The inverse of `pack_map` for the same model and data."""
    return MapFit(
        values=map_values(arrays),
        unconstrained=arrays["unconstrained"],
        covariance=arrays["covariance"],
        layout=inspect_model(model, args, kwargs, with_fixed=False),
        spreads=_stripped("spreads", arrays),
        potential=float(arrays["potential"]),
        steps=int(arrays["steps"]),
        converged=bool(arrays["converged"]),
        method=str(arrays["method"]),
        message=str(arrays["message"]),
    )


def pack_guided(guided: Guided) -> dict[str, Array]:
    """Flat arrays of draws and losses."""
    numbers = {"losses": guided.losses, "cycle": np.asarray(guided.cycle), "pareto_k": np.asarray(guided.pareto_k)}
    return {**numbers, **_prefixed("draws", guided.draws)}


def unpack_guided(arrays: Mapping[str, Array]) -> Guided:
    """The inverse of `pack_guided`."""
    return Guided(
        draws=_stripped("draws", arrays),
        losses=arrays["losses"],
        cycle=int(arrays["cycle"]),
        pareto_k=float(arrays["pareto_k"]),
    )


def pack_sampled(sampled: Sampled) -> dict[str, Array]:
    """Flat arrays of Markov chains; what the layout adds follows from the model."""
    counts = {"gradients": np.asarray(sampled.gradients), "warmup_gradients": np.asarray(sampled.warmup_gradients)}
    return {**counts, **_prefixed("draws", sampled.draws), **_prefixed("statistics", sampled.statistics)}


def unpack_sampled(arrays: Mapping[str, Array]) -> Sampled:
    """The inverse of `pack_sampled`."""
    return Sampled(
        draws=_stripped("draws", arrays),
        statistics=_stripped("statistics", arrays),
        gradients=int(arrays["gradients"]),
        warmup_gradients=int(arrays["warmup_gradients"]),
    )


def _prefixed(prefix: str, values: Mapping[str, Array]) -> dict[str, Array]:
    return {f"{prefix}/{name}": np.asarray(value) for name, value in values.items()}


def _stripped(prefix: str, arrays: Mapping[str, Array]) -> dict[str, Array]:
    return {name.removeprefix(f"{prefix}/"): value for name, value in arrays.items() if name.startswith(f"{prefix}/")}
