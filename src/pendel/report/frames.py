"""Frames one by one: agreement, parameters, and which of them stand out."""

import numpy as np
from jaxtyping import Float

from pendel.report.diagnostics import OBSERVED_SIGMA
from pendel.report.run_files import Measured

FAR_R = 2.5  # times the median R
FAR_TILT = 3.0  # robust standard deviations
FAR_THICKNESS = 4.0


def frame_r_obs(data: Measured) -> Float[np.ndarray, " frames"]:
    """R_obs of every frame; NaN without observed reflections."""
    strong = data.intensity > OBSERVED_SIGMA * data.sigma
    root = np.sqrt(np.maximum(data.intensity, 0))
    misfit = np.abs(root - np.sqrt(np.maximum(data.calculated.mean(axis=0), 0)))
    count = len(data.frame_id)
    top = np.bincount(data.frame[strong], weights=misfit[strong], minlength=count)
    bottom = np.bincount(data.frame[strong], weights=root[strong], minlength=count)
    return np.divide(top, bottom, out=np.full(count, np.nan), where=bottom > 0)


def flagged_frames(data: Measured) -> dict[int, str]:
    """Index of every frame that stands out, and why: its R, its tilt, or its thickness beside its neighbours'."""
    reasons: dict[int, list[str]] = {}
    r_obs = frame_r_obs(data)
    for index in np.flatnonzero(r_obs > FAR_R * np.nanmedian(r_obs)):
        reasons.setdefault(int(index), []).append(f"R_obs {100 * r_obs[index]:.0f} %")
    if "tilt" in data.of_frames:
        tilt = data.of_frames["tilt"].mean(axis=0)
        size = np.linalg.norm(tilt, axis=1)
        for index in np.flatnonzero(size > FAR_TILT * 1.4826 * np.median(size)):
            reasons.setdefault(int(index), []).append(f"tilt {size[index]:.2f}°")
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
    r_obs, flagged = frame_r_obs(data), flagged_frames(data)
    observed = np.bincount(data.frame[data.intensity > OBSERVED_SIGMA * data.sigma], minlength=len(data.frame_id))
    scored = np.bincount(data.frame, minlength=len(data.frame_id))
    rows = []
    for index, identifier in enumerate(data.frame_id):
        row = {"frame": str(identifier), "angle": f"{data.alpha[index]:.2f}", "observed": str(observed[index])}
        row |= {"scored": str(scored[index]), "r": "" if np.isnan(r_obs[index]) else f"{100 * r_obs[index]:.1f}"}
        for site, scale in (("thickness", 1.0), ("scale", 1.0)):
            if site in data.of_frames:
                draws = data.of_frames[site][:, index] * scale
                row[site] = f"{draws.mean():.4g} ± {draws.std():.2g}"
        if "tilt" in data.of_frames:
            mean = data.of_frames["tilt"][:, index].mean(axis=0)
            row["tilt"] = f"{mean[0]:+.3f}, {mean[1]:+.3f}"
        rows.append({**row, "flag": flagged.get(index, "")})
    return rows
