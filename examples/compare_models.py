"""Two models on the same measurements: which one predicts better, and is the difference more than noise.

    python examples/compare_models.py

Dynamical and kinematic scattering are fitted to the embedded example. Every measurement is left out in turn, by
Pareto-smoothed importance sampling of the posterior draws (PSIS-LOO), and predicted from the others: elpd is the sum
of the log densities of those predictions. Differences are paired, measurement by measurement, and so is their
standard error. `pendel compare RUN RUN` prints the same. `--quick` takes five frames with few beams.
"""

# %%
import argparse
import tempfile
from pathlib import Path

import pendel
from pendel.datasets import example
from pendel.judge.compare import Run, difference, read_run

MODELS = ("robust", "kinematic")
QUICK = {"frames": "::6", "g_max": 1.5, "sg_max": 0.004, "tilts": 5}
FULL = {"frames": "::2"}


# %%
def refine_with(name: str, folder: Path, **settings) -> Run:
    """A finished run with one model; the other settings are the same for all, or nothing could be compared."""
    files = example()
    chosen = pendel.Settings(model=name, infer="map", **settings)
    pendel.refine(files.structure, [files.data], folder / name, chosen)
    return read_run(folder / name)


def show(runs: list[Run]) -> None:
    """A line a run, the best first."""
    best, *others = sorted(runs, key=lambda run: -run.measurement.elpd)
    print(f"{'model':<12}{'R_obs':>8}{'elpd':>10}{'difference':>20}{'unreliable':>14}")
    for run in (best, *others):
        away = difference(run.measurement, best.measurement)
        behind = "0" if run is best else f"{away.value:.1f} ± {away.se:.1f}"
        counted = f"{run.measurement.n_unreliable} of {len(run.measurement.units)}"
        r_obs = f"{100 * run.summary['r_obs_pooled']:.1f} %"
        print(f"{run.path.name:<12}{r_obs:>8}{run.measurement.elpd:>10.1f}{behind:>20}{counted:>14}")
    for run in others:
        away = difference(best.measurement, run.measurement)
        frames = difference(best.frame, run.frame)
        print(f"\n{best.path.name} predicts better than {run.path.name} by {away.value / away.se:.1f} standard errors,")
        print(f"and {frames.value:+.1f} ± {frames.se:.1f} when whole frames are left out.")
    print("A difference below two standard errors decides nothing. Measurements with a large Pareto k carry so much")
    print("of the fit that leaving them out cannot be imitated: many of them, and the sum is not to be trusted.")


# %%
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="folder of the runs; a temporary one if not given")
    parser.add_argument("--quick", action="store_true", help="five frames, to see that it runs")
    arguments = parser.parse_args()
    out = arguments.out or Path(tempfile.mkdtemp(prefix="compare-"))
    settings = QUICK if arguments.quick else FULL
    show([refine_with(name, out, **settings) for name in MODELS])
    print(f"\nthe runs with their reports are in {out}")


if __name__ == "__main__":
    main()
