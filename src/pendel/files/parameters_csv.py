"""The table of parameters that a run leaves."""

import dataclasses
import os
from collections.abc import Sequence

from pendel.files.csv_table import write_table

COLUMNS = (
    *("parameter", "label", "data_set", "unit", "status", "mean", "sd", "q2.5", "q97.5"),
    *("prior_mean", "prior_sd", "sd_over_prior"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parameter:
    """One number of the posterior.

    `site`: its name in posterior.nc; `label`: which number of the site, e.g. "O1 x" or "frame 12"; `data_set`: the
    name, where the number belongs to one; `low`, `high`: 2.5 % and 97.5 % quantiles; `is_structure`: a coordinate, U_ij
    or occupancy of an atom; `is_of_frame`: one of many of its kind, one for each frame or reflection. `prior_mean` and
    `prior_sd` are None where no draw of the prior has the number.
    """

    site: str
    label: str
    data_set: str
    unit: str
    is_refined: bool
    is_structure: bool
    is_of_frame: bool
    mean: float
    sd: float
    low: float
    high: float
    prior_mean: float | None = None
    prior_sd: float | None = None

    @property
    def sd_over_prior(self) -> float | None:
        """Posterior over prior standard deviation: near 1 the data say nothing; None for a fixed number."""
        return self.sd / self.prior_sd if self.prior_sd and self.is_refined else None


def write_parameters(path: str | os.PathLike[str], parameters: Sequence[Parameter]) -> None:
    """CSV with a row for each parameter; `status` is refined or fixed, numbers have seven digits.

    The file is replaced whole. Raises InputError when it cannot be written.
    """
    rows = [
        [
            *(one.site, one.label, one.data_set, one.unit, "refined" if one.is_refined else "fixed"),
            *(one.mean, one.sd, one.low, one.high, one.prior_mean, one.prior_sd, one.sd_over_prior),
        ]
        for one in parameters
    ]
    write_table(path, COLUMNS, rows)
