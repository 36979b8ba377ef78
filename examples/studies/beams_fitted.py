"""What missing beams do to a refined structure: the maximum of the default, and where it moves with other beams.

Run by hand: python examples/studies/beams_fitted.py OUT [--crystal quartz] [--data FOLDER]. FOLDER holds one folder for
every crystal (PENDEL_SHARED/data when not given). Some frames of a crystal are fitted with the default; every
choice of the beams, the default too, goes on from there with the same tilts, so that nothing but the beams differs.
OUT/beams.json has the changes of the free coordinates in standard uncertainties of the default's fit, and R factors;
finished crystals are kept and not repeated.
"""

import argparse
import dataclasses
import json
import os
import time
from pathlib import Path

import jax
import numpy as np

import pendel
from pendel.check.truth import free_coordinates
from pendel.infer.maximum.optimise import MapTuning
from pendel.infer.predict import derive, predict
from pendel.model.dataset import data_sets
from pendel.run.compile_cache import make_room_for_programs
from pendel.run.evaluate import own_agreement
from pendel.run.fitting import Chosen, site_values
from pendel.run.inputs import read_problem
from pendel.run.plans import final_plans, first_plans
from pendel.run.scan import tilt_moves

CRYSTALS = {
    "quartz": ("quartz_dynamical.cif", "quartz.cif_pets", pendel.Settings(frames="::9", infer="map")),
    "urea": ("urea_jana.cif", "urea.cif_pets", pendel.Settings(frames="::8", infer="map")),
    "albite": ("albite_kinematical.cif", "albite.cif_pets", pendel.Settings(frames="::8", infer="map")),
    "paracetamol": (
        "paracetamol.cif",
        "paracetamol.cif_pets",
        pendel.Settings(frames="::12", geometry="precession", infer="map"),
    ),
    "cspbbr3": ("cspbbr3.cif", "CsPbBr_P67-crot-050_dyn.cif_pets", pendel.Settings(frames="::20", infer="map")),
}
OTHERS = ({"beam_error": 0.002}, {"sg_max": 0.02}, {"sg_max": 0.01})  # the first is the large set
DRAWS = 1000


def main() -> None:
    """The crystals that are asked for, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--crystal", choices=list(CRYSTALS), action="append")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("PENDEL_SHARED", ".")) / "data")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "beams.json"
    found = json.loads(file.read_text()) if file.exists() else {}
    for name in options.crystal or CRYSTALS:
        if name not in found:
            found[name] = study(name, options.data)
            file.write_text(json.dumps(found, indent=1) + "\n")


def study(name: str, folder: Path) -> list[dict]:
    """One crystal: a row for every choice of the beams, the default first."""
    structure, data, settings = CRYSTALS[name]
    problem = read_problem(folder / name / structure, [folder / name / data], settings)
    model, crystal = pendel.load_model(settings.model), problem.crystal
    first = first_plans(problem, settings, model)
    scanned = pendel.find_start(crystal, data_sets(problem.experiments, first))
    start = Chosen(values=dict(scanned.values[0]), basins=np.zeros((0, 2)))
    tilts = final_plans(problem, settings, model, start.values)[0].settings.tilts
    rows, usual = [], None
    for beams in ({}, *OTHERS):
        make_room_for_programs()
        began = time.monotonic()
        chosen = dataclasses.replace(settings, tilts=tilts, **beams)
        sets = data_sets(problem.experiments, final_plans(problem, chosen, model, start.values))
        intensities = tuple(experiment.intensity for experiment in problem.experiments)
        target = pendel.make_target(model, crystal, sets, intensities=intensities)
        if usual is None:
            values, spreads = site_values(target, start)
            usual = pendel.fit_map(target, start=values, spreads=spreads, moves=tilt_moves(sets))
        tuning = MapTuning(rounds=0)
        fit = pendel.fit_map(target, start=usual.values, spreads=usual.spreads, globals_fitted=True, tuning=tuning)
        if not rows:
            su = deviations(model, crystal, sets, fit)
        at = {key: np.asarray(value)[None] for key, value in {**fit.values, **fit.spreads}.items()}
        there = predict(model, (crystal, sets), at, intensities=intensities, key=jax.random.key(0)).deterministic
        row = {
            "beams": beams or "default",
            "fract": there["fract"][0].tolist(),
            "r_obs": own_agreement(problem, [there["calculated"][0]], used=True).r_obs_pooled,
            "log_density": -fit.potential,
            "message": fit.message,
            "seconds": time.monotonic() - began,
        }
        if rows:
            change = (there["fract"][0] - np.array(rows[0]["fract"]))[su > 0] / su[su > 0]
            row |= {"rms_su": float(np.sqrt(np.mean(change**2))), "largest_su": float(np.max(np.abs(change)))}
        rows.append(row)
        print(name, {key: value for key, value in row.items() if key != "fract"}, flush=True)
    return rows


def deviations(model, crystal, sets, fit) -> np.ndarray:
    """Laplace standard deviations of the free coordinates [atoms 3], zero for the others."""
    draws = pendel.laplace_draws(fit, jax.random.key(1), DRAWS)
    fract = derive(model, (crystal, sets), draws, leave_out=("calculated", "intensity"))["fract"]
    is_free = np.zeros(fract.shape[1:], dtype=bool)
    for site in range(len(is_free)):
        is_free[site, free_coordinates(crystal, site)] = True
    return np.where(is_free, np.std(fract, axis=0), 0.0)


if __name__ == "__main__":
    main()
