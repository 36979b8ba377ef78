"""The command line. Exit codes: 0 done, 2 bad input or an output that cannot be written, 1 everything else."""

import os
import sys
from pathlib import Path
from types import TracebackType
from typing import Annotated

import typer
from rich.console import Console

from pendel.base import InputError
from pendel.check.converge import convergence, convergence_report, plan_settings
from pendel.check.sanity import sanity_report
from pendel.check.synthetic import Imperfections, simulate_files
from pendel.check.truth import demo_rows
from pendel.cli.data import data_app
from pendel.cli.errors import plain_errors
from pendel.cli.progress import progress_of
from pendel.crystal.hand import invert as other_hand
from pendel.crystal.structure import is_centrosymmetric
from pendel.datasets import example
from pendel.files.cif import read_crystal
from pendel.files.structure_cif import write_structure_cif
from pendel.judge.compare import comparison, hands, read_run
from pendel.maps.run_map import map_run
from pendel.refine import Outcome
from pendel.refine import refine as run_refinement
from pendel.report.comparison import comparison_report, keep_comparison
from pendel.report.page import write_page
from pendel.report.tables import closing_table, comparison_table, peak_table
from pendel.run.inputs import read_problem
from pendel.run.plans import first_plans
from pendel.run.processes import is_first, join_processes
from pendel.run.settings import Settings
from pendel.simulate.cost import within_memory

app = typer.Typer(
    help="Refine crystal structures against electron diffraction, with posteriors.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(data_app, name="data")

Structure = Annotated[Path, typer.Argument(metavar="STRUCTURE.cif", help="start structure")]
Data = Annotated[list[Path], typer.Argument(metavar="DATA.cif_pets...", help="one file per measured crystal")]
OneData = Annotated[Path, typer.Argument(metavar="DATA.cif_pets", help="measured frames and reflections")]
Select = Annotated[str, typer.Option(help="nearest: each measurement once; klar: the published rule")]
Rsg = Annotated[float, typer.Option(help="klar: largest |S_g| / span")]
Dsg = Annotated[float, typer.Option(help="klar: smallest span - |S_g| [Å⁻¹]")]
GMax = Annotated[float | None, typer.Option(help="cutoff of the beams [Å⁻¹]; from the data's resolution")]
SgMax = Annotated[float | None, typer.Option(help="largest excitation error of a beam [Å⁻¹]")]
Tilts = Annotated[int | None, typer.Option(help="tilts per frame; from thickness and resolution")]
Frames = Annotated[str, typer.Option(help="start:stop:step, e.g. ::3")]
CellChoice = Annotated[str, typer.Option(help="which cell counts: header, structure or ub")]
Geometry = Annotated[str | None, typer.Option(help="rotation or precession, instead of what the file says")]
EnergyEv = Annotated[float | None, typer.Option(help="beam energy [eV], instead of the file's wavelength")]
Hydrogen = Annotated[bool, typer.Option("--hydrogen", help="keep hydrogen atoms")]
Memory = Annotated[float | None, typer.Option(help="GB to use; four fifths of the machine's")]
Seed = Annotated[int, typer.Option(help="of everything random")]
Progress = Annotated[str, typer.Option(help="auto, quiet, or json: one object a line on standard error")]


@app.command()
def refine(
    structure: Structure,
    data: Data,
    out: Annotated[Path, typer.Option(help="run folder")],
    model: Annotated[str, typer.Option(help="a shipped model, or a Python file")] = "robust",
    thickness: Annotated[str | None, typer.Option(help="taper, step, single, wedge, lens or cylinder")] = None,
    infer: Annotated[str, typer.Option(help="map, svi, nuts, mclmc or smc")] = "svi",
    select: Select = "nearest",
    rsg: Rsg = 0.9,
    dsg: Dsg = 0.0015,
    g_max: GMax = None,
    sg_max: SgMax = None,
    tilts: Tilts = None,
    frames: Frames = ":",
    cell: CellChoice = "header",
    geometry: Geometry = None,
    energy_ev: EnergyEv = None,
    hydrogen: Hydrogen = False,
    memory: Memory = None,
    holdout: Annotated[float, typer.Option(help="fraction of the unique hkl left out")] = 0.0,
    guides: Annotated[int, typer.Option(help="fits of SVI from different seeds, to see whether they agree")] = 1,
    seed: Seed = 0,
    force: Annotated[bool, typer.Option("--force", help="overwrite a run in the folder")] = False,
    distributed: Annotated[bool, typer.Option("--distributed", help="one of several processes, see docs")] = False,
    progress: Progress = "auto",
) -> None:
    """Refine a structure: start values, MAP with Laplace uncertainties, then SVI or Markov chains."""
    settings = Settings(
        model=model,
        thickness=thickness,
        infer=infer,
        select=select,
        rsg=rsg,
        dsg=dsg,
        g_max=g_max,
        sg_max=sg_max,
        tilts=tilts,
        frames=frames,
        cell=cell,
        geometry=geometry,
        energy_ev=energy_ev,
        hydrogen=hydrogen,
        memory=memory,
        holdout=holdout,
        guides=guides,
        seed=seed,
    )
    with plain_errors(out):
        if distributed:
            join_processes()
        _refine_and_print(structure, data, out, settings, force=force, progress=progress)


@app.command()
def check(
    structure: Structure,
    data: Data,
    select: Select = "nearest",
    rsg: Rsg = 0.9,
    dsg: Dsg = 0.0015,
    g_max: GMax = None,
    sg_max: SgMax = None,
    tilts: Tilts = None,
    frames: Frames = ":",
    cell: CellChoice = "header",
    geometry: Geometry = None,
    energy_ev: EnergyEv = None,
    hydrogen: Hydrogen = False,
    memory: Memory = None,
    converge: Annotated[bool, typer.Option("--converge", help="try more tilts and beams on a few frames")] = False,
) -> None:
    """Read and check the files; say what a fit would use and cost. Writes nothing."""
    settings = Settings(
        select=select,
        rsg=rsg,
        dsg=dsg,
        g_max=g_max,
        sg_max=sg_max,
        tilts=tilts,
        frames=frames,
        cell=cell,
        geometry=geometry,
        energy_ev=energy_ev,
        hydrogen=hydrogen,
        memory=memory,
    )
    with plain_errors():
        problem = read_problem(structure, data, settings)
        plans = first_plans(problem, settings)
        Console().print(sanity_report(problem, plans, settings))
        plans = within_memory(problem.crystal, plans, settings.memory)
        if converge:
            for experiment, plan in zip(problem.experiments, plans, strict=True):
                trials = convergence(problem.crystal, experiment, plan)
                Console().print(convergence_report(trials, plan_settings(plan)))


@app.command()
def simulate(
    structure: Structure,
    data: OneData,
    out: Annotated[Path, typer.Option(help="the .cif_pets file to write")],
    thickness: Annotated[float, typer.Option(help="mean thickness [Å] in the middle of the tilt range")] = 800.0,
    width: Annotated[float, typer.Option(help="relative standard deviation of the thickness")] = 0.15,
    wedge: Annotated[bool, typer.Option("--wedge", help="uniform between two thicknesses; else log-normal")] = False,
    slope_per_degree: Annotated[float, typer.Option(help="relative change of thickness and width per degree")] = 0.0,
    misorientation: Annotated[float, typer.Option(help="of every frame, standard deviation [deg]")] = 0.0,
    model_error: Annotated[float, typer.Option(help="relative error that is no counting noise")] = 0.0,
    counts: Annotated[float, typer.Option(help="of the strongest reflection")] = 1e5,
    background: Annotated[float, typer.Option(help="counts under every reflection")] = 20.0,
    g_max: GMax = None,
    sg_max: SgMax = 0.02,
    tilts: Tilts = None,
    cell: CellChoice = "header",
    geometry: Geometry = None,
    energy_ev: EnergyEv = None,
    hydrogen: Hydrogen = False,
    seed: Seed = 0,
) -> None:
    """Write a synthetic experiment: frames and reflections of DATA, intensities of STRUCTURE, the truth inside."""
    settings = Settings(
        g_max=g_max,
        sg_max=sg_max,
        tilts=tilts,
        cell=cell,
        geometry=geometry,
        energy_ev=energy_ev,
        hydrogen=hydrogen,
        seed=seed,
    )
    imperfections = Imperfections(
        thickness=thickness,
        width=width,
        is_wedge=wedge,
        slope=slope_per_degree,
        misorientation_deg=misorientation,
        model_error=model_error,
        counts=counts,
        background=background,
    )
    with plain_errors():
        experiment = simulate_files(structure, data, out, settings, imperfections).experiment
        print(f"{len(experiment.intensity)} measurements on {len(experiment.frame_id)} frames in {out}")


@app.command()
def report(run: Annotated[Path, typer.Argument(metavar="RUN", help="folder of a run with a finished stage")]) -> None:
    """Write report.html again from the files of a run folder; a refinement does so at its end."""
    with plain_errors():
        print(write_page(run))


@app.command(name="map")
def difference(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="folder of a run with a finished maximum")],
    resolution: Annotated[float | None, typer.Option(help="of the map [Å⁻¹]; that of the data")] = None,
) -> None:
    """Map what the structure lacks: difference.ccp4 in the run folder, peaks here and sections in the report."""
    with plain_errors(run):
        found, peaks = map_run(run, resolution=resolution)
        write_page(run)
        Console().print(peak_table(found, peaks))


@app.command()
def invert(
    structure: Structure,
    out: Annotated[Path, typer.Option(help="CIF of the other hand, to be refined in the same way")],
) -> None:
    """Write the other hand of a structure: inverted positions in the enantiomorphic space group."""
    with plain_errors():
        if out.resolve() == structure.resolve():
            raise InputError(found=f"--out {out} is the input", expected="another file", do="choose another --out")
        crystal = read_crystal(structure, hydrogen=True)
        if is_centrosymmetric(crystal):
            raise InputError(
                found=f"the structure {structure.name} in {crystal.spacegroup} has inversion centres",
                expected="a structure with a hand",
                do="refine the structure as it is, because it is its own inverse",
            )
        inverted = other_hand(crystal)
        write_structure_cif(out, inverted)
        Console().print(f"{crystal.spacegroup} -> {inverted.spacegroup}: {out}", highlight=False, markup=False)


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="folders of finished runs on the same measurements")],
) -> None:
    """Compare finished runs: predictive density left out by measurement and by frame, held out, and the hand.

    The comparison is added to the report of every run.
    """
    with plain_errors():
        if len(runs) < 2:
            raise InputError(found="only one run is named", expected="at least two", do="name the folders to compare")
        read = [read_run(path) for path in runs]
        found = comparison(read)
        Console().print(comparison_report(found))
        both = hands(read)
        for run in read:
            try:
                keep_comparison(run, found, both)
            except (InputError, OSError) as error:  # an archive, or a folder of an older version
                print(f"note: the report of {run.path} stays as it is: {error}", file=sys.stderr)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="run folder; pendel's own files in it are replaced")] = Path("pendel-demo"),
    infer: Annotated[str, typer.Option(help="map, svi, nuts, mclmc or smc")] = "svi",
    seed: Seed = 0,
    progress: Progress = "auto",
) -> None:
    """Refine the embedded example, a synthetic quartz experiment, and compare the result with the truth."""
    with plain_errors(out):
        files = example()
        settings = Settings(infer=infer, seed=seed)
        outcome = _refine_and_print(files.structure, [files.data], out, settings, force=True, progress=progress)
        Console().print(comparison_table(demo_rows(files, outcome.refined)))


def main() -> None:
    """Entry point of `pendel`."""
    if os.environ.get("PENDEL_DEBUG") != "1":
        sys.excepthook = _one_line
    typer.main.get_command(app)()


def _refine_and_print(
    structure: Path, data: list[Path], out: Path, settings: Settings, *, force: bool, progress: str
) -> Outcome:
    with progress_of(progress, Console(stderr=True, quiet=not is_first())) as tell:
        outcome = run_refinement(structure, data, out, settings, force=force, progress=tell)
    errors, console = Console(stderr=True, quiet=not is_first()), Console(quiet=not is_first())
    for note in outcome.notes:
        errors.print(f"note: {note}", highlight=False, markup=False, soft_wrap=True)
    refined = outcome.refined
    table = closing_table(
        outcome.summary,
        refined.crystal,
        fract_su=refined.fract_su,
        u_equivalent_su=refined.u_equivalent_su,
    )
    console.print(table)
    seconds, compiling = outcome.summary["elapsed_s"], outcome.summary["compile_s"]
    console.print(f"{seconds:.0f} s ({compiling:.0f} s compiling); results in {out}", highlight=False, markup=False)
    return outcome


def _one_line(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Unexpected errors: what and how to see more."""
    del trace
    print(f"pendel: {kind.__name__}: {' '.join(str(error).split())} (PENDEL_DEBUG=1 shows where)", file=sys.stderr)
