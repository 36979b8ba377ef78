"""A series of crystals on two Dask workers: a table of posteriors, and one structure with the spread between crystals.

    python examples/crystal_series.py

Crystals of quartz are simulated, each with a thickness, misorientations and noise of its own, and atoms that differ
from crystal to crystal by 15 mÅ, as compositions or strains make them differ. Every crystal is refined by itself, in a
process of its own; Dask hands the next one to the worker that is free, and would do the same on a cluster. The runs are
then read from their parameters.csv and pooled. `several_crystals.py` refines crystals together instead, which is right
where they have the same atoms. `--quick` takes three crystals of four frames. Needs Dask: `pip install distributed`.
"""

# %%
import argparse
import csv
import dataclasses
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

import pendel
from pendel.check.synthetic import simulate_experiment, write_synthetic
from pendel.crystal.parameters import with_parameters
from pendel.datasets import example
from pendel.experiment.frames import central_vectors

SPREAD = 0.015  # Å, of the atoms between the crystals
QUICK = {"crystals": 3, "every": 8, "g_max": 1.0, "sg_max": 0.004, "tilts": 5, "model": "kinematic"}
FULL = {"crystals": 6, "every": 3, "g_max": 1.3, "sg_max": 0.008, "tilts": 25, "model": "robust"}


# %%
def refine_one(number: int, out: Path, *, every: int, model: str, **beams) -> Path:
    """Simulate crystal `number` and refine it; runs on a worker. Returns the folder of the run."""
    rng = np.random.default_rng(number)
    truth = pendel.read_crystal(example().data)
    truth = with_parameters(truth, displacement=SPREAD * rng.standard_normal(len(truth.position_basis)))
    frames = pendel.thin(pendel.select(pendel.read_pets(example().data), "nearest"), slice(None, None, every))
    near = np.linalg.norm(central_vectors(frames), axis=1) < beams["g_max"]
    columns = ("frame_index", "hkl", "intensity", "sigma", "weight")
    frames = dataclasses.replace(frames, **{name: getattr(frames, name)[near] for name in columns})
    imperfections = pendel.Imperfections(
        thickness=400 + 40 * number, width=0.1, misorientation_deg=0.05, model_error=0.05
    )
    measured = simulate_experiment(truth, frames, imperfections, seed=number, **beams)
    data = out / f"crystal_{number}.cif_pets"
    write_synthetic(data, measured, truth)
    settings = pendel.Settings(model=model, infer="map", **beams)
    return pendel.refine(example().structure, [data], out / f"run_{number}", settings).folder


def on_two_workers(count: int, out: Path, **options) -> list[Path]:
    """Folders of the runs of all crystals, refined on two local processes with one thread each."""
    from distributed import Client, LocalCluster

    cluster = LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, memory_limit=None)
    with cluster, Client(cluster) as client:
        jobs = [client.submit(refine_one, number, out, **options, pure=False) for number in range(count)]
        return client.gather(jobs)


# %%
def coordinates(run: Path) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation [Å] of every refined coordinate of a run, along its axis."""
    cell = pendel.read_crystal(run / "refined.cif").cell
    with open(run / "parameters.csv", newline="", encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream) if row["parameter"] == "fract" and row["status"] == "refined"]
    lengths = {row["label"]: cell["xyz".index(row["label"][-1])] for row in rows}
    return {row["label"]: tuple(lengths[row["label"]] * float(row[name]) for name in ("mean", "sd")) for row in rows}


def pooled(value: np.ndarray, su: np.ndarray) -> dict[str, np.ndarray]:
    """Draws of a random-effects model: crystals scatter about the mean of each coordinate by one `spread`.

        value_cx ~ Normal(mean_x, sqrt(su_cx² + spread²)),  spread ~ HalfNormal(0.05 Å),  mean_x flat

    Args:
        value, su: [crystals coordinates], Å.

    Source: Gelman et al., Bayesian Data Analysis, 3rd ed. (2013), section 5.4.
    """

    def model(value, su):
        spread = numpyro.sample("spread", dist.HalfNormal(0.05))
        away = numpyro.sample("away", dist.Normal(0, 1).expand([value.shape[1]]).to_event(1))  # from the plain mean
        numpyro.sample("value", dist.Normal(away, jnp.sqrt(su**2 + spread**2)).to_event(2), obs=value)

    centre = value.mean(axis=0)
    sampler = numpyro.infer.MCMC(numpyro.infer.NUTS(model), num_warmup=500, num_samples=2000, progress_bar=False)
    sampler.run(jax.random.key(0), value - centre, su)
    draws = {name: np.asarray(x) for name, x in sampler.get_samples().items()}
    return {"spread": draws["spread"], "mean": centre + draws["away"]}


def show(runs: list[Path]) -> None:
    """The table of posteriors, the pooled structure, and the spread between the crystals."""
    found = [coordinates(run) for run in runs]
    labels = list(found[0])
    value, su = np.array([[one[label] for label in labels] for one in found]).transpose(2, 0, 1)
    draws = pooled(value, su)
    centre, width = draws["mean"].mean(axis=0), draws["mean"].std(axis=0)
    alone = np.sum(su**-2.0, axis=0) ** -0.5  # what a weighted mean would claim
    print("mÅ from the pooled value, with su")
    print(f"{'':<8}" + "".join(f"{run.name:>16}" for run in runs) + f"{'pooled su':>12}{'weighted su':>13}")
    for column, label in enumerate(labels):
        cells = [
            f"{1000 * (x - centre[column]):+.1f} ± {1000 * s:.1f}"
            for x, s in zip(value[:, column], su[:, column], strict=True)
        ]
        numbers = f"{1000 * width[column]:>12.1f}{1000 * alone[column]:>13.1f}"
        print(f"{label:<8}" + "".join(f"{cell:>16}" for cell in cells) + numbers)
    spread = 1000 * draws["spread"]
    low, high = np.percentile(spread, (2.5, 97.5))
    simulated = f"simulated {1000 * SPREAD:.0f} along each direction"
    print(f"spread between crystals {spread.mean():.1f} mÅ, 95 % {low:.1f} to {high:.1f} ({simulated})")


# %%
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="folder of the runs; a temporary one if not given")
    parser.add_argument("--quick", action="store_true", help="three crystals of four frames, to see that it runs")
    arguments = parser.parse_args()
    out = arguments.out or Path(tempfile.mkdtemp(prefix="series-"))
    out.mkdir(parents=True, exist_ok=True)
    options = dict(QUICK if arguments.quick else FULL)
    runs = on_two_workers(options.pop("crystals"), out, **options)
    show(runs)
    print(
        f"\nthe runs are in {out}; pendel compare {' '.join(run.name for run in runs)} --html compare.html shows them"
    )


if __name__ == "__main__":
    main()
