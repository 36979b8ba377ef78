"""The table of reflections that a run leaves."""

import os
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from pendel.base import Array
from pendel.experiment.frames import Experiment
from pendel.files.csv_table import text_cell
from pendel.files.whole_file import write_text


def write_reflections(
    path: str | os.PathLike[str],
    experiments: Sequence[Experiment],
    *,
    mean: Sequence[Float[Array, "reflections"]],
    sd: Sequence[Float[Array, "reflections"]],
    scatter: Sequence[Float[Array, "reflections"]],
    used: Sequence[Bool[Array, "reflections"]] | None = None,
) -> None:
    """CSV of all scored measurements, data set after data set.

    Columns: dataset, frame, h, k, l, i_obs, sigma, i_calc_mean, i_calc_sd, z, weight, used. mean and sd: posterior
    of I_calc, on the scale of the data. scatter: the error model's scale of I_obs about I_calc, so that
    z = (i_obs - i_calc_mean) / scatter. weight: file rows behind the measurement; used: 0 where it was held out.
    """
    lines = ["dataset,frame,h,k,l,i_obs,sigma,i_calc_mean,i_calc_sd,z,weight,used"]
    for index, experiment in enumerate(experiments):
        frames = np.asarray(experiment.frame_id)[experiment.frame_index]
        z = (experiment.intensity - mean[index]) / scatter[index]
        fitted = np.ones(len(frames), dtype=bool) if used is None else used[index]
        reals = np.column_stack([experiment.intensity, experiment.sigma, mean[index], sd[index], z])
        name = text_cell(experiment.name.replace(",", "_").replace('"', "_"))
        for frame, hkl, row, weight, flag in zip(
            frames, np.asarray(experiment.hkl), reals, np.asarray(experiment.weight), np.asarray(fitted), strict=True
        ):
            numbers = ",".join(f"{number:.7g}" for number in row)
            lines.append(f"{name},{frame},{hkl[0]},{hkl[1]},{hkl[2]},{numbers},{weight},{int(flag)}")
    write_text(path, "\n".join(lines) + "\n")
