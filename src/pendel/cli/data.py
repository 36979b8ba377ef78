"""`pendel data`: published data sets, and measurements that stand inside a published CIF."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pendel.cli.errors import plain_errors
from pendel.cli.options import option

if TYPE_CHECKING:
    from pendel.datasets import DataSet

data_app = typer.Typer(help="Published data: list them, fetch them, extract them from a CIF.", no_args_is_help=True)


@data_app.command("list")
def list_datasets() -> None:
    """Name, description, files, source and licence of every data set."""
    from pendel.datasets import published_datasets

    for dataset in published_datasets().values():
        print(described(dataset))


@data_app.command("fetch")
def fetch_dataset(
    name: Annotated[str, typer.Argument(metavar="NAME", help="a name that `pendel data list` shows")],
    to: Annotated[Path | None, option("folder; NAME in the current folder when not given")] = None,
) -> None:
    """Put the files of a data set into a folder; every file must have its recorded SHA-256."""
    from pendel.datasets import fetch, find_dataset, published_datasets

    with plain_errors():
        dataset = find_dataset(name, published_datasets())
        for file in fetch(dataset, to if to is not None else Path(name)):
            print(f"{file.path} ({'new' if file.is_new else 'was there'})")
        print(f"source: {dataset.source}; licence: {dataset.licence}")


@data_app.command("extract")
def extract_dataset(
    cif: Annotated[Path, typer.Argument(metavar="FILE.cif", help="CIF of Jana2020 with embedded data")],
    out: Annotated[Path, typer.Argument(metavar="OUT.cif_pets", help="the file to write")],
    block: Annotated[str | None, option("name or number of the data block, where several have data")] = None,
    geometry: Annotated[str | None, option("rotation or precession, where the CIF does not say it")] = None,
) -> None:
    """Write the frames and intensities that Jana2020 embedded in a CIF as a .cif_pets file."""
    from pendel.files.jana import extract_pets

    with plain_errors():
        experiment = extract_pets(cif, out, block=block, geometry=geometry)
        for note in experiment.notes:
            print(f"note: {note}")
        print(f"{len(experiment.hkl)} rows on {len(experiment.frame_id)} frames in {out}")


def described(dataset: "DataSet") -> str:
    """A paragraph on a data set for the terminal."""
    lines = {
        "files": ", ".join(file.name for file in dataset.files),
        "source": dataset.source,
        "licence": dataset.licence,
        "doi": dataset.doi,
    }
    told = [f"    {name}: {text}" for name, text in lines.items() if text]
    return "\n".join([f"{dataset.name}: {dataset.description}", *told])
