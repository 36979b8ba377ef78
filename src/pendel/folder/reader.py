"""What a finished run left in its folder, read once for the report, the verdicts and comparisons of runs."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from pendel.base import Array, InputError, suffix
from pendel.crystal.structure import Crystal
from pendel.experiment.frames import OBSERVED_SIGMA
from pendel.folder.checkpoint import DAMAGED
from pendel.folder.posterior_file import Posterior
from pendel.folder.run_folder import DIFFERENCE_DATA, LAYOUT
from pendel.folder.structure_group import GROUP, read_structure

FRAME_SITES = ("thickness", "thickness_width", "thickness_by_volume", "thin_share", "scale", "tilt")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """One data set of a run: its scored measurements and what the model says of them, and its frames.

    `at_point`: I_calc at the refined structure; `calculated`, `replicated`: I_calc and new observations at every draw
    that has them; `of_frames`: draws of the frame parameters by site, [draws frames ...], those that the model has;
    `curve*`: rocking curves, empty without any.
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
    at_point: Float[Array, " measurements"]
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
    crystal: Crystal  # the refined structure
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
        InputError: the folder has no finished stage, files that cannot be read, or files of another version.
    """
    names = ("run.json", "summary.json", "posterior.nc")
    missing = [name for name in names if not (path / name).is_file()]
    if missing:
        raise InputError(
            found=f"the folder {path} has no {', '.join(missing)}",
            expected="the folder of a run with at least one finished stage",
            do="run `pendel refine` with --out to this folder first",
        )
    kept = path / DIFFERENCE_DATA
    try:
        record, summary = (json.loads((path / name).read_text(encoding="utf-8")) for name in names[:2])
        tree = Posterior.load(path / "posterior.nc").data
        difference = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else None
        is_of_this_layout = record.get("layout") == LAYOUT and GROUP in tree.children
        if not isinstance(summary, dict):
            raise TypeError("summary.json holds no JSON object")
    except DAMAGED as error:
        raise _damaged(path, error) from error
    if not is_of_this_layout:
        raise InputError(
            found=f"the folder {path} has a run of pendel 0.1.0, which kept its results in another way",
            expected="a run of this version",
            do="repeat the run with --force",
        )
    try:
        return RunFiles(
            path=path,
            record=record,
            summary=summary,
            tree=tree,
            crystal=read_structure(tree[GROUP].to_dataset()).crystal,
            data=tuple(_measured(tree, suffix(number)) for number in range(len(tree["observed_data"].data_vars))),
            difference=difference,
        )
    except DAMAGED as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: BaseException) -> InputError:
    """The error for files of a run that are not as they were written."""
    return InputError(
        found=f"files in {path} cannot be read ({' '.join(f'{type(error).__name__}: {error}'.split())})",
        expected="the folder of a finished run as pendel wrote it",
        do="repeat the run with --force",
    )


def _measured(tree: Any, end: str) -> Measured:
    constant, predictive = tree["constant_data"], tree["posterior_predictive"]
    frame_id = constant[f"alpha{end}"][f"frame{end}"].values
    frame = np.searchsorted(frame_id, constant[f"frame_of{end}"].values)
    if not np.array_equal(frame_id[frame], constant[f"frame_of{end}"].values):  # frames that are not in order
        position = {int(identifier): index for index, identifier in enumerate(frame_id)}
        frame = np.array([position[int(identifier)] for identifier in constant[f"frame_of{end}"].values])
    posterior = tree["posterior"]
    of_frames = {
        name: _flat(posterior[f"{name}{end}"].values)
        for name in FRAME_SITES
        if f"{name}{end}" in posterior and posterior[f"{name}{end}"].shape[2:3] == frame_id.shape
    }
    at_measurements = ("sigma", "weight", "d_star", "relative_excitation", "z")
    curves = tree["rocking_data"] if "rocking_data" in tree.children else {}
    empty = np.zeros((0, 0)), np.zeros(0), np.zeros(0, dtype=int)
    names = [f"curve{end}", f"curve_excitation{end}", f"curve_measurement{end}"]
    curve, excitation, belongs = [curves[name].values for name in names] if names[0] in curves else empty
    return Measured(
        name=str(tree.attrs[f"dataset{end}"]),
        frame_id=frame_id,
        alpha=constant[f"alpha{end}"].values,
        frame=frame,
        hkl=tuple(map(str, constant[f"hkl{end}"].values)),
        intensity=tree["observed_data"][f"intensity{end}"].values,
        **{name: constant[f"{name}{end}"].values for name in at_measurements},
        used=constant[f"used{end}"].values.astype(bool),
        at_point=constant[f"calculated_at_point{end}"].values,
        calculated=_flat(predictive[f"calculated{end}"].values),
        replicated=_flat(predictive[f"intensity{end}"].values),
        of_frames=of_frames,
        curve=curve,
        curve_excitation=excitation,
        curve_measurement=belongs,
    )


def _flat(values: Float[Array, "chain draw *shape"]) -> Float[Array, "draws *shape"]:
    """Chains one after the other."""
    return values.reshape(-1, *values.shape[2:])
