"""The command line. Exit codes: 0 done, 2 bad input or an output that cannot be written, 1 everything else.

Every command imports what it needs when it runs, so that help and slips of the user are answered at once.
"""

import dataclasses
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from pendel.check.imperfections import SG_MAX, Imperfections
from pendel.cli.data import data_app
from pendel.cli.errors import one_line, plain_errors
from pendel.cli.options import option, with_options
from pendel.cli.progress import progress_of
from pendel.failures import InputError
from pendel.run.settings import Settings

if TYPE_CHECKING:
    from pendel.refinement import Outcome

QUICK_DEMO: dict[str, Any] = {"infer": "map", "frames": "::5", "g_max": 1.2, "sg_max": 0.01, "tilts": 21}

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
Progress = Annotated[str, option("auto, quiet, or json: one object a line on standard error")]


@app.callback(invoke_without_command=True)
def pendel(version: Annotated[bool, option("the version of pendel", "--version")] = False) -> None:
    """Refine crystal structures against electron diffraction, with posteriors."""
    if version:
        print(f"pendel {metadata.version('pendel')}")
        raise typer.Exit


@app.command()
@with_options("refine")
def refine(
    structure: Structure,
    data: Data,
    out: Annotated[Path, option("run folder")],
    settings: Settings,
    force: Annotated[bool, option("overwrite a run in the folder", "--force")] = False,
    distributed: Annotated[bool, option("one of several processes, see docs", "--distributed")] = False,
    progress: Progress = "auto",
) -> None:
    """Refine a structure: start values, MAP with Laplace uncertainties, then SVI or Markov chains."""
    from pendel.run.processes import join_processes

    with plain_errors(out):
        if distributed:
            join_processes()
        _refine_and_print(structure, data, out, settings, force=force, progress=progress)


@app.command()
@with_options("check")
def check(
    structure: Structure,
    data: Data,
    settings: Settings,
    converge: Annotated[bool, option("try more tilts and beams on a few frames", "--converge")] = False,
) -> None:
    """Read and check the files; say what a refinement with these options would use and cost. Writes nothing."""
    from pendel.check.beam_error import beam_error_line, measured_beam_error
    from pendel.check.converge import convergence, convergence_report, plan_settings
    from pendel.check.sanity import sanity_report
    from pendel.model.load import load_model
    from pendel.model.load import with_options as model_with
    from pendel.run.inputs import read_problem
    from pendel.run.plans import bounded, first_plans, trial_target

    with plain_errors(), _compile_cache():
        model = model_with(load_model(settings.model), **settings.model_options())
        problem = read_problem(structure, data, settings)
        plans = bounded(problem, settings, first_plans(problem, settings, model))
        trial_target(problem, model, plans)
        Console(markup=False).print(sanity_report(problem, plans, settings, model))
        for experiment, plan in zip(problem.experiments, plans, strict=True):
            Console(markup=False).print(beam_error_line(measured_beam_error(problem.crystal, experiment, plan)))
            if converge:
                trials = convergence(problem.crystal, experiment, plan)
                Console(markup=False).print(convergence_report(trials, plan_settings(plan)))


@app.command()
@with_options("simulate", sg_max=SG_MAX)
def simulate(
    structure: Structure,
    data: OneData,
    out: Annotated[Path, option("the .cif_pets file to write")],
    imperfections: Imperfections,
    settings: Settings,
) -> None:
    """Write a synthetic experiment: frames and reflections of DATA, intensities of STRUCTURE, the truth inside."""
    from pendel.check.synthetic import simulate_files

    with plain_errors(), _compile_cache():
        experiment = simulate_files(structure, data, out, settings, imperfections).experiment
        print(f"{len(experiment.intensity)} measurements on {len(experiment.frame_id)} frames in {out}")


@app.command()
def report(run: Annotated[Path, typer.Argument(metavar="RUN", help="folder of a run with a finished stage")]) -> None:
    """Write report.html again from the files of a run folder; a refinement does so at its end."""
    from pendel.report.page import write_page

    with plain_errors():
        print(write_page(run))


@app.command(name="map")
def difference(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="folder of a run with a finished maximum")],
    resolution: Annotated[float | None, option("of the map [Å⁻¹]; that of the data")] = None,
) -> None:
    """Map what the structure lacks: difference.ccp4 in the run folder, peaks here and sections in the report."""
    from pendel.maps.run_map import map_run, peak_table
    from pendel.report.page import write_page

    with plain_errors(run), _compile_cache():
        found, peaks = map_run(run, resolution=resolution)
        write_page(run)
        Console(markup=False).print(peak_table(found, peaks))


@app.command()
@with_options("invert")
def invert(
    structure: Structure,
    out: Annotated[Path, option("CIF of the other hand, to be refined in the same way")],
    settings: Settings,
) -> None:
    """Write the other hand of a structure: inverted positions in the enantiomorphic space group."""
    from pendel.crystal.hand import invert as other_hand
    from pendel.crystal.structure import is_centrosymmetric
    from pendel.files.cif import read_crystal
    from pendel.files.structure_cif import write_structure_cif

    with plain_errors():
        if out.resolve() == structure.resolve():
            raise InputError(found=f"--out {out} is the input", expected="another file", do="choose another --out")
        crystal = read_crystal(structure, block=settings.block, hydrogen=True)
        if is_centrosymmetric(crystal):
            raise InputError(
                found=f"the structure {structure.name} in {crystal.spacegroup} has inversion centres",
                expected="a structure with a hand",
                do="refine the structure as it is, because it is its own inverse",
            )
        inverted = other_hand(crystal)
        write_structure_cif(out, inverted)
        Console(markup=False).print(
            f"{crystal.spacegroup} -> {inverted.spacegroup}: {out}", highlight=False, markup=False
        )


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="folders of finished runs on the same measurements")],
    html: Annotated[Path | None, option("also write a page with the runs side by side, of other crystals, too")] = None,
) -> None:
    """Compare finished runs: predictive density left out by measurement and by frame, held out, and the hand.

    The comparison is added to the report of every run.
    """
    from pendel.judge.compare import comparison, hands, have_same_measurements, read_run
    from pendel.report.comparison import comparison_report, keep_comparison, write_side_by_side

    with plain_errors():
        if len(runs) < 2:
            raise InputError(found="only one run is named", expected="at least two", do="name the folders to compare")
        read = [read_run(path) for path in runs]
        is_page_alone = html is not None and not have_same_measurements(read)
        found = None if is_page_alone else comparison(read)
        if html is not None:
            write_side_by_side(html, runs, found)
            print(html)
        if found is None:
            return
        Console(markup=False).print(comparison_report(found))
        both = hands(read)
        for run in read:
            try:
                keep_comparison(run, found, both)
            except (InputError, OSError) as error:  # an archive, or a folder of an older version
                print(f"note: the report of {run.path} stays as it is: {error}", file=sys.stderr)


@app.command()
def reweight(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="folder of a run with a finished stage")],
    prior: Annotated[
        list[str], option("SITE=FAMILY(numbers), e.g. 'displacement=Normal(0, 0.1)'; for several sites again")
    ],
    out: Annotated[Path | None, option("also write all parameters as CSV")] = None,
) -> None:
    """Show the structure of a finished run for another prior of some sites, without a refit.

    The command refuses where the draws are too few for it.
    """
    from pendel.files.parameters_csv import write_parameters
    from pendel.folder.reader import read_run_files
    from pendel.judge.reweight import reweighted
    from pendel.report.reweighting import reweighted_table

    with plain_errors():
        found = reweighted(read_run_files(run).tree, prior)
        if out is not None:
            write_parameters(out, found.after)
        Console(markup=False).print(reweighted_table(found))


@app.command()
@with_options("demo")
def demo(
    settings: Settings,
    out: Annotated[Path, option("run folder; pendel's own files in it are replaced")] = Path("pendel-demo"),
    quick: Annotated[bool, option("six of the thirty frames, fewer beams, the maximum alone", "--quick")] = False,
    progress: Progress = "auto",
) -> None:
    """Refine the embedded example, a synthetic quartz experiment, and compare the result with the truth."""
    from pendel.check.truth import demo_rows
    from pendel.datasets import example
    from pendel.report.tables import comparison_table

    with plain_errors(out):
        files = example()
        if quick:
            settings = dataclasses.replace(settings, **QUICK_DEMO)
        outcome = _refine_and_print(files.structure, [files.data], out, settings, force=True, progress=progress)
        Console(markup=False).print(comparison_table(demo_rows(files.structure, files.data, outcome.refined)))


def main() -> None:
    """Entry point of `pendel`."""
    if os.environ.get("PENDEL_DEBUG") != "1":
        sys.excepthook = one_line
    typer.main.get_command(app)()


def _refine_and_print(
    structure: Path, data: list[Path], out: Path, settings: Settings, *, force: bool, progress: str
) -> "Outcome":
    from pendel.folder.reader import read_run_files
    from pendel.judge.headline import headline
    from pendel.refinement import refine as run_refinement
    from pendel.report.tables import closing_table
    from pendel.run.processes import is_first

    with progress_of(progress, Console(stderr=True, quiet=not is_first(), markup=False)) as tell:
        outcome = run_refinement(structure, data, out, settings, force=force, progress=tell)
    errors, console = (
        Console(stderr=True, quiet=not is_first(), markup=False),
        Console(quiet=not is_first(), markup=False),
    )
    for note in outcome.notes:
        errors.print(f"note: {note}", highlight=False, markup=False, soft_wrap=True)
    console.print(closing_table(outcome.summary, outcome.refined))
    seconds, compiling = outcome.summary["elapsed_s"], outcome.summary["compile_s"]
    text = f"{seconds:.0f} s ({compiling:.0f} s compiling); results in {out}, report.html first"
    console.print(text, highlight=False, markup=False)
    if is_first():
        judged = headline(read_run_files(out))
        for what, found in (("failed", judged.failed), ("to distrust", judged.doubted)):
            if found:
                console.print(f"{what}: {'; '.join(found)}", highlight=False, markup=False, soft_wrap=True)
    return outcome


@contextmanager
def _compile_cache() -> Iterator[None]:
    """Compiled programs are kept between commands, too; a refinement sees to it by itself."""
    from pendel.run.compile_cache import compile_cache

    with compile_cache() as notes:
        for note in notes:
            Console(stderr=True).print(f"note: {note}", highlight=False, markup=False, soft_wrap=True)
        yield
