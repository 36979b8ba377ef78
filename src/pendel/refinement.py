"""The refinement of a structure against one or several measured crystals: a run, then its report."""

import dataclasses
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from pendel.base import suffix
from pendel.crystal.refined import Refined
from pendel.folder.one_writer import one_writer
from pendel.folder.run_folder import Key, RunFolder, check_folder, claim_folder, run_key
from pendel.model.load import load_model, model_file, with_options
from pendel.run.clock import CompileClock
from pendel.run.compile_cache import compile_cache
from pendel.run.fitting import Progress, Run
from pendel.run.inputs import read_problem
from pendel.run.plans import bounded, first_plans
from pendel.run.processes import is_first, wait_for_all
from pendel.run.settings import Settings
from pendel.run.stages import run_stages
from pendel.run.tuning import Tuning
from pendel.run.writing import Summary


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
    tuning: Tuning | None = None,
) -> Outcome:
    """Start values, MAP with Laplace uncertainties, then what the settings ask for, in a folder that can be resumed.

    Every stage is kept in the folder under a key of all that it depends on. A run of the same structure, data and code
    takes from there the stages whose key is the same: one that was interrupted goes on where it stopped, within SVI,
    chains and tempering too; one with another model keeps its scan; one that asks for other draws keeps its maximum.

    Args:
        structure: CIF of the start structure.
        data: `.cif_pets` files, one per measured crystal.
        out: the run folder.
        settings: see `Settings`; defaults where not given.
        force: overwrite pendel's files in any folder.
        progress: called as progress(stage, step, total, info).
        tuning: numbers that decide how a run spends its time; they do not decide whether it resumes.

    Raises:
        InputError: unusable input, or an `out` that cannot be written or has a run that still goes on; nothing
            half-written is left.
    """
    settings = settings or Settings()
    structure, data, out = Path(structure), [Path(path) for path in data], Path(out)
    clock = CompileClock()
    problem = read_problem(structure, data, settings)
    model = with_options(load_model(settings.model), **settings.model_options())
    inputs = {"structure": structure, "model": model_file(settings.model)}
    inputs |= {f"data{suffix(number)}": path for number, path in enumerate(data)}
    key = run_key(inputs, dataclasses.asdict(settings))
    check_folder(out, key, force=force)
    with clock, compile_cache() as notes, one_writer(out) if is_first() else nullcontext():
        plans = bounded(problem, settings, first_plans(problem, settings, model))
        folder = _claim(out, key, force=force, seed=settings.seed)
        run = Run(
            folder=folder,
            model=model,
            problem=problem,
            settings=settings,
            progress=progress,
            clock=clock,
            tuning=tuning or Tuning(),
        )
        summary, refined = run_stages(run, plans, key)
        folder.update(compilation=clock.compilation())
        if folder.writes:
            run.tell("report", 0, 1)
            _write_page(out)
            run.tell("report", 1, 1)
    return Outcome(folder=out, summary=summary, refined=refined, notes=(*problem.notes, *notes))


def _write_page(folder: Path) -> None:
    from pendel.report.page import write_page  # Matplotlib and ArviZ: not before they are needed

    write_page(folder)


def _claim(out: Path, key: Key, *, force: bool, seed: int) -> RunFolder:
    """The run folder, claimed by the first of several processes before the others look into it."""
    if not is_first():
        wait_for_all("claimed")
        return RunFolder(out, writes=False)
    folder = claim_folder(out, key, force=force, seed=seed, defaults=dataclasses.asdict(Settings()))
    wait_for_all("claimed")
    return folder
