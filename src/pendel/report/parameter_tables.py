"""Headline, prior against posterior, and influence of measurements, as text for the report."""

from collections.abc import Iterable

import numpy as np

from pendel.files.numbers import format_su
from pendel.files.parameters_csv import Parameter
from pendel.folder.reader import RunFiles
from pendel.judge.headline import Headline
from pendel.judge.influence import influences

TWINS = ("displacement", "log_strain", "logit_occupancy")  # say the same as coordinates, U_ij and occupancies

type Rows = list[dict[str, str]]


def headline_rows(found: Headline) -> list[tuple[str, str]]:
    """What is measured, and its value, in the order of a headline."""
    rows = [("R_obs", percent(found.r_obs)), ("held-out R_obs", percent(found.r_heldout) or "nothing held out")]
    su = "nothing refined" if found.position_su is None else f"{found.position_su:.1f} mÅ"
    rows.append(("mean su of positions", su))
    for one in found.thickness:
        name = f"thickness of {one.data_set}" if len(found.thickness) > 1 else "mean thickness, 95 %"
        rows.append((name, f"{one.mean:.0f} Å ({one.low:.0f} to {one.high:.0f})"))
    return rows


def percent(value: float | None) -> str:
    """A fraction in percent, empty for None."""
    return "" if value is None else f"{100 * value:.2f} %"


def prior_tables(parameters: Iterable[Parameter]) -> dict[str, Rows]:
    """Prior against posterior: `model` (of no frame), `structure`, and `frames`, where a row sums up many frames."""
    known = [one for one in parameters if one.site not in TWINS]
    return {
        "model": [_row(one) for one in known if not one.is_structure and not one.is_of_frame],
        "structure": [_row(one) for one in known if one.is_structure and one.is_refined],
        "frames": _frame_rows([one for one in known if one.is_of_frame]),
    }


def influence_rows(run: RunFiles) -> Rows:
    """The measurements that move a coordinate most when they are left out."""
    return [
        {
            "measurement": one.hkl if len(run.data) == 1 else f"{one.hkl} of {run.data[one.data_set].name}",
            "intensity": f"{one.intensity:.4g}",
            "strength": f"{one.intensity / one.sigma:.1f}",
            "moves": one.label,
            "shift": f"{one.shift:+.2f}",
            "noise": f"{one.noise:.2f}",
        }
        for one in influences(run.tree)
    ]


def _row(one: Parameter) -> dict[str, str]:
    unit = f" / {one.unit}" if one.unit else ""
    row = {"parameter": f"{one.site} {one.label}".strip() + unit, "data_set": one.data_set}
    row |= {"prior": _number(one.prior_mean, one.prior_sd), "posterior": _number(one.mean, one.sd), "ratio": "fixed"}
    if one.is_refined:
        row["ratio"] = "" if one.sd_over_prior is None else f"{one.sd_over_prior:.2g}"
    return row


def _number(mean: float | None, sd: float | None) -> str:
    if mean is None:
        return ""
    return format_su(mean, sd, decimals=4)


def _frame_rows(numbers: list[Parameter]) -> Rows:
    """One row for each kind of number: how many, range of the means, and medians of the standard deviations."""
    rows: Rows = []
    for site in dict.fromkeys(one.site for one in numbers):
        every = [one for one in numbers if one.site == site]
        refined = [one for one in every if one.is_refined]
        means = [one.mean for one in every]
        ratios = [one.sd_over_prior for one in refined if one.sd_over_prior is not None]
        unit = f" / {every[0].unit}" if every[0].unit else ""
        row = {"parameter": f"{site}{unit}", "data_set": every[0].data_set, "count": str(len(every))}
        row |= {"means": f"{min(means):.4g} to {max(means):.4g}"}
        row |= {"sd": f"{np.median([one.sd for one in refined]):.2g}" if refined else "fixed"}
        row |= {"ratio": f"{np.median(ratios):.2g}" if ratios else ""}
        rows.append(row)
    return rows
