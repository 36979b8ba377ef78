"""What `pendel check` says about a structure and its data before anything is refined."""

from collections.abc import Callable, Sequence

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pendel.base import Array
from pendel.constants import energy_ev
from pendel.crystal.structure import Crystal
from pendel.experiment.belonging import laue_symmetry
from pendel.experiment.frames import Experiment, is_observed
from pendel.experiment.select import select, take_rows, unique
from pendel.model.load import model_options
from pendel.run.inputs import Problem
from pendel.run.plans import costs, has_mosaicity, is_foreseeable
from pendel.run.settings import Settings
from pendel.simulate import Plan
from pendel.simulate.cost import NOMINAL_THICKNESS, Cost, cost_of_run
from pendel.simulate.scattering import absorption_length


def sanity_report(problem: Problem, plans: Sequence[Plan], settings: Settings, model: Callable) -> RenderableType:
    """Notes, counts of measurements and physics of the model for every data set, and the cost of a run."""
    crystal = problem.crystal
    free = f"{len(crystal.position_basis)} free coordinates, {len(crystal.adp_basis)} free displacement components"
    atoms = f"{len(crystal.labels)} sites, {len(crystal.atom_site)} atoms in the cell"
    parts: list[RenderableType] = [Text(f"{crystal.name}: {crystal.spacegroup}, {atoms}, {free}")]
    used = problem.used or (None,) * len(plans)
    prices = costs(problem, model, plans)
    for rows, own, kept, plan, cost in zip(problem.rows, problem.experiments, used, plans, prices, strict=True):
        parts += [
            _counts(rows, own, kept, settings),
            _equivalents(crystal, own),
            _beams(plan, cost, are_given=bool(settings.tilts)),
        ]
        parts += [_absorption(crystal, plan, rows, model), _mosaicity(own, model), *_errors(own, model)]
        parts.append(Text(f"one simulation about {cost.simulation_seconds:.2g} s"))
    if is_foreseeable(settings):
        run = cost_of_run(prices)
        text = f"a run up to the maximum (--infer map) about {run.minutes:.0f} min and {run.gigabytes:.2g} GB"
        parts.append(Text(text + " on this machine, within a factor of about two"))
    parts += [Text(f"note: {note}") for note in problem.notes]
    return Group(*parts)


def _counts(rows: Experiment, own: Experiment, kept: Array | None, settings: Settings) -> RenderableType:
    kilovolts = energy_ev(rows.wavelength) / 1e3
    table = Table(title=f"{rows.name}: {rows.geometry}, {kilovolts:.1f} kV, {rows.wavelength:.6f} Å")
    for column in ("measurements", "frames", "observed", "all"):
        table.add_column(column, justify="left" if column == "measurements" else "right")
    klar = select(rows, "klar", rsg=settings.rsg, dsg=settings.dsg)
    sets = {"rows of the file": rows, "unique": unique(rows), "nearest": select(rows), "klar": klar, "this run": own}
    if kept is not None:
        sets["of it held out"] = take_rows(own, ~np.asarray(kept))
    for name, part in sets.items():
        frames = len(np.unique(part.frame_index))
        table.add_row(name, str(frames), str(int(is_observed(part).sum())), str(len(part.intensity)))
    return table


def _equivalents(crystal: Crystal, own: Experiment) -> RenderableType:
    laue = laue_symmetry(crystal, own)
    if not laue.count:
        return Text("no equivalent reflections to compare")
    friedel = f"{laue.friedel:.0%} of Friedel pairs, " if np.isfinite(laue.friedel) else ""
    values = f"{friedel}{laue.equivalents:.0%} under the Laue group, {laue.unrelated:.0%} of reflections at random"
    return Text(f"R of equivalent reflections: {values} ({laue.count} measurements)")


def _beams(plan: Plan, cost: Cost, *, are_given: bool) -> RenderableType:
    settings = plan.settings
    by_distance = settings.beam_error is None
    second = f"sg_max {settings.sg_max:g} Å⁻¹" if by_distance else f"beam_error {settings.beam_error:g}"
    tilts = f"{settings.tilts} tilts a frame" + ("" if are_given else " (a fit takes those for the thickness it finds)")
    table = Table(title=f"g_max {settings.g_max:g} Å⁻¹, {second}, {tilts}")
    for column in (
        "segments",
        "beams",
        "folded in",
        "tilts a segment",
        "spectrum / (rad/Å)",
        f"steps at {NOMINAL_THICKNESS:.0f} Å",
    ):
        table.add_column(column, justify="right")
    for group in cost.groups:
        numbers = (str(group.segments), str(group.beams), str(group.folded), str(group.tilts))
        table.add_row(*numbers, f"{group.radius:.3f}", str(group.steps))
    return table


def _absorption(crystal: Crystal, plan: Plan, rows: Experiment, model: Callable) -> RenderableType:
    choice = model_options(model).get("absorption", "off")
    refined = choice == "on" or (choice == "auto" and plan.is_absorbing)
    text = f"mean absorption length {absorption_length(crystal, rows.wavelength):.0f} Å: absorption is "
    text += "refined" if refined else "left out"
    return Text(text + (" unless --absorption says otherwise" if choice == "auto" else ""))


def _errors(own: Experiment, model: Callable) -> list[RenderableType]:
    if model_options(model).get("reflection_error", "off") == "off":
        return []
    return [Text(f"errors common to equivalents: one for each of {own.unique} strong unique reflections")]


def _mosaicity(own: Experiment, model: Callable) -> RenderableType:
    stated = "no mosaicity" if own.mosaicity is None else f"a mosaicity of {own.mosaicity:g}°"
    refined = "none is refined"
    if has_mosaicity(model, own):
        refined = "one is refined, which takes two to three times as long; --mosaicity off leaves it out"
    return Text(f"data reduction states {stated}: {refined}")
