"""Writing results: whole files or nothing, numbers with their standard uncertainties, the table of reflections."""

import contextlib
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import gemmi
import numpy as np
from jaxtyping import Bool, Float

from pendel.constants import Array, InputError
from pendel.experiment import Experiment

_MAXIMUM_TWO_DIGITS = 19.5  # an uncertainty is written with two digits up to 19, with one above


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a UTF-8 file completely or not at all: to a temporary file beside it, which then takes its name.

    Raises InputError when the place cannot be written (read-only, full, missing folder); an older file then stays.
    """
    with whole_file(path) as temporary, open(temporary, "w", encoding="utf-8", newline="\n") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())


@contextlib.contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary file to write to, which takes the name of `path` at the end; InputError as in `write_text`."""
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, target)
    except (OSError, RuntimeError) as error:  # gemmi's writers raise the second
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            found=f"{target}, which cannot be written ({reason})",
            expected="an existing, writable folder with free space",
            do="choose another place or make room",
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def format_su(value: float, su: float | None = None, *, decimals: int = 6, extra: int = 0) -> str:
    """A number with its standard uncertainty in units of the last digits, as CIF writes it.

    The uncertainty has two digits up to 19 and one above (Schwarzenbach et al. 1995, Acta Cryst. A51, 565, rule of
    19). Without one (None, zero, not finite: a fixed value) the number has `decimals` decimals. extra: digits more.

    >>> format_su(0.85397, 0.00024), format_su(0.6188, 0.0012), format_su(1284.7, 38.0), format_su(-1e-9, 0.0)
    ('0.8540(2)', '0.6188(12)', '1280(40)', '0.000000')
    """
    if su is None or not math.isfinite(su) or su < 10.0 ** -(decimals + 3):
        return f"{value:z.{decimals + extra}f}"
    exponent = math.floor(math.log10(su))  # of the first digit
    places = 1 - exponent if su / 10.0 ** (exponent - 1) < _MAXIMUM_TWO_DIGITS else -exponent
    places += extra
    digits = round(su * 10.0**places)
    if places >= 0:
        return f"{value:.{places}f}({digits})"
    step = 10**-places
    return f"{round(value / step) * step}({digits * step})"


def set_item(block: gemmi.cif.Block, tag: str, value: str) -> None:
    """Set one item of a CIF block, quoted as its text needs."""
    block.set_pair(tag, gemmi.cif.quote(value))


def write_reflections(
    path: str | os.PathLike[str],
    experiments: Sequence[Experiment],
    *,
    mean: Sequence[Float[Array, "reflections"]],
    sd: Sequence[Float[Array, "reflections"]],
    scatter: Sequence[Float[Array, "reflections"]],
    used: Sequence[Bool[Array, "reflections"]] | None = None,
) -> None:
    """CSV of all scored measurements, data set after data set.

    Columns: dataset, frame, h, k, l, i_obs, sigma, i_calc_mean, i_calc_sd, z, weight, used. mean and sd: posterior
    of I_calc, on the scale of the data. scatter: the error model's scale of I_obs about I_calc, so that
    z = (i_obs - i_calc_mean) / scatter. weight: file rows behind the measurement; used: 0 where it was held out.
    """
    lines = ["dataset,frame,h,k,l,i_obs,sigma,i_calc_mean,i_calc_sd,z,weight,used"]
    for index, experiment in enumerate(experiments):
        frames = np.asarray(experiment.frame_id)[experiment.frame_index]
        z = (experiment.intensity - mean[index]) / scatter[index]
        fitted = np.ones(len(frames), dtype=bool) if used is None else used[index]
        reals = np.column_stack([experiment.intensity, experiment.sigma, mean[index], sd[index], z])
        name = experiment.name.replace(",", "_").replace('"', "_")
        for frame, hkl, row, weight, flag in zip(
            frames, np.asarray(experiment.hkl), reals, np.asarray(experiment.weight), np.asarray(fitted), strict=True
        ):
            numbers = ",".join(f"{number:.7g}" for number in row)
            lines.append(f"{name},{frame},{hkl[0]},{hkl[1]},{hkl[2]},{numbers},{weight},{int(flag)}")
    write_text(path, "\n".join(lines) + "\n")
