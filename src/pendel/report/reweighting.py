"""The structure for another prior, for the terminal."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pendel.files.numbers import format_su
from pendel.judge.reweight import Reweighted, changes


def reweighted_table(found: Reweighted) -> RenderableType:
    """Mean(su) of every number of the structure before and after, its shift over the old su, and the ratio of the su.

    Below it stands what the weights are worth.
    """
    table = Table(title="the structure for the other prior")
    for column in ("number", "before", "after", "shift / su", "su ratio"):
        table.add_column(column, justify="left" if column == "number" else "right")
    for before, after in changes(found):
        unit = f" / {before.unit}" if before.unit else ""
        name = before.label if before.site == "fract" else f"{before.label} {before.site}".replace(" U_aniso", "")
        shift, ratio = (after.mean - before.mean) / before.sd, after.sd / before.sd
        numbers = (format_su(one.mean, one.sd, decimals=5, extra=1) for one in (before, after))
        table.add_row(name + unit, *numbers, f"{shift:+.2f}", f"{ratio:.2f}")
    worth = f"Pareto k {found.pareto_k:.2f} (good up to {found.good_k:.2f}); worth {found.draws:.0f} draws"
    return Group(table, Text(worth))
