"""How much intensities and R still move with more tilts and beams: what `pendel check --converge` reports."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jaxtyping import Float
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pendel.crystal.structure import Crystal
from pendel.experiment.frames import Experiment
from pendel.experiment.select import drop_poor_frames, thin
from pendel.judge.agreement import agreement, rescaled
from pendel.model.dataset import DataSet
from pendel.run.scan import find_start
from pendel.simulate import Illumination, Plan, simulate_intensities
from pendel.simulate.replan import replan
from pendel.simulate.thickness import tapered

FRAMES = 8  # simulated, evenly spread
GROWTH = {"tilts": (1.5, 2.0, 3.0), "g_max": (1.15, 1.3), "sg_max": (1.5, 2.0, 3.0), "beam_error": (0.5, 0.25)}
R_POINTS = 0.1  # percent, by which R may move
INTENSITY = 0.01  # relative change of all amplitudes together


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trial:
    """One simulation of a few frames. `moved`: sum |sqrt I - sqrt I_0| / sum sqrt I_0 against the settings in use."""

    setting: str
    value: float
    beams: int  # in the largest segment
    r_obs: float
    moved: float


def convergence(crystal: Crystal, experiment: Experiment, plan: Plan) -> tuple[Trial, ...]:
    """Simulations at the settings of a plan (first) and at larger ones, with thickness and tilts from a short scan."""
    few = _few_frames(experiment)
    values = find_start(crystal, (DataSet(few, replan(crystal, few, plan, tilt=None)),)).values[0]
    log_thickness, log_taper, tilt = (values[name] for name in ("log_thickness", "log_taper", "tilt"))
    nodes, weights = tapered(log_thickness, log_taper)
    illumination = Illumination(tilt=tilt, thickness=nodes, weights=weights)
    in_use = plan_settings(plan)
    settings = dataclasses.replace(plan.settings, thickness_max=1.1 * float(np.max(nodes)))

    def simulated(changed: dict[str, float]) -> tuple[Plan, Float[np.ndarray, " measurements"]]:
        like = dataclasses.replace(plan, settings=dataclasses.replace(settings, **_with_whole_tilts(changed)))
        larger = replan(crystal, few, like, tilt=tilt)
        return larger, np.asarray(jax.jit(simulate_intensities)(crystal, larger, illumination))

    base_plan, base = simulated({})
    trials = [_trial("in use", 1.0, few, base_plan, base, base)]
    for setting, value in _larger(in_use):
        trials.append(_trial(setting, value, few, *simulated({setting: value}), base))
    return tuple(trials)


def recommended(trials: tuple[Trial, ...], in_use: dict[str, float]) -> dict[str, tuple[float, bool]]:
    """For every setting the smallest value that differs little from the largest one tried, and whether one did."""
    found = {}
    for setting in in_use:
        ladder = [dataclasses.replace(trials[0], value=in_use[setting])] + [t for t in trials if t.setting == setting]
        last = ladder[-1]
        enough = [trial for trial in ladder[:-1] if _is_close(trial, last)]
        found[setting] = (enough[0].value, True) if enough else (last.value, False)
    return found


def convergence_report(trials: tuple[Trial, ...], in_use: dict[str, float]) -> RenderableType:
    """The trials as a table, and what to set."""
    table = Table(title="convergence", caption="moved: sum of |change of sqrt I| over sum of sqrt I")
    for column in ("setting", "value", "beams", "R_obs", "moved"):
        table.add_column(column, justify="left" if column == "setting" else "right")
    for trial in trials:
        value = "" if trial is trials[0] else f"{trial.value:g}"
        table.add_row(
            trial.setting, value, str(trial.beams), f"{100 * trial.r_obs:.2f} %", f"{100 * trial.moved:.2f} %"
        )
    lines = []
    for setting, (value, is_enough) in recommended(trials, in_use).items():
        option = "--" + setting.replace("_", "-")
        if not is_enough:
            lines.append(f"{option}: not converged at {value:g}, try more")
        elif value == in_use[setting]:
            lines.append(f"{option} {value:g} is enough")
        else:
            lines.append(f"{option} {value:g} instead of {in_use[setting]:g}")
    return Group(table, *map(Text, lines))


def _is_close(trial: Trial, last: Trial) -> bool:
    """R within R_POINTS, and amplitudes that moved about as far from the settings in use."""
    return abs(trial.r_obs - last.r_obs) < R_POINTS / 100 and abs(trial.moved - last.moved) < INTENSITY


def _larger(in_use: dict[str, float]) -> Iterator[tuple[str, float]]:
    for setting in in_use:
        for factor in GROWTH[setting]:
            value = in_use[setting] * factor
            yield setting, float(round(value)) if setting == "tilts" else round(value, 4)


def _trial(setting, value, experiment, plan, calculated, base) -> Trial:
    columns = (experiment.intensity, experiment.sigma, calculated, experiment.frame_index)
    intensity, sigma, _, frame = columns
    return Trial(
        setting=setting,
        value=value,
        beams=max(group.hkl.shape[1] for group in plan.groups),
        r_obs=agreement(intensity, sigma, rescaled(*columns), frame).r_obs_mean,
        moved=float(np.sum(np.abs(np.sqrt(calculated) - np.sqrt(base))) / np.sum(np.sqrt(base))),
    )


def _few_frames(experiment: Experiment) -> Experiment:
    count = len(experiment.frame_id)
    return drop_poor_frames(thin(experiment, slice(None, None, max(1, count // FRAMES))), 1)


def plan_settings(plan: Plan) -> dict[str, float]:
    """The settings of a plan that `convergence` varies."""
    beams = "sg_max" if plan.settings.beam_error is None else "beam_error"
    return {name: float(getattr(plan.settings, name)) for name in ("tilts", "g_max", beams)}


def _with_whole_tilts(changed: dict[str, float]) -> dict[str, Any]:
    """The changes as `PlanSettings` takes them: a number of tilts is whole."""
    return {name: int(value) if name == "tilts" else value for name, value in changed.items()}
