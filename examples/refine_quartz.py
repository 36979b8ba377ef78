"""Refine a structure: two files in, coordinates with standard uncertainties and a run folder out.

    python examples/refine_quartz.py                                     # the embedded example, simulated quartz
    python examples/refine_quartz.py structure.cif data.cif_pets ...     # your own files, one data file a crystal

The command line does the same (`pendel refine`). `--quick` refines five frames with few beams, to see that it runs:
its numbers mean nothing. `--infer map` takes a fraction of the time of the default `svi`.
"""

# %%
import argparse
import tempfile
from pathlib import Path

import pendel
from pendel.check.truth import demo_rows, free_coordinates
from pendel.datasets import example
from pendel.files.numbers import format_su

# Every setting that is not given is derived from the data; the report says what it came to.
QUICK = pendel.Settings(infer="map", frames="::6", g_max=1.5, sg_max=0.004, tilts=5)


# %%
def show_fit(outcome: pendel.Outcome) -> None:
    """How well the model describes the measurements, and how thick the crystal is."""
    found = outcome.summary
    for note in outcome.notes:
        print(f"note: {note}")
    print(f"{found['n_scored']} measurements ({found['n_observed']} above 3 sigma) on {found['n_frames']} frames")
    print(f"{found['n_parameters']} parameters, {'converged' if found['converged'] else 'NOT converged'}")
    print(f"R_obs {100 * found['r_obs_pooled']:.2f} %, wR2 {100 * found['wr2_pooled']:.2f} %")
    thickness = format_su(found["thickness_mean_angstrom"], found["thickness_su_angstrom"], decimals=0)
    low, high = found["thickness_min_angstrom"], found["thickness_max_angstrom"]
    print(f"thickness {thickness} Å (mean of the frames, which have {low:.0f} to {high:.0f} Å)")


def show_coordinates(outcome: pendel.Outcome) -> None:
    """Coordinates as value(su); where symmetry fixes one, there is no uncertainty."""
    crystal, su = outcome.refined.crystal, outcome.refined.fract_su
    print(f"\n{'site':<6}{'x':>14}{'y':>14}{'z':>14}")
    for site, label in enumerate(crystal.labels):
        values = [format_su(x, s or None, decimals=5) for x, s in zip(crystal.fract[site], su[site], strict=True)]
        free = "".join("xyz"[axis] for axis in free_coordinates(crystal, site))
        print(f"{label:<6}" + "".join(f"{value:>14}" for value in values) + f"   free: {free}")


def show_truth(outcome: pendel.Outcome) -> None:
    """The embedded example was simulated: its data file holds the truth, which the refinement has not read."""
    print(f"\n{'parameter':<10}{'truth':>10}{'start':>10}{'refined':>14}{'z':>8}")
    for name, truth, start, refined, su in demo_rows(example().structure, example().data, outcome.refined):
        value = format_su(refined, su, decimals=5)
        print(f"{name:<10}{truth:>10.5f}{start:>10.5f}{value:>14}{(refined - truth) / su:>8.2f}")


# %%
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path, help="STRUCTURE.cif DATA.cif_pets ...; else the example")
    parser.add_argument("--out", type=Path, help="run folder; a temporary one if not given")
    parser.add_argument("--infer", default="svi", help="map, svi, nuts or mclmc")
    parser.add_argument("--quick", action="store_true", help="five frames, to see that it runs")
    arguments = parser.parse_args()
    if len(arguments.files) == 1:
        parser.error("found one file; expected a structure and at least one data file, or none for the example")
    structure, *data = arguments.files or [example().structure, example().data]
    out = arguments.out or Path(tempfile.mkdtemp(prefix="quartz-"))
    settings = QUICK if arguments.quick else pendel.Settings(infer=arguments.infer)
    outcome = pendel.refine(structure, data, out, settings)  # a second call on the same folder resumes
    show_fit(outcome)
    show_coordinates(outcome)
    if not arguments.files:
        show_truth(outcome)
    print(f"\n{out} holds " + ", ".join(sorted(path.name for path in out.iterdir() if path.suffix != ".npz")))


if __name__ == "__main__":
    main()
