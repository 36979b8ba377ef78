"""A comparison of runs for the terminal and for the pages of the runs."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pendel.files.cif_facts import write_hand
from pendel.folder.reader import read_run_files
from pendel.folder.run_folder import RunFolder
from pendel.judge.compare import COLUMNS, Hand, Run
from pendel.report.compare_page import write_comparison
from pendel.report.page import write_page


def comparison_report(found: dict[str, list]) -> RenderableType:
    """The comparison of several runs as text for the terminal."""
    table = Table(title="expected log predictive density, measurement by measurement left out")
    for column in found["columns"]:
        justify = "left" if column in COLUMNS[:3] else "right"
        whole = column in ("stage", "elpd", "se")
        table.add_column(column, justify=justify, overflow="fold", no_wrap=whole)  # what is cut off says nothing
    for row in found["rows"]:
        table.add_row(*row)
    return Group(table, *map(Text, found["hands"]))


def keep_comparison(run: Run, found: dict[str, list], compared: Sequence[Hand] = ()) -> None:
    """Note a comparison in the record of a run, its z of the hand in refined.cif, and make its page again."""
    RunFolder(run.path).update(comparison=found)
    seen = [(pair.log_evidence, pair.z) for pair in compared if run.path == pair.first]
    seen += [(-pair.log_evidence, -pair.z) for pair in compared if run.path == pair.second]
    if seen:
        write_hand(run.path / "refined.cif", min(seen)[1])  # against the best fit of the other hand
    write_page(run.path)


def write_side_by_side(path: Path, runs: Sequence[Path], found: dict[str, list] | None) -> None:
    """Write the page that shows the runs in these folders side by side, see `write_comparison`."""
    write_comparison(path, [read_run_files(run) for run in runs], found)
