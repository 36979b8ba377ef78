"""Figures of the inference: chains, the guide's loss, and its uncertainties against those of Laplace."""

from typing import Any

import arviz as az
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from scipy.stats import rankdata

from pendel.report.style import BLUE, GREEN, GRID, INK, MUTED, ORANGE, axes

COLOURS = (BLUE, ORANGE, GREEN, MUTED)
MOST_TRACES, OF_FRAMES = 8, 2
DERIVED = ("fract", "U_aniso")
MANY = ("frame", "reflection")  # what axes with a number for each of them begin with
ENOUGH = 400  # effective samples
RATIOS = (0.1, 0.2, 0.5, 0.8, 1, 1.25, 2, 5, 10)  # ticks


def traced_numbers(tree: Any) -> list[tuple[str, tuple[int, ...]]]:
    """Numbers of the chains to look at: the slowest of the frames and reflections, then of those of the whole model."""
    posterior = tree["posterior"]

    def slowest(of_frames, most):
        names = [
            str(name)
            for name in posterior.data_vars
            if any(str(axis).startswith(MANY) for axis in posterior[name].dims) == of_frames and name not in DERIVED
        ]
        found = [(name, index) for name in names for index in np.ndindex(posterior[name].shape[2:])]
        varying = [number for number in found if np.std(_number(tree, *number)) > 0]
        slowness = [float(az.ess(_number(tree, *number))) for number in varying]
        return [varying[k] for k in np.argsort(slowness, kind="stable")[:most]]

    return [*slowest(True, OF_FRAMES), *slowest(False, MOST_TRACES)]


def trace(tree: Any, name: str, index: tuple[int, ...]) -> Figure:
    """All draws of a number, chain by chain."""
    figure, ax = axes(xlabel="draw", ylabel=label(name, index), height=2.0)
    for chain, values in enumerate(_number(tree, name, index)):
        ax.plot(values, color=COLOURS[chain % 4], linewidth=0.5, alpha=0.8)
    return figure


def ranks(tree: Any, name: str, index: tuple[int, ...], bins: int = 20) -> Figure:
    """Ranks of each chain's draws among all of them: flat where the chains agree (Vehtari et al. 2021)."""
    figure, ax = axes(xlabel=f"rank of {label(name, index)}", ylabel="count", height=2.0)
    values = _number(tree, name, index)
    rank = rankdata(values).reshape(values.shape)
    edges = np.linspace(0, values.size, bins + 1)
    for chain, own in enumerate(rank):
        ax.stairs(np.histogram(own, edges)[0], edges, color=COLOURS[chain % 4])
    ax.axhline(values.shape[1] / bins, color=INK, linewidth=0.7)
    ax.set_ylim(bottom=0)
    return figure


def effective_samples(tree: Any) -> Figure:
    """Bulk and tail effective sample sizes of every number, sorted."""
    posterior = tree["posterior"].to_dataset()
    figure, ax = axes(xlabel="share of all numbers", ylabel="effective samples")
    for method, colour in (("bulk", BLUE), ("tail", ORANGE)):
        found = az.ess(posterior, method=method)
        values = np.sort(np.concatenate([np.ravel(x.values) for x in found.data_vars.values()]))
        values = values[np.isfinite(values)]
        ax.plot(np.linspace(0, 1, len(values)), values, color=colour, label=method)
    ax.axhline(ENOUGH, color=INK, linewidth=0.7)
    ax.set(yscale="log")
    ax.legend()
    return figure


def energies(tree: Any) -> Figure:
    """Energy and its change from draw to draw; a change much narrower than the energy explores slowly (E-BFMI)."""
    figure, ax = axes(xlabel="energy minus its mean", ylabel="density")
    energy = tree["sample_stats"]["energy"].values
    change = np.diff(energy, axis=1)
    low, high = np.percentile(energy - energy.mean(), (0.1, 99.9))
    edges = np.linspace(low, high, 40)
    for values, colour, name in ((energy - energy.mean(), BLUE, "energy"), (change, ORANGE, "change")):
        ax.stairs(np.histogram(values, edges, density=True)[0], edges, color=colour, label=name)
    ax.legend()
    return figure


def losses(of_guides: np.ndarray) -> Figure:
    """Losses (negative ELBO) [guides steps] or [steps] over the end of the first guide's, smoothed over 25 steps."""
    figure, ax = axes(xlabel="step", ylabel="negative ELBO over its end / nats")
    values, *others = (losses[np.isfinite(losses)] for losses in np.atleast_2d(of_guides))
    end = float(np.mean(values[-50:]))
    width = min(25, len(values))

    def smoothed(losses):
        return np.convolve(losses, np.ones(width) / width, mode="valid") - end

    ax.plot(values - end, color=GRID, linewidth=0.6)
    for number, other in enumerate(others):
        label = "from other seeds" if number == 0 else None
        ax.plot(np.arange(len(smoothed(other))) + width // 2, smoothed(other), color=ORANGE, label=label)
    smooth = smoothed(values)
    ax.plot(np.arange(len(smooth)) + width // 2, smooth, color=BLUE, label="the guide that was kept")
    if others:
        ax.legend()
    spread = float(np.std(values[len(values) // 2 :]))
    ax.set_ylim(-4 * spread, max(8 * spread, float(smooth[len(smooth) // 10])))
    return figure


def uncertainties(tree: Any, stage: str) -> Figure:
    """Standard deviations of the numbers that all frames share, over those of the Laplace approximation.

    Without the errors of reflections, of which there are hundreds.
    """
    figure, ax = axes(xlabel=f"standard deviation, {stage} / Laplace", height=0.0)
    laplace, posterior = tree["laplace"], tree["posterior"]
    names, ratios = [], []
    for name in (name for name in laplace.data_vars if "reflection" not in laplace[name].dims):
        before, after = laplace[name].values.std(axis=(0, 1)), posterior[name].values.std(axis=(0, 1))
        for index in np.ndindex(before.shape):
            if before[index] > 0:
                names.append(label(str(name), index))
                ratios.append(after[index] / before[index])
    figure.set_size_inches(4.6, 0.9 + 0.17 * len(names))
    ax.axvspan(0.8, 1.25, color=GRID, alpha=0.6, linewidth=0)
    ax.plot(ratios, np.arange(len(names)), "o", color=BLUE, markersize=4)
    ax.set_yticks(np.arange(len(names)), names, fontsize=7)
    ax.set(xscale="log", ylim=(len(names) - 0.5, -0.5))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xticks(RATIOS, map(str, RATIOS))
    ax.set_xlim(min(0.75, 0.9 * min(ratios, default=1.0)), max(1.35, 1.1 * max(ratios, default=1.0)))
    ax.axvline(1, color=INK, linewidth=0.7)
    return figure


def label(name: str, index: tuple[int, ...]) -> str:
    """A number's name: site and position."""
    return f"{name}[{','.join(map(str, index))}]" if index else name


def _number(tree: Any, name: str, index: tuple[int, ...]) -> np.ndarray:
    return tree["posterior"][name].values[(slice(None), slice(None), *index)]
