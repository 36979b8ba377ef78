"""Three error models on real quartz against X-ray diffraction: reported sigma only, Gaussian (a, b), Student-t.

Run by hand: python examples/studies/error_models.py OUT [--infer svi] [--frames ::3] [--tilts 84]. Each model is a copy
of models/robust.py with another line of errors, what a user does who changes it. OUT/error_models.json holds z-scores
of coordinates and U_eq (both errors counted), R factors, and how much better LOO finds each than the worst.
"""

import argparse
import json
from pathlib import Path

import numpy as np

import pendel
from pendel.crystal.cell import u_equivalent
from pendel.judge.compare import difference, read_run

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data" / "quartz"
STUDENT = "student_t(calculated, experiment.sigma, a=a, b=b, nu=nu)"
ERRORS = {
    "sigma": "gaussian(calculated, experiment.sigma)",
    "gaussian": "gaussian(calculated, experiment.sigma, a=a, b=b)",
    "student": STUDENT,
}
SAMPLED = {"sigma": "", "gaussian": "ab", "student": "abn"}  # first letters of the errors that are sampled

# alpha-quartz, X-ray, 298 K, in the setting of the data; (value, su). U_eq have no su there.
REFERENCE = {
    "Si1 y": (0.46981, 0.00007),
    "O1 x": (0.85397, 0.00024),
    "O1 y": (0.58628, 0.00017),
    "O1 z": (0.6188, 0.0001),
}
U_EQ = {"Si1": 0.0063, "O1": 0.0116}  # Å²


def main() -> None:
    """One refinement for each error model, then the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--infer", default="svi")
    parser.add_argument("--frames", default="::3")
    parser.add_argument("--tilts", type=int, default=84)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    found = {}
    for name in ERRORS:
        settings = pendel.Settings(
            model=str(variant(name, options.out)),
            infer=options.infer,
            frames=options.frames,
            tilts=options.tilts,
            select="klar",
            g_max=2.0,
            sg_max=0.01,
        )
        out = options.out / name
        outcome = pendel.refine(DATA / "quartz_dynamical.cif", [DATA / "quartz.cif_pets"], out, settings)
        found[name] = against_x_ray(outcome)
        print(name, json.dumps(found[name], indent=1), flush=True)
    loo = {name: read_run(options.out / name).measurement for name in ERRORS}
    worst = min(loo, key=lambda name: loo[name].elpd)
    for name, one in loo.items():
        gain = difference(one, loo[worst])
        found[name] |= {"elpd_over_worst": gain.value, "se": gain.se, "unreliable": one.n_unreliable}
        print(f"{name}: elpd {one.elpd:.0f}, {gain.value:+.0f} ± {gain.se:.0f} over {worst}")
    (options.out / "error_models.json").write_text(json.dumps(found, indent=2) + "\n")


def variant(name: str, out: Path) -> Path:
    """A copy of the robust model with other errors."""
    source = (ROOT / "models" / "robust.py").read_text(encoding="utf-8")
    assert source.count(STUDENT) == 1
    source = source.replace(STUDENT, ERRORS[name])
    source = source.replace("import student_t", "import gaussian, student_t")
    lines = source.splitlines()
    for letter in "abn":
        site = next(i for i, line in enumerate(lines) if line.startswith(f"    {'nu' if letter == 'n' else letter} = "))
        if letter not in SAMPLED[name]:
            lines[site] = ""
    path = out / f"{name}.py"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def against_x_ray(outcome) -> dict:
    """z of every free coordinate, their root mean square, deviations and U_eq."""
    refined, crystal = outcome.refined, outcome.refined.crystal
    scores, deviations = {}, {}
    for name, (value, su) in REFERENCE.items():
        label, axis = name.split()
        place = crystal.labels.index(label), "xyz".index(axis)
        difference = (float(refined.crystal.fract[place]) - value + 0.5) % 1 - 0.5
        scores[name] = difference / float(np.hypot(refined.fract_su[place], su))
        deviations[name] = 1000 * difference * crystal.cell["xyz".index(axis)]
    u_eq = {
        label: float(np.asarray(u_equivalent(crystal.u_aniso, crystal.cell))[i])
        for i, label in enumerate(crystal.labels)
    }
    summary = outcome.summary
    return {
        "z": scores,
        "rms_z": float(np.sqrt(np.mean(np.square(list(scores.values()))))),
        "deviation_mA": deviations,
        "u_eq": {label: [u_eq[label], float(refined.u_equivalent_su[i])] for i, label in enumerate(crystal.labels)},
        "u_eq_x_ray": U_EQ,
        "r_obs_mean_klar": summary["r_obs_mean_klar"],
        "wr2_mean_klar": summary["wr2_mean_klar"],
        "errors": {name: summary["scalars"][name] for name in ("a", "b", "nu") if name in summary["scalars"]},
    }


if __name__ == "__main__":
    main()
