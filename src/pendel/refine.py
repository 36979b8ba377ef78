"""The refinement of a structure against one or several measured crystals, from files to a run folder."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pendel.base import suffix
from pendel.folder.run_folder import Key, RunFolder, check_folder, claim_folder, run_key
from pendel.model.load import load_model, model_file, model_story, with_options
from pendel.report.page import write_page
from pendel.run.basins import fit_basins, temper, tempered_result
from pendel.run.checkpoints import (
    pack_basins,
    pack_guided,
    pack_map,
    pack_sampled,
    pack_start,
    pack_tempered,
    unpack_basins,
    unpack_guided,
    unpack_map,
    unpack_sampled,
    unpack_start,
    unpack_tempered,
)
from pendel.run.clock import CompileClock
from pendel.run.coarse import coarse_problem, is_costly
from pendel.run.fitting import (
    ROUNDS,
    SAMPLERS,
    Progress,
    Run,
    chains_result,
    fit_coarse,
    fit_guide,
    fit_structure,
    guided_result,
    laplace_result,
    sample_chains,
    scan_again,
    scan_start,
    write_result,
)
from pendel.run.inputs import read_problem
from pendel.run.plans import describe_plans, first_plans, fitted_plans
from pendel.run.processes import describe_devices, is_first, wait_for_all
from pendel.run.settings import Settings
from pendel.run.writing import Refined, Summary
from pendel.simulate import Plan
from pendel.simulate.cost import within_memory
from pendel.simulate.shard import shard_plan


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """A finished run: its folder, what summary.json says, the refined structure, and notes on the input."""

    folder: Path
    summary: Summary
    refined: Refined
    notes: tuple[str, ...]


def refine(
    structure: Path | str,
    data: Sequence[Path | str],
    out: Path | str,
    settings: Settings | None = None,
    *,
    force: bool = False,
    progress: Progress | None = None,
) -> Outcome:
    """Refine a structure: start values, MAP with Laplace uncertainties, then SVI, Markov chains or tempered particles.

    Every stage leaves its results. The folder `out` may be new, empty, or that of the same run (same inputs, settings
    and code), which goes on where it stopped: after its last completed stage, or within SVI, chains and tempering.

    Args:
        structure: CIF of the start structure.
        data: `.cif_pets` files, one per measured crystal.
        out: the run folder.
        settings: see `Settings`; defaults where not given.
        force: overwrite pendel's files in any folder.
        progress: called as progress(stage, step, total, info).

    Raises:
        InputError: unusable input, or an `out` that cannot be written; nothing half-written is left.
    """
    settings = settings or Settings()
    structure, data, out = Path(structure), [Path(path) for path in data], Path(out)
    clock = CompileClock()
    problem = read_problem(structure, data, settings)
    model = with_options(load_model(settings.model), thickness=settings.thickness)
    inputs = {"structure": structure, "model": model_file(settings.model)}
    inputs |= {f"data{suffix(number)}": path for number, path in enumerate(data)}
    key = run_key(inputs, dataclasses.asdict(settings))
    check_folder(out, key, force=force)
    plans = within_memory(problem.crystal, first_plans(problem, settings), settings.memory)
    folder = _claim(out, key, force=force, seed=settings.seed)
    with clock:
        run = Run(folder=folder, model=model, problem=problem, settings=settings, progress=progress, clock=clock.read)
        summary, refined = _stages(run, plans, clock)
    if folder.writes:
        write_page(out)
    return Outcome(folder=out, summary=summary, refined=refined, notes=problem.notes)


def _claim(out: Path, key: Key, *, force: bool, seed: int) -> RunFolder:
    """The run folder, claimed by the first of several processes before the others look into it."""
    if not is_first():
        wait_for_all("claimed")
        return RunFolder(out, writes=False)
    folder = claim_folder(out, key, force=force, seed=seed)
    wait_for_all("claimed")
    return folder


def _stages(run: Run, plans: tuple[Plan, ...], clock: CompileClock) -> tuple[Summary, Refined]:
    """Coarse fit where it pays, start, MAP and SVI; completed ones come from the folder."""
    known = run.folder.record().get("costly")  # as it was on the machine where the run began
    costly = is_costly(plans) if known is None else known
    run.folder.update(costly=costly)
    coarse = coarse_problem(run.problem, plans, run.settings) if costly else None
    if coarse is None:
        scan = partial(scan_start, run, plans)
    else:
        rough = _resumed(run, "coarse", lambda: fit_coarse(run, coarse), pack_start, unpack_start, clock)
        run.folder.update(coarse={"every": coarse.every, "sg_max": coarse.settings.sg_max})
        scan = partial(scan_again, run, coarse, rough) if coarse.every > 1 else lambda: rough
    start = _resumed(run, "start", scan, pack_start, unpack_start, clock)
    plans = fitted_plans(run.problem, run.settings, start.values, start.others)
    derived = {"notes": list(run.problem.notes), "thickness_basins_angstrom": start.basins.tolist()}
    derived |= {"model_story": model_story(run.settings.model), **describe_plans(plans)}
    run.folder.update(derived=derived, devices=describe_devices())
    plans = tuple(map(shard_plan, plans))
    args = (run.problem.crystal, run.datasets(plans))
    fit = _resumed(
        run,
        "map",
        lambda: fit_structure(run, args, start, rounds=ROUNDS if coarse is None else 0),
        pack_map,
        lambda arrays: unpack_map(arrays, run.model, args, run.observations()),
        clock,
    )
    if run.settings.infer == "map":
        return write_result(run, plans, laplace_result(run, fit, is_last=True))
    if run.folder.record().get("results_of") is None:
        write_result(run, plans, laplace_result(run, fit, is_last=False))
    if run.settings.infer == "smc":
        fits = _resumed(
            run,
            "basins",
            lambda: fit_basins(run, args, start, fit),
            pack_basins,
            lambda arrays: unpack_basins(arrays, run.model, args, run.observations()),
            clock,
        )
        tempered = _resumed(run, "smc", lambda: temper(run, args, fits), pack_tempered, unpack_tempered, clock)
        return write_result(run, plans, tempered_result(run, fits, tempered, tried=1 + len(start.others)))
    if run.settings.infer in SAMPLERS:
        sampled = _resumed(
            run, run.settings.infer, lambda: sample_chains(run, args, fit), pack_sampled, unpack_sampled, clock
        )
        return write_result(run, plans, chains_result(run, fit, sampled))
    guided = _resumed(run, "svi", lambda: fit_guide(run, args, fit), pack_guided, unpack_guided, clock)
    return write_result(run, plans, guided_result(run, fit, guided))


def _resumed(run: Run, stage: str, make: Callable, pack: Callable, unpack: Callable, clock: CompileClock) -> Any:
    """A stage from its checkpoint, or made now and kept."""
    if stage in run.folder.completed():
        clock.add_elapsed(run.folder.record()["stages"][stage]["seconds"])
        return unpack(run.folder.load_stage(stage))
    began = time.monotonic()
    value = make()
    run.folder.save_stage(stage, pack(value), time.monotonic() - began)
    return value
