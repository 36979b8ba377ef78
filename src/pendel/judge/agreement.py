"""R factors of electron diffraction, as published programs compute them, and the counts that belong to them."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int

from pendel.base import Array
from pendel.experiment.frames import OBSERVED_SIGMA
from pendel.model.errors import amplitude_weights


@dataclasses.dataclass(frozen=True, kw_only=True)
class Agreement:
    """R factors (fractions, not percent) with the numbers of reflections and frames behind them.

    `mean`: over frames; `pooled`: sums over all frames before the division. NaN where nothing could be summed.
    """

    r_obs_mean: float
    r_obs_pooled: float
    wr2_mean: float
    wr2_pooled: float
    n_scored: int
    n_observed: int
    n_frames: int


def agreement(
    intensity: Float[Array, " reflections"],
    sigma: Float[Array, " reflections"],
    calculated: Float[Array, " reflections"],
    frame_index: Int[Array, " reflections"],
    *,
    mask: Bool[Array, " reflections"] | None = None,
) -> Agreement:
    """All R factors of calculated intensities that are on the scale of the data.

        R_obs = sum |sqrt(I_o) - sqrt(I_c)| / sum sqrt(I_o)              over I_o > 3 sigma
        wR2   = sqrt( sum (w (I_c - I_o))^2 / sum (w I_o)^2 )            over all, w from `pendel.model.errors`

    Args:
        intensity, sigma, calculated: in the same unit.
        frame_index: frame of each reflection; those of further crystals continue the count.
        mask: reflections to use, all when not given.

    Source: Klar et al. (2023), Nature Chemistry 15, 848, supplement.
    """
    use = np.ones(len(intensity), dtype=bool) if mask is None else np.asarray(mask)
    observed, errors, measured, calc = (np.asarray(x)[use] for x in (frame_index, sigma, intensity, calculated))
    frames, frame = np.unique(observed, return_inverse=True)
    r_top, r_bottom = _amplitude_sums(measured, errors, calc, frame, len(frames))
    weight = np.asarray(amplitude_weights(measured, errors))

    def per_frame(values):
        return np.bincount(frame, weights=values, minlength=len(frames)).astype(float)

    w_top, w_bottom = per_frame((weight * (calc - measured)) ** 2), per_frame((weight * measured) ** 2)
    return Agreement(
        r_obs_mean=_mean_ratio(r_top, r_bottom),
        r_obs_pooled=_mean_ratio(r_top.sum(keepdims=True), r_bottom.sum(keepdims=True)),
        wr2_mean=_mean_ratio(np.sqrt(w_top), np.sqrt(w_bottom)),
        wr2_pooled=_mean_ratio(np.sqrt(w_top.sum(keepdims=True)), np.sqrt(w_bottom.sum(keepdims=True))),
        n_scored=len(measured),
        n_observed=int(np.sum(measured > OBSERVED_SIGMA * errors)),
        n_frames=len(frames),
    )


def frame_r_obs(
    intensity: Float[Array, " reflections"],
    sigma: Float[Array, " reflections"],
    calculated: Float[Array, " reflections"],
    frame_index: Int[Array, " reflections"],
    frames: int,
) -> Float[np.ndarray, " frames"]:
    """R_obs of every frame, as in `agreement`; NaN where nothing was observed."""
    measured, errors, calc, frame = (np.asarray(x) for x in (intensity, sigma, calculated, frame_index))
    top, bottom = _amplitude_sums(measured, errors, calc, frame, frames)
    return np.divide(top, bottom, out=np.full(frames, np.nan), where=bottom > 0)


def rescaled(
    intensity: Float[Array, " reflections"],
    sigma: Float[Array, " reflections"],
    calculated: Float[Array, " reflections"],
    frame_index: Int[Array, " reflections"],
    background: float | Float[Array, " reflections"] = 0.0,
) -> Float[Array, " reflections"]:
    """Calculated intensities I_c with the scale of every frame refitted, k (I_c - B) + B.

        k = sum(w^2 (I_c - B) (I_o - B)) / sum(w^2 (I_c - B)^2)

    Args:
        intensity, sigma, calculated: in the same unit.
        frame_index: frame of each reflection.
        background: B, the part of I_c that does not scale with the incident beam.
    """
    weight = np.asarray(amplitude_weights(intensity, sigma)) ** 2
    diffracted = np.asarray(calculated) - background
    top = np.bincount(frame_index, weights=weight * diffracted * (np.asarray(intensity) - background))
    bottom = np.bincount(frame_index, weights=weight * diffracted**2)
    scale = np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 0)
    return scale[np.asarray(frame_index)] * diffracted + background


def _amplitude_sums(intensity, sigma, calculated, frame, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Sums over the observed reflections of every frame: |sqrt(I_o) - sqrt(I_c)|, and sqrt(I_o)."""
    root = np.sqrt(np.maximum(intensity, 0.0))
    misfit = np.abs(root - np.sqrt(np.maximum(calculated, 0.0)))
    strong = intensity > OBSERVED_SIGMA * sigma
    weights = (np.where(strong, values, 0.0) for values in (misfit, root))
    top, bottom = (np.bincount(frame, weights=x, minlength=frames).astype(float) for x in weights)
    return top, bottom


def _mean_ratio(top: Float[np.ndarray, " frames"], bottom: Float[np.ndarray, " frames"]) -> float:
    """Mean of top / bottom over the frames where bottom is not zero; NaN without any."""
    defined = bottom > 0
    return float(np.mean(top[defined] / bottom[defined])) if defined.any() else float("nan")
