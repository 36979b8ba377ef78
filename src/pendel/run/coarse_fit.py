"""Start of a costly refinement: the maximum of a coarse problem, and from its structure a scan of all frames."""

import dataclasses

from pendel.infer.maximum.map import climb_frames
from pendel.infer.maximum.optimise import APPROXIMATE
from pendel.run.basins import fit_likely_basin, near_basins
from pendel.run.coarse import Coarse, fitted_values, handed_over
from pendel.run.compile_cache import drop_programs
from pendel.run.fitting import Chosen, Run, fit_structure, scan_start, site_values
from pendel.run.plans import bounded, final_plans, first_plans, widest


def fit_coarse(run: Run, coarse: Coarse) -> Chosen:
    """Start and MAP of the coarse problem, then, if it leaves frames out, with all beams: sites and structure."""
    few = dataclasses.replace(run, problem=coarse.problem, settings=coarse.settings)
    start = scan_start(few, bounded(few.problem, few.settings, first_plans(few.problem, few.settings)))
    near = [other.values for other in near_basins(start)[1:]]
    target = few.target(final_plans(few.problem, few.settings, run.model, widest(start.values, near)))
    fit = fit_likely_basin(few, target, start, rounds=1, tolerance=APPROXIMATE)

    rough = Chosen(values={**start.values, **fit.values}, basins=start.basins)
    drop_programs()
    if coarse.every == 1:
        return rough
    all_beams = dataclasses.replace(few, settings=run.settings)
    plans = final_plans(few.problem, run.settings, run.model, rough.values)
    target = few.target(plans)
    fit = fit_structure(all_beams, target, rough, rounds=0, tolerance=APPROXIMATE)
    crystal, datasets = target.data[0]
    found = Chosen(values=fitted_values(run.model, crystal, datasets, fit), basins=start.basins)
    drop_programs()
    return found


def scan_again(run: Run, coarse: Coarse, rough: Chosen) -> Chosen:
    """Start of all frames after a coarse fit, with its beams: a scan, then every frame climbs by itself."""
    few_beams = dataclasses.replace(run, settings=coarse.settings)
    plans = bounded(run.problem, coarse.settings, first_plans(run.problem, coarse.settings))
    start = scan_start(few_beams, plans, rough.values)
    start = dataclasses.replace(start, values=handed_over(rough.values, start.values, coarse.every), others=())
    plans = final_plans(run.problem, coarse.settings, run.model, start.values)
    target = run.target(plans)
    values, spreads = site_values(target, start)
    found = climb_frames(target, start=values, spreads=spreads, progress=run.progress)
    drop_programs()
    return dataclasses.replace(start, values={**start.values, **found})
