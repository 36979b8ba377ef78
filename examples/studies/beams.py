"""Beams by excitation error and by influence: work and error of amplitudes against a much larger set of beams.

Run by hand: python examples/studies/beams.py OUT [--crystal quartz] [--data FOLDER] [--quick]. FOLDER holds one folder
for every crystal (PENDEL_SHARED/data when not given). OUT/CRYSTAL.json has the numbers of one crystal, OUT/beams.md the
table of all that are there. All rows of a crystal have the same frames, tilts and thicknesses, and the orientations of
the file. The large set has every reflection within 1.6 times the resolution and an excitation error of 0.03 Å⁻¹; those
between 0.03 and 0.1 Å⁻¹ are folded in.
"""

import argparse
import dataclasses
import json
import os
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import pendel
from pendel.run.inputs import read_problem
from pendel.simulate import thickness_table
from pendel.simulate.beams import weak_beams
from pendel.simulate.chebyshev import expansion_length
from pendel.simulate.coupling import largest_radius
from pendel.simulate.geometry import beam_axis_row
from pendel.simulate.plan import PlanSettings
from pendel.simulate.planning import default_tilts, plan_with

# Files, settings, largest thickness [Å].
CRYSTALS = {
    "quartz": ("quartz_dynamical.cif", "quartz.cif_pets", {"frames": "5::33"}, 900.0),
    "urea": ("urea_jana.cif", "urea.cif_pets", {"frames": "10::25", "hydrogen": True}, 1000.0),
    "albite": ("albite_dynamical.cif", "albite.cif_pets", {"frames": "10::20"}, 600.0),
    "paracetamol": (
        "paracetamol.cif",
        "paracetamol.cif_pets",
        {"frames": "10::40", "geometry": "precession", "hydrogen": True},
        600.0,
    ),
    "cspbbr3": ("cspbbr3.cif", "CsPbBr_P67-crot-050_dyn.cif_pets", {"frames": "30:31"}, 600.0),
}
LARGE = {"sg_max": 0.03, "folded_sg_max": 0.1}  # Å⁻¹
LARGE_G = 1.6  # resolutions of the data
BARE = 0.01  # error of the beams that are also tried with nothing folded in
SG_MAX = (0.005, 0.007, 0.01, 0.014, 0.02)
BEAM_ERROR = (0.002, 0.005, 0.01, 0.02)
SHARES = np.array([0.15, 0.3, 0.45, 0.6, 0.7, 0.8, 0.9, 1.0])  # of the largest thickness, the nodes
WEIGHTS = np.gradient(SHARES) * SHARES / np.sum(np.gradient(SHARES) * SHARES)  # of a broad distribution
SINGLE = (1, 3, 7)  # nodes whose own errors are told: thin, middle, thick
TABLE = jax.jit(thickness_table)


def main():
    """Study the crystals that are asked for, then write the table of all that were."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--crystal", choices=list(CRYSTALS), action="append")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("PENDEL_SHARED", ".")) / "data")
    parser.add_argument("--quick", action="store_true", help="two rows of each kind")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in arguments.crystal or CRYSTALS:
        found = study(name, arguments.data, quick=arguments.quick)
        (arguments.out / f"{name}.json").write_text(json.dumps(found, indent=1))
    names = [name for name in CRYSTALS if (arguments.out / f"{name}.json").exists()]
    text = as_markdown({name: json.loads((arguments.out / f"{name}.json").read_text()) for name in names})
    (arguments.out / "beams.md").write_text(text)
    print(text)


def study(name, folder, *, quick):
    """Rows of one crystal: how beams were chosen, their number, work, seconds and R of amplitudes."""
    structure, data, options, longest = CRYSTALS[name]
    problem = read_problem(folder / name / structure, [folder / name / data], pendel.Settings(**options))
    crystal, (experiment,) = problem.crystal, problem.experiments
    fixed = {"tilts": default_tilts(experiment, longest), "thickness_max": 1.05 * longest}
    settings = PlanSettings(g_max=round(LARGE_G * experiment.dstar_max, 2), **LARGE, **fixed)
    exact, row = simulated(crystal, plan_with(crystal, experiment, settings, None), longest)
    rows = [{"kind": "large set", **row}]
    chosen = [("sg_max", x) for x in (SG_MAX[2::2] if quick else SG_MAX)]
    chosen += [("beam_error", x) for x in (BEAM_ERROR[1:3] if quick else BEAM_ERROR)]
    for option, value in chosen:
        plan = pendel.make_plan(crystal, experiment, **{option: value}, **fixed)
        rows.append({"kind": f"{option} {value:g}", **compared(crystal, plan, longest, exact)})
        if (option, value) == ("beam_error", BARE):
            rows.append({"kind": "the same, none folded in", **compared(crystal, without_folded(plan), longest, exact)})
        print(name, rows[-1], flush=True)
    return {"frames": len(experiment.frame_id), "measurements": len(experiment.hkl), **fixed, "rows": rows}


def without_folded(plan):
    """The plan with the same beams and nothing folded in."""
    groups = tuple(dataclasses.replace(group, folded=None) for group in plan.groups)
    return dataclasses.replace(plan, groups=groups)


def compared(crystal, plan, longest, exact):
    """The numbers of a plan, with R of amplitudes against exact intensities [measurements nodes]."""
    intensity, row = simulated(crystal, plan, longest)

    def r_factor(found, true):
        return float(np.sum(np.abs(np.sqrt(found) - np.sqrt(true))) / np.sum(np.sqrt(true)))

    row["r"] = r_factor(intensity @ WEIGHTS, exact @ WEIGHTS)
    row["r_single"] = [r_factor(intensity[:, node], exact[:, node]) for node in SINGLE]
    return row


def simulated(crystal, plan, longest):
    """Intensities [measurements nodes] and what they cost, the second time."""
    arguments = {"tilt": jnp.zeros((plan.frames, 2)), "thickness": jnp.asarray(longest * SHARES)}
    TABLE(crystal, plan, **arguments).block_until_ready()
    began = time.perf_counter()
    intensity = np.asarray(TABLE(crystal, plan, **arguments))
    seconds = time.perf_counter() - began
    beams = np.concatenate([np.sum(group.present, axis=1) for group in plan.groups])
    folded = [np.sum(group.folded.present, axis=1) for group in plan.groups if group.folded is not None]
    row = {
        "beams": float(np.mean(beams)),
        "folded": float(np.sum(np.concatenate(folded)) / len(beams)) if folded else 0.0,
        "work": work(crystal, plan, longest),
        "seconds": seconds,
        "support": len(plan.support_hkl),
    }
    return intensity, row


def work(crystal, plan, longest):
    """Sum over segments of N² (tilts x steps + W), the last for folding W beams in: operations up to a factor."""
    radii = largest_radius(crystal, plan, beam_axis_row(jnp.zeros((plan.frames, 2))))
    total = 0.0
    for group, radius in zip(plan.groups, radii, strict=True):
        steps = int(expansion_length(jnp.asarray(radius * longest), plan.dtype))
        beams = np.sum(np.asarray(group.present), axis=1, dtype=float)
        total += float(np.sum(beams**2) * (group.matrix.shape[1] * steps + weak_beams(group)))
    return total


def as_markdown(studies):
    """One table for every crystal; work and seconds relative to sg_max 0.01 where that was tried."""
    lines = []
    for name, found in studies.items():
        rows = found["rows"]
        unit = next((row for row in rows if row["kind"] == "sg_max 0.01"), rows[1])
        lines += [
            f"\n{name}: {found['frames']} frames, {found['measurements']} reflections, {found['tilts']} tilts\n",
            "| beams chosen by | beams | folded in | work | seconds | R, thickness averaged | thin / middle / thick |",
            "|---|---|---|---|---|---|---|",
        ]
        for row in rows:
            cells = [row["kind"], f"{row['beams']:.0f}", f"{row['folded']:.0f}"]
            cells += [f"{row['work'] / unit['work']:.2g}", f"{row['seconds']:.2f}"]
            if "r" in row:
                cells += [f"{100 * row['r']:.2f} %", " / ".join(f"{100 * r:.2f}" for r in row["r_single"])]
            lines.append("| " + " | ".join(cells) + " |" + ("" if "r" in row else " | |"))
    return "\n".join(lines).strip() + "\n"


if __name__ == "__main__":
    main()
