"""report.html: one self-contained page made from the run folder alone."""

import json
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from pendel.base import Array
from pendel.files.whole_file import write_text
from pendel.folder.reader import Measured, RunFiles, read_run_files
from pendel.judge.frames import frame_rows
from pendel.judge.headline import headline
from pendel.judge.loo import left_out_ranks
from pendel.judge.parameters import parameter_facts
from pendel.judge.verdicts import verdicts
from pendel.report import figures_fit as fit_figures
from pendel.report import figures_map as map_figures
from pendel.report import figures_sampling as sampling_figures
from pendel.report import figures_structure as structure_figures
from pendel.report import figures_thickness as thickness_figures
from pendel.report import parameter_tables, structure_tables
from pendel.report.style import as_svg, drawing

PAGE = "report.html"
CHAINS = ("nuts", "mclmc")


def write_page(folder: Path) -> Path:
    """Write report.html into a run folder from the files there, and return its path.

    Raises InputError when the folder has no finished stage, or cannot be written.
    """
    run = read_run_files(folder)
    path = folder / PAGE
    write_text(path, page(run))
    return path


def page(run: RunFiles) -> str:
    """The page as HTML; every text that comes from files is escaped."""
    judged = verdicts(run)
    conclusion = headline(run, judged)
    with drawing():
        coordinates = structure_tables.coordinate_rows(run)
        bonds, angles = structure_tables.bond_rows(run)
        content = {
            "title": f"{_name(run)}: {run.summary['model']}, {run.summary['stage']}",
            "headline": parameter_tables.headline_rows(conclusion),
            "failed": conclusion.failed,
            "doubted": conclusion.doubted,
            "verdicts": judged,
            "card": dict(run_card(run)),
            "story": run.record.get("derived", {}).get("model_story"),
            "structure": with_captions("structure", _structure(run)),
            "chains": run.summary["stage"] in CHAINS,
            "sites": structure_tables.site_rows(coordinates),
            "coordinates": coordinates,
            "bonds": bonds,
            "angles": angles,
            "hydrogen_bonds": structure_tables.hydrogen_bond_rows(run),
            "rigid_bonds": structure_tables.rigid_bond_rows(run),
            "restraints": structure_tables.restraint_rows(run),
            "ellipsoids": structure_tables.ellipsoid_rows(run),
            "cell": run.crystal,
            "priors": parameter_tables.prior_tables(parameter_facts(run.tree)),
            "influence": parameter_tables.influence_rows(run),
            "data": [_data_content(run, data, number) for number, data in enumerate(run.data)],
            "difference": run.difference,
            "sections": with_captions("difference", _sections(run)),
            "peaks": structure_tables.peak_rows(run),
            "sampling": with_captions("sampling", _sampling(run)),
            "sd_over_laplace": run.summary.get("sd_over_laplace"),
            "comparison": run.record.get("comparison"),
            "glossary": json.loads(_text("glossary.json")),
        }
    return rendered("page.html", content)


def rendered(name: str, content: dict[str, Any]) -> str:
    """A template of the report with its content, which is escaped, and the style sheet of all pages."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_text(name)).render(**content, style=Markup(_text("page.css")))


def _text(name: str) -> str:
    """A file that the page is made of: template, style sheet, or glossary (name, formula, how to read it)."""
    return resources.files("pendel").joinpath("data/report", name).read_text(encoding="utf-8")


def with_captions(section: str, drawn: Iterator[tuple[str, Figure]]) -> list[dict[str, Any]]:
    """Captions and SVG elements of a section's figures; nothing in one SVG has the name of something in another."""
    return [
        {"caption": caption, "svg": Markup(as_svg(figure, name=f"{section}-{number}", description=caption))}
        for number, (caption, figure) in enumerate(drawn)
    ]


def run_card(run: RunFiles) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Tables of what was run: inputs, measurements, settings, simulation, versions and times."""
    record, summary = run.record, run.summary
    yield (
        "inputs",
        [
            (role, f"{Path(entry['path']).name}  (SHA-256 {entry['sha256'][:16]}…)")
            for role, entry in record["inputs"].items()
        ],
    )
    counts = [
        (data.name, f"{int(data.weight.sum())} rows stand behind {len(data.z)} scored measurements")
        for data in run.data
    ]
    counts.append(("observed (I > 3σ)", str(summary["n_observed"])))
    counts.append(("by rule klar", f"{summary['n_scored_klar']}, {summary['n_observed_klar']} of them observed"))
    if summary.get("n_heldout"):
        counts.append(("held out", f"{summary['n_heldout']}, {summary['n_observed_heldout']} of them observed"))
    yield "measurements", counts
    derived = record.get("derived", {})
    plan = {name: value for name, value in derived.get("plan", {}).items() if name != "groups"}
    settings = []
    for name, value in record["settings"].items():
        if value is None and plan.get(name) is not None:
            settings.append((name, f"{plan[name]:g} (derived from the data)"))
        elif value is None:
            settings.append((name, "default of the model or the data"))
        else:
            settings.append((name, f"{value} (default)" if value == record["defaults"].get(name) else str(value)))
    yield "settings", settings
    for name in (name for name in derived if name.startswith("plan")):
        yield f"simulation{name.removeprefix('plan').replace('_', ' of crystal ')}", _simulation(derived[name])
    yield (
        "notes of the readers",
        [(str(number + 1), note["text"]) for number, note in enumerate(derived.get("notes", []))],
    )
    versions = [(name, str(value)) for name, value in record["versions"].items()]
    yield "versions", [*versions, ("code SHA-256", record["code_sha256"][:16] + "…"), ("seed", str(record["seed"]))]
    times = [
        (stage, f"{entry['seconds']:.0f} s, done {entry['finished']}")
        for stage, entry in record["stages"].items()
        if entry["key"] == record["keys"].get(stage)
    ]
    total = f"{summary['elapsed_s']:.0f} s, {summary['compile_s']:.0f} s of it compiling"
    yield "times", [*times, ("all", total), ("devices", str(record.get("devices", "not recorded")))]


def _simulation(plan: dict[str, Any]) -> list[tuple[str, str]]:
    beams = ", ".join(
        f"{g['segments']} × {g['beams']}" + (f" with {g['folded_beams']} folded in" if g.get("folded_beams") else "")
        for g in plan.get("groups", [])
    )
    rest = {name: value for name, value in plan.items() if name != "groups"}
    numbers = [(name, f"{value:g}" if isinstance(value, float) else str(value)) for name, value in rest.items()]
    return [("segments × beams", beams), *numbers]


def _name(run: RunFiles) -> str:
    return Path(run.record["inputs"]["structure"]["path"]).stem


def _structure(run: RunFiles) -> Iterator[tuple[str, Figure]]:
    bonded = structure_tables.longest_bonds(run.crystal)
    for along in range(3):
        caption = f"the cell along {'abc'[along]}; ellipsoids hold an atom with probability 1/2"
        yield caption, structure_figures.cell_picture(run.crystal, along, bonded)


def _data_content(run: RunFiles, data: Measured, number: int) -> dict[str, Any]:
    basins = run.record.get("derived", {}).get("thickness_basins_angstrom", []) if number == 0 else []
    return {
        "name": data.name,
        "thickness": with_captions(f"thickness-{number}", _thickness(data, basins)),
        "frames": with_captions(f"frames-{number}", _frames(data)),
        "frame_rows": frame_rows(data),
        "fit": with_captions(f"fit-{number}", _fit(data, left_out_ranks(run.tree)[number])),
        "rocking": with_captions(f"rocking-{number}", _rocking(data)),
        "thinned": len(data.z) > fit_figures.MOST_POINTS,
    }


def _thickness(data: Measured, basins) -> Iterator[tuple[str, Figure]]:
    if "thickness" in data.of_frames:
        yield "mean thickness along the angle, with half and 95 % of the draws", thickness_figures.ribbon(data)
        yield "posterior density of the mean thickness, frame by frame", thickness_figures.heat_map(data)
    if len(basins) > 1:
        yield "thickness basins that the scan for start values found", thickness_figures.basins(basins)


def _frames(data: Measured) -> Iterator[tuple[str, Figure]]:
    caption = "R_obs of every frame; the larger the circle, the more observed reflections; dashed: mean"
    yield caption, thickness_figures.frame_agreement(data)
    captions = {
        "scale": "scale of every frame over the mean",
        "tilt": "tilt of every frame from the file's orientation",
    }
    for name, figure in thickness_figures.frame_parameters(data).items():
        yield captions[name], figure


def _fit(data: Measured, ranks: Array) -> Iterator[tuple[str, Figure]]:
    yield (
        "observed against calculated intensities, with sigma and posterior deviation",
        (fit_figures.observed_against_calculated(data)),
    )
    captions = {
        "resolution": "z against resolution",
        "strength": "z against strength",
        "excitation": "z against distance from the Bragg condition",
        "frame": "z against the goniometer angle",
    }
    for name, figure in fit_figures.residuals(data).items():
        yield f"{captions[name]}; line: mean of eight groups; triangles: held out", figure
    yield "quantiles of z against those of a normal distribution", fit_figures.quantiles(data)
    yield (
        "probability integral transform of I_obs, leaving it out (LOO-PIT); band: 95 % for a right model",
        fit_figures.probability_integral(ranks),
    )


def _rocking(data: Measured) -> Iterator[tuple[str, Figure]]:
    for row in dict.fromkeys(data.curve_measurement.tolist()):
        frame = data.frame_id[data.frame[row]]
        yield f"rocking curve of {data.hkl[row]} in frame {frame}, with 95 % band", fit_figures.rocking(data, row)


def _sections(run: RunFiles) -> Iterator[tuple[str, Figure]]:
    if run.difference is not None:
        for number, plane in enumerate(run.difference["sections"]):
            yield (
                f"section {number + 1} of 3 through the highest peak",
                map_figures.section(plane, run.difference["rms"]),
            )


def _sampling(run: RunFiles) -> Iterator[tuple[str, Figure]]:
    stage = run.summary["stage"]
    if stage in CHAINS:
        yield "effective samples of every number; line: 400", sampling_figures.effective_samples(run.tree)
        if stage == "nuts":
            yield "energy of the chains and its change", sampling_figures.energies(run.tree)
        for name, index in sampling_figures.traced_numbers(run.tree):
            label = sampling_figures.label(name, index)
            yield f"ranks of {label}, chain by chain", sampling_figures.ranks(run.tree, name, index)
            yield f"trace of {label}", sampling_figures.trace(run.tree, name, index)
    if "svi_data" in run.tree.children:
        yield "loss of the guide", sampling_figures.losses(run.tree["svi_data"]["loss"].values)
    if "laplace" in run.tree.children:
        yield f"uncertainties: {stage} over Laplace; band: 0.8 to 1.25", sampling_figures.uncertainties(run.tree, stage)
