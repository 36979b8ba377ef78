"""Two crystals of one structure refined together: how much the uncertainties shrink.

    python examples/several_crystals.py

Two crystals of quartz are simulated, of different thickness and misorientation and with noise of their own. Each is
fitted alone, then both by the model `robust` with errors="each": they share the atoms and nothing else. Information
adds, so the standard uncertainties of the atoms shrink by about sqrt(2). On files: `pendel refine structure.cif
one.cif_pets other.cif_pets --out run`, with one set of errors for both. `--quick` takes five frames with few beams.
"""

# %%
import argparse
import dataclasses

import jax
import numpy as np

import pendel
from pendel.check.synthetic import simulate_experiment
from pendel.datasets import example
from pendel.experiment.frames import Experiment, central_vectors
from pendel.model.load import with_options

PRIOR = 0.05  # Å, of every displacement in the shipped models
QUICK = {"every": 6, "g_max": 1.2, "sg_max": 0.005, "tilts": 5}
FULL = {"every": 3, "g_max": 1.3, "sg_max": 0.008, "tilts": 25}
CRYSTALS = (500.0, 430.0)  # Å
# A slab in every frame, as simulated below; every crystal has its own errors.
MODEL = with_options(pendel.load_model("robust"), thickness="single", errors="each")


# %%
def measured_crystals(truth: pendel.Crystal, every: int, g_max: float, **beams) -> list[Experiment]:
    """The frames of the embedded example, measured anew on two crystals."""
    frames = pendel.thin(pendel.select(pendel.read_pets(example().data), "nearest"), slice(None, None, every))
    near = np.linalg.norm(central_vectors(frames), axis=1) < g_max
    columns = ("frame_index", "hkl", "intensity", "sigma", "weight")
    frames = dataclasses.replace(frames, **{name: getattr(frames, name)[near] for name in columns})
    return [
        simulate_experiment(
            truth,
            frames,
            pendel.Imperfections(thickness=thickness, width=0.01, misorientation_deg=0.05, model_error=0.05),
            seed=seed,
            g_max=g_max,
            **beams,
        ).experiment
        for seed, thickness in enumerate(CRYSTALS)
    ]


def fit(crystal: pendel.Crystal, datasets: tuple, start: dict) -> pendel.MapFit:
    """The maximum of the posterior of one or both crystals."""
    intensities = tuple(data.experiment.intensity for data in datasets)
    return pendel.fit_map(pendel.make_target(MODEL, crystal, datasets, intensities=intensities), start=start)


def uncertainties(fit: pendel.MapFit) -> np.ndarray:
    """Standard uncertainty [Å] along every direction in which symmetry lets an atom move."""
    return np.std(pendel.laplace_draws(fit, jax.random.key(0), 4000)["displacement"], axis=0)


# %%
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="five frames, to see that it runs")
    options = QUICK if parser.parse_args().quick else FULL
    beams = {name: value for name, value in options.items() if name != "every"}
    truth, crystal = pendel.read_crystal(example().data), pendel.read_crystal(example().structure)
    experiments = measured_crystals(truth, **options)
    plans = [pendel.make_plan(crystal, one, thickness_max=1200.0, **beams) for one in experiments]

    # Each alone. Thickness starts at what was simulated; with real data `pendel.find_start` scans for it.
    starts = [
        {"log_thickness": np.full(len(one.frame_id), np.log(t)), "log_thickness_mean": np.log(t)}
        for one, t in zip(experiments, CRYSTALS, strict=True)
    ]
    alone = [
        fit(crystal, (pendel.DataSet(one, plan),), start)
        for one, plan, start in zip(experiments, plans, starts, strict=True)
    ]

    # Both: sites of the second crystal end in _2; the atoms have one name and are shared.
    start = {**alone[0].values, **{f"{name}_2": value for name, value in alone[1].values.items()}}
    both = fit(crystal, pendel.data_sets(experiments, plans), start)

    first, second, together = map(uncertainties, (*alone, both))
    # Precisions 1/su² add; the prior is in both of them and must count once.
    expected = (first**-2 + second**-2 - PRIOR**-2) ** -0.5
    print(f"{len(experiments[0].hkl)} measurements a crystal")
    for number, (found, thickness) in enumerate(zip(alone, CRYSTALS, strict=True), start=1):
        fitted = float(np.mean(np.exp(found.values["log_thickness"])))
        print(f"crystal {number}: thickness {fitted:.0f} Å (simulated {thickness:.0f} Å), converged {found.converged}")
    print(f"\nsu [mÅ]{'one':>9}{'other':>9}{'both':>9}{'expected':>10}")
    for row, values in enumerate(zip(first, second, together, expected, strict=True)):
        print(f"move {row} " + "".join(f"{1000 * value:>9.2f}" for value in values))
    single = np.sqrt((first**2 + second**2) / 2)
    print(f"both crystals are tighter by {np.median(single / together):.2f} (sqrt(2) = 1.41)")


if __name__ == "__main__":
    main()
