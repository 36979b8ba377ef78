"""Completed stages as flat arrays, for the checkpoints of a run folder, and back."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from pendel.base import Array
from pendel.infer.chains.nuts import Sampled
from pendel.infer.chains.smc import Tempered
from pendel.infer.maximum.arrow import Arrow
from pendel.infer.maximum.map import MapFit
from pendel.infer.target import Target

ARROW = ("shared", "border", "blocks")  # arrays of the precision of a MAP fit


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chosen:
    """Start values that were chosen: site values, and (thickness [Å], misfit) of all basins that were found.

    `others`: site values of the basins that were not chosen.
    """

    values: dict[str, Array]
    basins: Array
    others: tuple[dict[str, Array], ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Guided:
    """Draws from a fitted guide, the loss on the way, and the tail of posterior over guide.

    `losses`: [guides steps] of the guides from all seeds, the kept one first; NaN after the end of the shorter ones.
    """

    draws: dict[str, Array]
    losses: Array
    cycle: int  # steps of one cycle of the loss
    pareto_k: float
    k_draws: int  # that it was found from


def pack_start(start: Chosen) -> dict[str, Array]:
    """Flat arrays of start values."""
    others = {k: v for n, values in enumerate(start.others) for k, v in _prefixed(f"other_{n}", values).items()}
    return {"basins": start.basins, **_prefixed("values", start.values), **others}


def unpack_start(arrays: Mapping[str, Array]) -> Chosen:
    """The inverse of `pack_start`."""
    count = len({name.partition("/")[0] for name in arrays if name.startswith("other_")})
    others = tuple(_stripped(f"other_{number}", arrays) for number in range(count))
    return Chosen(values=_stripped("values", arrays), basins=arrays["basins"], others=others)


def pack_map(fit: MapFit) -> dict[str, Array]:
    """Flat arrays of a MAP fit; its layout follows from the model."""
    scalars = {
        name: np.asarray(getattr(fit, name)) for name in ("potential", "steps", "converged", "method", "message")
    }
    return {
        "unconstrained": fit.unconstrained,
        **_prefixed("precision", {name: getattr(fit.precision, name) for name in (*ARROW, "sizes")}),
        **scalars,
        **_prefixed("values", fit.values),
        **_prefixed("spreads", fit.spreads),
    }


def map_values(arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Values of all sites at the maximum, the spreads included."""
    return _stripped("values", arrays)


def unpack_map(arrays: Mapping[str, Array], target: Target) -> MapFit:
    """The inverse of `pack_map` for the same model and data."""
    arrow = _stripped("precision", arrays)
    return MapFit(
        values=map_values(arrays),
        unconstrained=arrays["unconstrained"],
        precision=Arrow(**{name: arrow[name] for name in ARROW}, sizes=tuple(map(int, arrow["sizes"]))),
        layout=target.layout,
        spreads=_stripped("spreads", arrays),
        potential=float(arrays["potential"]),
        steps=int(arrays["steps"]),
        converged=bool(arrays["converged"]),
        method=str(arrays["method"]),
        message=str(arrays["message"]),
    )


def pack_basins(fits: Sequence[MapFit]) -> dict[str, Array]:
    """Flat arrays of several MAP fits of one model."""
    return {k: v for n, fit in enumerate(fits) for k, v in _prefixed(f"fit_{n}", pack_map(fit)).items()}


def unpack_basins(arrays: Mapping[str, Array], target: Target) -> list[MapFit]:
    """The inverse of `pack_basins` for the same model and data."""
    count = len({name.partition("/")[0] for name in arrays})
    return [unpack_map(_stripped(f"fit_{number}", arrays), target) for number in range(count)]


def pack_guided(guided: Guided) -> dict[str, Array]:
    """Flat arrays of draws and losses."""
    numbers = {"losses": guided.losses, "cycle": np.asarray(guided.cycle), "pareto_k": np.asarray(guided.pareto_k)}
    numbers["k_draws"] = np.asarray(guided.k_draws)
    return {**numbers, **_prefixed("draws", guided.draws)}


def unpack_guided(arrays: Mapping[str, Array]) -> Guided:
    """The inverse of `pack_guided`."""
    return Guided(
        draws=_stripped("draws", arrays),
        losses=arrays["losses"],
        cycle=int(arrays["cycle"]),
        pareto_k=float(arrays["pareto_k"]),
        k_draws=int(arrays["k_draws"]),
    )


def pack_tempered(tempered: Tempered) -> dict[str, Array]:
    """Flat arrays of tempered particles."""
    numbers = {field.name: np.asarray(getattr(tempered, field.name)) for field in dataclasses.fields(Tempered)[1:]}
    return {**numbers, **_prefixed("draws", tempered.draws)}


def unpack_tempered(arrays: Mapping[str, Array]) -> Tempered:
    """The inverse of `pack_tempered`."""
    return Tempered(
        draws=_stripped("draws", arrays),
        basin=np.asarray(arrays["basin"]),
        probability=np.asarray(arrays["probability"]),
        log_evidence=float(arrays["log_evidence"]),
        log_evidence_se=float(arrays["log_evidence_se"]),
        temperatures=tuple(np.asarray(arrays["temperatures"]).tolist()),
        acceptance=tuple(np.asarray(arrays["acceptance"]).tolist()),
        gradients=int(arrays["gradients"]),
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
