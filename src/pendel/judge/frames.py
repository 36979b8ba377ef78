"""Frames one by one: agreement, parameters, and which of them stand out."""

import numpy as np
from jaxtyping import Float, Int

from pendel.folder.reader import Measured, is_observed
from pendel.judge.agreement import frame_r_obs

FAR_R = 2.5  # times the median R
FAR_TILT = 4.0  # robust standard deviations about either axis
LEAST_TILT = 0.05  # deg; smaller ones change little, however small the others are
FAR_THICKNESS = 4.0


def r_obs_of_frames(data: Measured) -> Float[np.ndarray, " frames"]:
    """R_obs of every frame at the mean of I_calc; NaN without observed reflections."""
    mean = data.calculated.mean(axis=0)
    return frame_r_obs(data.intensity, data.sigma, mean, data.frame, len(data.frame_id))


def observed_in_frames(data: Measured) -> Int[np.ndarray, " frames"]:
    """Numbers of observed reflections."""
    return np.bincount(data.frame[is_observed(data)], minlength=len(data.frame_id))


def flagged_frames(data: Measured) -> dict[int, str]:
    """Index of every frame that stands out, and why: its R, its tilt, or its thickness beside its neighbours'."""
    reasons: dict[int, list[str]] = {}
    r_obs = r_obs_of_frames(data)
    for index in np.flatnonzero(r_obs > FAR_R * np.nanmedian(r_obs)):
        reasons.setdefault(int(index), []).append(f"R_obs {100 * r_obs[index]:.0f} %")
    if "tilt" in data.of_frames:
        tilt = data.of_frames["tilt"].mean(axis=0)
        limit = np.maximum(FAR_TILT * 1.4826 * np.median(np.abs(tilt), axis=0), LEAST_TILT)
        for index in np.flatnonzero(np.any(np.abs(tilt) > limit, axis=1)):
            reasons.setdefault(int(index), []).append(f"tilt {tilt[index, 0]:+.2f}°, {tilt[index, 1]:+.2f}°")
    if "thickness" in data.of_frames and len(data.alpha) > 4:
        curve = np.log(data.of_frames["thickness"].mean(axis=0))
        order = np.argsort(data.alpha)
        between = np.array(curve)
        between[order[1:-1]] = 0.5 * (curve[order[:-2]] + curve[order[2:]])
        jump = np.abs(curve - between)
        for index in np.flatnonzero(jump > np.maximum(FAR_THICKNESS * 1.4826 * np.median(jump), 0.1)):
            reasons.setdefault(int(index), []).append("thickness beside its neighbours'")
    return {index: ", ".join(reasons[index]) for index in sorted(reasons)}


def frame_rows(data: Measured) -> list[dict[str, str]]:
    """A line of text for every frame of the table."""
    r_obs, flagged = r_obs_of_frames(data), flagged_frames(data)
    observed = observed_in_frames(data)
    scored = np.bincount(data.frame, minlength=len(data.frame_id))
    rows = []
    for index, identifier in enumerate(data.frame_id):
        row = {"frame": str(identifier), "angle": f"{data.alpha[index]:.2f}", "observed": str(observed[index])}
        row |= {"scored": str(scored[index]), "r": "" if np.isnan(r_obs[index]) else f"{100 * r_obs[index]:.1f}"}
        for site in ("thickness", "scale"):
            if site in data.of_frames:
                draws = data.of_frames[site][:, index]
                row[site] = f"{draws.mean():.4g} ± {draws.std():.2g}"
        if "tilt" in data.of_frames:
            mean = data.of_frames["tilt"][:, index].mean(axis=0)
            row["tilt"] = f"{mean[0]:+.3f}, {mean[1]:+.3f}"
        rows.append({**row, "flag": flagged.get(index, "")})
    return rows
