"""What a finished run left in its folder, as arrays for the report: nothing is computed anew but summaries of draws."""

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from pendel.base import Array, InputError
from pendel.crystal.structure import Crystal
from pendel.experiment.frames import OBSERVED_SIGMA
from pendel.files.cif import read_crystal
from pendel.folder.posterior_file import Posterior
from pendel.folder.run_folder import DIFFERENCE_DATA

FRAME_SITES = ("thickness", "thickness_width", "scale", "tilt")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """One data set of a run: its scored measurements and what the model says of them, and its frames.

    `calculated`, `replicated`: I_calc and new observations at every draw that has them; `of_frames`: draws of the frame
    parameters by site, [draws frames ...], those that the model has; `curve*`: rocking curves, empty without any.
    """

    name: str
    frame_id: Int[Array, " frames"]
    alpha: Float[Array, " frames"]  # deg
    frame: Int[Array, " measurements"]  # index into frame_id
    hkl: tuple[str, ...]
    intensity: Float[Array, " measurements"]
    sigma: Float[Array, " measurements"]
    weight: Int[Array, " measurements"]
    used: Bool[Array, " measurements"]
    d_star: Float[Array, " measurements"]  # Å⁻¹
    relative_excitation: Float[Array, " measurements"]
    z: Float[Array, " measurements"]  # residual over the error model's scale
    calculated: Float[Array, "draws measurements"]
    replicated: Float[Array, "draws measurements"]
    of_frames: dict[str, Array]
    curve: Float[Array, "curves points"]
    curve_excitation: Float[Array, " points"]  # Å⁻¹
    curve_measurement: Int[Array, " points"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunFiles:
    """A finished run."""

    path: Path
    record: dict[str, Any]  # run.json
    summary: dict[str, Any]  # summary.json
    tree: Any  # posterior.nc, a DataTree
    crystal: Crystal  # refined.cif
    data: tuple[Measured, ...]
    difference: dict[str, Any] | None  # difference.json, where `pendel map` has made one

    def draws(self, site: str) -> Float[Array, "draws *shape"]:
        """All draws of a site, chains one after the other."""
        values = self.tree["posterior"][site].values
        return values.reshape(-1, *values.shape[2:])


def is_observed(data: Measured) -> Bool[np.ndarray, " measurements"]:
    """True where the intensity is above 3 sigma."""
    return np.asarray(data.intensity > OBSERVED_SIGMA * data.sigma)


def read_run_files(path: Path) -> RunFiles:
    """Read a run folder.

    Raises:
        InputError: the folder has no finished stage, or files of another version.
    """
    names = ("run.json", "summary.json", "posterior.nc", "refined.cif", "reflections.csv")
    missing = [name for name in names if not (path / name).is_file()]
    if missing:
        raise InputError(
            found=f"the folder {path} has no {', '.join(missing)}",
            expected="the folder of a run with at least one finished stage",
            do="run `pendel refine` with --out to this folder first",
        )
    record, summary = (json.loads((path / name).read_text(encoding="utf-8")) for name in names[:2])
    tree = Posterior.load(path / "posterior.nc").data
    if "d_star" not in tree["constant_data"]:
        raise InputError(
            found=f"the file {path}/posterior.nc has no d_star in its group constant_data",
            expected="a file of this version of pendel",
            do="repeat the run with --force",
        )
    sites = sorted(map(str, tree["observed_data"].data_vars), key=lambda site: (len(site), site))  # 2 before 10
    with open(path / "reflections.csv", encoding="utf-8", newline="") as stream:
        table = list(csv.DictReader(stream))
    data, first = [], 0
    for site in sites:
        count = tree["observed_data"][site].size
        data.append(_measured(tree, site.removeprefix("intensity"), table[first : first + count]))
        first += count
    crystal = read_crystal(path / "refined.cif", fullest=np.inf)
    kept = path / DIFFERENCE_DATA
    difference = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else None
    return RunFiles(
        path=path,
        record=record,
        summary=summary,
        tree=tree,
        crystal=crystal,
        data=tuple(data),
        difference=difference,
    )


def _measured(tree: Any, suffix: str, rows: list[dict[str, str]]) -> Measured:
    constant, predictive = tree["constant_data"], tree["posterior_predictive"]
    frame_id = constant[f"alpha{suffix}"][f"frame{suffix}"].values
    frame = np.searchsorted(frame_id, constant[f"frame_of{suffix}"].values)
    if not np.array_equal(frame_id[frame], constant[f"frame_of{suffix}"].values):  # frames that are not in order
        position = {int(identifier): index for index, identifier in enumerate(frame_id)}
        frame = np.array([position[int(identifier)] for identifier in constant[f"frame_of{suffix}"].values])
    posterior = tree["posterior"]
    of_frames = {
        name: _flat(posterior[f"{name}{suffix}"].values)
        for name in FRAME_SITES
        if f"{name}{suffix}" in posterior and posterior[f"{name}{suffix}"].shape[2:3] == frame_id.shape
    }
    curves = tree["rocking_data"] if "rocking_data" in tree.children else {}
    empty = np.zeros((0, 0)), np.zeros(0), np.zeros(0, dtype=int)
    names = [f"curve{suffix}", f"curve_excitation{suffix}", f"curve_measurement{suffix}"]
    curve, excitation, belongs = [curves[name].values for name in names] if names[0] in curves else empty
    return Measured(
        name=rows[0]["dataset"],
        frame_id=frame_id,
        alpha=constant[f"alpha{suffix}"].values,
        frame=frame,
        hkl=tuple(map(str, constant[f"hkl{suffix}"].values)),
        intensity=tree["observed_data"][f"intensity{suffix}"].values,
        sigma=constant[f"sigma{suffix}"].values,
        weight=constant[f"weight{suffix}"].values,
        used=constant[f"used{suffix}"].values.astype(bool),
        d_star=constant[f"d_star{suffix}"].values,
        relative_excitation=constant[f"relative_excitation{suffix}"].values,
        z=np.array([float(row["z"]) for row in rows]),
        calculated=_flat(predictive[f"calculated{suffix}"].values),
        replicated=_flat(predictive[f"intensity{suffix}"].values),
        of_frames=of_frames,
        curve=curve,
        curve_excitation=excitation,
        curve_measurement=belongs,
    )


def _flat(values: Float[Array, "chain draw *shape"]) -> Float[Array, "draws *shape"]:
    """Chains one after the other."""
    return values.reshape(-1, *values.shape[2:])
