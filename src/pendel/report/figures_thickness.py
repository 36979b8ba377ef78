"""Figures of the thickness and of the other parameters of frames, along the goniometer angle."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from pendel.folder.reader import Measured
from pendel.judge.frames import observed_in_frames, r_obs_of_frames
from pendel.report.style import BLUE, GREEN, INK, ORANGE, axes

BAND = (2.5, 97.5)  # percent of the draws inside
HALF = (25.0, 75.0)
BINS = 60  # of the heat map


def ribbon(data: Measured) -> Figure:
    """Mean thickness of every frame against the angle: median, half and 95 % of the draws; and its width."""
    figure, ax = axes(xlabel="goniometer angle / deg", ylabel="thickness / Å")
    order = np.argsort(data.alpha)
    angle, draws = data.alpha[order], data.of_frames["thickness"][:, order]
    for limits, alpha, label in ((BAND, 0.2, "95 % of the draws"), (HALF, 0.35, "50 %")):
        low, high = np.percentile(draws, limits, axis=0)
        ax.fill_between(angle, low, high, color=BLUE, alpha=alpha, linewidth=0, label=label)
    ax.plot(angle, np.median(draws, axis=0), color=BLUE, label="median of the mean thickness")
    if "thickness_width" in data.of_frames:
        width = np.median(data.of_frames["thickness_width"][:, order], axis=0)
        ax.plot(angle, width, color=ORANGE, linestyle="--", label="standard deviation within the frame")
    ax.set_ylim(bottom=0)
    ax.legend(ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return figure


def heat_map(data: Measured) -> Figure:
    """Posterior density of the mean thickness in every frame: several modes would show as several bands."""
    figure, ax = axes(xlabel="goniometer angle / deg", ylabel="mean thickness / Å")
    order = np.argsort(data.alpha)
    draws = data.of_frames["thickness"][:, order]
    low, high = np.percentile(draws, (0.5, 99.5))
    edges = np.linspace(low, high, BINS + 1)
    density = np.array([np.histogram(column, edges)[0] for column in draws.T], dtype=float).T
    density /= np.maximum(density.max(axis=0), 1)
    colour = np.zeros((*density.shape, 4))
    colour[..., :3] = np.array([0, 114, 178]) / 255  # an image cannot take the page's colours; this blue suits both
    colour[..., 3] = density
    extent = (-0.5, len(order) - 0.5, edges[0], edges[-1])
    ax.imshow(colour, origin="lower", aspect="auto", extent=extent, interpolation="nearest")
    ticks = np.unique(np.linspace(0, len(order) - 1, 6).astype(int))
    ax.set_xticks(ticks, [f"{data.alpha[order][i]:.0f}" for i in ticks])
    ax.grid(False)
    return figure


def basins(found: Sequence[Sequence[float]]) -> Figure:
    """Thickness basins of the scan for start values, with their misfit over that of the best one."""
    figure, ax = axes(xlabel="largest thickness of the basin / Å", ylabel="misfit over the best / nats")
    thickness, misfit = np.array(found).T
    ax.vlines(thickness, 0, misfit - misfit.min(), color=BLUE)
    ax.plot(thickness, misfit - misfit.min(), "o", color=BLUE, markersize=5)
    ax.set_ylim(bottom=-0.05 * max(1.0, float(np.ptp(misfit))))
    return figure


def frame_parameters(data: Measured) -> dict[str, Figure]:
    """Scale and tilt of every frame with their standard deviations; those that the model has."""
    figures = {}
    if "scale" in data.of_frames:
        draws = data.of_frames["scale"]
        relative = draws / np.mean(draws, axis=1, keepdims=True)  # what all frames share says nothing of single ones
        figure, ax = axes(xlabel="goniometer angle / deg", ylabel="scale / mean of the frames")
        ax.errorbar(data.alpha, relative.mean(axis=0), relative.std(axis=0), fmt="o", color=BLUE, elinewidth=1)
        ax.axhline(1.0, color=INK, linewidth=0.7)
        figures["scale"] = figure
    if "tilt" in data.of_frames:
        draws = data.of_frames["tilt"]
        figure, ax = axes(xlabel="goniometer angle / deg", ylabel="tilt from the file's orientation / deg")
        for axis, colour, marker in ((0, BLUE, "o"), (1, GREEN, "s")):
            mean, sd = draws[:, :, axis].mean(axis=0), draws[:, :, axis].std(axis=0)
            ax.errorbar(data.alpha, mean, sd, fmt=marker, color=colour, elinewidth=1, label=f"about {'xy'[axis]}")
        ax.axhline(0.0, color=INK, linewidth=0.7)
        ax.legend(ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))
        figures["tilt"] = figure
    return figures


def frame_agreement(data: Measured) -> Figure:
    """R_obs of every frame, with the number of its observed reflections as the size of the marker."""
    figure, ax = axes(xlabel="goniometer angle / deg", ylabel="R_obs / %")
    r_obs = r_obs_of_frames(data)
    ax.scatter(data.alpha, 100 * r_obs, s=6 + 2 * observed_in_frames(data), color=BLUE, alpha=0.8, linewidth=0)
    ax.axhline(100 * float(np.nanmean(r_obs)), color=ORANGE, linestyle="--", linewidth=1)
    ax.set_ylim(bottom=0)
    return figure
