"""The stages of a refinement, one after the other: each is taken from the run folder or made now and kept there."""

import dataclasses
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from pendel.base import Array, kind_of
from pendel.crystal.refined import Refined
from pendel.folder.run_folder import DIFFERENCE, Key
from pendel.folder.stage_keys import Stage, stage_keys
from pendel.infer.chains.nuts import Sampled
from pendel.infer.chains.smc import Tempered
from pendel.infer.layout import Layout
from pendel.infer.maximum.arrow import Arrow
from pendel.infer.maximum.map import MapFit
from pendel.infer.target import Target
from pendel.model.load import model_story
from pendel.run.basins import fit_basins, fit_likely_basin, near_basins, temper
from pendel.run.coarse import coarse_problem, is_costly
from pendel.run.coarse_fit import fit_coarse, scan_again
from pendel.run.compile_cache import make_room_for_programs
from pendel.run.fitting import (
    ROUNDS,
    SAMPLERS,
    Chosen,
    Guided,
    Run,
    fit_guide,
    fit_structure,
    sample_chains,
    scan_start,
)
from pendel.run.plans import costs, describe_plans, final_plans, is_foreseeable, widest
from pendel.run.processes import describe_devices
from pendel.run.results import StageResult, chains_result, guided_result, laplace_result, tempered_result
from pendel.run.settings import EXPECTED_MINUTES, MODEL_OPTIONS, Settings
from pendel.run.writing import Summary, write_stage
from pendel.simulate import Plan
from pendel.simulate.cost import cost_of_run
from pendel.simulate.shard import shard_plan

SPLIT_SEED = "split_seed"  # the seed where it decides what is held out
READING = (
    "frames",
    "leave_out",
    "select",
    "rsg",
    "dsg",
    "cell",
    "geometry",
    "integration",
    "energy_ev",
    "block",
    "hydrogen",
    "adps",
)
BEAMS = ("g_max", "sg_max", "beam_error", "tilts")
MODEL = (*MODEL_OPTIONS, "holdout", SPLIT_SEED)
STAGES = (
    Stage(name="coarse", inputs=("structure", "data", "model"), settings=(*READING, *BEAMS, *MODEL)),
    Stage(name="start", inputs=("structure", "data"), settings=(*READING, *BEAMS), after=("coarse",)),
    Stage(name="map", inputs=("model",), settings=MODEL, after=("start",)),
    Stage(name="svi", settings=("seed", "guides"), after=("map",)),
    Stage(name="nuts", settings=("seed",), after=("map",)),
    Stage(name="mclmc", settings=("seed",), after=("map",)),
    Stage(name="basins", after=("start", "map")),
    Stage(name="smc", settings=("seed",), after=("basins",)),
)
# What no key holds: which stage is the last, memory, which decides on chunks only, and the name of the model, whose
# file is an input.
NOT_IN_KEYS = ("infer", "memory", "model")
RESULTS = (Chosen, MapFit, Arrow, Guided, Sampled, Tempered)


def keys_of_stages(key: Key, settings: Settings, *, coarse: bool) -> dict[str, str]:
    """The keys of the stages of a run. coarse: whether it begins with few frames and beams."""
    values = dataclasses.asdict(settings) | {SPLIT_SEED: settings.seed if settings.holdout > 0 else None}
    inputs = {role: entry["sha256"] for role, entry in key["inputs"].items()}
    stages = [stage for stage in STAGES if coarse or stage.name != "coarse"]
    return stage_keys(stages, inputs, values, key["code_sha256"])


def run_stages(run: Run, first: tuple[Plan, ...], key: Key) -> tuple[Summary, Refined]:
    """Coarse fit where it pays, start, MAP, and the stage that the settings ask for; writes the result of the last one.

    first: plans of the scan.
    """
    direct = keys_of_stages(key, run.settings, coarse=False)
    is_coarse = run.folder.decided("costly", direct["start"], lambda: is_costly(first, run.tuning.coarse))
    keys = keys_of_stages(key, run.settings, coarse=is_coarse)
    run = dataclasses.replace(run, folder=run.folder.with_keys(keys))
    if run.progress is not None and not run.folder.completed() and is_foreseeable(run.settings):
        minutes = cost_of_run(costs(run.problem, run.model, first)).minutes
        run.tell("files", 1, 1, {EXPECTED_MINUTES: minutes})
    start = _start(run, first, is_coarse=is_coarse)
    plans = _plans(run, start, widest(start.values, [near.values for near in near_basins(start)[1:]]))
    rounds = 0 if is_coarse else ROUNDS
    target = run.target(plans)
    fit = _resumed(run, "map", lambda: fit_likely_basin(run, target, start, rounds=rounds), target)
    infer = run.settings.infer
    if infer == "map":
        return write_result(run, plans, laplace_result(run, fit, is_last=True))
    if run.folder.record().get("results_of", {}).get("key") not in keys.values():
        write_result(run, plans, laplace_result(run, fit, is_last=False))
    if infer == "smc":
        return _tempered(run, start, fit, partial(fit_structure, run, rounds=rounds))
    if infer in SAMPLERS:
        sampled = _resumed(run, infer, lambda: sample_chains(run, target, fit))
        return write_result(run, plans, chains_result(run, fit, sampled))
    guided = _resumed(run, "svi", lambda: fit_guide(run, target, fit))
    return write_result(run, plans, guided_result(run, fit, guided))


def _start(run: Run, first: tuple[Plan, ...], *, is_coarse: bool) -> Chosen:
    """Start values: from a scan, after a coarse fit where that pays."""
    if not {"coarse", "start"} & set(run.folder.completed()):
        run.folder.update(basins_fitted=[])
    if not is_coarse:
        return _resumed(run, "start", partial(scan_start, run, first))
    coarse = coarse_problem(run.problem, first, run.settings, run.tuning.coarse)
    rough = _resumed(run, "coarse", lambda: fit_coarse(run, coarse))
    run.folder.update(coarse={"every": coarse.every, **coarse.beams})
    return _resumed(run, "start", partial(scan_again, run, coarse, rough) if coarse.every > 1 else lambda: rough)


def _plans(run: Run, start: Chosen, values: Mapping[str, Array]) -> tuple[Plan, ...]:
    """Beams and tilts of the fit for these values, over the devices; the record of the run says what they are."""
    plans = final_plans(run.problem, run.settings, run.model, values)
    notes = [{"kind": kind_of(note), "text": note} for note in run.problem.notes]
    derived = {"notes": notes, "thickness_basins_angstrom": start.basins.tolist()}
    derived |= {"model_story": model_story(run.settings.model), **describe_plans(plans)}
    run.folder.update(derived=derived, devices=describe_devices())
    return tuple(map(shard_plan, plans))


def _tempered(run: Run, start: Chosen, fit: MapFit, fit_from: Callable) -> tuple[Summary, Refined]:
    """Particles over the basins of the scan, with beams and tilts that do for the thickest of them.

    Where those are not the ones of the maximum that is known, it is found once more with them.
    """
    values = widest(start.values, start.others)
    plans = _plans(run, start, values)
    target = run.target(plans)
    is_same = all(np.array_equal(values[name], start.values[name]) for name in values)

    def basins() -> list[MapFit]:
        return fit_basins(run, target, start, fit if is_same else fit_from(target, start))

    fits = _resumed(run, "basins", basins, target)
    tempered = _resumed(run, "smc", lambda: temper(run, target, fits))
    return write_result(run, plans, tempered_result(run, fits, tempered, tried=1 + len(start.others)))


def _resumed(run: Run, stage: str, make: Callable[[], Any], target: Target | None = None) -> Any:
    """A stage from its checkpoint, or made now and kept.

    target: for results that hold the layout of its parameters, which no file does.
    """
    folder = run.folder
    if stage in folder.completed():
        run.clock.add_elapsed(folder.record()["stages"][stage]["seconds"])
        layout = target.layout if target is not None else None
        return folder.load_stage(stage, classes=RESULTS, given={Layout: layout})
    began = time.monotonic()
    value = make()
    folder.save_stage(stage, value, seconds=time.monotonic() - began, left_out=(Layout,))
    make_room_for_programs()
    if stage == "map":
        folder.remove(*DIFFERENCE)  # they show what another maximum lacks
    return value


def write_result(run: Run, plans: tuple[Plan, ...], result: StageResult) -> tuple[Summary, Refined]:
    """Everything about a result into the run folder; a comparison that was made with another result is dropped."""
    written = write_stage(run, plans, result)
    found = {"stage": result.stage, "key": run.folder.keys[result.stage]}
    if run.folder.record().get("results_of") != found:
        run.folder.update(results_of=found, comparison=None)
    numbers = {name: written[0][name] for name in ("r_obs_pooled", "wr2_pooled")}
    run.tell(f"{result.stage} done", 1, 1, numbers)
    return written
