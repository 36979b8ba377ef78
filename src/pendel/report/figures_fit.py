"""Figures of the fit: calculated against observed, residuals against what could explain them, and rocking curves."""

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from scipy.special import ndtri
from scipy.stats import kstwo, t

from pendel.base import Array
from pendel.folder.reader import Measured, is_observed
from pendel.report.style import BLUE, GREEN, GRID, INK, ORANGE, axes, dots, strokes

MOST_POINTS = 2500  # in one figure; more are thinned evenly, and the caption says so
OUTLIER = 4.0  # |z| beyond it is marked


def observed_against_calculated(data: Measured) -> Figure:
    """I_obs with its sigma against I_calc with its standard deviation, both on logarithmic axes."""
    figure, ax = axes(xlabel="I_calc", ylabel="I_obs", height=3.6)
    mean, sd = data.calculated.mean(axis=0), data.calculated.std(axis=0)
    shown = thinned(np.flatnonzero(is_observed(data) & (mean > 0)))
    limits = [0.5 * float(data.intensity[shown].min()), 2 * float(data.intensity[shown].max())]
    ax.plot(limits, limits, color=INK, linewidth=0.8)
    far = np.abs(data.z[shown]) > OUTLIER
    for chosen, colour, label in ((shown[~far], BLUE, "observed"), (shown[far], ORANGE, f"|z| > {OUTLIER:g}")):
        x, y, x_error, y_error = mean[chosen], data.intensity[chosen], sd[chosen], data.sigma[chosen]
        strokes(ax, x - x_error, x + x_error, y, y, color=colour, linewidth=0.6, alpha=0.6)
        strokes(ax, x, x, y - y_error, y + y_error, color=colour, linewidth=0.6, alpha=0.6)
        dots(ax, x, y, size=3.0, color=colour, alpha=0.6, label=label)
    ax.set(xscale="log", yscale="log", xlim=limits, ylim=limits)
    ax.legend(loc="upper left")
    return figure


def residuals(data: Measured) -> dict[str, Figure]:
    """z = (I_obs - I_calc) / scale of the error model against resolution, I/sigma, |S_g|/span and frame."""
    strength = np.maximum(data.intensity / data.sigma, 0.3)
    against = {
        "resolution": ("resolution |g| / Å⁻¹", data.d_star, "linear"),
        "strength": ("I_obs / sigma (at least 0.3)", strength, "log"),
        "excitation": ("|S_g| / span at the file's orientation", data.relative_excitation, "linear"),
        "frame": ("goniometer angle / deg", data.alpha[data.frame], "linear"),
    }
    figures = {}
    shown = thinned(np.arange(len(data.z)))
    for name, (label, values, scale) in against.items():
        figure, ax = axes(xlabel=label, ylabel="z")
        ax.axhspan(-2, 2, color=GRID, alpha=0.5, linewidth=0)
        z = np.clip(data.z[shown], -6, 6)
        used = data.used[shown]
        dots(ax, values[shown][used], z[used], color=BLUE, alpha=0.7)
        ax.plot(values[shown][~used], z[~used], "^", color=ORANGE, alpha=0.5, markersize=2.5, linestyle="none")
        centre, mean, error = binned(values, data.z)
        ax.errorbar(centre, mean, error, color=INK, fmt="_-", linewidth=1, elinewidth=1)
        ax.set(xscale=scale, ylim=(-6.3, 6.3))
        figures[name] = figure
    return figures


def quantiles(data: Measured) -> Figure:
    """Normal quantiles against those of z; heavy tails of Student-t bend the ends."""
    figure, ax = axes(xlabel="normal quantile", ylabel="quantile of z", height=3.6)
    z = np.sort(data.z[data.used])
    normal = ndtri((np.arange(len(z)) + 0.5) / len(z))
    shown = thinned(np.arange(len(z)))
    ax.plot([-4, 4], [-4, 4], color=INK, linewidth=0.8)
    dots(ax, normal[shown], np.clip(z[shown], -8, 8), color=BLUE)
    return figure


def probability_integral(ranks: Float[Array, " measurements"]) -> Figure:
    """Leave-one-out ranks of I_obs (LOO-PIT) minus uniform, with the 95 % band of a right model."""
    figure, ax = axes(xlabel="probability", ylabel="share of ranks below it, minus it", height=3.6)
    rank = np.sort(ranks)
    count = len(rank)
    level = float(kstwo.ppf(0.95, count))
    share = (np.arange(count) + 0.5) / count
    shown = thinned(np.arange(count))
    ax.fill_between([0, 1], -level, level, color=GRID, alpha=0.6, linewidth=0)
    ax.plot(rank[shown], (share - rank)[shown], color=BLUE)
    ax.axhline(0, color=INK, linewidth=0.7)
    ax.set(xlim=(0, 1))
    return figure


def rocking(data: Measured, row: int) -> Figure:
    """The rocking curve of one measurement with its 95 % band.

    Its mean over the tilts is the calculated intensity, or proportional to it where the range of a curve is not as long
    as the sweep of its frame; both intensities are drawn at the height of that mean.
    """
    figure, ax = axes(xlabel="excitation error S_g / 10⁻³ Å⁻¹", ylabel="intensity", height=2.4)
    points = np.flatnonzero(data.curve_measurement == row)
    points = points[np.argsort(data.curve_excitation[points])]
    error, draws = 1e3 * data.curve_excitation[points], data.curve[:, points]
    count = len(draws)  # as few as eight
    centre, half = draws.mean(axis=0), np.zeros(len(points))
    if count > 1:
        half = t.ppf(0.975, count - 1) * np.sqrt(1 + 1 / count) * draws.std(axis=0, ddof=1)
    ax.fill_between(error, np.maximum(centre - half, 0.0), centre + half, color=BLUE, alpha=0.25, linewidth=0)
    ax.plot(error, centre, color=BLUE)
    mean, calculated = float(np.mean(draws)), float(np.mean(data.calculated[:, row]))
    height = mean * float(data.intensity[row]) / calculated if calculated > 0 else float(data.intensity[row])
    ax.axhline(height, color=ORANGE, linestyle="--", linewidth=1, label="I_obs")
    ax.axhline(mean, color=GREEN, linewidth=1, label="I_calc, the mean of the curve")
    ax.set_ylim(bottom=0)
    ax.legend(loc="lower center", ncols=2, bbox_to_anchor=(0.5, 1.0))
    return figure


def binned(values: Array, z: Array, count: int = 8) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centre, mean z and its standard error in groups of equal size along `values`."""
    order = np.argsort(values)
    groups = [group for group in np.array_split(order, count) if len(group) > 1]
    centre = np.array([np.median(values[group]) for group in groups])
    mean = np.array([np.mean(np.clip(z[group], -6, 6)) for group in groups])
    error = np.array([np.std(np.clip(z[group], -6, 6)) / np.sqrt(len(group)) for group in groups])
    return centre, mean, error


def thinned(rows: np.ndarray) -> np.ndarray:
    """At most MOST_POINTS of the rows, evenly."""
    if len(rows) <= MOST_POINTS:
        return rows
    return rows[np.linspace(0, len(rows) - 1, MOST_POINTS).astype(int)]
